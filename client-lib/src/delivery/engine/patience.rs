//! How long an envelope stays with an endpoint that does not take it: refused for now again and again, or cut off while others are answered.
//! Rules
//! - Refused for now (AR, CE, AE with 206 or 207, a DIMSE protocol fault): `REFUSALS_IN_PLACE` times at the same endpoint, with backoff; then each other
//!   endpoint that is good is asked once, at once; then it rests, and a new round begins. A lane with one envelope in flight (`strict`) could not get
//!   past an endpoint that refuses everything otherwise: three different envelopes in a row, for which a destination leaves, never come together there.
//! - Failed without an answer wherever it goes, while others are answered in between: the message is at fault, and only it waits.
//!
//! Errors: none.

use super::Engine;
use crate::delivery::scheduler::Memo;
use crate::delivery::verdict::Ruling;
use crate::delivery::{Phase, Verdict};
use crate::endpoint::Blame;
use crate::endpoint::failover::Next;
use crate::ids::EndpointId;

impl Engine {
    /// What follows a refusal for now, if nothing else is said by `next`.
    pub(super) fn patience(&self, memo: &mut Memo, ruling: &Ruling, here: Option<EndpointId>, next: Next) -> Next {
        let (Verdict::Retry, Blame::Refused, Next::Verdict, Some(here)) = (ruling.verdict, ruling.blame, next, here) else { return next };
        memo.refusals = memo.refusals.saturating_add(1);
        if memo.refusals < REFUSALS_IN_PLACE {
            return next;
        }
        let mut asked = memo.avoid();
        asked.insert(here);
        if self.failover.has_place_for(asked) {
            return Next::Elsewhere;
        }
        memo.new_round();
        next
    }

    /// Whether this message fails, with its bytes on the way or sent, wherever it goes, while others are answered in between: then it says nothing
    /// about the endpoint, and only it waits.
    pub(super) fn is_poison(&mut self, memo: &mut Memo, ruling: &Ruling, phase: Phase) -> bool {
        match ruling.blame {
            Blame::Answered | Blame::Refused => {
                self.answers += 1;
                false
            }
            Blame::NotSent { stale: false, .. } | Blame::Lost | Blame::Timeout if phase >= Phase::Transmit => {
                let (strikes, last) = memo.strikes;
                let passed = last != 0 && self.answers >= last;
                memo.strikes = (strikes.saturating_add(u8::from(passed)), self.answers + 1);
                memo.strikes.0 >= STRIKES
            }
            _ => false,
        }
    }
}

/// Refusals of an envelope at one endpoint before the others are asked: once or twice may be a moment's trouble, and another receiver may not be
/// meant to see single messages.
const REFUSALS_IN_PLACE: u8 = 3;

/// Failures without an answer, each with answers to others since the one before, after which a message and not the endpoint is at fault: once may
/// be chance, a connection cut while it was on the way.
const STRIKES: u8 = 2;
