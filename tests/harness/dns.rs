//! A real authoritative DNS server: BIND 9 with a zone of its own, changed while it runs by dynamic updates (`nsupdate`).
//! Rules: everything is on loopback and in the test's folder; the zone is `everpost.test`; negative answers count for a second.
//! Errors: panics, with the server's log.

use crate::loopfs::sbin;
use crate::pki::Identity;
use crate::process::{Process, run_any};
use crate::world::{World, port, until};
use std::fmt::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The zone.
pub const ZONE: &str = "everpost.test";

/// The server, running unless it was stopped.
pub struct Dns {
    at: SocketAddr,
    tls: Option<SocketAddr>,
    config: PathBuf,
    log: PathBuf,
    script: PathBuf,
    process: Option<Process>,
}

impl Dns {
    /// Starts it with these records, each as in a zone file: `pacs 5 A 127.0.0.2`.
    #[must_use]
    #[track_caller]
    pub fn start(world: &World, records: &[&str]) -> Self {
        Self::with_tls(world, records, None)
    }

    /// The same, and it answers over TLS too.
    #[must_use]
    #[track_caller]
    pub fn with_tls(world: &World, records: &[&str], identity: Option<&Identity>) -> Self {
        let at: SocketAddr = ([127, 0, 0, 1], port()).into();
        let tls = identity.map(|_| SocketAddr::from(([127, 0, 0, 1], port())));
        let dir = world.folder("dns");
        let mut zone = format!("$ORIGIN {ZONE}.\n$TTL 60\n@ IN SOA ns hostmaster 1 3600 600 86400 1\n@ IN NS ns\nns IN A 127.0.0.1\n");
        for record in records {
            let _ = writeln!(zone, "{record}");
        }
        std::fs::write(dir.join("zone.db"), zone).expect("a zone file");
        let here = dir.display();
        let mut config = String::new();
        if let (Some(identity), Some(tls)) = (identity, tls) {
            let (cert, key) = (identity.cert.display(), identity.key.display());
            let _ = writeln!(config, "tls own {{ cert-file \"{cert}\"; key-file \"{key}\"; }};");
            let _ = writeln!(config, "options {{ listen-on port {} tls own {{ 127.0.0.1; }};", tls.port());
        } else {
            let _ = writeln!(config, "options {{");
        }
        let _ = writeln!(
            config,
            "listen-on port {} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; directory \"{here}\"; pid-file \"{here}/pid\"; \
             session-keyfile \"{here}/session.key\"; lock-file none; recursion no; dnssec-validation no; notify no; minimal-responses yes; }};\n\
             controls {{ }};\nzone \"{ZONE}\" {{ type primary; file \"{here}/zone.db\"; allow-update {{ 127.0.0.1; }}; }};",
            at.port()
        );
        let (file, log, script) = (dir.join("named.conf"), world.path("named.log"), dir.join("update"));
        std::fs::write(&file, config).expect("a configuration for named");
        let mut dns = Self { at, tls, config: file, log, script, process: None };
        dns.open();
        dns
    }

    /// Where it answers over UDP and TCP.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.at
    }

    /// Where it answers over TLS.
    #[must_use]
    #[track_caller]
    pub fn tls_address(&self) -> SocketAddr {
        self.tls.expect("a server that was started with TLS")
    }

    /// `[names]` for a gateway that asks it alone.
    #[must_use]
    pub fn names(&self, more: &str) -> String {
        format!("[names]\nservers = [\"{}\"]\n{more}\n", self.at)
    }

    /// Stops answering: questions are lost or refused.
    pub fn shut(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Answers (again), with the records as they are now.
    #[track_caller]
    pub fn open(&mut self) {
        let mut command = Command::new(sbin("named"));
        command.args(["-g", "-n", "1", "-c"]).arg(&self.config);
        let mut process = Process::start("named", &mut command, &self.log);
        until("the DNS server answers", 60, || {
            assert!(process.runs(), "named ended at its start\n{}", process.log());
            self.tells("ns", "A") == ["127.0.0.1"]
        });
        self.process = Some(process);
    }

    /// What it says of a name, asked with `dig`.
    #[must_use]
    pub fn tells(&self, name: &str, kind: &str) -> Vec<String> {
        let mut command = Command::new("dig");
        command.args(["+short", "+time=1", "+tries=1", "@127.0.0.1", "-p", &self.at.port().to_string(), &format!("{name}.{ZONE}"), kind]);
        let (status, out, _) = run_any(&mut command, 30);
        if status.success() { out.lines().map(str::to_owned).collect() } else { Vec::new() }
    }

    /// Changes records, all at once, each as for `nsupdate`: `delete pacs A`, `add pacs 5 A 127.0.0.3`.
    #[track_caller]
    pub fn update(&self, changes: &[&str]) {
        let mut text = format!("server 127.0.0.1 {}\nzone {ZONE}\n", self.at.port());
        for change in changes {
            let (verb, rest) = change.split_once(' ').expect("a verb and a record");
            let (name, record) = rest.split_once(' ').unwrap_or((rest, ""));
            let _ = writeln!(text, "update {verb} {name}.{ZONE}. {record}");
        }
        text.push_str("send\n");
        std::fs::write(&self.script, &text).expect("a script for nsupdate");
        let mut command = Command::new("nsupdate");
        command.arg("-t").arg("20").arg(&self.script).stdin(Stdio::null());
        let (status, out, err) = run_any(&mut command, 60);
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        assert!(status.success(), "nsupdate failed: {out}{err}\n{text}\n{log}");
    }
}

/// Passes questions on to a server, from an address that other networks reach. Not a server: what that one does not answer stays unanswered.
pub struct Relay {
    at: SocketAddr,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Starts it.
    #[must_use]
    #[track_caller]
    pub fn start(at: SocketAddr, to: SocketAddr) -> Self {
        let socket = UdpSocket::bind(at).expect("an address of this machine");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a time-out");
        let ended = Arc::new(AtomicBool::new(false));
        let over = ended.clone();
        let thread = std::thread::spawn(move || {
            let (mut question, mut answer) = ([0; 1500], [0; 4096]);
            while !over.load(Ordering::SeqCst) {
                let Ok((size, from)) = socket.recv_from(&mut question) else { continue };
                let onward = UdpSocket::bind("127.0.0.1:0").and_then(|onward| {
                    onward.set_read_timeout(Some(Duration::from_millis(500)))?;
                    onward.send_to(&question[..size], to)?;
                    onward.recv(&mut answer)
                });
                if let Ok(size) = onward {
                    let _ = socket.send_to(&answer[..size], from);
                }
            }
        });
        Self { at, ended, thread: Some(thread) }
    }

    /// Where it is asked.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.at
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
