//! Readiness of the standby: what went to a destination lately is rehearsed with the endpoints that are not active, before they are needed.
//!
//! Rules
//! - *Seen* is what kinds of objects went to the destination in the last 30 days: calling AE title (where senders' own are passed on), SOP class,
//!   transfer syntax. It is remembered across restarts by the day, bounded by `SEEN_MAX`: the kind that was seen longest ago goes first.
//! - A *rehearsal* negotiates all of it with an endpoint and sends nothing. One is due soon after the start and after a change of the configuration,
//!   then each `rehearse`, sooner where something new was seen or the last one found something.
//! - A clear answer (a refused class, an AE title that is rejected, TLS that fails) is told at once; what may pass (no answer in time, no room now) only
//!   the second time in a row. An endpoint that is not eligible, or active, is not rehearsed: health and traffic say more.
//! - An HL7 endpoint has nothing to negotiate: its TLS is tried, where its probe does not do so.
//!
//! Errors: none; what is found is text for people, with names and UIDs, never content.

use super::Phase;
use crate::dicom::negotiate::is_ae_title;
use crate::dicom::uid;
use crate::keys::{Key, Keys};
use crate::limits::{REFUSALS_TOLD_MAX, REHEARSAL_SOON, SEEN_KEPT, SEEN_MAX, SEEN_WRITTEN_EVERY};
use crate::spool::UnixMillis;
use std::time::{Duration, Instant};

/// Bytes of what is remembered: a value of the spool's memory takes so much.
const REMEMBERED_BYTES_MAX: usize = 16 << 10;

/// The first rehearsal after the start or a change is due within this time, spread over it: first probes come first.
const FIRST_WITHIN: Duration = Duration::from_secs(15);

/// A kind of object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    /// The sender's AE title, where it is passed on; else empty.
    pub calling_ae: String,
    /// SOP class UID.
    pub sop_class: String,
    /// Transfer syntax UID.
    pub transfer_syntax: String,
    /// Modality, for people; may be empty.
    pub modality: String,
}

impl Kind {
    fn is(&self, calling_ae: &[u8], sop_class: &[u8], transfer_syntax: &[u8]) -> bool {
        self.sop_class.as_bytes() == sop_class && self.transfer_syntax.as_bytes() == transfer_syntax && self.calling_ae.as_bytes() == calling_ae
    }

    fn is_sound(&self) -> bool {
        let title = self.calling_ae.is_empty() || is_ae_title(&self.calling_ae);
        let short = |text: &str| text.len() <= 16 && text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        title && uid::is_well_formed(&self.sop_class) && uid::is_well_formed(&self.transfer_syntax) && short(&self.modality)
    }
}

/// What went to a destination.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// With the day it was seen last; the latest last.
    kinds: Vec<(Kind, u64)>,
    /// Something to be remembered has changed.
    changed: bool,
    written_at: Option<Instant>,
}

impl Seen {
    /// An object goes to the destination. `pass`: under its sender's AE title. Returns whether its kind is new.
    pub fn note(&mut self, keys: &Keys, pass: bool, wall: UnixMillis) -> bool {
        let value = |key| keys.get(key).unwrap_or_default();
        let calling_ae = if pass { value(Key::CallingAe) } else { b"" };
        let (sop_class, transfer_syntax) = (value(Key::SopClass), value(Key::TransferSyntax));
        let day = day(wall);
        let at = self.kinds.iter().rposition(|(kind, _)| kind.is(calling_ae, sop_class, transfer_syntax));
        match at {
            Some(at) if self.kinds[at].1 >= day => return false,
            Some(at) => {
                let (kind, _) = self.kinds.remove(at);
                self.kinds.push((kind, day));
            }
            None => {
                let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                let kind = Kind {
                    calling_ae: text(calling_ae),
                    sop_class: text(sop_class),
                    transfer_syntax: text(transfer_syntax),
                    modality: keys.text(Key::Modality).trim().to_owned(),
                };
                if !kind.is_sound() {
                    return false;
                }
                if self.kinds.len() >= SEEN_MAX {
                    self.kinds.remove(0);
                }
                self.kinds.push((kind, day));
            }
        }
        self.changed = true;
        at.is_none()
    }

    /// Nothing was seen so far.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// What was seen in the last 30 days.
    #[must_use]
    pub fn kinds(&self, wall: UnixMillis) -> Vec<Kind> {
        self.kinds.iter().filter(|(_, seen)| seen + SEEN_KEPT.as_secs() / 86_400 >= day(wall)).map(|(kind, _)| kind.clone()).collect()
    }

    /// What is to be remembered, if that is due.
    pub fn to_remember(&mut self, now: Instant, wall: UnixMillis) -> Option<Vec<u8>> {
        if !self.changed || self.next_write().is_some_and(|at| now < at) {
            return None;
        }
        (self.changed, self.written_at) = (false, Some(now));
        let mut lines: Vec<String> = Vec::new();
        let mut room = REMEMBERED_BYTES_MAX;
        for (kind, seen) in self.kinds.iter().rev().filter(|(_, seen)| seen + SEEN_KEPT.as_secs() / 86_400 >= day(wall)) {
            let line = format!("{seen}\t{}\t{}\t{}\t{}\n", kind.calling_ae, kind.sop_class, kind.transfer_syntax, kind.modality);
            if line.len() > room {
                break;
            }
            room -= line.len();
            lines.push(line);
        }
        Some(lines.into_iter().rev().collect::<String>().into_bytes())
    }

    /// When `to_remember` has something, if ever.
    #[must_use]
    pub fn next_write(&self) -> Option<Instant> {
        self.written_at.filter(|_| self.changed).map(|at| at + SEEN_WRITTEN_EVERY)
    }

    /// What an earlier run remembered. Lines that make no sense are passed over.
    pub fn recall(&mut self, remembered: &[u8]) {
        for line in String::from_utf8_lossy(remembered).lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            let [seen, calling_ae, sop_class, transfer_syntax, modality] = fields[..] else { continue };
            let Ok(seen) = seen.parse() else { continue };
            let own = |text: &str| text.to_owned();
            let kind =
                Kind { calling_ae: own(calling_ae), sop_class: own(sop_class), transfer_syntax: own(transfer_syntax), modality: own(modality) };
            if kind.is_sound() && self.kinds.len() < SEEN_MAX {
                self.kinds.push((kind, seen));
            }
        }
    }
}

fn day(wall: UnixMillis) -> u64 {
    wall / 86_400_000
}

/// Something an endpoint would refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Associations under this calling AE title.
    Title {
        /// As in `Kind`.
        calling_ae: String,
        /// The answer, and what to do.
        why: String,
    },
    /// Every object of the class.
    Class(Kind),
    /// Objects of the class in this transfer syntax.
    Syntax(Kind),
}

impl Refusal {
    fn text(&self) -> String {
        match self {
            Refusal::Title { calling_ae, why } if calling_ae.is_empty() => format!("associations ({why})"),
            Refusal::Title { calling_ae, why } => format!("associations of {calling_ae} ({why})"),
            Refusal::Class(kind) => class_name(kind),
            Refusal::Syntax(kind) => {
                let syntax = &kind.transfer_syntax;
                format!("{} in {}", class_name(kind), uid::name(syntax).map_or_else(|| syntax.clone(), |name| format!("{name}, {syntax}")))
            }
        }
    }
}

/// `MG (Digital Mammography X-Ray Image Storage - For Presentation)`, as far as that is known.
fn class_name(kind: &Kind) -> String {
    let name = uid::name(&kind.sop_class).unwrap_or(&kind.sop_class);
    if kind.modality.is_empty() { name.to_owned() } else { format!("{} ({name})", kind.modality) }
}

/// What an endpoint would refuse, for people.
fn told(refusals: &[Refusal]) -> String {
    let mut texts: Vec<String> = Vec::new();
    for text in refusals.iter().map(Refusal::text) {
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    let more = texts.len().saturating_sub(REFUSALS_TOLD_MAX);
    texts.truncate(REFUSALS_TOLD_MAX);
    let more = if more == 0 { String::new() } else { format!(", and {more} more") };
    format!("would refuse {}{more}", texts.join(", "))
}

/// Why a rehearsal came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stumble {
    /// How far it came.
    pub phase: Phase,
    /// What happened, for people.
    pub cause: String,
}

/// What a rehearsal found.
pub type Rehearsed = Result<Vec<Refusal>, Stumble>;

/// One endpoint.
#[derive(Debug, Clone)]
struct Row {
    next_at: Instant,
    out: bool,
    stumbles: u32,
    /// `None`: nothing was found out yet. Empty: ready.
    found: Option<String>,
}

/// The endpoints of a destination as to readiness.
#[derive(Debug, Clone, Default)]
pub struct Standbys {
    /// What went to the destination.
    pub seen: Seen,
    rows: Vec<Row>,
}

impl Standbys {
    /// Endpoints are new: nothing is known of them; each is rehearsed soon.
    pub fn reset(&mut self, endpoints: usize, random: &mut fastrand::Rng, now: Instant) {
        let mut row = || Row { next_at: now + FIRST_WITHIN.mul_f64(0.2 + 0.8 * random.f64()), out: false, stumbles: 0, found: None };
        self.rows = (0..endpoints).map(|_| row()).collect();
    }

    /// A kind that was not seen before: found out soon whether the standby takes it.
    pub fn hurry(&mut self, now: Instant) {
        for row in &mut self.rows {
            row.next_at = row.next_at.min(now + REHEARSAL_SOON / 2);
        }
    }

    /// Whether a rehearsal with an endpoint is due: the caller makes it now and reports with `ended`. `every`: its setting.
    pub fn due(&mut self, endpoint: usize, every: Duration, now: Instant) -> bool {
        let Some(row) = self.rows.get_mut(endpoint).filter(|row| !row.out && !every.is_zero()) else { return false };
        row.next_at = row.next_at.min(now + every);
        row.out = row.next_at <= now;
        row.out
    }

    /// When one is due.
    #[must_use]
    pub fn next_at(&self, endpoint: usize) -> Option<Instant> {
        self.rows.get(endpoint).filter(|row| !row.out).map(|row| row.next_at)
    }

    /// A rehearsal ended.
    pub fn ended(&mut self, endpoint: usize, found: &Rehearsed, every: Duration, random: &mut fastrand::Rng, now: Instant) {
        let Some(row) = self.rows.get_mut(endpoint) else { return };
        row.out = false;
        match found {
            Ok(refusals) => {
                row.stumbles = 0;
                row.found = Some(if refusals.is_empty() { String::new() } else { told(refusals) });
            }
            Err(Stumble { phase, cause }) => {
                row.stumbles += 1;
                if *phase == Phase::Tls || row.stumbles > 1 {
                    row.found = Some(format!("a rehearsal failed in phase {phase}: {cause}"));
                }
            }
        }
        let good = row.stumbles == 0 && row.found.as_deref() == Some("");
        let wait = if good { every } else { every.min(REHEARSAL_SOON) };
        row.next_at = now + wait.mul_f64(0.9 + 0.2 * random.f64());
    }

    /// An endpoint is active now: what a rehearsal found says less than its traffic.
    pub fn active(&mut self, endpoint: usize) {
        if let Some(row) = self.rows.get_mut(endpoint) {
            (row.found, row.stumbles) = (None, 0);
        }
    }

    /// What an endpoint would refuse; `None`: nothing, or it is not known.
    #[must_use]
    pub fn obstacle(&self, endpoint: usize) -> Option<&str> {
        self.rows.get(endpoint)?.found.as_deref().filter(|found| !found.is_empty())
    }

    /// Whether an endpoint would take what was seen; `None`: not known.
    #[must_use]
    pub fn is_ready(&self, endpoint: usize) -> Option<bool> {
        self.rows.get(endpoint)?.found.as_deref().map(str::is_empty)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a start of the hand-made clock")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CT: &str = "1.2.840.10008.5.1.4.1.1.2";
    const MG: &str = "1.2.840.10008.5.1.4.1.1.1.2";
    const JPEG: &str = "1.2.840.10008.1.2.4.70";
    const DAY: u64 = 86_400_000;

    fn keys(ae: &str, class: &str, syntax: &str, modality: &str) -> Keys {
        let mut keys = Keys::new();
        for (key, value) in [(Key::CallingAe, ae), (Key::SopClass, class), (Key::TransferSyntax, syntax), (Key::Modality, modality)] {
            keys.set(key, value.as_bytes());
        }
        keys
    }

    fn kind(class: &str, syntax: &str, modality: &str) -> Kind {
        Kind { calling_ae: String::new(), sop_class: class.into(), transfer_syntax: syntax.into(), modality: modality.into() }
    }

    #[test]
    fn kinds_are_seen_once_and_forgotten_after_30_days() {
        let mut seen = Seen::default();
        assert!(seen.note(&keys("CT1", CT, uid::EXPLICIT_LE, "CT"), false, 0));
        assert!(!seen.note(&keys("CT2", CT, uid::EXPLICIT_LE, "CT"), false, 0), "the sender's title counts only where it is passed on");
        assert!(seen.note(&keys("CT2", CT, uid::EXPLICIT_LE, "CT"), true, 0));
        assert!(seen.note(&keys("CT1", CT, JPEG, "CT"), false, 20 * DAY));
        assert_eq!(seen.kinds(30 * DAY).len(), 3);
        assert_eq!(seen.kinds(31 * DAY), [kind(CT, JPEG, "CT")]);
        assert!(!seen.note(&keys("", "not a uid", JPEG, "CT"), false, 0) && !seen.note(&keys("TAB\tTAB", CT, JPEG, "CT"), true, 0));
    }

    #[test]
    fn what_was_seen_outlives_the_process_and_is_written_seldom() {
        let (mut seen, now) = (Seen::default(), Instant::now());
        assert_eq!(seen.to_remember(now, 0), None);
        seen.note(&keys("CT 1", CT, uid::EXPLICIT_LE, "CT"), true, 5 * DAY);
        let first = seen.to_remember(now, 5 * DAY).unwrap();
        seen.note(&keys("MG1", MG, JPEG, "MG"), true, 6 * DAY);
        assert_eq!(seen.to_remember(now + SEEN_WRITTEN_EVERY / 2, 6 * DAY), None);
        assert_eq!(seen.next_write(), Some(now + SEEN_WRITTEN_EVERY));
        let second = seen.to_remember(now + SEEN_WRITTEN_EVERY, 6 * DAY).unwrap();
        assert!(first.len() < second.len() && seen.next_write().is_none());
        let mut again = Seen::default();
        again.recall(&second);
        again.recall(b"nonsense\n9\tA\tB\n\xFF\t\t\t\t\n");
        assert_eq!(again.kinds(6 * DAY), seen.kinds(6 * DAY));
        assert!(!again.note(&keys("MG1", MG, JPEG, "MG"), true, 6 * DAY));
        assert!(again.to_remember(now, 6 * DAY).is_none(), "nothing new");
    }

    proptest! {
        /// However much is seen, what is remembered fits, and reads back as what was seen last.
        #[test]
        fn what_is_remembered_is_bounded(count in 1usize..400, length in 1usize..64) {
            let mut seen = Seen::default();
            for n in 0..count {
                let class = format!("1.{}{n}", "2".repeat(length.min(58)));
                seen.note(&keys(&format!("SENDER_{n:09}"), &class, &class, "MG"), true, DAY + n as u64 / 8 * DAY / 100);
            }
            let value = seen.to_remember(Instant::now(), DAY).unwrap();
            prop_assert!(value.len() <= REMEMBERED_BYTES_MAX);
            let mut again = Seen::default();
            again.recall(&value);
            let (all, read) = (seen.kinds(DAY), again.kinds(DAY));
            prop_assert!(all.len() <= SEEN_MAX && all.ends_with(&read) && read.len() >= all.len().min(70));
        }
    }

    #[test]
    fn refusals_are_told_as_people_say_it() {
        let mut refusals = vec![Refusal::Class(kind(MG, JPEG, "MG")), Refusal::Class(kind(MG, uid::EXPLICIT_LE, "MG"))];
        assert_eq!(told(&refusals), "would refuse MG (Digital Mammography X-Ray Image Storage - For Presentation)");
        refusals.push(Refusal::Syntax(kind(CT, JPEG, "CT")));
        refusals.push(Refusal::Title { calling_ae: "CT1".into(), why: "calling AE title not recognized".into() });
        let text = told(&refusals);
        assert!(text.contains("CT (CT Image Storage) in JPEG Lossless, First-Order Prediction, 1.2.840.10008.1.2.4.70"), "{text}");
        assert!(text.ends_with("associations of CT1 (calling AE title not recognized)"), "{text}");
        refusals.extend((0..9).map(|n| Refusal::Class(kind(&format!("1.2.{n}"), JPEG, ""))));
        assert!(told(&refusals).ends_with("1.2.0, and 8 more"), "{}", told(&refusals));
    }

    struct Bench {
        standbys: Standbys,
        random: fastrand::Rng,
        now: Instant,
    }

    const EVERY: Duration = Duration::from_secs(600);

    impl Bench {
        fn new() -> Self {
            let mut bench = Self { standbys: Standbys::default(), random: fastrand::Rng::with_seed(3), now: Instant::now() };
            bench.standbys.reset(2, &mut bench.random, bench.now);
            bench
        }

        /// Waits until a rehearsal with the second endpoint is due, and ends it so.
        fn rehearse(&mut self, found: &Rehearsed) -> Duration {
            let before = self.now;
            self.now = self.now.max(self.standbys.next_at(1).unwrap());
            assert!(self.standbys.due(1, EVERY, self.now) && !self.standbys.due(1, EVERY, self.now), "one at a time");
            self.standbys.ended(1, found, EVERY, &mut self.random, self.now);
            self.now - before
        }
    }

    #[test]
    fn a_standby_is_rehearsed_soon_then_seldom_and_sooner_while_it_is_not_ready() {
        let mut b = Bench::new();
        assert_eq!(b.standbys.is_ready(1), None);
        assert!(b.rehearse(&Ok(vec![])) <= FIRST_WITHIN);
        assert_eq!((b.standbys.is_ready(1), b.standbys.obstacle(1)), (Some(true), None));
        let wait = b.rehearse(&Ok(vec![Refusal::Class(kind(MG, JPEG, "MG"))]));
        assert!((540.0..=660.0).contains(&wait.as_secs_f64()), "{wait:?}");
        assert_eq!(b.standbys.is_ready(1), Some(false));
        assert!(b.standbys.obstacle(1).unwrap().starts_with("would refuse MG"));
        assert!(b.rehearse(&Ok(vec![])) <= Duration::from_secs(66));
        assert_eq!(b.standbys.is_ready(1), Some(true));
        b.standbys.hurry(b.now);
        assert!(b.rehearse(&Ok(vec![])) <= REHEARSAL_SOON);
        b.standbys.active(1);
        assert_eq!(b.standbys.is_ready(1), None);
        assert!(!b.standbys.due(0, Duration::ZERO, b.now + EVERY), "switched off");
    }

    #[test]
    fn what_may_pass_is_told_the_second_time_and_what_cannot_at_once() {
        let stumble = |phase| Err(Stumble { phase, cause: "no answer in time".into() });
        let mut b = Bench::new();
        b.rehearse(&Ok(vec![]));
        b.rehearse(&stumble(Phase::Associate));
        assert_eq!(b.standbys.is_ready(1), Some(true));
        assert!(b.rehearse(&stumble(Phase::Associate)) <= Duration::from_secs(66));
        assert_eq!(b.standbys.obstacle(1), Some("a rehearsal failed in phase associate: no answer in time"));
        let mut b = Bench::new();
        b.rehearse(&stumble(Phase::Tls));
        assert_eq!(b.standbys.is_ready(1), Some(false));
        b.rehearse(&Ok(vec![]));
        assert_eq!(b.standbys.is_ready(1), Some(true));
    }
}
