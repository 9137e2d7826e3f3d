//! The durable store. Everything the gateway owes anybody is in here; all else can be rebuilt from it.
//!
//! Surface: commit, take, settle, read content, history. No file words above this line: a replicated store can stand in its place.
//! Rules:
//! - A `Receipt` exists only after content, message record and directory entries are synced. Nobody else can make one.
//! - Order in a lane is the order of commit (ascending `EnvelopeId`), through everything. `take` hands out one envelope per lane at a time.
//! - A settlement rides with the next commit, within 10 ms; `settle_then` says when it is durable.
//! - Memory: at most 64 bytes per waiting envelope; content passes in chunks from one budget.
//! - The spool reads no clock and starts no thread: times are arguments, `io::committer` brings the threads.
//!
//! Errors: `SpoolError`; a failed sync is indeterminate and the record will not come back (see `docs/spool-format.md`).

use crate::config::SpoolSettings;
use crate::event::{Event, Events};
use crate::ids::{DestinationId, EnvelopeId, MessageId};
use crate::keys::Keys;
use crate::limits;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

mod attempt;
mod content;
mod decisions;
mod envelope;
mod error;
mod flow;
mod group;
mod history;
mod index;
mod journal;
mod kept;
mod lanes;
mod pages;
mod queues;
mod record;
mod recover;
mod recycle;
mod remembered;
mod replay;
mod segment;
pub mod storage;
mod story;
mod unread;
mod upkeep;

pub use attempt::{Answer, AttemptRecord, Begun, Decided, Story};
pub use content::{ContentReader, ContentWriter, StreamedContent};
pub use envelope::{Addressee, Counts, Decision, Discarded, Envelope, EnvelopeView, Filter, Lane, Settlement, State, Take};
pub use error::SpoolError;
pub use flow::Flow;
pub use group::Work;
pub use replay::{Answered, Keep, Mark, Planned, Range, ReplayOrder, Since};
pub use segment::{FORMAT, version_of};

use group::{Effect, Queue, Waiter};
use history::Recent;
use index::{Index, Stored};
use journal::{Journal, Prepared, Segments, lock};
use record::{Code, Marks, Message, Position, Seat, StateRecord};
use remembered::Remembered;
use segment::Entry;
use storage::Storage;

/// Milliseconds since 1970-01-01 UTC. The spool orders by sequence number, never by this.
pub type UnixMillis = u64;

/// Proof of a durable commit. `accept` functions of answers demand one.
#[derive(Debug)]
#[must_use]
pub struct Receipt {
    message: MessageId,
}

impl Receipt {
    /// The number the message got.
    #[must_use]
    pub fn message(&self) -> MessageId {
        self.message
    }

    /// The number of its envelope for the addressee at this place of the draft's list: envelopes are numbered right after their message.
    #[must_use]
    pub fn envelope(&self, addressee: u16) -> EnvelopeId {
        EnvelopeId(self.message.0 + 1 + u64::from(addressee))
    }
}

/// A message on its way into the spool.
#[derive(Debug)]
pub struct Draft {
    /// What is known of it. `Key::Sha256` is there only if the content is to be compared with later ones (`receipt_of_copy`).
    pub keys: Keys,
    /// Its bytes.
    pub content: Content,
    /// When it was whole.
    pub accepted_at: UnixMillis,
    /// One envelope each; at least one, at most `limits::FAN_OUT_MAX`.
    pub addressees: Vec<Addressee>,
    /// Set to find a second copy later with `recent`: a hash of listener, protocol and control id or SOP instance UID.
    pub fingerprint: Option<u64>,
}

/// Bytes of a message.
#[derive(Debug)]
pub enum Content {
    /// Small: stands in the journal beside its record. Larger ones are moved to content segments by `commit`.
    Whole(Bytes),
    /// Written while it arrived.
    Streamed(StreamedContent),
}

/// Whether messages are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intake {
    /// They are.
    Open,
    /// The reserve is reached.
    Reserve,
    /// No segment can be written at the moment.
    Broken,
}

/// Bytes of the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// On disk.
    pub bytes: u64,
    /// Free on its file system.
    pub free: u64,
    /// Of its bytes: history that goes before intake closes.
    pub history: u64,
    /// Free bytes at which intake closes.
    pub reserve: u64,
}

impl Usage {
    /// Bytes it can take before intake closes.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.free.saturating_sub(self.reserve).saturating_add(self.history)
    }
}

/// What `open` found.
#[derive(Debug, Clone, Copy, Default)]
pub struct Recovered {
    /// Waiting envelopes.
    pub waiting: u64,
    /// Segments read.
    pub segments: u64,
    /// Places of damage set aside.
    pub damaged: u64,
    /// Bytes of torn tail cut.
    pub cut: u64,
}

/// Told when a commit or a synced settlement ended. Called by whichever thread leads: must be short and must not block.
pub type Done<T> = Box<dyn FnOnce(Result<T, SpoolError>) + Send>;

/// Tells a destination's driver that there may be something to take.
type OnReady = Box<dyn Fn(DestinationId) + Send + Sync>;
/// Tells whoever brings the threads that there is work.
type OnWork = Box<dyn Fn(Work) + Send + Sync>;

/// The store. Shared by all threads; every method may be called from any of them.
#[derive(Debug)]
pub struct Spool {
    inner: Arc<Inner>,
}

/// The parts of the store. Locks are taken in the order journal, index, queue, and the others after them, each for a moment.
pub(crate) struct Inner {
    storage: Arc<dyn Storage>,
    settings: SpoolSettings,
    events: Events,
    names: RwLock<Names>,
    queue: Mutex<Queue>,
    buffers_of_group: Mutex<(Vec<u8>, Vec<group::Item>)>,
    journal: Mutex<Journal>,
    spare: Mutex<Option<Prepared>>,
    segments: Segments,
    generation: AtomicU64,
    index: Mutex<Index>,
    content: content::Contents,
    recent: Mutex<Recent>,
    memory: Mutex<Remembered>,
    keeps: Mutex<replay::Keeps>,
    unread: Mutex<unread::Unread>,
    intake: Mutex<Intake>,
    bytes: AtomicU64,
    free: AtomicU64,
    history: AtomicU64,
    upkeep: Mutex<upkeep::Upkeep>,
    closed: AtomicBool,
    on_ready: OnceLock<OnReady>,
    on_work: OnceLock<OnWork>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Spool({})", self.storage.place())
    }
}

/// Destination names by number.
#[derive(Debug, Default)]
struct Names {
    list: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, DestinationId>,
}

impl Names {
    fn number(&mut self, name: &str) -> Option<DestinationId> {
        if let Some(id) = self.numbers.get(name) {
            return Some(*id);
        }
        if self.list.len() >= limits::DESTINATIONS_MAX {
            return None;
        }
        let name: Arc<str> = Arc::from(name);
        let id = DestinationId(self.list.len() as u16);
        self.list.push(Arc::clone(&name));
        self.numbers.insert(name, id);
        Some(id)
    }
}

/// A draft encoded, with all that is left to do the numbers.
struct Encoded {
    record: Vec<u8>,
    seats: Vec<Seat>,
    extents: Vec<record::Extent>,
    accepted_at: UnixMillis,
    fingerprint: Option<u64>,
    /// Keeps the chunks of the content from being recycled until the index knows the message.
    hold: Option<content::Hold>,
}

impl Inner {
    fn name(&self, id: DestinationId) -> Arc<str> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names.list.get(usize::from(id.0)).cloned().unwrap_or_else(|| Arc::from(""))
    }

    fn number(&self, name: &str) -> Option<DestinationId> {
        if let Some(id) = self.names.read().unwrap_or_else(PoisonError::into_inner).numbers.get(name) {
            return Some(*id);
        }
        self.names.write().unwrap_or_else(PoisonError::into_inner).number(name)
    }

    fn wake(&self, destination: DestinationId) {
        if let Some(call) = self.on_ready.get() {
            call(destination);
        }
    }

    /// Largest record: a segment must be able to hold a few.
    fn record_max(&self) -> usize {
        (self.settings.segment_size / 4) as usize
    }

    /// Whether messages are taken, as an error if not.
    fn admit(&self) -> Result<(), SpoolError> {
        match &*lock(&self.intake) {
            Intake::Open if self.closed.load(Ordering::Relaxed) => {
                Err(SpoolError::NotDurable { phase: "open", cause: std::io::Error::other("the spool is closed") })
            }
            Intake::Open => Ok(()),
            Intake::Reserve => Err(SpoolError::Reserve { free: self.free.load(Ordering::Relaxed), reserve: self.settings.reserve }),
            Intake::Broken => Err(SpoolError::NotDurable { phase: "open", cause: std::io::Error::other("no segment can be written at the moment") }),
        }
    }

    /// Checks a draft, makes its content durable where that is not inline, and encodes its record.
    fn encode(self: &Arc<Self>, draft: Draft) -> Result<Encoded, SpoolError> {
        self.admit()?;
        if draft.addressees.is_empty() || draft.addressees.len() > limits::FAN_OUT_MAX {
            return Err(SpoolError::Limit(format!("a message needs 1 to {} addressees, not {}", limits::FAN_OUT_MAX, draft.addressees.len())));
        }
        let content = self.settle_content(draft.content)?;
        let marks = |stat| Marks { stat, replay: false };
        let seat = |(i, a): (usize, &Addressee)| Seat { delta: i as u16 + 1, destination: a.destination, lane: a.lane, marks: marks(a.stat) };
        let message = Message {
            accepted_at: draft.accepted_at,
            fingerprint: draft.fingerprint,
            size: content.size,
            copy: 0,
            from: 0,
            keys: Arc::new(draft.keys),
            seats: draft.addressees.iter().enumerate().map(seat).collect(),
            extents: content.extents,
            inline_at: None,
            origin: None,
        };
        let mut record = Vec::with_capacity(512 + message.keys.as_bytes().len() + content.inline.as_ref().map_or(0, |b| b.len()));
        message.put(&mut record, 0, content.inline.as_deref(), |id| self.name(id));
        if record.len() > self.record_max() {
            return Err(SpoolError::Limit(format!("the record would have {} bytes, a segment takes {}", record.len(), self.record_max())));
        }
        let Message { accepted_at, fingerprint, seats, extents, .. } = message;
        Ok(Encoded { record, seats, extents, accepted_at, fingerprint, hold: content.hold })
    }

    /// Reads and validates a message record. `None`: damaged.
    fn read_message(&self, at: Position) -> Result<Option<(u64, Message, Vec<u8>)>, SpoolError> {
        let doing = || "reading a message record".to_owned();
        let Some(segment) = self.segments.get(at.generation()) else { return Ok(None) };
        let read = segment::read_record(&*segment.file, at.generation(), at.offset(), 8192);
        let Some(bytes) = read.map_err(|cause| SpoolError::Disk { doing: doing(), cause })? else { return Ok(None) };
        let Some(view) = record::check(&bytes, at.generation()) else { return Ok(None) };
        let sequence = view.sequence;
        let Some(message) = Message::get(view.body, |name| self.number(name)) else { return Ok(None) };
        Ok(Some((sequence, message, bytes)))
    }

    fn read_state(&self, at: Position) -> Option<StateRecord> {
        let segment = self.segments.get(at.generation())?;
        let bytes = segment::read_record(&*segment.file, at.generation(), at.offset(), 512).ok()??;
        StateRecord::get(record::check(&bytes, at.generation())?.body)
    }

    /// Reads the message of a waiting envelope, following it if its record moves meanwhile.
    fn stored(&self, number: u64) -> Result<Option<Arc<Stored>>, SpoolError> {
        loop {
            let Some((_, place)) = lock(&self.index).find(number) else { return Ok(None) };
            let read = self.read_message(place.at);
            if let Ok(Some((id, message, _))) = read {
                let Message { accepted_at, size, keys, seats, extents, origin, .. } = message;
                return Ok(Some(Arc::new(Stored { id, accepted_at, size, keys, seats, extents, origin })));
            }
            if lock(&self.index).find(number).is_none_or(|(_, now)| now.at == place.at) {
                return read.map(|_| None);
            }
        }
    }

    /// Reads the message of an envelope just taken and notes it. If the record moved meanwhile (and its content with it), it is read again.
    fn launch(&self, number: u64, destination: DestinationId) -> Result<Option<Arc<Stored>>, SpoolError> {
        loop {
            let before = lock(&self.index).find(number).map(|(_, place)| place.at);
            let Some(stored) = self.stored(number)? else { return Ok(None) };
            let mut index = lock(&self.index);
            if index.find(number).map(|(_, place)| place.at) == before {
                index.launch(number, destination, Arc::clone(&stored));
                return Ok(Some(stored));
            }
        }
    }

    /// Sets a damaged envelope aside: held, with an alarm.
    fn hold_damaged(&self, number: u64, destination: DestinationId, why: &str) {
        let mut index = lock(&self.index);
        let Some((_, place)) = index.find(number) else { return };
        let mut state = index.record(number, 0, place);
        state.code = Code::Held;
        state.text = why.to_owned();
        index.decide(number, destination, &state);
        let lsn = group::push_state(&mut lock(&self.queue), &state, Effect::State(Vec::new()), Waiter::Nobody);
        index.state_numbered(number, lsn);
        drop(index);
        let at = format!("envelope {number}");
        self.events.emit(Event::Damage { place: at.clone(), what: why.to_owned() });
        self.events.emit(Event::Held { destination: self.name(destination), envelope: EnvelopeId(number) });
        self.events.emit(Event::Incident { subject: at, what: format!("{why}; it is held") });
        self.ask(Work::Soon);
    }

    fn envelope(&self, number: u64, destination: DestinationId, lane: Lane, stored: &Stored) -> Envelope {
        let index = lock(&self.index);
        let detail = index.detail(number);
        Envelope {
            id: EnvelopeId(number),
            message: MessageId(stored.id),
            destination,
            keys: Arc::clone(&stored.keys),
            size: stored.size,
            accepted_at: stored.accepted_at,
            lane,
            attempts: detail.map_or(0, |d| d.attempts),
            ambiguous_at: index.ambiguous_at(number),
            recovered: number <= index.recovered_to,
            interrupted: detail.is_some_and(|d| d.interrupted),
            out_of_order: detail.is_some_and(|d| d.out_of_order),
            replay: stored.origin.is_some(),
        }
    }

    /// Applies a settlement in memory and queues its record.
    fn settle(&self, id: EnvelopeId, settlement: Settlement, waiter: Waiter) -> Result<(), (SpoolError, Waiter)> {
        let mut index = lock(&self.index);
        let note = match &settlement {
            Settlement::Note(attempt) => Some(attempt.clone()),
            _ => None,
        };
        let (state, destination, ended) = match (index.settle(id.0, settlement), note) {
            (Some(done), _) => done,
            // A second answer comes after the end: only the story takes it.
            (None, Some(attempt)) => (StateRecord::note(id.0, attempt), DestinationId(u16::MAX), None),
            (None, None) => return Err((SpoolError::NotWaiting(id), waiter)),
        };
        let urgent = !matches!(waiter, Waiter::Nobody);
        // Content goes when the end is durable: until then a crash brings the envelope back.
        let ended = ended.unwrap_or_default();
        if state.code == Code::Delivered {
            self.keep_answered(destination, &state, &ended.all_extents);
        }
        let freed = ended.extents;
        let lsn = group::push_state(&mut lock(&self.queue), &state, Effect::State(freed), waiter);
        if !matches!(state.code, Code::Note) {
            index.state_numbered(id.0, lsn);
        }
        drop(index);
        if destination.0 != u16::MAX && state.code != Code::Started && state.code != Code::Note {
            self.wake(destination);
        }
        self.ask(if urgent { Work::Urgent } else { Work::Soon });
        Ok(())
    }
}

impl Spool {
    /// Opens or creates, takes the lock, recovers.
    /// # Errors
    /// `InUse`, `Version`, `Disk`.
    pub fn open(storage: Arc<dyn Storage>, settings: SpoolSettings, events: Events) -> Result<(Self, Recovered), SpoolError> {
        let (inner, recovered) = recover::open(storage, settings, events)?;
        Ok((Self { inner }, recovered))
    }

    /// Called whenever there is work for a thread: see `Work`. Without it, `commit` leads by itself and everything else waits for `lead`. Must not block.
    pub fn on_work(&self, call: Box<dyn Fn(Work) + Send + Sync>) {
        let _ = self.inner.on_work.set(call);
    }

    /// The id of a destination name, registered if new.
    /// # Errors
    /// `Limit` beyond `limits::DESTINATIONS_MAX`.
    pub fn destination(&self, name: &str) -> Result<DestinationId, SpoolError> {
        if name.is_empty() || name.len() > limits::NAME_BYTES_MAX {
            return Err(SpoolError::Limit(format!("a destination's name has 1 to {} bytes", limits::NAME_BYTES_MAX)));
        }
        self.inner.number(name).ok_or_else(|| SpoolError::Limit(format!("more than {} destinations", limits::DESTINATIONS_MAX)))
    }

    /// Names with waiting envelopes, whether configured or not.
    #[must_use]
    pub fn destinations(&self) -> Vec<(DestinationId, Arc<str>)> {
        let busy = lock(&self.inner.index).busy();
        busy.into_iter().map(|id| (id, self.inner.name(id))).collect()
    }

    /// Called whenever envelopes of a destination may have become ready. Must be short and must not block. The first caller stays.
    pub fn on_ready(&self, wake: Box<dyn Fn(DestinationId) + Send + Sync>) {
        let _ = self.inner.on_ready.set(wake);
    }

    /// Makes a message durable, leading the group if the log is free. Blocks.
    /// # Errors
    /// `Reserve`, `NotDurable`, `Limit`: nothing was taken.
    pub fn commit(&self, draft: Draft) -> Result<Receipt, SpoolError> {
        let encoded = self.inner.encode(draft)?;
        let mut message = 0;
        let hold = encoded.hold.clone();
        self.inner.wait_durable(|queue, waiter| message = enqueue(queue, encoded, waiter))?;
        drop(hold);
        Ok(Receipt { message: MessageId(message) })
    }

    /// Whether content needs writes and syncs of its own before its record: `commit_then` would block on it.
    #[must_use]
    pub fn must_stage(content: &Content) -> bool {
        match content {
            Content::Whole(bytes) => bytes.len() > limits::INLINE_BYTES_MAX,
            Content::Streamed(streamed) => !streamed.is_inline(),
        }
    }

    /// Makes a message durable without blocking (unless `must_stage`): whoever leads next calls `done`. `io::committer` makes sure somebody does.
    pub fn commit_then(&self, draft: Draft, done: Done<Receipt>) {
        if self.queue_commit(draft, done) {
            self.inner.ask(Work::Urgent);
        }
    }

    /// The same, but nobody is asked to lead if the caller may as well do it, by `lead_once`: true then.
    pub fn commit_soon(&self, draft: Draft, done: Done<Receipt>) -> bool {
        if !self.queue_commit(draft, done) {
            return false;
        }
        let lone = lock(&self.inner.queue).lone();
        if !lone {
            self.inner.ask(Work::Urgent);
        }
        lone
    }

    /// Leads one group, if nobody leads and something waits. Blocks.
    pub fn lead_once(&self) {
        self.inner.lead_once();
    }

    /// Asks for somebody to lead, as `commit_then` does.
    pub fn ask_to_lead(&self) {
        self.inner.ask(Work::Urgent);
    }

    /// False: nothing was queued, `done` was told why.
    fn queue_commit(&self, draft: Draft, done: Done<Receipt>) -> bool {
        match self.inner.encode(draft) {
            Err(error) => {
                done(Err(error));
                false
            }
            Ok(mut encoded) => {
                let hold = encoded.hold.take();
                let done: Done<Receipt> = if hold.is_some() {
                    Box::new(move |result| {
                        drop(hold);
                        done(result);
                    })
                } else {
                    done
                };
                enqueue(&mut lock(&self.inner.queue), encoded, Waiter::Receipt(done));
                true
            }
        }
    }

    /// Writes and syncs what waits, if anything does and nobody else leads. Returns whether it did something.
    pub fn lead(&self) -> bool {
        self.inner.lead()
    }

    /// Starts content of unknown length.
    /// # Errors
    /// `Reserve`, `Limit` (buffers).
    pub fn content_writer(&self) -> Result<ContentWriter, SpoolError> {
        self.inner.admit()?;
        ContentWriter::new(Arc::clone(&self.inner))
    }

    /// The next envelope whose lane is free, oldest first; it is in flight from now on.
    /// # Errors
    /// `Damaged`: the envelope concerned was held, with an alarm; call again. `Disk`: it waits on and is ready again within about a second.
    pub fn take(&self, destination: DestinationId) -> Result<Option<Envelope>, SpoolError> {
        self.take_of(destination, Take::ANY)
    }

    /// The same, only of what is wanted.
    /// # Errors
    /// As `take`.
    pub fn take_of(&self, destination: DestinationId, want: Take) -> Result<Option<Envelope>, SpoolError> {
        let inner = &self.inner;
        let Some((number, place)) = lock(&inner.index).take(destination, want) else { return Ok(None) };
        match inner.launch(number, destination) {
            Ok(Some(stored)) => {
                inner.read_well(number);
                Ok(Some(inner.envelope(number, destination, place.lane, &stored)))
            }
            Ok(None) => {
                inner.hold_damaged(number, destination, "its record is damaged on disk");
                Err(SpoolError::Damaged { message: MessageId(0), offset: place.at.offset() })
            }
            Err(error) => {
                inner.read_failed(number, destination, &error);
                Err(error)
            }
        }
    }

    /// Records what became of an envelope in flight. Rides with the next commit, within 10 ms.
    /// # Errors
    /// `NotWaiting`.
    pub fn settle(&self, id: EnvelopeId, settlement: Settlement) -> Result<(), SpoolError> {
        self.inner.settle(id, settlement, Waiter::Nobody).map_err(|(error, _)| error)
    }

    /// The same, telling when it is durable.
    pub fn settle_then(&self, id: EnvelopeId, settlement: Settlement, done: Done<()>) {
        if let Err((error, Waiter::Synced(done))) = self.inner.settle(id, settlement, Waiter::Synced(done)) {
            done(Err(error));
        }
    }

    /// Puts an envelope that was taken back untried, at its place in its lane (stop, pause).
    pub fn untake(&self, id: EnvelopeId) {
        let destination = lock(&self.inner.index).untake(id.0);
        if let Some(destination) = destination {
            self.inner.wake(destination);
        }
    }

    /// A deferred envelope may be taken again.
    pub fn due(&self, id: EnvelopeId) {
        let destination = lock(&self.inner.index).due(id.0);
        if let Some(destination) = destination {
            self.inner.wake(destination);
        }
    }

    /// Opens the content of a message.
    /// # Errors
    /// `Damaged`, `Disk`, `NotWaiting` if it is gone.
    pub fn open_content(&self, message: MessageId) -> Result<ContentReader, SpoolError> {
        let reader = self.inner.open_content(message).inspect_err(|error| content::tell_damage(&self.inner.events, error))?;
        Ok(reader.telling(self.inner.events.clone()))
    }

    /// Counts of a destination.
    #[must_use]
    pub fn counts(&self, destination: DestinationId) -> Counts {
        let (mut counts, oldest) = lock(&self.inner.index).counts(destination);
        let Some((number, at, known)) = oldest else { return counts };
        counts.oldest = known.or_else(|| {
            let (_, message, _) = self.inner.read_message(at).ok()??;
            lock(&self.inner.index).oldest_is(destination, number, message.accepted_at);
            Some(message.accepted_at)
        });
        counts
    }

    /// Envelopes in ascending order after `cursor`, and the cursor of the next page.
    /// # Errors
    /// `Disk`.
    pub fn list(&self, filter: &Filter, cursor: Option<EnvelopeId>, limit: usize) -> Result<(Vec<EnvelopeView>, Option<EnvelopeId>), SpoolError> {
        self.inner.list(filter, cursor, limit)
    }

    /// Everything known of one envelope.
    /// # Errors
    /// `NotWaiting` if nothing of it is left, `Disk`.
    pub fn story(&self, id: EnvelopeId) -> Result<Story, SpoolError> {
        self.inner.story(id)
    }

    /// The newest messages committed with this fingerprint that are still known (a bounded table), newest first, with the SHA-256 of the content and, per
    /// envelope, destination and state (`None`: discarded).
    #[must_use]
    #[allow(clippy::type_complexity, reason = "one use")]
    pub fn recent(&self, fingerprint: u64) -> Vec<(MessageId, [u8; 32], Vec<(DestinationId, Option<State>)>)> {
        self.inner.recent(fingerprint)
    }

    /// A receipt for a second copy: of the newest earlier message with this fingerprint, content and set of destinations, if each of its envelopes is
    /// delivered or waiting (not held, dead or discarded). Nothing is committed then.
    #[must_use]
    pub fn receipt_of_copy(&self, fingerprint: u64, sha256: &[u8; 32], destinations: &[DestinationId]) -> Option<Receipt> {
        let good = |state: &Option<State>| matches!(state, Some(State::Ready | State::InFlight | State::Deferred | State::Delivered));
        let same = |envelopes: &[(DestinationId, Option<State>)]| {
            envelopes.len() == destinations.len() && envelopes.iter().all(|(id, state)| destinations.contains(id) && good(state))
        };
        let copies = self.recent(fingerprint);
        copies.into_iter().find(|(_, digest, envelopes)| digest == sha256 && same(envelopes)).map(|(message, ..)| Receipt { message })
    }

    /// Remembers a small value under a name, durably, through recycling; an empty value forgets. For operators' wishes.
    pub fn remember(&self, name: &str, value: &[u8], done: Done<()>) {
        if let Err(what) = lock(&self.inner.memory).admits(name, value) {
            return done(Err(SpoolError::Limit(what)));
        }
        group::push_memory(&mut lock(&self.inner.queue), name, value, Waiter::Synced(done));
        self.inner.ask(Work::Urgent);
    }

    /// What is remembered.
    #[must_use]
    pub fn remembered(&self) -> Vec<(String, Vec<u8>)> {
        lock(&self.inner.memory).all()
    }

    /// Whether messages are taken now.
    #[must_use]
    pub fn intake(&self) -> Intake {
        lock(&self.inner.intake).clone()
    }

    /// Bytes used and free, as last measured by `maintain`.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let inner = &self.inner;
        let [bytes, free, history] = [&inner.bytes, &inner.free, &inner.history].map(|figure| figure.load(Ordering::Relaxed));
        Usage { bytes, free, history, reserve: inner.settings.reserve }
    }

    /// Housekeeping, called about each second: measures free space, recycles, prepares the next segment, tries again after failures.
    pub fn maintain(&self, now: UnixMillis) {
        self.inner.survive("keeping house", || self.inner.maintain(now));
    }

    /// Prepares and seals segments and frees space if it is short, called soon after `Work::Upkeep`.
    pub fn upkeep(&self) {
        self.inner.survive("keeping house", || {
            self.inner.recycle(None);
            self.inner.prepare_and_seal();
        });
    }

    /// Writes what waits and seals. Waiting envelopes stay for the next run.
    /// # Errors
    /// `NotDurable`.
    pub fn close(&self) -> Result<(), SpoolError> {
        self.inner.close()
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // Chunks and writers may outlive the store; nothing is committed after it.
        self.inner.closed.store(true, Ordering::Relaxed);
    }
}

/// Gives a message its numbers and queues it. Returns the message's.
fn enqueue(queue: &mut Queue, encoded: Encoded, waiter: Waiter) -> u64 {
    let Encoded { mut record, seats, extents, accepted_at, fingerprint, .. } = encoded;
    let id = queue.draw(1 + seats.len() as u64);
    record::set_sequence(&mut record, id);
    let entry = Entry::Message { id, copy: 0, from: 0, accepted_at, fingerprint, seats, extents };
    queue.push(&record, entry, Effect::Message, waiter);
    id
}
