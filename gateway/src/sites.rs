//! Runs the coupling of sites: tells it where destinations deliver, carries out its orders.
//! Rules: looked at each second and whenever an active endpoint changed; an order is carried out before the next one is asked for.
//! Errors: none; who cannot follow is told by an event.

use crate::live::Live;
use everpost_client::endpoint::sites::{Site, Sites, Whereabouts};
use everpost_client::event::{Event, Events};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Orders carried out in one look: each follower one, and one more if its trigger moved on meanwhile. The rest is for the next look.
const ORDERS_MAX: usize = 2 * everpost_client::limits::DESTINATIONS_MAX;

/// The coupling of the running gateway.
#[derive(Debug, Default)]
pub struct Coupling(Sites);

impl Coupling {
    /// Takes new settings.
    pub fn reconfigure(&mut self, sites: &[Site]) {
        self.0.reconfigure(sites);
    }

    /// Looks where everything is, and moves what has to move.
    pub fn look(&mut self, live: &Live, events: &Events) {
        if self.0.is_idle() {
            return;
        }
        let running = live.destinations();
        for _ in 0..ORDERS_MAX {
            let seen: BTreeMap<Arc<str>, Whereabouts> = running.iter().map(|r| (r.name.clone(), r.driver.whereabouts())).collect();
            let order = self.0.next_order(&seen);
            for (site, what) in self.0.told() {
                events.emit(Event::Site { site, what });
            }
            let Some(order) = order else { return };
            if let Some(r) = running.iter().find(|r| r.name == order.destination) {
                r.driver.follow(order.follow);
            }
        }
    }
}
