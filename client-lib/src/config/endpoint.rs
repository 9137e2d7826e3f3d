//! Reads `[[destination.endpoint]]` with its TLS settings; its health is read by `health`.
//! Rules: an endpoint that cannot be used is left out, and why is noted.
//! Errors: noted in the `Reading`.

use super::destination::{ae_title, name, small, unique};
pub use super::health::default_health;
use super::health::endpoint_health;
use super::read::{Section, Text, TlsUse};
use super::{Endpoint, Finding, HealthSettings, TlsClient, Verify};
use crate::keys::Protocol;
use crate::limits;
use std::net::IpAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// Reads every endpoint of a destination.
pub(super) fn endpoints(section: &Section<'_>, protocol: Protocol, health: &HealthSettings) -> Vec<Arc<Endpoint>> {
    let sections = section.tables("endpoint");
    let read: Vec<Option<Endpoint>> = sections.iter().map(|table| endpoint(table, protocol, health)).collect();
    let names: Vec<String> = sections.iter().map(|table| table.text("name").map(|text| text.value).unwrap_or_default()).collect();
    unique(&sections, names.iter().map(String::as_str), "endpoint");
    if sections.len() > limits::ENDPOINTS_MAX {
        let table = &sections[limits::ENDPOINTS_MAX];
        table.reading().problem(table.span(), format!("more than {} endpoints in one destination", limits::ENDPOINTS_MAX), "use fewer");
    }
    if section.has("endpoint") && read.iter().all(Option::is_none) {
        section.reading().problem(section.span(), "the destination has no endpoint that can be used", "add an endpoint with `address` or `srv`");
    }
    warn_less_protected(&sections, &read);
    warn_same_place(&sections, &read);
    read.into_iter().flatten().map(Arc::new).collect()
}

/// `None`: it says not where it is, which is noted.
fn endpoint(table: &Section<'_>, protocol: Protocol, above: &HealthSettings) -> Option<Endpoint> {
    let reading = table.reading();
    let name = name(table);
    let address = table.text("address");
    let srv = table.text("srv");
    match (&address, &srv) {
        (None, None) if !table.has("address") => {
            reading.problem(table.span(), "the endpoint has no `address`", "add `address = \"host:port\"`, or `srv`")
        }
        (Some(_), Some(srv)) => reading.problem(srv.span.clone(), "both `address` and `srv`", "keep one of them"),
        _ => {}
    }
    let (finding, host, port) = match (&address, &srv) {
        (None, Some(srv)) => (Finding::Srv, service_name(table, srv), 0),
        (Some(text), _) => {
            let place = host_and_port(&text.value);
            if place.is_none() {
                table.malformed("address", text, "it is not host:port");
            }
            let (host, port) = place.unwrap_or_default();
            (if table.choice("addresses") == Some("each") { Finding::Each } else { Finding::Any }, host, port)
        }
        (None, None) => (Finding::Any, String::new(), 0),
    };
    if finding == Finding::Srv {
        table.pointless("addresses", "with `srv`");
    } else if finding == Finding::Each && host.parse::<IpAddr>().is_ok() {
        let what = "`addresses = \"each\"` with an address, which stands for itself alone";
        reading.warning(table.place("addresses"), what, "give the name of the pool in `address`, or remove `addresses`");
    }
    let site = table.text("site").map(|text| text.value.into());
    let ae_title = endpoint_ae(table, protocol);
    let named = if finding == Finding::Srv { domain_of(&host) } else { &*host };
    let tls = table.table("tls").map(|tls| read_tls(&tls, named)).map(|tls| of_pool(tls, finding, named));
    let health = endpoint_health(table, above, protocol, tls.as_ref());
    let weight = small(table.count("weight"));
    if finding == Finding::Srv {
        table.pointless("weight", "with `srv`: each record has its own");
    }
    (address.is_some() || srv.is_some()).then_some(Endpoint { name, host, port, finding, tier: 0, ae_title, tls, weight, site, health })
}

/// The name of SRV records (RFC 2782): `_service._tcp.domain`.
fn service_name(table: &Section<'_>, srv: &Text) -> String {
    let label = |label: &str| !label.is_empty() && label.len() <= 63 && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    let good = srv.value.strip_prefix('_').and_then(|rest| rest.split_once("._tcp.")).is_some_and(|(service, domain)| {
        label(service) && !service.contains('_') && domain.trim_end_matches('.').split('.').all(label) && srv.value.len() <= 253
    });
    if !good {
        table.malformed("srv", srv, "it is no SRV name");
    }
    srv.value.clone()
}

/// The domain that offers a service: what a certificate of its hosts has to name, since an answer of DNS alone proves nothing (RFC 6125).
fn domain_of(service: &str) -> &str {
    service.split_once("._tcp.").map_or(service, |(_, domain)| domain.trim_end_matches('.'))
}

/// The members of a pool show a certificate for the name of the pool, not for their address.
fn of_pool(mut tls: TlsClient, finding: Finding, named: &str) -> TlsClient {
    if finding != Finding::Any && tls.server_name.is_none() {
        tls.server_name = Some(named.to_owned());
    }
    tls
}

fn endpoint_ae(table: &Section<'_>, protocol: Protocol) -> String {
    match (table.text("ae_title"), protocol) {
        (Some(text), Protocol::Dicom) => ae_title(table, "ae_title", &text).unwrap_or_default(),
        (None, Protocol::Dicom) if !table.has("ae_title") => {
            table.reading().problem(table.span(), "the endpoint has no `ae_title`", "add the AE title that it answers to");
            String::new()
        }
        (Some(_), Protocol::Mllp) => {
            table.pointless("ae_title", "for mllp");
            String::new()
        }
        (None, _) => String::new(),
    }
}

/// `host:port`; IPv6 addresses stand in brackets.
#[must_use]
pub fn host_and_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    if let Some(inner) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return inner.parse::<std::net::Ipv6Addr>().ok().map(|address| (address.to_string(), port));
    }
    // A name whose last label is a number is an address with a slip in it (RFC 1123 2.1).
    let numeric = host.rsplit('.').next().is_some_and(|label| !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_digit()));
    if numeric && host.parse::<std::net::Ipv4Addr>().is_err() {
        return None;
    }
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    (!host.is_empty() && host.len() <= 253 && host.chars().all(good)).then(|| (host.to_owned(), port))
}

fn read_tls(table: &Section<'_>, host: &str) -> TlsClient {
    let reading = table.reading();
    let file = |key: &str| -> Option<PathBuf> { table.text(key).map(|text| reading.path(&text.value)) };
    let verify = match table.choice("verify") {
        Some("none") => Verify::None,
        Some("ca") => Verify::Ca,
        _ => Verify::Full,
    };
    let ca = file("ca");
    if verify == Verify::None {
        let what = "`verify = \"none\"`: whoever answers there gets the messages; the status is degraded";
        reading.warning(table.place("verify"), what, "give `ca`, the endpoint's authority or its own certificate, and remove `verify`");
        table.pointless("ca", "with `verify = \"none\"`");
    } else if ca.is_none() && !table.has("ca") {
        reading.problem(table.span(), "`tls` has no `ca`", "add the PEM file of the endpoint's authority, or of its own certificate");
    }
    let identity = both(table, file("cert"), file("key"));
    let settings = TlsClient { ca, identity, server_name: table.text("server_name").map(|text| text.value), verify };
    reading.tls(table.span(), TlsUse::Client(settings.clone(), host.to_owned()));
    settings
}

/// `cert` and `key` go together.
fn both(table: &Section<'_>, cert: Option<PathBuf>, key: Option<PathBuf>) -> Option<(PathBuf, PathBuf)> {
    let lonely =
        |has: &str, lacks: &str, span: Range<usize>| table.reading().problem(span, format!("`{has}` without `{lacks}`"), format!("add `{lacks}`"));
    if cert.is_some() && !table.has("key") {
        lonely("cert", "key", table.place("cert"));
    }
    if key.is_some() && !table.has("cert") {
        lonely("key", "cert", table.place("key"));
    }
    cert.zip(key)
}

/// A second endpoint at the place of the first does not help when that one is away.
fn warn_same_place(sections: &[Section<'_>], endpoints: &[Option<Endpoint>]) {
    let place = |endpoint: &Endpoint| (endpoint.host.to_ascii_lowercase(), endpoint.port, endpoint.ae_title.clone());
    for (at, (table, endpoint)) in sections.iter().zip(endpoints).enumerate() {
        let Some(endpoint) = endpoint.as_ref().filter(|endpoint| !endpoint.host.is_empty()) else { continue };
        if let Some(other) = endpoints[..at].iter().flatten().find(|other| place(other) == place(endpoint)) {
            let what = format!("endpoint \"{}\" is at the same place as \"{}\": they fail together", endpoint.name, other.name);
            let key = if endpoint.finding == Finding::Srv { "srv" } else { "address" };
            table.reading().warning(table.place(key), what, "give it the address of another receiver, or remove it");
        }
    }
}

/// Patient data goes wherever failover sends it: the weakest endpoint is the protection of the destination.
fn warn_less_protected(sections: &[Section<'_>], endpoints: &[Option<Endpoint>]) {
    let protection = |endpoint: &Endpoint| match endpoint.tls.as_ref().map(|tls| tls.verify) {
        None => 0,
        Some(Verify::None) => 1,
        Some(Verify::Ca) => 2,
        Some(Verify::Full) => 3,
    };
    let Some(best) = endpoints.iter().flatten().max_by_key(|endpoint| protection(endpoint)) else { return };
    for (table, endpoint) in sections.iter().zip(endpoints) {
        if let Some(endpoint) = endpoint
            && protection(endpoint) < protection(best)
        {
            let what = format!("endpoint \"{}\" is less protected than \"{}\"", endpoint.name, best.name);
            table.reading().warning(table.span(), what, "give both the same `tls` settings");
        }
    }
}
