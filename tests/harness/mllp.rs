//! HL7 peers written here: a client, and a server that answers as a test scripts it. Independent of the product's codec on purpose.
//! Rules: a block is VT, content, FS, CR; the client waits for each answer unless told otherwise; the server keeps, for every block, its arrival,
//! connection, MSH-10 and SHA-256 (content only if asked: 200,000 messages would not fit).
//! Errors: the client's are `io::Error`; the server's end its connection.

use crate::sha256;
use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const VT: u8 = 0x0b;
const FS: u8 = 0x1c;
const CR: u8 = 0x0d;

/// Content in its block.
#[must_use]
pub fn block(content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(content.len() + 3);
    bytes.push(VT);
    bytes.extend_from_slice(content);
    bytes.extend_from_slice(&[FS, CR]);
    bytes
}

/// Field `number` of the first segment named `segment` (MSH-1 is the separator itself), as text.
#[must_use]
pub fn field(message: &[u8], segment: &str, number: usize) -> String {
    let separator = message.get(3).copied().unwrap_or(b'|');
    for line in message.split(|b| *b == CR) {
        if !line.starts_with(segment.as_bytes()) {
            continue;
        }
        let fields: Vec<&[u8]> = line.split(|b| *b == separator).collect();
        let index = if segment == "MSH" { number.saturating_sub(1) } else { number };
        return fields.get(index).map(|f| String::from_utf8_lossy(f).into_owned()).unwrap_or_default();
    }
    String::new()
}

/// Reads blocks from a stream; bytes between blocks are passed over.
pub struct Blocks<S> {
    stream: S,
    kept: Vec<u8>,
    scanned: usize,
}

impl<S: Read> Blocks<S> {
    /// Over a stream.
    pub fn new(stream: S) -> Self {
        Self { stream, kept: Vec::new(), scanned: 0 }
    }

    /// The stream.
    pub fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    /// The next block's content; `None` at the end of the stream.
    pub fn next_block(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut chunk = vec![0; 64 << 10];
        loop {
            if let Some(start) = self.kept.iter().position(|b| *b == VT) {
                if start > 0 {
                    self.kept.drain(..start);
                    self.scanned = 0;
                }
                if let Some(end) = self.kept[self.scanned..].windows(2).position(|w| w == [FS, CR]) {
                    let end = self.scanned + end;
                    let content = self.kept[1..end].to_vec();
                    self.kept.drain(..end + 2);
                    self.scanned = 0;
                    return Ok(Some(content));
                }
                self.scanned = self.kept.len().saturating_sub(1);
            }
            let read = self.stream.read(&mut chunk)?;
            if read == 0 {
                return Ok(None);
            }
            self.kept.extend_from_slice(&chunk[..read]);
        }
    }
}

/// A client.
pub struct Client {
    blocks: Blocks<TcpStream>,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Ack {
    /// MSA-1.
    pub code: String,
    /// MSA-2.
    pub id: String,
    /// The whole answer.
    pub bytes: Vec<u8>,
}

impl Ack {
    /// AA or CA.
    #[must_use]
    pub fn positive(&self) -> bool {
        self.code == "AA" || self.code == "CA"
    }
}

impl Client {
    /// Connects; answers are awaited for 30 s.
    pub fn connect(to: SocketAddr) -> io::Result<Self> {
        Self::on(TcpStream::connect_timeout(&to, Duration::from_secs(10))?)
    }

    /// From another address of this machine (127.0.0.2 and up stand for other machines).
    /// # Errors
    /// The system's.
    pub fn connect_from(from: IpAddr, to: SocketAddr) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let stream = runtime.block_on(async {
            let socket = tokio::net::TcpSocket::new_v4()?;
            socket.bind((from, 0).into())?;
            socket.connect(to).await?.into_std()
        })?;
        stream.set_nonblocking(false)?;
        Self::on(stream)
    }

    fn on(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.set_write_timeout(Some(Duration::from_secs(30)))?;
        Ok(Self { blocks: Blocks::new(stream) })
    }

    /// Another deadline for answers.
    pub fn patience(self, deadline: Duration) -> Self {
        let _ = self.blocks.stream.set_read_timeout(Some(deadline));
        self
    }

    /// The socket.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.blocks.stream
    }

    /// Sends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.blocks.stream.write_all(bytes)
    }

    /// Sends a message without waiting.
    pub fn push(&mut self, message: &[u8]) -> io::Result<()> {
        self.raw(&block(message))
    }

    /// The next answer; an error when the connection ends or the deadline passes.
    pub fn answer(&mut self) -> io::Result<Ack> {
        let bytes = self.blocks.next_block()?.ok_or_else(|| io::Error::from(ErrorKind::UnexpectedEof))?;
        Ok(Ack { code: field(&bytes, "MSA", 1), id: field(&bytes, "MSA", 2), bytes })
    }

    /// Sends a message and waits for its answer.
    pub fn send(&mut self, message: &[u8]) -> io::Result<Ack> {
        self.push(message)?;
        self.answer()
    }
}

/// What the scripted server does with a block.
#[derive(Debug, Clone)]
pub enum Reply {
    /// An acknowledgement with this code, and an error code of table 0357 in ERR-3.
    Code(&'static str, Option<u16>),
    /// After a while.
    Late(Duration, Box<Reply>),
    /// These bytes as a block.
    Bytes(Vec<u8>),
    /// Several in turn.
    All(Vec<Reply>),
    /// Nothing; the connection stays.
    Silence,
    /// The connection is closed.
    Close,
}

/// AA.
pub const AA: Reply = Reply::Code("AA", None);

/// A block that came in.
#[derive(Debug, Clone)]
pub struct Received {
    /// When.
    pub at: Instant,
    /// On which connection, counted from 0.
    pub connection: usize,
    /// MSH-10.
    pub id: String,
    /// Of the content.
    pub sha256: String,
    /// Was the reply a positive code?
    pub accepted: bool,
}

type Script = dyn Fn(usize, &[u8]) -> Reply + Send + Sync;

struct Shared {
    script: Mutex<Arc<Script>>,
    received: Mutex<Vec<Received>>,
    kept: Mutex<Option<Vec<Vec<u8>>>>,
    connections: AtomicUsize,
    open: Mutex<HashMap<usize, TcpStream>>,
    stop: AtomicBool,
    count: AtomicUsize,
}

/// A server that answers as scripted.
pub struct Server {
    at: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    /// Listens on a free port and answers AA to everything.
    #[must_use]
    pub fn start() -> Self {
        Self::on(([127, 0, 0, 1], crate::world::port()).into())
    }

    /// The same on a given address.
    #[must_use]
    #[track_caller]
    pub fn on(at: SocketAddr) -> Self {
        let shared = Shared {
            script: Mutex::new(Arc::new(|_, _| AA)),
            received: Mutex::default(),
            kept: Mutex::default(),
            connections: AtomicUsize::new(0),
            open: Mutex::default(),
            stop: AtomicBool::new(false),
            count: AtomicUsize::new(0),
        };
        let mut server = Self { at, shared: Arc::new(shared), accepting: None };
        server.open();
        server
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.at
    }

    /// Sets the script: number of the block (from 0, over all connections) and content in, reply out.
    pub fn script(&self, script: impl Fn(usize, &[u8]) -> Reply + Send + Sync + 'static) {
        *self.shared.script.lock().unwrap() = Arc::new(script);
    }

    /// Keeps contents from now on.
    pub fn keep(&self) {
        *self.shared.kept.lock().unwrap() = Some(Vec::new());
    }

    /// Contents kept.
    #[must_use]
    pub fn kept(&self) -> Vec<Vec<u8>> {
        self.shared.kept.lock().unwrap().clone().unwrap_or_default()
    }

    /// All blocks so far, in order of arrival.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }

    /// Their MSH-10.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        self.shared.received.lock().unwrap().iter().map(|r| r.id.clone()).collect()
    }

    /// MSH-10 of those answered positively.
    #[must_use]
    pub fn accepted_ids(&self) -> Vec<String> {
        self.shared.received.lock().unwrap().iter().filter(|r| r.accepted).map(|r| r.id.clone()).collect()
    }

    /// Number of blocks so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shared.received.lock().unwrap().len()
    }

    /// Number of connections so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Connections open now.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.shared.open.lock().unwrap().len()
    }

    /// Closes the port and every connection, as a dying process does: connections are refused afterwards.
    pub fn shut(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect_timeout(&self.at, Duration::from_secs(1)); // wakes the accept
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
        self.hang_up();
    }

    /// Forgets every connection without a word, as a machine does that was switched off, if its network is cut.
    pub fn forget(&self) {
        self.shared.open.lock().unwrap().values().for_each(crate::front::abort);
    }

    /// Closes every open connection; the port stays open.
    pub fn hang_up(&self) {
        for (_, stream) in self.shared.open.lock().unwrap().drain() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Listens again after `shut`.
    #[track_caller]
    pub fn open(&mut self) {
        self.shared.stop.store(false, Ordering::SeqCst);
        let at = self.at;
        let mut listener = None;
        crate::world::until("the scripted server's port is free", 10, || {
            listener = TcpListener::bind(at).ok();
            listener.is_some()
        });
        let listener = listener.unwrap();
        let shared = self.shared.clone();
        self.accepting = Some(std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stop.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let number = shared.connections.fetch_add(1, Ordering::SeqCst);
                let _ = stream.set_nodelay(true);
                if let Ok(twin) = stream.try_clone() {
                    shared.open.lock().unwrap().insert(number, twin);
                }
                let shared = shared.clone();
                std::thread::spawn(move || {
                    let _ = serve(&shared, number, stream);
                    if let Some(stream) = shared.open.lock().unwrap().remove(&number) {
                        let _ = stream.shutdown(std::net::Shutdown::Both);
                    }
                });
            }
        }));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shut();
    }
}

fn serve(shared: &Shared, connection: usize, stream: TcpStream) -> io::Result<()> {
    let mut writer = stream.try_clone()?;
    let mut blocks = Blocks::new(stream);
    while let Some(content) = blocks.next_block()? {
        let number = shared.count.fetch_add(1, Ordering::SeqCst);
        let script = shared.script.lock().unwrap().clone();
        let reply = script(number, &content);
        let received =
            Received { at: Instant::now(), connection, id: field(&content, "MSH", 10), sha256: sha256(&content), accepted: positive(&reply) };
        shared.received.lock().unwrap().push(received);
        if let Some(kept) = shared.kept.lock().unwrap().as_mut() {
            kept.push(content.clone());
        }
        if !play(&reply, &content, &mut writer)? {
            return Ok(());
        }
    }
    Ok(())
}

fn positive(reply: &Reply) -> bool {
    match reply {
        Reply::Code(code, _) => *code == "AA" || *code == "CA",
        Reply::Late(_, inner) => positive(inner),
        Reply::All(replies) => replies.iter().any(positive),
        Reply::Bytes(_) | Reply::Silence | Reply::Close => false,
    }
}

/// Plays a reply; false closes the connection.
fn play(reply: &Reply, content: &[u8], writer: &mut TcpStream) -> io::Result<bool> {
    match reply {
        Reply::Code(code, error) => writer.write_all(&block(&ack(content, code, *error))).map(|()| true),
        Reply::Late(delay, inner) => {
            std::thread::sleep(*delay); // the script asked for a slow peer
            play(inner, content, writer)
        }
        Reply::Bytes(bytes) => writer.write_all(&block(bytes)).map(|()| true),
        Reply::All(replies) => {
            for reply in replies {
                if !play(reply, content, writer)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        Reply::Silence => Ok(true),
        Reply::Close => Ok(false),
    }
}

/// An acknowledgement of a message, in the message's own delimiters.
#[must_use]
pub fn ack(message: &[u8], code: &str, error: Option<u16>) -> Vec<u8> {
    let s = char::from(message.get(3).copied().unwrap_or(b'|'));
    let id = field(message, "MSH", 10);
    let encoding = field(message, "MSH", 2);
    let version = field(message, "MSH", 12);
    let mut text = format!("MSH{s}{encoding}{s}PEER{s}{s}{s}{s}20260101{s}{s}ACK{s}A{id}{s}P{s}{version}\rMSA{s}{code}{s}{id}\r");
    if let Some(error) = error {
        text.push_str(&format!("ERR{s}{s}{s}{error}{s}E\r"));
    }
    text.into_bytes()
}
