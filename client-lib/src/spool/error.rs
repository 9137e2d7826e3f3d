//! What can go wrong in the spool, with cause and remedy in the text.
//! Rules: no patient data in any text; a cause of the system is kept as source.

use crate::ids::{EnvelopeId, MessageId};

/// What went wrong, for the caller to answer with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpoolError {
    /// Below the reserve: nothing was taken.
    #[error("the spool's reserve is reached: {free} bytes free, {reserve} wanted; free disk space, intake resumes by itself")]
    Reserve {
        /// Bytes free.
        free: u64,
        /// Bytes wanted.
        reserve: u64,
    },
    /// The outcome on disk is unknown; the record will not come back.
    #[error("the spool could not make the message durable ({phase}); nothing was taken; a fresh file is tried each second")]
    NotDurable {
        /// "write", "sync" or "open".
        phase: &'static str,
        /// The system's word.
        #[source]
        cause: std::io::Error,
    },
    /// Another process owns the directory.
    #[error("the spool {dir} is in use by process {pid}; stop it or choose another data_dir")]
    InUse {
        /// The directory.
        dir: String,
        /// Its owner.
        pid: u32,
    },
    /// The content is damaged on disk.
    #[error("content of message {message} is damaged at byte {offset}; it is set aside, see docs/operating.md")]
    Damaged {
        /// The message.
        message: MessageId,
        /// Where.
        offset: u64,
    },
    /// No such envelope, or it has ended.
    #[error("envelope {0} does not wait, or there is none with this number; `everpost queue list` shows them")]
    NotWaiting(EnvelopeId),
    /// The decision does not fit the state.
    #[error("envelope {id} is {state}; {remedy}")]
    WrongState {
        /// The envelope.
        id: EnvelopeId,
        /// Its state.
        state: &'static str,
        /// What can be done.
        remedy: &'static str,
    },
    /// A limit of the spool.
    #[error("{0}")]
    Limit(String),
    /// Any other failure of the disk.
    #[error("the spool's disk failed while {doing}")]
    Disk {
        /// What was being done.
        doing: String,
        /// The system's word.
        #[source]
        cause: std::io::Error,
    },
    /// Written by a later version.
    #[error("the spool was written by a later version ({0}); use that version or a newer one")]
    Version(u32),
}
