//! The running gateway as the admin API sees it: what is configured, what runs, what stands out; and the operator's wishes it takes.
//! Rules: readers never wait for the disk or for a peer; a wish is durable before it acts, so that a restart does not forget it.
//! Errors: `SpoolError` of the wish's record; `Unknown` for a destination that is not configured.

use crate::capacity::Capacity;
use crate::config::Config;
use crate::drills::Drills;
use crate::intake::Intake;
use crate::listener::Doors;
use crate::metrics::Metrics;
use crate::status::{DestinationLine, ListenerLine, Report, SpoolLine};
use arc_swap::ArcSwap;
use everpost_client::endpoint::wishes::ShiftRefused;
use everpost_client::event::{Event, Refusal};
use everpost_client::ids::DestinationId;
use everpost_client::io::committer::Committer;
use everpost_client::io::driver::Driver;
use everpost_client::io::stop::Stopper;
use everpost_client::spool::{SpoolError, UnixMillis};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, oneshot};

/// Standing alarms, and incidents, kept for the status; the log has those beyond it.
const SIGNS_MAX: usize = 256;

/// How long an incident, which has no end of its own, keeps the status from being `ok`.
const INCIDENT_SHOWN: Duration = Duration::from_secs(3_600);

/// Name of the remembered wish that a destination be paused, before the destination's name.
pub const PAUSED: &str = "paused/";

/// What a reload did, or why it did nothing.
pub type Reloaded = Result<Vec<String>, Vec<String>>;

/// A wish to reload, and where the answer goes.
pub type ReloadWish = oneshot::Sender<Reloaded>;

/// A destination with its driver.
#[derive(Debug, Clone)]
pub struct Running {
    /// Its name.
    pub name: Arc<str>,
    /// Its id in the spool.
    pub id: DestinationId,
    /// Its task.
    pub driver: Driver,
    /// Ends the task.
    pub stopper: Stopper,
}

/// What events say that still deserves a look: alarms until they end, incidents for a while.
#[derive(Debug, Default)]
pub struct Signs(Mutex<Standing>);

/// Subject and text.
type Sign = (String, String);

#[derive(Debug, Default)]
struct Standing {
    alarms: BTreeSet<Sign>,
    incidents: BTreeMap<Sign, Instant>,
}

impl Signs {
    /// One event at `now`.
    pub fn read(&self, event: &Event, now: Instant) {
        match event {
            Event::Alarm { subject, what, raised: true } => self.change(|s| {
                if s.alarms.len() < SIGNS_MAX {
                    s.alarms.insert((subject.clone(), what.clone()));
                }
            }),
            Event::Alarm { subject, what, raised: false } => self.change(|s| {
                s.alarms.remove(&(subject.clone(), what.clone()));
            }),
            Event::Incident { subject, what } => self.change(|s| {
                s.incidents.retain(|_, seen| now.saturating_duration_since(*seen) < INCIDENT_SHOWN);
                if s.incidents.len() < SIGNS_MAX {
                    s.incidents.insert((subject.clone(), what.clone()), now);
                }
            }),
            _ => {}
        }
    }

    /// A destination is configured no longer: what stood about it has no end of its own.
    pub fn forget(&self, destination: &str) {
        let subject = format!("destination {destination}");
        self.change(|s| s.alarms.retain(|(about, _)| *about != subject && !about.starts_with(&format!("{subject},"))));
    }

    fn told(&self, now: Instant) -> Vec<String> {
        let mut told = Vec::new();
        self.change(|s| {
            s.incidents.retain(|_, seen| now.saturating_duration_since(*seen) < INCIDENT_SHOWN);
            told.extend(s.alarms.iter().chain(s.incidents.keys()).map(|(subject, what)| format!("{subject}: {what}")));
        });
        told
    }

    fn change(&self, f: impl FnOnce(&mut Standing)) {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Why a wish was not taken.
#[derive(Debug, thiserror::Error)]
pub enum WishError {
    /// Not configured.
    #[error("there is no destination {0} in the configuration; `everpost status` lists them")]
    Unknown(String),
    /// The endpoint is unknown, or the shift was refused.
    #[error(transparent)]
    Refused(#[from] ShiftRefused),
    /// The same, of one destination of several.
    #[error("destination {destination}: {cause}")]
    OfDestination {
        /// Which.
        destination: String,
        /// Why.
        cause: Box<WishError>,
    },
    /// Nothing would be delivered any more.
    #[error(
        "{endpoint} is the last enabled endpoint of {destination}: everything would wait in the spool; `everpost destination pause` says so plainly, \
         --force does it this way"
    )]
    LastEnabled {
        /// Of which destination.
        destination: String,
        /// Which.
        endpoint: String,
    },
    /// Not configured.
    #[error("there is no site {0} in the configuration; add [[site]]")]
    UnknownSite(String),
    /// Nothing to move.
    #[error("no destination has one endpoint at site {0} and one elsewhere; endpoints name their `site` in the configuration")]
    EmptySite(String),
    /// Nothing to move to.
    #[error("destination {destination} has no other endpoint at {to}; name another site, or give it one in the configuration")]
    NowhereElse {
        /// Which.
        destination: String,
        /// Where.
        to: String,
    },
    /// It could not be made durable.
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

/// Readers of events that the API asks.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    /// The registry.
    pub metrics: Arc<Metrics>,
    /// What stands.
    pub signs: Arc<Signs>,
    /// Failover drills.
    pub drills: Arc<Drills>,
}

/// The running gateway.
pub struct Live {
    config: ArcSwap<Config>,
    committer: Committer,
    intake: Arc<Intake>,
    doors: Arc<Doors>,
    watch: Watch,
    destinations: RwLock<Vec<Running>>,
    reload: mpsc::Sender<ReloadWish>,
    /// One wish at a time: what is recorded is what acts.
    wishing: tokio::sync::Mutex<()>,
    capacity: Mutex<Capacity>,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Live")
    }
}

impl Live {
    /// Nothing runs yet.
    #[must_use]
    pub fn new(
        config: Arc<Config>,
        committer: Committer,
        intake: Arc<Intake>,
        doors: Arc<Doors>,
        watch: Watch,
        reload: mpsc::Sender<ReloadWish>,
    ) -> Arc<Live> {
        let config = ArcSwap::new(config);
        let (destinations, wishing, capacity) = (RwLock::default(), tokio::sync::Mutex::default(), Mutex::default());
        Arc::new(Live { config, committer, intake, doors, watch, destinations, reload, wishing, capacity })
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// Another configuration is in force, with these destinations running.
    pub fn replace(&self, config: Arc<Config>, destinations: Vec<Running>) {
        self.watch.metrics.expect(&config);
        self.config.store(config);
        *self.destinations.write().unwrap_or_else(PoisonError::into_inner) = destinations;
    }

    /// What runs, in the order of the configuration.
    #[must_use]
    pub fn destinations(&self) -> Vec<Running> {
        self.destinations.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The spool, with its threads.
    #[must_use]
    pub fn committer(&self) -> &Committer {
        &self.committer
    }

    /// The registry.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.watch.metrics
    }

    /// Failover drills.
    #[must_use]
    pub fn drills(&self) -> &Drills {
        &self.watch.drills
    }

    /// Why messages are not taken now, if they are not.
    #[must_use]
    pub fn refusing(&self) -> Option<String> {
        self.intake.admit().err().map(|reason| {
            match reason {
                Refusal::Reserve => "the spool's reserve is reached; free disk space, intake resumes by itself",
                Refusal::Sync => "the spool cannot write; a fresh file is tried each second",
                Refusal::Stopping => "the gateway is stopping",
                other => other.label(),
            }
            .to_owned()
        })
    }

    /// The id a destination's name has in the spool, configured or not.
    #[must_use]
    pub fn destination_id(&self, name: &str) -> Option<DestinationId> {
        let running = self.destinations().into_iter().find(|d| &*d.name == name).map(|d| d.id);
        running.or_else(|| self.committer.spool().destinations().into_iter().find(|(_, n)| &**n == name).map(|(id, _)| id))
    }

    /// Looks at what passed through the spool; called each second.
    pub fn watch(&self, now: Instant) {
        let spool = self.committer.spool();
        let running = self.destinations();
        let mut flows: Vec<_> = running.iter().map(|d| (d.id, spool.flow(Some(d.id)))).collect();
        // Those no longer configured may still fill: messages of an earlier configuration wait there.
        flows
            .extend(spool.destinations().into_iter().filter(|(id, _)| running.iter().all(|d| d.id != *id)).map(|(id, _)| (id, spool.flow(Some(id)))));
        self.capacity.lock().unwrap_or_else(PoisonError::into_inner).observe(spool.flow(None), flows, now);
    }

    /// Everything, judged.
    #[must_use]
    pub fn report(&self) -> Report {
        let (config, spool) = (self.config(), self.committer.spool());
        let usage = spool.usage();
        let running = self.destinations();
        let capacity = self.capacity.lock().unwrap_or_else(PoisonError::into_inner);
        let mut destinations = Vec::new();
        for d in &running {
            let mut line = DestinationLine::from(d.driver.status());
            line.foresee(&capacity.outlook_of(d.id, usage, line.backlog()));
            line.drill = Some(self.drills().line(&d.name));
            destinations.push(line);
        }
        for (id, name) in spool.destinations() {
            if running.iter().any(|d| d.id == id) {
                continue;
            }
            let counts = spool.counts(id);
            let mut line = DestinationLine {
                name: name.to_string(),
                ready: counts.ready,
                in_flight: counts.in_flight,
                deferred: counts.deferred,
                held: counts.held,
                ambiguous: counts.ambiguous,
                dead_letter: counts.dead_letter,
                oldest_waiting_seconds: counts.oldest.map_or(0, |at| now().saturating_sub(at) / 1_000),
                ..DestinationLine::default()
            };
            line.foresee(&capacity.outlook_of(id, usage, line.backlog()));
            if line.waiting() > 0 {
                destinations.push(line);
            }
        }
        let listeners = self.doors.view().into_iter().map(|door| ListenerLine {
            name: door.listener.name.to_string(),
            protocol: door.listener.protocol.to_string(),
            bind: door.bind.to_string(),
            connections: door.connections,
        });
        let report = Report {
            name: config.name.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            spool: SpoolLine::new(usage, &capacity.outlook(usage)),
            listeners: listeners.collect(),
            destinations,
            ..Report::default()
        };
        report.judged(self.refusing(), self.watch.signs.told(Instant::now()))
    }

    /// Stops or resumes the delivery of a destination, and remembers that.
    /// # Errors
    /// `WishError`.
    pub async fn pause(&self, name: &str, paused: bool) -> Result<(), WishError> {
        let running = self.running(name)?;
        self.committer.remember(&format!("{PAUSED}{name}"), if paused { b"1" } else { b"" }).await?;
        if paused {
            running.driver.pause()
        } else {
            running.driver.resume()
        }
        Ok(())
    }

    /// Returns a destination to the first endpoint that is good. False: none before the active one is.
    /// # Errors
    /// `WishError::Unknown`.
    pub fn failback(&self, name: &str) -> Result<bool, WishError> {
        Ok(self.running(name)?.driver.failback())
    }

    /// The way in.
    #[must_use]
    pub fn intake(&self) -> &Intake {
        &self.intake
    }

    /// One that runs, by name.
    /// # Errors
    /// `WishError::Unknown`.
    pub fn running(&self, name: &str) -> Result<Running, WishError> {
        self.destinations().into_iter().find(|d| &*d.name == name).ok_or_else(|| WishError::Unknown(name.to_owned()))
    }

    /// Whose turn it is to wish.
    pub(crate) fn wishing(&self) -> &tokio::sync::Mutex<()> {
        &self.wishing
    }

    /// Reads the configuration again, all or nothing. Returns what changed, or what is wrong.
    pub async fn reload(&self) -> Reloaded {
        let (answer, answered) = oneshot::channel();
        let gone = || vec!["the gateway is stopping".to_owned()];
        self.reload.send(answer).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

/// Milliseconds since 1970. A clock before that counts as 0.
#[must_use]
pub fn now() -> UnixMillis {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_stands_until_it_ends_and_an_incident_for_an_hour() {
        let (signs, start) = (Signs::default(), Instant::now());
        let alarm = |raised| Event::Alarm { subject: "destination ris".into(), what: "no endpoint".into(), raised };
        signs.read(&alarm(true), start);
        signs.read(&Event::Incident { subject: "spool".into(), what: "a file was given up".into() }, start);
        assert_eq!(signs.told(start + INCIDENT_SHOWN / 2).len(), 2);
        assert_eq!(signs.told(start + INCIDENT_SHOWN), ["destination ris: no endpoint"]);
        signs.read(&alarm(false), start);
        assert!(signs.told(start).is_empty());
    }

    #[test]
    fn what_stood_about_a_removed_destination_is_forgotten() {
        let (signs, now) = (Signs::default(), Instant::now());
        for subject in ["destination ris", "destination ris, endpoint a", "destination ris2"] {
            signs.read(&Event::Alarm { subject: subject.into(), what: "w".into(), raised: true }, now);
        }
        signs.forget("ris");
        assert_eq!(signs.told(now), ["destination ris2: w"]);
    }
}
