//! Delivers to DICOM endpoints: C-STORE over a pool of associations per endpoint. Probes are `dicom_probe`'s.
//!
//! Rules:
//! - Which association an attempt gets is the pool's to say (`dicom_pool`).
//! - A new association proposes what the attempt needs, what waits in the spool, and what was sent lately: one context per SOP class and transfer
//!   syntax, each uncompressed one with its alternatives where `convert` is set.
//! - With `reconcile`, a replay is sent only if the endpoint does not say that it has the object (`dicom_query`).
//! - Content goes as it is if the endpoint takes it so, else converted if `convert` is set and it can be, else the outcome is `NoContext`.
//!
//! Errors: outcomes.

use crate::config::{self, CallingAe, Ordering};
use crate::delivery::standby::{Kind, Rehearsed};
use crate::delivery::status::NameStatus;
use crate::delivery::{Outcome, Phase, Silence};
use crate::dicom::convert::alternatives;
use crate::dicom::dimse::StoreRq;
use crate::dicom::find::Place;
use crate::dicom::negotiate::is_ae_title;
use crate::dicom::status::SOP_CLASS_NOT_SUPPORTED;
use crate::dicom::uid;
use crate::event::{Event, Events};
use crate::ids::{DestinationId, EndpointId};
use crate::io::courier::{Answered, Boxed, Content, Courier, Met, Order, Parcel, Patience, ProbeFailure};
use crate::io::dial::Dialer;
use crate::io::dicom_body::{Body, BodyError, Source, Watched};
use crate::io::dicom_open::{self, Need, Opened};
use crate::io::dicom_pool::{self, Found, Lease, Seat};
use crate::io::dicom_probe;
use crate::io::dicom_query::Asker;
use crate::io::dicom_scu::{Job, Settings};
use crate::io::http_probe::HttpProbe;
use crate::io::in_place;
use crate::io::pools::Pools;
use crate::io::resolve::Resolver;
use crate::io::tls::ClientTls;
use crate::keys::{Key, Keys};
use crate::limits::{CLOSE_WAIT, CONTEXTS_MAX, CONTEXTS_PEEK_MAX, CONTEXTS_REMEMBERED_MAX};
use crate::spool::Spool;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

/// Calling AE title where the sender's own is to be passed on and cannot be.
const OWN_AE: &str = "EVERPOST";

/// The courier of a DICOM destination. Dropping it releases its idle associations, and the others when their work ends.
#[derive(Debug, Clone)]
pub struct DicomCourier(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// With the members of its pools.
    destination: Arc<config::Destination>,
    pools: Arc<Pools>,
    spool: Arc<Spool>,
    seats: Vec<Arc<Seat>>,
    /// Sent lately: calling AE title, SOP class, transfer syntax; the latest first.
    seen: Mutex<VecDeque<(String, String, String)>>,
    events: Events,
}

impl DicomCourier {
    /// A courier for a destination; `tls` as long as its endpoints. Must be called inside a tokio runtime if an endpoint has a name.
    #[must_use]
    pub fn new(destination: Arc<config::Destination>, tls: Vec<Option<ClientTls>>, spool: Arc<Spool>, events: Events, resolver: &Resolver) -> Self {
        let pools = Arc::new(Pools::new(destination.clone(), tls, resolver, events.clone()));
        let seats = destination.endpoints.iter().map(|endpoint| seat(endpoint, &pools)).collect();
        Self(Arc::new(Shared { destination, pools, spool, seats, seen: Mutex::default(), events }))
    }
}

fn seat(endpoint: &Arc<config::Endpoint>, pools: &Pools) -> Arc<Seat> {
    let dialer = Dialer::new(endpoint.clone(), pools.tls_of(endpoint), pools.resolver());
    Arc::new(Seat::new(endpoint.clone(), dialer, HttpProbe::of(endpoint, pools.resolver())))
}

impl Shared {
    async fn send(self: Arc<Self>, endpoint: EndpointId, fresh: bool, parcel: Parcel, patience: Patience) -> Answered {
        let Content::Object { keys, head, file } = parcel.0 else {
            return (Outcome::Local { cause: "a message cannot be sent to a DICOM receiver".to_owned(), permanent: true }, None);
        };
        let whole = Arc::new(AtomicBool::new(false));
        let open = || Watched::open(&head, &file, &whole);
        // No number of the spool's: nothing waits there for this object.
        let none = DestinationId(u16::MAX);
        let store = self.store(endpoint, fresh, &keys, none, Met::default(), open);
        let outcome = timeout_at(patience.until, store).await.unwrap_or_else(|_| {
            let cause = "its share of the time was over".to_owned();
            if whole.load(std::sync::atomic::Ordering::Acquire) {
                Outcome::Unanswered { silence: Silence::Timeout, cause }
            } else {
                Outcome::NotSent { phase: Phase::Associate, cause, stale: false, timeout: true }
            }
        });
        (outcome, None)
    }

    async fn attempt(self: &Arc<Self>, order: Order) -> Outcome {
        let Order { envelope, endpoint, fresh, ask, met } = order;
        if ask {
            match self.has(endpoint, &envelope.keys).await {
                Ok(true) => return Outcome::AlreadyThere,
                Ok(false) => {}
                Err(outcome) => return outcome,
            }
        }
        let reader = || Ok(Box::new(in_place::run(|| self.spool.open_content(envelope.message))?) as Box<dyn Source>);
        self.store(endpoint, fresh, &envelope.keys, envelope.destination, met, reader).await
    }

    /// Whether an endpoint says that it has an object.
    async fn has(&self, endpoint: EndpointId, keys: &Keys) -> Result<bool, Outcome> {
        let (Some(seat), Some(place)) = (self.seats.get(endpoint.index()), Place::of(keys)) else { return Ok(false) };
        let tell = |what| {
            let (destination, endpoint) = (self.destination.name.clone(), seat.endpoint.name.clone());
            self.events.emit(Event::EndpointNotice { destination, endpoint, what });
        };
        let (connect_within, answer_within) = (self.destination.connect_timeout, self.destination.ack_timeout);
        let asker = Asker { seat, calling_ae: self.own_ae(), connect_within, answer_within, tell: &tell };
        seat.inquiry.has(&asker, &place).await
    }

    /// Stores one object; `open` opens its content, once per association that is tried.
    async fn store(
        self: &Arc<Self>,
        endpoint: EndpointId,
        fresh: bool,
        keys: &Keys,
        destination: DestinationId,
        met: Met,
        open: impl Fn() -> Result<Box<dyn Source>, BodyError>,
    ) -> Outcome {
        let Some(seat) = self.seats.get(endpoint.index()) else {
            return Outcome::Local { cause: format!("endpoint {} is not configured any more", endpoint.index()), permanent: false };
        };
        let mut need = self.need(keys);
        self.remember(&need);
        let mut fresh = fresh;
        let mut refused = None;
        loop {
            let mut lease = match self.acquire(seat, &need, fresh, destination, &met).await {
                Ok(lease) => lease,
                // Its answer to the object as it is says more.
                Err(Outcome::NoContext { .. }) if refused.is_some() => return refused.unwrap_or(Outcome::Stored { status: SOP_CLASS_NOT_SUPPORTED }),
                Err(outcome) => return outcome,
            };
            // An association that ends before it took the job gives it back; the next one found is another one.
            fresh = false;
            let body = match open().and_then(|source| match lease.convert_to {
                None => Ok(Body::plain(source)),
                Some(to) => Body::converted(source, &need.transfer_syntax, to),
            }) {
                Ok(body) => body,
                Err(error) => {
                    lease.ended = true;
                    return error.outcome();
                }
            };
            let (reply, answer) = oneshot::channel();
            let job = Job { request: request(keys), context: lease.context, body, reply, met: met.clone() };
            if lease.jobs.send(job).is_err() {
                continue;
            }
            // `Unused`, or the task is gone: the object never left.
            if let Ok(Ok(outcome)) = answer.await {
                lease.ended = true;
                match outcome {
                    Outcome::Stored { .. } => seat.answered(),
                    // A machine that was switched off and on has forgotten the idle ones too, and each would cost an attempt.
                    Outcome::NotSent { .. } | Outcome::Unanswered { silence: Silence::Lost, .. } => drop(seat.let_idle_go()),
                    _ => {}
                }
                let may_convert = need.convert && lease.convert_to.is_none() && !alternatives(&need.transfer_syntax).is_empty();
                if may_convert && outcome == (Outcome::Stored { status: SOP_CLASS_NOT_SUPPORTED }) {
                    need.not_as_it_is = true;
                    refused = Some(outcome);
                    continue;
                }
                return outcome;
            }
        }
    }

    fn need(&self, keys: &Keys) -> Need {
        let calling_ae = match &self.destination.calling_ae {
            CallingAe::Fixed(ae) => ae.clone(),
            CallingAe::Pass => Some(keys.text(Key::CallingAe)).filter(|ae| is_ae_title(ae)).unwrap_or_else(|| OWN_AE.to_owned()),
        };
        let (sop_class, transfer_syntax) = (keys.text(Key::SopClass), keys.text(Key::TransferSyntax));
        Need { calling_ae, sop_class, transfer_syntax, convert: self.destination.convert, not_as_it_is: false }
    }

    fn remember(&self, need: &Need) {
        let entry = (need.calling_ae.clone(), need.sop_class.clone(), need.transfer_syntax.clone());
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.front() == Some(&entry) {
            return;
        }
        seen.retain(|other| *other != entry);
        seen.push_front(entry);
        seen.truncate(CONTEXTS_REMEMBERED_MAX);
    }

    fn settings(&self) -> Settings {
        let destination = &self.destination;
        // With an order to keep, nothing overtakes: one object at a time on each association.
        let window = if destination.ordering == Ordering::None { destination.window.get() } else { 1 };
        let (answer_timeout, unheard) = (destination.ack_timeout, destination.connect_timeout);
        Settings { answer_timeout, unheard, idle_release: destination.idle_release, window }
    }

    /// An association for an attempt: whichever is free first, a kept one or the one opened for it.
    async fn acquire(self: &Arc<Self>, seat: &Arc<Seat>, need: &Need, fresh: bool, destination: DestinationId, met: &Met) -> Result<Lease, Outcome> {
        let limit = usize::from(self.destination.associations.get());
        // Every association in use ends or answers within this time.
        let deadline = Instant::now() + self.destination.connect_timeout + self.destination.ack_timeout;
        let kept_up_to = if fresh { seat.newest() } else { 0 };
        let mut opening: Option<oneshot::Receiver<Result<(), Outcome>>> = None;
        let waiting = seat.wait(need);
        loop {
            // Made before looking, so that no change in between is missed.
            let changed = seat.changed.notified();
            if let Some((failure, address)) = waiting.shared_failure().filter(|_| opening.is_none()) {
                address.into_iter().for_each(|address| met.connected(address));
                return Err(failure);
            }
            match seat.find(need, kept_up_to, limit, opening.is_none()) {
                Found::Lent(lease) => {
                    met.connected(lease.peer);
                    return Ok(lease);
                }
                Found::Refused => {
                    return Err(Outcome::NoContext { sop_class: need.sop_class.clone(), transfer_syntax: need.transfer_syntax.clone() });
                }
                Found::Room(place) => {
                    let (done, opened) = oneshot::channel();
                    let (shared, need, met) = (self.clone(), need.clone(), met.clone());
                    tokio::spawn(async move {
                        // The attempt may have found another one meanwhile: then nobody waits for it.
                        let _ = done.send(shared.open_into(place, &need, destination, &met).await);
                    });
                    opening = Some(opened);
                }
                Found::Wait => {}
            }
            let opened = async {
                match &mut opening {
                    Some(opened) => opened.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                result = opened => {
                    opening = None;
                    if let Ok(Err(failure)) = result {
                        return Err(failure);
                    }
                }
                changed = timeout_at(deadline, changed) => if changed.is_err() {
                    let cause = format!("all associations to {} are in use; raise `associations` (now {limit}) if the peer takes more", seat.name);
                    return Err(Outcome::Local { cause, permanent: false });
                },
            }
        }
    }

    /// Opens an association and takes it into the pool. An error is a failure of the endpoint; that it takes no more of them at once is none.
    async fn open_into(&self, place: dicom_pool::Place, need: &Need, destination: DestinationId, met: &Met) -> Result<(), Outcome> {
        let (seat, begun) = (place.seat().clone(), Instant::now());
        let opened = self.open(&seat, need, destination, met).await;
        seat.opening_ended(need);
        match opened {
            Ok(opened) => {
                seat.add(opened, need, self.settings(), place);
                Ok(())
            }
            Err(failure) if seat.is_full(&failure, begun) => {
                if let Some(what) = seat.news_of_limit(self.destination.associations.get().into()) {
                    let (destination, endpoint) = (self.destination.name.clone(), seat.endpoint.name.clone());
                    self.events.emit(Event::EndpointNotice { destination, endpoint, what });
                }
                Ok(())
            }
            Err(failure) => {
                seat.failed(need, &failure, met.address());
                Err(failure)
            }
        }
    }

    async fn open(&self, seat: &Seat, need: &Need, destination: DestinationId, met: &Met) -> Result<Opened, Outcome> {
        let deadline = Instant::now() + self.destination.connect_timeout;
        let pairs = self.pairs(need, destination);
        let proposal = dicom_open::proposal(&need.calling_ae, &seat.endpoint.ae_title, &pairs, self.settings().window);
        let stream = seat.dialer.dial_met(deadline, met).await?;
        dicom_open::open(stream, &proposal, &seat.name, deadline).await
    }

    /// SOP class and transfer syntax of each context to propose.
    fn pairs(&self, need: &Need, destination: DestinationId) -> Vec<(String, String)> {
        let waiting = self.spool.peek(destination, CONTEXTS_PEEK_MAX);
        let waiting = waiting.iter().map(|keys| self.need(keys)).filter(|other| other.calling_ae == need.calling_ae);
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = seen.iter().filter(|(ae, ..)| *ae == need.calling_ae).map(|(_, class, syntax)| Need {
            sop_class: class.clone(),
            transfer_syntax: syntax.clone(),
            ..need.clone()
        });
        let mut pairs: Vec<(String, String)> = need.pairs().collect();
        let fits = |pair: &(String, String)| uid::is_well_formed(&pair.0) && uid::is_well_formed(&pair.1);
        for pair in waiting.chain(seen).flat_map(|other| other.pairs().collect::<Vec<_>>()).filter(fits) {
            if pairs.len() == CONTEXTS_MAX {
                break;
            }
            if !pairs.contains(&pair) {
                pairs.push(pair);
            }
        }
        pairs
    }

    async fn probe(&self, endpoint: EndpointId, store: bool) -> Result<Duration, ProbeFailure> {
        let Some(seat) = self.seats.get(endpoint.index()) else {
            return Err(ProbeFailure { phase: Phase::Resolve, cause: "the endpoint is not configured any more".to_owned() });
        };
        dicom_probe::probe(seat, self.own_ae(), store).await
    }

    /// Calling AE title of what is not a sender's.
    fn own_ae(&self) -> &str {
        match &self.destination.calling_ae {
            CallingAe::Fixed(ae) => ae,
            CallingAe::Pass => OWN_AE,
        }
    }

    async fn rehearse(&self, endpoint: EndpointId, kinds: Vec<Kind>, within: Duration) -> Rehearsed {
        let Some(seat) = self.seats.get(endpoint.index()) else { return Ok(Vec::new()) };
        dicom_probe::rehearse(seat, self.own_ae(), self.destination.convert, kinds, within).await
    }
}

/// The C-STORE-RQ of a message: priority and move originator as they came.
fn request(keys: &Keys) -> StoreRq {
    let number = |key| keys.get(key).and_then(|value| value.first_chunk::<2>()).map(|value| u16::from_le_bytes(*value));
    StoreRq {
        message_id: 0,
        sop_class: keys.text(Key::SopClass),
        sop_instance: keys.text(Key::SopInstance),
        priority: number(Key::Priority).unwrap_or(0),
        move_originator_ae: keys.get(Key::MoveOriginatorAe).map(|_| keys.text(Key::MoveOriginatorAe)),
        move_originator_id: number(Key::MoveOriginatorId),
    }
}

impl Courier for DicomCourier {
    fn attempt(&self, order: Order) -> Boxed<Outcome> {
        let shared = self.0.clone();
        Box::pin(async move { shared.attempt(order).await })
    }

    fn probe(&self, endpoint: EndpointId, store: bool) -> Boxed<Result<Duration, ProbeFailure>> {
        let shared = self.0.clone();
        Box::pin(async move { shared.probe(endpoint, store).await })
    }

    fn rehearse(&self, endpoint: EndpointId, kinds: Vec<Kind>, within: Duration) -> Boxed<Rehearsed> {
        let shared = self.0.clone();
        Box::pin(async move { shared.rehearse(endpoint, kinds, within).await })
    }

    fn send(&self, endpoint: EndpointId, fresh: bool, parcel: Parcel, patience: Patience) -> Boxed<Answered> {
        Box::pin(self.0.clone().send(endpoint, fresh, parcel, patience))
    }

    fn echo(&self, endpoint: EndpointId, until: Instant) -> Boxed<Result<(), ProbeFailure>> {
        let shared = self.0.clone();
        Box::pin(async move {
            let gone = || ProbeFailure { phase: Phase::Resolve, cause: "the endpoint is not configured any more".to_owned() };
            let seat = shared.seats.get(endpoint.index()).ok_or_else(gone)?;
            dicom_probe::echo_at(seat, shared.own_ae(), until).await
        })
    }

    fn simulate(&self, endpoint: EndpointId, fault: Option<(config::Fault, Instant)>) {
        if self.0.seats.get(endpoint.index()).is_some_and(|seat| seat.dialer.simulate(fault)) {
            self.drain(endpoint);
        }
    }

    fn drain(&self, endpoint: EndpointId) {
        if let Some(seat) = self.0.seats.get(endpoint.index()) {
            seat.let_go();
            seat.inquiry.forget();
        }
    }

    fn close(&self) -> Boxed<()> {
        let shared = self.0.clone();
        Box::pin(async move {
            let released = async {
                for seat in &shared.seats {
                    seat.empty().await;
                }
            };
            // What is not released by then is cut with the process.
            let _ = timeout(CLOSE_WAIT, released).await;
        })
    }

    fn connected(&self, endpoint: EndpointId) -> Vec<SocketAddr> {
        self.0.seats.get(endpoint.index()).map(|seat| seat.connected()).unwrap_or_default()
    }

    fn remark(&self, endpoint: EndpointId) -> Option<String> {
        let seat = self.0.seats.get(endpoint.index())?;
        let remarks = [seat.remark(self.0.destination.associations.get().into()), seat.inquiry.remark()];
        let remarks: Vec<String> = remarks.into_iter().flatten().collect();
        (!remarks.is_empty()).then(|| remarks.join("; "))
    }

    fn resolved(&self, endpoint: EndpointId) -> Vec<SocketAddr> {
        self.0.seats.get(endpoint.index()).map(|seat| seat.dialer.resolved()).unwrap_or_default()
    }

    fn name(&self, endpoint: EndpointId) -> Option<NameStatus> {
        self.0.seats.get(endpoint.index())?.dialer.name()
    }

    fn tell_to(&self, changed: &Arc<Notify>) {
        self.0.pools.tell_to(changed);
        self.0.seats.iter().for_each(|seat| seat.dialer.tell_to(changed));
    }

    fn regroup(&self) -> Option<(Arc<config::Destination>, Arc<dyn Courier>)> {
        self.0.seats.iter().for_each(|seat| seat.let_old_go());
        let now = self.0.pools.changed_from(&self.0.destination)?;
        let (old, pools) = (&self.0.seats, self.0.pools.clone());
        let stays = |endpoint: &config::Endpoint| old.iter().find(|seat| seat.endpoint.is_same_place(endpoint)).cloned();
        let seats: Vec<Arc<Seat>> = now.endpoints.iter().map(|endpoint| stays(endpoint).unwrap_or_else(|| seat(endpoint, &pools))).collect();
        for gone in old.iter().filter(|old| !seats.iter().any(|seat| Arc::ptr_eq(seat, old))) {
            gone.let_go();
        }
        let seen = Mutex::new(self.0.seen.lock().unwrap_or_else(PoisonError::into_inner).clone());
        let shared = Shared { destination: now.clone(), pools, spool: self.0.spool.clone(), seats, seen, events: self.0.events.clone() };
        Some((now, Arc::new(Self(Arc::new(shared)))))
    }

    fn pools_known(&self, deadline: Instant) -> Boxed<()> {
        let pools = self.0.pools.clone();
        Box::pin(async move { pools.known(deadline).await })
    }
}

#[cfg(test)]
#[path = "dicom_link_tests.rs"]
mod tests;
