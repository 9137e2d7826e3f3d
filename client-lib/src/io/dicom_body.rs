//! The data set of one C-STORE on its way out: read in chunks from the spool or a file, converted if wanted, queued for the socket.
//! Rules: the last piece is marked only when the source really ended at its known size; one chunk is in memory at a time (two while converting).
//! Errors: `BodyError`: our side is at fault, and the association is aborted; a truncated object is never ended as if it were whole.

use crate::delivery::Outcome;
use crate::dicom::convert::{ConvertError, Converter};
use crate::dicom::part10::FileHead;
use crate::dicom::walker::DEFLATED;
use crate::io::courier::Part10;
use crate::limits::CHUNK_BYTES;
use crate::spool::{ContentReader, SpoolError};
use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Content that cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{cause}")]
pub(crate) struct BodyError {
    /// What happened.
    pub(crate) cause: String,
    /// No retry will mend it.
    pub(crate) permanent: bool,
    /// The spool's copy is damaged.
    pub(crate) damaged: bool,
}

impl BodyError {
    pub(crate) fn outcome(&self) -> Outcome {
        let cause = self.cause.clone();
        if self.damaged { Outcome::Damaged { cause } } else { Outcome::Local { cause, permanent: self.permanent } }
    }
}

impl From<SpoolError> for BodyError {
    fn from(error: SpoolError) -> Self {
        let damaged = matches!(error, SpoolError::Damaged { .. });
        Self { cause: error.to_string(), permanent: damaged, damaged }
    }
}

impl From<ConvertError> for BodyError {
    fn from(error: ConvertError) -> Self {
        Self { cause: error.to_string(), permanent: true, damaged: false }
    }
}

/// Where bytes come from. Blocks on the disk.
pub(crate) trait Source: Send {
    /// Bytes in all.
    fn size(&self) -> u64;
    /// The next piece; `None` at the end.
    fn next(&mut self) -> Result<Option<Bytes>, BodyError>;
}

impl Source for ContentReader {
    fn size(&self) -> u64 {
        ContentReader::size(self)
    }

    fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        Ok(self.next_chunk()?)
    }
}

/// The rest of a file, from where it stands.
pub(crate) struct FileSource {
    file: File,
    size: u64,
    /// Bytes of the file still to come.
    left: u64,
}

impl FileSource {
    /// `padded`: a deflated data set of odd length gets a NUL behind it, as it must have on the wire (PS3.5 A.5); many writers of files leave it out.
    pub(crate) fn new(file: File, size: u64, padded: bool) -> Self {
        Self { file, size: if padded { size.next_multiple_of(2) } else { size }, left: size }
    }
}

impl Source for FileSource {
    fn size(&self) -> u64 {
        self.size
    }

    fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES + 1);
        if let Err(error) = (&mut self.file).take(self.left.min(CHUNK_BYTES as u64)).read_to_end(&mut chunk) {
            return Err(BodyError { cause: format!("the file could not be read: {error}"), permanent: false, damaged: false });
        }
        self.left -= chunk.len() as u64;
        if self.left == 0 && chunk.len() % 2 == 1 && self.size.is_multiple_of(2) {
            chunk.push(0);
        }
        Ok((!chunk.is_empty()).then(|| chunk.into()))
    }
}

/// The data set of a file, in memory.
struct Memory(u64, Option<Bytes>);

impl Source for Memory {
    fn size(&self) -> u64 {
        self.0
    }

    fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        Ok(self.1.take())
    }
}

/// Notes when the last byte was read: from then on the receiver may have the object.
pub(crate) struct Watched {
    source: Box<dyn Source>,
    left: u64,
    whole: Arc<AtomicBool>,
}

impl Watched {
    /// Opens the data set of a file.
    pub(crate) fn open(head: &FileHead, file: &Part10, whole: &Arc<AtomicBool>) -> Result<Box<dyn Source>, BodyError> {
        let failed = |error: io::Error| BodyError { cause: format!("the file could not be read: {error}"), permanent: false, damaged: false };
        let padded = head.transfer_syntax == DEFLATED;
        let source: Box<dyn Source> = match file {
            Part10::Memory(bytes) => {
                let mut data = bytes.slice(usize::try_from(head.dataset_at).unwrap_or(bytes.len()).min(bytes.len())..);
                if padded && data.len() % 2 == 1 {
                    data = [&data[..], &[0]].concat().into();
                }
                Box::new(Memory(data.len() as u64, Some(data)))
            }
            Part10::File(path) => {
                let mut file = File::open(path).map_err(failed)?;
                let size = file.metadata().map_err(failed)?.len().saturating_sub(head.dataset_at);
                file.seek(SeekFrom::Start(head.dataset_at)).map_err(failed)?;
                Box::new(FileSource::new(file, size, padded))
            }
        };
        Ok(Box::new(Watched { left: source.size(), source, whole: Arc::clone(whole) }))
    }
}

impl Source for Watched {
    fn size(&self) -> u64 {
        self.source.size()
    }

    fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        let piece = self.source.next()?;
        self.left = self.left.saturating_sub(piece.as_ref().map_or(0, |piece| piece.len() as u64));
        if self.left == 0 || piece.is_none() {
            self.whole.store(true, Ordering::Release);
        }
        Ok(piece)
    }
}

/// Some bytes of a data set.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) bytes: Bytes,
    /// The data set ends with it.
    pub(crate) last: bool,
}

/// A data set being read.
pub(crate) struct Body {
    source: Box<dyn Source>,
    taken: u64,
    conversion: Option<Box<Conversion>>,
    /// The last byte of a piece of odd length: all fragments but the last have an even one (PS3.8 E.1).
    odd: Option<u8>,
}

struct Conversion {
    converter: Converter,
    input: Bytes,
    out: Vec<u8>,
    /// A finished piece, held back until it is known whether another one follows.
    held: Option<Bytes>,
    source_ended: bool,
    ended: bool,
}

impl Body {
    /// Sent as it is.
    pub(crate) fn plain(source: Box<dyn Source>) -> Self {
        Self { source, taken: 0, conversion: None, odd: None }
    }

    /// Converted from one transfer syntax to another.
    pub(crate) fn converted(source: Box<dyn Source>, from: &str, to: &str) -> Result<Self, BodyError> {
        let converter = Converter::new(from, to)?;
        let conversion = Box::new(Conversion { converter, input: Bytes::new(), out: Vec::new(), held: None, source_ended: false, ended: false });
        Ok(Self { source, taken: 0, conversion: Some(conversion), odd: None })
    }

    /// The next piece, of even length unless it is the last. Blocks on the disk; not to be called after the last one.
    pub(crate) fn next(&mut self) -> Result<Piece, BodyError> {
        let mut piece = self.piece()?;
        if let Some(odd) = self.odd.take() {
            piece.bytes = [&[odd], &piece.bytes[..]].concat().into();
        }
        if !piece.last && piece.bytes.len() % 2 == 1 {
            self.odd = piece.bytes.last().copied();
            piece.bytes.truncate(piece.bytes.len() - 1);
        }
        Ok(piece)
    }

    fn piece(&mut self) -> Result<Piece, BodyError> {
        let Some(mut conversion) = self.conversion.take() else {
            let bytes = self.read()?.unwrap_or_default();
            return Ok(Piece { bytes, last: self.taken == self.source.size() });
        };
        let now = match conversion.held.take() {
            Some(held) => Some(held),
            None => self.convert(&mut conversion)?,
        };
        conversion.held = self.convert(&mut conversion)?;
        let last = conversion.held.is_none();
        self.conversion = Some(conversion);
        Ok(Piece { bytes: now.unwrap_or_default(), last })
    }

    /// From the source; `None` at its end, which must be where its size says.
    fn read(&mut self) -> Result<Option<Bytes>, BodyError> {
        let size = self.source.size();
        let chunk = if self.taken == size { None } else { self.source.next()? };
        self.taken += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        if self.taken > size || chunk.as_ref().is_none_or(Bytes::is_empty) && self.taken != size {
            return Err(BodyError {
                cause: format!("the content has another size than recorded: {} of {size} bytes", self.taken),
                permanent: true,
                damaged: false,
            });
        }
        Ok(chunk)
    }

    fn convert(&mut self, conversion: &mut Conversion) -> Result<Option<Bytes>, BodyError> {
        while !conversion.ended && conversion.out.len() < CHUNK_BYTES {
            if !conversion.input.is_empty() {
                let taken = conversion.converter.push(&conversion.input, &mut conversion.out)?;
                conversion.input.advance(taken);
            } else if !conversion.source_ended {
                match self.read()? {
                    Some(chunk) => conversion.input = chunk,
                    None => conversion.source_ended = true,
                }
            } else {
                conversion.ended = conversion.converter.finish(&mut conversion.out)?;
            }
        }
        Ok((!conversion.out.is_empty()).then(|| std::mem::take(&mut conversion.out).into()))
    }
}

/// Bytes waiting for the socket, in pieces that are written together and never copied.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    pieces: VecDeque<Bytes>,
    /// Bytes ever queued.
    pub(crate) queued: u64,
    /// Bytes ever handed to the system.
    pub(crate) written: u64,
}

/// Pieces handed to the system in one call.
pub(crate) const SLICES: usize = 64;

impl Outgoing {
    pub(crate) fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.queued += bytes.len() as u64;
            self.pieces.push_back(bytes);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The first pieces.
    pub(crate) fn slices<'a>(&'a self, into: &mut [IoSlice<'a>; SLICES]) -> usize {
        let count = self.pieces.len().min(SLICES);
        for (slot, piece) in into.iter_mut().zip(&self.pieces) {
            *slot = IoSlice::new(piece);
        }
        count
    }

    /// The system took this many bytes.
    pub(crate) fn advance(&mut self, mut bytes: usize) -> io::Result<()> {
        if bytes == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.written += bytes as u64;
        while let Some(first) = self.pieces.front_mut()
            && bytes > 0
        {
            let now = bytes.min(first.len());
            first.advance(now);
            bytes -= now;
            if first.is_empty() {
                self.pieces.pop_front();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::dicom::walker::{EXPLICIT_LITTLE, IMPLICIT_LITTLE};

    struct Pieces(Vec<Bytes>, u64);

    impl Source for Pieces {
        fn size(&self) -> u64 {
            self.1
        }
        fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
            Ok(if self.0.is_empty() { None } else { Some(self.0.remove(0)) })
        }
    }

    fn pieces(pieces: &[&'static [u8]], size: u64) -> Box<dyn Source> {
        Box::new(Pieces(pieces.iter().map(|piece| Bytes::from_static(piece)).collect(), size))
    }

    fn all(mut body: Body) -> Result<Vec<u8>, BodyError> {
        let mut whole = Vec::new();
        loop {
            let piece = body.next()?;
            whole.extend_from_slice(&piece.bytes);
            if piece.last {
                return Ok(whole);
            }
        }
    }

    #[test]
    fn the_last_piece_is_marked_only_at_the_known_end() {
        assert_eq!(all(Body::plain(pieces(&[b"abc", b"de"], 5))).unwrap(), b"abcde");
        assert_eq!(all(Body::plain(pieces(&[], 0))).unwrap(), b"");
        assert!(all(Body::plain(pieces(&[b"abc"], 5))).is_err(), "too short");
        assert!(all(Body::plain(pieces(&[b"abc", b"def"], 5))).is_err(), "too long");
    }

    #[test]
    fn every_piece_but_the_last_is_even() {
        let mut body = Body::plain(pieces(&[b"abc", b"d", b"efg"], 7));
        for (bytes, last) in [(&b"ab"[..], false), (b"cd", false), (b"efg", true)] {
            assert_eq!(body.next().unwrap(), Piece { bytes: Bytes::copy_from_slice(bytes), last });
        }
    }

    #[test]
    fn a_deflated_file_of_odd_length_is_padded() {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, b"abc").unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        assert_eq!(Body::plain(Box::new(FileSource::new(file, 3, true))).next().unwrap(), Piece { bytes: Bytes::from_static(b"abc\0"), last: true });
    }

    #[test]
    fn a_converted_body_ends_once() {
        let element = b"\x08\x00\x60\x00CS\x02\x00CT";
        let mut body = Body::converted(pieces(&[&element[..5], &element[5..]], 10), EXPLICIT_LITTLE, IMPLICIT_LITTLE).unwrap();
        assert_eq!(body.next().unwrap(), Piece { bytes: Bytes::from_static(b"\x08\x00\x60\x00\x02\0\0\0CT"), last: true });
        assert!(all(Body::converted(pieces(&[&element[..9]], 9), EXPLICIT_LITTLE, IMPLICIT_LITTLE).unwrap()).unwrap_err().permanent);
    }

    #[test]
    fn damaged_content_is_held_and_a_failing_disk_is_tried_again() {
        let damaged = SpoolError::Damaged { message: crate::ids::MessageId(7), offset: 0 };
        let disk = SpoolError::Disk { doing: "reading".to_owned(), cause: io::Error::other("EIO") };
        for (error, held) in [(damaged, true), (disk, false)] {
            for outcome in [Outcome::unreadable(&error), BodyError::from(error).outcome()] {
                assert_eq!(matches!(outcome, Outcome::Damaged { .. }), held, "{outcome:?}");
                assert!(held || matches!(outcome, Outcome::Local { permanent: false, .. }), "{outcome:?}");
            }
        }
    }

    #[test]
    fn what_was_written_leaves_the_queue() {
        let mut queue = Outgoing::default();
        for piece in [&b"ab"[..], b"", b"cde", b"f"] {
            queue.push(Bytes::copy_from_slice(piece));
        }
        queue.advance(4).unwrap();
        let mut slices = [IoSlice::new(&[]); SLICES];
        assert_eq!(queue.slices(&mut slices), 2);
        assert_eq!(&*slices[0], b"e");
        queue.advance(2).unwrap();
        assert!(queue.is_empty() && queue.queued == 6 && queue.written == 6);
        assert!(queue.advance(0).is_err());
    }
}
