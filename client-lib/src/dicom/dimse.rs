//! C-ECHO and C-STORE command sets (PS3.7 9.3), read and written on bytes: implicit VR little endian, no object model, no trust in lengths.
//! Rules: reading is tolerant (group length absent or wrong, elements out of order, unknown ones skipped, padding of either kind), except where a
//! wrong guess could harm: no command field, no message id, a value longer than the set. Writing is strict: ascending tags, group length, even lengths.
//! Errors: `DimseError`; the peer has broken the protocol and the association is aborted. What is merely unacceptable gets a response instead.

use crate::limits::COMMAND_BYTES_MAX;

/// (0000,0100) of a C-STORE-RQ.
pub const C_STORE_RQ: u16 = 0x0001;
/// (0000,0100) of a C-STORE-RSP.
pub const C_STORE_RSP: u16 = 0x8001;
/// (0000,0100) of a C-FIND-RQ.
pub const C_FIND_RQ: u16 = 0x0020;
/// (0000,0100) of a C-FIND-RSP.
pub const C_FIND_RSP: u16 = 0x8020;
/// (0000,0100) of a C-ECHO-RQ.
pub const C_ECHO_RQ: u16 = 0x0030;
/// (0000,0100) of a C-ECHO-RSP.
pub const C_ECHO_RSP: u16 = 0x8030;
/// (0000,0100) of a C-CANCEL-RQ, which is never answered.
pub const C_CANCEL_RQ: u16 = 0x0FFF;
/// (0000,0800): no data set follows.
const NO_DATA_SET: u16 = 0x0101;
/// (0000,0800): one follows. Any value but 0101H says so.
const DATA_SET: u16 = 0x0000;

/// Tags of group 0000, by element number.
mod tag {
    pub(super) const AFFECTED_CLASS: u16 = 0x0002;
    pub(super) const REQUESTED_CLASS: u16 = 0x0003;
    pub(super) const COMMAND_FIELD: u16 = 0x0100;
    pub(super) const MESSAGE_ID: u16 = 0x0110;
    pub(super) const RESPONDED_TO: u16 = 0x0120;
    pub(super) const PRIORITY: u16 = 0x0700;
    pub(super) const DATA_SET_TYPE: u16 = 0x0800;
    pub(super) const STATUS: u16 = 0x0900;
    pub(super) const OFFENDING_ELEMENT: u16 = 0x0901;
    pub(super) const ERROR_COMMENT: u16 = 0x0902;
    pub(super) const AFFECTED_INSTANCE: u16 = 0x1000;
    pub(super) const MOVE_ORIGINATOR_AE: u16 = 0x1030;
    pub(super) const MOVE_ORIGINATOR_ID: u16 = 0x1031;
}

/// Longest (0000,0902), a LO.
const ERROR_COMMENT_BYTES_MAX: usize = 64;
/// Offending elements kept of a response: as many as a person reads.
const OFFENDING_MAX: usize = 32;

/// A C-STORE-RQ (9.3.1.1).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoreRq {
    /// (0000,0110).
    pub message_id: u16,
    /// (0000,0002).
    pub sop_class: String,
    /// (0000,1000).
    pub sop_instance: String,
    /// (0000,0700): 0 medium, 1 high, 2 low.
    pub priority: u16,
    /// (0000,1030), blanks trimmed.
    pub move_originator_ae: Option<String>,
    /// (0000,1031).
    pub move_originator_id: Option<u16>,
}

/// A response, to whatever request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Response {
    /// (0000,0100): the request's with bit 15 set.
    pub command_field: u16,
    /// (0000,0120).
    pub message_id: u16,
    /// (0000,0900).
    pub status: u16,
    /// (0000,0002), if there.
    pub sop_class: Option<String>,
    /// (0000,1000), if there.
    pub sop_instance: Option<String>,
    /// (0000,0901): group and element, at most 32 of them.
    pub offending: Vec<(u16, u16)>,
    /// (0000,0902). Read from a peer it may hold patient data: never logged.
    pub error_comment: Option<String>,
}

/// A command set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// C-ECHO-RQ.
    EchoRq {
        /// (0000,0110).
        message_id: u16,
        /// A data set follows, which it should not.
        data_set: bool,
    },
    /// C-STORE-RQ.
    StoreRq {
        /// The request.
        request: StoreRq,
        /// A data set follows.
        data_set: bool,
    },
    /// Any response.
    Response {
        /// The response.
        response: Response,
        /// A data set follows.
        data_set: bool,
    },
    /// A request this gateway does not know.
    OtherRq {
        /// (0000,0100).
        command_field: u16,
        /// (0000,0110), 0 if absent.
        message_id: u16,
        /// (0000,0002) or (0000,0003), if there.
        sop_class: Option<String>,
        /// A data set follows.
        data_set: bool,
    },
}

impl Command {
    /// A data set follows.
    #[must_use]
    pub fn has_data_set(&self) -> bool {
        match self {
            Command::EchoRq { data_set, .. }
            | Command::StoreRq { data_set, .. }
            | Command::Response { data_set, .. }
            | Command::OtherRq { data_set, .. } => *data_set,
        }
    }
}

/// Pending: a match, and more to come (PS3.4 C.4.1.1.4).
#[must_use]
pub fn is_pending(status: u16) -> bool {
    matches!(status, 0xFF00 | 0xFF01)
}

/// A command set that cannot be acted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DimseError {
    /// Longer than a command set can be.
    #[error("a command set of more than {COMMAND_BYTES_MAX} bytes")]
    TooLong,
    /// An element's length goes beyond the end.
    #[error("a command set that ends inside of element (0000,{0:04X})")]
    Cut(u16),
    /// Something from another group.
    #[error("a command set with an element of group {0:04X}")]
    Group(u16),
    /// An element that must be there.
    #[error("a command set without (0000,{0:04X})")]
    Missing(u16),
    /// An element of the wrong size.
    #[error("a command set whose (0000,{0:04X}) has no number in it")]
    Mistyped(u16),
}

/// Reads a command set.
/// # Errors
/// `DimseError`.
pub fn decode(set: &[u8]) -> Result<Command, DimseError> {
    if set.len() > COMMAND_BYTES_MAX {
        return Err(DimseError::TooLong);
    }
    let fields = Fields::read(set)?;
    let command_field = fields.number(tag::COMMAND_FIELD)?.ok_or(DimseError::Missing(tag::COMMAND_FIELD))?;
    // Without the element nothing can follow that we could tell from the next command.
    let data_set = fields.number(tag::DATA_SET_TYPE)?.unwrap_or(NO_DATA_SET) != NO_DATA_SET;
    if command_field & 0x8000 != 0 {
        let response = Response {
            command_field,
            message_id: fields.number(tag::RESPONDED_TO)?.ok_or(DimseError::Missing(tag::RESPONDED_TO))?,
            status: fields.number(tag::STATUS)?.ok_or(DimseError::Missing(tag::STATUS))?,
            sop_class: fields.text(tag::AFFECTED_CLASS),
            sop_instance: fields.text(tag::AFFECTED_INSTANCE),
            offending: fields.tags(tag::OFFENDING_ELEMENT),
            error_comment: fields.text(tag::ERROR_COMMENT),
        };
        return Ok(Command::Response { response, data_set });
    }
    let message_id = fields.number(tag::MESSAGE_ID)?;
    match command_field {
        C_ECHO_RQ => Ok(Command::EchoRq { message_id: message_id.ok_or(DimseError::Missing(tag::MESSAGE_ID))?, data_set }),
        C_STORE_RQ => {
            let request = StoreRq {
                message_id: message_id.ok_or(DimseError::Missing(tag::MESSAGE_ID))?,
                sop_class: fields.text(tag::AFFECTED_CLASS).unwrap_or_default(),
                sop_instance: fields.text(tag::AFFECTED_INSTANCE).unwrap_or_default(),
                priority: fields.number(tag::PRIORITY)?.unwrap_or(0),
                move_originator_ae: fields.text(tag::MOVE_ORIGINATOR_AE).filter(|ae| !ae.is_empty()),
                move_originator_id: fields.number(tag::MOVE_ORIGINATOR_ID)?,
            };
            Ok(Command::StoreRq { request, data_set })
        }
        _ => {
            let sop_class = fields.text(tag::AFFECTED_CLASS).or_else(|| fields.text(tag::REQUESTED_CLASS));
            Ok(Command::OtherRq { command_field, message_id: message_id.unwrap_or(0), sop_class, data_set })
        }
    }
}

/// The elements of a command set, as they stand.
struct Fields<'a>(Vec<(u16, &'a [u8])>);

impl<'a> Fields<'a> {
    fn read(mut set: &'a [u8]) -> Result<Self, DimseError> {
        let mut found = Vec::with_capacity(16);
        while !set.is_empty() {
            let Some((&[g0, g1, e0, e1, a, b, c, d], tail)) = set.split_first_chunk::<8>() else { return Err(DimseError::Cut(0)) };
            let (group, element) = (u16::from_le_bytes([g0, g1]), u16::from_le_bytes([e0, e1]));
            if group != 0 {
                return Err(DimseError::Group(group));
            }
            let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
            let Some((value, tail)) = tail.split_at_checked(length) else { return Err(DimseError::Cut(element)) };
            found.push((element, value));
            set = tail;
        }
        Ok(Self(found))
    }

    fn value(&self, element: u16) -> Option<&'a [u8]> {
        self.0.iter().find(|(e, _)| *e == element).map(|(_, v)| *v)
    }

    /// A US; a longer value counts by its first two bytes, an empty one as absent.
    fn number(&self, element: u16) -> Result<Option<u16>, DimseError> {
        match self.value(element) {
            None | Some([]) => Ok(None),
            Some([low, high, ..]) => Ok(Some(u16::from_le_bytes([*low, *high]))),
            Some(_) => Err(DimseError::Mistyped(element)),
        }
    }

    fn text(&self, element: u16) -> Option<String> {
        let value = self.value(element)?;
        let text: String = value.iter().map(|b| if (0x20..0x7F).contains(b) || *b == 0 { char::from(*b) } else { '?' }).collect();
        Some(text.trim_matches(['\0', ' ']).to_owned())
    }

    fn tags(&self, element: u16) -> Vec<(u16, u16)> {
        let value = self.value(element).unwrap_or_default();
        value.as_chunks::<4>().0.iter().take(OFFENDING_MAX).map(|[a, b, c, d]| (u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d]))).collect()
    }
}

/// A command set being written: room for the group length in front.
struct Writer(Vec<u8>);

impl Writer {
    fn new() -> Self {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(&[0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
        Self(out)
    }

    fn element(&mut self, element: u16, value: &[u8]) {
        let [low, high] = element.to_le_bytes();
        self.0.extend_from_slice(&[0, 0, low, high]);
        self.0.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.0.extend_from_slice(value);
    }

    fn number(&mut self, element: u16, value: u16) {
        self.element(element, &value.to_le_bytes());
    }

    fn text(&mut self, element: u16, text: &str, padding: u8) {
        let mut value = text.as_bytes().to_vec();
        if value.len() % 2 == 1 {
            value.push(padding);
        }
        self.element(element, &value);
    }

    fn finish(mut self) -> Vec<u8> {
        let length = (self.0.len() - 12) as u32;
        self.0[8..12].copy_from_slice(&length.to_le_bytes());
        self.0
    }
}

/// A C-ECHO-RQ (9.3.5.1).
#[must_use]
pub fn encode_echo_rq(message_id: u16) -> Vec<u8> {
    let mut out = Writer::new();
    out.text(tag::AFFECTED_CLASS, crate::dicom::uid::VERIFICATION, 0);
    out.number(tag::COMMAND_FIELD, C_ECHO_RQ);
    out.number(tag::MESSAGE_ID, message_id);
    out.number(tag::DATA_SET_TYPE, NO_DATA_SET);
    out.finish()
}

/// A C-FIND-RQ (9.3.2.1) of medium priority; its identifier follows.
#[must_use]
pub fn encode_find_rq(message_id: u16, sop_class: &str) -> Vec<u8> {
    let mut out = Writer::new();
    out.text(tag::AFFECTED_CLASS, sop_class, 0);
    out.number(tag::COMMAND_FIELD, C_FIND_RQ);
    out.number(tag::MESSAGE_ID, message_id);
    out.number(tag::PRIORITY, 0);
    out.number(tag::DATA_SET_TYPE, DATA_SET);
    out.finish()
}

/// A C-STORE-RQ (9.3.1.1); its data set follows.
#[must_use]
pub fn encode_store_rq(request: &StoreRq) -> Vec<u8> {
    let mut out = Writer::new();
    out.text(tag::AFFECTED_CLASS, &request.sop_class, 0);
    out.number(tag::COMMAND_FIELD, C_STORE_RQ);
    out.number(tag::MESSAGE_ID, request.message_id);
    out.number(tag::PRIORITY, request.priority);
    out.number(tag::DATA_SET_TYPE, DATA_SET);
    out.text(tag::AFFECTED_INSTANCE, &request.sop_instance, 0);
    if let Some(ae) = &request.move_originator_ae {
        out.text(tag::MOVE_ORIGINATOR_AE, ae, b' ');
    }
    if let Some(id) = request.move_originator_id {
        out.number(tag::MOVE_ORIGINATOR_ID, id);
    }
    out.finish()
}

/// A response without data set (9.3.1.2, 9.3.5.2). An error comment beyond 64 characters is cut to the LO it is.
#[must_use]
pub fn encode_response(response: &Response) -> Vec<u8> {
    let mut out = Writer::new();
    if let Some(class) = &response.sop_class {
        out.text(tag::AFFECTED_CLASS, class, 0);
    }
    out.number(tag::COMMAND_FIELD, response.command_field);
    out.number(tag::RESPONDED_TO, response.message_id);
    out.number(tag::DATA_SET_TYPE, NO_DATA_SET);
    out.number(tag::STATUS, response.status);
    if !response.offending.is_empty() {
        let value: Vec<u8> = response.offending.iter().flat_map(|(group, element)| [group.to_le_bytes(), element.to_le_bytes()]).flatten().collect();
        out.element(tag::OFFENDING_ELEMENT, &value);
    }
    if let Some(comment) = &response.error_comment {
        let end = comment.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= ERROR_COMMENT_BYTES_MAX).last().unwrap_or(0);
        out.text(tag::ERROR_COMMENT, &comment[..end], b' ');
    }
    if let Some(instance) = &response.sop_instance {
        out.text(tag::AFFECTED_INSTANCE, instance, 0);
    }
    out.finish()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn element(element: u16, value: &[u8]) -> Vec<u8> {
        [&[0, 0][..], &element.to_le_bytes(), &(value.len() as u32).to_le_bytes(), value].concat()
    }

    fn request() -> StoreRq {
        StoreRq {
            message_id: 7,
            sop_class: "1.2.840.10008.5.1.4.1.1.2".into(),
            sop_instance: "1.2.3".into(),
            priority: 1,
            move_originator_ae: Some("MOVER".into()),
            move_originator_id: Some(0xFFFF),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let written = encode_store_rq(&request());
        assert_eq!(decode(&written), Ok(Command::StoreRq { request: request(), data_set: true }));
        assert_eq!(decode(&encode_echo_rq(9)), Ok(Command::EchoRq { message_id: 9, data_set: false }));
        let find = Command::OtherRq { command_field: C_FIND_RQ, message_id: 3, sop_class: Some("1.2.3".into()), data_set: true };
        assert_eq!(decode(&encode_find_rq(3, "1.2.3")), Ok(find));
        let response = Response {
            command_field: C_STORE_RSP,
            message_id: 7,
            status: 0xA700,
            sop_class: Some("1.2".into()),
            sop_instance: Some("1.2.3".into()),
            offending: vec![(0x0008, 0x0018), (0, 0x1000)],
            error_comment: Some("no room".into()),
        };
        assert_eq!(decode(&encode_response(&response)), Ok(Command::Response { response, data_set: false }));
    }

    #[test]
    fn sets_are_written_as_the_standard_wants_them() {
        let set = encode_store_rq(&request());
        assert_eq!(set[8..12], (set.len() as u32 - 12).to_le_bytes(), "group length");
        let fields = Fields::read(&set).unwrap().0;
        assert!(fields.is_sorted_by(|a, b| a.0 < b.0), "ascending tags");
        assert!(fields.iter().all(|(_, value)| value.len() % 2 == 0), "even lengths");
        assert_eq!(fields.iter().find(|(e, _)| *e == tag::MOVE_ORIGINATOR_AE).unwrap().1, b"MOVER ");
    }

    #[test]
    fn an_error_comment_is_cut_between_characters() {
        let response = Response { error_comment: Some("é".repeat(40)), ..Response::default() };
        let set = encode_response(&response);
        assert_eq!(Fields::read(&set).unwrap().value(tag::ERROR_COMMENT).unwrap().len(), 64);
    }

    #[test]
    fn reading_is_tolerant_where_no_harm_is_done() {
        let set = [
            element(tag::AFFECTED_INSTANCE, b"1.2.3\0\0\0"),
            element(0x9999, b"?"),
            element(tag::MESSAGE_ID, &[1, 0, 0, 0]),
            element(tag::DATA_SET_TYPE, &[1, 0]),
            element(tag::AFFECTED_CLASS, b" 1.2 "),
            element(tag::MOVE_ORIGINATOR_AE, b"   "),
            element(tag::MOVE_ORIGINATOR_ID, b""),
            element(tag::COMMAND_FIELD, &[1, 0]),
            element(0, &[1, 2, 3, 4]),
        ]
        .concat();
        let expected = StoreRq { message_id: 1, sop_class: "1.2".into(), sop_instance: "1.2.3".into(), ..StoreRq::default() };
        assert_eq!(decode(&set), Ok(Command::StoreRq { request: expected, data_set: true }));
    }

    #[test]
    fn what_cannot_be_acted_on_is_refused() {
        let field = element(tag::COMMAND_FIELD, &[1, 0]);
        assert_eq!(decode(&[]), Err(DimseError::Missing(tag::COMMAND_FIELD)));
        assert_eq!(decode(&field), Err(DimseError::Missing(tag::MESSAGE_ID)));
        assert_eq!(decode(&element(tag::COMMAND_FIELD, &[1])), Err(DimseError::Mistyped(tag::COMMAND_FIELD)));
        assert_eq!(decode(&[8, 0, 0x18, 0, 0, 0, 0, 0]), Err(DimseError::Group(8)));
        assert_eq!(decode(&[0, 0, 0, 1, 0xFF, 0xFF, 0xFF, 0xFF, 1, 0]), Err(DimseError::Cut(0x0100)));
        assert_eq!(decode(&field[..5]), Err(DimseError::Cut(0)));
        assert_eq!(decode(&vec![0; COMMAND_BYTES_MAX + 1]), Err(DimseError::TooLong));
        let find = [element(tag::COMMAND_FIELD, &[0x20, 0]), element(tag::MESSAGE_ID, &[3, 0]), element(tag::DATA_SET_TYPE, &[0, 0])].concat();
        assert_eq!(decode(&find), Ok(Command::OtherRq { command_field: 0x20, message_id: 3, sop_class: None, data_set: true }));
    }

    proptest::proptest! {
        #[test]
        fn random_bytes_do_no_harm(set in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let _ = decode(&set);
            let _ = decode(&[element(tag::COMMAND_FIELD, &[1, 0]), set].concat());
        }

        #[test]
        fn every_request_survives_the_wire(message_id: u16, priority: u16, id: Option<u16>, ae in "[A-Z]{0,16}", instance in "[0-9.]{0,64}") {
            let request = StoreRq {
                message_id,
                priority,
                sop_class: "1.2".into(),
                sop_instance: instance,
                move_originator_ae: Some(ae).filter(|ae| !ae.is_empty()),
                move_originator_id: id,
            };
            let read = decode(&encode_store_rq(&request));
            proptest::prop_assert_eq!(read, Ok(Command::StoreRq { request, data_set: true }));
        }
    }
}
