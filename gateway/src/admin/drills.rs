//! Drills: `POST /api/v1/destinations/{name}/drill` and `.../drill-stop` (only on the socket), `GET /api/v1/drills`, `GET /api/v1/drills/{id}`.
//! Rules: the report of a drill is written before it acts; who began it is the user of the socket's other end, with the name that the command line gives.
//! Errors: 400 for a body that is none, 404 for unknown names, 409 for what is refused, with what to do.

use super::Problem;
use super::auth::{Caller, Door};
use super::endpoints::problem;
use super::wishes::{by, words};
use crate::drills::begin::{DrillRefused, DrillWish, PARTICIPANTS_MAX};
use crate::drills::record::Record;
use crate::drills::report;
use crate::live::Live;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use everpost_client::config::{Fault, units};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// The longest stay, and the longest wait.
const TIME_MAX: Duration = Duration::from_secs(86_400);

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Body {
    fault: Option<String>,
    to: Option<String>,
    real: bool,
    stay: Option<String>,
    within: Option<String>,
    max_errors: Option<u16>,
    max_age: Option<String>,
    participants: Vec<String>,
    notes: Vec<String>,
    corrective: Vec<String>,
    next: Option<String>,
    by: Option<String>,
    dry_run: bool,
}

fn wrong(what: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, what)
}

impl Body {
    fn wish(self, caller: Caller) -> Result<DrillWish, Problem> {
        let fault = match self.fault.as_deref() {
            None => None,
            Some(name) => Some(Fault::parse(name).ok_or_else(|| wrong(format!("no fault {name}; there are refuse, freeze, drop and dns")))?),
        };
        let time = |what: &str, text: Option<String>| match text {
            None => Ok(None),
            Some(text) => {
                let time = units::duration(&text).filter(|time| (Duration::from_secs(1)..=TIME_MAX).contains(time));
                time.map(Some).ok_or_else(|| wrong(format!("`{what}` is a duration from \"1s\" to \"1d\", not {text:?}")))
            }
        };
        if self.max_errors.is_some_and(|percent| percent > 100) {
            return Err(wrong("`max_errors` is a percentage: 0 to 100"));
        }
        let texts = |what: &str, texts: Vec<String>| {
            if texts.len() > PARTICIPANTS_MAX {
                return Err(wrong(format!("more than {PARTICIPANTS_MAX} times `{what}`")));
            }
            texts.iter().map(|text| words(what, text)).collect::<Result<Vec<String>, Problem>>()
        };
        Ok(DrillWish {
            fault,
            to: self.to,
            real: self.real,
            stay: time("stay", self.stay)?,
            within: time("within", self.within)?,
            max_errors: self.max_errors,
            max_age: time("max_age", self.max_age)?,
            participants: texts("participants", self.participants)?,
            notes: texts("notes", self.notes)?,
            corrective: texts("corrective", self.corrective)?,
            next: self.next.as_deref().map(|next| words("next", next)).transpose()?,
            by: by(self.by.as_deref(), caller)?,
            scheduled: None,
            dry_run: self.dry_run,
        })
    }
}

/// Begins one.
/// # Errors
/// As the module says.
pub async fn begin(
    State(live): State<Arc<Live>>,
    Extension(door): Extension<Door>,
    caller: Option<Extension<Caller>>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    door.demand_socket("a drill")?;
    let body: Body = if body.is_empty() {
        Body::default()
    } else {
        serde_json::from_slice(&body).map_err(|e| wrong(format!("the body is not what a drill takes: {e}")))?
    };
    let dry_run = body.dry_run;
    let wish = body.wish(caller.map(|Extension(c)| c).unwrap_or_default())?;
    let record = live.begin_drill(&name, wish).await.map_err(refused)?;
    Ok(Json(json!({"dry_run": dry_run, "moves_traffic": record.moves_traffic(), "scenario": report::scenario(&record), "drill": record})))
}

/// Ends the one that runs: it returns at once.
/// # Errors
/// As the module says.
pub async fn stop(
    State(live): State<Arc<Live>>,
    Extension(door): Extension<Door>,
    caller: Option<Extension<Caller>>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    door.demand_socket("stopping a drill")?;
    let by = by(None, caller.map(|Extension(c)| c).unwrap_or_default())?;
    if !live.drills().stop(&name, &by) {
        return Err(Problem::new(StatusCode::CONFLICT, format!("no drill of {name} runs")));
    }
    Ok(Json(json!({"destination": name, "drill": "stopping"})))
}

fn refused(e: DrillRefused) -> Problem {
    match e {
        DrillRefused::Wish(e) => problem(e),
        DrillRefused::Spool(e) => e.into(),
        DrillRefused::Report(_) => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
        DrillRefused::Impossible(_) | DrillRefused::NotNow(_) | DrillRefused::Message { .. } => Problem::new(StatusCode::CONFLICT, e.to_string()),
    }
}

/// Which drills are asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Which {
    destination: Option<String>,
}

/// The reports, the latest first.
pub async fn list(State(live): State<Arc<Live>>, Query(which): Query<Which>) -> Json<Value> {
    let records = live.drills().store().map(|store| store.list(which.destination.as_deref())).unwrap_or_default();
    let rows: Vec<Value> = records.iter().map(row).collect();
    Json(json!({ "drills": rows }))
}

fn row(record: &Record) -> Value {
    json!({
        "id": record.id,
        "destination": record.destination,
        "begun": record.begun,
        "ended": record.ended,
        "outcome": record.outcome,
        "scheduled": record.scheduled,
        "fault": record.fault,
        "real": record.real,
        "summary": report::summary(record),
    })
}

/// In which form.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Form {
    format: Option<String>,
}

/// One report.
/// # Errors
/// As the module says.
pub async fn show(State(live): State<Arc<Live>>, Path(id): Path<String>, Query(form): Query<Form>) -> Result<Response, Problem> {
    let record = live.drills().store().and_then(|store| store.get(&id));
    let record = record.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, format!("there is no drill {id}; `everpost drill list` shows them")))?;
    let text = |kind: &'static str, body: String| ([(header::CONTENT_TYPE, kind)], body).into_response();
    match form.format.as_deref().unwrap_or("json") {
        "json" => Ok(Json(record).into_response()),
        "md" => Ok(text("text/markdown; charset=utf-8", report::markdown(&record))),
        "html" => Ok(text("text/html; charset=utf-8", report::html(&record))),
        other => Err(wrong(format!("no format {other}; there are json, md and html"))),
    }
}
