//! Slow endpoints: leaving one whose answers take too long (`slow = "leave"`), and coming back to it.
//! Rules
//! - A slow endpoint stays eligible: it is left only for another one that is trusted and not slow, and taken again when there is none. Where people
//!   shifted to, or a site was followed to, is not left for being slow.
//! - It comes back like any other, after `hold_down` of good probes that are not slow themselves. If it was slow with messages only, which probes do
//!   not show, its pace is then seen anew; if it is slow again soon, that was a failed return and `hold_down` doubles.
//!
//! Errors: none.

use super::{Change, Failover};
use crate::endpoint::Admin;
use crate::endpoint::health::Answers;
use crate::ids::EndpointId;
use std::time::{Duration, Instant};

impl Failover {
    /// An answer took so long.
    pub fn took(&mut self, endpoint: EndpointId, of: Answers, took: Duration, now: Instant) {
        let Some(place) = self.places.get_mut(endpoint.index()) else { return };
        if place.health.took(of, took, now) {
            if place.out.is_some() && place.health.slow().is_none() {
                place.health.rest(now);
            }
            self.changes.push_back(Change::Pace(endpoint));
            self.review(now, String::new());
        }
    }

    /// What was slow and is asked nothing any more is slow no longer.
    pub(super) fn forget_paces(&mut self, now: Instant) {
        for endpoint in self.order() {
            if self.places[endpoint.index()].health.on_timeout(now) {
                self.changes.push_back(Change::Pace(endpoint));
            }
        }
    }

    /// Why the destination leaves an active endpoint that is slow, if it does.
    pub(super) fn too_slow(&self, endpoint: EndpointId) -> Option<String> {
        let place = &self.places[endpoint.index()];
        let wanted = place.out.is_none() && self.active.contains(&endpoint) && place.health.wants_leaving();
        let good = |other: EndpointId| {
            let place = &self.places[other.index()];
            let as_wished = self.liking(other) <= self.liking(endpoint);
            other != endpoint && as_wished && place.admin == Admin::Enabled && place.health.eligible() && place.health.slow().is_none()
        };
        let reason = place.health.slow_reason().filter(|_| wanted && self.order().any(good))?;
        Some(format!("{} is {reason}", place.config.name))
    }

    /// An endpoint that is out has rested. False: it is still too slow to come back.
    pub(super) fn is_fast_enough(&mut self, endpoint: EndpointId) -> bool {
        let health = &mut self.places[endpoint.index()].health;
        if !health.wants_leaving() {
            return true;
        }
        if !health.may_be_fast_again() {
            return false;
        }
        if health.forget_pace() {
            self.changes.push_back(Change::Pace(endpoint));
        }
        true
    }
}
