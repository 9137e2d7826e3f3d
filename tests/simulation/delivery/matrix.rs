//! The failure matrix with virtual time: each way in which an endpoint fails, with each kind of order, under both policies, by many seeds; plain, and with
//! crashes, operators' shifts and a failure that comes and goes. What must happen is what `docs/failover.md` says of the cell.
//! `SEEDS=100` plays each cell so often (default 2); `SEED=n` one of them.

use super::peer::Mode;
use super::world::{World, destination};
use everpost_client::config::{Endpoint, Ordering, Policy};
use everpost_client::delivery::{AckCode, Outcome};
use everpost_client::event::Event;
use everpost_client::ids::EnvelopeId;
use everpost_client::keys::Protocol;
use everpost_client::spool::State;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

/// What must happen to the destination and to its envelopes while the failure lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It leaves, and the first delivery elsewhere comes within so many milliseconds of traffic.
    Moves(u64),
    /// It stays, and all is delivered there.
    Stays,
    /// It stays; what was refused is a dead letter.
    DeadLetters,
    /// Nothing is lost, here or there.
    Either,
}

use Fate::{DeadLetters, Either, Moves, Stays};

/// Name, how the peer fails (`None`: switched off and on), and the fate with strict order, lanes of patients, images.
type Row = (&'static str, Option<Mode>, Option<Fate>, Option<Fate>, Option<Fate>);

/// Both tries, each with its latency; refused ones come one after another in a lane.
const SOON: u64 = 50;

/// Two waits of `retry` before another endpoint is asked.
const PATIENCE: u64 = 3_000 + SOON;

const TABLE: &[Row] = &[
    ("refused", Some(Mode::Refuse), Some(Moves(SOON)), Some(Moves(SOON)), Some(Moves(SOON))),
    ("reset in mid-message", Some(Mode::Cut), Some(Moves(SOON)), Some(Moves(SOON)), Some(Moves(SOON))),
    // Twice `connect_timeout`.
    ("packets dropped", Some(Mode::Drop), Some(Moves(10_000 + SOON)), Some(Moves(10_000 + SOON)), Some(Moves(10_000 + SOON))),
    ("30 % loss", Some(Mode::Lossy), Some(Either), Some(Either), Some(Either)),
    ("500 ms delay", Some(Mode::Slow), Some(Stays), Some(Stays), Some(Stays)),
    // `ack_timeout`.
    ("frozen", Some(Mode::Freeze), Some(Moves(30_000 + SOON)), Some(Moves(30_000 + SOON)), Some(Moves(30_000 + SOON))),
    ("half-open after reboot", None, Some(Stays), Some(Stays), Some(Stays)),
    ("certificate expired", Some(Mode::Untrusted), Some(Moves(SOON)), Some(Moves(SOON)), Some(Moves(SOON))),
    ("association rejected", Some(Mode::Reject { permanent: false }), None, None, Some(Moves(SOON))),
    ("A700H", Some(Mode::Status(0xA700)), None, None, Some(Moves(SOON))),
    ("AE", Some(Mode::Nak(AckCode::AE, 0)), Some(DeadLetters), Some(DeadLetters), None),
    ("AR", Some(Mode::Nak(AckCode::AR, 0)), Some(Moves(PATIENCE)), Some(Moves(PATIENCE)), None),
    ("wrong MSA-2", Some(Mode::WrongAnswer), Some(Moves(SOON)), Some(Moves(SOON)), None),
    ("answer too late", Some(Mode::Late), Some(Moves(30_000 + SOON)), Some(Moves(30_000 + SOON)), Some(Moves(30_000 + SOON))),
];

/// What happens beside the failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    Crashes,
    Wishes,
    /// The failure comes and goes each 3 s.
    Flaps,
}

#[derive(Debug, Clone, Copy)]
struct Cell {
    name: &'static str,
    mode: Option<Mode>,
    ordering: Ordering,
    policy: Policy,
    fate: Fate,
}

fn cells() -> Vec<Cell> {
    let mut all = Vec::new();
    for &(name, mode, strict, patient, images) in TABLE {
        for (ordering, fate) in [(Ordering::Strict, strict), (Ordering::Patient, patient), (Ordering::None, images)] {
            for policy in [Policy::Failover, Policy::RoundRobin] {
                all.extend(fate.map(|fate| Cell { name, mode, ordering, policy, fate }));
            }
        }
    }
    all
}

const A: usize = 0;

fn world(cell: Cell, seed: u64) -> World {
    let protocol = if cell.ordering == Ordering::None { Protocol::Dicom } else { Protocol::Mllp };
    let mut d = destination(protocol, &["a", "b"]);
    d.ordering = cell.ordering;
    d.policy = cell.policy;
    if cell.policy == Policy::RoundRobin {
        // A single lane has to live where it fails; of several, most do.
        let weight = if cell.ordering == Ordering::Strict { 1_000 } else { 4 };
        d.endpoints[A] = Arc::new(Endpoint { weight, ..(*d.endpoints[A]).clone() });
    }
    World::new(seed, d)
}

fn breaks(world: &mut World, cell: Cell) {
    match cell.mode {
        Some(Mode::Slow) => world.peers[A].latency = Duration::from_millis(500),
        Some(mode) => world.becomes(A, mode),
        None => world.peers[A].rebooted = true,
    }
}

fn mends(world: &mut World) {
    world.peers[A].latency = Duration::from_millis(2);
    world.becomes(A, Mode::Good);
}

/// Messages now and then, for so long; sometimes several at once.
fn traffic(world: &mut World, milliseconds: u64) -> Vec<EnvelopeId> {
    let (end, mut sent) = (world.now + Duration::from_millis(milliseconds), Vec::new());
    while world.now < end {
        let count = world.random.usize(1..4);
        sent.extend(world.commit_many(count));
        let pause = Duration::from_millis(world.random.u64(0..1_500));
        world.run_for(pause);
    }
    sent
}

fn left(world: &World) -> usize {
    world.moves.iter().filter(|m| m.from.as_deref() == Some("a")).count()
}

fn history(cell: Cell, seed: u64, beside: Beside) {
    let mut world = world(cell, seed);
    traffic(&mut world, 5_000);
    if beside == Beside::Nothing {
        world.run_until_done(Duration::from_secs(60));
        assert_eq!(left(&world), 0);
    }
    let (since, begun) = (world.now, world.lines.len());
    breaks(&mut world, cell);
    let lasts = world.random.u64(4_000..90_000);
    let until = world.now + Duration::from_millis(lasts);
    let mut broken = true;
    let mut sent = Vec::new();
    while world.now < until {
        let span = if beside == Beside::Flaps { 3_000 } else { world.random.u64(1..lasts) };
        sent.extend(traffic(&mut world, span));
        match beside {
            Beside::Nothing => {}
            Beside::Crashes => world.crash(),
            Beside::Wishes => world.wish(),
            Beside::Flaps if broken => mends(&mut world),
            Beside::Flaps => breaks(&mut world, cell),
        }
        broken ^= beside == Beside::Flaps;
    }
    if beside == Beside::Nothing {
        // Whatever is under way ends, or runs into its deadline; what is slow has its time.
        world.run_for(Duration::from_secs(45));
        world.run_until_done(Duration::from_secs(if cell.fate == Stays { 3_600 } else { 0 }));
        fate(&world, cell, &sent, since, begun);
    }
    mends(&mut world);
    for name in ["a", "b"] {
        world.want(&name.into(), everpost_client::endpoint::Admin::Enabled);
    }
    world.run_until_done(Duration::from_secs(3_600));
    world.check();
    // It is used again: by itself, though some returns take a message as canary.
    for _ in 0..60 {
        world.commit_many(1);
        world.run_for(Duration::from_secs(30));
    }
    world.run_until_done(Duration::from_secs(600));
    let all = if cell.policy == Policy::Failover { "a" } else { "a,b" };
    assert_eq!(world.active(), all, "mended, and not used again after half an hour");
    world.check();
}

/// What must have happened while the failure lasted.
fn fate(world: &World, cell: Cell, sent: &[EnvelopeId], since: Duration, begun: usize) {
    let state = |id: &EnvelopeId| world.store.state(*id);
    let elsewhere = || world.lines[begun..].iter().find(|l| l.endpoint != A && l.kept).map(|l| l.ended);
    // The failure is met by the first attempt that it spoils.
    let met = world.lines[begun..].iter().find(|l| l.endpoint == A && l.began >= since && !good(&l.outcome)).map_or(since, |l| l.began);
    let delivered = || sent.iter().all(|id| state(id) == State::Delivered);
    match cell.fate {
        Moves(within) => {
            assert!(left(world) > 0, "it did not leave");
            assert!(delivered(), "not all was delivered elsewhere");
            if cell.policy == Policy::Failover {
                let took = elsewhere().expect("a delivery elsewhere").saturating_sub(met);
                assert!(took <= Duration::from_millis(within), "the first delivery elsewhere took {took:?}");
            }
        }
        Stays => assert!(left(world) == 0 && delivered(), "it left, or did not deliver"),
        DeadLetters => {
            assert_eq!(left(world), 0, "the content is at fault");
            assert!(sent.iter().all(|id| matches!(state(id), State::DeadLetter | State::Delivered)));
            assert!(sent.iter().any(|id| state(id) == State::DeadLetter));
        }
        Either => {}
    }
}

fn good(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Acknowledged { code, .. } => code.is_positive(),
        Outcome::Stored { status } => *status == 0,
        _ => false,
    }
}

fn each(beside: Beside) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = number("SEED").map_or(0..number("SEEDS").unwrap_or(2), |seed| seed..seed + 1);
    for cell in cells() {
        for seed in seeds.clone() {
            let played = std::panic::catch_unwind(AssertUnwindSafe(|| history(cell, seed, beside)));
            assert!(played.is_ok(), "{} {:?} {:?} {beside:?}: SEED={seed}", cell.name, cell.ordering, cell.policy);
        }
    }
}

#[test]
fn every_failure_has_its_fate() {
    each(Beside::Nothing);
}

#[test]
fn every_failure_and_crashes() {
    each(Beside::Crashes);
}

#[test]
fn every_failure_and_operators() {
    each(Beside::Wishes);
}

#[test]
fn every_failure_that_comes_and_goes() {
    each(Beside::Flaps);
}

/// Lines of the log at most: of health only changes between good and not good are told.
fn lines(world: &World) -> usize {
    let mut up: BTreeMap<Arc<str>, bool> = BTreeMap::new();
    let mut told = |e: &Event| match e {
        Event::Attempt { .. } | Event::Delivered { .. } => false,
        Event::Health { endpoint, up: now, .. } => up.insert(Arc::clone(endpoint), *now) != Some(*now),
        _ => true,
    };
    world.events.iter().filter(|(_, e)| told(e)).count()
}

/// Ten minutes of 3 s good and 3 s bad: what people see and peers feel stays small.
#[test]
fn a_flapping_endpoint_makes_no_storm() {
    for cell in cells().into_iter().filter(|cell| matches!(cell.fate, Moves(_))) {
        let mut world = world(cell, 7);
        let mut sent = 0;
        for n in 0..200 {
            if n % 2 == 0 {
                breaks(&mut world, cell)
            } else {
                mends(&mut world)
            }
            for _ in 0..6 {
                sent += world.commit_many(2).len();
                world.run_for(Duration::from_millis(500));
            }
        }
        let what = format!("{} {:?} {:?}", cell.name, cell.ordering, cell.policy);
        let told = lines(&world);
        // A kept connection that turned out dead costs nothing.
        let in_vain = |o: &Outcome| !good(o) && !matches!(o, Outcome::NotSent { stale: true, .. });
        let tries = world.lines.iter().filter(|l| l.endpoint == A && in_vain(&l.outcome)).count();
        mends(&mut world);
        world.run_until_done(Duration::from_secs(3_600));
        world.check();
        // Hold-down is 30 s, and doubles.
        assert!(left(&world) <= 600 / 30 + 1, "{what}: left {} times", left(&world));
        assert!(told <= 100, "{what}: {told} lines for people in 10 min");
        // What is under way when it goes: one in a lane, four images.
        assert!(tries <= 100 * 5, "{what}: {tries} of {sent} messages were tried there in vain");
    }
}
