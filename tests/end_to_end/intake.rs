//! The way in, as a sender sees it: routes, refusals, copies, allow-lists, half-closed connections, IPv6, and a gateway that itself stood still for a while.

use harness::config::{dicom_destination, dicom_listener, mllp_destination, mllp_listener, route};
use harness::dicom::{self, EXPLICIT};
use harness::load::{Load, in_order, nothing_lost};
use harness::mllp::{Blocks, Client, Server, field};
use harness::synthetic::{self, CHARSETS, ct, instance};
use harness::world::{self, stays};
use harness::{Gateway, World, dicom_scp, sha256, until};
use std::collections::BTreeMap;
use std::net::SocketAddr;

fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn code(ack: &harness::mllp::Ack) -> (String, String) {
    (ack.code.clone(), field(&ack.bytes, "ERR", 3).split('^').next().unwrap_or_default().to_owned())
}

#[test]
fn routes_choose_destinations_and_refuse_the_rest() {
    let world = World::new("intake-routes");
    let port = world::port();
    let [orders, results, fallback, both] = [(); 4].map(|()| Server::start());
    let mut text = mllp_listener("ris-in", port, "");
    for (name, server) in [("orders", &orders), ("results", &results), ("fallback", &fallback), ("both", &both)] {
        text += &mllp_destination(name, "", &[("primary", server.address())]);
    }
    text += &route("ris-in", &["orders"], "when = { message_type = [\"ORM^O01\"] }");
    text += &route("ris-in", &["results"], "when = { message_type = [\"ORU^*\"], sending_application = [\"LAB\"] }");
    text += &route("ris-in", &["both"], "when = { message_type = [\"ORM^O01\", \"ORU^R01\"] }");
    text += &route("ris-in", &["fallback"], "default = true\nwhen = { message_type = [\"ADT^*\", \"MDM^*\"] }");
    let gateway = Gateway::start(&world, "gateway", &text);
    let mut client = Client::connect(loopback(port)).unwrap();
    let mut send = |kind: &str, id: &str| client.send(&synthetic::message(kind, id, 1, 400, CHARSETS[0])).unwrap();
    for (kind, id) in [("ORM^O01", "ORM"), ("ORU^R01^ORU_R01", "ORU"), ("ADT^A08", "ADT")] {
        assert!(send(kind, id).positive(), "{kind}");
    }
    for kind in ["SIU^S12", "QBP^Q22", "QRY^A19"] {
        assert_eq!(code(&send(kind, "NO")), ("AR".to_owned(), "200".to_owned()), "{kind}");
    }
    for name in ["orders", "results", "fallback", "both"] {
        gateway.drained(name, 20);
    }
    assert_eq!((orders.ids(), results.ids(), fallback.ids()), (vec!["ORM".to_owned()], vec!["ORU".to_owned()], vec!["ADT".to_owned()]));
    assert_eq!(both.ids(), ["ORM", "ORU"]);
    assert_eq!(gateway.metric("everpost_messages_refused_total", &[("reason", "no-route")]), Some(3.0));
}

#[test]
fn enhanced_mode_is_refused_in_its_own_words() {
    let world = World::new("intake-enhanced");
    let port = world::port();
    let sink = Server::start();
    let text = mllp_listener("ris-in", port, "max_message = \"64 KiB\"")
        + &mllp_destination("ris", "", &[("sink", sink.address())])
        + &route("ris-in", &["ris"], "when = { message_type = [\"ORU^*\"] }");
    let _gateway = Gateway::start(&world, "gateway", &text);
    let mut client = Client::connect(loopback(port)).unwrap();
    let enhanced = |id: &str, accept: &str, kind: &str| {
        let text = String::from_utf8(synthetic::message(kind, id, 1, 400, CHARSETS[0])).unwrap();
        text.replace("|P|2.5|||||", &format!("|P|2.5|||{accept}|NE|")).into_bytes()
    };
    let ack = client.send(&enhanced("E-1", "AL", "ORU^R01")).unwrap();
    assert_eq!((ack.code.as_str(), ack.id.as_str()), ("CA", "E-1"));
    let ack = client.send(&enhanced("E-2", "AL", "SIU^S12")).unwrap();
    assert_eq!(code(&ack), ("CR".to_owned(), "200".to_owned()));
    let ack = client.send(&enhanced("E-3", "ER", "SIU^S12")).unwrap();
    assert_eq!((ack.code.as_str(), ack.id.as_str()), ("CR", "E-3"), "ER: only errors are answered, and this is one");
    // ER and NE: taken in silence; the next answer belongs to the next message.
    client.push(&enhanced("E-4", "ER", "ORU^R01")).unwrap();
    client.push(&enhanced("E-5", "NE", "ORU^R01")).unwrap();
    let ack = client.send(&enhanced("E-6", "SU", "ORU^R01")).unwrap();
    assert_eq!((ack.code.as_str(), ack.id.as_str()), ("CA", "E-6"));
    until("all that was taken arrives", 20, || sink.count() == 4);
    assert_eq!(sink.ids(), ["E-1", "E-4", "E-5", "E-6"]);
}

#[test]
fn a_copy_is_answered_and_not_delivered_again_where_that_is_asked() {
    let world = World::new("intake-copies");
    let (hl7, images) = (world::port(), world::port());
    let (sink, scp) = (Server::start(), dicom_scp::Scp::start());
    let text = mllp_listener("ris-in", hl7, "duplicates = \"same-content\"")
        + &dicom_listener("modalities", images, "duplicates = \"same-content\"")
        + &mllp_destination("ris", "", &[("sink", sink.address())])
        + &dicom_destination("pacs", "", &[("scp", scp.address())])
        + &route("ris-in", &["ris"], "")
        + &route("modalities", &["pacs"], "");
    let mut gateway = Gateway::start(&world, "gateway", &text);
    for round in 0..2 {
        let mut client = Client::connect(loopback(hl7)).unwrap();
        for _ in 0..3 {
            assert!(client.send(&synthetic::small("SAME")).unwrap().positive());
        }
        let mut association = dicom::Association::open(loopback(images), "EVERPOST", "TEST", &dicom::propose(dicom::CT, EXPLICIT)).unwrap();
        for _ in 0..3 {
            assert_eq!(association.store(dicom::CT, &instance(200, 1), &ct(&instance(200, 1), 1, 200_000)).unwrap(), 0);
        }
        association.release().unwrap();
        gateway.drained("ris", 20);
        gateway.drained("pacs", 20);
        assert_eq!((sink.count(), scp.count()), (1, 1), "round {round}");
        // The memory of what came outlives a restart (after a crash, what was just delivered may be delivered again).
        assert_eq!(gateway.terminate().code(), Some(0));
        gateway.up();
    }
    let mut client = Client::connect(loopback(hl7)).unwrap();
    assert!(client.send(&synthetic::oru("SAME", 2, 600, CHARSETS[0])).unwrap().positive());
    gateway.drained("ris", 20);
    assert_eq!(sink.count(), 2, "the same id with other content is another message");
}

#[test]
fn senders_that_are_not_on_the_list_do_not_get_in() {
    let world = World::new("intake-lists");
    let (hl7, images, open) = (world::port(), world::port(), world::port());
    let (sink, scp) = (Server::start(), dicom_scp::Scp::start());
    let text = mllp_listener("ris-in", hl7, "peers = [\"10.0.0.0/8\"]")
        + &dicom_listener("closed", images, "peers = [\"10.0.0.0/8\"]")
        + &dicom_listener("open", open, "calling_ae = [\"CT_1\"]\nstorage_classes = [\"1.2.840.10008.5.1.4.1.1.4\"]")
        + &mllp_destination("ris", "", &[("sink", sink.address())])
        + &dicom_destination("pacs", "", &[("scp", scp.address())])
        + &route("ris-in", &["ris"], "")
        + &route("closed", &["pacs"], "")
        + &route("open", &["pacs"], "");
    let _gateway = Gateway::start(&world, "gateway", &text);
    let taken = Client::connect(loopback(hl7)).and_then(|mut c| c.send(&synthetic::small("A")));
    assert!(taken.is_err(), "{taken:?}");
    let mr = dicom::propose(dicom::MR, EXPLICIT);
    assert!(dicom::Association::open(loopback(images), "EVERPOST", "CT_1", &mr).is_err());
    let refused = dicom::Association::open(loopback(open), "EVERPOST", "CT_2", &mr).err().map(|e| e.to_string());
    assert_eq!(refused.as_deref(), Some("rejected 1/1/3"), "an unknown calling AE title");
    let both = [dicom::propose(dicom::CT, EXPLICIT), mr].concat();
    let mut association = dicom::Association::open(loopback(open), "EVERPOST", "CT_1", &both).unwrap();
    assert!(association.context(dicom::CT).is_err(), "a class that is not on the list");
    assert_eq!(association.store(dicom::MR, &instance(201, 1), &ct(&instance(201, 1), 1, 1_000)).unwrap(), 0);
    association.release().unwrap();
    until("the one arrives", 20, || scp.count() == 1);
    assert_eq!(sink.count(), 0);
}

#[test]
fn a_sender_that_closes_its_side_after_the_block_gets_its_answer() {
    let world = World::new("intake-half-closed");
    let port = world::port();
    let sink = Server::start();
    let text = mllp_listener("ris-in", port, "") + &mllp_destination("ris", "", &[("sink", sink.address())]) + &route("ris-in", &["ris"], "");
    let _gateway = Gateway::start(&world, "gateway", &text);
    for (n, size) in [400, 500_000].into_iter().enumerate() {
        let mut client = Client::connect(loopback(port)).unwrap();
        client.push(&synthetic::oru(&format!("H{n}"), n, size, CHARSETS[0])).unwrap();
        client.stream().shutdown(std::net::Shutdown::Write).unwrap();
        let bytes = Blocks::new(client.stream()).next_block().unwrap().expect("an answer");
        assert_eq!((field(&bytes, "MSA", 1), field(&bytes, "MSA", 2)), ("AA".to_owned(), format!("H{n}")));
    }
    until("both arrive", 20, || sink.ids() == ["H0", "H1"]);
}

#[test]
fn ipv6_on_both_sides() {
    let world = World::new("intake-ipv6");
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        harness::not_run(world.name(), "this machine has no IPv6 loopback");
        return;
    }
    let port = world::port();
    let sink = Server::on(format!("[::1]:{}", world::port()).parse().unwrap());
    let listener = mllp_listener("ris-in", port, "").replace("127.0.0.1", "[::1]");
    let text = listener + &mllp_destination("ris", "", &[("sink", sink.address())]) + &route("ris-in", &["ris"], "");
    let gateway = Gateway::start(&world, "gateway", &text);
    let mut client = Client::connect(format!("[::1]:{port}").parse().unwrap()).unwrap();
    assert!(client.send(&synthetic::small("SIX")).unwrap().positive());
    gateway.drained("ris", 20);
    assert_eq!(sink.ids(), ["SIX"]);
}

#[test]
fn a_gateway_that_stood_still_goes_on() {
    let world = World::new("intake-frozen");
    let (hl7, images) = (world::port(), world::port());
    let (sink, scp) = (Server::start(), dicom_scp::Scp::start());
    let text = mllp_listener("ris-in", hl7, "")
        + &dicom_listener("modalities", images, "")
        + &mllp_destination("ris", "", &[("sink", sink.address())])
        + &dicom_destination("pacs", "", &[("scp", scp.address())])
        + &route("ris-in", &["ris"], "")
        + &route("modalities", &["pacs"], "");
    let mut gateway = Gateway::start(&world, "gateway", &text);
    let load = Load::start("G", 202, (loopback(hl7), 3, 2_000), (loopback(images), 2, 100_000));
    for _ in 0..2 {
        load.progress(30, 60);
        gateway.process().freeze();
        // What was answered before is on its way to the senders still.
        let mut before = load.answered();
        until("the last answers have arrived", 10, || {
            let now = load.answered();
            let quiet = now == before && stays(200, || load.answered() == now);
            before = now;
            quiet
        });
        assert!(stays(1_500, || load.answered() == before), "a frozen process answers");
        gateway.process().thaw();
    }
    load.progress(30, 60);
    let answered = load.stop();
    gateway.drained("ris", 60);
    gateway.drained("pacs", 60);
    let mut arrived: BTreeMap<String, String> = sink.received().into_iter().map(|r| (r.id, r.sha256)).collect();
    arrived.extend(scp.stored().into_iter().map(|s| (s.instance, s.sha256)));
    nothing_lost(&answered, &arrived);
    in_order(&sink.ids());
}

#[test]
fn a_stop_in_the_middle_of_a_large_object_leaves_no_half_of_it() {
    let world = World::new("intake-half-object");
    let port = world::port();
    let scp = dicom_scp::Scp::start();
    let text = "stop_timeout = \"1s\"\n".to_owned()
        + &dicom_listener("modalities", port, "")
        + &dicom_destination("pacs", "", &[("scp", scp.address())])
        + &route("modalities", &["pacs"], "");
    let mut gateway = Gateway::start(&world, "gateway", &text);
    for kill in [false, true] {
        let mut association = dicom::Association::open(loopback(port), "EVERPOST", "TEST", &dicom::propose(dicom::CT, EXPLICIT)).unwrap();
        let command = dicom::store_rq(dicom::CT, &instance(203, 1), 1);
        dicom::write_data(association.stream(), 1, true, &command, 16_384).unwrap();
        for _ in 0..300 {
            dicom::send_pdv(association.stream(), 1, false, &[7; 16_000]).unwrap();
        }
        if kill {
            gateway.kill();
        } else {
            assert_eq!(gateway.terminate().code(), Some(0));
        }
        gateway.up();
    }
    let mut association = dicom::Association::open(loopback(port), "EVERPOST", "TEST", &dicom::propose(dicom::CT, EXPLICIT)).unwrap();
    let set = ct(&instance(203, 2), 2, 100_000);
    assert_eq!(association.store(dicom::CT, &instance(203, 2), &set).unwrap(), 0);
    association.release().unwrap();
    gateway.drained("pacs", 20);
    let got: Vec<_> = scp.stored().into_iter().map(|s| (s.instance, s.sha256)).collect();
    assert_eq!(got, [(instance(203, 2), sha256(&set))]);
}
