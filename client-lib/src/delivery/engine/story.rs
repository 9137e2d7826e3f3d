//! What an attempt leaves behind in the story of its envelope.
//! Rules: made once, when the attempt ended and everything about it is decided; codes and names only, a peer's words never.
//! Errors: none.

use super::{Engine, Flight, Moment};
use crate::delivery::verdict::Ruling;
use crate::delivery::{Outcome, Phase, Verdict};
use crate::ids::EnvelopeId;
use crate::spool::{Answer, AttemptRecord, Envelope};
use std::net::SocketAddr;
use std::sync::Arc;

impl Engine {
    /// An attempt was connected to this address. Called before `ended`.
    pub fn met(&mut self, id: EnvelopeId, address: SocketAddr) {
        if let Some(flight) = self.flights.get_mut(&id) {
            flight.address = Some(address);
        }
    }

    /// Whether an attempt goes to an endpoint that is in service now.
    pub(super) fn is_active(&self, flight: &Flight) -> bool {
        flight.choice.is_some_and(|choice| self.failover.active().contains(&choice.endpoint))
    }

    /// The record of an attempt that ended. `was_active`: its endpoint was in service before the end was told.
    pub(super) fn told(&self, flight: &Flight, outcome: &Outcome, ruling: &Ruling, verdict: Verdict, was_active: bool, now: Moment) -> AttemptRecord {
        let took = now.at.saturating_duration_since(flight.since);
        let text = format!("{}: {}", verdict.name(), ruling.seen);
        let left_for = (was_active && !self.is_active(flight)).then(|| {
            let next = self.failover.active().first().and_then(|next| self.failover.endpoint(*next));
            next.map_or_else(|| Arc::from(""), |next| Arc::clone(&next.name))
        });
        AttemptRecord {
            address: flight.address,
            answer: Answer::of(outcome),
            verdict: Some(verdict),
            ambiguous: ruling.ambiguous,
            left_for,
            ..AttemptRecord::new(Arc::clone(&flight.name), outcome.phase(), text, now.wall).lasting(took)
        }
    }
}

/// The end of an attempt that was begun before a restart.
pub(super) fn never_ended(envelope: &Envelope, now: Moment) -> AttemptRecord {
    let outcome = "hold: an attempt was begun before the restart and how it ended is not known".to_owned();
    let endpoint = envelope.ambiguous_at.last().map_or_else(|| Arc::from(""), Arc::clone);
    AttemptRecord { verdict: Some(Verdict::Hold), ambiguous: true, ..AttemptRecord::new(endpoint, Phase::Answer, outcome, now.wall) }
}

/// The end of an attempt that nobody listens to any more.
pub(super) fn cut(flight: &Flight, now: Moment) -> AttemptRecord {
    let outcome = "ambiguous: cut when the delivery loop was started again".to_owned();
    let took = now.at.saturating_duration_since(flight.since);
    let record = AttemptRecord::new(Arc::clone(&flight.name), Phase::Answer, outcome, now.wall).lasting(took);
    AttemptRecord { verdict: Some(Verdict::Ambiguous), address: flight.address, ambiguous: true, ..record }
}
