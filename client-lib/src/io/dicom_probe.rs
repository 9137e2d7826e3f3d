//! Probes of a DICOM endpoint: TCP, TLS, C-ECHO, the synthetic object; and the URL beside it, if that is what is asked.
//!
//! Rules:
//! - A probe has a connection and an association of its own and takes no place of the pool. A peer that takes no association beside ours is given room
//!   for it by idle ones; one that answers objects meanwhile is there, and no probe says otherwise.
//! - The synthetic object is taken with 0000H, with a warning, or as one it has already (0111H).
//!
//! Errors: `ProbeFailure` with the phase.

use crate::config::Probe;
use crate::delivery::{Outcome, Phase};
use crate::dicom::dimse::StoreRq;
use crate::dicom::pdu::Reject;
use crate::dicom::status::{self, StatusClass};
use crate::dicom::{synthetic, uid};
use crate::io::courier::ProbeFailure;
use crate::io::dicom_open::{self, Opened};
use crate::io::dicom_pool::Seat;
use crate::io::stream;
use std::sync::Arc;
use tokio::time::Instant;

/// Makes one probe of an endpoint; `store`: with the synthetic object, if that is its kind.
pub(crate) async fn probe(seat: &Arc<Seat>, calling_ae: &str, store: bool) -> Result<(), ProbeFailure> {
    let health = &seat.endpoint.health;
    let begun = Instant::now();
    if let Some(http) = &seat.http {
        return http.probe(begun + health.timeout).await;
    }
    let mut ended = None;
    if !seat.is_crowded() && !seat.connected().is_empty() {
        // Beside open associations of ours, some peers take no other one: half of the time shows whether this is one of them.
        ended = Some(once(seat, calling_ae, store, begun + health.timeout / 2).await);
        if matches!(&ended, Some(Err(failed)) if failed.phase == Phase::Associate) {
            seat.probe_failed();
            ended = None;
        }
    }
    let ended = match ended {
        Some(ended) => ended,
        None => once(seat, calling_ae, store, begun + health.timeout).await,
    };
    match ended {
        // A peer that takes no association beside ours, and answers on ours, is there.
        Err(failed) if failed.phase <= Phase::Associate && seat.answered_since(begun) => Ok(()),
        Err(failed) => {
            seat.probe_failed();
            Err(failed)
        }
        Ok(()) => Ok(()),
    }
}

async fn once(seat: &Arc<Seat>, calling_ae: &str, store: bool, deadline: Instant) -> Result<(), ProbeFailure> {
    let look_up = match &seat.endpoint.health.probe {
        Probe::DicomEcho => None,
        Probe::DicomStore { look_up, .. } => store.then_some(*look_up),
        Probe::Tcp | Probe::Tls | Probe::Mllp(_) | Probe::Http(_) => {
            let stream = seat.dialer.dial(deadline).await.map_err(failure)?;
            stream::close(stream).await;
            return Ok(());
        }
    };
    if seat.is_crowded() {
        seat.make_room(deadline).await;
    }
    let stream = seat.dialer.dial(deadline).await.map_err(failure)?;
    let class = match look_up {
        None => uid::VERIFICATION,
        Some(_) => synthetic::SOP_CLASS,
    };
    let mut pairs = vec![(class.to_owned(), uid::IMPLICIT_LE.to_owned())];
    if look_up == Some(true) {
        pairs.push((uid::STUDY_ROOT_FIND.to_owned(), uid::IMPLICIT_LE.to_owned()));
    }
    let proposal = dicom_open::proposal(calling_ae, &seat.endpoint.ae_title, &pairs, 1);
    let mut opened = dicom_open::open(stream, &proposal, &seat.name, deadline).await.map_err(failure)?;
    let answered = match look_up {
        None => echo(&mut opened, deadline).await,
        Some(look_up) => self::store(&mut opened, look_up, deadline).await,
    };
    match answered {
        // How the association ends changes nothing.
        Ok(answered) => {
            tokio::spawn(opened.release());
            answered.map_err(|what| ProbeFailure { phase: Phase::Answer, cause: format!("{} {what}", seat.name) })
        }
        Err(outcome) => {
            tokio::spawn(opened.abort());
            Err(failure(outcome))
        }
    }
}

/// What an answered question says: good, or what was wrong with the answer.
type Answered = Result<(), String>;

async fn echo(opened: &mut Opened, deadline: Instant) -> Result<Answered, Outcome> {
    let status = opened.echo(deadline).await?;
    Ok(if status == 0 { Ok(()) } else { Err(format!("answered the C-ECHO with {status:04X}H")) })
}

async fn store(opened: &mut Opened, look_up: bool, deadline: Instant) -> Result<Answered, Outcome> {
    let (sop_class, sop_instance) = (synthetic::SOP_CLASS.to_owned(), synthetic::INSTANCE.to_owned());
    let request = StoreRq { message_id: 1, sop_class, sop_instance, priority: 2, ..StoreRq::default() };
    let status = opened.store(&request, &synthetic::object(), deadline).await?;
    if !matches!(status::class(status), StatusClass::Success | StatusClass::Warning | StatusClass::Duplicate) {
        return Ok(Err(format!("answered the test object with {status:04X}H")));
    }
    if !look_up {
        return Ok(Ok(()));
    }
    Ok(match opened.find(2, &synthetic::query(), deadline).await? {
        (0, 0) => Err("took the test object and does not find it".to_owned()),
        (_, 0) => Ok(()),
        (_, status) => Err(format!("took the test object and answered the C-FIND for it with {status:04X}H")),
    })
}

/// What a probe saw, as a failure of the endpoint.
pub(crate) fn failure(outcome: Outcome) -> ProbeFailure {
    let phase = outcome.phase();
    let cause = match outcome {
        Outcome::NotSent { cause, .. } | Outcome::Unanswered { cause, .. } | Outcome::Local { cause, .. } | Outcome::Damaged { cause } => cause,
        Outcome::AssociationRejected { permanent, source, reason } => {
            let kind = if permanent { "permanently" } else { "for now" };
            let meaning = Reject { result: u8::from(!permanent) + 1, source, reason }.meaning();
            let remedy = match (source, reason) {
                (1, 3 | 7) => "check the AE titles it knows",
                (3, _) => "it takes no more associations now: give it fewer, or more room",
                _ => "its own log says more",
            };
            format!("it rejected the association {kind}: {meaning} (source {source}, reason {reason}); {remedy}")
        }
        Outcome::NoContext { sop_class, .. } => match sop_class.as_str() {
            synthetic::SOP_CLASS => "it does not take Secondary Capture, the class of the test object; use `probe = \"dicom-echo\"`".to_owned(),
            uid::STUDY_ROOT_FIND => "it answers no queries (study root, C-FIND); use `look_up = false`".to_owned(),
            _ => "it does not offer Verification (C-ECHO); use `probe = \"tcp\"`".to_owned(),
        },
        Outcome::Acknowledged { .. } | Outcome::SilenceAsked | Outcome::Stored { .. } => "it answered something else".to_owned(),
    };
    ProbeFailure { phase, cause }
}
