//! Observing: what ended attempts and probes mean for the endpoints. Rules: the head of `failover`. Errors: none.

use super::{Change, Choice, End, Errand, Failover, LOST_IN_A_ROW, Next, REFUSALS_IN_A_ROW};
use crate::delivery::Phase;
use crate::endpoint::health::Proof;
use crate::endpoint::{Admin, Blame};
use crate::ids::EndpointId;
use std::time::Instant;

impl Failover {
    /// An attempt ended.
    pub fn ended(&mut self, end: End<'_>, now: Instant) -> Next {
        let choice = self.release(end.choice, now);
        let Some(place) = self.places.get(choice.endpoint.index()) else { return Next::Reroute };
        let end = End { choice, ..end };
        let stale_news = place.left_at.is_some_and(|left| end.started < left) && !matches!(choice.errand, Errand::Scout { .. });
        match end.blame {
            Blame::None => {
                self.scout_back(end.choice);
                Next::Verdict
            }
            Blame::Answered => {
                if !stale_news || self.stall.is_some() {
                    self.answered(end.choice, now);
                }
                Next::Verdict
            }
            Blame::Silent => {
                self.silent(end.choice, stale_news, now);
                Next::Verdict
            }
            Blame::Refused => {
                if !stale_news {
                    self.refused(end, now);
                }
                Next::Verdict
            }
            Blame::NotSent { stale: true, .. } if !end.choice.fresh => Next::Again,
            Blame::NotSent { .. } | Blame::Lost | Blame::Timeout if stale_news => Next::Reroute,
            Blame::NotSent { phase, .. } => self.failed(end, phase, now),
            Blame::Lost | Blame::Timeout => self.failed(end, Phase::Answer, now),
        }
    }

    /// Takes a choice back. A canary or scout whose reason is gone meanwhile is ordinary traffic.
    pub(super) fn release(&mut self, mut choice: Choice, now: Instant) -> Choice {
        let Some(place) = self.places.get_mut(choice.endpoint.index()) else { return choice };
        place.outstanding = place.outstanding.saturating_sub(1);
        if choice.errand == Errand::Canary {
            place.canary_out = false;
            if place.out.is_none() || self.stall.is_some() {
                choice.errand = Errand::Traffic;
            }
        }
        if let Errand::Scout { stall: number } = choice.errand {
            match self.stall.as_mut().filter(|stall| stall.number == number) {
                Some(stall) => {
                    stall.scout_out = false;
                    stall.resume_at = stall.resume_at.min(now);
                }
                None => choice.errand = Errand::Traffic,
            }
        }
        choice
    }

    /// A scout that learned nothing: its endpoint is still to be tried.
    fn scout_back(&mut self, choice: Choice) {
        if let Errand::Scout { .. } = choice.errand {
            self.sweep_first(choice.endpoint);
        }
    }

    fn answered(&mut self, choice: Choice, now: Instant) {
        let stalled = self.stall.is_some();
        let place = &mut self.places[choice.endpoint.index()];
        place.forgive();
        place.refused.clear();
        if place.health.answered(now) {
            self.changes.push_back(Change::Health(choice.endpoint));
        }
        if place.out.is_some() && (stalled || choice.errand == Errand::Canary) {
            place.bring_back(now);
            let what = if stalled { "answered" } else { "answered the canary" };
            let why = format!("{} {what}", place.config.name);
            self.review(now, why);
        }
    }

    /// Sent whole, nothing awaited: proof of the way there, not of the application.
    fn silent(&mut self, choice: Choice, stale_news: bool, now: Instant) {
        let place = &mut self.places[choice.endpoint.index()];
        let enough = place.health.proof() <= Proof::Reaching(Phase::Transmit);
        if !stale_news && enough {
            self.answered(choice, now);
        } else if choice.errand == Errand::Canary {
            self.canary_failed(choice.endpoint, Proof::Reaching(Phase::Answer), "it asked for no answer and so proved nothing", now);
        } else {
            self.scout_back(choice);
        }
    }

    fn refused(&mut self, end: End<'_>, now: Instant) {
        let (envelope, choice) = (end.envelope, end.choice);
        let place = &mut self.places[choice.endpoint.index()];
        place.forgive();
        match choice.errand {
            Errand::Canary => self.canary_failed(choice.endpoint, Proof::Traffic, end.seen, now),
            // What becomes of the envelope, the verdict says.
            Errand::Scout { .. } => drop(self.scout_failed(choice.endpoint, Proof::Traffic, end.seen, now)),
            // Out already, and a refusal is no reason to come back.
            Errand::Traffic | Errand::Elsewhere | Errand::CatchUp if place.out.is_some() => {}
            Errand::Traffic | Errand::Elsewhere | Errand::CatchUp => {
                if place.health.answered(now) {
                    self.changes.push_back(Change::Health(choice.endpoint));
                }
                if !place.refused.contains(&envelope) {
                    place.refused.push(envelope);
                }
                if place.refused.len() >= REFUSALS_IN_A_ROW {
                    let why = format!("refused {REFUSALS_IN_A_ROW} different envelopes in a row, the last with {}", end.seen);
                    self.leave(choice.endpoint, Proof::Traffic, why, now);
                }
            }
        }
    }

    /// An attempt failed without an answer.
    fn failed(&mut self, end: End<'_>, phase: Phase, now: Instant) -> Next {
        let endpoint = end.choice.endpoint;
        match end.choice.errand {
            Errand::Canary => {
                self.canary_failed(endpoint, Proof::Reaching(phase), end.seen, now);
                return Next::Reroute;
            }
            Errand::Scout { .. } => return self.scout_failed(endpoint, Proof::Reaching(phase), end.seen, now),
            Errand::Traffic | Errand::Elsewhere | Errand::CatchUp => {}
        }
        let place = &mut self.places[endpoint.index()];
        let fault_of_message = place.health.answered_since(end.started, now);
        place.count_failure(end.started, end.blame == Blame::Lost, now);
        let (limit, leave) = match end.blame {
            Blame::Timeout => (1, !fault_of_message),
            Blame::Lost => (LOST_IN_A_ROW, place.lost >= LOST_IN_A_ROW || place.failures >= self.attempts.max(LOST_IN_A_ROW)),
            _ => (self.attempts, place.failures >= self.attempts),
        };
        if leave {
            let seen = end.seen.strip_prefix(&format!("{phase}: ")).unwrap_or(end.seen);
            let why = format!("left after a failure in phase {phase}: {seen}");
            self.leave(endpoint, Proof::Reaching(phase), why, now);
            return Next::Reroute;
        }
        if place.health.traffic_failed(end.seen) {
            self.changes.push_back(Change::Health(endpoint));
        }
        if end.tries >= limit { Next::Elsewhere } else { Next::Again }
    }

    fn canary_failed(&mut self, endpoint: EndpointId, proof: Proof, seen: &str, now: Instant) {
        let max = self.hold_down_max;
        let place = &mut self.places[endpoint.index()];
        place.canary_due = false;
        place.demanded = false;
        place.hold_down = place.hold_down.saturating_mul(2).min(max);
        let why = format!("the canary failed ({seen}); next return after {} s of good probes", place.hold_down.as_secs_f32());
        if place.health.condemn(proof, why, now) {
            self.changes.push_back(Change::Health(endpoint));
        }
        self.review(now, String::new());
    }

    fn scout_failed(&mut self, endpoint: EndpointId, proof: Proof, seen: &str, now: Instant) -> Next {
        let place = &mut self.places[endpoint.index()];
        if place.health.condemn(proof, format!("tried in turn: {seen}"), now) {
            self.changes.push_back(Change::Health(endpoint));
        }
        let usable = self.usable();
        let Some(stall) = &mut self.stall else { return Next::Reroute };
        if !stall.sweep.is_empty() {
            return Next::Reroute;
        }
        stall.resume_at = now + self.backoff.delay(stall.step, &mut self.random);
        stall.step = stall.step.saturating_add(1);
        stall.sweep = usable;
        Next::Wait
    }

    /// The destination leaves an endpoint, at once.
    fn leave(&mut self, endpoint: EndpointId, proof: Proof, why: String, now: Instant) {
        let place = &mut self.places[endpoint.index()];
        let reason = format!("{} {why}", place.config.name);
        if place.health.condemn(proof, why, now) {
            self.changes.push_back(Change::Health(endpoint));
        }
        self.put_out(endpoint, now);
        self.review(now, reason);
    }

    pub(super) fn put_out(&mut self, endpoint: EndpointId, now: Instant) {
        self.places[endpoint.index()].put_out(self.hold_down, self.hold_down_max, now);
        self.changes.push_back(Change::Left(endpoint));
    }

    /// A probe is due somewhere: the caller makes it now and reports with `probed`.
    pub fn probe_due(&mut self, now: Instant) -> Option<EndpointId> {
        let index = self.places.iter_mut().position(|p| p.admin != Admin::Disabled && p.health.probe_due(now))?;
        u16::try_from(index).ok().map(EndpointId)
    }

    /// A probe ended.
    pub fn probed(&mut self, endpoint: EndpointId, result: Result<(), (Phase, &str)>, now: Instant) {
        let Some(place) = self.places.get_mut(endpoint.index()) else { return };
        let distrusted = !place.health.eligible();
        if place.health.probed(result, now, &mut self.random) {
            self.changes.push_back(Change::Health(endpoint));
        }
        let place = &self.places[endpoint.index()];
        let hopeful = result.is_ok() && distrusted && place.health.probes_suffice() && place.admin == Admin::Enabled;
        if hopeful && self.stall.is_some() {
            // Not only the wait ends: the endpoint that gave the sign is tried first.
            self.hope(endpoint, now);
        }
        self.review(now, String::new());
    }
}
