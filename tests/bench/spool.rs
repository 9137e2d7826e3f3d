//! The spool by itself: what group commit, content and recovery cost beside the bare disk.

use crate::{ROUNDS, limits, median, row};
use bytes::Bytes;
use everpost_client::config::SpoolSettings;
use everpost_client::event::{Delivered, Events};
use everpost_client::ids::DestinationId;
use everpost_client::io::committer::Committer;
use everpost_client::io::disk::Directory;
use everpost_client::keys::{Key, Keys};
use everpost_client::spool::{Addressee, Content, Draft, Lane, Settlement, Spool};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const TIME: Duration = Duration::from_secs(2);
const IMAGE: usize = 530_000;

fn open(folder: &Path) -> Arc<Spool> {
    let settings = SpoolSettings { reserve: 0, ..SpoolSettings::default() };
    let (spool, _) = Spool::open(Directory::open(folder).unwrap(), settings, Events::none()).unwrap();
    Arc::new(spool)
}

fn draft(content: Content, to: DestinationId) -> Draft {
    let mut keys = Keys::new();
    for (key, value) in [
        (Key::Listener, "ris-in"),
        (Key::Peer, "127.0.0.1"),
        (Key::ControlId, "MSG00000000000001"),
        (Key::MessageType, "ORU^R01"),
        (Key::SendingApplication, "RIS"),
        (Key::SendingFacility, "HOSPITAL"),
        (Key::ReceivingApplication, "PACS"),
        (Key::Patient, "4711^^^HOSPITAL"),
    ] {
        keys.set(key, value.as_bytes());
    }
    let addressees = vec![Addressee { destination: to, lane: Lane::Key(0), stat: false }];
    Draft { keys, content, accepted_at: 1, addressees, fingerprint: Some(fastrand::u64(..)) }
}

/// Seconds of processor time of this process so far.
fn cpu() -> f64 {
    // SAFETY: an all-zero value is valid, and the pointer is good for the call.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

/// Commits per second of blocking callers.
fn blocking(spool: &Arc<Spool>, to: DestinationId, producers: usize) -> f64 {
    let body = Bytes::from(vec![b'x'; 2_000]);
    let done = AtomicU64::new(0);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..producers {
            scope.spawn(|| {
                while begin.elapsed() < TIME {
                    let _ = spool.commit(draft(Content::Whole(body.clone()), to)).unwrap();
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    done.into_inner() as f64 / begin.elapsed().as_secs_f64()
}

/// Commits per second of tasks that await.
fn waiting(committer: &Committer, to: DestinationId, producers: usize) -> f64 {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let begin = Instant::now();
    let total: u64 = runtime.block_on(async {
        let tasks: Vec<_> = (0..producers)
            .map(|_| {
                let committer = committer.clone();
                tokio::spawn(async move {
                    let body = Bytes::from(vec![b'x'; 2_000]);
                    let mut done = 0;
                    while begin.elapsed() < TIME {
                        let _ = committer.commit(draft(Content::Whole(body.clone()), to)).await.unwrap();
                        done += 1;
                    }
                    done
                })
            })
            .collect();
        let mut total = 0;
        for task in tasks {
            total += task.await.unwrap();
        }
        total
    });
    total as f64 / begin.elapsed().as_secs_f64()
}

/// Images per second of writers that commit each.
fn images(spool: &Arc<Spool>, to: DestinationId, writers: usize, count: usize) -> f64 {
    let image: Vec<u8> = (0..IMAGE).map(|i| (i * 31) as u8).collect();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..writers {
            scope.spawn(|| {
                for _ in 0..count / writers {
                    let mut writer = spool.content_writer().unwrap();
                    for piece in image.chunks(16_000) {
                        writer.write(piece).unwrap();
                    }
                    let _ = spool.commit(draft(Content::Streamed(writer.finish()), to)).unwrap();
                }
            });
        }
    });
    count as f64 / begin.elapsed().as_secs_f64()
}

/// The rows.
pub fn run(folder: &Path) {
    let place = folder.join("spool");
    let spool = open(&place);
    let committer = Committer::start(Arc::clone(&spool)).unwrap();
    let to = spool.destination("ris").unwrap();
    std::thread::sleep(Duration::from_secs(2)); // the first segment is prepared: not a test, nothing depends on it
    // Interleaved, because the disk drifts.
    let (mut bare, mut lone, mut lone_async, mut bare64, mut many, mut many_async) = (vec![], vec![], vec![], vec![], vec![], vec![]);
    let (mut cost, mut cost_async) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        bare.push(1.0 / median(limits::syncs(folder, 2_048, TIME / 2)));
        lone.push(blocking(&spool, to, 1));
        lone_async.push(waiting(&committer, to, 1));
        bare64.push(64.0 / median(limits::syncs(folder, 64 * 2_048, TIME / 2)));
        let start = (cpu(), Instant::now());
        let rate = blocking(&spool, to, 64);
        cost.push((cpu() - start.0) / (rate * start.1.elapsed().as_secs_f64()) * 1e6);
        many.push(rate);
        let start = (cpu(), Instant::now());
        let rate = waiting(&committer, to, 64);
        cost_async.push((cpu() - start.0) / (rate * start.1.elapsed().as_secs_f64()) * 1e6);
        many_async.push(rate);
    }
    let (bare, bare64) = (median(bare), median(bare64));
    row("2 kB, one blocking caller", median(lone), "msg/s", "bare write + sync", bare, "close to 1");
    row("2 kB, one task that awaits", median(lone_async), "msg/s", "bare write + sync", bare, "close to 1");
    row("2 kB, 64 blocking callers", median(many), "msg/s", "bare groups of 64", bare64, "at least 0.7");
    row("2 kB, 64 tasks that await", median(many_async), "msg/s", "bare groups of 64", bare64, "at least 0.7");
    println!("  processor time of a commit: {:.1} us blocking, {:.1} us awaited (64 at once)", median(cost), median(cost_async));
    let image = vec![3; IMAGE];
    let (mut bare, mut one, mut eight) = (vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        bare.push(limits::image_loop(folder, &image, 400));
        one.push(images(&spool, to, 1, 200));
        eight.push(images(&spool, to, 8, 400));
    }
    let bare = median(bare);
    row("0.53 MB, one writer", median(one), "img/s", "bare loop, sync every 8", bare, "(0.6 of storescp)");
    row("0.53 MB, eight writers", median(eight), "img/s", "bare loop, sync every 8", bare, "at least 0.8");
    println!("  resident {:.1} MiB with {} waiting", resident(), spool.counts(to).ready);
    drop(committer);
    spool.close().unwrap();
    drop(spool);
    std::fs::remove_dir_all(&place).unwrap();
    backlog(folder);
}

/// A million envelopes: memory of each, time to open.
fn backlog(folder: &Path) {
    let wanted: u64 = std::env::var("BENCH_BACKLOG").ok().and_then(|v| v.parse().ok()).unwrap_or(1_000_000);
    let place = folder.join("backlog");
    let spool = open(&place);
    let committer = Committer::start(Arc::clone(&spool)).unwrap();
    let to = spool.destination("ris").unwrap();
    let before = resident();
    let first = median((0..ROUNDS).map(|_| waiting(&committer, to, 64)).collect());
    while spool.counts(to).ready < wanted {
        waiting(&committer, to, 64);
    }
    let last = median((0..ROUNDS).map(|_| waiting(&committer, to, 64)).collect());
    row("2 kB, 64 tasks, backlog waiting", last, "msg/s", "with little waiting", first, "at least 0.95");
    let waits = spool.counts(to).ready;
    println!(
        "  {waits} waiting: resident {:.1} MiB, {:.1} before: {:.0} bytes each",
        resident(),
        before,
        (resident() - before) * 1048576.0 / waits as f64
    );
    // As after a kill: nothing is sealed beyond what the keeper sealed.
    drop(committer);
    drop(spool);
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        let spool = open(&place);
        took.push(begin.elapsed().as_secs_f64());
        assert_eq!(spool.counts(to).ready, waits);
        let envelope = spool.take(to).unwrap().unwrap();
        spool.untake(envelope.id);
    }
    println!("  open with them: {:.2} s (wanted below 5)", median(took));
    let spool = open(&place);
    let begin = Instant::now();
    let mut delivered = 0;
    while let Some(envelope) = spool.take(to).unwrap() {
        let mut reader = spool.open_content(envelope.message).unwrap();
        while reader.next_chunk().unwrap().is_some() {}
        let phase = everpost_client::delivery::Phase::Answer;
        let record = everpost_client::spool::AttemptRecord::new(Arc::from("primary"), phase, "AA".to_owned(), 2);
        spool.settle(envelope.id, Settlement::Delivered(record, Delivered::Ok)).unwrap();
        delivered += 1;
        if delivered % 64 == 0 {
            spool.lead();
        }
        if begin.elapsed() > TIME * 2 {
            break;
        }
    }
    println!("  taken, read and settled, 64 to a sync: {:.0}/s", f64::from(delivered) / begin.elapsed().as_secs_f64());
    drop(spool);
    std::fs::remove_dir_all(&place).unwrap();
}
