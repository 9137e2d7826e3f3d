//! What people see of a destination: the rows of `status --json`, of `top` and of the admin API.
//! Rules: names and texts only, never content of messages; the field names are a contract with scripts and change only by addition.
//! Errors: none.

use crate::delivery::outages::Outage;
use crate::endpoint::wishes::Shift;
use crate::keys::Protocol;
use serde::Serialize;

/// One destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DestinationStatus {
    /// Its name.
    pub name: String,
    /// What its endpoints speak.
    pub protocol: Protocol,
    /// `failover`, `round-robin` or `least-outstanding`.
    pub policy: &'static str,
    /// An operator stopped its delivery.
    pub paused: bool,
    /// Names of the endpoints that get new traffic now; empty: none is eligible.
    pub active: Vec<String>,
    /// An operator's shift.
    pub shift: Option<ShiftStatus>,
    /// Why `active` is what it is.
    pub reason: String,
    /// What is being replayed, and where, if anything is.
    pub replay: Option<String>,
    /// Replays that wait; they are counted among the envelopes below too.
    pub replays: u64,
    /// Envelopes waiting their turn.
    pub ready: u64,
    /// Envelopes being attempted.
    pub in_flight: u64,
    /// Envelopes waiting for their next attempt.
    pub deferred: u64,
    /// Envelopes an operator or the policy keeps.
    pub held: u64,
    /// Waiting envelopes of which an attempt ended sent but unanswered.
    pub ambiguous: u64,
    /// Envelopes that wait for an operator's decision.
    pub dead_letter: u64,
    /// Age of the oldest envelope that still has to be delivered, in seconds; 0: none waits.
    pub oldest_waiting_seconds: u64,
    /// What outages are measured against, and the worst of them.
    pub objectives: ObjectivesStatus,
    /// Its endpoints, in order of preference.
    pub endpoints: Vec<EndpointStatus>,
}

/// Objectives and outages of a destination. Times in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ObjectivesStatus {
    /// `rto`.
    pub rto: Option<u64>,
    /// `rpo`.
    pub rpo: Option<u64>,
    /// The outage that runs.
    pub outage: Option<RunningOutage>,
    /// Outages of the last 30 days, drills left out.
    pub outages: usize,
    /// Of these: the longest time until the destination delivered again.
    pub worst_rto: Option<u64>,
    /// The farthest that something reaches back that may be lost.
    pub worst_rpo: Option<u64>,
    /// Those in which an objective was missed.
    pub missed: usize,
}

/// An outage that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunningOutage {
    /// As it is remembered.
    #[serde(flatten)]
    pub outage: Outage,
    /// Since its start.
    pub elapsed: u64,
}

/// An operator's shift.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShiftStatus {
    /// As it was wished.
    #[serde(flatten)]
    pub shift: Shift,
    /// Its endpoint is not in service, so the destination delivers elsewhere.
    pub suspended: bool,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EndpointStatus {
    /// Its name.
    pub name: String,
    /// What traffic and probes say: `up`, `suspect`, `down`, `probing`; `degraded`: up, but there is something in `degraded`.
    pub health: &'static str,
    /// What should be looked at although it is up: its certificate is not checked, it is slow, it would refuse what goes to the active endpoint.
    pub degraded: Vec<String>,
    /// Not active: whether it would take what went to the destination in the last 30 days; `None`: not known, or active.
    pub ready: Option<bool>,
    /// What people want: `enabled`, `draining`, `disabled`.
    pub admin: &'static str,
    /// Why its health is what it is.
    pub reason: String,
    /// Addresses its name resolved to last.
    pub resolved: Vec<String>,
    /// Addresses connected to now.
    pub connected: Vec<String>,
    /// What is known of its name; none: it is configured by its address.
    pub dns: Option<NameStatus>,
}

/// What DNS says of a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NameStatus {
    /// The name.
    pub name: String,
    /// Seconds since the last good answer; none: there was none.
    pub age_seconds: Option<u64>,
    /// How long that answer counts, in seconds.
    pub ttl_seconds: u64,
    /// The last failure, if look-ups fail now.
    pub error: Option<String>,
}

impl DestinationStatus {
    /// Nothing here needs people: the preferred endpoint is active and healthy, nothing is held, dead or ambiguous.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        let preferred = self.endpoints.first().is_some_and(|e| self.active.first() == Some(&e.name));
        preferred
            && !self.paused
            && self.held == 0
            && self.ambiguous == 0
            && self.dead_letter == 0
            && self.endpoints.iter().all(|e| e.degraded.is_empty())
    }
}
