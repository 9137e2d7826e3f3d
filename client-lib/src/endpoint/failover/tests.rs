//! Failover by hand-made clock: each rule of the module's head once, with the times at which it acts. Rules: no sleeping; the clock is an argument.

use super::*;
use crate::config::{HealthSettings, OnSlow, Probe};
use crate::delivery::Phase;
use crate::endpoint::fixture;
use crate::endpoint::health::{Answers, State};
use crate::endpoint::wishes::Shift;
use crate::keys::Protocol;

pub(super) const A: EndpointId = EndpointId(0);
pub(super) const B: EndpointId = EndpointId(1);
pub(super) const C: EndpointId = EndpointId(2);
const REFUSED: Blame = Blame::NotSent { phase: Phase::Connect, stale: false };

pub(super) struct Bench {
    pub(super) machine: Failover,
    pub(super) now: Instant,
    next_envelope: u64,
}

impl Bench {
    pub(super) fn new(names: &[&str], change: impl FnOnce(&mut Destination)) -> Self {
        let mut destination = fixture::destination(Protocol::Mllp, names);
        change(&mut destination);
        let now = Instant::now();
        Self { machine: Failover::new(&destination, 1, now), now, next_envelope: 1 }
    }

    fn two() -> Self {
        Self::new(&["a", "b"], |_| ())
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.machine.on_timeout(self.now);
    }

    fn choose(&mut self) -> Choice {
        self.machine.choose(Wish::default(), self.now).expect("an endpoint")
    }

    pub(super) fn end(&mut self, envelope: u64, choice: Choice, started: Instant, blame: Blame, tries: u32) -> Next {
        let end = End { envelope: EnvelopeId(envelope), choice, started, blame, tries, seen: "seen" };
        self.machine.ended(end, self.now)
    }

    /// One envelope, one attempt, wherever the machine wants it.
    fn attempt(&mut self, blame: Blame) -> (Choice, Next) {
        self.next_envelope += 1;
        let choice = self.choose();
        let next = self.end(self.next_envelope, choice, self.now, blame, 1);
        (choice, next)
    }

    /// Good or bad probes of an endpoint, ten seconds apart.
    fn probes(&mut self, endpoint: EndpointId, good: bool, count: usize) {
        for _ in 0..count {
            self.wait(10);
            let result = if good { Ok(()) } else { Err((Phase::Connect, "refused")) };
            self.machine.probed(endpoint, result, self.now);
        }
    }

    fn active(&self) -> Option<EndpointId> {
        self.machine.active().first().copied()
    }
}

#[test]
fn not_sent_is_tried_again_at_once_and_then_the_destination_leaves() {
    let mut b = Bench::two();
    assert_eq!(b.attempt(REFUSED), (Choice { endpoint: A, fresh: false, errand: Errand::Traffic }, Next::Again));
    assert_eq!(b.active(), Some(A));
    let again = b.machine.choose(Wish { again: Some(A), ..Wish::default() }, b.now).expect("a");
    assert_eq!(again, Choice { endpoint: A, fresh: true, errand: Errand::Traffic });
    assert_eq!(b.end(2, again, b.now, REFUSED, 2), Next::Reroute);
    assert_eq!(b.active(), Some(B));
    assert!(b.machine.reason().contains("a left after a failure in phase connect"), "{}", b.machine.reason());
}

#[test]
fn attempts_before_failover_is_honoured() {
    for attempts in [1, 2, 5] {
        let mut b = Bench::new(&["a", "b"], |d| d.attempts_before_failover = attempts);
        for _ in 1..attempts {
            assert_eq!(b.attempt(REFUSED).1, Next::Again);
            assert_eq!(b.active(), Some(A));
        }
        assert_eq!(b.attempt(REFUSED).1, Next::Reroute);
        assert_eq!(b.active(), Some(B));
    }
}

#[test]
fn a_kept_connection_that_was_dead_does_not_count() {
    let mut b = Bench::two();
    let stale = Blame::NotSent { phase: Phase::Transmit, stale: true };
    for _ in 0..10 {
        assert_eq!(b.attempt(stale).1, Next::Again);
    }
    assert_eq!(b.active(), Some(A));
    // A courier that calls a fresh connection stale is not believed.
    let fresh = Choice { endpoint: A, fresh: true, errand: Errand::Traffic };
    b.end(1, fresh, b.now, stale, 1);
    b.end(1, fresh, b.now, stale, 2);
    assert_eq!(b.active(), Some(B));
}

#[test]
fn failures_side_by_side_count_once() {
    let mut b = Bench::two();
    let began = b.now;
    let choices: Vec<Choice> = (0..4).map(|_| b.choose()).collect();
    b.now += Duration::from_secs(5);
    for (n, choice) in choices.into_iter().enumerate() {
        assert_eq!(b.end(n as u64, choice, began, REFUSED, 1), Next::Again);
    }
    assert_eq!(b.active(), Some(A), "none of the four was a second try");
    assert_eq!(b.attempt(REFUSED).1, Next::Reroute);
    assert_eq!(b.active(), Some(B));
}

#[test]
fn lost_after_it_was_sent_is_sent_once_more_to_the_same_endpoint() {
    // Even where a first failure to connect would be enough to leave.
    let mut b = Bench::new(&["a", "b"], |d| d.attempts_before_failover = 1);
    assert_eq!(b.attempt(Blame::Lost), (Choice { endpoint: A, fresh: false, errand: Errand::Traffic }, Next::Again));
    assert_eq!(b.active(), Some(A));
    assert_eq!(b.attempt(Blame::Lost).1, Next::Reroute);
    assert_eq!(b.active(), Some(B));
}

#[test]
fn no_answer_in_time_makes_it_leave_at_once() {
    let mut b = Bench::two();
    assert_eq!(b.attempt(Blame::Timeout), (Choice { endpoint: A, fresh: false, errand: Errand::Traffic }, Next::Reroute));
    assert_eq!(b.active(), Some(B));
}

#[test]
fn a_message_that_gets_no_answer_while_later_ones_do_is_itself_at_fault() {
    let mut b = Bench::two();
    let (began, stuck) = (b.now, b.choose());
    b.now += Duration::from_secs(29);
    b.attempt(Blame::Answered);
    b.now += Duration::from_secs(1);
    assert_eq!(b.end(99, stuck, began, Blame::Timeout, 1), Next::Elsewhere);
    assert_eq!(b.active(), Some(A));
    // The same, but what was answered is as old as the interval: no proof of life.
    let (began, stuck) = (b.now, b.choose());
    b.now += Duration::from_secs(1);
    b.attempt(Blame::Answered);
    b.now += Duration::from_secs(29);
    assert_eq!(b.end(98, stuck, began, Blame::Timeout, 1), Next::Reroute);
    assert_eq!(b.active(), Some(B));
}

#[test]
fn one_poison_message_does_not_make_the_destination_leave_while_others_pass() {
    let mut b = Bench::two();
    for tries in 1..=2 {
        let (began, poison) = (b.now, b.choose());
        b.now += Duration::from_millis(5);
        b.attempt(Blame::Answered);
        let next = b.end(99, poison, began, Blame::Lost, tries);
        assert_eq!(next, if tries == 1 { Next::Again } else { Next::Elsewhere });
        b.attempt(Blame::Answered);
    }
    assert_eq!(b.active(), Some(A));
}

#[test]
fn three_different_envelopes_refused_in_a_row_move_the_destination() {
    let mut b = Bench::two();
    for _ in 0..5 {
        let choice = b.choose();
        b.end(7, choice, b.now, Blame::Refused, 1);
    }
    b.attempt(Blame::Refused);
    assert_eq!(b.active(), Some(A), "two different ones so far");
    b.attempt(Blame::Answered);
    b.attempt(Blame::Refused);
    b.attempt(Blame::Refused);
    assert_eq!(b.active(), Some(A), "an answer breaks the row");
    b.attempt(Blame::Refused);
    assert_eq!(b.active(), Some(B));
    assert!(b.machine.reason().contains("refused 3 different envelopes"), "{}", b.machine.reason());
}

#[test]
fn it_returns_after_the_hold_down_of_good_probes_and_not_before() {
    let mut b = Bench::two();
    b.attempt(REFUSED);
    b.attempt(REFUSED);
    b.probes(A, true, 2);
    b.probes(A, false, 1);
    let good_from = b.now + Duration::from_secs(10);
    b.probes(A, true, 3);
    assert_eq!(b.active(), Some(B), "good for 20 s");
    assert_eq!(b.machine.return_at(A), Some(good_from + Duration::from_secs(30)));
    assert!(b.machine.next_timeout(b.now) <= b.machine.return_at(A));
    b.wait(9);
    assert_eq!(b.active(), Some(B));
    b.wait(1);
    assert_eq!(b.active(), Some(A));
    assert!(b.machine.reason().contains("good for 30 s"), "{}", b.machine.reason());
}

#[test]
fn leaving_the_second_does_not_wait_for_the_hold_down_of_the_first() {
    let mut b = Bench::two();
    b.attempt(REFUSED);
    b.attempt(REFUSED);
    b.probes(A, true, 2);
    b.attempt(REFUSED);
    b.attempt(REFUSED);
    assert_eq!(b.active(), Some(A), "hold-down delays voluntary returns only");
}

#[test]
fn after_silence_a_tcp_probe_is_no_proof_and_one_canary_goes() {
    let mut b = Bench::two();
    b.attempt(Blame::Timeout);
    b.probes(A, true, 4);
    assert_eq!(b.active(), Some(B), "a frozen process accepts connections");
    let canary = b.choose();
    assert_eq!(canary, Choice { endpoint: A, fresh: true, errand: Errand::Canary });
    assert_eq!(b.choose().endpoint, B, "one canary at a time");
    assert_eq!(b.end(1, canary, b.now, Blame::Timeout, 1), Next::Reroute);
    assert_eq!(b.choose().endpoint, B);
    b.probes(A, true, 6);
    assert_eq!(b.choose().endpoint, B, "the hold-down has doubled");
    b.probes(A, true, 1);
    let canary = b.choose();
    assert_eq!((canary.endpoint, canary.errand), (A, Errand::Canary));
    b.end(2, canary, b.now, Blame::Answered, 1);
    assert_eq!(b.active(), Some(A));
}

#[test]
fn after_silence_a_good_application_probe_is_enough() {
    let mut b = Bench::new(&["a", "b"], |d| {
        for endpoint in &mut d.endpoints {
            let e = Arc::make_mut(endpoint);
            e.health = HealthSettings { probe: Probe::DicomEcho, ..e.health.clone() };
        }
    });
    b.attempt(Blame::Timeout);
    b.probes(A, true, 4);
    assert_eq!(b.active(), Some(A));
}

#[test]
fn hold_down_doubles_with_each_failed_return_up_to_its_end_and_recovers() {
    let mut b = Bench::new(&["a", "b"], |d| d.hold_down_max = Duration::from_secs(100));
    let mut waits = Vec::new();
    for _ in 0..4 {
        b.attempt(REFUSED);
        b.attempt(REFUSED);
        assert_eq!(b.active(), Some(B));
        let left = b.now;
        while b.active() == Some(B) {
            b.now += Duration::from_secs(1);
            b.machine.probed(A, Ok(()), b.now);
        }
        waits.push((b.now - left).as_secs());
        b.now += Duration::from_secs(5);
    }
    assert_eq!(waits, [31, 61, 101, 101]);
    b.now += Duration::from_secs(1000);
    b.attempt(REFUSED);
    b.attempt(REFUSED);
    assert_eq!(b.machine.places[0].hold_down, Duration::from_secs(30), "a return that lasted starts anew");
}

#[test]
fn manual_failback_waits_for_people_but_failover_does_not() {
    let mut b = Bench::new(&["a", "b"], |d| d.failback_auto = false);
    b.attempt(REFUSED);
    b.attempt(REFUSED);
    assert!(!b.machine.failback_now(b.now), "it is down");
    b.probes(A, true, 100);
    assert_eq!(b.active(), Some(B));
    assert!(b.machine.failback_now(b.now));
    assert_eq!(b.active(), Some(A));
    b.attempt(Blame::Timeout);
    b.probes(A, true, 2);
    assert!(b.machine.failback_now(b.now), "probes are good; an envelope will tell");
    assert_eq!(b.choose().errand, Errand::Canary);
}

#[test]
fn bad_probes_move_an_idle_destination() {
    let mut b = Bench::two();
    b.probes(A, false, 2);
    assert_eq!(b.active(), Some(A));
    b.probes(A, false, 1);
    assert_eq!(b.active(), Some(B));
    assert!(b.machine.reason().contains("a: 3 probes failed"), "{}", b.machine.reason());
}

#[test]
fn stalled_it_tries_all_in_order_one_envelope_at_a_time_with_backoff() {
    let mut b = Bench::new(&["a", "b", "c"], |_| ());
    for _ in 0..6 {
        b.attempt(REFUSED);
    }
    assert_eq!(b.active(), None);
    assert!(b.machine.reason().starts_with("stalled"), "{}", b.machine.reason());
    // The two that were not just left are tried at once.
    let scout = b.choose();
    assert_eq!((scout.endpoint, scout.errand), (A, Errand::Scout { stall: 1 }));
    assert_eq!(b.machine.admission(b.now), Admission::Closed, "one scout at a time");
    assert_eq!(b.end(1, scout, b.now, REFUSED, 1), Next::Reroute);
    let scout = b.choose();
    assert_eq!(scout.endpoint, B);
    assert_eq!(b.end(1, scout, b.now, REFUSED, 1), Next::Wait);
    let mut longest = Duration::ZERO;
    for _ in 0..40 {
        let resume = b.machine.resume_at().expect("a next try");
        assert!(resume - b.now <= Duration::from_secs(60));
        longest = longest.max(resume - b.now);
        b.now = resume;
        let mut tried = Vec::new();
        loop {
            let scout = b.choose();
            tried.push(scout.endpoint);
            if b.end(1, scout, b.now, REFUSED, 1) == Next::Wait {
                break;
            }
        }
        assert_eq!(tried, [A, B, C]);
    }
    assert!(longest > Duration::from_secs(30), "the backoff grows: {longest:?}");
    b.now = b.machine.resume_at().expect("a next try");
    let scout = b.choose();
    b.end(1, scout, b.now, Blame::Answered, 1);
    assert_eq!((b.active(), b.machine.admission(b.now)), (Some(A), Admission::Open));
}

#[test]
fn a_good_probe_ends_the_wait_of_a_stall_only_if_it_proves_enough() {
    for (blame, ends) in [(REFUSED, true), (Blame::Timeout, false)] {
        let mut b = Bench::new(&["a"], |d| d.attempts_before_failover = 1);
        b.attempt(blame);
        for _ in 0..10 {
            b.now = b.machine.resume_at().expect("a next try");
            b.attempt(blame);
        }
        let resume = b.machine.resume_at().expect("a next try");
        b.machine.probed(A, Ok(()), b.now);
        assert_eq!(b.machine.resume_at() < Some(resume), ends, "{blame:?}");
    }
}

#[test]
fn one_endpoint_is_retried_with_backoff_for_ever() {
    let mut b = Bench::new(&["a"], |_| ());
    b.attempt(REFUSED);
    assert_eq!(b.attempt(REFUSED).1, Next::Reroute);
    assert_eq!((b.active(), b.machine.admission(b.now)), (None, Admission::Closed));
    for _ in 0..1000 {
        b.now = b.machine.resume_at().expect("always a next try");
        assert_eq!(b.attempt(REFUSED).1, Next::Wait);
    }
}

#[test]
fn what_was_sent_before_it_left_says_nothing_new() {
    let mut b = Bench::two();
    let (began, late) = (b.now, b.choose());
    let also_late = b.choose();
    b.now += Duration::from_secs(1);
    b.attempt(Blame::Timeout);
    assert_eq!(b.active(), Some(B));
    b.end(50, late, began, Blame::Answered, 1);
    assert_eq!(b.active(), Some(B));
    assert_eq!(b.machine.health(A).map(Health::state), Some(State::Down));
    assert_eq!(b.end(51, also_late, began, Blame::Timeout, 1), Next::Reroute);
}

#[test]
fn what_avoids_the_active_one_goes_to_another_good_one_and_else_nowhere() {
    let mut b = Bench::two();
    let mut avoid = EndpointSet::EMPTY;
    avoid.insert(A);
    assert!(b.machine.has_place_for(avoid));
    let choice = b.machine.choose(Wish { avoid, ..Wish::default() }, b.now);
    assert_eq!(choice, Some(Choice { endpoint: B, fresh: false, errand: Errand::Elsewhere }));
    avoid.insert(B);
    assert!(!b.machine.has_place_for(avoid));
    assert_eq!(b.machine.choose(Wish { avoid, ..Wish::default() }, b.now), None);
}

#[test]
fn a_disabled_endpoint_gets_nothing_and_an_enabled_one_is_back_at_once() {
    let mut b = Bench::two();
    b.machine.set_admin(&"a".into(), Admin::Draining, "an operator", b.now);
    assert_eq!(b.active(), Some(B));
    b.machine.set_admin(&"b".into(), Admin::Disabled, "an operator", b.now);
    assert_eq!((b.active(), b.machine.admission(b.now)), (None, Admission::Closed));
    assert!(b.machine.reason().contains("disabled by an operator"));
    b.machine.set_admin(&"a".into(), Admin::Enabled, "an operator", b.now);
    assert_eq!((b.active(), b.machine.admission(b.now)), (Some(A), Admission::Open));
}

#[test]
fn active_active_spreads_and_a_lane_keeps_to_its_endpoint() {
    for policy in [Policy::RoundRobin, Policy::LeastOutstanding] {
        let mut b = Bench::new(&["a", "b", "c"], |d| d.policy = policy);
        assert_eq!(b.machine.active(), [A, B, C]);
        let mut count = [0; 3];
        for _ in 0..30 {
            count[b.choose().endpoint.index()] += 1;
        }
        assert_eq!(count, [10, 10, 10], "{policy:?}");
        let home = |b: &mut Bench, lane| b.machine.choose(Wish { lane: Some(lane), ..Wish::default() }, b.now).map(|c| c.endpoint);
        let before: Vec<_> = (0..300).map(|lane| home(&mut b, lane)).collect();
        assert!([A, B, C].iter().all(|e| before.iter().filter(|h| **h == Some(*e)).count() > 60), "{policy:?}");
        let fresh = Choice { endpoint: B, fresh: true, errand: Errand::Traffic };
        b.end(1, fresh, b.now, Blame::Timeout, 1);
        assert_eq!(b.machine.active(), [A, C]);
        for (lane, home_before) in before.into_iter().enumerate() {
            let now = home(&mut b, lane as u32);
            assert!(now == home_before || home_before == Some(B), "only lanes of b move");
        }
    }
}

#[test]
fn weights_are_honoured() {
    let mut b = Bench::new(&["a", "b"], |d| {
        d.policy = Policy::RoundRobin;
        Arc::make_mut(&mut d.endpoints[0]).weight = 3;
    });
    let to_a = (0..40).filter(|_| b.choose().endpoint == A).count();
    assert_eq!(to_a, 30);
}

#[test]
fn a_reload_keeps_what_was_seen_of_endpoints_that_stay() {
    let mut b = Bench::two();
    b.attempt(Blame::Timeout);
    let mut new = fixture::destination(Protocol::Mllp, &["c", "a", "b"]);
    new.hold_down = Duration::from_secs(60);
    b.machine.reconfigure(&new, b.now);
    assert_eq!(b.machine.health(B).map(Health::state), Some(State::Down), "a is second now");
    assert_eq!(b.active(), Some(A), "c is first");
    Arc::make_mut(&mut new.endpoints[1]).port = 1;
    b.machine.reconfigure(&new, b.now);
    assert_eq!(b.machine.health(B).map(Health::state), Some(State::Up), "another address is another peer");
}

/// A destination that leaves slow endpoints.
fn leaving(names: &[&str]) -> Bench {
    Bench::new(names, |d| {
        for endpoint in &mut d.endpoints {
            let health = HealthSettings { slow: OnSlow::Leave, slow_after: Some(Duration::from_secs(1)), ..endpoint.health.clone() };
            *endpoint = std::sync::Arc::new(Endpoint { health, ..(**endpoint).clone() });
        }
    })
}

impl Bench {
    /// Eight answers, a second apart, and good probes everywhere.
    fn answers(&mut self, endpoint: EndpointId, of: Answers, millis: u64) {
        for _ in 0..8 {
            self.now += Duration::from_secs(1);
            self.machine.took(endpoint, of, Duration::from_millis(millis), self.now);
        }
        self.good_everywhere();
    }

    fn good_everywhere(&mut self) {
        self.machine.on_timeout(self.now);
        for index in 0..u16::try_from(self.machine.len()).unwrap_or(0) {
            self.machine.probed(EndpointId(index), Ok(()), self.now);
        }
    }

    /// Good probes everywhere for so long, ten seconds apart.
    fn good_for(&mut self, seconds: u64) {
        for _ in 0..seconds / 10 {
            self.now += Duration::from_secs(10);
            self.good_everywhere();
        }
    }
}

#[test]
fn a_slow_endpoint_is_left_for_a_good_one_and_returned_to_after_the_hold_down() {
    let mut b = leaving(&["a", "b"]);
    b.good_for(60);
    b.answers(A, Answers::Messages, 3_000);
    assert_eq!(b.active(), Some(B));
    assert!(b.machine.reason().contains("a is slow: its answers to messages take 3.0 s"), "{}", b.machine.reason());
    assert_eq!(b.machine.health(A).map(Health::state), Some(State::Up), "slow is not dead");
    b.good_for(20);
    assert_eq!(b.active(), Some(B), "the hold-down begins when it is left");
    b.good_for(20);
    assert_eq!(b.active(), Some(A));
    b.answers(A, Answers::Messages, 3_000);
    assert_eq!(b.active(), Some(B), "slow again");
    b.good_for(50);
    assert_eq!(b.active(), Some(B), "the return failed: the hold-down doubled");
    b.good_for(20);
    assert_eq!(b.active(), Some(A));
}

#[test]
fn a_slow_endpoint_is_kept_while_no_other_is_good_or_fast() {
    let mut b = leaving(&["a", "b"]);
    b.probes(B, false, 3);
    b.answers(A, Answers::Messages, 3_000);
    b.machine.probed(B, Err((Phase::Connect, "refused")), b.now);
    assert_eq!(b.active(), Some(A));
    let mut b = leaving(&["a", "b"]);
    b.answers(B, Answers::Probes, 3_000);
    b.answers(A, Answers::Messages, 3_000);
    assert_eq!(b.active(), Some(A), "both are slow");
    let mut b = leaving(&["a", "b"]);
    b.answers(A, Answers::Messages, 3_000);
    assert_eq!(b.active(), Some(B));
    b.probes(B, false, 3);
    assert_eq!(b.active(), Some(A), "slow is better than nothing");
}

#[test]
fn a_slow_endpoint_that_only_warns_stays() {
    let mut b = Bench::two();
    b.answers(A, Answers::Messages, 20);
    for _ in 0..3 {
        b.answers(A, Answers::Messages, 20);
    }
    b.answers(A, Answers::Messages, 3_000);
    assert!(b.machine.health(A).and_then(Health::slow_reason).is_some());
    assert_eq!(b.active(), Some(A));
}

#[test]
fn probes_that_are_slow_keep_it_away_until_they_are_fast() {
    let mut b = leaving(&["a", "b"]);
    b.good_for(60);
    b.answers(A, Answers::Probes, 3_000);
    assert_eq!(b.active(), Some(B));
    b.good_for(120);
    assert_eq!(b.active(), Some(B));
    b.answers(A, Answers::Probes, 10);
    assert_eq!(b.active(), Some(B), "hold-down");
    b.good_for(40);
    assert_eq!(b.active(), Some(A));
}

#[test]
fn where_people_shifted_to_is_not_left_for_being_slow() {
    let mut b = leaving(&["a", "b"]);
    b.good_for(60);
    let (reason, by) = ("maintenance".into(), "somebody".into());
    let shift = Shift { to: "b".into(), reason, by, since: 0, until: 3_600_000, site: None, forced: false };
    b.machine.begin_shift(shift, b.now).expect("b is healthy");
    assert_eq!(b.active(), Some(B));
    b.answers(B, Answers::Messages, 3_000);
    assert_eq!(b.active(), Some(B));
}
