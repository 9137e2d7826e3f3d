//! Every sender to every receiver through the gateway: the data set that arrives is the one that a direct transfer of the same sender delivers.
//! Rules: the measure is DCMTK's `storescp +B`, which keeps data sets bit by bit, and pynetdicom, which hands out the bytes of the wire. Orthanc and
//! dicom-rs write data sets anew: there the measure is what they keep of a direct transfer.

use harness::config::{dicom_destination, dicom_listener, route};
use harness::dicom::{self, EXPLICIT, parse_part10};
use harness::peers::{Receiver, Sender};
use harness::synthetic::{self, PRIVATE_CLASS, PRIVATE_SYNTAX, Sample};
use harness::{Gateway, World, dicom_scp, sha256, until, world};
use std::collections::BTreeMap;
use std::net::SocketAddr;

type Kept = BTreeMap<String, String>;

struct Receivers {
    storescp: Receiver,
    pynetdicom: Receiver,
    dicom_rs: Receiver,
    orthanc: Receiver,
}

impl Receivers {
    fn start(world: &World, gateway: SocketAddr) -> Self {
        Self {
            storescp: Receiver::storescp(world, "storescp", &[]),
            pynetdicom: Receiver::pynetdicom(world, "pynetdicom"),
            dicom_rs: Receiver::dicom_rs(world, "dicomrs"),
            orthanc: Receiver::orthanc(world, "orthanc", gateway),
        }
    }

    fn all(&self) -> [(&'static str, &Receiver); 4] {
        [("storescp", &self.storescp), ("pynetdicom", &self.pynetdicom), ("dicomrs", &self.dicom_rs), ("orthanc", &self.orthanc)]
    }

    /// The configuration of a gateway that fans out to all four.
    fn gateway(&self, port: u16) -> String {
        let mut text = dicom_listener("modalities", port, "");
        for (name, receiver) in self.all() {
            text += &dicom_destination(name, "calling_ae = \"pass\"", &[("primary", receiver.address())]);
        }
        text + &route("modalities", &["storescp", "pynetdicom", "dicomrs", "orthanc"], "")
    }
}

/// What a receiver keeps in the end. `dcmsend` is content although a receiver took no context for an object, so its word is only an upper bound.
fn settled(receiver: &Receiver, at_most: usize) -> Kept {
    let mut kept = receiver.kept();
    while kept.len() < at_most {
        let before = kept.len();
        world::stays(1_000, || receiver.kept().len() == before);
        kept = receiver.kept();
        if kept.len() == before {
            break;
        }
    }
    kept
}

/// One sender, all receivers, all encodings.
fn story(sender: Sender) {
    let world = World::new(&format!("identity-{sender:?}"));
    let samples = synthetic::samples(&world, 10 + sender as u64);
    let port = world::port();
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    let receivers = Receivers::start(&world, at);
    let send = |to: SocketAddr, sample: &Sample| sender.sends(to, "EVERPOST", std::slice::from_ref(&sample.path), &sample.syntax);

    // Directly, receiver by receiver: what a receiver does not take directly, it need not take from us.
    let mut direct: BTreeMap<&str, Kept> = BTreeMap::new();
    let mut syntaxes: BTreeMap<&str, BTreeMap<String, String>> = BTreeMap::new();
    for (name, receiver) in receivers.all() {
        let taken = samples.iter().filter(|sample| send(receiver.address(), sample)).count();
        let mut kept = settled(receiver, taken);
        // A sender that converts for a receiver which does not take the file's own syntax converts nothing for us, who take every syntax.
        let own: BTreeMap<&str, &str> = samples.iter().map(|s| (s.instance.as_str(), s.syntax.as_str())).collect();
        for (id, _, syntax) in receiver.objects() {
            if own[id.as_str()] != syntax {
                kept.remove(&id);
            }
            syntaxes.entry(name).or_default().insert(id, syntax);
        }
        direct.insert(name, kept);
        receiver.forget();
    }
    assert!(direct["storescp"].len() >= 7, "the direct transfer delivered only {:?}", direct["storescp"]);

    let gateway = Gateway::start(&world, "gateway", &receivers.gateway(port));
    let sent: Vec<&Sample> = samples.iter().filter(|s| direct.values().any(|kept| kept.contains_key(&s.instance))).collect();
    for sample in &sent {
        assert!(send(at, sample), "{sender:?} is not content with the gateway: {}", sample.path.display());
    }
    for (name, receiver) in receivers.all() {
        let wanted = &direct[name];
        until(&format!("{sender:?}: {name} keeps what a direct transfer gave it"), 60, || wanted.keys().all(|id| receiver.kept().contains_key(id)));
        for (id, sha, syntax) in receiver.objects() {
            // The syntax of the wire is the sender's and the gateway's choice: where Orthanc or dicom-rs chose another one, what they write differs.
            let same = *name == *"storescp" || syntaxes[name].get(&id) == Some(&syntax);
            if let (Some(direct), true) = (wanted.get(&id), same) {
                assert_eq!(&sha, direct, "{sender:?} to {name}: {id} arrived with other bytes");
            }
        }
    }
    let wire = receivers.pynetdicom.kept();
    for (id, sha) in &direct["storescp"] {
        assert!(wire.get(id).is_none_or(|w| w == sha), "{sender:?}: {id} came to pynetdicom with other bytes");
    }
    let accepted = gateway.metric("everpost_messages_accepted_total", &[("listener", "modalities")]).unwrap_or(0.0);
    assert!((accepted - sent.len() as f64).abs() < 0.5, "{accepted} accepted of {}", sent.len());
}

#[test]
fn storescu_to_every_receiver() {
    story(Sender::Storescu);
}

#[test]
fn dcmsend_to_every_receiver() {
    story(Sender::Dcmsend);
}

#[test]
fn pynetdicom_to_every_receiver() {
    story(Sender::Pynetdicom);
}

#[test]
fn gdcm_to_every_receiver() {
    story(Sender::Gdcm);
}

#[test]
fn dicom_rs_to_every_receiver() {
    story(Sender::DicomRs);
}

#[test]
fn orthanc_sends_what_it_sends_directly() {
    let world = World::new("identity-orthanc");
    let samples = synthetic::samples(&world, 20);
    let port = world::port();
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    let receiver = Receiver::storescp(&world, "storescp", &[]);
    let source = Receiver::orthanc(&world, "source", receiver.address());
    for sample in &samples {
        assert_eq!(source.orthanc_sends(&sample.path), 200, "{}", sample.path.display());
    }
    let direct = receiver.keeps(samples.len(), 20);
    receiver.forget();
    let text = dicom_listener("modalities", port, "") + &dicom_destination("pacs", "", &[("storescp", receiver.address())]);
    let _gateway = Gateway::start(&world, "gateway", &(text + &route("modalities", &["pacs"], "")));
    source.orthanc_gateway(at);
    for sample in &samples {
        assert_eq!(source.orthanc_sends(&sample.path), 200, "{}", sample.path.display());
    }
    until("everything arrived", 60, || receiver.kept().len() == samples.len());
    assert_eq!(receiver.kept(), direct);
}

#[test]
fn a_private_class_and_a_private_syntax_pass_as_they_are() {
    let world = World::new("identity-private");
    let class = synthetic::private_class(&world, 30, EXPLICIT);
    let syntax = synthetic::private_class(&world, 30, PRIVATE_SYNTAX);
    let storescp = Receiver::storescp(&world, "storescp", &[]);
    assert!(Sender::Pynetdicom.sends(storescp.address(), "ANY", std::slice::from_ref(&class.path), &class.syntax));
    let direct = storescp.keeps(1, 10);
    storescp.forget();

    let port = world::port();
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    let scp = dicom_scp::Scp::start();
    let text = dicom_listener("modalities", port, "")
        + &dicom_destination("storescp", "", &[("primary", storescp.address())])
        + &dicom_destination("scripted", "", &[("primary", scp.address())])
        + &route("modalities", &["storescp", "scripted"], "");
    let _gateway = Gateway::start(&world, "gateway", &text);
    assert!(Sender::Pynetdicom.sends(at, "EVERPOST", std::slice::from_ref(&class.path), &class.syntax));
    // No DICOM toolkit sends a syntax that it does not know; the scripted peers do.
    let raw = parse_part10(&std::fs::read(&syntax.path).unwrap()).unwrap().data_set;
    let mut association = dicom::Association::open(at, "EVERPOST", "TEST", &dicom::propose(PRIVATE_CLASS, PRIVATE_SYNTAX)).unwrap();
    assert_eq!(association.store(PRIVATE_CLASS, &syntax.instance, &raw).unwrap(), 0);
    association.release().unwrap();

    assert_eq!(storescp.keeps(1, 30), direct);
    until("the scripted receiver has both", 30, || scp.accepted().len() == 2);
    let stored = scp.stored();
    let of = |id: &str| stored.iter().find(|s| s.instance == id).unwrap();
    assert_eq!(of(&class.instance).sha256, direct[&class.instance]);
    assert_eq!((&of(&syntax.instance).sha256, of(&syntax.instance).transfer_syntax.as_str()), (&sha256(&raw), PRIVATE_SYNTAX));
}

#[test]
fn strange_data_sets_pass_as_they_are() {
    let world = World::new("identity-strange");
    let port = world::port();
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    let scp = dicom_scp::Scp::start();
    let text =
        dicom_listener("modalities", port, "") + &dicom_destination("pacs", "", &[("scripted", scp.address())]) + &route("modalities", &["pacs"], "");
    let _gateway = Gateway::start(&world, "gateway", &text);
    // Odd lengths in all, no padding, a single byte, noise, a data set cut in the middle of an element, 64 KiB to the byte and around it.
    let whole = synthetic::ct("1.2.3", 3, 70_001);
    let mut sets = vec![b"\x08\x00\x18\x00UI\x05\x001.2.3".to_vec(), vec![8], synthetic::noise(1, 1_001), whole[..whole.len() - 7].to_vec()];
    sets.extend([65_535, 65_536, 65_537, 262_144, 262_145].map(|n| synthetic::noise(n as u64, n)));
    let mut association = dicom::Association::open(at, "EVERPOST", "TEST", &dicom::propose(dicom::CT, EXPLICIT)).unwrap();
    let mut wanted = Vec::new();
    for (n, set) in sets.iter().enumerate() {
        let id = synthetic::instance(40, n as u64);
        assert_eq!(association.store(dicom::CT, &id, set).unwrap(), 0, "data set {n}");
        wanted.push((id, sha256(set)));
    }
    association.release().unwrap();
    until("all have arrived", 30, || scp.accepted().len() == wanted.len());
    let mut arrived: Vec<_> = scp.stored().into_iter().map(|s| (s.instance, s.sha256)).collect();
    arrived.sort();
    wanted.sort();
    assert_eq!(arrived, wanted);
}

#[test]
fn priority_originator_and_titles_are_passed_on() {
    let world = World::new("identity-titles");
    let port = world::port();
    let scp = dicom_scp::Scp::start();
    let text = dicom_listener("modalities", port, "ae_title = [\"EVERPOST\", \"CT_ROOM\"]")
        + &dicom_destination("pacs", "calling_ae = \"pass\"", &[("scripted", scp.address())])
        + &route("modalities", &["pacs"], "");
    let _gateway = Gateway::start(&world, "gateway", &text);
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    for (called, calling) in [("EVERPOST", "CT_1"), ("CT_ROOM", "CT_2")] {
        let mut association = dicom::Association::open(at, called, calling, &dicom::propose(dicom::CT, EXPLICIT)).unwrap();
        let id = synthetic::instance(41, u64::from(calling == "CT_2"));
        let set = dicom::command(&[
            (0x0002, dicom::uid(dicom::CT)),
            (0x0100, vec![1, 0]),
            (0x0110, vec![1, 0]),
            (0x0700, vec![1, 0]),
            (0x0800, vec![0, 0]),
            (0x1000, dicom::uid(&id)),
            (0x1030, b"MOVER ".to_vec()),
            (0x1031, vec![7, 0]),
        ]);
        dicom::write_data(association.stream(), 1, true, &set, 16_384).unwrap();
        dicom::write_data(association.stream(), 1, false, &synthetic::ct(&id, 1, 1_000), 16_384).unwrap();
        assert_eq!(association.response().unwrap().1, 0);
        association.release().unwrap();
    }
    until("both have arrived", 30, || scp.accepted().len() == 2);
    let mut seen: Vec<_> = scp.stored().into_iter().map(|s| (s.calling, s.called, s.priority, s.originator)).collect();
    seen.sort();
    let row = |calling: &str| (calling.to_owned(), "SCRIPTED".to_owned(), Some(1), "MOVER".to_owned());
    assert_eq!(seen, [row("CT_1"), row("CT_2")]);
    let refused = dicom::Association::open(at, "NOBODY", "CT_1", &dicom::propose(dicom::CT, EXPLICIT)).err().map(|e| e.to_string());
    assert_eq!(refused.as_deref(), Some("rejected 1/1/7"), "an unknown called AE title");
}

#[test]
fn eight_senders_at_once() {
    let world = World::new("identity-eight");
    let port = world::port();
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    let storescp = Receiver::storescp(&world, "storescp", &["--fork"]);
    let text = dicom_listener("modalities", port, "")
        + &dicom_destination("pacs", "", &[("storescp", storescp.address())])
        + &route("modalities", &["pacs"], "");
    let _gateway = Gateway::start(&world, "gateway", &text);
    let batches: Vec<_> = (0..8).map(|n| synthetic::ct_files(&world, &format!("ct{n}"), 50 + n, 10, 300_000)).collect();
    let mut wanted = Kept::new();
    for file in batches.iter().flatten() {
        let part = dicom::part10(file);
        wanted.insert(part.instance, sha256(&part.data_set));
    }
    std::thread::scope(|scope| {
        for batch in &batches {
            scope.spawn(move || {
                let out = harness::process::run_any(
                    std::process::Command::new("echoscu").args(["-aec", "EVERPOST", "127.0.0.1", &at.port().to_string()]),
                    30,
                );
                assert!(out.0.success(), "echoscu: {out:?}");
                assert!(Sender::Storescu.sends(at, "EVERPOST", batch, EXPLICIT));
            });
        }
    });
    until("all have arrived", 60, || storescp.kept().len() == wanted.len());
    assert_eq!(storescp.kept(), wanted);
}
