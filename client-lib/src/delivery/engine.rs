//! The engine of one destination: joins the spool's order, the choice of endpoints and the verdicts. Events in, actions out.
//!
//! ```text
//!            wants -> (spool.take) -> offer -> Attempt ... ended -> judge -> failover.ended
//!              ^                                                      |
//!              |      Due: at once (again, elsewhere, reroute)        v
//!              +----------------- schedule <-------- Deferred | Delivered | DeadLetter | Held
//!                   after backoff, or with the destination
//! ```
//! Rules
//! - Every attempt that ended is settled in the spool, so that the story there is whole; what is tried again at once is deferred and due at once.
//! - Order is the spool's: it hands out one envelope per lane. The window bounds attempts in parallel: 1 for `strict`, one per association for
//!   lanes with a key, associations x window without order (more where the senders' own AE titles are passed on). While stalled it is one scout.
//! - A negative answer moves the envelope, each other endpoint once; then it rests and begins a new round (`patience`: when). What an endpoint refused for what it is
//!   (no context, unknown key there) is not offered to it again; only when every endpoint has refused it so, it is judged for good.
//! - `ambiguous = "hold"`: the start of an attempt is synced before its first byte leaves, its end before anything else is taken. A start without an
//!   end, found after a restart, is held.
//! - One alarm per condition, one event at its begin and one at its end.
//!
//! Errors: none; what the spool refuses is the driver's to tell. The caller empties `next_action` after every call.

mod degraded;
pub mod direct;
mod outages;
mod patience;
mod replays;
mod story;
mod view;
mod wishes;

use super::alarms::{Alarm, Alarms};
use super::outages::Outages;
use super::replay::{Command, Replays};
use super::scheduler::{Memo, Schedule, Tries};
use super::standby::{Kind, Standbys};
use super::verdict::{Concern, Policies, Ruling, Situation, judge};
use super::{Outcome, Phase, Verdict};
use crate::config::{Ambiguous, CallingAe, Destination, Ordering, Probe};
use crate::endpoint::backoff::Backoff;
use crate::endpoint::failover::{Admission, Change, Choice, End, Errand, Failover, Next, Wish};
use crate::endpoint::health::Health;
use crate::endpoint::{Admin, Blame};
use crate::event::{Delivered, Event};
use crate::ids::{EndpointId, EnvelopeId};
use crate::limits::ATTEMPTS_PER_PLACE;
use crate::spool::{AttemptRecord, Envelope, Lane, Settlement, UnixMillis};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Now, by both clocks: `at` decides, `wall` is for people.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Monotonic.
    pub at: Instant,
    /// Wall time.
    pub wall: UnixMillis,
}

/// What the driver has to do.
#[derive(Debug)]
pub enum Action {
    /// Make an attempt and report with `ended`.
    Attempt {
        /// What.
        envelope: Envelope,
        /// Where.
        endpoint: EndpointId,
        /// On a fresh connection.
        fresh: bool,
        /// First ask the endpoint whether it has it.
        ask: bool,
        /// First make `Settlement::Started` durable; if that fails, report `Outcome::Local`.
        synced: bool,
    },
    /// Probe an endpoint and report with `probed`.
    Probe {
        /// Which.
        endpoint: EndpointId,
        /// One of those that store an object.
        store: bool,
    },
    /// Rehearse with an endpoint and report with `rehearsed`.
    Rehearse {
        /// Which.
        endpoint: EndpointId,
        /// What is negotiated.
        kinds: Vec<Kind>,
    },
    /// Keep something for `recall` in the next run.
    Remember {
        /// Under this name.
        name: String,
        /// As `recall` takes it.
        value: Vec<u8>,
    },
    /// Close idle connections to an endpoint.
    Drain(EndpointId),
    /// `Spool::settle`; if `synced`, report with `settled` when it is durable.
    Settle {
        /// Whose.
        id: EnvelopeId,
        /// What became of it.
        settlement: Settlement,
        /// Nothing more is taken before it is durable.
        synced: bool,
    },
    /// `Spool::due`.
    Due(EnvelopeId),
    /// `Spool::untake`.
    Untake(EnvelopeId),
    /// `Spool::replay` or `Spool::end_replay`, and `Spool::keep_for_replay`; report with `replay_done`.
    Replay(Box<Command>),
    /// Tell the readers.
    Emit(Event),
}

#[derive(Debug)]
struct Flight {
    envelope: Envelope,
    memo: Memo,
    /// `None`: its endpoint left the configuration meanwhile.
    choice: Option<Choice>,
    name: Arc<str>,
    preferred: bool,
    since: Instant,
    /// Whom it was connected to.
    address: Option<SocketAddr>,
}

/// The engine of one destination.
#[derive(Debug)]
pub struct Engine {
    destination: Arc<Destination>,
    policies: Policies,
    failover: Failover,
    schedule: Schedule,
    flights: HashMap<EnvelopeId, Flight>,
    actions: VecDeque<Action>,
    alarms: Alarms,
    refused_long: BTreeSet<EnvelopeId>,
    /// Endpoints whose probe under way began after the last message that raised a concern there, and when: only such a one can show that the cause is gone.
    fresh_probes: BTreeMap<EndpointId, Instant>,
    /// Settlements that must be durable before more is taken.
    unsettled: usize,
    paused: bool,
    stopping: bool,
    /// The spool had nothing to hand out.
    dry: bool,
    /// Answers of any kind so far, from any endpoint.
    answers: u64,
    /// Attempts without an envelope so far.
    directs: u64,
    /// Whether those that are not active would take what the active ones get.
    standbys: Standbys,
    random: fastrand::Rng,
    replays: Replays,
    outages: Outages,
    /// The endpoints that were active before the change that is being told.
    was_active: Vec<Arc<str>>,
}

impl Engine {
    /// Nothing is known yet; the first probes are due at once.
    #[must_use]
    pub fn new(destination: Arc<Destination>, seed: u64, now: Instant) -> Self {
        let failover = Failover::new(&destination, seed, now);
        let schedule = Schedule::new(backoff_of(&destination), seed.wrapping_add(1));
        let (mut standbys, mut random) = (Standbys::default(), fastrand::Rng::with_seed(seed.wrapping_add(2)));
        standbys.reset(failover.len(), &mut random, now);
        let mut outages = Outages::default();
        outages.reconfigure(destination.objectives);
        let mut engine = Self {
            replays: Replays::new(&destination),
            policies: Policies::of(&destination),
            destination,
            failover,
            schedule,
            flights: HashMap::new(),
            actions: VecDeque::new(),
            alarms: Alarms::default(),
            refused_long: BTreeSet::new(),
            fresh_probes: BTreeMap::new(),
            unsettled: 0,
            paused: false,
            stopping: false,
            dry: false,
            answers: 0,
            directs: 0,
            standbys,
            random,
            outages,
            was_active: Vec::new(),
        };
        engine.was_active = engine.active_names();
        engine
    }

    /// Takes new settings, live. Attempts in flight end on the endpoints they were begun on.
    pub fn reconfigure(&mut self, destination: Arc<Destination>, now: Moment) {
        for flight in self.flights.values_mut() {
            let at = destination.endpoints.iter().position(|e| e.name == flight.name);
            flight.choice = at.and_then(|i| u16::try_from(i).ok()).zip(flight.choice).map(|(i, choice)| Choice {
                endpoint: EndpointId(i),
                errand: Errand::Traffic,
                ..choice
            });
            let Memo { step, troubled_since, older, sent, .. } = flight.memo;
            flight.memo = Memo { step, troubled_since, older, sent, ..Memo::default() };
        }
        let over = self.alarms.clear_if(|alarm| matches!(alarm, Alarm::Concern(..)));
        self.actions.extend(over.into_iter().map(Action::Emit));
        self.policies = Policies::of(&destination);
        self.schedule.reconfigure(backoff_of(&destination));
        self.failover.reconfigure(&destination, now.at);
        self.replays.reconfigure(&destination);
        self.outages.reconfigure(destination.objectives);
        self.destination = destination;
        self.reset_standbys(now);
        self.dry = false;
        self.absorb(now);
    }

    /// The next thing to do, in order.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    // ---- taking ----

    /// Whether an envelope should be taken from the spool now.
    #[must_use]
    pub fn wants(&self, now: Instant) -> bool {
        let idle = !self.paused && !self.stopping && !self.dry && self.unsettled == 0 && !self.schedule.lulled(now);
        let wanted = self.wanted();
        let room = (wanted.messages || wanted.replays) && !self.schedule.is_full();
        idle && room && self.failover.admission(now) != Admission::Closed
    }

    /// Attempts in parallel.
    fn window(&self) -> usize {
        let associations = usize::from(self.destination.associations.get());
        match self.destination.ordering {
            Ordering::Strict => 1,
            Ordering::Patient | Ordering::Study => associations,
            // With many titles on few associations, the courier lets objects of one title follow each other; for that it needs more to choose from.
            Ordering::None if self.destination.calling_ae == CallingAe::Pass => associations * ATTEMPTS_PER_PLACE,
            Ordering::None => associations * usize::from(self.destination.window.get()),
        }
    }

    /// The spool handed out an envelope.
    pub fn offer(&mut self, envelope: Envelope, now: Moment) {
        self.note_kind(&envelope.keys, now);
        let mut memo = self.schedule.take_up(envelope.id);
        // Tried, and nothing remembered of it: that was before a restart. What an operator brought back begins anew.
        if memo == Memo::default() && envelope.attempts > 0 && !envelope.out_of_order {
            memo.older = Duration::from_millis(now.wall.saturating_sub(envelope.accepted_at));
        }
        if self.policies.ambiguous == Ambiguous::Hold && envelope.interrupted {
            self.hold(envelope.id, story::never_ended(&envelope, now));
            return;
        }
        self.place(envelope, memo, now);
    }

    fn place(&mut self, envelope: Envelope, mut memo: Memo, now: Moment) {
        let lane = match envelope.lane {
            Lane::Key(key) => Some(key),
            Lane::Own | Lane::Barrier => None,
        };
        let towards = self.towards(envelope.replay);
        let mut choice = self.failover.choose(Wish { avoid: memo.avoid(), again: memo.again, lane, towards }, now.at);
        if choice.is_none() && towards.is_some() {
            return self.replay_waits(envelope.id, memo, now);
        }
        if choice.is_none() && !memo.refused.is_empty() && self.failover.admission(now.at) != Admission::Closed {
            memo.new_round();
            choice = self.failover.choose(Wish { avoid: memo.avoid(), again: None, lane, towards }, now.at);
        }
        memo.again = None;
        let Some((choice, config)) = choice.and_then(|c| self.failover.endpoint(c.endpoint).map(|e| (c, e))) else {
            self.nowhere(envelope, memo, now);
            return;
        };
        let name = Arc::clone(&config.name);
        let preferred = choice.endpoint.index() == 0;
        let synced = self.policies.ambiguous == Ambiguous::Hold;
        let (endpoint, fresh, ask) = (choice.endpoint, choice.fresh, self.asks_first(&envelope));
        let order = Action::Attempt { envelope: envelope.clone(), endpoint, fresh, ask, synced };
        self.flights.insert(envelope.id, Flight { envelope, memo, choice: Some(choice), name, preferred, since: now.at, address: None });
        self.actions.push_back(order);
    }

    /// No endpoint will have it now.
    fn nowhere(&mut self, envelope: Envelope, memo: Memo, now: Moment) {
        if self.failover.admission(now.at) == Admission::Closed {
            self.schedule.release(envelope.id, memo, now.at);
            self.actions.push_back(Action::Untake(envelope.id));
            return;
        }
        let outcome = "not tried: every endpoint that is up has refused it for what it is".to_owned();
        let record = AttemptRecord::new(Arc::from(""), Phase::Resolve, outcome, now.wall);
        self.settle(envelope.id, Settlement::Deferred(record));
        self.schedule.rest(envelope.id, memo, now.at);
    }

    /// The spool had nothing to hand out.
    pub fn drained(&mut self, now: Moment) {
        self.dry = true;
        if self.failover.admission(now.at) == Admission::One {
            self.unpark_scout(now);
        }
    }

    /// Envelopes may have become ready.
    pub fn kicked(&mut self) {
        self.dry = false;
    }

    /// The settlement of an attempt is durable (or never will be).
    pub fn settled(&mut self) {
        self.unsettled = self.unsettled.saturating_sub(1);
    }

    // ---- attempts ----

    /// An attempt ended.
    pub fn ended(&mut self, id: EnvelopeId, outcome: &Outcome, now: Moment) {
        let Some(mut flight) = self.flights.remove(&id) else { return };
        let there = *outcome == Outcome::AlreadyThere;
        let here = self.situation(&flight);
        let mut ruling = judge(outcome, self.policies, here);
        let phase = outcome.phase();
        if self.is_poison(&mut flight.memo, &ruling, phase) {
            ruling.blame = Blame::None;
        }
        let refused = flight.envelope.replay && self.rule_on_replay(&flight, &mut ruling, now);
        self.note_for_outage(&flight.name, ruling.blame, flight.since, now);
        let was_active = self.is_active(&flight);
        let next = self.tell_failover(&mut flight, &ruling, now);
        let next = self.patience(&mut flight.memo, &ruling, flight.choice.map(|c| c.endpoint), next);
        flight.memo.sent |= phase == Phase::Answer;
        let moved = matches!(next, Next::Reroute | Next::Elsewhere) && ruling.verdict == Verdict::Retry;
        let verdict = if moved { Verdict::Elsewhere } else { ruling.verdict };
        let took = now.at.saturating_duration_since(flight.since);
        self.emit(Event::Attempt { destination: self.name(), endpoint: Arc::clone(&flight.name), envelope: id, phase, verdict, took });
        let record = self.told(&flight, outcome, &ruling, verdict, was_active, now);
        if !there {
            self.concerns(&flight, &ruling);
        }
        if matches!(ruling.verdict, Verdict::Delivered | Verdict::DeliveredWithWarning | Verdict::Unconfirmed) && !refused && !there {
            self.replay_answered(&flight, now);
            self.delivered_in_outage(&flight.name, Some(flight.envelope.accepted_at), now);
        }
        match ruling.verdict {
            _ if there => self.replay_spared(&flight, record),
            _ if refused => self.replay_refused(&flight, ruling.seen, record),
            Verdict::Delivered => self.delivered(&flight, record, Delivered::Ok, took),
            Verdict::DeliveredWithWarning => self.delivered(&flight, record, Delivered::Warning, took),
            Verdict::Unconfirmed => self.delivered(&flight, record, Delivered::Unconfirmed, took),
            Verdict::DeadLetter => {
                self.settle(id, Settlement::DeadLetter(record, self.destination.after_dead_letter));
                self.emit(Event::DeadLetter { destination: self.name(), envelope: id });
                self.schedule.progressed();
                self.relieved(id);
            }
            Verdict::Hold => self.hold(id, record),
            Verdict::Retry | Verdict::Elsewhere | Verdict::Ambiguous => self.again(flight, &ruling, next, record, now),
        }
        self.absorb(now);
    }

    fn situation(&self, flight: &Flight) -> Situation {
        let envelope = &flight.envelope;
        let here = flight.choice.map(|c| c.endpoint);
        let others_refused = (0..self.failover.len()).filter_map(|i| u16::try_from(i).ok().map(EndpointId)).all(|e| {
            let out_of_question = self.failover.admin(e) == Some(Admin::Disabled);
            Some(e) == here || out_of_question || flight.memo.unwanted.contains(e)
        });
        Situation {
            preferred: flight.preferred,
            resend: flight.memo.sent || envelope.recovered || envelope.replay || !envelope.ambiguous_at.is_empty(),
            ambiguous_here: envelope.ambiguous_at.contains(&flight.name),
            last_resort: others_refused,
        }
    }

    fn tell_failover(&mut self, flight: &mut Flight, ruling: &Ruling, now: Moment) -> Next {
        let Some(choice) = flight.choice else { return Next::Reroute };
        let stale = matches!(ruling.blame, Blame::NotSent { stale: true, .. }) && !choice.fresh;
        let last = flight.memo.tries;
        let before = if last.at == choice.endpoint { last.count } else { 0 };
        let tries = if stale { before } else { before.saturating_add(1) };
        let without_answer = matches!(ruling.blame, Blame::NotSent { .. } | Blame::Lost | Blame::Timeout);
        flight.memo.tries = if without_answer { Tries { at: choice.endpoint, count: tries } } else { Tries::default() };
        let end = End { envelope: flight.envelope.id, choice, started: flight.since, blame: ruling.blame, tries, seen: &ruling.seen };
        self.failover.ended(end, now.at)
    }

    fn delivered(&mut self, flight: &Flight, record: AttemptRecord, how: Delivered, took: Duration) {
        let id = flight.envelope.id;
        self.settle(id, Settlement::Delivered(record, how));
        if !flight.envelope.replay {
            self.emit(Event::Delivered { destination: self.name(), endpoint: Arc::clone(&flight.name), envelope: id, outcome: how, took });
        }
        self.schedule.progressed();
        self.relieved(id);
    }

    fn hold(&mut self, id: EnvelopeId, record: AttemptRecord) {
        self.settle(id, Settlement::Held(record, self.destination.after_hold));
        self.emit(Event::Held { destination: self.name(), envelope: id });
        self.relieved(id);
    }

    /// Not delivered, and custody goes on.
    fn again(&mut self, flight: Flight, ruling: &Ruling, next: Next, record: AttemptRecord, now: Moment) {
        let Flight { envelope, mut memo, choice, .. } = flight;
        let id = envelope.id;
        self.settle(id, Settlement::Deferred(record));
        if matches!(ruling.blame, Blame::Refused | Blame::Answered | Blame::None) {
            self.troubled(id, &mut memo, now);
        }
        let here = choice.map(|c| c.endpoint);
        match (ruling.verdict, next) {
            (_, Next::Again) => {
                memo.again = here;
                self.at_once(id, memo, now);
            }
            (_, Next::Reroute) => {
                if self.failover.admission(now.at) == Admission::Closed {
                    self.schedule.park(id, memo);
                } else {
                    self.at_once(id, memo, now);
                }
            }
            (_, Next::Wait) => self.schedule.park(id, memo),
            (Verdict::Elsewhere, _) | (_, Next::Elsewhere) => {
                if let Some(endpoint) = here {
                    if ruling.unwanted { memo.unwanted.insert(endpoint) } else { memo.refused.insert(endpoint) }
                }
                if self.failover.has_place_for(memo.avoid()) && self.towards(envelope.replay).is_none() {
                    self.at_once(id, memo, now);
                } else {
                    memo.new_round();
                    self.schedule.rest(id, memo, now.at);
                }
            }
            (_, Next::Verdict) => self.schedule.rest(id, memo, now.at),
        }
        if self.schedule.is_full() {
            let what = "as many envelopes as may are waiting to be tried again; no new ones are taken until one of them is due".to_owned();
            self.raise(Alarm::Crowded, self.subject(), what);
        }
    }

    fn at_once(&mut self, id: EnvelopeId, memo: Memo, now: Moment) {
        self.schedule.release(id, memo, now.at);
        self.due(id);
    }

    fn due(&mut self, id: EnvelopeId) {
        self.actions.push_back(Action::Due(id));
        self.dry = false;
    }

    // ---- probes, time, people ----

    /// A probe ended.
    pub fn probed(&mut self, endpoint: EndpointId, result: Result<(), (Phase, &str)>, now: Moment) {
        self.failover.probed(endpoint, result, now.at);
        let began = self.fresh_probes.remove(&endpoint);
        self.probed_for_outage(endpoint, result.is_ok(), began, now);
        let config = self.failover.endpoint(endpoint);
        let echoed =
            result.is_ok() && began.is_some() && config.is_some_and(|e| matches!(e.health.probe, Probe::DicomEcho | Probe::DicomStore { .. }));
        // The echo went through an association under the titles that messages go under. With `pass` those are the senders', of which it shows nothing.
        if echoed && self.destination.calling_ae != CallingAe::Pass {
            let over = self.alarms.clear(Alarm::Concern(Concern::AssociationRejected, endpoint));
            self.actions.extend(over.map(Action::Emit));
        }
        self.absorb(now);
    }

    /// Time passed. Call at `next_timeout`, and as often as you like.
    pub fn tick(&mut self, now: Moment) {
        if self.stopping {
            return;
        }
        self.failover.on_clock(now.wall, now.at);
        self.failover.on_timeout(now.at);
        while let Some(endpoint) = self.failover.probe_due(now.at) {
            self.fresh_probes.insert(endpoint, now.at);
            let store = self.failover.health(endpoint).is_some_and(Health::probe_stores);
            self.actions.push_back(Action::Probe { endpoint, store });
        }
        self.look_after_standbys(now);
        let failover = &self.failover;
        let over = self.schedule.pop_due(now.at, |memo| has_nowhere(failover, memo));
        for id in over {
            self.due(id);
        }
        if self.failover.admission(now.at) == Admission::One && self.schedule.parked() >= SCOUTS_IN_TURN {
            self.unpark_scout(now);
        }
        if !self.paused {
            for id in self.schedule.tidy(now.at) {
                self.relieved(id);
            }
        }
        if !self.schedule.is_full() {
            self.clear(Alarm::Crowded);
        }
        self.absorb(now);
    }

    fn unpark_scout(&mut self, now: Moment) {
        if let Some(id) = self.schedule.unpark(now.at) {
            self.due(id);
        }
    }

    /// When `tick` has something to do, if ever.
    #[must_use]
    pub fn next_timeout(&self, now: Instant) -> Option<Instant> {
        if self.stopping {
            return None;
        }
        self.failover.next_timeout(now).into_iter().chain(self.schedule.next_due(now)).chain(self.next_rehearsal()).chain(self.replay_due(now)).min()
    }

    /// An operator stops or resumes delivery.
    pub fn pause(&mut self, paused: bool) {
        self.paused = paused;
        self.dry = false;
    }

    /// Nothing more is taken.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// An operator wants the preferred endpoint back. False: it is not good.
    pub fn failback(&mut self, now: Moment) -> bool {
        let done = self.failover.failback_now(now.at);
        self.absorb(now);
        done
    }

    /// A new engine in place of one that broke. Attempts that were in flight are cut by the caller: whether they arrived is not known.
    #[must_use]
    pub fn reborn(&mut self, seed: u64, what: &str, now: Moment) -> Engine {
        let mut engine = Engine::new(Arc::clone(&self.destination), seed, now.at);
        engine.paused = self.paused;
        engine.failover.inherit_wishes(&self.failover, now.at);
        engine.stopping = self.stopping;
        engine.alarms = std::mem::take(&mut self.alarms);
        engine.standbys.seen = std::mem::take(&mut self.standbys.seen);
        engine.inherit_replays(&self.replays);
        engine.outages = std::mem::take(&mut self.outages);
        for (id, flight) in self.flights.drain() {
            let record = story::cut(&flight, now);
            if self.policies.ambiguous == Ambiguous::Hold {
                engine.hold(id, record);
            } else {
                engine.settle(id, Settlement::Deferred(record));
                engine.due(id);
            }
        }
        engine.raise(Alarm::Stuck, engine.subject(), what.to_owned());
        engine
    }

    /// An envelope that rests in the spool without a time here (the loop was started again) is tried now.
    pub fn adopt(&mut self, id: EnvelopeId) {
        self.due(id);
    }

    /// The watchdog had to help.
    pub fn was_stuck(&mut self, what: &str) {
        self.raise(Alarm::Stuck, self.subject(), what.to_owned());
    }

    // ---- telling ----

    fn name(&self) -> Arc<str> {
        Arc::clone(&self.destination.name)
    }

    fn subject(&self) -> String {
        format!("destination {}", self.destination.name)
    }

    fn emit(&mut self, event: Event) {
        self.actions.push_back(Action::Emit(event));
    }

    fn settle(&mut self, id: EnvelopeId, settlement: Settlement) {
        let synced = self.policies.ambiguous == Ambiguous::Hold;
        self.unsettled += usize::from(synced);
        self.actions.push_back(Action::Settle { id, settlement, synced });
        // Its lane may have more.
        self.dry = false;
    }

    fn raise(&mut self, alarm: Alarm, subject: String, what: String) {
        let event = self.alarms.raise(alarm, subject, what);
        self.actions.extend(event.map(Action::Emit));
    }

    fn clear(&mut self, alarm: Alarm) {
        let event = self.alarms.clear(alarm);
        self.actions.extend(event.map(Action::Emit));
    }

    /// An envelope was refused, or failed on our side.
    fn troubled(&mut self, id: EnvelopeId, memo: &mut Memo, now: Moment) {
        let since = *memo.troubled_since.get_or_insert(now.at);
        if now.at.saturating_duration_since(since).saturating_add(memo.older) >= self.destination.reject_alarm {
            self.refused_long.insert(id);
            let hint = "everpost queue list --state deferred shows the last answer";
            let what = format!("an envelope has been refused for {} s; {hint}", self.destination.reject_alarm.as_secs());
            self.raise(Alarm::Refused, self.subject(), what);
        }
    }

    /// An envelope is no longer in trouble.
    fn relieved(&mut self, id: EnvelopeId) {
        self.refused_long.remove(&id);
        if self.refused_long.is_empty() {
            self.clear(Alarm::Refused);
        }
    }

    fn concerns(&mut self, flight: &Flight, ruling: &Ruling) {
        let Some(choice) = flight.choice else { return };
        if let Some(concern) = ruling.concern {
            self.fresh_probes.remove(&choice.endpoint);
            let subject = format!("destination {}, endpoint {}", self.destination.name, flight.name);
            self.raise(Alarm::Concern(concern, choice.endpoint), subject, concern.text().to_owned());
        } else if matches!(ruling.verdict, Verdict::Delivered | Verdict::DeliveredWithWarning) {
            let over = self.alarms.clear_if(|alarm| matches!(alarm, Alarm::Concern(_, e) if *e == choice.endpoint));
            self.actions.extend(over.into_iter().map(Action::Emit));
        }
        if ruling.verdict == Verdict::Delivered {
            self.clear(Alarm::Stuck);
        }
    }

    /// Tells what the failover machine changed, and acts on it.
    fn absorb(&mut self, now: Moment) {
        while let Some(change) = self.failover.next_change() {
            match change {
                Change::Health(endpoint) => self.tell_health(endpoint),
                Change::Active { from, to, reason } => {
                    let name = |e: Option<EndpointId>| e.and_then(|e| self.failover.endpoint(e)).map(|e| Arc::clone(&e.name));
                    let event = Event::Failover { destination: self.name(), from: name(from), to: name(to), reason };
                    self.emit(event);
                    self.was_active = self.active_names();
                    self.standbys_are_active();
                    if to.is_some() {
                        self.release_all(now);
                    }
                }
                Change::Pace(endpoint) => self.tell_pace(endpoint),
                Change::Left(endpoint) => {
                    self.actions.push_back(Action::Drain(endpoint));
                    self.left(endpoint, now);
                    self.left_in_outage(endpoint, now);
                }
                Change::Returning(endpoint) => self.returning(endpoint),
                Change::Release => self.release_all(now),
                Change::Shift { to, news, reason } => {
                    self.emit(Event::Shift { destination: self.name(), endpoint: to, news, reason });
                }
                Change::Admin { endpoint, reason } => self.tell_admin(endpoint, reason),
            }
        }
        if self.failover.active().is_empty() {
            let what = "no endpoint is eligible; everything waits in the spool and all endpoints are tried in turn".to_owned();
            self.raise(Alarm::Outage, self.subject(), what);
        } else {
            self.clear(Alarm::Outage);
        }
        self.step_replays(now);
        self.settle_outages(now);
    }

    fn tell_health(&mut self, endpoint: EndpointId) {
        let (Some(config), Some(health)) = (self.failover.endpoint(endpoint), self.failover.health(endpoint)) else { return };
        let event = Event::Health {
            destination: self.name(),
            endpoint: Arc::clone(&config.name),
            up: health.eligible(),
            state: health.state().name(),
            reason: health.reason().to_owned(),
        };
        self.emit(event);
    }

    fn release_all(&mut self, now: Moment) {
        let failover = &self.failover;
        let released = self.schedule.release_all(now.at, |memo| has_nowhere(failover, memo));
        for id in released {
            self.due(id);
        }
    }
}

/// Every endpoint that could take it has refused it for what it is.
fn has_nowhere(failover: &Failover, memo: &Memo) -> bool {
    !memo.unwanted.is_empty() && !failover.has_place_for(memo.unwanted)
}

fn backoff_of(destination: &Destination) -> Backoff {
    Backoff { first: destination.retry_first, max: destination.retry_max }
}

/// Different envelopes that take turns as scouts of a stalled destination: more would defer the backlog one by one, fewer would let one bad message
/// stand for all.
const SCOUTS_IN_TURN: usize = 3;
