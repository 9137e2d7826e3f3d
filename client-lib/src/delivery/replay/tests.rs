//! The machine of replays, step by step. Rules: no sleeping; the clock is an argument.

use super::*;
use crate::endpoint::fixture;
use crate::keys::Protocol;

const QUIET: UnderWay = UnderWay { messages: 0, replays: 0, on_left: 0 };
const BUSY: UnderWay = UnderWay { messages: 1, replays: 0, on_left: 1 };

struct Bench {
    machine: Replays,
    now: Instant,
    wall: u64,
    number: u64,
}

impl Bench {
    fn new(window: u64, resync: bool, ordering: Ordering) -> Self {
        let mut destination = fixture::destination(Protocol::Mllp, &["a", "b"]);
        destination.replay_window = Duration::from_secs(window);
        (destination.resync, destination.ordering) = (resync, ordering);
        let mut bench = Self { machine: Replays::new(&destination), now: Instant::now(), wall: 1_000_000, number: 1 };
        bench.pass(0);
        bench
    }

    /// Time passes; each second something is written.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            self.wall += 1_000;
            self.number += 10;
            self.mark();
        }
        self.mark();
    }

    fn mark(&mut self) {
        let mark = Mark { number: self.number, at: self.wall };
        self.machine.mark(mark, self.now);
    }

    fn answers(&mut self, name: &str) {
        self.machine.answered(&Arc::from(name), self.wall);
    }

    fn leaves(&mut self, name: &str) {
        self.machine.left(&Arc::from(name), self.wall);
        self.mark();
    }

    fn step(&mut self, active: &str, under_way: UnderWay) -> Option<Command> {
        self.machine.step(&names(active), under_way, self.now)
    }

    fn passes(&self, active: &str) -> bool {
        self.machine.lets_messages_pass(&names(active))
    }

    fn done(&mut self, envelopes: u64) {
        self.machine.done(Ok(Planned { envelopes, ..Planned::default() }), self.now);
    }
}

fn names(text: &str) -> Vec<Arc<str>> {
    text.split(' ').filter(|n| !n.is_empty()).map(Arc::from).collect()
}

fn wish(ranges: &[Range], out_of_order: bool) -> ByHand {
    ByHand { ranges: ranges.to_vec(), out_of_order, asks: true }
}

#[test]
fn a_failover_asks_for_the_window_once_all_attempts_have_ended_and_stops_the_lanes_until_then() {
    let mut b = Bench::new(60, false, Ordering::Strict);
    b.pass(300);
    b.answers("a");
    assert!(b.passes("a") && b.step("a", BUSY).is_none());
    b.pass(5);
    b.leaves("a");
    assert!(!b.passes("b"), "nothing goes before the replays");
    assert!(b.step("b", BUSY).is_none(), "an attempt is still under way");
    let order = b.step("b", QUIET).unwrap().order.unwrap();
    let Since::Mark(since) = order.ranges[0].since else { panic!("{order:?}") };
    // A minute before its last answer, by both clocks; by number a little more, never less.
    assert_eq!((order.ranges[0].endpoint.as_deref(), since.at), (Some("a"), 1_000_000 + 240_000));
    assert!(since.number <= 1 + 2_400 && since.number >= 1 + 2_400 - 40, "{since:?}");
    assert!(order.ahead && order.unless == [Answered { endpoint: "b".into(), doubt: None }]);
    assert!(!b.passes("b") && b.step("b", QUIET).is_none());
    b.done(300);
    assert!(b.passes("b") && b.machine.runs() && b.machine.ahead());
    let (command, caught_up) = b.machine.delivered(QUIET);
    assert!(command.is_some_and(|c| c.order.is_none()) && caught_up.is_none());
    b.done(0);
    assert!(!b.machine.is_busy() && b.step("b", QUIET).is_none());
}

#[test]
fn without_window_or_for_one_endpoint_alone_nothing_is_asked() {
    let mut b = Bench::new(0, false, Ordering::Strict);
    b.answers("a");
    b.leaves("a");
    assert!(b.passes("b") && b.step("b", QUIET).is_none());
    assert_eq!(b.machine.keep(), Keep::default());
}

#[test]
fn without_order_traffic_goes_on_meanwhile() {
    let mut b = Bench::new(60, false, Ordering::None);
    b.answers("a");
    b.leaves("a");
    assert!(b.passes("b"));
    let order = b.step("b", UnderWay { messages: 3, replays: 0, on_left: 0 }).unwrap().order.unwrap();
    assert!(!order.ahead);
}

#[test]
fn a_second_failover_says_all_that_is_still_wanted() {
    let mut b = Bench::new(60, false, Ordering::Strict);
    b.answers("a");
    b.leaves("a");
    let first = b.step("b", QUIET).unwrap().order.unwrap();
    b.done(10);
    b.leaves("b");
    let again = b.step("", QUIET).unwrap().order.unwrap();
    assert!(again.id > first.id, "a new order in place of the first");
    assert_eq!(again.ranges.len(), 2, "of both");
    b.done(10);
    let back = b.step("a", QUIET).unwrap().order.unwrap();
    let of: Vec<_> = back.ranges.iter().map(|r| r.endpoint.as_deref()).collect();
    assert_eq!(of, [Some("b")], "what a itself had answered is not replayed to it");
}

#[test]
fn an_endpoint_returns_when_it_has_what_it_missed_after_a_last_round_without_traffic() {
    let mut b = Bench::new(60, true, Ordering::Strict);
    b.answers("a");
    b.leaves("a");
    b.step("b", QUIET).unwrap();
    b.done(5);
    b.machine.delivered(QUIET);
    b.done(0);
    b.pass(100);
    assert!(b.machine.is_behind("a"));
    b.machine.returning(&Arc::from("a"));
    let order = b.step("b", BUSY).unwrap().order.unwrap();
    let of: Vec<_> = order.ranges.iter().map(|r| r.endpoint.as_deref().unwrap()).collect();
    assert_eq!(of, ["b", "a"], "what b answered since, and what a may have lost");
    assert!(!order.ahead && order.unless[0].doubt.is_some());
    b.done(500);
    assert!(b.passes("b"), "traffic goes on");
    assert!(b.machine.delivered(BUSY).0.unwrap().order.is_some(), "a second round");
    b.done(3);
    assert_eq!(b.machine.delivered(BUSY), (None, None), "what is under way is waited for");
    assert!(!b.passes("b"));
    assert!(b.machine.delivered(QUIET).0.unwrap().order.is_some());
    b.done(1);
    assert!(!b.passes("b"));
    let (command, caught_up) = b.machine.delivered(QUIET);
    assert_eq!((command.unwrap().order, caught_up.as_deref()), (None, Some("a")));
    b.done(0);
    assert!(b.passes("a") && !b.machine.is_behind("a"));
}

#[test]
fn what_a_restart_must_know_is_in_the_state_and_the_order_goes_on_under_its_number() {
    let mut b = Bench::new(60, true, Ordering::Strict);
    b.answers("a");
    b.leaves("a");
    let command = b.step("b", QUIET).unwrap();
    let order = command.order.unwrap();
    let mut after = Bench::new(60, true, Ordering::Strict);
    after.machine.restore(order.id, &command.state);
    assert_eq!(after.machine.out(), names("a"));
    assert!(!after.passes("b"), "nothing goes before the rest of the replays");
    let again = after.step("b", QUIET).unwrap().order.unwrap();
    assert_eq!((again.id, again.ranges), (order.id, order.ranges));
}

#[test]
fn a_replay_by_hand_keeps_an_order_or_is_allowed_not_to() {
    let since = Since::Mark(Mark { number: u64::MAX, at: 5 });
    let all = vec![Range { endpoint: None, since, until: None }];
    let some = vec![Range { endpoint: Some("a".into()), since, until: None }];
    let mut b = Bench::new(0, false, Ordering::Strict);
    assert_eq!(b.machine.by_hand(wish(&some, false)), Err(ByHandRefused::Order));
    assert_eq!(b.machine.plan_by_hand(wish(&some, false)), Err(ByHandRefused::Order));
    assert!(b.machine.by_hand(wish(&all, false)).is_ok());
    assert_eq!(b.machine.by_hand(wish(&some, true)), Err(ByHandRefused::UnderWay));
    assert!(!b.passes("a"), "it rewinds: later messages wait");
    assert!(b.step("a", QUIET).unwrap().order.unwrap().ahead);
    let mut b = Bench::new(0, false, Ordering::Strict);
    assert!(b.machine.by_hand(wish(&some, true)).is_ok());
    assert!(b.passes("a"));
    assert!(!b.step("a", QUIET).unwrap().order.unwrap().ahead);
}

#[test]
fn a_spool_that_cannot_is_asked_again() {
    let mut b = Bench::new(60, false, Ordering::Strict);
    b.answers("a");
    b.leaves("a");
    assert!(b.step("b", QUIET).is_some());
    b.machine.done(Err("the disk".to_owned()), b.now);
    assert!(b.step("b", QUIET).is_none() && !b.passes("b"));
    b.pass(1);
    assert!(b.step("b", QUIET).is_some());
}

#[test]
fn an_order_is_not_gone_on_with_where_another_endpoint_was_left_since() {
    let three = || {
        let mut b = Bench::new(60, false, Ordering::None);
        let mut destination = fixture::destination(Protocol::Mllp, &["a", "b", "c"]);
        (destination.replay_window, destination.ordering) = (Duration::from_secs(60), Ordering::None);
        b.machine = Replays::new(&destination);
        b.mark();
        b
    };
    let mut before = three();
    before.answers("a");
    before.leaves("a");
    let command = before.step("b c", QUIET).unwrap();
    let first = command.order.unwrap();
    // What c had answered under that order is in doubt as well: only a new one asks for it again.
    let mut after = three();
    after.machine.restore(first.id, &command.state);
    after.leaves("c");
    let order = after.step("b", QUIET).unwrap().order.unwrap();
    assert!(order.id > first.id && order.ranges.len() == 2, "after a restart: {order:?}");
    before.done(5);
    before.leaves("c");
    before.machine = before.machine.reborn();
    let order = before.step("b", QUIET).unwrap().order.unwrap();
    assert!(order.id > first.id && order.ranges.len() == 2, "with new settings: {order:?}");
}
