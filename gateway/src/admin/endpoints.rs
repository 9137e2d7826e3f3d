//! Verbs on destinations and on the gateway: pause, resume, failback, unshift, reload. Only on the socket. Those on endpoints stand in `wishes`.
//! Rules: a wish is durable before it is answered.
//! Errors: 404 for what is not configured, 409 where there is no endpoint to return to, 409 with every problem of a file that does not load.

use super::Problem;
use super::auth::{Caller, Door};
use crate::live::{Live, WishError};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use bytes::Bytes;
use everpost_client::endpoint::wishes::ShiftRefused;
use serde_json::{Value, json};
use std::sync::Arc;

/// `POST /api/v1/destinations/{name}/pause|resume|failback|unshift`.
/// # Errors
/// As the module says.
pub async fn destination(
    State(live): State<Arc<Live>>,
    Extension(door): Extension<Door>,
    caller: Option<Extension<Caller>>,
    Path((name, verb)): Path<(String, String)>,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    door.demand_socket("steering a destination")?;
    let paused = match verb.as_str() {
        "pause" => true,
        "resume" => false,
        "failback" => return failback(&live, &name),
        "unshift" => return super::wishes::unshift(&live, &name, caller.map(|Extension(c)| c).unwrap_or_default(), &body).await,
        other => return Err(Problem::new(StatusCode::NOT_FOUND, format!("no verb {other}; there are pause, resume, failback and unshift"))),
    };
    live.pause(&name, paused).await.map_err(problem)?;
    tracing::info!(about = name, "destination {} by an operator", if paused { "paused" } else { "resumed" });
    Ok(Json(json!({"destination": name, "paused": paused})))
}

/// Back to the first good endpoint, whatever `failback` says. A wish of this moment: nothing of it is recorded.
fn failback(live: &Live, name: &str) -> Result<Json<Value>, Problem> {
    if !live.failback(name).map_err(problem)? {
        let what = format!("{name}: no endpoint before the active one is good now; `everpost status` shows where it delivers and why");
        return Err(Problem::new(StatusCode::CONFLICT, what));
    }
    tracing::info!(about = name, "failback wanted by an operator");
    Ok(Json(json!({"destination": name, "failback": "begun"})))
}

pub(super) fn problem(e: WishError) -> Problem {
    let status = match e {
        WishError::Spool(e) => return e.into(),
        WishError::Unknown(_) | WishError::UnknownSite(_) | WishError::Refused(ShiftRefused::Unknown(_)) => StatusCode::NOT_FOUND,
        _ => StatusCode::CONFLICT,
    };
    Problem::new(status, e.to_string())
}

/// `POST /api/v1/reload`.
/// # Errors
/// As the module says.
pub async fn reload(State(live): State<Arc<Live>>, Extension(door): Extension<Door>) -> Result<Json<Value>, Problem> {
    door.demand_socket("reloading")?;
    match live.reload().await {
        Ok(changes) => Ok(Json(json!({ "changes": changes }))),
        Err(problems) => Err(Problem::new(StatusCode::CONFLICT, problems.join("\n"))),
    }
}
