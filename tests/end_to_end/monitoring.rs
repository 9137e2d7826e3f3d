//! What monitoring hangs on: every series of the rules and of the dashboard exists, Prometheus takes the rules, Nagios gets its line, Zabbix its paths.

use harness::config::{dicom_destination, dicom_listener, mllp_destination, mllp_listener, route};
use harness::dicom_scp::Scp;
use harness::mllp::{Client, Server};
use harness::pki::Authority;
use harness::process::{run, run_any};
use harness::world::{self, not_run};
use harness::{Gateway, World, synthetic, until};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn deploy(file: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy")).join(file)
}

/// Names of our series in a text.
fn series(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("everpost_")).map(str::to_owned).collect()
}

/// Series that a page of metrics has samples of.
fn samples(page: &str) -> BTreeSet<String> {
    let names = page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split(['{', ' ']).next());
    names.filter(|name| name.starts_with("everpost_")).map(str::to_owned).collect()
}

/// A gateway in which everything that has a series is there: TLS, a name, both protocols, traffic.
fn whole(world: &World) -> (Gateway, Server, Server, Scp, u16) {
    let (hl7, secure, images) = (world::port(), world::port(), world::port());
    let (ris, standby, pacs) = (Server::start(), Server::start(), Scp::start());
    let own = Authority::new(world, "hospital-ca").issue(world, "own", "localhost");
    let tls = format!("tls = {{ cert = \"{}\", key = \"{}\" }}", own.cert.display(), own.key.display());
    let by_name = format!("[[destination.endpoint]]\nname = \"named\"\naddress = \"localhost:{}\"\n", standby.address().port());
    let text = mllp_listener("ris-in", hl7, "")
        + &mllp_listener("secure", secure, &tls)
        + &dicom_listener("modalities", images, "")
        + &mllp_destination("ris", "", &[("primary", ris.address()), ("secondary", standby.address())])
        + &by_name
        + &dicom_destination("pacs", "", &[("primary", pacs.address())])
        + &route("ris-in", &["ris"], "")
        + &route("secure", &["ris"], "")
        + &route("modalities", &["pacs"], "");
    let gateway = Gateway::start(world, "gateway", &text);
    let mut client = Client::connect(loopback(hl7)).unwrap();
    assert!(client.send(&synthetic::small("M-1")).unwrap().positive());
    gateway.drained("ris", 20);
    (gateway, ris, standby, pacs, hl7)
}

#[test]
fn every_series_of_rules_and_dashboard_exists() {
    let world = World::new("monitoring-series");
    let (gateway, _ris, _standby, _pacs, _) = whole(&world);
    let named = |file: &str| {
        let text = std::fs::read_to_string(deploy(file)).unwrap();
        let found = series(&text);
        assert!(found.len() > 10, "{file}: {found:?}");
        found
    };
    let (rules, dashboard) = (named("prometheus/rules.yml"), named("grafana/everpost.json"));
    let wanted: BTreeSet<String> = rules.union(&dashboard).cloned().collect();
    let missing = || {
        let there = samples(&gateway.get("/metrics").unwrap().body);
        wanted.difference(&there).cloned().collect::<Vec<_>>()
    };
    // Connections and the age of DNS answers come with what they tell of.
    until(&format!("every series is there; missing: {:?}", missing()), 30, || missing().is_empty());
    let reserve = gateway.metric("everpost_spool_reserve_bytes", &[]);
    assert_eq!(reserve, Some(f64::from(64 << 20)));

    // The dashboard is what Grafana takes: JSON, with a title, panels with targets, each panel in a place of its own.
    let board: Value = serde_json::from_str(&std::fs::read_to_string(deploy("grafana/everpost.json")).unwrap()).unwrap();
    let panels = board["panels"].as_array().unwrap();
    let places: BTreeSet<String> = panels.iter().map(|p| p["gridPos"].to_string()).collect();
    assert!(places.len() == panels.len() && panels.iter().all(|p| !p["targets"].as_array().unwrap().is_empty()));
    assert_eq!(board["title"], "Everpost");
}

#[test]
fn prometheus_takes_the_rules() {
    if Command::new("promtool").arg("--version").output().is_err() {
        not_run("prometheus_takes_the_rules", "promtool is not installed (Debian package prometheus)");
        return;
    }
    let out = run(Command::new("promtool").args(["check", "rules"]).arg(deploy("prometheus/rules.yml")), 60);
    assert!(out.contains("rules found"), "{out}");

    // And it takes our page of metrics.
    let world = World::new("monitoring-promtool");
    let (gateway, _ris, _standby, _pacs, _) = whole(&world);
    let page = world.write("metrics.txt", gateway.get("/metrics").unwrap().body);
    let mut shell = Command::new("sh");
    shell.args(["-c", "promtool check metrics < \"$0\""]).arg(page);
    let (status, out, err) = run_any(&mut shell, 60);
    // 3: remarks on style, such as the name of a histogram; 1: not readable.
    assert!(matches!(status.code(), Some(0 | 3)), "{status}\n{out}\n{err}");
}

#[test]
fn nagios_gets_one_line_and_its_status() {
    let world = World::new("monitoring-nagios");
    let (mut gateway, mut ris, mut standby, _pacs, hl7) = whole(&world);
    let asked = |gateway: &Gateway, more: &[&str]| {
        let (status, out, err) = gateway.cli(&[&["status", "--nagios"][..], more].concat());
        assert_eq!((out.lines().count(), err.as_str()), (1, ""), "{out}");
        (status.code(), out)
    };
    let told = |gateway: &Gateway, code: i32, what: &str| {
        until(&format!("Nagios is told {code}, {what}: {:?}", asked(gateway, &[])), 30, || {
            let (status, out) = asked(gateway, &[]);
            status == Some(code) && out.contains(what)
        });
    };
    told(&gateway, 0, "EVERPOST OK - 2 destinations deliver");
    assert!(asked(&gateway, &[]).1.contains("ris_oldest=0s;300;900;0"));
    // The health check of a container: a status, and nothing to read while all is well.
    let ready = |gateway: &Gateway| {
        let (status, out, err) = gateway.cli(&["status", "--ready"]);
        assert!(out.is_empty() && err.is_empty() == status.success(), "{out} {err}");
        status.code()
    };
    assert_eq!(ready(&gateway), Some(0));
    gateway.cli(&["destination", "pause", "ris"]);
    told(&gateway, 1, "EVERPOST WARNING - destination ris: paused");
    let mut client = Client::connect(loopback(hl7)).unwrap();
    assert!(client.send(&synthetic::small("M-2")).unwrap().positive());
    until("the age is critical", 30, || asked(&gateway, &["--warning-age", "1", "--critical-age", "2"]).0 == Some(2));
    gateway.cli(&["destination", "resume", "ris"]);
    ris.shut();
    standby.shut();
    told(&gateway, 2, "no endpoint is eligible");
    assert_eq!(ready(&gateway), Some(0), "it takes messages all the same");
    gateway.terminate();
    assert_eq!(ready(&gateway), Some(1));
    told(&gateway, 2, "EVERPOST CRITICAL");
    let (status, out, _) = run_any(Command::new(harness::gateway::program()).args(["status", "--nagios", "--config", "/nowhere/x.toml"]), 60);
    assert!(status.code() == Some(3) && out.starts_with("EVERPOST UNKNOWN"), "{status} {out}");
}

#[test]
fn the_paths_for_zabbix_lead_somewhere() {
    let world = World::new("monitoring-zabbix");
    let (gateway, _ris, _standby, _pacs, _) = whole(&world);
    let status = gateway.status().unwrap();
    let text = std::fs::read_to_string(deploy("zabbix/everpost.conf")).unwrap();
    let paths: Vec<&str> = text.split_whitespace().filter(|word| word.starts_with("$.")).map(|word| word.trim_end_matches([':', ','])).collect();
    assert!(paths.len() > 10, "{paths:?}");
    for path in paths {
        let (mut at, names) = match path.strip_prefix("$.destinations[?(@.name==\"{#NAME}\")].") {
            Some(rest) => (&status["destinations"][0], rest.trim_end_matches(".first()")),
            None if path == "$.name" => (&status["destinations"][0], "name"),
            None => (&status, &path[2..]),
        };
        for name in names.split('.') {
            at = &at[name];
        }
        assert!(!at.is_null(), "{path} is not in {status:#}");
    }
    for line in text.lines().filter_map(|line| line.strip_prefix("UserParameter=")) {
        let command = line.split_once(',').unwrap().1.replace("/usr/bin/everpost", &harness::gateway::program().display().to_string());
        let mut shell = Command::new("sh");
        shell.args(["-c", &command]).env("EVERPOST_CONFIG", gateway.config());
        let (_, out, err) = run_any(&mut shell, 60);
        assert!(!out.trim().is_empty() && err.is_empty(), "{command}: {out} {err}");
    }
}
