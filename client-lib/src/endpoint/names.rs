//! One name: what DNS said of it last, how old that is, and when to ask again.
//!
//! ```text
//!             ask at once                  answered
//!  unknown ------------------> asking -----------------> known: asked again before its time is over,
//!     ^                          |  ^                      |    or at once when a connect failed there
//!     |                   failed |  | backoff, 1 s to 30 s |
//!     |                          v  |                      |
//!     +---- max_stale over ---- failing <------------------+   (what was known stays in use)
//! ```
//! Rules
//! - An answer counts for its TTL, at least 1 s and at most `max_ttl`; the next look-up begins a little before its end, so that nobody waits for it.
//! - A look-up that fails, however it fails (time-out, SERVFAIL, NXDOMAIN, no record), takes nothing away: the last good answer stays until it is
//!   `max_stale` old, or its TTL is over if that is longer.
//! - Where a part of a look-up failed (one address family), that part of the last answer stays, as long.
//! - `suspect`: a connect failed there, so ask again at once, but at most once a second. `want`: somebody waits and nothing is known: the same.
//! - One look-up at a time. A failure is told when it repeats, or at once if nothing is known; then nothing more until the name is back.
//!
//! Errors: none; not to know is a state, with the text of the last failure.

use super::backoff::Backoff;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Shortest time an answer counts, and between two look-ups that were asked for.
pub const TTL_MIN: Duration = Duration::from_secs(1);

/// Wait between look-ups that fail.
const AGAIN: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(30) };

/// Failures in a row before people are told, where something is known: one alone is chance.
const TOLD_AFTER: u32 = 2;

/// How answers are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// The longest an answer counts, whatever its TTL.
    pub max_ttl: Duration,
    /// How old the last good answer may become while look-ups fail.
    pub max_stale: Duration,
}

/// Something changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<T> {
    /// Another answer is in use. Empty: nothing is known (any more).
    Answer {
        /// Before.
        from: Vec<T>,
        /// Now.
        to: Vec<T>,
    },
    /// Look-ups fail, with the text of the last failure.
    Fails(String),
    /// They succeed again.
    Back,
}

/// What people see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Time since the last good answer.
    pub age: Option<Duration>,
    /// How long that answer counts, by its TTL.
    pub ttl: Duration,
    /// The last failure, if look-ups fail now.
    pub error: Option<String>,
}

/// The machine. `T`: an address, or a record of a service.
#[derive(Debug)]
pub struct Name<T> {
    terms: Terms,
    records: Vec<T>,
    answered_at: Option<Instant>,
    ttl: Duration,
    /// A part of the answer is older than `answered_at`: since then.
    partly_since: Option<Instant>,
    failures: u32,
    error: String,
    told: bool,
    /// The look-up under way began then.
    asking: Option<Instant>,
    /// The look-up under way began after the last suspicion.
    asks_for_suspect: bool,
    last_asked: Option<Instant>,
    ask_at: Instant,
    changes: VecDeque<Change<T>>,
    random: fastrand::Rng,
}

impl<T: Clone + Ord> Name<T> {
    /// Nothing is known; the first look-up is due at once.
    #[must_use]
    pub fn new(terms: Terms, seed: u64, now: Instant) -> Self {
        Self {
            terms,
            records: Vec::new(),
            answered_at: None,
            ttl: TTL_MIN,
            partly_since: None,
            failures: 0,
            error: String::new(),
            told: false,
            asking: None,
            asks_for_suspect: false,
            last_asked: None,
            ask_at: now,
            changes: VecDeque::new(),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// Takes other terms, and asks at once: they may come with other servers.
    pub fn set_terms(&mut self, terms: Terms, now: Instant) {
        self.terms = terms;
        self.hurry(now);
    }

    /// Whether a look-up is due. If so it is under way from now on, and the caller reports with `answered` or `failed`.
    pub fn ask(&mut self, now: Instant) -> bool {
        if self.asking.is_some() || now < self.ask_at {
            return false;
        }
        self.asking = Some(now);
        self.last_asked = Some(now);
        true
    }

    /// The look-up found `records`, not empty. Records of the last answer for which `keeps` holds stay beside them: their part of it failed.
    pub fn answered(&mut self, mut records: Vec<T>, ttl: Duration, keeps: impl Fn(&T) -> bool, now: Instant) {
        self.asking = None;
        self.asks_for_suspect = false;
        let partly_since = self.partly_since.unwrap_or(now);
        let mut kept = Vec::new();
        if now.saturating_duration_since(partly_since) < self.terms.max_stale.max(self.ttl) {
            kept.extend(self.records.iter().filter(|r| keeps(r) && !records.contains(r)).cloned());
        }
        self.partly_since = (!kept.is_empty()).then_some(partly_since);
        records.append(&mut kept);
        self.ttl = ttl.clamp(TTL_MIN, self.terms.max_ttl.max(TTL_MIN));
        self.answered_at = Some(now);
        self.failures = 0;
        self.error.clear();
        // A little before its end, and not all names of a gateway at the same moment.
        let (lead, spread) = ((self.ttl / 10).min(TTL_MIN), (self.ttl / 20).min(TTL_MIN));
        self.ask_at = now + self.ttl - lead - spread.mul_f64(self.random.f64());
        self.put(records);
        if std::mem::take(&mut self.told) {
            self.changes.push_back(Change::Back);
        }
    }

    /// The look-up failed.
    pub fn failed(&mut self, error: &str, now: Instant) {
        self.asking = None;
        self.asks_for_suspect = false;
        error.clone_into(&mut self.error);
        let ceiling = AGAIN.ceiling(self.failures);
        self.ask_at = now + ceiling.mul_f64(0.5 + 0.5 * self.random.f64()).max(TTL_MIN / 2);
        self.failures = self.failures.saturating_add(1);
        self.on_timeout(now);
        self.tell_failure();
    }

    /// A connect failed there: the answer may be out of date.
    pub fn suspect(&mut self, now: Instant) {
        self.asks_for_suspect = true;
        self.hurry(now);
    }

    /// Somebody needs the name and nothing is known. False: it was asked for just now, in vain; the last failure is all there is to say.
    pub fn want(&mut self, now: Instant) -> bool {
        self.hurry(now);
        self.asking.is_some() || self.ask_at <= now
    }

    fn hurry(&mut self, now: Instant) {
        let earliest = self.last_asked.map_or(now, |at| now.max(at + TTL_MIN));
        self.ask_at = self.ask_at.min(earliest);
    }

    /// Whether a look-up that a suspicion asked for is under way or about to begin: its answer is worth a moment's wait.
    #[must_use]
    pub fn is_being_checked(&self, now: Instant) -> bool {
        self.asks_for_suspect && (self.asking.is_some() || self.ask_at <= now)
    }

    /// Time passed: an answer that is too old goes.
    pub fn on_timeout(&mut self, now: Instant) {
        if self.stale_at().is_some_and(|at| now >= at) && !self.records.is_empty() {
            self.put(Vec::new());
            self.tell_failure();
        }
    }

    fn tell_failure(&mut self) {
        if !self.told && !self.error.is_empty() && (self.failures >= TOLD_AFTER || self.records.is_empty()) {
            self.told = true;
            self.changes.push_back(Change::Fails(self.error.clone()));
        }
    }

    /// When to call `ask` and `on_timeout` next, if ever.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let stale_at = self.stale_at().filter(|_| !self.records.is_empty());
        Some(self.ask_at).filter(|_| self.asking.is_none()).into_iter().chain(stale_at).min()
    }

    fn stale_at(&self) -> Option<Instant> {
        self.answered_at.map(|at| at + self.ttl.max(self.terms.max_stale))
    }

    /// What it stands for; empty: nothing is known.
    #[must_use]
    pub fn records(&self) -> &[T] {
        &self.records
    }

    /// The text of the last failure, if look-ups fail now.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        (!self.error.is_empty()).then_some(&*self.error)
    }

    /// Whether people were told that it fails.
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.told
    }

    /// What people see.
    #[must_use]
    pub fn seen(&self, now: Instant) -> Seen {
        let age = self.answered_at.map(|at| now.saturating_duration_since(at));
        Seen { age, ttl: self.ttl, error: self.error().map(str::to_owned) }
    }

    /// The next change to tell, oldest first.
    pub fn next_change(&mut self) -> Option<Change<T>> {
        self.changes.pop_front()
    }

    /// Takes records into use. Servers rotate their answers: another order is no other answer, but the order is taken over.
    fn put(&mut self, records: Vec<T>) {
        let sorted = |records: &[T]| {
            let mut sorted = records.to_vec();
            sorted.sort();
            sorted
        };
        let from = std::mem::replace(&mut self.records, records);
        let (before, after) = (sorted(&from), sorted(&self.records));
        if before != after {
            self.changes.push_back(Change::Answer { from: before, to: after });
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
#[path = "names_tests.rs"]
mod tests;
