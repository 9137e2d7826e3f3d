//! What the process asks of the system: private files, descriptors, little memory; signals; and what it tells systemd.
//! Rules: nothing here is needed for correctness except the umask: content of the spool is for nobody else.
//! Errors: none that stop the gateway; what the system refuses is logged.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Malloc arenas. Each thread that allocates may otherwise bring its own, tens of MiB each in the end.
const ARENAS_MAX: libc::c_int = 2;

/// Prepares the process. Called once, before threads exist.
/// # Errors
/// The limit of open files could not be raised: worth a line, no reason not to start.
pub fn prepare() -> std::io::Result<()> {
    // SAFETY: umask only sets a number of the process and cannot fail.
    unsafe { libc::umask(0o077) };
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two numbers; no other thread allocates yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS_MAX)
    };
    raise_descriptors()
}

/// Gives the pages that nobody uses back to the system. Takes milliseconds and holds the allocator's locks: for a time of rest.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes a number and may be called from any thread at any time.
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Every connection and every segment needs a descriptor: takes all the system allows.
fn raise_descriptors() -> std::io::Result<()> {
    let mut limit = descriptor_limits()?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above; the call only reads it.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

fn descriptor_limits() -> std::io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live rlimit of this frame.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(limit)
}

/// Descriptors this process may have open, now and at most. A system that does not say sets no limit.
#[must_use]
pub fn descriptors() -> (usize, usize) {
    let number = |limit: libc::rlim_t| usize::try_from(limit).unwrap_or(usize::MAX);
    descriptor_limits().map_or((usize::MAX, usize::MAX), |limit| (number(limit.rlim_cur), number(limit.rlim_max)))
}

/// Threads that serve: a small machine needs two, a large one is bound by its disk.
#[must_use]
pub fn worker_threads() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZeroUsize::get).clamp(2, 4)
}

/// What the outside asks of us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// SIGTERM, SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
}

/// Signals, from the moment of `install`.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Hears them from now on.
    /// # Errors
    /// The system's.
    pub fn install() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())?, hang_up: signal(SignalKind::hangup())? })
    }

    /// The next one. Safe to cancel.
    pub async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::Stop,
            _ = self.interrupt.recv() => Wish::Stop,
            _ = self.hang_up.recv() => Wish::Reload,
        }
    }

    /// The next wish to stop. Safe to cancel.
    pub async fn stop(&mut self) {
        while self.next().await != Wish::Stop {}
    }
}

/// What systemd is told, if it asked (`Type=notify-reload`).
#[derive(Debug, Clone, Copy)]
pub enum Note {
    /// Started, or reloaded.
    Ready,
    /// Reloading.
    Reloading,
    /// Stopping.
    Stopping,
    /// Still alive.
    Alive,
}

/// Tells systemd; nothing happens without one. A systemd that does not read must not hold us up: what it cannot take at once is dropped.
pub fn tell(note: Note) {
    let Some(to) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(e) = send(&to, &text(note)) {
        tracing::warn!("systemd could not be told {note:?}: {e}");
    }
}

fn text(note: Note) -> String {
    match note {
        Note::Ready => "READY=1\n".to_owned(),
        Note::Reloading => format!("RELOADING=1\nMONOTONIC_USEC={}\n", monotonic_usec()),
        Note::Stopping => "STOPPING=1\n".to_owned(),
        Note::Alive => "WATCHDOG=1\n".to_owned(),
    }
}

/// A path, or `@name` in the abstract name space.
fn send(to: &OsStr, text: &str) -> std::io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    let address = match to.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(to)?,
    };
    socket.send_to_addr(text.as_bytes(), &address).map(drop)
}

/// CLOCK_MONOTONIC, by which systemd orders reloads.
fn monotonic_usec() -> u128 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec of this frame. The call cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    let now = Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0));
    now.as_micros()
}

/// How often systemd wants a sign of life, if it does.
#[must_use]
pub fn watchdog() -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    number("WATCHDOG_USEC").filter(|usec| ours && *usec > 0).map(Duration::from_micros)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_does_not_read_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let reader = UnixDatagram::bind(&path).unwrap();
        let mut refused = None;
        for _ in 0..10_000 {
            refused = send(path.as_os_str(), &text(Note::Alive)).err();
            if refused.is_some() {
                break;
            }
        }
        assert_eq!(refused.unwrap().kind(), std::io::ErrorKind::WouldBlock);
        let mut first = [0; 64];
        let length = reader.recv(&mut first).unwrap();
        assert_eq!(&first[..length], b"WATCHDOG=1\n");
    }
}
