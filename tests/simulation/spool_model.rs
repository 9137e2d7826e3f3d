//! Random sequences of commit, take, settle, decide, recycle, fault, kill, power loss and reopen against a simple model of what the spool promises.
//! `SEED=n` repeats one run; `RUNS=n` makes more of them.

use crate::spool::{attempt, draft};
use bytes::Bytes;
use everpost_client::config::{LaneRule, SpoolSettings};
use everpost_client::event::{Delivered, Events};
use everpost_client::ids::{DestinationId, EnvelopeId};
use everpost_client::spool::{Content, Decision, EnvelopeView, Filter, Intake, Lane, Settlement, Spool, SpoolError, State};
use fastrand::Rng;
use harness::faulty_disk::{Fault, FaultyDisk};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const HOUR: u64 = 3_600_000;

/// What a restart may find of an envelope. `None` as state: it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kept {
    state: Option<State>,
    attempts: u32,
    ambiguous: bool,
    aside: bool,
}

#[derive(Debug)]
struct Model {
    destination: usize,
    lane: Lane,
    uid: u64,
    now: Kept,
    durable: Kept,
    pending: Vec<Kept>,
}

struct World {
    seed: u64,
    rng: Rng,
    disk: FaultyDisk,
    spool: Spool,
    to: Vec<DestinationId>,
    envelopes: BTreeMap<u64, Model>,
    content: BTreeMap<u64, (Vec<u8>, usize)>,
    /// Contents whose commit failed: they must never come back.
    never: BTreeSet<u64>,
    /// Contents whose commit was under way when the power went.
    maybe: BTreeSet<u64>,
    values: BTreeMap<String, Vec<Vec<u8>>>,
    uid: u64,
    highest: u64,
    now: u64,
    log: Vec<String>,
}

fn settings() -> SpoolSettings {
    SpoolSettings { reserve: 0, segment_size: 512 << 10, history: Duration::from_millis(HOUR), ..SpoolSettings::default() }
}

fn reopened(disk: &FaultyDisk) -> (Spool, Vec<DestinationId>) {
    let (spool, _) = Spool::open(disk.storage(), settings(), Events::none()).unwrap();
    let to = ["a", "b", "c"].iter().map(|n| spool.destination(n).unwrap()).collect();
    (spool, to)
}

impl World {
    fn new(seed: u64) -> Self {
        let disk = FaultyDisk::new(seed, 256 << 20);
        let (spool, to) = reopened(&disk);
        Self {
            seed,
            rng: Rng::with_seed(seed),
            disk,
            spool,
            to,
            envelopes: BTreeMap::new(),
            content: BTreeMap::new(),
            never: BTreeSet::new(),
            maybe: BTreeSet::new(),
            values: BTreeMap::new(),
            uid: 0,
            highest: 0,
            now: 1_000_000_000,
            log: Vec::new(),
        }
    }

    #[track_caller]
    fn check(&self, holds: bool, what: &str) {
        if !holds {
            for line in &self.log {
                eprintln!("{line}");
            }
            panic!("SEED={}: {what}", self.seed);
        }
    }

    /// Everything queued was written.
    fn flushed(&mut self) {
        for e in self.envelopes.values_mut() {
            e.pending.clear();
            e.durable = e.now;
            // Flights and backoff do not outlive the process.
            if matches!(e.durable.state, Some(State::InFlight | State::Deferred)) {
                e.durable.state = Some(State::Ready);
            }
        }
        for values in self.values.values_mut() {
            values.drain(..values.len() - 1);
        }
    }

    fn change(&mut self, id: u64, change: impl FnOnce(&mut Kept)) {
        let e = self.envelopes.get_mut(&id).unwrap();
        change(&mut e.now);
        let mut kept = e.now;
        if kept.state == Some(State::Deferred) {
            kept.state = Some(State::Ready);
        }
        e.pending.push(kept);
    }

    fn bytes(&mut self) -> Vec<u8> {
        self.uid += 1;
        let size = match self.rng.u32(..10) {
            0 => self.rng.usize(70_000..700_000),
            1 | 2 => self.rng.usize(20_000..65_000),
            _ => self.rng.usize(8..4_000),
        };
        let mut bytes = self.uid.to_le_bytes().to_vec();
        let mut rng = Rng::with_seed(self.uid);
        bytes.resize_with(size.max(8), || rng.u8(..));
        bytes
    }

    fn commit(&mut self) {
        let bytes = self.bytes();
        let uid = self.uid;
        let mut to: Vec<(usize, Lane)> = Vec::new();
        for d in 0..3 {
            if self.rng.u32(..3) == 0 || d == 2 && to.is_empty() {
                let lane = match self.rng.u32(..8) {
                    0 => Lane::Barrier,
                    1..3 => Lane::Own,
                    _ => Lane::Key(self.rng.u32(..3)),
                };
                to.push((d, lane));
            }
        }
        let addressees: Vec<_> = to.iter().map(|(d, lane)| (self.to[*d], *lane)).collect();
        let mut one = draft(&bytes, &addressees);
        one.accepted_at = self.now;
        one.fingerprint = Some(uid);
        if self.rng.bool() {
            match self.spool.content_writer() {
                Ok(mut writer) => {
                    let written = bytes.chunks(9_973).try_for_each(|piece| writer.write(piece));
                    match written {
                        Ok(()) => one.content = Content::Streamed(writer.finish()),
                        Err(_) => return,
                    }
                }
                Err(_) => return,
            }
        } else {
            one.content = Content::Whole(Bytes::copy_from_slice(&bytes));
        }
        self.content.insert(uid, (bytes, to.len()));
        match self.spool.commit(one) {
            Ok(receipt) => {
                self.flushed();
                self.log.push(format!("commit {uid} -> {} {to:?}", receipt.message()));
                self.check(receipt.message().0 > self.highest, "a number was given again");
                self.highest = receipt.message().0 + to.len() as u64;
                for (i, (destination, lane)) in to.into_iter().enumerate() {
                    let fresh = Kept { state: Some(State::Ready), attempts: 0, ambiguous: false, aside: false };
                    let id = receipt.message().0 + 1 + i as u64;
                    self.envelopes.insert(id, Model { destination, lane, uid, now: fresh, durable: fresh, pending: Vec::new() });
                }
            }
            Err(error) => {
                self.log.push(format!("commit {uid}: {error} {error:?}"));
                // With no fresh segment the end of the durable part could not be written down.
                let known = self.spool.intake() != Intake::Broken;
                if known {
                    self.never.insert(uid)
                } else {
                    self.maybe.insert(uid)
                };
            }
        }
    }

    fn eligible(&self, destination: usize) -> Option<u64> {
        let mut aside = None;
        let mut place = None;
        let mut busy = BTreeSet::new();
        let (mut any, mut barrier) = (false, false);
        for (id, e) in self.envelopes.iter().filter(|(_, e)| e.destination == destination && e.now.state.is_some()) {
            let ready = e.now.state == Some(State::Ready);
            if e.now.aside {
                aside = aside.or(ready.then_some(*id));
                continue;
            }
            let free = match e.lane {
                _ if barrier => false,
                Lane::Own => true,
                Lane::Key(key) => busy.insert(key),
                Lane::Barrier => !any,
            };
            if ready && free && place.is_none() {
                place = Some(*id);
            }
            any = true;
            barrier |= e.lane == Lane::Barrier;
        }
        aside.into_iter().chain(place).min()
    }

    fn take(&mut self) -> Option<u64> {
        let destination = self.rng.usize(..3);
        let want = self.eligible(destination);
        let got = self.spool.take(self.to[destination]).unwrap();
        self.log.push(format!("take {destination} -> {:?}", got.as_ref().map(|e| e.id.0)));
        self.check(got.as_ref().map(|e| e.id.0) == want, &format!("take gave {:?}, the model {want:?}", got.as_ref().map(|e| e.id)));
        let envelope = got?;
        let id = envelope.id.0;
        let e = self.envelopes.get_mut(&id).unwrap();
        e.now.state = Some(State::InFlight);
        let (uid, kept, lane) = (e.uid, e.now, e.lane);
        self.check(envelope.lane == lane && envelope.attempts == kept.attempts, &format!("envelope {id} is {envelope:?}"));
        self.check(
            envelope.ambiguous_at.is_empty() != kept.ambiguous && envelope.out_of_order == kept.aside,
            &format!("envelope {id} is {envelope:?}"),
        );
        let got = self.read(&envelope.message);
        self.check(got == self.content[&uid].0, &format!("content of {id} differs"));
        Some(id)
    }

    fn read(&self, message: &everpost_client::ids::MessageId) -> Vec<u8> {
        let read = || {
            let mut reader = self.spool.open_content(*message)?;
            let mut all = Vec::new();
            while let Some(chunk) = reader.next_chunk()? {
                all.extend_from_slice(&chunk);
            }
            Ok::<_, SpoolError>(all)
        };
        read().unwrap_or_else(|error| {
            self.check(false, &format!("message {message}: {error} {:?}", self.disk.names()));
            Vec::new()
        })
    }

    fn settle(&mut self, id: u64) {
        let mut one = attempt("seen");
        one.at = self.now;
        one.ambiguous = self.rng.u32(..4) == 0;
        let ambiguous = one.ambiguous;
        let rule = if self.rng.bool() { LaneRule::Stop } else { LaneRule::Continue };
        let (settlement, state) = match self.rng.u32(..12) {
            0..7 => (Settlement::Delivered(one, Delivered::Ok), None),
            7..10 => (Settlement::Deferred(one), Some(State::Deferred)),
            10 => (Settlement::DeadLetter(one, rule), Some(State::DeadLetter)),
            _ => (Settlement::Held(one, rule), Some(State::Held)),
        };
        self.log.push(format!("settle {id} {settlement:?}"));
        self.spool.settle(EnvelopeId(id), settlement).unwrap();
        self.change(id, |k| {
            k.attempts += 1;
            k.ambiguous |= ambiguous;
            k.aside |= rule == LaneRule::Continue && matches!(state, Some(State::DeadLetter | State::Held));
            k.state = state;
        });
    }

    fn some_in(&mut self, state: State) -> Option<u64> {
        let all: Vec<u64> = self.envelopes.iter().filter(|(_, e)| e.now.state == Some(state)).map(|(id, _)| *id).collect();
        self.rng.choice(all)
    }

    fn decide(&mut self) {
        let state = [State::Ready, State::Deferred, State::Held, State::DeadLetter][self.rng.usize(..4)];
        let Some(id) = self.some_in(state) else { return };
        let decision = match self.rng.u32(..4) {
            0 => Decision::Retry,
            1 => Decision::Hold(if self.rng.bool() { LaneRule::Stop } else { LaneRule::Continue }),
            2 => Decision::Release,
            _ if self.rng.bool() => Decision::Discard { reason: "wrong".to_owned() },
            _ => Decision::Retry,
        };
        let to = match (&decision, state) {
            (Decision::Discard { .. }, _) => Some(None),
            (Decision::Retry, State::Ready | State::Deferred | State::DeadLetter) | (Decision::Release, State::Held) => Some(Some(State::Ready)),
            (Decision::Hold(_), State::Ready | State::Deferred | State::Held) => Some(Some(State::Held)),
            _ => None,
        };
        let leaves = decision == Decision::Hold(LaneRule::Continue);
        self.log.push(format!("decide {id} {state:?} {decision:?}"));
        let answer = Arc::new(Mutex::new(None));
        let tell = Arc::clone(&answer);
        self.spool.decide(EnvelopeId(id), decision, self.now, Box::new(move |r| *tell.lock().unwrap() = Some(r)));
        self.lead();
        let answer = answer.lock().unwrap().take();
        match (answer, to) {
            (Some(Err(SpoolError::WrongState { .. })), None) => {}
            (Some(Ok(())), Some(to)) => {
                self.change(id, |k| {
                    k.state = to;
                    k.aside |= leaves;
                });
                self.flushed();
            }
            // A discard that is not durable did not happen; the others did in memory, and are written again.
            (Some(Err(SpoolError::NotDurable { .. })), Some(None)) => self.maybe_ended(id),
            (Some(Err(SpoolError::NotDurable { .. })), Some(to)) => self.change(id, |k| k.state = to),
            (answer, to) => self.check(false, &format!("decide gave {answer:?}, the model {to:?}")),
        }
    }

    fn maybe_ended(&mut self, id: u64) {
        if self.spool.intake() == Intake::Broken {
            let e = self.envelopes.get_mut(&id).unwrap();
            e.pending.push(Kept { state: None, ..e.now });
        }
    }

    fn remember(&mut self) {
        let name = format!("n{}", self.rng.u32(..4));
        let value = if self.rng.u32(..3) == 0 { Vec::new() } else { self.rng.u64(..).to_le_bytes().to_vec() };
        let answer = Arc::new(Mutex::new(None));
        let tell = Arc::clone(&answer);
        self.values.entry(name.clone()).or_insert_with(|| vec![Vec::new()]).push(value.clone());
        self.spool.remember(&name, &value, Box::new(move |r| *tell.lock().unwrap() = Some(r)));
        self.lead();
        let answer = answer.lock().unwrap().take();
        self.log.push(format!("remember {name} {value:?} {answer:?}"));
        if !matches!(answer, Some(Ok(()))) {
            let values = self.values.get_mut(&name).unwrap();
            // It did not happen; only with no fresh segment could it come back.
            let last = values.pop().unwrap();
            if self.spool.intake() == Intake::Broken {
                let at = values.len() - 1;
                values.insert(at, last);
            }
        }
    }

    /// Leads; what waited is durable if the log is whole afterwards and nothing is owed.
    fn lead(&mut self) {
        self.spool.lead();
    }

    fn flush(&mut self) {
        let done = Arc::new(Mutex::new(false));
        let tell = Arc::clone(&done);
        self.spool.remember("flush", b"x", Box::new(move |r| *tell.lock().unwrap() = r.is_ok()));
        self.spool.lead();
        if *done.lock().unwrap() {
            self.flushed();
        }
        self.log.push(format!("flush {}", done.lock().unwrap()));
    }

    /// The process ends in one of three ways and comes back.
    fn reopen(&mut self) {
        self.disk.behave();
        match self.rng.u32(..4) {
            0 => {
                self.log.push("close".to_owned());
                if self.spool.close().is_ok() {
                    self.flushed();
                }
                self.disk.kill();
            }
            1 => {
                self.log.push("kill".to_owned());
                self.disk.kill();
            }
            _ => {
                self.log.push("power loss".to_owned());
                self.disk.power_loss();
            }
        }
        self.come_back();
    }

    fn come_back(&mut self) {
        let (spool, to) = reopened(&self.disk);
        self.spool = spool;
        self.to = to;
        self.compare();
    }

    /// What is there must be what a restart may find.
    fn compare(&mut self) {
        let (views, next) = self.spool.list(&Filter::default(), None, 1_000_000).unwrap();
        self.check(next.is_none(), "a second page");
        let found: BTreeMap<u64, EnvelopeView> = views.into_iter().map(|v| (v.envelope.id.0, v)).collect();
        let mut news: BTreeMap<u64, Vec<(u64, Model)>> = BTreeMap::new();
        for (id, view) in &found {
            let bytes = self.read(&view.envelope.message);
            let uid = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            self.check(self.content.get(&uid).is_some_and(|(b, _)| *b == bytes), &format!("content of {id} is not what was sent"));
            self.check(!self.never.contains(&uid), &format!("{uid}, whose commit failed, came back as {id}"));
            let e = &view.envelope;
            let aside = self.envelopes.get(id).is_some_and(|m| if view.state == State::Ready { e.out_of_order } else { m.now.aside });
            let kept = Kept { state: Some(view.state), attempts: e.attempts, ambiguous: !e.ambiguous_at.is_empty(), aside };
            match self.envelopes.get(id) {
                Some(model) => {
                    let allowed: Vec<Kept> = model.pending.iter().chain([&model.durable]).copied().collect();
                    let fits = |a: &Kept| a.state == kept.state && a.attempts == kept.attempts && a.ambiguous == kept.ambiguous;
                    self.check(model.uid == uid && allowed.iter().any(fits), &format!("{id} is {kept:?}, allowed {allowed:?}"));
                    let aside = allowed.iter().find(|a| fits(a)).unwrap().aside;
                    let kept = Kept { aside, ..kept };
                    let model = self.envelopes.get_mut(id).unwrap();
                    (model.now, model.durable) = (kept, kept);
                    model.pending.clear();
                }
                None => {
                    self.check(self.maybe.contains(&uid), &format!("{id} with {uid} was never committed"));
                    let destination = self.to.iter().position(|d| *d == e.destination).unwrap();
                    let model = Model { destination, lane: e.lane, uid, now: kept, durable: kept, pending: Vec::new() };
                    news.entry(uid).or_default().push((*id, model));
                }
            }
        }
        for (uid, envelopes) in news {
            self.check(envelopes.len() == self.content[&uid].1, &format!("{uid} came back in part"));
            self.envelopes.extend(envelopes);
        }
        let lost: Vec<u64> = self.envelopes.keys().filter(|id| !found.contains_key(id)).copied().collect();
        for id in lost {
            let model = &self.envelopes[&id];
            let may = model.pending.iter().chain([&model.durable]).any(|k| k.state.is_none());
            self.check(may, &format!("{id} is lost: {model:?}"));
            self.envelopes.remove(&id);
        }
        let remembered: BTreeMap<String, Vec<u8>> = self.spool.remembered().into_iter().collect();
        for (name, values) in &mut self.values {
            let value = remembered.get(name).cloned().unwrap_or_default();
            if !values.contains(&value) {
                panic!("SEED={}: {name} is {value:?}, not one of {values:?}", self.seed);
            }
            *values = vec![value];
        }
    }

    fn step(&mut self) {
        self.now += self.rng.u64(..HOUR / 20);
        match self.rng.u32(..100) {
            0..34 => self.commit(),
            34..58 => {
                if let Some(id) = self.take()
                    && self.rng.u32(..5) > 0
                {
                    self.settle(id);
                }
            }
            58..66 => {
                if let Some(id) = self.some_in(State::InFlight) {
                    if self.rng.u32(..3) == 0 {
                        self.log.push(format!("untake {id}"));
                        self.spool.untake(EnvelopeId(id));
                        self.envelopes.get_mut(&id).unwrap().now.state = Some(State::Ready);
                    } else {
                        self.settle(id);
                    }
                }
            }
            66..74 => {
                if let Some(id) = self.some_in(State::Deferred) {
                    self.log.push(format!("due {id}"));
                    self.spool.due(EnvelopeId(id));
                    self.envelopes.get_mut(&id).unwrap().now.state = Some(State::Ready);
                }
            }
            74..80 => self.decide(),
            80..83 => self.remember(),
            83..86 => self.flush(),
            86..92 => {
                self.log.push("maintain".to_owned());
                self.spool.maintain(self.now);
                self.compare_live();
            }
            92..95 => {
                let fault = [Fault::Sync, Fault::ShortWrite, Fault::SyncDir, Fault::Open][self.rng.usize(..4)];
                self.log.push(format!("fault {fault:?}"));
                self.disk.fail(fault);
            }
            95..97 => self.die(),
            _ => self.reopen(),
        }
    }

    /// The power goes in the middle of something.
    fn die(&mut self) {
        self.disk.behave();
        let before = self.uid;
        let at = self.disk.operations() + self.rng.u64(..12);
        self.log.push(format!("the power goes at operation {at}"));
        self.disk.die_at(at);
        if self.rng.bool() {
            self.spool.maintain(self.now);
        }
        self.commit();
        self.commit();
        // Nobody who was refused then can know.
        for uid in before + 1..=self.uid {
            if self.never.remove(&uid) || !self.envelopes.values().any(|e| e.uid == uid) {
                self.maybe.insert(uid);
            }
        }
        if self.rng.bool() {
            self.disk.power_loss()
        } else {
            self.disk.kill()
        }
        self.come_back();
    }

    /// What waits in memory is what the model says.
    fn compare_live(&self) {
        let (views, _) = self.spool.list(&Filter::default(), None, 1_000_000).unwrap();
        let found: Vec<(u64, State)> = views.into_iter().map(|v| (v.envelope.id.0, v.state)).collect();
        let want: Vec<(u64, State)> = self.envelopes.iter().filter_map(|(id, e)| e.now.state.map(|s| (*id, s))).collect();
        self.check(found == want, &format!("{found:?} waits, the model has {want:?}"));
    }

    fn drain(&mut self) {
        self.disk.behave();
        self.spool.maintain(self.now);
        self.compare_live();
        self.reopen();
        for round in 0..1_000 {
            let took = self.take();
            if let Some(id) = took {
                self.spool.settle(EnvelopeId(id), Settlement::Delivered(attempt("AA"), Delivered::Ok)).unwrap();
                self.change(id, |k| k.state = None);
            } else if (0..3).all(|d| self.eligible(d).is_none()) {
                break;
            }
            if round % 97 == 0 {
                self.spool.maintain(self.now);
            }
        }
        self.flush();
        self.reopen();
    }
}

#[test]
fn random_lives_keep_every_promise() {
    let one = std::env::var("SEED").ok().and_then(|s| s.parse::<u64>().ok());
    let runs = std::env::var("RUNS").ok().and_then(|s| s.parse::<u64>().ok()).unwrap_or(40);
    let seeds = one.map_or(1..=runs, |seed| seed..=seed);
    for seed in seeds {
        let mut world = World::new(seed);
        for _ in 0..250 {
            world.step();
        }
        world.drain();
    }
}
