//! Asks an endpoint what it has, before a replay is sent to it (`reconcile = "query"`).
//!
//! Rules:
//! - One association at a time beside those that carry objects, opened for the first question and released when nobody asks any more. A peer that takes
//!   none beside ours is given room for it by idle ones.
//! - No answer is no reason not to send: an endpoint that answers no queries, or fails one, is sent everything, and is asked again after a while. People
//!   are told when that begins and when it ends, and `remark` says so in between.
//! - Every answer has a deadline, every conversation another one (`FIND_WHOLE`); what is kept is bounded by `dicom::find`.
//! - When an endpoint is left, what it said is forgotten: it may come back with less.
//!
//! Errors: outcomes, only where the endpoint cannot be reached at all: then the object could not be sent either.

use crate::delivery::{Outcome, Phase};
use crate::dicom::find::{Find, Holdings, Place, Question, Step};
use crate::dicom::uid;
use crate::io::dicom_open::{self, Opened};
use crate::io::dicom_pool::Seat;
use crate::io::dicom_probe::failure;
use crate::limits::{FIND_FAILED_KEPT, FIND_REFUSED_KEPT, FIND_WHOLE};
use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Questions about one instance: study, series, itself; and one more for what was forgotten in between.
const QUESTIONS_MAX: usize = 4;

/// What one endpoint was asked, and said.
#[derive(Debug, Default)]
pub(crate) struct Inquiry {
    /// Who asks has the turn.
    turn: tokio::sync::Mutex<Turn>,
    /// How many ask, or wait for their turn.
    asking: AtomicUsize,
    silent: Mutex<Option<Silent>>,
}

#[derive(Debug, Default)]
struct Turn {
    holdings: Holdings,
    opened: Option<Opened>,
    message_id: u16,
}

/// It gave no answer.
#[derive(Debug)]
struct Silent {
    /// When it is asked again.
    until: Instant,
    why: String,
}

/// Who asks, and how long it waits.
pub(crate) struct Asker<'a> {
    pub(crate) seat: &'a Seat,
    pub(crate) calling_ae: &'a str,
    pub(crate) connect_within: Duration,
    pub(crate) answer_within: Duration,
    /// Takes what people should know.
    pub(crate) tell: &'a (dyn Fn(String) + Send + Sync),
}

/// Why a question has no answer.
enum NoAnswer {
    /// The endpoint cannot be reached: nothing could be sent to it either.
    Unreachable(Outcome),
    /// It does not answer such questions.
    Refused(String),
    /// This time.
    Failed(String),
}

/// Counts one that asks; the last one has the association released.
struct Asking<'a>(&'a Inquiry);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if self.0.asking.fetch_sub(1, Ordering::AcqRel) == 1
            && let Ok(mut turn) = self.0.turn.try_lock()
            && let (Some(opened), Ok(runtime)) = (turn.opened.take(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn(opened.release());
        }
    }
}

impl Inquiry {
    /// Whether the endpoint says that it has this instance. False: it lacks it, or does not say.
    pub(crate) async fn has(&self, asker: &Asker<'_>, place: &Place) -> Result<bool, Outcome> {
        self.asking.fetch_add(1, Ordering::AcqRel);
        // Let go after the turn.
        let _asking = Asking(self);
        let mut turn = self.turn.lock().await;
        for _ in 0..QUESTIONS_MAX {
            if self.is_silent() {
                return Ok(false);
            }
            let question = match turn.holdings.has(place, Instant::now().into_std()) {
                Ok(has) => return Ok(has),
                Err(question) => question,
            };
            match turn.ask(asker, question).await {
                Ok((question, found, whole)) => {
                    self.answered(asker);
                    if let Some(has) = turn.holdings.told(question, found, whole, Instant::now().into_std()) {
                        return Ok(has);
                    }
                }
                Err(NoAnswer::Unreachable(outcome)) => return Err(outcome),
                Err(NoAnswer::Refused(why)) => self.fell_silent(asker, why, FIND_REFUSED_KEPT),
                Err(NoAnswer::Failed(why)) => self.fell_silent(asker, why, FIND_FAILED_KEPT),
            }
        }
        Ok(false)
    }

    /// What people should know of it beside the endpoint's health.
    pub(crate) fn remark(&self) -> Option<String> {
        let silent = self.silent();
        let silent = silent.as_ref().filter(|silent| Instant::now() < silent.until)?;
        Some(format!("cannot be asked what it has ({}), so replays send everything", silent.why))
    }

    /// The endpoint was left.
    pub(crate) fn forget(&self) {
        *self.silent() = None;
        // Whoever has the turn just now meets the end of the endpoint by himself.
        if let Ok(mut turn) = self.turn.try_lock() {
            turn.holdings.forget();
        }
    }

    fn silent(&self) -> MutexGuard<'_, Option<Silent>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_silent(&self) -> bool {
        self.silent().as_ref().is_some_and(|silent| Instant::now() < silent.until)
    }

    fn answered(&self, asker: &Asker<'_>) {
        if self.silent().take().is_some() {
            (asker.tell)("answers queries again: replays send what it lacks".to_owned());
        }
    }

    fn fell_silent(&self, asker: &Asker<'_>, why: String, kept: Duration) {
        let news = self.silent().replace(Silent { until: Instant::now() + kept, why: why.clone() }).is_none_or(|before| before.why != why);
        if news {
            (asker.tell)(format!("cannot be asked what it has ({why}): replays send everything, and it is asked again in {} s", kept.as_secs()));
        }
    }
}

impl Turn {
    /// One question: what was found, and whether that is all.
    async fn ask(&mut self, asker: &Asker<'_>, question: Question) -> Result<(Question, HashSet<String>, bool), NoAnswer> {
        loop {
            let kept = self.opened.take();
            let fresh = kept.is_none();
            let mut opened = match kept {
                Some(opened) => opened,
                None => open(asker).await?,
            };
            self.message_id = self.message_id.wrapping_add(1).max(1);
            let mut find = Find::new(question.clone());
            match opened.find(self.message_id, &mut find, asker.answer_within, Instant::now() + FIND_WHOLE).await {
                Ok(Step::Whole) => {
                    self.opened = Some(opened);
                    let (question, found) = find.into_parts();
                    return Ok((question, found, true));
                }
                Ok(Step::TooMany | Step::More) => {
                    tokio::spawn(opened.abort());
                    let (question, found) = find.into_parts();
                    return Ok((question, found, false));
                }
                Ok(Step::Failed(status)) => {
                    tokio::spawn(opened.release());
                    return Err(NoAnswer::Failed(format!("it answers the C-FIND with {status:04X}H")));
                }
                Err(outcome) => {
                    let unasked = matches!(outcome, Outcome::NoContext { .. });
                    if unasked {
                        tokio::spawn(opened.release())
                    } else {
                        tokio::spawn(opened.abort())
                    };
                    if unasked {
                        return Err(NoAnswer::Refused("it answers no queries: study root, C-FIND".to_owned()));
                    }
                    if fresh {
                        return Err(NoAnswer::Failed(failure(outcome).cause));
                    }
                    // A kept association may have died in between: once more on a fresh one.
                }
            }
        }
    }
}

/// An association for questions.
async fn open(asker: &Asker<'_>) -> Result<Opened, NoAnswer> {
    let (seat, begun) = (asker.seat, Instant::now());
    let end = begun + asker.connect_within;
    let beside = !seat.is_crowded() && !seat.connected().is_empty();
    if beside {
        // Beside open associations of ours, some peers take no other one: half of the time shows whether this is one of them.
        match open_by(asker, begun + asker.connect_within / 2).await {
            Err(outcome) if outcome.phase() == Phase::Associate => seat.probe_failed(),
            other => return other.map_err(because),
        }
    }
    if seat.is_crowded() {
        seat.make_room(end).await;
    }
    open_by(asker, end.max(Instant::now() + asker.connect_within / 2)).await.map_err(because)
}

async fn open_by(asker: &Asker<'_>, deadline: Instant) -> Result<Opened, Outcome> {
    let stream = asker.seat.dialer.dial(deadline).await?;
    let pairs = [(uid::STUDY_ROOT_FIND.to_owned(), uid::IMPLICIT_LE.to_owned())];
    let proposal = dicom_open::proposal(asker.calling_ae, &asker.seat.endpoint.ae_title, &pairs, 1);
    dicom_open::open(stream, &proposal, &asker.seat.name, deadline).await
}

fn because(outcome: Outcome) -> NoAnswer {
    match &outcome {
        Outcome::AssociationRejected { permanent: true, .. } => NoAnswer::Refused(failure(outcome).cause),
        _ if outcome.phase() < Phase::Associate => NoAnswer::Unreachable(outcome),
        _ => NoAnswer::Failed(failure(outcome).cause),
    }
}
