//! `failback_window`: the time of day in which a destination may return by itself.
//! Rules: local civil time of a zone; the first minute is in, the last one out; a window whose end stands before its begin goes over midnight. On the
//! day on which clocks change, the window opens and closes by what the clock on the wall shows.
//! Errors: `parse` gives `None` for what is no window.

use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use std::time::Duration;

/// See the head of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    from: Time,
    to: Time,
}

impl Window {
    /// `HH:MM-HH:MM`, the two not the same.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (from, to) = text.split_once('-')?;
        let (from, to) = (time_of_day(from)?, time_of_day(to)?);
        (from != to).then_some(Self { from, to })
    }

    /// Whether it is open at this time (milliseconds since 1970).
    #[must_use]
    pub fn is_open(self, wall: u64, zone: &TimeZone) -> bool {
        let now = at(wall).to_zoned(zone.clone()).time();
        if self.from < self.to { self.from <= now && now < self.to } else { self.from <= now || now < self.to }
    }

    /// How long it is until it opens; nothing if it is open. On days on which clocks change it may say up to that change more.
    #[must_use]
    pub fn opens_in(self, wall: u64, zone: &TimeZone) -> Duration {
        if self.is_open(wall, zone) {
            return Duration::ZERO;
        }
        let now = at(wall).to_zoned(zone.clone());
        let opening = [0, 1].into_iter().filter_map(|days| {
            let day = now.date().checked_add(days.days()).ok()?;
            let opens = day.to_datetime(self.from).to_zoned(zone.clone()).ok()?;
            u64::try_from(opens.timestamp().as_millisecond()).ok()?.checked_sub(wall).filter(|wait| *wait > 0)
        });
        Duration::from_millis(opening.min().unwrap_or(60_000))
    }
}

impl std::fmt::Display for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Window { from, to } = self;
        write!(f, "{:02}:{:02}-{:02}:{:02}", from.hour(), from.minute(), to.hour(), to.minute())
    }
}

/// `HH:MM`.
#[must_use]
pub fn time_of_day(text: &str) -> Option<Time> {
    let (hours, minutes) = text.split_once(':')?;
    let part = |digits: &str| if digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse::<i8>().ok() } else { None };
    Time::new(part(hours)?, part(minutes)?, 0, 0).ok()
}

/// What a clock can show is within jiff's range; beyond it counts as 1970.
pub(super) fn at(wall: u64) -> Timestamp {
    i64::try_from(wall).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn wall(text: &str, zone: &TimeZone) -> u64 {
        let local: jiff::civil::DateTime = text.parse().unwrap();
        u64::try_from(local.to_zoned(zone.clone()).unwrap().timestamp().as_millisecond()).unwrap()
    }

    /// Central Europe by its rule, so that the test needs no time zone data.
    fn europe() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    #[test]
    fn a_window_may_go_over_midnight() {
        let night = Window::parse("22:00-05:00").unwrap();
        let day = Window::parse("09:30-17:00").unwrap();
        for (time, in_night, in_day) in [
            ("2026-01-10T21:59:59", false, false),
            ("2026-01-10T22:00:00", true, false),
            ("2026-01-11T00:00:00", true, false),
            ("2026-01-11T04:59:59", true, false),
            ("2026-01-11T05:00:00", false, false),
            ("2026-01-11T09:30:00", false, true),
            ("2026-01-11T17:00:00", false, false),
        ] {
            for zone in [TimeZone::UTC, europe()] {
                let wall = wall(time, &zone);
                assert_eq!((night.is_open(wall, &zone), day.is_open(wall, &zone)), (in_night, in_day), "{time}");
            }
        }
    }

    #[test]
    fn it_says_when_it_opens() {
        let (night, zone) = (Window::parse("22:00-05:00").unwrap(), europe());
        assert_eq!(night.opens_in(wall("2026-01-10T21:00:00", &zone), &zone), Duration::from_secs(3600));
        assert_eq!(night.opens_in(wall("2026-01-10T05:00:00", &zone), &zone), Duration::from_secs(17 * 3600));
        assert_eq!(night.opens_in(wall("2026-01-10T23:00:00", &zone), &zone), Duration::ZERO);
        let day = Window::parse("09:30-17:00").unwrap();
        assert_eq!(day.opens_in(wall("2026-01-10T17:30:00", &zone), &zone), Duration::from_secs(16 * 3600));
    }

    #[test]
    fn the_clock_on_the_wall_counts_on_days_on_which_it_changes() {
        let zone = europe();
        // 2026-03-29: 02:00 becomes 03:00. 2026-10-25: 03:00 becomes 02:00.
        let window = Window::parse("02:30-04:00").unwrap();
        let before = wall("2026-03-29T01:59:59", &zone);
        assert!(!window.is_open(before, &zone) && window.is_open(before + 1000, &zone), "02:30 is not shown that day, 03:00 is within");
        let first = wall("2026-10-25T02:29:59", &zone);
        assert!(window.is_open(first + 1000, &zone));
        let twice = first + 3_600_000;
        assert!(!window.is_open(twice, &zone), "the second 02:29:59");
        let night = Window::parse("22:00-05:00").unwrap();
        let hours = |from: &str| {
            let start = wall(from, &zone);
            (0..24).filter(|h| night.is_open(start + h * 3_600_000, &zone)).count()
        };
        assert_eq!((hours("2026-03-28T12:00:00"), hours("2026-10-24T12:00:00"), hours("2026-05-01T12:00:00")), (6, 8, 7));
    }

    #[test]
    fn what_is_no_window_is_refused() {
        for bad in ["", "22:00", "22:00-24:00", "22:00-22:00", "2:00-05:00", "22:60-05:00", "22:00 - 05:00", "a-b", "22:00-05:00-06:00"] {
            assert_eq!(Window::parse(bad), None, "{bad}");
        }
        assert_eq!(Window::parse("22:00-05:30").unwrap().to_string(), "22:00-05:30");
    }
}
