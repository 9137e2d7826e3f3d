//! `everpost status --nagios`: one line and an exit status by the convention of Nagios plugins (also Icinga, Naemon, Checkmk).
//! Rules: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN; performance figures after `|`; the line holds no patient data, as the status does not.
//! Errors: none; a gateway that cannot be reached is CRITICAL, a question that cannot be asked UNKNOWN.

use super::{EXIT_UNREACHABLE, Failure};
use crate::status::{DestinationLine, Report, Standing, age};
use std::fmt::Write as _;

/// Reasons that are told; the rest are counted.
const REASONS_TOLD: usize = 3;

/// How bad, by the convention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Level {
    Ok = 0,
    Warning = 1,
    Critical = 2,
    Unknown = 3,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Level::Ok => "OK",
            Level::Warning => "WARNING",
            Level::Critical => "CRITICAL",
            Level::Unknown => "UNKNOWN",
        }
    }
}

/// Ages of the oldest waiting envelope, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Ages {
    /// From here on it is a warning.
    pub warning: u64,
    /// From here on it is critical.
    pub critical: u64,
}

/// The line and the exit status for a report.
#[must_use]
pub fn told(report: &Report, ages: Ages) -> (String, u8) {
    let mut level = match report.state {
        Standing::Ok => Level::Ok,
        Standing::Degraded => Level::Warning,
        Standing::Refusing => Level::Critical,
    };
    let mut reasons = Vec::new();
    for d in &report.destinations {
        let oldest = d.oldest_waiting_seconds;
        let bad = if oldest >= ages.critical {
            Level::Critical
        } else if oldest >= ages.warning || d.paused {
            Level::Warning
        } else {
            Level::Ok
        };
        if oldest >= ages.warning {
            reasons.push(format!("destination {}: the oldest waits for {}", d.name, age(oldest)));
        }
        if d.paused {
            reasons.push(format!("destination {}: paused", d.name));
        }
        level = level.max(bad).max(if stalled(d) { Level::Critical } else { Level::Ok });
    }
    reasons.extend(report.reasons.iter().cloned());
    let oldest = report.destinations.iter().map(|d| d.oldest_waiting_seconds).max().unwrap_or(0);
    let text = if reasons.is_empty() {
        format!("{} destinations deliver, the oldest waits for {}", report.destinations.len(), age(oldest))
    } else {
        let more = reasons.len().saturating_sub(REASONS_TOLD);
        reasons.truncate(REASONS_TOLD);
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        format!("{}{more}", reasons.join("; "))
    };
    (format!("EVERPOST {} - {} | {}", level.word(), plain(&text), figures(report, ages)), level as u8)
}

/// No endpoint takes anything: everything waits.
fn stalled(d: &DestinationLine) -> bool {
    !d.endpoints.is_empty() && !d.endpoints.iter().any(|e| e.is_up() && e.admin == "enabled")
}

/// The line and the exit status when there is no report.
#[must_use]
pub fn failed(failure: &Failure) -> (String, u8) {
    let level = if failure.code == EXIT_UNREACHABLE { Level::Critical } else { Level::Unknown };
    (format!("EVERPOST {} - {}", level.word(), plain(&failure.what)), level as u8)
}

/// One line, without the mark that begins the figures.
fn plain(text: &str) -> String {
    text.replace('|', "/").replace(['\n', '\r'], " ")
}

fn figures(report: &Report, ages: Ages) -> String {
    let mut out = format!("spool={}B;;;0 free={}B;;;0", report.spool.bytes, report.spool.free_bytes);
    for d in &report.destinations {
        let (name, waiting) = (&d.name, d.ready + d.in_flight + d.deferred);
        let _ = write!(out, " {name}_oldest={}s;{};{};0", d.oldest_waiting_seconds, ages.warning, ages.critical);
        let _ = write!(out, " {name}_waiting={waiting};;;0 {name}_held={};0;;0 {name}_dead={};0;;0", d.held, d.dead_letter);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::EndpointLine;

    const AGES: Ages = Ages { warning: 300, critical: 900 };

    fn report(change: impl Fn(&mut DestinationLine)) -> Report {
        let endpoint = EndpointLine { name: "primary".into(), health: "up".into(), admin: "enabled".into(), ..EndpointLine::default() };
        let mut d = DestinationLine { name: "pacs".into(), active: vec!["primary".into()], endpoints: vec![endpoint], ..DestinationLine::default() };
        d.policy = "failover".into();
        change(&mut d);
        Report { name: "gw".into(), destinations: vec![d], ..Report::default() }.judged(None, vec![])
    }

    #[test]
    fn each_state_has_its_status() {
        type Change = fn(&mut DestinationLine);
        let cases: [(Change, u8, &str); 7] = [
            (|_| {}, 0, "EVERPOST OK - 1 destinations deliver"),
            (|d| d.oldest_waiting_seconds = 299, 0, "waits for 4m59s"),
            (|d| d.oldest_waiting_seconds = 300, 1, "EVERPOST WARNING - destination pacs: the oldest waits for 5m00s"),
            (|d| d.oldest_waiting_seconds = 900, 2, "EVERPOST CRITICAL - "),
            (|d| d.paused = true, 1, "pacs: paused"),
            (|d| d.dead_letter = 1, 1, "1 dead letter "),
            (|d| d.endpoints[0].health = "down".into(), 2, "no endpoint is eligible"),
        ];
        for (change, status, text) in cases {
            let (line, code) = told(&report(change), AGES);
            assert!(code == status && line.contains(text), "{code} {line}");
        }
        let refusing = report(|_| {}).judged(Some("a|b\nc".into()), vec![]);
        let (line, code) = told(&refusing, AGES);
        assert!(code == 2 && line.contains("a/b c") && line.lines().count() == 1 && line.matches('|').count() == 1, "{line}");
    }

    #[test]
    fn figures_follow_the_convention() {
        let (line, _) = told(&report(|d| (d.ready, d.deferred, d.oldest_waiting_seconds) = (3, 4, 7)), AGES);
        let figures = line.split_once(" | ").map(|(_, figures)| figures).unwrap_or_default();
        assert!(figures.split(' ').all(|f| f.split_once('=').is_some_and(|(_, v)| v.starts_with(|c: char| c.is_ascii_digit()))), "{figures}");
        assert!(figures.contains("pacs_oldest=7s;300;900;0") && figures.contains("pacs_waiting=7;;;0"), "{figures}");
    }

    #[test]
    fn nobody_there_is_critical_and_a_wrong_question_unknown() {
        assert_eq!(failed(&Failure::new(EXIT_UNREACHABLE, "no")), ("EVERPOST CRITICAL - no".to_owned(), 2));
        assert_eq!(failed(&Failure::new(super::super::EXIT_USAGE, "no")), ("EVERPOST UNKNOWN - no".to_owned(), 3));
    }

    #[test]
    fn many_reasons_are_counted() {
        let mut many = report(|_| {});
        many.reasons = (0..9).map(|n| format!("reason {n}")).collect();
        assert!(told(&many, AGES).0.contains("reason 2; and 6 more"));
    }
}
