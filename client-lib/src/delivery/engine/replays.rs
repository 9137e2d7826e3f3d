//! Replays of a destination: what the machine in `delivery::replay` wants is joined here with attempts, endpoints and the spool.
//! Rules: a replay that is refused for what it is ends (never a dead letter, never held, never in the way), and so does one that is only put off (AR, CE)
//! when that has gone on for `REPLAY_PUT_OFF_MAX`; everything else of it is as with messages, but that a replay towards an endpoint that is to return
//! goes nowhere else.
//! Errors: `ByHandRefused`.

use super::{Action, Engine, Flight, Moment};
use crate::config::Ordering;
use crate::delivery::replay::{ByHand, ByHandRefused, Command, Replays, UnderWay};
use crate::delivery::verdict::Ruling;
use crate::delivery::{Phase, Verdict};
use crate::endpoint::Blame;
use crate::event::{Delivered, Event, ReplayEnd};
use crate::ids::{EndpointId, EnvelopeId};
use crate::spool::{AttemptRecord, Envelope, Keep, Mark, Planned, ReplayOrder, Settlement, Take};
use std::sync::Arc;
use std::time::Duration;

impl Engine {
    /// What an earlier run remembered of replays. Before anything is taken.
    pub fn restore_replays(&mut self, id: u64, state: &[u8], now: Moment) {
        self.replays.restore(id, state);
        for name in self.replays.out() {
            if let Some(endpoint) = self.endpoint_named(&name) {
                self.failover.begin_out(endpoint, self.replays.is_behind(&name), now.at);
            }
        }
        self.absorb(now);
    }

    /// Where the log is. Called before each round of taking.
    pub fn mark(&mut self, mark: Mark, now: Moment) {
        self.replays.mark(mark, now.at);
    }

    /// What history has to keep.
    #[must_use]
    pub fn keep(&self) -> Keep {
        self.replays.keep()
    }

    /// What may be taken now, as far as replays and places go.
    #[must_use]
    pub fn wanted(&self) -> Take {
        let (window, under_way) = (self.window(), self.under_way());
        let total = under_way.messages + under_way.replays;
        let ordered = self.destination.ordering != Ordering::None;
        let messages = if ordered && !self.replays.ahead() { under_way.messages < window } else { total < window };
        // Beside the traffic: half of the places.
        let beside = under_way.replays < (window / 2).max(1) && (ordered || total < window);
        let replays = if self.replays.ahead() { total < window } else { beside };
        Take { messages: messages && self.replays.lets_messages_pass(&self.active_names()), replays: replays && self.replays.runs() }
    }

    /// Replays may be waiting to be seen to their end.
    #[must_use]
    pub fn replays_run(&self) -> bool {
        self.replays.runs() && self.under_way().replays == 0
    }

    /// No replay waits any more.
    pub fn replays_over(&mut self, now: Moment) {
        if self.replays.is_failover() && !self.failover.active().is_empty() {
            self.outages.replay_over();
        }
        let (command, caught_up) = self.replays.delivered(self.under_way());
        self.ask(command);
        if let Some(name) = caught_up
            && let Some(endpoint) = self.endpoint_named(&name)
        {
            self.failover.caught_up(endpoint, now.at);
        }
        self.dry = false;
        self.absorb(now);
    }

    /// The spool did what `Action::Replay` asked for.
    pub fn replay_done(&mut self, result: Result<Planned, String>, now: Moment) {
        let text = self.replays.text();
        let done = self.replays.done(result, now.at);
        if let Some(planned) = done.as_ref().filter(|_| self.replays.is_failover()) {
            self.outages.replay_found(planned);
        }
        if let (Some(planned), Some(what)) = (done, text)
            && planned.envelopes + planned.gone > 0
        {
            self.emit(Event::ReplayBegun { destination: self.name(), what, envelopes: planned.envelopes, gone: planned.gone });
        }
        self.dry = false;
        self.absorb(now);
    }

    /// An operator wants something replayed.
    /// # Errors
    /// `ByHandRefused`.
    pub fn replay_by_hand(&mut self, wish: ByHand, now: Moment) -> Result<(), ByHandRefused> {
        self.replays.by_hand(wish)?;
        self.absorb(now);
        Ok(())
    }

    /// The order that a replay by hand would be.
    /// # Errors
    /// `ByHandRefused::Order`.
    pub fn plan_by_hand(&self, wish: ByHand) -> Result<ReplayOrder, ByHandRefused> {
        self.replays.plan_by_hand(wish)
    }

    /// For people: what is being replayed, and where.
    #[must_use]
    pub fn replay_text(&self) -> Option<String> {
        self.replays.text()
    }

    pub(super) fn ask(&mut self, command: Option<Command>) {
        self.actions.extend(command.map(|command| Action::Replay(Box::new(command))));
    }

    /// What has to be replayed now, if everything that must end before has ended.
    pub(super) fn step_replays(&mut self, now: Moment) {
        let command = self.replays.step(&self.active_names(), self.under_way(), now.at);
        if command.is_some() {
            self.dry = false;
        }
        self.ask(command);
    }

    pub(super) fn left(&mut self, endpoint: EndpointId, now: Moment) {
        let Some(name) = self.failover.endpoint(endpoint).map(|e| Arc::clone(&e.name)) else { return };
        self.replays.left(&name, now.wall);
        if self.replays.is_behind(&name) {
            self.failover.set_behind(endpoint);
        }
    }

    pub(super) fn returning(&mut self, endpoint: EndpointId) {
        if let Some(name) = self.failover.endpoint(endpoint).map(|e| Arc::clone(&e.name)) {
            self.replays.returning(&name);
        }
    }

    /// Where a replay has to go, if not wherever traffic goes.
    pub(super) fn towards(&self, replay: bool) -> Option<EndpointId> {
        self.replays.towards().filter(|_| replay).and_then(|name| self.endpoint_named(name))
    }

    fn endpoint_named(&self, name: &str) -> Option<EndpointId> {
        let at = self.destination.endpoints.iter().position(|e| &*e.name == name)?;
        u16::try_from(at).ok().map(EndpointId)
    }

    pub(super) fn active_names(&self) -> Vec<Arc<str>> {
        self.failover.active().iter().filter_map(|e| self.failover.endpoint(*e)).map(|e| Arc::clone(&e.name)).collect()
    }

    fn under_way(&self) -> UnderWay {
        let active = self.active_names();
        let replays = self.flights.values().filter(|f| f.envelope.replay).count();
        let on_left = self.flights.values().filter(|f| !f.envelope.replay && !active.contains(&f.name)).count();
        UnderWay { messages: self.flights.len() - replays, replays, on_left }
    }

    /// What a ruling means for a replay: what would stop or end a message is a refusal, and says nothing against the endpoint.
    pub(super) fn rule_on_replay(&mut self, flight: &Flight, ruling: &mut Ruling, now: Moment) -> bool {
        let refused = match ruling.verdict {
            // 0111H: it has it.
            Verdict::DeliveredWithWarning => ruling.seen.starts_with("0111H"),
            Verdict::Hold => !ruling.ambiguous,
            Verdict::DeadLetter => true,
            // On its way to the one endpoint that lacks it.
            Verdict::Elsewhere => ruling.unwanted && self.replays.towards().is_some(),
            // 206 and 207 included: many receivers say "internal error" of what they have already.
            Verdict::Retry if ruling.seen.starts_with("AE") => true,
            Verdict::Retry if ruling.blame == Blame::Refused => self.replays.gives_up(flight.memo.troubled_since, now.at),
            Verdict::Retry | Verdict::Delivered | Verdict::Unconfirmed | Verdict::Ambiguous => false,
        };
        if refused {
            ruling.concern = None;
            ruling.seen = format!("replay refused: {}", ruling.seen);
            if ruling.blame == Blame::Refused {
                ruling.blame = Blame::Answered;
            }
        }
        refused
    }

    pub(super) fn replay_refused(&mut self, flight: &Flight, seen: String, record: AttemptRecord) {
        let record = AttemptRecord { outcome: seen, ..record };
        self.settle(flight.envelope.id, Settlement::ReplayEnded(record));
        self.outages.replayed(true);
        self.emit(Event::Replayed {
            destination: self.name(),
            endpoint: Arc::clone(&flight.name),
            envelope: flight.envelope.id,
            end: ReplayEnd::Refused,
        });
        self.schedule.progressed();
        self.relieved(flight.envelope.id);
    }

    /// An endpoint answered positively.
    pub(super) fn replay_answered(&mut self, flight: &Flight, now: Moment) {
        self.replays.answered(&flight.name, now.wall);
        if flight.envelope.replay {
            self.outages.replayed(false);
            self.replays.taken();
            let (endpoint, envelope, end) = (Arc::clone(&flight.name), flight.envelope.id, ReplayEnd::Answered);
            self.emit(Event::Replayed { destination: self.name(), endpoint, envelope, end });
        }
    }

    /// Whether an endpoint is asked for it before it is sent.
    pub(super) fn asks_first(&self, envelope: &Envelope) -> bool {
        envelope.replay && self.destination.reconcile && self.replays.asks()
    }

    /// The endpoint said that it has it. Neither backoffs nor alarms take that for a sign that objects are taken.
    pub(super) fn replay_spared(&mut self, flight: &Flight, record: AttemptRecord) {
        let (endpoint, id) = (Arc::clone(&flight.name), flight.envelope.id);
        self.replays.answered(&endpoint, record.at);
        self.settle(id, Settlement::Delivered(record, Delivered::Ok));
        self.outages.replayed(false);
        self.emit(Event::Replayed { destination: self.name(), endpoint, envelope: id, end: ReplayEnd::AlreadyThere });
        self.relieved(id);
    }

    /// A replay's one endpoint cannot have it now.
    pub(super) fn replay_waits(&mut self, id: EnvelopeId, memo: crate::delivery::scheduler::Memo, now: Moment) {
        let outcome = "not tried: the endpoint that lacks it is not good now".to_owned();
        let record = AttemptRecord::new(Arc::from(""), Phase::Resolve, outcome, now.wall);
        self.settle(id, Settlement::Deferred(record));
        self.schedule.rest(id, memo, now.at);
    }

    /// When `tick` has something to do for replays.
    pub(super) fn replay_due(&self, now: std::time::Instant) -> Option<std::time::Instant> {
        self.replays.again_at().map(|at| at.max(now + Duration::from_millis(1)))
    }

    /// Replays under a new engine: what was under way is asked for again.
    pub(super) fn inherit_replays(&mut self, old: &Replays) {
        self.replays = old.reborn();
    }
}
