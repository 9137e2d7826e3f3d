//! Operators' wishes for endpoints and sites: shift, unshift, drain, enable, disable, probe.
//! Rules: a wish is durable before it acts, and names what it means by the names of the configuration, so that it survives restarts and reloads; one
//! wish is taken at a time. A shift ends by the wall clock, and its record is forgotten then. Shifting a site shifts each of its destinations, all or
//! nothing: triggers first, then followers in their order, then the rest.
//! Errors: `WishError`: unknown names, refusals with what to do, a record that could not be made durable.

use crate::config::Config;
use crate::live::{Live, PAUSED, Running, WishError, now};
use everpost_client::endpoint::Admin;
use everpost_client::endpoint::wishes::{Shift, ShiftRefused, Wishes};
use everpost_client::io::driver::Probed;
use everpost_client::spool::Spool;
use std::sync::Arc;
use std::time::Duration;

/// Name of a remembered shift, before the destination's name.
const SHIFT: &str = "shift/";

/// Name of a remembered drain or disabling, before `DESTINATION/ENDPOINT`.
const ADMIN: &str = "admin/";

/// How long a shift stands when nothing is said.
pub const SHIFT_DEFAULT: Duration = Duration::from_secs(3_600);

/// The longest shift: what shall last longer belongs into the configuration.
pub const SHIFT_MAX: Duration = Duration::from_secs(30 * 86_400);

/// Characters of a reason or of a name of a person.
pub const REASON_CHARS_MAX: usize = 200;

/// A shift as it is asked for.
#[derive(Debug, Clone)]
pub struct ShiftWish {
    /// Why.
    pub reason: String,
    /// Who.
    pub by: String,
    /// For how long.
    pub time: Duration,
    /// To an endpoint that may not be healthy.
    pub forced: bool,
    /// Say what would be, and change nothing.
    pub dry_run: bool,
}

/// What a shift does, or would do.
#[derive(Debug, Clone)]
pub struct Planned {
    /// Of which destination.
    pub destination: Arc<str>,
    /// What is active now.
    pub from: Vec<String>,
    /// As it is remembered.
    pub shift: Shift,
}

/// What people wished of a destination in earlier runs.
#[must_use]
pub fn remembered(spool: &Spool, destination: &str) -> Wishes {
    let mut wishes = Wishes::default();
    for (name, value) in spool.remembered().into_iter().filter(|(_, value)| !value.is_empty()) {
        if name.strip_prefix(PAUSED) == Some(destination) {
            wishes.paused = true;
        } else if name.strip_prefix(SHIFT) == Some(destination) {
            match serde_json::from_slice(&value) {
                Ok(shift) => wishes.shift = Some(shift),
                Err(e) => tracing::error!(about = destination, "a remembered shift cannot be read and is not acted on: {e}"),
            }
        } else if let Some((of, endpoint)) = name.strip_prefix(ADMIN).and_then(|rest| rest.split_once('/'))
            && of == destination
        {
            let admin = if value == b"disabled" { Admin::Disabled } else { Admin::Draining };
            wishes.admin.insert(endpoint.into(), admin);
        }
    }
    wishes
}

impl Live {
    /// Moves a destination to an endpoint, for a time.
    /// # Errors
    /// `WishError`.
    pub async fn shift(&self, destination: &str, to: &str, wish: &ShiftWish) -> Result<Planned, WishError> {
        let _turn = self.wishing().lock().await;
        let running = self.running(destination)?;
        let planned = plan(&running, to, None, wish)?;
        if !wish.dry_run {
            self.begin(&running, &planned).await?;
        }
        Ok(planned)
    }

    /// Ends the shift of a destination. `None`: there is none.
    /// # Errors
    /// `WishError`.
    pub async fn unshift(&self, destination: &str, by: &str) -> Result<Option<Shift>, WishError> {
        let _turn = self.wishing().lock().await;
        let running = self.running(destination)?;
        self.end(&running, by).await
    }

    async fn begin(&self, running: &Running, planned: &Planned) -> Result<(), WishError> {
        let name = format!("{SHIFT}{}", running.name);
        let value = serde_json::to_vec(&planned.shift).unwrap_or_default();
        self.committer().remember(&name, &value).await?;
        if let Err(refused) = running.driver.begin_shift(planned.shift.clone()) {
            // What was good a moment ago is not: nothing of it stands.
            self.committer().remember(&name, b"").await?;
            return Err(refused.into());
        }
        Ok(())
    }

    async fn end(&self, running: &Running, by: &str) -> Result<Option<Shift>, WishError> {
        self.committer().remember(&format!("{SHIFT}{}", running.name), b"").await?;
        Ok(running.driver.end_shift(&format!("ended by {by}")))
    }

    /// Forgets the records of shifts that ended by themselves.
    pub async fn forget_ended_shifts(&self) {
        let _turn = self.wishing().lock().await;
        for (name, value) in self.committer().spool().remembered() {
            let Some(destination) = name.strip_prefix(SHIFT).filter(|_| !value.is_empty()) else { continue };
            let Ok(running) = self.running(destination) else { continue };
            if running.driver.shift().is_none()
                && let Err(e) = self.committer().remember(&name, b"").await
            {
                tracing::warn!(about = destination, "the end of a shift could not be recorded, it ends again after a restart: {e}");
            }
        }
    }

    /// Enables, drains or disables an endpoint.
    /// # Errors
    /// `WishError`.
    pub async fn set_admin(&self, destination: &str, endpoint: &str, admin: Admin, by: &str, forced: bool) -> Result<(), WishError> {
        let _turn = self.wishing().lock().await;
        let running = self.running(destination)?;
        if !running.driver.has_endpoint(endpoint) {
            return Err(ShiftRefused::Unknown(endpoint.to_owned()).into());
        }
        if admin != Admin::Enabled && !forced && running.driver.is_last_enabled(endpoint) {
            return Err(WishError::LastEnabled { destination: destination.to_owned(), endpoint: endpoint.to_owned() });
        }
        let value: &[u8] = if admin == Admin::Enabled { b"" } else { admin.name().as_bytes() };
        self.committer().remember(&format!("{ADMIN}{destination}/{endpoint}"), value).await?;
        running.driver.set_admin(&endpoint.into(), admin, by);
        Ok(())
    }

    /// Probes an endpoint now.
    /// # Errors
    /// `WishError`.
    pub async fn probe(&self, destination: &str, endpoint: &str) -> Result<Vec<Probed>, WishError> {
        let probed = self.running(destination)?.driver.probe(endpoint).await;
        probed.ok_or_else(|| ShiftRefused::Unknown(endpoint.to_owned()).into())
    }

    /// Moves every destination of a site away from it, all or nothing: to another site if one is named, else wherever it is good.
    /// # Errors
    /// `WishError`; then nothing has changed.
    pub async fn shift_site(&self, site: &str, to: Option<&str>, wish: &ShiftWish) -> Result<Vec<Planned>, WishError> {
        let _turn = self.wishing().lock().await;
        let config = self.config();
        for name in std::iter::once(site).chain(to) {
            if !config.sites.iter().any(|s| &*s.name == name) {
                return Err(WishError::UnknownSite(name.to_owned()));
            }
        }
        let mut plans = Vec::new();
        for running in self.of_site(&config, site) {
            let planned = away(&config, &running, site, to, wish)?;
            plans.push((running, planned));
        }
        if plans.is_empty() {
            return Err(WishError::EmptySite(site.to_owned()));
        }
        if !wish.dry_run {
            for (at, (running, planned)) in plans.iter().enumerate() {
                if let Err(e) = self.begin(running, planned).await {
                    for (running, _) in &plans[..at] {
                        self.end(running, "the gateway: another destination of the site could not be shifted").await?;
                    }
                    return Err(e);
                }
            }
        }
        Ok(plans.into_iter().map(|(_, planned)| planned).collect())
    }

    /// Ends every shift that `shift_site` began. Gives the destinations.
    /// # Errors
    /// `WishError`.
    pub async fn unshift_site(&self, site: &str, by: &str) -> Result<Vec<Arc<str>>, WishError> {
        let _turn = self.wishing().lock().await;
        let config = self.config();
        if !config.sites.iter().any(|s| &*s.name == site) {
            return Err(WishError::UnknownSite(site.to_owned()));
        }
        let mut ended = Vec::new();
        for running in self.of_site(&config, site) {
            if running.driver.shift().is_some_and(|s| s.shift.site.as_deref() == Some(site)) {
                self.end(&running, by).await?;
                ended.push(running.name);
            }
        }
        Ok(ended)
    }

    /// The destinations with an endpoint at a site and one elsewhere: triggers first, then followers in their order, then the rest.
    fn of_site(&self, config: &Config, site: &str) -> Vec<Running> {
        let has = |name: &str, here: bool| {
            let of = config.destinations.iter().find(|d| *d.name == *name);
            of.is_some_and(|d| d.endpoints.iter().any(|e| (e.site.as_deref() == Some(site)) == here))
        };
        let coupled = config.sites.iter().find(|s| *s.name == *site);
        let rank = |name: &str| {
            let order: Vec<&Arc<str>> = coupled.iter().flat_map(|s| s.triggers.iter().chain(&s.followers)).collect();
            order.iter().position(|n| ***n == *name).unwrap_or(usize::MAX)
        };
        let mut members: Vec<Running> = self.destinations().into_iter().filter(|r| has(&r.name, true) && has(&r.name, false)).collect();
        members.sort_by_key(|r| rank(&r.name));
        members
    }
}

/// A shift to one endpoint, if it would be taken.
fn plan(running: &Running, to: &str, site: Option<&str>, wish: &ShiftWish) -> Result<Planned, WishError> {
    running.driver.may_shift(to, wish.forced)?;
    let since = now();
    let until = since.saturating_add(u64::try_from(wish.time.as_millis()).unwrap_or(u64::MAX));
    let shift = Shift {
        to: to.into(),
        reason: wish.reason.as_str().into(),
        by: wish.by.as_str().into(),
        since,
        until,
        site: site.map(Into::into),
        forced: wish.forced,
    };
    Ok(Planned { destination: running.name.clone(), from: running.driver.status().active, shift })
}

/// A shift to the first endpoint elsewhere that takes it.
fn away(config: &Config, running: &Running, site: &str, to: Option<&str>, wish: &ShiftWish) -> Result<Planned, WishError> {
    let endpoints = config.destinations.iter().find(|d| d.name == running.name).map(|d| d.endpoints.clone()).unwrap_or_default();
    let elsewhere = |e: &Option<Arc<str>>| e.as_deref() != Some(site) && to.is_none_or(|to| e.as_deref() == Some(to));
    let mut why = None;
    for endpoint in endpoints.iter().filter(|e| elsewhere(&e.site)) {
        match plan(running, &endpoint.name, Some(site), wish) {
            Ok(planned) => return Ok(planned),
            Err(e) => why = why.or(Some(e)),
        }
    }
    let name = running.name.to_string();
    Err(match (why, to) {
        (Some(e), _) => WishError::OfDestination { destination: name, cause: Box::new(e) },
        (None, to) => WishError::NowhereElse { destination: name, to: to.unwrap_or("another site").to_owned() },
    })
}
