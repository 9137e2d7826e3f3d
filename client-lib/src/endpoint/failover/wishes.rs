//! What people and sites want of the endpoints: shift, drain, disable, failback, follow; and the wall clock that ends a shift.
//! Rules: the head of `failover`. Errors: `ShiftRefused`.

use super::{Change, Failover};
use crate::endpoint::pool::origin;
use crate::endpoint::wishes::{Follow, Liking, Shift, ShiftNews, ShiftRefused, Standing, Wishes, names};
use crate::endpoint::{Admin, EndpointSet};
use crate::ids::EndpointId;
use jiff::tz::TimeZone;
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Failover {
    // ---- shifts ----

    /// The shift that stands, and whether it is suspended.
    #[must_use]
    pub fn shift(&self) -> Option<(&Shift, bool)> {
        self.wishes.shift.as_ref().map(|standing| (&standing.shift, standing.suspended))
    }

    /// Whether a shift would be taken now: nothing changes.
    /// # Errors
    /// Why not.
    pub fn may_shift(&self, to: &str, forced: bool) -> Result<(), ShiftRefused> {
        let target = self.named(to).min_by_key(|e| (!self.places[e.index()].trusted(), *e)).ok_or_else(|| ShiftRefused::Unknown(to.to_owned()))?;
        let place = &self.places[target.index()];
        if let Some((standing, _)) = self.shift() {
            return Err(ShiftRefused::Standing { to: Arc::clone(&standing.to), by: Arc::clone(&standing.by) });
        }
        if place.admin != Admin::Enabled {
            return Err(ShiftRefused::NotEnabled { to: to.to_owned(), admin: place.admin.name() });
        }
        if !place.trusted() && !forced {
            return Err(ShiftRefused::NotHealthy { to: to.to_owned(), reason: place.health.reason().to_owned() });
        }
        Ok(())
    }

    /// An operator moves the destination to an endpoint, for a time. If it is not trusted (`forced`), one envelope goes there at once.
    /// # Errors
    /// As `may_shift`.
    pub fn begin_shift(&mut self, shift: Shift, now: Instant) -> Result<(), ShiftRefused> {
        self.may_shift(&shift.to, shift.forced)?;
        let why = format!("{} wished by {}: {}", shift.to, shift.by, shift.reason);
        self.changes.push_back(Change::Shift { to: Arc::clone(&shift.to), news: ShiftNews::Begun, reason: why.clone() });
        let targets: Vec<EndpointId> = self.named(&shift.to).collect();
        self.wishes.shift = Some(Standing { shift, suspended: false });
        for endpoint in targets {
            let place = &mut self.places[endpoint.index()];
            if place.trusted() {
                if place.out.is_some() {
                    place.bring_back(now);
                }
            } else if place.admin == Admin::Enabled {
                place.demanded = true;
                self.demand_behind(endpoint);
                self.hope(endpoint, now);
            }
        }
        self.review(now, why.clone());
        if self.shift().is_some_and(|(_, suspended)| !suspended) {
            self.reason = why;
        }
        Ok(())
    }

    /// An operator ends the shift. `None`: there is none.
    pub fn end_shift(&mut self, why: &str, now: Instant) -> Option<Shift> {
        let Standing { shift, .. } = self.wishes.shift.take()?;
        for endpoint in self.order() {
            self.places[endpoint.index()].demanded = false;
        }
        self.changes.push_back(Change::Shift { to: Arc::clone(&shift.to), news: ShiftNews::Ended, reason: why.to_owned() });
        let before = self.active.clone();
        self.review(now, format!("the shift to {} ended: {why}", shift.to));
        if before == self.active && !before.is_empty() {
            self.reason = format!("the shift to {} ended ({why}), and nothing better liked is in service", shift.to);
        }
        Some(shift)
    }

    /// What an earlier run was told. Before anything else.
    pub fn restore(&mut self, wishes: Wishes, now: Instant) {
        self.wishes.shift = wishes.shift.map(|shift| Standing { shift, suspended: false });
        self.wishes.admin = wishes.admin;
        self.apply_admin();
        self.drop_lost_shift(now);
        let why = self.shift().map_or_else(|| "first of the list".to_owned(), |(s, _)| format!("{} wished by {}: {}", s.to, s.by, s.reason));
        self.review(now, why.clone());
        if !self.active.is_empty() {
            self.reason = why;
        }
    }

    /// Takes over the wishes of a machine that stood here before.
    pub fn inherit_wishes(&mut self, old: &Failover, now: Instant) {
        self.inherit(old);
        self.review(now, "the delivery loop was started again".to_owned());
    }

    /// Takes over what outlives new settings.
    pub(super) fn inherit(&mut self, old: &Failover) {
        self.wishes = old.wishes.clone();
        self.clock = old.clock;
        self.zone = old.zone.clone();
        self.apply_admin();
    }

    fn apply_admin(&mut self) {
        for place in &mut self.places {
            place.admin = self.wishes.admin_of(&place.config);
        }
    }

    /// A shift to an endpoint that is configured no longer is over.
    pub(super) fn drop_lost_shift(&mut self, now: Instant) {
        // A member of a pool may be away for now: names are not always known.
        let known = |name: &str| self.places.iter().any(|p| origin(&p.config.name) == origin(name));
        if self.shift().is_some_and(|(shift, _)| !known(&shift.to)) {
            self.end_shift("its endpoint is no longer configured", now);
        }
    }

    /// Tells when the shift's endpoint lost the traffic, or got it back.
    pub(super) fn mind_shift(&mut self) {
        let reason = self.reason.clone();
        let Some(to) = self.shift().map(|(shift, _)| Arc::clone(&shift.to)) else { return };
        let gets_it = self.active.first().is_some_and(|e| names(&to, &self.places[e.index()].config));
        let Some(standing) = &mut self.wishes.shift else { return };
        if standing.suspended == gets_it {
            standing.suspended = !gets_it;
            let news = if gets_it { ShiftNews::Resumed } else { ShiftNews::Suspended };
            self.changes.push_back(Change::Shift { to, news, reason });
        }
    }

    // ---- sites ----

    /// The site's other destinations moved, or came back (`None`).
    pub fn follow(&mut self, follow: Option<Follow>, now: Instant) {
        if self.wishes.follow == follow {
            return;
        }
        let ended = |old: &Follow| format!("site {} is no longer left", old.leaves);
        let why = follow.as_ref().map(|f| f.why.to_string()).or(self.wishes.follow.as_ref().map(ended)).unwrap_or_default();
        self.wishes.follow = follow;
        self.review(now, why);
    }

    // ---- endpoints ----

    /// People changed their mind about an endpoint, or a pool of them. An endpoint that they enable is in service at once if it is trusted.
    /// False: there is none of this name.
    pub fn set_admin(&mut self, name: &Arc<str>, admin: Admin, by: &str, now: Instant) -> bool {
        let meant: Vec<EndpointId> = self.named(name).collect();
        if meant.is_empty() {
            return false;
        }
        self.wishes.admin.remove(name);
        if admin != Admin::Enabled {
            self.wishes.admin.insert(Arc::clone(name), admin);
        }
        let why = format!("{name} {} by {by}", admin.name());
        for endpoint in meant {
            self.places[endpoint.index()].admin = admin;
            self.changes.push_back(Change::Admin { endpoint, reason: why.clone() });
            if admin != Admin::Enabled {
                self.changes.push_back(Change::Left(endpoint));
            }
        }
        let usable = self.usable();
        if let Some(stall) = &mut self.stall {
            stall.sweep = usable;
        }
        self.review(now, why);
        true
    }

    /// Whether traffic would have nowhere to go by people's wish if this endpoint got none.
    #[must_use]
    pub fn is_last_enabled(&self, name: &str) -> bool {
        self.places.iter().all(|p| names(name, &p.config) || p.admin != Admin::Enabled)
    }

    /// An operator wants the best liked endpoint back that can be had, now. False: none before the active one is good.
    pub fn failback_now(&mut self, now: Instant) -> bool {
        let before: Vec<EndpointId> = self.liked().take_while(|e| !self.active.contains(e)).collect();
        if let Some(endpoint) = before.iter().copied().find(|e| self.places[e.index()].trusted() || self.places[e.index()].health.wants_canary())
            && self.waits_behind(endpoint, true)
        {
            return true;
        }
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

    /// Attempts under way at an endpoint, or at those of a pool.
    #[must_use]
    pub fn outstanding(&self, endpoint: EndpointId) -> u32 {
        self.places.get(endpoint.index()).map_or(0, |p| p.outstanding)
    }

    /// The endpoints that a name means.
    fn named(&self, name: &str) -> impl Iterator<Item = EndpointId> {
        self.order().filter(move |e| names(name, &self.places[e.index()].config))
    }

    /// The endpoints that a name means, in the configured order.
    #[must_use]
    pub fn find(&self, name: &str) -> EndpointSet {
        let mut found = EndpointSet::EMPTY;
        self.named(name).for_each(|e| found.insert(e));
        found
    }

    // ---- the wall clock ----

    /// The zone in which `failback_window` is meant. UTC before it is told.
    pub fn keep_zone(&mut self, zone: TimeZone) {
        self.zone = zone;
    }

    /// The wall clock shows this (milliseconds since 1970). A shift whose time is over ends here.
    pub fn on_clock(&mut self, wall: u64, now: Instant) {
        self.clock = Some((now, wall));
        if self.shift().is_some_and(|(shift, _)| shift.until <= wall) {
            self.end_shift("its time is over", now);
        }
    }

    /// When the wall clock has something to say, if ever. It may be set meanwhile: what depends on it is looked at again and again.
    pub(super) fn clock_at(&self, now: Instant) -> Option<Instant> {
        let (read, wall) = self.clock?;
        let (shift, _) = self.shift()?;
        let end = read + Duration::from_millis(shift.until.saturating_sub(wall));
        Some(end.min(now + LOOK_AGAIN).max(now + Duration::from_millis(1)))
    }

    /// How long voluntary returns have still to wait for `failback_window`. Before the time is known, they wait.
    pub(super) fn window_opens_in(&self, now: Instant) -> Duration {
        let Some(window) = self.window else { return Duration::ZERO };
        let Some((read, wall)) = self.clock else { return LOOK_AGAIN };
        let wall = wall.saturating_add(u64::try_from(now.saturating_duration_since(read).as_millis()).unwrap_or(u64::MAX));
        window.opens_in(wall, &self.zone).min(LOOK_AGAIN)
    }

    /// What the destination waits for before it goes where it would rather be; for people.
    #[must_use]
    pub fn outlook(&self, now: Instant) -> Option<String> {
        if let (Some(follow), Some(active), None) = (&self.wishes.follow, self.active.first(), self.shift()) {
            let stays = self.wishes.liking(&self.places[active.index()].config) != Liking::Followed;
            let there = follow.to.as_ref().map_or_else(|| "anywhere else".to_owned(), |to| format!("at site {to}"));
            if stays {
                return Some(format!("{}, but no endpoint {there} is eligible: it stays", follow.why));
            }
        }
        let best = self.liked().find(|e| self.places[e.index()].admin == Admin::Enabled)?;
        let place = &self.places[best.index()];
        if self.active.is_empty() || self.active.contains(&best) || !(place.trusted() || place.health.wants_canary()) {
            return None;
        }
        let name = &place.config.name;
        if !self.auto {
            return Some(format!("{name} is good, and failback is manual: `everpost destination failback` returns to it"));
        }
        if let Some(window) = self.window.filter(|_| !self.window_opens_in(now).is_zero()) {
            return Some(format!("{name} is good; the return waits for failback_window {window}"));
        }
        let rest = (place.health.good_since()? + place.hold_down).saturating_duration_since(now).as_secs();
        Some(format!("{name} is good; it returns after {rest} s more of good probes"))
    }
}

/// The wall clock is looked at again so often where something depends on it: it may be set.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
