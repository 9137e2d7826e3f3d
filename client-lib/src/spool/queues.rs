//! Everything that waits for one destination: messages in their lanes, and beside them the replays of what an endpoint had answered.
//! Rules: replays have lanes of their own. *Ahead* (order matters, the active endpoint gets them): nothing of a lane is handed out while a replay of
//! the same lane waits, and no barrier while any does; what is replayed is older than what waits, so this is the order of acceptance. *Beside* (no
//! order, or another endpoint gets them): the two do not know each other, and take turns.
//! Errors: none; a number that is not here is `None`.

use crate::spool::envelope::{Lane, State, Take};
use crate::spool::lanes::{Lanes, Place};
use crate::spool::record::{Position, Seat};

/// See the head of the file.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    messages: Lanes,
    replays: Lanes,
    ahead: bool,
    /// Beside: whose turn it is.
    replays_turn: bool,
}

impl Queues {
    /// Adds an envelope behind all others of its kind. Numbers rise.
    pub(crate) fn push(&mut self, number: u64, at: Position, seat: &Seat, state: State) {
        self.of_mut(seat.marks.replay).push(number, at, seat.lane, seat.marks.stat, state);
    }

    /// Adds an envelope that stands aside.
    pub(crate) fn push_aside(&mut self, number: u64, at: Position, seat: &Seat, state: State) {
        self.of_mut(seat.marks.replay).push_aside(number, at, seat.lane, state);
    }

    /// Whether replays go before later messages of their lane.
    pub(crate) fn set_ahead(&mut self, ahead: bool) {
        if self.ahead && !ahead {
            self.messages.free_all();
        }
        self.ahead = ahead;
    }

    /// The next envelope that may go; in flight from now on.
    pub(crate) fn take(&mut self, want: Take) -> Option<(u64, Place)> {
        let replays_first = self.ahead || self.replays_turn || !want.messages;
        for replay in [replays_first, !replays_first] {
            let taken = match replay {
                true if want.replays => self.replays.take(None),
                false if want.messages => self.messages.take(self.ahead.then_some(&self.replays)),
                true | false => None,
            };
            if taken.is_some() {
                self.replays_turn = !replay;
                return taken;
            }
        }
        None
    }

    fn of_mut(&mut self, replay: bool) -> &mut Lanes {
        if replay { &mut self.replays } else { &mut self.messages }
    }

    /// Where an envelope is.
    pub(crate) fn find(&self, number: u64) -> Option<Place> {
        self.messages.find(number).or_else(|| self.replays.find(number))
    }

    /// Whether a waiting envelope is a replay.
    pub(crate) fn is_replay(&self, number: u64) -> bool {
        self.replays.find(number).is_some()
    }

    /// Changes the state of a waiting envelope; whether it may now be taken.
    pub(crate) fn set_state(&mut self, number: u64, state: State) -> bool {
        let replay = self.is_replay(number);
        self.of_mut(replay).set_state(number, state)
    }

    /// See `Lanes::put_off`.
    pub(crate) fn put_off(&mut self, number: u64) {
        let replay = self.is_replay(number);
        self.of_mut(replay).put_off(number);
    }

    /// Ends an envelope. Returns where it was.
    pub(crate) fn remove(&mut self, number: u64) -> Option<Place> {
        if !self.is_replay(number) {
            return self.messages.remove(number);
        }
        let barrier = self.replays.has_barrier();
        let place = self.replays.remove(number)?;
        self.free(place.lane, barrier);
        Some(place)
    }

    /// Takes an envelope out of its lane, to stand aside.
    pub(crate) fn leave(&mut self, number: u64, state: State) {
        let replay = self.is_replay(number);
        let (lane, barrier) = (self.find(number).map(|p| p.lane), self.replays.has_barrier());
        self.of_mut(replay).leave(number, state);
        if let Some(lane) = lane.filter(|_| replay) {
            self.free(lane, barrier);
        }
    }

    /// A replay is out of its lane: whoever waited for it may go.
    fn free(&mut self, lane: Lane, barrier_before: bool) {
        if !self.ahead {
            return;
        }
        if barrier_before && !self.replays.has_barrier() {
            self.messages.free_all();
        } else if let Lane::Key(key) = lane {
            self.messages.free_lane(key);
        }
    }

    /// The record moved.
    pub(crate) fn relocate(&mut self, number: u64, to: Position) {
        let replay = self.is_replay(number);
        self.of_mut(replay).relocate(number, to);
    }

    /// How many are in a state.
    pub(crate) fn count(&self, state: State) -> u64 {
        self.messages.count(state) + self.replays.count(state)
    }

    /// How many wait.
    pub(crate) fn len(&self) -> u64 {
        self.messages.len() + self.replays.len()
    }

    /// How many replays wait.
    pub(crate) fn replays(&self) -> u64 {
        self.replays.len()
    }

    /// Numbers of the replays that wait.
    pub(crate) fn replay_numbers(&self) -> Vec<u64> {
        self.replays.in_place_after(None).chain(self.replays.aside_after(None)).map(|(number, _)| number).collect()
    }

    /// The first message still to be delivered that `which` accepts, in place or aside.
    pub(crate) fn first_message(&self, which: impl Fn(&(u64, Place)) -> bool) -> Option<(u64, Place)> {
        let in_place = self.messages.in_place_after(None).find(&which);
        in_place.into_iter().chain(self.messages.aside_after(None).find(&which)).min_by_key(|(n, _)| *n)
    }

    /// Waiting envelopes in their places after `number`, ascending; those aside are not among them.
    pub(crate) fn in_place_after(&self, number: Option<u64>) -> impl Iterator<Item = (u64, Place)> + '_ {
        merged(self.messages.in_place_after(number), self.replays.in_place_after(number))
    }

    /// Those that stand aside, ascending.
    pub(crate) fn aside_after(&self, number: Option<u64>) -> impl Iterator<Item = (u64, Place)> + '_ {
        merged(self.messages.aside_after(number), self.replays.aside_after(number))
    }

    /// Ready ones roughly in the order `take` will follow.
    pub(crate) fn upcoming(&self) -> impl Iterator<Item = (u64, Position)> + '_ {
        self.replays.upcoming().chain(self.messages.upcoming())
    }
}

/// Two ascending sequences as one.
fn merged(a: impl Iterator<Item = (u64, Place)>, b: impl Iterator<Item = (u64, Place)>) -> impl Iterator<Item = (u64, Place)> {
    let (mut a, mut b) = (a.peekable(), b.peekable());
    std::iter::from_fn(move || match (a.peek(), b.peek()) {
        (Some((x, _)), Some((y, _))) if y < x => b.next(),
        (Some(_), _) => a.next(),
        (None, _) => b.next(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ids::DestinationId;
    use crate::spool::record::Marks;

    const BOTH: Take = Take { messages: true, replays: true };

    fn add(queues: &mut Queues, number: u64, lane: Lane, replay: bool) {
        let seat = Seat { delta: 1, destination: DestinationId(0), lane, marks: Marks { stat: false, replay } };
        queues.push(number, Position::new(1, number * 8), &seat, State::Ready);
    }

    fn drain(queues: &mut Queues, want: Take) -> Vec<u64> {
        let mut all = Vec::new();
        while let Some((number, _)) = queues.take(want) {
            all.push(number);
        }
        all
    }

    #[test]
    fn a_replay_goes_before_the_messages_of_its_lane_and_holds_up_no_other() {
        let mut q = Queues::default();
        for (number, key) in [(1, 1), (2, 2), (3, 1)] {
            add(&mut q, number, Lane::Key(key), false);
        }
        add(&mut q, 10, Lane::Key(1), true);
        add(&mut q, 11, Lane::Key(1), true);
        q.set_ahead(true);
        assert_eq!(drain(&mut q, BOTH), [10, 2], "one of each lane");
        q.remove(10).unwrap();
        assert_eq!(drain(&mut q, BOTH), [11]);
        q.set_state(11, State::Ready);
        assert_eq!(drain(&mut q, BOTH), [11], "deferred and again");
        q.remove(11).unwrap();
        assert_eq!(drain(&mut q, BOTH), [1]);
        q.remove(1).unwrap();
        assert_eq!(drain(&mut q, BOTH), [3]);
    }

    #[test]
    fn a_replayed_barrier_stops_every_lane_and_a_waiting_barrier_waits_for_every_replay() {
        let mut q = Queues::default();
        add(&mut q, 1, Lane::Key(1), false);
        add(&mut q, 2, Lane::Barrier, false);
        add(&mut q, 10, Lane::Barrier, true);
        add(&mut q, 11, Lane::Key(5), true);
        q.set_ahead(true);
        assert_eq!(drain(&mut q, BOTH), [10]);
        q.remove(10).unwrap();
        assert_eq!(drain(&mut q, BOTH), [11, 1]);
        q.remove(1).unwrap();
        assert!(drain(&mut q, BOTH).is_empty(), "the barrier waits for the replay of another lane");
        q.remove(11).unwrap();
        assert_eq!(drain(&mut q, BOTH), [2]);
    }

    #[test]
    fn beside_they_take_turns_and_know_nothing_of_each_other() {
        let mut q = Queues::default();
        for number in 1..=4 {
            add(&mut q, number, Lane::Own, false);
        }
        for number in 10..=13 {
            add(&mut q, number, Lane::Own, true);
        }
        assert_eq!(drain(&mut q, BOTH), [1, 10, 2, 11, 3, 12, 4, 13]);
        let mut q = Queues::default();
        add(&mut q, 1, Lane::Key(0), false);
        add(&mut q, 10, Lane::Key(0), true);
        assert_eq!(drain(&mut q, Take { messages: true, replays: false }), [1]);
        assert_eq!(drain(&mut q, BOTH), [10]);
    }

    #[test]
    fn the_lists_are_one() {
        let mut q = Queues::default();
        add(&mut q, 1, Lane::Own, false);
        add(&mut q, 5, Lane::Own, true);
        add(&mut q, 7, Lane::Own, false);
        assert_eq!(q.in_place_after(None).map(|(n, _)| n).collect::<Vec<_>>(), [1, 5, 7]);
        assert_eq!((q.len(), q.replays(), q.count(State::Ready)), (3, 1, 3));
        assert_eq!(q.first_message(|_| true).unwrap().0, 1);
    }
}
