//! What a host program hears of its messages and endpoints: delivery reports and notices, in a queue that does not grow.
//!
//! Rules: outcomes of messages may fill the whole queue, notices (attempts, endpoints, conditions) only half of it, so that a bad network never displaces
//! an outcome. What finds no room is counted, and the count is a report of its own at the place of the gap. No patient data, no peer's free text.
//! Errors: none.

use crate::delivery::Verdict;
use crate::event::{Delivered, Event};
use crate::ids::EnvelopeId;
use std::collections::VecDeque;
use std::sync::Arc;

/// What a report tells. The numbers are those of the C interface and never change meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ReportKind {
    /// A message was delivered.
    Delivered = 1,
    /// The same, with something to look at: a warning status, or a duplicate that the receiver knew.
    DeliveredWithWarning = 2,
    /// It was sent, and the message itself asked for no answer.
    Unconfirmed = 3,
    /// It was refused for good; it is kept until a person decides.
    DeadLetter = 4,
    /// It is held until a person decides.
    Held = 5,
    /// An attempt failed; the message waits, or is tried elsewhere.
    AttemptFailed = 6,
    /// Traffic goes to another endpoint, or to none.
    Failover = 7,
    /// What is known of an endpoint's health changed.
    Health = 8,
    /// A condition that people should look at began.
    AlarmRaised = 9,
    /// It ended.
    AlarmEnded = 10,
    /// Something that people should look at once.
    Incident = 11,
    /// The spool takes messages again, or takes none for now.
    Intake = 12,
    /// Reports were lost because nobody read them; ask for the outcomes by id.
    Lost = 13,
    /// Still waiting. Only as an answer to `Client::outcome`.
    Waiting = 14,
    /// A person ended it. Only as an answer to `Client::outcome`.
    Discarded = 15,
}

impl ReportKind {
    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ReportKind::Delivered => "delivered",
            ReportKind::DeliveredWithWarning => "delivered with warning",
            ReportKind::Unconfirmed => "delivered, unconfirmed",
            ReportKind::DeadLetter => "dead letter",
            ReportKind::Held => "held",
            ReportKind::AttemptFailed => "attempt failed",
            ReportKind::Failover => "failover",
            ReportKind::Health => "health",
            ReportKind::AlarmRaised => "alarm",
            ReportKind::AlarmEnded => "alarm ended",
            ReportKind::Incident => "incident",
            ReportKind::Intake => "intake",
            ReportKind::Lost => "reports lost",
            ReportKind::Waiting => "waiting",
            ReportKind::Discarded => "discarded",
        }
    }

    /// Whether it says what became of a message: custody ended, or waits for a person.
    #[must_use]
    pub fn is_outcome(self) -> bool {
        matches!(self, ReportKind::Delivered | ReportKind::DeliveredWithWarning | ReportKind::Unconfirmed | ReportKind::DeadLetter | ReportKind::Held)
    }

    /// How much it matters: 1 an error, 2 a warning, 3 news, 4 detail.
    #[must_use]
    pub fn level(self) -> u32 {
        match self {
            ReportKind::DeadLetter | ReportKind::Lost => 1,
            ReportKind::Held | ReportKind::AlarmRaised | ReportKind::Incident | ReportKind::DeliveredWithWarning => 2,
            ReportKind::Failover | ReportKind::Health | ReportKind::AlarmEnded | ReportKind::Intake | ReportKind::AttemptFailed => 3,
            ReportKind::Delivered | ReportKind::Unconfirmed | ReportKind::Waiting | ReportKind::Discarded => 4,
        }
    }
}

/// One report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What it tells.
    pub kind: ReportKind,
    /// The envelope it concerns: the id that `submit` gave. 0: none. With `Lost`: how many reports were lost.
    pub id: u64,
    /// The destination's name; empty: none.
    pub destination: Arc<str>,
    /// The endpoint's name; empty: none.
    pub endpoint: Arc<str>,
    /// For people.
    pub text: String,
}

impl Report {
    /// What an event of the engine means to the host; `None`: nothing.
    #[must_use]
    pub fn read(event: &Event) -> Option<Report> {
        let none: Arc<str> = Arc::from("");
        let report = |kind, id: u64, destination: &Arc<str>, endpoint: &Arc<str>, text: String| {
            Some(Report { kind, id, destination: Arc::clone(destination), endpoint: Arc::clone(endpoint), text })
        };
        match event {
            Event::Delivered { destination, endpoint, envelope, outcome, took } => {
                let kind = match outcome {
                    Delivered::Ok => ReportKind::Delivered,
                    Delivered::Warning => ReportKind::DeliveredWithWarning,
                    Delivered::Unconfirmed => ReportKind::Unconfirmed,
                };
                report(kind, envelope.0, destination, endpoint, format!("{} by {endpoint} in {} ms", kind.name(), took.as_millis()))
            }
            Event::DeadLetter { destination, envelope } => {
                report(ReportKind::DeadLetter, envelope.0, destination, &none, "refused for good".to_owned())
            }
            Event::Held { destination, envelope } => {
                report(ReportKind::Held, envelope.0, destination, &none, "held until a person decides".to_owned())
            }
            Event::Attempt { destination, endpoint, envelope, phase, verdict, .. } => match verdict {
                Verdict::Retry | Verdict::Elsewhere | Verdict::Ambiguous => {
                    let text = format!("ended in phase {phase}: {}", verdict.name());
                    report(ReportKind::AttemptFailed, envelope.0, destination, endpoint, text)
                }
                _ => None,
            },
            Event::Failover { destination, from, to, reason } => {
                let name = |e: &Option<Arc<str>>| e.as_deref().unwrap_or("nowhere").to_owned();
                let text = format!("from {} to {}: {reason}", name(from), name(to));
                report(ReportKind::Failover, 0, destination, to.as_ref().unwrap_or(&none), text)
            }
            Event::Health { destination, endpoint, state, reason, .. } => {
                report(ReportKind::Health, 0, destination, endpoint, format!("{state}: {reason}"))
            }
            Event::Alarm { subject, what, raised } => {
                let kind = if *raised { ReportKind::AlarmRaised } else { ReportKind::AlarmEnded };
                report(kind, 0, &none, &none, format!("{subject}: {what}"))
            }
            Event::Incident { subject, what } => report(ReportKind::Incident, 0, &none, &none, format!("{subject}: {what}")),
            Event::Intake { open, reason } => {
                let text = if *open { "messages are taken again".to_owned() } else { format!("no messages are taken: {reason}") };
                report(ReportKind::Intake, 0, &none, &none, text)
            }
            Event::Damage { place, what } => report(ReportKind::Incident, 0, &none, &none, format!("{place}: {what}")),
            _ => None,
        }
    }

    fn lost(count: u64) -> Report {
        let text = format!("{count} reports were lost because nobody read them; outcomes can be asked for by id");
        Report { kind: ReportKind::Lost, id: count, destination: Arc::from(""), endpoint: Arc::from(""), text }
    }

    /// The envelope's number.
    #[must_use]
    pub fn envelope(&self) -> Option<EnvelopeId> {
        (self.kind != ReportKind::Lost && self.id != 0).then_some(EnvelopeId(self.id))
    }
}

/// The queue.
#[derive(Debug)]
pub struct Reports {
    queue: VecDeque<Report>,
    max: usize,
    lost: u64,
}

impl Reports {
    /// Keeps at most so many.
    #[must_use]
    pub fn new(max: usize) -> Reports {
        Reports { queue: VecDeque::new(), max: max.max(2), lost: 0 }
    }

    /// One more; false: there was no room.
    pub fn push(&mut self, report: Report) -> bool {
        let max = if report.kind.is_outcome() { self.max } else { self.max / 2 };
        // The report of a loss needs a place too.
        if self.queue.len() + usize::from(self.lost > 0) >= max {
            self.lost += 1;
            return false;
        }
        self.tell_lost();
        self.queue.push_back(report);
        true
    }

    /// The oldest.
    pub fn pop(&mut self) -> Option<Report> {
        if self.queue.is_empty() {
            self.tell_lost();
        }
        self.queue.pop_front()
    }

    /// Nothing to read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.lost == 0
    }

    fn tell_lost(&mut self) {
        if self.lost > 0 {
            self.queue.push_back(Report::lost(std::mem::take(&mut self.lost)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(kind: ReportKind, id: u64) -> Report {
        Report { kind, id, destination: Arc::from("d"), endpoint: Arc::from(""), text: String::new() }
    }

    #[test]
    fn a_gap_is_told_at_its_place() {
        let mut reports = Reports::new(4);
        for id in 1..=9 {
            reports.push(report(ReportKind::Delivered, id));
        }
        assert_eq!(reports.pop().map(|r| r.id), Some(1));
        assert_eq!(reports.pop().map(|r| r.id), Some(2));
        assert!(reports.push(report(ReportKind::Delivered, 10)));
        let rest: Vec<(ReportKind, u64)> = std::iter::from_fn(|| reports.pop()).map(|r| (r.kind, r.id)).collect();
        assert_eq!(rest, [(ReportKind::Delivered, 3), (ReportKind::Delivered, 4), (ReportKind::Lost, 5), (ReportKind::Delivered, 10)]);
        assert!(reports.is_empty());
    }

    #[test]
    fn notices_leave_room_for_outcomes() {
        let mut reports = Reports::new(8);
        for _ in 0..100 {
            reports.push(report(ReportKind::AttemptFailed, 1));
        }
        for id in 1..=3 {
            assert!(reports.push(report(ReportKind::Delivered, id)));
        }
        let kinds: Vec<ReportKind> = std::iter::from_fn(|| reports.pop()).map(|r| r.kind).collect();
        assert_eq!(kinds.iter().filter(|k| **k == ReportKind::Delivered).count(), 3);
        assert_eq!(kinds.iter().filter(|k| **k == ReportKind::Lost).count(), 1);
    }

    #[test]
    fn what_becomes_of_a_message_is_told_and_retries_are_notices() {
        let (destination, endpoint): (Arc<str>, Arc<str>) = (Arc::from("ris"), Arc::from("a"));
        let took = std::time::Duration::from_millis(7);
        let delivered = Event::Delivered { destination: destination.clone(), endpoint, envelope: EnvelopeId(4), outcome: Delivered::Warning, took };
        let told = Report::read(&delivered);
        assert!(told.is_some_and(|r| r.kind == ReportKind::DeliveredWithWarning && r.id == 4 && r.kind.is_outcome()));
        let dead = Report::read(&Event::DeadLetter { destination, envelope: EnvelopeId(5) });
        assert!(dead.is_some_and(|r| r.kind == ReportKind::DeadLetter && r.envelope() == Some(EnvelopeId(5))));
        assert_eq!(Report::read(&Event::Certificate { use_: "x".into(), expires_in: took }), None);
    }
}
