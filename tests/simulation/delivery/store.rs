//! A spool in memory, as simple as can be: the model that deliveries are checked against, and a store for worlds that test the engine alone.
//! Rules: order and lanes as `spool` promises them; a crash forgets what was settled in the last 10 ms, as a real one may.

use everpost_client::config::LaneRule;
use everpost_client::delivery::replay::Command;
use everpost_client::ids::{DestinationId, EnvelopeId, MessageId};
use everpost_client::keys::Keys;
use everpost_client::spool::{Decision, Envelope, Lane, Mark, Planned, Settlement, State, Take, UnixMillis};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What the world asks of a spool.
pub(crate) trait Store {
    fn commit(&mut self, lane: Lane) -> EnvelopeId;
    fn take(&mut self, want: Take) -> Option<Envelope>;
    fn settle(&mut self, id: EnvelopeId, settlement: Settlement, at: Duration, synced: bool);
    fn due(&mut self, id: EnvelopeId);
    fn untake(&mut self, id: EnvelopeId);
    fn decide(&mut self, id: EnvelopeId, decision: Decision);
    fn state(&self, id: EnvelopeId) -> State;
    /// How many of these are waiting to be delivered.
    fn waiting(&self, all: &[EnvelopeId]) -> usize {
        all.iter().filter(|id| matches!(self.state(**id), State::Ready | State::InFlight | State::Deferred)).count()
    }
    /// Those of these that wait for an operator.
    fn stopped(&self, all: &[EnvelopeId]) -> Vec<(EnvelopeId, State)> {
        all.iter().map(|id| (*id, self.state(*id))).filter(|(_, state)| matches!(state, State::Held | State::DeadLetter)).collect()
    }
    /// Does what a replay needs of the spool.
    fn replay(&mut self, _: &Command, _: UnixMillis) -> Result<Planned, String> {
        Ok(Planned::default())
    }
    /// Where the log is.
    fn mark(&self, at: UnixMillis) -> Mark {
        Mark { number: 0, at }
    }
    /// Replays that wait.
    fn replays_left(&self) -> u64 {
        0
    }
    /// What an earlier run remembered of replays.
    fn replay_state(&self) -> Option<(u64, Vec<u8>)> {
        None
    }
    /// The envelope that a replay repeats; any other one is its own.
    fn origin(&self, id: EnvelopeId) -> EnvelopeId {
        id
    }
    /// The process is gone; what was settled after `durable` may be gone with it.
    fn crash(&mut self, durable: Duration);
}

#[derive(Clone)]
struct Entry {
    lane: Lane,
    state: State,
    aside: bool,
    attempts: u32,
    ambiguous_at: Vec<Arc<str>>,
    recovered: bool,
    started: Option<Arc<str>>,
    interrupted: bool,
}

/// The store in memory.
#[derive(Default)]
pub(crate) struct Shelf {
    entries: BTreeMap<u64, Entry>,
    /// Before a settlement that is not yet durable: when, whose, what it was.
    undo: Vec<(Duration, u64, Entry)>,
}

impl Shelf {
    fn free(&self, number: u64, entry: &Entry) -> bool {
        let waits = |e: &Entry| e.state != State::Delivered && !e.aside;
        let blocks = |other: &Entry| match (other.lane, entry.lane) {
            (Lane::Barrier, _) | (_, Lane::Barrier) => true,
            (Lane::Key(a), Lane::Key(b)) => a == b,
            (Lane::Own, _) | (_, Lane::Own) => false,
        };
        entry.aside || !self.entries.range(..number).any(|(_, other)| waits(other) && blocks(other))
    }
}

impl Store for Shelf {
    fn commit(&mut self, lane: Lane) -> EnvelopeId {
        let number = self.entries.last_key_value().map_or(1, |(n, _)| n + 1);
        let entry = Entry {
            lane,
            state: State::Ready,
            aside: false,
            attempts: 0,
            ambiguous_at: Vec::new(),
            recovered: false,
            started: None,
            interrupted: false,
        };
        self.entries.insert(number, entry);
        EnvelopeId(number)
    }

    fn take(&mut self, _: Take) -> Option<Envelope> {
        let number = self.entries.iter().find(|(n, e)| e.state == State::Ready && self.free(**n, e)).map(|(n, _)| *n)?;
        let entry = self.entries.get_mut(&number)?;
        entry.state = State::InFlight;
        Some(Envelope {
            id: EnvelopeId(number),
            message: MessageId(number),
            destination: DestinationId(0),
            keys: Arc::new(Keys::new()),
            size: 1,
            accepted_at: super::world::BEGIN,
            lane: entry.lane,
            attempts: entry.attempts,
            ambiguous_at: entry.ambiguous_at.clone(),
            recovered: entry.recovered,
            interrupted: entry.interrupted,
            out_of_order: entry.aside,
            replay: false,
        })
    }

    fn settle(&mut self, id: EnvelopeId, settlement: Settlement, at: Duration, synced: bool) {
        let entry = self.entries.get_mut(&id.0).expect("settled, so known");
        assert_eq!(entry.state, State::InFlight, "only what is in flight can be settled: {id} {settlement:?}");
        let before = entry.clone();
        let (state, record, rule) = match settlement {
            Settlement::Started { endpoint, .. } => {
                entry.started = Some(endpoint);
                return;
            }
            Settlement::Note(_) => return,
            Settlement::Deferred(record) => (State::Deferred, record, LaneRule::Stop),
            Settlement::Delivered(record, _) => (State::Delivered, record, LaneRule::Stop),
            Settlement::ReplayEnded(record) => (State::ReplayEnded, record, LaneRule::Stop),
            Settlement::DeadLetter(record, rule) => (State::DeadLetter, record, rule),
            Settlement::Held(record, rule) => (State::Held, record, rule),
        };
        entry.started = None;
        entry.interrupted = false;
        if record.ambiguous && !entry.ambiguous_at.contains(&record.endpoint) {
            entry.ambiguous_at.push(record.endpoint);
        }
        entry.state = state;
        entry.attempts += 1;
        entry.aside |= rule == LaneRule::Continue;
        if !synced {
            self.undo.push((at, id.0, before));
        }
    }

    fn due(&mut self, id: EnvelopeId) {
        if let Some(entry) = self.entries.get_mut(&id.0).filter(|e| e.state == State::Deferred) {
            entry.state = State::Ready;
        }
    }

    fn untake(&mut self, id: EnvelopeId) {
        let entry = self.entries.get_mut(&id.0).expect("untaken, so known");
        assert_eq!(entry.state, State::InFlight);
        entry.state = State::Ready;
    }

    fn decide(&mut self, id: EnvelopeId, decision: Decision) {
        let entry = self.entries.get_mut(&id.0).expect("decided, so known");
        assert!(matches!(entry.state, State::Held | State::DeadLetter | State::Deferred), "{:?}", entry.state);
        entry.state = match decision {
            Decision::Retry | Decision::Release => State::Ready,
            Decision::Hold(_) => State::Held,
            Decision::Discard { .. } => State::Delivered,
        };
    }

    fn state(&self, id: EnvelopeId) -> State {
        self.entries[&id.0].state
    }

    fn crash(&mut self, durable: Duration) {
        for (at, number, before) in self.undo.drain(..).rev() {
            if at > durable {
                self.entries.insert(number, before);
            }
        }
        for entry in self.entries.values_mut() {
            entry.recovered = true;
            if let Some(endpoint) = entry.started.take() {
                entry.interrupted = true;
                entry.ambiguous_at.push(endpoint);
            }
            if matches!(entry.state, State::InFlight | State::Deferred) {
                entry.state = State::Ready;
            }
        }
    }
}
