//! Chooses the endpoint of a destination for each attempt: the one place where failover and failback are decided.
//!
//! ```text
//!  each endpoint:     in service ---- left: failures, refusals, bad probes ----> out
//!                        ^   ^                                                   | |
//!                        |   +-- hold_down of good probes (voluntary return) ----+ |
//!                        |   +-- the same, then one good envelope (canary) --------+
//!                        +------ nothing else is in service and it is trusted, or it answered a scout
//!
//!  the destination:   Serving(active) <----------------------------------------> Stalled
//!                        no endpoint is in service ->   <- one is in service
//! ```
//! Rules
//! - The first endpoint in service, in the configured order, is active. (`round-robin`, `least-outstanding`: all in service are; a lane keeps to
//!   one of them while it serves.) Leaving is immediate; `hold_down` delays voluntary returns only.
//! - Not sent: again at once on a fresh connection, until `attempts_before_failover` tries in a row have failed. A kept connection that turned out
//!   dead does not count. Failures of attempts that ran side by side count once: none of them was a second try.
//! - Lost after it was sent whole (or a wrong answer): once more on the same endpoint, fresh; then the destination leaves. No answer in time: it
//!   leaves at once, unless the endpoint meanwhile answered what was sent later: then the message is at fault, and only it moves.
//! - Refused: only the envelope moves; refusals of `REFUSALS_IN_A_ROW` different envelopes in a row make the destination leave.
//! - The return needs a proof that reaches as far as the failure did (`health::Proof`). Where no probe can give it, one envelope goes as canary.
//!   `hold_down` doubles with each failed return, up to `hold_down_max`. `failback = "manual"`: no voluntary return without `failback_now`.
//! - Stalled: one envelope at a time, as scout, tries all endpoints in order; then all wait (backoff), and again. A good probe that is proof enough
//!   ends the wait; so does any answer.
//! - An attempt that began before the destination left its endpoint says nothing new about it.
//!
//! Errors: none. Every change carries a reason for people (`Change`). Later wishes of operators (shift, drain) change `order` and `Admin`, not this.

use super::backoff::Backoff;
use super::health::{Health, Proof};
use super::place::Place;
use super::{Admin, Blame, EndpointSet};
use crate::config::{Destination, Endpoint, Policy};
use crate::delivery::Phase;
use crate::ids::{EndpointId, EnvelopeId};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

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
    /// The destination left an endpoint: idle connections to it can be closed.
    Left(EndpointId),
    /// Waiting backoffs have lost their reason: try now.
    Release,
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
    backoff: Backoff,
    places: Vec<Place>,
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
            backoff: Backoff { first: destination.retry_first, max: destination.retry_max },
            places: destination.endpoints.iter().map(|e| Place::new(e, destination.hold_down, now)).collect(),
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

    /// Takes new settings. Endpoints are recognised by name and address; what was seen of them stays.
    /// Choices made before must be reported with `forget` if their endpoint moved in the list: the caller rebuilds its own bookkeeping.
    pub fn reconfigure(&mut self, destination: &Destination, now: Instant) {
        let mut fresh = Failover::new(destination, self.random.u64(..), now);
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
        fresh.changes.clear();
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

    // ---- choosing ----

    /// How many envelopes may be taken now.
    #[must_use]
    pub fn admission(&self, now: Instant) -> Admission {
        match &self.stall {
            None => Admission::Open,
            Some(stall) if stall.scout_out || now < stall.resume_at || stall.sweep.is_empty() => Admission::Closed,
            Some(_) => Admission::One,
        }
    }

    /// Whether an endpoint could take an envelope now that avoids some.
    #[must_use]
    pub fn has_place_for(&self, avoid: EndpointSet) -> bool {
        self.order().any(|e| !avoid.contains(e) && (self.places[e.index()].trusted() || self.canary_due(e) || self.in_sweep(e)))
    }

    /// Where this envelope goes now; `None` if no endpoint that it may go to is good.
    pub fn choose(&mut self, wish: Wish, now: Instant) -> Option<Choice> {
        let choice = match self.stall {
            Some(_) => self.scout(wish, now),
            None => self.serve(wish),
        }?;
        let place = &mut self.places[choice.endpoint.index()];
        place.outstanding += 1;
        place.canary_out |= choice.errand == Errand::Canary;
        Some(choice)
    }

    fn serve(&mut self, wish: Wish) -> Option<Choice> {
        if let Some(endpoint) = wish.again.filter(|e| self.places.get(e.index()).is_some_and(Place::trusted)) {
            let errand = if self.active.contains(&endpoint) { Errand::Traffic } else { Errand::Elsewhere };
            return Some(Choice { endpoint, fresh: true, errand });
        }
        if let Some(endpoint) = self.order().find(|e| !wish.avoid.contains(*e) && self.canary_due(*e)) {
            return Some(Choice { endpoint, fresh: true, errand: Errand::Canary });
        }
        if let Some(endpoint) = self.pick_active(wish) {
            return Some(Choice { endpoint, fresh: false, errand: Errand::Traffic });
        }
        let endpoint = self.order().find(|e| !wish.avoid.contains(*e) && self.places[e.index()].trusted())?;
        Some(Choice { endpoint, fresh: false, errand: Errand::Elsewhere })
    }

    fn pick_active(&mut self, wish: Wish) -> Option<EndpointId> {
        let open: Vec<EndpointId> = self.active.iter().copied().filter(|e| !wish.avoid.contains(*e)).collect();
        let weight = |e: &EndpointId| u64::from(self.places[e.index()].config.weight.max(1));
        match (self.policy, wish.lane) {
            (Policy::Failover, _) => open.first().copied(),
            // Highest score of lane and endpoint: a lane moves only when its own endpoint goes or comes back.
            (_, Some(lane)) => open.into_iter().max_by_key(|e| u128::from(mix(lane, *e)) * u128::from(weight(e))),
            (Policy::LeastOutstanding, None) => open.into_iter().min_by_key(|e| u64::from(self.places[e.index()].outstanding) * 1_000 / weight(e)),
            (Policy::RoundRobin, None) => {
                let total: u64 = open.iter().map(weight).sum();
                let mut turn = self.turn.checked_rem(total)?;
                self.turn = self.turn.wrapping_add(1);
                open.iter().copied().find(|e| {
                    let mine = turn < weight(e);
                    turn = turn.saturating_sub(weight(e));
                    mine
                })
            }
        }
    }

    fn scout(&mut self, wish: Wish, now: Instant) -> Option<Choice> {
        if self.admission(now) != Admission::One {
            return None;
        }
        let stall = self.stall.as_mut()?;
        let at = stall.sweep.iter().position(|e| !wish.avoid.contains(*e))?;
        let endpoint = stall.sweep.remove(at)?;
        stall.scout_out = true;
        Some(Choice { endpoint, fresh: true, errand: Errand::Scout { stall: stall.number } })
    }

    /// A choice that came to nothing: the attempt was never begun.
    pub fn forget(&mut self, choice: Choice, now: Instant) {
        let choice = self.release(choice, now);
        if let (Errand::Scout { .. }, Some(stall)) = (choice.errand, &mut self.stall) {
            stall.sweep.push_front(choice.endpoint);
        }
    }

    // ---- observing ----

    /// An attempt ended.
    pub fn ended(&mut self, end: End<'_>, now: Instant) -> Next {
        let choice = self.release(end.choice, now);
        let Some(place) = self.places.get(choice.endpoint.index()) else { return Next::Reroute };
        let end = End { choice, ..end };
        let stale_news = place.left_at.is_some_and(|left| end.started < left) && !matches!(choice.errand, Errand::Scout { .. });
        match end.blame {
            Blame::None => {
                self.scout_back(end.choice);
                Next::Verdict
            }
            Blame::Answered => {
                if !stale_news || self.stall.is_some() {
                    self.answered(end.choice, now);
                }
                Next::Verdict
            }
            Blame::Silent => {
                self.silent(end.choice, stale_news, now);
                Next::Verdict
            }
            Blame::Refused => {
                if !stale_news {
                    self.refused(end, now);
                }
                Next::Verdict
            }
            Blame::NotSent { stale: true, .. } if !end.choice.fresh => Next::Again,
            Blame::NotSent { .. } | Blame::Lost | Blame::Timeout if stale_news => Next::Reroute,
            Blame::NotSent { phase, .. } => self.failed(end, phase, now),
            Blame::Lost | Blame::Timeout => self.failed(end, Phase::Answer, now),
        }
    }

    /// Takes a choice back. A canary or scout whose reason is gone meanwhile is ordinary traffic.
    fn release(&mut self, mut choice: Choice, now: Instant) -> Choice {
        let Some(place) = self.places.get_mut(choice.endpoint.index()) else { return choice };
        place.outstanding = place.outstanding.saturating_sub(1);
        if choice.errand == Errand::Canary {
            place.canary_out = false;
            if place.out.is_none() || self.stall.is_some() {
                choice.errand = Errand::Traffic;
            }
        }
        if let Errand::Scout { stall: number } = choice.errand {
            match self.stall.as_mut().filter(|stall| stall.number == number) {
                Some(stall) => {
                    stall.scout_out = false;
                    stall.resume_at = stall.resume_at.min(now);
                }
                None => choice.errand = Errand::Traffic,
            }
        }
        choice
    }

    /// A scout that learned nothing: its endpoint is still to be tried.
    fn scout_back(&mut self, choice: Choice) {
        if let (Errand::Scout { .. }, Some(stall)) = (choice.errand, &mut self.stall) {
            stall.sweep.push_front(choice.endpoint);
        }
    }

    fn answered(&mut self, choice: Choice, now: Instant) {
        let stalled = self.stall.is_some();
        let place = &mut self.places[choice.endpoint.index()];
        place.forgive();
        place.refused.clear();
        if place.health.answered(now) {
            self.changes.push_back(Change::Health(choice.endpoint));
        }
        if place.out.is_some() && (stalled || choice.errand == Errand::Canary) {
            place.bring_back(now);
            let what = if stalled { "answered" } else { "answered the canary" };
            let why = format!("{} {what}", place.config.name);
            self.review(now, why);
        }
    }

    /// Sent whole, nothing awaited: proof of the way there, not of the application.
    fn silent(&mut self, choice: Choice, stale_news: bool, now: Instant) {
        let place = &mut self.places[choice.endpoint.index()];
        let enough = place.health.proof() <= Proof::Reaching(Phase::Transmit);
        if !stale_news && enough {
            self.answered(choice, now);
        } else if choice.errand == Errand::Canary {
            self.canary_failed(choice.endpoint, Proof::Reaching(Phase::Answer), "it asked for no answer and so proved nothing", now);
        } else {
            self.scout_back(choice);
        }
    }

    fn refused(&mut self, end: End<'_>, now: Instant) {
        let (envelope, choice) = (end.envelope, end.choice);
        let place = &mut self.places[choice.endpoint.index()];
        place.forgive();
        match choice.errand {
            Errand::Canary => self.canary_failed(choice.endpoint, Proof::Traffic, end.seen, now),
            // What becomes of the envelope, the verdict says.
            Errand::Scout { .. } => drop(self.scout_failed(choice.endpoint, Proof::Traffic, end.seen, now)),
            // Out already, and a refusal is no reason to come back.
            Errand::Traffic | Errand::Elsewhere if place.out.is_some() => {}
            Errand::Traffic | Errand::Elsewhere => {
                if place.health.answered(now) {
                    self.changes.push_back(Change::Health(choice.endpoint));
                }
                if !place.refused.contains(&envelope) {
                    place.refused.push(envelope);
                }
                if place.refused.len() >= REFUSALS_IN_A_ROW {
                    let why = format!("refused {REFUSALS_IN_A_ROW} different envelopes in a row, the last with {}", end.seen);
                    self.leave(choice.endpoint, Proof::Traffic, why, now);
                }
            }
        }
    }

    /// An attempt failed without an answer.
    fn failed(&mut self, end: End<'_>, phase: Phase, now: Instant) -> Next {
        let endpoint = end.choice.endpoint;
        match end.choice.errand {
            Errand::Canary => {
                self.canary_failed(endpoint, Proof::Reaching(phase), end.seen, now);
                return Next::Reroute;
            }
            Errand::Scout { .. } => return self.scout_failed(endpoint, Proof::Reaching(phase), end.seen, now),
            Errand::Traffic | Errand::Elsewhere => {}
        }
        let place = &mut self.places[endpoint.index()];
        let fault_of_message = place.health.answered_since(end.started, now);
        place.count_failure(end.started, end.blame == Blame::Lost, now);
        let (limit, leave) = match end.blame {
            Blame::Timeout => (1, !fault_of_message),
            Blame::Lost => (LOST_IN_A_ROW, place.lost >= LOST_IN_A_ROW || place.failures >= self.attempts.max(LOST_IN_A_ROW)),
            _ => (self.attempts, place.failures >= self.attempts),
        };
        if leave {
            let why = format!("left after a failure in phase {phase}: {}", end.seen);
            self.leave(endpoint, Proof::Reaching(phase), why, now);
            return Next::Reroute;
        }
        if place.health.traffic_failed(end.seen) {
            self.changes.push_back(Change::Health(endpoint));
        }
        if end.tries >= limit { Next::Elsewhere } else { Next::Again }
    }

    fn canary_failed(&mut self, endpoint: EndpointId, proof: Proof, seen: &str, now: Instant) {
        let max = self.hold_down_max;
        let place = &mut self.places[endpoint.index()];
        place.canary_due = false;
        place.hold_down = place.hold_down.saturating_mul(2).min(max);
        let why = format!("the canary failed ({seen}); next return after {} s of good probes", place.hold_down.as_secs_f32());
        if place.health.condemn(proof, why, now) {
            self.changes.push_back(Change::Health(endpoint));
        }
        self.review(now, String::new());
    }

    fn scout_failed(&mut self, endpoint: EndpointId, proof: Proof, seen: &str, now: Instant) -> Next {
        let place = &mut self.places[endpoint.index()];
        if place.health.condemn(proof, format!("tried in turn: {seen}"), now) {
            self.changes.push_back(Change::Health(endpoint));
        }
        let usable: Vec<EndpointId> = self.usable().collect();
        let Some(stall) = &mut self.stall else { return Next::Reroute };
        if !stall.sweep.is_empty() {
            return Next::Reroute;
        }
        stall.resume_at = now + self.backoff.delay(stall.step, &mut self.random);
        stall.step = stall.step.saturating_add(1);
        stall.sweep = usable.into();
        Next::Wait
    }

    /// The destination leaves an endpoint, at once.
    fn leave(&mut self, endpoint: EndpointId, proof: Proof, why: String, now: Instant) {
        let place = &mut self.places[endpoint.index()];
        let reason = format!("{} {why}", place.config.name);
        if place.health.condemn(proof, why, now) {
            self.changes.push_back(Change::Health(endpoint));
        }
        self.put_out(endpoint, now);
        self.review(now, reason);
    }

    fn put_out(&mut self, endpoint: EndpointId, now: Instant) {
        self.places[endpoint.index()].put_out(self.hold_down, self.hold_down_max, now);
        self.changes.push_back(Change::Left(endpoint));
    }

    /// A probe is due somewhere: the caller makes it now and reports with `probed`.
    pub fn probe_due(&mut self, now: Instant) -> Option<EndpointId> {
        let index = self.places.iter_mut().position(|p| p.admin != Admin::Disabled && p.health.probe_due(now))?;
        u16::try_from(index).ok().map(EndpointId)
    }

    /// A probe ended.
    pub fn probed(&mut self, endpoint: EndpointId, result: Result<(), (Phase, &str)>, now: Instant) {
        let Some(place) = self.places.get_mut(endpoint.index()) else { return };
        let distrusted = !place.health.eligible();
        if place.health.probed(result, now, &mut self.random) {
            self.changes.push_back(Change::Health(endpoint));
        }
        let place = &self.places[endpoint.index()];
        let hopeful = result.is_ok() && distrusted && place.health.probes_suffice();
        if let (true, Some(stall)) = (hopeful, &mut self.stall) {
            // Not only the wait ends: the endpoint that gave the sign is tried first.
            stall.sweep.retain(|e| *e != endpoint);
            stall.sweep.push_front(endpoint);
            stall.resume_at = stall.resume_at.min(now);
            self.changes.push_back(Change::Release);
        }
        self.review(now, String::new());
    }

    /// People changed their mind about an endpoint. An endpoint that they enable is in service at once if it is trusted.
    pub fn set_admin(&mut self, endpoint: EndpointId, admin: Admin, now: Instant) {
        if let Some(place) = self.places.get_mut(endpoint.index()) {
            place.admin = admin;
            let why = format!("{} {} by an operator", place.config.name, admin.name());
            let usable: VecDeque<EndpointId> = self.usable().collect();
            if let Some(stall) = &mut self.stall {
                stall.sweep = usable;
            }
            self.review(now, why);
        }
    }

    /// An operator wants the first endpoint back that can be had, now. False: none before the active one is good.
    pub fn failback_now(&mut self, now: Instant) -> bool {
        let before: Vec<EndpointId> = self.order().take_while(|e| !self.active.contains(e)).collect();
        if let Some(endpoint) = before.iter().find(|e| self.places[e.index()].trusted()) {
            let place = &mut self.places[endpoint.index()];
            place.bring_back(now);
            let why = format!("{} wanted back by an operator", place.config.name);
            self.review(now, why);
            return true;
        }
        let Some(endpoint) = before.into_iter().find(|e| self.places[e.index()].health.wants_canary()) else { return false };
        self.places[endpoint.index()].canary_due = true;
        self.changes.push_back(Change::Release);
        true
    }

    // ---- time ----

    /// When there is something to do, if ever: `on_timeout`, a probe, the end of a stall's wait. The latter is past when nothing is there to be sent.
    #[must_use]
    pub fn next_timeout(&self, now: Instant) -> Option<Instant> {
        let probes = self.places.iter().filter(|p| p.admin != Admin::Disabled).filter_map(|p| p.health.next_probe());
        let returns = self.order().filter_map(|e| self.return_at(e));
        probes.chain(returns).chain(self.resume_at().filter(|at| *at > now)).min()
    }

    /// The end of the wait of a stall.
    #[must_use]
    pub fn resume_at(&self) -> Option<Instant> {
        self.stall.as_ref().filter(|s| !s.scout_out && !s.sweep.is_empty()).map(|s| s.resume_at)
    }

    /// Time passed: returns happen here. Probes are asked for with `probe_due`.
    pub fn on_timeout(&mut self, now: Instant) {
        self.review(now, String::new());
    }

    /// When an endpoint that is out may come back by itself, or send for a canary, if it is on its way.
    fn return_at(&self, endpoint: EndpointId) -> Option<Instant> {
        let place = &self.places[endpoint.index()];
        let waiting = place.out.is_some() && !place.canary_due && (place.trusted() || place.health.wants_canary());
        let may = waiting && self.stall.is_none() && self.auto && self.voluntary(endpoint) && place.admin == Admin::Enabled;
        place.health.good_since().filter(|_| may).map(|since| since + place.hold_down)
    }

    // ---- the state of service ----

    fn order(&self) -> impl Iterator<Item = EndpointId> + use<> {
        (0..u16::try_from(self.places.len()).unwrap_or(u16::MAX)).map(EndpointId)
    }

    fn usable(&self) -> impl Iterator<Item = EndpointId> + '_ {
        self.order().filter(|e| self.places[e.index()].admin == Admin::Enabled)
    }

    fn serves(&self, endpoint: EndpointId) -> bool {
        self.places.get(endpoint.index()).is_some_and(|p| p.out.is_none() && p.trusted())
    }

    fn in_sweep(&self, endpoint: EndpointId) -> bool {
        self.stall.as_ref().is_some_and(|s| s.sweep.contains(&endpoint))
    }

    /// Its return would change where traffic goes.
    fn voluntary(&self, endpoint: EndpointId) -> bool {
        self.policy != Policy::Failover || self.active.first().is_none_or(|active| endpoint < *active)
    }

    /// One envelope may go there, to see whether it takes messages again.
    fn canary_due(&self, endpoint: EndpointId) -> bool {
        let place = &self.places[endpoint.index()];
        place.canary_due && !place.canary_out && place.admin == Admin::Enabled && self.stall.is_none()
    }

    /// Brings the state of service in line with what is known now. `why`: for people, if something was just decided.
    fn review(&mut self, now: Instant, mut why: String) {
        for endpoint in self.order() {
            let place = &self.places[endpoint.index()];
            if place.out.is_none() && !place.health.eligible() {
                why = format!("{}: {}", place.config.name, place.health.reason());
                self.put_out(endpoint, now);
            }
        }
        for endpoint in self.order() {
            let voluntary = self.voluntary(endpoint);
            let place = &mut self.places[endpoint.index()];
            place.canary_due &= place.health.wants_canary();
            if place.out.is_none() || self.stall.is_some() {
                continue;
            }
            let rested = self.auto && place.rested(now);
            if place.trusted() && (rested || !voluntary) {
                if voluntary {
                    why = format!("{} was good for {} s", place.config.name, place.hold_down.as_secs_f32());
                }
                place.bring_back(now);
            } else if voluntary && rested && place.health.wants_canary() && !place.canary_due {
                place.canary_due = true;
                self.changes.push_back(Change::Release);
            }
        }
        self.appoint(now, &why);
    }

    fn appoint(&mut self, now: Instant, why: &str) {
        let mut serving: Vec<EndpointId> = self.order().filter(|e| self.serves(*e)).collect();
        if serving.is_empty() {
            // Hold-down delays voluntary returns only: what is trusted serves when nothing else does.
            if let Some(endpoint) = self.order().find(|e| self.places[e.index()].trusted()) {
                self.places[endpoint.index()].bring_back(now);
                serving.push(endpoint);
            }
        }
        if self.policy == Policy::Failover {
            serving.truncate(1);
        }
        match (serving.is_empty(), self.stall.is_some()) {
            (true, false) => self.stall(now),
            (false, true) => {
                self.stall = None;
                self.changes.push_back(Change::Release);
            }
            (true, true) | (false, false) => {}
        }
        self.tell(serving, why);
    }

    fn stall(&mut self, now: Instant) {
        let just_left = self.active.first().copied().filter(|_| self.active.len() == 1);
        let mut sweep: VecDeque<EndpointId> = self.usable().filter(|e| Some(*e) != just_left).collect();
        let mut resume_at = now;
        let mut step = 0;
        if sweep.is_empty() {
            sweep = self.usable().collect();
            resume_at = now + self.backoff.delay(0, &mut self.random);
            step = 1;
        }
        self.stalls = self.stalls.wrapping_add(1);
        self.stall = Some(Stall { sweep, resume_at, step, scout_out: false, number: self.stalls });
    }

    fn tell(&mut self, serving: Vec<EndpointId>, why: &str) {
        if serving == self.active && !self.reason.is_empty() {
            return;
        }
        let from = self.active.iter().copied().find(|e| !serving.contains(e));
        let to = serving.iter().copied().find(|e| !self.active.contains(e)).or(serving.first().copied());
        self.reason = match to {
            Some(_) if why.is_empty() => "its probes are good".to_owned(),
            Some(_) => why.to_owned(),
            None if self.usable().next().is_none() => "stalled: every endpoint is disabled by an operator".to_owned(),
            None => format!("stalled: no eligible endpoint; {why}"),
        };
        self.active = serving;
        self.changes.push_back(Change::Active { from, to, reason: self.reason.clone() });
    }
}

/// Spreads lanes over endpoints: the same two always score the same (splitmix64).
fn mix(lane: u32, endpoint: EndpointId) -> u64 {
    let mut x = (u64::from(lane) << 16 | u64::from(endpoint.0)).wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    // The upper half, so that a weight can multiply it.
    (x ^ (x >> 31)) >> 32
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests")]
mod tests;
