//! The engine inside a program: a `Client` owns a spool, delivers what is in it, sends what is not, and reports what became of it.
//!
//! ```no_run
//! use everpost_client::io::client::{Client, Settings};
//! use std::time::Duration;
//!
//! let settings = Settings::from_toml(
//!     "data_dir = '/var/lib/ct-console/everpost'
//!      [[destination]]
//!      name = 'ris'
//!      protocol = 'mllp'
//!      [[destination.endpoint]]
//!      name = 'primary'
//!      address = 'ris-a.example.org:2575'
//!      [[destination.endpoint]]
//!      name = 'secondary'
//!      address = 'ris-b.example.org:2575'",
//! )?;
//! let client = Client::open(&settings)?;
//! // Durable when it returns; delivered in the background, through restarts of this program.
//! let id = client.submit_hl7("ris", b"MSH|^~\\&|CT|ROOM1|RIS|HOSP|20260101||ORU^R01|4711|P|2.5\r")?;
//! // The outcome comes as a report.
//! while let Some(report) = client.poll(Duration::from_secs(30))? {
//!     println!("{} {}: {}", report.kind.name(), report.id, report.text);
//!     if report.id == id.0 && report.kind.is_outcome() {
//!         break;
//!     }
//! }
//! // Or wait for the answer of whichever endpoint takes it first; nothing is kept.
//! let answer = client.send_hl7("ris", b"MSH|^~\\&|CT|ROOM1|RIS|HOSP|20260101||ORU^R01|4712|P|2.5\r", Duration::from_secs(10))?;
//! println!("{} answered", answer.endpoint);
//! let left = client.close(Duration::from_secs(5))?;
//! println!("{left} messages wait for the next start");
//! # Ok::<(), everpost_client::io::client::ClientError>(())
//! ```
//!
//! A DICOM object comes from a file, from memory, or is written while it is made:
//!
//! ```no_run
//! # use everpost_client::io::client::{Client, ClientError};
//! # fn stream(client: &Client, frames: impl Iterator<Item = Vec<u8>>) -> Result<(), ClientError> {
//! let object = client.begin("pacs", "1.2.840.10008.5.1.4.1.1.7.2", "2.25.4711", "1.2.840.10008.1.2.1")?;
//! for frame in frames {
//!     object.write(&frame)?;
//! }
//! let id = object.finish()?; // durable
//! # Ok(()) }
//! ```
//!
//! | | `submit`, `begin` .. `finish` | `send` |
//! |---|---|---|
//! | returns | when the message is durable on this machine's disk, with an id | when a receiver has answered, with the answer |
//! | waits for | one sync of the disk, never the network | the network, at most its time |
//! | receiver away | delivered later, also after a restart of the program | `NotSent` (safe to try elsewhere) or `Unanswered` (it may have arrived) |
//! | order | kept, as `ordering` says | the caller's business |
//! | outcome | a report with the id; `outcome` asks again later | the result |
//!
//! What was submitted survives: a crash or `kill -9` of the program and a power loss (delivered after the next `open`, in order; what was in flight or
//! settled in the last 10 ms may arrive twice); a full or broken disk (`Full`, `Storage`: nothing new is taken, delivery goes on); every endpoint or DNS
//! away, and addresses that change (it waits). Reports are read by `poll`, by `poll` when `event_fd` is readable, or come to a callback (`open_with`).
//!
//! The life of a submitted message: `submit` -> durable, an id -> attempts on one endpoint after the other -> delivered, dead letter or held -> report.
//! Rules:
//! - `submit` waits for the disk (one sync), never for the network; `send` waits for the network, never longer than its time, and keeps nothing.
//! - Every method may be called from any thread, also from several at once, also from a thread with little stack; all of them block, so an async program
//!   calls them where it may. A child of `fork` gets `Forked` from all of them.
//! - Threads: `client.threads` at most (3: spool, network, reading), one more for callbacks. Memory: one chunk per object that is being written
//!   (`spool.buffers` in all) and per object on its way out; reports up to `client.events`.
//! - Signals of the host never run on threads of ours, and a broken connection raises none.
//!
//! Errors: `ClientError`.

mod error;
mod mailbox;
mod send;
mod settings;
mod stack;
#[cfg(test)]
mod tests;
mod upload;

pub use error::{Answer, ClientError, Failure};
pub use settings::Settings;
pub use upload::Upload;

use crate::config::Destination;
use crate::config::destination::ClientSettings;
use crate::delivery::status::DestinationStatus;
use crate::event::Events;
use crate::hl7::message::Message;
use crate::ids::{DestinationId, EndpointId, EnvelopeId};
use crate::io::committer::Committer;
use crate::io::courier::{self, Courier, Parcel, Part10};
use crate::io::dicom_link::DicomCourier;
use crate::io::dicom_send::read_file_head;
use crate::io::disk::Directory;
use crate::io::driver::{Driver, Drivers};
use crate::io::in_place;
use crate::io::mllp_link::MllpCourier;
use crate::io::resolve::Resolver;
use crate::io::stop::{Stop, Stopper};
use crate::io::tls::ClientTls;
use crate::keys::{Key, Keys, Protocol};
use crate::limits::{CLIENT_CLOSE_WAIT, MLLP_BLOCK_BYTES_DEFAULT};
use crate::mllp;
use crate::report::{Report, ReportKind};
use crate::spool::{Addressee, Content, Draft, Lane, Spool, State};
use bytes::Bytes;
use mailbox::Mailbox;
use stack::{Quiet, is_roomy};
use std::future::Future;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::thread::JoinHandleExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use upload::Slot;

/// Runs work here, or, if this thread has little stack left, on a thread that has enough.
/// # Errors
/// `Limit` if there is none to be had.
pub fn with_room<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, ClientError> {
    stack::with_room(work).map_err(no_thread)
}

/// What stands where the gateway has a listener's name.
const LISTENER: &str = "client";

/// A look at what waits, while nobody reports anything.
const LOOK: Duration = Duration::from_millis(20);

/// What is told of each report.
pub type OnReport = Box<dyn FnMut(Report) + Send>;

/// The engine, opened.
#[derive(Debug)]
pub struct Client {
    running: RwLock<Option<Arc<Running>>>,
    mailbox: Arc<Mailbox>,
    callers: Mutex<Vec<JoinHandle<()>>>,
    /// Their numbers with the system: asking Rust for the present thread's would leave something behind in the host's.
    caller_ids: Vec<libc::pthread_t>,
    log: Option<Arc<Mailbox>>,
    process: u32,
}

#[derive(Debug)]
struct Running {
    name: String,
    committer: Committer,
    network: Handle,
    ways: Vec<Arc<Way>>,
    /// Ends the look-ups of names.
    looking: Stopper,
    uploads: Mutex<Vec<Weak<Slot>>>,
    /// Turns true when calls that wait for the network must end.
    over: watch::Sender<bool>,
    /// Ends the network's thread.
    thread: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
}

/// A destination that is delivered to.
#[derive(Debug)]
struct Way {
    destination: Arc<Destination>,
    id: DestinationId,
    driver: Driver,
    stopper: Stopper,
}

/// What people see of a client.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ClientStatus {
    /// Version of the library.
    pub version: &'static str,
    /// Bytes of the spool on disk.
    pub spool_bytes: u64,
    /// Bytes free on its file system.
    pub spool_free_bytes: u64,
    /// `open`, `reserve` (too little space) or `broken` (no file can be written): whether `submit` takes messages.
    pub intake: &'static str,
    /// The destinations, in the order of the configuration.
    pub destinations: Vec<DestinationStatus>,
}

impl Client {
    /// Opens the spool in `data_dir`, and delivers from now on what waits in it.
    /// # Errors
    /// `Configuration`, `InUse`, `Storage`.
    pub fn open(settings: &Settings) -> Result<Client, ClientError> {
        Self::open_with(settings, None, None)
    }

    /// The same; a thread of its own calls `on_report` with every report, in place of `poll`, and another one `on_log` with every report, beside it. They
    /// may call the client, except `close`.
    /// # Errors
    /// As `open`.
    pub fn open_with(settings: &Settings, on_report: Option<OnReport>, on_log: Option<OnReport>) -> Result<Client, ClientError> {
        stack::elsewhere(|| {
            let read = settings.read()?;
            let data_dir = settings.data_dir(&read)?;
            let _quiet = Quiet::all();
            let mailbox = Arc::new(Mailbox::new(read.events));
            let log = on_log.is_some().then(|| Arc::new(Mailbox::new(read.events)));
            let readers: Vec<Arc<Mailbox>> = [Some(&mailbox), log.as_ref()].into_iter().flatten().cloned().collect();
            let running = Arc::new(Running::start(&read, &data_dir, readers)?);
            let weak = Arc::downgrade(&running);
            let process = std::process::id();
            let running = RwLock::new(Some(running));
            let mut client = Client { running, mailbox, callers: Mutex::default(), caller_ids: Vec::new(), log, process };
            if let Some(call) = on_report {
                client.call_back(call, client.mailbox.clone(), weak.clone())?;
            }
            if let Some((call, log)) = on_log.zip(client.log.clone()) {
                client.call_back(call, log, weak)?;
            }
            Ok(client)
        })
        .map_err(no_thread)?
    }

    fn call_back(&mut self, mut call: OnReport, mailbox: Arc<Mailbox>, running: Weak<Running>) -> Result<(), ClientError> {
        let run = move || {
            // It must not keep the client open.
            while let Some(report) = mailbox.next(None) {
                let detailed = running.upgrade().map(|running| running.detailed(report.clone()));
                call(detailed.unwrap_or(report));
            }
        };
        let thread = thread::Builder::new().name("everpost-calls".to_owned()).spawn(run).map_err(no_thread)?;
        self.caller_ids.push(thread.as_pthread_t());
        lock(&self.callers).push(thread);
        Ok(())
    }

    /// Whether `close` may be called here.
    /// # Errors
    /// `Argument` on a thread that calls back; `Forked`.
    pub fn may_close(&self) -> Result<(), ClientError> {
        self.check()?;
        // SAFETY: asks for the present thread's number; nothing can go wrong.
        let here = unsafe { libc::pthread_self() };
        if self.caller_ids.contains(&here) {
            return Err(ClientError::Argument("close cannot be called by a callback: it waits for the callback's end".to_owned()));
        }
        Ok(())
    }

    fn check(&self) -> Result<(), ClientError> {
        // Before any lock: one that another thread held when the process was forked is held for ever.
        if self.process == std::process::id() { Ok(()) } else { Err(ClientError::Forked) }
    }

    fn running(&self) -> Result<Arc<Running>, ClientError> {
        self.check()?;
        self.running.read().unwrap_or_else(PoisonError::into_inner).clone().ok_or(ClientError::Closed)
    }

    /// Takes an HL7 message into the spool. Durable when it returns; the id is that of its reports.
    /// # Errors
    /// `Destination`, `Content`, `Full`, `Storage`, `Limit`: nothing was taken.
    pub fn submit_hl7(&self, destination: &str, message: &[u8]) -> Result<EnvelopeId, ClientError> {
        let running = self.running()?;
        let way = running.way(destination, Protocol::Mllp)?;
        let (content, keys) = hl7(message)?;
        running.commit(&way, keys, Content::Whole(content))
    }

    /// Takes a DICOM file (PS3.10) into the spool.
    /// # Errors
    /// As `submit_hl7`; `Argument` for a file that cannot be read.
    pub fn submit_dicom_file(&self, destination: &str, path: &Path) -> Result<EnvelopeId, ClientError> {
        let running = self.running()?;
        let way = running.way(destination, Protocol::Dicom)?;
        let head = file_head(path)?;
        let failed = |e: io::Error| ClientError::Argument(format!("{}: {e}", path.display()));
        let mut file = std::fs::File::open(path).map_err(failed)?;
        let upload = Upload::begin(&running, way, &head)?;
        upload.copy(&mut file, head.dataset_at).map_err(|e| e.unwrap_or_else(failed))?;
        upload.finish()
    }

    /// Takes a DICOM file that is in memory into the spool.
    /// # Errors
    /// As `submit_hl7`.
    pub fn submit_dicom(&self, destination: &str, part10: &[u8]) -> Result<EnvelopeId, ClientError> {
        let running = self.running()?;
        let way = running.way(destination, Protocol::Dicom)?;
        let head = memory_head(part10)?;
        let upload = Upload::begin(&running, way, &head)?;
        upload.write(part10.get(usize::try_from(head.dataset_at).unwrap_or(usize::MAX)..).unwrap_or_default())?;
        upload.finish()
    }

    /// Starts an object whose data set is written piece by piece, in the given transfer syntax and without File Meta Information.
    /// # Errors
    /// `Destination`, `Content` for UIDs that are none, `Full`, `Limit`.
    pub fn begin(&self, destination: &str, sop_class: &str, sop_instance: &str, transfer_syntax: &str) -> Result<Upload, ClientError> {
        let running = self.running()?;
        let way = running.way(destination, Protocol::Dicom)?;
        let head = upload::head(sop_class, sop_instance, transfer_syntax)?;
        Upload::begin(&running, way, &head)
    }

    /// Sends an HL7 message and returns the answer of the first endpoint that takes it.
    /// # Errors
    /// `NotSent`, `Unanswered`, `Negative`; `Destination`, `Content`.
    pub fn send_hl7(&self, destination: &str, message: &[u8], within: Duration) -> Result<Answer, ClientError> {
        let running = self.running()?;
        let way = running.way(destination, Protocol::Mllp)?;
        let (content, _) = hl7(message)?;
        running.send(way, Parcel(courier::Content::Hl7(content)), within)
    }

    /// Sends a DICOM file and returns the status of the first endpoint that takes it.
    /// # Errors
    /// As `send_hl7`; `Argument` for a file that cannot be read.
    pub fn send_dicom_file(&self, destination: &str, path: &Path, within: Duration) -> Result<Answer, ClientError> {
        let running = self.running()?;
        let way = running.way(destination, Protocol::Dicom)?;
        let head = Arc::new(file_head(path)?);
        running.send(way, object(head, Part10::File(path.into())), within)
    }

    /// The same for a DICOM file that is in memory.
    /// # Errors
    /// As `send_hl7`.
    pub fn send_dicom(&self, destination: &str, part10: &[u8], within: Duration) -> Result<Answer, ClientError> {
        let running = self.running()?;
        let way = running.way(destination, Protocol::Dicom)?;
        let head = Arc::new(memory_head(part10)?);
        running.send(way, object(head, Part10::Memory(Bytes::copy_from_slice(part10))), within)
    }

    /// Asks the endpoints of a destination, one after the other, whether they are there: C-ECHO for DICOM, the configured probe for HL7. Returns the
    /// name of the first that answers.
    /// # Errors
    /// `NotSent`, with what the last one met.
    pub fn echo(&self, destination: &str, within: Duration) -> Result<Arc<str>, ClientError> {
        let running = self.running()?;
        let way = running.any_way(destination)?;
        let mut over = running.over.subscribe();
        running.wait(async move {
            tokio::select! {
                found = echo(&way, deadline(within)) => found,
                _ = over.wait_for(|over| *over) => Err(ClientError::Closed),
            }
        })?
    }

    /// The oldest report, waiting for one at most so long. `None`: none came.
    /// # Errors
    /// `Closed` once all were read after `close`; `Forked`.
    pub fn poll(&self, within: Duration) -> Result<Option<Report>, ClientError> {
        self.check()?;
        let found = self.mailbox.next(Some(Instant::now() + within.min(FOREVER)));
        match self.running() {
            Ok(running) => Ok(found.map(|report| running.detailed(report))),
            Err(_) if found.is_some() => Ok(found),
            Err(closed) => Err(closed),
        }
    }

    /// A descriptor that is readable while there is a report to `poll`. It belongs to the client: watch it, and do nothing else with it.
    /// # Errors
    /// `Limit` if the process has no descriptor left.
    pub fn event_fd(&self) -> Result<RawFd, ClientError> {
        self.check()?;
        self.mailbox.descriptor().map_err(|e| ClientError::Limit(format!("no descriptor for events: {e}")))
    }

    /// What became of a message, also after its report was read or lost: as long as the spool's history reaches.
    /// # Errors
    /// `Unknown`, `Storage`.
    pub fn outcome(&self, id: EnvelopeId) -> Result<Report, ClientError> {
        self.running()?.outcome(id)
    }

    /// Waits until everything submitted before has come to an outcome. `Ok`: it has.
    /// # Errors
    /// `TimedOut`, with how many still wait; `Closed`, also while it waits.
    pub fn flush(&self, within: Duration) -> Result<(), ClientError> {
        let running = self.running()?;
        let until = Instant::now() + within.min(FOREVER);
        match self.settle(&running, until, false) {
            0 => Ok(()),
            _ if self.running().is_err() => Err(ClientError::Closed),
            left => Err(ClientError::TimedOut(left)),
        }
    }

    /// Waits until nothing waits, `until` at most. `flowing`: only for destinations that have an endpoint in service, and also while the client is closed.
    fn settle(&self, running: &Running, until: Instant, flowing: bool) -> u64 {
        let mut seen = 0;
        loop {
            let left: u64 = running.ways.iter().filter(|way| !flowing || way.driver.flows()).map(|way| running.undelivered(way)).sum();
            let wait = until.saturating_duration_since(Instant::now());
            if left == 0 || wait.is_zero() || !flowing && self.running().is_err() {
                return left;
            }
            seen = self.mailbox.outcome_after(seen, wait.min(LOOK));
        }
    }

    /// How it stands.
    /// # Errors
    /// `Closed`, `Forked`.
    pub fn status(&self) -> Result<ClientStatus, ClientError> {
        let running = self.running()?;
        let spool = running.committer.spool();
        let usage = spool.usage();
        let intake = match spool.intake() {
            crate::spool::Intake::Open => "open",
            crate::spool::Intake::Reserve => "reserve",
            crate::spool::Intake::Broken => "broken",
        };
        Ok(ClientStatus {
            version: env!("CARGO_PKG_VERSION"),
            spool_bytes: usage.bytes,
            spool_free_bytes: usage.free,
            intake,
            destinations: running.ways.iter().map(|way| way.driver.status()).collect(),
        })
    }

    /// Ends: takes nothing more, lets what is on its way arrive while there is time and an endpoint in service, gives the directory back. Returns how
    /// many messages wait for the next start. Objects that are being written are dropped. Reports can still be read with `poll`.
    /// # Errors
    /// `Closed` the second time; `Argument` on the thread that calls back; `Storage` if the last bookkeeping could not be written, which costs at most
    /// repeated work.
    pub fn close(&self, within: Duration) -> Result<u64, ClientError> {
        self.may_close()?;
        stack::elsewhere(|| {
            let taken = self.running.write().unwrap_or_else(PoisonError::into_inner).take();
            let running = taken.ok_or(ClientError::Closed)?;
            let until = Instant::now() + within.min(FOREVER);
            self.settle(&running, until, true);
            let ended = running.end(until, || Arc::strong_count(&running) == 1);
            for mailbox in [Some(&self.mailbox), self.log.as_ref()].into_iter().flatten() {
                mailbox.close();
            }
            for caller in std::mem::take(&mut *lock(&self.callers)) {
                drop(caller.join()); // a panic in the host's callback was told when it happened
            }
            // The directory is free when the last call has ended.
            ended
        })
        .map_err(no_thread)?
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if self.check().is_err() {
            // The child of a fork has none of the threads, and its parent has the spool: nothing may be touched, not even by dropping it.
            std::mem::forget(self.running.get_mut().unwrap_or_else(PoisonError::into_inner).take());
            std::mem::forget(std::mem::take(self.callers.get_mut().unwrap_or_else(PoisonError::into_inner)));
        } else {
            drop(self.close(Duration::ZERO)); // closed already, or nobody is left to be told
        }
    }
}

/// Longer waits are cut to this: a year.
const FOREVER: Duration = Duration::from_secs(365 * 86_400);

impl Running {
    fn start(settings: &ClientSettings, data_dir: &Path, readers: Vec<Arc<Mailbox>>) -> Result<Running, ClientError> {
        let dir = data_dir.join("spool");
        let storage = |e: io::Error| match error::is_exhausted(&e) {
            true => no_thread(e),
            false => ClientError::Storage(format!("{}: {e}; make it writable for this user", dir.display())),
        };
        let directory = Directory::open(&dir).map_err(storage)?;
        let events = Events::to(move |event| readers.iter().for_each(|reader| reader.read(&event)));
        let (spool, _) = Spool::open(directory, settings.spool.clone(), events.clone())?;
        let spool = Arc::new(spool);
        let (committer, reading) = if settings.threads > 3 {
            (Committer::start(Arc::clone(&spool)), settings.threads - 3)
        } else {
            (Committer::start_lean(Arc::clone(&spool)), 1)
        };
        let committer = committer.map_err(no_thread)?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(reading.max(1)).thread_name("everpost-read").build();
        let runtime = runtime.map_err(no_thread)?;
        let network = runtime.handle().clone();
        let drivers = Drivers::default();
        drivers.attach(&spool);
        let (looking, stop) = Stop::new();
        let resolver = Resolver::new(&settings.names, events.clone(), stop);
        let resolver = resolver.map_err(|e| ClientError::Configuration(format!("[names]: {e}")))?;
        let mut ways = Vec::new();
        for destination in &settings.destinations {
            let _inside = network.enter();
            let way = Way::start(destination, &committer, &events, &resolver)?;
            drivers.add(&way.driver);
            ways.push(Arc::new(way));
        }
        let (end, ended) = oneshot::channel::<()>();
        let run = move || {
            // An error means that the client is gone, which is an end too.
            let _ = runtime.block_on(ended);
            runtime.shutdown_timeout(CLIENT_CLOSE_WAIT);
        };
        let thread = thread::Builder::new().name("everpost-net".to_owned()).spawn(run).map_err(no_thread)?;
        let thread = Mutex::new(Some((end, thread)));
        Ok(Running {
            name: data_dir.display().to_string(),
            committer,
            network,
            ways,
            looking,
            uploads: Mutex::default(),
            over: watch::Sender::new(false),
            thread,
        })
    }

    fn any_way(&self, destination: &str) -> Result<Arc<Way>, ClientError> {
        let found = self.ways.iter().find(|way| &*way.destination.name == destination).cloned();
        found.ok_or_else(|| {
            let names: Vec<&str> = self.ways.iter().map(|way| &*way.destination.name).collect();
            ClientError::Destination(format!("there is no destination of this name; there are: {}", names.join(", ")))
        })
    }

    fn way(&self, destination: &str, protocol: Protocol) -> Result<Arc<Way>, ClientError> {
        let way = self.any_way(destination)?;
        if way.destination.protocol == protocol {
            return Ok(way);
        }
        let (is, not) = (way.destination.protocol, protocol);
        Err(ClientError::Destination(format!("destination \"{destination}\" speaks {is}, not {not}; name another one")))
    }

    fn commit(&self, way: &Way, keys: Keys, content: Content) -> Result<EnvelopeId, ClientError> {
        let addressees = vec![Addressee { destination: way.id, lane: Lane::of(way.destination.ordering, &keys), stat: false }];
        let draft = Draft { keys, content, accepted_at: unix_millis(), addressees, fingerprint: None };
        let receipt = if is_roomy() {
            self.committer.spool().commit(draft)
        } else {
            let committer = self.committer.clone();
            self.wait(async move { committer.commit(draft).await })?
        };
        Ok(receipt?.envelope(0))
    }

    fn send(&self, way: Arc<Way>, parcel: Parcel, within: Duration) -> Result<Answer, ClientError> {
        // The end of an attempt is told within the caller's time too.
        let until = deadline(within.saturating_sub(send::GRACE.min(within / 10)));
        let over = self.over.subscribe();
        self.wait(async move { send::send(&way, &parcel, until, over).await })?
    }

    /// Runs a future: on this thread, as that costs one change of threads less, or on the network's.
    fn wait<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> Result<T, ClientError> {
        if is_roomy() && Handle::try_current().is_err() {
            let _quiet = Quiet::pipe();
            return Ok(in_place::waiting(|| self.network.block_on(future)));
        }
        let (tell, hear) = std::sync::mpsc::sync_channel(1);
        self.network.spawn(async move {
            // Nobody listens only if the caller's thread was killed.
            let _ = tell.send(future.await);
        });
        hear.recv().map_err(|_| ClientError::Internal("a task broke off".to_owned()))
    }

    /// Messages of a destination that wait for an outcome.
    fn undelivered(&self, way: &Way) -> u64 {
        let counts = self.committer.spool().counts(way.id);
        counts.ready + counts.in_flight + counts.deferred
    }

    /// The reason of a refusal stands in the message's story.
    fn detailed(&self, report: Report) -> Report {
        if !matches!(report.kind, ReportKind::DeadLetter | ReportKind::Held) {
            return report;
        }
        let told = report.envelope().and_then(|id| self.committer.spool().story(id).ok()).and_then(|story| story.view.last);
        match told {
            Some(last) => Report { endpoint: last.endpoint, text: last.outcome, ..report },
            None => report,
        }
    }

    fn outcome(&self, id: EnvelopeId) -> Result<Report, ClientError> {
        let view = self.committer.spool().story(id)?.view;
        let last = view.last.as_ref();
        let text = last.map_or_else(|| view.state.name().to_owned(), |last| last.outcome.clone());
        let kind = match view.state {
            State::Delivered if text.starts_with("delivered with warning") => ReportKind::DeliveredWithWarning,
            State::Delivered if text.starts_with("delivered, unconfirmed") => ReportKind::Unconfirmed,
            // A replay that was refused repeats what had been delivered.
            State::Delivered | State::ReplayEnded => ReportKind::Delivered,
            State::DeadLetter => ReportKind::DeadLetter,
            State::Held => ReportKind::Held,
            State::Discarded => ReportKind::Discarded,
            State::Ready | State::InFlight | State::Deferred => ReportKind::Waiting,
        };
        let endpoint = last.map_or_else(|| Arc::from(""), |last| Arc::clone(&last.endpoint));
        Ok(Report { kind, id: id.0, destination: view.destination, endpoint, text })
    }

    /// Stops delivery and gives the spool back. Attempts in flight end by `until`; what is left is cut. `alone`: no call uses this any more.
    fn end(&self, until: Instant, alone: impl Fn() -> bool) -> Result<u64, ClientError> {
        for slot in std::mem::take(&mut *lock(&self.uploads)) {
            if let Some(slot) = slot.upgrade() {
                slot.take();
            }
        }
        for way in &self.ways {
            way.stopper.stop();
        }
        let (ways, committer) = (self.ways.clone(), self.committer.clone());
        let ended = self.wait(async move {
            let finished = async {
                for way in &ways {
                    way.driver.finished().await;
                }
            };
            if tokio::time::timeout_at(until.into(), finished).await.is_err() {
                for way in &ways {
                    way.driver.abort();
                }
                for way in &ways {
                    drop(tokio::time::timeout(CLIENT_CLOSE_WAIT, way.driver.finished()).await);
                }
            }
            let spool = Arc::clone(committer.spool());
            let left: u64 = ways.iter().map(|way| spool.counts(way.id)).map(|c| c.ready + c.in_flight + c.deferred + c.held).sum();
            let stopped = tokio::time::timeout(CLIENT_CLOSE_WAIT * 5, committer.stop()).await;
            (left, stopped)
        })?;
        // Calls on other threads end now; they need the network's thread to see it.
        self.over.send_replace(true);
        let patience = Instant::now() + CLIENT_CLOSE_WAIT;
        while !alone() && Instant::now() < patience {
            thread::sleep(Duration::from_millis(1));
        }
        self.looking.stop();
        if let Some((end, thread)) = lock(&self.thread).take() {
            let _ = end.send(()); // the thread may have ended by itself
            drop(thread.join()); // it runs nothing that could panic but tasks, which are caught
        }
        match ended {
            (left, Ok(Ok(()))) => Ok(left),
            (_, Ok(Err(error))) => Err(error.into()),
            (_, Err(_)) => Err(ClientError::Storage(format!("{}: the disk did not take the last bookkeeping in time", self.name))),
        }
    }
}

impl Way {
    fn start(destination: &Arc<Destination>, committer: &Committer, events: &Events, resolver: &Resolver) -> Result<Way, ClientError> {
        let id = committer.spool().destination(&destination.name)?;
        let mut tls = Vec::new();
        for endpoint in &destination.endpoints {
            let loaded = endpoint.tls.as_ref().map(|settings| ClientTls::load(settings, &endpoint.host)).transpose();
            let wrong = |e| ClientError::Configuration(format!("destination \"{}\", endpoint \"{}\": {e}", destination.name, endpoint.name));
            tls.push(loaded.map_err(wrong)?);
        }
        let (there, spool) = (Arc::clone(destination), Arc::clone(committer.spool()));
        let courier: Arc<dyn Courier> = match destination.protocol {
            Protocol::Mllp => Arc::new(MllpCourier::new(there, tls, spool, events.clone(), resolver)),
            Protocol::Dicom => Arc::new(DicomCourier::new(there, tls, spool, events.clone(), resolver)),
        };
        let (stopper, stop) = Stop::new();
        let driver =
            Driver::start(Arc::clone(destination), id, committer.clone(), courier, events.clone(), stop, crate::endpoint::wishes::Wishes::default());
        Ok(Way { destination: Arc::clone(destination), id, driver, stopper })
    }
}

async fn echo(way: &Way, until: tokio::time::Instant) -> Result<Arc<str>, ClientError> {
    let mut last = Failure { phase: crate::delivery::Phase::Connect, endpoint: Arc::from(""), what: "no time was given".to_owned() };
    let (destination, courier) = way.driver.way();
    for (place, endpoint) in (0u16..).zip(&destination.endpoints) {
        let now = tokio::time::Instant::now();
        let shares = u32::try_from(destination.endpoints.len() - usize::from(place)).unwrap_or(1).max(1);
        let by = now + until.saturating_duration_since(now) / shares;
        let (phase, what) = match tokio::time::timeout_at(by, courier.echo(EndpointId(place), by)).await {
            Ok(Ok(())) => return Ok(Arc::clone(&endpoint.name)),
            Ok(Err(failed)) => (failed.phase, failed.cause),
            Err(_) => (crate::delivery::Phase::Answer, "no answer in time".to_owned()),
        };
        last = Failure { phase, endpoint: Arc::clone(&endpoint.name), what };
    }
    Err(ClientError::NotSent(last))
}

/// An HL7 message of the caller's, looked at.
fn hl7(message: &[u8]) -> Result<(Bytes, Keys), ClientError> {
    if message.len() > MLLP_BLOCK_BYTES_DEFAULT {
        return Err(ClientError::Content(format!("a message has at most {MLLP_BLOCK_BYTES_DEFAULT} bytes")));
    }
    if !mllp::can_carry(message) {
        return Err(ClientError::Content("the message holds FS CR, which ends an MLLP block; it cannot be sent".to_owned()));
    }
    let content = Bytes::copy_from_slice(message);
    let read = Message::read(&content).map_err(|e| ClientError::Content(format!("{}; segments end with CR", e.why)))?;
    let mut keys = Keys::new();
    keys.set(Key::Listener, LISTENER.as_bytes());
    // A long value is cut for finding; the content is whole.
    read.keys(&mut keys);
    Ok((content, keys))
}

fn object(head: Arc<crate::dicom::part10::FileHead>, file: Part10) -> Parcel {
    Parcel(courier::Content::Object { keys: Arc::new(send::keys_of(&head)), head, file })
}

fn file_head(path: &Path) -> Result<crate::dicom::part10::FileHead, ClientError> {
    if let Err(e) = std::fs::File::open(path) {
        return Err(ClientError::Argument(format!("{}: {e}", path.display())));
    }
    read_file_head(path).map_err(|what| ClientError::Content(format!("{}: {what}", path.display())))
}

fn memory_head(part10: &[u8]) -> Result<crate::dicom::part10::FileHead, ClientError> {
    let head = &part10[..part10.len().min(crate::limits::FILE_HEAD_BYTES_MAX)];
    crate::dicom::part10::read_head(head).map_err(|e| ClientError::Content(e.to_string()))
}

fn deadline(within: Duration) -> tokio::time::Instant {
    tokio::time::Instant::now() + within.min(FOREVER)
}

fn no_thread(e: io::Error) -> ClientError {
    ClientError::Limit(format!("no thread or descriptor: {e}; raise the limits of this process"))
}

fn unix_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
