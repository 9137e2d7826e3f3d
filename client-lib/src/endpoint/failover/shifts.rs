//! Wishes by hand-made clock: shifts, drains, follows, the failback window, lanes. Rules: no sleeping; the clock is an argument.

use super::tests::{A, B, Bench, C};
use super::*;
use crate::delivery::Phase;
use crate::endpoint::Blame;
use crate::endpoint::fixture;
use crate::endpoint::wishes::{Follow, Shift, ShiftRefused, Wishes};
use crate::keys::Protocol;
use std::collections::BTreeMap;

fn shift(to: &str, minutes: u64) -> Shift {
    let (reason, by) = ("a new disk".into(), "an operator".into());
    Shift { to: to.into(), reason, by, since: 0, until: minutes * 60_000, site: None, forced: false }
}

fn told(b: &mut Bench) -> Vec<(ShiftNews, String)> {
    let mut news = Vec::new();
    while let Some(change) = b.machine.next_change() {
        if let Change::Shift { news: what, reason, .. } = change {
            news.push((what, reason));
        }
    }
    news
}

fn news(b: &mut Bench) -> Vec<ShiftNews> {
    told(b).into_iter().map(|(news, _)| news).collect()
}

fn active(b: &Bench) -> Vec<EndpointId> {
    b.machine.active().to_vec()
}

fn down(b: &mut Bench, endpoint: EndpointId) {
    for _ in 0..3 {
        b.machine.probed(endpoint, Err((Phase::Connect, "refused")), b.now);
    }
}

fn good(b: &mut Bench, endpoint: EndpointId, seconds: u64) {
    for _ in 0..seconds / 10 {
        b.now += Duration::from_secs(10);
        b.machine.probed(endpoint, Ok(()), b.now);
    }
}

#[test]
fn a_shift_moves_at_once_and_its_end_moves_back() {
    let mut b = Bench::new(&["a", "b", "c"], |_| ());
    b.machine.on_clock(0, b.now);
    b.machine.begin_shift(shift("c", 60), b.now).expect("c is good");
    assert_eq!(active(&b), [C]);
    assert!(b.machine.reason().contains("an operator") && b.machine.reason().contains("a new disk"), "{}", b.machine.reason());
    b.machine.on_clock(60 * 60_000 - 1, b.now);
    assert_eq!(active(&b), [C]);
    b.machine.on_clock(60 * 60_000, b.now);
    assert_eq!((active(&b), b.machine.shift()), (vec![A], None));
    assert!(b.machine.reason().contains("its time is over"), "{}", b.machine.reason());
    assert_eq!(news(&mut b), [ShiftNews::Begun, ShiftNews::Ended]);
}

#[test]
fn one_shift_at_a_time_and_only_to_what_is_good() {
    let mut b = Bench::new(&["a", "b", "c"], |_| ());
    assert_eq!(b.machine.begin_shift(shift("d", 1), b.now), Err(ShiftRefused::Unknown("d".to_owned())));
    down(&mut b, C);
    let refused = b.machine.begin_shift(shift("c", 1), b.now);
    assert!(matches!(&refused, Err(ShiftRefused::NotHealthy { reason, .. }) if reason.contains("refused")), "{refused:?}");
    b.machine.set_admin(&"b".into(), Admin::Draining, "an operator", b.now);
    let refused = b.machine.begin_shift(Shift { forced: true, ..shift("b", 1) }, b.now);
    assert!(matches!(refused, Err(ShiftRefused::NotEnabled { admin: "draining", .. })), "{refused:?}");
    b.machine.set_admin(&"b".into(), Admin::Enabled, "an operator", b.now);
    b.machine.begin_shift(shift("b", 1), b.now).expect("b is good");
    let refused = b.machine.begin_shift(shift("a", 1), b.now);
    assert!(matches!(&refused, Err(ShiftRefused::Standing { to, .. }) if **to == *"b"), "{refused:?}");
    assert!(b.machine.end_shift("unshift", b.now).is_some() && b.machine.end_shift("unshift", b.now).is_none());
    assert_eq!(active(&b), [A]);
}

#[test]
fn a_target_that_fails_is_left_and_the_shift_suspended_until_it_has_rested() {
    let mut b = Bench::new(&["a", "b", "c"], |_| ());
    b.machine.begin_shift(shift("b", 600), b.now).expect("b is good");
    down(&mut b, B);
    assert_eq!(active(&b), [A], "the rest goes by the configured order");
    let suspended = told(&mut b).pop().expect("news");
    assert!(suspended.0 == ShiftNews::Suspended && suspended.1.contains("refused"), "{suspended:?}");
    good(&mut b, B, 30);
    assert_eq!(active(&b), [A], "good for 20 s");
    good(&mut b, B, 10);
    assert_eq!((active(&b), news(&mut b)), (vec![B], vec![ShiftNews::Resumed]));
}

#[test]
fn what_failed_during_a_shift_is_not_returned_to_at_its_end_before_it_has_rested() {
    for automatic in [true, false] {
        let mut b = Bench::new(&["a", "b"], |d| d.failback_auto = automatic);
        b.machine.begin_shift(shift("b", 60), b.now).expect("b is good");
        down(&mut b, A);
        good(&mut b, A, 20);
        b.machine.end_shift("unshift", b.now);
        assert_eq!(active(&b), [B], "a came back 10 s ago");
        assert!(b.machine.outlook(b.now).is_some_and(|text| text.contains(if automatic { "returns after" } else { "manual" })));
        good(&mut b, A, 20);
        assert_eq!(active(&b), [if automatic { A } else { B }]);
        assert!(automatic || b.machine.failback_now(b.now));
        assert_eq!(active(&b), [A]);
    }
}

#[test]
fn a_forced_shift_sends_one_envelope_and_follows_it() {
    for (blame, moved) in [(Blame::Answered, true), (Blame::Timeout, false)] {
        let mut b = Bench::new(&["a", "b"], |_| ());
        down(&mut b, B);
        b.machine.begin_shift(Shift { forced: true, ..shift("b", 60) }, b.now).expect("forced");
        assert_eq!((active(&b), news(&mut b)), (vec![A], vec![ShiftNews::Begun, ShiftNews::Suspended]));
        let canary = b.machine.choose(Wish::default(), b.now).expect("b");
        assert_eq!((canary.endpoint, canary.errand), (B, Errand::Canary));
        assert_eq!(b.machine.choose(Wish::default(), b.now).map(|c| c.endpoint), Some(A), "one only");
        b.end(1, canary, b.now, blame, 1);
        assert_eq!(active(&b), [if moved { B } else { A }], "{blame:?}");
        assert_eq!(b.machine.choose(Wish::default(), b.now).map(|c| c.errand), Some(Errand::Traffic));
    }
}

#[test]
fn a_shift_away_from_a_failed_endpoint_sends_no_canary_there() {
    let mut b = Bench::new(&["a", "b"], |_| ());
    let choice = b.machine.choose(Wish::default(), b.now).expect("a");
    b.end(1, choice, b.now, Blame::Timeout, 1);
    b.machine.begin_shift(shift("b", 600), b.now).expect("b is good");
    good(&mut b, A, 100);
    assert_eq!(b.machine.choose(Wish::default(), b.now).map(|c| (c.endpoint, c.errand)), Some((B, Errand::Traffic)));
    b.machine.end_shift("unshift", b.now);
    assert_eq!(b.machine.choose(Wish::default(), b.now).map(|c| (c.endpoint, c.errand)), Some((A, Errand::Canary)));
}

#[test]
fn a_shift_concentrates_what_is_spread() {
    let mut b = Bench::new(&["a", "b", "c"], |d| d.policy = Policy::RoundRobin);
    b.machine.begin_shift(shift("b", 60), b.now).expect("b is good");
    assert_eq!(active(&b), [B]);
    down(&mut b, B);
    assert_eq!(active(&b), [A, C]);
    b.machine.end_shift("unshift", b.now);
    good(&mut b, B, 40);
    assert_eq!(active(&b), [A, B, C]);
}

#[test]
fn wishes_outlive_a_reload_and_a_restart() {
    let mut b = Bench::new(&["a", "b", "c"], |_| ());
    b.machine.begin_shift(shift("c", 60), b.now).expect("c is good");
    b.machine.set_admin(&"b".into(), Admin::Disabled, "an operator", b.now);
    let mut new = fixture::destination(Protocol::Mllp, &["b", "c", "a"]);
    Arc::make_mut(&mut new.endpoints[0]).port = 1;
    b.machine.reconfigure(&new, b.now);
    assert_eq!((active(&b), b.machine.admin(EndpointId(0))), (vec![EndpointId(1)], Some(Admin::Disabled)), "by name, whatever the address");
    news(&mut b);
    b.machine.reconfigure(&fixture::destination(Protocol::Mllp, &["a", "b"]), b.now);
    assert_eq!((active(&b), b.machine.shift()), (vec![A], None));
    let ended = told(&mut b).pop().expect("news");
    assert!(ended.0 == ShiftNews::Ended && ended.1.contains("no longer configured"), "{ended:?}");

    let mut b = Bench::new(&["a", "b"], |_| ());
    let admin = BTreeMap::from([("a".into(), Admin::Draining)]);
    b.machine.restore(Wishes { paused: false, shift: Some(shift("b", 60)), admin }, b.now);
    assert_eq!((active(&b), b.machine.admin(A)), (vec![B], Some(Admin::Draining)));
    b.machine.on_clock(60 * 60_000, b.now);
    assert_eq!((active(&b), b.machine.shift()), (vec![B], None), "a is drained still");
}

#[test]
fn the_last_enabled_endpoint_is_known() {
    let mut b = Bench::new(&["a", "b"], |_| ());
    assert!(!b.machine.is_last_enabled("a"));
    b.machine.set_admin(&"b".into(), Admin::Disabled, "an operator", b.now);
    assert!(b.machine.is_last_enabled("a") && !b.machine.is_last_enabled("b"));
    assert!(!b.machine.set_admin(&"c".into(), Admin::Disabled, "an operator", b.now));
}

#[test]
fn it_returns_by_itself_only_inside_the_window() {
    let mut b = Bench::new(&["a", "b"], |d| d.failback_window = Window::parse("22:00-05:00"));
    let minute = |b: &mut Bench, hours: u64, minutes: u64| b.machine.on_clock((hours * 60 + minutes) * 60_000, b.now);
    minute(&mut b, 12, 0);
    down(&mut b, A);
    assert_eq!(active(&b), [B], "leaving waits for no window");
    good(&mut b, A, 60);
    assert_eq!(active(&b), [B]);
    assert!(b.machine.outlook(b.now).is_some_and(|text| text.contains("22:00-05:00")), "{:?}", b.machine.outlook(b.now));
    minute(&mut b, 21, 59);
    b.machine.on_timeout(b.now);
    assert_eq!(active(&b), [B]);
    minute(&mut b, 22, 0);
    b.machine.on_timeout(b.now);
    assert_eq!(active(&b), [A]);
    // A wish of an operator needs no window.
    minute(&mut b, 12, 0);
    down(&mut b, A);
    good(&mut b, A, 60);
    assert!(b.machine.failback_now(b.now));
    assert_eq!(active(&b), [A]);
}

#[test]
fn it_follows_its_site_where_it_can_and_comes_back() {
    let mut b = Bench::new(&["a", "b", "c"], |d| {
        for (endpoint, site) in d.endpoints.iter_mut().zip(["north", "north", "south"]) {
            Arc::make_mut(endpoint).site = Some(site.into());
        }
    });
    let follow = |to: Option<&str>| Some(Follow { leaves: "north".into(), to: to.map(Into::into), why: "pacs left site north".into() });
    b.machine.follow(follow(Some("south")), b.now);
    assert_eq!(active(&b), [C]);
    assert_eq!(b.machine.reason(), "pacs left site north");
    down(&mut b, C);
    assert_eq!(active(&b), [A], "not eligible there: it stays");
    b.machine.follow(None, b.now);
    good(&mut b, C, 40);
    b.machine.follow(follow(None), b.now);
    assert_eq!(active(&b), [C], "anywhere but north");
    b.machine.begin_shift(shift("b", 60), b.now).expect("b is good");
    assert_eq!(active(&b), [B], "an operator's shift goes before");
    b.machine.end_shift("unshift", b.now);
    assert_eq!(active(&b), [C]);
    b.machine.follow(None, b.now);
    assert_eq!(active(&b), [A]);
}

fn homes(b: &mut Bench, lanes: u32) -> Vec<String> {
    let mut home = |lane| b.machine.choose(Wish { lane: Some(lane), ..Wish::default() }, b.now).expect("an endpoint").endpoint;
    let homes: Vec<EndpointId> = (0..lanes).map(&mut home).collect();
    homes.into_iter().map(|e| b.machine.endpoint(e).expect("known").name.to_string()).collect()
}

#[test]
fn lanes_keep_to_weights_and_few_of_them_move() {
    let spread = |d: &mut Destination| {
        d.policy = Policy::LeastOutstanding;
        Arc::make_mut(&mut d.endpoints[0]).weight = 3;
    };
    let mut b = Bench::new(&["a", "b"], spread);
    let before = homes(&mut b, 4_000);
    let to_a = before.iter().filter(|home| *home == "a").count();
    assert!((2_850..3_150).contains(&to_a), "three of four lanes go to a: {to_a}");
    assert_eq!(homes(&mut b, 4_000), before, "a lane stays");
    // A third one, in front of the list: it takes its share of both, and nothing else moves.
    let mut new = fixture::destination(Protocol::Mllp, &["c", "a", "b"]);
    new.policy = Policy::LeastOutstanding;
    Arc::make_mut(&mut new.endpoints[1]).weight = 3;
    b.machine.reconfigure(&new, b.now);
    let after = homes(&mut b, 4_000);
    let moved = before.iter().zip(&after).filter(|(old, new)| old != new).count();
    assert!(before.iter().zip(&after).all(|(old, new)| old == new || new == "c"), "a lane moved between two that stayed");
    assert!((650..950).contains(&moved), "one of five lanes goes to c: {moved}");
    down(&mut b, EndpointId(0));
    assert_eq!(homes(&mut b, 4_000), before, "c is gone: its lanes are where they were");
}

#[test]
fn of_the_records_of_a_pool_that_take_turns_the_lowest_tier_serves() {
    let mut b = Bench::new(&["pool@a", "pool@b", "pool@c", "d"], |d| {
        d.policy = Policy::RoundRobin;
        for (endpoint, tier) in d.endpoints.iter_mut().zip([10, 10, 20, 0]) {
            Arc::make_mut(endpoint).tier = tier;
        }
    });
    let d = EndpointId(3);
    assert_eq!(active(&b), [A, B, d], "a tier counts in its own pool alone");
    down(&mut b, A);
    assert_eq!(active(&b), [B, d]);
    down(&mut b, B);
    assert_eq!(active(&b), [C, d]);
}

#[test]
fn a_record_of_a_worse_priority_gets_no_canary_while_a_better_one_serves() {
    let mut b = Bench::new(&["pool@a", "pool@b"], |d| {
        d.policy = Policy::RoundRobin;
        for (endpoint, tier) in d.endpoints.iter_mut().zip([10, 20]) {
            Arc::make_mut(endpoint).tier = tier;
        }
    });
    down(&mut b, A);
    let choice = b.machine.choose(Wish::default(), b.now).expect("the worse one");
    b.end(1, choice, b.now, Blame::Timeout, 1);
    good(&mut b, A, 40);
    assert_eq!(active(&b), [A]);
    good(&mut b, B, 100);
    let chosen = |b: &mut Bench| b.machine.choose(Wish::default(), b.now).map(|c| (c.endpoint, c.errand));
    assert_eq!(chosen(&mut b), Some((A, Errand::Traffic)), "it would get no traffic if it returned");
}

#[test]
fn a_wish_for_a_pool_means_each_of_it_and_outlives_a_member() {
    let mut b = Bench::new(&["a", "pool@10.0.0.1", "pool@10.0.0.2"], |_| ());
    b.machine.set_admin(&"pool".into(), Admin::Draining, "an operator", b.now);
    assert_eq!((b.machine.admin(B), b.machine.admin(C)), (Some(Admin::Draining), Some(Admin::Draining)));
    b.machine.set_admin(&"pool".into(), Admin::Enabled, "an operator", b.now);
    b.machine.begin_shift(shift("pool", 60), b.now).expect("its members are good");
    assert_eq!(active(&b), [B]);
    down(&mut b, B);
    assert_eq!((active(&b), news(&mut b)), (vec![C], vec![ShiftNews::Begun]), "another one of it, so it stands");
    b.machine.end_shift("unshift", b.now);
    b.machine.begin_shift(shift("pool@10.0.0.2", 60), b.now).expect("it is good");
    b.machine.reconfigure(&fixture::destination(Protocol::Mllp, &["a", "pool@10.0.0.1"]), b.now);
    assert_eq!((active(&b), b.machine.shift().map(|(_, suspended)| suspended)), (vec![A], Some(true)), "away for now");
    b.machine.reconfigure(&fixture::destination(Protocol::Mllp, &["a", "pool@10.0.0.1", "pool@10.0.0.2"]), b.now);
    assert_eq!((active(&b), b.machine.shift().map(|(_, suspended)| suspended)), (vec![C], Some(false)));
}
