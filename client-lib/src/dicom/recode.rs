//! Re-encodes an uncompressed data set as it streams by: implicit VR little endian, explicit VR little endian, and from explicit VR big endian.
//! Rules: values keep their bytes, but for the byte order of a big endian source and the padding that one of odd length gets (PS3.5 6.2). Sequences and items are written with undefined length, since
//! what is in them changes size; group lengths (retired, PS3.5 7.2) and Length to End (0008,0001) are dropped for the same reason. Towards explicit
//! VR the dictionary says the VR; a private or unknown attribute, and a value too long for a short VR, becomes UN (PS3.5 6.2.2). US or SS goes by
//! Pixel Representation (0028,0103) of the item or of what is around it, OB or OW of pixel data by Bits Allocated (0028,0100); other words are OW.
//! Errors: `RecodeError`; encapsulated data is never decoded, so it cannot be converted.

use crate::dicom::dictionary::{Meaning, Tag, Vr, meaning};
use crate::dicom::walker::{Malformed, Sequences, Syntax, Token, Walker};
use crate::limits::DATASET_HEAD_BYTES_MAX;

const UNDEFINED: u32 = u32::MAX;
/// Longest value of a VR with a short length field: 65535 is odd, and odd lengths are not allowed (PS3.5 7.1.1).
const SHORT_VALUE_BYTES_MAX: u32 = 65_534;
const LENGTH_TO_END: Tag = Tag::new(0x0008, 0x0001);
const BITS_ALLOCATED: Tag = Tag::new(0x0028, 0x0100);
const PIXEL_REPRESENTATION: Tag = Tag::new(0x0028, 0x0103);

/// Why a data set cannot be re-encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecodeError {
    /// It makes no sense.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// It holds encapsulated data.
    #[error("element {tag} holds encapsulated data, which is never decoded here")]
    Encapsulated {
        /// The element.
        tag: Tag,
    },
}

/// What the VR of other elements depends on, in the item at hand.
#[derive(Debug, Clone, Copy, Default)]
struct Image {
    signed: bool,
    bits_allocated: u16,
}

/// The two bytes of a number that other elements depend on.
#[derive(Debug)]
struct Watched {
    tag: Tag,
    bytes: Vec<u8>,
}

/// Re-encodes; feed it pieces with `push`, then `finish`. Holds the first `DATASET_HEAD_BYTES_MAX` bytes back, to look for Pixel Representation
/// ahead of the few elements that need it earlier.
#[derive(Debug)]
pub struct Recoder {
    walker: Walker,
    to: Syntax,
    head: Option<Vec<u8>>,
    /// The data set's own, then that of each open item.
    images: Vec<Image>,
    watched: Option<Watched>,
    dropping: bool,
    /// What follows a value of odd length.
    pad: Option<u8>,
    swap: Swap,
}

impl Recoder {
    /// A recoder to implicit or explicit VR little endian; big endian is never written.
    #[must_use]
    pub fn new(from: Syntax, to: Syntax) -> Self {
        let ahead = from == Syntax::ImplicitLittle && to != Syntax::ImplicitLittle;
        Self {
            walker: Walker::new(from, Sequences::Follow),
            to: if to == Syntax::ImplicitLittle { to } else { Syntax::ExplicitLittle },
            head: ahead.then(Vec::new),
            images: vec![Image::default()],
            watched: None,
            dropping: false,
            pad: None,
            swap: Swap::default(),
        }
    }

    /// Takes the next piece, appends what it becomes to `out`: at most the held-back head more than twice its size.
    /// # Errors
    /// `RecodeError`; the recoder is of no use afterwards.
    pub fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<(), RecodeError> {
        let Some(head) = &mut self.head else { return self.recode(piece, out) };
        let (now, rest) = piece.split_at(piece.len().min(DATASET_HEAD_BYTES_MAX - head.len()));
        head.extend_from_slice(now);
        if head.len() == DATASET_HEAD_BYTES_MAX {
            self.release_head(out)?;
        }
        if rest.is_empty() { Ok(()) } else { self.recode(rest, out) }
    }

    /// The data set has ended.
    /// # Errors
    /// `RecodeError` if it must not end here.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), RecodeError> {
        self.release_head(out)?;
        // What ends by its length alone has not been seen to end yet.
        self.recode(&[], out)?;
        Ok(self.walker.finish()?)
    }

    fn release_head(&mut self, out: &mut Vec<u8>) -> Result<(), RecodeError> {
        let Some(head) = self.head.take() else { return Ok(()) };
        self.images = vec![look_ahead(&head)];
        self.recode(&head, out)
    }

    fn recode(&mut self, mut input: &[u8], out: &mut Vec<u8>) -> Result<(), RecodeError> {
        loop {
            let big = self.walker.syntax() == Syntax::ExplicitBig;
            match self.walker.step(&mut input)? {
                Token::More => return Ok(()),
                Token::Element { tag, vr, length } => self.element(tag, vr, length, big, out),
                Token::Value(bytes) => self.value(bytes, out),
                Token::ValueEnd => self.value_end(out),
                Token::Sequence { tag } => self.header(tag, Vr::SQ, UNDEFINED, out),
                Token::Item => {
                    self.images.push(self.image());
                    delimiter(0xE000, UNDEFINED, out);
                }
                Token::ItemEnd => {
                    self.images.pop();
                    delimiter(0xE00D, 0, out);
                }
                Token::SequenceEnd => delimiter(0xE0DD, 0, out),
                Token::Fragments { tag, .. } => return Err(RecodeError::Encapsulated { tag }),
                Token::Fragment { .. } => {}
            }
        }
    }

    fn element(&mut self, tag: Tag, vr: Option<Vr>, length: u32, big: bool, out: &mut Vec<u8>) {
        self.dropping = tag.is_group_length() || tag == LENGTH_TO_END;
        if self.dropping {
            return;
        }
        let vr = vr.unwrap_or_else(|| self.resolve(tag));
        self.swap = Swap::new(if big { vr.swap_unit() } else { 1 });
        self.watched = matches!(tag, BITS_ALLOCATED | PIXEL_REPRESENTATION).then(|| Watched { tag, bytes: Vec::new() });
        self.pad = (length % 2 == 1).then_some(if vr.is_text() { b' ' } else { 0 });
        let length = length.next_multiple_of(2);
        let written = if !vr.has_long_length() && length > SHORT_VALUE_BYTES_MAX { Vr::UN } else { vr };
        self.header(tag, written, length, out);
    }

    fn value(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if self.dropping {
            return;
        }
        let begin = out.len();
        self.swap.push(bytes, out);
        if let Some(watched) = &mut self.watched {
            let room = 2usize.saturating_sub(watched.bytes.len());
            watched.bytes.extend(out[begin..].iter().take(room));
        }
    }

    fn value_end(&mut self, out: &mut Vec<u8>) {
        self.swap.finish(out);
        out.extend(self.pad.take());
        self.dropping = false;
        if let Some(Watched { tag, bytes }) = self.watched.take()
            && let Some(image) = self.images.last_mut()
        {
            image.note(tag, &bytes);
        }
    }

    fn header(&self, tag: Tag, vr: Vr, length: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(&tag.group().to_le_bytes());
        out.extend_from_slice(&tag.element().to_le_bytes());
        if self.to == Syntax::ImplicitLittle {
            out.extend_from_slice(&length.to_le_bytes());
        } else if vr.has_long_length() {
            out.extend_from_slice(&vr.0);
            out.extend_from_slice(&[0, 0]);
            out.extend_from_slice(&length.to_le_bytes());
        } else {
            out.extend_from_slice(&vr.0);
            out.extend_from_slice(&(length as u16).to_le_bytes());
        }
    }

    fn image(&self) -> Image {
        self.images.last().copied().unwrap_or_default()
    }

    fn resolve(&self, tag: Tag) -> Vr {
        match meaning(tag) {
            None => Vr::UN,
            Some(Meaning::Exactly(vr)) => vr,
            Some(Meaning::Sample) if self.image().signed => Vr::SS,
            Some(Meaning::Sample) => Vr::US,
            Some(Meaning::Pixels) if self.image().bits_allocated <= 8 => Vr::OB,
            Some(Meaning::Pixels | Meaning::Bytes | Meaning::Table) => Vr::OW,
        }
    }
}

impl Image {
    fn note(&mut self, tag: Tag, value: &[u8]) {
        let Some(&number) = value.first_chunk::<2>() else { return };
        match tag {
            PIXEL_REPRESENTATION => self.signed = u16::from_le_bytes(number) == 1,
            BITS_ALLOCATED => self.bits_allocated = u16::from_le_bytes(number),
            _ => {}
        }
    }
}

/// What the head of an implicit little endian data set says at its top level. Faults are found later, when the same bytes are recoded.
fn look_ahead(head: &[u8]) -> Image {
    let (mut walker, mut input, mut image, mut current) = (Walker::new(Syntax::ImplicitLittle, Sequences::Skip), head, Image::default(), None);
    loop {
        let depth = walker.depth();
        match walker.step(&mut input) {
            Ok(Token::More) | Err(_) => return image,
            Ok(Token::Element { tag, .. }) if depth == 0 => current = Some(tag),
            Ok(Token::Value(value)) => {
                if let Some(tag) = current.take() {
                    image.note(tag, value);
                }
            }
            Ok(_) => {}
        }
    }
}

fn delimiter(element: u16, length: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&0xFFFE_u16.to_le_bytes());
    out.extend_from_slice(&element.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
}

/// Turns the byte order of units of 1, 2, 4 or 8 bytes, across pieces.
#[derive(Debug)]
struct Swap {
    unit: usize,
    kept: [u8; 8],
    have: usize,
}

impl Default for Swap {
    fn default() -> Self {
        Self::new(1)
    }
}

impl Swap {
    fn new(unit: usize) -> Self {
        Self { unit, kept: [0; 8], have: 0 }
    }

    fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        if self.unit == 1 {
            out.extend_from_slice(bytes);
            return;
        }
        if self.have > 0 {
            let (now, rest) = bytes.split_at(bytes.len().min(self.unit - self.have));
            self.kept[self.have..self.have + now.len()].copy_from_slice(now);
            self.have += now.len();
            bytes = rest;
            if self.have < self.unit {
                return;
            }
            out.extend(self.kept[..self.unit].iter().rev());
            self.have = 0;
        }
        let whole = bytes.len() - bytes.len() % self.unit;
        let begin = out.len();
        out.extend_from_slice(&bytes[..whole]);
        out[begin..].chunks_exact_mut(self.unit).for_each(<[u8]>::reverse);
        self.kept[..bytes.len() - whole].copy_from_slice(&bytes[whole..]);
        self.have = bytes.len() - whole;
    }

    /// A value that is no multiple of the unit keeps its last bytes as they are.
    fn finish(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.kept[..self.have]);
        self.have = 0;
    }
}
