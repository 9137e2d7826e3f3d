//! `/healthz`, `/readyz`, `/metrics`, `/api/v1/status`, `/api/v1/config`: what is, in five forms. No patient data in any of them.
//! Errors: 503 from `/readyz` while messages are not taken.

use crate::live::Live;
use crate::status::Report;
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;

/// Alive: the process answers.
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// Takes messages.
pub async fn readyz(State(live): State<Arc<Live>>) -> (StatusCode, String) {
    match live.refusing() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

/// Prometheus text.
pub async fn metrics(State(live): State<Arc<Live>>) -> impl IntoResponse {
    let text = live.metrics().render(&live.report(), Instant::now());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

/// The report.
pub async fn status(State(live): State<Arc<Live>>) -> Json<Report> {
    Json(live.report())
}

/// The configuration in force, as far as operators ask for it: what listens, where it goes, what the file's check remarked.
pub async fn config(State(live): State<Arc<Live>>) -> Json<Value> {
    let config = live.config();
    let listeners: Vec<Value> = config
        .listeners
        .iter()
        .map(|l| json!({"name": l.name, "protocol": l.protocol, "bind": l.bind.to_string(), "tls": l.tls.is_some(), "ae_title": l.ae_titles}))
        .collect();
    let destinations: Vec<Value> = config
        .destinations
        .iter()
        .map(|d| {
            let endpoints: Vec<Value> =
                d.endpoints.iter().map(|e| json!({"name": e.name, "address": e.address(), "ae_title": e.ae_title, "tls": e.tls.is_some()})).collect();
            json!({"name": d.name, "protocol": d.protocol, "endpoints": endpoints, "not_acting": d.not_acting})
        })
        .collect();
    let routes: Vec<Value> = config.routes.iter().map(|r| json!({"from": r.from, "to": r.to, "default": r.default})).collect();
    let warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
    Json(json!({
        "file": config.file.display().to_string(),
        "name": config.name,
        "data_dir": config.data_dir.display().to_string(),
        "stop_timeout_seconds": config.stop_timeout.as_secs_f64(),
        "spool": {"reserve_bytes": config.spool.reserve, "history_seconds": config.spool.history.as_secs(), "segment_bytes": config.spool.segment_size},
        "listeners": listeners,
        "destinations": destinations,
        "routes": routes,
        "warnings": warnings,
    }))
}
