//! Opens an association as requestor, and the short conversations on it: C-ECHO, C-STORE of a small object, C-FIND, release, abort.
//! Rules: one deadline covers the whole negotiation; whatever goes wrong here happened before a byte of an object left.
//! Errors: outcomes `NotSent` in the phase `Associate`, `AssociationRejected`, `Local` for a proposal that fits into no PDU. Texts name the peer.

use crate::delivery::{Outcome, Phase, Silence};
use crate::dicom::association::{Association, Fault, Indication};
use crate::dicom::convert::alternatives;
use crate::dicom::dimse::{self, Command, Response, StoreRq};
use crate::dicom::find::{Find, Step};
use crate::dicom::negotiate::{self, Agreed, Proposal, ProposeError};
use crate::dicom::pdu::{self, Abort, PduError};
use crate::dicom::uid;
use crate::io::stream::{self, Stream};
use crate::limits::{COMMAND_BYTES_MAX, FIND_MATCH_BYTES_MAX, PDU_BYTES_UNSAID, RELEASE_WAIT};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

/// An association that both sides agreed on.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) stream: Stream,
    pub(crate) association: Association,
    pub(crate) agreed: Arc<Agreed>,
    /// SOP class and transfer syntax of every context proposed.
    pub(crate) proposed: Arc<[(String, String)]>,
    /// `host:port`, for texts.
    pub(crate) name: Arc<str>,
}

/// What an object needs of an association.
#[derive(Debug, Clone)]
pub(crate) struct Need {
    pub(crate) calling_ae: String,
    pub(crate) sop_class: String,
    pub(crate) transfer_syntax: String,
    pub(crate) convert: bool,
    /// The endpoint has refused it as it is.
    pub(crate) not_as_it_is: bool,
}

/// Whether an association takes an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fit {
    /// In this context; converted to this transfer syntax, if named.
    Takes { context: u8, convert_to: Option<&'static str> },
    /// It was asked, and takes none.
    Refused,
    /// It was not asked.
    Unasked,
}

impl Need {
    /// The contexts to propose: its own, then its alternatives.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (String, String)> {
        let others = if self.convert { alternatives(&self.transfer_syntax) } else { &[] };
        std::iter::once(self.transfer_syntax.as_str()).chain(others.iter().copied()).map(|syntax| (self.sop_class.clone(), syntax.to_owned()))
    }

    pub(crate) fn fit(&self, agreed: &Agreed, proposed: &[(String, String)]) -> Fit {
        if let Some(context) = agreed.find(&self.sop_class, &self.transfer_syntax).filter(|_| !self.not_as_it_is) {
            return Fit::Takes { context: context.id, convert_to: None };
        }
        if !self.pairs().all(|pair| proposed.contains(&pair)) {
            return Fit::Unasked;
        }
        let others = if self.convert { alternatives(&self.transfer_syntax) } else { &[] };
        let found = others.iter().find_map(|syntax| agreed.find(&self.sop_class, syntax).map(|context| (context.id, *syntax)));
        found.map_or(Fit::Refused, |(context, syntax)| Fit::Takes { context, convert_to: Some(syntax) })
    }
}

/// A proposal for these pairs of SOP class and transfer syntax, one context each.
pub(crate) fn proposal(calling_ae: &str, called_ae: &str, pairs: &[(String, String)], window: u16) -> Proposal {
    Proposal {
        calling_ae: calling_ae.to_owned(),
        called_ae: called_ae.to_owned(),
        contexts: pairs.iter().map(|(class, syntax)| (class.clone(), vec![syntax.clone()])).collect(),
        // What comes back are responses.
        max_pdu: PDU_BYTES_UNSAID,
        window,
    }
}

/// A request, and how its answer is known.
struct Asked {
    command: Vec<u8>,
    message_id: u16,
    /// (0000,0100) of the response.
    answer: u16,
    /// For people.
    name: &'static str,
}

impl Asked {
    fn is_answered_by(&self, response: &Response) -> bool {
        response.command_field == self.answer && response.message_id == self.message_id
    }
}

/// Negotiates on a fresh connection.
pub(crate) async fn open(stream: Stream, proposal: &Proposal, name: &Arc<str>, deadline: Instant) -> Result<Opened, Outcome> {
    let request = negotiate::propose(proposal).map_err(|error| {
        let permanent = matches!(error, ProposeError::Uid(_));
        Outcome::Local { cause: format!("no association can be asked for: {error}"), permanent }
    })?;
    let association = Association::requesting(request.clone(), proposal.max_pdu);
    let proposed = proposal.contexts.iter().filter_map(|(class, syntaxes)| Some((class.clone(), syntaxes.first()?.clone()))).collect();
    let agreed = Arc::new(negotiate::agree(&request, &empty_answer(&request)));
    let mut this = Opened { stream, association, agreed, proposed, name: name.clone() };
    match timeout_at(deadline, this.converse()).await {
        Ok(Ok(Indication::Accepted(answer))) => {
            this.agreed = Arc::new(negotiate::agree(&request, &answer));
            Ok(this)
        }
        Ok(Ok(Indication::Rejected(reject))) => {
            stream::close(this.stream).await;
            Err(Outcome::AssociationRejected { permanent: reject.result == 1, source: reject.source, reason: reject.reason })
        }
        Ok(Ok(other)) => {
            let cause = format!("{name} did not accept the association: {}", this.describe(&other));
            this.abort().await;
            Err(not_sent(cause, false))
        }
        Ok(Err(error)) => Err(not_sent(format!("{name} broke the connection while the association was negotiated: {error}"), false)),
        Err(_) => {
            this.abort().await;
            Err(not_sent(format!("{name} did not answer the association request in time; does it speak DICOM?"), true))
        }
    }
}

fn empty_answer(request: &dicom_ul::pdu::AssociationRQ) -> dicom_ul::pdu::AssociationAC {
    dicom_ul::pdu::AssociationAC {
        protocol_version: 1,
        calling_ae_title: request.calling_ae_title.clone(),
        called_ae_title: request.called_ae_title.clone(),
        application_context_name: uid::APPLICATION_CONTEXT.to_owned(),
        presentation_contexts: Vec::new(),
        user_variables: Vec::new(),
    }
}

fn not_sent(cause: String, timeout: bool) -> Outcome {
    Outcome::NotSent { phase: Phase::Associate, cause, stale: false, timeout }
}

impl Opened {
    /// Sends what is in `output`, and reads up to the next indication.
    async fn converse(&mut self) -> io::Result<Indication> {
        loop {
            self.send_output().await?;
            if let Some(indication) = self.association.poll() {
                self.send_output().await?;
                return Ok(indication);
            }
            // What the state machine answered by itself: in a release collision the requestor answers first (PS3.8 AR-9).
            self.send_output().await?;
            if self.association.finished() || self.stream.read_buf(self.association.space()).await? == 0 {
                return Ok(self.association.transport_closed().unwrap_or(Indication::Lost));
            }
            self.stream.rearm_quickack();
        }
    }

    async fn send_output(&mut self) -> io::Result<()> {
        let output = self.association.output().split();
        if output.is_empty() {
            return Ok(());
        }
        self.stream.write_all(&output).await?;
        self.stream.flush().await
    }

    /// What an unwelcome indication means, for people.
    pub(crate) fn describe(&self, indication: &Indication) -> String {
        describe(indication, self.stream.is_tls())
    }

    /// A C-ECHO; the status of its answer.
    pub(crate) async fn echo(&mut self, deadline: Instant) -> Result<u16, Outcome> {
        let asked = Asked { command: dimse::encode_echo_rq(1), message_id: 1, answer: dimse::C_ECHO_RSP, name: "C-ECHO" };
        let context = self.context(uid::VERIFICATION)?;
        self.ask(context, &asked, None)?;
        self.response(&asked, deadline).await
    }

    /// A C-STORE of a small object; the status of its answer.
    pub(crate) async fn store(&mut self, request: &StoreRq, object: &[u8], deadline: Instant) -> Result<u16, Outcome> {
        let (message_id, command) = (request.message_id, dimse::encode_store_rq(request));
        let asked = Asked { command, message_id, answer: dimse::C_STORE_RSP, name: "C-STORE" };
        let context = self.context(&request.sop_class)?;
        self.ask(context, &asked, Some(object))?;
        self.response(&asked, deadline).await
    }

    /// A C-FIND (study root): its responses go to `find`. `answer_within`: for each of them; the whole ends at `deadline`.
    pub(crate) async fn find(&mut self, message_id: u16, find: &mut Find, answer_within: Duration, deadline: Instant) -> Result<Step, Outcome> {
        let command = dimse::encode_find_rq(message_id, uid::STUDY_ROOT_FIND);
        let asked = Asked { command, message_id, answer: dimse::C_FIND_RSP, name: "C-FIND" };
        let context = self.context(uid::STUDY_ROOT_FIND)?;
        self.ask(context, &asked, Some(&find.identifier()))?;
        let mut identifier = Vec::new();
        loop {
            let answer_by = deadline.min(Instant::now() + answer_within);
            let status = self.response_with(&asked, answer_by, Some(&mut identifier)).await?;
            match find.respond(status, &identifier) {
                Step::More => identifier.clear(),
                end => return Ok(end),
            }
        }
    }

    fn context(&self, class: &str) -> Result<u8, Outcome> {
        let context = self.agreed.of_class(class).next().map(|context| context.id);
        context.ok_or_else(|| Outcome::NoContext { sop_class: class.to_owned(), transfer_syntax: uid::IMPLICIT_LE.to_owned() })
    }

    /// Queues a request with its data set.
    fn ask(&mut self, context: u8, asked: &Asked, data_set: Option<&[u8]>) -> Result<(), Outcome> {
        let peer_max = self.association.peer_max_pdu();
        let queued = self.association.send_command(context, &asked.command);
        queued.map_err(|wrong| not_sent(format!("{}: {wrong}", self.name), false))?;
        if let Some(data_set) = data_set {
            pdu::encode_data(self.association.output(), context, false, data_set, peer_max);
        }
        Ok(())
    }

    /// Sends what is queued; the status of the next response to what was asked. Its data set, if it has one, is passed over.
    async fn response(&mut self, asked: &Asked, deadline: Instant) -> Result<u16, Outcome> {
        self.response_with(asked, deadline, None).await
    }

    /// The same; `into`: takes the data set, up to `FIND_MATCH_BYTES_MAX`.
    async fn response_with(&mut self, asked: &Asked, deadline: Instant, mut into: Option<&mut Vec<u8>>) -> Result<u16, Outcome> {
        let (name, what) = (self.name.clone(), asked.name);
        let unanswered = |silence, cause: String| Outcome::Unanswered { silence, cause };
        let (mut command, mut status) = (Vec::new(), None);
        loop {
            let fragment = match timeout_at(deadline, self.converse()).await {
                Err(_) => return Err(unanswered(Silence::Timeout, format!("{name} did not answer the {what} in time"))),
                Ok(Err(error)) => return Err(unanswered(Silence::Lost, format!("{name} broke the connection before answering the {what}: {error}"))),
                Ok(Ok(Indication::Data(fragment))) if command.len() + fragment.data.len() <= COMMAND_BYTES_MAX || !fragment.command => fragment,
                Ok(Ok(other)) => return Err(unanswered(Silence::Lost, format!("{name} did not answer the {what}: {}", self.describe(&other)))),
            };
            match (status, fragment.command) {
                (None, true) => command.extend_from_slice(&fragment.data),
                (Some(status), false) => {
                    if let Some(into) = into.as_deref_mut() {
                        if into.len() + fragment.data.len() > FIND_MATCH_BYTES_MAX {
                            let cause = format!("{name} answered the {what} with a match of more than {FIND_MATCH_BYTES_MAX} bytes");
                            return Err(unanswered(Silence::WrongAnswer, cause));
                        }
                        into.extend_from_slice(&fragment.data);
                    }
                    if fragment.last {
                        return Ok(status);
                    }
                    continue;
                }
                _ => return Err(unanswered(Silence::WrongAnswer, format!("{name} answered the {what} out of turn"))),
            }
            if !fragment.last {
                continue;
            }
            match dimse::decode(&command) {
                Ok(Command::Response { response, data_set }) if asked.is_answered_by(&response) => {
                    if !data_set {
                        return Ok(response.status);
                    }
                    status = Some(response.status);
                }
                _ => return Err(unanswered(Silence::WrongAnswer, format!("{name} answered the {what} with something else"))),
            }
        }
    }

    /// Releases and closes; a peer that does not answer is not waited for long.
    pub(crate) async fn release(mut self) {
        if self.association.release().is_ok() {
            let released =
                async { while !matches!(self.converse().await, Err(_) | Ok(Indication::Released | Indication::Lost | Indication::Aborted(_))) {} };
            // Whatever came of it, nothing is outstanding and the connection closes now.
            let _ = timeout(RELEASE_WAIT, released).await;
        }
        stream::close(self.stream).await;
    }

    /// Aborts and closes.
    pub(crate) async fn abort(mut self) {
        self.association.abort(Abort::USER);
        self.close_with_output().await;
    }

    /// Sends what the state machine still has to say, and closes.
    pub(crate) async fn close_with_output(mut self) {
        // The connection is given up either way.
        let _ = timeout(RELEASE_WAIT, self.send_output()).await;
        stream::close(self.stream).await;
    }
}

/// What an unwelcome indication means, for people. A peer's free text is never in it.
pub(crate) fn describe(indication: &Indication, tls: bool) -> String {
    match indication {
        Indication::Failed(Fault::Pdu(PduError::UnknownType(0x14..=0x17))) if !tls => stream::TLS_EXPECTED.to_owned(),
        Indication::Failed(fault) => format!("it broke the protocol: {fault}"),
        Indication::Aborted(abort) => format!("it aborted (A-ABORT source {}, reason {})", abort.source, abort.reason),
        Indication::Lost => "it closed the connection".to_owned(),
        Indication::ReleaseRequested | Indication::Released => "it released the association".to_owned(),
        Indication::Rejected(reject) => format!("it rejected the association ({})", reject.meaning()),
        Indication::Requested(_) | Indication::Accepted(_) | Indication::Data(_) => "it sent something that has no place here".to_owned(),
    }
}
