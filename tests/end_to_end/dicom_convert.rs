//! Conversion between uncompressed transfer syntaxes, measured against DCMTK's `dcmconv`; and the test clients `send dicom` and `echo`.
//! Rules: two data sets are the same when `dcmdump` shows the same elements, depths, VRs and values; how lengths are written does not count.
//! Errors: a failed test.

use everpost_client::dicom::convert::{Converter, alternatives};
use everpost_client::dicom::part10;
use harness::config::{dicom_destination, dicom_listener, route};
use harness::dicom::EXPLICIT;
use harness::gateway::program;
use harness::peers::{Receiver, Sender};
use harness::process::{run, run_any};
use harness::synthetic::{self, part10_file};
use harness::{Gateway, World, until, world};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

const CT: &str = "1.2.840.10008.5.1.4.1.1.2";
const IMPLICIT: &str = "1.2.840.10008.1.2";
const DEFLATED: &str = "1.2.840.10008.1.2.1.99";

/// Every width of number, signed samples, sequences, private elements, values of every length class.
const DUMP: &str = "\
(0008,0005) CS [ISO_IR 100]
(0008,0016) UI [1.2.840.10008.5.1.4.1.1.2]
(0008,0018) UI [2.25.4711]
(0008,0060) CS [CT]
(0008,1140) SQ
(fffe,e000) -
(0008,1150) UI [1.2.840.10008.5.1.4.1.1.2]
(0040,a170) SQ
(fffe,e000) -
(0008,0100) SH [121311]
(fffe,e00d) -
(fffe,e0dd) -
(fffe,e00d) -
(fffe,e000) -
(fffe,e00d) -
(fffe,e0dd) -
(0008,2112) SQ
(fffe,e0dd) -
(0009,0010) LO [ACME 1.0]
(0009,1001) LO [private text]
(0009,1002) US 7\\8
(0010,0010) PN [Test^Patient]
(0010,0020) LO [P7]
(0018,0050) DS [2.5]
(0018,6020) SL -7
(0018,9089) FD 1.5\\-2.25\\3
(0020,000d) UI [2.25.2001]
(0020,000e) UI [2.25.3001]
(0028,0002) US 1
(0028,0009) AT (0018,1063)
(0028,0010) US 2
(0028,0011) US 2
(0028,0100) US 16
(0028,0101) US 16
(0028,0102) US 15
(0028,0103) US 1
(0028,0106) SS -1024
(0028,0120) SS -2000
(0040,a132) UL 70000
(0066,0016) OF 0000803f\\0000003f
(0070,0022) FL 1.5\\2.5
(6000,3000) OW 0102\\0304
(7fe0,0010) OW 8001\\0002\\fffe\\0304
";

fn sample_files(world: &World) -> Vec<PathBuf> {
    let (dump, explicit) = (world.write("sample.dump", DUMP), world.path("sample-explicit.dcm"));
    run(Command::new("dump2dcm").arg("+te").arg(dump).arg(&explicit), 30);
    let mut files = vec![explicit.clone()];
    for (name, option) in [("implicit", "+ti"), ("big-endian", "+tb"), ("deflated", "+td")] {
        let file = world.path(&format!("sample-{name}.dcm"));
        run(Command::new("dcmconv").arg(option).arg(&explicit).arg(&file), 30);
        files.push(file);
    }
    files.extend(synthetic::samples(world, 70).into_iter().map(|sample| sample.path));
    files
}

/// What `dcmdump` shows, without the writer's choices: lengths, delimiters, File Meta Information, the kind of padding.
fn shown(file: &Path) -> String {
    let text = run(Command::new("dcmdump").args(["-q", "+L", "-dc", "-Un"]).arg(file), 30);
    let mut out = String::new();
    for line in text.lines() {
        let element = line.trim_start();
        if !element.starts_with('(') || element.starts_with("(0002,") || element.starts_with("(fffe,e00d)") || element.starts_with("(fffe,e0dd)") {
            continue;
        }
        let value = line.rsplit_once('#').map_or(line, |(value, _)| value);
        let value = value.split_once(" with ").map_or(value, |(begin, _)| begin);
        let _ = writeln!(out, "{}", value.trim_end().replace(" ]", "]").replace('\0', "").trim_end_matches("\\00"));
    }
    out
}

fn convert(file: &[u8], head: &part10::FileHead, to: &str) -> Vec<u8> {
    let mut converter = Converter::new(&head.transfer_syntax, to).unwrap();
    let (mut whole, mut out) = (Vec::new(), Vec::new());
    for mut piece in file[usize::try_from(head.dataset_at).unwrap()..].chunks(333) {
        while !piece.is_empty() {
            piece = &piece[converter.push(piece, &mut out).unwrap()..];
            whole.append(&mut out);
        }
    }
    while !converter.finish(&mut out).unwrap() {
        whole.append(&mut out);
    }
    whole.append(&mut out);
    whole
}

#[test]
fn every_conversion_shows_what_dcmconv_makes_of_it() {
    let world = World::new("convert-dcmconv");
    let (mut compared, mut encapsulated) = (0, 0);
    for file in sample_files(&world) {
        let bytes = std::fs::read(&file).unwrap();
        let head = part10::read_head(&bytes).unwrap();
        encapsulated += usize::from(alternatives(&head.transfer_syntax).is_empty());
        for to in alternatives(&head.transfer_syntax) {
            let option = [(IMPLICIT, "+ti"), (EXPLICIT, "+te"), (DEFLATED, "+td")].iter().find(|(uid, _)| uid == to).unwrap().1;
            let (theirs, ours) = (world.path("theirs.dcm"), world.path("ours.dcm"));
            run(Command::new("dcmconv").arg(option).arg(&file).arg(&theirs), 30);
            std::fs::write(&ours, part10_file(CT, &head.sop_instance, to, &convert(&bytes, &head, to))).unwrap();
            assert_eq!(shown(&ours), shown(&theirs), "{} to {to}", file.display());
            compared += 1;
        }
    }
    // Nine uncompressed ones: two in big endian with three targets, the others with two. Five encapsulated ones.
    assert_eq!((compared, encapsulated), (20, 5));
}

#[test]
fn an_endpoint_that_takes_only_implicit_gets_what_can_be_converted() {
    let world = World::new("convert-endpoint");
    let receiver = Receiver::storescp(&world, "implicit", &["+xi"]);
    let port = world::port();
    let mut text = dicom_listener("modalities", port, "");
    text += &dicom_destination("pacs", "convert = true", &[("primary", receiver.address())]);
    text += &route("modalities", &["pacs"], "");
    let gateway = Gateway::start(&world, "gateway", &text);
    let samples = synthetic::samples(&world, 71);
    for sample in &samples {
        assert!(Sender::Storescu.sends(([127, 0, 0, 1], port).into(), "EVERPOST", std::slice::from_ref(&sample.path), &sample.syntax));
    }
    until("what can be converted is there, the rest is a dead letter", 60, || {
        receiver.kept().len() + usize::try_from(gateway.count("pacs", "dead_letter")).unwrap_or(0) == samples.len()
    });
    for sample in samples {
        let kept = receiver.folder().join(format!("CT.{}", sample.instance));
        if alternatives(&sample.syntax).is_empty() {
            assert!(!kept.exists(), "{} was decoded", sample.path.display());
        } else {
            let theirs = world.path("theirs.dcm");
            run(Command::new("dcmconv").arg("+ti").arg(&sample.path).arg(&theirs), 30);
            assert_eq!(shown(&kept), shown(&theirs), "{}", sample.path.display());
        }
    }
}

#[test]
fn send_and_echo_say_what_happened_by_exit_status() {
    let world = World::new("send-dicom");
    let mut receiver = Receiver::storescp(&world, "receiver", &["+xi"]);
    let url = format!("dicom://STORESCP@{}", receiver.address());
    let samples = synthetic::samples(&world, 72);
    let path = |part: &str| samples.iter().map(|s| s.path.clone()).find(|p| p.to_string_lossy().contains(part)).unwrap();
    let send = |files: &[PathBuf]| {
        let (status, out, err) = run_any(Command::new(program()).args(["send", "dicom", "--timeout", "5", "--to", &url]).args(files), 60);
        (status.code(), out + &err)
    };
    let echo = || run_any(Command::new(program()).args(["echo", &url]), 60).0.code();
    assert_eq!(echo(), Some(0));
    assert_eq!(send(&[path("-explicit"), path("implicit"), path("deflated")]).0, Some(0));
    assert_eq!(receiver.kept().len(), 3);
    let (status, text) = send(&[path("jpeg-ls"), path("big-endian")]);
    assert_eq!(status, Some(4), "{text}");
    assert!(text.contains("1.2.840.10008.1.2.4.80") && text.contains("1 of 2 stored"), "{text}");
    assert_eq!(send(&[world.write("no.dcm", "no DICOM file"), path("rle")]).0, Some(4));
    assert_eq!(send(&[world.path("missing.dcm")]).0, Some(1));
    receiver.process.freeze();
    assert_eq!(echo(), Some(5));
    receiver.process.kill();
    assert_eq!((send(&[path("rle")]).0, echo()), (Some(5), Some(5)));
}
