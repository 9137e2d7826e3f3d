//! Connects to an endpoint: resolve, TCP, TLS, all within one deadline.
//! Rules: every address of a name is tried, the next one beside the one before after 250 ms (RFC 8305) or at once when it failed; whatever goes
//! wrong here happened before a byte of a message left: the outcome is always `NotSent` with its phase.
//! Errors: `Outcome::NotSent`, with a cause that says where and what to look at.

use crate::config::{Endpoint, Fault, Finding, Names};
use crate::delivery::status::NameStatus;
use crate::delivery::{Outcome, Phase};
use crate::endpoint::pool::Service;
use crate::io::courier::Met;
use crate::io::fault::Simulated;
use crate::io::lookup::Dns;
use crate::io::resolve::{Followed, Resolver};
use crate::io::stream::Stream;
use crate::io::tls::ClientTls;
use crate::limits;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// Connects to one endpoint again and again, by what its name stands for then.
#[derive(Debug)]
pub struct Dialer {
    endpoint: Arc<Endpoint>,
    tls: Option<ClientTls>,
    sought: Sought,
    /// The address that took the last connection: tried first as long as the name has it.
    took: Mutex<Option<IpAddr>>,
    /// What a drill simulates.
    simulated: Simulated,
}

#[derive(Debug)]
enum Sought {
    Host(Arc<Followed<IpAddr>>),
    /// Its members are endpoints of their own; until they are known, nothing can be reached.
    Service(Arc<Followed<Service>>),
}

impl Dialer {
    /// For one endpoint, whose name is looked up from now on. Must be called inside a tokio runtime, unless it has an address.
    #[must_use]
    pub fn new(endpoint: Arc<Endpoint>, tls: Option<ClientTls>, resolver: &Resolver) -> Dialer {
        let sought = match endpoint.finding {
            Finding::Srv => Sought::Service(resolver.follow_service(&endpoint.host)),
            Finding::Any | Finding::Each => Sought::Host(resolver.follow(&endpoint.host)),
        };
        Dialer { endpoint, tls, sought, took: Mutex::default(), simulated: Simulated::default() }
    }

    /// A new connection. A resolver that fails or hangs does not stop it while an earlier answer is known.
    /// # Errors
    /// `Outcome::NotSent`.
    pub async fn dial(&self, deadline: Instant) -> Result<Stream, Outcome> {
        self.dial_met(deadline, &Met::default()).await
    }

    /// The same for an attempt, which is told the address as soon as that is connected.
    /// # Errors
    /// `Outcome::NotSent`.
    pub async fn dial_met(&self, deadline: Instant, met: &Met) -> Result<Stream, Outcome> {
        self.dial_with(self.tls.as_ref(), deadline, met).await
    }

    /// The same without TLS, whatever the endpoint speaks: for a probe of the way there.
    /// # Errors
    /// `Outcome::NotSent`.
    pub async fn dial_plain(&self, deadline: Instant) -> Result<Stream, Outcome> {
        self.dial_with(None, deadline, &Met::default()).await
    }

    /// Lets every connection fail so until then; `None`: no longer. True: that is news, and connections that stand should go.
    pub fn simulate(&self, fault: Option<(Fault, Instant)>) -> bool {
        self.simulated.set(fault)
    }

    async fn dial_with(&self, tls: Option<&ClientTls>, deadline: Instant, met: &Met) -> Result<Stream, Outcome> {
        if let Some(hole) = self.simulated.connect(&self.endpoint.address(), deadline).await? {
            // What stands at the endpoint is shown, not our own.
            let connected = connect(&[hole], &self.endpoint.address(), tls, deadline).await;
            return connected.map(|stream| stream.standing_for(self.resolved().first().copied()));
        }
        let addresses = self.addresses(deadline).await?;
        let connected = connect_met(&addresses, &self.endpoint.address(), tls, deadline, met).await;
        match (&connected, &self.sought) {
            (Ok(stream), _) => *self.took.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream.peer().ip()),
            (Err(_), Sought::Host(followed)) => followed.suspect(),
            (Err(_), Sought::Service(_)) => {}
        }
        connected
    }

    /// Where to connect now.
    async fn addresses(&self, deadline: Instant) -> Result<Vec<SocketAddr>, Outcome> {
        let host = &self.endpoint.host;
        let followed = match &self.sought {
            Sought::Host(followed) => followed,
            Sought::Service(followed) => {
                let unknown = followed.known(deadline).await.err().flatten();
                let why =
                    unknown.map_or_else(|| "its records have just been found".to_owned(), |why| format!("{why}; check the records and the DNS"));
                return Err(not_sent(Phase::Resolve, format!("{host}: {why}"), false));
            }
        };
        let found = followed.known(deadline).await;
        let mut found = found.map_err(|why| match why {
            Some(why) => not_sent(Phase::Resolve, format!("{host} did not resolve: {why}; check the name and the DNS"), false),
            None => not_sent(Phase::Resolve, format!("{host} did not resolve in time; check the DNS servers of this machine"), true),
        })?;
        let took = *self.took.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = found.iter().position(|ip| Some(*ip) == took) {
            found[..=at].rotate_right(1);
        }
        Ok(found.into_iter().map(|ip| SocketAddr::new(ip, self.endpoint.port)).collect())
    }

    /// Whether a connection to this address may be kept: the name still stands for it, or nothing is known.
    #[must_use]
    pub fn is_current(&self, peer: SocketAddr) -> bool {
        match &self.sought {
            Sought::Host(followed) => followed.is_current(&peer.ip()),
            Sought::Service(_) => true,
        }
    }

    /// What the name stands for.
    #[must_use]
    pub fn resolved(&self) -> Vec<SocketAddr> {
        match &self.sought {
            Sought::Host(followed) => followed.records().into_iter().map(|ip| SocketAddr::new(ip, self.endpoint.port)).collect(),
            Sought::Service(_) => Vec::new(),
        }
    }

    /// What is known of the name; none: it is an address.
    #[must_use]
    pub fn name(&self) -> Option<NameStatus> {
        match &self.sought {
            Sought::Host(followed) => followed.status(),
            Sought::Service(followed) => followed.status(),
        }
    }

    /// Has `listener` notified of every other answer of DNS.
    pub fn tell_to(&self, listener: &Arc<Notify>) {
        match &self.sought {
            Sought::Host(followed) => followed.tell_to(listener),
            Sought::Service(followed) => followed.tell_to(listener),
        }
    }
}

/// One connection to an endpoint.
/// # Errors
/// `Outcome::NotSent`.
pub async fn dial(endpoint: &Endpoint, tls: Option<&ClientTls>, deadline: Instant) -> Result<Stream, Outcome> {
    let addresses = resolve(&endpoint.host, endpoint.port, deadline).await?;
    connect(&addresses, &endpoint.address(), tls, deadline).await
}

/// Every address of a name, looked up once as the system says. An address stands for itself, without a look-up.
/// # Errors
/// `Outcome::NotSent` in the phase `Resolve`.
pub async fn resolve(host: &str, port: u16, deadline: Instant) -> Result<Vec<SocketAddr>, Outcome> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let failed = |why: String, timeout| not_sent(Phase::Resolve, format!("{host} did not resolve{why}; check the name and the DNS"), timeout);
    let dns = Dns::new(&Names::default()).map_err(|error| failed(format!(": {error}"), false))?;
    match timeout_at(deadline, Arc::new(dns).addresses(host)).await {
        Ok(Ok(found)) => Ok(found.records.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()),
        Ok(Err(why)) => Err(failed(format!(": {why}"), false)),
        Err(_) => Err(failed(" in time".to_owned(), true)),
    }
}

/// Connects to the first address that takes the connection, and makes the TLS handshake there.
/// # Errors
/// `Outcome::NotSent` in the phase `Connect` or `Tls`.
pub async fn connect(addresses: &[SocketAddr], name: &str, tls: Option<&ClientTls>, deadline: Instant) -> Result<Stream, Outcome> {
    connect_met(addresses, name, tls, deadline, &Met::default()).await
}

async fn connect_met(addresses: &[SocketAddr], name: &str, tls: Option<&ClientTls>, deadline: Instant, met: &Met) -> Result<Stream, Outcome> {
    let tcp = connect_by(addresses, name, deadline, TcpStream::connect).await?;
    if let Ok(peer) = tcp.peer_addr() {
        met.connected(peer);
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
    let refused =
        |failures: &[String]| not_sent(Phase::Connect, format!("{}; is the receiver running and the port right?", told(name, failures)), false);
    let late = |failures: &[String]| {
        let cause = format!("{}; is it switched on, and does a firewall drop the packets?", told(name, failures));
        not_sent(Phase::Connect, cause, true)
    };
    if let [only] = addresses {
        // No race, no task: most endpoints have one address, and each is probed.
        return match timeout_at(deadline, connect(*only)).await {
            Ok(Ok(connected)) => Ok(connected),
            Ok(Err(error)) if only.to_string() == name => Err(refused(&[error.to_string()])),
            Ok(Err(error)) => Err(refused(&[format!("{only}: {error}")])),
            Err(_) => Err(late(&["no answer in time".to_owned()])),
        };
    }
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
            return Err(refused(&failures));
        }
        let next = if waiting.as_slice().is_empty() { deadline } else { deadline.min(Instant::now() + limits::CONNECT_STAGGER) };
        match timeout_at(next, racing.join_next()).await {
            Ok(Some(Ok(Ok(connected)))) => return Ok(connected),
            Ok(Some(Ok(Err(failure)))) => failures.push(failure),
            Ok(Some(Err(broken))) => failures.push(broken.to_string()),
            Ok(None) => {}
            Err(_) if Instant::now() >= deadline => {
                failures.push("no answer in time".to_owned());
                return Err(late(&failures));
            }
            Err(_) => {}
        }
    }
}

pub(super) fn not_sent(phase: Phase, cause: String, timeout: bool) -> Outcome {
    Outcome::NotSent { phase, cause, stale: false, timeout }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::{NameServer, Transport};
    use crate::event::Events;
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

    fn dialer(host: &str, finding: Finding) -> Dialer {
        let health = crate::config::endpoint::default_health(crate::keys::Protocol::Dicom);
        let endpoint = Endpoint {
            name: "a".into(),
            host: host.to_owned(),
            port: 104,
            finding,
            tier: 0,
            ae_title: String::new(),
            tls: None,
            weight: 1,
            site: None,
            health,
        };
        let (stopper, stop) = crate::io::stop::Stop::new();
        std::mem::forget(stopper);
        // Nobody listens there: what only DNS could know is not found.
        let nowhere = NameServer { address: ([127, 0, 0, 1], 9).into(), transport: Transport::Udp };
        let resolver = Resolver::new(&Names { servers: vec![nowhere], ..Names::default() }, Events::none(), stop).unwrap();
        Dialer::new(Arc::new(endpoint), None, &resolver)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[tokio::test]
    async fn looking_up_has_its_own_phase() {
        assert_eq!(resolve("::1", 104, soon()).await.unwrap(), ["[::1]:104".parse().unwrap()]);
        let outcome = dialer("pacs.example.org", Finding::Any).dial(soon()).await.map(|_| ()).unwrap_err();
        let Outcome::NotSent { phase: Phase::Resolve, cause, stale: false, .. } = outcome else { panic!("{outcome:?}") };
        assert!(cause.contains("pacs.example.org did not resolve: "), "{cause}");
        let outcome = dialer("_dicom._tcp.example.org", Finding::Srv).dial(soon()).await.map(|_| ()).unwrap_err();
        assert_eq!(outcome.phase(), Phase::Resolve);
    }

    #[tokio::test]
    async fn the_address_that_took_the_last_connection_is_tried_first() {
        let dialer = dialer("localhost", Finding::Any);
        let both = dialer.addresses(soon()).await.unwrap();
        assert!(both.len() > 1 || both[0].ip().is_loopback(), "{both:?}");
        let last = *both.last().unwrap();
        *dialer.took.lock().unwrap() = Some(last.ip());
        assert_eq!(dialer.addresses(soon()).await.unwrap()[0], last);
        assert!(dialer.is_current(last) && !dialer.is_current(addresses(&[1])[0]));
        assert_eq!(dialer.resolved().len(), both.len());
    }
}
