//! The real spool, on a disk in memory that loses power, behind the same door as the simple store.
//! Rules: what is not yet durable is written at most 10 ms (of the world's time) after it was settled, as the committer does.

use super::store::Store;
use bytes::Bytes;
use everpost_client::config::SpoolSettings;
use everpost_client::delivery::replay::Command;
use everpost_client::event::Events;
use everpost_client::ids::{DestinationId, EnvelopeId};
use everpost_client::keys::Keys;
use everpost_client::spool::{
    Addressee, Content, Decision, Draft, Envelope, Filter, Lane, Mark, Planned, Settlement, Spool, SpoolError, State, Take, UnixMillis,
};
use harness::faulty_disk::FaultyDisk;
use std::collections::HashMap;
use std::time::Duration;

pub(crate) struct Journalled {
    disk: FaultyDisk,
    spool: Option<Spool>,
    to: DestinationId,
    /// When the oldest settlement was made that is not yet durable.
    pending: Option<Duration>,
    now: Duration,
    power: bool,
    /// What each replay repeats.
    origins: HashMap<EnvelopeId, EnvelopeId>,
}

fn settings() -> SpoolSettings {
    SpoolSettings { reserve: 0, segment_size: 512 << 10, ..SpoolSettings::default() }
}

impl Journalled {
    pub(crate) fn new(seed: u64) -> Self {
        let disk = FaultyDisk::new(seed, 64 << 20);
        let mut store = Self {
            disk,
            spool: None,
            to: DestinationId(0),
            pending: None,
            now: Duration::ZERO,
            power: seed.is_multiple_of(2),
            origins: HashMap::new(),
        };
        store.open();
        store
    }

    fn open(&mut self) {
        let (spool, _) = Spool::open(self.disk.storage(), settings(), Events::none()).unwrap();
        self.to = spool.destination("there").unwrap();
        self.spool = Some(spool);
    }

    fn spool(&self) -> &Spool {
        self.spool.as_ref().unwrap()
    }

    fn written(&mut self) {
        while self.spool().lead() {}
        self.pending = None;
    }
}

impl Store for Journalled {
    fn commit(&mut self, lane: Lane) -> EnvelopeId {
        let addressees = vec![Addressee { destination: self.to, lane, stat: false }];
        let content = Content::Whole(Bytes::from_static(b"MSH|^~\\&|"));
        let draft = Draft { keys: Keys::new(), content, accepted_at: 1, addressees, fingerprint: None };
        let receipt = self.spool().commit(draft).unwrap();
        self.pending = None;
        EnvelopeId(receipt.message().0 + 1)
    }

    fn take(&mut self, want: Take) -> Option<Envelope> {
        let taken = self.spool().take_of(self.to, want).unwrap();
        if let Some(envelope) = taken.as_ref().filter(|e| e.replay && !self.origins.contains_key(&e.id)) {
            let view = self.spool().story(envelope.id).unwrap().view;
            self.origins.insert(envelope.id, view.replay_of.unwrap());
        }
        taken
    }

    fn replay(&mut self, command: &Command, now: UnixMillis) -> Result<Planned, String> {
        let done = match &command.order {
            Some(order) => self.spool().replay(self.to, order, &command.state),
            None => self.spool().end_replay(self.to, &command.state).map(|()| Planned::default()),
        };
        self.pending = None;
        self.spool().keep_for_replay(self.to, command.keep, now);
        done.map_err(|error| error.to_string())
    }

    fn mark(&self, at: UnixMillis) -> Mark {
        self.spool().mark(at)
    }

    fn replays_left(&self) -> u64 {
        self.spool().replays_left(self.to)
    }

    fn replay_state(&self) -> Option<(u64, Vec<u8>)> {
        self.spool().replay_state(self.to)
    }

    fn origin(&self, id: EnvelopeId) -> EnvelopeId {
        self.origins.get(&id).copied().unwrap_or(id)
    }

    fn settle(&mut self, id: EnvelopeId, settlement: Settlement, at: Duration, synced: bool) {
        self.now = at;
        if self.pending.is_some_and(|oldest| oldest + Duration::from_millis(10) <= at) {
            self.written();
        }
        self.spool().settle(id, settlement).unwrap();
        self.pending = self.pending.or(Some(at));
        if synced {
            self.written();
        }
    }

    fn due(&mut self, id: EnvelopeId) {
        self.spool().due(id);
    }

    fn untake(&mut self, id: EnvelopeId) {
        self.spool().untake(id);
    }

    fn decide(&mut self, id: EnvelopeId, decision: Decision) {
        self.spool().decide(id, decision, 1, Box::new(|result| result.unwrap()));
        self.written();
    }

    fn state(&self, id: EnvelopeId) -> State {
        match self.spool().story(id) {
            Ok(story) => story.view.state,
            Err(SpoolError::NotWaiting(_)) => State::Delivered,
            Err(error) => panic!("{error}"),
        }
    }

    fn waiting(&self, _: &[EnvelopeId]) -> usize {
        let counts = self.spool().counts(self.to);
        (counts.ready + counts.in_flight + counts.deferred) as usize
    }

    fn stopped(&self, _: &[EnvelopeId]) -> Vec<(EnvelopeId, State)> {
        let (all, _) = self.spool().list(&Filter::default(), None, 10_000).unwrap();
        all.into_iter().filter(|v| matches!(v.state, State::Held | State::DeadLetter)).map(|v| (v.envelope.id, v.state)).collect()
    }

    fn crash(&mut self, durable: Duration) {
        if self.pending.is_some_and(|oldest| oldest <= durable) {
            self.written();
        }
        if self.power {
            self.disk.power_loss();
        } else {
            self.disk.kill();
        }
        self.spool = None;
        self.pending = None;
        self.open();
    }
}
