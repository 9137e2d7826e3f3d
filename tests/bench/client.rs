//! `libeverpost` inside a program: what `submit`, `send` and a streamed object cost beside a bare sync, a bare exchange, and nothing.
//! All through the C interface, as a C program calls it.

use crate::{ROUNDS, limits, median, quantile, row};
use everpost::{everpost_answer, everpost_client, everpost_config, everpost_error, everpost_object};
use std::ffi::{CStr, CString};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::ptr::null_mut;
use std::time::{Duration, Instant};

const TIME: Duration = Duration::from_secs(2);

/// Exchanges of one round.
const EXCHANGES: usize = 2_000;

/// The streamed object, in pieces of a mebibyte.
const OBJECT_MIB: usize = 1024;

/// What a call said must be nothing.
#[track_caller]
fn ok(code: everpost::everpost_code, error: *mut everpost_error) {
    // SAFETY: the text lives as long as the error, which nobody frees.
    let text = unsafe { CStr::from_ptr(everpost::everpost_error_text(error)) };
    assert!(code == everpost::everpost_code::EVERPOST_OK, "{code:?}: {text:?}");
}

struct Client(*mut everpost_client);

impl Client {
    fn open(folder: &Path, protocol: &str, to: SocketAddr) -> Client {
        let title = if protocol == "dicom" { "ae_title = 'PACS'" } else { "" };
        let text = format!(
            "data_dir = '{}'\n[spool]\nreserve = '1 MiB'\n[[destination]]\nname = 'to'\nprotocol = '{protocol}'\n[[destination.endpoint]]\nname = 'a'\n\
             address = '{to}'\n{title}\n",
            folder.display()
        );
        let (text, mut config, mut client, mut error) = (CString::new(text).unwrap(), null_mut::<everpost_config>(), null_mut(), null_mut());
        // SAFETY: every pointer is good for its call.
        unsafe {
            ok(everpost::everpost_config_new(&raw mut config), null_mut());
            let code = everpost::everpost_config_load_string(config, text.as_ptr(), &raw mut error);
            ok(code, error);
            let code = everpost::everpost_open(config, &raw mut client, &raw mut error);
            ok(code, error);
        }
        everpost::everpost_config_free(config);
        drop(std::panic::take_hook()); // linked into a program in Rust, the library has silenced that program too
        Client(client)
    }

    fn submit(&self, message: &[u8]) {
        let mut error = null_mut();
        // SAFETY: as above.
        let code =
            unsafe { everpost::everpost_submit_hl7(self.0, c"to".as_ptr(), message.as_ptr().cast(), message.len(), null_mut(), &raw mut error) };
        ok(code, error);
    }

    fn send(&self, message: &[u8]) {
        let (mut answer, mut error): (*mut everpost_answer, _) = (null_mut(), null_mut());
        // SAFETY: as above.
        let code = unsafe {
            everpost::everpost_send_hl7(self.0, c"to".as_ptr(), message.as_ptr().cast(), message.len(), 30_000, &raw mut answer, &raw mut error)
        };
        ok(code, error);
        everpost::everpost_answer_free(answer);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // SAFETY: no place for a result is given.
        unsafe { everpost::everpost_close(self.0, 0, null_mut()) };
    }
}

/// A receiver that answers AA at once, on each connection by a thread.
fn receiver() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for peer in listener.incoming() {
            let mut peer = peer.unwrap();
            std::thread::spawn(move || {
                peer.set_nodelay(true).unwrap();
                let mut kept = Vec::new();
                let mut bytes = [0; 8192];
                while let Ok(read @ 1..) = peer.read(&mut bytes) {
                    kept.extend_from_slice(&bytes[..read]);
                    if kept.ends_with(b"\x1c\r") {
                        let id = kept.split(|b| *b == b'|').nth(9).unwrap_or_default();
                        let answer = [b"\x0bMSH|^~\\&|A|B|C|D|||ACK|1|P|2.5\rMSA|AA|", id, b"\r\x1c\r"].concat();
                        if peer.write_all(&answer).is_err() {
                            return;
                        }
                        kept.clear();
                    }
                }
            });
        }
    });
    at
}

fn message(id: usize) -> Vec<u8> {
    let block = crate::hl7::message(id as u64);
    block[1..block.len() - 2].to_vec()
}

/// Submits per second of one thread.
fn submits(client: &Client) -> f64 {
    let (begun, mut done) = (Instant::now(), 0);
    while begun.elapsed() < TIME / 2 {
        client.submit(&message(done));
        done += 1;
    }
    done as f64 / begun.elapsed().as_secs_f64()
}

/// Microseconds of each exchange on a bare socket.
fn bare(to: SocketAddr) -> Vec<f64> {
    let mut peer = TcpStream::connect(to).unwrap();
    peer.set_nodelay(true).unwrap();
    let mut answer = [0; 4096];
    let one = |id| {
        let block = crate::hl7::message(id as u64);
        let begun = Instant::now();
        peer.write_all(&block).unwrap();
        let mut got = 0;
        while got < 2 || !answer[..got].ends_with(b"\x1c\r") {
            got += peer.read(&mut answer[got..]).unwrap();
        }
        begun.elapsed().as_secs_f64() * 1e6
    };
    (0..EXCHANGES).map(one).collect()
}

fn sends(client: &Client) -> Vec<f64> {
    let one = |id| {
        let message = message(id);
        let begun = Instant::now();
        client.send(&message);
        begun.elapsed().as_secs_f64() * 1e6
    };
    (0..EXCHANGES).map(one).collect()
}

/// A value of this process in MiB.
fn memory(field: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

fn stream(folder: &Path) {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let client = Client::open(&folder.join("client-stream"), "dicom", nobody);
    let (mut object, mut error): (*mut everpost_object, _) = (null_mut(), null_mut());
    let piece = vec![7u8; 1 << 20];
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let (before, begun) = (memory("VmRSS"), Instant::now());
    let (class, instance, syntax) = (c"1.2.840.10008.5.1.4.1.1.7", c"2.25.4711", c"1.2.840.10008.1.2.1");
    // SAFETY: every pointer is good for its call.
    unsafe {
        let (place, told) = (&raw mut object, &raw mut error);
        ok(everpost::everpost_object_begin(client.0, c"to".as_ptr(), class.as_ptr(), instance.as_ptr(), syntax.as_ptr(), place, told), error);
        for _ in 0..OBJECT_MIB {
            ok(everpost::everpost_object_write(object, piece.as_ptr().cast(), piece.len(), told), error);
        }
        ok(everpost::everpost_object_finish(object, null_mut(), told), error);
    }
    let took = begun.elapsed().as_secs_f64();
    println!(
        "  1 GiB streamed into the spool in {took:.1} s ({:.0} MiB/s): peak resident {:.1} MiB, {before:.1} before (wanted below 50)",
        OBJECT_MIB as f64 / took,
        memory("VmHWM")
    );
}

/// The rows.
pub fn run(folder: &Path) {
    // First, as what the others leave behind in memory is theirs.
    stream(folder);
    let to = receiver();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (mut syncs, mut alone, mut along) = (vec![], vec![], vec![]);
    let (away, there) = (Client::open(&folder.join("client-away"), "mllp", nobody), Client::open(&folder.join("client-there"), "mllp", to));
    std::thread::sleep(TIME); // the first segments are prepared: not a test, nothing depends on it
    for _ in 0..ROUNDS {
        syncs.push(1.0 / median(limits::syncs(folder, 2_048, TIME / 2)));
        alone.push(submits(&away));
        along.push(submits(&there));
    }
    let sync = median(syncs);
    row("submit of 2 kB, one thread, the receiver away", median(alone), "msg/s", "bare write + sync", sync, "at least 0.7");
    row("submit of 2 kB, one thread, delivered meanwhile", median(along), "msg/s", "bare write + sync", sync, "(no goal)");
    drop((away, there));
    let client = Client::open(&folder.join("client-send"), "mllp", to);
    client.send(&message(0));
    let (mut plain, mut ours, mut slow, mut slower) = (vec![], vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        let (mut bare, mut sent) = (bare(to), sends(&client));
        plain.push(quantile(&mut bare, 0.5));
        ours.push(quantile(&mut sent, 0.5));
        slow.push(quantile(&mut bare, 0.99));
        slower.push(quantile(&mut sent, 0.99));
    }
    let (plain, ours) = (median(plain), median(ours));
    println!("  send of 2 kB on loopback: {ours:.1} us, a bare exchange {plain:.1} us: {:+.1} us (wanted at most +60)", ours - plain);
    println!("  of a hundred the slowest: {:.1} us, bare {:.1} us", median(slower), median(slow));
}
