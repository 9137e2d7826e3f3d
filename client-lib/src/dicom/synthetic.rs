//! The synthetic object of the `dicom-store` probe, and where a query finds it again: always the same, of a test patient that is marked as one.
//! Rules: nothing in it depends on place, time or traffic, so an archive keeps one copy however often it is stored. Its UIDs stand under 2.25, the root
//! of UIDs made from UUIDs (PS3.5 B.2), and are documented in docs/conformance/dicom.md so that archives can filter them. Implicit VR little endian.
//! Errors: none.

use super::dictionary::Tag;
use super::find::Place;

/// Secondary Capture Image Storage: what every archive takes.
pub const SOP_CLASS: &str = "1.2.840.10008.5.1.4.1.1.7";
/// Its study.
pub const STUDY: &str = "2.25.305197860107900392844641533278470254393";
/// Its series.
pub const SERIES: &str = "2.25.91196324241810469707849597545555101841";
/// Itself.
pub const INSTANCE: &str = "2.25.112241001387729441462318755531054521608";
/// (0010,0010).
pub const PATIENT_NAME: &str = "EVERPOST^TEST";
/// (0010,0020).
pub const PATIENT_ID: &str = "EVERPOST-TEST";

/// Rows and columns.
const SIDE: u16 = 8;

/// The data set.
#[must_use]
pub fn object() -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    let number = |value: u16| value.to_le_bytes().to_vec();
    for (tag, value) in [
        (Tag::new(0x0008, 0x0008), text("DERIVED\\SECONDARY")),
        (Tag::new(0x0008, 0x0016), uid(SOP_CLASS)),
        (Tag::new(0x0008, 0x0018), uid(INSTANCE)),
        (Tag::new(0x0008, 0x0020), text("20000101")),
        (Tag::new(0x0008, 0x0030), text("000000")),
        (Tag::new(0x0008, 0x0050), text("")),
        (Tag::new(0x0008, 0x0060), text("OT")),
        (Tag::new(0x0008, 0x0064), text("SYN")),
        (Tag::new(0x0008, 0x0070), text("Everpost")),
        (Tag::new(0x0008, 0x0090), text("")),
        (Tag::new(0x0008, 0x1030), text("EVERPOST HEALTH PROBE, NO PATIENT")),
        (Tag::new(0x0010, 0x0010), text(PATIENT_NAME)),
        (Tag::new(0x0010, 0x0020), text(PATIENT_ID)),
        (Tag::new(0x0010, 0x0030), text("")),
        (Tag::new(0x0010, 0x0040), text("O")),
        (Tag::new(0x0020, 0x000D), uid(STUDY)),
        (Tag::new(0x0020, 0x000E), uid(SERIES)),
        (Tag::new(0x0020, 0x0010), text("1")),
        (Tag::new(0x0020, 0x0011), text("1")),
        (Tag::new(0x0020, 0x0013), text("1")),
        (Tag::new(0x0020, 0x0020), text("")),
        (Tag::new(0x0028, 0x0002), number(1)),
        (Tag::new(0x0028, 0x0004), text("MONOCHROME2")),
        (Tag::new(0x0028, 0x0010), number(SIDE)),
        (Tag::new(0x0028, 0x0011), number(SIDE)),
        (Tag::new(0x0028, 0x0100), number(8)),
        (Tag::new(0x0028, 0x0101), number(8)),
        (Tag::new(0x0028, 0x0102), number(7)),
        (Tag::new(0x0028, 0x0103), number(0)),
        (Tag::new(0x7FE0, 0x0010), vec![0x80; usize::from(SIDE) * usize::from(SIDE)]),
    ] {
        element(&mut out, tag, &value);
    }
    out
}

/// Where a query (C-FIND) finds it.
#[must_use]
pub fn place() -> Place {
    Place { study: STUDY.to_owned(), series: SERIES.to_owned(), instance: INSTANCE.to_owned() }
}

fn element(out: &mut Vec<u8>, tag: Tag, value: &[u8]) {
    out.extend_from_slice(&tag.group().to_le_bytes());
    out.extend_from_slice(&tag.element().to_le_bytes());
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    out.extend_from_slice(value);
}

fn padded(value: &str, padding: u8) -> Vec<u8> {
    let mut value = value.as_bytes().to_vec();
    if value.len() % 2 == 1 {
        value.push(padding);
    }
    value
}

fn text(value: &str) -> Vec<u8> {
    padded(value, b' ')
}

fn uid(value: &str) -> Vec<u8> {
    padded(value, 0)
}

#[cfg(test)]
mod tests {
    use super::super::find::Question;
    use super::*;

    /// Tags and values of a data set in implicit VR little endian.
    fn elements(mut set: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let mut found = Vec::new();
        while let Some((&[a, b, c, d, e, f, g, h], rest)) = set.split_first_chunk::<8>() {
            let tag = u32::from(u16::from_le_bytes([a, b])) << 16 | u32::from(u16::from_le_bytes([c, d]));
            let (value, rest) = rest.split_at(u32::from_le_bytes([e, f, g, h]) as usize);
            found.push((tag, value.to_vec()));
            set = rest;
        }
        assert!(set.is_empty());
        found
    }

    #[test]
    fn both_sets_are_well_formed_and_the_query_names_the_object() {
        let (object, query) = (elements(&object()), elements(&Question::Instance(place()).identifier()));
        for set in [&object, &query] {
            assert!(set.is_sorted_by(|a, b| a.0 < b.0), "ascending tags");
            assert!(set.iter().all(|(_, value)| value.len() % 2 == 0), "even lengths");
        }
        for tag in [0x0008_0018, 0x0020_000D, 0x0020_000E] {
            let value = |set: &[(u32, Vec<u8>)]| set.iter().find(|(t, _)| *t == tag).map(|(_, v)| v.clone());
            assert_eq!(value(&object), value(&query), "{tag:08X}");
        }
        for uid in [STUDY, SERIES, INSTANCE] {
            assert!(crate::dicom::uid::is_well_formed(uid) && uid.starts_with("2.25."), "{uid}");
        }
    }

    #[test]
    fn it_is_always_the_same() {
        assert_eq!(object(), object());
        assert_eq!(elements(&object()).last().map(|(_, pixels)| pixels.len()), Some(64));
    }
}
