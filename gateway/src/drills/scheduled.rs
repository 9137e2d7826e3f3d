//! Makes the drills that are due by their schedules.
//! Rules: what is due next is durable before one is made or called missed, so that none is made twice; one at a time.
//! Errors: none; a drill that does not begin leaves a report that says why, and an alarm.

use super::begin::DrillWish;
use super::calendar::{Due, Step, step};
use super::locked;
use crate::live::{Live, now};
use everpost_client::config::Destination;
use jiff::tz::TimeZone;
use std::sync::Arc;

/// Name under which it is remembered what is due, before the destination's name.
const DUE: &str = "drill/";

impl Live {
    /// Whether there is a schedule, or was.
    #[must_use]
    pub fn has_drills_to_mind(&self) -> bool {
        self.config().destinations.iter().any(|d| d.drill.schedule.is_some()) || !locked(&self.drills().dues).is_empty()
    }

    /// Looks what is due. About once a second.
    pub async fn mind_drills(self: &Arc<Self>) {
        let Ok(_turn) = self.drills().minding.try_lock() else { return };
        let zone = TimeZone::system();
        let config = self.config();
        self.forget_dues(|name| config.destinations.iter().any(|d| *d.name == *name && d.drill.schedule.is_some())).await;
        for destination in config.destinations.iter().filter(|d| d.drill.schedule.is_some()) {
            self.mind_drill(destination, &zone).await;
        }
    }

    async fn mind_drill(self: &Arc<Self>, destination: &Arc<Destination>, zone: &TimeZone) {
        let (name, Some(schedule)) = (&*destination.name, destination.drill.schedule) else { return };
        match step(self.due(name).as_ref(), schedule, now(), zone) {
            Step::Wait => {}
            Step::Set(due) => {
                self.remember_due(name, &due).await;
            }
            Step::Run { due, next } => {
                if self.remember_due(name, &next).await {
                    let settings = &destination.drill;
                    let (fault, real) = (settings.fault, settings.real);
                    let wish = DrillWish { fault, real, by: "the schedule".to_owned(), scheduled: Some(due), ..DrillWish::default() };
                    if let Err(e) = self.begin_drill(name, wish).await {
                        self.drill_missed(name, due, format!("it was not begun: {e}")).await;
                    }
                }
            }
            Step::Missed { due, next } => {
                if self.remember_due(name, &next).await {
                    let why = "the gateway did not run when it was due".to_owned();
                    self.drill_missed(name, due, why).await;
                }
            }
        }
    }

    fn due(&self, name: &str) -> Option<Due> {
        if let Some(due) = locked(&self.drills().dues).get(name) {
            return Some(due.clone());
        }
        let wanted = format!("{DUE}{name}");
        let value = self.committer().spool().remembered().into_iter().find(|(about, _)| *about == wanted)?.1;
        let due: Due = serde_json::from_slice(&value).ok()?;
        locked(&self.drills().dues).insert(name.to_owned(), due.clone());
        Some(due)
    }

    /// False: it is not durable, so nothing may be done; the next look tries again.
    async fn remember_due(&self, name: &str, due: &Due) -> bool {
        let value = serde_json::to_vec(due).unwrap_or_default();
        match self.committer().remember(&format!("{DUE}{name}"), &value).await {
            Ok(()) => {
                locked(&self.drills().dues).insert(name.to_owned(), due.clone());
                true
            }
            Err(e) => {
                tracing::warn!(about = name, "when the next drill is due could not be recorded: {e}");
                false
            }
        }
    }

    /// Schedules that are gone.
    async fn forget_dues(&self, stays: impl Fn(&str) -> bool) {
        let gone: Vec<String> = locked(&self.drills().dues).keys().filter(|name| !stays(name)).cloned().collect();
        for name in gone {
            if self.committer().remember(&format!("{DUE}{name}"), b"").await.is_ok() {
                locked(&self.drills().dues).remove(&name);
            }
        }
    }
}
