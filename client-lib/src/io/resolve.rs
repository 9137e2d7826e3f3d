//! The names of the process: each is looked up by a task of its own, ahead of time, and whoever needs it takes what is known.
//!
//! Rules
//! - One `Resolver` per process; who follows the same name shares its state. A name is followed as long as somebody holds it.
//! - Deliveries do not wait for DNS: only while nothing is known at all, until their own deadline, and for `limits::LOOKUP_CHECK` after a connect
//!   failed there.
//! - Every look-up has a deadline (`limits::LOOKUP`), at most `limits::LOOKUPS_MAX` run at a time, and all end with `Stop`.
//! - An address stands for itself: no task, no look-up, no age.
//!
//! Errors: texts for people; what to do with an answer is `endpoint::names`' to say.

use crate::config::Names;
use crate::delivery::status::NameStatus;
use crate::endpoint::names::{Change, Name, Seen, Terms};
use crate::endpoint::pool::Service;
use crate::event::{Event, Events};
use crate::io::lookup::{Dns, Family, Found};
use crate::io::stop::Stop;
use crate::io::tls::TlsError;
use crate::limits::{LOOKUP, LOOKUP_CHECK, LOOKUPS_MAX};
use std::collections::HashMap;
use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};

/// Looks names up, and keeps what it found. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Resolver(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    source: Mutex<(Arc<Dns>, Terms)>,
    slots: Semaphore,
    hosts: Mutex<HashMap<String, Weak<Followed<IpAddr>>>>,
    services: Mutex<HashMap<String, Weak<Followed<Service>>>>,
    events: Events,
    stop: Stop,
}

/// What a name may stand for.
pub(crate) trait Record: Clone + Ord + Debug + Send + Sync + 'static {
    /// For the log.
    fn text(&self) -> String;
    /// Whether it is of the part of an answer that could not be had.
    fn is_of(&self, family: Family) -> bool;
}

impl Record for IpAddr {
    fn text(&self) -> String {
        self.to_string()
    }

    fn is_of(&self, family: Family) -> bool {
        family.has(self)
    }
}

impl Record for Service {
    fn text(&self) -> String {
        format!("{}:{} (priority {}, weight {})", self.target, self.port, self.priority, self.weight)
    }

    fn is_of(&self, _: Family) -> bool {
        false
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn terms(names: &Names) -> Terms {
    Terms { max_ttl: names.max_ttl, max_stale: names.max_stale }
}

impl Resolver {
    /// Nothing is looked up yet. `stop` ends every look-up.
    /// # Errors
    /// The authorities of servers asked over TLS cannot be read.
    pub fn new(names: &Names, events: Events, stop: Stop) -> Result<Resolver, TlsError> {
        let source = Mutex::new((Arc::new(Dns::new(names)?), terms(names)));
        let slots = Semaphore::new(LOOKUPS_MAX);
        Ok(Resolver(Arc::new(Shared { source, slots, hosts: Mutex::default(), services: Mutex::default(), events, stop })))
    }

    /// Takes other settings; every name is asked for again, and what is known stays in use meanwhile.
    /// # Errors
    /// As `new`; then everything stays as it was.
    pub fn reconfigure(&self, names: &Names) -> Result<(), TlsError> {
        let dns = Arc::new(Dns::new(names)?);
        *locked(&self.0.source) = (dns, terms(names));
        let hosts: Vec<_> = locked(&self.0.hosts).values().filter_map(Weak::upgrade).collect();
        hosts.iter().for_each(|followed| followed.set_terms(terms(names)));
        let services: Vec<_> = locked(&self.0.services).values().filter_map(Weak::upgrade).collect();
        services.iter().for_each(|followed| followed.set_terms(terms(names)));
        Ok(())
    }

    /// The addresses of a host, kept up to date. Must be called inside a tokio runtime, unless `host` is an address.
    #[must_use]
    pub(crate) fn follow(&self, host: &str) -> Arc<Followed<IpAddr>> {
        if let Ok(ip) = host.parse() {
            return Arc::new(Followed::Literal([ip]));
        }
        let shared = Arc::clone(&self.0);
        self.follow_in(&self.0.hosts, host, move |host| {
            let dns = Arc::clone(&locked(&shared.source).0);
            async move { dns.addresses(&host).await }
        })
    }

    /// The records of a service, kept up to date. Must be called inside a tokio runtime.
    #[must_use]
    pub(crate) fn follow_service(&self, service: &str) -> Arc<Followed<Service>> {
        let shared = Arc::clone(&self.0);
        self.follow_in(&self.0.services, service, move |service| {
            let dns = Arc::clone(&locked(&shared.source).0);
            async move { dns.services(&service).await }
        })
    }

    fn follow_in<T: Record, F>(
        &self,
        table: &Mutex<HashMap<String, Weak<Followed<T>>>>,
        name: &str,
        look_up: impl Fn(String) -> F + Send + Sync + 'static,
    ) -> Arc<Followed<T>>
    where
        F: Future<Output = Result<Found<T>, String>> + Send + 'static,
    {
        let mut table = locked(table);
        table.retain(|_, followed| followed.strong_count() > 0);
        if let Some(followed) = table.get(name).and_then(Weak::upgrade) {
            return followed;
        }
        let state = Name::new(locked(&self.0.source).1, fastrand::u64(..), Instant::now().into_std());
        let place = Arc::new(Place::new(name, state, self.0.events.clone()));
        let followed = Arc::new(Followed::Looked(Held(Arc::clone(&place))));
        table.insert(name.to_owned(), Arc::downgrade(&followed));
        tokio::spawn(keep(place, Arc::clone(&self.0), look_up));
        followed
    }
}

/// A name that is kept up to date while somebody holds this.
#[derive(Debug)]
pub(crate) enum Followed<T: Record> {
    /// An address, which stands for itself.
    Literal([T; 1]),
    /// A name.
    Looked(Held<T>),
}

/// Ends the look-ups when it is dropped.
#[derive(Debug)]
pub(crate) struct Held<T: Record>(Arc<Place<T>>);

impl<T: Record> Drop for Held<T> {
    fn drop(&mut self) {
        let told = {
            let mut state = locked(&self.0.state);
            state.gone = true;
            state.name.is_told()
        };
        if told {
            self.0.alarm(false);
        }
        self.0.wake.notify_one();
    }
}

/// The state of one name.
#[derive(Debug)]
pub(crate) struct Place<T: Record> {
    name: String,
    state: Mutex<State<T>>,
    /// There is something to do before the time that was said.
    wake: Notify,
    /// Counts look-ups that ended.
    ended: watch::Sender<u64>,
    /// Who wants to know of another answer.
    listeners: Mutex<Vec<Weak<Notify>>>,
    events: Events,
}

#[derive(Debug)]
struct State<T> {
    name: Name<T>,
    gone: bool,
}

impl<T: Record> Place<T> {
    fn new(name: &str, state: Name<T>, events: Events) -> Self {
        let (wake, ended) = (Notify::new(), watch::Sender::new(0));
        Self { name: name.to_owned(), state: Mutex::new(State { name: state, gone: false }), wake, ended, listeners: Mutex::default(), events }
    }

    /// Has the machine do something, and tells what changed by it.
    fn step<R>(&self, act: impl FnOnce(&mut Name<T>, std::time::Instant) -> R) -> R {
        let mut state = locked(&self.state);
        let result = act(&mut state.name, Instant::now().into_std());
        let changes: Vec<Change<T>> = std::iter::from_fn(|| state.name.next_change()).collect();
        drop(state);
        for change in changes {
            match change {
                Change::Answer { from, to } => self.tell(&from, &to),
                Change::Fails(why) => self.alarm_with(&why),
                Change::Back => self.alarm(false),
            }
        }
        result
    }

    fn tell(&self, from: &[T], to: &[T]) {
        let list = |records: &[T]| records.iter().map(Record::text).collect::<Vec<String>>();
        self.events.emit(Event::Answer { name: self.name.as_str().into(), from: list(from), to: list(to) });
        let mut listeners = locked(&self.listeners);
        listeners.retain(|listener| match listener.upgrade() {
            Some(listener) => {
                listener.notify_one();
                true
            }
            None => false,
        });
    }

    /// Why it fails now goes into the status; the alarm has a text that is the same at its begin and its end.
    fn alarm_with(&self, why: &str) {
        self.events.emit(Event::LookupFailed { name: self.name.as_str().into(), why: why.to_owned() });
        self.alarm(true);
    }

    fn alarm(&self, raised: bool) {
        let what = "it cannot be looked up; what was found last stays in use for `max_stale`; check the record and the DNS servers".to_owned();
        self.events.emit(Event::Alarm { subject: format!("name {}", self.name), what, raised });
    }
}

/// Looks one name up while somebody follows it.
async fn keep<T: Record, F>(place: Arc<Place<T>>, shared: Arc<Shared>, look_up: impl Fn(String) -> F)
where
    F: Future<Output = Result<Found<T>, String>>,
{
    loop {
        let (due, next) = place.step(|name, now| {
            name.on_timeout(now);
            (name.ask(now), name.next_timeout())
        });
        let act = async {
            if !due {
                let wake = place.wake.notified();
                return match next {
                    Some(at) => drop(timeout_at(Instant::from_std(at), wake).await), // woken or due: both are looked at above
                    None => wake.await,
                };
            }
            let found = timeout(LOOKUP, async {
                // It is never closed; without a slot in time the deadline ends the wait.
                let _slot = shared.slots.acquire().await;
                look_up(place.name.clone()).await
            });
            let found = found.await.unwrap_or_else(|_| Err(LATE.to_owned()));
            place.step(|name, now| match found {
                Ok(Found { records, ttl, lacks }) => name.answered(records, ttl, |record| lacks.is_some_and(|family| record.is_of(family)), now),
                Err(error) => name.failed(&error, now),
            });
            place.ended.send_modify(|count| *count += 1);
        };
        tokio::select! {
            () = act => {}
            () = shared.stop.wait() => return,
        }
        if locked(&place.state).gone {
            return;
        }
    }
}

const LATE: &str = "the DNS servers did not answer in time";

impl<T: Record> Followed<T> {
    /// What it stands for now; empty: nothing is known. Never waits.
    pub(crate) fn records(&self) -> Vec<T> {
        match self {
            Followed::Literal(one) => one.to_vec(),
            Followed::Looked(Held(place)) => locked(&place.state).name.records().to_vec(),
        }
    }

    /// Whether connections to this record may stay: it is in the answer, or nothing is known.
    pub(crate) fn is_current(&self, record: &T) -> bool {
        match self {
            Followed::Literal(_) => true,
            Followed::Looked(Held(place)) => {
                let state = locked(&place.state);
                state.name.records().is_empty() || state.name.records().contains(record)
            }
        }
    }

    /// What it stands for, waiting for the first answer if nothing is known.
    /// # Errors
    /// The text of the last failure; none: the time was over.
    pub(crate) async fn known(&self, deadline: Instant) -> Result<Vec<T>, Option<String>> {
        let Followed::Looked(Held(place)) = self else { return Ok(self.records()) };
        let mut ended = place.ended.subscribe();
        let (records, checked) = place.step(|name, now| (name.records().to_vec(), name.is_being_checked(now)));
        if !records.is_empty() {
            if checked {
                // What it was before is good enough if the servers take longer.
                drop(timeout_at(deadline.min(Instant::now() + LOOKUP_CHECK), ended.changed()).await);
                return Ok(self.records());
            }
            return Ok(records);
        }
        let (sensible, error) = place.step(|name, now| (name.want(now), name.error().map(str::to_owned)));
        if !sensible {
            return Err(error);
        }
        place.wake.notify_one();
        // An error means that the look-ups ended with the process.
        let waited = timeout_at(deadline, ended.changed()).await;
        place.step(|name, _| match name.records() {
            [] if waited.is_err() => Err(None),
            [] => Err(name.error().map(str::to_owned)),
            records => Ok(records.to_vec()),
        })
    }

    /// A connect failed there: look at once whether it still stands for the same.
    pub(crate) fn suspect(&self) {
        if let Followed::Looked(Held(place)) = self {
            place.step(|name, now| name.suspect(now));
            place.wake.notify_one();
        }
    }

    fn set_terms(&self, terms: Terms) {
        if let Followed::Looked(Held(place)) = self {
            place.step(|name, now| name.set_terms(terms, now));
            place.wake.notify_one();
        }
    }

    /// Has `listener` notified of every other answer from now on, while it lives.
    pub(crate) fn tell_to(&self, listener: &Arc<Notify>) {
        let Followed::Looked(Held(place)) = self else { return };
        let mut listeners = locked(&place.listeners);
        listeners.retain(|other| other.strong_count() > 0);
        if !listeners.iter().any(|other| std::ptr::eq(other.as_ptr(), Arc::as_ptr(listener))) {
            listeners.push(Arc::downgrade(listener));
        }
    }

    /// For people; `None`: an address, of which there is nothing to say.
    pub(crate) fn status(&self) -> Option<NameStatus> {
        let Followed::Looked(Held(place)) = self else { return None };
        let Seen { age, ttl, error } = locked(&place.state).name.seen(Instant::now().into_std());
        Some(NameStatus { name: place.name.clone(), age_seconds: age.map(|age| age.as_secs()), ttl_seconds: ttl.as_secs(), error })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    fn found(ends: &[u8], ttl: u64) -> Result<Found<IpAddr>, String> {
        let records = ends.iter().map(|end| IpAddr::from([192, 0, 2, *end])).collect();
        Ok(Found { records, ttl: Duration::from_secs(ttl), lacks: None })
    }

    /// A resolver with a name whose look-ups give these results, one after the other, the last one for ever.
    #[allow(clippy::type_complexity, reason = "four things that each test takes apart at once")]
    fn follow(results: Vec<Option<Result<Found<IpAddr>, String>>>) -> (Resolver, Arc<Followed<IpAddr>>, Arc<AtomicUsize>, Arc<Mutex<Vec<String>>>) {
        let (stopper, stop) = Stop::new();
        std::mem::forget(stopper);
        let told = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&told);
        let events = Events::to(move |event| {
            locked(&log).push(match event {
                Event::Alarm { raised, .. } => format!("alarm {raised}"),
                Event::Answer { from, to, .. } => format!("{from:?} to {to:?}"),
                Event::LookupFailed { why, .. } => why,
                other => format!("{other:?}"),
            });
        });
        let resolver = Resolver::new(&Names::default(), events, stop).unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let followed = resolver.follow_in(&resolver.0.hosts, "pacs", move |_| {
            let nth = count.fetch_add(1, Ordering::SeqCst).min(results.len() - 1);
            let result = results[nth].clone();
            async move {
                match result {
                    Some(result) => result,
                    None => std::future::pending().await,
                }
            }
        });
        (resolver, followed, asked, told)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(4)
    }

    fn ips(ends: &[u8]) -> Vec<IpAddr> {
        found(ends, 1).unwrap().records
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_stands_for_itself() {
        let (resolver, ..) = follow(vec![None]);
        let literal = resolver.follow("192.0.2.7");
        assert_eq!(literal.known(soon()).await, Ok(ips(&[7])));
        assert_eq!(literal.status(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_answer_is_waited_for_and_kept_through_failures() {
        let (_resolver, followed, asked, told) = follow(vec![found(&[1], 60).into(), Some(Err("SERVFAIL".to_owned()))]);
        assert_eq!(followed.known(soon()).await, Ok(ips(&[1])));
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert!(asked.load(Ordering::SeqCst) > 10, "it goes on asking");
        assert_eq!(followed.known(Instant::now()).await, Ok(ips(&[1])), "without waiting");
        let status = followed.status().unwrap();
        assert!(status.age_seconds >= Some(600) && status.error.as_deref() == Some("SERVFAIL"), "{status:?}");
        assert_eq!(*locked(&told), ["[] to [\"192.0.2.1\"]", "SERVFAIL", "alarm true"]);
        drop(followed);
        assert_eq!(locked(&told).last().unwrap(), "alarm false", "nobody wants to know any more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_hanging_server_costs_nobody_more_than_the_deadline() {
        let (_resolver, followed, ..) = follow(vec![None]);
        let begun = Instant::now();
        assert_eq!(followed.known(begun + Duration::from_secs(2)).await, Err(None));
        assert_eq!(begun.elapsed(), Duration::from_secs(2));
        assert_eq!(followed.known(begun + Duration::from_secs(20)).await, Err(Some(LATE.to_owned())));
        assert_eq!(begun.elapsed(), LOOKUP);
        assert_eq!(followed.known(soon()).await, Err(None), "asked again at once");
        assert_eq!(begun.elapsed(), LOOKUP + Duration::from_secs(4));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_connect_has_the_name_checked_and_the_next_one_waits_a_moment_for_it() {
        let (_resolver, followed, asked, _) = follow(vec![found(&[1], 60).into(), found(&[2], 60).into(), None]);
        assert_eq!(followed.known(soon()).await, Ok(ips(&[1])));
        tokio::time::sleep(Duration::from_secs(2)).await;
        let listener = Arc::new(Notify::new());
        followed.tell_to(&listener);
        followed.suspect();
        assert_eq!(followed.known(soon()).await, Ok(ips(&[2])));
        listener.notified().await;
        assert!(!followed.is_current(&ips(&[1])[0]) && followed.is_current(&ips(&[2])[0]));
        tokio::time::sleep(Duration::from_secs(2)).await;
        followed.suspect();
        let begun = Instant::now();
        assert_eq!(followed.known(soon()).await, Ok(ips(&[2])));
        assert_eq!((begun.elapsed(), asked.load(Ordering::SeqCst)), (LOOKUP_CHECK, 3), "not longer than a moment");
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_nobody_follows_is_asked_for_no_more() {
        let (resolver, followed, asked, _) = follow(vec![found(&[1], 1).into()]);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(Arc::ptr_eq(&followed, &resolver.follow("pacs")), "shared");
        drop(followed);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let before = asked.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(asked.load(Ordering::SeqCst), before);
    }
}
