//! Failover drills: those that run, the reports of those that ran, and what stands about them.
//! Rules: one at a time for each destination; events reach the machine of the drill that runs, and nothing here waits while they do. An alarm stands from
//! a scheduled drill that was missed or did not pass until one of that destination passes.
//! Errors: none here; beginning one is `begin`'s.

pub mod begin;
pub mod calendar;
pub mod record;
pub mod report;
mod run;
mod scheduled;

use crate::live::now;
use calendar::Due;
use everpost_client::delivery::Verdict;
use everpost_client::delivery::drill::{Drill, Heard, Outcome};
use everpost_client::delivery::engine::Moment;
use everpost_client::event::{Event, Events, ReplayEnd};
use record::{Record, Store};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

/// What the status says of a destination's drills.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillLine {
    /// The one that runs.
    pub running: Option<String>,
    /// What it is doing.
    pub doing: Option<String>,
    /// The last one.
    pub last: Option<String>,
    /// How it ended.
    pub outcome: Option<String>,
    /// When it ended, RFC 3339.
    pub ended: Option<String>,
    /// When the next one is due by its schedule, RFC 3339.
    pub next: Option<String>,
}

impl DrillLine {
    /// For people: the one that runs.
    #[must_use]
    pub fn told(&self) -> Option<String> {
        Some(format!("DRILL {}: {}", self.running.as_ref()?, self.doing.as_deref().unwrap_or_default()))
    }
}

/// One that runs.
#[derive(Debug)]
struct Active {
    id: String,
    machine: Arc<Mutex<Drill>>,
    /// Why it is to end: a person's word.
    stop: Option<String>,
    /// Nothing is waited for: the process ends, or the destination goes.
    cut: Option<String>,
}

/// See the head of the file.
#[derive(Debug, Default)]
pub struct Drills {
    events: OnceLock<Events>,
    store: OnceLock<Arc<Store>>,
    active: Mutex<BTreeMap<String, Active>>,
    /// How many run: an event that concerns none costs one look.
    running: AtomicUsize,
    alarms: Mutex<BTreeMap<String, String>>,
    dues: Mutex<BTreeMap<String, Due>>,
    /// One look at the calendar at a time.
    minding: tokio::sync::Mutex<()>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn moment() -> Moment {
    Moment { at: Instant::now(), wall: now() }
}

impl Drills {
    /// Reads what earlier runs left; what broke off with them is told. Blocks. Once.
    /// # Errors
    /// The folder cannot be made or read.
    pub fn open(&self, data_dir: &Path, events: Events) -> std::io::Result<()> {
        let (store, broken) = Store::open(&data_dir.join("drills"), now())?;
        let _ = self.events.set(events);
        let mut records = store.list(None);
        records.reverse();
        for record in &records {
            self.judge(record);
        }
        for record in &broken {
            self.tell(record);
        }
        let _ = self.store.set(Arc::new(store));
        Ok(())
    }

    /// The reports. `None`: not open yet.
    #[must_use]
    pub fn store(&self) -> Option<Arc<Store>> {
        self.store.get().cloned()
    }

    fn emit(&self, event: Event) {
        if let Some(events) = self.events.get() {
            events.emit(event);
        }
    }

    /// One event, for the drill that it concerns.
    pub fn read(&self, event: &Event) {
        if self.running.load(Ordering::Acquire) == 0 {
            return;
        }
        let (destination, heard) = match event {
            Event::Attempt { destination, endpoint, verdict, .. } => {
                let good = matches!(verdict, Verdict::Delivered | Verdict::DeliveredWithWarning | Verdict::Unconfirmed);
                let ambiguous = *verdict == Verdict::Ambiguous;
                (destination, Heard::Attempt { endpoint: endpoint.clone(), good, ambiguous, synthetic: false })
            }
            Event::Delivered { destination, envelope, .. } => (destination, Heard::Delivered { envelope: envelope.0 }),
            Event::Replayed { destination, end, .. } => (destination, Heard::Replayed { refused: *end == ReplayEnd::Refused }),
            Event::Outage { destination, outage, over: false } if outage.drill => (destination, Heard::Left { detected: outage.detected }),
            _ => return,
        };
        let machine = locked(&self.active).get(&**destination).map(|active| active.machine.clone());
        if let Some(machine) = machine {
            locked(&machine).heard(&heard, moment());
        }
    }

    /// For the status.
    #[must_use]
    pub fn line(&self, destination: &str) -> DrillLine {
        let running = locked(&self.active).get(destination).map(|active| (active.id.clone(), active.machine.clone()));
        let doing = running.as_ref().map(|(_, machine)| locked(machine).told());
        let last = self.store().and_then(|store| store.list(Some(destination)).into_iter().find(|r| !r.running));
        DrillLine {
            running: running.map(|(id, _)| id),
            doing,
            outcome: last.as_ref().and_then(|r| r.outcome).map(|o| o.name().to_owned()),
            ended: last.as_ref().and_then(|r| r.ended.clone()),
            last: last.map(|r| r.id),
            next: locked(&self.dues).get(destination).map(|due| crate::status::time(due.at)),
        }
    }

    /// Ends a drill because a person says so. False: none runs.
    pub fn stop(&self, destination: &str, by: &str) -> bool {
        let mut active = locked(&self.active);
        let running = active.get_mut(destination);
        running.map(|active| active.stop = Some(format!("stopped by {by}"))).is_some()
    }

    /// Ends every drill at once: the process is about to end.
    pub fn cut_all(&self, why: &str) {
        locked(&self.active).values_mut().for_each(|active| active.cut = Some(why.to_owned()));
    }

    /// How many run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }

    fn enter(&self, destination: &str, id: &str, machine: &Arc<Mutex<Drill>>) -> bool {
        let mut active = locked(&self.active);
        if active.contains_key(destination) {
            return false;
        }
        active.insert(destination.to_owned(), Active { id: id.to_owned(), machine: machine.clone(), stop: None, cut: None });
        self.running.store(active.len(), Ordering::Release);
        true
    }

    fn leave(&self, destination: &str) {
        let mut active = locked(&self.active);
        active.remove(destination);
        self.running.store(active.len(), Ordering::Release);
    }

    /// What people, or the end of the process, want of a drill: to stop it, to cut it.
    fn wanted(&self, destination: &str) -> (Option<String>, Option<String>) {
        locked(&self.active).get(destination).map(|a| (a.stop.clone(), a.cut.clone())).unwrap_or_default()
    }

    fn tell(&self, record: &Record) {
        let (destination, id) = (record.destination.as_str().into(), record.id.as_str().into());
        let begun = || format!("{} begun by {}: {}", record.id, record.by, report::scenario(record));
        let what = if record.running { begun() } else { report::summary(record) };
        self.emit(Event::Drill { destination, id, outcome: record.outcome.map(Outcome::name), what });
    }

    /// Whether an alarm begins or ends with a drill that is over.
    fn judge(&self, record: &Record) {
        let mut alarms = locked(&self.alarms);
        let over = if record.running { None } else { record.outcome };
        let what = match over {
            Some(Outcome::Passed) => None,
            Some(outcome) if record.scheduled.is_some() => {
                let issue = record.findings.issues.first().cloned().unwrap_or_else(|| "see its report".to_owned());
                Some(format!("its scheduled drill {} {}: {issue}; `everpost drill show {}`", record.id, past(outcome), record.id))
            }
            _ => return,
        };
        let subject = format!("destination {}", record.destination);
        let before = alarms.remove(&record.destination);
        if let Some(what) = &what {
            alarms.insert(record.destination.clone(), what.clone());
        }
        drop(alarms);
        if before == what {
            return;
        }
        if let Some(what) = before {
            self.emit(Event::Alarm { subject: subject.clone(), what, raised: false });
        }
        if let Some(what) = what {
            self.emit(Event::Alarm { subject, what, raised: true });
        }
    }
}

fn past(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "passed",
        Outcome::Failed => "failed",
        Outcome::Stopped => "was stopped",
        Outcome::BrokenOff => "was broken off",
        Outcome::Missed => "was missed",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn over(id: &str, outcome: Outcome, scheduled: bool) -> Record {
        let scheduled = scheduled.then(|| "2026-01-01T03:00:00Z".to_owned());
        let mut record = Record { id: id.into(), destination: "ris".into(), begun: id.into(), scheduled, ..Record::default() };
        record.end(outcome, 1_000);
        record
    }

    fn alarms(events: &Arc<Mutex<Vec<Event>>>) -> Vec<(bool, String)> {
        let told = std::mem::take(&mut *locked(events));
        let alarm = |event| if let Event::Alarm { what, raised, .. } = event { Some((raised, what)) } else { None };
        told.into_iter().filter_map(alarm).collect()
    }

    #[test]
    fn an_alarm_stands_from_a_scheduled_drill_that_failed_until_one_passes() {
        let (dir, events) = (tempfile::tempdir().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let heard = events.clone();
        let drills = Drills::default();
        drills.open(dir.path(), Events::to(move |e| locked(&heard).push(e))).unwrap();
        drills.judge(&over("1", Outcome::Failed, false));
        assert_eq!(alarms(&events), [], "whoever began it has seen it");
        drills.judge(&over("2", Outcome::Missed, true));
        let told = alarms(&events);
        assert!(told.len() == 1 && told[0].0 && told[0].1.contains("scheduled drill 2 was missed"), "{told:?}");
        drills.store().unwrap().write(&over("2", Outcome::Missed, true)).unwrap();
        let (again, heard) = (Drills::default(), events.clone());
        again.open(dir.path(), Events::to(move |e| locked(&heard).push(e))).unwrap();
        assert_eq!(alarms(&events).len(), 1, "it stands after a restart");
        again.judge(&over("3", Outcome::Passed, false));
        assert_eq!(alarms(&events).into_iter().map(|(raised, _)| raised).collect::<Vec<_>>(), [false]);
        assert_eq!(again.line("ris").outcome.as_deref(), Some("missed"));
    }
}
