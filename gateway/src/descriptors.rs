//! Descriptors of the process: how many there may be, and which part of them listeners leave to the rest.
//!
//! Every connection and every segment of the spool holds one. A listener that took the last one would stop the spool, delivery and the operator's own
//! socket. The system gives out the lowest free number, so the number of a connection says how many are in use: no count can drift.
//! Rules: what spool, delivery and the admin API may still need is kept free of connections; of what is left, the last quarter is for addresses that
//! hold less than a quarter. With few descriptors, listeners have half of them all the same: an intake that takes nothing serves nobody.
//! Errors: none; what cannot all be had is a warning, what is refused a notice of the listener.

use crate::config::Config;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Held from the start: standard streams, signals, the runtime, sockets that listen, the spool's lock and first segments.
const FIRST: usize = 32;

/// Connections of the admin API that stay possible.
const ADMIN: usize = 8;

/// Kept for new segments and files being read: an eighth of all, in this range. 64 MiB of backlog take one.
const SPOOL: std::ops::RangeInclusive<usize> = 8..=4096;

/// What listeners may use.
#[derive(Debug)]
pub struct Descriptors {
    /// Connections whose descriptor has this number or a greater one are not taken.
    end: AtomicUsize,
}

impl Default for Descriptors {
    /// No limit.
    fn default() -> Self {
        Self { end: AtomicUsize::new(usize::MAX) }
    }
}

impl Descriptors {
    /// Sets what listeners may use of `limit` descriptors.
    pub fn share(&self, limit: usize, config: &Config) {
        self.end.store(end(limit, config), Ordering::Relaxed);
    }

    /// Whether a connection with this descriptor may stay. `own`: connections its address has here already.
    #[must_use]
    pub fn has_room(&self, descriptor: usize, own: usize) -> bool {
        let end = self.end.load(Ordering::Relaxed);
        let quarter = end / 4;
        descriptor < end - quarter || descriptor < end && own < quarter
    }
}

fn end(limit: usize, config: &Config) -> usize {
    limit.saturating_sub(kept(limit, config)).max(limit / 2)
}

/// What must stay free for the rest of the gateway.
fn kept(limit: usize, config: &Config) -> usize {
    // One endpoint of a destination has its connections at a time; while it is left for another, both; each is probed.
    let delivery = config.destinations.iter().map(|d| 2 * usize::from(d.associations.get()) + d.endpoints.len());
    (limit / 8).clamp(*SPOOL.start(), *SPOOL.end()) + delivery.sum::<usize>() + ADMIN
}

/// What to tell people if the connections that the listeners are to take cannot all be had.
#[must_use]
pub fn warning(limit: usize, config: &Config) -> Option<String> {
    let wanted: usize = config.listeners.iter().map(|l| l.max_connections).sum();
    let room = end(limit, config).saturating_sub(FIRST + config.listeners.len());
    (wanted > room).then(|| {
        format!(
            "max_connections of all listeners is {wanted} together, and the limit of {limit} open files leaves about {room}: those beyond it will be \
             refused; raise the limit (LimitNOFILE, ulimit -Hn) to {} or lower max_connections",
            needed(wanted, config)
        )
    })
}

/// A limit with which all can be had.
fn needed(wanted: usize, config: &Config) -> usize {
    let others = kept(0, config) - SPOOL.start() + FIRST + config.listeners.len() + wanted;
    (others + SPOOL.start()).max((others * 8).div_ceil(7)).min(others + SPOOL.end())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::path::Path;

    fn config() -> Config {
        Config::load(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/everpost.example.toml"))).unwrap()
    }

    #[test]
    fn listeners_leave_what_the_rest_needs() {
        let config = config();
        for limit in [64, 256, 1024, 65_536, 1 << 20] {
            let end = end(limit, &config);
            assert!(end >= limit / 2 && end + ADMIN + SPOOL.start() <= limit, "{limit}: {end}");
        }
        assert!(end(1024, &config) + kept(1024, &config) == 1024);
        let descriptors = Descriptors::default();
        assert!(descriptors.has_room(1_000_000, 1_000_000), "no limit before it is known");
        descriptors.share(1024, &config);
        let end = end(1024, &config);
        assert!(descriptors.has_room(end - end / 4 - 1, 10_000));
        assert!(!descriptors.has_room(end - 1, end / 4), "the last quarter is for others");
        assert!(descriptors.has_room(end - 1, 0));
        assert!(!descriptors.has_room(end, 0));
    }

    #[test]
    fn what_cannot_be_had_is_told_with_a_limit_that_does() {
        let config = config();
        let told = warning(1024, &config).unwrap();
        let wanted: usize = config.listeners.iter().map(|l| l.max_connections).sum();
        assert!(told.contains(&format!(" is {wanted} together")) && told.contains("LimitNOFILE"), "{told}");
        let enough = needed(wanted, &config);
        assert_eq!(warning(enough, &config), None);
        assert!(warning(enough - 2, &config).is_some());
    }
}
