//! Choosing: where an envelope goes now. Rules: the head of `failover`. Errors: none.

use super::{Admission, Choice, Errand, Failover, Wish};
use crate::config::Policy;
use crate::endpoint::place::Place;
use crate::endpoint::{Admin, EndpointSet};
use crate::ids::EndpointId;
use std::time::Instant;

impl Failover {
    /// How many envelopes may be taken now.
    #[must_use]
    pub fn admission(&self, now: Instant) -> Admission {
        match &self.stall {
            None => Admission::Open,
            Some(stall) if stall.scout_out || now < stall.resume_at || stall.sweep.is_empty() => Admission::Closed,
            Some(_) => Admission::One,
        }
    }

    /// Whether an endpoint could take an envelope now that avoids some.
    #[must_use]
    pub fn has_place_for(&self, avoid: EndpointSet) -> bool {
        self.order().any(|e| !avoid.contains(e) && (self.places[e.index()].trusted() || self.canary_due(e) || self.in_sweep(e)))
    }

    /// Where this envelope goes now; `None` if no endpoint that it may go to is good.
    pub fn choose(&mut self, wish: Wish, now: Instant) -> Option<Choice> {
        let choice = match self.stall {
            Some(_) => self.scout(wish, now),
            None => self.serve(wish),
        }?;
        let place = &mut self.places[choice.endpoint.index()];
        place.outstanding += 1;
        place.canary_out |= choice.errand == Errand::Canary;
        Some(choice)
    }

    fn serve(&mut self, wish: Wish) -> Option<Choice> {
        if let Some(endpoint) = wish.towards {
            let place = self.places.get(endpoint.index())?;
            let good = place.admin == Admin::Enabled && (place.trusted() || place.health.wants_canary() || place.demanded);
            return good.then_some(Choice { endpoint, fresh: wish.again == Some(endpoint), errand: Errand::CatchUp });
        }
        if let Some(endpoint) = wish.again.filter(|e| self.places.get(e.index()).is_some_and(Place::trusted)) {
            let errand = if self.active.contains(&endpoint) { Errand::Traffic } else { Errand::Elsewhere };
            return Some(Choice { endpoint, fresh: true, errand });
        }
        if let Some(endpoint) = self.liked().find(|e| !wish.avoid.contains(*e) && self.canary_due(*e)) {
            return Some(Choice { endpoint, fresh: true, errand: Errand::Canary });
        }
        if let Some(endpoint) = self.pick_active(wish) {
            return Some(Choice { endpoint, fresh: false, errand: Errand::Traffic });
        }
        let endpoint = self.liked().find(|e| !wish.avoid.contains(*e) && self.places[e.index()].trusted())?;
        Some(Choice { endpoint, fresh: false, errand: Errand::Elsewhere })
    }

    fn pick_active(&mut self, wish: Wish) -> Option<EndpointId> {
        let open: Vec<EndpointId> = self.active.iter().copied().filter(|e| !wish.avoid.contains(*e)).collect();
        let weight = |e: &EndpointId| u64::from(self.places[e.index()].config.weight.max(1));
        match (self.policy, wish.lane) {
            (Policy::Failover, _) => open.first().copied(),
            // Highest score of lane and endpoint: a lane moves only when its own endpoint goes or comes back.
            (_, Some(lane)) => {
                let score = |e: &EndpointId| score(lane, self.places[e.index()].salt, weight(e));
                open.into_iter().max_by(|a, b| score(a).total_cmp(&score(b)))
            }
            (Policy::LeastOutstanding, None) => open.into_iter().min_by_key(|e| u64::from(self.places[e.index()].outstanding) * 1_000 / weight(e)),
            (Policy::RoundRobin, None) => {
                let total: u64 = open.iter().map(weight).sum();
                let mut turn = self.turn.checked_rem(total)?;
                self.turn = self.turn.wrapping_add(1);
                open.iter().copied().find(|e| {
                    let mine = turn < weight(e);
                    turn = turn.saturating_sub(weight(e));
                    mine
                })
            }
        }
    }

    fn scout(&mut self, wish: Wish, now: Instant) -> Option<Choice> {
        if self.admission(now) != Admission::One {
            return None;
        }
        let stall = self.stall.as_mut()?;
        let at = stall.sweep.iter().position(|e| !wish.avoid.contains(*e))?;
        let endpoint = stall.sweep.remove(at)?;
        stall.scout_out = true;
        Some(Choice { endpoint, fresh: true, errand: Errand::Scout { stall: stall.number } })
    }

    /// A choice that came to nothing: the attempt was never begun.
    pub fn forget(&mut self, choice: Choice, now: Instant) {
        let choice = self.release(choice, now);
        if let Errand::Scout { .. } = choice.errand {
            self.sweep_first(choice.endpoint);
        }
    }
}

/// Spreads lanes over endpoints by weight (weighted rendezvous: -weight / ln(u), u even between 0 and 1): the same two always score the same.
fn score(lane: u32, salt: u64, weight: u64) -> f64 {
    // splitmix64 of both.
    let mut x = (u64::from(lane) ^ salt).wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    let even = ((x ^ (x >> 31)) >> 11) as f64 + 0.5;
    -(weight as f64) / (even / (1u64 << 53) as f64).ln()
}
