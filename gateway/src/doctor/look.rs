//! What the doctor sees of this box: the running gateway, the disk, files, the clock, limits, ports.
//! Rules: nothing is judged here; what cannot be seen is said, never guessed. The measurement of the disk writes into a file without a name.
//! Errors: none that end the examination.

use super::judge::{Clock, Disk, File, Gateway, Port, Role};
use crate::cli::connect::Place;
use crate::config::Config;
use crate::process;
use everpost_client::io::tls::{ClientTls, ServerTls};
use everpost_client::spool;
use hyper::Method;
use std::ffi::CString;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Syncs that are timed: enough for a median, too few to disturb a running gateway.
const SYNCS: usize = 64;

/// Bytes of the large write.
const STREAM_BYTES: usize = 32 << 20;

/// A disk that hangs is told after so long.
const MEASURE_WITHIN: Duration = Duration::from_secs(60);

/// How long the running gateway may take to answer.
const GATEWAY_WITHIN: Duration = Duration::from_secs(10);

/// Files of the spool whose times and versions are looked at.
const SEGMENTS_MAX: usize = 10_000;

pub(super) async fn gateway(config: &Config, place: &Place) -> Gateway {
    let pid = match owner(&config.data_dir.join("spool/lock")) {
        Ok(None) => return Gateway::None,
        Ok(Some(pid)) => pid,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Gateway::None,
        Err(e) => return Gateway::Hidden(e.to_string()),
    };
    match tokio::time::timeout(GATEWAY_WITHIN, place.json(Method::GET, "/api/v1/status", None)).await {
        Ok(Ok(value)) => match serde_json::from_value(value) {
            Ok(report) => Gateway::Answers { pid, report: Box::new(report) },
            Err(e) => Gateway::Silent { pid, why: format!("its status cannot be read: {e}") },
        },
        Ok(Err(failure)) => Gateway::Silent { pid, why: failure.what },
        Err(_) => Gateway::Silent { pid, why: format!("no answer within {} s", GATEWAY_WITHIN.as_secs()) },
    }
}

/// Whether somebody has the lock, and who.
fn owner(lock: &Path) -> io::Result<Option<Option<u32>>> {
    let mut file = fs::File::open(lock)?;
    // SAFETY: the descriptor is open for the length of both calls, which touch no memory of ours.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_SH | libc::LOCK_NB) } == 0 {
        return Ok(None); // and dropped with the file
    }
    let mut pid = String::new();
    file.read_to_string(&mut pid)?;
    Ok(Some(pid.trim().parse().ok()))
}

/// Format versions of the segments there, and the one of this program.
pub(super) fn formats(data_dir: &Path) -> (Vec<u32>, u32) {
    let entries = fs::read_dir(data_dir.join("spool")).into_iter().flatten().flatten().take(SEGMENTS_MAX);
    let version = |path: PathBuf| {
        let mut head = [0; 64];
        fs::File::open(path).and_then(|mut file| file.read_exact(&mut head)).ok()?;
        spool::version_of(&head)
    };
    (entries.filter(|e| e.path().extension().is_some_and(|x| x == "seg")).filter_map(|e| version(e.path())).collect(), spool::FORMAT)
}

pub(super) async fn disk(data_dir: &Path, reserve: u64) -> Disk {
    let exists = data_dir.is_dir();
    let whole = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    let path = whole.ancestors().find(|p| p.is_dir()).unwrap_or(Path::new("/")).to_owned();
    let (kind, options) = mounted(&path).unwrap_or_default();
    let mut disk = Disk { path: path.clone(), exists, kind, options, ..Disk::default() };
    if let Ok(found) = room(&path) {
        (disk.free, disk.total) = (found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize);
        (disk.inodes_free, disk.inodes) = (found.f_favail, found.f_files);
    }
    let large = disk.free > reserve.saturating_add(2 * STREAM_BYTES as u64);
    let measured = tokio::task::spawn_blocking(move || measure(&path, large));
    match tokio::time::timeout(MEASURE_WITHIN, measured).await {
        Ok(Ok(Ok((syncs, stream)))) => (disk.syncs, disk.stream) = (syncs, stream),
        Ok(Ok(Err(e))) => disk.unmeasured = Some(e.to_string()),
        Ok(Err(e)) => disk.unmeasured = Some(e.to_string()),
        Err(_) => disk.unmeasured = Some(format!("the disk did not answer within {} s", MEASURE_WITHIN.as_secs())),
    }
    disk
}

fn room(path: &Path) -> io::Result<libc::statvfs> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: all-zero is a valid value of this plain structure.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for the length of the call.
    if unsafe { libc::statvfs(path.as_ptr(), &raw mut found) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(found)
}

/// Kind and options of the file system that a folder stands on.
fn mounted(path: &Path) -> Option<(String, Vec<String>)> {
    let path = path.canonicalize().ok()?;
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    kind_of(&table, &path)
}

/// The line of the table whose mount point is the longest that leads to `path`; of equals the last, which covers the others.
fn kind_of(table: &str, path: &Path) -> Option<(String, Vec<String>)> {
    let mut best: Option<(usize, (String, Vec<String>))> = None;
    for line in table.lines() {
        let (Some((before, after)), Some(point)) = (line.split_once(" - "), line.split(' ').nth(4)) else { continue };
        let point = point.replace("\\040", " ");
        if !path.starts_with(&point) || best.as_ref().is_some_and(|(length, _)| *length > point.len()) {
            continue;
        }
        let mut after = after.split(' ');
        let kind = after.next().unwrap_or_default().to_owned();
        let options = [before.split(' ').nth(5), after.nth(1)];
        let options = options.into_iter().flatten().flat_map(|o| o.split(',')).map(str::to_owned).collect();
        best = Some((point.len(), (kind, options)));
    }
    best.map(|(_, found)| found)
}

/// Times syncs of one overwritten page, as a journal makes them, and one large write with its sync.
fn measure(folder: &Path, large: bool) -> io::Result<(Vec<Duration>, Option<f64>)> {
    let name = folder.join(format!(".doctor-{}", std::process::id()));
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&name)?;
    fs::remove_file(&name)?; // open and without a name: nothing stays, whatever happens
    let page = [0x5a_u8; 4096];
    file.write_all(&page)?;
    file.sync_all()?;
    let mut syncs = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let began = Instant::now();
        file.write_all_at(&page, 0)?;
        file.sync_data()?;
        syncs.push(began.elapsed());
    }
    syncs.sort();
    if !large {
        return Ok((syncs, None));
    }
    let (began, piece) = (Instant::now(), vec![0xa5_u8; 1 << 20]);
    for _ in 0..STREAM_BYTES / piece.len() {
        file.write_all(&piece)?;
    }
    file.sync_data()?;
    Ok((syncs, Some(STREAM_BYTES as f64 / began.elapsed().as_secs_f64())))
}

/// The files that the gateway's safety hangs on.
pub(super) fn files(config: &Config) -> Vec<File> {
    let service = fs::metadata(&config.data_dir).ok().map(|m| (m.uid(), m.gid()));
    let mut wanted = vec![(Role::DataDir, config.data_dir.clone()), (Role::Configuration, config.file.clone())];
    wanted.extend(config.listeners.iter().filter_map(|l| Some((Role::Key, l.tls.as_ref()?.key.clone()))));
    let endpoints = config.destinations.iter().flat_map(|d| &d.endpoints);
    wanted.extend(endpoints.filter_map(|e| Some((Role::Key, e.tls.as_ref()?.identity.as_ref()?.1.clone()))));
    wanted.sort_by(|a, b| a.1.cmp(&b.1));
    wanted.dedup();
    let seen = |(role, path): (Role, PathBuf)| {
        let found = fs::metadata(&path).ok()?; // a data_dir that does not exist yet
        Some(File { role, path, mode: found.mode(), owner: (found.uid(), found.gid()), service })
    };
    wanted.into_iter().filter_map(seen).collect()
}

pub(super) fn clock(config: &Config) -> Clock {
    let segments = fs::read_dir(config.data_dir.join("spool")).into_iter().flatten().flatten().take(SEGMENTS_MAX).map(|e| e.path());
    let changed = |path: PathBuf| Some((path.clone(), fs::metadata(&path).ok()?.modified().ok()?));
    let newest = segments.chain([config.file.clone(), config.data_dir.clone()]).filter_map(changed).max_by_key(|(_, at)| *at);
    // SAFETY: all-zero is a valid value of this plain structure, and asks without changing anything.
    let mut found: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live timex of this frame.
    let state = unsafe { libc::adjtimex(&raw mut found) };
    Clock { synchronised: (state >= 0).then_some(state != libc::TIME_ERROR && found.status & libc::STA_UNSYNC == 0), newest }
}

/// Open files of the running gateway; without one, as many as this process could have.
pub(super) fn descriptor_limit(gateway: &Gateway) -> usize {
    let of = |pid: u32| {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
        limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next()?.parse().ok())
    };
    gateway.pid().and_then(of).unwrap_or_else(|| process::descriptors().1)
}

/// Certificates of ours that load, and when each ends. One that does not load is a problem of the configuration.
pub(super) fn certificates(config: &Config) -> Vec<(String, SystemTime)> {
    let mut found = Vec::new();
    for listener in &config.listeners {
        let end = listener.tls.as_ref().and_then(|tls| ServerTls::load(tls).ok()?.expires_at());
        found.extend(end.map(|end| (format!("listener {}", listener.name), end)));
    }
    for destination in &config.destinations {
        for endpoint in &destination.endpoints {
            let end = endpoint.tls.as_ref().and_then(|tls| ClientTls::load(tls, &endpoint.host).ok()?.expires_at());
            found.extend(end.map(|end| (format!("endpoint {}/{}", destination.name, endpoint.name), end)));
        }
    }
    found
}

/// Tries each address we want to listen on.
pub(super) fn ports(config: &Config, gateway: &Gateway) -> Vec<Port> {
    let listeners = config.listeners.iter().map(|l| (format!("listener {}", l.name), l.bind, gateway.listens(l.bind)));
    let admin = config.admin_bind.map(|at| ("[admin]".to_owned(), at, gateway.runs()));
    let one = |(subject, at, ours): (String, SocketAddr, bool)| {
        let tried = TcpListener::bind(at).map(drop);
        let taken = tried.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::AddrInUse) && !ours;
        Port { subject, at, ours, tried, taken_by: if taken { holder(at.port()) } else { None } }
    };
    listeners.chain(admin).map(one).collect()
}

/// Who listens on a port, as far as this user may see.
fn holder(port: u16) -> Option<String> {
    let sockets: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| table.lines().filter_map(|line| Some(format!("socket:[{}]", listening(line, port)?))).collect::<Vec<_>>())
        .collect();
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let open = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        let has = |link: PathBuf| sockets.iter().any(|socket| link.as_os_str() == socket.as_str());
        if open.filter_map(|fd| fs::read_link(fd.path()).ok()).any(has) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("process {pid} ({})", name.trim()));
        }
    }
    None
}

/// The inode of a socket that listens on `port`, from a line of /proc/net/tcp.
fn listening(line: &str, port: u16) -> Option<&str> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let local = u16::from_str_radix(fields.get(1)?.rsplit_once(':')?.1, 16).ok()?;
    (local == port && *fields.get(3)? == "0A").then(|| fields.get(9).copied())?
}

/// Whether an address belongs to this box: only then can a socket be bound to it.
pub(super) fn is_ours(at: SocketAddr) -> bool {
    UdpSocket::bind((at.ip(), 0)).is_ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_that_a_folder_stands_on() {
        let table = "1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/a rw,errors=remount-ro\n2 1 8:2 / /var rw - xfs /dev/b rw,nobarrier\n\
                     3 1 0:5 / /var/my\\040data rw,noatime - tmpfs tmpfs rw\n";
        let of = |path: &str| kind_of(table, Path::new(path)).unwrap();
        assert_eq!(of("/etc").0, "ext4");
        let (kind, options) = of("/var/lib/everpost");
        assert!(kind == "xfs" && options.contains(&"nobarrier".to_owned()), "{options:?}");
        assert_eq!(of("/var/my data/x").0, "tmpfs");
        assert_eq!(of("/variety").0, "ext4");
    }

    #[test]
    fn what_is_measured_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (syncs, stream) = measure(dir.path(), true).unwrap();
        assert!(syncs.len() == SYNCS && syncs.is_sorted() && stream.unwrap() > 0.0);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(measure(&dir.path().join("none"), false).is_err());
    }

    #[test]
    fn a_port_has_a_holder() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let told = holder(port).unwrap();
        assert!(told.contains(&format!("process {} (", std::process::id())), "{told}");
        assert!(is_ours(([127, 0, 0, 1], 1).into()) && !is_ours(([192, 0, 2, 1], 1).into()));
    }

    #[test]
    fn a_lock_tells_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert_eq!(owner(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::write(&path, "4711").unwrap();
        assert_eq!(owner(&path).unwrap(), None);
        let held = fs::File::open(&path).unwrap();
        // SAFETY: the descriptor is open.
        assert_eq!(unsafe { libc::flock(held.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }, 0);
        assert_eq!(owner(&path).unwrap(), Some(Some(4711)));
    }
}
