//! What a receiver had answered and then forgot: it reaches the one that takes over, and the receiver itself before it returns; in order, through deaths of
//! receivers and of the gateway. And receivers that are asked what they have, so that nothing is sent that they had.

use harness::config::{QUICK_HEALTH, dicom_destination, dicom_listener, mllp_destination, mllp_listener, route};
use harness::dicom::{self, EXPLICIT};
use harness::dicom_scp::{Answer, Scp, Welcome};
use harness::load::{Load, in_order, nothing_lost};
use harness::mllp::{AA, Client, Reply, Server};
use harness::peers::Receiver;
use harness::synthetic::{CHARSETS, ct, instance, oru};
use harness::world::{self, setting};
use harness::{Gateway, World, until};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// For archives that are slow on a loaded machine.
const PATIENT_HEALTH: &str = "interval = \"500ms\", timeout = \"10s\", fall = 2, rise = 2";
const FIND: &str = "1.2.840.10008.5.1.4.1.2.2.1";

fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

// ---- HL7 ----

struct Hl7 {
    gateway: Gateway,
    at: SocketAddr,
    sent: Vec<String>,
}

impl Hl7 {
    fn start(world: &World, more: &str, endpoints: &[(&str, SocketAddr)]) -> Self {
        let port = world::port();
        let text = mllp_listener("ris-in", port, "") + &mllp_destination("ris", more, endpoints) + &route("ris-in", &["ris"], "");
        Self { gateway: Gateway::start(world, "gateway", &text), at: loopback(port), sent: Vec::new() }
    }

    /// So many messages of four patients, each answered AA.
    fn send(&mut self, count: usize) {
        let mut client = Client::connect(self.at).unwrap();
        for _ in 0..count {
            let n = self.sent.len();
            let id = format!("P{}-{n:05}", n % 4);
            let ack = client.send(&oru(&id, n % 4, 400, CHARSETS[0])).unwrap();
            assert!(ack.code == "AA" && ack.id == id, "{ack:?}");
            self.sent.push(id);
        }
    }
}

/// What a receiver has that lost whatever it had answered before this moment.
fn has_since(server: &Server, since: Instant) -> Vec<String> {
    server.received().into_iter().filter(|r| r.accepted && r.at >= since).map(|r| r.id).collect()
}

fn first_arrivals(ids: &[String]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    ids.iter().filter(|id| seen.insert(id.as_str())).cloned().collect()
}

/// Everything sent is there, and came in order: all of it with one lane, each patient's with lanes.
#[track_caller]
fn complete_and_in_order(has: &[String], sent: &[String], strict: bool) {
    let first = first_arrivals(has);
    let there: BTreeSet<&String> = first.iter().collect();
    let lacks: Vec<&String> = sent.iter().filter(|id| !there.contains(id)).collect();
    assert!(lacks.is_empty(), "{} of {} are lacking: {:?}", lacks.len(), sent.len(), &lacks[..lacks.len().min(10)]);
    in_order(&first);
    assert!(!strict || first == sent, "not in the order of acceptance");
}

#[test]
fn what_a_dead_primary_forgot_is_on_the_secondary_and_then_on_the_primary_in_order() {
    for ordering in ["strict", "patient"] {
        let world = World::new(&format!("replay-forgets-{ordering}"));
        let (mut primary, secondary) = (Server::start(), Server::start());
        let more = format!("ordering = \"{ordering}\"\nreplay_window = \"1m\"\nresync = \"outage\"");
        let mut t = Hl7::start(&world, &more, &[("primary", primary.address()), ("secondary", secondary.address())]);
        let began = Instant::now();
        t.send(150);
        until("the primary has them", 30, || primary.count() >= 150);
        t.gateway.drained("ris", 30);
        // It dies, and with it what it had answered in the last 30 s.
        primary.shut();
        t.send(50);
        t.gateway.becomes_active("ris", "secondary", 30);
        t.gateway.drained("ris", 60);
        assert!(began.elapsed() < Duration::from_secs(60), "the machine is too slow for this test: what was sent first is older than the window");
        complete_and_in_order(&secondary.accepted_ids(), &t.sent, ordering == "strict");
        let replayed = |gateway: &Gateway, to| gateway.metric("everpost_replayed_total", &[("destination", "ris"), ("endpoint", to)]).unwrap_or(0.0);
        assert_eq!(replayed(&t.gateway, "secondary"), 150.0);
        // Marked, and visible: which envelope each of them repeats.
        let marked = t.gateway.queue("ris", "delivered").into_iter().filter(|e| e["replay"] == true).collect::<Vec<Value>>();
        assert_eq!(marked.len(), 150);
        let (_, story, _) = t.gateway.cli(&["queue", "show", marked[0]["id"].as_str().unwrap(), "--json"]);
        assert!(story.contains("replay_of") && story.contains("secondary"), "{story}");
        // Back, without what it had: it gets all of it before it serves again.
        let back = Instant::now();
        primary.open();
        t.send(30);
        t.gateway.becomes_active("ris", "primary", 60);
        t.send(10);
        t.gateway.drained("ris", 60);
        complete_and_in_order(&has_since(&primary, back), &t.sent, ordering == "strict");
        let moves = t.gateway.metric("everpost_failovers_total", &[("from", "secondary"), ("to", "primary")]);
        assert_eq!(moves, Some(1.0), "one switch");
    }
}

#[test]
fn a_secondary_that_dies_during_the_replay_leaves_the_rest_and_its_own_to_the_third() {
    let world = World::new("replay-second-dies");
    let (mut a, mut b, c) = (Server::start(), Server::start(), Server::start());
    let more = "ordering = \"strict\"\nreplay_window = \"1m\"\nhold_down = \"60s\"\nhold_down_max = \"60s\"";
    let mut t = Hl7::start(&world, more, &[("a", a.address()), ("b", b.address()), ("c", c.address())]);
    t.send(100);
    t.gateway.drained("ris", 30);
    b.script(|_, _| Reply::Late(Duration::from_millis(20), Box::new(AA)));
    a.shut();
    t.send(1);
    until("the second one has some of the replays", 30, || b.count() >= 20);
    b.shut();
    t.send(20);
    t.gateway.becomes_active("ris", "c", 30);
    t.gateway.drained("ris", 60);
    complete_and_in_order(&c.accepted_ids(), &t.sent, true);
    assert_eq!(c.accepted_ids().len(), t.sent.len(), "each once");
}

#[test]
fn a_gateway_killed_during_failover_replay_and_return_keeps_every_promise() {
    let seed = setting("SEED", u64::from(std::process::id()));
    println!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for ordering in ["strict", "patient"] {
        let world = World::new(&format!("replay-killed-{ordering}"));
        let (mut primary, secondary) = (Server::start(), Server::start());
        // Slow enough that replays last for some kills.
        secondary.script(|_, _| Reply::Late(Duration::from_millis(4), Box::new(AA)));
        let more = format!("ordering = \"{ordering}\"\nreplay_window = \"2m\"\nresync = \"outage\"");
        let endpoints = [("primary", primary.address()), ("secondary", secondary.address())];
        let mut t = Hl7::start(&world, &more, &endpoints);
        let load = Load::start("L", 0, (t.at, 3, 500), (t.at, 0, 0));
        load.progress(200, 60);
        let mut kills = 0;
        let mut kill = |gateway: &mut Gateway, random: &mut fastrand::Rng, within: u64| {
            std::thread::sleep(Duration::from_millis(random.u64(0..within))); // the moment of death is chance, by seed
            gateway.kill();
            gateway.up();
            kills += 1;
        };
        primary.shut();
        for _ in 0..3 {
            kill(&mut t.gateway, &mut random, 700);
        }
        load.progress(100, 60);
        t.gateway.becomes_active("ris", "secondary", 60);
        // Everything the primary ever answered is gone.
        let back = Instant::now();
        primary.open();
        for _ in 0..3 {
            kill(&mut t.gateway, &mut random, 2_000);
        }
        load.progress(50, 60);
        let answered = load.stop();
        t.gateway.becomes_active("ris", "primary", 120);
        t.gateway.drained("ris", 120);
        let of = |server: &Server, since: Option<Instant>| {
            let all = server.received().into_iter().filter(|r| r.accepted && since.is_none_or(|since| r.at >= since));
            all.map(|r| (r.id, r.sha256)).collect::<Vec<_>>()
        };
        for (name, has) in [("primary", of(&primary, Some(back))), ("secondary", of(&secondary, None))] {
            let ids: Vec<String> = has.iter().map(|(id, _)| id.clone()).collect();
            in_order(&ids);
            let mut times: BTreeMap<&String, usize> = BTreeMap::new();
            ids.iter().for_each(|id| *times.entry(id).or_default() += 1);
            let most = times.values().copied().max().unwrap_or(0);
            assert!(most <= 1 + kills, "{name} got one message {most} times in {kills} lives");
            if name == "primary" {
                nothing_lost(&answered, &has.into_iter().collect());
            }
        }
        assert_eq!(t.gateway.count("ris", "dead_letter"), 0);
    }
}

// ---- DICOM ----

struct Images {
    gateway: Gateway,
    at: SocketAddr,
    sent: BTreeMap<String, String>,
}

impl Images {
    fn start(world: &World, more: &str, endpoints: &[(&str, SocketAddr)]) -> Self {
        let port = world::port();
        let text = dicom_listener("modalities", port, "") + &dicom_destination("pacs", more, endpoints) + &route("modalities", &["pacs"], "");
        Self { gateway: Gateway::start(world, "gateway", &text), at: loopback(port), sent: BTreeMap::new() }
    }

    /// So many more images, of 17 studies by turns.
    fn store(&mut self, count: u64) -> Vec<String> {
        let mut association = dicom::Association::open(self.at, "EVERPOST", "TEST", &dicom::propose(dicom::CT, EXPLICIT)).unwrap();
        let from = self.sent.len() as u64;
        let stored = (from..from + count)
            .map(|n| {
                let (id, set) = (instance(90, n), ct(&instance(90, n), n, 3_000));
                assert_eq!(association.store(dicom::CT, &id, &set).unwrap(), 0);
                self.sent.insert(id.clone(), harness::sha256(&set));
                id
            })
            .collect();
        association.release().unwrap();
        stored
    }

    fn counted(&self, metric: &str, endpoint: &str) -> f64 {
        self.gateway.metric(metric, &[("destination", "pacs"), ("endpoint", endpoint)]).unwrap_or(0.0)
    }
}

#[test]
fn images_that_a_dead_archive_forgot_are_on_the_secondary_and_then_on_the_primary() {
    let world = World::new("replay-images");
    let (mut primary, secondary) = (Scp::start(), Scp::start());
    let more = format!("replay_window = \"1m\"\nresync = \"outage\"\nassociations = 2\nhealth = {{ probe = \"dicom-echo\", {QUICK_HEALTH} }}");
    let mut t = Images::start(&world, &more, &[("primary", primary.address()), ("secondary", secondary.address())]);
    t.store(40);
    t.gateway.drained("pacs", 30);
    primary.shut();
    t.store(10);
    t.gateway.becomes_active("pacs", "secondary", 30);
    until("the secondary has all", 60, || secondary.accepted().iter().collect::<BTreeSet<_>>().len() == 50);
    t.gateway.drained("pacs", 60);
    let had: usize = primary.accepted().len();
    primary.open();
    t.store(5);
    t.gateway.becomes_active("pacs", "primary", 60);
    t.gateway.drained("pacs", 60);
    let since: BTreeMap<String, String> = primary.stored().into_iter().skip(had).map(|s| (s.instance, s.sha256)).collect();
    assert_eq!(since, t.sent, "all of it again, with the same bytes");
    nothing_lost(&t.sent, &primary.stored().into_iter().map(|s| (s.instance, s.sha256)).collect());
}

/// Copies a folder's files over another's, which has no others then.
fn restore(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(to).unwrap().flatten() {
        std::fs::remove_file(entry.path()).unwrap();
    }
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn an_archive_that_is_asked_gets_only_what_it_lacks() {
    for kind in ["pynetdicom", "dcmqrscp", "orthanc"] {
        let world = World::new(&format!("replay-query-{kind}"));
        let mut primary = match kind {
            "pynetdicom" => Receiver::archive(&world, "primary"),
            "dcmqrscp" => Receiver::dcmqrscp(&world, "primary"),
            _ => Receiver::orthanc(&world, "primary", loopback(1)),
        };
        let name = if kind == "dcmqrscp" { kind } else { "primary" };
        let secondary = Scp::start();
        secondary.welcome(Welcome::Except(vec![FIND.to_owned()]));
        // dcmqrscp gives two files one name when it stores on two associations in the same second.
        let associations = if kind == "dcmqrscp" { 1 } else { 2 };
        let more = format!(
            "replay_window = \"2m\"\nresync = \"outage\"\nreconcile = \"query\"\nassociations = {associations}\nidle_release = \"200ms\"\nhold_down = \"2s\"\nconnect_timeout = \"20s\"\nhealth = {{ probe = \"dicom-echo\", {PATIENT_HEALTH} }}"
        );
        let mut t = Images::start(&world, &more, &[(name, primary.address()), ("secondary", secondary.address())]);
        let before: BTreeSet<String> = t.store(24).into_iter().collect();
        t.gateway.drained("pacs", 60);
        let snapshot = world.folder("snapshot");
        if kind != "orthanc" {
            restore(primary.folder(), &snapshot);
        }
        let forgotten = t.store(16);
        t.gateway.drained("pacs", 60);
        // It dies and comes back as it was a while ago.
        if kind == "orthanc" {
            primary.forget_these(&forgotten);
        }
        // A child of dcmqrscp would go on with an association that is open.
        until("associations are released", 30, || {
            t.gateway.destination("pacs").is_some_and(|d| d["endpoints"][0]["connected"] == serde_json::json!([]))
        });
        primary.process.kill();
        if kind != "orthanc" {
            restore(&snapshot, primary.folder());
        }
        t.store(10);
        t.gateway.becomes_active("pacs", "secondary", 30);
        t.gateway.drained("pacs", 60);
        // The secondary answers no queries: it got everything, and people were told.
        let all: BTreeSet<String> = t.sent.keys().cloned().collect();
        until("the secondary has all", 60, || secondary.accepted().into_iter().collect::<BTreeSet<_>>() == all);
        t.gateway.drained("pacs", 60);
        t.gateway.says("answers no queries", 10);
        let reason = t.gateway.destination("pacs").unwrap()["endpoints"][1]["reason"].clone();
        assert!(reason.as_str().is_some_and(|r| r.contains("replays send everything")), "{reason}");
        assert!(!primary.folder().join("queries").exists(), "nobody asked the primary yet");
        primary.restart();
        t.gateway.becomes_active("pacs", name, 90);
        t.gateway.drained("pacs", 60);
        nothing_lost(&t.sent, &t.sent.keys().filter(|id| primary.kept().contains_key(*id)).map(|id| (id.clone(), t.sent[id].clone())).collect());
        // One that was left once more meanwhile is asked once more about all of it.
        let (sent, spared) = (t.counted("everpost_replayed_total", name), t.counted("everpost_replays_already_there_total", name));
        assert!(sent == 26.0 && spared >= 24.0, "{kind}: {sent} sent, {spared} already there");
        if kind == "pynetdicom" {
            let log = std::fs::read_to_string(primary.folder().join("log")).unwrap();
            let stored: Vec<&str> = log.lines().skip(before.len()).filter_map(|line| line.split(' ').next()).collect();
            assert!(stored.len() == 26 && stored.iter().all(|id| !before.contains(*id)), "sent although it had it: {stored:?}");
            let queries = std::fs::read_to_string(primary.folder().join("queries")).unwrap();
            assert!(queries.lines().count() <= 2 * 34, "17 studies with a series each are asked for once or twice: {queries}");
        }
        // Visible in the story of what was not sent.
        let spared = t.gateway.queue("pacs", "delivered").into_iter().filter(|e| e["replay"] == true && e["last"]["endpoint"] == name);
        let spared = spared.filter(|e| e["last"]["outcome"].as_str().is_some_and(|o| o.contains("already there"))).count();
        assert!(spared >= 24, "{spared}");
    }
}

#[test]
fn a_replay_by_hand_asks_too_unless_told_otherwise() {
    let world = World::new("replay-by-hand");
    let archive = Receiver::archive(&world, "archive");
    let more = "reconcile = \"query\"\nreplay_window = \"1m\"\nconnect_timeout = \"20s\"\nhealth = { probe = \"tcp\", interval = \"60s\" }";
    let mut t = Images::start(&world, more, &[("archive", archive.address())]);
    let all = t.store(12);
    t.gateway.drained("pacs", 30);
    for id in &all[..5] {
        std::fs::remove_file(archive.folder().join(format!("{id}.raw"))).unwrap();
    }
    let stores = || std::fs::read_to_string(archive.folder().join("log")).unwrap().lines().count();
    assert_eq!(stores(), 12);
    let ok = |arguments: &[&str]| {
        let (status, out, err) = t.gateway.cli(arguments);
        assert!(status.success(), "{arguments:?}: {out}{err}");
        out
    };
    let dry = ok(&["replay", "pacs", "--since", "10m", "--dry-run"]);
    assert!(dry.contains("12 envelopes") && stores() == 12, "{dry}");
    ok(&["replay", "pacs", "--since", "10m"]);
    until("what it lacks is there", 30, || stores() == 17);
    t.gateway.drained("pacs", 30);
    until("the replay is over", 30, || t.gateway.destination("pacs").is_some_and(|d| d["replay"].is_null()));
    assert_eq!((stores(), t.counted("everpost_replays_already_there_total", "archive")), (17, 7.0));
    ok(&["replay", "pacs", "--since", "10m", "--no-query"]);
    until("all of it again", 30, || stores() == 29);
    t.gateway.drained("pacs", 30);
    assert_eq!(stores(), 29);
}

#[test]
fn a_replay_by_hand_takes_half_of_the_places_and_goes_beside_the_traffic() {
    let world = World::new("replay-beside");
    let archive = Scp::start();
    let mut t = Images::start(&world, "associations = 4", &[("archive", archive.address())]);
    let old: BTreeSet<String> = t.store(40).into_iter().collect();
    t.gateway.drained("pacs", 30);
    archive.script(|_| Answer::Late(Duration::from_millis(150), 0));
    let (status, out, err) = t.gateway.cli(&["replay", "pacs", "--since", "10m"]);
    assert!(status.success(), "{out}{err}");
    until("replays are under way", 30, || archive.count() >= 44);
    let new: BTreeSet<String> = t.store(8).into_iter().collect();
    t.gateway.drained("pacs", 120);
    let arrived: Vec<String> = archive.stored().into_iter().skip(40).map(|s| s.instance).collect();
    assert_eq!(arrived.len(), 48);
    let last_new = arrived.iter().rposition(|id| new.contains(id)).unwrap();
    let replays_after = arrived[last_new..].iter().filter(|id| old.contains(*id)).count();
    assert!(replays_after >= 10, "new images waited behind replays: {replays_after} replays came after the last of them");
}
