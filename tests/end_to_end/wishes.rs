//! What an operator wishes of endpoints and sites, with a gateway as a process: shifts through `kill -9`, their end, their suspension, drains, the
//! failback window, sites that move together. Rules: where messages went is asked of the receivers; what stands is asked of `status`.

use harness::config::{mllp_destination, mllp_listener, route};
use harness::mllp::{Client, Server};
use harness::world::{self, stays};
use harness::{Gateway, World, synthetic, until};
use serde_json::Value;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

struct Pair {
    gateway: Gateway,
    port: u16,
    primary: Server,
    secondary: Server,
    sent: usize,
}

impl Pair {
    fn new(world: &World, more: &str) -> Self {
        let (primary, secondary, port) = (Server::start(), Server::start(), world::port());
        let endpoints = [("primary", primary.address()), ("secondary", secondary.address())];
        let text = mllp_listener("ris-in", port, "") + &mllp_destination("ris", more, &endpoints) + &route("ris-in", &["ris"], "");
        Self { gateway: Gateway::start(world, "gateway", &text), port, primary, secondary, sent: 0 }
    }

    /// Sends some messages, and waits until they are delivered. Gives how many of them primary and secondary got. (What a crash repeats is not counted.)
    #[track_caller]
    fn send(&mut self, count: usize) -> (usize, usize) {
        let mut batch = Vec::new();
        let mut client = Client::connect(loopback(self.port)).unwrap();
        for _ in 0..count {
            self.sent += 1;
            let id = format!("M-{:05}", self.sent);
            let ack = client.send(&synthetic::small(&id)).unwrap();
            assert!(ack.code == "AA" && ack.id == id, "{ack:?}");
            batch.push(id);
        }
        self.gateway.drained("ris", 30);
        let got = |server: &Server| {
            let ids = server.ids();
            batch.iter().filter(|id| ids.contains(id)).count()
        };
        (got(&self.primary), got(&self.secondary))
    }

    #[track_caller]
    fn cli(&self, line: &str) -> (i32, String) {
        let arguments: Vec<&str> = line.split(' ').collect();
        let (status, out, err) = self.gateway.cli(&arguments);
        (status.code().unwrap_or(-1), out + &err)
    }

    #[track_caller]
    fn done(&self, line: &str) -> String {
        let (code, text) = self.cli(line);
        assert_eq!(code, 0, "{line}: {text}");
        text
    }

    fn shift(&self) -> Value {
        self.gateway.destination("ris").map(|d| d["shift"].clone()).unwrap_or_default()
    }

    fn admin(&self, endpoint: &str) -> String {
        let ris = self.gateway.destination("ris").unwrap_or_default();
        let row = ris["endpoints"].as_array().into_iter().flatten().find(|e| e["name"] == endpoint).cloned().unwrap_or_default();
        row["admin"].as_str().unwrap_or_default().to_owned()
    }

    fn all_arrived(&self) {
        let mut ids: Vec<String> = self.primary.ids().into_iter().chain(self.secondary.ids()).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), self.sent);
    }
}

#[test]
fn a_shift_stands_through_a_crash_until_it_is_ended() {
    let world = World::new("wishes-shift");
    let mut t = Pair::new(&world, "");
    assert_eq!(t.send(5), (5, 0));
    let text = t.done("endpoint shift ris secondary --reason maintenance --dry-run");
    assert!(text.contains("would be shifted from primary to secondary"), "{text}");
    assert_eq!((t.shift(), t.send(5)), (Value::Null, (5, 0)), "a dry run changes nothing");
    t.done("endpoint shift ris secondary --reason maintenance");
    assert_eq!(t.send(5), (0, 5));
    let shift = t.shift();
    assert_eq!((&shift["to"], &shift["reason"], &shift["suspended"]), (&"secondary".into(), &"maintenance".into(), &false.into()));
    assert!(shift["by"].as_str().is_some_and(|by| by.contains("uid")) && shift["until"].as_str().is_some_and(|t| t.contains('T')), "{shift}");
    let (code, text) = t.cli("endpoint shift ris primary --reason again");
    assert!(code == 1 && text.contains("unshift"), "one at a time: {code} {text}");
    let (code, text) = t.cli("status");
    assert!(code == 3 && text.contains("shifted to secondary by"), "{code} {text}");
    for _ in 0..2 {
        t.gateway.kill();
        t.gateway.up();
        assert_eq!((t.gateway.active("ris"), t.send(5)), (vec!["secondary".to_owned()], (0, 5)), "after kill -9");
    }
    t.gateway.process().signal(libc::SIGHUP);
    t.gateway.says("reloaded", 20);
    assert_eq!(t.send(5), (0, 5), "after a reload");
    let text = t.done("endpoint unshift ris");
    assert!(text.contains("secondary"), "{text}");
    assert_eq!((t.send(5), t.shift()), ((5, 0), Value::Null));
    assert_eq!(t.cli("endpoint unshift ris").0, 1, "there is none");
    t.gateway.kill();
    t.gateway.up();
    assert_eq!((t.send(5), t.shift()), ((5, 0), Value::Null), "its end survives too");
    t.all_arrived();
}

#[test]
fn a_shift_ends_by_its_time_while_the_gateway_runs_and_while_it_does_not() {
    let world = World::new("wishes-expiry");
    let mut t = Pair::new(&world, "");
    t.done("endpoint shift ris secondary --reason short --for 3s");
    assert_eq!(t.send(3), (0, 3));
    t.gateway.becomes_active("ris", "primary", 30);
    t.gateway.says("its time is over", 20);
    assert_eq!((t.shift(), t.send(3)), (Value::Null, (3, 0)));
    t.done("endpoint shift ris secondary --reason short --for 2s");
    t.gateway.kill();
    let end = Instant::now() + Duration::from_secs(3);
    until("its time is over", 20, || Instant::now() > end);
    t.gateway.up();
    t.gateway.becomes_active("ris", "primary", 30);
    until("nothing of it stands", 20, || t.shift().is_null());
    assert_eq!(t.send(3), (3, 0));
    t.all_arrived();
}

#[test]
fn a_target_that_fails_is_left_and_returned_to_while_the_shift_stands() {
    let world = World::new("wishes-suspended");
    let mut t = Pair::new(&world, "");
    t.done("endpoint shift ris secondary --reason maintenance");
    assert_eq!(t.send(3), (0, 3));
    t.secondary.shut();
    assert_eq!(t.send(3), (3, 0), "a shift is no chain");
    until("the shift is suspended", 20, || t.shift()["suspended"] == true);
    t.gateway.says("shift suspended", 20);
    t.gateway.kill();
    t.gateway.up();
    assert_eq!(t.send(3), (3, 0));
    t.secondary.open();
    t.gateway.becomes_active("ris", "secondary", 40);
    until("the shift stands again", 20, || t.shift()["suspended"] == false);
    assert_eq!(t.send(3), (0, 3));
    t.secondary.shut();
    until("it is down", 30, || t.gateway.active("ris") == ["primary"]);
    t.done("endpoint unshift ris");
    let (code, text) = t.cli("endpoint shift ris secondary --reason again");
    assert!(code == 1 && text.contains("--force"), "refused to an unhealthy target: {code} {text}");
    t.done("endpoint shift ris secondary --reason again --force");
    assert_eq!(t.send(3), (3, 0), "one envelope was tried there, the rest did not wait");
    t.all_arrived();
}

#[test]
fn drained_and_disabled_endpoints_get_nothing_through_restarts() {
    let world = World::new("wishes-drain");
    let mut t = Pair::new(&world, "");
    t.done("endpoint drain ris primary");
    assert_eq!((t.send(3), t.admin("primary")), ((0, 3), "draining".to_owned()));
    t.gateway.kill();
    t.gateway.up();
    assert_eq!((t.send(3), t.admin("primary")), ((0, 3), "draining".to_owned()));
    let (code, text) = t.cli("endpoint disable ris secondary");
    assert!(code == 1 && text.contains("last enabled endpoint"), "{code} {text}");
    t.done("endpoint disable ris secondary --force");
    let mut client = Client::connect(loopback(t.port)).unwrap();
    t.sent += 1;
    assert_eq!(client.send(&synthetic::small(&format!("M-{:05}", t.sent))).unwrap().code, "AA");
    assert!(stays(1_000, || t.gateway.waiting("ris") == 1), "nothing may be delivered");
    t.done("endpoint enable ris secondary");
    t.gateway.drained("ris", 20);
    assert_eq!(t.primary.count(), 0);
    assert!(t.secondary.ids().contains(&format!("M-{:05}", t.sent)));
    t.done("endpoint enable ris primary");
    assert_eq!((t.send(3), t.admin("primary")), ((3, 0), "enabled".to_owned()));
    assert!(t.done("endpoint probe ris primary").contains("good"));
    t.secondary.shut();
    let (code, text) = t.cli("endpoint probe ris secondary");
    assert!(code == 5 && text.contains("connect"), "{code} {text}");
    assert_eq!(t.cli("endpoint probe ris tertiary").0, 1);
    assert_eq!(t.cli("endpoint drain pacs primary").0, 1);
    t.all_arrived();
}

#[test]
fn outside_the_window_only_people_return() {
    let world = World::new("wishes-window");
    let hour: u32 = String::from_utf8(std::process::Command::new("date").arg("+%H").output().unwrap().stdout).unwrap().trim().parse().unwrap();
    let mut t = Pair::new(&world, &format!("failback_window = \"{:02}:00-{:02}:00\"", (hour + 3) % 24, (hour + 5) % 24));
    t.primary.shut();
    assert_eq!(t.send(3), (0, 3));
    t.primary.open();
    until("the primary is up again", 20, || t.gateway.destination("ris").is_some_and(|d| d["endpoints"][0]["health"] == "up"));
    assert!(stays(3_000, || t.gateway.active("ris") == ["secondary"]), "it returned outside its window");
    let reason = t.gateway.destination("ris").map(|d| d["reason"].to_string()).unwrap_or_default();
    assert!(reason.contains("failback_window"), "{reason}");
    t.done("destination failback ris");
    t.gateway.becomes_active("ris", "primary", 20);
    assert_eq!(t.send(3), (3, 0));
}

/// Two destinations with an endpoint in the north and one in the south each; `lab` follows `ris`.
fn two_sites(world: &World, more: &str) -> (Gateway, u16, [Server; 4]) {
    let servers = [Server::start(), Server::start(), Server::start(), Server::start()];
    let port = world::port();
    let pair = |name: &str, at: usize| {
        let text = mllp_destination(name, "", &[("north", servers[at].address()), ("south", servers[at + 1].address())]);
        text.replace("name = \"north\"", "name = \"north\"\nsite = \"north\"").replace("name = \"south\"", "name = \"south\"\nsite = \"south\"")
    };
    let text = mllp_listener("in", port, "") + &pair("ris", 0) + &pair("lab", 2) + &route("in", &["ris", "lab"], "") + more;
    let sites = "[[site]]\nname = \"north\"\ntriggers = [\"ris\"]\nfollowers = [\"lab\"]\n[[site]]\nname = \"south\"\n";
    (Gateway::start(world, "gateway", &(text + sites)), port, servers)
}

#[track_caller]
fn both(gateway: &Gateway, endpoint: &str, seconds: u64) {
    gateway.becomes_active("ris", endpoint, seconds);
    gateway.becomes_active("lab", endpoint, seconds);
}

#[test]
fn a_site_is_left_together_and_returned_to_together() {
    let world = World::new("wishes-site");
    let (mut gateway, port, mut servers) = two_sites(&world, "");
    both(&gateway, "north", 20);
    servers[0].shut();
    let mut client = Client::connect(loopback(port)).unwrap();
    assert_eq!(client.send(&synthetic::small("A")).unwrap().code, "AA");
    both(&gateway, "south", 30);
    gateway.says("ris left site north", 20);
    assert_eq!(client.send(&synthetic::small("B")).unwrap().code, "AA");
    until("b arrived in the south", 20, || servers[1].ids().contains(&"B".to_owned()) && servers[3].ids().contains(&"B".to_owned()));
    gateway.kill();
    gateway.up();
    both(&gateway, "south", 30);
    // One that cannot follow stays, and says so.
    servers[0].open();
    both(&gateway, "north", 40);
    servers[3].shut();
    until("the lab's south is down", 30, || gateway.destination("lab").is_some_and(|d| d["endpoints"][1]["health"] == "down"));
    servers[0].shut();
    gateway.becomes_active("ris", "south", 30);
    gateway.says("lab stays", 30);
    assert_eq!(gateway.active("lab"), ["north"]);
    let reason = gateway.destination("lab").map(|d| d["reason"].to_string()).unwrap_or_default();
    assert!(reason.contains("it stays"), "{reason}");
    servers[3].open();
    both(&gateway, "south", 40);
    servers[0].open();
    both(&gateway, "north", 40);
}

#[test]
fn a_site_is_shifted_all_or_nothing() {
    let world = World::new("wishes-site-shift");
    let (mut gateway, _, mut servers) = two_sites(&world, "");
    both(&gateway, "north", 20);
    let run = |gateway: &Gateway, line: &str| {
        let (status, out, err) = gateway.cli(&line.split(' ').collect::<Vec<_>>());
        (status.code().unwrap_or(-1), out + &err)
    };
    let (code, text) = run(&gateway, "site shift north --reason power --dry-run");
    assert!(code == 0 && text.contains("ris: would be shifted from north to south") && text.contains("lab: would"), "{code} {text}");
    servers[3].shut();
    until("the lab's south is down", 30, || gateway.destination("lab").is_some_and(|d| d["endpoints"][1]["health"] == "down"));
    let (code, text) = run(&gateway, "site shift north --to north --reason power");
    assert!(code == 1 && text.contains("no other endpoint at north"), "that is no move away from it: {code}: {text}");
    let (code, text) = run(&gateway, "site shift north --reason power");
    assert!(code == 1 && text.contains("destination lab"), "{code} {text}");
    assert!(gateway.destination("ris").is_some_and(|d| d["shift"].is_null()), "all or nothing");
    servers[3].open();
    until("the lab's south is up", 30, || gateway.destination("lab").is_some_and(|d| d["endpoints"][1]["health"] == "up"));
    let (code, text) = run(&gateway, "site shift north --to south --reason power");
    assert_eq!(code, 0, "{text}");
    both(&gateway, "south", 20);
    gateway.kill();
    gateway.up();
    both(&gateway, "south", 20);
    let (code, text) = run(&gateway, "site unshift north");
    assert!(code == 0 && text.contains("ris, lab"), "{code} {text}");
    both(&gateway, "north", 20);
    assert_eq!(run(&gateway, "site unshift north").0, 1);
    assert_eq!(run(&gateway, "site shift west --reason power").0, 1);
}
