//! What people and sites wish of a destination, by the names of the configuration: shift, drain, disable, follow.
//! Rules: a wish changes preference, or forbids an endpoint; it never makes an endpoint eligible. Wishes name endpoints, so that they outlive reloads
//! and restarts. A shift ends by the wall clock.
//! Errors: `ShiftRefused`, with what to do.

use super::Admin;
use super::pool::origin;
use crate::config::Endpoint;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// An operator's move of a destination to one endpoint, for a time. This is also the form in which it is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shift {
    /// To this endpoint.
    pub to: Arc<str>,
    /// Why, in the operator's words.
    pub reason: Arc<str>,
    /// Who.
    pub by: Arc<str>,
    /// When it began (milliseconds since 1970).
    pub since: u64,
    /// When it ends by itself (milliseconds since 1970).
    pub until: u64,
    /// The site that `site shift` left by it.
    #[serde(default)]
    pub site: Option<Arc<str>>,
    /// To an endpoint that may not be healthy: one envelope goes there at once, and all follow if it is answered.
    #[serde(default)]
    pub forced: bool,
}

/// Where a destination goes because its site was left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Follow {
    /// The site that was left.
    pub leaves: Arc<str>,
    /// To this site; none: to any other.
    pub to: Option<Arc<str>>,
    /// Why, for people.
    pub why: Arc<str>,
}

/// What people want, as it is remembered: given to a destination before it starts.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// Delivery is paused.
    pub paused: bool,
    /// The shift that stands.
    pub shift: Option<Shift>,
    /// Endpoints that are drained or disabled.
    pub admin: BTreeMap<Arc<str>, Admin>,
}

/// Why a shift was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShiftRefused {
    /// Not configured.
    #[error("there is no endpoint {0} in this destination; `everpost status` lists them")]
    Unknown(String),
    /// One at a time.
    #[error("it is shifted to {to} already, by {by}; end that first: `everpost endpoint unshift`")]
    Standing {
        /// Where to.
        to: Arc<str>,
        /// By whom.
        by: Arc<str>,
    },
    /// People forbade the endpoint.
    #[error("endpoint {to} is {admin}; first `everpost endpoint enable`")]
    NotEnabled {
        /// Which.
        to: String,
        /// `draining` or `disabled`.
        admin: &'static str,
    },
    /// It would be left at once.
    #[error("endpoint {to} is not healthy ({reason}); mend it, or use --force to try it with one envelope at once")]
    NotHealthy {
        /// Which.
        to: String,
        /// What was seen.
        reason: String,
    },
}

/// What happened to a shift.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShiftNews {
    /// It was wished.
    Begun,
    /// Its endpoint is not in service: the destination delivers elsewhere, and comes back to it by the rules of failback.
    Suspended,
    /// Its endpoint gets the traffic again.
    Resumed,
    /// Its time is over, an operator ended it, or its endpoint left the configuration.
    Ended,
}

impl ShiftNews {
    /// For events.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ShiftNews::Begun => "begun",
            ShiftNews::Suspended => "suspended",
            ShiftNews::Resumed => "resumed",
            ShiftNews::Ended => "ended",
        }
    }
}

/// A shift with what has become of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) shift: Shift,
    pub(super) suspended: bool,
}

/// How much a destination likes an endpoint: less is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Liking {
    /// A shift names it.
    Shifted,
    /// It is where the site's other destinations went.
    Followed,
    /// By its place in the configuration.
    Configured,
}

/// All wishes of one destination.
#[derive(Debug, Clone, Default)]
pub(super) struct Standings {
    pub(super) shift: Option<Standing>,
    pub(super) follow: Option<Follow>,
    pub(super) admin: BTreeMap<Arc<str>, Admin>,
}

impl Standings {
    pub(super) fn admin_of(&self, endpoint: &Endpoint) -> Admin {
        let own = |name: &Arc<str>| names(name, endpoint);
        self.admin.iter().find(|(name, _)| own(name)).map_or(Admin::Enabled, |(_, admin)| *admin)
    }

    pub(super) fn liking(&self, endpoint: &Endpoint) -> Liking {
        if self.shift.as_ref().is_some_and(|s| names(&s.shift.to, endpoint)) {
            return Liking::Shifted;
        }
        let follows = |f: &Follow| match &f.to {
            Some(to) => endpoint.site.as_ref() == Some(to),
            None => endpoint.site.as_ref() != Some(&f.leaves),
        };
        if self.follow.as_ref().is_some_and(follows) { Liking::Followed } else { Liking::Configured }
    }
}

/// Whether a name that people use means this endpoint: its own, or that of the pool it belongs to.
pub(super) fn names(name: &str, endpoint: &Endpoint) -> bool {
    *endpoint.name == *name || origin(&endpoint.name) == name
}
