//! Durable DICOM: DCMTK's `storescu` into the gateway, into DCMTK's `storescp`, and through the gateway.

use crate::gateway::{Gateway, cpu, port};
use crate::{ROUNDS, hl7, limits, median, quantile, row};
use harness::dicom::{Association, Part10, part10, propose};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const IMAGES: usize = 1_000;

/// Writes `IMAGES` CT-like Part-10 files of 0.53 MB into eight folders; returns the folders.
fn images(folder: &Path) -> Vec<PathBuf> {
    let folders: Vec<_> = (0..8).map(|n| folder.join("images").join(n.to_string())).collect();
    if folders[7].exists() {
        return folders;
    }
    let mut pixels = vec![0u8; 512 * 512 * 2];
    fastrand::Rng::with_seed(1).fill(&mut pixels);
    for (n, folder) in folders.iter().enumerate() {
        std::fs::create_dir_all(folder).unwrap();
        for i in 0..IMAGES / 8 {
            std::fs::write(folder.join(format!("{i:04}.dcm")), ct(n, i, &pixels)).unwrap();
        }
    }
    folders
}

fn element(out: &mut Vec<u8>, group: u16, number: u16, vr: &[u8; 2], value: &[u8]) {
    out.extend_from_slice(&group.to_le_bytes());
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(vr);
    let pad = value.len() % 2;
    if matches!(vr, b"OB" | b"OW") {
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&((value.len() + pad) as u32).to_le_bytes());
    } else {
        out.extend_from_slice(&((value.len() + pad) as u16).to_le_bytes());
    }
    out.extend_from_slice(value);
    if pad == 1 {
        out.push(if vr == b"UI" || vr == b"OB" { 0 } else { b' ' });
    }
}

fn ct(study: usize, instance: usize, pixels: &[u8]) -> Vec<u8> {
    const CLASS: &[u8] = b"1.2.840.10008.5.1.4.1.1.2";
    let uid = format!("1.2.826.0.1.3680043.10.9999.{study}.{instance}");
    let mut meta = Vec::new();
    element(&mut meta, 2, 1, b"OB", &[0, 1]);
    element(&mut meta, 2, 2, b"UI", CLASS);
    element(&mut meta, 2, 3, b"UI", uid.as_bytes());
    element(&mut meta, 2, 0x10, b"UI", b"1.2.840.10008.1.2.1");
    element(&mut meta, 2, 0x12, b"UI", b"1.2.826.0.1.3680043.10.9999.1");
    let mut file = vec![0u8; 128];
    file.extend_from_slice(b"DICM");
    element(&mut file, 2, 0, b"UL", &(meta.len() as u32).to_le_bytes());
    file.extend_from_slice(&meta);
    element(&mut file, 8, 0x16, b"UI", CLASS);
    element(&mut file, 8, 0x18, b"UI", uid.as_bytes());
    element(&mut file, 8, 0x60, b"CS", b"CT");
    element(&mut file, 0x10, 0x10, b"PN", b"SYNTHETIC^BENCH");
    element(&mut file, 0x10, 0x20, b"LO", format!("BENCH{study}").as_bytes());
    element(&mut file, 0x20, 0xd, b"UI", format!("1.2.826.0.1.3680043.10.9999.{study}").as_bytes());
    element(&mut file, 0x20, 0xe, b"UI", format!("1.2.826.0.1.3680043.10.9999.{study}.0").as_bytes());
    for (number, value) in [(2u16, 1u16), (0x10, 512), (0x11, 512), (0x100, 16), (0x101, 16), (0x102, 15), (0x103, 0)] {
        element(&mut file, 0x28, number, b"US", &value.to_le_bytes());
    }
    element(&mut file, 0x7fe0, 0x10, b"OW", pixels);
    file
}

/// Sends all images over `associations` at once; returns seconds.
fn send(folders: &[PathBuf], to: u16, called: &str, associations: usize, nodelay: bool) -> f64 {
    let begin = Instant::now();
    let senders: Vec<Child> = (0..associations)
        .map(|n| {
            let mut command = Command::new("storescu");
            command.args(["-aec", called, "+sd", "+r", "-R", "127.0.0.1", &to.to_string()]);
            command.args(folders.iter().skip(n).step_by(associations));
            if nodelay {
                command.env("TCP_NODELAY", "1");
            } else {
                command.env_remove("TCP_NODELAY");
            }
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("storescu: apt-get install dcmtk")
        })
        .collect();
    for mut sender in senders {
        assert!(sender.wait().unwrap().success(), "storescu failed");
    }
    begin.elapsed().as_secs_f64()
}

/// Sends every folder over an association of its own from this process, the images read before: what is left is the receiver. Returns seconds.
/// Eight `storescu` take half of a small machine for themselves, a third of that to load their dictionaries.
fn send_lean(folders: &[Vec<Part10>], to: u16, called: &str) -> f64 {
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for images in folders {
            scope.spawn(move || {
                let first = &images[0];
                let contexts = propose(&first.class, &first.transfer_syntax);
                let mut association = Association::open(SocketAddr::from(([127, 0, 0, 1], to)), called, "BENCH", &contexts).unwrap();
                for image in images {
                    assert_eq!(association.store(&image.class, &image.instance, &image.data_set).unwrap(), 0);
                }
                association.release().unwrap();
            });
        }
    });
    begin.elapsed().as_secs_f64()
}

fn read(folder: &Path) -> Vec<Part10> {
    std::fs::read_dir(folder).unwrap().map(|entry| part10(&entry.unwrap().path())).collect()
}

/// DCMTK's receiver, keeping what it takes.
struct Storescp {
    child: Child,
    port: u16,
    out: PathBuf,
}

impl Storescp {
    fn start(folder: &Path, nodelay: bool) -> Self {
        Self::start_with(folder, nodelay, "+B")
    }

    /// `how`: `+B` writes what came as it is, `--ignore` keeps nothing.
    fn start_with(folder: &Path, nodelay: bool, how: &str) -> Self {
        let (port, out) = (port(), folder.join("storescp"));
        drop(std::fs::remove_dir_all(&out));
        std::fs::create_dir_all(&out).unwrap();
        let mut command = Command::new("storescp");
        command.args(["--fork", how, "-aet", "PACS", "-od"]).arg(&out).arg(port.to_string());
        if nodelay {
            command.env("TCP_NODELAY", "1");
        }
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("storescp: apt-get install dcmtk");
        let begin = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begin.elapsed() < Duration::from_secs(10), "storescp does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { child, port, out }
    }

    fn kept(&self) -> usize {
        std::fs::read_dir(&self.out).unwrap().count()
    }
}

impl Drop for Storescp {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn clear(folder: &Path) {
    drop(std::fs::remove_dir_all(folder));
}

/// Intake: 8 associations against the disk, 1 against storescp, CPU per GB.
pub fn run(folder: &Path) {
    let folders = images(folder);
    let image = std::fs::read(folders[0].join("0000.dcm")).unwrap();
    let gigabytes = (image.len() * IMAGES) as f64 / 1e9;
    let lean: Vec<_> = folders.iter().map(|folder| read(folder)).collect();
    let mut rates = [const { Vec::new() }; 8];
    for _ in 0..ROUNDS {
        let bare = limits::image_loop(folder, &image, IMAGES);
        let ceiling = Storescp::start_with(folder, true, "--ignore");
        let most = IMAGES as f64 / send(&folders, ceiling.port, "PACS", 8, true);
        drop(ceiling);
        let peer = Storescp::start(folder, true);
        let before = cpu(peer.child.id());
        let peer_one = IMAGES as f64 / send(&folders, peer.port, "PACS", 1, true);
        std::thread::sleep(Duration::from_millis(200)); // the forked child is reaped: its time is counted then
        let peer_cpu = (cpu(peer.child.id()) - before) / gigabytes;
        drop(peer);
        let data = folder.join("dicom");
        let gateway = Gateway::start(&data, 1, 1);
        let before = gateway.cpu();
        let one = IMAGES as f64 / send(&folders, gateway.dicom, "EVERPOST", 1, true);
        let own_cpu = (gateway.cpu() - before) / gigabytes;
        let eight = IMAGES as f64 / send(&folders, gateway.dicom, "EVERPOST", 8, true);
        let eight_lean = IMAGES as f64 / send_lean(&lean, gateway.dicom, "EVERPOST");
        drop(gateway);
        clear(&data);
        for (sample, value) in rates.iter_mut().zip([bare, peer_one, one, eight, own_cpu, peer_cpu, most, eight_lean]) {
            sample.push(value);
        }
    }
    let [bare, peer_one, one, eight, own_cpu, peer_cpu, most, eight_lean] = rates.map(median);
    row("CT 0.53 MB, 8 associations, lean sender", eight_lean, "images/s", "bare loop, sync every 8 images", bare, "0.8");
    row("CT 0.53 MB, 8 storescu", eight, "images/s", "8 storescu into storescp --ignore (keeps nothing)", most, "(what the senders can)");
    row("CT 0.53 MB, 8 storescu", eight, "images/s", "bare loop, sync every 8 images", bare, "0.8");
    row("CT 0.53 MB, 1 association", one, "images/s", "storescp --fork +B (never syncs)", peer_one, "0.6, moonshot 0.9");
    row("CPU, 1 association", own_cpu, "s/GB", "storescp --fork +B", peer_cpu, "at most 1");
}

/// The 99th percentile of the HL7 answer while images pour in.
pub fn beside(folder: &Path) {
    let folders = images(folder);
    let mut samples = [const { Vec::new() }; 2];
    for _ in 0..ROUNDS {
        // The disk alone under the same stream of images: a plain writer, and a sync of 2 kB beside it.
        let (image, place) = (std::fs::read(folders[0].join("0000.dcm")).unwrap(), folder.to_path_buf());
        let writer = std::thread::spawn(move || limits::image_loop(&place, &image, IMAGES));
        let mut bare = Vec::new();
        let aside = folder.join("aside");
        std::fs::create_dir_all(&aside).unwrap();
        while !writer.is_finished() {
            bare.extend(limits::syncs(&aside, 2_048, Duration::from_millis(500)));
        }
        writer.join().unwrap();
        let data = folder.join("beside");
        let gateway = Gateway::start(&data, 1, 1);
        let (pour, to) = (folders.clone(), gateway.dicom);
        let sender = std::thread::spawn(move || send(&pour, to, "EVERPOST", 8, true));
        let mut answers = Vec::new();
        while !sender.is_finished() {
            answers.extend(hl7::load(gateway.mllp, 1, Duration::from_millis(300)).1);
        }
        sender.join().unwrap();
        drop(gateway);
        clear(&data);
        samples[0].push(quantile(&mut answers, 0.99) * 1e3);
        samples[1].push(quantile(&mut bare, 0.99) * 1e3);
    }
    let [answer, bare] = samples.map(median);
    row("p99 of the HL7 answer beside 8 associations", answer, "ms", "p99 of a 2 kB sync beside a bare image loop", bare, "at most 3");
}

/// Senders with Nagle on.
pub fn nagle(folder: &Path) {
    let folders = images(folder);
    let mut samples = [const { Vec::new() }; 2];
    for _ in 0..ROUNDS {
        let peer = Storescp::start(folder, true);
        samples[1].push(IMAGES as f64 / send(&folders, peer.port, "PACS", 1, true));
        drop(peer);
        let data = folder.join("nagle");
        let gateway = Gateway::start(&data, 1, 1);
        samples[0].push(IMAGES as f64 / send(&folders, gateway.dicom, "EVERPOST", 1, false));
        drop(gateway);
        clear(&data);
    }
    let [own, peer] = samples.map(median);
    row("CT, default storescu (Nagle on), 1 association", own, "images/s", "TCP_NODELAY=1 storescu into storescp +B", peer, "0.6");
}

/// Store and forward: until the last image is delivered.
pub fn forward(folder: &Path) {
    let folders = images(folder);
    let mut samples = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        let peer = Storescp::start(folder, true);
        let direct = send(&folders, peer.port, "PACS", 1, true);
        drop(peer);
        let data = folder.join("forward");
        let gateway = Gateway::start(&data, 1, 1);
        let intake = send(&folders, gateway.dicom, "EVERPOST", 1, true);
        drop(gateway);
        clear(&data);
        let peer = Storescp::start(folder, true);
        let gateway = Gateway::start(&data, 1, peer.port);
        let begin = Instant::now();
        send(&folders, gateway.dicom, "EVERPOST", 1, true);
        while gateway.metric("everpost_envelopes_delivered_total") < IMAGES as f64 {
            assert!(begin.elapsed() < Duration::from_secs(300), "not delivered after 300 s: {} of {IMAGES}", peer.kept());
            std::thread::sleep(Duration::from_millis(2));
        }
        let through = begin.elapsed().as_secs_f64();
        assert_eq!(peer.kept(), IMAGES);
        drop(gateway);
        drop(peer);
        clear(&data);
        for (sample, value) in samples.iter_mut().zip([direct, intake, through]) {
            sample.push(value);
        }
    }
    let [direct, intake, through] = samples.map(median);
    row(
        "1,000 CT through the gateway into storescp",
        through,
        "s",
        "the longer of direct transfer and intake alone",
        direct.max(intake),
        "at most 1.5",
    );
    println!("  direct {direct:.2} s, intake alone {intake:.2} s");
    match orthanc(folder, &folders) {
        Some(theirs) => row("the same, against Orthanc auto-forwarding", through, "s", "Orthanc, sample script", theirs, "at most 0.33"),
        None => println!("  Orthanc: not measured (apt-get install orthanc)"),
    }
}

/// Orthanc with its documented auto-forwarding script, once: it takes half a minute.
fn orthanc(folder: &Path, folders: &[PathBuf]) -> Option<f64> {
    let peer = Storescp::start(folder, true);
    let (dicom, http, home) = (port(), port(), folder.join("orthanc"));
    drop(std::fs::remove_dir_all(&home));
    std::fs::create_dir_all(&home).unwrap();
    let script = home.join("forward.lua");
    std::fs::write(&script, "function OnStoredInstance(id, tags, metadata, origin)\n  Delete(SendToModality(id, 'pacs'))\nend\n").unwrap();
    let config = home.join("orthanc.json");
    let text = serde_json::json!({
        "StorageDirectory": home.join("db"), "IndexDirectory": home.join("db"), "DicomPort": dicom, "HttpPort": http, "DicomAet": "ORTHANC",
        "DicomAlwaysAllowStore": true, "RemoteAccessAllowed": false, "LuaScripts": [script], "DicomModalities": { "pacs": ["PACS", "127.0.0.1", peer.port] }
    });
    std::fs::write(&config, text.to_string()).unwrap();
    let program = ["Orthanc", "/usr/sbin/Orthanc"].into_iter().find(|p| Command::new(p).arg("--version").output().is_ok())?;
    let mut child = Command::new(program).arg(&config).env("TCP_NODELAY", "1").stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
    let begin = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", dicom)).is_err() && begin.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let begin = Instant::now();
    send(folders, dicom, "ORTHANC", 1, true);
    while peer.kept() < IMAGES && begin.elapsed() < Duration::from_secs(240) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let took = begin.elapsed().as_secs_f64();
    drop(child.kill());
    drop(child.wait());
    Some(took)
}
