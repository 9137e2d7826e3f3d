//! A DICOM receiver that answers as a test scripts it: statuses, rejects, aborts, silence, slowness, refused contexts. Independent of the product.
//! Rules: it takes every abstract and transfer syntax unless scripted (the first proposed is chosen); for every C-STORE it keeps arrival, AE titles,
//! SOP instance, transfer syntax, status given and SHA-256 of the data set; contents only if asked.
//! Errors: end the association.

use crate::dicom::{command, frame, item, items, number_of, pdu, read_pdu, text_of, uid, write_data};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What the receiver does with a C-STORE.
#[derive(Debug, Clone)]
pub enum Answer {
    /// A response with this status.
    Status(u16),
    /// After a while.
    Late(Duration, u16),
    /// None; the association stays.
    Silence,
    /// A-ABORT instead of a response.
    Abort,
    /// The connection is closed instead of a response.
    Close,
}

/// How it negotiates.
#[derive(Debug, Clone)]
pub enum Welcome {
    /// Accepts every context.
    All,
    /// Accepts contexts whose abstract or transfer syntax is not in the list; of several transfer syntaxes takes the first that is not.
    Except(Vec<String>),
    /// A-ASSOCIATE-RJ: result, source, reason.
    Reject(u8, u8, u8),
    /// Accepts the connection and never answers.
    Silence,
}

/// A C-STORE that came in.
#[derive(Debug, Clone)]
pub struct Stored {
    /// When its data set was complete.
    pub at: Instant,
    /// On which association, counted from 0.
    pub association: usize,
    /// Calling AE title.
    pub calling: String,
    /// Called AE title.
    pub called: String,
    /// SOP class.
    pub class: String,
    /// SOP instance.
    pub instance: String,
    /// Transfer syntax of the context.
    pub transfer_syntax: String,
    /// Of the data set.
    pub sha256: String,
    /// Bytes of the data set.
    pub size: usize,
    /// Status that was answered, if one was.
    pub status: Option<u16>,
    /// (0000,0700).
    pub priority: Option<u16>,
    /// (0000,1030).
    pub originator: String,
}

type Script = dyn Fn(&Stored) -> Answer + Send + Sync;

struct Shared {
    script: Mutex<Arc<Script>>,
    welcome: Mutex<Welcome>,
    stored: Mutex<Vec<Stored>>,
    kept: Mutex<Option<HashMap<String, Vec<u8>>>>,
    associations: AtomicUsize,
    peak: AtomicUsize,
    open: Mutex<HashMap<usize, TcpStream>>,
    window: Mutex<Option<(u16, u16)>>,
    max_pdu: AtomicUsize,
    stop: AtomicBool,
}

/// A receiver that answers as scripted.
pub struct Scp {
    at: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<std::thread::JoinHandle<()>>,
}

impl Scp {
    /// Listens on a free port and answers 0000H to everything.
    #[must_use]
    pub fn start() -> Self {
        Self::on(([127, 0, 0, 1], crate::world::port()).into())
    }

    /// The same on a given address.
    #[must_use]
    #[track_caller]
    pub fn on(at: SocketAddr) -> Self {
        let shared = Shared {
            script: Mutex::new(Arc::new(|_| Answer::Status(0))),
            welcome: Mutex::new(Welcome::All),
            stored: Mutex::default(),
            kept: Mutex::default(),
            associations: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            open: Mutex::default(),
            window: Mutex::default(),
            max_pdu: AtomicUsize::new(131_072),
            stop: AtomicBool::new(false),
        };
        let mut scp = Self { at, shared: Arc::new(shared), accepting: None };
        scp.open();
        scp
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.at
    }

    /// Sets what it answers.
    pub fn script(&self, script: impl Fn(&Stored) -> Answer + Send + Sync + 'static) {
        *self.shared.script.lock().unwrap() = Arc::new(script);
    }

    /// Sets how it negotiates.
    pub fn welcome(&self, welcome: Welcome) {
        *self.shared.welcome.lock().unwrap() = welcome;
    }

    /// Grants this asynchronous operations window to those who ask.
    pub fn grant(&self, invoked: u16, performed: u16) {
        *self.shared.window.lock().unwrap() = Some((invoked, performed));
    }

    /// Its largest PDU.
    pub fn max_pdu(&self, bytes: usize) {
        self.shared.max_pdu.store(bytes, Ordering::SeqCst);
    }

    /// Keeps data sets from now on, by SOP instance.
    pub fn keep(&self) {
        *self.shared.kept.lock().unwrap() = Some(HashMap::new());
    }

    /// A kept data set.
    #[must_use]
    pub fn data_set(&self, instance: &str) -> Option<Vec<u8>> {
        self.shared.kept.lock().unwrap().as_ref()?.get(instance).cloned()
    }

    /// Everything so far, in order of arrival.
    #[must_use]
    pub fn stored(&self) -> Vec<Stored> {
        self.shared.stored.lock().unwrap().clone()
    }

    /// SOP instances answered with 0000H or a warning.
    #[must_use]
    pub fn accepted(&self) -> Vec<String> {
        let good = |s: &Stored| s.status.is_some_and(|c| c == 0 || c == 1 || c & 0xf000 == 0xb000 || c == 0x107 || c == 0x116);
        self.shared.stored.lock().unwrap().iter().filter(|s| good(s)).map(|s| s.instance.clone()).collect()
    }

    /// Number of C-STOREs so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shared.stored.lock().unwrap().len()
    }

    /// Associations so far.
    #[must_use]
    pub fn associations(&self) -> usize {
        self.shared.associations.load(Ordering::SeqCst)
    }

    /// Most associations at once.
    #[must_use]
    pub fn peak(&self) -> usize {
        self.shared.peak.load(Ordering::SeqCst)
    }

    /// Connections open now.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.shared.open.lock().unwrap().len()
    }

    /// Forgets every connection without a word, as a machine does that was switched off, if its network is cut.
    pub fn forget(&self) {
        self.shared.open.lock().unwrap().values().for_each(crate::front::abort);
    }

    /// Closes the port and every connection.
    pub fn shut(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect_timeout(&self.at, Duration::from_secs(1));
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
        for (_, stream) in self.shared.open.lock().unwrap().drain() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Listens again after `shut`.
    #[track_caller]
    pub fn open(&mut self) {
        self.shared.stop.store(false, Ordering::SeqCst);
        let at = self.at;
        let listener = crate::world::get("the scripted receiver's port is free", 10, || TcpListener::bind(at).ok());
        let shared = self.shared.clone();
        self.accepting = Some(std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stop.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let number = shared.associations.fetch_add(1, Ordering::SeqCst);
                let _ = stream.set_nodelay(true);
                if let Ok(twin) = stream.try_clone() {
                    let mut open = shared.open.lock().unwrap();
                    open.insert(number, twin);
                    shared.peak.fetch_max(open.len(), Ordering::SeqCst);
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

impl Drop for Scp {
    fn drop(&mut self) {
        self.shut();
    }
}

struct Context {
    class: String,
    syntax: String,
}

/// What is being received: the command set, then the data set.
#[derive(Default)]
struct Incoming {
    command: Vec<u8>,
    complete: bool,
    digest: Sha256,
    size: usize,
    bytes: Vec<u8>,
}

fn serve(shared: &Shared, number: usize, mut stream: TcpStream) -> io::Result<()> {
    let (kind, body) = read_pdu(&mut stream)?;
    if kind != pdu::ASSOCIATE_RQ || body.len() < 68 {
        return stream.write_all(&frame(pdu::ABORT, &[0, 0, 2, 2]));
    }
    let text = |range: std::ops::Range<usize>| String::from_utf8_lossy(&body[range]).trim().to_owned();
    let (called, calling) = (text(4..20), text(20..36));
    let welcome = shared.welcome.lock().unwrap().clone();
    let refused = match welcome {
        Welcome::Reject(result, source, reason) => return stream.write_all(&frame(pdu::ASSOCIATE_RJ, &[0, result, source, reason])),
        Welcome::Silence => {
            while !shared.stop.load(Ordering::SeqCst) {
                if read_pdu(&mut stream).is_err() {
                    break;
                }
            }
            return Ok(());
        }
        Welcome::All => Vec::new(),
        Welcome::Except(list) => list,
    };
    let (answer, contexts) = accept(shared, &body, &refused);
    stream.write_all(&frame(pdu::ASSOCIATE_AC, &answer))?;
    let mut incoming = Incoming::default();
    loop {
        let (kind, body) = read_pdu(&mut stream)?;
        match kind {
            pdu::RELEASE_RQ => return stream.write_all(&frame(pdu::RELEASE_RP, &[0; 4])),
            pdu::DATA => {}
            _ => return Ok(()),
        }
        let mut rest = &body[..];
        while rest.len() >= 6 {
            let length = u32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            let (context, flags) = (rest[4], rest[5]);
            let part = rest.get(6..4 + length).ok_or_else(|| io::Error::other("a PDV beyond its PDU"))?;
            rest = &rest[4 + length..];
            if flags & 1 == 1 {
                incoming.command.extend_from_slice(part);
                incoming.complete = flags & 2 == 2;
                if incoming.complete && number_of(&incoming.command, 0x0100) == Some(0x30) {
                    respond(&mut stream, context, &incoming.command, 0x8030, 0)?;
                    incoming = Incoming::default();
                }
                continue;
            }
            incoming.digest.update(part);
            incoming.size += part.len();
            if shared.kept.lock().unwrap().is_some() {
                incoming.bytes.extend_from_slice(part);
            }
            if flags & 2 == 2 {
                let whole = std::mem::take(&mut incoming);
                let Some(agreed) = contexts.get(&context) else { return Ok(()) };
                if !finish(shared, &mut stream, (number, context, agreed), (&calling, &called), whole)? {
                    return Ok(());
                }
            }
        }
    }
}

/// A data set is complete: script, record, answer. False ends the association.
fn finish(
    shared: &Shared,
    stream: &mut TcpStream,
    (association, context, agreed): (usize, u8, &Context),
    (calling, called): (&str, &str),
    whole: Incoming,
) -> io::Result<bool> {
    let mut stored = Stored {
        at: Instant::now(),
        association,
        calling: calling.to_owned(),
        called: called.to_owned(),
        class: text_of(&whole.command, 0x0002),
        instance: text_of(&whole.command, 0x1000),
        transfer_syntax: agreed.syntax.clone(),
        sha256: whole.digest.finalize().iter().map(|b| format!("{b:02x}")).collect(),
        size: whole.size,
        status: None,
        priority: number_of(&whole.command, 0x0700),
        originator: text_of(&whole.command, 0x1030),
    };
    debug_assert!(!agreed.class.is_empty());
    let script = shared.script.lock().unwrap().clone();
    let answer = script(&stored);
    if let Answer::Status(status) | Answer::Late(_, status) = answer {
        stored.status = Some(status);
    }
    if let Some(kept) = shared.kept.lock().unwrap().as_mut() {
        kept.insert(stored.instance.clone(), whole.bytes);
    }
    shared.stored.lock().unwrap().push(stored);
    match answer {
        Answer::Status(status) => respond(stream, context, &whole.command, 0x8001, status)?,
        Answer::Late(delay, status) => {
            std::thread::sleep(delay); // the script asked for a slow peer
            respond(stream, context, &whole.command, 0x8001, status)?;
        }
        Answer::Silence => {}
        Answer::Abort => {
            stream.write_all(&frame(pdu::ABORT, &[0, 0, 0, 0]))?;
            return Ok(false);
        }
        Answer::Close => return Ok(false),
    }
    Ok(true)
}

fn respond(stream: &mut TcpStream, context: u8, request: &[u8], kind: u16, status: u16) -> io::Result<()> {
    let mut elements = vec![
        (0x0002, uid(&text_of(request, 0x0002))),
        (0x0100, kind.to_le_bytes().to_vec()),
        (0x0120, number_of(request, 0x0110).unwrap_or(0).to_le_bytes().to_vec()),
        (0x0800, vec![1, 1]),
        (0x0900, status.to_le_bytes().to_vec()),
    ];
    if kind == 0x8001 {
        elements.push((0x1000, uid(&text_of(request, 0x1000))));
    }
    write_data(stream, context, true, &command(&elements), 16_384)
}

/// The A-ASSOCIATE-AC body and the contexts agreed.
fn accept(shared: &Shared, request: &[u8], refused: &[String]) -> (Vec<u8>, HashMap<u8, Context>) {
    let mut body = request[..68].to_vec();
    body.extend(item(0x10, b"1.2.840.10008.3.1.1.1"));
    let mut contexts = HashMap::new();
    let mut asked_window = false;
    for (kind, value) in items(&request[68..]) {
        if kind == 0x50 {
            asked_window = items(value).iter().any(|(kind, _)| *kind == 0x53);
        }
        if kind != 0x20 || value.len() < 4 {
            continue;
        }
        let id = value[0];
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
        let inner = items(&value[4..]);
        let class = inner.iter().find(|(k, _)| *k == 0x30).map(|(_, v)| text(v)).unwrap_or_default();
        let syntax = inner.iter().filter(|(k, _)| *k == 0x40).map(|(_, v)| text(v)).find(|s| !refused.contains(s));
        let result = match (&syntax, refused.contains(&class)) {
            (_, true) => 3,
            (None, _) => 4,
            _ => 0,
        };
        let mut answer = vec![id, 0, result, 0];
        answer.extend(item(0x40, syntax.as_deref().unwrap_or(crate::dicom::IMPLICIT).as_bytes()));
        body.extend(item(0x21, &answer));
        if let (0, Some(syntax)) = (result, syntax) {
            contexts.insert(id, Context { class, syntax });
        }
    }
    let max = u32::try_from(shared.max_pdu.load(Ordering::SeqCst)).unwrap_or(0);
    let mut user = item(0x51, &max.to_be_bytes());
    user.extend(item(0x52, b"1.2.826.0.1.3680043.10.2"));
    if let (true, Some((invoked, performed))) = (asked_window, *shared.window.lock().unwrap()) {
        user.extend(item(0x53, &[invoked.to_be_bytes(), performed.to_be_bytes()].concat()));
    }
    body.extend(item(0x50, &user));
    (body, contexts)
}
