//! Reads the gateway's HTTP surface: GET over TCP or over the admin socket, Prometheus text.
//! Rules: HTTP/1.1 with `Connection: close`; whole answers in memory (they are small).
//! Errors: `None` when nobody answers; panics where the answer is no HTTP.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Status and body of an answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// Body.
    pub body: String,
}

const PATIENCE: Duration = Duration::from_secs(10);

/// One request over TCP. `host` is the Host header.
#[must_use]
pub fn request(at: SocketAddr, host: &str, method: &str, path: &str, body: &str) -> Option<Response> {
    let mut stream = TcpStream::connect_timeout(&at, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    exchange(&mut stream, host, method, path, body)
}

/// GET over TCP.
#[must_use]
pub fn get(at: SocketAddr, path: &str) -> Option<Response> {
    request(at, &at.to_string(), "GET", path, "")
}

/// One request over a Unix socket.
#[must_use]
pub fn request_socket(socket: &Path, method: &str, path: &str, body: &str) -> Option<Response> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    exchange(&mut stream, "localhost", method, path, body)
}

fn exchange(stream: &mut (impl Read + Write), host: &str, method: &str, path: &str, body: &str) -> Option<Response> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body.as_bytes()).ok()?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok()?;
    let split = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..split]).into_owned();
    let status = head.split_whitespace().nth(1)?.parse().expect("an HTTP status");
    let raw = &bytes[split + 4..];
    let body = if head.to_ascii_lowercase().contains("transfer-encoding: chunked") { unchunk(raw) } else { raw.to_vec() };
    Some(Response { status, body: String::from_utf8_lossy(&body).into_owned() })
}

fn unchunk(mut raw: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(line) = raw.windows(2).position(|w| w == b"\r\n") {
        let size = usize::from_str_radix(String::from_utf8_lossy(&raw[..line]).trim(), 16).unwrap_or(0);
        if size == 0 || raw.len() < line + 2 + size {
            break;
        }
        body.extend_from_slice(&raw[line + 2..line + 2 + size]);
        raw = &raw[(line + 4 + size).min(raw.len())..];
    }
    body
}

/// The value of a sample whose labels contain all of `labels`; several samples are added up. `None` if there is none.
#[must_use]
pub fn sample(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let mut sum = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some(rest) = line.strip_prefix(name) else { continue };
        let (set, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.split_once('}').unwrap_or(("", rest)),
            None if rest.starts_with(' ') => ("", rest),
            None => continue,
        };
        if labels.iter().all(|(key, wanted)| set.contains(&format!("{key}=\"{wanted}\""))) {
            let value: f64 = value.trim().parse().unwrap_or_else(|_| panic!("no number: {line}"));
            *sum.get_or_insert(0.0) += value;
        }
    }
    sum
}
