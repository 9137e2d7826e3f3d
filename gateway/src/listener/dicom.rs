//! One DICOM association, as Verification and Storage SCP: negotiate, take objects into the spool as they arrive, answer when they are durable.
//!
//! Rules:
//! - 0000H leaves only with a `Receipt`. Answers leave in the order of their requests, each in one piece; with an asynchronous window the next object
//!   is read while the one before becomes durable.
//! - Bytes go into the spool as they came; memory holds one read buffer and one chunk per association, whatever the object's size. Whatever ends the
//!   association early drops the half object with its writer.
//! - What cannot be taken (reserve, no route, class) is read to its end, dropped, and refused with a status; only a broken protocol aborts.
//! - Waits: ARTIM until the request and after the end, `idle_timeout` in between, a lowest rate for what was begun, a deadline for each write. All end
//!   at a stop. A peer is listened to once more before it is given up: after a time in which we stood still, what it sent lies unread.
//!
//! Errors: a peer's faults become A-ASSOCIATE-RJ, a status or A-ABORT, and one `ListenerNotice` each, without patient data.

mod object;

use crate::config::Listener;
use crate::intake::{Intake, Place};
use crate::listener::accept::Connection;
use crate::listener::allowance::{Allowance, within};
use everpost_client::dicom::association::{Association, Fault, Indication};
use everpost_client::dicom::dimse::{self, Command, Response};
use everpost_client::dicom::negotiate::{self, Acceptance, Agreed, Classes};
use everpost_client::dicom::pdu::{Abort, AssociationAC, AssociationRQ, Fragment, PduError, Reject};
use everpost_client::dicom::{status, uid};
use everpost_client::event::Refusal;
use everpost_client::io::stop::Stop;
use everpost_client::io::stream::{self, Stream};
use everpost_client::limits::{self, INTAKE_BYTES_PER_SECOND_MIN};
use everpost_client::spool::{Lane, Receipt};
use object::{Object, Whole};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Duration, Instant, Sleep, sleep_until};

/// The bytes of a connection. A trait, so that tests can do without sockets.
pub trait Wire: AsyncRead + AsyncWrite + Unpin + Send {
    /// Called after each read.
    fn received(&self) {}
}

impl Wire for Stream {
    fn received(&self) {
        self.rearm_quickack();
    }
}

impl Wire for tokio::io::DuplexStream {}

/// Speaks with one peer until the connection ends.
pub async fn converse(connection: Connection, listener: Arc<Listener>, intake: Arc<Intake>, stop: Stop) {
    let Connection { mut stream, peer, slot } = connection;
    serve(&mut stream, peer, listener, intake, stop).await;
    stream::close(stream).await;
    drop(slot);
}

/// The same on any wire. Returns when the wire is to be closed.
pub async fn serve<W: Wire>(wire: &mut W, peer: SocketAddr, listener: Arc<Listener>, intake: Arc<Intake>, stop: Stop) {
    let mut conversation = Conversation::new(wire, peer, listener, intake);
    if let Err(end) = conversation.run(&stop).await {
        conversation.notice(&end.to_string());
    }
    conversation.abandon();
}

/// Why a conversation ended badly. The texts hold no patient data.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the connection failed: {0}")]
    Wire(#[from] io::Error),
    #[error("the peer did not take a response within {} s; the association was given up", limits::DICOM_WRITE.as_secs())]
    Write,
    #[error("{0}; the association was aborted")]
    Fault(String),
    #[error("no association was asked for within {} s", limits::ARTIM.as_secs())]
    Artim,
    #[error("nothing came for {} s; the association was aborted", .0.as_secs())]
    Idle(Duration),
    #[error(
        "the peer sent less than {INTAKE_BYTES_PER_SECOND_MIN} bytes/s of what it had begun and the association was aborted; what had come of it was \
         dropped"
    )]
    Slow,
    #[error("the peer was lost inside of an object; what had come of it was dropped")]
    LostInside,
}

type Commit = Pin<Box<dyn Future<Output = Result<Receipt, Refusal>> + Send>>;

/// An answer that waits its turn.
struct Answer {
    context: u8,
    response: Response,
    /// Its status comes from here.
    commit: Option<Commit>,
    /// A destination keeps an order that it belongs to: its commit begins when those before it have ended.
    ordered: bool,
}

/// What ended a wait.
enum Wake {
    Read(usize),
    /// Bytes of the object were read straight into its chunk.
    Straight(usize),
    /// The commit of this answer ended.
    Committed(usize, Result<Receipt, Refusal>),
    Timer,
    Stop,
}

struct Conversation<'w, W> {
    wire: &'w mut W,
    peer: SocketAddr,
    listener: Arc<Listener>,
    intake: Arc<Intake>,
    association: Association,
    agreed: Option<Agreed>,
    place: Option<Place>,
    /// The command set being received, and its context.
    command: Vec<u8>,
    command_context: Option<u8>,
    /// The object being received.
    object: Option<Object>,
    answers: VecDeque<Answer>,
    release: bool,
    stopping: bool,
    /// When the present state of the ARTIM timer began, and when bytes came last.
    artim_since: Instant,
    heard: Instant,
    rested: bool,
    /// The time for what is half received.
    inside: Option<Allowance>,
    /// A deadline has passed; the peer is listened to once more until then.
    looked: Option<Instant>,
}

impl<'w, W: Wire> Conversation<'w, W> {
    fn new(wire: &'w mut W, peer: SocketAddr, listener: Arc<Listener>, intake: Arc<Intake>) -> Self {
        let association = Association::accepting(listener.max_pdu);
        let now = Instant::now();
        Self {
            wire,
            peer,
            listener,
            intake,
            association,
            agreed: None,
            place: None,
            command: Vec::new(),
            command_context: None,
            object: None,
            answers: VecDeque::new(),
            release: false,
            stopping: false,
            artim_since: now,
            heard: now,
            rested: false,
            inside: None,
            looked: None,
        }
    }

    async fn run(&mut self, stop: &Stop) -> Result<(), End> {
        let mut timer = pin!(sleep_until(self.deadline()));
        let mut stopped = pin!(stop.wait());
        loop {
            if let Err(end) = self.work() {
                self.notice(&end.to_string());
            }
            self.flush().await?;
            if self.association.finished() {
                return Ok(());
            }
            self.inside = self.half().then(|| self.inside.unwrap_or_else(|| Allowance::begin(Instant::now())));
            let due = self.deadline();
            if due < timer.deadline() {
                timer.as_mut().reset(due);
            }
            match self.wait(&mut timer, &mut stopped).await {
                Ok(Wake::Read(0)) => {
                    let inside = self.object.is_some();
                    return if self.association.transport_closed().is_some() && inside { Err(End::LostInside) } else { Ok(()) };
                }
                // Scanners and health checks reset connections on which nothing was begun.
                Err(_) if self.agreed.is_none() || self.association.over() => return Ok(()),
                Err(error) => return Err(End::Wire(error)),
                Ok(Wake::Read(_)) => self.wire.received(),
                Ok(Wake::Straight(bytes)) => {
                    self.wire.received();
                    self.passed(bytes);
                }
                Ok(Wake::Committed(place, result)) => self.committed(place, result),
                Ok(Wake::Timer) => {
                    if let Err(end) = self.time(timer.deadline()) {
                        self.notice(&end.to_string());
                    }
                    timer.as_mut().reset(self.deadline());
                }
                Ok(Wake::Stop) => {
                    self.stopping = true;
                    self.artim_since = Instant::now();
                }
            }
        }
    }

    /// Waits for the next thing to happen. Cancel safe: nothing is lost between two waits.
    async fn wait(&mut self, timer: &mut Pin<&mut Sleep>, stopped: &mut Pin<&mut impl Future<Output = ()>>) -> io::Result<Wake> {
        // Beyond its window a sender has to wait: its next object stays in the socket.
        let reading = self.answers.len() < self.window();
        // All of them move on, so that one sync serves many, but for those whose order somebody keeps: the order of commits is the order of delivery.
        let committed = poll_fn(|cx| {
            for (place, answer) in self.answers.iter_mut().enumerate() {
                let begun = answer.commit.as_mut().filter(|_| place == 0 || !answer.ordered);
                if let Some(Poll::Ready(result)) = begun.map(|commit| commit.as_mut().poll(cx)) {
                    return Poll::Ready((place, result));
                }
            }
            Poll::Pending
        });
        let (wire, association, object) = (&mut *self.wire, &mut self.association, &mut self.object);
        let read = async move {
            let straight = association.straight().zip(object.as_mut());
            match straight.and_then(|((context, most), object)| object.space(context, most)) {
                Some(space) => Ok::<_, io::Error>(match wire.read(space).await? {
                    0 => Wake::Read(0),
                    bytes => Wake::Straight(bytes),
                }),
                None => Ok(Wake::Read(wire.read_buf(association.space()).await?)),
            }
        };
        tokio::select! {
            biased;
            (place, result) = committed => Ok(Wake::Committed(place, result)),
            read = read, if reading => {
                let read = read?;
                if let Wake::Read(bytes) | Wake::Straight(bytes) = read {
                    self.heard(bytes);
                }
                Ok(read)
            }
            () = timer.as_mut() => Ok(Wake::Timer),
            () = stopped.as_mut(), if !self.stopping => Ok(Wake::Stop),
        }
    }

    fn heard(&mut self, bytes: usize) {
        self.heard = Instant::now();
        self.rested = false;
        if let Some(allowance) = &mut self.inside {
            allowance.received(bytes, self.heard);
        }
        if self.due() > self.heard {
            self.looked = None;
        }
    }

    fn window(&self) -> usize {
        self.agreed.as_ref().map_or(1, |agreed| usize::from(agreed.window))
    }

    /// Everything that can be done without waiting.
    fn work(&mut self) -> Result<(), End> {
        let over_before = self.association.over();
        let result = self.indications();
        if let Err(End::Fault(_)) = &result {
            self.association.abort(Abort::USER);
        }
        self.answer();
        if self.stopping && self.association.established() && self.idle() {
            self.association.abort(Abort::USER);
        }
        if self.association.over() {
            self.give_up();
            if !over_before {
                self.artim_since = Instant::now();
                self.heard = self.artim_since;
            }
        }
        result
    }

    fn indications(&mut self) -> Result<(), End> {
        while self.has_room() {
            match self.association.poll() {
                None => break,
                Some(Indication::Data(fragment)) => self.data(fragment)?,
                Some(Indication::Requested(rq)) => self.requested(&rq),
                Some(Indication::ReleaseRequested) => {
                    // An object that was not finished was not answered either: the sender knows that we do not have it.
                    self.object = None;
                    self.release = true;
                }
                Some(Indication::Failed(fault)) => return Err(End::Fault(explain(&fault))),
                Some(Indication::Aborted(_)) => {
                    if self.object.is_some() {
                        return Err(End::LostInside);
                    }
                }
                Some(Indication::Accepted(_) | Indication::Rejected(_) | Indication::Released | Indication::Lost) => {}
            }
        }
        Ok(())
    }

    /// Another request may be taken in. Answers whose turn has come make room.
    fn has_room(&mut self) -> bool {
        if self.answers.len() >= self.window() {
            self.answer();
        }
        self.answers.len() < self.window()
    }

    /// Nothing is owed and nothing half received.
    fn idle(&self) -> bool {
        self.answers.is_empty() && self.object.is_none() && self.command_context.is_none()
    }

    /// The peer has begun something that has not come whole.
    fn half(&self) -> bool {
        let begun = self.object.is_some() || self.command_context.is_some() || !self.association.at_boundary();
        begun && self.association.established()
    }

    /// The association is over: what was half done is dropped, its place is free.
    fn give_up(&mut self) {
        self.object = None;
        self.abandon();
        self.command = Vec::new();
        self.place = None;
    }

    /// Nobody is there to hear the answers. What came whole is taken all the same, and told when it is durable.
    fn abandon(&mut self) {
        let begun = |(place, answer): (usize, Answer)| answer.commit.filter(|_| place == 0 || !answer.ordered);
        let commits: Vec<Commit> = self.answers.drain(..).enumerate().filter_map(begun).collect();
        if !commits.is_empty() {
            tokio::spawn(async move {
                for commit in commits {
                    drop(commit.await); // it tells what came of it
                }
            });
        }
    }

    fn requested(&mut self, rq: &AssociationRQ) {
        let answer = self.negotiate(rq);
        let result = match answer {
            Ok((ac, agreed)) => {
                self.agreed = Some(agreed);
                self.association.accept(ac)
            }
            Err((reject, why)) => {
                let (result, source, reason) = (reject.result, reject.source, reject.reason);
                let why = why.unwrap_or_else(|| reject.meaning().to_owned());
                self.notice(&format!("association rejected: {why} ({result}/{source}/{reason})"));
                self.association.reject(reject)
            }
        };
        debug_assert!(result.is_ok(), "an indication is answered in its own state");
    }

    /// An error is the rejection, and what to tell people of it beside its meaning.
    fn negotiate(&mut self, rq: &AssociationRQ) -> Result<(AssociationAC, Agreed), (Reject, Option<String>)> {
        let classes = match &self.listener.storage_classes[..] {
            [] => Classes::Storage,
            list => Classes::List(list.iter().cloned().collect()),
        };
        let policy = Acceptance {
            called: self.listener.ae_titles.clone(),
            calling: self.listener.calling_ae.clone(),
            classes,
            max_pdu: self.listener.max_pdu,
            window: limits::STORE_WINDOW_MAX,
        };
        let answer = negotiate::accept(&policy, rq).map_err(|reject| (reject, None))?;
        if self.stopping {
            return Err((Reject::CONGESTION, None));
        }
        match self.intake.associate(&self.listener, self.peer.ip().to_canonical()) {
            Ok(place) => {
                self.place = Some(place);
                Ok(answer)
            }
            Err(full) => {
                self.intake.refused(&self.listener, Refusal::Limit);
                Err((Reject::LOCAL_LIMIT, Some(full)))
            }
        }
    }

    fn data(&mut self, fragment: Fragment) -> Result<(), End> {
        let fault = |what: &str| Err(End::Fault(what.to_owned()));
        if !fragment.command {
            let Some(object) = &mut self.object else { return fault("a data set without a command before it") };
            if object.context() != fragment.context {
                return fault("a data set in another presentation context than its command");
            }
            object.write(&fragment.data, &self.intake, &self.listener);
            if fragment.last
                && let Some(object) = self.object.take()
            {
                self.whole(object);
            }
            return Ok(());
        }
        if self.object.is_some() {
            return fault("a command inside of a data set");
        }
        if *self.command_context.get_or_insert(fragment.context) != fragment.context {
            return fault("a command set in two presentation contexts");
        }
        if self.command.len() + fragment.data.len() > limits::COMMAND_BYTES_MAX {
            return Err(End::Fault(dimse::DimseError::TooLong.to_string()));
        }
        self.command.extend_from_slice(&fragment.data);
        if fragment.last {
            self.command_context = None;
            let set = std::mem::take(&mut self.command);
            let command = dimse::decode(&set);
            self.command = set;
            self.command.clear();
            self.command(fragment.context, command.map_err(|error| End::Fault(error.to_string()))?)?;
        }
        Ok(())
    }

    /// Bytes of the object are in its chunk.
    fn passed(&mut self, bytes: usize) {
        let last = self.association.passed(bytes);
        if let Some(object) = &mut self.object {
            object.passed(bytes, &self.intake, &self.listener);
        }
        if last && let Some(object) = self.object.take() {
            self.whole(object);
        }
    }

    fn command(&mut self, context: u8, command: Command) -> Result<(), End> {
        let Some(agreed) = &self.agreed else { return Ok(()) };
        let Some(negotiated) = agreed.context(context) else {
            return Err(End::Fault(format!("a command in presentation context {context}, which was not agreed on")));
        };
        let data_set = command.has_data_set();
        let response = match command {
            Command::StoreRq { request, data_set } => {
                let object = Object::begin(request, data_set, agreed, negotiated, self.peer, &self.intake, &self.listener);
                self.take(object, data_set);
                return Ok(());
            }
            Command::EchoRq { message_id, .. } => {
                let sop_class = Some(uid::VERIFICATION.to_owned());
                Response { command_field: dimse::C_ECHO_RSP, message_id, status: status::SUCCESS, sop_class, ..Response::default() }
            }
            Command::OtherRq { command_field: dimse::C_CANCEL_RQ, .. } => return Ok(()),
            Command::OtherRq { command_field, message_id, sop_class, .. } => {
                let status = status::UNRECOGNIZED_OPERATION;
                Response { command_field: command_field | 0x8000, message_id, status, sop_class, ..Response::default() }
            }
            Command::Response { .. } => return Err(End::Fault("a response to a request that was never made".to_owned())),
        };
        self.take(Object::refused(context, response), data_set);
        Ok(())
    }

    /// Receives the data set of an object, if it has one, else it is whole already.
    fn take(&mut self, object: Object, data_set: bool) {
        if data_set {
            self.object = Some(object);
        } else {
            self.whole(object);
        }
    }

    /// An object has come to its end: commit it, and answer in turn.
    fn whole(&mut self, object: Object) {
        let context = object.context();
        self.inside = None;
        if let Some(notice) = object.notice() {
            self.notice(notice);
        }
        let (response, commit, ordered) = match object.finish(&self.intake, &self.listener) {
            Whole::Refused(response) => (response, None, false),
            Whole::Commit { response, keys, content, addressees } => {
                let ordered = addressees.iter().any(|addressee| addressee.lane != Lane::Own);
                let (intake, listener) = (self.intake.clone(), self.listener.clone());
                let commit = async move { intake.commit(&listener, keys, content, addressees).await };
                // A commit blocks its task. With a window the next object is read meanwhile, so it gets a task of its own.
                let commit: Commit = if self.window() == 1 {
                    Box::pin(commit)
                } else {
                    Box::pin(async move { tokio::spawn(commit).await.unwrap_or(Err(Refusal::Sync)) })
                };
                (response, Some(commit), ordered)
            }
        };
        self.answers.push_back(Answer { context, response, commit, ordered });
    }

    fn committed(&mut self, place: usize, result: Result<Receipt, Refusal>) {
        let Some(answer) = self.answers.get_mut(place) else { return };
        answer.commit = None;
        match result {
            Ok(receipt) => object::accept(&mut answer.response, &receipt),
            Err(refusal) => object::refuse(&mut answer.response, refusal),
        }
    }

    /// Puts every answer whose turn it is into the output, and the release behind the last one.
    fn answer(&mut self) {
        while self.answers.front().is_some_and(|answer| answer.commit.is_none()) {
            let Some(answer) = self.answers.pop_front() else { break };
            let sent = self.association.send_command(answer.context, &dimse::encode_response(&answer.response));
            if sent.is_err() {
                self.abandon();
            }
        }
        if self.release && self.answers.is_empty() && !self.association.over() {
            self.release = false;
            let released = self.association.respond_release();
            debug_assert!(released.is_ok(), "a release was asked for");
        }
    }

    /// Sends what is in the output, in one piece.
    async fn flush(&mut self) -> Result<(), End> {
        if self.association.output().is_empty() {
            return Ok(());
        }
        let (wire, output) = (&mut *self.wire, self.association.output());
        let sending = async {
            wire.write_all(output).await?;
            wire.flush().await
        };
        let sent = within(limits::DICOM_WRITE, sending).await;
        output.clear();
        match sent {
            Ok(Ok(())) => Ok(()),
            // A peer that has gone after the end of the association owes us nothing.
            Ok(Err(_)) if self.association.over() => Ok(()),
            Ok(Err(error)) => Err(End::Wire(error)),
            Err(_) => Err(End::Write),
        }
    }

    /// When something has to happen if nothing else does.
    fn deadline(&self) -> Instant {
        self.looked.unwrap_or_else(|| self.due())
    }

    fn due(&self) -> Instant {
        if self.association.artim() {
            let most = if self.stopping { limits::DICOM_STOP_LINGER } else { limits::ARTIM };
            return self.artim_since + most;
        }
        if self.idle() && !self.rested {
            return self.heard + limits::DICOM_REST.min(self.listener.idle_timeout);
        }
        let idle_at = self.heard + self.listener.idle_timeout;
        self.inside.map_or(idle_at, |allowance| allowance.until().min(idle_at))
    }

    /// The timer, set to `due`, ran out.
    fn time(&mut self, due: Instant) -> Result<(), End> {
        let now = Instant::now();
        if let Some(allowance) = &mut self.inside {
            allowance.forgive(due, now);
        }
        if now < self.deadline() {
            return Ok(());
        }
        if self.idle() && !self.rested && !self.association.artim() && now < self.heard + self.listener.idle_timeout {
            self.rested = true;
            self.association.rest();
            self.command = Vec::new();
            return Ok(());
        }
        if self.looked.is_none() && !self.stopping && !self.association.over() {
            self.looked = Some(now + limits::LAST_LOOK);
            return Ok(());
        }
        self.looked = None;
        if self.association.artim() {
            let before_request = self.agreed.is_none() && !self.association.over();
            self.association.artim_expired();
            return if before_request && !self.stopping { Err(End::Artim) } else { Ok(()) };
        }
        self.association.abort(Abort::USER);
        self.artim_since = now;
        let slow = self.inside.is_some_and(|allowance| now >= allowance.until());
        Err(if slow { End::Slow } else { End::Idle(self.listener.idle_timeout) })
    }

    fn notice(&self, what: &str) {
        self.intake.notice(&self.listener, &self.peer.ip().to_canonical().to_string(), what);
    }
}

/// A fault, for people.
fn explain(fault: &Fault) -> String {
    match fault {
        Fault::Pdu(PduError::UnknownType(0x14..=0x17)) => stream::TLS_ON_PLAIN.to_owned(),
        other => other.to_string(),
    }
}
