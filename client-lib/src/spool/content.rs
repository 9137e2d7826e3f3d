//! Large content: chunks in content segments, written while they arrive, read back chunk by chunk, each verified.
//! Rules: a place in a segment is written once per generation; chunks start at multiples of a page, so that nothing durable is ever rewritten; a segment
//! whose sync failed takes no more chunks and is never synced again; finishers share syncs. What no live message uses is freed with its segment. A
//! writer's memory is one chunk from one budget.
//! Errors: `Reserve`, `NotDurable`, `Limit` while writing; `Damaged`, `Disk` while reading.

use crate::event::{Event, Events};
use crate::ids::MessageId;
use crate::limits::{CHUNK_BYTES, INLINE_BYTES_MAX};
use crate::spool::error::SpoolError;
use crate::spool::journal::{Failure, lock};
use crate::spool::pages::{Buffer, Pool};
use crate::spool::record::{self, Extent, Position};
use crate::spool::segment::{self, BLOCK, Use};
use crate::spool::storage::File;
use crate::spool::{Content, Inner, Intake, Work};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Bytes before a chunk's content.
pub(crate) const CHUNK_HEADER: usize = 40;
/// Content bytes of a whole chunk.
const PAYLOAD: usize = CHUNK_BYTES - CHUNK_HEADER;
const CHUNK_MAGIC: u32 = u32::from_le_bytes(*b"EVCH");
const CHUNK_VERSION: u8 = 1;

/// One content segment.
#[derive(Debug)]
pub(crate) struct ContentSegment {
    pub(crate) generation: u64,
    pub(crate) file: Arc<dyn File>,
    pub(crate) size: u64,
    state: Mutex<SegmentState>,
    synced: Condvar,
    /// Writers and finished content that no message holds yet.
    holds: AtomicUsize,
}

#[derive(Debug, Default)]
struct SegmentState {
    end: u64,
    /// Content bytes of waiting messages.
    live: u64,
    /// Latest acceptance of a message with content here; 0: none.
    newest_at: u64,
    failed: bool,
    /// A chunk that waits in it is damaged.
    pinned: bool,
    written: u64,
    synced: u64,
    syncing: bool,
}

impl ContentSegment {
    fn new(generation: u64, file: Arc<dyn File>, size: u64, end: u64) -> Arc<Self> {
        let state = Mutex::new(SegmentState { end, ..SegmentState::default() });
        Arc::new(Self { generation, file, size, state, synced: Condvar::new(), holds: AtomicUsize::new(0) })
    }

    /// Makes everything up to a write durable, sharing the sync with others.
    fn sync(&self, write: u64) -> Result<(), Failure> {
        let mut state = lock(&self.state);
        loop {
            if state.synced >= write {
                return Ok(());
            }
            if state.failed {
                return Err(Failure { phase: "sync", cause: io::Error::other("an earlier sync of the same content segment failed") });
            }
            if state.syncing {
                state = self.synced.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.syncing = true;
            let upto = state.written;
            drop(state);
            let result = self.file.sync();
            state = lock(&self.state);
            state.syncing = false;
            match &result {
                Ok(()) => state.synced = upto,
                Err(_) => state.failed = true,
            }
            self.synced.notify_all();
            result.map_err(Failure::at("sync"))?;
        }
    }

    /// Content bytes of waiting messages, and the latest acceptance of any message with content here.
    pub(crate) fn live(&self) -> (u64, u64) {
        let state = lock(&self.state);
        (state.live, state.newest_at)
    }

    /// Bytes written, headers and padding included.
    pub(crate) fn used(&self) -> u64 {
        lock(&self.state).end
    }

    /// Its age counts from this time.
    pub(crate) fn seen(&self, now: u64) {
        lock(&self.state).newest_at = now;
    }

    pub(crate) fn pin(&self) {
        lock(&self.state).pinned = true;
    }

    pub(crate) fn pinned(&self) -> bool {
        lock(&self.state).pinned
    }

    pub(crate) fn held(&self) -> bool {
        self.holds.load(Ordering::Acquire) > 0
    }
}

/// All content segments, and the budget of chunk buffers.
#[derive(Debug)]
pub(crate) struct Contents {
    segments: Mutex<Table>,
    buffers: Arc<Pool>,
    token: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    active: Option<Arc<ContentSegment>>,
    spare: Option<Arc<ContentSegment>>,
    all: BTreeMap<u64, Arc<ContentSegment>>,
}

impl Contents {
    pub(crate) fn new(budget: u64, token: u64) -> Self {
        Self { segments: Mutex::default(), buffers: Pool::new(budget), token: AtomicU64::new(token) }
    }

    /// Takes over a segment of a former run: nothing more is written into it.
    pub(crate) fn adopt(&self, generation: u64, file: Arc<dyn File>, size: u64) {
        lock(&self.segments).all.insert(generation, ContentSegment::new(generation, file, size, size));
    }

    pub(crate) fn get(&self, generation: u64) -> Option<Arc<ContentSegment>> {
        lock(&self.segments).all.get(&generation).cloned()
    }

    /// Every segment that is not being written, oldest first.
    pub(crate) fn idle(&self) -> Vec<Arc<ContentSegment>> {
        let table = lock(&self.segments);
        let busy = |s: &Arc<ContentSegment>| [&table.active, &table.spare].into_iter().flatten().any(|b| b.generation == s.generation);
        table.all.values().filter(|s| !busy(s)).cloned().collect()
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        lock(&self.segments).all.values().map(|s| s.size).sum()
    }

    pub(crate) fn remove(&self, generation: u64) -> Option<Arc<ContentSegment>> {
        lock(&self.segments).all.remove(&generation)
    }

    /// A message with this content waits.
    pub(crate) fn keep(&self, extents: &[Extent], accepted_at: u64) {
        self.each(extents, |state, extent| {
            state.live += u64::from(extent.length);
            state.newest_at = state.newest_at.max(accepted_at);
        });
    }

    /// A message with this content is known, whether it waits or not.
    pub(crate) fn touch(&self, extents: &[Extent], accepted_at: u64) {
        self.each(extents, |state, _| state.newest_at = state.newest_at.max(accepted_at));
    }

    /// No envelope of a message with this content waits any more.
    pub(crate) fn release(&self, extents: &[Extent]) {
        self.each(extents, |state, extent| state.live = state.live.saturating_sub(u64::from(extent.length)));
    }

    fn each(&self, extents: &[Extent], apply: impl Fn(&mut SegmentState, &Extent)) {
        if extents.is_empty() {
            return;
        }
        let table = lock(&self.segments);
        for extent in extents {
            if let Some(segment) = table.all.get(&extent.generation) {
                apply(&mut lock(&segment.state), extent);
            }
        }
    }

    /// Whether a segment should be prepared ahead.
    pub(crate) fn wants_spare(&self) -> bool {
        let table = lock(&self.segments);
        table.active.is_some() && table.spare.is_none()
    }
}

/// Keeps content segments from being freed while chunks in them belong to no message yet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hold(Arc<Held>);

#[derive(Debug, Default)]
struct Held(Mutex<Vec<(Arc<ContentSegment>, u64)>>);

impl Hold {
    fn note(&self, segment: &Arc<ContentSegment>, write: u64) {
        let mut held = lock(&self.0.0);
        match held.iter_mut().find(|(s, _)| Arc::ptr_eq(s, segment)) {
            Some((_, last)) => *last = (*last).max(write),
            None => {
                segment.holds.fetch_add(1, Ordering::AcqRel);
                held.push((Arc::clone(segment), write));
            }
        }
    }

    /// Makes everything held durable.
    fn sync(&self) -> Result<(), (Failure, Arc<ContentSegment>)> {
        let held = lock(&self.0.0).clone();
        held.into_iter().try_for_each(|(segment, write)| segment.sync(write).map_err(|failure| (failure, segment)))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for (segment, _) in self.0.get_mut().unwrap_or_else(PoisonError::into_inner) {
            segment.holds.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// Content that is ready for its record.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) inline: Option<Bytes>,
    pub(crate) extents: Vec<Extent>,
    pub(crate) size: u64,
    pub(crate) hold: Option<Hold>,
}

/// Content written while it arrives: chunks go to disk as they fill. Dropping it frees what was written; nothing becomes visible.
#[derive(Debug)]
pub struct ContentWriter {
    chunks: Box<Chunks>,
    digest: Option<Sha256>,
}

/// The chunks of one content, and the one being filled.
#[derive(Debug)]
struct Chunks {
    inner: Arc<Inner>,
    /// Header's place and content of the chunk being filled; `None` when all are written.
    buffer: Option<Buffer>,
    size: u64,
    extents: Vec<Extent>,
    hold: Hold,
    token: u64,
}

impl ContentWriter {
    pub(crate) fn new(inner: Arc<Inner>) -> Result<Self, SpoolError> {
        let Some(mut buffer) = inner.content.buffers.budgeted() else {
            let what = format!("all {} bytes of spool.buffers are in use by content that is arriving", inner.settings.buffers);
            return Err(SpoolError::Limit(what));
        };
        buffer.set_len(CHUNK_HEADER);
        let token = inner.content.token.fetch_add(1, Ordering::Relaxed);
        let chunks = Chunks { inner, buffer: Some(buffer), size: 0, extents: Vec::new(), hold: Hold::default(), token };
        Ok(Self { chunks: Box::new(chunks), digest: None })
    }

    /// Takes the SHA-256 of what is written, too: for `StreamedContent::sha256`. It costs more processor time than everything else that is done to an
    /// image, so only who looks for second copies asks for it. Call it before the first `write`.
    #[must_use]
    pub fn digesting(mut self) -> Self {
        debug_assert!(self.is_empty(), "what was written before is not in the digest");
        self.digest = Some(Sha256::new());
        self
    }

    /// Appends. Blocks on the disk for a chunk's write if `would_block` says so, never for a sync.
    /// # Errors
    /// `Reserve`, `NotDurable`.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SpoolError> {
        if let Some(digest) = &mut self.digest {
            digest.update(bytes);
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let Some(buffer) = &mut self.chunks.buffer else { break };
            let before = rest.len();
            rest = buffer.fill(rest);
            self.chunks.size += (before - rest.len()) as u64;
            if buffer.room() == 0 {
                self.chunks.flush()?;
            }
        }
        Ok(())
    }

    /// Where the next bytes may be put, instead of `write`; never empty. `wrote` says how many were.
    pub fn space(&mut self) -> &mut [u8] {
        self.chunks.buffer.as_mut().map_or(&mut [], Buffer::spare_mut)
    }

    /// So many bytes, at most its length, were put into `space`. Blocks as `write` does.
    /// # Errors
    /// `Reserve`, `NotDurable`.
    pub fn wrote(&mut self, bytes: usize) -> Result<(), SpoolError> {
        let Some(buffer) = &mut self.chunks.buffer else { return Ok(()) };
        let before = buffer.len();
        buffer.set_len(before + bytes);
        let after = buffer.len();
        if let Some(digest) = &mut self.digest {
            digest.update(&buffer.bytes()[before..]);
        }
        self.chunks.size += (after - before) as u64;
        if buffer.room() == 0 { self.chunks.flush() } else { Ok(()) }
    }

    /// Whether so many more bytes fill a chunk, which is written to the disk then.
    #[must_use]
    pub fn would_block(&self, bytes: usize) -> bool {
        self.chunks.buffer.as_ref().is_some_and(|buffer| buffer.room() <= bytes)
    }

    /// Bytes so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.chunks.size
    }

    /// Nothing yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks.size == 0
    }

    /// Ends the content. Its last chunk is written, and everything synced, by `commit`.
    #[must_use]
    pub fn finish(self) -> StreamedContent {
        let Self { chunks, digest } = self;
        let size = chunks.size;
        let place = match &chunks.buffer {
            Some(buffer) if size <= INLINE_BYTES_MAX as u64 => Place::Inline(Bytes::copy_from_slice(&buffer.bytes()[CHUNK_HEADER..])),
            _ => Place::Chunks { chunks, synced: false },
        };
        StreamedContent { place, size, sha256: digest.map(|digest| digest.finalize().into()) }
    }
}

impl Chunks {
    /// Writes the chunk in the buffer.
    fn flush(&mut self) -> Result<(), SpoolError> {
        let Some(buffer) = &mut self.buffer else { return Ok(()) };
        let length = buffer.len() - CHUNK_HEADER;
        let offset = self.size - length as u64;
        let (segment, at) = self.inner.chunk_place(buffer.len() as u64, &self.hold)?;
        put_chunk_header(buffer.bytes_mut(), segment.generation, self.token, offset);
        segment.file.write_through(buffer.whole_pages(), at).map_err(|cause| SpoolError::NotDurable { phase: "write", cause })?;
        self.hold.note(&segment, {
            let mut state = lock(&segment.state);
            state.written += 1;
            state.written
        });
        match self.extents.last_mut() {
            Some(run) if run.generation == segment.generation && run_end(run) == at && u64::from(run.length) + (length as u64) < 1 << 31 => {
                run.length += length as u32;
            }
            _ => self.extents.push(Extent { generation: segment.generation, offset: at as u32, length: length as u32 }),
        }
        buffer.set_len(CHUNK_HEADER);
        Ok(())
    }

    /// Writes the last chunk and makes all of them durable.
    fn settle(&mut self) -> Result<(), SpoolError> {
        if self.buffer.as_ref().is_some_and(|buffer| buffer.len() > CHUNK_HEADER) {
            self.flush()?;
        }
        self.buffer = None;
        self.hold.sync().map_err(|(failure, segment)| self.inner.content_failed(failure, &segment))
    }
}

/// Where a run of whole chunks ends. Only a run's last chunk may be short, and then nothing joins it.
fn run_end(run: &Extent) -> u64 {
    let whole = u64::from(run.length) / PAYLOAD as u64;
    if u64::from(run.length).is_multiple_of(PAYLOAD as u64) { u64::from(run.offset) + whole * CHUNK_BYTES as u64 } else { u64::MAX }
}

fn put_chunk_header(chunk: &mut [u8], generation: u64, token: u64, offset: u64) {
    let length = (chunk.len() - CHUNK_HEADER) as u32;
    chunk[..4].copy_from_slice(&CHUNK_MAGIC.to_le_bytes());
    chunk[8..16].copy_from_slice(&generation.to_le_bytes());
    chunk[16..24].copy_from_slice(&token.to_le_bytes());
    chunk[24..32].copy_from_slice(&offset.to_le_bytes());
    chunk[32..36].copy_from_slice(&length.to_le_bytes());
    chunk[36..40].copy_from_slice(&[CHUNK_VERSION, 0, 0, 0]);
    let crc = crc32c::crc32c(&chunk[8..]);
    chunk[4..8].copy_from_slice(&crc.to_le_bytes());
}

fn chunk_is_good(chunk: &[u8], generation: u64, offset: u64, length: usize) -> bool {
    chunk.len() == CHUNK_HEADER + length
        && record::u32_at(chunk, 0) == Some(CHUNK_MAGIC)
        && record::u32_at(chunk, 4) == Some(crc32c::crc32c(&chunk[8..]))
        && record::u64_at(chunk, 8) == Some(generation)
        && record::u64_at(chunk, 24) == Some(offset)
        && record::u32_at(chunk, 32) == Some(length as u32)
}

/// Finished content that waits for its `commit`. Small content stays in memory and ends up inline.
#[derive(Debug)]
pub struct StreamedContent {
    place: Place,
    size: u64,
    sha256: Option<[u8; 32]>,
}

#[derive(Debug)]
enum Place {
    Inline(Bytes),
    Chunks { chunks: Box<Chunks>, synced: bool },
}

impl StreamedContent {
    /// SHA-256 of the content, if its writer was `digesting`.
    #[must_use]
    pub fn sha256(&self) -> Option<[u8; 32]> {
        self.sha256
    }

    /// Bytes of the content.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a data set is never empty, and nobody asks")]
    pub fn len(&self) -> u64 {
        self.size
    }

    /// It will stand beside its record.
    #[must_use]
    pub fn is_inline(&self) -> bool {
        matches!(self.place, Place::Inline(_))
    }
}

impl Inner {
    /// Finds a place for a chunk of this many bytes, in a new segment if need be.
    fn chunk_place(&self, length: u64, hold: &Hold) -> Result<(Arc<ContentSegment>, u64), SpoolError> {
        let mut table = lock(&self.content.segments);
        loop {
            if let Some(segment) = &table.active {
                let mut state = lock(&segment.state);
                if !state.failed && state.end + length <= segment.size {
                    let at = state.end;
                    state.end = (at + length).next_multiple_of(BLOCK);
                    drop(state);
                    // From now on the segment stays, whatever becomes of the others' content in it.
                    hold.note(segment, 0);
                    return Ok((Arc::clone(segment), at));
                }
            }
            let next = match table.spare.take() {
                Some(spare) => spare,
                None => self.new_content_segment()?,
            };
            table.all.insert(next.generation, Arc::clone(&next));
            table.active = Some(next);
            self.call(Work::Upkeep);
        }
    }

    /// Makes a content segment: reserved, headed, named, durable. Refused below the reserve.
    fn new_content_segment(&self) -> Result<Arc<ContentSegment>, SpoolError> {
        let lost = |phase| move |cause| SpoolError::NotDurable { phase, cause };
        let (free, _) = self.storage.space().map_err(lost("open"))?;
        self.free.store(free, Ordering::Relaxed);
        if free < self.settings.reserve {
            self.set_intake(Intake::Reserve, "the reserve is reached");
            return Err(SpoolError::Reserve { free, reserve: self.settings.reserve });
        }
        let generation = self.generation.fetch_add(1, Ordering::Relaxed);
        let size = self.settings.segment_size;
        let name = segment::name(Use::Content, generation);
        let file = self.storage.open(&name, true).map_err(lost("open"))?;
        let made = file
            .allocate(size)
            .map_err(lost("open"))
            .and_then(|()| file.write_at(&segment::header(Use::Content, generation, size), 0).map_err(lost("write")))
            .and_then(|()| file.sync().map_err(lost("sync")))
            .and_then(|()| self.storage.sync_dir().map_err(lost("sync")));
        if let Err(error) = made {
            // Nothing refers to it; should this fail too, the next open deletes it.
            let _ = self.storage.delete(&name);
            return Err(error);
        }
        Ok(ContentSegment::new(generation, file, size, BLOCK))
    }

    /// Prepares a content segment ahead, if large content is coming in.
    pub(crate) fn prepare_content(&self) {
        if self.content.wants_spare()
            && let Ok(spare) = self.new_content_segment()
        {
            let mut table = lock(&self.content.segments);
            if table.spare.is_none() {
                table.all.insert(spare.generation, Arc::clone(&spare));
                table.spare = Some(spare);
            }
        }
    }

    /// Moves content of any form to where its record will find it; large content is durable then.
    pub(crate) fn stage_content(self: &Arc<Self>, content: Content) -> Result<StreamedContent, SpoolError> {
        let mut streamed = match content {
            Content::Whole(bytes) if bytes.len() <= INLINE_BYTES_MAX => {
                return Ok(StreamedContent { size: bytes.len() as u64, place: Place::Inline(bytes), sha256: None });
            }
            Content::Whole(bytes) => {
                let mut writer = ContentWriter::new(Arc::clone(self))?;
                writer.write(&bytes)?;
                writer.finish()
            }
            Content::Streamed(streamed) => streamed,
        };
        if let Place::Chunks { chunks, synced } = &mut streamed.place
            && !*synced
        {
            chunks.settle()?;
            *synced = true;
        }
        Ok(streamed)
    }

    fn content_failed(&self, failure: Failure, segment: &Arc<ContentSegment>) -> SpoolError {
        let mut table = lock(&self.content.segments);
        if table.active.as_ref().is_some_and(|a| Arc::ptr_eq(a, segment)) {
            table.active = None;
            drop(table);
            let what = format!("content segment {} could not be synced ({}); another one is used", segment.generation, failure.cause);
            self.events.emit(Event::Incident { subject: "spool".to_owned(), what });
        }
        SpoolError::NotDurable { phase: failure.phase, cause: failure.cause }
    }

    pub(crate) fn settle_content(self: &Arc<Self>, content: Content) -> Result<Settled, SpoolError> {
        let StreamedContent { place, size, .. } = self.stage_content(content)?;
        Ok(match place {
            Place::Inline(bytes) => Settled { inline: Some(bytes), extents: Vec::new(), size, hold: None },
            Place::Chunks { mut chunks, .. } => {
                Settled { inline: None, extents: std::mem::take(&mut chunks.extents), size, hold: Some(chunks.hold.clone()) }
            }
        })
    }

    /// Opens content whose message record was read.
    pub(crate) fn reader(&self, id: u64, message: &record::Message, record: Vec<u8>) -> Result<ContentReader, SpoolError> {
        let message_id = MessageId(id);
        let source = match message.inline_at {
            Some(at) => Source::Inline(Some(Bytes::from(record).slice(at as usize..))),
            None => {
                let mut runs = VecDeque::with_capacity(message.extents.len());
                for extent in &message.extents {
                    let segment = self.content.get(extent.generation).ok_or(SpoolError::Damaged { message: message_id, offset: 0 })?;
                    runs.push_back((Arc::clone(&segment.file), *extent));
                }
                Source::Chunks { runs, within: 0 }
            }
        };
        let buffers = Arc::clone(&self.content.buffers);
        Ok(ContentReader { message: message_id, size: message.size, offset: 0, source, buffers, events: None })
    }

    /// Copies content out of some segments into the active one: new extents, durable; or `None` if a chunk is damaged.
    pub(crate) fn move_content(self: &Arc<Self>, id: u64, message: &record::Message) -> Result<Option<(Vec<Extent>, Hold)>, SpoolError> {
        let mut reader = self.reader(id, message, Vec::new())?;
        let mut writer = ContentWriter::new(Arc::clone(self))?;
        loop {
            match reader.next_chunk() {
                Ok(Some(chunk)) => writer.write(&chunk)?,
                Ok(None) => break,
                Err(SpoolError::Damaged { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        match self.stage_content(Content::Streamed(writer.finish()))?.place {
            Place::Chunks { mut chunks, .. } => Ok(Some((std::mem::take(&mut chunks.extents), chunks.hold.clone()))),
            Place::Inline(_) => Ok(None),
        }
    }
}

/// An event for damage met while content is read.
pub(crate) fn tell_damage(events: &Events, error: &SpoolError) {
    if let SpoolError::Damaged { message, offset } = error {
        events.emit(Event::Damage { place: format!("message {message} at {offset}"), what: error.to_string() });
    }
}

/// Reads content in chunks, verifying each.
#[derive(Debug)]
pub struct ContentReader {
    message: MessageId,
    size: u64,
    offset: u64,
    source: Source,
    buffers: Arc<Pool>,
    /// Told of damage, if whoever reads is not to tell itself.
    events: Option<Events>,
}

#[derive(Debug)]
enum Source {
    Inline(Option<Bytes>),
    /// `within`: content bytes of the first run already read.
    Chunks {
        runs: VecDeque<(Arc<dyn File>, Extent)>,
        within: u32,
    },
}

impl ContentReader {
    /// Bytes in all.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The next piece, at most `limits::CHUNK_BYTES`; `None` at the end. Blocks on the disk.
    /// # Errors
    /// `Damaged`, `Disk`.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>, SpoolError> {
        let read = self.read_chunk();
        if let (Some(events), Err(error)) = (&self.events, &read) {
            tell_damage(events, error);
        }
        read
    }

    /// Damage found from now on is an event.
    pub(crate) fn telling(mut self, events: Events) -> Self {
        self.events = Some(events);
        self
    }

    fn read_chunk(&mut self) -> Result<Option<Bytes>, SpoolError> {
        let (runs, within) = match &mut self.source {
            Source::Inline(bytes) => return Ok(bytes.take().filter(|b| !b.is_empty())),
            Source::Chunks { runs, within } => (runs, within),
        };
        let Some((file, run)) = runs.front() else {
            return if self.offset == self.size { Ok(None) } else { Err(SpoolError::Damaged { message: self.message, offset: self.offset }) };
        };
        let whole = u64::from(*within) / PAYLOAD as u64;
        let at = u64::from(run.offset) + whole * CHUNK_BYTES as u64;
        let length = ((run.length - *within) as usize).min(PAYLOAD);
        let disk = |cause| SpoolError::Disk { doing: format!("reading the content of message {}", self.message), cause };
        let mut chunk = self.buffers.any();
        chunk.set_len((CHUNK_HEADER + length).next_multiple_of(BLOCK as usize));
        let got = file.read_through(chunk.bytes_mut(), at).map_err(disk)?;
        chunk.set_len(got.min(CHUNK_HEADER + length));
        if !chunk_is_good(chunk.bytes(), run.generation, self.offset, length) {
            return Err(SpoolError::Damaged { message: self.message, offset: self.offset });
        }
        self.offset += length as u64;
        *within += length as u32;
        if *within == run.length {
            runs.pop_front();
            *within = 0;
        }
        Ok(Some(Bytes::from_owner(chunk).slice(CHUNK_HEADER..)))
    }
}

/// Largest offset a chunk can have: extents keep 32 bits.
const _: () = assert!(Position::SEGMENT_MAX <= u32::MAX as u64);
