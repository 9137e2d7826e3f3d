//! When envelopes that could not be delivered at once are tried again, and what must be remembered of them until then.
//!
//! ```text
//!            rest(until)                  due, release_all
//!   taken -----------------> resting ----------------------+
//!     |  park                                              v
//!     +--------------------> parked --- release_all ---> ready again (the spool hands it out)
//!     |  release                          or as scout      ^
//!     +----------------------------------------------------+
//! ```
//! Rules: the spool knows the order and who waits; this knows the times and the story of the few that had trouble. Envelopes without trouble leave
//! no trace here. A memo whose envelope does not come back (discarded by an operator) is dropped after `MEMO_KEPT`.
//! When one envelope after another has to rest, the destination as a whole rests (`lull`), instead of trying its backlog envelope by envelope.
//! Errors: none.

use crate::endpoint::EndpointSet;
use crate::endpoint::backoff::Backoff;
use crate::ids::{EndpointId, EnvelopeId};
use crate::limits::DEFERRED_MAX;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Failures without an answer in a row, and where. (No option: optimised code would compare what stands in an empty one, and valgrind calls that wrong.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tries {
    /// The endpoint.
    pub at: EndpointId,
    /// How many; 0: none.
    pub count: u32,
}

impl Default for Tries {
    fn default() -> Self {
        Tries { at: EndpointId(0), count: 0 }
    }
}

/// What is remembered of an envelope that had trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memo {
    /// Endpoints that refused it in this round.
    pub refused: EndpointSet,
    /// Refusals for now in this round.
    pub refusals: u8,
    /// Endpoints that refused it for what it is: they are not asked again.
    pub unwanted: EndpointSet,
    /// The endpoint to try again, on a fresh connection.
    pub again: Option<EndpointId>,
    /// Failures without an answer in a row.
    pub tries: Tries,
    /// Rests so far.
    pub step: u32,
    /// The first refusal that this run saw.
    pub troubled_since: Option<Instant>,
    /// It was tried before this run, and is so much older: counts with the first refusal, whose time a former run may have known.
    pub older: Duration,
    /// An attempt was sent whole.
    pub sent: bool,
    /// How often it failed without an answer while others were answered in between, and the answers counted at its last such failure.
    pub strikes: (u8, u64),
}

impl Memo {
    /// Endpoints that it should not go to.
    #[must_use]
    pub fn avoid(&self) -> EndpointSet {
        self.refused.union(self.unwanted)
    }

    /// Those that refused it for now may be asked again.
    pub fn new_round(&mut self) {
        (self.refused, self.refusals) = (EndpointSet::EMPTY, 0);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    Until(Instant),
    Parked,
    /// The spool may hand it out, since then.
    Ready(Instant),
}

/// Envelopes of one destination that had trouble and are not in flight.
#[derive(Debug, Clone)]
pub struct Schedule {
    backoff: Backoff,
    memos: HashMap<EnvelopeId, (Memo, Rest)>,
    due: BTreeSet<(Instant, EnvelopeId)>,
    parked: VecDeque<EnvelopeId>,
    row: u32,
    last_in_row: Option<EnvelopeId>,
    lull: Option<Instant>,
    tidied: Option<Instant>,
    random: fastrand::Rng,
}

impl Schedule {
    /// Nothing waits.
    #[must_use]
    pub fn new(backoff: Backoff, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Self {
            backoff,
            memos: HashMap::new(),
            due: BTreeSet::new(),
            parked: VecDeque::new(),
            row: 0,
            last_in_row: None,
            lull: None,
            tidied: None,
            random,
        }
    }

    /// Takes new settings. Endpoints may have moved, so who refused what is forgotten.
    pub fn reconfigure(&mut self, backoff: Backoff) {
        self.backoff = backoff;
        for (memo, _) in self.memos.values_mut() {
            *memo = Memo { refused: EndpointSet::EMPTY, refusals: 0, unwanted: EndpointSet::EMPTY, again: None, tries: Tries::default(), ..*memo };
        }
    }

    /// When an envelope that waits for its backoff is tried again.
    #[must_use]
    pub fn due_at(&self, id: EnvelopeId) -> Option<Instant> {
        match self.memos.get(&id) {
            Some((_, Rest::Until(at))) => Some(*at),
            _ => None,
        }
    }

    /// An envelope was handed out: what is remembered of it.
    pub fn take_up(&mut self, id: EnvelopeId) -> Memo {
        let Some((memo, rest)) = self.memos.remove(&id) else { return Memo::default() };
        self.unrest(id, rest);
        memo
    }

    fn unrest(&mut self, id: EnvelopeId, rest: Rest) {
        match rest {
            Rest::Until(at) => drop(self.due.remove(&(at, id))),
            Rest::Parked => self.parked.retain(|other| *other != id),
            Rest::Ready(_) => {}
        }
    }

    /// It waits for its backoff.
    pub fn rest(&mut self, id: EnvelopeId, mut memo: Memo, now: Instant) {
        let at = now + self.backoff.delay(memo.step, &mut self.random);
        memo.step = memo.step.saturating_add(1);
        self.due.insert((at, id));
        self.memos.insert(id, (memo, Rest::Until(at)));
        if self.last_in_row.replace(id) != Some(id) {
            self.row = self.row.saturating_add(1);
        }
        if let Some(steps) = self.row.checked_sub(RESTS_IN_A_ROW) {
            self.lull = Some(now + self.backoff.delay(steps, &mut self.random));
        }
    }

    /// It waits until the destination tries again.
    pub fn park(&mut self, id: EnvelopeId, memo: Memo) {
        self.parked.push_back(id);
        self.memos.insert(id, (memo, Rest::Parked));
    }

    /// It may be handed out at once.
    pub fn release(&mut self, id: EnvelopeId, memo: Memo, now: Instant) {
        self.memos.insert(id, (memo, Rest::Ready(now)));
    }

    /// Something was delivered, or its content was judged: the destination goes on.
    pub fn progressed(&mut self) {
        self.row = 0;
        self.last_in_row = None;
        self.lull = None;
    }

    /// The destination as a whole rests.
    #[must_use]
    pub fn lulled(&self, now: Instant) -> bool {
        self.lull.is_some_and(|until| now < until)
    }

    /// No more envelopes can be given a time of their own.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.due.len() + self.parked.len() >= DEFERRED_MAX
    }

    /// Envelopes resting or parked.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.due.len() + self.parked.len()
    }

    /// Envelopes parked.
    #[must_use]
    pub fn parked(&self) -> usize {
        self.parked.len()
    }

    /// The envelope parked longest is tried as scout.
    pub fn unpark(&mut self, now: Instant) -> Option<EnvelopeId> {
        let id = self.parked.pop_front()?;
        if let Some((_, rest)) = self.memos.get_mut(&id) {
            *rest = Rest::Ready(now);
        }
        Some(id)
    }

    /// Those whose rest is over, unless `keep` wants one to rest on.
    pub fn pop_due(&mut self, now: Instant, keep: impl Fn(&Memo) -> bool) -> Vec<EnvelopeId> {
        let mut over = Vec::new();
        while let Some((at, id)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.due.remove(&(at, id));
            let Some((memo, rest)) = self.memos.get_mut(&id) else { continue };
            if keep(memo) {
                // Never at once again: what it waits for is not here.
                let wait = self.backoff.ceiling(memo.step).mul_f64(0.5 + 0.5 * self.random.f64()).max(KEPT_AT_LEAST);
                memo.step = memo.step.saturating_add(1);
                *rest = Rest::Until(now + wait);
                self.due.insert((now + wait, id));
            } else {
                *rest = Rest::Ready(now);
                over.push(id);
            }
        }
        over
    }

    /// The waits have lost their reason: all that rest or are parked, in order of acceptance; backoffs start anew.
    /// One that `keep` wants to rest on does.
    pub fn release_all(&mut self, now: Instant, keep: impl Fn(&Memo) -> bool) -> Vec<EnvelopeId> {
        let resting = self.due.iter().map(|(_, id)| *id).chain(self.parked.iter().copied());
        let mut released: Vec<EnvelopeId> = resting.filter(|id| !self.memos.get(id).is_some_and(|(memo, _)| keep(memo))).collect();
        released.sort_unstable();
        for id in &released {
            if let Some((memo, rest)) = self.memos.get_mut(id) {
                memo.step = 0;
                let before = std::mem::replace(rest, Rest::Ready(now));
                if let Rest::Until(at) = before {
                    self.due.remove(&(at, *id));
                }
            }
        }
        let memos = &self.memos;
        self.parked.retain(|id| memos.get(id).is_some_and(|(_, rest)| *rest == Rest::Parked));
        self.progressed();
        released
    }

    /// Drops memos of envelopes that were ready for long and never came back.
    /// Looks only each `TIDY_EVERY`.
    pub fn tidy(&mut self, now: Instant) -> Vec<EnvelopeId> {
        if self.tidied.is_some_and(|at| now.saturating_duration_since(at) < TIDY_EVERY) {
            return Vec::new();
        }
        self.tidied = Some(now);
        let gone = |rest: &Rest| matches!(rest, Rest::Ready(since) if now.saturating_duration_since(*since) > MEMO_KEPT);
        let ended: Vec<EnvelopeId> = self.memos.iter().filter(|(_, (_, rest))| gone(rest)).map(|(id, _)| *id).collect();
        for id in &ended {
            self.memos.remove(id);
        }
        ended
    }

    /// When the next rest, or the lull, is over.
    #[must_use]
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        let lull = self.lull.filter(|until| *until > now);
        self.due.first().map(|(at, _)| *at).into_iter().chain(lull).min()
    }
}

/// Different envelopes that have to rest in a row, with nothing delivered between, before the destination as a whole rests.
const RESTS_IN_A_ROW: u32 = 16;

/// How long a memo outlives the moment its envelope became ready again. Ready ones with a memo are the oldest of their lanes and come soon, if ever.
const MEMO_KEPT: Duration = Duration::from_secs(600);

/// How often memos are looked through.
const TIDY_EVERY: Duration = Duration::from_secs(60);

/// Shortest further rest of an envelope that has nowhere to go.
const KEPT_AT_LEAST: Duration = Duration::from_millis(100);

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a start of the hand-made clock")]
mod tests {
    use super::*;

    fn schedule() -> (Schedule, Instant) {
        (Schedule::new(Backoff { first: Duration::from_secs(1), max: Duration::from_secs(60) }, 1), Instant::now())
    }

    fn id(n: u64) -> EnvelopeId {
        EnvelopeId(n)
    }

    #[test]
    fn rests_grow_and_are_over_in_time() {
        let (mut s, now) = schedule();
        for _ in 0..20 {
            let memo = s.take_up(id(1));
            s.rest(id(1), memo, now);
        }
        let due = s.next_due(now).expect("a time");
        assert!(due - now <= Duration::from_secs(60));
        assert!(s.pop_due(due - Duration::from_millis(1), |_| false).is_empty());
        assert_eq!(s.pop_due(due, |_| false), [id(1)]);
        assert_eq!(s.waiting(), 0);
        assert_eq!(s.take_up(id(1)).step, 20);
    }

    #[test]
    fn a_release_frees_all_in_order_and_backoffs_start_anew() {
        let (mut s, now) = schedule();
        for n in [5, 3, 9] {
            s.rest(id(n), Memo::default(), now);
        }
        s.park(id(4), Memo::default());
        assert_eq!(s.release_all(now, |_| false), [id(3), id(4), id(5), id(9)]);
        assert_eq!(s.take_up(id(9)).step, 0);
        assert!(s.pop_due(now + Duration::from_secs(100), |_| false).is_empty());
    }

    #[test]
    fn one_after_another_resting_makes_the_destination_rest() {
        let (mut s, now) = schedule();
        for _ in 0..100 {
            s.rest(id(1), Memo::default(), now);
        }
        assert!(!s.lulled(now), "the same envelope again is no row");
        for n in 0..u64::from(RESTS_IN_A_ROW) + 3 {
            s.rest(id(n), Memo::default(), now);
        }
        assert!(s.lulled(now));
        s.progressed();
        assert!(!s.lulled(now));
    }

    #[test]
    fn what_has_nowhere_to_go_rests_on_and_is_not_lost() {
        let (mut s, now) = schedule();
        s.rest(id(1), Memo::default(), now);
        let later = now + Duration::from_secs(60);
        assert!(s.pop_due(later, |_| true).is_empty());
        assert_eq!(s.waiting(), 1);
        assert!(s.next_due(later) > Some(later), "never at once again");
        assert_eq!(s.pop_due(later + Duration::from_secs(60), |_| false), [id(1)]);
    }

    #[test]
    fn an_envelope_handed_out_early_leaves_no_time_behind() {
        let (mut s, now) = schedule();
        s.rest(id(1), Memo::default(), now);
        s.park(id(2), Memo::default());
        s.take_up(id(1));
        s.take_up(id(2));
        assert_eq!((s.waiting(), s.parked(), s.next_due(now)), (0, 0, None));
    }

    #[test]
    fn memos_of_envelopes_that_never_return_are_dropped() {
        let (mut s, now) = schedule();
        s.release(id(1), Memo::default(), now);
        s.rest(id(2), Memo::default(), now);
        assert!(s.tidy(now + MEMO_KEPT).is_empty());
        assert!(s.tidy(now + MEMO_KEPT + Duration::from_secs(1)).is_empty(), "looked just now");
        assert_eq!(s.tidy(now + MEMO_KEPT + TIDY_EVERY), [id(1)]);
        assert_eq!(s.memos.len(), 1);
    }

    #[test]
    fn it_says_when_it_is_full() {
        let (mut s, now) = schedule();
        for n in 0..DEFERRED_MAX as u64 {
            assert!(!s.is_full());
            s.rest(id(n), Memo::default(), now);
        }
        assert!(s.is_full());
    }
}
