//! How long the spool lasts, and how long a backlog takes to drain, from counters that are looked at each second.
//!
//! Rules
//! - Pure: the time is an argument. What is not known is `None`, never a guess: nothing is said before a counter was watched for `WATCHED_MIN`, nor of
//!   times beyond `FORESEEN`.
//! - *Lasts* assumes that delivery stands still from now on: of one destination (its own messages fill the room), or of all (each message counts once on
//!   disk, however many destinations hold it). A destination that delivers fills nothing; the figure says what an outage of it would mean. With several
//!   destinations standing still, the truth lies between their own figures and the spool's.
//! - The room is what is free above the reserve, and history that would go before intake closes.
//! - *Drains* goes by the rate at which the backlog shrank lately: delivered less accepted. A backlog that is delivered within `IN_PASSING` is no
//!   backlog but what is on its way, and takes the time that its delivery takes. One that does not shrink has no drain time.
//! - Rates forget: intake slowly (`INTAKE_MEMORY`, over the pauses between studies), delivery fast (`DRAIN_MEMORY`: "just seen").
//!
//! Errors: none.

use everpost_client::ids::DestinationId;
use everpost_client::spool::{Flow, Usage};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How far back the rate of intake reaches that says how long the spool lasts.
const INTAKE_MEMORY: Duration = Duration::from_secs(600);

/// How far back the rates reach that say how long a backlog takes.
const DRAIN_MEMORY: Duration = Duration::from_secs(60);

/// No rate is told before a counter was watched so long.
const WATCHED_MIN: Duration = Duration::from_secs(10);

/// What is delivered within so much time is on its way, not a backlog.
const IN_PASSING: f64 = 10.0;

/// Nothing is said of times beyond: in seconds, a year.
const FORESEEN: f64 = 366.0 * 86_400.0;

/// The rate of a counter, weighted towards now.
#[derive(Debug, Clone)]
pub struct Rate {
    memory: Duration,
    begun: Option<Instant>,
    seen: (Option<Instant>, u64),
    sum: f64,
    weight: f64,
}

impl Rate {
    /// What is older than `memory` counts a third.
    #[must_use]
    pub fn over(memory: Duration) -> Self {
        Self { memory, begun: None, seen: (None, 0), sum: 0.0, weight: 0.0 }
    }

    /// The counter says `total` at `now`. One that went back begins anew.
    pub fn observe(&mut self, total: u64, now: Instant) {
        let (Some(before), last) = self.seen else {
            (self.begun, self.seen) = (Some(now), (Some(now), total));
            return;
        };
        if total < last {
            *self = Self::over(self.memory);
            return self.observe(total, now);
        }
        let passed = now.saturating_duration_since(before).as_secs_f64();
        if passed <= 0.0 {
            return; // what came meanwhile is seen with the next look
        }
        let old = (-passed / self.memory.as_secs_f64()).exp();
        self.sum = self.sum * old + (total - last) as f64 / passed * (1.0 - old);
        self.weight = self.weight * old + (1.0 - old);
        self.seen = (Some(now), total);
    }

    /// Per second; `None`: not watched long enough.
    #[must_use]
    pub fn per_second(&self) -> Option<f64> {
        let (begun, seen) = (self.begun?, self.seen.0?);
        (seen.saturating_duration_since(begun) >= WATCHED_MIN && self.weight > 0.0).then(|| self.sum / self.weight)
    }
}

/// Whole seconds until `room` bytes are filled.
#[must_use]
pub fn lasts(room: u64, bytes_per_second: Option<f64>) -> Option<u64> {
    if room == 0 {
        return Some(0);
    }
    foreseen(room as f64 / bytes_per_second?)
}

/// Whole seconds until a backlog is gone.
#[must_use]
pub fn drains(backlog: u64, delivered: Option<f64>, accepted: Option<f64>) -> Option<u64> {
    if backlog == 0 {
        return Some(0);
    }
    let (delivered, accepted) = (delivered?, accepted?);
    let passing = backlog as f64 / delivered;
    if passing <= IN_PASSING {
        return foreseen(passing);
    }
    (delivered > accepted).then(|| foreseen(backlog as f64 / (delivered - accepted)))?
}

fn foreseen(seconds: f64) -> Option<u64> {
    (0.0..=FORESEEN).contains(&seconds).then_some(seconds.ceil() as u64)
}

#[derive(Debug)]
struct Rates {
    /// Bytes of intake, slowly.
    bytes: Rate,
    /// Messages of intake, fast.
    accepted: Rate,
    /// Envelopes delivered, fast.
    delivered: Rate,
}

impl Default for Rates {
    fn default() -> Self {
        Self { bytes: Rate::over(INTAKE_MEMORY), accepted: Rate::over(DRAIN_MEMORY), delivered: Rate::over(DRAIN_MEMORY) }
    }
}

impl Rates {
    fn observe(&mut self, flow: Flow, now: Instant) {
        self.bytes.observe(flow.accepted_bytes, now);
        self.accepted.observe(flow.accepted, now);
        self.delivered.observe(flow.delivered, now);
    }

    fn outlook(&self, room: u64, backlog: u64) -> Outlook {
        let (bytes, accepted, delivered) = (self.bytes.per_second(), self.accepted.per_second(), self.delivered.per_second());
        Outlook {
            accepted_bytes_per_second: bytes,
            accepted_per_second: accepted,
            delivered_per_second: delivered,
            lasts_seconds: lasts(room, bytes),
            drain_seconds: drains(backlog, delivered, accepted),
        }
    }
}

/// What lies ahead, as far as it can be told.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Outlook {
    /// Bytes of messages accepted, over the last ten minutes or so.
    pub accepted_bytes_per_second: Option<f64>,
    /// Messages accepted, over the last minute or so.
    pub accepted_per_second: Option<f64>,
    /// Envelopes delivered, over the last minute or so.
    pub delivered_per_second: Option<f64>,
    /// Until intake closes, if nothing is delivered from now on.
    pub lasts_seconds: Option<u64>,
    /// Until the backlog is gone.
    pub drain_seconds: Option<u64>,
}

/// The rates of a gateway.
#[derive(Debug, Default)]
pub struct Capacity {
    all: Rates,
    destinations: HashMap<DestinationId, Rates>,
}

impl Capacity {
    /// The counters as they are at `now`. Destinations that are not among them are forgotten.
    pub fn observe(&mut self, all: Flow, destinations: impl IntoIterator<Item = (DestinationId, Flow)>, now: Instant) {
        self.all.observe(all, now);
        let mut before = std::mem::take(&mut self.destinations);
        for (id, flow) in destinations {
            let mut rates = before.remove(&id).unwrap_or_default();
            rates.observe(flow, now);
            self.destinations.insert(id, rates);
        }
    }

    /// The spool's outlook.
    #[must_use]
    pub fn outlook(&self, usage: Usage) -> Outlook {
        self.all.outlook(usage.room(), 0)
    }

    /// A destination's. `backlog`: envelopes still to be delivered.
    #[must_use]
    pub fn outlook_of(&self, destination: DestinationId, usage: Usage, backlog: u64) -> Outlook {
        match self.destinations.get(&destination) {
            Some(rates) => rates.outlook(usage.room(), backlog),
            None => Rates::default().outlook(usage.room(), backlog),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A counter that rises by so much in each second, looked at each second.
    fn watched(memory: Duration, rises: impl IntoIterator<Item = u64>) -> Rate {
        let (mut rate, mut now, mut total) = (Rate::over(memory), Instant::now(), 0);
        rate.observe(total, now);
        for rise in rises {
            (now, total) = (now + SECOND, total + rise);
            rate.observe(total, now);
        }
        rate
    }

    fn near(got: Option<f64>, wanted: f64) {
        let got = got.unwrap();
        assert!((got - wanted).abs() <= wanted.abs() * 0.02 + 1e-9, "{got} where {wanted} was expected");
    }

    #[test]
    fn nothing_is_said_of_what_was_not_watched_long_enough() {
        assert_eq!(Rate::over(DRAIN_MEMORY).per_second(), None);
        assert_eq!(watched(DRAIN_MEMORY, [5; 9]).per_second(), None);
        near(watched(DRAIN_MEMORY, [5; 10]).per_second(), 5.0);
    }

    #[test]
    fn an_even_rate_is_told_from_the_start_and_a_change_is_followed() {
        near(watched(DRAIN_MEMORY, [7; 12]).per_second(), 7.0);
        near(watched(DRAIN_MEMORY, [7; 3_600]).per_second(), 7.0);
        // Five times its memory later, the old rate has all but gone; one memory later, a third of it is left.
        near(watched(DRAIN_MEMORY, [100; 600].into_iter().chain([10; 300])).per_second(), 10.6);
        near(watched(DRAIN_MEMORY, [100; 600].into_iter().chain([0; 60])).per_second(), 36.8);
    }

    #[test]
    fn looks_at_uneven_times_and_a_suspended_machine_change_nothing() {
        let (mut rate, mut now) = (Rate::over(INTAKE_MEMORY), Instant::now());
        let mut total = 0;
        rate.observe(total, now);
        for pause in [1, 7, 2, 0, 60, 3, 600, 1, 1] {
            now += pause * SECOND;
            total += u64::from(pause) * 40;
            rate.observe(total, now);
        }
        near(rate.per_second(), 40.0);
    }

    #[test]
    fn a_counter_that_went_back_begins_anew() {
        let (mut rate, now) = (watched(DRAIN_MEMORY, [5; 60]), Instant::now() + 100 * SECOND);
        rate.observe(3, now);
        assert_eq!(rate.per_second(), None);
        rate.observe(3 + 200, now + 20 * SECOND);
        near(rate.per_second(), 10.0);
    }

    #[test]
    fn the_spool_lasts_as_long_as_its_room_fills() {
        assert_eq!(lasts(41 * 3_600 * 1_000, Some(1_000.0)), Some(41 * 3_600));
        assert_eq!(lasts(1, Some(1_000.0)), Some(1), "what is left is not nothing");
        assert_eq!(lasts(0, None), Some(0), "a full spool is full whatever comes");
        assert_eq!(lasts(1_000, None), None);
        assert_eq!(lasts(1_000, Some(0.0)), None, "at rest there is no end in sight");
        assert_eq!(lasts(u64::MAX, Some(0.5)), None, "nor in a billion years");
    }

    #[test]
    fn a_backlog_drains_by_what_leaves_it_faster_than_it_comes() {
        assert_eq!(drains(0, None, None), Some(0));
        assert_eq!(drains(36_000, Some(30.0), Some(20.0)), Some(3_600));
        assert_eq!(drains(36_000, Some(20.0), Some(30.0)), None, "it grows");
        assert_eq!(drains(36_000, Some(20.0), Some(20.0)), None, "it stays");
        assert_eq!(drains(36_000, Some(0.0), Some(0.0)), None, "nothing moves");
        assert_eq!(drains(36_000, None, Some(1.0)), None);
        assert_eq!(drains(36_000, Some(0.000_001), Some(0.0)), None, "beyond what can be foreseen");
        // What is on its way through a destination that keeps up is no backlog that never ends.
        assert_eq!(drains(30, Some(100.0), Some(100.0)), Some(1));
        assert_eq!(drains(30, Some(100.0), Some(100.5)), Some(1));
    }

    #[test]
    fn each_destination_has_its_share_and_the_spool_counts_a_message_once() {
        let (pacs, ris) = (DestinationId(0), DestinationId(1));
        let (mut capacity, start) = (Capacity::default(), Instant::now());
        // Each second one message of 1,000 bytes for both and one of 500 for the second only; the second destination delivers nothing.
        let flow = |n: u64, bytes: u64, delivered| Flow { accepted: n, accepted_bytes: bytes, delivered };
        for s in 0..=600 {
            let of = [(pacs, flow(s, s * 1_000, s)), (ris, flow(2 * s, s * 1_500, 0))];
            capacity.observe(flow(2 * s, s * 1_500, s), of, start + u32::try_from(s).unwrap() * SECOND);
        }
        let usage = Usage { bytes: 9_000_000, free: 3_000_000, history: 1_000_000, reserve: 1_000_000 };
        assert_eq!(usage.room(), 3_000_000);
        let (all, first, second) = (capacity.outlook(usage), capacity.outlook_of(pacs, usage, 0), capacity.outlook_of(ris, usage, 1_200));
        assert_eq!((all.lasts_seconds, first.lasts_seconds, second.lasts_seconds), (Some(2_000), Some(3_000), Some(2_000)));
        assert_eq!((first.drain_seconds, second.drain_seconds), (Some(0), None));
        near(second.accepted_per_second, 2.0);
        near(second.delivered_per_second, 0.0);
        assert_eq!(capacity.outlook_of(DestinationId(9), usage, 5), Outlook::default(), "of an unknown one nothing is known");
        assert_eq!(capacity.outlook_of(pacs, Usage { free: 0, history: 0, ..usage }, 0).lasts_seconds, Some(0));
        capacity.observe(Flow::default(), [], start + 601 * SECOND);
        assert!(capacity.destinations.is_empty(), "what is gone is forgotten");
    }
}
