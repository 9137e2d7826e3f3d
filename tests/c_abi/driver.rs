//! A C program that does what a test tells it (`host.c`), seen from outside.
//! Rules: one command, one answer; every wait for an answer has a deadline; the program ends with its test.

use crate::compile;
use harness::{World, get, netns};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Codes of the C interface.
pub const OK: i32 = 0;
pub const STORAGE: i32 = 4;
pub const FULL: i32 = 5;
pub const NOT_SENT: i32 = 9;

/// How long an answer may take: far beyond every deadline that a test gives the library.
const PATIENCE: Duration = Duration::from_secs(120);

/// The running program.
pub struct Host {
    child: Child,
    to: Option<ChildStdin>,
    from: Receiver<String>,
}

/// What it answered.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    /// How long the call took.
    pub millis: u64,
    /// The first word after it: an id, a count, an endpoint.
    pub first: String,
    /// All of it.
    pub text: String,
}

impl Said {
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, OK, "{self:?}");
        self
    }
}

/// The program, built.
pub fn program(world: &World) -> PathBuf {
    compile(world, "gcc", "tests/c_abi/host.c", &[])
}

impl Host {
    /// Starts one and opens its client.
    #[track_caller]
    pub fn start(world: &World, config: &str) -> Host {
        Self::run(world, config, Command::new(program(world)))
    }

    /// The same in a network namespace.
    #[track_caller]
    pub fn start_in(world: &World, config: &str, namespace: &str) -> Host {
        let program = program(world);
        Self::run(world, config, netns::command(namespace, program))
    }

    /// The same by a command.
    #[track_caller]
    pub fn run(world: &World, config: &str, mut command: Command) -> Host {
        let config = world.write("host.toml", config);
        let mut host = Self::spawn(command.arg(config));
        let opened = host.hear();
        assert_eq!(opened.code, OK, "{opened:?}");
        host
    }

    /// Starts the program with a file; the first answer tells whether its client is open.
    #[track_caller]
    pub fn spawn(command: &mut Command) -> Host {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let (to, out) = (child.stdin.take(), child.stdout.take().unwrap());
        let (tell, from) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines() {
                let Ok(line) = line else { return };
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Host { child, to, from }
    }

    /// Gives a command, without waiting.
    #[track_caller]
    pub fn tell(&mut self, command: &str) {
        let to = self.to.as_mut().unwrap();
        to.write_all(format!("{command}\n").as_bytes()).unwrap_or_else(|e| panic!("{command}: the host has ended: {e}"));
    }

    /// The next answer.
    #[track_caller]
    pub fn hear(&mut self) -> Said {
        let line = self.from.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("the host said nothing: {e}; {:?}", self.child.try_wait()));
        let mut words = line.splitn(3, ' ');
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok()).unwrap_or_else(|| panic!("{line}"));
        let (code, millis) = (i32::try_from(number()).unwrap(), number());
        let text = words.next().unwrap_or_default().to_owned();
        let first = text.split(' ').next().unwrap_or_default().to_owned();
        Said { code, millis, first, text }
    }

    /// Gives a command and hears the answer.
    #[track_caller]
    pub fn ask(&mut self, command: &str) -> Said {
        self.tell(command);
        self.hear()
    }

    /// Waits until nothing waits.
    #[track_caller]
    pub fn flushed(&mut self, seconds: u64) {
        let said = self.ask(&format!("flush {}", seconds * 1000));
        assert_eq!(said.code, OK, "{said:?}");
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The names of its threads.
    pub fn threads(&self) -> Vec<String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap().flatten();
        tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok()).map(|name| name.trim().to_owned()).collect()
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// The most memory it has had, in bytes.
    pub fn peak(&self) -> u64 {
        let text = std::fs::read_to_string(Path::new("/proc").join(self.pid().to_string()).join("status")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The signals that it has a handler for, and those that it ignores; 32 and 33 are libc's own.
    pub fn signals(&self) -> (u64, u64) {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let mask = |name: &str| {
            let mask = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            u64::from_str_radix(mask.trim(), 16).unwrap() & !(0b11 << 31)
        };
        (mask("SigCgt:"), mask("SigIgn:"))
    }

    /// Ends its input; it closes its client and ends well, and the library has written nothing anywhere.
    #[track_caller]
    pub fn end(mut self) {
        drop(self.to.take());
        let status = get("the host ends", 60, || self.child.try_wait().unwrap());
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(status.success() && said.is_empty(), "{status}: {said}");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
    }
}
