//! An operator's decisions on waiting envelopes: retry, hold, release, discard.
//! Rules: a decision is told when it is durable; one on an envelope in flight is refused, because how its attempt ends is not known yet. What is
//! discarded is out of reach at once and gone when that is durable.
//! Errors: `NotWaiting`, `WrongState` with what to do instead, `Limit` for a discard without a reason.

use crate::config::LaneRule;
use crate::ids::{DestinationId, EnvelopeId};
use crate::spool::envelope::{Decision, State};
use crate::spool::error::SpoolError;
use crate::spool::group::{self, Effect, Waiter, Work};
use crate::spool::journal::lock;
use crate::spool::record::{self, Code, StateRecord};
use crate::spool::{Done, Inner, Spool, UnixMillis};
use std::sync::Arc;

impl Spool {
    /// Carries out an operator's decision; `done` when durable.
    pub fn decide(&self, id: EnvelopeId, decision: Decision, at: UnixMillis, done: Done<()>) {
        let inner = &self.inner;
        let mut index = lock(&inner.index);
        let Some((destination, place)) = index.find(id.0) else {
            drop(index);
            return done(Err(SpoolError::NotWaiting(id)));
        };
        let mut state = index.record(id.0, 0, place);
        state.at = at;
        (state.code, state.flags) = match (decision, place.state) {
            (_, State::InFlight) => {
                drop(index);
                return done(Err(in_flight(id)));
            }
            (Decision::Discard { reason }, _) => {
                drop(index);
                if reason.is_empty() || reason.len() > 255 {
                    return done(Err(SpoolError::Limit("a reason of 1 to 255 bytes is needed to discard".to_owned())));
                }
                return inner.discard(id, destination, state, reason, done);
            }
            (Decision::Retry, State::Deferred | State::Ready | State::DeadLetter) | (Decision::Release, State::Held) => {
                (Code::Ready, state.flags | if place.aside { record::OUT_OF_ORDER } else { 0 })
            }
            (Decision::Hold(rule), State::Ready | State::Deferred | State::Held) => {
                (Code::Held, state.flags | if rule == LaneRule::Continue { record::LEFT_LANE } else { 0 })
            }
            (decision, now) => {
                drop(index);
                let remedy = match decision {
                    Decision::Retry => "release it first",
                    Decision::Release => "only a held one can be released",
                    Decision::Hold(_) | Decision::Discard { .. } => "retry or discard it",
                };
                return done(Err(SpoolError::WrongState { id, state: now.name(), remedy }));
            }
        };
        index.decide(id.0, destination, &state);
        let lsn = group::push_state(&mut lock(&inner.queue), &state, Effect::State(Vec::new()), Waiter::Synced(done));
        index.state_numbered(id.0, lsn);
        drop(index);
        // A hold that leaves the lane sets those behind it free.
        if state.code == Code::Ready || state.flags & record::LEFT_LANE != 0 {
            inner.wake(destination);
        }
        inner.ask(Work::Urgent);
    }
}

impl Inner {
    /// Ends an envelope by an operator's decision: out of reach now, gone when that is durable.
    fn discard(self: &Arc<Self>, id: EnvelopeId, destination: DestinationId, mut state: StateRecord, reason: String, done: Done<()>) {
        state.code = Code::Discarded;
        state.text = reason;
        let stored = self.stored(id.0).ok().flatten();
        state.message = stored.as_ref().map_or(0, |s| s.id);
        let mut index = lock(&self.index);
        let before = match index.find(id.0).map(|(_, place)| place) {
            Some(place) if place.state != State::InFlight => {
                state.message_at = place.at;
                index.reserve(id.0, destination)
            }
            found => {
                drop(index);
                return done(Err(found.map_or(SpoolError::NotWaiting(id), |_| in_flight(id))));
            }
        };
        let inner = Arc::clone(self);
        let after: Done<()> = Box::new(move |result| {
            let mut index = lock(&inner.index);
            if result.is_ok() {
                let ended = index.end(id.0, destination, stored.as_deref(), Code::Discarded);
                drop(index);
                lock(&inner.recent).discarded(id.0);
                inner.content.release(&ended.extents);
            } else if let Some(before) = before {
                index.restore(id.0, destination, before);
                drop(index);
            }
            inner.wake(destination);
            done(result);
        });
        group::push_state(&mut lock(&self.queue), &state, Effect::Copied, Waiter::Synced(after));
        drop(index);
        self.ask(Work::Urgent);
    }
}

fn in_flight(id: EnvelopeId) -> SpoolError {
    SpoolError::WrongState { id, state: "in flight", remedy: "decide when the attempt has ended" }
}
