//! Value representations (PS3.5 6.2) and the data dictionary (PS3.6): what the VR of a standard attribute is when the encoding does not say it.
//! Rules: a private or unknown attribute has no VR here; it becomes UN. Attributes whose VR depends on others (US or SS, OB or OW) say so, and
//! the caller resolves them (`convert`).
//! Errors: none.

use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry, VirtualVr};
use dicom_dictionary_std::StandardDataDictionary;
use std::fmt;

/// A data element tag: group in the upper, element in the lower half.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub u32);

impl Tag {
    /// The tag (group,element).
    #[must_use]
    pub const fn new(group: u16, element: u16) -> Self {
        Self((group as u32) << 16 | element as u32)
    }

    /// Its group.
    #[must_use]
    pub const fn group(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Its element.
    #[must_use]
    pub const fn element(self) -> u16 {
        self.0 as u16
    }

    /// Of an odd group: its meaning is the private creator's.
    #[must_use]
    pub const fn is_private(self) -> bool {
        self.group() & 1 == 1
    }

    /// (gggg,0000): the retired group length (PS3.5 7.2).
    #[must_use]
    pub const fn is_group_length(self) -> bool {
        self.element() == 0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({:04X},{:04X})", self.group(), self.element())
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A value representation: its two letters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Vr(pub [u8; 2]);

impl Vr {
    /// Sequence of items.
    pub const SQ: Vr = Vr(*b"SQ");
    /// Unknown.
    pub const UN: Vr = Vr(*b"UN");
    /// Other byte.
    pub const OB: Vr = Vr(*b"OB");
    /// Other word.
    pub const OW: Vr = Vr(*b"OW");
    /// Unsigned short.
    pub const US: Vr = Vr(*b"US");
    /// Signed short.
    pub const SS: Vr = Vr(*b"SS");
    /// Long string.
    pub const LO: Vr = Vr(*b"LO");
    /// Unique identifier.
    pub const UI: Vr = Vr(*b"UI");

    /// Two upper-case letters: at least the look of a VR.
    #[must_use]
    pub fn is_plausible(self) -> bool {
        self.0.iter().all(u8::is_ascii_uppercase)
    }

    /// Whether its explicit header has two reserved bytes and a length of 32 bits (PS3.5 7.1.2). VRs of the future do, so unknown ones do.
    #[must_use]
    pub fn has_long_length(self) -> bool {
        !matches!(
            &self.0,
            b"AE"
                | b"AS"
                | b"AT"
                | b"CS"
                | b"DA"
                | b"DS"
                | b"DT"
                | b"FD"
                | b"FL"
                | b"IS"
                | b"LO"
                | b"LT"
                | b"PN"
                | b"SH"
                | b"SL"
                | b"SS"
                | b"ST"
                | b"TM"
                | b"UI"
                | b"UL"
                | b"US"
        )
    }

    /// Padded with a blank, not with NUL (PS3.5 6.2).
    #[must_use]
    pub fn is_text(self) -> bool {
        matches!(
            &self.0,
            b"AE" | b"AS" | b"CS" | b"DA" | b"DS" | b"DT" | b"IS" | b"LO" | b"LT" | b"PN" | b"SH" | b"ST" | b"TM" | b"UC" | b"UR" | b"UT"
        )
    }

    /// Bytes that change their order together between big and little endian (PS3.5 7.3); 1: none do.
    #[must_use]
    pub fn swap_unit(self) -> usize {
        match &self.0 {
            b"US" | b"SS" | b"OW" | b"AT" => 2, // AT is two 16-bit numbers
            b"UL" | b"SL" | b"FL" | b"OF" | b"OL" => 4,
            b"FD" | b"OD" | b"SV" | b"UV" | b"OV" => 8,
            _ => 1,
        }
    }
}

impl fmt::Debug for Vr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

/// What the dictionary says of an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// This VR.
    Exactly(Vr),
    /// US, or SS where Pixel Representation (0028,0103) is 1.
    Sample,
    /// OB or OW.
    Bytes,
    /// Pixel Data: OB or OW, by Bits Allocated (0028,0100).
    Pixels,
    /// LUT data: US or OW.
    Table,
}

/// The dictionary's entry of an attribute; `None` for private and unknown ones. A private creator (PS3.5 7.8.1) is LO.
#[must_use]
pub fn meaning(tag: Tag) -> Option<Meaning> {
    if tag.is_private() {
        return matches!(tag.element(), 0x10..=0xFF).then_some(Meaning::Exactly(Vr::LO));
    }
    let entry = StandardDataDictionary.by_tag(dicom_core::Tag(tag.group(), tag.element()))?;
    Some(match entry.vr() {
        VirtualVr::Exact(vr) => {
            let text = vr.to_string().as_bytes();
            Meaning::Exactly(Vr([text[0], text[1]]))
        }
        VirtualVr::Xs => Meaning::Sample,
        VirtualVr::Ox => Meaning::Bytes,
        VirtualVr::Px => Meaning::Pixels,
        VirtualVr::Lt => Meaning::Table,
        _ => return None,
    })
}

/// Whether the dictionary knows the attribute as a sequence.
#[must_use]
pub fn is_sequence(tag: Tag) -> bool {
    meaning(tag) == Some(Meaning::Exactly(Vr::SQ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_knows_standard_repeating_and_private_attributes() {
        assert_eq!(meaning(Tag::new(0x0010, 0x0020)), Some(Meaning::Exactly(Vr::LO)));
        assert_eq!(meaning(Tag::new(0x0028, 0x0106)), Some(Meaning::Sample));
        assert_eq!(meaning(Tag::new(0x6002, 0x3000)), Some(Meaning::Bytes));
        assert_eq!(meaning(Tag::new(0x7FE0, 0x0010)), Some(Meaning::Pixels));
        assert_eq!(meaning(Tag::new(0x0028, 0x3006)), Some(Meaning::Table));
        assert_eq!(meaning(Tag::new(0x0009, 0x0010)), Some(Meaning::Exactly(Vr::LO)));
        assert_eq!(meaning(Tag::new(0x0009, 0x1010)), None);
        assert_eq!(meaning(Tag::new(0x0008, 0xFFF0)), None);
        assert!(is_sequence(Tag::new(0x0008, 0x1140)));
    }

    #[test]
    fn an_unknown_representation_has_a_long_length() {
        assert!(Vr(*b"ZZ").has_long_length());
        assert!(!Vr::US.has_long_length());
        assert_eq!(Vr(*b"AT").swap_unit(), 2);
    }
}
