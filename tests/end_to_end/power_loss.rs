//! Power loss right after the last positive answer: the file system of the spool goes down without writing anything back. Every positively answered
//! message and image is there after the restart, and is delivered. (DCMTK, dicom-rs and dcm4che receivers lose all of 200 answered images in this test.)

use harness::config::{dicom_destination, dicom_listener, mllp_destination, mllp_listener, route};
use harness::load::{Load, in_order, nothing_lost};
use harness::loopfs::LoopFs;
use harness::mllp::Server;
use harness::{Gateway, World, dicom_scp, world};
use std::collections::BTreeMap;

fn story(kind: &str, during_delivery: bool) {
    let world = World::new(&format!("power-{kind}-{during_delivery}"));
    let Some(disk) = LoopFs::mount(&world, kind, 512) else { return };
    let (hl7, images) = (world::port(), world::port());
    let mut sink = Server::start();
    let mut scp = dicom_scp::Scp::start();
    if !during_delivery {
        sink.shut();
        scp.shut();
    }
    let text = mllp_listener("ris-in", hl7, "")
        + "[spool]\nreserve = \"32 MiB\"\nsegment_size = \"8 MiB\"\n"
        + &dicom_listener("modalities", images, "")
        + &mllp_destination("ris", "", &[("sink", sink.address())])
        + &dicom_destination("pacs", "", &[("scp", scp.address())])
        + &route("ris-in", &["ris"], "")
        + &route("modalities", &["pacs"], "");
    let mut gateway = Gateway::at(&world, "gateway", &disk.path().join("data"), &text);
    gateway.up();
    for round in 0..2 {
        let load =
            Load::start(&format!("W{round}x"), 70 + round, (([127, 0, 0, 1], hl7).into(), 4, 2_000), (([127, 0, 0, 1], images).into(), 3, 200_000));
        load.progress(150, 60);
        // In the middle of the traffic: the last positive answer is microseconds old.
        disk.lose_power();
        gateway.kill();
        let answered = load.stop();
        disk.mount_again();
        if !during_delivery {
            sink.open();
            scp.open();
        }
        gateway.up();
        gateway.drained("ris", 120);
        gateway.drained("pacs", 120);
        let mut arrived: BTreeMap<String, String> = sink.received().into_iter().map(|r| (r.id, r.sha256)).collect();
        arrived.extend(scp.stored().into_iter().map(|s| (s.instance, s.sha256)));
        println!("{kind}: {} answered before the power went", answered.len());
        nothing_lost(&answered, &arrived);
        in_order(&sink.ids());
        if !during_delivery {
            sink.shut();
            scp.shut();
        }
    }
    assert!(!gateway.log().contains("panicked"), "a panic in the log");
    gateway.kill(); // before the disk is unmounted
}

#[test]
fn on_ext4_with_nobody_receiving() {
    story("ext4", false);
}

#[test]
fn on_ext4_during_delivery() {
    story("ext4", true);
}

#[test]
fn on_xfs_with_nobody_receiving() {
    story("xfs", false);
}

#[test]
fn on_xfs_during_delivery() {
    story("xfs", true);
}
