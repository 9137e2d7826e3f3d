//! Reads `[[destination.endpoint]]` with its TLS settings; its health is read by `health`.
//! Rules: an endpoint that this version cannot use is left out and told.
//! Errors: noted in the `Reading`.

use super::destination::{ae_title, name, small, unique};
pub use super::health::default_health;
use super::health::endpoint_health;
use super::read::{Section, TlsUse};
use super::{Endpoint, HealthSettings, TlsClient, Verify};
use crate::keys::Protocol;
use crate::limits;
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
        section.reading().problem(section.span(), "the destination has no endpoint that this version can use", "add an endpoint with `address`");
    }
    warn_less_protected(&sections, &read);
    read.into_iter().flatten().map(Arc::new).collect()
}

/// `None`: it cannot act in this version, which is noted.
fn endpoint(table: &Section<'_>, protocol: Protocol, above: &HealthSettings) -> Option<Endpoint> {
    let reading = table.reading();
    let name = name(table);
    let address = table.text("address");
    let srv = table.text("srv");
    match (&address, &srv) {
        (None, None) if !table.has("address") => reading.problem(table.span(), "the endpoint has no `address`", "add `address = \"host:port\"`"),
        (Some(_), Some(srv)) => reading.problem(srv.span.clone(), "both `address` and `srv`", "keep one of them"),
        _ => {}
    }
    if let Some(srv) = &srv
        && !(srv.value.starts_with('_') && srv.value.contains("._tcp."))
    {
        table.malformed("srv", srv, "it is no SRV name");
    }
    let (_, _) = (table.choice("addresses"), table.text("site"));
    let (host, port) = match address.as_ref().map(|text| (host_and_port(&text.value), text)) {
        Some((Some(place), _)) => place,
        Some((None, text)) => {
            table.malformed("address", text, "it is not host:port");
            (String::new(), 0)
        }
        None => (String::new(), 0),
    };
    let ae_title = endpoint_ae(table, protocol);
    let tls = table.table("tls").map(|tls| read_tls(&tls, &host));
    let health = endpoint_health(table, above, protocol, tls.as_ref());
    let weight = small(table.count("weight"));
    address.is_some().then_some(Endpoint { name, host, port, ae_title, tls, weight, health })
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
