//! The upper layer's state machine (PS3.8 9.2, table 9-10) and, around it, an association as its user sees it.
//!
//! `action` is the table, nothing else. `Association` joins it with the decoder: bytes in through `space`, indications out through `poll`, bytes to
//! send in `output`; the caller owns the socket and the clock. SCP and SCU use the same one.
//! Rules: after a protocol error, an abort or a rejection no indication but the last one comes out, and what still arrives is ignored (AA-6, AA-7). A
//! release collision is settled here: who asked to release has nothing more to say, so its response follows by itself.
//! The caller keeps one timer: it runs while `artim` says so, and calls `artim_expired`.
//! Errors: a request that the state does not allow is `WrongState`; a peer's errors come out as `Indication::Failed`, with the A-ABORT in `output`.

use crate::dicom::pdu::{self, Abort, AssociationAC, AssociationRQ, Decoder, Fragment, PduError, Received, Reject};
use bytes::BytesMut;
use std::fmt;

/// Machine states (tables 9-1 to 9-5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// Idle.
    Sta1,
    /// Transport connection open, awaiting A-ASSOCIATE-RQ.
    Sta2,
    /// Awaiting the local A-ASSOCIATE response.
    Sta3,
    /// Awaiting the transport connection.
    Sta4,
    /// Awaiting A-ASSOCIATE-AC or -RJ.
    Sta5,
    /// Association established.
    Sta6,
    /// Awaiting A-RELEASE-RP.
    Sta7,
    /// Awaiting the local A-RELEASE response.
    Sta8,
    /// Release collision, requestor: awaiting the local A-RELEASE response.
    Sta9,
    /// Release collision, acceptor: awaiting A-RELEASE-RP.
    Sta10,
    /// Release collision, requestor: awaiting A-RELEASE-RP.
    Sta11,
    /// Release collision, acceptor: awaiting the local A-RELEASE response.
    Sta12,
    /// Awaiting the close of the transport connection.
    Sta13,
}

impl State {
    /// Every state, in order.
    pub const ALL: [State; 13] = {
        use State::{Sta1, Sta2, Sta3, Sta4, Sta5, Sta6, Sta7, Sta8, Sta9, Sta10, Sta11, Sta12, Sta13};
        [Sta1, Sta2, Sta3, Sta4, Sta5, Sta6, Sta7, Sta8, Sta9, Sta10, Sta11, Sta12, Sta13]
    };
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Events (rows of table 9-10).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// A-ASSOCIATE request (local user).
    AssociateRequest,
    /// Transport connect confirmation.
    TransportConfirmed,
    /// A-ASSOCIATE-AC PDU.
    AcceptPdu,
    /// A-ASSOCIATE-RJ PDU.
    RejectPdu,
    /// Transport connection indication.
    TransportIndicated,
    /// A-ASSOCIATE-RQ PDU.
    RequestPdu,
    /// A-ASSOCIATE response, accept (local user).
    Accept,
    /// A-ASSOCIATE response, reject (local user).
    Reject,
    /// P-DATA request (local user).
    DataRequest,
    /// P-DATA-TF PDU.
    DataPdu,
    /// A-RELEASE request (local user).
    ReleaseRequest,
    /// A-RELEASE-RQ PDU.
    ReleaseRqPdu,
    /// A-RELEASE-RP PDU.
    ReleaseRpPdu,
    /// A-RELEASE response (local user).
    ReleaseResponse,
    /// A-ABORT request (local user).
    AbortRequest,
    /// A-ABORT PDU.
    AbortPdu,
    /// Transport connection closed.
    TransportClosed,
    /// ARTIM timer expired.
    ArtimExpired,
    /// Unrecognized or invalid PDU.
    InvalidPdu,
}

/// Actions (tables 9-6 to 9-9).
#[allow(missing_docs, reason = "the standard's names say it; what each does stands beside `next` and in `Association`")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[rustfmt::skip]
pub enum Action {
    Ae1, Ae2, Ae3, Ae4, Ae5, Ae6, Ae7, Ae8,
    Dt1, Dt2,
    Ar1, Ar2, Ar3, Ar4, Ar5, Ar6, Ar7, Ar8, Ar9, Ar10,
    Aa1, Aa2, Aa3, Aa4, Aa5, Aa6, Aa7, Aa8,
}

/// Table 9-10: what to do on an event in a state; `None` where the standard leaves the cell empty.
#[must_use]
#[rustfmt::skip]
pub const fn action(state: State, event: Event) -> Option<Action> {
    use Action::*;
    const fn s(a: Action) -> Option<Action> { Some(a) }
    const X: Option<Action> = None;
    let row: [Option<Action>; 13] = match event {
        //                           Sta1    Sta2    Sta3    Sta4    Sta5    Sta6    Sta7    Sta8    Sta9    Sta10    Sta11   Sta12   Sta13
        Event::AssociateRequest   => [s(Ae1), X,      X,      X,      X,      X,      X,      X,      X,      X,       X,      X,      X],
        Event::TransportConfirmed => [X,      X,      X,      s(Ae2), X,      X,      X,      X,      X,      X,       X,      X,      X],
        Event::AcceptPdu          => [X,      s(Aa1), s(Aa8), X,      s(Ae3), s(Aa8), s(Aa8), s(Aa8), s(Aa8), s(Aa8),  s(Aa8), s(Aa8), s(Aa6)],
        Event::RejectPdu          => [X,      s(Aa1), s(Aa8), X,      s(Ae4), s(Aa8), s(Aa8), s(Aa8), s(Aa8), s(Aa8),  s(Aa8), s(Aa8), s(Aa6)],
        Event::TransportIndicated => [s(Ae5), X,      X,      X,      X,      X,      X,      X,      X,      X,       X,      X,      X],
        Event::RequestPdu         => [X,      s(Ae6), s(Aa8), X,      s(Aa8), s(Aa8), s(Aa8), s(Aa8), s(Aa8), s(Aa8),  s(Aa8), s(Aa8), s(Aa7)],
        Event::Accept             => [X,      X,      s(Ae7), X,      X,      X,      X,      X,      X,      X,       X,      X,      X],
        Event::Reject             => [X,      X,      s(Ae8), X,      X,      X,      X,      X,      X,      X,       X,      X,      X],
        Event::DataRequest        => [X,      X,      X,      X,      X,      s(Dt1), X,      s(Ar7), X,      X,       X,      X,      X],
        Event::DataPdu            => [X,      s(Aa1), s(Aa8), X,      s(Aa8), s(Dt2), s(Ar6), s(Aa8), s(Aa8), s(Aa8),  s(Aa8), s(Aa8), s(Aa6)],
        Event::ReleaseRequest     => [X,      X,      X,      X,      X,      s(Ar1), X,      X,      X,      X,       X,      X,      X],
        Event::ReleaseRqPdu       => [X,      s(Aa1), s(Aa8), X,      s(Aa8), s(Ar2), s(Ar8), s(Aa8), s(Aa8), s(Aa8),  s(Aa8), s(Aa8), s(Aa6)],
        Event::ReleaseRpPdu       => [X,      s(Aa1), s(Aa8), X,      s(Aa8), s(Aa8), s(Ar3), s(Aa8), s(Aa8), s(Ar10), s(Ar3), s(Aa8), s(Aa6)],
        Event::ReleaseResponse    => [X,      X,      X,      X,      X,      X,      X,      s(Ar4), s(Ar9), X,       X,      s(Ar4), X],
        Event::AbortRequest       => [X,      X,      s(Aa1), s(Aa2), s(Aa1), s(Aa1), s(Aa1), s(Aa1), s(Aa1), s(Aa1),  s(Aa1), s(Aa1), X],
        Event::AbortPdu           => [X,      s(Aa2), s(Aa3), X,      s(Aa3), s(Aa3), s(Aa3), s(Aa3), s(Aa3), s(Aa3),  s(Aa3), s(Aa3), s(Aa2)],
        Event::TransportClosed    => [X,      s(Aa5), s(Aa4), s(Aa4), s(Aa4), s(Aa4), s(Aa4), s(Aa4), s(Aa4), s(Aa4),  s(Aa4), s(Aa4), s(Ar5)],
        Event::ArtimExpired       => [X,      s(Aa2), X,      X,      X,      X,      X,      X,      X,      X,       X,      X,      s(Aa2)],
        Event::InvalidPdu         => [X,      s(Aa1), s(Aa8), X,      s(Aa8), s(Aa8), s(Aa8), s(Aa8), s(Aa8), s(Aa8),  s(Aa8), s(Aa8), s(Aa7)],
    };
    row[state as usize]
}

impl Action {
    /// The state an action ends in. `requestor`: our side asked for the association (AR-8). `acceptable`: AE-6 found the request acceptable.
    #[must_use]
    pub const fn next(self, requestor: bool, acceptable: bool) -> State {
        use Action::{
            Aa1, Aa2, Aa3, Aa4, Aa5, Aa6, Aa7, Aa8, Ae1, Ae2, Ae3, Ae4, Ae5, Ae6, Ae7, Ae8, Ar1, Ar2, Ar3, Ar4, Ar5, Ar6, Ar7, Ar8, Ar9, Ar10, Dt1,
            Dt2,
        };
        match self {
            Ae4 | Ar3 | Ar5 | Aa2 | Aa3 | Aa4 | Aa5 => State::Sta1,
            Ae5 => State::Sta2,
            Ae6 if acceptable => State::Sta3,
            Ae1 => State::Sta4,
            Ae2 => State::Sta5,
            Ae3 | Ae7 | Dt1 | Dt2 => State::Sta6,
            Ar1 | Ar6 => State::Sta7,
            Ar2 | Ar7 => State::Sta8,
            Ar8 if requestor => State::Sta9,
            Ar8 => State::Sta10,
            Ar9 => State::Sta11,
            Ar10 => State::Sta12,
            Ae6 | Ae8 | Ar4 | Aa1 | Aa6 | Aa7 | Aa8 => State::Sta13,
        }
    }
}

/// What the user of an association is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Indication {
    /// A-ASSOCIATE indication: answer with `accept` or `reject`.
    Requested(Box<AssociationRQ>),
    /// A-ASSOCIATE confirmation, accepted.
    Accepted(Box<AssociationAC>),
    /// A-ASSOCIATE confirmation, rejected. The last indication.
    Rejected(Reject),
    /// P-DATA indication, in pieces as they arrive.
    Data(Fragment),
    /// A-RELEASE indication: answer with `respond_release`, once everything asked before is answered.
    ReleaseRequested,
    /// A-RELEASE confirmation. The last indication.
    Released,
    /// A-ABORT or A-P-ABORT indication: the peer aborted. The last indication.
    Aborted(Abort),
    /// A-P-ABORT indication: the peer broke the protocol; the A-ABORT is in `output`. The last indication.
    Failed(Fault),
    /// The transport connection was closed. The last indication.
    Lost,
}

/// How a peer broke the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Its bytes are no PDU.
    #[error(transparent)]
    Pdu(#[from] PduError),
    /// A PDU that has no place in this state.
    #[error("unexpected {pdu} in {state}")]
    Unexpected {
        /// Its name.
        pdu: &'static str,
        /// When it came.
        state: State,
    },
    /// The DICOM protocol version is not ours; an A-ASSOCIATE-RJ was sent.
    #[error("protocol version {0:04X}H without bit 0")]
    Version(u16),
}

/// A request of the user that the state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} is not possible in {state}")]
pub struct WrongState {
    /// What was wanted.
    pub wanted: &'static str,
    /// The state.
    pub state: State,
}

/// One association on one transport connection.
#[derive(Debug)]
pub struct Association {
    state: State,
    requestor: bool,
    decoder: Decoder,
    output: BytesMut,
    peer_max: u32,
}

impl Association {
    /// The accepting side, on a connection just accepted (AE-5). `max_pdu` as it will be announced.
    #[must_use]
    pub fn accepting(max_pdu: u32) -> Self {
        let mut this = Self::idle(max_pdu, false);
        this.apply(Event::TransportIndicated);
        this
    }

    /// The requesting side, on a connection just opened (AE-1, AE-2): the request is in `output`.
    #[must_use]
    pub fn requesting(request: AssociationRQ, max_pdu: u32) -> Self {
        let mut this = Self::idle(max_pdu, true);
        this.apply(Event::AssociateRequest);
        this.apply(Event::TransportConfirmed);
        this.output.extend_from_slice(&pdu::encode_associate_rq(request));
        this
    }

    fn idle(max_pdu: u32, requestor: bool) -> Self {
        let peer_max = crate::limits::PDU_BYTES_UNSAID;
        Self { state: State::Sta1, requestor, decoder: Decoder::new(max_pdu), output: BytesMut::new(), peer_max }
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Data can be sent.
    #[must_use]
    pub fn established(&self) -> bool {
        self.state == State::Sta6
    }

    /// Nothing more will happen: send `output`, close the connection.
    #[must_use]
    pub fn finished(&self) -> bool {
        self.state == State::Sta1
    }

    /// The association is over, only the peer's close is awaited (Sta13) or nothing at all (Sta1).
    #[must_use]
    pub fn over(&self) -> bool {
        matches!(self.state, State::Sta1 | State::Sta13)
    }

    /// The ARTIM timer runs: before the request, and while the peer's close is awaited.
    #[must_use]
    pub fn artim(&self) -> bool {
        matches!(self.state, State::Sta2 | State::Sta13)
    }

    /// Between two PDUs: nothing is half received.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.decoder.at_boundary()
    }

    /// Where to read into.
    pub fn space(&mut self) -> &mut BytesMut {
        self.decoder.space()
    }

    /// Bytes of a data set that come next and may be read straight to where they belong, and their presentation context: tell `passed` how many were.
    /// `None`: read into `space`.
    #[must_use]
    pub fn straight(&self) -> Option<(u8, usize)> {
        if self.established() { self.decoder.straight() } else { None }
    }

    /// So many bytes, at most what `straight` said, were read there. True: the data set ends with them.
    pub fn passed(&mut self, bytes: usize) -> bool {
        self.decoder.passed(bytes)
    }

    /// Gives buffers back while the association is idle.
    pub fn rest(&mut self) {
        self.decoder.rest();
        if self.output.is_empty() {
            self.output = BytesMut::new();
        }
    }

    /// Bytes to send; clear it when they are sent.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Largest P-DATA-TF the peer takes, in bytes; 0: any.
    #[must_use]
    pub fn peer_max_pdu(&self) -> u32 {
        self.peer_max
    }

    /// The next indication; `None`: read more.
    pub fn poll(&mut self) -> Option<Indication> {
        loop {
            let before = self.state;
            if before == State::Sta1 {
                return None;
            }
            let received = match self.decoder.take() {
                Ok(None) => return None,
                Ok(Some(received)) => received,
                Err(error) => {
                    let indication = self.invalid(error);
                    if indication.is_some() {
                        return indication;
                    }
                    continue;
                }
            };
            if let Some(indication) = self.received(before, received) {
                return Some(indication);
            }
        }
    }

    fn invalid(&mut self, error: PduError) -> Option<Indication> {
        let before = self.state;
        self.abort_with(Event::InvalidPdu, error.abort());
        (before != State::Sta13).then_some(Indication::Failed(Fault::Pdu(error)))
    }

    fn received(&mut self, before: State, received: Received) -> Option<Indication> {
        let (event, name) = match &received {
            Received::AssociateRq(_) => (Event::RequestPdu, "A-ASSOCIATE-RQ"),
            Received::AssociateAc(_) => (Event::AcceptPdu, "A-ASSOCIATE-AC"),
            Received::AssociateRj(_) => (Event::RejectPdu, "A-ASSOCIATE-RJ"),
            Received::Data(_) => (Event::DataPdu, "P-DATA-TF"),
            Received::ReleaseRq => (Event::ReleaseRqPdu, "A-RELEASE-RQ"),
            Received::ReleaseRp => (Event::ReleaseRpPdu, "A-RELEASE-RP"),
            Received::Abort(_) => (Event::AbortPdu, "A-ABORT"),
        };
        let what = action(before, event)?;
        match (what, received) {
            (Action::Ae6, Received::AssociateRq(rq)) => Some(self.requested(rq)),
            (Action::Ae3, Received::AssociateAc(ac)) => {
                self.apply(event);
                self.learn_peer_max(&ac.user_variables);
                Some(Indication::Accepted(ac))
            }
            (Action::Ae4, Received::AssociateRj(reject)) => {
                self.apply(event);
                Some(Indication::Rejected(reject))
            }
            (Action::Dt2 | Action::Ar6, Received::Data(fragment)) => {
                self.apply(event);
                Some(Indication::Data(fragment))
            }
            (Action::Aa3, Received::Abort(abort)) => {
                self.apply(event);
                Some(Indication::Aborted(abort))
            }
            (Action::Ar2, _) => {
                self.apply(event);
                Some(Indication::ReleaseRequested)
            }
            (Action::Ar3, _) => {
                self.apply(event);
                Some(Indication::Released)
            }
            (Action::Ar8, _) => {
                self.apply(event);
                // Sta9: the requestor answers first; Sta10: the acceptor waits for the answer to its own request.
                if self.state == State::Sta9 {
                    self.respond();
                }
                None
            }
            (Action::Ar10, _) => {
                self.apply(event);
                self.respond();
                Some(Indication::Released)
            }
            (Action::Aa1 | Action::Aa7 | Action::Aa8, _) => {
                self.abort_with(event, Abort::UNEXPECTED_PDU);
                (before != State::Sta13).then_some(Indication::Failed(Fault::Unexpected { pdu: name, state: before }))
            }
            (Action::Aa2, Received::Abort(abort)) => {
                self.apply(event);
                (before != State::Sta13).then_some(Indication::Aborted(abort))
            }
            _ => {
                self.apply(event);
                None
            }
        }
    }

    /// AE-6.
    fn requested(&mut self, rq: Box<AssociationRQ>) -> Indication {
        if rq.protocol_version & 1 == 0 {
            self.output.extend_from_slice(&pdu::encode_reject(Reject::PROTOCOL_VERSION));
            self.state = Action::Ae6.next(self.requestor, false);
            return Indication::Failed(Fault::Version(rq.protocol_version));
        }
        self.learn_peer_max(&rq.user_variables);
        self.state = Action::Ae6.next(self.requestor, true);
        Indication::Requested(rq)
    }

    fn learn_peer_max(&mut self, items: &[pdu::UserVariableItem]) {
        for item in items {
            if let pdu::UserVariableItem::MaxLength(bytes) = item {
                self.peer_max = *bytes;
            }
        }
    }

    /// Accepts the association asked for (AE-7).
    /// # Errors
    /// `WrongState`.
    pub fn accept(&mut self, ac: AssociationAC) -> Result<(), WrongState> {
        self.demand(Event::Accept, "accepting")?;
        self.output.extend_from_slice(&pdu::encode_associate_ac(ac));
        Ok(())
    }

    /// Rejects it (AE-8).
    /// # Errors
    /// `WrongState`.
    pub fn reject(&mut self, reject: Reject) -> Result<(), WrongState> {
        self.demand(Event::Reject, "rejecting")?;
        self.output.extend_from_slice(&pdu::encode_reject(reject));
        Ok(())
    }

    /// Puts a whole command set into `output` (DT-1, AR-7).
    /// # Errors
    /// `WrongState`.
    pub fn send_command(&mut self, context: u8, command: &[u8]) -> Result<(), WrongState> {
        self.demand(Event::DataRequest, "sending data")?;
        pdu::encode_data(&mut self.output, context, true, command, self.peer_max);
        Ok(())
    }

    /// The header of a piece of a data set which the caller sends itself, right behind everything in `output`.
    /// # Errors
    /// `WrongState`.
    pub fn data_header(&mut self, context: u8, last: bool, length: usize) -> Result<[u8; 12], WrongState> {
        self.demand(Event::DataRequest, "sending data")?;
        Ok(pdu::data_header(context, false, last, length))
    }

    /// Asks for the release (AR-1); `Released` follows.
    /// # Errors
    /// `WrongState`.
    pub fn release(&mut self) -> Result<(), WrongState> {
        self.demand(Event::ReleaseRequest, "releasing")?;
        self.output.extend_from_slice(&pdu::RELEASE_RQ);
        Ok(())
    }

    /// Answers `ReleaseRequested` (AR-4).
    /// # Errors
    /// `WrongState`.
    pub fn respond_release(&mut self) -> Result<(), WrongState> {
        if action(self.state, Event::ReleaseResponse).is_none() {
            return Err(WrongState { wanted: "answering a release", state: self.state });
        }
        self.respond();
        Ok(())
    }

    fn respond(&mut self) {
        self.output.extend_from_slice(&pdu::RELEASE_RP);
        self.apply(Event::ReleaseResponse);
    }

    /// Aborts, in whatever state; harmless when it is over. AA-1: the source is the service user, unless the provider has a reason.
    pub fn abort(&mut self, abort: Abort) {
        self.abort_with(Event::AbortRequest, abort);
    }

    fn abort_with(&mut self, event: Event, reason: Abort) {
        let sent = match action(self.state, event) {
            // Before there is an association the standard lets the user be the source.
            Some(Action::Aa1) if self.state == State::Sta2 => Some(Abort::USER),
            Some(Action::Aa1 | Action::Aa7 | Action::Aa8) => Some(reason),
            _ => None,
        };
        if let Some(sent) = sent {
            self.output.extend_from_slice(&pdu::encode_abort(sent));
        }
        self.apply(event);
    }

    /// The transport connection was closed by the peer. A close where the standard expects it (Sta2, Sta13) says nothing.
    pub fn transport_closed(&mut self) -> Option<Indication> {
        let indicated = matches!(action(self.state, Event::TransportClosed), Some(Action::Aa4));
        self.apply(Event::TransportClosed);
        indicated.then_some(Indication::Lost)
    }

    /// The ARTIM timer ran out (AA-2): close the connection.
    pub fn artim_expired(&mut self) {
        self.apply(Event::ArtimExpired);
    }

    fn demand(&mut self, event: Event, wanted: &'static str) -> Result<(), WrongState> {
        if action(self.state, event).is_none() {
            return Err(WrongState { wanted, state: self.state });
        }
        self.apply(event);
        Ok(())
    }

    /// Moves on; an empty cell of the table changes nothing.
    fn apply(&mut self, event: Event) {
        if let Some(action) = action(self.state, event) {
            self.state = action.next(self.requestor, true);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::dicom::negotiate::{Acceptance, Proposal, accept, propose};
    use crate::dicom::uid;

    fn rq() -> AssociationRQ {
        let contexts = vec![(uid::VERIFICATION.to_owned(), vec![uid::IMPLICIT_LE.to_owned()])];
        propose(&Proposal { calling_ae: "A".into(), called_ae: "B".into(), contexts, max_pdu: 16384, window: 1 }).unwrap()
    }

    fn ac() -> AssociationAC {
        accept(&Acceptance::default(), &rq()).unwrap().0
    }

    fn pass(from: &mut Association, to: &mut Association) -> Vec<Indication> {
        let bytes = from.output().split();
        feed(to, &bytes)
    }

    fn feed(to: &mut Association, bytes: &[u8]) -> Vec<Indication> {
        to.space().extend_from_slice(bytes);
        std::iter::from_fn(|| to.poll()).collect()
    }

    /// A requestor and an acceptor with an association between them.
    fn pair() -> (Association, Association) {
        let (mut scu, mut scp) = (Association::requesting(rq(), 16384), Association::accepting(16384));
        assert!(matches!(pass(&mut scu, &mut scp)[..], [Indication::Requested(_)]));
        scp.accept(ac()).unwrap();
        assert!(matches!(pass(&mut scp, &mut scu)[..], [Indication::Accepted(_)]));
        assert!(scu.established() && scp.established());
        (scu, scp)
    }

    #[test]
    fn every_action_of_the_table_leads_to_the_state_of_the_standard() {
        // Cells that tell a wrong table from a right one: the last row of each group of the standard's, and the odd ones.
        use Action::*;
        use Event::*;
        use State::*;
        let cells = [
            (Sta1, AssociateRequest, Some(Ae1), Sta4),
            (Sta4, TransportConfirmed, Some(Ae2), Sta5),
            (Sta5, AcceptPdu, Some(Ae3), Sta6),
            (Sta5, RejectPdu, Some(Ae4), Sta1),
            (Sta1, TransportIndicated, Some(Ae5), Sta2),
            (Sta2, RequestPdu, Some(Ae6), Sta3),
            (Sta3, Accept, Some(Ae7), Sta6),
            (Sta3, Reject, Some(Ae8), Sta13),
            (Sta6, DataPdu, Some(Dt2), Sta6),
            (Sta7, DataPdu, Some(Ar6), Sta7),
            (Sta8, DataPdu, Some(Aa8), Sta13),
            (Sta8, DataRequest, Some(Ar7), Sta8),
            (Sta8, ReleaseResponse, Some(Ar4), Sta13),
            (Sta9, ReleaseResponse, Some(Ar9), Sta11),
            (Sta11, ReleaseRpPdu, Some(Ar3), Sta1),
            (Sta10, ReleaseRpPdu, Some(Ar10), Sta12),
            (Sta12, ReleaseResponse, Some(Ar4), Sta13),
            (Sta13, TransportClosed, Some(Ar5), Sta1),
            (Sta13, AbortPdu, Some(Aa2), Sta1),
            (Sta13, DataPdu, Some(Aa6), Sta13),
            (Sta13, InvalidPdu, Some(Aa7), Sta13),
            (Sta2, TransportClosed, Some(Aa5), Sta1),
            (Sta6, TransportClosed, Some(Aa4), Sta1),
            (Sta6, AbortPdu, Some(Aa3), Sta1),
            (Sta2, ArtimExpired, Some(Aa2), Sta1),
            (Sta6, AbortRequest, Some(Aa1), Sta13),
            (Sta4, AbortRequest, Some(Aa2), Sta1),
        ];
        for (state, event, expected, next) in cells {
            assert_eq!(action(state, event), expected, "{state} {event:?}");
            assert_eq!(expected.unwrap().next(true, true), next, "{state} {event:?}");
        }
        assert_eq!(Ar8.next(true, true), Sta9);
        assert_eq!(Ar8.next(false, true), Sta10);
        assert_eq!(Ae6.next(false, false), Sta13);
        for state in State::ALL {
            assert_eq!(action(state, ArtimExpired).is_some(), matches!(state, Sta2 | Sta13), "ARTIM runs in two states");
            assert_eq!(action(state, InvalidPdu).is_some(), !matches!(state, Sta1 | Sta4));
        }
    }

    #[test]
    fn a_whole_life_from_request_to_release() {
        let (mut scu, mut scp) = pair();
        scu.send_command(1, b"question").unwrap();
        let data = pass(&mut scu, &mut scp);
        assert!(matches!(&data[..], [Indication::Data(f)] if f.last && f.command && &f.data[..] == b"question"));
        scu.release().unwrap();
        assert!(scu.send_command(1, b"late").is_err(), "nothing may follow a release request");
        assert_eq!(pass(&mut scu, &mut scp), [Indication::ReleaseRequested]);
        scp.send_command(1, b"answer").unwrap();
        scp.respond_release().unwrap();
        let end = pass(&mut scp, &mut scu);
        assert!(matches!(&end[..], [Indication::Data(_), Indication::Released]), "{end:?}");
        assert!(scu.finished());
        assert!(scp.artim() && scp.over());
        assert_eq!(scp.transport_closed(), None);
        assert!(scp.finished());
    }

    #[test]
    fn a_release_collision_ends_well_on_both_sides() {
        let (mut scu, mut scp) = pair();
        scu.release().unwrap();
        scp.release().unwrap();
        let (to_scp, to_scu) = (scu.output().split(), scp.output().split());
        assert!(feed(&mut scu, &to_scu).is_empty());
        assert!(feed(&mut scp, &to_scp).is_empty());
        assert_eq!((scu.state(), scp.state()), (State::Sta11, State::Sta10));
        assert_eq!(pass(&mut scu, &mut scp), [Indication::Released]);
        assert_eq!(scp.state(), State::Sta13);
        assert_eq!(pass(&mut scp, &mut scu), [Indication::Released]);
        assert!(scu.finished());
    }

    #[test]
    fn whatever_has_no_place_is_answered_by_an_abort() {
        let pdus: [(&str, Vec<u8>); 5] = [
            ("A-ASSOCIATE-RQ", pdu::encode_associate_rq(rq())),
            ("A-ASSOCIATE-AC", pdu::encode_associate_ac(ac())),
            ("A-ASSOCIATE-RJ", pdu::encode_reject(Reject::CALLED_AE).to_vec()),
            ("A-RELEASE-RP", pdu::RELEASE_RP.to_vec()),
            ("garbage", vec![0x42; 100]),
        ];
        for (name, bytes) in pdus {
            let (_, mut scp) = pair();
            let told = feed(&mut scp, &bytes);
            assert!(matches!(told[..], [Indication::Failed(_)]), "{name}: {told:?}");
            let expected = if name == "garbage" { Abort::UNRECOGNIZED_PDU } else { Abort::UNEXPECTED_PDU };
            assert_eq!(scp.output()[..], pdu::encode_abort(expected), "{name}");
            assert_eq!(scp.state(), State::Sta13);
            assert!(feed(&mut scp, &pdu::RELEASE_RQ).is_empty(), "what follows is ignored");
            assert!(scp.send_command(1, b"").is_err());
        }
    }

    #[test]
    fn before_an_association_the_source_of_an_abort_is_the_user() {
        let mut scp = Association::accepting(16384);
        assert!(matches!(feed(&mut scp, &pdu::RELEASE_RQ)[..], [Indication::Failed(Fault::Unexpected { state: State::Sta2, .. })]));
        assert_eq!(scp.output()[..], pdu::encode_abort(Abort::USER));
    }

    #[test]
    fn a_version_that_is_not_ours_is_rejected_by_the_provider() {
        let mut scp = Association::accepting(16384);
        let told = feed(&mut scp, &pdu::encode_associate_rq(AssociationRQ { protocol_version: 2, ..rq() }));
        assert_eq!(told, [Indication::Failed(Fault::Version(2))]);
        assert_eq!(scp.output()[..], pdu::encode_reject(Reject::PROTOCOL_VERSION));
        let mut scp = Association::accepting(16384);
        let told = feed(&mut scp, &pdu::encode_associate_rq(AssociationRQ { protocol_version: 3, ..rq() }));
        assert!(matches!(told[..], [Indication::Requested(_)]), "only bit 0 is looked at");
    }

    #[test]
    fn loss_abort_and_rejection_are_told_once() {
        let (mut scu, mut scp) = pair();
        scu.abort(Abort::USER);
        assert_eq!(pass(&mut scu, &mut scp), [Indication::Aborted(Abort::USER)]);
        assert!(scp.finished());
        assert_eq!(scp.transport_closed(), None);
        let (_, mut scp) = pair();
        assert_eq!(scp.transport_closed(), Some(Indication::Lost));
        let mut scu = Association::requesting(rq(), 0);
        assert_eq!(feed(&mut scu, &pdu::encode_reject(Reject::LOCAL_LIMIT)), [Indication::Rejected(Reject::LOCAL_LIMIT)]);
        assert!(scu.finished());
        let mut scp = Association::accepting(0);
        assert!(scp.artim());
        scp.artim_expired();
        assert!(scp.finished());
    }

    proptest::proptest! {
        #[test]
        fn random_pdus_in_random_states_do_no_harm(kinds in proptest::collection::vec(0u8..10, 0..20), bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            let (mut scu, mut scp) = pair();
            for kind in kinds {
                let sent: Vec<u8> = match kind {
                    0 => pdu::encode_associate_rq(rq()),
                    1 => pdu::encode_associate_ac(ac()),
                    2 => pdu::encode_reject(Reject::CALLED_AE).to_vec(),
                    3 => pdu::RELEASE_RQ.to_vec(),
                    4 => pdu::RELEASE_RP.to_vec(),
                    5 => [&pdu::data_header(1, true, true, 3)[..], b"abc"].concat(),
                    6 => { let _ = scp.release(); let _ = scu.release(); continue }
                    7 => { let _ = scp.respond_release(); continue }
                    8 => bytes.clone(),
                    _ => { scp.abort(Abort::USER); continue }
                };
                let told = feed(&mut scp, &sent).into_iter().chain(feed(&mut scu, &sent)).count();
                proptest::prop_assert!(told <= 200);
            }
        }
    }
}
