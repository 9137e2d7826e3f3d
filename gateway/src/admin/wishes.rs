//! Verbs on endpoints and sites: shift, unshift, drain, enable, disable, probe. Only on the socket.
//! Rules: a wish is durable before it is answered; who wished is the user of the socket's other end, with the name that the command line gives.
//! Errors: 400 for a body that is none, 404 for unknown names, 409 for what is refused now, with what to do.

use super::Problem;
use super::auth::{Caller, Door};
use super::endpoints::problem;
use crate::live::Live;
use crate::status::time;
use crate::wishes::{Planned, REASON_CHARS_MAX, SHIFT_DEFAULT, SHIFT_MAX, ShiftWish};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use bytes::Bytes;
use everpost_client::config::units;
use everpost_client::endpoint::Admin;
use everpost_client::endpoint::wishes::Shift;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// What a verb may be told.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Body {
    reason: Option<String>,
    /// Who, by name.
    by: Option<String>,
    /// For how long: `"60m"`.
    r#for: Option<String>,
    /// To which site.
    to: Option<String>,
    force: bool,
    dry_run: bool,
}

fn wrong(what: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, what)
}

impl Body {
    fn read(bytes: &Bytes) -> Result<Self, Problem> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        serde_json::from_slice(bytes).map_err(|e| wrong(format!("the body is not what this verb takes: {e}")))
    }

    fn by(&self, caller: Caller) -> Result<String, Problem> {
        by(self.by.as_deref(), caller)
    }

    fn shift(&self, caller: Caller) -> Result<ShiftWish, Problem> {
        let reason = self.reason.as_deref().ok_or_else(|| wrong("a shift needs a reason"))?;
        let time = self.r#for.as_deref().map_or(Some(SHIFT_DEFAULT), units::duration);
        let time = time.filter(|time| (Duration::from_secs(1)..=SHIFT_MAX).contains(time));
        let time = time.ok_or_else(|| wrong("`for` is a duration from \"1s\" to \"30d\"; what shall last longer belongs into the configuration"))?;
        Ok(ShiftWish { reason: words("reason", reason)?, by: self.by(caller)?, time, forced: self.force, dry_run: self.dry_run })
    }
}

/// Who it is: the name that the command line gives, and the user of the socket's other end.
pub(super) fn by(name: Option<&str>, caller: Caller) -> Result<String, Problem> {
    let Caller { uid } = caller;
    let name = name.map(|name| words("by", name)).transpose()?;
    Ok(match (name, uid) {
        (Some(name), Some(uid)) => format!("{name} (uid {uid})"),
        (Some(name), None) => name,
        (None, Some(uid)) => format!("uid {uid}"),
        (None, None) => "an operator".to_owned(),
    })
}

/// Text of people, for one line of a log.
pub(super) fn words(what: &str, text: &str) -> Result<String, Problem> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > REASON_CHARS_MAX || text.chars().any(char::is_control) {
        return Err(wrong(format!("`{what}` has 1 to {REASON_CHARS_MAX} characters in one line")));
    }
    Ok(text.to_owned())
}

/// `POST /api/v1/destinations/{name}/endpoints/{endpoint}/{verb}`.
/// # Errors
/// As the module says.
pub async fn endpoint(
    State(live): State<Arc<Live>>,
    Extension(door): Extension<Door>,
    caller: Option<Extension<Caller>>,
    Path((destination, endpoint, verb)): Path<(String, String, String)>,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    door.demand_socket("steering an endpoint")?;
    let (body, caller) = (Body::read(&body)?, caller.map(|Extension(c)| c).unwrap_or_default());
    let admin = match verb.as_str() {
        "shift" => {
            let wish = body.shift(caller)?;
            let planned = live.shift(&destination, &endpoint, &wish).await.map_err(problem)?;
            return Ok(Json(told(&planned, wish.dry_run)));
        }
        "probe" => return probe(&live, &destination, &endpoint).await,
        "drain" => Admin::Draining,
        "enable" => Admin::Enabled,
        "disable" => Admin::Disabled,
        other => return Err(Problem::new(StatusCode::NOT_FOUND, format!("no verb {other}; there are shift, drain, enable, disable and probe"))),
    };
    live.set_admin(&destination, &endpoint, admin, &body.by(caller)?, body.force).await.map_err(problem)?;
    Ok(Json(json!({"destination": destination, "endpoint": endpoint, "admin": admin.name()})))
}

/// `POST /api/v1/destinations/{name}/unshift`.
pub(super) async fn unshift(live: &Live, destination: &str, caller: Caller, body: &Bytes) -> Result<Json<Value>, Problem> {
    let by = Body::read(body)?.by(caller)?;
    let ended = live.unshift(destination, &by).await.map_err(problem)?;
    let ended = ended.ok_or_else(|| Problem::new(StatusCode::CONFLICT, format!("{destination} is not shifted")))?;
    Ok(Json(json!({"destination": destination, "ended": shown(&ended)})))
}

/// `POST /api/v1/sites/{name}/{verb}`.
/// # Errors
/// As the module says.
pub async fn site(
    State(live): State<Arc<Live>>,
    Extension(door): Extension<Door>,
    caller: Option<Extension<Caller>>,
    Path((site, verb)): Path<(String, String)>,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    door.demand_socket("steering a site")?;
    let (body, caller) = (Body::read(&body)?, caller.map(|Extension(c)| c).unwrap_or_default());
    match verb.as_str() {
        "shift" => {
            let wish = body.shift(caller)?;
            let planned = live.shift_site(&site, body.to.as_deref(), &wish).await.map_err(problem)?;
            let all: Vec<Value> = planned.iter().map(|p| told(p, wish.dry_run)).collect();
            Ok(Json(json!({"site": site, "dry_run": wish.dry_run, "destinations": all})))
        }
        "unshift" => {
            let ended = live.unshift_site(&site, &body.by(caller)?).await.map_err(problem)?;
            if ended.is_empty() {
                return Err(Problem::new(StatusCode::CONFLICT, format!("no destination is shifted away from site {site}")));
            }
            Ok(Json(json!({"site": site, "destinations": ended})))
        }
        other => Err(Problem::new(StatusCode::NOT_FOUND, format!("no verb {other}; there are shift and unshift"))),
    }
}

async fn probe(live: &Live, destination: &str, endpoint: &str) -> Result<Json<Value>, Problem> {
    let probed = live.probe(destination, endpoint).await.map_err(problem)?;
    let row = |p: &everpost_client::io::driver::Probed| {
        let (phase, cause) = p.failure.as_ref().map_or((None, None), |f| (Some(f.phase.to_string()), Some(f.cause.clone())));
        json!({"endpoint": p.endpoint, "good": p.failure.is_none(), "seconds": p.took.as_secs_f64(), "phase": phase, "cause": cause})
    };
    Ok(Json(json!({"destination": destination, "probes": probed.iter().map(row).collect::<Vec<_>>()})))
}

fn told(planned: &Planned, dry_run: bool) -> Value {
    json!({"destination": planned.destination, "from": planned.from, "dry_run": dry_run, "shift": shown(&planned.shift)})
}

/// A shift, for JSON: times as RFC 3339.
#[must_use]
pub fn shown(shift: &Shift) -> Value {
    json!({"to": shift.to, "reason": shift.reason, "by": shift.by, "since": time(shift.since), "until": time(shift.until), "site": shift.site})
}
