//! The whole configuration of a gateway: `[spool]` and `[[destination]]` are read by the client library, the rest here.
//! Rules: after `Config::load` everything is valid and typed; every problem of a file is reported, each with its place and a remedy; paths are
//! relative to the file.
//! Errors: `Problem`, shown as `file:line:column: what; remedy`.

mod file;
mod network;
pub mod reload;
mod routes;

pub use file::shapes;
pub use network::Network;

use crate::route::Route;
use everpost_client::config::read::{Notes, Reading, TlsUse};
use everpost_client::config::{ConfigError, Destination, Names, SpoolSettings, TlsServer, position};
pub use everpost_client::endpoint::sites::Site;
use everpost_client::io::tls::{ClientTls, ServerTls};
use everpost_client::keys::Protocol;
use everpost_client::limits;
use std::fmt;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// One thing that is wrong, or worth knowing, in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named.
    pub file: PathBuf,
    /// From 1; 0 if it concerns the whole file.
    pub line: usize,
    /// In characters, from 1; 0 if it concerns the whole file.
    pub column: usize,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

/// Worth knowing; the configuration is usable.
pub type Warning = Problem;

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        match self.line {
            0 => write!(f, "{file}: {}; {}", self.what, self.remedy),
            line => write!(f, "{file}:{line}:{}: {}; {}", self.column, self.what, self.remedy),
        }
    }
}

/// `duplicates` of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duplicates {
    /// Each copy is delivered. Default.
    Deliver,
    /// A copy with the same content and destinations is answered positively and not delivered again.
    SameContent,
}

/// `application_ack` of an MLLP listener, in enhanced mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApplicationAck {
    /// A sender that asked for an application acknowledgement gets it at once, for the gateway's custody. Default.
    Immediate,
    /// It gets only the accept acknowledgement.
    Never,
}

/// `[[listener]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Unique.
    pub name: Arc<str>,
    /// What its peers speak. Keys of the other protocol have their defaults and mean nothing.
    pub protocol: Protocol,
    /// Where it listens.
    pub bind: SocketAddr,
    /// TLS, if any.
    pub tls: Option<TlsServer>,
    /// Who may connect; empty: everybody.
    pub peers: Vec<Network>,
    /// Connections at a time. Default 1024.
    pub max_connections: usize,
    /// Connections at a time from one address. Default 256.
    pub max_connections_per_peer: usize,
    /// A connection on which nothing came for so long is closed. Default 1 d (MLLP), 5 min (DICOM).
    pub idle_timeout: Duration,
    /// What becomes of a second copy.
    pub duplicates: Duplicates,
    /// MLLP: largest block, in bytes. Default 64 MiB.
    pub max_message: u64,
    /// MLLP: second answers in enhanced mode.
    pub application_ack: ApplicationAck,
    /// DICOM: the AE titles it answers to; empty: any.
    pub ae_titles: Vec<String>,
    /// DICOM: the calling AE titles it lets in; empty: any.
    pub calling_ae: Vec<String>,
    /// DICOM: associations at a time. Default 64.
    pub max_associations: usize,
    /// DICOM: largest P-DATA-TF PDU we accept, in bytes. Default 262144.
    pub max_pdu: u32,
    /// DICOM: allow-list of SOP class UIDs; empty: every storage class.
    pub storage_classes: Vec<String>,
}

/// The whole file.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it came from.
    pub file: PathBuf,
    /// Name of this gateway.
    pub name: Arc<str>,
    /// Spool, admin socket, audit.
    pub data_dir: PathBuf,
    /// How long a stop may take. Default 10 s.
    pub stop_timeout: Duration,
    /// Where HTTP listens, a loopback address; none: only on the socket in `data_dir`.
    pub admin_bind: Option<SocketAddr>,
    /// `[spool]`.
    pub spool: SpoolSettings,
    /// `[names]`.
    pub names: Names,
    /// At least one.
    pub listeners: Vec<Arc<Listener>>,
    /// At least one.
    pub destinations: Vec<Arc<Destination>>,
    /// In file order.
    pub sites: Vec<Site>,
    /// In file order.
    pub routes: Vec<Route>,
    /// Worth knowing: keys that do not act in this version, weak protection.
    pub warnings: Vec<Warning>,
}

impl Config {
    /// Reads and checks a file, and every file it names.
    /// # Errors
    /// Every problem of it.
    pub fn load(path: &Path) -> Result<Config, Vec<Problem>> {
        Self::load_with(path, &|name| std::env::var(name).ok())
    }

    /// `load` with another environment.
    /// # Errors
    /// Every problem of it.
    pub fn load_with(path: &Path, environment: &dyn Fn(&str) -> Option<String>) -> Result<Config, Vec<Problem>> {
        let source = read(path).map_err(|problem| vec![problem])?;
        let base = path.parent().unwrap_or(Path::new(""));
        let placed = |notes: &[ConfigError]| notes.iter().map(|note| place(path, &source, note)).collect::<Vec<Problem>>();
        let reading = Reading::new(&source, base, environment);
        let document = reading.document();
        if reading.has_problems() {
            return Err(placed(&reading.finish().problems));
        }
        let config = file::read(&reading, document.get_ref());
        let mut notes = reading.finish();
        open_files(&mut notes);
        if !notes.problems.is_empty() {
            return Err(placed(&notes.problems));
        }
        Ok(Config { file: path.to_owned(), warnings: placed(&notes.warnings), ..config })
    }
}

/// What is wrong with a file, and what is worth knowing about it.
#[must_use]
pub fn check(path: &Path) -> (Vec<Problem>, Vec<Warning>) {
    match Config::load(path) {
        Ok(config) => (Vec::new(), config.warnings),
        Err(problems) => (problems, Vec::new()),
    }
}

fn place(file: &Path, source: &str, note: &ConfigError) -> Problem {
    let (line, column) = position(source, note.span.start);
    Problem { file: file.to_owned(), line, column, what: note.what.clone(), remedy: note.remedy.clone() }
}

fn read(path: &Path) -> Result<String, Problem> {
    let whole = |what: String, remedy: &str| Problem { file: path.to_owned(), line: 0, column: 0, what, remedy: remedy.to_owned() };
    let mut bytes = Vec::new();
    let limit = limits::CONFIG_BYTES_MAX;
    std::fs::File::open(path)
        .and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
        .map_err(|error| whole(format!("cannot be read: {error}"), "check the path and who may read it"))?;
    if bytes.len() as u64 > limit {
        return Err(whole(format!("is larger than {} MiB", limit >> 20), "is this the configuration?"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let before = String::from_utf8_lossy(&error.as_bytes()[..valid]).into_owned();
        let (line, column) = position(&before, valid);
        Problem { line, column, ..whole("is not UTF-8 here".to_owned(), "save the file as UTF-8") }
    })
}

/// Opens every file that the configuration names: a slip there must show now, not when the first connection is made.
fn open_files(notes: &mut Notes) {
    for (span, path) in std::mem::take(&mut notes.files) {
        if let Err(error) = std::fs::File::open(&path) {
            let what = format!("{} cannot be read: {error}", path.display());
            notes.problems.push(ConfigError { span, what, remedy: "check the path and who may read it".to_owned() });
        }
    }
    for (span, settings) in std::mem::take(&mut notes.tls) {
        let expiry = match &settings {
            TlsUse::Client(settings, host) => ClientTls::load(settings, host).map(|tls| tls.expires_at()),
            TlsUse::Server(settings) => ServerTls::load(settings).map(|tls| tls.expires_at()),
        };
        match expiry {
            Err(error) => notes.problems.push(ConfigError { span, what: error.what, remedy: error.remedy }),
            Ok(Some(end)) => notes.warnings.extend(expires_soon(end).map(|what| ConfigError {
                span,
                what,
                remedy: "renew it; a reload takes the new one without losing connections".to_owned(),
            })),
            Ok(None) => {}
        }
    }
    notes.problems.sort_by_key(|note| note.span.start);
    notes.warnings.sort_by_key(|note| note.span.start);
    // What was noted without the files may show again with them.
    notes.problems.dedup();
}

fn expires_soon(end: SystemTime) -> Option<String> {
    match end.duration_since(SystemTime::now()) {
        Err(_) => Some("the certificate has expired".to_owned()),
        Ok(left) if left < limits::CERTIFICATE_WARNING => Some(format!("the certificate expires in {} days", left.as_secs() / 86_400)),
        Ok(_) => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
