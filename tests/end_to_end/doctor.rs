//! `everpost doctor` finds what is planted, names it, and leaves a box that is well alone.

use harness::config::{dicom_destination, dicom_listener, mllp_destination, mllp_listener, route};
use harness::dicom_scp::{Scp, Welcome};
use harness::gateway::program;
use harness::mllp::Server;
use harness::pki::Authority;
use harness::process::run_any;
use harness::world::{self, not_run};
use harness::{Gateway, World};
use serde_json::Value;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// What the doctor says, and its exit status.
#[track_caller]
fn examined(gateway: &Gateway, more: &[&str]) -> (Option<i32>, Vec<Value>) {
    let (status, out, err) = gateway.cli(&[&["doctor", "--json", "--timeout", "2"][..], more].concat());
    let told: Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}\n{err}"));
    (status.code(), told["checks"].as_array().cloned().unwrap_or_default())
}

/// A finding of `check` about `subject`, in this state, says `what`, with a remedy if it is bad.
#[track_caller]
fn named(checks: &[Value], state: &str, check: &str, subject: &str, what: &str) {
    let text = |f: &Value, field: &str| f[field].as_str().unwrap_or_default().to_owned();
    let hit = |f: &&Value| {
        let remedied = !["fault", "warning"].contains(&state) || !text(f, "remedy").is_empty();
        f["state"] == state && f["check"] == check && text(f, "subject").contains(subject) && text(f, "what").contains(what) && remedied
    };
    assert!(checks.iter().any(|f| hit(&f)), "no {state} {check} of {subject:?} that says {what:?} in\n{checks:#?}");
}

#[test]
fn a_box_that_is_well_has_no_fault_and_keeps_nothing_of_the_examination() {
    let world = World::new("doctor-well");
    let (hl7, images) = (world::port(), world::port());
    let (ris, ris_b, pacs) = (Server::start(), Server::start(), Scp::start());
    let text = mllp_listener("ris-in", hl7, "")
        + &dicom_listener("modalities", images, "")
        + &mllp_destination("ris", "", &[("a", ris.address()), ("b", ris_b.address())])
        + &dicom_destination("pacs", "", &[("main", pacs.address())])
        + &route("ris-in", &["ris"], "")
        + &route("modalities", &["pacs"], "");
    let mut gateway = Gateway::start(&world, "gateway", &text);
    let files = |at: &Path| std::fs::read_dir(at).unwrap().flatten().map(|e| e.file_name()).collect::<std::collections::BTreeSet<_>>();
    let before = files(gateway.data());
    let (status, checks) = examined(&gateway, &[]);
    // A machine may have a clock that nobody keeps right: a warning, and nothing that the test could mend.
    assert!(matches!(status, Some(0 | 3)) && !checks.iter().any(|f| f["state"] == "fault"), "{status:?} {checks:#?}");
    named(&checks, "ok", "gateway", "gateway", "runs (process ");
    named(&checks, "ok", "port", "listener ris-in", "held by the running gateway");
    named(&checks, "ok", "port", "[admin]", "held by the running gateway");
    named(&checks, "ok", "sync", "", "64 syncs");
    named(&checks, "ok", "format", "spool", "format 1");
    named(&checks, "ok", "echo", "pacs/main", "C-ECHO 0000H");
    named(&checks, "ok", "echo", "ris/a", "takes connections");
    named(&checks, "ok", "way", "ris", "different places");
    assert_eq!(files(gateway.data()), before);
    gateway.terminate();
    let (_, checks) = examined(&gateway, &["--no-peers"]);
    named(&checks, "ok", "gateway", "this box", "none runs");
    named(&checks, "ok", "port", "listener ris-in", "is free");
    named(&checks, "skipped", "echo", "endpoints", "--no-peers");
}

#[test]
fn planted_faults_are_found_and_named() {
    let world = World::new("doctor-faults");
    let (taken, looped) = (TcpListener::bind("127.0.0.1:0").unwrap(), world::port());
    let (nobody, refusing, silent, twin) = (world::port(), Scp::start(), Scp::start(), Server::start());
    refusing.welcome(Welcome::Reject(1, 1, 7));
    silent.welcome(Welcome::Silence);
    let authority = Authority::new(&world, "hospital-ca");
    let (old, open) = (authority.issue_expired(&world, "old", "localhost"), authority.issue(&world, "own", "localhost"));
    std::fs::set_permissions(&old.key, PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::set_permissions(&open.key, PermissionsExt::from_mode(0o644)).unwrap();
    let tls = |identity: &harness::pki::Identity| format!("tls = {{ cert = \"{}\", key = \"{}\" }}", identity.cert.display(), identity.key.display());
    let named_endpoint = "[[destination.endpoint]]\nname = \"lost\"\naddress = \"pacs.everpost.invalid:104\"\nae_title = \"PACS\"\n";
    let text = "[spool]\nreserve = \"16384 GiB\"\n".to_owned()
        + &format!("[names]\nservers = [\"127.0.0.1:{nobody}\"]\n")
        + &mllp_listener("busy", taken.local_addr().unwrap().port(), &tls(&old))
        + &mllp_listener("looped", looped, &tls(&open))
        + &mllp_listener("far", world::port(), "").replace("127.0.0.1", "192.0.2.1")
        + &mllp_destination("gone", "", &[("none", loopback(nobody)), ("circle", loopback(looped))])
        + &mllp_destination("twins", "", &[("one", twin.address()), ("other", twin.address())])
        + &dicom_destination("pacs", "", &[("refuses", refusing.address()), ("silent", silent.address())])
        + named_endpoint
        + &route("busy", &["gone", "twins"], "");
    let gateway = Gateway::new(&world, "gateway", &text);
    std::fs::create_dir_all(gateway.data()).unwrap();
    std::fs::set_permissions(gateway.data(), PermissionsExt::from_mode(0o755)).unwrap();
    let ahead = SystemTime::now() + Duration::from_secs(86_400);
    std::fs::File::options().write(true).open(gateway.config()).unwrap().set_modified(ahead).unwrap();

    let (status, checks) = examined(&gateway, &[]);
    assert_eq!(status, Some(1));
    let process = format!("is taken by process {} (", std::process::id());
    named(&checks, "fault", "port", "listener busy", &process);
    named(&checks, "fault", "port", "listener far", "is no address of this box");
    named(&checks, "fault", "certificate", "listener busy", "expired");
    named(&checks, "fault", "permissions", "own.key", "every user may read this private key");
    named(&checks, "fault", "permissions", "gateway-data", "other users may look into it");
    named(&checks, "fault", "clock", "this box", "was changed");
    named(&checks, "fault", "space", "gateway-data", "intake is refused");
    named(&checks, "fault", "names", "pacs/lost", "pacs.everpost.invalid did not resolve");
    named(&checks, "fault", "echo", "gone/none", "is the receiver running");
    named(&checks, "fault", "echo", "pacs/refuses", "answers negatively");
    named(&checks, "fault", "echo", "pacs/silent", "");
    named(&checks, "fault", "way", "twins", "failover leads nowhere");
    named(&checks, "fault", "way", "gone/circle", "our own listener looped");
    named(&checks, "warning", "configuration", "gateway.toml:", "no route begins at listener");

    // The same for people: every fault stands there, in 80 columns but for paths, and the count at the end.
    let (status, text, _) = gateway.cli(&["doctor", "--timeout", "2"]);
    assert_eq!(status.code(), Some(1));
    let faults = checks.iter().filter(|f| f["state"] == "fault").count();
    assert_eq!(text.matches("\nFAULT").count(), faults, "{text}");
    assert!(text.trim_end().ends_with(&format!("{faults} faults")), "{text}");
}

#[test]
fn faults_of_the_place_are_found() {
    let world = World::new("doctor-place");
    let sink = Server::start();
    let text = mllp_listener("ris-in", world::port(), "max_connections = 4000")
        + &mllp_destination("ris", "", &[("sink", sink.address())])
        + &route("ris-in", &["ris"], "");

    // Few descriptors.
    let mut gateway = Gateway::new(&world, "gateway", &text);
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -n 256 && exec \"$0\" \"$@\""]).arg(program());
    shell.args(["doctor", "--json", "--no-peers", "--config"]).arg(gateway.config());
    let (_, out, _) = run_any(&mut shell, 60);
    let told: Value = serde_json::from_str(&out).unwrap();
    named(told["checks"].as_array().unwrap(), "warning", "descriptors", "open files", "the limit of 256 open files");

    // A spool of a later version: the doctor says it, and `run` refuses it.
    gateway.up();
    gateway.terminate();
    let segments: Vec<_> = std::fs::read_dir(gateway.data().join("spool")).unwrap().flatten().map(|e| e.path()).collect();
    let segment = segments.iter().find(|p| p.file_name().unwrap().to_string_lossy().starts_with("journal-")).unwrap();
    let mut bytes = std::fs::read(segment).unwrap();
    bytes[12..16].copy_from_slice(&99_u32.to_le_bytes());
    let sum = crc32c::crc32c(&bytes[12..64]);
    bytes[8..12].copy_from_slice(&sum.to_le_bytes());
    std::fs::write(segment, bytes).unwrap();
    let (status, checks) = examined(&gateway, &["--no-peers"]);
    assert_eq!(status, Some(1));
    named(&checks, "fault", "format", "spool", "format 99, written by a later version");
    gateway.launch();
    assert_eq!(gateway.process().wait(60).code(), Some(1));
    assert!(gateway.log().contains("later version"), "{}", gateway.log());

    // A configuration that does not load.
    gateway.configure("[[listener]]\nname = 1\n");
    let (status, checks) = examined(&gateway, &[]);
    assert_eq!(status, Some(2));
    named(&checks, "fault", "configuration", "gateway.toml:", "");

    // Memory instead of a disk.
    let memory = Path::new("/dev/shm");
    if !memory.is_dir() {
        not_run("faults_of_the_place_are_found", "there is no memory file system at /dev/shm");
        return;
    }
    let data = memory.join(format!("everpost-doctor-{}", std::process::id()));
    let gateway = Gateway::at(&world, "memory", &data, &text);
    let (status, checks) = examined(&gateway, &["--no-peers"]);
    assert_eq!(status, Some(1));
    named(&checks, "fault", "disk", "/dev/shm", "a memory file system");
    assert!(!data.exists(), "made by an examination");
}
