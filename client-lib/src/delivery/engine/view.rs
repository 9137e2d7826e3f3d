//! What people and drivers see of an engine: what is under way, which endpoints are active and why.
//! Rules: looking changes nothing. Errors: none.

use super::{Admission, Engine};
use crate::config::{Destination, Policy};
use crate::delivery::status::EndpointStatus;
use crate::ids::{EndpointId, EnvelopeId};
use std::sync::Arc;
use std::time::Instant;

impl Engine {
    /// When an envelope that waits for its backoff is tried again.
    #[must_use]
    pub fn due_at(&self, id: EnvelopeId) -> Option<Instant> {
        self.schedule.due_at(id)
    }

    /// Envelopes in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Envelopes this engine will bring back by itself.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.schedule.waiting()
    }

    /// Settlements that have still to become durable.
    #[must_use]
    pub fn unsettled(&self) -> usize {
        self.unsettled
    }

    /// Nothing is in flight and nothing has still to become durable.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.flights.is_empty() && self.unsettled == 0
    }

    /// Envelopes should be flowing: nobody paused it, an endpoint is in service.
    #[must_use]
    pub fn should_flow(&self, now: Instant) -> bool {
        !self.paused && !self.stopping && !self.schedule.lulled(now) && self.failover.admission(now) == Admission::Open
    }

    /// Paused by an operator.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Settings in force.
    #[must_use]
    pub fn destination(&self) -> &Arc<Destination> {
        &self.destination
    }

    /// Names of the active endpoints, and why these.
    #[must_use]
    pub fn active(&self) -> (Vec<String>, String) {
        let names = self.failover.active().iter().filter_map(|e| self.failover.endpoint(*e)).map(|e| e.name.to_string()).collect();
        (names, self.failover.reason().to_owned())
    }

    /// Endpoints as people see them; addresses are the driver's to add.
    #[must_use]
    pub fn endpoints(&self) -> Vec<EndpointStatus> {
        let row = |id: EndpointId| {
            let (config, health) = (self.failover.endpoint(id)?, self.failover.health(id)?);
            let (degraded, ready) = (self.degraded(id), self.ready(id));
            let (health, reason) = match health.state().name() {
                "up" if !degraded.is_empty() => ("degraded", format!("{}; {}", health.reason(), degraded.join("; "))),
                state => (state, health.reason().to_owned()),
            };
            let reason = self.admin_reason(id, &reason);
            let (name, admin) = (config.name.to_string(), self.failover.admin(id)?.name());
            Some(EndpointStatus { name, health, degraded, ready, admin, reason, resolved: Vec::new(), connected: Vec::new(), dns: None })
        };
        (0..self.failover.len()).filter_map(|i| u16::try_from(i).ok()).filter_map(|i| row(EndpointId(i))).collect()
    }

    /// The policy's name in the configuration.
    #[must_use]
    pub fn policy_name(&self) -> &'static str {
        match self.destination.policy {
            Policy::Failover => "failover",
            Policy::RoundRobin => "round-robin",
            Policy::LeastOutstanding => "least-outstanding",
        }
    }
}
