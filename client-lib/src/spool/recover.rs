//! Open: what the last run left becomes the index again.
//! Rules: sealed segments are read by their lists, others record by record. A bad record below the highest `synced_to` seen, or below the end that a later
//! begin record gives, is damage: it is copied aside, told, and reading goes on at the next valid record. At or above it is a torn tail: cut, and gone
//! for good, because the new segment's begin record says where the log ended. The state of an envelope is its state record with the highest number.
//! Errors: `InUse`, `Version`, `Disk`. Nothing is deleted that could not be read.

use crate::config::SpoolSettings;
use crate::event::{Event, Events};
use crate::ids::DestinationId;
use crate::spool::content::Contents;
use crate::spool::error::SpoolError;
use crate::spool::group::state_entry;
use crate::spool::history::{RECENT_MAX, Recent};
use crate::spool::index::Index;
use crate::spool::journal::{Content, Failure, Journal, Prepared, Segment, Segments, lock};
use crate::spool::kept::Kept;
use crate::spool::record::{self, Code, Extent, Kind, Message, Position, Seat, StateRecord};
use crate::spool::remembered::{QUIET, Remembered};
use crate::spool::segment::{self, BLOCK, Entry, Listing, TRAILER, Trailer, Use};
use crate::spool::storage::{File, Storage};
use crate::spool::upkeep::Upkeep;
use crate::spool::{Inner, Intake, Names, Recovered};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

/// Bytes of one damaged place copied aside.
const ASIDE_BYTES_MAX: u64 = 1 << 20;
/// How the names of files set aside begin.
const ASIDE: &str = "damage-";
/// Damaged places copied aside; beyond it they are only told.
const ASIDE_FILES_MAX: usize = 64;
/// A segment may be at most this part of its file system.
const PART_OF_FILE_SYSTEM: u64 = 16;
/// Smallest segment: a message record of the largest inline content must fit four times.
const SEGMENT_MIN: u64 = 512 << 10;

fn disk(doing: &str) -> impl FnOnce(io::Error) -> SpoolError {
    move |cause| SpoolError::Disk { doing: doing.to_owned(), cause }
}

fn failed(doing: &str) -> impl FnOnce(Failure) -> SpoolError {
    move |failure| SpoolError::Disk { doing: format!("{doing} ({})", failure.phase), cause: failure.cause }
}

/// What was being read when it failed: people have to find the file.
fn of(part: &str, generation: u64) -> String {
    format!("reading {part} {}", segment::name(Use::Journal, generation)).replace("  ", " ")
}

/// Opens a spool.
pub(crate) fn open(storage: Arc<dyn Storage>, mut settings: SpoolSettings, events: Events) -> Result<(Arc<Inner>, Recovered), SpoolError> {
    storage.lock().map_err(|cause| match cause.kind() {
        io::ErrorKind::WouldBlock => SpoolError::InUse { dir: storage.place(), pid: cause.to_string().trim().parse().unwrap_or(0) },
        _ => disk("taking the lock")(cause),
    })?;
    let (free, total) = storage.space().map_err(disk("measuring the file system"))?;
    settings.segment_size = settings.segment_size.min(total / PART_OF_FILE_SYSTEM).clamp(SEGMENT_MIN, Position::SEGMENT_MAX) / BLOCK * BLOCK;
    let mut found = Found { names: RwLock::default(), recovered: Recovered::default(), events, aside: 0 };
    let files = found.files(&*storage, settings.segment_size)?;
    let next_generation = files.last_generation + 1;
    let content = Contents::new(settings.buffers, next_generation << 32);
    for (generation, file) in files.content {
        let size = file.size().map_err(disk("reading a content segment"))?;
        content.adopt(generation, file, size);
    }
    let segments = found.read(&*storage, files.journal)?;
    let inner = Arc::new(Inner {
        storage,
        settings,
        events: found.events.clone(),
        names: std::mem::take(&mut found.names),
        queue: Mutex::default(),
        buffers_of_group: Mutex::default(),
        journal: Mutex::new(Journal { active: None, synced_to: Position::NONE }),
        spare: Mutex::new(None),
        segments: Segments::default(),
        generation: AtomicU64::new(next_generation),
        index: Mutex::default(),
        content,
        recent: Mutex::default(),
        memory: Mutex::default(),
        keeps: Mutex::default(),
        unread: Mutex::default(),
        intake: Mutex::new(Intake::Open),
        bytes: AtomicU64::new(0),
        free: AtomicU64::new(free),
        history: AtomicU64::new(0),
        upkeep: Mutex::new(Upkeep { undeleted: files.spare.clone(), ..Upkeep::default() }),
        closed: AtomicBool::new(false),
        on_ready: OnceLock::new(),
        on_work: OnceLock::new(),
    });
    let unclean = segments.iter().any(|s| matches!(s.content(), Content::Unsealed(..)));
    let end = segments.iter().filter_map(|s| s.durable_end()).max().unwrap_or(Position::NONE);
    for segment in segments {
        inner.segments.insert(segment);
    }
    let sequence = inner.rebuild(unclean)?;
    lock(&inner.queue).next = sequence + 1;
    inner.start(end, files.prepared)?;
    let mut recovered = found.recovered;
    recovered.waiting = lock(&inner.index).waiting();
    Ok((inner, recovered))
}

/// Files of a spool directory by use.
struct Files {
    journal: BTreeMap<u64, Arc<dyn File>>,
    content: BTreeMap<u64, Arc<dyn File>>,
    /// A journal file of the right size, zeroed or recycled.
    prepared: Option<Prepared>,
    /// Names of files that can go.
    spare: Vec<String>,
    last_generation: u64,
}

/// What a scan of one segment gave.
struct Scan {
    listing: Listing,
    /// End of the last valid record that counts.
    end: u64,
}

/// What open gathers on its way.
struct Found {
    names: RwLock<Names>,
    recovered: Recovered,
    events: Events,
    aside: usize,
}

impl Found {
    fn number(&mut self, name: &str) -> Option<DestinationId> {
        self.names.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner).number(name)
    }

    fn files(&mut self, storage: &dyn Storage, segment_size: u64) -> Result<Files, SpoolError> {
        let mut files = Files { journal: BTreeMap::new(), content: BTreeMap::new(), prepared: None, spare: Vec::new(), last_generation: 0 };
        for name in storage.list().map_err(disk("listing the spool directory"))? {
            files.last_generation = files.last_generation.max(segment::number_in(&name).unwrap_or(0));
            if name.starts_with("spare-") {
                let file = storage.open(&name, false).map_err(disk(&format!("opening {name}")))?;
                if files.prepared.is_none() && file.size().is_ok_and(|size| size == segment_size) {
                    files.prepared = Some(Prepared { name, file, size: segment_size, zeroed: segment_size });
                } else {
                    files.spare.push(name);
                }
                continue;
            }
            if name.starts_with("making-") {
                files.spare.push(name);
                continue;
            }
            if name.starts_with(ASIDE) {
                self.aside += 1;
            }
            let Some((kind, generation)) = segment::parse_name(&name) else { continue };
            let file = storage.open(&name, false).map_err(disk(&format!("opening {name}")))?;
            let block = segment::read_range(&*file, 0, BLOCK as usize).map_err(disk(&format!("reading the header of {name}")))?;
            if let Some(header) = segment::check_header(&block)
                && header.version > segment::VERSION
            {
                return Err(SpoolError::Version(header.version));
            }
            match kind {
                Use::Content => files.content.insert(generation, file),
                Use::Journal => files.journal.insert(generation, file),
            };
        }
        Ok(files)
    }

    /// Reads every journal segment's list, or its records.
    fn read(&mut self, storage: &dyn Storage, files: BTreeMap<u64, Arc<dyn File>>) -> Result<Vec<Arc<Segment>>, SpoolError> {
        let mut segments = Vec::new();
        let mut open = Vec::new();
        for (generation, file) in files {
            self.recovered.segments += 1;
            match sealed(&*file, generation).map_err(disk(&of("the trailer of", generation)))? {
                Some((trailer, size)) => segments.push(Segment::new(generation, file, size, Content::Sealed(trailer))),
                None => open.push((generation, file)),
            }
        }
        // A later segment's begin record says where an earlier one ended.
        let mut ends: HashMap<u64, u64> = HashMap::new();
        for (generation, file) in open.iter().map(|(g, f)| (*g, f)).chain(segments.iter().map(|s| (s.generation, &s.file))) {
            let begin = segment::read_record(&**file, generation, BLOCK, 64).map_err(disk(&of("the first record of", generation)))?;
            let begin = begin.as_deref().and_then(|bytes| record::check(bytes, generation)).filter(|v| v.kind == Kind::Begin);
            if let Some(before) = begin.and_then(|v| record::get_begin(v.body)) {
                ends.insert(before.generation(), before.offset());
            }
        }
        for (generation, file) in open {
            let size = file.size().map_err(disk(&of("the size of", generation)))?;
            let Some(scan) = self.scan(storage, generation, &*file, ends.get(&generation).copied())? else { continue };
            // What was found in memory of the system may not be on disk yet, and from now on others build on it.
            file.sync().map_err(disk(&format!("syncing {}", segment::name(Use::Journal, generation))))?;
            segments.push(Segment::new(generation, file, size, Content::Unsealed(Arc::new(scan.listing), scan.end, false)));
        }
        segments.sort_by_key(|s| s.generation);
        Ok(segments)
    }

    /// Reads a segment record by record. `None`: it is none, and was set aside.
    fn scan(&mut self, storage: &dyn Storage, generation: u64, file: &dyn File, limit: Option<u64>) -> Result<Option<Scan>, SpoolError> {
        let size = file.size().map_err(disk(&of("the size of", generation)))?;
        let bytes = segment::read_range(file, 0, limit.unwrap_or(size).min(size) as usize).map_err(disk(&of("", generation)))?;
        let mut valid: Vec<(usize, usize)> = Vec::new();
        let mut synced_to = limit.map_or(Position::NONE, |l| Position::new(generation, l));
        let mut at = BLOCK as usize;
        while let Some((found, step, synced)) = next_valid(&bytes, generation, at) {
            valid.push((found, step));
            synced_to = synced_to.max(synced);
            at = found + step;
        }
        if valid.is_empty() && !was_prepared(&bytes) {
            self.set_aside(storage, generation, size);
            return Ok(None);
        }
        let mut scan = Scan { listing: Listing::default(), end: BLOCK };
        for (i, (offset, step)) in valid.iter().enumerate() {
            if *offset as u64 > scan.end {
                // A gap. Below what was durable it is damage, else the tail is torn here.
                if Position::new(generation, scan.end) >= synced_to {
                    self.recovered.cut += (bytes.len() - valid[i].0) as u64;
                    break;
                }
                self.damage(storage, generation, &bytes, scan.end, *offset as u64);
            }
            self.add(generation, &bytes, *offset, &mut scan.listing);
            scan.end = (offset + step) as u64;
        }
        if Position::new(generation, scan.end) < synced_to && synced_to.generation() == generation {
            self.damage(storage, generation, &bytes, scan.end, synced_to.offset());
            scan.end = synced_to.offset();
        } else if size <= BLOCK {
            // A file gets a segment's name with its full size durable, and is never cut this short.
            self.recovered.damaged += 1;
            let what = format!("the file was cut to {size} bytes; records that stood in it are missing, and reading goes on");
            self.events.emit(Event::Damage { place: segment::name(Use::Journal, generation), what });
        }
        Ok(Some(scan))
    }

    /// Takes a file that is no segment, whatever its name says, out of the way: it is never used again nor deleted.
    fn set_aside(&mut self, storage: &dyn Storage, generation: u64, size: u64) {
        self.recovered.damaged += 1;
        let place = segment::name(Use::Journal, generation);
        let aside = format!("{ASIDE}{place}");
        let what = match storage.rename(&place, &aside).and_then(|()| storage.sync_dir()) {
            Ok(()) => format!("none of its {size} bytes validate; the file is set aside as {aside} and reading goes on"),
            Err(cause) => {
                format!("none of its {size} bytes validate; the file is left alone and reading goes on; it could not be set aside: {cause}")
            }
        };
        self.events.emit(Event::Damage { place, what });
    }

    /// Sets a damaged range aside. It may reach beyond the end of the bytes: those are missing.
    fn damage(&mut self, storage: &dyn Storage, generation: u64, bytes: &[u8], from: u64, to: u64) {
        self.recovered.damaged += 1;
        let place = format!("{} at {from}", segment::name(Use::Journal, generation));
        let length = bytes.len() as u64;
        let there = to.min(length).saturating_sub(from);
        let missing = to.saturating_sub(from) - there;
        if there == 0 {
            let what = format!("{missing} bytes that were durable are missing; reading goes on");
            self.events.emit(Event::Damage { place, what });
            return;
        }
        let mut what = format!("{there} bytes do not validate; they are set aside and reading goes on");
        if missing > 0 {
            what = format!("{missing} bytes that were durable are missing, and {what}");
        }
        let name = format!("{ASIDE}{generation:012}-{from}.bin");
        if self.aside < ASIDE_FILES_MAX {
            self.aside += 1;
            let kept_bytes = bytes.get(from as usize..(from + there.min(ASIDE_BYTES_MAX)) as usize).unwrap_or_default();
            let kept = storage.open(&name, true).and_then(|f| f.write_at(kept_bytes, 0).and_then(|()| f.sync()));
            match kept {
                Ok(()) => what.push_str(&format!(" as {name}")),
                Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {}
                Err(cause) => what.push_str(&format!("; a copy could not be kept: {cause}")),
            }
        }
        self.events.emit(Event::Damage { place, what });
    }

    fn add(&mut self, generation: u64, bytes: &[u8], offset: usize, listing: &mut Listing) {
        let Some(view) = record::check(&bytes[offset..], generation) else { return };
        let entry = match view.kind {
            Kind::Message => match Message::get(view.body, |name| self.number(name)) {
                Some(m) => Entry::Message {
                    id: view.sequence,
                    copy: m.copy,
                    from: m.from,
                    accepted_at: m.accepted_at,
                    fingerprint: m.fingerprint,
                    seats: m.seats,
                    extents: m.extents,
                },
                None => return,
            },
            Kind::State => match StateRecord::get(view.body) {
                Some(state) => state_entry(&state, view.sequence),
                None => return,
            },
            Kind::Memory => Entry::Memory { lsn: view.sequence },
            Kind::Begin | Kind::Footer => {
                listing.sequence = listing.sequence.max(view.sequence);
                return;
            }
        };
        listing.add(offset as u64, &entry);
    }
}

/// Whether a file without a valid record is one that was prepared, anew or from an older segment, and not yet written when the power went.
fn was_prepared(bytes: &[u8]) -> bool {
    let ours = segment::check_header(bytes).is_some_and(|h| h.kind == Use::Journal as u8);
    let first = bytes.get(BLOCK as usize..).unwrap_or_default();
    let older = || record::u64_at(first, 8).is_some_and(|generation| record::check(first, generation).is_some());
    ours || older() || bytes.iter().all(|b| *b == 0)
}

/// The trailer of a sealed segment whose footer validates.
fn sealed(file: &dyn File, generation: u64) -> io::Result<Option<(Trailer, u64)>> {
    let size = file.size()?;
    if size < BLOCK + TRAILER {
        return Ok(None);
    }
    let bytes = segment::read_range(file, size - TRAILER, TRAILER as usize)?;
    let Some(trailer) = Trailer::get(&bytes, generation) else { return Ok(None) };
    let footer = segment::read_record(file, generation, trailer.footer_at, trailer.footer_length as usize)?;
    Ok(footer.map(|_| (trailer, size)))
}

/// The next valid record at or after `at`: where, how long, and its `synced_to`.
fn next_valid(bytes: &[u8], generation: u64, at: usize) -> Option<(usize, usize, Position)> {
    let mut at = at;
    let mut hint = None;
    while at + record::HEADER <= bytes.len() {
        if let Some(length) = record::plausible(&bytes[at..], generation) {
            if let Some(view) = record::check(&bytes[at..], generation) {
                return Some((at, view.step, view.synced_to));
            }
            // A damaged body with a whole header: the next record is most likely right behind it, and content within is not taken for records.
            if hint.is_none() {
                let behind = at + record::padded(length);
                hint = Some(behind);
                if behind < bytes.len()
                    && let Some(view) = record::check(&bytes[behind..], generation)
                {
                    return Some((behind, view.step, view.synced_to));
                }
            }
        }
        at += record::ALIGN;
    }
    None
}

impl Segment {
    fn highest_sequence(&self) -> u64 {
        match self.content() {
            Content::Active => 0,
            Content::Unsealed(listing, ..) => listing.sequence,
            Content::Sealed(trailer) => trailer.sequence,
        }
    }

    fn durable_end(&self) -> Option<Position> {
        match self.content() {
            Content::Active => None,
            Content::Unsealed(_, end, _) => Some(Position::new(self.generation, end)),
            Content::Sealed(trailer) => Some(Position::new(self.generation, trailer.footer_at)),
        }
    }
}

/// A message record found, as far as the index wants it.
struct Waiting {
    number: u64,
    copy: u32,
    at: Position,
    seat: Seat,
}

impl Inner {
    /// Builds the index from the lists of all segments. Returns the highest sequence number.
    fn rebuild(&self, unclean: bool) -> Result<u64, SpoolError> {
        let sequence = self.segments.all().iter().map(|s| s.highest_sequence()).max().unwrap_or(0);
        let quiet = self.find_quiet()?;
        lock(&self.upkeep).quiet_to = quiet;
        let mut ended = Ended::default();
        let mut states: HashMap<u64, (u64, Position, Kept)> = HashMap::new();
        let mut memories = Vec::new();
        let mut recent = Recent::default();
        self.each_entry(self.recent_from(quiet), |at, entry| match entry {
            Entry::State { envelope, code: Code::Discarded, .. } if at.generation() <= quiet => recent.discarded(envelope),
            Entry::Message { id, fingerprint: Some(fingerprint), .. } if at.generation() <= quiet => recent.insert(fingerprint, id, at),
            _ => {}
        })?;
        self.each_entry(quiet + 1, |at, entry| match entry {
            Entry::State { envelope, code, lsn, flags, .. } => match code {
                Code::Note => {}
                Code::Delivered | Code::Discarded | Code::ReplayEnded => {
                    ended.insert(envelope);
                    states.remove(&envelope);
                    if code == Code::Discarded {
                        recent.discarded(envelope);
                    }
                }
                Code::Started | Code::Deferred | Code::DeadLetter | Code::Held | Code::Ready => {
                    let (last, place, kept) = states.entry(envelope).or_insert_with(|| (lsn, at, Kept::default()));
                    if (lsn, at) > (*last, *place) {
                        (*last, *place) = (lsn, at);
                    }
                    if record::is_attempt(code, flags) {
                        kept.add(lsn, at);
                    }
                }
            },
            Entry::Memory { .. } => memories.push(at),
            Entry::Message { .. } => {}
        })?;
        let mut waiting = Vec::new();
        let mut extents: HashMap<u64, (u32, Vec<Extent>, u64)> = HashMap::new();
        let mut leaving = BTreeSet::new();
        let mut content = 0;
        self.each_entry(quiet + 1, |at, entry| {
            let Entry::Message { id, copy, from, accepted_at, fingerprint, seats, extents: runs } = entry else { return };
            if let Some(fingerprint) = fingerprint {
                recent.insert(fingerprint, id, at);
            }
            if copy > 0 {
                leaving.insert(from);
            }
            self.content.touch(&runs, accepted_at);
            content = runs.iter().map(|r| r.generation).fold(content, u64::max);
            let before = waiting.len();
            let open = seats.into_iter().filter(|s| !ended.contains(id + u64::from(s.delta)));
            waiting.extend(open.map(|seat| Waiting { number: id + u64::from(seat.delta), copy, at, seat }));
            if !runs.is_empty() && waiting.len() > before && extents.get(&id).is_none_or(|(known, ..)| *known <= copy) {
                extents.insert(id, (copy, runs, accepted_at));
            }
        })?;
        drop(ended);
        self.remember_again(&memories)?;
        waiting.retain(|w: &Waiting| {
            let stays = !w.seat.marks.replay || self.belongs_to_open_order(w);
            if !stays {
                extents.remove(&(w.number - u64::from(w.seat.delta)));
            }
            stays
        });
        // A generation that a record names is never given again, even if its file is gone.
        self.generation.fetch_max(content + 1, Ordering::Relaxed);
        for (_, runs, accepted_at) in extents.into_values() {
            self.content.keep(&runs, accepted_at);
        }
        for generation in leaving {
            if let Some(segment) = self.segments.get(generation) {
                segment.leaving.store(true, Ordering::Relaxed);
            }
        }
        // Of a record copied forward, the highest copy holds.
        waiting.sort_unstable_by_key(|w| (w.number, std::cmp::Reverse((w.copy, w.at))));
        waiting.dedup_by_key(|w| w.number);
        let mut index = Index::default();
        if unclean {
            index.recovered_to = sequence;
        }
        for w in &waiting {
            let (last, kept) = match states.remove(&w.number) {
                Some((lsn, at, kept)) => (self.read_state(at).map(|state| (at, lsn, state)), kept),
                None => (None, Kept::default()),
            };
            index.push_recovered(w.number, w.at, &w.seat, last, kept);
        }
        *lock(&self.index) = index;
        *lock(&self.recent) = recent;
        Ok(sequence)
    }

    /// A replay of an order that is no longer open has ended with it.
    fn belongs_to_open_order(&self, w: &Waiting) -> bool {
        match self.read_message(w.at) {
            Ok(Some((_, message, _))) => message.origin.is_some_and(|o| o.order == self.open_order(w.seat.destination)),
            // Damaged: what repeats something that was answered is not worth a hold.
            Ok(None) => false,
            Err(_) => true,
        }
    }

    fn remember_again(&self, memories: &[Position]) -> Result<(), SpoolError> {
        let mut memory = Remembered::default();
        for at in memories {
            let Some(segment) = self.segments.get(at.generation()) else { continue };
            let bytes = segment::read_record(&*segment.file, at.generation(), at.offset(), 512).map_err(disk("reading a remembered value"))?;
            let view = bytes.as_deref().and_then(|bytes| record::check(bytes, at.generation()));
            if let Some((view, (name, value))) = view.and_then(|v| record::get_memory(v.body).map(|m| (v, m))) {
                memory.set(name.to_owned(), value.to_vec(), view.sequence, *at);
            }
        }
        *lock(&self.memory) = memory;
        Ok(())
    }

    /// The generation up to which an earlier run found everything ended (see `recycle`): its lists need not be read to know what waits.
    fn find_quiet(&self) -> Result<u64, SpoolError> {
        let mut quiet = (0, 0);
        for segment in self.segments.all().into_iter().rev() {
            if segment.generation <= quiet.1 {
                break;
            }
            let mut memories = Vec::new();
            let read = segment.each(
                |name| self.number(name),
                |offset, entry| {
                    if let Entry::Memory { lsn } = entry {
                        memories.push((lsn, offset));
                    }
                },
            );
            read.map_err(disk("reading the list of a journal segment"))?;
            for (lsn, offset) in memories {
                let bytes = segment::read_record(&*segment.file, segment.generation, offset, 512).map_err(disk("reading a remembered value"))?;
                let view = bytes.as_deref().and_then(|bytes| record::check(bytes, segment.generation));
                let value = view.and_then(|v| record::get_memory(v.body)).filter(|(name, _)| *name == QUIET).and_then(|(_, v)| record::u64_at(v, 0));
                if let Some(value) = value {
                    quiet = quiet.max((lsn, value));
                }
            }
        }
        Ok(quiet.1)
    }

    /// From which generation on messages are listed among the recent ones, if all up to `quiet` ended.
    fn recent_from(&self, quiet: u64) -> u64 {
        let mut room = RECENT_MAX as u64;
        let mut from = quiet + 1;
        for segment in self.segments.all().into_iter().rev().filter(|s| s.generation <= quiet) {
            if room == 0 {
                break;
            }
            from = segment.generation;
            room = room.saturating_sub(match segment.content() {
                Content::Sealed(trailer) => trailer.envelopes,
                Content::Active | Content::Unsealed(..) => 0,
            });
        }
        from
    }

    /// Opens the segment of this run.
    fn start(&self, end: Position, prepared: Option<Prepared>) -> Result<(), SpoolError> {
        *lock(&self.spare) = prepared;
        let mut journal = lock(&self.journal);
        journal.synced_to = end;
        let begun = self.roll(&mut journal).and_then(|()| journal.confirm());
        match begun {
            Ok(()) => Ok(()),
            // A full or failing disk must not keep what waits from being delivered.
            Err(failure) if self.segments.all().is_empty() => Err(failed("creating the first segment")(failure)),
            Err(failure) => {
                journal.abandon();
                drop(journal);
                self.set_intake(Intake::Broken, &format!("{} failed ({})", failure.phase, failure.cause));
                Ok(())
            }
        }
    }
}

/// Numbers of envelopes that ended: a bit each, in blocks, because they are dense.
#[derive(Default)]
struct Ended(HashMap<u64, Box<[u64; 64]>>);

impl Ended {
    fn insert(&mut self, number: u64) {
        let block = self.0.entry(number >> 12).or_insert_with(|| Box::new([0; 64]));
        block[(number >> 6 & 63) as usize] |= 1 << (number & 63);
    }

    fn contains(&self, number: u64) -> bool {
        self.0.get(&(number >> 12)).is_some_and(|block| block[(number >> 6 & 63) as usize] & 1 << (number & 63) != 0)
    }
}
