//! What a test stands on: a folder of its own, ports of its own, deadlines.
//! Rules: ports lie below the range from which the system draws, are given once per process and are free when given; the folder goes when the test
//! passed and stays when it failed.
//! Errors: panics.

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The folder and the ports of one test.
pub struct World {
    dir: PathBuf,
    name: String,
}

static NEXT_PORT: AtomicU32 = AtomicU32::new(0);
const PORTS_FROM: u32 = 15_000; // above the registered ones that peers like, below 32768 where the system's own range begins
const PORTS: u32 = 15_000;

impl World {
    /// A folder under Cargo's target folder (a real disk, not a memory file system), named after the test.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let dir = target_dir().join("worlds").join(format!("{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("a folder for the test");
        Self { dir, name: name.to_owned() }
    }

    /// The test's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path in the folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A new folder in the folder.
    #[must_use]
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.dir.join(name);
        std::fs::create_dir_all(&path).expect("a folder in the test's folder");
        path
    }

    /// Writes a file in the folder.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.join(name);
        std::fs::write(&path, content).expect("a file in the test's folder");
        path
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("[{}] files kept in {}", self.name, self.dir.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// A free TCP port that no other test of this process gets.
#[must_use]
pub fn port() -> u16 {
    for _ in 0..PORTS {
        let step = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        let port = PORTS_FROM + (std::process::id().wrapping_mul(97).wrapping_add(step)) % PORTS;
        let port = u16::try_from(port).expect("below 65536");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

/// Cargo's target folder: the one that this test binary stands in.
#[must_use]
pub fn target_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("own path");
    let deps = exe.parent().expect("a folder");
    let profile = if deps.ends_with("deps") { deps.parent().expect("a profile folder") } else { deps };
    profile.parent().expect("a target folder").to_path_buf()
}

/// Asks until the answer is yes; panics with `what` after `seconds`.
#[track_caller]
pub fn until(what: &str, seconds: u64, mut yes: impl FnMut() -> bool) {
    get(what, seconds, || yes().then_some(()));
}

/// Asks until there is a value; panics with `what` after `seconds`.
#[track_caller]
pub fn get<T>(what: &str, seconds: u64, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(value) = ask() {
            return value;
        }
        assert!(Instant::now() < end, "waited {seconds} s in vain: {what}");
        std::thread::sleep(Duration::from_millis(10)); // the pace of asking, not a guess at a duration
    }
}

/// True if `yes` stays true for `millis`: for what must not happen.
pub fn stays(millis: u64, mut yes: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + Duration::from_millis(millis);
    while Instant::now() < end {
        if !yes() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// Records that a test could not run on this machine, where `tests/run` finds it. The test then ends, passed.
pub fn not_run(test: &str, why: &str) {
    println!("NOT RUN {test}: {why}");
    if let Ok(path) = std::env::var("EVERPOST_NOT_RUN") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut f| writeln!(f, "{test}: {why}")).expect("the list of tests that could not run");
    }
}

/// A number from the environment, or a default.
#[must_use]
pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
