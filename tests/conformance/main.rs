//! Clauses of the standards, one file per part. Rules: a test names the clause it stands for; what the product decides itself is tested where it is decided.
//! Errors: a failed test.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types, missing_docs, unreachable_pub)]

mod dicom_peer;
mod dicom_store;
mod dicom_upper_layer;
mod hl7_delivery;
mod hl7_listener;
mod hl7_message;
