//! Every answer that a receiver can give, and what comes of it: the two tables of the design's section 5, with a receiver scripted for each row.
//! Rules: what counts is what the receiver saw and in which state the envelope ended.

use harness::config::{dicom_destination, dicom_listener, mllp_destination, mllp_listener, route};
use harness::dicom::{self, EXPLICIT};
use harness::dicom_scp::{Answer, Scp, Welcome};
use harness::mllp::{AA, Client, Reply, Server, ack, field};
use harness::synthetic::{self, ct, instance};
use harness::world::{self, stays};
use harness::{Gateway, World, until};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn hl7(world: &World, more: &str, servers: &[&Server]) -> (Gateway, Client) {
    let port = world::port();
    let names = ["primary", "secondary", "third"];
    let endpoints: Vec<(&str, SocketAddr)> = names.into_iter().zip(servers.iter().map(|s| s.address())).collect();
    let text = mllp_listener("ris-in", port, "") + &mllp_destination("ris", more, &endpoints) + &route("ris-in", &["ris"], "");
    let gateway = Gateway::start(world, "gateway", &text);
    (gateway, Client::connect(loopback(port)).unwrap())
}

fn send(client: &mut Client, ids: &[&str]) {
    for id in ids {
        assert!(client.send(&synthetic::small(id)).unwrap().positive());
    }
}

/// One answer for the message `ID`, AA for all others, on a single endpoint.
fn one_answer(name: &str, more: &str, reply: Reply) -> (World, Server, Gateway) {
    let world = World::new(&format!("verdict-{name}"));
    let server = Server::start();
    server.script(move |_, message| if field(message, "MSH", 10) == "ID" { reply.clone() } else { AA });
    let (gateway, mut client) = hl7(&world, more, &[&server]);
    send(&mut client, &["BEFORE", "ID", "AFTER"]);
    (world, server, gateway)
}

#[test]
fn hl7_rejections_for_good_become_dead_letters_and_the_lane_goes_on() {
    std::thread::scope(|scope| {
        for (code, error) in [
            ("CR", None),
            ("AE", None),
            ("AE", Some(101)),
            ("AE", Some(200)),
            ("AR", Some(201)),
            ("AE", Some(202)),
            ("AR", Some(203)),
            ("AE", Some(204)),
        ] {
            scope.spawn(move || {
                let name = format!("{code}-{}", error.unwrap_or(0));
                let (_world, server, gateway) = one_answer(&name, "", Reply::Code(code, error));
                until(&format!("{name}: the lane goes on"), 20, || server.accepted_ids() == ["BEFORE", "AFTER"]);
                until(&format!("{name}: a dead letter"), 10, || gateway.count("ris", "dead_letter") == 1);
                assert_eq!(server.ids().iter().filter(|id| *id == "ID").count(), 1, "{name}: tried once");
                let dead = gateway.queue("ris", "dead-letter");
                assert_eq!(dead.len(), 1);
                assert_eq!(gateway.metric("everpost_dead_letters", &[("destination", "ris")]), Some(1.0));
            });
        }
    });
}

#[test]
fn hl7_refusals_for_now_are_retried_without_end_and_hold_the_lane() {
    std::thread::scope(|scope| {
        for (code, error) in [("AR", None), ("AR", Some(207)), ("CE", None), ("AE", Some(206)), ("AE", Some(207))] {
            scope.spawn(move || {
                let name = format!("retry-{code}-{}", error.unwrap_or(0));
                let (_world, server, gateway) = one_answer(&name, "", Reply::Code(code, error));
                until(&format!("{name}: tried again and again"), 20, || server.ids().iter().filter(|id| *id == "ID").count() >= 4);
                assert_eq!(server.accepted_ids(), ["BEFORE"], "{name}: strict order: nothing passes it");
                assert_eq!(gateway.count("ris", "dead_letter"), 0, "{name}");
                server.script(|_, _| AA);
                gateway.drained("ris", 20);
                assert_eq!(server.accepted_ids(), ["BEFORE", "ID", "AFTER"], "{name}");
            });
        }
    });
}

#[test]
fn hl7_on_ae_decides_what_an_application_error_means() {
    let (_w, server, gateway) = one_answer("on-ae-hold", "on_ae = \"hold\"", Reply::Code("AE", None));
    until("it is held", 20, || gateway.count("ris", "held") == 1);
    assert!(stays(500, || server.accepted_ids() == ["BEFORE"]), "after_hold = stop is the default");
    let id = gateway.queue("ris", "held")[0]["id"].as_str().expect("ids are strings").to_owned();
    server.script(|_, _| AA);
    let (status, _, err) = gateway.cli(&["queue", "release", &id]);
    assert!(status.success(), "{err}");
    gateway.drained("ris", 20);
    assert_eq!(server.accepted_ids(), ["BEFORE", "ID", "AFTER"]);

    let (_w, server, gateway) = one_answer("on-ae-hold-continue", "on_ae = \"hold\"\nafter_hold = \"continue\"", Reply::Code("AE", None));
    until("the lane goes on", 20, || server.accepted_ids() == ["BEFORE", "AFTER"]);
    assert_eq!(gateway.count("ris", "held"), 1);

    let (_w, server, gateway) = one_answer("on-ae-retry", "on_ae = \"retry\"", Reply::Code("AE", None));
    until("it is retried", 20, || server.count() >= 4);
    server.script(|_, _| AA);
    gateway.drained("ris", 20);
    assert_eq!(server.accepted_ids(), ["BEFORE", "ID", "AFTER"]);

    let (_w, server, gateway) = one_answer("dead-stop", "after_dead_letter = \"stop\"", Reply::Code("AE", None));
    until("a dead letter", 20, || gateway.count("ris", "dead_letter") == 1);
    assert!(stays(500, || server.accepted_ids() == ["BEFORE"]), "after_dead_letter = stop");
    let id = gateway.queue("ris", "dead-letter")[0]["id"].as_str().expect("ids are strings").to_owned();
    let (status, _, err) = gateway.cli(&["queue", "discard", &id, "--reason", "a test"]);
    assert!(status.success(), "{err}");
    until("the lane goes on", 20, || server.accepted_ids() == ["BEFORE", "AFTER"]);
}

#[test]
fn hl7_an_answer_to_something_else_is_ambiguous_and_sent_again_on_a_fresh_connection() {
    let wrong = |name: &str, bytes: fn(&[u8]) -> Vec<u8>| {
        let world = World::new(&format!("verdict-wrong-{name}"));
        let server = Server::start();
        let tries = AtomicUsize::new(0);
        server.script(move |_, message| {
            let odd = field(message, "MSH", 10) == "ID" && tries.fetch_add(1, Ordering::SeqCst) == 0;
            if odd { Reply::Bytes(bytes(message)) } else { AA }
        });
        let (gateway, mut client) = hl7(&world, "", &[&server]);
        send(&mut client, &["BEFORE", "ID", "AFTER"]);
        gateway.drained("ris", 20);
        assert_eq!(server.ids(), ["BEFORE", "ID", "ID", "AFTER"], "{name}");
        let seen = server.received();
        assert_ne!(seen[1].connection, seen[2].connection, "{name}: a fresh connection");
        assert_eq!(gateway.metric("everpost_ambiguous_total", &[("destination", "ris"), ("endpoint", "primary")]), Some(1.0), "{name}");
    };
    wrong("id", |_| ack(&synthetic::small("OTHER"), "AA", None));
    wrong("no-msa", |_| b"MSH|^~\\&|A|B|C|D|20260101||ACK|1|P|2.5\r".to_vec());
    wrong("noise", |_| b"what?".to_vec());
}

#[test]
fn hl7_ambiguous_hold_asks_a_person() {
    let world = World::new("verdict-ambiguous-hold");
    let server = Server::start();
    server.script(|_, message| if field(message, "MSH", 10) == "ID" { Reply::Close } else { AA });
    let (gateway, mut client) = hl7(&world, "ambiguous = \"hold\"", &[&server]);
    send(&mut client, &["BEFORE", "ID", "AFTER"]);
    until("it is held", 20, || gateway.count("ris", "held") == 1);
    assert!(stays(500, || server.ids() == ["BEFORE", "ID"]), "sent once only, the lane waits");
    assert_eq!(gateway.count("ris", "ambiguous"), 1);
    assert_eq!(gateway.queue("ris", "held")[0]["ambiguous"], true);
}

#[test]
fn hl7_a_duplicate_key_after_an_ambiguous_try_is_delivered_with_warning() {
    let world = World::new("verdict-205");
    let server = Server::start();
    let tries = AtomicUsize::new(0);
    server.script(move |_, message| match field(message, "MSH", 10).as_str() {
        "ID" if tries.fetch_add(1, Ordering::SeqCst) == 0 => Reply::Close,
        "ID" => Reply::Code("AE", Some(205)),
        _ => AA,
    });
    let (gateway, mut client) = hl7(&world, "", &[&server]);
    send(&mut client, &["BEFORE", "ID", "AFTER"]);
    gateway.drained("ris", 20);
    assert_eq!(server.ids(), ["BEFORE", "ID", "ID", "AFTER"]);
    assert_eq!(gateway.count("ris", "dead_letter"), 0);
    assert_eq!(gateway.metric("everpost_envelopes_delivered_total", &[("destination", "ris"), ("outcome", "warning")]), Some(1.0));
}

#[test]
fn hl7_the_second_answer_of_enhanced_mode_is_passed_over() {
    let world = World::new("verdict-enhanced");
    let server = Server::start();
    server.script(|_, _| Reply::All(vec![Reply::Code("CA", None), Reply::Code("AA", None)]));
    let (gateway, mut client) = hl7(&world, "", &[&server]);
    send(&mut client, &["A", "B", "C", "D"]);
    gateway.drained("ris", 20);
    assert_eq!(server.ids(), ["A", "B", "C", "D"]);
    assert_eq!(server.received().iter().map(|r| r.connection).max(), Some(server.received()[0].connection), "the connection stays");
}

#[test]
fn hl7_three_refused_in_a_row_move_the_destination() {
    let world = World::new("verdict-three");
    let (primary, secondary) = (Server::start(), Server::start());
    primary.script(|_, _| Reply::Code("AR", None));
    let (gateway, mut client) = hl7(&world, "hold_down = \"60s\"\nordering = \"patient\"", &[&primary, &secondary]);
    // One refused message, or two, are tried again there, then elsewhere; the destination stays.
    let one = |id: &str, patient| synthetic::oru(id, patient, 300, synthetic::CHARSETS[0]);
    for n in 1..=2 {
        assert!(client.send(&one(&format!("P{n}"), n)).unwrap().positive());
    }
    until("the secondary has taken both", 20, || secondary.count() == 2);
    assert_eq!((gateway.active("ris"), primary.count()), (vec!["primary".to_owned()], 6));
    assert!(client.send(&one("P3", 3)).unwrap().positive());
    gateway.becomes_active("ris", "secondary", 20);
    gateway.drained("ris", 20);
    let mut arrived = secondary.accepted_ids();
    arrived.sort();
    assert_eq!(arrived, ["P1", "P2", "P3"]);
}

#[test]
fn hl7_strict_order_gets_past_a_primary_that_refuses_everything() {
    let world = World::new("verdict-strict");
    let (primary, secondary) = (Server::start(), Server::start());
    primary.script(|_, _| Reply::Code("AE", Some(207)));
    let (gateway, mut client) = hl7(&world, "hold_down = \"60s\"", &[&primary, &secondary]);
    let sent: Vec<String> = (0..20).map(|n| format!("S{n}")).collect();
    send(&mut client, &sent.iter().map(String::as_str).collect::<Vec<_>>());
    gateway.becomes_active("ris", "secondary", 40);
    gateway.drained("ris", 20);
    assert_eq!(secondary.accepted_ids(), sent);
    assert_eq!((primary.count(), gateway.count("ris", "dead_letter")), (3 + 3 + 1, 0));
}

#[test]
fn hl7_unknown_key_on_the_secondary_waits_for_every_endpoint() {
    let world = World::new("verdict-204");
    let (mut primary, secondary) = (Server::start(), Server::start());
    primary.shut();
    // The secondary does not know the patient (yet): the message is not dead before the primary has refused it too.
    secondary.script(|_, message| if field(message, "MSH", 10) == "ID" { Reply::Code("AE", Some(204)) } else { AA });
    let (gateway, mut client) = hl7(&world, "", &[&primary, &secondary]);
    send(&mut client, &["BEFORE", "ID"]);
    until("the secondary has refused it", 20, || secondary.ids().contains(&"ID".to_owned()));
    assert!(stays(1_000, || gateway.count("ris", "dead_letter") == 0), "dead before every endpoint has refused it");
    primary.open();
    until("the primary takes it", 40, || primary.accepted_ids().contains(&"ID".to_owned()));
    gateway.drained("ris", 10);
    assert_eq!(gateway.count("ris", "dead_letter"), 0);
}

#[test]
fn hl7_silence_as_asked() {
    let world = World::new("verdict-silence");
    let server = Server::start();
    server.script(|_, message| if field(message, "MSH", 15) == "NE" { Reply::Silence } else { AA });
    let (gateway, mut client) = hl7(&world, "answers = \"as-asked\"", &[&server]);
    let asked = String::from_utf8(synthetic::small("QUIET")).unwrap().replace("|P|2.5|||||", "|P|2.5|||NE|NE|");
    client.push(asked.as_bytes()).unwrap();
    send(&mut client, &["LOUD"]);
    gateway.drained("ris", 20);
    assert_eq!(server.ids(), ["QUIET", "LOUD"]);
    assert_eq!(gateway.metric("everpost_envelopes_delivered_total", &[("outcome", "unconfirmed")]), Some(1.0));
}

#[test]
fn hl7_patients_are_lanes_and_merges_are_barriers() {
    let world = World::new("verdict-lanes");
    let server = Server::start();
    // Patient 1's first message is refused for now: patient 2 passes, a merge of both does not.
    server.script(|_, message| if field(message, "MSH", 10) == "P1-A" { Reply::Code("AR", None) } else { AA });
    let (gateway, mut client) = hl7(&world, "ordering = \"patient\"", &[&server]);
    let one = |id: &str, patient| synthetic::oru(id, patient, 300, synthetic::CHARSETS[0]);
    let mut merge = one("MERGE", 1);
    merge.extend_from_slice(b"MRG|P000002^^^HOSPITAL^PI\r");
    for message in [one("P1-A", 1), one("P1-B", 1), one("P2-A", 2), one("P2-B", 2), merge, one("P3-A", 3)] {
        assert!(client.send(&message).unwrap().positive());
    }
    until("patient 2 passes", 20, || server.accepted_ids().contains(&"P2-B".to_owned()));
    assert!(stays(700, || server.accepted_ids() == ["P2-A", "P2-B"]), "the merge and what follows it wait: {:?}", server.accepted_ids());
    server.script(|_, _| AA);
    gateway.drained("ris", 20);
    let order = server.accepted_ids();
    let at = |id: &str| order.iter().position(|o| o == id).unwrap_or(usize::MAX);
    assert!(at("P1-A") < at("P1-B") && at("P1-B") < at("MERGE") && at("MERGE") < at("P3-A"), "{order:?}");
}

fn images(world: &World, more: &str, receivers: &[&Scp]) -> (Gateway, SocketAddr) {
    let port = world::port();
    let names = ["primary", "secondary", "third"];
    let endpoints: Vec<(&str, SocketAddr)> = names.into_iter().zip(receivers.iter().map(|s| s.address())).collect();
    let text = dicom_listener("modalities", port, "") + &dicom_destination("pacs", more, &endpoints) + &route("modalities", &["pacs"], "");
    (Gateway::start(world, "gateway", &text), loopback(port))
}

fn store(at: SocketAddr, series: u64, number: u64) -> String {
    let mut association = dicom::Association::open(at, "EVERPOST", "TEST", &dicom::propose(dicom::CT, EXPLICIT)).unwrap();
    let id = instance(series, number);
    assert_eq!(association.store(dicom::CT, &id, &ct(&id, number, 5_000)).unwrap(), 0);
    association.release().unwrap();
    id
}

#[test]
fn dicom_statuses_on_a_single_endpoint() {
    enum End {
        Delivered,
        Warning,
        Dead,
        Retried,
    }
    let table = [
        (0x0000, End::Delivered),
        (0x0001, End::Warning),
        (0xb000, End::Warning),
        (0xb006, End::Warning),
        (0xb007, End::Warning),
        (0x0107, End::Warning),
        (0x0116, End::Warning),
        (0xa700, End::Retried),
        (0x0110, End::Retried),
        (0x0124, End::Retried),
        (0x0213, End::Retried),
        (0xa900, End::Dead),
        (0xa901, End::Dead),
        (0xc000, End::Dead),
        (0xc123, End::Dead),
        (0x0117, End::Dead),
        (0x0122, End::Dead),
        (0x0111, End::Warning),
        (0x0210, End::Retried),
        (0x0212, End::Retried),
        (0xfe00, End::Retried),
        (0xff00, End::Retried),
    ];
    for (n, chunk) in table.chunks(6).enumerate() {
        std::thread::scope(|scope| {
            for (m, (status, end)) in chunk.iter().enumerate() {
                let status = *status;
                scope.spawn(move || {
                    let world = World::new(&format!("status-{status:04x}"));
                    let scp = Scp::start();
                    scp.script(move |_| Answer::Status(status));
                    let (gateway, at) = images(&world, "", &[&scp]);
                    let id = store(at, 90 + n as u64, m as u64);
                    let delivered = |outcome: &str| gateway.metric("everpost_envelopes_delivered_total", &[("outcome", outcome)]).unwrap_or(0.0);
                    match end {
                        End::Delivered => until(&format!("{status:04x}: delivered"), 20, || delivered("ok") > 0.5),
                        End::Warning => until(&format!("{status:04x}: delivered with warning"), 20, || delivered("warning") > 0.5),
                        End::Dead => {
                            until(&format!("{status:04x}: a dead letter"), 20, || gateway.count("pacs", "dead_letter") == 1);
                            assert_eq!(scp.count(), 1, "{status:04x}: tried once");
                        }
                        End::Retried => {
                            until(&format!("{status:04x}: tried again and again"), 20, || scp.count() >= 3);
                            assert_eq!(gateway.count("pacs", "dead_letter"), 0, "{status:04x}");
                            scp.script(|_| Answer::Status(0));
                            gateway.drained("pacs", 20);
                            assert_eq!(scp.accepted(), [id], "{status:04x}");
                        }
                    }
                });
            }
        });
    }
}

#[test]
fn dicom_out_of_resources_goes_elsewhere_and_moves_only_the_envelope() {
    let world = World::new("status-elsewhere");
    let (primary, secondary) = (Scp::start(), Scp::start());
    let full = instance(95, 0);
    let name = full.clone();
    primary.script(move |stored| Answer::Status(if stored.instance == name { 0xa700 } else { 0 }));
    let (gateway, at) = images(&world, "", &[&primary, &secondary]);
    store(at, 95, 0);
    store(at, 95, 1);
    gateway.drained("pacs", 20);
    assert_eq!(secondary.accepted(), [full]);
    assert_eq!(primary.accepted(), [instance(95, 1)]);
    assert_eq!(gateway.active("pacs"), ["primary"]);
}

#[test]
fn dicom_three_refused_in_a_row_move_the_destination() {
    let world = World::new("status-three");
    let (primary, secondary) = (Scp::start(), Scp::start());
    primary.script(|_| Answer::Status(0xa700));
    let (gateway, at) = images(&world, "hold_down = \"60s\"\nassociations = 1", &[&primary, &secondary]);
    for n in 0..3 {
        assert_eq!(gateway.active("pacs"), ["primary"], "after {n}");
        store(at, 94, n);
        gateway.drained("pacs", 20);
    }
    gateway.becomes_active("pacs", "secondary", 10);
    store(at, 94, 3);
    gateway.drained("pacs", 20);
    assert_eq!((primary.count(), secondary.accepted().len()), (3, 4));
}

#[test]
fn dicom_no_context_goes_elsewhere_and_is_dead_only_when_all_refused() {
    let world = World::new("status-context");
    let (primary, secondary) = (Scp::start(), Scp::start());
    primary.welcome(Welcome::Except(vec![dicom::CT.to_owned()]));
    let more = "idle_release = \"300ms\"\nhealth = { probe = \"tcp\", interval = \"60s\" }";
    let (gateway, at) = images(&world, more, &[&primary, &secondary]);
    let first = store(at, 96, 0);
    gateway.drained("pacs", 20);
    assert_eq!(secondary.accepted(), [first]);
    secondary.welcome(Welcome::Except(vec![dicom::CT.to_owned()]));
    until("the association that took it is released", 10, || secondary.open_connections() == 0);
    for n in 1..=3 {
        store(at, 96, n);
    }
    until("dead letters when every endpoint has refused", 30, || gateway.count("pacs", "dead_letter") == 3);
    let dead = gateway.queue("pacs", "dead-letter");
    let why = dead[0]["last"]["outcome"].as_str().unwrap_or_default().to_owned() + &dead[0].to_string();
    assert!(why.contains(dicom::CT) || why.contains(EXPLICIT), "the dead letter names class or syntax: {why}");
}

#[test]
fn dicom_rejections_aborts_and_silence() {
    let world = World::new("status-associations");
    let (primary, secondary) = (Scp::start(), Scp::start());
    let (gateway, at) = images(&world, "ack_timeout = \"700ms\"\nhold_down = \"300ms\"", &[&primary, &secondary]);
    let back = || {
        primary.welcome(Welcome::All);
        primary.script(|_| Answer::Status(0));
        gateway.becomes_active("pacs", "primary", 60);
    };
    let mut number = 0;
    let mut next = |what: &str| {
        number += 1;
        let id = store(at, 97, number);
        until(&format!("{what}: it arrives at the secondary"), 30, || secondary.accepted().contains(&id) || primary.accepted().contains(&id));
        assert!(secondary.accepted().contains(&id), "{what}: not at the primary");
        gateway.drained("pacs", 10);
    };
    primary.welcome(Welcome::Reject(2, 3, 2));
    next("rejected, transient");
    back();
    primary.welcome(Welcome::Reject(1, 1, 7));
    next("rejected, permanent");
    back();
    primary.welcome(Welcome::Silence);
    next("no answer to the request");
    back();
    primary.script(|_| Answer::Silence);
    next("no response");
    back();
    primary.script(|_| Answer::Abort);
    next("aborted");
    back();
    primary.script(|_| Answer::Close);
    next("closed");
    assert_eq!(gateway.count("pacs", "dead_letter"), 0);
}

#[test]
fn dicom_small_pdus_and_the_window_of_the_peer() {
    let world = World::new("status-window");
    let scp = Scp::start();
    scp.max_pdu(4_096);
    scp.grant(4, 1);
    scp.script(|_| Answer::Late(Duration::from_millis(5), 0));
    let (gateway, at) = images(&world, "window = 4\nassociations = 2", &[&scp]);
    let ids: Vec<String> = (0..30).map(|n| store(at, 98, n)).collect();
    gateway.drained("pacs", 30);
    let mut got = scp.accepted();
    got.sort();
    let mut wanted = ids;
    wanted.sort();
    assert_eq!(got, wanted);
}

#[test]
fn dicom_conversion_where_the_receiver_takes_only_another_syntax() {
    let world = World::new("status-convert");
    let scp = Scp::start();
    scp.keep();
    scp.welcome(Welcome::Except(vec![EXPLICIT.to_owned()]));
    let (gateway, at) = images(&world, "convert = true", &[&scp]);
    let id = store(at, 99, 1);
    gateway.drained("pacs", 20);
    let stored = scp.stored();
    assert_eq!((stored.len(), stored[0].transfer_syntax.as_str()), (1, dicom::IMPLICIT));
    let pixels = synthetic::noise(1, 5_000);
    let bytes = scp.data_set(&id).unwrap();
    assert!(bytes.ends_with(&pixels), "the pixels are the same");
    assert_eq!(&bytes[..8], b"\x08\x00\x05\x00\x0a\x00\x00\x00", "implicit: no VR in the element's head");
}
