//! HL7 v2.5.1 2.9 and 2.10 and MLLP release 1, from the sender's side: a gateway as a process, a client that knows nothing of its code.

use harness::config::{mllp_destination, mllp_listener, route};
use harness::mllp::{Client, Server, block, field};
use harness::world::port;
use harness::{Gateway, World, sha256, until};
use std::net::SocketAddr;
use std::time::Duration;

struct Scene {
    gateway: Gateway,
    receiver: Server,
    at: SocketAddr,
    _world: World,
}

/// A gateway with one listener and one receiver. `more`: keys of the listener.
fn scene(name: &str, more: &str) -> Scene {
    let world = World::new(name);
    let receiver = Server::start();
    receiver.keep();
    let port = port();
    let body = [
        mllp_listener("in", port, more),
        mllp_destination("ris", "", &[("a", receiver.address())]),
        route("in", &["ris"], "when = { message_type = [\"ADT^*\", \"ORU^R01\"] }"),
    ]
    .concat();
    let gateway = Gateway::start(&world, "gateway", &body);
    Scene { gateway, receiver, at: ([127, 0, 0, 1], port).into(), _world: world }
}

fn adt(id: &str, tail: &str) -> Vec<u8> {
    format!("MSH|^~\\&|APP|FAC|RAPP|RFAC|20260101||ADT^A01^ADT_A01|{id}|P|{tail}\rPID|1||4711^^^H\r").into_bytes()
}

#[test]
fn answers_follow_mode_and_version() {
    let scene = scene("hl7-answers", "");
    let mut client = Client::connect(scene.at).unwrap();
    // MSH-12 and what follows, answers (2.9.2 original, 2.9.3 enhanced mode), ERR where refused
    for (tail, codes) in [("2.3", "AA"), ("2.5", "AA"), ("2.5|||AL|NE", "CA"), ("2.5|||SU|NE", "CA"), ("2.5|||AL|AL", "CA AA"), ("2.5||||AL", "AA")] {
        client.push(&adt("7", tail)).unwrap();
        let mut seen = Vec::new();
        for _ in codes.split(' ') {
            let answer = client.answer().unwrap();
            assert_eq!(answer.id, "7");
            assert_eq!((field(&answer.bytes, "MSH", 3), field(&answer.bytes, "MSH", 6)), ("RAPP".into(), "FAC".into()), "2.9.2: parties exchanged");
            seen.push(answer.code);
        }
        assert_eq!(seen.join(" "), codes, "{tail}");
    }
    // Silence where it was asked for: the next answer is the next message's.
    for conditions in ["NE|NE", "ER|NE", "NE|"] {
        client.push(&adt("silent", &format!("2.5|||{conditions}"))).unwrap();
        assert_eq!(client.send(&adt("next", "2.5")).unwrap().id, "next", "{conditions}");
    }
    let refused = |client: &mut Client, tail: &str| {
        let orm = String::from_utf8(adt("8", tail)).unwrap().replace("ADT^A01^ADT_A01", "ORM^O01");
        client.send(orm.as_bytes()).unwrap()
    };
    let old = refused(&mut client, "2.4");
    assert_eq!((old.code.as_str(), field(&old.bytes, "ERR", 1).as_str()), ("AR", "MSH^1^9^200&Unsupported message type&HL70357"));
    let new = refused(&mut client, "2.5.1|||AL|NE");
    assert_eq!((new.code.as_str(), field(&new.bytes, "ERR", 3).as_str()), ("CR", "200^Unsupported message type^HL70357"));
    assert!(!field(&new.bytes, "MSA", 3).is_empty());
    assert_eq!(refused(&mut client, "2.5|||ER|NE").code, "CR");
    assert_eq!(scene.gateway.metric("everpost_messages_refused_total", &[("reason", "no-route")]), Some(3.0));
    // A refusal that may not be answered closes.
    client.push(&String::from_utf8(adt("8", "2.5|||NE|NE")).unwrap().replace("ADT^A01", "ORM^O01").into_bytes()).unwrap();
    assert!(client.answer().is_err());
}

#[test]
fn application_answers_can_be_left_out() {
    let scene = scene("hl7-application-ack", "application_ack = \"never\"");
    let mut client = Client::connect(scene.at).unwrap();
    client.push(&adt("1", "2.5|||AL|AL")).unwrap();
    assert_eq!(client.answer().unwrap().code, "CA");
    assert_eq!(client.send(&adt("2", "2.5")).unwrap().id, "2");
}

#[test]
fn blocks_are_found_however_they_come() {
    let scene = scene("hl7-blocks", "");
    let mut client = Client::connect(scene.at).unwrap();
    // One byte at a time, with Nagle off: each is a segment of its own.
    for byte in block(&adt("slow", "2.5")) {
        client.raw(&[byte]).unwrap();
    }
    assert_eq!(client.answer().unwrap().id, "slow");
    // Coalesced, with rubbish between, FS and VT inside.
    let odd = adt("odd", "2.5").iter().copied().chain(*b"ZZZ|\x1c\x0b|\x1c\r").collect::<Vec<u8>>();
    let odd = &odd[..odd.len() - 2];
    let bytes = [&b"\r\nrubbish"[..], &block(&adt("one", "2.5")), b"\n", &block(odd), &block(&adt("two", "2.5"))].concat();
    client.raw(&bytes).unwrap();
    for id in ["one", "odd", "two"] {
        assert_eq!(client.answer().unwrap().id, id);
    }
    // The end of a message lost: it and the next one are not taken for one.
    client.raw(&[&b"\x0b"[..], &adt("torn", "2.5"), &block(&adt("three", "2.5"))].concat()).unwrap();
    assert!(client.answer().is_err(), "closed without an answer");
    let mut client = Client::connect(scene.at).unwrap();
    assert_eq!(client.send(&adt("three", "2.5")).unwrap().id, "three");
    scene.gateway.drained("ris", 20);
    assert_eq!(scene.receiver.ids(), ["slow", "one", "odd", "two", "three"]);
    assert_eq!(scene.receiver.kept()[2], odd);
}

#[test]
fn delimiters_are_the_messages_own() {
    let scene = scene("hl7-delimiters", "");
    let mut client = Client::connect(scene.at).unwrap();
    for msh2 in ["^", "^~", "^~\\", "^~\\&", "^~\\&#"] {
        let text = format!("MSH|{msh2}|A|B|C|D|||ADT^A01|D1|P|2.7\rPID|1||1\r");
        let answer = client.send(text.as_bytes()).unwrap();
        assert_eq!((answer.code.as_str(), answer.id.as_str()), ("AA", "D1"), "{msh2}");
        assert!(answer.bytes.starts_with(format!("MSH|{msh2}|C|D|A|B|").as_bytes()), "{:?}", String::from_utf8_lossy(&answer.bytes));
    }
    let answer = client.send(b"MSH$*%!@$A$B$C$D$$$ADT*A01$D2$P$2.3\rPID$1$$1\r").unwrap();
    assert!(
        answer.bytes.windows(12).any(|w| w == b"\rMSA$AA$D2\r\r") || answer.bytes.ends_with(b"\rMSA$AA$D2\r"),
        "{:?}",
        String::from_utf8_lossy(&answer.bytes)
    );
}

#[test]
fn a_batch_is_one_unit() {
    let scene = scene("hl7-batch", "");
    let mut client = Client::connect(scene.at).unwrap();
    let inner = [adt("M1", "2.3"), adt("M2", "2.3")].concat();
    let batch = [b"FHS|^~\\&|FA|FB|FC|FD|||||F1\rBHS|^~\\&|A|B|C|D|||||B1\r".as_slice(), &inner, b"BTS|2\rFTS|1\r"].concat();
    let answer = client.send(&batch).unwrap();
    assert_eq!((answer.code.as_str(), answer.id.as_str()), ("AA", "F1"));
    scene.gateway.drained("ris", 20);
    assert_eq!(scene.receiver.kept(), [batch]);
}

#[test]
fn large_messages_and_too_large_ones() {
    let scene = scene("hl7-large", "max_message = \"24 MiB\"");
    let mut client = Client::connect(scene.at).unwrap().patience(Duration::from_secs(60));
    let mut large = adt("L1", "2.5");
    large.resize(20 << 20, b'x');
    assert_eq!(client.send(&large).unwrap().code, "AA");
    large.resize(25 << 20, b'x');
    let refused = client.send(&large).unwrap();
    assert_eq!((refused.code.as_str(), refused.id.as_str()), ("AR", "L1"));
    assert_eq!(client.send(&adt("L2", "2.5")).unwrap().id, "L2");
    large.truncate(20 << 20);
    scene.gateway.drained("ris", 60);
    let received = scene.receiver.received();
    assert_eq!(received.iter().map(|r| r.sha256.clone()).collect::<Vec<_>>(), [sha256(&large), sha256(&adt("L2", "2.5"))]);
}

#[test]
fn a_sender_that_pipelines_gets_every_answer_in_order() {
    let scene = scene("hl7-pipeline", "");
    let mut client = Client::connect(scene.at).unwrap();
    let ids: Vec<String> = (0..300).map(|n| format!("P{n}")).collect();
    let stream: Vec<u8> = ids.iter().flat_map(|id| block(&adt(id, "2.5"))).collect();
    client.raw(&stream).unwrap();
    for id in &ids {
        assert_eq!(client.answer().unwrap().id, *id);
    }
    scene.gateway.drained("ris", 30);
    assert_eq!(scene.receiver.ids(), ids);
}

#[test]
fn a_stop_answers_what_is_being_committed() {
    let mut scene = scene("hl7-stop", "");
    let mut client = Client::connect(scene.at).unwrap();
    client.send(&adt("1", "2.5")).unwrap();
    assert!(scene.gateway.terminate().success());
    assert!(client.answer().is_err(), "closed, without another word");
    scene.gateway.up();
    until("message 1 arrives, once or in time before the stop", 20, || scene.receiver.ids() == ["1"]);
}
