//! Segment files: names, header block, footer and trailer. Byte by byte in `docs/spool-format.md`.
//! Rules: a file's header block is durable before the file is used; a sealed segment ends in a footer, which lists its records, and a trailer, which
//! finds the footer. A segment without a valid trailer is read record by record. A damaged header never costs records: they carry the generation too.
//! Errors: none; what does not validate is `None`.

use crate::ids::DestinationId;
use crate::spool::record::{self, Code, Extent, Fields, Kind, Position, Seat};
use crate::spool::storage::File;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

/// Bytes of the header block; records and chunks start behind it.
pub(crate) const BLOCK: u64 = 4096;
/// Bytes of the trailer, at the very end of a sealed file.
pub(crate) const TRAILER: u64 = 64;
/// Version of the format of segments. A later one is refused.
pub(crate) const VERSION: u32 = 1;

/// The format of the spool that this version writes, and the latest it reads.
pub const FORMAT: u32 = VERSION;

/// The format that a segment was written in, from its first 64 bytes or more; none: they are no header.
#[must_use]
pub fn version_of(head: &[u8]) -> Option<u32> {
    check_header(head).map(|header| header.version)
}
const MAGIC: &[u8; 8] = b"EVPSEG\r\n";
const TRAILER_MAGIC: &[u8; 8] = b"EVPEND\r\n";

/// What a segment holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Use {
    Journal = 1,
    Content = 2,
}

/// File name of a segment.
pub(crate) fn name(kind: Use, generation: u64) -> String {
    match kind {
        Use::Journal => format!("journal-{generation:012}.seg"),
        Use::Content => format!("content-{generation:012}.seg"),
    }
}

/// File name of a journal file that waits to be used.
pub(crate) fn spare_name(number: u64) -> String {
    format!("spare-{number:012}.seg")
}

/// File name of a journal file that is being made.
pub(crate) fn making_name(number: u64) -> String {
    format!("making-{number:012}.seg")
}

/// The number in any segment file's name, those set aside among them: a number is never given twice.
pub(crate) fn number_in(name: &str) -> Option<u64> {
    name.rsplit_once('-')?.1.strip_suffix(".seg")?.parse().ok()
}

/// What a file name says.
pub(crate) fn parse_name(name: &str) -> Option<(Use, u64)> {
    let (kind, rest) = match name.split_once('-')? {
        ("journal", rest) => (Use::Journal, rest),
        ("content", rest) => (Use::Content, rest),
        _ => return None,
    };
    Some((kind, rest.strip_suffix(".seg")?.parse().ok()?))
}

/// The header block.
pub(crate) fn header(kind: Use, generation: u64, size: u64) -> Vec<u8> {
    let mut block = vec![0; BLOCK as usize];
    block[..8].copy_from_slice(MAGIC);
    block[12..16].copy_from_slice(&VERSION.to_le_bytes());
    block[16] = kind as u8;
    block[24..32].copy_from_slice(&generation.to_le_bytes());
    block[32..40].copy_from_slice(&size.to_le_bytes());
    let crc = crc32c::crc32c(&block[12..64]);
    block[8..12].copy_from_slice(&crc.to_le_bytes());
    block
}

/// What a header block says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) version: u32,
    pub(crate) kind: u8,
    pub(crate) generation: u64,
}

/// Validates a header block.
pub(crate) fn check_header(block: &[u8]) -> Option<Header> {
    let fields = block.get(12..64)?;
    if block.get(..8)? != MAGIC || record::u32_at(block, 8)? != crc32c::crc32c(fields) {
        return None;
    }
    Some(Header { version: record::u32_at(block, 12)?, kind: block[16], generation: record::u64_at(block, 24)? })
}

/// Where a sealed segment's footer stands, and what is worth knowing without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Trailer {
    pub(crate) footer_at: u64,
    pub(crate) footer_length: u64,
    /// Latest time in any record.
    pub(crate) newest_at: u64,
    /// Highest sequence number.
    pub(crate) sequence: u64,
    /// Envelopes listed.
    pub(crate) envelopes: u64,
}

impl Trailer {
    pub(crate) fn put(&self, generation: u64) -> [u8; TRAILER as usize] {
        let mut bytes = [0; TRAILER as usize];
        bytes[..8].copy_from_slice(TRAILER_MAGIC);
        for (i, value) in [generation, self.footer_at, self.footer_length, self.newest_at, self.sequence, self.envelopes].into_iter().enumerate() {
            bytes[16 + i * 8..24 + i * 8].copy_from_slice(&value.to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes[16..]);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn get(bytes: &[u8], generation: u64) -> Option<Trailer> {
        if bytes.len() != TRAILER as usize || &bytes[..8] != TRAILER_MAGIC || record::u32_at(bytes, 8)? != crc32c::crc32c(&bytes[16..]) {
            return None;
        }
        let at = |i: usize| record::u64_at(bytes, 16 + i * 8);
        (at(0)? == generation).then_some(())?;
        Some(Trailer { footer_at: at(1)?, footer_length: at(2)?, newest_at: at(3)?, sequence: at(4)?, envelopes: at(5)? })
    }
}

/// What the index needs to know of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    Message { id: u64, copy: u32, from: u64, accepted_at: u64, fingerprint: Option<u64>, seats: Vec<Seat>, extents: Vec<Extent> },
    State { lsn: u64, envelope: u64, code: Code, flags: u8, message_at: Position, at: u64 },
    Memory { lsn: u64 },
}

impl Entry {
    /// Bytes it takes in a footer, offset included.
    pub(crate) fn length(&self) -> usize {
        match self {
            Entry::Message { seats, extents, .. } => 4 + 1 + 8 + 4 + 8 + 8 + 1 + 8 + 2 + 4 + seats.len() * 9 + extents.len() * 16,
            Entry::State { .. } => 4 + 1 + 8 + 8 + 2 + 8 + 8,
            Entry::Memory { .. } => 4 + 1 + 8,
        }
    }

    fn put(&self, offset: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(&offset.to_le_bytes());
        match self {
            Entry::Message { id, copy, from, accepted_at, fingerprint, seats, extents } => {
                out.push(Kind::Message as u8);
                out.extend_from_slice(&id.to_le_bytes());
                out.extend_from_slice(&copy.to_le_bytes());
                out.extend_from_slice(&from.to_le_bytes());
                out.extend_from_slice(&accepted_at.to_le_bytes());
                out.push(u8::from(fingerprint.is_some()));
                out.extend_from_slice(&fingerprint.unwrap_or(0).to_le_bytes());
                out.extend_from_slice(&(seats.len() as u16).to_le_bytes());
                out.extend_from_slice(&(extents.len() as u32).to_le_bytes());
                for seat in seats {
                    out.extend_from_slice(&seat.delta.to_le_bytes());
                    out.extend_from_slice(&seat.destination.0.to_le_bytes());
                    record::put_lane(out, seat.lane, seat.marks);
                }
                for extent in extents {
                    out.extend_from_slice(&extent.generation.to_le_bytes());
                    out.extend_from_slice(&extent.offset.to_le_bytes());
                    out.extend_from_slice(&extent.length.to_le_bytes());
                }
            }
            Entry::State { lsn, envelope, code, flags, message_at, at } => {
                out.push(Kind::State as u8);
                out.extend_from_slice(&lsn.to_le_bytes());
                out.extend_from_slice(&envelope.to_le_bytes());
                out.extend_from_slice(&[*code as u8, *flags]);
                out.extend_from_slice(&message_at.raw().to_le_bytes());
                out.extend_from_slice(&at.to_le_bytes());
            }
            Entry::Memory { lsn } => {
                out.push(Kind::Memory as u8);
                out.extend_from_slice(&lsn.to_le_bytes());
            }
        }
    }

    fn get(f: &mut Fields<'_>, names: &[DestinationId]) -> Option<(u32, Entry)> {
        let offset = f.u32()?;
        let entry = match f.u8()? {
            code if code == Kind::Message as u8 => {
                let (id, copy, from, accepted_at, known, fingerprint) = (f.u64()?, f.u32()?, f.u64()?, f.u64()?, f.u8()?, f.u64()?);
                let (seat_count, extent_count) = (f.u16()?, f.u32()?);
                let mut seats = Vec::with_capacity(usize::from(seat_count));
                for _ in 0..seat_count {
                    let delta = f.u16()?;
                    let destination = *names.get(usize::from(f.u16()?))?;
                    let (lane, marks) = record::get_lane(f)?;
                    seats.push(Seat { delta, destination, lane, marks });
                }
                let mut extents = Vec::with_capacity((extent_count as usize).min(f.0.len() / 16));
                for _ in 0..extent_count {
                    extents.push(Extent { generation: f.u64()?, offset: f.u32()?, length: f.u32()? });
                }
                Entry::Message { id, copy, from, accepted_at, fingerprint: (known != 0).then_some(fingerprint), seats, extents }
            }
            code if code == Kind::State as u8 => Entry::State {
                lsn: f.u64()?,
                envelope: f.u64()?,
                code: Code::from_code(f.u8()?)?,
                flags: f.u8()?,
                message_at: Position::from_raw(f.u64()?),
                at: f.u64()?,
            },
            code if code == Kind::Memory as u8 => Entry::Memory { lsn: f.u64()? },
            _ => return None,
        };
        Some((offset, entry))
    }
}

/// The list of a segment's records, grown while the segment is written. Destinations stand in it by their number in this process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Listing {
    bytes: Vec<u8>,
    used: BTreeSet<u16>,
    /// Latest time in any record.
    pub(crate) newest_at: u64,
    /// Highest sequence number.
    pub(crate) sequence: u64,
    /// Records listed.
    pub(crate) records: u64,
    /// Envelopes listed.
    pub(crate) envelopes: u64,
}

impl Listing {
    pub(crate) fn add(&mut self, offset: u64, entry: &Entry) {
        match entry {
            Entry::Message { id, accepted_at, seats, .. } => {
                self.newest_at = self.newest_at.max(*accepted_at);
                self.sequence = self.sequence.max(*id + seats.last().map_or(0, |s| u64::from(s.delta)));
                self.envelopes += seats.len() as u64;
                self.used.extend(seats.iter().map(|s| s.destination.0));
            }
            Entry::State { lsn, at, .. } => {
                self.newest_at = self.newest_at.max(*at);
                self.sequence = self.sequence.max(*lsn);
            }
            Entry::Memory { lsn } => self.sequence = self.sequence.max(*lsn),
        }
        self.records += 1;
        entry.put(offset as u32, &mut self.bytes);
    }

    /// Bytes a footer and trailer would take now, at most.
    pub(crate) fn sealed_length(&self) -> u64 {
        let names = self.used.last().map_or(0, |last| (usize::from(*last) + 1) * (1 + crate::limits::NAME_BYTES_MAX));
        (record::HEADER + 16 + names + self.bytes.len() + record::ALIGN) as u64 + TRAILER
    }

    /// The footer's record, not yet stamped.
    pub(crate) fn footer(&self, name: impl Fn(DestinationId) -> Arc<str>) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.sealed_length() as usize);
        let at = record::start(&mut out, Kind::Footer, self.sequence);
        out.extend_from_slice(&self.records.to_le_bytes());
        let names = self.used.last().map_or(0, |last| *last + 1);
        out.extend_from_slice(&names.to_le_bytes());
        for id in 0..names {
            let name = if self.used.contains(&id) { name(DestinationId(id)) } else { Arc::from("") };
            record::put_short(&mut out, &name);
        }
        out.extend_from_slice(&self.bytes);
        record::end(&mut out, at);
        out
    }

    /// Every record listed, in order of writing.
    pub(crate) fn entries(&self) -> Entries<'_> {
        let names = (0..self.used.last().map_or(0, |last| *last + 1)).map(DestinationId).collect();
        Entries { fields: Fields(&self.bytes), names }
    }
}

/// Iterates over a listing.
pub(crate) struct Entries<'a> {
    fields: Fields<'a>,
    names: Vec<DestinationId>,
}

impl<'a> Entries<'a> {
    /// Reads a footer's body; `id` turns a destination's name into its number.
    pub(crate) fn of_footer(body: &'a [u8], mut id: impl FnMut(&str) -> Option<DestinationId>) -> Option<Entries<'a>> {
        let mut f = Fields(body);
        let _records = f.u64()?;
        let names = f.u16()?;
        let names = (0..names)
            .map(|_| match f.short()? {
                "" => Some(DestinationId(u16::MAX)),
                name => id(name),
            })
            .collect::<Option<Vec<_>>>()?;
        Some(Entries { fields: f, names })
    }
}

impl Iterator for Entries<'_> {
    type Item = (u64, Entry);

    fn next(&mut self) -> Option<Self::Item> {
        if self.fields.0.is_empty() {
            return None;
        }
        let (offset, entry) = Entry::get(&mut self.fields, &self.names)?;
        Some((u64::from(offset), entry))
    }
}

/// Reads a range of a file; what lies beyond its end is missing from the result.
pub(crate) fn read_range(file: &dyn File, at: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let got = file.read_at(&mut bytes, at)?;
    bytes.truncate(got);
    Ok(bytes)
}

/// Reads and validates the record at `at`: its bytes, up to the end of its body.
pub(crate) fn read_record(file: &dyn File, generation: u64, at: u64, guess: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = read_range(file, at, guess.max(record::HEADER))?;
    let Some(length) = record::plausible(&bytes, generation) else { return Ok(None) };
    if length as u64 > Position::SEGMENT_MAX {
        return Ok(None);
    }
    if length > bytes.len() {
        bytes = read_range(file, at, length)?;
    }
    bytes.truncate(length);
    Ok(record::check(&bytes, generation).is_some().then_some(bytes))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::spool::envelope::Lane;
    use crate::spool::record::Marks;

    #[test]
    fn a_footer_lists_what_was_added() {
        let entries = [
            Entry::Message {
                id: 5,
                copy: 0,
                from: 0,
                accepted_at: 77,
                fingerprint: Some(3),
                seats: vec![Seat { delta: 1, destination: DestinationId(2), lane: Lane::Key(9), marks: Marks { stat: true, replay: true } }],
                extents: vec![Extent { generation: 4, offset: 4096, length: 5 }],
            },
            Entry::State { lsn: 7, envelope: 6, code: Code::Delivered, flags: 0, message_at: Position::new(1, 4096), at: 78 },
            Entry::Memory { lsn: 8 },
        ];
        let mut listing = Listing::default();
        for (i, entry) in entries.iter().enumerate() {
            let before = listing.bytes.len();
            listing.add(4096 + i as u64 * 8, entry);
            assert_eq!(listing.bytes.len() - before, entry.length());
        }
        let mut footer = listing.footer(|id| Arc::from(format!("n{}", id.0)));
        record::stamp(&mut footer, 1, Position::NONE);
        assert!(footer.len() as u64 + TRAILER <= listing.sealed_length());
        let view = record::check(&footer, 1).unwrap();
        let got: Vec<_> = Entries::of_footer(view.body, |name| name[1..].parse().ok().map(DestinationId)).unwrap().collect();
        assert_eq!(got.iter().map(|(_, e)| e.clone()).collect::<Vec<_>>(), entries);
        assert_eq!(got[2].0, 4112);
        assert_eq!((listing.newest_at, listing.sequence), (78, 8));
    }

    #[test]
    fn header_and_trailer_of_another_generation_do_not_count() {
        let block = header(Use::Journal, 12, 1 << 20);
        assert_eq!(check_header(&block), Some(Header { version: VERSION, kind: 1, generation: 12 }));
        assert_eq!((version_of(&block[..64]), version_of(&block[..63]), version_of(&[0; 64])), (Some(FORMAT), None, None));
        let trailer = Trailer { footer_at: 4096, footer_length: 100, newest_at: 1, sequence: 2, envelopes: 3 };
        assert_eq!(Trailer::get(&trailer.put(12), 12), Some(trailer));
        assert_eq!(Trailer::get(&trailer.put(12), 13), None);
    }

    #[test]
    fn names_come_back() {
        assert_eq!(parse_name(&name(Use::Content, 7)), Some((Use::Content, 7)));
        assert_eq!(parse_name("journal-x.seg"), None);
        assert_eq!(parse_name("lock"), None);
    }
}
