//! Endpoints that miss something: what becomes of replays that they refuse or put off, and of a shift to one of them.

use super::journalled::Journalled;
use super::peer::Mode;
use super::world::{World, destination};
use everpost_client::config::{Destination, Ordering};
use everpost_client::delivery::AckCode;
use everpost_client::endpoint::wishes::Shift;
use everpost_client::event::{Event, ReplayEnd};
use everpost_client::ids::EnvelopeId;
use everpost_client::keys::Protocol;
use everpost_client::spool::{Lane, State};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn world(seed: u64, change: impl FnOnce(&mut Destination)) -> World {
    let mut d = destination(Protocol::Mllp, &["a", "b"]);
    change(&mut d);
    World::on(Box::new(Journalled::new(seed)), seed, d)
}

/// One message each 200 ms.
fn traffic(world: &mut World, seconds: u64) -> Vec<EnvelopeId> {
    let mut sent = Vec::new();
    for _ in 0..seconds * 5 {
        sent.extend(world.commit_many(1));
        world.run_for(Duration::from_millis(200));
    }
    sent
}

fn refused_replays(world: &World) -> usize {
    world.events.iter().filter(|(_, e)| matches!(e, Event::Replayed { end: ReplayEnd::Refused, .. })).count()
}

#[test]
fn a_replay_that_is_refused_or_put_off_holds_its_lane_for_minutes_at_most() {
    // 206 and 207 are AE as any other; AR and CE ask for patience, and get some.
    for (mode, at_most) in [
        (Mode::Nak(AckCode::AE, 206), 2 * SECOND),
        (Mode::Nak(AckCode::AE, 207), 2 * SECOND),
        (Mode::Nak(AckCode::AR, 0), 400 * SECOND),
        (Mode::Nak(AckCode::CE, 207), 400 * SECOND),
    ] {
        for ordering in [Ordering::Strict, Ordering::Patient] {
            let mut world = world(3, |d| {
                d.ordering = ordering;
                d.replay_window = 60 * SECOND;
            });
            traffic(&mut world, 20);
            world.run_until_done(10 * SECOND);
            // It takes what is new, and none of what is told again.
            world.peers[1].replays = Some(mode);
            world.becomes(0, Mode::Refuse);
            let since = world.now;
            let new = world.commit_many(10);
            while new.iter().any(|id| world.store.state(*id) != State::Delivered) && world.now < since + 3_600 * SECOND {
                world.run_for(SECOND);
            }
            let held = world.now - since;
            assert!(held <= at_most, "{mode:?} {ordering:?}: newer messages waited {held:?}");
            assert_eq!(world.active(), "b", "{mode:?} {ordering:?}: what it says of replays says nothing against it");
            assert!(refused_replays(&world) >= 90, "{mode:?} {ordering:?}: {}", refused_replays(&world));
            assert!(!world.events.iter().any(|(_, e)| matches!(e, Event::DeadLetter { .. } | Event::Held { .. })));
        }
    }
}

#[test]
fn a_replay_that_is_put_off_for_a_while_is_delivered() {
    let mut world = world(4, |d| d.replay_window = 60 * SECOND);
    traffic(&mut world, 20);
    world.run_until_done(10 * SECOND);
    world.becomes(0, Mode::Refuse);
    world.becomes(1, Mode::Nak(AckCode::AR, 0));
    traffic(&mut world, 120);
    world.becomes(1, Mode::Good);
    world.run_until_done(600 * SECOND);
    assert_eq!((refused_replays(&world), world.waiting()), (0, 0), "two minutes of AR lose nothing");
}

/// At a peer, nothing comes for the first time after a later message of its lane.
fn check_order(world: &World, peer: usize) {
    let lanes: BTreeMap<EnvelopeId, Lane> = world.committed.iter().copied().collect();
    let (mut highest, mut seen) = (BTreeMap::new(), BTreeSet::new());
    for line in world.lines.iter().filter(|l| l.endpoint == peer && l.kept) {
        let id = world.store.origin(line.id);
        let Lane::Key(lane) = lanes[&id] else { continue };
        if seen.insert(id) {
            let before = highest.insert(lane, id);
            assert!(before.is_none_or(|before| before < id), "{id} came after {before:?}");
        }
    }
}

#[test]
fn a_shift_to_an_endpoint_that_misses_something_gives_it_that_first() {
    // Good, and resting; good as far as probes see; not good at all, and then it is.
    for (gone, returned, forced) in
        [(Mode::Refuse, true, false), (Mode::Freeze, true, true), (Mode::Refuse, false, true), (Mode::Freeze, false, true)]
    {
        for ordering in [Ordering::Strict, Ordering::Patient] {
            let what = format!("{gone:?} {returned} {forced} {ordering:?}");
            let mut world = world(5, |d| {
                d.ordering = ordering;
                d.resync = true;
                d.hold_down = 300 * SECOND;
            });
            traffic(&mut world, 10);
            world.becomes(0, gone);
            traffic(&mut world, 45);
            if returned {
                world.becomes(0, Mode::Good);
                traffic(&mut world, 20);
            }
            assert_eq!(world.active(), "b", "{what}");
            world.shift("a", forced);
            traffic(&mut world, 30);
            if !returned {
                assert_eq!(world.active(), "b", "{what}: it is left like any other");
                world.becomes(0, Mode::Good);
                for _ in 0..65 {
                    world.commit_many(1);
                    world.run_for(20 * SECOND);
                }
            }
            world.run_until_done(600 * SECOND);
            assert_eq!(world.active(), "a", "{what}");
            let has: BTreeSet<EnvelopeId> = world.lines.iter().filter(|l| l.endpoint == 0 && l.kept).map(|l| world.store.origin(l.id)).collect();
            assert!(world.committed.iter().all(|(id, _)| has.contains(id)), "{what}: it has everything");
            check_order(&world, 0);
        }
    }
}

impl World {
    /// An operator shifts to an endpoint.
    fn shift(&mut self, to: &str, forced: bool) {
        let now = self.moment();
        let (reason, by) = ("repair".into(), "an operator".into());
        let shift = Shift { to: to.into(), reason, by, since: now.wall, until: now.wall + 3_600_000, site: None, forced };
        self.engine.begin_shift(shift.clone(), now).expect("taken");
        self.wishes.shift = Some(shift);
        self.run_for(Duration::ZERO);
    }
}
