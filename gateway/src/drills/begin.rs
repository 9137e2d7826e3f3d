//! Beginning a drill: whether it may, what exactly it does, and its record before anything of it acts.
//! Rules: a drill begins only where everything is well: the preferred endpoint active, the other one healthy, nobody's shift, no outage, no replay.
//! Errors: `DrillRefused`, with what to do.

use super::record::Record;
use super::{moment, run};
use crate::live::{Live, Running, WishError, now};
use crate::status::time;
use everpost_client::config::{Destination, DrillSettings, Fault, Policy, Probe};
use everpost_client::delivery::drill::{Drill, Outcome, Plan, Synthetic};
use everpost_client::delivery::status::{DestinationStatus, EndpointStatus};
use everpost_client::io::courier::Parcel;
use everpost_client::io::mllp_link::read_file;
use everpost_client::keys::Protocol;
use everpost_client::spool::{Planned, SpoolError};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long a drill waits for the other endpoint, beyond what detection may take by the settings.
const TAKEOVER_GRACE: Duration = Duration::from_secs(60);

/// How long traffic may take to come back, beyond `hold_down`.
const RETURN_GRACE: Duration = Duration::from_secs(300);

/// People who took part.
pub const PARTICIPANTS_MAX: usize = 32;

/// A drill as it is asked for. What is not said is as in the configuration.
#[derive(Debug, Clone, Default)]
pub struct DrillWish {
    /// Simulate this.
    pub fault: Option<Fault>,
    /// To this endpoint.
    pub to: Option<String>,
    /// Shift real traffic.
    pub real: bool,
    /// Stay so long.
    pub stay: Option<Duration>,
    /// Wait so long for the other endpoint.
    pub within: Option<Duration>,
    /// Percent of failed attempts at which it stops.
    pub max_errors: Option<u16>,
    /// Age of the oldest waiting envelope at which it stops.
    pub max_age: Option<Duration>,
    /// Who takes part.
    pub participants: Vec<String>,
    /// For the report.
    pub notes: Vec<String>,
    /// For the report.
    pub corrective: Vec<String>,
    /// For the report: when the next one is.
    pub next: Option<String>,
    /// Who begins it.
    pub by: String,
    /// When it was due (milliseconds since 1970), if by its schedule.
    pub scheduled: Option<u64>,
    /// Say what would be, and do nothing.
    pub dry_run: bool,
}

/// Why a drill was not begun.
#[derive(Debug, thiserror::Error)]
pub enum DrillRefused {
    /// Not configured, or another wish could not be taken.
    #[error(transparent)]
    Wish(#[from] WishError),
    /// The configuration has nothing to drill.
    #[error("{0}")]
    Impossible(String),
    /// Not now.
    #[error("{0}")]
    NotNow(String),
    /// Its test message cannot be read.
    #[error("the test message {} cannot be read: {cause}", file.display())]
    Message {
        /// The file.
        file: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// Its report could not be written, so it was not begun.
    #[error("the report cannot be written, so nothing was begun: {0}")]
    Report(#[from] std::io::Error),
    /// History could not be read.
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

/// What a drill needs beside its machine.
pub(super) struct Ready {
    pub(super) record: Record,
    pub(super) plan: Plan,
    pub(super) parcel: Option<Parcel>,
    pub(super) patience: (Duration, Duration),
}

impl Live {
    /// Begins a drill, or says what it would be. Its record is durable before it acts.
    /// # Errors
    /// `DrillRefused`.
    pub async fn begin_drill(self: &Arc<Self>, destination: &str, wish: DrillWish) -> Result<Record, DrillRefused> {
        let _turn = self.wishing().lock().await;
        let running = self.running(destination)?;
        let ready = self.prepare_drill(&running, &wish).await?;
        if wish.dry_run {
            return Ok(ready.record);
        }
        let store = self.drills().store().ok_or_else(|| DrillRefused::NotNow("the gateway is starting".to_owned()))?;
        let (id, exposed) = (ready.record.id.clone(), ready.record.findings.exposed);
        let oldest = ready.record.findings.exposed_age.map(|age| now().saturating_sub(age));
        let machine = Arc::new(Mutex::new(Drill::begin(ready.plan.clone(), exposed.map(|count| (count, oldest)), moment())));
        if !self.drills().enter(destination, &id, &machine) {
            return Err(DrillRefused::NotNow(format!("another drill of {destination} runs; `everpost drill stop {destination}` ends it")));
        }
        let (written, first) = (store.clone(), ready.record.clone());
        let kept = tokio::task::spawn_blocking(move || written.write(&first)).await.map_err(std::io::Error::other).flatten();
        if let Err(e) = kept {
            self.drills().leave(destination);
            return Err(e.into());
        }
        let record = ready.record.clone();
        self.drills().tell(&record);
        tokio::spawn(run::run(self.clone(), running, ready, machine, store));
        Ok(record)
    }

    /// A scheduled drill that did not begin: its report says why, and an alarm stands.
    pub(super) async fn drill_missed(&self, destination: &str, due: u64, why: String) {
        let Some(store) = self.drills().store() else { return };
        let protocol = self.config().destinations.iter().find(|d| *d.name == *destination).map(|d| d.protocol.to_string()).unwrap_or_default();
        let mut record = Record {
            id: store.new_id(destination, now()),
            destination: destination.to_owned(),
            protocol,
            scheduled: Some(time(due)),
            by: "the schedule".to_owned(),
            begun: time(due),
            ..Record::default()
        };
        record.findings.issues.push(why);
        record.end(Outcome::Missed, now());
        run::finish(self, record, store).await;
    }

    async fn prepare_drill(&self, running: &Running, wish: &DrillWish) -> Result<Ready, DrillRefused> {
        let config = self.config();
        let unknown = || WishError::Unknown(running.name.to_string());
        let destination = config.destinations.iter().find(|d| d.name == running.name).cloned().ok_or_else(unknown)?;
        if let Some(id) = self.drills().line(&running.name).running {
            let what = format!("another drill of {} runs, {id}; `everpost drill stop {}` ends it", running.name, running.name);
            return Err(DrillRefused::NotNow(what));
        }
        let (status, settings) = (running.driver.status(), &destination.drill);
        let (from, to) = between(&destination, &status, wish)?;
        calm(&destination, &status, from, to, wish)?;
        let (synthetic, parcel) = synthetic(&destination, settings, wish).await?;
        let window = Some(destination.replay_window).filter(|window| !window.is_zero()).or(destination.objectives.rpo);
        let exposed = match window {
            None => None,
            Some(window) => Some(exposed(running, from, to, window).await?),
        };
        let name = |e: &EndpointStatus| -> Arc<str> { e.name.as_str().into() };
        let detection = destination.ack_timeout.max(destination.connect_timeout) * u32::from(destination.attempts_before_failover.max(2));
        let plan = Plan {
            from: name(from),
            to: name(to),
            fault: wish.fault,
            real: wish.real,
            synthetic,
            stay: wish.stay.unwrap_or(settings.stay),
            within: wish.within.unwrap_or(detection + TAKEOVER_GRACE),
            return_within: destination.hold_down + RETURN_GRACE,
            max_errors: wish.max_errors.unwrap_or(settings.max_errors),
            max_age: wish.max_age.unwrap_or(settings.max_age),
            strict: destination.ordering == everpost_client::config::Ordering::Strict,
            rto: destination.objectives.rto,
            rpo: destination.objectives.rpo,
        };
        let begun = now();
        let seconds = |time: Duration| time.as_secs_f64();
        let next = wish.next.clone().or_else(|| self.drills().line(&running.name).next);
        let mut record = Record {
            id: self.drills().store().map(|store| store.new_id(&running.name, begun)).unwrap_or_default(),
            destination: running.name.to_string(),
            protocol: destination.protocol.to_string(),
            running: true,
            scheduled: wish.scheduled.map(time),
            by: wish.by.clone(),
            participants: wish.participants.clone(),
            begun: time(begun),
            from: from.name.clone(),
            to: to.name.clone(),
            fault: wish.fault.map(|fault| fault.name().to_owned()),
            real: wish.real,
            synthetic: Some(synthetic),
            stay_seconds: seconds(plan.stay),
            max_errors: plan.max_errors,
            max_age_seconds: seconds(plan.max_age),
            rto_seconds: plan.rto.map(seconds),
            rpo_seconds: plan.rpo.map(seconds),
            window_seconds: window.map(seconds),
            notes: wish.notes.clone(),
            corrective: wish.corrective.clone(),
            next,
            ..Record::default()
        };
        record.findings.exposed = exposed.map(|planned| planned.envelopes);
        record.findings.exposed_age = exposed.and_then(|planned| planned.accepted).map(|(oldest, _)| begun.saturating_sub(oldest));
        Ok(Ready { record, plan, parcel, patience: (destination.connect_timeout, destination.ack_timeout) })
    }
}

/// The endpoint that is active, and the one to go to.
fn between<'a>(
    destination: &Destination,
    status: &'a DestinationStatus,
    wish: &DrillWish,
) -> Result<(&'a EndpointStatus, &'a EndpointStatus), DrillRefused> {
    let name = &status.name;
    let row = |name: &str| status.endpoints.iter().find(|e| e.name == name);
    if destination.policy != Policy::Failover {
        let what =
            format!("{name} has `policy = \"{}\"`: all its endpoints are in use all the time, there is nothing to fail over to", status.policy);
        return Err(DrillRefused::Impossible(what));
    }
    let Some(from) = status.active.first().and_then(|active| row(active)) else {
        return Err(DrillRefused::NotNow(format!("no endpoint of {name} is good; `everpost status` says why")));
    };
    let wanted = wish.to.as_deref().or(destination.drill.to.as_deref());
    let to = match wanted {
        Some(to) => row(to).ok_or_else(|| DrillRefused::Impossible(format!("{name} has no endpoint {to}; `everpost status` lists them")))?,
        None => status.endpoints.iter().find(|e| e.name != from.name).ok_or_else(|| {
            DrillRefused::Impossible(format!("{name} has one endpoint only: there is nothing to fail over to; add a second [[destination.endpoint]]"))
        })?,
    };
    if to.name == from.name {
        return Err(DrillRefused::NotNow(format!("{name} delivers to {} already; a drill goes to another endpoint", to.name)));
    }
    let configured = destination.endpoints.iter().find(|e| *e.name == *from.name);
    if wish.fault == Some(Fault::Dns) && configured.is_some_and(|e| e.host.parse::<IpAddr>().is_ok()) {
        return Err(DrillRefused::Impossible(format!(
            "{} is configured by its address: there is no name that could fail; use another --fault",
            from.name
        )));
    }
    Ok((from, to))
}

/// Whether everything is well.
fn calm(
    destination: &Destination,
    status: &DestinationStatus,
    from: &EndpointStatus,
    to: &EndpointStatus,
    wish: &DrillWish,
) -> Result<(), DrillRefused> {
    let name = &status.name;
    let not_now = |what: String| Err(DrillRefused::NotNow(what));
    let good = |e: &EndpointStatus| matches!(e.health, "up" | "degraded") && e.admin == "enabled";
    if status.paused {
        return not_now(format!("{name} is paused; `everpost destination resume {name}` first"));
    }
    if let Some(shift) = &status.shift {
        return not_now(format!("{name} is shifted to {} by {}; end that first: `everpost endpoint unshift {name}`", shift.shift.to, shift.shift.by));
    }
    if let Some(running) = &status.objectives.outage {
        return not_now(format!("{name} has an outage of {} now; a drill begins where everything is well", running.outage.endpoint));
    }
    if status.endpoints.first().is_some_and(|first| first.name != from.name) {
        return not_now(format!("{name} delivers to {}, not to its preferred endpoint; `everpost destination failback {name}` first", from.name));
    }
    if let Some(e) = [from, to].into_iter().find(|e| !good(e)) {
        return not_now(format!("{} is not healthy ({}, {}): {}; mend that first", e.name, e.health, e.admin, e.reason));
    }
    if to.ready == Some(false) && (wish.real || wish.fault.is_some()) {
        return not_now(format!("{} would refuse what goes to {name} now: {}; mend that first", to.name, to.degraded.join("; ")));
    }
    let max_age = wish.max_age.unwrap_or(destination.drill.max_age);
    if Duration::from_secs(status.oldest_waiting_seconds) >= max_age {
        return not_now(format!(
            "{name}: the oldest envelope has waited for {} s already: the drill would stop at once",
            status.oldest_waiting_seconds
        ));
    }
    if let Some(replay) = &status.replay {
        return not_now(format!("{name}: {replay}; try again when that is over"));
    }
    Ok(())
}

/// What is sent to see an answer.
async fn synthetic(destination: &Destination, settings: &DrillSettings, wish: &DrillWish) -> Result<(Synthetic, Option<Parcel>), DrillRefused> {
    if destination.protocol == Protocol::Dicom {
        let stores = settings.store || destination.endpoints.iter().all(|e| matches!(e.health.probe, Probe::DicomStore { .. }));
        return Ok(if stores { (Synthetic::Message, Some(Parcel::synthetic_object())) } else { (Synthetic::Echo, None) });
    }
    let probed = || destination.endpoints.iter().find_map(|e| if let Probe::Mllp(file) = &e.health.probe { Some(file.clone()) } else { None });
    match settings.message.clone().or_else(probed) {
        Some(file) => match read_file(&file).await {
            Ok(message) => Ok((Synthetic::Message, Some(Parcel::message(message)))),
            Err(cause) => Err(DrillRefused::Message { file, cause }),
        },
        None if wish.real || wish.fault.is_some() => Ok((Synthetic::None, None)),
        None => Err(DrillRefused::Impossible(format!(
            "{} has no test message to drill with: name a file with one, of a marked test patient, as `drill = {{ message = \"test.hl7\" }}` (or for the \
             probe `mllp`); or drill with real traffic: --real, or --fault",
            destination.name
        ))),
    }
}

/// What the lost side has answered in the window and the other one has not.
async fn exposed(running: &Running, from: &EndpointStatus, to: &EndpointStatus, window: Duration) -> Result<Planned, DrillRefused> {
    let (driver, from, to) = (running.driver.clone(), from.name.clone(), to.name.clone());
    let planned = tokio::task::spawn_blocking(move || driver.exposed(&from, &to, window)).await;
    Ok(planned.map_err(std::io::Error::other)??)
}
