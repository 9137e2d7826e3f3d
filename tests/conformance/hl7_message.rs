//! HL7 v2.5.1 chapter 2: what is read of a message, checked against an independent parser where that one can read it.

use bytes::Bytes;
use everpost_client::hl7::message::Message;
use everpost_client::keys::{Key, Keys};
use harness::synthetic::{CHARSETS, message};
use proptest::prelude::*;

fn keys(content: &[u8]) -> Keys {
    let mut keys = Keys::new();
    Message::read(&Bytes::copy_from_slice(content)).unwrap().keys(&mut keys);
    keys
}

proptest! {
    /// Whatever stands in the fields: header fields and patient are those that hl7-parser finds. It reads text with `|^~\&` only, so the test does too.
    #[test]
    fn an_independent_parser_agrees(
        fields in prop::collection::vec("[A-Za-z0-9 .äé山^~&-]{0,12}", 10),
        kind in "[A-Z]{3}\\^[A-Z][0-9]{2}(\\^[A-Z]{3}_[A-Z][0-9]{2})?",
        id in "[A-Za-z0-9.-]{1,20}",
        pid in "[A-Za-z0-9äé山^~&.-]{1,40}",
        more in prop::collection::vec("(PV1|EVN|OBX|ZXY)\\|[A-Za-z0-9^~&|]{0,30}", 0..5),
    ) {
        let text = format!(
            "MSH|^~\\&|{}|{}|{}|{}|{}|{}|{kind}|{id}|{}|{}\r{}PID|1||{pid}||X\r",
            fields[0], fields[1], fields[2], fields[3], fields[4], fields[5], fields[6], fields[7],
            more.iter().map(|segment| format!("{segment}\r")).collect::<String>(),
        );
        let oracle = hl7_parser::Message::parse(&text).unwrap();
        let first = |path: &str| oracle.query(path).map(|found| found.raw_value().to_owned()).unwrap_or_default();
        let keys = keys(text.as_bytes());
        for (key, path) in [
            (Key::SendingApplication, "MSH.3.1"), (Key::SendingFacility, "MSH.4.1"), (Key::ReceivingApplication, "MSH.5.1"),
            (Key::ReceivingFacility, "MSH.6.1"), (Key::ControlId, "MSH.10"), (Key::ProcessingId, "MSH.11.1"), (Key::Version, "MSH.12.1"),
        ] {
            prop_assert_eq!(keys.text(key), first(path), "{}", path);
        }
        prop_assert_eq!(keys.text(Key::MessageType), format!("{}^{}", first("MSH.9.1"), first("MSH.9.2")));
        let (patient, authority) = (first("PID.3[1].1"), first("PID.3[1].4"));
        let expected = match (patient.is_empty(), authority.is_empty()) {
            (true, _) => String::new(),
            (false, true) => patient,
            (false, false) => format!("{patient}^{authority}"),
        };
        prop_assert_eq!(keys.text(Key::Patient), expected);
    }
}

/// 2.15.9.18: the set named in MSH-18 decides what is a delimiter. The texts hold second bytes that look like `|`, `\` and `^`.
#[test]
fn names_in_five_character_sets_shift_no_field() {
    for charset in CHARSETS {
        let content = message("ADT^A08^ADT_A01", "CS1", 7, 900, charset);
        let keys = keys(&content);
        assert_eq!(keys.text(Key::ControlId), "CS1", "{}", charset.name);
        assert_eq!(keys.text(Key::Patient), "P000007^HOSPITAL", "{}", charset.name);
        assert_eq!(keys.text(Key::CharacterSet), charset.name);
        // The same text in front of the fields that are read.
        let mut moved = b"MSH|^~\\&|".to_vec();
        moved.extend_from_slice(charset.text);
        moved.extend_from_slice(format!("|W|R|H|||ADT^A08|CS2|P|2.5||||||{}\rPID|", charset.name).as_bytes());
        moved.extend_from_slice(charset.text);
        moved.extend_from_slice(b"||99^^^AUT\r");
        let keys = self::keys(&moved);
        assert_eq!(keys.text(Key::ControlId), "CS2", "{}", charset.name);
        assert_eq!(keys.text(Key::Patient), "99^AUT", "{}", charset.name);
    }
}
