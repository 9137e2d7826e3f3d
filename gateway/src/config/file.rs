//! The top of the file, `[admin]` and `[[listener]]`; `[[destination]]` and `[spool]` are read by the client library, routes by `routes`.
//! Rules: what a key takes and what it is by default stands in the shapes here.
//! Errors: noted in the `Reading`.

use super::{ApplicationAck, Config, Duplicates, Listener, Network, Site, routes};
use everpost_client::config::destination;
use everpost_client::config::read::{Reading, Section, TlsUse};
use everpost_client::config::shape::{Default, Kind, Shape, field};
use everpost_client::config::shapes::{DESTINATION, DRILL, ENDPOINT, HEALTH, NAMES, RETRY, SPOOL, TLS_CLIENT};
use everpost_client::config::{Destination, TlsServer, units};
use everpost_client::keys::Protocol;
use everpost_client::limits;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use toml::de::DeTable;

const YES: Default = Default::Required;
const NONE: Default = Default::Depends("none");
pub(super) const NAME: Kind = Kind::Text("a name: letters, digits, `.`, `_`, `-`, at most 64, a letter or digit first");
const BIND: Kind = Kind::Text("an address of this machine and a port, as \"0.0.0.0:2575\" or \"[::]:2575\"");
const AE_TITLES: Kind = Kind::Texts("an AE title: 1 to 16 printable ASCII characters, no backslash");
const FILE: Kind = Kind::Text("a file, relative to the configuration file");

/// The top of the file.
const TOP: Shape = Shape {
    title: "the top of the file",
    meaning: "Keys before the first table, and the tables.",
    fields: &[
        field("name", NAME, YES, "the name of this gateway"),
        field("data_dir", Kind::Text("a directory, relative to the configuration file"), YES, "where spool and admin socket are; restart"),
        field("stop_timeout", Kind::Duration("100ms", "10m"), Default::Value("10s"), "how long a stop may wait for answers that are due"),
        field("admin", Kind::Table(&ADMIN), Default::Depends("see there"), "HTTP"),
        field("spool", Kind::Table(&SPOOL), Default::Depends("see there"), "the durable store"),
        field("names", Kind::Table(&NAMES), Default::Depends("see there"), "name resolution"),
        field("listener", Kind::Tables(&LISTENER), YES, "where peers connect"),
        field("destination", Kind::Tables(&DESTINATION), YES, "where messages go"),
        field("route", Kind::Tables(&routes::ROUTE), Default::Depends("none: every message is refused"), "which messages go where"),
        field("site", Kind::Tables(&SITE), NONE, "places where endpoints are, and destinations that move together"),
    ],
};

const ADMIN: Shape = Shape {
    title: "[admin]",
    meaning: "HTTP for people and monitoring: `/metrics`, `/healthz`, `/readyz`, the API read-only. The socket `admin.sock` in `data_dir` carries every verb.",
    fields: &[field(
        "bind",
        Kind::Text("a loopback address and a port, as \"127.0.0.1:8080\""),
        Default::Depends("no TCP, only the socket"),
        "where HTTP listens; restart",
    )],
};

const LISTENER: Shape = Shape {
    title: "[[listener]]",
    meaning: "A place where peers connect and send.",
    fields: &[
        field("name", NAME, YES, "unique"),
        field("protocol", Kind::Choice(&["mllp", "dicom"]), YES, "what its peers speak; restart"),
        field("bind", BIND, YES, "where it listens; port 0 lets the system choose one; restart"),
        field("tls", Kind::Table(&TLS_SERVER), Default::Depends("no TLS"), "TLS for all its connections"),
        field("peers", Kind::Texts("a network or address, as \"10.1.0.0/16\""), Default::Depends("everybody"), "who may connect"),
        field("max_connections", Kind::Count(1, 65_535), Default::Value("1024"), "connections at a time"),
        field("max_connections_per_peer", Kind::Count(1, 65_535), Default::Value("256"), "connections at a time from one address"),
        field(
            "idle_timeout",
            Kind::Duration("1s", "30d"),
            Default::Depends("\"1d\" for mllp, \"5m\" for dicom"),
            "a connection on which nothing comes for so long is closed",
        ),
        field(
            "duplicates",
            Kind::Choice(&["deliver", "same-content"]),
            Default::Value("deliver"),
            "whether a second copy (same control id or instance, content and destinations) is delivered again, or only answered; the SHA-256 that this takes of everything costs processor time",
        ),
        field("max_message", Kind::Size("1 KiB", "1 GiB"), Default::Value("64 MiB"), "mllp: the largest message"),
        field(
            "application_ack",
            Kind::Choice(&["immediate", "never"]),
            Default::Value("immediate"),
            "mllp, enhanced mode: whether a sender that asks for it gets the application acknowledgement too",
        ),
        field("ae_title", AE_TITLES, Default::Depends("any"), "dicom: the called AE titles it answers to"),
        field("calling_ae", AE_TITLES, Default::Depends("any"), "dicom: the calling AE titles it lets in"),
        field(
            "max_associations",
            Kind::Count(1, 4096),
            Default::Value("64"),
            "dicom: associations at a time, at most `max_connections_per_peer` from one address; a quarter more for addresses that have none",
        ),
        field("max_pdu", Kind::Count(4096, 1_048_576), Default::Value("262144"), "dicom: the largest P-DATA-TF it takes, in bytes"),
        field(
            "storage_classes",
            Kind::Texts("a SOP class UID"),
            Default::Depends("every storage class, standard or private"),
            "dicom: the only classes it takes",
        ),
    ],
};

const TLS_SERVER: Shape = Shape {
    title: "tls of a listener",
    meaning: "TLS 1.2 or 1.3 with the suites of RFC 9325.",
    fields: &[
        field("cert", FILE, YES, "PEM file with the certificate and its chain"),
        field("key", FILE, YES, "PEM file with its private key, not encrypted"),
        field(
            "client_ca",
            FILE,
            Default::Depends("no certificate is asked of clients"),
            "PEM file with the authorities (or the own certificates) of clients; a client without such a certificate is refused",
        ),
    ],
};

const SITE: Shape = Shape {
    title: "[[site]]",
    meaning: "A place where endpoints are. When its triggers have left it, its followers leave it too, one after the other; when they are back, the followers \
              come back. A site without triggers couples nothing.",
    fields: &[
        field("name", NAME, YES, "unique; endpoints name it as their `site`"),
        field("triggers", Kind::Texts("the name of a destination"), NONE, "destinations whose move away from here moves the followers"),
        field(
            "leave_when",
            Kind::Choice(&["all", "any"]),
            Default::Value("all"),
            "whether all triggers must deliver elsewhere before the followers move, or one is enough",
        ),
        field("followers", Kind::Texts("the name of a destination"), NONE, "destinations that move with the triggers, in this order"),
    ],
};

/// Every table of the file, in the order of the reference page.
#[must_use]
pub fn shapes() -> Vec<&'static Shape> {
    let own: [&'static Shape; 5] = [&TOP, &ADMIN, &SPOOL, &NAMES, &LISTENER];
    let rest: [&'static Shape; 10] =
        [&TLS_SERVER, &DESTINATION, &RETRY, &HEALTH, &DRILL, &ENDPOINT, &TLS_CLIENT, &routes::ROUTE, &routes::WHEN, &SITE];
    own.into_iter().chain(rest).collect()
}

/// Reads the whole document.
pub(super) fn read<'a>(reading: &'a Reading<'a>, document: &'a DeTable<'a>) -> Config {
    let top = Section::open(reading, document, 0..0, &TOP);
    let data_dir = top.text("data_dir");
    if let Some(text) = data_dir.as_ref().filter(|text| text.value.is_empty()) {
        top.malformed("data_dir", text, "it is empty");
    }
    let listener_sections = top.tables("listener");
    let listeners: Vec<Arc<Listener>> = listener_sections.iter().map(|section| Arc::new(listener(section))).collect();
    destination::unique(&listener_sections, listeners.iter().map(|listener| &*listener.name), "listener");
    if let Some(section) = listener_sections.get(limits::LISTENERS_MAX) {
        reading.problem(section.span(), format!("more than {} listeners", limits::LISTENERS_MAX), "use fewer");
    }
    let destination_sections = top.tables("destination");
    let destinations = destination::destinations(&destination_sections);
    let admin_bind = top.table("admin").and_then(|admin| admin_bind(&admin));
    check_binds(&listener_sections, &listeners, admin_bind);
    warn_of_circles(&destination_sections, &listeners);
    let sites = sites(&top, &destination_sections, &destinations);
    for (key, missing) in [("listener", listeners.is_empty()), ("destination", destinations.is_empty())] {
        if missing && top.has(key) {
            reading.problem(top.place(key), format!("there is no {key}"), format!("add [[{key}]]"));
        }
    }
    Config {
        file: PathBuf::new(),
        name: destination::name(&top),
        data_dir: data_dir.map(|text| reading.path(&text.value)).unwrap_or_default(),
        stop_timeout: top.duration("stop_timeout"),
        admin_bind,
        spool: destination::spool(top.table("spool").as_ref()),
        names: destination::names(top.table("names").as_ref()),
        routes: routes::read(&top, &listener_sections, &listeners, &destination_sections, &destinations),
        listeners,
        destinations,
        sites,
        warnings: Vec::new(),
    }
}

fn admin_bind(section: &Section<'_>) -> Option<SocketAddr> {
    let text = section.text("bind")?;
    let Some(address) = bind_address(&text.value) else {
        section.malformed("bind", &text, "it is no address and port");
        return None;
    };
    if !address.ip().is_loopback() {
        let remedy = "bind to 127.0.0.1 or [::1]; other machines need a token and TLS, which this version does not have";
        section.reading().problem(text.span, format!("`bind` is \"{}\", which other machines reach", text.written), remedy);
        return None;
    }
    Some(address)
}

/// An address of this machine; `localhost` stands for 127.0.0.1.
fn bind_address(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix("localhost:") {
        Some(port) => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse().ok()?))),
        None => text.parse().ok(),
    }
}

fn listener(section: &Section<'_>) -> Listener {
    let protocol = destination::protocol(section);
    let (others, why): (&[&str], _) = match protocol {
        Protocol::Mllp => (&["ae_title", "calling_ae", "max_associations", "max_pdu", "storage_classes"], "for mllp"),
        Protocol::Dicom => (&["max_message", "application_ack"], "for dicom"),
    };
    for key in others {
        section.pointless(key, why);
    }
    let without = [
        ("peers", "everybody may connect"),
        ("ae_title", "it answers to any"),
        ("calling_ae", "any is let in"),
        ("storage_classes", "every storage class is taken"),
    ];
    for (key, meaning) in without.iter().filter(|(key, _)| section.has(key) && section.texts(key).is_empty()) {
        // A list that came out empty must not open what it was written to close.
        section.reading().problem(section.place(key), format!("`{key}` is empty"), format!("name at least one, or remove `{key}`: then {meaning}"));
    }
    let bind = section.text("bind").and_then(|text| {
        let address = bind_address(&text.value);
        if address.is_none() {
            section.malformed("bind", &text, "it is no address and port; a host name does not do");
        }
        address
    });
    let idle_default = if protocol == Protocol::Mllp { units::duration("1d") } else { units::duration("5m") };
    let idle_timeout = section.duration_if("idle_timeout").or(idle_default).unwrap_or(Duration::from_secs(300));
    let mut networks = Vec::new();
    for text in section.texts("peers") {
        match Network::parse(&text.value) {
            Some(network) => networks.push(network),
            None => section.malformed("peers", &text, "it is neither"),
        }
    }
    Listener {
        name: destination::name(section),
        protocol,
        bind: bind.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
        tls: section.table("tls").map(|table| tls(&table)),
        peers: networks,
        max_connections: count(section, "max_connections"),
        max_connections_per_peer: count(section, "max_connections_per_peer"),
        idle_timeout,
        duplicates: if section.choice("duplicates") == Some("same-content") { Duplicates::SameContent } else { Duplicates::Deliver },
        max_message: section.size("max_message"),
        application_ack: if section.choice("application_ack") == Some("never") { ApplicationAck::Never } else { ApplicationAck::Immediate },
        ae_titles: ae_titles(section, "ae_title"),
        calling_ae: ae_titles(section, "calling_ae"),
        max_associations: count(section, "max_associations"),
        max_pdu: u32::try_from(section.count("max_pdu")).unwrap_or(u32::MAX),
        storage_classes: uids(section),
    }
}

fn count(section: &Section<'_>, key: &str) -> usize {
    usize::try_from(section.count(key)).unwrap_or(usize::MAX)
}

fn ae_titles(section: &Section<'_>, key: &str) -> Vec<String> {
    section.texts(key).iter().filter_map(|text| destination::ae_title(section, key, text)).collect()
}

fn uids(section: &Section<'_>) -> Vec<String> {
    let mut uids = Vec::new();
    for text in section.texts("storage_classes") {
        let parts = |uid: &str| uid.split('.').all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
        if text.value.len() <= 64 && text.value.contains('.') && parts(&text.value) {
            uids.push(text.value);
        } else {
            section.malformed("storage_classes", &text, "it is no UID");
        }
    }
    uids
}

fn tls(table: &Section<'_>) -> TlsServer {
    let reading = table.reading();
    let file = |key: &str| table.text(key).map(|text| reading.path(&text.value));
    let settings = TlsServer { cert: file("cert").unwrap_or_default(), key: file("key").unwrap_or_default(), client_ca: file("client_ca") };
    if table.has("cert") && table.has("key") {
        reading.tls(table.span(), TlsUse::Server(settings.clone()));
    }
    settings
}

/// Two sockets cannot listen at one place.
fn check_binds(sections: &[Section<'_>], listeners: &[Arc<Listener>], admin: Option<SocketAddr>) {
    let clash = |one: SocketAddr, other: SocketAddr| {
        one.port() != 0 && one.port() == other.port() && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
    };
    let mut taken: Vec<(SocketAddr, String)> = admin.into_iter().map(|address| (address, "[admin]".to_owned())).collect();
    for (section, listener) in sections.iter().zip(listeners) {
        if let Some((_, who)) = taken.iter().find(|(address, _)| clash(*address, listener.bind)) {
            section.reading().problem(section.place("bind"), format!("{} is taken by {who} already", listener.bind), "choose another port");
        }
        taken.push((listener.bind, format!("listener \"{}\"", listener.name)));
    }
}

/// Endpoints that are this gateway's own listeners: what goes there comes in again.
fn warn_of_circles(sections: &[Section<'_>], listeners: &[Arc<Listener>]) {
    for endpoint in sections.iter().flat_map(|section| section.tables("endpoint")) {
        let Some(text) = endpoint.text("address") else { continue };
        let Some(address) = bind_address(&text.value) else { continue };
        let everywhere = |bind: SocketAddr| bind.ip().is_unspecified() && address.ip().is_loopback() && (bind.is_ipv6() || address.is_ipv4());
        let here = |bind: SocketAddr| bind.port() == address.port() && (bind.ip() == address.ip() || everywhere(bind));
        if let Some(listener) = listeners.iter().find(|listener| here(listener.bind)) {
            let what = format!("{} is listener \"{}\" of this gateway", text.written, listener.name);
            let remedy = "see that what comes in there goes elsewhere, or messages go round for ever";
            endpoint.reading().warning(text.span, what, remedy);
        }
    }
}

/// Sites, with what makes no sense in them.
fn sites(top: &Section<'_>, destination_sections: &[Section<'_>], destinations: &[Arc<Destination>]) -> Vec<Site> {
    let sections = top.tables("site");
    let sites: Vec<Site> = sections.iter().map(|section| site(section, destinations)).collect();
    destination::unique(&sections, sites.iter().map(|site| &*site.name), "site");
    if let Some(section) = sections.get(limits::SITES_MAX) {
        top.reading().problem(section.span(), format!("more than {} sites", limits::SITES_MAX), "use fewer");
    }
    for endpoint in destination_sections.iter().flat_map(|section| section.tables("endpoint")) {
        if let Some(text) = endpoint.text("site").filter(|text| !sites.iter().any(|site| *site.name == *text.value)) {
            endpoint.malformed("site", &text, "there is no such site");
        }
    }
    for (section, site) in sections.iter().zip(&sites) {
        let lives_here = |d: &&Arc<Destination>| d.endpoints.iter().any(|e| e.site.as_ref() == Some(&site.name));
        if !site.name.is_empty() && destinations.iter().filter(lives_here).count() == 0 {
            let what = format!("no endpoint is at site \"{}\"", site.name);
            section.reading().warning(section.place("name"), what, "name it as the `site` of endpoints, or remove it");
        }
        for (key, names) in [("triggers", &site.triggers), ("followers", &site.followers)] {
            for destination in names.iter().filter_map(|name| destinations.iter().find(|d| d.name == *name)) {
                let here = destination.endpoints.iter().filter(|e| e.site.as_ref() == Some(&site.name)).count();
                let why = match here {
                    0 => "has no endpoint at this site",
                    count if count == destination.endpoints.len() => "has no endpoint anywhere else, so it cannot leave",
                    _ => continue,
                };
                let what = format!("destination \"{}\" {why}", destination.name);
                section.reading().problem(section.place(key), what, format!("give it one, or take it out of `{key}`"));
            }
        }
        match (!section.has("triggers"), !section.has("followers")) {
            (true, false) => section.reading().problem(section.place("followers"), "`followers` without `triggers`", "name at least one trigger"),
            (false, true) => section.reading().warning(section.place("triggers"), "`triggers` without `followers` move nothing", "add `followers`"),
            _ => {}
        }
    }
    sites
}

fn site(section: &Section<'_>, destinations: &[Arc<Destination>]) -> Site {
    let names = |key: &str| -> Vec<Arc<str>> {
        let mut names: Vec<Arc<str>> = Vec::new();
        for text in section.texts(key) {
            if !destinations.iter().any(|d| *d.name == *text.value) {
                section.malformed(key, &text, "there is no such destination");
            } else if names.iter().any(|name| **name == *text.value) {
                section.malformed(key, &text, "it stands there twice");
            } else {
                names.push(text.value.into());
            }
        }
        names
    };
    let leave_when_any = section.choice("leave_when") == Some("any");
    Site { name: destination::name(section), triggers: names("triggers"), followers: names("followers"), leave_when_any }
}
