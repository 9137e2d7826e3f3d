//! HL7 v2.5.1 2.9, from the receiver's side: a gateway as a process, a server that answers as each clause says.

use harness::config::{mllp_destination, mllp_listener, route};
use harness::mllp::{AA, Client, Reply, Server, field};
use harness::world::port;
use harness::{Gateway, World, until};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Scene {
    gateway: Gateway,
    receiver: Server,
    client: Client,
    _world: World,
}

/// A gateway with one receiver. `more`: keys of the destination.
fn scene(name: &str, more: &str) -> Scene {
    let world = World::new(name);
    let receiver = Server::start();
    let port = port();
    let body = [mllp_listener("in", port, ""), mllp_destination("ris", more, &[("a", receiver.address())]), route("in", &["ris"], "")].concat();
    let gateway = Gateway::start(&world, "gateway", &body);
    let client = Client::connect(([127, 0, 0, 1], port).into()).unwrap();
    Scene { gateway, receiver, client, _world: world }
}

impl Scene {
    fn send(&mut self, id: &str) {
        self.ask(id, "");
    }

    /// Connections on which messages came; probes have others.
    fn carriers(&self) -> usize {
        self.receiver.received().iter().map(|received| received.connection).collect::<BTreeSet<_>>().len()
    }

    fn ask(&mut self, id: &str, conditions: &str) {
        let message = format!("MSH|^~\\&|A|B|C|D|||ADT^A01|{id}|P|2.5|||{conditions}\rPID|1||4711\r");
        self.client.push(message.as_bytes()).unwrap();
        if conditions.is_empty() {
            assert_eq!(self.client.answer().unwrap().code, "AA");
        }
    }
}

/// An acknowledgement of any form, with `ID` for the control id.
fn saying(text: &'static str) -> impl Fn(usize, &[u8]) -> Reply + Send + Sync + 'static {
    move |_, content| Reply::Bytes(text.replace("ID", &field(content, "MSH", 10)).into_bytes())
}

#[test]
fn answers_are_read_whatever_their_form() {
    let mut scene = scene("hl7-forms", "");
    for (n, text) in [
        "MSH|^~\\&|C|D|A|B|||ACK|1|P|2.5\rMSA|AA|ID\r",
        "MSH|^~\\&|C|D|A|B|||ACK|1|P|2.5\nMSA|AA|ID\n",
        "MSH$*%!@$C$D$A$B$$$ACK$1$P$2.5\rMSA$CA$ID$\r",
        "MSH|^~\\&|\r\nMSA|aa|ID |fine\r\n",
        "MSA|AA|ID",
    ]
    .into_iter()
    .enumerate()
    {
        scene.receiver.script(saying(text));
        scene.send(&format!("F{n}"));
        scene.gateway.drained("ris", 20);
        assert_eq!(scene.gateway.count("ris", "dead_letter"), 0, "{text:?}");
        assert_eq!(scene.receiver.count(), n + 1, "{text:?}: sent once");
    }
    assert_eq!(scene.carriers(), 1, "the connection is kept");
}

#[test]
fn an_answer_for_another_message_never_counts() {
    let mut scene = scene("hl7-wrong-msa2", "");
    let first = Arc::new(AtomicUsize::new(0));
    let seen = first.clone();
    scene.receiver.script(move |_, content| match seen.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::Bytes(b"MSH|^~\\&|\rMSA|AA|ANOTHER\r".to_vec()),
        1 => Reply::Bytes(b"MSH|^~\\&|C|D|A|B|||ADT^A01|1|P|2.5\r".to_vec()),
        _ => saying("MSH|^~\\&|\rMSA|AA|ID\r")(0, content),
    });
    scene.send("W1");
    scene.gateway.drained("ris", 20);
    assert_eq!(scene.receiver.ids(), ["W1"; 3]);
    assert_eq!(scene.carriers(), 3, "closed after each answer that was not ours");
    assert_eq!(scene.gateway.metric("everpost_ambiguous_total", &[("destination", "ris"), ("phase", "answer")]), Some(2.0));
}

#[test]
fn an_empty_control_id_takes_an_empty_answer() {
    let mut scene = scene("hl7-empty-id", "");
    scene.receiver.script(saying("MSH|^~\\&|\rMSA|AA|ID\r"));
    scene.send("");
    scene.gateway.drained("ris", 20);
    assert_eq!(scene.receiver.count(), 1);
}

#[test]
fn the_second_answer_of_enhanced_mode_is_stepped_over() {
    let mut scene = scene("hl7-second-answer", "");
    scene.receiver.script(|_, _| Reply::All(vec![Reply::Code("CA", None), Reply::Code("AE", Some(207))]));
    for n in 0..5 {
        scene.send(&format!("E{n}"));
    }
    scene.gateway.drained("ris", 20);
    assert_eq!(scene.receiver.ids(), ["E0", "E1", "E2", "E3", "E4"]);
    assert_eq!(scene.carriers(), 1);
    scene.gateway.says("later answered with AE 207", 10);
    // And in the envelope's story.
    let first = scene.gateway.queue("ris", "delivered").into_iter().find(|row| row["key"].as_str().is_some_and(|key| key.contains("E0")));
    let id = first.unwrap()["id"].as_str().unwrap().to_owned();
    until("the note stands in the story", 10, || scene.gateway.cli(&["queue", "show", &id, "--json"]).1.contains("AE 207"));
}

#[test]
fn a_connection_closed_while_idle_costs_nothing() {
    let mut scene = scene("hl7-stale", "");
    for n in 0..4 {
        scene.send(&format!("S{n}"));
        scene.gateway.drained("ris", 20);
        scene.receiver.hang_up();
        until("the connection is gone", 10, || scene.receiver.open_connections() == 0);
    }
    assert_eq!(scene.receiver.ids(), ["S0", "S1", "S2", "S3"], "nothing was sent twice");
    assert_eq!(scene.gateway.metric("everpost_ambiguous_total", &[("destination", "ris")]).unwrap_or(0.0), 0.0);
}

#[test]
fn a_receiver_that_closes_without_an_answer_gets_the_message_again() {
    let mut scene = scene("hl7-close", "");
    let count = Arc::new(AtomicUsize::new(0));
    let seen = count.clone();
    scene.receiver.script(move |_, _| if seen.fetch_add(1, Ordering::SeqCst) < 3 { Reply::Close } else { AA });
    scene.send("C1");
    scene.send("C2");
    scene.gateway.drained("ris", 20);
    assert_eq!(scene.receiver.ids(), ["C1", "C1", "C1", "C1", "C2"]);
}

#[test]
fn silence_as_asked() {
    let mut scene = scene("hl7-silence", "answers = \"as-asked\"");
    scene.receiver.script(|_, content| if field(content, "MSH", 15) == "NE" { Reply::Silence } else { AA });
    scene.ask("N1", "NE|NE");
    scene.ask("N2", "NE|NE");
    scene.send("A3");
    scene.gateway.drained("ris", 20);
    assert_eq!(scene.receiver.ids(), ["N1", "N2", "A3"]);
    assert_eq!(scene.gateway.metric("everpost_envelopes_delivered_total", &[("outcome", "unconfirmed")]), Some(2.0));
}
