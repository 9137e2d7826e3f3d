//! One endpoint as the failover machine keeps it: health, what people want, and whether it is in service.
//! Rules: `failover` decides, this only keeps account. Errors: none.

use super::Admin;
use super::health::Health;
use crate::config::Endpoint;
use crate::ids::EnvelopeId;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An endpoint that is left as slow within this time after its return returned too early.
const SLOW_AGAIN: Duration = Duration::from_secs(600);

/// Whether it misses something that others answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behind {
    No,
    Missing,
    /// Its return waits for that.
    CatchingUp,
}

#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) config: Arc<Endpoint>,
    pub(super) admin: Admin,
    pub(super) health: Health,
    /// Set: not in service, since then.
    pub(super) out: Option<Instant>,
    /// When it was last left; attempts that began earlier are stale news.
    pub(super) left_at: Option<Instant>,
    /// When it last came back into service.
    returned_at: Option<Instant>,
    /// The wait before its next voluntary return.
    pub(super) hold_down: Duration,
    /// Its rest is over and only an envelope can prove it good.
    pub(super) canary_due: bool,
    pub(super) canary_out: bool,
    /// An operator wants one envelope to go there, whatever probes say.
    pub(super) demanded: bool,
    /// Of its name: spreads lanes the same way whatever its place in the list.
    pub(super) salt: u64,
    pub(super) behind: Behind,
    pub(super) outstanding: u32,
    /// Failures without an answer in a row; those seen side by side count once.
    pub(super) failures: u32,
    /// Those of them that were lost after the message was sent whole.
    pub(super) lost: u32,
    last_failure: Option<Instant>,
    /// Different envelopes refused since the last answer that was no refusal.
    pub(super) refused: Vec<EnvelopeId>,
}

impl Place {
    pub(super) fn new(config: &Arc<Endpoint>, hold_down: Duration, now: Instant) -> Self {
        Self {
            config: Arc::clone(config),
            admin: Admin::Enabled,
            health: Health::new(config.health.clone(), now),
            out: None,
            left_at: None,
            returned_at: None,
            hold_down,
            canary_due: false,
            canary_out: false,
            demanded: false,
            salt: config.name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)),
            behind: Behind::No,
            outstanding: 0,
            failures: 0,
            lost: 0,
            last_failure: None,
            refused: Vec::new(),
        }
    }

    /// The same peer, as far as health goes: a change of name, address, AE title or TLS makes it another one.
    pub(super) fn is_same_as(&self, other: &Endpoint) -> bool {
        let mine = &self.config;
        mine.name == other.name && mine.host == other.host && mine.port == other.port && mine.ae_title == other.ae_title && mine.tls == other.tls
    }

    /// What was seen of it, under new settings. Attempts in flight are no longer its own.
    pub(super) fn under(&self, config: Arc<Endpoint>, now: Instant) -> Self {
        let mut place = Self { canary_out: false, outstanding: 0, ..self.clone() };
        place.health.reconfigure(config.health.clone(), now);
        place.config = config;
        place
    }

    /// May be given traffic, as far as health and people say.
    pub(super) fn trusted(&self) -> bool {
        self.admin == Admin::Enabled && self.health.eligible()
    }

    /// Good without a break for its hold-down.
    pub(super) fn rested(&self, now: Instant) -> bool {
        self.health.good_since().is_some_and(|since| now >= since + self.hold_down)
    }

    /// It answered: failures in a row end.
    pub(super) fn forgive(&mut self) {
        self.failures = 0;
        self.lost = 0;
        self.last_failure = None;
    }

    /// Counts a failure, unless its attempt ran beside one that was counted: then it was no second try.
    pub(super) fn count_failure(&mut self, started: Instant, lost: bool, now: Instant) {
        if self.last_failure.is_none_or(|last| started >= last) {
            self.failures += 1;
            self.lost += u32::from(lost);
            self.last_failure = Some(now);
        }
    }

    pub(super) fn put_out(&mut self, base: Duration, max: Duration, now: Instant) {
        if self.out.is_none() {
            // A return that did not last as long as the wait before it was a failed return.
            // That it is slow takes longer to see than that it is dead.
            let trial = if self.health.wants_leaving() { self.hold_down.max(SLOW_AGAIN) } else { self.hold_down };
            let failed_return = self.returned_at.is_some_and(|at| now.saturating_duration_since(at) < trial);
            self.hold_down = if failed_return { self.hold_down.saturating_mul(2).min(max) } else { base };
            self.out = Some(now);
        }
        if self.behind == Behind::CatchingUp {
            self.behind = Behind::Missing;
        }
        self.returned_at = None;
        self.left_at = Some(now);
        self.canary_due = false;
        self.demanded = false;
        self.refused.clear();
        self.forgive();
    }

    pub(super) fn bring_back(&mut self, now: Instant) {
        self.out = None;
        self.canary_due = false;
        self.demanded = false;
        self.returned_at = Some(now);
    }
}
