//! What the disk and the loopback can do, measured the plainest way.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

fn datasync(file: &File) {
    // SAFETY: the descriptor is open for the life of `file`.
    assert_eq!(unsafe { libc::fdatasync(file.as_raw_fd()) }, 0, "fdatasync: {}", std::io::Error::last_os_error());
}

fn zeroed(path: &Path, size: u64) -> File {
    let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(path).unwrap();
    let block = vec![0u8; 1 << 20];
    for at in (0..size).step_by(block.len()) {
        file.write_all_at(&block, at).unwrap();
    }
    file.sync_all().unwrap();
    file
}

/// Rounds of write + fdatasync of `bytes` into a zeroed file, for about `time`. Returns seconds of each.
pub fn syncs(folder: &Path, bytes: usize, time: Duration) -> Vec<f64> {
    let file = zeroed(&folder.join("bare"), 64 << 20);
    let block = vec![7u8; bytes];
    let (begin, mut at, mut took) = (Instant::now(), 0u64, Vec::new());
    while begin.elapsed() < time {
        let start = Instant::now();
        file.write_all_at(&block, at).unwrap();
        datasync(&file);
        took.push(start.elapsed().as_secs_f64());
        at = (at + bytes.next_multiple_of(4096) as u64) % ((64 << 20) - (1 << 20));
    }
    std::fs::remove_file(folder.join("bare")).unwrap();
    took
}

/// Images per second of a bare loop that writes `count` images into preallocated files of 64 MiB and syncs every 8.
pub fn image_loop(folder: &Path, image: &[u8], count: usize) -> f64 {
    let begin = Instant::now();
    let mut written = 0;
    let (mut file, mut at, mut number) = (None::<File>, 0u64, 0);
    while written < count {
        let out = file.get_or_insert_with(|| {
            number += 1;
            let file = File::create(folder.join(format!("bare-{number}"))).unwrap();
            // SAFETY: the descriptor is open.
            unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, 64 << 20) };
            file
        });
        out.write_all_at(image, at).unwrap();
        at += image.len() as u64;
        written += 1;
        if written % 8 == 0 {
            datasync(out);
        }
        if at + image.len() as u64 > 64 << 20 {
            datasync(out);
            (file, at) = (None, 0);
        }
    }
    if let Some(file) = file {
        datasync(&file);
    }
    let rate = count as f64 / begin.elapsed().as_secs_f64();
    for n in 1..=number {
        std::fs::remove_file(folder.join(format!("bare-{n}"))).unwrap();
    }
    rate
}

/// Median round trip of one byte over loopback, in seconds.
pub fn round_trip() -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let echo = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        peer.set_nodelay(true).unwrap();
        let mut byte = [0];
        while peer.read(&mut byte).unwrap() == 1 {
            peer.write_all(&byte).unwrap();
        }
    });
    let mut peer = TcpStream::connect(address).unwrap();
    peer.set_nodelay(true).unwrap();
    let mut took = Vec::new();
    for _ in 0..5_000 {
        let start = Instant::now();
        peer.write_all(&[1]).unwrap();
        peer.read_exact(&mut [0]).unwrap();
        took.push(start.elapsed().as_secs_f64());
    }
    drop(peer);
    echo.join().unwrap();
    crate::median(took)
}
