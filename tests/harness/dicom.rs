//! A DICOM sender written here from PS3.7 and PS3.8: an association with chosen contexts, C-ECHO, C-STORE of raw data sets; and a reader of Part-10 files.
//! Independent of the product's codec on purpose. Rules: command sets are implicit VR little endian; a data set is sent as the bytes given.
//! Errors: `io::Error`; a PDU that was not awaited is an error that names its type.

use std::io::{self, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

/// Implicit VR little endian.
pub const IMPLICIT: &str = "1.2.840.10008.1.2";
/// Explicit VR little endian.
pub const EXPLICIT: &str = "1.2.840.10008.1.2.1";
/// CT image storage.
pub const CT: &str = "1.2.840.10008.5.1.4.1.1.2";
/// MR image storage.
pub const MR: &str = "1.2.840.10008.5.1.4.1.1.4";
/// Verification.
pub const VERIFICATION: &str = "1.2.840.10008.1.1";

/// PDU types of PS3.8 9.3.
pub mod pdu {
    /// A-ASSOCIATE-RQ.
    pub const ASSOCIATE_RQ: u8 = 1;
    /// A-ASSOCIATE-AC.
    pub const ASSOCIATE_AC: u8 = 2;
    /// A-ASSOCIATE-RJ.
    pub const ASSOCIATE_RJ: u8 = 3;
    /// P-DATA-TF.
    pub const DATA: u8 = 4;
    /// A-RELEASE-RQ.
    pub const RELEASE_RQ: u8 = 5;
    /// A-RELEASE-RP.
    pub const RELEASE_RP: u8 = 6;
    /// A-ABORT.
    pub const ABORT: u8 = 7;
}

/// A PDU: type and body.
#[must_use]
pub fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, 0];
    bytes.extend_from_slice(&u32::try_from(body.len()).expect("a small PDU").to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// Reads a PDU: type and body.
pub fn read_pdu(stream: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 6];
    stream.read_exact(&mut head)?;
    let length = u32::from_be_bytes([head[2], head[3], head[4], head[5]]) as usize;
    if length > 64 << 20 {
        return Err(io::Error::other(format!("a PDU of {length} bytes")));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((head[0], body))
}

/// An item of an A-ASSOCIATE PDU.
#[must_use]
pub fn item(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, 0];
    bytes.extend_from_slice(&u16::try_from(value.len()).expect("a small item").to_be_bytes());
    bytes.extend_from_slice(value);
    bytes
}

/// Items of a list: kind and value.
pub fn items(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut list = Vec::new();
    while bytes.len() >= 4 {
        let length = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        let Some(value) = bytes.get(4..4 + length) else { break };
        list.push((bytes[0], value));
        bytes = &bytes[4 + length..];
    }
    list
}

fn title(text: &str) -> [u8; 16] {
    let mut bytes = [b' '; 16];
    bytes[..text.len()].copy_from_slice(text.as_bytes());
    bytes
}

/// A presentation context to propose: abstract syntax and transfer syntaxes.
pub type Proposal = (String, Vec<String>);

/// The body of an A-ASSOCIATE-RQ. `window`: asynchronous operations to ask for.
#[must_use]
pub fn associate_rq(called: &str, calling: &str, contexts: &[Proposal], max_pdu: u32, window: Option<(u16, u16)>) -> Vec<u8> {
    let mut body = vec![0, 1, 0, 0];
    body.extend_from_slice(&title(called));
    body.extend_from_slice(&title(calling));
    body.extend_from_slice(&[0; 32]);
    body.extend(item(0x10, b"1.2.840.10008.3.1.1.1"));
    for (index, (class, syntaxes)) in contexts.iter().enumerate() {
        let mut value = vec![u8::try_from(2 * index + 1).expect("at most 128 contexts"), 0, 0, 0];
        value.extend(item(0x30, class.as_bytes()));
        syntaxes.iter().for_each(|syntax| value.extend(item(0x40, syntax.as_bytes())));
        body.extend(item(0x20, &value));
    }
    let mut user = item(0x51, &max_pdu.to_be_bytes());
    user.extend(item(0x52, b"1.2.826.0.1.3680043.10.1"));
    if let Some((invoked, performed)) = window {
        user.extend(item(0x53, &[invoked.to_be_bytes(), performed.to_be_bytes()].concat()));
    }
    body.extend(item(0x50, &user));
    body
}

/// An element of a command set.
#[must_use]
pub fn element(tag: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0];
    bytes.extend_from_slice(&tag.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(value.len()).expect("a small value").to_le_bytes());
    bytes.extend_from_slice(value);
    bytes
}

/// A UID with its padding.
#[must_use]
pub fn uid(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    if bytes.len() % 2 == 1 {
        bytes.push(0);
    }
    bytes
}

/// A command set with its group length.
#[must_use]
pub fn command(elements: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let rest: Vec<u8> = elements.iter().flat_map(|(tag, value)| element(*tag, value)).collect();
    let mut bytes = element(0, &u32::try_from(rest.len()).expect("a small command").to_le_bytes());
    bytes.extend(rest);
    bytes
}

/// The value of an element of a command set.
#[must_use]
pub fn value_of(command: &[u8], tag: u16) -> Option<&[u8]> {
    let mut rest = command;
    while rest.len() >= 8 {
        let found = u16::from_le_bytes([rest[2], rest[3]]);
        let length = u32::from_le_bytes([rest[4], rest[5], rest[6], rest[7]]) as usize;
        let value = rest.get(8..8 + length)?;
        if found == tag {
            return Some(value);
        }
        rest = &rest[8 + length..];
    }
    None
}

/// A number of a command set.
#[must_use]
pub fn number_of(command: &[u8], tag: u16) -> Option<u16> {
    value_of(command, tag)?.first_chunk::<2>().map(|b| u16::from_le_bytes(*b))
}

/// A text of a command set, padding removed.
#[must_use]
pub fn text_of(command: &[u8], tag: u16) -> String {
    let bytes = value_of(command, tag).unwrap_or_default();
    String::from_utf8_lossy(bytes).trim_end_matches(['\0', ' ']).to_owned()
}

/// A C-STORE-RQ command set.
#[must_use]
pub fn store_rq(class: &str, instance: &str, message: u16) -> Vec<u8> {
    command(&[
        (0x0002, uid(class)),
        (0x0100, vec![1, 0]),
        (0x0110, message.to_le_bytes().to_vec()),
        (0x0700, vec![0, 0]),
        (0x0800, vec![0, 0]),
        (0x1000, uid(instance)),
    ])
}

/// P-DATA PDUs for one message part, at most `max` bytes in the body of each.
pub fn write_data(stream: &mut impl Write, context: u8, is_command: bool, bytes: &[u8], max: usize) -> io::Result<()> {
    let step = max.saturating_sub(6).max(1);
    let mut sent = 0;
    loop {
        let part = &bytes[sent..bytes.len().min(sent + step)];
        sent += part.len();
        let flags = u8::from(is_command) | if sent == bytes.len() { 2 } else { 0 };
        let mut head = [pdu::DATA, 0, 0, 0, 0, 0, 0, 0, 0, 0, context, flags];
        head[2..6].copy_from_slice(&u32::try_from(part.len() + 6).expect("a PDU").to_be_bytes());
        head[6..10].copy_from_slice(&u32::try_from(part.len() + 2).expect("a PDV").to_be_bytes());
        write_both(stream, &head, part)?;
        if sent == bytes.len() {
            return Ok(());
        }
    }
}

/// Two pieces in one call and without a copy, as far as the stream takes them so.
fn write_both(stream: &mut impl Write, head: &[u8], part: &[u8]) -> io::Result<()> {
    let sent = stream.write_vectored(&[IoSlice::new(head), IoSlice::new(part)])?;
    stream.write_all(head.get(sent..).unwrap_or_default())?;
    stream.write_all(&part[sent.saturating_sub(head.len())..])
}

/// One PDU with one fragment of a data set.
pub fn send_pdv(stream: &mut impl Write, context: u8, last: bool, part: &[u8]) -> io::Result<()> {
    let mut head = vec![pdu::DATA, 0];
    head.extend_from_slice(&u32::try_from(part.len() + 6).expect("a PDU").to_be_bytes());
    head.extend_from_slice(&u32::try_from(part.len() + 2).expect("a PDV").to_be_bytes());
    head.extend_from_slice(&[context, if last { 2 } else { 0 }]);
    head.extend_from_slice(part);
    stream.write_all(&head)
}

/// What an A-ASSOCIATE request came to when it was not accepted.
#[must_use]
pub fn refusal(kind: u8, body: &[u8]) -> io::Error {
    match kind {
        pdu::ASSOCIATE_RJ => io::Error::other(format!("rejected {}/{}/{}", body[1], body[2], body[3])),
        pdu::ABORT => io::Error::other(format!("aborted {}/{}", body[2], body[3])),
        other => io::Error::other(format!("PDU type {other}")),
    }
}

/// An association as requestor.
pub struct Association {
    stream: TcpStream,
    /// Accepted contexts: id, abstract syntax, transfer syntax.
    pub contexts: Vec<(u8, String, String)>,
    /// The peer's largest PDU.
    pub max_pdu: usize,
    /// Asynchronous operations window granted (invoked, performed).
    pub window: Option<(u16, u16)>,
    next_message: u16,
}

impl Association {
    /// Opens one. A rejection reads `rejected RESULT/SOURCE/REASON`.
    pub fn open(to: SocketAddr, called: &str, calling: &str, contexts: &[Proposal]) -> io::Result<Self> {
        Self::open_with(to, called, calling, contexts, 65_536, None)
    }

    /// The same with a largest PDU and a window of one's own.
    pub fn open_with(
        to: SocketAddr,
        called: &str,
        calling: &str,
        contexts: &[Proposal],
        max_pdu: u32,
        window: Option<(u16, u16)>,
    ) -> io::Result<Self> {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(10))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.set_write_timeout(Some(Duration::from_secs(60)))?;
        stream.write_all(&frame(pdu::ASSOCIATE_RQ, &associate_rq(called, calling, contexts, max_pdu, window)))?;
        let (kind, body) = read_pdu(&mut stream)?;
        if kind != pdu::ASSOCIATE_AC {
            return Err(refusal(kind, &body));
        }
        let mut association = Self { stream, contexts: Vec::new(), max_pdu: 16_384, window: None, next_message: 1 };
        for (kind, value) in items(body.get(68..).unwrap_or_default()) {
            match kind {
                0x21 if value[2] == 0 => {
                    let id = value[0];
                    let class = contexts[usize::from(id / 2)].0.clone();
                    let syntax = items(&value[4..]).first().map(|(_, v)| String::from_utf8_lossy(v).trim_end_matches('\0').to_owned());
                    association.contexts.push((id, class, syntax.unwrap_or_default()));
                }
                0x50 => {
                    for (kind, value) in items(value) {
                        match kind {
                            0x51 => association.max_pdu = u32::from_be_bytes(value.try_into().unwrap_or_default()) as usize,
                            0x53 => association.window = Some((u16::from_be_bytes([value[0], value[1]]), u16::from_be_bytes([value[2], value[3]]))),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        if association.max_pdu == 0 {
            association.max_pdu = 1 << 20;
        }
        Ok(association)
    }

    /// The socket.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// The accepted context of a class.
    pub fn context(&self, class: &str) -> io::Result<u8> {
        let found = self.contexts.iter().find(|(_, c, _)| c == class);
        found.map(|(id, _, _)| *id).ok_or_else(|| io::Error::other(format!("no context for {class}")))
    }

    /// Sends a C-STORE-RQ with its data set, without waiting; gives the message id.
    pub fn push(&mut self, class: &str, instance: &str, data_set: &[u8]) -> io::Result<u16> {
        let context = self.context(class)?;
        let message = self.next_message;
        self.next_message = self.next_message.wrapping_add(1).max(1);
        let max = self.max_pdu.min(1 << 18);
        write_data(&mut self.stream, context, true, &store_rq(class, instance, message), max)?;
        write_data(&mut self.stream, context, false, data_set, max)?;
        Ok(message)
    }

    /// C-STORE of a data set that is never whole in memory: `head`, then `size` bytes of a pattern. Gives the status and the data set's SHA-256.
    pub fn store_large(&mut self, class: &str, instance: &str, head: &[u8], size: usize) -> io::Result<(u16, String)> {
        use sha2::{Digest, Sha256};
        let context = self.context(class)?;
        let message = self.next_message;
        self.next_message = self.next_message.wrapping_add(1).max(1);
        let max = self.max_pdu.min(1 << 18);
        write_data(&mut self.stream, context, true, &store_rq(class, instance, message), max)?;
        let mut digest = Sha256::new();
        digest.update(head);
        send_pdv(&mut self.stream, context, false, head)?;
        let pattern = crate::synthetic::noise(7, max - 6);
        let mut left = size;
        while left > 0 {
            let part = &pattern[..left.min(pattern.len())];
            left -= part.len();
            digest.update(part);
            send_pdv(&mut self.stream, context, left == 0, part)?;
        }
        let (_, status) = self.response()?;
        Ok((status, digest.finalize().iter().map(|b| format!("{b:02x}")).collect()))
    }

    /// The next response: message id and status.
    pub fn response(&mut self) -> io::Result<(u16, u16)> {
        let mut set = Vec::new();
        loop {
            let (kind, body) = read_pdu(&mut self.stream)?;
            if kind != pdu::DATA {
                return Err(refusal(kind, &body));
            }
            let mut rest = &body[..];
            while rest.len() >= 6 {
                let length = u32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
                let last = rest[5] & 2 != 0;
                set.extend_from_slice(&rest[6..4 + length]);
                rest = &rest[4 + length..];
                if last {
                    return Ok((number_of(&set, 0x0120).unwrap_or(0), number_of(&set, 0x0900).unwrap_or(0xffff)));
                }
            }
        }
    }

    /// C-STORE; gives the status.
    pub fn store(&mut self, class: &str, instance: &str, data_set: &[u8]) -> io::Result<u16> {
        let message = self.push(class, instance, data_set)?;
        let (answered, status) = self.response()?;
        if answered == message { Ok(status) } else { Err(io::Error::other(format!("answer to {answered}, not to {message}"))) }
    }

    /// C-ECHO; gives the status.
    pub fn echo(&mut self) -> io::Result<u16> {
        let context = self.context(VERIFICATION)?;
        let message = self.next_message;
        self.next_message += 1;
        let set = command(&[(0x0002, uid(VERIFICATION)), (0x0100, vec![0x30, 0]), (0x0110, message.to_le_bytes().to_vec()), (0x0800, vec![1, 1])]);
        write_data(&mut self.stream, context, true, &set, 16_384)?;
        self.response().map(|(_, status)| status)
    }

    /// A-RELEASE.
    pub fn release(mut self) -> io::Result<()> {
        self.stream.write_all(&frame(pdu::RELEASE_RQ, &[0; 4]))?;
        match read_pdu(&mut self.stream)? {
            (pdu::RELEASE_RP, _) => Ok(()),
            (kind, body) => Err(refusal(kind, &body)),
        }
    }
}

/// One context for one class in one syntax.
#[must_use]
pub fn propose(class: &str, syntax: &str) -> Vec<Proposal> {
    vec![(class.to_owned(), vec![syntax.to_owned()])]
}

/// A Part-10 file taken apart: transfer syntax, SOP class, SOP instance, data set bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part10 {
    /// (0002,0010).
    pub transfer_syntax: String,
    /// (0002,0002).
    pub class: String,
    /// (0002,0003).
    pub instance: String,
    /// Everything after the file meta information, as it stands in the file.
    pub data_set: Vec<u8>,
}

/// Reads a Part-10 file; panics if it is none.
#[must_use]
pub fn part10(path: &Path) -> Part10 {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    parse_part10(&bytes).unwrap_or_else(|| panic!("{}: no Part-10 file", path.display()))
}

/// Takes the bytes of a Part-10 file apart; `None` if they are none (or not whole yet).
#[must_use]
pub fn parse_part10(bytes: &[u8]) -> Option<Part10> {
    if bytes.get(128..132)? != b"DICM" {
        return None;
    }
    let mut at = 132;
    let (mut transfer_syntax, mut class, mut instance) = (String::new(), String::new(), String::new());
    while bytes.get(at..at + 2) == Some(&[2, 0]) {
        let element = u16::from_le_bytes([*bytes.get(at + 2)?, *bytes.get(at + 3)?]);
        let vr = bytes.get(at + 4..at + 6)?;
        let (length, head) = if [b"OB", b"UN", b"OW", b"UT", b"SQ"].iter().any(|v| v.as_slice() == vr) {
            (u32::from_le_bytes(bytes.get(at + 8..at + 12)?.try_into().ok()?) as usize, 12)
        } else {
            (usize::from(u16::from_le_bytes(bytes.get(at + 6..at + 8)?.try_into().ok()?)), 8)
        };
        let value = bytes.get(at + head..at + head + length)?;
        let text = || String::from_utf8_lossy(value).trim_end_matches(['\0', ' ']).to_owned();
        match element {
            0x0002 => class = text(),
            0x0003 => instance = text(),
            0x0010 => transfer_syntax = text(),
            _ => {}
        }
        at += head + length;
    }
    Some(Part10 { transfer_syntax, class, instance, data_set: bytes[at..].to_vec() })
}
