//! Reads `[spool]` and `[[destination]]`; endpoints are read by `endpoint`.
//! Rules: what a key takes and what it is by default stands in `shapes`; what keys mean together is checked by the functions here.
//! Errors: noted in the `Reading`.

use super::endpoint::endpoints;
use super::health::{default_health, read_health};
use super::read::{Reading, Section, Text, TlsUse};
use super::schedule::Schedule;
use super::shapes::CLIENT;
use super::window::Window;
use super::{
    Ambiguous, CallingAe, Destination, DrillSettings, Endpoint, Fault, Finding, LaneRule, NameServer, Names, Objectives, OnAe, Ordering, Policy,
    Probe, SpoolSettings, TlsClient, Transport, Verify,
};
use crate::keys::Protocol;
use crate::limits;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::Arc;

/// Reads `[spool]`; without it, the defaults.
#[must_use]
pub fn spool(section: Option<&Section<'_>>) -> SpoolSettings {
    let Some(section) = section else { return SpoolSettings::default() };
    SpoolSettings {
        reserve: section.size("reserve"),
        history: section.duration("history"),
        segment_size: section.size("segment_size"),
        buffers: section.size("buffers"),
    }
}

/// Reads `[names]`; without it, the defaults.
#[must_use]
pub fn names(section: Option<&Section<'_>>) -> Names {
    let Some(section) = section else { return Names::default() };
    let mut servers = Vec::new();
    for text in section.texts("servers") {
        match name_server(&text.value) {
            Ok(server) => servers.push(server),
            Err(why) => section.malformed("servers", &text, why),
        }
    }
    if servers.len() > limits::NAME_SERVERS_MAX {
        let what = format!("more than {} DNS servers", limits::NAME_SERVERS_MAX);
        section.reading().problem(section.place("servers"), what, "two or three are enough");
    }
    let ca = section.text("ca").map(|text| {
        let path = section.reading().path(&text.value);
        let settings = TlsClient { ca: Some(path.clone()), identity: None, server_name: None, verify: Verify::Full };
        section.reading().tls(text.span, TlsUse::Client(settings, "localhost".to_owned()));
        path
    });
    let encrypted = servers.iter().any(|server| matches!(server.transport, Transport::Tls(_)));
    if encrypted && !section.has("ca") {
        section.reading().problem(section.place("servers"), "`tls://` without `ca`", "add `ca`, the PEM file of the server's authority");
    } else if !encrypted {
        section.pointless("ca", "without a server asked over `tls://`");
    }
    Names { servers, ca, max_ttl: section.duration("max_ttl"), max_stale: section.duration("max_stale") }
}

/// One of `servers`.
fn name_server(text: &str) -> Result<NameServer, &'static str> {
    let (scheme, place) = text.split_once("://").unwrap_or(("", text));
    let (place, name) = place.split_once('#').map_or((place, None), |(place, name)| (place, Some(name)));
    let port = match scheme {
        "" | "udp" | "tcp" => 53,
        "tls" => 853,
        _ => return Err("its transport is none of udp, tcp, tls"),
    };
    let bare = place.strip_prefix('[').and_then(|place| place.strip_suffix(']')).unwrap_or(place);
    let address = match (place.parse::<SocketAddr>(), bare.parse::<IpAddr>()) {
        (Ok(address), _) => address,
        (_, Ok(ip)) => SocketAddr::new(ip, port),
        _ => return Err("it is no address; a name would have to be looked up first"),
    };
    let transport = match (scheme, name) {
        ("tls", name) => Transport::Tls(name.map_or_else(|| address.ip().to_string(), str::to_owned)),
        (_, Some(_)) => return Err("a name after # is for tls:// only"),
        ("tcp", None) => Transport::Tcp,
        (_, None) => Transport::Udp,
    };
    Ok(NameServer { address, transport })
}

/// Reads every `[[destination]]`. Names that occur twice are noted.
#[must_use]
pub fn destinations(sections: &[Section<'_>]) -> Vec<Arc<Destination>> {
    let destinations: Vec<Arc<Destination>> = sections.iter().map(|section| Arc::new(destination(section))).collect();
    unique(sections, destinations.iter().map(|destination| &*destination.name), "destination");
    if sections.len() > limits::DESTINATIONS_MAX {
        let section = &sections[limits::DESTINATIONS_MAX];
        section.reading().problem(section.span(), format!("more than {} destinations", limits::DESTINATIONS_MAX), "use fewer");
    }
    destinations
}

/// Notes names that occur twice among tables of one kind.
pub fn unique<'n>(sections: &[Section<'_>], names: impl Iterator<Item = &'n str>, what: &str) {
    let mut seen = Vec::new();
    for (section, name) in sections.iter().zip(names) {
        if !name.is_empty() && seen.contains(&name) {
            section.reading().problem(section.place("name"), format!("there are two {what}s named \"{name}\""), "give each a name of its own");
        }
        seen.push(name);
    }
}

/// `name` of a table, checked; empty if it is missing or malformed, which is noted.
#[must_use]
pub fn name(section: &Section<'_>) -> Arc<str> {
    let Some(text) = section.text("name") else { return "".into() };
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let why = match text.value.chars().next() {
        None => "it is empty",
        Some(first) if !first.is_ascii_alphanumeric() => "it must begin with a letter or digit",
        Some(_) if text.value.len() > limits::NAME_BYTES_MAX => "it is too long",
        Some(_) if !text.value.chars().all(allowed) => "it has other characters in it",
        Some(_) => return text.value.into(),
    };
    section.malformed("name", &text, why);
    "".into()
}

/// `protocol` of a table; MLLP if it is missing or wrong, which is noted.
#[must_use]
pub fn protocol(section: &Section<'_>) -> Protocol {
    if section.choice("protocol") == Some("dicom") { Protocol::Dicom } else { Protocol::Mllp }
}

/// An AE title (PS3.5 section 6.2): 1 to 16 characters of the default repertoire, no backslash; outer blanks do not count.
#[must_use]
pub fn ae_title(section: &Section<'_>, key: &str, text: &Text) -> Option<String> {
    let title = text.value.trim_matches(' ');
    let printable = title.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'\\');
    let why = match title.len() {
        0 => "it is empty",
        17.. => "it is longer than 16 characters",
        _ if !printable => "it has other characters in it",
        _ => return Some(title.to_owned()),
    };
    section.malformed(key, text, why);
    None
}

fn destination(section: &Section<'_>) -> Destination {
    let protocol = protocol(section);
    if protocol == Protocol::Mllp {
        for key in ["calling_ae", "window", "convert", "idle_release"] {
            section.pointless(key, "for mllp");
        }
    } else {
        for key in ["on_ae", "answers"] {
            section.pointless(key, "for dicom");
        }
    }
    let (hold_down, hold_down_max) = (section.duration("hold_down"), section.duration("hold_down_max"));
    if hold_down > hold_down_max {
        section.reading().problem(section.place("hold_down"), "`hold_down` is longer than `hold_down_max`", "make `hold_down_max` at least as long");
    }
    let (retry_first, retry_max) = retry(section);
    let health = section.table("health");
    let defaults = default_health(protocol);
    let health = health.map_or(defaults.clone(), |table| read_health(&table, &defaults, protocol));
    let (policy, ordering) = (policy(section), ordering(section, protocol));
    if ordering == Ordering::Strict && policy != Policy::Failover {
        let what = "`ordering = \"strict\"` uses one endpoint at a time, whatever the policy";
        section.reading().warning(section.place("policy"), what, "use `ordering = \"none\"`, or `policy = \"failover\"`");
    }
    let endpoints = endpoints(section, protocol, &health);
    let drill = section.table("drill").map_or_else(DrillSettings::default, |table| drill(&table, protocol, &endpoints));
    if drill.schedule.is_some() && (endpoints.len() < 2 || policy != Policy::Failover) {
        let what = "a drill needs `policy = \"failover\"` and two endpoints: one to leave, one to go to";
        section.reading().problem(section.place("drill"), what, "remove `schedule`");
    }
    let probed = endpoints.iter().any(|e| matches!(e.health.probe, Probe::Mllp(_)));
    let sends = protocol == Protocol::Dicom || probed || drill.message.is_some();
    if drill.schedule.is_some() && !sends && !drill.real && drill.fault.is_none() {
        let what = "a scheduled drill has nothing to send: there is no test message, and no real traffic moves";
        section.reading().problem(section.place("drill"), what, "name a file as its `message`, or set `real = true` or `fault`");
    }
    if policy == Policy::Failover && endpoints.iter().any(|e| e.finding == Finding::Each) {
        let what = "`addresses = \"each\"` with `policy = \"failover\"` uses one address of the pool at a time, in numeric order";
        section.reading().warning(section.span(), what, "use `policy = \"round-robin\"` or \"least-outstanding\", or remove `addresses`");
    }
    Destination {
        name: name(section),
        protocol,
        policy,
        ordering,
        connect_timeout: section.duration("connect_timeout"),
        ack_timeout: section.duration("ack_timeout"),
        attempts_before_failover: small(section.count("attempts_before_failover")),
        hold_down,
        hold_down_max,
        failback_auto: section.choice("failback") != Some("manual"),
        failback_window: failback_window(section),
        ambiguous: if section.choice("ambiguous") == Some("hold") { Ambiguous::Hold } else { Ambiguous::Resend },
        on_ae: match section.choice("on_ae") {
            Some("retry") => OnAe::Retry,
            Some("hold") => OnAe::Hold,
            _ => OnAe::DeadLetter,
        },
        after_dead_letter: lane_rule(section, "after_dead_letter"),
        after_hold: lane_rule(section, "after_hold"),
        reject_alarm: section.duration("reject_alarm"),
        retry_first,
        retry_max,
        silence_as_asked: section.choice("answers") == Some("as-asked"),
        calling_ae: calling_ae(section),
        associations: NonZeroU16::new(small(section.count("associations"))).unwrap_or(NonZeroU16::MIN),
        window: NonZeroU16::new(small(section.count("window"))).unwrap_or(NonZeroU16::MIN),
        convert: section.flag("convert"),
        idle_release: section.duration("idle_release"),
        endpoints,
        replay_window: section.duration("replay_window"),
        resync: section.choice("resync") == Some("outage"),
        objectives: objectives(section),
        reconcile: reconcile(section, protocol),
        drill,
        not_acting: section.not_acting(),
    }
}

fn policy(section: &Section<'_>) -> Policy {
    match section.choice("policy") {
        Some("round-robin") => Policy::RoundRobin,
        Some("least-outstanding") => Policy::LeastOutstanding,
        _ => Policy::Failover,
    }
}

fn ordering(section: &Section<'_>, protocol: Protocol) -> Ordering {
    match (section.choice("ordering"), protocol) {
        (Some("strict"), _) | (None, Protocol::Mllp) => Ordering::Strict,
        (Some("patient"), _) => Ordering::Patient,
        (Some("study"), Protocol::Dicom) => Ordering::Study,
        (Some("study"), Protocol::Mllp) => {
            let what = "`ordering = \"study\"` is for dicom; an HL7 message names no study";
            section.reading().problem(section.place("ordering"), what, "use \"strict\", \"patient\" or \"none\"");
            Ordering::Strict
        }
        _ => Ordering::None,
    }
}

fn lane_rule(section: &Section<'_>, key: &str) -> LaneRule {
    if section.choice(key) == Some("stop") { LaneRule::Stop } else { LaneRule::Continue }
}

fn calling_ae(section: &Section<'_>) -> CallingAe {
    match section.text("calling_ae") {
        Some(text) if text.value == "pass" => CallingAe::Pass,
        Some(text) => ae_title(section, "calling_ae", &text).map_or(CallingAe::Pass, CallingAe::Fixed),
        None => CallingAe::Fixed("EVERPOST".to_owned()),
    }
}

fn retry(section: &Section<'_>) -> (std::time::Duration, std::time::Duration) {
    let Some(table) = section.table("retry") else { return (limits::RETRY_FIRST_DEFAULT, limits::RETRY_MAX_DEFAULT) };
    let (first, max) = (table.duration("first"), table.duration("max"));
    if first > max {
        section.reading().problem(table.place("first"), "`first` is longer than `max`", "make `max` at least as long");
    }
    (first, max)
}

/// `rto` and `rpo`. What an endpoint lost is delivered again only where `replay_window` says so.
fn objectives(section: &Section<'_>) -> Objectives {
    let rpo = section.duration_if("rpo");
    if rpo.is_some() && section.duration("replay_window").is_zero() {
        let what = "`rpo` without `replay_window`: what an endpoint answered and lost is not delivered again, and nobody knows how much it was";
        section.reading().warning(section.place("rpo"), what, "set `replay_window`, as long as an endpoint may lose what it answered");
    }
    Objectives { rto: section.duration_if("rto"), rpo }
}

/// `drill`.
fn drill(table: &Section<'_>, protocol: Protocol, endpoints: &[Arc<Endpoint>]) -> DrillSettings {
    table.pointless(if protocol == Protocol::Mllp { "store" } else { "message" }, &format!("for {protocol}"));
    let schedule = table.text("schedule").and_then(|text| {
        let schedule = Schedule::parse(&text.value);
        if schedule.is_none() {
            table.malformed("schedule", &text, "it is not a day and a time of day");
        }
        schedule
    });
    let to = table.text("to").and_then(|text| {
        let known = endpoints.iter().any(|e| *e.name == *text.value);
        if !known {
            table.malformed("to", &text, "the destination has no endpoint of this name");
        }
        known.then(|| text.value.into())
    });
    for key in ["real", "fault"].into_iter().filter(|_| schedule.is_none()) {
        table.pointless(key, &format!("without `schedule`: a drill by hand is told --{key}"));
    }
    DrillSettings {
        schedule,
        to,
        fault: table.choice("fault").and_then(Fault::parse),
        real: table.flag("real"),
        stay: table.duration("stay"),
        max_errors: small(table.count("max_errors")),
        max_age: table.duration("max_age"),
        message: table.text("message").map(|text| table.reading().path(&text.value)),
        store: table.flag("store"),
    }
}

/// `reconcile`, which asks DICOM receivers before what is replayed.
fn reconcile(section: &Section<'_>, protocol: Protocol) -> bool {
    if section.choice("reconcile") != Some("query") {
        return false;
    }
    if protocol == Protocol::Mllp {
        let what = "`reconcile = \"query\"` is for dicom; an HL7 receiver cannot be asked what it has";
        section.reading().problem(section.place("reconcile"), what, "remove it; receivers recognise a replay by its MSH-10");
    } else if section.duration("replay_window").is_zero() && section.choice("resync") != Some("outage") {
        let what = "`reconcile` acts only on replays by hand without `replay_window` or `resync`";
        section.reading().warning(section.place("reconcile"), what, "set `replay_window` or `resync = \"outage\"`, or remove it");
    }
    true
}

/// `failback_window`, which means nothing where only people return.
fn failback_window(section: &Section<'_>) -> Option<Window> {
    let text = section.text("failback_window")?;
    if section.choice("failback") == Some("manual") {
        section.pointless("failback_window", "with `failback = \"manual\"`");
    }
    let window = Window::parse(&text.value);
    if window.is_none() {
        section.malformed("failback_window", &text, "it is not two different times of day");
    }
    window
}

/// A count whose range fits.
pub(super) fn small(count: u64) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}

/// `client.threads` where it is not written.
const THREADS_DEFAULT: usize = 3;

/// `client.events` where it is not written.
const EVENTS_DEFAULT: usize = 4096;

/// What `read_client` reads.
#[derive(Debug)]
pub struct ClientSettings {
    /// `data_dir`, if the source names it.
    pub data_dir: Option<PathBuf>,
    /// `client.threads`.
    pub threads: usize,
    /// `client.events`.
    pub events: usize,
    /// `[spool]`.
    pub spool: SpoolSettings,
    /// `[names]`.
    pub names: Names,
    /// Every `[[destination]]`.
    pub destinations: Vec<Arc<Destination>>,
    /// What is worth knowing, and the files that were named.
    pub notes: super::read::Notes,
}

/// Reads a source of the client library: `data_dir`, `[client]`, `[spool]`, `[names]` and `[[destination]]`.
/// # Errors
/// Every problem, in order of place.
pub fn read_client(reading: Reading<'_>) -> Result<ClientSettings, Vec<super::ConfigError>> {
    let document = reading.document();
    if reading.has_problems() {
        return Err(reading.finish().problems);
    }
    let (data_dir, (threads, events), spool, names, destinations) = {
        let root = Section::open(&reading, document.get_ref(), 0..0, &CLIENT);
        let _ = root.has("name").then(|| name(&root));
        let data_dir = root.text("data_dir").map(|text| reading.path(&text.value));
        let bounds =
            root.table("client").map_or((THREADS_DEFAULT, EVENTS_DEFAULT), |table| (table.count("threads") as usize, table.count("events") as usize));
        (data_dir, bounds, spool(root.table("spool").as_ref()), names(root.table("names").as_ref()), destinations(&root.tables("destination")))
    };
    let notes = reading.finish();
    if !notes.problems.is_empty() {
        return Err(notes.problems);
    }
    Ok(ClientSettings { data_dir, threads, events, spool, names, destinations, notes })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::shape::Default;
    use super::super::shapes::HEALTH;
    use super::super::{HealthSettings, Probe};
    use super::*;
    use std::path::Path;
    use std::time::Duration;

    fn read(source: &str) -> Result<ClientSettings, Vec<String>> {
        let reading = Reading::new(source, Path::new("/etc/everpost"), &|_| None);
        read_client(reading).map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    const MINIMAL: &str =
        "[[destination]]\nname = 'ris'\nprotocol = 'mllp'\n[[destination.endpoint]]\nname = 'a'\naddress = 'ris.example.org:2575'\n";

    #[test]
    fn defaults_are_those_of_the_design() {
        let ClientSettings { spool, names, destinations, notes, .. } = read(MINIMAL).unwrap();
        assert_eq!(names, Names::default());
        assert_eq!(spool, SpoolSettings { reserve: 1 << 30, history: Duration::from_secs(604_800), segment_size: 64 << 20, buffers: 64 << 20 });
        assert!(notes.warnings.is_empty());
        let ris = &destinations[0];
        assert_eq!((&*ris.name, ris.protocol, ris.policy, ris.ordering), ("ris", Protocol::Mllp, Policy::Failover, Ordering::Strict));
        assert_eq!((ris.connect_timeout, ris.ack_timeout), (Duration::from_secs(5), Duration::from_secs(30)));
        assert_eq!((ris.attempts_before_failover, ris.failback_auto, ris.ambiguous, ris.on_ae), (2, true, Ambiguous::Resend, OnAe::DeadLetter));
        assert_eq!((ris.hold_down, ris.hold_down_max), (Duration::from_secs(30), Duration::from_secs(1800)));
        assert_eq!((ris.after_dead_letter, ris.after_hold), (LaneRule::Continue, LaneRule::Stop));
        assert_eq!((ris.retry_first, ris.retry_max, ris.reject_alarm), (Duration::from_secs(1), Duration::from_secs(60), Duration::from_secs(3600)));
        assert_eq!((ris.silence_as_asked, &ris.calling_ae), (false, &CallingAe::Fixed("EVERPOST".to_owned())));
        assert_eq!((ris.associations.get(), ris.window.get(), ris.convert, ris.idle_release), (4, 1, false, Duration::from_secs(10)));
        let endpoint = &ris.endpoints[0];
        assert_eq!((&*endpoint.name, endpoint.host.as_str(), endpoint.port, endpoint.weight), ("a", "ris.example.org", 2575, 1));
        let health = HealthSettings::of(Probe::Tcp);
        assert_eq!(endpoint.health, health);
        assert_eq!((health.interval, health.timeout, health.fall, health.rise), (Duration::from_secs(10), Duration::from_secs(3), 3, 2));
    }

    #[test]
    fn constants_beside_the_shapes_say_the_same() {
        let bounds = read(&("[client]\n".to_owned() + MINIMAL)).unwrap();
        assert_eq!((bounds.threads, bounds.events), (THREADS_DEFAULT, EVENTS_DEFAULT));
        let with_empty_tables = "[spool]\n[names]\n".to_owned() + &MINIMAL.replace("protocol = 'mllp'", "protocol = 'mllp'\nretry = {}\nhealth = {}");
        assert_eq!(read(&with_empty_tables).unwrap().spool, read(MINIMAL).unwrap().spool);
        assert_eq!(read(&with_empty_tables).unwrap().names, Names::default());
        assert_eq!(read(&with_empty_tables).unwrap().destinations, read(MINIMAL).unwrap().destinations);
        let (interval, timeout, store) = (limits::PROBE_INTERVAL_DEFAULT, limits::PROBE_TIMEOUT_DEFAULT, limits::PROBE_STORE_INTERVAL);
        let rehearse = limits::REHEARSAL_INTERVAL;
        for (name, is) in [("interval", interval), ("timeout", timeout), ("store_interval", store), ("rehearse", rehearse)] {
            let Default::Value(text) = HEALTH.field(name).unwrap().default else { panic!("{name}") };
            assert_eq!(super::super::units::duration(text), Some(is));
        }
        assert_eq!((HEALTH.field("fall").unwrap().default, HEALTH.field("rise").unwrap().default), (Default::Value("3"), Default::Value("2")));
    }

    #[test]
    fn the_library_has_bounds_and_a_place_of_its_own() {
        let settings = read(&("data_dir = 'd'\n[client]\nthreads = 5\nevents = 16\n".to_owned() + MINIMAL)).unwrap();
        assert_eq!((settings.threads, settings.events, settings.data_dir), (5, 16, Some("/etc/everpost/d".into())));
        let settings = read(MINIMAL).unwrap();
        assert_eq!((settings.threads, settings.events, settings.data_dir), (THREADS_DEFAULT, EVENTS_DEFAULT, None));
        assert_eq!(read(&("[client]\nthreads = 2\n".to_owned() + MINIMAL)).unwrap_err().len(), 1);
    }

    #[test]
    fn an_endpoint_refines_the_health_of_its_destination() {
        let source = "[[destination]]\nname = 'p'\nprotocol = 'dicom'\nhealth = { interval = '1m', fall = 5 }\n[[destination.endpoint]]\nname = 'a'\naddress = '[::1]:104'\nae_title = 'PACS'\nhealth = { fall = 7 }\n";
        let ClientSettings { destinations, .. } = read(source).unwrap();
        let endpoint = &destinations[0].endpoints[0];
        assert_eq!((endpoint.health.interval, endpoint.health.fall, &endpoint.health.probe), (Duration::from_secs(60), 7, &Probe::DicomEcho));
        assert_eq!((endpoint.host.as_str(), endpoint.address()), ("::1", "[::1]:104".to_owned()));
        assert_eq!(destinations[0].ordering, Ordering::None);
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let cases = [
            ("hold_down = '2h'", "`hold_down` is longer"),
            ("retry = { first = '2m', max = '1m' }", "`first` is longer"),
            ("ordering = 'study'", "is for dicom"),
            ("health = { probe = 'dicom-echo' }", "does not fit mllp"),
            ("health = { probe = 'mllp' }", "no `message`"),
            ("health = { probe = 'tls' }", "without `tls`"),
            ("calling_ae = 'SEVENTEEN_LETTERS'", "longer than 16"),
            ("calling_ae = 'BACK\\SLASH'", "other characters"),
            ("failback_window = '22:00-24:00'", "not two different times"),
            ("drill = { schedule = 'Sunday 3:00' }", "not a day and a time of day"),
            ("drill = { schedule = 'Sun 03:00', real = true }", "two endpoints"),
            ("drill = { to = 'elsewhere' }", "no endpoint of this name"),
            ("reconcile = 'query'", "is for dicom"),
        ];
        for (line, said) in cases {
            let problems = read(&MINIMAL.replace("protocol = 'mllp'", &format!("protocol = 'mllp'\n{line}"))).unwrap_err();
            assert!(problems.len() == 1 && problems[0].contains(said), "{line}: {problems:?}");
        }
        let problems = read(&MINIMAL.replace("protocol = 'mllp'", "protocol = 'mllp'\ndrill = { schedule = 'Sun 03:00' }")).unwrap_err();
        assert!(problems.iter().any(|problem| problem.contains("nothing to send")), "{problems:?}");
        let cases = [
            ("address = 'ris.example.org'", "not host:port"),
            ("address = '::1:2575'", "not host:port"),
            ("address = 'a:0'", "not host:port"),
            ("address = 'a:70000'", "not host:port"),
            ("address = 'a b:1'", "not host:port"),
            ("", "has no `address`"),
            ("address = 'a:1'\nsrv = '_hl7._tcp.example.org'", "both `address` and `srv`"),
            ("address = 'a:1'\ntls = {}", "`tls` has no `ca`"),
            ("address = 'a:1'\ntls = { ca = 'ca.pem', cert = 'c.pem' }", "`cert` without `key`"),
            ("address = 'a:1'\ntls = { ca = 'ca.pem', key = 'c.pem' }", "`key` without `cert`"),
        ];
        for (line, said) in cases {
            let problems = read(&MINIMAL.replace("address = 'ris.example.org:2575'", line)).unwrap_err();
            assert!(problems.iter().any(|problem| problem.contains(said)), "{line}: {problems:?}");
        }
    }

    #[test]
    fn a_receiver_is_asked_only_where_something_is_replayed_and_it_can_answer() {
        let source = |keys: &str| {
            let endpoint = "[[destination.endpoint]]\nname = 'a'\naddress = 'a:104'\nae_title = 'PACS'\n";
            format!("[[destination]]\nname = 'p'\nprotocol = 'dicom'\nreconcile = 'query'\n{keys}\n{endpoint}")
        };
        for (keys, warned) in [("", 1), ("replay_window = '1m'", 0), ("resync = 'outage'", 0)] {
            let settings = read(&source(keys)).unwrap();
            assert!(settings.destinations[0].reconcile);
            assert_eq!(settings.notes.warnings.len(), warned, "{keys}: {:?}", settings.notes.warnings);
        }
        assert!(!read(&source("").replace("'query'", "'none'")).unwrap().destinations[0].reconcile);
    }

    #[test]
    fn names_are_unique_and_well_formed() {
        let problems = read(&(MINIMAL.to_owned() + MINIMAL)).unwrap_err();
        assert_eq!(problems, ["there are two destinations named \"ris\"; give each a name of its own"]);
        let twice = MINIMAL.to_owned() + "[[destination.endpoint]]\nname = 'a'\naddress = 'b:1'\n";
        assert_eq!(read(&twice).unwrap_err(), ["there are two endpoints named \"a\"; give each a name of its own"]);
        for bad in ["", "a b", "-a", "ä", &"x".repeat(65)] {
            let problems = read(&MINIMAL.replace("'ris'", &format!("'{bad}'"))).unwrap_err();
            assert!(problems.len() == 1 && problems[0].starts_with("`name` cannot be"), "{bad}: {problems:?}");
        }
        assert_eq!(read("").unwrap_err(), ["the source has no `destination`; add it: tables: [[destination]]"]);
    }

    #[test]
    fn weak_protection_and_idle_keys_are_told() {
        let source = MINIMAL.to_owned() + "tls = { verify = 'none' }\n[[destination.endpoint]]\nname = 'b'\naddress = 'b:1'\n";
        let ClientSettings { destinations, notes, .. } = read(&source).unwrap();
        assert_eq!(destinations[0].endpoints[0].tls.as_ref().unwrap().verify, Verify::None);
        let warnings: Vec<String> = notes.warnings.iter().map(|warning| warning.what.clone()).collect();
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].contains("verify") && warnings[1].contains("\"b\" is less protected than \"a\""), "{warnings:?}");
        assert_eq!(notes.tls.len(), 1);
        let source = MINIMAL.replace("protocol = 'mllp'", "protocol = 'mllp'\nconvert = true\nrto = '2m'\nreplay_window = '2m'");
        let ClientSettings { destinations, notes, .. } = read(&source).unwrap();
        let warnings: Vec<String> = notes.warnings.iter().map(|warning| warning.what.clone()).collect();
        assert_eq!(warnings, ["`convert` means nothing for mllp"]);
        assert!(destinations[0].not_acting.is_empty());
    }

    #[test]
    fn endpoints_are_found_by_address_or_by_srv() {
        let tls = "tls = { verify = 'none' }";
        let source = MINIMAL.to_owned()
            + &format!("[[destination.endpoint]]\nname = 'b'\nsrv = '_hl7._tcp.example.org'\n{tls}\n")
            + &format!("[[destination.endpoint]]\nname = 'c'\naddress = 'pool.example.org:2575'\naddresses = 'each'\n{tls}\n");
        let endpoints = &read(&source).unwrap().destinations[0].endpoints;
        let found: Vec<_> = endpoints.iter().map(|e| (e.finding, e.host.as_str(), e.address())).collect();
        assert_eq!(found[0], (Finding::Any, "ris.example.org", "ris.example.org:2575".to_owned()));
        assert_eq!(found[1], (Finding::Srv, "_hl7._tcp.example.org", "_hl7._tcp.example.org".to_owned()));
        assert_eq!(found[2], (Finding::Each, "pool.example.org", "pool.example.org:2575".to_owned()));
        let names: Vec<_> = endpoints.iter().map(|e| e.tls.as_ref().and_then(|tls| tls.server_name.as_deref())).collect();
        assert_eq!(names, [None, Some("example.org"), Some("pool.example.org")], "the members of a pool show a certificate for its name");
    }

    #[test]
    fn what_cannot_work_with_names_is_said() {
        let endpoint = |keys: &str| MINIMAL.to_owned() + "[[destination.endpoint]]\nname = 'b'\n" + keys;
        for (keys, why) in [
            ("address = 'a:1'\nsrv = '_hl7._tcp.example.org'", "both `address` and `srv`"),
            ("srv = 'hl7.example.org'", "no SRV name"),
            ("srv = '_hl7._udp.example.org'", "no SRV name"),
            ("srv = '_hl7._tcp..'", "no SRV name"),
            ("weight = 2", "no `address`"),
        ] {
            let problems = read(&endpoint(keys)).unwrap_err();
            assert!(problems.iter().any(|p| p.contains(why)), "{keys}: {problems:?}");
        }
        for (keys, why) in [
            ("address = '127.0.0.1:1'\naddresses = 'each'", "stands for itself alone"),
            ("srv = '_hl7._tcp.example.org'\naddresses = 'each'", "`addresses` means nothing with `srv`"),
            ("srv = '_hl7._tcp.example.org'\nweight = 3", "`weight` means nothing with `srv`"),
            ("address = 'pool:1'\naddresses = 'each'", "one address of the pool at a time"),
        ] {
            let warnings: Vec<String> = read(&endpoint(keys)).unwrap().notes.warnings.iter().map(|w| w.what.clone()).collect();
            assert!(warnings.iter().any(|w| w.contains(why)), "{keys}: {warnings:?}");
        }
    }

    #[test]
    fn dns_servers_have_a_transport() {
        let server = |text: &str| name_server(text).map(|s| (s.address.to_string(), s.transport));
        assert_eq!(server("10.0.0.53"), Ok(("10.0.0.53:53".to_owned(), Transport::Udp)));
        assert_eq!(server("udp://[::1]:5353"), Ok(("[::1]:5353".to_owned(), Transport::Udp)));
        assert_eq!(server("tcp://::1"), Ok(("[::1]:53".to_owned(), Transport::Tcp)));
        assert_eq!(server("tls://10.0.0.53"), Ok(("10.0.0.53:853".to_owned(), Transport::Tls("10.0.0.53".to_owned()))));
        assert_eq!(server("tls://[::1]:8853#dns.example.org"), Ok(("[::1]:8853".to_owned(), Transport::Tls("dns.example.org".to_owned()))));
        for wrong in ["dns.example.org", "https://10.0.0.53", "10.0.0.53#name", "", "10.0.0.53:0x"] {
            assert!(name_server(wrong).is_err(), "{wrong}");
        }
        let problems = read(&("[names]\nservers = 'tls://10.0.0.53'\n".to_owned() + MINIMAL)).unwrap_err();
        assert!(problems[0].contains("without `ca`"), "{problems:?}");
    }
}
