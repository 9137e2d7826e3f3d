//! The log: events turned into lines on stderr, text on a terminal, JSON (one object per line) elsewhere.
//! Rules: one line when an outage, alarm or flood begins and one when it ends, with how long and how many; nothing per message above `debug`; names,
//! counts and phases only, never patient data. `EVERPOST_LOG` sets the level (`info`), in the syntax of tracing's env filter.
//! Errors: none; a line that cannot be written is lost, the event still reaches metrics and status.

use crate::outages::OutageLine;
use everpost_client::event::Event;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};
use tracing::Level;

/// How long nothing more of a kind must come before its spell (refusals, dead letters, notices) counts as ended.
const QUIET: Duration = Duration::from_secs(60);

/// Lines of one listener's notices per spell; the rest is counted and told at the end. A hostile peer must not fill the log.
const NOTICES_MAX: u64 = 5;

/// The spell of an endpoint that goes up and down.
const HEALTH_CHANGES: &str = "changes of health of endpoint";

/// Spells and standing conditions remembered; beyond it the oldest quiet ones are told and forgotten early.
const REMEMBERED_MAX: usize = 4096;

/// Lines on their way to stderr. A reader of the log that stalls must not stall the gateway: beyond this, lines are dropped and counted.
const LINES_AHEAD: usize = 1024;

/// Time the last lines have to get out when the process ends.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);

/// Sets up the process's log. Called once, by `run`; what is returned writes the last lines out when it is dropped.
#[must_use]
pub fn start() -> Flush {
    let (outlet, flush) = Outlet::open();
    let filter = tracing_subscriber::EnvFilter::try_from_env("EVERPOST_LOG").unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let to = tracing_subscriber::fmt().with_env_filter(filter).with_writer(move || outlet.clone()).with_target(false);
    let done = if io::stderr().is_terminal() { to.try_init() } else { to.json().flatten_event(true).with_ansi(false).try_init() };
    drop(done); // a second start (tests) keeps the first log
    std::panic::set_hook(Box::new(|info| {
        // The payload may quote content; the place is enough to find the fault.
        let place = info.location().map_or_else(String::new, ToString::to_string);
        let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
        tracing::error!(place, thread, "a part of the gateway failed (panic); its work is tried again, please report the place");
    }));
    flush
}

/// What goes to the thread that writes to stderr.
enum Written {
    Line(Vec<u8>),
    /// Everything before it is out.
    Flushed(mpsc::Sender<()>),
}

/// Where formatted lines go: a bounded queue to a thread of its own.
#[derive(Clone)]
struct Outlet {
    lines: mpsc::SyncSender<Written>,
    dropped: Arc<AtomicU64>,
}

/// Writes the last lines out when dropped.
#[derive(Debug)]
pub struct Flush(mpsc::SyncSender<Written>);

impl Outlet {
    fn open() -> (Self, Flush) {
        let (lines, queue) = mpsc::sync_channel(LINES_AHEAD);
        let dropped = Arc::new(AtomicU64::new(0));
        let lost = dropped.clone();
        let written = std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            while let Ok(written) = queue.recv() {
                let mut out = io::stderr().lock();
                // A log that cannot be written is no reason to stop; metrics and status still tell.
                let _ = match written {
                    Written::Line(line) => out.write_all(&line),
                    Written::Flushed(done) => done.send(()).map_err(io::Error::other),
                };
                match lost.swap(0, Ordering::Relaxed) {
                    0 => {}
                    count => {
                        let _ =
                            writeln!(out, "{{\"level\":\"WARN\",\"message\":\"{count} log lines were dropped: the reader of the log is too slow\"}}");
                    }
                }
            }
        });
        if let Err(e) = written {
            eprintln!("everpost: no thread for the log: {e}");
        }
        let flush = Flush(lines.clone());
        (Self { lines, dropped }, flush)
    }
}

impl Write for Outlet {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.lines.try_send(Written::Line(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        let (done, flushed) = mpsc::channel();
        if self.0.try_send(Written::Flushed(done)).is_ok() {
            let _ = flushed.recv_timeout(FLUSH_WITHIN); // the process ends anyway
        }
    }
}

/// One line to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    level: Level,
    text: String,
    /// Listener, destination or whatever the line is about.
    about: String,
    endpoint: Option<String>,
    envelope: Option<u64>,
    peer: Option<String>,
}

impl Line {
    fn new(level: Level, about: impl Into<String>, text: impl Into<String>) -> Self {
        Self { level, text: text.into(), about: about.into(), endpoint: None, envelope: None, peer: None }
    }

    fn endpoint(mut self, name: &str) -> Self {
        self.endpoint = Some(name.to_owned());
        self
    }

    fn envelope(mut self, id: u64) -> Self {
        self.envelope = Some(id);
        self
    }

    fn write(&self) {
        let Line { level, text, about, endpoint, envelope, peer } = self;
        let (endpoint, peer) = (endpoint.as_deref(), peer.as_deref());
        match *level {
            Level::ERROR => tracing::error!(about, endpoint, envelope, peer, "{text}"),
            Level::WARN => tracing::warn!(about, endpoint, envelope, peer, "{text}"),
            Level::INFO => tracing::info!(about, endpoint, envelope, peer, "{text}"),
            _ => tracing::debug!(about, endpoint, envelope, peer, "{text}"),
        }
    }
}

/// Reads events and writes lines.
#[derive(Debug, Default)]
pub struct Log(Mutex<Lines>);

impl Log {
    /// One event at `now`.
    pub fn read(&self, event: &Event, now: Instant) {
        if let Event::Accepted { .. } | Event::Connections { .. } | Event::Garbage { .. } = event {
            return; // per message and per connection: metrics count them
        }
        if matches!(event, Event::Attempt { .. } | Event::Delivered { .. } | Event::Replayed { .. }) && !tracing::enabled!(Level::DEBUG) {
            return;
        }
        let line = self.lines(|lines| lines.read(event, now));
        if let Some(line) = line {
            line.write();
        }
    }

    /// About once a second: tells which spells ended.
    pub fn tick(&self, now: Instant) {
        for line in self.lines(|lines| lines.tick(now)) {
            line.write();
        }
    }

    fn lines<T>(&self, f: impl FnOnce(&mut Lines) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A run of the same thing happening.
#[derive(Debug, Clone)]
struct Spell {
    since: Instant,
    last: Instant,
    count: u64,
}

/// What decides which lines are written. Pure: events and time in, lines out.
#[derive(Debug, Default)]
struct Lines {
    /// Health last told of an endpoint (destination, endpoint): up, since.
    health: HashMap<(String, String), (bool, Instant)>,
    /// Standing alarms.
    alarms: HashMap<(String, String), Instant>,
    /// Refusals, dead letters, notices: (about, what).
    spells: HashMap<(String, String), Spell>,
    /// Intake closed since.
    closed: Option<Instant>,
}

impl Lines {
    fn read(&mut self, event: &Event, now: Instant) -> Option<Line> {
        match event {
            Event::Accepted { .. } | Event::Connections { .. } | Event::Garbage { .. } => None,
            Event::Refused { listener, reason } => {
                let first = self.spell(listener, &format!("messages refused ({})", reason.label()), now) == 1;
                first.then(|| Line::new(Level::WARN, &**listener, format!("messages are being refused: {}", reason.label())))
            }
            Event::ListenerNotice { listener, peer, what } => {
                let count = self.spell(listener, "notices", now);
                (count <= NOTICES_MAX).then(|| Line { peer: Some(peer.clone()), ..Line::new(Level::WARN, &**listener, what.clone()) })
            }
            Event::EndpointNotice { destination, endpoint, what } => Some(Line::new(Level::INFO, &**destination, what.clone()).endpoint(endpoint)),
            Event::DeadLetter { destination, envelope } => {
                let first = self.spell(destination, "dead letters", now) == 1;
                let text = "an envelope became a dead letter; see `everpost queue list --state dead-letter`";
                first.then(|| Line::new(Level::ERROR, &**destination, text).envelope(envelope.0))
            }
            Event::Held { destination, envelope } => {
                let first = self.spell(destination, "held envelopes", now) == 1;
                first.then(|| {
                    Line::new(Level::WARN, &**destination, "an envelope is held; see `everpost queue list --state held`").envelope(envelope.0)
                })
            }
            Event::Health { destination, endpoint, up, state, reason } => self.health(destination, endpoint, *up, state, reason, now),
            Event::Failover { destination, from, to, reason } => {
                let name = |n: &Option<std::sync::Arc<str>>| n.as_deref().unwrap_or("none").to_owned();
                Some(Line::new(Level::WARN, &**destination, format!("active endpoint: {} -> {} ({reason})", name(from), name(to))))
            }
            Event::Shift { destination, endpoint, news, reason } => {
                Some(Line::new(Level::WARN, &**destination, format!("shift {}: {reason}", news.name())).endpoint(endpoint))
            }
            Event::Admin { destination, endpoint, admin, reason } => {
                Some(Line::new(Level::WARN, &**destination, format!("endpoint is {admin}: {reason}")).endpoint(endpoint))
            }
            Event::Outage { destination, outage, over } => {
                let level = if *over { Level::INFO } else { Level::WARN };
                let text = if *over { OutageLine::new(outage, 0).summary() } else { OutageLine::new(outage, outage.detected).told() };
                Some(Line::new(level, &**destination, text).endpoint(&outage.endpoint))
            }
            Event::Drill { destination, outcome, what, .. } => {
                let level = if matches!(outcome, None | Some("passed")) { Level::INFO } else { Level::WARN };
                Some(Line::new(level, &**destination, format!("drill {what}")))
            }
            Event::Site { site, what } => Some(Line::new(Level::WARN, format!("site {site}"), what.clone())),
            Event::ReplayBegun { destination, what, envelopes, gone } => {
                let gone = if *gone == 0 { String::new() } else { format!("; of {gone} more history no longer has the content") };
                Some(Line::new(Level::WARN, &**destination, format!("{what}: {envelopes} envelopes{gone}")))
            }
            Event::Alarm { subject, what, raised } => self.alarm(subject, what, *raised, now),
            Event::Incident { subject, what } => Some(Line::new(Level::ERROR, subject.clone(), what.clone())),
            Event::Answer { name, from, to } => {
                let count = self.spell(name, "another answer of DNS", now);
                let list = |records: &[String]| if records.is_empty() { "nothing".to_owned() } else { records.join(", ") };
                (count <= NOTICES_MAX).then(|| Line::new(Level::INFO, &**name, format!("stands for {} (before: {})", list(to), list(from))))
            }
            Event::LookupFailed { name, why } => Some(Line::new(Level::WARN, &**name, format!("cannot be looked up: {why}"))),
            Event::Intake { open, reason } => self.intake(*open, reason, now),
            Event::Damage { place, what } => Some(Line::new(Level::ERROR, place.clone(), format!("damage in the spool was set aside: {what}"))),
            other => Some(Line::new(Level::DEBUG, "event", format!("{other:?}"))), // attempts and deliveries: names, ids, phases, times
        }
    }

    fn health(&mut self, destination: &str, endpoint: &str, up: bool, state: &str, reason: &str, now: Instant) -> Option<Line> {
        if self.health.len() >= REMEMBERED_MAX {
            // Members of pools come and go; one that is told twice does less harm than memory that grows.
            self.health.clear();
        }
        let before = self.health.insert((destination.to_owned(), endpoint.to_owned()), (up, now));
        let mut text = format!("endpoint is {state}");
        if !reason.is_empty() {
            let _ = write!(text, ": {reason}");
        }
        match before {
            Some((was, since)) if was == up => {
                self.health.insert((destination.to_owned(), endpoint.to_owned()), (was, since));
                None
            }
            // One that goes up and down: the rest is counted, and told when it is quiet.
            Some(_) if self.spell(destination, &format!("{HEALTH_CHANGES} {endpoint}"), now) > NOTICES_MAX => None,
            Some((false, since)) => {
                let _ = write!(text, "; it was away for {}", span(now.saturating_duration_since(since)));
                Some(Line::new(Level::INFO, destination, text).endpoint(endpoint))
            }
            _ if up => Some(Line::new(Level::INFO, destination, text).endpoint(endpoint)),
            _ => Some(Line::new(Level::WARN, destination, text).endpoint(endpoint)),
        }
    }

    fn alarm(&mut self, subject: &str, what: &str, raised: bool, now: Instant) -> Option<Line> {
        let key = (subject.to_owned(), what.to_owned());
        if raised {
            if self.alarms.contains_key(&key) {
                return None;
            }
            if self.alarms.len() < REMEMBERED_MAX {
                self.alarms.insert(key, now);
            }
            return Some(Line::new(Level::ERROR, subject, format!("alarm: {what}")));
        }
        let since = self.alarms.remove(&key).map(|since| format!(" after {}", span(now.saturating_duration_since(since)))).unwrap_or_default();
        Some(Line::new(Level::INFO, subject, format!("alarm ended{since}: {what}")))
    }

    fn intake(&mut self, open: bool, reason: &str, now: Instant) -> Option<Line> {
        match (open, self.closed) {
            (false, None) => {
                self.closed = Some(now);
                Some(Line::new(Level::ERROR, "spool", format!("intake is closed: {reason}; delivery goes on, intake resumes by itself")))
            }
            (true, Some(since)) => {
                self.closed = None;
                Some(Line::new(Level::INFO, "spool", format!("intake is open again after {}", span(now.saturating_duration_since(since)))))
            }
            _ => None,
        }
    }

    /// Counts one more; the returned count is 1 at the start of a spell.
    fn spell(&mut self, about: &str, what: &str, now: Instant) -> u64 {
        if self.spells.len() >= REMEMBERED_MAX {
            self.spells.retain(|_, spell| now.saturating_duration_since(spell.last) < QUIET);
        }
        let spell = self.spells.entry((about.to_owned(), what.to_owned())).or_insert(Spell { since: now, last: now, count: 0 });
        spell.last = now;
        spell.count += 1;
        spell.count
    }

    fn tick(&mut self, now: Instant) -> Vec<Line> {
        let mut told = Vec::new();
        self.spells.retain(|(about, what), spell| {
            let goes_on = now.saturating_duration_since(spell.last) < QUIET;
            // Every line of these was written.
            let told_all = if what.starts_with(HEALTH_CHANGES) { NOTICES_MAX } else { 1 };
            if !goes_on && spell.count > told_all {
                let over = span(spell.last.saturating_duration_since(spell.since));
                told.push(Line::new(Level::INFO, about.clone(), format!("{what}: {} within {over}, none for a minute now", spell.count)));
            }
            goes_on
        });
        told
    }
}

/// A span of time for people: `850 ms`, `42 s`, `17 min`, `3 h 12 min`, `2 d 4 h`.
#[must_use]
pub fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{} ms", time.as_millis()),
        1..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use everpost_client::event::Refusal;
    use everpost_client::ids::EnvelopeId;

    fn health(up: bool) -> Event {
        let (state, reason) = if up { ("up", String::new()) } else { ("down", "connect refused".to_owned()) };
        Event::Health { destination: "pacs".into(), endpoint: "primary".into(), up, state, reason }
    }

    #[test]
    fn an_outage_has_one_start_and_one_end_line() {
        let (mut lines, start) = (Lines::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        assert!(lines.read(&health(false), at(0)).unwrap().text.contains("connect refused"));
        for s in 1..100 {
            assert_eq!(lines.read(&health(false), at(s)), None, "second {s}");
        }
        assert_eq!(lines.read(&health(true), at(300)).unwrap().text, "endpoint is up; it was away for 5 min");
        assert_eq!(lines.read(&health(true), at(301)), None);
    }

    #[test]
    fn an_endpoint_that_goes_up_and_down_is_told_a_few_times_and_then_counted() {
        let (mut lines, start) = (Lines::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        let told = (0..200).filter(|n| lines.read(&health(n % 2 == 1), at(3 * n)).is_some()).count();
        assert_eq!(told as u64, 1 + NOTICES_MAX);
        let last = lines.tick(at(700));
        assert_eq!(last.len(), 1);
        assert!(last[0].text.contains("endpoint primary: 199 within"), "{}", last[0].text);
        // Once down and up again is two lines, and nothing more.
        assert!(lines.read(&health(false), at(800)).is_some() && lines.read(&health(true), at(810)).is_some());
        assert_eq!(lines.tick(at(1_000)), []);
    }

    #[test]
    fn an_alarm_is_told_once_until_it_ends() {
        let (mut lines, now) = (Lines::default(), Instant::now());
        let alarm = |raised| Event::Alarm { subject: "ris".into(), what: "rejects for 1 h".into(), raised };
        assert_eq!(lines.read(&alarm(true), now).unwrap().level, Level::ERROR);
        assert_eq!(lines.read(&alarm(true), now), None);
        assert!(lines.read(&alarm(false), now + Duration::from_secs(61)).unwrap().text.contains("after 61 s"));
        assert!(lines.read(&alarm(true), now).is_some());
    }

    #[test]
    fn ten_thousand_refusals_are_two_lines() {
        let (mut lines, now) = (Lines::default(), Instant::now());
        let refused = Event::Refused { listener: "ris-in".into(), reason: Refusal::Reserve };
        let written = (0..10_000).filter(|_| lines.read(&refused, now).is_some()).count();
        assert_eq!(written, 1);
        assert_eq!(lines.tick(now + QUIET / 2), vec![]);
        let end = lines.tick(now + QUIET);
        assert_eq!(end.len(), 1);
        assert!(end[0].text.contains("10000"), "{:?}", end[0]);
        assert_eq!(lines.tick(now + QUIET), vec![]);
    }

    #[test]
    fn a_flood_of_notices_is_cut_and_counted() {
        let (mut lines, now) = (Lines::default(), Instant::now());
        let notice = |n: u32| Event::ListenerNotice { listener: "ct".into(), peer: format!("10.0.0.{n}"), what: "garbage".into() };
        let written = (0..100).filter(|n| lines.read(&notice(*n), now).is_some()).count();
        assert_eq!(written as u64, NOTICES_MAX);
        assert!(lines.tick(now + QUIET)[0].text.contains("100"));
    }

    #[test]
    fn the_first_dead_letter_names_its_envelope() {
        let mut lines = Lines::default();
        let event = Event::DeadLetter { destination: "pacs".into(), envelope: EnvelopeId(17) };
        assert_eq!(lines.read(&event, Instant::now()).unwrap().envelope, Some(17));
    }

    #[test]
    fn spans_read_well() {
        for (seconds, text) in [(5, "5 s"), (600, "10 min"), (7_260, "2 h 1 min"), (180_000, "2 d 2 h")] {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
        assert_eq!(span(Duration::from_millis(850)), "850 ms");
    }
}
