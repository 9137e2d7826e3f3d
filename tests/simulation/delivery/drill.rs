//! Failover drills in the world with virtual time: the real machine of the drill over the real engine, stopped, cut and crashed at random moments.
//! Rules: whatever becomes of the drill, nothing is lost or reordered, and afterwards nothing of it stands.

use super::peer::Mode;
use super::random::{each, heal, scene};
use super::world::World;
use everpost_client::config::{Fault, Policy};
use everpost_client::delivery::Verdict;
use everpost_client::delivery::drill::{Drill, Heard, Order, Outcome, Plan, Sight, Synthetic};
use everpost_client::endpoint::wishes::Shift;
use everpost_client::event::Event;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn plan(world: &mut World) -> Plan {
    let fault = [None, Some(Fault::Refuse), Some(Fault::Freeze), Some(Fault::Drop)][world.random.usize(..4)];
    Plan {
        from: "a".into(),
        to: "b".into(),
        fault,
        real: fault.is_none(),
        synthetic: Synthetic::None,
        stay: Duration::from_secs(world.random.u64(1..60)),
        within: Duration::from_secs(120),
        return_within: Duration::from_secs(1_800),
        max_errors: 10,
        max_age: Duration::from_secs(600),
        strict: world.destination.ordering == everpost_client::config::Ordering::Strict,
        rto: None,
        rpo: None,
    }
}

struct Stage {
    machine: Drill,
    heard: usize,
    faulty: bool,
    shifted: bool,
}

impl Stage {
    /// What the shell does each tenth of a second. True: it is over.
    fn look(&mut self, world: &mut World, plan: &Plan) -> bool {
        let now = world.moment();
        for (_, event) in &world.events[self.heard..] {
            let heard = match event {
                Event::Attempt { endpoint, verdict, .. } => {
                    let good = matches!(verdict, Verdict::Delivered | Verdict::DeliveredWithWarning | Verdict::Unconfirmed);
                    Heard::Attempt { endpoint: endpoint.clone(), good, ambiguous: *verdict == Verdict::Ambiguous, synthetic: false }
                }
                Event::Delivered { envelope, .. } => Heard::Delivered { envelope: envelope.0 },
                _ => continue,
            };
            self.machine.heard(&heard, now);
        }
        self.heard = world.events.len();
        let sight = Sight {
            active: world.engine.active().0,
            to_good: world.engine.endpoints().iter().any(|e| e.name == "b" && matches!(e.health, "up" | "suspect" | "degraded")),
            shifted: world.engine.shift().is_some(),
            oldest: Duration::ZERO,
            replaying: false,
        };
        self.machine.look(&sight, now);
        let fault = self.machine.wants_fault();
        if fault.is_some() != self.faulty {
            self.faulty = fault.is_some();
            world.becomes(
                0,
                match fault {
                    None => Mode::Good,
                    Some(Fault::Refuse | Fault::Dns) => Mode::Refuse,
                    Some(Fault::Freeze) => Mode::Freeze,
                    Some(Fault::Drop) => Mode::Drop,
                },
            );
        }
        if self.machine.wants_shift() != self.shifted {
            self.shifted = !self.shifted;
            world.wished();
            if self.shifted {
                let (reason, by) = ("drill".into(), "drill".into());
                let until = now.wall + 3_600_000;
                let shift = Shift { to: plan.to.clone(), reason, by, since: now.wall, until, site: None, forced: false };
                if let Err(e) = world.engine.begin_shift(shift, now) {
                    self.machine.stop(&e.to_string(), now);
                }
            } else {
                drop(world.engine.end_shift("drill", now));
            }
        }
        while let Some(order) = self.machine.next_order() {
            if order == Order::Failback {
                world.wished();
                world.engine.failback(now);
            }
        }
        world.pump();
        self.machine.outcome().is_some()
    }
}

#[test]
fn drills_lose_and_reorder_nothing_whenever_the_process_crashes() {
    let (passed, crashed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    each(200, |seed| {
        let destination = scene(seed, |d, _| d.policy = Policy::Failover);
        if destination.endpoints.len() < 2 {
            return;
        }
        let mut world = World::new(seed, destination);
        world.commit_many(5);
        world.run_for(Duration::from_secs(30));
        let plan = plan(&mut world);
        let mut stage = Stage { machine: Drill::begin(plan.clone(), None, world.moment()), heard: world.events.len(), faulty: false, shifted: false };
        let crash_at = world.random.bool().then(|| world.random.usize(..900));
        let stop_at = (world.random.u8(..4) == 0).then(|| world.random.usize(..300));
        let mut over = false;
        for step in 0..30_000 {
            if crash_at == Some(step) {
                crashed.fetch_add(1, Ordering::Relaxed);
                world.crash();
                // What was simulated ended with the process.
                world.becomes(0, Mode::Good);
                break;
            }
            if stop_at == Some(step) {
                stage.machine.stop("a person", world.moment());
            }
            if world.random.u8(..10) == 0 {
                let count = world.random.usize(1..4);
                world.commit_many(count);
            }
            if stage.look(&mut world, &plan) {
                over = true;
                break;
            }
            world.run_for(Duration::from_millis(100));
        }
        assert!(over || crash_at.is_some(), "it never ended: {}", stage.machine.told());
        assert!(world.engine.shift().is_none(), "its shift is gone");
        let found = stage.machine.findings();
        if over && stage.machine.outcome() == Some(Outcome::Passed) {
            passed.fetch_add(1, Ordering::Relaxed);
            assert_eq!(world.active(), "a", "it came back");
            assert!(found.rto_actual().is_some());
        }
        assert!(found.out_of_order.is_none_or(|count| count == 0), "{:?}", found.issues);
        heal(&mut world);
        world.check();
    });
    let (passed, crashed) = (passed.into_inner(), crashed.into_inner());
    assert!(std::env::var("SEED").is_ok() || (passed > 20 && crashed > 20), "{passed} passed, {crashed} crashed");
}
