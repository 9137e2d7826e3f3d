//! The courier of an MLLP destination, with a real spool and a receiver on loopback.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::config::destination::read_client;
use crate::config::read::Reading;
use crate::io::courier::Met;
use crate::io::disk::Directory;
use crate::keys::Keys;
use crate::mllp::{self, Decoded, Decoder};
use crate::spool::{Addressee, Content, Draft, Envelope, Lane};
use bytes::BytesMut;
use std::collections::HashMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A receiver that answers AA, and counts what came on which connection.
#[derive(Debug, Clone, Default)]
struct Seen(Arc<Mutex<HashMap<usize, Vec<Vec<u8>>>>>);

impl Seen {
    async fn listen(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, seen) = (listener.local_addr().unwrap(), self.clone());
        tokio::spawn(async move {
            for number in 0.. {
                let (mut tcp, _) = listener.accept().await.unwrap();
                let seen = seen.clone();
                tokio::spawn(async move {
                    let (mut decoder, mut buffer) = (Decoder::whole(64 << 20), BytesMut::new());
                    loop {
                        while let Some(Decoded::Block(block)) = decoder.decode(&mut buffer) {
                            let id = Message::read(&block).unwrap().heads().control_id().to_vec();
                            locked(&seen.0).entry(number).or_default().push(block.to_vec());
                            let mut out = Vec::new();
                            mllp::encode(format!("MSH|^~\\&|\rMSA|AA|{}\r", String::from_utf8_lossy(&id)).as_bytes(), &mut out);
                            tcp.write_all(&out).await.unwrap();
                        }
                        if tcp.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                            return;
                        }
                    }
                });
            }
        });
        address
    }

    fn connections(&self) -> usize {
        locked(&self.0).len()
    }

    fn messages(&self) -> Vec<Vec<u8>> {
        locked(&self.0).values().flatten().cloned().collect()
    }
}

struct Bench {
    _folder: tempfile::TempDir,
    spool: Arc<Spool>,
    courier: MllpCourier,
}

impl Bench {
    fn new(address: SocketAddr, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = crate::config::SpoolSettings { reserve: 1 << 20, segment_size: 4 << 20, ..Default::default() };
        let (spool, _) = Spool::open(Directory::open(folder.path()).unwrap(), settings, Events::none()).unwrap();
        let spool = Arc::new(spool);
        let text = format!(
            "[[destination]]\nname = \"ris\"\nprotocol = \"mllp\"\nordering = \"none\"\n{more}\n[[destination.endpoint]]\nname = \"a\"\naddress = \"{address}\"\n"
        );
        let read = read_client(Reading::new(&text, folder.path(), &|_| None)).unwrap();
        let destination = read.destinations[0].clone();
        let courier = MllpCourier::new(destination, vec![None], spool.clone(), Events::none(), &resolver());
        Self { _folder: folder, spool, courier }
    }

    fn envelope(&self, id: &str, size: usize) -> Envelope {
        let mut content = format!("MSH|^~\\&|A|B|C|D|||ADT^A01|{id}|P|2.5\rOBX|").into_bytes();
        content.resize(content.len() + size, b'x');
        let mut keys = Keys::new();
        keys.set(Key::ControlId, id.as_bytes());
        let destination = self.spool.destination("ris").unwrap();
        let addressees = vec![Addressee { destination, lane: Lane::Own, stat: false }];
        let draft = Draft { keys, content: Content::Whole(content.into()), accepted_at: 0, addressees, fingerprint: None };
        let receipt = self.spool.commit(draft).unwrap();
        let envelope = self.spool.take(destination).unwrap().unwrap();
        assert_eq!(envelope.message, receipt.message());
        envelope
    }

    async fn attempt(&self, envelope: Envelope, fresh: bool) -> Outcome {
        self.courier.attempt(Order { envelope, endpoint: EndpointId(0), fresh, ask: false, met: Met::default() }).await
    }
}

const AA: Outcome = Outcome::Acknowledged { code: AckCode::AA, error: None };

#[tokio::test]
async fn a_connection_serves_one_message_after_the_other() {
    let seen = Seen::default();
    let bench = Bench::new(seen.listen().await, "");
    for n in 0..5 {
        assert_eq!(bench.attempt(bench.envelope(&format!("M{n}"), 10), false).await, AA);
    }
    assert_eq!((seen.connections(), seen.messages().len()), (1, 5));
    assert_eq!(bench.courier.connected(EndpointId(0)).len(), 1);
    assert_eq!(bench.attempt(bench.envelope("F", 10), true).await, AA);
    assert_eq!(seen.connections(), 2, "fresh is fresh");
    bench.courier.drain(EndpointId(0));
    assert!(bench.courier.connected(EndpointId(0)).is_empty());
    assert_eq!(bench.attempt(bench.envelope("D", 10), false).await, AA);
    assert_eq!(seen.connections(), 3);
}

#[tokio::test]
async fn parallel_attempts_have_connections_of_their_own_and_few_are_kept() {
    let seen = Seen::default();
    let bench = Bench::new(seen.listen().await, "associations = 2");
    let attempts: Vec<_> = (0..6)
        .map(|n| {
            bench.courier.attempt(Order {
                envelope: bench.envelope(&format!("P{n}"), 10),
                endpoint: EndpointId(0),
                fresh: false,
                ask: false,
                met: Met::default(),
            })
        })
        .collect();
    let running: Vec<_> = attempts.into_iter().map(tokio::spawn).collect();
    for attempt in running {
        assert_eq!(attempt.await.unwrap(), AA);
    }
    assert_eq!(seen.messages().len(), 6);
    assert!(bench.courier.connected(EndpointId(0)).len() <= 2);
}

#[tokio::test]
async fn large_content_is_streamed_byte_for_byte() {
    let seen = Seen::default();
    let bench = Bench::new(seen.listen().await, "");
    let envelope = bench.envelope("L", 3 << 20);
    assert_eq!(bench.attempt(envelope, false).await, AA);
    let received = seen.messages();
    assert_eq!(received[0].len() as u64, (3 << 20) + "MSH|^~\\&|A|B|C|D|||ADT^A01|L|P|2.5\rOBX|".len() as u64);
    assert!(received[0].ends_with(&[b'x'; 3 << 20]));
}

#[tokio::test]
async fn an_idle_connection_is_released() {
    let seen = Seen::default();
    let bench = Bench::new(seen.listen().await, "idle_release = \"100ms\"");
    assert_eq!(bench.attempt(bench.envelope("I", 10), false).await, AA);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !bench.courier.connected(EndpointId(0)).is_empty() {
        assert!(Instant::now() < deadline, "still connected");
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.attempt(bench.envelope("J", 10), false).await, AA);
    assert_eq!(seen.connections(), 2);
}

#[tokio::test]
async fn probes_ask_what_they_are_told_to_ask() {
    let seen = Seen::default();
    let address = seen.listen().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("probe.hl7");
    std::fs::write(&file, "MSH|^~\\&|A|B|C|D|||ADT^A01|PROBE|T|2.5\nPID|1\n").unwrap();
    let bench = Bench::new(address, &format!("health = {{ probe = \"mllp\", message = '{}' }}", file.display()));
    assert_eq!(bench.courier.probe(EndpointId(0), false).await.map(drop), Ok(()));
    assert_eq!(seen.messages(), [b"MSH|^~\\&|A|B|C|D|||ADT^A01|PROBE|T|2.5\rPID|1\r"]);
    let bench = Bench::new(address, "");
    assert_eq!(bench.courier.probe(EndpointId(0), false).await.map(drop), Ok(()));
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let bench = Bench::new(closed, "");
    assert_eq!(bench.courier.probe(EndpointId(0), false).await.unwrap_err().phase, Phase::Connect);
    assert!(matches!(bench.attempt(bench.envelope("X", 1), false).await, Outcome::NotSent { phase: Phase::Connect, stale: false, .. }));
}

#[test]
fn files_of_editors_are_made_ready() {
    assert_eq!(from_file(b"MSH|a\nPID|b\n".to_vec()), b"MSH|a\rPID|b\r");
    assert_eq!(from_file(b"MSH|a\rOBX|l1\nl2\r".to_vec()), b"MSH|a\rOBX|l1\nl2\r");
    assert_eq!(from_file(b"\x0bMSH|a\rPID|b\r\x1c\r\n".to_vec()), b"MSH|a\rPID|b\r");
}

fn resolver() -> Resolver {
    Resolver::new(&crate::config::Names::default(), Events::none(), crate::io::stop::Stop::new().1).unwrap()
}
