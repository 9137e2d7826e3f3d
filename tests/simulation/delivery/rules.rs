//! The rules of delivery and failover one by one, each with the peers that show it.

use super::peer::Mode;
use super::world::{World, destination};
use everpost_client::config::{Ambiguous, CallingAe, Destination, LaneRule, OnAe, Ordering};
use everpost_client::delivery::{AckCode, Verdict};
use everpost_client::ids::EnvelopeId;
use everpost_client::keys::Protocol;
use everpost_client::spool::{Lane, State};
use std::time::Duration;

const A: usize = 0;
const B: usize = 1;

fn hl7(names: &[&str], change: impl FnOnce(&mut Destination)) -> World {
    let mut d = destination(Protocol::Mllp, names);
    change(&mut d);
    World::new(1, d)
}

fn dicom(names: &[&str], change: impl FnOnce(&mut Destination)) -> World {
    let mut d = destination(Protocol::Dicom, names);
    change(&mut d);
    World::new(1, d)
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn minutes(n: u64) -> Duration {
    seconds(60 * n)
}

/// From the peer's change to the first message that another peer kept.
fn time_to_first_delivery_on(world: &World, peer: usize, since: Duration) -> Duration {
    world.lines.iter().find(|l| l.endpoint == peer && l.kept).map(|l| l.ended - since).expect("a delivery there")
}

#[test]
fn leaving_is_immediate() {
    // Refused: two tries. Dropped: two connect deadlines. Frozen: one answer deadline. Closed after the block: once more, then gone.
    for (mode, within) in [
        (Mode::Refuse, Duration::from_millis(10)),
        (Mode::Drop, seconds(10) + Duration::from_millis(10)),
        (Mode::Freeze, seconds(30) + Duration::from_millis(10)),
        (Mode::LoseAndClose, Duration::from_millis(20)),
        (Mode::WrongAnswer, Duration::from_millis(20)),
    ] {
        let mut world = hl7(&["a", "b"], |_| ());
        world.commit_many(3);
        world.run_for(seconds(1));
        assert_eq!(world.active(), "a");
        world.becomes(A, mode);
        let since = world.now;
        world.commit_many(3);
        world.run_for(minutes(2));
        assert_eq!(world.active(), "b", "{mode:?}");
        let took = time_to_first_delivery_on(&world, B, since);
        assert!(took <= within, "{mode:?}: {took:?}");
        world.check();
    }
}

#[test]
fn outcomes_of_each_way_to_fail() {
    for (mode, tries_on_a) in
        [(Mode::Refuse, 2), (Mode::Drop, 2), (Mode::Freeze, 1), (Mode::Late, 1), (Mode::LoseAndClose, 2), (Mode::WrongAnswer, 2)]
    {
        let mut world = hl7(&["a", "b"], |_| ());
        world.becomes(A, mode);
        let id = world.commit_many(1)[0];
        world.run_for(minutes(1));
        let expected = format!("{}b", "a".repeat(tries_on_a));
        assert_eq!(world.endpoints_of(id), expected, "{mode:?}");
        world.check();
    }
}

#[test]
fn a_stale_connection_costs_a_try_and_nothing_else() {
    let mut world = hl7(&["a", "b"], |_| ());
    world.commit_many(1);
    world.run_for(seconds(1));
    world.becomes(A, Mode::Refuse);
    world.becomes(A, Mode::Good);
    let ids = world.commit_many(50);
    world.run_for(seconds(2));
    assert_eq!(world.active(), "a");
    assert_eq!(world.moves.len(), 0);
    assert!(ids.iter().all(|id| world.store.state(*id) == State::Delivered));
}

#[test]
fn it_comes_back_after_the_hold_down_and_not_to_a_frozen_peer() {
    let mut world = hl7(&["a", "b"], |_| ());
    world.becomes(A, Mode::Refuse);
    world.commit_many(1);
    world.run_for(minutes(5));
    assert_eq!(world.active(), "b");
    world.becomes(A, Mode::Good);
    let since = world.now;
    while world.active() == "b" && world.now < since + minutes(5) {
        world.run_for(seconds(1));
    }
    let away = world.now - since;
    assert!((seconds(30)..seconds(45)).contains(&away), "hold-down after the first good probe: {away:?}");

    // Frozen: TCP probes are good for ever, and every canary fails: returns become rarer and rarer.
    world.becomes(A, Mode::Freeze);
    let from = world.lines.len();
    for _ in 0..180 {
        world.commit_many(1);
        world.run_for(seconds(20));
    }
    assert_eq!(world.active(), "b");
    let canaries: Vec<Duration> = world.lines[from..].iter().filter(|l| l.endpoint == A).map(|l| l.began).collect();
    assert!((4..9).contains(&canaries.len()), "one to leave, then canaries: {canaries:?}");
    let gaps: Vec<Duration> = canaries.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(gaps[1..].windows(2).all(|w| w[1] > w[0].mul_f64(1.3)), "the hold-down doubles: {gaps:?}");
    world.becomes(A, Mode::Good);
    world.commit_many(1);
    world.run_for(minutes(40));
    world.commit_many(1);
    world.run_for(seconds(1));
    assert_eq!(world.active(), "a", "the canary was answered");
    world.run_until_done(minutes(10));
    world.check();
}

#[test]
fn a_frozen_pacs_is_returned_to_when_it_echoes_again() {
    let mut world = dicom(&["a", "b"], |_| ());
    world.becomes(A, Mode::Freeze);
    world.commit_many(8);
    world.run_for(minutes(10));
    assert_eq!(world.active(), "b");
    let tried = world.lines.iter().filter(|l| l.endpoint == A).count();
    assert_eq!(tried, 4, "no canary: the echo says that it is not back");
    world.becomes(A, Mode::Good);
    world.run_for(minutes(1));
    assert_eq!(world.active(), "a");
    world.run_until_done(minutes(10));
    world.check();
}

#[test]
fn a_negative_answer_moves_only_the_envelope_and_three_in_a_row_the_destination() {
    let mut world = dicom(&["a", "b"], |_| ());
    world.peers[A].poison = Some((EnvelopeId(2), Mode::Status(0xA700)));
    let ids = world.commit_many(20);
    world.run_for(seconds(10));
    assert_eq!(world.endpoints_of(ids[1]), "ab");
    assert!(ids.iter().all(|id| world.endpoints_of(*id).starts_with('a')), "all others stay on a");
    assert_eq!(world.active(), "a");
    world.becomes(A, Mode::Status(0xA700));
    world.commit_many(20);
    world.run_for(seconds(10));
    assert_eq!(world.active(), "b");
    let refused = world.lines.iter().filter(|l| l.endpoint == A && !l.kept).count();
    assert!(refused <= 1 + 3 + 4, "three, and what was under way beside them: {refused}");
    assert_eq!(world.waiting(), 0, "b took them all");
    world.check();
}

#[test]
fn each_other_endpoint_is_asked_once_and_then_it_waits() {
    let mut world = dicom(&["a", "b", "c"], |d| d.associations = std::num::NonZeroU16::MIN);
    for peer in 0..3 {
        world.peers[peer].poison = Some((EnvelopeId(1), Mode::Status(0xA700)));
    }
    let id = world.commit(Lane::Own);
    world.run_for(Duration::from_millis(20));
    assert_eq!(world.endpoints_of(id), "abc");
    assert_eq!(world.store.state(id), State::Deferred);
    world.run_for(minutes(30));
    assert_eq!(world.endpoints_of(id).len() % 3, 0, "round by round");
    assert!((30..300).contains(&world.endpoints_of(id).len()), "with backoff: {}", world.endpoints_of(id).len());
    world.peers[2].poison = None;
    world.run_until_done(minutes(3));
    assert_eq!(world.store.state(id), State::Delivered);
    world.check();
}

#[test]
fn a_strict_lane_gets_past_an_endpoint_that_refuses_everything() {
    for (code, error) in [(AckCode::AR, 0), (AckCode::CE, 0), (AckCode::AE, 207)] {
        let mut world = hl7(&["a", "b"], |_| ());
        world.becomes(A, Mode::Nak(code, error));
        let ids = world.commit_many(10);
        world.run_for(minutes(1));
        let seen: Vec<String> = ids.iter().map(|id| world.endpoints_of(*id)).collect();
        assert_eq!(seen[..4], ["aaab", "aaab", "ab", "b"], "{code:?}: with backoff on a, then b; the third envelope makes it leave");
        assert!(seen[4..].iter().all(|s| s == "b"), "{seen:?}");
        assert_eq!((world.active(), world.waiting()), ("b".to_owned(), 0));
        world.check();
    }
}

#[test]
fn a_message_refused_for_now_moves_alone_and_in_rounds() {
    // Twice is a moment's trouble.
    let mut world = hl7(&["a", "b"], |d| d.retry_first = seconds(10));
    world.peers[A].poison = Some((EnvelopeId(1), Mode::Nak(AckCode::AR, 0)));
    let ids = world.commit_many(3);
    while world.endpoints_of(ids[0]).len() < 2 {
        world.run_for(Duration::from_millis(1));
    }
    world.peers[A].poison = None;
    world.run_until_done(minutes(2));
    assert!(ids.iter().all(|id| world.endpoints_of(*id).ends_with('a')), "{}", world.endpoints_of(ids[0]));
    // Again and again: the others are asked, and the destination stays.
    let mut world = hl7(&["a", "b", "c"], |_| ());
    world.peers[A].poison = Some((EnvelopeId(1), Mode::Nak(AckCode::AR, 0)));
    world.peers[B].poison = Some((EnvelopeId(1), Mode::Nak(AckCode::AE, 206)));
    let ids = world.commit_many(3);
    world.run_for(minutes(1));
    assert_eq!((world.endpoints_of(ids[0]), world.endpoints_of(ids[1])), ("aaabc".to_owned(), "a".to_owned()));
    assert_eq!(world.active(), "a");
    world.check();
    // Refused by all: each once in a round, and never given up.
    world.peers[A].poison = Some((EnvelopeId(4), Mode::Nak(AckCode::AR, 0)));
    world.peers[B].poison = Some((EnvelopeId(4), Mode::Nak(AckCode::AR, 0)));
    world.peers[2].poison = Some((EnvelopeId(4), Mode::Nak(AckCode::AR, 0)));
    let id = world.commit_many(1)[0];
    world.run_for(minutes(30));
    let seen = world.endpoints_of(id);
    assert!(seen.starts_with("aaabcaaabc") && seen.len() < 200, "{seen}");
    world.peers.iter_mut().for_each(|peer| peer.poison = None);
    world.run_until_done(minutes(5));
    world.check();
}

#[test]
fn nothing_is_ever_given_up_for_count_or_age() {
    for (mode, dicom_) in
        [(Mode::Nak(AckCode::AR, 0), false), (Mode::Nak(AckCode::CE, 0), false), (Mode::Nak(AckCode::AE, 207), false), (Mode::Status(0xA700), true)]
    {
        let mut world = if dicom_ { dicom(&["a"], |_| ()) } else { hl7(&["a"], |_| ()) };
        world.becomes(A, mode);
        let ids = world.commit_many(30);
        world.run_for(minutes(60 * 48));
        assert!(world.lines.len() < 60_000, "{mode:?}: {} tries", world.lines.len());
        assert!(ids.iter().all(|id| matches!(world.store.state(*id), State::Ready | State::Deferred)), "{mode:?}");
        assert_eq!(world.alarms("has been refused for 3600 s", true), 1, "{mode:?}: one alarm, not one per try");
        world.becomes(A, Mode::Good);
        world.run_until_done(minutes(10));
        assert_eq!(world.alarms("has been refused for 3600 s", false), 1, "{mode:?}: and its end");
        world.check();
    }
}

#[test]
fn the_verdict_table_in_action() {
    for (mode, state) in [
        (Mode::Nak(AckCode::CR, 0), State::DeadLetter),
        (Mode::Nak(AckCode::AE, 200), State::DeadLetter),
        (Mode::Nak(AckCode::AR, 203), State::DeadLetter),
        (Mode::Nak(AckCode::AE, 0), State::DeadLetter),
        (Mode::Nak(AckCode::AR, 0), State::Deferred),
        (Mode::Nak(AckCode::AE, 206), State::Deferred),
    ] {
        let mut world = hl7(&["a", "b"], |_| ());
        world.becomes(A, mode);
        world.becomes(B, mode);
        let id = world.commit_many(1)[0];
        world.run_for(minutes(5));
        let seen = world.store.state(id);
        assert!(seen == state || (state == State::Deferred && seen == State::Ready), "{mode:?}: {}", seen.name());
    }
    for (mode, state) in
        [(Mode::Status(0xC000), State::DeadLetter), (Mode::Status(0xA900), State::DeadLetter), (Mode::Ours { permanent: true }, State::DeadLetter)]
    {
        let mut world = dicom(&["a", "b"], |_| ());
        world.becomes(A, mode);
        let ids = world.commit_many(10);
        world.run_for(seconds(10));
        assert!(ids.iter().all(|id| world.store.state(*id) == state), "{mode:?}");
        assert_eq!(world.active(), "a", "content at fault says nothing against the endpoint");
    }
}

#[test]
fn on_ae_hold_stops_the_lane_and_continue_does_not() {
    for (rule, second) in [(LaneRule::Stop, State::Ready), (LaneRule::Continue, State::Delivered)] {
        let mut world = hl7(&["a"], |d| {
            d.on_ae = OnAe::Hold;
            d.after_hold = rule;
        });
        world.peers[A].poison = Some((EnvelopeId(1), Mode::Nak(AckCode::AE, 0)));
        let ids = world.commit_many(2);
        world.run_for(seconds(5));
        assert_eq!((world.store.state(ids[0]), world.store.state(ids[1])), (State::Held, second), "{rule:?}");
    }
}

#[test]
fn an_unknown_key_at_the_second_endpoint_waits_for_the_first() {
    let mut world = hl7(&["a", "b"], |_| ());
    world.becomes(A, Mode::Refuse);
    world.peers[B].poison = Some((EnvelopeId(2), Mode::Nak(AckCode::AE, 204)));
    let ids = world.commit_many(3);
    world.run_for(minutes(30));
    assert_eq!(world.store.state(ids[0]), State::Delivered);
    assert_eq!(world.story(ids[1]).iter().filter(|(name, _)| *name == "b").count(), 1, "b is not asked again");
    assert!(matches!(world.store.state(ids[1]), State::Deferred | State::Ready));
    world.becomes(A, Mode::Good);
    world.run_until_done(minutes(5));
    assert!(world.endpoints_of(ids[1]).ends_with('a'), "{}", world.endpoints_of(ids[1]));
    world.check();
    // Refused by all: judged for good.
    let mut world = hl7(&["a", "b"], |_| ());
    world.becomes(A, Mode::Refuse);
    world.becomes(B, Mode::Nak(AckCode::AE, 204));
    let id = world.commit_many(1)[0];
    world.run_for(minutes(5));
    world.becomes(A, Mode::Nak(AckCode::AE, 204));
    world.run_for(minutes(5));
    assert_eq!(world.store.state(id), State::DeadLetter);
}

#[test]
fn no_context_is_a_dead_letter_only_when_every_endpoint_refused() {
    let mut world = dicom(&["a", "b"], |_| ());
    world.becomes(A, Mode::NoContext);
    let ids = world.commit_many(10);
    world.run_for(seconds(10));
    assert!(ids.iter().all(|id| world.endpoints_of(*id) == "ab" && world.store.state(*id) == State::Delivered));
    assert_eq!(world.active(), "a", "what it does not support says nothing against it");
    world.becomes(B, Mode::Refuse);
    let late = world.commit_many(5);
    world.run_for(minutes(10));
    assert!(late.iter().all(|id| matches!(world.store.state(*id), State::Deferred | State::Ready)), "b was not asked yet");
    world.becomes(B, Mode::NoContext);
    world.run_for(minutes(5));
    assert!(late.iter().all(|id| world.store.state(*id) == State::DeadLetter));
}

#[test]
fn duplicates_reported_by_a_pacs_end_custody_and_alarm_only_when_unexpected() {
    let mut world = dicom(&["a"], |_| ());
    world.peers[A].poison = Some((EnvelopeId(1), Mode::KeepAndClose));
    let id = world.commit(Lane::Own);
    world.run_for(Duration::from_micros(1900));
    world.peers[A].poison = Some((EnvelopeId(1), Mode::Status(0x0111)));
    world.run_for(minutes(2));
    assert_eq!(world.verdicts(id).last(), Some(&Verdict::Delivered), "{:?}", world.verdicts(id));
    assert_eq!(world.alarms("already has an instance", true), 0);
    world.peers[A].poison = Some((EnvelopeId(2), Mode::Status(0x0111)));
    let id = world.commit(Lane::Own);
    world.run_for(seconds(1));
    assert_eq!(world.verdicts(id), [Verdict::DeliveredWithWarning]);
    assert_eq!(world.alarms("already has an instance", true), 1);
}

#[test]
fn an_echo_ends_the_alarm_of_rejected_associations_unless_callers_pass_their_own_title() {
    for (calling_ae, ended) in [(CallingAe::Fixed("EVERPOST".to_owned()), 1), (CallingAe::Pass, 0)] {
        let mut world = dicom(&["a", "b"], |d| d.calling_ae = calling_ae);
        world.becomes(A, Mode::Reject { permanent: true });
        world.commit_many(1);
        world.run_for(minutes(3));
        assert_eq!((world.alarms("rejects our association", true), world.alarms("rejects our association", false)), (1, 0));
        world.becomes(A, Mode::Good);
        world.run_for(minutes(3));
        assert_eq!(world.alarms("rejects our association", false), ended, "no message came since, only echoes");
    }
}

#[test]
fn a_permanent_rejection_alarms_once_and_is_cleared_by_success() {
    let mut world = dicom(&["a", "b"], |_| ());
    world.becomes(A, Mode::Reject { permanent: true });
    world.commit_many(50);
    world.run_for(minutes(3));
    assert_eq!(world.active(), "b");
    assert_eq!((world.alarms("rejects our association", true), world.alarms("rejects our association", false)), (1, 0));
    world.becomes(A, Mode::Good);
    for _ in 0..10 {
        world.commit_many(1);
        world.run_for(seconds(30));
    }
    assert_eq!(world.active(), "a");
    assert_eq!((world.alarms("rejects our association", true), world.alarms("rejects our association", false)), (1, 1));
    world.check();
}

#[test]
fn hold_keeps_what_may_have_arrived_until_an_operator_decides() {
    let mut world = hl7(&["a", "b"], |d| d.ambiguous = Ambiguous::Hold);
    world.becomes(A, Mode::KeepAndClose);
    let ids = world.commit_many(3);
    world.run_for(minutes(5));
    assert_eq!(world.endpoints_of(ids[0]), "a");
    assert_eq!((world.store.state(ids[0]), world.store.state(ids[1])), (State::Held, State::Ready), "its lane waits");
    world.check_held_means_held();
    world.becomes(A, Mode::Good);
    world.release_all();
    world.run_until_done(minutes(5));
    assert_eq!(world.waiting(), 0);
}

#[test]
fn hold_survives_a_crash_in_mid_attempt() {
    let mut world = hl7(&["a"], |d| d.ambiguous = Ambiguous::Hold);
    world.peers[A].latency = seconds(5);
    let ids = world.commit_many(2);
    world.run_for(seconds(1));
    assert_eq!(world.store.state(ids[0]), State::InFlight);
    world.crash();
    world.run_for(minutes(5));
    assert_eq!((world.store.state(ids[0]), world.store.state(ids[1])), (State::Held, State::Ready));
    assert_eq!(world.release_all(), 1);
    world.run_until_done(minutes(5));
    assert!(ids.iter().all(|id| world.store.state(*id) == State::Delivered), "once released it goes");
}

#[test]
fn a_restart_does_not_begin_the_time_of_a_refusal_anew() {
    let mut world = hl7(&["a"], |_| ());
    world.becomes(A, Mode::Nak(AckCode::AR, 0));
    world.commit_many(1);
    for _ in 0..3 {
        world.run_for(minutes(20));
        assert_eq!(world.alarms("has been refused for 3600 s", true), 0);
        world.crash();
    }
    world.run_for(minutes(5));
    assert_eq!(world.alarms("has been refused for 3600 s", true), 1, "65 minutes after the first refusal, whoever counted them");
    // What is refused for the first time after a restart has its hour, however long it waited before.
    let mut world = hl7(&["a"], |_| ());
    world.engine.pause(true);
    world.commit_many(1);
    world.run_for(minutes(90));
    world.becomes(A, Mode::Nak(AckCode::AR, 0));
    world.crash();
    world.run_for(minutes(50));
    assert_eq!(world.alarms("has been refused for 3600 s", true), 0);
    world.run_for(minutes(15));
    assert_eq!(world.alarms("has been refused for 3600 s", true), 1);
}

#[test]
fn a_message_that_every_endpoint_cuts_off_does_not_take_them_all_down() {
    let mut world = dicom(&["a", "b"], |_| ());
    for peer in [A, B] {
        world.peers[peer].poison = Some((EnvelopeId(2), Mode::Cut));
    }
    let mut all = world.commit_many(120);
    world.run_for(minutes(2));
    let before = world.moves.len();
    for _ in 0..600 {
        all.extend(world.commit_many(1));
        world.run_for(seconds(1));
    }
    let stuck: Vec<_> = all.iter().filter(|id| world.store.state(**id) != State::Delivered).collect();
    assert_eq!(stuck, [&EnvelopeId(2)]);
    assert_eq!(world.active(), "a");
    assert_eq!(world.moves.len(), before, "the endpoints are good, and the destination knows it");
}

#[test]
fn one_poison_message_delays_nobody_but_its_lane() {
    for mode in [Mode::KeepAndClose, Mode::LoseAndClose, Mode::Nak(AckCode::AR, 0), Mode::Ours { permanent: false }] {
        let mut world = hl7(&["a", "b"], |d| d.ordering = Ordering::None);
        for peer in [A, B] {
            world.peers[peer].poison = Some((EnvelopeId(5), mode));
        }
        let mut all = Vec::new();
        for _ in 0..300 {
            all.extend(world.commit_many(2));
            world.run_for(Duration::from_millis(20));
        }
        world.run_for(seconds(1));
        let stuck: Vec<_> = all.iter().filter(|id| world.store.state(**id) != State::Delivered).collect();
        assert_eq!(stuck, [&EnvelopeId(5)], "{mode:?}");
        assert_eq!(world.active(), "a", "{mode:?}: while others pass, the endpoint is good");
        let tries = world.endpoints_of(EnvelopeId(5)).len();
        assert!(tries < 40, "{mode:?}: with backoff, {tries} in 7 s");
    }
}

#[test]
fn no_eligible_endpoint_loses_nothing_and_tells_once() {
    let mut world = dicom(&["a", "b"], |_| ());
    world.becomes(A, Mode::Refuse);
    world.becomes(B, Mode::Drop);
    world.commit_many(500);
    world.run_for(minutes(120));
    assert_eq!(world.active(), "");
    assert_eq!(world.waiting(), 500);
    assert_eq!((world.alarms("no endpoint is eligible", true), world.alarms("no endpoint is eligible", false)), (1, 0));
    let tries = world.lines.len();
    assert!(tries < 1500, "two hours of trying: {tries}");
    assert!(world.engine.waiting() <= 10, "the backlog is not deferred one by one: {}", world.engine.waiting());
    world.becomes(B, Mode::Good);
    let since = world.now;
    world.run_until_done(minutes(10));
    assert!(world.now - since < seconds(40), "a good probe ends the wait: {:?}", world.now - since);
    assert_eq!(world.alarms("no endpoint is eligible", false), 1);
    world.run_for(minutes(5));
    world.check();
}

#[test]
fn a_destination_that_refuses_everything_rests_as_a_whole() {
    let mut world = dicom(&["a"], |_| ());
    world.becomes(A, Mode::Status(0xA700));
    world.commit_many(2000);
    world.run_for(minutes(60));
    assert!(world.lines.len() < 2000, "tries in an hour: {}", world.lines.len());
    assert!(world.engine.waiting() < 100, "{}", world.engine.waiting());
    world.becomes(A, Mode::Good);
    world.run_until_done(minutes(5));
    assert_eq!(world.waiting(), 0);
    world.check();
}

#[test]
fn faults_of_ours_do_not_defer_the_backlog_one_by_one_nor_blame_the_endpoint() {
    let mut world = dicom(&["a", "b"], |_| ());
    for peer in [A, B] {
        world.becomes(peer, Mode::Ours { permanent: false });
    }
    world.commit_many(2000);
    world.run_for(minutes(30));
    assert_eq!(world.active(), "a");
    assert!(world.lines.len() < 2000, "tries in half an hour: {}", world.lines.len());
    for peer in [A, B] {
        world.becomes(peer, Mode::Good);
    }
    world.run_until_done(minutes(10));
    assert_eq!(world.waiting(), 0);
    world.check();
}

#[test]
fn a_paused_destination_takes_nothing_and_goes_on_when_resumed() {
    let mut world = hl7(&["a"], |_| ());
    world.engine.pause(true);
    world.commit_many(10);
    world.run_for(minutes(10));
    assert_eq!((world.waiting(), world.lines.len()), (10, 0));
    world.engine.pause(false);
    world.run_until_done(minutes(1));
    assert_eq!(world.waiting(), 0);
    world.check();
}

#[test]
fn new_settings_take_effect_while_messages_are_under_way() {
    let mut world = hl7(&["a", "b"], |_| ());
    world.peers[A].latency = seconds(2);
    world.commit_many(3);
    world.run_for(seconds(1));
    let mut new = destination(Protocol::Mllp, &["b"]);
    new.associations = std::num::NonZeroU16::MIN;
    world.reconfigure(new, &[B]);
    world.run_until_done(minutes(5));
    assert_eq!(world.active(), "b");
    assert_eq!(world.waiting(), 0);
}

#[test]
fn stopping_lets_what_is_under_way_end_and_takes_nothing_more() {
    let mut world = hl7(&["a"], |_| ());
    world.peers[A].latency = seconds(2);
    let ids = world.commit_many(3);
    world.run_for(seconds(1));
    world.engine.stop();
    assert!(!world.engine.is_idle());
    world.run_for(minutes(5));
    assert!(world.engine.is_idle());
    let states: Vec<State> = ids.iter().map(|id| world.store.state(*id)).collect();
    assert_eq!(states, [State::Delivered, State::Ready, State::Ready]);
}

#[test]
fn a_crowd_of_refused_ones_is_bounded_and_told() {
    let mut world = hl7(&["a"], |d| {
        d.ordering = Ordering::None;
        d.on_ae = OnAe::Retry;
    });
    // Every second message is refused for ever, the others pass: each refused one has a time of its own.
    world.peers[A].refuse_odd = true;
    let ids = world.commit_many(400);
    world.run_for(minutes(10));
    let odd = ids.iter().filter(|id| id.0 % 2 == 1);
    assert!(ids.iter().filter(|id| id.0 % 2 == 0).all(|id| world.store.state(*id) == State::Delivered), "the good ones pass");
    assert!(odd.clone().all(|id| world.store.state(*id) != State::Delivered));
    assert_eq!(world.active(), "a");
    world.peers[A].refuse_odd = false;
    world.run_until_done(minutes(10));
    assert_eq!(world.waiting(), 0);
    world.check();
}

#[test]
fn new_settings_and_a_canary_end_the_waits_that_have_lost_their_reason() {
    // A reload: the head of the lane, resting for up to an hour, is tried at once.
    let long = |d: &mut Destination| {
        d.retry_first = minutes(60);
        d.retry_max = minutes(60);
    };
    let mut world = hl7(&["a"], long);
    world.becomes(A, Mode::Nak(AckCode::AR, 0));
    let id = world.commit_many(1)[0];
    world.run_for(seconds(1));
    world.becomes(A, Mode::Good);
    let mut same = destination(Protocol::Mllp, &["a"]);
    long(&mut same);
    world.reconfigure(same, &[A]);
    world.run_for(seconds(1));
    assert_eq!(world.store.state(id), State::Delivered);
    // The only envelope that could go as canary rests because the active endpoint will not have it.
    let mut world = hl7(&["a", "b"], long);
    world.becomes(A, Mode::Freeze);
    world.peers[B].poison = Some((EnvelopeId(1), Mode::Nak(AckCode::AE, 204)));
    let id = world.commit_many(1)[0];
    world.run_for(seconds(31));
    assert_eq!(world.endpoints_of(id), "ab");
    world.becomes(A, Mode::Good);
    world.run_for(minutes(1));
    assert_eq!((world.endpoints_of(id).as_str(), world.active().as_str()), ("aba", "a"));
    world.check();
}

#[test]
fn a_primary_that_flaps_is_left_once_per_hold_down_at_most() {
    let mut world = hl7(&["a", "b"], |_| ());
    for n in 0..200 {
        world.becomes(A, if n % 2 == 0 { Mode::Refuse } else { Mode::Good });
        world.commit_many(5);
        world.run_for(seconds(3));
    }
    world.becomes(A, Mode::Good);
    world.run_until_done(minutes(10));
    world.check();
    let left = world.moves.iter().filter(|m| m.from.as_deref() == Some("a") && m.to.is_some()).count();
    assert!(left <= 600 / 30 + 1, "left {left} times in 10 min with a hold-down of 30 s");
    assert!(world.alarms("eligible", true) == 0 && world.events.len() < 200 * 5 * 4, "steady delivery, no storm: {} events", world.events.len());
}
