//! What the driver of a destination asks of a protocol: attempt one envelope, probe one endpoint. MLLP and DICOM each implement it once.
//! Rules: a courier owns its connections and keeps them between attempts; it never decides: it reports outcomes. Every wait in it has a deadline.
//! Dropping an attempt's future aborts its connection. A connection that saw a time-out, a wrong answer or a fault is closed, never reused.
//! Errors: none; failures are outcomes.

use crate::config::{Destination, Fault};
use crate::delivery::standby::{Kind, Rehearsed};
use crate::delivery::status::NameStatus;
use crate::delivery::{Outcome, Phase};
use crate::dicom::part10::FileHead;
use crate::dicom::{synthetic, uid};
use crate::ids::EndpointId;
use crate::keys::{Key, Keys};
use crate::spool::Envelope;
use bytes::Bytes;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A boxed future.
pub type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What an attempt met on its way; filled in by the courier as far as it comes, and read when it ended.
#[derive(Debug, Clone, Default)]
pub struct Met(Arc<Way>);

#[derive(Debug, Default)]
struct Way {
    /// Microseconds and one.
    answer: AtomicU64,
    address: Mutex<Option<SocketAddr>>,
}

impl Met {
    /// It is connected to this address; of several the last one counts.
    pub fn connected(&self, address: SocketAddr) {
        *self.0.address.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
    }

    /// The answer came so long after the last byte was handed to the system.
    pub fn answered(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.0.answer.store(micros.saturating_add(1), Ordering::Release);
    }

    /// The address it was connected to, if it came so far.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        *self.0.address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the answer took, if it came.
    #[must_use]
    pub fn answer(&self) -> Option<Duration> {
        self.0.answer.load(Ordering::Acquire).checked_sub(1).map(Duration::from_micros)
    }
}

/// One attempt to be made.
#[derive(Debug)]
pub struct Order {
    /// What to deliver. Content is opened from the spool by message id.
    pub envelope: Envelope,
    /// Where.
    pub endpoint: EndpointId,
    /// On a fresh connection, not a kept one.
    pub fresh: bool,
    /// First ask the endpoint whether it has it; if so, send nothing and report `Outcome::AlreadyThere`.
    pub ask: bool,
    /// To be filled in.
    pub met: Met,
}

/// A failed probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeFailure {
    /// How far it came.
    pub phase: Phase,
    /// What happened, for people.
    pub cause: String,
}

/// Content that is sent while its sender waits, and not from the spool.
#[derive(Debug, Clone)]
pub struct Parcel(pub(crate) Content);

impl Parcel {
    /// An HL7 message.
    #[must_use]
    pub fn message(content: Bytes) -> Parcel {
        Parcel(Content::Hl7(content))
    }

    /// The synthetic object of a marked test patient (`dicom::synthetic`).
    #[must_use]
    pub fn synthetic_object() -> Parcel {
        let mut keys = Keys::new();
        let (class, instance) = (synthetic::SOP_CLASS.to_owned(), synthetic::INSTANCE.to_owned());
        for (key, value) in [(Key::SopClass, &*class), (Key::SopInstance, &*instance), (Key::TransferSyntax, uid::IMPLICIT_LE)] {
            keys.set(key, value.as_bytes());
        }
        let head = FileHead { sop_class: class, sop_instance: instance, transfer_syntax: uid::IMPLICIT_LE.to_owned(), dataset_at: 0 };
        Parcel(Content::Object { keys: Arc::new(keys), head: Arc::new(head), file: Part10::Memory(synthetic::object().into()) })
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// An HL7 message.
    Hl7(Bytes),
    /// A DICOM object: what is known of it, and its file or the bytes of one.
    Object { keys: Arc<Keys>, head: Arc<FileHead>, file: Part10 },
}

#[derive(Debug, Clone)]
pub(crate) enum Part10 {
    File(Arc<Path>),
    Memory(Bytes),
}

/// How long an attempt with a parcel may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Ends the wait for a connection.
    pub connect_by: Instant,
    /// Ends each wait for progress, and the one for the answer.
    pub answer_within: Duration,
    /// Ends the whole.
    pub until: Instant,
}

/// What came of it, and the answer as it came, if the protocol has one in text.
pub type Answered = (Outcome, Option<Bytes>);

/// A protocol's way of delivering.
pub trait Courier: Send + Sync + 'static {
    /// Makes one attempt.
    fn attempt(&self, order: Order) -> Boxed<Outcome>;
    /// Makes one probe, on a connection of its own, within the endpoint's probe time-out. `store`: one of those that store an object, if its kind does.
    /// Returns how long the answer took that shows it alive.
    fn probe(&self, endpoint: EndpointId, store: bool) -> Boxed<Result<Duration, ProbeFailure>>;
    /// Rehearses: negotiates what these kinds of objects need, on a connection of its own, and sends nothing. `within`: for each association.
    /// A courier that has nothing to negotiate has nothing to find.
    fn rehearse(&self, endpoint: EndpointId, kinds: Vec<Kind>, within: Duration) -> Boxed<Rehearsed> {
        let _ = (endpoint, kinds, within);
        Box::pin(async { Ok(Vec::new()) })
    }
    /// Sends a parcel; `fresh`: on a new connection.
    fn send(&self, endpoint: EndpointId, _fresh: bool, _parcel: Parcel, _patience: Patience) -> Boxed<Answered> {
        let cause = format!("endpoint {} takes nothing but what is in the spool", endpoint.index());
        Box::pin(async { (Outcome::Local { cause, permanent: true }, None) })
    }
    /// Asks an endpoint whether it is there, for a person who waits.
    fn echo(&self, endpoint: EndpointId, until: Instant) -> Boxed<Result<(), ProbeFailure>> {
        let probe = self.probe(endpoint, false);
        Box::pin(async move {
            let late = ProbeFailure { phase: Phase::Connect, cause: "no answer in time".to_owned() };
            tokio::time::timeout_at(until, probe).await.unwrap_or(Err(late)).map(drop)
        })
    }
    /// Lets every connection to an endpoint fail so until then, for a drill; `None`: no longer.
    fn simulate(&self, _endpoint: EndpointId, _fault: Option<(Fault, Instant)>) {}
    /// Closes idle connections to an endpoint, properly (release). Those in use close when their attempt ends.
    fn drain(&self, endpoint: EndpointId);
    /// Closes every idle connection properly, because the process is about to end; returns when that is done or `limits::CLOSE_WAIT` is over.
    fn close(&self) -> Boxed<()> {
        Box::pin(async {})
    }
    /// Addresses connected to now.
    fn connected(&self, endpoint: EndpointId) -> Vec<SocketAddr>;
    /// What people should know of an endpoint beside its health.
    fn remark(&self, _endpoint: EndpointId) -> Option<String> {
        None
    }
    /// Addresses its name stands for.
    fn resolved(&self, endpoint: EndpointId) -> Vec<SocketAddr>;
    /// What is known of its name; none: it is configured by its address.
    fn name(&self, _endpoint: EndpointId) -> Option<NameStatus> {
        None
    }
    /// Has `changed` notified whenever DNS answers differently about one of its endpoints: then `regroup` is called.
    fn tell_to(&self, _changed: &Arc<Notify>) {}
    /// Lets go of connections to addresses that their name has no longer. If a pool has other members now, returns the destination as it is now with
    /// its courier; what stays keeps its connections, attempts in flight end on this one.
    fn regroup(&self) -> Option<(Arc<Destination>, Arc<dyn Courier>)> {
        None
    }
    /// Returns when something is known of every pool, or at the deadline.
    fn pools_known(&self, _deadline: Instant) -> Boxed<()> {
        Box::pin(async {})
    }
}
