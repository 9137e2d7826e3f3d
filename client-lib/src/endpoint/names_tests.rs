//! Tests of one name: single rules, and random histories.

use super::*;
use proptest::prelude::*;

const TERMS: Terms = Terms { max_ttl: Duration::from_secs(60), max_stale: Duration::from_secs(3600) };

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

struct Bench {
    name: Name<u32>,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let now = Instant::now();
        Self { name: Name::new(TERMS, 1, now), now }
    }

    fn changes(&mut self) -> Vec<Change<u32>> {
        std::iter::from_fn(|| self.name.next_change()).collect()
    }

    /// Waits for the next look-up; gives how long that was.
    fn due(&mut self) -> Duration {
        let at = self.name.next_timeout().unwrap().max(self.now);
        let waited = at - self.now;
        self.now = at;
        assert!(self.name.ask(self.now), "a look-up is due");
        waited
    }

    fn answer(&mut self, records: &[u32], ttl: u64) {
        self.name.answered(records.to_vec(), s(ttl), |_| false, self.now);
    }

    fn known(ttl: u64) -> Self {
        let mut b = Self::new();
        b.due();
        b.answer(&[1, 2], ttl);
        b.changes();
        b
    }
}

#[test]
fn an_answer_counts_for_its_ttl_within_bounds_and_is_renewed_before_its_end() {
    for (ttl, counts) in [(0, 1), (1, 1), (5, 5), (60, 60), (86_400, 60)] {
        let mut b = Bench::known(ttl);
        assert_eq!(b.name.seen(b.now).ttl, s(counts), "ttl {ttl}");
        let waited = b.due();
        assert!(waited < s(counts) && waited >= s(counts).mul_f64(0.84), "ttl {ttl}: asked again after {waited:?}");
        assert_eq!(b.name.records(), [1, 2], "in use while it is renewed");
    }
}

#[test]
fn failures_take_nothing_away_until_the_answer_is_too_old() {
    let mut b = Bench::known(60);
    let begun = b.now;
    let mut waits = Vec::new();
    while b.now + s(31) < begun + TERMS.max_stale {
        waits.push(b.due());
        b.name.failed("SERVFAIL", b.now);
        assert_eq!(b.name.records(), [1, 2]);
    }
    assert_eq!(b.changes(), [Change::Fails("SERVFAIL".to_owned())], "told once");
    assert!(waits[2..].iter().all(|w| *w >= TTL_MIN / 2 && *w <= AGAIN.max) && waits.last().is_some_and(|w| *w >= s(15)), "{waits:?}");
    b.now = begun + TERMS.max_stale;
    b.name.on_timeout(b.now);
    assert_eq!(b.changes(), [Change::Answer { from: vec![1, 2], to: vec![] }]);
    assert_eq!((b.name.seen(b.now).age, b.name.error()), (Some(TERMS.max_stale), Some("SERVFAIL")));
    assert!(b.name.ask(b.now) || b.due() <= AGAIN.max);
    b.answer(&[3], 60);
    assert_eq!(b.changes(), [Change::Answer { from: vec![], to: vec![3] }, Change::Back]);
    assert_eq!(b.name.error(), None);
}

#[test]
fn one_failure_alone_is_not_told_but_the_first_of_an_unknown_name_is() {
    let mut b = Bench::known(60);
    b.due();
    b.name.failed("time-out", b.now);
    assert_eq!((b.changes(), b.name.error()), (vec![], Some("time-out")));
    b.due();
    b.answer(&[2, 1], 60);
    assert_eq!(b.changes(), [], "another order is no change, and nothing was told that had to be taken back");
    assert_eq!(b.name.records(), [2, 1], "but the order is taken over");
    let mut b = Bench::new();
    b.due();
    b.name.failed("NXDOMAIN", b.now);
    assert_eq!(b.changes(), [Change::Fails("NXDOMAIN".to_owned())]);
}

#[test]
fn a_suspicion_asks_at_once_but_not_more_than_once_a_second() {
    let mut b = Bench::known(60);
    b.now += s(10);
    b.name.suspect(b.now);
    assert!(b.name.is_being_checked(b.now));
    assert_eq!(b.due(), Duration::ZERO);
    assert!(b.name.is_being_checked(b.now));
    b.answer(&[1, 2], 60);
    b.name.suspect(b.now);
    assert!(!b.name.is_being_checked(b.now), "asked a moment ago");
    assert_eq!(b.due(), TTL_MIN);
}

#[test]
fn who_waits_for_an_unknown_name_is_told_whether_that_makes_sense() {
    let mut b = Bench::new();
    assert!(b.name.want(b.now));
    b.due();
    assert!(b.name.want(b.now), "under way");
    b.name.failed("NXDOMAIN", b.now);
    assert!(!b.name.want(b.now), "just asked");
    b.now += TTL_MIN;
    assert!(b.name.want(b.now));
}

#[test]
fn the_part_that_failed_stays_as_long_as_a_whole_answer_would() {
    let mut b = Bench::known(60);
    let begun = b.now;
    let odd = |record: &u32| record % 2 == 1;
    b.due();
    b.name.answered(vec![4], s(60), odd, b.now);
    assert_eq!(b.name.records(), [4, 1]);
    b.changes();
    while b.now < begun + TERMS.max_stale + s(120) {
        b.due();
        b.name.answered(vec![4], s(60), odd, b.now);
    }
    assert_eq!(b.changes(), [Change::Answer { from: vec![1, 4], to: vec![4] }]);
    assert_eq!(b.name.records(), [4]);
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Answer(Vec<u32>, u64),
    Fail,
    Suspect,
    Want,
    Keep(Vec<u32>, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let records = || prop::collection::btree_set(0u32..6, 1..4).prop_map(|set| set.into_iter().collect::<Vec<_>>());
    prop_oneof![
        4 => (0u64..90_000).prop_map(Step::Wait),
        1 => (0u64..4_000_000).prop_map(Step::Wait),
        4 => (records(), 0u64..120).prop_map(|(r, t)| Step::Answer(r, t)),
        1 => (records(), 0u64..120).prop_map(|(r, t)| Step::Keep(r, t)),
        4 => Just(Step::Fail),
        2 => Just(Step::Suspect),
        1 => Just(Step::Want),
    ]
}

proptest! {
    /// Whatever happens: a good answer stays in use for its time, look-ups are one at a time, not too often and not too late, what is told adds up.
    #[test]
    fn the_rules_hold_on_random_histories(steps in prop::collection::vec(step(), 1..80), seed in any::<u64>()) {
        let begun = Instant::now();
        let (mut now, mut name) = (begun, Name::<u32>::new(TERMS, seed, begun));
        let (mut asking, mut asked, mut good): (bool, Vec<Instant>, Option<(Instant, Duration)>) = (false, Vec::new(), None);
        let (mut in_use, mut failing): (Vec<u32>, bool) = (Vec::new(), false);
        for step in steps {
            match step {
                Step::Wait(ms) => {
                    let until = now + Duration::from_millis(ms);
                    while let Some(at) = name.next_timeout().filter(|at| *at <= until && !asking) {
                        now = now.max(at);
                        name.on_timeout(now);
                        if name.ask(now) {
                            asking = true;
                            asked.push(now);
                        }
                    }
                    now = until;
                    name.on_timeout(now);
                }
                Step::Answer(records, ttl) | Step::Keep(records, ttl) if asking && ttl % 2 == 0 => {
                    asking = false;
                    name.answered(records, s(ttl), |r| r % 2 == 1, now);
                    good = Some((now, s(ttl).clamp(TTL_MIN, TERMS.max_ttl)));
                }
                Step::Answer(records, ttl) | Step::Keep(records, ttl) if asking => {
                    asking = false;
                    name.answered(records.clone(), s(ttl), |_| false, now);
                    let mut found = name.records().to_vec();
                    found.sort_unstable();
                    prop_assert_eq!(found, records);
                    good = Some((now, s(ttl).clamp(TTL_MIN, TERMS.max_ttl)));
                }
                Step::Fail if asking => {
                    asking = false;
                    name.failed("SERVFAIL", now);
                }
                Step::Suspect => {
                    name.suspect(now);
                    prop_assert!(asking || name.next_timeout().is_some_and(|at| at <= now + TTL_MIN));
                }
                Step::Want => {
                    name.want(now);
                }
                Step::Answer(..) | Step::Keep(..) | Step::Fail => {}
            }
            prop_assert!(!asking || !name.ask(now), "one look-up at a time");
            if let Some((at, ttl)) = good {
                let fresh = now < at + ttl.max(TERMS.max_stale);
                prop_assert_eq!(fresh, !name.records().is_empty(), "in use exactly as long as it may be");
                prop_assert!(asking || name.next_timeout().is_some_and(|next| next <= now.max(at + ttl).max(now + AGAIN.max)));
            }
            while let Some(change) = name.next_change() {
                match change {
                    Change::Answer { from, to } => {
                        prop_assert_eq!(&from, &in_use);
                        prop_assert_ne!(&from, &to);
                        in_use = to;
                    }
                    Change::Fails(_) => {
                        prop_assert!(!std::mem::replace(&mut failing, true), "told once");
                    }
                    Change::Back => {
                        prop_assert!(std::mem::replace(&mut failing, false));
                    }
                }
            }
            let mut records = name.records().to_vec();
            records.sort_unstable();
            prop_assert_eq!(&records, &in_use, "what is told adds up");
            prop_assert!(failing || name.error().is_none() || !name.records().is_empty(), "an unknown name that fails is told");
        }
        for pair in asked.windows(2) {
            prop_assert!(pair[1] - pair[0] >= TTL_MIN / 2, "look-ups {:?} apart", pair[1] - pair[0]);
        }
    }
}
