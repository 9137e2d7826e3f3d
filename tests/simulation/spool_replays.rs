//! Replays and time: what a window may need stays in history and is let go later; an order that a crash cut goes on where it stopped.

use crate::spool::{attempt, draft};
use bytes::Bytes;
use everpost_client::config::SpoolSettings;
use everpost_client::event::{Delivered, Events};
use everpost_client::ids::DestinationId;
use everpost_client::spool::{Content, Keep, Lane, Mark, Range, ReplayOrder, Settlement, Since, Spool};
use harness::faulty_disk::FaultyDisk;
use std::time::Duration;

const MINUTE: u64 = 60_000;
const HISTORY: u64 = 5 * MINUTE;
/// What may have to be replayed: longer than history is kept.
const WINDOW: u64 = 30 * MINUTE;

fn settings() -> SpoolSettings {
    SpoolSettings { reserve: 0, segment_size: 256 << 10, history: Duration::from_millis(HISTORY), ..SpoolSettings::default() }
}

/// Delivers so many messages of 50 kB at `at`.
fn delivered(spool: &Spool, to: DestinationId, count: usize, at: u64) {
    for n in 0..count {
        let mut one = draft(b"whole", &[(to, Lane::Own)]);
        (one.accepted_at, one.fingerprint, one.content) = (at, None, Content::Whole(Bytes::from(vec![n as u8; 50_000])));
        let _receipt = spool.commit(one).unwrap();
        let envelope = spool.take(to).unwrap().unwrap();
        let mut one = attempt("AA");
        one.at = at;
        spool.settle(envelope.id, Settlement::Delivered(one, Delivered::Ok)).unwrap();
    }
    while spool.lead() {}
}

#[test]
fn what_a_window_may_need_stays_and_is_let_go_when_it_has_passed() {
    for set in [0_i64, 5 * 3_600_000, -5 * 3_600_000] {
        let disk = FaultyDisk::new(3, 256 << 20);
        let (spool, _) = Spool::open(disk.storage(), settings(), Events::none()).unwrap();
        let to = spool.destination("pacs").unwrap();
        let begun = 1_000_000_000_000_u64;
        spool.keep_for_replay(to, Keep { window: Duration::from_millis(WINDOW), since: None }, begun);
        let mark = spool.mark(begun);
        delivered(&spool, to, 100, begun);
        let since = |mark| Range { endpoint: None, since: Since::Mark(mark), until: None };
        let order = |mark| ReplayOrder { id: 1, ranges: vec![since(mark)], unless: Vec::new(), ahead: false };
        // Most of the window later, long after history's end, whatever the clock was set to meanwhile: all of it is there.
        let wall = |millis: u64| (begun as i64 + set + millis as i64) as u64;
        for second in 1..25 * 60 {
            spool.maintain(if second < 60 { begun + second * 1_000 } else { wall(second * 1_000) });
        }
        let bytes = spool.usage().bytes;
        let planned = spool.plan_replay(to, &order(mark)).unwrap();
        assert_eq!((planned.envelopes, planned.gone), (100, 0), "the clock was set by {set} ms");
        // When nothing can need it any more it goes; what comes meanwhile makes the segments change.
        let late = wall(3 * WINDOW).max(begun + 3 * WINDOW);
        for second in 0..40 {
            delivered(&spool, to, 3, late + second * 10_000);
            spool.maintain(late + second * 10_000);
        }
        for second in 0..2 * WINDOW / 10_000 {
            spool.maintain(late + 400_000 + second * 10_000);
        }
        let left = spool.usage().bytes;
        assert!(left < bytes / 2, "{left} of {bytes} bytes are still there, the clock was set by {set} ms");
    }
}

#[test]
fn an_order_that_a_crash_cut_goes_on_where_it_stopped() {
    for (settled, refused) in [(1, 0), (3, 1), (6, 6)] {
        let disk = FaultyDisk::new(5, 256 << 20);
        let (spool, _) = Spool::open(disk.storage(), settings(), Events::none()).unwrap();
        let to = spool.destination("pacs").unwrap();
        let begun = 1_000_000_000_000;
        let since = Since::Mark(Mark { number: 0, at: begun });
        delivered(&spool, to, 6, begun);
        // By hand: of all endpoints, and nobody counts as having it.
        let range = Range { endpoint: None, since, until: None };
        let order = ReplayOrder { id: 1, ranges: vec![range], unless: Vec::new(), ahead: true };
        assert_eq!(spool.replay(to, &order, b"").unwrap().envelopes, 6);
        for n in 0..settled {
            let envelope = spool.take(to).unwrap().unwrap();
            assert!(envelope.replay);
            let mut one = attempt("AA");
            one.at = begun + 1_000;
            let end = if n < refused { Settlement::ReplayEnded(one) } else { Settlement::Delivered(one, Delivered::Ok) };
            spool.settle(envelope.id, end).unwrap();
        }
        while spool.lead() {}
        drop(spool);
        disk.kill();
        let (spool, _) = Spool::open(disk.storage(), settings(), Events::none()).unwrap();
        let to = spool.destination("pacs").unwrap();
        let made = spool.replay(to, &order, b"").unwrap().envelopes;
        assert_eq!((made, spool.replays_left(to)), (0, 6 - settled), "{settled} had ended, {refused} of them refused");
        // Another order says again what does not wait.
        assert_eq!(spool.plan_replay(to, &ReplayOrder { id: 2, ..order }).unwrap().envelopes, settled);
    }
}
