//! The pools of a destination: who is in them now.
//! Rules: what is configured and what DNS says make the destination as couriers and engines see it; `endpoint::pool` says how.
//! Errors: members beyond the limit are left out, with an alarm while it is so.

use crate::config::{Destination, Endpoint, Finding};
use crate::endpoint::pool::{Known, Service, expanded, origin};
use crate::event::{Event, Events};
use crate::io::resolve::{Followed, Resolver};
use crate::io::tls::ClientTls;
use crate::limits::ENDPOINTS_MAX;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;
use tokio::time::Instant;

/// A destination as it is configured, and what its endpoints have in common with their pool.
#[derive(Debug)]
pub(crate) struct Pools {
    configured: Arc<Destination>,
    /// One for each configured endpoint.
    tls: Vec<Option<ClientTls>>,
    sought: Vec<Sought>,
    resolver: Resolver,
    events: Events,
    crowded: AtomicBool,
}

#[derive(Debug)]
enum Sought {
    /// No pool.
    Itself,
    Addresses(Arc<Followed<IpAddr>>),
    Services(Arc<Followed<Service>>),
}

impl Pools {
    /// `tls` has one entry per endpoint of `configured`. Must be called inside a tokio runtime if an endpoint has a name.
    pub(crate) fn new(configured: Arc<Destination>, mut tls: Vec<Option<ClientTls>>, resolver: &Resolver, events: Events) -> Pools {
        let seek = |endpoint: &Arc<Endpoint>| match endpoint.finding {
            Finding::Any => Sought::Itself,
            Finding::Each if endpoint.host.parse::<IpAddr>().is_ok() => Sought::Itself,
            Finding::Each => Sought::Addresses(resolver.follow(&endpoint.host)),
            Finding::Srv => Sought::Services(resolver.follow_service(&endpoint.host)),
        };
        tls.resize(configured.endpoints.len(), None);
        let sought = configured.endpoints.iter().map(seek).collect();
        Pools { configured, tls, sought, resolver: resolver.clone(), events, crowded: AtomicBool::new(false) }
    }

    /// Looks names up.
    pub(crate) fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// The destination with the members of its pools, if it differs from `before`.
    pub(crate) fn changed_from(&self, before: &Destination) -> Option<Arc<Destination>> {
        if self.sought.iter().all(|sought| matches!(sought, Sought::Itself)) {
            return None;
        }
        let known = |index: usize, _: &Endpoint| match self.sought.get(index) {
            Some(Sought::Addresses(followed)) => Known::Addresses(followed.records()),
            Some(Sought::Services(followed)) => Known::Services(followed.records()),
            Some(Sought::Itself) | None => Known::Itself,
        };
        let (now, left_out) = expanded(&self.configured, known);
        self.tell(left_out > 0);
        (now.endpoints != before.endpoints).then(|| Arc::new(now))
    }

    fn tell(&self, crowded: bool) {
        if self.crowded.swap(crowded, Ordering::AcqRel) != crowded {
            let what = format!("its pools have more members than the {ENDPOINTS_MAX} endpoints a destination can have; the rest is left out");
            self.events.emit(Event::Alarm { subject: format!("destination {}", self.configured.name), what, raised: crowded });
        }
    }

    /// TLS of an endpoint: that of the configured one it comes from.
    pub(crate) fn tls_of(&self, endpoint: &Endpoint) -> Option<ClientTls> {
        let at = self.configured.endpoints.iter().position(|e| *e.name == *origin(&endpoint.name))?;
        self.tls.get(at).cloned().flatten()
    }

    /// Has `changed` notified when a pool has other members.
    pub(crate) fn tell_to(&self, changed: &Arc<Notify>) {
        for sought in &self.sought {
            match sought {
                Sought::Itself => {}
                Sought::Addresses(followed) => followed.tell_to(changed),
                Sought::Services(followed) => followed.tell_to(changed),
            }
        }
    }

    /// Returns when something is known of every pool, or look-ups have failed, or at the deadline.
    pub(crate) async fn known(&self, deadline: Instant) {
        for sought in &self.sought {
            // What fails shows in the status; the destination begins all the same.
            match sought {
                Sought::Itself => {}
                Sought::Addresses(followed) => drop(followed.known(deadline).await),
                Sought::Services(followed) => drop(followed.known(deadline).await),
            }
        }
    }
}

impl Drop for Pools {
    fn drop(&mut self) {
        self.tell(false);
    }
}
