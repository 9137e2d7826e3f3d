//! What a destination has to replay, and when: the machine behind `replay_window`, `resync` and `everpost replay`.
//!
//! ```text
//!                left(A), others active                planned            all ended
//!   idle ---------------------------------> asked ------------> running -----------> idle
//!    |   returning(A), resync                ^                     |
//!    |   by hand                             +--- next round ------+  (resync: until little is left, then a last one
//!    |                                                                  with traffic stopped; then A returns)
//! ```
//! Rules
//! - An endpoint that was left is in *doubt* about what it answered from `replay_window` before its last answer on: that goes to whoever is active, unless
//!   that one has it. A doubt is *fresh* until an active endpoint got all of it.
//! - `resync = "outage"`: an endpoint that was left is *out* from then on. Before its return it gets what others answered since, and what it is in doubt
//!   about, in rounds; only then, with nothing under way, traffic moves. If it has to serve before (nobody else can), it gets that first.
//! - With an order, nothing is taken between the failover and the replay's being durable, all attempts have ended before, and replays go ahead of later
//!   messages of their lanes. Without, replays go beside the traffic, on at most half of its places.
//! - One order at a time; a new one takes the place of the one before and says all that is still wanted.
//! - Everything that a restart must know is in `state`, durable with the order. An order that a crash cut goes on under its number.
//!
//! Errors: `ByHandRefused`. A spool that cannot open an order is asked again after `AGAIN`.

use crate::config::{Destination, Ordering, Policy};
use crate::limits::REPLAY_PUT_OFF_MAX;
use crate::spool::{Answered, Keep, Mark, Planned, Range, ReplayOrder, Since, UnixMillis};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Positions kept of one window: it is longer than said by at most this part of it.
const MARKS: u32 = 32;
/// Replays of a round below which the next one is the last, with traffic stopped.
const LAST_ROUND: u64 = 64;
/// Rounds after which the next one is the last, however much comes in meanwhile.
const ROUNDS_MAX: u32 = 16;
/// The wait after the spool could not open an order.
const AGAIN: Duration = Duration::from_secs(1);

/// What is known of an endpoint's past.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Past {
    /// It may have lost what it answered there. The end is known with the next mark.
    doubt: Option<(Since, Option<Mark>)>,
    /// Nobody else got all of that yet.
    fresh: bool,
    /// Others have answered since then (`resync`).
    out: Option<Mark>,
}

/// What an order is for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Purpose {
    Failover {
        to: Option<Arc<str>>,
    },
    /// `drains`: little is left; traffic is stopped and what is under way is waited for. `last`: nothing was under way when the spool looked.
    Resync {
        to: Arc<str>,
        round: u32,
        drains: bool,
        last: bool,
    },
    ByHand(ByHand),
}

/// What an operator wants replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ByHand {
    /// What.
    pub ranges: Vec<Range>,
    /// Where an order is kept: old messages may come after newer ones.
    pub out_of_order: bool,
    /// What the receiver says it has is not sent (`reconcile`).
    pub asks: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Idle,
    /// The spool is asked; `None`: to close what is open.
    Asked(Option<Purpose>),
    Running(Purpose, u64),
}

/// What the spool has to do; answered with `done`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// `Spool::replay`; `None`: `Spool::end_replay`.
    pub order: Option<ReplayOrder>,
    /// What is to be remembered.
    pub state: Vec<u8>,
    /// What history has to keep.
    pub keep: Keep,
}

/// What is under way at a destination.
#[derive(Debug, Clone, Copy, Default)]
pub struct UnderWay {
    /// Attempts with messages.
    pub messages: usize,
    /// Attempts with replays.
    pub replays: usize,
    /// Of all, those on endpoints that were left.
    pub on_left: usize,
}

/// Why a replay by hand is not begun.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ByHandRefused {
    /// One is under way.
    #[error("another replay of this destination is under way; ask again when `everpost status` no longer shows it")]
    UnderWay,
    /// The order of the destination would break.
    #[error("this destination keeps an order: a replay that ends before now, or of one endpoint, needs --out-of-order")]
    Order,
}

/// See the head of the file.
#[derive(Debug, Clone)]
pub struct Replays {
    window: Duration,
    resync: bool,
    ordered: bool,
    pool: bool,
    names: Vec<Arc<str>>,
    past: BTreeMap<Arc<str>, Past>,
    /// Where the log was, from a window ago on.
    ring: VecDeque<(Instant, Mark)>,
    /// For each endpoint, what lay a window before its last answer.
    answers: BTreeMap<Arc<str>, Mark>,
    last_id: u64,
    stage: Stage,
    /// An order that an earlier run had opened.
    resume: Option<(u64, Purpose)>,
    by_hand: Option<ByHand>,
    returning: Option<Arc<str>>,
    /// Something was left since the last order.
    lost: bool,
    /// The state has to be remembered.
    dirty: bool,
    again_at: Option<Instant>,
    /// A replay was given up because it was put off for too long, and none has been answered positively since, nor have all ended.
    weary: bool,
}

impl Replays {
    /// Nothing happened yet.
    #[must_use]
    pub fn new(destination: &Destination) -> Self {
        let mut replays = Self {
            window: Duration::ZERO,
            resync: false,
            ordered: false,
            pool: false,
            names: Vec::new(),
            past: BTreeMap::new(),
            ring: VecDeque::new(),
            answers: BTreeMap::new(),
            last_id: 0,
            stage: Stage::Idle,
            resume: None,
            by_hand: None,
            returning: None,
            lost: false,
            dirty: false,
            again_at: None,
            weary: false,
        };
        replays.reconfigure(destination);
        replays
    }

    /// Takes new settings. What is no longer wanted ends.
    pub fn reconfigure(&mut self, destination: &Destination) {
        self.window = destination.replay_window;
        self.resync = destination.resync;
        self.ordered = destination.ordering != Ordering::None;
        self.pool = destination.policy != Policy::Failover;
        self.names = destination.endpoints.iter().map(|e| Arc::clone(&e.name)).collect();
        let names = self.names.clone();
        self.past.retain(|name, _| names.contains(name));
        if !self.resync {
            self.past.values_mut().for_each(|p| p.out = None);
            self.returning = None;
        }
        self.dirty |= !self.past.is_empty();
    }

    /// Takes up what an earlier run remembered.
    pub fn restore(&mut self, id: u64, state: &[u8]) {
        let Some(saved) = state::Saved::get(state) else { return };
        self.last_id = saved.last_id.max(id);
        self.past = saved.past.into_iter().filter(|(name, _)| self.names.contains(name)).collect();
        for past in self.past.values_mut().filter(|_| !self.resync) {
            past.out = None;
        }
        match saved.purpose.filter(|_| id != 0) {
            Some(Purpose::ByHand(wish)) => {
                self.by_hand = Some(wish.clone());
                self.resume = Some((id, Purpose::ByHand(wish)));
            }
            Some(purpose @ Purpose::Failover { .. }) => self.resume = Some((id, purpose)),
            // The return begins anew, with what is still missing then.
            Some(Purpose::Resync { .. }) | None => self.dirty = id != 0,
        }
        self.lost = self.past.values().any(|p| p.fresh);
    }

    /// Endpoints that were out when the last run ended, or had left something behind: they begin out of service.
    #[must_use]
    pub fn out(&self) -> Vec<Arc<str>> {
        self.past.iter().filter(|(_, p)| p.fresh || p.out.is_some()).map(|(name, _)| Arc::clone(name)).collect()
    }

    /// Whether an endpoint must get what it missed before it returns.
    #[must_use]
    pub fn is_behind(&self, endpoint: &str) -> bool {
        self.past.get(endpoint).is_some_and(|p| p.out.is_some())
    }

    /// What history has to keep.
    #[must_use]
    pub fn keep(&self) -> Keep {
        let since = |p: &Past| match (p.doubt.filter(|_| p.fresh || p.out.is_some()), p.out) {
            (Some((Since::Mark(mark), _)), Some(out)) => Some(mark.at.min(out.at)),
            (Some((Since::Mark(mark), _)), None) => Some(mark.at),
            (Some((Since::BeforeLastAnswer(..), _)), _) => Some(0),
            (None, out) => out.map(|m| m.at),
        };
        Keep { window: self.window, since: self.past.values().filter_map(since).min() }
    }

    // ---- what happens ----

    /// Where the log is now.
    pub fn mark(&mut self, mark: Mark, now: Instant) {
        for past in self.past.values_mut() {
            if let Some((since, until @ None)) = &mut past.doubt {
                *until = Some(mark);
                // What it answers after its return is not what it may have lost.
                if let Since::BeforeLastAnswer(_, below) = since {
                    *below = mark.number;
                }
            }
        }
        if self.ring.back().is_none_or(|(at, _)| now.saturating_duration_since(*at) >= self.window / MARKS) {
            self.ring.push_back((now, mark));
        }
        // The first one stays at or before the window's beginning.
        while self.ring.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= self.window) {
            self.ring.pop_front();
        }
    }

    /// An endpoint answered positively.
    pub fn answered(&mut self, endpoint: &Arc<str>, wall: UnixMillis) {
        if self.window.is_zero() {
            return;
        }
        let number = self.ring.front().map_or(u64::MAX, |(_, mark)| mark.number);
        let window = u64::try_from(self.window.as_millis()).unwrap_or(u64::MAX);
        self.answers.insert(Arc::clone(endpoint), Mark { number, at: wall.saturating_sub(window) });
    }

    /// A replay is put off (AR, CE), since then: whether it is given up. Once one was, those behind it are too, until a replay is taken again:
    /// else each of them would hold its lane for as long.
    pub fn gives_up(&mut self, since: Option<Instant>, now: Instant) -> bool {
        self.weary |= since.is_some_and(|since| now.saturating_duration_since(since) >= REPLAY_PUT_OFF_MAX);
        self.weary
    }

    /// A replay was answered positively.
    pub fn taken(&mut self) {
        self.weary = false;
    }

    /// The destination left an endpoint.
    pub fn left(&mut self, endpoint: &Arc<str>, wall: UnixMillis) {
        if self.returning.as_ref() == Some(endpoint) {
            self.returning = None;
        }
        if self.window.is_zero() && !self.resync {
            return;
        }
        let alone = self.names.len() < 2;
        let past = self.past.entry(Arc::clone(endpoint)).or_default();
        if !self.window.is_zero() && (!alone || self.resync) {
            let since = self.answers.get(endpoint).map_or(Since::BeforeLastAnswer(self.window, u64::MAX), |mark| Since::Mark(*mark));
            // What was still in doubt stays so.
            let since = past.doubt.filter(|_| past.fresh || past.out.is_some()).map_or(since, |(before, _)| before);
            past.doubt = Some((since, None));
            // What it answered under an order that a crash cut is in doubt with the rest: a new order says so.
            if !alone && !past.fresh && matches!(self.resume, Some((_, Purpose::Failover { .. }))) {
                self.resume = None;
            }
            past.fresh = !alone;
            self.lost |= past.fresh;
        }
        if self.resync && past.out.is_none() {
            past.out = Some(Mark { number: self.ring.back().map_or(u64::MAX, |(_, mark)| mark.number), at: wall });
        }
        self.dirty = true;
    }

    /// An endpoint could return, if it had what it missed.
    pub fn returning(&mut self, endpoint: &Arc<str>) {
        self.returning = Some(Arc::clone(endpoint));
    }

    /// An operator wants something replayed.
    /// # Errors
    /// `ByHandRefused`.
    pub fn by_hand(&mut self, wish: ByHand) -> Result<(), ByHandRefused> {
        let rewinds = wish.ranges.iter().all(|r| r.until.is_none() && r.endpoint.is_none());
        if self.ordered && !wish.out_of_order && !rewinds {
            return Err(ByHandRefused::Order);
        }
        if self.is_busy() {
            return Err(ByHandRefused::UnderWay);
        }
        self.by_hand = Some(wish);
        Ok(())
    }

    /// The order that a replay by hand would be, for a dry run.
    /// # Errors
    /// `ByHandRefused::Order`.
    pub fn plan_by_hand(&self, wish: ByHand) -> Result<ReplayOrder, ByHandRefused> {
        let mut dry = self.clone();
        (dry.stage, dry.by_hand, dry.returning, dry.lost) = (Stage::Idle, None, None, false);
        dry.by_hand(wish.clone())?;
        Ok(ReplayOrder { id: u64::MAX, ranges: wish.ranges, unless: Vec::new(), ahead: false })
    }

    /// Whether an order is open or wanted.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !matches!(self.stage, Stage::Idle | Stage::Asked(None)) || self.by_hand.is_some() || self.returning.is_some() || self.lost
    }

    /// The same for a new engine: what the spool was asked is asked again.
    #[must_use]
    pub fn reborn(&self) -> Self {
        let mut new = self.clone();
        let purpose = match std::mem::replace(&mut new.stage, Stage::Idle) {
            Stage::Asked(Some(purpose)) | Stage::Running(purpose, _) => Some(purpose),
            Stage::Idle | Stage::Asked(None) => None,
        };
        // Where something was left since, the order says too little: a new one takes its place.
        let says_all = |purpose: &Purpose| !self.lost || matches!(purpose, Purpose::ByHand(_));
        new.resume = purpose.filter(says_all).map(|purpose| (new.last_id, purpose));
        new.lost |= new.past.values().any(|p| p.fresh);
        new.dirty = true;
        new
    }

    /// For people: what is being replayed, and where.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        let purpose = match &self.stage {
            Stage::Idle | Stage::Asked(None) => return None,
            Stage::Asked(Some(purpose)) | Stage::Running(purpose, _) => purpose,
        };
        Some(match purpose {
            Purpose::Failover { to: Some(to) } => format!("replay to {to} of what the endpoint before it may have lost"),
            Purpose::Failover { to: None } => "replay of what the endpoint before may have lost".to_owned(),
            Purpose::Resync { to, .. } => format!("{to} gets what it missed before it returns"),
            Purpose::ByHand(_) => "replay by an operator".to_owned(),
        })
    }

    /// The endpoint that the running replays go to, if it is not the active one.
    #[must_use]
    pub fn towards(&self) -> Option<&Arc<str>> {
        match &self.stage {
            Stage::Running(Purpose::Resync { to, .. }, _) => Some(to),
            _ => None,
        }
    }

    /// An order is open that a failover wanted.
    #[must_use]
    pub fn is_failover(&self) -> bool {
        matches!(self.stage, Stage::Running(Purpose::Failover { .. }, _))
    }

    /// Replays go before later messages of their lane.
    #[must_use]
    pub fn ahead(&self) -> bool {
        match &self.stage {
            Stage::Running(Purpose::Failover { .. }, _) => self.ordered,
            Stage::Running(Purpose::ByHand(wish), _) => self.rewinds(wish),
            _ => false,
        }
    }

    /// Whether what the receiver says it has is left out.
    #[must_use]
    pub fn asks(&self) -> bool {
        !matches!(&self.stage, Stage::Running(Purpose::ByHand(ByHand { asks: false, .. }), _))
    }

    fn rewinds(&self, wish: &ByHand) -> bool {
        self.ordered && !wish.out_of_order
    }

    /// An order is open and its replays may be taken.
    #[must_use]
    pub fn runs(&self) -> bool {
        matches!(self.stage, Stage::Running(..))
    }

    /// Messages may be taken.
    #[must_use]
    pub fn lets_messages_pass(&self, active: &[Arc<str>]) -> bool {
        let last = |p: &Purpose| matches!(p, Purpose::Resync { last: true, .. } | Purpose::Resync { drains: true, .. });
        let asked = match &self.stage {
            Stage::Asked(Some(p)) => last(p) || self.ordered && !matches!(p, Purpose::Resync { .. }),
            Stage::Running(p, _) => last(p),
            Stage::Idle | Stage::Asked(None) => false,
        };
        let awaited = self.ordered && (self.needs(active).is_some() || self.by_hand.as_ref().is_some_and(|wish| self.rewinds(wish)));
        !asked && !awaited
    }

    // ---- what follows ----

    /// The failover order that is wanted now: its target.
    fn needs(&self, active: &[Arc<str>]) -> Option<Purpose> {
        let to = active.first().cloned();
        let behind = self.resync && to.as_ref().is_some_and(|to| self.past.get(to).is_some_and(|p| p.out.is_some()));
        let left = self.past.iter().any(|(name, p)| p.fresh && !active.contains(name));
        let current = matches!(&self.stage, Stage::Running(Purpose::Failover { to: now }, _) if *now == to);
        ((behind || left) && (!current || self.lost)).then_some(Purpose::Failover { to })
    }

    /// What the spool has to do now, if anything.
    pub fn step(&mut self, active: &[Arc<str>], under_way: UnderWay, now: Instant) -> Option<Command> {
        if matches!(self.stage, Stage::Asked(_)) || self.again_at.is_some_and(|at| now < at) {
            return None;
        }
        self.again_at = None;
        let quiet = under_way.replays == 0 && under_way.on_left == 0 && (!self.ordered || under_way.messages == 0);
        if let Some(purpose) = self.needs(active) {
            return quiet.then(|| self.open(purpose));
        }
        match &self.stage {
            Stage::Running(Purpose::Failover { .. } | Purpose::ByHand(_), _) | Stage::Asked(_) => return None,
            Stage::Running(Purpose::Resync { to, .. }, _) if self.returning.as_ref() != Some(to) || active.contains(to) => {
                self.returning = None;
                return (under_way.replays == 0).then(|| self.close());
            }
            Stage::Running(Purpose::Resync { .. }, _) => return None,
            Stage::Idle => {}
        }
        if let Some(wish) = self.by_hand.clone() {
            return quiet.then(|| self.open(Purpose::ByHand(wish)));
        }
        if let Some(to) = self.returning.clone() {
            if active.contains(&to) || !self.is_behind(&to) {
                self.returning = None;
            } else {
                return Some(self.open(Purpose::Resync { to, round: 1, drains: false, last: false }));
            }
        }
        self.dirty.then(|| self.close())
    }

    /// Every replay of the open order has ended, and none is under way: the next round, or the end. `Some` endpoint: it has all it missed.
    pub fn delivered(&mut self, under_way: UnderWay) -> (Option<Command>, Option<Arc<str>>) {
        let Stage::Running(purpose, planned) = self.stage.clone() else { return (None, None) };
        match purpose {
            Purpose::Failover { to } => {
                let active: Vec<Arc<str>> = to.iter().cloned().collect();
                if active.is_empty() {
                    return (None, None);
                }
                let caught_up = to.filter(|to| self.is_behind(to));
                for (name, past) in &mut self.past {
                    past.fresh &= active.contains(name);
                }
                if let Some(to) = &caught_up {
                    self.past.remove(to);
                }
                self.weary = false;
                (Some(self.close()), caught_up)
            }
            Purpose::ByHand(_) => {
                self.by_hand = None;
                self.weary = false;
                (Some(self.close()), None)
            }
            Purpose::Resync { last: true, to, .. } => {
                self.past.remove(&to);
                self.returning = None;
                self.weary = false;
                (Some(self.close()), Some(to))
            }
            Purpose::Resync { to, round, drains, .. } => {
                let last = drains || planned <= LAST_ROUND || round >= ROUNDS_MAX;
                if last && under_way.messages > 0 {
                    self.stage = Stage::Running(Purpose::Resync { to, round, drains: true, last: false }, planned);
                    return (None, None);
                }
                (Some(self.open(Purpose::Resync { to, round: round + 1, drains: last, last })), None)
            }
        }
    }

    /// The spool did what it was asked.
    pub fn done(&mut self, result: Result<Planned, String>, now: Instant) -> Option<Planned> {
        let Stage::Asked(purpose) = std::mem::replace(&mut self.stage, Stage::Idle) else { return None };
        match (result, purpose) {
            (Ok(planned), Some(purpose)) => {
                self.stage = Stage::Running(purpose, planned.envelopes);
                Some(planned)
            }
            (Ok(_), None) => None,
            (Err(_), purpose) => {
                self.again_at = Some(now + AGAIN);
                self.dirty = true;
                self.lost |= matches!(purpose, Some(Purpose::Failover { .. }));
                None
            }
        }
    }

    /// When `step` has something to do again, if it waits for a time.
    #[must_use]
    pub fn again_at(&self) -> Option<Instant> {
        self.again_at
    }

    fn open(&mut self, purpose: Purpose) -> Command {
        let another_round = matches!(purpose, Purpose::Resync { round: 2.., .. });
        let id = match self.resume.take() {
            Some((id, before)) if before == purpose => id,
            // What was refused in one round is not offered again in the next one.
            _ if another_round => self.last_id,
            _ => self.last_id + 1,
        };
        self.last_id = self.last_id.max(id);
        self.lost = false;
        let order = self.order(id, &purpose);
        self.stage = Stage::Asked(Some(purpose));
        self.command(Some(order))
    }

    fn close(&mut self) -> Command {
        self.stage = Stage::Asked(None);
        self.command(None)
    }

    fn command(&mut self, order: Option<ReplayOrder>) -> Command {
        self.dirty = false;
        let purpose = if let Stage::Asked(Some(purpose)) = &self.stage { Some(purpose.clone()) } else { None };
        let state = state::Saved { last_id: self.last_id, past: self.past.clone(), purpose }.put();
        Command { order, state, keep: self.keep() }
    }

    fn order(&self, id: u64, purpose: &Purpose) -> ReplayOrder {
        let range = |name: &Arc<str>, since| Range { endpoint: Some(Arc::clone(name)), since, until: None };
        let doubt = |name: &Arc<str>| self.past.get(name).and_then(|p| p.doubt);
        // Where the end is not known yet, it has answered nothing since.
        let certain = |(since, until): (Since, Option<Mark>)| (since, until.unwrap_or(Mark { number: u64::MAX, at: u64::MAX }));
        let mut ranges = Vec::new();
        let mut unless = Vec::new();
        let behind = |to: &Arc<str>, ranges: &mut Vec<Range>| {
            if let Some(out) = self.past.get(to).and_then(|p| p.out) {
                ranges.extend(self.names.iter().filter(|name| *name != to).map(|name| range(name, Since::Mark(out))));
                ranges.extend(doubt(to).map(|(since, _)| range(to, since)));
            }
        };
        match purpose {
            Purpose::Failover { to } => {
                let left = self.past.iter().filter(|(name, p)| p.fresh && Some(*name) != to.as_ref());
                ranges.extend(left.filter_map(|(name, p)| p.doubt.map(|(since, _)| range(name, since))));
                let fresh = |name: &Arc<str>| self.past.get(name).is_some_and(|p| p.fresh);
                match to {
                    Some(to) if !self.pool => {
                        unless.push(Answered { endpoint: Arc::clone(to), doubt: doubt(to).filter(|_| self.resync).map(certain) });
                    }
                    _ => {
                        let others = self.names.iter().filter(|name| !fresh(name));
                        unless.extend(others.map(|name| Answered { endpoint: Arc::clone(name), doubt: None }));
                    }
                }
                if let Some(to) = to.as_ref().filter(|_| self.resync) {
                    behind(to, &mut ranges);
                }
            }
            Purpose::Resync { to, .. } => {
                behind(to, &mut ranges);
                unless.push(Answered { endpoint: Arc::clone(to), doubt: doubt(to).map(certain) });
            }
            Purpose::ByHand(wish) => ranges.clone_from(&wish.ranges),
        }
        let ahead = match purpose {
            Purpose::Failover { .. } => self.ordered,
            Purpose::Resync { .. } => false,
            Purpose::ByHand(wish) => self.rewinds(wish),
        };
        ReplayOrder { id, ranges, unless, ahead }
    }
}

mod state;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]
mod tests;
