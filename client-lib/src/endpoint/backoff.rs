//! How long to wait before the next try: exponential with full jitter, so that gateways that lost the same peer do not come back in step.
//! Rules: pure; the random numbers come from the caller's seed. There is no last try.
//! Errors: none.

use std::time::Duration;

/// The two ends of the curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Longest wait before the second try.
    pub first: Duration,
    /// Longest wait ever.
    pub max: Duration,
}

impl Backoff {
    /// The wait after failure number `step` (0 for the first): even between nothing and `first * 2^step`, at most `max`.
    pub fn delay(&self, step: u32, random: &mut fastrand::Rng) -> Duration {
        self.ceiling(step).mul_f64(random.f64())
    }

    /// The longest wait after failure number `step`.
    #[must_use]
    pub fn ceiling(&self, step: u32) -> Duration {
        let factor = 1u32.checked_shl(step).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(60) };

    #[test]
    fn it_doubles_up_to_its_end_and_never_overflows() {
        let ceilings: Vec<u64> = (0..8).map(|step| DEFAULT.ceiling(step).as_secs()).collect();
        assert_eq!(ceilings, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(DEFAULT.ceiling(u32::MAX), DEFAULT.max);
    }

    #[test]
    fn jitter_fills_the_whole_range_and_repeats_with_its_seed() {
        let draw = |seed| {
            let mut random = fastrand::Rng::with_seed(seed);
            (0..200).map(|_| DEFAULT.delay(6, &mut random)).collect::<Vec<_>>()
        };
        let waits = draw(7);
        assert!(waits.iter().all(|w| *w <= DEFAULT.max));
        assert!(waits.iter().any(|w| *w < Duration::from_secs(6)) && waits.iter().any(|w| *w > Duration::from_secs(54)));
        assert_eq!(waits, draw(7));
        assert_ne!(waits, draw(8));
    }
}
