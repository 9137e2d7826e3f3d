//! HL7 through the gateway: every library on both sides, 2 kB to 20 MB, five character sets: every message byte-identical, in order.
//! Rules: the measure of a client is what it sends directly; the measure of a server is the bytes that it got.

use harness::config::{mllp_destination, mllp_listener, route};
use harness::mllp::{self, Client, Server};
use harness::peers::Hl7Library;
use harness::synthetic::{self, CHARSETS};
use harness::{Gateway, World, sha256, until, world};
use std::net::SocketAddr;

fn pairs(server: &Server) -> Vec<(String, String)> {
    server.received().into_iter().map(|r| (r.id, r.sha256)).collect()
}

#[test]
fn every_library_sends_through_the_gateway_what_it_sends_directly() {
    let world = World::new("hl7-clients");
    let port = world::port();
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    let sink = Server::start();
    let text = mllp_listener("ris-in", port, "") + &mllp_destination("ris", "", &[("sink", sink.address())]) + &route("ris-in", &["ris"], "");
    let _gateway = Gateway::start(&world, "gateway", &text);
    let folder = world.folder("messages");
    let mut number = 0;
    for size in [2_000, 60_000, 70_000, 300_000] {
        for charset in CHARSETS {
            std::fs::write(folder.join(format!("{number:04}")), synthetic::oru(&format!("C{number:04}"), number, size, charset)).unwrap();
            number += 1;
        }
    }
    std::fs::write(folder.join("9999"), synthetic::oru("C9999", 1, 20 << 20, CHARSETS[0])).unwrap();
    let mut expected = Vec::new();
    for library in Hl7Library::ALL {
        let direct = Server::start();
        let answers = library.send(direct.address(), &folder);
        assert!(answers.iter().all(|a| a.starts_with("AA ")), "{library:?}: {answers:?}");
        let through = library.send(at, &folder);
        assert_eq!(through, answers, "{library:?}: other answers than from a direct transfer");
        expected.extend(pairs(&direct));
    }
    until("everything has arrived", 60, || sink.count() >= expected.len());
    assert_eq!(pairs(&sink), expected);
}

#[test]
fn every_library_receives_from_the_gateway_every_byte_in_order() {
    let world = World::new("hl7-servers");
    let port = world::port();
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    let servers = Hl7Library::ALL.map(|library| (library, library.serve(&world)));
    let mut text = mllp_listener("ris-in", port, "");
    for (library, server) in &servers {
        text += &mllp_destination(&format!("{library:?}"), "ack_timeout = \"60s\"", &[("peer", server.address())]);
    }
    // hl7apy reads byte by byte into a growing string: large messages would take it hours.
    text += &route("ris-in", &["Hl7apy"], "when = { message_type = [\"ORU^R01\"] }");
    text += &route("ris-in", &["PythonHl7", "Node"], "");
    let gateway = Gateway::start(&world, "gateway", &text);
    let mut client = Client::connect(at).unwrap();
    let (mut all, mut small) = (Vec::new(), Vec::new());
    let mut number = 0;
    for size in [2_000, 5_000, 66_000, 1 << 20] {
        for charset in CHARSETS {
            let id = format!("S{number:04}");
            let kind = if size > 20_000 { "MDM^T02" } else { "ORU^R01" };
            let message = synthetic::message(kind, &id, number, size, charset);
            let ack = client.send(&message).unwrap();
            assert!(ack.code == "AA" && ack.id == id, "{ack:?}");
            let row = (id, sha256(&message));
            if size <= 20_000 {
                small.push(row.clone());
            }
            all.push(row);
            number += 1;
        }
    }
    for (library, server) in &servers {
        let expected = if *library == Hl7Library::Hl7apy { &small } else { &all };
        let name = format!("{library:?}");
        gateway.drained(&name, 120);
        let mut got = server.received();
        // node-hl7-server answers with the id of the first message of a connection, for ever. That is an answer to another message, so the gateway
        // sends again on a fresh connection, as the design says: repetitions of the same message next to each other are the peer's own doing.
        got.dedup();
        assert_eq!(&got, expected, "{name}");
        assert_eq!(gateway.count(&name, "dead_letter"), 0, "{name}");
    }
}

#[test]
fn five_character_sets_from_2_kb_to_20_mb_in_order() {
    let world = World::new("hl7-sizes");
    let port = world::port();
    let sink = Server::start();
    let text = mllp_listener("ris-in", port, "") + &mllp_destination("ris", "", &[("sink", sink.address())]) + &route("ris-in", &["ris"], "");
    let _gateway = Gateway::start(&world, "gateway", &text);
    let mut client = Client::connect(([127, 0, 0, 1], port).into()).unwrap();
    let mut expected = Vec::new();
    for (n, size) in [2_000, 65_000, 65_536, 66_000, 262_144, 1 << 20, 5 << 20, 20 << 20].into_iter().enumerate() {
        for (c, charset) in CHARSETS.into_iter().enumerate() {
            let id = format!("Z{n}{c}");
            let message = synthetic::oru(&id, c, size, charset);
            let ack = client.send(&message).unwrap();
            assert!(ack.code == "AA" && ack.id == id, "{} bytes of {}: {ack:?}", message.len(), charset.name);
            expected.push((id, sha256(&message)));
        }
    }
    until("everything has arrived", 60, || sink.count() >= expected.len());
    assert_eq!(pairs(&sink), expected);
}

#[test]
fn pipelined_blocks_are_answered_in_order_and_delivered_in_order() {
    let world = World::new("hl7-pipeline");
    let port = world::port();
    let sink = Server::start();
    let text = mllp_listener("ris-in", port, "") + &mllp_destination("ris", "", &[("sink", sink.address())]) + &route("ris-in", &["ris"], "");
    let gateway = Gateway::start(&world, "gateway", &text);
    let mut client = Client::connect(([127, 0, 0, 1], port).into()).unwrap();
    let mut wire = b"garbage before the first block\r\n".to_vec();
    let ids: Vec<String> = (0..200).map(|n| format!("P{n:04}")).collect();
    for id in &ids {
        wire.extend(mllp::block(&synthetic::small(id)));
        wire.extend_from_slice(b"\r\n");
    }
    // In pieces that respect no boundary.
    for piece in wire.chunks(777) {
        client.raw(piece).unwrap();
    }
    for id in &ids {
        let ack = client.answer().unwrap();
        assert!(ack.code == "AA" && ack.id == *id, "{ack:?} instead of {id}");
    }
    until("everything has arrived", 30, || sink.count() >= ids.len());
    assert_eq!(sink.ids(), ids);
    assert_eq!(gateway.metric("everpost_messages_accepted_total", &[("listener", "ris-in")]), Some(200.0));
    let used: std::collections::BTreeSet<usize> = sink.received().iter().map(|r| r.connection).collect();
    assert!(used.len() <= 2, "{} connections for 200 messages: connections are kept open", used.len());
}

#[test]
fn sixty_four_connections_at_once_lose_and_reorder_nothing() {
    let world = World::new("hl7-many");
    let port = world::port();
    let sink = Server::start();
    let text = mllp_listener("ris-in", port, "") + &mllp_destination("ris", "", &[("sink", sink.address())]) + &route("ris-in", &["ris"], "");
    let _gateway = Gateway::start(&world, "gateway", &text);
    std::thread::scope(|scope| {
        for c in 0..64 {
            scope.spawn(move || {
                let mut client = Client::connect(([127, 0, 0, 1], port).into()).unwrap();
                for n in 0..25 {
                    let id = format!("M{c:02}-{n:03}");
                    let ack = client.send(&synthetic::oru(&id, c, 2_000, CHARSETS[c % 5])).unwrap();
                    assert!(ack.code == "AA" && ack.id == id, "{ack:?}");
                }
            });
        }
    });
    until("everything has arrived", 60, || sink.count() >= 64 * 25);
    let ids = sink.ids();
    assert_eq!(ids.len(), 64 * 25);
    for c in 0..64 {
        let prefix = format!("M{c:02}-");
        let of_one: Vec<_> = ids.iter().filter(|id| id.starts_with(&prefix)).cloned().collect();
        let sorted = {
            let mut list = of_one.clone();
            list.sort();
            list
        };
        assert_eq!(of_one, sorted, "connection {c}: order of acceptance is order of delivery");
        assert_eq!(of_one.len(), 25);
    }
}
