//! Senders that go on while the gateway dies and comes back, and the reckoning afterwards: what was answered, what arrived.
//! Rules: a sender waits for each answer and never sends an id twice: what was not answered may arrive or not, what was answered positively must.
//! Errors: a broken connection ends a sender's try, not the sender; the reckoning panics with the ids.

use crate::dicom::{Association, CT, EXPLICIT, propose};
use crate::mllp::Client;
use crate::synthetic::{CHARSETS, ct, instance, oru};
use crate::{sha256, world};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Senders of both protocols.
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
    answered: Arc<Mutex<BTreeMap<String, String>>>,
    refused: Arc<AtomicU64>,
    count: Arc<AtomicU64>,
}

impl Load {
    /// Starts `hl7` senders of about `hl7_size` bytes and `dicom` senders of about `image` bytes of pixels. Ids begin with `prefix`; `series` numbers UIDs.
    #[must_use]
    pub fn start(prefix: &str, series: u64, hl7: (SocketAddr, usize, usize), dicom: (SocketAddr, usize, usize)) -> Self {
        let mut load = Self { stop: Arc::default(), threads: Vec::new(), answered: Arc::default(), refused: Arc::default(), count: Arc::default() };
        for sender in 0..hl7.1 {
            let prefix = format!("{prefix}{sender}-");
            load.spawn(move |shared| send_hl7(shared, hl7.0, &prefix, sender, hl7.2));
        }
        for sender in 0..dicom.1 {
            load.spawn(move |shared| send_dicom(shared, dicom.0, series * 100 + sender as u64, dicom.2));
        }
        load
    }

    fn spawn(&mut self, work: impl FnOnce(&Shared) + Send + 'static) {
        let shared = Shared { stop: self.stop.clone(), answered: self.answered.clone(), refused: self.refused.clone(), count: self.count.clone() };
        self.threads.push(std::thread::spawn(move || work(&shared)));
    }

    /// Positive answers so far.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// Negative answers so far.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::SeqCst)
    }

    /// Waits for `more` further positive answers.
    #[track_caller]
    pub fn progress(&self, more: u64, seconds: u64) {
        let from = self.answered();
        world::until(&format!("{more} more positive answers"), seconds, || self.answered() >= from + more);
    }

    /// Stops the senders; gives id and SHA-256 of everything that was answered positively.
    #[must_use]
    pub fn stop(mut self) -> BTreeMap<String, String> {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().expect("a sender");
        }
        std::mem::take(&mut *self.answered.lock().unwrap())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

struct Shared {
    stop: Arc<AtomicBool>,
    answered: Arc<Mutex<BTreeMap<String, String>>>,
    refused: Arc<AtomicU64>,
    count: Arc<AtomicU64>,
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn positive(&self, id: String, sha: String) {
        self.answered.lock().unwrap().insert(id, sha);
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    fn negative(&self) {
        self.refused.fetch_add(1, Ordering::SeqCst);
        self.pause();
    }

    /// The pace of a sender that was refused or cannot connect.
    fn pause(&self) {
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn send_hl7(shared: &Shared, to: SocketAddr, prefix: &str, sender: usize, size: usize) {
    let mut number = 0;
    while !shared.stopped() {
        let Ok(client) = Client::connect(to) else {
            shared.pause();
            continue;
        };
        let mut client = client.patience(Duration::from_secs(10));
        while !shared.stopped() {
            let id = format!("{prefix}{number:06}");
            // Every tenth is too large to stand in the journal beside its record.
            let message = oru(&id, sender, if number % 10 == 9 { size.max(80_000) } else { size }, CHARSETS[number % 5]);
            number += 1;
            match client.send(&message) {
                Ok(ack) if ack.positive() && ack.id == id => shared.positive(id, sha256(&message)),
                Ok(ack) if ack.positive() => panic!("the answer to {id} names {}", ack.id),
                Ok(_) => shared.negative(),
                Err(_) => break,
            }
        }
    }
}

fn send_dicom(shared: &Shared, to: SocketAddr, series: u64, size: usize) {
    let mut number = 0;
    while !shared.stopped() {
        let Ok(mut association) = Association::open(to, "EVERPOST", "LOAD", &propose(CT, EXPLICIT)) else {
            shared.pause();
            continue;
        };
        while !shared.stopped() {
            let id = instance(series, number);
            let set = ct(&id, number, size);
            number += 1;
            match association.store(CT, &id, &set) {
                Ok(0) => shared.positive(id, sha256(&set)),
                Ok(_) => shared.negative(),
                Err(_) => break,
            }
        }
    }
}

/// Panics unless everything answered has arrived with its bytes.
#[track_caller]
pub fn nothing_lost(answered: &BTreeMap<String, String>, arrived: &BTreeMap<String, String>) {
    let lost: Vec<&String> = answered.keys().filter(|id| !arrived.contains_key(*id)).collect();
    assert!(lost.is_empty(), "{} of {} positively answered messages are lost: {:?}", lost.len(), answered.len(), &lost[..lost.len().min(20)]);
    let changed: Vec<&String> = answered.iter().filter(|(id, sha)| &arrived[*id] != *sha).map(|(id, _)| id).collect();
    assert!(changed.is_empty(), "arrived with other bytes: {changed:?}");
}

/// Panics unless the first arrivals of each sender (the part of an id before its last `-`) are in the order of their ids.
#[track_caller]
pub fn in_order(ids: &[String]) {
    let mut last: BTreeMap<&str, &str> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for id in ids {
        if !seen.insert(id) {
            continue;
        }
        let sender = id.rsplit_once('-').map_or("", |(sender, _)| sender);
        if let Some(before) = last.insert(sender, id) {
            assert!(before < id.as_str(), "{id} arrived after {before}");
        }
    }
}

/// Panics if something arrived twice although its first arrival was longer than `window` before a kill.
#[track_caller]
pub fn repeated_only_around(arrivals: &[(String, Instant)], kills: &[Instant], window: Duration) {
    let (mut repeated, mut widest) = (0, Duration::ZERO);
    let mut first: BTreeMap<&str, Instant> = BTreeMap::new();
    for (id, at) in arrivals {
        let Some(before) = first.get(id.as_str()) else {
            first.insert(id, *at);
            continue;
        };
        // What was on its way at a kill may be read by the receiver a moment after it.
        let late = Duration::from_millis(100);
        let killed = kills.iter().find(|kill| **kill + late >= *before && **kill <= *at);
        let Some(killed) = killed else { panic!("{id} arrived twice, {:?} apart, with no kill between", at.duration_since(*before)) };
        let gap = killed.saturating_duration_since(*before);
        assert!(gap <= window, "{id} arrived {gap:?} before the kill and again after it");
        (repeated, widest) = (repeated + 1, widest.max(gap));
    }
    println!("{repeated} arrived twice, at most {widest:?} before a kill");
}
