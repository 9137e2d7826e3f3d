//! The machine by a hand-made clock: each kind of drill, each stop condition, and what counts as passed.

use super::*;

struct Bench {
    machine: Drill,
    base: Instant,
    at: u64,
    sight: Sight,
    orders: Vec<Order>,
}

fn plan(fault: Option<Fault>, real: bool, synthetic: Synthetic) -> Plan {
    Plan {
        from: "a".into(),
        to: "b".into(),
        fault,
        real,
        synthetic,
        stay: Duration::from_secs(10),
        within: Duration::from_secs(60),
        return_within: Duration::from_secs(120),
        max_errors: 10,
        max_age: Duration::from_secs(300),
        strict: true,
        rto: Some(Duration::from_secs(5)),
        rpo: Some(Duration::from_secs(30)),
    }
}

impl Bench {
    fn new(plan: Plan) -> Self {
        let base = Instant::now();
        let machine = Drill::begin(plan, Some((0, None)), Moment { at: base, wall: 1_000_000 });
        let sight = Sight { active: vec!["a".into()], to_good: true, shifted: true, ..Sight::default() };
        let mut bench = Self { machine, base, at: 0, sight, orders: Vec::new() };
        bench.look(0);
        bench
    }

    fn now(&self) -> Moment {
        Moment { at: self.base + Duration::from_millis(self.at), wall: 1_000_000 + self.at }
    }

    fn look(&mut self, millis: u64) {
        self.at += millis;
        self.machine.look(&self.sight, self.now());
        self.orders.extend(std::iter::from_fn(|| self.machine.next_order()));
    }

    fn attempt(&mut self, endpoint: &str, good: bool, synthetic: bool) {
        let heard = Heard::Attempt { endpoint: endpoint.into(), good, ambiguous: false, synthetic };
        self.machine.heard(&heard, self.now());
        if synthetic {
            self.machine.heard(&Heard::SyntheticEnded, self.now());
        }
    }

    fn active(&mut self, endpoint: &str) {
        self.sight.active = vec![endpoint.into()];
    }

    fn issues(&self) -> String {
        self.machine.findings().issues.join("; ")
    }
}

#[test]
fn a_fault_moves_traffic_and_everything_comes_back() {
    let mut b = Bench::new(plan(Some(Fault::Refuse), false, Synthetic::Message));
    assert_eq!((b.machine.wants_fault(), b.machine.wants_shift()), (Some(Fault::Refuse), false));
    assert_eq!(b.orders, [Order::SendAsTraffic]);
    b.attempt("a", false, false);
    b.machine.heard(&Heard::Left { detected: 3 }, b.now());
    b.active("b");
    b.look(40);
    b.at += 5;
    b.attempt("b", true, true);
    b.look(9_990);
    assert!(b.machine.wants_fault().is_some(), "{}", b.machine.told());
    b.look(10);
    assert_eq!((b.machine.wants_fault(), b.machine.outcome()), (None, None), "it returns");
    b.look(1_000);
    assert!(b.orders.contains(&Order::Failback));
    b.active("a");
    b.look(100);
    assert_eq!(b.machine.outcome(), None, "nothing was answered there yet");
    b.attempt("a", true, true);
    b.look(100);
    assert_eq!((b.machine.outcome(), b.issues()), (Some(Outcome::Passed), String::new()));
    let found = b.machine.findings();
    assert_eq!(
        (found.detection, found.taken_over, found.first_answer, found.rto_actual(), found.rpo_actual()),
        (Some(3), Some(40), Some(45), Some(45), Some(0))
    );
    assert!(found.first_synthetic && found.back > found.turned && found.out_of_order == Some(0));
}

#[test]
fn without_fault_and_real_traffic_only_test_messages_go() {
    let mut b = Bench::new(plan(None, false, Synthetic::Echo));
    assert_eq!((b.machine.wants_fault(), b.machine.wants_shift(), &b.orders[..]), (None, false, &[Order::SendTo("b".into())][..]));
    b.at += 20;
    b.attempt("b", true, true);
    for _ in 0..10 {
        b.look(1_000);
        b.attempt("b", true, true);
    }
    b.look(100);
    assert_eq!((b.machine.outcome(), b.machine.findings().rto_actual()), (Some(Outcome::Passed), Some(20)));
    assert!(!b.orders.contains(&Order::Failback) && b.machine.findings().back.is_none(), "nothing had moved");
}

#[test]
fn a_shift_moves_real_traffic_until_the_stay_is_over() {
    let mut b = Bench::new(plan(None, true, Synthetic::None));
    assert!(b.machine.wants_shift());
    b.active("b");
    b.look(50);
    for n in 1..=3 {
        b.machine.heard(&Heard::Delivered { envelope: n }, b.now());
        b.attempt("b", true, false);
    }
    b.look(10_000);
    assert!(!b.machine.wants_shift());
    b.active("a");
    b.look(1_000);
    assert_eq!((b.machine.outcome(), b.machine.findings().delivered), (Some(Outcome::Passed), 3));
}

#[test]
fn each_stop_condition_turns_back_at_once() {
    type Change = fn(&mut Bench);
    let cases: [(Change, &str); 5] = [
        (|b| (0..6).for_each(|n| b.attempt("b", n > 0, false)), "1 of 6 attempts at b failed"),
        (|b| b.sight.oldest = Duration::from_secs(300), "has waited for 300 s"),
        (|b| b.sight.to_good = false, "b is not healthy"),
        (|b| b.sight.shifted = false, "somebody ended the shift"),
        (|b| b.machine.stop("stopped by an operator", b.now()), "by an operator"),
    ];
    for (change, words) in cases {
        let mut b = Bench::new(plan(None, true, Synthetic::None));
        b.active("b");
        b.look(1_000);
        assert!(b.machine.wants_shift());
        change(&mut b);
        b.look(1);
        assert!(!b.machine.wants_shift() && b.issues().contains(words), "{words}: {}", b.issues());
        b.active("a");
        b.look(1_000);
        assert_eq!(b.machine.outcome(), Some(Outcome::Stopped), "{words}");
    }
}

#[test]
fn four_failed_attempts_are_no_share_yet() {
    let mut b = Bench::new(plan(Some(Fault::Drop), false, Synthetic::None));
    b.active("b");
    (0..4).for_each(|_| b.attempt("b", false, false));
    b.look(1);
    assert!(b.machine.wants_fault().is_some());
    b.attempt("b", false, false);
    b.look(1);
    assert!(b.machine.wants_fault().is_none());
}

#[test]
fn who_does_not_take_over_or_return_in_time_has_failed() {
    let mut b = Bench::new(plan(Some(Fault::Freeze), false, Synthetic::Message));
    b.look(60_000);
    assert!(b.machine.wants_fault().is_none() && b.issues().contains("did not answer within 60 s"), "{}", b.issues());
    b.attempt("a", true, true);
    b.look(10);
    assert_eq!((b.machine.outcome(), b.machine.findings().rto_actual()), (Some(Outcome::Failed), None));
    let mut b = Bench::new(plan(Some(Fault::Freeze), false, Synthetic::Message));
    b.active("b");
    b.attempt("b", true, true);
    b.look(10_000);
    b.look(119_000);
    assert_eq!(b.machine.outcome(), None);
    b.look(1_000);
    assert_eq!(b.machine.outcome(), Some(Outcome::Failed));
    assert!(b.issues().contains("was not back at a within 120 s"), "{}", b.issues());
}

#[test]
fn missed_objectives_and_a_broken_order_fail_it() {
    let mut b = Bench::new(plan(Some(Fault::Drop), false, Synthetic::None));
    b.machine.findings.exposed = Some(2);
    b.machine.findings.exposed_age = Some(40_000);
    b.at += 6_000;
    b.active("b");
    b.attempt("b", true, false);
    for envelope in [7, 6] {
        b.machine.heard(&Heard::Delivered { envelope }, b.now());
    }
    b.machine.heard(&Heard::Replayed { refused: false }, b.now());
    b.look(1);
    b.look(10_000);
    b.active("a");
    b.look(1_000);
    assert_eq!(b.machine.outcome(), Some(Outcome::Failed));
    let issues = b.issues();
    assert!(issues.contains("rto of 5000 ms was missed with 6000 ms") && issues.contains("rpo of 30000 ms was missed with 40000 ms"), "{issues}");
    assert!(issues.contains("1 deliveries came out of order"), "{issues}");
}

#[test]
fn it_waits_for_what_is_delivered_again() {
    let mut b = Bench::new(plan(Some(Fault::Drop), false, Synthetic::None));
    b.active("b");
    b.sight.replaying = true;
    b.look(1);
    b.look(30_000);
    assert!(b.machine.wants_fault().is_some());
    b.sight.replaying = false;
    b.look(1);
    assert!(b.machine.wants_fault().is_none());
}
