//! Work that blocks on the disk, done within the task that needs it.
//! Rules: the runtime gives the other tasks of the thread to another one meanwhile, so nobody waits but the task itself; that spares a hand-over there
//! and back. A bounded number at a time, because each needs a thread. Where the runtime has one thread only, `possible` says no.
//! A thread of a host program that waits for one task alone may itself wait where that task does (`waiting`).
//! Errors: none of its own.

use crate::limits::IN_PLACE_MAX;
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::runtime::{Handle, RuntimeFlavor};

static RUNNING: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// This thread waits for one task, and nothing else runs on it.
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

/// Runs a task to its end on this thread, which has nothing else to do meanwhile.
pub fn waiting<T>(run: impl FnOnce() -> T) -> T {
    struct Reset(bool);
    impl Drop for Reset {
        fn drop(&mut self) {
            ALONE.set(self.0);
        }
    }
    let _reset = Reset(ALONE.replace(true));
    run()
}

/// Whether the task may block this thread for a moment.
#[must_use]
pub fn is_alone() -> bool {
    ALONE.get()
}

/// One of those that run.
struct Place;

impl Place {
    fn take() -> Option<Place> {
        if RUNNING.fetch_add(1, Ordering::Relaxed) < IN_PLACE_MAX {
            return Some(Place);
        }
        RUNNING.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether `run` would leave the other tasks alone.
#[must_use]
pub fn possible() -> bool {
    Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread) && RUNNING.load(Ordering::Relaxed) < IN_PLACE_MAX
}

/// Runs it, so that other tasks of this thread go on where the runtime allows it.
pub fn run<T>(work: impl FnOnce() -> T) -> T {
    if possible()
        && let Some(_place) = Place::take()
    {
        return tokio::task::block_in_place(work);
    }
    work()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn on_a_runtime_of_one_thread_it_just_runs() {
        assert!(!possible());
        assert_eq!(run(|| 1), 1);
    }

    #[test]
    fn only_a_thread_that_waits_is_alone() {
        assert!(!is_alone());
        waiting(|| {
            waiting(|| assert!(is_alone()));
            assert!(is_alone());
            assert!(!std::thread::spawn(is_alone).join().unwrap_or(true));
        });
        assert!(!is_alone());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn other_tasks_of_the_same_thread_go_on_meanwhile() {
        let (tell, hear) = std::sync::mpsc::channel();
        let waits = tokio::spawn(async move { run(|| hear.recv_timeout(std::time::Duration::from_secs(20))) });
        let tells = tokio::spawn(async move { tell.send(7) });
        assert_eq!(waits.await.ok().and_then(Result::ok), Some(7), "the only worker was blocked");
        assert!(tells.await.is_ok());
    }
}
