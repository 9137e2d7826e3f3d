//! Records of the journal: little endian, checksummed, versioned. Byte by byte in `docs/spool-format.md`.
//! Rules: a record is written once and never changed; its CRC-32C covers everything but the CRC itself; it carries the generation of its segment,
//! so that the old bytes of a recycled file never validate, and `synced_to`, the log position durable when it was written.
//! Errors: none; what does not validate is `None`, and recovery decides whether that is damage or a torn tail.

use crate::delivery::Phase;
use crate::event::Delivered;
use crate::ids::DestinationId;
use crate::keys::Keys;
use crate::spool::attempt::Tail;
use crate::spool::envelope::Lane;
use std::sync::Arc;

/// Bytes before the body.
pub(crate) const HEADER: usize = 40;
/// Records start at multiples of this.
pub(crate) const ALIGN: usize = 8;
/// Format version of records.
pub(crate) const VERSION: u8 = 1;
/// Offset of the sequence number in a record.
const SEQUENCE_AT: usize = 16;

/// A place in the log: generation of the segment and offset in it. 8 bytes, ordered. `NONE` stands before every place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Position(u64);

impl Position {
    pub(crate) const NONE: Position = Position(0);
    const OFFSET_BITS: u32 = 28;
    /// Largest segment: offsets are kept in units of 8 bytes.
    pub(crate) const SEGMENT_MAX: u64 = 1 << 30;

    pub(crate) fn new(generation: u64, offset: u64) -> Self {
        debug_assert!(offset.is_multiple_of(ALIGN as u64) && offset <= Self::SEGMENT_MAX);
        Self((generation << Self::OFFSET_BITS) | (offset / ALIGN as u64))
    }

    pub(crate) fn generation(self) -> u64 {
        self.0 >> Self::OFFSET_BITS
    }

    pub(crate) fn offset(self) -> u64 {
        (self.0 & ((1 << Self::OFFSET_BITS) - 1)) * ALIGN as u64
    }

    pub(crate) fn raw(self) -> u64 {
        self.0
    }

    pub(crate) fn from_raw(raw: u64) -> Self {
        Self(raw)
    }
}

impl std::fmt::Debug for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.generation(), self.offset())
    }
}

/// What a record is. The codes are on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// First of a segment: where the segment before ended.
    Begin = 1,
    /// A message with all its envelopes.
    Message = 2,
    /// What became of an envelope.
    State = 3,
    /// A small value under a name.
    Memory = 4,
    /// Index of a sealed segment.
    Footer = 5,
}

impl Kind {
    fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Kind::Begin,
            2 => Kind::Message,
            3 => Kind::State,
            4 => Kind::Memory,
            5 => Kind::Footer,
            _ => return None,
        })
    }
}

/// A validated record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) kind: Kind,
    pub(crate) sequence: u64,
    pub(crate) synced_to: Position,
    pub(crate) body: &'a [u8],
    /// Bytes up to the next record.
    pub(crate) step: usize,
}

/// Starts a record at the end of `buffer`; the body is appended after it.
pub(crate) fn start(buffer: &mut Vec<u8>, kind: Kind, sequence: u64) -> usize {
    let at = buffer.len();
    buffer.extend_from_slice(&[0; SEQUENCE_AT]);
    buffer.extend_from_slice(&sequence.to_le_bytes());
    buffer.extend_from_slice(&[0; 8]);
    buffer.extend_from_slice(&[kind as u8, VERSION, 0, 0, 0, 0, 0, 0]);
    at
}

/// Ends the record started at `at`: fills in its length and pads.
pub(crate) fn end(buffer: &mut Vec<u8>, at: usize) {
    let length = (buffer.len() - at) as u32;
    buffer[at..at + 4].copy_from_slice(&length.to_le_bytes());
    buffer.resize(at + padded(length as usize), 0);
}

/// Sets the sequence number of an unstamped record.
pub(crate) fn set_sequence(record: &mut [u8], sequence: u64) {
    record[SEQUENCE_AT..SEQUENCE_AT + 8].copy_from_slice(&sequence.to_le_bytes());
}

/// Ties an ended record to its segment and seals it with the CRC.
pub(crate) fn stamp(record: &mut [u8], generation: u64, synced_to: Position) {
    let length = u32_at(record, 0).unwrap_or(0) as usize;
    record[8..16].copy_from_slice(&generation.to_le_bytes());
    record[24..32].copy_from_slice(&synced_to.raw().to_le_bytes());
    let crc = checksum(&record[..length]);
    record[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// Bytes a record of this length takes.
pub(crate) fn padded(length: usize) -> usize {
    length.next_multiple_of(ALIGN)
}

fn checksum(record: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&record[..4]), &record[8..])
}

/// Length of the record that begins here, if the first bytes can be those of a record of this generation. Says nothing about its body.
pub(crate) fn plausible(bytes: &[u8], generation: u64) -> Option<usize> {
    let length = u32_at(bytes, 0)? as usize;
    (length >= HEADER && u64_at(bytes, 8)? == generation).then_some(length)
}

/// Validates the record that begins here.
pub(crate) fn check(bytes: &[u8], generation: u64) -> Option<View<'_>> {
    let length = plausible(bytes, generation)?;
    let record = bytes.get(..length)?;
    if u32_at(record, 4)? != checksum(record) {
        return None;
    }
    Some(View {
        kind: Kind::from_code(record[32])?,
        sequence: u64_at(record, SEQUENCE_AT)?,
        synced_to: Position::from_raw(u64_at(record, 24)?),
        body: &record[HEADER..],
        step: padded(length),
    })
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_le_bytes(*b))
}

/// Reads fields one after the other; `None` when the bytes end.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.bytes(1).map(|b| b[0])
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.bytes(2)?.first_chunk().map(|b| u16::from_le_bytes(*b))
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.bytes(4)?.first_chunk().map(|b| u32::from_le_bytes(*b))
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.bytes(8)?.first_chunk().map(|b| u64::from_le_bytes(*b))
    }

    /// A text of at most 255 bytes.
    pub(crate) fn short(&mut self) -> Option<&'a str> {
        let n = self.u8()?;
        std::str::from_utf8(self.bytes(usize::from(n))?).ok()
    }
}

/// Appends a text of at most 255 bytes, cut at a character if longer.
pub(crate) fn put_short(buffer: &mut Vec<u8>, text: &str) {
    let mut n = text.len().min(255);
    while !text.is_char_boundary(n) {
        n -= 1;
    }
    buffer.push(n as u8);
    buffer.extend_from_slice(&text.as_bytes()[..n]);
}

/// A run of whole chunks of one content segment, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Generation of the content segment.
    pub(crate) generation: u64,
    /// Offset of the first chunk's header.
    pub(crate) offset: u32,
    /// Content bytes in the run.
    pub(crate) length: u32,
}

/// One envelope of a message: its distance from the message's number, destination, lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seat {
    pub(crate) delta: u16,
    pub(crate) destination: DestinationId,
    pub(crate) lane: Lane,
    pub(crate) marks: Marks,
}

/// What sets an envelope apart from others of its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Marks {
    /// It goes before others where its lane allows.
    pub(crate) stat: bool,
    /// It repeats what an endpoint had answered.
    pub(crate) replay: bool,
}

/// What a replay repeats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The order it belongs to; of another order than the destination's open one it counts as ended.
    pub(crate) order: u64,
    /// The first envelope with this message for this destination.
    pub(crate) envelope: u64,
    /// The message that carried it.
    pub(crate) message: u64,
    /// Endpoints that had answered it when the replay was made.
    pub(crate) answered_by: Vec<Arc<str>>,
}

/// Body of a message record. The message's number is the record's sequence number.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) accepted_at: u64,
    pub(crate) fingerprint: Option<u64>,
    /// Bytes of content.
    pub(crate) size: u64,
    /// How often it was copied forward; the highest copy holds.
    pub(crate) copy: u32,
    /// Generation it was last copied from; 0: the original.
    pub(crate) from: u64,
    pub(crate) keys: Arc<Keys>,
    pub(crate) seats: Vec<Seat>,
    pub(crate) extents: Vec<Extent>,
    /// Where inline content stands, counted from the record's first byte.
    pub(crate) inline_at: Option<u32>,
    /// Set: this message is a replay.
    pub(crate) origin: Option<Origin>,
}

const FINGERPRINT: u8 = 1;
const INLINE: u8 = 2;
const REPLAY: u8 = 4;
/// Marks of an envelope, beside the kind of its lane.
const SEAT_STAT: u8 = 0x10;
const SEAT_REPLAY: u8 = 0x20;

fn lane_code(lane: Lane) -> (u8, u32) {
    match lane {
        Lane::Own => (0, 0),
        Lane::Key(key) => (1, key),
        Lane::Barrier => (2, 0),
    }
}

fn lane_from(code: u8, key: u32) -> Option<Lane> {
    Some(match code {
        0 => Lane::Own,
        1 => Lane::Key(key),
        2 => Lane::Barrier,
        _ => return None,
    })
}

pub(crate) fn put_lane(buffer: &mut Vec<u8>, lane: Lane, marks: Marks) {
    let (code, key) = lane_code(lane);
    buffer.push(code | if marks.stat { SEAT_STAT } else { 0 } | if marks.replay { SEAT_REPLAY } else { 0 });
    buffer.extend_from_slice(&key.to_le_bytes());
}

pub(crate) fn get_lane(fields: &mut Fields<'_>) -> Option<(Lane, Marks)> {
    let code = fields.u8()?;
    let marks = Marks { stat: code & SEAT_STAT != 0, replay: code & SEAT_REPLAY != 0 };
    Some((lane_from(code & !(SEAT_STAT | SEAT_REPLAY), fields.u32()?)?, marks))
}

impl Origin {
    fn put(&self, buffer: &mut Vec<u8>) {
        for value in [self.order, self.envelope, self.message] {
            buffer.extend_from_slice(&value.to_le_bytes());
        }
        let names = self.answered_by.len().min(255);
        buffer.push(names as u8);
        for name in &self.answered_by[..names] {
            put_short(buffer, name);
        }
    }

    fn get(f: &mut Fields<'_>) -> Option<Self> {
        let (order, envelope, message, names) = (f.u64()?, f.u64()?, f.u64()?, f.u8()?);
        let answered_by = (0..names).map(|_| f.short().map(Arc::from)).collect::<Option<Vec<_>>>()?;
        Some(Self { order, envelope, message, answered_by })
    }
}

impl Message {
    /// Appends the record; `inline` is content that stands in it.
    pub(crate) fn put(&self, buffer: &mut Vec<u8>, sequence: u64, inline: Option<&[u8]>, name: impl Fn(DestinationId) -> Arc<str>) {
        let at = start(buffer, Kind::Message, sequence);
        buffer.extend_from_slice(&self.accepted_at.to_le_bytes());
        buffer.extend_from_slice(&self.fingerprint.unwrap_or(0).to_le_bytes());
        buffer.extend_from_slice(&self.size.to_le_bytes());
        buffer.extend_from_slice(&self.from.to_le_bytes());
        buffer.extend_from_slice(&self.copy.to_le_bytes());
        buffer.extend_from_slice(&(self.keys.as_bytes().len() as u32).to_le_bytes());
        buffer.extend_from_slice(&(self.extents.len() as u32).to_le_bytes());
        buffer.extend_from_slice(&(self.seats.len() as u16).to_le_bytes());
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let flags = flag(self.fingerprint.is_some(), FINGERPRINT) | flag(inline.is_some(), INLINE) | flag(self.origin.is_some(), REPLAY);
        buffer.extend_from_slice(&[flags, 0]);
        for seat in &self.seats {
            buffer.extend_from_slice(&seat.delta.to_le_bytes());
            put_lane(buffer, seat.lane, seat.marks);
            put_short(buffer, &name(seat.destination));
        }
        for extent in &self.extents {
            buffer.extend_from_slice(&extent.generation.to_le_bytes());
            buffer.extend_from_slice(&extent.offset.to_le_bytes());
            buffer.extend_from_slice(&extent.length.to_le_bytes());
        }
        if let Some(origin) = &self.origin {
            origin.put(buffer);
        }
        buffer.extend_from_slice(self.keys.as_bytes());
        buffer.extend_from_slice(inline.unwrap_or_default());
        end(buffer, at);
    }

    /// Reads a body; `id` turns a destination's name into its number.
    pub(crate) fn get(body: &[u8], mut id: impl FnMut(&str) -> Option<DestinationId>) -> Option<Message> {
        let mut f = Fields(body);
        let (accepted_at, fingerprint, size, from, copy) = (f.u64()?, f.u64()?, f.u64()?, f.u64()?, f.u32()?);
        let (keys, extents, seats) = (f.u32()? as usize, f.u32()? as usize, usize::from(f.u16()?));
        let (flags, _) = (f.u8()?, f.u8()?);
        let mut message = Message {
            accepted_at,
            fingerprint: (flags & FINGERPRINT != 0).then_some(fingerprint),
            size,
            copy,
            from,
            keys: Arc::default(),
            seats: Vec::with_capacity(seats),
            extents: Vec::with_capacity(extents.min(body.len() / 16)),
            inline_at: None,
            origin: None,
        };
        for _ in 0..seats {
            let delta = f.u16()?;
            let (lane, marks) = get_lane(&mut f)?;
            let destination = id(f.short()?)?;
            message.seats.push(Seat { delta, destination, lane, marks });
        }
        for _ in 0..extents {
            message.extents.push(Extent { generation: f.u64()?, offset: f.u32()?, length: f.u32()? });
        }
        if flags & REPLAY != 0 {
            message.origin = Some(Origin::get(&mut f)?);
        }
        message.keys = Arc::new(Keys::from_bytes(f.bytes(keys)?.to_vec()));
        if flags & INLINE != 0 {
            (f.0.len() as u64 == size).then_some(())?;
            message.inline_at = Some((HEADER + body.len() - f.0.len()) as u32);
        }
        Some(message)
    }
}

/// State an envelope came to. The codes are on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Code {
    Started = 1,
    Deferred = 2,
    Delivered = 3,
    DeadLetter = 4,
    Held = 5,
    Note = 6,
    Discarded = 7,
    /// Ready again by an operator's decision.
    Ready = 8,
    /// A replay that ended undelivered: refused. The message it repeats had been answered before.
    ReplayEnded = 9,
}

impl Code {
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Code::Started,
            2 => Code::Deferred,
            3 => Code::Delivered,
            4 => Code::DeadLetter,
            5 => Code::Held,
            6 => Code::Note,
            7 => Code::Discarded,
            8 => Code::Ready,
            9 => Code::ReplayEnded,
            _ => return None,
        })
    }

    /// Custody has ended.
    pub(crate) fn terminal(self) -> bool {
        matches!(self, Code::Delivered | Code::Discarded | Code::ReplayEnded)
    }
}

/// The attempt was sent whole and not answered.
pub(crate) const AMBIGUOUS: u8 = 1;
/// The envelope left its lane.
pub(crate) const LEFT_LANE: u8 = 2;
/// The record has an attempt of its own (else it is a decision).
pub(crate) const ATTEMPT: u8 = 4;
/// The envelope came back by a decision, out of its lane's order; said in every record from then on.
pub(crate) const OUT_OF_ORDER: u8 = 8;

/// Whether a state record with these marks tells of an attempt that is counted.
pub(crate) fn is_attempt(code: Code, flags: u8) -> bool {
    code != Code::Note && flags & ATTEMPT != 0
}

/// Body of a state record. It says everything about the envelope's state: earlier ones are only its story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StateRecord {
    pub(crate) envelope: u64,
    pub(crate) message: u64,
    /// Where the message record stood then: this record is of use as long as that segment lives.
    pub(crate) message_at: Position,
    pub(crate) at: u64,
    pub(crate) attempts: u32,
    pub(crate) code: Code,
    pub(crate) flags: u8,
    pub(crate) phase: Option<Phase>,
    pub(crate) delivered: Option<Delivered>,
    pub(crate) endpoint: Arc<str>,
    pub(crate) text: String,
    /// Endpoints at which an attempt ended sent but unanswered, so far.
    pub(crate) ambiguous_at: Vec<Arc<str>>,
    /// More of the attempt, if it tells of one.
    pub(crate) tail: Tail,
}

fn phase_code(phase: Option<Phase>) -> u8 {
    match phase {
        None => 0,
        Some(Phase::Resolve) => 1,
        Some(Phase::Connect) => 2,
        Some(Phase::Tls) => 3,
        Some(Phase::Associate) => 4,
        Some(Phase::Transmit) => 5,
        Some(Phase::Answer) => 6,
    }
}

fn phase_from(code: u8) -> Option<Phase> {
    Some(match code {
        1 => Phase::Resolve,
        2 => Phase::Connect,
        3 => Phase::Tls,
        4 => Phase::Associate,
        5 => Phase::Transmit,
        6 => Phase::Answer,
        _ => return None,
    })
}

fn delivered_code(delivered: Option<Delivered>) -> u8 {
    match delivered {
        None => 0,
        Some(Delivered::Ok) => 1,
        Some(Delivered::Warning) => 2,
        Some(Delivered::Unconfirmed) => 3,
    }
}

fn delivered_from(code: u8) -> Option<Delivered> {
    Some(match code {
        1 => Delivered::Ok,
        2 => Delivered::Warning,
        3 => Delivered::Unconfirmed,
        _ => return None,
    })
}

impl StateRecord {
    pub(crate) fn put(&self, buffer: &mut Vec<u8>, sequence: u64) {
        let at = start(buffer, Kind::State, sequence);
        for value in [self.envelope, self.message, self.message_at.raw(), self.at] {
            buffer.extend_from_slice(&value.to_le_bytes());
        }
        buffer.extend_from_slice(&self.attempts.to_le_bytes());
        let ambiguous = self.ambiguous_at.len().min(255);
        buffer.extend_from_slice(&[self.code as u8, self.flags, phase_code(self.phase), delivered_code(self.delivered), ambiguous as u8]);
        put_short(buffer, &self.endpoint);
        put_short(buffer, &self.text);
        for name in &self.ambiguous_at[..ambiguous] {
            put_short(buffer, name);
        }
        if self.flags & ATTEMPT != 0 {
            self.tail.put(buffer);
        }
        end(buffer, at);
    }

    pub(crate) fn get(body: &[u8]) -> Option<StateRecord> {
        let mut f = Fields(body);
        let (envelope, message, message_at, at, attempts) = (f.u64()?, f.u64()?, Position::from_raw(f.u64()?), f.u64()?, f.u32()?);
        let (code, flags, phase, delivered, ambiguous) = (Code::from_code(f.u8()?)?, f.u8()?, f.u8()?, f.u8()?, f.u8()?);
        let (endpoint, text) = (Arc::from(f.short()?), f.short()?.to_owned());
        let ambiguous_at = (0..ambiguous).map(|_| f.short().map(Arc::from)).collect::<Option<Vec<_>>>()?;
        let tail = if flags & ATTEMPT != 0 { Tail::get(&mut f)? } else { Tail::default() };
        Some(StateRecord {
            envelope,
            message,
            message_at,
            at,
            attempts,
            code,
            flags,
            phase: phase_from(phase),
            delivered: delivered_from(delivered),
            endpoint,
            text,
            ambiguous_at,
            tail,
        })
    }
}

/// Body of a memory record: a name and a value; an empty value forgets.
pub(crate) fn put_memory(buffer: &mut Vec<u8>, sequence: u64, name: &str, value: &[u8]) {
    let at = start(buffer, Kind::Memory, sequence);
    put_short(buffer, name);
    buffer.extend_from_slice(value);
    end(buffer, at);
}

/// Reads what `put_memory` wrote.
pub(crate) fn get_memory(body: &[u8]) -> Option<(&str, &[u8])> {
    let mut f = Fields(body);
    let name = f.short()?;
    Some((name, f.0))
}

/// Body of a begin record: the segment that was written before, and where it ended durably. Whatever stands beyond never counts.
pub(crate) fn put_begin(buffer: &mut Vec<u8>, sequence: u64, before: Position) {
    let at = start(buffer, Kind::Begin, sequence);
    buffer.extend_from_slice(&before.raw().to_le_bytes());
    end(buffer, at);
}

/// Reads what `put_begin` wrote.
pub(crate) fn get_begin(body: &[u8]) -> Option<Position> {
    u64_at(body, 0).map(Position::from_raw)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::keys::Key;
    use std::time::Duration;

    fn message() -> Message {
        let mut keys = Keys::new();
        keys.set(Key::ControlId, b"17");
        Message {
            accepted_at: 5,
            fingerprint: Some(9),
            size: 3,
            copy: 1,
            from: 7,
            keys: Arc::new(keys),
            seats: vec![
                Seat { delta: 1, destination: DestinationId(0), lane: Lane::Key(4), marks: Marks { stat: true, replay: false } },
                Seat { delta: 2, destination: DestinationId(1), lane: Lane::Barrier, marks: Marks { stat: false, replay: true } },
            ],
            extents: vec![Extent { generation: 3, offset: 4096, length: 70_000 }],
            inline_at: None,
            origin: Some(Origin { order: 3, envelope: 12, message: 11, answered_by: vec![Arc::from("primary"), Arc::from("b")] }),
        }
    }

    #[test]
    fn a_message_comes_back_as_it_was() {
        let mut bytes = Vec::new();
        message().put(&mut bytes, 41, Some(b"abc"), |id| Arc::from(format!("d{}", id.0)));
        stamp(&mut bytes, 8, Position::new(7, 64));
        let view = check(&bytes, 8).unwrap();
        assert_eq!((view.kind, view.sequence, view.synced_to), (Kind::Message, 41, Position::new(7, 64)));
        let got = Message::get(view.body, |name| name.strip_prefix('d').and_then(|n| n.parse().ok()).map(DestinationId)).unwrap();
        assert_eq!((got.seats, got.extents, got.keys, got.origin), (message().seats, message().extents, message().keys, message().origin));
        let at = got.inline_at.unwrap() as usize;
        assert_eq!(&bytes[at..at + 3], b"abc");
    }

    #[test]
    fn any_changed_bit_and_any_other_generation_fails_the_check() {
        let mut bytes = Vec::new();
        message().put(&mut bytes, 41, Some(b"abc"), |_| Arc::from("d"));
        stamp(&mut bytes, 8, Position::NONE);
        let length = u32_at(&bytes, 0).unwrap() as usize;
        assert!(check(&bytes, 8).is_some() && check(&bytes, 9).is_none());
        for bit in 0..length * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(check(&bytes, 8).is_none(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_state_comes_back_as_it_was() {
        let state = StateRecord {
            envelope: 4,
            message: 3,
            message_at: Position::new(2, 4096),
            at: 99,
            attempts: 7,
            code: Code::Held,
            flags: AMBIGUOUS | LEFT_LANE | ATTEMPT,
            phase: Some(Phase::Answer),
            delivered: None,
            endpoint: Arc::from("primary"),
            text: "AE 204".to_owned(),
            ambiguous_at: vec![Arc::from("primary"), Arc::from("secondary")],
            tail: Tail { took: Some(Duration::from_millis(7)), left_for: Some(Arc::from("secondary")), ..Tail::default() },
        };
        let mut bytes = Vec::new();
        state.put(&mut bytes, 1);
        stamp(&mut bytes, 1, Position::NONE);
        assert_eq!(StateRecord::get(check(&bytes, 1).unwrap().body), Some(state));
    }
}
