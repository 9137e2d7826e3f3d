//! What the driver of a destination asks of a protocol: attempt one envelope, probe one endpoint. MLLP and DICOM each implement it once.
//! Rules: a courier owns its connections and keeps them between attempts; it never decides: it reports outcomes. Every wait in it has a deadline.
//! Dropping an attempt's future aborts its connection. A connection that saw a time-out, a wrong answer or a fault is closed, never reused.
//! Errors: none; failures are outcomes.

use crate::config::Destination;
use crate::delivery::status::NameStatus;
use crate::delivery::{Outcome, Phase};
use crate::ids::EndpointId;
use crate::spool::Envelope;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A boxed future.
pub type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// One attempt to be made.
#[derive(Debug)]
pub struct Order {
    /// What to deliver. Content is opened from the spool by message id.
    pub envelope: Envelope,
    /// Where.
    pub endpoint: EndpointId,
    /// On a fresh connection, not a kept one.
    pub fresh: bool,
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
    fn probe(&self, endpoint: EndpointId, store: bool) -> Boxed<Result<(), ProbeFailure>>;
    /// Closes idle connections to an endpoint, properly (release). Those in use close when their attempt ends.
    fn drain(&self, endpoint: EndpointId);
    /// Closes every idle connection properly, because the process is about to end; returns when that is done or `limits::CLOSE_WAIT` is over.
    fn close(&self) -> Boxed<()> {
        Box::pin(async {})
    }
    /// Addresses connected to now.
    fn connected(&self, endpoint: EndpointId) -> Vec<SocketAddr>;
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
