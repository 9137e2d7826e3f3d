//! The journal: the segment being written, the one prepared to follow it, and those written before.
//! Rules: records are written behind each other and synced group by group; a segment's file has its durable name before its first record is durable; a file
//! whose sync failed is never synced again and ends where it was durable, and the next segment's begin record says so. Sealing (footer, trailer) happens
//! behind the writer's back and never delays a group.
//! Errors: `Failure` with the phase ("write", "sync", "open") and the system's word.

use crate::ids::DestinationId;
use crate::spool::record::{self, Position};
use crate::spool::segment::{self, BLOCK, Entries, Entry, Listing, TRAILER, Trailer, Use};
use crate::spool::storage::{File, Storage};
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// Zeroed before a new spool is ready; the rest of the first segment is left and the next one prepared instead.
pub(crate) const FIRST_ZEROED: u64 = 1 << 20;
/// Bytes zeroed at a time while a segment is prepared.
const ZERO_STEP: u64 = 1 << 20;

/// A step of the disk that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) phase: &'static str,
    pub(crate) cause: io::Error,
}

impl Failure {
    pub(crate) fn at(phase: &'static str) -> impl FnOnce(io::Error) -> Failure {
        move |cause| Failure { phase, cause }
    }
}

/// How a segment's records are found.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// It is being written.
    Active,
    /// It will not be written any more; the list is in memory. `true`: its sync failed, it is never synced again.
    Unsealed(Arc<Listing>, u64, bool),
    /// The list is in its footer.
    Sealed(Trailer),
}

/// One journal segment.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) generation: u64,
    pub(crate) file: Arc<dyn File>,
    pub(crate) size: AtomicU64,
    pub(crate) content: Mutex<Content>,
    /// Its records were copied forward in part: it goes before any other (see `retention`).
    pub(crate) leaving: AtomicBool,
    /// A message that waits in it is damaged.
    pub(crate) pinned: AtomicBool,
}

impl Segment {
    pub(crate) fn new(generation: u64, file: Arc<dyn File>, size: u64, content: Content) -> Arc<Self> {
        Arc::new(Self {
            generation,
            file,
            size: AtomicU64::new(size),
            content: Mutex::new(content),
            leaving: AtomicBool::new(false),
            pinned: AtomicBool::new(false),
        })
    }

    pub(crate) fn content(&self) -> Content {
        lock(&self.content).clone()
    }

    /// Calls `each` with every record listed. The active segment's list is with the journal.
    pub(crate) fn each(&self, names: impl FnMut(&str) -> Option<DestinationId>, mut each: impl FnMut(u64, Entry)) -> io::Result<()> {
        match self.content() {
            Content::Active => Ok(()),
            Content::Unsealed(listing, ..) => {
                listing.entries().for_each(|(offset, entry)| each(offset, entry));
                Ok(())
            }
            Content::Sealed(trailer) => {
                let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the footer of a journal segment is damaged");
                let footer = segment::read_record(&*self.file, self.generation, trailer.footer_at, trailer.footer_length as usize)?;
                let footer = footer.ok_or_else(damaged)?;
                let entries = Entries::of_footer(&footer[record::HEADER..], names).ok_or_else(damaged)?;
                entries.for_each(|(offset, entry)| each(offset, entry));
                Ok(())
            }
        }
    }
}

/// A file ready to become the active segment, under a spare name.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) name: String,
    pub(crate) file: Arc<dyn File>,
    pub(crate) size: u64,
    /// Blocks up to here are written.
    pub(crate) zeroed: u64,
}

/// The segment being written.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) segment: Arc<Segment>,
    size: u64,
    zeroed: u64,
    pub(crate) end: u64,
    pub(crate) listing: Listing,
}

/// See the head of the file.
#[derive(Debug)]
pub(crate) struct Journal {
    pub(crate) active: Option<Active>,
    /// Everything before it is durable.
    pub(crate) synced_to: Position,
}

impl Journal {
    /// How many of these records, given as lengths and entries, fit into the active segment; 0: a new segment is needed.
    pub(crate) fn fit<'a>(&self, records: impl Iterator<Item = (usize, &'a Entry)>, next_is_ready: impl FnOnce() -> bool) -> usize {
        let Some(active) = &self.active else { return 0 };
        let mut end = active.end + active.listing.sealed_length() + crate::limits::FAN_OUT_MAX as u64 * 66;
        if active.end > active.zeroed && active.zeroed < active.size && next_is_ready() {
            return 0;
        }
        let mut fitting = 0;
        for (length, entry) in records {
            end += (length + entry.length()) as u64;
            if end > active.size {
                break;
            }
            fitting += 1;
        }
        fitting
    }

    /// Writes and syncs records that fit. Returns where the first one stands.
    pub(crate) fn write(&mut self, bytes: &mut [u8]) -> Result<Position, Failure> {
        let gone = || Failure { phase: "open", cause: io::Error::other("no segment is open") };
        let active = self.active.as_mut().ok_or_else(gone)?;
        let generation = active.segment.generation;
        let mut at = 0;
        while let Some(length) = record::u32_at(bytes, at).filter(|l| *l > 0) {
            let length = length as usize;
            record::stamp(&mut bytes[at..at + length], generation, self.synced_to);
            at += record::padded(length);
        }
        active.segment.file.write_at(bytes, active.end).map_err(Failure::at("write"))?;
        active.segment.file.sync().map_err(Failure::at("sync"))?;
        let start = Position::new(generation, active.end);
        active.end += bytes.len() as u64;
        self.synced_to = Position::new(generation, active.end);
        Ok(start)
    }

    /// Makes a prepared file the active segment: its name is durable when this returns, its header and begin record with the first group. The segment
    /// before waits for sealing.
    pub(crate) fn begin(&mut self, storage: &dyn Storage, next: Prepared, generation: u64, sequence: u64) -> Result<Arc<Segment>, Failure> {
        let mut bytes = segment::header(Use::Journal, generation, next.size);
        let mut begin = Vec::new();
        record::put_begin(&mut begin, sequence, self.synced_to);
        record::stamp(&mut begin, generation, self.synced_to);
        bytes.extend_from_slice(&begin);
        next.file.write_at(&bytes, 0).map_err(Failure::at("write"))?;
        storage.rename(&next.name, &segment::name(Use::Journal, generation)).map_err(Failure::at("open"))?;
        storage.sync_dir().map_err(Failure::at("sync"))?;
        let segment = Segment::new(generation, next.file, next.size, Content::Active);
        let end = bytes.len() as u64;
        let mut listing = Listing::default();
        listing.sequence = sequence;
        let active = Active { segment: Arc::clone(&segment), size: next.size, zeroed: next.zeroed, end, listing };
        if let Some(before) = self.active.replace(active) {
            *lock(&before.segment.content) = Content::Unsealed(Arc::new(before.listing), before.end, false);
        }
        Ok(segment)
    }

    /// Gives up the active segment after a failed write or sync: it ends where it was durable and is never synced again.
    pub(crate) fn abandon(&mut self) {
        if let Some(active) = self.active.take() {
            *lock(&active.segment.content) = Content::Unsealed(Arc::new(active.listing), active.end, true);
            // It is emptied before any other: until then nothing behind it can go.
            active.segment.leaving.store(true, Ordering::Relaxed);
        }
    }

    /// Ends the active segment, which is whole, without a next one.
    pub(crate) fn retire(&mut self) {
        if let Some(active) = self.active.take() {
            *lock(&active.segment.content) = Content::Unsealed(Arc::new(active.listing), active.end, false);
        }
    }

    /// Syncs the begin record of a segment that follows a failed one, so that what was doubtful never returns.
    pub(crate) fn confirm(&mut self) -> Result<(), Failure> {
        if let Some(active) = &self.active {
            active.segment.file.sync().map_err(Failure::at("sync"))?;
            self.synced_to = Position::new(active.segment.generation, active.end);
        }
        Ok(())
    }
}

/// Makes a file for a later segment, its blocks written up to `zero_to`.
pub(crate) fn prepare(storage: &dyn Storage, number: u64, size: u64, zero_to: u64) -> Result<Prepared, Failure> {
    let making = segment::making_name(number);
    let name = segment::spare_name(number);
    let file = storage.open(&making, true).map_err(Failure::at("open"))?;
    let made = fill(&*file, size, zero_to).and_then(|()| storage.rename(&making, &name).map_err(Failure::at("open")));
    if let Err(failure) = made {
        // Should this fail too, the next open deletes it by its name.
        let _ = storage.delete(&making);
        return Err(failure);
    }
    Ok(Prepared { name, file, size, zeroed: zero_to.min(size) })
}

fn fill(file: &dyn File, size: u64, zero_to: u64) -> Result<(), Failure> {
    file.allocate(size).map_err(Failure::at("open"))?;
    let zeroes = vec![0; ZERO_STEP as usize];
    let mut at = 0;
    while at < zero_to.min(size) {
        let step = (zero_to.min(size) - at).min(ZERO_STEP);
        file.write_at(&zeroes[..step as usize], at).map_err(Failure::at("write"))?;
        // In small steps, so that commits to the other segment do not queue behind one large write-back.
        file.sync().map_err(Failure::at("sync"))?;
        at += step;
    }
    Ok(())
}

/// Writes footer and trailer of a segment that is no longer written, and cuts what it did not use.
pub(crate) fn seal(segment: &Segment, name: impl Fn(DestinationId) -> Arc<str>) -> io::Result<()> {
    let Content::Unsealed(listing, end, false) = segment.content() else { return Ok(()) };
    let mut bytes = listing.footer(name);
    let length = bytes.len() as u64;
    record::stamp(&mut bytes, segment.generation, Position::new(segment.generation, end));
    let trailer =
        Trailer { footer_at: end, footer_length: length, newest_at: listing.newest_at, sequence: listing.sequence, envelopes: listing.envelopes };
    let size = segment.size.load(Ordering::Relaxed);
    let used = (end + length).next_multiple_of(BLOCK) + BLOCK;
    // A nearly full file keeps its size, to be recycled as it is.
    let size = if used < size - size / 8 { used } else { size.max(end + length + TRAILER) };
    segment.file.write_at(&bytes, end)?;
    segment.file.truncate(size)?;
    segment.file.write_at(&trailer.put(segment.generation), size - TRAILER)?;
    segment.file.sync()?;
    segment.size.store(size, Ordering::Relaxed);
    *lock(&segment.content) = Content::Sealed(trailer);
    Ok(())
}

/// All journal segments by generation.
#[derive(Debug, Default)]
pub(crate) struct Segments(RwLock<BTreeMap<u64, Arc<Segment>>>);

impl Segments {
    pub(crate) fn get(&self, generation: u64) -> Option<Arc<Segment>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&generation).cloned()
    }

    pub(crate) fn insert(&self, segment: Arc<Segment>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(segment.generation, segment);
    }

    pub(crate) fn remove(&self, generation: u64) -> Option<Arc<Segment>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&generation)
    }

    /// Every segment, oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<Segment>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// Locks, whatever a panicking thread left behind: every critical section here leaves its value whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
