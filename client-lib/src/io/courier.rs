//! What the driver of a destination asks of a protocol: attempt one envelope, probe one endpoint. MLLP and DICOM each implement it once.
//! Rules: a courier owns its connections and keeps them between attempts; it never decides: it reports outcomes. Every wait in it has a deadline.
//! Dropping an attempt's future aborts its connection. A connection that saw a time-out, a wrong answer or a fault is closed, never reused.
//! Errors: none; failures are outcomes.

use crate::config::Destination;
use crate::delivery::standby::{Kind, Rehearsed};
use crate::delivery::status::NameStatus;
use crate::delivery::{Outcome, Phase};
use crate::ids::EndpointId;
use crate::spool::Envelope;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A boxed future.
pub type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// How long an answer took, from the last byte handed to the system; filled in by the courier when there is one.
#[derive(Debug, Clone, Default)]
pub struct AnswerTime(Arc<AtomicU64>);

impl AnswerTime {
    /// The answer came.
    pub fn set(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.0.store(micros.saturating_add(1), Ordering::Release);
    }

    /// How long it took, if it came.
    #[must_use]
    pub fn get(&self) -> Option<Duration> {
        self.0.load(Ordering::Acquire).checked_sub(1).map(Duration::from_micros)
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
    /// To be filled in.
    pub answer: AnswerTime,
}

/// A failed probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeFailure {
    /// How far it came.
    pub phase: Phase,
    /// What happened, for people.
    pub cause: String,
}

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
