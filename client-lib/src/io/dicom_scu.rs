//! One association that stores: a task that owns the connection, takes jobs, sends their objects, matches answers by message id.
//!
//! Rules:
//! - Objects go out one after another, several may await their answer (the agreed asynchronous operations window).
//! - An object is *sent* once its last byte was handed to the system; what fails before is `NotSent`, after it `Unanswered`. The last fragment is
//!   marked only where the source really ended.
//! - After a time-out, a fault, a cancelled attempt or content that broke off, the association is aborted, never reused.
//! - A peer whose machine acknowledges nothing any more is lost before its time to answer is over.
//! - The task reads all the time: a peer that leaves an idle association is noticed before the next job, not by it. A job that reaches a dead
//!   association before its first byte left comes back unused.
//!
//! Errors: outcomes, one to each job.

use crate::delivery::{Outcome, Phase, Silence};
use crate::dicom::association::Indication;
use crate::dicom::dimse::{self, Command, Response, StoreRq};
use crate::dicom::pdu::{self, Fragment};
use crate::dicom::status::{self, StatusClass};
use crate::io::courier::Met;
use crate::io::dicom_body::{Body, BodyError, Outgoing, Piece, SLICES};
use crate::io::dicom_open::Opened;
use crate::io::in_place;
use crate::io::stream::{self, Signs};
use crate::limits::{COMMAND_BYTES_MAX, RESPONSE_READ_BYTES};
use bytes::Bytes;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

/// The association ended before a byte of the job left: it is to be given to another one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unused;

/// One object to store.
pub(crate) struct Job {
    /// The message id is given here.
    pub(crate) request: StoreRq,
    /// The presentation context.
    pub(crate) context: u8,
    /// The data set.
    pub(crate) body: Body,
    /// Told how it ended.
    pub(crate) reply: oneshot::Sender<Result<Outcome, Unused>>,
    /// Told how long the answer took, and to whom it is connected.
    pub(crate) met: Met,
}

/// Where jobs are put. When every sender is gone, the association ends its work and is released.
pub(crate) type Jobs = mpsc::UnboundedSender<Job>;

/// How an association behaves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// Deadline of each answer, and of progress while transmitting.
    pub(crate) answer_timeout: Duration,
    /// Silence of the peer's machine (not of the peer) after which it is gone.
    pub(crate) unheard: Duration,
    /// Idle time before it is released.
    pub(crate) idle_release: Duration,
    /// Objects outstanding.
    pub(crate) window: u16,
}

/// When the peer took bytes last, for who watches the association.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress(Arc<Mutex<Option<Instant>>>);

impl Progress {
    fn made(&self, now: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// Whether it took bytes after this moment.
    pub(crate) fn since(&self, begun: Instant) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|at| at > begun)
    }
}

/// Asks the owner to forget the association; with `false` it may refuse, because a job is on its way.
pub(crate) type Retire = Box<dyn Fn(bool) -> bool + Send>;

/// Starts the task. `cancel` makes it look for jobs whose attempt was given up.
pub(crate) fn start(opened: Opened, settings: Settings, cancel: Arc<Notify>, progress: Progress, retire: Retire) -> Jobs {
    let (jobs, incoming) = mpsc::unbounded_channel();
    let now = Instant::now();
    let scu = Scu {
        wire: Wire { opened, outgoing: Outgoing::default(), flush: false, input: vec![0; RESPONSE_READ_BYTES].into() },
        jobs: incoming,
        jobs_ended: false,
        cancel,
        retire,
        settings,
        flights: Vec::new(),
        sending: None,
        command: Vec::new(),
        data_set_follows: false,
        last_id: 0,
        served: 0,
        progress_at: now,
        signs: Signs::from_now(settings.unheard),
        progress,
        answered_at: now,
        doomed: None,
    };
    tokio::spawn(scu.run());
    jobs
}

/// An object on its way or awaiting its answer.
struct Flight {
    message_id: u16,
    reply: oneshot::Sender<Result<Outcome, Unused>>,
    met: Met,
    /// Bytes queued in all when its last fragment was.
    ends_at: Option<u64>,
    /// When its last byte was handed to the system.
    sent_at: Option<Instant>,
    /// The association had been used before.
    reused: bool,
}

/// Why the association ends.
enum End {
    /// Nothing more to do.
    Release,
    /// The peer left, or the network did.
    Lost(String),
    /// A deadline passed.
    Timeout(String),
    /// Its machine is gone.
    Unheard(String),
    /// The peer did what it must not; the state machine may have an abort to send.
    Fault(String),
    /// Our side.
    Abort(String),
    /// The peer asked for the release.
    Released(String),
}

/// The connection, and what is on its way out.
struct Wire {
    opened: Opened,
    outgoing: Outgoing,
    flush: bool,
    input: Box<[u8]>,
}

enum Turn {
    Read(usize),
    Wrote,
    Failed(io::Error),
}

impl Wire {
    /// Reads if there is something, else writes.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        let mut input = ReadBuf::new(&mut self.input);
        match Pin::new(&mut self.opened.stream).poll_read(cx, &mut input) {
            Poll::Ready(Ok(())) => return Poll::Ready(Turn::Read(input.filled().len())),
            Poll::Ready(Err(error)) => return Poll::Ready(Turn::Failed(error)),
            Poll::Pending => {}
        }
        if !self.outgoing.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = self.outgoing.slices(&mut slices);
            let written = match Pin::new(&mut self.opened.stream).poll_write_vectored(cx, &slices[..count]) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Turn::Failed(error)),
                Poll::Ready(Ok(written)) => written,
            };
            self.flush = self.opened.stream.is_tls();
            return Poll::Ready(self.outgoing.advance(written).map_or_else(Turn::Failed, |()| Turn::Wrote));
        }
        if self.flush {
            match Pin::new(&mut self.opened.stream).poll_flush(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.flush = false,
                Poll::Ready(Err(error)) => return Poll::Ready(Turn::Failed(error)),
            }
        }
        Poll::Pending
    }
}

struct Scu {
    wire: Wire,
    jobs: mpsc::UnboundedReceiver<Job>,
    jobs_ended: bool,
    cancel: Arc<Notify>,
    retire: Retire,
    settings: Settings,
    /// In the order of sending; the one being sent is the last.
    flights: Vec<Flight>,
    /// Context and rest of the object being sent.
    sending: Option<(u8, Body)>,
    command: Vec<u8>,
    data_set_follows: bool,
    last_id: u16,
    served: u64,
    progress_at: Instant,
    signs: Signs,
    progress: Progress,
    /// Last answer, or the beginning.
    answered_at: Instant,
    /// No new jobs: it is aborted once the answers still awaited are there.
    doomed: Option<String>,
}

/// What a deadline is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// The release of an idle association.
    Idle,
    /// Progress of transmitting.
    Progress,
    /// An answer.
    Answer,
    /// A look whether the peer's machine still gives signs of life.
    Sign,
}

/// What woke the task.
enum Woken {
    Cancel,
    Turn(Turn),
    Job(Option<Box<Job>>),
    Due,
}

impl Scu {
    async fn run(mut self) {
        let end = loop {
            if let Err(end) = self.prepare() {
                break end;
            }
            let (deadline, due) = self.deadline();
            let takes = self.takes_jobs();
            let Self { wire, jobs, cancel, .. } = &mut self;
            let woken = tokio::select! {
                biased;
                () = cancel.notified() => Woken::Cancel,
                turn = poll_fn(|cx| wire.poll_turn(cx)) => Woken::Turn(turn),
                job = jobs.recv(), if takes => Woken::Job(job.map(Box::new)),
                () = sleep_until(deadline) => Woken::Due,
            };
            let result = match woken {
                Woken::Cancel => self.cancelled(),
                Woken::Turn(Turn::Read(0)) => Err(End::Lost("it closed the connection".to_owned())),
                Woken::Turn(Turn::Read(bytes)) => {
                    let Wire { opened, input, .. } = &mut self.wire;
                    opened.association.space().extend_from_slice(&input[..bytes]);
                    opened.stream.rearm_quickack();
                    Ok(())
                }
                Woken::Turn(Turn::Wrote) => {
                    self.wrote();
                    Ok(())
                }
                Woken::Turn(Turn::Failed(error)) => Err(End::Lost(error.to_string())),
                Woken::Job(Some(job)) => self.begin(*job),
                Woken::Job(None) => {
                    self.jobs_ended = true;
                    Ok(())
                }
                Woken::Due => self.due(due),
            };
            if let Err(end) = result {
                break end;
            }
        };
        self.end(end).await;
    }

    fn takes_jobs(&self) -> bool {
        let free = self.sending.is_none() && self.wire.outgoing.is_empty() && self.flights.len() < usize::from(self.settings.window);
        free && !self.jobs_ended && self.doomed.is_none()
    }

    /// Everything that can be done without waiting.
    fn prepare(&mut self) -> Result<(), End> {
        while let Some(indication) = self.wire.opened.association.poll() {
            self.indicated(indication)?;
        }
        if self.wire.outgoing.is_empty()
            && let Some((context, mut body)) = self.sending.take()
        {
            match in_place::run(|| body.next()) {
                Ok(piece) => self.queue(context, body, &piece)?,
                Err(error) => self.broke_off(&error),
            }
        }
        if self.flights.is_empty() {
            if let Some(cause) = self.doomed.take() {
                return Err(End::Abort(cause));
            }
            if self.jobs_ended {
                return Err(End::Release);
            }
        }
        Ok(())
    }

    /// Begins a job. Its first piece is read before its command leaves: content that cannot be read costs no association.
    fn begin(&mut self, job: Job) -> Result<(), End> {
        let Job { mut request, context, mut body, reply, met } = job;
        if reply.is_closed() {
            return Ok(());
        }
        let first = match in_place::run(|| body.next()) {
            Ok(first) => first,
            Err(error) => {
                answer(reply, error.outcome());
                return Ok(());
            }
        };
        // Ids of outstanding objects differ: the window is far smaller than their number.
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        request.message_id = self.last_id;
        let reused = self.served > 0;
        self.served += 1;
        let message_id = request.message_id;
        self.flights.push(Flight { message_id, reply, met, ends_at: None, sent_at: None, reused });
        self.progress_at = Instant::now();
        self.signs = Signs::from_now(self.settings.unheard);
        let association = &mut self.wire.opened.association;
        association.send_command(context, &dimse::encode_store_rq(&request)).map_err(|wrong| End::Fault(wrong.to_string()))?;
        let command = association.output().split().freeze();
        self.wire.outgoing.push(command);
        self.queue(context, body, &first)
    }

    /// Queues a piece as P-DATA-TFs of the size the peer takes.
    fn queue(&mut self, context: u8, body: Body, piece: &Piece) -> Result<(), End> {
        let Wire { opened, outgoing, .. } = &mut self.wire;
        let most = pdu::value_bytes_max(opened.association.peer_max_pdu());
        let mut rest = piece.bytes.clone();
        loop {
            let value = rest.split_to(rest.len().min(most));
            let last = piece.last && rest.is_empty();
            if !value.is_empty() || last {
                let header = opened.association.data_header(context, last, value.len()).map_err(|wrong| End::Fault(wrong.to_string()))?;
                outgoing.push(Bytes::copy_from_slice(&header));
                outgoing.push(value);
            }
            if rest.is_empty() {
                break;
            }
        }
        self.progress_at = Instant::now();
        if piece.last {
            if let Some(flight) = self.flights.last_mut() {
                flight.ends_at = Some(self.wire.outgoing.queued);
            }
        } else {
            self.sending = Some((context, body));
        }
        Ok(())
    }

    fn wrote(&mut self) {
        let now = Instant::now();
        self.progress_at = now;
        self.signs = Signs::from_now(self.settings.unheard);
        self.progress.made(now);
        let written = self.wire.outgoing.written;
        for flight in self.flights.iter_mut().filter(|flight| flight.sent_at.is_none() && flight.ends_at.is_some_and(|end| end <= written)) {
            flight.sent_at = Some(now);
        }
        if self.wire.outgoing.is_empty() {
            // Some peers write their response in two pieces with Nagle on: the second one waits for our acknowledgement of the first.
            self.wire.opened.stream.rearm_quickack();
        }
    }

    fn indicated(&mut self, indication: Indication) -> Result<(), End> {
        match indication {
            Indication::Data(fragment) if fragment.command => self.command_fragment(&fragment),
            // The data set of a response says nothing to a C-STORE.
            Indication::Data(fragment) if self.data_set_follows => {
                self.data_set_follows = !fragment.last;
                Ok(())
            }
            Indication::Data(_) => Err(End::Fault("it sent a data set nobody asked for".to_owned())),
            Indication::ReleaseRequested => Err(End::Released("it released the association".to_owned())),
            other => {
                let cause = self.wire.opened.describe(&other);
                Err(if matches!(other, Indication::Failed(_)) { End::Fault(cause) } else { End::Lost(cause) })
            }
        }
    }

    fn command_fragment(&mut self, fragment: &Fragment) -> Result<(), End> {
        if self.command.len() + fragment.data.len() > COMMAND_BYTES_MAX {
            return Err(End::Fault("its response is longer than a command set can be".to_owned()));
        }
        self.command.extend_from_slice(&fragment.data);
        if !fragment.last {
            return Ok(());
        }
        let command = dimse::decode(&std::mem::take(&mut self.command));
        match command {
            Ok(Command::Response { response, data_set }) => {
                self.data_set_follows = data_set;
                self.answered(&response)
            }
            Ok(_) => Err(End::Fault("it sent a request on an association that we asked for".to_owned())),
            Err(error) => Err(End::Fault(error.to_string())),
        }
    }

    fn answered(&mut self, response: &Response) -> Result<(), End> {
        let found = self.flights.iter().position(|flight| flight.message_id == response.message_id);
        let (dimse::C_STORE_RSP, Some(index)) = (response.command_field, found) else {
            return Err(End::Fault(format!("it answered message {}, which is not outstanding", response.message_id)));
        };
        self.answered_at = Instant::now();
        let flight = self.flights.remove(index);
        let class = status::class(response.status);
        if let Some(sent_at) = flight.sent_at {
            flight.met.answered(sent_at.elapsed());
            if class == StatusClass::ProtocolFault {
                self.doomed = Some("it answered with a protocol fault".to_owned());
            }
            answer(flight.reply, Outcome::Stored { status: response.status });
            return Ok(());
        }
        // Answered in the middle of the object. A refusal is believed, anything else cannot be meant for the whole object.
        self.sending = None;
        if matches!(class, StatusClass::Success | StatusClass::Warning | StatusClass::Duplicate) {
            let cause = format!("{} answered {:04X}H before it had the whole object", self.wire.opened.name, response.status);
            answer(flight.reply, Outcome::NotSent { phase: Phase::Transmit, cause, stale: false, timeout: false });
        } else {
            answer(flight.reply, Outcome::Stored { status: response.status });
        }
        self.doomed = Some("it answered before it had the whole object".to_owned());
        Ok(())
    }

    /// The content of the object being sent broke off: only an abort can end it. Answers still awaited are waited for first.
    fn broke_off(&mut self, error: &BodyError) {
        if let Some(flight) = self.flights.pop() {
            answer(flight.reply, error.outcome());
        }
        self.doomed = Some("the content of another object could not be read".to_owned());
    }

    fn cancelled(&mut self) -> Result<(), End> {
        if self.flights.iter().any(|flight| flight.reply.is_closed()) { Err(End::Abort("another attempt was given up".to_owned())) } else { Ok(()) }
    }

    /// The next deadline, and what it is of.
    fn deadline(&self) -> (Instant, Due) {
        let sent = self.flights.iter().filter_map(|flight| flight.sent_at).min();
        let answer = sent.map(|sent| (sent.max(self.answered_at) + self.settings.answer_timeout, Due::Answer));
        let progress = (!self.wire.outgoing.is_empty()).then(|| (self.progress_at + self.settings.answer_timeout, Due::Progress));
        let sign = (answer.is_some() || progress.is_some()).then_some((self.signs.look_at, Due::Sign));
        let idle = (self.answered_at.max(self.progress_at) + self.settings.idle_release, Due::Idle);
        answer.into_iter().chain(progress).chain(sign).min_by_key(|(at, _)| *at).unwrap_or(idle)
    }

    fn due(&mut self, due: Due) -> Result<(), End> {
        let seconds = self.settings.answer_timeout.as_secs_f32();
        match due {
            Due::Answer => return Err(End::Timeout(format!("no answer within {seconds} s"))),
            Due::Progress => return Err(End::Timeout(format!("it took no bytes for {seconds} s"))),
            Due::Sign if self.signs.missing(&self.wire.opened.stream) => return Err(End::Unheard(stream::no_sign(self.settings.unheard))),
            Due::Sign => return Ok(()),
            Due::Idle => {}
        }
        if (self.retire)(false) {
            return Err(End::Release);
        }
        // A job is on its way.
        self.progress_at = Instant::now();
        Ok(())
    }

    /// Tells every job what became of it, then leaves the association in the way that fits.
    async fn end(mut self, end: End) {
        (self.retire)(true);
        for flight in std::mem::take(&mut self.flights) {
            let outcome = self.outcome(&flight, &end);
            answer(flight.reply, outcome);
        }
        self.jobs.close();
        while let Ok(job) = self.jobs.try_recv() {
            // The receiver may be gone: then nobody waits for it.
            let _ = job.reply.send(Err(Unused));
        }
        let Wire { mut opened, outgoing, .. } = self.wire;
        match end {
            End::Release => opened.release().await,
            End::Released(_) => {
                // Refused only if the association is over anyway.
                let _ = opened.association.respond_release();
                opened.close_with_output().await;
            }
            End::Lost(_) | End::Unheard(_) => {}
            // In the middle of a PDU an abort would be taken for a part of it; the close says the same.
            End::Timeout(_) | End::Abort(_) | End::Fault(_) if !outgoing.is_empty() => {}
            End::Timeout(_) | End::Abort(_) | End::Fault(_) => opened.abort().await,
        }
    }

    fn outcome(&self, flight: &Flight, end: &End) -> Outcome {
        let (what, silence) = match end {
            End::Release => ("the association was released", Silence::Lost),
            End::Lost(what) | End::Unheard(what) | End::Abort(what) | End::Released(what) => (what.as_str(), Silence::Lost),
            End::Timeout(what) => (what.as_str(), Silence::Timeout),
            End::Fault(what) => (what.as_str(), Silence::WrongAnswer),
        };
        let name = &self.wire.opened.name;
        if flight.sent_at.is_some() {
            return Outcome::Unanswered { silence, cause: format!("{name}, after the whole object was sent: {what}") };
        }
        let stale = flight.reused && matches!(end, End::Lost(_) | End::Released(_));
        let cause = format!("{name}, before the whole object was sent: {what}");
        Outcome::NotSent { phase: Phase::Transmit, cause, stale, timeout: matches!(end, End::Timeout(_) | End::Unheard(_)) }
    }
}

fn answer(reply: oneshot::Sender<Result<Outcome, Unused>>, outcome: Outcome) {
    // The attempt may have been given up meanwhile: then nobody waits for it.
    let _ = reply.send(Ok(outcome));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_types, reason = "tests")]
    use super::*;
    use crate::dicom::walker::EXPLICIT_LITTLE;
    use crate::io::dicom_body::Source;
    use crate::io::dicom_open::{open, proposal};
    use crate::io::dicom_peer::{Act, Peer, Script};
    use crate::io::stream::Stream;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::time::timeout;

    const CT: &str = "1.2.840.10008.5.1.4.1.1.2";

    /// Content of `size` bytes in chunks of 100,000, which breaks off at `breaks_at`.
    struct Counting {
        size: u64,
        at: u64,
        breaks_at: u64,
    }

    impl Source for Counting {
        fn size(&self) -> u64 {
            self.size
        }
        fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
            let left = self.size.min(self.breaks_at) - self.at;
            if left == 0 {
                return Err(BodyError { cause: "broken disk".into(), permanent: false, damaged: false });
            }
            let chunk: Vec<u8> = (self.at..self.at + left.min(100_000)).map(|n| n as u8).collect();
            self.at += chunk.len() as u64;
            Ok(Some(chunk.into()))
        }
    }

    fn content(size: u64) -> Vec<u8> {
        (0..size).map(|n| n as u8).collect()
    }

    struct Rig {
        peer: Peer,
        jobs: Jobs,
        cancel: Arc<Notify>,
        retired: Arc<AtomicUsize>,
    }

    async fn rig(acts: &[Act], window: u16, timeouts: (u64, u64)) -> Rig {
        let peer = Peer::start(Script { acts: acts.iter().copied().collect(), ..Script::default() }).await;
        let stream = Stream::plain(tokio::net::TcpStream::connect(peer.address).await.unwrap()).unwrap();
        let pairs = [(CT.to_owned(), EXPLICIT_LITTLE.to_owned())];
        let opened = open(stream, &proposal("US", "THEM", &pairs, window), &"peer".into(), Instant::now() + Duration::from_secs(5)).await.unwrap();
        let settings = Settings {
            answer_timeout: Duration::from_millis(timeouts.0),
            unheard: Duration::from_secs(10),
            idle_release: Duration::from_millis(timeouts.1),
            window: opened.agreed.window.min(window),
        };
        let (cancel, retired) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let counted = retired.clone();
        let retire = move |_| counted.fetch_add(1, Ordering::SeqCst) < 100;
        let jobs = start(opened, settings, cancel.clone(), Progress::default(), Box::new(retire));
        Rig { peer, jobs, cancel, retired }
    }

    impl Rig {
        fn send(&self, size: u64, breaks_at: u64) -> oneshot::Receiver<Result<Outcome, Unused>> {
            let (reply, answer) = oneshot::channel();
            let request = StoreRq { sop_class: CT.into(), sop_instance: "1.2.3".into(), priority: 1, ..StoreRq::default() };
            let body = Body::plain(Box::new(Counting { size, at: 0, breaks_at }));
            let sent = self.jobs.send(Job { request, context: 1, body, reply, met: Met::default() });
            if let Err(unsent) = sent {
                unsent.0.reply.send(Err(Unused)).unwrap();
            }
            answer
        }

        async fn store(&self, size: u64) -> Result<Outcome, Unused> {
            timeout(Duration::from_secs(20), self.send(size, u64::MAX)).await.unwrap().unwrap()
        }
    }

    fn stored(status: u16) -> Result<Outcome, Unused> {
        Ok(Outcome::Stored { status })
    }

    const LONG: (u64, u64) = (10_000, 10_000);

    #[tokio::test]
    async fn objects_of_any_size_arrive_whole_and_answers_come_back() {
        let rig = rig(&[Act::Answer(0), Act::Answer(0xB000), Act::Answer(0xA700)], 1, LONG).await;
        for (size, status) in [(0, 0), (1_000_001, 0xB000), (16_384, 0xA700)] {
            assert_eq!(rig.store(size).await, stored(status));
        }
        let heard = rig.peer.heard.lock().unwrap();
        assert_eq!(heard.objects.iter().map(|(_, bytes)| bytes.clone()).collect::<Vec<_>>(), [content(0), content(1_000_001), content(16_384)]);
        assert_eq!((heard.associations.len(), heard.request.as_ref().unwrap().priority), (1, 1));
    }

    #[tokio::test]
    async fn several_outstanding_objects_are_told_apart_by_their_answers() {
        let rig = rig(&[Act::AnswerAfterNext(0xB001), Act::Answer(0xB002)], 2, LONG).await;
        let (first, second) = (rig.send(50_000, u64::MAX), rig.send(60_000, u64::MAX));
        assert_eq!((second.await.unwrap(), first.await.unwrap()), (stored(0xB002), stored(0xB001)));
    }

    #[tokio::test]
    async fn a_lost_connection_is_not_sent_before_the_last_byte_and_unanswered_after_it() {
        for (act, size) in [(Act::CloseWithin, 20_000_000), (Act::AbortWithin, 20_000_000)] {
            let rig = rig(&[act], 1, LONG).await;
            let outcome = rig.store(size).await;
            assert!(matches!(outcome, Ok(Outcome::NotSent { phase: Phase::Transmit, stale: false, timeout: false, .. })), "{act:?}: {outcome:?}");
            assert_eq!(rig.store(10).await, Err(Unused), "it is never used again");
        }
        for (act, silence) in [(Act::CloseAfter, Silence::Lost), (Act::AnswerOther, Silence::WrongAnswer)] {
            let rig = rig(&[act], 1, LONG).await;
            let outcome = rig.store(1_000).await;
            assert!(matches!(&outcome, Ok(Outcome::Unanswered { silence: s, .. }) if *s == silence), "{act:?}: {outcome:?}");
            assert_eq!(rig.retired.load(Ordering::SeqCst), 1);
        }
    }

    #[tokio::test]
    async fn a_lost_connection_on_reuse_is_stale() {
        let rig = rig(&[Act::Answer(0), Act::CloseWithin], 1, LONG).await;
        assert_eq!(rig.store(1_000).await, stored(0));
        let outcome = rig.store(20_000_000).await;
        assert!(matches!(outcome, Ok(Outcome::NotSent { stale: true, .. })), "{outcome:?}");
    }

    #[tokio::test]
    async fn silence_ends_in_a_time_out_and_an_abort() {
        let rig = rig(&[Act::Silence], 1, (100, 10_000)).await;
        assert!(matches!(rig.store(1_000).await, Ok(Outcome::Unanswered { silence: Silence::Timeout, .. })));
        timeout(Duration::from_secs(5), rig.peer.until(|heard| heard.aborts == 1)).await.unwrap();
    }

    #[tokio::test]
    async fn content_that_breaks_off_is_never_ended_as_if_it_were_whole() {
        let rig = rig(&[Act::AnswerAfterNext(0)], 2, (300, 10_000)).await;
        let (first, second) = (rig.send(1_000, u64::MAX), rig.send(1_000_000, 300_000));
        assert_eq!(second.await.unwrap(), Ok(Outcome::Local { cause: "broken disk".into(), permanent: false }));
        assert!(matches!(first.await.unwrap(), Ok(Outcome::Unanswered { silence: Silence::Timeout, .. })), "its answer is still awaited");
        timeout(Duration::from_secs(5), rig.peer.until(|heard| heard.aborts + heard.torn == 2)).await.unwrap();
        assert_eq!(rig.peer.heard.lock().unwrap().objects.len(), 1);
    }

    #[tokio::test]
    async fn content_that_cannot_be_begun_costs_no_association() {
        let rig = rig(&[], 1, LONG).await;
        assert!(matches!(rig.send(1_000, 0).await.unwrap(), Ok(Outcome::Local { .. })));
        assert_eq!(rig.store(1_000).await, stored(0));
    }

    #[tokio::test]
    async fn an_early_refusal_is_believed_and_an_early_success_is_not() {
        let refusing = rig(&[Act::AnswerWithin(0xA700)], 1, LONG).await;
        assert_eq!(refusing.store(20_000_000).await, stored(0xA700));
        let hasty = rig(&[Act::AnswerWithin(0)], 1, LONG).await;
        assert!(matches!(hasty.store(20_000_000).await, Ok(Outcome::NotSent { phase: Phase::Transmit, .. })));
        assert_eq!(hasty.store(10).await, Err(Unused));
    }

    #[tokio::test]
    async fn a_protocol_fault_is_reported_and_ends_the_association() {
        let rig = rig(&[Act::Answer(0x0211)], 1, LONG).await;
        assert_eq!(rig.store(1_000).await, stored(0x0211));
        timeout(Duration::from_secs(5), rig.peer.until(|heard| heard.aborts == 1)).await.unwrap();
    }

    #[tokio::test]
    async fn an_idle_association_is_released_and_one_without_owner_too() {
        let idle = rig(&[], 1, (10_000, 50)).await;
        assert_eq!(idle.store(1_000).await, stored(0));
        timeout(Duration::from_secs(5), idle.peer.until(|heard| heard.releases == 1)).await.unwrap();
        let Rig { peer, jobs, .. } = rig(&[], 1, LONG).await;
        drop(jobs);
        timeout(Duration::from_secs(5), peer.until(|heard| heard.releases == 1)).await.unwrap();
    }

    #[tokio::test]
    async fn a_peer_that_leaves_is_noticed_before_the_next_job() {
        for act in [Act::AnswerAndRelease(0), Act::AnswerAndClose(0)] {
            let rig = rig(&[act], 1, LONG).await;
            assert_eq!(rig.store(1_000).await, stored(0), "{act:?}");
            timeout(Duration::from_secs(5), rig.jobs.closed()).await.unwrap();
            assert_eq!(rig.store(1_000).await, Err(Unused));
        }
    }

    #[tokio::test]
    async fn an_attempt_given_up_aborts_its_association_and_no_other() {
        let rig = rig(&[Act::Answer(0), Act::Silence], 1, LONG).await;
        assert_eq!(rig.store(1_000).await, stored(0));
        rig.cancel.notify_one();
        let answer = rig.send(1_000, u64::MAX);
        rig.peer.until(|heard| heard.objects.len() == 2).await;
        drop(answer);
        rig.cancel.notify_one();
        timeout(Duration::from_secs(5), rig.peer.until(|heard| heard.aborts == 1)).await.unwrap();
    }
}
