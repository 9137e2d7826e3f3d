//! Replay: what endpoints had answered is found in history and made to wait again, as envelopes of its own kind.
//! Rules
//! - An order says what is replayed: ranges of answers by endpoint, and whose answers count as having it. The same order asked for twice adds only what
//!   it lacks, so a crash in the middle goes on where it stopped.
//! - A destination has one open order. Its number is the first part of the value remembered under `replay/<destination>`; a replay of another order
//!   counts as ended (the message it repeats was answered before, so nothing is owed).
//! - Replays get numbers in the order of the envelopes they repeat: their lanes keep the order of acceptance.
//! - A replay is a message of its own with the same key table and content; large content is shared, not copied.
//! - What may still be replayed (`Keep`) is freed neither by age nor by pressure, nor because the clock was set.
//! - Positions in history are given by number and by time; what is at or behind either counts, whatever the clock did.
//!
//! Errors: `Disk`, `NotDurable`. What history no longer has is counted (`Planned::gone`).

use crate::ids::DestinationId;
use crate::spool::envelope::State;
use crate::spool::error::SpoolError;
use crate::spool::group::{Effect, push_memory};
use crate::spool::journal::{Content, lock};
use crate::spool::record::{Code, Marks, Message, Origin, Position, Seat, StateRecord};
use crate::spool::segment::Entry;
use crate::spool::{Inner, Spool, UnixMillis};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// How the name begins under which the open order of a destination is remembered.
const MEMORY: &str = "replay/";
/// Bytes of records written in one group, so that commits are not held up behind them.
const GROUP_BYTES: usize = 512 << 10;
/// A step of the clock between two looks that is more than time passing.
const LEAP: u64 = 60_000;
/// Ends looked at to find an endpoint's last answer before this run: beyond it the endpoint counts as never having answered.
const LOOKED_BACK_MAX: usize = 1_000_000;

/// A position in history. What is at or behind its number or its time counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// From `Spool::mark`.
    pub number: u64,
    /// Wall time.
    pub at: UnixMillis,
}

impl Mark {
    fn covers(self, number: u64, at: UnixMillis) -> bool {
        number >= self.number || at >= self.at
    }
}

/// Where a range begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// There.
    Mark(Mark),
    /// So long before the endpoint's last answer in history below this number: nothing is known of it from this run.
    BeforeLastAnswer(Duration, u64),
}

/// Answers to be replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// Of this endpoint; `None`: of any.
    pub endpoint: Option<Arc<str>>,
    /// From there on.
    pub since: Since,
    /// Up to this time.
    pub until: Option<UnixMillis>,
}

/// Whose answers count as having a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// The endpoint.
    pub endpoint: Arc<str>,
    /// Answers in this part of history do not count: the endpoint may have lost what it answered there.
    pub doubt: Option<(Since, Mark)>,
}

/// What is to be replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayOrder {
    /// Its number, never used before for this destination unless to go on with the same order.
    pub id: u64,
    /// What.
    pub ranges: Vec<Range>,
    /// But not what any of these has.
    pub unless: Vec<Answered>,
    /// Before later messages of the same lane; else beside them.
    pub ahead: bool,
}

/// What an order comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Planned {
    /// Envelopes.
    pub envelopes: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Answered ones whose content history no longer has.
    pub gone: u64,
    /// When the first and the last of them were accepted.
    pub accepted: Option<(UnixMillis, UnixMillis)>,
}

/// How far back a destination may have to replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keep {
    /// Always so far.
    pub window: Duration,
    /// And from then on.
    pub since: Option<UnixMillis>,
}

/// What must stay in history.
#[derive(Debug, Default)]
pub(crate) struct Keeps {
    wanted: HashMap<DestinationId, Keep>,
    /// Journal segments with messages that were answered lately, and the time of the last answer.
    answered: HashMap<u64, UnixMillis>,
    now: UnixMillis,
    /// The clock was set forward: what was kept then stays for one more window. From when on it stays, and until when.
    leapt: Option<(UnixMillis, UnixMillis)>,
}

impl Keeps {
    /// Time passed: what is no longer needed is forgotten.
    pub(crate) fn tick(&mut self, now: UnixMillis) {
        // Called each second. Where more passed at once, nobody knows how much of it did: the clock was set, or this machine slept.
        if self.now != 0 && now.saturating_sub(self.now) > LEAP && !self.wanted.is_empty() {
            let longest = self.wanted.values().map(|k| millis(k.window)).max().unwrap_or(0);
            self.leapt = Some((self.from(), now.saturating_add(longest)));
        }
        self.leapt = self.leapt.filter(|(_, until)| now < *until);
        self.now = now;
        let from = self.from();
        self.answered.retain(|_, at| *at >= from);
    }

    /// Whatever happened since then stays.
    pub(crate) fn from(&self) -> UnixMillis {
        let kept = self.wanted.values().map(|k| self.now.saturating_sub(millis(k.window)).min(k.since.unwrap_or(u64::MAX)));
        let leapt = self.leapt.filter(|_| !self.wanted.is_empty()).map(|(from, _)| from);
        kept.chain(leapt).min().unwrap_or(u64::MAX)
    }

    /// Whether a journal segment must stay.
    pub(crate) fn holds(&self, generation: u64, newest_at: UnixMillis) -> bool {
        newest_at >= self.from() || self.answered.contains_key(&generation)
    }

    fn answered(&mut self, generation: u64, at: UnixMillis) {
        let newest = self.answered.entry(generation).or_default();
        *newest = (*newest).max(at);
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// An envelope whose end history tells.
struct End {
    number: u64,
    at: UnixMillis,
    place: Position,
    code: Code,
    envelope: u64,
    message_at: Position,
    replay: bool,
}

/// What is known of one message for one destination.
#[derive(Default)]
struct Candidate {
    wanted: bool,
    has: bool,
    answered_by: Vec<Arc<str>>,
    message_at: Position,
}

fn memory_name(destination: &str) -> String {
    format!("{MEMORY}{destination}")
}

impl Spool {
    /// The position from which on nothing has happened yet. `at`: now.
    #[must_use]
    pub fn mark(&self, at: UnixMillis) -> Mark {
        Mark { number: lock(&self.inner.queue).next, at }
    }

    /// What an order would replay. Changes nothing.
    /// # Errors
    /// `Disk`.
    pub fn plan_replay(&self, destination: DestinationId, order: &ReplayOrder) -> Result<Planned, SpoolError> {
        self.inner.lead();
        let found = self.inner.find_replays(destination, order)?;
        let mut planned = Planned::default();
        for (_, candidate) in found {
            match self.inner.read_message(candidate.message_at)? {
                Some((_, message, _)) => planned.add(&message),
                None => planned.gone += 1,
            }
        }
        Ok(planned)
    }

    /// Opens an order in place of the one before, remembers it with `state`, and makes what it says wait. Durable when it returns. Blocks.
    /// # Errors
    /// `Disk`, `NotDurable`, `Limit`: ask again; what was made waits already.
    pub fn replay(&self, destination: DestinationId, order: &ReplayOrder, state: &[u8]) -> Result<Planned, SpoolError> {
        self.inner.remember_replay(destination, order.id, state)?;
        self.inner.withdraw(destination, order.id);
        lock(&self.inner.index).lanes_mut(destination).set_ahead(order.ahead);
        let found = self.inner.find_replays(destination, order)?;
        let planned = self.inner.make_replays(destination, order.id, found)?;
        self.inner.wake(destination);
        Ok(planned)
    }

    /// Closes the open order, if there is one, and remembers `state`: replays that still wait end. Durable when it returns. Blocks.
    /// # Errors
    /// `NotDurable`, `Limit`: ask again.
    pub fn end_replay(&self, destination: DestinationId, state: &[u8]) -> Result<(), SpoolError> {
        self.inner.remember_replay(destination, 0, state)?;
        self.inner.withdraw(destination, 0);
        lock(&self.inner.index).lanes_mut(destination).set_ahead(false);
        self.inner.wake(destination);
        Ok(())
    }

    /// The open order of a destination (0: none) and what was remembered with it.
    #[must_use]
    pub fn replay_state(&self, destination: DestinationId) -> Option<(u64, Vec<u8>)> {
        let name = memory_name(&self.inner.name(destination));
        let (_, value) = self.remembered().into_iter().find(|(n, _)| *n == name)?;
        let (id, state) = value.split_first_chunk()?;
        Some((u64::from_le_bytes(*id), state.to_vec()))
    }

    /// Replays that wait.
    #[must_use]
    pub fn replays_left(&self, destination: DestinationId) -> u64 {
        lock(&self.inner.index).lanes(destination).map_or(0, super::queues::Queues::replays)
    }

    /// From now on history keeps what this destination may have to replay. Reads lists of history. `now`: wall time.
    pub fn keep_for_replay(&self, destination: DestinationId, keep: Keep, now: UnixMillis) {
        let from = {
            let mut keeps = lock(&self.inner.keeps);
            // Later the clock is `tick`'s, which sees it leap.
            if keeps.now == 0 {
                keeps.now = now;
            }
            if keep == Keep::default() {
                keeps.wanted.remove(&destination);
                return;
            }
            let before = keeps.from();
            keeps.wanted.insert(destination, keep);
            let from = keeps.from();
            (from < before).then_some(from)
        };
        if let Some(from) = from {
            self.inner.find_answered(from);
        }
    }
}

impl Planned {
    fn add(&mut self, message: &Message) {
        self.envelopes += 1;
        self.bytes += message.size;
        let (first, last) = self.accepted.unwrap_or((message.accepted_at, message.accepted_at));
        self.accepted = Some((first.min(message.accepted_at), last.max(message.accepted_at)));
    }
}

impl Inner {
    fn remember_replay(&self, destination: DestinationId, id: u64, state: &[u8]) -> Result<(), SpoolError> {
        let name = memory_name(&self.name(destination));
        let value = [&id.to_le_bytes(), state].concat();
        lock(&self.memory).admits(&name, &value).map_err(SpoolError::Limit)?;
        self.wait_durable(|queue, waiter| push_memory(queue, &name, &value, waiter))
    }

    /// The number of a destination's open order.
    pub(crate) fn open_order(&self, destination: DestinationId) -> u64 {
        let name = memory_name(&self.name(destination));
        let value = lock(&self.memory).all().into_iter().find(|(n, _)| *n == name);
        value.and_then(|(_, v)| v.first_chunk().map(|id| u64::from_le_bytes(*id))).unwrap_or(0)
    }

    /// Ends what waits of other orders. What is in flight ends by itself.
    fn withdraw(&self, destination: DestinationId, id: u64) {
        let numbers = lock(&self.index).lanes(destination).map(super::queues::Queues::replay_numbers).unwrap_or_default();
        for number in numbers {
            let stored = self.stored(number).ok().flatten();
            if stored.as_ref().and_then(|s| s.origin.as_ref()).is_some_and(|o| o.order == id) {
                continue;
            }
            let mut index = lock(&self.index);
            if index.find(number).is_none_or(|(_, place)| place.state == State::InFlight) {
                continue;
            }
            let ended = index.end(number, destination, stored.as_deref(), Code::ReplayEnded);
            drop(index);
            self.content.release(&ended.extents);
        }
    }

    /// The oldest generation in which something may have happened at or behind one of these marks.
    fn generation_of(&self, marks: &[Mark]) -> u64 {
        let mut from = u64::MAX;
        for segment in self.segments.all().into_iter().rev() {
            let (newest_at, sequence) = match segment.content() {
                Content::Active => (u64::MAX, u64::MAX),
                Content::Unsealed(listing, ..) => (listing.newest_at, listing.sequence),
                Content::Sealed(trailer) => (trailer.newest_at, trailer.sequence),
            };
            // Where the clock was set back, an older segment may tell of later times than a newer one.
            if marks.iter().any(|m| m.covers(sequence, newest_at)) {
                from = segment.generation;
            }
        }
        from
    }

    /// Ends of a destination's envelopes told in segments from a generation on, oldest first; the first end of each envelope.
    fn ends(&self, destination: DestinationId, from: u64) -> Result<Vec<End>, SpoolError> {
        let mut own: HashMap<u64, bool> = HashMap::new();
        let mut ends: Vec<End> = Vec::new();
        self.each_entry(from, |at, entry| match entry {
            Entry::Message { id, seats, .. } => {
                let seats = seats.iter().filter(|s| s.destination == destination);
                own.extend(seats.map(|s| (id + u64::from(s.delta), s.marks.replay)));
            }
            Entry::State { lsn, envelope, code: code @ (Code::Delivered | Code::ReplayEnded), message_at, at: when, .. } => {
                ends.push(End { number: lsn, at: when, place: at, code, envelope, message_at, replay: false });
            }
            Entry::State { .. } | Entry::Memory { .. } => {}
        })?;
        ends.sort_unstable_by_key(|e| e.number);
        let mut seen = BTreeSet::new();
        let mut kept = Vec::new();
        for mut end in ends {
            end.replay = match own.get(&end.envelope) {
                Some(replay) => *replay,
                // Its message stands before what was read; one that stands in it is another destination's.
                None if end.message_at.generation() >= from => continue,
                None => {
                    let Some((id, message, _)) = self.read_message(end.message_at)? else { continue };
                    let seat = message.seats.iter().find(|s| s.destination == destination && id + u64::from(s.delta) == end.envelope);
                    let Some(seat) = seat else { continue };
                    seat.marks.replay
                }
            };
            if seen.insert(end.envelope) {
                kept.push(end);
            }
        }
        Ok(kept)
    }

    /// When an endpoint last answered below a number, by history.
    fn last_answer(&self, destination: DestinationId, endpoint: &str, below: u64) -> Result<Option<UnixMillis>, SpoolError> {
        let mut looked = 0;
        for segment in self.segments.all().into_iter().rev() {
            let mut ends = self.ends(destination, segment.generation)?;
            ends.retain(|e| e.place.generation() == segment.generation && e.code == Code::Delivered && e.number < below);
            for end in ends.iter().rev() {
                looked += 1;
                if self.read_state(end.place).is_some_and(|s| &*s.endpoint == endpoint) {
                    return Ok(Some(end.at));
                }
            }
            if looked > LOOKED_BACK_MAX {
                break;
            }
        }
        Ok(None)
    }

    /// `None`: the endpoint never answered.
    fn resolve(&self, destination: DestinationId, endpoint: Option<&str>, since: Since) -> Result<Option<Mark>, SpoolError> {
        Ok(match since {
            Since::Mark(mark) => Some(mark),
            Since::BeforeLastAnswer(window, below) => {
                let last = endpoint.map_or(Ok(None), |endpoint| self.last_answer(destination, endpoint, below))?;
                let window = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
                last.map(|at| Mark { number: u64::MAX, at: at.saturating_sub(window) })
            }
        })
    }

    /// What an order says and does not wait yet, by the number of the first envelope that carried it.
    fn find_replays(&self, destination: DestinationId, order: &ReplayOrder) -> Result<BTreeMap<u64, Candidate>, SpoolError> {
        let mut ranges = Vec::new();
        for range in &order.ranges {
            if let Some(mark) = self.resolve(destination, range.endpoint.as_deref(), range.since)? {
                ranges.push((range, mark));
            }
        }
        let mut unless = Vec::new();
        for answered in &order.unless {
            let doubt = match answered.doubt {
                Some((since, until)) => self.resolve(destination, Some(&answered.endpoint), since)?.map(|from| (from, until)),
                None => None,
            };
            unless.push((answered, doubt));
        }
        let marks: Vec<Mark> = ranges.iter().map(|(_, mark)| *mark).collect();
        let mut found: BTreeMap<u64, Candidate> = BTreeMap::new();
        for end in self.ends(destination, self.generation_of(&marks))? {
            let Some(state) = self.read_state(end.place) else { continue };
            let origin = if end.replay { self.read_message(end.message_at)?.and_then(|(_, m, _)| m.origin) } else { None };
            let candidate = found.entry(origin.as_ref().map_or(end.envelope, |o| o.envelope)).or_default();
            // Answered or refused under this order once, it is not asked again: an order that a crash cut goes on.
            candidate.has |= origin.as_ref().is_some_and(|o| o.order == order.id);
            if end.code == Code::ReplayEnded {
                continue;
            }
            candidate.note(&end, &state, origin.as_ref());
            let hit = |(range, mark): &(&Range, Mark)| {
                let whose = range.endpoint.as_ref().is_none_or(|e| *e == state.endpoint);
                whose && mark.covers(end.number, end.at) && range.until.is_none_or(|until| end.at <= until)
            };
            candidate.wanted |= ranges.iter().any(hit);
            let sure = |(answered, doubt): &(&Answered, Option<(Mark, Mark)>)| {
                let before = origin.as_ref().is_some_and(|o| o.answered_by.contains(&answered.endpoint));
                let doubtful = doubt.is_some_and(|(from, until)| from.covers(end.number, end.at) && end.number < until.number);
                answered.endpoint == state.endpoint && !doubtful || before && answered.doubt.is_none()
            };
            candidate.has |= unless.iter().any(sure);
        }
        let waiting = lock(&self.index).lanes(destination).map(super::queues::Queues::replay_numbers).unwrap_or_default();
        for number in waiting {
            if let Some(origin) = self.stored(number)?.and_then(|s| s.origin.clone()) {
                found.remove(&origin.envelope);
            }
        }
        found.retain(|_, candidate| candidate.wanted && !candidate.has);
        Ok(found)
    }

    /// Makes replays, in the order of what they repeat.
    fn make_replays(&self, destination: DestinationId, order: u64, found: BTreeMap<u64, Candidate>) -> Result<Planned, SpoolError> {
        let mut planned = Planned::default();
        let mut group: Vec<Message> = Vec::new();
        let mut contents: Vec<Vec<u8>> = Vec::new();
        let mut bytes = 0;
        for (envelope, candidate) in found {
            let Some((id, message, record)) = self.read_message(candidate.message_at)? else {
                planned.gone += 1;
                continue;
            };
            let Some(seat) = message.seats.iter().find(|s| s.destination == destination).copied() else { continue };
            planned.add(&message);
            let first = message.origin.as_ref().map_or(id, |o| o.message);
            let origin = Origin { order, envelope, message: first, answered_by: candidate.answered_by };
            let marks = Marks { replay: true, ..seat.marks };
            let inline = message.inline_at.and_then(|at| record.get(at as usize..)).map(<[u8]>::to_vec);
            bytes += record.len();
            let seats = vec![Seat { delta: 1, marks, ..seat }];
            let inline_at = inline.as_ref().map(|_| 0);
            group.push(Message { fingerprint: None, copy: 0, from: 0, seats, origin: Some(origin), inline_at, ..message });
            contents.push(inline.unwrap_or_default());
            if bytes >= GROUP_BYTES {
                self.write_replays(std::mem::take(&mut group), &std::mem::take(&mut contents))?;
                bytes = 0;
            }
        }
        self.write_replays(group, &contents)?;
        Ok(planned)
    }

    fn write_replays(&self, group: Vec<Message>, contents: &[Vec<u8>]) -> Result<(), SpoolError> {
        if group.is_empty() {
            return Ok(());
        }
        for message in &group {
            self.content.keep(&message.extents, message.accepted_at);
        }
        let extents: Vec<_> = group.iter().flat_map(|m| m.extents.clone()).collect();
        let written = self.wait_durable(|queue, waiter| {
            let last = group.len() - 1;
            let mut waiter = Some(waiter);
            for (i, (message, content)) in group.into_iter().zip(contents).enumerate() {
                let id = queue.draw(2);
                let mut record = Vec::new();
                message.put(&mut record, id, message.inline_at.map(|_| &content[..]), |d| self.name(d));
                let Message { accepted_at, seats, extents, .. } = message;
                let entry = Entry::Message { id, copy: 0, from: 0, accepted_at, fingerprint: None, seats, extents };
                let waiter = if i == last { waiter.take() } else { None };
                queue.push(&record, entry, Effect::Replay, waiter.unwrap_or(crate::spool::group::Waiter::Nobody));
            }
        });
        if written.is_err() {
            self.content.release(&extents);
        }
        written
    }

    /// An endpoint answered: while that may have to be replayed, the message stays.
    pub(crate) fn keep_answered(&self, destination: DestinationId, state: &StateRecord, extents: &[crate::spool::record::Extent]) {
        let mut keeps = lock(&self.keeps);
        if keeps.wanted.contains_key(&destination) {
            keeps.answered(state.message_at.generation(), state.at);
            drop(keeps);
            self.content.touch(extents, state.at);
        }
    }

    /// Finds what was answered since then: its messages stay.
    fn find_answered(&self, from: UnixMillis) {
        let first = self.generation_of(&[Mark { number: u64::MAX, at: from }]);
        let mut answered: HashMap<u64, UnixMillis> = HashMap::new();
        let read = self.each_entry(first, |_, entry| {
            if let Entry::State { code: Code::Delivered, message_at, at, .. } = entry
                && at >= from
            {
                let newest = answered.entry(message_at.generation()).or_default();
                *newest = (*newest).max(at);
            }
        });
        let Some(oldest) = answered.keys().min().copied().filter(|_| read.is_ok()) else { return };
        // Whether it can be read says nothing about the rest: what is found is kept.
        drop(self.each_entry(oldest, |at, entry| {
            if let (Entry::Message { extents, .. }, Some(when)) = (entry, answered.get(&at.generation())) {
                self.content.touch(&extents, *when);
            }
        }));
        let mut keeps = lock(&self.keeps);
        for (generation, at) in answered {
            keeps.answered(generation, at);
        }
    }
}

impl Candidate {
    fn note(&mut self, end: &End, state: &StateRecord, origin: Option<&Origin>) {
        for name in origin.map(|o| o.answered_by.clone()).unwrap_or_default().into_iter().chain([Arc::clone(&state.endpoint)]) {
            if !self.answered_by.contains(&name) {
                self.answered_by.push(name);
            }
        }
        self.message_at = self.message_at.max(end.message_at);
    }
}
