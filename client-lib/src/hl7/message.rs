//! What is read of an HL7 v2 message: its header (MSH, or BHS/FHS of a batch) and the segments that name patient and order. Byte level, no copy.
//!
//! Rules: MSH-2 has one to five characters and any delimiters are taken; segments end with CR, and LF or CR LF are tolerated; a UTF-8 byte order mark
//! and empty lines before the header are stepped over. A batch (FHS or BHS, or several MSH in one block) is one unit: control id and parties come
//! from its outermost header, type, version and conditions from its first message. What is too long for us is not read, never cut from content.
//! Errors: `Malformed`, with the code of table 0357 to answer with and, where it could be read, the header to build that answer from.

use super::charset::{self, Charset, Stepping};
use crate::keys::{Key, Keys};
use crate::limits::{MSH_BYTES_MAX, SEGMENT_HEAD_BYTES_MAX};
use bytes::Bytes;

/// Which header a block begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A message.
    Msh,
    /// A batch.
    Bhs,
    /// A file of batches.
    Fhs,
}

/// Why a block is no message for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It begins with something else.
    #[error("the block does not begin with MSH, BHS or FHS")]
    NoHeader,
    /// A batch without a message in it.
    #[error("the batch holds no MSH segment")]
    EmptyBatch,
    /// MSH-1 is alphanumeric, blank or no printable ASCII character.
    #[error("MSH-1 is no delimiter: a printable character that is neither letter nor digit is needed")]
    FieldSeparator,
    /// MSH-2 is empty.
    #[error("MSH-2 is missing: one to five encoding characters are needed")]
    NoEncodingCharacters,
    /// MSH-2 is too long or holds letters, digits or control characters.
    #[error("MSH-2 has other than one to five delimiters")]
    EncodingCharacters,
    /// MSH-9 is empty.
    #[error("MSH-9 is missing: the message type is needed")]
    NoMessageType,
    /// The header is over `limits::MSH_BYTES_MAX`.
    #[error("the MSH segment is longer than 16 KiB")]
    HeaderTooLong,
    /// UTF-16 or UTF-32.
    #[error("UTF-16 and UTF-32 cannot be carried in MLLP blocks: send UTF-8 or an 8-bit character set")]
    WideCharacters,
}

impl Malformed {
    /// Code of table 0357: 100 segment sequence error, 101 required field missing, 102 data type error.
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Malformed::NoHeader | Malformed::EmptyBatch => 100,
            Malformed::NoEncodingCharacters | Malformed::NoMessageType => 101,
            Malformed::FieldSeparator | Malformed::EncodingCharacters | Malformed::HeaderTooLong | Malformed::WideCharacters => 102,
        }
    }

    /// The field at fault: segment and number.
    #[must_use]
    pub fn place(self) -> (&'static str, u8) {
        match self {
            Malformed::FieldSeparator => ("MSH", 1),
            Malformed::NoEncodingCharacters | Malformed::EncodingCharacters => ("MSH", 2),
            Malformed::NoMessageType => ("MSH", 9),
            Malformed::WideCharacters => ("MSH", 18),
            Malformed::NoHeader | Malformed::EmptyBatch | Malformed::HeaderTooLong => ("MSH", 0),
        }
    }
}

/// Fields read of a header; MSH-18 is the last one of interest.
const FIELDS: usize = 20;

/// A header segment: MSH, BHS or FHS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Msh {
    segment: Bytes,
    kind: Kind,
    /// Encoding characters are `segment[4..encoding_end]`.
    encoding_end: u16,
    /// Ends of fields 3 and later; each begins one after the end of the one before.
    ends: [u16; FIELDS],
    count: u8,
    charset: Charset,
}

impl Msh {
    /// Reads a header at the front of `content`, which may be followed by more segments.
    /// # Errors
    /// `Malformed` other than `NoMessageType`, `EmptyBatch`, `WideCharacters`.
    pub fn read(content: &Bytes) -> Result<Self, Malformed> {
        let kind = match content.get(..3) {
            Some(b"MSH") => Kind::Msh,
            Some(b"BHS") => Kind::Bhs,
            Some(b"FHS") => Kind::Fhs,
            _ => return Err(Malformed::NoHeader),
        };
        let window = &content[..content.len().min(MSH_BYTES_MAX + 1)];
        let end = memchr::memchr2(b'\r', b'\n', window).unwrap_or(window.len());
        if end > MSH_BYTES_MAX {
            return Err(Malformed::HeaderTooLong);
        }
        let segment = content.slice(..end);
        let field = *segment.get(3).ok_or(Malformed::FieldSeparator)?;
        if !field.is_ascii_punctuation() {
            return Err(Malformed::FieldSeparator);
        }
        let encoding_end = memchr::memchr(field, &segment[4..]).map_or(end, |at| at + 4);
        match &segment[4..encoding_end] {
            [] => return Err(Malformed::NoEncodingCharacters),
            characters if characters.len() > 5 || !characters.iter().all(u8::is_ascii_punctuation) => return Err(Malformed::EncodingCharacters),
            _ => {}
        }
        let mut header =
            Self { segment, kind, encoding_end: encoding_end as u16, ends: [0; FIELDS], count: 0, charset: Charset { ..charset::ASCII } };
        header.cut(Stepping::Bytewise);
        header.find_charset();
        Ok(header)
    }

    fn cut(&mut self, stepping: Stepping) {
        self.count = 0;
        let first = usize::from(self.encoding_end) + 1;
        let Some(rest) = self.segment.get(first..) else { return };
        let field = self.segment[3];
        let mut at = first;
        for piece in stepping.split(rest, Some(field)).take(FIELDS) {
            at += piece.len();
            self.ends[usize::from(self.count)] = at as u16;
            self.count += 1;
            at += 1;
        }
    }

    /// Reads MSH-18. A header with bytes that look like delimiters inside characters is cut again, with the set that a field from 18 on names.
    fn find_charset(&mut self) {
        if self.kind != Kind::Msh {
            return;
        }
        self.charset = Charset::of_field(self.field(18), self.repeat());
        if self.segment.iter().all(|byte| byte.is_ascii() && *byte != 0x1b) {
            return;
        }
        let named = (18..=FIELDS + 2).map(|n| Charset::of_field(self.field(n), self.repeat())).find(|set| set.stepping != Stepping::Bytewise);
        if let Some(set) = named {
            self.cut(set.stepping);
            self.charset = Charset::of_field(self.field(18), self.repeat());
        }
    }

    /// Which header it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Field separator, MSH-1.
    #[must_use]
    pub fn separator(&self) -> u8 {
        self.segment[3]
    }

    /// Encoding characters, MSH-2: component, repetition, escape, subcomponent, truncation, as far as given.
    #[must_use]
    pub fn encoding(&self) -> &[u8] {
        &self.segment[4..usize::from(self.encoding_end)]
    }

    /// Component separator.
    #[must_use]
    pub fn component_separator(&self) -> u8 {
        self.encoding()[0]
    }

    /// Repetition separator, if there is one.
    #[must_use]
    pub fn repeat(&self) -> Option<u8> {
        self.encoding().get(1).copied()
    }

    /// Subcomponent separator, if there is one.
    #[must_use]
    pub fn subcomponent_separator(&self) -> Option<u8> {
        self.encoding().get(3).copied()
    }

    /// Character set, from MSH-18.
    #[must_use]
    pub fn charset(&self) -> Charset {
        self.charset
    }

    /// Field `number`, as sent; from 3 on. Empty if it is not there.
    #[must_use]
    pub fn field(&self, number: usize) -> &[u8] {
        let Some(index) = number.checked_sub(3).filter(|index| *index < usize::from(self.count)) else { return &[] };
        let start = match index {
            0 => usize::from(self.encoding_end) + 1,
            _ => usize::from(self.ends[index - 1]) + 1,
        };
        &self.segment[start..usize::from(self.ends[index])]
    }

    /// Component `number` (from 1) of the first repetition of a field.
    #[must_use]
    pub fn component(&self, field: usize, number: usize) -> &[u8] {
        let stepping = self.charset.stepping;
        let first = stepping.split(self.field(field), self.repeat()).next().unwrap_or_default();
        stepping.split(first, Some(self.component_separator())).nth(number - 1).unwrap_or_default()
    }

    /// MSH-12.1 as numbers: `2.5.1` is (2, 5, 1). `None`: absent or something else.
    #[must_use]
    pub fn version(&self) -> Option<(u8, u8, u8)> {
        let text = std::str::from_utf8(self.component(12, 1)).ok()?;
        let mut numbers = text.trim().splitn(3, '.').map(|n| n.parse().ok());
        Some((numbers.next()??, numbers.next().unwrap_or(Some(0))?, numbers.next().unwrap_or(Some(0))?))
    }
}

/// A block that could not be taken as a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Why.
    pub why: Malformed,
    /// What the answer can be built from, if that much could be read.
    pub heads: Option<Box<Heads>>,
}

impl From<Malformed> for Unreadable {
    fn from(why: Malformed) -> Self {
        Self { why, heads: None }
    }
}

/// The headers that matter: the outermost one, and within a batch that of the first message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heads {
    outer: Msh,
    /// Of a batch.
    inner: Option<Box<Inner>>,
}

/// What a batch holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Inner {
    /// The first BHS of a file.
    batch: Option<Msh>,
    /// The first message.
    first: Option<Msh>,
}

impl Heads {
    /// The header of the block: who sent it to whom, with which delimiters.
    #[must_use]
    pub fn outer(&self) -> &Msh {
        &self.outer
    }

    /// The header of the first message: type, version, processing id, conditions, character set. `None`: a batch without one; FHS and BHS have none
    /// of these, and other things in their places.
    #[must_use]
    pub fn message(&self) -> Option<&Msh> {
        let first = self.inner.as_ref().and_then(|inner| inner.first.as_ref());
        first.or(Some(&self.outer).filter(|outer| outer.kind == Kind::Msh))
    }

    /// The header that says how the segments are to be read.
    fn leading(&self) -> &Msh {
        self.message().unwrap_or(&self.outer)
    }

    /// What an answer must carry in MSA-2: MSH-10, or the batch's FHS-11 or BHS-11; else that of its first message. May be empty.
    #[must_use]
    pub fn control_id(&self) -> &[u8] {
        self.control_ids().next().unwrap_or_default()
    }

    /// Every id by which a peer may name the block: those of a batch's headers and its first message's.
    pub fn control_ids(&self) -> impl Iterator<Item = &[u8]> {
        let inner = self.inner.as_deref();
        let headers = [Some(&self.outer), inner.and_then(|inner| inner.batch.as_ref()), inner.and_then(|inner| inner.first.as_ref())];
        headers.into_iter().flatten().map(|header| header.field(if header.kind == Kind::Msh { 10 } else { 11 })).filter(|id| !id.is_empty())
    }

    /// The block begins with FHS or BHS.
    #[must_use]
    pub fn is_batch(&self) -> bool {
        self.outer.kind != Kind::Msh
    }
}

/// A block as far as we read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    heads: Heads,
    messages: u32,
    patients: u32,
    merge: bool,
    pid: Option<Bytes>,
    /// By preference: IPC-1, OBR-18, OBR-3, ORC-3.
    orders: [Option<Bytes>; 3],
}

impl Message {
    /// Reads a whole block.
    /// # Errors
    /// `Unreadable`: it is to be refused.
    pub fn read(content: &Bytes) -> Result<Self, Unreadable> {
        let start = beginning(content);
        if wide(&content[start..]) {
            return Err(Unreadable { why: Malformed::WideCharacters, heads: narrow_heads(&content[start..]) });
        }
        let content = content.slice(start..);
        let outer = Msh::read(&content)?;
        let mut found = Self { heads: Heads { outer, inner: None }, messages: 0, patients: 0, merge: false, pid: None, orders: [None, None, None] };
        if let Err(why) = found.segments(&content) {
            return Err(Unreadable { why, heads: Some(Box::new(found.heads)) });
        }
        if found.messages == 0 {
            return Err(Unreadable { why: Malformed::EmptyBatch, heads: Some(Box::new(found.heads)) });
        }
        if found.heads.leading().component(9, 1).is_empty() {
            return Err(Unreadable { why: Malformed::NoMessageType, heads: Some(Box::new(found.heads)) });
        }
        Ok(found)
    }

    fn segments(&mut self, content: &Bytes) -> Result<(), Malformed> {
        let batch = self.heads.is_batch();
        let mut start = 0;
        while start < content.len() {
            let end = memchr::memchr2(b'\r', b'\n', &content[start..]).map_or(content.len(), |length| start + length);
            let head = || content.slice(start..end.min(start + SEGMENT_HEAD_BYTES_MAX));
            match content.get(start..start + 3).filter(|_| end >= start + 3) {
                Some(b"MSH") => {
                    if batch && self.messages == 0 {
                        self.heads.inner.get_or_insert_default().first = Some(Msh::read(&content.slice(start..))?);
                    }
                    self.messages += 1;
                }
                Some(b"BHS") if self.heads.outer.kind == Kind::Fhs => {
                    let inner = self.heads.inner.get_or_insert_default();
                    inner.batch = inner.batch.take().or_else(|| Msh::read(&content.slice(start..)).ok());
                }
                Some(b"PID") => {
                    self.patients += 1;
                    self.pid.get_or_insert_with(head);
                }
                Some(b"MRG") => self.merge = true,
                Some(b"IPC") => drop(self.orders[0].get_or_insert_with(head)),
                Some(b"OBR") => drop(self.orders[1].get_or_insert_with(head)),
                Some(b"ORC") => drop(self.orders[2].get_or_insert_with(head)),
                _ => {}
            }
            start = end + 1;
        }
        Ok(())
    }

    /// Its headers, for the answer.
    #[must_use]
    pub fn heads(&self) -> &Heads {
        &self.heads
    }

    /// The headers alone.
    #[must_use]
    pub fn into_heads(self) -> Heads {
        self.heads
    }

    /// Several messages in one block, or a batch header: one unit, and a barrier among lanes.
    #[must_use]
    pub fn is_batch(&self) -> bool {
        self.heads.is_batch() || self.messages > 1
    }

    /// Writes what routes, lanes and people need into the key table. Returns false if a value was cut to `limits::KEY_BYTES_MAX`.
    pub fn keys(&self, keys: &mut Keys) -> bool {
        let (outer, message) = (&self.heads.outer, self.heads.leading());
        let mut whole = true;
        let mut set = |key, value: &[u8]| whole &= value.is_empty() || keys.set(key, value);
        set(Key::ControlId, self.heads.control_id());
        set(Key::MessageType, &message_type(message));
        for (key, field) in [(Key::SendingApplication, 3), (Key::SendingFacility, 4), (Key::ReceivingApplication, 5), (Key::ReceivingFacility, 6)] {
            set(key, outer.component(field, 1));
        }
        set(Key::ProcessingId, message.component(11, 1));
        set(Key::Version, message.component(12, 1));
        set(Key::CharacterSet, message.field(18));
        let conditions = [message.field(15), message.field(16)].join(&b'|');
        set(Key::AckConditions, if conditions.len() > 1 { &conditions } else { &[] });
        set(Key::Patient, &self.patient());
        set(Key::Accession, self.accession().unwrap_or_default());
        if self.is_batch() || self.merge || self.patients != 1 {
            set(Key::Barrier, &[1]);
        }
        whole
    }

    /// PID-3 of the first PID: id of the first repetition, and its assigning authority after the component separator `^`.
    fn patient(&self) -> Vec<u8> {
        let Some(pid) = &self.pid else { return Vec::new() };
        let message = self.heads.leading();
        let stepping = message.charset.stepping;
        let identifiers = stepping.split(pid, Some(message.separator())).nth(3).unwrap_or_default();
        let first = stepping.split(identifiers, message.repeat()).next().unwrap_or_default();
        let mut components = stepping.split(first, Some(message.component_separator()));
        let id = components.next().unwrap_or_default();
        let authority = components.nth(2).unwrap_or_default();
        match (id, authority) {
            ([], _) => Vec::new(),
            (id, []) => id.to_vec(),
            (id, authority) => [id, authority].join(&b'^'),
        }
    }

    fn accession(&self) -> Option<&[u8]> {
        let message = self.heads.leading();
        let stepping = message.charset.stepping;
        let places = [(0, 1), (1, 18), (1, 3), (2, 3)];
        places.into_iter().find_map(|(segment, field)| {
            let value = stepping.split(self.orders[segment].as_ref()?, Some(message.separator())).nth(field)?;
            let first = stepping.split(value, message.repeat()).next()?;
            stepping.split(first, Some(message.component_separator())).next().filter(|id| !id.is_empty())
        })
    }
}

/// `TYPE^EVENT` whatever the delimiters; the type alone if there is no event.
fn message_type(message: &Msh) -> Vec<u8> {
    match (message.component(9, 1), message.component(9, 2)) {
        (kind, []) => kind.to_vec(),
        (kind, event) => [kind, event].join(&b'^'),
    }
}

/// Where the header begins: behind a UTF-8 byte order mark and empty lines.
fn beginning(content: &[u8]) -> usize {
    let mark = if content.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    mark + content[mark..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count()
}

/// UTF-16 or UTF-32, with or without byte order mark.
fn wide(content: &[u8]) -> bool {
    content.starts_with(b"\xff\xfe")
        || content.starts_with(b"\xfe\xff")
        || content.starts_with(b"\0\0\xfe\xff")
        || matches!(
            content.get(..4),
            Some([0, b'M' | b'B' | b'F', 0, b'S' | b'H'] | [b'M' | b'B' | b'F', 0, b'S' | b'H' | 0, 0] | [0, 0, 0, b'M' | b'B' | b'F'])
        )
}

/// The headers of a UTF-16 message in ASCII, so that the refusal can name its control id. Best effort: no answer depends on it.
fn narrow_heads(content: &[u8]) -> Option<Box<Heads>> {
    let narrow: Vec<u8> = content.iter().take(4 * MSH_BYTES_MAX).copied().filter(|byte| *byte != 0 && *byte < 0x80).collect();
    let mut outer = Msh::read(&Bytes::from(narrow)).ok()?;
    outer.count = outer.count.min(15); // the answer is ASCII: MSH-18 of the message must not be repeated in it
    Some(Box::new(Heads { outer, inner: None }))
}

/// Reads a block that comes in parts: keeps the segments that matter, each at most `limits::SEGMENT_HEAD_BYTES_MAX`, and nothing else.
#[derive(Debug, Default)]
pub struct Gleaner {
    kept: Vec<u8>,
    /// The segment being received, as far as it is kept.
    line: Vec<u8>,
    /// It is of no interest; wait for its end.
    passing: bool,
    seen: [u32; WANTED.len()],
}

/// Segments of which the first ones matter, and how many of each.
const WANTED: [(&[u8; 3], u32); 8] = [(b"FHS", 1), (b"BHS", 1), (b"MSH", 2), (b"PID", 2), (b"MRG", 1), (b"IPC", 1), (b"OBR", 1), (b"ORC", 1)];

impl Gleaner {
    /// Takes the next part.
    pub fn feed(&mut self, part: &[u8]) {
        let mut rest = part;
        while let Some(end) = memchr::memchr2(b'\r', b'\n', rest) {
            self.extend(&rest[..end]);
            self.end_segment();
            rest = &rest[end + 1..];
        }
        self.extend(rest);
    }

    /// What was gleaned, read as a message.
    /// # Errors
    /// As `Message::read`.
    pub fn finish(mut self) -> Result<Message, Unreadable> {
        self.end_segment();
        Message::read(&Bytes::from(self.kept))
    }

    fn extend(&mut self, bytes: &[u8]) {
        // A few bytes more than are read, so that a header over its limit is seen to be so.
        let room = (SEGMENT_HEAD_BYTES_MAX + 8).saturating_sub(self.line.len());
        if self.passing || bytes.is_empty() {
            return;
        }
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if !self.kept.is_empty() && self.line.len() >= 3 && self.wanted().is_none() {
            self.passing = true;
            self.line.clear();
        }
    }

    fn wanted(&self) -> Option<usize> {
        WANTED.iter().position(|(name, _)| self.line.starts_with(*name))
    }

    fn end_segment(&mut self) {
        let keep = match self.wanted() {
            Some(which) => {
                self.seen[which] += 1;
                self.seen[which] <= WANTED[which].1
            }
            // Whatever it is, the first segment is looked at: it may begin with a byte order mark, or be no header at all.
            None => self.kept.is_empty() && !self.line.is_empty(),
        };
        if keep {
            self.kept.extend_from_slice(&self.line);
            self.kept.push(b'\r');
        }
        self.line.clear();
        self.passing = false;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ADT: &[u8] = b"MSH|^~\\&|APP^1.2^ISO|FAC|RAPP|RFAC|20260101||ADT^A01^ADT_A01|C1|P^T|2.5.1|||AL|NE|DE|8859/1\rEVN|A01\rPID|1||4711^^^HOSP&1.2.3&ISO^MR~815^^^X||M\xfcller^Eva\rPV1|1\r";

    fn read(content: &[u8]) -> Result<Message, Unreadable> {
        Message::read(&Bytes::copy_from_slice(content))
    }

    fn keys(content: &[u8]) -> Keys {
        let mut keys = Keys::new();
        assert!(read(content).unwrap().keys(&mut keys));
        keys
    }

    #[test]
    fn keys_of_a_plain_message() {
        let keys = keys(ADT);
        for (key, value) in [
            (Key::ControlId, "C1"),
            (Key::MessageType, "ADT^A01"),
            (Key::SendingApplication, "APP"),
            (Key::SendingFacility, "FAC"),
            (Key::ReceivingApplication, "RAPP"),
            (Key::ReceivingFacility, "RFAC"),
            (Key::ProcessingId, "P"),
            (Key::Version, "2.5.1"),
            (Key::CharacterSet, "8859/1"),
            (Key::AckConditions, "AL|NE"),
            (Key::Patient, "4711^HOSP&1.2.3&ISO"),
        ] {
            assert_eq!(keys.text(key), value, "{key:?}");
        }
        assert_eq!(keys.get(Key::Barrier), None);
        assert_eq!(keys.get(Key::Accession), None);
    }

    #[test]
    fn one_to_five_encoding_characters() {
        for (msh2, remedy) in
            [("^", true), ("^~", true), ("^~\\", true), ("^~\\&", true), ("^~\\&#", true), ("", false), ("^~\\&#!", false), ("a~", false)]
        {
            let found = read(format!("MSH|{msh2}|A|B|C|D|||ADT^A01|ID7|P|2.7\r").as_bytes());
            assert_eq!(found.is_ok(), remedy, "{msh2}");
            if let Ok(found) = found {
                assert_eq!(found.heads().control_id(), b"ID7");
                assert_eq!(found.heads().message().unwrap().component(9, 2), b"A01");
            }
        }
    }

    #[test]
    fn any_delimiters_and_segment_ends() {
        for end in ["\r", "\n", "\r\n"] {
            let text = format!("MSH$*%!@$A$B$C$D$$$ORU*R01$77$T$2.3{end}PID$1$$9*x*x*AUT%8{end}OBR$1$$F1{end}");
            let keys = keys(text.as_bytes());
            assert_eq!(keys.text(Key::MessageType), "ORU^R01");
            assert_eq!(keys.text(Key::Patient), "9^AUT");
            assert_eq!(keys.text(Key::Accession), "F1");
        }
    }

    #[test]
    fn accession_prefers_what_imaging_uses() {
        let keys = keys(b"MSH|^~\\&|A|B|C|D|||OMI^O23|1|P|2.5\rPID|1||1\rORC|NW||ORC3\rOBR|1||OBR3|||||||||||||||OBR18\rIPC|IPC1^x\r");
        assert_eq!(keys.text(Key::Accession), "IPC1");
    }

    #[test]
    fn barriers() {
        let head = "MSH|^~\\&|A|B|C|D|||ADT^A40|1|P|2.5\r";
        for (rest, lane) in [
            ("PID|1||7\r", true),
            ("PID|1||7\rMRG|8\r", false),
            ("PID|1||7\rPID|2||8\r", false),
            ("EVN|x\r", false),
            ("PID|1||\r", false),
            ("PID|1||7\rMSH|^~\\&|A|B|C|D|||ADT^A01|2|P|2.5\r", false),
        ] {
            let keys = keys(format!("{head}{rest}").as_bytes());
            let ordered = keys.get(Key::Barrier).is_none() && keys.get(Key::Patient).is_some();
            assert_eq!(ordered, lane, "{rest}");
        }
    }

    #[test]
    fn batches_are_one_unit_with_the_outermost_control_id() {
        let inner = "MSH|^~\\&|A|B|C|D|||ADT^A01|M1|P|2.3|||AL\rPID|1||7\rMSH|^~\\&|A|B|C|D|||ADT^A01|M2|P|2.3\rPID|1||8\r";
        for (text, id) in [
            (format!("FHS|^~\\&|FA|FB|FC|FD|||||F11\rBHS|^~\\&|A|B|C|D|||||B11\r{inner}BTS|2\rFTS|1\r"), "F11"),
            (format!("FHS|^~\\&|FA|FB|FC|FD\rBHS|^~\\&|A|B|C|D|||||B11\r{inner}BTS|2\r"), "B11"),
            (format!("BHS|^~\\&|FA|FB|FC|FD|||||B11\r{inner}"), "B11"),
            (format!("BHS|^~\\&|FA|FB|FC|FD\r{inner}"), "M1"),
        ] {
            let found = read(text.as_bytes()).unwrap();
            assert!(found.is_batch());
            assert_eq!(found.heads().control_id(), id.as_bytes(), "{text}");
            assert!(found.heads().control_ids().any(|known| known == b"M1"));
            let keys = keys(text.as_bytes());
            assert_eq!((keys.text(Key::MessageType), keys.text(Key::SendingApplication)), ("ADT^A01".into(), "FA".into()));
            assert!(keys.get(Key::Barrier).is_some());
        }
        assert_eq!(read(b"BHS|^~\\&|A|B|C|D|||||B11\rBTS|0\r").unwrap_err().why, Malformed::EmptyBatch);
    }

    #[test]
    fn what_is_no_message_says_why() {
        for (text, why) in [
            (&b""[..], Malformed::NoHeader),
            (b"PID|1", Malformed::NoHeader),
            (b"MSH", Malformed::FieldSeparator),
            (b"MSHA^~", Malformed::FieldSeparator),
            (b"MSH|", Malformed::NoEncodingCharacters),
            (b"MSH|^~\\&|A|B|C|D||||1|P|2.5\r", Malformed::NoMessageType),
            (b"\xff\xfeM\0S\0H\0|\0", Malformed::WideCharacters),
            (b"\0M\0S\0H\0|", Malformed::WideCharacters),
            (b"M\0S\0H\0|\0", Malformed::WideCharacters),
        ] {
            assert_eq!(read(text).unwrap_err().why, why, "{text:?}");
        }
        let long = [b"MSH|^~\\&|", &vec![b'x'; MSH_BYTES_MAX][..]].concat();
        assert_eq!(read(&long).unwrap_err().why, Malformed::HeaderTooLong);
    }

    #[test]
    fn utf_16_still_names_its_control_id() {
        let text: Vec<u8> = "\u{feff}MSH|^~\\&|A|B|C|D|||ADT^A01|W9|P|2.5||||||UNICODE UTF-16\r".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let unreadable = read(&text).unwrap_err();
        let heads = unreadable.heads.unwrap();
        assert_eq!((heads.control_id(), heads.message().unwrap().field(18)), (&b"W9"[..], &b""[..]));
    }

    #[test]
    fn a_byte_order_mark_and_empty_lines_are_stepped_over() {
        assert_eq!(keys(&[b"\xef\xbb\xbf\r\n", ADT].concat()).text(Key::ControlId), "C1");
    }

    #[test]
    fn trail_bytes_do_not_shift_fields() {
        let (name, _, _) = encoding_rs::SHIFT_JIS.encode("ポソ表");
        let mut text = b"MSH|^~\\&|A|".to_vec();
        text.extend_from_slice(&name);
        text.extend_from_slice(b"|C|D|||ADT^A01|SJ1|P|2.5||||||SHIFT_JIS\rPID|");
        text.extend_from_slice(&name);
        text.extend_from_slice(b"||55^^^");
        text.extend_from_slice(&name);
        text.extend_from_slice(b"|\r");
        let keys = keys(&text);
        assert_eq!(keys.text(Key::ControlId), "SJ1");
        assert_eq!(keys.get(Key::SendingFacility), Some(&name[..]));
        assert_eq!(keys.get(Key::Patient), Some(&[b"55^", &name[..]].concat()[..]));
    }

    #[test]
    fn versions_are_numbers() {
        let version = |v: &str| read(format!("MSH|^~\\&|A|B|C|D|||ADT^A01|1|P|{v}\r").as_bytes()).unwrap().heads().message().unwrap().version();
        assert_eq!(version("2.5.1^DE"), Some((2, 5, 1)));
        assert_eq!(version("2.3"), Some((2, 3, 0)));
        assert_eq!(version(""), None);
        assert_eq!(version("two"), None);
    }

    proptest! {
        /// Gleaned in parts or read whole: the same keys.
        #[test]
        fn parts_do_not_matter(lines in prop::collection::vec(prop::sample::select(vec![
            "PID|1||7^^^A", "PID|1||8", "MRG|9", "OBR|1||F3|||||||||||||||A18", "ORC|NW||O3", "IPC|I1", "OBX|1|TX|||text", "ZZZ", "", "P",
            "MSH|^~\\&|A|B|C|D|||ADT^A08|2|P|2.5"]), 0..12), cut in 1_usize..40, ending in prop::sample::select(vec!["\r", "\n", "\r\n"]))
        {
            let text = format!("MSH|^~\\&|A|B|C|D|||ADT^A01|1|P|2.5{ending}{}", lines.join(ending));
            let whole = keys(text.as_bytes());
            let mut gleaner = Gleaner::default();
            text.as_bytes().chunks(cut).for_each(|part| gleaner.feed(part));
            let mut parts = Keys::new();
            gleaner.finish().unwrap().keys(&mut parts);
            prop_assert_eq!(whole.as_bytes(), parts.as_bytes());
        }

        /// No bytes make it panic.
        #[test]
        fn any_bytes_are_survived(tail in prop::collection::vec(any::<u8>(), 0..300), head in prop::sample::select(vec!["", "MSH", "MSH|^~\\&|", "FHS|^~\\&\rMSH|^", "BHS|^~"])) {
            let text = [head.as_bytes(), &tail].concat();
            if let Ok(message) = read(&text) {
                message.keys(&mut Keys::new());
            }
            let mut gleaner = Gleaner::default();
            text.chunks(7).for_each(|part| gleaner.feed(part));
            let _ = gleaner.finish();
        }

        /// However long a segment of a block in parts is, little of it is kept.
        #[test]
        fn gleaning_is_bounded(name in prop::sample::select(vec!["PID", "OBX", "MSH", "IPC"]), count in 1_usize..30) {
            let mut gleaner = Gleaner::default();
            gleaner.feed(b"MSH|^~\\&|A|B|C|D|||ADT^A01|1|P|2.5\r");
            for _ in 0..count {
                gleaner.feed(name.as_bytes());
                gleaner.feed(&vec![b'x'; 40_000]);
                gleaner.feed(b"\r");
            }
            prop_assert!(gleaner.kept.len() + gleaner.line.len() <= 12 * (SEGMENT_HEAD_BYTES_MAX + 16));
        }
    }
}
