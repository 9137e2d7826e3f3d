//! Where reports wait for the host: for a thread that asks, for a descriptor that an event loop watches, or for a thread that calls back.
//! Rules: whoever puts a report in never waits; the descriptor is readable exactly while there is something to read.
//! Errors: the system's, where it has no descriptor left.

use crate::event::Event;
use crate::report::{Report, Reports};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The queue with its waiters.
#[derive(Debug)]
pub(super) struct Mailbox {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    reports: Reports,
    signal: Option<OwnedFd>,
    /// The descriptor is readable.
    raised: bool,
    /// Outcomes so far, read or lost.
    outcomes: u64,
    closed: bool,
}

impl Mailbox {
    pub(super) fn new(max: usize) -> Mailbox {
        let state = State { reports: Reports::new(max), signal: None, raised: false, outcomes: 0, closed: false };
        Mailbox { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an event of the engine.
    pub(super) fn read(&self, event: &Event) {
        let Some(report) = Report::read(event) else { return };
        let mut state = self.state();
        state.outcomes += u64::from(report.kind.is_outcome());
        state.reports.push(report);
        state.signal();
        drop(state);
        self.changed.notify_all();
    }

    /// The oldest report, waiting for one until `deadline`. `None`: none came, or the client was closed.
    pub(super) fn next(&self, deadline: Option<Instant>) -> Option<Report> {
        let mut state = self.state();
        loop {
            if let Some(report) = state.reports.pop() {
                state.signal();
                return Some(report);
            }
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if state.closed || left.is_some_and(|left| left.is_zero()) {
                return None;
            }
            state = match left {
                Some(left) => self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Waits until an outcome came after the `seen`th, or a little while. Returns how many there were.
    pub(super) fn outcome_after(&self, seen: u64, at_most: Duration) -> u64 {
        let state = self.state();
        let waited = self.changed.wait_timeout_while(state, at_most, |s| s.outcomes == seen && !s.closed);
        waited.unwrap_or_else(PoisonError::into_inner).0.outcomes
    }

    /// The descriptor; made when it is asked for first.
    pub(super) fn descriptor(&self) -> io::Result<RawFd> {
        let mut state = self.state();
        if state.signal.is_none() {
            // SAFETY: makes a descriptor; touches no memory of ours.
            let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: it is open, and nobody else has it.
            state.signal = Some(unsafe { OwnedFd::from_raw_fd(fd) });
            state.signal();
        }
        state.signal.as_ref().map(AsRawFd::as_raw_fd).ok_or_else(|| io::Error::other("no descriptor"))
    }

    /// Wakes everybody who waits, for good. What is in the queue can still be read.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.signal();
        drop(state);
        self.changed.notify_all();
    }
}

impl State {
    /// Makes the descriptor say what the queue says.
    fn signal(&mut self) {
        let wanted = !self.reports.is_empty() || self.closed;
        let Some(fd) = self.signal.as_ref().map(AsRawFd::as_raw_fd) else { return };
        if wanted && !self.raised {
            raise(fd);
        } else if !wanted && self.raised {
            let mut count = 0u64;
            // SAFETY: the descriptor is open and eight bytes are there to be written to. It never blocks; an empty one is what is wanted.
            let _ = unsafe { libc::read(fd, (&raw mut count).cast(), 8) };
        }
        self.raised = wanted;
    }
}

fn raise(fd: RawFd) {
    let one = 1u64;
    // SAFETY: the descriptor is open and eight bytes are there to be read. A full counter is readable already, which is what is wanted.
    let _ = unsafe { libc::write(fd, (&raw const one).cast(), 8) };
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn readable(fd: RawFd) -> bool {
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid entry.
        unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
    }

    fn incident() -> Event {
        Event::Incident { subject: "s".into(), what: "w".into() }
    }

    #[test]
    fn the_descriptor_says_what_the_queue_says() {
        let mailbox = Mailbox::new(16);
        mailbox.read(&incident());
        let fd = mailbox.descriptor().unwrap();
        assert_eq!(mailbox.descriptor().unwrap(), fd);
        mailbox.read(&incident());
        assert!(readable(fd));
        assert!(mailbox.next(None).is_some());
        assert!(readable(fd), "there is one more");
        assert!(mailbox.next(None).is_some());
        assert!(!readable(fd));
        mailbox.read(&incident());
        assert!(readable(fd));
    }

    #[test]
    fn who_waits_is_woken_by_the_end() {
        let mailbox = Mailbox::new(16);
        assert_eq!(mailbox.next(Some(Instant::now())), None);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| mailbox.next(None));
            mailbox.close();
            assert_eq!(waiting.join().unwrap(), None);
        });
        assert!(readable(mailbox.descriptor().unwrap()) || mailbox.next(None).is_none());
    }
}
