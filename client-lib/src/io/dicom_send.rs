//! Test clients on the command line: send DICOM files, and ask a peer whether it is there (`send dicom`, `echo`).
//! Rules: the same association code as delivery; nothing is kept, nothing is retried: what happened is reported per file.
//! Errors: are results; `Class` gives the exit status of the command line.

use crate::delivery::{AckCode, Outcome, Phase};
use crate::dicom::dimse::StoreRq;
use crate::dicom::negotiate::Agreed;
use crate::dicom::part10::{self, FileHead};
use crate::dicom::pdu::Reject;
use crate::dicom::status::{self, StatusClass};
use crate::dicom::uid;
use crate::dicom::walker::DEFLATED;
use crate::io::courier::Met;
use crate::io::dial;
use crate::io::dicom_body::{Body, BodyError, FileSource};
use crate::io::dicom_open::{self, Fit, Need, Opened};
use crate::io::dicom_scu::{self, Job, Jobs, Progress, Settings};
use crate::io::in_place;
use crate::io::stream::{self, Stream};
use crate::io::tls::ClientTls;
use crate::io::url::Url;
use crate::keys::Protocol;
use crate::limits::{CONTEXTS_MAX, FILE_HEAD_BYTES_MAX};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

/// Enough of a file to find its data set, nearly always; what has a longer head is read again.
const SMALL_HEAD_BYTES: usize = 8 << 10;

/// How files are sent.
#[derive(Debug, Clone)]
pub struct SendOptions {
    /// Calling AE title.
    pub calling_ae: String,
    /// Deadline of resolve, connect, TLS and association together.
    pub connect_timeout: Duration,
    /// Deadline of each answer, and of progress while transmitting.
    pub answer_timeout: Duration,
    /// Convert between uncompressed transfer syntaxes where the peer refuses a file's own.
    pub convert: bool,
    /// Parallel associations.
    pub associations: NonZeroU16,
}

impl Default for SendOptions {
    fn default() -> Self {
        Self {
            calling_ae: "EVERPOST".to_owned(),
            connect_timeout: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(30),
            convert: true,
            associations: NonZeroU16::MIN,
        }
    }
}

/// What became of something, as the exit status sees it. In order: the worst of several is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Positive answer, or one with a warning.
    Done,
    /// Our side: a file that cannot be read or is no DICOM file. Exit status 1.
    Failed,
    /// Negative answer, association rejected, or no presentation context. Exit status 4.
    Negative,
    /// No answer, or not reached. Exit status 5.
    NoAnswer,
}

impl Class {
    /// The exit status of the command line.
    #[must_use]
    pub fn exit_status(self) -> u8 {
        match self {
            Class::Done => 0,
            Class::Failed => 1,
            Class::Negative => 4,
            Class::NoAnswer => 5,
        }
    }
}

/// What became of one file.
#[derive(Debug, Clone)]
pub struct FileResult {
    /// The file.
    pub file: PathBuf,
    /// Its SOP instance UID, if it could be read.
    pub sop_instance: Option<String>,
    /// Bytes of its data set.
    pub bytes: u64,
    /// What was seen.
    pub outcome: Outcome,
    /// What it means.
    pub class: Class,
    /// For people, without patient data: "stored", "warning B007H", "A700H: out of resources", ...
    pub what: String,
    /// From the first byte to the answer.
    pub took: Duration,
}

/// Sends files; `each` is told as they end. Folders are not searched: the shell does that. Once no association can be had, the rest is not tried.
pub async fn send_dicom(
    files: Vec<PathBuf>,
    to: &Url,
    tls: Option<ClientTls>,
    options: &SendOptions,
    mut each: impl FnMut(&FileResult),
) -> Vec<FileResult> {
    let (tell, mut told) = mpsc::channel(16);
    let sending = Arc::new(Sending {
        to: to.clone(),
        tls,
        options: options.clone(),
        queue: Mutex::new(Queue {
            waiting: files.into_iter().map(Opening::of).collect(),
            workers: usize::from(options.associations.get()),
            reached: false,
            unreachable: None,
        }),
    });
    for _ in 0..options.associations.get() {
        tokio::spawn(send_all(sending.clone(), tell.clone()));
    }
    drop(tell);
    let mut results = Vec::new();
    while let Some(result) = told.recv().await {
        each(&result);
        results.push(result);
    }
    results
}

/// What the associations of one `send_dicom` share.
struct Sending {
    to: Url,
    tls: Option<ClientTls>,
    options: SendOptions,
    queue: Mutex<Queue>,
}

struct Queue {
    waiting: VecDeque<Opening>,
    /// Workers that have an association or may still get one.
    workers: usize,
    /// Somebody had an association.
    reached: bool,
    /// Why nobody can have one.
    unreachable: Option<Outcome>,
}

/// A file to be sent, with its head.
struct Opening {
    path: PathBuf,
    head: Result<FileHead, String>,
}

impl Opening {
    fn of(path: PathBuf) -> Self {
        let head = in_place::run(|| read_file_head(&path));
        Self { path, head }
    }
}

/// The head of a DICOM file. Errors: a text for people.
pub(crate) fn read_file_head(path: &Path) -> Result<FileHead, String> {
    let mut file = File::open(path).map_err(|error| error.to_string())?;
    let mut head = Vec::new();
    let mut more = |bytes: usize, head: &mut Vec<u8>| (&mut file).take(bytes as u64).read_to_end(head).map_err(|error| error.to_string());
    more(SMALL_HEAD_BYTES, &mut head)?;
    if let Ok(found) = part10::read_head(&head) {
        return Ok(found);
    }
    more(FILE_HEAD_BYTES_MAX - SMALL_HEAD_BYTES, &mut head)?;
    part10::read_head(&head).map_err(|error| error.to_string())
}

/// One association's work: file by file, on a new association after a failure or where another context is needed.
async fn send_all(sending: Arc<Sending>, tell: mpsc::Sender<FileResult>) {
    let mut link: Option<Link> = None;
    let mut tried_again = false;
    while let Some(opening) = sending.next_file() {
        let begun = Instant::now();
        let (sop_instance, mut bytes) = (opening.head.as_ref().ok().map(|head| head.sop_instance.clone()), 0);
        let outcome = match &opening.head {
            Err(cause) => Outcome::Local { cause: cause.clone(), permanent: true },
            Ok(head) => sending.store(&opening.path, head, &mut link, &mut bytes).await,
        };
        if link.is_none() && is_failure_to_open(&outcome) {
            // The peer may take fewer associations than were asked for: whoever has one goes on with this file.
            let mut queue = lock(&sending.queue);
            if queue.workers > 1 {
                queue.workers -= 1;
                queue.waiting.push_front(opening);
                return;
            }
            if queue.reached && !tried_again {
                tried_again = true;
                queue.waiting.push_front(opening);
                continue;
            }
            queue.unreachable.get_or_insert_with(|| outcome.clone());
        }
        let path = opening.path;
        let (class, what) = explain(&outcome);
        let result = FileResult { file: path, sop_instance, bytes, outcome, class, what, took: begun.elapsed() };
        if tell.send(result).await.is_err() {
            break;
        }
    }
    if let Some(link) = link {
        // The release is part of the work: the process may end right after it.
        let Link { jobs, ended, .. } = link;
        drop(jobs);
        // An association that ended otherwise has told so too.
        let _ = ended.await;
    }
}

/// No association could be had.
fn is_failure_to_open(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::NotSent { phase: Phase::Resolve | Phase::Connect | Phase::Tls | Phase::Associate, .. } | Outcome::AssociationRejected { .. }
    )
}

struct Link {
    agreed: Arc<Agreed>,
    proposed: Arc<[(String, String)]>,
    jobs: Jobs,
    ended: oneshot::Receiver<()>,
}

impl Sending {
    /// The next file; without one, the worker is done.
    fn next_file(&self) -> Option<Opening> {
        let mut queue = lock(&self.queue);
        let next = queue.waiting.pop_front();
        queue.workers -= usize::from(next.is_none());
        next
    }

    async fn store(&self, path: &Path, head: &FileHead, link: &mut Option<Link>, bytes: &mut u64) -> Outcome {
        let need = self.need(head);
        for _ in 0..2 {
            let fits = link.as_ref().map_or(Fit::Unasked, |link| need.fit(&link.agreed, &link.proposed));
            if fits == Fit::Unasked {
                *link = match self.open(&need).await {
                    Ok(link) => Some(link),
                    Err(outcome) => return outcome,
                };
            }
            let Some(open) = link.as_ref() else { break };
            let Fit::Takes { context, convert_to } = need.fit(&open.agreed, &open.proposed) else {
                return Outcome::NoContext { sop_class: need.sop_class, transfer_syntax: need.transfer_syntax };
            };
            let body = match in_place::run(|| file_body(path, head, convert_to)) {
                Ok((body, size)) => {
                    *bytes = size;
                    body
                }
                Err(error) => return error.outcome(),
            };
            let request = StoreRq { sop_class: head.sop_class.clone(), sop_instance: head.sop_instance.clone(), ..StoreRq::default() };
            let (reply, answer) = oneshot::channel();
            if open.jobs.send(Job { request, context, body, reply, met: Met::default() }).is_ok()
                && let Ok(Ok(outcome)) = answer.await
            {
                if !matches!(outcome, Outcome::Stored { .. } | Outcome::Local { .. } | Outcome::Damaged { .. }) {
                    *link = None;
                }
                return outcome;
            }
            // The peer had left before the file began: once more, on a new association.
            *link = None;
        }
        Outcome::NotSent { phase: Phase::Transmit, cause: format!("{} ends every association at once", self.to), stale: false, timeout: false }
    }

    fn need(&self, head: &FileHead) -> Need {
        Need {
            calling_ae: self.options.calling_ae.clone(),
            sop_class: head.sop_class.clone(),
            transfer_syntax: head.transfer_syntax.clone(),
            convert: self.options.convert,
            not_as_it_is: false,
        }
    }

    async fn open(&self, need: &Need) -> Result<Link, Outcome> {
        if let Some(outcome) = lock(&self.queue).unreachable.clone() {
            return Err(outcome);
        }
        let mut pairs: Vec<_> = need.pairs().collect();
        for other in lock(&self.queue).waiting.iter().filter_map(|opening| opening.head.as_ref().ok()) {
            let new: Vec<_> = self.need(other).pairs().filter(|pair| !pairs.contains(pair)).collect();
            pairs.extend(new);
            if pairs.len() >= CONTEXTS_MAX {
                pairs.truncate(CONTEXTS_MAX);
                break;
            }
        }
        let opened = open(&self.to, self.tls.as_ref(), &self.options, &pairs).await?;
        lock(&self.queue).reached = true;
        let within = self.options.answer_timeout;
        let settings = Settings { answer_timeout: within, unheard: within, idle_release: within, window: 1 };
        let (agreed, proposed) = (opened.agreed.clone(), opened.proposed.clone());
        let (end, ended) = oneshot::channel::<()>();
        let retire = move |_| {
            // Dropped with the task, after the connection is closed: that is what `ended` waits for.
            let _ = &end;
            true
        };
        let jobs = dicom_scu::start(opened, settings, Arc::new(Notify::new()), Progress::default(), Box::new(retire));
        Ok(Link { agreed, proposed, jobs, ended })
    }
}

fn file_body(path: &Path, head: &FileHead, convert_to: Option<&str>) -> Result<(Body, u64), BodyError> {
    let failed = |error: std::io::Error| BodyError { cause: format!("the file could not be read: {error}"), permanent: false, damaged: false };
    let mut file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len().saturating_sub(head.dataset_at);
    file.seek(SeekFrom::Start(head.dataset_at)).map_err(failed)?;
    let source = Box::new(FileSource::new(file, size, head.transfer_syntax == DEFLATED));
    let body = match convert_to {
        None => Body::plain(source),
        Some(to) => Body::converted(source, &head.transfer_syntax, to)?,
    };
    Ok((body, size))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn dial(to: &Url, tls: Option<&ClientTls>, deadline: Instant) -> Result<(Stream, Arc<str>), Outcome> {
    let addresses = dial::resolve(&to.host, to.port, deadline).await?;
    let name: Arc<str> = to.to_string().into();
    Ok((dial::connect(&addresses, &name, tls, deadline).await?, name))
}

async fn open(to: &Url, tls: Option<&ClientTls>, options: &SendOptions, pairs: &[(String, String)]) -> Result<Opened, Outcome> {
    let deadline = Instant::now() + options.connect_timeout;
    let (stream, name) = dial(to, tls, deadline).await?;
    dicom_open::open(stream, &dicom_open::proposal(&options.calling_ae, &to.ae_title, pairs, 1), &name, deadline).await
}

/// What an outcome means to somebody who tries something, without patient data.
#[must_use]
pub fn explain(outcome: &Outcome) -> (Class, String) {
    match outcome {
        Outcome::Stored { status } => match status::class(*status) {
            StatusClass::Success => (Class::Done, "stored".to_owned()),
            StatusClass::Warning => (Class::Done, format!("stored, with warning {status:04X}H")),
            StatusClass::Duplicate => (Class::Done, format!("{status:04X}H: the peer has this instance already")),
            StatusClass::Resources => (Class::Negative, format!("{status:04X}H: the peer cannot take it at the moment")),
            StatusClass::NotSupported => (Class::Negative, format!("{status:04X}H: the peer does not take this SOP class")),
            StatusClass::ProtocolFault => (Class::Negative, format!("{status:04X}H, which is no answer to a C-STORE")),
            StatusClass::Content => (Class::Negative, format!("{status:04X}H: the peer refuses this content")),
        },
        Outcome::NoContext { sop_class, transfer_syntax } => {
            (Class::Negative, format!("the peer takes no {sop_class} in transfer syntax {transfer_syntax}"))
        }
        Outcome::AssociationRejected { permanent, source, reason } => {
            let meaning = Reject { result: u8::from(!permanent) + 1, source: *source, reason: *reason }.meaning();
            let kind = if *permanent { "permanently" } else { "for now" };
            (Class::Negative, format!("the association was rejected {kind}: {meaning} (source {source}, reason {reason})"))
        }
        Outcome::NotSent { phase, cause, .. } => (Class::NoAnswer, format!("{phase}: {cause}")),
        Outcome::Unanswered { cause, .. } => (Class::NoAnswer, format!("sent, not answered: {cause}")),
        Outcome::Local { cause, .. } | Outcome::Damaged { cause } => (Class::Failed, cause.clone()),
        Outcome::Acknowledged { code: AckCode::AA | AckCode::CA, .. } => (Class::Done, "accepted".to_owned()),
        Outcome::Acknowledged { code, error } => {
            let error = error.map(|code| format!(", error {code}")).unwrap_or_default();
            (Class::Negative, format!("{code:?}{error}"))
        }
        Outcome::SilenceAsked => (Class::Done, "sent; the message itself asked for no answer".to_owned()),
        Outcome::AlreadyThere => (Class::Done, "already there".to_owned()),
    }
}

/// A peer that answered.
#[derive(Debug, Clone)]
pub struct Echoed {
    /// The address that answered.
    pub peer: SocketAddr,
    /// For people: what was asked and answered ("C-ECHO", "TCP connect", "TLS handshake").
    pub what: String,
    /// From the connect to the answer.
    pub took: Duration,
}

/// Asks a peer whether it is there: C-ECHO for DICOM; TCP (and TLS) connect for MLLP, which has no question of its own.
/// # Errors
/// What was seen instead, with its class and a text for people.
pub async fn echo(to: &Url, tls: Option<ClientTls>, options: &SendOptions) -> Result<Echoed, (Outcome, Class, String)> {
    let begun = Instant::now();
    let failed = |outcome: Outcome| {
        let (class, what) = explain(&outcome);
        (outcome, class, what)
    };
    if to.protocol == Protocol::Mllp {
        let (stream, _) = dial(to, tls.as_ref(), begun + options.connect_timeout).await.map_err(failed)?;
        let what = if stream.is_tls() { "TLS handshake" } else { "TCP connect" }.to_owned();
        let echoed = Echoed { peer: stream.peer(), what, took: begun.elapsed() };
        stream::close(stream).await;
        return Ok(echoed);
    }
    let pairs = [(uid::VERIFICATION.to_owned(), uid::IMPLICIT_LE.to_owned())];
    let mut opened = open(to, tls.as_ref(), options, &pairs).await.map_err(failed)?;
    let (peer, answer) = (opened.stream.peer(), opened.echo(Instant::now() + options.answer_timeout).await);
    let took = begun.elapsed();
    match answer {
        Ok(status) => {
            opened.release().await;
            let what = format!("C-ECHO {status:04X}H");
            if status == 0 { Ok(Echoed { peer, what, took }) } else { Err((Outcome::Stored { status }, Class::Negative, what)) }
        }
        Err(outcome) => {
            opened.abort().await;
            Err(failed(outcome))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::dicom::walker::EXPLICIT_LITTLE;
    use crate::io::dicom_peer::{Act, Peer, Script};

    fn files(folder: &tempfile::TempDir, count: usize) -> Vec<PathBuf> {
        let file = |number: usize| {
            let path = folder.path().join(number.to_string());
            let head = FileHead {
                sop_class: "1.2.840.10008.5.1.4.1.1.2".into(),
                sop_instance: format!("1.2.{number}"),
                transfer_syntax: EXPLICIT_LITTLE.into(),
                dataset_at: 0,
            };
            std::fs::write(&path, [part10::write_head(&head, ("1.2.3", "TEST"), ""), vec![number as u8; 100_000]].concat()).unwrap();
            path
        };
        (0..count).map(file).collect()
    }

    async fn send(script: Script, count: usize, associations: u16) -> (Vec<FileResult>, Peer) {
        let folder = tempfile::tempdir().unwrap();
        let peer = Peer::start(script).await;
        let url: Url = format!("dicom://THEM@{}", peer.address).parse().unwrap();
        let options = SendOptions {
            connect_timeout: Duration::from_millis(300),
            associations: NonZeroU16::new(associations).unwrap(),
            ..SendOptions::default()
        };
        let mut told = 0;
        let results = send_dicom(files(&folder, count), &url, None, &options, |_| told += 1).await;
        assert_eq!((results.len(), told), (count, count));
        (results, peer)
    }

    #[tokio::test]
    async fn every_file_is_sent_whatever_the_number_of_associations_the_peer_takes() {
        let serial = Script { serial: true, ..Script::default() };
        let limited = Script { most: 2, ..Script::default() };
        for script in [Script::default(), serial, limited] {
            for associations in [1, 4] {
                let (results, peer) = send(script.clone(), 9, associations).await;
                assert!(results.iter().all(|result| result.class == Class::Done), "{results:?}");
                let heard = peer.heard.lock().unwrap();
                assert_eq!((heard.objects.len(), heard.aborts), (9, 0));
            }
        }
    }

    #[tokio::test]
    async fn one_file_that_fails_costs_no_other() {
        let script = Script { acts: [Act::Answer(0), Act::AbortWithin, Act::Answer(0xA700), Act::CloseAfter].into(), ..Script::default() };
        let (results, _peer) = send(script, 5, 1).await;
        let classes: Vec<Class> = results.iter().map(|result| result.class).collect();
        assert_eq!(classes, [Class::Done, Class::NoAnswer, Class::Negative, Class::NoAnswer, Class::Done]);
    }

    #[tokio::test]
    async fn a_peer_that_takes_no_association_is_not_asked_for_each_file() {
        let (results, _peer) = send(Script { reject: Some(Reject::CALLING_AE), ..Script::default() }, 50, 1).await;
        assert!(results.iter().all(|result| result.class == Class::Negative && result.what.contains("calling AE title not recognized")));
        let begun = Instant::now();
        let (results, _peer) = send(Script { mute: true, ..Script::default() }, 50, 4).await;
        assert!(results.iter().all(|result| result.class == Class::NoAnswer));
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}
