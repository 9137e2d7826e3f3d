//! The machine by hand-made clocks: what is measured, what opens and closes an outage, restarts, and how much is kept.

use super::*;

struct Bench {
    machine: Outages,
    base: Instant,
    at: u64,
    skew: u64,
    active: Vec<Arc<str>>,
    standing: BTreeMap<&'static str, Standing>,
    told: Vec<Told>,
}

const EPOCH: u64 = 1_000_000_000;

impl Bench {
    fn new() -> Self {
        let mut machine = Outages::default();
        machine.reconfigure(Objectives { rto: Some(Duration::from_secs(5)), rpo: Some(Duration::from_secs(60)) });
        let standing = BTreeMap::from([("a", Standing::Active), ("b", Standing::Outranked)]);
        Self { machine, base: Instant::now(), at: 0, skew: 0, active: vec!["a".into()], standing, told: Vec::new() }
    }

    fn now(&self) -> Moment {
        Moment { at: self.base + Duration::from_millis(self.at), wall: EPOCH + self.skew + self.at }
    }

    fn fail(&mut self, name: &str, began: u64) {
        self.machine.failed(&name.into(), self.base + Duration::from_millis(began), self.now());
    }

    fn leave(&mut self, name: &'static str, to: &'static str) {
        self.standing.insert(name, Standing::Out);
        self.standing.insert(to, Standing::Active);
        self.active = vec![to.into()];
        self.machine.left(&name.into(), "refused", self.now());
        self.settle();
    }

    fn back(&mut self, name: &'static str) {
        self.machine.good(name);
        self.standing.insert(name, Standing::Active);
        self.active = vec![name.into()];
        self.settle();
    }

    fn settle(&mut self) {
        let standing = self.standing.clone();
        self.machine.settle(&self.active, |name| standing.get(name).copied().unwrap_or(Standing::Gone), self.now());
        self.told.extend(std::iter::from_fn(|| self.machine.next_told()));
    }

    fn opened_and_closed(&self) -> (usize, usize) {
        let opened = self.told.iter().filter(|t| matches!(t, Told::Opened(_))).count();
        (opened, self.told.iter().filter(|t| matches!(t, Told::Closed(_))).count())
    }

    fn last(&self) -> Outage {
        self.machine.all(self.now().wall)[0].clone()
    }

    /// The process ends and starts again after so long: only what was remembered is left, and everything is trusted.
    fn restart(&mut self, after: u64) {
        self.told.extend(std::iter::from_fn(|| self.machine.next_told()));
        self.at += after;
        let mut kept: BTreeMap<u16, Outage> = BTreeMap::new();
        for told in &self.told {
            if let Told::Keep { slot, outage } = told {
                kept.insert(*slot, (**outage).clone());
            }
        }
        let objectives = self.machine.objectives;
        self.machine = Outages::default();
        self.machine.reconfigure(objectives);
        for (slot, outage) in kept {
            self.machine.restore(slot, outage, self.now());
        }
        self.active = vec!["a".into()];
        self.standing = BTreeMap::from([("a", Standing::Active), ("b", Standing::Outranked)]);
        self.settle();
    }
}

#[test]
fn an_outage_is_measured_from_its_first_failure_to_the_return() {
    let mut b = Bench::new();
    b.at = 1_000;
    b.fail("a", 700);
    b.at = 1_200;
    b.fail("a", 1_100);
    b.at = 1_500;
    b.leave("a", "b");
    b.at = 1_600;
    b.machine.delivered(&"b".into(), Some(EPOCH + 1_000), b.now());
    b.at = 1_900;
    b.machine.delivered(&"b".into(), Some(EPOCH + 1_100), b.now());
    b.at = 61_500;
    b.back("a");
    let outage = b.last();
    assert_eq!((outage.started, outage.detected, outage.taken_over), (EPOCH + 700, 800, Some(800)));
    assert_eq!((outage.delivered.as_ref().map(|d| (&*d.endpoint, d.after)), outage.restored), (Some(("b", 900)), Some(900)));
    assert_eq!((outage.ended, outage.rto_met(0), outage.rpo_met()), (Some(60_800), Some(true), None));
    assert!(outage.end.contains("a is in service again"), "{}", outage.end);
    assert_eq!((b.opened_and_closed(), b.machine.running(b.now().at).is_none()), ((1, 1), true));
}

#[test]
fn a_failure_that_passed_is_no_start() {
    let mut b = Bench::new();
    b.fail("a", 0);
    b.at = 500;
    b.machine.good("a");
    b.at = 9_000;
    b.fail("a", 8_900);
    b.leave("a", "b");
    assert_eq!((b.last().started, b.last().detected), (EPOCH + 8_900, 100));
}

#[test]
fn where_nothing_waited_the_takeover_counts() {
    let mut b = Bench::new();
    b.at = 100;
    b.leave("a", "b");
    b.at = 3_600_000;
    b.machine.delivered(&"b".into(), Some(EPOCH + 3_599_000), b.now());
    assert_eq!((b.last().delivered.unwrap().after, b.last().restored), (3_599_900, Some(0)));
    let mut b = Bench::new();
    b.at = 100;
    b.leave("a", "b");
    b.at = 5_000;
    b.back("a");
    assert_eq!((b.last().delivered, b.last().restored, b.last().ended), (None, Some(0), Some(4_900)), "nothing came at all");
}

#[test]
fn a_destination_without_any_endpoint_is_restored_by_the_first_delivery() {
    let mut b = Bench::new();
    b.leave("a", "b");
    b.standing.insert("b", Standing::Out);
    b.active.clear();
    b.machine.left(&"b".into(), "dead too", b.now());
    b.settle();
    b.at = 20_000;
    let (running, elapsed) = b.machine.running(b.now().at).unwrap();
    assert_eq!((elapsed, running.also_left.len(), running.rto_met(elapsed)), (20_000, 1, Some(false)), "b took over and delivered nothing");
    b.machine.delivered(&"a".into(), Some(EPOCH - 5), b.now());
    b.back("a");
    b.settle();
    let told = b.last();
    assert_eq!((told.restored, told.ended), (Some(20_000), None), "b is still out");
    b.standing.insert("b", Standing::Outranked);
    b.settle();
    assert_eq!((b.last().ended, b.last().rto_met(0), b.opened_and_closed()), (Some(20_000), Some(false), (1, 1)));
}

#[test]
fn what_people_decide_ends_it() {
    for (standing, words) in
        [(Standing::Good, "by hand"), (Standing::Forbidden, "operator"), (Standing::Gone, "no longer configured"), (Standing::Outranked, "liked")]
    {
        let mut b = Bench::new();
        b.leave("a", "b");
        assert_eq!(b.opened_and_closed(), (1, 0));
        b.standing.insert("a", standing);
        b.settle();
        assert_eq!(b.opened_and_closed(), (1, 1), "{standing:?}");
        assert!(b.last().end.contains(words), "{}", b.last().end);
    }
}

#[test]
fn it_goes_on_through_a_restart_until_the_endpoint_has_answered() {
    let mut b = Bench::new();
    b.fail("a", 0);
    b.at = 1_000;
    b.leave("a", "b");
    b.restart(10_000);
    assert_eq!(b.machine.running(b.now().at).map(|(o, elapsed)| (o.number, elapsed)), Some((1, 11_000)), "that everything is trusted proves nothing");
    b.leave("a", "b");
    b.at += 500;
    b.machine.delivered(&"b".into(), Some(EPOCH), b.now());
    b.restart(1_000);
    b.machine.good("a");
    b.at += 1;
    b.settle();
    let outage = b.last();
    assert_eq!((outage.number, outage.restored, outage.ended), (1, Some(11_500), Some(12_501)));
    assert_eq!(b.opened_and_closed(), (1, 1), "one opening and one closing event");
    b.restart(1_000);
    assert!(b.machine.running(b.now().at).is_none());
    b.leave("a", "b");
    assert_eq!(b.last().number, 2);
}

#[test]
fn a_clock_that_steps_back_does_not_shorten_it() {
    let mut b = Bench::new();
    b.skew = 1_000_000;
    b.fail("a", 0);
    b.at = 2_000;
    b.leave("a", "b");
    b.skew = 0;
    b.at = 5_000;
    b.machine.delivered(&"b".into(), Some(EPOCH), b.now());
    assert_eq!(b.last().restored, Some(5_000));
    b.restart(1_000);
    assert_eq!(b.machine.running(b.now().at).map(|(_, elapsed)| elapsed), Some(5_000), "what is known for certain");
}

#[test]
fn what_was_replayed_belongs_to_it() {
    let mut b = Bench::new();
    b.at = 30_000;
    b.leave("a", "b");
    assert_eq!(b.last().rpo_actual(), None, "nobody knows");
    b.machine.replay_found(&Planned { envelopes: 3, bytes: 9, gone: 0, accepted: Some((EPOCH + 10_000, EPOCH + 29_000)) });
    assert_eq!((b.last().rpo_actual(), b.last().rpo_met()), (Some(20_000), Some(true)));
    b.machine.replayed(false);
    b.machine.replayed(false);
    assert_eq!((b.last().replay.unwrap().left(), b.last().rpo_actual()), (1, Some(20_000)));
    b.machine.replayed(false);
    b.back("a");
    b.machine.replay_over();
    b.settle();
    let replay = b.last().replay.unwrap();
    assert_eq!((replay.found, replay.delivered, replay.oldest_age, b.last().rpo_actual()), (3, 3, 20_000, Some(0)));
    b.leave("a", "b");
    b.machine.replay_found(&Planned { envelopes: 0, bytes: 0, gone: 2, accepted: Some((EPOCH - 50_000, EPOCH)) });
    assert_eq!((b.last().rpo_actual(), b.last().rpo_met()), (Some(80_000), Some(false)), "what is gone cannot be delivered again");
    assert_eq!(b.machine.worst(b.now()), Worst { outages: 2, rto: Some(0), rpo: Some(80_000), missed: 1 });
}

#[test]
fn so_many_are_kept_and_the_worst_stays() {
    let mut b = Bench::new();
    for n in 0..OUTAGES_KEPT as u64 + 40 {
        b.at += 10_000;
        let waits = if n == 3 { 9_000 } else { 10 };
        b.fail("a", b.at);
        b.at += waits;
        b.leave("a", "b");
        b.machine.delivered(&"b".into(), Some(0), b.now());
        b.back("a");
    }
    let all = b.machine.all(b.now().wall);
    assert_eq!((all.len(), all[0].number), (OUTAGES_KEPT, OUTAGES_KEPT as u64 + 40));
    let worst = b.machine.worst(b.now());
    assert_eq!((worst.outages, worst.rto, worst.missed), (OUTAGES_KEPT, Some(9_000), 1));
    let slots: std::collections::BTreeSet<u16> =
        b.told.iter().filter_map(|t| if let Told::Keep { slot, .. } = t { Some(*slot) } else { None }).collect();
    assert!(slots.len() <= OUTAGES_KEPT && slots.iter().all(|s| usize::from(*s) < OUTAGES_KEPT), "{slots:?}");
    b.at += millis(OUTAGES_KEPT_FOR) + 1;
    assert_eq!((b.machine.all(b.now().wall).len(), b.machine.worst(b.now()).rto), (0, None), "30 days later");
}

#[test]
fn drills_do_not_count_among_the_worst() {
    let mut b = Bench::new();
    b.machine.drill(true);
    b.leave("a", "b");
    b.at = 90_000;
    b.back("a");
    b.machine.drill(false);
    assert!(b.last().drill);
    assert_eq!(b.machine.worst(b.now()), Worst::default());
}
