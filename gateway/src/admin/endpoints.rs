//! Verbs on destinations and on the gateway: pause, resume, failback, reload. Only on the socket.
//! Rules: a wish is durable before it is answered.
//! Errors: 404 for what is not configured, 409 where there is no endpoint to return to, 409 with every problem of a file that does not load.

use super::Problem;
use super::auth::Door;
use crate::live::{Live, WishError};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde_json::{Value, json};
use std::sync::Arc;

/// `POST /api/v1/destinations/{name}/pause|resume|failback`.
/// # Errors
/// As the module says.
pub async fn destination(
    State(live): State<Arc<Live>>,
    Extension(door): Extension<Door>,
    Path((name, verb)): Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    door.demand_socket("steering a destination")?;
    let paused = match verb.as_str() {
        "pause" => true,
        "resume" => false,
        "failback" => return failback(&live, &name),
        other => return Err(Problem::new(StatusCode::NOT_FOUND, format!("no verb {other}; there are pause, resume and failback"))),
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

fn problem(e: WishError) -> Problem {
    match e {
        WishError::Unknown(_) => Problem::new(StatusCode::NOT_FOUND, e.to_string()),
        WishError::Spool(e) => e.into(),
    }
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
