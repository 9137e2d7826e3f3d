//! Chooses the endpoint of a destination for each attempt: the one place where failover, shifts and failback are decided.
//!
//! ```text
//!  each endpoint:     in service ---- left: failures, refusals, bad probes ----> out
//!                        ^   ^                                                   | |
//!                        |   +-- hold_down of good probes (voluntary return), ---+ |
//!                        |   |   inside failback_window                            |
//!                        |   +-- the same, then one good envelope (canary) --------+
//!                        +------ nothing else is in service and it is trusted, or it answered a scout, or an operator wants it
//!
//!  the destination:   Serving(active) <----------------------------------------> Stalled
//!                        no endpoint is in service ->   <- one is in service
//!
//!  a shift:           begun --> [its endpoint is active] <--------------> [suspended] --> ended
//!                        |         its endpoint is left ->   <- it returned   |             ^
//!                        +--------------- time over, unshift, endpoint gone --+-------------+
//! ```
//! Rules
//! - The best liked endpoint in service is active: first the one a shift names, then those at the site that is followed, then in the configured order.
//!   (`round-robin`, `least-outstanding`: all equally liked ones in service are; a lane keeps to one of them while it serves.) Leaving is immediate;
//!   `hold_down`, `failback_window` and `failback = "manual"` delay voluntary returns only.
//! - Not sent: again at once on a fresh connection, until `attempts_before_failover` tries in a row have failed. A kept connection that turned out
//!   dead does not count. Failures of attempts that ran side by side count once: none of them was a second try.
//! - Lost after it was sent whole (or a wrong answer): once more on the same endpoint, fresh; then the destination leaves. No answer in time: it
//!   leaves at once, unless the endpoint meanwhile answered what was sent later: then the message is at fault, and only it moves.
//! - Refused: only the envelope moves; refusals of `REFUSALS_IN_A_ROW` different envelopes in a row make the destination leave.
//! - The return needs a proof that reaches as far as the failure did (`health::Proof`). Where no probe can give it, one envelope goes as canary.
//!   `hold_down` doubles with each failed return, up to `hold_down_max`. `failback = "manual"`: no voluntary return without `failback_now`.
//! - A shift or a follow changes what is liked, never what is eligible: an endpoint that fails is left whoever wished for it. What stayed in service
//!   meanwhile is taken up at once when a wish ends; what went out returns by the rules above. A drained or disabled endpoint gets nothing.
//! - Stalled: one envelope at a time, as scout, tries all endpoints in order; then all wait (backoff), and again. A good probe that is proof enough
//!   ends the wait; so does any answer.
//! - Slow is not dead: `pace` says when a slow endpoint is left, and it stays eligible.
//! - An endpoint that missed something (`resync`) asks for it when its time to return has come, and returns when it has it (`behind`).
//! - An attempt that began before the destination left its endpoint says nothing new about it.
//!
//! Errors: none, but `ShiftRefused`. Every change carries a reason for people (`Change`).
//!
//! Here stand the words that go in and out, and what people see. `choosing`: where an envelope goes; `observing`: what attempts and probes mean;
//! `service`: who is in service, returns, stalls; `wishes`: what people want.

use super::backoff::Backoff;
use super::health::Health;
use super::place::Place;
use super::wishes::{ShiftNews, Standings};
use super::{Admin, Blame, EndpointSet};
use crate::config::window::Window;
use crate::config::{Destination, Endpoint, Policy};
use crate::ids::{EndpointId, EnvelopeId};
use jiff::tz::TimeZone;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

mod behind;
mod choosing;
mod observing;
mod pace;
mod service;
mod wishes;

/// Different envelopes refused in a row that make a destination leave an endpoint: two may be the envelopes' fault.
pub const REFUSALS_IN_A_ROW: usize = 3;

/// Attempts in a row that were lost after the message was sent whole, before the destination leaves.
const LOST_IN_A_ROW: u32 = 2;

/// Why an attempt is made on an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errand {
    /// It is active.
    Traffic,
    /// The active one refused this envelope.
    Elsewhere,
    /// It misses this envelope, before it returns.
    CatchUp,
    /// To see whether the destination can return to it.
    Canary,
    /// No endpoint is in service: to see whether this one answers.
    Scout {
        /// In which stall, counted from the start.
        stall: u32,
    },
}

/// Where an envelope goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// On a fresh connection.
    pub fresh: bool,
    /// Why there.
    pub errand: Errand,
}

/// What an envelope wants.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish {
    /// Not these: they refused it.
    pub avoid: EndpointSet,
    /// This one again, on a fresh connection, if it still serves.
    pub again: Option<EndpointId>,
    /// Its lane, if it shares one: it keeps to one endpoint of several active ones.
    pub lane: Option<u32>,
    /// There and nowhere else: what an endpoint missed, before it returns.
    pub towards: Option<EndpointId>,
}

/// How many envelopes may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// As many as the window allows.
    Open,
    /// One, as scout.
    One,
    /// None for now.
    Closed,
}

/// An attempt that ended.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// Whose.
    pub envelope: EnvelopeId,
    /// As chosen.
    pub choice: Choice,
    /// When it began.
    pub started: Instant,
    /// What it says.
    pub blame: Blame,
    /// Failures without an answer of this envelope at this endpoint in a row, this one included.
    pub tries: u32,
    /// What was seen, for people.
    pub seen: &'a str,
}

/// What becomes of an envelope whose attempt failed without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing to say: the verdict alone decides.
    Verdict,
    /// The same endpoint, fresh, at once.
    Again,
    /// At once, wherever traffic goes now.
    Reroute,
    /// At once, but not there.
    Elsewhere,
    /// With the destination, until it tries again.
    Wait,
}

/// Something changed that people, metrics or couriers want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// An endpoint's observed health has another name.
    Health(EndpointId),
    /// New traffic goes elsewhere. `None`: nowhere.
    Active {
        /// Before.
        from: Option<EndpointId>,
        /// Now.
        to: Option<EndpointId>,
        /// Why.
        reason: String,
    },
    /// An endpoint became slow, or ceased to be.
    Pace(EndpointId),
    /// The destination left an endpoint: idle connections to it can be closed.
    Left(EndpointId),
    /// Waiting backoffs have lost their reason: try now.
    Release,
    /// Something happened to a shift.
    Shift {
        /// Its endpoint, by name.
        to: Arc<str>,
        /// What.
        news: ShiftNews,
        /// Why.
        reason: String,
    },
    /// People changed their mind about an endpoint.
    Admin {
        /// Which.
        endpoint: EndpointId,
        /// Why, and who.
        reason: String,
    },
    /// It could return, if it had what it missed: the caller sees to that and says `caught_up`.
    Returning(EndpointId),
}

#[derive(Debug, Clone)]
struct Stall {
    /// Endpoints still to try in this sweep.
    sweep: VecDeque<EndpointId>,
    /// The next try is not before.
    resume_at: Instant,
    /// Sweeps without success.
    step: u32,
    scout_out: bool,
    number: u32,
}

/// The machine. One for each destination.
#[derive(Debug, Clone)]
pub struct Failover {
    policy: Policy,
    attempts: u32,
    hold_down: Duration,
    hold_down_max: Duration,
    auto: bool,
    window: Option<Window>,
    backoff: Backoff,
    places: Vec<Place>,
    wishes: Standings,
    /// The last reading of the wall clock, and when it was made.
    clock: Option<(Instant, u64)>,
    zone: TimeZone,
    active: Vec<EndpointId>,
    stall: Option<Stall>,
    stalls: u32,
    reason: String,
    turn: u64,
    changes: VecDeque<Change>,
    random: fastrand::Rng,
}

impl Failover {
    /// All endpoints are trusted until something is seen.
    #[must_use]
    pub fn new(destination: &Destination, seed: u64, now: Instant) -> Self {
        let mut failover = Self {
            policy: destination.policy,
            attempts: u32::from(destination.attempts_before_failover.max(1)),
            hold_down: destination.hold_down,
            hold_down_max: destination.hold_down_max.max(destination.hold_down),
            auto: destination.failback_auto,
            window: destination.failback_window,
            backoff: Backoff { first: destination.retry_first, max: destination.retry_max },
            places: destination.endpoints.iter().map(|e| Place::new(e, destination.hold_down, now)).collect(),
            wishes: Standings::default(),
            clock: None,
            zone: TimeZone::UTC,
            active: Vec::new(),
            stall: None,
            stalls: 0,
            reason: String::new(),
            turn: 0,
            changes: VecDeque::new(),
            random: fastrand::Rng::with_seed(seed),
        };
        failover.review(now, "first of the list".to_owned());
        failover.changes.clear();
        failover
    }

    /// Takes new settings. Endpoints are recognised by name and address; what was seen of them stays. Wishes go by name alone.
    /// Choices made before must be reported with `forget` if their endpoint moved in the list: the caller rebuilds its own bookkeeping.
    pub fn reconfigure(&mut self, destination: &Destination, now: Instant) {
        let mut fresh = Failover::new(destination, self.random.u64(..), now);
        fresh.inherit(self);
        for place in &mut fresh.places {
            if let Some(old) = self.places.iter().find(|old| old.is_same_as(&place.config)) {
                let config = Arc::clone(&place.config);
                *place = old.under(config, now);
                place.hold_down = place.hold_down.clamp(fresh.hold_down, fresh.hold_down_max);
            }
        }
        let before = self.active.first().map(|e| Arc::clone(&self.places[e.index()].config.name));
        fresh.active.clear();
        fresh.review(now, "new configuration".to_owned());
        fresh.changes.retain(|change| matches!(change, Change::Shift { .. }));
        fresh.drop_lost_shift(now);
        let after = fresh.active.first().map(|e| Arc::clone(&fresh.places[e.index()].config.name));
        if before != after {
            let to = fresh.active.first().copied();
            fresh.changes.push_back(Change::Active { from: None, to, reason: "new configuration".to_owned() });
        }
        fresh.changes.push_back(Change::Release);
        *self = fresh;
    }

    // ---- what people see ----

    /// Endpoints that get new traffic, in order. Empty: stalled.
    #[must_use]
    pub fn active(&self) -> &[EndpointId] {
        &self.active
    }

    /// Why `active` is what it is.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// How many endpoints there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// A destination always has one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The configuration of an endpoint.
    #[must_use]
    pub fn endpoint(&self, endpoint: EndpointId) -> Option<&Arc<Endpoint>> {
        self.places.get(endpoint.index()).map(|p| &p.config)
    }

    /// Observed health of an endpoint.
    #[must_use]
    pub fn health(&self, endpoint: EndpointId) -> Option<&Health> {
        self.places.get(endpoint.index()).map(|p| &p.health)
    }

    /// What people want of an endpoint.
    #[must_use]
    pub fn admin(&self, endpoint: EndpointId) -> Option<Admin> {
        self.places.get(endpoint.index()).map(|p| p.admin)
    }

    /// The next change to tell, oldest first.
    pub fn next_change(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests")]
mod histories;
#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests")]
mod shifts;
#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests")]
mod tests;
