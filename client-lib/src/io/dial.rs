//! Connects to an endpoint: resolve, TCP, TLS, all within one deadline.
//! Rules: every address of a name is tried, the next one beside the one before after 250 ms (RFC 8305) or at once when it failed; whatever goes
//! wrong here happened before a byte of a message left: the outcome is always `NotSent` with its phase.
//! Errors: `Outcome::NotSent`, with a cause that says where and what to look at.

use crate::config::Endpoint;
use crate::delivery::{Outcome, Phase};
use crate::io::stream::{self, Stream};
use crate::io::tls::ClientTls;
use crate::limits;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// Connects to one endpoint again and again, and knows what its name resolved to last.
#[derive(Debug)]
pub struct Dialer {
    endpoint: Arc<Endpoint>,
    tls: Option<ClientTls>,
    resolved: Mutex<Vec<SocketAddr>>,
}

impl Dialer {
    /// For one endpoint.
    #[must_use]
    pub fn new(endpoint: Arc<Endpoint>, tls: Option<ClientTls>) -> Dialer {
        Dialer { endpoint, tls, resolved: Mutex::default() }
    }

    /// A new connection. A resolver that fails or hangs does not stop it while an earlier answer is known.
    /// # Errors
    /// `Outcome::NotSent`.
    pub async fn dial(&self, deadline: Instant) -> Result<Stream, Outcome> {
        let addresses = self.addresses(deadline, |until| resolve(&self.endpoint.host, self.endpoint.port, until)).await?;
        connect(&addresses, &self.endpoint.address(), self.tls.as_ref(), deadline).await
    }

    /// What `resolve` finds, or what it found last. A known answer leaves it half of the time: the other half is for connecting.
    async fn addresses<F>(&self, deadline: Instant, resolve: impl FnOnce(Instant) -> F) -> Result<Vec<SocketAddr>, Outcome>
    where
        F: Future<Output = Result<Vec<SocketAddr>, Outcome>>,
    {
        let known = self.resolved();
        let now = Instant::now();
        let until = if known.is_empty() { deadline } else { now + deadline.saturating_duration_since(now) / 2 };
        match resolve(until).await {
            Ok(addresses) => {
                self.resolved.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&addresses);
                Ok(addresses)
            }
            Err(failure) if known.is_empty() => Err(failure),
            Err(_) => Ok(known),
        }
    }

    /// What the name resolved to last.
    #[must_use]
    pub fn resolved(&self) -> Vec<SocketAddr> {
        self.resolved.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One connection to an endpoint.
/// # Errors
/// `Outcome::NotSent`.
pub async fn dial(endpoint: &Endpoint, tls: Option<&ClientTls>, deadline: Instant) -> Result<Stream, Outcome> {
    let addresses = resolve(&endpoint.host, endpoint.port, deadline).await?;
    connect(&addresses, &endpoint.address(), tls, deadline).await
}

/// Every address of a name, in the order the system prefers. An address stands for itself, without a look-up.
/// # Errors
/// `Outcome::NotSent` in the phase `Resolve`.
pub async fn resolve(host: &str, port: u16, deadline: Instant) -> Result<Vec<SocketAddr>, Outcome> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let name = host.to_owned();
    resolve_by(host, deadline, move || (name.as_str(), port).to_socket_addrs().map(Iterator::collect)).await
}

/// `resolve` with the look-up as an argument, so that the tests need no resolver.
async fn resolve_by(
    host: &str,
    deadline: Instant,
    look_up: impl FnOnce() -> io::Result<Vec<SocketAddr>> + Send + 'static,
) -> Result<Vec<SocketAddr>, Outcome> {
    static UNDER_WAY: OnceLock<Arc<Semaphore>> = OnceLock::new();
    let slots = UNDER_WAY.get_or_init(|| Arc::new(Semaphore::new(limits::LOOKUPS_MAX))).clone();
    let answer = timeout_at(deadline, async move {
        let slot = slots.acquire_owned().await.map_err(io::Error::other)?;
        let looked_up = tokio::task::spawn_blocking(move || {
            // The slot stays taken until the system lets go of the thread, even when nobody waits any more.
            let _slot = slot;
            look_up()
        });
        looked_up.await.map_err(io::Error::other)?
    })
    .await;
    match answer {
        Ok(Ok(addresses)) if addresses.is_empty() => {
            Err(not_sent(Phase::Resolve, format!("{host} has no address; check the name and the DNS"), false))
        }
        Ok(Ok(addresses)) => Ok(addresses),
        Ok(Err(error)) => Err(not_sent(Phase::Resolve, format!("{host} did not resolve: {error}; check the name and the DNS"), false)),
        Err(_) => Err(not_sent(Phase::Resolve, format!("{host} did not resolve in time; check the DNS servers of this machine"), true)),
    }
}

/// Connects to the first address that takes the connection, and makes the TLS handshake there.
/// # Errors
/// `Outcome::NotSent` in the phase `Connect` or `Tls`.
pub async fn connect(addresses: &[SocketAddr], name: &str, tls: Option<&ClientTls>, deadline: Instant) -> Result<Stream, Outcome> {
    let tcp = connect_by(addresses, name, deadline, TcpStream::connect).await?;
    if let Err(error) = stream::prepare(&tcp) {
        return Err(not_sent(Phase::Connect, format!("{name} closed the connection at once: {error}"), false));
    }
    let Some(tls) = tls else {
        return Stream::plain(tcp).map_err(|error| not_sent(Phase::Connect, format!("{name} closed the connection at once: {error}"), false));
    };
    match timeout_at(deadline, tls.connect(tcp)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(fault)) => Err(not_sent(Phase::Tls, format!("{name}: {fault}"), false)),
        Err(_) => Err(not_sent(Phase::Tls, format!("{name} did not answer the TLS handshake in time; does it expect a plain connection?"), true)),
    }
}

/// Each address with its failure, after the name if that says more.
fn told(name: &str, failures: &[String]) -> String {
    let failures = failures.join(", ");
    if failures.starts_with(name) { failures } else { format!("{name}: {failures}") }
}

/// The staggered race: `connect` makes one connection.
async fn connect_by<T, F>(addresses: &[SocketAddr], name: &str, deadline: Instant, connect: impl Fn(SocketAddr) -> F) -> Result<T, Outcome>
where
    T: Send + 'static,
    F: Future<Output = io::Result<T>> + Send + 'static,
{
    let mut waiting = addresses.iter();
    let mut racing = JoinSet::new();
    let mut failures = Vec::new();
    loop {
        if let Some(&address) = waiting.next() {
            let connecting = connect(address);
            // An address that stands for itself is named once.
            let place = if address.to_string() == name { String::new() } else { format!("{address}: ") };
            racing.spawn(async move { connecting.await.map_err(|error| format!("{place}{error}")) });
        } else if racing.is_empty() {
            let cause = format!("{}; is the receiver running and the port right?", told(name, &failures));
            return Err(not_sent(Phase::Connect, cause, false));
        }
        let next = if waiting.as_slice().is_empty() { deadline } else { deadline.min(Instant::now() + limits::CONNECT_STAGGER) };
        match timeout_at(next, racing.join_next()).await {
            Ok(Some(Ok(Ok(connected)))) => return Ok(connected),
            Ok(Some(Ok(Err(failure)))) => failures.push(failure),
            Ok(Some(Err(broken))) => failures.push(broken.to_string()),
            Ok(None) => {}
            Err(_) if Instant::now() >= deadline => {
                failures.push("no answer in time".to_owned());
                let cause = format!("{}; is it switched on, and does a firewall drop the packets?", told(name, &failures));
                return Err(not_sent(Phase::Connect, cause, true));
            }
            Err(_) => {}
        }
    }
}

fn not_sent(phase: Phase, cause: String, timeout: bool) -> Outcome {
    Outcome::NotSent { phase, cause, stale: false, timeout }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn addresses(ends: &[u8]) -> Vec<SocketAddr> {
        ends.iter().map(|end| SocketAddr::from(([192, 0, 2, *end], 104))).collect()
    }

    /// Connects as the last byte of the address says: 1 after a second, 2 never, 3 refused, 4 at once.
    async fn connect(address: SocketAddr) -> io::Result<SocketAddr> {
        let IpAddr::V4(ip) = address.ip() else { panic!("{address}") };
        match ip.octets()[3] {
            1 => tokio::time::sleep(Duration::from_secs(1)).await,
            2 => std::future::pending().await,
            3 => return Err(io::ErrorKind::ConnectionRefused.into()),
            _ => {}
        }
        Ok(address)
    }

    async fn race(ends: &[u8], within: Duration) -> (Result<SocketAddr, Outcome>, Duration) {
        let begun = Instant::now();
        let connected = connect_by(&addresses(ends), "pacs:104", begun + within, connect).await;
        (connected, begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn every_address_is_tried_staggered() {
        let (connected, took) = race(&[2, 2, 4], Duration::from_secs(5)).await;
        assert_eq!((connected.unwrap(), took), (addresses(&[4])[0], 2 * limits::CONNECT_STAGGER));
        let (connected, took) = race(&[3, 3, 4], Duration::from_secs(5)).await;
        assert_eq!((connected.unwrap(), took), (addresses(&[4])[0], Duration::ZERO));
        let (connected, took) = race(&[1, 2], Duration::from_secs(5)).await;
        assert_eq!((connected.unwrap(), took), (addresses(&[1])[0], Duration::from_secs(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_name_every_address_and_the_deadline_holds() {
        let (connected, took) = race(&[3, 3], Duration::from_secs(5)).await;
        let Err(Outcome::NotSent { phase: Phase::Connect, cause, timeout: false, stale: false }) = connected else { panic!("{connected:?}") };
        assert!(cause.contains("192.0.2.3:104") && cause.contains("is the receiver running"), "{cause}");
        assert_eq!(took, Duration::ZERO);
        let (connected, took) = race(&[2, 3, 2], Duration::from_secs(5)).await;
        let Err(Outcome::NotSent { phase: Phase::Connect, cause, timeout: true, .. }) = connected else { panic!("{connected:?}") };
        assert!(cause.contains("no answer in time"), "{cause}");
        assert_eq!(took, Duration::from_secs(5));
    }

    #[tokio::test]
    async fn looking_up_has_its_own_phase() {
        let soon = || Instant::now() + Duration::from_secs(5);
        assert_eq!(resolve("::1", 104, soon()).await.unwrap(), ["[::1]:104".parse().unwrap()]);
        let fail = |found: io::Result<Vec<SocketAddr>>| async move { resolve_by("pacs", soon(), || found).await.unwrap_err() };
        let outcome = fail(Err(io::Error::other("SERVFAIL"))).await;
        let Outcome::NotSent { phase: Phase::Resolve, cause, timeout: false, .. } = outcome else { panic!("{outcome:?}") };
        assert!(cause.contains("pacs did not resolve: SERVFAIL"), "{cause}");
        assert_eq!(fail(Ok(Vec::new())).await.phase(), Phase::Resolve);
    }

    #[tokio::test]
    async fn a_hanging_resolver_is_given_up_at_the_deadline() {
        let (release, hang) = std::sync::mpsc::channel::<()>();
        let deadline = Instant::now() + Duration::from_millis(50);
        let outcome = resolve_by("pacs", deadline, move || {
            let _ = hang.recv();
            Ok(Vec::new())
        });
        let outcome = outcome.await.unwrap_err();
        assert!(matches!(outcome, Outcome::NotSent { phase: Phase::Resolve, timeout: true, .. }), "{outcome:?}");
        drop(release);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_resolver_does_not_take_the_last_answer_away() {
        let health = crate::config::endpoint::default_health(crate::keys::Protocol::Dicom);
        let (name, host) = ("a".into(), "pacs".to_owned());
        let dialer = Dialer::new(Arc::new(Endpoint { name, host, port: 104, ae_title: String::new(), tls: None, weight: 1, health }), None);
        let within = || Instant::now() + Duration::from_secs(4);
        let fail = |_| async { Err(not_sent(Phase::Resolve, "SERVFAIL".to_owned(), false)) };
        let hang = |until| async move {
            tokio::time::sleep_until(until).await;
            Err(not_sent(Phase::Resolve, "no answer".to_owned(), true))
        };
        assert!(dialer.addresses(within(), fail).await.is_err(), "nothing is known yet");
        assert_eq!(dialer.addresses(within(), |_| async { Ok(addresses(&[1, 2])) }).await.unwrap(), addresses(&[1, 2]));
        assert_eq!(dialer.addresses(within(), fail).await.unwrap(), addresses(&[1, 2]));
        let begun = Instant::now();
        assert_eq!(dialer.addresses(within(), hang).await.unwrap(), addresses(&[1, 2]));
        assert_eq!(begun.elapsed(), Duration::from_secs(2), "half of the time is left for connecting");
        assert_eq!(dialer.addresses(within(), |_| async { Ok(addresses(&[4])) }).await.unwrap(), addresses(&[4]));
        assert_eq!(dialer.resolved(), addresses(&[4]));
    }
}
