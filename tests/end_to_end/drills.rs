//! Failover drills, with a gateway as a process and receivers: each simulated fault, a shift, test messages alone, stop conditions, refusals, `kill -9`
//! in the middle. Rules: traffic goes on meanwhile; nothing is lost, order is kept, and afterwards nothing of the drill stands.

use harness::config::{dicom_destination, dicom_listener, mllp_listener, route};
use harness::dicom::{self, EXPLICIT};
use harness::dicom_scp::Scp;
use harness::http::sample;
use harness::mllp::{Client, Server};
use harness::synthetic::{self, ct, instance};
use harness::world;
use harness::{Gateway, World, until};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

const TEST: &str = "MSH|^~\\&|EVERPOST|GW|RIS|HOSP|20260101||ADT^A08|DRILL-1|T|2.5\rPID|||EVERPOST-TEST||EVERPOST^TEST\r";

struct Pair {
    gateway: Gateway,
    port: u16,
    primary: Server,
    secondary: Server,
}

/// Ends the traffic, also when what it accompanies fails.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Both endpoints by name, so that the name can fail too.
fn destination(more: &str, primary: SocketAddr, secondary: SocketAddr) -> String {
    let endpoint = |name: &str, at: SocketAddr| format!("[[destination.endpoint]]\nname = \"{name}\"\naddress = \"localhost:{}\"\n", at.port());
    let settings = "connect_timeout = \"1s\"\nack_timeout = \"1s\"\nhold_down = \"1s\"\nretry = { first = \"100ms\", max = \"300ms\" }\n\
                    health = { interval = \"500ms\", timeout = \"1s\" }";
    let head = format!("[[destination]]\nname = \"ris\"\nprotocol = \"mllp\"\n{settings}\n{more}\n");
    head + &endpoint("primary", primary) + &endpoint("secondary", secondary)
}

impl Pair {
    fn new(world: &World, more: &str) -> Self {
        let (primary, secondary, port) = (Server::start(), Server::start(), world::port());
        world.write("test.hl7", TEST);
        let text = mllp_listener("ris-in", port, "") + &destination(more, primary.address(), secondary.address()) + &route("ris-in", &["ris"], "");
        let pair = Self { gateway: Gateway::start(world, "gateway", &text), port, primary, secondary };
        until("both are up", 30, || pair.health("primary") == "up" && pair.health("secondary") == "up");
        pair
    }

    fn health(&self, name: &str) -> String {
        let ris = self.gateway.destination("ris").unwrap_or_default();
        let row = ris["endpoints"].as_array().into_iter().flatten().find(|e| e["name"] == name).cloned().unwrap_or_default();
        row["health"].as_str().unwrap_or_default().to_owned()
    }

    #[track_caller]
    fn cli(&self, line: &str) -> (i32, String) {
        let arguments: Vec<&str> = line.split(' ').collect();
        let (status, out, err) = self.gateway.cli(&arguments);
        (status.code().unwrap_or(-1), out + &err)
    }

    /// Runs a command while messages keep coming. Gives its status and text, and the ids sent.
    #[track_caller]
    fn with_traffic(&self, line: &str) -> (i32, String, Vec<String>) {
        let stop = AtomicBool::new(false);
        let port = self.port;
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let mut client = Client::connect(([127, 0, 0, 1], port).into()).unwrap();
                let mut ids = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let id = format!("T-{:05}", ids.len());
                    assert_eq!(client.send(&synthetic::small(&id)).unwrap().code, "AA");
                    ids.push(id);
                    std::thread::sleep(std::time::Duration::from_millis(20)); // the pace of traffic
                }
                ids
            });
            let stops = Stops(&stop);
            let (code, text) = self.cli(line);
            drop(stops);
            (code, text, sender.join().unwrap())
        })
    }

    /// Everything arrived, each receiver got its part in order, and nothing of a drill stands.
    #[track_caller]
    fn all_is_well(&self, ids: &[String]) {
        self.gateway.drained("ris", 30);
        self.gateway.becomes_active("ris", "primary", 30);
        let arrived: BTreeSet<String> = self.primary.ids().into_iter().chain(self.secondary.ids()).collect();
        let missing: Vec<&String> = ids.iter().filter(|id| !arrived.contains(*id)).collect();
        assert!(missing.is_empty(), "lost: {missing:?}");
        for server in [&self.primary, &self.secondary] {
            let mut seen = BTreeSet::new();
            let got: Vec<String> = server.ids().into_iter().filter(|id| id.starts_with("T-") && seen.insert(id.clone())).collect();
            assert!(got.is_sorted(), "order: {got:?}");
        }
        let ris = self.gateway.destination("ris").unwrap();
        assert_eq!((&ris["shift"], &ris["drill"]["running"]), (&Value::Null, &Value::Null), "{ris}");
    }

    #[track_caller]
    fn last(&self) -> Value {
        let (_, text) = self.cli("drill list ris --json");
        let list: Value = serde_json::from_str(&text).unwrap();
        let id = list["drills"][0]["id"].as_str().unwrap_or_else(|| panic!("{text}")).to_owned();
        let (code, text) = self.cli(&format!("drill show {id} --json"));
        assert_eq!(code, 0, "{text}");
        serde_json::from_str(&text).unwrap()
    }
}

const DRILL: &str = "rto = \"50s\"\ndrill = { message = \"test.hl7\", stay = \"1s\" }";

#[track_caller]
fn a_fault_is_drilled(fault: &str) {
    let world = World::new(&format!("drills-{fault}"));
    let t = Pair::new(&world, DRILL);
    let (code, text, ids) = t.with_traffic(&format!("drill ris --fault {fault} --participant Operator"));
    assert_eq!(code, 0, "{text}\n{}", t.gateway.log());
    assert!(text.contains("REAL TRAFFIC MOVES") && text.contains("| Outcome | passed |"), "{text}");
    t.all_is_well(&ids);
    assert!(t.secondary.ids().iter().any(|id| id.starts_with("T-")), "real traffic moved");
    let record = t.last();
    let found = &record["findings"];
    assert_eq!((&record["outcome"], &record["fault"], &record["participants"][0]), (&"passed".into(), &fault.into(), &"Operator".into()), "{record}");
    for measured in ["detection", "taken_over", "first_answer", "turned", "back", "over"] {
        assert!(found[measured].is_u64(), "{measured}: {record}");
    }
    assert!(found["out_of_order"] == 0 && found["synthetic"].as_u64().is_some_and(|n| n > 0), "{record}");
    let (_, text) = t.cli("outages ris --json");
    let outages: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&outages["destinations"][0]["outages"][0]["drill"], &outages["destinations"][0]["objectives"]["outages"]),
        (&true.into(), &0.into()),
        "{text}"
    );
}

#[test]
fn a_refusal_is_drilled() {
    a_fault_is_drilled("refuse");
}

#[test]
fn a_frozen_process_is_drilled() {
    a_fault_is_drilled("freeze");
}

#[test]
fn dropped_packets_are_drilled() {
    a_fault_is_drilled("drop");
}

#[test]
fn a_name_that_is_not_found_is_drilled() {
    a_fault_is_drilled("dns");
}

#[test]
fn traffic_is_shifted_or_only_test_messages_go() {
    let world = World::new("drills-shift");
    let t = Pair::new(&world, DRILL);
    let (code, text, ids) = t.with_traffic("drill ris --real --note quarterly --next 2027-01-01");
    assert!(code == 0 && text.contains("quarterly") && text.contains("2027-01-01"), "{text}");
    t.all_is_well(&ids);
    assert!(t.secondary.ids().iter().any(|id| id.starts_with("T-")) && t.secondary.ids().iter().any(|id| id == "DRILL-1"));
    let (before, shifted) = (t.secondary.count(), t.last()["id"].clone());
    let (code, text) = t.cli("drill ris");
    assert!(code == 0 && text.contains("real traffic stays where it is") && text.contains("traffic had not moved"), "{text}");
    let new: Vec<String> = t.secondary.ids().split_off(before);
    assert!(!new.is_empty() && new.iter().all(|id| id == "DRILL-1"), "test messages only: {new:?}");
    let id = t.last()["id"].as_str().unwrap().to_owned();
    assert_ne!(shifted, id.as_str());
    let (_, html) = t.cli(&format!("drill show {id} --format html"));
    assert!(html.contains("<!doctype html>") && html.contains("Signature") && html.contains(&id), "{html}");
    assert!(t.gateway.get(&format!("/api/v1/drills/{id}?format=md")).is_some_and(|r| r.status == 200 && r.body.contains("RTO actual")));
    assert_eq!(t.gateway.get("/api/v1/drills/none").map(|r| r.status), Some(404));
    let metrics = t.gateway.get("/metrics").unwrap().body;
    assert_eq!(sample(&metrics, "everpost_drills_total", &[("destination", "ris"), ("outcome", "passed")]), Some(2.0));
    assert_eq!(sample(&metrics, "everpost_drill_last_passed", &[("destination", "ris")]), Some(1.0));
}

#[test]
fn a_drill_stops_and_returns_when_the_secondary_goes_or_a_person_says_so() {
    let world = World::new("drills-stop");
    let mut t = Pair::new(&world, DRILL);
    let (code, text) = t.cli("drill ris --real --stay 10m --detach");
    assert_eq!(code, 0, "{text}");
    t.gateway.becomes_active("ris", "secondary", 30);
    let (code, text) = t.cli("status");
    assert!(code == 3 && text.contains("DRILL ris-"), "{text}");
    let (code, text) = t.cli("drill ris --real");
    assert!(code == 1 && text.contains("another drill of ris runs"), "one at a time: {text}");
    t.secondary.shut();
    until("it stopped", 60, || t.last()["outcome"] == "stopped");
    t.all_is_well(&[]);
    let issues = t.last()["findings"]["issues"].to_string();
    assert!(issues.contains("failed, more than 10 percent") || issues.contains("not healthy"), "{issues}");
    let (code, text) = t.cli("drill ris --real");
    assert!(code == 1 && text.contains("not healthy"), "refused to an unhealthy endpoint: {text}");
    t.secondary.open();
    until("it is up", 30, || t.health("secondary") == "up");
    let (code, text) = t.cli("drill ris --fault refuse --stay 10m --detach");
    assert_eq!(code, 0, "{text}");
    t.gateway.becomes_active("ris", "secondary", 30);
    let (code, text) = t.cli("drill stop ris");
    assert_eq!(code, 0, "{text}");
    until("it stopped again", 60, || t.last()["outcome"] == "stopped" && t.last()["fault"] == "refuse");
    t.all_is_well(&[]);
    assert!(t.last()["findings"]["issues"].to_string().contains("stopped by"));
    assert_eq!(t.cli("drill stop ris").0, 1, "none runs");
}

#[test]
fn after_a_crash_nothing_of_a_drill_stands_and_its_report_says_so() {
    let world = World::new("drills-crash");
    let mut t = Pair::new(&world, DRILL);
    for line in ["drill ris --fault drop --stay 10m --detach", "drill ris --real --stay 10m --detach"] {
        let (code, text) = t.cli(line);
        assert_eq!(code, 0, "{text}");
        t.gateway.becomes_active("ris", "secondary", 30);
        t.gateway.kill();
        t.gateway.up();
        t.gateway.becomes_active("ris", "primary", 30);
        until("it is recorded", 20, || t.last()["outcome"] == "broken-off");
        let before = t.primary.count();
        let mut client = Client::connect(([127, 0, 0, 1], t.port).into()).unwrap();
        assert_eq!(client.send(&synthetic::small("T-00000")).unwrap().code, "AA");
        t.all_is_well(&["T-00000".to_owned()]);
        assert!(t.primary.count() > before, "the primary gets the traffic at once");
        until("both are up", 30, || t.health("primary") == "up" && t.health("secondary") == "up");
        until("no outage runs", 30, || t.gateway.destination("ris").is_some_and(|d| d["outage"].is_null()));
    }
    let (code, text) = t.cli("drill ris --fault drop --stay 10m --detach");
    assert_eq!(code, 0, "{text}");
    t.gateway.becomes_active("ris", "secondary", 30);
    assert!(t.gateway.terminate().success());
    t.gateway.up();
    assert_eq!(t.last()["outcome"], "broken-off");
    assert!(t.last()["findings"]["issues"].to_string().contains("the gateway is stopping"), "{}", t.last());
}

#[test]
fn what_cannot_be_drilled_is_refused_with_what_to_do() {
    let world = World::new("drills-refused");
    let t = Pair::new(&world, "");
    for (line, status, words) in [
        ("drill ris", 1, "has no test message"),
        ("drill none", 1, "no destination none"),
        ("drill ris --real --to tertiary", 1, "no endpoint tertiary"),
        ("drill ris --real --to primary", 1, "delivers to primary already"),
        ("drill ris --real --stay soon", 2, "is a duration"),
    ] {
        let (code, text) = t.cli(line);
        assert!(code == status && text.contains(words), "{line}: {code} {text}");
    }
    let (code, text) = t.cli("drill ris --fault freeze --dry-run");
    assert!(code == 0 && text.contains("would be") && text.contains("REAL TRAFFIC MOVES"), "{text}");
    assert_eq!(t.cli("drill list ris").1.trim(), "no drill was made yet", "a dry run leaves nothing");
    assert_eq!(t.cli("endpoint shift ris secondary --reason test").0, 0);
    let (code, text) = t.cli("drill ris --real");
    assert!(code == 1 && text.contains("unshift"), "{text}");
}

#[test]
fn images_are_drilled_with_an_echo() {
    let world = World::new("drills-dicom");
    let (primary, secondary, port) = (Scp::start(), Scp::start(), world::port());
    let settings = "hold_down = \"1s\"\nhealth = { probe = \"dicom-echo\", interval = \"300ms\" }\ndrill = { stay = \"1s\" }";
    let endpoints = [("primary", primary.address()), ("secondary", secondary.address())];
    let text = dicom_listener("ct-in", port, "") + &dicom_destination("pacs", settings, &endpoints) + &route("ct-in", &["pacs"], "");
    let gateway = Gateway::start(&world, "gateway", &text);
    let at: SocketAddr = ([127, 0, 0, 1], port).into();
    until("both are up", 30, || {
        let rows = gateway.destination("pacs").and_then(|d| d["endpoints"].as_array().cloned()).unwrap_or_default();
        rows.len() == 2 && rows.iter().all(|e| e["health"] == "up" && e["reason"] != "nothing seen yet")
    });
    let drill = |arguments: &[&str]| {
        let (status, out, err) = gateway.cli(arguments);
        (status.code(), out + &err)
    };
    let (code, text) = drill(&["drill", "pacs"]);
    assert!(code == Some(0) && text.contains("a C-ECHO each second"), "{text}");
    let (code, text) = drill(&["drill", "pacs", "--fault", "dns"]);
    assert!(code == Some(1) && text.contains("configured by its address"), "{text}");
    let (code, text) = drill(&["drill", "pacs", "--fault", "refuse"]);
    assert!(code == Some(0) && text.contains("| Outcome | passed |"), "{text}\n{}", gateway.log());
    gateway.becomes_active("pacs", "primary", 30);
    let mut association = dicom::Association::open(at, "EVERPOST", "TEST", &dicom::propose(dicom::CT, EXPLICIT)).unwrap();
    let id = instance(90, 1);
    assert_eq!(association.store(dicom::CT, &id, &ct(&id, 1, 10_000)).unwrap(), 0);
    gateway.drained("pacs", 30);
    assert_eq!(primary.count(), 1);
}
