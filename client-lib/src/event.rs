//! The one event stream. Metrics, log, audit and status read these; nobody counts on its own.
//! Rules: an event carries names, counts and phases, never patient data and never a peer's free text.

use crate::delivery::outages::Outage;
use crate::delivery::{Phase, Verdict};
pub use crate::endpoint::wishes::ShiftNews;
use crate::ids::{EnvelopeId, MessageId};
use std::sync::Arc;
use std::time::Duration;

/// Why a message was refused. The texts are the metric's label values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// No route, or a query, or a class that is not allowed.
    NoRoute,
    /// The spool's reserve is reached.
    Reserve,
    /// A sync failed.
    Sync,
    /// Not parseable.
    Malformed,
    /// Larger than the listener takes.
    TooLarge,
    /// A limit on connections, associations or memory.
    Limit,
    /// The gateway is stopping.
    Stopping,
}

impl Refusal {
    /// Every one.
    pub const ALL: [Refusal; 7] =
        [Refusal::NoRoute, Refusal::Reserve, Refusal::Sync, Refusal::Malformed, Refusal::TooLarge, Refusal::Limit, Refusal::Stopping];

    /// The metric's label value.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Refusal::NoRoute => "no-route",
            Refusal::Reserve => "reserve",
            Refusal::Sync => "sync",
            Refusal::Malformed => "malformed",
            Refusal::TooLarge => "too-large",
            Refusal::Limit => "limit",
            Refusal::Stopping => "stopping",
        }
    }
}

/// Something that happened. Names are those of the configuration.
#[allow(missing_docs, reason = "the fields are named after what they carry")]
#[derive(Debug, Clone)]
pub enum Event {
    /// A message is durable and will be answered positively.
    Accepted { listener: Arc<str>, message: MessageId, bytes: u64, commit: Duration },
    /// A message was refused.
    Refused { listener: Arc<str>, reason: Refusal },
    /// A peer connected or left; `open` is the listener's count now.
    Connections { listener: Arc<str>, open: usize },
    /// A listener saw something worth a line: garbage between blocks, a limit, a TLS fault. No patient data in `what`.
    ListenerNotice { listener: Arc<str>, peer: String, what: String },
    /// Bytes outside of MLLP blocks were dropped.
    Garbage { listener: Arc<str>, bytes: u64 },
    /// An attempt ended.
    Attempt { destination: Arc<str>, endpoint: Arc<str>, envelope: EnvelopeId, phase: Phase, verdict: Verdict, took: Duration },
    /// An envelope reached its end: delivered.
    Delivered { destination: Arc<str>, endpoint: Arc<str>, envelope: EnvelopeId, outcome: Delivered, took: Duration },
    /// What an endpoint may lack was found in history and waits; `gone`: history no longer had its content.
    ReplayBegun { destination: Arc<str>, what: String, envelopes: u64, gone: u64 },
    /// A replay reached its end.
    Replayed { destination: Arc<str>, endpoint: Arc<str>, envelope: EnvelopeId, end: ReplayEnd },
    /// An envelope became a dead letter.
    DeadLetter { destination: Arc<str>, envelope: EnvelopeId },
    /// An envelope is held.
    Held { destination: Arc<str>, envelope: EnvelopeId },
    /// An endpoint's observed health changed.
    Health { destination: Arc<str>, endpoint: Arc<str>, up: bool, state: &'static str, reason: String },
    /// The gateway learned something of an endpoint that is no fault. No patient data in `what`.
    EndpointNotice { destination: Arc<str>, endpoint: Arc<str>, what: String },
    /// The active endpoint changed.
    Failover { destination: Arc<str>, from: Option<Arc<str>>, to: Option<Arc<str>>, reason: String },
    /// Something happened to an operator's shift of a destination to an endpoint.
    Shift { destination: Arc<str>, endpoint: Arc<str>, news: ShiftNews, reason: String },
    /// An operator enabled, drained or disabled an endpoint.
    Admin { destination: Arc<str>, endpoint: Arc<str>, admin: &'static str, reason: String },
    /// An outage of a destination began, or is over.
    Outage { destination: Arc<str>, outage: Arc<Outage>, over: bool },
    /// A drill began (no outcome), or is over. `what`: in one line.
    Drill { destination: Arc<str>, id: Arc<str>, outcome: Option<&'static str>, what: String },
    /// A site's destinations move together, or one of them cannot.
    Site { site: Arc<str>, what: String },
    /// A condition people must look at began or ended (one event each, not one per try).
    Alarm { subject: String, what: String, raised: bool },
    /// Something people should look at once: it happened, and neither stands nor ends.
    Incident { subject: String, what: String },
    /// A name of an endpoint stands for something else now: addresses, or SRV records.
    Answer { name: Arc<str>, from: Vec<String>, to: Vec<String> },
    /// A name cannot be looked up; the alarm about it says when that ends.
    LookupFailed { name: Arc<str>, why: String },
    /// The spool changed its mind about intake.
    Intake { open: bool, reason: String },
    /// Damage was found in the spool and set aside.
    Damage { place: String, what: String },
    /// A certificate's expiry became known. `use_` names listener or endpoint.
    Certificate { use_: String, expires_in: Duration },
}

/// How a replay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReplayEnd {
    /// Answered positively.
    Answered,
    /// Refused: the endpoint does not want it, and nothing is owed.
    Refused,
    /// Not sent: the endpoint said that it has it (`reconcile`).
    AlreadyThere,
}

/// How an envelope was delivered. The texts are the metric's label values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Delivered {
    /// Positive answer.
    Ok,
    /// Positive answer with a warning.
    Warning,
    /// The silence the message itself asked for.
    Unconfirmed,
}

impl Delivered {
    /// The metric's label value.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Delivered::Ok => "ok",
            Delivered::Warning => "warning",
            Delivered::Unconfirmed => "unconfirmed",
        }
    }
}

/// Where events go. Cheap to clone; called from many threads; must not block.
#[derive(Clone)]
pub struct Events(Arc<dyn Fn(Event) + Send + Sync>);

impl Events {
    /// Sends every event to `reader`.
    pub fn to(reader: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(reader))
    }

    /// Nobody reads.
    #[must_use]
    pub fn none() -> Self {
        Self::to(|_| ())
    }

    /// Tells every reader.
    pub fn emit(&self, event: Event) {
        (self.0)(event);
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}
