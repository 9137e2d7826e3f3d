//! The spool on a real directory: the plain ways through it.

use bytes::Bytes;
use everpost_client::config::{LaneRule, SpoolSettings};
use everpost_client::delivery::{Phase, Verdict};
use everpost_client::event::{Delivered, Events};
use everpost_client::ids::{DestinationId, EnvelopeId};
use everpost_client::io::disk::Directory;
use everpost_client::keys::{Key, Keys};
use everpost_client::limits;
use everpost_client::spool::{
    Addressee, AttemptRecord, Begun, Content, Decided, Decision, Discarded, Draft, Filter, Lane, Recovered, Settlement, Spool, SpoolError, State,
    Story,
};
use std::path::Path;
use std::sync::Arc;

fn settings() -> SpoolSettings {
    SpoolSettings { reserve: 0, segment_size: 1 << 20, ..SpoolSettings::default() }
}

fn open(dir: &Path) -> (Spool, Recovered) {
    Spool::open(Directory::open(dir).unwrap(), settings(), Events::none()).unwrap()
}

pub fn draft(text: &[u8], to: &[(DestinationId, Lane)]) -> Draft {
    let mut keys = Keys::new();
    keys.set(Key::ControlId, text.get(..8.min(text.len())).unwrap_or_default());
    let addressees = to.iter().map(|(destination, lane)| Addressee { destination: *destination, lane: *lane, stat: false }).collect();
    Draft { keys, content: Content::Whole(Bytes::copy_from_slice(text)), accepted_at: 1_000, addressees, fingerprint: Some(7) }
}

pub fn attempt(outcome: &str) -> AttemptRecord {
    AttemptRecord::new(Arc::from("primary"), Phase::Answer, outcome.to_owned(), 2_000)
}

fn read(spool: &Spool, message: everpost_client::ids::MessageId) -> Vec<u8> {
    let mut reader = spool.open_content(message).unwrap();
    let mut all = Vec::new();
    while let Some(chunk) = reader.next_chunk().unwrap() {
        all.extend_from_slice(&chunk);
    }
    all
}

fn delivered(spool: &Spool, id: EnvelopeId) {
    spool.settle(id, Settlement::Delivered(attempt("AA"), Delivered::Ok)).unwrap();
}

#[test]
fn what_was_committed_is_there_after_a_kill_and_what_was_delivered_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path());
    let to = spool.destination("ris").unwrap();
    for i in 0..10 {
        let receipt = spool.commit(draft(format!("message {i}").as_bytes(), &[(to, Lane::Key(0))])).unwrap();
        assert_eq!(read(&spool, receipt.message()), format!("message {i}").as_bytes());
    }
    for _ in 0..4 {
        let envelope = spool.take(to).unwrap().unwrap();
        assert!(spool.take(to).unwrap().is_none(), "one at a time in a lane");
        delivered(&spool, envelope.id);
    }
    spool.lead();
    // No close: as if killed. The lock goes with the process, here with the value.
    drop(spool);
    let (spool, recovered) = open(dir.path());
    assert_eq!(recovered.waiting, 6);
    let to = spool.destination("ris").unwrap();
    for i in 4..10 {
        let envelope = spool.take(to).unwrap().unwrap();
        assert!(envelope.recovered);
        assert_eq!(read(&spool, envelope.message), format!("message {i}").as_bytes());
        delivered(&spool, envelope.id);
    }
    spool.close().unwrap();
    drop(spool);
    let (spool, recovered) = open(dir.path());
    assert_eq!((recovered.waiting, recovered.damaged, recovered.cut), (0, 0, 0));
    let filter = Filter { state: Some(State::Delivered), ..Filter::default() };
    let (past, next) = spool.list(&filter, None, 100).unwrap();
    assert_eq!((past.len(), next), (10, None));
    assert_eq!(past[3].last.as_ref().unwrap().outcome, "AA");
    assert_eq!(read(&spool, past[3].envelope.message), b"message 3");
    let (first, next) = spool.list(&filter, None, 3).unwrap();
    assert_eq!(first.len(), 3);
    assert_eq!(spool.list(&filter, next, 3).unwrap().0[0].envelope.id, past[3].envelope.id);
}

#[test]
fn large_content_goes_through_segments_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path());
    let to = spool.destination("pacs").unwrap();
    let big: Vec<u8> = (0..3_500_000_u32).map(|i| (i * 7 + i / 256) as u8).collect();
    let mut writer = spool.content_writer().unwrap().digesting();
    for piece in big[..1_000_000].chunks(10_007) {
        writer.write(piece).unwrap();
    }
    let mut rest = &big[1_000_000..];
    while !rest.is_empty() {
        // Straight into the chunk.
        let space = writer.space();
        let (now, later) = rest.split_at(rest.len().min(space.len()).min(100_003));
        space[..now.len()].copy_from_slice(now);
        writer.wrote(now.len()).unwrap();
        rest = later;
    }
    assert_eq!(writer.len(), big.len() as u64);
    let streamed = writer.finish();
    assert_eq!(streamed.sha256().unwrap(), <[u8; 32]>::from(<sha2::Sha256 as sha2::Digest>::digest(&big)));
    let mut one = draft(b"", &[(to, Lane::Own)]);
    one.content = Content::Streamed(streamed);
    let first = spool.commit(one).unwrap().message();
    let second = spool.commit(draft(&big[..70_000], &[(to, Lane::Own)])).unwrap().message();
    let mut writer = spool.content_writer().unwrap();
    writer.write(b"small").unwrap();
    let small = writer.finish();
    assert_eq!(small.sha256(), None, "nobody asked");
    let mut one = draft(b"", &[(to, Lane::Own)]);
    one.content = Content::Streamed(small);
    let third = spool.commit(one).unwrap().message();
    drop(spool);
    let (spool, recovered) = open(dir.path());
    assert_eq!(recovered.waiting, 3);
    assert!(read(&spool, first) == big && read(&spool, second) == big[..70_000] && read(&spool, third) == b"small");
    let to = spool.destination("pacs").unwrap();
    let envelope = spool.take(to).unwrap().unwrap();
    assert_eq!(envelope.size, big.len() as u64);
    assert_eq!(envelope.keys.get(Key::Sha256), None, "nobody put it there");
}

#[test]
fn lanes_barriers_and_decisions() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path());
    let to = spool.destination("ris").unwrap();
    let commit = |lane| EnvelopeId(spool.commit(draft(b"x", &[(to, lane)])).unwrap().message().0 + 1);
    let take = || spool.take(to).unwrap().map(|e| e.id);
    let (a1, b1, a2, bar, a3, own) =
        (commit(Lane::Key(1)), commit(Lane::Key(2)), commit(Lane::Key(1)), commit(Lane::Barrier), commit(Lane::Key(1)), commit(Lane::Own));
    assert_eq!((take(), take(), take()), (Some(a1), Some(b1), None));
    spool.settle(a1, Settlement::Deferred(attempt("AR"))).unwrap();
    assert_eq!(take(), None, "a deferred head keeps its lane");
    spool.due(a1);
    let again = spool.take(to).unwrap().unwrap();
    assert_eq!((again.id, again.attempts), (a1, 1));
    delivered(&spool, a1);
    assert_eq!(take(), Some(a2));
    delivered(&spool, b1);
    assert_eq!(take(), None, "the barrier waits");
    spool.settle(a2, Settlement::DeadLetter(attempt("AE"), LaneRule::Continue)).unwrap();
    assert_eq!((take(), take()), (Some(bar), None));
    spool.settle(bar, Settlement::DeadLetter(attempt("AE"), LaneRule::Stop)).unwrap();
    assert_eq!(take(), None, "a dead letter that stops the lane");
    let decide = |id, decision| {
        let (tell, hear) = std::sync::mpsc::channel();
        spool.decide(id, decision, 3_000, Box::new(move |r| tell.send(r).unwrap()));
        spool.lead();
        hear.recv().unwrap()
    };
    assert!(matches!(decide(bar, Decision::Release), Err(SpoolError::WrongState { .. })));
    decide(a2, Decision::Retry).unwrap();
    let back = spool.take(to).unwrap().unwrap();
    assert_eq!((back.id, back.out_of_order), (a2, true));
    delivered(&spool, a2);
    decide(bar, Decision::Discard { reason: "wrong patient".to_owned() }).unwrap();
    assert_eq!((take(), take(), take()), (Some(a3), Some(own), None));
    spool.untake(a3);
    decide(a3, Decision::Hold(LaneRule::Stop)).unwrap();
    assert_eq!(take(), None);
    let counts = spool.counts(to);
    assert_eq!((counts.held, counts.in_flight, counts.dead_letter, counts.oldest), (1, 1, 0, Some(1_000)));
    let story = spool.story(a2).unwrap();
    assert_eq!((story.view.state, story.attempts.iter().map(|a| a.outcome.as_str()).collect::<Vec<_>>()), (State::Delivered, vec!["AE", "AA"]));
    drop(spool);
    let (spool, recovered) = open(dir.path());
    assert_eq!(recovered.waiting, 2);
    let (all, _) = spool.list(&Filter::default(), None, 10).unwrap();
    assert_eq!(all.iter().map(|v| (v.envelope.id, v.state)).collect::<Vec<_>>(), [(a3, State::Held), (own, State::Ready)]);
}

/// Carries out a decision and waits until it is durable.
fn decide(spool: &Spool, id: EnvelopeId, decision: Decision) {
    let (tell, hear) = std::sync::mpsc::channel();
    spool.decide(id, decision, 3_000, Box::new(move |r| tell.send(r).unwrap()));
    spool.lead();
    hear.recv().unwrap().unwrap();
}

#[test]
fn a_hold_lets_its_lane_go_on_only_where_the_destination_says_so() {
    for (rule, goes_on) in [(LaneRule::Stop, false), (LaneRule::Continue, true)] {
        for deferred in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let (spool, _) = open(dir.path());
            let to = spool.destination("ris").unwrap();
            for text in ["1", "2"] {
                let _ = spool.commit(draft(text.as_bytes(), &[(to, Lane::Key(1))])).unwrap();
            }
            let first = spool.take(to).unwrap().unwrap().id;
            if deferred {
                spool.settle(first, Settlement::Deferred(attempt("AR"))).unwrap();
            } else {
                spool.untake(first);
            }
            decide(&spool, first, Decision::Hold(rule));
            let next = spool.take(to).unwrap().map(|e| e.id);
            assert_eq!(next.is_some(), goes_on, "{rule:?}, deferred {deferred}");
            assert_ne!(next, Some(first));
            decide(&spool, first, Decision::Release);
            let back = spool.take(to).unwrap().unwrap();
            assert_eq!((back.id, back.out_of_order), (first, goes_on), "{rule:?}, deferred {deferred}");
        }
    }
}

#[test]
fn the_mark_of_disorder_stays_through_every_state_and_restart() {
    type Next = fn() -> Settlement;
    let steps: [(&str, Next); 4] = [
        ("deferred", || Settlement::Deferred(attempt("AR"))),
        ("held", || Settlement::Held(attempt("AE"), LaneRule::Stop)),
        ("started", || Settlement::Started { endpoint: "a".into(), at: 1_500 }),
        ("delivered", || Settlement::Delivered(attempt("AA"), Delivered::Ok)),
    ];
    for (name, step) in steps {
        let dir = tempfile::tempdir().unwrap();
        let (spool, _) = open(dir.path());
        let to = spool.destination("ris").unwrap();
        for text in ["1", "2"] {
            let _ = spool.commit(draft(text.as_bytes(), &[(to, Lane::Key(1))])).unwrap();
        }
        let id = spool.take(to).unwrap().unwrap().id;
        let other = {
            spool.settle(id, Settlement::DeadLetter(attempt("AE"), LaneRule::Continue)).unwrap();
            spool.take(to).unwrap().unwrap()
        };
        assert!(!spool.story(id).unwrap().view.envelope.out_of_order, "it has not come back yet");
        decide(&spool, id, Decision::Retry);
        assert_eq!(spool.take(to).unwrap().unwrap().id, id);
        spool.settle(id, step()).unwrap();
        assert!(spool.story(id).unwrap().view.envelope.out_of_order, "{name}");
        assert!(!spool.story(other.id).unwrap().view.envelope.out_of_order, "{name}: only the one that came back");
        drop(spool);
        let (spool, _) = open(dir.path());
        assert!(spool.story(id).unwrap().view.envelope.out_of_order, "{name}, after a restart");
        if name == "started" {
            let to = spool.destination("ris").unwrap();
            let two = [spool.take(to).unwrap().unwrap(), spool.take(to).unwrap().unwrap()];
            assert_eq!(two.map(|e| (e.id, e.out_of_order)), [(id, true), (other.id, false)], "beside its lane, not in it");
        }
    }
}

#[test]
fn a_discarded_envelope_still_says_when_and_why() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path());
    let to = spool.destination("ris").unwrap();
    let _ = spool.commit(draft(b"1", &[(to, Lane::Own)])).unwrap();
    let id = spool.take(to).unwrap().unwrap().id;
    spool.settle(id, Settlement::DeadLetter(attempt("AE"), LaneRule::Continue)).unwrap();
    decide(&spool, id, Decision::Discard { reason: "wrong patient".to_owned() });
    let told = |spool: &Spool| {
        let Story { view, attempts, .. } = spool.story(id).unwrap();
        assert_eq!((view.state, view.discarded), (State::Discarded, Some(Discarded { at: 3_000, reason: "wrong patient".to_owned() })));
        let first = AttemptRecord { number: 1, ..attempt("AE") };
        assert_eq!((view.last, attempts), (Some(first.clone()), vec![first]));
        assert!(spool.list(&Filter { state: Some(State::Delivered), ..Filter::default() }, None, 10).unwrap().0.is_empty(), "it was not delivered");
        assert!(matches!(spool.story(EnvelopeId(id.0 + 100)), Err(SpoolError::NotWaiting(_))), "there never was such a one");
    };
    told(&spool);
    drop(spool);
    told(&open(dir.path()).0);
}

#[test]
fn many_producers_share_syncs_and_rolls_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path());
    let to = spool.destination("ris").unwrap();
    std::thread::scope(|scope| {
        for t in 0..8_u8 {
            let spool = &spool;
            scope.spawn(move || {
                for i in 0..200_u8 {
                    let text = [vec![t, i], vec![b'x'; 2_000]].concat();
                    let _ = spool.commit(draft(&text, &[(to, Lane::Key(u32::from(t)))])).unwrap();
                    if i % 50 == 0 {
                        spool.maintain(5_000);
                    }
                }
            });
        }
    });
    drop(spool);
    let (spool, recovered) = open(dir.path());
    assert_eq!(recovered.waiting, 1600);
    assert!(recovered.segments > 3);
    let mut next = [0_u8; 8];
    while let Some(envelope) = spool.take(to).unwrap() {
        let content = read(&spool, envelope.message);
        assert_eq!(content[1], next[usize::from(content[0])], "order in a lane");
        next[usize::from(content[0])] += 1;
        delivered(&spool, envelope.id);
    }
    assert_eq!(next, [200; 8]);
}

/// Days, in milliseconds.
const DAY: u64 = 86_400_000;

#[test]
fn a_retry_for_weeks_keeps_its_first_and_last_attempts_and_nothing_grows() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path());
    let to = spool.destination("ris").unwrap();
    let other = spool.destination("pacs").unwrap();
    let receipt = spool.commit(draft(b"refused for ever", &[(to, Lane::Key(0))])).unwrap();
    let id = receipt.envelope(0);
    let (days, per_day) = (6 * 7, 100);
    let mut number = 0;
    let bytes = |spool: &Spool| spool.usage().bytes;
    let mut most = 0;
    for day in 0..days {
        for _ in 0..per_day {
            assert_eq!(spool.take(to).unwrap().unwrap().id, id);
            number += 1;
            let at = day * DAY + number;
            let record = AttemptRecord { at, verdict: Some(Verdict::Retry), ..attempt(&format!("AR {number}")) };
            spool.settle(id, Settlement::Deferred(record)).unwrap();
            spool.due(id);
            // Others go by meanwhile, so that segments fill.
            let _ = spool.commit(Draft { accepted_at: at, ..draft(&[b'x'; 6_000], &[(other, Lane::Own)]) }).unwrap();
            let passing = spool.take(other).unwrap().unwrap().id;
            spool.settle(passing, Settlement::Delivered(AttemptRecord { at, ..attempt("AA") }, Delivered::Ok)).unwrap();
        }
        spool.lead();
        spool.upkeep();
        spool.maintain(day * DAY + per_day);
        if day == 14 {
            most = bytes(&spool);
        }
    }
    let told = |spool: &Spool| {
        let story = spool.story(id).unwrap();
        let numbers: Vec<u64> = story.attempts.iter().map(|a| u64::from(a.number)).collect();
        assert_eq!(u64::from(story.view.envelope.attempts), number, "the count of all is exact");
        let (first, last) = (limits::ATTEMPTS_FIRST_KEPT as u64, limits::ATTEMPTS_LAST_KEPT as u64);
        let expected: Vec<u64> = (1..=first).chain(number - last + 1..=number).collect();
        assert_eq!(numbers, expected);
        assert!(story.attempts.iter().all(|a| a.outcome == format!("AR {}", a.number) && a.verdict == Some(Verdict::Retry)));
        assert_eq!(u64::from(story.untold()), number - first - last);
    };
    told(&spool);
    let now = bytes(&spool);
    assert!(now <= most + most / 4, "the journal holds {now} bytes after six weeks, {most} after two");
    drop(spool);
    let (spool, recovered) = open(dir.path());
    assert_eq!(recovered.waiting, 1);
    told(&spool);
    // And once more, of what the second run only read.
    for day in days..days + 10 {
        spool.maintain(day * DAY);
    }
    told(&spool);
}

#[test]
fn a_start_without_an_end_is_told_until_its_end_is() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path());
    let to = spool.destination("ris").unwrap();
    let id = spool.commit(draft(b"1", &[(to, Lane::Own)])).unwrap().envelope(0);
    spool.take(to).unwrap().unwrap();
    spool.settle(id, Settlement::Deferred(attempt("AR"))).unwrap();
    spool.due(id);
    spool.take(to).unwrap().unwrap();
    spool.settle(id, Settlement::Started { endpoint: "secondary".into(), at: 2_500 }).unwrap();
    let begun = Begun { number: 2, endpoint: "secondary".into(), at: 2_500 };
    let story = spool.story(id).unwrap();
    assert_eq!((story.attempts.len(), story.begun.as_ref(), story.untold()), (1, Some(&begun), 0));
    drop(spool);
    let (spool, _) = open(dir.path());
    assert_eq!(spool.story(id).unwrap().begun, Some(begun));
    spool.take(to).unwrap().unwrap();
    let cut = AttemptRecord { ambiguous: true, at: 9_000, ..attempt("hold") };
    spool.settle(id, Settlement::Held(cut, LaneRule::Stop)).unwrap();
    decide(&spool, id, Decision::Release);
    let story = spool.story(id).unwrap();
    let told: Vec<_> = story.attempts.iter().map(|a| (a.number, a.began_at, a.at, a.ambiguous)).collect();
    assert_eq!(told, [(1, None, 2_000, false), (2, Some(2_500), 9_000, true)]);
    assert_eq!((story.begun, story.decisions), (None, vec![Decided { at: 3_000, to: State::Ready, why: String::new() }]));
}

#[test]
fn what_passed_through_is_counted_once_for_the_spool_and_once_for_each_destination() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path());
    let (ris, pacs) = (spool.destination("ris").unwrap(), spool.destination("pacs").unwrap());
    let _ = spool.commit(draft(&[b'x'; 10_000], &[(ris, Lane::Own), (pacs, Lane::Own)])).unwrap();
    let _ = spool.commit(draft(&[b'y'; 300_000], &[(pacs, Lane::Own)])).unwrap();
    let id = spool.take(ris).unwrap().unwrap().id;
    delivered(&spool, id);
    let [all, first, second] = [None, Some(ris), Some(pacs)].map(|d| spool.flow(d));
    assert_eq!([all, first, second].map(|f| (f.accepted, f.delivered)), [(2, 1), (1, 1), (2, 0)]);
    assert_eq!(all.accepted_bytes, second.accepted_bytes);
    assert!((310_000..312_000).contains(&all.accepted_bytes) && (10_000..11_000).contains(&first.accepted_bytes), "{all:?} {first:?}");
}

#[test]
fn history_is_room_and_what_waits_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path());
    let to = spool.destination("ris").unwrap();
    let fill = || {
        for _ in 0..40 {
            let _ = spool.commit(draft(&[b'x'; 60_000], &[(to, Lane::Own)])).unwrap();
            let _ = spool.commit(draft(&[b'y'; 200_000], &[(to, Lane::Own)])).unwrap();
        }
        spool.maintain(2_000);
        spool.usage()
    };
    let waiting = fill();
    assert!(waiting.bytes > 10_000_000 && waiting.history < 1_000_000, "{waiting:?}");
    while let Some(envelope) = spool.take(to).unwrap() {
        delivered(&spool, envelope.id);
    }
    spool.lead();
    spool.maintain(2_000);
    let past = spool.usage();
    // All but the segments being written.
    assert!(past.history > past.bytes / 2 && past.history <= past.bytes, "{past:?}");
    assert_eq!(past.room(), past.free + past.history);
}
