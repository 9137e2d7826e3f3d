//! The command line: arguments in, exit status out. It reaches a running gateway only through the admin API.
//! Rules: answers go to standard output, everything else to standard error; `--json` on every command; exit status 0 done, 1 refused or failed,
//! 2 usage or configuration, 3 degraded, 4 negative answer, 5 no answer or gateway not reachable.
//! Errors: `Failure`, printed once, by `main`.

use clap::{Args, Parser, Subcommand};
use std::path::{Path, PathBuf};

pub mod connect;
pub mod doctor;
pub mod drill;
pub mod init;
pub mod manual;
pub mod moving;
pub mod nagios;
pub mod outages;
pub mod peers;
pub mod queue;
pub mod replay;
pub mod reports;
mod story;
pub mod wishes;

/// Done.
pub const EXIT_DONE: u8 = 0;
/// Refused or failed.
pub const EXIT_REFUSED: u8 = 1;
/// Usage or configuration.
pub const EXIT_USAGE: u8 = 2;
/// Degraded.
pub const EXIT_DEGRADED: u8 = 3;
/// A peer answered negatively.
pub const EXIT_NEGATIVE: u8 = 4;
/// A peer did not answer, or the gateway cannot be reached.
pub const EXIT_UNREACHABLE: u8 = 5;

/// The configuration when none is named.
pub const CONFIG_DEFAULT: &str = "/etc/everpost/everpost.toml";

/// A command that ended badly.
#[derive(Debug)]
pub struct Failure {
    /// Exit status.
    pub code: u8,
    /// For people.
    pub what: String,
    /// Each line stands for itself (`file:line:column: ...`), so that editors can follow it.
    bare: bool,
}

impl Failure {
    /// With its exit status.
    pub fn new(code: u8, what: impl Into<String>) -> Self {
        Self { code, what: what.into(), bare: false }
    }

    /// A configuration that does not load: every problem, a line each.
    #[must_use]
    pub fn configuration(problems: &[crate::config::Problem]) -> Self {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Self { code: EXIT_USAGE, what: lines.join("\n"), bare: true }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", if self.bare { "" } else { "everpost: " }, self.what)
    }
}

/// The configuration named, or by `EVERPOST_CONFIG`, or the default.
#[must_use]
pub fn config_path(named: Option<&Path>) -> PathBuf {
    named.map(Path::to_owned).or_else(|| std::env::var_os("EVERPOST_CONFIG").map(PathBuf::from)).unwrap_or_else(|| CONFIG_DEFAULT.into())
}

/// Store-and-forward gateway for HL7 v2 (MLLP) and DICOM.
#[derive(Debug, Parser)]
#[command(name = "everpost", version, max_term_width = 100, arg_required_else_help = true, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Answer in JSON
    #[arg(long, global = true)]
    json: bool,
}

const AFTER_HELP: &str = "Exit status: 0 done; 1 refused or failed; 2 usage or configuration; 3 degraded; 4 negative answer;
5 no answer, or the gateway cannot be reached.
Without --config, the file named by EVERPOST_CONFIG is used, else /etc/everpost/everpost.toml.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a first configuration, from flags or by asking
    Init(init::Init),
    /// Run the gateway
    Run(ConfigOnly),
    /// Check a configuration and say what is wrong, with file:line:column
    Check(ConfigOnly),
    /// Examine this box end to end, before and after it goes into service: disk, clock, ports, certificates, names, peers
    Doctor(doctor::Doctor),
    /// Show the whole story on this machine, with built-in peers: traffic, failover, crash, restart, failback
    Demo(Demo),
    /// Destinations, endpoints, what waits and why
    Status(reports::Status),
    /// Envelopes: list, look, decide
    #[command(subcommand)]
    Queue(queue::Queue),
    /// Stop and go on delivering to a destination; return to its first endpoint
    #[command(subcommand)]
    Destination(Destination),
    /// Move a destination to an endpoint, or keep traffic from one
    #[command(subcommand)]
    Endpoint(wishes::Endpoint),
    /// Move all destinations of a site away from it
    #[command(subcommand)]
    Site(wishes::Site),
    /// Deliver again what endpoints had answered
    Replay(replay::Replay),
    /// Make a failover drill and report on it; list and show the reports
    Drill(Box<drill::Drill>),
    /// Outages of the last 30 days, measured against `rto` and `rpo`
    Outages(outages::Outages),
    /// Send a message or images, as a test client
    #[command(subcommand)]
    Send(peers::Send),
    /// Ask a peer for a sign of life: C-ECHO for dicom://AE@host:port, a connection for mllp://host:port
    Echo(peers::Echo),
    /// Shell completions, to standard output
    #[command(hide = true)]
    Completions(manual::Completions),
    /// Manual pages
    #[command(hide = true)]
    Man(manual::Man),
}

#[derive(Debug, Args)]
struct ConfigOnly {
    /// Configuration file
    #[arg(long, value_name = "F")]
    config: Option<PathBuf>,
}

/// `demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// How long traffic flows, in seconds
    #[arg(long, value_name = "N")]
    pub seconds: Option<u64>,
    /// Write the reckoning, as JSON, to this file
    #[arg(long, value_name = "F")]
    pub report: Option<PathBuf>,
    /// Stay up afterwards, until interrupted
    #[arg(long)]
    pub stay: bool,
}

/// Which gateway.
#[derive(Debug, Args)]
pub struct Reach {
    /// Configuration file of the gateway
    #[arg(long, value_name = "F")]
    config: Option<PathBuf>,
    /// Data directory of the gateway (instead of --config)
    #[arg(long, value_name = "D", conflicts_with = "config")]
    data_dir: Option<PathBuf>,
}

impl Reach {
    /// Where it is.
    /// # Errors
    /// Usage.
    pub fn place(&self) -> Result<connect::Place, Failure> {
        connect::Place::find(self.config.as_deref(), self.data_dir.as_deref())
    }
}

#[derive(Debug, Subcommand)]
enum Destination {
    /// Stop delivering; messages are still accepted and wait
    Pause {
        /// Destination
        name: String,
        #[command(flatten)]
        reach: Reach,
    },
    /// Go on delivering
    Resume {
        /// Destination
        name: String,
        #[command(flatten)]
        reach: Reach,
    },
    /// Return to the first endpoint that is good, now; with failback = "manual" the only way back
    Failback {
        /// Destination
        name: String,
        #[command(flatten)]
        reach: Reach,
    },
}

/// Runs what the arguments ask for.
/// # Errors
/// What `main` prints, with its exit status.
pub fn execute(cli: Cli) -> Result<u8, Failure> {
    let json = cli.json;
    match cli.command {
        Command::Init(init) => init.execute(json),
        Command::Run(args) => crate::daemon::run(&config_path(args.config.as_deref())),
        Command::Check(args) => reports::check(&config_path(args.config.as_deref()), json),
        Command::Doctor(doctor) => waited(doctor.execute(json)),
        Command::Demo(demo) => waited(crate::demo::run(&demo, json)),
        Command::Status(status) => waited(status.execute(json)),
        Command::Queue(queue) => waited(queue.execute(json)),
        Command::Destination(Destination::Pause { name, reach }) => {
            waited(async { reports::destination(&reach.place()?, &name, "pause", json).await })
        }
        Command::Destination(Destination::Resume { name, reach }) => {
            waited(async { reports::destination(&reach.place()?, &name, "resume", json).await })
        }
        Command::Destination(Destination::Failback { name, reach }) => {
            waited(async { reports::destination(&reach.place()?, &name, "failback", json).await })
        }
        Command::Endpoint(endpoint) => waited(endpoint.execute(json)),
        Command::Site(site) => waited(site.execute(json)),
        Command::Replay(replay) => waited(replay.execute(json)),
        Command::Drill(drill) => waited(drill.execute(json)),
        Command::Outages(outages) => waited(outages.execute(json)),
        Command::Send(send) => waited(send.execute(json)),
        Command::Echo(echo) => waited(echo.execute(json)),
        Command::Completions(completions) => completions.execute(),
        Command::Man(man) => man.execute(),
    }
}

/// A command needs one thread; `run` makes its own runtime.
fn waited(command: impl Future<Output = Result<u8, Failure>>) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| Failure::new(EXIT_REFUSED, format!("no runtime: {e}")))?.block_on(command)
}

/// Writes an answer to standard output; a reader that went away (`| head`) is no failure.
/// # Errors
/// Any other fault of standard output.
pub fn answer(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let end: &[u8] = if text.ends_with('\n') { b"" } else { b"\n" };
    match out.write_all(text.as_bytes()).and_then(|()| out.write_all(end)).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::new(EXIT_REFUSED, format!("standard output: {e}"))),
        _ => Ok(()),
    }
}

/// Writes an answer as one line of JSON.
/// # Errors
/// As `answer`.
pub fn answer_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    answer(&serde_json::to_string(value).map_err(|e| Failure::new(EXIT_REFUSED, format!("JSON: {e}")))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_commands_of_the_manual_parse() {
        for line in [
            "everpost run --config f",
            "everpost check --config f --json",
            "everpost doctor --config f --timeout 3 --no-peers --json",
            "everpost demo --seconds 20 --report r --stay",
            "everpost init --config f --name n --data-dir d --listen-mllp 2575 --ris h:1 --pacs AE@h:1 --pacs AE@i:1 --listen-dicom AE@104",
            "everpost status --json",
            "everpost status --nagios --warning-age 60 --critical-age 120",
            "everpost status --ready",
            "everpost completions bash",
            "everpost man --to d",
            "everpost --json status --data-dir d",
            "everpost queue list --destination d --state held --key k --limit 5 --cursor 7",
            "everpost queue show 17",
            "everpost queue retry 1 2 3",
            "everpost queue release --all --destination d --state held",
            "everpost queue discard 1 --reason because",
            "everpost queue export 1 2 --to dir",
            "everpost queue import dir --destination d --into e --state held",
            "everpost destination pause d",
            "everpost destination resume d --config f",
            "everpost destination failback d --json",
            "everpost endpoint shift d e --reason because --for 10m --force --dry-run",
            "everpost endpoint unshift d --json",
            "everpost endpoint drain d e --force",
            "everpost endpoint enable d e",
            "everpost endpoint disable d e --data-dir x",
            "everpost endpoint probe d e",
            "everpost site shift s --to t --reason because",
            "everpost site unshift s",
            "everpost replay d --from-endpoint e --since 2h --until 2026-01-31T22:00:00Z --dry-run --out-of-order --no-query",
            "everpost drill d",
            "everpost drill d --fault freeze --to e --real --stay 1m --within 2m --max-errors 5 --max-age 1m --dry-run --detach --json",
            "everpost drill d --participant a --participant b --note n --corrective-action c --next 2027",
            "everpost drill list",
            "everpost drill list d --json",
            "everpost drill show i --format html",
            "everpost drill stop d --config f",
            "everpost outages",
            "everpost outages d --json --config f",
            "everpost send hl7 f --to mllp://h:1",
            "everpost send dicom a b --to dicom://AE@h:1",
            "everpost echo dicom://AE@h:1",
        ] {
            assert!(parsed(line).is_ok(), "{line}: {:?}", parsed(line).err());
        }
    }

    #[test]
    fn what_must_not_pass_is_usage() {
        for line in [
            "everpost",
            "everpost queue discard 1",                                  // no reason
            "everpost queue retry",                                      // nothing named
            "everpost queue retry --all",                                // all of what?
            "everpost queue retry 1 --all --destination d --state held", // both
            "everpost queue list --state lost",
            "everpost endpoint shift d e",          // no reason
            "everpost endpoint drain d",            // of which endpoint?
            "everpost site shift --reason because", // of which site?
            "everpost status --config f --data-dir d",
            "everpost queue show x",
            "everpost replay d",             // since when?
            "everpost drill",                // of what?
            "everpost drill d --fault fire", // no such
            "everpost drill show",           // which?
            "everpost doctor --timeout 0",
            "everpost init --pacs h:1",         // by which AE title?
            "everpost status --nagios --json",  // one or the other
            "everpost status --warning-age 60", // means nothing without --nagios
            "everpost send hl7 f",
        ] {
            assert_eq!(parsed(line).err().map(|e| e.exit_code()), Some(2), "{line}");
        }
    }
}
