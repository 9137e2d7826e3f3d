//! The demo's HL7 peers: a RIS that sends orders, and receivers that answer AA.
//! Rules: the RIS does as real ones do: it waits for each answer, and sends the same message again until it has one. All patients are invented.
//! Errors: `io::Error` ends a connection; the RIS opens the next one.

use super::reckoning::Ledger;
use bytes::{Bytes, BytesMut};
use everpost_client::hl7::ack::Acknowledgement;
use everpost_client::hl7::message::Message;
use everpost_client::io::stop::Stop;
use everpost_client::limits::MLLP_BLOCK_BYTES_DEFAULT;
use everpost_client::mllp::{self, Decoded, Decoder};
use sha2::{Digest, Sha256};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// How long the RIS waits for a connection or an answer before it tries again.
const PATIENCE: Duration = Duration::from_secs(5);
/// Its pause after a failed try.
const PAUSE: Duration = Duration::from_millis(100);

/// Sends messages at a pace until the word comes; the one begun is sent to its end, for which there is `PATIENCE`.
pub(crate) async fn send(to: SocketAddr, run: u32, pace: Duration, ledger: Arc<Ledger>, stop: Stop) {
    let mut connection = None;
    let mut number = 0;
    while !stop.stopped() {
        number += 1;
        let id = format!("{run:08X}-{number}");
        let content = order(&id, number);
        ledger.sends(&id, Sha256::digest(&content).into(), 0, number);
        let mut give_up: Option<Instant> = None;
        loop {
            let begun = Instant::now();
            if timeout(PATIENCE, exchange(&mut connection, to, &content, &id)).await.is_ok_and(|tried| tried.is_ok()) {
                ledger.answered(&id, begun);
                break;
            }
            connection = None;
            if stop.stopped() && give_up.get_or_insert(begun).elapsed() > PATIENCE {
                return;
            }
            sleep(PAUSE).await;
        }
        tokio::select! {
            () = sleep(pace) => {}
            () = stop.wait() => {}
        }
    }
}

async fn exchange(connection: &mut Option<Blocks>, to: SocketAddr, content: &[u8], id: &str) -> io::Result<()> {
    let blocks = match connection {
        Some(blocks) => blocks,
        None => connection.insert(Blocks::new(TcpStream::connect(to).await?)?),
    };
    blocks.send(content).await?;
    let answer = blocks.next().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    match Acknowledgement::read(&answer) {
        Ok(answer) if answer.code.is_positive() && answer.answers(id.as_bytes()) => Ok(()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// An order for an invented patient.
fn order(id: &str, number: u64) -> Vec<u8> {
    let patient = 100 + number % 7;
    let seen = 1_000_000 + number;
    format!(
        "MSH|^~\\&|DEMO_RIS|DEMO|EVERPOST|DEMO|20260101120000||ORM^O01^ORM_O01|{id}|T|2.5|||||DEU|UNICODE UTF-8\r\
         PID|1||D{patient}^^^DEMO^PI||Vorführung^Patient {patient}||19700101|O\r\
         ORC|NW|{seen}\rOBR|1|{seen}||CT^CT head^DEMO|||20260101120000|||||||||||A{seen}\r"
    )
    .into_bytes()
}

/// Takes messages and answers AA until the connection ends.
pub(crate) async fn receive(tcp: TcpStream, name: &'static str, ledger: &Ledger) -> io::Result<()> {
    let mut blocks = Blocks::new(tcp)?;
    while let Some(content) = blocks.next().await? {
        let message = Message::read(&content).map_err(|_| io::ErrorKind::InvalidData)?;
        let id = String::from_utf8_lossy(message.heads().control_id()).into_owned();
        let answer = format!("MSH|^~\\&|{name}|DEMO|EVERPOST|DEMO|20260101120000||ACK|{id}|T|2.5\rMSA|AA|{id}\r");
        ledger.arrived(name, id, Sha256::digest(&content).into());
        blocks.send(answer.as_bytes()).await?;
    }
    Ok(())
}

/// Blocks on a connection.
#[derive(Debug)]
struct Blocks {
    tcp: TcpStream,
    decoder: Decoder,
    buffer: BytesMut,
}

impl Blocks {
    fn new(tcp: TcpStream) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        Ok(Self { tcp, decoder: Decoder::whole(MLLP_BLOCK_BYTES_DEFAULT), buffer: BytesMut::new() })
    }

    async fn send(&mut self, content: &[u8]) -> io::Result<()> {
        let mut out = Vec::with_capacity(content.len() + 3);
        mllp::encode(content, &mut out);
        self.tcp.write_all(&out).await
    }

    /// The next block; `None` when the peer has closed.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            match self.decoder.decode(&mut self.buffer) {
                Some(Decoded::Block(content)) => return Ok(Some(content)),
                Some(_) => return Err(io::ErrorKind::InvalidData.into()),
                None if self.tcp.read_buf(&mut self.buffer).await? == 0 => return Ok(None),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use everpost_client::keys::{Key, Keys};

    #[test]
    fn an_order_is_a_message_with_one_patient() {
        let message = Message::read(&order("X-1", 5).into()).ok();
        let mut keys = Keys::new();
        assert!(message.is_some_and(|message| message.keys(&mut keys)));
        assert_eq!((keys.text(Key::ControlId), keys.text(Key::MessageType)), ("X-1".into(), "ORM^O01".into()));
        assert_eq!((keys.text(Key::Patient), keys.text(Key::Accession)), ("D105^DEMO".into(), "A1000005".into()));
        assert_eq!(keys.get(Key::Barrier), None);
    }
}
