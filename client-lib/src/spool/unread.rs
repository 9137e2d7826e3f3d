//! Envelopes whose record the disk could not read: they wait and are read again each second.
//! Rules: a failed read says nothing about the record, so nothing is decided about the envelope: it stays ready, its lane waits for it, other lanes go
//! on. Damage is another matter (see `hold_damaged`). One alarm per destination stands from the first failed read until all of its envelopes
//! were read or are gone.
//! Errors: none.

use crate::event::Event;
use crate::ids::DestinationId;
use crate::spool::Inner;
use crate::spool::envelope::State;
use crate::spool::error::SpoolError;
use crate::spool::journal::lock;
use std::collections::BTreeMap;

/// Envelopes remembered at once: a driver rests after far fewer failures. Beyond it they are simply ready again at once.
const UNREAD_MAX: usize = 1024;

/// Those that could not be read.
#[derive(Debug, Default)]
pub(crate) struct Unread {
    /// By number; `true`: not to be taken before the next round.
    envelopes: BTreeMap<u64, (DestinationId, bool)>,
}

impl Unread {
    fn concerns(&self, destination: DestinationId) -> bool {
        self.envelopes.values().any(|(d, _)| *d == destination)
    }
}

impl Inner {
    /// An envelope just taken could not be read.
    pub(crate) fn read_failed(&self, number: u64, destination: DestinationId, error: &SpoolError) {
        let mut index = lock(&self.index);
        let mut unread = lock(&self.unread);
        let told = unread.concerns(destination);
        let room = unread.envelopes.len() < UNREAD_MAX || unread.envelopes.contains_key(&number);
        if room {
            unread.envelopes.insert(number, (destination, true));
        }
        index.put_back(number, destination, !room);
        drop(unread);
        drop(index);
        if !told && room {
            self.unread_alarm(destination, true, &format!("{error}; what cannot be read waits and is read again each second"));
        }
    }

    /// An envelope was read.
    pub(crate) fn read_well(&self, number: u64) {
        let mut unread = lock(&self.unread);
        let Some((destination, _)) = unread.envelopes.remove(&number) else { return };
        let ended = !unread.concerns(destination);
        drop(unread);
        if ended {
            self.unread_alarm(destination, false, "what could not be read from the spool was read, or is gone");
        }
    }

    /// Lets all be taken again. Called about each second.
    pub(crate) fn read_again(&self) {
        let known: Vec<_> = lock(&self.unread).envelopes.iter().map(|(number, (destination, off))| (*number, *destination, *off)).collect();
        for (number, destination, off) in known {
            let mut index = lock(&self.index);
            match index.find(number).map(|(_, place)| place.state) {
                Some(State::Ready) => {
                    if off {
                        if let Some(entry) = lock(&self.unread).envelopes.get_mut(&number) {
                            entry.1 = false;
                        }
                        index.put_back(number, destination, true);
                        drop(index);
                        self.wake(destination);
                    }
                }
                // Being read just now.
                Some(State::InFlight) => {}
                _ => {
                    drop(index);
                    self.read_well(number);
                }
            }
        }
    }

    fn unread_alarm(&self, destination: DestinationId, raised: bool, what: &str) {
        self.events.emit(Event::Alarm { subject: format!("spool of {}", self.name(destination)), what: what.to_owned(), raised });
    }
}
