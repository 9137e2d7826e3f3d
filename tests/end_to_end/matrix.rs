//! The failure matrix: every way in which an endpoint fails, with HL7 in one lane, HL7 in lanes of patients, and images, under both policies. What must
//! happen to each is what `docs/failover.md` says of it.
//! Rules: one gateway has a destination for each cell, all run side by side: before, failure (with messages under way), mended, after. In each cell
//! nothing is lost, order is kept, a message arrives at most once more for each attempt that ended ambiguous, and the endpoint is used again at last.

use harness::dicom::{self, EXPLICIT};
use harness::dicom_scp::{Answer, Scp, Welcome};
use harness::front::Front;
use harness::mllp::{AA, Client, Reply, Server, ack};
use harness::peers::{python, script};
use harness::pki::Authority;
use harness::process::Process;
use harness::synthetic::{self, CHARSETS, ct, instance};
use harness::wire::Wire;
use harness::world::{self, until};
use harness::{Gateway, World, http, sha256};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Refused,
    ResetInMidMessage,
    Dropped,
    Loss,
    Delay,
    Frozen,
    HalfOpen,
    Expired,
    Rejected,
    Full,
    AppError,
    AppReject,
    WrongAnswer,
    Late,
}

/// What a destination carries, and in which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lanes {
    Strict,
    Patient,
    Images,
}

/// What must happen while the failure lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The destination leaves; all is delivered elsewhere.
    Moves,
    /// The destination stays; all is delivered there.
    Stays,
    /// The destination stays; what was refused is a dead letter.
    DeadLetters,
    /// All is delivered, here or there.
    Either,
}

struct Row {
    fault: Fault,
    cells: &'static [(Lanes, Fate)],
    /// `connect_timeout` and `ack_timeout`.
    within: (&'static str, &'static str),
    /// `interval`, `timeout` of the probes.
    probes: (&'static str, &'static str),
}

use Fate::{DeadLetters, Either, Moves, Stays};
use Lanes::{Images, Patient, Strict};

const ALL_MOVE: &[(Lanes, Fate)] = &[(Strict, Moves), (Patient, Moves), (Images, Moves)];
const ALL_STAY: &[(Lanes, Fate)] = &[(Strict, Stays), (Patient, Stays), (Images, Stays)];
const EITHER: &[(Lanes, Fate)] = &[(Strict, Either), (Patient, Either), (Images, Either)];
const HL7_MOVES: &[(Lanes, Fate)] = &[(Strict, Moves), (Patient, Moves)];
/// Long enough for a busy machine.
const PATIENT: (&str, &str) = ("10s", "30s");
const QUICK: (&str, &str) = ("1s", "2s");

/// A deadline that is to pass is short, one that is not to pass is long.
const TABLE: &[Row] = &[
    Row { fault: Fault::Refused, cells: ALL_MOVE, within: PATIENT, probes: QUICK },
    Row { fault: Fault::ResetInMidMessage, cells: ALL_MOVE, within: PATIENT, probes: QUICK },
    // No answer is waited for where packets vanish: `connect_timeout` rules, on connections that were open before too.
    Row { fault: Fault::Dropped, cells: ALL_MOVE, within: ("2s", "300s"), probes: QUICK },
    Row { fault: Fault::Loss, cells: EITHER, within: ("10s", "20s"), probes: ("2s", "8s") },
    Row { fault: Fault::Delay, cells: ALL_STAY, within: PATIENT, probes: ("2s", "8s") },
    Row { fault: Fault::Frozen, cells: ALL_MOVE, within: ("10s", "3s"), probes: QUICK },
    // Back before a probe sees it.
    Row { fault: Fault::HalfOpen, cells: ALL_STAY, within: PATIENT, probes: ("300s", "2s") },
    Row { fault: Fault::Expired, cells: ALL_MOVE, within: PATIENT, probes: QUICK },
    Row { fault: Fault::Rejected, cells: &[(Images, Moves)], within: PATIENT, probes: QUICK },
    Row { fault: Fault::Full, cells: &[(Images, Moves)], within: PATIENT, probes: QUICK },
    Row { fault: Fault::AppError, cells: &[(Strict, DeadLetters), (Patient, DeadLetters)], within: PATIENT, probes: QUICK },
    Row { fault: Fault::AppReject, cells: HL7_MOVES, within: PATIENT, probes: QUICK },
    Row { fault: Fault::WrongAnswer, cells: HL7_MOVES, within: PATIENT, probes: QUICK },
    Row { fault: Fault::Late, cells: ALL_MOVE, within: ("10s", "3s"), probes: QUICK },
];

/// Patients of a cell with lanes: enough that several of them go to each endpoint.
const PATIENTS: usize = 12;
/// More than both systems keep of a connection that nobody reads.
const LARGE: usize = 6 << 20;

// ---- peers ----

enum Peer {
    Hl7(Server),
    Images(Scp),
}

/// Something that reached a peer.
struct Arrival {
    id: String,
    at: Instant,
    sha256: String,
    kept: bool,
}

impl Peer {
    fn arrivals(&self, fault: Option<Fault>) -> Vec<Arrival> {
        match self {
            Peer::Hl7(server) => {
                let keeps = fault == Some(Fault::WrongAnswer);
                server.received().into_iter().map(|r| Arrival { id: r.id, at: r.at, sha256: r.sha256, kept: r.accepted || keeps }).collect()
            }
            Peer::Images(scp) => {
                scp.stored().into_iter().map(|s| Arrival { id: s.instance, at: s.at, sha256: s.sha256, kept: s.status == Some(0) }).collect()
            }
        }
    }

    fn shut(&mut self) {
        match self {
            Peer::Hl7(server) => server.shut(),
            Peer::Images(scp) => scp.shut(),
        }
    }

    fn open(&mut self) {
        match self {
            Peer::Hl7(server) => server.open(),
            Peer::Images(scp) => scp.open(),
        }
    }

    /// Switched off and on, with the network cut meanwhile.
    fn reboot(&mut self) {
        match self {
            Peer::Hl7(server) => server.forget(),
            Peer::Images(scp) => scp.forget(),
        }
        self.shut();
        self.open();
    }

    fn answers(&self, fault: Option<Fault>) {
        let late = Duration::from_millis(4_500);
        match self {
            Peer::Hl7(server) => server.script(move |_, _| match fault {
                Some(Fault::AppError) => Reply::Code("AE", None),
                Some(Fault::AppReject) => Reply::Code("AR", None),
                Some(Fault::WrongAnswer) => Reply::Bytes(ack(&synthetic::small("OTHER"), "AA", None)),
                Some(Fault::Late) => Reply::Late(late, Box::new(AA)),
                _ => AA,
            }),
            Peer::Images(scp) => {
                scp.welcome(if fault == Some(Fault::Rejected) { Welcome::Reject(1, 1, 7) } else { Welcome::All });
                scp.script(move |_| match fault {
                    Some(Fault::Full) => Answer::Status(0xA700),
                    Some(Fault::Late) => Answer::Late(late, 0),
                    _ => Answer::Status(0),
                });
            }
        }
    }
}

/// The endpoint of a row that fails, for one protocol.
struct Bad {
    peer: Peer,
    front: Option<Front>,
    /// Where the gateway connects to.
    at: SocketAddr,
}

/// Both protocols' endpoints that fail in one way, and what it takes.
struct Broken {
    fault: Fault,
    bad: Vec<(bool, Bad)>,
    wire: Option<Wire>,
    tls: Option<TlsFront>,
}

struct TlsFront {
    good: harness::pki::Identity,
    expired: harness::pki::Identity,
    pairs: Vec<String>,
    log: std::path::PathBuf,
    process: Option<Process>,
}

impl TlsFront {
    fn run(&mut self, expired: bool) {
        self.process = None;
        let identity = if expired { &self.expired } else { &self.good };
        let mut command = Command::new(python());
        command.arg(script("tls_front.py")).args([&identity.cert, &identity.key]).args(&self.pairs);
        let _ = std::fs::remove_file(&self.log);
        let process = Process::start("tls-front", &mut command, &self.log);
        until("the TLS front is ready", 30, || process.log().contains("ready"));
        self.process = Some(process);
    }
}

impl Broken {
    /// `None`: not allowed here, and noted.
    fn new(world: &World, row: &Row, authority: &Authority) -> Option<Self> {
        let needs_wire = matches!(row.fault, Fault::Dropped | Fault::Loss | Fault::Delay | Fault::HalfOpen);
        let wire = if needs_wire { Some(Wire::new(world)?) } else { None };
        let protocols: BTreeSet<bool> = row.cells.iter().map(|(lanes, _)| *lanes == Images).collect();
        let start = |images: bool| {
            let at = match &wire {
                Some(wire) => SocketAddr::new(wire.address(), if images { 11_112 } else { 2_575 }),
                None => ([127, 0, 0, 1], world::port()).into(),
            };
            let make = || if images { Peer::Images(Scp::on(at)) } else { Peer::Hl7(Server::on(at)) };
            let peer = wire.as_ref().map_or_else(make, |wire| wire.inside(make));
            let front = matches!(row.fault, Fault::Frozen | Fault::ResetInMidMessage).then(|| Front::before(at));
            let at = front.as_ref().map_or(at, Front::address);
            (images, Bad { peer, front, at })
        };
        let mut bad: Vec<(bool, Bad)> = protocols.into_iter().map(start).collect();
        let tls = (row.fault == Fault::Expired).then(|| {
            let (good, expired) = (authority.issue(world, "peer", "localhost"), authority.issue_expired(world, "expired", "localhost"));
            let mut pairs = Vec::new();
            for (_, bad) in &mut bad {
                let port = world::port();
                pairs.push(format!("{port}:{}", bad.at.port()));
                bad.at.set_port(port);
            }
            let mut front = TlsFront { good, expired, pairs, log: world.path("tls-front.log"), process: None };
            front.run(false);
            front
        });
        Some(Self { fault: row.fault, bad, wire, tls })
    }

    fn set(&mut self, broken: bool) {
        for (_, bad) in &mut self.bad {
            match self.fault {
                Fault::Refused if broken => bad.peer.shut(),
                Fault::Refused => bad.peer.open(),
                Fault::HalfOpen if broken => {
                    let wire = self.wire.as_ref().expect("a wire");
                    wire.cut(true);
                    wire.inside(|| bad.peer.reboot());
                    wire.cut(false);
                }
                Fault::Frozen => bad.front.as_ref().expect("a front").freeze(broken),
                Fault::ResetInMidMessage => bad.front.as_ref().expect("a front").reset_after(if broken { 100_000 } else { 0 }),
                _ => bad.peer.answers(broken.then_some(self.fault)),
            }
        }
        match (self.fault, &self.wire, &mut self.tls) {
            (Fault::Dropped, Some(wire), _) => wire.cut(broken),
            (Fault::Loss, Some(wire), _) => wire.lose(if broken { 30 } else { 0 }),
            (Fault::Delay, Some(wire), _) => wire.delay(Duration::from_millis(if broken { 500 } else { 0 })),
            (_, _, Some(front)) => front.run(broken),
            _ => {}
        }
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        // Where the network is cut, or everything frozen, a peer cannot be told to end.
        if let Some(wire) = &self.wire {
            wire.cut(false);
            wire.lose(0);
            for (_, bad) in &mut self.bad {
                wire.inside(|| bad.peer.shut());
            }
        }
    }
}

// ---- cells ----

struct Cell {
    name: String,
    number: usize,
    fault: Fault,
    lanes: Lanes,
    round_robin: bool,
    fate: Fate,
    at: SocketAddr,
    client: Option<Client>,
    /// Id, lane and SHA-256, in the order of acceptance.
    sent: Vec<(String, usize, String)>,
}

impl Cell {
    fn send(&mut self, count: usize, large: bool) {
        let size = if large { LARGE } else { 400 };
        let from = self.sent.len();
        if self.lanes == Images {
            let mut association = dicom::Association::open(self.at, "EVERPOST", "TEST", &dicom::propose(dicom::CT, EXPLICIT)).unwrap();
            for n in from..from + count {
                let id = instance(2_000 + self.number as u64, n as u64);
                let set = ct(&id, n as u64, if large { LARGE } else { 20_000 });
                assert_eq!(association.store(dicom::CT, &id, &set).unwrap(), 0, "{}", self.name);
                self.sent.push((id, n, sha256(&set)));
            }
            association.release().unwrap();
            return;
        }
        for n in from..from + count {
            let (id, patient) = (format!("{}-{n:04}", self.name), n % PATIENTS);
            let message = synthetic::oru(&id, patient, size, CHARSETS[0]);
            let client = self.client.get_or_insert_with(|| Client::connect(self.at).unwrap().patience(Duration::from_secs(60)));
            let answer = client.send(&message).unwrap();
            assert!(answer.positive(), "{}: {answer:?}", self.name);
            self.sent.push((id, if self.lanes == Strict { 0 } else { patient }, sha256(&message)));
        }
    }

    /// How many messages show what an endpoint does.
    fn few(&self) -> usize {
        match (self.fault, self.lanes) {
            (Fault::ResetInMidMessage, _) => 2,
            (Fault::Loss, Strict) => 3,
            (_, Strict) => 5,
            (_, Patient) => PATIENTS,
            (_, Images) => 8,
        }
    }

    fn config(&self, row: &Row, bad: SocketAddr, good: SocketAddr, ca: &str) -> String {
        let (protocol, probe, ordering) = match self.lanes {
            Strict => ("mllp", "tcp", "strict"),
            Patient => ("mllp", "tcp", "patient"),
            Images => ("dicom", "dicom-echo", "none"),
        };
        let ((connect, answer), (interval, timeout)) = (row.within, row.probes);
        let policy = if self.round_robin { "round-robin" } else { "failover" };
        let mut text = format!(
            "[[destination]]\nname = \"{}\"\nprotocol = \"{protocol}\"\npolicy = \"{policy}\"\nordering = \"{ordering}\"\n\
             connect_timeout = \"{connect}\"\nack_timeout = \"{answer}\"\nretry = {{ first = \"50ms\", max = \"400ms\" }}\n\
             hold_down = \"1s\"\nhold_down_max = \"4s\"\n\
             health = {{ probe = \"{probe}\", interval = \"{interval}\", timeout = \"{timeout}\", fall = 2, rise = 2 }}\n",
            self.name
        );
        let title = if self.lanes == Images { "ae_title = \"PACS\"\n" } else { "" };
        // Most of what is spread has to meet the one that fails; a single lane has to live there.
        let weight = match (self.round_robin, self.lanes) {
            (false, _) => "",
            (true, Strict) => "weight = 1000\n",
            (true, Patient) => "weight = 4\n",
            (true, Images) => "weight = 2\n",
        };
        let tls = if row.fault == Fault::Expired { format!("tls = {{ ca = \"{ca}\", server_name = \"localhost\" }}\n") } else { String::new() };
        let _ = write!(text, "[[destination.endpoint]]\nname = \"bad\"\naddress = \"{bad}\"\n{title}{weight}{tls}");
        let _ = write!(text, "[[destination.endpoint]]\nname = \"good\"\naddress = \"{good}\"\n{title}");
        text
    }

    fn arrivals(&self, bad: &Peer, good: &Peer) -> Vec<Arrival> {
        let mine: BTreeSet<&str> = self.sent.iter().map(|(id, ..)| id.as_str()).collect();
        let all = bad.arrivals(Some(self.fault)).into_iter().chain(good.arrivals(None));
        all.filter(|arrival| mine.contains(arrival.id.as_str())).collect()
    }
}

/// What the gateway says of itself, asked once for all cells.
struct Said {
    destinations: BTreeMap<String, Value>,
    metrics: String,
}

impl Said {
    fn by(gateway: &Gateway) -> Self {
        let answer = http::request_socket(&gateway.data().join("admin.sock"), "GET", "/api/v1/status", "").map(|a| a.body).unwrap_or_default();
        let status: Value = serde_json::from_str(&answer).unwrap_or_default();
        let rows = status["destinations"].as_array().cloned().unwrap_or_default();
        let destinations = rows.into_iter().filter_map(|d| Some((d["name"].as_str()?.to_owned(), d))).collect();
        Self { destinations, metrics: gateway.get("/metrics").map(|a| a.body).unwrap_or_default() }
    }

    fn count(&self, cell: &Cell, keys: &[&str]) -> i64 {
        let Some(d) = self.destinations.get(&cell.name) else { return -1 };
        keys.iter().map(|key| d[*key].as_i64().unwrap_or(0)).sum()
    }

    fn waiting(&self, cell: &Cell) -> i64 {
        self.count(cell, &["ready", "in_flight", "deferred", "held"])
    }

    fn active(&self, cell: &Cell) -> Vec<String> {
        let list = self.destinations.get(&cell.name).and_then(|d| d["active"].as_array().cloned()).unwrap_or_default();
        list.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    }

    fn left(&self, cell: &Cell) -> f64 {
        http::sample(&self.metrics, "everpost_failovers_total", &[("destination", &cell.name), ("from", "bad")]).unwrap_or_default()
    }

    fn ambiguous(&self, cell: &Cell) -> f64 {
        http::sample(&self.metrics, "everpost_ambiguous_total", &[("destination", &cell.name)]).unwrap_or_default()
    }
}

/// Waits until `yes` of every cell; tells which ones are late.
#[track_caller]
fn all_of(what: &str, seconds: u64, gateway: &Gateway, cells: &mut [Cell], mut yes: impl FnMut(&Said, &mut Cell) -> bool) {
    let begun = Instant::now();
    let mut open: BTreeSet<usize> = (0..cells.len()).collect();
    while !open.is_empty() {
        let said = Said::by(gateway);
        open.retain(|index| !yes(&said, &mut cells[*index]));
        if begun.elapsed() > Duration::from_secs(seconds) {
            for index in &open {
                println!("{}: left {} times, {:?}", cells[*index].name, said.left(&cells[*index]), said.destinations.get(&cells[*index].name));
            }
            let late: Vec<&str> = open.iter().map(|index| cells[*index].name.as_str()).collect();
            panic!("{what}: not after {seconds} s: {late:?}");
        }
        std::thread::sleep(Duration::from_millis(100)); // the pace of asking
    }
    println!("{what}: after {:.1} s", begun.elapsed().as_secs_f32());
}

struct Stage {
    gateway: Gateway,
    broken: Vec<Broken>,
    cells: Vec<Cell>,
    good: [Peer; 2],
}

/// A gateway with all cells of these rows.
fn stage(world: &World, rows: &[&Row]) -> Stage {
    let authority = Authority::new(world, "hospital-ca");
    let ca = authority.ca.display().to_string();
    let good = [Peer::Hl7(Server::start()), Peer::Images(Scp::start())];
    let good_at = |images: bool| match &good[usize::from(images)] {
        Peer::Hl7(server) => server.address(),
        Peer::Images(scp) => scp.address(),
    };
    let (mut broken, mut cells, mut text) = (Vec::new(), Vec::new(), String::new());
    for row in rows {
        let Some(made) = Broken::new(world, row, &authority) else { continue };
        for ((lanes, fate), round_robin) in row.cells.iter().flat_map(|cell| [(*cell, false), (*cell, true)]) {
            let (port, number, images) = (world::port(), cells.len(), lanes == Images);
            let policy = if round_robin { "spread" } else { "failover" };
            let name = format!("{:?}-{lanes:?}-{policy}", row.fault).to_lowercase();
            let (fault, at) = (row.fault, ([127, 0, 0, 1], port).into());
            let cell = Cell { name, number, fault, lanes, round_robin, fate, at, client: None, sent: Vec::new() };
            let bad = made.bad.iter().find(|(of, _)| *of == images).expect("a peer of this protocol").1.at;
            let listener = if images { harness::config::dicom_listener } else { harness::config::mllp_listener };
            text += &listener(&cell.name, port, "");
            text += &cell.config(row, bad, good_at(images), &ca);
            text += &harness::config::route(&cell.name, &[&cell.name], "");
            cells.push(cell);
        }
        broken.push(made);
    }
    Stage { gateway: Gateway::start(world, "gateway", &text), broken, cells, good }
}

fn bad_of<'a>(broken: &'a [Broken], cell: &Cell) -> &'a Peer {
    let row = broken.iter().find(|b| b.fault == cell.fault).expect("the row of a cell");
    &row.bad.iter().find(|(images, _)| *images == (cell.lanes == Images)).expect("a peer of this protocol").1.peer
}

/// Whether what must happen in a cell has happened.
fn come_true(said: &Said, cell: &Cell, bad: &Peer, good: &Peer) -> bool {
    let (left, waiting) = (said.left(cell), said.waiting(cell));
    let refused = || cell.arrivals(bad, good).into_iter().filter(|a| !a.kept).map(|a| a.id).collect::<Vec<_>>();
    assert!(left == 0.0 || matches!(cell.fate, Moves | Either), "{} left its endpoint: {:?}", cell.name, said.destinations.get(&cell.name));
    let dead = said.count(cell, &["dead_letter"]);
    assert!(dead == 0 || cell.fate == DeadLetters, "{}: {dead} dead letters", cell.name);
    match cell.fate {
        Moves => left > 0.0 && waiting == 0,
        Stays | Either => waiting == 0,
        DeadLetters => {
            let refused: BTreeSet<String> = refused().into_iter().collect();
            waiting == 0 && !refused.is_empty() && dead == refused.len() as i64
        }
    }
}

fn play(stage: &mut Stage) {
    let Stage { gateway, broken, cells, good } = stage;
    let good_of = |cell: &Cell| usize::from(cell.lanes == Images);
    for cell in cells.iter_mut() {
        cell.send(cell.few(), false);
    }
    all_of("all is well", 60, gateway, cells, |said, cell| said.waiting(cell) == 0);
    // Some are under way when it happens.
    for cell in cells.iter_mut() {
        cell.send(2, false);
    }
    for row in broken.iter_mut() {
        row.set(true);
    }
    for cell in cells.iter_mut() {
        cell.send(cell.few(), cell.fault == Fault::ResetInMidMessage);
    }
    all_of("what must happen has happened", 120, gateway, cells, |said, cell| come_true(said, cell, bad_of(broken, cell), &good[good_of(cell)]));
    for row in broken.iter_mut() {
        row.set(false);
    }
    // What was left comes back by probes, or by a canary: that takes a message now and then.
    let mut last = Instant::now();
    all_of("the endpoint is used again", 90, gateway, cells, |said, cell| {
        let back = said.active(cell) == if cell.round_robin { vec!["bad", "good"] } else { vec!["bad"] };
        if !back && last.elapsed() > Duration::from_millis(20) {
            cell.send(1, false);
            last = Instant::now();
        }
        back && said.waiting(cell) == 0
    });
    for cell in cells.iter_mut() {
        cell.send(4, false);
    }
    all_of("all is well again", 60, gateway, cells, |said, cell| said.waiting(cell) == 0);
    let said = Said::by(gateway);
    for cell in cells.iter() {
        check(cell, &said, bad_of(broken, cell), &good[good_of(cell)]);
    }
    assert!(!gateway.log().contains("panicked"));
}

/// Lost 0, order violations 0, at most one duplicate for each ambiguous attempt.
fn check(cell: &Cell, said: &Said, bad: &Peer, good: &Peer) {
    let name = &cell.name;
    let mut arrivals = cell.arrivals(bad, good);
    arrivals.sort_by_key(|a| a.at);
    let refused: BTreeSet<&String> = arrivals.iter().filter(|a| !a.kept).map(|a| &a.id).collect();
    let kept: BTreeMap<&String, &String> = arrivals.iter().filter(|a| a.kept).map(|a| (&a.id, &a.sha256)).collect();
    for (id, _, sha) in &cell.sent {
        let dead = cell.fate == DeadLetters && refused.contains(id);
        assert!(dead || kept.get(id) == Some(&sha), "{name}: {id} is lost, or has other bytes: {:?}", kept.get(id));
    }
    let lanes: BTreeMap<&str, (usize, usize)> = cell.sent.iter().enumerate().map(|(n, (id, lane, _))| (id.as_str(), (*lane, n))).collect();
    let (mut seen, mut highest, mut again) = (BTreeSet::new(), BTreeMap::new(), 0);
    for arrival in arrivals.iter().filter(|a| a.kept) {
        if !seen.insert(&arrival.id) {
            again += 1;
            continue;
        }
        let (lane, n) = lanes[arrival.id.as_str()];
        if let Some(before) = highest.insert(lane, n).filter(|_| cell.lanes != Images) {
            assert!(before < n, "{name}: {} arrived after number {before} of its lane", arrival.id);
        }
    }
    let ambiguous = said.ambiguous(cell) as usize;
    assert!(again <= ambiguous, "{name}: {again} arrived again, {ambiguous} attempts were ambiguous");
    if matches!(cell.fault, Fault::AppError | Fault::AppReject | Fault::Full | Fault::Rejected) {
        assert_eq!(ambiguous, 0, "{name}: an answer is not ambiguous");
    }
    println!("{name}: {} sent, {again} arrived again, {ambiguous} ambiguous, left {} times", cell.sent.len(), said.left(cell));
}

#[test]
fn every_failure_in_every_kind_of_destination() {
    let world = World::new("matrix");
    let only = std::env::var("CELLS").unwrap_or_default();
    let rows: Vec<&Row> = TABLE.iter().filter(|row| format!("{:?}", row.fault).to_lowercase().starts_with(&only)).collect();
    let mut stage = stage(&world, &rows);
    play(&mut stage);
    let unused = TcpStream::connect(stage.cells[0].at).is_ok();
    assert!(unused, "it still takes messages");
}
