//! What is observed of one endpoint, from traffic and from probes.
//!
//! ```text
//!        bad probe, failed attempt          fall bad probes in a row, or the destination left it
//!   Up ----------------------------> Suspect -----------------------------------> Down
//!    ^ <----------------------------    |                                         |  ^
//!    |    answer, or good probe while   |                              good probe |  | bad probe
//!    |    no traffic is failing         |                                         v  |
//!    +----------------------------------+------ answer, or rise good probes --- Probing
//!                                               that prove enough
//! ```
//! Rules: traffic weighs more than probes. A bad probe does not count against an endpoint that answered traffic within the last interval, and a
//! good probe neither hides failing traffic nor proves more than it reaches: after a failure in the answer phase a TCP connect is no proof of
//! life (a frozen process still accepts), so the endpoint stays `Probing` until a probe of the application or real traffic says otherwise.
//! A probe that stores (`dicom-store`) does so seldom and echoes in between: a store that failed stands until the next one, or until traffic is
//! answered. What only looks at something beside the endpoint (`http`) proves nothing of the way that messages go.
//! Slow is not dead: how long answers take is watched apart (`pace`), for messages and for probes, and changes no state here; what follows from it is
//! the destination's affair. Probes are spread by a tenth of their interval. The first one is due at once.
//! Errors: none.

use super::pace::{Pace, Slow};
use crate::config::{HealthSettings, OnSlow, Probe};
use crate::delivery::Phase;
use std::time::{Duration, Instant};

/// Observed state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Trusted.
    Up,
    /// Trusted still, with failures in a row.
    Suspect {
        /// How many.
        failures: u32,
    },
    /// Not trusted.
    Down,
    /// Not trusted yet, with good probes in a row.
    Probing {
        /// How many.
        good: u32,
    },
}

impl State {
    /// The name used in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            State::Up => "up",
            State::Suspect { .. } => "suspect",
            State::Down => "down",
            State::Probing { .. } => "probing",
        }
    }
}

/// What it takes to trust an endpoint again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proof {
    /// Good probes that reach at least this phase: the one in which it failed.
    Reaching(Phase),
    /// A message taken. It answers, and refused messages all the same, so no probe can tell.
    Traffic,
}

/// The health of one endpoint.
#[derive(Debug, Clone)]
pub struct Health {
    settings: HealthSettings,
    state: State,
    reason: String,
    proof: Proof,
    traffic_failing: bool,
    answered_at: Option<Instant>,
    good_since: Option<Instant>,
    probe_at: Instant,
    probe_out: bool,
    /// The probe that stores.
    store: Store,
    /// How fast messages are answered.
    messages: Pace,
    /// How fast probes are.
    probes: Pace,
}

/// Answers to what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    /// Messages.
    Messages,
    /// Probes.
    Probes,
}

/// When an object was stored to see whether it is taken, and what came of it.
#[derive(Debug, Clone, Default)]
struct Store {
    /// Not before; none yet: now.
    next_at: Option<Instant>,
    /// The probe that is out stores.
    out: bool,
    /// The last one failed.
    failed: Option<(Phase, String)>,
}

impl Health {
    /// Trusted until something is seen.
    #[must_use]
    pub fn new(settings: HealthSettings, now: Instant) -> Self {
        Self {
            settings,
            state: State::Up,
            reason: "nothing seen yet".to_owned(),
            proof: Proof::Reaching(Phase::Resolve),
            traffic_failing: false,
            answered_at: None,
            good_since: None,
            probe_at: now,
            probe_out: false,
            store: Store::default(),
            messages: Pace::default(),
            probes: Pace::default(),
        }
    }

    /// Takes new settings; what was observed stays. A probe that is out is forgotten: the next one is due at once.
    pub fn reconfigure(&mut self, settings: HealthSettings, now: Instant) {
        self.probe_at = if self.probe_out { now } else { self.probe_at.min(now + settings.interval) };
        self.probe_out = false;
        if self.store.out {
            // It may have been stored: the next one keeps its distance.
            self.store = Store { out: false, next_at: self.next_store(now), failed: self.store.failed.take() };
        }
        if !matches!(settings.probe, Probe::DicomStore { .. }) {
            self.store.failed = None;
        }
        if settings.probe != self.settings.probe {
            // Another question takes another time.
            self.probes = Pace::default();
        }
        self.settings = settings;
    }

    /// Observed state.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Why, for people.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Trusted with traffic.
    #[must_use]
    pub fn eligible(&self) -> bool {
        matches!(self.state, State::Up | State::Suspect { .. })
    }

    /// Good without a break since then, by probes.
    #[must_use]
    pub fn good_since(&self) -> Option<Instant> {
        self.good_since
    }

    /// Probes are good and can prove no more: only an envelope can.
    #[must_use]
    pub fn wants_canary(&self) -> bool {
        matches!(self.state, State::Probing { good } if good >= u32::from(self.settings.rise)) && !self.probes_suffice()
    }

    /// Whether a good probe proves enough to trust it again.
    #[must_use]
    pub fn probes_suffice(&self) -> bool {
        match self.proof {
            Proof::Reaching(phase) => reach(&self.settings.probe) >= phase,
            Proof::Traffic => false,
        }
    }

    /// What it takes to trust it again.
    #[must_use]
    pub fn proof(&self) -> Proof {
        self.proof
    }

    /// It answered a message that was sent after `since`, within the last interval.
    #[must_use]
    pub fn answered_since(&self, since: Instant, now: Instant) -> bool {
        self.answered_at.is_some_and(|at| at > since) && self.answered_lately(now)
    }

    fn answered_lately(&self, now: Instant) -> bool {
        self.answered_at.is_some_and(|at| now.saturating_duration_since(at) <= self.settings.interval)
    }

    /// It answered traffic. Returns whether its state changed.
    pub fn answered(&mut self, now: Instant) -> bool {
        self.answered_at = Some(now);
        self.traffic_failing = false;
        self.store.failed = None;
        self.proof = Proof::Reaching(Phase::Resolve);
        if self.good_since.is_none() {
            self.good_since = Some(now);
        }
        let changed = self.state != State::Up;
        if changed || self.reason != ANSWERS {
            ANSWERS.clone_into(&mut self.reason);
        }
        self.state = State::Up;
        changed
    }

    /// An attempt failed without an answer, and the destination stays for now. Returns whether its state changed.
    pub fn traffic_failed(&mut self, why: &str) -> bool {
        self.traffic_failing = true;
        match self.state {
            State::Up => self.to(State::Suspect { failures: 1 }, format!("an attempt failed: {why}")),
            State::Suspect { failures } => self.to(State::Suspect { failures: failures + 1 }, format!("attempts failed: {why}")),
            State::Down | State::Probing { .. } => false,
        }
    }

    /// The destination leaves it, or traffic failed again: down until proven. Returns whether its state changed.
    pub fn condemn(&mut self, proof: Proof, why: String, now: Instant) -> bool {
        // A second failure in an early phase does not make the first one, in a late phase, any less of a reason.
        self.proof = if self.eligible() { proof } else { self.proof.max(proof) };
        self.traffic_failing = false;
        self.answered_at = None;
        self.good_since = None;
        self.probe_at = self.probe_at.min(now + self.settings.interval.min(PROBE_SOON));
        self.to(State::Down, why)
    }

    // ---- slow ----

    /// An answer took so long. Returns whether it became slow, or ceased to be.
    pub fn took(&mut self, of: Answers, took: Duration, now: Instant) -> bool {
        let before = self.slow().is_some();
        let pace = match of {
            Answers::Messages => &mut self.messages,
            Answers::Probes => &mut self.probes,
        };
        pace.took(took, self.settings.slow_after, now);
        self.slow().is_some() != before
    }

    /// Whether it answers slowly, and how.
    #[must_use]
    pub fn slow(&self) -> Option<(Answers, Slow)> {
        let messages = self.messages.slow().map(|slow| (Answers::Messages, slow));
        messages.or_else(|| self.probes.slow().map(|slow| (Answers::Probes, slow)))
    }

    /// The same for people.
    #[must_use]
    pub fn slow_reason(&self) -> Option<String> {
        let (of, Slow { takes, limit, usual, .. }) = self.slow()?;
        let what = match of {
            Answers::Messages => "messages",
            Answers::Probes => "probes",
        };
        let against = match usual {
            Some(usual) => format!("usual are {}", time(usual)),
            None => format!("`slow_after` is {}", time(limit)),
        };
        Some(format!("slow: its answers to {what} take {}, {against}", time(takes)))
    }

    /// It is slow and a destination is to leave it for that.
    #[must_use]
    pub fn wants_leaving(&self) -> bool {
        self.settings.slow == OnSlow::Leave && self.slow().is_some()
    }

    /// It was slow with messages, gets none any more, and answers probes as ever: only messages can tell whether it still is.
    #[must_use]
    pub fn may_be_fast_again(&self) -> bool {
        self.messages.slow().is_some() && self.probes.slow().is_none()
    }

    /// How fast it answers messages is to be seen anew. Returns whether it ceased to be slow.
    pub fn forget_pace(&mut self) -> bool {
        self.messages.forget() && self.slow().is_none()
    }

    /// What was good until now does not count towards a return: the time of good probes begins anew.
    pub fn rest(&mut self, now: Instant) {
        if self.good_since.is_some() {
            self.good_since = Some(now);
        }
    }

    /// Time passed. Returns whether it ceased to be slow because it was asked nothing for long.
    pub fn on_timeout(&mut self, now: Instant) -> bool {
        let before = self.slow().is_some();
        self.messages.tick(now);
        self.probes.tick(now);
        before && self.slow().is_none()
    }

    /// When `on_timeout` has something to do, if ever.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.messages.forgotten_at().into_iter().chain(self.probes.forgotten_at()).min()
    }

    // ---- probes ----

    /// A probe is due: the caller makes it now and reports with `probed`.
    pub fn probe_due(&mut self, now: Instant) -> bool {
        let due = !self.probe_out && self.probe_at <= now;
        if due {
            self.probe_out = true;
            let stores = matches!(self.settings.probe, Probe::DicomStore { .. });
            self.store.out = stores && self.store.next_at.is_none_or(|at| at <= now);
        }
        due
    }

    /// The probe that is out stores an object; the others of its kind only ask.
    #[must_use]
    pub fn probe_stores(&self) -> bool {
        self.store.out
    }

    fn next_store(&self, now: Instant) -> Option<Instant> {
        match &self.settings.probe {
            Probe::DicomStore { every, .. } => Some(now + *every),
            Probe::Tcp | Probe::Tls | Probe::DicomEcho | Probe::Mllp(_) | Probe::Http(_) => None,
        }
    }

    /// When the next probe is due; none while one is out.
    #[must_use]
    pub fn next_probe(&self) -> Option<Instant> {
        (!self.probe_out).then_some(self.probe_at)
    }

    /// A probe ended: well, or badly in a phase for a reason. Returns whether its state changed.
    pub fn probed(&mut self, result: Result<(), (Phase, &str)>, now: Instant, random: &mut fastrand::Rng) -> bool {
        self.probe_out = false;
        self.probe_at = now + self.settings.interval.mul_f64(0.9 + 0.2 * random.f64());
        if std::mem::take(&mut self.store.out) {
            self.store.next_at = self.next_store(now);
            self.store.failed = result.err().map(|(phase, cause)| (phase, cause.to_owned()));
        }
        let stored = self.store.failed.clone();
        match result.and(stored.as_ref().map_or(Ok(()), |(phase, cause)| Err((*phase, cause.as_str())))) {
            Ok(()) => self.probed_well(now),
            Err((phase, cause)) => self.probed_badly(phase, cause, now),
        }
    }

    fn probed_well(&mut self, now: Instant) -> bool {
        let since = *self.good_since.get_or_insert(now);
        match self.state {
            State::Up => {
                if self.answered_at.is_none() {
                    "probes are good".clone_into(&mut self.reason);
                }
                false
            }
            State::Suspect { .. } if self.traffic_failing => false,
            State::Suspect { .. } => self.to(State::Up, "probes are good again".to_owned()),
            State::Down => self.count_good(1, since),
            State::Probing { good } => self.count_good(good.saturating_add(1), since),
        }
    }

    fn count_good(&mut self, good: u32, since: Instant) -> bool {
        self.good_since = Some(since);
        let enough = good >= u32::from(self.settings.rise);
        if enough && self.probes_suffice() {
            return self.to(State::Up, format!("{good} good probes in a row"));
        }
        let reason = if self.probes_suffice() {
            format!("{good} of {} good probes", self.settings.rise)
        } else if self.proof == Proof::Traffic {
            "probes are good, but it refused messages: one envelope will go as canary".to_owned()
        } else {
            "probes are good, but do not reach as far as it failed: one envelope will go as canary".to_owned()
        };
        self.to(State::Probing { good }, reason)
    }

    fn probed_badly(&mut self, phase: Phase, cause: &str, now: Instant) -> bool {
        if self.eligible() && self.answered_lately(now) {
            return false;
        }
        self.good_since = None;
        let fall = u32::from(self.settings.fall);
        let failures = match self.state {
            State::Up => 1,
            State::Suspect { failures } => failures + 1,
            State::Down | State::Probing { .. } => return self.to(State::Down, format!("probe failed in phase {phase}: {cause}")),
        };
        if failures >= fall {
            self.proof = Proof::Reaching(phase.min(reach(&self.settings.probe)));
            self.to(State::Down, format!("{failures} probes failed in a row, phase {phase}: {cause}"))
        } else {
            self.to(State::Suspect { failures }, format!("probe {failures} of {fall} failed in phase {phase}: {cause}"))
        }
    }

    /// Changes the state; true if people would see another name.
    fn to(&mut self, state: State, reason: String) -> bool {
        let changed = self.state.name() != state.name();
        self.state = state;
        self.reason = reason;
        changed
    }
}

/// How far a good probe reaches. That a test object is taken does not show that messages are: a receiver may know it already and answer without
/// storing. So nothing here proves as much as traffic.
fn reach(probe: &Probe) -> Phase {
    match probe {
        // What answers there is not what takes the messages.
        Probe::Http(_) => Phase::Resolve,
        Probe::Tcp => Phase::Connect,
        Probe::Tls => Phase::Tls,
        Probe::DicomEcho | Probe::Mllp(_) | Probe::DicomStore { .. } => Phase::Answer,
    }
}

/// A time for people, to two or three figures.
fn time(time: Duration) -> String {
    match time.as_millis() {
        0..1_000 => format!("{} ms", time.as_millis()),
        1_000..10_000 => format!("{:.1} s", time.as_secs_f32()),
        _ => format!("{} s", time.as_secs()),
    }
}

const ANSWERS: &str = "answers traffic";

/// An endpoint that was just left is probed soon: people want to know whether it is really gone.
const PROBE_SOON: Duration = Duration::from_secs(1);

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a start of the hand-made clock")]
mod tests {
    use super::*;
    use crate::config::HttpUrl;

    fn settings(probe: Probe) -> HealthSettings {
        HealthSettings::of(probe)
    }

    fn http() -> Probe {
        Probe::Http(HttpUrl { host: "a".to_owned(), port: 80, target: "/".to_owned(), tls: None })
    }

    fn storing() -> Probe {
        Probe::DicomStore { every: Duration::from_secs(300), look_up: false }
    }

    struct Bench {
        health: Health,
        now: Instant,
        random: fastrand::Rng,
    }

    impl Bench {
        fn new(probe: Probe) -> Self {
            let now = Instant::now();
            Self { health: Health::new(settings(probe), now), now, random: fastrand::Rng::with_seed(1) }
        }

        fn wait(&mut self, seconds: u64) {
            self.now += Duration::from_secs(seconds);
        }

        fn good(&mut self) -> State {
            self.health.probed(Ok(()), self.now, &mut self.random);
            self.health.state()
        }

        fn bad(&mut self) -> State {
            self.health.probed(Err((Phase::Connect, "refused")), self.now, &mut self.random);
            self.health.state()
        }
    }

    #[test]
    fn fall_bad_probes_take_it_down_and_rise_good_ones_bring_it_back() {
        let mut b = Bench::new(Probe::Tcp);
        assert_eq!([b.bad(), b.bad(), b.bad()], [State::Suspect { failures: 1 }, State::Suspect { failures: 2 }, State::Down]);
        assert!(b.health.reason().contains("connect"), "{}", b.health.reason());
        assert_eq!([b.good(), b.good()], [State::Probing { good: 1 }, State::Up]);
        assert_eq!([b.bad(), b.good()], [State::Suspect { failures: 1 }, State::Up], "failures in a row, not in all");
    }

    #[test]
    fn an_answer_within_the_interval_outweighs_bad_probes() {
        let mut b = Bench::new(Probe::Tcp);
        b.health.answered(b.now);
        b.wait(9);
        assert_eq!([b.bad(), b.bad(), b.bad()], [State::Up; 3]);
        b.wait(2);
        assert_eq!([b.bad(), b.bad(), b.bad()][2], State::Down);
    }

    #[test]
    fn a_good_probe_does_not_hide_failing_traffic() {
        let mut b = Bench::new(Probe::DicomEcho);
        b.health.traffic_failed("reset");
        assert_eq!(b.good(), State::Suspect { failures: 1 });
        b.health.answered(b.now);
        assert_eq!(b.health.state(), State::Up);
    }

    #[test]
    fn a_probe_proves_no_more_than_it_reaches() {
        for (probe, proof, trusted) in [
            (Probe::Tcp, Proof::Reaching(Phase::Connect), true),
            (Probe::Tcp, Proof::Reaching(Phase::Tls), false),
            (Probe::Tls, Proof::Reaching(Phase::Tls), true),
            (Probe::Tcp, Proof::Reaching(Phase::Transmit), false),
            (Probe::Tcp, Proof::Reaching(Phase::Answer), false),
            (Probe::DicomEcho, Proof::Reaching(Phase::Answer), true),
            (Probe::DicomEcho, Proof::Traffic, false),
            (http(), Proof::Reaching(Phase::Resolve), true),
            (http(), Proof::Reaching(Phase::Connect), false),
            (storing(), Proof::Reaching(Phase::Answer), true),
            (storing(), Proof::Traffic, false),
        ] {
            let mut b = Bench::new(probe.clone());
            b.health.condemn(proof, "left".to_owned(), b.now);
            b.good();
            b.good();
            b.good();
            assert_eq!(b.health.eligible(), trusted, "{probe:?} after {proof:?}");
            assert_eq!(b.health.wants_canary(), !trusted, "{probe:?} after {proof:?}");
        }
    }

    #[test]
    fn a_later_failure_in_an_early_phase_does_not_weaken_the_proof_wanted() {
        let mut b = Bench::new(Probe::Tcp);
        b.health.condemn(Proof::Reaching(Phase::Answer), "silent".to_owned(), b.now);
        b.health.condemn(Proof::Reaching(Phase::Connect), "refused".to_owned(), b.now);
        b.good();
        b.good();
        assert!(!b.health.eligible());
    }

    #[test]
    fn good_since_restarts_with_every_bad_probe() {
        let mut b = Bench::new(Probe::Tcp);
        b.health.condemn(Proof::Reaching(Phase::Connect), "refused".to_owned(), b.now);
        b.good();
        let first = b.health.good_since();
        b.wait(10);
        b.good();
        assert_eq!(b.health.good_since(), first);
        for _ in 0..3 {
            b.bad();
        }
        b.wait(10);
        b.good();
        assert_eq!(b.health.good_since(), Some(b.now));
    }

    #[test]
    fn probes_are_jittered_by_a_tenth_and_one_is_out_at_a_time() {
        let mut b = Bench::new(Probe::Tcp);
        assert!(b.health.probe_due(b.now));
        assert!(!b.health.probe_due(b.now) && b.health.next_probe().is_none());
        let mut waits = Vec::new();
        for _ in 0..100 {
            b.good();
            waits.push(b.health.next_probe().map(|at| at - b.now));
        }
        assert!(waits.iter().flatten().all(|w| (9.0..=11.0).contains(&w.as_secs_f64())));
        assert!(waits.iter().any(|w| *w != waits[0]));
    }

    /// Whether the probe that is due now stores.
    fn stores(b: &mut Bench) -> bool {
        assert!(b.health.probe_due(b.now));
        b.health.probe_stores()
    }

    #[test]
    fn objects_are_stored_seldom_and_a_failed_one_stands_until_the_next() {
        let mut b = Bench::new(storing());
        assert!(stores(&mut b), "the first one at once");
        b.bad();
        for _ in 0..2 {
            b.wait(11);
            assert!(!stores(&mut b));
            b.good();
        }
        assert_eq!(b.health.state(), State::Down, "good echoes do not hide it: {}", b.health.reason());
        b.wait(11);
        while !stores(&mut b) {
            b.good();
            b.wait(11);
        }
        assert_eq!([b.good(), b.good()], [State::Probing { good: 1 }, State::Up]);
    }

    #[test]
    fn traffic_that_is_answered_is_worth_more_than_a_failed_store() {
        let mut b = Bench::new(storing());
        assert!(stores(&mut b));
        b.bad();
        b.health.answered(b.now);
        b.wait(60);
        assert!(!stores(&mut b));
        assert_eq!(b.good(), State::Up);
    }

    #[test]
    fn a_reload_does_not_bring_two_stores_together() {
        let mut b = Bench::new(storing());
        assert!(stores(&mut b));
        b.health.reconfigure(settings(storing()), b.now);
        assert!(!stores(&mut b));
        b.good();
        b.wait(301);
        assert!(stores(&mut b));
    }

    #[test]
    fn slow_is_told_apart_from_dead() {
        let mut b = Bench::new(Probe::Tcp);
        b.health.settings.slow_after = Some(Duration::from_secs(1));
        for n in 0..8 {
            b.wait(1);
            assert_eq!(b.health.took(Answers::Probes, Duration::from_millis(2_100), b.now), n == 7);
        }
        assert_eq!((b.health.state(), b.health.eligible(), b.health.wants_leaving()), (State::Up, true, false));
        assert_eq!(b.health.slow_reason().as_deref(), Some("slow: its answers to probes take 2.1 s, `slow_after` is 1.0 s"));
        b.health.settings.slow = OnSlow::Leave;
        assert!(b.health.wants_leaving() && !b.health.may_be_fast_again(), "its probes are slow too");
        assert!(b.health.next_timeout().is_some());
        b.wait(3_600);
        assert!(b.health.on_timeout(b.now) && b.health.slow_reason().is_none() && b.health.next_timeout().is_none());
    }
}
