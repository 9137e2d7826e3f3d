//! The engine of Everpost: a durable spool, delivery with endpoint failover, HL7 v2 over MLLP and DICOM C-STORE.
//!
//! Strata (a module uses only what stands to its right):
//! `io -> {config, event} -> delivery -> {endpoint, spool, hl7, dicom, mllp} -> {keys, ids, limits}`.
//! Everything outside `io` is pure: event and time in, actions out; no socket, no disk, no clock.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests of pure parts need a point in time to count from"))]

pub mod config;
pub mod delivery;
pub mod dicom;
pub mod endpoint;
pub mod event;
pub mod hl7;
pub mod ids;
#[cfg(feature = "io")]
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "the only folder that touches the world")]
pub mod io;
pub mod keys;
pub mod limits;
pub mod mllp;
pub mod report;
pub mod spool;
