//! The one table that decides what an outcome means: for the envelope (`Verdict`) and for the endpoint (`Blame`). Nowhere else is an answer judged.
//!
//! Rules: peer fault and message fault are kept apart: a negative answer proves that an endpoint lives, a refused content says nothing against it.
//! Custody never ends here but through a positive answer, or the silence that the message itself asked for. An unknown code is retried, never
//! taken for success and never for a reason to give up. Texts name codes and phases; a peer's free text does not pass through.
//! Errors: none; every outcome has a row. Each row of both tables (HL7: v2.5.1 chapter 2, tables 0008 and 0357; DICOM: PS3.4 B.2.3, PS3.7 annex C,
//! PS3.8 9.3.4) has a test below.

use super::{AckCode, Outcome, Silence, Verdict};
use crate::config::{Ambiguous, Destination, OnAe};
use crate::endpoint::Blame;

/// The destination's say in the matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policies {
    /// `on_ae`.
    pub on_ae: OnAe,
    /// `ambiguous`.
    pub ambiguous: Ambiguous,
}

impl Policies {
    /// Those of a destination.
    #[must_use]
    pub fn of(destination: &Destination) -> Self {
        Self { on_ae: destination.on_ae, ambiguous: destination.ambiguous }
    }
}

/// What is known of envelope and endpoint when an attempt ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Situation {
    /// The endpoint is the first of the destination's list.
    pub preferred: bool,
    /// The endpoint may already have the message from us: an earlier attempt was sent whole, was lost with a crash, or this is a replay.
    pub resend: bool,
    /// An earlier attempt at this very endpoint ended sent but unanswered.
    pub ambiguous_here: bool,
    /// Every other endpoint of the destination has refused this message for what it is (`Ruling::unwanted`).
    pub last_resort: bool,
}

/// A condition that people should look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Concern {
    /// The endpoint rejects our associations for good: AE titles, or no support.
    AssociationRejected,
    /// It says it has an instance that, as far as we know, we never sent to it.
    UnexpectedDuplicate,
}

impl Concern {
    /// For people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Concern::AssociationRejected => "rejects our association permanently; check the AE titles known to the peer",
            Concern::UnexpectedDuplicate => "says it already has an instance that was never sent to it; check for two senders with the same UIDs",
        }
    }
}

/// The table's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruling {
    /// For the envelope.
    pub verdict: Verdict,
    /// For the endpoint.
    pub blame: Blame,
    /// What was seen, for people: "AE 204", "A700H, out of resources". No patient data.
    pub seen: String,
    /// Sent whole, unanswered: recorded whatever the policy makes of it.
    pub ambiguous: bool,
    /// The endpoint refused this message for what it is, and will again: other endpoints are asked, this one not a second time.
    pub unwanted: bool,
    /// An alarm, if the row asks for one.
    pub concern: Option<Concern>,
}

impl Ruling {
    fn new(verdict: Verdict, blame: Blame, seen: impl Into<String>) -> Self {
        Self { verdict, blame, seen: seen.into(), ambiguous: false, unwanted: false, concern: None }
    }

    fn unwanted(mut self) -> Self {
        self.unwanted = true;
        self
    }

    fn concerning(mut self, concern: Concern) -> Self {
        self.concern = Some(concern);
        self
    }
}

/// Judges one outcome.
#[must_use]
pub fn judge(outcome: &Outcome, policies: Policies, here: Situation) -> Ruling {
    match outcome {
        Outcome::Acknowledged { code, error } => acknowledged(*code, *error, policies, here),
        Outcome::SilenceAsked => Ruling::new(Verdict::Unconfirmed, Blame::Silent, "sent; the message asked for no answer"),
        Outcome::Stored { status } => stored(*status, here),
        // A query says nothing of whether objects are taken: neither good nor bad for the endpoint.
        Outcome::AlreadyThere => Ruling::new(Verdict::Delivered, Blame::None, "already there: the endpoint named it when asked, nothing was sent"),
        Outcome::NoContext { sop_class, transfer_syntax } => {
            let seen = format!("no presentation context for SOP class {sop_class} with transfer syntax {transfer_syntax}");
            Ruling::new(wanted_nowhere(here), Blame::Answered, seen).unwanted()
        }
        Outcome::AssociationRejected { permanent, source, reason } => {
            let lasting = if *permanent { "permanently" } else { "for now" };
            let seen = format!("association rejected {lasting} (source {source}, reason {reason}: {})", reject_reason(*source, *reason));
            let ruling = Ruling::new(Verdict::Elsewhere, Blame::Refused, seen);
            if *permanent { ruling.concerning(Concern::AssociationRejected) } else { ruling }
        }
        Outcome::NotSent { phase, cause, stale, timeout } => {
            let seen = if *timeout { format!("no progress in phase {phase}: {cause}") } else { format!("{phase}: {cause}") };
            Ruling::new(Verdict::Retry, Blame::NotSent { phase: *phase, stale: *stale }, seen)
        }
        Outcome::Unanswered { silence, cause } => unanswered(*silence, cause, policies),
        Outcome::Damaged { cause } => Ruling::new(Verdict::Hold, Blame::None, format!("on our side: {cause}")),
        Outcome::Local { cause, permanent: true } => Ruling::new(Verdict::DeadLetter, Blame::None, format!("on our side: {cause}")),
        Outcome::Local { cause, permanent: false } => Ruling::new(Verdict::Retry, Blame::None, format!("on our side: {cause}")),
    }
}

/// HL7 v2.5.1 chapter 2, 2.9.2 and 2.9.3; error codes of table 0357.
fn acknowledged(code: AckCode, error: Option<u16>, policies: Policies, here: Situation) -> Ruling {
    let seen = error.map_or_else(|| format!("{code:?}"), |e| format!("{code:?} {e}"));
    let rule = |verdict, blame| Ruling::new(verdict, blame, seen.clone());
    match (code, error) {
        (AckCode::AA | AckCode::CA, _) => rule(Verdict::Delivered, Blame::Answered),
        // Message type, event, processing id, version: no other try will be taken.
        (AckCode::CR, _) | (AckCode::AE | AckCode::AR, Some(200..=203)) => rule(Verdict::DeadLetter, Blame::Answered),
        // Not the content: the receiver cannot take it now. 206 locked, 207 internal error.
        (AckCode::AR | AckCode::CE, _) | (AckCode::AE, Some(206 | 207)) => rule(Verdict::Retry, Blame::Refused),
        (AckCode::AE, Some(205)) if here.resend => rule(Verdict::DeliveredWithWarning, Blame::Answered),
        // Unknown key: an endpoint that lags behind the preferred one may not know a patient that the preferred one knows.
        (AckCode::AE, Some(204)) if !here.preferred && !here.last_resort => rule(Verdict::Elsewhere, Blame::Answered).unwanted(),
        (AckCode::AE, _) => rule(on_ae(policies.on_ae), Blame::Answered),
    }
}

fn on_ae(policy: OnAe) -> Verdict {
    match policy {
        OnAe::DeadLetter => Verdict::DeadLetter,
        OnAe::Retry => Verdict::Retry,
        OnAe::Hold => Verdict::Hold,
    }
}

/// C-STORE response statuses: PS3.4 table B.2-1, PS3.7 annex C.
fn stored(status: u16, here: Situation) -> Ruling {
    let rule = |verdict, blame, text: &str| Ruling::new(verdict, blame, format!("{status:04X}H, {text}"));
    match status {
        0x0000 => rule(Verdict::Delivered, Blame::Answered, "success"),
        0x0001 | 0xB000..=0xBFFF | 0x0107 | 0x0116 => rule(Verdict::DeliveredWithWarning, Blame::Answered, "warning"),
        0xA700..=0xA7FF => rule(Verdict::Elsewhere, Blame::Refused, "out of resources"),
        0x0110 => rule(Verdict::Elsewhere, Blame::Refused, "processing failure"),
        0x0124 => rule(Verdict::Elsewhere, Blame::Refused, "not authorized"),
        0x0213 => rule(Verdict::Elsewhere, Blame::Refused, "resource limitation"),
        0x0122 => rule(wanted_nowhere(here), Blame::Answered, "SOP class not supported").unwanted(),
        0x0111 if here.ambiguous_here => rule(Verdict::Delivered, Blame::Answered, "duplicate of what an unanswered attempt had sent"),
        0x0111 => rule(Verdict::DeliveredWithWarning, Blame::Answered, "duplicate SOP instance").concerning(Concern::UnexpectedDuplicate),
        // Faults of the conversation, not of the content: the courier aborts, the next try is on a new association.
        0x0210..=0x0212 | 0xFE00 | 0xFF00..=0xFFFF => rule(Verdict::Retry, Blame::Refused, "DIMSE protocol fault"),
        0xA900..=0xA9FF => rule(Verdict::DeadLetter, Blame::Answered, "data set does not match SOP class"),
        0xC000..=0xCFFF => rule(Verdict::DeadLetter, Blame::Answered, "cannot understand"),
        0x0117 => rule(Verdict::DeadLetter, Blame::Answered, "invalid SOP instance"),
        // The other failures of PS3.7 annex C.5 that concern the content: attribute values, arguments, class and instance.
        0x0105 | 0x0106 | 0x0112..=0x0115 | 0x0118..=0x0121 | 0x0123 => rule(Verdict::DeadLetter, Blame::Answered, "content refused"),
        0xA000..=0xAFFF => rule(Verdict::Elsewhere, Blame::Refused, "refused"),
        _ => rule(Verdict::Retry, Blame::Refused, "status unknown to the standard"),
    }
}

fn wanted_nowhere(here: Situation) -> Verdict {
    if here.last_resort { Verdict::DeadLetter } else { Verdict::Elsewhere }
}

fn unanswered(silence: Silence, cause: &str, policies: Policies) -> Ruling {
    let verdict = match policies.ambiguous {
        Ambiguous::Resend => Verdict::Ambiguous,
        Ambiguous::Hold => Verdict::Hold,
    };
    let blame = match silence {
        Silence::Timeout => Blame::Timeout,
        Silence::Lost | Silence::WrongAnswer => Blame::Lost,
    };
    let what = match silence {
        Silence::Timeout => "sent whole, no answer in time",
        Silence::Lost => "sent whole, connection lost before the answer",
        Silence::WrongAnswer => "sent whole, an answer that cannot be ours",
    };
    Ruling { ambiguous: true, ..Ruling::new(verdict, blame, format!("{what}: {cause}")) }
}

/// PS3.8 table 9-21.
fn reject_reason(source: u8, reason: u8) -> &'static str {
    match (source, reason) {
        (1, 2) => "application context not supported",
        (1, 3) => "calling AE title not recognized",
        (1, 7) => "called AE title not recognized",
        (2, 2) => "protocol version not supported",
        (3, 1) => "temporary congestion",
        (3, 2) => "local limit exceeded",
        _ => "no reason given",
    }
}

#[cfg(test)]
mod tests {
    use super::super::Phase;
    use super::*;
    use Verdict::{Ambiguous as Unclear, DeadLetter, Delivered, DeliveredWithWarning, Elsewhere, Hold, Retry, Unconfirmed};

    const DEFAULT: Policies = Policies { on_ae: OnAe::DeadLetter, ambiguous: Ambiguous::Resend };
    const FIRST: Situation = Situation { preferred: true, resend: false, ambiguous_here: false, last_resort: false };
    const SECOND: Situation = Situation { preferred: false, ..FIRST };
    const RESEND: Situation = Situation { resend: true, ..FIRST };
    const LAST: Situation = Situation { last_resort: true, ..SECOND };
    const UNCLEAR_HERE: Situation = Situation { ambiguous_here: true, ..RESEND };

    fn ack(code: AckCode, error: u16) -> Outcome {
        Outcome::Acknowledged { code, error: (error != 0).then_some(error) }
    }

    /// One line of the HL7 table: codes, errors (0: none), where, what it means.
    type HlRow<'a> = (&'a [AckCode], &'a [u16], Situation, Verdict, Blame);

    #[test]
    fn hl7_table() {
        use AckCode::{AA, AE, AR, CA, CE, CR};
        let rows: &[HlRow<'_>] = &[
            // AA, CA: delivered.
            (&[AA, CA], &[0, 100, 207], FIRST, Delivered, Blame::Answered),
            // CR: dead letter.
            (&[CR], &[0, 100, 200, 207], FIRST, DeadLetter, Blame::Answered),
            // AE and AR with 200 to 203: dead letter.
            (&[AE, AR], &[200, 201, 202, 203], FIRST, DeadLetter, Blame::Answered),
            // AR; CE; AE with 206 or 207: retry without end.
            (&[AR], &[0, 100, 101, 102, 204, 205, 206, 207], FIRST, Retry, Blame::Refused),
            (&[CE], &[0, 100, 200, 203, 206, 207], FIRST, Retry, Blame::Refused),
            (&[AE], &[206, 207], FIRST, Retry, Blame::Refused),
            // AE with 205 to a resend: delivered with warning; to a first attempt it is an AE as any other.
            (&[AE], &[205], RESEND, DeliveredWithWarning, Blame::Answered),
            (&[AE], &[205], FIRST, DeadLetter, Blame::Answered),
            // AE with 204 on an endpoint that is not the preferred one: until every endpoint has refused.
            (&[AE], &[204], SECOND, Elsewhere, Blame::Answered),
            (&[AE], &[204], LAST, DeadLetter, Blame::Answered),
            (&[AE], &[204], FIRST, DeadLetter, Blame::Answered),
            // AE otherwise: on_ae.
            (&[AE], &[0, 100, 101, 102, 103, 198, 208], FIRST, DeadLetter, Blame::Answered),
        ];
        for (codes, errors, here, verdict, blame) in rows {
            for (code, error) in codes.iter().flat_map(|c| errors.iter().map(move |e| (*c, *e))) {
                let ruling = judge(&ack(code, error), DEFAULT, *here);
                assert_eq!((ruling.verdict, ruling.blame), (*verdict, *blame), "{code:?} {error} {here:?}");
                assert!(!ruling.ambiguous);
                assert_eq!(ruling.unwanted, *verdict == Elsewhere, "{code:?} {error}");
            }
        }
    }

    #[test]
    fn on_ae_decides_for_the_other_ae_only() {
        for (policy, verdict) in [(OnAe::DeadLetter, DeadLetter), (OnAe::Retry, Retry), (OnAe::Hold, Hold)] {
            let policies = Policies { on_ae: policy, ..DEFAULT };
            for (error, here) in [(0, FIRST), (103, FIRST), (204, FIRST), (204, LAST), (205, FIRST)] {
                assert_eq!(judge(&ack(AckCode::AE, error), policies, here).verdict, verdict, "AE {error}");
            }
            assert_eq!(judge(&ack(AckCode::AE, 200), policies, FIRST).verdict, DeadLetter);
            assert_eq!(judge(&ack(AckCode::AE, 207), policies, FIRST).verdict, Retry);
            assert_eq!(judge(&ack(AckCode::CR, 0), policies, FIRST).verdict, DeadLetter);
        }
    }

    #[test]
    fn silence_is_ambiguous_unless_the_message_asked_for_it() {
        for (silence, blame) in [(Silence::Timeout, Blame::Timeout), (Silence::Lost, Blame::Lost), (Silence::WrongAnswer, Blame::Lost)] {
            let outcome = Outcome::Unanswered { silence, cause: "x".to_owned() };
            let ruling = judge(&outcome, DEFAULT, FIRST);
            assert_eq!((ruling.verdict, ruling.blame, ruling.ambiguous), (Unclear, blame, true));
            let ruling = judge(&outcome, Policies { ambiguous: Ambiguous::Hold, ..DEFAULT }, FIRST);
            assert_eq!((ruling.verdict, ruling.blame, ruling.ambiguous), (Hold, blame, true));
        }
        let ruling = judge(&Outcome::SilenceAsked, DEFAULT, FIRST);
        assert_eq!((ruling.verdict, ruling.blame, ruling.ambiguous), (Unconfirmed, Blame::Silent, false));
    }

    #[test]
    fn dimse_table() {
        let rows: &[(&[u16], Situation, Verdict, Blame)] = &[
            (&[0x0000], FIRST, Delivered, Blame::Answered),
            // Warning class.
            (&[0x0001, 0xB000, 0xB006, 0xB007, 0xBFFF, 0x0107, 0x0116], FIRST, DeliveredWithWarning, Blame::Answered),
            // Elsewhere, else retry without end.
            (&[0xA700, 0xA701, 0xA7FF, 0x0110, 0x0124, 0x0213], FIRST, Elsewhere, Blame::Refused),
            (&[0xA700, 0x0110, 0x0124, 0x0213], LAST, Elsewhere, Blame::Refused),
            // Failures of the content.
            (&[0xA900, 0xA9FF, 0xC000, 0xC123, 0xCFFF, 0x0117], FIRST, DeadLetter, Blame::Answered),
            (&[0x0105, 0x0106, 0x0112, 0x0115, 0x0118, 0x0119, 0x0120, 0x0121, 0x0123], FIRST, DeadLetter, Blame::Answered),
            // SOP class not supported: elsewhere; dead letter only when every endpoint refused it.
            (&[0x0122], FIRST, Elsewhere, Blame::Answered),
            (&[0x0122], LAST, DeadLetter, Blame::Answered),
            // Duplicate: of what an ambiguous attempt there had sent, or else with warning and alarm.
            (&[0x0111], UNCLEAR_HERE, Delivered, Blame::Answered),
            (&[0x0111], FIRST, DeliveredWithWarning, Blame::Answered),
            (&[0x0111], RESEND, DeliveredWithWarning, Blame::Answered),
            // Protocol faults.
            (&[0x0210, 0x0211, 0x0212, 0xFE00, 0xFF00, 0xFF01, 0xFFFF], FIRST, Retry, Blame::Refused),
            // Unknown to the standard: never success, never given up.
            (&[0x0002, 0x1234, 0x8000, 0xD000, 0xFD00], FIRST, Retry, Blame::Refused),
            (&[0xA000, 0xA800, 0xAA00], FIRST, Elsewhere, Blame::Refused),
        ];
        for (statuses, here, verdict, blame) in rows {
            for status in *statuses {
                let ruling = judge(&Outcome::Stored { status: *status }, DEFAULT, *here);
                assert_eq!((ruling.verdict, ruling.blame), (*verdict, *blame), "{status:04X}H {here:?}");
                assert_eq!(ruling.unwanted, *status == 0x0122, "{status:04X}H");
                let alarmed = *status == 0x0111 && *verdict == DeliveredWithWarning;
                assert_eq!(ruling.concern, alarmed.then_some(Concern::UnexpectedDuplicate), "{status:04X}H");
                assert!(ruling.seen.starts_with(&format!("{status:04X}H")), "{}", ruling.seen);
            }
        }
    }

    #[test]
    fn every_status_has_a_row_and_custody_ends_only_by_success_or_warning() {
        for status in 0..=u16::MAX {
            let verdict = judge(&Outcome::Stored { status }, DEFAULT, FIRST).verdict;
            let positive = matches!(status, 0x0000 | 0x0001 | 0x0107 | 0x0111 | 0x0116 | 0xB000..=0xBFFF);
            assert_eq!(matches!(verdict, Delivered | DeliveredWithWarning | Unconfirmed), positive, "{status:04X}H");
        }
    }

    #[test]
    fn no_context_is_a_dead_letter_only_when_every_endpoint_refused_and_names_both() {
        let outcome = Outcome::NoContext { sop_class: "1.2.3".to_owned(), transfer_syntax: "4.5.6".to_owned() };
        for here in [FIRST, SECOND] {
            let ruling = judge(&outcome, DEFAULT, here);
            assert_eq!((ruling.verdict, ruling.blame, ruling.unwanted), (Elsewhere, Blame::Answered, true));
        }
        let ruling = judge(&outcome, DEFAULT, LAST);
        assert_eq!((ruling.verdict, ruling.unwanted), (DeadLetter, true));
        assert!(ruling.seen.contains("1.2.3") && ruling.seen.contains("4.5.6"));
    }

    #[test]
    fn a_rejected_association_goes_elsewhere_and_a_permanent_one_alarms() {
        for permanent in [false, true] {
            let ruling = judge(&Outcome::AssociationRejected { permanent, source: 1, reason: 7 }, DEFAULT, LAST);
            assert_eq!((ruling.verdict, ruling.blame), (Elsewhere, Blame::Refused));
            assert_eq!(ruling.concern, permanent.then_some(Concern::AssociationRejected));
            assert!(ruling.seen.contains("called AE title"), "{}", ruling.seen);
        }
    }

    #[test]
    fn before_the_last_byte_nothing_is_ambiguous() {
        use Phase::{Associate, Connect, Resolve, Tls, Transmit};
        for phase in [Resolve, Connect, Tls, Associate, Transmit] {
            for (stale, timeout) in [(false, false), (true, false), (false, true)] {
                let outcome = Outcome::NotSent { phase, cause: "x".to_owned(), stale, timeout };
                for policies in [DEFAULT, Policies { ambiguous: Ambiguous::Hold, ..DEFAULT }] {
                    let ruling = judge(&outcome, policies, FIRST);
                    assert_eq!((ruling.verdict, ruling.blame, ruling.ambiguous), (Retry, Blame::NotSent { phase, stale }, false));
                }
            }
        }
    }

    #[test]
    fn faults_of_ours_say_nothing_against_the_endpoint() {
        for (permanent, verdict) in [(false, Retry), (true, DeadLetter)] {
            let ruling = judge(&Outcome::Local { cause: "disk".to_owned(), permanent }, DEFAULT, FIRST);
            assert_eq!((ruling.verdict, ruling.blame), (verdict, Blame::None));
        }
        // Damaged content is held whatever the policies say of answers.
        for policies in [DEFAULT, Policies { on_ae: OnAe::Retry, ambiguous: Ambiguous::Hold }] {
            let ruling = judge(&Outcome::Damaged { cause: "disk".to_owned() }, policies, LAST);
            assert_eq!((ruling.verdict, ruling.blame, ruling.ambiguous, ruling.unwanted), (Hold, Blame::None, false, false));
        }
    }
}
