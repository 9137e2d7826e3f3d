//! Probes of a DICOM endpoint: TCP, TLS, C-ECHO, the synthetic object; the URL beside it, if that is what is asked. And rehearsals: whether it would
//! take what goes to the destination.
//!
//! Rules:
//! - A probe has a connection and an association of its own and takes no place of the pool. A peer that takes no association beside ours is given room
//!   for it by idle ones; one that answers objects meanwhile is there, and no probe says otherwise.
//! - A rehearsal asks for each kind of objects as an attempt would, under its sender's AE title, in associations of at most 128 contexts, and releases.
//! - The synthetic object is taken with 0000H, with a warning, or as one it has already (0111H).
//!
//! Errors: `ProbeFailure` with the phase.

use crate::config::Probe;
use crate::delivery::standby::{Kind, Refusal, Rehearsed, Stumble};
use crate::delivery::{Outcome, Phase};
use crate::dicom::dimse::StoreRq;
use crate::dicom::find::{Find, Question, Step};
use crate::dicom::pdu::Reject;
use crate::dicom::status::{self, StatusClass};
use crate::dicom::{synthetic, uid};
use crate::io::courier::ProbeFailure;
use crate::io::dicom_open::{self, Fit, Need, Opened};
use crate::io::dicom_pool::Seat;
use crate::io::stream;
use crate::limits::{CONTEXTS_MAX, FIND_WHOLE};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Makes one probe of an endpoint; `store`: with the synthetic object, if that is its kind.
/// How long the answer took.
pub(crate) async fn probe(seat: &Arc<Seat>, calling_ae: &str, store: bool) -> Result<Duration, ProbeFailure> {
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
        Err(failed) if failed.phase <= Phase::Associate && seat.answered_since(begun) => Ok(Duration::ZERO),
        Err(failed) => {
            seat.probe_failed();
            Err(failed)
        }
        Ok(took) => Ok(took),
    }
}

/// C-ECHO on an association of its own, whatever the endpoint's probe is.
pub(crate) async fn echo_at(seat: &Arc<Seat>, calling_ae: &str, deadline: Instant) -> Result<(), ProbeFailure> {
    if seat.is_crowded() {
        seat.make_room(deadline).await;
    }
    let stream = seat.dialer.dial(deadline).await.map_err(failure)?;
    let pairs = [(uid::VERIFICATION.to_owned(), uid::IMPLICIT_LE.to_owned())];
    let proposal = dicom_open::proposal(calling_ae, &seat.endpoint.ae_title, &pairs, 1);
    let mut opened = dicom_open::open(stream, &proposal, &seat.name, deadline).await.map_err(failure)?;
    match echo(&mut opened, deadline).await {
        Ok(answered) => {
            tokio::spawn(opened.release());
            answered.map(drop).map_err(|what| ProbeFailure { phase: Phase::Answer, cause: format!("{} {what}", seat.name) })
        }
        Err(outcome) => {
            tokio::spawn(opened.abort());
            Err(failure(outcome))
        }
    }
}

async fn once(seat: &Arc<Seat>, calling_ae: &str, store: bool, deadline: Instant) -> Result<Duration, ProbeFailure> {
    let look_up = match &seat.endpoint.health.probe {
        Probe::DicomEcho => None,
        Probe::DicomStore { look_up, .. } => store.then_some(*look_up),
        Probe::Tcp | Probe::Tls | Probe::Mllp(_) | Probe::Http(_) => {
            let begun = Instant::now();
            let stream = seat.dialer.dial(deadline).await.map_err(failure)?;
            let took = begun.elapsed();
            stream::close(stream).await;
            return Ok(took);
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
    let asked = Instant::now();
    let answered = match look_up {
        None => echo(&mut opened, deadline).await,
        Some(look_up) => self::store(&mut opened, look_up, deadline).await,
    };
    match answered {
        // How the association ends changes nothing.
        Ok(answered) => {
            let took = asked.elapsed();
            tokio::spawn(opened.release());
            answered.map(|()| took).map_err(|what| ProbeFailure { phase: Phase::Answer, cause: format!("{} {what}", seat.name) })
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
    let mut find = Find::new(Question::Instance(synthetic::place()));
    Ok(match opened.find(2, &mut find, FIND_WHOLE, deadline).await? {
        Step::Failed(status) => Err(format!("took the test object and answered the C-FIND for it with {status:04X}H")),
        _ if find.found() == 0 => Err("took the test object and does not find it".to_owned()),
        _ => Ok(()),
    })
}

/// Negotiates what these kinds of objects need, and sends nothing. `within`: for each association.
pub(crate) async fn rehearse(seat: &Seat, own_ae: &str, convert: bool, kinds: Vec<Kind>, within: Duration) -> Rehearsed {
    let mut refusals = Vec::new();
    let mut titles: Vec<&str> = kinds.iter().map(|kind| kind.calling_ae.as_str()).collect();
    titles.sort_unstable();
    titles.dedup();
    if titles.is_empty() {
        titles.push("");
    }
    for title in titles {
        let calling_ae = if title.is_empty() { own_ae } else { title };
        let of_title: Vec<&Kind> = kinds.iter().filter(|kind| kind.calling_ae == title).collect();
        match rehearse_title(seat, calling_ae, convert, &of_title, within).await {
            Ok(refused) => refusals.extend(refused),
            Err(Outcome::AssociationRejected { permanent: true, source, reason }) => {
                let why = rejected(true, source, reason);
                refusals.push(Refusal::Title { calling_ae: title.to_owned(), why });
            }
            Err(outcome) => {
                let ProbeFailure { phase, cause } = failure(outcome);
                return Err(Stumble { phase, cause });
            }
        }
    }
    Ok(refusals)
}

/// The same under one calling AE title, in as many associations as it takes.
async fn rehearse_title(seat: &Seat, calling_ae: &str, convert: bool, kinds: &[&Kind], within: Duration) -> Result<Vec<Refusal>, Outcome> {
    let needs = kinds.iter().map(|kind| Need {
        not_as_it_is: false,
        calling_ae: calling_ae.to_owned(),
        sop_class: kind.sop_class.clone(),
        transfer_syntax: kind.transfer_syntax.clone(),
        convert,
    });
    let mut left: Vec<(&Kind, Need)> = kinds.iter().copied().zip(needs).collect();
    let mut refusals = Vec::new();
    loop {
        let (mut pairs, mut these) = (Vec::new(), 0);
        for (_, need) in &left {
            let more: Vec<(String, String)> = need.pairs().filter(|pair| !pairs.contains(pair)).collect();
            if pairs.len() + more.len() > CONTEXTS_MAX {
                break;
            }
            pairs.extend(more);
            these += 1;
        }
        if pairs.is_empty() {
            // Nothing was seen: whether it lets us in is all there is to ask.
            pairs.push((uid::VERIFICATION.to_owned(), uid::IMPLICIT_LE.to_owned()));
        }
        let deadline = Instant::now() + within;
        let stream = seat.dialer.dial(deadline).await?;
        let proposal = dicom_open::proposal(calling_ae, &seat.endpoint.ae_title, &pairs, 1);
        let opened = dicom_open::open(stream, &proposal, &seat.name, deadline).await?;
        let rest = left.split_off(these.min(left.len()));
        refusals.extend(left.iter().filter_map(|(kind, need)| refused(kind, need, &opened)));
        tokio::spawn(opened.release());
        left = rest;
        if left.is_empty() || these == 0 {
            return Ok(refusals);
        }
    }
}

/// Whether an association that was asked for it would not take a kind of objects, and how much of its class.
fn refused(kind: &Kind, need: &Need, opened: &Opened) -> Option<Refusal> {
    if need.fit(&opened.agreed, &opened.proposed) != Fit::Refused {
        return None;
    }
    let another = opened.agreed.of_class(&kind.sop_class).next().is_some();
    let own = (kind.sop_class.as_str(), kind.transfer_syntax.as_str());
    let at = opened.proposed.iter().position(|(class, syntax)| (class.as_str(), syntax.as_str()) == own);
    let result = at.and_then(|at| opened.agreed.refused.iter().find(|(id, ..)| usize::from(*id) == 2 * at + 1)).map(|(.., result)| *result);
    // Result 4: it takes the class, not the transfer syntax (PS3.8 9.3.3.2).
    Some(if another || result == Some(4) { Refusal::Syntax(kind.clone()) } else { Refusal::Class(kind.clone()) })
}

/// What an A-ASSOCIATE-RJ means, and what to do.
fn rejected(permanent: bool, source: u8, reason: u8) -> String {
    let meaning = Reject { result: u8::from(!permanent) + 1, source, reason }.meaning();
    let remedy = match (source, reason) {
        (1, 3 | 7) => "check the AE titles it knows",
        (3, _) => "it takes no more associations now: give it fewer, or more room",
        _ => "its own log says more",
    };
    format!("{meaning} (source {source}, reason {reason}); {remedy}")
}

/// What a probe saw, as a failure of the endpoint.
pub(crate) fn failure(outcome: Outcome) -> ProbeFailure {
    let phase = outcome.phase();
    let cause = match outcome {
        Outcome::NotSent { cause, .. } | Outcome::Unanswered { cause, .. } | Outcome::Local { cause, .. } | Outcome::Damaged { cause } => cause,
        Outcome::AssociationRejected { permanent, source, reason } => {
            let kind = if permanent { "permanently" } else { "for now" };
            format!("it rejected the association {kind}: {}", rejected(permanent, source, reason))
        }
        Outcome::NoContext { sop_class, .. } => match sop_class.as_str() {
            synthetic::SOP_CLASS => "it does not take Secondary Capture, the class of the test object; use `probe = \"dicom-echo\"`".to_owned(),
            uid::STUDY_ROOT_FIND => "it answers no queries (study root, C-FIND); use `look_up = false`".to_owned(),
            _ => "it does not offer Verification (C-ECHO); use `probe = \"tcp\"`".to_owned(),
        },
        Outcome::Acknowledged { .. } | Outcome::SilenceAsked | Outcome::Stored { .. } | Outcome::AlreadyThere => {
            "it answered something else".to_owned()
        }
    };
    ProbeFailure { phase, cause }
}
