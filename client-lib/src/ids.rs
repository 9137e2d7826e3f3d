//! Typed numbers and names: a mix-up does not compile.
//! Rules: a sequence number is given once, at commit, and never again; envelope numbers are drawn from the same counter as message numbers, so
//! comparing two envelope ids compares their order of acceptance. On every surface ids are decimal strings.
//! Errors: none here; parsing gives `ParseIntError`.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

macro_rules! sequence_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIntError;
            fn from_str(text: &str) -> Result<Self, ParseIntError> {
                text.parse().map(Self)
            }
        }
    };
}

sequence_id!(
    /// One message: its sequence number, given at commit.
    MessageId
);
sequence_id!(
    /// One envelope: one message for one destination.
    EnvelopeId
);

/// A destination, by its place in the spool's table of destination names. Stable while a process runs; on disk stands the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DestinationId(pub u16);

/// An endpoint, by its place in its destination's list: 0 is the preferred one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(pub u16);

impl EndpointId {
    /// The index into the destination's endpoint list.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}
