//! Which endpoint of a destination gets the traffic, and why: backoff, observed health, failover. Diagrams stand in `health` and `failover`.
//! Rules: what was observed (`health`) and what people want (`Admin`) are two things; traffic weighs more than probes; every change carries a
//! reason that a person understands. All of it is pure: observations and the time in, choices and changes out.
//! Errors: none. Having no eligible endpoint is a state: waiting is what a spool is for.

use crate::delivery::Phase;
use crate::ids::EndpointId;
use crate::limits::ENDPOINTS_MAX;

pub mod backoff;
pub mod failover;
pub mod health;
pub mod names;
pub mod pace;
mod place;
pub mod pool;
pub mod sites;
pub mod wishes;

/// What an ended attempt says about its endpoint (from `delivery::verdict`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// Nothing: the fault was ours.
    None,
    /// It lives and dealt with the message, whatever it said of the content.
    Answered,
    /// Sent whole to an endpoint that was asked not to answer: the way to it is good, nothing more is known.
    Silent,
    /// It lives and does not take messages now: counts towards leaving it.
    Refused,
    /// It was not reached, or was lost before it can have had the message.
    NotSent {
        /// How far it came.
        phase: Phase,
        /// A kept connection turned out dead when it was used again.
        stale: bool,
    },
    /// It had the whole message, and the connection was lost or the answer cannot be ours.
    Lost,
    /// It had the whole message and did not answer in time.
    Timeout,
}

/// What people want of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admin {
    /// Use it.
    Enabled,
    /// No new traffic; what is in flight ends.
    Draining,
    /// Do not use it.
    Disabled,
}

impl Admin {
    /// The name used in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Admin::Enabled => "enabled",
            Admin::Draining => "draining",
            Admin::Disabled => "disabled",
        }
    }
}

/// A set of endpoints of one destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EndpointSet(u64);

const _: () = assert!(ENDPOINTS_MAX <= u64::BITS as usize, "an endpoint has one bit");

impl EndpointSet {
    /// None.
    pub const EMPTY: EndpointSet = EndpointSet(0);

    /// Adds one.
    pub fn insert(&mut self, endpoint: EndpointId) {
        self.0 |= bit(endpoint);
    }

    /// Takes one out.
    pub fn remove(&mut self, endpoint: EndpointId) {
        self.0 &= !bit(endpoint);
    }

    /// Whether it is in.
    #[must_use]
    pub fn contains(self, endpoint: EndpointId) -> bool {
        self.0 & bit(endpoint) != 0
    }

    /// Both together.
    #[must_use]
    pub fn union(self, other: EndpointSet) -> EndpointSet {
        EndpointSet(self.0 | other.0)
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

fn bit(endpoint: EndpointId) -> u64 {
    1u64.checked_shl(u32::from(endpoint.0)).unwrap_or(0)
}

#[cfg(test)]
pub(crate) mod fixture {
    //! A destination for tests, with the defaults of the configuration.

    use crate::config::*;
    use crate::keys::Protocol;
    use std::num::NonZeroU16;
    use std::sync::Arc;
    use std::time::Duration;

    pub(crate) fn destination(protocol: Protocol, names: &[&str]) -> Destination {
        let probe = if protocol == Protocol::Mllp { Probe::Tcp } else { Probe::DicomEcho };
        let health = HealthSettings::of(probe);
        let endpoint = |name: &&str| {
            let (host, ae_title) = (format!("{name}.example.org"), "PACS".to_owned());
            Arc::new(Endpoint {
                name: (*name).into(),
                host,
                port: 104,
                finding: Finding::Any,
                tier: 0,
                ae_title,
                tls: None,
                weight: 1,
                site: None,
                health: health.clone(),
            })
        };
        Destination {
            name: "there".into(),
            protocol,
            policy: Policy::Failover,
            ordering: if protocol == Protocol::Mllp { Ordering::Strict } else { Ordering::None },
            connect_timeout: Duration::from_secs(5),
            ack_timeout: Duration::from_secs(30),
            attempts_before_failover: 2,
            hold_down: Duration::from_secs(30),
            hold_down_max: Duration::from_secs(1800),
            failback_auto: true,
            failback_window: None,
            ambiguous: Ambiguous::Resend,
            on_ae: OnAe::DeadLetter,
            after_dead_letter: LaneRule::Continue,
            after_hold: LaneRule::Stop,
            reject_alarm: Duration::from_secs(3600),
            retry_first: Duration::from_secs(1),
            retry_max: Duration::from_secs(60),
            silence_as_asked: false,
            calling_ae: CallingAe::Fixed("EVERPOST".to_owned()),
            associations: NonZeroU16::MIN.saturating_add(3),
            window: NonZeroU16::MIN,
            convert: false,
            idle_release: Duration::from_secs(10),
            endpoints: names.iter().map(endpoint).collect(),
            replay_window: Duration::ZERO,
            resync: false,
            objectives: Objectives::default(),
            reconcile: false,
            drill: DrillSettings::default(),
            not_acting: Vec::new(),
        }
    }
}
