//! One MLLP connection to a receiver: a message out, its answer in.
//!
//! Rules: one message outstanding. Until the last byte (`FS CR`) was handed to the system the receiver cannot have the message: *not sent*; after that,
//! without an answer that counts, *unanswered*. An answer counts if its MSA-2 is the message's control id. Answers to messages that this connection
//! settled before (enhanced mode's second answer, a late refusal where silence was asked) are noted and stepped over. After anything else, and after
//! every time-out, the connection is unfit and must be closed. A receiver whose machine acknowledges nothing any more is lost before its time is over.
//! Errors: all are outcomes.

use crate::delivery::{AckCode, Outcome, Phase, Silence};
use crate::hl7::ack::{self, Acknowledgement};
use crate::hl7::message::Message;
use crate::ids::{EnvelopeId, MessageId};
use crate::io::in_place;
use crate::io::stream::{self, Signs, Stream};
use crate::io::tls;
use crate::limits::{self, MLLP_ANSWER_BYTES_MAX, MLLP_GARBAGE_BYTES_MAX, MLLP_SECOND_ANSWERS_MAX};
use crate::mllp::{self, CR, Decoded, Decoder, FS, SB};
use crate::spool::{ContentReader, Spool, SpoolError};
use bytes::{Bytes, BytesMut};
use socket2::SockRef;
use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

/// Bytes asked of the system at once while waiting for an answer.
const ANSWER_READ_BYTES: usize = 4096;

/// How long a thread of the host's waits for an answer by itself. Later ones come by the runtime: what they cost more does not show beside that.
const SOON: Duration = Duration::from_millis(10);

/// Content to be sent.
#[derive(Debug)]
pub(crate) enum Source {
    /// In memory.
    Memory(Option<Bytes>),
    /// From the spool, chunk by chunk; the first one is read with the opening, as most messages have no other.
    Spool { first: Option<Bytes>, reader: Box<ContentReader>, left: u64 },
}

/// Reads what may block on a thread that may.
async fn blocking<T: Send + 'static>(doing: &'static str, read: impl FnOnce() -> Result<T, SpoolError> + Send + 'static) -> Result<T, SpoolError> {
    let done = tokio::task::spawn_blocking(read).await;
    done.unwrap_or_else(|broken| Err(SpoolError::Disk { doing: doing.into(), cause: io::Error::other(broken) }))
}

impl Source {
    /// Opens a message of the spool.
    pub(crate) async fn open(spool: &Arc<Spool>, message: MessageId) -> Result<Self, SpoolError> {
        let spool = spool.clone();
        blocking("opening content", move || {
            let mut reader = Box::new(spool.open_content(message)?);
            let first = reader.next_chunk()?;
            let left = reader.size() - first.as_ref().map_or(0, |chunk| chunk.len() as u64);
            Ok(Source::Spool { first, reader, left })
        })
        .await
    }

    /// The next piece.
    async fn next(self) -> Result<(Self, Option<Bytes>), SpoolError> {
        match self {
            Source::Memory(content) => Ok((Source::Memory(None), content)),
            Source::Spool { first: Some(chunk), reader, left } => Ok((Source::Spool { first: None, reader, left }, Some(chunk))),
            done @ Source::Spool { left: 0, .. } => Ok((done, None)),
            Source::Spool { first: None, mut reader, left } => {
                blocking("reading content", move || {
                    let chunk = reader.next_chunk()?;
                    // An end before its time is the end; the reader has checked the size against the record.
                    let left = chunk.as_ref().map_or(0, |chunk| left - chunk.len() as u64);
                    Ok((Source::Spool { first: None, reader, left }, chunk))
                })
                .await
            }
        }
    }
}

/// What is to be sent, and what its answer must look like.
#[derive(Debug)]
pub(crate) struct Dispatch {
    /// Its bytes.
    pub(crate) source: Source,
    /// MSH-10, or the batch's.
    pub(crate) control_id: Vec<u8>,
    /// The envelope, if there is one.
    pub(crate) envelope: Option<EnvelopeId>,
    /// Do not wait for an answer: the message asked for none.
    pub(crate) silent: bool,
    /// Deadline of the answer, and of progress while transmitting.
    pub(crate) timeout: Duration,
    /// Silence of the receiver's machine (not of the receiver) after which it is gone.
    pub(crate) unheard: Duration,
}

/// A message that this connection settled before its last answer may have come.
#[derive(Debug)]
struct Settled {
    control_id: Vec<u8>,
    envelope: Option<EnvelopeId>,
}

/// An answer to an earlier message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LateAnswer {
    /// Which message's.
    pub(crate) envelope: Option<EnvelopeId>,
    /// What it says.
    pub(crate) code: AckCode,
    /// Code of table 0357, if it has one.
    pub(crate) error: Option<u16>,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Link {
    stream: Stream,
    name: String,
    decoder: Decoder,
    buffer: BytesMut,
    settled: VecDeque<Settled>,
    late: Vec<LateAnswer>,
    reused: bool,
    fit: bool,
    /// The endpoint refused our certificate after the handshake: it cannot have the message.
    turned_away: bool,
    /// How long the answer to the last message took.
    answered_in: Option<Duration>,
}

/// Why the answer phase ended without an answer that counts.
type Unanswered = (Silence, String);

impl Link {
    /// Takes a new connection. `name` is the endpoint's address, for causes.
    pub(crate) fn new(stream: Stream, name: String) -> Self {
        let (decoder, buffer) = (Decoder::whole(MLLP_ANSWER_BYTES_MAX), BytesMut::new());
        Self {
            stream,
            name,
            decoder,
            buffer,
            settled: VecDeque::new(),
            late: Vec::new(),
            reused: false,
            fit: true,
            turned_away: false,
            answered_in: None,
        }
    }

    /// Whether the connection can carry another message.
    pub(crate) fn is_fit(&self) -> bool {
        self.fit
    }

    /// How long the answer to the last message took, if there was one.
    pub(crate) fn answered_in(&self) -> Option<Duration> {
        self.answered_in
    }

    /// Answers to earlier messages that came since the last call.
    pub(crate) fn take_late(&mut self) -> Vec<LateAnswer> {
        std::mem::take(&mut self.late)
    }

    /// Closes it in both directions, without waiting long.
    pub(crate) async fn close(self) {
        stream::close(self.stream).await;
    }

    /// Whether this connection settled a message with this control id before: its second answer could be taken for the answer to a resend.
    pub(crate) fn knows(&self, control_id: &[u8]) -> bool {
        self.settled.iter().any(|settled| settled.control_id == control_id)
    }

    /// Looks whether an idle connection may be used again: still open, from an address that this machine still has, and nothing unread on it but answers to
    /// earlier messages.
    pub(crate) async fn look(&mut self) -> bool {
        self.reused = true;
        self.fit &= self.stream.tcp().local_addr().is_ok_and(stream::is_home);
        while self.fit {
            let mut byte = [MaybeUninit::<u8>::uninit(); 1];
            match SockRef::from(self.stream.tcp()).peek(&mut byte) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) | Ok(0) => self.fit = false,
                Ok(_) => {
                    self.buffer.reserve(ANSWER_READ_BYTES);
                    match timeout(limits::STALE_READ, self.stream.read_buf(&mut self.buffer)).await {
                        // On TLS the bytes were session tickets, which carry no data.
                        Err(_) if self.stream.is_tls() => break,
                        Err(_) | Ok(Err(_) | Ok(0)) => self.fit = false,
                        Ok(Ok(_)) => {}
                    }
                }
            }
            self.take_late_blocks();
        }
        self.take_late_blocks();
        self.fit
    }

    fn take_late_blocks(&mut self) {
        while let Some(found) = self.decoder.decode(&mut self.buffer) {
            let known = match found {
                Decoded::Block(block) => Acknowledgement::read(&block).ok().is_some_and(|answer| self.is_late(&answer)),
                _ => false,
            };
            self.fit &= known;
        }
        self.fit &= self.decoder.garbage() == 0;
    }

    /// Whether an answer belongs to a message settled before; then it is noted.
    fn is_late(&mut self, answer: &Acknowledgement) -> bool {
        let Some(place) = self.settled.iter().position(|settled| answer.answers(&settled.control_id)) else { return false };
        if let Some(settled) = self.settled.remove(place) {
            self.late.push(LateAnswer { envelope: settled.envelope, code: answer.code, error: answer.error });
        }
        true
    }

    /// Sends one message and waits for its answer. The text of the answer is returned for people who asked for it.
    pub(crate) async fn exchange(&mut self, dispatch: Dispatch) -> (Outcome, Option<Bytes>) {
        let Dispatch { source, control_id, envelope, silent, timeout, unheard } = dispatch;
        let mut ids = vec![control_id];
        self.answered_in = None;
        if let Err(outcome) = self.transmit(source, &mut ids, timeout, unheard).await {
            self.fit = false;
            return (outcome, None);
        }
        let settled = |ids: Vec<Vec<u8>>| Settled { control_id: ids.into_iter().next().unwrap_or_default(), envelope };
        if silent {
            self.remember(settled(ids));
            return (Outcome::SilenceAsked, None);
        }
        let sent_at = Instant::now();
        match self.answer(&ids, sent_at + timeout, unheard).await {
            Ok((answer, text)) => {
                self.answered_in = Some(sent_at.elapsed());
                if answer.code == AckCode::CA {
                    self.remember(settled(ids));
                }
                (Outcome::Acknowledged { code: answer.code, error: answer.error }, Some(text))
            }
            Err((_, cause)) if self.turned_away => {
                self.fit = false;
                (Outcome::NotSent { phase: Phase::Tls, cause, stale: false, timeout: false }, None)
            }
            Err((silence, cause)) => {
                self.fit = false;
                (Outcome::Unanswered { silence, cause }, None)
            }
        }
    }

    fn remember(&mut self, settled: Settled) {
        if self.settled.len() == MLLP_SECOND_ANSWERS_MAX {
            self.settled.pop_front();
        }
        self.settled.push_back(settled);
    }

    /// Hands the whole block to the system. Adds the ids by which the receiver may name a batch.
    async fn transmit(&mut self, mut source: Source, ids: &mut Vec<Vec<u8>>, progress: Duration, unheard: Duration) -> Result<(), Outcome> {
        let mut piece = None;
        let mut first = true;
        let mut ends_with_fs = false;
        loop {
            // One piece ahead, so that the last one travels with the end of the block.
            let (rest, next) = match source.next().await {
                Ok(read) => read,
                Err(error) => return Err(Outcome::unreadable(&error)),
            };
            source = rest;
            let last = next.is_none();
            if let Some(piece) = std::mem::replace(&mut piece, next) {
                let across = std::mem::replace(&mut ends_with_fs, piece.last() == Some(&FS)) && piece.first() == Some(&CR);
                if across || !mllp::can_carry(&piece) {
                    return Err(Outcome::Local {
                        cause: "the content holds FS CR, which ends an MLLP block; it cannot be sent".into(),
                        permanent: true,
                    });
                }
                if first {
                    ids.extend(batch_ids(&piece));
                }
                self.write(frame(piece, first, last), progress, unheard).await?;
                first = false;
            }
            if last {
                break;
            }
        }
        if first {
            self.write(frame(Bytes::new(), true, true), progress, unheard).await?;
        }
        // On TLS the last record may still be ours, or on its way: from here on the receiver may have it.
        match timeout(progress, self.stream.flush()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.unanswered(Silence::Lost, &format!("failed while the end of the block was sent: {error}"))),
            Err(_) => Err(self.unanswered(Silence::Timeout, "did not take the end of the block in time")),
        }
    }

    fn unanswered(&self, silence: Silence, what: &str) -> Outcome {
        Outcome::Unanswered { silence, cause: format!("{} {what}", self.name) }
    }

    /// Writes a piece; each part the system takes renews the deadline.
    async fn write(&mut self, bytes: Bytes, progress: Duration, unheard: Duration) -> Result<(), Outcome> {
        let mut rest = &bytes[..];
        let mut deadline = Instant::now() + progress;
        let mut signs = Signs::from_now(unheard);
        while !rest.is_empty() {
            let (cause, late) = match timeout_at(deadline.min(signs.look_at), self.stream.write(rest)).await {
                Ok(Ok(written)) if written > 0 => {
                    rest = &rest[written..];
                    (deadline, signs) = (Instant::now() + progress, Signs::from_now(unheard));
                    continue;
                }
                Ok(Ok(_)) => (format!("{} took no more bytes; nothing was delivered", self.name), false),
                Ok(Err(error)) => (format!("{} closed while the message was being sent: {error}; it cannot have it whole", self.name), false),
                Err(_) if Instant::now() >= deadline => {
                    (format!("{} stopped reading while the message was being sent; it cannot have it whole", self.name), true)
                }
                Err(_) if signs.missing(&self.stream) => {
                    (format!("{} was lost while the message was sent: {}", self.name, stream::no_sign(unheard)), true)
                }
                Err(_) => continue,
            };
            return Err(Outcome::NotSent { phase: Phase::Transmit, cause, stale: self.reused && !late, timeout: late });
        }
        Ok(())
    }

    /// Reads an answer that comes soon right here, on a thread that has nothing else to do: that spares a change of threads there and back.
    fn read_soon(&mut self, deadline: Instant) -> Option<io::Result<usize>> {
        if self.stream.is_tls() || !in_place::is_alone() {
            return None;
        }
        let within = deadline.saturating_duration_since(Instant::now()).min(SOON);
        stream::receive_within(self.stream.tcp(), &mut self.buffer, within)
    }

    /// Waits for the answer that carries one of `ids`.
    async fn answer(&mut self, ids: &[Vec<u8>], deadline: Instant, unheard: Duration) -> Result<(Acknowledgement, Bytes), Unanswered> {
        let mut signs = Signs::from_now(unheard);
        loop {
            while let Some(found) = self.decoder.decode(&mut self.buffer) {
                let block = match found {
                    Decoded::Block(block) => block,
                    Decoded::Torn => return Err((Silence::WrongAnswer, format!("{} began an answer inside of another", self.name))),
                    _ => return Err((Silence::WrongAnswer, format!("{} answered with more than 1 MiB; is it an HL7 receiver?", self.name))),
                };
                let answer = Acknowledgement::read(&block).map_err(|none| (Silence::WrongAnswer, format!("{}: {none}", self.name)))?;
                if ids.iter().any(|id| answer.answers(id)) {
                    return Ok((answer, block));
                }
                if !self.is_late(&answer) {
                    return Err((Silence::WrongAnswer, format!("{} answered with the control id of another message (MSA-2)", self.name)));
                }
            }
            if self.decoder.garbage_run() > MLLP_GARBAGE_BYTES_MAX {
                return Err((Silence::WrongAnswer, format!("{} answered with 64 KiB that are no MLLP block", self.name)));
            }
            self.buffer.reserve(ANSWER_READ_BYTES);
            let started = self.decoder.inside();
            let read = match self.read_soon(deadline) {
                Some(read) => Ok(read),
                None => timeout_at(deadline.min(signs.look_at), self.stream.read_buf(&mut self.buffer)).await,
            };
            match read {
                Ok(Ok(0)) if started => return Err((Silence::Lost, format!("{} closed within its answer", self.name))),
                Ok(Ok(0)) => return Err((Silence::Lost, format!("{} closed before answering; look into its log for the reason", self.name))),
                Ok(Ok(_)) if !self.stream.is_tls() && !started && stream::looks_like_tls(&self.buffer) => {
                    return Err((Silence::WrongAnswer, format!("{}: {}", self.name, stream::TLS_EXPECTED)));
                }
                Ok(Ok(_)) => {}
                Ok(Err(error)) if !self.reused && tls::refused(&error) => {
                    self.turned_away = true;
                    return Err((Silence::Lost, format!("{}: {}", self.name, tls::explain(&error))));
                }
                Ok(Err(error)) => return Err((Silence::Lost, format!("{} was lost before answering: {error}", self.name))),
                Err(_) if Instant::now() < deadline => {
                    if signs.missing(&self.stream) {
                        return Err((Silence::Lost, format!("{} was lost before answering: {}", self.name, stream::no_sign(unheard))));
                    }
                }
                Err(_) => {
                    return Err((Silence::Timeout, format!("{} did not answer in time; is it busy, or is ack_timeout too short for it?", self.name)));
                }
            }
        }
    }
}

/// A piece of the block with the bytes that begin and end it, so that it leaves in one write.
fn frame(piece: Bytes, first: bool, last: bool) -> Bytes {
    if !first && !last {
        return piece;
    }
    let mut framed = Vec::with_capacity(piece.len() + 3);
    if first {
        framed.push(SB);
    }
    framed.extend_from_slice(&piece);
    if last {
        framed.extend_from_slice(&[FS, CR]);
    }
    framed.into()
}

/// The other ids of a batch: receivers that know no batches answer its first message.
fn batch_ids(first_piece: &Bytes) -> Vec<Vec<u8>> {
    if !matches!(first_piece.first(), Some(b'F' | b'B')) {
        return Vec::new();
    }
    Message::read(first_piece).map(|message| message.heads().control_ids().map(<[u8]>::to_vec).collect()).unwrap_or_default()
}

/// Whether a message with these conditions (`Key::AckConditions`) is sent without awaiting an answer.
pub(crate) fn silent(conditions: Option<&[u8]>, as_asked: bool) -> bool {
    as_asked && conditions.is_some_and(ack::asks_silence)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpStream};

    const MESSAGE: &[u8] = b"MSH|^~\\&|A|B|C|D|||ADT^A01|77|P|2.5\rPID|1||4711\r";

    /// A connection, and the peer's end of it.
    async fn connected() -> (Link, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (theirs, _) = listener.accept().await.unwrap();
        (Link::new(Stream::plain(ours).unwrap(), "peer:1".into()), theirs)
    }

    fn dispatch(id: &str) -> Dispatch {
        let content = Bytes::from(String::from_utf8_lossy(MESSAGE).replace("77", id));
        Dispatch {
            source: Source::Memory(Some(content)),
            control_id: id.into(),
            envelope: Some(EnvelopeId(5)),
            silent: false,
            timeout: Duration::from_secs(5),
            unheard: Duration::from_secs(5),
        }
    }

    fn framed(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        mllp::encode(text.as_bytes(), &mut out);
        out
    }

    fn answer(code: &str, id: &str) -> Vec<u8> {
        framed(&format!("MSH|^~\\&|C|D|A|B|||ACK|1|P|2.5\rMSA|{code}|{id}\r"))
    }

    async fn block(peer: &mut TcpStream) -> Vec<u8> {
        let mut decoder = Decoder::whole(1 << 24);
        let mut buffer = BytesMut::new();
        loop {
            if let Some(Decoded::Block(block)) = decoder.decode(&mut buffer) {
                return block.to_vec();
            }
            assert!(peer.read_buf(&mut buffer).await.unwrap() > 0, "closed early");
        }
    }

    fn accepted(code: AckCode) -> Outcome {
        Outcome::Acknowledged { code, error: None }
    }

    fn silence(outcome: &Outcome) -> Option<Silence> {
        match outcome {
            Outcome::Unanswered { silence, .. } => Some(*silence),
            _ => None,
        }
    }

    #[tokio::test]
    async fn the_message_goes_out_as_it_is_and_its_answer_counts() {
        let (mut link, mut peer) = connected().await;
        let receiver = async {
            assert_eq!(block(&mut peer).await, MESSAGE);
            for byte in answer("AE", "77") {
                peer.write_all(&[byte]).await.unwrap();
            }
        };
        let ((outcome, text), ()) = tokio::join!(link.exchange(dispatch("77")), receiver);
        assert_eq!(outcome, accepted(AckCode::AE));
        assert!(text.unwrap().ends_with(b"MSA|AE|77\r"));
        assert!(link.look().await, "a negative answer leaves the connection as good as it was");
    }

    #[tokio::test]
    async fn answers_that_cannot_be_ours_are_ambiguous_and_end_the_connection() {
        for text in [answer("AA", "78"), framed("MSH|^~\\&|C|D|A|B|||ADT^A01|1|P|2.5\r"), framed("MSA|OK|77"), answer("AA", "")] {
            let (mut link, mut peer) = connected().await;
            let receiver = async {
                block(&mut peer).await;
                peer.write_all(&text).await.unwrap();
            };
            let ((outcome, _), ()) = tokio::join!(link.exchange(dispatch("77")), receiver);
            assert_eq!(silence(&outcome), Some(Silence::WrongAnswer), "{outcome:?}");
            assert!(!link.is_fit());
        }
    }

    #[tokio::test]
    async fn an_empty_control_id_takes_the_answer_without_one() {
        let (mut link, mut peer) = connected().await;
        let receiver = async {
            block(&mut peer).await;
            peer.write_all(&answer("AA", "")).await.unwrap();
        };
        let ((outcome, _), ()) = tokio::join!(link.exchange(dispatch("")), receiver);
        assert_eq!(outcome, accepted(AckCode::AA));
    }

    #[tokio::test]
    async fn a_connection_lost_after_the_block_is_ambiguous() {
        let (mut link, mut peer) = connected().await;
        let receiver = async {
            block(&mut peer).await;
            drop(peer);
        };
        let ((outcome, _), ()) = tokio::join!(link.exchange(dispatch("77")), receiver);
        assert_eq!(silence(&outcome), Some(Silence::Lost));
        assert!(!link.is_fit());
    }

    #[tokio::test]
    async fn no_answer_in_time_is_ambiguous_and_a_late_one_is_never_read() {
        let (mut link, mut peer) = connected().await;
        let (outcome, _) = link.exchange(Dispatch { timeout: Duration::from_millis(100), ..dispatch("77") }).await;
        assert_eq!(silence(&outcome), Some(Silence::Timeout));
        assert!(!link.is_fit());
        block(&mut peer).await;
    }

    #[tokio::test]
    async fn the_second_answer_of_enhanced_mode_is_noted_and_stepped_over() {
        let (mut link, mut peer) = connected().await;
        let receiver = async {
            block(&mut peer).await;
            peer.write_all(&answer("CA", "77")).await.unwrap();
            block(&mut peer).await;
            // The application's answer to the first one, then the answer to the second.
            peer.write_all(&[answer("AE", "77"), answer("CA", "78")].concat()).await.unwrap();
        };
        let sender = async {
            assert_eq!(link.exchange(dispatch("77")).await.0, accepted(AckCode::CA));
            assert!(link.knows(b"77"));
            assert_eq!(link.exchange(dispatch("78")).await.0, accepted(AckCode::CA));
        };
        tokio::join!(sender, receiver);
        assert_eq!(link.take_late(), [LateAnswer { envelope: Some(EnvelopeId(5)), code: AckCode::AE, error: None }]);
        assert!(!link.knows(b"77") && link.is_fit());
    }

    #[tokio::test]
    async fn an_idle_connection_is_looked_at_before_it_is_used_again() {
        let (mut open, _peer) = connected().await;
        assert!(open.look().await);

        let (mut closed, peer) = connected().await;
        drop(peer);
        closed.stream.tcp().readable().await.unwrap();
        assert!(!closed.look().await);

        let (mut noisy, mut peer) = connected().await;
        peer.write_all(&answer("AA", "12")).await.unwrap();
        noisy.stream.tcp().readable().await.unwrap();
        assert!(!noisy.look().await, "an answer to nothing we sent");

        let (mut late, mut peer) = connected().await;
        late.remember(Settled { control_id: b"12".to_vec(), envelope: None });
        peer.write_all(&answer("AA", "12")).await.unwrap();
        late.stream.tcp().readable().await.unwrap();
        assert!(late.look().await, "the answer to a message that was settled before");
        assert_eq!(late.take_late().len(), 1);
    }

    #[tokio::test]
    async fn what_was_not_sent_whole_is_not_sent() {
        let (mut link, peer) = connected().await;
        let content = Bytes::from(vec![b'x'; 32 << 20]);
        let receiver = async {
            peer.readable().await.unwrap();
            drop(peer);
        };
        let ((outcome, _), ()) = tokio::join!(link.exchange(Dispatch { source: Source::Memory(Some(content)), ..dispatch("77") }), receiver);
        assert!(matches!(outcome, Outcome::NotSent { phase: Phase::Transmit, stale: false, timeout: false, .. }), "{outcome:?}");
        assert!(!link.is_fit());
    }

    #[tokio::test]
    async fn a_kept_connection_that_breaks_while_sending_is_stale() {
        let (mut link, peer) = connected().await;
        assert!(link.look().await);
        let content = Bytes::from(vec![b'x'; 32 << 20]);
        let receiver = async {
            peer.readable().await.unwrap();
            drop(peer);
        };
        let ((outcome, _), ()) = tokio::join!(link.exchange(Dispatch { source: Source::Memory(Some(content)), ..dispatch("77") }), receiver);
        assert!(matches!(outcome, Outcome::NotSent { phase: Phase::Transmit, stale: true, .. }), "{outcome:?}");
    }

    #[tokio::test]
    async fn a_receiver_that_stops_reading_runs_into_the_progress_deadline() {
        let (mut link, _peer) = connected().await;
        let content = Bytes::from(vec![b'x'; 32 << 20]);
        let short = Dispatch { source: Source::Memory(Some(content)), timeout: Duration::from_millis(100), ..dispatch("77") };
        let (outcome, _) = link.exchange(short).await;
        assert!(matches!(outcome, Outcome::NotSent { phase: Phase::Transmit, timeout: true, stale: false, .. }), "{outcome:?}");
    }

    #[tokio::test]
    async fn content_that_would_end_the_block_early_never_leaves() {
        let (mut link, peer) = connected().await;
        let content = Bytes::from_static(b"MSH|^~\\&|\x1c\rmore");
        let (outcome, _) = link.exchange(Dispatch { source: Source::Memory(Some(content)), ..dispatch("77") }).await;
        assert!(matches!(outcome, Outcome::Local { permanent: true, .. }), "{outcome:?}");
        drop(link);
        peer.readable().await.unwrap();
        assert_eq!(peer.try_read(&mut [0; 8]).unwrap(), 0);
    }

    #[tokio::test]
    async fn silence_that_was_asked_for_is_not_waited_for() {
        let (mut link, mut peer) = connected().await;
        let (outcome, _) = link.exchange(Dispatch { silent: true, ..dispatch("77") }).await;
        assert_eq!(outcome, Outcome::SilenceAsked);
        assert_eq!(block(&mut peer).await, MESSAGE);
        // ER: a refusal may still come, and is not taken for the next message's answer.
        peer.write_all(&[answer("CE", "77"), answer("AA", "78")].concat()).await.unwrap();
        assert_eq!(link.exchange(dispatch("78")).await.0, accepted(AckCode::AA));
        assert_eq!(link.take_late().len(), 1);
    }

    #[tokio::test]
    async fn a_batch_may_be_answered_by_any_of_its_names() {
        let batch = "BHS|^~\\&|A|B|C|D|||||B1\rMSH|^~\\&|A|B|C|D|||ADT^A01|M1|P|2.5\rBTS|1\r";
        for id in ["B1", "M1"] {
            let (mut link, mut peer) = connected().await;
            let receiver = async {
                block(&mut peer).await;
                peer.write_all(&answer("AA", id)).await.unwrap();
            };
            let sent = Dispatch { source: Source::Memory(Some(Bytes::from_static(batch.as_bytes()))), ..dispatch("B1") };
            let ((outcome, _), ()) = tokio::join!(link.exchange(sent), receiver);
            assert_eq!(outcome, accepted(AckCode::AA), "{id}");
        }
    }

    #[tokio::test]
    async fn an_answer_in_tls_says_so() {
        let (mut link, mut peer) = connected().await;
        let receiver = async {
            block(&mut peer).await;
            peer.write_all(&[0x15, 3, 3, 0, 2, 2, 10]).await.unwrap();
        };
        let ((outcome, _), ()) = tokio::join!(link.exchange(dispatch("77")), receiver);
        assert!(format!("{outcome:?}").contains("TLS"), "{outcome:?}");
    }
}
