//! Waiting envelopes of one destination, in order, with their lanes.
//! Rules: an envelope is handed out when it is ready and nothing before it in its lane waits; among those the lowest number first. A barrier waits for
//! all before it and stops all after it. Memory: 24 bytes for each waiting envelope, and 13 to 30 more for each lane with a key; ends are freed by chunks.
//! `stat`: such an envelope, or the head of the lane in which it waits, goes before others; after `STAT_IN_A_ROW` of them one other goes.
//! An envelope that left its lane (dead letter, held with `continue`) stands aside and re-enters, if ever, as a lane of its own.
//! Errors: none; a number that is not here is `None`.

use crate::spool::envelope::{Lane, State};
use crate::spool::record::Position;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque};

/// Entries of one chunk: 6 KiB each.
const CHUNK: u64 = 256;
/// Bits of an entry that hold its number; the rest are state, lane and whether it is stat.
const NUMBER_BITS: u32 = 56;
/// The bit of a stat envelope, beside state (3 bits) and kind of lane (2 bits).
const STAT: u8 = 0x20;
/// Envelopes handed out before others in a row, before one of the others goes: four fifths of the way are theirs, and nobody starves.
const STAT_IN_A_ROW: u32 = 4;

const GONE: u8 = 0;

fn state_code(state: State) -> u8 {
    match state {
        State::Ready => 1,
        State::InFlight => 2,
        State::Deferred => 3,
        State::Held => 4,
        State::DeadLetter => 5,
        State::Delivered | State::Discarded | State::ReplayEnded => GONE,
    }
}

fn state_from(code: u8) -> Option<State> {
    Some(match code {
        1 => State::Ready,
        2 => State::InFlight,
        3 => State::Deferred,
        4 => State::Held,
        5 => State::DeadLetter,
        _ => return None,
    })
}

/// One envelope in its place. `next` is the distance to the next of its lane, 0 if there is none.
#[derive(Debug, Clone, Copy)]
struct Entry {
    number_and_state: u64,
    at: Position,
    key: u32,
    next: u32,
}

impl Entry {
    fn number(&self) -> u64 {
        self.number_and_state & ((1 << NUMBER_BITS) - 1)
    }

    fn bits(&self) -> u8 {
        (self.number_and_state >> NUMBER_BITS) as u8
    }

    fn state(&self) -> Option<State> {
        state_from(self.bits() & 7)
    }

    fn lane(&self) -> Lane {
        match self.bits() >> 3 & 3 {
            1 => Lane::Key(self.key),
            2 => Lane::Barrier,
            _ => Lane::Own,
        }
    }

    fn stat(&self) -> bool {
        self.bits() & STAT != 0
    }

    fn set(&mut self, code: u8) {
        self.number_and_state = self.number() | u64::from(self.bits() & !7 | code) << NUMBER_BITS;
    }

    fn new(number: u64, at: Position, lane: Lane, stat: bool, state: State) -> Self {
        let (kind, key) = match lane {
            Lane::Own => (0, 0),
            Lane::Key(key) => (1, key),
            Lane::Barrier => (2, 0),
        };
        let bits = kind << 3 | state_code(state) | if stat { STAT } else { 0 };
        Self { number_and_state: number | u64::from(bits) << NUMBER_BITS, at, key, next: 0 }
    }
}

/// `live`: entries that are not gone, or gone but still a link of their lane.
#[derive(Debug)]
struct Slot {
    first: u64,
    live: u32,
    entries: Option<Vec<Entry>>,
}

/// An envelope that stands aside.
#[derive(Debug, Clone, Copy)]
struct Aside {
    at: Position,
    lane: Lane,
    state: State,
}

/// What `find` tells of an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) at: Position,
    pub(crate) lane: Lane,
    pub(crate) state: State,
    /// It stands aside, or came back from there.
    pub(crate) aside: bool,
    /// It goes before others where its lane allows.
    pub(crate) stat: bool,
}

/// See the head of the file.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    /// Ticket of the first entry of the first slot. Tickets rise by one per envelope.
    base: u64,
    slots: VecDeque<Slot>,
    end: u64,
    /// No entry before it is live.
    front: u64,
    /// No entry before it has still to be looked at by `take`.
    cursor: u64,
    /// Ready again, or at the head of their lane, before the cursor.
    ready: BinaryHeap<Reverse<u64>>,
    /// Head and tail of each keyed lane, as the low halves of their tickets.
    lanes: HashMap<u32, (u32, u32)>,
    /// Tickets of barriers that have not ended.
    barriers: BTreeSet<u64>,
    /// Stat envelopes waiting in each keyed lane.
    stat_lanes: HashMap<u32, u32>,
    /// Tickets that may go before others: stat ones without order, and heads of lanes in which one waits.
    urgent: BinaryHeap<Reverse<u64>>,
    /// Urgent ones handed out in a row.
    urgent_row: u32,
    aside: BTreeMap<u64, Aside>,
    aside_ready: BTreeSet<u64>,
    counts: [u64; 6],
}

impl Lanes {
    /// Adds an envelope behind all others. Numbers rise.
    pub(crate) fn push(&mut self, number: u64, at: Position, lane: Lane, stat: bool, state: State) {
        let ticket = self.end;
        if self.slots.back().is_none_or(|slot| slot.entries.as_ref().is_none_or(|e| e.len() as u64 == CHUNK)) {
            if self.slots.is_empty() {
                self.base = ticket;
                self.front = ticket;
            }
            self.slots.push_back(Slot { first: number, live: 0, entries: Some(Vec::with_capacity(CHUNK as usize)) });
        }
        if let Some(slot) = self.slots.back_mut() {
            slot.live += 1;
            if let Some(entries) = &mut slot.entries {
                entries.push(Entry::new(number, at, lane, stat, state));
            }
        }
        self.end += 1;
        self.counts[usize::from(state_code(state))] += 1;
        if let Lane::Key(key) = lane {
            let low = ticket as u32;
            match self.lanes.get_mut(&key) {
                Some((_, tail)) => {
                    let before = *tail;
                    *tail = low;
                    let before = self.full(before);
                    if let Some(entry) = self.entry_mut(before) {
                        entry.next = (ticket - before) as u32;
                    }
                }
                None => {
                    self.lanes.insert(key, (low, low));
                }
            }
        }
        if lane == Lane::Barrier {
            self.barriers.insert(ticket);
        }
        if stat {
            self.push_stat(ticket, lane);
        }
    }

    /// A stat envelope came: it, or the head of its lane, may go before others.
    fn push_stat(&mut self, ticket: u64, lane: Lane) {
        match lane {
            Lane::Own => self.urgent.push(Reverse(ticket)),
            Lane::Key(key) => {
                *self.stat_lanes.entry(key).or_default() += 1;
                if let Some((head, _)) = self.lanes.get(&key).copied() {
                    let head = self.full(head);
                    self.urgent.push(Reverse(head));
                }
            }
            Lane::Barrier => {}
        }
    }

    /// Whether it goes before others: it is stat, or one behind it in its lane is.
    fn is_urgent(&self, ticket: u64) -> bool {
        self.entry(ticket).is_some_and(|e| match e.lane() {
            Lane::Own => e.stat(),
            Lane::Key(key) => self.stat_lanes.contains_key(&key),
            Lane::Barrier => false,
        })
    }

    /// Adds an envelope that stands aside.
    pub(crate) fn push_aside(&mut self, number: u64, at: Position, lane: Lane, state: State) {
        if self.aside.insert(number, Aside { at, lane, state }).is_none() {
            self.counts[usize::from(state_code(state))] += 1;
        }
        if state == State::Ready {
            self.aside_ready.insert(number);
        }
    }

    /// The next envelope that may go; in flight from now on.
    /// Nothing of a lane is while that lane waits in `ahead`.
    pub(crate) fn take(&mut self, ahead: Option<&Lanes>) -> Option<(u64, Place)> {
        if let Some(ticket) = self.next_urgent(ahead) {
            self.urgent_row += 1;
            self.change(ticket, State::InFlight);
            let number = self.entry(ticket).map(Entry::number)?;
            return self.find(number).map(|found| (number, found));
        }
        let taken = self.take_in_turn(ahead);
        // Those that made way are none, so the row goes on.
        if taken.is_none() && self.urgent_row >= STAT_IN_A_ROW {
            self.urgent_row = 0;
            return if self.urgent.is_empty() { None } else { self.take(ahead) };
        }
        self.urgent_row = 0;
        taken
    }

    /// The next of those that go before others, unless one of the others is due.
    fn next_urgent(&mut self, ahead: Option<&Lanes>) -> Option<u64> {
        if self.urgent_row >= STAT_IN_A_ROW {
            return None;
        }
        while let Some(Reverse(ticket)) = self.urgent.peek().copied() {
            let ready = self.entry(ticket).is_some_and(|e| e.state() == Some(State::Ready));
            if ready && self.is_urgent(ticket) && self.heads(ticket, ahead) {
                // Behind a barrier nothing goes.
                if self.barriers.first().is_some_and(|barrier| *barrier < ticket) {
                    return None;
                }
                self.urgent.pop();
                return Some(ticket);
            }
            self.urgent.pop();
        }
        None
    }

    fn take_in_turn(&mut self, ahead: Option<&Lanes>) -> Option<(u64, Place)> {
        let place = self.next_in_lanes(ahead);
        let aside = self.aside_ready.first().copied();
        let number_in_lanes = place.and_then(|(ticket, _)| self.entry(ticket)).map(Entry::number);
        if let Some(number) = aside.filter(|n| number_in_lanes.is_none_or(|l| *n < l)) {
            self.set_state(number, State::InFlight);
            return self.find(number).map(|found| (number, found));
        }
        let (ticket, from_heap) = place?;
        if from_heap {
            self.ready.pop();
        }
        let number = number_in_lanes?;
        self.change(ticket, State::InFlight);
        self.find(number).map(|found| (number, found))
    }

    fn next_in_lanes(&mut self, ahead: Option<&Lanes>) -> Option<(u64, bool)> {
        while let Some(Reverse(ticket)) = self.ready.peek().copied() {
            if self.entry(ticket).is_some_and(|e| e.state() == Some(State::Ready)) && self.heads(ticket, ahead) {
                return Some((ticket, true));
            }
            self.ready.pop();
        }
        while self.cursor < self.end {
            let ticket = self.cursor;
            let Some(entry) = self.entry(ticket).copied() else {
                // A whole chunk is gone: step over it.
                let index = (ticket - self.base.min(ticket)) / CHUNK;
                self.cursor = if ticket < self.base { self.base } else { (self.base + (index + 1) * CHUNK).min(self.end) };
                continue;
            };
            match (entry.state(), entry.lane()) {
                (Some(state), Lane::Barrier) => {
                    // Nothing behind a barrier is looked at before it has ended.
                    let free = ahead.is_none_or(|ahead| !ahead.orders());
                    return (state == State::Ready && free && self.first_live() == Some(ticket)).then_some((ticket, false));
                }
                (Some(State::Ready), Lane::Own | Lane::Key(_)) if self.heads(ticket, ahead) => {
                    self.cursor += 1;
                    // `take` marks it in flight at once; were it not to, the heap would still have it.
                    self.ready.push(Reverse(ticket));
                    return Some((ticket, true));
                }
                _ => self.cursor += 1,
            }
        }
        None
    }

    /// Whether nothing of its lane waits before it, here or in `ahead`.
    fn heads(&self, ticket: u64, ahead: Option<&Lanes>) -> bool {
        match self.entry(ticket).map(Entry::lane) {
            Some(Lane::Key(key)) => {
                self.lanes.get(&key).is_some_and(|(head, _)| *head == ticket as u32) && ahead.is_none_or(|ahead| !ahead.occupies(key))
            }
            Some(Lane::Own | Lane::Barrier) => true,
            None => false,
        }
    }

    /// Whether envelopes of this lane wait here, or a barrier does.
    fn occupies(&self, key: u32) -> bool {
        !self.barriers.is_empty() || self.lanes.contains_key(&key)
    }

    /// Whether anything waits here that has an order.
    pub(crate) fn orders(&self) -> bool {
        !self.barriers.is_empty() || !self.lanes.is_empty()
    }

    /// A barrier waits here.
    pub(crate) fn has_barrier(&self) -> bool {
        !self.barriers.is_empty()
    }

    /// A lane is free again that waited for one elsewhere.
    pub(crate) fn free_lane(&mut self, key: u32) {
        let Some((head, _)) = self.lanes.get(&key).copied() else { return };
        let ticket = self.full(head);
        self.offer(ticket);
    }

    /// Every lane is free again: all are looked at anew.
    pub(crate) fn free_all(&mut self) {
        self.cursor = self.base;
        let heads: Vec<u64> = self.stat_lanes.keys().filter_map(|key| self.lanes.get(key)).map(|(head, _)| self.full(*head)).collect();
        self.urgent.extend(heads.into_iter().map(Reverse));
    }

    /// A ready envelope at the head of its lane may be handed out.
    fn offer(&mut self, ticket: u64) {
        if self.entry(ticket).is_none_or(|e| e.state() != Some(State::Ready)) {
            return;
        }
        if ticket < self.cursor {
            self.ready.push(Reverse(ticket));
        }
        if self.is_urgent(ticket) {
            self.urgent.push(Reverse(ticket));
        }
    }

    fn first_live(&mut self) -> Option<u64> {
        while self.front < self.end {
            match self.entry(self.front) {
                Some(entry) if entry.state().is_some() => return Some(self.front),
                Some(_) => self.front += 1,
                None if self.front < self.base => self.front = self.base,
                None => self.front = self.base + ((self.front - self.base) / CHUNK + 1) * CHUNK,
            }
        }
        None
    }

    /// Where an envelope is.
    pub(crate) fn find(&self, number: u64) -> Option<Place> {
        if let Some(aside) = self.aside.get(&number) {
            return Some(Place { at: aside.at, lane: aside.lane, state: aside.state, aside: true, stat: false });
        }
        let entry = self.entry(self.ticket(number)?)?;
        Some(Place { at: entry.at, lane: entry.lane(), state: entry.state()?, aside: false, stat: entry.stat() })
    }

    /// Changes the state of a waiting envelope; whether it may now be taken.
    pub(crate) fn set_state(&mut self, number: u64, state: State) -> bool {
        if let Some(aside) = self.aside.get_mut(&number) {
            self.counts[usize::from(state_code(aside.state))] -= 1;
            self.counts[usize::from(state_code(state))] += 1;
            aside.state = state;
            if state == State::Ready {
                self.aside_ready.insert(number);
            } else {
                self.aside_ready.remove(&number);
            }
            return state == State::Ready;
        }
        let Some(ticket) = self.ticket(number) else { return false };
        self.change(ticket, state);
        if state != State::Ready || !self.heads(ticket, None) {
            return false;
        }
        self.offer(ticket);
        true
    }

    /// Ready again, but not taken before `set_state` says so once more. (A barrier is: all behind it waits for it anyway.)
    pub(crate) fn put_off(&mut self, number: u64) {
        if self.aside.contains_key(&number) {
            self.set_state(number, State::Ready);
            self.aside_ready.remove(&number);
        } else if let Some(ticket) = self.ticket(number) {
            self.change(ticket, State::Ready);
        }
    }

    fn change(&mut self, ticket: u64, state: State) {
        let Some(before) = self.entry(ticket).and_then(Entry::state) else { return };
        self.counts[usize::from(state_code(before))] -= 1;
        self.counts[usize::from(state_code(state))] += 1;
        if let Some(entry) = self.entry_mut(ticket) {
            entry.set(state_code(state));
        }
    }

    /// Ends an envelope: it is no longer here, its lane goes on. Returns where it was.
    pub(crate) fn remove(&mut self, number: u64) -> Option<Place> {
        let place = self.find(number)?;
        self.counts[usize::from(state_code(place.state))] -= 1;
        if place.aside {
            self.aside.remove(&number);
            self.aside_ready.remove(&number);
            return Some(place);
        }
        let ticket = self.ticket(number)?;
        if let Some(entry) = self.entry_mut(ticket) {
            entry.set(GONE);
        }
        self.barriers.remove(&ticket);
        match place.lane {
            Lane::Key(key) => {
                if place.stat
                    && let Some(left) = self.stat_lanes.get_mut(&key)
                {
                    *left -= 1;
                    if *left == 0 {
                        self.stat_lanes.remove(&key);
                    }
                }
                if self.lanes.get(&key).is_some_and(|(head, _)| *head == ticket as u32) {
                    self.pass(key, ticket);
                }
            }
            Lane::Own | Lane::Barrier => self.release(ticket),
        }
        Some(place)
    }

    /// Lets the next living one of a lane lead it, stepping over those that ended in the middle.
    fn pass(&mut self, key: u32, mut ticket: u64) {
        loop {
            let next = self.entry(ticket).map_or(0, |e| e.next);
            self.release(ticket);
            if next == 0 {
                self.lanes.remove(&key);
                // A lane per patient over a long outage leaves a large table behind.
                if self.lanes.len() * 8 < self.lanes.capacity() && self.lanes.capacity() > 1024 {
                    self.lanes.shrink_to(self.lanes.len() * 2);
                }
                return;
            }
            ticket += u64::from(next);
            if let Some(state) = self.entry(ticket).and_then(Entry::state) {
                if let Some(lane) = self.lanes.get_mut(&key) {
                    lane.0 = ticket as u32;
                }
                if state == State::Ready {
                    self.offer(ticket);
                }
                return;
            }
        }
    }

    /// Takes an envelope out of its lane, to stand aside.
    pub(crate) fn leave(&mut self, number: u64, state: State) {
        if self.aside.contains_key(&number) {
            self.set_state(number, state);
        } else if let Some(place) = self.remove(number) {
            self.push_aside(number, place.at, place.lane, state);
        }
    }

    /// The record moved.
    pub(crate) fn relocate(&mut self, number: u64, to: Position) {
        if let Some(aside) = self.aside.get_mut(&number) {
            aside.at = to;
        } else if let Some(entry) = self.ticket(number).and_then(|ticket| self.entry_mut(ticket)) {
            entry.at = to;
        }
    }

    /// How many are in a state.
    pub(crate) fn count(&self, state: State) -> u64 {
        self.counts[usize::from(state_code(state))]
    }

    /// How many wait.
    pub(crate) fn len(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Waiting envelopes in their places after `number`, ascending; those aside are not among them.
    pub(crate) fn in_place_after(&self, number: Option<u64>) -> impl Iterator<Item = (u64, Place)> + '_ {
        let from = number.map_or(self.base, |n| self.first_ticket_after(n)).max(self.base);
        let start = ((from - self.base) / CHUNK) as usize;
        self.slots
            .iter()
            .skip(start)
            .filter_map(|slot| slot.entries.as_ref())
            .flat_map(|entries| entries.iter())
            .filter(move |e| number.is_none_or(|n| e.number() > n))
            .filter_map(|e| e.state().map(|state| (e.number(), Place { at: e.at, lane: e.lane(), state, aside: false, stat: e.stat() })))
    }

    /// Those that stand aside, ascending.
    pub(crate) fn aside_after(&self, number: Option<u64>) -> impl Iterator<Item = (u64, Place)> + '_ {
        let from = number.map_or(0, |n| n + 1);
        self.aside.range(from..).map(|(n, a)| (*n, Place { at: a.at, lane: a.lane, state: a.state, aside: true, stat: false }))
    }

    /// Ready ones from the cursor on and those that became ready behind it, roughly in the order `take` will follow.
    pub(crate) fn upcoming(&self) -> impl Iterator<Item = (u64, Position)> + '_ {
        let mut again: Vec<u64> = self.ready.iter().map(|Reverse(t)| *t).collect();
        again.sort_unstable();
        again.dedup();
        let again = again.into_iter().filter_map(|t| self.entry(t)).filter(|e| e.state() == Some(State::Ready)).map(|e| (e.number(), e.at));
        let cursor = self.cursor;
        let number = self.entry(cursor).map(Entry::number);
        let fresh = self.in_place_after(number.map(|n| n.saturating_sub(1)));
        let fresh = fresh.filter(move |_| cursor < self.end).filter(|(_, p)| p.state == State::Ready).map(|(n, p)| (n, p.at));
        again.chain(fresh)
    }

    fn full(&self, low: u32) -> u64 {
        self.base + u64::from(low.wrapping_sub(self.base as u32))
    }

    fn entry(&self, ticket: u64) -> Option<&Entry> {
        let index = ticket.checked_sub(self.base)?;
        self.slots.get((index / CHUNK) as usize)?.entries.as_ref()?.get((index % CHUNK) as usize)
    }

    fn entry_mut(&mut self, ticket: u64) -> Option<&mut Entry> {
        let index = ticket.checked_sub(self.base)?;
        self.slots.get_mut((index / CHUNK) as usize)?.entries.as_mut()?.get_mut((index % CHUNK) as usize)
    }

    fn ticket(&self, number: u64) -> Option<u64> {
        let slot = self.slots.partition_point(|s| s.first <= number).checked_sub(1)?;
        let entries = self.slots[slot].entries.as_ref()?;
        let index = entries.binary_search_by_key(&number, Entry::number).ok()?;
        entries[index].state()?;
        Some(self.base + slot as u64 * CHUNK + index as u64)
    }

    fn first_ticket_after(&self, number: u64) -> u64 {
        let slot = self.slots.partition_point(|s| s.first <= number).saturating_sub(1);
        self.base + slot as u64 * CHUNK
    }

    fn release(&mut self, ticket: u64) {
        let Some(index) = ticket.checked_sub(self.base) else { return };
        if let Some(slot) = self.slots.get_mut((index / CHUNK) as usize) {
            slot.live -= 1;
            if slot.live == 0 && slot.entries.as_ref().is_some_and(|e| e.len() as u64 == CHUNK) {
                slot.entries = None;
            }
        }
        while self.slots.front().is_some_and(|slot| slot.entries.is_none()) {
            self.slots.pop_front();
            self.base += CHUNK;
        }
        if self.slots.capacity() > 64 && self.slots.len() * 8 < self.slots.capacity() {
            self.slots.shrink_to(self.slots.len() * 2);
            self.ready.shrink_to(self.ready.len() * 2);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    impl Lanes {
        /// Bytes allocated, by the capacities of what is allocated.
        fn bytes(&self) -> usize {
            let chunks: usize = self.slots.iter().filter_map(|s| s.entries.as_ref()).map(|e| e.capacity() * size_of::<Entry>()).sum();
            // A table of n usable places has n * 8 / 7 slots with a byte of control each.
            let table = self.lanes.capacity() * 8 / 7 * (size_of::<(u32, (u32, u32))>() + 1);
            chunks + self.slots.capacity() * size_of::<Slot>() + table + self.ready.capacity() * 8 + self.aside.len() * 64
        }
    }

    #[test]
    fn a_waiting_envelope_costs_at_most_64_bytes_and_leaves_nothing_behind() {
        for (own_lane_each, count) in [(false, 100_000_u64), (true, 1_000_000)] {
            let mut lanes = Lanes::default();
            let mut worst = 0.0_f64;
            for n in 1..=count {
                let key = if own_lane_each { n as u32 } else { 0 };
                lanes.push(n, Position::new(1, n * 8), Lane::Key(key), false, State::Ready);
                if n > 1_000 && (n.is_power_of_two() || n % 57_344 == 1) {
                    worst = worst.max(lanes.bytes() as f64 / n as f64);
                }
            }
            assert!(worst <= 64.0, "{worst} bytes each");
            let mut next = 1;
            while let Some((number, _)) = lanes.take(None) {
                assert_eq!(number, next);
                lanes.remove(number).unwrap();
                next += 1;
            }
            assert_eq!(next, count + 1);
            assert!(lanes.bytes() < 100_000, "{} bytes are left", lanes.bytes());
        }
    }

    #[test]
    fn one_stuck_envelope_does_not_keep_the_memory_of_those_behind_it() {
        let mut lanes = Lanes::default();
        for n in 1..=100_000_u64 {
            lanes.push(n, Position::new(1, n * 8), Lane::Own, false, State::Ready);
        }
        assert_eq!(lanes.take(None).unwrap().0, 1);
        while let Some((number, _)) = lanes.take(None) {
            lanes.remove(number).unwrap();
        }
        assert!(lanes.bytes() < 60_000, "{} bytes for one", lanes.bytes());
        lanes.set_state(1, State::Ready);
        assert_eq!(lanes.take(None).unwrap().0, 1);
    }

    /// What `Lanes` promises, written the plainest way.
    #[derive(Default)]
    struct Plain(BTreeMap<u64, (Lane, State, bool, bool)>, u32);

    impl Plain {
        fn next(&mut self) -> Option<u64> {
            let (mut aside, mut place, mut busy, mut any, mut barrier) = (None, None, BTreeSet::new(), false, false);
            let mut urgent = None;
            let waiting = self.0.values().filter(|(_, _, aside, stat)| !aside && *stat);
            let stat_lanes: BTreeSet<u32> = waiting.filter_map(|(lane, ..)| if let Lane::Key(key) = lane { Some(*key) } else { None }).collect();
            for (n, (lane, state, stands_aside, stat)) in &self.0 {
                let ready = *state == State::Ready;
                if *stands_aside {
                    aside = aside.or(ready.then_some(*n));
                    continue;
                }
                let free = match lane {
                    _ if barrier => false,
                    Lane::Own => true,
                    Lane::Key(key) => busy.insert(*key),
                    Lane::Barrier => !any,
                };
                place = place.or((ready && free).then_some(*n));
                let first = match lane {
                    Lane::Own => *stat,
                    Lane::Key(key) => stat_lanes.contains(key),
                    Lane::Barrier => false,
                };
                urgent = urgent.or((ready && free && first).then_some(*n));
                any = true;
                barrier |= *lane == Lane::Barrier;
            }
            if let Some(n) = urgent.filter(|_| self.1 < STAT_IN_A_ROW) {
                self.1 += 1;
                return Some(n);
            }
            self.1 = 0;
            aside.into_iter().chain(place).min()
        }
    }

    #[test]
    fn a_stat_envelope_overtakes_others_but_not_its_own_lane_and_others_do_not_starve() {
        let mut lanes = Lanes::default();
        for n in 1..=20_u64 {
            lanes.push(n, Position::new(1, n * 8), Lane::Key((n % 2) as u32), n == 20, State::Ready);
        }
        // The lane of 20 goes first, in its order; each fifth is another's.
        let mut order = Vec::new();
        while let Some((number, _)) = lanes.take(None) {
            lanes.remove(number).unwrap();
            order.push(number);
        }
        assert_eq!(order[..12], [2, 4, 6, 8, 1, 10, 12, 14, 16, 3, 18, 20]);
        assert_eq!(order.len(), 20);
    }

    #[test]
    fn lanes_do_what_the_plainest_code_does() {
        let one = std::env::var("SEED").ok().and_then(|s| s.parse::<u64>().ok());
        for seed in one.map_or(0..12, |s| s..s + 1) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (mut lanes, mut plain, mut number) = (Lanes::default(), Plain::default(), 0);
            // Some runs grow, some stay small: chunks fill, empty and go.
            let growth = rng.u32(30..55);
            let stats = rng.bool();
            for _ in 0..4_000 {
                let some = |rng: &mut fastrand::Rng, plain: &Plain| {
                    let at = rng.usize(..plain.0.len().max(1));
                    plain.0.keys().nth(at).copied()
                };
                match rng.u32(..100) {
                    n if n < growth => {
                        number += rng.u64(1..4);
                        let lane = match rng.u32(..20) {
                            0 => Lane::Barrier,
                            1..7 => Lane::Own,
                            _ => Lane::Key(rng.u32(..6)),
                        };
                        let stat = stats && rng.u32(..6) == 0;
                        lanes.push(number, Position::new(1, number * 8), lane, stat, State::Ready);
                        plain.0.insert(number, (lane, State::Ready, false, stat));
                    }
                    n if n < 80 => {
                        let (got, want) = (lanes.take(None).map(|(n, _)| n), plain.next());
                        assert_eq!(got, want, "SEED={seed}");
                        if let Some(n) = got {
                            if rng.u32(..5) > 0 {
                                lanes.remove(n).unwrap();
                                plain.0.remove(&n);
                            } else {
                                plain.0.get_mut(&n).unwrap().1 = State::InFlight;
                            }
                        }
                    }
                    n if n < 88 => {
                        let Some(n) = some(&mut rng, &plain) else { continue };
                        let state = [State::Ready, State::Deferred, State::Held][rng.usize(..3)];
                        lanes.set_state(n, state);
                        plain.0.get_mut(&n).unwrap().1 = state;
                    }
                    n if n < 92 => {
                        let Some(n) = some(&mut rng, &plain) else { continue };
                        lanes.leave(n, State::DeadLetter);
                        let entry = plain.0.get_mut(&n).unwrap();
                        (entry.1, entry.2) = (State::DeadLetter, true);
                    }
                    n if n < 96 => {
                        let Some(n) = some(&mut rng, &plain) else { continue };
                        assert!(lanes.remove(n).is_some(), "SEED={seed}");
                        plain.0.remove(&n);
                    }
                    _ => {
                        for state in [State::Ready, State::InFlight, State::Deferred, State::Held, State::DeadLetter] {
                            let want = plain.0.values().filter(|(_, s, ..)| *s == state).count() as u64;
                            assert_eq!(lanes.count(state), want, "SEED={seed} {state:?}");
                        }
                        let after = rng.bool().then(|| rng.u64(..number + 1));
                        let mut all: Vec<u64> = lanes.in_place_after(after).chain(lanes.aside_after(after)).map(|(n, _)| n).collect();
                        all.sort_unstable();
                        let want: Vec<u64> = plain.0.keys().filter(|n| after.is_none_or(|a| **n > a)).copied().collect();
                        assert_eq!(all, want, "SEED={seed}");
                    }
                }
            }
        }
    }
}
