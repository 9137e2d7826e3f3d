//! The state of service: which endpoints are in service, when one returns, and stalls. Rules: the head of `failover`. Errors: none.

use super::{Change, Failover, Stall};
use crate::config::Policy;
use crate::endpoint::Admin;
use crate::ids::EndpointId;
use std::collections::VecDeque;
use std::time::Instant;

impl Failover {
    /// When there is something to do, if ever: `on_timeout`, a probe, the end of a stall's wait. The latter is past when nothing is there to be sent.
    #[must_use]
    pub fn next_timeout(&self, now: Instant) -> Option<Instant> {
        let probes = self.places.iter().filter(|p| p.admin != Admin::Disabled).filter_map(|p| p.health.next_probe());
        let returns = self.order().filter_map(|e| self.return_at(e));
        let paces = self.places.iter().filter_map(|p| p.health.next_timeout());
        probes.chain(returns).chain(paces).chain(self.resume_at().filter(|at| *at > now)).min()
    }

    /// The end of the wait of a stall.
    #[must_use]
    pub fn resume_at(&self) -> Option<Instant> {
        self.stall.as_ref().filter(|s| !s.scout_out && !s.sweep.is_empty()).map(|s| s.resume_at)
    }

    /// Time passed: returns happen here. Probes are asked for with `probe_due`.
    pub fn on_timeout(&mut self, now: Instant) {
        self.forget_paces(now);
        self.review(now, String::new());
    }

    /// When an endpoint that is out may come back by itself, or send for a canary, if it is on its way.
    pub(super) fn return_at(&self, endpoint: EndpointId) -> Option<Instant> {
        let place = &self.places[endpoint.index()];
        let waiting = place.out.is_some() && !place.canary_due && (place.trusted() || place.health.wants_canary());
        let may = waiting && self.stall.is_none() && self.auto && self.voluntary(endpoint) && place.admin == Admin::Enabled;
        let too_slow = place.health.wants_leaving() && !place.health.may_be_fast_again();
        place.health.good_since().filter(|_| may && !too_slow).map(|since| since + place.hold_down)
    }

    pub(super) fn order(&self) -> impl Iterator<Item = EndpointId> + use<> {
        (0..u16::try_from(self.places.len()).unwrap_or(u16::MAX)).map(EndpointId)
    }

    pub(super) fn usable(&self) -> impl Iterator<Item = EndpointId> + '_ {
        self.order().filter(|e| self.places[e.index()].admin == Admin::Enabled)
    }

    pub(super) fn serves(&self, endpoint: EndpointId) -> bool {
        self.places.get(endpoint.index()).is_some_and(|p| p.out.is_none() && p.trusted())
    }

    pub(super) fn in_sweep(&self, endpoint: EndpointId) -> bool {
        self.stall.as_ref().is_some_and(|s| s.sweep.contains(&endpoint))
    }

    /// Its return would change where traffic goes.
    pub(super) fn voluntary(&self, endpoint: EndpointId) -> bool {
        self.policy != Policy::Failover || self.active.first().is_none_or(|active| endpoint < *active)
    }

    /// One envelope may go there, to see whether it takes messages again.
    pub(super) fn canary_due(&self, endpoint: EndpointId) -> bool {
        let place = &self.places[endpoint.index()];
        place.canary_due && !place.canary_out && place.admin == Admin::Enabled && self.stall.is_none()
    }

    /// Brings the state of service in line with what is known now. `why`: for people, if something was just decided.
    pub(super) fn review(&mut self, now: Instant, mut why: String) {
        for endpoint in self.order() {
            let place = &self.places[endpoint.index()];
            if place.out.is_none() && !place.health.eligible() {
                why = format!("{}: {}", place.config.name, place.health.reason());
                self.put_out(endpoint, now);
            } else if let Some(slow) = self.too_slow(endpoint) {
                why = slow;
                self.put_out(endpoint, now);
                self.places[endpoint.index()].health.rest(now);
            }
        }
        for endpoint in self.order() {
            let voluntary = self.voluntary(endpoint);
            let place = &mut self.places[endpoint.index()];
            place.canary_due &= place.health.wants_canary();
            if place.out.is_none() || self.stall.is_some() {
                continue;
            }
            let rested = self.auto && place.rested(now);
            if place.trusted() && place.health.wants_leaving() && !(rested && self.is_fast_enough(endpoint)) {
                continue;
            }
            let place = &mut self.places[endpoint.index()];
            if place.trusted() && (rested || !voluntary) {
                if voluntary {
                    why = format!("{} was good for {} s", place.config.name, place.hold_down.as_secs_f32());
                }
                place.bring_back(now);
            } else if voluntary && rested && place.health.wants_canary() && !place.canary_due {
                place.canary_due = true;
                self.changes.push_back(Change::Release);
            }
        }
        self.appoint(now, &why);
    }

    fn appoint(&mut self, now: Instant, why: &str) {
        let mut serving: Vec<EndpointId> = self.order().filter(|e| self.serves(*e)).collect();
        if serving.is_empty() {
            // Hold-down delays voluntary returns only: what is trusted serves when nothing else does.
            let trusted = |e: &EndpointId| self.places[e.index()].trusted();
            let fast = |e: &EndpointId| trusted(e) && !self.places[e.index()].health.wants_leaving();
            if let Some(endpoint) = self.order().find(fast).or_else(|| self.order().find(trusted)) {
                self.places[endpoint.index()].bring_back(now);
                serving.push(endpoint);
            }
        }
        if self.policy == Policy::Failover {
            serving.truncate(1);
        }
        match (serving.is_empty(), self.stall.is_some()) {
            (true, false) => self.stall(now),
            (false, true) => {
                self.stall = None;
                self.changes.push_back(Change::Release);
            }
            (true, true) | (false, false) => {}
        }
        self.tell(serving, why);
    }

    fn stall(&mut self, now: Instant) {
        let just_left = self.active.first().copied().filter(|_| self.active.len() == 1);
        let mut sweep: VecDeque<EndpointId> = self.usable().filter(|e| Some(*e) != just_left).collect();
        let mut resume_at = now;
        let mut step = 0;
        if sweep.is_empty() {
            sweep = self.usable().collect();
            resume_at = now + self.backoff.delay(0, &mut self.random);
            step = 1;
        }
        self.stalls = self.stalls.wrapping_add(1);
        self.stall = Some(Stall { sweep, resume_at, step, scout_out: false, number: self.stalls });
    }

    fn tell(&mut self, serving: Vec<EndpointId>, why: &str) {
        if serving == self.active && !self.reason.is_empty() {
            return;
        }
        let from = self.active.iter().copied().find(|e| !serving.contains(e));
        let to = serving.iter().copied().find(|e| !self.active.contains(e)).or(serving.first().copied());
        self.reason = match to {
            Some(_) if why.is_empty() => "its probes are good".to_owned(),
            Some(_) => why.to_owned(),
            None if self.usable().next().is_none() => "stalled: every endpoint is disabled by an operator".to_owned(),
            None => format!("stalled: no eligible endpoint; {why}"),
        };
        self.active = serving;
        self.changes.push_back(Change::Active { from, to, reason: self.reason.clone() });
    }
}
