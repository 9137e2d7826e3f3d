//! Listeners: where peers connect. `accept` is shared by all protocols; each protocol has its own conversation.
//! Rules: a change of the configuration is prepared whole (every new address bound, every certificate read) before anything changes.
//! Errors: `OpenError` names the listener and what to do.

pub mod accept;
pub mod allowance;
pub mod dicom;
pub mod mllp;

use crate::config::Listener;
use crate::descriptors::Descriptors;
use crate::intake::Intake;
use accept::{Connection, Door, OpenError};
use everpost_client::io::stop::{Stop, Stopper};
use everpost_client::io::tls::ServerTls;
use everpost_client::keys::Protocol;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;
use tokio::task::JoinHandle;

/// All open listeners of a gateway.
pub struct Doors {
    intake: Arc<Intake>,
    descriptors: Arc<Descriptors>,
    open: Mutex<Vec<Serving>>,
    /// Doors that were closed and whose conversations have not ended.
    closing: Mutex<Vec<JoinHandle<()>>>,
}

/// One door and the task that serves it.
struct Serving {
    door: Arc<Door>,
    stopper: Stopper,
    task: JoinHandle<()>,
}

/// A change that is ready to be made; dropping it changes nothing.
pub struct Prepared {
    changed: Vec<(Arc<Listener>, Option<ServerTls>)>,
    opened: Vec<Arc<Door>>,
}

/// One listener as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoorView {
    /// Its settings.
    pub listener: Arc<Listener>,
    /// Where it listens.
    pub bind: SocketAddr,
    /// Connections now.
    pub connections: usize,
    /// When its certificate ends, if it has one.
    pub expires_at: Option<SystemTime>,
}

impl Doors {
    /// None open yet.
    #[must_use]
    pub fn new(intake: Arc<Intake>) -> Doors {
        Doors { intake, descriptors: Arc::default(), open: Mutex::default(), closing: Mutex::default() }
    }

    /// What all listeners together may use of the process's descriptors.
    #[must_use]
    pub fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    /// Makes ready what `apply` does: binds listeners that are new and reads all certificates again. Listeners are told apart by name.
    /// # Errors
    /// `OpenError`: nothing has changed.
    pub fn prepare(&self, listeners: &[Arc<Listener>]) -> Result<Prepared, OpenError> {
        let known: Vec<Arc<str>> = self.lock().iter().map(|serving| serving.door.listener().name.clone()).collect();
        let mut prepared = Prepared { changed: Vec::new(), opened: Vec::new() };
        for listener in listeners {
            if known.contains(&listener.name) {
                prepared.changed.push((listener.clone(), accept::load_tls(listener)?));
            } else {
                prepared.opened.push(Door::open(listener, self.intake.events(), &self.descriptors)?);
            }
        }
        Ok(prepared)
    }

    /// Makes a change: new listeners are served, known ones take their new settings, those left out are closed. Must be called inside a tokio runtime.
    pub fn apply(&self, prepared: Prepared) {
        let mut open = self.lock();
        let mut closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
        closing.retain(|task| !task.is_finished());
        for serving in std::mem::take(&mut *open) {
            let name = serving.door.listener().name.clone();
            if let Some((listener, tls)) = prepared.changed.iter().find(|(listener, _)| listener.name == name) {
                serving.door.change(listener.clone(), tls.clone());
                open.push(serving);
            } else {
                serving.stopper.stop();
                closing.push(serving.task);
            }
        }
        for door in prepared.opened {
            let (stopper, stop) = Stop::new();
            let task = tokio::spawn(serve(door.clone(), self.intake.clone(), stop));
            open.push(Serving { door, stopper, task });
        }
    }

    /// Every open listener.
    #[must_use]
    pub fn view(&self) -> Vec<DoorView> {
        let view = |serving: &Serving| DoorView {
            listener: serving.door.listener(),
            bind: serving.door.local_addr(),
            connections: serving.door.connections(),
            expires_at: serving.door.expires_at(),
        };
        self.lock().iter().map(view).collect()
    }

    /// Closes every door and returns when all conversations have ended. The caller brings the deadline.
    pub async fn stop(&self) {
        let mut tasks = std::mem::take(&mut *self.closing.lock().unwrap_or_else(PoisonError::into_inner));
        for serving in std::mem::take(&mut *self.lock()) {
            serving.stopper.stop();
            tasks.push(serving.task);
        }
        for task in tasks {
            // A panic in it was told by the runtime; it is over either way.
            let _ = task.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Serving>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves a door with the conversation of its protocol.
async fn serve(door: Arc<Door>, intake: Arc<Intake>, stop: Stop) {
    let protocol = door.listener().protocol;
    match protocol {
        Protocol::Mllp => {
            let converse = move |connection: Connection, listener, stop| mllp::converse(connection, listener, intake.clone(), stop);
            door.serve(stop, converse).await;
        }
        Protocol::Dicom => {
            let converse = move |connection: Connection, listener, stop| dicom::converse(connection, listener, intake.clone(), stop);
            door.serve(stop, converse).await;
        }
    }
}
