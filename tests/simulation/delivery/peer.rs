//! A peer that answers, refuses, freezes, drops, lies; as a script or by chance.

use everpost_client::delivery::{AckCode, Outcome, Phase, Silence};
use everpost_client::ids::EnvelopeId;
use std::time::Duration;

/// What a peer does with what it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Takes it and answers.
    Good,
    /// The same, slowly.
    Slow,
    /// Refuses connections.
    Refuse,
    /// Packets vanish.
    Drop,
    /// Cuts the connection at once while the message is on its way.
    Cut,
    /// Accepts connections, takes bytes, does nothing.
    Freeze,
    /// Takes the whole block, keeps the message, closes without an answer.
    KeepAndClose,
    /// Takes the whole block, loses it, closes without an answer.
    LoseAndClose,
    /// Keeps the message and answers after the deadline.
    Late,
    /// Keeps the message and answers another one's id.
    WrongAnswer,
    /// Answers negatively.
    Nak(AckCode, u16),
    /// Answers a C-STORE so.
    Status(u16),
    /// Rejects the association.
    Reject {
        /// Permanently.
        permanent: bool,
    },
    /// Accepts no presentation context.
    NoContext,
    /// Three of ten packets are lost: what TCP mends takes its time, and now and then more than there is.
    Lossy,
    /// Its certificate's time is over.
    Untrusted,
    /// The attempt fails on our side.
    Ours {
        /// For good.
        permanent: bool,
    },
}

/// How an attempt goes: how long it takes, what is seen, and whether the peer kept the message.
pub(crate) struct Story {
    pub(crate) takes: Duration,
    pub(crate) outcome: Outcome,
    pub(crate) kept: bool,
}

/// One peer.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) mode: Mode,
    pub(crate) dicom: bool,
    pub(crate) latency: Duration,
    /// A kept connection would turn out dead when used: set when the peer went away and came back.
    pub(crate) stale: bool,
    /// Its machine was switched off and on: it knows nothing of the kept connections, and says so only when one is used.
    pub(crate) rebooted: bool,
    /// Packets began to vanish while connections were kept: the first ones to be used take the message whole.
    cut_off: bool,
    /// The message that this peer treats otherwise, whatever its mode.
    pub(crate) poison: Option<(EnvelopeId, Mode)>,
    /// What it does with replays, if not the same.
    pub(crate) replays: Option<Mode>,
    /// Messages with odd numbers get AE.
    pub(crate) refuse_odd: bool,
    /// Asked what it has, it says so.
    pub(crate) answers_queries: bool,
}

/// Deadline of connect, as in the configuration.
pub(crate) const CONNECT: Duration = Duration::from_secs(5);

/// Deadline of the answer, as in the configuration.
pub(crate) const ANSWER: Duration = Duration::from_secs(30);

/// What a slow peer needs more.
const SLOW: Duration = Duration::from_secs(3);

impl Peer {
    pub(crate) fn new(name: &'static str, dicom: bool) -> Self {
        Self {
            name,
            mode: Mode::Good,
            dicom,
            latency: Duration::from_millis(2),
            stale: false,
            rebooted: false,
            cut_off: false,
            poison: None,
            replays: None,
            refuse_odd: false,
            answers_queries: true,
        }
    }

    /// An attempt with this message begins.
    pub(crate) fn attempt(&mut self, id: EnvelopeId, fresh: bool, random: &mut fastrand::Rng) -> Story {
        if self.stale && !fresh && self.mode == Mode::Good {
            self.stale = random.bool();
            let (phase, cause) = (Phase::Transmit, "closed".to_owned());
            return Story { takes: Duration::ZERO, outcome: Outcome::NotSent { phase, cause, stale: true, timeout: false }, kept: false };
        }
        if self.rebooted && self.mode == Mode::Good {
            self.rebooted = false;
            if !fresh {
                let outcome = Outcome::Unanswered { silence: Silence::Lost, cause: "reset".to_owned() };
                return Story { takes: self.latency, outcome, kept: false };
            }
        }
        if self.cut_off && !fresh && self.mode == Mode::Drop {
            // Nothing is acknowledged: that is found as fast as a connect that nobody answers.
            let outcome = Outcome::Unanswered { silence: Silence::Lost, cause: "no sign".to_owned() };
            return Story { takes: CONNECT, outcome, kept: false };
        }
        let mode = self.poison.filter(|(poison, _)| *poison == id).map_or(self.mode, |(_, mode)| mode);
        let mode = if self.refuse_odd && id.0 % 2 == 1 { Mode::Nak(AckCode::AE, 0) } else { mode };
        let quick = self.latency.mul_f64(0.5 + random.f64());
        let failed = |phase, timeout| Outcome::NotSent { phase, cause: "away".to_owned(), stale: false, timeout };
        let silent = |silence| Outcome::Unanswered { silence, cause: "silence".to_owned() };
        let story = |takes, outcome, kept| Story { takes, outcome, kept };
        match mode {
            Mode::Good | Mode::Slow if self.dicom => story(self.pace(quick), Outcome::Stored { status: 0 }, true),
            Mode::Good | Mode::Slow => story(self.pace(quick), Outcome::Acknowledged { code: AckCode::AA, error: None }, true),
            Mode::Refuse => story(Duration::from_micros(200), failed(Phase::Connect, false), false),
            Mode::Cut => story(Duration::from_micros(200), failed(Phase::Transmit, false), false),
            Mode::Drop => story(CONNECT, failed(Phase::Connect, true), false),
            Mode::Freeze => story(ANSWER, silent(Silence::Timeout), false),
            Mode::KeepAndClose => story(quick, silent(Silence::Lost), true),
            Mode::LoseAndClose => story(quick, silent(Silence::Lost), false),
            Mode::Late => story(ANSWER, silent(Silence::Timeout), true),
            Mode::WrongAnswer => story(quick, silent(Silence::WrongAnswer), true),
            Mode::Nak(code, error) => story(quick, Outcome::Acknowledged { code, error: (error != 0).then_some(error) }, false),
            Mode::Status(status) => story(quick, Outcome::Stored { status }, false),
            Mode::Reject { permanent } => story(quick, Outcome::AssociationRejected { permanent, source: 1, reason: 1 }, false),
            Mode::NoContext => story(quick, Outcome::NoContext { sop_class: "1.2".to_owned(), transfer_syntax: "3.4".to_owned() }, false),
            Mode::Untrusted => story(quick, failed(Phase::Tls, false), false),
            Mode::Lossy => {
                let late = Duration::from_millis(random.u64(0..9_000));
                let answered = if self.dicom { Outcome::Stored { status: 0 } } else { Outcome::Acknowledged { code: AckCode::AA, error: None } };
                match random.u8(..20) {
                    0 if fresh => story(CONNECT, failed(Phase::Connect, true), false),
                    0 | 1 => story(CONNECT, silent(Silence::Lost), random.bool()),
                    2 => story(ANSWER, silent(Silence::Timeout), random.bool()),
                    _ => story(late, answered, true),
                }
            }
            Mode::Ours { permanent } => story(quick, Outcome::Local { cause: "disk".to_owned(), permanent }, false),
        }
    }

    fn pace(&self, quick: Duration) -> Duration {
        if self.mode == Mode::Slow { quick + SLOW } else { quick }
    }

    /// A probe: how long it takes, and how it ends. TCP for HL7, C-ECHO for DICOM.
    pub(crate) fn probe(&self, random: &mut fastrand::Rng) -> (Duration, Result<(), (Phase, &'static str)>) {
        let quick = self.latency.mul_f64(0.5 + random.f64());
        match self.mode {
            Mode::Refuse => (quick, Err((Phase::Connect, "refused"))),
            Mode::Drop => (Duration::from_secs(3), Err((Phase::Connect, "timed out"))),
            Mode::Freeze if self.dicom => (Duration::from_secs(3), Err((Phase::Answer, "timed out"))),
            Mode::Untrusted if self.dicom => (quick, Err((Phase::Tls, "expired"))),
            Mode::Lossy if random.u8(..5) == 0 => (Duration::from_secs(3), Err((Phase::Connect, "timed out"))),
            Mode::Reject { .. } if self.dicom => (quick, Err((Phase::Associate, "rejected"))),
            _ => (quick, Ok(())),
        }
    }

    /// The mode changes; connections do not survive an absence.
    pub(crate) fn becomes(&mut self, mode: Mode) {
        self.stale |= matches!(self.mode, Mode::Refuse | Mode::Drop | Mode::Freeze);
        self.cut_off = mode == Mode::Drop && self.mode == Mode::Good;
        self.mode = mode;
    }
}
