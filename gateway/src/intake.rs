//! The way in, shared by all listeners: admission, route, commit.
//! Rules: a listener answers positively only with a `Receipt`; `admit` is asked before a message's bytes are taken in, `commit` after.
//! Errors: `Refusal`, which each protocol turns into its own negative answer.

use crate::config::{Duplicates, Listener};
use crate::route::Routes;
use arc_swap::ArcSwap;
use everpost_client::event::{Event, Events, Refusal};
use everpost_client::ids::DestinationId;
use everpost_client::io::committer::Committer;
use everpost_client::keys::{Key, Keys, Protocol};
use everpost_client::limits;
use everpost_client::spool::{Addressee, Content, ContentWriter, Draft, Intake as SpoolIntake, Receipt, SpoolError, UnixMillis};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The way in.
pub struct Intake {
    committer: Committer,
    routes: ArcSwap<Routes>,
    events: Events,
    stopping: AtomicBool,
    /// Listeners and kinds of messages whose lack of a route was told already.
    told: Mutex<HashSet<(Arc<str>, Vec<u8>)>>,
    /// Open associations, by listener.
    associations: Arc<Mutex<HashMap<Arc<str>, Associations>>>,
    /// Notices told lately, by listener.
    notices: Mutex<HashMap<Arc<str>, Told>>,
}

/// Notices of one listener in the present interval.
#[derive(Debug)]
struct Told {
    since: Instant,
    told: u32,
    left_out: u64,
}

/// Open associations of one listener, by address.
type Associations = HashMap<IpAddr, usize>;

/// A place among the associations of a listener. Dropping it frees the place.
#[derive(Debug)]
pub struct Place {
    listener: Arc<str>,
    address: IpAddr,
    places: Arc<Mutex<HashMap<Arc<str>, Associations>>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = places.get_mut(&self.listener) else { return };
        if let Some(own) = open.get_mut(&self.address) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                open.remove(&self.address);
            }
        }
    }
}

impl Intake {
    /// One for all listeners.
    #[must_use]
    pub fn new(committer: Committer, routes: Routes, events: Events) -> Arc<Intake> {
        let (routes, stopping) = (ArcSwap::from_pointee(routes), AtomicBool::new(false));
        Arc::new(Intake { committer, routes, events, stopping, told: Mutex::default(), associations: Arc::default(), notices: Mutex::default() })
    }

    /// Whether a message may be taken in now. Asked before its bytes are read.
    /// # Errors
    /// `Stopping`, `Reserve`, `Sync`.
    pub fn admit(&self) -> Result<(), Refusal> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(Refusal::Stopping);
        }
        match self.committer.spool().intake() {
            SpoolIntake::Open => Ok(()),
            SpoolIntake::Reserve => Err(Refusal::Reserve),
            SpoolIntake::Broken => Err(Refusal::Sync),
        }
    }

    /// Where a message goes. `keys` must have `Key::Listener`. Where it goes nowhere, a notice says why, once per listener and kind of message.
    /// # Errors
    /// `NoRoute`.
    pub fn route(&self, keys: &Keys, protocol: Protocol) -> Result<Vec<Addressee>, Refusal> {
        let routes = self.routes.load();
        let addressees = routes.choose(keys, protocol);
        if addressees.is_empty() {
            self.tell_no_route(&routes, keys);
            return Err(Refusal::NoRoute);
        }
        Ok(addressees)
    }

    /// What a message that was routed elsewhere is addressed by here; none: the destination is not configured.
    #[must_use]
    pub fn addressed(&self, destination: &str, keys: &Keys, stat: bool) -> Option<Addressee> {
        self.routes.load().addressed(destination, keys, stat)
    }

    fn tell_no_route(&self, routes: &Routes, keys: &Keys) {
        let listener: Arc<str> = keys.text(Key::Listener).into();
        let kind = keys.get(Key::MessageType).or_else(|| keys.get(Key::SopClass)).unwrap_or_default().to_vec();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < limits::NO_ROUTE_NOTICES_MAX && told.insert((listener.clone(), kind)) {
            drop(told);
            self.events.emit(Event::ListenerNotice { listener, peer: keys.text(Key::Peer), what: routes.explain(keys) });
        }
    }

    /// Makes a message durable. Tells `Event::Accepted` or `Event::Refused` itself. With `duplicates = "same-content"` a second copy of a message
    /// that is delivered or on its way gets the first one's receipt and is not committed again.
    /// # Errors
    /// What the sender is to be told.
    pub async fn commit(&self, listener: &Arc<Listener>, keys: Keys, content: Content, addressees: Vec<Addressee>) -> Result<Receipt, Refusal> {
        let begun = Instant::now();
        let bytes = size(&content);
        let outcome = self.commit_or_copy(listener, keys, content, addressees).await;
        match &outcome {
            Ok(receipt) => {
                let (listener, commit) = (listener.name.clone(), begun.elapsed());
                self.events.emit(Event::Accepted { listener, message: receipt.message(), bytes, commit });
            }
            Err(reason) => self.refused(listener, *reason),
        }
        outcome
    }

    async fn commit_or_copy(&self, listener: &Listener, mut keys: Keys, content: Content, addressees: Vec<Addressee>) -> Result<Receipt, Refusal> {
        // Stopping does not count here: what came in whole before the stop is still taken and answered.
        let fingerprint = fingerprint(listener, &keys);
        if let Some(fingerprint) = fingerprint {
            let destinations: Vec<DestinationId> = addressees.iter().map(|addressee| addressee.destination).collect();
            // A first copy without a digest counts as another content: it is delivered again, which is the safe side.
            if let Some(digest) = digest(&content) {
                if let Some(receipt) = self.committer.spool().receipt_of_copy(fingerprint, &digest, &destinations) {
                    return Ok(receipt);
                }
                keys.set(Key::Sha256, &digest);
            }
        }
        let draft = Draft { keys, content, accepted_at: unix_millis(), addressees, fingerprint };
        self.committer.commit(draft).await.map_err(|error| refusal(&error))
    }

    /// Starts content of unknown length.
    /// # Errors
    /// `Stopping`, `Reserve`, `Sync`, `Limit` (buffers).
    pub fn content_writer(&self, listener: &Listener) -> Result<ContentWriter, Refusal> {
        self.admit()?;
        let writer = self.committer.spool().content_writer().map_err(|error| refusal(&error))?;
        Ok(if listener.duplicates == Duplicates::SameContent { writer.digesting() } else { writer })
    }

    /// Takes a place among the associations of a listener. One address gets at most `max_connections_per_peer` of `max_associations`. When all are
    /// taken, an address that has none gets one of a quarter more, so that nobody keeps others out.
    /// # Errors
    /// None is left; the text says which limit it is.
    pub fn associate(&self, listener: &Listener, address: IpAddr) -> Result<Place, String> {
        let all = listener.max_associations;
        let mut places = self.associations.lock().unwrap_or_else(PoisonError::into_inner);
        let open = places.entry(listener.name.clone()).or_default();
        let taken = open.values().sum::<usize>();
        let own = open.get(&address).copied().unwrap_or(0);
        let limit = if own == 0 { all + all / limits::ASSOCIATIONS_FOR_OTHERS } else { all };
        if taken >= limit {
            return Err(format!("{taken} associations are open, max_associations = {all}"));
        }
        if own >= listener.max_connections_per_peer {
            return Err(format!("the address has {own} associations, as many as max_connections_per_peer"));
        }
        open.insert(address, own + 1);
        Ok(Place { listener: listener.name.clone(), address, places: self.associations.clone() })
    }

    /// Counts a refusal decided by the listener (malformed, too large, no route, a limit).
    pub fn refused(&self, listener: &Arc<Listener>, reason: Refusal) {
        self.events.emit(Event::Refused { listener: listener.name.clone(), reason });
    }

    /// Tells people what a peer of a listener did, without patient data: at most `limits::NOTICES_MAX` per interval, so that a peer cannot flood the
    /// log; how many were left out is told with the next.
    pub fn notice(&self, listener: &Listener, peer: &str, what: &str) {
        let now = Instant::now();
        let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        let told = notices.entry(listener.name.clone()).or_insert(Told { since: now, told: 0, left_out: 0 });
        if now.duration_since(told.since) >= limits::NOTICE_INTERVAL {
            (told.since, told.told) = (now, 0);
        }
        if told.told >= limits::NOTICES_MAX {
            told.left_out += 1;
            return;
        }
        told.told += 1;
        let left_out = std::mem::take(&mut told.left_out);
        drop(notices);
        let what = if left_out == 0 { what.to_owned() } else { format!("{what} ({left_out} other notices were left out before)") };
        self.events.emit(Event::ListenerNotice { listener: listener.name.clone(), peer: peer.to_owned(), what });
    }

    /// The event stream.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// From now on everything is refused with `Stopping`.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Replaces the routes; messages routed before keep their destinations.
    pub fn reroute(&self, routes: Routes) {
        self.routes.store(Arc::new(routes));
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// What the sender is told when the spool does not take something.
#[must_use]
pub fn refusal(error: &SpoolError) -> Refusal {
    match error {
        SpoolError::Reserve { .. } => Refusal::Reserve,
        SpoolError::Limit(_) => Refusal::Limit,
        _ => Refusal::Sync,
    }
}

/// What a second copy is found by; none if copies are delivered, or nothing tells one message from the next.
fn fingerprint(listener: &Listener, keys: &Keys) -> Option<u64> {
    if listener.duplicates != Duplicates::SameContent {
        return None;
    }
    let own = match listener.protocol {
        Protocol::Mllp => Key::ControlId,
        Protocol::Dicom => Key::SopInstance,
    };
    let own = keys.get(own).filter(|value| !value.is_empty())?;
    let parts: [&[u8]; 3] = [listener.name.as_bytes(), &[0, listener.protocol as u8], own];
    // FNV-1a in 64 bits: the value stands in the spool, so it must come out the same in every version.
    Some(parts.into_iter().flatten().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)))
}

fn digest(content: &Content) -> Option<[u8; 32]> {
    match content {
        Content::Whole(bytes) => Some(Sha256::digest(bytes).into()),
        Content::Streamed(streamed) => streamed.sha256(),
    }
}

fn size(content: &Content) -> u64 {
    match content {
        Content::Whole(bytes) => bytes.len() as u64,
        Content::Streamed(streamed) => streamed.len(),
    }
}

/// Now. Only for people: the spool orders by sequence number.
fn unix_millis() -> UnixMillis {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
