//! What became of an attempt, for the envelope's story, and how it stands at the end of a state record (`docs/spool-format.md`).
//! Rules: names, codes, addresses and times; no text of a peer, no patient data. What a record of an earlier version does not say is `None`.
//! Errors: none; a tail that cannot be read is `None`.

use crate::delivery::{AckCode, Outcome, Phase, Verdict};
use crate::spool::UnixMillis;
use crate::spool::record::{Fields, put_short};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// What an endpoint answered: its codes, never its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// An HL7 acknowledgement.
    Hl7 {
        /// MSA-1.
        code: AckCode,
        /// Code of table 0357, if the answer had one.
        error: Option<u16>,
    },
    /// A C-STORE response.
    Dimse {
        /// (0000,0900).
        status: u16,
    },
    /// A-ASSOCIATE-RJ.
    Rejected {
        /// Result 1.
        permanent: bool,
        /// Source.
        source: u8,
        /// Reason/diagnostic.
        reason: u8,
    },
    /// The association was accepted, but no presentation context for the object.
    NoContext,
}

impl Answer {
    /// The answer that an outcome tells of, if there was one that counts.
    #[must_use]
    pub fn of(outcome: &Outcome) -> Option<Self> {
        match outcome {
            Outcome::Acknowledged { code, error } => Some(Answer::Hl7 { code: *code, error: *error }),
            Outcome::Stored { status } => Some(Answer::Dimse { status: *status }),
            Outcome::AssociationRejected { permanent, source, reason } => {
                Some(Answer::Rejected { permanent: *permanent, source: *source, reason: *reason })
            }
            Outcome::NoContext { .. } => Some(Answer::NoContext),
            Outcome::SilenceAsked
            | Outcome::AlreadyThere
            | Outcome::NotSent { .. }
            | Outcome::Unanswered { .. }
            | Outcome::Local { .. }
            | Outcome::Damaged { .. } => None,
        }
    }

    fn to_bytes(self) -> [u8; 4] {
        let wide = |kind, first, rest: u16| [kind, first, rest.to_le_bytes()[0], rest.to_le_bytes()[1]];
        let place = |code| ACK_CODES.iter().position(|known| *known == code).unwrap_or_default() as u8;
        match self {
            Answer::Hl7 { code, error: None } => wide(1, place(code), 0),
            Answer::Hl7 { code, error: Some(error) } => wide(2, place(code), error),
            Answer::Dimse { status } => wide(3, 0, status),
            Answer::Rejected { permanent, source, reason } => [4, u8::from(permanent), source, reason],
            Answer::NoContext => [5, 0, 0, 0],
        }
    }

    /// `None`: no answer, or of a kind that a later version knows.
    fn from_bytes([kind, first, low, high]: [u8; 4]) -> Option<Self> {
        let rest = u16::from_le_bytes([low, high]);
        let code = || ACK_CODES.get(usize::from(first)).copied();
        Some(match kind {
            1 => Answer::Hl7 { code: code()?, error: None },
            2 => Answer::Hl7 { code: code()?, error: Some(rest) },
            3 => Answer::Dimse { status: rest },
            4 => Answer::Rejected { permanent: first != 0, source: low, reason: high },
            5 => Answer::NoContext,
            _ => return None,
        })
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Answer::Hl7 { code, error: None } => f.write_str(code.name()),
            Answer::Hl7 { code, error: Some(error) } => write!(f, "{} {error}", code.name()),
            Answer::Dimse { status } => write!(f, "{status:04X}H"),
            Answer::Rejected { permanent, source, reason } => write!(f, "A-ASSOCIATE-RJ {}/{source}/{reason}", if *permanent { 1 } else { 2 }),
            Answer::NoContext => f.write_str("no presentation context"),
        }
    }
}

/// What became of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptRecord {
    /// Which of the envelope's attempts it was, from 1; the spool counts. 0: none (an answer that came after the end).
    pub number: u32,
    /// Endpoint's name.
    pub endpoint: Arc<str>,
    /// The address it was connected to, if it came so far.
    pub address: Option<SocketAddr>,
    /// How far it came.
    pub phase: Phase,
    /// What the endpoint answered, if it did.
    pub answer: Option<Answer>,
    /// What that meant for the envelope.
    pub verdict: Option<Verdict>,
    /// For people: verdict and what was seen, e.g. "AE 204" or "A700H". No patient data.
    pub outcome: String,
    /// How long it took.
    pub took: Option<Duration>,
    /// When it began, as far as that is known.
    pub began_at: Option<UnixMillis>,
    /// When it ended.
    pub at: UnixMillis,
    /// Sent whole, unanswered.
    pub ambiguous: bool,
    /// With it the destination left the endpoint, for this one; an empty name: none was eligible.
    pub left_for: Option<Arc<str>>,
}

impl AttemptRecord {
    /// Without what only some attempts have.
    #[must_use]
    pub fn new(endpoint: Arc<str>, phase: Phase, outcome: String, at: UnixMillis) -> Self {
        let (address, answer, verdict, took, began_at, left_for) = (None, None, None, None, None, None);
        Self { number: 0, endpoint, address, phase, answer, verdict, outcome, took, began_at, at, ambiguous: false, left_for }
    }

    /// The same with how long it took.
    #[must_use]
    pub fn lasting(mut self, took: Duration) -> Self {
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        (self.took, self.began_at) = (Some(took), Some(self.at.saturating_sub(millis)));
        self
    }
}

/// Everything known of one envelope.
#[derive(Debug, Clone)]
pub struct Story {
    /// The envelope.
    pub view: super::EnvelopeView,
    /// Its attempts, oldest first; of many the first and the last ones (`limits::ATTEMPTS_FIRST_KEPT`, `limits::ATTEMPTS_LAST_KEPT`).
    pub attempts: Vec<AttemptRecord>,
    /// An attempt whose beginning was made durable and whose end is not known, or not yet.
    pub begun: Option<Begun>,
    /// What was decided, oldest first.
    pub decisions: Vec<Decided>,
}

impl Story {
    /// Attempts that were made and are no longer told of one by one.
    #[must_use]
    pub fn untold(&self) -> u32 {
        let told = self.attempts.iter().filter(|a| a.number > 0).count();
        self.view.envelope.attempts.saturating_sub(u32::try_from(told).unwrap_or(u32::MAX))
    }
}

/// An attempt that began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// Which of the envelope's attempts.
    pub number: u32,
    /// Endpoint's name.
    pub endpoint: Arc<str>,
    /// When; 0: not known.
    pub at: UnixMillis,
}

/// What an operator decided, or the spool about a record that is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// When.
    pub at: UnixMillis,
    /// What became of the envelope: held, or ready again. What was discarded is in `EnvelopeView::discarded`.
    pub to: super::State,
    /// Why, if it was not an operator's decision.
    pub why: String,
}

/// What a state record says of an attempt beyond what every record says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Tail {
    pub(crate) address: Option<SocketAddr>,
    pub(crate) answer: Option<Answer>,
    pub(crate) verdict: Option<Verdict>,
    pub(crate) took: Option<Duration>,
    pub(crate) left_for: Option<Arc<str>>,
}

/// Their places are on disk: the order stays.
const ACK_CODES: [AckCode; 6] = [AckCode::AA, AckCode::AE, AckCode::AR, AckCode::CA, AckCode::CE, AckCode::CR];

/// On disk: how long it took is not known.
const TOOK_UNKNOWN: u64 = u64::MAX;

/// Their places are on disk: the order stays.
const VERDICTS: [Verdict; 8] = [
    Verdict::Delivered,
    Verdict::DeliveredWithWarning,
    Verdict::Unconfirmed,
    Verdict::Retry,
    Verdict::Elsewhere,
    Verdict::DeadLetter,
    Verdict::Hold,
    Verdict::Ambiguous,
];

impl Tail {
    pub(crate) fn put(&self, buffer: &mut Vec<u8>) {
        let took = self.took.map_or(TOOK_UNKNOWN, |took| u64::try_from(took.as_micros()).unwrap_or(TOOK_UNKNOWN));
        buffer.extend_from_slice(&took.to_le_bytes());
        let verdict = self.verdict.and_then(|verdict| VERDICTS.iter().position(|known| *known == verdict));
        buffer.push(verdict.map_or(0, |at| at as u8 + 1));
        buffer.extend_from_slice(&self.answer.map_or([0; 4], Answer::to_bytes));
        match self.address.map(|address| (address.ip(), address.port())) {
            None => buffer.push(0),
            Some((IpAddr::V4(ip), port)) => {
                buffer.push(4);
                buffer.extend_from_slice(&ip.octets());
                buffer.extend_from_slice(&port.to_le_bytes());
            }
            Some((IpAddr::V6(ip), port)) => {
                buffer.push(6);
                buffer.extend_from_slice(&ip.octets());
                buffer.extend_from_slice(&port.to_le_bytes());
            }
        }
        buffer.push(u8::from(self.left_for.is_some()));
        if let Some(name) = &self.left_for {
            put_short(buffer, name);
        }
    }

    pub(crate) fn get(f: &mut Fields<'_>) -> Option<Self> {
        if f.0.is_empty() {
            return Some(Self::default()); // of a version that did not say it
        }
        let (took, verdict, answer) = (f.u64()?, f.u8()?, *f.bytes(4)?.first_chunk()?);
        let address = match f.u8()? {
            4 => Some((IpAddr::from(*f.bytes(4)?.first_chunk::<4>()?), f.u16()?)),
            6 => Some((IpAddr::from(*f.bytes(16)?.first_chunk::<16>()?), f.u16()?)),
            _ => None,
        };
        let left_for = if f.u8()? == 0 { None } else { Some(Arc::from(f.short()?)) };
        Some(Self {
            address: address.map(SocketAddr::from),
            answer: Answer::from_bytes(answer),
            verdict: usize::from(verdict).checked_sub(1).and_then(|at| VERDICTS.get(at)).copied(),
            took: (took != TOOK_UNKNOWN).then(|| Duration::from_micros(took)),
            left_for,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn back(tail: &Tail) -> Tail {
        let mut bytes = Vec::new();
        tail.put(&mut bytes);
        let mut fields = Fields(&bytes);
        let got = Tail::get(&mut fields).unwrap();
        assert!(fields.0.is_empty(), "every byte was read");
        got
    }

    #[test]
    fn what_an_attempt_met_comes_back_as_it_was() {
        assert_eq!(back(&Tail::default()), Tail::default());
        let answers = AckCode::ALL.into_iter().flat_map(|code| [None, Some(204)].map(|error| Answer::Hl7 { code, error })).chain([
            Answer::Dimse { status: 0xA700 },
            Answer::Rejected { permanent: true, source: 1, reason: 7 },
            Answer::Rejected { permanent: false, source: 3, reason: 2 },
            Answer::NoContext,
        ]);
        for answer in answers {
            let tail = Tail { answer: Some(answer), ..Tail::default() };
            assert_eq!(back(&tail), tail);
        }
        for verdict in VERDICTS {
            let tail = Tail { verdict: Some(verdict), ..Tail::default() };
            assert_eq!(back(&tail), tail);
        }
        for (address, name) in [("192.0.2.7:104", "secondary"), ("[2001:db8::7]:65535", "")] {
            let (address, left_for) = (Some(address.parse().unwrap()), Some(Arc::from(name)));
            let tail = Tail { address, left_for, took: Some(Duration::from_micros(1_234_567)), ..Tail::default() };
            assert_eq!(back(&tail), tail);
        }
    }

    #[test]
    fn what_an_earlier_version_wrote_says_less_and_is_read() {
        assert_eq!(Tail::get(&mut Fields(&[])), Some(Tail::default()));
    }

    #[test]
    fn answers_are_told_by_their_codes() {
        let told = |answer: Answer| answer.to_string();
        assert_eq!(told(Answer::Hl7 { code: AckCode::AE, error: Some(204) }), "AE 204");
        assert_eq!(told(Answer::Hl7 { code: AckCode::CA, error: None }), "CA");
        assert_eq!(told(Answer::Dimse { status: 0xA700 }), "A700H");
        assert_eq!(told(Answer::Dimse { status: 0 }), "0000H");
        assert_eq!(told(Answer::Rejected { permanent: true, source: 1, reason: 7 }), "A-ASSOCIATE-RJ 1/1/7");
    }

    #[test]
    fn an_attempt_began_before_it_ended() {
        let record = AttemptRecord::new(Arc::from("a"), Phase::Answer, String::new(), 5_000);
        assert_eq!(record.began_at, None);
        assert_eq!(record.lasting(Duration::from_millis(1_500)).began_at, Some(3_500));
    }
}
