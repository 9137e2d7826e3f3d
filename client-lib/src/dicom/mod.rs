//! DICOM as far as a store-and-forward gateway speaks it: the upper layer (PS3.8), C-ECHO, C-STORE and C-FIND (PS3.7), data sets and files (PS3.5, PS3.10).
//!
//! From the wire up: `pdu` frames bytes, `association` is the state machine of PS3.8 9.2 around it, `negotiate` agrees on contexts and limits,
//! `dimse` reads and writes command sets, `find` asks what an archive has. `walker` and `recode` see data sets as they stream by, `convert` changes their syntax, `part10` is the file,
//! `synthetic` the object that probes store.
//! All of it is pure: bytes in, bytes and indications out; sockets and clocks are `io`'s and the gateway's.
//! Rules: content is never parsed by anything that trusts a length field or follows nesting without bound.
//! Errors: each module's own; a peer's protocol error becomes an A-ABORT with the reason of PS3.8 9.3.8.

pub mod association;
pub mod convert;
pub mod dictionary;
pub mod dimse;
pub mod find;
pub mod negotiate;
pub mod part10;
pub mod pdu;
pub mod recode;
pub mod status;
pub mod synthetic;
pub mod uid;
pub mod walker;
