//! Memory does not grow with the size of an object, the number of senders, or the length of an outage. `OUTAGE=full`: 200,000 messages and 20 GB.

use harness::config::{dicom_destination, dicom_listener, mllp_destination, mllp_listener, route};
use harness::dicom::{self, EXPLICIT};
use harness::load::in_order;
use harness::mllp::{Client, Server};
use harness::synthetic::{self, DataSet, instance};
use harness::{Gateway, World, dicom_scp, sha256, until, world};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

const MIB: u64 = 1 << 20;

#[test]
fn a_large_object_and_64_senders_stay_below_100_mb() {
    let size = usize::try_from(world::setting("LARGE_MB", 1_200)).unwrap_or(1_200) * 1_000_000;
    let world = World::new("bounds-memory");
    let port = world::port();
    let scp = dicom_scp::Scp::start();
    let text = "[spool]\nreserve = \"64 MiB\"\n".to_owned()
        + &dicom_listener("modalities", port, "")
        + &dicom_destination("pacs", "ack_timeout = \"60s\"", &[("scp", scp.address())])
        + &route("modalities", &["pacs"], "");
    let mut gateway = Gateway::start(&world, "gateway", &text);
    gateway.process().forget_peak();
    let id = instance(120, 1);
    let head = synthetic::image_head(DataSet::explicit(), dicom::CT, &id, "P1", "1.2.3", 512, 512);
    let head = head.with(0x7fe0, 0x0010, "OW", &[], Some(u32::try_from(size).unwrap())).bytes();
    let mut association = dicom::Association::open(loopback(port), "EVERPOST", "TEST", &dicom::propose(dicom::CT, EXPLICIT)).unwrap();
    let (status, sha) = association.store_large(dicom::CT, &id, &head, size).unwrap();
    assert_eq!(status, 0);
    association.release().unwrap();
    gateway.drained("pacs", 180);
    assert_eq!(scp.stored()[0].sha256, sha);
    let peak = gateway.process().memory("VmHWM");
    println!("one object of {} MB: peak {} MiB", size / 1_000_000, peak / MIB);
    assert!(peak < 100 * MIB, "{} MiB for one object of {} MB", peak / MIB, size / 1_000_000);

    gateway.process().forget_peak();
    let set = synthetic::ct("1.2.3", 5, 500_000);
    std::thread::scope(|scope| {
        for n in 0..64 {
            let set = &set;
            scope.spawn(move || {
                let mut association =
                    dicom::Association::open(loopback(port), "EVERPOST", "TEST", &dicom::propose(dicom::CT, EXPLICIT)).expect("one of 64");
                for m in 0..4 {
                    assert_eq!(association.store(dicom::CT, &instance(121 + n, m), set).expect("an answer"), 0);
                }
                association.release().expect("a release");
            });
        }
    });
    gateway.drained("pacs", 180);
    let peak = gateway.process().memory("VmHWM");
    println!("64 senders at once: peak {} MiB", peak / MIB);
    assert!(peak < 100 * MIB, "{} MiB with 64 senders at once", peak / MIB);
    assert_eq!(scp.count(), 1 + 64 * 4);
    let digest = sha256(&set);
    assert!(scp.stored()[1..].iter().all(|s| s.sha256 == digest));
}

#[test]
fn a_long_outage_costs_disk_only() {
    let full = std::env::var("OUTAGE").is_ok_and(|v| v == "full");
    let (messages, images, pixels) = if full { (200_000, 40_000, 500_000) } else { (10_000, 400, 500_000) };
    let world = World::new("bounds-outage");
    let (hl7, dicom_port) = (world::port(), world::port());
    let (mut primary, mut secondary) = (Server::start(), Server::start());
    let mut scp = dicom_scp::Scp::start();
    primary.shut();
    secondary.shut();
    scp.shut();
    let text = mllp_listener("ris-in", hl7, "")
        + &dicom_listener("modalities", dicom_port, "")
        + &mllp_destination("ris", "", &[("primary", primary.address()), ("secondary", secondary.address())])
        + &dicom_destination("pacs", "", &[("scp", scp.address())])
        + &route("ris-in", &["ris"], "")
        + &route("modalities", &["pacs"], "");
    let mut gateway = Gateway::start(&world, "gateway", &text);
    let half = |gateway: &mut Gateway, part: usize| {
        let began = Instant::now();
        std::thread::scope(|scope| {
            for sender in 0..16 {
                scope.spawn(move || {
                    let mut client = Client::connect(loopback(hl7)).expect("a connection");
                    for n in 0..messages / 32 {
                        let id = format!("O{sender:02}-{part}{n:06}");
                        let ack = client.send(&synthetic::oru(&id, sender, 2_000, synthetic::CHARSETS[sender % 5])).expect("an answer");
                        assert!(ack.positive() && ack.id == id);
                    }
                });
            }
        });
        let rate = messages as f64 / 2.0 / began.elapsed().as_secs_f64();
        let set = synthetic::ct("1.2.3", 6, pixels);
        std::thread::scope(|scope| {
            for sender in 0..4_u64 {
                let set = &set;
                scope.spawn(move || {
                    let mut association = dicom::Association::open(loopback(dicom_port), "EVERPOST", "TEST", &dicom::propose(dicom::CT, EXPLICIT))
                        .expect("an association");
                    for n in 0..images / 8 {
                        let id = instance(130 + sender, part as u64 * 1_000_000 + n);
                        assert_eq!(association.store(dicom::CT, &id, set).expect("an answer"), 0);
                    }
                    association.release().expect("a release");
                });
            }
        });
        let peak = gateway.process().memory("VmHWM");
        println!("part {part}: {rate:.0} messages/s, peak {} MiB", peak / MIB);
        assert!(peak < 150 * MIB, "{} MiB", peak / MIB);
        rate
    };
    let first = half(&mut gateway, 0);
    gateway.kill();
    let took = gateway.up();
    println!("ready after {took:?}");
    let second = half(&mut gateway, 1);
    assert!(second > first * 0.4, "intake slowed down with the backlog: {first:.0}/s, then {second:.0}/s");
    assert_eq!(gateway.waiting("ris"), i64::try_from(messages / 32 * 32).unwrap());
    secondary.open();
    scp.open();
    gateway.drained("ris", 600);
    gateway.drained("pacs", 600);
    let ids = secondary.ids();
    assert_eq!(ids.len(), messages / 32 * 32, "each once");
    in_order(&ids);
    let stored: BTreeMap<_, _> = scp.stored().into_iter().map(|s| (s.instance, s.sha256)).collect();
    assert_eq!(stored.len() as u64, images / 8 * 8);
    let digest = sha256(&synthetic::ct("1.2.3", 6, pixels));
    assert!(stored.values().all(|sha| *sha == digest));
    let peak = gateway.process().memory("VmHWM");
    assert!(peak < 150 * MIB, "{} MiB while draining", peak / MIB);
}

#[test]
fn an_idle_gateway_is_small_and_starts_fast() {
    let world = World::new("bounds-idle");
    let port = world::port();
    let sink = Server::start();
    let text = mllp_listener("ris-in", port, "") + &mllp_destination("ris", "", &[("sink", sink.address())]) + &route("ris-in", &["ris"], "");
    let mut gateway = Gateway::start(&world, "gateway", &text);
    until("the resident memory is below 30 MiB", 20, || gateway.process().memory("VmRSS") < 30 * MIB);
}
