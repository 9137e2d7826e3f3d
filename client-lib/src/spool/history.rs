//! What people and listeners ask about messages, waiting or past: lists, stories, second copies.
//! Rules: waiting envelopes come from the index, past ones from the lists of the segments that still stand; nothing is kept in memory for the past but
//! a bounded table of recent fingerprints. Reading history never holds a lock over the disk.
//! Errors: `Disk` if a segment's list cannot be read, `NotWaiting` if nothing is left.

use crate::ids::{DestinationId, EnvelopeId, MessageId};
use crate::keys::{Key, Keys};
use crate::spool::attempt::{AttemptRecord, Tail};
use crate::spool::content::ContentReader;
use crate::spool::envelope::{Discarded, EnvelopeView, Filter, Lane, State};
use crate::spool::error::SpoolError;
use crate::spool::index::{self, Stored};
use crate::spool::journal::{Content, lock};
use crate::spool::lanes::Place;
use crate::spool::record::{AMBIGUOUS, ATTEMPT, Code, Message, OUT_OF_ORDER, Position, StateRecord};
use crate::spool::segment::Entry;
use crate::spool::{Inner, Spool, UnixMillis};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Fingerprints remembered: at 1,000 messages a second about a minute, which is how soon senders repeat.
pub(crate) const RECENT_MAX: usize = 65_536;
/// Records read to find a page of a list filtered by key, so that one question cannot read a whole backlog.
const EXAMINED_MAX: usize = 10_000;

/// The newest messages by fingerprint.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    places: BTreeMap<(u64, u64), Position>,
    order: VecDeque<(u64, u64)>,
    moved: BTreeMap<u64, Position>,
    discarded: BTreeSet<u64>,
}

impl Recent {
    pub(crate) fn insert(&mut self, fingerprint: u64, message: u64, at: Position) {
        if self.places.insert((fingerprint, message), at).is_some() {
            return;
        }
        self.order.push_back((message, fingerprint));
        if self.order.len() > RECENT_MAX
            && let Some((message, fingerprint)) = self.order.pop_front()
        {
            self.places.remove(&(fingerprint, message));
            self.moved = self.moved.split_off(&(message + 1));
            self.discarded = self.discarded.split_off(&(message + 1));
        }
    }

    pub(crate) fn relocate(&mut self, message: u64, from: Position, to: Position) {
        if self.order.front().is_some_and(|(first, _)| message >= *first) && from != to {
            self.moved.insert(message, to);
        }
    }

    pub(crate) fn discarded(&mut self, envelope: u64) {
        self.discarded.insert(envelope);
        if self.discarded.len() > RECENT_MAX {
            self.discarded.pop_first();
        }
    }

    fn find(&self, fingerprint: u64) -> Vec<(u64, Position)> {
        let newest_first = self.places.range((fingerprint, 0)..=(fingerprint, u64::MAX)).rev();
        newest_first.map(|((_, id), at)| (*id, self.moved.get(id).copied().unwrap_or(*at))).collect()
    }
}

impl StateRecord {
    /// A note about an envelope that has ended.
    pub(crate) fn note(envelope: u64, attempt: AttemptRecord) -> Self {
        let mut record = Self::end(envelope, 0, Position::NONE, Code::Note);
        index::fill(&mut record, attempt);
        record
    }

    /// The end of an envelope, said again beside a copy of its message.
    pub(crate) fn end(envelope: u64, message: u64, message_at: Position, code: Code) -> Self {
        Self {
            envelope,
            message,
            message_at,
            at: 0,
            attempts: 0,
            code,
            flags: 0,
            phase: None,
            delivered: None,
            endpoint: Arc::from(""),
            text: String::new(),
            ambiguous_at: Vec::new(),
            tail: Tail::default(),
        }
    }

    pub(crate) fn attempt(&self) -> Option<AttemptRecord> {
        (self.flags & ATTEMPT != 0).then_some(())?;
        let Tail { address, answer, verdict, took, left_for } = self.tail.clone();
        let mut attempt = AttemptRecord::new(Arc::clone(&self.endpoint), self.phase?, self.text.clone(), self.at);
        if let Some(took) = took {
            attempt = attempt.lasting(took);
        }
        let number = if self.code == Code::Note { 0 } else { self.attempts };
        Some(AttemptRecord { number, address, answer, verdict, left_for, ambiguous: self.flags & AMBIGUOUS != 0, ..attempt })
    }
}

impl Inner {
    /// Calls `each` with every record listed in segments from a generation on, oldest segment first.
    pub(crate) fn each_entry(&self, from: u64, mut each: impl FnMut(Position, Entry)) -> Result<(), SpoolError> {
        for segment in self.segments.all().into_iter().filter(|s| s.generation >= from) {
            if matches!(segment.content(), Content::Active) {
                let listing = match &lock(&self.journal).active {
                    Some(active) if active.segment.generation == segment.generation => Some(active.listing.clone()),
                    _ => None,
                };
                if let Some(listing) = listing {
                    listing.entries().for_each(|(offset, entry)| each(Position::new(segment.generation, offset), entry));
                    continue;
                }
            }
            let read = segment.each(|name| self.number(name), |offset, entry| each(Position::new(segment.generation, offset), entry));
            read.map_err(|cause| SpoolError::Disk { doing: format!("reading the list of journal segment {}", segment.generation), cause })?;
        }
        Ok(())
    }

    pub(super) fn view(&self, number: u64, destination: DestinationId, place: Place, stored: &Stored) -> EnvelopeView {
        let envelope = self.envelope(number, destination, place.lane, stored);
        let (fresh, at) = match lock(&self.index).detail(number) {
            Some(detail) => (detail.fresh.clone(), detail.at),
            None => (None, Position::NONE),
        };
        let last = fresh.map(|f| *f).or_else(|| if at == Position::NONE { None } else { self.read_state(at) });
        let replay_of = stored.origin.as_ref().map(|o| EnvelopeId(o.envelope));
        let last = last.and_then(|l| l.attempt());
        EnvelopeView { envelope, destination: self.name(destination), state: place.state, last, discarded: None, replay_of }
    }

    pub(crate) fn list(
        &self,
        filter: &Filter,
        cursor: Option<EnvelopeId>,
        limit: usize,
    ) -> Result<(Vec<EnvelopeView>, Option<EnvelopeId>), SpoolError> {
        if filter.state == Some(State::Delivered) {
            return self.list_delivered(filter, cursor, limit);
        }
        let examined = if filter.key.is_some() { EXAMINED_MAX.max(limit) } else { limit };
        let mut found: Vec<(u64, DestinationId, Place)> = Vec::new();
        {
            let index = lock(&self.index);
            let after = cursor.map(|c| c.0);
            let wanted = |p: &Place| filter.state.is_none_or(|s| s == p.state);
            for destination in index.busy().into_iter().filter(|d| filter.destination.is_none_or(|f| f == *d)) {
                let Some(lanes) = index.lanes(destination) else { continue };
                let places = lanes.in_place_after(after).filter(|(_, p)| wanted(p)).take(examined + 1);
                found.extend(places.map(|(n, p)| (n, destination, p)));
                let aside = lanes.aside_after(after).filter(|(_, p)| wanted(p)).take(examined + 1);
                found.extend(aside.map(|(n, p)| (n, destination, p)));
            }
        }
        found.sort_unstable_by_key(|(n, ..)| *n);
        let mut views = Vec::new();
        for (i, (number, destination, place)) in found.iter().enumerate() {
            if views.len() == limit || i == examined {
                return Ok((views, i.checked_sub(1).map(|before| EnvelopeId(found[before].0)).or(cursor)));
            }
            match self.stored(*number) {
                Ok(Some(stored)) => {
                    let holds = |wanted: &Vec<u8>| stored.keys.iter().any(|(_, value)| value == &wanted[..]);
                    if filter.key.as_ref().is_none_or(holds) {
                        views.push(self.view(*number, *destination, *place, &stored));
                    }
                }
                // Damaged: still somebody's message, so it stays in the list.
                Ok(None) | Err(_) if lock(&self.index).find(*number).is_some() => views.push(self.view(*number, *destination, *place, &nothing())),
                Ok(None) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((views, None))
    }

    fn list_delivered(
        &self,
        filter: &Filter,
        cursor: Option<EnvelopeId>,
        limit: usize,
    ) -> Result<(Vec<EnvelopeView>, Option<EnvelopeId>), SpoolError> {
        self.lead();
        let after = cursor.map_or(0, |c| c.0);
        // The lowest numbers after the cursor, as many as one question examines: history may be far longer than memory.
        let examined = EXAMINED_MAX.max(limit);
        let mut past: BTreeMap<u64, (Position, u64, DestinationId, Lane)> = BTreeMap::new();
        let mut ended: BTreeMap<u64, (u64, Position)> = BTreeMap::new();
        self.each_entry(0, |at, entry| match entry {
            Entry::State { envelope, code: Code::Delivered, lsn, .. } if envelope > after => {
                if ended.len() > examined && ended.last_key_value().is_some_and(|(highest, _)| envelope > *highest) {
                    return;
                }
                // An end said again later says less.
                ended.entry(envelope).or_insert((lsn, at));
                if ended.len() > examined + 1 {
                    ended.pop_last();
                }
            }
            _ => {}
        })?;
        let more = ended.len() > examined;
        if more {
            ended.pop_last();
        }
        self.each_entry(0, |at, entry| {
            let Entry::Message { id, seats, .. } = entry else { return };
            for seat in seats.iter().filter(|s| filter.destination.is_none_or(|d| d == s.destination)) {
                let number = id + u64::from(seat.delta);
                if ended.contains_key(&number) {
                    past.insert(number, (at, id, seat.destination, seat.lane));
                }
            }
        })?;
        let mut views = Vec::new();
        let mut last = cursor;
        for (number, (at, id, destination, lane)) in &past {
            if views.len() == limit {
                return Ok((views, last));
            }
            last = Some(EnvelopeId(*number));
            let Ok(Some((_, message, _))) = self.read_message(*at) else { continue };
            if filter.key.as_ref().is_some_and(|wanted| !message.keys.iter().any(|(_, value)| value == &wanted[..])) {
                continue;
            }
            let state = ended.get(number).and_then(|(_, at)| self.read_state(*at));
            views.push(self.past_view(*number, *id, *destination, *lane, message, state));
        }
        Ok((views, ended.last_key_value().filter(|_| more).map(|(number, _)| EnvelopeId(*number))))
    }

    pub(super) fn past_view(
        &self,
        number: u64,
        id: u64,
        destination: DestinationId,
        lane: Lane,
        message: Message,
        state: Option<StateRecord>,
    ) -> EnvelopeView {
        let replay_of = message.origin.as_ref().map(|o| EnvelopeId(o.envelope));
        let stored = Stored { id, accepted_at: message.accepted_at, size: message.size, keys: message.keys, origin: message.origin, ..nothing() };
        let mut envelope = self.envelope(number, destination, lane, &stored);
        if let Some(state) = &state {
            envelope.attempts = state.attempts;
            envelope.ambiguous_at.clone_from(&state.ambiguous_at);
            envelope.out_of_order = state.flags & OUT_OF_ORDER != 0;
        }
        let ended_by = state.as_ref().filter(|s| s.code == Code::Discarded);
        let now = match &state {
            // Neither waiting nor ended: withdrawn with its order.
            None if replay_of.is_some() => State::ReplayEnded,
            Some(s) if s.code == Code::ReplayEnded => State::ReplayEnded,
            _ => ended_by.map_or(State::Delivered, |_| State::Discarded),
        };
        let discarded = ended_by.filter(|s| !s.text.is_empty()).map(|s| Discarded { at: s.at, reason: s.text.clone() });
        let last = state.and_then(|s| s.attempt());
        EnvelopeView { envelope, destination: self.name(destination), state: now, last, discarded, replay_of }
    }

    #[allow(clippy::type_complexity, reason = "the surface has it so")]
    pub(crate) fn recent(&self, fingerprint: u64) -> Vec<(MessageId, [u8; 32], Vec<(DestinationId, Option<State>)>)> {
        let found = lock(&self.recent).find(fingerprint);
        let mut copies = Vec::new();
        for (id, at) in found {
            let Ok(Some((_, message, _))) = self.read_message(at) else { continue };
            let Some(sha256) = message.keys.get(Key::Sha256).and_then(|digest| digest.try_into().ok()) else { continue };
            let state = |number: u64| match lock(&self.index).find(number) {
                Some((_, place)) => Some(place.state),
                None if lock(&self.recent).discarded.contains(&number) => None,
                None => Some(State::Delivered),
            };
            let envelopes = message.seats.iter().map(|s| (s.destination, state(id + u64::from(s.delta)))).collect();
            copies.push((MessageId(id), sha256, envelopes));
        }
        copies
    }

    pub(crate) fn open_content(&self, id: MessageId) -> Result<ContentReader, SpoolError> {
        let mut before = None;
        loop {
            // Numbers rise: the first that waits behind the message's own is either one of its envelopes or shows that none of them waits.
            let waiting = lock(&self.index).first_waiting(id.0 + 1..=id.0 + crate::limits::FAN_OUT_MAX as u64);
            let Some(at) = waiting else { return self.open_past(id) };
            match self.read_message(at)? {
                Some((sequence, message, bytes)) if sequence == id.0 => return self.reader(sequence, &message, bytes),
                Some(_) => return self.open_past(id),
                // It may have moved while we looked.
                None if before == Some(at) => return Err(SpoolError::Damaged { message: id, offset: 0 }),
                None => before = Some(at),
            }
        }
    }

    fn open_past(&self, id: MessageId) -> Result<ContentReader, SpoolError> {
        let mut place = None;
        self.each_entry(0, |at, entry| {
            if matches!(entry, Entry::Message { id: message, .. } if message == id.0) {
                place = Some(at);
            }
        })?;
        let at = place.ok_or(SpoolError::NotWaiting(EnvelopeId(id.0)))?;
        let (sequence, message, bytes) = self.read_message(at)?.ok_or(SpoolError::Damaged { message: id, offset: 0 })?;
        // Content of the past may be gone before its record.
        self.reader(sequence, &message, bytes).map_err(|_| SpoolError::NotWaiting(EnvelopeId(id.0)))
    }
}

impl Spool {
    /// Key tables of the next `limit` envelopes that could be taken soon; for choosing presentation contexts.
    #[must_use]
    pub fn peek(&self, destination: DestinationId, limit: usize) -> Vec<Arc<Keys>> {
        let soon: Vec<Position> = match lock(&self.inner.index).lanes(destination) {
            Some(lanes) => lanes.upcoming().take(limit).map(|(_, at)| at).collect(),
            None => Vec::new(),
        };
        soon.into_iter().filter_map(|at| self.inner.read_message(at).ok().flatten()).map(|(_, message, _)| message.keys).collect()
    }
}

/// Stands for a message whose record cannot be read.
pub(super) fn nothing() -> Stored {
    Stored { id: 0, accepted_at: UnixMillis::default(), size: 0, keys: Arc::default(), seats: Vec::new(), extents: Vec::new(), origin: None }
}
