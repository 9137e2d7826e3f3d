//! What an operator does: start, stop, reload, look, decide; and what scripts rely on: exit statuses, JSON shapes, HTTP.

use harness::config::{dicom_destination, dicom_listener, mllp_destination, mllp_listener, route};
use harness::gateway::program;
use harness::http;
use harness::load::{Load, in_order, nothing_lost};
use harness::mllp::{AA, Client, Reply, Server, field};
use harness::process::run_any;
use harness::world::{self, stays};
use harness::{Gateway, World, dicom, dicom_scp, synthetic, until};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn send_ok(client: &mut Client, id: &str) {
    let ack = client.send(&synthetic::small(id)).unwrap();
    assert!(ack.code == "AA" && ack.id == id, "{ack:?}");
}

#[test]
fn sigterm_finishes_answers_and_loses_nothing() {
    let world = World::new("ops-sigterm");
    let (hl7, images) = (world::port(), world::port());
    let (sink, scp) = (Server::start(), dicom_scp::Scp::start());
    let text = mllp_listener("ris-in", hl7, "")
        + &dicom_listener("modalities", images, "")
        + &mllp_destination("ris", "", &[("sink", sink.address())])
        + &dicom_destination("pacs", "", &[("scp", scp.address())])
        + &route("ris-in", &["ris"], "")
        + &route("modalities", &["pacs"], "");
    let mut gateway = Gateway::start(&world, "gateway", &text);
    let load = Load::start("S", 160, (loopback(hl7), 4, 2_000), (loopback(images), 3, 200_000));
    for _ in 0..3 {
        load.progress(50, 60);
        let began = Instant::now();
        let status = gateway.terminate();
        assert_eq!(status.code(), Some(0), "SIGTERM ends with 0\n{}", gateway.log());
        assert!(began.elapsed() < Duration::from_secs(15), "within stop_timeout: {:?}", began.elapsed());
        gateway.up();
    }
    let answered = load.stop();
    gateway.drained("ris", 60);
    gateway.drained("pacs", 60);
    let mut arrived: BTreeMap<String, String> = sink.received().into_iter().map(|r| (r.id, r.sha256)).collect();
    arrived.extend(scp.stored().into_iter().map(|s| (s.instance, s.sha256)));
    nothing_lost(&answered, &arrived);
    in_order(&sink.ids());
    assert!(!gateway.log().contains("panicked"));
}

#[test]
fn sigterm_with_a_frozen_receiver_still_ends_in_time() {
    let world = World::new("ops-sigterm-frozen");
    let port = world::port();
    let sink = Server::start();
    sink.script(|_, _| Reply::Silence);
    let text = "stop_timeout = \"2s\"\n".to_owned()
        + &mllp_listener("ris-in", port, "")
        + &mllp_destination("ris", "ack_timeout = \"60s\"", &[("sink", sink.address())])
        + &route("ris-in", &["ris"], "");
    let mut gateway = Gateway::start(&world, "gateway", &text);
    let mut client = Client::connect(loopback(port)).unwrap();
    send_ok(&mut client, "A");
    until("it is in flight", 10, || sink.count() == 1);
    let began = Instant::now();
    assert_eq!(gateway.terminate().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    sink.script(|_, _| AA);
    gateway.up();
    gateway.drained("ris", 20);
    assert_eq!(sink.ids(), ["A", "A"], "in flight at the stop: sent again");
}

#[test]
fn reload_is_all_or_nothing() {
    let world = World::new("ops-reload");
    let (one, two) = (world::port(), world::port());
    let (a, b) = (Server::start(), Server::start());
    let first = mllp_listener("one", one, "") + &mllp_destination("ris", "", &[("a", a.address())]) + &route("one", &["ris"], "");
    let mut gateway = Gateway::start(&world, "gateway", &first);
    let mut client = Client::connect(loopback(one)).unwrap();
    send_ok(&mut client, "A-1");
    gateway.drained("ris", 10);

    // A broken file: nothing changes, the log says where.
    gateway
        .configure(&(mllp_listener("one", one, "nonsense = 1") + &mllp_destination("ris", "", &[("b", b.address())]) + &route("one", &["ris"], "")));
    gateway.process().signal(libc::SIGHUP);
    until("the log says what is wrong", 10, || gateway.log().contains("nonsense"));
    send_ok(&mut client, "A-2");
    gateway.drained("ris", 10);
    assert_eq!((a.ids(), b.count()), (vec!["A-1".to_owned(), "A-2".to_owned()], 0));

    // A file that parses but cannot work (its listener's port is taken): nothing of it.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = taken.local_addr().unwrap().port();
    gateway.configure(
        &(first.clone() + &mllp_listener("busy", busy, "") + &mllp_destination("new", "", &[("b", b.address())]) + &route("busy", &["new"], "")),
    );
    gateway.process().signal(libc::SIGHUP);
    until("the log names the port", 10, || gateway.log().contains(&busy.to_string()));
    assert!(gateway.destination("new").is_none(), "half a configuration is in force");

    // A good one: new listener, endpoint replaced, the open connection stays.
    gateway.configure(
        &(mllp_listener("one", one, "")
            + &mllp_listener("two", two, "")
            + &mllp_destination("ris", "", &[("b", b.address())])
            + &route("one", &["ris"], "")
            + &route("two", &["ris"], "")),
    );
    gateway.process().signal(libc::SIGHUP);
    until("the new listener takes messages", 20, || {
        Client::connect(loopback(two)).is_ok_and(|mut c| c.send(&synthetic::small("B-1")).is_ok_and(|ack| ack.positive()))
    });
    send_ok(&mut client, "B-2");
    gateway.drained("ris", 10);
    assert_eq!(b.ids(), ["B-1", "B-2"]);
    assert_eq!(a.count(), 2);
    // A listener that is gone closes.
    gateway.configure(&(mllp_listener("two", two, "") + &mllp_destination("ris", "", &[("b", b.address())]) + &route("two", &["ris"], "")));
    gateway.process().signal(libc::SIGHUP);
    until("the old listener is closed", 20, || Client::connect(loopback(one)).is_err());
}

#[test]
fn a_destination_taken_out_with_a_backlog_keeps_it() {
    let world = World::new("ops-reload-backlog");
    let port = world::port();
    let (a, mut b) = (Server::start(), Server::start());
    b.shut();
    let both = mllp_listener("in", port, "")
        + &mllp_destination("stays", "", &[("a", a.address())])
        + &mllp_destination("goes", "", &[("b", b.address())])
        + &route("in", &["stays", "goes"], "");
    let mut gateway = Gateway::start(&world, "gateway", &both);
    let mut client = Client::connect(loopback(port)).unwrap();
    send_ok(&mut client, "A");
    gateway.drained("stays", 10);
    gateway.configure(&(mllp_listener("in", port, "") + &mllp_destination("stays", "", &[("a", a.address())]) + &route("in", &["stays"], "")));
    gateway.process().signal(libc::SIGHUP);
    until("the reload is done", 10, || gateway.get("/api/v1/status").is_some() && stays(500, || true));
    gateway.kill();
    gateway.up();
    gateway.configure(&both);
    gateway.kill();
    b.open();
    gateway.up();
    gateway.drained("goes", 20);
    assert_eq!(b.ids(), ["A"]);
}

#[test]
fn status_and_queue_have_the_shape_that_scripts_rely_on() {
    let world = World::new("ops-shape");
    let port = world::port();
    let mut sink = Server::start();
    let text = mllp_listener("ris-in", port, "") + &mllp_destination("ris", "", &[("primary", sink.address())]) + &route("ris-in", &["ris"], "");
    let gateway = Gateway::start(&world, "gateway", &text);
    until("status says ok with 0", 20, || gateway.cli(&["status"]).0.code() == Some(0));
    let status = gateway.status().expect("status --json");
    for key in ["name", "version", "state", "reasons", "spool", "listeners", "destinations"] {
        assert!(status.get(key).is_some(), "status has no {key}: {status}");
    }
    assert_eq!((&status["name"], &status["state"]), (&Value::from("gateway"), &Value::from("ok")));
    assert!(status["spool"]["bytes"].is_u64() && status["spool"]["free_bytes"].is_u64());
    let listener = &status["listeners"][0];
    assert_eq!((&listener["name"], &listener["protocol"]), (&Value::from("ris-in"), &Value::from("mllp")));
    assert!(listener["bind"].is_string() && listener["connections"].is_u64());
    let destination = &status["destinations"][0];
    for key in [
        "name",
        "protocol",
        "policy",
        "paused",
        "active",
        "shift",
        "ready",
        "in_flight",
        "deferred",
        "held",
        "ambiguous",
        "dead_letter",
        "oldest_waiting_seconds",
    ] {
        assert!(destination.get(key).is_some(), "a destination has no {key}: {destination}");
    }
    let endpoint = &destination["endpoints"][0];
    for key in ["name", "health", "admin", "reason", "resolved", "connected"] {
        assert!(endpoint.get(key).is_some(), "an endpoint has no {key}: {endpoint}");
    }
    assert!(["up", "suspect", "down", "probing", "degraded"].contains(&endpoint["health"].as_str().unwrap_or_default()));
    assert_eq!(endpoint["admin"], "enabled");

    sink.shut();
    let mut client = Client::connect(loopback(port)).unwrap();
    for id in ["A", "B", "C"] {
        send_ok(&mut client, id);
    }
    until("an attempt has failed", 20, || gateway.queue("ris", "deferred").iter().any(|e| e["last"].is_object()));
    let (code, out, _) = gateway.cli(&["queue", "list", "--json", "--destination", "ris", "--limit", "2"]);
    assert_eq!(code.code(), Some(0));
    let page: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(page["envelopes"].as_array().map(Vec::len), Some(2));
    let next = page["next"].as_str().expect("a cursor to the next page");
    let (_, out, _) = gateway.cli(&["queue", "list", "--json", "--destination", "ris", "--limit", "2", "--cursor", next]);
    let rest: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((rest["envelopes"].as_array().map(Vec::len), rest["next"].is_null()), (Some(1), true));
    let envelope = &page["envelopes"][0];
    for key in ["id", "message", "destination", "state", "ambiguous", "replay", "key", "accepted_at", "attempts", "last", "next_attempt_at"] {
        assert!(envelope.get(key).is_some(), "an envelope has no {key}: {envelope}");
    }
    assert!(envelope["id"].is_string() && envelope["message"].is_string(), "ids are decimal strings");
    assert!(envelope["accepted_at"].as_str().is_some_and(|t| t.len() >= 20 && t.contains('T')), "RFC 3339: {}", envelope["accepted_at"]);
    until("degraded is 3", 20, || gateway.cli(&["status"]).0.code() == Some(3));
    assert_eq!(gateway.status().unwrap()["state"], "degraded");
}

#[test]
fn operators_decisions() {
    let world = World::new("ops-decisions");
    let port = world::port();
    let sink = Server::start();
    sink.script(|_, message| if field(message, "MSH", 10).starts_with("BAD") { Reply::Code("AE", None) } else { AA });
    let text = mllp_listener("ris-in", port, "") + &mllp_destination("ris", "", &[("primary", sink.address())]) + &route("ris-in", &["ris"], "");
    let mut gateway = Gateway::start(&world, "gateway", &text);
    let mut client = Client::connect(loopback(port)).unwrap();
    for id in ["A", "BAD-1", "B", "BAD-2", "C", "BAD-3"] {
        send_ok(&mut client, id);
    }
    until("three dead letters", 20, || gateway.count("ris", "dead_letter") == 3);
    let id_of = |gateway: &Gateway, n: usize| gateway.queue("ris", "dead-letter")[n]["id"].as_str().unwrap().to_owned();
    let ok = |gateway: &Gateway, arguments: &[&str]| {
        let (status, out, err) = gateway.cli(arguments);
        assert_eq!(status.code(), Some(0), "{arguments:?}: {out}{err}");
        out
    };
    // Export: the bytes as they came.
    let first = id_of(&gateway, 0);
    let (_, out, _) = gateway.cli(&["queue", "export", &first]);
    let exported = if out.contains("BAD-1") { out } else { std::fs::read_to_string(out.trim()).unwrap_or(out) };
    assert!(exported.contains("BAD-1"), "{exported}");
    let story = ok(&gateway, &["queue", "show", &first]);
    assert!(!story.contains("TEST^") && story.contains("ris"), "{story}");
    // Discard wants a reason.
    assert_ne!(gateway.cli(&["queue", "discard", &first]).0.code(), Some(0));
    ok(&gateway, &["queue", "discard", &first, "--reason", "known bad"]);
    assert_eq!(gateway.count("ris", "dead_letter"), 2);
    // A decision is durable when the command returns.
    gateway.kill();
    gateway.up();
    assert_eq!(gateway.count("ris", "dead_letter"), 2);
    sink.script(|_, _| AA);
    let second = id_of(&gateway, 0);
    ok(&gateway, &["queue", "retry", &second]);
    until("it is delivered", 20, || sink.accepted_ids().contains(&"BAD-2".to_owned()));
    ok(&gateway, &["queue", "retry", "--all", "--destination", "ris", "--state", "dead-letter"]);
    until("the last one too", 20, || sink.accepted_ids().contains(&"BAD-3".to_owned()));
    gateway.drained("ris", 10);
    assert_eq!(gateway.count("ris", "dead_letter"), 0);
    assert!(!sink.accepted_ids().contains(&"BAD-1".to_owned()), "discarded is discarded");
    // Pause, over a restart; hold and release.
    ok(&gateway, &["destination", "pause", "ris"]);
    let mut client = loop {
        if let Ok(client) = Client::connect(loopback(port)) {
            break client;
        }
    };
    send_ok(&mut client, "D");
    assert!(stays(400, || !sink.ids().contains(&"D".to_owned())));
    gateway.kill();
    gateway.up();
    assert!(stays(400, || !sink.ids().contains(&"D".to_owned())), "a pause outlives a restart");
    assert_eq!(gateway.destination("ris").unwrap()["paused"], true);
    let waiting = gateway.queue("ris", "ready");
    ok(&gateway, &["queue", "hold", waiting[0]["id"].as_str().unwrap()]);
    ok(&gateway, &["destination", "resume", "ris"]);
    assert!(stays(400, || !sink.ids().contains(&"D".to_owned())), "it is held");
    ok(&gateway, &["queue", "release", waiting[0]["id"].as_str().unwrap()]);
    until("it goes", 20, || sink.ids().contains(&"D".to_owned()));
    // Unknown things are refused with 1 or 2, a gateway that is away is 5.
    assert!(matches!(gateway.cli(&["queue", "retry", "999999999"]).0.code(), Some(1 | 2)));
    assert!(matches!(gateway.cli(&["destination", "pause", "nobody"]).0.code(), Some(1 | 2)));
    gateway.kill();
    assert_eq!(gateway.cli(&["status"]).0.code(), Some(5));
    assert_eq!(gateway.cli(&["queue", "list"]).0.code(), Some(5));
}

#[test]
fn http_is_read_only_on_tcp_and_checks_its_host() {
    let world = World::new("ops-http");
    let port = world::port();
    let sink = Server::start();
    let text = mllp_listener("ris-in", port, "") + &mllp_destination("ris", "", &[("primary", sink.address())]) + &route("ris-in", &["ris"], "");
    let gateway = Gateway::start(&world, "gateway", &text);
    let admin = gateway.admin();
    let host = admin.to_string();
    let told = gateway.log();
    assert!(
        told.contains(&format!("HTTP at {admin}: ")) && told.contains(&format!("takes mllp at 127.0.0.1:{port}")),
        "where it can be reached:\n{told}"
    );
    assert_eq!(http::get(admin, "/healthz").unwrap().status, 200);
    assert_eq!(http::get(admin, "/readyz").unwrap().status, 200);
    assert_eq!(http::get(admin, "/api/v1/status").unwrap().status, 200);
    let evil = http::request(admin, "evil.example", "GET", "/api/v1/status", "").unwrap();
    assert!(evil.status >= 400, "a foreign Host is served: {}", evil.status);
    let pause = http::request(admin, &host, "POST", "/api/v1/destinations/ris/pause", "").unwrap();
    assert!(pause.status >= 400, "a verb over TCP");
    assert_eq!(gateway.destination("ris").unwrap()["paused"], false);
    // No content over TCP.
    let mut client = Client::connect(loopback(port)).unwrap();
    send_ok(&mut client, "A");
    let list = http::get(admin, "/api/v1/envelopes?destination=ris").unwrap();
    assert!(!list.body.contains("P000001"), "patient data over TCP");
    let socket = gateway.data().join("admin.sock");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(http::request_socket(&socket, "POST", "/api/v1/destinations/ris/pause", "").unwrap().status / 100, 2);
    // An address that is not loopback needs token and TLS, which are not there: refused.
    let text = std::fs::read_to_string(gateway.config()).unwrap().replace(&format!("bind = \"{admin}\""), "bind = \"0.0.0.0:18080\"");
    let open = world.write("open.toml", text);
    let (status, out, err) = run_any(Command::new(program()).args(["check", "--config"]).arg(&open), 20);
    assert_eq!(status.code(), Some(2), "{out}{err}");
    // Metrics: the names of the design, every one with its prefix.
    let metrics = http::get(admin, "/metrics").unwrap().body;
    for name in [
        "messages_accepted_total",
        "envelopes_waiting",
        "oldest_waiting_seconds",
        "commit_seconds",
        "endpoint_up",
        "endpoint_active",
        "spool_bytes",
        "spool_free_bytes",
    ] {
        assert!(metrics.contains(&format!("everpost_{name}")), "no everpost_{name}\n{metrics}");
    }
    for line in metrics.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
        assert!(line.starts_with("everpost_"), "{line}");
    }
}

#[test]
fn one_process_owns_a_spool() {
    let world = World::new("ops-lock");
    let port = world::port();
    let sink = Server::start();
    let text = mllp_listener("ris-in", port, "") + &mllp_destination("ris", "", &[("primary", sink.address())]) + &route("ris-in", &["ris"], "");
    let mut gateway = Gateway::start(&world, "gateway", &text);
    let pid = gateway.process().pid();
    let (status, out, err) = run_any(Command::new(program()).args(["run", "--config"]).arg(gateway.config()), 30);
    assert!(!status.success());
    assert!((out + &err).contains(&pid.to_string()), "the error names the owner's pid");
    let mut client = Client::connect(loopback(port)).unwrap();
    send_ok(&mut client, "A");
}

#[test]
fn check_says_where_and_what() {
    let world = World::new("ops-check");
    let good = mllp_listener("ris-in", 12_575, "") + &mllp_destination("ris", "", &[("primary", loopback(12_576))]) + &route("ris-in", &["ris"], "");
    let gateway = Gateway::new(&world, "gateway", &good);
    assert_eq!(gateway.cli(&["check"]).0.code(), Some(0));
    for (wrong, wanted) in [
        (good.replace("protocol = \"mllp\"\nbind", "protcol = \"mllp\"\nbind"), "protcol"),
        (good.replace("127.0.0.1:12575", "127.0.0.1"), "bind"),
        (good.replace("connect_timeout = \"1s\"", "connect_timeout = 1"), "connect_timeout"),
        (good.replace("to = [\"ris\"]", "to = [\"rsi\"]"), "rsi"),
        (good.clone() + &dicom_listener("dicom", 12_577, "") + &route("dicom", &["ris"], ""), "dicom"),
        (good.replace("[[route]]", "[[rout]]"), "rout"),
        (good.replace("name = \"ris-in\"", "name = \"${EVERPOST_TEST_UNSET}\""), "EVERPOST_TEST_UNSET"),
    ] {
        gateway.configure(&wrong);
        let (status, out, err) = gateway.cli(&["check"]);
        assert_eq!(status.code(), Some(2), "{wanted}: {out}{err}");
        let said = out + &err;
        let place = said.lines().any(|line| {
            let after = line.split("gateway.toml:").nth(1).unwrap_or_default();
            after.split(':').take(2).filter(|part| part.parse::<u32>().is_ok()).count() == 2
        });
        assert!(place && said.contains(wanted), "no file:line:column or no {wanted}: {said}");
        let (status, _, _) = run_any(Command::new(program()).args(["run", "--config"]).arg(gateway.config()), 20);
        assert_eq!(status.code(), Some(2), "run refuses what check refuses");
    }
    let (status, _, _) = run_any(Command::new(program()).args(["no-such-command"]), 20);
    assert_eq!(status.code(), Some(2));
}

#[test]
fn test_clients_say_how_it_went_by_their_exit_status() {
    let world = World::new("ops-clients");
    let server = Server::start();
    let scp = dicom_scp::Scp::start();
    let cli = |arguments: &[&str]| run_any(Command::new(program()).args(arguments), 60);
    let hl7 = world.write("one.hl7", synthetic::small("ONE")).display().to_string();
    let to = format!("mllp://{}", server.address());
    let (status, out, err) = cli(&["send", "hl7", &hl7, "--to", &to]);
    assert_eq!(status.code(), Some(0), "{out}{err}");
    assert_eq!(server.ids(), ["ONE"]);
    server.script(|_, _| Reply::Code("AE", None));
    assert_eq!(cli(&["send", "hl7", &hl7, "--to", &to]).0.code(), Some(4), "a negative answer");
    let nobody = format!("127.0.0.1:{}", world::port());
    assert_eq!(cli(&["send", "hl7", &hl7, "--to", &format!("mllp://{nobody}")]).0.code(), Some(5), "nobody there");
    let files: Vec<String> = synthetic::ct_files(&world, "ct", 170, 3, 10_000).iter().map(|p| p.display().to_string()).collect();
    let to = format!("dicom://SCP@{}", scp.address());
    let mut arguments = vec!["send", "dicom"];
    arguments.extend(files.iter().map(String::as_str));
    arguments.extend(["--to", &to]);
    let (status, out, err) = cli(&arguments);
    assert_eq!(status.code(), Some(0), "{out}{err}");
    assert_eq!(scp.count(), 3);
    for (file, stored) in files.iter().zip(scp.stored()) {
        assert_eq!(stored.sha256, harness::sha256(&dicom::part10(file.as_ref()).data_set));
        assert_eq!(stored.called, "SCP");
    }
    scp.script(|_| dicom_scp::Answer::Status(0xa700));
    assert_eq!(cli(&arguments).0.code(), Some(4));
    assert_eq!(cli(&["echo", &to]).0.code(), Some(0));
    assert_eq!(cli(&["echo", &format!("dicom://SCP@{nobody}")]).0.code(), Some(5));
    assert_eq!(cli(&["echo", "gopher://x"]).0.code(), Some(2));
}

#[test]
fn no_patient_data_in_logs_and_metrics() {
    let world = World::new("ops-phi");
    let (hl7, images) = (world::port(), world::port());
    let sink = Server::start();
    sink.script(|_, m| {
        Reply::Bytes(format!("MSH|^~\\&|||||||ACK|1|P|2.5\rMSA|AE|{}|SECRETNAME refused\rERR||||E||||SECRETNAME\r", field(m, "MSH", 10)).into_bytes())
    });
    let scp = dicom_scp::Scp::start();
    scp.script(|_| dicom_scp::Answer::Status(0xc001));
    let text = mllp_listener("ris-in", hl7, "")
        + &dicom_listener("modalities", images, "")
        + &mllp_destination("ris", "", &[("sink", sink.address())])
        + &dicom_destination("pacs", "", &[("scp", scp.address())])
        + &route("ris-in", &["ris"], "")
        + &route("modalities", &["pacs"], "");
    let gateway = Gateway::new(&world, "gateway", &text);
    let mut gateway = gateway.with_variable("RUST_LOG", "debug");
    gateway.up();
    let mut client = Client::connect(loopback(hl7)).unwrap();
    let message =
        String::from_utf8(synthetic::small("PHI-1")).unwrap().replace("||19700101", "|SECRETNAME^X|19700101").replace("P000001", "SECRETID");
    assert!(client.send(message.as_bytes()).unwrap().positive());
    let _ = client.send(b"PID|SECRETNAME no header at all");
    let id = synthetic::instance(180, 1);
    let set = synthetic::image_head(synthetic::DataSet::explicit(), dicom::CT, &id, "SECRETID", "1.2.3", 1, 1)
        .text(0x0010, 0x4000, "LT", "SECRETNAME")
        .bytes();
    let mut association = dicom::Association::open(loopback(images), "EVERPOST", "TEST", &dicom::propose(dicom::CT, dicom::EXPLICIT)).unwrap();
    assert_eq!(association.store(dicom::CT, &id, &set).unwrap(), 0);
    association.release().unwrap();
    until("both are dead letters", 20, || gateway.count("ris", "dead_letter") == 1 && gateway.count("pacs", "dead_letter") == 1);
    let mut seen = gateway.log() + &gateway.get("/metrics").unwrap().body + &gateway.get("/api/v1/status").unwrap().body;
    seen += &gateway.get("/api/v1/envelopes?destination=ris").map(|r| r.body).unwrap_or_default();
    assert!(!seen.contains("SECRET"), "patient data: {}", seen.lines().find(|l| l.contains("SECRET")).unwrap_or_default());
}
