//! Runs one drill: does what its machine wants, some times a second, and writes its report.
//! Rules: a fault is asked for again each time, and ends by itself if nobody asks; the shift of a drill is nowhere recorded, so that a restart knows nothing
//! of it. Nothing here holds a lock while it waits. However it ends, fault and shift are gone before its report is written.
//! Errors: none; what goes wrong is an issue in the report.

use super::begin::Ready;
use super::record::{Record, Store};
use super::{Drills, locked, moment};
use crate::live::{Live, Running, now};
use everpost_client::delivery::drill::{Drill, Heard, Order, Outcome, Plan, Sight, Synthetic};
use everpost_client::delivery::status::DestinationStatus;
use everpost_client::delivery::{self, Phase, Verdict};
use everpost_client::dicom::status::{self, StatusClass};
use everpost_client::endpoint::EndpointSet;
use everpost_client::endpoint::failover::Next;
use everpost_client::endpoint::wishes::Shift;
use everpost_client::ids::EndpointId;
use everpost_client::io::courier::{Parcel, Patience};
use everpost_client::io::driver::Driver;
use everpost_client::limits::FAULT_LEASE;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// How often it looks.
const LOOK: Duration = Duration::from_millis(100);

/// Attempts of one test message, from endpoint to endpoint.
const TRIES_MAX: u32 = 6;

/// Beyond everything it waits for, the shift of a drill ends by itself.
const SHIFT_GRACE: Duration = Duration::from_secs(60);

/// A drill as it runs.
struct Runner {
    plan: Plan,
    driver: Driver,
    machine: Arc<Mutex<Drill>>,
    parcel: Option<Parcel>,
    patience: (Duration, Duration),
    id: String,
    faulty: bool,
    shifted: bool,
}

/// Runs it to its end.
pub(super) async fn run(live: Arc<Live>, running: Running, ready: Ready, machine: Arc<Mutex<Drill>>, store: Arc<Store>) {
    let Ready { mut record, plan, parcel, patience } = ready;
    let (driver, id) = (running.driver.clone(), record.id.clone());
    let mut runner = Runner { plan, driver, machine, parcel, patience, id, faulty: false, shifted: false };
    runner.driver.drill(true);
    let mut pace = tokio::time::interval(LOOK);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let cut = loop {
        pace.tick().await;
        let (stop, cut) = live.drills().wanted(&running.name);
        let gone = live.running(&running.name).is_err().then(|| "its destination is no longer configured".to_owned());
        if let Some(why) = cut.or(gone) {
            break Some(why);
        }
        if let Some(why) = stop {
            locked(&runner.machine).stop(&why, moment());
        }
        if runner.look() {
            break None;
        }
    };
    runner.put_back();
    record.findings = locked(&runner.machine).findings().clone();
    let outcome = match cut {
        Some(why) => {
            record.findings.issues.push(format!("broken off: {why}"));
            Outcome::BrokenOff
        }
        None => locked(&runner.machine).outcome().unwrap_or(Outcome::Failed),
    };
    record.end(outcome, now());
    finish(&live, record, store).await;
    live.drills().leave(&running.name);
}

/// Writes a report that is complete, and tells of it.
pub(super) async fn finish(live: &Live, mut record: Record, store: Arc<Store>) {
    let drills: &Drills = live.drills();
    let to_write = record.clone();
    let written = tokio::task::spawn_blocking(move || store.write(&to_write)).await.map_err(std::io::Error::other).flatten();
    if let Err(e) = written {
        tracing::error!(about = record.destination, "the report of drill {} could not be written: {e}", record.id);
        record.findings.issues.push(format!("its report could not be written: {e}"));
    }
    drills.tell(&record);
    drills.judge(&record);
}

impl Runner {
    /// One look. True: it is over.
    fn look(&mut self) -> bool {
        let sight = self.sight(&self.driver.status());
        let (fault, shift, orders, over) = {
            let mut machine = locked(&self.machine);
            machine.look(&sight, moment());
            let orders: Vec<Order> = std::iter::from_fn(|| machine.next_order()).collect();
            (machine.wants_fault(), machine.wants_shift(), orders, machine.outcome().is_some())
        };
        if fault.is_some() || self.faulty {
            self.driver.simulate(&self.plan.from, fault, FAULT_LEASE);
            self.faulty = fault.is_some();
        }
        match (shift, self.shifted) {
            (true, false) => self.shift(),
            (false, true) => self.unshift(),
            _ => {}
        }
        for order in orders {
            self.obey(order);
        }
        over
    }

    fn sight(&self, status: &DestinationStatus) -> Sight {
        let fit = |e: &&everpost_client::delivery::status::EndpointStatus| matches!(e.health, "up" | "suspect" | "degraded") && e.admin == "enabled";
        Sight {
            active: status.active.clone(),
            to_good: status.endpoints.iter().filter(fit).any(|e| *e.name == *self.plan.to),
            shifted: status.shift.as_ref().is_some_and(|s| *s.shift.by == *self.name()),
            oldest: Duration::from_secs(status.oldest_waiting_seconds),
            replaying: status.replay.is_some(),
        }
    }

    fn name(&self) -> String {
        format!("drill {}", self.id)
    }

    fn shift(&mut self) {
        let since = now();
        let Plan { stay, within, return_within, to, .. } = &self.plan;
        let time = *stay + *within + *return_within + SHIFT_GRACE;
        let until = since.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        let (reason, by) = ("failover drill".into(), self.name().into());
        let shift = Shift { to: to.clone(), reason, by, since, until, site: None, forced: false };
        match self.driver.begin_shift(shift) {
            Ok(()) => self.shifted = true,
            Err(e) => locked(&self.machine).stop(&format!("stopped: {e}"), moment()),
        }
    }

    fn unshift(&mut self) {
        self.shifted = false;
        // Not one that an operator began meanwhile.
        if self.driver.shift().is_some_and(|s| *s.shift.by == *self.name()) {
            let _ = self.driver.end_shift(&format!("{} is over", self.name()));
        }
    }

    /// Nothing of it stands any more.
    fn put_back(&mut self) {
        self.driver.simulate(&self.plan.from, None, FAULT_LEASE);
        self.unshift();
        self.driver.drill(false);
    }

    fn obey(&self, order: Order) {
        match order {
            Order::Failback => {
                self.driver.failback();
            }
            Order::SendAsTraffic => {
                if let Some(parcel) = self.parcel.clone() {
                    tokio::spawn(as_traffic(self.driver.clone(), self.machine.clone(), parcel, self.patience));
                }
            }
            Order::SendTo(endpoint) => {
                let parcel = self.parcel.clone().filter(|_| self.plan.synthetic == Synthetic::Message);
                tokio::spawn(to_endpoint(self.driver.clone(), self.machine.clone(), endpoint, parcel, self.patience));
            }
        }
    }
}

/// How long one attempt may take.
fn patience((connect, answer): (Duration, Duration)) -> Patience {
    let connect_by = Instant::now() + connect;
    Patience { connect_by, answer_within: answer, until: connect_by + answer }
}

/// A test message goes the way of traffic, and counts as such.
async fn as_traffic(driver: Driver, machine: Arc<Mutex<Drill>>, parcel: Parcel, times: (Duration, Duration)) {
    let (mut last, mut tries, mut resend) = (None, 0, false);
    for _ in 0..TRIES_MAX {
        let Some(trip) = driver.direct(EndpointSet::EMPTY, last) else { break };
        let (endpoint, name) = (trip.direct().endpoint, trip.direct().name.clone());
        tries = if last == Some(endpoint) { tries + 1 } else { 1 };
        let (outcome, _) = trip.send(parcel.clone(), patience(times)).await;
        let (ruling, next) = trip.ended(&outcome, tries, resend);
        resend |= outcome.phase() == Phase::Answer;
        let good = matches!(ruling.verdict, Verdict::Delivered | Verdict::DeliveredWithWarning | Verdict::Unconfirmed);
        locked(&machine).heard(&Heard::Attempt { endpoint: name, good, ambiguous: ruling.ambiguous, synthetic: true }, moment());
        last = (next == Next::Again).then_some(endpoint);
        if good || matches!(next, Next::Wait | Next::Verdict) {
            break;
        }
    }
    locked(&machine).heard(&Heard::SyntheticEnded, moment());
}

/// A test message, or C-ECHO, goes to one endpoint and is no traffic.
async fn to_endpoint(driver: Driver, machine: Arc<Mutex<Drill>>, name: Arc<str>, parcel: Option<Parcel>, times: (Duration, Duration)) {
    let (destination, courier) = driver.way();
    let at = destination.endpoints.iter().position(|e| e.name == name).and_then(|at| u16::try_from(at).ok());
    let good = match (at.map(EndpointId), parcel) {
        (None, _) => false,
        (Some(endpoint), Some(parcel)) => answered(&courier.send(endpoint, false, parcel, patience(times)).await.0),
        (Some(endpoint), None) => courier.echo(endpoint, patience(times).until).await.is_ok(),
    };
    let mut machine = locked(&machine);
    machine.heard(&Heard::Attempt { endpoint: name, good, ambiguous: false, synthetic: true }, moment());
    machine.heard(&Heard::SyntheticEnded, moment());
}

fn answered(outcome: &delivery::Outcome) -> bool {
    match outcome {
        delivery::Outcome::Acknowledged { code, .. } => code.is_positive(),
        delivery::Outcome::Stored { status } => {
            matches!(status::class(*status), StatusClass::Success | StatusClass::Warning | StatusClass::Duplicate)
        }
        _ => false,
    }
}
