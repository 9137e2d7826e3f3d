//! A console in Rust: submits an HL7 message and an image that it writes piece by piece, shows what becomes of both, then asks the receiver something
//! itself.
//!
//! ```sh
//! cargo run -p everpost-client --example console -- SPOOL-FOLDER HL7-HOST:PORT DICOM-HOST:PORT AE-TITLE
//! ```
#![allow(clippy::print_stdout, reason = "it is a program for people")]

use everpost_client::io::client::{Client, ClientError, Settings};
use std::time::Duration;

const CLASS: &str = "1.2.840.10008.5.1.4.1.1.7";
const INSTANCE: &str = "2.25.4711";

/// One element in explicit VR little endian.
fn element(group: u16, number: u16, vr: &str, value: &str) -> Vec<u8> {
    let mut value = value.as_bytes().to_vec();
    if value.len() % 2 == 1 {
        value.push(if vr == "UI" { 0 } else { b' ' });
    }
    let length = u16::try_from(value.len()).unwrap_or_default();
    [&group.to_le_bytes()[..], &number.to_le_bytes(), vr.as_bytes(), &length.to_le_bytes(), &value].concat()
}

fn run(folder: &str, hl7: &str, dicom: &str, title: &str) -> Result<(), ClientError> {
    let mut settings = Settings::new();
    settings.set_data_dir(folder);
    settings.add_destination("ris", "mllp")?;
    settings.add_endpoint("ris", "primary", hl7, None)?;
    settings.add_destination("pacs", "dicom")?;
    settings.add_endpoint("pacs", "primary", dicom, Some(title))?;
    let client = Client::open(&settings)?;

    let result = client.submit_hl7("ris", b"MSH|^~\\&|CT|ROOM1|RIS|HOSP|20260101||ORU^R01|4711|P|2.5\r")?;
    let object = client.begin("pacs", CLASS, INSTANCE, "1.2.840.10008.1.2.1")?;
    object.write(&element(0x0008, 0x0016, "UI", CLASS))?;
    object.write(&element(0x0008, 0x0018, "UI", INSTANCE))?;
    object.write(&element(0x0010, 0x0020, "LO", "TEST"))?;
    let image = object.finish()?;
    println!("{result} and {image} are safe on disk");

    let mut waiting = vec![result.0, image.0];
    while !waiting.is_empty() {
        let Some(report) = client.poll(Duration::from_secs(30))? else { break };
        println!("{} {} {}: {}", report.id, report.destination, report.kind.name(), report.text);
        waiting.retain(|id| !(report.kind.is_outcome() && *id == report.id));
    }
    match client.send_hl7("ris", b"MSH|^~\\&|CT|ROOM1|RIS|HOSP|20260101||QBP^Q11|4712|P|2.5\r", Duration::from_secs(10)) {
        Ok(answer) => println!("{} answered {} bytes", answer.endpoint, answer.bytes.len()),
        Err(ClientError::Negative(answer, why)) => println!("{} refused: {}", answer.endpoint, why.what),
        Err(other) => println!("{other}"),
    }
    println!("{} wait for the next start", client.close(Duration::from_secs(2))?);
    Ok(())
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, hl7, dicom, title] = &arguments[..] else {
        println!("usage: console SPOOL-FOLDER HL7-HOST:PORT DICOM-HOST:PORT AE-TITLE");
        std::process::exit(2);
    };
    if let Err(error) = run(folder, hl7, dicom, title) {
        println!("{error}");
        std::process::exit(1);
    }
}
