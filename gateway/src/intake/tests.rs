//! The way in, over a real spool in a temporary folder.

use super::*;
use crate::config::Config;
use bytes::Bytes;
use everpost_client::config::Destination;
use everpost_client::io::disk::Directory;
use everpost_client::spool::{AttemptRecord, Decision, Settlement, Spool};
use everpost_client::{config::LaneRule, delivery::Phase, event::Delivered};
use std::sync::mpsc::{Receiver, channel};
use tempfile::TempDir;

/// A way in with two destinations, and what it tells.
struct Stage {
    intake: Arc<Intake>,
    committer: Committer,
    listener: Arc<Listener>,
    told: Receiver<Event>,
    ids: Vec<DestinationId>,
    _folder: TempDir,
}

const CONFIG: &str = "name = 'gw'\ndata_dir = 'd'\n[spool]\nreserve = '1 MiB'\nsegment_size = '1 MiB'\n[[listener]]\nname = 'in'\nprotocol = 'mllp'\n\
    bind = '127.0.0.1:0'\nduplicates = 'same-content'\n[[destination]]\nname = 'ris'\nprotocol = 'mllp'\n[[destination.endpoint]]\nname = 'a'\n\
    address = 'localhost:1'\n[[destination]]\nname = 'lab'\nprotocol = 'mllp'\n[[destination.endpoint]]\nname = 'a'\naddress = 'localhost:2'\n\
    [[route]]\nto = 'ris'\nwhen = { message_type = 'ADT^*' }\n[[route]]\nto = ['ris', 'lab']\nwhen = { message_type = 'ORU^*' }\n";

impl Stage {
    fn new() -> Stage {
        Self::with(CONFIG)
    }

    fn with(source: &str) -> Stage {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("everpost.toml");
        std::fs::write(&file, source).unwrap();
        let config = Config::load(&file).unwrap();
        let (tell, told) = channel();
        let tell = std::sync::Mutex::new(tell);
        let events = Events::to(move |event| drop(tell.lock().unwrap().send(event)));
        let storage = Directory::open(&folder.path().join("spool")).unwrap();
        let (spool, _) = Spool::open(storage, config.spool.clone(), Events::none()).unwrap();
        let committer = Committer::start(Arc::new(spool)).unwrap();
        let with_id = |destination: &Arc<Destination>| (destination.clone(), committer.spool().destination(&destination.name).unwrap());
        let destinations: Vec<_> = config.destinations.iter().map(with_id).collect();
        let ids = destinations.iter().map(|(_, id)| *id).collect();
        let intake = Intake::new(committer.clone(), Routes::new(config.routes.clone(), destinations), events);
        Stage { intake, committer, listener: config.listeners[0].clone(), told, ids, _folder: folder }
    }

    async fn send(&self, listener: &Arc<Listener>, control_id: &str, message_type: &str, content: &str) -> Result<Receipt, Refusal> {
        let mut keys = Keys::new();
        keys.set(Key::Listener, listener.name.as_bytes());
        keys.set(Key::ControlId, control_id.as_bytes());
        keys.set(Key::MessageType, message_type.as_bytes());
        self.intake.admit()?;
        let addressees = self.intake.route(&keys, Protocol::Mllp)?;
        self.intake.commit(listener, keys, Content::Whole(Bytes::copy_from_slice(content.as_bytes())), addressees).await
    }

    fn waiting(&self) -> Vec<u64> {
        let waiting = |id: &DestinationId| {
            let counts = self.committer.spool().counts(*id);
            counts.ready + counts.in_flight + counts.deferred + counts.held + counts.dead_letter
        };
        self.ids.iter().map(waiting).collect()
    }

    fn events(&self) -> Vec<Event> {
        self.told.try_iter().collect()
    }
}

fn record() -> AttemptRecord {
    AttemptRecord::new("a".into(), Phase::Answer, "AA".into(), 0)
}

#[tokio::test]
async fn a_message_is_committed_for_each_destination_and_told() {
    let stage = Stage::new();
    let receipt = stage.send(&stage.listener, "1", "ORU^R01", "MSH|one").await.unwrap();
    assert_eq!(stage.waiting(), [1, 1]);
    let events = stage.events();
    let [Event::Accepted { listener, message, bytes: 7, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!((&**listener, *message), ("in", receipt.message()));
}

#[tokio::test]
async fn no_route_is_told_once_per_kind() {
    let stage = Stage::new();
    for _ in 0..3 {
        assert_eq!(stage.send(&stage.listener, "1", "SIU^S12", "x").await.unwrap_err(), Refusal::NoRoute);
    }
    assert_eq!(stage.send(&stage.listener, "1", "MDM^T02", "x").await.unwrap_err(), Refusal::NoRoute);
    let notices = |events: Vec<Event>| -> Vec<String> {
        let what = |event| if let Event::ListenerNotice { what, .. } = event { Some(what) } else { None };
        events.into_iter().filter_map(what).collect()
    };
    let said = notices(stage.events());
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("no route for message type SIU^S12 from in"), "{said:?}");
    for kind in 0..2 * limits::NO_ROUTE_NOTICES_MAX {
        assert!(stage.send(&stage.listener, "1", &format!("Z{kind}"), "x").await.is_err());
    }
    assert_eq!(notices(stage.events()).len(), limits::NO_ROUTE_NOTICES_MAX - 2, "a peer that invents kinds cannot fill the log");
    stage.intake.reroute(Routes::new(Vec::new(), Vec::new()));
    assert!(stage.send(&stage.listener, "1", "SIU^S12", "x").await.is_err());
    assert_eq!(notices(stage.events()).len(), 1, "told again after a reload");
}

#[tokio::test]
async fn a_second_copy_is_answered_and_not_delivered_again() {
    let stage = Stage::new();
    let first = stage.send(&stage.listener, "1", "ADT^A01", "MSH|one").await.unwrap();
    let again = stage.send(&stage.listener, "1", "ADT^A01", "MSH|one").await.unwrap();
    assert_eq!((first.message(), stage.waiting()), (again.message(), vec![1, 0]));
    let other_content = stage.send(&stage.listener, "1", "ADT^A01", "MSH|two").await.unwrap();
    assert_ne!(first.message(), other_content.message());
    let other_id = stage.send(&stage.listener, "2", "ADT^A01", "MSH|one").await.unwrap();
    assert_ne!(first.message(), other_id.message());
    let other_destinations = stage.send(&stage.listener, "1", "ORU^R01", "MSH|one").await.unwrap();
    assert_ne!(first.message(), other_destinations.message());
    let other_listener = Arc::new(Listener { name: "in2".into(), ..(*stage.listener).clone() });
    assert_ne!(first.message(), stage.send(&other_listener, "1", "ADT^A01", "MSH|one").await.unwrap().message());
    assert_eq!(stage.waiting(), [5, 1]);
    let nameless = stage.send(&stage.listener, "", "ADT^A01", "MSH|one").await.unwrap();
    assert_ne!(nameless.message(), stage.send(&stage.listener, "", "ADT^A01", "MSH|one").await.unwrap().message(), "nothing tells them apart");
}

#[tokio::test]
async fn a_copy_of_what_is_delivered_counts_and_of_what_is_dead_or_discarded_does_not() {
    let stage = Stage::new();
    let spool = stage.committer.spool();
    let first = stage.send(&stage.listener, "1", "ADT^A01", "MSH|one").await.unwrap();
    let envelope = spool.take(stage.ids[0]).unwrap().unwrap();
    stage.committer.settle(envelope.id, Settlement::Delivered(record(), Delivered::Ok)).await.unwrap();
    assert_eq!(stage.send(&stage.listener, "1", "ADT^A01", "MSH|one").await.unwrap().message(), first.message());
    assert_eq!(stage.waiting(), [0, 0]);

    let first = stage.send(&stage.listener, "2", "ADT^A01", "MSH|two").await.unwrap();
    let envelope = spool.take(stage.ids[0]).unwrap().unwrap();
    stage.committer.settle(envelope.id, Settlement::DeadLetter(record(), LaneRule::Continue)).await.unwrap();
    let second = stage.send(&stage.listener, "2", "ADT^A01", "MSH|two").await.unwrap();
    assert_ne!(first.message(), second.message());
    let waiting = spool.take(stage.ids[0]).unwrap().unwrap();
    assert_eq!(waiting.message, second.message());
    spool.untake(waiting.id);
    stage.committer.decide(waiting.id, Decision::Discard { reason: "test".to_owned() }).await.unwrap();
    let third = stage.send(&stage.listener, "2", "ADT^A01", "MSH|two").await.unwrap();
    assert!(third.message() != second.message() && third.message() != first.message());
}

#[tokio::test]
async fn copies_are_delivered_unless_the_listener_says_otherwise() {
    let stage = Stage::with(&CONFIG.replace("duplicates = 'same-content'\n", ""));
    let first = stage.send(&stage.listener, "1", "ADT^A01", "MSH|one").await.unwrap();
    let again = stage.send(&stage.listener, "1", "ADT^A01", "MSH|one").await.unwrap();
    assert_ne!(first.message(), again.message());
    assert_eq!(stage.waiting(), [2, 0]);
    let envelope = stage.committer.spool().take(stage.ids[0]).unwrap().unwrap();
    assert_eq!(envelope.keys.get(Key::Sha256), None, "nobody compares it, so nobody pays for it");
    let mut writer = stage.intake.content_writer(&stage.listener).unwrap();
    writer.write(b"x").unwrap();
    assert_eq!(writer.finish().sha256(), None);
}

#[tokio::test]
async fn a_streamed_copy_is_known_too() {
    let stage = Stage::new();
    let mut messages = Vec::new();
    for _ in 0..2 {
        let mut keys = Keys::new();
        keys.set(Key::Listener, b"in");
        keys.set(Key::ControlId, b"1");
        keys.set(Key::MessageType, b"ADT^A01");
        let mut writer = stage.intake.content_writer(&stage.listener).unwrap();
        writer.write(&[b'x'; 300_000]).unwrap();
        let addressees = stage.intake.route(&keys, Protocol::Mllp).unwrap();
        let content = Content::Streamed(writer.finish());
        messages.push(stage.intake.commit(&stage.listener, keys, content, addressees).await.unwrap().message());
    }
    assert_eq!((messages[0], stage.waiting()), (messages[1], vec![1, 0]));
    let accepted = |event: &Event| matches!(event, Event::Accepted { bytes: 300_000, .. });
    assert_eq!(stage.events().iter().filter(|event| accepted(event)).count(), 2);
}

#[tokio::test]
async fn after_a_stop_nothing_new_comes_in() {
    let stage = Stage::new();
    let mut keys = Keys::new();
    keys.set(Key::Listener, b"in");
    keys.set(Key::MessageType, b"ADT^A01");
    let addressees = stage.intake.route(&keys, Protocol::Mllp).unwrap();
    stage.intake.stop();
    assert_eq!(stage.intake.admit(), Err(Refusal::Stopping));
    assert_eq!(stage.intake.content_writer(&stage.listener).err(), Some(Refusal::Stopping));
    let whole = stage.intake.commit(&stage.listener, keys, Content::Whole(Bytes::from_static(b"x")), addressees).await;
    assert!(whole.is_ok(), "what came in whole before the stop is still taken");
}

#[test]
fn every_failure_of_the_spool_is_a_refusal() {
    let cause = || std::io::Error::other("EIO");
    assert_eq!(refusal(&SpoolError::Reserve { free: 0, reserve: 1 }), Refusal::Reserve);
    assert_eq!(refusal(&SpoolError::NotDurable { phase: "sync", cause: cause() }), Refusal::Sync);
    assert_eq!(refusal(&SpoolError::Disk { doing: "x".to_owned(), cause: cause() }), Refusal::Sync);
    assert_eq!(refusal(&SpoolError::Limit(String::new())), Refusal::Limit);
}

#[test]
fn the_fingerprint_stays_the_same_in_every_version() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("everpost.toml");
    std::fs::write(&file, CONFIG).unwrap();
    let listener = Config::load(&file).unwrap().listeners[0].clone();
    let mut keys = Keys::new();
    keys.set(Key::ControlId, b"1");
    // FNV-1a of "in", 0, 1, "1": it stands in the spool.
    assert_eq!(fingerprint(&listener, &keys), Some(0x9299_c98f_0841_e230));
}
