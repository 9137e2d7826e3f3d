//! Pieces of configuration, as text: what most tests need, with waits short enough for a test.
//! Rules: text only; the gateway under test reads it as it reads an operator's.
//! Errors: none.

use std::fmt::Write;
use std::net::SocketAddr;

/// Short waits for every destination of a test: retries, health and hold-down in fractions of a second.
pub const QUICK: &str = "retry = { first = \"50ms\", max = \"400ms\" }\nconnect_timeout = \"1s\"\nhold_down = \"1s\"\n";
/// A quick health check.
pub const QUICK_HEALTH: &str = "interval = \"200ms\", timeout = \"500ms\", fall = 2, rise = 2";

/// An MLLP listener on loopback. `more`: further keys.
#[must_use]
pub fn mllp_listener(name: &str, port: u16, more: &str) -> String {
    format!("[[listener]]\nname = \"{name}\"\nprotocol = \"mllp\"\nbind = \"127.0.0.1:{port}\"\n{more}\n")
}

/// A DICOM listener on loopback, AE title EVERPOST.
#[must_use]
pub fn dicom_listener(name: &str, port: u16, more: &str) -> String {
    let title = if more.contains("ae_title") { "" } else { "ae_title = \"EVERPOST\"\n" };
    format!("[[listener]]\nname = \"{name}\"\nprotocol = \"dicom\"\nbind = \"127.0.0.1:{port}\"\n{title}{more}\n")
}

/// An MLLP destination with quick waits. `more`: further keys (those given there are not repeated).
#[must_use]
pub fn mllp_destination(name: &str, more: &str, endpoints: &[(&str, SocketAddr)]) -> String {
    let mut text = destination(name, "mllp", "tcp", more);
    for (endpoint, at) in endpoints {
        let _ = write!(text, "[[destination.endpoint]]\nname = \"{endpoint}\"\naddress = \"{at}\"\n");
    }
    text
}

/// A DICOM destination with quick waits; each endpoint's AE title is its name in capitals.
#[must_use]
pub fn dicom_destination(name: &str, more: &str, endpoints: &[(&str, SocketAddr)]) -> String {
    let mut text = destination(name, "dicom", "dicom-echo", more);
    for (endpoint, at) in endpoints {
        let title = endpoint.to_uppercase();
        let _ = write!(text, "[[destination.endpoint]]\nname = \"{endpoint}\"\naddress = \"{at}\"\nae_title = \"{title}\"\n");
    }
    text
}

fn destination(name: &str, protocol: &str, probe: &str, more: &str) -> String {
    let given = |key: &str| more.lines().any(|line| line.trim_start().starts_with(key));
    let mut text = format!("[[destination]]\nname = \"{name}\"\nprotocol = \"{protocol}\"\n");
    for line in QUICK.lines() {
        if !given(line.split(' ').next().unwrap_or_default()) {
            let _ = writeln!(text, "{line}");
        }
    }
    if !given("health") {
        let _ = writeln!(text, "health = {{ probe = \"{probe}\", {QUICK_HEALTH} }}");
    }
    let _ = writeln!(text, "{more}");
    text
}

/// A route.
#[must_use]
pub fn route(from: &str, to: &[&str], more: &str) -> String {
    let list: Vec<String> = to.iter().map(|name| format!("\"{name}\"")).collect();
    format!("[[route]]\nfrom = [\"{from}\"]\nto = [{}]\n{more}\n", list.join(", "))
}
