//! Health: what each probe finds, a standby that would refuse named before it is needed, slow told from dead.

use harness::config::{QUICK_HEALTH, dicom_destination, dicom_listener, mllp_destination, mllp_listener, route};
use harness::dicom::{Association, EXPLICIT, propose};
use harness::dicom_scp::{Answer, Scp, Welcome};
use harness::mllp::{AA, Client, Reply, Server};
use harness::peers::{Receiver, python, script};
use harness::pki::Authority;
use harness::process::Process;
use harness::synthetic::{self, DataSet, ct, instance};
use harness::world::{self, stays};
use harness::{Gateway, World, until};
use serde_json::Value;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const CT: &str = "1.2.840.10008.5.1.4.1.1.2";
const MG: &str = "1.2.840.10008.5.1.4.1.1.1.2";
/// The synthetic object of `probe = "dicom-store"`, as documented.
const TEST_INSTANCE: &str = "2.25.112241001387729441462318755531054521608";

fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// The status of one endpoint.
fn endpoint(gateway: &Gateway, destination: &str, name: &str) -> Value {
    let found = gateway.destination(destination).and_then(|d| d["endpoints"].as_array()?.iter().find(|e| e["name"] == name).cloned());
    found.unwrap_or(Value::Null)
}

/// Waits until the health of an endpoint has this name and its reason this text.
#[track_caller]
fn becomes(gateway: &Gateway, destination: &str, name: &str, health: &str, reason: &str) {
    until(&format!("{name} is {health}: {reason}"), 60, || {
        let seen = endpoint(gateway, destination, name);
        seen["health"] == health && seen["reason"].as_str().is_some_and(|text| text.contains(reason))
    });
}

fn mammogram(number: u64) -> Vec<u8> {
    DataSet::explicit()
        .text(0x0008, 0x0016, "UI", MG)
        .text(0x0008, 0x0018, "UI", &instance(900, number))
        .text(0x0008, 0x0060, "CS", "MG")
        .text(0x0010, 0x0010, "PN", "TEST^SYNTHETIC")
        .text(0x0010, 0x0020, "LO", "P000001")
        .text(0x0020, 0x000d, "UI", "1.2.826.0.1.3680043.10.511.900")
        .text(0x0020, 0x000e, "UI", "1.2.826.0.1.3680043.10.511.900.1")
        .bytes()
}

/// Sends one object of a class to a listener.
fn store(to: u16, calling: &str, class: &str, number: u64, data_set: &[u8]) {
    let mut association = Association::open(loopback(to), "EVERPOST", calling, &propose(class, EXPLICIT)).unwrap();
    assert_eq!(association.store(class, &instance(900, number), data_set).unwrap(), 0);
    association.release().unwrap();
}

#[test]
fn a_frozen_peer_is_found_by_the_application_probe_without_traffic() {
    let world = World::new("health-frozen");
    let (mut primary, secondary) = (Receiver::storescp(&world, "primary", &[]), Scp::start());
    let text = dicom_listener("in", world::port(), "")
        + &dicom_destination("pacs", "", &[("primary", primary.address()), ("secondary", secondary.address())])
        + &route("in", &["pacs"], "");
    let gateway = Gateway::start(&world, "gateway", &text);
    becomes(&gateway, "pacs", "primary", "up", "probes are good");
    primary.process.freeze();
    becomes(&gateway, "pacs", "primary", "down", "did not answer the association request in time");
    gateway.becomes_active("pacs", "secondary", 60);
    primary.process.thaw();
    gateway.becomes_active("pacs", "primary", 60);
}

#[test]
fn an_http_probe_goes_by_the_status_and_proves_nothing_of_the_way_of_messages() {
    let world = World::new("health-http");
    let (web, primary, secondary) = (world::port(), Server::start(), Server::start());
    let (mut primary, status) = (primary, world.write("status", "200"));
    let mut server = Command::new("python3");
    server.arg(script("http_status.py")).arg(web.to_string()).arg(&status);
    let _server = Process::start("http", &mut server, &world.path("http.log"));
    until("the HTTP server listens", 20, || TcpStream::connect(loopback(web)).is_ok());
    let port = world::port();
    let own = format!("health = {{ probe = \"http\", url = \"http://127.0.0.1:{web}/health\", {QUICK_HEALTH} }}\n");
    let head = mllp_destination("ris", "health = { interval = \"200ms\" }", &[]);
    let places = format!(
        "[[destination.endpoint]]\nname = \"primary\"\naddress = \"{}\"\n{own}[[destination.endpoint]]\nname = \"secondary\"\naddress = \"{}\"\n",
        primary.address(),
        secondary.address()
    );
    let gateway = Gateway::start(&world, "gateway", &(mllp_listener("in", port, "") + &head + &places + &route("in", &["ris"], "")));
    becomes(&gateway, "ris", "primary", "up", "probes are good");
    world.write("status", "503");
    becomes(&gateway, "ris", "primary", "down", "answered 503");
    gateway.becomes_active("ris", "secondary", 60);
    world.write("status", "204");
    gateway.becomes_active("ris", "primary", 60);
    // Nobody takes messages, and the URL says all is well: the return goes by one envelope, and fails.
    primary.shut();
    let mut client = Client::connect(loopback(port)).unwrap();
    assert!(client.send(&synthetic::small("A1")).unwrap().positive());
    gateway.drained("ris", 20);
    gateway.becomes_active("ris", "secondary", 60);
    assert!(stays(3_000, || gateway.active("ris") == ["secondary"]), "back by a URL: {:?}", gateway.destination("ris"));
    assert_eq!(secondary.ids(), ["A1"]);
}

#[test]
fn the_test_object_is_kept_once_and_found_again() {
    let world = World::new("health-store");
    let orthanc = Receiver::orthanc(&world, "orthanc", loopback(world::port()));
    let health = "health = { probe = \"dicom-store\", look_up = true, interval = \"300ms\", timeout = \"5s\", fall = 2, rise = 2 }";
    let text =
        dicom_listener("in", world::port(), "") + &dicom_destination("pacs", health, &[("orthanc", orthanc.address())]) + &route("in", &["pacs"], "");
    let gateway = Gateway::start(&world, "gateway", &text);
    becomes(&gateway, "pacs", "orthanc", "up", "probes are good");
    let kept = orthanc.keeps(1, 30);
    assert_eq!(kept.keys().collect::<Vec<_>>(), [TEST_INSTANCE]);
}

#[test]
fn an_archive_that_echoes_and_does_not_store_is_down() {
    let world = World::new("health-full");
    let (scp, full) = (Scp::start(), Arc::new(AtomicBool::new(true)));
    let says = full.clone();
    scp.script(move |_| Answer::Status(if says.load(Ordering::SeqCst) { 0xA700 } else { 0 }));
    let health = format!("health = {{ probe = \"dicom-store\", {QUICK_HEALTH} }}");
    let text =
        dicom_listener("in", world::port(), "") + &dicom_destination("pacs", &health, &[("pacs", scp.address())]) + &route("in", &["pacs"], "");
    let gateway = Gateway::start(&world, "gateway", &text);
    becomes(&gateway, "pacs", "pacs", "down", "answered the test object with A700H");
    assert!(stays(2_000, || endpoint(&gateway, "pacs", "pacs")["health"] == "down"), "good echoes hid it");
    let stored = scp.stored();
    assert!(stored.len() == 1 && stored[0].instance == TEST_INSTANCE, "once in five minutes: {stored:?}");
    full.store(false, Ordering::SeqCst);
}

/// Negotiation of DCMTK's `storescp`: CT only.
const CT_ONLY: &str = "[[TransferSyntaxes]]\n[Plain]\nTransferSyntax1 = LittleEndianExplicit\nTransferSyntax2 = LittleEndianImplicit\n\
    [[PresentationContexts]]\n[Ct]\nPresentationContext1 = VerificationSOPClass\\Plain\nPresentationContext2 = CTImageStorage\\Plain\n\
    [[Profiles]]\n[CtOnly]\nPresentationContexts = Ct\n";

#[test]
fn a_standby_that_lacks_a_class_is_named_while_the_primary_serves_and_after_a_restart() {
    let world = World::new("health-standby");
    let primary = Scp::start();
    let negotiation = world.write("ct-only.cfg", CT_ONLY);
    let secondary = Receiver::storescp(&world, "secondary", &["-xf", &negotiation.display().to_string(), "CtOnly"]);
    let port = world::port();
    let health = format!("health = {{ probe = \"dicom-echo\", rehearse = \"1s\", {QUICK_HEALTH} }}");
    let text = dicom_listener("in", port, "")
        + &dicom_destination("pacs", &health, &[("primary", primary.address()), ("secondary", secondary.address())])
        + &route("in", &["pacs"], "");
    let mut gateway = Gateway::start(&world, "gateway", &text);
    store(port, "CT1", CT, 1, &ct(&instance(900, 1), 1, 2_000));
    until("the standby is ready", 60, || endpoint(&gateway, "pacs", "secondary")["ready"] == true);
    store(port, "MG1", MG, 2, &mammogram(2));
    let named = "would refuse MG (Digital Mammography X-Ray Image Storage - For Presentation)";
    becomes(&gateway, "pacs", "secondary", "degraded", named);
    assert_eq!(gateway.active("pacs"), ["primary"], "nothing has failed over");
    let (status, out, _) = gateway.cli(&["status"]);
    assert!(status.code() == Some(3) && out.contains("secondary is degraded"), "{status}: {out}");
    assert_eq!(gateway.metric("everpost_endpoint_ready", &[("endpoint", "secondary")]), Some(0.0));
    assert_eq!(primary.count(), 2);
    gateway.kill();
    gateway.up();
    becomes(&gateway, "pacs", "secondary", "degraded", named);
    drop(secondary);
}

#[test]
fn a_standby_that_learns_is_ready_and_told_once() {
    let world = World::new("health-learns");
    let (primary, secondary, port) = (Scp::start(), Scp::start(), world::port());
    secondary.welcome(Welcome::Except(vec![MG.to_owned()]));
    let health = format!("health = {{ probe = \"dicom-echo\", rehearse = \"1s\", {QUICK_HEALTH} }}");
    let text = dicom_listener("in", port, "")
        + &dicom_destination("pacs", &health, &[("primary", primary.address()), ("secondary", secondary.address())])
        + &route("in", &["pacs"], "");
    let gateway = Gateway::start(&world, "gateway", &text);
    store(port, "MG1", MG, 1, &mammogram(1));
    becomes(&gateway, "pacs", "secondary", "degraded", "would refuse MG");
    secondary.welcome(Welcome::All);
    until("the standby is ready", 60, || endpoint(&gateway, "pacs", "secondary")["ready"] == true);
    assert_eq!(endpoint(&gateway, "pacs", "secondary")["health"], "up");
    let told = || gateway.log().lines().filter(|line| line.contains("would refuse MG")).count();
    until("one line when it begins, one when it is over", 60, || told() == 2);
    assert!(stays(2_000, || told() == 2), "told more than once:\n{}", gateway.log());
    assert_eq!(secondary.count(), 0, "nothing was sent");
}

#[test]
fn a_standby_that_rejects_the_senders_title_is_named() {
    let world = World::new("health-title");
    let (primary, secondary, port) = (Scp::start(), Scp::start(), world::port());
    secondary.welcome(Welcome::Reject(1, 1, 3));
    let health = format!("calling_ae = \"pass\"\nhealth = {{ probe = \"tcp\", rehearse = \"1s\", {QUICK_HEALTH} }}");
    let text = dicom_listener("in", port, "")
        + &dicom_destination("pacs", &health, &[("primary", primary.address()), ("secondary", secondary.address())])
        + &route("in", &["pacs"], "");
    let gateway = Gateway::start(&world, "gateway", &text);
    store(port, "CT_ROOM_1", CT, 1, &ct(&instance(900, 1), 1, 2_000));
    becomes(&gateway, "pacs", "secondary", "degraded", "would refuse associations of CT_ROOM_1 (calling AE title not recognized");
}

#[test]
fn a_standby_whose_certificate_is_not_good_is_named_although_its_port_answers() {
    let world = World::new("health-tls");
    let (authority, stranger) = (Authority::new(&world, "hospital-ca"), Authority::new(&world, "other-ca"));
    let (good, foreign) = (authority.issue(&world, "ris-a", "localhost"), stranger.issue(&world, "ris-b", "localhost"));
    let mut text = mllp_listener("in", world::port(), "");
    text += &mllp_destination("ris", &format!("health = {{ probe = \"tcp\", rehearse = \"1s\", {QUICK_HEALTH} }}"), &[]);
    let mut peers = Vec::new();
    for (name, identity) in [("primary", &good), ("secondary", &foreign)] {
        let (port, log) = (world::port(), world.path(&format!("received-{name}")));
        let mut peer = Command::new(python());
        peer.arg(script("tls_mllp.py")).arg("serve").arg(port.to_string()).args([&log, &identity.cert, &identity.key]);
        peers.push(Process::start(name, &mut peer, &world.path(&format!("{name}.log"))));
        until("a TLS server listens", 20, || TcpStream::connect(loopback(port)).is_ok());
        let tls = format!("tls = {{ ca = \"{}\", server_name = \"localhost\" }}", authority.ca.display());
        text += &format!("[[destination.endpoint]]\nname = \"{name}\"\naddress = \"127.0.0.1:{port}\"\n{tls}\n");
    }
    let gateway = Gateway::start(&world, "gateway", &(text + &route("in", &["ris"], "")));
    becomes(&gateway, "ris", "secondary", "degraded", "a rehearsal failed in phase tls");
    assert_eq!(gateway.active("ris"), ["primary"]);
}

#[test]
fn a_slow_primary_is_degraded_and_left_and_returned_to() {
    let world = World::new("health-slow");
    let (primary, secondary, port) = (Server::start(), Server::start(), world::port());
    let slow = Arc::new(AtomicBool::new(false));
    let says = slow.clone();
    primary.script(move |_, _| if says.load(Ordering::SeqCst) { Reply::Late(Duration::from_millis(1_500), Box::new(AA)) } else { AA });
    let health = format!("hold_down = \"2s\"\nhealth = {{ probe = \"tcp\", slow = \"leave\", slow_after = \"1s\", {QUICK_HEALTH} }}");
    let text = mllp_listener("in", port, "")
        + &mllp_destination("ris", &health, &[("primary", primary.address()), ("secondary", secondary.address())])
        + &route("in", &["ris"], "");
    let gateway = Gateway::start(&world, "gateway", &text);
    let mut client = Client::connect(loopback(port)).unwrap();
    let mut sent = Vec::new();
    let mut send = |prefix: &str| {
        let id = format!("{prefix}{:04}", sent.len());
        assert!(client.send(&synthetic::small(&id)).unwrap().positive());
        sent.push(id);
        sent.len()
    };
    send("A");
    gateway.drained("ris", 20);
    slow.store(true, Ordering::SeqCst);
    until("the destination leaves the slow primary", 150, || {
        send("B");
        std::thread::sleep(Duration::from_millis(300)); // a trickle: what is measured is the receiver
        gateway.active("ris") == ["secondary"]
    });
    let seen = gateway.destination("ris").unwrap();
    assert!(seen["reason"].as_str().unwrap().contains("primary is slow: its answers to messages take 1.5 s"), "{seen}");
    slow.store(false, Ordering::SeqCst);
    gateway.becomes_active("ris", "primary", 60);
    gateway.drained("ris", 60);
    assert_eq!(endpoint(&gateway, "ris", "primary")["health"], "up");
    let everywhere: Vec<String> = primary.ids().into_iter().chain(secondary.ids()).collect();
    let count = send("C");
    gateway.drained("ris", 60);
    assert_eq!(everywhere.len(), count - 1, "each message once");
}
