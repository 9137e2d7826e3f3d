//! TLS on both sides, with OpenSSL and DCMTK as the other party: server and mutual authentication, wrong names and authorities, plaintext against TLS and
//! the reverse, certificates reloaded without losing a connection.

use harness::config::{dicom_destination, dicom_listener, mllp_destination, mllp_listener, route};
use harness::mllp::{Client, Server};
use harness::peers::{python, script};
use harness::pki::{Authority, Identity};
use harness::process::{Process, run, run_any};
use harness::{Gateway, World, sha256, synthetic, until, world};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn server_tls(own: &Identity, client_ca: Option<&Path>) -> String {
    let more = client_ca.map(|p| format!(", client_ca = \"{}\"", p.display())).unwrap_or_default();
    format!("tls = {{ cert = \"{}\", key = \"{}\"{more} }}", own.cert.display(), own.key.display())
}

fn client_tls(ca: &Path, own: Option<&Identity>) -> String {
    let more = own.map(|i| format!(", cert = \"{}\", key = \"{}\"", i.cert.display(), i.key.display())).unwrap_or_default();
    format!("tls = {{ ca = \"{}\"{more}, server_name = \"localhost\" }}", ca.display())
}

/// `tls_mllp.py send`.
fn sends(port: u16, folder: &Path, ca: &Path, own: Option<&Identity>) -> Result<Vec<String>, String> {
    let mut command = Command::new(python());
    command.arg(script("tls_mllp.py")).arg("send").arg(port.to_string()).arg(folder).arg(ca);
    if let Some(own) = own {
        command.arg(&own.cert).arg(&own.key);
    }
    let (status, out, err) = run_any(&mut command, 60);
    if status.success() { Ok(out.lines().map(str::to_owned).collect()) } else { Err(err) }
}

fn messages(world: &World, prefix: &str, number: usize) -> (std::path::PathBuf, Vec<String>) {
    let folder = world.folder(&format!("messages-{prefix}"));
    let ids: Vec<String> = (0..number).map(|n| format!("{prefix}{n:03}")).collect();
    for (n, id) in ids.iter().enumerate() {
        std::fs::write(folder.join(id), synthetic::oru(id, n, 2_000 + n * 30_000, synthetic::CHARSETS[n % 5])).unwrap();
    }
    (folder, ids)
}

#[test]
fn hl7_with_mutual_authentication_on_both_sides() {
    let world = World::new("tls-hl7");
    let (authority, stranger) = (Authority::new(&world, "hospital-ca"), Authority::new(&world, "other-ca"));
    let (own, ris, lab) =
        (authority.issue(&world, "gw", "localhost"), authority.issue(&world, "ris", "localhost"), authority.issue(&world, "lab", "lab.example"));
    let foreign = stranger.issue(&world, "foreign", "localhost");
    let (port, peer_port, log) = (world::port(), world::port(), world.path("received"));
    let mut peer = Command::new(python());
    peer.arg(script("tls_mllp.py")).arg("serve").arg(peer_port.to_string()).args([&log, &ris.cert, &ris.key, &authority.ca]);
    let _peer = Process::start("ris", &mut peer, &world.path("ris.log"));
    until("the TLS server listens", 20, || TcpStream::connect(loopback(peer_port)).is_ok());
    let text = mllp_listener("ris-in", port, &server_tls(&own, Some(&authority.ca)))
        + &mllp_destination("ris", "", &[("primary", loopback(peer_port))])
        + &client_tls(&authority.ca, Some(&own))
        + "\n"
        + &route("ris-in", &["ris"], "");
    let gateway = Gateway::start(&world, "gateway", &text);
    let (folder, ids) = messages(&world, "T", 10);
    let answers = sends(port, &folder, &authority.ca, Some(&lab)).expect("a client of our authority");
    assert_eq!(answers, ids.iter().map(|id| format!("AA {id}")).collect::<Vec<_>>());
    gateway.drained("ris", 30);
    let expected: Vec<String> = ids.iter().map(|id| format!("{id} {}", sha256(&std::fs::read(folder.join(id)).unwrap()))).collect();
    assert_eq!(std::fs::read_to_string(&log).unwrap().lines().collect::<Vec<_>>(), expected);

    assert!(sends(port, &folder, &authority.ca, None).is_err(), "a client without certificate got in");
    assert!(sends(port, &folder, &authority.ca, Some(&foreign)).is_err(), "a client of another authority got in");
    assert!(sends(port, &folder, &stranger.ca, Some(&lab)).unwrap_err().contains("certificate"), "the client checks us too");
    let expiry = gateway.metric("everpost_tls_certificate_expiry_seconds", &[]).expect("expiry in the metrics");
    assert!(expiry > 0.0);
}

#[test]
fn a_wrong_name_or_authority_is_never_delivered_to() {
    let world = World::new("tls-wrong");
    let (authority, stranger) = (Authority::new(&world, "hospital-ca"), Authority::new(&world, "other-ca"));
    let (wrong_name, foreign) = (authority.issue(&world, "wrong-name", "elsewhere.example"), stranger.issue(&world, "foreign", "localhost"));
    for (n, identity) in [wrong_name, foreign].into_iter().enumerate() {
        let (port, peer_port, log) = (world::port(), world::port(), world.path(&format!("received-{n}")));
        let mut peer = Command::new(python());
        peer.arg(script("tls_mllp.py")).arg("serve").arg(peer_port.to_string()).args([&log, &identity.cert, &identity.key]);
        let _peer = Process::start("ris", &mut peer, &world.path("ris.log"));
        until("the TLS server listens", 20, || TcpStream::connect(loopback(peer_port)).is_ok());
        let text = mllp_listener("ris-in", port, "")
            + &mllp_destination("ris", "", &[("primary", loopback(peer_port))])
            + &client_tls(&authority.ca, None)
            + "\n"
            + &route("ris-in", &["ris"], "");
        let gateway = Gateway::start(&world, &format!("gateway{n}"), &text);
        assert!(Client::connect(loopback(port)).unwrap().send(&synthetic::small("SECRET")).unwrap().positive());
        until("an attempt has failed in the tls phase", 20, || {
            gateway.queue("ris", "deferred").iter().chain(&gateway.queue("ris", "ready")).any(|e| e["last"]["phase"] == "tls")
        });
        assert_eq!(std::fs::read_to_string(&log).unwrap_or_default(), "", "delivered to somebody whose certificate is not good");
        assert_eq!(gateway.waiting("ris"), 1);
    }
}

#[test]
fn plaintext_against_tls_and_the_reverse_say_so() {
    let world = World::new("tls-plain");
    let authority = Authority::new(&world, "hospital-ca");
    let own = authority.issue(&world, "gw", "localhost");
    let (tls_port, plain_port, dicom_port) = (world::port(), world::port(), world::port());
    let sink = Server::start();
    let text = mllp_listener("tls-in", tls_port, &server_tls(&own, None))
        + &mllp_listener("plain-in", plain_port, "")
        + &dicom_listener("dicom-tls", dicom_port, &server_tls(&own, None))
        + &mllp_destination("to-plain", "", &[("plain", sink.address())])
        + &client_tls(&authority.ca, None)
        + "\n"
        + &dicom_destination("nowhere", "", &[("nobody", loopback(9))])
        + &route("tls-in", &["to-plain"], "")
        + &route("plain-in", &["to-plain"], "")
        + &route("dicom-tls", &["nowhere"], "");
    let gateway = Gateway::start(&world, "gateway", &text);
    // Plaintext to a TLS listener: closed, and the log says what it was.
    let mut stream = TcpStream::connect(loopback(tls_port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(&harness::mllp::block(&synthetic::small("PLAIN"))).unwrap();
    let mut got = Vec::new();
    let _ = stream.read_to_end(&mut got);
    let log = || gateway.log().to_lowercase();
    until("the log says that plaintext came to a TLS port", 10, || log().contains("plain") && log().contains("tls-in"));
    let associated = harness::dicom::Association::open(
        loopback(dicom_port),
        "EVERPOST",
        "PLAIN",
        &harness::dicom::propose(harness::dicom::CT, harness::dicom::EXPLICIT),
    );
    assert!(associated.is_err());
    until("the same for DICOM", 10, || log().contains("dicom-tls"));
    // A TLS client on a plaintext listener.
    let (folder, _) = messages(&world, "X", 1);
    assert!(sends(plain_port, &folder, &authority.ca, None).is_err());
    until("the log says that TLS came to a plaintext port", 10, || log().contains("plain-in") && log().contains("tls"));
    // We speak TLS to a plaintext peer.
    assert!(Client::connect(loopback(plain_port)).unwrap().send(&synthetic::small("OUT")).unwrap().positive());
    until("the attempt failed in the tls phase", 20, || {
        gateway.queue("to-plain", "deferred").iter().chain(&gateway.queue("to-plain", "ready")).any(|e| e["last"]["phase"] == "tls")
    });
    // Random bytes of the handshake may hold 1C 0D and look like a block to the receiver; the message itself must not be among them.
    assert_eq!(sink.ids().iter().filter(|id| *id == "OUT").count(), 0, "delivered in the clear");
    // The command line says so too.
    let file = world.write("one.hl7", synthetic::small("ONE"));
    let (file, ca, to) = (file.display().to_string(), authority.ca.display().to_string(), format!("mllps://127.0.0.1:{plain_port}"));
    let (status, out, err) = gateway_send(&["send", "hl7", &file, "--to", &to, "--ca", &ca]);
    assert!(!status, "{out}{err}");
    let said = (out + &err).to_lowercase();
    assert!(said.contains("tls") && (said.contains("plain") || said.contains("not speak")), "{said}");
}

fn gateway_send(arguments: &[&str]) -> (bool, String, String) {
    let (status, out, err) = run_any(Command::new(harness::gateway::program()).args(arguments), 60);
    (status.success(), out, err)
}

#[test]
fn dicom_over_tls_with_dcmtk_on_both_sides() {
    let world = World::new("tls-dicom");
    let authority = Authority::new(&world, "hospital-ca");
    let (own, ct) = (authority.issue(&world, "gw", "localhost"), authority.issue(&world, "ct", "localhost"));
    let (port, peer_port, folder) = (world::port(), world::port(), world.folder("pacs"));
    let mut peer = Command::new("storescp");
    peer.args(["+B", "+xa", "-od"]).arg(&folder).arg("+tls").args([&ct.key, &ct.cert]).arg("+cf").arg(&authority.ca).arg(peer_port.to_string());
    let _peer = Process::start("storescp", &mut peer, &world.path("storescp.log"));
    until("storescp listens", 20, || TcpStream::connect(loopback(peer_port)).is_ok());
    let text = dicom_listener("modalities", port, &server_tls(&own, Some(&authority.ca)))
        + &dicom_destination("pacs", "", &[("storescp", loopback(peer_port))])
        + &client_tls(&authority.ca, Some(&own))
        + "\n"
        + &route("modalities", &["pacs"], "");
    let gateway = Gateway::start(&world, "gateway", &text);
    let files = synthetic::ct_files(&world, "ct", 150, 10, 300_000);
    let secure = |options: &[&str]| {
        let mut command = Command::new("storescu");
        command.args(options).args(["+cf"]).arg(&authority.ca).args(["-aec", "EVERPOST", "localhost", &port.to_string()]).args(&files);
        run_any(&mut command, 60)
    };
    let (status, out, err) = secure(&["+tls", &ct.key.display().to_string(), &ct.cert.display().to_string()]);
    assert!(status.success(), "{out}{err}");
    gateway.drained("pacs", 30);
    let mut kept: Vec<_> = harness::peers::files(&folder).into_iter().map(|p| (p.instance, p.data_set)).collect();
    kept.sort();
    let mut sent: Vec<_> = files.iter().map(|f| harness::dicom::part10(f)).map(|p| (p.instance, p.data_set)).collect();
    sent.sort();
    assert!(kept == sent, "{} kept, {} sent, or other bytes", kept.len(), sent.len());
    assert!(!secure(&["+tla"]).0.success(), "an anonymous client got in");
}

#[test]
fn certificates_are_replaced_without_losing_a_connection() {
    let world = World::new("tls-reload");
    let (old_authority, new_authority) = (Authority::new(&world, "old-ca"), Authority::new(&world, "new-ca"));
    let (own, new) = (old_authority.issue(&world, "gw", "localhost"), new_authority.issue(&world, "new", "localhost"));
    let port = world::port();
    let sink = Server::start();
    let text = mllp_listener("ris-in", port, &server_tls(&own, None))
        + &mllp_destination("ris", "", &[("sink", sink.address())])
        + &route("ris-in", &["ris"], "");
    let mut gateway = Gateway::start(&world, "gateway", &text);
    // A sender that is in the middle of its folder when the certificate changes: the next file appears only after the reload.
    let folder = world.folder("open");
    let fifo = folder.join("2");
    std::fs::write(folder.join("1"), synthetic::small("OPEN-1")).unwrap();
    run(Command::new("mkfifo").arg(&fifo), 10);
    let (ca, path) = (old_authority.ca.clone(), folder.clone());
    let sender = std::thread::spawn(move || sends(port, &path, &ca, None));
    until("the first message arrives", 20, || sink.count() == 1);
    own.become_like(&new);
    gateway.process().signal(libc::SIGHUP);
    let (after, _) = messages(&world, "N", 1);
    until("new connections see the new certificate", 20, || sends(port, &after, &new_authority.ca, None).is_ok());
    std::fs::write(&fifo, synthetic::small("OPEN-2")).unwrap();
    assert_eq!(sender.join().unwrap().expect("the open connection goes on"), ["AA OPEN-1", "AA OPEN-2"]);
    assert!(sends(port, &after, &old_authority.ca, None).is_err(), "the old certificate is gone");
    // A certificate that does not load changes nothing.
    std::fs::write(&own.cert, "not a certificate").unwrap();
    gateway.process().signal(libc::SIGHUP);
    assert!(world::stays(1_000, || sends(port, &after, &new_authority.ca, None).is_ok()), "a broken certificate took the listener down");
    until("the log says why", 10, || gateway.log().contains("gw.crt"));
}

#[test]
fn an_endpoint_without_authority_does_not_start() {
    let world = World::new("tls-no-ca");
    let text = mllp_listener("ris-in", world::port(), "")
        + &mllp_destination("ris", "", &[("primary", loopback(9))])
        + "tls = { server_name = \"localhost\" }\n"
        + &route("ris-in", &["ris"], "");
    let gateway = Gateway::new(&world, "gateway", &text);
    let (status, out, err) = gateway.cli(&["check"]);
    assert_eq!(status.code(), Some(2), "{out}{err}");
    assert!((out + &err).contains("ca"));
}
