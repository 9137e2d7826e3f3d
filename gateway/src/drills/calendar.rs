//! When scheduled drills are due. A small machine: what is known and the time in, what to do out.
//! Rules: what is due next is remembered in the spool, so that a gateway that was off knows what it missed; up to `GRACE` late it is made all the same.
//! Another schedule begins anew. Errors: none.

use everpost_client::config::schedule::Schedule;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

/// How late a drill may begin: a restart at its hour is no reason to miss it.
pub const GRACE: u64 = 10 * 60_000;

/// What is due, as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Due {
    /// The schedule it was reckoned from.
    pub schedule: String,
    /// Milliseconds since 1970.
    pub at: u64,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing yet.
    Wait,
    /// Remember this.
    Set(Due),
    /// Remember what is next, then make the drill that was due then.
    Run {
        /// When it was due.
        due: u64,
        /// What is next.
        next: Due,
    },
    /// Remember what is next; the one that was due then was missed.
    Missed {
        /// When it was due.
        due: u64,
        /// What is next.
        next: Due,
    },
}

/// What to do now.
#[must_use]
pub fn step(known: Option<&Due>, schedule: Schedule, now: u64, zone: &TimeZone) -> Step {
    let next = || Due { schedule: schedule.to_string(), at: schedule.next_after(now, zone) };
    match known {
        Some(due) if due.schedule == schedule.to_string() => match now.checked_sub(due.at) {
            None => {
                // A clock that went back far would let it wait for ages.
                let soon = next();
                if soon.at < due.at { Step::Set(soon) } else { Step::Wait }
            }
            Some(late) if late <= GRACE => Step::Run { due: due.at, next: next() },
            Some(_) => Step::Missed { due: due.at, next: next() },
        },
        _ => Step::Set(next()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;
    const DAY: u64 = 24 * HOUR;

    fn daily() -> Schedule {
        Schedule::parse("daily 03:00").unwrap()
    }

    fn look(known: Option<&Due>, now: u64) -> Step {
        step(known, daily(), now, &TimeZone::UTC)
    }

    #[test]
    fn it_is_set_waits_and_runs() {
        let Step::Set(due) = look(None, HOUR) else { panic!("nothing is known yet") };
        assert_eq!(due, Due { schedule: "daily 03:00".into(), at: 3 * HOUR });
        assert_eq!(look(Some(&due), 3 * HOUR - 1), Step::Wait);
        let next = Due { at: DAY + 3 * HOUR, ..due.clone() };
        assert_eq!(look(Some(&due), 3 * HOUR), Step::Run { due: 3 * HOUR, next: next.clone() });
        assert_eq!(look(Some(&due), 3 * HOUR + GRACE), Step::Run { due: 3 * HOUR, next: next.clone() });
        assert_eq!(look(Some(&next), 3 * HOUR + GRACE), Step::Wait, "once");
    }

    #[test]
    fn a_gateway_that_was_off_knows_what_it_missed() {
        let due = Due { schedule: "daily 03:00".into(), at: 3 * HOUR };
        let Step::Missed { due: missed, next } = look(Some(&due), 5 * DAY) else { panic!("days too late") };
        assert_eq!((missed, next.at), (3 * HOUR, 5 * DAY + 3 * HOUR));
    }

    #[test]
    fn another_schedule_or_a_clock_that_went_back_begins_anew() {
        let other = Due { schedule: "Sun 03:00".into(), at: 9 * DAY };
        assert!(matches!(look(Some(&other), HOUR), Step::Set(due) if due.at == 3 * HOUR));
        let far = Due { schedule: "daily 03:00".into(), at: 400 * DAY + 3 * HOUR };
        assert!(matches!(look(Some(&far), HOUR), Step::Set(due) if due.at == 3 * HOUR));
    }
}
