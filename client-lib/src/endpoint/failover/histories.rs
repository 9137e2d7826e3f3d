//! Random histories of one machine: whatever happens, its rules hold. Rules: no sleeping; a seed that fails is told (`SEED=n` runs it alone).

use super::tests::Bench;
use super::*;
use crate::config::Probe;
use crate::delivery::Phase;
use crate::endpoint::Blame;
use crate::endpoint::wishes::{Follow, Liking, Shift};

#[test]
fn random_histories() {
    let seeds = match std::env::var("SEED").ok().and_then(|s| s.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..500u64,
    };
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| history(seed));
        assert!(outcome.is_ok(), "SEED={seed}");
    }
}

fn history(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let names = &["a", "b", "c"][..random.usize(1..=3)];
    let wishes = random.bool();
    let probe = if random.bool() { Probe::Tcp } else { Probe::DicomEcho };
    let mut b = Bench::new(names, |d| {
        d.attempts_before_failover = random.u16(1..4);
        d.hold_down = Duration::from_secs(random.u64(0..60));
        d.hold_down_max = Duration::from_secs(120);
        d.failback_auto = random.u8(..5) > 0;
        d.failback_window = (random.u8(..4) == 0).then(|| Window::parse("22:00-05:00")).flatten();
        d.policy = if random.u8(..4) == 0 { Policy::RoundRobin } else { Policy::Failover };
        for (n, e) in d.endpoints.iter_mut().enumerate() {
            let e = Arc::make_mut(e);
            e.health.probe = probe.clone();
            e.site = Some(["north", "south", "south"][n].into());
        }
    });
    let start = b.now;
    let mut returns: Vec<Option<Instant>> = vec![None; names.len()];
    // When each endpoint was left, as seen from outside: what the machine keeps of it is what is tested.
    let mut left: Vec<Option<Instant>> = vec![None; names.len()];
    let mut out: Vec<(u64, Choice, Instant)> = Vec::new();
    for step in 0..600u64 {
        b.now += Duration::from_millis(random.u64(0..4000));
        b.machine.on_clock(wall(start, b.now), b.now);
        b.machine.on_timeout(b.now);
        check_told(&mut b.machine);
        let before = b.machine.clone();
        let mut left_by = None;
        match random.u8(0..if wishes { 12 } else { 10 }) {
            10 | 11 => {
                wish(&mut b, &mut random, start);
                check_wish(&before, &b.machine);
                left_by = Some(());
            }
            0..=3 if b.machine.admission(b.now) != Admission::Closed && out.len() < 8 => {
                if let Some(choice) = b.machine.choose(Wish::default(), b.now) {
                    check_choice(&before, choice, b.now);
                    let waited = left[choice.endpoint.index()].is_none_or(|left| b.now - left >= b.machine.hold_down);
                    assert!(choice.errand != Errand::Canary || wishes || waited, "a canary before the hold-down was over");
                    out.push((step, choice, b.now));
                }
            }
            4..=7 if !out.is_empty() => {
                let (envelope, choice, started) = out.swap_remove(random.usize(..out.len()));
                let blame = random_blame(&mut random);
                let next = b.end(envelope, choice, started, blame, 1);
                check_leaving(&before, &b.machine, (envelope, choice, started), blame, b.now);
                left_by = matches!(blame, Blame::Answered | Blame::Silent).then_some(());
                let silent = matches!(blame, Blame::Timeout | Blame::Lost | Blame::NotSent { .. });
                assert_eq!(next == Next::Verdict, !silent, "{blame:?} {next:?}");
            }
            8 => {
                let endpoint = EndpointId(random.u16(..names.len() as u16));
                let result = if random.bool() { Ok(()) } else { Err((Phase::Connect, "refused")) };
                b.machine.probed(endpoint, result, b.now);
            }
            _ => while b.machine.probe_due(b.now).is_some() {},
        }
        check_state(&before, &b.machine, left_by.is_some(), b.now);
        check_pace(&before, &b.machine, left_by.is_some(), &mut returns, b.now);
        check_waiting(&before, &b.machine, left_by.is_some(), &mut left, b.now);
        check_told(&mut b.machine);
        let number = b.machine.stall.as_ref().map(|s| s.number);
        let scouts = out.iter().filter(|(_, c, _)| matches!(c.errand, Errand::Scout { stall } if Some(stall) == number)).count();
        assert!(scouts <= 1, "one scout at a time");
    }
}

fn random_blame(random: &mut fastrand::Rng) -> Blame {
    let phase = [Phase::Resolve, Phase::Connect, Phase::Tls, Phase::Associate, Phase::Transmit][random.usize(..5)];
    match random.u8(..8) {
        0 => Blame::None,
        1 => Blame::Silent,
        2 => Blame::Refused,
        3 => Blame::NotSent { phase, stale: random.bool() },
        4 => Blame::Lost,
        5 => Blame::Timeout,
        _ => Blame::Answered,
    }
}

/// The history begins at 21:30, so that a window opens in it.
fn wall(start: Instant, now: Instant) -> u64 {
    (21 * 60 + 30) * 60_000 + (now - start).as_millis() as u64
}

fn wish(b: &mut Bench, random: &mut fastrand::Rng, start: Instant) {
    let name: Arc<str> = ["a", "b", "c"][random.usize(..3)].into();
    let since = wall(start, b.now);
    match random.u8(..8) {
        0..=2 => {
            let (until, forced) = (since + random.u64(1..600_000), random.bool());
            let shift = Shift { to: name, reason: "repair".into(), by: "an operator".into(), since, until, site: None, forced };
            let may = b.machine.may_shift(&shift.to, forced);
            assert_eq!(b.machine.begin_shift(shift, b.now), may, "a dry run says what would be");
        }
        3 => drop(b.machine.end_shift("unshift", b.now)),
        4 | 5 => {
            let admin = [Admin::Enabled, Admin::Enabled, Admin::Draining, Admin::Disabled][random.usize(..4)];
            b.machine.set_admin(&name, admin, "an operator", b.now);
        }
        6 => {
            let to = random.bool().then(|| "south".into());
            let follow = Follow { leaves: "north".into(), to, why: "pacs left site north".into() };
            b.machine.follow(random.bool().then_some(follow), b.now);
        }
        _ => drop(b.machine.failback_now(b.now)),
    }
}

/// Leaving is immediate: what failed as often as it may is not active any more, whatever anybody wishes.
fn check_leaving(before: &Failover, after: &Failover, (envelope, choice, started): (u64, Choice, Instant), blame: Blame, now: Instant) {
    let mut place = before.places[choice.endpoint.index()].clone();
    let old_news = place.left_at.is_some_and(|left| started < left);
    if choice.errand != Errand::Traffic || old_news || !before.active.contains(&choice.endpoint) {
        return;
    }
    let (message_at_fault, attempts) = (place.health.answered_since(started, now), before.attempts);
    let leaves = match blame {
        Blame::Timeout => !message_at_fault,
        Blame::NotSent { stale: true, .. } if !choice.fresh => false,
        Blame::NotSent { .. } => {
            place.count_failure(started, false, now);
            place.failures >= attempts
        }
        Blame::Lost => {
            place.count_failure(started, true, now);
            place.lost >= LOST_IN_A_ROW
        }
        Blame::Refused => {
            place.refused.push(EnvelopeId(envelope));
            place.refused.len() >= REFUSALS_IN_A_ROW
        }
        Blame::Answered | Blame::Silent | Blame::None => false,
    };
    assert!(!leaves || !after.active.contains(&choice.endpoint), "{blame:?}: still active");
}

/// A wish changes what is liked or allowed, never what was observed.
fn check_wish(before: &Failover, after: &Failover) {
    for (old, new) in before.places.iter().zip(&after.places) {
        assert_eq!(old.health.state(), new.health.state(), "a wish is no observation");
        assert!(old.out.is_some() || new.out.is_none(), "a wish puts nothing out of service");
    }
}

/// Between two returns of an endpoint by itself there is at least a hold-down.
fn check_pace(before: &Failover, after: &Failover, by_others: bool, returns: &mut [Option<Instant>], now: Instant) {
    for (index, (old, new)) in before.places.iter().zip(&after.places).enumerate() {
        let alone = before.active.is_empty() || after.active.len() == 1;
        let leads = after.active.contains(&EndpointId(index as u16)) && !before.active.contains(&EndpointId(index as u16));
        if by_others || alone && !before.active.iter().any(|e| after.serves(*e)) || !(old.out.is_some() && new.out.is_none() && leads) {
            continue;
        }
        assert!(returns[index].is_none_or(|last| now - last >= after.hold_down), "{} came back twice within its hold-down", new.config.name);
        returns[index] = Some(now);
    }
}

/// A voluntary return is never earlier than the hold-down after the endpoint was left, unless an answer or a wish brought it back.
fn check_waiting(before: &Failover, after: &Failover, by_others: bool, left: &mut [Option<Instant>], now: Instant) {
    for (index, (old, new)) in before.places.iter().zip(&after.places).enumerate() {
        if old.out.is_none() && new.out.is_some() {
            left[index] = Some(now);
        }
        let returned = old.out.is_some() && new.out.is_none();
        let still_good = before.active.iter().any(|e| after.serves(*e));
        let would_lead = before.active.first().is_some_and(|active| index < active.index());
        if returned && still_good && would_lead && !by_others {
            let away = left[index].map(|left| now - left);
            assert!(away.is_none_or(|away| away >= after.hold_down), "{} came back after {away:?}", new.config.name);
        }
    }
}

/// Every decision has a reason that a person understands.
fn check_told(machine: &mut Failover) {
    assert!(!machine.reason().is_empty());
    while let Some(change) = machine.next_change() {
        match change {
            Change::Active { reason, .. } | Change::Shift { reason, .. } | Change::Admin { reason, .. } => {
                assert!(reason.len() > 3 && !reason.ends_with([' ', ';', ':']), "{reason:?}");
            }
            Change::Health(endpoint) => assert!(machine.health(endpoint).is_some_and(|h| !h.reason().is_empty())),
            Change::Pace(_) | Change::Left(_) | Change::Returning(_) | Change::Release => {}
        }
    }
}

fn check_choice(machine: &Failover, choice: Choice, now: Instant) {
    let place = &machine.places[choice.endpoint.index()];
    assert_eq!(place.admin, Admin::Enabled, "a drained endpoint gets nothing");
    match choice.errand {
        Errand::Traffic => assert!(machine.active.contains(&choice.endpoint) && place.trusted() && place.out.is_none()),
        Errand::Elsewhere | Errand::CatchUp => assert!(place.trusted()),
        Errand::Canary => {
            let due = place.health.wants_canary() && place.rested(now) || place.demanded || place.canary_due;
            assert!(place.out.is_some() && due && !place.canary_out && place.admin == Admin::Enabled);
        }
        Errand::Scout { .. } => assert!(machine.active.is_empty() && machine.resume_at().is_some_and(|at| at <= now)),
    }
}

fn check_state(before: &Failover, after: &Failover, answered: bool, now: Instant) {
    assert_eq!(after.active.is_empty(), after.stall.is_some());
    let first = after.liked().find(|e| after.serves(*e));
    assert_eq!(after.active.first().copied(), first, "the best liked in service is active");
    assert!(after.active.iter().all(|e| after.places[e.index()].trusted()), "an endpoint that is not eligible is active");
    let gets_it =
        after.shift().is_none_or(|(shift, suspended)| suspended != after.active.iter().any(|e| *after.places[e.index()].config.name == *shift.to));
    assert!(gets_it, "a shift is suspended if, and only if, its endpoint gets nothing");
    if let (Some(first), Some((_, false))) = (first, after.shift()) {
        assert_eq!(after.wishes.liking(&after.places[first.index()].config), Liking::Shifted);
    }
    if let Some(stall) = &after.stall {
        assert!(after.order().all(|e| !after.places[e.index()].trusted()), "no trusted endpoint is left unused");
        assert!(stall.scout_out || after.resume_at().is_some() || after.usable().is_empty(), "a stall always has a next try");
    }
    for (old, new) in before.places.iter().zip(&after.places) {
        let returned = old.out.is_some() && new.out.is_none();
        let would_lead = |active: &EndpointId| new.config.name < before.places[active.index()].config.name;
        let voluntary = returned && before.active.first().is_some_and(would_lead);
        let still_good = before.active.first().is_some_and(|e| after.serves(*e));
        if voluntary && still_good && !answered {
            assert!(new.rested(now), "a voluntary return before its hold-down was over");
            assert!(after.auto && after.window_opens_in(now).is_zero(), "a voluntary return that was not allowed now");
        }
    }
}
