//! Names that DNS moves, loses, lists: a real authoritative server (BIND 9) whose records change while the gateway delivers.

use harness::config::{QUICK, QUICK_HEALTH, mllp_listener, route};
use harness::dns::Dns;
use harness::mllp::{Client, Server};
use harness::pki::Authority;
use harness::{Gateway, World, synthetic, until, world};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

struct Flow {
    gateway: Gateway,
    client: Client,
    sent: Vec<String>,
}

/// A gateway with one HL7 destination `ris` with quick waits; `endpoints`: the lines of its endpoints.
fn flow(world: &World, names: &str, more: &str, endpoints: &[&str]) -> Flow {
    flow_with(world, names, &format!("{QUICK}health = {{ probe = \"tcp\", {QUICK_HEALTH} }}\n{more}"), endpoints)
}

/// The same; `keys`: those of the destination.
fn flow_with(world: &World, names: &str, keys: &str, endpoints: &[&str]) -> Flow {
    let port = world::port();
    let mut text = format!("{names}\n{}", mllp_listener("ris-in", port, ""));
    text += &format!("[[destination]]\nname = \"ris\"\nprotocol = \"mllp\"\n{keys}\n");
    for endpoint in endpoints {
        text += &format!("[[destination.endpoint]]\n{endpoint}\n");
    }
    text += &route("ris-in", &["ris"], "");
    let gateway = Gateway::start(world, "gateway", &text);
    let client = Client::connect(([127, 0, 0, 1], port).into()).unwrap();
    Flow { gateway, client, sent: Vec::new() }
}

impl Flow {
    fn send(&mut self, count: usize) {
        for _ in 0..count {
            let id = format!("N-{:05}", self.sent.len());
            let ack = self.client.send(&synthetic::small(&id)).unwrap();
            assert!(ack.code == "AA" && ack.id == id, "{ack:?}");
            self.sent.push(id);
        }
    }

    /// Sends until `server` gets something new.
    fn send_until_it_gets(&mut self, server: &Server) {
        let before = server.count();
        until("the traffic arrives there", 30, || {
            self.send(1);
            server.count() > before
        });
    }

    fn endpoint(&self, name: &str) -> serde_json::Value {
        let destination = self.gateway.destination("ris").unwrap_or_default();
        destination["endpoints"].as_array().and_then(|list| list.iter().find(|e| e["name"] == name).cloned()).unwrap_or_default()
    }

    fn endpoints(&self) -> Vec<String> {
        let destination = self.gateway.destination("ris").unwrap_or_default();
        destination["endpoints"]
            .as_array()
            .map(|list| list.iter().filter_map(|e| e["name"].as_str().map(str::to_owned)).collect())
            .unwrap_or_default()
    }

    fn failovers(&self, from: &str, to: &str) -> f64 {
        self.gateway.metric("everpost_failovers_total", &[("destination", "ris"), ("from", from), ("to", to)]).unwrap_or_default()
    }

    /// Everything arrived, each message once, in order; over several servers: in the order of the servers.
    fn arrived(&self, servers: &[&Server]) {
        self.gateway.drained("ris", 30);
        let ids: Vec<String> = servers.iter().flat_map(|server| server.ids()).collect();
        assert_eq!(ids, self.sent);
    }
}

fn at(last: u8, port: u16) -> SocketAddr {
    ([127, 0, 0, last], port).into()
}

/// Servers at 127.0.0.FIRST and the next ones, all on one port.
fn servers<const N: usize>(first: u8) -> (u16, [Server; N]) {
    let port = world::port();
    (port, std::array::from_fn(|n| Server::on(at(first + n as u8, port))))
}

/// A place that takes connections and does not answer: its queue is full, so further packets are dropped.
struct Full {
    listener: TcpListener,
    _fillers: Vec<TcpStream>,
}

fn full(address: SocketAddr) -> Full {
    let listener = TcpListener::bind(address).unwrap();
    // SAFETY: the descriptor is open; listening again only changes the length of the queue.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
    let mut fillers = Vec::new();
    until("the queue of connections is full", 20, || {
        let filler = TcpStream::connect_timeout(&address, Duration::from_millis(500));
        filler.map(|stream| fillers.push(stream)).is_err()
    });
    Full { listener, _fillers: fillers }
}

#[test]
fn a_record_that_moves_takes_the_traffic_along() {
    let world = World::new("names-move");
    let (port, [first, second]) = servers(2);
    let dns = Dns::start(&world, &["pacs 2 A 127.0.0.2"]);
    let mut t = flow(&world, &dns.names(""), "", &[&format!("name = \"primary\"\naddress = \"pacs.everpost.test:{port}\"")]);
    t.send(20);
    until("the first ones arrive at the first place", 20, || first.count() == 20);
    let endpoint = t.endpoint("primary");
    assert_eq!(endpoint["resolved"][0], format!("127.0.0.2:{port}"), "{endpoint}");
    assert_eq!((&endpoint["dns"]["name"], &endpoint["dns"]["ttl_seconds"]), (&"pacs.everpost.test".into(), &2.into()), "{endpoint}");
    assert!(t.gateway.metric("everpost_dns_age_seconds", &[("destination", "ris"), ("endpoint", "primary")]).is_some());
    dns.update(&["delete pacs A", "add pacs 2 A 127.0.0.3"]);
    t.send_until_it_gets(&second);
    t.send(20);
    t.arrived(&[&first, &second]);
    assert!(first.count() >= 20 && second.count() > 20);
    until("no connection to the old place is left", 20, || t.endpoint("primary")["connected"] == serde_json::json!([format!("127.0.0.3:{port}")]));
    until("nor there", 20, || first.open_connections() == 0);
    assert_eq!(t.failovers("primary", "none"), 0.0);
    t.gateway.says("stands for 127.0.0.3 (before: 127.0.0.2)", 10);
    let (_, out, _) = t.gateway.cli(&["status"]);
    assert!(out.contains(&format!("pacs.everpost.test = 127.0.0.3:{port}")), "{out}");
}

#[test]
fn a_failed_connect_has_the_name_looked_up_at_once() {
    let world = World::new("names-suspect");
    let (port, [mut first, second]) = servers(4);
    // Far longer than this test may take.
    let dns = Dns::start(&world, &["pacs 3600 A 127.0.0.4"]);
    let names = dns.names("max_ttl = \"1h\"");
    let mut t = flow(&world, &names, "", &[&format!("name = \"primary\"\naddress = \"pacs.everpost.test:{port}\"")]);
    t.send(5);
    until("the first ones arrive at the first place", 20, || first.count() == 5);
    t.gateway.drained("ris", 20);
    dns.update(&["delete pacs A", "add pacs 3600 A 127.0.0.5"]);
    first.shut();
    t.send(5);
    until("the next ones arrive at the second place", 30, || second.count() == 5);
    t.arrived(&[&first, &second]);
}

#[test]
fn traffic_goes_on_while_dns_is_away_or_has_lost_the_name() {
    let world = World::new("names-away");
    let (port, [mut server]) = servers(6);
    let mut dns = Dns::start(&world, &["pacs 1 A 127.0.0.6"]);
    let mut t = flow(&world, &dns.names(""), "", &[&format!("name = \"primary\"\naddress = \"pacs.everpost.test:{port}\"")]);
    t.send(5);
    until("the first ones arrive", 20, || server.count() == 5);
    let error = |t: &Flow| t.endpoint("primary")["dns"]["error"].as_str().unwrap_or_default().to_owned();
    // Each time with fresh connections, which need the address.
    let mut fresh = |t: &mut Flow| {
        let before = server.count();
        t.gateway.drained("ris", 20);
        server.shut();
        server.open();
        t.send(5);
        until("it goes on", 30, || server.count() == before + 5);
    };
    dns.update(&["delete pacs A"]);
    until("the name is gone", 20, || error(&t).contains("NXDOMAIN"));
    t.gateway.says("name pacs.everpost.test", 20);
    fresh(&mut t);
    dns.update(&["add pacs 1 A 127.0.0.6"]);
    until("it is back", 30, || t.endpoint("primary")["dns"]["error"].is_null());
    t.gateway.says("alarm ended", 20);
    dns.shut();
    let alarms = |t: &Flow| t.gateway.log().matches("alarm: it cannot be looked up").count();
    until("the server is away, and that is told", 60, || !error(&t).is_empty() && alarms(&t) == 2);
    fresh(&mut t);
    let endpoint = t.endpoint("primary");
    assert_eq!(endpoint["resolved"], serde_json::json!([format!("127.0.0.6:{port}")]), "{endpoint}");
    dns.open();
    until("the server is back", 60, || t.endpoint("primary")["dns"]["error"].is_null());
    t.arrived(&[&server]);
    assert_eq!(alarms(&t), 2, "one line for each outage");
}

#[test]
fn the_second_address_is_tried_beside_one_that_drops_packets() {
    let world = World::new("names-stagger");
    let port = world::port();
    let server = Server::on(at(7, port));
    // IPv6 goes first, so this is the one that is tried first.
    let dead = full(SocketAddr::new(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]), port));
    let dns = Dns::start(&world, &["pacs 60 A 127.0.0.7", "pacs 60 AAAA ::1"]);
    // The probe has as long as a connection: one that waited for the first address alone would be late.
    let keys = "connect_timeout = \"10s\"\nattempts_before_failover = 1\nhealth = { probe = \"tcp\", interval = \"1s\", timeout = \"10s\" }";
    let mut t = flow_with(&world, &dns.names(""), keys, &[&format!("name = \"primary\"\naddress = \"pacs.everpost.test:{port}\"")]);
    t.send(20);
    until("they arrive at the second address", 30, || server.count() == 20);
    t.arrived(&[&server]);
    let delivered = t.gateway.queue("ris", "delivered");
    assert!(delivered.iter().all(|e| e["attempts"] == 1), "no attempt failed: {delivered:?}");
    assert_eq!(t.failovers("primary", "none"), 0.0);
    drop(dead.listener);
}

#[test]
fn a_name_with_ipv6_only_works() {
    let world = World::new("names-ipv6");
    let port = world::port();
    let server = Server::on(SocketAddr::new(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]), port));
    let dns = Dns::start(&world, &["pacs 60 AAAA ::1", "alias 60 CNAME pacs"]);
    let mut t = flow(&world, &dns.names(""), "", &[&format!("name = \"primary\"\naddress = \"alias.everpost.test:{port}\"")]);
    t.send(5);
    t.arrived(&[&server]);
    assert_eq!(t.endpoint("primary")["connected"], serde_json::json!([format!("[::1]:{port}")]));
}

#[test]
fn srv_priorities_are_the_order_and_their_change_is_acted_upon() {
    let world = World::new("names-srv");
    let (port, [mut a, b]) = servers(8);
    let record = |priority: u16, host: &str| format!("_hl7._tcp 1 SRV {priority} 5 {port} {host}.everpost.test.");
    let (first, second) = (record(10, "a"), record(20, "b"));
    let dns = Dns::start(&world, &["a 60 A 127.0.0.8", "b 60 A 127.0.0.9", &first, &second]);
    let mut t = flow(&world, &dns.names(""), "", &["name = \"pool\"\nsrv = \"_hl7._tcp.everpost.test\""]);
    let (at_a, at_b) = (format!("pool@a.everpost.test:{port}"), format!("pool@b.everpost.test:{port}"));
    t.send(10);
    until("they arrive at the first", 20, || a.count() == 10);
    assert_eq!(t.endpoints(), [at_a.clone(), at_b.clone()]);
    t.gateway.drained("ris", 20);
    dns.update(&["delete _hl7._tcp SRV", &format!("add {}", record(30, "a")), &format!("add {second}")]);
    t.gateway.becomes_active("ris", &at_b, 20);
    assert_eq!(t.endpoints(), [at_b.clone(), at_a.clone()]);
    t.send(10);
    until("they arrive at the second", 20, || b.count() == 10);
    t.arrived(&[&a, &b]);
    // Failover goes along the records too.
    dns.update(&["delete _hl7._tcp SRV", &format!("add {first}"), &format!("add {second}")]);
    t.gateway.becomes_active("ris", &at_a, 20);
    a.shut();
    t.send(5);
    until("the other one takes over", 20, || b.count() == 15);
}

#[test]
fn each_address_of_a_pool_takes_its_share_and_members_come_and_go() {
    let world = World::new("names-each");
    let (port, [one, two, three]) = servers(10);
    let dns = Dns::start(&world, &["pool 1 A 127.0.0.10", "pool 1 A 127.0.0.11"]);
    let more = "policy = \"round-robin\"\nordering = \"none\"";
    let mut t = flow(&world, &dns.names(""), more, &[&format!("name = \"pool\"\naddress = \"pool.everpost.test:{port}\"\naddresses = \"each\"")]);
    until("both are members", 20, || t.endpoints() == ["pool@127.0.0.10", "pool@127.0.0.11"]);
    t.send(20);
    until("both get their share", 20, || one.count() + two.count() == 20);
    assert!(one.count() >= 5 && two.count() >= 5, "{} and {}", one.count(), two.count());
    dns.update(&["add pool 1 A 127.0.0.12"]);
    t.send_until_it_gets(&three);
    let before = two.connections();
    dns.update(&["delete pool A 127.0.0.10"]);
    until("one has left", 20, || t.endpoints() == ["pool@127.0.0.11", "pool@127.0.0.12"]);
    t.gateway.drained("ris", 20);
    until("its connections are closed", 20, || one.open_connections() == 0);
    let left = one.count();
    t.send(20);
    t.gateway.drained("ris", 20);
    assert_eq!(one.count(), left);
    assert!(before > 0 && two.count() + three.count() + left == t.sent.len());
    let mut all: Vec<String> = [one.ids(), two.ids(), three.ids()].concat();
    all.sort();
    assert_eq!(all, t.sent, "each message once");
    assert_eq!(t.gateway.metric("everpost_endpoint_up", &[("destination", "ris"), ("endpoint", "pool@127.0.0.12")]), Some(1.0));
}

#[test]
fn dns_is_asked_over_tcp_and_tls_too() {
    let world = World::new("names-transports");
    let (port, [server]) = servers(13);
    let authority = Authority::new(&world, "ca");
    let identity = authority.issue(&world, "dns", "dns.everpost.test");
    let dns = Dns::with_tls(&world, &["pacs 60 A 127.0.0.13"], Some(&identity));
    let ca = format!("ca = \"{}\"", authority.ca.display());
    let endpoint = format!("name = \"primary\"\naddress = \"pacs.everpost.test:{port}\"");
    let tls = format!("tls://{}#dns.everpost.test", dns.tls_address());
    for (server_text, more) in [(format!("tcp://{}", dns.address()), ""), (tls, ca.as_str())] {
        let names = format!("[names]\nservers = [\"{server_text}\"]\n{more}\n");
        let before = server.count();
        let mut t = flow(&world, &names, "", &[&endpoint]);
        t.send(3);
        until("they arrive", 30, || server.count() == before + 3);
        t.gateway.drained("ris", 20);
        assert_eq!(t.endpoint("primary")["dns"]["error"], serde_json::Value::Null, "{server_text}");
        t.gateway.terminate();
    }
    // Another name than the certificate's: nothing is believed, and the text says so.
    let names = format!("[names]\nservers = [\"tls://{}#other.everpost.test\"]\n{ca}\n", dns.tls_address());
    let t = flow(&world, &names, "", &[&endpoint]);
    until("the look-up fails", 30, || !t.endpoint("primary")["dns"]["error"].is_null());
    assert_eq!(t.endpoint("primary")["resolved"], serde_json::json!([]));
}
