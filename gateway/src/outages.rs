//! Outages as people see them: rows of `status` and of `everpost outages`, and their words.
//! Rules: times RFC 3339, durations in seconds; the field names are a contract with scripts and change only by addition. Errors: none.

use crate::status::time;
use everpost_client::delivery::outages::Outage;
use everpost_client::delivery::status::ObjectivesStatus;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// One outage.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OutageLine {
    /// Counts the outages of the destination, from 1.
    pub number: u64,
    /// The endpoint that was left.
    pub endpoint: String,
    /// Others that were left before it was over.
    pub also_left: Vec<String>,
    /// Why.
    pub reason: String,
    /// The first failure.
    pub started: String,
    /// From there until the endpoint was left.
    pub detected_seconds: f64,
    /// From the start until the first delivery by another endpoint (or by the same, back in service).
    pub delivered_seconds: Option<f64>,
    /// By which.
    pub delivered_by: Option<String>,
    /// From the start until the destination delivered again, or could have: what `rto` is about. In a running outage, the time so far.
    pub rto_actual_seconds: f64,
    /// `rto` then.
    pub rto_seconds: Option<f64>,
    /// Whether it was met.
    pub rto_met: Option<bool>,
    /// Messages that the endpoint had answered in the replay window and nobody else had; none: no replay window.
    pub replay_found: Option<u64>,
    /// Of these, delivered again.
    pub replayed: u64,
    /// Of these, refused.
    pub replay_refused: u64,
    /// Beside these: no longer in history.
    pub replay_gone: u64,
    /// Age of the oldest of them when the endpoint was left.
    pub replay_oldest_seconds: f64,
    /// How far back reaches what may be lost; none: nobody knows.
    pub rpo_actual_seconds: Option<f64>,
    /// `rpo` then.
    pub rpo_seconds: Option<f64>,
    /// Whether it was met.
    pub rpo_met: Option<bool>,
    /// When it was over.
    pub ended: Option<String>,
    /// How long it lasted, or has lasted so far.
    pub seconds: f64,
    /// How it ended.
    pub end: String,
    /// A drill made it.
    pub drill: bool,
}

/// `objectives` of a destination.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ObjectivesLine {
    /// `rto`.
    pub rto_seconds: Option<f64>,
    /// `rpo`.
    pub rpo_seconds: Option<f64>,
    /// Outages of the last 30 days, drills left out.
    pub outages: usize,
    /// Of these, the longest time until delivery went on.
    pub worst_rto_seconds: Option<f64>,
    /// The farthest that something reaches back that may be lost.
    pub worst_rpo_seconds: Option<f64>,
    /// Those in which an objective was missed.
    pub missed: usize,
}

fn seconds(millis: u64) -> f64 {
    millis as f64 / 1_000.0
}

/// Seconds for people.
#[must_use]
pub fn span(seconds: f64) -> String {
    match seconds {
        0.0..0.001 => "0 s".to_owned(),
        0.001..1.0 => format!("{:.0} ms", seconds * 1_000.0),
        1.0..120.0 => format!("{} s", (seconds * 10.0).round() / 10.0),
        _ => crate::status::age(seconds as u64),
    }
}

impl OutageLine {
    /// `elapsed`: milliseconds since the start, of one that runs.
    #[must_use]
    pub fn new(outage: &Outage, elapsed: u64) -> Self {
        let replay = outage.replay.clone().unwrap_or_default();
        Self {
            number: outage.number,
            endpoint: outage.endpoint.to_string(),
            also_left: outage.also_left.iter().map(ToString::to_string).collect(),
            reason: outage.reason.clone(),
            started: time(outage.started),
            detected_seconds: seconds(outage.detected),
            delivered_seconds: outage.delivered.as_ref().map(|d| seconds(d.after)),
            delivered_by: outage.delivered.as_ref().map(|d| d.endpoint.to_string()),
            rto_actual_seconds: seconds(outage.rto_actual(elapsed)),
            rto_seconds: outage.rto.map(seconds),
            rto_met: outage.rto_met(elapsed),
            replay_found: outage.replay.as_ref().map(|r| r.found),
            replayed: replay.delivered,
            replay_refused: replay.refused,
            replay_gone: replay.gone,
            replay_oldest_seconds: seconds(replay.oldest_age),
            rpo_actual_seconds: outage.rpo_actual().map(seconds),
            rpo_seconds: outage.rpo.map(seconds),
            rpo_met: outage.rpo_met(),
            ended: outage.ended.map(|after| time(outage.started.saturating_add(after))),
            seconds: seconds(outage.ended.unwrap_or(elapsed)),
            end: outage.end.clone(),
            drill: outage.drill,
        }
    }

    /// While it runs: since when, why, and whether delivery goes on.
    #[must_use]
    pub fn told(&self) -> String {
        let mut text = if self.drill { "outage made by a drill".to_owned() } else { "OUTAGE".to_owned() };
        let _ = write!(text, " for {}: {} was left {} after its first failure", span(self.seconds), self.endpoint, span(self.detected_seconds));
        for other in &self.also_left {
            let _ = write!(text, ", then {other}");
        }
        let _ = write!(text, " ({})", self.reason);
        self.measured(&mut text);
        text
    }

    /// When it is over: all of it.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text = format!("outage of {} is over after {}: {}", self.endpoint, span(self.seconds), self.end);
        self.measured(&mut text);
        text
    }

    fn measured(&self, text: &mut String) {
        if let (Some(after), Some(by)) = (self.delivered_seconds, &self.delivered_by) {
            let _ = write!(text, "; first delivery by {by} after {}", span(after));
        }
        if let Some(rto) = self.rto_seconds {
            let met = if self.rto_met == Some(true) { "met" } else { "MISSED" };
            let _ = write!(text, "; rto {} {met} with {}", span(rto), span(self.rto_actual_seconds));
        }
        if let Some(found) = self.replay_found {
            let _ = write!(text, "; {} of {found} delivered again, the oldest {} old", self.replayed, span(self.replay_oldest_seconds));
            if self.replay_gone > 0 {
                let _ = write!(text, ", {} more are gone from history", self.replay_gone);
            }
        }
        match (self.rpo_seconds, self.rpo_actual_seconds, self.rpo_met) {
            (Some(rpo), Some(actual), Some(true)) => drop(write!(text, "; rpo {} met with {}", span(rpo), span(actual))),
            (Some(rpo), Some(actual), _) => drop(write!(text, "; rpo {} MISSED with {}", span(rpo), span(actual))),
            (Some(_), None, _) if self.ended.is_some() => text.push_str("; rpo is not known: nothing was delivered again"),
            _ => {}
        }
    }

    /// Why the status is degraded by a running outage.
    #[must_use]
    pub fn missed(&self) -> Option<String> {
        let rto = self.rto_seconds.filter(|_| self.rto_met == Some(false))?;
        Some(format!("the outage of {} has missed the rto of {}", self.endpoint, span(rto)))
    }
}

impl From<ObjectivesStatus> for ObjectivesLine {
    fn from(seen: ObjectivesStatus) -> Self {
        let ObjectivesStatus { rto, rpo, outage: _, outages, worst_rto, worst_rpo, missed } = seen;
        Self {
            rto_seconds: rto.map(seconds),
            rpo_seconds: rpo.map(seconds),
            outages,
            worst_rto_seconds: worst_rto.map(seconds),
            worst_rpo_seconds: worst_rpo.map(seconds),
            missed,
        }
    }
}

impl ObjectivesLine {
    /// The worst of the last 30 days; `None`: there was nothing.
    #[must_use]
    pub fn told(&self) -> Option<String> {
        let worst = |what: &str, worst: Option<f64>, limit: Option<f64>| {
            worst.map(|worst| format!(", worst {what} {}{}", span(worst), limit.map(|l| format!(" of {}", span(l))).unwrap_or_default()))
        };
        let counted = match self.outages {
            0 => return None,
            1 => "30 days: 1 outage".to_owned(),
            n => format!("30 days: {n} outages"),
        };
        let missed = if self.missed > 0 { format!(", objectives missed in {}", self.missed) } else { String::new() };
        let rto = worst("rto", self.worst_rto_seconds, self.rto_seconds).unwrap_or_default();
        Some(counted + &rto + &worst("rpo", self.worst_rpo_seconds, self.rpo_seconds).unwrap_or_default() + &missed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use everpost_client::delivery::outages::{First, Redelivery};

    fn outage() -> Outage {
        Outage {
            number: 3,
            endpoint: "primary".into(),
            reason: "refused".into(),
            detected: 40,
            taken_over: Some(40),
            delivered: Some(First { endpoint: "secondary".into(), after: 52 }),
            restored: Some(52),
            replay: Some(Redelivery { found: 4, gone: 0, delivered: 4, refused: 0, oldest_age: 8_000, over: true }),
            rto: Some(30_000),
            rpo: Some(60_000),
            ..Outage::default()
        }
    }

    #[test]
    fn what_is_told_while_it_runs_and_when_it_is_over() {
        let running = OutageLine::new(&outage(), 130_000);
        let told = "OUTAGE for 2m10s: primary was left 40 ms after its first failure (refused); first delivery by secondary after 52 ms; \
                    rto 30 s met with 52 ms; 4 of 4 delivered again, the oldest 8 s old; rpo 60 s met with 0 s";
        assert_eq!((running.told().as_str(), running.missed()), (told, None));
        let over = OutageLine::new(&Outage { ended: Some(95_500), end: "primary is in service again".into(), replay: None, ..outage() }, 0);
        let told = "outage of primary is over after 95.5 s: primary is in service again; first delivery by secondary after 52 ms; rto 30 s met with \
                    52 ms; rpo is not known: nothing was delivered again";
        assert_eq!(over.summary(), told);
    }

    #[test]
    fn an_objective_that_is_missed_is_told_at_once() {
        let stalled = Outage { taken_over: None, delivered: None, restored: None, replay: None, ..outage() };
        assert_eq!(OutageLine::new(&stalled, 30_000).missed(), None);
        let late = OutageLine::new(&stalled, 30_001);
        assert_eq!(late.missed().as_deref(), Some("the outage of primary has missed the rto of 30 s"));
        assert!(late.told().contains("rto 30 s MISSED with 30 s"), "{}", late.told());
    }

    #[test]
    fn the_worst_is_told_if_there_was_anything() {
        assert_eq!(ObjectivesLine::default().told(), None);
        let line = ObjectivesLine { rto_seconds: Some(30.0), outages: 2, worst_rto_seconds: Some(41.26), missed: 1, ..ObjectivesLine::default() };
        assert_eq!(line.told().as_deref(), Some("30 days: 2 outages, worst rto 41.3 s of 30 s, objectives missed in 1"));
    }
}
