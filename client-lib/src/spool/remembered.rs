//! Small values under names, for operators' wishes: what was paused, shifted, drained.
//! Rules: the value with the highest number holds; an empty value forgets. A forgotten name keeps its tombstone until no older value can be left.
//! Errors: a limit is told as text.

use crate::spool::record::Position;
use std::collections::BTreeMap;

/// Our own: the generation up to which everything ended, 8 bytes. Not shown.
pub(crate) const QUIET: &str = "\u{1}quiet";
/// Names remembered at once: some per destination and endpoint.
const NAMES_MAX: usize = 16_384;
/// Bytes of one value.
const VALUE_MAX: usize = 16 << 10;

#[derive(Debug)]
struct Value {
    bytes: Vec<u8>,
    lsn: u64,
    at: Position,
}

/// See the head of the file.
#[derive(Debug, Default)]
pub(crate) struct Remembered(BTreeMap<String, Value>);

impl Remembered {
    pub(crate) fn admits(&self, name: &str, value: &[u8]) -> Result<(), String> {
        if name.is_empty() || name.len() > 255 || name.starts_with('\u{1}') {
            return Err("a remembered name has 1 to 255 bytes".to_owned());
        }
        if value.len() > VALUE_MAX {
            return Err(format!("a remembered value has at most {VALUE_MAX} bytes"));
        }
        if self.0.len() >= NAMES_MAX && !self.0.contains_key(name) {
            return Err(format!("more than {NAMES_MAX} names are remembered"));
        }
        Ok(())
    }

    pub(crate) fn set(&mut self, name: String, bytes: Vec<u8>, lsn: u64, at: Position) {
        match self.0.get(&name) {
            Some(known) if known.lsn > lsn => {}
            // The same value, copied forward.
            Some(known) if known.lsn == lsn && known.at > at => {}
            _ => {
                self.0.insert(name, Value { bytes, lsn, at });
            }
        }
    }

    /// Whether the record at this place is the one that holds.
    pub(crate) fn holds(&self, name: &str, at: Position) -> bool {
        self.0.get(name).is_some_and(|v| v.at == at)
    }

    /// The values that stand in segments up to a generation: name, value, number.
    pub(crate) fn standing_before(&self, generation: u64) -> Vec<(String, Vec<u8>, u64)> {
        let old = self.0.iter().filter(|(_, v)| v.at.generation() <= generation);
        old.map(|(name, v)| (name.clone(), v.bytes.clone(), v.lsn)).collect()
    }

    /// Drops the tombstone that stands at this place.
    pub(crate) fn bury(&mut self, name: &str, at: Position) -> bool {
        let dead = self.0.get(name).is_some_and(|v| v.at == at && v.bytes.is_empty());
        if dead {
            self.0.remove(name);
        }
        dead
    }

    pub(crate) fn all(&self) -> Vec<(String, Vec<u8>)> {
        self.0.iter().filter(|(n, v)| !v.bytes.is_empty() && *n != QUIET).map(|(n, v)| (n.clone(), v.bytes.clone())).collect()
    }
}
