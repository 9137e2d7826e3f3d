//! The peers and the harness themselves, without a gateway: what a direct transfer delivers. If one of these fails, the other tests say nothing.

use harness::mllp::{self, Client, Server};
use harness::peers::{Hl7Library, Receiver, Sender, sink};
use harness::synthetic::{self, CHARSETS};
use harness::{World, dicom, dicom_scp, sha256, until};
use std::collections::BTreeMap;

#[test]
fn every_sender_reaches_storescp_and_what_it_sends_is_what_stands_in_the_file() {
    let world = World::new("direct-senders");
    let samples = synthetic::samples(&world, 1);
    let receiver = Receiver::storescp(&world, "storescp", &[]);
    for sender in Sender::ALL {
        receiver.forget();
        let mut sent = Vec::new();
        for sample in &samples {
            if sender.sends(receiver.address(), "STORESCP", std::slice::from_ref(&sample.path), &sample.syntax) {
                sent.push(sample.instance.clone());
            }
        }
        // dicom-rs does not know explicit big endian, deflated nor JPEG 2000 in this build; every sender must manage the others.
        assert!(sent.len() >= 7, "{sender:?} sent only {sent:?}");
        let kept = receiver.keeps(sent.len(), 20);
        assert_eq!(kept.keys().cloned().collect::<Vec<_>>(), {
            sent.sort();
            sent
        });
    }
}

#[test]
fn every_receiver_takes_the_samples() {
    let world = World::new("direct-receivers");
    let samples = synthetic::samples(&world, 2);
    let receivers = [
        Receiver::pynetdicom(&world, "pynetdicom"),
        Receiver::dicom_rs(&world, "dicomrs"),
        Receiver::orthanc(&world, "orthanc", ([127, 0, 0, 1], 9).into()),
    ];
    for receiver in receivers {
        let mut sent = 0;
        for sample in &samples {
            sent += usize::from(Sender::Storescu.sends(receiver.address(), "ANY", std::slice::from_ref(&sample.path), &sample.syntax));
        }
        assert!(sent >= 8, "{sent} of {} taken", samples.len());
        assert!(receiver.keeps(sent, 20).len() >= sent);
    }
}

#[test]
fn the_scripted_dicom_peers_agree_with_dcmtk() {
    let world = World::new("direct-scripted");
    let scp = dicom_scp::Scp::start();
    let receiver = Receiver::storescp(&world, "storescp", &[]);
    for at in [scp.address(), receiver.address()] {
        let mut association = dicom::Association::open(at, "ANY", "TEST", &dicom::propose(dicom::CT, dicom::EXPLICIT)).expect("an association");
        for n in 0..3 {
            let id = synthetic::instance(3, n);
            assert_eq!(association.store(dicom::CT, &id, &synthetic::ct(&id, n, 200_000)).expect("an answer"), 0);
        }
        association.release().expect("a release");
    }
    let direct: BTreeMap<String, String> = scp.stored().into_iter().map(|s| (s.instance, s.sha256)).collect();
    assert_eq!(direct, receiver.keeps(3, 10));
    for file in synthetic::ct_files(&world, "ct", 4, 2, 100_000) {
        assert!(Sender::Storescu.sends(scp.address(), "ANY", std::slice::from_ref(&file), dicom::EXPLICIT));
        let sample = synthetic::sample(&file);
        let stored = scp.stored().into_iter().find(|s| s.instance == sample.instance).expect("stored");
        assert_eq!(stored.sha256, sha256(&dicom::part10(&file).data_set));
    }
}

#[test]
fn every_hl7_library_sends_and_receives() {
    let world = World::new("direct-hl7");
    let folder = world.folder("messages");
    let mut ids = Vec::new();
    for (n, charset) in CHARSETS.iter().enumerate() {
        let id = format!("D{n:04}");
        std::fs::write(folder.join(&id), synthetic::oru(&id, n, 2_000, *charset)).unwrap();
        ids.push(id);
    }
    for library in Hl7Library::ALL {
        let server = Server::start();
        let answers = library.send(server.address(), &folder);
        assert_eq!(answers, ids.iter().map(|id| format!("AA {id}")).collect::<Vec<_>>(), "{library:?}");
        assert_eq!(server.ids(), ids, "{library:?}");

        let peer = library.serve(&world);
        for (n, id) in ids.iter().enumerate() {
            // A connection each: hl7apy closes after its answer, node-hl7 answers the first message of a connection again and again.
            let mut client = Client::connect(peer.address()).unwrap();
            let ack = client.send(&std::fs::read(folder.join(id)).unwrap()).unwrap();
            assert!(ack.positive() && ack.id == *id, "{library:?} {n}: {ack:?}");
        }
        let wanted: Vec<(String, String)> = ids.iter().map(|id| (id.clone(), sha256(&std::fs::read(folder.join(id)).unwrap()))).collect();
        assert_eq!(peer.received(), wanted, "{library:?}");
    }
}

#[test]
fn the_sink_takes_large_messages_and_freezes() {
    let world = World::new("direct-sink");
    let mut peer = sink(&world, "sink", ([127, 0, 0, 1], harness::world::port()).into(), None);
    let message = synthetic::oru("BIG", 1, 20 << 20, CHARSETS[3]);
    let mut client = Client::connect(peer.address()).unwrap();
    assert!(client.send(&message).unwrap().positive());
    assert_eq!(peer.received(), [("BIG".to_owned(), sha256(&message))]);
    peer.process.freeze();
    client.push(&synthetic::small("LATER")).unwrap();
    assert!(harness::world::stays(200, || peer.received().len() == 1));
    peer.process.thaw();
    until("the sink goes on", 5, || peer.received().len() == 2);
    assert_eq!(mllp::field(&client.answer().unwrap().bytes, "MSA", 2), "LATER");
}
