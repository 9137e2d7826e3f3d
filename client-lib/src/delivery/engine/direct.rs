//! Attempts that no envelope stands behind (`Client::send`): their endpoints are chosen, and what they met is judged, as those of traffic are.
//! Rules: the machine that chooses endpoints hears of each of them, so that a destination that left an endpoint for one message has left it for all;
//! while nothing is in service and the machine tries one endpoint at a time, the others may be tried without it.
//! Errors: none.

use super::{Blame, Choice, End, EndpointId, Engine, EnvelopeId, Moment, Next, Outcome, Ruling, Situation, Verdict, Wish, judge};
use crate::endpoint::{Admin, EndpointSet};
use std::sync::Arc;
use std::time::Instant;

/// An attempt under way. It is given back with `direct_ended` or `direct_forgotten`.
#[derive(Debug)]
pub struct Direct {
    /// Where.
    pub endpoint: EndpointId,
    /// The endpoint's name.
    pub name: Arc<str>,
    /// On a fresh connection.
    pub fresh: bool,
    /// `None`: the machine does not know of it.
    choice: Option<Choice>,
    since: Instant,
}

impl Engine {
    /// Where a message that is not in the spool goes now, if anywhere: not to `avoid`; to `again`, if it still serves.
    pub fn direct(&mut self, avoid: EndpointSet, again: Option<EndpointId>, now: Moment) -> Option<Direct> {
        let chosen = self.failover.choose(Wish { avoid, again, ..Wish::default() }, now.at);
        let endpoint = match chosen {
            Some(choice) => choice.endpoint,
            None => (0..self.failover.len())
                .filter_map(|place| u16::try_from(place).ok().map(EndpointId))
                .find(|e| !avoid.contains(*e) && self.failover.admin(*e) == Some(Admin::Enabled))?,
        };
        let name = Arc::clone(&self.failover.endpoint(endpoint)?.name);
        let fresh = chosen.is_none_or(|choice| choice.fresh);
        Some(Direct { endpoint, name, fresh, choice: chosen, since: now.at })
    }

    /// It ended. `same`: under the settings it was begun under. `tries`: attempts on this endpoint in a row, this one included; `resend`: it may have the message from an earlier one.
    pub fn direct_ended(&mut self, direct: &Direct, same: bool, outcome: &Outcome, tries: u32, resend: bool, now: Moment) -> (Ruling, Next) {
        let preferred = direct.endpoint.index() == 0;
        let here = Situation { preferred, resend, ambiguous_here: resend, last_resort: self.failover.len() == 1 };
        let ruling = judge(outcome, self.policies, here);
        if matches!(ruling.blame, Blame::Answered | Blame::Refused) {
            self.answers += 1;
        }
        let Some(choice) = direct.choice.filter(|_| same) else { return (ruling, Next::Elsewhere) };
        // A number that no envelope has: what counts is that two messages have two.
        let envelope = EnvelopeId(u64::MAX - self.directs);
        self.directs += 1;
        let end = End { envelope, choice, started: direct.since, blame: ruling.blame, tries, seen: &ruling.seen };
        self.note_for_outage(&direct.name, ruling.blame, direct.since, now);
        let next = self.failover.ended(end, now.at);
        if matches!(ruling.verdict, Verdict::Delivered | Verdict::DeliveredWithWarning | Verdict::Unconfirmed) {
            self.delivered_in_outage(&direct.name, None, now);
        }
        self.absorb(now);
        (ruling, next)
    }

    /// It came to nothing before it began.
    pub fn direct_forgotten(&mut self, direct: &Direct, same: bool, now: Moment) {
        if let Some(choice) = direct.choice.filter(|_| same) {
            self.failover.forget(choice, now.at);
            self.absorb(now);
        }
    }
}
