//! The time a sender has for what it has begun, an object or a block: it must come, but not at once.
//! Rules: a minute at first, and a second more for each `INTAKE_BYTES_PER_SECOND_MIN` that came, saved up to `INTAKE_PAUSE_MAX`. So a slow line may be
//! slow, a sender may pause, and one that sends a byte now and then does not keep its place for ever. Time in which this process stood still (frozen,
//! suspended, held up by its disk) is not the sender's.
//! Errors: none.

use everpost_client::limits::{INTAKE_BYTES_PER_SECOND_MIN, INTAKE_GRACE, INTAKE_PAUSE_MAX, LAST_LOOK};
use std::future::Future;
use tokio::time::error::Elapsed;
use tokio::time::{Duration, Instant, timeout};

/// How long what was begun may take from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    until: Instant,
}

impl Allowance {
    /// Something begins.
    #[must_use]
    pub fn begin(now: Instant) -> Self {
        Self { until: now + INTAKE_GRACE }
    }

    /// When it has come too slowly.
    #[must_use]
    pub fn until(&self) -> Instant {
        self.until
    }

    /// So many bytes of it came.
    pub fn received(&mut self, bytes: usize, now: Instant) {
        let earned = Duration::from_millis((bytes as u64).saturating_mul(1000) / INTAKE_BYTES_PER_SECOND_MIN);
        self.until = (self.until + earned).min(now + INTAKE_PAUSE_MAX);
    }

    /// A timer that was due at `due` ran out at `now`: what is between them, this process stood still.
    pub fn forgive(&mut self, due: Instant, now: Instant) {
        let late = now.saturating_duration_since(due);
        if late >= LAST_LOOK {
            self.until += late;
        }
    }
}

/// Waits for `work`, which depends on a peer, as long as `limit`; then gives it one more look.
/// # Errors
/// It took longer.
pub async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, Elapsed> {
    let mut work = std::pin::pin!(work);
    match timeout(limit, work.as_mut()).await {
        Ok(done) => Ok(done),
        Err(_) => timeout(LAST_LOOK, work).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Sends `bytes` each `every`; when it is given up, if within a day.
    fn given_up(bytes: usize, every: Duration) -> Option<Duration> {
        let start = Instant::now();
        let (mut allowance, mut now) = (Allowance::begin(start), start);
        allowance.received(bytes, now);
        while now - start < SECOND * 86_400 {
            now += every;
            if now >= allowance.until() {
                return Some(allowance.until() - start);
            }
            allowance.received(bytes, now);
        }
        None
    }

    #[test]
    fn a_trickle_ends_and_a_slow_line_does_not() {
        let trickle = given_up(1, SECOND).unwrap_or_default();
        assert!(trickle >= INTAKE_GRACE && trickle < INTAKE_GRACE + SECOND, "{trickle:?}");
        let rate = usize::try_from(INTAKE_BYTES_PER_SECOND_MIN).unwrap_or_default();
        assert!(given_up(rate * 9 / 10, SECOND).is_some());
        assert_eq!(given_up(rate, SECOND), None);
        assert_eq!(given_up(64 << 20, INTAKE_PAUSE_MAX - SECOND), None, "a sender may pause");
        assert_eq!(given_up(64 << 20, INTAKE_PAUSE_MAX + SECOND), Some(INTAKE_PAUSE_MAX), "but not for ever");
    }

    #[test]
    fn what_came_fast_is_not_saved_for_ever() {
        let start = Instant::now();
        let mut allowance = Allowance::begin(start);
        allowance.received(10 << 30, start + SECOND);
        assert_eq!(allowance.until(), start + SECOND + INTAKE_PAUSE_MAX);
    }

    #[test]
    fn time_we_stood_still_is_not_the_senders() {
        let start = Instant::now();
        let mut allowance = Allowance::begin(start);
        allowance.forgive(start + SECOND, start + SECOND * 3_601);
        assert_eq!(allowance.until(), start + INTAKE_GRACE + SECOND * 3_600);
        let before = allowance;
        allowance.forgive(start, start + LAST_LOOK / 2);
        assert_eq!(allowance, before, "timers are never exact");
    }
}
