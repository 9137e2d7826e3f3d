//! PS3.8: rejects (9.3.4), aborts (9.3.8), the state table (9.2), timers (9.1.5), lengths nobody may believe.

use crate::dicom_peer::{CT, Gateway, IMPLICIT, Scu, data_set, read, request};
use everpost_client::dicom::association::Indication;
use everpost_client::dicom::pdu::{self, Abort, AssociationRQ, Received, Reject};
use everpost_client::dicom::uid;
use std::time::Duration;
use tokio::time::{Instant, timeout};

async fn answer_to(gateway: &Gateway, rq: AssociationRQ) -> Received {
    let mut peer = gateway.connect();
    peer.send(&pdu::encode_associate_rq(rq)).await;
    let answer = read(&peer.pdu().await.expect("an answer"));
    peer.leave().await;
    answer
}

#[tokio::test]
async fn rejects_name_source_and_reason() {
    let gateway = Gateway::new("ae_title = [\"EVERPOST\", \"CT_ROOM\"]\ncalling_ae = [\"MODALITY\"]", "");
    let rq = || request(&[(CT, IMPLICIT)], 1);
    let cases = [
        (AssociationRQ { called_ae_title: "OTHER".into(), ..rq() }, Reject::CALLED_AE),
        (AssociationRQ { calling_ae_title: "STRANGER".into(), ..rq() }, Reject::CALLING_AE),
        (AssociationRQ { application_context_name: "1.2.3".into(), ..rq() }, Reject::APPLICATION_CONTEXT),
        (AssociationRQ { protocol_version: 2, ..rq() }, Reject::PROTOCOL_VERSION),
    ];
    for (rq, expected) in cases {
        assert_eq!(answer_to(&gateway, rq).await, Received::AssociateRj(expected));
    }
    assert!(matches!(answer_to(&gateway, AssociationRQ { called_ae_title: "CT_ROOM".into(), ..rq() }).await, Received::AssociateAc(_)));
    assert!(gateway.notices().iter().any(|n| n.contains("1/1/7")), "{:?}", gateway.notices());
    gateway.close().await;
}

#[tokio::test]
async fn associations_are_limited_and_a_released_one_makes_room() {
    let gateway = Gateway::new("max_associations = 1", "");
    let scu = gateway.associate(&[(CT, IMPLICIT)], 1).await;
    assert_eq!(answer_to(&gateway, request(&[(CT, IMPLICIT)], 1)).await, Received::AssociateRj(Reject::LOCAL_LIMIT));
    assert_eq!(gateway.refusals(), ["limit"]);
    let lingering = scu.release_only().await;
    let scu = gateway.associate(&[(CT, IMPLICIT)], 1).await;
    scu.peer.leave().await; // without release
    lingering.leave().await;
    assert!(matches!(answer_to(&gateway, request(&[(CT, IMPLICIT)], 1)).await, Received::AssociateAc(_)));
    gateway.close().await;
}

#[tokio::test]
async fn one_address_leaves_associations_to_others() {
    let gateway = Gateway::new("max_associations = 8", "");
    let mut open = Vec::new();
    for _ in 0..8 {
        open.push(gateway.associate(&[(CT, IMPLICIT)], 1).await);
    }
    assert_eq!(answer_to(&gateway, request(&[(CT, IMPLICIT)], 1)).await, Received::AssociateRj(Reject::LOCAL_LIMIT));
    assert!(gateway.notices().iter().any(|n| n.contains("max_associations = 8")), "{:?}", gateway.notices());
    for other in ["192.0.2.8:4711", "192.0.2.9:4711"] {
        open.push(Scu::new(gateway.connect_from(other), request(&[(CT, IMPLICIT)], 1)).await);
    }
    for (other, why) in [("192.0.2.8:4712", "it has one"), ("192.0.2.10:4711", "ten are open")] {
        let mut peer = gateway.connect_from(other);
        peer.send(&pdu::encode_associate_rq(request(&[(CT, IMPLICIT)], 1))).await;
        assert_eq!(read(&peer.pdu().await.unwrap()), Received::AssociateRj(Reject::LOCAL_LIMIT), "{why}");
        peer.leave().await;
    }
    for _ in 0..3 {
        open.remove(0).release().await;
    }
    open.push(gateway.associate(&[(CT, IMPLICIT)], 1).await);
    for scu in open {
        scu.release().await;
    }
    gateway.close().await;
    // `max_connections_per_peer` counts for associations too.
    for (keys, own) in [("max_associations = 8\nmax_connections_per_peer = 3", 3), ("max_associations = 4", 4)] {
        let gateway = Gateway::new(keys, "");
        let mut open = Vec::new();
        for _ in 0..own {
            open.push(gateway.associate(&[(CT, IMPLICIT)], 1).await);
        }
        assert_eq!(answer_to(&gateway, request(&[(CT, IMPLICIT)], 1)).await, Received::AssociateRj(Reject::LOCAL_LIMIT), "{keys}");
        drop(open);
        gateway.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_that_trickles_in_is_given_up_and_one_that_pauses_is_not() {
    let gateway = Gateway::new("idle_timeout = \"30m\"", "");
    let second = std::time::Duration::from_secs(1);
    // A byte each second, first of the data set, then of a PDU's header.
    for header_only in [false, true] {
        let mut scu = gateway.associate(&[(CT, IMPLICIT)], 1).await;
        if !header_only {
            scu.store_command(1, CT, "1.2.3").await;
            scu.peer.send(&pdu::data_header(1, false, true, 10_000)).await;
        }
        let begun = tokio::time::Instant::now();
        let trickle = if header_only { &[4_u8, 0, 0][..] } else { &[7_u8; 10_000] };
        for byte in trickle.iter().cycle().take(if header_only { 3 } else { 58 }) {
            scu.peer.send(&[*byte]).await;
            tokio::time::sleep(second).await;
        }
        assert!(matches!(scu.told().await, Some(Indication::Aborted(_))), "header only: {header_only}");
        let took = begun.elapsed();
        assert!(took >= second * 60 && took < second * 70, "{took:?}");
        assert!(gateway.notices().last().is_some_and(|n| n.contains("less than 1024 bytes/s")), "{:?}", gateway.notices());
        scu.peer.leave().await;
    }
    // What came fast before earns a pause, up to five minutes.
    let mut scu = gateway.associate(&[(CT, IMPLICIT)], 1).await;
    scu.store_command(1, CT, "1.2.3").await;
    for _ in 0..2 {
        for _ in 0..10 {
            scu.data(1, &[7; 65_000], false).await;
        }
        tokio::time::sleep(second * 240).await;
    }
    scu.data(1, &[7; 100], false).await;
    assert_eq!(gateway.notices().len(), 2, "{:?}", gateway.notices());
    assert!(matches!(scu.told().await, Some(Indication::Aborted(_))), "and no more");
    scu.peer.leave().await;
    gateway.close().await;
}

#[tokio::test]
async fn nothing_accepted_is_still_an_answer_for_each_context() {
    let gateway = Gateway::plain();
    let answer = answer_to(&gateway, request(&[("1.2.840.10008.5.1.4.31", IMPLICIT)], 1)).await;
    let Received::AssociateAc(ac) = answer else { panic!("{answer:?}") };
    assert_eq!(ac.presentation_contexts.len(), 1);
    assert_eq!(ac.presentation_contexts[0].reason.clone() as u8, 3);
    gateway.close().await;
}

#[tokio::test]
async fn a_pdu_without_its_place_is_aborted_in_every_state() {
    let gateway = Gateway::plain();
    let out_of_place: [&[u8]; 4] = [&pdu::RELEASE_RP, &pdu::encode_reject(Reject::CALLED_AE), &[0x42; 40], &[4, 0, 0, 0, 0, 0]];
    for bytes in out_of_place.into_iter().chain([&pdu::RELEASE_RQ[..]]) {
        let mut peer = gateway.connect();
        peer.send(bytes).await;
        assert_eq!(read(&peer.pdu().await.expect("an abort")), Received::Abort(Abort::USER), "{bytes:02X?} in Sta2");
        peer.leave().await;
    }
    for bytes in out_of_place {
        let mut scu = gateway.associate(&[(CT, IMPLICIT)], 1).await;
        scu.peer.send(bytes).await;
        let expected = match bytes[0] {
            0x42 => Abort::UNRECOGNIZED_PDU,
            4 => Abort::INVALID_PARAMETER,
            _ => Abort::UNEXPECTED_PDU,
        };
        assert_eq!(scu.told().await, Some(Indication::Aborted(expected)), "{bytes:02X?} in Sta6");
        scu.peer.leave().await;
    }
    let mut scu = gateway.associate(&[(CT, IMPLICIT)], 1).await;
    scu.peer.send(&pdu::encode_associate_rq(request(&[(CT, IMPLICIT)], 1))).await;
    assert_eq!(scu.told().await, Some(Indication::Aborted(Abort::UNEXPECTED_PDU)), "a second request");
    scu.peer.leave().await;
    gateway.close().await;
}

#[tokio::test]
async fn giant_lengths_are_refused_at_once() {
    let gateway = Gateway::plain();
    for kind in 1..=7u8 {
        let mut peer = gateway.connect();
        peer.send(&[kind, 0, 0xFF, 0xFF, 0xFF, 0xFF]).await;
        assert!(matches!(read(&peer.pdu().await.expect("an abort")), Received::Abort(_)), "PDU type {kind}");
        peer.leave().await;
    }
    // Every length field of an A-ASSOCIATE-RQ, one at a time.
    let good = pdu::encode_associate_rq(request(&[(CT, IMPLICIT)], 4));
    let mut fields = vec![];
    let mut at = 74;
    while at < good.len() {
        fields.push(at + 2);
        let (kind, length) = (good[at], usize::from(u16::from_be_bytes([good[at + 2], good[at + 3]])));
        let inner = match kind {
            0x20 => Some(at + 8),
            0x50 => Some(at + 4),
            _ => None,
        };
        let end = at + 4 + length;
        if let Some(mut sub) = inner {
            while sub < end {
                fields.push(sub + 2);
                sub += 4 + usize::from(u16::from_be_bytes([good[sub + 2], good[sub + 3]]));
            }
        }
        at = end;
    }
    assert!(fields.len() >= 8, "{fields:?}");
    for field in fields {
        let mut bad = good.clone();
        bad[field..field + 2].copy_from_slice(&[0xFF, 0xFF]);
        let mut peer = gateway.connect();
        peer.send(&bad).await;
        assert!(matches!(read(&peer.pdu().await.expect("an answer")), Received::Abort(_)), "length at {field}");
        peer.leave().await;
    }
    // PDV lengths, and an element's length in a command set.
    for bytes in [
        &[4, 0, 0, 0, 0, 8, 0xFF, 0xFF, 0xFF, 0xFF, 1, 3, 0, 0][..],
        &[4, 0, 0, 0, 0, 8, 0, 0, 0, 1, 1, 3, 0, 0],
        &[4, 0, 0, 0, 0, 16, 0, 0, 0, 12, 1, 3, 0, 0, 0, 1, 0xFF, 0xFF, 0xFF, 0xFF, 1, 0],
        &[4, 0, 0xFF, 0xFF, 0xFF, 0xFF],
    ] {
        let mut scu = gateway.associate(&[(CT, IMPLICIT)], 1).await;
        scu.peer.send(bytes).await;
        assert!(matches!(scu.told().await, Some(Indication::Aborted(_))), "{bytes:02X?}");
        scu.peer.leave().await;
    }
    // An endless command set.
    let mut scu = gateway.associate(&[(CT, IMPLICIT)], 1).await;
    for _ in 0..3 {
        let piece = [&pdu::data_header(1, true, false, 8192)[..], &[0; 8192]].concat();
        scu.peer.send(&piece).await;
    }
    assert!(matches!(scu.told().await, Some(Indication::Aborted(_))));
    scu.peer.leave().await;
    gateway.close().await;
}

#[tokio::test(start_paused = true)]
async fn artim_closes_who_asks_for_nothing() {
    let gateway = Gateway::plain();
    let begun = Instant::now();
    let mut silent = gateway.connect();
    let mut slow = gateway.connect();
    slow.send(&[1, 0, 0, 0]).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    slow.send(&[0]).await; // a byte does not buy more time
    assert_eq!(silent.pdu().await, None);
    assert_eq!(begun.elapsed().as_secs(), 15);
    silent.ended().await;
    slow.ended().await;
    assert_eq!(begun.elapsed().as_secs(), 15);
    assert_eq!(gateway.notices().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn after_a_reject_or_an_abort_the_peer_has_artim_to_close() {
    let gateway = Gateway::new("ae_title = \"EVERPOST\"", "");
    let mut peer = gateway.connect();
    let begun = Instant::now();
    peer.send(&pdu::encode_associate_rq(AssociationRQ { called_ae_title: "X".into(), ..request(&[(CT, IMPLICIT)], 1) })).await;
    assert_eq!(read(&peer.pdu().await.expect("a reject")), Received::AssociateRj(Reject::CALLED_AE));
    assert_eq!(peer.pdu().await, None);
    assert_eq!(begun.elapsed().as_secs(), 15);
    let mut scu = gateway.associate(&[(CT, IMPLICIT)], 1).await;
    tokio::time::sleep(Duration::from_secs(40)).await;
    let begun = Instant::now();
    scu.peer.send(&[0x99; 6]).await;
    assert!(matches!(scu.told().await, Some(Indication::Aborted(_))));
    let mut rest = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut scu.peer.wire, &mut rest).await.unwrap();
    assert_eq!(begun.elapsed().as_secs(), 15);
}

#[tokio::test(start_paused = true)]
async fn an_idle_association_is_aborted() {
    let gateway = Gateway::new("idle_timeout = \"60s\"", "");
    let mut scu = gateway.associate(&[(CT, IMPLICIT)], 1).await;
    let begun = Instant::now();
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert_eq!(scu.echo().await.status, 0);
    assert_eq!(scu.told().await, Some(Indication::Aborted(Abort::USER)));
    assert_eq!(begun.elapsed().as_secs(), 110);
}

#[tokio::test]
async fn a_release_is_answered_behind_what_was_asked_before() {
    let gateway = Gateway::plain();
    let mut scu = gateway.associate(&[(CT, IMPLICIT)], 8).await;
    let ids = [scu.store("1.2.1", &data_set("1.2.1", 100)).await, scu.store("1.2.2", &data_set("1.2.2", 100)).await];
    scu.association.release().unwrap();
    scu.flush().await;
    for id in ids {
        assert_eq!((scu.response().await.message_id, gateway.refusals().len()), (id, 0));
    }
    assert_eq!(scu.told().await, Some(Indication::Released));
    scu.peer.leave().await;
    assert_eq!(gateway.waiting().len(), 2);
    gateway.close().await;
}

#[tokio::test]
async fn a_stop_rejects_aborts_the_idle_and_finishes_the_rest() {
    let gateway = Gateway::plain();
    let mut idle = gateway.associate(&[(CT, IMPLICIT)], 1).await;
    let mut busy = gateway.associate(&[(CT, IMPLICIT)], 1).await;
    let mut late = gateway.connect();
    let data = data_set("1.2.1", 5000);
    busy.store_command(1, CT, "1.2.1").await;
    busy.data(1, &data[..1000], false).await;
    // The echo of another association proves that what was sent before has been read.
    assert_eq!(idle.echo().await.status, 0);
    tokio::task::yield_now().await;
    gateway.stop();
    assert_eq!(idle.told().await, Some(Indication::Aborted(Abort::USER)));
    late.send(&pdu::encode_associate_rq(request(&[(CT, IMPLICIT)], 1))).await;
    assert_eq!(read(&late.pdu().await.expect("a reject")), Received::AssociateRj(Reject::CONGESTION));
    busy.data(1, &data[1000..], true).await;
    assert_eq!(busy.response().await.status, 0);
    assert_eq!(busy.told().await, Some(Indication::Aborted(Abort::USER)));
    for peer in [idle.peer, busy.peer, late] {
        timeout(Duration::from_secs(5), peer.leave()).await.expect("ends soon after a stop");
    }
    assert_eq!(gateway.waiting().len(), 1);
    gateway.close().await;
}

#[tokio::test]
async fn every_transfer_syntax_and_private_class_is_taken() {
    let gateway = Gateway::plain();
    let all: &[(&str, &[&str])] = &[
        (uid::VERIFICATION, IMPLICIT),
        (CT, &["1.2.840.10008.1.2.4.50"]),
        (CT, &["1.2.840.10008.1.2.4.205"]),
        (CT, &["1.2.840.113619.5.2"]),
        (CT, &[uid::DEFLATED_LE]),
        ("1.2.840.10008.5.1.4.38.1", IMPLICIT),
        ("1.3.12.2.1107.5.9.1", IMPLICIT),
        ("1.2.840.10008.5.1.4.1.2.2.1", IMPLICIT),
    ];
    let scu = gateway.associate(all, 1).await;
    assert_eq!(scu.agreed.contexts.len(), all.len() - 1);
    assert_eq!(scu.agreed.refused, [(15, "1.2.840.10008.5.1.4.1.2.2.1".to_owned(), 3)]);
    scu.release().await;
    gateway.close().await;
}

#[tokio::test]
async fn tls_on_a_plain_listener_is_called_by_its_name() {
    let gateway = Gateway::plain();
    let mut peer = gateway.connect();
    peer.send(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3]).await;
    assert!(matches!(read(&peer.pdu().await.expect("an abort")), Received::Abort(_)));
    peer.leave().await;
    assert!(gateway.notices()[0].contains("TLS"), "{:?}", gateway.notices());
    gateway.close().await;
}
