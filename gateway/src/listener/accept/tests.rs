//! Doors on loopback: limits, strangers, half-open handshakes, stop. 127.0.0.2 and up stand for other machines.

use super::*;
use crate::config::Config;
use std::io::ErrorKind;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;

/// An open door that echoes, and what it tells.
struct Stage {
    door: Arc<Door>,
    stopper: everpost_client::io::stop::Stopper,
    served: JoinHandle<()>,
    told: UnboundedReceiver<String>,
    _folder: tempfile::TempDir,
}

fn listener(folder: &std::path::Path, keys: &str) -> Arc<Listener> {
    let source = format!(
        "name = 'gw'\ndata_dir = 'd'\n[[listener]]\nname = 'in'\nprotocol = 'mllp'\nbind = '127.0.0.1:0'\n{keys}\n[[destination]]\nname = 'ris'\n\
         protocol = 'mllp'\n[[destination.endpoint]]\nname = 'a'\naddress = 'localhost:1'\n[[route]]\nto = 'ris'\n"
    );
    let file = folder.join("everpost.toml");
    std::fs::write(&file, source).unwrap();
    Config::load(&file).unwrap().listeners[0].clone()
}

fn certificate(folder: &std::path::Path) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(folder.join("gw.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(folder.join("gw.key"), key.serialize_pem()).unwrap();
}

async fn echo(connection: Connection, stop: Stop) {
    let Connection { mut stream, slot, .. } = connection;
    let mut byte = [0];
    loop {
        let read = tokio::select! { read = stream.read(&mut byte) => read, () = stop.wait() => break };
        match read {
            Ok(1) => stream.write_all(&byte).await.unwrap(),
            _ => break,
        }
        stream.flush().await.unwrap();
    }
    drop(slot);
}

impl Stage {
    fn open(keys: &str) -> Stage {
        let folder = tempfile::tempdir().unwrap();
        certificate(folder.path());
        let (tell, told) = unbounded_channel();
        let events = Events::to(move |event| {
            let said = match event {
                Event::Connections { open, .. } => format!("open {open}"),
                Event::ListenerNotice { peer, what, .. } => format!("{peer}: {what}"),
                Event::Refused { reason, .. } => format!("refused {}", reason.label()),
                other => format!("{other:?}"),
            };
            let _ = tell.send(said);
        });
        let door = Door::open(&listener(folder.path(), keys), &events, &Arc::default()).unwrap();
        let (stopper, stop) = Stop::new();
        let served = tokio::spawn(door.clone().serve(stop, |connection, _, stop| echo(connection, stop)));
        Stage { door, stopper, served, told, _folder: folder }
    }

    async fn connect_from(&self, last: u8) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, last], 0).into()).unwrap();
        socket.connect(self.door.local_addr()).await.unwrap()
    }

    /// Reads what was told up to the first line with this in it.
    async fn until(&mut self, part: &str) -> String {
        let told = async {
            loop {
                let said = self.told.recv().await.unwrap();
                if said.contains(part) {
                    return said;
                }
            }
        };
        timeout(Duration::from_secs(20), told).await.unwrap_or_else(|_| panic!("never told: {part}"))
    }
}

async fn answers(peer: &mut TcpStream) -> bool {
    let mut byte = [0];
    let asked = async {
        peer.write_all(b"x").await?;
        peer.read_exact(&mut byte).await
    };
    asked.await.is_ok()
}

/// Whether the door has closed this connection.
async fn closed(peer: &mut TcpStream) -> bool {
    match peer.read(&mut [0]).await {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[tokio::test]
async fn one_address_cannot_use_up_the_connections_of_others() {
    let mut stage = Stage::open("max_connections_per_peer = 2\nmax_connections = 4");
    let (mut first, mut second) = (stage.connect_from(1).await, stage.connect_from(1).await);
    assert!(answers(&mut first).await && answers(&mut second).await);
    for _ in 0..20 {
        assert!(closed(&mut stage.connect_from(1).await).await);
    }
    assert_eq!(stage.until("max_connections_per_peer").await, "127.0.0.1: a connection beyond max_connections_per_peer = 2 was closed");
    let mut other = stage.connect_from(2).await;
    assert!(answers(&mut other).await, "another address gets in");
    assert!(answers(&mut first).await && answers(&mut second).await, "open connections go on");
    let mut third = stage.connect_from(3).await;
    assert!(answers(&mut third).await);
    assert!(closed(&mut stage.connect_from(4).await).await, "max_connections holds for all together");
    assert_eq!(stage.until("127.0.0.4").await, "127.0.0.4: a connection beyond max_connections = 4 was closed");
    assert_eq!(stage.door.connections(), 4);
    drop(second);
    stage.until("open 3").await;
    assert!(answers(&mut stage.connect_from(1).await).await, "a place that was left is free again");
}

#[tokio::test]
async fn notices_are_one_per_kind_however_many_are_turned_away() {
    let mut stage = Stage::open("max_connections_per_peer = 1");
    let mut first = stage.connect_from(1).await;
    assert!(answers(&mut first).await);
    for _ in 0..50 {
        assert!(closed(&mut stage.connect_from(1).await).await);
    }
    let mut said = Vec::new();
    while let Ok(line) = stage.told.try_recv() {
        said.push(line);
    }
    assert_eq!(said.iter().filter(|line| line.contains("max_connections_per_peer")).count(), 1, "{said:?}");
    assert_eq!(said.iter().filter(|line| *line == "refused limit").count(), 50, "every one is counted");
}

#[tokio::test]
async fn strangers_are_closed_before_a_byte() {
    let mut stage = Stage::open("peers = ['127.0.0.2', '10.0.0.0/8']");
    assert!(closed(&mut stage.connect_from(1).await).await);
    assert!(stage.until("127.0.0.1").await.contains("not among `peers`"));
    assert!(answers(&mut stage.connect_from(2).await).await);
}

#[tokio::test]
async fn limits_and_peers_change_while_the_door_is_open() {
    let stage = Stage::open("max_connections_per_peer = 1");
    let mut first = stage.connect_from(1).await;
    assert!(answers(&mut first).await);
    let changed = Listener { max_connections_per_peer: 2, ..(*stage.door.listener()).clone() };
    stage.door.change(Arc::new(changed), None);
    assert!(answers(&mut stage.connect_from(1).await).await);
    let changed = Listener { peers: vec![crate::config::Network::parse("10.0.0.0/8").unwrap()], ..(*stage.door.listener()).clone() };
    stage.door.change(Arc::new(changed), None);
    assert!(closed(&mut stage.connect_from(1).await).await);
    assert!(answers(&mut first).await, "an open connection goes on");
}

#[tokio::test]
async fn a_plain_peer_at_a_tls_door_is_told_apart() {
    let mut stage = Stage::open("tls = { cert = 'gw.pem', key = 'gw.key' }");
    assert!(stage.door.expires_at().is_some());
    let mut plain = stage.connect_from(1).await;
    plain.write_all(b"\x0bMSH|").await.unwrap();
    assert!(closed(&mut plain).await);
    assert!(stage.until("speaks plainly").await.contains("switch TLS on at the peer"));
    let mut garbled = stage.connect_from(1).await;
    garbled.write_all(b"\x16\x03\x01\xff\xff garbage").await.unwrap();
    garbled.shutdown().await.unwrap();
    stage.until("127.0.0.1: ").await;
    let mut gone = stage.connect_from(1).await;
    gone.shutdown().await.unwrap();
    assert!(closed(&mut gone).await);
    stage.until("open 0").await;
}

#[tokio::test]
async fn half_open_handshakes_hold_up_nobody() {
    let mut stage = Stage::open("tls = { cert = 'gw.pem', key = 'gw.key' }\nmax_connections_per_peer = 40");
    let settings = everpost_client::config::TlsClient {
        ca: Some(stage._folder.path().join("gw.pem")),
        identity: None,
        server_name: None,
        verify: everpost_client::config::Verify::Full,
    };
    let tls = everpost_client::io::tls::ClientTls::load(&settings, "127.0.0.1").unwrap();
    let mut open = tls.connect(stage.connect_from(2).await).await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(stage.connect_from(1).await);
    }
    stage.until("max_connections_per_peer").await;
    assert!(stage.door.connections() <= 41);
    let mut late = tls.connect(stage.connect_from(3).await).await.unwrap();
    for stream in [&mut open, &mut late] {
        stream.write_all(b"x").await.unwrap();
        stream.flush().await.unwrap();
        stream.read_exact(&mut [0]).await.unwrap();
    }
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_given_up() {
    let mut stage = Stage::open("tls = { cert = 'gw.pem', key = 'gw.key' }");
    let mut silent = stage.connect_from(1).await;
    stage.until("open 1").await;
    // From here on nothing but the deadline of the handshake can pass the time.
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    assert!(closed(&mut silent).await);
    let took = begun.elapsed();
    assert!(stage.until("took longer than").await.contains("127.0.0.1"));
    assert!(took <= 2 * limits::TLS_ACCEPT, "{took:?}");
}

#[tokio::test]
async fn a_stop_closes_the_door_and_waits_for_the_conversations() {
    let Stage { door, stopper, served, .. } = Stage::open("");
    let mut peer = TcpStream::connect(door.local_addr()).await.unwrap();
    assert!(answers(&mut peer).await);
    stopper.stop();
    timeout(Duration::from_secs(20), served).await.unwrap().unwrap();
    assert_eq!(door.connections(), 0);
    assert!(closed(&mut peer).await);
    assert!(TcpStream::connect(door.local_addr()).await.is_err());
}

#[tokio::test]
async fn a_fault_in_one_conversation_ends_only_that_one() {
    let mut stage = Stage::open("");
    let again = stage.door.listener();
    let door = Door::open(&again, &stage.door.events, &Arc::default()).unwrap();
    let (_stopper, stop) = Stop::new();
    let conversation = |connection: Connection, _, stop| async move {
        let mut first = [0];
        connection.stream.tcp().peek(&mut first).await.unwrap();
        assert_ne!(first[0], b'!', "a fault on purpose");
        echo(connection, stop).await;
    };
    tokio::spawn(door.clone().serve(stop, conversation));
    let mut good = TcpStream::connect(door.local_addr()).await.unwrap();
    assert!(answers(&mut good).await);
    let mut bad = TcpStream::connect(door.local_addr()).await.unwrap();
    bad.write_all(b"!").await.unwrap();
    assert!(closed(&mut bad).await);
    stage.until("fault of this program").await;
    assert!(answers(&mut good).await);
    assert_eq!(door.connections(), 1);
}

#[tokio::test]
async fn a_taken_port_says_what_to_do() {
    let stage = Stage::open("");
    let taken = Listener { bind: stage.door.local_addr(), ..(*stage.door.listener()).clone() };
    let said = Door::open(&Arc::new(taken), &Events::none(), &Arc::default()).unwrap_err().to_string();
    assert!(said.contains("listener \"in\" cannot listen on 127.0.0.1:") && said.contains("stop whoever has the port"), "{said}");
}

#[test]
fn only_exhaustion_is_waited_out() {
    for code in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
        assert!(is_exhaustion(&io::Error::from_raw_os_error(code)));
    }
    for code in [libc::ECONNABORTED, libc::EINTR, libc::EPROTO] {
        assert!(!is_exhaustion(&io::Error::from_raw_os_error(code)));
    }
}
