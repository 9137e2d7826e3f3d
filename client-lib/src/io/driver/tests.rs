//! The driver on a real spool with a scripted courier: panics, stop, reload, hold, watchdog. Rules: no sleeping for luck; every wait has a deadline.

use super::*;
use crate::config::{Destination, SpoolSettings};
use crate::delivery::standby::Refusal;
use crate::endpoint::fixture;
use crate::event::Event;
use crate::io::disk::Directory;
use crate::keys::{Key, Keys, Protocol};
use crate::spool::{Addressee, Content, Draft, Lane};
use bytes::Bytes;
use std::net::SocketAddr;
use tokio::sync::Semaphore;

/// What the courier does with the next attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Good,
    /// Answers when the test lets it.
    Slow,
    Panic,
    Silent,
}

struct Fake {
    manner: Mutex<Manner>,
    let_go: Semaphore,
    began: AtomicU64,
    delivered: Mutex<Vec<(u64, u16)>>,
    probes: AtomicU64,
    /// Rehearsals find that these kinds are refused; and what was rehearsed last.
    refuses: Mutex<Vec<&'static str>>,
    rehearsed: Mutex<Vec<Kind>>,
}

impl Fake {
    fn new(manner: Manner) -> Arc<Self> {
        let (let_go, began, probes) = (Semaphore::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let (refuses, rehearsed) = (Mutex::default(), Mutex::default());
        Arc::new(Self { manner: Mutex::new(manner), let_go, began, delivered: Mutex::default(), probes, refuses, rehearsed })
    }

    fn becomes(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    fn delivered(&self) -> Vec<u64> {
        self.delivered.lock().unwrap().iter().map(|(id, _)| *id).collect()
    }
}

struct Way(Arc<Fake>);

impl Courier for Way {
    fn attempt(&self, order: Order) -> Boxed<Outcome> {
        let fake = Arc::clone(&self.0);
        Box::pin(async move {
            fake.began.fetch_add(1, Ordering::AcqRel);
            let manner = *fake.manner.lock().unwrap();
            match manner {
                Manner::Good => {}
                Manner::Slow => fake.let_go.acquire().await.unwrap().forget(),
                Manner::Panic => panic!("a fault of the courier"),
                Manner::Silent => return Outcome::Unanswered { silence: Silence::Lost, cause: "closed".to_owned() },
            }
            fake.delivered.lock().unwrap().push((order.envelope.id.0, order.endpoint.0));
            Outcome::Stored { status: 0 }
        })
    }
    fn probe(&self, _: EndpointId, _: bool) -> Boxed<Result<Duration, ProbeFailure>> {
        self.0.probes.fetch_add(1, Ordering::AcqRel);
        Box::pin(async { Ok(Duration::ZERO) })
    }
    fn rehearse(&self, endpoint: EndpointId, kinds: Vec<Kind>, _: Duration) -> Boxed<Rehearsed> {
        assert_eq!(endpoint.0, 1, "the active one is not rehearsed with");
        let refuses = self.0.refuses.lock().unwrap().clone();
        let refusals = kinds.iter().filter(|kind| refuses.contains(&kind.sop_class.as_str())).cloned().map(Refusal::Class).collect();
        *self.0.rehearsed.lock().unwrap() = kinds;
        Box::pin(async move { Ok(refusals) })
    }
    fn drain(&self, _: EndpointId) {}
    fn connected(&self, _: EndpointId) -> Vec<SocketAddr> {
        vec![SocketAddr::from(([127, 0, 0, 1], 104))]
    }
    fn resolved(&self, _: EndpointId) -> Vec<SocketAddr> {
        Vec::new()
    }
}

struct Bench {
    _dir: tempfile::TempDir,
    committer: Committer,
    id: DestinationId,
    drivers: Drivers,
    stopper: crate::io::stop::Stopper,
    stop: Stop,
    events: Events,
    heard: Arc<Mutex<Vec<Event>>>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let heard: Arc<Mutex<Vec<Event>>> = Arc::default();
        let ear = Arc::clone(&heard);
        let events = Events::to(move |event| ear.lock().unwrap().push(event));
        let settings = SpoolSettings { reserve: 0, segment_size: 1 << 20, ..SpoolSettings::default() };
        let (spool, _) = Spool::open(Directory::open(dir.path()).unwrap(), settings, events.clone()).unwrap();
        let committer = Committer::start(Arc::new(spool)).unwrap();
        let id = committer.spool().destination("there").unwrap();
        let drivers = Drivers::default();
        drivers.attach(committer.spool());
        let (stopper, stop) = Stop::new();
        Self { _dir: dir, committer, id, drivers, stopper, stop, events, heard }
    }

    fn drive(&self, destination: Destination, fake: &Arc<Fake>) -> Driver {
        self.drive_as(destination, fake, false)
    }

    fn drive_as(&self, destination: Destination, fake: &Arc<Fake>, paused: bool) -> Driver {
        let (way, destination) = (Arc::new(Way(Arc::clone(fake))), Arc::new(destination));
        let driver = Driver::start(
            destination,
            self.id,
            self.committer.clone(),
            way,
            self.events.clone(),
            self.stop.clone(),
            Wishes { paused, ..Wishes::default() },
        );
        self.drivers.add(&driver);
        driver
    }

    async fn commit(&self, count: usize) {
        for _ in 0..count {
            let addressees = vec![Addressee { destination: self.id, lane: Lane::Own, stat: false }];
            let content = Content::Whole(Bytes::from_static(b"image"));
            let draft = Draft { keys: Keys::new(), content, accepted_at: 1, addressees, fingerprint: None };
            let _ = self.committer.commit(draft).await.unwrap();
        }
    }

    /// Waits for something that must come.
    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !holds() {
            assert!(Instant::now() < deadline, "never came: {what}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn alarms(&self, text: &str) -> usize {
        let matches = |e: &&Event| matches!(e, Event::Alarm { what, raised: true, .. } if what.contains(text));
        self.heard.lock().unwrap().iter().filter(matches).count()
    }
}

fn there() -> Destination {
    let mut d = fixture::destination(Protocol::Dicom, &["a", "b"]);
    d.retry_first = Duration::from_millis(5);
    d.retry_max = Duration::from_millis(50);
    d
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_committed_is_delivered_without_anybody_asking() {
    let bench = Bench::new();
    let fake = Fake::new(Manner::Good);
    bench.commit(5).await;
    let driver = bench.drive(there(), &fake);
    bench.until("the backlog", || fake.delivered().len() == 5).await;
    bench.commit(5).await;
    bench.until("what came later", || fake.delivered().len() == 10).await;
    bench.until("the settlements", || driver.status().in_flight == 0).await;
    let status = driver.status();
    assert_eq!((status.active, status.ready, status.policy), (vec!["a".to_owned()], 0, "failover"));
    assert_eq!((status.endpoints[0].health, status.endpoints[0].connected.as_slice()), ("up", &["127.0.0.1:104".to_owned()][..]));
    assert!(fake.probes.load(Ordering::Acquire) >= 2, "both endpoints are probed at once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_window_bounds_attempts_and_pause_stops_taking() {
    let bench = Bench::new();
    let fake = Fake::new(Manner::Slow);
    let driver = bench.drive(there(), &fake);
    bench.commit(20).await;
    bench.until("four at a time", || fake.began.load(Ordering::Acquire) == 4).await;
    driver.pause();
    fake.let_go.add_permits(4);
    bench.until("those end", || fake.delivered().len() == 4 && driver.status().in_flight == 0).await;
    let status = driver.status();
    assert_eq!((status.paused, status.ready, fake.began.load(Ordering::Acquire)), (true, 16, 4));
    assert!(status.reason.starts_with("paused"), "{}", status.reason);
    fake.let_go.add_permits(100);
    driver.resume();
    bench.until("all", || fake.delivered().len() == 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_commit_is_heard_of_and_none_that_could_not_be_sent_wakes_anybody() {
    let bench = Bench::new();
    let fake = Fake::new(Manner::Good);
    let driver = bench.drive(there(), &fake);
    // One at a time, so that the driver falls asleep between many of them: a wake that is lost shows as a message that stays.
    for count in 1..=200 {
        bench.commit(1).await;
        if count % 3 == 0 {
            bench.until("the message just committed", || fake.delivered().len() == count).await;
        }
    }
    bench.until("all of them", || fake.delivered().len() == 200).await;
    let listens = || driver.0.listens.load(Ordering::Acquire);
    bench.until("it found nothing more", listens).await;
    driver.pause();
    bench.commit(1).await;
    bench.until("it has heard that something waits", || !listens()).await;
    bench.commit(20).await;
    assert!(!listens(), "it need not hear of the others");
    driver.resume();
    bench.until("the rest", || fake.delivered().len() == 221).await;
    bench.until("it found nothing more", listens).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_starts_paused_delivers_nothing_before_it_is_resumed() {
    let bench = Bench::new();
    let fake = Fake::new(Manner::Good);
    bench.commit(5).await;
    let unordered = Destination { ordering: config::Ordering::None, ..there() };
    let driver = bench.drive_as(unordered, &fake, true);
    bench.until("the loop runs: both endpoints are probed", || fake.probes.load(Ordering::Acquire) >= 2).await;
    let status = driver.status();
    assert_eq!((status.paused, status.ready, fake.began.load(Ordering::Acquire)), (true, 5, 0));
    driver.resume();
    bench.until("all", || fake.delivered().len() == 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_an_attempt_is_an_outcome() {
    let bench = Bench::new();
    let fake = Fake::new(Manner::Panic);
    let driver = bench.drive(there(), &fake);
    bench.commit(3).await;
    bench.until("tries", || fake.began.load(Ordering::Acquire) >= 6).await;
    assert_eq!(driver.status().active, ["a"], "our fault says nothing against the endpoint");
    fake.becomes(Manner::Good);
    bench.until("all", || fake.delivered().len() == 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loop_survives_its_own_panic() {
    let bench = Bench::new();
    let fake = Fake::new(Manner::Slow);
    let driver = bench.drive(there(), &fake);
    bench.commit(6).await;
    bench.until("four at a time", || fake.began.load(Ordering::Acquire) == 4).await;
    fake.becomes(Manner::Good);
    driver.0.broken.store(true, Ordering::Release);
    driver.kick();
    bench.until("all, after a rest", || driver.status().ready + driver.status().in_flight + driver.status().deferred == 0).await;
    let mut delivered = fake.delivered();
    delivered.sort_unstable();
    delivered.dedup();
    assert_eq!(delivered.len(), 6);
    assert_eq!(bench.alarms("the delivery loop broke"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_lets_attempts_end_and_abort_cuts_them() {
    let bench = Bench::new();
    let fake = Fake::new(Manner::Slow);
    let driver = bench.drive(there(), &fake);
    bench.commit(6).await;
    bench.until("four at a time", || fake.began.load(Ordering::Acquire) == 4).await;
    bench.stopper.stop();
    fake.let_go.add_permits(1);
    bench.until("one ends, and the driver knows", || fake.delivered().len() == 1 && driver.status().in_flight == 3).await;
    let early = tokio::time::timeout(Duration::from_millis(50), driver.finished()).await;
    assert!(early.is_err(), "three are still under way");
    driver.abort();
    tokio::time::timeout(Duration::from_secs(10), driver.finished()).await.unwrap();
    let status = driver.status();
    assert_eq!(
        (status.ready + status.deferred, status.in_flight, status.ambiguous),
        (5, 0, 3),
        "nothing new was taken; what was cut may have arrived"
    );
    assert_eq!(fake.began.load(Ordering::Acquire), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_changes_the_way_while_messages_wait() {
    let bench = Bench::new();
    let (old, new) = (Fake::new(Manner::Slow), Fake::new(Manner::Good));
    let driver = bench.drive(there(), &old);
    bench.commit(10).await;
    bench.until("four at a time", || old.began.load(Ordering::Acquire) == 4).await;
    let mut changed = there();
    changed.endpoints.remove(0);
    driver.reconfigure(Arc::new(changed), Arc::new(Way(Arc::clone(&new)))).await;
    old.let_go.add_permits(4);
    bench.until("all", || old.delivered().len() + new.delivered().len() == 10).await;
    assert_eq!((old.delivered().len(), driver.status().active), (4, vec!["b".to_owned()]), "what was under way ends on the old way");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hold_records_the_start_before_the_attempt_and_shows_it() {
    let bench = Bench::new();
    let fake = Fake::new(Manner::Silent);
    let mut hold = there();
    hold.ambiguous = Ambiguous::Hold;
    let driver = bench.drive(hold, &fake);
    bench.commit(3).await;
    bench.until("held", || driver.status().held == 3).await;
    assert_eq!((fake.began.load(Ordering::Acquire), driver.status().ambiguous), (3, 3), "one attempt each");
}

#[tokio::test(start_paused = true)]
async fn the_watchdog_finds_what_nobody_said() {
    let bench = Bench::new();
    let fake = Fake::new(Manner::Good);
    let driver = bench.drive(there(), &fake);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    bench.drivers.remove(bench.id);
    // Committed where no wake can come from.
    bench.commit(2).await;
    let before = Instant::now();
    while fake.delivered().len() < 2 {
        assert!(before.elapsed() < Duration::from_secs(120), "nobody looked");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(bench.alarms("nothing had said so") >= 1);
    assert_eq!(driver.id(), bench.id);
}

const MG: &str = "1.2.840.10008.5.1.4.1.1.1.2";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_would_refuse_is_told_once_and_what_was_seen_is_remembered() {
    let bench = Bench::new();
    let fake = Fake::new(Manner::Good);
    fake.refuses.lock().unwrap().push(MG);
    let mut d = there();
    for endpoint in &mut d.endpoints {
        let health = config::HealthSettings { rehearse: Duration::from_millis(20), ..endpoint.health.clone() };
        *endpoint = Arc::new(config::Endpoint { health, ..(**endpoint).clone() });
    }
    let driver = bench.drive(d.clone(), &fake);
    let mut keys = Keys::new();
    for (key, value) in [(Key::SopClass, MG), (Key::TransferSyntax, "1.2.840.10008.1.2.1"), (Key::Modality, "MG")] {
        keys.set(key, value.as_bytes());
    }
    let addressees = vec![Addressee { destination: bench.id, lane: Lane::Own, stat: false }];
    let draft = Draft { keys, content: Content::Whole(Bytes::from_static(b"image")), accepted_at: 1, addressees, fingerprint: None };
    let _receipt = bench.committer.commit(draft).await.unwrap();
    let standby = |driver: &Driver| driver.status().endpoints[1].clone();
    bench.until("it is found out", || standby(&driver).ready == Some(false)).await;
    let seen = standby(&driver);
    assert_eq!((seen.health, seen.degraded.len()), ("degraded", 1));
    assert!(seen.degraded[0].starts_with("would refuse MG (Digital Mammography"), "{seen:?}");
    assert!(!driver.status().is_ok());
    assert_eq!(bench.alarms("endpoint b is degraded: would refuse MG"), 1);
    bench.until("it is remembered", || bench.committer.spool().remembered().iter().any(|(name, _)| name == "seen/there")).await;
    // The next run of the process begins with what this one has seen.
    let next = Fake::new(Manner::Good);
    let again = bench.drive(d, &next);
    bench.until("it is rehearsed without traffic", || next.rehearsed.lock().unwrap().iter().any(|kind| kind.sop_class == MG)).await;
    assert_eq!(standby(&again).ready, Some(true));
    fake.refuses.lock().unwrap().clear();
    bench.until("it is over", || standby(&driver).ready == Some(true)).await;
    assert!(standby(&driver).degraded.is_empty());
}
