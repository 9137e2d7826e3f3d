//! MLLP blocks: `SB content FS CR` (MLLP release 1; 0B, 1C, 0D). Bytes in, blocks out, and the reverse.
//!
//! Rules: content is never changed. An FS that is not followed by CR is content, and so is an SB inside a block, unless a header follows it: there
//! another message begins, the end of the first was lost, and two patients must not become one message. Bytes between blocks are dropped and
//! counted. A block that fits the buffer comes whole and without copying; a longer one comes in parts, so that memory does not grow with it. A block
//! over the limit is read to its end without being kept, so that its sender can be answered; one without end is given up.
//! Errors: none as `Result`; `TooLarge`, `Endless` and `Torn` are things decoded, because the conversation decides what to answer.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::limits::MLLP_SKIP_FACTOR;

/// Start of block.
pub const SB: u8 = 0x0b;
/// End of block, first byte.
pub const FS: u8 = 0x1c;
/// End of block, second byte.
pub const CR: u8 = 0x0d;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// A whole block's content.
    Block(Bytes),
    /// A piece of a block that is longer than the part size; more follows.
    Part(Bytes),
    /// The last piece of such a block; may be empty.
    End(Bytes),
    /// The block has grown over the limit: what came of it is void, the rest is skipped until `Skipped` or `Endless`.
    TooLarge,
    /// A block that was too large has ended, after so many bytes.
    Skipped(u64),
    /// A block that was too large does not end; close the connection. Nothing is found after it.
    Endless,
    /// Another block began inside of this one: its end was lost, and what came of it is void. Close the connection. Nothing is found after it.
    Torn,
}

/// Finds blocks in a stream. One per connection.
#[derive(Debug)]
pub struct Decoder {
    limit: u64,
    part: usize,
    inside: bool,
    skipping: bool,
    /// Bytes of the current block handed out or skipped so far.
    passed: u64,
    /// Bytes at the front of the buffer known to hold no end of block.
    scanned: usize,
    garbage: u64,
    garbage_run: u64,
    /// A block without end was given up, or one was torn: nothing that comes after it means anything.
    over: bool,
}

impl Decoder {
    /// Blocks of at most `limit` bytes; those longer than `part` come in parts once the buffer holds that much.
    #[must_use]
    pub fn new(limit: usize, part: usize) -> Self {
        Self {
            limit: limit as u64,
            part: part.max(1),
            inside: false,
            skipping: false,
            passed: 0,
            scanned: 0,
            garbage: 0,
            garbage_run: 0,
            over: false,
        }
    }

    /// Blocks of at most `limit` bytes, always whole.
    #[must_use]
    pub fn whole(limit: usize) -> Self {
        Self::new(limit, usize::MAX)
    }

    /// The next find, taken out of the front of `buffer`; `None`: more bytes are needed.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Option<Decoded> {
        if self.over {
            buffer.clear();
            return None;
        }
        if !self.inside && !self.begin(buffer) {
            return None;
        }
        let end = match self.find_end(buffer) {
            Find::End(at) => Some(at),
            Find::Nothing => None,
            Find::Begin => {
                self.over = true;
                return Some(Decoded::Torn);
            }
        };
        let known = self.passed + end.unwrap_or(self.scanned) as u64;
        if known > self.limit && !self.skipping {
            self.skipping = true;
            return Some(Decoded::TooLarge);
        }
        match end {
            Some(at) if self.skipping => {
                buffer.advance(at + 2);
                self.finish();
                Some(Decoded::Skipped(known))
            }
            Some(at) => {
                let content = buffer.split_to(at).freeze();
                buffer.advance(2);
                let first = self.passed == 0;
                self.finish();
                Some(if first { Decoded::Block(content) } else { Decoded::End(content) })
            }
            None if self.skipping => {
                buffer.advance(self.scanned);
                self.passed = known;
                self.scanned = 0;
                self.over = self.passed > self.limit.saturating_mul(MLLP_SKIP_FACTOR);
                self.over.then_some(Decoded::Endless)
            }
            None if self.scanned >= self.part => {
                let piece = buffer.split_to(self.scanned).freeze();
                self.passed = known;
                self.scanned = 0;
                Some(Decoded::Part(piece))
            }
            None => None,
        }
    }

    /// Inside a block: its end has not come yet.
    #[must_use]
    pub fn inside(&self) -> bool {
        self.inside
    }

    /// Bytes of the block being received that have been handed out or skipped.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.passed
    }

    /// Bytes dropped between blocks since the beginning; CR and LF, which some senders put there, not counted.
    #[must_use]
    pub fn garbage(&self) -> u64 {
        self.garbage
    }

    /// Bytes of any kind dropped since the last block ended.
    #[must_use]
    pub fn garbage_run(&self) -> u64 {
        self.garbage_run
    }

    fn begin(&mut self, buffer: &mut BytesMut) -> bool {
        let start = memchr::memchr(SB, buffer);
        let dropped = start.unwrap_or(buffer.len());
        self.garbage += buffer[..dropped].iter().filter(|byte| !matches!(byte, b'\r' | b'\n')).count() as u64;
        self.garbage_run += dropped as u64;
        let Some(at) = start else {
            buffer.clear();
            return false;
        };
        buffer.advance(at + 1);
        self.inside = true;
        self.garbage_run = 0;
        true
    }

    /// The FS that ends the block, or the SB of another one; else moves `scanned` to where the search goes on.
    fn find_end(&mut self, buffer: &[u8]) -> Find {
        let mut from = self.scanned;
        while let Some(step) = memchr::memchr2(FS, SB, &buffer[from..]) {
            let at = from + step;
            let next = &buffer[at + 1..];
            let found = if buffer[at] == FS { next.first().map(|byte| *byte == CR) } else { begins_message(next) };
            self.scanned = at;
            match found {
                Some(true) if buffer[at] == FS => return Find::End(at),
                Some(true) => return Find::Begin,
                Some(false) => from = at + 1,
                None => return Find::Nothing,
            }
        }
        self.scanned = buffer.len();
        Find::Nothing
    }

    fn finish(&mut self) {
        self.inside = false;
        self.skipping = false;
        self.passed = 0;
        self.scanned = 0;
    }
}

/// What stands next in a block.
enum Find {
    End(usize),
    Begin,
    Nothing,
}

/// Whether a header stands here: `MSH`, `FHS` or `BHS`, and a field separator. `None`: more bytes are needed to know.
fn begins_message(bytes: &[u8]) -> Option<bool> {
    let name = &bytes[..bytes.len().min(3)];
    if !HEADERS.iter().any(|header| header.starts_with(name)) {
        return Some(false);
    }
    bytes.get(3).map(u8::is_ascii_punctuation)
}

/// The segments that a message or batch begins with.
const HEADERS: [&[u8]; 3] = [b"MSH", b"FHS", b"BHS"];

/// Appends one block.
pub fn encode(content: &[u8], out: &mut impl BufMut) {
    out.put_u8(SB);
    out.put_slice(content);
    out.put_slice(&[FS, CR]);
}

/// Whether content can travel in one block: it holds no end of block itself.
#[must_use]
pub fn can_carry(content: &[u8]) -> bool {
    !memchr::memchr_iter(FS, content).any(|at| content.get(at + 1) == Some(&CR))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(decoder: &mut Decoder, buffer: &mut BytesMut) -> Vec<Decoded> {
        let mut found = Vec::new();
        while let Some(one) = decoder.decode(buffer) {
            let over = matches!(one, Decoded::Endless | Decoded::Torn);
            found.push(one);
            if over {
                break;
            }
        }
        found
    }

    fn block(content: &'static [u8]) -> Decoded {
        Decoded::Block(Bytes::from_static(content))
    }

    #[test]
    fn coalesced_blocks_come_one_by_one_and_garbage_is_counted() {
        let mut decoder = Decoder::whole(100);
        let mut buffer = BytesMut::from(&b"\r\nx\nx\x0bone\x1c\r\n\x0btwo\x1c\r\x0bthr"[..]);
        assert_eq!(all(&mut decoder, &mut buffer), [block(b"one"), block(b"two")]);
        assert_eq!(decoder.garbage(), 2);
        assert!(decoder.inside());
        buffer.extend_from_slice(b"ee\x1c");
        assert_eq!(decoder.decode(&mut buffer), None);
        buffer.extend_from_slice(b"\r");
        assert_eq!(decoder.decode(&mut buffer), Some(block(b"three")));
        assert!(!decoder.inside() && buffer.is_empty());
    }

    #[test]
    fn a_lone_fs_and_an_sb_inside_are_content() {
        let mut decoder = Decoder::whole(100);
        let mut buffer = BytesMut::from(&b"\x0ba\x1cb\x0bc\x1c\x1c\r"[..]);
        assert_eq!(all(&mut decoder, &mut buffer), [block(b"a\x1cb\x0bc\x1c")]);
    }

    #[test]
    fn a_header_behind_an_sb_inside_is_another_message() {
        for (stream, parts) in [
            (&b"\x0bMSH|one\x0bMSH|^~\\&|two\x1c\r"[..], 100),
            (b"\x0bMSH|one\x1c\x0bBHS|two\x1c\r", 100),
            (b"\x0bMSH$one\rPID\x0bFHS$two\x1c\r\x0bMSH|three\x1c\r", 2),
        ] {
            for cut in 1..=stream.len() {
                let (mut decoder, mut buffer, mut found) = (Decoder::new(1000, parts), BytesMut::new(), Vec::new());
                for piece in stream.chunks(cut) {
                    buffer.extend_from_slice(piece);
                    found.extend(all(&mut decoder, &mut buffer));
                }
                let first = found.iter().position(|one| !matches!(one, Decoded::Part(_))).unwrap();
                assert_eq!(found[first..], [Decoded::Torn], "{cut}: and nothing after it");
            }
        }
        // No header, no separator, or not a whole one before the end.
        for content in [&b"a\x0bMSH"[..], b"a\x0bMSHA|", b"a\x0bMS|", b"a\x0bmsh|", b"a\x0b", b"a\x0bPID|", b"a\x0b\x0bM"] {
            for cut in 1..=content.len() {
                let (mut decoder, mut buffer, mut found) = (Decoder::whole(100), BytesMut::new(), Vec::new());
                let mut stream = Vec::new();
                encode(content, &mut stream);
                for piece in stream.chunks(cut) {
                    buffer.extend_from_slice(piece);
                    found.extend(all(&mut decoder, &mut buffer));
                }
                assert_eq!(found, [Decoded::Block(Bytes::copy_from_slice(content))], "{content:?}");
            }
        }
    }

    #[test]
    fn a_long_block_comes_in_parts() {
        let mut decoder = Decoder::new(100, 4);
        let mut buffer = BytesMut::from(&b"\x0babcdef\x1c"[..]);
        assert_eq!(decoder.decode(&mut buffer), Some(Decoded::Part(Bytes::from_static(b"abcdef"))));
        assert_eq!(decoder.decode(&mut buffer), None);
        buffer.extend_from_slice(b"\r\x0bz\x1c\r");
        assert_eq!(all(&mut decoder, &mut buffer), [Decoded::End(Bytes::new()), block(b"z")]);
    }

    #[test]
    fn a_block_over_the_limit_is_skipped_and_the_next_one_taken() {
        let mut decoder = Decoder::new(4, 2);
        let mut buffer = BytesMut::from(&b"\x0babcdefgh\x1c\r\x0bok\x1c\r"[..]);
        assert_eq!(all(&mut decoder, &mut buffer), [Decoded::TooLarge, Decoded::Skipped(8), block(b"ok")]);
        let mut exact = BytesMut::from(&b"\x0babcd\x1c\r"[..]);
        assert_eq!(all(&mut decoder, &mut exact), [block(b"abcd")]);
    }

    #[test]
    fn a_block_without_end_is_given_up_and_never_kept() {
        let mut decoder = Decoder::new(10, 4);
        let mut buffer = BytesMut::from(&b"\x0b"[..]);
        let mut found = Vec::new();
        for _ in 0..100 {
            buffer.extend_from_slice(&[b'x'; 7]);
            found.extend(all(&mut decoder, &mut buffer));
            assert!(buffer.len() <= 17);
            if found.last() == Some(&Decoded::Endless) {
                buffer.extend_from_slice(b"\x1c\r\x0bmore\x1c\r");
                assert_eq!(decoder.decode(&mut buffer), None, "over is over");
                return;
            }
        }
        panic!("not given up: {found:?}");
    }

    #[test]
    fn content_with_an_end_of_block_cannot_be_carried() {
        assert!(can_carry(b"a\x1cb"));
        assert!(!can_carry(b"a\x1c\rb"));
        assert!(can_carry(b"a\x1c"));
    }

    proptest! {
        /// However the bytes are cut, the same blocks come out.
        #[test]
        fn cuts_do_not_matter(
            contents in prop::collection::vec(prop::collection::vec(prop::sample::select(vec![SB, FS, b'a', b'b', b'\n']), 0..40), 1..6),
            between in prop::collection::vec(prop::sample::select(vec![CR, b'\n', b'g']), 0..4),
            cut in 1_usize..9,
            part in 1_usize..20,
        ) {
            let contents: Vec<Vec<u8>> = contents.into_iter().filter(|c| can_carry(c)).collect();
            let mut stream = Vec::new();
            for content in &contents {
                stream.extend_from_slice(&between);
                encode(content, &mut stream);
            }
            let mut decoder = Decoder::new(1000, part);
            let mut buffer = BytesMut::new();
            let (mut whole, mut open) = (Vec::new(), Vec::new());
            for piece in stream.chunks(cut) {
                buffer.extend_from_slice(piece);
                for found in all(&mut decoder, &mut buffer) {
                    match found {
                        Decoded::Block(bytes) => whole.push(bytes.to_vec()),
                        Decoded::Part(bytes) => open.extend_from_slice(&bytes),
                        Decoded::End(bytes) => { open.extend_from_slice(&bytes); whole.push(std::mem::take(&mut open)); }
                        other => prop_assert!(false, "{other:?}"),
                    }
                }
            }
            let counted = between.iter().filter(|byte| **byte == b'g').count();
            prop_assert_eq!(decoder.garbage(), (counted * contents.len()) as u64);
            prop_assert_eq!(whole, contents);
        }

        /// No bytes make it panic, hold more than its bounds, or hand out more than came in.
        #[test]
        fn any_bytes_are_survived(stream in prop::collection::vec(any::<u8>(), 0..400), cut in 1_usize..50, limit in 0_usize..60, part in 0_usize..30) {
            let mut decoder = Decoder::new(limit, part);
            let mut buffer = BytesMut::new();
            let mut out = 0;
            'all: for piece in stream.chunks(cut) {
                buffer.extend_from_slice(piece);
                for found in all(&mut decoder, &mut buffer) {
                    match found {
                        Decoded::Block(b) | Decoded::Part(b) | Decoded::End(b) => { prop_assert!(b.len() <= limit); out += b.len(); }
                        Decoded::Endless | Decoded::Torn => break 'all,
                        Decoded::TooLarge | Decoded::Skipped(_) => {}
                    }
                }
                prop_assert!(buffer.len() <= limit.max(part) + cut + 2);
            }
            prop_assert!(out <= stream.len());
        }
    }
}
