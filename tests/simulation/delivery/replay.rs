//! Replay and resync with virtual time on the real spool: a peer that forgets what it answered last, lanes, crashes at random moments.
//! `SEED=n` repeats one run.

use super::journalled::Journalled;
use super::peer::Mode;
use super::world::{World, destination};
use everpost_client::config::{Destination, Ordering};
use everpost_client::delivery::AckCode;
use everpost_client::event::{Event, ReplayEnd};
use everpost_client::ids::EnvelopeId;
use everpost_client::keys::Protocol;
use everpost_client::spool::Lane;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn scene(change: impl FnOnce(&mut Destination)) -> Destination {
    let mut destination = destination(Protocol::Mllp, &["a", "b"]);
    destination.replay_window = Duration::from_secs(60);
    change(&mut destination);
    destination
}

fn world(seed: u64, change: impl FnOnce(&mut Destination)) -> World {
    World::on(Box::new(Journalled::new(seed)), seed, scene(change))
}

/// What a peer holds, in the order of arrival: what it answered in these times it has lost.
fn holds(world: &World, peer: usize, lost: &[(Duration, Duration)]) -> Vec<EnvelopeId> {
    let forgotten = |at: Duration| lost.iter().any(|(from, to)| (*from..=*to).contains(&at));
    let lines = world.lines.iter().filter(|l| l.endpoint == peer && l.kept && !forgotten(l.ended));
    lines.map(|l| world.store.origin(l.id)).collect()
}

fn check_complete(world: &World, peer: usize, lost: &[(Duration, Duration)]) {
    let held: BTreeSet<EnvelopeId> = holds(world, peer, lost).into_iter().collect();
    for (id, _) in &world.committed {
        assert!(held.contains(id), "{} lacks {id}", world.peers[peer].name);
    }
}

/// At a peer, a message never comes for the first time after a later one of its lane; with `strictly` not even a repetition does.
fn check_order(world: &World, peer: usize, lost: &[(Duration, Duration)], strictly: bool) {
    let lanes: BTreeMap<EnvelopeId, Lane> = world.committed.iter().copied().collect();
    let (mut highest, mut seen) = (BTreeMap::new(), BTreeSet::new());
    for id in holds(world, peer, lost) {
        let Lane::Key(lane) = lanes[&id] else { continue };
        let before = highest.entry(lane).or_insert(id);
        let first = seen.insert(id);
        assert!(id >= *before || !first && !strictly, "{id} came to {} after {before}", world.peers[peer].name);
        *before = id.max(*before);
    }
}

fn replayed(world: &World) -> usize {
    world.events.iter().filter(|(_, e)| matches!(e, Event::Replayed { end: ReplayEnd::Answered, .. })).count()
}

/// One message each 200 ms.
fn traffic(world: &mut World, seconds: u64) {
    for _ in 0..seconds * 5 {
        world.commit_many(1);
        world.run_for(Duration::from_millis(200));
    }
}

#[test]
fn the_secondary_gets_what_the_primary_may_have_lost_in_order_and_before_newer_ones() {
    for ordering in [Ordering::Strict, Ordering::Patient] {
        let mut world = world(1, |d| d.ordering = ordering);
        traffic(&mut world, 120);
        let died = world.now;
        world.becomes(0, Mode::Refuse);
        traffic(&mut world, 20);
        world.run_until_done(600 * SECOND);
        assert_eq!(world.active(), "b");
        let held: BTreeSet<EnvelopeId> = holds(&world, 1, &[]).into_iter().collect();
        let answered: Vec<_> = world.lines.iter().filter(|l| l.endpoint == 0 && l.kept && l.ended + 30 * SECOND >= died).collect();
        assert!(answered.len() > 140);
        for line in answered {
            assert!(held.contains(&line.id), "{} was lost with the primary", line.id);
        }
        let count = replayed(&world);
        assert!((290..=320).contains(&count), "{count}: the window of a minute, and little more");
        check_order(&world, 1, &[], true);
    }
}

#[test]
fn without_a_window_nothing_is_replayed() {
    let mut world = world(2, |d| d.replay_window = Duration::ZERO);
    traffic(&mut world, 20);
    world.becomes(0, Mode::Refuse);
    traffic(&mut world, 5);
    world.run_until_done(600 * SECOND);
    assert_eq!((world.active().as_str(), replayed(&world)), ("b", 0));
    world.check();
}

#[test]
fn without_order_replays_go_beside_the_traffic() {
    let mut world = world(3, |d| d.ordering = Ordering::None);
    traffic(&mut world, 60);
    world.becomes(0, Mode::Refuse);
    traffic(&mut world, 10);
    world.run_until_done(600 * SECOND);
    let count = replayed(&world);
    assert!((250..=320).contains(&count), "{count}");
}

#[test]
fn a_refused_replay_ends_and_stops_nothing() {
    let mut world = world(4, |_| ());
    traffic(&mut world, 20);
    world.becomes(0, Mode::Refuse);
    world.becomes(1, Mode::Nak(AckCode::AE, 0));
    // Nothing was sent: the probes find it.
    world.run_for(60 * SECOND);
    let refused = |e: &Event| matches!(e, Event::Replayed { end: ReplayEnd::Refused, .. });
    assert!(world.events.iter().filter(|(_, e)| refused(e)).count() >= 100);
    assert!(!world.events.iter().any(|(_, e)| matches!(e, Event::DeadLetter { .. })), "nothing but replays was there");
    world.becomes(1, Mode::Good);
    traffic(&mut world, 5);
    world.run_until_done(600 * SECOND);
    assert_eq!(world.waiting(), 0);
}

#[test]
fn the_primary_is_complete_before_it_returns() {
    for ordering in [Ordering::Strict, Ordering::Patient, Ordering::None] {
        let mut world = world(5, |d| {
            d.resync = true;
            d.ordering = ordering;
        });
        traffic(&mut world, 60);
        let died = world.now;
        let lost = [(died - 30 * SECOND, died)];
        world.becomes(0, Mode::Refuse);
        traffic(&mut world, 60);
        world.becomes(0, Mode::Good);
        traffic(&mut world, 90);
        world.run_until_done(600 * SECOND);
        assert_eq!(world.active(), "a", "{ordering:?}");
        check_complete(&world, 0, &lost);
        if ordering != Ordering::None {
            check_order(&world, 0, &lost, false);
        }
        let back = world.moves.iter().filter(|m| m.to.as_deref() == Some("a") && m.from.as_deref() == Some("b")).count();
        assert_eq!(back, 1, "one switch");
        // When it returned it had everything that was answered before.
        let at = world.moves.iter().rev().find(|m| m.to.as_deref() == Some("a")).unwrap().at;
        let before: BTreeSet<EnvelopeId> =
            world.lines.iter().filter(|l| l.endpoint == 0 && l.kept && l.ended <= at).map(|l| world.store.origin(l.id)).collect();
        for line in world.lines.iter().filter(|l| l.endpoint == 1 && l.kept && l.ended < at) {
            assert!(before.contains(&world.store.origin(line.id)), "it returned without {}", line.id);
        }
    }
}

#[test]
fn a_secondary_that_dies_during_the_resync_leaves_a_complete_primary() {
    let mut world = world(6, |d| d.resync = true);
    traffic(&mut world, 40);
    let died = world.now;
    world.becomes(0, Mode::Refuse);
    traffic(&mut world, 60);
    world.becomes(0, Mode::Good);
    // Within the resync, which takes less than a second of this world.
    for _ in 0..4_000 {
        world.run_for(Duration::from_millis(10));
        if world.engine.replay_text().is_some_and(|t| t.contains("missed")) {
            break;
        }
    }
    world.run_for(Duration::from_millis(20));
    assert_eq!(world.active(), "b");
    world.becomes(1, Mode::Refuse);
    traffic(&mut world, 10);
    world.run_until_done(600 * SECOND);
    let lost = [(died - 30 * SECOND, died)];
    check_complete(&world, 0, &lost);
    check_order(&world, 0, &lost, false);
}

/// Replays of what an endpoint held when they began: sent although it had it.
fn needless(world: &World, peer: usize) -> usize {
    let mut held: BTreeSet<EnvelopeId> = BTreeSet::new();
    let lost = |at: Duration| world.lost.iter().any(|(p, from, to)| *p == peer && (*from..=*to).contains(&at));
    let mut count = 0;
    for line in world.lines.iter().filter(|l| l.endpoint == peer && l.kept && !lost(l.ended)) {
        count += usize::from(!held.insert(world.store.origin(line.id)));
    }
    count
}

fn already_there(world: &World) -> usize {
    world.events.iter().filter(|(_, e)| matches!(e, Event::Replayed { end: ReplayEnd::AlreadyThere, .. })).count()
}

/// A DICOM pair whose endpoints are asked what they have.
fn asking(seed: u64, ordering: Ordering) -> World {
    let mut destination = destination(Protocol::Dicom, &["a", "b"]);
    destination.replay_window = Duration::from_secs(60);
    (destination.resync, destination.reconcile, destination.ordering) = (true, true, ordering);
    World::on(Box::new(Journalled::new(seed)), seed, destination)
}

#[test]
fn what_a_returning_endpoint_still_has_is_not_sent_to_it() {
    for ordering in [Ordering::None, Ordering::Study] {
        let mut world = asking(7, ordering);
        traffic(&mut world, 60);
        let died = world.now;
        world.becomes(0, Mode::Refuse);
        world.lost.push((0, died - 10 * SECOND, died));
        traffic(&mut world, 30);
        world.becomes(0, Mode::Good);
        traffic(&mut world, 60);
        world.run_until_done(600 * SECOND);
        assert_eq!(world.active(), "a");
        check_complete(&world, 0, &[(died - 10 * SECOND, died)]);
        assert_eq!(needless(&world, 0), 0);
        assert!(already_there(&world) >= 200, "{}: of a minute it had lost ten seconds", already_there(&world));
    }
}

#[test]
fn an_endpoint_that_answers_no_queries_is_sent_everything() {
    let mut world = asking(8, Ordering::None);
    world.peers.iter_mut().for_each(|peer| peer.answers_queries = false);
    traffic(&mut world, 40);
    let died = world.now;
    world.becomes(0, Mode::Refuse);
    world.lost.push((0, died - 10 * SECOND, died));
    traffic(&mut world, 20);
    world.becomes(0, Mode::Good);
    traffic(&mut world, 60);
    world.run_until_done(600 * SECOND);
    assert_eq!((world.active().as_str(), already_there(&world)), ("a", 0));
    check_complete(&world, 0, &[(died - 10 * SECOND, died)]);
}

#[test]
fn what_an_endpoint_refuses_once_is_not_offered_to_it_in_each_round() {
    let mut world = world(9, |d| d.resync = true);
    traffic(&mut world, 20);
    world.becomes(0, Mode::Refuse);
    traffic(&mut world, 60);
    // It takes connections, and refuses whatever it gets; it is good enough for its probes.
    world.becomes(0, Mode::Nak(AckCode::AE, 0));
    traffic(&mut world, 60);
    let mut times: BTreeMap<EnvelopeId, usize> = BTreeMap::new();
    for line in world.lines.iter().filter(|l| l.endpoint == 0 && world.store.origin(l.id) != l.id) {
        *times.entry(world.store.origin(line.id)).or_default() += 1;
    }
    assert!(times.len() > 300, "{}: the round was not begun", times.len());
    let most = times.values().copied().max().unwrap_or(0);
    assert_eq!(most, 1, "offered again and again");
}

#[test]
fn a_window_holds_whatever_the_clock_on_the_wall_does() {
    for set in [3_600_000, -3_600_000] {
        let mut world = world(10, |_| ());
        traffic(&mut world, 90);
        world.clock += set;
        traffic(&mut world, 10);
        let died = world.now;
        world.becomes(0, Mode::Refuse);
        traffic(&mut world, 5);
        world.run_until_done(600 * SECOND);
        let held: BTreeSet<EnvelopeId> = holds(&world, 1, &[]).into_iter().collect();
        for line in world.lines.iter().filter(|l| l.endpoint == 0 && l.kept && l.ended + 60 * SECOND >= died) {
            assert!(held.contains(&line.id), "{} was lost with the primary when the clock was set by {set} ms", line.id);
        }
        check_order(&world, 1, &[], true);
    }
}

#[test]
fn a_window_reaches_across_a_restart() {
    for pause in [Duration::ZERO, 20 * SECOND] {
        let mut world = world(11, |_| ());
        traffic(&mut world, 60);
        world.run_until_done(60 * SECOND);
        let died = world.now;
        world.becomes(0, Mode::Refuse);
        world.run_for(Duration::from_millis(50));
        world.crash();
        world.run_for(pause);
        traffic(&mut world, 5);
        world.run_until_done(600 * SECOND);
        let held: BTreeSet<EnvelopeId> = holds(&world, 1, &[]).into_iter().collect();
        for line in world.lines.iter().filter(|l| l.endpoint == 0 && l.kept && l.ended + 59 * SECOND >= died) {
            assert!(held.contains(&line.id), "{} was lost with the primary over a restart", line.id);
        }
    }
}

#[test]
fn an_endpoint_that_was_out_stays_out_over_a_restart_until_it_has_what_it_missed() {
    let mut world = world(12, |d| d.resync = true);
    traffic(&mut world, 20);
    let died = world.now;
    world.becomes(0, Mode::Refuse);
    traffic(&mut world, 20);
    world.crash();
    // It is there again in the same moment, and has lost all it had.
    world.becomes(0, Mode::Good);
    let back = world.now;
    traffic(&mut world, 20);
    assert_eq!(world.active(), "b", "the hold-down is not over");
    assert!(!world.lines.iter().any(|l| l.endpoint == 0 && l.kept && l.ended > back));
    traffic(&mut world, 40);
    world.run_until_done(600 * SECOND);
    assert_eq!(world.active(), "a");
    check_complete(&world, 0, &[(Duration::ZERO, died)]);
    check_order(&world, 0, &[(Duration::ZERO, died)], false);
}

#[test]
fn what_was_in_doubt_before_a_restart_stays_so_however_often_the_return_is_interrupted() {
    for ordering in [Ordering::Strict, Ordering::None] {
        let mut world = world(13, |d| {
            d.resync = true;
            d.ordering = ordering;
        });
        traffic(&mut world, 40);
        world.run_until_done(60 * SECOND);
        let died = world.now;
        world.crash();
        world.becomes(0, Mode::Refuse);
        // Longer than the window.
        traffic(&mut world, 150);
        world.becomes(0, Mode::Good);
        for _ in 0..2 {
            for _ in 0..6_000 {
                world.run_for(Duration::from_millis(10));
                if world.engine.replay_text().is_some_and(|t| t.contains("missed")) {
                    break;
                }
            }
            world.run_for(Duration::from_millis(80));
            assert_eq!(world.active(), "b");
            world.crash();
        }
        traffic(&mut world, 90);
        world.run_until_done(600 * SECOND);
        assert_eq!(world.active(), "a", "{ordering:?}");
        check_complete(&world, 0, &[(Duration::ZERO, died)]);
        if ordering != Ordering::None {
            check_order(&world, 0, &[(Duration::ZERO, died)], false);
        }
    }
}

#[test]
fn crashes_at_random_moments_change_nothing_of_that() {
    let one = std::env::var("SEED").ok().and_then(|s| s.parse::<u64>().ok());
    let runs = std::env::var("RUNS").ok().and_then(|s| s.parse::<u64>().ok()).unwrap_or(12);
    for seed in one.map_or(0..runs, |seed| seed..seed + 1) {
        let mut random = fastrand::Rng::with_seed(seed);
        let asks = seed % 3 == 2;
        let resync = random.bool() || asks;
        let ordering = [Ordering::Strict, Ordering::Patient, Ordering::None][random.usize(..3)];
        let mut world = if asks {
            asking(seed, ordering)
        } else {
            world(seed, |d| {
                d.resync = resync;
                d.ordering = ordering;
            })
        };
        let crashes = |world: &mut World, random: &mut fastrand::Rng, over: Duration| {
            for _ in 0..random.usize(1..4) {
                world.run_for(over.mul_f64(random.f64() / 4.0));
                world.commit_many(1);
                world.crash();
            }
        };
        traffic(&mut world, 40);
        let died = world.now;
        let lost = [(died.saturating_sub(30 * SECOND), died)];
        world.becomes(0, Mode::Refuse);
        world.lost.push((0, lost[0].0, lost[0].1));
        world.commit_many(5);
        crashes(&mut world, &mut random, Duration::from_millis(800));
        traffic(&mut world, 20);
        world.run_until_done(600 * SECOND);
        let held: BTreeSet<EnvelopeId> = holds(&world, 1, &[]).into_iter().collect();
        for line in world.lines.iter().filter(|l| l.endpoint == 0 && l.kept && l.ended + 30 * SECOND >= died) {
            assert!(held.contains(&world.store.origin(line.id)), "SEED={seed}: {} was lost with the primary", line.id);
        }
        if ordering != Ordering::None {
            check_order(&world, 1, &[], false);
        }
        world.becomes(0, Mode::Good);
        world.run_for(Duration::from_millis(random.u64(29_000..36_000)));
        crashes(&mut world, &mut random, Duration::from_millis(400));
        traffic(&mut world, 200);
        world.run_until_done(600 * SECOND);
        assert_eq!(world.waiting(), 0, "SEED={seed}");
        // No endless repetition: what a peer keeps it keeps at most once for each life of the process, window and return.
        let mut times: BTreeMap<(usize, EnvelopeId), usize> = BTreeMap::new();
        for line in world.lines.iter().filter(|l| l.kept) {
            *times.entry((line.endpoint, world.store.origin(line.id))).or_default() += 1;
        }
        let most = times.values().copied().max().unwrap_or(0);
        assert!(most <= 6, "SEED={seed}: kept {most} times");
        if resync {
            assert_eq!(world.active(), "a", "SEED={seed}");
            check_complete(&world, 0, &lost);
            if ordering != Ordering::None {
                check_order(&world, 0, &lost, false);
            }
        }
    }
}
