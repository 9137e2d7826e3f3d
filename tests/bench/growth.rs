//! A backlog of a million envelopes: intake, start, memory.

use crate::gateway::Gateway;
use crate::{ROUNDS, hl7, median, row};
use std::path::Path;
use std::time::Duration;

/// The rows. `BENCH_BACKLOG` envelopes (default 1,000,000) of 2 kB wait.
pub fn run(folder: &Path) {
    let backlog: f64 = std::env::var("BENCH_BACKLOG").ok().and_then(|v| v.parse().ok()).unwrap_or(1e6);
    let data = folder.join("growth");
    let mut gateway = Gateway::start(&data, 1, 1);
    println!(
        "  empty spool: ready after {:.0} ms (wanted below 100), resident idle {:.1} MiB (wanted below 30)",
        gateway.ready_after * 1e3,
        gateway.resident()
    );
    let before = median((0..ROUNDS).map(|_| hl7::load(gateway.mllp, 64, Duration::from_secs(2)).0).collect());
    while gateway.metric("everpost_messages_accepted_total") < backlog {
        hl7::load(gateway.mllp, 64, Duration::from_secs(5));
    }
    let after = median((0..ROUNDS).map(|_| hl7::load(gateway.mllp, 64, Duration::from_secs(2)).0).collect());
    row("HL7 intake with the backlog waiting", after, "msg/s", "with none", before, "at least 0.95");
    println!("  resident with {:.0} waiting: {:.1} MiB", gateway.metric("everpost_messages_accepted_total"), gateway.resident());
    let mut starts = Vec::new();
    for _ in 0..ROUNDS {
        gateway = gateway.restart();
        starts.push(gateway.ready_after);
    }
    println!("  after kill -9 with them: ready after {:.2} s (wanted below 5), resident {:.1} MiB", median(starts), gateway.resident());
}
