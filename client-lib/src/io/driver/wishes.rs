//! What people and sites want of a running destination. The caller makes a wish durable before it acts.
//! Errors: `ShiftRefused`.

use super::{Driver, PROBE_GRACE, now};
use crate::config::Fault;
use crate::delivery::Phase;
use crate::delivery::engine::Engine;
use crate::delivery::outages::Outage;
use crate::delivery::status::ShiftStatus;
use crate::endpoint::Admin;
use crate::endpoint::sites::Whereabouts;
use crate::endpoint::wishes::{Follow, Shift, ShiftRefused};
use crate::io::courier::ProbeFailure;
use crate::spool::{Answered, Mark, Planned, Range, ReplayOrder, Since, SpoolError};
use std::sync::Arc;
use std::time::Duration;

impl Driver {
    /// Whether a shift would be taken now: nothing changes.
    /// # Errors
    /// Why not.
    pub fn may_shift(&self, to: &str, forced: bool) -> Result<(), ShiftRefused> {
        self.0.core().engine.may_shift(to, forced)
    }

    /// Moves the destination to an endpoint, for a time.
    /// # Errors
    /// Why not.
    pub fn begin_shift(&self, shift: Shift) -> Result<(), ShiftRefused> {
        self.wished(|engine| engine.begin_shift(shift, now()))
    }

    /// Ends the shift. `None`: there is none.
    pub fn end_shift(&self, why: &str) -> Option<Shift> {
        self.wished(|engine| engine.end_shift(why, now()))
    }

    /// The shift that stands.
    #[must_use]
    pub fn shift(&self) -> Option<ShiftStatus> {
        self.0.core().engine.shift()
    }

    /// The site's other destinations moved, or came back (`None`).
    pub fn follow(&self, follow: Option<Follow>) {
        self.wished(|engine| engine.follow(follow, now()));
    }

    /// Where the destination delivers, by sites.
    #[must_use]
    pub fn whereabouts(&self) -> Whereabouts {
        self.0.core().engine.whereabouts()
    }

    /// Enables, drains or disables an endpoint. False: there is none of this name.
    pub fn set_admin(&self, endpoint: &Arc<str>, admin: Admin, by: &str) -> bool {
        self.wished(|engine| engine.set_admin(endpoint, admin, by, now()))
    }

    /// Whether the destination has an endpoint of this name.
    #[must_use]
    pub fn has_endpoint(&self, endpoint: &str) -> bool {
        !self.0.core().engine.find(endpoint).is_empty()
    }

    /// Whether traffic would have nowhere to go by people's wish if this endpoint got none.
    #[must_use]
    pub fn is_last_enabled(&self, endpoint: &str) -> bool {
        self.0.core().engine.is_last_enabled(endpoint)
    }

    /// The outages of the last 30 days, the latest first; and how long the one that runs has lasted, in milliseconds.
    #[must_use]
    pub fn outages(&self) -> (Vec<Outage>, Option<u64>) {
        let (core, now) = (self.0.core(), now());
        let outages = core.engine.outages();
        (outages.all(now.wall), outages.running(now.at).map(|(_, elapsed)| elapsed))
    }

    /// Lets every connection to an endpoint fail so, for a drill, unless it is said again within `lease`; `None`: no longer.
    pub fn simulate(&self, endpoint: &str, fault: Option<Fault>, lease: Duration) {
        let (found, courier) = {
            let core = self.0.core();
            (core.engine.find(endpoint), Arc::clone(&core.courier))
        };
        for endpoint in found {
            courier.simulate(endpoint, fault.map(|fault| (fault, tokio::time::Instant::now() + lease)));
        }
    }

    /// Outages from now on are those of a drill, or no longer.
    pub fn drill(&self, drill: bool) {
        self.0.core().engine.drill(drill);
    }

    /// What an endpoint has answered in this window, and another one has not. Reads history: blocks.
    /// # Errors
    /// `Disk`.
    pub fn exposed(&self, endpoint: &str, other: &str, window: Duration) -> Result<Planned, SpoolError> {
        let window = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        let since = Since::Mark(Mark { number: u64::MAX, at: now().wall.saturating_sub(window) });
        let ranges = vec![Range { endpoint: Some(endpoint.into()), since, until: None }];
        let unless = vec![Answered { endpoint: other.into(), doubt: None }];
        self.0.spool.plan_replay(self.0.id, &ReplayOrder { id: u64::MAX, ranges, unless, ahead: false })
    }

    /// Probes an endpoint now; for a pool, each of it in turn. What is seen counts as any probe does. `None`: there is none of this name.
    pub async fn probe(&self, endpoint: &str) -> Option<Vec<Probed>> {
        let (found, courier, generation) = {
            let core = self.0.core();
            let settings = |e: usize| core.engine.destination().endpoints.get(e).map(|c| (Arc::clone(&c.name), c.health.timeout + PROBE_GRACE));
            let found: Vec<_> = core.engine.find(endpoint).into_iter().filter_map(|e| Some((e, settings(e.index())?))).collect();
            (found, Arc::clone(&core.courier), core.generation)
        };
        let mut probed = Vec::new();
        for (endpoint, (name, within)) in found {
            let began = tokio::time::Instant::now();
            let late = ProbeFailure { phase: Phase::Connect, cause: "no result in time".to_owned() };
            let result = tokio::time::timeout(within, courier.probe(endpoint, false)).await.unwrap_or(Err(late));
            let mut core = self.0.core();
            if core.generation == generation {
                if let Ok(took) = &result {
                    core.engine.probe_answered_in(endpoint, *took, now());
                }
                core.engine.probed(endpoint, result.as_ref().map(|_| ()).map_err(|f| (f.phase, f.cause.as_str())), now());
                self.0.perform(&mut core);
            }
            probed.push(Probed { endpoint: name, took: began.elapsed(), failure: result.err() });
        }
        self.0.wake.notify_one();
        (!probed.is_empty()).then_some(probed)
    }

    fn wished<T>(&self, wish: impl FnOnce(&mut Engine) -> T) -> T {
        let mut core = self.0.core();
        let answer = wish(&mut core.engine);
        self.0.perform(&mut core);
        drop(core);
        self.0.wake.notify_one();
        answer
    }
}

/// What a probe by hand saw.
#[derive(Debug)]
pub struct Probed {
    /// Of which endpoint.
    pub endpoint: Arc<str>,
    /// How long it took.
    pub took: Duration,
    /// Why it failed, if it did.
    pub failure: Option<ProbeFailure>,
}
