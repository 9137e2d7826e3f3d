//! One look-up: `/etc/hosts`, then DNS, as the system or the configuration says.
//! Rules: no thread of libc is held up; what hickory-resolver would keep is switched off, because `endpoint::names` keeps it; a change of
//! `/etc/resolv.conf` or `/etc/hosts` counts from the next look-up on. The shorter TTL of a chain counts.
//! Errors: a text for people that names the failure: NXDOMAIN, no record, the server's answer, no answer in time.

use crate::config::{NameServer, Names, Transport};
use crate::endpoint::pool::Service;
use crate::io::tls::{self, TlsError};
use crate::limits::{ADDRESSES_MAX, HOSTS_BYTES_MAX, LOOKUP_FAMILY, LOOKUP_SERVER};
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Resolver, TokioResolver};
use std::fs;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

const HOSTS: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What a file says of itself: enough to see that it has changed.
type Stamp = Option<(SystemTime, u64)>;

/// What a look-up found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found<T> {
    /// Not empty.
    pub(crate) records: Vec<T>,
    pub(crate) ttl: Duration,
    /// The family whose part of the look-up failed.
    pub(crate) lacks: Option<Family>,
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn has(self, ip: &IpAddr) -> bool {
        ip.is_ipv4() == (self == Family::V4)
    }
}

/// Who is asked.
pub(crate) struct Dns {
    names: Names,
    tls: Option<rustls::ClientConfig>,
    /// The resolver, and what `/etc/resolv.conf` was when it was made.
    client: Mutex<Option<(Stamp, TokioResolver)>>,
}

impl std::fmt::Debug for Dns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dns").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Dns {
    /// Opens nothing yet.
    /// # Errors
    /// The authorities of servers asked over TLS cannot be read.
    pub(crate) fn new(names: &Names) -> Result<Dns, TlsError> {
        let tls = names.ca.as_deref().map(tls::authorities_only).transpose()?;
        Ok(Dns { names: names.clone(), tls, client: Mutex::default() })
    }

    /// The addresses of a host, IPv6 and IPv4 by turns (RFC 8305 section 4).
    pub(crate) async fn addresses(self: &Arc<Self>, host: &str) -> Result<Found<IpAddr>, String> {
        let local = self.local(host).await?;
        let client = match local {
            Local::Addresses(addresses) => return Ok(Found { records: interleaved(addresses), ttl: self.names.max_ttl, lacks: None }),
            Local::Client(client) => client,
        };
        let name = self.name(host)?;
        let (four, six) = (client.lookup(name.clone(), RecordType::A), client.lookup(name, RecordType::AAAA));
        tokio::pin!(four, six);
        let late = || Err(NetError::Timeout);
        let (four, six) = tokio::select! {
            found = &mut four => {
                let other = if found.is_ok() { tokio::time::timeout(LOOKUP_FAMILY, six).await.unwrap_or_else(|_| late()) } else { six.await };
                (found, other)
            }
            found = &mut six => {
                let other = if found.is_ok() { tokio::time::timeout(LOOKUP_FAMILY, four).await.unwrap_or_else(|_| late()) } else { four.await };
                (other, found)
            }
        };
        let (mut records, mut ttl, mut failed) = (Vec::new(), u32::MAX, Vec::new());
        for (family, looked_up) in [(Family::V6, six), (Family::V4, four)] {
            match looked_up {
                Ok(found) => {
                    let addresses = found.answers().iter().filter_map(|record| record.data.ip_addr());
                    records.extend(addresses.filter(|ip| family.has(ip)));
                    ttl = found.answers().iter().map(|record| record.ttl).fold(ttl, u32::min);
                }
                Err(error) if says_no_such_record(&error) => {}
                Err(error) => failed.push((family, error)),
            }
        }
        if records.is_empty() {
            return Err(failed.first().map_or_else(|| "it has no address (neither A nor AAAA record)".to_owned(), |(_, error)| told(error)));
        }
        let lacks = failed.first().map(|(family, _)| *family);
        Ok(Found { records: interleaved(records), ttl: Duration::from_secs(ttl.into()), lacks })
    }

    /// The SRV records of a service.
    pub(crate) async fn services(self: &Arc<Self>, service: &str) -> Result<Found<Service>, String> {
        let client = self.client().await?;
        let mut name = self.name(service)?;
        name.set_fqdn(true);
        let found = client.lookup(name, RecordType::SRV).await.map_err(|error| match says_no_such_record(&error) {
            true => "it has no SRV record".to_owned(),
            false => told(&error),
        })?;
        let ttl = found.answers().iter().map(|record| record.ttl).min().unwrap_or_default();
        let service = |data: &RData| match data {
            // The root as target means "not offered here" (RFC 2782).
            RData::SRV(srv) if !srv.target.is_root() => Some(Service {
                priority: srv.priority,
                weight: srv.weight,
                target: srv.target.to_ascii().trim_end_matches('.').to_ascii_lowercase(),
                port: srv.port,
            }),
            _ => None,
        };
        let mut records: Vec<Service> = found.answers().iter().filter_map(|record| service(&record.data)).collect();
        records.sort();
        records.truncate(ADDRESSES_MAX);
        if records.is_empty() {
            return Err("its SRV record says that the service is not offered".to_owned());
        }
        Ok(Found { records, ttl: Duration::from_secs(ttl.into()), lacks: None })
    }

    /// With servers of our own, names stand as they are; the system's come with a search list.
    fn name(&self, host: &str) -> Result<Name, String> {
        let mut name = Name::from_ascii(host).map_err(|_| "it is no name that DNS could know".to_owned())?;
        if !self.names.servers.is_empty() {
            name.set_fqdn(true);
        }
        Ok(name)
    }

    /// What this machine knows by itself; else the resolver. The files are small and local, and still read where waiting does no harm.
    async fn local(self: &Arc<Self>, host: &str) -> Result<Local, String> {
        let (this, host) = (Arc::clone(self), host.trim_end_matches('.').to_ascii_lowercase());
        let looked = tokio::task::spawn_blocking(move || {
            let addresses = hosts_of(&read(HOSTS), &host);
            match addresses.is_empty() {
                false => Ok(Local::Addresses(addresses)),
                true if is_localhost(&host) => Ok(Local::Addresses(vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()])),
                true => this.ready().map(|client| Local::Client(Box::new(client))),
            }
        });
        looked.await.map_err(|error| error.to_string())?
    }

    async fn client(self: &Arc<Self>) -> Result<TokioResolver, String> {
        let this = Arc::clone(self);
        tokio::task::spawn_blocking(move || this.ready()).await.map_err(|error| error.to_string())?
    }

    /// The resolver, made anew when `/etc/resolv.conf` has changed.
    fn ready(&self) -> Result<TokioResolver, String> {
        let stamp = if self.names.servers.is_empty() { stamp_of(RESOLV_CONF) } else { None };
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, resolver)) = client.as_ref().filter(|(before, _)| *before == stamp) {
            return Ok(resolver.clone());
        }
        let resolver = self.build().map_err(|error| match self.names.servers.is_empty() {
            true => format!("{RESOLV_CONF} names no DNS server that can be used ({error}); see `[names] servers`"),
            false => told(&error),
        })?;
        *client = Some((stamp, resolver.clone()));
        Ok(resolver)
    }

    fn build(&self) -> Result<TokioResolver, NetError> {
        let provider = TokioRuntimeProvider::default();
        let mut builder = if self.names.servers.is_empty() {
            Resolver::builder(provider)?
        } else {
            let servers = self.names.servers.iter().map(server).collect();
            Resolver::builder_with_config(ResolverConfig::from_name_servers(servers), provider)
        };
        let options = builder.options_mut();
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.timeout = LOOKUP_SERVER;
        options.attempts = 1;
        options.try_tcp_on_error = true;
        if let Some(tls) = &self.tls {
            builder = builder.with_tls_config(tls.clone());
        }
        builder.build()
    }
}

/// What a host needs.
enum Local {
    Addresses(Vec<IpAddr>),
    Client(Box<TokioResolver>),
}

fn server(server: &NameServer) -> NameServerConfig {
    let mut connections = match &server.transport {
        Transport::Udp => vec![ConnectionConfig::udp(), ConnectionConfig::tcp()],
        Transport::Tcp => vec![ConnectionConfig::tcp()],
        Transport::Tls(name) => vec![ConnectionConfig::tls(name.as_str().into())],
    };
    for connection in &mut connections {
        connection.port = server.address.port();
    }
    // Another server may know the name: "no such name" from a half-configured one must not end the search.
    NameServerConfig::new(server.address.ip(), false, connections)
}

/// The name exists and has no record of the kind.
fn says_no_such_record(error: &NetError) -> bool {
    matches!(error, NetError::Dns(DnsError::NoRecordsFound(none)) if none.response_code == ResponseCode::NoError)
}

/// A failure for people.
fn told(error: &NetError) -> String {
    match error {
        error if error.is_nx_domain() => "NXDOMAIN (there is no such name)".to_owned(),
        NetError::Timeout => "the DNS servers did not answer in time".to_owned(),
        NetError::Dns(DnsError::ResponseCode(ResponseCode::ServFail)) => "the DNS server answered SERVFAIL".to_owned(),
        NetError::Dns(DnsError::ResponseCode(code)) => format!("the DNS server answered {code}"),
        NetError::NoConnections => "no DNS server could be reached".to_owned(),
        other => format!("the look-up failed: {other}"),
    }
}

/// The families by turns, IPv6 first, each in the order it came.
fn interleaved(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let (six, four): (Vec<IpAddr>, Vec<IpAddr>) = addresses.into_iter().partition(IpAddr::is_ipv6);
    let (mut six, mut four) = (six.into_iter(), four.into_iter());
    let mut mixed: Vec<IpAddr> = Vec::new();
    loop {
        let pair = [six.next(), four.next()];
        if pair == [None, None] || mixed.len() >= ADDRESSES_MAX {
            mixed.truncate(ADDRESSES_MAX);
            return mixed;
        }
        for ip in pair.into_iter().flatten() {
            if !mixed.contains(&ip) {
                mixed.push(ip);
            }
        }
    }
}

/// Names that stand for this machine, whatever DNS says (RFC 6761 section 6.3).
fn is_localhost(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
}

/// Every address that the text of `/etc/hosts` has for a host (lower case).
fn hosts_of(text: &str, host: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(Ok(ip)) = words.next().map(str::parse::<IpAddr>) else { continue };
        if words.any(|name| name.trim_end_matches('.').eq_ignore_ascii_case(host)) && !found.contains(&ip) {
            found.push(ip);
        }
    }
    found
}

fn stamp_of(file: &str) -> Stamp {
    fs::metadata(file).ok().and_then(|meta| Some((meta.modified().ok()?, meta.len())))
}

/// A file that is not there says nothing.
fn read(file: &str) -> String {
    let mut text = Vec::new();
    let opened = fs::File::open(file).and_then(|file| file.take(HOSTS_BYTES_MAX).read_to_end(&mut text));
    drop(opened); // what was read counts
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns_and_ipv6_begins() {
        let mixed = interleaved(ips(&["10.0.0.2", "10.0.0.1", "::2", "10.0.0.2", "10.0.0.3"]));
        assert_eq!(mixed, ips(&["::2", "10.0.0.2", "10.0.0.1", "10.0.0.3"]));
        assert_eq!(interleaved(ips(&["::1"])), ips(&["::1"]));
        assert_eq!(interleaved((0..200u8).map(|n| IpAddr::from([10, 0, 0, n])).collect()).len(), ADDRESSES_MAX);
    }

    #[test]
    fn the_hosts_file_is_read_as_the_system_reads_it() {
        let text = "# comment\n127.0.0.1 localhost\n::1\tlocalhost ip6-localhost # and more\n10.0.0.1 PACS-A.example.org. pacs-a\n10.0.0.1 pacs-a\nnonsense pacs-a\n";
        assert_eq!(hosts_of(text, "localhost"), ips(&["127.0.0.1", "::1"]));
        assert_eq!(hosts_of(text, "pacs-a.example.org"), ips(&["10.0.0.1"]));
        assert_eq!(hosts_of(text, "pacs-a"), ips(&["10.0.0.1"]));
        assert_eq!(hosts_of(text, "and"), ips(&[]));
    }

    #[tokio::test]
    async fn localhost_needs_no_dns() {
        let nowhere = NameServer { address: ([127, 0, 0, 1], 9).into(), transport: Transport::Udp };
        let dns = Arc::new(Dns::new(&Names { servers: vec![nowhere], ..Names::default() }).unwrap());
        for host in ["localhost", "LOCALHOST.", "gw.localhost"] {
            let found = dns.addresses(host).await.unwrap();
            assert!(found.records.contains(&Ipv4Addr::LOCALHOST.into()), "{host}: {found:?}");
        }
        assert!(dns.addresses("-no name-").await.is_err());
    }
}
