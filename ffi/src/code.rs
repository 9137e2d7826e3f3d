//! The codes of the C interface. Numbers are never reused, and a code never changes its meaning.

use ::everpost_client::io::client::ClientError;

/// What a function says. Zero is success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum everpost_code {
    /// Done.
    EVERPOST_OK = 0,
    /// A pointer is NULL, a string is not UTF-8, a file cannot be read, or a value makes no sense.
    EVERPOST_ARGUMENT = 1,
    /// The configuration is wrong; the text says where.
    EVERPOST_CONFIGURATION = 2,
    /// Another process, or another client of this one, has the data directory.
    EVERPOST_IN_USE = 3,
    /// The disk failed: nothing was taken.
    EVERPOST_STORAGE = 4,
    /// The disk has too little free space: nothing was taken. It goes on by itself when there is more.
    EVERPOST_FULL = 5,
    /// A limit of the library or of the process: nothing was taken.
    EVERPOST_LIMIT = 6,
    /// There is no destination of this name, or it speaks the other protocol.
    EVERPOST_DESTINATION = 7,
    /// The content is no HL7 message or no DICOM object, or cannot be sent.
    EVERPOST_CONTENT = 8,
    /// No endpoint can have the message: it is safe to try elsewhere.
    EVERPOST_NOT_SENT = 9,
    /// An endpoint may have the message: sending it again may make a duplicate.
    EVERPOST_UNANSWERED = 10,
    /// The peer refused it; the answer is there to be read.
    EVERPOST_NEGATIVE = 11,
    /// The time ran out.
    EVERPOST_TIMEOUT = 12,
    /// The client was closed.
    EVERPOST_CLOSED = 13,
    /// The client belongs to the parent of this process.
    EVERPOST_FORKED = 14,
    /// The handle is none of this kind: never given, or freed or closed already.
    EVERPOST_HANDLE = 15,
    /// The program was built for a later version of the interface than this library has.
    EVERPOST_VERSION = 16,
    /// Nothing is known of this id.
    EVERPOST_UNKNOWN = 17,
    /// A fault inside the library; handles may still be closed.
    EVERPOST_INTERNAL = 99,
}

use everpost_code::*;

impl everpost_code {
    /// What an error of the client is called in C.
    pub(crate) fn of(error: &ClientError) -> everpost_code {
        match error {
            ClientError::Argument(_) => EVERPOST_ARGUMENT,
            ClientError::Configuration(_) => EVERPOST_CONFIGURATION,
            ClientError::InUse(_) => EVERPOST_IN_USE,
            ClientError::Storage(_) => EVERPOST_STORAGE,
            ClientError::Full(_) => EVERPOST_FULL,
            ClientError::Limit(_) => EVERPOST_LIMIT,
            ClientError::Destination(_) => EVERPOST_DESTINATION,
            ClientError::Content(_) => EVERPOST_CONTENT,
            ClientError::NotSent(_) => EVERPOST_NOT_SENT,
            ClientError::Unanswered(_) => EVERPOST_UNANSWERED,
            ClientError::Negative(..) => EVERPOST_NEGATIVE,
            ClientError::TimedOut(_) => EVERPOST_TIMEOUT,
            ClientError::Closed => EVERPOST_CLOSED,
            ClientError::Forked => EVERPOST_FORKED,
            ClientError::Unknown(_) => EVERPOST_UNKNOWN,
            _ => EVERPOST_INTERNAL,
        }
    }

    /// Its name in C.
    pub(crate) fn name(self) -> &'static std::ffi::CStr {
        match self {
            EVERPOST_OK => c"EVERPOST_OK",
            EVERPOST_ARGUMENT => c"EVERPOST_ARGUMENT",
            EVERPOST_CONFIGURATION => c"EVERPOST_CONFIGURATION",
            EVERPOST_IN_USE => c"EVERPOST_IN_USE",
            EVERPOST_STORAGE => c"EVERPOST_STORAGE",
            EVERPOST_FULL => c"EVERPOST_FULL",
            EVERPOST_LIMIT => c"EVERPOST_LIMIT",
            EVERPOST_DESTINATION => c"EVERPOST_DESTINATION",
            EVERPOST_CONTENT => c"EVERPOST_CONTENT",
            EVERPOST_NOT_SENT => c"EVERPOST_NOT_SENT",
            EVERPOST_UNANSWERED => c"EVERPOST_UNANSWERED",
            EVERPOST_NEGATIVE => c"EVERPOST_NEGATIVE",
            EVERPOST_TIMEOUT => c"EVERPOST_TIMEOUT",
            EVERPOST_CLOSED => c"EVERPOST_CLOSED",
            EVERPOST_FORKED => c"EVERPOST_FORKED",
            EVERPOST_HANDLE => c"EVERPOST_HANDLE",
            EVERPOST_VERSION => c"EVERPOST_VERSION",
            EVERPOST_UNKNOWN => c"EVERPOST_UNKNOWN",
            EVERPOST_INTERNAL => c"EVERPOST_INTERNAL",
        }
    }
}

/// How far a message came on its way to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum everpost_phase {
    /// It came to no attempt.
    EVERPOST_PHASE_NONE = 0,
    /// Looking the name up.
    EVERPOST_PHASE_RESOLVE = 1,
    /// Connecting.
    EVERPOST_PHASE_CONNECT = 2,
    /// The TLS handshake.
    EVERPOST_PHASE_TLS = 3,
    /// The DICOM association.
    EVERPOST_PHASE_ASSOCIATE = 4,
    /// Sending.
    EVERPOST_PHASE_TRANSMIT = 5,
    /// Waiting for the answer: the receiver may have it.
    EVERPOST_PHASE_ANSWER = 6,
}

impl everpost_phase {
    pub(crate) fn of(error: &ClientError) -> everpost_phase {
        use everpost_client::delivery::Phase;
        use everpost_phase::*;
        match error.failure().map(|failure| failure.phase) {
            None => EVERPOST_PHASE_NONE,
            Some(Phase::Resolve) => EVERPOST_PHASE_RESOLVE,
            Some(Phase::Connect) => EVERPOST_PHASE_CONNECT,
            Some(Phase::Tls) => EVERPOST_PHASE_TLS,
            Some(Phase::Associate) => EVERPOST_PHASE_ASSOCIATE,
            Some(Phase::Transmit) => EVERPOST_PHASE_TRANSMIT,
            Some(Phase::Answer) => EVERPOST_PHASE_ANSWER,
        }
    }
}

/// What an event tells. Zero stands for a NULL event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum everpost_event_kind_t {
    /// No event.
    EVERPOST_EVENT_NONE = 0,
    /// A message was delivered.
    EVERPOST_EVENT_DELIVERED = 1,
    /// The same, with something to look at.
    EVERPOST_EVENT_DELIVERED_WITH_WARNING = 2,
    /// It was sent, and the message itself asked for no answer.
    EVERPOST_EVENT_UNCONFIRMED = 3,
    /// It was refused for good; it is kept until a person decides.
    EVERPOST_EVENT_DEAD_LETTER = 4,
    /// It is held until a person decides.
    EVERPOST_EVENT_HELD = 5,
    /// An attempt failed; the message waits, or is tried elsewhere.
    EVERPOST_EVENT_ATTEMPT_FAILED = 6,
    /// Traffic goes to another endpoint, or to none.
    EVERPOST_EVENT_FAILOVER = 7,
    /// What is known of an endpoint's health changed.
    EVERPOST_EVENT_HEALTH = 8,
    /// A condition that people should look at began.
    EVERPOST_EVENT_ALARM = 9,
    /// It ended.
    EVERPOST_EVENT_ALARM_ENDED = 10,
    /// Something that people should look at once.
    EVERPOST_EVENT_INCIDENT = 11,
    /// The spool takes messages again, or takes none for now.
    EVERPOST_EVENT_INTAKE = 12,
    /// Events were lost because nobody read them; the id says how many. Ask for outcomes with everpost_outcome.
    EVERPOST_EVENT_LOST = 13,
    /// Still waiting. Only from everpost_outcome.
    EVERPOST_EVENT_WAITING = 14,
    /// A person ended it. Only from everpost_outcome.
    EVERPOST_EVENT_DISCARDED = 15,
}

impl everpost_event_kind_t {
    pub(crate) fn of(kind: everpost_client::report::ReportKind) -> Self {
        use everpost_client::report::ReportKind;
        use everpost_event_kind_t::*;
        match kind {
            ReportKind::Delivered => EVERPOST_EVENT_DELIVERED,
            ReportKind::DeliveredWithWarning => EVERPOST_EVENT_DELIVERED_WITH_WARNING,
            ReportKind::Unconfirmed => EVERPOST_EVENT_UNCONFIRMED,
            ReportKind::DeadLetter => EVERPOST_EVENT_DEAD_LETTER,
            ReportKind::Held => EVERPOST_EVENT_HELD,
            ReportKind::AttemptFailed => EVERPOST_EVENT_ATTEMPT_FAILED,
            ReportKind::Failover => EVERPOST_EVENT_FAILOVER,
            ReportKind::Health => EVERPOST_EVENT_HEALTH,
            ReportKind::AlarmRaised => EVERPOST_EVENT_ALARM,
            ReportKind::AlarmEnded => EVERPOST_EVENT_ALARM_ENDED,
            ReportKind::Incident => EVERPOST_EVENT_INCIDENT,
            ReportKind::Intake => EVERPOST_EVENT_INTAKE,
            ReportKind::Lost => EVERPOST_EVENT_LOST,
            ReportKind::Waiting => EVERPOST_EVENT_WAITING,
            ReportKind::Discarded => EVERPOST_EVENT_DISCARDED,
        }
    }
}
