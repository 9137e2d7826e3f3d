//! A process of a test: started, watched, stopped, frozen, killed.
//! Rules: it never outlives its test; what it printed stands in a file and is shown when the test fails.
//! Errors: panics.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A child process.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    done: Option<ExitStatus>,
}

impl Process {
    /// Starts it; both outputs go to `log` (appended).
    #[track_caller]
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("a log file");
        let twin = file.try_clone().expect("a log file");
        ends_with_us(command);
        let child = command.stdin(Stdio::null()).stdout(file).stderr(twin).spawn();
        let child = child.unwrap_or_else(|e| panic!("{name}: cannot start {:?}: {e}; tests/run installs what the tests need", command.get_program()));
        Self { name: name.to_owned(), child, log: log.to_owned(), done: None }
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it printed.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Its status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.done.is_none() {
            self.done = self.child.try_wait().expect("a child to wait for");
        }
        self.done
    }

    /// Still running?
    pub fn runs(&mut self) -> bool {
        self.ended().is_none()
    }

    /// Sends a signal.
    #[track_caller]
    pub fn signal(&mut self, signal: i32) {
        assert!(self.runs(), "{} has ended: {:?}\n{}", self.name, self.done, self.log());
        let pid = i32::try_from(self.pid()).expect("a pid");
        // SAFETY: kill takes two integers; the child has not been waited for, so the pid is still its own.
        let result = unsafe { libc::kill(pid, signal) };
        assert_eq!(result, 0, "signal {signal} to {}", self.name);
    }

    /// SIGSTOP: alive for the kernel, dead for its peers. Returns when every thread stands still.
    #[track_caller]
    pub fn freeze(&mut self) {
        self.signal(libc::SIGSTOP);
        let tasks = format!("/proc/{}/task", self.pid());
        crate::until("every thread of the frozen process stands still", 20, || {
            let threads = std::fs::read_dir(&tasks).expect("a process").flatten();
            threads.map(|t| std::fs::read_to_string(t.path().join("stat")).unwrap_or_default()).all(|stat| {
                // "PID (name) STATE ...": the name may hold anything, a closing bracket included.
                stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['T', 't']))
            })
        });
    }

    /// SIGCONT.
    pub fn thaw(&mut self) {
        self.signal(libc::SIGCONT);
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        if self.runs() {
            let _ = self.child.kill();
            self.done = self.child.wait().ok();
        }
    }

    /// SIGTERM, and waits for the end.
    #[track_caller]
    pub fn stop(&mut self, seconds: u64) -> ExitStatus {
        if self.runs() {
            self.signal(libc::SIGTERM);
        }
        self.wait(seconds)
    }

    /// Waits for the end.
    #[track_caller]
    pub fn wait(&mut self, seconds: u64) -> ExitStatus {
        let end = Instant::now() + Duration::from_secs(seconds);
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(Instant::now() < end, "{} did not end within {seconds} s\n{}", self.name, self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A value of /proc/PID/status in bytes (`VmHWM`, `VmRSS`, `RssAnon`).
    #[must_use]
    pub fn memory(&self, field: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
    }

    /// Starts the measurement of `VmHWM` anew.
    pub fn forget_peak(&self) {
        let _ = std::fs::write(format!("/proc/{}/clear_refs", self.pid()), "5");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            eprintln!("---- {} ({:?}), last lines of {}:", self.name, self.done, self.log.display());
            for line in tail.iter().rev() {
                eprintln!("{line}");
            }
        }
    }
}

/// A test run that is killed takes its processes with it: the system kills them when the thread that started them is gone.
fn ends_with_us(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: between fork and exec only prctl is called, which is safe there and takes integers.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
}

/// Runs a command to its end; panics unless it ends with 0 in time. Gives its standard output.
#[track_caller]
pub fn run(command: &mut Command, seconds: u64) -> String {
    let (status, out, err) = run_any(command, seconds);
    assert!(status.success(), "{command:?}: {status}\n{out}\n{err}");
    out
}

/// Runs a command to its end; panics unless it ends in time. Gives status, standard output, standard error.
#[track_caller]
pub fn run_any(command: &mut Command, seconds: u64) -> (ExitStatus, String, String) {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|e| panic!("cannot start {command:?}: {e}; tests/run installs what the tests need"));
    let read = |pipe: Option<Box<dyn std::io::Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = pipe.map(|mut p| p.read_to_end(&mut bytes));
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let out = read(child.stdout.take().map(|p| Box::new(p) as Box<dyn std::io::Read + Send>));
    let err = read(child.stderr.take().map(|p| Box::new(p) as Box<dyn std::io::Read + Send>));
    let end = Instant::now() + Duration::from_secs(seconds);
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child to wait for") {
            break status;
        }
        if Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{command:?} did not end within {seconds} s\n{}\n{}", out.join().unwrap(), err.join().unwrap());
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    (status, out.join().unwrap(), err.join().unwrap())
}
