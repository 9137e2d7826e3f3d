//! A failover drill of one destination: what it does, when it stops, what it measures. The machine behind `everpost drill`.
//!
//! ```text
//!             first answer at the other endpoint, or takeover        stay is over
//!   Leaving ------------------------------------------------> There ---------------> Returning ---------> Over
//!      |                                                        |                      ^     back and answered,
//!      +---- a stop condition, a person, too late --------------+----------------------+     or too late
//! ```
//! Rules
//! - It says what should be (`wants_fault`, `wants_shift`), again and again, and what is to be done once (`next_order`). The caller makes it so; a fault
//!   that nobody asks for any more ends by itself.
//! - With a fault, or with real traffic, the destination moves as ever: by its own detection, or by a shift. Without, only test messages go to the other
//!   endpoint, and nothing has to come back.
//! - A stop condition (failed attempts at the other endpoint, age of the oldest waiting envelope, the other endpoint down, a person) ends the stay at once.
//! - It ends only when traffic is back where it was, or after `return_within`: then people must look, and nothing of the drill stands any more.
//!
//! Errors: none; what went wrong is in `Findings::issues`.

use super::engine::Moment;
use crate::config::Fault;
use crate::spool::UnixMillis;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time between two test messages.
const PACE: Duration = Duration::from_secs(1);

/// Attempts at the other endpoint before their share of failures counts.
const ATTEMPTS_MIN: u64 = 5;

/// Texts of issues that are kept.
const ISSUES_MAX: usize = 32;

/// What is sent to see an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Synthetic {
    /// Nothing: only real traffic is measured.
    None,
    /// A test message, or the synthetic object: as traffic, so that its failures count.
    Message,
    /// C-ECHO: an answer, and no traffic.
    Echo,
}

/// What is drilled.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The endpoint that is active.
    pub from: Arc<str>,
    /// The other one.
    pub to: Arc<str>,
    /// What is simulated at `from`.
    pub fault: Option<Fault>,
    /// Real traffic is shifted (without a fault).
    pub real: bool,
    /// What is sent to see an answer.
    pub synthetic: Synthetic,
    /// How long it stays after the first answer.
    pub stay: Duration,
    /// The other endpoint must have taken over within this time.
    pub within: Duration,
    /// Traffic must be back within this time.
    pub return_within: Duration,
    /// Percent of failed attempts above which it stops.
    pub max_errors: u16,
    /// Age of the oldest waiting envelope at which it stops.
    pub max_age: Duration,
    /// Nothing may overtake, whatever its key: then the order of deliveries is checked.
    pub strict: bool,
    /// `rto`.
    pub rto: Option<Duration>,
    /// `rpo`.
    pub rpo: Option<Duration>,
}

impl Plan {
    /// Real traffic moves.
    #[must_use]
    pub fn moves_traffic(&self) -> bool {
        self.real || self.fault.is_some()
    }
}

/// How things stand.
#[derive(Debug, Clone, Default)]
pub struct Sight {
    /// Endpoints that get new traffic.
    pub active: Vec<String>,
    /// The other endpoint is fit for traffic.
    pub to_good: bool,
    /// The drill's shift stands, suspended or not.
    pub shifted: bool,
    /// Age of the oldest envelope that has still to be delivered.
    pub oldest: Duration,
    /// What is being replayed still waits.
    pub replaying: bool,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// An attempt with an envelope, or with a test message, ended.
    Attempt {
        /// Where.
        endpoint: Arc<str>,
        /// Answered positively.
        good: bool,
        /// Sent whole and not answered.
        ambiguous: bool,
        /// A test message.
        synthetic: bool,
    },
    /// An envelope was delivered, and not as a replay.
    Delivered {
        /// Its number.
        envelope: u64,
    },
    /// A replay was answered.
    Replayed {
        /// Negatively.
        refused: bool,
    },
    /// The test message under way has ended, whatever came of it.
    SyntheticEnded,
    /// The endpoint was left: so long after its first failure.
    Left {
        /// Milliseconds.
        detected: u64,
    },
}

/// Something to be done once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Send a test message wherever traffic goes, again elsewhere if it fails; tell each attempt, and `SyntheticEnded`.
    SendAsTraffic,
    /// Send one to this endpoint.
    SendTo(Arc<str>),
    /// Return to the first good endpoint now.
    Failback,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Everything as it should be.
    Passed,
    /// An objective was missed, or something went wrong.
    Failed,
    /// A stop condition held, or a person stopped it.
    Stopped,
    /// The gateway stopped or crashed meanwhile.
    BrokenOff,
    /// It was due by its schedule and did not begin.
    Missed,
}

impl Outcome {
    /// Every one.
    pub const ALL: [Outcome; 5] = [Outcome::Passed, Outcome::Failed, Outcome::Stopped, Outcome::BrokenOff, Outcome::Missed];

    /// As in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Passed => "passed",
            Outcome::Failed => "failed",
            Outcome::Stopped => "stopped",
            Outcome::BrokenOff => "broken-off",
            Outcome::Missed => "missed",
        }
    }
}

/// What was measured. Times in milliseconds since the begin.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Findings {
    /// When the endpoint was left after its first failure (with a fault): how long detection took.
    pub detection: Option<u64>,
    /// When the other endpoint was active.
    pub taken_over: Option<u64>,
    /// The first answer at the other endpoint.
    pub first_answer: Option<u64>,
    /// It was a test message's.
    pub first_synthetic: bool,
    /// When it turned back.
    pub turned: Option<u64>,
    /// When traffic was back.
    pub back: Option<u64>,
    /// When it was over.
    pub over: Option<u64>,
    /// Attempts at the other endpoint, test messages among them.
    pub attempts: u64,
    /// Of these, without a positive answer.
    pub failed: u64,
    /// Envelopes delivered in all, replays left out.
    pub delivered: u64,
    /// Test messages answered.
    pub synthetic: u64,
    /// Attempts that ended sent but not answered: each may have arrived and be a duplicate.
    pub ambiguous: u64,
    /// Messages delivered again.
    pub replayed: u64,
    /// Messages that were to be delivered again and were refused.
    pub refused: u64,
    /// Deliveries out of order; `None`: not checked here.
    pub out_of_order: Option<u64>,
    /// Messages that the lost side had answered in the window and the other had not, when it began.
    pub exposed: Option<u64>,
    /// Age of the oldest of them.
    pub exposed_age: Option<u64>,
    /// Some of them have not been delivered again.
    pub left_over: bool,
    /// What went wrong.
    pub issues: Vec<String>,
}

impl Findings {
    /// What `rto` is about.
    #[must_use]
    pub fn rto_actual(&self) -> Option<u64> {
        self.first_answer.or(self.taken_over)
    }

    /// What `rpo` is about: how far back reaches what was lost in the end; `None`: nobody knows.
    #[must_use]
    pub fn rpo_actual(&self) -> Option<u64> {
        self.exposed?;
        Some(if self.left_over { self.exposed_age.unwrap_or(0) } else { 0 })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Leaving,
    There { since: Instant },
    Returning { since: Instant, answered: bool },
    Over(Outcome),
}

/// See the head of the file.
#[derive(Debug, Clone)]
pub struct Drill {
    plan: Plan,
    stage: Stage,
    begun: Instant,
    findings: Findings,
    orders: VecDeque<Order>,
    send_at: Instant,
    sending: bool,
    failback_at: Instant,
    last_delivered: u64,
    stopped: bool,
    failed: bool,
}

impl Drill {
    /// Begins. `exposed`: how many messages the lost side had answered in the window, and when the oldest was accepted; `None`: there is no window.
    #[must_use]
    pub fn begin(plan: Plan, exposed: Option<(u64, Option<UnixMillis>)>, now: Moment) -> Self {
        let findings = Findings {
            out_of_order: plan.strict.then_some(0),
            exposed: exposed.map(|(count, _)| count),
            exposed_age: exposed.and_then(|(_, oldest)| oldest).map(|oldest| now.wall.saturating_sub(oldest)),
            ..Findings::default()
        };
        let (stage, orders) = (Stage::Leaving, VecDeque::new());
        let (send_at, failback_at) = (now.at, now.at);
        let (sending, stopped, failed) = (false, false, false);
        Self { plan, stage, begun: now.at, findings, orders, send_at, sending, failback_at, last_delivered: 0, stopped, failed }
    }

    // ---- what should be ----

    /// The fault stands.
    #[must_use]
    pub fn wants_fault(&self) -> Option<Fault> {
        self.plan.fault.filter(|_| self.is_away())
    }

    /// The shift stands.
    #[must_use]
    pub fn wants_shift(&self) -> bool {
        self.plan.real && self.plan.fault.is_none() && self.is_away()
    }

    fn is_away(&self) -> bool {
        matches!(self.stage, Stage::Leaving | Stage::There { .. })
    }

    /// Something to be done once.
    pub fn next_order(&mut self) -> Option<Order> {
        self.orders.pop_front()
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        if let Stage::Over(outcome) = self.stage { Some(outcome) } else { None }
    }

    /// What was measured so far.
    #[must_use]
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// What it is doing, for people.
    #[must_use]
    pub fn told(&self) -> String {
        let Plan { from, to, fault, .. } = &self.plan;
        match (self.stage, fault) {
            (Stage::Leaving, Some(fault)) => format!("{from} is let fail ({}); waiting for {to} to take over", fault.name()),
            (Stage::Leaving, None) => format!("waiting for the first answer by {to}"),
            (Stage::There { .. }, _) => match self.findings.rto_actual().unwrap_or(0) {
                after @ ..1_000 => format!("{to} answers, first after {after} ms"),
                after => format!("{to} answers, first after {:.1} s", after as f64 / 1_000.0),
            },
            (Stage::Returning { .. }, _) => format!("returning to {from}"),
            (Stage::Over(outcome), _) => format!("over: {}", outcome.name()),
        }
    }

    // ---- what happens ----

    /// Something happened.
    pub fn heard(&mut self, heard: &Heard, now: Moment) {
        let after = self.after(now);
        match heard {
            Heard::Attempt { endpoint, good, ambiguous, synthetic } => {
                self.findings.ambiguous += u64::from(*ambiguous && !synthetic);
                self.findings.synthetic += u64::from(*synthetic && *good);
                if *endpoint == self.plan.to && self.is_away() {
                    self.findings.attempts += 1;
                    self.findings.failed += u64::from(!good);
                    if *good && self.findings.first_answer.is_none() {
                        self.findings.first_answer = Some(after);
                        self.findings.first_synthetic = *synthetic;
                        if self.plan.moves_traffic() {
                            // Known before the next look.
                            self.findings.taken_over.get_or_insert(after);
                        }
                    }
                    if *good && self.stage == Stage::Leaving {
                        self.stage = Stage::There { since: now.at };
                    }
                }
                if let Stage::Returning { answered, .. } = &mut self.stage {
                    *answered |= *good && *endpoint == self.plan.from;
                }
            }
            Heard::Delivered { envelope } => {
                self.findings.delivered += 1;
                if let Some(count) = self.findings.out_of_order.as_mut().filter(|_| *envelope < self.last_delivered) {
                    *count += 1;
                }
                self.last_delivered = self.last_delivered.max(*envelope);
            }
            Heard::Replayed { refused } => {
                self.findings.replayed += u64::from(!refused);
                self.findings.refused += u64::from(*refused);
            }
            Heard::SyntheticEnded => self.sending = false,
            Heard::Left { detected } => self.findings.detection = self.findings.detection.or(Some(*detected)),
        }
    }

    /// A person, or the end of the process, stops it.
    pub fn stop(&mut self, why: &str, now: Moment) {
        if self.is_away() {
            self.stopped = true;
            self.issue(why.to_owned());
            self.turn(now);
        }
    }

    /// Time passed, and so things stand. Call some times a second.
    pub fn look(&mut self, sight: &Sight, now: Moment) {
        self.mind_takeover(sight, now);
        if self.is_away()
            && let Some(why) = self.must_stop(sight, now)
        {
            self.stop(&why, now);
        }
        match self.stage {
            Stage::Leaving if now.at.saturating_duration_since(self.begun) >= self.plan.within => {
                self.failed = true;
                let (to, within) = (self.plan.to.clone(), self.plan.within.as_secs());
                self.issue(format!("{to} did not answer within {within} s"));
                self.turn(now);
            }
            // Without test messages nothing may come at all: the takeover is what is measured.
            Stage::Leaving if self.plan.synthetic == Synthetic::None && self.findings.taken_over.is_some() => {
                self.stage = Stage::There { since: now.at }
            }
            Stage::There { since } if now.at.saturating_duration_since(since) >= self.plan.stay && !sight.replaying => self.turn(now),
            Stage::Returning { since, answered } => self.mind_return(sight, since, answered, now),
            Stage::Leaving | Stage::There { .. } | Stage::Over(_) => {}
        }
        self.send(now);
    }

    fn mind_takeover(&mut self, sight: &Sight, now: Moment) {
        let there = sight.active.first().is_some_and(|active| **active == *self.plan.to);
        if self.is_away() && self.plan.moves_traffic() && there && self.findings.taken_over.is_none() {
            self.findings.taken_over = Some(self.after(now));
        }
    }

    fn must_stop(&self, sight: &Sight, now: Moment) -> Option<String> {
        let Findings { attempts, failed, .. } = self.findings;
        let Plan { to, max_errors, max_age, .. } = &self.plan;
        if attempts >= ATTEMPTS_MIN && failed * 100 > attempts * u64::from(*max_errors) {
            return Some(format!("stopped: {failed} of {attempts} attempts at {to} failed, more than {max_errors} percent"));
        }
        if sight.oldest >= *max_age {
            return Some(format!("stopped: the oldest envelope has waited for {} s", sight.oldest.as_secs()));
        }
        if !sight.to_good {
            return Some(format!("stopped: {to} is not healthy any more"));
        }
        let settled = now.at.saturating_duration_since(self.begun) >= PACE;
        if self.wants_shift() && settled && !sight.shifted {
            return Some("stopped: somebody ended the shift".to_owned());
        }
        None
    }

    fn turn(&mut self, now: Moment) {
        self.findings.turned = Some(self.after(now));
        if self.plan.moves_traffic() {
            self.stage = Stage::Returning { since: now.at, answered: false };
            self.failback_at = now.at;
        } else {
            self.end(now);
        }
    }

    fn mind_return(&mut self, sight: &Sight, since: Instant, answered: bool, now: Moment) {
        let home = sight.active.first().is_some_and(|active| **active == *self.plan.from);
        // An answer there shows that it is back; where nothing is sent, that it stayed for a moment.
        let waited = now.at.saturating_duration_since(since);
        if home && (answered || self.plan.synthetic != Synthetic::Message && waited >= PACE) {
            self.findings.back = Some(self.after(now));
            return self.end(now);
        }
        if waited >= self.plan.return_within {
            self.failed = true;
            let from = self.plan.from.clone();
            self.issue(format!(
                "traffic was not back at {from} within {} s; nothing of the drill stands any more",
                self.plan.return_within.as_secs()
            ));
            return self.end(now);
        }
        if !home && now.at >= self.failback_at {
            self.failback_at = now.at + PACE;
            self.orders.push_back(Order::Failback);
        }
    }

    fn send(&mut self, now: Moment) {
        if self.sending || now.at < self.send_at || self.plan.synthetic == Synthetic::None || self.outcome().is_some() {
            return;
        }
        self.send_at = now.at + PACE;
        self.sending = true;
        self.orders.push_back(match self.stage {
            Stage::Returning { .. } if self.plan.synthetic == Synthetic::Message => Order::SendAsTraffic,
            Stage::Returning { .. } => Order::SendTo(self.plan.from.clone()),
            _ if self.plan.moves_traffic() && self.plan.synthetic == Synthetic::Message => Order::SendAsTraffic,
            // C-ECHO is no traffic: it shows an answer of the endpoint to which traffic has moved.
            _ if self.plan.moves_traffic() && self.findings.taken_over.is_none() => {
                self.sending = false;
                self.send_at = now.at;
                return;
            }
            _ => Order::SendTo(self.plan.to.clone()),
        });
    }

    fn end(&mut self, now: Moment) {
        self.findings.over = Some(self.after(now));
        let (rto, rpo) = (self.plan.rto.map(millis), self.plan.rpo.map(millis));
        // With real traffic away, what the lost side may have lost is delivered again, or is not.
        let wanted = self.findings.exposed.unwrap_or(0);
        self.findings.left_over = self.plan.fault.is_some() && self.findings.replayed < wanted;
        if self.findings.rto_actual().is_none() {
            self.failed = true;
        }
        if self.findings.left_over {
            let (left, from) = (wanted - self.findings.replayed, self.plan.from.clone());
            self.issue(format!(
                "{left} of {wanted} messages that {from} had answered in the window were not delivered again; `replay_window` says how far back"
            ));
        }
        for (objective, actual, target) in [("rto", self.findings.rto_actual(), rto), ("rpo", self.findings.rpo_actual(), rpo)] {
            if let (Some(actual), Some(target)) = (actual, target)
                && actual > target
            {
                self.failed = true;
                self.issue(format!("{objective} of {target} ms was missed with {actual} ms"));
            }
        }
        if let Some(count @ 1..) = self.findings.out_of_order {
            self.failed = true;
            self.issue(format!("{count} deliveries came out of order"));
        }
        self.stage = Stage::Over(match (self.stopped, self.failed) {
            (true, _) => Outcome::Stopped,
            (false, true) => Outcome::Failed,
            (false, false) => Outcome::Passed,
        });
    }

    fn issue(&mut self, what: String) {
        if self.findings.issues.len() < ISSUES_MAX {
            self.findings.issues.push(what);
        }
    }

    fn after(&self, now: Moment) -> u64 {
        millis(now.at.saturating_duration_since(self.begun))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]
mod tests;
