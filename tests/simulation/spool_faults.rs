//! Each way a disk can fail, one by one, and what the spool does then.

use crate::spool::{attempt, draft};
use everpost_client::config::{LaneRule, SpoolSettings};
use everpost_client::event::{Delivered, Event, Events};
use everpost_client::ids::{DestinationId, EnvelopeId, MessageId};
use everpost_client::keys::Key;
use everpost_client::spool::{Content, Decision, Filter, Intake, Lane, Recovered, Settlement, Spool, SpoolError, State};
use harness::faulty_disk::{Fault, FaultyDisk};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SEGMENT: u64 = 512 << 10;
const NOW: u64 = 1_000_000_000_000;

struct Open {
    spool: Spool,
    to: DestinationId,
    recovered: Recovered,
    events: Arc<Mutex<Vec<Event>>>,
}

fn try_open(disk: &FaultyDisk, reserve: u64) -> Result<Open, SpoolError> {
    let settings = SpoolSettings { reserve, segment_size: SEGMENT, history: Duration::from_secs(3600), ..SpoolSettings::default() };
    let events: Arc<Mutex<Vec<Event>>> = Arc::default();
    let reader = Arc::clone(&events);
    let (spool, recovered) = Spool::open(disk.storage(), settings, Events::to(move |e| reader.lock().unwrap().push(e)))?;
    let to = spool.destination("ris").unwrap();
    Ok(Open { spool, to, recovered, events })
}

fn open(disk: &FaultyDisk) -> Open {
    try_open(disk, 0).unwrap()
}

impl Open {
    fn commit(&self, text: &[u8]) -> Result<MessageId, SpoolError> {
        self.spool.commit(draft(text, &[(self.to, Lane::Key(0))])).map(|r| r.message())
    }

    fn commit_in(&self, text: &[u8], lane: Lane) -> MessageId {
        self.spool.commit(draft(text, &[(self.to, lane)])).unwrap().message()
    }

    fn read(&self, message: MessageId) -> Result<Vec<u8>, SpoolError> {
        let mut reader = self.spool.open_content(message)?;
        let mut all = Vec::new();
        while let Some(chunk) = reader.next_chunk()? {
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }

    /// Contents of all that waits.
    fn waiting(&self) -> Vec<Vec<u8>> {
        let (views, _) = self.spool.list(&Filter::default(), None, 1_000_000).unwrap();
        views.iter().map(|v| self.read(v.envelope.message).unwrap()).collect()
    }

    fn deliver(&self) -> Option<MessageId> {
        let envelope = self.spool.take(self.to).unwrap()?;
        self.spool.settle(envelope.id, Settlement::Delivered(attempt("AA"), Delivered::Ok)).unwrap();
        Some(envelope.message)
    }

    fn damages(&self) -> usize {
        self.events.lock().unwrap().iter().filter(|e| matches!(e, Event::Damage { .. })).count()
    }

    fn intakes(&self) -> Vec<bool> {
        self.events.lock().unwrap().iter().filter_map(|e| if let Event::Intake { open, .. } = e { Some(*open) } else { None }).collect()
    }
}

fn disk() -> FaultyDisk {
    FaultyDisk::new(7, 1 << 30)
}

fn journals(disk: &FaultyDisk) -> Vec<String> {
    disk.names().into_iter().filter(|n| n.starts_with("journal-")).collect()
}

fn find(haystack: &[u8], needle: &[u8]) -> usize {
    haystack.windows(needle.len()).position(|w| w == needle).unwrap()
}

#[test]
fn a_failed_sync_is_refused_never_tried_again_on_that_file_and_never_comes_back() {
    for loss in [false, true] {
        let disk = disk();
        let one = open(&disk);
        one.commit(b"before").unwrap();
        let name = journals(&disk)[0].clone();
        disk.fail(Fault::Sync);
        assert!(matches!(one.commit(b"doubtful"), Err(SpoolError::NotDurable { phase: "sync", .. })));
        let after_fault = disk.bytes(&name);
        one.commit(b"after").unwrap();
        assert!(disk.bytes(&name) == after_fault, "nothing is written behind a failed sync");
        assert_eq!(journals(&disk).len(), 2);
        if loss {
            disk.power_loss()
        } else {
            disk.kill()
        }
        let two = open(&disk);
        assert_eq!(two.waiting(), [b"before".to_vec(), b"after".to_vec()]);
        assert_eq!(two.recovered.damaged, 0);
    }
}

#[test]
fn a_short_write_is_refused_and_leaves_no_trace() {
    let disk = disk();
    let one = open(&disk);
    one.commit(b"before").unwrap();
    disk.fail(Fault::ShortWrite);
    assert!(matches!(one.commit(&[b'x'; 5_000]), Err(SpoolError::NotDurable { phase: "write", .. })));
    one.commit(b"after").unwrap();
    disk.kill();
    assert_eq!(open(&disk).waiting(), [b"before".to_vec(), b"after".to_vec()]);
}

#[test]
fn without_a_fresh_segment_intake_stops_delivery_goes_on_and_all_heals_by_itself() {
    let disk = disk();
    let one = open(&disk);
    one.commit(b"one").unwrap();
    one.commit(b"two").unwrap();
    for fault in [Fault::Sync, Fault::Open, Fault::Open] {
        disk.fail(fault);
    }
    assert!(one.commit(b"doubtful").is_err());
    assert_eq!(one.spool.intake(), Intake::Broken);
    assert!(matches!(one.commit(b"refused"), Err(SpoolError::NotDurable { phase: "open", .. })));
    assert!(one.spool.content_writer().is_err());
    let first = one.deliver().unwrap();
    assert_eq!(one.read(first).unwrap(), b"one");
    one.spool.lead();
    one.spool.maintain(NOW);
    assert_eq!(one.spool.intake(), Intake::Broken, "the second failure to open");
    one.spool.maintain(NOW);
    assert_eq!(one.spool.intake(), Intake::Open);
    one.commit(b"three").unwrap();
    assert_eq!(one.intakes(), [false, true], "one event for each change");
    disk.power_loss();
    assert_eq!(open(&disk).waiting(), [b"two".to_vec(), b"three".to_vec()], "the settlement was written after all");
}

#[test]
fn a_lying_disk_that_loses_power_is_found_out_or_lost_its_end_only() {
    for seed in 0..60 {
        let disk = FaultyDisk::new(seed, 1 << 30);
        let one = open(&disk);
        let mut sent = Vec::new();
        for i in 0..40_u32 {
            if i == 20 {
                disk.lie();
            }
            let text = [format!("{i:06}").into_bytes(), vec![b'x'; 700]].concat();
            one.commit(&text).unwrap();
            sent.push(text);
        }
        disk.power_loss();
        let two = open(&disk);
        let kept = two.waiting();
        assert!(kept.len() >= 20 && kept.iter().all(|k| sent.contains(k)), "SEED={seed}");
        let gap = kept != sent[..kept.len()];
        assert!(!gap || two.recovered.damaged > 0 && two.damages() > 0, "SEED={seed}: a hole nobody told of");
    }
}

#[test]
fn a_torn_group_is_cut_and_is_no_damage() {
    let mut cut = 0;
    for seed in 0..60 {
        let disk = FaultyDisk::new(seed, 1 << 30);
        let one = open(&disk);
        one.commit(b"before").unwrap();
        for i in 0..8_u8 {
            one.spool.commit_then(draft(&[i; 1_500], &[(one.to, Lane::Key(0))]), Box::new(|r| assert!(r.is_err())));
        }
        // The write comes through, the sync does not.
        disk.die_at(disk.operations() + 1);
        one.spool.lead();
        disk.power_loss();
        let two = open(&disk);
        assert_eq!((two.recovered.damaged, two.damages()), (0, 0), "SEED={seed}");
        let waiting = two.waiting();
        let whole = (0..8_u8).map(|i| vec![i; 1_500]).take(waiting.len() - 1);
        assert!(waiting[0] == b"before" && waiting[1..].iter().cloned().eq(whole), "SEED={seed}: what follows a hole does not count");
        cut += two.recovered.cut;
        two.commit(b"after").unwrap();
        disk.power_loss();
        drop(two);
        let three = open(&disk);
        assert_eq!((three.waiting().len(), three.recovered.damaged), (waiting.len() + 1, 0), "SEED={seed}: what was cut stays cut");
    }
    assert!(cut > 0, "no tail was torn");
}

#[test]
fn rot_in_the_newest_segment_is_told_and_set_aside_and_the_rest_is_read() {
    let disk = disk();
    let one = open(&disk);
    for text in [b"aaaaaaaa", b"bbbbbbbb", b"cccccccc", b"dddddddd"] {
        one.commit(text).unwrap();
    }
    let name = journals(&disk)[0].clone();
    let at = find(&disk.bytes(&name), b"bbbbbbbb");
    disk.rot(&name, at);
    disk.kill();
    let two = open(&disk);
    assert_eq!(two.waiting(), [b"aaaaaaaa".to_vec(), b"cccccccc".to_vec(), b"dddddddd".to_vec()]);
    assert_eq!((two.recovered.damaged, two.damages()), (1, 1));
    let aside = disk.names().into_iter().find(|n| n.starts_with("damage-")).unwrap();
    // The control id without its first byte, and the content right behind it.
    assert_eq!(disk.bytes(&aside).windows(15).filter(|w| *w == [b'b'; 15]).count(), 1, "the damaged bytes are kept");
    // Once told and sealed, it is not told again.
    two.spool.maintain(NOW);
    drop(two);
    disk.kill();
    assert_eq!(open(&disk).recovered.damaged, 0);
}

#[test]
fn rot_in_the_length_of_a_record_does_not_take_its_neighbours_along() {
    for byte in [0, 1, 3, 9, 33] {
        let disk = disk();
        let one = open(&disk);
        for text in [b"aaaaaaaa", b"bbbbbbbb", b"cccccccc", b"dddddddd"] {
            one.commit(text).unwrap();
        }
        let name = journals(&disk)[0].clone();
        let bytes = disk.bytes(&name);
        // The second record begins where the first one, rounded up to eight bytes, ends.
        let first = 4096 + 48;
        let length = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let second = first + length(first).next_multiple_of(8);
        disk.rot(&name, second + byte);
        disk.kill();
        let two = open(&disk);
        assert_eq!(two.waiting(), [b"aaaaaaaa".to_vec(), b"cccccccc".to_vec(), b"dddddddd".to_vec()], "byte {byte}");
        assert_eq!(two.recovered.damaged, 1);
    }
}

/// Writes a file as it is, or cuts one.
fn replace(disk: &FaultyDisk, name: &str, bytes: &[u8]) {
    let storage = disk.storage();
    let file = storage.open(name, !disk.names().iter().any(|n| n == name)).unwrap();
    file.truncate(bytes.len() as u64).unwrap();
    file.write_at(bytes, 0).unwrap();
    file.sync().unwrap();
    storage.sync_dir().unwrap();
}

#[test]
fn a_journal_file_cut_short_is_told_and_the_start_goes_on() {
    for length in [0, 1, 100, 4095, 4096] {
        let disk = disk();
        open(&disk).commit(b"aaaaaaaa").unwrap();
        disk.kill();
        let two = open(&disk);
        two.commit(b"bbbbbbbb").unwrap();
        disk.kill();
        let names = journals(&disk);
        assert_eq!(names.len(), 2);
        for (cut, left) in [(0, b"bbbbbbbb"), (1, b"aaaaaaaa")] {
            let copy = FaultyDisk::new(7, 1 << 30);
            for (i, name) in names.iter().enumerate() {
                let bytes = disk.bytes(name);
                replace(&copy, name, if i == cut { &bytes[..length] } else { &bytes });
            }
            let three = open(&copy);
            assert_eq!(three.waiting(), [left.to_vec()], "{length} bytes");
            assert_eq!((three.recovered.damaged, three.damages()), (1, 1), "segment {cut} cut to {length} bytes");
            let text = format!("{:?}", three.events.lock().unwrap());
            assert!(!text.contains(" 0 bytes that"), "{text}");
            three.commit(b"cccccccc").unwrap();
            three.spool.maintain(NOW);
            drop(three);
            copy.kill();
            assert_eq!(open(&copy).recovered.damaged, 0, "once told and sealed it is not told again");
        }
    }
}

#[test]
fn a_journal_cut_among_durable_records_is_told() {
    let disk = disk();
    let one = open(&disk);
    for text in [b"aaaaaaaa", b"bbbbbbbb", b"cccccccc"] {
        one.commit(text).unwrap();
    }
    drop(one);
    disk.kill();
    // Another segment says where this one ended.
    open(&disk).commit(b"dddddddd").unwrap();
    disk.kill();
    let name = journals(&disk)[0].clone();
    let bytes = disk.bytes(&name);
    // Right behind a record, so that nothing but the missing end tells.
    let length = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let first = 4096 + 48;
    let end = first + length(first).next_multiple_of(8);
    assert!(find(&bytes, b"aaaaaaaa") < end && find(&bytes, b"bbbbbbbb") > end);
    replace(&disk, &name, &bytes[..end]);
    let two = open(&disk);
    let text = format!("{:?}", two.events.lock().unwrap());
    assert_eq!((two.recovered.damaged, two.damages()), (1, 1), "{text}");
    assert!(text.contains("that were durable are missing"), "{text}");
    assert_eq!(two.waiting(), [b"aaaaaaaa".to_vec(), b"dddddddd".to_vec()]);
}

#[test]
fn a_file_that_is_no_segment_is_set_aside_and_never_touched() {
    for length in [100, 4096, 10_000, SEGMENT as usize] {
        let disk = disk();
        open(&disk).commit(b"aaaaaaaa").unwrap();
        disk.kill();
        let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(1..)).take(length).collect();
        replace(&disk, "journal-000000000999.seg", &noise);
        // Zeroes are what a prepared file holds when the power went before its first record.
        replace(&disk, "journal-000000000998.seg", &vec![0; SEGMENT as usize]);
        for damaged in [1, 0] {
            let two = open(&disk);
            assert_eq!((two.recovered.damaged, two.damages()), (damaged, damaged as usize));
            while two.deliver().is_some() {}
            two.commit(b"bbbbbbbb").unwrap();
            for hours in 1..5 {
                two.spool.maintain(NOW + hours * 7_200_000);
            }
            two.spool.close().unwrap();
            drop(two);
            disk.kill();
            assert_eq!(disk.bytes("damage-journal-000000000999.seg"), noise);
            assert!(!disk.names().iter().any(|n| n == "journal-000000000999.seg"), "its number is never given again");
        }
    }
}

#[test]
fn rot_in_an_old_segment_holds_the_envelope_with_an_alarm_and_harms_no_other() {
    let disk = disk();
    let one = open(&disk);
    for text in [b"aaaaaaaa", b"bbbbbbbb", b"cccccccc"] {
        one.commit(text).unwrap();
    }
    one.spool.close().unwrap();
    let name = journals(&disk)[0].clone();
    let at = find(&disk.bytes(&name), b"bbbbbbbb");
    disk.rot(&name, at);
    disk.kill();
    let two = open(&disk);
    assert_eq!(two.recovered.waiting, 3);
    two.deliver().unwrap();
    assert!(matches!(two.spool.take(two.to), Err(SpoolError::Damaged { .. })));
    assert!(two.spool.take(two.to).unwrap().is_none(), "the lane stops for it");
    assert_eq!((two.damages(), two.spool.counts(two.to).held), (1, 1));
    let (held, _) = two.spool.list(&Filter { state: Some(State::Held), ..Filter::default() }, None, 10).unwrap();
    let (tell, hear) = std::sync::mpsc::channel();
    let decision = Decision::Discard { reason: "damaged".to_owned() };
    two.spool.decide(held[0].envelope.id, decision, NOW, Box::new(move |r| tell.send(r).unwrap()));
    two.spool.lead();
    hear.recv().unwrap().unwrap();
    let last = two.deliver().unwrap();
    assert_eq!(two.read(last).unwrap(), b"cccccccc");
}

#[test]
fn rot_in_a_footer_a_trailer_or_a_header_costs_nothing() {
    for place in ["footer", "trailer", "header", "begin"] {
        let disk = disk();
        let one = open(&disk);
        one.commit(b"aaaaaaaa").unwrap();
        one.commit(b"bbbbbbbb").unwrap();
        one.spool.close().unwrap();
        let name = journals(&disk)[0].clone();
        let bytes = disk.bytes(&name);
        let at = match place {
            "footer" => bytes.windows(4).rposition(|w| w == b"\x03ris").unwrap() + 6,
            "trailer" => bytes.len() - 30,
            "header" => 20,
            _ => 4100,
        };
        disk.rot(&name, at);
        disk.kill();
        let two = open(&disk);
        assert_eq!(two.waiting(), [b"aaaaaaaa".to_vec(), b"bbbbbbbb".to_vec()], "{place}");
    }
}

#[test]
fn rot_in_content_is_found_when_it_is_read() {
    let disk = disk();
    let one = open(&disk);
    let big: Vec<u8> = (0..600_000_u32).map(|i| (i >> 3) as u8).collect();
    let message = one.commit(&big).unwrap();
    assert_eq!(one.read(message).unwrap(), big);
    let name = disk.names().into_iter().find(|n| n.starts_with("content-")).unwrap();
    disk.rot(&name, 200_000);
    match one.read(message) {
        Err(SpoolError::Damaged { message: damaged, offset }) => assert_eq!((damaged, offset), (message, 0)),
        other => panic!("{:?}", other.map(|b| b.len())),
    }
    assert_eq!(one.damages(), 1, "whoever reads it, people are told");
}

#[test]
fn what_cannot_be_read_waits_and_is_read_again_by_itself() {
    for lane in [Lane::Own, Lane::Key(5), Lane::Barrier] {
        let disk = disk();
        let one = open(&disk);
        let other = one.commit_in(b"aaaaaaaa", lane);
        let next = one.commit_in(b"bbbbbbbb", Lane::Own);
        one.spool.maintain(NOW);
        let alarms = || -> Vec<bool> {
            one.events.lock().unwrap().iter().filter_map(|e| if let Event::Alarm { raised, .. } = e { Some(*raised) } else { None }).collect()
        };
        for seconds in 1..4 {
            disk.fail(Fault::Read);
            assert!(matches!(one.spool.take(one.to), Err(SpoolError::Disk { .. })), "{lane:?}");
            assert_eq!((one.spool.counts(one.to).held, one.spool.counts(one.to).ready), (0, 2));
            assert_eq!(alarms(), [true], "told once");
            if lane != Lane::Barrier && seconds == 3 {
                assert_eq!(one.deliver(), Some(next), "other lanes go on");
                assert_eq!(one.deliver(), None, "not before the next second");
            }
            one.spool.maintain(NOW + seconds * 1000);
        }
        assert_eq!(one.deliver(), Some(other));
        assert_eq!(alarms(), [true, false]);
        assert_eq!(one.deliver(), (lane == Lane::Barrier).then_some(next));
        assert_eq!(one.damages(), 0);
    }
}

#[test]
fn the_alarm_ends_with_an_unread_envelope_that_is_discarded() {
    let disk = disk();
    let one = open(&disk);
    one.commit(b"aaaaaaaa").unwrap();
    disk.fail(Fault::Read);
    assert!(one.spool.take(one.to).is_err());
    let (views, _) = one.spool.list(&Filter::default(), None, 10).unwrap();
    one.spool.decide(views[0].envelope.id, Decision::Discard { reason: "gone".to_owned() }, NOW, Box::new(|r| r.unwrap()));
    one.spool.lead();
    one.spool.maintain(NOW + 1000);
    assert!(one.events.lock().unwrap().iter().any(|e| matches!(e, Event::Alarm { raised: false, .. })));
}

#[test]
fn a_full_disk_refuses_settles_on_and_takes_again_when_space_is_back() {
    let disk = FaultyDisk::new(3, 16 << 20);
    let one = try_open(&disk, 4 << 20).unwrap();
    // Nothing here is old enough to go for its age.
    let now = 3_000;
    one.spool.maintain(now);
    let mut sent = 0_u32;
    let refusal = loop {
        let text = [sent.to_le_bytes().to_vec(), vec![b'x'; 30_000]].concat();
        match one.commit(&text) {
            Ok(_) => sent += 1,
            Err(error) => break error,
        }
        if sent.is_multiple_of(8) {
            one.spool.maintain(now);
        }
    };
    one.spool.maintain(now);
    assert_eq!(one.spool.intake(), Intake::Reserve, "nothing can go: all of it waits");
    assert!(matches!(refusal, SpoolError::Reserve { free, reserve } if free < reserve), "{refusal}");
    assert!(matches!(one.spool.content_writer(), Err(SpoolError::Reserve { .. })));
    assert!(sent > 200 && disk.used() > 11 << 20, "{sent} messages, {} bytes", disk.used());
    // Not a byte more: settlements have a segment of their own in reserve.
    disk.resize(disk.used());
    for _ in 0..sent / 2 {
        one.deliver().unwrap();
        one.spool.lead();
    }
    assert_eq!(one.spool.intake(), Intake::Reserve);
    disk.resize(16 << 20);
    // What was delivered goes before its time, because space is short.
    for _ in 0..30 {
        one.spool.maintain(now);
    }
    assert_eq!(one.spool.intake(), Intake::Open);
    assert_eq!(one.intakes(), [false, true]);
    one.commit(b"again").unwrap();
    disk.power_loss();
    let two = try_open(&disk, 4 << 20).unwrap();
    assert_eq!(two.recovered.waiting, u64::from(sent - sent / 2) + 1);
}

#[test]
fn no_space_for_the_next_segment_stops_intake_before_anything_is_lost() {
    let disk = FaultyDisk::new(3, 9 << 20);
    let one = open(&disk);
    let mut sent = Vec::new();
    for i in 0..1_000_u32 {
        let text = [i.to_le_bytes().to_vec(), vec![b'y'; 30_000]].concat();
        match one.commit(&text) {
            Ok(_) => sent.push(text),
            Err(_) => break,
        }
    }
    assert!(sent.len() < 1_000 && one.spool.intake() != Intake::Open);
    disk.power_loss();
    let two = open(&disk);
    assert!(two.waiting() == sent, "all that was answered is there");
    // Even with not a byte free it opens, delivers, and heals when space is back.
    assert!(two.deliver().is_some());
    two.spool.lead();
    disk.resize(64 << 20);
    two.spool.maintain(NOW);
    two.commit(b"again").unwrap();
    disk.power_loss();
    assert_eq!(open(&disk).waiting().len(), sent.len());
}

/// A spool with old segments of which little waits: in order, held, dead, deferred, inline and large.
fn aged(disk: &FaultyDisk) -> (Open, BTreeMap<EnvelopeId, (State, Vec<u8>)>) {
    let one = open(disk);
    let mut waiting = BTreeMap::new();
    for i in 0..60_u32 {
        let size = if i % 15 == 3 { 300_000 } else { 20_000 };
        let text = [i.to_le_bytes().to_vec(), vec![i as u8; size]].concat();
        let mut one_draft = draft(&text, &[(one.to, Lane::Own)]);
        one_draft.accepted_at = 1_000;
        if size > 100_000 {
            let mut writer = one.spool.content_writer().unwrap();
            writer.write(&text).unwrap();
            one_draft.content = Content::Streamed(writer.finish());
        }
        let id = EnvelopeId(one.spool.commit(one_draft).unwrap().message().0 + 1);
        let envelope = one.spool.take(one.to).unwrap().unwrap();
        assert_eq!(envelope.id, id);
        let state = match i % 15 {
            3 if i < 20 => State::Ready,
            3 | 4 => State::Held,
            8 => State::DeadLetter,
            12 => State::Deferred,
            _ => State::Delivered,
        };
        match state {
            State::Held => one.spool.settle(id, Settlement::Held(attempt("hold"), LaneRule::Stop)).unwrap(),
            State::DeadLetter => one.spool.settle(id, Settlement::DeadLetter(attempt("AE"), LaneRule::Continue)).unwrap(),
            State::Deferred => one.spool.settle(id, Settlement::Deferred(attempt("AR"))).unwrap(),
            State::Delivered => one.spool.settle(id, Settlement::Delivered(attempt("AA"), Delivered::Ok)).unwrap(),
            State::Ready | State::InFlight | State::Discarded | State::ReplayEnded => {}
        }
        if state != State::Delivered {
            // A restart forgets flights and backoff.
            let after = if state == State::Deferred { State::Ready } else { state };
            waiting.insert(id, (after, text));
        }
    }
    one.spool.remember("paused/ris", b"yes", Box::new(|r| r.unwrap()));
    one.spool.remember("gone", b"yes", Box::new(|r| r.unwrap()));
    one.spool.remember("gone", b"", Box::new(|r| r.unwrap()));
    one.spool.lead();
    one.spool.maintain(2_000);
    (one, waiting)
}

#[track_caller]
fn same(two: &Open, waiting: &BTreeMap<EnvelopeId, (State, Vec<u8>)>, what: &str) {
    let (views, _) = two.spool.list(&Filter::default(), None, 1_000).unwrap();
    let ids: Vec<_> = views.iter().map(|v| (v.envelope.id, v.state)).collect();
    let want: Vec<_> = waiting.iter().map(|(id, (state, _))| (*id, *state)).collect();
    assert_eq!(ids, want, "{what}");
    for view in &views {
        assert!(two.read(view.envelope.message).unwrap() == waiting[&view.envelope.id].1, "{what}: content of {}", view.envelope.id);
        assert_eq!(view.envelope.attempts, u32::from(waiting[&view.envelope.id].0 != State::Ready || view.last.is_some()), "{what}");
    }
    assert_eq!(two.spool.remembered(), [("paused/ris".to_owned(), b"yes".to_vec())], "{what}");
}

#[test]
fn recycling_keeps_what_waits_and_frees_the_rest() {
    let disk = disk();
    let (one, waiting) = aged(&disk);
    let (before, segments) = (disk.used(), journals(&disk).len());
    // A month later.
    for _ in 0..6 {
        one.spool.maintain(NOW);
    }
    assert!(journals(&disk).len() < segments && segments >= 3, "{segments} journal segments, now {:?}", disk.names());
    assert!(disk.used() < before, "{} bytes, now {}", before, disk.used());
    disk.power_loss();
    let two = open(&disk);
    same(&two, &waiting, "after recycling");
    let past = Filter { state: Some(State::Delivered), ..Filter::default() };
    assert!(two.spool.list(&past, None, 1_000).unwrap().0.len() < 40, "history went");
}

#[test]
fn power_lost_anywhere_in_recycling_loses_and_repeats_nothing() {
    let operations = {
        let disk = disk();
        let (one, _) = aged(&disk);
        let before = disk.operations();
        one.spool.maintain(NOW);
        one.spool.maintain(NOW);
        disk.operations() - before
    };
    assert!(operations > 40, "{operations} operations");
    for crash_at in 0..operations {
        for kill in [false, true] {
            let disk = FaultyDisk::new(crash_at, 1 << 30);
            let (one, waiting) = aged(&disk);
            disk.die_at(disk.operations() + crash_at);
            one.spool.maintain(NOW);
            one.spool.maintain(NOW);
            if kill {
                disk.kill()
            } else {
                disk.power_loss()
            }
            drop(one);
            let two = open(&disk);
            let what = format!("CRASH_AT={crash_at} kill={kill}");
            same(&two, &waiting, &what);
            // And what was half done is finished without harm.
            for _ in 0..4 {
                two.spool.maintain(NOW);
            }
            disk.power_loss();
            drop(two);
            same(&open(&disk), &waiting, &format!("{what}, finished"));
        }
    }
}

#[test]
fn a_second_process_is_told_who_has_it_and_a_later_version_is_refused() {
    let disk = disk();
    let one = open(&disk);
    assert!(matches!(try_open(&disk, 0), Err(SpoolError::InUse { pid: 4711, .. })));
    one.commit(b"x").unwrap();
    let name = journals(&disk)[0].clone();
    let mut header = disk.bytes(&name)[..4096].to_vec();
    header[12] = 9;
    let crc = crc32c::crc32c(&header[12..64]);
    header[8..12].copy_from_slice(&crc.to_le_bytes());
    disk.storage().open(&name, false).unwrap().write_at(&header, 0).unwrap();
    disk.kill();
    assert!(matches!(try_open(&disk, 0), Err(SpoolError::Version(9))));
}

#[test]
fn a_start_without_an_end_is_ambiguous_after_a_restart() {
    let disk = disk();
    let one = open(&disk);
    one.commit(b"x").unwrap();
    let envelope = one.spool.take(one.to).unwrap().unwrap();
    let (tell, hear) = std::sync::mpsc::channel();
    one.spool.settle_then(envelope.id, Settlement::Started { endpoint: Arc::from("primary"), at: 1_500 }, Box::new(move |r| tell.send(r).unwrap()));
    one.spool.lead();
    hear.recv().unwrap().unwrap();
    disk.power_loss();
    let two = open(&disk);
    assert_eq!(two.spool.counts(two.to).ambiguous, 1);
    let again = two.spool.take(two.to).unwrap().unwrap();
    assert_eq!(again.ambiguous_at, [Arc::from("primary")]);
    assert!(again.recovered);
}

#[test]
fn fan_out_is_all_or_nothing() {
    for seed in 0..40 {
        let disk = FaultyDisk::new(seed, 1 << 30);
        let one = open(&disk);
        let other = one.spool.destination("pacs").unwrap();
        one.commit(b"first").unwrap();
        disk.die_at(disk.operations() + 1);
        assert!(one.spool.commit(draft(&[b'x'; 3_000], &[(one.to, Lane::Own), (other, Lane::Own)])).is_err());
        disk.power_loss();
        let waiting = open(&disk).recovered.waiting;
        assert!(waiting == 1 || waiting == 3, "SEED={seed}: {waiting}");
    }
}

#[test]
fn second_copies_are_recognised_by_fingerprint_and_content() {
    let disk = disk();
    let one = open(&disk);
    let digested = |o: &Open, text: &[u8]| {
        let mut draft = draft(text, &[(o.to, Lane::Own)]);
        let sha256: [u8; 32] = <sha2::Sha256 as sha2::Digest>::digest(text).into();
        draft.keys.set(Key::Sha256, &sha256);
        (o.spool.commit(draft).unwrap().message(), sha256)
    };
    let (message, sha256) = digested(&one, b"same");
    let receipt = |o: &Open, sha: &[u8; 32]| o.spool.receipt_of_copy(7, sha, &[o.to]).map(|r| r.message());
    assert_eq!(receipt(&one, &sha256), Some(message));
    assert_eq!(receipt(&one, &[0; 32]), None);
    one.deliver().unwrap();
    assert_eq!(receipt(&one, &sha256), Some(message), "delivered counts");
    let (second, other) = digested(&one, b"other");
    let envelope = one.spool.take(one.to).unwrap().unwrap();
    assert_eq!(envelope.message, second);
    one.spool.settle(envelope.id, Settlement::DeadLetter(attempt("AE"), LaneRule::Continue)).unwrap();
    assert_eq!(receipt(&one, &other), None, "a dead letter does not");
    one.spool.lead();
    let undigested = one.commit(b"same").unwrap();
    assert_eq!(receipt(&one, &sha256), Some(message), "{undigested:?} has no digest, so nobody can say that it is the same");
    disk.kill();
    let two = open(&disk);
    assert_eq!((receipt(&two, &sha256), receipt(&two, &other)), (Some(message), None));
}
