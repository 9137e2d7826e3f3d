//! `GET /api/v1/destinations/{name}/outages`: the outages of the last 30 days, the latest first.
//! Errors: 404 for what is not configured.

use super::Problem;
use super::endpoints::problem;
use crate::live::Live;
use crate::outages::{ObjectivesLine, OutageLine};
use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};
use std::sync::Arc;

/// Lists them.
/// # Errors
/// As the module says.
pub async fn list(State(live): State<Arc<Live>>, Path(name): Path<String>) -> Result<Json<Value>, Problem> {
    let running = live.running(&name).map_err(problem)?;
    let (outages, elapsed) = running.driver.outages();
    let rows: Vec<OutageLine> = outages.iter().map(|outage| OutageLine::new(outage, elapsed.unwrap_or(0))).collect();
    let objectives = ObjectivesLine::from(running.driver.status().objectives);
    Ok(Json(json!({"destination": name, "objectives": objectives, "outages": rows})))
}
