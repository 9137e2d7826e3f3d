//! Runs the engine of one destination: takes from the spool, has the courier attempt, times probes, feeds back what happened.
//!
//! Rules
//! - One task per destination, so that a dead or slow one delays no other; attempts and probes are tasks of their own, and a probe never waits for
//!   traffic or the reverse.
//! - The engine decides; this only does. Every change goes through the engine's lock, which is never held across a wait.
//! - A panic in an attempt is an outcome; a panic in the loop starts it again with a fresh engine and an alarm. Envelopes in flight then count as
//!   ambiguous: whether they arrived is not known.
//! - A watchdog looks each `WATCHDOG`: what the engine does not know of (a lost wake, a lost time, a lost attempt) is found and mended, with an alarm.
//! - After `Stop` nothing more is taken; attempts in flight end, or are cut by `abort`.
//!
//! Errors: none; what the spool or a peer refuses becomes an outcome or an alarm.

use crate::config::{self, Ambiguous};
use crate::delivery::engine::direct::Direct;
use crate::delivery::engine::{Action, Engine, Moment};
use crate::delivery::replay::{ByHand, ByHandRefused, Command};
use crate::delivery::standby::{Kind, Rehearsed, Stumble};
use crate::delivery::status::DestinationStatus;
use crate::delivery::verdict::Ruling;
use crate::delivery::{Outcome, Phase, Silence};
use crate::endpoint::EndpointSet;
use crate::endpoint::failover::Next;
use crate::endpoint::wishes::Wishes;
use crate::event::Events;
use crate::ids::{DestinationId, EndpointId, EnvelopeId};
use crate::io::committer::Committer;
use crate::io::courier::{Answered, Boxed, Courier, Met, Order, Parcel, Patience, ProbeFailure};
use crate::io::stop::Stop;
use crate::limits::POOL_KNOWN;
use crate::spool::{Filter, Planned, Settlement, Spool, SpoolError, State, UnixMillis};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, watch};
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;

mod drivers;
mod wishes;

pub use drivers::Drivers;
pub use wishes::Probed;

/// How often the watchdog looks.
const WATCHDOG: Duration = Duration::from_secs(10);

/// Ready envelopes that nobody takes for so long, while an endpoint is in service, are a fault of ours.
const STUCK_AFTER: Duration = Duration::from_secs(30);

/// Grace after a probe's own deadline before it counts as failed, whatever the courier says.
const PROBE_GRACE: Duration = Duration::from_secs(2);

/// Failed takes in a row before the spool is left alone for `TAKE_AGAIN`: each one set a damaged envelope aside, or put one off that
/// the disk could not read.
const TAKES_FAILED: u32 = 64;

/// The wait after `TAKES_FAILED`.
const TAKE_AGAIN: Duration = Duration::from_secs(1);

/// Rest after a panic of the loop, so that a fault that repeats does not eat a processor.
const REST_AFTER_PANIC: Duration = Duration::from_secs(1);

/// Deferred envelopes looked up at once when the loop was started again.
const ADOPT_PAGE: usize = 1024;

/// A handle to the task of one destination. Cheap to clone; the task ends by `Stop`, not with its handles.
#[derive(Debug, Clone)]
pub struct Driver(Arc<Shared>);

struct Core {
    engine: Engine,
    courier: Arc<dyn Courier>,
    /// Counts reconfigurations: a probe of an earlier one says nothing.
    generation: u64,
    /// What the loop has still to start. Each knows the courier it was meant for.
    jobs: Vec<Job>,
}

struct Shared {
    id: DestinationId,
    spool: Arc<Spool>,
    committer: Committer,
    events: Events,
    core: Mutex<Core>,
    wake: Arc<Notify>,
    /// The spool had nothing at the last take: what comes now is to be told. Else it is taken when there is room, untold.
    listens: Arc<AtomicBool>,
    /// DNS answered differently.
    renamed: Arc<Notify>,
    /// Synced settlements that became durable since the loop last looked.
    durable: Arc<AtomicU64>,
    cut: AtomicBool,
    /// A test breaks the loop.
    #[cfg(test)]
    broken: AtomicBool,
    done: watch::Sender<bool>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Driver {
    /// Starts delivering, as people wish it: a wish that came after the start would come after the first envelopes. Must be called inside a tokio runtime.
    #[must_use]
    pub fn start(
        destination: Arc<config::Destination>,
        id: DestinationId,
        committer: Committer,
        courier: Arc<dyn Courier>,
        events: Events,
        stop: Stop,
        wishes: Wishes,
    ) -> Driver {
        let mut engine = Engine::new(destination, fastrand::u64(..), now().at);
        keep_zone(&mut engine);
        engine.restore(wishes, now());
        let pools_known = courier.pools_known(Instant::now() + POOL_KNOWN);
        for (name, value) in committer.spool().remembered() {
            engine.recall(&name, &value, now());
        }
        if let Some((order, state)) = committer.spool().replay_state(id) {
            engine.restore_replays(order, &state, now());
        }
        committer.spool().keep_for_replay(id, engine.keep(), now().wall);
        let shared = Arc::new(Shared {
            id,
            spool: Arc::clone(committer.spool()),
            committer,
            events,
            core: Mutex::new(Core { engine, courier, generation: 0, jobs: Vec::new() }),
            wake: Arc::new(Notify::new()),
            listens: Arc::new(AtomicBool::new(true)),
            renamed: Arc::new(Notify::new()),
            durable: Arc::new(AtomicU64::new(0)),
            cut: AtomicBool::new(false),
            #[cfg(test)]
            broken: AtomicBool::new(false),
            done: watch::Sender::new(false),
        });
        shared.core().courier.tell_to(&shared.renamed);
        let running = Arc::clone(&shared);
        tokio::spawn(async move {
            tokio::select! {
                () = pools_known => running.regroup(),
                () = stop.wait() => {}
            }
            supervise(running, stop).await;
        });
        Driver(shared)
    }

    /// The destination's id in the spool.
    #[must_use]
    pub fn id(&self) -> DestinationId {
        self.0.id
    }

    /// What people see.
    #[must_use]
    pub fn status(&self) -> DestinationStatus {
        let counts = self.0.spool.counts(self.0.id);
        let core = self.0.core();
        let (active, reason) = core.engine.active();
        let mut endpoints = core.engine.endpoints();
        for (index, row) in endpoints.iter_mut().enumerate() {
            let Ok(index) = u16::try_from(index) else { continue };
            if let Some(remark) = core.courier.remark(EndpointId(index)) {
                row.reason = if row.reason.is_empty() { remark } else { format!("{}; {remark}", row.reason) };
            }
            row.resolved = core.courier.resolved(EndpointId(index)).iter().map(ToString::to_string).collect();
            row.connected = core.courier.connected(EndpointId(index)).iter().map(ToString::to_string).collect();
            row.dns = core.courier.name(EndpointId(index));
        }
        let destination = core.engine.destination();
        let reason = core.engine.outlook(now()).map_or(reason.clone(), |outlook| format!("{reason}; {outlook}"));
        let reason = if core.engine.is_paused() { format!("paused by an operator; {reason}") } else { reason };
        DestinationStatus {
            name: destination.name.to_string(),
            protocol: destination.protocol,
            policy: core.engine.policy_name(),
            paused: core.engine.is_paused(),
            active,
            shift: core.engine.shift(),
            reason,
            replay: core.engine.replay_text(),
            replays: counts.replays,
            ready: counts.ready,
            in_flight: counts.in_flight,
            deferred: counts.deferred,
            held: counts.held,
            ambiguous: counts.ambiguous,
            dead_letter: counts.dead_letter,
            oldest_waiting_seconds: counts.oldest.map_or(0, |at| now().wall.saturating_sub(at) / 1000),
            objectives: core.engine.objectives(now()),
            endpoints,
        }
    }

    /// When a deferred envelope is tried again by itself; `None`: with the next one that is delivered, or by a probe.
    #[must_use]
    pub fn next_attempt(&self, id: EnvelopeId) -> Option<UnixMillis> {
        let due = self.0.core().engine.due_at(id)?;
        let now = now();
        let wait = due.saturating_duration_since(now.at).as_millis();
        Some(now.wall.saturating_add(u64::try_from(wait).unwrap_or(u64::MAX)))
    }

    /// Stops taking; attempts in flight end. The caller remembers the wish across restarts.
    pub fn pause(&self) {
        self.0.core().engine.pause(true);
        self.0.wake.notify_one();
    }

    /// Goes on.
    pub fn resume(&self) {
        self.0.core().engine.pause(false);
        self.0.wake.notify_one();
    }

    /// Envelopes may have become ready.
    pub fn kick(&self) {
        self.0.wake.notify_one();
    }

    /// Returns to the preferred endpoint now (`failback = "manual"`). False: it is not good.
    pub fn failback(&self) -> bool {
        let done = self.0.core().engine.failback(now());
        self.0.wake.notify_one();
        done
    }

    /// What a replay by hand would replay. Reads history: blocks.
    /// # Errors
    /// Why not, for people.
    pub fn plan_replay(&self, wish: ByHand) -> Result<Planned, ReplayError> {
        let order = self.0.core().engine.plan_by_hand(wish)?;
        Ok(self.0.spool.plan_replay(self.0.id, &order)?)
    }

    /// Begins a replay by hand.
    /// # Errors
    /// Why not, for people.
    pub fn replay(&self, wish: ByHand) -> Result<(), ReplayError> {
        let mut core = self.0.core();
        core.engine.replay_by_hand(wish, now())?;
        self.0.perform(&mut core);
        drop(core);
        self.0.wake.notify_one();
        Ok(())
    }

    /// Takes new settings and a new courier, live; attempts in flight end on the old one.
    pub async fn reconfigure(&self, destination: Arc<config::Destination>, courier: Arc<dyn Courier>) {
        let (destination, courier) = courier.regroup().unwrap_or((destination, courier));
        self.0.change(&mut self.0.core(), destination, courier);
        let keep = self.0.core().engine.keep();
        self.0.spool.keep_for_replay(self.0.id, keep, now().wall);
        self.0.wake.notify_one();
    }

    /// Begins an attempt that no envelope stands behind: see `Engine::direct`. Dropped without `Trip::ended`, it counts as never begun.
    #[must_use]
    pub fn direct(&self, avoid: EndpointSet, again: Option<EndpointId>) -> Option<Trip> {
        let mut core = self.0.core();
        let direct = core.engine.direct(avoid, again, now())?;
        let (courier, generation) = (Courierless(Arc::clone(&core.courier)), core.generation);
        Some(Trip { driver: self.clone(), direct, courier, generation, ended: false })
    }

    /// The endpoints with their names, and who delivers to them.
    #[must_use]
    pub fn way(&self) -> (Arc<config::Destination>, Arc<dyn Courier>) {
        let core = self.0.core();
        (Arc::clone(core.engine.destination()), Arc::clone(&core.courier))
    }

    /// Whether what waits is on its way: an endpoint is in service and nobody paused it.
    #[must_use]
    pub fn flows(&self) -> bool {
        self.0.core().engine.should_flow(now().at)
    }

    /// After `Stop`: returns when the attempts in flight have ended.
    pub async fn finished(&self) {
        // An error means that the task is gone, which is an end too.
        let _ = self.0.done.subscribe().wait_for(|done| *done).await;
    }

    /// Cuts what is still in flight (the time to stop is over): recorded as ambiguous, and sent again after the next start.
    pub fn abort(&self) {
        self.0.cut.store(true, Ordering::Release);
        self.0.wake.notify_one();
    }
}

/// An attempt that no envelope stands behind.
#[derive(Debug)]
pub struct Trip {
    driver: Driver,
    direct: Direct,
    courier: Courierless,
    generation: u64,
    ended: bool,
}

/// The courier that knows the endpoint by its number.
#[derive(Clone)]
struct Courierless(Arc<dyn Courier>);

impl std::fmt::Debug for Courierless {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Courier")
    }
}

impl Trip {
    /// Where, and how.
    #[must_use]
    pub fn direct(&self) -> &Direct {
        &self.direct
    }

    /// Makes the attempt.
    pub async fn send(&self, parcel: Parcel, patience: Patience) -> Answered {
        self.courier.0.send(self.direct.endpoint, self.direct.fresh, parcel, patience).await
    }

    /// Tells what it met: see `Engine::direct_ended`.
    pub fn ended(mut self, outcome: &Outcome, tries: u32, resend: bool) -> (Ruling, Next) {
        self.ended = true;
        self.settle(|engine, direct, same| engine.direct_ended(direct, same, outcome, tries, resend, now()))
    }

    fn settle<T>(&self, tell: impl FnOnce(&mut Engine, &Direct, bool) -> T) -> T {
        let shared = &self.driver.0;
        let mut core = shared.core();
        // Under other settings the number may mean another endpoint.
        let same = core.generation == self.generation;
        let told = tell(&mut core.engine, &self.direct, same);
        shared.perform(&mut core);
        drop(core);
        shared.wake.notify_one();
        told
    }
}

impl Drop for Trip {
    fn drop(&mut self) {
        if !self.ended {
            self.settle(|engine, direct, same| engine.direct_forgotten(direct, same, now()));
        }
    }
}

/// The system's time zone, for whom it matters: what knows it stays in the process for good, and a host program need not have it for nothing.
fn keep_zone(engine: &mut Engine) {
    if engine.destination().failback_window.is_some() {
        engine.keep_zone(jiff::tz::TimeZone::system());
    }
}

/// Why a replay by hand was not begun.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The destination does not take it.
    #[error(transparent)]
    Refused(#[from] ByHandRefused),
    /// History could not be read.
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

/// Work for a task of its own.
enum Job {
    Attempt { courier: Arc<dyn Courier>, order: Order, synced: Option<Arc<str>> },
    Probe { courier: Arc<dyn Courier>, endpoint: EndpointId, store: bool, generation: u64, within: Duration },
    Rehearse { courier: Arc<dyn Courier>, endpoint: EndpointId, kinds: Vec<Kind>, generation: u64, within: Duration },
    Replay(Box<Command>),
}

/// What a task was for.
#[derive(Debug, Clone, Copy)]
enum Errand {
    Attempt(EnvelopeId),
    Probe(EndpointId, u64),
    Rehearsal(EndpointId, u64),
    Replay,
}

enum Ended {
    Attempt(Outcome, Met),
    Probe(Result<Duration, ProbeFailure>),
    Rehearsal(Rehearsed),
    Replay(Result<Planned, String>),
}

impl Shared {
    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// DNS answered differently: connections to old addresses end, members of pools come and go.
    fn regroup(&self) {
        let mut core = self.core();
        if let Some((destination, courier)) = core.courier.regroup() {
            self.change(&mut core, destination, courier);
        }
    }

    fn change(&self, core: &mut Core, destination: Arc<config::Destination>, courier: Arc<dyn Courier>) {
        // What the engine asked for under the old settings names old endpoints: done before they change.
        self.perform(core);
        core.engine.reconfigure(destination, now());
        keep_zone(&mut core.engine);
        courier.tell_to(&self.renamed);
        core.courier = courier;
        core.generation += 1;
    }

    /// Does what the engine asks for; what needs a task of its own joins `Core::jobs`.
    fn perform(&self, core: &mut Core) {
        while let Some(action) = core.engine.next_action() {
            match action {
                Action::Attempt { envelope, endpoint, fresh, ask, synced } => {
                    let name = core.engine.destination().endpoints.get(endpoint.index()).map(|e| Arc::clone(&e.name));
                    let order = Order { envelope, endpoint, fresh, ask, met: Met::default() };
                    core.jobs.push(Job::Attempt { courier: Arc::clone(&core.courier), order, synced: name.filter(|_| synced) });
                }
                Action::Probe { endpoint, store } => {
                    let Some(config) = core.engine.destination().endpoints.get(endpoint.index()) else { continue };
                    let within = config.health.timeout + PROBE_GRACE;
                    core.jobs.push(Job::Probe { courier: Arc::clone(&core.courier), endpoint, store, generation: core.generation, within });
                }
                Action::Rehearse { endpoint, kinds } => {
                    let (courier, generation) = (Arc::clone(&core.courier), core.generation);
                    core.jobs.push(Job::Rehearse { courier, endpoint, kinds, generation, within: core.engine.destination().connect_timeout });
                }
                Action::Remember { name, value } => {
                    // Not kept: the next one may be, and until then only what is known of standbys and outages after a restart suffers.
                    self.spool.remember(&name, &value, Box::new(|_kept| {}));
                }
                Action::Drain(endpoint) => core.courier.drain(endpoint),
                Action::Settle { id, settlement, synced } => self.settle(core, id, settlement, synced),
                Action::Due(id) => self.spool.due(id),
                Action::Untake(id) => self.spool.untake(id),
                Action::Replay(command) => core.jobs.push(Job::Replay(command)),
                Action::Emit(event) => self.events.emit(event),
            }
        }
    }

    fn settle(&self, core: &mut Core, id: EnvelopeId, settlement: Settlement, synced: bool) {
        if synced {
            let (durable, wake) = (Arc::clone(&self.durable), Arc::clone(&self.wake));
            let done = Box::new(move |_result: Result<(), SpoolError>| {
                // Durable or not, it stands in memory, and the spool has told of its disk; waiting longer would only stop the destination.
                durable.fetch_add(1, Ordering::AcqRel);
                wake.notify_one();
            });
            self.spool.settle_then(id, settlement, done);
        } else if let Err(error) = self.spool.settle(id, settlement) {
            core.engine.was_stuck(&format!("envelope {id} could not be settled: {error}"));
        }
    }

    /// Takes what may be taken, and says when to come again.
    fn pump(&self, taking: &mut Taking) -> (Vec<Job>, Option<Instant>) {
        let mut core = self.core();
        #[cfg(test)]
        assert!(!self.broken.swap(false, Ordering::AcqRel), "broken by a test");
        for _ in 0..self.durable.swap(0, Ordering::AcqRel) {
            core.engine.settled();
        }
        core.engine.mark(self.spool.mark(now().wall), now());
        core.engine.tick(now());
        self.perform(&mut core);
        if core.engine.replays_run() && self.spool.replays_left(self.id) == 0 {
            core.engine.replays_over(now());
            self.perform(&mut core);
        }
        if taking.rest_until.is_some_and(|until| Instant::now() >= until) {
            taking.rest_until = None;
            core.engine.kicked();
        }
        while taking.rest_until.is_none() && core.engine.wants(now().at) {
            // Before the take: what comes right after it is heard of.
            self.listens.store(true, Ordering::Release);
            match self.spool.take_of(self.id, core.engine.wanted()) {
                Ok(Some(envelope)) => {
                    self.listens.store(false, Ordering::Release);
                    taking.failed = 0;
                    taking.taken += 1;
                    core.engine.offer(envelope, now());
                }
                Ok(None) => core.engine.drained(now()),
                // The spool held the envelope or put it off, and told of it; the next one may be good.
                Err(_) if taking.failed < TAKES_FAILED => taking.failed += 1,
                Err(_) => {
                    taking.failed = 0;
                    taking.rest_until = Some(Instant::now() + TAKE_AGAIN);
                    core.engine.drained(now());
                }
            }
            self.perform(&mut core);
        }
        if taking.woken_at.take().is_some_and(|before| taking.taken > before) {
            core.engine.was_stuck("envelopes were ready and nothing had said so; they are tried now");
            self.perform(&mut core);
        }
        let next = core.engine.next_timeout(now().at).map(Instant::from_std);
        let next = next.into_iter().chain(taking.rest_until).min();
        (std::mem::take(&mut core.jobs), next)
    }

    /// The watchdog's look. True: the loop starts anew, its tasks are to be cut.
    fn look(&self, attempts: usize, taking: &mut Taking) -> bool {
        let counts = self.spool.counts(self.id);
        let mut core = self.core();
        let flow = core.engine.should_flow(now().at);
        let astray = core.engine.in_flight() != attempts;
        if astray {
            let what = format!("the engine knew of {} attempts where there were {attempts}", core.engine.in_flight());
            core.engine = core.engine.reborn(fastrand::u64(..), &what, now());
        }
        let lost = counts.deferred > core.engine.waiting() as u64;
        let idle = flow && attempts == 0 && taking.taken == taking.taken_before;
        taking.taken_before = taking.taken;
        taking.idle_since = if idle && (lost || counts.ready > 0) { taking.idle_since.or(Some(Instant::now())) } else { None };
        if taking.idle_since.is_some_and(|since| since.elapsed() >= STUCK_AFTER) {
            if lost {
                core.engine.was_stuck("envelopes waited for a time that nobody knew; they are tried now");
                self.adopt(&mut core);
            }
            // Ready envelopes may wait rightly behind a held one: only a take can tell.
            core.engine.kicked();
            taking.woken_at = Some(taking.taken);
            taking.idle_since = None;
        }
        self.perform(&mut core);
        astray
    }

    /// Deferred envelopes that the engine does not know are tried now.
    fn adopt(&self, core: &mut Core) {
        let filter = Filter { destination: Some(self.id), state: Some(State::Deferred), key: None };
        let mut cursor = None;
        while let Ok((page, next)) = self.spool.list(&filter, cursor, ADOPT_PAGE) {
            for view in page {
                core.engine.adopt(view.envelope.id);
            }
            if next.is_none() {
                break;
            }
            cursor = next;
        }
    }

    fn finish(&self, errand: Errand, ended: Result<Ended, String>) {
        let mut core = self.core();
        match (errand, ended) {
            (Errand::Attempt(id), Ok(Ended::Attempt(outcome, met))) => {
                if let Some(took) = met.answer() {
                    core.engine.answered_in(id, took, now());
                }
                if let Some(address) = met.address() {
                    core.engine.met(id, address);
                }
                core.engine.ended(id, &outcome, now());
            }
            (Errand::Attempt(id), ended) => {
                let cause = ended.err().unwrap_or_else(|| "the attempt gave no outcome".to_owned());
                let hold = core.engine.destination().ambiguous == Ambiguous::Hold || self.cut.load(Ordering::Acquire);
                // Where a second copy matters, what broke off at an unknown point counts as sent.
                let outcome = if hold { Outcome::Unanswered { silence: Silence::Lost, cause } } else { Outcome::Local { cause, permanent: false } };
                core.engine.ended(id, &outcome, now());
            }
            (Errand::Probe(_, generation) | Errand::Rehearsal(_, generation), _) if generation != core.generation => {}
            (Errand::Probe(endpoint, _), Ok(Ended::Probe(Ok(took)))) => {
                core.engine.probe_answered_in(endpoint, took, now());
                core.engine.probed(endpoint, Ok(()), now());
            }
            (Errand::Replay, Ok(Ended::Replay(result))) => core.engine.replay_done(result, now()),
            (Errand::Replay, ended) => core.engine.replay_done(Err(ended.err().unwrap_or_default()), now()),
            (Errand::Probe(endpoint, _), Ok(Ended::Probe(Err(failure)))) => {
                core.engine.probed(endpoint, Err((failure.phase, &failure.cause)), now());
            }
            (Errand::Probe(endpoint, _), _) => core.engine.probed(endpoint, Err((Phase::Connect, "the probe broke off")), now()),
            (Errand::Rehearsal(endpoint, _), Ok(Ended::Rehearsal(found))) => core.engine.rehearsed(endpoint, &found, now()),
            (Errand::Rehearsal(endpoint, _), _) => {
                let cause = "it broke off".to_owned();
                core.engine.rehearsed(endpoint, &Err(Stumble { phase: Phase::Connect, cause }), now());
            }
        }
        self.perform(&mut core);
    }
}

/// What one run of the loop remembers of taking.
#[derive(Debug, Default)]
struct Taking {
    failed: u32,
    rest_until: Option<Instant>,
    taken: u64,
    taken_before: u64,
    idle_since: Option<Instant>,
    /// The watchdog woke the loop; so many had been taken then.
    woken_at: Option<u64>,
}

/// Runs the loop, and runs it again if it breaks.
async fn supervise(shared: Arc<Shared>, stop: Stop) {
    loop {
        let run = tokio::spawn(deliver(Arc::clone(&shared), stop.clone()));
        match run.await {
            Ok(()) => break,
            Err(broken) => {
                let what = format!("the delivery loop broke and was started again: {}", panic_text(broken));
                tokio::time::sleep(REST_AFTER_PANIC).await;
                let mut core = shared.core();
                core.jobs.clear();
                core.engine = core.engine.reborn(fastrand::u64(..), &what, now());
                shared.perform(&mut core);
                shared.adopt(&mut core);
                shared.perform(&mut core);
            }
        }
    }
    if shared.spool.counts(shared.id).deferred > 0 {
        // Nobody here times them any more: a destination that is configured again in this process must find them ready.
        let mut core = shared.core();
        shared.adopt(&mut core);
        shared.perform(&mut core);
    }
    shared.done.send_replace(true);
}

/// The loop. Ends after `Stop` when nothing is in flight.
async fn deliver(shared: Arc<Shared>, stop: Stop) {
    let mut tasks: JoinSet<Ended> = JoinSet::new();
    let mut errands: HashMap<Id, Errand> = HashMap::new();
    let mut taking = Taking::default();
    let mut stopping = false;
    let mut watchdog = tokio::time::interval(WATCHDOG);
    watchdog.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let stopped = stop.wait();
    tokio::pin!(stopped);
    loop {
        // Before anything is taken: an attempt that ended in the same moment makes no room for another.
        if !stopping && stop.stopped() {
            stopping = true;
            shared.core().engine.stop();
        }
        let (jobs, next) = shared.pump(&mut taking);
        for job in jobs {
            let (errand, work) = begin(&shared, job);
            errands.insert(tasks.spawn(work).id(), errand);
        }
        if stopping && shared.core().engine.is_idle() {
            let courier = Arc::clone(&shared.core().courier);
            courier.close().await;
            break;
        }
        if shared.cut.load(Ordering::Acquire) {
            tasks.abort_all();
        }
        tokio::select! {
            Some(ended) = tasks.join_next_with_id() => {
                let (id, ended) = match ended {
                    Ok((id, ended)) => (id, Ok(ended)),
                    Err(broken) => (broken.id(), Err(panic_text(broken))),
                };
                if let Some(errand) = errands.remove(&id) {
                    shared.finish(errand, ended);
                }
            }
            () = shared.wake.notified() => {
                // Heard. If nothing can be sent now, there is no need to hear of the next one.
                shared.listens.store(false, Ordering::Release);
                shared.core().engine.kicked();
            }
            () = shared.renamed.notified() => shared.regroup(),
            () = sleep_until(next) => {}
            () = &mut stopped, if !stopping => {}
            _ = watchdog.tick() => {
                let attempts = errands.values().filter(|e| matches!(e, Errand::Attempt(_))).count();
                if shared.look(attempts, &mut taking) {
                    tasks = JoinSet::new();
                    errands.clear();
                }
            }
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn begin(shared: &Arc<Shared>, job: Job) -> (Errand, Boxed<Ended>) {
    match job {
        Job::Attempt { courier, order, synced } => {
            let (id, committer) = (order.envelope.id, shared.committer.clone());
            let work = async move {
                if let Some(endpoint) = synced
                    && let Err(error) = committer.settle(id, Settlement::Started { endpoint, at: now().wall }).await
                {
                    let cause = format!("the start could not be recorded: {error}");
                    return Ended::Attempt(Outcome::Local { cause, permanent: false }, Met::default());
                }
                let met = order.met.clone();
                Ended::Attempt(courier.attempt(order).await, met)
            };
            (Errand::Attempt(id), Box::pin(work))
        }
        Job::Probe { courier, endpoint, store, generation, within } => {
            let work = async move {
                let late = ProbeFailure { phase: Phase::Connect, cause: "no result in time".to_owned() };
                Ended::Probe(tokio::time::timeout(within, courier.probe(endpoint, store)).await.unwrap_or(Err(late)))
            };
            (Errand::Probe(endpoint, generation), Box::pin(work))
        }
        Job::Rehearse { courier, endpoint, kinds, generation, within } => {
            let work = async move {
                // Each association has its own deadline; this one is for a courier that forgets it.
                let all = within * u32::try_from(kinds.len() + 1).unwrap_or(u32::MAX) + PROBE_GRACE;
                let late = Stumble { phase: Phase::Connect, cause: "no result in time".to_owned() };
                Ended::Rehearsal(tokio::time::timeout(all, courier.rehearse(endpoint, kinds, within)).await.unwrap_or(Err(late)))
            };
            (Errand::Rehearsal(endpoint, generation), Box::pin(work))
        }
        Job::Replay(command) => {
            let (spool, id) = (Arc::clone(&shared.spool), shared.id);
            let replay = move || {
                let done = match &command.order {
                    Some(order) => spool.replay(id, order, &command.state),
                    None => spool.end_replay(id, &command.state).map(|()| Planned::default()),
                };
                spool.keep_for_replay(id, command.keep, now().wall);
                done.map_err(|error| error.to_string())
            };
            let work = async move { Ended::Replay(tokio::task::spawn_blocking(replay).await.unwrap_or_else(|e| Err(panic_text(e)))) };
            (Errand::Replay, Box::pin(work))
        }
    }
}

/// Where it broke is printed by the panic itself; its text may quote content, so it goes no further.
fn panic_text(broken: tokio::task::JoinError) -> String {
    if broken.is_cancelled() { "cut".to_owned() } else { "a fault of our own (panic)".to_owned() }
}

fn now() -> Moment {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment { at: Instant::now().into_std(), wall: UnixMillis::try_from(wall.as_millis()).unwrap_or(UnixMillis::MAX) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]
mod tests;
