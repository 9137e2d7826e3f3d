//! Names of DICOM endpoints that DNS moves or lists anew, with a real authoritative server (BIND 9): associations end with the object in flight, and
//! SRV priorities are the order.

use harness::config::{QUICK, QUICK_HEALTH, dicom_listener, route};
use harness::dicom::{self, EXPLICIT};
use harness::dicom_scp::{Answer, Scp};
use harness::dns::Dns;
use harness::synthetic::{ct, instance};
use harness::{Gateway, World, sha256, until, world};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

fn at(last: u8, port: u16) -> SocketAddr {
    ([127, 0, 0, last], port).into()
}

struct Flow {
    gateway: Gateway,
    at: SocketAddr,
    series: u64,
    sent: BTreeMap<String, String>,
}

/// A gateway with one DICOM destination `pacs` with quick waits; `endpoint`: the lines of its endpoint.
fn flow(world: &World, names: &str, more: &str, endpoint: &str, series: u64) -> Flow {
    let port = world::port();
    let health = format!("health = {{ probe = \"dicom-echo\", {QUICK_HEALTH} }}");
    let text = format!("{names}\n{}", dicom_listener("modalities", port, ""))
        + &format!("[[destination]]\nname = \"pacs\"\nprotocol = \"dicom\"\n{QUICK}{health}\n{more}\n")
        + &format!("[[destination.endpoint]]\n{endpoint}\nae_title = \"PACS\"\n")
        + &route("modalities", &["pacs"], "");
    Flow { gateway: Gateway::start(world, "gateway", &text), at: ([127, 0, 0, 1], port).into(), series, sent: BTreeMap::new() }
}

impl Flow {
    fn store(&mut self, count: usize) {
        let mut association = dicom::Association::open(self.at, "EVERPOST", "TEST", &dicom::propose(dicom::CT, EXPLICIT)).unwrap();
        for _ in 0..count {
            let n = self.sent.len() as u64;
            let id = instance(self.series, n);
            let set = ct(&id, n, 20_000);
            assert_eq!(association.store(dicom::CT, &id, &set).unwrap(), 0);
            self.sent.insert(id, sha256(&set));
        }
        association.release().unwrap();
    }

    /// Stores until `scp` gets something new.
    fn store_until_it_gets(&mut self, scp: &Scp) {
        let before = scp.count();
        until("the traffic arrives there", 30, || {
            self.store(1);
            scp.count() > before
        });
    }

    /// Everything arrived somewhere, each object once.
    fn arrived(&self, scps: &[&Scp]) {
        self.gateway.drained("pacs", 30);
        let stored: Vec<_> = scps.iter().flat_map(|scp| scp.stored()).collect();
        assert_eq!(stored.len(), self.sent.len());
        let arrived: BTreeMap<String, String> = stored.into_iter().map(|s| (s.instance, s.sha256)).collect();
        assert_eq!(arrived, self.sent);
    }

    fn endpoints(&self) -> Vec<String> {
        let destination = self.gateway.destination("pacs").unwrap_or_default();
        let list = destination["endpoints"].as_array().cloned().unwrap_or_default();
        list.iter().filter_map(|e| e["name"].as_str().map(str::to_owned)).collect()
    }
}

#[test]
fn associations_end_with_the_object_in_flight_when_the_record_moves() {
    let world = World::new("names-dicom-move");
    let port = world::port();
    let (first, second) = (Scp::on(at(14, port)), Scp::on(at(15, port)));
    first.script(|_| Answer::Late(Duration::from_millis(50), 0));
    let dns = Dns::start(&world, &["pacs 5 A 127.0.0.14"]);
    let endpoint = format!("name = \"primary\"\naddress = \"pacs.everpost.test:{port}\"");
    let mut t = flow(&world, &dns.names(""), "associations = 3\nidle_release = \"5m\"", &endpoint, 310);
    t.store(12);
    until("they arrive at the first place", 30, || first.count() == 12);
    t.store(12);
    dns.update(&["delete pacs A", "add pacs 5 A 127.0.0.15"]);
    t.store_until_it_gets(&second);
    until("no association to the old place is left", 30, || first.open_connections() == 0);
    let left = first.count();
    t.store(10);
    t.arrived(&[&first, &second]);
    assert_eq!(first.count(), left, "nothing goes to the old place any more");
    let moves = t.gateway.metric("everpost_failovers_total", &[("destination", "pacs"), ("from", "primary")]);
    assert_eq!(moves.unwrap_or_default(), 0.0, "it is one endpoint all the time");
    assert_eq!(t.gateway.metric("everpost_ambiguous_total", &[("destination", "pacs")]).unwrap_or_default(), 0.0, "no object was cut off");
}

#[test]
fn srv_priorities_are_the_order_of_a_pacs_too() {
    let world = World::new("names-dicom-srv");
    let port = world::port();
    let (mut a, b) = (Scp::on(at(16, port)), Scp::on(at(17, port)));
    let record = |priority: u16, host: &str| format!("_dicom._tcp 1 SRV {priority} 5 {port} {host}.everpost.test.");
    let (first, second) = (record(10, "a"), record(20, "b"));
    let dns = Dns::start(&world, &["a 60 A 127.0.0.16", "b 60 A 127.0.0.17", &first, &second]);
    let mut t = flow(&world, &dns.names(""), "policy = \"round-robin\"", "name = \"pool\"\nsrv = \"_dicom._tcp.everpost.test\"", 311);
    let (at_a, at_b) = (format!("pool@a.everpost.test:{port}"), format!("pool@b.everpost.test:{port}"));
    t.gateway.becomes_active("pacs", &at_a, 30);
    t.store(10);
    until("they arrive at the better priority", 30, || a.count() == 10);
    assert_eq!((t.endpoints(), b.count()), (vec![at_a.clone(), at_b.clone()], 0));
    t.gateway.drained("pacs", 20);
    dns.update(&["delete _dicom._tcp SRV", &format!("add {}", record(30, "a")), &format!("add {second}")]);
    t.gateway.becomes_active("pacs", &at_b, 30);
    t.store(10);
    until("they arrive at the one that is better now", 30, || b.count() == 10);
    // The worse one takes over while the better one is away; equal ones share.
    dns.update(&["delete _dicom._tcp SRV", &format!("add {first}"), &format!("add {second}")]);
    t.gateway.becomes_active("pacs", &at_a, 30);
    t.gateway.drained("pacs", 20);
    a.shut();
    t.store(5);
    until("the worse priority takes over", 30, || b.count() == 15);
    a.open();
    t.gateway.becomes_active("pacs", &at_a, 60);
    dns.update(&["delete _dicom._tcp SRV", &format!("add {}", record(10, "a")), &format!("add {}", record(10, "b"))]);
    until("both take turns", 30, || t.gateway.active("pacs").len() == 2);
    let before = (a.count(), b.count());
    t.store(20);
    t.arrived(&[&a, &b]);
    assert!(a.count() - before.0 >= 5 && b.count() - before.1 >= 5, "{} and {}", a.count() - before.0, b.count() - before.1);
}
