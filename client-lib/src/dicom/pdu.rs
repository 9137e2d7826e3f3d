//! The PDUs of PS3.8 9.3: framing with a cap per type, P-DATA passed on as it arrives, the A-* PDUs through dicom-ul's codec.
//!
//! Rules:
//! - A P-DATA-TF is never collected: each piece of a PDV comes out as soon as it is there, without being copied, so memory does not depend on the
//!   peer's PDU size. A length field is believed only up to its cap, and memory grows with bytes received, never with bytes announced.
//! - A-ASSOCIATE bodies are brought into the form the codec takes (`canonical`): unknown items are skipped as PS3.8 9.3.1 demands, the transfer syntax
//!   of a refused context is not looked at (9.3.3.2), names padded with NUL are trimmed.
//! - Every encoder gives one contiguous piece, to be sent in one write.
//!
//! Errors: `PduError`, with the reason an A-ABORT gives for it (9.3.8).

use crate::limits::{
    ASSOCIATE_BYTES_MAX, ASSOCIATE_ITEMS_MAX, DICOM_READ_BYTES, DICOM_READ_BYTES_IDLE, PDU_BYTES_SENT_MAX, SMALL_PDU_BYTES_MAX, STRAIGHT_BYTES_MIN,
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
pub use dicom_ul::pdu::{
    AssociationAC, AssociationRQ, PresentationContextProposed, PresentationContextResult, PresentationContextResultReason, RequestorRoles,
    UserIdentity, UserVariableItem,
};

/// Bytes of a PDU header: type, reserved, length.
pub const PDU_HEADER_BYTES: usize = 6;
/// Bytes of a PDV header: length, context id, message control header.
pub const PDV_HEADER_BYTES: usize = 6;

/// A piece of a presentation data value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fragment {
    /// Presentation context id.
    pub context: u8,
    /// Part of a command set, else of a data set (PS3.8 E.2).
    pub command: bool,
    /// The command or data set ends with this piece.
    pub last: bool,
    /// The bytes; may be empty.
    pub data: Bytes,
}

/// A-ASSOCIATE-RJ (9.3.4). Codes are kept as numbers: peers send reserved ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reject {
    /// 1 permanent, 2 transient.
    pub result: u8,
    /// 1 service user, 2 service provider (ACSE), 3 service provider (presentation).
    pub source: u8,
    /// Reason/diagnostic, by source.
    pub reason: u8,
}

impl Reject {
    /// The application context name is not ours.
    pub const APPLICATION_CONTEXT: Reject = Reject { result: 1, source: 1, reason: 2 };
    /// Calling AE title not recognised.
    pub const CALLING_AE: Reject = Reject { result: 1, source: 1, reason: 3 };
    /// Called AE title not recognised.
    pub const CALLED_AE: Reject = Reject { result: 1, source: 1, reason: 7 };
    /// Protocol version not supported.
    pub const PROTOCOL_VERSION: Reject = Reject { result: 1, source: 2, reason: 2 };
    /// Temporary congestion; ours means: stopping.
    pub const CONGESTION: Reject = Reject { result: 2, source: 3, reason: 1 };
    /// Local limit exceeded; ours means: too many associations.
    pub const LOCAL_LIMIT: Reject = Reject { result: 2, source: 3, reason: 2 };

    /// For people.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match (self.source, self.reason) {
            (1, 2) => "application context name not supported",
            (1, 3) => "calling AE title not recognized",
            (1, 7) => "called AE title not recognized",
            (2, 2) => "protocol version not supported",
            (3, 1) => "temporary congestion",
            (3, 2) => "local limit exceeded",
            _ => "no reason given",
        }
    }
}

/// A-ABORT (9.3.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Abort {
    /// 0 service user, 2 service provider.
    pub source: u8,
    /// Reason, of the provider only.
    pub reason: u8,
}

impl Abort {
    /// By the service user: us, for reasons of our own.
    pub const USER: Abort = Abort { source: 0, reason: 0 };
    /// By the provider, no reason.
    pub const UNSPECIFIED: Abort = Abort { source: 2, reason: 0 };
    /// A PDU of an unknown type.
    pub const UNRECOGNIZED_PDU: Abort = Abort { source: 2, reason: 1 };
    /// A PDU that has no place in this state.
    pub const UNEXPECTED_PDU: Abort = Abort { source: 2, reason: 2 };
    /// A parameter that has no place here.
    pub const UNEXPECTED_PARAMETER: Abort = Abort { source: 2, reason: 5 };
    /// A parameter with an impossible value.
    pub const INVALID_PARAMETER: Abort = Abort { source: 2, reason: 6 };
}

/// What a peer sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Received {
    /// A-ASSOCIATE-RQ.
    AssociateRq(Box<AssociationRQ>),
    /// A-ASSOCIATE-AC.
    AssociateAc(Box<AssociationAC>),
    /// A-ASSOCIATE-RJ.
    AssociateRj(Reject),
    /// A piece of a P-DATA-TF.
    Data(Fragment),
    /// A-RELEASE-RQ.
    ReleaseRq,
    /// A-RELEASE-RP.
    ReleaseRp,
    /// A-ABORT.
    Abort(Abort),
}

/// Bytes that are no PDU of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PduError {
    /// Not a DICOM peer, most likely.
    #[error("unknown PDU type {0:02X}H; is the peer speaking DICOM, and TLS only where both sides expect it?")]
    UnknownType(u8),
    /// Longer than agreed or sensible.
    #[error("{pdu} of {length} bytes, at most {cap} are taken")]
    TooLong {
        /// Its name.
        pdu: &'static str,
        /// Length announced.
        length: u32,
        /// Length allowed.
        cap: u32,
    },
    /// Its inside contradicts itself.
    #[error("malformed {pdu}: {what}")]
    Malformed {
        /// Its name.
        pdu: &'static str,
        /// What is wrong.
        what: &'static str,
    },
}

impl PduError {
    /// The abort that answers it.
    #[must_use]
    pub fn abort(&self) -> Abort {
        match self {
            PduError::UnknownType(_) => Abort::UNRECOGNIZED_PDU,
            PduError::TooLong { .. } | PduError::Malformed { .. } => Abort::INVALID_PARAMETER,
        }
    }
}

/// Where the next byte belongs.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// A PDU header.
    Pdu,
    /// A PDV header; `left` bytes of the PDU remain.
    Pdv { left: u32 },
    /// A PDV's value; `left` bytes of the PDU follow it.
    Value { left: u32, value: u32, context: u8, control: u8 },
}

/// Takes bytes, gives PDUs and pieces of them. After an error it gives nothing more: there is no way to find the next PDU.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    place: Place,
    data_max: u32,
    /// The data set comes in large pieces, which are best read straight to where they belong.
    large: bool,
    failed: bool,
}

impl Decoder {
    /// `data_max`: the largest P-DATA-TF taken, as announced to the peer; 0 takes any.
    #[must_use]
    pub fn new(data_max: u32) -> Self {
        Self { buffer: BytesMut::new(), place: Place::Pdu, data_max: if data_max == 0 { u32::MAX } else { data_max }, large: false, failed: false }
    }

    /// Where to read into. Reserves a little between PDUs and enough for full speed inside of P-DATA; call it before each read.
    pub fn space(&mut self) -> &mut BytesMut {
        if self.large && self.buffer.is_empty() && matches!(self.place, Place::Pdu) && self.buffer.capacity() >= DICOM_READ_BYTES {
            // Only headers are read into it from now on: what comes with them is copied once more.
            self.buffer = BytesMut::new();
        }
        let wanted = match self.place {
            Place::Pdu if self.buffer.is_empty() && self.buffer.capacity() < DICOM_READ_BYTES => DICOM_READ_BYTES_IDLE,
            Place::Pdu if self.buffer.first().is_some_and(|t| *t != 4) => self.buffer.len().clamp(DICOM_READ_BYTES_IDLE, DICOM_READ_BYTES),
            _ => DICOM_READ_BYTES,
        };
        // `reserve` takes the old memory back once every piece given out is dropped; then nothing is copied or allocated here.
        if self.buffer.capacity() - self.buffer.len() < wanted.min(DICOM_READ_BYTES / 2) {
            self.buffer.reserve(wanted);
        }
        &mut self.buffer
    }

    /// Bytes of a data set that come next and may be read straight to where they belong, and their presentation context: tell `passed` how many were.
    /// `None`: read into `space`.
    #[must_use]
    pub fn straight(&self) -> Option<(u8, usize)> {
        match self.place {
            Place::Value { value, context, control, .. } if control & 1 == 0 && self.large && self.buffer.is_empty() && !self.failed => {
                Some((context, value as usize))
            }
            _ => None,
        }
    }

    /// So many bytes of the value, at most what `straight` said, have gone past. True: the command or data set ends with them.
    pub fn passed(&mut self, bytes: usize) -> bool {
        let Place::Value { left, value, context, control } = self.place else { return false };
        let value = value.saturating_sub(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.place = if value == 0 { Place::Pdv { left } } else { Place::Value { left, value, context, control } };
        value == 0 && control & 2 != 0
    }

    /// Gives memory back while nothing is expected soon. Harmless at any time.
    pub fn rest(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }

    /// True between two PDUs with nothing buffered: the only place where a peer may close.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.buffer.is_empty() && matches!(self.place, Place::Pdu | Place::Pdv { left: 0 })
    }

    /// The next PDU or piece; `None` when more bytes are needed.
    /// # Errors
    /// `PduError`, once.
    pub fn take(&mut self) -> Result<Option<Received>, PduError> {
        if self.failed {
            // What still comes is read only to see the peer close.
            self.buffer.clear();
            return Ok(None);
        }
        let result = self.advance();
        self.failed = result.is_err();
        result
    }

    fn advance(&mut self) -> Result<Option<Received>, PduError> {
        loop {
            match self.place {
                Place::Pdu => {
                    let Some(&[kind, _, a, b, c, d]) = self.buffer.first_chunk::<PDU_HEADER_BYTES>() else { return Ok(None) };
                    let length = u32::from_be_bytes([a, b, c, d]);
                    self.check_length(kind, length)?;
                    if kind == 4 {
                        self.buffer.advance(PDU_HEADER_BYTES);
                        self.place = Place::Pdv { left: length };
                        continue;
                    }
                    let whole = PDU_HEADER_BYTES + length as usize;
                    if self.buffer.len() < whole {
                        return Ok(None);
                    }
                    let pdu = self.buffer.split_to(whole);
                    return decode_control(kind, &pdu[PDU_HEADER_BYTES..]).map(Some);
                }
                Place::Pdv { left: 0 } => self.place = Place::Pdu,
                Place::Pdv { left } => {
                    let malformed = |what| Err(PduError::Malformed { pdu: "P-DATA-TF", what });
                    if left < PDV_HEADER_BYTES as u32 {
                        return malformed("it ends inside of a PDV header");
                    }
                    let Some(&[a, b, c, d, context, control]) = self.buffer.first_chunk::<PDV_HEADER_BYTES>() else { return Ok(None) };
                    let length = u32::from_be_bytes([a, b, c, d]);
                    if length < 2 {
                        return malformed("a PDV length below 2");
                    }
                    if length > left - 4 {
                        return malformed("a PDV longer than its PDU");
                    }
                    self.buffer.advance(PDV_HEADER_BYTES);
                    let (left, value) = (left - 4 - length, length - 2);
                    self.place = Place::Value { left, value, context, control };
                    // The last piece of a data set is what is left of it, and tells nothing of those to come.
                    if control & 1 == 0 && (value as usize >= STRAIGHT_BYTES_MIN || control & 2 == 0) {
                        self.large = value as usize >= STRAIGHT_BYTES_MIN;
                    }
                    if value == 0 {
                        return Ok(Some(self.piece(0, context, control)));
                    }
                }
                Place::Value { value, context, control, .. } => {
                    if self.buffer.is_empty() {
                        return Ok(None);
                    }
                    return Ok(Some(self.piece(value, context, control)));
                }
            }
        }
    }

    fn piece(&mut self, value: u32, context: u8, control: u8) -> Received {
        let taken = self.buffer.len().min(value as usize);
        let data = self.buffer.split_to(taken).freeze();
        let last = self.passed(taken);
        Received::Data(Fragment { context, command: control & 1 != 0, last, data })
    }

    fn check_length(&self, kind: u8, length: u32) -> Result<(), PduError> {
        let cap = match kind {
            1 | 2 => ASSOCIATE_BYTES_MAX as u32,
            3 | 5 | 6 | 7 => SMALL_PDU_BYTES_MAX as u32,
            4 => self.data_max,
            other => return Err(PduError::UnknownType(other)),
        };
        if length > cap {
            return Err(PduError::TooLong { pdu: name(kind), length, cap });
        }
        if kind == 4 && length == 0 {
            return Err(PduError::Malformed { pdu: name(kind), what: "no PDV in it" });
        }
        Ok(())
    }
}

fn name(kind: u8) -> &'static str {
    match kind {
        1 => "A-ASSOCIATE-RQ",
        2 => "A-ASSOCIATE-AC",
        3 => "A-ASSOCIATE-RJ",
        4 => "P-DATA-TF",
        5 => "A-RELEASE-RQ",
        6 => "A-RELEASE-RP",
        _ => "A-ABORT",
    }
}

/// Every PDU but P-DATA-TF, whole.
fn decode_control(kind: u8, body: &[u8]) -> Result<Received, PduError> {
    let malformed = |what| PduError::Malformed { pdu: name(kind), what };
    let four = || body.first_chunk::<4>().copied().ok_or_else(|| malformed("shorter than 4 bytes"));
    match kind {
        3 => four().map(|[_, result, source, reason]| Received::AssociateRj(Reject { result, source, reason })),
        5 => Ok(Received::ReleaseRq),
        6 => Ok(Received::ReleaseRp),
        7 => four().map(|[_, _, source, reason]| Received::Abort(Abort { source, reason })),
        _ => {
            let canonical = canonical(kind, body)?;
            let pdu = dicom_ul::pdu::read_pdu(&canonical[..], dicom_ul::pdu::MAXIMUM_PDU_SIZE, false);
            match pdu {
                Ok(Some(dicom_ul::Pdu::AssociationRQ(rq))) => Ok(Received::AssociateRq(Box::new(rq))),
                Ok(Some(dicom_ul::Pdu::AssociationAC(ac))) => Ok(Received::AssociateAc(Box::new(ac))),
                _ => Err(malformed("an item the codec does not take")),
            }
        }
    }
}

/// Items of an A-ASSOCIATE PDU: type, reserved, length (2 bytes), value.
struct Items<'a> {
    rest: &'a [u8],
    pdu: &'static str,
}

impl<'a> Items<'a> {
    fn next(&mut self, count: &mut usize) -> Result<Option<(u8, &'a [u8])>, PduError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let malformed = |what| PduError::Malformed { pdu: self.pdu, what };
        *count += 1;
        if *count > ASSOCIATE_ITEMS_MAX {
            return Err(malformed("more items than a gateway takes"));
        }
        let Some((&[kind, _, high, low], tail)) = self.rest.split_first_chunk::<4>() else {
            return Err(malformed("it ends inside of an item header"));
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let Some((value, tail)) = tail.split_at_checked(length) else { return Err(malformed("an item longer than what holds it")) };
        self.rest = tail;
        Ok(Some((kind, value)))
    }
}

/// Bytes of an A-ASSOCIATE body before its items: version, reserved, two AE titles, reserved.
const ASSOCIATE_FIXED_BYTES: usize = 68;

/// Rewrites an A-ASSOCIATE PDU into the form dicom-ul's codec takes, header included. What is dropped here is what the standard says not to look at.
fn canonical(kind: u8, body: &[u8]) -> Result<Vec<u8>, PduError> {
    let pdu = name(kind);
    let Some((fixed, items)) = body.split_first_chunk::<ASSOCIATE_FIXED_BYTES>() else {
        return Err(PduError::Malformed { pdu, what: "shorter than its fixed fields" });
    };
    let mut out = Vec::with_capacity(PDU_HEADER_BYTES + body.len() + 8);
    out.extend_from_slice(&[kind, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&fixed[..4]);
    out.extend(fixed[4..36].iter().map(|b| match b {
        0x20..=0x7E => *b,
        0x80.. => b'?',
        _ => b' ',
    }));
    out.extend_from_slice(&fixed[36..]);
    let mut items = Items { rest: items, pdu };
    let (mut count, mut named) = (0, false);
    while let Some((item, value)) = items.next(&mut count)? {
        match (kind, item) {
            (_, 0x10) if !named => {
                named = true;
                push_bytes(&mut out, item, name_bytes(value));
            }
            (1, 0x20) | (2, 0x21) => push_context(&mut out, item, value, pdu, &mut count)?,
            (_, 0x50) => push_item(&mut out, item, |out| push_user_items(out, value, pdu, &mut count))?,
            _ => {} // 9.3.1: items not defined are ignored
        }
    }
    if !named {
        // Absent: the negotiation refuses an empty name properly, the codec only fails on it.
        push_bytes(&mut out, 0x10, std::iter::empty());
    }
    let length = (out.len() - PDU_HEADER_BYTES) as u32;
    out[2..6].copy_from_slice(&length.to_be_bytes());
    Ok(out)
}

/// Appends an item whose value `fill` writes. A value never becomes longer than it was, but for the syntax given to a refused context.
fn push_item(out: &mut Vec<u8>, kind: u8, fill: impl FnOnce(&mut Vec<u8>) -> Result<(), PduError>) -> Result<(), PduError> {
    out.extend_from_slice(&[kind, 0, 0, 0]);
    let at = out.len();
    fill(out)?;
    close_item(out, at);
    Ok(())
}

/// Appends an item with this value, which is no longer than one that came in an item.
fn push_bytes(out: &mut Vec<u8>, kind: u8, value: impl Iterator<Item = u8>) {
    out.extend_from_slice(&[kind, 0, 0, 0]);
    let at = out.len();
    out.extend(value);
    close_item(out, at);
}

fn close_item(out: &mut [u8], at: usize) {
    let length = u16::try_from(out.len() - at).unwrap_or(u16::MAX);
    out[at - 2..at].copy_from_slice(&length.to_be_bytes());
}

/// A name without its padding; bytes that are no ASCII would make the codec fail on a name nobody knows anyway.
fn name_bytes(value: &[u8]) -> impl Iterator<Item = u8> {
    let trimmed = value.trim_ascii_end();
    let end = trimmed.iter().rposition(|b| *b != 0 && *b != b' ').map_or(0, |at| at + 1);
    trimmed[..end].iter().map(|b| if b.is_ascii_graphic() { *b } else { b'?' })
}

fn push_context(out: &mut Vec<u8>, item: u8, value: &[u8], pdu: &'static str, count: &mut usize) -> Result<(), PduError> {
    let Some((&[id, _, result, _], subs)) = value.split_first_chunk::<4>() else {
        return Err(PduError::Malformed { pdu, what: "a presentation context shorter than 4 bytes" });
    };
    let accepted = item == 0x21 && result == 0;
    push_item(out, item, |out| {
        out.extend_from_slice(&[id, 0, result.min(4), 0]);
        if item == 0x21 && !accepted {
            push_bytes(out, 0x40, crate::dicom::uid::IMPLICIT_LE.bytes());
            return Ok(());
        }
        let mut subs = Items { rest: subs, pdu };
        let mut seen = [false; 2];
        while let Some((sub, value)) = subs.next(count)? {
            let slot = match sub {
                0x30 => 0,
                0x40 => 1,
                _ => continue,
            };
            // A context has one abstract syntax, an accepted one has one transfer syntax: the first counts.
            if !std::mem::replace(&mut seen[slot], true) || (slot == 1 && item == 0x20) {
                push_bytes(out, sub, name_bytes(value));
            }
        }
        match (item, seen) {
            (0x20, [false, _]) => Err(PduError::Malformed { pdu, what: "a presentation context without abstract syntax" }),
            (0x21, [_, false]) => Err(PduError::Malformed { pdu, what: "an accepted presentation context without transfer syntax" }),
            _ => Ok(()),
        }
    })
}

/// User information: items the codec would misread because of their length are dropped, those it does not know it keeps as they are.
fn push_user_items(out: &mut Vec<u8>, value: &[u8], pdu: &'static str, count: &mut usize) -> Result<(), PduError> {
    let mut items = Items { rest: value, pdu };
    while let Some((item, value)) = items.next(count)? {
        let nested = |at: usize| value.get(at..at + 2).map(|l| at + 2 + usize::from(u16::from_be_bytes([l[0], l[1]])));
        let sound = match item {
            0x51 => value.len() == 4,
            0x54 => nested(0).is_some_and(|end| end + 2 == value.len()),
            0x56 => nested(0).is_some_and(|end| end <= value.len()),
            0x58 => value.first().is_some_and(|kind| (1..=5).contains(kind)) && nested(2).and_then(nested).is_some_and(|end| end == value.len()),
            _ => true,
        };
        match item {
            0x52 | 0x55 => push_bytes(out, item, name_bytes(value)),
            _ if sound => push_bytes(out, item, value.iter().copied()),
            _ => {}
        }
    }
    Ok(())
}

/// A-ASSOCIATE-RQ as one piece. AE titles beyond 16 characters are cut: `negotiate` and the configuration never make one.
#[must_use]
pub fn encode_associate_rq(rq: AssociationRQ) -> Vec<u8> {
    write(&dicom_ul::Pdu::AssociationRQ(rq))
}

/// A-ASSOCIATE-AC as one piece.
#[must_use]
pub fn encode_associate_ac(ac: AssociationAC) -> Vec<u8> {
    write(&dicom_ul::Pdu::AssociationAC(ac))
}

fn write(pdu: &dicom_ul::Pdu) -> Vec<u8> {
    let mut out = Vec::with_capacity(2048);
    match dicom_ul::pdu::write_pdu(&mut out, pdu) {
        Ok(()) => out,
        // The codec fails on names it cannot encode; `negotiate` has checked ours, and those of a peer came through `canonical`.
        Err(_) => encode_abort(Abort::UNSPECIFIED).to_vec(),
    }
}

/// A-ASSOCIATE-RJ.
#[must_use]
pub fn encode_reject(reject: Reject) -> [u8; 10] {
    [3, 0, 0, 0, 0, 4, 0, reject.result, reject.source, reject.reason]
}

/// A-ABORT.
#[must_use]
pub fn encode_abort(abort: Abort) -> [u8; 10] {
    [7, 0, 0, 0, 0, 4, 0, 0, abort.source, abort.reason]
}

/// A-RELEASE-RQ.
pub const RELEASE_RQ: [u8; 10] = [5, 0, 0, 0, 0, 4, 0, 0, 0, 0];
/// A-RELEASE-RP.
pub const RELEASE_RP: [u8; 10] = [6, 0, 0, 0, 0, 4, 0, 0, 0, 0];

/// Value bytes that fit into one P-DATA-TF with one PDV, given the peer's maximum length (0: none). Even, as PS3.8 E.1 asks of fragments.
#[must_use]
pub fn value_bytes_max(peer_max: u32) -> usize {
    let pdu = if peer_max == 0 { PDU_BYTES_SENT_MAX } else { peer_max.clamp(PDV_HEADER_BYTES as u32 + 2, PDU_BYTES_SENT_MAX) };
    (pdu as usize - PDV_HEADER_BYTES) & !1
}

/// Header of a P-DATA-TF that holds one PDV of `length` value bytes, which the caller sends behind it. `length` is at most `value_bytes_max`.
#[must_use]
pub fn data_header(context: u8, command: bool, last: bool, length: usize) -> [u8; 12] {
    let pdv = length as u32 + 2;
    let [a, b, c, d] = (pdv + 4).to_be_bytes();
    let [e, f, g, h] = pdv.to_be_bytes();
    [4, 0, a, b, c, d, e, f, g, h, context, u8::from(command) | u8::from(last) << 1]
}

/// Appends a whole command or data set, in as many P-DATA-TFs as the peer's maximum length makes necessary.
pub fn encode_data(out: &mut BytesMut, context: u8, command: bool, value: &[u8], peer_max: u32) {
    let most = value_bytes_max(peer_max);
    let pieces = value.len().div_ceil(most).max(1);
    out.reserve(value.len() + pieces * (PDU_HEADER_BYTES + PDV_HEADER_BYTES));
    for (index, piece) in value.chunks(most).chain(value.is_empty().then_some(&[][..])).enumerate() {
        out.put_slice(&data_header(context, command, index + 1 == pieces, piece.len()));
        out.put_slice(piece);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
