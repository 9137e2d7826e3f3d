//! Wakes drivers from the one callback of the spool.
//! Rules: only who found nothing at its last look is woken; who has enough, or has nobody to send to, looks again by itself. So a destination that is away
//! costs the commits of its messages nothing.
//! Errors: none.

use super::Driver;
use crate::ids::DestinationId;
use crate::spool::Spool;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::Notify;

/// How a driver is woken, and whether it wants to be.
type Bell = (Arc<Notify>, Arc<AtomicBool>);

/// Wakes drivers from the one callback of the spool.
#[derive(Debug, Clone, Default)]
pub struct Drivers(Arc<RwLock<HashMap<DestinationId, Bell>>>);

impl Drivers {
    /// Routes `Spool::on_ready` to the drivers in this table. Call once per spool.
    pub fn attach(&self, spool: &Spool) {
        let table = Arc::clone(&self.0);
        spool.on_ready(Box::new(move |id| {
            if let Some((wake, listens)) = table.read().unwrap_or_else(PoisonError::into_inner).get(&id)
                && listens.load(Ordering::Acquire)
            {
                wake.notify_one();
            }
        }));
    }

    /// Adds a driver; one of the same destination is replaced.
    pub fn add(&self, driver: &Driver) {
        let bell = (Arc::clone(&driver.0.wake), Arc::clone(&driver.0.listens));
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(driver.id(), bell);
        driver.kick();
    }

    /// Takes a driver out.
    pub fn remove(&self, id: DestinationId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }
}
