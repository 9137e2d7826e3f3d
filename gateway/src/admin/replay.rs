//! `POST /api/v1/destinations/{name}/replay`: deliver again what was answered, by an operator's wish. Only on the socket.
//! Rules: a dry run changes nothing; the wish is durable before the first envelope of it goes, and goes on after a restart.
//! Errors: 404 for what is not configured, 409 while another replay is under way or an order would break, 422 for times that make no sense.

use super::Problem;
use super::auth::Door;
use crate::live::{Live, now};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use bytes::Bytes;
use everpost_client::config::units;
use everpost_client::delivery::replay::ByHand;
use everpost_client::io::driver::ReplayError;
use everpost_client::spool::{Mark, Range, Since, UnixMillis};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// What is wished.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplayBody {
    from_endpoint: Option<String>,
    since: String,
    until: Option<String>,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    out_of_order: bool,
    #[serde(default)]
    no_query: bool,
}

fn wrong(what: impl Into<String>) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, what)
}

/// A time as people write it: RFC 3339, or a duration ago.
fn time(text: &str, now: UnixMillis) -> Result<UnixMillis, Problem> {
    if let Some(ago) = units::duration(text) {
        return Ok(now.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)));
    }
    let parsed: Result<jiff::Timestamp, _> = text.parse();
    let at = parsed.map_err(|_| wrong(format!("{text:?} is no time; write RFC 3339 (2026-01-31T22:00:00+01:00) or a duration ago (2h)")))?;
    Ok(u64::try_from(at.as_millisecond()).unwrap_or(0))
}

/// Takes the wish.
/// # Errors
/// As the module says.
pub async fn replay(
    State(live): State<Arc<Live>>,
    Extension(door): Extension<Door>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    door.demand_socket("replaying")?;
    let body: ReplayBody = serde_json::from_slice(&body).map_err(|e| wrong(format!("the body is not what a replay takes: {e}")))?;
    let unknown = |what: String| Problem::new(StatusCode::NOT_FOUND, what);
    let running = live.destinations().into_iter().find(|d| *d.name == *name);
    let running = running.ok_or_else(|| unknown(format!("there is no destination {name} in the configuration; `everpost status` lists them")))?;
    let config = live.config();
    let known = |endpoint: &String| config.destinations.iter().any(|d| *d.name == *name && d.endpoints.iter().any(|e| *e.name == **endpoint));
    if let Some(endpoint) = body.from_endpoint.as_ref().filter(|e| !known(e)) {
        return Err(unknown(format!("{name} has no endpoint {endpoint}")));
    }
    let now = now();
    let since = time(&body.since, now)?;
    let until = body.until.as_deref().map(|text| time(text, now)).transpose()?;
    if since > now || until.is_some_and(|until| until < since) {
        return Err(wrong("`since` is later than `until`, or than now"));
    }
    let since_mark = Since::Mark(Mark { number: u64::MAX, at: since });
    let ranges = vec![Range { endpoint: body.from_endpoint.as_deref().map(Arc::from), since: since_mark, until }];
    let wish = ByHand { ranges, out_of_order: body.out_of_order, asks: !body.no_query };
    let (driver, wanted) = (running.driver.clone(), wish.clone());
    let planned = tokio::task::spawn_blocking(move || driver.plan_replay(wanted)).await;
    let planned = planned.map_err(|e| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?.map_err(problem)?;
    if !body.dry_run {
        running.driver.replay(wish).map_err(problem)?;
        tracing::warn!(about = name, envelopes = planned.envelopes, "replay by an operator");
    }
    let accepted = planned.accepted.map(|(first, last)| json!({"first": crate::status::time(first), "last": crate::status::time(last)}));
    Ok(Json(json!({
        "destination": name,
        "dry_run": body.dry_run,
        "envelopes": planned.envelopes,
        "bytes": planned.bytes,
        "gone": planned.gone,
        "accepted": accepted,
    })))
}

fn problem(e: ReplayError) -> Problem {
    match e {
        ReplayError::Refused(e) => Problem::new(StatusCode::CONFLICT, e.to_string()),
        ReplayError::Spool(e) => e.into(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        assert_eq!(time("2h", 10_000_000).unwrap(), 2_800_000);
        assert_eq!(time("1970-01-01T01:00:00+01:00", 5).unwrap(), 0);
        assert_eq!(time("1970-01-01T00:00:01Z", 5).unwrap(), 1_000);
        assert!(time("yesterday", 5).is_err());
    }
}
