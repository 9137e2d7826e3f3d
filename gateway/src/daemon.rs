//! The gateway as a process: build, start, serve, stop, in that order.
//! Rules: the spool is open before anything else and closed after everything else; listeners open last and close first; what cannot start is said
//! before the first message is taken; a stop ends within `stop_timeout` and never loses what was answered.
//! Errors: `Failure`: status 2 for the configuration, 1 for the spool, a certificate or an address that cannot be had.

use crate::admin;
use crate::cli::{EXIT_DONE, EXIT_REFUSED, Failure};
use crate::config::{Config, reload};
use crate::descriptors;
use crate::expiry::Expiries;
use crate::intake::Intake;
use crate::listener::Doors;
use crate::live::{Live, ReloadWish, Reloaded, Running, Watch};
use crate::log::Log;
use crate::process::{self, Note, Signals, Wish};
use crate::route::Routes;
use crate::sites::Coupling;
use everpost_client::config::Destination;
use everpost_client::event::{Event, Events, ShiftNews};
use everpost_client::ids::DestinationId;
use everpost_client::io::committer::Committer;
use everpost_client::io::courier::Courier;
use everpost_client::io::dicom_link::DicomCourier;
use everpost_client::io::disk::Directory;
use everpost_client::io::driver::{Driver, Drivers};
use everpost_client::io::mllp_link::MllpCourier;
use everpost_client::io::resolve::Resolver;
use everpost_client::io::stop::{Stop, Stopper};
use everpost_client::io::tls::ClientTls;
use everpost_client::keys::Protocol;
use everpost_client::spool::{Recovered, Spool};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc;

/// Housekeeping: histogram buffers drained, ended spells told.
const TICK: Duration = Duration::from_secs(1);

/// Ticks without any event after which traffic rests. Probes that change nothing are no events.
const REST_AFTER_TICKS: u32 = 3;

/// How often the expiry of certificates is looked at.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(3_600);

/// Wishes to reload that wait at a time.
const RELOADS_AHEAD: usize = 8;

/// Time for the attempts in flight to end when the rest of a stop has used up its own.
const LAST_ATTEMPTS_WITHIN: Duration = Duration::from_secs(1);

/// Time for the last writes of the spool. A disk that hangs must not keep the process: what was answered is durable already.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// Time for drills to end and to write their reports.
const DRILLS_END_WITHIN: Duration = Duration::from_secs(2);

/// `everpost run`.
/// # Errors
/// As the module says.
pub fn run(file: &Path) -> Result<u8, Failure> {
    let prepared = process::prepare();
    let _flush = crate::log::start();
    if let Err(e) = prepared {
        tracing::warn!("the limit of open files could not be raised: {e}; many connections at a time may be refused");
    }
    let config = Config::load(file).map_err(|problems| Failure::configuration(&problems))?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    if let Some(warning) = descriptors::warning(process::descriptors().0, &config) {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(process::worker_threads())
        .thread_name("serve")
        .enable_all()
        .build()
        .map_err(|e| Failure::new(EXIT_REFUSED, format!("no threads: {e}")))?;
    let ended = runtime.block_on(async {
        let signals = Signals::install().map_err(|e| Failure::new(EXIT_REFUSED, format!("no signals: {e}")))?;
        Daemon::build(config).await?.start().await?.serve(signals).await
    });
    runtime.shutdown_timeout(LAST_ATTEMPTS_WITHIN);
    ended
}

/// Everything that reads events.
#[derive(Debug, Default)]
struct Readers {
    watch: Watch,
    log: Log,
    /// Events so far; unchanged for a while means that traffic rests.
    count: AtomicU64,
    /// An active endpoint changed: sites may have to move.
    moved: tokio::sync::Notify,
    /// A shift ended: its record is to be forgotten.
    shift_ended: AtomicBool,
}

/// Gives memory back when traffic rests: what a burst took stays with the allocator otherwise.
#[derive(Debug, Default)]
struct Rest {
    seen: u64,
    quiet: u32,
}

impl Rest {
    /// One tick, with the events so far. True once per rest.
    fn begins(&mut self, count: u64) -> bool {
        if count != self.seen {
            *self = Self { seen: count, quiet: 0 };
            return false;
        }
        self.quiet = self.quiet.saturating_add(1);
        self.quiet == REST_AFTER_TICKS
    }
}

impl Readers {
    fn events(self: &Arc<Self>) -> Events {
        let readers = self.clone();
        Events::to(move |event| {
            let now = Instant::now();
            readers.count.fetch_add(1, Ordering::Relaxed);
            match &event {
                Event::Failover { .. } => readers.moved.notify_one(),
                Event::Shift { news: ShiftNews::Ended, .. } => readers.shift_ended.store(true, Ordering::Relaxed),
                _ => {}
            }
            readers.watch.metrics.read(&event, now);
            readers.watch.signs.read(&event, now);
            readers.watch.drills.read(&event);
            readers.log.read(&event, now);
        })
    }
}

/// The gateway's parts.
struct Daemon {
    config: Arc<Config>,
    readers: Arc<Readers>,
    events: Events,
    committer: Committer,
    intake: Arc<Intake>,
    doors: Arc<Doors>,
    drivers: Drivers,
    live: Arc<Live>,
    reloads: mpsc::Receiver<ReloadWish>,
    answering: (Stopper, Stop),
    resolver: Resolver,
    certificates: Vec<Certificate>,
    expiries: Expiries,
    coupling: Coupling,
}

/// A certificate of ours towards an endpoint.
struct Certificate {
    use_: String,
    expires_at: SystemTime,
}

/// A destination that is ready to be delivered to.
struct Way {
    destination: Arc<Destination>,
    id: DestinationId,
    courier: Arc<dyn Courier>,
    certificates: Vec<Certificate>,
}

impl Daemon {
    /// Opens the spool and joins the parts; nothing runs yet.
    async fn build(config: Config) -> Result<Self, Failure> {
        let readers = Arc::new(Readers::default());
        let events = readers.events();
        let config = Arc::new(config);
        let (for_spool, told) = (config.clone(), events.clone());
        let opened = tokio::task::spawn_blocking(move || open_spool(&for_spool, told)).await;
        let spool = opened.map_err(|e| Failure::new(EXIT_REFUSED, format!("the spool could not be opened: {e}")))??;
        let committer = Committer::start(spool).map_err(|e| Failure::new(EXIT_REFUSED, format!("no threads for the spool: {e}")))?;
        let intake = Intake::new(committer.clone(), Routes::new(Vec::new(), Vec::new()), events.clone());
        let doors = Arc::new(Doors::new(intake.clone()));
        let (wishes, reloads) = mpsc::channel(RELOADS_AHEAD);
        let live = Live::new(config.clone(), committer.clone(), intake.clone(), doors.clone(), readers.watch.clone(), wishes);
        open_drills(&config, &readers, &events).await?;
        let (drivers, answering) = (Drivers::default(), Stop::new());
        let resolver = Resolver::new(&config.names, events.clone(), answering.1.clone());
        let resolver = resolver.map_err(|e| Failure::new(EXIT_REFUSED, format!("[names]: {e}")))?;
        Ok(Self {
            config,
            readers,
            events,
            committer,
            intake,
            doors,
            drivers,
            live,
            reloads,
            answering,
            resolver,
            certificates: Vec::new(),
            expiries: Expiries::default(),
            coupling: Coupling::default(),
        })
    }

    /// Delivery first, then the admin API, then the listeners: a message is taken only when everything behind it stands.
    async fn start(mut self) -> Result<Self, Failure> {
        self.drivers.attach(self.committer.spool());
        let refused = |what: String| Failure::new(EXIT_REFUSED, what);
        let ways = self.config.destinations.iter().map(|d| self.way(d)).collect::<Result<Vec<Way>, String>>().map_err(refused)?;
        let prepared = self.doors.prepare(&self.config.listeners).map_err(|e| refused(e.to_string()))?;
        let mut running = Vec::new();
        for way in ways {
            running.push(self.deliver(&way));
            self.certificates.extend(way.certificates);
        }
        self.tell_orphans(&running);
        self.intake.reroute(routes(&self.config, &running));
        self.live.replace(self.config.clone(), running);
        self.coupling.reconfigure(&self.config.sites);
        self.open_admin().await?;
        self.doors.descriptors().share(process::descriptors().0, &self.config);
        self.doors.apply(prepared);
        Ok(self)
    }

    /// Makes ready what can fail: the destination's number in the spool, its certificates.
    fn way(&self, destination: &Arc<Destination>) -> Result<Way, String> {
        let id = self.committer.spool().destination(&destination.name).map_err(|e| e.to_string())?;
        let (mut tls, mut certificates) = (Vec::new(), Vec::new());
        for endpoint in &destination.endpoints {
            let load = |settings| ClientTls::load(settings, &endpoint.host);
            let loaded = endpoint.tls.as_ref().map(load).transpose();
            let loaded = loaded.map_err(|e| format!("destination \"{}\", endpoint \"{}\": {e}", destination.name, endpoint.name))?;
            if let Some(expires_at) = loaded.as_ref().and_then(ClientTls::expires_at) {
                certificates.push(Certificate { use_: format!("endpoint {}/{}", destination.name, endpoint.name), expires_at });
            }
            tls.push(loaded);
        }
        let (destination, spool, events) = (destination.clone(), self.committer.spool().clone(), self.events.clone());
        let courier: Arc<dyn Courier> = match destination.protocol {
            Protocol::Mllp => Arc::new(MllpCourier::new(destination.clone(), tls, spool, events, &self.resolver)),
            Protocol::Dicom => Arc::new(DicomCourier::new(destination.clone(), tls, spool, events, &self.resolver)),
        };
        Ok(Way { destination, id, courier, certificates })
    }

    /// Starts the driver of a destination; operators' wishes outlive restarts.
    fn deliver(&self, way: &Way) -> Running {
        let (stopper, stop) = Stop::new();
        let name = way.destination.name.clone();
        let wishes = crate::wishes::remembered(self.committer.spool(), &name);
        if wishes.paused {
            tracing::warn!(about = &*name, "delivery is paused, as an operator wished in an earlier run");
        }
        if let Some(shift) = &wishes.shift {
            tracing::warn!(about = &*name, "shifted to {} by {}, as wished in an earlier run: {}", shift.to, shift.by, shift.reason);
        }
        for (endpoint, admin) in &wishes.admin {
            tracing::warn!(about = &*name, "endpoint {endpoint} is {}, as an operator wished in an earlier run", admin.name());
        }
        let (committer, courier) = (self.committer.clone(), way.courier.clone());
        let driver = Driver::start(way.destination.clone(), way.id, committer, courier, self.events.clone(), stop, wishes);
        self.drivers.add(&driver);
        Running { name, id: way.id, driver, stopper }
    }

    /// What waits for a destination that is configured no longer is kept and told.
    fn tell_orphans(&self, running: &[Running]) {
        let spool = self.committer.spool();
        for (id, name) in spool.destinations().into_iter().filter(|(id, _)| !running.iter().any(|r| r.id == *id)) {
            let counts = spool.counts(id);
            let waiting = counts.ready + counts.in_flight + counts.deferred + counts.held + counts.dead_letter;
            if waiting > 0 {
                let text = "destination is no longer configured; its envelopes are kept: configure it again or decide on them";
                tracing::error!(about = &*name, waiting, "{text}");
            }
        }
    }

    async fn open_admin(&self) -> Result<(), Failure> {
        let data_dir = &self.config.data_dir;
        let failed = |e: std::io::Error| Failure::new(EXIT_REFUSED, format!("admin socket in {}: {e}", data_dir.display()));
        let socket = admin::socket::bind(data_dir).map_err(failed)?;
        tokio::spawn(admin::serve_socket(socket, self.live.clone(), self.answering.1.clone()));
        if let Some(bind) = self.config.admin_bind {
            let listener = tokio::net::TcpListener::bind(bind).await;
            let listener = listener.map_err(|e| Failure::new(EXIT_REFUSED, format!("[admin] bind = {bind}: {e}; choose another address")))?;
            tracing::info!("HTTP at {}: /healthz /readyz /metrics /api/v1/status", listener.local_addr().unwrap_or(bind));
            tokio::spawn(admin::serve_loopback(listener, self.live.clone(), self.answering.1.clone()));
        }
        Ok(())
    }

    /// Serves until a signal asks to stop, then stops. A second signal ends the process at once.
    async fn serve(mut self, mut signals: Signals) -> Result<u8, Failure> {
        process::tell(Note::Ready);
        for door in self.doors.view() {
            let tls = if door.listener.tls.is_some() { " over TLS" } else { "" };
            tracing::info!(about = &*door.listener.name, "takes {}{tls} at {}", door.listener.protocol, door.bind);
        }
        tracing::info!(name = &*self.config.name, version = env!("CARGO_PKG_VERSION"), "ready");
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut certificates = tokio::time::interval(CERTIFICATES_EVERY);
        let watchdog = process::watchdog();
        let mut rest = Rest::default();
        let mut alive = tokio::time::interval(watchdog.map_or(CERTIFICATES_EVERY, |t| t / 2));
        loop {
            tokio::select! {
                wish = signals.next() => match wish {
                    Wish::Stop => break,
                    Wish::Reload => drop(self.reload().await),
                },
                Some(answer) = self.reloads.recv() => {
                    let reloaded = self.reload().await;
                    drop(answer.send(reloaded)); // whoever asked may have gone
                }
                _ = tick.tick() => {
                    self.readers.watch.metrics.upkeep();
                    self.readers.log.tick(Instant::now());
                    self.live.watch(Instant::now());
                    self.coupling.look(&self.live, &self.events);
                    if self.live.has_drills_to_mind() {
                        let live = self.live.clone();
                        tokio::spawn(async move { live.mind_drills().await });
                    }
                    if self.readers.shift_ended.swap(false, Ordering::Relaxed) {
                        let live = self.live.clone();
                        tokio::spawn(async move { live.forget_ended_shifts().await });
                    }
                    if rest.begins(self.readers.count.load(Ordering::Relaxed)) {
                        drop(tokio::task::spawn_blocking(process::give_memory_back)); // nobody waits for it
                    }
                }
                () = self.readers.moved.notified() => self.coupling.look(&self.live, &self.events),
                _ = certificates.tick() => self.tell_certificates(),
                _ = alive.tick(), if watchdog.is_some() => {
                    let _ = self.committer.spool().usage(); // a sign of life of the spool too: a deadlock there ends the signs
                    process::tell(Note::Alive);
                }
            }
        }
        process::tell(Note::Stopping);
        tracing::info!("stopping: intake first, then delivery; a second signal ends the process at once");
        tokio::select! {
            ended = self.stop() => ended,
            () = signals.stop() => {
                tracing::warn!("ended at once by a second signal; what was answered is durable");
                Ok(EXIT_REFUSED)
            }
        }
    }

    /// Stops from the outside in: answers in flight and attempts in flight share `stop_timeout`.
    async fn stop(&mut self) -> Result<u8, Failure> {
        let until = tokio::time::Instant::now() + self.config.stop_timeout;
        self.end_drills().await;
        self.intake.stop();
        let running = self.live.destinations();
        if tokio::time::timeout_at(until, self.doors.stop()).await.is_err() {
            tracing::warn!("some peers did not end their conversations in time; they were cut off and got no answer");
        }
        for r in &running {
            r.stopper.stop();
        }
        if tokio::time::timeout_at(until, finished(&running)).await.is_err() {
            tracing::warn!("attempts in flight did not end in time; they may be made again after the next start");
            for r in &running {
                r.driver.abort();
            }
            drop(tokio::time::timeout(LAST_ATTEMPTS_WITHIN, finished(&running)).await);
        }
        self.answering.0.stop();
        let closed = tokio::time::timeout(CLOSE_WITHIN, self.committer.stop()).await;
        drop(std::fs::remove_file(admin::socket::path(&self.config.data_dir))); // a stale one is replaced anyway
        match closed {
            Ok(Ok(())) => tracing::info!("stopped"),
            Ok(Err(e)) => tracing::error!("the spool did not close cleanly: {e}; nothing that was answered is lost"),
            Err(_) => tracing::error!("the spool did not close in time; nothing that was answered is lost"),
        }
        Ok(EXIT_DONE)
    }

    /// What drills simulate or shift ends before anything else does.
    async fn end_drills(&self) {
        let drills = self.live.drills();
        drills.cut_all("the gateway is stopping");
        let ended = async {
            while drills.running() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(DRILLS_END_WITHIN, ended).await.is_err() {
            tracing::warn!("a drill did not end in time; its report says so after the next start");
        }
    }

    /// Reads the file again; everything changes or nothing.
    async fn reload(&mut self) -> Reloaded {
        process::tell(Note::Reloading);
        let reloaded = self.changed().await;
        match &reloaded {
            Ok(changes) if changes.is_empty() => tracing::info!("reloaded: nothing has changed; certificates were read again"),
            Ok(changes) => tracing::info!("reloaded: {}", changes.join("; ")),
            Err(problems) => {
                for problem in problems {
                    tracing::error!("not reloaded, everything goes on as before: {problem}");
                }
            }
        }
        process::tell(Note::Ready);
        reloaded
    }

    async fn changed(&mut self) -> Reloaded {
        let file = self.config.file.clone();
        let loaded = tokio::task::spawn_blocking(move || Config::load(&file)).await.map_err(|e| vec![e.to_string()])?;
        let new = Arc::new(loaded.map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>())?);
        let changes = reload::changes(&self.config, &new)?;
        let old = self.live.destinations();
        // What can fail comes first; unchanged destinations without certificates go on undisturbed.
        let mut ways = Vec::new();
        for destination in &new.destinations {
            let before = self.config.destinations.iter().find(|d| d.name == destination.name);
            if before != Some(destination) || destination.endpoints.iter().any(|e| e.tls.is_some()) {
                ways.push(self.way(destination).map_err(|e| vec![e])?);
            }
        }
        let prepared = self.doors.prepare(&new.listeners).map_err(|e| vec![e.to_string()])?;
        if new.names != self.config.names {
            self.resolver.reconfigure(&new.names).map_err(|e| vec![format!("[names]: {e}")])?;
        }
        let mut running = Vec::new();
        self.certificates.clear();
        for destination in &new.destinations {
            let before = old.iter().find(|r| r.name == destination.name).cloned();
            let way = ways.iter().position(|w| w.destination.name == destination.name).map(|at| ways.swap_remove(at));
            match (before, way) {
                (Some(before), Some(way)) => {
                    before.driver.reconfigure(way.destination, way.courier).await;
                    self.certificates.extend(way.certificates);
                    running.push(before);
                }
                (Some(before), None) => running.push(before),
                (None, Some(way)) => {
                    running.push(self.deliver(&way));
                    self.certificates.extend(way.certificates);
                }
                (None, None) => return Err(vec![format!("destination \"{}\" was not made ready", destination.name)]),
            }
        }
        for gone in old.iter().filter(|r| !running.iter().any(|still| still.id == r.id)) {
            gone.stopper.stop();
            self.drivers.remove(gone.id);
            self.readers.watch.signs.forget(&gone.name);
        }
        self.tell_orphans(&running);
        self.intake.reroute(routes(&new, &running));
        self.doors.descriptors().share(process::descriptors().0, &new);
        self.doors.apply(prepared);
        self.live.replace(new.clone(), running);
        self.coupling.reconfigure(&new.sites);
        self.config = new;
        self.tell_certificates();
        Ok(changes)
    }

    /// When each certificate ends, for metrics, and which of them end soon.
    fn tell_certificates(&mut self) {
        let now = SystemTime::now();
        let ours = self.certificates.iter().map(|c| (c.use_.clone(), c.expires_at));
        let doors = self.doors.view().into_iter().filter_map(|door| Some((format!("listener {}", door.listener.name), door.expires_at?)));
        let left: Vec<(String, Duration)> = ours.chain(doors).map(|(use_, at)| (use_, at.duration_since(now).unwrap_or_default())).collect();
        for (use_, expires_in) in &left {
            self.events.emit(Event::Certificate { use_: use_.clone(), expires_in: *expires_in });
        }
        for alarm in self.expiries.look(&left) {
            self.events.emit(alarm);
        }
    }
}

/// The routes, with the numbers the spool gave to the destinations.
fn routes(config: &Config, running: &[Running]) -> Routes {
    let ids = config.destinations.iter().filter_map(|d| running.iter().find(|r| r.name == d.name).map(|r| (d.clone(), r.id)));
    Routes::new(config.routes.clone(), ids.collect())
}

async fn finished(running: &[Running]) {
    for r in running {
        r.driver.finished().await;
    }
}

/// Reads the reports of drills, and tells which of them broke off.
async fn open_drills(config: &Arc<Config>, readers: &Arc<Readers>, events: &Events) -> Result<(), Failure> {
    let (config, drills, events) = (config.clone(), readers.watch.drills.clone(), events.clone());
    let opened = tokio::task::spawn_blocking(move || drills.open(&config.data_dir, events)).await.map_err(std::io::Error::other).flatten();
    opened.map_err(|e| Failure::new(EXIT_REFUSED, format!("data_dir: the folder `drills`: {e}; make it readable and writable for this user")))
}

fn open_spool(config: &Config, events: Events) -> Result<Arc<Spool>, Failure> {
    let (dir, started) = (config.data_dir.join("spool"), Instant::now());
    let failed = |what: String| Failure::new(EXIT_REFUSED, what);
    let storage = Directory::open(&dir).map_err(|e| failed(format!("data_dir: {}: {e}; make it writable for this user", dir.display())))?;
    let (spool, found) = Spool::open(storage, config.spool.clone(), events).map_err(|e| {
        let cause = std::error::Error::source(&e).map(|cause| format!(": {cause}")).unwrap_or_default();
        failed(format!("{e}{cause}"))
    })?;
    let (Recovered { waiting, segments, damaged, cut }, took) = (found, started.elapsed());
    tracing::info!(waiting, segments, damaged, cut, ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX), "the spool is open");
    Ok(Arc::new(spool))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_per_rest() {
        let mut rest = Rest::default();
        let told: Vec<bool> = [5, 5, 5, 5, 5, 6, 6, 6, 6].into_iter().map(|count| rest.begins(count)).collect();
        assert_eq!(told, [false, false, false, true, false, false, false, false, true]);
    }
}
