//! The story of one envelope: its attempts and what operators decided, from the lists of the segments that still stand.
//! Rules: bounded: of many attempts the first and the last; the count of all is the envelope's. What is not written yet is written first.
//! Errors: `Disk` if a segment's list cannot be read, `NotWaiting` if nothing is left, `Damaged` if its message's record is.

use crate::ids::{DestinationId, EnvelopeId, MessageId};
use crate::spool::Inner;
use crate::spool::attempt::{AttemptRecord, Begun, Decided, Story};
use crate::spool::envelope::{Lane, State};
use crate::spool::error::SpoolError;
use crate::spool::history::nothing;
use crate::spool::journal::lock;
use crate::spool::kept::Kept;
use crate::spool::record::{self, ATTEMPT, Code, Position, StateRecord};
use crate::spool::segment::Entry;
use std::sync::Arc;

/// Places of an envelope's state records.
#[derive(Default)]
struct Found {
    attempts: Kept,
    /// Answers that came after an end, or beside an attempt.
    notes: Kept,
    begun: Kept,
    decisions: Kept,
    /// The end. Said again later, it says less.
    end: Option<(u64, Position)>,
}

impl Found {
    fn add(&mut self, lsn: u64, at: Position, code: Code, flags: u8) {
        if code.terminal() && self.end.is_none_or(|(known, _)| lsn < known) {
            self.end = Some((lsn, at));
        }
        if record::is_attempt(code, flags) {
            return self.attempts.add(lsn, at);
        }
        match code {
            Code::Note if flags & ATTEMPT != 0 => self.notes.add(lsn, at),
            Code::Started => self.begun.add(lsn, at),
            Code::Held | Code::Ready => self.decisions.add(lsn, at),
            Code::Note | Code::Deferred | Code::Delivered | Code::DeadLetter | Code::Discarded | Code::ReplayEnded => {}
        }
    }
}

impl Inner {
    pub(crate) fn story(&self, id: EnvelopeId) -> Result<Story, SpoolError> {
        self.lead();
        let waiting = lock(&self.index).find(id.0);
        let mut found = Found::default();
        let mut message: Option<(Position, u64, DestinationId, Lane)> = None;
        self.each_entry(0, |at, entry| match entry {
            Entry::State { lsn, envelope, code, flags, .. } if envelope == id.0 => found.add(lsn, at, code, flags),
            Entry::Message { id: message_id, seats, .. } => {
                if let Some(seat) = seats.iter().find(|s| message_id + u64::from(s.delta) == id.0) {
                    message = Some((at, message_id, seat.destination, seat.lane));
                }
            }
            Entry::State { .. } | Entry::Memory { .. } => {}
        })?;
        let (attempts, begun) = self.attempts(&found);
        let decision = |state: StateRecord| match state.code {
            Code::Held => Some(Decided { at: state.at, to: State::Held, why: state.text }),
            Code::Ready => Some(Decided { at: state.at, to: State::Ready, why: state.text }),
            _ => None,
        };
        let decisions = found.decisions.iter().filter_map(|(_, at)| self.read_state(at)).filter_map(decision).collect();
        if let Some((destination, place)) = waiting {
            let stored = self.stored(id.0).ok().flatten().unwrap_or_else(|| Arc::new(nothing()));
            return Ok(Story { view: self.view(id.0, destination, place, &stored), attempts, begun, decisions });
        }
        let end = found.end.and_then(|(_, at)| self.read_state(at));
        let (at, message_id, destination, lane) = message.ok_or(SpoolError::NotWaiting(id))?;
        let (_, message, _) = self.read_message(at)?.ok_or(SpoolError::Damaged { message: MessageId(message_id), offset: 0 })?;
        if end.is_none() && message.origin.is_none() {
            return Err(SpoolError::NotWaiting(id));
        }
        let mut view = self.past_view(id.0, message_id, destination, lane, message, end);
        if view.state == State::Discarded {
            // The record of the decision tells of no attempt.
            view.last = attempts.last().cloned();
        }
        Ok(Story { view, attempts, begun: None, decisions })
    }

    /// Attempts and notes in order; and the attempt that began last, if its end is not among them.
    fn attempts(&self, found: &Found) -> (Vec<AttemptRecord>, Option<Begun>) {
        let mut places: Vec<(u64, Position)> = found.attempts.iter().chain(found.notes.iter()).collect();
        places.sort_unstable();
        let begun: Vec<(u64, StateRecord)> = found.begun.iter().filter_map(|(lsn, at)| Some((lsn, self.read_state(at)?))).collect();
        let mut attempts = Vec::with_capacity(places.len());
        for (lsn, at) in places {
            let Some(mut attempt) = self.read_state(at).and_then(|state| state.attempt()) else { continue };
            // Cut by a restart: how long it took is not known, but when it began was made durable.
            let began = |(start, state): &&(u64, StateRecord)| *start < lsn && state.attempts + 1 == attempt.number;
            if attempt.began_at.is_none()
                && let Some((_, state)) = begun.iter().rev().find(began).filter(|(_, state)| state.at > 0)
            {
                attempt.began_at = Some(state.at);
            }
            attempts.push(attempt);
        }
        let last = found.attempts.iter().next_back().map_or(0, |(lsn, _)| lsn);
        let open = begun.into_iter().next_back().filter(|(lsn, _)| *lsn > last);
        (attempts, open.map(|(_, state)| Begun { number: state.attempts + 1, endpoint: state.endpoint, at: state.at }))
    }
}
