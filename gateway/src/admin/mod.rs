//! The admin API: HTTP on the socket `<data_dir>/admin.sock` (every verb) and on a loopback address (reading only, without patient data).
//! Rules: a request has a size limit, a connection a lifetime, both doors a limit on connections; answers are JSON, errors `application/problem+json`.
//! Errors: `Problem`, with what to do in `detail`.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use everpost_client::io::stop::Stop;
use everpost_client::spool::SpoolError;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

pub mod auth;
pub mod drills;
pub mod endpoints;
pub mod import;
pub mod outages;
pub mod queue;
pub mod replay;
pub mod socket;
pub mod status;
#[cfg(test)]
mod tests;
pub mod wishes;

use crate::live::Live;
use auth::{Caller, Door};

/// Time for a request's head, and for a kept-open connection to ask again.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// Lifetime of a connection to the loopback address: nothing asked there takes longer, and a reader that stalls must not keep its place.
const LOOPBACK_LIFETIME: Duration = Duration::from_secs(60);

/// Lifetime of a connection to the socket: an export of a large object to a slow disk fits.
const SOCKET_LIFETIME: Duration = Duration::from_secs(3_600);

/// Connections of each door at a time.
const CONNECTIONS_MAX: usize = 32;

/// Bytes of a request's body: a verb with a reason.
const BODY_BYTES_MAX: usize = 64 << 10;

/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 32 << 10;

/// A negative answer (RFC 9457).
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    detail: String,
}

impl Problem {
    /// With what happened and what to do.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into() }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("error");
        let body = serde_json::json!({"title": title, "status": self.status.as_u16(), "detail": self.detail});
        (self.status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
    }
}

impl From<SpoolError> for Problem {
    fn from(e: SpoolError) -> Self {
        let status = match e {
            SpoolError::NotWaiting(_) => StatusCode::NOT_FOUND,
            SpoolError::Limit(_) => StatusCode::UNPROCESSABLE_ENTITY,
            SpoolError::WrongState { .. } => StatusCode::CONFLICT,
            SpoolError::Reserve { .. } | SpoolError::NotDurable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let cause = std::error::Error::source(&e).map(|cause| format!(": {cause}")).unwrap_or_default();
        Self::new(status, format!("{e}{cause}"))
    }
}

/// A question that blocks on the disk, off the threads that serve peers.
async fn from_disk<T: Send + 'static>(question: impl FnOnce() -> Result<T, SpoolError> + Send + 'static) -> Result<T, Problem> {
    let answered = tokio::task::spawn_blocking(question).await;
    answered.map_err(|e| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the question was not answered: {e}")))?.map_err(Problem::from)
}

/// Everything the API offers, for one door.
pub fn router(live: Arc<Live>, door: Door) -> Router {
    let verbs = Router::new()
        .route("/api/v1/envelopes/{id}", post(queue::decide_all))
        .route("/api/v1/envelopes/{id}/{verb}", post(queue::decide))
        .route("/api/v1/destinations/{name}/import", post(import::import))
        .route("/api/v1/destinations/{name}/replay", post(replay::replay))
        .route("/api/v1/destinations/{name}/drill", post(drills::begin))
        .route("/api/v1/destinations/{name}/drill-stop", post(drills::stop))
        .route("/api/v1/destinations/{name}/{verb}", post(endpoints::destination))
        .route("/api/v1/destinations/{name}/endpoints/{endpoint}/{verb}", post(wishes::endpoint))
        .route("/api/v1/sites/{name}/{verb}", post(wishes::site))
        .route("/api/v1/reload", post(endpoints::reload));
    Router::new()
        .route("/healthz", get(status::healthz))
        .route("/readyz", get(status::readyz))
        .route("/metrics", get(status::metrics))
        .route("/api/v1/status", get(status::status))
        .route("/api/v1/config", get(status::config))
        .route("/api/v1/destinations/{name}/outages", get(outages::list))
        .route("/api/v1/drills", get(drills::list))
        .route("/api/v1/drills/{id}", get(drills::show))
        .route("/api/v1/envelopes", get(queue::list))
        .route("/api/v1/envelopes/{id}", get(queue::show))
        .route("/api/v1/envelopes/{id}/content", get(queue::content))
        .merge(verbs)
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "there is nothing here; the API begins at /api/v1/status") })
        .method_not_allowed_fallback(|| async { Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path takes another method") })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(axum::middleware::from_fn_with_state(door.clone(), auth::guard))
        .layer(axum::Extension(door))
        .with_state(live)
}

/// Serves the loopback address until `stop`.
pub async fn serve_loopback(listener: TcpListener, live: Arc<Live>, stop: Stop) {
    let router = router(live, Door::loopback(listener.local_addr().ok()));
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! { () = stop.wait() => return, accepted = listener.accept() => accepted };
        match accepted {
            Ok((stream, _)) => serve(stream, &router, &places, LOOPBACK_LIFETIME),
            Err(e) => wait_out(&e).await,
        }
    }
}

/// Serves the socket until `stop`.
pub async fn serve_socket(listener: UnixListener, live: Arc<Live>, stop: Stop) {
    let router = router(live, Door::Socket);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! { () = stop.wait() => return, accepted = listener.accept() => accepted };
        match accepted {
            Ok((stream, _)) => {
                let caller = Caller { uid: stream.peer_cred().ok().map(|peer| peer.uid()) };
                serve(stream, &router.clone().layer(axum::Extension(caller)), &places, SOCKET_LIFETIME);
            }
            Err(e) => wait_out(&e).await,
        }
    }
}

/// Serves one connection in a task of its own. Beyond the limit it is closed at once: the one who asks sees it and asks again.
fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, router: &Router, places: &Arc<Semaphore>, lifetime: Duration) {
    let Ok(place) = places.clone().try_acquire_owned() else {
        tracing::warn!(limit = CONNECTIONS_MAX, "admin API: too many connections at a time, one was closed");
        return;
    };
    let service = TowerToHyperService::new(router.clone());
    tokio::spawn(async move {
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WITHIN)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        match tokio::time::timeout(lifetime, connection).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::debug!("admin API: a connection ended: {e}"),
            Err(_) => tracing::debug!("admin API: a connection was closed after its lifetime"),
        }
        drop(place);
    });
}

/// Accepting fails when descriptors run out: wait, do not spin.
async fn wait_out(e: &std::io::Error) {
    tracing::warn!("admin API: no connection can be taken: {e}; trying again each second");
    tokio::time::sleep(Duration::from_secs(1)).await;
}
