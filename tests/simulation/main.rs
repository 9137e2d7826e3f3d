//! Faults and time, simulated, by seed. A failure prints `SEED=n`; the environment variable `SEED` repeats it.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, clippy::disallowed_methods, reason = "tests")]

mod delivery;
mod spool;
mod spool_faults;
mod spool_model;
mod spool_replays;
