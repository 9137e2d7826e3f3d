//! What the DICOM tests stand on: a listener on a real spool, and the other end of its wire, which sends whatever bytes a test wants.

use bytes::BytesMut;
use everpost_client::dicom::association::{Association, Indication};
use everpost_client::dicom::dimse::{self, Command, Response, StoreRq};
use everpost_client::dicom::negotiate::{self, Agreed, Proposal};
use everpost_client::dicom::pdu::{self, AssociationRQ, Received};
use everpost_client::dicom::uid;
use everpost_client::event::{Event, Events};
use everpost_client::io::committer::Committer;
use everpost_client::io::disk::Directory;
use everpost_client::io::stop::{Stop, Stopper};
use everpost_client::spool::{Envelope, Spool};
use everpost_gateway::config::{Config, Listener};
use everpost_gateway::intake::Intake;
use everpost_gateway::listener::dicom;
use everpost_gateway::route::Routes;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

/// CT image storage.
pub(crate) const CT: &str = "1.2.840.10008.5.1.4.1.1.2";

/// A listener with everything behind it.
pub(crate) struct Gateway {
    pub(crate) listener: Arc<Listener>,
    pub(crate) intake: Arc<Intake>,
    pub(crate) spool: Arc<Spool>,
    committer: Committer,
    events: Arc<Mutex<Vec<Event>>>,
    stopper: Stopper,
    stop: Stop,
    _dir: TempDir,
}

impl Gateway {
    /// `keys` are added to the listener's, `spool` to `[spool]`.
    pub(crate) fn new(keys: &str, spool: &str) -> Self {
        Self::with_destination(keys, spool, "")
    }

    /// The same with keys for the destination.
    pub(crate) fn with_destination(keys: &str, spool: &str, destination: &str) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let file = dir.path().join("everpost.toml");
        let text = format!(
            "name = \"t\"\ndata_dir = \"{}\"\n[spool]\nsegment_size = \"4 MiB\"\n{spool}\n\
             [[listener]]\nname = \"in\"\nprotocol = \"dicom\"\nbind = \"127.0.0.1:0\"\n{keys}\n\
             [[destination]]\nname = \"pacs\"\nprotocol = \"dicom\"\n{destination}\n\
             [[destination.endpoint]]\nname = \"one\"\naddress = \"127.0.0.1:1\"\nae_title = \"PACS\"\n\
             [[route]]\nto = [\"pacs\"]\nwhen = {{ calling_ae = [\"MODALITY\"] }}\n",
            dir.path().display()
        );
        std::fs::write(&file, text).unwrap();
        let config = Config::load(&file).unwrap_or_else(|problems| panic!("{problems:?}"));
        let events = Arc::new(Mutex::new(Vec::new()));
        let seen = events.clone();
        let reader = Events::to(move |event| seen.lock().unwrap().push(event));
        let storage = Directory::open(&dir.path().join("spool")).unwrap();
        let (spool, _) = Spool::open(storage, config.spool.clone(), reader.clone()).unwrap();
        let spool = Arc::new(spool);
        let destination = spool.destination("pacs").unwrap();
        let committer = Committer::start(spool.clone()).unwrap();
        let routes = Routes::new(config.routes.clone(), vec![(config.destinations[0].clone(), destination)]);
        let intake = Intake::new(committer.clone(), routes, reader);
        let (stopper, stop) = Stop::new();
        Self { listener: config.listeners[0].clone(), intake, spool, committer, events, stopper, stop, _dir: dir }
    }

    /// A plain one.
    pub(crate) fn plain() -> Self {
        Self::new("", "reserve = \"1 MiB\"")
    }

    /// A new connection.
    pub(crate) fn connect(&self) -> Peer {
        self.connect_from("192.0.2.7:4711")
    }

    /// A new connection from an address.
    pub(crate) fn connect_from(&self, from: &'static str) -> Peer {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let (listener, intake, stop) = (self.listener.clone(), self.intake.clone(), self.stop.clone());
        let task = tokio::spawn(async move { dicom::serve(&mut theirs, from.parse().unwrap(), listener, intake, stop).await });
        Peer { wire: ours, buffer: BytesMut::new(), task }
    }

    /// A new association with these contexts, each with its transfer syntaxes.
    pub(crate) async fn associate(&self, contexts: &[(&str, &[&str])], window: u16) -> Scu {
        Scu::new(self.connect(), request(contexts, window)).await
    }

    /// Says stop to the listener and the way in.
    pub(crate) fn stop(&self) {
        self.intake.stop();
        self.stopper.stop();
    }

    /// What waits for the destination, with its content.
    pub(crate) fn waiting(&self) -> Vec<(Envelope, Vec<u8>)> {
        let destination = self.spool.destination("pacs").unwrap();
        let mut found = Vec::new();
        while let Some(envelope) = self.spool.take(destination).unwrap() {
            let mut content = Vec::new();
            let mut reader = self.spool.open_content(envelope.message).unwrap();
            while let Some(chunk) = reader.next_chunk().unwrap() {
                content.extend_from_slice(&chunk);
            }
            found.push((envelope, content));
        }
        found
    }

    /// Texts of the notices so far.
    pub(crate) fn notices(&self) -> Vec<String> {
        let seen = self.events.lock().unwrap();
        seen.iter().filter_map(|event| if let Event::ListenerNotice { what, .. } = event { Some(what.clone()) } else { None }).collect()
    }

    /// Labels of the refusals so far.
    pub(crate) fn refusals(&self) -> Vec<&'static str> {
        let seen = self.events.lock().unwrap();
        seen.iter().filter_map(|event| if let Event::Refused { reason, .. } = event { Some(reason.label()) } else { None }).collect()
    }

    /// Messages said to be accepted so far.
    pub(crate) fn accepted(&self) -> usize {
        self.events.lock().unwrap().iter().filter(|event| matches!(event, Event::Accepted { .. })).count()
    }

    /// Ends the spool's threads.
    pub(crate) async fn close(self) {
        self.committer.stop().await.unwrap();
    }
}

/// An A-ASSOCIATE-RQ from MODALITY to EVERPOST.
pub(crate) fn request(contexts: &[(&str, &[&str])], window: u16) -> AssociationRQ {
    let contexts = contexts.iter().map(|(class, syntaxes)| ((*class).to_owned(), syntaxes.iter().map(|s| (*s).to_owned()).collect())).collect();
    let proposal = Proposal { calling_ae: "MODALITY".into(), called_ae: "EVERPOST".into(), contexts, max_pdu: 16384, window };
    negotiate::propose(&proposal).unwrap()
}

/// Longer than any timer tried here; a listener that is silent beyond it has forgotten something.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(std::time::Duration::from_secs(100), what).await.expect("the listener does something")
}

/// The other end of a listener's wire: raw bytes.
pub(crate) struct Peer {
    pub(crate) wire: DuplexStream,
    buffer: BytesMut,
    task: JoinHandle<()>,
}

impl Peer {
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.wire.write_all(bytes).await.unwrap();
    }

    /// The next PDU as bytes; `None` when the listener closed.
    pub(crate) async fn pdu(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(header) = self.buffer.first_chunk::<6>() {
                let whole = 6 + u32::from_be_bytes([header[2], header[3], header[4], header[5]]) as usize;
                if self.buffer.len() >= whole {
                    return Some(self.buffer.split_to(whole).to_vec());
                }
            }
            if soon(self.wire.read_buf(&mut self.buffer)).await.unwrap_or(0) == 0 {
                assert!(self.buffer.is_empty(), "the listener closed inside of a PDU");
                return None;
            }
        }
    }

    /// Closes and waits for the conversation to end.
    pub(crate) async fn leave(self) {
        drop(self.wire);
        soon(self.task).await.unwrap();
    }

    /// The conversation has ended by itself.
    pub(crate) async fn ended(self) {
        soon(self.task).await.unwrap();
    }
}

/// A requestor with an association.
pub(crate) struct Scu {
    pub(crate) peer: Peer,
    pub(crate) association: Association,
    pub(crate) agreed: Agreed,
    next: u16,
}

impl Scu {
    pub(crate) async fn new(peer: Peer, rq: AssociationRQ) -> Self {
        let association = Association::requesting(rq.clone(), 16384);
        let agreed = negotiate::agree(&rq, &negotiate::accept(&negotiate::Acceptance::default(), &rq).unwrap().0);
        let mut this = Self { peer, association, agreed, next: 1 };
        this.flush().await;
        match this.told().await {
            Some(Indication::Accepted(ac)) => this.agreed = negotiate::agree(&rq, &ac),
            other => panic!("{other:?}"),
        }
        this
    }

    pub(crate) async fn flush(&mut self) {
        let bytes = self.association.output().split();
        self.peer.send(&bytes).await;
    }

    /// The next indication; `None` when the listener closed without one.
    pub(crate) async fn told(&mut self) -> Option<Indication> {
        loop {
            if let Some(indication) = self.association.poll() {
                return Some(indication);
            }
            if self.association.finished() {
                return None;
            }
            if soon(self.peer.wire.read_buf(self.association.space())).await.unwrap_or(0) == 0 {
                return self.association.transport_closed();
            }
        }
    }

    /// The next response.
    pub(crate) async fn response(&mut self) -> Response {
        let mut set = Vec::new();
        loop {
            match self.told().await {
                Some(Indication::Data(fragment)) => {
                    assert!(fragment.command, "a response has no data set");
                    set.extend_from_slice(&fragment.data);
                    if fragment.last {
                        let Ok(Command::Response { response, data_set: false }) = dimse::decode(&set) else { panic!("no response") };
                        return response;
                    }
                }
                other => panic!("no response but {other:?}"),
            }
        }
    }

    /// The command of a C-STORE in a context, without its data set. Returns its message id.
    pub(crate) async fn store_command(&mut self, context: u8, class: &str, instance: &str) -> u16 {
        let message_id = self.next;
        self.next += 1;
        let request = StoreRq {
            message_id,
            sop_class: class.into(),
            sop_instance: instance.into(),
            priority: 2,
            move_originator_ae: Some("MOVER".into()),
            move_originator_id: Some(77),
        };
        self.association.send_command(context, &dimse::encode_store_rq(&request)).unwrap();
        self.flush().await;
        message_id
    }

    /// Part of a data set.
    pub(crate) async fn data(&mut self, context: u8, bytes: &[u8], last: bool) {
        let header = pdu::data_header(context, false, last, bytes.len());
        self.peer.send(&[&header[..], bytes].concat()).await;
    }

    /// A whole C-STORE of a CT in context 1, unanswered.
    pub(crate) async fn store(&mut self, instance: &str, data: &[u8]) -> u16 {
        let id = self.store_command(1, CT, instance).await;
        for (at, piece) in data.chunks(10_000).enumerate() {
            self.data(1, piece, (at + 1) * 10_000 >= data.len()).await;
        }
        id
    }

    pub(crate) async fn echo(&mut self) -> Response {
        let context = self.agreed.contexts[0].id;
        self.association.send_command(context, &dimse::encode_echo_rq(999)).unwrap();
        self.flush().await;
        self.response().await
    }

    /// Releases and waits for the end.
    pub(crate) async fn release(self) {
        self.release_only().await.leave().await;
    }

    /// Releases and keeps the connection open.
    pub(crate) async fn release_only(mut self) -> Peer {
        self.association.release().unwrap();
        self.flush().await;
        assert_eq!(self.told().await, Some(Indication::Released));
        self.peer
    }
}

/// What a PDU says.
pub(crate) fn read(bytes: &[u8]) -> Received {
    let mut decoder = pdu::Decoder::new(0);
    decoder.space().extend_from_slice(bytes);
    decoder.take().unwrap().unwrap()
}

/// An element of implicit VR little endian.
pub(crate) fn element(group: u16, element: u16, value: &[u8]) -> Vec<u8> {
    [&group.to_le_bytes()[..], &element.to_le_bytes(), &(value.len() as u32).to_le_bytes(), value].concat()
}

/// A synthetic CT in implicit VR little endian.
pub(crate) fn data_set(instance: &str, pixels: usize) -> Vec<u8> {
    let mut instance = instance.as_bytes().to_vec();
    instance.resize(instance.len().next_multiple_of(2), 0);
    let pixels: Vec<u8> = (0..pixels).map(|at| (at % 251) as u8).collect();
    [
        element(0x0008, 0x0016, b"1.2.840.10008.5.1.4.1.1.2\0"),
        element(0x0008, 0x0018, &instance),
        element(0x0008, 0x0050, b"ACC1"),
        element(0x0008, 0x0060, b"CT"),
        element(0x0010, 0x0020, b"SYNTH1"),
        element(0x0020, 0x000D, b"1.2.30"),
        element(0x0020, 0x000E, b"1.2.31"),
        element(0x7FE0, 0x0010, &pixels),
    ]
    .concat()
}

/// Implicit VR little endian only.
pub(crate) const IMPLICIT: &[&str] = &[uid::IMPLICIT_LE];
