//! Envelopes as the spool hands them out, what can become of them, and how people see them.
//! Rules: values only; what may follow what is decided in `lanes` and `index`.
//! Errors: none.

use crate::config::{LaneRule, Ordering};
use crate::event::Delivered;
use crate::ids::{DestinationId, EnvelopeId, MessageId};
use crate::keys::{Key, Keys};
use crate::spool::UnixMillis;
use crate::spool::attempt::AttemptRecord;
use std::sync::Arc;

/// One envelope-to-be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addressee {
    /// From `Spool::destination`.
    pub destination: DestinationId,
    /// Which envelopes it must not overtake.
    pub lane: Lane,
    /// It goes before others where its lane allows (`priority = "stat"`).
    pub stat: bool,
}

/// What is wanted of a destination's envelopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Take {
    /// Messages that wait.
    pub messages: bool,
    /// Replays that wait.
    pub replays: bool,
}

impl Take {
    /// Whatever is next.
    pub const ANY: Take = Take { messages: true, replays: true };
}

/// Which envelopes of a destination must keep their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// None: a lane of its own.
    Own,
    /// Those with the same key. Strict order is one key for all.
    Key(u32),
    /// All earlier ones of the destination go before it, all later ones after it.
    Barrier,
}

impl Lane {
    /// Which envelopes of a destination with this order a message must not overtake.
    #[must_use]
    pub fn of(ordering: Ordering, keys: &Keys) -> Lane {
        match ordering {
            Ordering::Strict => Lane::Key(0),
            Ordering::None => Lane::Own,
            Ordering::Study => keys.get(Key::Study).filter(|uid| !uid.is_empty()).map_or(Lane::Own, |uid| Lane::Key(lane_key(uid))),
            Ordering::Patient if keys.get(Key::Barrier).is_some() => Lane::Barrier,
            Ordering::Patient => keys.get(Key::Patient).filter(|id| !id.is_empty()).map_or(Lane::Barrier, |id| Lane::Key(lane_key(id))),
        }
    }
}

/// FNV-1a in 32 bits: the key stands in the spool, so it must come out the same in every version. Two values with one key merely share a lane.
fn lane_key(value: &[u8]) -> u32 {
    value.iter().fold(0x811c_9dc5, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// One message for one destination, handed out for delivery.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// Its number.
    pub id: EnvelopeId,
    /// The message it carries.
    pub message: MessageId,
    /// Where it goes.
    pub destination: DestinationId,
    /// The message's key table.
    pub keys: Arc<Keys>,
    /// Bytes of content.
    pub size: u64,
    /// When the message was accepted.
    pub accepted_at: UnixMillis,
    /// Its lane.
    pub lane: Lane,
    /// Attempts recorded so far (in this run exactly; before a restart as far as settlements were kept).
    pub attempts: u32,
    /// Endpoints at which an attempt ended sent but unanswered.
    pub ambiguous_at: Vec<Arc<str>>,
    /// It may have been attempted in a former run whose record was lost with the crash.
    pub recovered: bool,
    /// An attempt was begun in a former run (`Settlement::Started`) and no end of it is recorded.
    pub interrupted: bool,
    /// It re-entered by an operator's decision, out of its lane's order.
    pub out_of_order: bool,
    /// It is a replay of something an endpoint had answered.
    pub replay: bool,
}

/// What becomes of an envelope in flight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// An attempt is about to begin (kept only for `ambiguous = "hold"`, where it is synced before the first byte leaves).
    Started {
        /// Endpoint's name.
        endpoint: Arc<str>,
        /// When.
        at: UnixMillis,
    },
    /// Not delivered; it waits, at the head of its lane, until `due` is called.
    Deferred(AttemptRecord),
    /// Delivered: custody ends.
    Delivered(AttemptRecord, Delivered),
    /// Out of the lane until an operator decides.
    DeadLetter(AttemptRecord, LaneRule),
    /// Kept until an operator decides.
    Held(AttemptRecord, LaneRule),
    /// A note in its story that changes nothing (a second answer in enhanced mode).
    Note(AttemptRecord),
    /// A replay ends undelivered: the endpoint refused it. The message it repeats had been answered before.
    ReplayEnded(AttemptRecord),
}

/// An operator's decision on an envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Try now: a deferred envelope at once, a dead letter again (out of order unless its lane stopped for it).
    Retry,
    /// Keep it until released. The rule is the destination's `after_hold`: with `Continue` its lane goes on, and it comes back out of order.
    Hold(LaneRule),
    /// Let a held one go on.
    Release,
    /// End custody.
    Discard {
        /// Why; required.
        reason: String,
    },
}

/// State of an envelope (`queue list`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Waiting its turn.
    Ready,
    /// Being attempted.
    InFlight,
    /// Waiting for its next attempt.
    Deferred,
    /// Waiting for an operator, in place.
    Held,
    /// Done.
    Delivered,
    /// Waiting for an operator, out of its lane (or stopping it).
    DeadLetter,
    /// Ended by an operator. Only a story says so; no list has it.
    Discarded,
    /// A replay that was refused, or withdrawn because something else came. Only a story says so; no list has it.
    ReplayEnded,
}

impl State {
    /// The name used in JSON, command line and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            State::Ready => "ready",
            State::InFlight => "in-flight",
            State::Deferred => "deferred",
            State::Held => "held",
            State::Delivered => "delivered",
            State::DeadLetter => "dead-letter",
            State::Discarded => "discarded",
            State::ReplayEnded => "replay-ended",
        }
    }
}

/// Waiting envelopes of one destination.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Waiting their turn.
    pub ready: u64,
    /// Being attempted.
    pub in_flight: u64,
    /// Waiting for their next attempt.
    pub deferred: u64,
    /// Held.
    pub held: u64,
    /// Of all waiting ones: with an attempt that ended sent but unanswered.
    pub ambiguous: u64,
    /// Dead letters.
    pub dead_letter: u64,
    /// Of all waiting ones: replays.
    pub replays: u64,
    /// Acceptance time of the oldest one that still has to be delivered (dead letters, held ones and replays not counted).
    pub oldest: Option<UnixMillis>,
}

/// One envelope as people see it.
#[derive(Debug, Clone)]
pub struct EnvelopeView {
    /// The envelope.
    pub envelope: Envelope,
    /// Its destination's name.
    pub destination: Arc<str>,
    /// Its state.
    pub state: State,
    /// The last attempt, if any is known.
    pub last: Option<AttemptRecord>,
    /// When and why an operator discarded it. `None` in state `Discarded`: that is no longer known.
    pub discarded: Option<Discarded>,
    /// The envelope it repeats, if it is a replay.
    pub replay_of: Option<EnvelopeId>,
}

/// An operator's end of an envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discarded {
    /// When.
    pub at: UnixMillis,
    /// Why, in the operator's words.
    pub reason: String,
}

/// Filter of `list`. Default: every waiting envelope.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only this destination.
    pub destination: Option<DestinationId>,
    /// Only this state. `Delivered` reads history.
    pub state: Option<State>,
    /// Only envelopes one of whose key values is exactly these bytes.
    pub key: Option<Vec<u8>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(pairs: &[(Key, &str)]) -> Keys {
        let mut keys = Keys::new();
        for (key, value) in pairs {
            keys.set(*key, value.as_bytes());
        }
        keys
    }

    #[test]
    fn lanes_follow_the_ordering() {
        let anna = keys(&[(Key::Patient, "1^^^A"), (Key::Study, "1.2.3")]);
        let bert = keys(&[(Key::Patient, "2^^^A")]);
        let merge = keys(&[(Key::Patient, "1^^^A"), (Key::Barrier, "1")]);
        let nobody = keys(&[(Key::Patient, "")]);
        assert_eq!(Lane::of(Ordering::Strict, &anna), Lane::Key(0));
        assert_eq!(Lane::of(Ordering::None, &anna), Lane::Own);
        assert_eq!(Lane::of(Ordering::Study, &bert), Lane::Own);
        assert!(matches!(Lane::of(Ordering::Study, &anna), Lane::Key(_)));
        assert_eq!(Lane::of(Ordering::Patient, &anna), Lane::of(Ordering::Patient, &anna));
        assert_ne!(Lane::of(Ordering::Patient, &anna), Lane::of(Ordering::Patient, &bert));
        assert_eq!(Lane::of(Ordering::Patient, &merge), Lane::Barrier);
        assert_eq!(Lane::of(Ordering::Patient, &nobody), Lane::Barrier);
        assert_eq!(Lane::of(Ordering::Patient, &Keys::new()), Lane::Barrier);
        // On disk: must not change between versions.
        assert_eq!(lane_key(b"foobar"), 0xbf9c_f968);
    }
}
