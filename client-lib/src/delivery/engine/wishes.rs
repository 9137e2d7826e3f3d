//! What people and sites want of a destination, passed on to the failover machine; and what it tells of it.
//! Rules: the machine decides; after each wish its changes are told. Errors: `ShiftRefused`.

use super::{Action, Engine, Moment};
use crate::delivery::status::ShiftStatus;
use crate::endpoint::Admin;
use crate::endpoint::sites::Whereabouts;
use crate::endpoint::wishes::{Follow, Shift, ShiftRefused, Wishes};
use crate::event::Event;
use crate::ids::EndpointId;
use jiff::tz::TimeZone;
use std::sync::Arc;

impl Engine {
    /// What an earlier run was told. Before anything is taken.
    pub fn restore(&mut self, wishes: Wishes, now: Moment) {
        self.paused = wishes.paused;
        self.failover.on_clock(now.wall, now.at);
        self.failover.restore(wishes, now.at);
        self.failover.on_clock(now.wall, now.at);
        self.absorb(now);
    }

    /// The zone in which `failback_window` is meant.
    pub fn keep_zone(&mut self, zone: TimeZone) {
        self.failover.keep_zone(zone);
    }

    /// Whether a shift would be taken now: nothing changes.
    /// # Errors
    /// Why not.
    pub fn may_shift(&self, to: &str, forced: bool) -> Result<(), ShiftRefused> {
        self.failover.may_shift(to, forced)
    }

    /// An operator moves the destination to an endpoint, for a time.
    /// # Errors
    /// Why not.
    pub fn begin_shift(&mut self, shift: Shift, now: Moment) -> Result<(), ShiftRefused> {
        self.failover.on_clock(now.wall, now.at);
        self.failover.begin_shift(shift, now.at)?;
        self.absorb(now);
        Ok(())
    }

    /// An operator ends the shift. `None`: there is none.
    pub fn end_shift(&mut self, why: &str, now: Moment) -> Option<Shift> {
        let ended = self.failover.end_shift(why, now.at);
        self.absorb(now);
        ended
    }

    /// The shift that stands.
    #[must_use]
    pub fn shift(&self) -> Option<ShiftStatus> {
        let (shift, suspended) = self.failover.shift()?;
        Some(ShiftStatus { shift: shift.clone(), suspended })
    }

    /// The site's other destinations moved, or came back (`None`).
    pub fn follow(&mut self, follow: Option<Follow>, now: Moment) {
        self.failover.follow(follow, now.at);
        self.absorb(now);
    }

    /// Where the destination delivers, by sites.
    #[must_use]
    pub fn whereabouts(&self) -> Whereabouts {
        self.failover.whereabouts()
    }

    /// An operator enables, drains or disables an endpoint. False: there is none of this name.
    pub fn set_admin(&mut self, endpoint: &Arc<str>, admin: Admin, by: &str, now: Moment) -> bool {
        let known = self.failover.set_admin(endpoint, admin, by, now.at);
        self.absorb(now);
        known
    }

    /// Whether traffic would have nowhere to go by people's wish if this endpoint got none.
    #[must_use]
    pub fn is_last_enabled(&self, endpoint: &str) -> bool {
        self.failover.is_last_enabled(endpoint)
    }

    /// The endpoints a name means.
    #[must_use]
    pub fn find(&self, endpoint: &str) -> Vec<EndpointId> {
        let found = self.failover.find(endpoint);
        (0..self.failover.len()).filter_map(|i| u16::try_from(i).ok().map(EndpointId)).filter(|e| found.contains(*e)).collect()
    }

    /// What the destination waits for before it goes where it would rather be; for people.
    #[must_use]
    pub fn outlook(&self, now: Moment) -> Option<String> {
        self.failover.outlook(now.at)
    }

    pub(super) fn tell_admin(&mut self, endpoint: EndpointId, reason: String) {
        let (Some(config), Some(admin)) = (self.failover.endpoint(endpoint), self.failover.admin(endpoint)) else { return };
        let event = Event::Admin { destination: self.name(), endpoint: Arc::clone(&config.name), admin: admin.name(), reason };
        self.actions.push_back(Action::Emit(event));
    }

    /// Why an endpoint gets no traffic, where people wished so.
    pub(super) fn admin_reason(&self, endpoint: EndpointId, health: &str) -> String {
        match self.failover.admin(endpoint) {
            Some(Admin::Draining) => match self.failover.outstanding(endpoint) {
                0 => format!("drained; {health}"),
                1 => format!("draining, 1 attempt in flight; {health}"),
                count => format!("draining, {count} attempts in flight; {health}"),
            },
            Some(Admin::Disabled) => format!("disabled, not probed; seen last: {health}"),
            Some(Admin::Enabled) | None => health.to_owned(),
        }
    }
}
