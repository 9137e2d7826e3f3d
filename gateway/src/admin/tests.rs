//! The admin API over a real spool: who gets what, and what each verb does.

#![allow(clippy::unwrap_used)]

use super::auth::Door;
use super::router;
use crate::config::Config;
use crate::intake::Intake;
use crate::listener::Doors;
use crate::live::{Live, Running, Watch};
use crate::route::Routes;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use bytes::Bytes;
use everpost_client::config::{Endpoint, SpoolSettings};
use everpost_client::delivery::{AckCode, Outcome, Phase};
use everpost_client::endpoint::wishes::Wishes;
use everpost_client::event::Events;
use everpost_client::ids::EndpointId;
use everpost_client::io::committer::Committer;
use everpost_client::io::courier::{Boxed, Courier, Order, ProbeFailure};
use everpost_client::io::disk::Directory;
use everpost_client::io::driver::Driver;
use everpost_client::io::stop::Stop;
use everpost_client::keys::{Key, Keys};
use everpost_client::spool::{Addressee, Content, Draft, Lane, Spool};
use http_body_util::BodyExt;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

const CONFIG: &str = r#"
name = "gw"
data_dir = "data"
[[listener]]
name = "in"
protocol = "mllp"
bind = "127.0.0.1:0"
[[destination]]
name = "ris"
protocol = "mllp"
after_hold = "continue"
[[destination.endpoint]]
name = "a"
address = "127.0.0.1:1"
[[route]]
from = ["in"]
to = ["ris"]
"#;

const SECRET: &str = "CONTROL-4711";

struct World {
    _dir: tempfile::TempDir,
    live: Arc<Live>,
}

impl World {
    async fn new() -> Self {
        Self::with(CONFIG).await
    }

    async fn with(config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("gw.toml");
        std::fs::write(&file, config).unwrap();
        let spool_dir = dir.path().join("spool");
        std::fs::create_dir(&spool_dir).unwrap();
        let settings = SpoolSettings { reserve: 0, segment_size: 1 << 20, ..SpoolSettings::default() };
        let (spool, _) = Spool::open(Directory::open(&spool_dir).unwrap(), settings, Events::none()).unwrap();
        let committer = Committer::start(Arc::new(spool)).unwrap();
        let intake = Intake::new(committer.clone(), Routes::new(vec![], vec![]), Events::none());
        let doors = Arc::new(Doors::new(intake.clone()));
        let config = Arc::new(Config::load(&file).unwrap());
        let (wishes, _) = mpsc::channel(1);
        let watch = Watch::default();
        let signs = watch.signs.clone();
        watch.drills.open(dir.path(), Events::to(move |event| signs.read(&event, Instant::now()))).unwrap();
        let live = Live::new(config, committer, intake, doors, watch, wishes);
        Self { _dir: dir, live }
    }

    /// Commits one message to `destination` and returns its envelope's id.
    async fn commit(&self, destination: &str, keys: &[(Key, &str)], content: &str) -> String {
        let spool = self.live.committer().spool().clone();
        let mut table = Keys::new();
        for (key, value) in keys {
            table.set(*key, value.as_bytes());
        }
        let addressees = vec![Addressee { destination: spool.destination(destination).unwrap(), lane: Lane::Own, stat: false }];
        let content = Content::Whole(Bytes::copy_from_slice(content.as_bytes()));
        let draft = Draft { keys: table, content, accepted_at: crate::live::now(), addressees, fingerprint: None };
        let _receipt = self.live.committer().commit(draft).await.unwrap();
        let page = self.ask(Door::Socket, Method::GET, "/api/v1/envelopes?limit=1000", "").await.json();
        page["envelopes"].as_array().unwrap().last().unwrap()["id"].as_str().unwrap().to_owned()
    }

    async fn ask(&self, door: Door, method: Method, path: &str, body: &str) -> Answer {
        let request = Request::builder().method(method).uri(path).header("host", "localhost").body(Body::from(body.to_owned())).unwrap();
        let response = TowerToHyperService::new(router(self.live.clone(), door)).call(request).await.unwrap();
        let (head, body) = response.into_parts();
        let kind = head.headers.get("content-type").map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
        Answer { status: head.status, kind, body: body.collect().await.unwrap().to_bytes() }
    }
}

struct Answer {
    status: StatusCode,
    kind: String,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        assert!(self.status.is_success(), "{} {}", self.status, self.text());
        serde_json::from_slice(&self.body).unwrap()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

fn loopback() -> Door {
    Door::loopback(None)
}

const HL7: &[(Key, &str)] = &[(Key::ControlId, SECRET), (Key::Patient, "4711^^^H"), (Key::MessageType, "ADT^A01")];

#[tokio::test]
async fn health_status_and_metrics_answer_on_both_doors() {
    let world = World::new().await;
    for door in [Door::Socket, loopback()] {
        for path in ["/healthz", "/readyz", "/metrics", "/api/v1/status", "/api/v1/config", "/api/v1/envelopes"] {
            let answer = world.ask(door.clone(), Method::GET, path, "").await;
            assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text());
        }
    }
    let report = world.ask(loopback(), Method::GET, "/api/v1/status", "").await.json();
    assert_eq!((report["name"].as_str(), report["state"].as_str()), (Some("gw"), Some("ok")));
}

#[tokio::test]
async fn patient_data_is_only_on_the_socket() {
    let world = World::new().await;
    let id = world.commit("ris", HL7, "MSH|secret\r").await;
    for path in ["/api/v1/envelopes".to_owned(), format!("/api/v1/envelopes/{id}")] {
        let inside = world.ask(Door::Socket, Method::GET, &path, "").await;
        assert!(inside.text().contains(SECRET), "{path}: {}", inside.text());
        let outside = world.ask(loopback(), Method::GET, &path, "").await;
        assert_eq!(outside.status, StatusCode::OK);
        assert!(!outside.text().contains(SECRET) && !outside.text().contains("4711"), "{path}: {}", outside.text());
    }
    for path in [format!("/api/v1/envelopes?key={SECRET}"), format!("/api/v1/envelopes/{id}/content")] {
        let answer = world.ask(loopback(), Method::GET, &path, "").await;
        assert_eq!((answer.status, answer.kind.as_str()), (StatusCode::FORBIDDEN, "application/problem+json"), "{path}");
    }
}

#[tokio::test]
async fn nothing_can_be_changed_over_the_loopback_address() {
    let world = World::new().await;
    let id = world.commit("ris", HL7, "MSH|\r").await;
    for path in [
        format!("/api/v1/envelopes/{id}/retry"),
        "/api/v1/envelopes/retry".into(),
        "/api/v1/destinations/ris/failback".into(),
        "/api/v1/reload".into(),
    ] {
        assert_eq!(world.ask(loopback(), Method::POST, &path, "{}").await.status, StatusCode::FORBIDDEN, "{path}");
    }
}

#[tokio::test]
async fn a_foreign_host_is_turned_away() {
    let world = World::new().await;
    let request = |host: &str| Request::builder().uri("/api/v1/status").header("host", host).body(Body::empty()).unwrap();
    let service = TowerToHyperService::new(router(world.live.clone(), Door::loopback(Some(([127, 0, 0, 1], 8080).into()))));
    assert_eq!(service.call(request("localhost:8080")).await.unwrap().status(), StatusCode::OK);
    assert_eq!(service.call(request("evil.example:8080")).await.unwrap().status(), StatusCode::MISDIRECTED_REQUEST);
}

#[tokio::test]
async fn an_envelope_is_held_released_and_discarded() {
    let world = World::new().await;
    let id = world.commit("ris", HL7, "MSH|\r").await;
    let state = async |world: &World| world.ask(Door::Socket, Method::GET, &format!("/api/v1/envelopes/{id}"), "").await.json()["state"].clone();
    let verb = async |world: &World, verb: &str, body: &str| {
        world.ask(Door::Socket, Method::POST, &format!("/api/v1/envelopes/{id}/{verb}"), body).await.status
    };
    assert_eq!(verb(&world, "hold", "").await, StatusCode::OK);
    assert_eq!(state(&world).await, "held");
    assert_eq!(verb(&world, "release", "").await, StatusCode::OK);
    assert_eq!(state(&world).await, "ready");
    assert_eq!(verb(&world, "discard", "").await, StatusCode::UNPROCESSABLE_ENTITY, "no reason");
    assert_eq!(verb(&world, "discard", r#"{"reason":" "}"#).await, StatusCode::UNPROCESSABLE_ENTITY, "an empty one");
    let long = |bytes| json!({"reason": "x".repeat(bytes)}).to_string();
    assert_eq!(verb(&world, "discard", &long(256)).await, StatusCode::UNPROCESSABLE_ENTITY, "too long a one");
    assert_eq!(verb(&world, "discard", &long(255)).await, StatusCode::OK, "the longest one");
    assert_eq!(verb(&world, "hold", "").await, StatusCode::NOT_FOUND, "it waits no longer");
    let waiting = world.ask(Door::Socket, Method::GET, "/api/v1/envelopes", "").await.json();
    assert_eq!(waiting["envelopes"], json!([]));
    assert_eq!(state(&world).await, "discarded");
    let show = async |door| world.ask(door, Method::GET, &format!("/api/v1/envelopes/{id}"), "").await.json()["discarded"].clone();
    assert_eq!(show(Door::Socket).await["reason"], "x".repeat(255));
    let outside = show(Door::loopback(None)).await;
    assert!(outside["at"].is_string() && outside["reason"].is_null(), "an operator's words may name a patient: {outside}");
    let content = world.ask(Door::Socket, Method::GET, &format!("/api/v1/envelopes/{id}/content"), "").await;
    assert_eq!(content.status, StatusCode::NOT_FOUND);
    assert_eq!(world.ask(Door::Socket, Method::GET, "/api/v1/envelopes/4000", "").await.status, StatusCode::NOT_FOUND, "it never was");
}

#[tokio::test]
async fn a_hold_follows_the_rule_of_its_destination() {
    // "pacs" is not configured: its lanes stop.
    for (destination, leaves) in [("ris", true), ("pacs", false)] {
        for bulk in [false, true] {
            let world = World::new().await;
            world.commit("other", HL7, "MSH|\r").await;
            let id = world.commit(destination, HL7, "MSH|\r").await;
            let one = format!("/api/v1/envelopes/{id}");
            let (path, body) = match bulk {
                true => ("/api/v1/envelopes/hold".to_owned(), json!({"destination": destination, "state": "ready"}).to_string()),
                false => (format!("{one}/hold"), String::new()),
            };
            assert_eq!(world.ask(Door::Socket, Method::POST, &path, &body).await.status, StatusCode::OK);
            assert_eq!(world.ask(Door::Socket, Method::POST, &format!("{one}/release"), "").await.status, StatusCode::OK);
            let shown = world.ask(Door::Socket, Method::GET, &one, "").await.json();
            assert_eq!((&shown["state"], &shown["out_of_order"]), (&json!("ready"), &json!(leaves)), "{destination}, in bulk: {bulk}");
        }
    }
}

#[tokio::test]
async fn a_decision_in_bulk_reaches_every_envelope_in_that_state() {
    let world = World::new().await;
    for _ in 0..5 {
        world.commit("ris", HL7, "MSH|\r").await;
    }
    world.commit("pacs", &[(Key::SopInstance, "1.2.3")], "x").await;
    let body = r#"{"destination":"ris","state":"ready"}"#;
    let answer = world.ask(Door::Socket, Method::POST, "/api/v1/envelopes/hold", body).await.json();
    assert_eq!((answer["done"].as_u64(), &answer["failed"]), (Some(5), &json!([])));
    let held = world.ask(Door::Socket, Method::GET, "/api/v1/envelopes?state=held", "").await.json();
    assert_eq!(held["envelopes"].as_array().unwrap().len(), 5);
    let nobody = world.ask(Door::Socket, Method::POST, "/api/v1/envelopes/hold", r#"{"destination":"x","state":"ready"}"#).await;
    assert_eq!(nobody.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_a_destination_no_longer_configured_left_is_decided_on_whole() {
    let world = World::new().await;
    for destination in ["gone", "ris"] {
        let id = world.commit(destination, HL7, "MSH|\r").await;
        assert_eq!(world.ask(Door::Socket, Method::POST, &format!("/api/v1/envelopes/{id}/hold"), "").await.status, StatusCode::OK);
        world.commit(destination, HL7, "MSH|\r").await;
    }
    let discard = async |destination| {
        let body = json!({"destination": destination, "reason": "the scanner was sold"}).to_string();
        world.ask(Door::Socket, Method::POST, "/api/v1/envelopes/discard", &body).await
    };
    let refused = discard("ris").await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(refused.text().contains("--state"), "{}", refused.text());
    assert_eq!(discard("gone").await.json()["done"], 2, "the held one and the ready one");
    let left = world.ask(Door::Socket, Method::GET, "/api/v1/envelopes", "").await.json();
    let left: Vec<&Value> = left["envelopes"].as_array().unwrap().iter().map(|e| &e["destination"]).collect();
    assert_eq!(left, ["ris", "ris"]);
}

#[tokio::test]
async fn the_list_goes_on_where_it_ended() {
    let world = World::new().await;
    for _ in 0..5 {
        world.commit("ris", HL7, "MSH|\r").await;
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = world.ask(Door::Socket, Method::GET, &format!("/api/v1/envelopes?limit=2{cursor}"), "").await.json();
        seen.extend(page["envelopes"].as_array().unwrap().iter().map(|e| e["id"].as_str().unwrap().parse::<u64>().unwrap()));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 5);
    assert!(seen.is_sorted());
}

#[tokio::test]
async fn content_comes_out_as_it_went_in() {
    let world = World::new().await;
    let id = world.commit("ris", HL7, "MSH|\u{e9}\r").await;
    let answer = world.ask(Door::Socket, Method::GET, &format!("/api/v1/envelopes/{id}/content"), "").await;
    assert_eq!(answer.body, "MSH|\u{e9}\r");
    let keys = &[(Key::SopInstance, "1.2.3"), (Key::SopClass, "1.2.840.10008.5.1.4.1.1.2"), (Key::TransferSyntax, "1.2.840.10008.1.2")];
    let id = world.commit("pacs", keys, "data set").await;
    let answer = world.ask(Door::Socket, Method::GET, &format!("/api/v1/envelopes/{id}/content"), "").await;
    assert_eq!(answer.kind, "application/dicom");
    assert_eq!(&answer.body[128..132], b"DICM");
    assert!(answer.body.ends_with(b"data set"));
}

#[tokio::test]
async fn wrong_questions_are_told_what_is_wrong() {
    let world = World::new().await;
    for (path, told) in [
        ("/api/v1/envelopes?state=lost", "dead-letter"),
        ("/api/v1/envelopes?limit=0", "1 to 1000"),
        ("/api/v1/envelopes?colour=red", "colour"),
        ("/api/v1/envelopes/x", "decimal"),
        ("/api/v1/envelopes?cursor=x", "decimal"),
    ] {
        let answer = world.ask(Door::Socket, Method::GET, path, "").await;
        assert_eq!((answer.status, answer.kind.as_str()), (StatusCode::UNPROCESSABLE_ENTITY, "application/problem+json"), "{path}");
        assert!(answer.text().contains(told), "{path}: {}", answer.text());
    }
    assert_eq!(world.ask(Door::Socket, Method::GET, "/nowhere", "").await.kind, "application/problem+json");
    assert_eq!(world.ask(Door::Socket, Method::DELETE, "/api/v1/status", "").await.status, StatusCode::METHOD_NOT_ALLOWED);
    let long = "x".repeat(super::BODY_BYTES_MAX + 1);
    let answer = world.ask(Door::Socket, Method::POST, "/api/v1/envelopes/1/hold", &long).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    for verb in ["pause", "failback"] {
        let answer = world.ask(Door::Socket, Method::POST, &format!("/api/v1/destinations/nobody/{verb}"), "").await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{verb}: {}", answer.text());
    }
}

#[tokio::test]
async fn what_waits_for_nobody_is_kept_and_shown() {
    let world = World::new().await;
    world.commit("former", HL7, "MSH|\r").await;
    let report = world.ask(loopback(), Method::GET, "/api/v1/status", "").await.json();
    assert_eq!(report["state"], "degraded");
    assert_eq!(report["destinations"][0]["name"], "former");
    assert!(report["reasons"][0].as_str().unwrap().contains("no longer configured"), "{report}");
}

/// Takes everything; endpoint 0 only while `good`.
struct Pair {
    good: AtomicBool,
    took: Mutex<Vec<u16>>,
}

struct Way(Arc<Pair>);

impl Courier for Way {
    fn attempt(&self, order: Order) -> Boxed<Outcome> {
        let refused = Outcome::NotSent { phase: Phase::Connect, cause: "refused".to_owned(), stale: false, timeout: false };
        let taken = order.endpoint.0 != 0 || self.0.good.load(Ordering::Acquire);
        if taken {
            self.0.took.lock().unwrap().push(order.endpoint.0);
        }
        Box::pin(async move { if taken { Outcome::Acknowledged { code: AckCode::AA, error: None } } else { refused } })
    }
    fn probe(&self, endpoint: EndpointId, _store: bool) -> Boxed<Result<Duration, ProbeFailure>> {
        let good = endpoint.0 != 0 || self.0.good.load(Ordering::Acquire);
        let bad = ProbeFailure { phase: Phase::Connect, cause: "refused".to_owned() };
        Box::pin(async move { if good { Ok(Duration::ZERO) } else { Err(bad) } })
    }
    fn drain(&self, _: EndpointId) {}
    fn connected(&self, _: EndpointId) -> Vec<SocketAddr> {
        Vec::new()
    }
    fn resolved(&self, _: EndpointId) -> Vec<SocketAddr> {
        Vec::new()
    }
}

/// Waits for something that must come.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(Instant::now() < deadline, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn with_manual_failback_an_operator_is_the_way_back() {
    let world = World::new().await;
    let mut ris = world.live.config().destinations[0].as_ref().clone();
    let endpoint = |name: &str| {
        let mut endpoint = Endpoint::clone(&world.live.config().destinations[0].endpoints[0]);
        endpoint.name = name.into();
        (endpoint.health.interval, endpoint.health.fall, endpoint.health.rise) = (Duration::from_millis(20), 1, 1);
        Arc::new(endpoint)
    };
    ris.endpoints = vec![endpoint("a"), endpoint("b")];
    (ris.failback_auto, ris.retry_first, ris.hold_down) = (false, Duration::from_millis(5), Duration::ZERO);
    let pair = Arc::new(Pair { good: AtomicBool::new(false), took: Mutex::default() });
    let committer = world.live.committer().clone();
    let (id, (stopper, stop)) = (committer.spool().destination("ris").unwrap(), Stop::new());
    let driver = Driver::start(Arc::new(ris), id, committer, Arc::new(Way(pair.clone())), Events::none(), stop, Wishes::default());
    world.live.replace(world.live.config(), vec![Running { name: "ris".into(), id, driver: driver.clone(), stopper }]);
    let failback = async || world.ask(Door::Socket, Method::POST, "/api/v1/destinations/ris/failback", "").await.status;
    let commit = async |took: &[u16]| {
        // It may be gone before it can be listed: only its delivery is looked for.
        let content = Content::Whole(Bytes::from_static(b"MSH|\r"));
        let addressees = vec![Addressee { destination: id, lane: Lane::Own, stat: false }];
        let draft = Draft { keys: Keys::new(), content, accepted_at: crate::live::now(), addressees, fingerprint: None };
        let _receipt = world.live.committer().commit(draft).await.unwrap();
        driver.kick();
        until("its delivery", async || pair.took.lock().unwrap().as_slice() == took).await;
    };
    commit(&[1]).await;
    assert_eq!(failback().await, StatusCode::CONFLICT, "the first one is still down");
    pair.good.store(true, Ordering::Release);
    until("the first one's probes", async || driver.status().endpoints[0].health == "up").await;
    commit(&[1, 1]).await;
    until("the way back", async || failback().await == StatusCode::OK).await;
    commit(&[1, 1, 0]).await;
}

const SCHEDULED: &str = r#"
name = "gw"
data_dir = "data"
[[listener]]
name = "in"
protocol = "mllp"
bind = "127.0.0.1:0"
[[destination]]
name = "ris"
protocol = "mllp"
drill = { schedule = "daily 03:00", real = true, stay = "1s" }
[[destination.endpoint]]
name = "a"
address = "127.0.0.1:1"
[[destination.endpoint]]
name = "b"
address = "127.0.0.1:2"
[[route]]
from = ["in"]
to = ["ris"]
"#;

/// A gateway whose drill was due so many milliseconds ago.
async fn due_since(ago: u64) -> (World, Driver) {
    let world = World::with(SCHEDULED).await;
    let (config, committer) = (world.live.config(), world.live.committer().clone());
    let pair = Arc::new(Pair { good: AtomicBool::new(true), took: Mutex::default() });
    let (id, (stopper, stop)) = (committer.spool().destination("ris").unwrap(), Stop::new());
    let driver = Driver::start(config.destinations[0].clone(), id, committer.clone(), Arc::new(Way(pair)), Events::none(), stop, Wishes::default());
    world.live.replace(config, vec![Running { name: "ris".into(), id, driver: driver.clone(), stopper }]);
    let due = json!({"schedule": "daily 03:00", "at": crate::live::now() - ago});
    committer.remember("drill/ris", due.to_string().as_bytes()).await.unwrap();
    (world, driver)
}

fn last_drill(world: &World) -> Option<crate::drills::record::Record> {
    world.live.drills().store()?.list(Some("ris")).into_iter().next()
}

#[tokio::test]
async fn a_drill_that_is_due_is_made_once_and_its_report_is_served() {
    let (world, driver) = due_since(1_000).await;
    world.live.mind_drills().await;
    until("it is over", async || last_drill(&world).is_some_and(|r| !r.running)).await;
    let record = last_drill(&world).unwrap();
    assert_eq!((record.passed(), record.scheduled.is_some(), record.by.as_str(), record.real), (true, true, "the schedule", true), "{record:?}");
    assert!(driver.shift().is_none() && driver.status().active == ["a"] && record.next.is_some(), "{record:?}");
    world.live.mind_drills().await;
    let page = world.ask(Door::loopback(None), Method::GET, "/api/v1/drills?destination=ris", "").await.json();
    assert_eq!(page["drills"].as_array().map(Vec::len), Some(1), "once: {page}");
    let html = world.ask(Door::loopback(None), Method::GET, &format!("/api/v1/drills/{}?format=html", record.id), "").await;
    assert!(html.status == StatusCode::OK && html.kind.starts_with("text/html"), "{}", html.kind);
    let refused = world.ask(Door::loopback(None), Method::POST, "/api/v1/destinations/ris/drill", "{\"real\":true}").await.status;
    assert_eq!(refused, StatusCode::FORBIDDEN, "only on the socket");
}

#[tokio::test]
async fn a_drill_that_was_missed_or_could_not_begin_is_an_alarm() {
    for (ago, paused, words) in [(3_600_000, false, "the gateway did not run when it was due"), (1_000, true, "it was not begun: ris is paused")] {
        let (world, driver) = due_since(ago).await;
        if paused {
            driver.pause();
        }
        world.live.mind_drills().await;
        let record = last_drill(&world).unwrap();
        assert_eq!(record.outcome.map(|o| o.name()), Some("missed"));
        let reasons = world.live.report().reasons.join("\n");
        assert!(record.findings.issues[0].contains(words) && reasons.contains("its scheduled drill") && reasons.contains(words), "{reasons}");
        world.live.mind_drills().await;
        assert_eq!(world.live.drills().store().unwrap().list(None).len(), 1, "told once");
    }
}
