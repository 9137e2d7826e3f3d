//! Delivers HL7: the courier of an MLLP destination, and the test client `send hl7`.
//!
//! Rules: connections are kept open between messages, at most `associations` per endpoint, and released after `idle_release`; before one is used again
//! it is looked at (`mllp_exchange`), and a dead one is replaced without counting as a failure. A time-out, a wrong answer or a fault closes the
//! connection; when one is lost the idle ones go too; one to an address that its name has no longer is closed when the message in flight has ended.
//! Content is read from the spool in chunks, so a large message costs one chunk.
//! Errors: none; failures are outcomes. Answers to earlier messages become notes in their stories, and an alarm if they are negative.

use crate::config::{Destination, Endpoint, Fault, Probe};
use crate::delivery::standby::{Kind, Rehearsed, Stumble};
use crate::delivery::status::NameStatus;
use crate::delivery::{AckCode, Outcome, Phase, Silence};
use crate::event::{Event, Events};
use crate::hl7::message::Message;
use crate::ids::EndpointId;
use crate::io::courier::{Answered, Boxed, Content, Courier, Met, Order, Parcel, Patience, ProbeFailure};
use crate::io::dial::{self, Dialer};
use crate::io::http_probe::HttpProbe;
use crate::io::mllp_exchange::{Dispatch, LateAnswer, Link, Source, silent};
use crate::io::pools::Pools;
use crate::io::resolve::Resolver;
use crate::io::tls::ClientTls;
use crate::keys::Key;
use crate::limits::MLLP_BLOCK_BYTES_DEFAULT;
use crate::mllp::{CR, FS, SB};
use crate::spool::{Answer, AttemptRecord, Settlement, Spool};
use bytes::Bytes;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;
use tokio::time::Instant;

/// How often idle connections are looked at: a peer that closed shows within this time, and not only at the next message.
const LOOK: Duration = Duration::from_secs(1);

/// The courier of an MLLP destination.
#[derive(Debug)]
pub struct MllpCourier {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// With the members of its pools.
    destination: Arc<Destination>,
    pools: Arc<Pools>,
    posts: Vec<Arc<Post>>,
    spool: Arc<Spool>,
    events: Events,
    /// The task that looks at idle connections runs.
    watched: AtomicBool,
}

/// One endpoint and the connections to it.
#[derive(Debug)]
struct Post {
    endpoint: Arc<Endpoint>,
    dialer: Dialer,
    /// Where its probes go instead, if they are HTTP.
    http: Option<HttpProbe>,
    idle: Mutex<Vec<Kept>>,
    open: Arc<Mutex<Vec<SocketAddr>>>,
    /// Counts drains: a connection made before one is closed when its attempt ends.
    drains: AtomicU64,
}

/// A connection of the pool.
#[derive(Debug)]
struct Kept {
    link: Link,
    since: Instant,
    drains: u64,
    place: Place,
}

/// An entry in the list of open connections; leaves it when dropped.
#[derive(Debug)]
struct Place {
    address: SocketAddr,
    open: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Place {
    fn new(address: SocketAddr, open: &Arc<Mutex<Vec<SocketAddr>>>) -> Self {
        locked(open).push(address);
        Self { address, open: open.clone() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = locked(&self.open);
        if let Some(place) = open.iter().position(|address| *address == self.address) {
            open.swap_remove(place);
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MllpCourier {
    /// `tls` has one entry per endpoint. Must be called inside a tokio runtime if an endpoint has a name.
    #[must_use]
    pub fn new(destination: Arc<Destination>, tls: Vec<Option<ClientTls>>, spool: Arc<Spool>, events: Events, resolver: &Resolver) -> Self {
        let pools = Arc::new(Pools::new(destination.clone(), tls, resolver, events.clone()));
        let posts = destination.endpoints.iter().map(|endpoint| Arc::new(Post::new(endpoint, &pools))).collect();
        Self { shared: Arc::new(Shared { destination, pools, posts, spool, events, watched: AtomicBool::new(false) }) }
    }
}

impl Post {
    fn new(endpoint: &Arc<Endpoint>, pools: &Pools) -> Self {
        Self {
            endpoint: endpoint.clone(),
            dialer: Dialer::new(endpoint.clone(), pools.tls_of(endpoint), pools.resolver()),
            http: HttpProbe::of(endpoint, pools.resolver()),
            idle: Mutex::default(),
            open: Arc::default(),
            drains: AtomicU64::new(0),
        }
    }

    /// Closes idle connections to addresses that the name has no longer.
    fn let_old_go(&self) {
        let old: Vec<Kept> = locked(&self.idle).extract_if(.., |kept| !self.dialer.is_current(kept.place.address)).collect();
        drop(old); // dropping closes: nothing is outstanding on an idle connection
    }
}

impl Courier for MllpCourier {
    fn attempt(&self, order: Order) -> Boxed<Outcome> {
        let shared = self.shared.clone();
        Box::pin(async move { shared.attempt(order).await })
    }

    fn probe(&self, endpoint: EndpointId, _store: bool) -> Boxed<Result<Duration, ProbeFailure>> {
        let shared = self.shared.clone();
        Box::pin(async move { shared.probe(endpoint).await })
    }

    fn rehearse(&self, endpoint: EndpointId, _kinds: Vec<Kind>, within: Duration) -> Boxed<Rehearsed> {
        let shared = self.shared.clone();
        Box::pin(async move { shared.rehearse(endpoint, within).await })
    }

    fn send(&self, endpoint: EndpointId, fresh: bool, parcel: Parcel, patience: Patience) -> Boxed<Answered> {
        let shared = self.shared.clone();
        Box::pin(async move {
            let Content::Hl7(content) = parcel.0 else {
                return (Outcome::Local { cause: "an image cannot be sent to an HL7 receiver".into(), permanent: true }, None);
            };
            let unheard = shared.destination.connect_timeout;
            let (met, dispatch) = (Met::default(), Dispatch { unheard, ..by_hand(content, patience.answer_within) });
            let exchange = shared.exchange(endpoint, fresh, patience.connect_by, dispatch, &met);
            // Connecting ends by itself before: what is cut here may have been sent.
            let late = || Outcome::Unanswered { silence: Silence::Timeout, cause: "its share of the time was over".into() };
            tokio::time::timeout_at(patience.until, exchange).await.unwrap_or_else(|_| (late(), None))
        })
    }

    fn simulate(&self, endpoint: EndpointId, fault: Option<(Fault, Instant)>) {
        if self.shared.posts.get(endpoint.index()).is_some_and(|post| post.dialer.simulate(fault)) {
            self.drain(endpoint);
        }
    }

    fn drain(&self, endpoint: EndpointId) {
        let Some(post) = self.shared.posts.get(endpoint.index()) else { return };
        post.drains.fetch_add(1, Ordering::AcqRel);
        // Dropping closes: nothing is outstanding on an idle connection.
        drop(std::mem::take(&mut *locked(&post.idle)));
    }

    fn connected(&self, endpoint: EndpointId) -> Vec<SocketAddr> {
        self.shared.posts.get(endpoint.index()).map(|post| locked(&post.open).clone()).unwrap_or_default()
    }

    fn resolved(&self, endpoint: EndpointId) -> Vec<SocketAddr> {
        self.shared.posts.get(endpoint.index()).map(|post| post.dialer.resolved()).unwrap_or_default()
    }

    fn name(&self, endpoint: EndpointId) -> Option<NameStatus> {
        self.shared.posts.get(endpoint.index())?.dialer.name()
    }

    fn tell_to(&self, changed: &Arc<Notify>) {
        self.shared.pools.tell_to(changed);
        self.shared.posts.iter().for_each(|post| post.dialer.tell_to(changed));
    }

    fn regroup(&self) -> Option<(Arc<Destination>, Arc<dyn Courier>)> {
        self.shared.posts.iter().for_each(|post| post.let_old_go());
        let now = self.shared.pools.changed_from(&self.shared.destination)?;
        let (old, pools) = (&self.shared.posts, self.shared.pools.clone());
        let post = |endpoint: &Arc<Endpoint>| {
            let stays = old.iter().find(|post| post.endpoint.is_same_place(endpoint)).cloned();
            stays.unwrap_or_else(|| Arc::new(Post::new(endpoint, &pools)))
        };
        let posts = now.endpoints.iter().map(post).collect();
        let (spool, events) = (self.shared.spool.clone(), self.shared.events.clone());
        let shared = Arc::new(Shared { destination: now.clone(), pools: pools.clone(), posts, spool, events, watched: AtomicBool::new(true) });
        // Connections that came along are looked at by the new one.
        tokio::spawn(watch(Arc::downgrade(&shared)));
        Some((now, Arc::new(Self { shared })))
    }

    fn pools_known(&self, deadline: Instant) -> Boxed<()> {
        let pools = self.shared.pools.clone();
        Box::pin(async move { pools.known(deadline).await })
    }
}

impl Shared {
    async fn attempt(self: Arc<Self>, order: Order) -> Outcome {
        let envelope = &order.envelope;
        let source = match Source::open(&self.spool, envelope.message).await {
            Ok(source) => source,
            Err(error) => return Outcome::unreadable(&error),
        };
        let control_id = envelope.keys.get(Key::ControlId).unwrap_or_default().to_vec();
        let silent = silent(envelope.keys.get(Key::AckConditions), self.destination.silence_as_asked);
        let (timeout, unheard) = (self.destination.ack_timeout, self.destination.connect_timeout);
        let dispatch = Dispatch { source, control_id, envelope: Some(envelope.id), silent, timeout, unheard };
        let connect_by = Instant::now() + self.destination.connect_timeout;
        self.exchange(order.endpoint, order.fresh, connect_by, dispatch, &order.met).await.0
    }

    /// One exchange, on a kept connection or a fresh one, which is kept if it is fit for another.
    async fn exchange(
        self: &Arc<Self>,
        endpoint: EndpointId,
        fresh: bool,
        connect_by: Instant,
        dispatch: Dispatch,
        met: &Met,
    ) -> (Outcome, Option<Bytes>) {
        let Some(post) = self.posts.get(endpoint.index()) else {
            return (Outcome::Local { cause: "the endpoint is not configured any more".into(), permanent: false }, None);
        };
        let kept = if fresh { None } else { self.idle_link(post, &dispatch.control_id).await };
        let mut kept = match kept {
            Some(kept) => kept,
            None => match self.dial(post, connect_by, met).await {
                Ok(kept) => kept,
                Err(outcome) => return (outcome, None),
            },
        };
        met.connected(kept.place.address);
        let (outcome, text) = kept.link.exchange(dispatch).await;
        if let Some(took) = kept.link.answered_in() {
            met.answered(took);
        }
        self.note(post, &mut kept);
        if matches!(outcome, Outcome::NotSent { .. } | Outcome::Unanswered { silence: Silence::Lost, .. }) {
            // A machine that was switched off and on has forgotten the idle ones too, and each would cost an attempt.
            drop(std::mem::take(&mut *locked(&post.idle)));
        }
        self.keep(endpoint, kept);
        (outcome, text)
    }

    /// A kept connection that is still good, if there is one.
    async fn idle_link(&self, post: &Post, control_id: &[u8]) -> Option<Kept> {
        loop {
            let mut kept = locked(&post.idle).pop()?;
            let good = post.dialer.is_current(kept.place.address) && !kept.link.knows(control_id) && kept.link.look().await;
            self.note(post, &mut kept);
            if good && !kept.link.knows(control_id) {
                return Some(kept);
            }
        }
    }

    async fn dial(&self, post: &Post, deadline: Instant, met: &Met) -> Result<Kept, Outcome> {
        let drains = post.drains.load(Ordering::Acquire);
        let stream = post.dialer.dial_met(deadline, met).await?;
        let place = Place::new(stream.peer(), &post.open);
        Ok(Kept { link: Link::new(stream, post.endpoint.address()), since: Instant::now(), drains, place })
    }

    /// Puts a connection back if another message can use it.
    fn keep(self: &Arc<Self>, endpoint: EndpointId, mut kept: Kept) {
        let Some(post) = self.posts.get(endpoint.index()) else { return };
        if !kept.link.is_fit()
            || !post.dialer.is_current(kept.place.address)
            || kept.drains != post.drains.load(Ordering::Acquire)
            || self.destination.idle_release.is_zero()
        {
            return;
        }
        kept.since = Instant::now();
        let mut idle = locked(&post.idle);
        if idle.len() < usize::from(self.destination.associations.get()) {
            idle.push(kept);
        }
        drop(idle);
        if !self.watched.swap(true, Ordering::AcqRel) {
            tokio::spawn(watch(Arc::downgrade(self)));
        }
    }

    /// Looks at every idle connection, releases what has been idle long enough. Returns whether any is left.
    async fn look(&self) -> bool {
        let mut left = false;
        let mut released = Vec::new();
        for post in &self.posts {
            let idle = std::mem::take(&mut *locked(&post.idle));
            let mut good = Vec::with_capacity(idle.len());
            for mut kept in idle {
                if kept.since.elapsed() >= self.destination.idle_release {
                    released.push(kept);
                } else if kept.link.look().await {
                    good.push(kept);
                } else {
                    self.note(post, &mut kept);
                }
            }
            for kept in &mut good {
                self.note(post, kept);
            }
            let drains = post.drains.load(Ordering::Acquire);
            good.retain(|kept| kept.drains == drains);
            let mut idle = locked(&post.idle);
            idle.splice(0..0, good);
            left |= !idle.is_empty();
        }
        for kept in released {
            kept.link.close().await;
        }
        left
    }

    /// Writes answers to earlier messages into their stories.
    fn note(&self, post: &Post, kept: &mut Kept) {
        for LateAnswer { envelope, code, error: number } in kept.link.take_late() {
            let Some(envelope) = envelope else { continue };
            let error = number.map(|error| format!(" {error}")).unwrap_or_default();
            let outcome = format!("{}{error}, the application's answer after custody had ended", code.name());
            let record = AttemptRecord::new(post.endpoint.name.clone(), Phase::Answer, outcome, unix_millis());
            let record = AttemptRecord { address: Some(kept.place.address), answer: Some(Answer::Hl7 { code, error: number }), ..record };
            // The envelope may have left history already: then there is no story to write into.
            let _ = self.spool.settle(envelope, Settlement::Note(record));
            if !code.is_positive() {
                let subject = format!("{}/{}", self.destination.name, post.endpoint.name);
                let what = format!("envelope {envelope} was accepted and later answered with {}{error}; look into the receiver", code.name());
                self.events.emit(Event::Incident { subject, what });
            }
        }
    }

    /// All there is to negotiate with an HL7 receiver: the connection, with its TLS.
    async fn rehearse(self: Arc<Self>, endpoint: EndpointId, within: Duration) -> Rehearsed {
        let Some(post) = self.posts.get(endpoint.index()) else { return Ok(Vec::new()) };
        let stumble = |outcome| {
            let ProbeFailure { phase, cause } = failure(outcome);
            Stumble { phase, cause }
        };
        let stream = post.dialer.dial(Instant::now() + within).await.map_err(stumble)?;
        crate::io::stream::close(stream).await;
        Ok(Vec::new())
    }

    async fn probe(self: Arc<Self>, endpoint: EndpointId) -> Result<Duration, ProbeFailure> {
        let Some(post) = self.posts.get(endpoint.index()) else {
            return Err(ProbeFailure { phase: Phase::Resolve, cause: "the endpoint is not configured any more".into() });
        };
        let health = &post.endpoint.health;
        let begun = Instant::now();
        let deadline = begun + health.timeout;
        if let Some(http) = &post.http {
            return http.probe(deadline).await;
        }
        match &health.probe {
            // A question of DICOM says nothing about an HL7 receiver; the configuration does not let it through.
            Probe::Tcp | Probe::DicomEcho | Probe::DicomStore { .. } | Probe::Http(_) => {
                let stream = post.dialer.dial_plain(deadline).await.map_err(failure)?;
                let took = begun.elapsed();
                // Nothing was said, so nothing is to be waited for.
                drop(stream);
                Ok(took)
            }
            Probe::Tls => {
                let kept = self.dial(post, deadline, &Met::default()).await.map_err(failure)?;
                let took = begun.elapsed();
                kept.link.close().await;
                Ok(took)
            }
            Probe::Mllp(file) => {
                let content = read_file(file).await.map_err(|error| ProbeFailure {
                    phase: Phase::Resolve,
                    cause: format!("the test message {} cannot be read: {error}", file.display()),
                })?;
                let mut kept = self.dial(post, deadline, &Met::default()).await.map_err(failure)?;
                let timeout = deadline.saturating_duration_since(Instant::now());
                let (outcome, _) = kept.link.exchange(by_hand(content, timeout)).await;
                let took = kept.link.answered_in().unwrap_or_default();
                kept.link.close().await;
                match outcome {
                    Outcome::Acknowledged { code, .. } if code.is_positive() => Ok(took),
                    Outcome::Acknowledged { code, error } => {
                        let error = error.map(|error| format!(" {error}")).unwrap_or_default();
                        Err(ProbeFailure { phase: Phase::Answer, cause: format!("the test message was answered with {}{error}", code.name()) })
                    }
                    other => Err(failure(other)),
                }
            }
        }
    }
}

/// Looks at idle connections while there are any and the courier lives.
async fn watch(shared: std::sync::Weak<Shared>) {
    loop {
        let Some(pause) = shared.upgrade().map(|shared| LOOK.min(shared.destination.idle_release)) else { return };
        tokio::time::sleep(pause).await;
        let Some(shared) = shared.upgrade() else { return };
        if !shared.look().await {
            shared.watched.store(false, Ordering::Release);
            // A connection kept meanwhile found the watch still on: look once more.
            let kept_meanwhile = shared.posts.iter().any(|post| !locked(&post.idle).is_empty());
            if !kept_meanwhile || shared.watched.swap(true, Ordering::AcqRel) {
                return;
            }
        }
    }
}

fn failure(outcome: Outcome) -> ProbeFailure {
    let phase = outcome.phase();
    let cause = match outcome {
        Outcome::NotSent { cause, .. } | Outcome::Unanswered { cause, .. } | Outcome::Local { cause, .. } | Outcome::Damaged { cause } => cause,
        other => format!("{other:?}"),
    };
    ProbeFailure { phase, cause }
}

fn by_hand(content: Bytes, timeout: Duration) -> Dispatch {
    let control_id = Message::read(&content).map(|message| message.heads().control_id().to_vec()).unwrap_or_default();
    Dispatch { source: Source::Memory(Some(content)), control_id, envelope: None, silent: false, timeout, unheard: timeout }
}

/// A test message from a file, as the `mllp` probe reads it.
/// # Errors
/// Of the file.
pub async fn read_file(path: &Path) -> io::Result<Bytes> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || {
        let size = std::fs::metadata(&path)?.len();
        if size > MLLP_BLOCK_BYTES_DEFAULT as u64 {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 64 MiB"));
        }
        std::fs::read(&path)
    });
    read.await.map_err(io::Error::other)?.map(|content| from_file(content).into())
}

/// A message as editors and tools leave it in a file, made ready for the wire: MLLP framing is taken off; if its lines end with LF alone, they get CR.
#[must_use]
pub fn from_file(mut content: Vec<u8>) -> Vec<u8> {
    if content.first() == Some(&SB) {
        content.remove(0);
        while content.last().is_some_and(|byte| matches!(byte, b'\n' | &CR)) && !content.ends_with(&[FS, CR]) {
            content.pop();
        }
        if content.ends_with(&[FS, CR]) {
            content.truncate(content.len() - 2);
        }
    }
    if !content.contains(&CR) {
        content.iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = CR);
    }
    content
}

/// What a receiver answered to a message sent by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// MSA-1.
    pub code: AckCode,
    /// Code of table 0357, if there was one.
    pub error: Option<u16>,
    /// The answer as it came.
    pub text: Vec<u8>,
}

/// Sends one message to a peer and returns its answer (`everpost send hl7`). `content` goes out as it is. `timeout` bounds the connection, and again
/// the answer.
/// # Errors
/// An `Outcome` other than `Acknowledged`: not sent, or sent and unanswered.
pub async fn send(content: &[u8], endpoint: &Endpoint, tls: Option<&ClientTls>, timeout: Duration) -> Result<Reply, Outcome> {
    let stream = dial::dial(endpoint, tls, Instant::now() + timeout).await?;
    let mut link = Link::new(stream, endpoint.address());
    let (outcome, text) = link.exchange(by_hand(Bytes::copy_from_slice(content), timeout)).await;
    link.close().await;
    match (outcome, text) {
        (Outcome::Acknowledged { code, error }, Some(text)) => Ok(Reply { code, error, text: text.to_vec() }),
        (outcome, _) => Err(outcome),
    }
}

fn unix_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
#[path = "mllp_link_tests.rs"]
mod tests;
