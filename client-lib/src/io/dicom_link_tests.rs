//! The pool of associations against a peer that follows a script, with a real spool under it.

#![allow(clippy::unwrap_used, clippy::disallowed_types, clippy::disallowed_methods, reason = "tests")]

use super::*;
use crate::config::{Ambiguous, Destination, Endpoint, HealthSettings, LaneRule, OnAe, Policy, Probe, SpoolSettings};
use crate::delivery::standby::Refusal;
use crate::dicom::pdu::Reject;
use crate::dicom::synthetic;
use crate::dicom::walker::{EXPLICIT_LITTLE, IMPLICIT_LITTLE};
use crate::io::courier::Met;
use crate::io::dicom_peer::{Act, Peer, Query, Script};
use crate::io::dicom_probe::failure;
use crate::io::disk::Directory;
use crate::keys::Protocol;
use crate::spool::{Addressee, Content, Draft, Lane};
use std::num::NonZeroU16;
use tokio::time::timeout;

const CT: &str = "1.2.840.10008.5.1.4.1.1.2";
const MR: &str = "1.2.840.10008.5.1.4.1.1.4";
const JPEG: &str = "1.2.840.10008.1.2.4.50";
/// (0008,0060) CS "CT", explicit and implicit.
const EXPLICIT: &[u8] = b"\x08\x00\x60\x00CS\x02\x00CT";
const IMPLICIT: &[u8] = b"\x08\x00\x60\x00\x02\x00\x00\x00CT";

struct Rig {
    courier: DicomCourier,
    spool: Arc<Spool>,
    destination: DestinationId,
    peer: Peer,
    told: Arc<Mutex<Vec<String>>>,
    _folder: tempfile::TempDir,
}

fn destination(peer: &Peer) -> Destination {
    let health = HealthSettings::of(Probe::DicomEcho);
    let endpoint = Endpoint {
        name: "a".into(),
        host: peer.address.ip().to_string(),
        port: peer.address.port(),
        finding: crate::config::Finding::Any,
        tier: 0,
        ae_title: "PACS".into(),
        tls: None,
        weight: 1,
        site: None,
        health,
    };
    Destination {
        name: "pacs".into(),
        protocol: Protocol::Dicom,
        policy: Policy::Failover,
        ordering: Ordering::None,
        connect_timeout: Duration::from_secs(2),
        ack_timeout: Duration::from_secs(5),
        attempts_before_failover: 2,
        hold_down: Duration::from_secs(30),
        hold_down_max: Duration::from_secs(1800),
        failback_auto: true,
        failback_window: None,
        ambiguous: Ambiguous::Resend,
        on_ae: OnAe::DeadLetter,
        after_dead_letter: LaneRule::Continue,
        after_hold: LaneRule::Stop,
        reject_alarm: Duration::from_secs(3600),
        retry_first: Duration::from_secs(1),
        retry_max: Duration::from_secs(60),
        silence_as_asked: false,
        calling_ae: CallingAe::Pass,
        associations: NonZeroU16::MIN,
        window: NonZeroU16::MIN,
        convert: false,
        idle_release: Duration::from_secs(10),
        endpoints: vec![Arc::new(endpoint)],
        replay_window: Duration::ZERO,
        resync: false,
        objectives: crate::config::Objectives::default(),
        reconcile: false,
        drill: crate::config::DrillSettings::default(),
        not_acting: Vec::new(),
    }
}

async fn rig(script: Script, settings: impl FnOnce(&mut Destination)) -> Rig {
    let peer = Peer::start(script).await;
    let mut config = destination(&peer);
    settings(&mut config);
    let folder = tempfile::tempdir().unwrap();
    let settings = SpoolSettings { reserve: 0, segment_size: 4 << 20, ..SpoolSettings::default() };
    let (spool, _) = Spool::open(Directory::open(folder.path()).unwrap(), settings, Events::none()).unwrap();
    let spool = Arc::new(spool);
    let destination = spool.destination("pacs").unwrap();
    let told = Arc::<Mutex<Vec<String>>>::default();
    let hear = told.clone();
    let events = Events::to(move |event| {
        if let Event::EndpointNotice { what, .. } = event {
            hear.lock().unwrap().push(what);
        }
    });
    let courier = DicomCourier::new(Arc::new(config), vec![None], spool.clone(), events, &resolver());
    Rig { courier, spool, destination, peer, told, _folder: folder }
}

impl Rig {
    fn put(&self, ae: &str, class: &str, syntax: &str, content: &[u8]) {
        let mut keys = Keys::new();
        for (key, value) in [(Key::CallingAe, ae), (Key::SopClass, class), (Key::SopInstance, "1.2.3"), (Key::TransferSyntax, syntax)] {
            keys.set(key, value.as_bytes());
        }
        keys.set(Key::Priority, &[2, 0]);
        keys.set(Key::MoveOriginatorAe, b"MOVER");
        keys.set(Key::MoveOriginatorId, &[7, 1]);
        let addressees = vec![Addressee { destination: self.destination, lane: Lane::Own, stat: false }];
        let content = Content::Whole(content.to_vec().into());
        let _receipt = self.spool.commit(Draft { keys, content, accepted_at: 0, addressees, fingerprint: None }).unwrap();
    }

    /// An attempt of the next waiting envelope.
    fn attempt(&self, fresh: bool) -> Boxed<Outcome> {
        let envelope = self.spool.take(self.destination).unwrap().unwrap();
        self.courier.attempt(Order { envelope, endpoint: EndpointId(0), fresh, ask: false, met: Met::default() })
    }

    async fn deliver(&self, ae: &str, class: &str, syntax: &str, content: &[u8]) -> Outcome {
        self.put(ae, class, syntax, content);
        timeout(Duration::from_secs(20), self.attempt(false)).await.unwrap()
    }
}

const STORED: Outcome = Outcome::Stored { status: 0 };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_association_is_used_again_and_says_what_came_with_the_object() {
    let rig = rig(Script::default(), |_| ()).await;
    let large: Vec<u8> = (0..1_500_000).map(|n: u32| (n % 251) as u8).collect();
    for content in [EXPLICIT, &large] {
        assert_eq!(rig.deliver("CT1", CT, EXPLICIT_LITTLE, content).await, STORED);
    }
    assert_eq!(rig.courier.connected(EndpointId(0)), [rig.peer.address]);
    let heard = rig.peer.heard.lock().unwrap();
    assert_eq!(heard.associations, [("CT1".to_owned(), 1)]);
    assert!(heard.objects[0].1 == EXPLICIT && heard.objects[1].1 == large);
    let request = heard.request.as_ref().unwrap();
    assert_eq!((request.priority, request.move_originator_ae.as_deref(), request.move_originator_id), (2, Some("MOVER"), Some(263)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_is_proposed_at_once() {
    let rig = rig(Script::default(), |d| d.convert = true).await;
    rig.put("CT1", CT, EXPLICIT_LITTLE, EXPLICIT);
    rig.put("CT1", MR, JPEG, EXPLICIT);
    rig.put("MR1", MR, EXPLICIT_LITTLE, EXPLICIT);
    assert_eq!(rig.attempt(false).await, STORED);
    assert_eq!(rig.attempt(false).await, STORED);
    // CT as it is, implicit, deflated; MR in JPEG; nothing of another calling AE title.
    assert_eq!(rig.peer.heard.lock().unwrap().associations, [("CT1".to_owned(), 4)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_association_that_does_not_fit_gives_its_place_to_one_that_does() {
    let rig = rig(Script::default(), |_| ()).await;
    assert_eq!(rig.deliver("CT1", CT, EXPLICIT_LITTLE, EXPLICIT).await, STORED);
    assert_eq!(rig.deliver("CT1", MR, EXPLICIT_LITTLE, EXPLICIT).await, STORED);
    assert_eq!(rig.deliver("MR1", MR, EXPLICIT_LITTLE, EXPLICIT).await, STORED);
    assert_eq!(rig.deliver("MR1", MR, EXPLICIT_LITTLE, EXPLICIT).await, STORED);
    let heard = rig.peer.heard.lock().unwrap();
    // The second one proposes what was sent before, too.
    assert_eq!(heard.associations, [("CT1".to_owned(), 1), ("CT1".to_owned(), 2), ("MR1".to_owned(), 1)]);
    assert_eq!((heard.releases, heard.open_most), (2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn never_more_associations_than_configured() {
    // Two objects are never answered: the others pass them on the third association.
    let script = Script { acts: [Act::Silence, Act::Silence].into(), ..Script::default() };
    let rig = rig(script, |d| (d.associations, d.ack_timeout) = (NonZeroU16::new(3).unwrap(), Duration::from_secs(1))).await;
    (0..12).for_each(|_| rig.put("CT1", CT, EXPLICIT_LITTLE, &vec![1; 300_000]));
    let attempts: Vec<_> = (0..12).map(|_| tokio::spawn(rig.attempt(false))).collect();
    let mut stored = 0;
    for attempt in attempts {
        stored += usize::from(attempt.await.unwrap() == STORED);
    }
    let heard = rig.peer.heard.lock().unwrap();
    assert_eq!((stored, heard.objects.len(), heard.open_most, heard.associations.len()), (10, 12, 3, 3));
}

/// Sends `count` objects at once; all must be stored.
async fn burst(rig: &Rig, count: usize) {
    (0..count).for_each(|_| rig.put("CT1", CT, EXPLICIT_LITTLE, &vec![1; 300_000]));
    let attempts: Vec<_> = (0..count).map(|_| tokio::spawn(rig.attempt(false))).collect();
    for attempt in attempts {
        assert_eq!(timeout(Duration::from_secs(20), attempt).await.unwrap().unwrap(), STORED);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_more_titles_than_places_associations_take_turns() {
    let rig = rig(Script::default(), |d| d.associations = NonZeroU16::new(2).unwrap()).await;
    for number in 0..120 {
        rig.put(&format!("CT{}", number % 6), CT, EXPLICIT_LITTLE, &vec![1; 100_000]);
    }
    let attempts: Vec<_> = (0..120).map(|_| tokio::spawn(rig.attempt(false))).collect();
    for attempt in attempts {
        assert_eq!(timeout(Duration::from_secs(20), attempt).await.unwrap().unwrap(), STORED);
    }
    let heard = rig.peer.heard.lock().unwrap();
    assert_eq!(heard.open_most, 2);
    assert!(heard.associations.len() < 24, "{} associations for 120 objects of 6 titles", heard.associations.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_title_that_never_rests_gives_way_after_its_turn() {
    let rig = Arc::new(rig(Script::default(), |_| ()).await);
    let busy = {
        let rig = rig.clone();
        tokio::spawn(async move {
            loop {
                rig.put("BUSY", CT, EXPLICIT_LITTLE, EXPLICIT);
                rig.put("BUSY", CT, EXPLICIT_LITTLE, EXPLICIT);
                let (one, other) = (tokio::spawn(rig.attempt(false)), tokio::spawn(rig.attempt(false)));
                assert_eq!((one.await.unwrap(), other.await.unwrap()), (STORED, STORED));
            }
        })
    };
    timeout(Duration::from_secs(5), rig.peer.until(|heard| heard.objects.len() > 10)).await.unwrap();
    let begun = Instant::now();
    // Whose envelope `take` hands out is a matter of the moment; a key table of its own is not.
    let mut keys = Keys::new();
    for (key, value) in [(Key::CallingAe, "OTHER"), (Key::SopClass, CT), (Key::SopInstance, "1.2"), (Key::TransferSyntax, EXPLICIT_LITTLE)] {
        keys.set(key, value.as_bytes());
    }
    let need = rig.courier.0.need(&keys);
    let lease = timeout(Duration::from_secs(10), rig.courier.0.acquire(&rig.courier.0.seats[0], &need, false, rig.destination, &Met::default()))
        .await
        .unwrap();
    assert!(lease.is_ok());
    assert!(begun.elapsed() < 3 * crate::limits::ASSOCIATION_TURN, "{:?}", begun.elapsed());
    busy.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_shares_the_failure_to_connect() {
    let rig = rig(Script { mute: true, ..Script::default() }, |d| d.connect_timeout = Duration::from_millis(300)).await;
    (0..20).for_each(|_| rig.put("CT1", CT, EXPLICIT_LITTLE, EXPLICIT));
    let begun = Instant::now();
    let attempts: Vec<_> = (0..20).map(|_| tokio::spawn(rig.attempt(false))).collect();
    for attempt in attempts {
        assert!(matches!(attempt.await.unwrap(), Outcome::NotSent { phase: Phase::Associate, timeout: true, .. }));
    }
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_takes_fewer_associations_than_configured_is_no_failing_peer() {
    let serial = Script { serial: true, ..Script::default() };
    let limited = Script { most: 2, ..Script::default() };
    for (script, most) in [(serial, 1), (limited, 2)] {
        let rig = rig(script, |d| (d.associations, d.connect_timeout) = (NonZeroU16::new(4).unwrap(), Duration::from_millis(200))).await;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(600) {
            burst(&rig, 8).await;
        }
        let heard = rig.peer.heard.lock().unwrap();
        assert_eq!((heard.open_most, heard.associations.len()), (most, most));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_hangs_is_failing_although_one_association_is_open() {
    let script = Script { serial: true, acts: [Act::Answer(0), Act::Silence].into(), ..Script::default() };
    let rig = rig(script, |d| (d.associations, d.connect_timeout) = (NonZeroU16::new(4).unwrap(), Duration::from_millis(200))).await;
    assert_eq!(rig.deliver("CT1", CT, EXPLICIT_LITTLE, EXPLICIT).await, STORED);
    rig.put("CT1", CT, EXPLICIT_LITTLE, EXPLICIT);
    let _hanging = tokio::spawn(rig.attempt(false));
    timeout(Duration::from_secs(5), rig.peer.until(|heard| heard.objects.len() == 2)).await.unwrap();
    let outcome = rig.deliver("CT1", CT, EXPLICIT_LITTLE, EXPLICIT).await;
    assert!(matches!(outcome, Outcome::NotSent { phase: Phase::Associate, timeout: true, .. }), "{outcome:?}");
}

/// While it takes a large object, longer than `connect_timeout`, a peer with one association answers nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_busy_with_a_large_object_is_no_failing_peer() {
    let script = Script { serial: true, slow: 5, ..Script::default() };
    let rig = rig(script, |d| {
        (d.associations, d.connect_timeout, d.ack_timeout) = (NonZeroU16::new(4).unwrap(), Duration::from_millis(200), Duration::from_secs(30));
    })
    .await;
    let large = vec![0; 16 << 20];
    let attempts = [&large[..], EXPLICIT, EXPLICIT].map(|content| {
        rig.put("CT1", CT, EXPLICIT_LITTLE, content);
        tokio::spawn(rig.attempt(false))
    });
    for attempt in attempts {
        assert_eq!(timeout(Duration::from_secs(60), attempt).await.unwrap().unwrap(), STORED);
    }
    assert_eq!(rig.courier.remark(EndpointId(0)).as_deref(), Some("takes 1 association at a time; `associations` = 4"));
    let told = rig.told.lock().unwrap();
    assert_eq!(told.len(), 1, "once: {told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_collision_is_answered() {
    let rig = rig(Script { collides: true, ..Script::default() }, |d| d.idle_release = Duration::from_millis(50)).await;
    assert_eq!(rig.deliver("CT1", CT, EXPLICIT_LITTLE, EXPLICIT).await, STORED);
    timeout(Duration::from_secs(20), rig.peer.until(|heard| heard.releases == 1)).await.expect("an answer to the peer's own request");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_class_refused_as_it_is_goes_converted_where_that_is_allowed() {
    let script = |acts: &[Act]| Script { acts: acts.iter().copied().collect(), ..Script::default() };
    let refused = Outcome::Stored { status: 0x0122 };
    let converting = rig(script(&[Act::Answer(0x0122)]), |d| d.convert = true).await;
    assert_eq!(converting.deliver("CT1", CT, EXPLICIT_LITTLE, EXPLICIT).await, STORED);
    assert_eq!(
        converting.peer.heard.lock().unwrap().objects.iter().map(|(syntax, _)| &**syntax).collect::<Vec<_>>(),
        [EXPLICIT_LITTLE, IMPLICIT_LITTLE]
    );
    for (acts, convert, syntax, tries) in [
        (&[Act::Answer(0x0122)][..], false, EXPLICIT_LITTLE, 1),
        (&[Act::Answer(0x0122)], true, JPEG, 1),
        (&[Act::Answer(0x0122), Act::Answer(0x0122)], true, EXPLICIT_LITTLE, 2),
    ] {
        let rig = rig(script(acts), |d| d.convert = convert).await;
        assert_eq!(rig.deliver("CT1", CT, syntax, EXPLICIT).await, refused);
        assert_eq!(rig.peer.heard.lock().unwrap().objects.len(), tries);
    }
    let picky = Script { syntaxes: vec![EXPLICIT_LITTLE], ..script(&[Act::Answer(0x0122)]) };
    let rig = rig(picky, |d| d.convert = true).await;
    assert_eq!(rig.deliver("CT1", CT, EXPLICIT_LITTLE, EXPLICIT).await, refused, "it takes nothing else: its own word counts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_gets_room_at_a_peer_that_takes_one_association() {
    let rig = rig(Script { serial: true, ..Script::default() }, |d| {
        let mut endpoint = (*d.endpoints[0]).clone();
        endpoint.health.timeout = Duration::from_millis(600);
        d.endpoints = vec![Arc::new(endpoint)];
    })
    .await;
    assert_eq!(rig.deliver("CT1", CT, EXPLICIT_LITTLE, EXPLICIT).await, STORED);
    for _ in 0..2 {
        assert_eq!(rig.courier.probe(EndpointId(0), false).await.map(drop), Ok(()));
    }
    assert_eq!(rig.deliver("CT1", CT, EXPLICIT_LITTLE, EXPLICIT).await, STORED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_window_is_used_when_granted_and_order_allows() {
    for ordering in [Ordering::None, Ordering::Study] {
        let script = Script { acts: [Act::AnswerAfterNext(0)].into(), ..Script::default() };
        let rig = rig(script, |d| {
            (d.window, d.ordering, d.ack_timeout) = (NonZeroU16::new(4).unwrap(), ordering, Duration::from_millis(300));
        })
        .await;
        rig.put("CT1", CT, EXPLICIT_LITTLE, EXPLICIT);
        let first = tokio::spawn(rig.attempt(false));
        timeout(Duration::from_secs(5), rig.peer.until(|heard| heard.objects.len() == 1)).await.unwrap();
        assert_eq!(rig.deliver("CT1", CT, EXPLICIT_LITTLE, EXPLICIT).await, STORED);
        // With an order, the second one waits for the end of the first one, whose answer never comes then.
        let first = first.await.unwrap();
        assert_eq!(first == STORED, ordering == Ordering::None, "{first:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_is_converted_only_where_it_must_and_may_be() {
    let picky = || Script { syntaxes: vec![IMPLICIT_LITTLE], ..Script::default() };
    let refused = |syntax: &str| Outcome::NoContext { sop_class: CT.into(), transfer_syntax: syntax.into() };
    let strict = rig(picky(), |_| ()).await;
    assert_eq!(strict.deliver("CT1", CT, EXPLICIT_LITTLE, EXPLICIT).await, refused(EXPLICIT_LITTLE));
    assert_eq!(strict.deliver("CT1", CT, EXPLICIT_LITTLE, EXPLICIT).await, refused(EXPLICIT_LITTLE));
    assert_eq!(strict.peer.heard.lock().unwrap().associations.len(), 1, "what was refused is not asked again");
    let converting = rig(picky(), |d| d.convert = true).await;
    assert_eq!(converting.deliver("CT1", CT, EXPLICIT_LITTLE, EXPLICIT).await, STORED);
    assert_eq!(converting.deliver("CT1", CT, IMPLICIT_LITTLE, IMPLICIT).await, STORED);
    assert_eq!(converting.deliver("CT1", CT, JPEG, EXPLICIT).await, refused(JPEG));
    let broken = converting.deliver("CT1", CT, EXPLICIT_LITTLE, &EXPLICIT[..9]).await;
    assert!(matches!(broken, Outcome::Local { permanent: true, .. }), "{broken:?}");
    let heard = converting.peer.heard.lock().unwrap();
    assert_eq!(heard.objects, vec![(IMPLICIT_LITTLE.to_owned(), IMPLICIT.to_vec()); 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_attempt_takes_no_kept_association() {
    let rig = rig(Script::default(), |_| ()).await;
    assert_eq!(rig.deliver("CT1", CT, EXPLICIT_LITTLE, EXPLICIT).await, STORED);
    rig.put("CT1", CT, EXPLICIT_LITTLE, EXPLICIT);
    assert_eq!(rig.attempt(true).await, STORED);
    assert_eq!(rig.peer.heard.lock().unwrap().associations.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_left_costs_nothing() {
    let script = Script { acts: [Act::AnswerAndClose(0), Act::AnswerAndRelease(0)].into(), ..Script::default() };
    let rig = rig(script, |_| ()).await;
    for _ in 0..3 {
        assert_eq!(rig.deliver("CT1", CT, EXPLICIT_LITTLE, EXPLICIT).await, STORED);
        tokio::time::timeout(Duration::from_millis(200), rig.peer.until(|_| false)).await.unwrap_err();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_to_open_are_told_apart() {
    let reject = crate::dicom::pdu::Reject::LOCAL_LIMIT;
    let rejecting = rig(Script { reject: Some(reject), ..Script::default() }, |_| ()).await;
    let expected = Outcome::AssociationRejected { permanent: false, source: 3, reason: 2 };
    assert_eq!(rejecting.deliver("CT1", CT, EXPLICIT_LITTLE, EXPLICIT).await, expected);
    assert_eq!(rejecting.courier.probe(EndpointId(0), false).await.unwrap_err().phase, Phase::Associate);
    let mute = rig(Script { mute: true, ..Script::default() }, |d| d.connect_timeout = Duration::from_millis(100)).await;
    let outcome = mute.deliver("CT1", CT, EXPLICIT_LITTLE, EXPLICIT).await;
    assert!(matches!(outcome, Outcome::NotSent { phase: Phase::Associate, timeout: true, .. }), "{outcome:?}");
    let gone = rig(Script::default(), |d| {
        // A port nobody listens on: bound for a moment, then given back.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let endpoint = Endpoint { port, ..(*d.endpoints[0]).clone() };
        d.endpoints = vec![Arc::new(endpoint)];
    })
    .await;
    let outcome = gone.deliver("CT1", CT, EXPLICIT_LITTLE, EXPLICIT).await;
    assert!(matches!(outcome, Outcome::NotSent { phase: Phase::Connect, timeout: false, .. }), "{outcome:?}");
    assert_eq!(gone.courier.probe(EndpointId(0), false).await.unwrap_err().phase, Phase::Connect);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_echoes_beside_the_associations_and_drain_releases_them() {
    let rig = rig(Script::default(), |_| ()).await;
    assert_eq!(rig.deliver("CT1", CT, EXPLICIT_LITTLE, EXPLICIT).await, STORED);
    assert_eq!(rig.courier.probe(EndpointId(0), false).await.map(drop), Ok(()));
    assert_eq!(rig.peer.heard.lock().unwrap().associations[1], ("EVERPOST".to_owned(), 1));
    rig.courier.drain(EndpointId(0));
    timeout(Duration::from_secs(5), rig.peer.until(|heard| heard.releases == 2)).await.unwrap();
    assert!(rig.courier.connected(EndpointId(0)).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_the_end_idle_associations_are_released() {
    let rig = rig(Script::default(), |_| ()).await;
    assert_eq!(rig.deliver("CT1", CT, EXPLICIT_LITTLE, EXPLICIT).await, STORED);
    rig.courier.close().await;
    assert_eq!(rig.peer.heard.lock().unwrap().releases, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_given_up_frees_its_place() {
    let script = Script { acts: [Act::Silence].into(), ..Script::default() };
    let rig = rig(script, |d| d.ack_timeout = Duration::from_secs(600)).await;
    rig.put("CT1", CT, EXPLICIT_LITTLE, EXPLICIT);
    let attempt = tokio::spawn(rig.attempt(false));
    timeout(Duration::from_secs(5), rig.peer.until(|heard| heard.objects.len() == 1)).await.unwrap();
    attempt.abort();
    assert_eq!(rig.deliver("CT1", CT, EXPLICIT_LITTLE, EXPLICIT).await, STORED);
    assert_eq!(rig.peer.heard.lock().unwrap().aborts, 1);
}

/// A destination whose probes store.
fn storing(look_up: bool) -> impl FnOnce(&mut Destination) {
    move |d| {
        let health = HealthSettings::of(Probe::DicomStore { every: Duration::from_secs(300), look_up });
        d.endpoints = vec![Arc::new(Endpoint { health, ..(*d.endpoints[0]).clone() })];
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_that_stores_sends_the_synthetic_object_and_only_when_told() {
    let script = Script { acts: [Act::Answer(0), Act::Answer(0x0111), Act::Answer(0xA700)].into(), ..Script::default() };
    let rig = rig(script, storing(false)).await;
    assert_eq!(rig.courier.probe(EndpointId(0), false).await.map(drop), Ok(()));
    assert_eq!(rig.peer.heard.lock().unwrap().objects.len(), 0, "in between it echoes");
    for _ in 0..2 {
        assert_eq!(rig.courier.probe(EndpointId(0), true).await.map(drop), Ok(()));
    }
    let failed = rig.courier.probe(EndpointId(0), true).await.unwrap_err();
    assert!(failed.phase == Phase::Answer && failed.cause.contains("A700H"), "{failed:?}");
    let heard = rig.peer.heard.lock().unwrap();
    assert_eq!(heard.objects, vec![(IMPLICIT_LITTLE.to_owned(), synthetic::object()); 3]);
    assert_eq!(heard.request.as_ref().unwrap().sop_instance, synthetic::INSTANCE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_without_queries_cannot_be_looked_up_at() {
    let rig = rig(Script { query: Query::Unknown, ..Script::default() }, storing(true)).await;
    let failed = rig.courier.probe(EndpointId(0), true).await.unwrap_err();
    assert!(failed.phase == Phase::Associate && failed.cause.contains("look_up = false"), "{failed:?}");
}

fn kind(ae: &str, class: &str, syntax: &str) -> Kind {
    Kind { calling_ae: ae.into(), sop_class: class.into(), transfer_syntax: syntax.into(), modality: "CT".into() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rehearsal_finds_what_would_be_refused_and_sends_nothing() {
    let rig = rig(Script { syntaxes: vec![EXPLICIT_LITTLE], ..Script::default() }, |_| ()).await;
    let good = vec![kind("CT1", CT, EXPLICIT_LITTLE), kind("MR1", MR, EXPLICIT_LITTLE)];
    let within = Duration::from_secs(5);
    assert_eq!(rig.courier.rehearse(EndpointId(0), good.clone(), within).await, Ok(vec![]));
    let bad = vec![kind("CT1", CT, JPEG), kind("CT1", MR, JPEG), kind("CT1", CT, EXPLICIT_LITTLE)];
    let found = rig.courier.rehearse(EndpointId(0), bad.clone(), within).await;
    assert_eq!(found, Ok(vec![Refusal::Syntax(bad[0].clone()), Refusal::Syntax(bad[1].clone())]));
    timeout(Duration::from_secs(5), rig.peer.until(|heard| heard.releases == 3)).await.unwrap();
    let heard = rig.peer.heard.lock().unwrap();
    assert_eq!(heard.associations, [("CT1".to_owned(), 1), ("MR1".to_owned(), 1), ("CT1".to_owned(), 3)]);
    assert!(heard.objects.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rehearsal_of_much_takes_several_associations() {
    let rig = rig(Script::default(), |d| d.convert = true).await;
    let kinds: Vec<Kind> = (0..100).map(|n| kind("", &format!("1.2.{n}"), EXPLICIT_LITTLE)).collect();
    assert_eq!(rig.courier.rehearse(EndpointId(0), kinds, Duration::from_secs(5)).await, Ok(vec![]));
    let heard = rig.peer.heard.lock().unwrap();
    assert!(heard.associations.len() > 1 && heard.associations.iter().all(|(ae, contexts)| ae == "EVERPOST" && *contexts <= 128), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_title_that_is_rejected_is_found_before_it_is_needed() {
    let reject = Reject { result: 1, source: 1, reason: 3 };
    let rig = rig(Script { reject: Some(reject), ..Script::default() }, |_| ()).await;
    let found = rig.courier.rehearse(EndpointId(0), vec![kind("CT1", CT, JPEG)], Duration::from_secs(5)).await.unwrap();
    assert!(matches!(&found[..], [Refusal::Title { calling_ae, why }] if calling_ae == "CT1" && why.contains("calling AE title not recognized")));
    let mute = self::rig(Script { mute: true, ..Script::default() }, |_| ()).await;
    let stumble = mute.courier.rehearse(EndpointId(0), vec![], Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(stumble.phase, Phase::Associate);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_long_the_answer_took_is_told() {
    let rig = rig(Script::default(), |_| ()).await;
    rig.put("CT1", CT, EXPLICIT_LITTLE, EXPLICIT);
    let envelope = rig.spool.take(rig.destination).unwrap().unwrap();
    let met = Met::default();
    let order = Order { envelope, endpoint: EndpointId(0), fresh: false, ask: false, met: met.clone() };
    assert_eq!(rig.courier.attempt(order).await, STORED);
    assert!(met.answer().is_some());
}

/// What the peer of these tests has.
const THERE: [&str; 3] = ["1.2", "1.2.1", "1.2.1.1"];

impl Rig {
    /// A replay of an instance: what becomes of it.
    async fn replay(&self, [study, series, instance]: [&str; 3]) -> Outcome {
        self.put("CT1", CT, EXPLICIT_LITTLE, EXPLICIT);
        let mut envelope = self.spool.take(self.destination).unwrap().unwrap();
        let mut keys = (*envelope.keys).clone();
        for (key, value) in [(Key::Study, study), (Key::Series, series), (Key::SopInstance, instance)] {
            keys.set(key, value.as_bytes());
        }
        envelope.keys = Arc::new(keys);
        let order = Order { envelope, endpoint: EndpointId(0), fresh: false, ask: true, met: Met::default() };
        timeout(Duration::from_secs(20), self.courier.attempt(order)).await.unwrap()
    }

    fn stored(&self) -> usize {
        self.peer.heard.lock().unwrap().objects.len()
    }

    fn queries(&self) -> Vec<String> {
        self.peer.heard.lock().unwrap().queries.clone()
    }

    fn told(&self) -> Vec<String> {
        self.told.lock().unwrap().clone()
    }
}

fn holding(query: Query) -> Script {
    Script { holds: vec![THERE, ["1.2", "1.2.1", "1.2.1.3"]], query, ..Script::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_endpoint_has_is_not_sent_and_a_series_is_asked_for_once() {
    let rig = rig(holding(Query::Answers), |_| ()).await;
    assert_eq!(rig.replay(THERE).await, Outcome::AlreadyThere);
    assert_eq!(rig.replay(["1.2", "1.2.1", "1.2.1.2"]).await, STORED);
    assert_eq!(rig.replay(["1.2", "1.2.1", "1.2.1.3"]).await, Outcome::AlreadyThere);
    assert_eq!((rig.stored(), rig.queries()), (1, vec!["STUDY".to_owned(), "IMAGE".to_owned()]));
    // Of another series of the study, and of another study, it has nothing.
    assert_eq!(rig.replay(["1.2", "1.2.2", "1.2.2.1"]).await, STORED);
    assert_eq!(rig.replay(["1.3", "1.3.1", "1.3.1.1"]).await, STORED);
    assert_eq!(rig.replay(["1.3", "1.3.2", "1.3.2.1"]).await, STORED);
    assert_eq!(rig.queries()[2..], ["IMAGE", "STUDY"]);
    // Left and back: what it said counts no longer.
    rig.courier.drain(EndpointId(0));
    assert_eq!(rig.replay(THERE).await, Outcome::AlreadyThere);
    assert_eq!(rig.queries().len(), 6);
    assert!(rig.told().is_empty(), "{:?}", rig.told());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_study_is_sent_without_a_question() {
    let rig = rig(holding(Query::Answers), |_| ()).await;
    for keys in [["", "1.2.1", "1.2.1.1"], ["1.2", "", "1.2.1.1"], ["1.2", "x", "1.2.1.1"]] {
        assert_eq!(rig.replay(keys).await, STORED, "{keys:?}");
    }
    assert!(rig.queries().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_gives_no_answer_is_sent_everything_and_people_are_told_once() {
    for (query, why) in [(Query::Unknown, "no queries"), (Query::Fails(0xA900), "A900H"), (Query::Mute, "in time")] {
        let rig = rig(holding(query), |d| d.ack_timeout = Duration::from_millis(300)).await;
        assert_eq!(rig.courier.remark(EndpointId(0)), None);
        for _ in 0..3 {
            assert_eq!(rig.replay(THERE).await, STORED, "{query:?}");
        }
        assert!(rig.told().len() == 1 && rig.told()[0].contains(why), "{query:?}: {:?}", rig.told());
        assert!(rig.courier.remark(EndpointId(0)).is_some_and(|text| text.contains(why)), "{query:?}");
        assert!(rig.queries().len() <= 1, "{query:?}: asked again at once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_association_lost_between_questions_is_opened_again() {
    let rig = rig(Script { query: Query::ClosesOnce, ..holding(Query::Answers) }, |_| ()).await;
    assert_eq!(rig.replay(THERE).await, STORED, "lost on a fresh one: for a while everything is sent");
    rig.courier.drain(EndpointId(0));
    assert_eq!(rig.replay(THERE).await, Outcome::AlreadyThere);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_share_one_association_for_their_questions() {
    let rig = rig(holding(Query::Answers), |d| d.associations = NonZeroU16::new(2).unwrap()).await;
    let ended = futures_join((0..6).map(|n| rig.replay(if n % 2 == 0 { THERE } else { ["1.2", "1.2.1", "1.2.1.9"] })).collect()).await;
    assert_eq!(ended.iter().filter(|outcome| **outcome == Outcome::AlreadyThere).count(), 3);
    assert_eq!(rig.queries(), ["STUDY", "IMAGE"]);
    rig.peer.until(|heard| heard.releases >= 1).await;
    assert!(rig.peer.heard.lock().unwrap().open_most <= 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_cannot_be_reached_is_found_out_by_the_question() {
    let rig = rig(holding(Query::Answers), |d| Arc::make_mut(&mut d.endpoints[0]).port = 1).await;
    assert!(matches!(rig.replay(THERE).await, Outcome::NotSent { phase: Phase::Connect, .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_of_one_association_at_a_time_is_asked_all_the_same() {
    let rig = rig(Script { serial: true, ..holding(Query::Answers) }, |d| d.connect_timeout = Duration::from_secs(1)).await;
    assert_eq!(rig.deliver("CT1", CT, EXPLICIT_LITTLE, EXPLICIT).await, STORED);
    assert_eq!(rig.replay(THERE).await, Outcome::AlreadyThere, "{:?}", rig.told());
    assert_eq!(rig.replay(["1.2", "1.2.1", "1.2.1.9"]).await, STORED);
}

async fn futures_join<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, slot) in futures.iter_mut().zip(&mut done).filter(|(_, slot)| slot.is_none()) {
            if let std::task::Poll::Ready(value) = future.as_mut().poll(context) {
                *slot = Some(value);
            }
        }
        if done.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[test]
fn a_rejected_probe_names_the_remedy_that_fits() {
    let told = |source, reason| failure(Outcome::AssociationRejected { permanent: source == 1, source, reason }).cause;
    assert!(told(1, 7).contains("called AE title not recognized") && told(1, 7).contains("check the AE titles"), "{}", told(1, 7));
    for reason in [1, 2] {
        assert!(told(3, reason).contains("no more associations") && !told(3, reason).contains("AE title"), "{}", told(3, reason));
    }
}

fn resolver() -> Resolver {
    Resolver::new(&crate::config::Names::default(), Events::none(), crate::io::stop::Stop::new().1).unwrap()
}
