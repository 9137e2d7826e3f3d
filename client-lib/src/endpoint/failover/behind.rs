//! Endpoints that missed something while they were out (`resync`): they return only when they have it, or when nobody else can serve.
//! Rules: the head of `failover`. Errors: none.

use super::{Change, Failover};
use crate::endpoint::place::Behind;
use crate::ids::EndpointId;
use std::time::Instant;

impl Failover {
    /// Others answer from now on what this endpoint will lack.
    pub fn set_behind(&mut self, endpoint: EndpointId) {
        if let Some(place) = self.places.get_mut(endpoint.index()) {
            place.behind = Behind::Missing;
        }
    }

    /// It has everything: where it would have returned before, it returns now.
    pub fn caught_up(&mut self, endpoint: EndpointId, now: Instant) {
        let Some(place) = self.places.get_mut(endpoint.index()) else { return };
        let returns = place.behind == Behind::CatchingUp && place.out.is_some();
        place.behind = Behind::No;
        if !returns {
            return;
        }
        let why = format!("{} was good for {} s and has what it missed", place.config.name, place.hold_down.as_secs_f32());
        if place.trusted() {
            place.bring_back(now);
            self.review(now, why);
        } else if place.health.wants_canary() {
            place.canary_due = true;
            self.changes.push_back(Change::Release);
        }
    }

    /// An operator wants it whatever is seen of it: what it missed goes there before anything newer, and the first of that shows whether it takes messages.
    pub(super) fn demand_behind(&mut self, endpoint: EndpointId) {
        let place = &mut self.places[endpoint.index()];
        if place.behind == Behind::Missing && self.stall.is_none() {
            place.behind = Behind::CatchingUp;
            self.changes.push_back(Change::Returning(endpoint));
        }
    }

    /// It was out when the last run ended, and is still.
    pub fn begin_out(&mut self, endpoint: EndpointId, behind: bool, now: Instant) {
        let Some(place) = self.places.get_mut(endpoint.index()) else { return };
        place.behind = if behind { Behind::Missing } else { Behind::No };
        let name = place.config.name.clone();
        place.put_out(self.hold_down, self.hold_down_max, now);
        // It does not serve: its return is one, and waits like any other.
        let served = self.active.contains(&endpoint);
        self.active.retain(|active| *active != endpoint);
        self.review(now, format!("{name} was out when the last run ended"));
        if let Some(Change::Active { from: from @ None, .. }) = self.changes.back_mut().filter(|_| served) {
            *from = Some(endpoint);
        }
    }

    /// Whether its return waits for what it missed. Asks for that when its time has come.
    pub(super) fn waits_behind(&mut self, endpoint: EndpointId, rested: bool) -> bool {
        let place = &mut self.places[endpoint.index()];
        let good = place.trusted() || place.health.wants_canary() || place.demanded;
        match place.behind {
            Behind::No => return false,
            Behind::Missing if good && rested => {
                place.behind = Behind::CatchingUp;
                self.changes.push_back(Change::Returning(endpoint));
            }
            Behind::CatchingUp if !good => {
                place.behind = Behind::Missing;
                self.changes.push_back(Change::Left(endpoint));
            }
            Behind::Missing | Behind::CatchingUp => {}
        }
        true
    }
}
