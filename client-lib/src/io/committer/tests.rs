//! Who leads a group, and what becomes of it when the leader fails. On a real directory behind a disk that counts syncs and panics when told.

use super::*;
use crate::config::SpoolSettings;
use crate::event::{Event, Events};
use crate::ids::DestinationId;
use crate::io::disk::Directory;
use crate::keys::Keys;
use crate::spool::storage::{File, Storage};
use crate::spool::{Addressee, Content, Lane};
use bytes::Bytes;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// A disk that counts, and panics once when told.
#[derive(Debug, Clone)]
struct Disk {
    inner: Arc<dyn Storage>,
    syncs: Arc<AtomicU64>,
    panics: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Opened {
    inner: Arc<dyn File>,
    disk: Disk,
}

impl Storage for Disk {
    fn lock(&self) -> io::Result<()> {
        self.inner.lock()
    }
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(Opened { inner: self.inner.open(name, create)?, disk: self.clone() }))
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.list()
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn delete(&self, name: &str) -> io::Result<()> {
        self.inner.delete(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.inner.sync_dir()
    }
    fn space(&self) -> io::Result<(u64, u64)> {
        self.inner.space()
    }
    fn place(&self) -> String {
        self.inner.place()
    }
}

impl File for Opened {
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.inner.write_at(bytes, at)
    }
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, at)
    }
    fn sync(&self) -> io::Result<()> {
        assert!(!self.disk.panics.swap(false, Ordering::SeqCst), "told to");
        self.disk.syncs.fetch_add(1, Ordering::SeqCst);
        self.inner.sync()
    }
    fn write_through(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.inner.write_through(bytes, at)
    }
    fn read_through(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        self.inner.read_through(buffer, at)
    }
    fn allocate(&self, size: u64) -> io::Result<()> {
        self.inner.allocate(size)
    }
    fn truncate(&self, size: u64) -> io::Result<()> {
        self.inner.truncate(size)
    }
    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }
}

/// What the spool told people.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<String>>);

struct Stage {
    disk: Disk,
    told: Arc<Told>,
    spool: Arc<Spool>,
    to: DestinationId,
    _dir: tempfile::TempDir,
}

impl Stage {
    /// Without threads, so that nothing but the test syncs.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk { inner: Directory::open(dir.path()).unwrap(), syncs: Arc::default(), panics: Arc::default() };
        let told = Arc::new(Told::default());
        let settings = SpoolSettings { reserve: 0, segment_size: 1 << 20, ..SpoolSettings::default() };
        let events = Events::to({
            let told = Arc::clone(&told);
            move |event| {
                if let Event::Incident { what, .. } = event {
                    told.0.lock().unwrap().push(what);
                }
            }
        });
        let (spool, _) = Spool::open(Arc::new(disk.clone()), settings, events).unwrap();
        let to = spool.destination("ris").unwrap();
        Self { disk, told, spool: Arc::new(spool), to, _dir: dir }
    }

    fn draft(&self) -> Draft {
        let addressees = vec![Addressee { destination: self.to, lane: Lane::Own, stat: false }];
        Draft { keys: Keys::new(), content: Content::Whole(Bytes::from_static(b"MSH|")), accepted_at: 1, addressees, fingerprint: None }
    }

    fn committer(&self) -> Committer {
        Committer::start(Arc::clone(&self.spool)).unwrap()
    }

    fn waiting(&self) -> u64 {
        self.spool.counts(self.to).ready
    }

    fn panics_told(&self) -> usize {
        self.told.0.lock().unwrap().iter().filter(|what| what.contains("panic")).count()
    }
}

/// Commits, giving up after a while: a commit that hangs is what these tests look for.
async fn commit(committer: &Committer, draft: Draft) -> Result<Receipt, SpoolError> {
    tokio::time::timeout(Duration::from_secs(20), committer.commit(draft)).await.expect("the commit hangs")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_task_commits_together_is_one_group() {
    let stage = Stage::new();
    // No threads at all: whoever commits alone leads.
    let committer = Committer { spool: Arc::clone(&stage.spool), threads: Arc::new(Threads { signal: Arc::default(), running: Mutex::default() }) };
    let before = stage.disk.syncs.load(Ordering::SeqCst);
    let mut commits: Vec<_> = (0..50).map(|_| Box::pin(commit(&committer, stage.draft()))).collect();
    for commit in &mut commits {
        // As a listener does with what a sender pipelines: each is begun before any is waited for.
        assert!(poll_fn(|cx| Poll::Ready(commit.as_mut().poll(cx).is_pending())).await);
    }
    for commit in commits {
        assert!(commit.await.is_ok());
    }
    assert_eq!(stage.disk.syncs.load(Ordering::SeqCst) - before, 1);
    assert_eq!(stage.waiting(), 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_task_went_away_is_led_by_the_thread() {
    let stage = Stage::new();
    let committer = stage.committer();
    let mut begun = Box::pin(committer.commit(stage.draft()));
    assert!(poll_fn(|cx| Poll::Ready(begun.as_mut().poll(cx).is_pending())).await);
    drop(begun);
    let seen = async {
        while stage.waiting() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), seen).await.is_ok(), "nobody led");
    committer.stop().await.unwrap();
}

/// In place, by the thread (a runtime of one thread leads nothing in place) and by a blocking caller: the group fails, the next is taken.
#[test]
fn a_panic_while_a_group_is_written_fails_that_group_and_no_other() {
    let runtimes = [
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap(),
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
    ];
    for runtime in runtimes {
        let stage = Stage::new();
        let first = stage.spool.commit(stage.draft());
        assert!(first.is_ok());
        stage.disk.panics.store(true, Ordering::SeqCst);
        assert!(matches!(stage.spool.commit(stage.draft()), Err(SpoolError::NotDurable { .. })));
        assert_eq!(stage.panics_told(), 1);
        // Nobody but the commit syncs until it has panicked: the threads start behind it.
        runtime.block_on(async {
            let committer = stage.committer();
            assert!(
                tokio::spawn({
                    let (committer, draft) = (committer.clone(), stage.draft());
                    async move { commit(&committer, draft).await.is_ok() }
                })
                .await
                .unwrap()
            );
            committer.stop().await.unwrap();
        });
        assert_eq!(stage.waiting(), 2);
    }
}

#[test]
fn a_panic_in_what_the_leader_calls_stops_nobody() {
    let runtimes = [
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap(),
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
    ];
    for runtime in runtimes {
        let stage = Stage::new();
        stage.spool.on_ready(Box::new(|_| panic!("told to")));
        runtime.block_on(async {
            let committer = stage.committer();
            for _ in 0..3 {
                let (committer, draft) = (committer.clone(), stage.draft());
                assert!(tokio::spawn(async move { commit(&committer, draft).await.is_ok() }).await.unwrap());
            }
            committer.stop().await.unwrap();
        });
        assert_eq!((stage.waiting(), stage.panics_told()), (3, 3));
    }
}
