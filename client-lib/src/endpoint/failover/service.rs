//! The state of service: which endpoints are in service, when one returns, and stalls. Rules: the head of `failover`. Errors: none.

use super::{Change, Failover, Stall};
use crate::config::Policy;
use crate::delivery::outages::Standing;
use crate::endpoint::Admin;
use crate::endpoint::place::Behind;
use crate::endpoint::pool::outranks;
use crate::endpoint::sites::Whereabouts;
use crate::endpoint::wishes::Liking;
use crate::ids::EndpointId;
use std::collections::VecDeque;
use std::time::Instant;

impl Failover {
    /// When there is something to do, if ever: `on_timeout`, a probe, the end of a stall's wait. The latter is past when nothing is there to be sent.
    #[must_use]
    pub fn next_timeout(&self, now: Instant) -> Option<Instant> {
        let probes = self.places.iter().filter(|p| p.admin != Admin::Disabled).filter_map(|p| p.health.next_probe());
        let window = self.window_opens_in(now);
        let returns = self.order().filter_map(|e| self.return_at(e)).map(|at| if window.is_zero() { at } else { at.max(now + window) });
        let paces = self.places.iter().filter_map(|p| p.health.next_timeout());
        probes.chain(returns).chain(paces).chain(self.resume_at().filter(|at| *at > now)).chain(self.clock_at(now)).min()
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
        let waiting =
            place.out.is_some() && place.behind != Behind::CatchingUp && !place.canary_due && (place.trusted() || place.health.wants_canary());
        let leads = self.leads(endpoint) || place.trusted();
        let may = waiting && leads && self.stall.is_none() && self.auto && self.voluntary(endpoint) && place.admin == Admin::Enabled;
        let too_slow = place.health.wants_leaving() && !place.health.may_be_fast_again();
        place.health.good_since().filter(|_| may && !too_slow).map(|since| since + place.hold_down)
    }

    pub(super) fn order(&self) -> impl Iterator<Item = EndpointId> + use<> {
        (0..u16::try_from(self.places.len()).unwrap_or(u16::MAX)).map(EndpointId)
    }

    /// All, the best liked first.
    pub(super) fn liked(&self) -> impl Iterator<Item = EndpointId> + use<> {
        let mut all: Vec<EndpointId> = self.order().collect();
        all.sort_by_key(|e| self.rank(*e));
        all.into_iter()
    }

    /// How much it is liked: less is better.
    fn rank(&self, endpoint: EndpointId) -> (Liking, EndpointId) {
        (self.liking(endpoint), endpoint)
    }

    pub(super) fn liking(&self, endpoint: EndpointId) -> Liking {
        self.wishes.liking(&self.places[endpoint.index()].config)
    }

    /// Those that people allow, the best liked first.
    pub(super) fn usable(&self) -> VecDeque<EndpointId> {
        self.liked().filter(|e| self.places[e.index()].admin == Admin::Enabled).collect()
    }

    pub(super) fn serves(&self, endpoint: EndpointId) -> bool {
        self.places.get(endpoint.index()).is_some_and(|p| p.out.is_none() && p.trusted())
    }

    pub(super) fn in_sweep(&self, endpoint: EndpointId) -> bool {
        self.stall.as_ref().is_some_and(|s| s.sweep.contains(&endpoint))
    }

    /// Its return would change where traffic goes, now or when the wishes end that stand: it waits for the hold-down.
    pub(super) fn voluntary(&self, endpoint: EndpointId) -> bool {
        let before = |active: &EndpointId| endpoint < *active || self.rank(endpoint) < self.rank(*active);
        self.policy != Policy::Failover || self.active.first().is_none_or(before)
    }

    /// It would get traffic if it returned.
    fn leads(&self, endpoint: EndpointId) -> bool {
        let Some(active) = self.active.first() else { return true };
        match self.policy {
            // Also if it would get it only once its site is followed no longer: whether it can is what the others wait for.
            Policy::Failover => self.rank(endpoint) < self.rank(*active) || self.home_rank(endpoint) < self.home_rank(*active),
            Policy::RoundRobin | Policy::LeastOutstanding => {
                self.home_rank(endpoint).0 <= self.home_rank(*active).0 && !self.is_outranked(endpoint, &self.active)
            }
        }
    }

    /// How much it would be liked if nobody was followed.
    fn home_rank(&self, endpoint: EndpointId) -> (Liking, EndpointId) {
        (if self.liking(endpoint) == Liking::Shifted { Liking::Shifted } else { Liking::Configured }, endpoint)
    }

    /// Where this destination delivers, and where it would if it followed nobody.
    #[must_use]
    pub fn whereabouts(&self) -> Whereabouts {
        let mut home: Vec<EndpointId> = self.order().filter(|e| self.serves(*e)).collect();
        home.sort_by_key(|e| self.home_rank(*e));
        let home = self.chosen(home, |e| self.home_rank(e).0);
        let sites = |endpoints: &[EndpointId]| endpoints.iter().map(|e| self.places[e.index()].config.site.clone()).collect();
        Whereabouts { active: sites(&self.active), unfollowed: sites(&home) }
    }

    /// Where an endpoint stands that the destination left, by name.
    #[must_use]
    pub fn standing(&self, name: &str, now: Instant) -> Standing {
        let Some(endpoint) = self.order().find(|e| *self.places[e.index()].config.name == *name) else { return Standing::Gone };
        let place = &self.places[endpoint.index()];
        let outranked = |active: &EndpointId| self.policy == Policy::Failover && self.rank(*active) < self.rank(endpoint);
        if self.active.contains(&endpoint) {
            Standing::Active
        } else if place.admin != Admin::Enabled {
            Standing::Forbidden
        } else if self.active.first().is_some_and(outranked) || self.is_outranked(endpoint, &self.active) {
            Standing::Outranked
        } else if place.trusted() && (!self.auto || !self.window_opens_in(now).is_zero()) {
            Standing::Good
        } else {
            Standing::Out
        }
    }

    /// Of those in service, the best liked first, the ones that get traffic: the first; or where all take turns, those liked as much, without SRV records
    /// of a worse priority, which wait until the better ones of their name are away.
    fn chosen(&self, mut serving: Vec<EndpointId>, liking: impl Fn(EndpointId) -> Liking) -> Vec<EndpointId> {
        match (self.policy, serving.first().map(|e| liking(*e))) {
            (Policy::Failover, _) | (_, None) => serving.truncate(1),
            (Policy::RoundRobin | Policy::LeastOutstanding, Some(best)) => {
                serving.retain(|e| liking(*e) == best);
                let liked_as_much = serving.clone();
                serving.retain(|e| !self.is_outranked(*e, &liked_as_much));
            }
        }
        serving
    }

    /// Whether one of these is an SRV record of the same name with a better priority.
    fn is_outranked(&self, endpoint: EndpointId, by: &[EndpointId]) -> bool {
        let config = |e: EndpointId| &self.places[e.index()].config;
        by.iter().any(|other| outranks(config(*other), config(endpoint)))
    }

    /// One envelope may go there, to see whether it takes messages again.
    pub(super) fn canary_due(&self, endpoint: EndpointId) -> bool {
        let place = &self.places[endpoint.index()];
        let wanted = place.canary_due || place.demanded && place.behind != Behind::CatchingUp;
        wanted && !place.canary_out && place.admin == Admin::Enabled && self.stall.is_none()
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
        let may_return = self.auto && self.window_opens_in(now).is_zero();
        for endpoint in self.order() {
            let (voluntary, leads) = (self.voluntary(endpoint), self.leads(endpoint));
            let place = &mut self.places[endpoint.index()];
            place.canary_due &= leads && place.health.wants_canary();
            if place.out.is_none() || self.stall.is_some() {
                continue;
            }
            let rested = may_return && place.rested(now);
            if place.trusted() && place.health.wants_leaving() && !(rested && self.is_fast_enough(endpoint)) {
                continue;
            }
            if voluntary && self.waits_behind(endpoint, rested) {
                continue;
            }
            let place = &mut self.places[endpoint.index()];
            if place.trusted() && (rested || !voluntary) {
                if leads {
                    why = format!("{} was good for {} s", place.config.name, place.hold_down.as_secs_f32());
                }
                place.bring_back(now);
            } else if leads && rested && place.health.wants_canary() && !place.canary_due {
                place.canary_due = true;
                self.changes.push_back(Change::Release);
            }
        }
        self.appoint(now, &why);
    }

    fn appoint(&mut self, now: Instant, why: &str) {
        let mut serving: Vec<EndpointId> = self.liked().filter(|e| self.serves(*e)).collect();
        if serving.is_empty() {
            // Hold-down delays voluntary returns only: what is trusted serves when nothing else does.
            let trusted = |e: &EndpointId| self.places[e.index()].trusted();
            let fast = |e: &EndpointId| trusted(e) && !self.places[e.index()].health.wants_leaving();
            if let Some(endpoint) = self.liked().find(fast).or_else(|| self.liked().find(trusted)) {
                self.places[endpoint.index()].bring_back(now);
                serving.push(endpoint);
            }
        }
        let serving = self.chosen(serving, |e| self.liking(e));
        match (serving.is_empty(), self.stall.is_some()) {
            (true, false) => self.stall(now),
            (false, true) => {
                self.stall = None;
                self.changes.push_back(Change::Release);
            }
            (true, true) | (false, false) => {}
        }
        self.tell(serving, why);
        self.mind_shift();
    }

    fn stall(&mut self, now: Instant) {
        let just_left = self.active.first().copied().filter(|_| self.active.len() == 1);
        let mut sweep = self.usable();
        sweep.retain(|e| Some(*e) != just_left);
        let mut resume_at = now;
        let mut step = 0;
        if sweep.is_empty() {
            sweep = self.usable();
            resume_at = now + self.backoff.delay(0, &mut self.random);
            step = 1;
        }
        self.stalls = self.stalls.wrapping_add(1);
        self.stall = Some(Stall { sweep, resume_at, step, scout_out: false, number: self.stalls });
    }

    /// While stalled, an endpoint is to be tried next, if people allow it.
    pub(super) fn sweep_first(&mut self, endpoint: EndpointId) {
        let allowed = self.places[endpoint.index()].admin == Admin::Enabled;
        if let Some(stall) = self.stall.as_mut().filter(|_| allowed) {
            stall.sweep.retain(|e| *e != endpoint);
            stall.sweep.push_front(endpoint);
        }
    }

    /// An endpoint is worth a try now: an envelope that waits goes there first.
    pub(super) fn hope(&mut self, endpoint: EndpointId, now: Instant) {
        self.sweep_first(endpoint);
        if let Some(stall) = &mut self.stall {
            stall.resume_at = stall.resume_at.min(now);
        }
        self.changes.push_back(Change::Release);
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
            None if self.usable().is_empty() => "stalled: every endpoint is drained or disabled by an operator".to_owned(),
            None => format!("stalled: no eligible endpoint; {why}"),
        };
        self.active = serving;
        self.changes.push_back(Change::Active { from, to, reason: self.reason.clone() });
    }
}
