//! Walks a data set as it streams by: pieces of any size in, tokens out (PS3.5 7).
//! Rules: not recursive, at most `SEQUENCE_DEPTH_MAX` sequences deep; nothing is allocated by a claimed length; a value is never held, it passes
//! through as the pieces it came in. A UN of undefined length is a sequence in implicit VR little endian (PS3.5 6.2.2); any other element of
//! undefined length that is no sequence holds fragments (encapsulated pixel data), which pass as values.
//! Errors: `Malformed`, with the byte at which the data set stops making sense. `KeyReader` and `read_keys` never fail: they take what they find.

use crate::dicom::dictionary::{self, Tag, Vr};
use crate::keys::{Key, Keys};
use crate::limits::{KEY_BYTES_MAX, KEYS_INFLATED_BYTES_MAX, SEQUENCE_DEPTH_MAX};
use flate2::{Decompress, FlushDecompress};

const UNDEFINED: u32 = u32::MAX;
const ITEM: Tag = Tag::new(0xFFFE, 0xE000);
const ITEM_END: Tag = Tag::new(0xFFFE, 0xE00D);
const SEQUENCE_END: Tag = Tag::new(0xFFFE, 0xE0DD);
const PIXEL_DATA: Tag = Tag::new(0x7FE0, 0x0010);

/// Implicit VR little endian, the default transfer syntax.
pub const IMPLICIT_LITTLE: &str = "1.2.840.10008.1.2";
/// Explicit VR little endian.
pub const EXPLICIT_LITTLE: &str = "1.2.840.10008.1.2.1";
/// Deflated explicit VR little endian.
pub const DEFLATED: &str = "1.2.840.10008.1.2.1.99";
/// Explicit VR big endian (retired).
pub const EXPLICIT_BIG: &str = "1.2.840.10008.1.2.2";

/// How a data set is encoded, compression aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syntax {
    /// Implicit VR little endian.
    ImplicitLittle,
    /// Explicit VR little endian, all encapsulated and deflated syntaxes included.
    ExplicitLittle,
    /// Explicit VR big endian.
    ExplicitBig,
}

impl Syntax {
    /// The encoding of a registered transfer syntax; `None` for private ones, whose data sets must be looked at (`guess`).
    #[must_use]
    pub fn of(transfer_syntax: &str) -> Option<Self> {
        match transfer_syntax {
            IMPLICIT_LITTLE => Some(Syntax::ImplicitLittle),
            EXPLICIT_BIG => Some(Syntax::ExplicitBig),
            uid if uid.starts_with("1.2.840.10008.") => Some(Syntax::ExplicitLittle),
            _ => None,
        }
    }

    /// By the look of the first element: explicit VR where two letters of a VR follow the tag. Needs six bytes; all known private syntaxes are
    /// little endian.
    #[must_use]
    pub fn guess(head: &[u8]) -> Self {
        match head {
            [_, _, _, _, a, b, ..] if Vr([*a, *b]).is_plausible() => Syntax::ExplicitLittle,
            _ => Syntax::ImplicitLittle,
        }
    }

    fn u16(self, bytes: [u8; 2]) -> u16 {
        if self == Syntax::ExplicitBig { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
    }

    fn u32(self, bytes: [u8; 4]) -> u32 {
        if self == Syntax::ExplicitBig { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }
}

/// Which sequences of defined length are entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sequences {
    /// None: they pass as values. Enough for reading keys, and needs no dictionary.
    Skip,
    /// All; in implicit VR the dictionary says which elements are sequences.
    Follow,
}

/// What comes next in a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token<'a> {
    /// An element with a value of `length` bytes, in `Value`s up to `ValueEnd`. `vr` is `None` in implicit VR.
    Element {
        /// Its tag.
        tag: Tag,
        /// Its VR, if the encoding says it.
        vr: Option<Vr>,
        /// Bytes of the value.
        length: u32,
    },
    /// Bytes of the value, never none.
    Value(&'a [u8]),
    /// The value is whole.
    ValueEnd,
    /// A sequence begins; items up to `SequenceEnd`.
    Sequence {
        /// Its tag.
        tag: Tag,
    },
    /// An item begins; elements up to `ItemEnd`.
    Item,
    /// The item ended, by its length or its delimiter.
    ItemEnd,
    /// The sequence ended, by its length or its delimiter; or the fragments did.
    SequenceEnd,
    /// Encapsulated data begins: `Fragment`s up to `SequenceEnd`.
    Fragments {
        /// Its tag.
        tag: Tag,
        /// Its VR, if the encoding says it.
        vr: Option<Vr>,
    },
    /// A fragment of `length` bytes, in `Value`s up to `ValueEnd`.
    Fragment {
        /// Bytes of the fragment.
        length: u32,
    },
    /// The input is used up.
    More,
}

/// The data set makes no sense at `at`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the data set is malformed at byte {at}: {what}")]
pub struct Malformed {
    /// Offset in the data set.
    pub at: u64,
    /// What is wrong there.
    pub what: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sequence,
    Item,
    Fragments,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    kind: Kind,
    /// Where the innermost enclosing defined length ends.
    limit: u64,
    /// The limit is its own: it ends there, not by a delimiter.
    defined: bool,
    syntax: Syntax,
}

/// The walker: feed it pieces with `step` until it says `More`, then the next piece; at the end `finish`.
#[derive(Debug)]
pub struct Walker {
    sequences: Sequences,
    syntax: Syntax,
    frames: Vec<Frame>,
    at: u64,
    header: [u8; 12],
    have: usize,
    value_left: u32,
    in_value: bool,
}

struct Header {
    tag: Tag,
    vr: Option<Vr>,
    length: u32,
}

impl Walker {
    /// A walker at the beginning of a data set.
    #[must_use]
    pub fn new(syntax: Syntax, sequences: Sequences) -> Self {
        Self { sequences, syntax, frames: Vec::new(), at: 0, header: [0; 12], have: 0, value_left: 0, in_value: false }
    }

    /// Sequences and items around the present place; 0 at the top level.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.frames.len()
    }

    /// Bytes walked.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.at
    }

    /// The encoding at the present place (inside a UN of undefined length it is implicit).
    #[must_use]
    pub fn syntax(&self) -> Syntax {
        self.frames.last().map_or(self.syntax, |frame| frame.syntax)
    }

    /// The next token; takes from `input` what it needed.
    /// # Errors
    /// `Malformed`; the walker is of no use afterwards.
    pub fn step<'a>(&mut self, input: &mut &'a [u8]) -> Result<Token<'a>, Malformed> {
        if self.in_value {
            return Ok(self.value(input));
        }
        if self.have == 0
            && let Some(frame) = self.frames.last()
            && frame.defined
            && frame.limit == self.at
        {
            return Ok(self.leave());
        }
        let Some(header) = self.read_header(input)? else { return Ok(Token::More) };
        match self.frames.last().map(|frame| frame.kind) {
            None | Some(Kind::Item) => self.in_item(&header),
            Some(Kind::Sequence) => self.in_sequence(&header),
            Some(Kind::Fragments) => self.in_fragments(&header),
        }
    }

    /// Checks that the data set may end here.
    /// # Errors
    /// `Malformed` within an element, a value or a sequence.
    pub fn finish(&self) -> Result<(), Malformed> {
        let open = self.frames.iter().any(|frame| !(frame.defined && frame.limit == self.at));
        if self.have > 0 || self.in_value && self.value_left > 0 || open { Err(self.bad("it ends in the middle of an element")) } else { Ok(()) }
    }

    fn value<'a>(&mut self, input: &mut &'a [u8]) -> Token<'a> {
        if self.value_left == 0 {
            self.in_value = false;
            return Token::ValueEnd;
        }
        if input.is_empty() {
            return Token::More;
        }
        let (now, rest) = input.split_at(input.len().min(self.value_left as usize));
        *input = rest;
        self.value_left -= now.len() as u32;
        self.at += now.len() as u64;
        Token::Value(now)
    }

    fn read_header(&mut self, input: &mut &[u8]) -> Result<Option<Header>, Malformed> {
        let syntax = self.syntax();
        if !self.fill(input, 8) {
            return Ok(None);
        }
        let h = self.header;
        let tag = Tag::new(syntax.u16([h[0], h[1]]), syntax.u16([h[2], h[3]]));
        let header = if tag.group() == 0xFFFE || syntax == Syntax::ImplicitLittle {
            Header { tag, vr: None, length: syntax.u32([h[4], h[5], h[6], h[7]]) }
        } else {
            let vr = Vr([h[4], h[5]]);
            if !vr.is_plausible() {
                return Err(self.bad("no value representation where one must stand"));
            }
            if vr.has_long_length() {
                if !self.fill(input, 12) {
                    return Ok(None);
                }
                let h = self.header;
                Header { tag, vr: Some(vr), length: syntax.u32([h[8], h[9], h[10], h[11]]) }
            } else {
                Header { tag, vr: Some(vr), length: u32::from(syntax.u16([h[6], h[7]])) }
            }
        };
        self.at += self.have as u64;
        self.have = 0;
        if self.at > self.limit() { Err(self.bad("an element reaches beyond the sequence or item it stands in")) } else { Ok(Some(header)) }
    }

    fn fill(&mut self, input: &mut &[u8], want: usize) -> bool {
        if self.have < want {
            let (now, rest) = input.split_at(input.len().min(want - self.have));
            self.header[self.have..self.have + now.len()].copy_from_slice(now);
            self.have += now.len();
            *input = rest;
        }
        self.have >= want
    }

    fn in_item<'a>(&mut self, header: &Header) -> Result<Token<'a>, Malformed> {
        let Header { tag, vr, length } = *header;
        if tag == ITEM_END {
            return match self.frames.last() {
                Some(frame) if !frame.defined => Ok(self.leave()),
                _ => Err(self.bad("an item ends that never began")),
            };
        }
        if tag.group() == 0xFFFE {
            return Err(self.bad("a sequence's item or end stands outside any sequence"));
        }
        let syntax = self.syntax();
        let sequence = match vr {
            Some(Vr::SQ) => true,
            Some(Vr::UN) => length == UNDEFINED,
            Some(_) => false,
            None if length == UNDEFINED => tag != PIXEL_DATA,
            None => self.sequences == Sequences::Follow && dictionary::is_sequence(tag),
        };
        if sequence && (length == UNDEFINED || self.sequences == Sequences::Follow) {
            let inner = if vr == Some(Vr::UN) { Syntax::ImplicitLittle } else { syntax };
            self.enter(Kind::Sequence, length, inner)?;
            return Ok(Token::Sequence { tag });
        }
        if length == UNDEFINED {
            self.enter(Kind::Fragments, length, syntax)?;
            return Ok(Token::Fragments { tag, vr });
        }
        self.begin_value(length)?;
        Ok(Token::Element { tag, vr, length })
    }

    fn in_sequence<'a>(&mut self, header: &Header) -> Result<Token<'a>, Malformed> {
        match header.tag {
            ITEM => {
                let syntax = self.syntax();
                self.enter(Kind::Item, header.length, syntax)?;
                Ok(Token::Item)
            }
            SEQUENCE_END if self.frames.last().is_some_and(|frame| !frame.defined) => Ok(self.leave()),
            _ => Err(self.bad("something else than an item stands in a sequence")),
        }
    }

    fn in_fragments<'a>(&mut self, header: &Header) -> Result<Token<'a>, Malformed> {
        match (header.tag, header.length) {
            (ITEM, UNDEFINED) => Err(self.bad("a fragment has no length")),
            (ITEM, length) => {
                self.begin_value(length)?;
                Ok(Token::Fragment { length })
            }
            (SEQUENCE_END, _) => Ok(self.leave()),
            _ => Err(self.bad("something else than a fragment stands in encapsulated data")),
        }
    }

    fn begin_value(&mut self, length: u32) -> Result<(), Malformed> {
        if self.at + u64::from(length) > self.limit() {
            return Err(self.bad("a value reaches beyond the sequence or item it stands in"));
        }
        self.value_left = length;
        self.in_value = true;
        Ok(())
    }

    fn enter(&mut self, kind: Kind, length: u32, syntax: Syntax) -> Result<(), Malformed> {
        if self.frames.len() >= 2 * SEQUENCE_DEPTH_MAX {
            return Err(self.bad("sequences are nested too deep"));
        }
        let around = self.limit();
        let (limit, defined) = if length == UNDEFINED { (around, false) } else { (self.at + u64::from(length), true) };
        if limit > around {
            return Err(self.bad("a sequence or item reaches beyond the one it stands in"));
        }
        self.frames.push(Frame { kind, limit, defined, syntax });
        Ok(())
    }

    fn leave<'a>(&mut self) -> Token<'a> {
        match self.frames.pop().map(|frame| frame.kind) {
            Some(Kind::Item) => Token::ItemEnd,
            _ => Token::SequenceEnd,
        }
    }

    fn limit(&self) -> u64 {
        self.frames.last().map_or(u64::MAX, |frame| frame.limit)
    }

    fn bad(&self, what: &'static str) -> Malformed {
        Malformed { at: self.at, what }
    }
}

/// The keys a data set is read for, in the order of their tags.
const WANTED: [(Tag, Key); 6] = [
    (Tag::new(0x0008, 0x0018), Key::SopInstance),
    (Tag::new(0x0008, 0x0050), Key::Accession),
    (Tag::new(0x0008, 0x0060), Key::Modality),
    (Tag::new(0x0010, 0x0020), Key::Patient),
    (Tag::new(0x0020, 0x000D), Key::Study),
    (Tag::new(0x0020, 0x000E), Key::Series),
];

/// Reads keys from the head of a data set; the SOP instance UID is the data set's, which may differ from the command's. For whole
/// heads; `KeyReader` takes the data set as it streams.
pub fn read_keys(head: &[u8], transfer_syntax: &str, keys: &mut Keys) {
    KeyReader::new(transfer_syntax).push(head, keys);
}

/// Reads keys from a data set as it streams by, wherever in it they stand, and stops behind the last one: pixel data is never walked.
#[derive(Debug)]
pub struct KeyReader {
    walker: Option<Walker>,
    inflate: Option<Box<Decompress>>,
    inflated: usize,
    wanted: Option<Key>,
    value: Vec<u8>,
    first: Vec<u8>,
    done: bool,
}

impl KeyReader {
    /// A reader for a data set in this transfer syntax.
    #[must_use]
    pub fn new(transfer_syntax: &str) -> Self {
        let inflate = (transfer_syntax == DEFLATED).then(|| Box::new(Decompress::new(false)));
        let walker = Syntax::of(transfer_syntax).map(|syntax| Walker::new(syntax, Sequences::Skip));
        Self { walker, inflate, inflated: 0, wanted: None, value: Vec::new(), first: Vec::new(), done: false }
    }

    /// Takes the next piece; false when nothing more is wanted.
    pub fn push(&mut self, bytes: &[u8], keys: &mut Keys) -> bool {
        if self.done {
            return false;
        }
        if self.inflate.is_some() {
            self.push_deflated(bytes, keys);
        } else {
            self.push_plain(bytes, keys);
        }
        !self.done
    }

    fn push_deflated(&mut self, mut bytes: &[u8], keys: &mut Keys) {
        let Some(mut inflate) = self.inflate.take() else { return };
        let mut plain = [0; 4096];
        while !self.done && self.inflated < KEYS_INFLATED_BYTES_MAX {
            let (taken, made) = (inflate.total_in(), inflate.total_out());
            if inflate.decompress(bytes, &mut plain, FlushDecompress::None).is_err() {
                self.done = true;
            }
            let (taken, made) = ((inflate.total_in() - taken) as usize, (inflate.total_out() - made) as usize);
            bytes = bytes.get(taken..).unwrap_or_default();
            if made == 0 {
                break;
            }
            self.inflated += made;
            self.push_plain(&plain[..made], keys);
        }
        self.done |= self.inflated >= KEYS_INFLATED_BYTES_MAX;
        self.inflate = Some(inflate);
    }

    fn push_plain(&mut self, bytes: &[u8], keys: &mut Keys) {
        let joined;
        let mut input = bytes;
        let mut walker = match self.walker.take() {
            Some(walker) => walker,
            None => {
                self.first.extend_from_slice(&bytes[..bytes.len().min(KEY_BYTES_MAX)]);
                if self.first.len() < 6 {
                    return;
                }
                joined = [std::mem::take(&mut self.first), bytes[bytes.len().min(KEY_BYTES_MAX)..].to_vec()].concat();
                input = &joined;
                Walker::new(Syntax::guess(input), Sequences::Skip)
            }
        };
        while !self.done && self.take(&mut walker, &mut input, keys) {}
        self.walker = Some(walker);
    }

    /// One token; false when the input is used up.
    fn take(&mut self, walker: &mut Walker, input: &mut &[u8], keys: &mut Keys) -> bool {
        let depth = walker.depth();
        match walker.step(input) {
            Err(_) => self.done = true,
            Ok(Token::More) => return false,
            Ok(Token::Element { tag, .. } | Token::Sequence { tag } | Token::Fragments { tag, .. }) if depth == 0 => {
                self.done = WANTED.last().is_none_or(|(last, _)| tag > *last);
                self.wanted = WANTED.iter().find(|(t, _)| *t == tag).map(|(_, key)| *key);
            }
            Ok(Token::Value(bytes)) if self.wanted.is_some() => {
                let room = KEY_BYTES_MAX.saturating_sub(self.value.len());
                self.value.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            Ok(Token::ValueEnd) => {
                if let Some(key) = self.wanted.take() {
                    let value = trimmed(&self.value);
                    if !value.is_empty() {
                        keys.set(key, value);
                    }
                    self.value.clear();
                    self.done = WANTED.last().is_some_and(|(_, last)| *last == key);
                }
            }
            Ok(_) => {}
        }
        true
    }
}

/// Without the padding of PS3.5 6.2: blanks on both sides, NUL at the end.
#[must_use]
pub fn trimmed(value: &[u8]) -> &[u8] {
    let end = value.iter().rposition(|b| !matches!(b, b' ' | 0)).map_or(0, |last| last + 1);
    value[..end].trim_ascii_start()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write;

    fn element(syntax: Syntax, tag: u32, vr: &[u8; 2], value: &[u8]) -> Vec<u8> {
        header(syntax, tag, vr, value.len() as u32).into_iter().chain(value.iter().copied()).collect()
    }

    fn header(syntax: Syntax, tag: u32, vr: &[u8; 2], length: u32) -> Vec<u8> {
        let big = syntax == Syntax::ExplicitBig;
        let two = |n: u16| if big { n.to_be_bytes() } else { n.to_le_bytes() };
        let four = |n: u32| if big { n.to_be_bytes() } else { n.to_le_bytes() };
        let mut out = [two((tag >> 16) as u16), two(tag as u16)].concat();
        if syntax == Syntax::ImplicitLittle || tag >> 16 == 0xFFFE {
            out.extend(four(length));
        } else if Vr(*vr).has_long_length() {
            out.extend(vr);
            out.extend([0, 0]);
            out.extend(four(length));
        } else {
            out.extend(vr);
            out.extend(two(length as u16));
        }
        out
    }

    /// A head with sequences of both kinds before the patient, and pixel data behind.
    fn head(syntax: Syntax) -> Vec<u8> {
        let inner = element(syntax, 0x0010_0020, b"LO", b"WRONG ");
        let defined = [header(syntax, 0xFFFE_E000, b"  ", inner.len() as u32), inner.clone()].concat();
        [
            element(syntax, 0x0008_0018, b"UI", b"1.2.5\0"),
            element(syntax, 0x0008_0050, b"SH", b"A1"),
            element(syntax, 0x0008_0060, b"CS", b"CT"),
            element(syntax, 0x0008_1110, b"SQ", &defined),
            header(syntax, 0x0008_1140, b"SQ", UNDEFINED),
            header(syntax, 0xFFFE_E000, b"  ", UNDEFINED),
            inner,
            header(syntax, 0xFFFE_E00D, b"  ", 0),
            header(syntax, 0xFFFE_E0DD, b"  ", 0),
            element(syntax, 0x0010_0020, b"LO", b" P 7 "),
            element(syntax, 0x0020_000D, b"UI", b"1.2.3\0"),
            element(syntax, 0x0020_000E, b"UI", b"1.2.4\0"),
            element(syntax, 0x7FE0_0010, b"OW", &[0; 100]),
        ]
        .concat()
    }

    fn read(head: &[u8], uid: &str) -> Vec<String> {
        let mut keys = Keys::new();
        read_keys(head, uid, &mut keys);
        WANTED.iter().map(|(_, key)| keys.text(*key)).collect()
    }

    const ALL: [&str; 6] = ["1.2.5", "A1", "CT", "P 7", "1.2.3", "1.2.4"];

    #[test]
    fn keys_are_found_in_every_encoding() {
        assert_eq!(read(&head(Syntax::ImplicitLittle), IMPLICIT_LITTLE), ALL);
        assert_eq!(read(&head(Syntax::ExplicitLittle), "1.2.840.10008.1.2.4.90"), ALL);
        assert_eq!(read(&head(Syntax::ExplicitBig), EXPLICIT_BIG), ALL);
        assert_eq!(read(&head(Syntax::ImplicitLittle), "1.2.840.113619.5.2"), ALL);
        assert_eq!(read(&head(Syntax::ExplicitLittle), "1.3.46.670589.33.1.4.1"), ALL);
        let mut deflate = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
        deflate.write_all(&head(Syntax::ExplicitLittle)).unwrap();
        assert_eq!(read(&deflate.finish().unwrap(), DEFLATED), ALL);
    }

    #[test]
    fn pieces_of_any_size_give_the_same_keys() {
        for (syntax, uid) in [(Syntax::ImplicitLittle, "9.9"), (Syntax::ExplicitBig, EXPLICIT_BIG), (Syntax::ExplicitLittle, EXPLICIT_LITTLE)] {
            for size in 1..20 {
                let (mut reader, mut keys) = (KeyReader::new(uid), Keys::new());
                let more = head(syntax).chunks(size).map(|piece| reader.push(piece, &mut keys)).fold(true, |_, more| more);
                assert!(!more, "the reader stops before pixel data");
                assert_eq!(WANTED.map(|(_, key)| keys.text(key)), ALL, "{syntax:?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn a_cut_head_gives_what_it_has_and_no_half_value() {
        let head = head(Syntax::ExplicitLittle);
        for cut in 0..head.len() {
            for (value, whole) in read(&head[..cut], EXPLICIT_LITTLE).iter().zip(ALL) {
                assert!(value.is_empty() || value == whole, "cut at {cut}: {value}");
            }
        }
    }

    #[test]
    fn an_unknown_of_undefined_length_is_walked_as_implicit() {
        let set = [
            header(Syntax::ExplicitBig, 0x0009_1001, b"UN", UNDEFINED),
            header(Syntax::ImplicitLittle, 0xFFFE_E000, b"  ", UNDEFINED),
            element(Syntax::ImplicitLittle, 0x0010_0020, b"LO", b"NO"),
            header(Syntax::ImplicitLittle, 0xFFFE_E00D, b"  ", 0),
            header(Syntax::ImplicitLittle, 0xFFFE_E0DD, b"  ", 0),
            element(Syntax::ExplicitBig, 0x0010_0020, b"LO", b"P1"),
        ]
        .concat();
        assert_eq!(read(&set, EXPLICIT_BIG)[3], "P1");
    }

    fn walk(set: &[u8], syntax: Syntax) -> Result<usize, Malformed> {
        let (mut walker, mut input, mut tokens) = (Walker::new(syntax, Sequences::Follow), set, 0);
        while walker.step(&mut input)? != Token::More {
            tokens += 1;
        }
        walker.finish().map(|()| tokens)
    }

    #[test]
    fn nesting_is_bounded() {
        let level =
            [header(Syntax::ExplicitLittle, 0x0008_1140, b"SQ", UNDEFINED), header(Syntax::ExplicitLittle, 0xFFFE_E000, b"  ", UNDEFINED)].concat();
        assert_eq!(walk(&level.repeat(SEQUENCE_DEPTH_MAX + 1), Syntax::ExplicitLittle).unwrap_err().what, "sequences are nested too deep");
    }

    #[test]
    fn lengths_beyond_their_container_and_cut_ends_are_malformed() {
        let item = header(Syntax::ExplicitLittle, 0xFFFE_E000, b"  ", 100);
        let set = [header(Syntax::ExplicitLittle, 0x0008_1140, b"SQ", item.len() as u32), item].concat();
        assert!(walk(&set, Syntax::ExplicitLittle).is_err());
        assert!(walk(&header(Syntax::ExplicitLittle, 0x7FE0_0010, b"OW", u32::MAX - 1), Syntax::ExplicitLittle).is_err());
        let whole = head(Syntax::ImplicitLittle);
        assert!(walk(&whole, Syntax::ImplicitLittle).is_ok());
        assert!(walk(&whole[..whole.len() - 1], Syntax::ImplicitLittle).is_err());
    }

    proptest::proptest! {
        #[test]
        fn random_bytes_do_no_harm(set in proptest::collection::vec(proptest::num::u8::ANY, 0..2000)) {
            for syntax in [Syntax::ImplicitLittle, Syntax::ExplicitLittle, Syntax::ExplicitBig] {
                let _ = walk(&set, syntax);
            }
            for uid in [IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED, "9.9"] {
                read(&set, uid);
            }
        }
    }
}
