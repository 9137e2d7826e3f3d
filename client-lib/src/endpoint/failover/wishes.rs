//! What people want of the endpoints. Rules: the head of `failover`. Errors: none.

use super::{Change, Failover};
use crate::endpoint::Admin;
use crate::ids::EndpointId;
use std::collections::VecDeque;
use std::time::Instant;

impl Failover {
    /// People changed their mind about an endpoint. An endpoint that they enable is in service at once if it is trusted.
    pub fn set_admin(&mut self, endpoint: EndpointId, admin: Admin, now: Instant) {
        if let Some(place) = self.places.get_mut(endpoint.index()) {
            place.admin = admin;
            let why = format!("{} {} by an operator", place.config.name, admin.name());
            let usable: VecDeque<EndpointId> = self.usable().collect();
            if let Some(stall) = &mut self.stall {
                stall.sweep = usable;
            }
            self.review(now, why);
        }
    }

    /// An operator wants the first endpoint back that can be had, now. False: none before the active one is good.
    pub fn failback_now(&mut self, now: Instant) -> bool {
        let before: Vec<EndpointId> = self.order().take_while(|e| !self.active.contains(e)).collect();
        if let Some(endpoint) = before.iter().find(|e| self.places[e.index()].trusted()) {
            let place = &mut self.places[endpoint.index()];
            place.bring_back(now);
            let why = format!("{} wanted back by an operator", place.config.name);
            self.review(now, why);
            return true;
        }
        let Some(endpoint) = before.into_iter().find(|e| self.places[e.index()].health.wants_canary()) else { return false };
        self.places[endpoint.index()].canary_due = true;
        self.changes.push_back(Change::Release);
        true
    }
}
