//! One message, sent while its caller waits: attempts on one endpoint after the other, until one answers or the time is over.
//!
//! Rules: the endpoint is chosen by the machine that chooses for the spool's messages, and hears how it went. Each endpoint gets its share of the time
//! that is left, so that a frozen one leaves time for the next. A message that was not sent is tried again until the time is over; one that may have
//! arrived is tried once per endpoint, and with `ambiguous = "hold"` nowhere else. What may have arrived anywhere is never called "not sent".
//! When the client is closed meanwhile, what was on its way is unanswered.
//! Errors: `NotSent`, `Unanswered`, `Negative`, `Content`, `Closed`.

use super::Way;
use super::error::{Answer, ClientError, Failure};
use crate::config::Ambiguous;
use crate::delivery::verdict::Ruling;
use crate::delivery::{AckCode, Outcome, Phase, Silence, Verdict};
use crate::dicom::part10::FileHead;
use crate::endpoint::failover::Next;
use crate::endpoint::{Blame, EndpointSet};
use crate::io::courier::{Parcel, Patience};
use crate::keys::{Key, Keys};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// Wait before all endpoints are tried again, doubled up to the second.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// After the end of its share an attempt that is just ending itself may still say how.
pub(super) const GRACE: Duration = Duration::from_millis(20);

/// Attempts on one endpoint for one message, whatever the machine says.
const TRIES_MAX: u32 = 4;

/// What was met so far, the worst of each kind.
#[derive(Debug, Default)]
struct Trail {
    unanswered: Option<Failure>,
    refused: Option<(Box<Answer>, Failure)>,
    not_sent: Option<Failure>,
}

impl Trail {
    fn verdict(self) -> ClientError {
        if let Some(failure) = self.unanswered {
            return ClientError::Unanswered(failure);
        }
        if let Some((answer, failure)) = self.refused {
            return ClientError::Negative(answer, failure);
        }
        let nothing = || Failure { phase: Phase::Connect, endpoint: Arc::from(""), what: "no endpoint was reached in time".to_owned() };
        ClientError::NotSent(self.not_sent.unwrap_or_else(nothing))
    }
}

/// Sends; returns at the deadline at the latest, or when it is `over`.
pub(super) async fn send(way: &Way, parcel: &Parcel, deadline: Instant, mut over: watch::Receiver<bool>) -> Result<Answer, ClientError> {
    let mut trail = Trail::default();
    let mut pause = PAUSE_FIRST;
    loop {
        if let Some(answer) = sweep(way, parcel, deadline, &mut over, &mut trail).await? {
            return Ok(answer);
        }
        let now = Instant::now();
        if *over.borrow() && trail.unanswered.is_none() {
            return Err(ClientError::Closed);
        }
        if trail.unanswered.is_some() || trail.refused.is_some() || now + pause >= deadline {
            return Err(trail.verdict());
        }
        // An error means that the client is gone, which shows in the next turn.
        let _ = timeout(pause, over.wait_for(|over| *over)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Every endpoint once.
async fn sweep(
    way: &Way,
    parcel: &Parcel,
    deadline: Instant,
    over: &mut watch::Receiver<bool>,
    trail: &mut Trail,
) -> Result<Option<Answer>, ClientError> {
    let all = u32::try_from(way.destination.endpoints.len()).unwrap_or(u32::MAX).max(1);
    let (mut avoid, mut again, mut tries, mut left_out) = (EndpointSet::EMPTY, None, 0u32, 0u32);
    while let Some(trip) = way.driver.direct(avoid, again) {
        let now = Instant::now();
        let left = deadline.saturating_duration_since(now);
        if left.is_zero() || *over.borrow() {
            return Ok(None);
        }
        let until = now + left / all.saturating_sub(left_out).max(1);
        let (endpoint, name) = (trip.direct().endpoint, Arc::clone(&trip.direct().name));
        let patience = Patience {
            connect_by: until.min(now + way.destination.connect_timeout),
            answer_within: way.destination.ack_timeout.min(until - now),
            until: until + GRACE,
        };
        let (outcome, text) = tokio::select! {
            answered = trip.send(parcel.clone(), patience) => answered,
            _ = over.wait_for(|over| *over) => (cut(), None),
        };
        tries += 1;
        let resend = trail.unanswered.is_some();
        let (ruling, next) = trip.ended(&outcome, tries, resend);
        let failure = Failure { phase: outcome.phase(), endpoint: Arc::clone(&name), what: ruling.seen.clone() };
        match meaning(&outcome, &ruling, text, name) {
            Meaning::Done(answer) => return Ok(Some(answer)),
            Meaning::Content(cause) => return Err(ClientError::Content(cause)),
            Meaning::Refused(answer, last) => {
                trail.refused = Some((Box::new(answer), failure));
                if last {
                    return Err(std::mem::take(trail).verdict());
                }
            }
            Meaning::NotSent => trail.not_sent = Some(failure),
            Meaning::Unanswered => {
                trail.unanswered = Some(failure);
                if way.destination.ambiguous == Ambiguous::Hold {
                    return Err(std::mem::take(trail).verdict());
                }
            }
        }
        if next == Next::Again && tries < TRIES_MAX {
            again = Some(endpoint);
        } else {
            avoid.insert(endpoint);
            (again, tries, left_out) = (None, 0, left_out + 1);
        }
    }
    Ok(None)
}

/// How far it had come is not known: it may have arrived.
fn cut() -> Outcome {
    Outcome::Unanswered { silence: Silence::Lost, cause: "the client was closed while it was on its way".to_owned() }
}

enum Meaning {
    Done(Answer),
    /// `true`: the content was refused, no other endpoint will take it.
    Refused(Answer, bool),
    NotSent,
    Unanswered,
    Content(String),
}

fn meaning(outcome: &Outcome, ruling: &Ruling, text: Option<Bytes>, endpoint: Arc<str>) -> Meaning {
    let status = match outcome {
        Outcome::Acknowledged { code: AckCode::AA | AckCode::CA, .. } | Outcome::SilenceAsked | Outcome::AlreadyThere => 0,
        Outcome::Acknowledged { code, .. } => match code.name().as_bytes() {
            [a, b] => u32::from(*a) << 8 | u32::from(*b),
            _ => 1,
        },
        Outcome::Stored { status } => u32::from(*status),
        Outcome::NotSent { .. } | Outcome::NoContext { .. } | Outcome::AssociationRejected { .. } | Outcome::Damaged { .. } => {
            return Meaning::NotSent;
        }
        Outcome::Local { permanent: false, .. } => return Meaning::NotSent,
        Outcome::Local { cause, permanent: true } => return Meaning::Content(cause.clone()),
        Outcome::Unanswered { .. } => return Meaning::Unanswered,
    };
    let answer = Answer { endpoint, bytes: text.map(|text| text.to_vec()).unwrap_or_default(), status };
    match ruling.verdict {
        Verdict::Delivered | Verdict::DeliveredWithWarning | Verdict::Unconfirmed => Meaning::Done(answer),
        Verdict::Retry | Verdict::Elsewhere if ruling.blame == Blame::Refused || ruling.unwanted => Meaning::Refused(answer, false),
        _ => Meaning::Refused(answer, true),
    }
}

/// What DICOM delivery needs to know of an object.
pub(super) fn keys_of(head: &FileHead) -> Keys {
    let mut keys = Keys::new();
    keys.set(Key::Listener, super::LISTENER.as_bytes());
    keys.set(Key::SopClass, head.sop_class.as_bytes());
    keys.set(Key::SopInstance, head.sop_instance.as_bytes());
    keys.set(Key::TransferSyntax, head.transfer_syntax.as_bytes());
    keys
}
