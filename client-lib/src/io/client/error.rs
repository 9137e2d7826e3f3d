//! What can go wrong in the client, with where and remedy in the text.
//! Rules: no patient data in any text; each kind has one meaning for ever, as the C interface shows them by number.

use crate::delivery::Phase;
use crate::spool::SpoolError;
use std::sync::Arc;

/// What a message met on its way to an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// How far it came.
    pub phase: Phase,
    /// The endpoint's name; empty: none was tried.
    pub endpoint: Arc<str>,
    /// What was seen, for people.
    pub what: String,
}

/// A peer's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The endpoint's name.
    pub endpoint: Arc<str>,
    /// HL7: the answer as it came. DICOM: empty.
    pub bytes: Vec<u8>,
    /// DICOM: (0000,0900). HL7: 0 for AA and CA, else the two letters of MSA-1 as a big-endian number ("AE" is 0x4145).
    pub status: u32,
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// An argument makes no sense.
    #[error("{0}")]
    Argument(String),
    /// The configuration is wrong; one line for each problem.
    #[error("{0}")]
    Configuration(String),
    /// Another process, or another client of this one, has the data directory.
    #[error("{0}")]
    InUse(String),
    /// The disk failed: nothing was taken.
    #[error("{0}")]
    Storage(String),
    /// Too little free space on the disk: nothing was taken. It goes on by itself when there is more.
    #[error("{0}")]
    Full(String),
    /// A limit of the client: nothing was taken.
    #[error("{0}")]
    Limit(String),
    /// No destination of this name, or one of the other protocol.
    #[error("{0}")]
    Destination(String),
    /// The content is no HL7 message, or no DICOM object, or cannot be sent.
    #[error("{0}")]
    Content(String),
    /// No endpoint can have the message: it is safe to try elsewhere.
    #[error("not sent: {}{}", place(.0), .0.what)]
    NotSent(Failure),
    /// An endpoint may have the message: a second one may be a duplicate.
    #[error("sent, and not answered: {}{}; the receiver may have it", place(.0), .0.what)]
    Unanswered(Failure),
    /// The peer refused it.
    #[error("refused: {}{}", place(.1), .1.what)]
    Negative(Box<Answer>, Failure),
    /// The time ran out; so many messages wait still.
    #[error("{0} messages wait still; they are delivered when an endpoint takes them")]
    TimedOut(u64),
    /// The client was closed.
    #[error("the client was closed")]
    Closed,
    /// The process was forked: the child cannot use its parent's client.
    #[error("the client belongs to the parent process; close nothing, open a client of your own with another data_dir")]
    Forked,
    /// Nothing of this id is known: it was never given, or its history is gone.
    #[error("nothing is known of id {0}; its history may be gone")]
    Unknown(u64),
    /// A fault of the library.
    #[error("a fault inside the library: {0}")]
    Internal(String),
}

fn place(failure: &Failure) -> String {
    if failure.endpoint.is_empty() { String::new() } else { format!("endpoint {}: ", failure.endpoint) }
}

impl ClientError {
    /// Whether the same call may succeed later, with nothing changed by the caller, and without the risk of a duplicate.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        matches!(
            self,
            ClientError::InUse(_)
                | ClientError::Storage(_)
                | ClientError::Full(_)
                | ClientError::Limit(_)
                | ClientError::NotSent(_)
                | ClientError::TimedOut(_)
        )
    }

    /// What was met at an endpoint, if it came to one.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            ClientError::NotSent(failure) | ClientError::Unanswered(failure) | ClientError::Negative(_, failure) => Some(failure),
            _ => None,
        }
    }
}

/// Whether the system had no descriptor to give, which says nothing about the disk.
pub(super) fn is_exhausted(cause: &std::io::Error) -> bool {
    matches!(cause.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

impl From<SpoolError> for ClientError {
    fn from(error: SpoolError) -> Self {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        let text = format!("{error}{cause}");
        if std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<std::io::Error>()).is_some_and(is_exhausted) {
            return ClientError::Limit(format!("{text}; raise the limits of this process"));
        }
        match error {
            SpoolError::Reserve { .. } => ClientError::Full(text),
            SpoolError::NotDurable { phase: "open", ref cause } if cause.to_string() == "the spool is closed" => ClientError::Closed,
            SpoolError::NotDurable { ref cause, .. } if cause.kind() == std::io::ErrorKind::StorageFull => ClientError::Full(text),
            SpoolError::InUse { .. } => ClientError::InUse(text),
            SpoolError::Limit(_) => ClientError::Limit(text),
            SpoolError::NotWaiting(id) => ClientError::Unknown(id.0),
            _ => ClientError::Storage(text),
        }
    }
}
