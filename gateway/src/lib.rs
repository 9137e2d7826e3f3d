//! Everpost, the gateway: listeners, routes, the configuration, admin API, command line. The binary `everpost` is a thin shell over this.
//!
//! Direction of use: `main -> daemon -> {listener, admin, metrics} -> intake -> {config, route}`.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "the gateway is the shell: it owns sockets, threads and clocks")]

pub mod admin;
pub mod capacity;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod demo;
pub mod descriptors;
pub mod doctor;
pub mod drills;
pub mod expiry;
pub mod intake;
pub mod listener;
pub mod live;
pub mod log;
pub mod metrics;
pub mod outages;
pub mod process;
pub mod route;
pub mod sites;
pub mod status;
pub mod wishes;
