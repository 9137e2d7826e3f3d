//! Tells an endpoint that has become slow from one that is fast enough: how long it takes to answer, against what is usual there.
//!
//! ```text
//!            median of the last RECENT samples above the limit
//!   usual ------------------------------------------------------> slow
//!     ^                                                             |
//!     +-- median below three quarters of the limit, HELD after -----+
//!     +-- nothing seen for FORGOTTEN, or forgotten on purpose ------+
//! ```
//! Rules
//! - The limit is what the configuration says (`slow_after`), else what was learned: four times the usual median, twice the usual 95th percentile
//!   (content of two kinds has two speeds), and never below FLOOR. Before LEARNED samples nothing is known, so nothing is slow.
//! - One sample a second counts: a burst must not stand for a minute. A median does not see a few outliers, so one slow answer changes nothing.
//! - What is learned moves slowly, far more slowly while it is slow: what stays slow for hours is the new usual, what is slow now is not.
//!
//! Errors: none.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Samples of which the median speaks for now.
const RECENT: usize = 8;
/// Samples that say what is usual.
const USUAL: usize = 128;
/// Samples before anything is known to be usual.
const LEARNED: usize = 20;
/// Of this many samples one is learned, once `LEARNED` are; so the last quarter of an hour of steady traffic is usual.
const LEARN_ONE_OF: u64 = 8;
/// The same while it is slow.
const LEARN_ONE_OF_SLOW: u64 = 64;
/// Nothing faster is slow, whatever is usual: nobody would notice.
const FLOOR: Duration = Duration::from_millis(250);
/// Shortest time between two samples that count.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// Shortest time that slow lasts: what comes and goes is told once.
const HELD: Duration = Duration::from_secs(60);
/// Without a sample for so long, nothing is known of now.
const FORGOTTEN: Duration = Duration::from_secs(900);

/// The pace of one endpoint, in one kind of answers.
#[derive(Debug, Clone, Default)]
pub struct Pace {
    /// Microseconds, oldest first.
    usual: VecDeque<u32>,
    recent: VecDeque<u32>,
    seen: u64,
    sampled_at: Option<Instant>,
    slow: Option<Slow>,
}

/// It is slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slow {
    /// Since when.
    pub since: Instant,
    /// The median of its answers when that was found.
    pub takes: Duration,
    /// The limit then.
    pub limit: Duration,
    /// What was usual; `None`: the limit is configured.
    pub usual: Option<Duration>,
}

impl Pace {
    /// An answer took so long. `after`: the configured limit. Returns whether it became slow, or ceased to be.
    pub fn took(&mut self, took: Duration, after: Option<Duration>, now: Instant) -> bool {
        if self.sampled_at.is_some_and(|at| now.saturating_duration_since(at) < SAMPLE_EVERY) {
            return false;
        }
        self.sampled_at = Some(now);
        self.seen = self.seen.wrapping_add(1);
        let sample = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        keep(&mut self.recent, sample, RECENT);
        let changed = self.judge(after, now);
        let one_of = match (self.slow, self.usual.len() < LEARNED) {
            (Some(_), _) => LEARN_ONE_OF_SLOW,
            (None, true) => 1,
            (None, false) => LEARN_ONE_OF,
        };
        if self.seen.is_multiple_of(one_of) {
            keep(&mut self.usual, sample, USUAL);
        }
        changed
    }

    fn judge(&mut self, after: Option<Duration>, now: Instant) -> bool {
        let Some((limit, usual)) = self.limit(after) else { return self.end() };
        // While it is slow, a few slow answers that were learned must not excuse the rest.
        let limit = match (self.slow, usual) {
            (Some(slow), Some(usual)) => slow.limit.max(usual * 4),
            _ => limit,
        };
        if self.recent.len() < RECENT {
            return false;
        }
        let takes = quantile(&self.recent, 0.5);
        match self.slow {
            None if takes > limit => {
                self.slow = Some(Slow { since: now, takes, limit, usual });
                true
            }
            Some(slow) if takes < limit * 3 / 4 && now.saturating_duration_since(slow.since) >= HELD => self.end(),
            None | Some(_) => false,
        }
    }

    /// Above it an answer is slow; and the usual median, if that is where it comes from.
    fn limit(&self, after: Option<Duration>) -> Option<(Duration, Option<Duration>)> {
        if let Some(after) = after {
            return Some((after, None));
        }
        if self.usual.len() < LEARNED {
            return None;
        }
        let usual = quantile(&self.usual, 0.5);
        Some((FLOOR.max(usual * 4).max(quantile(&self.usual, 0.95) * 2), Some(usual)))
    }

    /// Time passed. Returns whether it ceased to be slow because nothing was seen for long.
    pub fn tick(&mut self, now: Instant) -> bool {
        let due = self.forgotten_at().is_some_and(|at| at <= now);
        due && self.forget()
    }

    /// When `tick` has something to do, if ever.
    #[must_use]
    pub fn forgotten_at(&self) -> Option<Instant> {
        self.slow.and(self.sampled_at).map(|at| at + FORGOTTEN)
    }

    /// Nothing is known of now; what is usual stays. Returns whether it ceased to be slow.
    pub fn forget(&mut self) -> bool {
        self.recent.clear();
        self.end()
    }

    fn end(&mut self) -> bool {
        self.slow.take().is_some()
    }

    /// Whether it is slow, and how.
    #[must_use]
    pub fn slow(&self) -> Option<Slow> {
        self.slow
    }
}

fn keep(ring: &mut VecDeque<u32>, sample: u32, most: usize) {
    if ring.len() >= most {
        ring.pop_front();
    }
    ring.push_back(sample);
}

fn quantile(ring: &VecDeque<u32>, share: f64) -> Duration {
    let mut sorted: Vec<u32> = ring.iter().copied().collect();
    sorted.sort_unstable();
    let at = (sorted.len().saturating_sub(1) as f64 * share) as usize;
    Duration::from_micros(sorted.get(at).copied().unwrap_or(0).into())
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a start of the hand-made clock")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Bench {
        pace: Pace,
        now: Instant,
        after: Option<Duration>,
        changes: Vec<bool>,
    }

    impl Bench {
        fn new(after: Option<u64>) -> Self {
            Self { pace: Pace::default(), now: Instant::now(), after: after.map(Duration::from_millis), changes: Vec::new() }
        }

        /// Answers a second apart.
        fn answers(&mut self, millis: impl IntoIterator<Item = u64>) -> bool {
            for took in millis {
                self.now += Duration::from_secs(1);
                if self.pace.took(Duration::from_millis(took), self.after, self.now) {
                    self.changes.push(self.pace.slow().is_some());
                }
            }
            self.pace.slow().is_some()
        }
    }

    fn steady(millis: u64, count: usize) -> impl Iterator<Item = u64> {
        std::iter::repeat_n(millis, count)
    }

    #[test]
    fn what_is_slow_is_learned_from_what_is_usual() {
        let mut b = Bench::new(None);
        assert!(!b.answers(steady(20, 60)));
        assert!(!b.answers(steady(2_000, 4)), "the median of eight does not see four");
        assert!(b.answers(steady(2_000, 1)));
        let slow = b.pace.slow().expect("slow");
        assert_eq!((slow.takes, slow.limit, slow.usual), (Duration::from_secs(2), FLOOR, Some(Duration::from_millis(20))));
        assert!(b.answers(steady(20, 59)), "told once for a while");
        assert!(!b.answers(steady(20, 2)));
        assert_eq!(b.changes, [true, false]);
    }

    #[test]
    fn a_configured_limit_needs_no_learning() {
        let mut b = Bench::new(Some(500));
        assert!(!b.answers(steady(600, 7)));
        assert!(b.answers(steady(600, 1)));
        assert!(b.answers(steady(450, 100)), "above three quarters of the limit");
        assert!(!b.answers(steady(300, 8)));
    }

    #[test]
    fn what_was_always_slow_is_usual() {
        let mut b = Bench::new(None);
        assert!(!b.answers(steady(3_000, 200)));
        assert!(!b.answers(steady(9_000, 8)));
        assert!(b.answers(steady(15_000, 8)));
    }

    #[test]
    fn content_of_two_kinds_is_no_reason() {
        let mut b = Bench::new(None);
        let mut random = fastrand::Rng::with_seed(7);
        let mixed = |random: &mut fastrand::Rng| if random.u8(..10) == 0 { 4_000 } else { 15 };
        let first: Vec<u64> = (0..100).map(|_| mixed(&mut random)).collect();
        b.answers(first);
        b.changes.clear();
        let rest: Vec<u64> = (0..5_000).map(|_| mixed(&mut random)).collect();
        b.answers(rest);
        assert_eq!(b.changes, Vec::<bool>::new());
    }

    #[test]
    fn a_burst_counts_as_one_sample() {
        let mut b = Bench::new(Some(500));
        for _ in 0..1_000 {
            b.pace.took(Duration::from_secs(9), b.after, b.now);
        }
        assert_eq!((b.pace.slow(), b.pace.recent.len()), (None, 1));
    }

    #[test]
    fn what_stays_slow_for_hours_is_the_new_usual() {
        let mut b = Bench::new(None);
        b.answers(steady(20, 200));
        assert!(b.answers(steady(2_000, 600)), "ten minutes are not usual");
        assert!(!b.answers(steady(2_000, 6 * 3_600)));
    }

    #[test]
    fn without_samples_nothing_is_known_of_now() {
        let mut b = Bench::new(Some(500));
        assert!(b.answers(steady(900, 8)));
        assert!(!b.pace.tick(b.now + FORGOTTEN - Duration::from_secs(1)));
        assert_eq!(b.pace.forgotten_at(), Some(b.now + FORGOTTEN));
        assert!(b.pace.tick(b.now + FORGOTTEN) && b.pace.slow().is_none());
        assert!(!b.answers(steady(900, 7)), "it starts anew");
    }

    proptest! {
        /// Whatever the answers: it does not flap faster than `HELD`, and steady answers are never slow.
        #[test]
        fn it_never_flaps(seed in any::<u64>(), after in proptest::option::of(1u64..5_000)) {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut b = Bench::new(after);
            let mut begun: Option<Instant> = None;
            for _ in 0..2_000 {
                let took = if random.bool() { random.u64(1..100) } else { random.u64(1..10_000) };
                let before = b.changes.len();
                b.answers([took]);
                if b.changes.len() > before {
                    if b.changes.last() == Some(&false) {
                        prop_assert!(begun.is_some_and(|at| b.now - at >= HELD));
                    }
                    begun = Some(b.now);
                }
            }
            let mut calm = Bench::new(None);
            let usual = random.u64(1..20_000);
            for _ in 0..500 {
                calm.answers([random.u64(usual..=usual * 3)]);
            }
            prop_assert_eq!(calm.changes, Vec::<bool>::new());
        }
    }
}
