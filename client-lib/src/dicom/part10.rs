//! DICOM files (PS3.10 7): reads what stands before the data set, and writes it.
//! Rules: only the head of a file is read, at most `FILE_HEAD_BYTES_MAX`; the data set starts where File Meta Information ends, by its group length where
//! that is right, else by the first element of another group. A file without preamble and File Meta Information is taken if it plainly is a data
//! set in implicit or explicit VR little endian (it begins in group 0008 and names its SOP class and instance).
//! Errors: `FileError`, with what is missing.

use crate::dicom::dictionary::{Tag, Vr};
use crate::dicom::walker::{EXPLICIT_LITTLE, IMPLICIT_LITTLE, Sequences, Syntax, Token, Walker, trimmed};
use crate::limits::FILE_HEAD_BYTES_MAX;

const PREAMBLE_BYTES: usize = 128;
const PREFIX: &[u8; 4] = b"DICM";
const GROUP_LENGTH: Tag = Tag::new(0x0002, 0x0000);
const VERSION: Tag = Tag::new(0x0002, 0x0001);
const SOP_CLASS: Tag = Tag::new(0x0002, 0x0002);
const SOP_INSTANCE: Tag = Tag::new(0x0002, 0x0003);
const TRANSFER_SYNTAX: Tag = Tag::new(0x0002, 0x0010);
const IMPLEMENTATION_CLASS: Tag = Tag::new(0x0002, 0x0012);
const IMPLEMENTATION_VERSION: Tag = Tag::new(0x0002, 0x0013);
const SOURCE_AE: Tag = Tag::new(0x0002, 0x0016);
const DATASET_SOP_CLASS: Tag = Tag::new(0x0008, 0x0016);
const DATASET_SOP_INSTANCE: Tag = Tag::new(0x0008, 0x0018);

/// What a file says about its data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileHead {
    /// SOP class UID.
    pub sop_class: String,
    /// SOP instance UID.
    pub sop_instance: String,
    /// Transfer syntax UID of the data set.
    pub transfer_syntax: String,
    /// Where the data set begins, in bytes from the beginning of the file.
    pub dataset_at: u64,
}

/// Why a file cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// Neither a DICOM file nor a bare data set.
    #[error("it is no DICOM file: there is no DICM at byte 128, and it does not begin with a data set in little endian")]
    NotDicom,
    /// File Meta Information lacks an element or is broken.
    #[error("its File Meta Information lacks a readable {what}")]
    Lacks {
        /// Name and tag.
        what: &'static str,
    },
    /// Longer than is read.
    #[error("its File Meta Information is longer than {FILE_HEAD_BYTES_MAX} bytes")]
    TooLong,
}

/// Reads the head of a file: its first `FILE_HEAD_BYTES_MAX` bytes, or all of a shorter one.
/// # Errors
/// `FileError`.
pub fn read_head(file: &[u8]) -> Result<FileHead, FileError> {
    if file.get(PREAMBLE_BYTES..PREAMBLE_BYTES + 4) == Some(PREFIX) { read_meta(file, PREAMBLE_BYTES + 4) } else { read_bare(file) }
}

/// The head of a file whose data set follows: preamble, prefix, File Meta Information. `source_ae` may be empty.
#[must_use]
pub fn write_head(head: &FileHead, implementation: (&str, &str), source_ae: &str) -> Vec<u8> {
    let mut meta = Vec::with_capacity(512);
    put(&mut meta, VERSION, Vr::OB, &[0, 1], 0);
    put(&mut meta, SOP_CLASS, Vr::UI, head.sop_class.as_bytes(), 0);
    put(&mut meta, SOP_INSTANCE, Vr::UI, head.sop_instance.as_bytes(), 0);
    put(&mut meta, TRANSFER_SYNTAX, Vr::UI, head.transfer_syntax.as_bytes(), 0);
    put(&mut meta, IMPLEMENTATION_CLASS, Vr::UI, implementation.0.as_bytes(), 0);
    put(&mut meta, IMPLEMENTATION_VERSION, Vr(*b"SH"), implementation.1.as_bytes(), b' ');
    if !source_ae.is_empty() {
        put(&mut meta, SOURCE_AE, Vr(*b"AE"), source_ae.as_bytes(), b' ');
    }
    let mut out = vec![0; PREAMBLE_BYTES];
    out.extend_from_slice(PREFIX);
    put(&mut out, GROUP_LENGTH, Vr(*b"UL"), &(meta.len() as u32).to_le_bytes(), 0);
    out.append(&mut meta);
    out
}

/// One element in explicit VR little endian, padded to even length.
fn put(out: &mut Vec<u8>, tag: Tag, vr: Vr, value: &[u8], pad: u8) {
    out.extend_from_slice(&tag.group().to_le_bytes());
    out.extend_from_slice(&tag.element().to_le_bytes());
    out.extend_from_slice(&vr.0);
    let length = value.len().next_multiple_of(2);
    if vr.has_long_length() {
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&(length as u32).to_le_bytes());
    } else {
        out.extend_from_slice(&(length as u16).to_le_bytes());
    }
    out.extend_from_slice(value);
    if length > value.len() {
        out.push(pad);
    }
}

/// What was read of one element.
struct Read<'a> {
    tag: Tag,
    value: &'a [u8],
    end: usize,
}

/// The elements at the top level, with their values as far as they are whole; stops where the bytes make no sense.
fn elements(bytes: &[u8], syntax: Syntax) -> impl Iterator<Item = Read<'_>> {
    let (mut walker, mut input) = (Walker::new(syntax, Sequences::Skip), bytes);
    let (mut tag, mut value) = (None, &bytes[..0]);
    std::iter::from_fn(move || {
        loop {
            let depth = walker.depth();
            match walker.step(&mut input) {
                Err(_) | Ok(Token::More) => return None,
                Ok(Token::Element { tag: now, .. }) if depth == 0 => (tag, value) = (Some(now), &bytes[..0]),
                Ok(Token::Value(now)) => value = now,
                Ok(Token::ValueEnd) => {
                    if let Some(tag) = tag.take() {
                        return Some(Read { tag, value, end: bytes.len() - input.len() });
                    }
                }
                Ok(_) => {}
            }
        }
    })
}

fn read_meta(file: &[u8], begin: usize) -> Result<FileHead, FileError> {
    let meta = &file[begin..];
    let mut declared = None;
    let (mut class, mut instance, mut syntax) = (None, None, None);
    let mut end = 0;
    for read in elements(meta, Syntax::ExplicitLittle) {
        // Behind a right group length may stand anything, even what looks like group 0002 (a deflated data set).
        let complete = class.is_some() && instance.is_some() && syntax.is_some();
        if read.tag.group() != 0x0002 || complete && declared == Some(end) {
            break;
        }
        end = read.end;
        match read.tag {
            GROUP_LENGTH => declared = read.value.first_chunk::<4>().map(|n| end.saturating_add(u32::from_le_bytes(*n) as usize)),
            SOP_CLASS => class = uid(read.value),
            SOP_INSTANCE => instance = uid(read.value),
            TRANSFER_SYNTAX => syntax = uid(read.value),
            _ => {}
        }
    }
    if file.len() >= FILE_HEAD_BYTES_MAX && meta.get(end..end + 2) == Some(&[2, 0]) && declared != Some(end) {
        return Err(FileError::TooLong);
    }
    Ok(FileHead {
        sop_class: class.ok_or(FileError::Lacks { what: "Media Storage SOP Class UID (0002,0002)" })?,
        sop_instance: instance.ok_or(FileError::Lacks { what: "Media Storage SOP Instance UID (0002,0003)" })?,
        transfer_syntax: syntax.ok_or(FileError::Lacks { what: "Transfer Syntax UID (0002,0010)" })?,
        dataset_at: (begin + end) as u64,
    })
}

fn read_bare(file: &[u8]) -> Result<FileHead, FileError> {
    if !file.starts_with(&[0x08, 0x00]) {
        return Err(FileError::NotDicom);
    }
    let syntax = Syntax::guess(file);
    let (mut class, mut instance) = (None, None);
    for read in elements(file, syntax).take_while(|read| read.tag <= DATASET_SOP_INSTANCE) {
        match read.tag {
            DATASET_SOP_CLASS => class = uid(read.value),
            DATASET_SOP_INSTANCE => instance = uid(read.value),
            _ => {}
        }
    }
    let (Some(sop_class), Some(sop_instance)) = (class, instance) else { return Err(FileError::NotDicom) };
    let transfer_syntax = if syntax == Syntax::ImplicitLittle { IMPLICIT_LITTLE } else { EXPLICIT_LITTLE };
    Ok(FileHead { sop_class, sop_instance, transfer_syntax: transfer_syntax.to_owned(), dataset_at: 0 })
}

/// A UID, if it can be one (PS3.5 9.1).
fn uid(value: &[u8]) -> Option<String> {
    let value = trimmed(value);
    let fits = !value.is_empty() && value.len() <= 64 && value.iter().all(|b| b.is_ascii_digit() || *b == b'.');
    fits.then(|| String::from_utf8_lossy(value).into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::dicom::walker::DEFLATED;

    fn head(transfer_syntax: &str, dataset_at: u64) -> FileHead {
        FileHead { sop_class: "1.2.840.10008.5.1.4.1.1.2".into(), sop_instance: "1.2.3".into(), transfer_syntax: transfer_syntax.into(), dataset_at }
    }

    fn file(transfer_syntax: &str, dataset: &[u8]) -> (Vec<u8>, FileHead) {
        let mut file = write_head(&head(transfer_syntax, 0), ("1.2.9", "TEST"), "SRC");
        let expected = head(transfer_syntax, file.len() as u64);
        file.extend_from_slice(dataset);
        (file, expected)
    }

    #[test]
    fn what_is_written_is_read() {
        for dataset in [&b""[..], &[8, 0, 0x16, 0, b'U', b'I', 0, 0], &[2, 0, 2, 0, b'U', b'I', 2, 0, b'9', 0], &[2, 0], &[0xFF; 40]] {
            let (file, expected) = file(DEFLATED, dataset);
            assert_eq!(read_head(&file).unwrap(), expected, "before {dataset:?}");
        }
    }

    #[test]
    fn a_wrong_group_length_is_passed_over() {
        for wrong in [0_u32, 1, 40, u32::MAX] {
            let (mut file, expected) = file(EXPLICIT_LITTLE, &[8, 0, 5, 0, b'C', b'S', 0, 0]);
            file[140..144].copy_from_slice(&wrong.to_le_bytes());
            assert_eq!(read_head(&file).unwrap(), expected, "group length {wrong}");
        }
    }

    #[test]
    fn a_bare_data_set_is_taken_and_other_files_are_not() {
        let mut bare = Vec::new();
        put(&mut bare, DATASET_SOP_CLASS, Vr::UI, b"1.2.840.10008.5.1.4.1.1.2", 0);
        put(&mut bare, DATASET_SOP_INSTANCE, Vr::UI, b"1.2.3", 0);
        put(&mut bare, Tag::new(0x0008, 0x0060), Vr(*b"CS"), b"CT", 0);
        assert_eq!(read_head(&bare).unwrap(), head(EXPLICIT_LITTLE, 0));
        assert_eq!(read_head(b"\x08\x00 text that begins like a data set"), Err(FileError::NotDicom));
        assert_eq!(read_head(b"\x89PNG"), Err(FileError::NotDicom));
        assert_eq!(read_head(b""), Err(FileError::NotDicom));
    }

    #[test]
    fn a_cut_head_says_what_is_missing() {
        let (file, _) = file(EXPLICIT_LITTLE, &[]);
        for cut in 132..file.len() - 30 {
            let cut = read_head(&file[..cut]);
            assert!(cut.is_ok() || matches!(cut, Err(FileError::Lacks { .. })));
        }
        assert_eq!(read_head(&file[..150]), Err(FileError::Lacks { what: "Media Storage SOP Class UID (0002,0002)" }));
    }
}
