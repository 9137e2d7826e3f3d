//! All waiting envelopes in memory: lanes of each destination, what is in flight, and what is known of those that were attempted.
//! Rules: everything here can be rebuilt from the log. An envelope nobody has tried costs an entry in its lanes and nothing else; details (attempts,
//! ambiguous endpoints, place of the last state record) are kept only for those that have some. History costs nothing.
//! Errors: `None` or `false` where a number does not wait; `Spool` makes errors of them.

use crate::config::LaneRule;
use crate::ids::DestinationId;
use crate::keys::Keys;
use crate::spool::attempt::{AttemptRecord, Tail};
use crate::spool::envelope::{Counts, Settlement, State, Take};
use crate::spool::flow::Flows;
use crate::spool::kept::Kept;
use crate::spool::lanes::Place;
use crate::spool::queues::Queues;
use crate::spool::record::{AMBIGUOUS, ATTEMPT, Code, Extent, LEFT_LANE, OUT_OF_ORDER, Origin, Position, Seat, StateRecord};
use std::collections::HashMap;
use std::sync::Arc;

/// What is read of a message when one of its envelopes is handed out.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) id: u64,
    pub(crate) accepted_at: u64,
    pub(crate) size: u64,
    pub(crate) keys: Arc<Keys>,
    pub(crate) seats: Vec<Seat>,
    pub(crate) extents: Vec<Extent>,
    pub(crate) origin: Option<Origin>,
}

/// An envelope in flight.
#[derive(Debug)]
struct Flight {
    destination: DestinationId,
    stored: Arc<Stored>,
}

/// What is known of an envelope that was attempted or decided upon.
#[derive(Debug)]
pub(crate) struct Detail {
    /// Its last state record; `NONE` as long as that is not written.
    pub(crate) at: Position,
    pub(crate) lsn: u64,
    pub(crate) attempts: u32,
    ambiguous: u16,
    /// It came back out of its lane's order.
    pub(crate) out_of_order: bool,
    /// Its attempt was begun in an earlier run, and how it ended is not known.
    pub(crate) interrupted: bool,
    /// The last state record while it is not written.
    pub(crate) fresh: Option<Box<StateRecord>>,
    /// Records of its attempts that stay as long as it waits.
    pub(crate) kept: Kept,
}

/// What ended with an envelope: the extents of its message, if it was the message's last one.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    pub(crate) extents: Vec<Extent>,
    /// The extents of its message, whoever else needs them.
    pub(crate) all_extents: Vec<Extent>,
}

/// See the head of the file.
#[derive(Debug, Default)]
pub(crate) struct Index {
    lanes: Vec<Queues>,
    flights: HashMap<u64, Flight>,
    details: HashMap<u64, Detail>,
    /// Sets of endpoint names, interned: few differ. Number 0 is the empty one.
    sets: Vec<Vec<Arc<str>>>,
    ambiguous: Vec<u64>,
    oldest: Vec<(u64, u64)>,
    /// Waiting envelopes whose message record stands in a segment, by generation.
    live: HashMap<u64, u64>,
    /// Envelopes whose records are being copied forward; those that end meanwhile are noted.
    copying: HashMap<u64, Option<Code>>,
    /// What passed through.
    pub(crate) flows: Flows,
    /// Highest number found by a recovery after an unclean end.
    pub(crate) recovered_to: u64,
}

impl Index {
    pub(crate) fn lanes_mut(&mut self, destination: DestinationId) -> &mut Queues {
        let at = usize::from(destination.0);
        if self.lanes.len() <= at {
            self.lanes.resize_with(at + 1, Queues::default);
            self.ambiguous.resize(at + 1, 0);
            self.oldest.resize(at + 1, (0, 0));
        }
        &mut self.lanes[at]
    }

    pub(crate) fn lanes(&self, destination: DestinationId) -> Option<&Queues> {
        self.lanes.get(usize::from(destination.0))
    }

    /// Adds a new envelope.
    pub(crate) fn push(&mut self, number: u64, at: Position, seat: &Seat) {
        self.lanes_mut(seat.destination).push(number, at, seat, State::Ready);
        *self.live.entry(at.generation()).or_default() += 1;
    }

    /// Adds a recovered envelope, with its last state if it had one.
    pub(crate) fn push_recovered(&mut self, number: u64, at: Position, seat: &Seat, last: Option<(Position, u64, StateRecord)>, kept: Kept) {
        *self.live.entry(at.generation()).or_default() += 1;
        let lanes = self.lanes_mut(seat.destination);
        let Some((state_at, lsn, record)) = last else { return lanes.push(number, at, seat, State::Ready) };
        let state = match record.code {
            Code::DeadLetter => State::DeadLetter,
            Code::Held => State::Held,
            // Backoff does not outlive the process; a start without an end is ambiguous.
            Code::Started | Code::Deferred | Code::Ready | Code::Note | Code::Delivered | Code::Discarded | Code::ReplayEnded => State::Ready,
        };
        let left = record.flags & LEFT_LANE != 0;
        if left {
            lanes.push_aside(number, at, seat, state);
        } else {
            lanes.push(number, at, seat, state);
        }
        let mut names = record.ambiguous_at;
        if record.code == Code::Started && !names.contains(&record.endpoint) {
            names.push(record.endpoint);
        }
        let interrupted = record.code == Code::Started;
        let ambiguous = self.intern(names);
        if ambiguous != 0 {
            self.ambiguous[usize::from(seat.destination.0)] += 1;
        }
        // Records of before the mark was kept: whatever is ready beside its lane came back by a decision.
        let out_of_order = record.flags & OUT_OF_ORDER != 0 || left && state == State::Ready;
        self.details.insert(number, Detail { at: state_at, lsn, attempts: record.attempts, ambiguous, out_of_order, interrupted, fresh: None, kept });
    }

    fn intern(&mut self, names: Vec<Arc<str>>) -> u16 {
        if self.sets.is_empty() {
            self.sets.push(Vec::new());
        }
        if let Some(at) = self.sets.iter().position(|set| *set == names) {
            return at as u16;
        }
        if self.sets.len() > usize::from(u16::MAX) {
            // More sets than any configuration can make; the last one stands for the rest.
            return u16::MAX;
        }
        self.sets.push(names);
        (self.sets.len() - 1) as u16
    }

    /// Takes the next envelope of a destination.
    pub(crate) fn take(&mut self, destination: DestinationId, want: Take) -> Option<(u64, Place)> {
        self.lanes.get_mut(usize::from(destination.0))?.take(want)
    }

    /// Notes what was read of an envelope just taken.
    pub(crate) fn launch(&mut self, number: u64, destination: DestinationId, stored: Arc<Stored>) {
        self.flights.insert(number, Flight { destination, stored });
    }

    /// Finds a waiting envelope wherever it is.
    pub(crate) fn find(&self, number: u64) -> Option<(DestinationId, Place)> {
        if let Some(flight) = self.flights.get(&number) {
            return self.lanes(flight.destination)?.find(number).map(|place| (flight.destination, place));
        }
        self.lanes.iter().enumerate().find_map(|(i, lanes)| lanes.find(number).map(|place| (DestinationId(i as u16), place)))
    }

    /// Where the record of the first envelope that waits among these stands.
    pub(crate) fn first_waiting(&self, mut numbers: impl Iterator<Item = u64>) -> Option<Position> {
        numbers.find_map(|n| self.find(n)).map(|(_, place)| place.at)
    }

    pub(crate) fn detail(&self, number: u64) -> Option<&Detail> {
        self.details.get(&number)
    }

    pub(crate) fn ambiguous_at(&self, number: u64) -> Vec<Arc<str>> {
        self.details.get(&number).and_then(|d| self.sets.get(usize::from(d.ambiguous))).cloned().unwrap_or_default()
    }

    /// Puts an envelope in flight back untried. Returns its destination.
    pub(crate) fn untake(&mut self, number: u64) -> Option<DestinationId> {
        let flight = self.flights.remove(&number)?;
        self.lanes_mut(flight.destination).set_state(number, State::Ready);
        Some(flight.destination)
    }

    /// An envelope that was taken but could not be read is ready as before; `now`: it may be taken again.
    pub(crate) fn put_back(&mut self, number: u64, destination: DestinationId, now: bool) {
        let lanes = self.lanes_mut(destination);
        if now {
            lanes.set_state(number, State::Ready);
        } else {
            lanes.put_off(number);
        }
    }

    /// A deferred envelope may go again. Returns its destination if it may.
    pub(crate) fn due(&mut self, number: u64) -> Option<DestinationId> {
        let (destination, place) = self.find(number)?;
        (place.state == State::Deferred).then_some(())?;
        self.lanes_mut(destination).set_state(number, State::Ready).then_some(destination)
    }

    /// Applies a settlement to an envelope in flight. Returns its record, its destination, and what ended.
    pub(crate) fn settle(&mut self, number: u64, settlement: Settlement) -> Option<(StateRecord, DestinationId, Option<Ended>)> {
        let flight = self.flights.get(&number)?;
        let (destination, stored) = (flight.destination, Arc::clone(&flight.stored));
        let place = self.lanes(destination)?.find(number)?;
        let mut record = self.record(number, stored.id, place);
        let (attempt, rule) = match settlement {
            Settlement::Started { endpoint, at } => {
                record.endpoint = endpoint;
                record.at = at;
                record.code = Code::Started;
                self.note(number, destination, &record);
                return Some((record, destination, None));
            }
            Settlement::Deferred(attempt) => {
                record.code = Code::Deferred;
                (attempt, LaneRule::Stop)
            }
            Settlement::Delivered(attempt, how) => {
                record.code = Code::Delivered;
                record.delivered = Some(how);
                (attempt, LaneRule::Stop)
            }
            Settlement::DeadLetter(attempt, rule) => {
                record.code = Code::DeadLetter;
                (attempt, rule)
            }
            Settlement::Held(attempt, rule) => {
                record.code = Code::Held;
                (attempt, rule)
            }
            Settlement::Note(attempt) => {
                record.code = Code::Note;
                fill(&mut record, attempt);
                return Some((record, destination, None));
            }
            Settlement::ReplayEnded(attempt) => {
                record.code = Code::ReplayEnded;
                (attempt, LaneRule::Stop)
            }
        };
        fill(&mut record, attempt);
        record.attempts += 1;
        if record.flags & AMBIGUOUS != 0 && !record.ambiguous_at.contains(&record.endpoint) {
            record.ambiguous_at.push(Arc::clone(&record.endpoint));
        }
        self.flights.remove(&number);
        if record.code.terminal() {
            self.flows.delivered(destination);
            let ended = self.end(number, destination, Some(&stored), record.code);
            return Some((record, destination, Some(ended)));
        }
        if rule == LaneRule::Continue {
            record.flags |= LEFT_LANE;
        }
        self.rest(number, destination, &record);
        self.note(number, destination, &record);
        Some((record, destination, None))
    }

    /// Moves an envelope to where its record says it rests.
    fn rest(&mut self, number: u64, destination: DestinationId, record: &StateRecord) {
        let state = match record.code {
            Code::Deferred => State::Deferred,
            Code::DeadLetter => State::DeadLetter,
            Code::Held => State::Held,
            Code::Started | Code::Delivered | Code::Note | Code::Discarded | Code::Ready | Code::ReplayEnded => State::Ready,
        };
        if record.flags & LEFT_LANE != 0 {
            self.lanes_mut(destination).leave(number, state);
        } else {
            self.lanes_mut(destination).set_state(number, state);
        }
    }

    /// A record with what is known of the envelope so far.
    pub(crate) fn record(&self, number: u64, message: u64, place: Place) -> StateRecord {
        let detail = self.details.get(&number);
        let marked = detail.is_some_and(|d| d.out_of_order);
        StateRecord {
            envelope: number,
            message,
            message_at: place.at,
            at: 0,
            attempts: detail.map_or(0, |d| d.attempts),
            code: Code::Note,
            flags: if place.aside { LEFT_LANE } else { 0 } | if marked { OUT_OF_ORDER } else { 0 },
            phase: None,
            delivered: None,
            endpoint: Arc::from(""),
            text: String::new(),
            ambiguous_at: self.ambiguous_at(number),
            tail: Tail::default(),
        }
    }

    /// Keeps a record as the last one of a waiting envelope.
    fn note(&mut self, number: u64, destination: DestinationId, record: &StateRecord) {
        let ambiguous = self.intern(record.ambiguous_at.clone());
        let before = self.details.get(&number).map_or(0, |d| d.ambiguous);
        if before == 0 && ambiguous != 0 {
            self.ambiguous[usize::from(destination.0)] += 1;
        }
        let out_of_order = record.flags & OUT_OF_ORDER != 0;
        let fresh = Some(Box::new(record.clone()));
        let kept = self.details.get_mut(&number).map(|d| std::mem::take(&mut d.kept)).unwrap_or_default();
        let (at, interrupted) = (Position::NONE, false);
        self.details.insert(number, Detail { at, lsn: 0, attempts: record.attempts, ambiguous, out_of_order, interrupted, fresh, kept });
    }

    /// Applies an operator's decision to a waiting envelope that is not in flight, and keeps its record.
    pub(crate) fn decide(&mut self, number: u64, destination: DestinationId, record: &StateRecord) {
        self.rest(number, destination, record);
        self.note(number, destination, record);
    }

    /// Keeps an envelope out of reach while its end is being made durable; returns its state.
    pub(crate) fn reserve(&mut self, number: u64, destination: DestinationId) -> Option<State> {
        let before = self.lanes(destination)?.find(number)?.state;
        self.lanes_mut(destination).set_state(number, State::InFlight);
        Some(before)
    }

    /// Undoes `reserve`.
    pub(crate) fn restore(&mut self, number: u64, destination: DestinationId, state: State) {
        self.lanes_mut(destination).set_state(number, state);
    }

    /// Ends an envelope. `stored` tells what its message holds, if that could be read.
    pub(crate) fn end(&mut self, number: u64, destination: DestinationId, stored: Option<&Stored>, code: Code) -> Ended {
        let Some(place) = self.lanes_mut(destination).remove(number) else { return Ended::default() };
        self.forget_live(place.at.generation());
        if self.details.remove(&number).is_some_and(|d| d.ambiguous != 0) {
            self.ambiguous[usize::from(destination.0)] -= 1;
        }
        if let Some(copy) = self.copying.get_mut(&number) {
            *copy = Some(code);
        }
        let Some(stored) = stored else { return Ended::default() };
        let waits = |seat: &Seat| self.lanes(seat.destination).is_some_and(|l| l.find(stored.id + u64::from(seat.delta)).is_some());
        let needed = stored.extents.is_empty() || stored.seats.iter().any(waits);
        Ended { extents: if needed { Vec::new() } else { stored.extents.clone() }, all_extents: stored.extents.clone() }
    }

    fn forget_live(&mut self, generation: u64) {
        if let Some(live) = self.live.get_mut(&generation) {
            *live -= 1;
            if *live == 0 {
                self.live.remove(&generation);
            }
        }
    }

    /// A state record was written, or copied forward; `attempt`: it tells of one.
    pub(crate) fn state_written(&mut self, number: u64, lsn: u64, at: Position, attempt: bool) {
        let Some(detail) = self.details.get_mut(&number) else { return };
        if attempt {
            detail.kept.add(lsn, at);
        }
        if detail.lsn <= lsn {
            detail.at = at;
            detail.lsn = lsn;
            detail.fresh = None;
        }
    }

    /// Whether a state record is the last one of an envelope that waits, or tells of an attempt that stays in its story.
    pub(crate) fn needs_state(&self, number: u64, at: Position) -> bool {
        self.details.get(&number).is_some_and(|d| d.at == at || d.kept.holds(at))
    }

    /// Gives the last state record its number.
    pub(crate) fn state_numbered(&mut self, number: u64, lsn: u64) {
        if let Some(detail) = self.details.get_mut(&number) {
            detail.lsn = lsn;
        }
    }

    /// The oldest generation with a state record that a waiting envelope needs. One not written yet is newer than all.
    pub(crate) fn first_detail(&self) -> u64 {
        let places = self.details.values().flat_map(|d| d.kept.iter().map(|(_, at)| at).chain([d.at]));
        places.map(|at| at.generation()).filter(|g| *g > 0).min().unwrap_or(u64::MAX)
    }

    /// Waiting envelopes whose message record stands in a segment.
    pub(crate) fn live(&self, generation: u64) -> u64 {
        self.live.get(&generation).copied().unwrap_or(0)
    }

    /// Notes which of these envelopes end from now on.
    pub(crate) fn watch(&mut self, numbers: impl Iterator<Item = u64>) {
        self.copying.extend(numbers.map(|n| (n, None)));
    }

    /// Ends every watch.
    pub(crate) fn unwatch_all(&mut self) {
        self.copying.clear();
    }

    /// Ends the watch on an envelope; how it ended, if it did.
    pub(crate) fn unwatch(&mut self, number: u64) -> Option<Code> {
        self.copying.remove(&number).flatten()
    }

    /// The message record moved: whoever still waits where it was now waits there.
    pub(crate) fn relocate(&mut self, number: u64, destination: DestinationId, from: Position, to: Position) -> bool {
        let waits = self.lanes(destination).and_then(|l| l.find(number)).is_some_and(|place| place.at == from);
        if waits {
            self.lanes_mut(destination).relocate(number, to);
            self.forget_live(from.generation());
            *self.live.entry(to.generation()).or_default() += 1;
        }
        waits
    }

    /// Replaces what a flight knows of its message's extents, after they moved.
    pub(crate) fn refit(&mut self, number: u64, extents: &[Extent]) {
        if let Some(flight) = self.flights.get_mut(&number) {
            let s = &flight.stored;
            flight.stored = Arc::new(Stored {
                id: s.id,
                accepted_at: s.accepted_at,
                size: s.size,
                keys: Arc::clone(&s.keys),
                seats: s.seats.clone(),
                extents: extents.to_vec(),
                origin: s.origin.clone(),
            });
        }
    }

    /// Counts of a destination, without `oldest`; and the first envelope still to be delivered with its acceptance time if that is known.
    pub(crate) fn counts(&self, destination: DestinationId) -> (Counts, Option<(u64, Position, Option<u64>)>) {
        let at = usize::from(destination.0);
        let Some(lanes) = self.lanes.get(at) else { return (Counts::default(), None) };
        let counts = Counts {
            ready: lanes.count(State::Ready),
            in_flight: lanes.count(State::InFlight),
            deferred: lanes.count(State::Deferred),
            held: lanes.count(State::Held),
            ambiguous: self.ambiguous[at],
            dead_letter: lanes.count(State::DeadLetter),
            replays: lanes.replays(),
            oldest: None,
        };
        if counts.ready + counts.in_flight + counts.deferred == 0 {
            return (counts, None);
        }
        let owed = |(_, place): &(u64, Place)| matches!(place.state, State::Ready | State::InFlight | State::Deferred);
        let first = lanes.first_message(owed);
        let known = self.oldest[at];
        (counts, first.map(|(n, place)| (n, place.at, (known.0 == n).then_some(known.1))))
    }

    /// Remembers when the oldest envelope of a destination was accepted.
    pub(crate) fn oldest_is(&mut self, destination: DestinationId, number: u64, accepted_at: u64) {
        if let Some(oldest) = self.oldest.get_mut(usize::from(destination.0)) {
            *oldest = (number, accepted_at);
        }
    }

    /// Waiting envelopes in all.
    pub(crate) fn waiting(&self) -> u64 {
        self.lanes.iter().map(Queues::len).sum()
    }

    /// Destinations with waiting envelopes.
    pub(crate) fn busy(&self) -> Vec<DestinationId> {
        self.lanes.iter().enumerate().filter(|(_, l)| l.len() > 0).map(|(i, _)| DestinationId(i as u16)).collect()
    }
}

/// Makes a record one of an attempt.
pub(crate) fn fill(record: &mut StateRecord, attempt: AttemptRecord) {
    let AttemptRecord { number: _, endpoint, address, phase, answer, verdict, outcome, took, began_at: _, at, ambiguous, left_for } = attempt;
    (record.endpoint, record.phase, record.text, record.at) = (endpoint, Some(phase), outcome, at);
    record.flags |= ATTEMPT | if ambiguous { AMBIGUOUS } else { 0 };
    record.tail = Tail { address, answer, verdict, took, left_for };
}
