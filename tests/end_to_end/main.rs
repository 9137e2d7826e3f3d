//! The stories that a user would try, with a gateway as a process and real peers on both sides. One file per story.
//! Rules: see the harness; every assertion is by id and SHA-256 of what the receiver kept, never by what the gateway says of itself alone.
//! Errors: a failed test shows the logs of its processes and keeps its folder.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods, clippy::disallowed_types, missing_docs, unreachable_pub)]

mod bad_receivers;
mod bounds;
mod demo;
mod dicom_convert;
mod dicom_identity;
mod disk;
mod doctor;
mod drills;
mod failover;
mod first_steps;
mod health;
mod hl7_identity;
mod hostile;
mod intake;
mod kill;
mod matrix;
mod monitoring;
mod moving;
mod names;
mod names_dicom;
mod objectives;
mod operations;
mod package;
mod peers_direct;
mod power_loss;
mod replay;
mod story;
mod tls;
mod verdicts;
mod wishes;
