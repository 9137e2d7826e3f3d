//! Outages measured against `rto` and `rpo`, with a gateway as a process: what is told while one runs, through `kill -9`, and when it is over.
//! Rules: what is measured is asked of every surface: status, command line, API, metrics, log.

use harness::config::{mllp_destination, mllp_listener, route};
use harness::http::sample;
use harness::mllp::{Client, Server};
use harness::world;
use harness::{Gateway, World, synthetic, until};
use serde_json::Value;

struct Pair {
    gateway: Gateway,
    port: u16,
    primary: Server,
    secondary: Server,
}

impl Pair {
    fn new(world: &World, more: &str) -> Self {
        let (primary, secondary, port) = (Server::start(), Server::start(), world::port());
        let endpoints = [("primary", primary.address()), ("secondary", secondary.address())];
        let text = mllp_listener("ris-in", port, "") + &mllp_destination("ris", more, &endpoints) + &route("ris-in", &["ris"], "");
        Self { gateway: Gateway::start(world, "gateway", &text), port, primary, secondary }
    }

    #[track_caller]
    fn send(&self, prefix: &str, count: usize) {
        let mut client = Client::connect(([127, 0, 0, 1], self.port).into()).unwrap();
        for n in 0..count {
            assert_eq!(client.send(&synthetic::small(&format!("{prefix}-{n}"))).unwrap().code, "AA");
        }
    }

    fn outage(&self) -> Value {
        self.gateway.destination("ris").map(|d| d["outage"].clone()).unwrap_or_default()
    }

    #[track_caller]
    fn listed(&self) -> Vec<Value> {
        let (status, out, err) = self.gateway.cli(&["outages", "ris", "--json"]);
        assert!(status.success(), "{err}");
        let value: Value = serde_json::from_str(&out).unwrap();
        value["destinations"][0]["outages"].as_array().cloned().unwrap_or_default()
    }

    fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        sample(&self.gateway.get("/metrics")?.body, name, labels)
    }
}

#[test]
fn an_outage_is_measured_through_a_crash_and_told_once() {
    let world = World::new("objectives-outage");
    let settings = "hold_down = \"1s\"\nreplay_window = \"10m\"\nrto = \"10m\"\nrpo = \"10m\"\nhealth = { interval = \"200ms\", timeout = \"2s\" }";
    let mut t = Pair::new(&world, settings);
    t.send("A", 5);
    t.gateway.drained("ris", 20);
    assert!(t.outage().is_null() && t.listed().is_empty());
    t.primary.shut();
    t.send("B", 5);
    t.gateway.becomes_active("ris", "secondary", 20);
    until("it was measured", 20, || t.outage()["delivered_by"] == "secondary" && t.outage()["replayed"] == 5);
    let outage = t.outage();
    assert_eq!((&outage["endpoint"], &outage["ended"], &outage["drill"]), (&"primary".into(), &Value::Null, &false.into()), "{outage}");
    assert_eq!((&outage["rto_met"], &outage["rpo_met"]), (&true.into(), &true.into()), "{outage}");
    t.gateway.drained("ris", 20);
    let (status, text, _) = t.gateway.cli(&["status"]);
    assert!(status.code() == Some(3) && text.contains("OUTAGE for") && text.contains("primary was left"), "{text}");
    until("it is remembered", 20, || t.listed().first().is_some_and(|o| o["replay_found"] == 5));
    t.gateway.kill();
    t.gateway.up();
    let again = t.outage();
    assert_eq!(
        (&again["number"], &again["started"], &again["delivered_by"]),
        (&outage["number"], &outage["started"], &outage["delivered_by"]),
        "{again}"
    );
    t.gateway.becomes_active("ris", "secondary", 30);
    t.primary.open();
    t.gateway.becomes_active("ris", "primary", 30);
    until("it is over", 20, || t.outage().is_null());
    let listed = t.listed();
    assert_eq!((listed.len(), &listed[0]["rto_met"], listed[0]["ended"].is_string()), (1, &true.into(), true), "{listed:?}");
    let log = t.gateway.log();
    assert_eq!(
        (log.matches("OUTAGE for").count(), log.matches("outage of primary is over").count()),
        (1, 1),
        "one opening and one closing event\n{log}"
    );
    let (_, text, _) = t.gateway.cli(&["outages"]);
    assert!(text.contains("rto 10m00s, rpo 10m00s") && text.contains("30 days: 1 outage, worst rto") && text.contains("in service again"), "{text}");
    let answer: Value = serde_json::from_str(&t.gateway.get("/api/v1/destinations/ris/outages").unwrap().body).unwrap();
    assert_eq!(answer["outages"].as_array().map(Vec::len), Some(1));
    assert_eq!(t.gateway.get("/api/v1/destinations/none/outages").map(|r| r.status), Some(404));
    assert_eq!(t.metric("everpost_outage", &[("destination", "ris")]), Some(0.0));
    assert!(t.metric("everpost_outage_worst_seconds", &[("destination", "ris"), ("objective", "rto")]).is_some_and(|s| s > 0.0));
    assert_eq!(t.metric("everpost_objectives_missed_total", &[("destination", "ris"), ("objective", "rto")]), Some(0.0));
}

#[test]
fn a_missed_objective_is_told_while_the_outage_runs_and_stays_among_the_worst() {
    let world = World::new("objectives-missed");
    let mut t =
        Pair::new(&world, "hold_down = \"1s\"\nrto = \"1s\"\nretry = { first = \"100ms\", max = \"200ms\" }\nhealth = { interval = \"200ms\" }");
    t.primary.shut();
    t.secondary.shut();
    t.send("A", 3);
    until("the objective is missed", 30, || {
        let (_, text, _) = t.gateway.cli(&["status"]);
        text.contains("has missed the rto of 1 s")
    });
    t.secondary.open();
    t.gateway.drained("ris", 30);
    until("somebody delivered", 20, || t.outage()["delivered_by"] == "secondary");
    t.primary.open();
    until("it is over", 40, || t.outage().is_null());
    let listed = t.listed();
    assert_eq!((listed.len(), &listed[0]["rto_met"]), (1, &false.into()), "{listed:?}");
    assert_eq!(t.metric("everpost_objectives_missed_total", &[("destination", "ris"), ("objective", "rto")]), Some(1.0));
    assert_eq!(t.metric("everpost_outages_total", &[("destination", "ris")]), Some(1.0));
    let d = t.gateway.destination("ris").unwrap();
    assert!(d["objectives"]["worst_rto_seconds"].as_f64().is_some_and(|s| s >= 1.0) && d["objectives"]["missed"] == 1, "{d}");
}

#[test]
fn what_an_operator_moves_is_no_outage() {
    let world = World::new("objectives-wishes");
    let t = Pair::new(&world, "rto = \"1m\"");
    for line in [
        vec!["endpoint", "shift", "ris", "secondary", "--reason", "test"],
        vec!["endpoint", "unshift", "ris"],
        vec!["endpoint", "drain", "ris", "primary"],
    ] {
        let (status, out, err) = t.gateway.cli(&line);
        assert!(status.success(), "{out}{err}");
    }
    t.gateway.becomes_active("ris", "secondary", 20);
    t.send("A", 3);
    t.gateway.drained("ris", 20);
    assert!(t.outage().is_null() && t.listed().is_empty());
}
