//! The conversation on an in-memory wire, with a real spool in a temporary folder.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::config::Config;
use crate::route::Routes;
use everpost_client::event::Event;
use everpost_client::event::Events;
use everpost_client::hl7::ack::Acknowledgement;
use everpost_client::ids::DestinationId;
use everpost_client::io::committer::Committer;
use everpost_client::io::disk::Directory;
use everpost_client::io::stop::Stopper;
use everpost_client::spool::Envelope;
use std::sync::Mutex;
use tokio::io::{DuplexStream, duplex};
use tokio::task::JoinHandle;

const CONFIG: &str = r#"
name = "test"
data_dir = "data"
[spool]
reserve = "1 MiB"
segment_size = "4 MiB"
[[listener]]
name = "in"
protocol = "mllp"
bind = "127.0.0.1:2575"
max_message = "8 MiB"
idle_timeout = "1s"
[[destination]]
name = "ris"
protocol = "mllp"
  [[destination.endpoint]]
  name = "a"
  address = "127.0.0.1:9"
[[route]]
to = ["ris"]
when = { message_type = ["ADT^*", "ORU^R01"] }
"#;

/// A gateway without network: spool, way in, one listener.
struct Bench {
    _folder: tempfile::TempDir,
    spool: Arc<Spool>,
    destination: DestinationId,
    committer: Committer,
    intake: Arc<Intake>,
    listener: Arc<Listener>,
    notices: Arc<Mutex<Vec<String>>>,
    refusals: Arc<Mutex<Vec<Refusal>>>,
    garbage: Arc<AtomicU64>,
    stopper: Stopper,
    stop: Stop,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("everpost.toml");
        std::fs::write(&file, CONFIG).unwrap();
        let config = Config::load(&file).unwrap();
        let (notices, refusals) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<Mutex<Vec<Refusal>>>::default());
        let garbage = Arc::<AtomicU64>::default();
        let (seen, refused, dropped) = (notices.clone(), refusals.clone(), garbage.clone());
        let events = Events::to(move |event| match event {
            Event::ListenerNotice { what, .. } => seen.lock().unwrap().push(what),
            Event::Garbage { bytes, .. } => drop(dropped.fetch_add(bytes, Ordering::Relaxed)),
            Event::Refused { reason, .. } => refused.lock().unwrap().push(reason),
            _ => {}
        });
        let data = folder.path().join("spool");
        std::fs::create_dir(&data).unwrap();
        let (spool, _) = Spool::open(Directory::open(&data).unwrap(), config.spool.clone(), Events::none()).unwrap();
        let spool = Arc::new(spool);
        let destination = spool.destination("ris").unwrap();
        let committer = Committer::start(spool.clone()).unwrap();
        let routes = Routes::new(config.routes.clone(), vec![(config.destinations[0].clone(), destination)]);
        let intake = Intake::new(committer.clone(), routes, events);
        let (stopper, stop) = Stop::new();
        let listener = config.listeners[0].clone();
        Self { _folder: folder, spool, destination, committer, intake, listener, notices, refusals, garbage, stopper, stop }
    }

    fn connect(&self) -> (Peer, JoinHandle<()>) {
        let (ours, mut theirs) = duplex(16 << 10);
        let conversation = Conversation::new(self.listener.clone(), self.intake.clone(), ([10, 0, 0, 9], 4711).into(), true);
        let stop = self.stop.clone();
        let task = tokio::spawn(async move { conversation.run(&mut theirs, |_| (), &stop).await });
        (Peer { wire: ours, decoder: Decoder::whole(1 << 20), buffer: BytesMut::new() }, task)
    }

    /// Everything that waits, in order, with its content.
    fn taken(&self) -> Vec<(Envelope, Vec<u8>)> {
        let mut all = Vec::new();
        while let Some(envelope) = self.spool.take(self.destination).unwrap() {
            let mut reader = self.spool.open_content(envelope.message).unwrap();
            let mut content = Vec::new();
            while let Some(chunk) = reader.next_chunk().unwrap() {
                content.extend_from_slice(&chunk);
            }
            let phase = everpost_client::delivery::Phase::Answer;
            let record = everpost_client::spool::AttemptRecord::new("a".into(), phase, "AA".into(), 0);
            let delivered = everpost_client::spool::Settlement::Delivered(record, everpost_client::event::Delivered::Ok);
            self.spool.settle(envelope.id, delivered).unwrap();
            all.push((envelope, content));
        }
        all
    }

    fn ids(&self) -> Vec<String> {
        self.taken().into_iter().map(|(envelope, _)| envelope.keys.text(Key::ControlId)).collect()
    }
}

struct Peer {
    wire: DuplexStream,
    decoder: Decoder,
    buffer: BytesMut,
}

impl Peer {
    async fn send(&mut self, content: &[u8]) {
        let mut out = Vec::new();
        mllp::encode(content, &mut out);
        self.wire.write_all(&out).await.unwrap();
    }

    /// The next answer; `None`: the connection was closed.
    async fn answer(&mut self) -> Option<(Acknowledgement, String)> {
        loop {
            match self.decoder.decode(&mut self.buffer) {
                Some(Decoded::Block(block)) => return Some((Acknowledgement::read(&block).unwrap(), String::from_utf8_lossy(&block).into_owned())),
                Some(other) => panic!("{other:?}"),
                None => {}
            }
            if timeout(Duration::from_secs(10), self.wire.read_buf(&mut self.buffer)).await.expect("an answer in time").unwrap() == 0 {
                return None;
            }
        }
    }

    /// The next answer as `CODE id error`.
    async fn told(&mut self) -> String {
        match self.answer().await {
            Some((answer, _)) => format!("{} {} {}", answer.code.name(), String::from_utf8_lossy(answer.control_id()), answer.error.unwrap_or(0)),
            None => "closed".into(),
        }
    }
}

fn adt(id: &str) -> Vec<u8> {
    format!("MSH|^~\\&|A|B|C|D|||ADT^A01|{id}|P|2.5\rPID|1||4711^^^H||M\u{fc}ller\r").into_bytes()
}

/// A message whose end was lost is not glued to the next one: two patients would become one message, answered under the first one's id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_inside_of_another_takes_neither_and_closes() {
    for long in [0, 200_000] {
        let bench = Bench::new();
        let (mut peer, _) = bench.connect();
        peer.send(&adt("M1")).await;
        let mut torn = vec![mllp::SB];
        torn.extend_from_slice(&adt("LOST"));
        torn.resize(torn.len() + long, b'x');
        peer.wire.write_all(&torn).await.unwrap();
        peer.send(&adt("M2")).await;
        assert_eq!([peer.told().await, peer.told().await], ["AA M1 0", "closed"], "{long}");
        assert_eq!(bench.ids(), ["M1"]);
        let (mut peer, _) = bench.connect();
        peer.send(&adt("M2")).await;
        assert_eq!(peer.told().await, "AA M2 0");
    }
}

fn asking(id: &str, kind: &str, conditions: &str) -> Vec<u8> {
    format!("MSH|^~\\&|A|B|C|D|||{kind}|{id}|P|2.5|||{conditions}\rPID|1||4711\r").into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_durable_with_its_keys_before_it_is_answered() {
    let bench = Bench::new();
    let (mut peer, _) = bench.connect();
    peer.send(&adt("M1")).await;
    let (answer, text) = peer.answer().await.unwrap();
    assert!(answer.code.is_positive() && answer.answers(b"M1"), "{text}");
    let taken = bench.taken();
    let (envelope, content) = &taken[0];
    assert_eq!(*content, adt("M1"));
    for (key, value) in [(Key::Listener, "in"), (Key::Peer, "10.0.0.9"), (Key::MessageType, "ADT^A01"), (Key::Patient, "4711^H")] {
        assert_eq!(envelope.keys.text(key), value);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_blocks_are_taken_and_answered_in_order() {
    let bench = Bench::new();
    let (peer, task) = bench.connect();
    let Peer { wire, decoder, buffer } = peer;
    let (reading, mut writing) = tokio::io::split(wire);
    let names: Vec<String> = (0..500).map(|n| format!("P{n}")).collect();
    let sent = names.clone();
    let writer = tokio::spawn(async move {
        let mut stream = Vec::new();
        for id in &sent {
            stream.extend_from_slice(b"\r\n");
            mllp::encode(&adt(id), &mut stream);
        }
        // Cuts at odd places, several blocks and parts of blocks at a time.
        for piece in stream.chunks(777) {
            writing.write_all(piece).await.unwrap();
        }
        writing
    });
    let (mut reading, mut decoder, mut buffer) = (reading, decoder, buffer);
    let mut answered = Vec::new();
    while answered.len() < names.len() {
        match decoder.decode(&mut buffer) {
            Some(Decoded::Block(block)) => answered.push(String::from_utf8_lossy(Acknowledgement::read(&block).unwrap().control_id()).into_owned()),
            Some(other) => panic!("{other:?}"),
            None => assert!(timeout(Duration::from_secs(20), reading.read_buf(&mut buffer)).await.unwrap().unwrap() > 0),
        }
    }
    assert_eq!(answered, names);
    assert_eq!(bench.ids(), names);
    drop((writer.await.unwrap(), reading));
    task.await.unwrap();
    assert!(bench.notices.lock().unwrap().is_empty(), "CR LF between blocks is nothing to tell");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_message_is_streamed_and_keeps_its_place() {
    let bench = Bench::new();
    let (mut peer, _) = bench.connect();
    let mut large = adt("BIG");
    while large.len() < 5 << 20 {
        let line = format!("OBX|{}|ED|||{}\r", large.len(), "x\u{1c}y".repeat(500));
        large.extend_from_slice(line.as_bytes());
    }
    let expected = large.clone();
    let mut stream = Vec::new();
    for content in [&adt("BEFORE"), &large, &adt("AFTER")] {
        mllp::encode(content, &mut stream);
    }
    let Peer { wire, decoder, buffer } = peer;
    let (reading, mut writing) = tokio::io::split(wire);
    let writer = tokio::spawn(async move { writing.write_all(&stream).await.map(|()| writing) });
    let (mut reading, mut decoder, mut buffer) = (reading, decoder, buffer);
    let mut answered = Vec::new();
    while answered.len() < 3 {
        match decoder.decode(&mut buffer) {
            Some(Decoded::Block(block)) => answered.push(String::from_utf8_lossy(Acknowledgement::read(&block).unwrap().control_id()).into_owned()),
            Some(other) => panic!("{other:?}"),
            None => assert!(timeout(Duration::from_secs(20), reading.read_buf(&mut buffer)).await.unwrap().unwrap() > 0),
        }
    }
    assert_eq!(answered, ["BEFORE", "BIG", "AFTER"]);
    let taken = bench.taken();
    assert_eq!(taken.iter().map(|(envelope, _)| envelope.keys.text(Key::ControlId)).collect::<Vec<_>>(), ["BEFORE", "BIG", "AFTER"]);
    assert!(taken[1].1 == expected, "content of the large message differs");
    assert_eq!(taken[1].0.keys.text(Key::Patient), "4711^H");
    drop((writer.await.unwrap().unwrap(), reading));
    peer = bench.connect().0;
    peer.send(&adt("NEXT")).await;
    assert_eq!(peer.told().await, "AA NEXT 0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_taken_is_refused_and_the_connection_stays() {
    let bench = Bench::new();
    let (mut peer, _) = bench.connect();
    for (content, told) in [
        (asking("1", "ORM^O01", ""), "AR 1 200"),
        (asking("2", "ORM^O01", "AL|NE"), "CR 2 200"),
        (asking("3", "QRY^A19", ""), "AR 3 200"),
        (asking("4", "", ""), "AR 4 101"),
        (b"no message at all".to_vec(), "AR  100"),
        (b"MSH|^~\\&|A|B|C|D|||ADT^A01|5|P|2.3\r".to_vec(), "AA 5 0"),
        (asking("6", "ADT^A01", "AL|AL"), "CA 6 0"),
    ] {
        peer.send(&content).await;
        assert_eq!(peer.told().await, told, "{}", String::from_utf8_lossy(&content));
    }
    assert_eq!(peer.told().await, "AA 6 0", "the application's answer, which was asked for too");
    assert_eq!(bench.ids(), ["5", "6"]);
    use Refusal::{Malformed, NoRoute};
    assert_eq!(*bench.refusals.lock().unwrap(), [NoRoute, NoRoute, NoRoute, Malformed, Malformed]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_no_answer_may_be_given_the_connection_is_closed() {
    let bench = Bench::new();
    let (mut peer, task) = bench.connect();
    // Accepted: silence, as asked. Refused: only the close can say so, and the block behind it is not answered.
    peer.send(&asking("1", "ADT^A01", "NE|NE")).await;
    peer.send(&asking("2", "ORM^O01", "NE|NE")).await;
    peer.send(&asking("3", "ADT^A01", "")).await;
    assert_eq!(peer.told().await, "closed");
    task.await.unwrap();
    assert_eq!(bench.ids()[0], "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_over_the_limit_is_refused_whole_and_the_next_one_taken() {
    let bench = Bench::new();
    let (mut peer, _) = bench.connect();
    let mut large = adt("HUGE");
    large.resize(9 << 20, b'x');
    peer.send(&large).await;
    assert_eq!(peer.told().await, "AR HUGE 207");
    peer.send(&adt("OK")).await;
    assert_eq!(peer.told().await, "AA OK 0");
    assert_eq!(bench.ids(), ["OK"]);
    assert_eq!(*bench.refusals.lock().unwrap(), [Refusal::TooLarge]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn utf_16_is_refused_with_a_reason() {
    let bench = Bench::new();
    let (mut peer, _) = bench.connect();
    let text: Vec<u8> = String::from_utf8(adt("W1")).unwrap().encode_utf16().flat_map(u16::to_le_bytes).collect();
    peer.send(&text).await;
    let (answer, text) = peer.answer().await.unwrap();
    assert!(text.contains("UTF-16") && answer.answers(b"W1") && answer.error == Some(102), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_speaks_something_else_is_told_apart() {
    let bench = Bench::new();
    let (mut tls, task) = bench.connect();
    tls.wire.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc]).await.unwrap();
    assert_eq!(tls.told().await, "closed");
    task.await.unwrap();
    let (garbage, task) = bench.connect();
    let (mut reading, mut writing) = tokio::io::split(garbage.wire);
    let writer = tokio::spawn(async move { while writing.write_all(&[b'x'; 1000]).await.is_ok() {} });
    let mut rest = Vec::new();
    reading.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    task.await.unwrap();
    drop(reading);
    writer.await.unwrap();
    let notices = bench.notices.lock().unwrap();
    assert!(notices[0].contains("TLS") && notices.iter().any(|what| what.contains("64 KiB came without a block")), "{notices:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_between_blocks_is_told_once_and_blocks_are_taken() {
    let bench = Bench::new();
    let (mut peer, _) = bench.connect();
    for id in ["1", "2", "3"] {
        peer.wire.write_all(b"junk").await.unwrap();
        peer.send(&adt(id)).await;
        assert_eq!(peer.told().await, format!("AA {id} 0"));
    }
    assert_eq!(bench.notices.lock().unwrap().len(), 1);
    assert_eq!(bench.garbage.load(Ordering::Relaxed), 12);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_answers_what_was_taken_and_refuses_the_rest() {
    let bench = Bench::new();
    let (mut peer, task) = bench.connect();
    peer.send(&adt("1")).await;
    assert_eq!(peer.told().await, "AA 1 0");
    bench.intake.stop();
    peer.send(&adt("2")).await;
    assert_eq!(peer.told().await, "AR 2 207");
    peer.send(&asking("3", "ADT^A01", "AL|NE")).await;
    assert_eq!(peer.told().await, "CE 3 207");
    peer.wire.write_all(b"\x0bMSH|half").await.unwrap();
    bench.stopper.stop();
    assert_eq!(peer.told().await, "closed");
    task.await.unwrap();
    assert_eq!(bench.ids(), ["1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_leaves_does_not_stop_its_commit() {
    let bench = Bench::new();
    let (mut peer, task) = bench.connect();
    // In one piece: what is still unread when an answer finds nobody is not taken.
    let mut out = Vec::new();
    for id in ["1", "2", "3"] {
        mllp::encode(&adt(id), &mut out);
    }
    peer.wire.write_all(&out).await.unwrap();
    drop(peer);
    task.await.unwrap();
    assert_eq!(bench.ids(), ["1", "2", "3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_closed_peer_gets_its_answers() {
    let bench = Bench::new();
    let (mut peer, task) = bench.connect();
    peer.send(&adt("1")).await;
    peer.send(&adt("2")).await;
    peer.wire.shutdown().await.unwrap();
    assert_eq!(peer.told().await, "AA 1 0");
    assert_eq!(peer.told().await, "AA 2 0");
    assert_eq!(peer.told().await, "closed");
    task.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_has_an_end() {
    let bench = Bench::new();
    let (mut idle, task) = bench.connect();
    assert_eq!(idle.told().await, "closed");
    task.await.unwrap();
    let (mut half, task) = bench.connect();
    half.wire.write_all(b"\x0bMSH|half").await.unwrap();
    assert_eq!(half.told().await, "closed");
    task.await.unwrap();
    assert!(bench.notices.lock().unwrap()[0].contains("fell silent within a block"));
}

#[tokio::test(start_paused = true)]
async fn a_block_that_trickles_in_is_given_up() {
    let bench = Bench::new();
    let (mut peer, task) = bench.connect();
    let begun = Instant::now();
    peer.wire.write_all(b"\x0bMSH|").await.unwrap();
    while peer.wire.write_all(b"x").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(begun.elapsed() < Duration::from_secs(100), "it is given up");
    }
    task.await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(60), "{:?}", begun.elapsed());
    assert!(bench.notices.lock().unwrap()[0].contains("less than 1024 bytes/s"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spool_that_cannot_commit_is_a_negative_answer() {
    let bench = Bench::new();
    let (mut peer, _) = bench.connect();
    bench.committer.stop().await.unwrap();
    peer.send(&adt("1")).await;
    assert_eq!(peer.told().await, "AR 1 207");
    peer.send(&asking("2", "ADT^A01", "AL|NE")).await;
    assert_eq!(peer.told().await, "CE 2 207");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_every_size_keep_their_order() {
    let bench = Bench::new();
    let (peer, _) = bench.connect();
    let sizes = [100, 66_000, 300, 70_000, 64 << 10, 200_000, 400, 90_000, 500];
    let mut stream = Vec::new();
    for (n, size) in sizes.iter().enumerate() {
        let mut content = adt(&format!("S{n}"));
        content.resize(*size.max(&content.len()), b'x');
        mllp::encode(&content, &mut stream);
    }
    let Peer { wire, mut decoder, mut buffer } = peer;
    let (mut reading, mut writing) = tokio::io::split(wire);
    let writer = tokio::spawn(async move { writing.write_all(&stream).await.map(|()| writing) });
    let mut answers = 0;
    while answers < sizes.len() {
        match decoder.decode(&mut buffer) {
            Some(_) => answers += 1,
            None => assert!(timeout(Duration::from_secs(20), reading.read_buf(&mut buffer)).await.unwrap().unwrap() > 0),
        }
    }
    assert_eq!(bench.ids(), (0..sizes.len()).map(|n| format!("S{n}")).collect::<Vec<_>>());
    drop(writer.await.unwrap().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_without_end_is_refused_once_and_closed() {
    let bench = Bench::new();
    let (peer, task) = bench.connect();
    let Peer { wire, mut decoder, mut buffer } = peer;
    let (mut reading, mut writing) = tokio::io::split(wire);
    let writer = tokio::spawn(async move {
        let _ = writing.write_all(b"\x0bMSH|^~\\&|A|B|C|D|||ADT^A01|E1|P|2.5\r").await;
        while writing.write_all(&[b'x'; 65_536]).await.is_ok() {}
    });
    let mut answers = Vec::new();
    while timeout(Duration::from_secs(20), reading.read_buf(&mut buffer)).await.unwrap().unwrap() > 0 {
        while let Some(Decoded::Block(block)) = decoder.decode(&mut buffer) {
            answers.push(Acknowledgement::read(&block).unwrap());
        }
    }
    assert_eq!(answers.len(), 1);
    assert!(answers[0].answers(b"E1") && answers[0].error == Some(207));
    task.await.unwrap();
    drop(reading);
    writer.await.unwrap();
    assert_eq!(bench.notices.lock().unwrap().len(), 1);
}
