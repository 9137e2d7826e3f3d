//! The ways in which a primary goes away, and comes back: refused, frozen, cut off, slow, silent, closing. Nothing is lost, order is kept, outcomes are
//! those of the design's section 5; back to the primary after the hold-down, and not to a frozen one.

use harness::config::{QUICK_HEALTH, dicom_destination, dicom_listener, mllp_destination, mllp_listener, route};
use harness::dicom::{self, EXPLICIT};
use harness::mllp::{AA, Client, Reply, Server};
use harness::netns::Netns;
use harness::peers::{Hl7Server, Receiver, sink};
use harness::synthetic::{self, ct, instance};
use harness::world::{self, stays};
use harness::{Gateway, World, dicom_scp, sha256, until};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// Sends small messages and asserts AA; gives their ids.
fn send(client: &mut Client, prefix: &str, range: std::ops::Range<usize>) -> Vec<String> {
    let ids: Vec<String> = range.map(|n| format!("{prefix}-{n:05}")).collect();
    for id in &ids {
        let ack = client.send(&synthetic::small(id)).unwrap();
        assert!(ack.code == "AA" && ack.id == *id, "{ack:?}");
    }
    ids
}

fn first_arrivals(ids: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    ids.into_iter().filter(|id| seen.insert(id.clone())).collect()
}

fn ids(server: &Hl7Server) -> Vec<String> {
    server.received().into_iter().map(|(id, _)| id).collect()
}

struct Hl7 {
    gateway: Gateway,
    client: Client,
}

/// A gateway with one strict HL7 destination.
fn hl7(world: &World, more: &str, endpoints: &[(&str, SocketAddr)]) -> Hl7 {
    let port = world::port();
    let text = mllp_listener("ris-in", port, "") + &mllp_destination("ris", more, endpoints) + &route("ris-in", &["ris"], "");
    let gateway = Gateway::start(world, "gateway", &text);
    let client = Client::connect(loopback(port)).unwrap();
    Hl7 { gateway, client }
}

#[test]
fn a_refusing_primary_is_left_at_once_and_returned_to_after_the_hold_down() {
    let world = World::new("failover-refused");
    let (mut primary, secondary) = (Server::start(), Server::start());
    let mut t = hl7(&world, "hold_down = \"2s\"", &[("primary", primary.address()), ("secondary", secondary.address())]);
    let a = send(&mut t.client, "A", 0..20);
    until("the first ones arrive at the primary", 20, || primary.count() == 20);
    t.gateway.drained("ris", 10); // answered too: what loses its answer is sent again, rightly
    primary.shut();
    let died = std::time::Instant::now();
    let b = send(&mut t.client, "B", 0..20);
    until("the next ones arrive at the secondary", 20, || secondary.count() == 20);
    let took = secondary.received()[0].at.duration_since(died);
    assert!(took < Duration::from_secs(3), "the first delivery on the secondary took {took:?}");
    t.gateway.becomes_active("ris", "secondary", 5);
    primary.open();
    let back = std::time::Instant::now();
    t.gateway.becomes_active("ris", "primary", 30);
    assert!(back.elapsed() >= Duration::from_millis(1_900), "back after {:?}, before the hold-down of 2 s", back.elapsed());
    let c = send(&mut t.client, "C", 0..20);
    until("the last ones arrive at the primary", 20, || primary.count() >= 40);
    assert_eq!(primary.ids(), [a, c].concat());
    assert_eq!(secondary.ids(), b);
    let moved = |from, to| t.gateway.metric("everpost_failovers_total", &[("destination", "ris"), ("from", from), ("to", to)]);
    assert_eq!((moved("primary", "secondary"), moved("secondary", "primary")), (Some(1.0), Some(1.0)));
}

#[test]
fn a_frozen_primary_is_left_and_not_returned_to_until_it_thaws() {
    let world = World::new("failover-frozen");
    let mut primary = sink(&world, "primary", loopback(world::port()), None);
    let secondary = Server::start();
    // A frozen process still accepts connections: the kernel does that. So the tcp probe says "good", and only traffic knows better.
    let mut t = hl7(
        &world,
        "ack_timeout = \"700ms\"\nhold_down = \"1s\"\nhold_down_max = \"4s\"",
        &[("primary", primary.address()), ("secondary", secondary.address())],
    );
    let a = send(&mut t.client, "A", 0..20);
    until("the first ones arrive at the primary", 20, || primary.received().len() == 20);
    t.gateway.drained("ris", 10);
    primary.process.freeze();
    let mut sent = send(&mut t.client, "B", 0..20);
    until("the next ones arrive at the secondary", 30, || secondary.count() >= 20);
    t.gateway.becomes_active("ris", "secondary", 5);
    // Longer than several hold-downs, with traffic: a canary may go out now and then, the destination must not move.
    let mut n = 0;
    assert!(
        stays(6_000, || {
            sent.extend(send(&mut t.client, "C", n..n + 1));
            n += 1;
            t.gateway.active("ris") == ["secondary"]
        }),
        "the destination moved to a frozen primary: {:?}",
        t.gateway.destination("ris")
    );
    t.gateway.drained("ris", 30);
    assert_eq!(first_arrivals(secondary.ids()), sent, "all of it, in order, at the secondary");
    primary.process.thaw();
    let mut last = 0;
    until("the destination returns to the thawed primary", 60, || {
        sent.extend(send(&mut t.client, "D", last..last + 1));
        last += 1;
        t.gateway.active("ris") == ["primary"]
    });
    let e = send(&mut t.client, "E", 0..10);
    t.gateway.drained("ris", 30);
    let at_primary = first_arrivals(ids(&primary));
    assert_eq!(at_primary[..20], a[..]);
    assert_eq!(at_primary[at_primary.len() - 10..], e[..]);
    let everywhere: BTreeSet<String> = at_primary.into_iter().chain(secondary.ids()).collect();
    assert!(sent.iter().all(|id| everywhere.contains(id)));
    harness::load::in_order(&secondary.ids());
}

#[test]
fn a_primary_whose_packets_vanish_is_left() {
    let world = World::new("failover-cut");
    let Some(net) = Netns::new(&world) else { return };
    let primary = sink(&world, "primary", (net.address(), 2575).into(), Some(net.name()));
    let secondary = Server::start();
    let mut t = hl7(&world, "ack_timeout = \"700ms\"", &[("primary", primary.address()), ("secondary", secondary.address())]);
    let a = send(&mut t.client, "A", 0..20);
    until("the first ones arrive at the primary", 20, || primary.received().len() == 20);
    t.gateway.drained("ris", 10);
    net.cut();
    let b = send(&mut t.client, "B", 0..20);
    until("the next ones arrive at the secondary", 30, || secondary.count() >= 20);
    net.heal();
    // It was left after a failure to answer, which the tcp probe cannot prove mended: the return needs traffic, one envelope as canary.
    let mut c = Vec::new();
    until("the destination returns", 60, || {
        c.extend(send(&mut t.client, "C", c.len()..c.len() + 1));
        t.gateway.active("ris") == ["primary"]
    });
    c.extend(send(&mut t.client, "C", c.len()..c.len() + 20));
    t.gateway.drained("ris", 30);
    assert_eq!(first_arrivals(secondary.ids())[..20], b[..]);
    let at_primary = first_arrivals(ids(&primary));
    assert_eq!(at_primary[..20], a[..]);
    assert_eq!(at_primary[at_primary.len() - 20..], c[c.len() - 20..], "order after the return");
    // What vanished with the packets may have come late, once; nothing else may be there.
    assert!(at_primary.iter().all(|id| a.contains(id) || b.contains(id) || c.contains(id)));
}

#[test]
fn a_slow_primary_within_its_time_is_kept() {
    let world = World::new("failover-slow");
    let (primary, secondary) = (Server::start(), Server::start());
    primary.script(|_, _| Reply::Late(Duration::from_millis(250), Box::new(AA)));
    let mut t = hl7(&world, "ack_timeout = \"5s\"", &[("primary", primary.address()), ("secondary", secondary.address())]);
    let a = send(&mut t.client, "A", 0..12);
    t.gateway.drained("ris", 30);
    assert_eq!((primary.ids(), secondary.count()), (a, 0));
}

#[test]
fn a_primary_slower_than_its_time_is_left_and_its_late_answers_are_taken_for_nothing() {
    let world = World::new("failover-too-slow");
    let (primary, secondary) = (Server::start(), Server::start());
    primary.script(|_, _| Reply::Late(Duration::from_millis(1_200), Box::new(AA)));
    let mut t = hl7(&world, "ack_timeout = \"400ms\"\nhold_down = \"60s\"", &[("primary", primary.address()), ("secondary", secondary.address())]);
    let a = send(&mut t.client, "A", 0..10);
    t.gateway.drained("ris", 30);
    assert_eq!(secondary.ids(), a, "ambiguous by time-out: the destination leaves at once, the resend goes elsewhere");
    assert_eq!(primary.ids(), a[..1], "one message only was tried on the slow one");
    assert_eq!(t.gateway.metric("everpost_ambiguous_total", &[("destination", "ris"), ("endpoint", "primary")]), Some(1.0));
}

#[test]
fn a_primary_that_closes_after_the_block_gets_one_more_try_and_is_left() {
    let world = World::new("failover-close");
    let (primary, secondary) = (Server::start(), Server::start());
    primary.script(|n, _| if n < 3 { AA } else { Reply::Close });
    let mut t = hl7(&world, "hold_down = \"60s\"", &[("primary", primary.address()), ("secondary", secondary.address())]);
    let a = send(&mut t.client, "A", 0..10);
    t.gateway.drained("ris", 30);
    assert_eq!(primary.ids(), [&a[..4], &a[3..4]].concat(), "the fourth twice: once more on a fresh connection");
    assert_eq!(secondary.ids(), a[3..]);
}

#[test]
fn both_away_waits_without_end_and_keeps_order() {
    let world = World::new("failover-both");
    let (mut primary, mut secondary) = (Server::start(), Server::start());
    primary.shut();
    secondary.shut();
    let mut t = hl7(&world, "", &[("primary", primary.address()), ("secondary", secondary.address())]);
    let a = send(&mut t.client, "A", 0..50);
    let (code, _, _) = t.gateway.cli(&["status"]);
    until("status says degraded", 10, || t.gateway.cli(&["status"]).0.code() == Some(3));
    assert!(code.code().is_some());
    assert_eq!(t.gateway.waiting("ris"), 50);
    assert_eq!(t.gateway.count("ris", "dead_letter"), 0);
    t.gateway.kill();
    t.gateway.up();
    secondary.open();
    until("all arrive at the secondary", 30, || secondary.count() >= 50);
    t.gateway.drained("ris", 10);
    assert_eq!(secondary.ids(), a);
    assert_eq!(primary.count(), 0);
}

#[test]
fn a_primary_that_flaps_is_left_once_per_hold_down_and_makes_no_storm() {
    let world = World::new("failover-flaps");
    let (mut primary, secondary) = (Server::start(), Server::start());
    let health = format!("health = {{ probe = \"tcp\", {QUICK_HEALTH} }}");
    let more = format!("hold_down = \"3s\"\nhold_down_max = \"30s\"\n{health}");
    let mut t = hl7(&world, &more, &[("primary", primary.address()), ("secondary", secondary.address())]);
    let begun = std::time::Instant::now();
    let (mut sent, mut flaps) = (Vec::new(), 0);
    while flaps < 12 {
        if flaps % 2 == 0 {
            primary.shut()
        } else {
            primary.open()
        }
        flaps += 1;
        for _ in 0..10 {
            sent.extend(send(&mut t.client, "A", sent.len()..sent.len() + 2));
            std::thread::sleep(Duration::from_millis(100)); // the pace of the sender
        }
    }
    let holds = begun.elapsed().as_secs_f64() / 3.0;
    t.gateway.drained("ris", 30);
    let left = t.gateway.metric("everpost_failovers_total", &[("destination", "ris"), ("from", "primary")]).unwrap_or_default();
    assert!(left >= 1.0 && left <= holds + 1.0, "left {left} times in {holds} hold-downs");
    let mut arrived: Vec<(std::time::Instant, String)> = primary.received().into_iter().chain(secondary.received()).map(|r| (r.at, r.id)).collect();
    arrived.sort();
    assert_eq!(first_arrivals(arrived.into_iter().map(|(_, id)| id)), sent, "all of it, in order, wherever it went");
    // Its probes, five a second, are most of what the primary sees of it.
    let connections = primary.connections() as f64;
    assert!(connections <= 8.0 * begun.elapsed().as_secs_f64() + 20.0, "{connections} connections");
    let lines = t.gateway.log().lines().filter(|line| line.contains("ris")).count();
    assert!(lines <= 12 * 6 + 20, "{lines} lines of the log");
}

#[test]
fn an_idle_connection_that_the_peer_closed_costs_nothing() {
    let world = World::new("failover-stale");
    let (primary, secondary) = (Server::start(), Server::start());
    let mut t = hl7(&world, "", &[("primary", primary.address()), ("secondary", secondary.address())]);
    let mut sent = Vec::new();
    for n in 0..5 {
        sent.extend(send(&mut t.client, "A", n..n + 1));
        t.gateway.drained("ris", 10);
        primary.hang_up();
    }
    assert_eq!(primary.ids(), sent, "each once");
    assert_eq!(secondary.count(), 0);
    assert_eq!(t.gateway.metric("everpost_ambiguous_total", &[]).unwrap_or(0.0), 0.0);
}

#[test]
fn a_dead_destination_does_not_delay_another_one() {
    let world = World::new("failover-isolation");
    let good = Server::start();
    let mut dead = Server::start();
    dead.shut();
    let port = world::port();
    let text = mllp_listener("ris-in", port, "")
        + &mllp_destination("good", "", &[("only", good.address())])
        + &mllp_destination("dead", "", &[("only", dead.address())])
        + &route("ris-in", &["good", "dead"], "");
    let gateway = Gateway::start(&world, "gateway", &text);
    let mut client = Client::connect(loopback(port)).unwrap();
    let a = send(&mut client, "A", 0..100);
    gateway.drained("good", 10);
    assert_eq!(good.ids(), a);
    assert_eq!(gateway.waiting("dead"), 100);
    dead.open();
    gateway.drained("dead", 20);
    assert_eq!(dead.ids(), a);
}

/// A gateway with one DICOM destination; stores go through `store`.
struct Images {
    gateway: Gateway,
    at: SocketAddr,
}

fn images(world: &World, more: &str, endpoints: &[(&str, SocketAddr)]) -> Images {
    let port = world::port();
    let text = dicom_listener("modalities", port, "") + &dicom_destination("pacs", more, endpoints) + &route("modalities", &["pacs"], "");
    Images { gateway: Gateway::start(world, "gateway", &text), at: loopback(port) }
}

/// Stores images; gives instance and SHA-256.
fn store(at: SocketAddr, series: u64, range: std::ops::Range<u64>, size: usize) -> BTreeMap<String, String> {
    let mut association = dicom::Association::open(at, "EVERPOST", "TEST", &dicom::propose(dicom::CT, EXPLICIT)).unwrap();
    let mut sent = BTreeMap::new();
    for n in range {
        let id = instance(series, n);
        let set = ct(&id, n, size);
        assert_eq!(association.store(dicom::CT, &id, &set).unwrap(), 0);
        sent.insert(id, sha256(&set));
    }
    association.release().unwrap();
    sent
}

#[test]
fn dicom_a_killed_and_a_frozen_primary_are_left_and_returned_to() {
    let world = World::new("failover-dicom");
    let mut primary = Receiver::storescp(&world, "primary", &[]);
    let secondary = Receiver::storescp(&world, "secondary", &["--fork"]);
    let more = format!(
        "ack_timeout = \"1s\"\nhold_down = \"1s\"\nhold_down_max = \"4s\"\nassociations = 1\nhealth = {{ probe = \"dicom-echo\", {QUICK_HEALTH} }}"
    );
    let t = images(&world, &more, &[("primary", primary.address()), ("secondary", secondary.address())]);
    let mut all = store(t.at, 80, 0..10, 50_000);
    until("the first ones arrive at the primary", 30, || primary.kept().len() == 10);
    t.gateway.drained("pacs", 10);

    primary.process.kill();
    all.extend(store(t.at, 80, 10..20, 50_000));
    until("the next ones arrive at the secondary", 30, || secondary.kept().len() == 10);
    primary.restart();
    t.gateway.becomes_active("pacs", "primary", 40);
    t.gateway.drained("pacs", 10);

    primary.process.freeze();
    all.extend(store(t.at, 80, 20..30, 50_000));
    until("the next ones arrive at the secondary", 40, || secondary.kept().len() >= 20);
    t.gateway.becomes_active("pacs", "secondary", 5);
    assert!(stays(3_000, || t.gateway.active("pacs") == ["secondary"]), "moved to a frozen primary");
    primary.process.thaw();
    t.gateway.becomes_active("pacs", "primary", 60);
    all.extend(store(t.at, 80, 30..40, 50_000));
    t.gateway.drained("pacs", 40);
    let mut arrived = primary.kept();
    arrived.extend(secondary.kept());
    harness::load::nothing_lost(&all, &arrived);
    for n in 30..40 {
        assert!(primary.kept().contains_key(&instance(80, n)), "after the return images go to the primary again");
    }
}

#[test]
fn dicom_both_away_then_all_arrives() {
    let world = World::new("failover-dicom-both");
    let (mut primary, mut secondary) = (dicom_scp::Scp::start(), dicom_scp::Scp::start());
    primary.shut();
    secondary.shut();
    let t = images(&world, "", &[("primary", primary.address()), ("secondary", secondary.address())]);
    let all = store(t.at, 81, 0..30, 100_000);
    primary.open();
    secondary.open();
    t.gateway.drained("pacs", 60);
    let arrived: BTreeMap<_, _> = primary.stored().into_iter().chain(secondary.stored()).map(|s| (s.instance, s.sha256)).collect();
    assert_eq!(arrived, all);
}

#[test]
fn dicom_associations_are_parallel_reused_and_released() {
    let world = World::new("failover-dicom-pool");
    let scp = dicom_scp::Scp::start();
    scp.script(|_| dicom_scp::Answer::Late(Duration::from_millis(30), 0));
    let t = images(&world, "associations = 4\nidle_release = \"500ms\"\nhealth = { probe = \"tcp\", interval = \"60s\" }", &[("scp", scp.address())]);
    store(t.at, 82, 0..60, 10_000);
    t.gateway.drained("pacs", 60);
    let used: BTreeSet<usize> = scp.stored().iter().map(|s| s.association).collect();
    assert!(used.len() >= 2, "several associations at once: {used:?}");
    assert!(scp.associations() <= 12, "{} associations for 60 images: they are reused", scp.associations());
    until("idle associations are released", 10, || scp.open_connections() == 0);
}

#[test]
fn dicom_a_primary_whose_packets_vanish_is_left_and_returned_to() {
    let world = World::new("failover-dicom-cut");
    let Some(net) = Netns::new(&world) else { return };
    let folder = world.folder("primary");
    let mut command = harness::netns::command(net.name(), "storescp");
    command.args(["--fork", "+B", "+xa", "-od"]).arg(&folder).arg("11112");
    let _primary = harness::process::Process::start("primary", &mut command, &world.path("primary.log"));
    let at: SocketAddr = (net.address(), 11_112).into();
    until("the primary listens", 20, || std::net::TcpStream::connect(at).is_ok());
    let secondary = Receiver::storescp(&world, "secondary", &["--fork"]);
    let t = images(&world, "ack_timeout = \"1s\"\nhold_down = \"1s\"\nassociations = 2", &[("primary", at), ("secondary", secondary.address())]);
    let mut all = store(t.at, 83, 0..10, 50_000);
    let kept = || harness::peers::files(&folder).into_iter().map(|p| (p.instance, sha256(&p.data_set))).collect::<BTreeMap<_, _>>();
    until("the first ones arrive at the primary", 30, || kept().len() == 10);
    t.gateway.drained("pacs", 10);
    net.cut();
    all.extend(store(t.at, 83, 10..20, 50_000));
    until("the next ones arrive at the secondary", 40, || secondary.kept().len() >= 10);
    t.gateway.becomes_active("pacs", "secondary", 5);
    net.heal();
    t.gateway.becomes_active("pacs", "primary", 60);
    all.extend(store(t.at, 83, 20..30, 50_000));
    t.gateway.drained("pacs", 40);
    let mut arrived = kept();
    arrived.extend(secondary.kept());
    harness::load::nothing_lost(&all, &arrived);
    assert!((20..30).all(|n| kept().contains_key(&instance(83, n))), "after the return images go to the primary again");
}
