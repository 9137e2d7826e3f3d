//! `/api/v1/envelopes`: list, story, content, and the operator's decisions.
//! Rules: keys and content are patient data and only on the socket; a decision is durable when it is answered; decisions in bulk go page by page, so
//! that no request grows with the backlog.
//! Errors: 404 not waiting, 409 the decision does not fit the state, 422 the question is wrong.

use super::auth::Door;
use super::{Problem, from_disk};
use crate::live::{Live, now};
use crate::status::time;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use axum::{Extension, Json};
use bytes::Bytes;
use everpost_client::config::LaneRule;
use everpost_client::dicom::part10::{self, FileHead};
use everpost_client::dicom::uid;
use everpost_client::ids::EnvelopeId;
use everpost_client::keys::{Key, Keys};
use everpost_client::spool::{AttemptRecord, Begun, Decided, Decision, Discarded, EnvelopeView, Filter, SpoolError, State as Waiting, UnixMillis};
use hyper::body::Frame;
use serde::Deserialize;
use serde_json::{Value, json};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Envelopes of a page, if the question names no number.
const PAGE_DEFAULT: usize = 100;

/// Largest page: under 1 MiB of JSON, and one group of commits.
const PAGE_MAX: usize = 1_000;

/// Pieces of content on their way to a slow reader.
const PIECES_AHEAD: usize = 2;

/// Longest reason, in bytes: the spool records it behind a length of one byte.
const REASON_BYTES_MAX: usize = 255;

/// The question of `list`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuestion {
    destination: Option<String>,
    state: Option<String>,
    key: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

/// The body of a decision.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecisionBody {
    reason: Option<String>,
    destination: Option<String>,
    state: Option<String>,
    cursor: Option<String>,
}

fn wrong(what: impl Into<String>) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, what)
}

/// `GET /api/v1/envelopes`.
/// # Errors
/// As the module says.
pub async fn list(
    State(live): State<Arc<Live>>,
    Extension(door): Extension<Door>,
    question: Result<Query<ListQuestion>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(question) = question.map_err(|e| wrong(e.body_text()))?;
    if question.key.is_some() {
        door.demand_socket("asking by key")?;
    }
    let limit = question.limit.unwrap_or(PAGE_DEFAULT);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(wrong(format!("limit = {limit}: must be 1 to {PAGE_MAX}")));
    }
    let filter = filter(&live, question.destination.as_deref(), question.state.as_deref(), question.key)?;
    let Some(filter) = filter else { return Ok(Json(json!({"envelopes": [], "next": null}))) };
    let cursor = question.cursor.as_deref().map(envelope_id).transpose()?;
    let spool = live.committer().spool().clone();
    let (views, next) = from_disk(move || spool.list(&filter, cursor, limit)).await?;
    let envelopes: Vec<Value> = views.iter().map(|view| row(view, &live, &door)).collect();
    Ok(Json(json!({"envelopes": envelopes, "next": next.map(|id| id.to_string())})))
}

/// `GET /api/v1/envelopes/{id}`.
/// # Errors
/// As the module says.
pub async fn show(State(live): State<Arc<Live>>, Extension(door): Extension<Door>, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    let (id, spool) = (envelope_id(&id)?, live.committer().spool().clone());
    let story = from_disk(move || spool.story(id)).await?;
    let view = &story.view;
    let mut value = row(view, &live, &door);
    value["size"] = view.envelope.size.into();
    value["story"] = story.attempts.iter().map(|a| attempt(a, view.envelope.replay)).collect();
    value["attempts_not_told"] = story.untold().into();
    value["begun"] = story.begun.as_ref().map(begun).into();
    value["decisions"] = story.decisions.iter().map(decided).collect();
    if view.state == Waiting::Discarded {
        // An operator's words may name a patient.
        let reason = |d: &Discarded| door.shows_patient_data().then(|| d.reason.clone());
        value["discarded"] = json!({"at": view.discarded.as_ref().map(|d| time(d.at)), "reason": view.discarded.as_ref().and_then(reason)});
    }
    if door.shows_patient_data() {
        value["keys"] = keys(&view.envelope.keys);
    }
    Ok(Json(value))
}

/// `GET /api/v1/envelopes/{id}/content`: HL7 as it came, DICOM as a Part 10 file.
/// # Errors
/// As the module says; content found damaged later breaks the answer off.
pub async fn content(State(live): State<Arc<Live>>, Extension(door): Extension<Door>, Path(id): Path<String>) -> Result<Response, Problem> {
    door.demand_socket("content")?;
    let (id, spool) = (envelope_id(&id)?, live.committer().spool().clone());
    let (view, mut reader) = from_disk(move || {
        let view = spool.story(id)?.view;
        if view.state == Waiting::Discarded {
            return Err(SpoolError::NotWaiting(id)); // custody ended with it
        }
        let reader = spool.open_content(view.envelope.message)?;
        Ok((view, reader))
    })
    .await?;
    let (kind, head) = match is_dicom(&view.envelope.keys) {
        true => ("application/dicom", part10_head(&view.envelope.keys)),
        false => ("x-application/hl7-v2+er7", Bytes::new()),
    };
    let length = head.len() as u64 + reader.size();
    let (pieces, body) = mpsc::channel(PIECES_AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut next = Ok(Some(head));
        loop {
            let (piece, last) = match next {
                Ok(None) => return,
                Ok(Some(bytes)) => (Ok(bytes), false),
                Err(e) => (Err(std::io::Error::other(e)), true),
            };
            if pieces.blocking_send(piece).is_err() || last {
                return; // the reader went away, or the content cannot be read further
            }
            next = reader.next_chunk();
        }
    });
    let name = format!("attachment; filename=\"{id}.{}\"", if kind == "application/dicom" { "dcm" } else { "hl7" });
    Response::builder()
        .header(header::CONTENT_TYPE, kind)
        .header(header::CONTENT_LENGTH, length)
        .header(header::CONTENT_DISPOSITION, name)
        .body(Body::new(Pieces(body)))
        .map_err(|e| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
}

/// `POST /api/v1/envelopes/{id}/{verb}`.
/// # Errors
/// As the module says.
pub async fn decide(
    State(live): State<Arc<Live>>,
    Extension(door): Extension<Door>,
    Path((id, verb)): Path<(String, String)>,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    door.demand_socket("deciding")?;
    let (id, body) = (envelope_id(&id)?, decision_body(&body)?);
    let decision = match decision(&verb, body.reason)? {
        Decision::Hold(_) => {
            let spool = live.committer().spool().clone();
            // The first from this number on: only the index is asked, never history.
            let before = id.0.checked_sub(1).map(EnvelopeId);
            let (views, _) = from_disk(move || spool.list(&Filter::default(), before, 1)).await?;
            let rule = views.first().filter(|view| view.envelope.id == id).map(|view| after_hold(&live, &view.destination));
            Decision::Hold(rule.unwrap_or(LaneRule::Stop))
        }
        other => other,
    };
    live.committer().decide(id, decision).await?;
    tracing::info!(envelope = id.0, "{verb} by an operator");
    Ok(Json(json!({"id": id.to_string(), "done": verb})))
}

/// `POST /api/v1/envelopes/{verb}`: one page of a decision in bulk.
/// # Errors
/// As the module says; single envelopes that could not be decided on stand in `failed`.
pub async fn decide_all(
    State(live): State<Arc<Live>>,
    Extension(door): Extension<Door>,
    Path(verb): Path<String>,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    door.demand_socket("deciding")?;
    let body = decision_body(&body)?;
    let decision = decision(&verb, body.reason)?;
    let Some(destination) = body.destination else { return Err(wrong("a decision in bulk needs a destination")) };
    let state = body.state;
    if state.is_none() && live.config().destinations.iter().any(|d| *d.name == *destination) {
        let why = "only what a destination that is no longer configured has left is decided on whole";
        return Err(wrong(format!("a decision in bulk needs a state (--state): {why}, and {destination} is configured")));
    }
    let decision = match decision {
        Decision::Hold(_) => Decision::Hold(after_hold(&live, &destination)),
        other => other,
    };
    let filter = filter(&live, Some(&destination), state.as_deref(), None)?;
    let filter = filter.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, format!("there is no destination {destination}")))?;
    let cursor = body.cursor.as_deref().map(envelope_id).transpose()?;
    let spool = live.committer().spool().clone();
    let (views, next) = from_disk(move || spool.list(&filter, cursor, PAGE_MAX)).await?;
    let mut decisions = JoinSet::new(); // all at once: they share one sync
    for id in views.iter().map(|view| view.envelope.id) {
        let (committer, decision) = (live.committer().clone(), decision.clone());
        decisions.spawn(async move { (id, committer.decide(id, decision).await) });
    }
    let (mut done, mut failed) = (0_u64, Vec::new());
    while let Some(decided) = decisions.join_next().await {
        match decided {
            Ok((_, Ok(()))) => done += 1,
            Ok((id, Err(e))) => failed.push(json!({"id": id.to_string(), "detail": e.to_string()})),
            Err(e) => failed.push(json!({"id": null, "detail": e.to_string()})),
        }
    }
    let which = state.as_deref().unwrap_or("that wait");
    tracing::info!(about = destination, done, failed = failed.len(), "{verb} of all {which} by an operator");
    Ok(Json(json!({"done": done, "failed": failed, "next": next.map(|id| id.to_string())})))
}

/// `None`: the destination is unknown to spool and configuration, so nothing waits for it.
fn filter(live: &Live, destination: Option<&str>, state: Option<&str>, key: Option<String>) -> Result<Option<Filter>, Problem> {
    let state = state.map(waiting_state).transpose()?;
    let destination = match destination {
        None => None,
        Some(name) => match live.destination_id(name) {
            Some(id) => Some(id),
            None => return Ok(None),
        },
    };
    Ok(Some(Filter { destination, state, key: key.map(String::into_bytes) }))
}

fn waiting_state(name: &str) -> Result<Waiting, Problem> {
    use Waiting::{DeadLetter, Deferred, Delivered, Held, InFlight, Ready};
    let all = [Ready, InFlight, Deferred, Held, Delivered, DeadLetter];
    all.into_iter().find(|s| s.name() == name).ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(|s| s.name()).collect();
        wrong(format!("state = {name:?}: must be one of {}", names.join(", ")))
    })
}

/// What a destination's lanes do when one of their envelopes is held; those of a destination that is not configured stop.
fn after_hold(live: &Live, destination: &str) -> LaneRule {
    live.config().destinations.iter().find(|d| &*d.name == destination).map_or(LaneRule::Stop, |d| d.after_hold)
}

fn decision(verb: &str, reason: Option<String>) -> Result<Decision, Problem> {
    match (verb, reason.filter(|r| !r.trim().is_empty())) {
        ("retry", _) => Ok(Decision::Retry),
        ("hold", _) => Ok(Decision::Hold(LaneRule::Stop)), // the destination has the last word: `after_hold`
        ("release", _) => Ok(Decision::Release),
        ("discard", None) => Err(wrong("discard ends custody and needs a reason")),
        ("discard", Some(reason)) if reason.len() > REASON_BYTES_MAX => Err(wrong(format!("the reason is longer than {REASON_BYTES_MAX} bytes"))),
        ("discard", Some(reason)) => Ok(Decision::Discard { reason }),
        (other, _) => Err(Problem::new(StatusCode::NOT_FOUND, format!("no verb {other}; there are retry, hold, release and discard"))),
    }
}

fn decision_body(body: &[u8]) -> Result<DecisionBody, Problem> {
    if body.is_empty() {
        return Ok(DecisionBody::default());
    }
    serde_json::from_slice(body).map_err(|e| wrong(format!("the body is not what a decision takes: {e}")))
}

fn envelope_id(text: &str) -> Result<EnvelopeId, Problem> {
    text.parse().map_err(|_| wrong(format!("{text:?} is no envelope; ids are decimal numbers")))
}

/// One row of the list.
fn row(view: &EnvelopeView, live: &Live, door: &Door) -> Value {
    let envelope = &view.envelope;
    let key = door.shows_patient_data().then(|| name_of(&envelope.keys));
    json!({
        "id": envelope.id.to_string(),
        "message": envelope.message.to_string(),
        "destination": view.destination,
        "protocol": if is_dicom(&envelope.keys) { "dicom" } else { "mllp" },
        "state": view.state.name(),
        "ambiguous": !envelope.ambiguous_at.is_empty(),
        "replay": envelope.replay,
        "replay_of": view.replay_of.map(|id| id.to_string()),
        "out_of_order": envelope.out_of_order,
        "key": key,
        "accepted_at": time(envelope.accepted_at),
        "age_seconds": now().saturating_sub(envelope.accepted_at) / 1_000,
        "attempts": envelope.attempts,
        "last": view.last.as_ref().map(|last| attempt(last, envelope.replay)),
        "next_attempt_at": next_attempt(view, live).map(time),
    })
}

/// When a deferred envelope is tried again.
fn next_attempt(view: &EnvelopeView, live: &Live) -> Option<UnixMillis> {
    let deferred = view.state == Waiting::Deferred;
    deferred.then(|| live.destinations().into_iter().find(|r| r.id == view.envelope.destination)?.driver.next_attempt(view.envelope.id))?
}

/// One attempt. `at` is the former name of `ended_at`.
fn attempt(record: &AttemptRecord, replay: bool) -> Value {
    let AttemptRecord { number, endpoint, address, phase, answer, verdict, outcome, took, began_at, at, ambiguous, left_for } = record;
    let to = |name: &Arc<str>| json!({"to": Some(name).filter(|n| !n.is_empty())});
    json!({
        "number": Some(number).filter(|n| **n > 0),
        "replay": replay,
        "endpoint": endpoint,
        "address": address.map(|a| a.to_string()),
        "began_at": began_at.map(time),
        "ended_at": time(*at),
        "at": time(*at),
        "seconds": took.map(|t| t.as_secs_f64()),
        "phase": phase.name(),
        "answer": answer.map(|a| a.to_string()),
        "verdict": verdict.map(|v| v.code()),
        "ambiguous": ambiguous,
        "failover": left_for.as_ref().map(to),
        "outcome": outcome,
    })
}

/// An attempt whose end is not known, or not yet.
fn begun(begun: &Begun) -> Value {
    json!({"number": begun.number, "endpoint": begun.endpoint, "began_at": Some(begun.at).filter(|at| *at > 0).map(time)})
}

fn decided(decided: &Decided) -> Value {
    let by = if decided.why.is_empty() { "operator" } else { "everpost" };
    json!({"at": Some(decided.at).filter(|at| *at > 0).map(time), "to": decided.to.name(), "by": by, "why": decided.why})
}

/// What people know a message by.
fn name_of(keys: &Keys) -> String {
    if is_dicom(keys) { keys.text(Key::SopInstance) } else { keys.text(Key::ControlId) }
}

fn is_dicom(keys: &Keys) -> bool {
    keys.get(Key::SopInstance).is_some()
}

/// Every key, as text; the digest and the numbers as what they are.
fn keys(keys: &Keys) -> Value {
    let shown = keys.iter().map(|(key, value)| {
        let text = match key {
            Key::Sha256 => value.iter().map(|b| format!("{b:02x}")).collect(),
            Key::Priority | Key::MoveOriginatorId => value.iter().rev().fold(0_u32, |n, b| n << 8 | u32::from(*b)).to_string(),
            _ => String::from_utf8_lossy(value).into_owned(),
        };
        (key.name().to_owned(), Value::String(text))
    });
    Value::Object(shown.collect())
}

/// What stands before the data set in a DICOM file.
fn part10_head(keys: &Keys) -> Bytes {
    let head = FileHead {
        sop_class: keys.text(Key::SopClass),
        sop_instance: keys.text(Key::SopInstance),
        transfer_syntax: keys.text(Key::TransferSyntax),
        dataset_at: 0, // where it begins in a file that is read; nothing to a file that is written
    };
    part10::write_head(&head, (uid::IMPLEMENTATION_CLASS, uid::IMPLEMENTATION_VERSION), &keys.text(Key::CallingAe)).into()
}

/// A body of pieces that come through a channel.
struct Pieces(mpsc::Receiver<std::io::Result<Bytes>>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}
