//! Outages of the destination: what attempts, probes and moves mean for the machine in `delivery::outages`, and what it tells; and what an earlier run
//! of the process remembered.
//! Rules: what was left by a wish is no outage. Errors: none; what cannot be read of an earlier run is as if it had not been remembered.

use super::{Action, Engine, Moment};
use crate::delivery::outages::{Outage, Outages, Told};
use crate::delivery::status::{ObjectivesStatus, RunningOutage};
use crate::endpoint::health::{Health, State};
use crate::endpoint::{Admin, Blame};
use crate::event::Event;
use crate::ids::EndpointId;
use crate::spool::UnixMillis;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Name under which it is remembered what was seen of a destination's traffic, before the destination's name.
const SEEN: &str = "seen/";

/// Name of a remembered outage, before `DESTINATION/SLOT`.
const OUTAGE: &str = "outage/";

impl Engine {
    pub(super) fn seen_name(&self) -> String {
        format!("{SEEN}{}", self.destination.name)
    }

    /// Something that is remembered, of whatever it may be. Before anything is taken.
    pub fn recall(&mut self, name: &str, value: &[u8], now: Moment) {
        if name.strip_prefix(SEEN) == Some(&*self.destination.name) {
            return self.standbys.seen.recall(value);
        }
        let slot = name.strip_prefix(OUTAGE).and_then(|rest| rest.rsplit_once('/')).filter(|(of, _)| *of == &*self.destination.name);
        if let Some(slot) = slot.and_then(|(_, slot)| slot.parse().ok())
            && let Ok(outage) = serde_json::from_slice::<Outage>(value)
        {
            self.outages.restore(slot, outage, now);
        }
    }

    /// Outages from now on are those of a drill, or no longer.
    pub fn drill(&mut self, drill: bool) {
        self.outages.drill(drill);
    }

    /// What was measured.
    #[must_use]
    pub fn outages(&self) -> &Outages {
        &self.outages
    }

    /// The same for the status.
    #[must_use]
    pub fn objectives(&self, now: Moment) -> ObjectivesStatus {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (set, worst) = (self.destination.objectives, self.outages.worst(now));
        ObjectivesStatus {
            rto: set.rto.map(millis),
            rpo: set.rpo.map(millis),
            outage: self.outages.running(now.at).map(|(outage, elapsed)| RunningOutage { outage: outage.clone(), elapsed }),
            outages: worst.outages,
            worst_rto: worst.rto,
            worst_rpo: worst.rpo,
            missed: worst.missed,
        }
    }

    /// An attempt ended so.
    pub(super) fn note_for_outage(&mut self, endpoint: &Arc<str>, blame: Blame, began: Instant, now: Moment) {
        match blame {
            Blame::Answered => self.outages.good(endpoint),
            Blame::NotSent { stale: false, .. } | Blame::Lost | Blame::Timeout | Blame::Refused => self.outages.failed(endpoint, began, now),
            Blame::None | Blame::Silent | Blame::NotSent { stale: true, .. } => {}
        }
    }

    /// A probe ended, and the machine that chooses endpoints knows of it.
    pub(super) fn probed_for_outage(&mut self, endpoint: EndpointId, good: bool, began: Option<Instant>, now: Moment) {
        let Some(config) = self.failover.endpoint(endpoint) else { return };
        let up = self.failover.health(endpoint).map(Health::state) == Some(State::Up);
        let name = Arc::clone(&config.name);
        match good {
            true if up => self.outages.good(&name),
            // It does not hide that traffic fails.
            true => {}
            false => self.outages.failed(&name, began.unwrap_or(now.at), now),
        }
    }

    /// The destination left an endpoint.
    pub(super) fn left_in_outage(&mut self, endpoint: EndpointId, now: Moment) {
        let (Some(config), Some(health)) = (self.failover.endpoint(endpoint), self.failover.health(endpoint)) else { return };
        if !self.was_active.contains(&config.name) || self.failover.admin(endpoint) != Some(Admin::Enabled) {
            return;
        }
        let slow = health.slow_reason().filter(|_| health.eligible());
        let (name, reason) = (Arc::clone(&config.name), slow.unwrap_or_else(|| health.reason().to_owned()));
        self.outages.left(&name, &reason, now);
    }

    /// An endpoint answered positively what had been accepted then.
    pub(super) fn delivered_in_outage(&mut self, endpoint: &Arc<str>, accepted_at: Option<UnixMillis>, now: Moment) {
        let active = self.failover.active().iter().any(|e| self.failover.endpoint(*e).is_some_and(|config| config.name == *endpoint));
        if active {
            self.outages.delivered(endpoint, accepted_at, now);
        }
    }

    /// Whether the outage goes on, and what is to be told.
    pub(super) fn settle_outages(&mut self, now: Moment) {
        if self.outages.running(now.at).is_some() {
            let active = self.active_names();
            let (outages, failover) = (&mut self.outages, &self.failover);
            outages.settle(&active, |name| failover.standing(name, now.at), now);
        }
        while let Some(told) = self.outages.next_told() {
            let event =
                |outage: Box<Outage>, over| Event::Outage { destination: Arc::clone(&self.destination.name), outage: Arc::from(outage), over };
            self.actions.push_back(match told {
                Told::Opened(outage) => Action::Emit(event(outage, false)),
                Told::Closed(outage) => Action::Emit(event(outage, true)),
                Told::Keep { slot, outage } => {
                    let name = format!("{OUTAGE}{}/{slot}", self.destination.name);
                    // It has neither maps nor anything else that JSON could refuse.
                    Action::Remember { name, value: serde_json::to_vec(&*outage).unwrap_or_default() }
                }
            });
        }
    }
}
