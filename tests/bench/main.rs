//! The bench of the built gateway: `tests/bench/run [NAME ...]` prints ratios measured in one run, medians of five.
//! Rules: a figure never stands alone: beside it stands what the same disk, the same loopback or the peer reached in the same run; absolute figures
//! of a shared machine drift, ratios hold. Nothing here asserts: timing never decides a test.
//! Errors: a peer that is not installed is named with the command that installs it, and its rows say "not measured".

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints, and stops at the first surprise")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "it measures real processes, disks and sockets")]

mod client;
mod dicom;
mod failover;
mod gateway;
mod growth;
mod hl7;
mod limits;
mod probes;
mod spool;

use std::time::Duration;

/// Rounds of each measurement; the median is quoted.
pub const ROUNDS: usize = 5;

/// The median of a sample.
pub fn median(mut sample: Vec<f64>) -> f64 {
    sample.sort_by(f64::total_cmp);
    sample[sample.len() / 2]
}

/// The value below which `share` of a sample lies.
pub fn quantile(sample: &mut [f64], share: f64) -> f64 {
    sample.sort_by(f64::total_cmp);
    sample[((sample.len() - 1) as f64 * share) as usize]
}

/// One row: what, reached, against, ratio, wanted.
pub fn row(what: &str, reached: f64, unit: &str, against: &str, other: f64, wanted: &str) {
    println!("{what:<58} {reached:>10.1} {unit:<8} {:>6.2} x {against} ({other:.1}); wanted {wanted}", reached / other);
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let run = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    let folder = tempfile::Builder::new().prefix("everpost-bench").tempdir_in(std::env::var("BENCH_DIR").unwrap_or_else(|_| ".".into())).unwrap();
    println!("medians of {ROUNDS}; folder on the disk measured: {}", folder.path().parent().unwrap().display());
    for (name, measure) in [
        ("hl7", hl7::run as fn(&std::path::Path)),
        ("dicom", dicom::run),
        ("beside", dicom::beside),
        ("nagle", dicom::nagle),
        ("forward", dicom::forward),
        ("growth", growth::run),
        ("spool", spool::run),
        ("probes", probes::run),
        ("client", client::run),
        ("failover", failover::run),
    ] {
        if run(name) {
            println!("\n== {name}");
            measure(folder.path());
            std::thread::sleep(Duration::from_secs(1)); // lets the disk settle between measurements: not a test, nothing depends on it
        }
    }
}
