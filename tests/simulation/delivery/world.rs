//! A world with virtual time: one destination, its engine, a store, peers, and chance by seed. It checks the promises of delivery while it runs.

use super::peer::{Mode, Peer};
use super::store::{Shelf, Store};
use everpost_client::config::*;
use everpost_client::delivery::engine::{Action, Engine, Moment};
use everpost_client::delivery::{Outcome, Phase, Verdict};
use everpost_client::endpoint::Admin;
use everpost_client::endpoint::wishes::{Shift, Wishes};
use everpost_client::event::Event;
use everpost_client::ids::{EndpointId, EnvelopeId};
use everpost_client::keys::Protocol;
use everpost_client::spool::{Decision, Envelope, Lane, Planned, Settlement, State};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Wall time when a world begins, in milliseconds: everything is accepted then.
pub(crate) const BEGIN: u64 = 100_000_000;

/// A destination as the configuration would give it.
pub(crate) fn destination(protocol: Protocol, names: &[&str]) -> Destination {
    let probe = if protocol == Protocol::Mllp { Probe::Tcp } else { Probe::DicomEcho };
    let health = HealthSettings::of(probe);
    let endpoint = |name: &&str| {
        let host = format!("{name}.example.org");
        Arc::new(Endpoint {
            name: (*name).into(),
            host,
            port: 104,
            finding: Finding::Any,
            tier: 0,
            ae_title: "PACS".into(),
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
        connect_timeout: super::peer::CONNECT,
        ack_timeout: super::peer::ANSWER,
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
        associations: NonZeroU16::new(4).expect("4"),
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

#[derive(Debug, Clone)]
enum Happening {
    AttemptEnds { id: EnvelopeId, run: u32, serial: u64 },
    ProbeEnds { endpoint: EndpointId, run: u32, result: Result<(), (Phase, &'static str)> },
    Settled { run: u32 },
    Replayed { run: u32, result: Result<Planned, String> },
    Tick { run: u32 },
}

struct Attempt {
    endpoint: usize,
    outcome: Outcome,
    kept: bool,
    serial: u64,
    lane: Lane,
    replay: bool,
}

/// An attempt that ended, for the checks.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) began: Duration,
    pub(crate) ended: Duration,
    pub(crate) id: EnvelopeId,
    pub(crate) endpoint: usize,
    pub(crate) outcome: Outcome,
    pub(crate) kept: bool,
}

/// A change of the active endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Move {
    pub(crate) at: Duration,
    pub(crate) from: Option<String>,
    pub(crate) to: Option<String>,
    pub(crate) reason: String,
}

/// The world.
pub(crate) struct World {
    base: Instant,
    pub(crate) now: Duration,
    pub(crate) random: fastrand::Rng,
    /// How far the clock on the wall was set, in milliseconds.
    pub(crate) clock: i64,
    pub(crate) destination: Arc<Destination>,
    pub(crate) engine: Engine,
    pub(crate) store: Box<dyn Store>,
    pub(crate) peers: Vec<Peer>,
    agenda: BinaryHeap<Reverse<(Duration, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    serial: u64,
    /// Counts starts of the process: what was under way before a crash does not happen.
    run: u32,
    attempts: BTreeMap<EnvelopeId, (Attempt, Duration)>,
    next_tick: Option<Duration>,
    pub(crate) committed: Vec<(EnvelopeId, Lane)>,
    pub(crate) lines: Vec<Line>,
    /// What a peer kept in these times it has lost.
    pub(crate) lost: Vec<(usize, Duration, Duration)>,
    pub(crate) moves: Vec<Move>,
    pub(crate) events: Vec<(Duration, Event)>,
    /// Attempts whose record a crash may have eaten.
    pub(crate) forgotten: BTreeMap<EnvelopeId, u32>,
    /// What an operator wished, as it is remembered.
    pub(crate) wishes: Wishes,
    /// What the engine wants to know again after a crash.
    remembered: BTreeMap<String, Vec<u8>>,
    /// Released by the operator, so that a resend is his wish.
    pub(crate) released: BTreeMap<EnvelopeId, u32>,
}

impl World {
    pub(crate) fn new(seed: u64, destination: Destination) -> Self {
        Self::on(Box::new(Shelf::default()), seed, destination)
    }

    /// The same on a store of its own.
    pub(crate) fn on(store: Box<dyn Store>, seed: u64, destination: Destination) -> Self {
        let base = Instant::now();
        let destination = Arc::new(destination);
        let dicom = destination.protocol == Protocol::Dicom;
        let peers = ["a", "b", "c"].iter().take(destination.endpoints.len()).map(|name| Peer::new(name, dicom)).collect();
        let mut world = Self {
            base,
            now: Duration::ZERO,
            random: fastrand::Rng::with_seed(seed),
            clock: 0,
            engine: Engine::new(Arc::clone(&destination), seed, base),
            destination,
            store,
            peers,
            agenda: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            serial: 0,
            run: 0,
            attempts: BTreeMap::new(),
            next_tick: None,
            committed: Vec::new(),
            lines: Vec::new(),
            lost: Vec::new(),
            moves: Vec::new(),
            events: Vec::new(),
            forgotten: BTreeMap::new(),
            wishes: Wishes::default(),
            remembered: BTreeMap::new(),
            released: BTreeMap::new(),
        };
        world.pump();
        world
    }

    pub(crate) fn moment(&self) -> Moment {
        Moment { at: self.base + self.now, wall: (BEGIN as i64 + self.now.as_millis() as i64 + self.clock) as u64 }
    }

    fn later(&mut self, after: Duration, happening: Happening) {
        self.serial += 1;
        self.agenda.push(Reverse((self.now + after, self.serial)));
        self.happenings.insert(self.serial, happening);
    }

    // ---- what the test does ----

    /// A message is accepted.
    pub(crate) fn commit(&mut self, lane: Lane) -> EnvelopeId {
        let id = self.store.commit(lane);
        self.committed.push((id, lane));
        self.engine.kicked();
        self.pump();
        id
    }

    /// So many, in one strict lane or as the ordering has it.
    pub(crate) fn commit_many(&mut self, count: usize) -> Vec<EnvelopeId> {
        (0..count)
            .map(|_| {
                let lane = match self.destination.ordering {
                    Ordering::Strict => Lane::Key(0),
                    Ordering::Patient | Ordering::Study if self.random.u8(..20) == 0 => Lane::Barrier,
                    Ordering::Patient | Ordering::Study => Lane::Key(self.random.u32(..6)),
                    Ordering::None => Lane::Own,
                };
                self.commit(lane)
            })
            .collect()
    }

    /// A peer changes; attempts under way there break off, answered or not.
    pub(crate) fn becomes(&mut self, peer: usize, mode: Mode) {
        self.peers[peer].becomes(mode);
        if mode == Mode::Refuse {
            let broken: Vec<EnvelopeId> = self.attempts.iter().filter(|(_, (a, _))| a.endpoint == peer).map(|(id, _)| *id).collect();
            for id in broken {
                let kept = self.random.bool();
                let (attempt, _) = self.attempts.get_mut(&id).expect("under way");
                attempt.kept &= kept;
                attempt.outcome = Outcome::Unanswered { silence: everpost_client::delivery::Silence::Lost, cause: "killed".to_owned() };
                let serial = attempt.serial;
                self.later(Duration::ZERO, Happening::AttemptEnds { id, run: self.run, serial });
            }
        }
    }

    /// The process dies and starts again.
    pub(crate) fn crash(&mut self) {
        let durable = self.now.saturating_sub(Duration::from_millis(self.random.u64(0..=10)));
        for line in self.lines.iter().rev().take_while(|l| l.ended >= durable) {
            *self.forgotten.entry(line.id).or_default() += 1;
        }
        let mut settled: BTreeSet<EnvelopeId> = BTreeSet::new();
        for (id, (attempt, began)) in std::mem::take(&mut self.attempts) {
            // What was under way may have arrived.
            let kept = attempt.kept && self.random.bool();
            *self.forgotten.entry(id).or_default() += 1;
            settled.insert(id);
            if kept {
                self.lines.push(Line { began, ended: self.now, id, endpoint: attempt.endpoint, outcome: attempt.outcome, kept });
            }
        }
        self.store.crash(durable);
        self.run += 1;
        let seed = self.random.u64(..);
        self.engine = Engine::new(Arc::clone(&self.destination), seed, self.base + self.now);
        self.engine.restore(self.wishes.clone(), self.moment());
        for (name, value) in &self.remembered {
            self.engine.recall(name, value, self.moment());
        }
        if let Some((order, state)) = self.store.replay_state() {
            self.engine.restore_replays(order, &state, self.moment());
        }
        self.moves.push(Move { at: self.now, from: None, to: None, reason: "crash".to_owned() });
        self.pump();
    }

    /// Whoever is meant to moves traffic: a return from here on may be early.
    pub(crate) fn wished(&mut self) {
        self.moves.push(Move { at: self.now, from: None, to: None, reason: "wish".to_owned() });
    }

    /// An operator wishes something of an endpoint, by chance; it is durable at once.
    pub(crate) fn wish(&mut self) {
        let name = self.destination.endpoints[self.random.usize(..self.destination.endpoints.len())].name.clone();
        let now = self.moment();
        self.moves.push(Move { at: self.now, from: None, to: None, reason: "wish".to_owned() });
        match self.random.u8(..6) {
            0..=2 => {
                let until = now.wall + self.random.u64(1_000..600_000);
                let (reason, by, forced) = ("repair".into(), "an operator".into(), self.random.bool());
                let shift = Shift { to: name, reason, by, since: now.wall, until, site: None, forced };
                if self.engine.begin_shift(shift.clone(), now).is_ok() {
                    self.wishes.shift = Some(shift);
                }
            }
            3 => {
                self.wishes.shift = None;
                drop(self.engine.end_shift("unshift", now));
            }
            4 => self.want(&name, Admin::Enabled),
            _ => {
                let admin = [Admin::Draining, Admin::Disabled][self.random.usize(..2)];
                self.want(&name, admin);
            }
        }
        self.pump();
    }

    /// An operator enables, drains or disables an endpoint.
    pub(crate) fn want(&mut self, name: &Arc<str>, admin: Admin) {
        self.wishes.admin.remove(name);
        if admin != Admin::Enabled {
            self.wishes.admin.insert(Arc::clone(name), admin);
        }
        assert!(self.engine.set_admin(name, admin, "an operator", self.moment()));
        self.pump();
    }

    /// An operator lets go on what is held or dead. Returns how many that were.
    pub(crate) fn release_all(&mut self) -> usize {
        let all: Vec<EnvelopeId> = self.committed.iter().map(|(id, _)| *id).collect();
        let stopped = self.store.stopped(&all);
        let released = stopped.len();
        for (id, state) in stopped {
            *self.released.entry(id).or_default() += 1;
            self.store.decide(id, if state == State::Held { Decision::Release } else { Decision::Retry });
        }
        self.engine.kicked();
        self.pump();
        released
    }

    /// Time passes.
    pub(crate) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(Reverse((at, serial))) = self.agenda.peek().copied().filter(|Reverse((at, _))| *at <= end) {
            self.agenda.pop();
            self.now = at;
            if let Some(happening) = self.happenings.remove(&serial) {
                self.happen(happening);
            }
        }
        self.now = end;
        self.pump();
    }

    /// Time passes until everything that can go has gone.
    pub(crate) fn run_until_done(&mut self, limit: Duration) {
        let end = self.now + limit;
        while self.now < end && self.waiting() > 0 {
            self.run_for(Duration::from_secs(1));
        }
    }

    /// Messages that still have to be delivered.
    pub(crate) fn waiting(&self) -> usize {
        let all: Vec<EnvelopeId> = self.committed.iter().map(|(id, _)| *id).collect();
        self.store.waiting(&all)
    }

    pub(crate) fn active(&self) -> String {
        self.engine.active().0.join(",")
    }

    /// The configuration is reloaded; `peers` says which of the old ones stand behind the new endpoints.
    pub(crate) fn reconfigure(&mut self, new: Destination, peers: &[usize]) {
        self.destination = Arc::new(new);
        let moved: BTreeMap<usize, usize> = peers.iter().enumerate().map(|(new, old)| (*old, new)).collect();
        for (attempt, _) in self.attempts.values_mut() {
            attempt.endpoint = moved.get(&attempt.endpoint).copied().unwrap_or(0);
        }
        self.peers = peers.iter().map(|old| self.peers[*old].clone()).collect();
        self.happenings.retain(|_, h| !matches!(h, Happening::ProbeEnds { .. }));
        self.engine.reconfigure(Arc::clone(&self.destination), self.moment());
        self.pump();
    }

    // ---- what happens ----

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::AttemptEnds { id, run, serial } if run == self.run => {
                if self.attempts.get(&id).is_none_or(|(a, _)| a.serial != serial) {
                    return;
                }
                let (attempt, began) = self.attempts.remove(&id).expect("just seen");
                let Attempt { endpoint, outcome, kept, .. } = attempt;
                self.lines.push(Line { began, ended: self.now, id, endpoint, outcome: outcome.clone(), kept });
                if matches!(outcome, Outcome::Acknowledged { .. } | Outcome::Stored { .. }) {
                    self.engine.answered_in(id, self.now - began, self.moment());
                }
                self.engine.ended(id, &outcome, self.moment());
            }
            Happening::ProbeEnds { endpoint, run, result } if run == self.run => {
                if result.is_ok() {
                    self.engine.probe_answered_in(endpoint, self.peers[endpoint.index()].latency, self.moment());
                }
                self.engine.probed(endpoint, result, self.moment());
            }
            Happening::Settled { run } if run == self.run => self.engine.settled(),
            Happening::Replayed { run, result } if run == self.run => self.engine.replay_done(result, self.moment()),
            Happening::Tick { run } if run == self.run && self.next_tick == Some(self.now) => self.next_tick = None,
            _ => return,
        }
        self.pump();
    }

    pub(crate) fn pump(&mut self) {
        let mark = self.store.mark(self.moment().wall);
        self.engine.mark(mark, self.moment());
        self.engine.tick(self.moment());
        self.perform();
        if self.engine.replays_run() && self.store.replays_left() == 0 {
            self.engine.replays_over(self.moment());
            self.perform();
        }
        while self.engine.wants(self.base + self.now) {
            match self.store.take(self.engine.wanted()) {
                Some(envelope) => self.engine.offer(envelope, self.moment()),
                None => self.engine.drained(self.moment()),
            }
            self.perform();
        }
        let next = self.engine.next_timeout(self.base + self.now).map(|at| at.saturating_duration_since(self.base));
        assert!(next.is_none_or(|at| at > self.now), "a timer that is always due would eat a processor");
        if let Some(at) = next.filter(|at| self.next_tick.is_none_or(|before| *at < before || before <= self.now)) {
            self.next_tick = Some(at);
            self.later(at - self.now, Happening::Tick { run: self.run });
        }
    }

    fn perform(&mut self) {
        while let Some(action) = self.engine.next_action() {
            match action {
                Action::Attempt { envelope, endpoint, fresh, ask, synced } => {
                    if synced {
                        let name = self.destination.endpoints[endpoint.index()].name.clone();
                        self.store.settle(envelope.id, Settlement::Started { endpoint: name, at: self.moment().wall }, self.now, true);
                    }
                    self.begin(&envelope, endpoint, fresh, ask);
                }
                Action::Probe { endpoint, .. } => {
                    let (takes, result) = self.peers[endpoint.index()].probe(&mut self.random);
                    self.later(takes, Happening::ProbeEnds { endpoint, run: self.run, result });
                }
                Action::Rehearse { endpoint, .. } => self.engine.rehearsed(endpoint, &Ok(Vec::new()), self.moment()),
                Action::Drain(_) => {}
                Action::Remember { name, value } => drop(self.remembered.insert(name, value)),
                Action::Settle { id, settlement, synced } => {
                    self.check_settlement(id, &settlement);
                    self.store.settle(id, settlement, self.now, synced);
                    if synced {
                        self.later(Duration::from_micros(300), Happening::Settled { run: self.run });
                    }
                }
                Action::Due(id) => self.store.due(id),
                Action::Untake(id) => self.store.untake(id),
                Action::Replay(command) => {
                    let result = self.store.replay(&command, self.moment().wall);
                    let after = Duration::from_micros(self.random.u64(0..20_000));
                    self.later(after, Happening::Replayed { run: self.run, result });
                }
                Action::Emit(event) => self.hear(event),
            }
        }
    }

    fn begin(&mut self, envelope: &Envelope, endpoint: EndpointId, fresh: bool, ask: bool) {
        let (id, lane, replay) = (envelope.id, envelope.lane, envelope.replay);
        for (other, (attempt, _)) in &self.attempts {
            let same =
                matches!((attempt.lane, lane), (Lane::Key(a), Lane::Key(b)) if a == b) || attempt.lane == Lane::Barrier || lane == Lane::Barrier;
            // What an endpoint missed goes there while others go elsewhere.
            let apart = attempt.replay != replay && attempt.endpoint != endpoint.index();
            assert!(!same || apart, "two of one lane under way: {other} and {id}");
        }
        let name = &self.destination.endpoints[endpoint.index()].name;
        assert!(!self.wishes.admin.contains_key(name), "an attempt on {name}, which people took out");
        let peer = &mut self.peers[endpoint.index()];
        let usual = peer.mode;
        peer.mode = peer.replays.filter(|_| replay && usual == Mode::Good).unwrap_or(usual);
        let mut story = peer.attempt(id, fresh, &mut self.random);
        self.peers[endpoint.index()].mode = usual;
        if ask && self.peers[endpoint.index()].answers_queries && self.holds(endpoint.index(), self.store.origin(id)) && story.kept {
            (story.outcome, story.kept) = (Outcome::AlreadyThere, false);
        }
        let serial = self.serial + 1;
        let attempt = Attempt { endpoint: endpoint.index(), outcome: story.outcome, kept: story.kept, serial, lane, replay };
        assert!(self.attempts.insert(id, (attempt, self.now)).is_none(), "one attempt per envelope");
        self.later(story.takes, Happening::AttemptEnds { id, run: self.run, serial });
        let window = match self.destination.ordering {
            Ordering::Strict => 1,
            _ => usize::from(self.destination.associations.get()) * usize::from(self.destination.window.get()),
        };
        let messages = self.attempts.values().filter(|(a, _)| !a.replay).count();
        assert!(messages <= window && self.attempts.len() <= window + (window / 2).max(1), "more under way than the window allows");
    }

    /// Whether a peer has a message now.
    pub(crate) fn holds(&self, peer: usize, origin: EnvelopeId) -> bool {
        let lost = |at: Duration| self.lost.iter().any(|(p, from, to)| *p == peer && (*from..=*to).contains(&at));
        self.lines.iter().any(|l| l.endpoint == peer && l.kept && !lost(l.ended) && self.store.origin(l.id) == origin)
    }

    /// Custody ends only by a positive answer.
    fn check_settlement(&self, id: EnvelopeId, settlement: &Settlement) {
        if let Settlement::Delivered(..) = settlement {
            let last = self.lines.iter().rev().find(|l| l.id == id).expect("delivered, so attempted");
            let positive = match &last.outcome {
                Outcome::Acknowledged { code, error } => code.is_positive() || *error == Some(205),
                Outcome::AlreadyThere => self.holds(last.endpoint, self.store.origin(id)),
                Outcome::Stored { status } => matches!(status, 0 | 1 | 0x0107 | 0x0111 | 0x0116 | 0xB000..=0xBFFF),
                _ => false,
            };
            assert!(positive, "{id} was settled as delivered by {:?}", last.outcome);
        }
    }

    fn hear(&mut self, event: Event) {
        if let Event::Failover { from, to, reason, .. } = &event {
            let text = |name: &Option<Arc<str>>| name.as_ref().map(ToString::to_string);
            self.moves.push(Move { at: self.now, from: text(from), to: text(to), reason: reason.clone() });
        }
        self.events.push((self.now, event));
    }

    // ---- checks ----

    /// Everything that must hold of a whole history in which every peer was good in the end.
    pub(crate) fn check(&self) {
        self.check_nothing_lost();
        self.check_order();
        self.check_duplicates();
        self.check_returns();
        self.check_alarms();
        self.check_outages();
    }

    fn check_nothing_lost(&self) {
        for (id, _) in &self.committed {
            let kept = self.lines.iter().any(|l| l.id == *id && l.kept);
            match self.store.state(*id) {
                State::Delivered => assert!(kept, "{id} counts as delivered and nobody has it"),
                State::Held | State::DeadLetter => {}
                state => panic!("{id} still {} at {:?}; active [{}], {}", state.name(), self.now, self.active(), self.engine.active().1),
            }
        }
    }

    /// In a lane, whatever a peer kept it kept in order of acceptance; a repetition never comes after a later message.
    fn check_order(&self) {
        let lanes: BTreeMap<EnvelopeId, Lane> = self.committed.iter().copied().collect();
        let mut highest: BTreeMap<u32, EnvelopeId> = BTreeMap::new();
        for line in self.lines.iter().filter(|l| l.kept && !self.released.contains_key(&l.id)) {
            let lane = match lanes[&line.id] {
                Lane::Key(lane) => lane,
                Lane::Barrier => u32::MAX,
                Lane::Own => continue,
            };
            let before = highest.entry(lane).or_insert(line.id);
            // A crash may forget the end of the last attempts: the lane then goes back to where the spool still knows it.
            let allowed = line.id >= *before || self.forgotten.contains_key(before);
            assert!(allowed, "{} kept after {} in one lane at {:?}", line.id, before, line.ended);
            *before = line.id;
        }
    }

    /// At most one repetition for each attempt that ended ambiguous, or whose end a crash forgot.
    fn check_duplicates(&self) {
        for (id, _) in &self.committed {
            let lines = || self.lines.iter().filter(|l| l.id == *id);
            let kept = lines().filter(|l| l.kept).count();
            let ambiguous = lines().filter(|l| matches!(l.outcome, Outcome::Unanswered { .. })).count();
            let forgotten = self.forgotten.get(id).copied().unwrap_or(0) as usize;
            assert!(kept <= 1 + ambiguous + forgotten, "{id} kept {kept} times, {ambiguous} ambiguous, {forgotten} forgotten");
        }
    }

    /// A voluntary return is never earlier than the hold-down after the endpoint was left.
    fn check_returns(&self) {
        let mut left: BTreeMap<&str, Duration> = BTreeMap::new();
        for change in &self.moves {
            if change.reason == "crash" || change.reason == "wish" {
                left.clear();
            }
            let voluntary = change.reason.contains("was good for") || change.reason.contains("answered the canary");
            if let (true, Some(to)) = (voluntary, change.to.as_deref()) {
                let away = left.get(to).map(|at| change.at - *at);
                assert!(away.is_none_or(|away| away >= self.destination.hold_down), "back on {to} after {away:?}: {}", change.reason);
            }
            if let Some(from) = change.from.as_deref() {
                left.insert(from, change.at);
            }
        }
    }

    /// Every outage begins once and ends once, in turn, whatever crashes between.
    fn check_outages(&self) {
        let mut last = 0;
        let mut runs = false;
        for (at, event) in &self.events {
            if let Event::Outage { outage, over, .. } = event {
                let expected = if *over { (last, true) } else { (last + 1, false) };
                assert_eq!((outage.number, runs), expected, "at {at:?}: {outage:?}");
                assert!(!over || outage.ended.is_some() && outage.restored.is_some(), "{outage:?}");
                (last, runs) = (outage.number, !over);
            }
        }
    }

    /// Every alarm begins and ends in turn.
    fn check_alarms(&self) {
        let mut standing: BTreeSet<(String, String)> = BTreeSet::new();
        let crashed = self.run > 0;
        for (at, event) in &self.events {
            if let Event::Alarm { subject, what, raised } = event {
                let key = (subject.clone(), what.clone());
                let in_turn = if *raised { standing.insert(key) } else { standing.remove(&key) };
                assert!(in_turn || crashed, "alarm {what} out of turn at {at:?}");
            }
        }
    }

    /// Attempts of an envelope so far: endpoint and outcome.
    pub(crate) fn story(&self, id: EnvelopeId) -> Vec<(&'static str, Outcome)> {
        self.lines.iter().filter(|l| l.id == id).map(|l| (self.peers[l.endpoint].name, l.outcome.clone())).collect()
    }

    pub(crate) fn endpoints_of(&self, id: EnvelopeId) -> String {
        self.story(id).iter().map(|(name, _)| *name).collect()
    }

    /// Alarms raised so far that contain a text.
    pub(crate) fn alarms(&self, text: &str, begun: bool) -> usize {
        let matches = |e: &Event| matches!(e, Event::Alarm { what, raised, .. } if *raised == begun && what.contains(text));
        self.events.iter().filter(|(_, e)| matches(e)).count()
    }

    /// Verdicts told of an envelope.
    pub(crate) fn verdicts(&self, id: EnvelopeId) -> Vec<Verdict> {
        let of = |e: &Event| match e {
            Event::Attempt { envelope, verdict, .. } if *envelope == id => Some(*verdict),
            _ => None,
        };
        self.events.iter().filter_map(|(_, e)| of(e)).collect()
    }
}

impl World {
    /// Policy `hold`: after an attempt that was sent whole and unanswered, or cut by a crash, there is no other without an operator.
    pub(crate) fn check_held_means_held(&self) {
        assert!(self.released.is_empty(), "nobody has released anything yet");
        for (id, _) in &self.committed {
            let kept = self.lines.iter().filter(|l| l.id == *id && l.kept).count();
            assert!(kept <= 1, "{id} kept {kept} times without an operator: {:?}", self.story(*id));
        }
    }
}
