//! A wire to a network of its own for peers: it passes packets on, loses some of them, delays them, swallows them all, as a test says.
//! Rules: two virtual interfaces (TUN) stand at its ends, one here and one in a network namespace; a thread for each direction carries the packets, so
//! no kernel module for bad networks is needed, and losses come by seed. Addresses are those reserved for such tests (RFC 2544).
//! Errors: `None` where it is not allowed (the test is noted); panics for the rest.

use crate::loopfs::sbin;
use crate::process::{run, run_any};
use crate::world::World;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// `_IOW('T', 202, int)`.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
/// `IFF_TUN | IFF_NO_PI`.
const FLAGS: u16 = 0x1001;

/// What happens to packets on their way.
#[derive(Debug, Default)]
struct Weather {
    /// All vanish.
    cut: AtomicBool,
    /// So many of a hundred vanish, in both directions.
    loss: AtomicU64,
    /// Those that come from the peers are late by so many milliseconds.
    delay: AtomicU64,
    over: AtomicBool,
}

/// The wire, and the namespace at its far end.
pub struct Wire {
    namespace: String,
    link: String,
    far: IpAddr,
    weather: Arc<Weather>,
    carriers: Vec<std::thread::JoinHandle<()>>,
}

static NEXT: AtomicU8 = AtomicU8::new(1);

/// A TUN interface in the namespace of the calling thread.
fn interface(name: &str) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let mut request = [0_u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[16..18].copy_from_slice(&FLAGS.to_ne_bytes());
    // SAFETY: the descriptor is open; the request is as long as the kernel's `ifreq` and outlives the call.
    let made = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF as _, request.as_mut_ptr()) };
    // SAFETY: the descriptor is open; flags are integers.
    let set = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    if made == 0 && set == 0 { Ok(file) } else { Err(io::Error::last_os_error()) }
}

/// Runs something on a thread in a namespace. Sockets that it makes, and threads that it starts, stay there.
fn inside<T: Send>(namespace: &str, what: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let door = File::open(format!("/run/netns/{namespace}"))?;
            // SAFETY: the descriptor is open; only this thread changes its namespace.
            if unsafe { libc::setns(door.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(what())
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

impl Wire {
    /// Makes one. `None`: not allowed here, and the test has been noted.
    #[must_use]
    #[track_caller]
    pub fn new(world: &World) -> Option<Self> {
        let number = NEXT.fetch_add(1, Ordering::SeqCst);
        let id = std::process::id() % 10_000;
        let host = number.wrapping_mul(4) & 0xfc;
        let (block, namespace, link) = (id % 250, format!("evw{id}n{number}"), format!("evw{id}w{number}"));
        let (near, far) = (format!("198.19.{block}.{}", host + 1), format!("198.19.{block}.{}", host + 2));
        let refused = |why: &str| {
            let what = format!("network namespaces and /dev/net/tun are needed (CAP_NET_ADMIN and CAP_SYS_ADMIN): {}", why.trim());
            crate::not_run(world.name(), &format!("{what}; run tests/run as root"));
            None
        };
        let (status, _, err) = run_any(Command::new(sbin("ip")).args(["netns", "add", &namespace]), 30);
        if !status.success() {
            return refused(&err);
        }
        let mut this = Self { namespace, link, far: far.parse().expect("an address"), weather: Arc::default(), carriers: Vec::new() };
        let near_end = interface(&this.link);
        let far_end = inside(&this.namespace, || interface("wire")).and_then(|made| made);
        let (near_end, far_end) = match (near_end, far_end) {
            (Ok(near_end), Ok(far_end)) => (near_end, far_end),
            (Err(error), _) | (_, Err(error)) => return refused(&error.to_string()),
        };
        let ip = |arguments: &[&str]| drop(run(Command::new(sbin("ip")).args(arguments), 30));
        ip(&["addr", "add", &near, "peer", &far, "dev", &this.link]);
        ip(&["link", "set", &this.link, "up"]);
        ip(&["-n", &this.namespace, "addr", "add", &far, "peer", &near, "dev", "wire"]);
        ip(&["-n", &this.namespace, "link", "set", "wire", "up"]);
        ip(&["-n", &this.namespace, "link", "set", "lo", "up"]);
        let twins = (near_end.try_clone().expect("a descriptor"), far_end.try_clone().expect("a descriptor"));
        let (here, there) = (this.weather.clone(), this.weather.clone());
        this.carriers.push(std::thread::spawn(move || carry(&near_end, &twins.1, &here, false, 1)));
        this.carriers.push(std::thread::spawn(move || carry(&far_end, &twins.0, &there, true, 2)));
        Some(this)
    }

    /// The address at its far end.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.far
    }

    /// Makes something at its far end: sockets, and what they live in.
    #[track_caller]
    pub fn inside<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        inside(&self.namespace, what).expect("the namespace that was made before")
    }

    /// From now on packets vanish, in both directions; or no longer.
    pub fn cut(&self, cut: bool) {
        self.weather.cut.store(cut, Ordering::SeqCst);
    }

    /// So many of a hundred packets vanish, in each direction.
    pub fn lose(&self, percent: u64) {
        self.weather.loss.store(percent, Ordering::SeqCst);
    }

    /// What comes from the far end is late by so much.
    pub fn delay(&self, by: Duration) {
        self.weather.delay.store(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.weather.over.store(true, Ordering::SeqCst);
        for carrier in self.carriers.drain(..) {
            let _ = carrier.join();
        }
        let _ = run_any(Command::new(sbin("ip")).args(["netns", "del", &self.namespace]), 30);
    }
}

/// Carries packets one way until the wire is dropped.
fn carry(mut from: &File, mut to: &File, weather: &Weather, late: bool, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut packet = vec![0; 65_536];
    let mut under_way: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    while !weather.over.load(Ordering::SeqCst) {
        let now = Instant::now();
        while under_way.front().is_some_and(|(due, _)| *due <= now) {
            // A packet for which there is no room is lost: that is what packets are like.
            let _ = under_way.pop_front().map(|(_, bytes)| to.write(&bytes));
        }
        let patience = under_way.front().map_or(50, |(due, _)| due.saturating_duration_since(now).as_millis() + 1).min(50);
        let mut poll = libc::pollfd { fd: from.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one descriptor, which is open, and the number one.
        unsafe { libc::poll(&raw mut poll, 1, i32::try_from(patience).unwrap_or(50)) };
        while let Ok(length) = from.read(&mut packet) {
            if weather.cut.load(Ordering::SeqCst) || random.u64(..100) < weather.loss.load(Ordering::SeqCst) {
                continue;
            }
            let delay = Duration::from_millis(if late { weather.delay.load(Ordering::SeqCst) } else { 0 });
            if delay.is_zero() && under_way.is_empty() {
                let _ = to.write(&packet[..length]);
            } else {
                under_way.push_back((Instant::now() + delay, packet[..length].to_vec()));
            }
        }
    }
}
