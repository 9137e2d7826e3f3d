//! What follows from what the doctor saw: facts in, findings out.
//! Rules: pure; each finding of a trouble has a remedy; thresholds stand here with their reasons.
//! Errors: none.

use super::Finding;
use crate::config::{Config, Problem};
use crate::descriptors;
use crate::status::{Report, Standing, bytes};
use everpost_client::config::Destination;
use everpost_client::limits;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// A sync that ends sooner has not been to any disk: a page of a memory file system takes 1 us, the fastest honest device 10 us.
const HONEST_SYNC: Duration = Duration::from_micros(5);

/// Every positive answer waits for a sync: beyond this, senders feel it.
const SLOW_SYNC: Duration = Duration::from_millis(20);

/// Bytes per second below which images back up: one CT sends 20 MB/s.
const SLOW_STREAM: f64 = 20e6;

/// Part of a file system's inodes that should be free: a spool needs few, and none is as bad as no space.
const INODES_FREE: u64 = 100;

/// A clock that reads less is wrong: 2026-01-01, before this program was written.
const EARLIEST: Duration = Duration::from_secs(1_767_225_600);

/// What files may lie in the future for clocks that are a little apart.
const APART: Duration = Duration::from_secs(60);

/// A gateway that was looked for.
#[derive(Debug)]
pub(super) enum Gateway {
    /// None runs.
    None,
    /// It answers.
    Answers { pid: Option<u32>, report: Box<Report> },
    /// The spool is taken, and nobody answers.
    Silent { pid: Option<u32>, why: String },
    /// The lock may not be read.
    Hidden(String),
}

impl Gateway {
    /// Whether one owns the spool.
    pub(super) fn runs(&self) -> bool {
        matches!(self, Gateway::Answers { .. } | Gateway::Silent { .. })
    }

    pub(super) fn pid(&self) -> Option<u32> {
        match self {
            Gateway::Answers { pid, .. } | Gateway::Silent { pid, .. } => *pid,
            Gateway::None | Gateway::Hidden(_) => None,
        }
    }

    /// Whether it has a listener at an address.
    pub(super) fn listens(&self, at: SocketAddr) -> bool {
        match self {
            Gateway::Answers { report, .. } => report.listeners.iter().any(|l| l.bind == at.to_string()),
            Gateway::Silent { .. } | Gateway::None | Gateway::Hidden(_) => false,
        }
    }
}

/// The disk under the spool.
#[derive(Debug, Default, Clone)]
pub(super) struct Disk {
    /// `data_dir`, or the nearest folder above it that exists.
    pub(super) path: PathBuf,
    /// `data_dir` itself exists.
    pub(super) exists: bool,
    /// As in /proc/self/mountinfo: `ext4`, `tmpfs`.
    pub(super) kind: String,
    /// Mount options.
    pub(super) options: Vec<String>,
    /// For this user.
    pub(super) free: u64,
    pub(super) total: u64,
    pub(super) inodes_free: u64,
    pub(super) inodes: u64,
    /// Each sync of one overwritten page, sorted.
    pub(super) syncs: Vec<Duration>,
    /// Bytes per second of a large write with its sync.
    pub(super) stream: Option<f64>,
    /// Why there is no measurement.
    pub(super) unmeasured: Option<String>,
}

/// A file, or a folder, and who may do what with it.
#[derive(Debug, Clone)]
pub(super) struct File {
    /// What it is to us: `data_dir`, `configuration`, `key`.
    pub(super) role: Role,
    pub(super) path: PathBuf,
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    /// Owner and group of `data_dir`: whom the gateway runs as.
    pub(super) service: Option<(u32, u32)>,
}

/// What a file is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    DataDir,
    Configuration,
    Key,
}

/// The clock.
#[derive(Debug, Clone, Default)]
pub(super) struct Clock {
    /// Whether the system calls it synchronised.
    pub(super) synchronised: Option<bool>,
    /// The file that was changed last, and when.
    pub(super) newest: Option<(PathBuf, SystemTime)>,
}

/// An address to listen on.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) subject: String,
    pub(super) at: SocketAddr,
    /// The running gateway has it.
    pub(super) ours: bool,
    pub(super) tried: io::Result<()>,
    /// Who has it, if that can be seen.
    pub(super) taken_by: Option<String>,
}

/// What an endpoint's name stands for.
#[derive(Debug, Clone)]
pub(super) struct Resolved {
    pub(super) destination: String,
    pub(super) endpoint: String,
    pub(super) ae_title: String,
    pub(super) addresses: Vec<SocketAddr>,
}

pub(super) fn configuration(config: &Config) -> Finding {
    let (listeners, destinations, routes) = (config.listeners.len(), config.destinations.len(), config.routes.len());
    let what = format!("loads; listeners {listeners}, destinations {destinations}, routes {routes}");
    Finding::ok("configuration", config.file.display().to_string(), what)
}

pub(super) fn warning(warning: &Problem) -> Finding {
    let subject = match warning.line {
        0 => warning.file.display().to_string(),
        line => format!("{}:{line}:{}", warning.file.display(), warning.column),
    };
    Finding::warning("configuration", subject, &warning.what, &warning.remedy)
}

/// These have findings of their own, with days.
pub(super) fn tells_of_a_certificate(warning: &Problem) -> bool {
    warning.what.starts_with("the certificate ")
}

pub(super) fn gateway(gateway: &Gateway) -> Finding {
    let process = |pid: &Option<u32>| pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
    match gateway {
        Gateway::None => Finding::ok("gateway", "this box", "none runs on this data_dir"),
        Gateway::Answers { pid, report } => {
            let what = format!("runs{}, version {}, {:?}", process(pid), report.version, report.state).to_lowercase();
            if report.version != env!("CARGO_PKG_VERSION") {
                let remedy = "restart the gateway: it still runs what was installed before";
                return Finding::warning("gateway", &report.name, format!("{what}; this program is {}", env!("CARGO_PKG_VERSION")), remedy);
            }
            match report.state {
                Standing::Ok => Finding::ok("gateway", &report.name, what),
                Standing::Degraded | Standing::Refusing => {
                    let why = report.reasons.first().cloned().unwrap_or_default();
                    Finding::warning("gateway", &report.name, format!("{what}: {why}"), "see `everpost status` and docs/operating.md")
                }
            }
        }
        Gateway::Silent { pid, why } => {
            let remedy =
                "run this as the gateway's user or as root; if it hangs all the same, keep its log and restart it: nothing that was answered is lost";
            Finding::warning("gateway", "this box", format!("one owns the spool{} and does not answer: {why}", process(pid)), remedy)
        }
        Gateway::Hidden(why) => Finding::skipped("gateway", "this box", format!("cannot be seen by this user: {why}")),
    }
}

/// Format versions of the spool's segments: those found, and ours.
pub(super) fn format((found, ours): &(Vec<u32>, u32)) -> Option<Finding> {
    let newest = found.iter().max()?;
    if newest > ours {
        let what = format!("format {newest}, written by a later version; this one reads up to {ours} and does not start on it");
        return Some(Finding::fault(
            "format",
            "spool",
            what,
            "install that version again: it may never be read by an older one; see docs/install.md",
        ));
    }
    Some(Finding::ok("format", "spool", format!("format {newest}; this version reads up to {ours}")))
}

pub(super) fn disk(disk: &Disk, reserve: u64) -> Vec<Finding> {
    let subject = disk.path.display().to_string();
    vec![place(disk, &subject), honesty(disk, &subject), speed(disk, &subject), space(disk, reserve, &subject)]
}

fn place(disk: &Disk, subject: &str) -> Finding {
    let careless: Vec<&str> =
        disk.options.iter().map(String::as_str).filter(|o| matches!(*o, "nobarrier" | "barrier=0" | "volatile" | "nobarriers")).collect();
    let local = "put data_dir on a local ext4 or XFS";
    match disk.kind.as_str() {
        "tmpfs" | "ramfs" => Finding::fault("disk", subject, format!("a memory file system ({}): a power cut takes everything", disk.kind), local),
        _ if !careless.is_empty() => {
            let what = format!("mounted with {}: a sync does not reach the disk", careless.join(","));
            Finding::fault("disk", subject, what, "mount it without that option")
        }
        "overlay" => Finding::warning("disk", subject, "the container's own layer: it goes with the container", "mount a volume at data_dir"),
        kind @ ("nfs" | "nfs4" | "cifs" | "smb3" | "9p" | "ceph" | "glusterfs") => {
            Finding::warning("disk", subject, format!("a network file system ({kind}): its syncs and locks are only as good as the network"), local)
        }
        kind if kind.starts_with("fuse") => Finding::warning("disk", subject, format!("a file system of a program ({kind})"), local),
        kind if !disk.exists => Finding::ok("disk", subject, format!("{kind}; data_dir does not exist yet, `run` makes it here")),
        kind => Finding::ok("disk", subject, kind.to_owned()),
    }
}

fn honesty(disk: &Disk, subject: &str) -> Finding {
    let Some(median) = disk.syncs.get(disk.syncs.len() / 2) else {
        let why = disk.unmeasured.clone().unwrap_or_else(|| "not measured".to_owned());
        let remedy = "run this as the gateway's user or as root; data_dir must be writable for the gateway, on a disk that writes";
        return Finding::fault("sync", subject, format!("nothing could be written and synced: {why}"), remedy);
    };
    let (worst, count) = (disk.syncs.last().copied().unwrap_or_default(), disk.syncs.len());
    let seen = format!("{count} syncs: median {median:.1?}, worst {worst:.1?}");
    if *median < HONEST_SYNC {
        let remedy =
            "look for `eatmydata`, a memory disk, or a virtual disk with its cache mode set to unsafe; answers would be given for what is not kept";
        return Finding::fault("sync", subject, format!("no disk is that fast: {seen}"), remedy);
    }
    if *median > SLOW_SYNC {
        let remedy = "each answer waits for one: use an SSD with power-loss protection, or find what else loads this disk";
        return Finding::warning("sync", subject, format!("slow: {seen}"), remedy);
    }
    Finding::ok("sync", subject, seen)
}

fn speed(disk: &Disk, subject: &str) -> Finding {
    match disk.stream {
        None => Finding::skipped("disk", subject, "its speed was not measured"),
        Some(rate) if rate < SLOW_STREAM => {
            let remedy = "one CT sends that much: use a faster disk, or find what else loads it";
            Finding::warning("disk", subject, format!("slow: {:.1} MB/s written and synced", rate / 1e6), remedy)
        }
        Some(rate) => Finding::ok("disk", subject, format!("{:.0} MB/s written and synced", rate / 1e6)),
    }
}

fn space(disk: &Disk, reserve: u64, subject: &str) -> Finding {
    let seen = format!("{} free of {}, reserve {}", bytes(disk.free), bytes(disk.total), bytes(reserve));
    let remedy = "free space, give data_dir a larger disk, or lower `[spool] reserve`";
    if disk.inodes > 0 && disk.inodes_free < INODES_FREE {
        return Finding::fault("space", subject, format!("{} inodes are free", disk.inodes_free), "remove small files from this file system");
    }
    if disk.free < reserve {
        return Finding::fault("space", subject, format!("{seen}: intake is refused"), remedy);
    }
    if disk.free < reserve.saturating_mul(2) {
        return Finding::warning("space", subject, format!("{seen}: near"), remedy);
    }
    Finding::ok("space", subject, seen)
}

pub(super) fn permissions(files: &[File]) -> Vec<Finding> {
    files.iter().map(permission).collect()
}

fn permission(file: &File) -> Finding {
    let (path, mode) = (file.path.display().to_string(), format!("mode {:04o}", file.mode & 0o7777));
    let chmod = |mode: &str| format!("chmod {mode} {path}");
    match file.role {
        Role::DataDir if file.mode & 0o077 != 0 => {
            let what = format!("{mode}: other users may look into it, and it holds patient data");
            return Finding::fault("permissions", &path, what, chmod("0700"));
        }
        Role::Key if file.mode & 0o007 != 0 => {
            return Finding::fault("permissions", &path, format!("{mode}: every user may read this private key"), chmod("0640"));
        }
        Role::Configuration | Role::Key if file.mode & 0o002 != 0 => {
            return Finding::fault("permissions", &path, format!("{mode}: every user may change it"), chmod("o-w"));
        }
        Role::DataDir | Role::Configuration | Role::Key => {}
    }
    let readable = file.service.is_none_or(|(user, group)| {
        user == 0 || file.mode & 0o004 != 0 || file.owner.0 == user && file.mode & 0o400 != 0 || file.owner.1 == group && file.mode & 0o040 != 0
    });
    if !readable {
        let what = format!("{mode}, owner {}:{}: the owner of data_dir cannot read it", file.owner.0, file.owner.1);
        return Finding::warning("permissions", &path, what, "give it the group of data_dir, with `chmod 0640`");
    }
    Finding::ok("permissions", path, mode)
}

pub(super) fn clock(clock: &Clock, now: SystemTime) -> Vec<Finding> {
    let remedy = "set it, and run chrony or systemd-timesyncd: ages, retention and certificates go by it";
    if now < SystemTime::UNIX_EPOCH + EARLIEST {
        return vec![Finding::fault("clock", "this box", "it stands before the year 2026", remedy)];
    }
    let mut found = Vec::new();
    if let Some((file, at)) = &clock.newest
        && let Ok(ahead) = at.duration_since(now)
        && ahead > APART
    {
        let what = format!("{} was changed {} s after now: the clock was set back, or stands wrong", file.display(), ahead.as_secs());
        found.push(Finding::fault("clock", "this box", what, remedy));
    }
    found.push(match clock.synchronised {
        Some(true) => Finding::ok("clock", "this box", "synchronised"),
        Some(false) => Finding::warning("clock", "this box", "nothing keeps it right", remedy),
        None => Finding::skipped("clock", "this box", "the system does not say whether it is synchronised"),
    });
    found
}

pub(super) fn descriptors(limit: usize, config: &Config) -> Finding {
    match descriptors::warning(limit, config) {
        Some(what) => Finding::warning("descriptors", "open files", what, "LimitNOFILE= in the unit, `ulimit -Hn` for a shell"),
        None => Finding::ok("descriptors", "open files", format!("at most {limit}")),
    }
}

/// Certificates of ours: whose, and when each ends.
pub(super) fn certificates(found: &[(String, SystemTime)], now: SystemTime) -> Vec<Finding> {
    let renew = "renew it and replace the file; SIGHUP takes it without losing connections";
    let one = |(subject, end): &(String, SystemTime)| match end.duration_since(now) {
        Err(past) => Finding::fault("certificate", subject, format!("expired {} days ago", past.duration().as_secs() / 86_400), renew),
        Ok(left) if left < limits::CERTIFICATE_WARNING => {
            Finding::warning("certificate", subject, format!("expires in {} days", left.as_secs() / 86_400), renew)
        }
        Ok(left) => Finding::ok("certificate", subject, format!("{} days left", left.as_secs() / 86_400)),
    };
    found.iter().map(one).collect()
}

pub(super) fn port(port: &Port) -> Finding {
    let at = port.at;
    let error = match &port.tried {
        Ok(()) => return Finding::ok("port", &port.subject, format!("{at} is free")),
        Err(_) if port.ours => return Finding::ok("port", &port.subject, format!("{at}, held by the running gateway")),
        Err(error) => error,
    };
    let (what, remedy) = match error.kind() {
        io::ErrorKind::AddrInUse => {
            let by = port.taken_by.clone().unwrap_or_else(|| "another process".to_owned());
            (format!("{at} is taken by {by}"), "stop that, or choose another `bind`".to_owned())
        }
        io::ErrorKind::PermissionDenied => (
            format!("{at}: this user may not use a port below 1024"),
            format!(
                "AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit (the packaged one has it), or `setcap cap_net_bind_service=+ep`, or a port other than {}",
                at.port()
            ),
        ),
        io::ErrorKind::AddrNotAvailable => (format!("{at} is no address of this box"), "bind to 0.0.0.0 or [::], or correct the address".to_owned()),
        _ => (format!("{at}: {error}"), "choose another `bind`".to_owned()),
    };
    Finding::fault("port", &port.subject, what, remedy)
}

/// Ways that lead nowhere: two endpoints that are one, an endpoint that is a listener of ours.
pub(super) fn ways(config: &Config, resolved: &[Resolved], ours: &dyn Fn(SocketAddr) -> bool) -> Vec<Finding> {
    let mut found = Vec::new();
    for destination in &config.destinations {
        let mine: Vec<&Resolved> = resolved.iter().filter(|r| *r.destination == *destination.name).collect();
        let before = found.len();
        for (n, one) in mine.iter().enumerate() {
            found.extend(mine[..n].iter().filter_map(|earlier| same(destination, earlier, one)));
            found.extend(one.addresses.iter().filter_map(|at| loops(config, one, *at, ours)));
        }
        if found.len() == before && mine.len() > 1 {
            found.push(Finding::ok("way", &*destination.name, "its endpoints are different places"));
        }
    }
    found
}

fn same(destination: &Destination, earlier: &Resolved, one: &Resolved) -> Option<Finding> {
    let shared = one.addresses.iter().find(|at| earlier.addresses.contains(at))?;
    if earlier.ae_title != one.ae_title {
        let what = format!("{} and {} are both at {shared}: they fail together", earlier.endpoint, one.endpoint);
        return Some(Finding::warning("way", &*destination.name, what, "give the second one a machine of its own"));
    }
    let what = format!("{} and {} are the same place, {shared}: failover leads nowhere", earlier.endpoint, one.endpoint);
    Some(Finding::fault("way", &*destination.name, what, "correct the address of one of them, or the DNS"))
}

fn loops(config: &Config, one: &Resolved, at: SocketAddr, ours: &dyn Fn(SocketAddr) -> bool) -> Option<Finding> {
    let listener = config.listeners.iter().find(|l| l.bind.port() == at.port() && (l.bind.ip() == at.ip() || l.bind.ip().is_unspecified()))?;
    if !ours(at) {
        return None;
    }
    let what = format!("{at} is our own listener {}: every message would come back for ever", listener.name);
    Some(Finding::fault("way", format!("{}/{}", one.destination, one.endpoint), what, "correct the endpoint's address"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::State;
    use super::*;
    use crate::status::ListenerLine;
    use std::path::Path;

    fn config() -> Config {
        Config::load(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/everpost.example.toml"))).unwrap()
    }

    fn good() -> Disk {
        Disk {
            path: "/d".into(),
            exists: true,
            kind: "ext4".into(),
            free: 10 << 30,
            total: 20 << 30,
            inodes: 1000,
            inodes_free: 900,
            syncs: vec![Duration::from_micros(140); 9],
            stream: Some(300e6),
            ..Disk::default()
        }
    }

    #[track_caller]
    fn told(found: &[Finding], state: State, what: &str) {
        let hit = found.iter().any(|f| f.state == state && f.what.contains(what) && (state < State::Warning || !f.remedy.is_empty()));
        assert!(hit, "{state:?} {what:?} is not in {found:#?}");
    }

    #[test]
    fn a_good_disk_is_well_and_each_bad_one_is_told() {
        type Change = fn(&mut Disk);
        assert!(disk(&good(), 1 << 30).iter().all(|f| f.state == State::Ok), "{:?}", disk(&good(), 1 << 30));
        let cases: [(Change, State, &str); 13] = [
            (|d| d.kind = "tmpfs".into(), State::Fault, "memory file system"),
            (|d| d.options = vec!["rw".into(), "nobarrier".into()], State::Fault, "nobarrier"),
            (|d| d.kind = "overlay".into(), State::Warning, "container"),
            (|d| d.kind = "nfs4".into(), State::Warning, "network file system"),
            (|d| d.kind = "fuse.sshfs".into(), State::Warning, "of a program"),
            (|d| d.exists = false, State::Ok, "does not exist yet"),
            (|d| d.syncs = vec![Duration::from_nanos(900); 9], State::Fault, "no disk is that fast"),
            (|d| d.syncs = vec![Duration::from_millis(40); 9], State::Warning, "slow: 9 syncs"),
            (|d| d.stream = Some(3e6), State::Warning, "slow: 3.0 MB/s"),
            (|d| d.free = 1 << 29, State::Fault, "intake is refused"),
            (|d| d.free = 3 << 29, State::Warning, "near"),
            (|d| d.inodes_free = 7, State::Fault, "7 inodes"),
            (|d| (d.syncs, d.unmeasured) = (vec![], Some("read-only".into())), State::Fault, "read-only"),
        ];
        for (change, state, what) in cases {
            let mut seen = good();
            change(&mut seen);
            told(&disk(&seen, 1 << 30), state, what);
        }
    }

    #[test]
    fn who_may_read_what() {
        let file = |role, mode, owner| File { role, path: "/f".into(), mode, owner, service: Some((100, 200)) };
        told(&permissions(&[file(Role::DataDir, 0o750, (100, 200))]), State::Fault, "other users may look into it");
        told(&permissions(&[file(Role::DataDir, 0o700, (100, 200))]), State::Ok, "0700");
        told(&permissions(&[file(Role::Key, 0o644, (0, 200))]), State::Fault, "every user may read this private key");
        told(&permissions(&[file(Role::Key, 0o640, (0, 200))]), State::Ok, "0640");
        told(&permissions(&[file(Role::Key, 0o600, (0, 0))]), State::Warning, "the owner of data_dir cannot read it");
        told(&permissions(&[file(Role::Configuration, 0o666, (0, 0))]), State::Fault, "every user may change it");
        told(&permissions(&[file(Role::Configuration, 0o644, (0, 0))]), State::Ok, "0644");
        told(&permissions(&[file(Role::Configuration, 0o600, (100, 0))]), State::Ok, "0600");
    }

    #[test]
    fn a_clock_that_stands_wrong() {
        let now = SystemTime::UNIX_EPOCH + EARLIEST + Duration::from_secs(1_000);
        let seen = |synchronised, ahead| Clock { synchronised, newest: Some(("/f".into(), now + Duration::from_secs(ahead))) };
        told(&clock(&seen(Some(true), 0), SystemTime::UNIX_EPOCH), State::Fault, "before the year 2026");
        told(&clock(&seen(Some(true), 3_600), now), State::Fault, "3600 s after now");
        told(&clock(&seen(Some(false), 1), now), State::Warning, "nothing keeps it right");
        told(&clock(&seen(None, 1), now), State::Skipped, "does not say");
        assert!(clock(&seen(Some(true), 1), now).iter().all(|f| f.state == State::Ok));
    }

    #[test]
    fn certificates_by_their_days() {
        let (now, day) = (SystemTime::now(), Duration::from_secs(86_401));
        let of = |end| certificates(&[("listener a".to_owned(), end)], now);
        told(&of(now - 3 * day), State::Fault, "expired 3 days ago");
        told(&of(now + 10 * day), State::Warning, "expires in 10 days");
        told(&of(now + 90 * day), State::Ok, "90 days left");
    }

    #[test]
    fn ports_and_who_has_them() {
        let of = |kind: io::ErrorKind, ours, taken_by: Option<&str>| {
            let port_of = Port {
                subject: "listener a".into(),
                at: ([10, 0, 0, 1], 104).into(),
                ours,
                tried: Err(kind.into()),
                taken_by: taken_by.map(str::to_owned),
            };
            [port(&port_of)]
        };
        told(&of(io::ErrorKind::AddrInUse, false, Some("process 7 (nc)")), State::Fault, "10.0.0.1:104 is taken by process 7 (nc)");
        told(&of(io::ErrorKind::AddrInUse, false, None), State::Fault, "another process");
        told(&of(io::ErrorKind::AddrInUse, true, None), State::Ok, "held by the running gateway");
        told(&of(io::ErrorKind::PermissionDenied, false, None), State::Fault, "below 1024");
        told(&of(io::ErrorKind::AddrNotAvailable, false, None), State::Fault, "no address of this box");
    }

    #[test]
    fn endpoints_that_lead_nowhere() {
        let config = config();
        let at = |endpoint: &str, ae: &str, address: &str| Resolved {
            destination: "pacs".into(),
            endpoint: endpoint.into(),
            ae_title: ae.into(),
            addresses: vec![address.parse().unwrap()],
        };
        let two = |ae: &str, other: &str| [at("primary", "PACS", "10.0.0.1:104"), at("secondary", ae, other)];
        told(&ways(&config, &two("PACS", "10.0.0.1:104"), &|_| false), State::Fault, "failover leads nowhere");
        told(&ways(&config, &two("OTHER", "10.0.0.1:104"), &|_| false), State::Warning, "they fail together");
        told(&ways(&config, &two("PACS", "10.0.0.2:104"), &|_| false), State::Ok, "different places");
        told(&ways(&config, &two("PACS", "10.0.0.9:11112"), &|ip| ip.ip().to_string() == "10.0.0.9"), State::Fault, "our own listener modalities");
        assert!(ways(&config, &two("PACS", "10.0.0.9:11112"), &|_| false).iter().all(|f| f.state == State::Ok), "somebody else's");
    }

    #[test]
    fn a_gateway_beside_us() {
        let report = |version: &str, state| Report { name: "gw".into(), version: version.into(), state, ..Report::default() };
        let answers = |report| gateway(&Gateway::Answers { pid: Some(7), report: Box::new(report) });
        told(&[answers(report(env!("CARGO_PKG_VERSION"), Standing::Ok))], State::Ok, "process 7");
        told(&[answers(report("0.0.1", Standing::Ok))], State::Warning, "version 0.0.1");
        told(&[answers(report(env!("CARGO_PKG_VERSION"), Standing::Refusing))], State::Warning, "refusing");
        told(&[gateway(&Gateway::Silent { pid: Some(7), why: "no".into() })], State::Warning, "does not answer");
        let at: SocketAddr = ([0, 0, 0, 0], 2575).into();
        let listener = ListenerLine { bind: at.to_string(), ..ListenerLine::default() };
        let with = Gateway::Answers { pid: None, report: Box::new(Report { listeners: vec![listener], ..Report::default() }) };
        assert!(with.listens(at) && !with.listens(([0, 0, 0, 0], 1).into()) && !Gateway::None.listens(at));
    }

    #[test]
    fn a_spool_of_a_later_version() {
        assert_eq!(format(&(vec![], 1)), None);
        told(&[format(&(vec![1, 2], 1)).unwrap()], State::Fault, "written by a later version");
        told(&[format(&(vec![1, 1], 1)).unwrap()], State::Ok, "format 1");
    }
}
