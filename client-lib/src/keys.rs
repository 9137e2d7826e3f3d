//! The key table of a message: what routes, lanes, endpoints and people need to know of it, read once when it came in.
//! Rules: values are bytes as the peer sent them (an HL7 value may be in any character set); nobody downstream parses content again; the table
//! knows no protocol. Values are patient data as far as `Debug` is concerned: it prints lengths.
//! Errors: a value longer than `limits::KEY_BYTES_MAX` is cut there when set (keys are for finding and routing; content is untouched); the
//! caller sees it in the return value of `set`.

use crate::limits::KEY_BYTES_MAX;
use std::fmt;

/// The protocol of a listener, a destination, a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Protocol {
    /// HL7 v2 over MLLP.
    Mllp = 1,
    /// DICOM upper layer, C-STORE.
    Dicom = 2,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Mllp => "mllp",
            Protocol::Dicom => "dicom",
        })
    }
}

macro_rules! keys {
    ($($(#[$doc:meta])* $name:ident = $code:literal $text:literal,)*) => {
        /// What a value of the key table means. The codes are on disk and never change meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Key { $($(#[$doc])* $name = $code,)* }

        impl Key {
            /// Every key, in code order.
            pub const ALL: &[Key] = &[$(Key::$name,)*];

            /// The name used in configuration (`when = { ... }`) and in JSON.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Key::$name => $text,)* }
            }

            fn from_code(code: u8) -> Option<Key> {
                match code { $($code => Some(Key::$name),)* _ => None }
            }
        }
    };
}

keys! {
    /// Name of the listener it came through.
    Listener = 1 "listener",
    /// Address of the sender, without port.
    Peer = 2 "peer",
    /// HL7 MSH-10.
    ControlId = 10 "control_id",
    /// HL7 MSH-9 as `TYPE^EVENT` (structure left out).
    MessageType = 11 "message_type",
    /// HL7 MSH-3.1.
    SendingApplication = 12 "sending_application",
    /// HL7 MSH-4.1.
    SendingFacility = 13 "sending_facility",
    /// HL7 MSH-5.1.
    ReceivingApplication = 14 "receiving_application",
    /// HL7 MSH-6.1.
    ReceivingFacility = 15 "receiving_facility",
    /// HL7 MSH-11.1.
    ProcessingId = 16 "processing_id",
    /// HL7 MSH-12.1.
    Version = 17 "version",
    /// HL7 MSH-18, all repetitions as sent.
    CharacterSet = 18 "character_set",
    /// HL7 MSH-15 and MSH-16 as `15|16`: which acknowledgements the sender asked of its receiver.
    AckConditions = 19 "ack_conditions",
    /// Calling AE title of the association it came on, blanks trimmed.
    CallingAe = 30 "calling_ae",
    /// Called AE title, blanks trimmed.
    CalledAe = 31 "called_ae",
    /// SOP class UID.
    SopClass = 32 "sop_class",
    /// SOP instance UID.
    SopInstance = 33 "sop_instance",
    /// Transfer syntax UID of the content.
    TransferSyntax = 34 "transfer_syntax",
    /// Modality (0008,0060).
    Modality = 35 "modality",
    /// Study instance UID (0020,000D).
    Study = 36 "study",
    /// Series instance UID (0020,000E).
    Series = 37 "series",
    /// C-STORE priority (0000,0700), two bytes little endian.
    Priority = 38 "priority",
    /// Move originator AE title (0000,1030).
    MoveOriginatorAe = 39 "move_originator_ae",
    /// Move originator message id (0000,1031), two bytes little endian.
    MoveOriginatorId = 40 "move_originator_id",
    /// Patient: PID-3.1 of the first repetition, `^` and the assigning authority PID-3.4 if it has one; or (0010,0020).
    Patient = 50 "patient",
    /// Accession number: (0008,0050); or the first of IPC-1.1, OBR-18.1, OBR-3.1, ORC-3.1 that has a value.
    Accession = 51 "accession",
    /// Present (any value): the message concerns several patients (MRG, two PIDs, a batch), so it is a barrier among the lanes of patients.
    Barrier = 52 "barrier",
    /// SHA-256 of the content, 32 bytes.
    Sha256 = 60 "sha256",
}

/// The key table. Small: a few hundred bytes.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Keys(Vec<u8>);

impl Keys {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a value, replacing an earlier one. Returns false if the value was cut to `KEY_BYTES_MAX` bytes.
    pub fn set(&mut self, key: Key, value: &[u8]) -> bool {
        let kept = &value[..value.len().min(KEY_BYTES_MAX)];
        if self.get(key).is_some() {
            let others: Vec<(Key, Vec<u8>)> = self.iter().filter(|(k, _)| *k != key).map(|(k, v)| (k, v.to_vec())).collect();
            self.0.clear();
            for (k, v) in others {
                self.push(k, &v);
            }
        }
        self.push(key, kept);
        kept.len() == value.len()
    }

    fn push(&mut self, key: Key, value: &[u8]) {
        self.0.push(key as u8);
        self.0.extend_from_slice(&(value.len() as u16).to_le_bytes());
        self.0.extend_from_slice(value);
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: Key) -> Option<&[u8]> {
        self.iter().find(|(k, _)| *k == key).map(|(_, v)| v)
    }

    /// The value as text; bytes that are no UTF-8 are replaced. For people, not for comparing.
    #[must_use]
    pub fn text(&self, key: Key) -> String {
        self.get(key).map(|v| String::from_utf8_lossy(v).into_owned()).unwrap_or_default()
    }

    /// All values, in the order they were set. Codes of a later version are passed over.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &[u8])> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            loop {
                let (&[code, low, high], tail) = rest.split_first_chunk::<3>()?;
                let (value, tail) = tail.split_at_checked(usize::from(u16::from_le_bytes([low, high])))?;
                rest = tail;
                if let Some(key) = Key::from_code(code) {
                    return Some((key, value));
                }
            }
        })
    }

    /// The table as it stands on disk: code (1 byte), length (2, little endian), value; repeated.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Takes a table read from disk.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(k, v)| (k.name(), format!("<{} bytes>", v.len())))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_set_twice_is_kept_once() {
        let mut keys = Keys::new();
        keys.set(Key::ControlId, b"1");
        keys.set(Key::Peer, b"::1");
        keys.set(Key::ControlId, b"22");
        assert_eq!(keys.get(Key::ControlId), Some(&b"22"[..]));
        assert_eq!(keys.iter().count(), 2);
    }

    #[test]
    fn a_long_value_is_cut_and_said_so() {
        let mut keys = Keys::new();
        assert!(!keys.set(Key::Patient, &vec![b'x'; KEY_BYTES_MAX + 1]));
        assert_eq!(keys.get(Key::Patient).map(<[u8]>::len), Some(KEY_BYTES_MAX));
    }

    #[test]
    fn debug_shows_no_patient_data() {
        let mut keys = Keys::new();
        keys.set(Key::Patient, b"4711");
        assert!(!format!("{keys:?}").contains("4711"));
    }
}
