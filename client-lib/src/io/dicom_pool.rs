//! The associations of one endpoint, lent to attempts.
//!
//! Rules:
//! - An endpoint has at most `associations` at once, whatever calling AE titles they carry, those being opened and released included.
//! - An attempt gets, in this order: an idle association of its calling AE title that takes its object; room to open one; a busy one whose window has
//!   room; the place of an idle one that does not fit. Else it waits.
//! - With more calling AE titles than places, associations take turns: one whose title has attempts waiting keeps its place for `ASSOCIATION_TURN`, so
//!   that several objects go over it, and then gives it up to those that have none. The engine hands out more attempts than places for this.
//! - An attempt that waits shares the failure of one that tried to connect meanwhile, if nothing is open: it would only meet the same.
//! - Many peers take fewer associations than are configured (DCMTK's `storescp` takes one): they leave further requests unanswered, or turn them down.
//!   While others of ours are answered there, that is no failure of the endpoint: the pool makes do with what it has, and tries for more after
//!   `ASSOCIATION_LIMIT_KEPT`.
//! - When one is lost, the idle ones are let go: what forgot one has forgotten them all.
//! - An association to an address that the endpoint's name has no longer takes no more objects; it is released when those it has are answered.
//!
//! Errors: none; what failed is an outcome of who opened.

use crate::config;
use crate::delivery::{Outcome, Phase};
use crate::dicom::negotiate::Agreed;
use crate::io::dial::Dialer;
use crate::io::dicom_open::{Fit, Need, Opened};
use crate::io::dicom_query::Inquiry;
use crate::io::dicom_scu::{self, Jobs, Progress, Settings};
use crate::io::http_probe::HttpProbe;
use crate::io::stream::is_home;
use crate::limits::{ASSOCIATION_LIMIT_KEPT, ASSOCIATION_TURN};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// One endpoint with its associations.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) endpoint: Arc<config::Endpoint>,
    /// `host:port`.
    pub(crate) name: Arc<str>,
    pub(crate) dialer: Dialer,
    /// Where its probes go instead, if they are HTTP.
    pub(crate) http: Option<HttpProbe>,
    /// What it was asked about what it has.
    pub(crate) inquiry: Inquiry,
    pool: Mutex<Pool>,
    /// An association became free, or its place did, or an answer came.
    pub(crate) changed: Notify,
}

#[derive(Debug, Default)]
struct Pool {
    links: Vec<Link>,
    /// Places taken: associations being opened, open, and being released.
    places: usize,
    newest: u64,
    /// When an object was answered last.
    answered_at: Option<Instant>,
    /// How many associations the peer takes, as far as we had to learn it, and until when we believe it.
    learned: Option<(usize, Instant)>,
    /// How many people were told of last.
    told: Option<usize>,
    /// A probe's own association was left unanswered while one of ours was open.
    crowded: bool,
    /// Attempts that wait, by calling AE title.
    waiting: HashMap<String, usize>,
    /// Calling AE titles of the associations being opened.
    opening: Vec<String>,
    /// Calling AE titles that let an association go for its place.
    reserved: Vec<String>,
    /// The last failure to open: when, for which calling AE title, what, and where if it was connected.
    failed: Option<(Instant, String, Outcome, Option<SocketAddr>)>,
}

/// An association that takes jobs.
#[derive(Debug)]
struct Link {
    id: u64,
    calling_ae: String,
    agreed: Arc<Agreed>,
    proposed: Arc<[(String, String)]>,
    jobs: Jobs,
    cancel: Arc<Notify>,
    peer: SocketAddr,
    /// The address that it goes out from.
    local: Option<SocketAddr>,
    in_use: u16,
    window: u16,
    opened_at: Instant,
    /// When the peer took bytes last.
    progress: Progress,
}

/// A place among an endpoint's associations, kept until the connection is closed.
pub(crate) struct Place(Arc<Seat>);

impl Place {
    pub(crate) fn seat(&self) -> &Arc<Seat> {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.pool().places -= 1;
        self.0.changed.notify_waiters();
    }
}

/// An association lent to one attempt.
pub(crate) struct Lease {
    seat: Arc<Seat>,
    link: u64,
    pub(crate) jobs: Jobs,
    /// Whom it is connected to.
    pub(crate) peer: SocketAddr,
    cancel: Arc<Notify>,
    /// The presentation context for the object.
    pub(crate) context: u8,
    /// What it is converted to, if it is.
    pub(crate) convert_to: Option<&'static str>,
    /// The job ended: giving the lease back cancels nothing.
    pub(crate) ended: bool,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut pool = self.seat.pool();
        if let Some(link) = pool.links.iter_mut().find(|link| link.id == self.link) {
            link.in_use = link.in_use.saturating_sub(1);
        }
        drop(pool);
        if !self.ended {
            self.cancel.notify_one();
        }
        self.seat.changed.notify_waiters();
    }
}

/// An attempt that waits for an association.
pub(crate) struct Waiting<'a> {
    seat: &'a Seat,
    calling_ae: &'a str,
    since: Instant,
}

impl Waiting<'_> {
    /// A failure to open that somebody else met while this one waited, and that it would meet too.
    pub(crate) fn shared_failure(&self) -> Option<(Outcome, Option<SocketAddr>)> {
        let pool = self.seat.pool();
        let (at, calling_ae, outcome, address) = pool.failed.as_ref()?;
        let same = calling_ae == self.calling_ae || matches!(outcome, Outcome::NotSent { .. });
        (same && *at > self.since && pool.links.is_empty()).then(|| (outcome.clone(), *address))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut pool = self.seat.pool();
        if let Some(count) = pool.waiting.get_mut(self.calling_ae) {
            *count -= 1;
            if *count == 0 {
                pool.waiting.remove(self.calling_ae);
            }
        }
    }
}

/// What the pool has for an attempt.
pub(crate) enum Found {
    Lent(Lease),
    /// Open one.
    Room(Place),
    /// The peer takes no such object.
    Refused,
    Wait,
}

/// What an association is to an attempt.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// It takes its object, in this context, converted to this if named.
    Free(u8, Option<&'static str>),
    /// It would, later: it is busy, or gives its place up first.
    Later,
    /// It was asked for such objects and takes none.
    Refused,
    /// Nothing; it may be let go for one that fits.
    Unfit,
    /// Nothing, and others need it.
    Others,
}

impl Pool {
    fn judge(&self, link: &Link, need: &Need, after: u64, full: bool) -> Use {
        if link.calling_ae != need.calling_ae {
            return if link.in_use == 0 && self.yields(link) { Use::Unfit } else { Use::Others };
        }
        match need.fit(&link.agreed, &link.proposed) {
            _ if link.id <= after && link.in_use > 0 => Use::Later,
            _ if link.id <= after => Use::Unfit,
            Fit::Refused => Use::Refused,
            Fit::Unasked if link.in_use > 0 => Use::Later,
            Fit::Unasked => Use::Unfit,
            Fit::Takes { .. } if link.in_use >= link.window || full && self.yields(link) => Use::Later,
            Fit::Takes { context, convert_to } => Use::Free(context, convert_to),
        }
    }

    /// Whether an idle association has to give its place up: nobody waits for it, or its turn is over and a calling AE title has none at all.
    fn yields(&self, link: &Link) -> bool {
        if !self.waiting.contains_key(&link.calling_ae) {
            return true;
        }
        let served = |ae: &String| self.opening.contains(ae) || self.links.iter().any(|link| link.calling_ae == *ae);
        link.opened_at.elapsed() >= ASSOCIATION_TURN && !self.waiting.keys().all(served)
    }

    fn limit(&self, configured: usize) -> usize {
        self.learned.filter(|(_, until)| Instant::now() < *until).map_or(configured, |(learned, _)| learned.min(configured))
    }

    /// Takes a place, if one is free that nobody else made free.
    fn take_place(&mut self, calling_ae: &str, limit: usize) -> bool {
        let own = self.reserved.iter().position(|ae| ae == calling_ae);
        if self.places >= limit || own.is_none() && limit - self.places <= self.reserved.len() {
            return false;
        }
        own.map(|index| self.reserved.remove(index));
        self.places += 1;
        self.opening.push(calling_ae.to_owned());
        true
    }
}

impl Seat {
    pub(crate) fn new(endpoint: Arc<config::Endpoint>, dialer: Dialer, http: Option<HttpProbe>) -> Self {
        let name = endpoint.address().into();
        Self { endpoint, name, dialer, http, inquiry: Inquiry::default(), pool: Mutex::default(), changed: Notify::new() }
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the newest association; those opened later have greater ones.
    pub(crate) fn newest(&self) -> u64 {
        self.pool().newest
    }

    /// Looks for an association newer than `after`. `may_open`: the attempt has none being opened for it.
    pub(crate) fn find(self: &Arc<Self>, need: &Need, after: u64, configured: usize, may_open: bool) -> Found {
        let mut guard = self.pool();
        let pool = &mut *guard;
        let limit = pool.limit(configured);
        pool.reserved.retain(|ae| pool.waiting.contains_key(ae));
        pool.links.retain(|link| self.dialer.is_current(link.peer) && link.local.is_none_or(is_home));
        let uses: Vec<Use> = pool.links.iter().map(|link| pool.judge(link, need, after, pool.places >= limit)).collect();
        let free = uses.iter().enumerate().filter_map(|(index, found)| match found {
            Use::Free(context, convert_to) => Some((pool.links[index].in_use, index, *context, *convert_to)),
            _ => None,
        });
        let best = free.min_by_key(|(in_use, ..)| *in_use);
        if best.is_none() && uses.contains(&Use::Refused) && !uses.contains(&Use::Later) {
            return Found::Refused;
        }
        if best.is_none_or(|(in_use, ..)| in_use > 0) && may_open && pool.take_place(&need.calling_ae, limit) {
            return Found::Room(Place(self.clone()));
        }
        if let Some((_, index, context, convert_to)) = best {
            let link = &mut pool.links[index];
            link.in_use += 1;
            let (link, jobs, peer, cancel) = (link.id, link.jobs.clone(), link.peer, link.cancel.clone());
            return Found::Lent(Lease { seat: self.clone(), link, jobs, peer, cancel, context, convert_to, ended: false });
        }
        // Dropping it has it released; its place is free when it is closed, for who let it go.
        if may_open
            && !pool.reserved.contains(&need.calling_ae)
            && let Some(index) = uses.iter().position(|found| *found == Use::Unfit)
        {
            pool.links.swap_remove(index);
            pool.reserved.push(need.calling_ae.clone());
        }
        Found::Wait
    }

    /// Counts an attempt as waiting.
    pub(crate) fn wait<'a>(&'a self, need: &'a Need) -> Waiting<'a> {
        *self.pool().waiting.entry(need.calling_ae.clone()).or_default() += 1;
        Waiting { seat: self, calling_ae: &need.calling_ae, since: Instant::now() }
    }

    /// Opening an association ended, this way or that.
    pub(crate) fn opening_ended(&self, need: &Need) {
        let mut pool = self.pool();
        if let Some(index) = pool.opening.iter().position(|ae| *ae == need.calling_ae) {
            pool.opening.swap_remove(index);
        }
    }

    /// No association could be opened.
    pub(crate) fn failed(&self, need: &Need, outcome: &Outcome, address: Option<SocketAddr>) {
        self.pool().failed = Some((Instant::now(), need.calling_ae.clone(), outcome.clone(), address));
    }

    /// Takes a new association into the pool.
    pub(crate) fn add(&self, opened: Opened, need: &Need, settings: Settings, place: Place) {
        let settings = Settings { window: opened.agreed.window.min(settings.window).max(1), ..settings };
        let (agreed, proposed, peer) = (opened.agreed.clone(), opened.proposed.clone(), opened.stream.peer());
        let local = opened.stream.tcp().local_addr().ok();
        let cancel = Arc::new(Notify::new());
        let mut pool = self.pool();
        pool.newest += 1;
        let id = pool.newest;
        let retire = move |anyway: bool| {
            let mut pool = place.0.pool();
            match pool.links.iter().position(|link| link.id == id) {
                Some(index) if anyway || pool.links[index].in_use == 0 => {
                    pool.links.swap_remove(index);
                    true
                }
                Some(_) => false,
                None => true,
            }
        };
        let progress = Progress::default();
        let jobs = dicom_scu::start(opened, settings, cancel.clone(), progress.clone(), Box::new(retire));
        let calling_ae = need.calling_ae.clone();
        pool.links.push(Link {
            id,
            calling_ae,
            agreed,
            proposed,
            jobs,
            cancel,
            peer,
            local,
            in_use: 0,
            window: settings.window,
            opened_at: Instant::now(),
            progress,
        });
        drop(pool);
        self.changed.notify_waiters();
    }

    /// An object was answered.
    pub(crate) fn answered(&self) {
        self.pool().answered_at = Some(Instant::now());
        self.changed.notify_waiters();
    }

    /// Whether an object was answered after this moment.
    pub(crate) fn answered_since(&self, begun: Instant) -> bool {
        self.pool().answered_at.is_some_and(|at| at > begun)
    }

    /// Whether a failure to open one more association, begun at this moment, says only that the peer takes no more at once; then it is remembered how
    /// many it takes. The place of the one that failed still counts.
    pub(crate) fn is_full(&self, failure: &Outcome, begun: Instant) -> bool {
        let mut pool = self.pool();
        let full = match failure {
            // Silence may as well mean that the peer hangs: only what it does on another association speaks for it, an answer or bytes it took.
            Outcome::NotSent { phase: Phase::Connect | Phase::Tls | Phase::Associate, timeout: true, .. } => {
                pool.answered_at.is_some_and(|at| at > begun) || pool.links.iter().any(|link| link.in_use > 0 && link.progress.since(begun))
            }
            Outcome::AssociationRejected { permanent: false, .. } | Outcome::NotSent { phase: Phase::Associate, .. } => pool.places > 1,
            _ => false,
        };
        if full {
            pool.learned = Some((pool.links.len().max(1), Instant::now() + ASSOCIATION_LIMIT_KEPT));
        }
        full
    }

    /// What to tell people of the number of associations the peer takes, if they do not know it yet.
    pub(crate) fn news_of_limit(&self, configured: usize) -> Option<String> {
        let mut pool = self.pool();
        let learned = Some(pool.limit(configured)).filter(|learned| *learned < configured);
        if learned.is_none() || std::mem::replace(&mut pool.told, learned) == learned {
            return None;
        }
        drop(pool);
        self.remark(configured)
    }

    /// The number of associations the peer takes, where it is less than configured.
    pub(crate) fn remark(&self, configured: usize) -> Option<String> {
        let learned = self.pool().limit(configured);
        let many = if learned == 1 { "1 association".to_owned() } else { format!("{learned} associations") };
        (learned < configured).then(|| format!("takes {many} at a time; `associations` = {configured}"))
    }

    /// Whether a probe needs room made for it: the peer seems to take no association beside ours.
    pub(crate) fn is_crowded(&self) -> bool {
        let pool = self.pool();
        pool.crowded || pool.learned.is_some_and(|(_, until)| Instant::now() < until)
    }

    /// A probe got no association.
    pub(crate) fn probe_failed(&self) {
        let mut pool = self.pool();
        pool.crowded = !pool.links.is_empty();
    }

    /// Lets go of idle associations to a peer that may take no other one beside them, and waits until they are closed, or an object is answered, which is
    /// as good. Ends at the deadline in any case.
    pub(crate) async fn make_room(&self, deadline: Instant) {
        let begun = Instant::now();
        loop {
            let changed = self.changed.notified();
            let waits = self.let_idle_go() > 0;
            if !waits || self.answered_since(begun) || timeout_at(deadline, changed).await.is_err() {
                return;
            }
        }
    }

    /// Lets go of idle associations; gives the places still taken.
    pub(crate) fn let_idle_go(&self) -> usize {
        let mut pool = self.pool();
        pool.links.retain(|link| link.in_use > 0);
        pool.places
    }

    /// The same with associations to addresses that the name has no longer.
    pub(crate) fn let_old_go(&self) {
        self.pool().links.retain(|link| self.dialer.is_current(link.peer));
    }

    /// Forgets all associations: each is released when its work ends, and keeps its place until then.
    pub(crate) fn let_go(&self) {
        self.pool().links.clear();
    }

    /// The same, and waits until all are closed.
    pub(crate) async fn empty(&self) {
        loop {
            let changed = self.changed.notified();
            self.let_go();
            if self.pool().places == 0 {
                return;
            }
            changed.await;
        }
    }

    /// Addresses connected to now.
    pub(crate) fn connected(&self) -> Vec<SocketAddr> {
        self.pool().links.iter().map(|link| link.peer).collect()
    }
}
