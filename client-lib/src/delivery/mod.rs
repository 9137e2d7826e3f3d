//! Delivery: from a waiting envelope to its verdict.
//!
//! ```text
//!            take               attempt ends
//!  ready ----------> in flight --------------> delivered                      (end)
//!    ^                   |  retry, elsewhere
//!    |   due             v
//!    +-------------- deferred
//!    |                   |  policy, operator
//!    +-- release -- held <+--> dead letter -- retry by an operator (marked out of order) --> ready
//! ```
//! Rules: an attempt reports an `Outcome` (what was seen, in which phase) and nothing more; `verdict` alone turns outcomes into verdicts; the
//! engine of a destination joins verdict, lanes and endpoint choice. All of it is pure: the time is an argument.
//! Errors: none; every failure of an attempt is an outcome.

use std::fmt;

pub mod alarms;
pub mod drill;
pub mod engine;
pub mod outages;
pub mod replay;
pub mod scheduler;
pub mod standby;
pub mod status;
pub mod verdict;

/// How far an attempt came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// The endpoint's name was looked up.
    Resolve,
    /// TCP connect.
    Connect,
    /// TLS handshake.
    Tls,
    /// DICOM association negotiation.
    Associate,
    /// Bytes of the message were being handed to the system; the last one was not.
    Transmit,
    /// The whole message was handed to the system; the answer was awaited.
    Answer,
}

impl Phase {
    /// The name used in JSON, logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Phase::Resolve => "resolve",
            Phase::Connect => "connect",
            Phase::Tls => "tls",
            Phase::Associate => "associate",
            Phase::Transmit => "transmit",
            Phase::Answer => "answer",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// MSA-1 (HL7 v2.5.1 table 0008).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AckCode {
    /// Application accept.
    AA,
    /// Application error.
    AE,
    /// Application reject.
    AR,
    /// Commit accept.
    CA,
    /// Commit error.
    CE,
    /// Commit reject.
    CR,
}

impl AckCode {
    /// Every code.
    pub const ALL: [AckCode; 6] = [AckCode::AA, AckCode::AE, AckCode::AR, AckCode::CA, AckCode::CE, AckCode::CR];

    /// The code as it stands in MSA-1.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            AckCode::AA => "AA",
            AckCode::AE => "AE",
            AckCode::AR => "AR",
            AckCode::CA => "CA",
            AckCode::CE => "CE",
            AckCode::CR => "CR",
        }
    }

    /// Reads MSA-1, in either case.
    #[must_use]
    pub fn read(text: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|code| text.eq_ignore_ascii_case(code.name().as_bytes()))
    }

    /// AA or CA.
    #[must_use]
    pub fn is_positive(self) -> bool {
        matches!(self, AckCode::AA | AckCode::CA)
    }

    /// How bad it is: of several answers to a batch the worst counts.
    #[must_use]
    pub fn rank(self) -> u8 {
        match self {
            AckCode::AA | AckCode::CA => 0,
            AckCode::AE | AckCode::CE => 1,
            AckCode::AR | AckCode::CR => 2,
        }
    }
}

/// What an attempt saw. Texts name phases and system errors, never content of messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// An HL7 acknowledgement whose MSA-2 matched. `error` is the code of table 0357 from ERR-3, else ERR-1.4 or MSA-6.
    Acknowledged {
        /// MSA-1.
        code: AckCode,
        /// Code of table 0357, if the answer had one.
        error: Option<u16>,
    },
    /// The message itself asked for silence (MSH-15 NE or ER) and the destination honours it: sent whole, nothing awaited.
    SilenceAsked,
    /// A C-STORE response.
    Stored {
        /// (0000,0900).
        status: u16,
    },
    /// Asked for what it has, the endpoint named the instance: nothing was sent.
    AlreadyThere,
    /// The endpoint accepted no presentation context for this SOP class or transfer syntax (and conversion could not help).
    NoContext {
        /// SOP class UID.
        sop_class: String,
        /// Transfer syntax UID.
        transfer_syntax: String,
    },
    /// A-ASSOCIATE-RJ (PS3.8 9.3.4).
    AssociationRejected {
        /// Result 1.
        permanent: bool,
        /// Source, 1 to 3.
        source: u8,
        /// Reason/diagnostic.
        reason: u8,
    },
    /// The endpoint cannot have the message: the failure came before the last byte was handed to the system.
    NotSent {
        /// How far it came.
        phase: Phase,
        /// What happened, for people.
        cause: String,
        /// A kept connection turned out dead when it was used again: does not count against the endpoint.
        stale: bool,
        /// The time ran out (else the connection failed).
        timeout: bool,
    },
    /// Sent whole, and no answer that counts.
    Unanswered {
        /// Why there is none.
        silence: Silence,
        /// What happened, for people.
        cause: String,
    },
    /// Our side is at fault, not the endpoint's: content could not be read or converted. The endpoint's health is untouched.
    Local {
        /// What happened.
        cause: String,
        /// The content itself is at fault and no retry will mend it (not convertible, not to be framed).
        permanent: bool,
    },
    /// The content is damaged in the spool. Nothing is wrong with what the sender gave us, so it is held for people and never refused for good.
    Damaged {
        /// What happened.
        cause: String,
    },
}

/// Why there was no answer that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Silence {
    /// None in time.
    Timeout,
    /// Connection lost.
    Lost,
    /// An answer that cannot be ours: no MSA, wrong MSA-2, or a DIMSE protocol fault.
    WrongAnswer,
}

impl Outcome {
    /// What it means for an attempt that content could not be read from the spool.
    #[cfg(feature = "io")]
    pub(crate) fn unreadable(error: &crate::spool::SpoolError) -> Outcome {
        let cause = error.to_string();
        if matches!(error, crate::spool::SpoolError::Damaged { .. }) {
            Outcome::Damaged { cause }
        } else {
            Outcome::Local { cause, permanent: false }
        }
    }

    /// The phase in which the attempt ended.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self {
            Outcome::NotSent { phase, .. } => *phase,
            Outcome::NoContext { .. } | Outcome::AssociationRejected { .. } => Phase::Associate,
            Outcome::Local { .. } | Outcome::Damaged { .. } => Phase::Transmit,
            Outcome::Acknowledged { .. } | Outcome::SilenceAsked | Outcome::Stored { .. } | Outcome::AlreadyThere | Outcome::Unanswered { .. } => {
                Phase::Answer
            }
        }
    }
}

/// What an outcome means for the envelope (design: the tables that decide).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Custody ends.
    Delivered,
    /// Custody ends, with something to look at.
    DeliveredWithWarning,
    /// Custody ends by the silence the message asked for.
    Unconfirmed,
    /// The same endpoint again, after backoff.
    Retry,
    /// Another endpoint.
    Elsewhere,
    /// Out of the lane, kept until an operator decides.
    DeadLetter,
    /// Kept where it is until an operator decides.
    Hold,
    /// May have been kept by the endpoint: the destination's policy decides.
    Ambiguous,
}

impl Verdict {
    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Delivered => "delivered",
            Verdict::DeliveredWithWarning => "delivered with warning",
            Verdict::Unconfirmed => "delivered, unconfirmed",
            Verdict::Retry => "retry",
            Verdict::Elsewhere => "elsewhere",
            Verdict::DeadLetter => "dead letter",
            Verdict::Hold => "hold",
            Verdict::Ambiguous => "ambiguous",
        }
    }

    /// For scripts.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Verdict::DeliveredWithWarning => "delivered-with-warning",
            Verdict::Unconfirmed => "unconfirmed",
            Verdict::DeadLetter => "dead-letter",
            Verdict::Delivered | Verdict::Retry | Verdict::Elsewhere | Verdict::Hold | Verdict::Ambiguous => self.name(),
        }
    }
}
