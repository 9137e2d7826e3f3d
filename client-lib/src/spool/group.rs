//! Group commit: whoever finds the log free leads, writes and syncs all that waits, and tells everybody.
//! Rules: numbers are given in the order of queueing; a group is one write and one sync; the index knows an envelope before anybody hears that it is
//! durable; no timer delays a lone message. A settlement whose group failed is kept and written again, because the envelope has moved on in memory.
//! A panic of ours while leading fails that group like a failed write, is told, and the next group is led as ever: nobody waits for ever.
//! Errors: `NotDurable` to everyone whose record was in a failed group. The doubtful records never return (`journal`).

use crate::event::Event;
use crate::ids::{DestinationId, MessageId};
use crate::limits::LONE_COMMITS_MAX;
use crate::spool::error::SpoolError;
use crate::spool::journal::{Failure, Journal, lock};
use crate::spool::record::{self, Extent, Position, StateRecord};
use crate::spool::segment::Entry;
use crate::spool::{Done, Inner, Intake, Receipt};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Settlements kept for writing again while the disk refuses. Beyond it a crash repeats deliveries; that is said once.
const AGAIN_MAX: usize = 65_536;
/// Group buffers larger than this are given back to the system.
const BUFFER_KEPT: usize = 4 << 20;
/// Bytes of one write: a larger group is written in parts, so that a part always fits into a segment.
const GROUP_BYTES_MAX: usize = 4 << 20;

/// What waits for somebody to lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// A caller waits: lead now.
    Urgent,
    /// Nobody waits: lead within 10 ms, unless a commit comes first.
    Soon,
    /// `maintain` has something to do.
    Upkeep,
}

/// Who waits for a record.
pub(crate) enum Waiter {
    Nobody,
    Receipt(Done<Receipt>),
    Synced(Done<()>),
    Slot(Waiting),
}

/// What a durable record changes in memory.
pub(crate) enum Effect {
    /// A new message.
    Message,
    /// A replay of a message: its content is kept already.
    Replay,
    /// A message record that was copied forward. `left`: its content's former extents, if that moved too. `to`: where the copies stand is told here.
    Moved { from: Position, left: Vec<Extent>, to: Arc<Mutex<HashMap<u64, Position>>> },
    /// A state; if it is the end of a message, with the content that nobody needs from then on.
    State(Vec<Extent>),
    /// A remembered value.
    Memory(String, Vec<u8>),
    /// A state or value copied forward as it was.
    Copied,
}

/// One record in the queue.
pub(crate) struct Item {
    /// Bytes with padding.
    pub(crate) length: usize,
    pub(crate) entry: Entry,
    pub(crate) effect: Effect,
    pub(crate) waiter: Waiter,
}

/// Records that wait for a leader.
#[derive(Default)]
pub(crate) struct Queue {
    bytes: Vec<u8>,
    items: Vec<Item>,
    /// Settlements of failed groups, oldest first.
    again: Vec<(Vec<u8>, Entry, Vec<Extent>)>,
    pub(crate) next: u64,
    leading: bool,
    asked: Option<Work>,
    overflow: bool,
    /// Waiters in the last group.
    crowd: usize,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Queue({} records)", self.items.len())
    }
}

impl Queue {
    /// Draws numbers.
    pub(crate) fn draw(&mut self, count: u64) -> u64 {
        let first = self.next;
        self.next += count;
        first
    }

    /// Appends an unstamped record.
    pub(crate) fn push(&mut self, record: &[u8], entry: Entry, effect: Effect, waiter: Waiter) {
        self.bytes.extend_from_slice(record);
        self.items.push(Item { length: record.len(), entry, effect, waiter });
    }

    fn urgent(&self) -> bool {
        self.items.iter().any(|i| !matches!(i.waiter, Waiter::Nobody))
    }

    /// Nobody leads, and few commit at the moment: whoever waits may as well lead.
    pub(crate) fn lone(&self) -> bool {
        !self.leading && self.asked != Some(Work::Urgent) && self.crowd <= LONE_COMMITS_MAX
    }
}

/// Where a blocking caller waits.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    state: Mutex<SlotState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
enum SlotState {
    #[default]
    Waiting,
    /// Lead the next group.
    Lead,
    Done(Result<(), SpoolError>),
}

/// Somebody waits at a slot, who is told at the latest when this is dropped.
pub(crate) struct Waiting(Arc<Slot>);

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        if matches!(*state, SlotState::Waiting) {
            *state = SlotState::Done(Err(again(&panicked("write"))));
            self.0.changed.notify_one();
        }
    }
}

/// A panic of ours, as a failure.
fn panicked(phase: &'static str) -> Failure {
    Failure { phase, cause: io::Error::other("a fault in the gateway itself (panic)") }
}

impl Slot {
    fn set(&self, state: SlotState) {
        *lock(&self.state) = state;
        self.changed.notify_one();
    }
}

/// The same failure for each of many.
fn again(failure: &Failure) -> SpoolError {
    let cause = match failure.cause.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(failure.cause.kind(), failure.cause.to_string()),
    };
    SpoolError::NotDurable { phase: failure.phase, cause }
}

impl Inner {
    /// Queues records and waits until they are durable, leading if nobody does.
    pub(crate) fn wait_durable(&self, queue: impl FnOnce(&mut Queue, Waiter)) -> Result<(), SpoolError> {
        let slot = Arc::new(Slot::default());
        let mut lead = {
            let mut q = lock(&self.queue);
            queue(&mut q, Waiter::Slot(Waiting(Arc::clone(&slot))));
            !std::mem::replace(&mut q.leading, true)
        };
        loop {
            if lead {
                self.lead_group();
                self.pass_on();
            }
            let mut state = lock(&slot.state);
            loop {
                match std::mem::take(&mut *state) {
                    SlotState::Waiting => state = slot.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                    SlotState::Lead => break,
                    SlotState::Done(result) => return result,
                }
            }
            lead = true;
        }
    }

    /// Asks whoever brings the threads to lead, if nobody does. Call without the queue's lock.
    pub(crate) fn ask(&self, work: Work) {
        {
            let mut q = lock(&self.queue);
            if q.leading || q.asked == Some(work) || q.asked == Some(Work::Urgent) {
                return;
            }
            q.asked = Some(work);
        }
        self.call(work);
    }

    pub(crate) fn call(&self, work: Work) {
        if let Some(call) = self.on_work.get() {
            call(work);
        }
    }

    /// Leads until nothing waits. False if somebody else leads or nothing waits.
    pub(crate) fn lead(&self) -> bool {
        {
            let mut q = lock(&self.queue);
            q.asked = None;
            if q.leading || q.items.is_empty() && q.again.is_empty() {
                return false;
            }
            q.leading = true;
        }
        loop {
            self.lead_group();
            let mut q = lock(&self.queue);
            if q.items.is_empty() {
                q.leading = false;
                q.asked = None;
                return true;
            }
        }
    }

    /// Leads one group, if nobody leads and something waits, and hands the lead on.
    pub(crate) fn lead_once(&self) {
        {
            let mut q = lock(&self.queue);
            if q.leading || q.items.is_empty() {
                return;
            }
            q.asked = None;
            q.leading = true;
        }
        self.lead_group();
        self.pass_on();
    }

    /// Hands the lead on after one's own group.
    fn pass_on(&self) {
        let mut q = lock(&self.queue);
        if let Some(slot) = q.items.iter().find_map(|i| if let Waiter::Slot(waiting) = &i.waiter { Some(&waiting.0) } else { None }) {
            return slot.set(SlotState::Lead);
        }
        q.leading = false;
        q.asked = None;
        if !q.items.is_empty() {
            let work = if q.urgent() { Work::Urgent } else { Work::Soon };
            q.asked = Some(work);
            drop(q);
            self.call(work);
        }
    }

    /// Writes, syncs and applies what waits now. Only the leader calls it.
    fn lead_group(&self) {
        let (mut bytes, mut items) = {
            let mut q = lock(&self.queue);
            q.crowd = q.items.iter().filter(|i| !matches!(i.waiter, Waiter::Nobody)).count();
            let (spare_bytes, spare_items) = std::mem::take(&mut *lock(&self.buffers_of_group));
            let mut bytes = std::mem::replace(&mut q.bytes, spare_bytes);
            let mut items = std::mem::replace(&mut q.items, spare_items);
            for (record, entry, freed) in q.again.drain(..) {
                bytes.extend_from_slice(&record);
                items.push(Item { length: record.len(), entry, effect: Effect::State(freed), waiter: Waiter::Nobody });
            }
            (bytes, items)
        };
        let (mut at, mut rest) = (0, items.drain(..));
        while rest.len() > 0 {
            let written = self.survive("writing a group", || self.write_part(&mut bytes[at..], rest.as_slice()));
            let written = written.unwrap_or_else(|| {
                // How far it came is not known: the file is given up where it was durable.
                lock(&self.journal).abandon();
                Err(panicked("write"))
            });
            match written {
                Ok((start, count)) => {
                    at += rest.as_slice()[..count].iter().map(|i| i.length).sum::<usize>();
                    let left = rest.len() - count;
                    // Should it panic: what is durable and not known yet is found at the next start; those who wait are told no.
                    self.survive("taking a group into the index", || self.apply(start, rest.by_ref().take(count)));
                    while rest.len() > left {
                        drop(rest.next());
                    }
                }
                Err(failure) => {
                    // First the place where the doubtful records end is made known, then the waiters hear of it.
                    self.disk_failed(&failure);
                    self.fail(&bytes[at..], rest.by_ref(), &failure);
                }
            }
        }
        drop(rest);
        bytes.clear();
        if bytes.capacity() <= BUFFER_KEPT {
            *lock(&self.buffers_of_group) = (bytes, items);
        }
    }

    /// Writes as many records as fit, after rolling to a new segment if none does. Returns where they stand and how many they are.
    fn write_part(&self, bytes: &mut [u8], items: &[Item]) -> Result<(Position, usize), Failure> {
        let mut journal = lock(&self.journal);
        if journal.active.is_none() {
            return Err(Failure { phase: "open", cause: io::Error::other("no segment can be written at the moment") });
        }
        let mut total = 0;
        let part = |i: &&Item| {
            total += i.length;
            total <= GROUP_BYTES_MAX || total == i.length
        };
        let part: Vec<(usize, &Entry)> = items.iter().take_while(part).map(|i| (i.length, &i.entry)).collect();
        let ready = || lock(&self.spare).is_some();
        let mut count = journal.fit(part.iter().copied(), ready);
        if count == 0 {
            if let Err(failure) = self.roll(&mut journal) {
                journal.retire();
                return Err(failure);
            }
            count = journal.fit(part.iter().copied(), || false).max(1);
        }
        let length: usize = part[..count].iter().map(|(length, _)| length).sum();
        let start = match journal.write(&mut bytes[..length]) {
            Ok(start) => start,
            Err(failure) => {
                journal.abandon();
                return Err(failure);
            }
        };
        if let Some(active) = &mut journal.active {
            let mut offset = start.offset();
            for (length, entry) in &part[..count] {
                active.listing.add(offset, entry);
                offset += *length as u64;
            }
        }
        Ok((start, count))
    }

    /// Begins the next segment: the prepared one, or one made on the spot.
    pub(crate) fn roll(&self, journal: &mut Journal) -> Result<(), Failure> {
        let next = match lock(&self.spare).take() {
            Some(next) => next,
            None => self.prepare_journal(crate::spool::journal::FIRST_ZEROED)?,
        };
        let sequence = lock(&self.queue).next;
        if let Ok((free, _)) = self.storage.space()
            && free < self.settings.reserve
        {
            self.free.store(free, Ordering::Relaxed);
            self.set_intake(Intake::Reserve, &format!("{free} bytes are free, {} are the reserve", self.settings.reserve));
        }
        let generation = self.generation.fetch_add(1, Ordering::Relaxed);
        let segment = journal.begin(&*self.storage, next, generation, sequence)?;
        self.segments.insert(segment);
        self.call(Work::Upkeep);
        Ok(())
    }

    /// Makes durable records known. The order of locks everywhere: journal, index, queue.
    fn apply(&self, start: Position, items: impl Iterator<Item = Item>) {
        let mut ready: BTreeSet<DestinationId> = BTreeSet::new();
        let mut waiters = Vec::new();
        let mut offset = start.offset();
        let mut index = lock(&self.index);
        for item in items {
            let at = Position::new(start.generation(), offset);
            offset += item.length as u64;
            let mut id = 0;
            match (item.entry, item.effect) {
                (Entry::Message { id: message, fingerprint, seats, extents, accepted_at, .. }, Effect::Message) => {
                    id = message;
                    index.flows.accepted(seats.iter().map(|s| s.destination), item.length, &extents);
                    for seat in &seats {
                        index.push(message + u64::from(seat.delta), at, seat);
                        ready.insert(seat.destination);
                    }
                    self.content.keep(&extents, accepted_at);
                    if let Some(fingerprint) = fingerprint {
                        lock(&self.recent).insert(fingerprint, message, at);
                    }
                }
                (Entry::Message { id: message, seats, .. }, Effect::Replay) => {
                    for seat in &seats {
                        index.push(message + u64::from(seat.delta), at, seat);
                        ready.insert(seat.destination);
                    }
                }
                (Entry::Message { id: message, seats, extents, accepted_at, .. }, Effect::Moved { from, left, to }) => {
                    let mut waits = false;
                    for seat in &seats {
                        let number = message + u64::from(seat.delta);
                        waits |= index.relocate(number, seat.destination, from, at);
                        if !left.is_empty() {
                            index.refit(number, &extents);
                        }
                    }
                    if !left.is_empty() && waits {
                        self.content.keep(&extents, accepted_at);
                        self.content.release(&left);
                    }
                    lock(&to).insert(message, at);
                    lock(&self.recent).relocate(message, from, at);
                }
                (Entry::State { envelope, lsn, code, flags, .. }, Effect::State(freed)) => {
                    index.state_written(envelope, lsn, at, record::is_attempt(code, flags));
                    self.content.release(&freed);
                }
                (Entry::State { envelope, lsn, code, flags, .. }, Effect::Copied) => {
                    index.state_written(envelope, lsn, at, record::is_attempt(code, flags));
                }
                (Entry::Memory { lsn }, Effect::Memory(name, value)) => {
                    lock(&self.memory).set(name, value, lsn, at);
                }
                (Entry::Memory { .. } | Entry::State { .. } | Entry::Message { .. }, _) => {}
            }
            if !matches!(item.waiter, Waiter::Nobody) {
                waiters.push((item.waiter, id));
            }
        }
        drop(index);
        // First those who wait to answer, then those who deliver.
        for (waiter, id) in waiters {
            match waiter {
                Waiter::Nobody => {}
                Waiter::Receipt(done) => self.tell(done, Ok(Receipt { message: MessageId(id) })),
                Waiter::Synced(done) => self.tell(done, Ok(())),
                Waiter::Slot(waiting) => waiting.0.set(SlotState::Done(Ok(()))),
            }
        }
        for destination in ready {
            self.survive("telling a destination", || self.wake(destination));
        }
    }

    fn tell<T>(&self, done: Done<T>, result: Result<T, SpoolError>) {
        self.survive("telling of a commit", || done(result));
    }

    /// Runs what must not take the leader with it. `None`: it panicked, which was told.
    pub(crate) fn survive<T>(&self, doing: &str, work: impl FnOnce() -> T) -> Option<T> {
        // What a panic leaves behind is whole as far as anybody goes on with it: see `lock`, and those who call this.
        let result = catch_unwind(AssertUnwindSafe(work));
        if result.is_err() {
            let what = format!("a fault in the gateway itself (panic) while {doing}; it goes on, please report it");
            self.events.emit(Event::Incident { subject: "spool".to_owned(), what });
        }
        result.ok()
    }

    /// Tells everyone of a failed group; keeps its settlements.
    fn fail(&self, bytes: &[u8], items: impl Iterator<Item = Item>, failure: &Failure) {
        let mut at = 0;
        let mut waiters = Vec::new();
        for item in items {
            let record = &bytes[at..at + item.length];
            at += item.length;
            if let Effect::State(freed) = item.effect {
                self.keep_for_later(record, item.entry, freed);
            }
            waiters.push(item.waiter);
        }
        for waiter in waiters {
            match waiter {
                Waiter::Nobody => {}
                Waiter::Receipt(done) => self.tell(done, Err(again(failure))),
                Waiter::Synced(done) => self.tell(done, Err(again(failure))),
                Waiter::Slot(waiting) => waiting.0.set(SlotState::Done(Err(again(failure)))),
            }
        }
    }

    fn keep_for_later(&self, record: &[u8], entry: Entry, freed: Vec<Extent>) {
        let full = {
            let mut q = lock(&self.queue);
            let full = q.again.len() >= AGAIN_MAX;
            if !full {
                q.again.push((record.to_vec(), entry, freed));
            }
            full && !std::mem::replace(&mut q.overflow, true)
        };
        if full {
            let what = format!("more than {AGAIN_MAX} settlements wait for the disk; a crash now repeats deliveries");
            self.events.emit(Event::Incident { subject: "spool".to_owned(), what });
        }
    }

    /// Whether settlements of failed groups wait to be written again.
    pub(crate) fn owes_settlements(&self) -> bool {
        !lock(&self.queue).again.is_empty()
    }
}

/// Appends a state record with a number of its own. The caller holds the index, so that records of one envelope keep their order.
pub(crate) fn push_state(queue: &mut Queue, state: &StateRecord, effect: Effect, waiter: Waiter) -> u64 {
    let lsn = queue.draw(1);
    let at = queue.bytes.len();
    state.put(&mut queue.bytes, lsn);
    let length = queue.bytes.len() - at;
    queue.items.push(Item { length, entry: state_entry(state, lsn), effect, waiter });
    lsn
}

/// How a state record stands in a listing.
pub(crate) fn state_entry(state: &StateRecord, lsn: u64) -> Entry {
    Entry::State { lsn, envelope: state.envelope, code: state.code, flags: state.flags, message_at: state.message_at, at: state.at }
}

/// Appends a memory record.
pub(crate) fn push_memory(queue: &mut Queue, name: &str, value: &[u8], waiter: Waiter) {
    let lsn = queue.draw(1);
    let at = queue.bytes.len();
    record::put_memory(&mut queue.bytes, lsn, name, value);
    let length = queue.bytes.len() - at;
    queue.items.push(Item { length, entry: Entry::Memory { lsn }, effect: Effect::Memory(name.to_owned(), value.to_vec()), waiter });
}
