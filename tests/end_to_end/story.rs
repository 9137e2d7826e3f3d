//! What `everpost queue show` tells of an envelope: each attempt with where, when, how far, what was answered and what followed; with receivers that
//! misbehave, under both policies for what may have arrived, and after a restart. And what lies ahead: how long the spool lasts, how long a backlog takes.

use harness::config::{dicom_destination, dicom_listener, mllp_destination, mllp_listener, route};
use harness::dicom::{self, EXPLICIT};
use harness::dicom_scp::{Answer, Scp, Welcome};
use harness::mllp::{AA, Client, Reply, Server, field};
use harness::synthetic::{self, ct, instance};
use harness::world::{self, get};
use harness::{Gateway, World, until};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn hl7(world: &World, more: &str, servers: &[&Server]) -> (Gateway, Client) {
    let port = world::port();
    let endpoints: Vec<(&str, SocketAddr)> = ["primary", "secondary"].into_iter().zip(servers.iter().map(|s| s.address())).collect();
    let text = mllp_listener("ris-in", port, "") + &mllp_destination("ris", more, &endpoints) + &route("ris-in", &["ris"], "");
    let gateway = Gateway::start(world, "gateway", &text);
    (gateway, Client::connect(loopback(port)).unwrap())
}

fn ok(gateway: &Gateway, arguments: &[&str]) -> String {
    let (status, out, err) = gateway.cli(arguments);
    assert_eq!(status.code(), Some(0), "{arguments:?}: {out}{err}");
    out
}

/// The one envelope with this key, in whatever state.
fn id_of(gateway: &Gateway, key: &str) -> String {
    get(&format!("the envelope with {key}"), 20, || {
        ["ready", "in-flight", "deferred", "held", "dead-letter", "delivered"].iter().find_map(|state| {
            let (_, out, _) = gateway.cli(&["queue", "list", "--json", "--key", key, "--state", state]);
            serde_json::from_str::<Value>(&out).ok()?["envelopes"][0]["id"].as_str().map(str::to_owned)
        })
    })
}

fn story(gateway: &Gateway, id: &str) -> Value {
    serde_json::from_str(&ok(gateway, &["queue", "show", id, "--json"])).unwrap()
}

fn attempts(story: &Value) -> &[Value] {
    story["story"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Some fields of each attempt.
fn told(story: &Value, fields: &[&str]) -> Vec<Vec<Value>> {
    attempts(story).iter().map(|a| fields.iter().map(|f| a[*f].clone()).collect()).collect()
}

/// Milliseconds, for comparing: months count as long as the longest.
fn millis(time: &str) -> u64 {
    let mut numbers = time.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u64>().ok());
    let scales = [12 * 31 * 86_400_000, 31 * 86_400_000, 86_400_000, 3_600_000, 60_000, 1_000, 1];
    scales.into_iter().map(|scale| scale * numbers.next().expect("seven numbers in a time")).sum()
}

/// Every attempt began before it ended, and not before the one before it ended.
fn in_time(story: &Value) {
    let mut last = millis(story["accepted_at"].as_str().unwrap());
    for attempt in attempts(story) {
        let [began, ended] = ["began_at", "ended_at"].map(|f| millis(attempt[f].as_str().unwrap_or_else(|| panic!("{f} in {attempt}"))));
        // The beginning is reckoned back from the end by another clock, both in whole milliseconds.
        assert!(began <= ended && began + 2 >= last, "{story}");
        last = ended;
    }
}

#[test]
fn what_may_have_arrived_is_sent_again_and_each_attempt_tells_of_itself() {
    let world = World::new("story-resend");
    let (primary, secondary) = (Server::start(), Server::start());
    primary.script(|_, message| if field(message, "MSH", 10) == "ID" { Reply::Close } else { AA });
    let (mut gateway, mut client) = hl7(&world, "hold_down = \"60s\"", &[&primary, &secondary]);
    assert!(client.send(&synthetic::small("ID")).unwrap().positive());
    until("it is delivered", 20, || secondary.accepted_ids() == ["ID"]);
    gateway.drained("ris", 20);
    let id = id_of(&gateway, "ID");
    let (a, b) = (primary.address().to_string(), secondary.address().to_string());
    let check = |gateway: &Gateway| {
        let story = story(gateway, &id);
        assert_eq!((&story["state"], &story["attempts"], &story["attempts_not_told"]), (&json!("delivered"), &json!(3), &json!(0)), "{story}");
        let fields = ["number", "endpoint", "address", "phase", "answer", "verdict", "ambiguous", "failover", "replay"];
        let lost = |number: u32, failover: Value| {
            vec![json!(number), json!("primary"), json!(a), json!("answer"), Value::Null, json!("ambiguous"), json!(true), failover, json!(false)]
        };
        let last = ["3", "secondary", "answer", "AA", "delivered"];
        assert_eq!(told(&story, &fields)[..2], [lost(1, Value::Null), lost(2, json!({"to": "secondary"}))], "{story}");
        let third = &attempts(&story)[2];
        assert_eq!([&third["number"].to_string(), third["endpoint"].as_str().unwrap(), third["phase"].as_str().unwrap()], last[..3]);
        assert_eq!([third["answer"].as_str().unwrap(), third["verdict"].as_str().unwrap()], last[3..]);
        assert_eq!((&third["address"], &third["ambiguous"]), (&json!(b), &json!(false)));
        in_time(&story);
    };
    check(&gateway);
    let text = ok(&gateway, &["queue", "show", &id]);
    assert!(
        text.contains(&format!("primary ({a})")) && text.contains("may have arrived, failover to secondary") && text.contains("answered AA"),
        "{text}"
    );
    gateway.kill();
    gateway.up();
    check(&gateway);
}

#[test]
fn a_resend_goes_on_after_a_restart_and_the_attempts_before_it_are_told() {
    let world = World::new("story-resend-restart");
    let server = Server::start();
    server.script(|_, _| Reply::Close);
    let (mut gateway, mut client) = hl7(&world, "retry = { first = \"100ms\", max = \"200ms\" }", &[&server]);
    assert!(client.send(&synthetic::small("ID")).unwrap().positive());
    let id = id_of(&gateway, "ID");
    let before = get("two attempts are told", 20, || Some(story(&gateway, &id)).filter(|s| attempts(s).len() >= 2));
    assert!(attempts(&before).iter().all(|a| a["ambiguous"] == true && a["answer"].is_null() && a["verdict"] == "ambiguous"), "{before}");
    gateway.kill();
    server.script(|_, _| AA);
    gateway.up();
    until("it is delivered", 20, || server.accepted_ids() == ["ID"]);
    gateway.drained("ris", 20);
    let after = story(&gateway, &id);
    let known = attempts(&before).len();
    assert_eq!(attempts(&after)[..known], *attempts(&before), "what was told stays as it was");
    let last = attempts(&after).last().unwrap();
    assert_eq!((&last["answer"], &last["verdict"], &after["state"]), (&json!("AA"), &json!("delivered"), &json!("delivered")), "{after}");
    assert_eq!(last["number"], after["attempts"]);
    in_time(&after);
}

#[test]
fn what_may_have_arrived_is_held_for_people_over_a_restart_and_goes_on_when_they_say_so() {
    let world = World::new("story-hold");
    let server = Server::start();
    server.script(|_, _| Reply::Silence);
    let (mut gateway, mut client) = hl7(&world, "ambiguous = \"hold\"\nack_timeout = \"400ms\"", &[&server]);
    assert!(client.send(&synthetic::small("ID")).unwrap().positive());
    until("it is held", 20, || gateway.count("ris", "held") == 1);
    let id = id_of(&gateway, "ID");
    let held = |gateway: &Gateway| {
        let story = story(gateway, &id);
        assert_eq!((&story["state"], &story["ambiguous"], &story["begun"]), (&json!("held"), &json!(true), &Value::Null), "{story}");
        let one = [json!(1), json!("primary"), json!(server.address().to_string()), json!("answer"), Value::Null, json!("hold"), json!(true)];
        assert_eq!(told(&story, &["number", "endpoint", "address", "phase", "answer", "verdict", "ambiguous"]), [one], "{story}");
        assert!(attempts(&story)[0]["seconds"].as_f64().unwrap() >= 0.39, "it waited for the answer: {story}");
        in_time(&story);
    };
    held(&gateway);
    gateway.kill();
    gateway.up();
    held(&gateway);
    assert_eq!(server.count(), 1, "a restart sends nothing that is held");
    server.script(|_, _| AA);
    ok(&gateway, &["queue", "release", &id]);
    gateway.drained("ris", 20);
    let story = story(&gateway, &id);
    assert_eq!(told(&story, &["number", "verdict", "answer"]), [[json!(1), json!("hold"), Value::Null], [json!(2), json!("delivered"), json!("AA")]]);
    let decisions = story["decisions"].as_array().unwrap();
    assert_eq!((decisions.len(), &decisions[0]["to"], &decisions[0]["by"]), (1, &json!("ready"), &json!("operator")), "{story}");
    let text = ok(&gateway, &["queue", "show", &id]);
    assert!(text.find("may have arrived") < text.find("let go on by an operator") && text.find("let go on") < text.find("answered AA"), "{text}");
}

#[test]
fn an_attempt_that_a_crash_cut_is_told_and_held() {
    let world = World::new("story-hold-cut");
    let server = Server::start();
    server.script(|_, _| Reply::Silence);
    let (mut gateway, mut client) = hl7(&world, "ambiguous = \"hold\"\nack_timeout = \"60s\"", &[&server]);
    assert!(client.send(&synthetic::small("ID")).unwrap().positive());
    until("it was sent", 20, || server.count() == 1);
    let id = id_of(&gateway, "ID");
    let under_way = story(&gateway, &id);
    assert_eq!((&under_way["begun"]["number"], &under_way["begun"]["endpoint"]), (&json!(1), &json!("primary")), "{under_way}");
    assert!(attempts(&under_way).is_empty());
    gateway.kill();
    gateway.up();
    until("it is held", 20, || gateway.count("ris", "held") == 1);
    let story = story(&gateway, &id);
    assert_eq!(told(&story, &["number", "endpoint", "ambiguous", "verdict"]), [[json!(1), json!("primary"), json!(true), json!("hold")]], "{story}");
    assert_eq!(attempts(&story)[0]["began_at"], under_way["begun"]["began_at"], "{story}");
    assert_eq!((&story["begun"], server.count()), (&Value::Null, 1), "{story}");
}

#[test]
fn codes_of_dicom_and_of_refused_associations_are_told() {
    let world = World::new("story-dicom");
    let (primary, secondary) = (Scp::start(), Scp::start());
    primary.script(|_| Answer::Status(0xA700));
    let port = world::port();
    let more = "health = { probe = \"tcp\" }\nretry = { first = \"100ms\", max = \"200ms\" }";
    let text = dicom_listener("modalities", port, "")
        + &dicom_destination("pacs", more, &[("primary", primary.address()), ("secondary", secondary.address())])
        + &route("modalities", &["pacs"], "");
    let gateway = Gateway::start(&world, "gateway", &text);
    let send = |number: u64| {
        let mut association = dicom::Association::open(loopback(port), "EVERPOST", "TEST", &dicom::propose(dicom::CT, EXPLICIT)).unwrap();
        let id = instance(77, number);
        assert_eq!(association.store(dicom::CT, &id, &ct(&id, number, 5_000)).unwrap(), 0);
        association.release().unwrap();
        id
    };
    let first = send(1);
    gateway.drained("pacs", 20);
    let fields = ["endpoint", "address", "phase", "answer", "verdict"];
    let story_of = |instance: &str| story(&gateway, &id_of(&gateway, instance));
    let (a, b) = (primary.address().to_string(), secondary.address().to_string());
    let refused = ["primary", a.as_str(), "answer", "A700H", "elsewhere"].map(Value::from).to_vec();
    let taken = ["secondary", b.as_str(), "answer", "0000H", "delivered"].map(Value::from).to_vec();
    let told_first = story_of(&first);
    assert_eq!(told(&told_first, &fields), [refused, taken.clone()], "{told_first}");
    in_time(&told_first);
    // The association that stands is taken from under the next object; a new one is turned away.
    primary.welcome(Welcome::Reject(1, 1, 7));
    primary.script(|_| Answer::Abort);
    let second = send(2);
    gateway.drained("pacs", 20);
    let told_second = story_of(&second);
    let last = told(&told_second, &fields).pop().unwrap();
    assert_eq!(last, taken, "{told_second}");
    let rejected = told(&told_second, &["endpoint", "address", "phase", "answer"]);
    let rejection = ["primary", a.as_str(), "associate", "A-ASSOCIATE-RJ 1/1/7"].map(Value::from).to_vec();
    assert!(rejected.contains(&rejection), "{told_second}");
}

#[test]
fn many_attempts_are_told_from_both_ends() {
    let world = World::new("story-many");
    let server = Server::start();
    server.script(|_, _| Reply::Code("AR", Some(207)));
    let (mut gateway, mut client) = hl7(&world, "retry = { first = \"10ms\", max = \"10ms\" }", &[&server]);
    assert!(client.send(&synthetic::small("ID")).unwrap().positive());
    until("it was refused often", 60, || server.count() >= 60);
    ok(&gateway, &["destination", "pause", "ris"]);
    let id = id_of(&gateway, "ID");
    let settled = get("nothing is in flight", 20, || {
        let story = story(&gateway, &id);
        (story["state"] != "in-flight" && story["attempts"].as_u64() == Some(server.count() as u64)).then_some(story)
    });
    let count = settled["attempts"].as_u64().unwrap();
    let expected: Vec<u64> = (1..=8).chain(count - 23..=count).collect();
    let numbers = |story: &Value| attempts(story).iter().filter_map(|a| a["number"].as_u64()).collect::<Vec<_>>();
    assert_eq!((numbers(&settled), settled["attempts_not_told"].as_u64()), (expected.clone(), Some(count - 32)));
    assert!(attempts(&settled).iter().all(|a| a["answer"] == "AR 207" && a["verdict"] == "retry"), "{settled}");
    gateway.kill();
    gateway.up();
    let after = story(&gateway, &id);
    assert_eq!((numbers(&after), after["attempts"].as_u64()), (expected, Some(count)));
    let text = ok(&gateway, &["queue", "show", &id]);
    assert!(text.contains(&format!("... {} attempts between", count - 32)), "{text}");
}

#[test]
fn what_lies_ahead_is_told_as_soon_as_it_is_known() {
    let world = World::new("story-ahead");
    let (mut ris, pacs) = (Server::start(), Server::start());
    ris.shut();
    let port = world::port();
    let text = mllp_listener("ris-in", port, "")
        + &mllp_destination("ris", "", &[("primary", ris.address())])
        + &mllp_destination("copy", "", &[("primary", pacs.address())])
        + &route("ris-in", &["ris", "copy"], "");
    let gateway = Gateway::start(&world, "gateway", &text);
    let mut client = Client::connect(loopback(port)).unwrap();
    let sent = AtomicUsize::new(0);
    let status = get("the outlook is known", 60, || {
        let n = sent.fetch_add(1, Ordering::SeqCst);
        assert!(client.send(&synthetic::small(&format!("M{n}"))).unwrap().positive());
        let status = gateway.status()?;
        let known = status["destinations"].as_array()?.iter().all(|d| d["spool_lasts_seconds"].is_u64() && d["delivered_per_second"].is_f64());
        (known && status["spool"]["lasts_seconds"].is_u64()).then_some(status)
    });
    let [ris, copy] = ["ris", "copy"].map(|name| gateway.destination(name).unwrap());
    // Nothing leaves the one; the other keeps up.
    assert_eq!((&ris["drain_seconds"], ris["delivered_per_second"].as_f64()), (&Value::Null, Some(0.0)), "{status}");
    assert!(copy["drain_seconds"].is_u64() && copy["delivered_per_second"].as_f64() > Some(0.0), "{copy}");
    let spool = &status["spool"];
    assert!(spool["room_bytes"].as_u64() > Some(0) && spool["accepted_bytes_per_second"].as_f64() > Some(0.0), "{spool}");
    let metric = |name: &str, labels: &[(&str, &str)]| gateway.metric(name, labels).unwrap_or(f64::NAN);
    assert!(metric("everpost_spool_lasts_seconds", &[]) > 0.0 && metric("everpost_destination_spool_lasts_seconds", &[("destination", "ris")]) > 0.0);
    assert!(metric("everpost_drain_seconds", &[("destination", "ris")]).is_nan());
    let (_, table, _) = gateway.cli(&["status"]);
    assert!(table.contains("left if nothing is delivered") && table.contains("does not drain (0.0/s out"), "{table}");
}
