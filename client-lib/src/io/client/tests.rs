//! The client against receivers on loopback, with a real spool.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use super::*;
use crate::hl7::ack::asks_silence;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a receiver does with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Accept,
    Refuse(&'static str),
    /// Reads, and says nothing.
    Freeze,
    /// Reads, and closes.
    Drop,
}

struct Peer {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
}

fn control_id(message: &str) -> String {
    message.split('|').nth(9).unwrap_or_default().to_owned()
}

impl Peer {
    fn start(act: Act) -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = Peer { address: listener.local_addr().unwrap(), heard: Arc::default(), connections: Arc::default() };
        let (heard, connections) = (peer.heard.clone(), peer.connections.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (heard, connections) = (heard.clone(), connections.clone());
                thread::spawn(move || serve(stream, act, &heard, &connections));
            }
        });
        peer
    }

    fn heard(&self) -> Vec<String> {
        lock(&self.heard).clone()
    }
}

fn serve(mut stream: TcpStream, act: Act, heard: &Mutex<Vec<String>>, connections: &AtomicUsize) {
    let (mut all, mut chunk, mut counted) = (Vec::new(), [0; 4096], false);
    while let Ok(read @ 1..) = stream.read(&mut chunk) {
        if !std::mem::replace(&mut counted, true) {
            connections.fetch_add(1, Ordering::Relaxed);
        }
        all.extend_from_slice(&chunk[..read]);
        while let Some(end) = all.windows(2).position(|two| two == [0x1c, 0x0d]) {
            let message = String::from_utf8_lossy(&all[1..end]).into_owned();
            all.drain(..end + 2);
            let id = control_id(&message);
            lock(heard).push(message);
            let code = match act {
                Act::Accept => "AA",
                Act::Refuse(code) => code,
                Act::Freeze => continue,
                Act::Drop => return,
            };
            let answer = format!("\u{b}MSH|^~\\&|R|R|S|S|20260101||ACK|1|P|2.5\rMSA|{code}|{id}\r\u{1c}\r");
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}

/// An address that refuses connections.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn settings(dir: &Path, endpoints: &[SocketAddr]) -> Settings {
    let mut settings = Settings::new();
    settings.set_data_dir(dir);
    settings.set("spool", "reserve", "\"1 MiB\"").unwrap();
    settings.set("spool", "segment_size", "\"1 MiB\"").unwrap();
    settings.add_destination("ris", "mllp").unwrap();
    for (place, address) in endpoints.iter().enumerate() {
        settings.add_endpoint("ris", &format!("e{place}"), &address.to_string(), None).unwrap();
    }
    settings.set("ris", "retry", "{ first = \"10ms\", max = \"50ms\" }").unwrap();
    settings
}

fn message(id: u32) -> Vec<u8> {
    format!("MSH|^~\\&|S|S|R|R|20260101||ORU^R01|{id}|P|2.5\rPID|1||4711\r").into_bytes()
}

const LONG: Duration = Duration::from_secs(30);

/// Waits for the outcome of a message.
fn outcome(client: &Client, id: EnvelopeId) -> Report {
    loop {
        let report = client.poll(LONG).unwrap().expect("a report in time");
        if report.envelope() == Some(id) && report.kind.is_outcome() {
            return report;
        }
    }
}

#[test]
fn what_is_submitted_arrives_in_order_and_is_reported() {
    assert!(!asks_silence(b"AL|AL"));
    let (dir, peer) = (tempfile::tempdir().unwrap(), Peer::start(Act::Accept));
    let client = Client::open(&settings(dir.path(), &[peer.address])).unwrap();
    let ids: Vec<EnvelopeId> = (0..20).map(|n| client.submit_hl7("ris", &message(n)).unwrap()).collect();
    assert!(ids.is_sorted());
    client.flush(LONG).unwrap();
    let mut told = Vec::new();
    while let Some(report) = client.poll(Duration::ZERO).unwrap() {
        told.extend(report.envelope().filter(|_| report.kind == ReportKind::Delivered));
    }
    assert_eq!(told, ids);
    let heard: Vec<String> = peer.heard().iter().map(|m| control_id(m)).collect();
    assert_eq!(heard, (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(client.outcome(ids[3]).unwrap().kind, ReportKind::Delivered);
    assert!(matches!(client.outcome(EnvelopeId(987_654)), Err(ClientError::Unknown(987_654))));
    assert_eq!(client.status().unwrap().destinations[0].ready, 0);
    assert_eq!(client.close(LONG).unwrap(), 0);
    assert!(matches!(client.submit_hl7("ris", &message(1)), Err(ClientError::Closed)));
    assert!(matches!(client.close(LONG), Err(ClientError::Closed)));
}

#[test]
fn what_was_not_delivered_waits_for_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::open(&settings(dir.path(), &[nobody()])).unwrap();
    assert!(matches!(Client::open(&settings(dir.path(), &[nobody()])), Err(ClientError::InUse(_))));
    for n in 0..5 {
        client.submit_hl7("ris", &message(n)).unwrap();
    }
    assert!(matches!(client.flush(Duration::from_millis(50)), Err(ClientError::TimedOut(5))));
    assert_eq!(client.close(Duration::from_millis(50)).unwrap(), 5);
    let peer = Peer::start(Act::Accept);
    let client = Client::open(&settings(dir.path(), &[peer.address])).unwrap();
    client.flush(LONG).unwrap();
    assert_eq!(peer.heard().len(), 5);
}

#[test]
fn a_refused_message_is_reported_with_its_reason() {
    let (dir, peer) = (tempfile::tempdir().unwrap(), Peer::start(Act::Refuse("AE")));
    let client = Client::open(&settings(dir.path(), &[peer.address])).unwrap();
    let id = client.submit_hl7("ris", &message(1)).unwrap();
    let report = outcome(&client, id);
    assert_eq!((report.kind, &*report.destination, &*report.endpoint), (ReportKind::DeadLetter, "ris", "e0"));
    assert!(report.text.contains("AE"), "{}", report.text);
    assert_eq!(client.outcome(id).unwrap().kind, ReportKind::DeadLetter);
}

#[test]
fn send_returns_the_answer_on_a_kept_connection() {
    let (dir, peer) = (tempfile::tempdir().unwrap(), Peer::start(Act::Accept));
    let client = Client::open(&settings(dir.path(), &[peer.address])).unwrap();
    for n in 0..5 {
        let answer = client.send_hl7("ris", &message(n), LONG).unwrap();
        assert_eq!((&*answer.endpoint, answer.status), ("e0", 0));
        assert!(String::from_utf8_lossy(&answer.bytes).contains(&format!("MSA|AA|{n}")));
    }
    assert_eq!(peer.connections.load(Ordering::Relaxed), 1);
    assert_eq!(client.status().unwrap().destinations[0].ready, 0);
}

#[test]
fn not_sent_and_unanswered_and_refused_are_told_apart() {
    let within = Duration::from_millis(400);
    let met = |act: Option<Act>| {
        let dir = tempfile::tempdir().unwrap();
        let address = act.map_or_else(nobody, |act| Peer::start(act).address);
        let client = Client::open(&settings(dir.path(), &[address])).unwrap();
        client.send_hl7("ris", &message(1), within).unwrap_err()
    };
    let not_sent = met(None);
    assert!(matches!(not_sent, ClientError::NotSent(_)) && not_sent.is_retriable(), "{not_sent}");
    for act in [Act::Freeze, Act::Drop] {
        let unanswered = met(Some(act));
        assert!(matches!(unanswered, ClientError::Unanswered(_)) && !unanswered.is_retriable(), "{unanswered}");
        assert_eq!(unanswered.failure().unwrap().phase, crate::delivery::Phase::Answer);
    }
    for (code, status) in [("AE", 0x4145), ("AR", 0x4152)] {
        match met(Some(Act::Refuse(code))) {
            ClientError::Negative(answer, failure) => assert_eq!((answer.status, &*failure.endpoint), (status, "e0")),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn send_goes_to_the_next_endpoint_within_its_time() {
    for act in [None, Some(Act::Freeze), Some(Act::Drop), Some(Act::Refuse("AR"))] {
        let (dir, second) = (tempfile::tempdir().unwrap(), Peer::start(Act::Accept));
        let first = act.map_or_else(nobody, |act| Peer::start(act).address);
        let client = Client::open(&settings(dir.path(), &[first, second.address])).unwrap();
        let begun = Instant::now();
        let answer = client.send_hl7("ris", &message(1), Duration::from_secs(4)).unwrap();
        assert_eq!(&*answer.endpoint, "e1", "{act:?}");
        assert!(begun.elapsed() < Duration::from_secs(4), "{act:?}");
    }
}

#[test]
fn hold_sends_nowhere_else_what_may_have_arrived() {
    let (dir, second) = (tempfile::tempdir().unwrap(), Peer::start(Act::Accept));
    let mut settings = settings(dir.path(), &[Peer::start(Act::Drop).address, second.address]);
    settings.set("ris", "ambiguous", "\"hold\"").unwrap();
    let client = Client::open(&settings).unwrap();
    assert!(matches!(client.send_hl7("ris", &message(1), LONG), Err(ClientError::Unanswered(_))));
    assert!(second.heard().is_empty());
}

#[test]
fn what_cannot_be_sent_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::open(&settings(dir.path(), &[nobody()])).unwrap();
    for wrong in [&b""[..], b"PID|1\r", b"MSH|^~\\&|S|S|R|R|20260101||ORU^R01|1|P|2.5\r\x1c\rmore"] {
        assert!(matches!(client.submit_hl7("ris", wrong), Err(ClientError::Content(_))), "{wrong:?}");
        assert!(matches!(client.send_hl7("ris", wrong, LONG), Err(ClientError::Content(_))), "{wrong:?}");
    }
    assert!(matches!(client.submit_hl7("pacs", &message(1)), Err(ClientError::Destination(_))));
    assert!(matches!(client.submit_dicom("ris", b"x"), Err(ClientError::Destination(_))));
    assert!(matches!(client.begin("ris", "1.2", "1.3", "1.2.840.10008.1.2"), Err(ClientError::Destination(_))));
}

#[test]
fn a_small_stack_and_an_async_caller_are_served() {
    let (dir, peer) = (tempfile::tempdir().unwrap(), Peer::start(Act::Accept));
    let settings = settings(dir.path(), &[peer.address]);
    let small = thread::Builder::new().stack_size(128 << 10).spawn(move || {
        let client = Client::open(&settings).unwrap();
        client.submit_hl7("ris", &message(1)).unwrap();
        assert_eq!(client.send_hl7("ris", &message(2), LONG).unwrap().status, 0);
        client.flush(LONG).unwrap();
        client
    });
    let client = small.unwrap().join().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        assert_eq!(client.send_hl7("ris", &message(3), LONG).unwrap().status, 0);
    });
    assert_eq!(client.close(LONG).unwrap(), 0);
}

#[test]
fn reports_can_be_called_back() {
    let (dir, peer) = (tempfile::tempdir().unwrap(), Peer::start(Act::Accept));
    let (tell, hear) = std::sync::mpsc::channel();
    let call = move |report: Report| {
        let _ = tell.send((report.kind, report.id));
    };
    let client = Client::open_with(&settings(dir.path(), &[peer.address]), Some(Box::new(call)), None).unwrap();
    let id = client.submit_hl7("ris", &message(1)).unwrap();
    let found = hear.iter().find(|(kind, _)| kind.is_outcome()).unwrap();
    assert_eq!(found, (ReportKind::Delivered, id.0));
    drop(client);
    assert!(hear.recv().is_err(), "the thread has ended");
}

#[test]
fn the_number_of_threads_is_bounded() {
    // Threads of a client are named; other tests of this process have some too, so one is counted alone, by what it adds at most.
    let (dir, peer) = (tempfile::tempdir().unwrap(), Peer::start(Act::Accept));
    let client = Client::open(&settings(dir.path(), &[peer.address])).unwrap();
    client.submit_hl7("ris", &message(1)).unwrap();
    client.flush(LONG).unwrap();
    let names = std::fs::read_dir("/proc/self/task").unwrap().flatten().filter_map(|t| std::fs::read_to_string(t.path().join("comm")).ok());
    let names: Vec<String> = names.collect();
    for name in ["everpost-net", "everpost-spool"] {
        assert!(names.iter().any(|n| n.trim() == name), "{name} in {names:?}");
    }
}

#[test]
fn an_object_is_written_piece_by_piece_and_close_takes_it_away() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path(), &[nobody()]);
    settings.add_destination("pacs", "dicom").unwrap();
    settings.add_endpoint("pacs", "a", &nobody().to_string(), Some("PACS")).unwrap();
    let client = Client::open(&settings).unwrap();
    let begin = || client.begin("pacs", "1.2.840.10008.5.1.4.1.1.7", "1.2.3", "1.2.840.10008.1.2.1").unwrap();
    let object = begin();
    for _ in 0..10 {
        object.write(&[0; 100_000]).unwrap();
    }
    let id = object.finish().unwrap();
    assert!(matches!(object.finish(), Err(ClientError::Closed)));
    assert_eq!(client.outcome(id).unwrap().kind, ReportKind::Waiting);
    let empty = begin();
    assert!(matches!(empty.finish(), Err(ClientError::Content(_))));
    let open = begin();
    open.write(b"1234").unwrap();
    assert!(matches!(client.begin("pacs", "x", "1.2.3", "1.2"), Err(ClientError::Content(_))));
    assert_eq!(client.close(Duration::ZERO).unwrap(), 1);
    assert!(matches!(open.write(b"1234"), Err(ClientError::Closed)));
    let again = Client::open(&settings).unwrap();
    assert_eq!(again.close(Duration::ZERO).unwrap(), 1);
}
