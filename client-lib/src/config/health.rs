//! Reads `health` of a destination and of an endpoint.
//! Rules: what an endpoint does not say is as in its destination; what belongs to another probe is told. The certificate of an https URL is checked
//! against `ca`, else as the endpoint's own.
//! Errors: noted in the `Reading`.

use super::destination::small;
use super::read::{Section, Text, TlsUse};
use super::{HealthSettings, HttpUrl, OnSlow, Probe, TlsClient, Verify};
use crate::keys::Protocol;
use crate::limits;

/// The probe of a protocol and the numbers of the shape.
#[must_use]
pub fn default_health(protocol: Protocol) -> HealthSettings {
    HealthSettings::of(default_probe(protocol))
}

fn default_probe(protocol: Protocol) -> Probe {
    match protocol {
        Protocol::Mllp => Probe::Tcp,
        Protocol::Dicom => Probe::DicomEcho,
    }
}

/// Reads `health` over what stands above it.
pub(super) fn read_health(table: &Section<'_>, above: &HealthSettings, protocol: Protocol) -> HealthSettings {
    let probe = read_probe(table, above, protocol);
    for (key, of, used) in [
        ("message", "mllp", matches!(probe, Probe::Mllp(_))),
        ("url", "http", matches!(probe, Probe::Http(_))),
        ("ca", "http", matches!(probe, Probe::Http(_))),
        ("store_interval", "dicom-store", matches!(probe, Probe::DicomStore { .. })),
        ("look_up", "dicom-store", matches!(probe, Probe::DicomStore { .. })),
    ] {
        if !used {
            table.pointless(key, &format!("without `probe = \"{of}\"`"));
        }
    }
    // What means nothing here is checked all the same.
    let _ = (table.text("url"), table.text("ca"), table.duration_if("store_interval"), table.flag("look_up"));
    HealthSettings {
        probe,
        interval: if table.has("interval") { table.duration("interval") } else { above.interval },
        timeout: if table.has("timeout") { table.duration("timeout") } else { above.timeout },
        fall: if table.has("fall") { small(table.count("fall")) } else { above.fall },
        rise: if table.has("rise") { small(table.count("rise")) } else { above.rise },
        slow: match table.choice("slow") {
            Some("leave") if table.has("slow") => OnSlow::Leave,
            Some(_) if table.has("slow") => OnSlow::Warn,
            _ => above.slow,
        },
        slow_after: if table.has("slow_after") { table.duration_if("slow_after") } else { above.slow_after },
        rehearse: if table.has("rehearse") { table.duration("rehearse") } else { above.rehearse },
    }
}

fn read_probe(table: &Section<'_>, above: &HealthSettings, protocol: Protocol) -> Probe {
    let (reading, place) = (table.reading(), table.place("probe"));
    let message = table.text("message").map(|text| {
        let path = reading.path(&text.value);
        reading.file(text.span, path.clone());
        path
    });
    let kind = table.choice("probe").unwrap_or_else(|| name(&above.probe));
    match (kind, protocol) {
        ("tcp", _) => Probe::Tcp,
        ("tls", _) => Probe::Tls,
        ("dicom-echo", Protocol::Dicom) => Probe::DicomEcho,
        ("dicom-store", Protocol::Dicom) => read_store(table, &above.probe),
        ("mllp", Protocol::Mllp) => match (message, &above.probe) {
            (Some(file), _) => Probe::Mllp(file),
            (None, Probe::Mllp(file)) => Probe::Mllp(file.clone()),
            _ => {
                reading.problem(place, "`probe = \"mllp\"` has no `message`", "add `message`, a file with the message that is sent");
                Probe::Tcp
            }
        },
        ("http", _) => read_url(table, &above.probe).map_or(default_probe(protocol), Probe::Http),
        (other, _) => {
            let what = format!("`probe = \"{other}\"` does not fit {protocol}");
            reading.problem(place, what, "use a probe of the destination's protocol, or \"tcp\"");
            default_probe(protocol)
        }
    }
}

fn read_store(table: &Section<'_>, above: &Probe) -> Probe {
    let (every, look_up) = match above {
        Probe::DicomStore { every, look_up } => (*every, *look_up),
        _ => (limits::PROBE_STORE_INTERVAL, false),
    };
    Probe::DicomStore {
        every: if table.has("store_interval") { table.duration("store_interval") } else { every },
        look_up: if table.has("look_up") { table.flag("look_up") } else { look_up },
    }
}

fn read_url(table: &Section<'_>, above: &Probe) -> Option<HttpUrl> {
    let ca = table.text("ca").map(|text| table.reading().path(&text.value));
    let mut url = match (table.text("url"), above) {
        (Some(text), _) => parse_url(table, &text)?,
        (None, Probe::Http(url)) => url.clone(),
        (None, _) => {
            if !table.has("url") {
                let place = table.place("probe");
                table.reading().problem(place, "`probe = \"http\"` has no `url`", "add `url = \"http://host:port/path\"`");
            }
            return None;
        }
    };
    match (&mut url.tls, ca) {
        (Some(tls), Some(ca)) => tls.ca = Some(ca),
        (None, Some(_)) => table.pointless("ca", "for an http:// URL"),
        (_, None) => {}
    }
    Some(url)
}

fn parse_url(table: &Section<'_>, text: &Text) -> Option<HttpUrl> {
    let parsed = url_parts(&text.value);
    if let Err(why) = &parsed {
        table.malformed("url", text, why);
    }
    let (secure, host, port, target) = parsed.ok()?;
    let tls = secure.then_some(TlsClient { ca: None, identity: None, server_name: None, verify: Verify::Full });
    Some(HttpUrl { host, port, target, tls })
}

/// Whether it is https, host, port, path and query.
fn url_parts(text: &str) -> Result<(bool, String, u16, String), &'static str> {
    let (secure, rest) = match text.split_once("://") {
        Some(("http", rest)) => (false, rest),
        Some(("https", rest)) => (true, rest),
        _ => return Err("it is no URL"),
    };
    let rest = rest.split('#').next().unwrap_or_default();
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(at);
    if authority.contains('@') {
        return Err("it names a user; probes log in nowhere");
    }
    let given = authority.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    let usual = if secure { 443 } else { 80 };
    let place = if given { super::endpoint::host_and_port(authority) } else { super::endpoint::host_and_port(&format!("{authority}:{usual}")) };
    let (host, port) = place.ok_or("its host or port is none")?;
    if !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("its path has other characters in it; write them with %");
    }
    let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
    Ok((secure, host, port, target))
}

/// The health of an endpoint: its own over its destination's, and how its probe goes with its TLS.
pub(super) fn endpoint_health(table: &Section<'_>, above: &HealthSettings, protocol: Protocol, tls: Option<&TlsClient>) -> HealthSettings {
    let own = table.table("health");
    let mut health = own.as_ref().map_or_else(|| above.clone(), |own| read_health(own, above, protocol));
    let reading = table.reading();
    if health.probe == Probe::Tls && tls.is_none() {
        reading.problem(table.span(), "`probe = \"tls\"` on an endpoint without `tls`", "add `tls`, or use another probe");
    }
    if let Probe::Http(HttpUrl { tls: Some(settings), host, .. }) = &mut health.probe {
        match tls {
            _ if settings.ca.is_some() => {}
            Some(endpoint) => *settings = TlsClient { server_name: None, ..endpoint.clone() },
            None => reading.problem(table.span(), "the `url` of its probe is https and nothing says whom to trust", "add `ca` to `health`"),
        }
        if settings.ca.is_some() || settings.verify == Verify::None {
            reading.tls(table.span(), TlsUse::Client(settings.clone(), host.clone()));
        }
    }
    health
}

fn name(probe: &Probe) -> &'static str {
    match probe {
        Probe::Tcp => "tcp",
        Probe::Tls => "tls",
        Probe::DicomEcho => "dicom-echo",
        Probe::Mllp(_) => "mllp",
        Probe::Http(_) => "http",
        Probe::DicomStore { .. } => "dicom-store",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::destination::read_client;
    use super::super::read::Reading;
    use super::*;
    use std::path::Path;
    use std::time::Duration;

    /// What a health of the destination and one of the endpoint come to.
    fn read(protocol: &str, above: &str, own: &str, tls: &str) -> Result<(HealthSettings, Vec<String>), Vec<String>> {
        let ae = if protocol == "dicom" { "ae_title = 'PACS'\n" } else { "" };
        let source = format!(
            "[[destination]]\nname = 'd'\nprotocol = '{protocol}'\nhealth = {{ {above} }}\n[[destination.endpoint]]\nname = 'a'\naddress = 'a:1'\n{ae}health = {{ {own} }}\n{tls}"
        );
        let reading = Reading::new(&source, Path::new("/etc/everpost"), &|_| None);
        let told = |notes: Vec<crate::config::ConfigError>| notes.iter().map(ToString::to_string).collect::<Vec<_>>();
        let read = read_client(reading).map_err(told)?;
        Ok((read.destinations[0].endpoints[0].health.clone(), told(read.notes.warnings)))
    }

    fn url(text: &str) -> HttpUrl {
        let (health, warnings) = read("mllp", &format!("probe = 'http', url = '{text}', ca = 'ca.pem'"), "", "").unwrap();
        assert!(warnings.iter().all(|w| w.contains("`ca` means nothing for an http:// URL")), "{warnings:?}");
        let Probe::Http(url) = health.probe else { panic!("{health:?}") };
        url
    }

    #[test]
    fn urls_are_taken_apart() {
        for (text, host, port, target, secure) in [
            ("http://ris.example.org/health", "ris.example.org", 80, "/health", false),
            ("https://ris.example.org", "ris.example.org", 443, "/", true),
            ("http://[::1]:8080/a?b=c#d", "::1", 8080, "/a?b=c", false),
            ("http://10.0.0.1:81?ready", "10.0.0.1", 81, "/?ready", false),
            ("https://[fe80::1]/x", "fe80::1", 443, "/x", true),
        ] {
            let url = url(text);
            assert_eq!((url.host.as_str(), url.port, url.target.as_str(), url.tls.is_some()), (host, port, target, secure), "{text}");
        }
        assert_eq!(url("http://[::1]:8080/a").to_string(), "http://[::1]:8080/a");
        for (text, said) in [
            ("ftp://a/", "no URL"),
            ("a:80", "no URL"),
            ("http://", "host or port"),
            ("http://a:0/", "host or port"),
            ("http://a b/", "host or port"),
            ("http://u:p@a/", "names a user"),
            ("http://a/ä", "other characters"),
        ] {
            let problems = read("mllp", &format!("probe = 'http', url = '{text}'"), "", "").unwrap_err();
            assert!(problems[0].contains(said), "{text}: {problems:?}");
        }
    }

    #[test]
    fn an_endpoint_says_only_what_differs() {
        let (health, _) = read("mllp", "probe = 'http', url = 'http://a/x', interval = '1m'", "url = 'http://b/y', fall = 9", "").unwrap();
        assert_eq!((health.interval, health.fall), (Duration::from_secs(60), 9));
        assert!(matches!(&health.probe, Probe::Http(url) if url.host == "b"), "{health:?}");
        let (health, _) = read("dicom", "probe = 'dicom-store', store_interval = '7m'", "look_up = true", "").unwrap();
        assert_eq!(health.probe, Probe::DicomStore { every: Duration::from_secs(420), look_up: true });
        let (health, _) = read("mllp", "probe = 'mllp', message = 'm.hl7'", "interval = '2s'", "").unwrap();
        assert_eq!(health.probe, Probe::Mllp("/etc/everpost/m.hl7".into()));
    }

    #[test]
    fn what_is_slow_and_what_follows_is_inherited_too() {
        let (health, _) = read("mllp", "slow = 'leave', slow_after = '2s', rehearse = '1m'", "slow_after = '3s'", "").unwrap();
        assert_eq!((health.slow, health.slow_after), (OnSlow::Leave, Some(Duration::from_secs(3))));
        assert_eq!(health.rehearse, Duration::from_secs(60));
        let (health, _) = read("mllp", "slow = 'leave', slow_after = '2s'", "slow = 'warn', rehearse = '0s'", "").unwrap();
        assert_eq!((health.slow, health.slow_after, health.rehearse), (OnSlow::Warn, Some(Duration::from_secs(2)), Duration::ZERO));
    }

    #[test]
    fn the_certificate_of_an_https_url_is_checked_as_the_endpoints_own_unless_told() {
        let https = "probe = 'http', url = 'https://b/'";
        let tls = "tls = { ca = 'own.pem', server_name = 'x' }\n";
        let ca = |health: HealthSettings| match health.probe {
            Probe::Http(HttpUrl { tls: Some(tls), .. }) => (tls.ca.unwrap().display().to_string(), tls.server_name),
            other => panic!("{other:?}"),
        };
        assert_eq!(ca(read("mllp", "", https, tls).unwrap().0), ("/etc/everpost/own.pem".to_owned(), None));
        assert_eq!(ca(read("mllp", "", &format!("{https}, ca = 'other.pem'"), tls).unwrap().0).0, "/etc/everpost/other.pem");
        let problems = read("mllp", "", https, "").unwrap_err();
        assert!(problems[0].contains("whom to trust"), "{problems:?}");
    }

    #[test]
    fn what_belongs_to_another_probe_is_told() {
        for (protocol, own, said) in [
            ("mllp", "url = 'http://a/'", "`url` means nothing without `probe = \"http\"`"),
            ("mllp", "message = 'm'", "`message` means nothing without `probe = \"mllp\"`"),
            ("dicom", "look_up = true", "`look_up` means nothing without `probe = \"dicom-store\"`"),
        ] {
            let (_, warnings) = read(protocol, "", own, "").unwrap();
            assert!(warnings.len() == 1 && warnings[0].starts_with(said), "{own}: {warnings:?}");
        }
        for (protocol, own, said) in [
            ("mllp", "probe = 'dicom-store'", "does not fit mllp"),
            ("dicom", "probe = 'mllp'", "does not fit dicom"),
            ("dicom", "probe = 'http'", "has no `url`"),
            ("dicom", "probe = 'dicom-store', store_interval = '4m'", "cannot be '4m'"),
        ] {
            let problems = read(protocol, "", own, "").unwrap_err();
            assert!(problems.len() == 1 && problems[0].contains(said), "{own}: {problems:?}");
        }
    }
}
