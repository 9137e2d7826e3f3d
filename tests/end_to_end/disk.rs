//! Disks that fill up: a gateway at its reserve refuses and resumes by itself; a chain of two waits for the second one; nothing becomes a dead letter.

use harness::config::{dicom_destination, dicom_listener, mllp_destination, mllp_listener, route};
use harness::dicom::{self, EXPLICIT};
use harness::load::{Load, in_order, nothing_lost};
use harness::loopfs::LoopFs;
use harness::mllp::{Client, Server, field};
use harness::synthetic::{self, ct, instance};
use harness::world::{self, stays};
use harness::{Gateway, World, dicom_scp, sha256, until};
use std::collections::BTreeMap;
use std::net::SocketAddr;

fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

const SMALL_SPOOL: &str = "[spool]\nreserve = \"16 MiB\"\nsegment_size = \"4 MiB\"\nhistory = \"1m\"\n";

struct Small {
    gateway: Gateway,
    hl7: SocketAddr,
    images: SocketAddr,
}

/// A gateway whose spool stands on a small file system.
fn small(world: &World, disk: &LoopFs, sink: SocketAddr, scp: SocketAddr) -> Small {
    let (hl7, images) = (world::port(), world::port());
    let text = SMALL_SPOOL.to_owned()
        + &mllp_listener("ris-in", hl7, "")
        + &dicom_listener("modalities", images, "")
        + &mllp_destination("ris", "", &[("sink", sink)])
        + &dicom_destination("pacs", "", &[("scp", scp)])
        + &route("ris-in", &["ris"], "")
        + &route("modalities", &["pacs"], "");
    let mut gateway = Gateway::at(world, "gateway", &disk.path().join("data"), &text);
    gateway.up();
    Small { gateway, hl7: loopback(hl7), images: loopback(images) }
}

fn store(at: SocketAddr, series: u64, number: u64, size: usize) -> (String, String, u16) {
    let id = instance(series, number);
    let set = ct(&id, number, size);
    let mut association = dicom::Association::open(at, "EVERPOST", "TEST", &dicom::propose(dicom::CT, EXPLICIT)).expect("an association");
    let status = association.store(dicom::CT, &id, &set).expect("an answer, not a broken association");
    let _ = association.release();
    (id, sha256(&set), status)
}

#[test]
fn a_64_mb_file_system_filled_by_its_own_backlog_refuses_then_resumes() {
    let world = World::new("disk-64");
    let Some(disk) = LoopFs::mount(&world, "ext4", 64) else { return };
    let (mut sink, mut scp) = (Server::start(), dicom_scp::Scp::start());
    sink.shut();
    scp.shut();
    let mut t = small(&world, &disk, sink.address(), scp.address());
    let mut answered = BTreeMap::new();
    let mut hl7 = Client::connect(t.hl7).unwrap();
    let mut refused = 0;
    for n in 0..400 {
        let (id, sha, status) = store(t.images, 110, n, 300_000);
        match status {
            0 => {
                assert_eq!(refused, 0, "accepted after a refusal although nothing was freed");
                answered.insert(id, sha);
            }
            status => {
                assert_eq!(status, 0xa700, "the refusal for want of space");
                refused += 1;
            }
        }
        if refused == 3 {
            break;
        }
        let id = format!("H-{n:04}");
        let message = synthetic::oru(&id, 1, 2_000, synthetic::CHARSETS[0]);
        let ack = hl7.send(&message).unwrap();
        if ack.positive() {
            answered.insert(id, sha256(&message));
        } else {
            assert_eq!(
                (ack.code.as_str(), field(&ack.bytes, "ERR", 3).split('^').next().unwrap_or_default()),
                ("AR", "207"),
                "{}",
                String::from_utf8_lossy(&ack.bytes)
            );
        }
    }
    assert_eq!(refused, 3, "a file system of 64 MB took {} messages without a refusal", answered.len());
    assert!(answered.len() > 40, "only {} taken on 64 MB", answered.len());
    let mut enhanced = String::from_utf8(synthetic::small("E-0001")).unwrap();
    enhanced = enhanced.replace("|P|2.5|||||", "|P|2.5|||AL|NE|");
    let ack = hl7.send(enhanced.as_bytes()).unwrap();
    assert_eq!(ack.code, "CE", "enhanced mode: {}", String::from_utf8_lossy(&ack.bytes));
    assert!(disk.free() > 4 << 20, "refused before the disk is full: {} bytes free", disk.free());
    assert_eq!(t.gateway.get("/readyz").unwrap().status, 503, "it takes no messages");
    assert_eq!(t.gateway.get("/healthz").unwrap().status, 200, "it is alive");
    assert_eq!(t.gateway.cli(&["status"]).0.code(), Some(3));
    assert!(t.gateway.metric("everpost_messages_refused_total", &[("reason", "reserve")]).unwrap_or(0.0) >= 3.0);

    // A restart while full: nothing is lost, still refusing.
    t.gateway.kill();
    t.gateway.launch();
    until("alive again", 30, || t.gateway.get("/healthz").is_some_and(|r| r.status == 200));
    // The receivers come back: delivery frees space, intake resumes by itself.
    sink.open();
    scp.open();
    t.gateway.drained("pacs", 120);
    t.gateway.drained("ris", 60);
    let mut number = 0;
    until("intake resumes by itself", 120, || {
        number += 1;
        let (id, sha, status) = store(t.images, 111, number, 300_000);
        if status == 0 {
            answered.insert(id, sha);
        }
        status == 0
    });
    t.gateway.drained("pacs", 30);
    let mut arrived: BTreeMap<String, String> = sink.received().into_iter().map(|r| (r.id, r.sha256)).collect();
    arrived.extend(scp.stored().into_iter().map(|s| (s.instance, s.sha256)));
    nothing_lost(&answered, &arrived);
    t.gateway.kill();
}

#[test]
fn a_small_file_system_needs_no_settings_but_its_reserve() {
    for (megabytes, reserve) in [(64, "8 MiB"), (64, "32 MiB"), (256, "16 MiB")] {
        let world = World::new(&format!("disk-defaults-{megabytes}-{}", &reserve[..2].trim()));
        let Some(disk) = LoopFs::mount(&world, "ext4", megabytes) else { return };
        let port = world::port();
        let mut scp = dicom_scp::Scp::start();
        scp.shut();
        let text = format!("[spool]\nreserve = \"{reserve}\"\n")
            + &dicom_listener("modalities", port, "")
            + &dicom_destination("pacs", "", &[("scp", scp.address())])
            + &route("modalities", &["pacs"], "");
        let mut gateway = Gateway::at(&world, "gateway", &disk.path().join("data"), &text);
        gateway.up();
        let mut answered = BTreeMap::new();
        let full = (0..2_000).any(|n| {
            let (id, sha, status) = store(loopback(port), 114, n, 300_000);
            if status == 0 {
                answered.insert(id, sha);
            }
            status != 0
        });
        println!("{megabytes} MB, reserve {reserve}: {} images taken, {} bytes free", answered.len(), disk.free());
        assert!(full && answered.len() >= 20, "{megabytes} MB, reserve {reserve}: {} images taken", answered.len());
        scp.open();
        gateway.drained("pacs", 60);
        let arrived: BTreeMap<String, String> = scp.stored().into_iter().map(|s| (s.instance, s.sha256)).collect();
        nothing_lost(&answered, &arrived);
        gateway.kill();
    }
}

#[test]
fn a_disk_filled_by_somebody_else_refuses_delivers_and_resumes() {
    let world = World::new("disk-filled");
    let Some(disk) = LoopFs::mount(&world, "ext4", 128) else { return };
    let (sink, scp) = (Server::start(), dicom_scp::Scp::start());
    let mut t = small(&world, &disk, sink.address(), scp.address());
    let load = Load::start("F", 112, (t.hl7, 2, 2_000), (t.images, 2, 100_000));
    load.progress(40, 60);
    for leave in [2 << 20, 0] {
        disk.fill(leave);
        until("it refuses", 30, || t.gateway.get("/readyz").is_some_and(|r| r.status == 503));
        let refused = load.refused();
        until("negative answers", 30, || load.refused() > refused + 10);
        // Delivery goes on with nothing free: what was accepted before leaves.
        t.gateway.drained("ris", 60);
        t.gateway.drained("pacs", 60);
        disk.free_again();
        until("intake resumes by itself", 60, || t.gateway.get("/readyz").is_some_and(|r| r.status == 200));
        load.progress(40, 60);
    }
    let answered = load.stop();
    t.gateway.drained("ris", 60);
    t.gateway.drained("pacs", 60);
    let mut arrived: BTreeMap<String, String> = sink.received().into_iter().map(|r| (r.id, r.sha256)).collect();
    arrived.extend(scp.stored().into_iter().map(|s| (s.instance, s.sha256)));
    nothing_lost(&answered, &arrived);
    in_order(&sink.ids());
    assert!(t.gateway.process().runs());
    t.gateway.kill();
}

#[test]
fn a_chain_waits_while_the_second_gateways_disk_is_full() {
    let world = World::new("disk-chain");
    let Some(disk) = LoopFs::mount(&world, "ext4", 128) else { return };
    let (sink, scp) = (Server::start(), dicom_scp::Scp::start());
    let mut second = small(&world, &disk, sink.address(), scp.address());
    let (hl7, images) = (world::port(), world::port());
    let text = mllp_listener("ris-in", hl7, "")
        + &dicom_listener("modalities", images, "")
        + &mllp_destination("next", "", &[("gateway", second.hl7)])
        + &dicom_destination("next-images", "calling_ae = \"pass\"", &[("everpost", second.images)])
        + &route("ris-in", &["next"], "")
        + &route("modalities", &["next-images"], "");
    let first = Gateway::start(&world, "first", &text);
    let load = Load::start("C", 113, (loopback(hl7), 2, 2_000), (loopback(images), 2, 100_000));
    load.progress(40, 60);
    disk.fill(1 << 20);
    until("the second refuses", 30, || second.gateway.get("/readyz").is_some_and(|r| r.status == 503));
    load.progress(100, 60);
    until("the first holds a backlog", 30, || first.waiting("next") > 10 && first.waiting("next-images") > 10);
    assert!(stays(1_500, || first.count("next", "dead_letter") == 0 && first.count("next-images", "dead_letter") == 0));
    disk.free_again();
    let answered = load.stop();
    for (gateway, names) in [(&first, ["next", "next-images"]), (&second.gateway, ["ris", "pacs"])] {
        for name in names {
            gateway.drained(name, 120);
            assert_eq!(gateway.count(name, "dead_letter"), 0, "{name}");
        }
    }
    let mut arrived: BTreeMap<String, String> = sink.received().into_iter().map(|r| (r.id, r.sha256)).collect();
    arrived.extend(scp.stored().into_iter().map(|s| (s.instance, s.sha256)));
    nothing_lost(&answered, &arrived);
    in_order(&sink.ids());
    assert!(scp.stored().iter().all(|s| s.calling == "LOAD" || s.calling == "EVERPOST"));
    second.gateway.kill();
}
