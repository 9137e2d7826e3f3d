//! Framing, caps and the codec of the A-* PDUs.

use super::*;
use crate::dicom::uid;

fn item(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind, 0][..], &(value.len() as u16).to_be_bytes(), value].concat()
}

fn associate(kind: u8, items: &[Vec<u8>]) -> Vec<u8> {
    let mut body = vec![0, 1, 0, 0];
    body.extend_from_slice(b"CALLED\0\0        ");
    body.extend_from_slice(b"CALLING         ");
    body.extend_from_slice(&[0; 32]);
    body.extend(items.concat());
    [&[kind, 0][..], &(body.len() as u32).to_be_bytes(), &body].concat()
}

fn pdata(pdvs: &[(u8, u8, &[u8])]) -> Vec<u8> {
    let body: Vec<u8> = pdvs
        .iter()
        .flat_map(|(context, control, value)| [&(value.len() as u32 + 2).to_be_bytes()[..], &[*context, *control], value].concat())
        .collect();
    [&[4, 0][..], &(body.len() as u32).to_be_bytes(), &body].concat()
}

fn all(bytes: &[u8], piece: usize) -> Result<Vec<Received>, PduError> {
    let mut decoder = Decoder::new(1 << 20);
    let mut out = Vec::new();
    for piece in bytes.chunks(piece) {
        decoder.space().extend_from_slice(piece);
        while let Some(received) = decoder.take()? {
            out.push(received);
        }
    }
    Ok(out)
}

/// Values by (context, command), joined up to each last fragment.
fn joined(received: Vec<Received>) -> Vec<(u8, bool, Vec<u8>)> {
    let (mut out, mut value) = (Vec::new(), Vec::new());
    for received in received {
        let Received::Data(fragment) = received else { panic!("{received:?}") };
        value.extend_from_slice(&fragment.data);
        if fragment.last {
            out.push((fragment.context, fragment.command, std::mem::take(&mut value)));
        }
    }
    out
}

#[test]
fn pdvs_come_out_whole_however_the_bytes_arrive() {
    let bytes = [pdata(&[(1, 3, b"command"), (1, 0, b"first ")]), pdata(&[(1, 0, b""), (1, 0, b"second ")]), pdata(&[(1, 2, b"last")])].concat();
    for piece in 1..bytes.len() + 1 {
        let values = joined(all(&bytes, piece).unwrap());
        assert_eq!(values, [(1, true, b"command".to_vec()), (1, false, b"first second last".to_vec())], "in pieces of {piece}");
    }
}

#[test]
fn an_empty_last_fragment_ends_the_value() {
    assert_eq!(joined(all(&pdata(&[(3, 0, b"ab"), (3, 2, b"")]), 5).unwrap()), [(3, false, b"ab".to_vec())]);
}

#[test]
fn lengths_are_believed_only_up_to_their_caps() {
    let huge = |kind| [kind, 0, 0xFF, 0xFF, 0xFF, 0xFF];
    for kind in [1, 2, 3, 4, 5, 6, 7] {
        assert!(matches!(all(&huge(kind), 6), Err(PduError::TooLong { length: u32::MAX, .. })), "{kind}");
    }
    assert_eq!(all(&[0x16, 3, 1, 0, 0, 0], 6), Err(PduError::UnknownType(0x16)));
    for (length, what) in [(0u32, "below"), (1, "below"), (5, "longer"), (u32::MAX, "longer")] {
        let body = [&length.to_be_bytes()[..], &[1, 3, 0, 0]].concat();
        let bytes = [&[4, 0, 0, 0, 0, 8][..], &body].concat();
        let found = all(&bytes, 14);
        let fits = length == 4;
        assert!(fits || matches!(&found, Err(PduError::Malformed { what: w, .. }) if w.contains(what)), "{length}: {found:?}");
    }
    assert!(all(&[4, 0, 0, 0, 0, 0], 6).is_err(), "no PDV at all");
    assert!(all(&[4, 0, 0, 0, 0, 5, 0, 0, 0, 1, 1], 11).is_err(), "ends inside of a PDV header");
}

#[test]
fn large_pieces_of_a_data_set_may_be_read_past_it() {
    let large = [7; STRAIGHT_BYTES_MIN];
    let bytes =
        [pdata(&[(1, 3, b"command")]), pdata(&[(1, 0, &large)]), pdata(&[(1, 0, &large), (1, 2, b"the end")]), pdata(&[(3, 3, &large)])].concat();
    let (mut decoder, mut rest, mut straight, mut values) = (Decoder::new(0), &bytes[..], 0, Vec::new());
    let mut value = Vec::new();
    while !rest.is_empty() {
        // As a listener reads: straight where it may, in whatever pieces the bytes come.
        let last = if let Some((context, most)) = decoder.straight() {
            let (now, later) = rest.split_at(most.min(10_007));
            (straight, rest) = (straight + now.len(), later);
            value.extend_from_slice(now);
            decoder.passed(now.len()).then_some((context, false))
        } else {
            let (now, later) = rest.split_at(rest.len().min(100));
            rest = later;
            decoder.space().extend_from_slice(now);
            None
        };
        values.extend(last.map(|(context, command)| (context, command, std::mem::take(&mut value))));
        while let Some(Received::Data(fragment)) = decoder.take().unwrap() {
            value.extend_from_slice(&fragment.data);
            if fragment.last {
                values.push((fragment.context, fragment.command, std::mem::take(&mut value)));
            }
        }
    }
    let data = [&large[..], &large, b"the end"].concat();
    assert_eq!(values, [(1, true, b"command".to_vec()), (1, false, data), (3, true, large.to_vec())], "a command never goes past");
    assert!(straight > 2 * (STRAIGHT_BYTES_MIN - 100), "{straight}");
    assert!(decoder.at_boundary());
    // Small pieces come several at a time.
    let mut decoder = Decoder::new(0);
    decoder.space().extend_from_slice(&pdata(&[(1, 0, &large[1..])])[..50]);
    assert!(matches!(decoder.take(), Ok(Some(Received::Data(_)))));
    assert_eq!(decoder.straight(), None);
}

#[test]
fn memory_follows_bytes_received_not_bytes_announced() {
    let mut decoder = Decoder::new(0);
    decoder.space().extend_from_slice(&[1, 0, 0, 0x0F, 0xFF, 0xFF]);
    assert_eq!(decoder.take(), Ok(None));
    assert!(decoder.space().capacity() <= 2 * DICOM_READ_BYTES_IDLE, "{}", decoder.space().capacity());
    let mut decoder = Decoder::new(0);
    decoder.space().extend_from_slice(&[4, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFB, 1, 0, 9]);
    assert!(matches!(decoder.take(), Ok(Some(Received::Data(_)))));
    for _ in 0..1000 {
        let space = decoder.space();
        let room = space.capacity() - space.len();
        space.put_bytes(7, room);
        while let Some(Received::Data(fragment)) = decoder.take().unwrap() {
            assert!(!fragment.last);
        }
        assert!(decoder.space().capacity() <= 2 * DICOM_READ_BYTES);
    }
    decoder.rest();
    assert_eq!(decoder.buffer.capacity(), 0);
}

#[test]
fn after_an_error_nothing_comes_and_nothing_is_kept() {
    let mut decoder = Decoder::new(0);
    decoder.space().extend_from_slice(&[9; 600]);
    assert!(decoder.take().is_err());
    decoder.space().extend_from_slice(&RELEASE_RQ);
    assert_eq!(decoder.take(), Ok(None));
    assert!(decoder.buffer.is_empty());
}

#[test]
fn a_request_with_what_the_codec_would_refuse_is_read() {
    let context = [&[1, 0, 0, 0][..], &item(0x30, b"1.2.840.10008.1.1\0"), &item(0x99, b"?"), &item(0x40, b"1.2.840.10008.1.2 ")].concat();
    let user =
        [item(0x51, &[0, 0, 0x40, 0]), item(0x51, &[1]), item(0x54, b"\xFF\xFFx"), item(0x58, b"\x09\x01"), item(0x53, &[0, 2, 0, 1])].concat();
    let bytes = associate(1, &[item(0x77, b"new"), item(0x10, uid::APPLICATION_CONTEXT.as_bytes()), item(0x20, &context), item(0x50, &user)]);
    let received = all(&bytes, 7).unwrap();
    let [Received::AssociateRq(rq)] = &received[..] else { panic!("{received:?}") };
    assert_eq!((rq.called_ae_title.as_str(), rq.calling_ae_title.as_str()), ("CALLED", "CALLING"));
    assert_eq!(rq.presentation_contexts[0].abstract_syntax, uid::VERIFICATION);
    assert_eq!(rq.presentation_contexts[0].transfer_syntaxes, [uid::IMPLICIT_LE]);
    assert_eq!(rq.user_variables, [UserVariableItem::MaxLength(0x4000), UserVariableItem::Unknown(0x53, vec![0, 2, 0, 1])]);
}

#[test]
fn a_refused_context_without_transfer_syntax_is_read() {
    let accepted = [&[1, 0, 0, 0][..], &item(0x40, uid::EXPLICIT_LE.as_bytes())].concat();
    let bytes = associate(
        2,
        &[item(0x10, uid::APPLICATION_CONTEXT.as_bytes()), item(0x21, &accepted), item(0x21, &[3, 0, 4, 0]), item(0x21, &[5, 0, 77, 0])],
    );
    let received = all(&bytes, 1000).unwrap();
    let [Received::AssociateAc(ac)] = &received[..] else { panic!("{received:?}") };
    let results: Vec<(u8, u8)> = ac.presentation_contexts.iter().map(|c| (c.id, c.reason.clone() as u8)).collect();
    assert_eq!(results, [(1, 0), (3, 4), (5, 4)]);
}

#[test]
fn giant_items_and_too_many_of_them_are_malformed() {
    let long = [0x20, 0, 0xFF, 0xFF, 1, 0, 0, 0].to_vec();
    assert!(matches!(all(&associate(1, &[long]), 100), Err(PduError::Malformed { .. })));
    let many = item(0x10, b"").repeat(ASSOCIATE_ITEMS_MAX + 1);
    assert!(matches!(all(&associate(1, &[many]), 4096), Err(PduError::Malformed { what, .. }) if what.contains("more items")));
    let inner = [&[1, 0, 0, 0][..], &[0x30, 0, 0x10, 0, b'1']].concat();
    assert!(all(&associate(1, &[item(0x20, &inner)]), 100).is_err());
}

#[test]
fn rejects_and_aborts_keep_their_codes() {
    for reject in [Reject::CALLED_AE, Reject::CONGESTION, Reject { result: 9, source: 8, reason: 7 }] {
        assert_eq!(all(&encode_reject(reject), 3), Ok(vec![Received::AssociateRj(reject)]));
    }
    let abort = Abort { source: 2, reason: 99 };
    assert_eq!(all(&encode_abort(abort), 3), Ok(vec![Received::Abort(abort)]));
    assert_eq!(all(&[RELEASE_RQ, RELEASE_RP].concat(), 20), Ok(vec![Received::ReleaseRq, Received::ReleaseRp]));
}

#[test]
fn data_is_cut_to_what_the_peer_takes() {
    for (peer_max, pdus) in [(0, 1), (16, 100), (7, 500)] {
        let mut out = BytesMut::new();
        encode_data(&mut out, 5, true, &[1; 1000], peer_max);
        let received = all(&out, 64).unwrap();
        assert_eq!(joined(received), [(5, true, vec![1; 1000])]);
        let mut count = 0;
        let mut rest = &out[..];
        while let Some((header, tail)) = rest.split_first_chunk::<6>() {
            let length = u32::from_be_bytes([header[2], header[3], header[4], header[5]]);
            assert!(peer_max < 8 || length <= peer_max);
            rest = &tail[length as usize..];
            count += 1;
        }
        assert_eq!(count, pdus, "peer_max {peer_max}");
    }
    let mut out = BytesMut::new();
    encode_data(&mut out, 5, false, &[], 0);
    assert_eq!(joined(all(&out, 64).unwrap()), [(5, false, vec![])]);
}

fn sample() -> AssociationRQ {
    let contexts = [("1.2.840.10008.5.1.4.1.1.2", uid::EXPLICIT_LE), ("1.3.4", "1.2.840.10008.1.2.4.50")];
    let contexts = contexts.iter().map(|(class, syntax)| ((*class).to_owned(), vec![(*syntax).to_owned(), uid::IMPLICIT_LE.to_owned()])).collect();
    let proposal = crate::dicom::negotiate::Proposal { calling_ae: "A".into(), called_ae: "B".into(), contexts, max_pdu: 16384, window: 4 };
    let mut rq = crate::dicom::negotiate::propose(&proposal).unwrap();
    let roles = RequestorRoles { scu: true, scp: false };
    rq.user_variables.push(UserVariableItem::ScuScpRoleSelectionSubItem("1.3.4".into(), roles));
    rq.user_variables.push(UserVariableItem::SopClassExtendedNegotiationSubItem("1.3.4".into(), vec![1, 2, 3]));
    let kind = dicom_ul::pdu::UserIdentityType::UsernamePassword;
    rq.user_variables.push(UserVariableItem::UserIdentityItem(UserIdentity::new(true, kind, b"user".to_vec(), b"word".to_vec())));
    rq
}

#[test]
fn a_request_survives_the_wire() {
    assert_eq!(all(&encode_associate_rq(sample()), 10), Ok(vec![Received::AssociateRq(Box::new(sample()))]));
}

proptest::proptest! {
    #[test]
    fn damaged_requests_do_no_harm(changes in proptest::collection::vec((0usize..600, proptest::num::u8::ANY), 1..6)) {
        let mut bytes = encode_associate_rq(sample());
        for (at, byte) in changes {
            let length = bytes.len();
            bytes[6 + at % (length - 6)] = byte;
        }
        if let Ok(received) = all(&bytes, 50)
            && let [Received::AssociateRq(rq)] = &received[..]
            && !rq.calling_ae_title.is_empty() // the codec writes none without
            && !rq.called_ae_title.is_empty()
        {
            // What was understood is understood the same way once more.
            proptest::prop_assert_eq!(all(&encode_associate_rq((**rq).clone()), 50), Ok(received.clone()));
        }
    }

    #[test]
    fn random_bytes_do_no_harm(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..600), kind in 1u8..8, cut in 1usize..40) {
        let _ = all(&bytes, cut);
        let framed = [&[kind, 0][..], &(bytes.len() as u32).to_be_bytes(), &bytes].concat();
        let _ = all(&framed, cut);
        let _ = all(&associate(kind.min(2), &[bytes]), cut);
    }
}
