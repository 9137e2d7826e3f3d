//! Durable HL7: each connection waits for its answer.

use crate::gateway::Gateway;
use crate::{ROUNDS, limits, median, row};
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A 2 kB ORU with a control id.
pub fn message(id: u64) -> Vec<u8> {
    let mut text = format!(
        "\x0bMSH|^~\\&|LAB|SITE|EHR|SITE|20260101120000||ORU^R01|{id:012}|P|2.5\rPID|1||PAT{:06}^^^SITE||SYNTHETIC^TEST\rOBR|1|1|1|GLU\r",
        id % 997
    );
    let mut line = 0;
    while text.len() < 2_000 {
        line += 1;
        text.push_str(&format!("OBX|{line}|NM|GLU^Glucose||{}|mg/dl|70_110|N|||F\r", 80 + line));
    }
    text.push_str("\x1c\r");
    text.into_bytes()
}

/// Sends on `connections` for `time`, each waiting for its answer; returns messages per second and the latencies in seconds.
pub fn load(port: u16, connections: usize, time: Duration) -> (f64, Vec<f64>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async move {
        let begin = Instant::now();
        let tasks: Vec<_> = (0..connections)
            .map(|lane| {
                tokio::spawn(async move {
                    let mut peer = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    peer.set_nodelay(true).unwrap();
                    let (mut took, mut answer, mut block) = (Vec::new(), vec![0u8; 4096], message(0));
                    let place = block.windows(12).position(|w| w == b"000000000000").unwrap();
                    let mut id = lane as u64 * 1_000_000_000;
                    while begin.elapsed() < time {
                        id += 1;
                        block[place..place + 12].copy_from_slice(format!("{id:012}").as_bytes());
                        let start = Instant::now();
                        peer.write_all(&block).await.unwrap();
                        let mut got = 0;
                        loop {
                            let n = peer.read(&mut answer[got..]).await.unwrap();
                            assert!(n > 0, "closed before the answer");
                            got += n;
                            if answer[..got].ends_with(b"\x1c\r") {
                                break;
                            }
                        }
                        assert!(answer[..got].windows(7).any(|w| w == b"MSA|AA|"), "{}", String::from_utf8_lossy(&answer[..got]));
                        took.push(start.elapsed().as_secs_f64());
                    }
                    took
                })
            })
            .collect();
        let mut all = Vec::new();
        for task in tasks {
            all.extend(task.await.unwrap());
        }
        (all.len() as f64 / begin.elapsed().as_secs_f64(), all)
    })
}

/// Sends on one connection for `time`; returns messages per second. Plainly blocking, as the round trip it is measured against: what it would cost to
/// wake a runtime of ours is not the gateway's.
fn load_one(port: u16, time: Duration) -> f64 {
    let mut peer = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    peer.set_nodelay(true).unwrap();
    let (mut answer, mut block) = (vec![0u8; 4096], message(0));
    let place = block.windows(12).position(|w| w == b"000000000000").unwrap();
    let (begin, mut id) = (Instant::now(), 0u64);
    while begin.elapsed() < time {
        id += 1;
        block[place..place + 12].copy_from_slice(format!("{id:012}").as_bytes());
        peer.write_all(&block).unwrap();
        let mut got = 0;
        while !answer[..got].ends_with(b"\x1c\r") {
            let n = peer.read(&mut answer[got..]).unwrap();
            assert!(n > 0, "closed before the answer");
            got += n;
        }
        assert!(answer[..got].windows(7).any(|w| w == b"MSA|AA|"), "{}", String::from_utf8_lossy(&answer[..got]));
    }
    id as f64 / begin.elapsed().as_secs_f64()
}

/// The rows.
pub fn run(folder: &Path) {
    let mut rates = [const { Vec::new() }; 5];
    let trip = limits::round_trip();
    for round in 0..ROUNDS {
        let bare = 64.0 / median(limits::syncs(folder, 64 * 2_048, Duration::from_secs(1)));
        let lone = 1.0 / (median(limits::syncs(folder, 2_048, Duration::from_secs(1))) + trip);
        let durable = Gateway::start(&folder.join(format!("hl7-{round}")), 1, 1);
        let many = load(durable.mllp, 64, Duration::from_secs(3)).0;
        let one = load_one(durable.mllp, Duration::from_secs(2));
        drop(durable);
        // On a memory file system a sync does nothing: what is left is the listener, the route and the bookkeeping of the spool.
        let null = Gateway::start(&Path::new("/dev/shm").join(format!("everpost-bench-{}-{round}", std::process::id())), 1, 1);
        let idle = load(null.mllp, 64, Duration::from_secs(3)).0;
        drop(null);
        drop(std::fs::remove_dir_all(Path::new("/dev/shm").join(format!("everpost-bench-{}-{round}", std::process::id()))));
        drop(std::fs::remove_dir_all(folder.join(format!("hl7-{round}"))));
        for (sample, value) in rates.iter_mut().zip([bare, lone, many, one, idle]) {
            sample.push(value);
        }
    }
    let [bare, lone, many, one, idle] = rates.map(median);
    row("HL7 2 kB, 64 connections", many, "msg/s", "bare write + fdatasync of 64 x 2 kB", bare, "0.7 of the smaller");
    row("HL7 2 kB, 64 connections", many, "msg/s", "the same gateway on a memory file system", idle, "0.7 of the smaller");
    row("HL7 2 kB, 1 connection", one, "msg/s", "1 / (sync of 2 kB + loopback round trip)", lone, "0.7");
}
