//! The test harness: gateways as processes, real peers (DCMTK, Orthanc, GDCM, dicom-rs, pynetdicom, python-hl7, hl7apy, node-hl7, BIND 9), scripted peers written
//! here from the standards alone (so that they share no mistake with the product), file systems that can lose power, networks that swallow packets.
//! Rules: no sleeping for luck: every wait is for a condition and has a deadline; every process started here ends with its test; a test that cannot
//! run on this machine (mounting needs root) says so in a file that `tests/run` prints, and nowhere is anything skipped silently.
//! Errors: panics with what was awaited, and with the logs of the processes of the test.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods, clippy::disallowed_types)]

pub mod config;
pub mod dicom;
pub mod dicom_scp;
pub mod dns;
pub mod faulty_disk;
pub mod front;
pub mod gateway;
pub mod http;
pub mod load;
pub mod loopfs;
pub mod mllp;
pub mod netns;
pub mod peers;
pub mod pki;
pub mod process;
pub mod synthetic;
pub mod wire;
pub mod world;

pub use gateway::Gateway;
pub use world::{World, get, not_run, until};

/// SHA-256 as hexadecimal text.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        use std::fmt::Write;
        let _ = write!(text, "{byte:02x}");
        text
    })
}
