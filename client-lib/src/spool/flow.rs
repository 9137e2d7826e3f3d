//! What passed through the spool since it was opened, and how much more it can take: the figures that an outlook is made of.
//! Rules: counted where the index learns of it, in the order of the log; a message counts once for the spool and once for each of its destinations,
//! because the slowest one holds it. Replays are no acceptance: their content is kept already.
//! Errors: none.

use crate::ids::DestinationId;
use crate::spool::journal::{Content, lock};
use crate::spool::record::Extent;
use crate::spool::{Inner, Spool};
use std::sync::atomic::Ordering;

/// Counts that only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flow {
    /// Messages accepted.
    pub accepted: u64,
    /// Bytes that these took on disk.
    pub accepted_bytes: u64,
    /// Envelopes that an endpoint answered positively, and replays that one refused.
    pub delivered: u64,
}

/// The spool's and each destination's.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    all: Flow,
    of: Vec<Flow>,
}

impl Flows {
    /// A message became known, for these destinations.
    pub(crate) fn accepted(&mut self, destinations: impl Iterator<Item = DestinationId>, record: usize, extents: &[Extent]) {
        let bytes = record as u64 + extents.iter().map(|e| u64::from(e.length)).sum::<u64>();
        let add = |flow: &mut Flow| {
            flow.accepted += 1;
            flow.accepted_bytes += bytes;
        };
        add(&mut self.all);
        for destination in destinations {
            add(self.of(destination));
        }
    }

    /// An envelope was delivered.
    pub(crate) fn delivered(&mut self, destination: DestinationId) {
        self.all.delivered += 1;
        self.of(destination).delivered += 1;
    }

    fn of(&mut self, destination: DestinationId) -> &mut Flow {
        let at = usize::from(destination.0);
        if self.of.len() <= at {
            self.of.resize(at + 1, Flow::default());
        }
        &mut self.of[at]
    }
}

impl Spool {
    /// What passed since the spool was opened: of one destination, or in all, where each message counts once.
    #[must_use]
    pub fn flow(&self, destination: Option<DestinationId>) -> Flow {
        let index = lock(&self.inner.index);
        match destination {
            None => index.flows.all,
            Some(destination) => index.flows.of.get(usize::from(destination.0)).copied().unwrap_or_default(),
        }
    }
}

impl Inner {
    /// Bytes of history that would go before intake closes, as far as `recycle` can free them: without what still waits or may have to be replayed.
    pub(crate) fn history_bytes(&self) -> u64 {
        let index = lock(&self.index);
        let keeps = lock(&self.keeps);
        let from = keeps.from();
        let mut bytes = 0;
        for segment in self.segments.all() {
            let (newest_at, envelopes) = match segment.content() {
                Content::Active => continue,
                Content::Unsealed(listing, ..) => (listing.newest_at, listing.envelopes),
                Content::Sealed(trailer) => (trailer.newest_at, trailer.envelopes),
            };
            if segment.pinned.load(Ordering::Relaxed) || newest_at >= from || keeps.holds(segment.generation, newest_at) {
                continue;
            }
            let (size, live) = (segment.size.load(Ordering::Relaxed), index.live(segment.generation));
            bytes += match live {
                0 => size,
                live if live * 2 <= envelopes => size / envelopes * (envelopes - live),
                _ => 0,
            };
        }
        drop((index, keeps));
        for segment in self.content.idle() {
            let (live, newest_at) = segment.live();
            if segment.held() || segment.pinned() || newest_at >= from {
                continue;
            }
            bytes += match live {
                0 => segment.size,
                live if live * 4 <= segment.used() => segment.used() - live,
                _ => 0,
            };
        }
        bytes
    }
}
