//! The conversation with an HL7 sender: blocks in, custody, answers out.
//!
//! Rules: answers leave in the order of the blocks, each in one piece, and positive ones only with a receipt. Blocks that come without waiting for
//! answers are committed together, up to a limit; then reading stops until answers have left. A large block is streamed to the spool while it
//! arrives, and the next one waits for it, so that the order of acceptance is the order of arrival. When the gateway stops, whole blocks that wait
//! are refused, those being committed are answered. A lost connection does not stop a commit under way.
//! Errors: what cannot be taken is refused (`hl7::ack`), with an event; what is no MLLP at all closes the connection, with a notice.

use super::accept::Connection;
use super::allowance::{Allowance, within};
use crate::config::{ApplicationAck, Listener};
use crate::intake::Intake;
use bytes::{Bytes, BytesMut};
use everpost_client::event::{Event, Refusal};
use everpost_client::hl7::ack::{self, Answer, Reason, Stamp};
use everpost_client::hl7::message::{Gleaner, Heads, Message, Unreadable};
use everpost_client::io::stop::Stop;
use everpost_client::io::stream::{self, Stream};
use everpost_client::keys::{Key, Keys, Protocol};
use everpost_client::limits::{
    INTAKE_BYTES_PER_SECOND_MIN, LAST_LOOK, MLLP_BLOCK_SECONDS_MAX, MLLP_COMMIT_BYTES_MAX, MLLP_COMMITS_MAX, MLLP_GARBAGE_BYTES_MAX, MLLP_PART_BYTES,
    MLLP_READ_BYTES, MLLP_WRITE_SECONDS_MAX,
};
use everpost_client::mllp::{self, Decoded, Decoder};
use everpost_client::spool::{Content, ContentWriter, Receipt, Spool};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};

/// How often a quiet connection looks at its deadlines. They are rarely reached, and this is cheaper than a timer set anew for each message.
const LOOK: Duration = Duration::from_secs(60);

/// How long the peer may take to read the last answers of a connection we close: closing with unread bytes would destroy them.
const LINGER: Duration = Duration::from_millis(500);

/// Talks with one sender until it leaves, a limit or deadline is reached, or the gateway stops.
pub async fn converse(connection: Connection, listener: Arc<Listener>, intake: Arc<Intake>, stop: Stop) {
    let Connection { mut stream, peer, slot } = connection;
    let plain = !stream.is_tls();
    Conversation::new(listener, intake, peer, plain).run(&mut stream, Stream::rearm_quickack, &stop).await;
    stream::close(stream).await;
    drop(slot);
}

/// A commit under way.
type Commit = Pin<Box<dyn Future<Output = Result<Receipt, Refusal>> + Send>>;

/// A block whose answer has not left.
enum Pending {
    /// The spool has it.
    Commit { heads: Heads, bytes: usize, commit: Commit },
    /// The answer waits for those before it.
    Ready(Answer),
}

/// The answering side: what is pending, in order of arrival, and what waits to be written.
struct Answers {
    pending: VecDeque<Pending>,
    /// Bytes of content in `pending`.
    bytes: usize,
    /// A large message is being committed: the next block waits for it.
    exclusive: bool,
    application: ack::ApplicationAck,
    out: Vec<u8>,
    /// Nothing more is written: the connection is lost, or closing it is the answer.
    mute: bool,
}

impl Answers {
    fn room(&self) -> bool {
        self.pending.is_empty() || !self.exclusive && self.pending.len() < MLLP_COMMITS_MAX && self.bytes < MLLP_COMMIT_BYTES_MAX
    }

    /// Starts a commit. Polling it once hands it to the spool, so that commits begin in order of arrival.
    async fn start(&mut self, heads: Heads, bytes: usize, mut commit: Commit) {
        match poll_fn(|cx| Poll::Ready(commit.as_mut().poll(cx))).await {
            Poll::Ready(result) => self.pending.push_back(Pending::Ready(answer(&heads, result, self.application))),
            Poll::Pending => {
                self.bytes += bytes;
                self.pending.push_back(Pending::Commit { heads, bytes, commit });
            }
        }
    }

    /// Moves every answer that is due to `out`. Ready if there was one.
    fn poll_collect(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut moved = Poll::Pending;
        while let Some(first) = self.pending.front_mut() {
            let answer = match first {
                Pending::Ready(answer) => std::mem::take(answer),
                Pending::Commit { heads, bytes, commit } => match commit.as_mut().poll(cx) {
                    Poll::Ready(result) => {
                        self.bytes -= *bytes;
                        answer(heads, result, self.application)
                    }
                    Poll::Pending => break,
                },
            };
            self.pending.pop_front();
            self.put(&answer);
            moved = Poll::Ready(());
        }
        self.exclusive &= !self.pending.is_empty();
        moved
    }

    fn put(&mut self, answer: &Answer) {
        if self.mute {
            return;
        }
        answer.messages().for_each(|message| mllp::encode(message, &mut self.out));
        self.mute = answer.closes();
    }
}

fn answer(heads: &Heads, result: Result<Receipt, Refusal>, application: ack::ApplicationAck) -> Answer {
    match result {
        Ok(receipt) => ack::accept(&receipt, heads, application, stamp()),
        Err(refusal) => ack::refuse(heads, reason(refusal), stamp()),
    }
}

/// A block that comes in parts.
#[derive(Default)]
struct Large {
    gleaner: Gleaner,
    /// `None`: nothing is kept, because of `refusal`.
    writer: Option<ContentWriter>,
    refusal: Option<Refusal>,
}

struct Conversation {
    listener: Arc<Listener>,
    intake: Arc<Intake>,
    peer: String,
    /// No TLS on this connection, and nothing has come on it yet.
    fresh_and_plain: bool,
    decoder: Decoder,
    buffer: BytesMut,
    large: Option<Large>,
    answers: Answers,
    /// Nothing more is read; the conversation ends when all that is pending is answered.
    closing: bool,
    /// The peer has ended its side.
    ended: bool,
    told: Told,
    /// Bytes outside of blocks that were told of.
    garbage: u64,
    last_read: Instant,
    /// Since when a block is being received, and the time it has.
    block: Option<(Instant, Allowance)>,
    /// A deadline has passed; the peer is listened to once more until then.
    looked: Option<Instant>,
}

/// Notices given once per connection.
#[derive(Default)]
struct Told {
    garbage: bool,
    cut: bool,
}

impl Conversation {
    fn new(listener: Arc<Listener>, intake: Arc<Intake>, peer: SocketAddr, plain: bool) -> Self {
        let application = match listener.application_ack {
            ApplicationAck::Immediate => ack::ApplicationAck::Immediate,
            ApplicationAck::Never => ack::ApplicationAck::Never,
        };
        Self {
            decoder: Decoder::new(usize::try_from(listener.max_message).unwrap_or(usize::MAX), MLLP_PART_BYTES),
            listener,
            intake,
            peer: peer.ip().to_canonical().to_string(),
            fresh_and_plain: plain,
            buffer: BytesMut::new(),
            large: None,
            answers: Answers { pending: VecDeque::new(), bytes: 0, exclusive: false, application, out: Vec::new(), mute: false },
            closing: false,
            ended: false,
            told: Told::default(),
            garbage: 0,
            last_read: Instant::now(),
            block: None,
            looked: None,
        }
    }

    async fn run<S: AsyncRead + AsyncWrite + Unpin>(mut self, stream: &mut S, rearm_quickack: impl Fn(&S), stop: &Stop) {
        let mut look = std::pin::pin!(sleep_until(self.next_look()));
        let mut stopping = std::pin::pin!(stop.wait());
        let mut has_read = false;
        loop {
            let starved = self.take_blocks().await;
            if std::mem::take(&mut has_read) && self.decoder.inside() {
                // A sender with Nagle on holds back the rest of a block until what came is acknowledged; a whole block's answer does that itself.
                rearm_quickack(stream);
            }
            let collected = poll_fn(|cx| Poll::Ready(self.answers.poll_collect(cx))).await;
            self.write(stream).await;
            if self.answers.pending.is_empty() && (self.answers.mute || self.closing && starved) {
                break;
            }
            if collected.is_ready() && !starved {
                continue;
            }
            let reading = !self.closing && !self.answers.mute && self.answers.room();
            if reading {
                self.buffer.reserve(self.read_size());
            }
            tokio::select! {
                biased;
                () = poll_fn(|cx| self.answers.poll_collect(cx)) => {}
                read = stream.read_buf(&mut self.buffer), if reading => {
                    self.note_read(read.ok());
                    has_read = true;
                }
                () = &mut stopping, if !self.closing => self.closing = true,
                () = &mut look => {
                    self.look_at_deadlines(look.deadline(), reading);
                    look.as_mut().reset(self.next_look());
                }
            }
        }
        self.linger(stream).await;
    }

    /// Takes the blocks that have come, as far as there is room. True if all were taken.
    async fn take_blocks(&mut self) -> bool {
        while self.answers.room() && !self.answers.mute {
            match self.decoder.decode(&mut self.buffer) {
                Some(found) => self.take(found).await,
                None => {
                    self.look_at_garbage();
                    self.block = self.decoder.inside().then(|| self.block.unwrap_or_else(begun_now));
                    return true;
                }
            }
        }
        false
    }

    async fn take(&mut self, found: Decoded) {
        if !matches!(found, Decoded::Part(_) | Decoded::TooLarge) {
            self.block = None;
        }
        match found {
            Decoded::Block(content) => self.take_whole(content).await,
            Decoded::Part(part) => self.take_part(part).await,
            Decoded::End(part) => {
                self.take_part(part).await;
                self.take_large().await;
            }
            Decoded::TooLarge => {
                let large = self.large.get_or_insert_default();
                if large.writer.take().is_none() {
                    let limit = self.buffer.len().min(usize::try_from(self.listener.max_message).unwrap_or(usize::MAX));
                    large.gleaner.feed(&self.buffer[..limit]);
                }
                large.refusal = Some(Refusal::TooLarge);
            }
            Decoded::Skipped(bytes) => {
                let limit = self.listener.max_message;
                self.notice(&format!("a message of {bytes} bytes was refused, max_message is {limit}; raise it if such messages are meant to come"));
                self.take_large().await;
            }
            Decoded::Endless => {
                self.notice("a block without end was given up and the connection closed; does the sender end its blocks with FS CR?");
                self.take_large().await;
                self.closing = true;
            }
            // A refusal could be taken for one of the message that began: to a sender, a connection that closes means neither was taken.
            Decoded::Torn => {
                self.notice("a message began inside of another, whose end (FS CR) was lost; neither was taken, and the connection was closed");
                self.intake.refused(&self.listener, Refusal::Malformed);
                self.large = None;
                self.closing = true;
            }
        }
    }

    async fn take_whole(&mut self, content: Bytes) {
        if let Err(refusal) = self.intake.admit() {
            let message = Message::read(&content).map(Message::into_heads);
            return self.refuse(&message, refusal);
        }
        let read = Message::read(&content);
        self.commit(read, Content::Whole(content)).await;
    }

    /// Routes and commits what was read of a message.
    async fn commit(&mut self, read: Result<Message, Unreadable>, content: Content) {
        let message = match read {
            Ok(message) => message,
            Err(unreadable) => return self.refuse(&Err(unreadable), Refusal::Malformed),
        };
        let mut keys = Keys::new();
        keys.set(Key::Listener, self.listener.name.as_bytes());
        keys.set(Key::Peer, self.peer.as_bytes());
        if !message.keys(&mut keys) && !std::mem::replace(&mut self.told.cut, true) {
            self.notice("a header value is longer than 512 bytes; only its beginning serves for finding and routing, the content is whole");
        }
        let heads = message.into_heads();
        let addressees = match self.intake.route(&keys, Protocol::Mllp) {
            Ok(addressees) => addressees,
            Err(refusal) => return self.refuse(&Ok(heads), refusal),
        };
        let bytes = match &content {
            Content::Whole(bytes) => bytes.len(),
            Content::Streamed(_) => 0,
        };
        // Large content is synced by itself, before its record: a small message behind it would overtake it.
        self.answers.exclusive |= Spool::must_stage(&content);
        let (intake, listener) = (self.intake.clone(), self.listener.clone());
        let commit = Box::pin(async move { intake.commit(&listener, keys, content, addressees).await });
        self.answers.start(heads, bytes, commit).await;
    }

    /// Refuses a block, with as much of its own words as could be read.
    fn refuse(&mut self, read: &Result<Heads, Unreadable>, refusal: Refusal) {
        self.intake.refused(&self.listener, refusal);
        let answer = match (read, refusal) {
            (Ok(heads), refusal) => ack::refuse(heads, reason(refusal), stamp()),
            (Err(unreadable), Refusal::Malformed) => ack::refuse_unreadable(unreadable, stamp()),
            (Err(Unreadable { heads: Some(heads), .. }), refusal) => ack::refuse(heads, reason(refusal), stamp()),
            (Err(_), refusal) => ack::refuse_unseen(reason(refusal), stamp()),
        };
        self.answers.pending.push_back(Pending::Ready(answer));
    }

    async fn take_part(&mut self, part: Bytes) {
        let (intake, listener) = (&self.intake, &self.listener);
        let large = self.large.get_or_insert_with(|| match intake.content_writer(listener) {
            Ok(writer) => Large { writer: Some(writer), ..Large::default() },
            Err(refusal) => Large { refusal: Some(refusal), ..Large::default() },
        });
        large.gleaner.feed(&part);
        if let Some(mut writer) = large.writer.take() {
            let written = tokio::task::spawn_blocking(move || writer.write(&part).map(|()| writer)).await;
            match written {
                Ok(Ok(writer)) => large.writer = Some(writer),
                Ok(Err(error)) => large.refusal = Some(crate::intake::refusal(&error)),
                Err(_) => large.refusal = Some(Refusal::Sync),
            }
        }
    }

    /// Ends a block that came in parts.
    async fn take_large(&mut self) {
        let Some(large) = self.large.take() else { return };
        let read = large.gleaner.finish();
        let finished = match (large.refusal, large.writer) {
            (None, Some(writer)) => Ok(writer.finish()),
            (refusal, _) => Err(refusal.unwrap_or(Refusal::Sync)),
        };
        match finished {
            Ok(content) => self.commit(read, Content::Streamed(content)).await,
            Err(refusal) => self.refuse(&read.map(Message::into_heads), refusal),
        }
    }

    /// Small reads while small blocks come, large ones within a large block.
    fn read_size(&self) -> usize {
        if self.decoder.passed() > 0 || self.buffer.len() >= MLLP_READ_BYTES { MLLP_PART_BYTES } else { MLLP_READ_BYTES }
    }

    /// `None`: the connection is lost.
    fn note_read(&mut self, read: Option<usize>) {
        self.last_read = Instant::now();
        if let Some((_, allowance)) = &mut self.block {
            allowance.received(read.unwrap_or(0), self.last_read);
        }
        match read {
            None => (self.closing, self.answers.mute) = (true, true),
            Some(0) => (self.closing, self.ended) = (true, true),
            Some(_) if self.fresh_and_plain && stream::looks_like_tls(&self.buffer) => {
                self.notice(stream::TLS_ON_PLAIN);
                self.give_up();
            }
            Some(_) => self.fresh_and_plain = false,
        }
    }

    fn look_at_garbage(&mut self) {
        let bytes = self.decoder.garbage() - self.garbage;
        if bytes > 0 {
            self.garbage += bytes;
            self.intake.events().emit(Event::Garbage { listener: self.listener.name.clone(), bytes });
        }
        if self.decoder.garbage_run() > MLLP_GARBAGE_BYTES_MAX {
            self.notice("64 KiB came without a block and the connection was closed; does the peer speak MLLP?");
            self.give_up();
        } else if self.decoder.garbage() > 0 && !std::mem::replace(&mut self.told.garbage, true) {
            self.notice("bytes outside of MLLP blocks were dropped; blocks are taken all the same");
        }
    }

    /// The timer, set to `due`, ran out. `reading`: the peer was listened to meanwhile.
    fn look_at_deadlines(&mut self, due: Instant, reading: bool) {
        let now = Instant::now();
        if let Some((since, allowance)) = &mut self.block {
            if reading {
                allowance.forgive(due, now);
            } else {
                (*since, *allowance) = begun_now(); // it waits for us
            }
        }
        let long = self.block.is_some_and(|(since, _)| now.duration_since(since).as_secs() >= MLLP_BLOCK_SECONDS_MAX);
        let slow = self.block.is_some_and(|(_, allowance)| now >= allowance.until());
        let silent = self.answers.pending.is_empty() && now.duration_since(self.last_read) >= self.listener.idle_timeout;
        if !long && !slow && !silent {
            self.looked = None;
            return;
        }
        if *self.looked.get_or_insert(now + LAST_LOOK) > now {
            return;
        }
        let void = "and the connection was closed; what came of it is void";
        if silent && self.decoder.inside() {
            self.notice(&format!("the sender fell silent within a block {void}"));
        } else if slow {
            self.notice(&format!("a block came with less than {INTAKE_BYTES_PER_SECOND_MIN} bytes/s {void}"));
        } else if long {
            self.notice(&format!("a block was not whole after {MLLP_BLOCK_SECONDS_MAX} s {void}"));
        }
        self.give_up();
    }

    /// Nothing more is read or answered.
    fn give_up(&mut self) {
        (self.closing, self.answers.mute) = (true, true);
    }

    fn next_look(&self) -> Instant {
        let idle_at = self.last_read + self.listener.idle_timeout;
        let now = Instant::now();
        if let Some(at) = self.looked {
            return at.max(now + Duration::from_millis(20));
        }
        let idle_at = self.block.map_or(idle_at, |(_, allowance)| allowance.until().min(idle_at));
        // Not earlier than a moment from now: an idle deadline that passed while a commit is under way waits for its end.
        idle_at.min(now + LOOK).max(now + Duration::from_millis(20))
    }

    /// Writes the answers that are due, in one piece.
    async fn write<S: AsyncWrite + Unpin>(&mut self, stream: &mut S) {
        if self.answers.out.is_empty() {
            return;
        }
        let writing = async {
            stream.write_all(&self.answers.out).await?;
            stream.flush().await
        };
        match within(Duration::from_secs(MLLP_WRITE_SECONDS_MAX), writing).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => self.give_up(),
            Err(_) => {
                self.notice(&format!("the sender did not read its answers for {MLLP_WRITE_SECONDS_MAX} s and the connection was closed"));
                self.give_up();
            }
        }
        self.answers.out.clear();
        self.answers.out.shrink_to(MLLP_READ_BYTES);
    }

    /// Lets the peer read the last answers before the connection goes.
    async fn linger<S: AsyncRead + AsyncWrite + Unpin>(&mut self, stream: &mut S) {
        if self.ended {
            return;
        }
        let mut rest = [0; 4096];
        let reading = async {
            stream.shutdown().await?;
            while stream.read(&mut rest).await? > 0 {}
            Ok::<(), std::io::Error>(())
        };
        // Whatever comes of it, the connection is closed.
        let _ = timeout(LINGER, reading).await;
    }

    fn notice(&self, what: &str) {
        self.intake.notice(&self.listener, &self.peer, what);
    }
}

fn begun_now() -> (Instant, Allowance) {
    let now = Instant::now();
    (now, Allowance::begin(now))
}

/// What the sender is told.
fn reason(refusal: Refusal) -> Reason {
    match refusal {
        Refusal::NoRoute => Reason::NoRoute,
        Refusal::TooLarge => Reason::TooLarge,
        Refusal::Malformed => Reason::Malformed(everpost_client::hl7::message::Malformed::NoHeader),
        Refusal::Reserve => Reason::NotNow("the disk reserve of the gateway is reached"),
        Refusal::Sync => Reason::NotNow("the gateway could not make the message durable"),
        Refusal::Limit => Reason::NotNow("a limit of the gateway is reached"),
        Refusal::Stopping => Reason::NotNow("the gateway is stopping"),
    }
}

/// Now, and a number of its own.
fn stamp() -> Stamp {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    Stamp { at, serial: SERIAL.fetch_add(1, Ordering::Relaxed) }
}

#[cfg(test)]
mod tests;
