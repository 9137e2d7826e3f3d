//! `drill.schedule`: a day of the week and a time of day at which something happens by itself.
//! Rules: local civil time of a zone. A time that a day does not have, because clocks go forward, is taken as much later; one that it has twice counts
//! the first time. Errors: `parse` gives `None` for what is no schedule.

use super::window::{at, time_of_day};
use jiff::ToSpan;
use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;

const DAYS: [(&str, Weekday); 7] = [
    ("Mon", Weekday::Monday),
    ("Tue", Weekday::Tuesday),
    ("Wed", Weekday::Wednesday),
    ("Thu", Weekday::Thursday),
    ("Fri", Weekday::Friday),
    ("Sat", Weekday::Saturday),
    ("Sun", Weekday::Sunday),
];

/// See the head of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// None: daily.
    day: Option<Weekday>,
    time: Time,
}

impl Schedule {
    /// `Sun 03:00` or `daily 03:00`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (day, time) = text.split_once(' ')?;
        let time = time_of_day(time)?;
        let day = if day == "daily" { None } else { Some(DAYS.iter().find(|(name, _)| *name == day)?.1) };
        Some(Self { day, time })
    }

    /// The next time after this one (milliseconds since 1970).
    #[must_use]
    pub fn next_after(self, wall: u64, zone: &TimeZone) -> u64 {
        let today = at(wall).to_zoned(zone.clone()).date();
        let next = (0..=8).find_map(|days| {
            let date = today.checked_add(days.days()).ok()?;
            if self.day.is_some_and(|day| day != date.weekday()) {
                return None;
            }
            let begins = date.to_datetime(self.time).to_zoned(zone.clone()).ok()?;
            u64::try_from(begins.timestamp().as_millisecond()).ok().filter(|begins| *begins > wall)
        });
        // Beyond what a calendar can say: never.
        next.unwrap_or(u64::MAX)
    }
}

impl std::fmt::Display for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let day = self.day.and_then(|day| DAYS.iter().find(|(_, known)| *known == day)).map_or("daily", |(name, _)| name);
        write!(f, "{day} {:02}:{:02}", self.time.hour(), self.time.minute())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn wall(text: &str, zone: &TimeZone) -> u64 {
        let local: jiff::civil::DateTime = text.parse().unwrap();
        u64::try_from(local.to_zoned(zone.clone()).unwrap().timestamp().as_millisecond()).unwrap()
    }

    fn shown(wall: u64, zone: &TimeZone) -> String {
        at(wall).to_zoned(zone.clone()).strftime("%a %F %H:%M").to_string()
    }

    fn next(schedule: &str, after: &str, zone: &TimeZone) -> String {
        shown(Schedule::parse(schedule).unwrap().next_after(wall(after, zone), zone), zone)
    }

    fn europe() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    #[test]
    fn the_next_time_is_after_now() {
        let zone = europe();
        assert_eq!(next("Sun 03:00", "2026-01-07T12:00:00", &zone), "Sun 2026-01-11 03:00");
        assert_eq!(next("Sun 03:00", "2026-01-11T02:59:59", &zone), "Sun 2026-01-11 03:00");
        assert_eq!(next("Sun 03:00", "2026-01-11T03:00:00", &zone), "Sun 2026-01-18 03:00");
        assert_eq!(next("daily 22:15", "2026-01-31T22:15:00", &zone), "Sun 2026-02-01 22:15");
        assert_eq!(next("daily 22:15", "2026-01-31T07:00:00", &zone), "Sat 2026-01-31 22:15");
    }

    #[test]
    fn clocks_that_change_neither_skip_nor_repeat_it() {
        let zone = europe();
        // 2026-03-29: 02:00 becomes 03:00. 2026-10-25: 03:00 becomes 02:00.
        assert_eq!(next("Sun 02:30", "2026-03-28T12:00:00", &zone), "Sun 2026-03-29 03:30", "02:30 is not shown that day");
        assert_eq!(next("Sun 02:30", "2026-03-29T03:30:00", &zone), "Sun 2026-04-05 02:30");
        let first = Schedule::parse("Sun 02:30").unwrap().next_after(wall("2026-10-24T12:00:00", &zone), &zone);
        assert_eq!((shown(first, &zone).as_str(), first), ("Sun 2026-10-25 02:30", wall("2026-10-25T02:30:00", &zone)));
        let second = Schedule::parse("Sun 02:30").unwrap().next_after(first, &zone);
        assert_eq!(shown(second, &zone), "Sun 2026-11-01 02:30", "not again an hour later");
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for bad in ["", "Sun", "03:00", "sun 03:00", "Sunday 03:00", "Sun 3:00", "Sun 24:00", "Sun  03:00", "hourly 03:00"] {
            assert_eq!(Schedule::parse(bad), None, "{bad}");
        }
        for good in ["Sun 03:00", "Wed 23:59", "daily 00:00"] {
            assert_eq!(Schedule::parse(good).unwrap().to_string(), good);
        }
    }
}
