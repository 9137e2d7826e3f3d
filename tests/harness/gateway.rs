//! One gateway as a process: started from a configuration, watched through its own surfaces (HTTP, command line), stopped, killed, started again.
//! Rules: the program under test is `EVERPOST_BIN`, else the one Cargo builds from this workspace (built here if it is not up to date).
//! Errors: panics, with the gateway's log.

use crate::http;
use crate::process::{Process, run_any};
use crate::world::{World, get, port, target_dir, until};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A gateway: its configuration, its folder, and its process while it runs.
pub struct Gateway {
    name: String,
    config: PathBuf,
    data: PathBuf,
    log: PathBuf,
    admin: SocketAddr,
    namespace: Option<String>,
    environment: Vec<(String, String)>,
    descriptors: Option<u32>,
    process: Option<Process>,
}

/// The path of the program.
pub fn program() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        if let Ok(path) = std::env::var("EVERPOST_BIN") {
            return PathBuf::from(path);
        }
        let exe = std::env::current_exe().expect("own path");
        let release = exe.components().any(|c| c.as_os_str() == "release");
        let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
        cargo.args(["build", "--quiet", "-p", "everpost-gateway", "--bin", "everpost"]).env("CARGO_TARGET_DIR", target_dir());
        if release {
            cargo.arg("--release");
        }
        cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        let (status, out, err) = run_any(&mut cargo, 1800);
        assert!(status.success(), "building the gateway failed\n{out}\n{err}");
        target_dir().join(if release { "release" } else { "debug" }).join("everpost")
    })
}

impl Gateway {
    /// A gateway that does not run yet. `body` is the configuration after name, folder and admin address: `[[listener]]`, `[[destination]]`, `[[route]]`;
    /// lines before its first table are top-level keys. A `[spool]` table with a small reserve is added unless `body` has one.
    #[must_use]
    pub fn new(world: &World, name: &str, body: &str) -> Self {
        let data = world.path(&format!("{name}-data"));
        Self::at(world, name, &data, body)
    }

    /// The same with a data folder elsewhere (a loop-mounted file system).
    #[must_use]
    pub fn at(world: &World, name: &str, data: &Path, body: &str) -> Self {
        let admin: SocketAddr = ([127, 0, 0, 1], port()).into();
        let gateway = Self {
            name: name.to_owned(),
            config: world.path(&format!("{name}.toml")),
            data: data.to_owned(),
            log: world.path(&format!("{name}.log")),
            admin,
            namespace: None,
            environment: Vec::new(),
            descriptors: None,
            process: None,
        };
        gateway.configure(body);
        gateway
    }

    /// Starts a gateway and waits until it takes messages.
    #[must_use]
    #[track_caller]
    pub fn start(world: &World, name: &str, body: &str) -> Self {
        let mut gateway = Self::new(world, name, body);
        gateway.up();
        gateway
    }

    /// Lets it run in a network namespace.
    #[must_use]
    pub fn in_namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// Adds a variable to its environment.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Limits its open files.
    #[must_use]
    pub fn with_descriptors(mut self, limit: u32) -> Self {
        self.descriptors = Some(limit);
        self
    }

    /// Writes a new configuration; it counts from the next start or reload.
    pub fn configure(&self, body: &str) {
        let split = body.find("\n[").map_or(if body.trim_start().starts_with('[') { 0 } else { body.len() }, |at| at + 1);
        let (top, tables) = if body.trim_start().starts_with('[') { ("", body) } else { body.split_at(split) };
        let spool = if body.contains("[spool]") { "" } else { "[spool]\nreserve = \"64 MiB\"\nsegment_size = \"16 MiB\"\n" };
        let text = format!(
            "name = \"{}\"\ndata_dir = \"{}\"\n{top}\n[admin]\nbind = \"{}\"\n\n{spool}\n{tables}\n",
            self.name,
            self.data.display(),
            self.admin
        );
        std::fs::write(&self.config, text).expect("the gateway's configuration");
    }

    /// Path of the configuration.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The data folder.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Address of the HTTP surface.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Starts the process without waiting.
    #[track_caller]
    pub fn launch(&mut self) {
        let mut command = match (&self.namespace, self.descriptors) {
            (None, None) => Command::new(program()),
            (None, Some(limit)) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("ulimit -n {limit} && exec \"$0\" \"$@\"")]).arg(program());
                shell
            }
            (Some(namespace), _) => crate::netns::command(namespace, program()),
        };
        command.arg("run").arg("--config").arg(&self.config).env("RUST_BACKTRACE", "1");
        command.envs(self.environment.iter().map(|(k, v)| (k, v)));
        self.process = Some(Process::start(&self.name, &mut command, &self.log));
    }

    /// Starts the process and waits until it takes messages; gives the time that took.
    #[track_caller]
    pub fn up(&mut self) -> Duration {
        let began = Instant::now();
        self.launch();
        let admin = self.admin;
        let process = self.process.as_mut().expect("launched");
        until("the gateway takes messages (/readyz)", 60, || {
            if let Some(status) = process.ended() {
                panic!("the gateway ended at its start: {status}\n{}", process.log());
            }
            http::get(admin, "/readyz").is_some_and(|r| r.status == 200)
        });
        began.elapsed()
    }

    /// The running process.
    #[track_caller]
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("a running gateway")
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// SIGTERM; waits for the end.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("a running gateway");
        process.stop(60)
    }

    /// Everything it logged, over all its runs.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// GET on its TCP surface.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<http::Response> {
        http::get(self.admin, path)
    }

    /// Runs a command of its command line against it: status, output, errors.
    #[track_caller]
    pub fn cli(&self, arguments: &[&str]) -> (ExitStatus, String, String) {
        let mut command = Command::new(program());
        command.args(arguments).arg("--config").arg(&self.config);
        run_any(&mut command, 60)
    }

    /// `status --json`, if the gateway answers.
    #[must_use]
    pub fn status(&self) -> Option<Value> {
        let (_, out, _) = self.cli(&["status", "--json"]);
        serde_json::from_str(&out).ok()
    }

    /// The status of one destination, over HTTP (cheap enough to be asked often).
    #[must_use]
    pub fn destination(&self, name: &str) -> Option<Value> {
        let answer = http::request_socket(&self.data.join("admin.sock"), "GET", "/api/v1/status", "")?;
        let status: Value = serde_json::from_str(&answer.body).ok()?;
        status["destinations"].as_array()?.iter().find(|d| d["name"] == name).cloned()
    }

    /// A number of a destination's status (`ready`, `deferred`, `dead_letter`, ...); -1 when there is none.
    #[must_use]
    pub fn count(&self, destination: &str, what: &str) -> i64 {
        self.destination(destination).and_then(|d| d[what].as_i64()).unwrap_or(-1)
    }

    /// Endpoints that are active for a destination.
    #[must_use]
    pub fn active(&self, destination: &str) -> Vec<String> {
        let list = self.destination(destination).and_then(|d| d["active"].as_array().cloned()).unwrap_or_default();
        list.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    }

    /// Envelopes that wait for a destination, in whatever state; -1 when the gateway does not answer.
    #[must_use]
    pub fn waiting(&self, destination: &str) -> i64 {
        let Some(d) = self.destination(destination) else { return -1 };
        ["ready", "in_flight", "deferred", "held"].iter().map(|k| d[*k].as_i64().unwrap_or(0)).sum()
    }

    /// Waits until nothing waits for a destination.
    #[track_caller]
    pub fn drained(&self, destination: &str, seconds: u64) {
        let end = Instant::now() + Duration::from_secs(seconds);
        while self.waiting(destination) != 0 {
            assert!(Instant::now() < end, "waited {seconds} s in vain until {destination} is drained: {:?}", self.destination(destination));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for a list of active endpoints.
    #[track_caller]
    pub fn becomes_active(&self, destination: &str, endpoint: &str, seconds: u64) {
        let end = Instant::now() + Duration::from_secs(seconds);
        while self.active(destination) != [endpoint] {
            assert!(Instant::now() < end, "waited {seconds} s in vain until {destination} uses {endpoint}: {:?}", self.destination(destination));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A metric; labels must all match, several samples are added up.
    #[must_use]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        http::sample(&self.get("/metrics")?.body, name, labels)
    }

    /// Envelopes of a destination in a state, by `queue list --json` over all pages.
    #[must_use]
    #[track_caller]
    pub fn queue(&self, destination: &str, state: &str) -> Vec<Value> {
        let mut all = Vec::new();
        let mut cursor = String::new();
        loop {
            let mut arguments = vec!["queue", "list", "--json", "--destination", destination, "--state", state, "--limit", "1000"];
            if !cursor.is_empty() {
                arguments.extend(["--cursor", &cursor]);
            }
            let (status, out, err) = self.cli(&arguments);
            assert!(status.success(), "queue list: {status}\n{err}");
            let page: Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("queue list --json: {e}: {out}"));
            all.extend(page["envelopes"].as_array().cloned().unwrap_or_default());
            match page["next"].as_str() {
                Some(next) => cursor = next.to_owned(),
                None => return all,
            }
        }
    }

    /// Waits until the gateway has said something in its log.
    #[track_caller]
    pub fn says(&self, what: &str, seconds: u64) {
        get(&format!("the log says {what:?}"), seconds, || self.log().contains(what).then_some(()));
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for surface in ["/api/v1/status", "/metrics"] {
                if let Some(answer) = http::request_socket(&self.data.join("admin.sock"), "GET", surface, "").or_else(|| self.get(surface)) {
                    eprintln!(
                        "---- {} {surface}: {}",
                        self.name,
                        answer.body.lines().filter(|l| !l.starts_with('#')).take(60).collect::<Vec<_>>().join("\n")
                    );
                }
            }
        }
    }
}
