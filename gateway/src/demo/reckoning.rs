//! What was sent, what was answered, who received what: kept while the demo runs, reckoned at its end.
//!
//! Rules: senders and receivers write here independently of each other and of the gateway; content is compared by SHA-256. Lost: answered positively,
//! and nobody has it with the right content. Reordered: arrived for the first time after a later one of its lane. Duplicated: every arrival but the
//! first, over all receivers of the pair. What a visitor sends into the demo is counted apart.
//! Errors: none.

use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// SHA-256 of content.
pub(crate) type Digest = [u8; 32];

/// Arrivals kept; a visitor who sends more than that into a demo that stays up is only counted.
const ARRIVALS_MAX: usize = 1_000_000;

/// One message or object of the demo's own senders.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    /// Of its content.
    pub(crate) digest: Digest,
    /// What must keep its order: patient stream or study.
    pub(crate) lane: u64,
    /// Its place in the lane.
    pub(crate) number: u64,
    /// When the try began that was answered positively; `None`: not answered.
    pub(crate) answered: Option<Instant>,
}

/// One arrival at a receiver.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    /// Name of the receiver.
    pub(crate) receiver: &'static str,
    /// Control id or SOP instance UID.
    pub(crate) id: String,
    /// Of its content.
    pub(crate) digest: Digest,
    /// When.
    pub(crate) at: Instant,
}

/// Both sides of one protocol.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    sent: Mutex<HashMap<String, Sent>>,
    arrivals: Mutex<Vec<Arrival>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ledger {
    /// A sender is about to send something new.
    pub(crate) fn sends(&self, id: &str, digest: Digest, lane: u64, number: u64) {
        locked(&self.sent).insert(id.to_owned(), Sent { digest, lane, number, answered: None });
    }

    /// It was answered positively, in a try that began then.
    pub(crate) fn answered(&self, id: &str, begun: Instant) {
        if let Some(sent) = locked(&self.sent).get_mut(id) {
            sent.answered = Some(begun);
        }
    }

    /// A receiver has something, and is about to answer.
    pub(crate) fn arrived(&self, receiver: &'static str, id: String, digest: Digest) {
        let mut arrivals = locked(&self.arrivals);
        if arrivals.len() < ARRIVALS_MAX {
            arrivals.push(Arrival { receiver, id, digest, at: Instant::now() });
        }
    }

    /// Sent so far, answered so far.
    pub(crate) fn progress(&self) -> (usize, usize) {
        let sent = locked(&self.sent);
        (sent.len(), sent.values().filter(|one| one.answered.is_some()).count())
    }

    /// Arrivals at a receiver so far.
    pub(crate) fn count(&self, receiver: &str) -> usize {
        locked(&self.arrivals).iter().filter(|arrival| arrival.receiver == receiver).count()
    }

    /// The first arrival at a receiver after a moment.
    pub(crate) fn first_after(&self, receiver: &str, moment: Instant) -> Option<Instant> {
        locked(&self.arrivals).iter().find(|arrival| arrival.receiver == receiver && arrival.at >= moment).map(|arrival| arrival.at)
    }

    /// The first positive answer to a try that began after a moment.
    pub(crate) fn answered_after(&self, moment: Instant) -> Option<Instant> {
        locked(&self.sent).values().filter_map(|sent| sent.answered).filter(|begun| *begun >= moment).min()
    }

    /// Everything answered has arrived.
    pub(crate) fn settled(&self) -> bool {
        self.reckon().lost == 0
    }

    /// The result as it stands.
    pub(crate) fn reckon(&self) -> Reckoning {
        reckon(&locked(&self.sent), &locked(&self.arrivals))
    }
}

/// The result of one protocol.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reckoning {
    pub(crate) sent: usize,
    pub(crate) answered: usize,
    pub(crate) lost: usize,
    pub(crate) reordered: usize,
    pub(crate) duplicated: usize,
    pub(crate) received: BTreeMap<&'static str, usize>,
    /// Arrivals of what the demo did not send itself.
    pub(crate) visitors: usize,
}

impl Reckoning {
    /// Nothing lost, nothing reordered, and something was sent at all.
    pub(crate) fn good(&self) -> bool {
        self.answered > 0 && self.lost == 0 && self.reordered == 0
    }

    /// As `demo --report` shows it.
    pub(crate) fn json(&self) -> Value {
        json!({
            "sent": self.sent, "answered": self.answered, "lost": self.lost, "reordered": self.reordered, "duplicated": self.duplicated,
            "received": self.received,
        })
    }
}

fn reckon(sent: &HashMap<String, Sent>, arrivals: &[Arrival]) -> Reckoning {
    let mut result = Reckoning { sent: sent.len(), answered: sent.values().filter(|one| one.answered.is_some()).count(), ..Reckoning::default() };
    let mut whole: HashSet<&str> = HashSet::new();
    let mut latest: HashMap<u64, u64> = HashMap::new();
    for arrival in arrivals {
        let Some(sent) = sent.get(&arrival.id) else {
            result.visitors += 1;
            continue;
        };
        *result.received.entry(arrival.receiver).or_default() += 1;
        if arrival.digest != sent.digest {
            continue; // not what was sent: it counts as lost unless the right one arrives
        }
        if !whole.insert(&arrival.id) {
            result.duplicated += 1;
            continue;
        }
        let latest = latest.entry(sent.lane).or_default();
        result.reordered += usize::from(sent.number < *latest);
        *latest = sent.number.max(*latest);
    }
    result.lost = sent.iter().filter(|(id, one)| one.answered.is_some() && !whole.contains(id.as_str())).count();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(sent: &[(&str, u64, u64)], answered: &[&str], arrivals: &[(&'static str, &str, u8)]) -> Reckoning {
        let ledger = Ledger::default();
        for (id, lane, number) in sent {
            ledger.sends(id, [1; 32], *lane, *number);
        }
        for id in answered {
            ledger.answered(id, Instant::now());
        }
        for (receiver, id, content) in arrivals {
            ledger.arrived(receiver, (*id).to_owned(), [*content; 32]);
        }
        ledger.reckon()
    }

    #[test]
    fn all_is_well() {
        let result = ledger(&[("a", 0, 1), ("b", 0, 2), ("c", 0, 3)], &["a", "b"], &[("ris-a", "a", 1), ("ris-b", "b", 1)]);
        assert!(result.good());
        assert_eq!((result.sent, result.answered, result.lost), (3, 2, 0));
        assert_eq!(result.received, BTreeMap::from([("ris-a", 1), ("ris-b", 1)]));
    }

    #[test]
    fn what_was_answered_and_never_arrived_is_lost() {
        let result = ledger(&[("a", 0, 1), ("b", 0, 2)], &["a", "b"], &[("ris-a", "a", 1)]);
        assert_eq!(result.lost, 1);
        assert!(!result.good());
    }

    #[test]
    fn changed_content_is_lost() {
        assert_eq!(ledger(&[("a", 0, 1)], &["a"], &[("ris-a", "a", 2)]).lost, 1);
    }

    #[test]
    fn a_second_arrival_is_a_duplicate_and_no_reordering() {
        let result = ledger(&[("a", 0, 1), ("b", 0, 2)], &["a", "b"], &[("x", "a", 1), ("x", "b", 1), ("y", "a", 1)]);
        assert_eq!((result.duplicated, result.reordered), (1, 0));
        assert!(result.good());
    }

    #[test]
    fn order_counts_within_a_lane_only() {
        let sent = [("a", 0, 1), ("b", 0, 2), ("c", 7, 1)];
        assert_eq!(ledger(&sent, &["a", "b"], &[("x", "b", 1), ("y", "a", 1)]).reordered, 1);
        assert_eq!(ledger(&sent, &["a", "c"], &[("x", "b", 1), ("y", "c", 1)]).reordered, 0);
    }

    #[test]
    fn visitors_are_counted_apart_and_nothing_sent_is_not_good() {
        let result = ledger(&[], &[], &[("x", "theirs", 1)]);
        assert_eq!(result.visitors, 1);
        assert!(!result.good());
    }
}
