//! The word to stop, handed to everything that waits.
//! Rules: stopping is final; a `Stop` whose every `Stopper` is gone counts as stopped, so that nothing outlives the one who could have stopped it.
//! Errors: none.

use tokio::sync::watch;

/// Says stop. Cheap to clone; when the last one is dropped, that is a stop too.
#[derive(Debug, Clone)]
pub struct Stopper(watch::Sender<bool>);

impl Stopper {
    /// Stops every `Stop` made with this one. Saying it twice is harmless.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

/// Hears stop. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// A pair. Keep the `Stopper`: dropping it stops.
    #[must_use]
    #[allow(clippy::new_ret_no_self, reason = "the two make sense only together")]
    pub fn new() -> (Stopper, Stop) {
        let (sender, receiver) = watch::channel(false);
        (Stopper(sender), Stop(receiver))
    }

    /// Whether it was said.
    #[must_use]
    pub fn stopped(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Returns when it is said. Safe to cancel.
    pub async fn wait(&self) {
        // An error means that every `Stopper` is gone, which counts as stop.
        let _ = self.0.clone().wait_for(|stopped| *stopped).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stop_reaches_every_clone_and_stays() {
        let (stopper, stop) = Stop::new();
        let other = stop.clone();
        assert!(!stop.stopped());
        let waiting = tokio::spawn(async move { other.wait().await });
        stopper.stop();
        assert!(waiting.await.is_ok());
        stop.wait().await;
        assert!(stop.stopped());
    }

    #[tokio::test]
    async fn a_lost_stopper_counts_as_stop() {
        let (stopper, stop) = Stop::new();
        drop(stopper);
        assert!(stop.stopped());
        stop.wait().await;
    }
}
