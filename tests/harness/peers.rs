//! The real peers: DCMTK, Orthanc, GDCM, dicom-rs, pynetdicom for DICOM; python-hl7, hl7apy, node-hl7 for HL7. `tests/run` installs them.
//! Rules: every receiver listens on loopback, on a port of its own, and keeps what it got in the test's folder; what counts is what it kept.
//! Errors: panics; a peer that is missing is named together with the remedy.

use crate::dicom::{Part10, parse_part10};
use crate::http;
use crate::process::{Process, run_any};
use crate::world::{World, get, port, target_dir, until};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where `tests/run` puts the peers that are no system packages.
#[must_use]
pub fn folder() -> PathBuf {
    std::env::var("EVERPOST_PEERS").map_or_else(|_| target_dir().join("peers"), PathBuf::from)
}

/// The Python that has the peers.
#[must_use]
pub fn python() -> PathBuf {
    folder().join("python/bin/python")
}

/// A script of this repository that is a peer.
#[must_use]
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("end_to_end/peers").join(name)
}

fn node_modules() -> PathBuf {
    folder().join("node/node_modules")
}

fn node() -> PathBuf {
    let own = node_modules().join(".bin/node");
    if own.exists() { own } else { PathBuf::from("node") }
}

/// A dicom-rs tool.
#[must_use]
pub fn dicom_rs(name: &str) -> PathBuf {
    folder().join("cargo/bin").join(name)
}

fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

#[track_caller]
fn listens(process: &mut Process, at: SocketAddr) {
    until(&format!("a peer listens on {at}"), 60, || {
        assert!(process.runs(), "a peer ended at its start\n{}", process.log());
        TcpStream::connect(at).is_ok()
    });
}

/// A DICOM receiver as a process. What it kept is in `folder`.
pub struct Receiver {
    /// Its process.
    pub process: Process,
    at: SocketAddr,
    folder: PathBuf,
    kind: Kind,
    restart: Box<dyn Fn() -> Command + Send>,
    log: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Files,
    Raw,
    Orthanc { http: u16 },
}

impl Receiver {
    fn launch(world: &World, name: &str, kind: Kind, at: SocketAddr, folder: PathBuf, restart: impl Fn() -> Command + Send + 'static) -> Self {
        let log = world.path(&format!("{name}.log"));
        let mut process = Process::start(name, &mut restart(), &log);
        listens(&mut process, at);
        Self { process, at, folder, kind, restart: Box::new(restart), log }
    }

    /// DCMTK `storescp +B` (bit preserving), every syntax and class unless `-xf` says which; `more` are further options.
    #[must_use]
    #[track_caller]
    pub fn storescp(world: &World, name: &str, more: &[&str]) -> Self {
        let (port, folder) = (port(), world.folder(name));
        let more: Vec<String> = more.iter().map(|s| (*s).to_owned()).collect();
        let (dir, text) = (folder.clone(), port.to_string());
        Self::launch(world, name, Kind::Files, loopback(port), folder, move || {
            let mut command = Command::new("storescp");
            command.env("TCP_NODELAY", "1").args(["+B", "-aet", "STORESCP", "-od"]).arg(&dir);
            if !more.iter().any(|option| option == "-xf") {
                command.args(["+xa", "-pm"]);
            }
            command.args(&more).arg(&text);
            command
        })
    }

    /// pynetdicom, keeping raw data sets.
    #[must_use]
    #[track_caller]
    pub fn pynetdicom(world: &World, name: &str) -> Self {
        let (port, folder) = (port(), world.folder(name));
        let (dir, text) = (folder.clone(), port.to_string());
        Self::launch(world, name, Kind::Raw, loopback(port), folder, move || {
            let mut command = Command::new(python());
            command.arg(script("dicom_scp.py")).arg(&text).arg("PYNETDICOM").arg(&dir).env("SYNTAXES", crate::synthetic::PRIVATE_SYNTAX);
            command
        })
    }

    /// The same, answering C-FIND about what it keeps. Each C-STORE is a line of its `log`, each C-FIND one of its `queries`.
    #[must_use]
    #[track_caller]
    pub fn archive(world: &World, name: &str) -> Self {
        let (port, folder) = (port(), world.folder(name));
        let (dir, text) = (folder.clone(), port.to_string());
        Self::launch(world, name, Kind::Raw, loopback(port), folder, move || {
            let mut command = Command::new(python());
            command.arg(script("dicom_scp.py")).arg(&text).arg("ARCHIVE").arg(&dir).env("ARCHIVE", "1");
            command
        })
    }

    /// DCMTK `dcmqrscp`: stores, and answers C-FIND; its AE title is DCMQRSCP.
    #[must_use]
    #[track_caller]
    pub fn dcmqrscp(world: &World, name: &str) -> Self {
        let (port, folder) = (port(), world.folder(name));
        let area = format!("DCMQRSCP {} RW (5000, 1024mb) ANY", folder.display());
        let text = format!(
            "MaxPDUSize = 16384\nMaxAssociations = 16\nHostTable BEGIN\nHostTable END\nVendorTable BEGIN\nVendorTable END\nAETable BEGIN\n{area}\nAETable END\n"
        );
        let file = world.write(&format!("{name}.cfg"), text);
        Self::launch(world, name, Kind::Files, loopback(port), folder, move || {
            let mut command = Command::new("dcmqrscp");
            command.env("TCP_NODELAY", "1").arg("-c").arg(&file).arg(port.to_string());
            command
        })
    }

    /// dicom-rs.
    #[must_use]
    #[track_caller]
    pub fn dicom_rs(world: &World, name: &str) -> Self {
        let (port, folder) = (port(), world.folder(name));
        let (dir, text) = (folder.clone(), port.to_string());
        Self::launch(world, name, Kind::Files, loopback(port), folder, move || {
            let mut command = Command::new(dicom_rs("dicom-storescp"));
            command.args(["--promiscuous", "-n", "-p", &text, "-o"]).arg(&dir);
            command
        })
    }

    /// Orthanc; `gateway`: an address it can send to, as the modality `gateway`.
    #[must_use]
    #[track_caller]
    pub fn orthanc(world: &World, name: &str, gateway: SocketAddr) -> Self {
        let (dicom, web, folder) = (port(), port(), world.folder(name));
        let text = serde_json::json!({
            "Name": name, "StorageDirectory": folder, "IndexDirectory": folder, "Plugins": [], "HttpPort": web, "DicomPort": dicom,
            "DicomAet": "ORTHANC", "RemoteAccessAllowed": false, "AuthenticationEnabled": false, "DicomCheckCalledAet": false,
            "DicomAlwaysAllowStore": true, "DicomAlwaysAllowEcho": true, "UnknownSopClassAccepted": true, "StorageAccessOnFind": "Never",
            "StableAge": 60, "DicomModalities": { "gateway": ["EVERPOST", gateway.ip().to_string(), gateway.port()] },
            "DeflatedTransferSyntaxAccepted": true, "JpegTransferSyntaxAccepted": true, "Jpeg2000TransferSyntaxAccepted": true,
            "JpegLosslessTransferSyntaxAccepted": true, "RleTransferSyntaxAccepted": true,
        });
        let file = world.write(&format!("{name}.json"), text.to_string());
        let mut receiver = Self::launch(world, name, Kind::Orthanc { http: web }, loopback(dicom), folder, move || {
            let mut command = Command::new("Orthanc");
            command.arg(&file);
            command
        });
        listens(&mut receiver.process, loopback(web));
        receiver
    }

    /// Its DICOM address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.at
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts it again after it was killed.
    #[track_caller]
    pub fn restart(&mut self) {
        self.process.kill();
        self.process = Process::start("peer", &mut (self.restart)(), &self.log);
        listens(&mut self.process, self.at);
    }

    /// Objects that it keeps now, by SOP instance: SHA-256 of the data set.
    #[must_use]
    pub fn kept(&self) -> BTreeMap<String, String> {
        self.objects().into_iter().map(|(id, sha, _)| (id, sha)).collect()
    }

    /// Objects that it keeps now: SOP instance, SHA-256 of the data set, transfer syntax.
    #[must_use]
    pub fn objects(&self) -> Vec<(String, String, String)> {
        let taken_apart = |list: Vec<Part10>| list.into_iter().map(|p| (p.instance, crate::sha256(&p.data_set), p.transfer_syntax)).collect();
        match self.kind {
            Kind::Raw => {
                let text = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                let rows = text.lines().map(|line| line.split(' ').collect::<Vec<_>>()).filter(|row| row.len() >= 5);
                rows.map(|row| (row[0].to_owned(), row[1].to_owned(), row[2].to_owned())).collect()
            }
            Kind::Files => taken_apart(files(&self.folder)),
            Kind::Orthanc { http } => taken_apart(orthanc_files(http)),
        }
    }

    /// Waits until it keeps that many objects.
    #[track_caller]
    pub fn keeps(&self, number: usize, seconds: u64) -> BTreeMap<String, String> {
        get(&format!("{} keeps {number} objects", self.folder.display()), seconds, || {
            let kept = self.kept();
            (kept.len() >= number).then_some(kept)
        })
    }

    /// Forgets everything it keeps.
    pub fn forget(&self) {
        if let Kind::Orthanc { http } = self.kind {
            for id in orthanc_ids(http) {
                let _ = http::request(loopback(http), "localhost", "DELETE", &format!("/instances/{id}"), "");
            }
            return;
        }
        for entry in std::fs::read_dir(&self.folder).expect("the receiver's folder").flatten() {
            if entry.file_name() == "log" {
                let _ = std::fs::write(entry.path(), "");
            } else {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    /// Orthanc only: forgets these SOP instances.
    #[track_caller]
    pub fn forget_these(&self, instances: &[String]) {
        let Kind::Orthanc { http } = self.kind else { panic!("not an Orthanc") };
        for instance in instances {
            let found = http::request(loopback(http), "localhost", "POST", "/tools/lookup", instance).expect("Orthanc answers");
            let found: serde_json::Value = serde_json::from_str(&found.body).expect("Orthanc answers JSON");
            let id = found[0]["ID"].as_str().unwrap_or_else(|| panic!("Orthanc does not know {instance}: {found}"));
            let gone = http::request(loopback(http), "localhost", "DELETE", &format!("/instances/{id}"), "").expect("Orthanc answers");
            assert_eq!(gone.status, 200, "{}", gone.body);
        }
    }

    /// Orthanc only: loads a file and sends it to the modality `gateway`; gives the HTTP status of the sending.
    #[track_caller]
    pub fn orthanc_sends(&self, file: &Path) -> u16 {
        let Kind::Orthanc { http } = self.kind else { panic!("not an Orthanc") };
        let bytes = std::fs::read(file).expect("a file to send");
        let answer = post_bytes(http, "/instances", &bytes);
        let id = serde_json::from_str::<serde_json::Value>(&answer).expect("Orthanc answers JSON")["ID"].as_str().expect("an id").to_owned();
        http::request(loopback(http), "localhost", "POST", "/modalities/gateway/store", &id).expect("Orthanc answers").status
    }

    /// Orthanc only: changes where the modality `gateway` is.
    #[track_caller]
    pub fn orthanc_gateway(&self, to: SocketAddr) {
        let Kind::Orthanc { http } = self.kind else { panic!("not an Orthanc") };
        let body = serde_json::json!({ "AET": "EVERPOST", "Host": to.ip().to_string(), "Port": to.port() }).to_string();
        let answer = http::request(loopback(http), "localhost", "PUT", "/modalities/gateway", &body).expect("Orthanc answers");
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
}

fn post_bytes(port: u16, path: &str, bytes: &[u8]) -> String {
    use std::io::{Read, Write};
    let mut stream = TcpStream::connect(loopback(port)).expect("Orthanc's HTTP");
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/dicom\r\nContent-Length: {}\r\n\r\n",
        bytes.len()
    );
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(bytes)).expect("Orthanc reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("Orthanc answers");
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
}

fn orthanc_ids(web: u16) -> Vec<String> {
    let answer = http::request(loopback(web), "localhost", "GET", "/instances", "");
    answer.and_then(|a| serde_json::from_str(&a.body).ok()).unwrap_or_default()
}

fn orthanc_files(web: u16) -> Vec<Part10> {
    use std::io::{Read, Write};
    let mut list = Vec::new();
    for id in orthanc_ids(web) {
        let Ok(mut stream) = TcpStream::connect(loopback(web)) else { continue };
        let head = format!("GET /instances/{id}/file HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let mut bytes = Vec::new();
        if stream.write_all(head.as_bytes()).and_then(|()| stream.read_to_end(&mut bytes)).is_err() {
            continue;
        }
        if let Some(split) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            list.extend(parse_part10(&bytes[split + 4..]));
        }
    }
    list
}

/// The Part-10 files of a folder; others, and those not whole yet, are passed over.
#[must_use]
pub fn files(folder: &Path) -> Vec<Part10> {
    let entries = std::fs::read_dir(folder).map(|dir| dir.flatten().collect::<Vec<_>>()).unwrap_or_default();
    entries.iter().filter_map(|entry| parse_part10(&std::fs::read(entry.path()).ok()?)).collect()
}

/// A DICOM sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// DCMTK.
    Storescu,
    /// DCMTK.
    Dcmsend,
    /// pynetdicom.
    Pynetdicom,
    /// GDCM.
    Gdcm,
    /// dicom-rs.
    DicomRs,
}

impl Sender {
    /// All that are plain commands (Orthanc is a `Receiver` that sends).
    pub const ALL: [Sender; 5] = [Sender::Storescu, Sender::Dcmsend, Sender::Pynetdicom, Sender::Gdcm, Sender::DicomRs];

    /// The command that sends files.
    #[must_use]
    pub fn command(self, to: SocketAddr, called: &str, files: &[PathBuf], syntax: &str) -> Command {
        let (host, port) = (to.ip().to_string(), to.port().to_string());
        match self {
            Sender::Storescu => {
                let mut command = Command::new("storescu");
                command.env("TCP_NODELAY", "1").args(["-R", "-aet", "STORESCU", "-aec", called]);
                if let Some(option) = storescu_proposes(syntax) {
                    command.arg(option);
                }
                command.args([&host, &port]).args(files);
                command
            }
            Sender::Dcmsend => {
                let mut command = Command::new("dcmsend");
                command.env("TCP_NODELAY", "1").args(["-dn", "-aet", "DCMSEND", "-aec", called, &host, &port]).args(files);
                command
            }
            Sender::Pynetdicom => {
                let mut command = Command::new(python());
                command.arg(script("dicom_scu.py")).args([&port, called, "PYNETDICOM"]).args(files);
                command
            }
            Sender::Gdcm => {
                let mut command = Command::new("gdcmscu");
                command.args(["--store", "--aetitle", "GDCM", "--call", called, &host, &port]).args(files);
                command
            }
            Sender::DicomRs => {
                let mut command = Command::new(dicom_rs("dicom-storescu"));
                command.args(["--never-transcode", "--fail-first", "--calling-ae-title", "DICOMRS"]);
                command.arg(format!("{called}@{host}:{port}")).args(files);
                command
            }
        }
    }

    /// Sends files of one transfer syntax; true if the sender is content.
    #[track_caller]
    pub fn sends(self, to: SocketAddr, called: &str, files: &[PathBuf], syntax: &str) -> bool {
        if self == Sender::Gdcm && syntax == "1.2.840.10008.1.2.1.99" {
            return false; // gdcmscu 3.0.21 hangs on a deflated file before it sends anything
        }
        let (status, out, err) = run_any(&mut self.command(to, called, files, syntax), 120);
        let good = match self {
            Sender::Pynetdicom => status.success() && out.lines().filter(|l| l.ends_with(" 0000")).count() == files.len(),
            // gdcmscu 3.0.21 aborts in its own clean-up after the association has been released.
            Sender::Gdcm => status.success() || err.contains("ProtocolStream as nullptr"),
            Sender::Storescu | Sender::Dcmsend | Sender::DicomRs => status.success(),
        };
        if !good {
            println!("{self:?}: {status}\n{out}\n{err}");
        }
        good
    }
}

/// `storescu` proposes only uncompressed syntaxes unless told.
fn storescu_proposes(syntax: &str) -> Option<&'static str> {
    Some(match syntax {
        "1.2.840.10008.1.2.2" => "-xb",
        "1.2.840.10008.1.2.1.99" => "-xd",
        "1.2.840.10008.1.2.4.50" => "-xy",
        "1.2.840.10008.1.2.4.51" => "-xx",
        "1.2.840.10008.1.2.4.70" => "-xs",
        "1.2.840.10008.1.2.4.80" => "-xt",
        "1.2.840.10008.1.2.4.81" => "-xu",
        "1.2.840.10008.1.2.4.90" => "-xv",
        "1.2.840.10008.1.2.4.91" => "-xw",
        "1.2.840.10008.1.2.5" => "-xr",
        _ => return None,
    })
}

/// An HL7 server as a process.
pub struct Hl7Server {
    /// Its process.
    pub process: Process,
    at: SocketAddr,
    log: PathBuf,
}

/// The HL7 libraries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hl7Library {
    /// python-hl7.
    PythonHl7,
    /// hl7apy: one message per connection as a server.
    Hl7apy,
    /// node-hl7-server and node-hl7-client.
    Node,
}

impl Hl7Library {
    /// All.
    pub const ALL: [Hl7Library; 3] = [Hl7Library::PythonHl7, Hl7Library::Hl7apy, Hl7Library::Node];

    fn command(self, role: &str) -> Command {
        match self {
            Hl7Library::Node => {
                let mut command = Command::new(node());
                command.arg(script(&format!("hl7_{role}.cjs"))).arg(node_modules());
                command
            }
            Hl7Library::PythonHl7 | Hl7Library::Hl7apy => {
                let mut command = Command::new(python());
                command.arg(script(&format!("hl7_{role}.py"))).arg(if self == Hl7Library::Hl7apy { "hl7apy" } else { "python-hl7" });
                command
            }
        }
    }

    /// Starts a server that answers AA to everything.
    #[must_use]
    #[track_caller]
    pub fn serve(self, world: &World) -> Hl7Server {
        let (port, log) = (port(), world.path(&format!("{self:?}.received")));
        let mut command = self.command("server");
        command.arg(port.to_string()).arg(&log);
        let mut process = Process::start(&format!("{self:?}"), &mut command, &world.path(&format!("{self:?}.log")));
        listens(&mut process, loopback(port));
        Hl7Server { process, at: loopback(port), log }
    }

    /// Sends the files of a folder in the order of their names; gives the answers ("AA ID").
    #[must_use]
    #[track_caller]
    pub fn send(self, to: SocketAddr, folder: &Path) -> Vec<String> {
        let mut command = self.command("client");
        command.arg(to.port().to_string()).arg(folder);
        let (status, out, err) = run_any(&mut command, 300);
        assert!(status.success(), "{self:?}: {status}\n{out}\n{err}");
        out.lines().map(str::to_owned).collect()
    }
}

impl Hl7Server {
    /// Its address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.at
    }

    /// MSH-10 and SHA-256 of everything it got, in order.
    #[must_use]
    pub fn received(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().filter_map(|line| line.split_once(' ')).map(|(id, sha)| (id.to_owned(), sha.to_owned())).collect()
    }
}

/// A plain MLLP sink as a process of its own (for freezing and killing): answers AA to everything and logs "MSH-10 SHA-256 CONNECTION".
#[track_caller]
#[must_use]
pub fn sink(world: &World, name: &str, at: SocketAddr, namespace: Option<&str>) -> Hl7Server {
    let log = world.path(&format!("{name}.received"));
    let mut command = match namespace {
        None => Command::new("python3"),
        Some(namespace) => crate::netns::command(namespace, "python3"),
    };
    command.arg(script("sink.py")).arg(at.ip().to_string()).arg(at.port().to_string()).arg(&log);
    let mut process = Process::start(name, &mut command, &world.path(&format!("{name}.log")));
    listens(&mut process, at);
    Hl7Server { process, at, log }
}
