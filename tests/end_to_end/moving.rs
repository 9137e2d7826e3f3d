//! A spool's waiting messages move to another box: `queue export` here, `queue import` there.

use harness::config::{dicom_destination, dicom_listener, mllp_destination, mllp_listener, route};
use harness::dicom_scp::Scp;
use harness::mllp::{Client, Server};
use harness::world;
use harness::{Gateway, World, dicom, sha256, synthetic, until};
use serde_json::Value;
use std::net::SocketAddr;

fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// Two listeners and two destinations, as both boxes have them.
fn body(hl7: u16, images: u16, ris: SocketAddr, pacs: SocketAddr) -> String {
    mllp_listener("ris-in", hl7, "")
        + &dicom_listener("modalities", images, "")
        + &mllp_destination("ris", "ordering = \"strict\"", &[("primary", ris)])
        + &dicom_destination("pacs", "calling_ae = \"pass\"", &[("primary", pacs)])
        + &route("ris-in", &["ris"], "")
        + &route("modalities", &["pacs"], "")
}

#[test]
fn what_waits_moves_to_another_box_whole_and_in_order() {
    let world = World::new("moving");
    let (ris, pacs) = (Server::start(), Scp::start());
    let (hl7, images, nobody) = (world::port(), world::port(), world::port());
    let old = Gateway::start(&world, "old", &body(hl7, images, loopback(nobody), loopback(nobody)));
    let mut client = Client::connect(loopback(hl7)).unwrap();
    let ids: Vec<String> = (0..40).map(|n| format!("MOVE-{n:03}")).collect();
    let mut sums = Vec::new();
    for id in &ids {
        let message = synthetic::small(id);
        sums.push(sha256(&message));
        assert!(client.send(&message).unwrap().positive());
    }
    let (class, syntax) = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1");
    let (instance, image) = (synthetic::instance(77, 1), synthetic::ct(&synthetic::instance(77, 1), 77, 3_000_000));
    let mut modality = dicom::Association::open(loopback(images), "EVERPOST", "CT_SEVEN", &dicom::propose(class, syntax)).unwrap();
    assert_eq!(modality.store(class, &instance, &image).unwrap(), 0);
    modality.release().unwrap();

    // One of them is held: a decision, which another box does not undo by itself.
    let held = old.queue("ris", "ready").last().unwrap()["id"].as_str().unwrap().to_owned();
    assert!(old.cli(&["queue", "hold", &held]).0.success());
    let dir = world.path("export");
    let to = dir.display().to_string();
    for destination in ["ris", "pacs"] {
        assert!(old.cli(&["destination", "pause", destination]).0.success());
    }
    until("nothing is in flight", 30, || old.count("ris", "in_flight") + old.count("pacs", "in_flight") == 0);
    for destination in ["ris", "pacs"] {
        for state in ["ready", "deferred", "held"] {
            let (status, _, err) = old.cli(&["queue", "export", "--all", "--destination", destination, "--state", state, "--to", &to]);
            assert!(status.success(), "{err}");
        }
    }

    // The other box. A damaged file stops the import where it stands; mended, it goes on there.
    let new = Gateway::start(&world, "new", &body(world::port(), world::port(), ris.address(), pacs.address()));
    assert!(new.cli(&["destination", "pause", "ris"]).0.success());
    let list = std::fs::read_to_string(dir.join("envelopes.jsonl")).unwrap();
    let lines: Vec<Value> = list.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 41);
    let mut numbers: Vec<u64> = lines.iter().filter(|l| l["destination"] == "ris").map(|l| l["id"].as_u64().unwrap()).collect();
    numbers.sort_unstable();
    let damaged = dir.join(format!("{}.hl7", numbers[9]));
    let good = std::fs::read(&damaged).unwrap();
    std::fs::write(&damaged, [&good[..], b"ZZZ|1\r"].concat()).unwrap();
    let (status, _, err) = new.cli(&["queue", "import", &to, "--destination", "ris"]);
    assert!(status.code() == Some(1) && err.contains("not what was exported") && err.contains("9 were imported before it"), "{status} {err}");
    std::fs::write(&damaged, good).unwrap();
    let (status, out, err) = new.cli(&["queue", "import", &to, "--json"]);
    let told: Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out} {err}"));
    assert!(status.success() && told["imported"] == 31 && told["imported_before"] == 9 && told["left_out"] == 1, "{out}");
    let (status, out, _) = new.cli(&["queue", "import", &to, "--json"]);
    assert!(status.success() && serde_json::from_str::<Value>(&out).unwrap()["imported"] == 0, "twice is once: {out}");

    // What came with it: who sent it, and when it was accepted first.
    let row = &new.queue("ris", "ready")[0];
    let first = lines.iter().find(|l| l["id"] == numbers[0]).unwrap();
    assert_eq!(row["accepted_at"], first["accepted_at"]);
    let (_, story, _) = new.cli(&["queue", "show", row["id"].as_str().unwrap(), "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&story).unwrap()["keys"]["listener"], "ris-in");

    assert!(new.cli(&["destination", "resume", "ris"]).0.success());
    new.drained("ris", 60);
    new.drained("pacs", 60);
    let expected: Vec<&String> = ids.iter().zip(&sums).filter(|(id, _)| **id != ids[39]).map(|(id, _)| id).collect();
    assert_eq!(ris.ids().iter().collect::<Vec<_>>(), expected, "all but the held one, in the order of the old box");
    assert_eq!(ris.received().iter().map(|r| &r.sha256).collect::<Vec<_>>(), sums[..39].iter().collect::<Vec<_>>());
    let stored = pacs.stored();
    assert_eq!(stored.len(), 1);
    assert_eq!((stored[0].instance.as_str(), stored[0].calling.as_str()), (instance.as_str(), "CT_SEVEN"));
    assert_eq!(stored[0].sha256, sha256(&image));

    // The held one, when somebody wants it there.
    let (status, out, err) = new.cli(&["queue", "import", &to, "--state", "held", "--destination", "ris", "--into", "ris"]);
    assert!(status.success() && out.contains("1 imported"), "{out} {err}");
    new.drained("ris", 60);
    assert_eq!(ris.ids().len(), 40);
}

#[test]
fn an_import_that_cannot_be_says_why() {
    let world = World::new("moving-usage");
    let (ris, pacs) = (Server::start(), Scp::start());
    let gateway = Gateway::start(&world, "gateway", &body(world::port(), world::port(), ris.address(), pacs.address()));
    let dir = world.folder("export");
    let to = dir.display().to_string();
    let import = || gateway.cli(&["queue", "import", &to]);
    let (status, _, err) = import();
    assert!(status.code() == Some(2) && err.contains("queue export --to DIR"), "{status} {err}");
    let line = |destination: &str, content: &[u8]| {
        std::fs::write(dir.join("1.hl7"), content).unwrap();
        let line = serde_json::json!({"id": 1, "destination": destination, "state": "ready", "file": "1.hl7", "sha256": sha256(content),
                                      "accepted_at": "2026-01-02T03:04:05.000Z"});
        std::fs::write(dir.join("envelopes.jsonl"), format!("{line}\n")).unwrap();
    };
    for (destination, content, code, what) in [
        ("elsewhere", synthetic::small("X"), 1, "elsewhere"),
        ("ris", b"hello".to_vec(), 2, "no HL7 message"),
        ("pacs", b"hello".to_vec(), 2, "no DICOM file"),
    ] {
        line(destination, &content);
        let (status, _, err) = import();
        assert!(status.code() == Some(code) && err.contains(what), "{destination}: {status} {err}");
    }
    // Only on the socket.
    let (host, path) = (gateway.admin().to_string(), "/api/v1/destinations/ris/import");
    let answer = harness::http::request(gateway.admin(), &host, "POST", path, "MSH|^~\\&|").unwrap();
    assert_eq!(answer.status, 403, "{}", answer.body);
    assert_eq!((ris.count(), pacs.count()), (0, 0));
}
