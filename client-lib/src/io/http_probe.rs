//! The http probe: GET of a URL, good with any status from 200 to 299.
//! Rules: one connection for each probe, closed after it; redirections are not followed, nothing of the body is read; names and https go through the
//! same look-ups and TLS set-up as endpoints'.
//! Errors: `ProbeFailure`, naming the URL: it is not the address that messages go to.

use crate::config::{Endpoint, Finding, HttpUrl, Probe};
use crate::delivery::{Outcome, Phase};
use crate::dicom::uid::IMPLEMENTATION_VERSION;
use crate::io::courier::ProbeFailure;
use crate::io::dial::Dialer;
use crate::io::resolve::Resolver;
use crate::io::tls::ClientTls;
use crate::limits::HTTP_HEAD_BYTES_MAX;
use bytes::Bytes;
use http_body_util::Empty;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// The URL of one endpoint's probes.
#[derive(Debug)]
pub(crate) struct HttpProbe {
    url: HttpUrl,
    /// Or why its certificates could not be read.
    dialer: Result<Dialer, String>,
}

impl HttpProbe {
    /// For an endpoint that is probed so. Certificates are read now; one that cannot be read makes every probe fail.
    pub(crate) fn of(endpoint: &Endpoint, resolver: &Resolver) -> Option<Self> {
        let Probe::Http(url) = &endpoint.health.probe else { return None };
        let tls = url.tls.as_ref().map(|settings| ClientTls::load(settings, &url.host)).transpose();
        let at = Endpoint { host: url.host.clone(), port: url.port, tls: url.tls.clone(), finding: Finding::Any, ..endpoint.clone() };
        let dialer = tls.map(|tls| Dialer::new(Arc::new(at), tls, resolver)).map_err(|error| error.to_string());
        Some(Self { url: url.clone(), dialer })
    }

    /// Makes one probe; how long the answer took.
    pub(crate) async fn probe(&self, deadline: Instant) -> Result<Duration, ProbeFailure> {
        let url = &self.url;
        let failed = |phase, what: String| ProbeFailure { phase, cause: format!("{url} {what}") };
        let dialer = self.dialer.as_ref().map_err(|what| failed(Phase::Tls, format!("was not asked: {what}")))?;
        let stream = dialer.dial(deadline).await.map_err(|outcome| unreached(url, outcome))?;
        let asked = Instant::now();
        match timeout_at(deadline, get(url, TokioIo::new(stream))).await {
            Ok(Ok(status)) if status.is_success() => Ok(asked.elapsed()),
            Ok(Ok(status)) => Err(failed(Phase::Answer, format!("answered {}; 200 to 299 is good", status.as_u16()))),
            Ok(Err(error)) => Err(failed(Phase::Answer, format!("gave no HTTP answer: {error}"))),
            Err(_) => Err(failed(Phase::Answer, "did not answer in time".to_owned())),
        }
    }
}

/// The status of one GET.
async fn get(url: &HttpUrl, wire: TokioIo<crate::io::stream::Stream>) -> Result<StatusCode, Box<dyn std::error::Error + Send + Sync>> {
    let request = Request::get(&url.target)
        .header(HOST, url.authority())
        .header(USER_AGENT, IMPLEMENTATION_VERSION)
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new().max_buf_size(HTTP_HEAD_BYTES_MAX).handshake(wire).await?;
    tokio::pin!(connection);
    let answer = sender.send_request(request);
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => Ok(answer?.status()),
        // The connection ended; the answer may have come with its end.
        ended = &mut connection => {
            let answer = answer.await;
            ended?;
            Ok(answer?.status())
        }
    }
}

fn unreached(url: &HttpUrl, outcome: Outcome) -> ProbeFailure {
    let phase = outcome.phase();
    let cause = if let Outcome::NotSent { cause, .. } = outcome { cause } else { String::new() };
    ProbeFailure { phase, cause: format!("{url}: {cause}") }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_types)]
mod tests {
    use super::*;
    use crate::config::{HealthSettings, Names};
    use crate::event::Events;
    use crate::io::stop::Stop;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn of(port: u16, target: &str) -> HttpProbe {
        let url = HttpUrl { host: "127.0.0.1".to_owned(), port, target: target.to_owned(), tls: None };
        let destination = crate::endpoint::fixture::destination(crate::keys::Protocol::Mllp, &["a"]);
        let endpoint = Endpoint { health: HealthSettings::of(Probe::Http(url)), ..(*destination.endpoints[0]).clone() };
        let resolver = Resolver::new(&Names::default(), Events::none(), Stop::new().1).unwrap();
        HttpProbe::of(&endpoint, &resolver).unwrap()
    }

    /// What a server that answers every request with these bytes makes of a probe, and what it was asked.
    async fn probe(answer: &'static [u8]) -> (Result<(), ProbeFailure>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = tokio::spawn(async move {
            let (mut peer, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                asked.push(peer.read_u8().await.unwrap());
            }
            if answer.is_empty() {
                // Silent until the probe gives up.
                let _ = peer.read_u8().await;
            }
            let _ = peer.write_all(answer).await;
            String::from_utf8(asked).unwrap()
        });
        let probe = of(port, "/health?deep");
        let patience = if answer.is_empty() { Duration::from_millis(200) } else { Duration::from_secs(20) };
        let result = probe.probe(Instant::now() + patience).await.map(drop);
        (result, served.await.unwrap())
    }

    #[tokio::test]
    async fn any_status_of_200_to_299_is_good_and_no_other() {
        let (result, asked) = probe(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        assert_eq!(result, Ok(()));
        assert!(asked.starts_with("GET /health?deep HTTP/1.1\r\n") && asked.to_ascii_lowercase().contains("host: 127.0.0.1:"), "{asked}");
        assert_eq!(probe(b"HTTP/1.0 204 No Content\r\n\r\n").await.0, Ok(()));
        for status in [&b"HTTP/1.1 503 no\r\n\r\n"[..], b"HTTP/1.1 302 elsewhere\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n"] {
            let failed = probe(status).await.0.unwrap_err();
            assert_eq!(failed.phase, Phase::Answer);
            assert!(failed.cause.starts_with("http://127.0.0.1:") && failed.cause.contains("200 to 299"), "{failed:?}");
        }
    }

    #[tokio::test]
    async fn what_is_no_answer_is_a_failure_of_the_answer() {
        for (answer, said) in [(&b"MSH|^~\\&|\r\n\r\n"[..], "no HTTP answer"), (b"", "in time")] {
            let failed = probe(answer).await.0.unwrap_err();
            assert!(failed.phase == Phase::Answer && failed.cause.contains(said), "{failed:?}");
        }
        let endless: &'static [u8] = Box::leak(format!("HTTP/1.1 200 OK\r\n{}", "x: y\r\n".repeat(10_000)).into_bytes().into_boxed_slice());
        assert!(probe(endless).await.0.is_err(), "a head without end is no answer");
    }

    #[tokio::test]
    async fn nobody_there_is_a_failure_to_connect() {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        assert_eq!(of(port, "/").probe(Instant::now() + Duration::from_secs(20)).await.unwrap_err().phase, Phase::Connect);
    }
}
