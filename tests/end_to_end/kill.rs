//! `kill -9` of the gateway at random moments under load from both protocols: every positively answered message arrives, order holds, and what arrives
//! twice was in flight or settled just before a kill. `KILLS=100` makes it the full run.

use harness::config::{dicom_destination, dicom_listener, mllp_destination, mllp_listener, route};
use harness::load::{Load, in_order, nothing_lost, repeated_only_around};
use harness::mllp::Server;
use harness::{Gateway, World, dicom_scp, until, world};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Settlements are durable within 10 ms of an attempt's end; the rest is for a machine that runs other tests beside this one.
const REPEAT_WINDOW: Duration = Duration::from_millis(10 + 290);

#[test]
fn kill_9_under_load_loses_nothing_and_keeps_order() {
    let kills = world::setting("KILLS", 15);
    let seed = world::setting("SEED", u64::from(std::process::id()));
    println!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let world = World::new("kill");
    let (hl7, images) = (world::port(), world::port());
    let sink = Server::start();
    let scp = dicom_scp::Scp::start();
    let text = mllp_listener("ris-in", hl7, "")
        + &dicom_listener("modalities", images, "")
        + &mllp_destination("ris", "", &[("sink", sink.address())])
        + &dicom_destination("pacs", "", &[("scp", scp.address())])
        + &route("ris-in", &["ris"], "")
        + &route("modalities", &["pacs"], "");
    let mut gateway = Gateway::start(&world, "gateway", &text);
    let load = Load::start("K", 60, (([127, 0, 0, 1], hl7).into(), 4, 2_000), (([127, 0, 0, 1], images).into(), 3, 100_000));
    let mut times = Vec::new();
    for _ in 0..kills {
        load.progress(10, 60);
        let moment = Instant::now() + Duration::from_millis(random.u64(0..400));
        until("the moment of the kill", 5, || Instant::now() >= moment);
        times.push(Instant::now());
        gateway.kill();
        gateway.up();
    }
    load.progress(20, 60);
    let answered = load.stop();
    gateway.drained("ris", 120);
    gateway.drained("pacs", 120);

    let received = sink.received();
    let stored = scp.stored();
    let mut arrived: BTreeMap<String, String> = received.iter().map(|r| (r.id.clone(), r.sha256.clone())).collect();
    arrived.extend(stored.iter().map(|s| (s.instance.clone(), s.sha256.clone())));
    nothing_lost(&answered, &arrived);
    in_order(&sink.ids());
    let hl7: Vec<(String, Instant)> = received.into_iter().map(|r| (r.id, r.at)).collect();
    let dicom: Vec<(String, Instant)> = stored.into_iter().map(|s| (s.instance, s.at)).collect();
    println!("{} answered, {} + {} arrivals, {} kills", answered.len(), hl7.len(), dicom.len(), times.len());
    repeated_only_around(&hl7, &times, REPEAT_WINDOW);
    repeated_only_around(&dicom, &times, REPEAT_WINDOW);
    assert_eq!(gateway.count("ris", "dead_letter") + gateway.count("pacs", "dead_letter"), 0);
}

#[test]
fn kill_9_while_nobody_receives_keeps_everything() {
    let world = World::new("kill-away");
    let (hl7, images) = (world::port(), world::port());
    let mut sink = Server::start();
    let mut scp = dicom_scp::Scp::start();
    sink.shut();
    scp.shut();
    let text = mllp_listener("ris-in", hl7, "")
        + &dicom_listener("modalities", images, "")
        + &mllp_destination("ris", "", &[("sink", sink.address())])
        + &dicom_destination("pacs", "", &[("scp", scp.address())])
        + &route("ris-in", &["ris"], "")
        + &route("modalities", &["pacs"], "");
    let mut gateway = Gateway::start(&world, "gateway", &text);
    let load = Load::start("A", 61, (([127, 0, 0, 1], hl7).into(), 4, 2_000), (([127, 0, 0, 1], images).into(), 3, 300_000));
    for _ in 0..3 {
        load.progress(60, 60);
        gateway.kill();
        gateway.up();
    }
    let answered = load.stop();
    sink.open();
    scp.open();
    gateway.drained("ris", 120);
    gateway.drained("pacs", 120);
    let mut arrived: BTreeMap<String, String> = sink.received().into_iter().map(|r| (r.id, r.sha256)).collect();
    arrived.extend(scp.stored().into_iter().map(|s| (s.instance, s.sha256)));
    nothing_lost(&answered, &arrived);
    in_order(&sink.ids());
    let ids = sink.ids();
    assert_eq!(ids.len(), ids.iter().collect::<std::collections::BTreeSet<_>>().len(), "nothing was in flight at a kill: nothing comes twice");
}
