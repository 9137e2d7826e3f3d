//! The fault that a drill simulates at one endpoint: our own dialling fails as if the endpoint did.
//!
//! Rules
//! - Only a drill sets it, for a short time (`FAULT_LEASE`), again and again: whatever becomes of the drill, the fault ends. A process begins without any.
//! - `freeze` connects to a listener of our own on the loopback address that nobody ever reads from: what happens then is what happens with a frozen
//!   process, and not an imitation. With the fault the listener goes, and the system resets what is connected to it.
//! - Every text says that it is a drill.
//!
//! Errors: `Outcome::NotSent`, as of the real fault.

use super::dial::not_sent;
use crate::config::Fault;
use crate::delivery::{Outcome, Phase};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// How often somebody who waits for what was dropped looks whether the fault is over.
const LOOK: Duration = Duration::from_millis(50);

/// See the head of the file.
#[derive(Debug, Default)]
pub(crate) struct Simulated(Mutex<Option<Standing>>);

#[derive(Debug)]
struct Standing {
    fault: Fault,
    until: Instant,
    /// Where frozen connections go.
    hole: Option<TcpListener>,
}

impl Simulated {
    /// Begins, prolongs, or ends it. True: it was not there before.
    pub(crate) fn set(&self, fault: Option<(Fault, Instant)>) -> bool {
        let mut standing = self.locked();
        let Some((fault, until)) = fault else {
            *standing = None;
            return false;
        };
        if let Some(known) = standing.as_mut().filter(|known| known.fault == fault && Instant::now() < known.until) {
            known.until = until;
            return false;
        }
        // Without a loopback address it is as if the packets were dropped.
        let hole = (fault == Fault::Freeze).then(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()).flatten();
        *standing = Some(Standing { fault, until, hole });
        true
    }

    /// What stands now, and where frozen connections go.
    fn now(&self) -> Option<(Fault, Option<SocketAddr>)> {
        let mut standing = self.locked();
        if standing.as_ref().is_some_and(|known| Instant::now() >= known.until) {
            *standing = None;
        }
        standing.as_ref().map(|known| (known.fault, known.hole.as_ref().and_then(|hole| hole.local_addr().ok())))
    }

    /// What a connection meets: nothing, a failure, or where it goes instead.
    pub(crate) async fn connect(&self, name: &str, deadline: Instant) -> Result<Option<SocketAddr>, Outcome> {
        loop {
            match self.now() {
                None => return Ok(None),
                Some((Fault::Freeze, Some(hole))) => return Ok(Some(hole)),
                Some((Fault::Refuse, _)) => return Err(not_sent(Phase::Connect, format!("{name}: connection refused, simulated by a drill"), false)),
                Some((Fault::Dns, _)) => return Err(not_sent(Phase::Resolve, format!("{name} did not resolve, simulated by a drill"), false)),
                Some((Fault::Drop | Fault::Freeze, _)) if Instant::now() >= deadline => {
                    return Err(not_sent(Phase::Connect, format!("{name}: no answer in time, simulated by a drill"), true));
                }
                Some((Fault::Drop | Fault::Freeze, _)) => sleep_until(deadline.min(Instant::now() + LOOK)).await,
            }
        }
    }

    fn locked(&self) -> MutexGuard<'_, Option<Standing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn lease() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[tokio::test(start_paused = true)]
    async fn each_fault_fails_as_the_real_one_and_says_that_it_is_a_drill() {
        let simulated = Simulated::default();
        assert_eq!(simulated.connect("pacs:104", lease()).await, Ok(None));
        for (fault, at, late) in [(Fault::Refuse, Phase::Connect, false), (Fault::Dns, Phase::Resolve, false), (Fault::Drop, Phase::Connect, true)] {
            simulated.set(None);
            assert!(simulated.set(Some((fault, Instant::now() + Duration::from_secs(60)))), "news");
            assert!(!simulated.set(Some((fault, Instant::now() + Duration::from_secs(60)))), "no news");
            let begun = Instant::now();
            let Err(Outcome::NotSent { phase, cause, timeout, .. }) = simulated.connect("pacs:104", begun + Duration::from_secs(3)).await else {
                panic!("{fault:?}")
            };
            assert_eq!((phase, timeout, begun.elapsed() >= Duration::from_secs(3)), (at, late, late), "{fault:?}");
            assert!(cause.contains("drill") && cause.contains("pacs:104"), "{cause}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_fault_that_nobody_prolongs_ends_and_lets_those_go_who_wait() {
        let simulated = Simulated::default();
        simulated.set(Some((Fault::Drop, lease())));
        let begun = Instant::now();
        assert_eq!(simulated.connect("pacs:104", begun + Duration::from_secs(60)).await, Ok(None));
        assert!((5..6).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
        simulated.set(Some((Fault::Refuse, lease())));
        simulated.set(None);
        assert_eq!(simulated.connect("pacs:104", lease()).await, Ok(None));
    }

    #[tokio::test]
    async fn what_is_frozen_is_connected_and_never_answered() {
        let simulated = Simulated::default();
        simulated.set(Some((Fault::Freeze, lease())));
        let hole = simulated.connect("pacs:104", lease()).await.unwrap().unwrap();
        let frozen = tokio::net::TcpStream::connect(hole).await.unwrap();
        let mut byte = [0];
        assert!(tokio::time::timeout(Duration::from_millis(50), frozen.peek(&mut byte)).await.is_err());
        simulated.set(None);
        assert!(frozen.peek(&mut byte).await.is_err(), "reset with the end of the fault");
    }
}
