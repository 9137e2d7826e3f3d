//! A gateway process under measurement, and what the system says of it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A free port on loopback.
pub fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The binary: `EVERPOST`, else the release build.
fn binary() -> PathBuf {
    std::env::var_os("EVERPOST").map_or_else(|| PathBuf::from("target/release/everpost"), PathBuf::from)
}

/// A running gateway.
pub struct Gateway {
    child: Child,
    /// MLLP listener.
    pub mllp: u16,
    /// DICOM listener.
    pub dicom: u16,
    admin: u16,
    config: PathBuf,
    /// Seconds from start to ready.
    pub ready_after: f64,
}

impl Gateway {
    /// Starts on `folder`; a destination port of 1 means: nobody there, everything waits.
    pub fn start(folder: &Path, mllp_to: u16, dicom_to: u16) -> Self {
        let (mllp, dicom, admin) = (port(), port(), port());
        std::fs::create_dir_all(folder).unwrap();
        let config = folder.join("everpost.toml");
        let text = format!(
            r#"
name = "bench"
data_dir = "{data}"
[admin]
bind = "127.0.0.1:{admin}"
[[listener]]
name = "in"
protocol = "mllp"
bind = "127.0.0.1:{mllp}"
[[listener]]
name = "images"
protocol = "dicom"
bind = "127.0.0.1:{dicom}"
ae_title = "EVERPOST"
[[destination]]
name = "ris"
protocol = "mllp"
  [[destination.endpoint]]
  name = "primary"
  address = "127.0.0.1:{mllp_to}"
[[destination]]
name = "pacs"
protocol = "dicom"
  [[destination.endpoint]]
  name = "primary"
  address = "127.0.0.1:{dicom_to}"
  ae_title = "PACS"
[[route]]
from = ["in"]
to = ["ris"]
[[route]]
from = ["images"]
to = ["pacs"]
"#,
            data = folder.join("data").display()
        );
        std::fs::write(&config, text).unwrap();
        Self::again(config, mllp, dicom, admin)
    }

    /// Starts on `folder` with nothing but these destinations, which get no messages.
    pub fn idle(folder: &Path, destinations: &str) -> Self {
        let (mllp, admin) = (port(), port());
        std::fs::create_dir_all(folder).unwrap();
        let config = folder.join("everpost.toml");
        let data = folder.join("data");
        let head = format!("name = \"bench\"\ndata_dir = \"{}\"\n[admin]\nbind = \"127.0.0.1:{admin}\"\n", data.display());
        let listener = format!("[[listener]]\nname = \"in\"\nprotocol = \"mllp\"\nbind = \"127.0.0.1:{mllp}\"\n");
        std::fs::write(&config, head + &listener + destinations).unwrap();
        Self::again(config, mllp, 0, admin)
    }

    fn again(config: PathBuf, mllp: u16, dicom: u16, admin: u16) -> Self {
        let begin = Instant::now();
        let log = std::fs::File::create(config.with_extension("log")).unwrap();
        let child =
            Command::new(binary()).args(["run", "--config"]).arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut this = Self { child, mllp, dicom, admin, config, ready_after: 0.0 };
        while !this.get("/readyz").starts_with("HTTP/1.1 200") {
            assert!(begin.elapsed() < Duration::from_secs(120), "not ready after 120 s; log: {}", this.config.with_extension("log").display());
            assert!(this.child.try_wait().unwrap().is_none(), "it ended; log: {}", this.config.with_extension("log").display());
            std::thread::sleep(Duration::from_millis(2));
        }
        this.ready_after = begin.elapsed().as_secs_f64();
        this
    }

    /// Stops by `kill -9` and starts again.
    pub fn restart(mut self) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let (config, mllp, dicom, admin) = (self.config.clone(), self.mllp, self.dicom, self.admin);
        std::mem::forget(self);
        Self::again(config, mllp, dicom, admin)
    }

    /// A GET on the admin port; empty while nobody listens.
    pub fn get(&self, path: &str) -> String {
        let mut text = String::new();
        if let Ok(mut peer) = TcpStream::connect(("127.0.0.1", self.admin)) {
            let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n\r\n", self.admin);
            if peer.write_all(request.as_bytes()).is_ok() {
                drop(peer.read_to_string(&mut text));
            }
        }
        text
    }

    /// The sum of a metric over its labels.
    pub fn metric(&self, name: &str) -> f64 {
        self.get("/metrics")
            .lines()
            .filter(|l| l.strip_prefix(name).is_some_and(|r| r.starts_with('{') || r.starts_with(' ')))
            .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// CPU seconds used so far.
    pub fn cpu(&self) -> f64 {
        cpu(self.child.id())
    }

    /// Resident memory in MiB.
    pub fn resident(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// CPU seconds of a process and its ended children.
pub fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<f64> = stat.rsplit(')').next().unwrap_or("").split_whitespace().filter_map(|f| f.parse().ok()).collect();
    // After the command and the state: ppid is field 4, so utime (14) stands at index 10 of the numeric rest.
    fields.get(10..14).map_or(0.0, |f| f.iter().sum::<f64>() / 100.0)
}
