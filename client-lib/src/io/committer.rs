//! The threads of the spool: a leader for those who cannot block, and a keeper for housekeeping.
//! Rules: a commit is led at once: by its own task in place while few commit, by the leader thread when groups are large; settlements alone wait at most
//! 10 ms for a commit to ride with; housekeeping runs each second and when the spool asks. Content that needs syncs of its own is synced by its own task
//! before its record is queued, so that images never stand in front of small messages.
//! Errors: those of the spool. A thread that could not be started is the system's error.

use crate::ids::EnvelopeId;
use crate::io::in_place;
use crate::limits::{MAINTENANCE, SETTLEMENT_WAIT};
use crate::spool::{Decision, Done, Draft, Receipt, Settlement, Spool, SpoolError, Work};
use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::Poll;
use std::thread::{Builder, JoinHandle};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;

/// Owner of the leader thread and the maintenance thread. They end with `stop`, or with the last clone.
#[derive(Debug, Clone)]
pub struct Committer {
    spool: Arc<Spool>,
    threads: Arc<Threads>,
}

#[derive(Debug)]
struct Threads {
    signal: Arc<Signal>,
    running: Mutex<Vec<JoinHandle<()>>>,
}

/// What a thread runs until it is told to stop.
type Run = fn(&Signal, &Spool);

/// What the threads wait for.
#[derive(Debug, Default)]
struct Signal {
    state: Mutex<Wanted>,
    leader: Condvar,
    keeper: Condvar,
}

#[derive(Debug, Default)]
struct Wanted {
    urgent: bool,
    soon: bool,
    upkeep: bool,
    stop: bool,
}

impl Signal {
    fn tell(&self, work: Work) {
        let mut wanted = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match work {
            Work::Urgent => wanted.urgent = true,
            Work::Soon => wanted.soon = true,
            Work::Upkeep => wanted.upkeep = true,
        }
        drop(wanted);
        if work == Work::Upkeep {
            self.keeper.notify_one();
        }
        self.leader.notify_one();
    }

    /// Leader and keeper in one thread.
    fn serve(&self, spool: &Spool) {
        let mut wanted = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due: Option<Instant> = None;
        let mut next = Instant::now();
        while !wanted.stop {
            let now = Instant::now();
            if wanted.soon && due.is_none() {
                due = Some(now + SETTLEMENT_WAIT);
            }
            let lead = wanted.urgent || due.is_some_and(|at| now >= at);
            let (maintain, upkeep) = (!lead && now >= next, !lead && wanted.upkeep);
            if !(lead || maintain || upkeep) {
                let wait = due.map_or(next, |at| at.min(next)) - now;
                wanted = self.leader.wait_timeout(wanted, wait).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            if lead {
                (wanted.urgent, wanted.soon, due) = (false, false, None);
            } else if upkeep {
                wanted.upkeep = false;
            }
            drop(wanted);
            if lead {
                spool.lead();
            } else if upkeep {
                spool.upkeep();
            } else {
                next = now + MAINTENANCE;
                spool.maintain(wall_clock());
            }
            wanted = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lead(&self, spool: &Spool) {
        let mut wanted = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due: Option<Instant> = None;
        loop {
            if wanted.stop {
                return;
            }
            let now = Instant::now();
            if wanted.soon && due.is_none() {
                due = Some(now + SETTLEMENT_WAIT);
            }
            if wanted.urgent || due.is_some_and(|at| now >= at) {
                (wanted.urgent, wanted.soon, due) = (false, false, None);
                drop(wanted);
                spool.lead();
                wanted = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            wanted = match due {
                Some(at) => self.leader.wait_timeout(wanted, at - now).unwrap_or_else(PoisonError::into_inner).0,
                None => self.leader.wait(wanted).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn keep(&self, spool: &Spool) {
        // At once at the beginning, so that the next segment is prepared early; then each second.
        let mut next = Instant::now();
        let mut wanted = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while !wanted.stop {
            let now = Instant::now();
            if now >= next {
                next = now + MAINTENANCE;
                drop(wanted);
                spool.maintain(wall_clock());
                wanted = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            } else if std::mem::take(&mut wanted.upkeep) {
                drop(wanted);
                spool.upkeep();
                wanted = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            } else {
                wanted = self.keeper.wait_timeout(wanted, next - now).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }
}

fn wall_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.end();
    }
}

impl Threads {
    fn end(&self) {
        self.signal.state.lock().unwrap_or_else(PoisonError::into_inner).stop = true;
        self.signal.leader.notify_all();
        self.signal.keeper.notify_all();
        let running = std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in running {
            // A callback of the spool may hold the last clone: a thread does not wait for itself.
            if thread.thread().id() != std::thread::current().id() {
                // A panic in a thread was told when it happened; there is nothing left to do about it here.
                let _ = thread.join();
            }
        }
    }
}

/// A commit that its own task is to lead. If the task is dropped before, the leader thread does it.
struct Owed<'s>(Option<&'s Arc<Spool>>);

impl Owed<'_> {
    fn lead(mut self) {
        if let Some(spool) = self.0.take() {
            in_place::run(|| spool.lead_once());
        }
    }
}

impl Drop for Owed<'_> {
    fn drop(&mut self) {
        if let Some(spool) = self.0 {
            spool.ask_to_lead();
        }
    }
}

/// Ready when it is polled a second time, which it asks for.
async fn next_poll() {
    let mut polled = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut polled, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A callback and what awaits it.
fn answer<T: Send + 'static>() -> (Done<T>, oneshot::Receiver<Result<T, SpoolError>>) {
    let (tell, hear) = oneshot::channel();
    // Nobody listens if the waiting task was cancelled.
    (Box::new(move |result| drop(tell.send(result))), hear)
}

fn unanswered(_: oneshot::error::RecvError) -> SpoolError {
    SpoolError::NotDurable { phase: "write", cause: io::Error::other("the spool was closed") }
}

impl Committer {
    /// Starts the threads.
    /// # Errors
    /// The system's.
    pub fn start(spool: Arc<Spool>) -> io::Result<Committer> {
        Self::start_with(spool, &[("spool-leader", Signal::lead as Run), ("spool-keeper", Signal::keep)])
    }

    /// Starts one thread for both, for a process whose threads are counted: its callers lead their own commits (`Spool::commit`), so only settlements
    /// ever wait behind housekeeping.
    /// # Errors
    /// The system's.
    pub fn start_lean(spool: Arc<Spool>) -> io::Result<Committer> {
        Self::start_with(spool, &[("everpost-spool", Signal::serve as Run)])
    }

    fn start_with(spool: Arc<Spool>, runs: &[(&str, Run)]) -> io::Result<Committer> {
        let signal = Arc::new(Signal::default());
        let threads = Arc::new(Threads { signal: Arc::clone(&signal), running: Mutex::default() });
        spool.on_work(Box::new({
            let signal = Arc::clone(&signal);
            move |work| signal.tell(work)
        }));
        for (name, run) in runs {
            let (signal, spool, run) = (Arc::clone(&signal), Arc::clone(&spool), *run);
            let thread = Builder::new().name((*name).to_owned()).spawn(move || run(&signal, &spool))?;
            threads.running.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(Committer { spool, threads })
    }

    /// The spool.
    #[must_use]
    pub fn spool(&self) -> &Arc<Spool> {
        &self.spool
    }

    /// Makes a message durable.
    /// # Errors
    /// As `Spool::commit`.
    pub async fn commit(&self, draft: Draft) -> Result<Receipt, SpoolError> {
        if Spool::must_stage(&draft.content) {
            // The rest of the content, its sync and the record's: one after the other without a hand-over in between.
            if in_place::possible() {
                return in_place::run(|| self.spool.commit(draft));
            }
            let spool = Arc::clone(&self.spool);
            let done = tokio::task::spawn_blocking(move || spool.commit(draft)).await;
            return done.map_err(|cause| SpoolError::NotDurable { phase: "write", cause: io::Error::other(cause) })?;
        }
        let (done, heard) = answer();
        if !in_place::possible() {
            self.spool.commit_then(draft, done);
        } else if self.spool.commit_soon(draft, done) {
            let owed = Owed(Some(&self.spool));
            // Once round, so that what the same task commits meanwhile is in the same group.
            next_poll().await;
            owed.lead();
        }
        heard.await.map_err(unanswered)?
    }

    /// Settles, and returns when that is durable.
    /// # Errors
    /// As `Spool::settle_then`.
    pub async fn settle(&self, id: EnvelopeId, settlement: Settlement) -> Result<(), SpoolError> {
        let (done, heard) = answer();
        self.spool.settle_then(id, settlement, done);
        heard.await.map_err(unanswered)?
    }

    /// Decides, and returns when that is durable.
    /// # Errors
    /// As `Spool::decide`.
    pub async fn decide(&self, id: EnvelopeId, decision: Decision) -> Result<(), SpoolError> {
        let (done, heard) = answer();
        self.spool.decide(id, decision, wall_clock(), done);
        heard.await.map_err(unanswered)?
    }

    /// Remembers, and returns when that is durable.
    /// # Errors
    /// As `Spool::remember`.
    pub async fn remember(&self, name: &str, value: &[u8]) -> Result<(), SpoolError> {
        let (done, heard) = answer();
        self.spool.remember(name, value, done);
        heard.await.map_err(unanswered)?
    }

    /// Writes what waits and ends the threads.
    /// # Errors
    /// As `Spool::close`.
    pub async fn stop(&self) -> Result<(), SpoolError> {
        let (spool, threads) = (Arc::clone(&self.spool), Arc::clone(&self.threads));
        let stopped = tokio::task::spawn_blocking(move || {
            threads.end();
            spool.close()
        });
        stopped.await.map_err(|cause| SpoolError::NotDurable { phase: "sync", cause: io::Error::other(cause) })?
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
