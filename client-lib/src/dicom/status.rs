//! C-STORE and general DIMSE status codes by name and by class (PS3.7 Annex C, PS3.4 B.2.3).
//! Rules: a code says what the peer saw; what follows from it is decided in `delivery::verdict` and nowhere else.
//! Errors: none; a code the standard does not list is a failure of the content, as Cxxx is.

/// Stored.
pub const SUCCESS: u16 = 0x0000;
/// The SOP class is not supported.
pub const SOP_CLASS_NOT_SUPPORTED: u16 = 0x0122;
/// Not authorised.
pub const NOT_AUTHORIZED: u16 = 0x0124;
/// Processing failure.
pub const PROCESSING_FAILURE: u16 = 0x0110;
/// The SOP instance is there already.
pub const DUPLICATE_INSTANCE: u16 = 0x0111;
/// An argument is out of range or contradicts another.
pub const INVALID_ARGUMENT: u16 = 0x0115;
/// The SOP instance UID is none.
pub const INVALID_INSTANCE: u16 = 0x0117;
/// The message id is in use.
pub const DUPLICATE_INVOCATION: u16 = 0x0210;
/// The operation is not one of those agreed.
pub const UNRECOGNIZED_OPERATION: u16 = 0x0211;
/// An argument has the wrong type.
pub const MISTYPED_ARGUMENT: u16 = 0x0212;
/// No room; the sender should try again later or elsewhere.
pub const OUT_OF_RESOURCES: u16 = 0xA700;
/// The data set does not fit its SOP class.
pub const CLASS_MISMATCH: u16 = 0xA900;
/// The content cannot be understood.
pub const CANNOT_UNDERSTAND: u16 = 0xC000;

/// What a status code means, as the gateway's tables group them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StatusClass {
    /// 0000H.
    Success,
    /// 0001H, Bxxx, 0107H, 0116H: stored, with something to look at.
    Warning,
    /// A7xx, 0110H, 0124H, 0213H: the peer, not the content, is at fault.
    Resources,
    /// 0122H: this peer does not take this class.
    NotSupported,
    /// 0111H.
    Duplicate,
    /// 0210H to 0212H, FFxx, FE00H: not an answer to a C-STORE.
    ProtocolFault,
    /// A9xx, Cxxx, 0117H and every other code: the content is at fault.
    Content,
}

/// The class of a C-STORE status.
#[must_use]
pub fn class(status: u16) -> StatusClass {
    match status {
        SUCCESS => StatusClass::Success,
        0x0001 | 0x0107 | 0x0116 | 0xB000..=0xBFFF => StatusClass::Warning,
        PROCESSING_FAILURE | NOT_AUTHORIZED | 0x0213 | 0xA700..=0xA7FF => StatusClass::Resources,
        SOP_CLASS_NOT_SUPPORTED => StatusClass::NotSupported,
        DUPLICATE_INSTANCE => StatusClass::Duplicate,
        DUPLICATE_INVOCATION | UNRECOGNIZED_OPERATION | MISTYPED_ARGUMENT | 0xFE00 | 0xFF00..=0xFFFF => StatusClass::ProtocolFault,
        _ => StatusClass::Content,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_fall_into_the_classes_of_the_design() {
        for (code, expected) in [
            (0x0000, StatusClass::Success),
            (0x0001, StatusClass::Warning),
            (0xB007, StatusClass::Warning),
            (0x0107, StatusClass::Warning),
            (0xA700, StatusClass::Resources),
            (0xA7FF, StatusClass::Resources),
            (0x0110, StatusClass::Resources),
            (0x0213, StatusClass::Resources),
            (0x0122, StatusClass::NotSupported),
            (0x0111, StatusClass::Duplicate),
            (0x0211, StatusClass::ProtocolFault),
            (0xFF00, StatusClass::ProtocolFault),
            (0xFE00, StatusClass::ProtocolFault),
            (0xA900, StatusClass::Content),
            (0xC123, StatusClass::Content),
            (0x0117, StatusClass::Content),
            (0x0120, StatusClass::Content),
            (0xA800, StatusClass::Content),
        ] {
            assert_eq!(class(code), expected, "{code:04X}H");
        }
    }
}
