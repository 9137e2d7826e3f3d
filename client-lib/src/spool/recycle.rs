//! Recycling: what is no longer needed goes, segment by segment; what is still needed in a segment that goes is copied forward first.
//! Rules: waiting envelopes (held ones and dead letters among them) are copied with their message; a terminal state as long as the segment that then
//! held its message stands; other states if they are the last of an envelope that waits, or tell of its first or last attempts; remembered values if they hold. Order comes from numbers, never from position.
//! A file goes only when its copies are durable, and its going is durable before anything relies on it. History goes when it expired or space is short;
//! waiting messages never. A segment is emptied when at most half of its envelopes still wait, content when at most a quarter of its bytes is needed.
//! Errors: a failing disk leaves everything as it is; the next round tries again. A damaged record that still waits pins its segment.

use crate::event::Event;
use crate::ids::EnvelopeId;
use crate::spool::content::{ContentSegment, Hold};
use crate::spool::error::SpoolError;
use crate::spool::group::{Effect, Queue, Waiter, state_entry};
use crate::spool::journal::{Content, Prepared, Segment, lock};
use crate::spool::record::{self, Code, Extent, Message, Position, Seat, StateRecord};
use crate::spool::remembered::QUIET;
use crate::spool::segment::{self, Entry, Use};
use crate::spool::{Inner, Intake, UnixMillis};
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

/// Journal segments recycled in one round, so that a round ends.
const ROUND: usize = 8;
/// Bytes of records copied forward in one group, so that commits are not held up behind them.
const COPY_BYTES: usize = 512 << 10;
/// Segments' worth of space above the reserve at which history begins to go.
const SLACK_SEGMENTS: u64 = 8;
/// The same as a part of a small file system.
const SLACK_PART: u64 = 16;

/// What decides whether something goes.
#[derive(Debug, Clone, Copy)]
struct Need {
    now: Option<UnixMillis>,
    /// Everything older is expired history.
    before: UnixMillis,
    /// Space is short: history goes whatever its age.
    pressure: bool,
    /// Records can be written, so things can be copied forward.
    copying: bool,
    /// Everything from then on may have to be replayed.
    replay_from: UnixMillis,
}

impl Need {
    fn past(&self, newest_at: u64) -> bool {
        (self.pressure || newest_at <= self.before) && newest_at < self.replay_from
    }
}

/// Records on their way to the end of the log.
#[derive(Default)]
struct Copies {
    records: Vec<(Vec<u8>, Entry, Effect)>,
    bytes: usize,
    watched: Vec<(u64, u64)>,
    holds: Vec<Hold>,
    moved: Arc<Mutex<HashMap<u64, Position>>>,
}

impl Copies {
    fn push(&mut self, record: Vec<u8>, entry: Entry, effect: Effect) {
        self.bytes += record.len();
        self.records.push((record, entry, effect));
    }
}

impl Inner {
    /// One round. Without a time nothing counts as expired: only pressure frees.
    pub(crate) fn recycle(self: &Arc<Self>, now: Option<UnixMillis>) {
        let mut upkeep = lock(&self.upkeep);
        let Ok((free, total)) = self.storage.space() else { return };
        let history = u64::try_from(self.settings.history.as_millis()).unwrap_or(u64::MAX);
        let slack = (SLACK_SEGMENTS * self.settings.segment_size).min(total / SLACK_PART);
        let replay_from = {
            let mut keeps = lock(&self.keeps);
            if let Some(now) = now {
                keeps.tick(now);
            }
            keeps.from()
        };
        let need = Need {
            replay_from,
            now,
            before: now.map_or(0, |now| now.saturating_sub(history)),
            pressure: free < self.settings.reserve.saturating_add(slack),
            copying: *lock(&self.intake) != Intake::Broken,
        };
        // Content of the quiet part has generations up to the next journal segment's.
        let quiet = upkeep.quiet_to;
        let quiet = self.segments.all().iter().map(|s| s.generation).find(|g| quiet > 0 && *g > quiet).unwrap_or(0);
        self.recycle_content(need, quiet, &mut upkeep.undeleted);
        if need.copying {
            self.note_quiet(&mut upkeep.quiet_to);
        }
        let none = BTreeSet::new();
        for segment in self.victims(need).into_iter().take(ROUND) {
            if self.recycle_segment(segment, need, &none, &mut upkeep.undeleted).is_err() {
                return;
            }
        }
    }

    /// Writes down up to which generation everything has ended, so that the next open need not read history. States stand behind their message's record, so
    /// what stands in that part concerns nothing outside it; remembered values that do are copied forward first.
    fn note_quiet(self: &Arc<Self>, known: &mut u64) {
        let mut quiet = *known;
        {
            let index = lock(&self.index);
            let segments = self.segments.all();
            if segments.iter().any(|s| s.leaving.load(Ordering::Relaxed)) {
                return;
            }
            // The newest sealed one is left out: its records name the newest content.
            for pair in segments.windows(2) {
                if pair[0].generation <= quiet {
                    continue;
                }
                if !matches!((pair[0].content(), pair[1].content()), (Content::Sealed(_), Content::Sealed(_))) || index.live(pair[0].generation) > 0 {
                    break;
                }
                quiet = pair[0].generation;
            }
            if quiet > *known {
                quiet = quiet.min(index.first_detail().saturating_sub(1));
            }
        }
        if quiet <= *known {
            return;
        }
        let mut values = lock(&self.memory).standing_before(quiet);
        values.retain(|(name, ..)| name != QUIET);
        let written = self.wait_durable(|queue, waiter| {
            let mut records = Vec::new();
            for (name, value, lsn) in values {
                let mut bytes = Vec::new();
                record::put_memory(&mut bytes, lsn, &name, &value);
                records.push((bytes, Entry::Memory { lsn }, Effect::Memory(name, value)));
            }
            let (lsn, value) = (queue.draw(1), quiet.to_le_bytes());
            let mut bytes = Vec::new();
            record::put_memory(&mut bytes, lsn, QUIET, &value);
            records.push((bytes, Entry::Memory { lsn }, Effect::Memory(QUIET.to_owned(), value.to_vec())));
            push_all(queue, records, waiter);
        });
        if written.is_ok() {
            *known = quiet;
        }
    }

    /// Journal segments that may go, first those that began to.
    fn victims(&self, need: Need) -> Vec<Arc<Segment>> {
        let index = lock(&self.index);
        let keeps = lock(&self.keeps);
        let mut victims: Vec<Arc<Segment>> = self.segments.all();
        // The begin record behind an unsealed segment is what says where that ended: it stays as long.
        let unsealed = victims.iter().find(|s| matches!(s.content(), Content::Unsealed(..))).map_or(u64::MAX, |s| s.generation);
        victims.retain(|segment| {
            if segment.generation > unsealed {
                return false;
            }
            let (newest_at, envelopes) = match segment.content() {
                Content::Active => return false,
                Content::Unsealed(listing, ..) => (listing.newest_at, listing.envelopes),
                Content::Sealed(trailer) => (trailer.newest_at, trailer.envelopes),
            };
            let live = index.live(segment.generation);
            let leaving = segment.leaving.load(Ordering::Relaxed);
            !segment.pinned.load(Ordering::Relaxed)
                && (live == 0 || need.copying && (leaving || live * 2 <= envelopes))
                && (leaving || need.past(newest_at) && !keeps.holds(segment.generation, newest_at))
        });
        victims.sort_by_key(|s| (!s.leaving.load(Ordering::Relaxed), s.generation));
        victims
    }

    /// Empties a segment and lets its file go.
    fn recycle_segment(
        self: &Arc<Self>,
        segment: Arc<Segment>,
        need: Need,
        content: &BTreeSet<u64>,
        undeleted: &mut Vec<String>,
    ) -> Result<(), SpoolError> {
        let generation = segment.generation;
        let mut entries = Vec::new();
        let read = segment.each(|name| self.number(name), |offset, entry| entries.push((Position::new(generation, offset), entry)));
        read.map_err(|cause| SpoolError::Disk { doing: "reading the list of a journal segment".to_owned(), cause })?;
        let others = self.segments.all().iter().any(|s| s.generation != generation && s.leaving.load(Ordering::Relaxed));
        let mut copies = Copies::default();
        // What an earlier round that failed had watched.
        lock(&self.index).unwatch_all();
        for (at, entry) in entries {
            match entry {
                Entry::Message { id, seats, .. } => {
                    if !self.copy_message(at, id, &seats, content, &mut copies)? {
                        self.pin(&segment, id);
                        self.flush(copies, &segment)?;
                        return Ok(());
                    }
                }
                Entry::State { envelope, code, message_at, lsn, .. } => {
                    let needed = match code {
                        Code::Delivered | Code::Discarded | Code::ReplayEnded => {
                            message_at.generation() != generation && (others || self.segments.get(message_at.generation()).is_some())
                        }
                        Code::Note => false,
                        Code::Started | Code::Deferred | Code::DeadLetter | Code::Held | Code::Ready => lock(&self.index).needs_state(envelope, at),
                    };
                    if needed && let Some(state) = self.read_state(at) {
                        let mut bytes = Vec::new();
                        state.put(&mut bytes, lsn);
                        copies.push(bytes, state_entry(&state, lsn), Effect::Copied);
                    }
                }
                Entry::Memory { lsn } => self.copy_memory(at, lsn, &mut copies)?,
            }
            if copies.bytes >= COPY_BYTES {
                if !need.copying {
                    return Ok(());
                }
                self.flush(std::mem::take(&mut copies), &segment)?;
            }
        }
        if !need.copying && !copies.records.is_empty() {
            return Ok(());
        }
        self.flush(copies, &segment)?;
        if lock(&self.index).live(generation) > 0 {
            return Ok(());
        }
        self.let_go(segment, undeleted);
        Ok(())
    }

    /// Queues a copy of a message record with the envelopes that still wait there. False: it is damaged.
    fn copy_message(
        self: &Arc<Self>,
        at: Position,
        id: u64,
        seats: &[Seat],
        content: &BTreeSet<u64>,
        copies: &mut Copies,
    ) -> Result<bool, SpoolError> {
        let waiting: Vec<Seat> = {
            let mut index = lock(&self.index);
            let number = |s: &Seat| id + u64::from(s.delta);
            let waits = |s: &&Seat| index.lanes(s.destination).and_then(|l| l.find(number(s))).is_some_and(|place| place.at == at);
            let waiting: Vec<Seat> = seats.iter().filter(waits).copied().collect();
            index.watch(waiting.iter().map(number));
            waiting
        };
        if waiting.is_empty() {
            return Ok(true);
        }
        let read = self.read_message(at).and_then(|found| match found {
            Some((_, message, bytes)) if message.extents.iter().any(|e| content.contains(&e.generation)) => {
                Ok(self.move_content(id, &message)?.map(|(extents, hold)| (message, bytes, Some((extents, hold)))))
            }
            Some((_, message, bytes)) => Ok(Some((message, bytes, None))),
            None => Ok(None),
        });
        let Some((mut message, bytes, moved)) = read? else { return Ok(false) };
        let mut left: Vec<Extent> = Vec::new();
        if let Some((extents, hold)) = moved {
            left = std::mem::replace(&mut message.extents, extents);
            copies.holds.push(hold);
        }
        copies.watched.extend(waiting.iter().map(|s| (id, id + u64::from(s.delta))));
        let message = Message { copy: message.copy + 1, from: at.generation(), seats: waiting, ..message };
        let inline = message.inline_at.and_then(|at| bytes.get(at as usize..));
        let mut record = Vec::with_capacity(bytes.len() + record::ALIGN);
        message.put(&mut record, id, inline, |id| self.name(id));
        let Message { copy, from, accepted_at, fingerprint, seats, extents, .. } = message;
        let entry = Entry::Message { id, copy, from, accepted_at, fingerprint, seats, extents };
        copies.push(record, entry, Effect::Moved { from: at, left, to: Arc::clone(&copies.moved) });
        Ok(true)
    }

    fn copy_memory(&self, at: Position, lsn: u64, copies: &mut Copies) -> Result<(), SpoolError> {
        let Some(segment) = self.segments.get(at.generation()) else { return Ok(()) };
        let read = segment::read_record(&*segment.file, at.generation(), at.offset(), 512);
        let read = read.map_err(|cause| SpoolError::Disk { doing: "reading a remembered value".to_owned(), cause })?;
        let view = read.as_deref().and_then(|bytes| record::check(bytes, at.generation()));
        let Some((name, value)) = view.and_then(|v| record::get_memory(v.body)) else { return Ok(()) };
        let oldest = self.segments.all().first().is_some_and(|s| s.generation == at.generation());
        let mut memory = lock(&self.memory);
        // A tombstone in the oldest segment has nothing left to bury.
        if !memory.holds(name, at) || oldest && memory.bury(name, at) {
            return Ok(());
        }
        drop(memory);
        let mut bytes = Vec::new();
        record::put_memory(&mut bytes, lsn, name, value);
        copies.push(bytes, Entry::Memory { lsn }, Effect::Memory(name.to_owned(), value.to_vec()));
        Ok(())
    }

    /// Makes copies durable, and the ends of those that ended meanwhile.
    fn flush(self: &Arc<Self>, copies: Copies, segment: &Segment) -> Result<(), SpoolError> {
        let Copies { records, watched, holds, moved, .. } = copies;
        if records.is_empty() {
            return Ok(());
        }
        segment.leaving.store(true, Ordering::Relaxed);
        let result = self.wait_durable(|queue, waiter| push_all(queue, records, waiter));
        let ends: Vec<(u64, u64, Code)> = {
            let mut index = lock(&self.index);
            watched.into_iter().filter_map(|(message, number)| index.unwatch(number).map(|code| (message, number, code))).collect()
        };
        result?;
        drop(holds);
        let moved = std::mem::take(&mut *lock(&moved));
        // The copy still lists them: their end has to be known wherever the copy is.
        let ends: Vec<_> =
            ends.into_iter().filter_map(|(message, number, code)| moved.get(&message).map(|at| (message, number, code, *at))).collect();
        if ends.is_empty() {
            return Ok(());
        }
        self.wait_durable(|queue, waiter| {
            let records = ends.into_iter().map(|(message, number, code, message_at)| {
                let state = StateRecord::end(number, message, message_at, code);
                let lsn = queue.draw(1);
                let mut bytes = Vec::new();
                state.put(&mut bytes, lsn);
                (bytes, state_entry(&state, lsn), Effect::Copied)
            });
            let records = records.collect();
            push_all(queue, records, waiter);
        })
    }

    /// A segment's file goes: to be the next one, if it has full size and nobody reads it.
    fn let_go(&self, segment: Arc<Segment>, undeleted: &mut Vec<String>) {
        let generation = segment.generation;
        let name = segment::name(Use::Journal, generation);
        self.segments.remove(generation);
        let whole = segment.size.load(Ordering::Relaxed) == self.settings.segment_size;
        let wanted = lock(&self.spare).is_none();
        let gone = if whole && wanted && Arc::strong_count(&segment) == 1 && Arc::strong_count(&segment.file) == 1 {
            let spare = segment::spare_name(self.generation.fetch_add(1, Ordering::Relaxed));
            self.storage.rename(&name, &spare).map(|()| Some(spare))
        } else {
            self.storage.delete(&name).map(|()| None)
        };
        match gone.and_then(|spare| self.storage.sync_dir().map(|()| spare)) {
            Ok(Some(name)) => {
                let next = Prepared { name, file: Arc::clone(&segment.file), size: self.settings.segment_size, zeroed: self.settings.segment_size };
                let mut spare = lock(&self.spare);
                match *spare {
                    None => *spare = Some(next),
                    Some(_) => undeleted.push(next.name),
                }
            }
            Ok(None) => {}
            // It may come back with a power failure: until its going is durable it counts as standing.
            Err(_) => {
                segment.leaving.store(true, Ordering::Relaxed);
                self.segments.insert(segment);
            }
        }
    }

    fn pin(&self, segment: &Segment, message: u64) {
        if !segment.pinned.swap(true, Ordering::Relaxed) {
            let place = segment::name(Use::Journal, segment.generation);
            let what = format!("message {message} waits and is damaged: its segment stays until envelope {} is discarded", EnvelopeId(message + 1));
            self.events.emit(Event::Damage { place, what });
        }
    }

    /// Frees content segments that nothing needs, and empties one that little needs.
    fn recycle_content(self: &Arc<Self>, need: Need, quiet: u64, undeleted: &mut Vec<String>) {
        let mut mostly_dead = None;
        for segment in self.content.idle() {
            let (live, newest_at) = segment.live();
            if newest_at == 0 && !need.pressure && segment.generation < quiet {
                // The lists that would say whose it is were not read: its age counts from now.
                if let Some(now) = need.now {
                    segment.seen(now);
                }
                continue;
            }
            if segment.held() || newest_at != 0 && !need.past(newest_at) {
                continue;
            }
            if live == 0 {
                self.let_content_go(&segment, undeleted);
            } else if live * 4 <= segment.used() && need.copying && !segment.pinned() && mostly_dead.is_none() {
                mostly_dead = Some(segment);
            }
        }
        if let Some(segment) = mostly_dead {
            // Whatever comes of it, the next round looks at the others first.
            let _ = self.empty_content(&segment, need, undeleted);
        }
    }

    fn let_content_go(&self, segment: &ContentSegment, undeleted: &mut Vec<String>) {
        self.content.remove(segment.generation);
        let name = segment::name(Use::Content, segment.generation);
        if self.storage.delete(&name).is_err() {
            undeleted.push(name);
        }
    }

    /// Moves what still waits out of a content segment, together with the journal segments that hold its messages.
    fn empty_content(self: &Arc<Self>, segment: &ContentSegment, need: Need, undeleted: &mut Vec<String>) -> Result<(), SpoolError> {
        let mut holders = BTreeSet::new();
        self.each_entry(0, |at, entry| {
            if let Entry::Message { id, seats, extents, .. } = entry
                && extents.iter().any(|e| e.generation == segment.generation)
            {
                let index = lock(&self.index);
                let waits = |s: &Seat| index.lanes(s.destination).and_then(|l| l.find(id + u64::from(s.delta))).is_some_and(|p| p.at == at);
                if seats.iter().any(waits) {
                    holders.insert(at.generation());
                }
            }
        })?;
        let content = BTreeSet::from([segment.generation]);
        for generation in holders {
            let Some(holder) = self.segments.get(generation) else { continue };
            if matches!(holder.content(), Content::Active) {
                continue;
            }
            self.recycle_segment(holder, need, &content, undeleted)?;
        }
        if segment.live().0 > 0 && !self.active_holds(segment.generation) {
            segment.pin();
        }
        Ok(())
    }

    /// Whether the journal segment being written holds messages with content there.
    fn active_holds(&self, content: u64) -> bool {
        let listing = lock(&self.journal).active.as_ref().map(|a| a.listing.clone());
        listing
            .is_some_and(|l| l.entries().any(|(_, e)| matches!(e, Entry::Message { extents, .. } if extents.iter().any(|x| x.generation == content))))
    }
}

/// Queues records of which the last one is waited for: they are one group, or fail together.
fn push_all(queue: &mut Queue, records: Vec<(Vec<u8>, Entry, Effect)>, waiter: Waiter) {
    let mut waiter = Some(waiter);
    let last = records.len().saturating_sub(1);
    for (i, (record, entry, effect)) in records.into_iter().enumerate() {
        let waiter = if i == last { waiter.take() } else { None };
        queue.push(&record, entry, effect, waiter.unwrap_or(Waiter::Nobody));
    }
}
