//! What makes an endpoint degraded although it is up: slow answers, a standby that would refuse, a certificate that nobody checks.
//! Rules: one alarm for each, with the words of the status; told anew when the words change; over when the cause is. Rehearsals are made with endpoints
//! that could be used and are not active, if there is something that their probe does not show anyway.
//! Errors: none.

use super::{Action, Alarm, Engine, Moment};
use crate::config::{CallingAe, Endpoint, Probe, Verify};
use crate::delivery::standby::Rehearsed;
use crate::endpoint::Admin;
use crate::endpoint::health::{Answers, Health};
use crate::ids::{EndpointId, EnvelopeId};
use crate::keys::{Keys, Protocol};
use std::time::{Duration, Instant};

impl Engine {
    // ---- slow ----

    /// The answer to an attempt came so long after the message was sent whole. Called before `ended`.
    pub fn answered_in(&mut self, id: EnvelopeId, took: Duration, now: Moment) {
        let Some(choice) = self.flights.get(&id).and_then(|flight| flight.choice) else { return };
        self.failover.took(choice.endpoint, Answers::Messages, took, now.at);
        self.absorb(now);
    }

    /// The answer to a probe took so long. Called before `probed`.
    pub fn probe_answered_in(&mut self, endpoint: EndpointId, took: Duration, now: Moment) {
        self.failover.took(endpoint, Answers::Probes, took, now.at);
        self.absorb(now);
    }

    pub(super) fn tell_pace(&mut self, endpoint: EndpointId) {
        let slow = self.failover.health(endpoint).and_then(Health::slow_reason);
        self.restate(Alarm::Slow(endpoint), endpoint, slow);
    }

    // ---- the standby ----

    /// An object is on its way to the destination.
    pub(super) fn note_kind(&mut self, keys: &Keys, now: Moment) {
        let pass = self.destination.calling_ae == CallingAe::Pass;
        if self.destination.protocol == Protocol::Dicom && self.standbys.seen.note(keys, pass, now.wall) {
            self.standbys.hurry(now.at);
        }
    }

    /// Asks for what is due: rehearsals, and remembering what was seen.
    pub(super) fn look_after_standbys(&mut self, now: Moment) {
        for endpoint in (0..self.failover.len()).filter_map(|i| u16::try_from(i).ok().map(EndpointId)) {
            let Some(every) = self.rehearses(endpoint) else { continue };
            if self.standbys.due(endpoint.index(), every, now.at) {
                let kinds = self.standbys.seen.kinds(now.wall);
                self.actions.push_back(Action::Rehearse { endpoint, kinds });
            }
        }
        if let Some(value) = self.standbys.seen.to_remember(now.at, now.wall) {
            let name = self.seen_name();
            self.actions.push_back(Action::Remember { name, value });
        }
    }

    /// When `look_after_standbys` has something to do.
    pub(super) fn next_rehearsal(&self) -> Option<Instant> {
        let ids = (0..self.failover.len()).filter_map(|i| u16::try_from(i).ok().map(EndpointId));
        let rehearsals = ids.filter(|e| self.rehearses(*e).is_some()).filter_map(|e| self.standbys.next_at(e.index()));
        rehearsals.chain(self.standbys.seen.next_write()).min()
    }

    /// How often an endpoint is rehearsed with now, if it is.
    fn rehearses(&self, endpoint: EndpointId) -> Option<Duration> {
        let (config, health) = (self.failover.endpoint(endpoint)?, self.failover.health(endpoint)?);
        let usable = self.failover.admin(endpoint) != Some(Admin::Disabled) && health.eligible();
        let idle = !self.failover.active().contains(&endpoint);
        let every = Some(config.health.rehearse).filter(|every| !every.is_zero())?;
        (usable && idle && self.shows_more(config)).then_some(every)
    }

    /// Whether a rehearsal shows more than the endpoint's probe.
    fn shows_more(&self, endpoint: &Endpoint) -> bool {
        match (self.destination.protocol, &endpoint.health.probe) {
            (Protocol::Dicom, Probe::DicomEcho | Probe::DicomStore { .. }) => !self.standbys.seen.is_empty(),
            (Protocol::Dicom, _) | (Protocol::Mllp, Probe::Http(_)) => true,
            (Protocol::Mllp, Probe::Tcp) => endpoint.tls.is_some(),
            (Protocol::Mllp, _) => false,
        }
    }

    /// A rehearsal ended.
    pub fn rehearsed(&mut self, endpoint: EndpointId, found: &Rehearsed, now: Moment) {
        let Some(config) = self.failover.endpoint(endpoint) else { return };
        let every = config.health.rehearse;
        self.standbys.ended(endpoint.index(), found, every, &mut self.random, now.at);
        if self.failover.active().contains(&endpoint) {
            self.standbys.active(endpoint.index());
        }
        self.tell_standby(endpoint);
        self.absorb(now);
    }

    fn tell_standby(&mut self, endpoint: EndpointId) {
        let obstacle = self.standbys.obstacle(endpoint.index()).map(str::to_owned);
        self.restate(Alarm::Standby(endpoint), endpoint, obstacle);
    }

    /// Other endpoints are active now: what rehearsals found of them says less than their traffic.
    pub(super) fn standbys_are_active(&mut self) {
        for endpoint in self.failover.active().to_vec() {
            self.standbys.active(endpoint.index());
            self.tell_standby(endpoint);
        }
    }

    /// The endpoints are others: nothing is known of them yet but their pace.
    pub(super) fn reset_standbys(&mut self, now: Moment) {
        self.standbys.reset(self.failover.len(), &mut self.random, now.at);
        let over = self.alarms.clear_if(|alarm| matches!(alarm, Alarm::Slow(_) | Alarm::Standby(_)));
        self.actions.extend(over.into_iter().map(Action::Emit));
        for endpoint in (0..self.failover.len()).filter_map(|i| u16::try_from(i).ok().map(EndpointId)) {
            self.tell_pace(endpoint);
        }
    }

    // ---- what people see ----

    /// Why an endpoint is degraded; empty: it is not.
    pub(super) fn degraded(&self, endpoint: EndpointId) -> Vec<String> {
        let unchecked = self.failover.endpoint(endpoint).is_some_and(|e| e.tls.as_ref().is_some_and(|tls| tls.verify == Verify::None));
        let unchecked = unchecked.then(|| "its certificate is not checked (verify = \"none\")".to_owned());
        let slow = self.failover.health(endpoint).and_then(Health::slow_reason);
        let obstacle = self.standbys.obstacle(endpoint.index()).map(str::to_owned);
        unchecked.into_iter().chain(slow).chain(obstacle).collect()
    }

    /// Whether an endpoint that is not active would take what was seen; `None`: it is not known.
    pub(super) fn ready(&self, endpoint: EndpointId) -> Option<bool> {
        self.standbys.is_ready(endpoint.index())
    }

    /// Begins, changes or ends an alarm about an endpoint.
    fn restate(&mut self, alarm: Alarm, endpoint: EndpointId, why: Option<String>) {
        let name = self.failover.endpoint(endpoint).map(|e| e.name.to_string()).unwrap_or_default();
        let what = why.map(|why| format!("endpoint {name} is degraded: {why}"));
        let events = self.alarms.restate(alarm, self.subject(), what);
        self.actions.extend(events.into_iter().map(Action::Emit));
    }
}
