//! The typed model of `[[destination]]` and `[spool]`: shared by the gateway and the C library.
//! Rules: defaults and ranges live here and nowhere else; after `parse` everything is valid and typed.
//! Errors: `ConfigError` with a byte span, so that the caller can say `file:line:column: what; remedy`.

pub mod destination;
pub mod endpoint;
pub mod health;
pub mod read;
pub mod schedule;
pub mod shape;
pub mod shapes;
pub mod units;
pub mod window;

pub use read::{ConfigError, position};

use crate::keys::Protocol;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// `[spool]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolSettings {
    /// Free bytes of the file system below which intake is refused. Default 1 GiB.
    pub reserve: u64,
    /// How long delivered content stays readable, space permitting. Default 7 d.
    pub history: Duration,
    /// Bytes of one segment; default 64 MiB, at most 1/16 of the file system.
    pub segment_size: u64,
    /// Bytes of memory for chunks in flight. Default 64 MiB.
    pub buffers: u64,
}

impl Default for SpoolSettings {
    fn default() -> Self {
        Self { reserve: 1 << 30, history: Duration::from_secs(7 * 86_400), segment_size: 64 << 20, buffers: 64 << 20 }
    }
}

/// `[names]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Which servers are asked; empty: those of the system.
    pub servers: Vec<NameServer>,
    /// Authorities of servers that are asked over TLS (PEM file).
    pub ca: Option<PathBuf>,
    /// The longest an answer is used without asking again. Default 60 s.
    pub max_ttl: Duration,
    /// How old the last good answer may become while look-ups fail. Default 24 h.
    pub max_stale: Duration,
}

impl Default for Names {
    fn default() -> Self {
        Self { servers: Vec::new(), ca: None, max_ttl: Duration::from_secs(60), max_stale: Duration::from_secs(86_400) }
    }
}

/// One of `[names] servers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameServer {
    /// Where it is.
    pub address: SocketAddr,
    /// How it is asked.
    pub transport: Transport,
}

/// How a name server is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// UDP, and TCP where an answer is too long or none comes.
    Udp,
    /// TCP only.
    Tcp,
    /// TLS only; the name expected in its certificate.
    Tls(String),
}

/// `policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Active-passive.
    Failover,
    /// Active-active, in turn.
    RoundRobin,
    /// Active-active, fewest outstanding.
    LeastOutstanding,
}

/// `ordering`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ordering {
    /// One lane for all. Default for HL7.
    Strict,
    /// A lane per patient; messages that name none or several are barriers.
    Patient,
    /// A lane per study.
    Study,
    /// No order. Default for DICOM.
    None,
}

/// `on_ae`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnAe {
    /// Default.
    DeadLetter,
    /// Retry without end.
    Retry,
    /// Hold for an operator.
    Hold,
}

/// Whether the lane goes on past an envelope that left it (`after_dead_letter`, `after_hold`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneRule {
    /// It goes on.
    Continue,
    /// It stops until an operator decides.
    Stop,
}

/// `ambiguous`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ambiguous {
    /// Send again. Default.
    Resend,
    /// Hold, for peers that cannot tell duplicates.
    Hold,
}

/// `calling_ae`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallingAe {
    /// The sender's own.
    Pass,
    /// A fixed one. Default `EVERPOST`.
    Fixed(String),
}

/// `health.probe`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// TCP connect. Default for HL7.
    Tcp,
    /// TCP and TLS handshake.
    Tls,
    /// C-ECHO. Default for DICOM.
    DicomEcho,
    /// A test message from this file; a positive answer is expected.
    Mllp(PathBuf),
    /// GET of a URL; 2xx is expected.
    Http(HttpUrl),
    /// C-ECHO, and from time to time a C-STORE of the synthetic object (`dicom::synthetic`).
    DicomStore {
        /// Time between two of them.
        every: Duration,
        /// Whether it is looked up again with C-FIND.
        look_up: bool,
    },
}

/// `health.url`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl {
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Path and query.
    pub target: String,
    /// https: how its certificate is checked.
    pub tls: Option<TlsClient>,
}

impl HttpUrl {
    /// `host:port`, IPv6 in brackets.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') { format!("[{}]:{}", self.host, self.port) } else { format!("{}:{}", self.host, self.port) }
    }
}

impl std::fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.target)
    }
}

/// `health`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthSettings {
    /// What is tried.
    pub probe: Probe,
    /// Time between probes, jittered by a tenth. Default 10 s.
    pub interval: Duration,
    /// Deadline of one probe. Default 3 s.
    pub timeout: Duration,
    /// Failures in a row that take an endpoint down. Default 3.
    pub fall: u16,
    /// Good probes in a row that bring it up. Default 2.
    pub rise: u16,
    /// What follows from slow answers. Default `Warn`.
    pub slow: OnSlow,
    /// Answers that take longer are slow; `None`: learned from what is usual.
    pub slow_after: Option<Duration>,
    /// Time between two rehearsals with an endpoint that is not active; zero: none. Default 10 min.
    pub rehearse: Duration,
}

/// `health.slow`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnSlow {
    /// Told, nothing more.
    Warn,
    /// The destination leaves it if another endpoint is good.
    Leave,
}

impl HealthSettings {
    /// A probe, with the defaults for the rest.
    #[must_use]
    pub fn of(probe: Probe) -> Self {
        Self {
            probe,
            interval: crate::limits::PROBE_INTERVAL_DEFAULT,
            timeout: crate::limits::PROBE_TIMEOUT_DEFAULT,
            fall: 3,
            rise: 2,
            slow: OnSlow::Warn,
            slow_after: None,
            rehearse: crate::limits::REHEARSAL_INTERVAL,
        }
    }
}

/// `tls` of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsClient {
    /// Trusted authorities (PEM file). None: refuses to load unless `verify = "none"`.
    pub ca: Option<PathBuf>,
    /// Own certificate chain and key, for mutual authentication.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Name expected in the certificate; default the address's host.
    pub server_name: Option<String>,
    /// How much is checked.
    pub verify: Verify,
}

/// `tls.verify`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// Chain and name. Default.
    Full,
    /// Chain only.
    Ca,
    /// Nothing: the status says degraded.
    None,
}

/// `tls` of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsServer {
    /// Certificate chain (PEM file).
    pub cert: PathBuf,
    /// Private key (PEM file).
    pub key: PathBuf,
    /// Authorities of client certificates; set: a client certificate is required.
    pub client_ca: Option<PathBuf>,
}

/// How an endpoint is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// `address`: all addresses of the host are one endpoint.
    Any,
    /// `address` with `addresses = "each"`: each address of the host is an endpoint.
    Each,
    /// `srv`: `host` is the name of SRV records, each of which is an endpoint; the port is 0.
    Srv,
}

/// `[[destination.endpoint]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Unique in its destination.
    pub name: Arc<str>,
    /// Host name or address; with `Finding::Srv` the name of the records.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Whether it stands for one endpoint or for a pool.
    pub finding: Finding,
    /// The priority of an SRV record, else 0: among the records of a name, those of the lowest tier that has a good one take turns.
    pub tier: u16,
    /// Called AE title (DICOM).
    pub ae_title: String,
    /// TLS, if any.
    pub tls: Option<TlsClient>,
    /// Share of the traffic in active-active policies.
    pub weight: u16,
    /// The site it belongs to.
    pub site: Option<Arc<str>>,
    /// Own health settings, or the destination's.
    pub health: HealthSettings,
}

impl Endpoint {
    /// The same place under the same name: connections to it and what was seen of it still count.
    #[must_use]
    pub fn is_same_place(&self, other: &Endpoint) -> bool {
        self.name == other.name && self.host == other.host && self.port == other.port && self.finding == other.finding
    }

    /// `host:port`, IPv6 in brackets; of SRV records their name.
    #[must_use]
    pub fn address(&self) -> String {
        if self.finding == Finding::Srv {
            return self.host.clone();
        }
        if self.host.contains(':') { format!("[{}]:{}", self.host, self.port) } else { format!("{}:{}", self.host, self.port) }
    }
}

/// What a drill lets our own dialling do at one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Connections are refused.
    Refuse,
    /// Connections are taken, and nobody answers.
    Freeze,
    /// Nothing comes back at all.
    Drop,
    /// Its name is not found.
    Dns,
}

impl Fault {
    /// Every one.
    pub const ALL: [Fault; 4] = [Fault::Refuse, Fault::Freeze, Fault::Drop, Fault::Dns];

    /// As in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Fault::Refuse => "refuse",
            Fault::Freeze => "freeze",
            Fault::Drop => "drop",
            Fault::Dns => "dns",
        }
    }

    /// The one of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Fault> {
        Self::ALL.into_iter().find(|fault| fault.name() == name)
    }
}

/// `drill` of a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrillSettings {
    /// When one is made by itself.
    pub schedule: Option<schedule::Schedule>,
    /// The endpoint it goes to; none: the second one.
    pub to: Option<Arc<str>>,
    /// What is simulated; none: traffic is shifted.
    pub fault: Option<Fault>,
    /// Real traffic moves too.
    pub real: bool,
    /// How long it stays there.
    pub stay: Duration,
    /// Share of failed attempts, in percent, at which it stops.
    pub max_errors: u16,
    /// Age of the oldest waiting envelope at which it stops.
    pub max_age: Duration,
    /// The test message (mllp).
    pub message: Option<PathBuf>,
    /// The synthetic object is stored, not only C-ECHO (dicom).
    pub store: bool,
}

impl Default for DrillSettings {
    fn default() -> Self {
        Self {
            schedule: None,
            to: None,
            fault: None,
            real: false,
            stay: crate::limits::DRILL_STAY_DEFAULT,
            max_errors: crate::limits::DRILL_ERRORS_DEFAULT,
            max_age: crate::limits::DRILL_AGE_DEFAULT,
            message: None,
            store: false,
        }
    }
}

/// `rto` and `rpo` of a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Objectives {
    /// In an outage, delivery shall go on within this time.
    pub rto: Option<Duration>,
    /// No more than what an endpoint answered within this time may be lost with it.
    pub rpo: Option<Duration>,
}

/// `[[destination]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// Unique.
    pub name: Arc<str>,
    /// What its endpoints speak.
    pub protocol: Protocol,
    /// How endpoints are chosen.
    pub policy: Policy,
    /// What keeps its order.
    pub ordering: Ordering,
    /// Deadline of resolve, connect, TLS and association together. Default 5 s.
    pub connect_timeout: Duration,
    /// Deadline of the answer, and of progress while transmitting. Default 30 s.
    pub ack_timeout: Duration,
    /// Tries on one endpoint before the destination leaves it, when nothing was sent. Default 2.
    pub attempts_before_failover: u16,
    /// Continuous good probes before the return. Default 30 s.
    pub hold_down: Duration,
    /// Where doubling of the hold-down ends. Default 30 min.
    pub hold_down_max: Duration,
    /// Return by itself (`auto`, default) or only by an operator.
    pub failback_auto: bool,
    /// When it may return by itself; none: always.
    pub failback_window: Option<window::Window>,
    /// Policy for ambiguous outcomes.
    pub ambiguous: Ambiguous,
    /// Policy for AE.
    pub on_ae: OnAe,
    /// Default `Continue`.
    pub after_dead_letter: LaneRule,
    /// Default `Stop`.
    pub after_hold: LaneRule,
    /// How long negative answers may be retried before an alarm. Default 1 h.
    pub reject_alarm: Duration,
    /// First delay of the exponential backoff. Default 1 s.
    pub retry_first: Duration,
    /// Largest delay. Default 60 s.
    pub retry_max: Duration,
    /// Honour the silence a message asked for (`answers = "as-asked"`). Default false.
    pub silence_as_asked: bool,
    /// Calling AE title.
    pub calling_ae: CallingAe,
    /// Parallel connections (associations, or MLLP connections where order allows). Default 4.
    pub associations: NonZeroU16,
    /// C-STOREs outstanding on one association, if the peer grants it and order allows. Default 1.
    pub window: NonZeroU16,
    /// Convert between uncompressed transfer syntaxes where the endpoint refuses the content's own.
    pub convert: bool,
    /// Idle time after which an association is released. Default 10 s.
    pub idle_release: Duration,
    /// In order of preference, at least one.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// On failover, what the endpoint that was left had answered within this time before its last answer goes to the other one too. Default 0: off.
    pub replay_window: Duration,
    /// Before its return an endpoint gets what others had answered meanwhile (`resync = "outage"`). Default false.
    pub resync: bool,
    /// What outages are measured against.
    pub objectives: Objectives,
    /// Before a replay is sent, its receiver is asked by C-FIND whether it has the instance (`reconcile = "query"`). Default false.
    pub reconcile: bool,
    /// How drills are made; none: as everywhere.
    pub drill: DrillSettings,
    /// Keys taken from the file that this version reads and checks but does not act on; `check` and the log say so.
    pub not_acting: Vec<String>,
}
