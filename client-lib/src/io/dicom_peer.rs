//! A DICOM receiver for the tests of this folder: it does what its script says, and keeps what it was told.

#![allow(clippy::unwrap_used, clippy::disallowed_types, reason = "tests only")]

use crate::dicom::association::{Association, Indication};
use crate::dicom::dimse::{self, Command, Response};
use crate::dicom::negotiate::{self, Acceptance, Agreed};
use crate::dicom::pdu::{Abort, PresentationContextResultReason as Reason, Reject};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What it does with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// Answers when it is whole.
    Answer(u16),
    /// Answers with the next one's answer, after it.
    AnswerAfterNext(u16),
    /// Says nothing.
    Silence,
    /// Closes when it is whole.
    CloseAfter,
    /// Closes at its first byte.
    CloseWithin,
    /// Aborts at its first byte.
    AbortWithin,
    /// Answers at its first byte.
    AnswerWithin(u16),
    /// Answers another message.
    AnswerOther,
    /// Answers, then releases.
    AnswerAndRelease(u16),
    /// Answers, then closes without a word.
    AnswerAndClose(u16),
}

/// What it was told.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Calling AE title and proposed contexts of each association.
    pub(crate) associations: Vec<(String, usize)>,
    /// Whole objects: transfer syntax and bytes.
    pub(crate) objects: Vec<(String, Vec<u8>)>,
    /// Objects that broke off.
    pub(crate) torn: usize,
    pub(crate) releases: usize,
    pub(crate) aborts: usize,
    pub(crate) open: usize,
    pub(crate) open_most: usize,
    /// Level of each query.
    pub(crate) queries: Vec<String>,
    /// Command of the last C-STORE-RQ.
    pub(crate) request: Option<dimse::StoreRq>,
}

/// What it does with a query.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Query {
    /// Answers.
    #[default]
    Answers,
    /// Takes no presentation context for queries.
    Unknown,
    /// Answers with this status and no match.
    Fails(u16),
    /// Says nothing.
    Mute,
    /// Closes, the first time.
    ClosesOnce,
}

/// How it behaves.
#[derive(Debug, Clone, Default)]
pub(crate) struct Script {
    /// One for each object; then `Answer(0)`.
    pub(crate) acts: VecDeque<Act>,
    /// Transfer syntaxes taken; none: all.
    pub(crate) syntaxes: Vec<&'static str>,
    /// Answer to every association request.
    pub(crate) reject: Option<Reject>,
    /// Says nothing to association requests.
    pub(crate) mute: bool,
    /// Largest P-DATA-TF; 0: the default.
    pub(crate) max_pdu: u32,
    /// One connection at a time; the others wait unanswered.
    pub(crate) serial: bool,
    /// Answers a release request with one of its own, and waits for the answer to it first.
    pub(crate) collides: bool,
    /// Takes so long for each piece of a data set, in milliseconds.
    pub(crate) slow: u64,
    /// Associations taken at once, the others are turned down for now; 0: any number.
    pub(crate) most: usize,
    /// Study, series and instance of what it has.
    pub(crate) holds: Vec<[&'static str; 3]>,
    pub(crate) query: Query,
}

pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    pub(crate) heard: Arc<Mutex<Heard>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Peer {
    pub(crate) async fn start(script: Script) -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Heard::default()));
        let shared = (Arc::new(Mutex::new(script.acts.clone())), heard.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let served = tokio::spawn(serve(stream, script.clone(), shared.clone()));
                if script.serial {
                    let _ = served.await;
                }
            }
        });
        Peer { address, heard, task }
    }

    /// Waits until it has heard something; the test's own time limit ends a wait in vain.
    pub(crate) async fn until(&self, heard: impl Fn(&Heard) -> bool) {
        while !heard(&self.heard.lock().unwrap()) {
            tokio::task::yield_now().await;
        }
    }
}

type Shared = (Arc<Mutex<VecDeque<Act>>>, Arc<Mutex<Heard>>);

struct Conversation {
    stream: TcpStream,
    association: Association,
    script: Script,
    shared: Shared,
    agreed: Option<Agreed>,
    command: Vec<u8>,
    object: Option<(u16, String, Act, Vec<u8>)>,
    later: Vec<(u16, u16)>,
    /// A query that is coming in: its message id and its data set so far.
    query: Option<(u16, Vec<u8>)>,
}

async fn serve(stream: TcpStream, script: Script, shared: Shared) {
    let max_pdu = if script.max_pdu == 0 { 16_384 } else { script.max_pdu };
    let association = Association::accepting(max_pdu);
    let mut this =
        Conversation { stream, association, script, shared, agreed: None, command: Vec::new(), object: None, later: Vec::new(), query: None };
    this.run(max_pdu).await;
    let mut heard = this.shared.1.lock().unwrap();
    heard.torn += usize::from(this.object.is_some());
    heard.open -= usize::from(this.agreed.is_some());
}

impl Conversation {
    async fn run(&mut self, max_pdu: u32) {
        loop {
            let output = self.association.output().split();
            if self.stream.write_all(&output).await.is_err() || self.association.finished() {
                return;
            }
            let Some(indication) = self.association.poll() else {
                match self.stream.read_buf(self.association.space()).await {
                    Ok(1..) => continue,
                    _ => return,
                }
            };
            let go_on = match indication {
                Indication::Requested(_) if self.script.mute => true,
                Indication::Requested(rq) => self.requested(&rq, max_pdu),
                Indication::Data(fragment) if fragment.command => {
                    self.command.extend_from_slice(&fragment.data);
                    if fragment.last {
                        self.commanded(fragment.context);
                    }
                    true
                }
                Indication::Data(fragment) if self.script.slow > 0 => {
                    tokio::time::sleep(std::time::Duration::from_millis(self.script.slow)).await;
                    self.data(fragment.context, &fragment.data, fragment.last)
                }
                Indication::Data(fragment) => self.data(fragment.context, &fragment.data, fragment.last),
                Indication::ReleaseRequested if self.script.collides => {
                    let mut answer = [0; 10];
                    let collided = async {
                        self.stream.write_all(&crate::dicom::pdu::RELEASE_RQ).await?;
                        self.stream.read_exact(&mut answer).await?;
                        self.stream.write_all(&crate::dicom::pdu::RELEASE_RP).await
                    };
                    let answered = collided.await.is_ok() && answer == crate::dicom::pdu::RELEASE_RP;
                    self.shared.1.lock().unwrap().releases += usize::from(answered);
                    false
                }
                Indication::ReleaseRequested => {
                    let mut heard = self.shared.1.lock().unwrap();
                    heard.releases += 1;
                    // From here on the place is free, whenever the connection closes.
                    heard.open -= usize::from(self.agreed.take().is_some());
                    self.association.respond_release().is_ok()
                }
                Indication::Aborted(_) => {
                    self.shared.1.lock().unwrap().aborts += 1;
                    false
                }
                _ => false,
            };
            if !go_on {
                let output = self.association.output().split();
                let _ = self.stream.write_all(&output).await;
                return;
            }
        }
    }

    fn requested(&mut self, rq: &crate::dicom::pdu::AssociationRQ, max_pdu: u32) -> bool {
        if let Some(reject) = self.script.reject {
            return self.association.reject(reject).is_ok();
        }
        if self.script.most > 0 && self.shared.1.lock().unwrap().open >= self.script.most {
            return self.association.reject(Reject::LOCAL_LIMIT).is_ok();
        }
        let (mut ac, agreed) = negotiate::accept(&Acceptance { max_pdu, ..Acceptance::default() }, rq).unwrap();
        for (result, proposed) in ac.presentation_contexts.iter_mut().zip(&rq.presentation_contexts) {
            if self.script.query != Query::Unknown && proposed.abstract_syntax == crate::dicom::uid::STUDY_ROOT_FIND {
                (result.reason, result.transfer_syntax) = (Reason::Acceptance, crate::dicom::uid::IMPLICIT_LE.to_owned());
            }
            if !self.script.syntaxes.is_empty() && !self.script.syntaxes.contains(&result.transfer_syntax.as_str()) {
                result.reason = Reason::TransferSyntaxesNotSupported;
            }
        }
        let mut heard = self.shared.1.lock().unwrap();
        heard.associations.push((agreed.calling_ae.clone(), rq.presentation_contexts.len()));
        heard.open += 1;
        heard.open_most = heard.open_most.max(heard.open);
        self.agreed = Some(agreed);
        self.association.accept(ac).is_ok()
    }

    fn commanded(&mut self, context: u8) {
        match dimse::decode(&std::mem::take(&mut self.command)).unwrap() {
            Command::EchoRq { message_id, .. } => self.respond(context, dimse::C_ECHO_RSP, message_id, 0),
            Command::StoreRq { request, .. } => {
                let act = self.shared.0.lock().unwrap().pop_front().unwrap_or(Act::Answer(0));
                let syntax = self.agreed.as_ref().unwrap().context(context).unwrap().transfer_syntax.clone();
                self.object = Some((request.message_id, syntax, act, Vec::new()));
                self.shared.1.lock().unwrap().request = Some(request);
            }
            Command::OtherRq { command_field: dimse::C_FIND_RQ, message_id, .. } => self.query = Some((message_id, Vec::new())),
            other => panic!("unexpected {other:?}"),
        }
    }

    fn respond(&mut self, context: u8, command_field: u16, message_id: u16, status: u16) {
        let response = Response { command_field, message_id, status, ..Response::default() };
        self.association.send_command(context, &dimse::encode_response(&response)).unwrap();
    }

    /// A query is whole. False: close.
    fn queried(&mut self, context: u8, id: u16, identifier: &[u8]) -> bool {
        let asked = elements(identifier);
        let of = |tag: u32| asked.iter().find(|(t, _)| *t == tag).map(|(_, value)| value.as_str()).unwrap_or_default();
        let level = of(0x0008_0052).to_owned();
        let first = {
            let mut heard = self.shared.1.lock().unwrap();
            heard.queries.push(level.clone());
            heard.queries.len() == 1
        };
        match self.script.query {
            Query::Mute => return true,
            Query::ClosesOnce if first => return false,
            Query::Fails(status) => {
                self.respond(context, dimse::C_FIND_RSP, id, status);
                return true;
            }
            _ => {}
        }
        let fits = |wanted: &str, has: &str| wanted.is_empty() || wanted == has;
        let mut matches: Vec<Vec<u8>> = Vec::new();
        for [study, series, instance] in &self.script.holds {
            if fits(of(0x0020_000D), study) && fits(of(0x0020_000E), series) && fits(of(0x0008_0018), instance) {
                let image = if level == "IMAGE" { element(0x0008_0018, instance) } else { Vec::new() };
                let whole = [image, element(0x0020_000D, study)].concat();
                if !matches.contains(&whole) {
                    matches.push(whole);
                }
            }
        }
        for identifier in matches {
            let response = Response { command_field: dimse::C_FIND_RSP, message_id: id, status: 0xFF00, ..Response::default() };
            let mut command = dimse::encode_response(&response);
            // (0000,0800): a data set follows.
            let at = command.windows(4).position(|part| part == [0, 0, 0, 8]).unwrap();
            command[at + 8..at + 10].copy_from_slice(&[0, 0]);
            self.association.send_command(context, &command).unwrap();
            crate::dicom::pdu::encode_data(self.association.output(), context, false, &identifier, 64);
        }
        self.respond(context, dimse::C_FIND_RSP, id, 0);
        true
    }

    /// False: close.
    fn data(&mut self, context: u8, data: &[u8], last: bool) -> bool {
        if let Some((id, mut identifier)) = self.query.take() {
            identifier.extend_from_slice(data);
            if last {
                return self.queried(context, id, &identifier);
            }
            self.query = Some((id, identifier));
            return true;
        }
        let (id, syntax, act, mut bytes) = self.object.take().unwrap();
        bytes.extend_from_slice(data);
        match act {
            Act::CloseWithin => {
                self.object = Some((id, syntax, act, bytes));
                return false;
            }
            Act::AbortWithin => {
                self.object = Some((id, syntax, act, bytes));
                self.association.abort(Abort::USER);
                return false;
            }
            Act::AnswerWithin(status) if bytes.len() == data.len() => self.respond(context, dimse::C_STORE_RSP, id, status),
            _ => {}
        }
        if !last {
            self.object = Some((id, syntax, act, bytes));
            return true;
        }
        self.shared.1.lock().unwrap().objects.push((syntax, bytes));
        match act {
            Act::Answer(status) => self.respond(context, dimse::C_STORE_RSP, id, status),
            Act::AnswerAfterNext(status) => {
                self.later.push((id, status));
                return true;
            }
            Act::AnswerOther => self.respond(context, dimse::C_STORE_RSP, id.wrapping_add(99), 0),
            Act::CloseAfter => return false,
            Act::AnswerAndRelease(status) => {
                self.respond(context, dimse::C_STORE_RSP, id, status);
                self.association.release().unwrap();
            }
            Act::AnswerAndClose(status) => {
                self.respond(context, dimse::C_STORE_RSP, id, status);
                return false;
            }
            Act::Silence | Act::AnswerWithin(_) | Act::CloseWithin | Act::AbortWithin => {}
        }
        for (id, status) in std::mem::take(&mut self.later) {
            self.respond(context, dimse::C_STORE_RSP, id, status);
        }
        true
    }
}

fn element(tag: u32, value: &str) -> Vec<u8> {
    let mut value = value.as_bytes().to_vec();
    value.resize(value.len().next_multiple_of(2), 0);
    [&((tag >> 16) as u16).to_le_bytes()[..], &(tag as u16).to_le_bytes(), &(value.len() as u32).to_le_bytes(), &value].concat()
}

fn elements(mut set: &[u8]) -> Vec<(u32, String)> {
    let mut all = Vec::new();
    while let Some((&[a, b, c, d, e, f, g, h], rest)) = set.split_first_chunk::<8>() {
        let (value, rest) = rest.split_at(u32::from_le_bytes([e, f, g, h]) as usize);
        let tag = u32::from(u16::from_le_bytes([a, b])) << 16 | u32::from(u16::from_le_bytes([c, d]));
        all.push((tag, String::from_utf8_lossy(value).trim_end_matches(['\0', ' ']).to_owned()));
        set = rest;
    }
    all
}
