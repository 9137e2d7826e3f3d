//! Opens an association as requestor, and the short conversations on it: C-ECHO, release, abort.
//! Rules: one deadline covers the whole negotiation; whatever goes wrong here happened before a byte of an object left.
//! Errors: outcomes `NotSent` in the phase `Associate`, `AssociationRejected`, `Local` for a proposal that fits into no PDU. Texts name the peer.

use crate::delivery::{Outcome, Phase, Silence};
use crate::dicom::association::{Association, Fault, Indication};
use crate::dicom::convert::alternatives;
use crate::dicom::dimse::{self, Command};
use crate::dicom::negotiate::{self, Agreed, Proposal, ProposeError};
use crate::dicom::pdu::{Abort, PduError};
use crate::dicom::uid;
use crate::io::stream::{self, Stream};
use crate::limits::{COMMAND_BYTES_MAX, PDU_BYTES_UNSAID, RELEASE_WAIT};
use std::io;
use std::sync::Arc;
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
        if let Some(context) = agreed.find(&self.sop_class, &self.transfer_syntax) {
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
        let name = self.name.clone();
        let Some(context) = self.agreed.of_class(uid::VERIFICATION).next().map(|context| context.id) else {
            return Err(Outcome::NoContext { sop_class: uid::VERIFICATION.to_owned(), transfer_syntax: uid::IMPLICIT_LE.to_owned() });
        };
        let unanswered = |silence, cause: String| Outcome::Unanswered { silence, cause };
        if let Err(wrong) = self.association.send_command(context, &dimse::encode_echo_rq(1)) {
            return Err(not_sent(format!("{name}: {wrong}"), false));
        }
        let mut command = Vec::new();
        loop {
            let indication = match timeout_at(deadline, self.converse()).await {
                Err(_) => return Err(unanswered(Silence::Timeout, format!("{name} did not answer the C-ECHO in time"))),
                Ok(Err(error)) => return Err(unanswered(Silence::Lost, format!("{name} broke the connection before answering the C-ECHO: {error}"))),
                Ok(Ok(Indication::Data(fragment))) if fragment.command && command.len() + fragment.data.len() <= COMMAND_BYTES_MAX => fragment,
                Ok(Ok(other)) => return Err(unanswered(Silence::Lost, format!("{name} did not answer the C-ECHO: {}", self.describe(&other)))),
            };
            command.extend_from_slice(&indication.data);
            if indication.last {
                break;
            }
        }
        match dimse::decode(&command) {
            Ok(Command::Response { response, .. }) if response.command_field == dimse::C_ECHO_RSP && response.message_id == 1 => Ok(response.status),
            _ => Err(unanswered(Silence::WrongAnswer, format!("{name} answered the C-ECHO with something else"))),
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
