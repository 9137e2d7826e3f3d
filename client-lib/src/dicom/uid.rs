//! The registered UIDs this gateway acts on, and the three questions it asks of a UID: is it well formed, is it a storage class, is it encapsulated.
//! Rules: a UID nobody here knows is passed on as it came; whether it is understood is the endpoint's affair.
//! Errors: none.

use dicom_core::dictionary::UidDictionary;
use dicom_dictionary_std::StandardSopClassDictionary;

/// Verification SOP class: C-ECHO.
pub const VERIFICATION: &str = "1.2.840.10008.1.1";
/// Study root query, C-FIND.
pub const STUDY_ROOT_FIND: &str = "1.2.840.10008.5.1.4.1.2.2.1";
/// The DICOM application context name (PS3.7 A.2.1).
pub const APPLICATION_CONTEXT: &str = "1.2.840.10008.3.1.1.1";
/// Implicit VR little endian, the default transfer syntax.
pub const IMPLICIT_LE: &str = "1.2.840.10008.1.2";
/// Explicit VR little endian.
pub const EXPLICIT_LE: &str = "1.2.840.10008.1.2.1";
/// Deflated explicit VR little endian.
pub const DEFLATED_LE: &str = "1.2.840.10008.1.2.1.99";
/// Explicit VR big endian (retired).
pub const EXPLICIT_BE: &str = "1.2.840.10008.1.2.2";

/// Everpost's implementation class UID (PS3.7 D.3.3.2), derived from a random UUID (PS3.5 B.2).
pub const IMPLEMENTATION_CLASS: &str = "2.25.141056452636164036065714392405682276779";
/// Everpost's implementation version name, at most 16 characters.
pub const IMPLEMENTATION_VERSION: &str = "EVERPOST_0_1";

/// Longest UID (PS3.5 9.1).
pub const UID_BYTES_MAX: usize = 64;

/// Root of everything the DICOM standard registers.
const STANDARD: &str = "1.2.840.10008.";
/// Root of the storage SOP classes.
const STORAGE: &str = "1.2.840.10008.5.1.4.1.1.";

/// Storage SOP classes that stand outside the storage root: PS3.4 B.5 (radiotherapy delivery instructions, with the retired trial), GG.3 (objects
/// without a patient: hanging protocols, colour palettes, implant templates), and the retired hard copy and stored print classes.
const STORAGE_ELSEWHERE: &[&str] = &[
    "1.2.840.10008.5.1.1.27",
    "1.2.840.10008.5.1.1.29",
    "1.2.840.10008.5.1.1.30",
    "1.2.840.10008.5.1.4.34.1",
    "1.2.840.10008.5.1.4.34.7",
    "1.2.840.10008.5.1.4.34.10",
    "1.2.840.10008.5.1.4.38.1",
    "1.2.840.10008.5.1.4.39.1",
    "1.2.840.10008.5.1.4.43.1",
    "1.2.840.10008.5.1.4.44.1",
    "1.2.840.10008.5.1.4.45.1",
];

/// Query, retrieve and management classes that stand under the storage root all the same: nothing is ever stored with them.
const NOT_STORAGE: &[&str] = &[
    "1.2.840.10008.5.1.4.1.1.200.4",
    "1.2.840.10008.5.1.4.1.1.200.5",
    "1.2.840.10008.5.1.4.1.1.200.6",
    "1.2.840.10008.5.1.4.1.1.201.2",
    "1.2.840.10008.5.1.4.1.1.201.3",
    "1.2.840.10008.5.1.4.1.1.201.4",
    "1.2.840.10008.5.1.4.1.1.201.5",
    "1.2.840.10008.5.1.4.1.1.201.6",
];

/// Digits and dots, 1 to 64 of them. Leading zeros in a component are tolerated: devices send them, and a gateway must not change what it passes on.
#[must_use]
pub fn is_well_formed(uid: &str) -> bool {
    !uid.is_empty() && uid.len() <= UID_BYTES_MAX && uid.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

/// A class whose instances are stored: every one the standard registers for storage, and every private one (outside the standard's root), of which
/// nobody but its owner can say that it is not.
#[must_use]
pub fn is_storage_class(uid: &str) -> bool {
    if !uid.starts_with(STANDARD) {
        return is_well_formed(uid);
    }
    (uid.starts_with(STORAGE) && is_well_formed(uid) && !NOT_STORAGE.contains(&uid)) || STORAGE_ELSEWHERE.contains(&uid)
}

/// Names of the transfer syntaxes that people meet (PS3.6 A), short.
const SYNTAXES: &[(&str, &str)] = &[
    (IMPLICIT_LE, "Implicit VR Little Endian"),
    (EXPLICIT_LE, "Explicit VR Little Endian"),
    (DEFLATED_LE, "Deflated Explicit VR Little Endian"),
    (EXPLICIT_BE, "Explicit VR Big Endian"),
    ("1.2.840.10008.1.2.4.50", "JPEG Baseline"),
    ("1.2.840.10008.1.2.4.51", "JPEG Extended"),
    ("1.2.840.10008.1.2.4.57", "JPEG Lossless"),
    ("1.2.840.10008.1.2.4.70", "JPEG Lossless, First-Order Prediction"),
    ("1.2.840.10008.1.2.4.80", "JPEG-LS Lossless"),
    ("1.2.840.10008.1.2.4.81", "JPEG-LS Near-Lossless"),
    ("1.2.840.10008.1.2.4.90", "JPEG 2000 Lossless"),
    ("1.2.840.10008.1.2.4.91", "JPEG 2000"),
    ("1.2.840.10008.1.2.4.100", "MPEG2 Main Profile"),
    ("1.2.840.10008.1.2.4.102", "MPEG-4 AVC/H.264 High Profile"),
    ("1.2.840.10008.1.2.4.201", "High-Throughput JPEG 2000 Lossless"),
    ("1.2.840.10008.1.2.4.203", "High-Throughput JPEG 2000"),
    ("1.2.840.10008.1.2.5", "RLE Lossless"),
];

/// The registered name of a standard SOP class, or of one of the common transfer syntaxes.
#[must_use]
pub fn name(uid: &str) -> Option<&'static str> {
    let class = StandardSopClassDictionary.by_uid(uid).map(|entry| entry.name);
    class.or_else(|| SYNTAXES.iter().find(|(syntax, _)| *syntax == uid).map(|(_, name)| *name))
}

/// One of the three syntaxes in which pixel data stand as they are.
#[must_use]
pub fn is_native(transfer_syntax: &str) -> bool {
    matches!(transfer_syntax, IMPLICIT_LE | EXPLICIT_LE | EXPLICIT_BE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storage_classes_are_told_from_the_rest() {
        for yes in [
            "1.2.840.10008.5.1.4.1.1.2",
            "1.2.840.10008.5.1.4.1.1.201.1",
            "1.2.840.10008.5.1.4.1.1.99999",
            "1.2.840.10008.5.1.4.34.7",
            "1.2.840.10008.5.1.4.38.1",
            "1.3.12.2.1107.5.9.1",
            "1.2.840.113619.4.27",
        ] {
            assert!(is_storage_class(yes), "{yes}");
        }
        for no in [
            VERIFICATION,
            "1.2.840.10008.5.1.4.1.2.2.1",
            "1.2.840.10008.5.1.4.31",
            "1.2.840.10008.5.1.4.1.1.200.4",
            "1.2.840.10008.1.20.1",
            "",
            "not a uid",
        ] {
            assert!(!is_storage_class(no), "{no}");
        }
    }

    #[test]
    fn standard_uids_have_names() {
        assert_eq!(name("1.2.840.10008.5.1.4.1.1.1.2"), Some("Digital Mammography X-Ray Image Storage - For Presentation"));
        assert!(name("1.2.840.10008.1.2.4.70").is_some_and(|name| name.contains("JPEG Lossless")));
        assert_eq!(name("1.2.3"), None);
    }

    #[test]
    fn form_is_checked_without_being_pedantic() {
        assert!(is_well_formed("1.2.03"));
        assert!(is_well_formed(IMPLEMENTATION_CLASS));
        assert!(!is_well_formed(&"1".repeat(65)));
        assert!(!is_well_formed("1.2\0"));
    }
}
