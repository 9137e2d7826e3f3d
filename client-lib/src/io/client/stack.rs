//! The caller's thread: how much stack it has left, and signals that must not reach it.
//! Rules: work that needs room (TLS, parsing, recovery) never runs on a thread of the host that has little; a host's signal dispositions are left alone:
//! SIGPIPE is held back while we write, and taken away if it came.
//! Errors: the system's, if it has no thread to give; what it does not say counts as little room.

use std::cell::Cell;
use std::io;
use std::mem::MaybeUninit;
use std::sync::{Mutex, PoisonError};

/// Below it, work goes to a thread of our own. Measured: a TLS handshake in a build without optimisation takes some 100 KB.
const ROOM: usize = 256 << 10;

/// Stack of such a thread.
const OWN_STACK: usize = 2 << 20;

thread_local! {
    /// Where this thread's stack ends and how long it is; `None`: not asked yet.
    static STACK: Cell<Option<(usize, usize)>> = const { Cell::new(None) };
}

/// Whether this thread has room for work.
pub(super) fn is_roomy() -> bool {
    let marker = 0u8;
    let here = &raw const marker as usize;
    let (low, length) = STACK.get().unwrap_or_else(|| {
        let found = stack();
        STACK.set(Some(found));
        found
    });
    // Outside of it the host runs a stack of its own making, of which nothing is known.
    here.checked_sub(low).is_some_and(|left| left <= length && left >= ROOM)
}

fn stack() -> (usize, usize) {
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    let (mut low, mut length) = (std::ptr::null_mut(), 0);
    // SAFETY: the structure is filled by the first call and freed by the last; the others read it.
    unsafe {
        if libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) != 0 {
            return (usize::MAX, 0);
        }
        let known = libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut low, &raw mut length) == 0;
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        if known { (low as usize, length) } else { (usize::MAX, 0) }
    }
}

/// Runs work here, or on a thread with room.
/// # Errors
/// The system's, if it has no thread: then nothing was done.
pub(super) fn with_room<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    if is_roomy() { Ok(work()) } else { elsewhere(work) }
}

/// Runs work on a thread of its own. What it leaves behind in that thread goes with it; in the host's it would stay, and look like a leak. Where the
/// system has no thread left, it is done here, if there is room.
/// # Errors
/// As `with_room`.
pub(super) fn elsewhere<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let place = Mutex::new(Some(work));
    let take = || place.lock().unwrap_or_else(PoisonError::into_inner).take();
    let quiet = Quiet::all();
    let thread = std::thread::Builder::new().name("everpost-call".to_owned()).stack_size(OWN_STACK);
    // SAFETY: the thread is joined before anything that it borrows goes. (`std::thread::scope` would leave something behind in the host's thread.)
    let run = unsafe { thread.spawn_unchecked(|| take().map(|work| work())) };
    drop(quiet);
    let done = match run.map(std::thread::JoinHandle::join) {
        Ok(Ok(done)) => done,
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        Err(error) if !is_roomy() => return Err(error),
        Err(_) => take().map(|work| work()),
    };
    done.ok_or_else(|| io::Error::other("a thread was made and did nothing"))
}

/// Signals held back on this thread while it lives. Threads made meanwhile hold them back for ever.
pub(super) struct Quiet {
    before: libc::sigset_t,
    pipe: bool,
}

impl Quiet {
    /// Every signal: for making threads that are none of the host's business.
    pub(super) fn all() -> Quiet {
        // SAFETY: a set of signals is a plain value, which the call fills.
        Self::hold(false, |set| unsafe {
            libc::sigfillset(set);
        })
    }

    /// SIGPIPE: for writing to sockets.
    pub(super) fn pipe() -> Quiet {
        // SAFETY: as above.
        Self::hold(true, |set| unsafe {
            libc::sigemptyset(set);
            libc::sigaddset(set, libc::SIGPIPE);
        })
    }

    fn hold(pipe: bool, fill: impl FnOnce(*mut libc::sigset_t)) -> Quiet {
        let (mut set, mut before) = (MaybeUninit::<libc::sigset_t>::uninit(), MaybeUninit::<libc::sigset_t>::zeroed());
        fill(set.as_mut_ptr());
        // SAFETY: the set was filled; a failure leaves `before` zeroed, which is a set too.
        unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), before.as_mut_ptr());
            let before = before.assume_init();
            let pipe = pipe && libc::sigismember(&raw const before, libc::SIGPIPE) == 0;
            Quiet { before, pipe }
        }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // SAFETY: plain values and calls that only concern this thread. A SIGPIPE that is pending came from our own write, as the host had it unblocked.
        unsafe {
            if self.pipe {
                let mut set = MaybeUninit::<libc::sigset_t>::uninit();
                libc::sigemptyset(set.as_mut_ptr());
                libc::sigaddset(set.as_mut_ptr(), libc::SIGPIPE);
                let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
                libc::sigtimedwait(set.as_ptr(), std::ptr::null_mut(), &raw const at_once);
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_small_thread_has_no_room_and_work_gets_some() {
        let small = std::thread::Builder::new().stack_size(64 << 10).spawn(|| (is_roomy(), with_room(is_roomy).unwrap())).unwrap();
        assert_eq!(small.join().unwrap(), (false, true));
        let large = std::thread::Builder::new().stack_size(4 << 20).spawn(is_roomy).unwrap();
        assert!(large.join().unwrap());
    }

    #[test]
    fn a_broken_pipe_does_not_reach_the_host() {
        // The test's own process has SIGPIPE at its default on this thread's account only if somebody set it so; a pending one would be seen either way.
        let quiet = Quiet::pipe();
        // SAFETY: a signal to this thread alone, which holds it back.
        unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGPIPE) };
        drop(quiet);
        let mut pending = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: the call fills the set.
        let still = unsafe {
            libc::sigpending(pending.as_mut_ptr());
            libc::sigismember(pending.as_ptr(), libc::SIGPIPE)
        };
        assert_eq!(still, 0);
    }
}
