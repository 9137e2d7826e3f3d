//! Outages of a destination, measured against its objectives: the machine behind `rto` and `rpo`.
//!
//! ```text
//!          left (it was active)                 delivered elsewhere                 settle: back, or good again
//!   none -----------------------> running ------------------------------> restored ----------------------------> none
//!                                 |     ^                                  |     ^
//!                                 +-----+ another one is left: the same outage --+
//! ```
//! Rules
//! - An outage begins when the destination leaves an endpoint that was active, for what the endpoint did and not by a wish. Its start is the first of the
//!   failures in a row that led to it, counted from the beginning of the attempt or probe; it was *detected* when the endpoint was left.
//! - It is *restored* with the first delivery by an endpoint in service. Where nothing waited, so that the first message delivered was accepted only after
//!   another endpoint had taken over, the takeover counts.
//! - It ends when each endpoint left in it is active again, or would be if people let it: `failback` by hand or a closed window, a drain, a shift, a new
//!   configuration. After a restart an endpoint must have answered before that counts.
//! - Times are milliseconds since the start, by the monotonic clock in a run and by the wall clock across a restart.
//! - At most `OUTAGES_KEPT` are remembered, none for longer than `OUTAGES_KEPT_FOR`; the worst ones stay longest. One that a drill made is marked.
//!
//! Errors: none.

use super::engine::Moment;
use crate::config::Objectives;
use crate::limits::{OUTAGES_KEPT, OUTAGES_KEPT_FOR};
use crate::spool::{Planned, UnixMillis};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Characters of a reason that are kept.
const REASON_CHARS: usize = 300;

/// One outage. This is also the form in which it is remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    /// Counts the outages of the destination, from 1.
    pub number: u64,
    /// The endpoint that was left.
    pub endpoint: Arc<str>,
    /// Others that were left before it was over.
    #[serde(default)]
    pub also_left: Vec<Arc<str>>,
    /// Why.
    pub reason: String,
    /// The first failure (milliseconds since 1970).
    pub started: UnixMillis,
    /// When the endpoint was left, after the start.
    pub detected: u64,
    /// When another endpoint was in service, after the start.
    #[serde(default)]
    pub taken_over: Option<u64>,
    /// The first delivery elsewhere.
    #[serde(default)]
    pub delivered: Option<First>,
    /// When the destination delivered again, or could have, after the start: what `rto` is about.
    #[serde(default)]
    pub restored: Option<u64>,
    /// What was delivered again, if `replay_window` says so.
    #[serde(default)]
    pub replay: Option<Redelivery>,
    /// When it was over, after the start.
    #[serde(default)]
    pub ended: Option<u64>,
    /// How it ended, for people.
    #[serde(default)]
    pub end: String,
    /// A drill made it.
    #[serde(default)]
    pub drill: bool,
    /// `rto` then.
    #[serde(default)]
    pub rto: Option<u64>,
    /// `rpo` then.
    #[serde(default)]
    pub rpo: Option<u64>,
}

/// The first delivery in an outage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct First {
    /// By which endpoint.
    pub endpoint: Arc<str>,
    /// After the start of the outage.
    pub after: u64,
}

/// What the endpoint that was left had answered and might have lost.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redelivery {
    /// Messages in the window that nobody else had.
    pub found: u64,
    /// Messages in the window whose content history no longer had.
    pub gone: u64,
    /// Of those found: delivered again.
    pub delivered: u64,
    /// Of those found: refused by the other endpoint.
    pub refused: u64,
    /// Age of the oldest when the endpoint was left.
    pub oldest_age: u64,
    /// All of them have ended.
    pub over: bool,
}

impl Redelivery {
    /// Of those found: not delivered again yet.
    #[must_use]
    pub fn left(&self) -> u64 {
        if self.over { 0 } else { self.found.saturating_sub(self.delivered + self.refused) }
    }
}

impl Outage {
    /// What `rto` is measured by: the time until the destination delivered again. While it does not, the time so far, given `elapsed` since the start.
    #[must_use]
    pub fn rto_actual(&self, elapsed: u64) -> u64 {
        self.restored.or(self.taken_over).or(self.ended).unwrap_or(elapsed)
    }

    /// What `rpo` is measured by: how far back reaches what the endpoint may have lost and nobody else has. `None`: nothing is delivered again, so nobody
    /// knows.
    #[must_use]
    pub fn rpo_actual(&self) -> Option<u64> {
        let replay = self.replay.as_ref()?;
        Some(if replay.gone > 0 || replay.refused > 0 || replay.left() > 0 { replay.oldest_age } else { 0 })
    }

    /// Whether `rto` was met, if there is one.
    #[must_use]
    pub fn rto_met(&self, elapsed: u64) -> Option<bool> {
        self.rto.map(|rto| self.rto_actual(elapsed) <= rto)
    }

    /// Whether `rpo` was met, if there is one and it is known.
    #[must_use]
    pub fn rpo_met(&self) -> Option<bool> {
        Some(self.rpo_actual()? <= self.rpo?)
    }
}

/// Where an endpoint stands that was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is active.
    Active,
    /// It would be good, and returns by people's will only.
    Good,
    /// Something that is liked better is active.
    Outranked,
    /// People keep traffic from it.
    Forbidden,
    /// It is not configured any more.
    Gone,
    /// None of these.
    Out,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// To be remembered in place of what the slot had before.
    Keep {
        /// Which one: below `OUTAGES_KEPT`.
        slot: u16,
        /// What.
        outage: Box<Outage>,
    },
    /// It began.
    Opened(Box<Outage>),
    /// It is over.
    Closed(Box<Outage>),
}

/// The worst of the last 30 days, drills left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Worst {
    /// Outages.
    pub outages: usize,
    /// The longest time until the destination delivered again.
    pub rto: Option<u64>,
    /// The farthest that something reaches back that may be lost.
    pub rpo: Option<u64>,
    /// Outages in which an objective was missed.
    pub missed: usize,
}

#[derive(Debug, Clone)]
struct Running {
    slot: u16,
    /// At this time so many milliseconds had passed since the start.
    clock: (Instant, u64),
    out: Vec<Arc<str>>,
    /// Left in an earlier run of the process, and silent since.
    unproven: Vec<Arc<str>>,
}

impl Running {
    fn elapsed(&self, now: Instant) -> u64 {
        self.clock.1.saturating_add(millis(now.saturating_duration_since(self.clock.0)))
    }
}

/// See the head of the file.
#[derive(Debug, Clone, Default)]
pub struct Outages {
    objectives: Objectives,
    /// Since when attempts or probes fail, for each endpoint of which they do.
    failing: BTreeMap<Arc<str>, (Instant, UnixMillis)>,
    kept: BTreeMap<u16, Outage>,
    running: Option<Running>,
    /// The one that a replay belongs to.
    latest: Option<u16>,
    last_number: u64,
    drill: bool,
    told: VecDeque<Told>,
}

impl Outages {
    /// Takes new objectives: they count from the next outage on.
    pub fn reconfigure(&mut self, objectives: Objectives) {
        self.objectives = objectives;
    }

    /// What an earlier run remembered. Before anything else.
    pub fn restore(&mut self, slot: u16, outage: Outage, now: Moment) {
        if usize::from(slot) >= OUTAGES_KEPT {
            return;
        }
        self.last_number = self.last_number.max(outage.number);
        // At most one runs: the last one.
        let newer = self.running.as_ref().and_then(|r| self.kept.get(&r.slot)).is_none_or(|running| running.number < outage.number);
        if outage.ended.is_none() && newer {
            let known = [Some(outage.detected), outage.taken_over, outage.restored].into_iter().flatten().max().unwrap_or(0);
            let clock = (now.at, now.wall.saturating_sub(outage.started).max(known));
            let out: Vec<Arc<str>> = std::iter::once(&outage.endpoint).chain(&outage.also_left).cloned().collect();
            self.running = Some(Running { slot, clock, unproven: out.clone(), out });
            self.latest = Some(slot);
        }
        self.kept.insert(slot, outage);
    }

    /// Outages from now on are those of a drill, or no longer.
    pub fn drill(&mut self, drill: bool) {
        self.drill = drill;
    }

    // ---- what happens ----

    /// An attempt or a probe failed that began then.
    pub fn failed(&mut self, endpoint: &Arc<str>, began: Instant, now: Moment) {
        if !self.failing.contains_key(endpoint) {
            let wall = now.wall.saturating_sub(millis(now.at.saturating_duration_since(began)));
            self.failing.insert(Arc::clone(endpoint), (began, wall));
        }
    }

    /// An endpoint showed that it is good.
    pub fn good(&mut self, endpoint: &str) {
        self.failing.remove(endpoint);
        if let Some(running) = &mut self.running {
            running.unproven.retain(|name| **name != *endpoint);
        }
    }

    /// The destination left an endpoint that was active.
    pub fn left(&mut self, endpoint: &Arc<str>, reason: &str, now: Moment) {
        if let Some(running) = &mut self.running {
            if !running.out.contains(endpoint) {
                running.out.push(Arc::clone(endpoint));
                let slot = running.slot;
                let outage = self.kept.entry(slot).or_default();
                outage.also_left.push(Arc::clone(endpoint));
                // Whoever took over is gone again and has delivered nothing.
                outage.taken_over = outage.taken_over.filter(|_| outage.delivered.is_some());
                self.keep(slot);
            }
            return;
        }
        let (began, started) = self.failing.get(endpoint).copied().unwrap_or((now.at, now.wall));
        let detected = millis(now.at.saturating_duration_since(began));
        let slot = self.free_slot(now.wall);
        self.last_number += 1;
        let outage = Outage {
            number: self.last_number,
            endpoint: Arc::clone(endpoint),
            reason: reason.chars().take(REASON_CHARS).collect(),
            started,
            detected,
            drill: self.drill,
            rto: self.objectives.rto.map(millis),
            rpo: self.objectives.rpo.map(millis),
            ..Outage::default()
        };
        self.running = Some(Running { slot, clock: (now.at, detected), out: vec![Arc::clone(endpoint)], unproven: Vec::new() });
        self.latest = Some(slot);
        self.kept.insert(slot, outage.clone());
        self.told.push_back(Told::Opened(Box::new(outage)));
        self.keep(slot);
    }

    /// An endpoint in service answered positively what had been accepted then; `None`: just now.
    pub fn delivered(&mut self, endpoint: &Arc<str>, accepted_at: Option<UnixMillis>, now: Moment) {
        let Some(running) = &self.running else { return };
        let (slot, after) = (running.slot, running.elapsed(now.at));
        let Some(outage) = self.kept.get_mut(&slot).filter(|o| o.delivered.is_none()) else { return };
        outage.delivered = Some(First { endpoint: Arc::clone(endpoint), after });
        let accepted_at = accepted_at.unwrap_or(now.wall);
        let waited = |taken_over: &u64| accepted_at < outage.started.saturating_add(*taken_over);
        outage.restored = Some(outage.taken_over.filter(|t| !waited(t)).unwrap_or(after));
        self.keep(slot);
    }

    /// What the endpoint that was left may have lost was found, and is delivered again.
    pub fn replay_found(&mut self, planned: &Planned) {
        let Some((slot, outage)) = self.latest.and_then(|slot| Some((slot, self.kept.get_mut(&slot)?))) else { return };
        let left_at = outage.started.saturating_add(outage.detected);
        let oldest_age = planned.accepted.map_or(0, |(first, _)| left_at.saturating_sub(first));
        let replay = outage.replay.get_or_insert_default();
        // A second order of the same outage says what is still wanted of the first.
        replay.found = planned.envelopes + replay.delivered + replay.refused;
        replay.gone = replay.gone.max(planned.gone);
        replay.oldest_age = replay.oldest_age.max(oldest_age);
        replay.over = planned.envelopes == 0;
        self.keep(slot);
    }

    /// One of them was answered, positively or not.
    pub fn replayed(&mut self, refused: bool) {
        let replay = self.latest.and_then(|slot| self.kept.get_mut(&slot)).and_then(|o| o.replay.as_mut()).filter(|r| !r.over);
        if let Some(replay) = replay {
            if refused { replay.refused += 1 } else { replay.delivered += 1 }
        }
    }

    /// None of them waits any more.
    pub fn replay_over(&mut self) {
        let Some(slot) = self.latest else { return };
        let replay = self.kept.get_mut(&slot).and_then(|o| o.replay.as_mut()).filter(|r| !r.over);
        if let Some(replay) = replay {
            replay.over = true;
            self.keep(slot);
        }
    }

    /// Something may have changed: says where each endpoint stands that was left, and what is active.
    pub fn settle(&mut self, active: &[Arc<str>], standing: impl Fn(&str) -> Standing, now: Moment) {
        let Some(running) = &self.running else { return };
        let (slot, elapsed) = (running.slot, running.elapsed(now.at));
        let proven = |name: &Arc<str>| !running.unproven.contains(name);
        let serves = active.first().is_some_and(proven);
        let Some(outage) = self.kept.get_mut(&slot) else {
            self.running = None;
            return;
        };
        if serves && outage.taken_over.is_none() {
            outage.taken_over = Some(elapsed);
        }
        let mut how = String::new();
        for name in &running.out {
            how = match standing(name) {
                Standing::Active if proven(name) => format!("{name} is in service again"),
                Standing::Good if proven(name) => format!("{name} is good again, and returns by hand or in its window"),
                Standing::Outranked if serves => format!("{} is liked better than {name} now", active.first().map_or("another", |a| &**a)),
                Standing::Forbidden => format!("an operator keeps traffic from {name}"),
                Standing::Gone => format!("{name} is no longer configured"),
                Standing::Active | Standing::Good | Standing::Outranked | Standing::Out => return,
            };
        }
        outage.ended = Some(elapsed);
        outage.end = how;
        outage.restored = outage.restored.or(outage.taken_over).or(Some(elapsed));
        let closed = outage.clone();
        self.running = None;
        self.told.push_back(Told::Closed(Box::new(closed)));
        self.keep(slot);
    }

    /// What has to be told or remembered, oldest first.
    pub fn next_told(&mut self) -> Option<Told> {
        self.told.pop_front()
    }

    // ---- what people see ----

    /// The one that runs, and how long it has lasted.
    #[must_use]
    pub fn running(&self, now: Instant) -> Option<(&Outage, u64)> {
        let running = self.running.as_ref()?;
        Some((self.kept.get(&running.slot)?, running.elapsed(now)))
    }

    /// Those of the last 30 days, the latest first.
    #[must_use]
    pub fn all(&self, wall: UnixMillis) -> Vec<Outage> {
        let mut all: Vec<Outage> = self.kept.values().filter(|o| !is_old(o, wall)).cloned().collect();
        all.sort_by_key(|o| std::cmp::Reverse(o.number));
        all
    }

    /// The worst of them.
    #[must_use]
    pub fn worst(&self, now: Moment) -> Worst {
        let elapsed = self.running.as_ref().map_or(0, |r| r.elapsed(now.at));
        let real = || self.kept.values().filter(|o| !o.drill && !is_old(o, now.wall));
        Worst {
            outages: real().count(),
            rto: real().map(|o| o.rto_actual(elapsed)).max(),
            rpo: real().filter_map(Outage::rpo_actual).max(),
            missed: real().filter(|o| o.rto_met(elapsed) == Some(false) || o.rpo_met() == Some(false)).count(),
        }
    }

    fn keep(&mut self, slot: u16) {
        if let Some(outage) = self.kept.get(&slot) {
            let outage = Box::new(outage.clone());
            // What waits to be written of the same one is out of date.
            self.told.retain(|told| !matches!(told, Told::Keep { slot: other, .. } if *other == slot));
            self.told.push_back(Told::Keep { slot, outage });
        }
    }

    /// A free slot; else that of an old one, of a drill, of the oldest that is not among the worst.
    fn free_slot(&self, wall: UnixMillis) -> u16 {
        let slots = u16::try_from(OUTAGES_KEPT).unwrap_or(u16::MAX);
        if let Some(free) = (0..slots).find(|slot| !self.kept.contains_key(slot)) {
            return free;
        }
        let worst =
            |measure: fn(&Outage) -> Option<u64>| self.kept.iter().filter(|(_, o)| !o.drill).max_by_key(|(_, o)| measure(o)).map(|(slot, _)| *slot);
        let spared = [worst(|o| Some(o.rto_actual(0))), worst(Outage::rpo_actual)];
        let rank = |(slot, o): &(&u16, &Outage)| (!is_old(o, wall), !o.drill, spared.contains(&Some(**slot)), o.number);
        self.kept.iter().min_by_key(rank).map_or(0, |(slot, _)| *slot)
    }
}

/// Longer ago than anybody wants to know.
fn is_old(outage: &Outage, wall: UnixMillis) -> bool {
    let last = outage.started.saturating_add(outage.ended.unwrap_or(0));
    outage.ended.is_some() && wall.saturating_sub(last) > millis(OUTAGES_KEPT_FOR)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]
mod tests;
