//! PS3.7 and PS3.4 B: C-ECHO and C-STORE, what is kept of them, and every way to refuse.

use crate::dicom_peer::{CT, Gateway, IMPLICIT, Scu, data_set, element};
use everpost_client::dicom::association::Indication;
use everpost_client::dicom::dimse;
use everpost_client::dicom::pdu::{self, Abort};
use everpost_client::dicom::{status, uid};
use everpost_client::keys::Key;
use everpost_client::spool::Filter;

/// The peer leaves while its object becomes durable: it is taken all the same, and readers of events hear of it.
#[tokio::test]
async fn an_object_whose_sender_left_is_told_when_it_is_taken() {
    let gateway = Gateway::plain();
    for n in 1..=10 {
        // With a window the listener reads on, and sees the peer leave, while the commit is under way.
        let mut scu = gateway.associate(&[(CT, IMPLICIT)], 8).await;
        let instance = format!("1.2.3.{n}");
        scu.store(&instance, &data_set(&instance, 1000)).await;
        scu.peer.leave().await;
    }
    let told = async {
        while gateway.accepted() < 10 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), told).await.expect("all are told");
    assert_eq!(gateway.waiting().len(), 10);
    gateway.close().await;
}

#[tokio::test]
async fn an_object_is_kept_byte_for_byte_with_its_keys() {
    let gateway = Gateway::plain();
    let mut scu = gateway.associate(&[(CT, IMPLICIT)], 1).await;
    let sizes = [0, 1, 4096, 70_000, 300_000, 1_000_000];
    for (index, size) in sizes.into_iter().enumerate() {
        let instance = format!("1.2.{index}");
        let id = scu.store(&instance, &data_set(&instance, size)).await;
        let response = scu.response().await;
        assert_eq!((response.command_field, response.message_id, response.status), (dimse::C_STORE_RSP, id, status::SUCCESS));
        assert_eq!((response.sop_class.as_deref(), response.sop_instance.as_deref()), (Some(CT), Some(instance.as_str())));
    }
    scu.release().await;
    let waiting = gateway.waiting();
    assert_eq!(waiting.len(), sizes.len());
    for (index, (envelope, content)) in waiting.iter().enumerate() {
        let instance = format!("1.2.{index}");
        assert!(*content == data_set(&instance, sizes[index]), "object {index} is not what was sent");
        let expected: [(Key, &[u8]); 15] = [
            (Key::Listener, b"in"),
            (Key::Peer, b"192.0.2.7"),
            (Key::CallingAe, b"MODALITY"),
            (Key::CalledAe, b"EVERPOST"),
            (Key::SopClass, CT.as_bytes()),
            (Key::SopInstance, instance.as_bytes()),
            (Key::TransferSyntax, uid::IMPLICIT_LE.as_bytes()),
            (Key::Modality, b"CT"),
            (Key::Study, b"1.2.30"),
            (Key::Series, b"1.2.31"),
            (Key::Patient, b"SYNTH1"),
            (Key::Accession, b"ACC1"),
            (Key::Priority, &[2, 0]),
            (Key::MoveOriginatorAe, b"MOVER"),
            (Key::MoveOriginatorId, &[77, 0]),
        ];
        for (key, value) in expected {
            assert_eq!(envelope.keys.get(key), Some(value), "{}", key.name());
        }
    }
    gateway.close().await;
}

#[tokio::test]
async fn an_object_in_pieces_of_any_size_is_the_same() {
    let gateway = Gateway::plain();
    let data = data_set("1.2.1", 3000);
    for piece in [1, 2, 7, 100, 1000] {
        let mut scu = gateway.associate(&[(CT, IMPLICIT)], 1).await;
        scu.store_command(1, CT, "1.2.1").await;
        let mut bytes = Vec::new();
        for (at, part) in data.chunks(piece).enumerate() {
            bytes.extend_from_slice(&pdu::data_header(1, false, (at + 1) * piece >= data.len(), part.len()));
            bytes.extend_from_slice(part);
        }
        for part in bytes.chunks(13) {
            scu.peer.send(part).await;
        }
        assert_eq!(scu.response().await.status, status::SUCCESS, "pieces of {piece}");
        scu.release().await;
    }
    assert!(gateway.waiting().iter().all(|(_, content)| *content == data));
    gateway.close().await;
}

#[tokio::test]
async fn an_object_in_large_pieces_is_the_same() {
    let gateway = Gateway::plain();
    let data = data_set("1.2.1", 1_000_000);
    for window in [1, 4] {
        for piece in [32_768, 40_000, 200_001, 262_138] {
            let mut scu = gateway.associate(&[(CT, IMPLICIT)], window).await;
            for _ in 0..2 {
                scu.store_command(1, CT, "1.2.1").await;
                for (at, part) in data.chunks(piece).enumerate() {
                    scu.data(1, part, (at + 1) * piece >= data.len()).await;
                }
            }
            for _ in 0..2 {
                assert_eq!(scu.response().await.status, status::SUCCESS, "pieces of {piece}");
            }
            scu.release().await;
        }
    }
    let waiting = gateway.waiting();
    assert_eq!(waiting.len(), 16);
    assert!(waiting.iter().all(|(_, content)| *content == data));
    // One that is refused goes by all the same.
    let mut scu = gateway.associate(&[(CT, IMPLICIT)], 1).await;
    scu.store_command(1, CT, "not a uid").await;
    for (at, part) in data.chunks(200_001).enumerate() {
        scu.data(1, part, (at + 1) * 200_001 >= data.len()).await;
    }
    assert_ne!(scu.response().await.status, status::SUCCESS);
    scu.release().await;
    gateway.close().await;
}

#[tokio::test]
async fn an_asynchronous_window_is_granted_and_answered_in_order() {
    let gateway = Gateway::plain();
    let mut scu = gateway.associate(&[(CT, IMPLICIT)], 0xFFFF).await;
    assert_eq!(scu.agreed.window, everpost_client::limits::STORE_WINDOW_MAX);
    let mut ids = Vec::new();
    for index in 0..scu.agreed.window {
        let instance = format!("1.2.{index}");
        ids.push(scu.store(&instance, &data_set(&instance, usize::from(index) * 100)).await);
    }
    for id in ids {
        let response = scu.response().await;
        assert_eq!((response.message_id, response.status), (id, 0));
    }
    scu.release().await;
    assert_eq!(gateway.waiting().len(), 16);
    gateway.close().await;
}

#[tokio::test]
async fn a_pipelining_sender_does_not_break_the_order_that_a_destination_keeps() {
    let gateway = Gateway::with_destination("", "reserve = \"1 MiB\"", "ordering = \"strict\"");
    let mut scu = gateway.associate(&[(CT, IMPLICIT)], 16).await;
    let mut sent = Vec::new();
    for index in 0..16 {
        let instance = format!("1.2.{index}");
        // A large one, which is synced by itself first, before a small one, which stands in the journal.
        scu.store(&instance, &data_set(&instance, if index % 2 == 0 { 400_000 } else { 100 })).await;
        sent.push(instance);
    }
    for _ in 0..16 {
        assert_eq!(scu.response().await.status, status::SUCCESS);
    }
    scu.release().await;
    let (kept, _) = gateway.spool.list(&Filter::default(), None, 100).unwrap();
    let kept: Vec<String> = kept.iter().map(|view| view.envelope.keys.text(Key::SopInstance)).collect();
    assert_eq!(kept, sent);
    gateway.close().await;
}

#[tokio::test]
async fn a_lost_or_aborted_association_leaves_no_half_object() {
    let gateway = Gateway::plain();
    for abort in [false, true] {
        let mut scu = gateway.associate(&[(CT, IMPLICIT)], 1).await;
        scu.store_command(1, CT, "1.2.1").await;
        for _ in 0..40 {
            scu.data(1, &[1; 20_000], false).await;
        }
        if abort {
            scu.association.abort(Abort::USER);
            scu.flush().await;
        }
        scu.peer.leave().await;
    }
    assert!(gateway.waiting().is_empty());
    assert!(gateway.notices().iter().all(|n| n.contains("inside of an object")), "{:?}", gateway.notices());
    assert_eq!(gateway.notices().len(), 2);
    gateway.close().await;
}

/// Refused with this status and element, and the association goes on.
async fn refused(scu: &mut Scu, status: u16) {
    let response = scu.response().await;
    assert_eq!(response.status, status, "{response:?}");
    assert_eq!(scu.echo().await.status, status::SUCCESS, "the association goes on");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_the_association_goes_on() {
    let gateway = Gateway::plain();
    let mut scu = gateway.associate(&[(CT, IMPLICIT), ("1.3.4.5", IMPLICIT)], 1).await;
    scu.store_command(3, CT, "1.2.1").await; // in the private class's context
    scu.data(3, &data_set("1.2.1", 100), true).await;
    refused(&mut scu, status::SOP_CLASS_NOT_SUPPORTED).await;
    for instance in ["", "not a uid"] {
        scu.store_command(1, CT, instance).await;
        scu.data(1, &data_set("1.2.1", 100), true).await;
        refused(&mut scu, status::INVALID_INSTANCE).await;
    }
    scu.store_command(1, CT, "1.2.1").await;
    scu.data(1, b"", true).await;
    refused(&mut scu, status::CANNOT_UNDERSTAND).await;
    // A C-STORE-RQ that says that no data set follows.
    let set = dimse::encode_store_rq(&dimse::StoreRq { message_id: 5, sop_class: CT.into(), sop_instance: "1.2.1".into(), ..Default::default() });
    let at = set.windows(4).position(|w| w == [0, 0, 0, 8]).unwrap();
    let set = [&set[..at + 8], &[1, 1], &set[at + 10..]].concat();
    scu.association.send_command(1, &set).unwrap();
    scu.flush().await;
    refused(&mut scu, status::CANNOT_UNDERSTAND).await;
    scu.release().await;
    assert!(gateway.waiting().is_empty());
    assert_eq!(gateway.refusals(), ["malformed"; 5]);
    gateway.close().await;
}

#[tokio::test]
async fn without_a_route_the_data_set_is_read_and_0122h_answered() {
    let gateway = Gateway::plain();
    let mut rq = crate::dicom_peer::request(&[(CT, IMPLICIT)], 1);
    rq.calling_ae_title = "NOBODY".into();
    let mut scu = Scu::new(gateway.connect(), rq).await;
    scu.store("1.2.1", &data_set("1.2.1", 500_000)).await;
    refused(&mut scu, status::SOP_CLASS_NOT_SUPPORTED).await;
    scu.release().await;
    assert_eq!(gateway.refusals(), ["no-route"]);
    assert!(gateway.waiting().is_empty());
    gateway.close().await;
}

#[tokio::test]
async fn at_the_reserve_objects_are_read_dropped_and_answered_a700h() {
    let gateway = Gateway::new("", "reserve = \"16384 GiB\"");
    gateway.spool.maintain(0);
    let mut scu = gateway.associate(&[(CT, IMPLICIT)], 1).await;
    scu.store("1.2.1", &data_set("1.2.1", 500_000)).await;
    refused(&mut scu, status::OUT_OF_RESOURCES).await;
    scu.release().await;
    assert_eq!(gateway.refusals(), ["reserve"]);
    gateway.close().await;
}

#[tokio::test]
async fn a_class_that_is_not_on_the_list_gets_no_context() {
    let gateway = Gateway::new(&format!("storage_classes = [\"{CT}\"]"), "reserve = \"1 MiB\"");
    let mut scu = gateway.associate(&[(CT, IMPLICIT), ("1.2.840.10008.5.1.4.1.1.4", IMPLICIT)], 1).await;
    assert_eq!(scu.agreed.refused, [(3, "1.2.840.10008.5.1.4.1.1.4".to_owned(), 3)]);
    scu.store_command(3, "1.2.840.10008.5.1.4.1.1.4", "1.2.1").await;
    assert!(matches!(scu.told().await, Some(Indication::Aborted(_))), "a context that was not agreed on");
    scu.peer.leave().await;
    gateway.close().await;
}

#[tokio::test]
async fn other_operations_are_unrecognized_and_their_data_sets_dropped() {
    let gateway = Gateway::plain();
    let mut scu = gateway.associate(&[(CT, IMPLICIT)], 1).await;
    for field in [0x0020u16, 0x0021, 0x0010, 0x0100, 0x0140] {
        let set = [
            element(0, 0x0002, b"1.2.840.10008.5.1.4.1.2.2.1\0"),
            element(0, 0x0100, &field.to_le_bytes()),
            element(0, 0x0110, &[9, 0]),
            element(0, 0x0800, &[0, 0]),
        ]
        .concat();
        scu.association.send_command(1, &set).unwrap();
        scu.flush().await;
        scu.data(1, &[7; 9000], false).await;
        scu.data(1, &[7; 9000], true).await;
        let response = scu.response().await;
        assert_eq!((response.command_field, response.message_id, response.status), (field | 0x8000, 9, status::UNRECOGNIZED_OPERATION));
    }
    // C-CANCEL has no response.
    let cancel = [element(0, 0x0100, &0x0FFFu16.to_le_bytes()), element(0, 0x0120, &[9, 0]), element(0, 0x0800, &[1, 1])].concat();
    scu.association.send_command(1, &cancel).unwrap();
    assert_eq!(scu.echo().await.message_id, 999);
    scu.release().await;
    gateway.close().await;
}

#[tokio::test]
async fn messages_out_of_turn_are_aborted() {
    let gateway = Gateway::plain();
    let contexts: &[(&str, &[&str])] = &[(CT, IMPLICIT), ("1.3.4.5", IMPLICIT)];
    for case in 0..6 {
        let mut scu = gateway.associate(contexts, 1).await;
        match case {
            0 => scu.data(1, b"data before any command", true).await,
            1 => {
                scu.store_command(1, CT, "1.2.1").await;
                scu.store_command(1, CT, "1.2.1").await;
            }
            2 => {
                scu.store_command(1, CT, "1.2.1").await;
                scu.data(3, b"other context", false).await;
            }
            3 => {
                scu.peer.send(&[&pdu::data_header(1, true, false, 2)[..], &[0, 0]].concat()).await;
                scu.peer.send(&[&pdu::data_header(3, true, false, 2)[..], &[0, 0]].concat()).await;
            }
            4 => {
                let response = dimse::Response { command_field: dimse::C_STORE_RSP, ..Default::default() };
                scu.association.send_command(1, &dimse::encode_response(&response)).unwrap();
                scu.flush().await;
            }
            _ => scu.peer.send(&[&pdu::data_header(1, true, true, 3)[..], &[1, 2, 3]].concat()).await,
        }
        assert_eq!(scu.told().await, Some(Indication::Aborted(Abort::USER)), "case {case}");
        scu.peer.leave().await;
    }
    assert_eq!(gateway.notices().len(), 6);
    assert!(gateway.waiting().is_empty());
    gateway.close().await;
}

#[tokio::test]
async fn an_instance_uid_that_differs_is_taken_as_commanded_and_said() {
    let gateway = Gateway::plain();
    let mut scu = gateway.associate(&[(CT, IMPLICIT)], 1).await;
    scu.store("1.2.1", &data_set("1.2.99", 100)).await;
    assert_eq!(scu.response().await.status, status::SUCCESS);
    scu.release().await;
    assert_eq!(gateway.waiting()[0].0.keys.text(Key::SopInstance), "1.2.1");
    assert!(gateway.notices().iter().any(|n| n.contains("differ")), "{:?}", gateway.notices());
    gateway.close().await;
}

#[tokio::test]
async fn random_bytes_end_in_an_abort_and_nothing_else() {
    let gateway = Gateway::plain();
    let mut random = fastrand::Rng::with_seed(4711);
    for round in 0..200 {
        let mut scu = gateway.associate(&[(CT, IMPLICIT)], 1).await;
        let garbage: Vec<u8> = (0..random.usize(1..400)).map(|_| random.u8(..)).collect();
        let bytes = match round % 3 {
            0 => garbage,
            1 => [&pdu::data_header(1, random.bool(), random.bool(), garbage.len())[..], &garbage].concat(),
            _ => [&[random.u8(1..8), 0, 0, 0][..], &(garbage.len() as u16).to_be_bytes(), &garbage].concat(),
        };
        scu.peer.send(&bytes).await;
        scu.peer.leave().await;
    }
    assert!(gateway.waiting().is_empty());
    gateway.close().await;
}

#[tokio::test]
async fn a_peer_cannot_flood_the_log() {
    let gateway = Gateway::plain();
    for _ in 0..100 {
        let mut peer = gateway.connect();
        peer.send(&[0x42; 10]).await;
        peer.leave().await;
    }
    assert_eq!(gateway.notices().len(), everpost_client::limits::NOTICES_MAX as usize);
    gateway.close().await;
}
