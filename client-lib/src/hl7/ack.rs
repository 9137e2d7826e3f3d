//! Acknowledgements: built for senders, read from receivers (HL7 v2.5.1 chapter 2, sections 2.9 and 2.10; tables 0008, 0155, 0357).
//!
//! Rules: an answer takes delimiters, version, processing id, character set and ids from the message it answers, with sender and receiver exchanged.
//! MSH-15 and MSH-16 both empty: original mode (AA, AR). Else enhanced mode: MSH-15 decides about CA, CE, CR; MSH-16 about the application's
//! answer, which follows at once or never. `accept` needs a receipt: nothing positive leaves before the message is durable. Where the message's own
//! conditions forbid the negative answer it should get, closing the connection is the answer. ACKs of peers are read tolerantly.
//! Errors: `NoAnswer` for what a peer sent and is no acknowledgement.

use super::message::{Heads, Malformed, Msh, Unreadable};
use crate::delivery::AckCode;
use crate::spool::Receipt;
use bytes::Bytes;

/// When and as how manieth an answer is built: for MSH-7 and MSH-10.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Milliseconds since 1970-01-01 UTC.
    pub at: u64,
    /// Never the same twice in a process; a second answer to the same message adds `A`.
    pub serial: u64,
}

/// Whether the application's answer, if the sender asks for one, is given by us (`application_ack`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ApplicationAck {
    /// At once, after the accept-level answer: custody counts as processing.
    #[default]
    Immediate,
    /// Never.
    Never,
}

/// Why a message is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Not parseable: AR or CR with 100 to 102.
    Malformed(Malformed),
    /// No route, or a query that no route names: AR or CR with 200.
    NoRoute,
    /// Larger than the listener takes: AR or CR with 207.
    TooLarge,
    /// Not now: reserve reached, failed sync, a limit, stopping. AR or CE with 207; the same message is welcome later.
    NotNow(&'static str),
}

impl Reason {
    /// Codes in original and enhanced mode, and of table 0357.
    fn codes(self) -> (AckCode, AckCode, u16) {
        match self {
            Reason::Malformed(why) => (AckCode::AR, AckCode::CR, why.code()),
            Reason::NoRoute => (AckCode::AR, AckCode::CR, 200),
            Reason::TooLarge => (AckCode::AR, AckCode::CR, 207),
            Reason::NotNow(_) => (AckCode::AR, AckCode::CE, 207),
        }
    }

    fn place(self) -> (&'static str, u8) {
        match self {
            Reason::Malformed(why) => why.place(),
            Reason::NoRoute => ("MSH", 9),
            Reason::TooLarge | Reason::NotNow(_) => ("MSH", 0),
        }
    }

    /// For MSA-3 and ERR: what happened and what to do. Plain ASCII, nothing of the message in it.
    fn text(self) -> String {
        match self {
            Reason::Malformed(why) => why.to_string(),
            Reason::NoRoute => "no route takes this message type".into(),
            Reason::TooLarge => "the message is larger than this listener takes".into(),
            Reason::NotNow(why) => format!("{why}, nothing was taken, send it again later"),
        }
    }
}

/// A condition of MSH-15 or MSH-16 (table 0155).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Always,
    Never,
    OnError,
    OnSuccess,
}

impl Condition {
    /// Empty: never, as the other field puts the message in enhanced mode. An unknown value: always, since an answer too many does the least harm.
    fn of(field: &[u8]) -> Self {
        match field.trim_ascii() {
            b"" => Condition::Never,
            value if value.eq_ignore_ascii_case(b"NE") => Condition::Never,
            value if value.eq_ignore_ascii_case(b"ER") => Condition::OnError,
            value if value.eq_ignore_ascii_case(b"SU") => Condition::OnSuccess,
            _ => Condition::Always,
        }
    }

    fn asks(self, success: bool) -> bool {
        match self {
            Condition::Always => true,
            Condition::Never => false,
            Condition::OnError => !success,
            Condition::OnSuccess => success,
        }
    }
}

/// What goes back to the sender of one message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    messages: [Option<Vec<u8>>; 2],
    close: bool,
}

impl Answer {
    /// The messages to send, in order: none, one, or in enhanced mode two.
    pub fn messages(&self) -> impl Iterator<Item = &[u8]> {
        self.messages.iter().flatten().map(Vec::as_slice)
    }

    /// The connection must be closed after them: the sender asked for no negative answer, and silence would look like acceptance.
    #[must_use]
    pub fn closes(&self) -> bool {
        self.close
    }
}

/// The silence that a message asks of its receiver when all goes well: no accept-level and no application answer. `conditions` is
/// `Key::AckConditions`.
#[must_use]
pub fn asks_silence(conditions: &[u8]) -> bool {
    let mut fields = conditions.splitn(2, |byte| *byte == b'|');
    let (accept, application) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
    let enhanced = !accept.is_empty() || !application.is_empty();
    enhanced && !Condition::of(accept).asks(true) && !Condition::of(application).asks(true)
}

/// The positive answer to a message that is durable.
#[must_use]
pub fn accept(_stored: &Receipt, heads: &Heads, application: ApplicationAck, stamp: Stamp) -> Answer {
    positive(heads, application, stamp)
}

fn positive(heads: &Heads, application: ApplicationAck, stamp: Stamp) -> Answer {
    let Some((commit, process)) = conditions(heads) else {
        return Answer { messages: [Some(Builder::new(heads, stamp, false).build(AckCode::AA, None)), None], close: false };
    };
    let first = commit.asks(true).then(|| Builder::new(heads, stamp, false).build(AckCode::CA, None));
    let second = (application == ApplicationAck::Immediate && process.asks(true)).then(|| Builder::new(heads, stamp, true).build(AckCode::AA, None));
    Answer { messages: [first, second], close: false }
}

/// The negative answer to a message whose headers could be read.
#[must_use]
pub fn refuse(heads: &Heads, reason: Reason, stamp: Stamp) -> Answer {
    let (original, enhanced, _) = reason.codes();
    let code = match conditions(heads) {
        None => Some(original),
        Some((commit, _)) if commit.asks(false) => Some(enhanced),
        // Only the application's answer was asked for: it is the one that can say no.
        Some((Condition::Never, process)) if process.asks(false) => Some(original),
        Some(_) => None,
    };
    Answer { messages: [code.map(|code| Builder::new(heads, stamp, false).build(code, Some(reason))), None], close: code.is_none() }
}

/// The negative answer to a block that is no message; built from its header as far as there is one, else with the usual delimiters.
#[must_use]
pub fn refuse_unreadable(block: &Unreadable, stamp: Stamp) -> Answer {
    let reason = Reason::Malformed(block.why);
    match &block.heads {
        Some(heads) => refuse(heads, reason, stamp),
        None => Answer { messages: [Some(Builder::bare(stamp).build(AckCode::AR, Some(reason))), None], close: false },
    }
}

/// The negative answer where nothing of the message was kept.
#[must_use]
pub fn refuse_unseen(reason: Reason, stamp: Stamp) -> Answer {
    let (original, _, _) = reason.codes();
    Answer { messages: [Some(Builder::bare(stamp).build(original, Some(reason))), None], close: false }
}

/// MSH-15 and MSH-16; `None`: original mode, or no message to have them.
fn conditions(heads: &Heads) -> Option<(Condition, Condition)> {
    let message = heads.message()?;
    let (accept, application) = (message.field(15), message.field(16));
    (!accept.is_empty() || !application.is_empty()).then(|| (Condition::of(accept), Condition::of(application)))
}

/// Of an answer to what has no version of its own: that of the field "2.5".
const VERSION: (u8, u8, u8) = (2, 5, 0);

struct Builder<'a> {
    heads: Option<&'a Heads>,
    separator: u8,
    component: u8,
    subcomponent: Option<u8>,
    encoding: &'a [u8],
    version: (u8, u8, u8),
    stamp: Stamp,
    second: bool,
    out: Vec<u8>,
}

impl<'a> Builder<'a> {
    fn new(heads: &'a Heads, stamp: Stamp, second: bool) -> Self {
        let outer = heads.outer();
        Self {
            separator: outer.separator(),
            component: outer.component_separator(),
            subcomponent: outer.subcomponent_separator(),
            encoding: outer.encoding(),
            version: heads.message().map_or(VERSION, |message| message.version().unwrap_or((0, 0, 0))),
            heads: Some(heads),
            stamp,
            second,
            out: Vec::with_capacity(192),
        }
    }

    fn bare(stamp: Stamp) -> Self {
        let (separator, component, subcomponent) = (b'|', b'^', Some(b'&'));
        Self {
            heads: None,
            separator,
            component,
            subcomponent,
            encoding: b"^~\\&",
            version: VERSION,
            stamp,
            second: false,
            out: Vec::with_capacity(192),
        }
    }

    fn build(mut self, code: AckCode, reason: Option<Reason>) -> Vec<u8> {
        self.header();
        let control_id = self.heads.map(Heads::control_id).unwrap_or_default();
        self.segment(b"MSA");
        self.field(code.name().as_bytes());
        self.field(control_id);
        if let Some(reason) = reason {
            let text = self.clean(&reason.text());
            self.field(&text);
            self.error(reason, &text);
        }
        self.end();
        self.out
    }

    fn header(&mut self) {
        let outer: Option<&Msh> = self.heads.map(Heads::outer);
        let message: Option<&Msh> = self.heads.and_then(Heads::message);
        self.segment(b"MSH");
        self.out.push(self.separator);
        self.out.extend_from_slice(self.encoding);
        for field in [5, 6, 3, 4] {
            self.field(outer.map(|header| header.field(field)).unwrap_or_default());
        }
        let time = timestamp(self.stamp.at);
        let zone = self.separator != b'+' && !self.encoding.contains(&b'+');
        self.field(if zone { &time } else { &time[..14] });
        self.field(b"");
        let event = message.map(|header| header.component(9, 2)).filter(|event| !event.is_empty() && self.version >= (2, 2, 0));
        self.field(b"ACK");
        if let Some(event) = event {
            self.component_of(event);
            if self.version >= (2, 3, 1) {
                self.component_of(b"ACK");
            }
        }
        let id = format!("{:X}{:04X}{}", self.stamp.at, self.stamp.serial & 0xffff, if self.second { "A" } else { "" });
        self.field(id.as_bytes());
        match message {
            Some(header) => {
                self.field(header.field(11));
                self.field(header.field(12));
                if !header.field(18).is_empty() {
                    [&b""[..]; 5].into_iter().for_each(|empty| self.field(empty));
                    self.field(header.field(18));
                }
            }
            None => {
                self.field(b"P");
                self.field(b"2.5");
            }
        }
        self.end();
    }

    /// ERR: since 2.5 location, code, severity, and the text as diagnostic; before, segment, field and code as components of ERR-1.
    fn error(&mut self, reason: Reason, text: &[u8]) {
        let (_, _, code) = reason.codes();
        let (segment, number) = reason.place();
        let number = if number == 0 { String::new() } else { number.to_string() };
        let code = (code.to_string(), condition(code));
        self.end();
        self.segment(b"ERR");
        if self.version >= (2, 5, 0) {
            self.field(b"");
            self.field(segment.as_bytes());
            self.component_of(b"1");
            if !number.is_empty() {
                self.component_of(number.as_bytes());
            }
            self.field(code.0.as_bytes());
            let name = self.clean(code.1);
            self.component_of(&name);
            self.component_of(b"HL70357");
            self.field(b"E");
            self.field(b"");
            self.field(b"");
            self.field(text);
        } else {
            self.field(segment.as_bytes());
            self.component_of(b"1");
            self.component_of(number.as_bytes());
            self.component_of(code.0.as_bytes());
            if let Some(sub) = self.subcomponent {
                let name = self.clean(code.1);
                self.out.push(sub);
                self.out.extend_from_slice(&name);
                self.out.push(sub);
                self.out.extend_from_slice(b"HL70357");
            }
        }
    }

    fn segment(&mut self, name: &[u8]) {
        self.out.extend_from_slice(name);
    }

    fn field(&mut self, value: &[u8]) {
        self.out.push(self.separator);
        self.out.extend_from_slice(value);
    }

    fn component_of(&mut self, value: &[u8]) {
        self.out.push(self.component);
        self.out.extend_from_slice(value);
    }

    fn end(&mut self) {
        self.out.push(b'\r');
    }

    /// Our own texts without any delimiter of the message.
    fn clean(&self, text: &str) -> Vec<u8> {
        text.bytes().map(|byte| if byte == self.separator || self.encoding.contains(&byte) { b' ' } else { byte }).collect()
    }
}

/// Names of table 0357.
fn condition(code: u16) -> &'static str {
    match code {
        100 => "Segment sequence error",
        101 => "Required field missing",
        102 => "Data type error",
        200 => "Unsupported message type",
        _ => "Application internal error",
    }
}

/// `YYYYMMDDHHMMSS+0000`.
fn timestamp(at: u64) -> [u8; 19] {
    let (days, seconds) = (at / 86_400_000, at / 1000 % 86_400);
    // Days since 0000-03-01, in eras of 400 years: leap days fall at the end of a year then.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let mut out = *b"00000000000000+0000";
    for (place, width, value) in [(0, 4, year), (4, 2, month), (6, 2, day), (8, 2, seconds / 3600), (10, 2, seconds / 60 % 60), (12, 2, seconds % 60)]
    {
        let mut rest = value;
        for digit in out[place..place + width].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
    }
    out
}

/// What a peer answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledgement {
    /// MSA-1; of several (an answer to a batch) the worst.
    pub code: AckCode,
    /// Code of table 0357 from ERR-3, else ERR-1.4, else MSA-6; 0 (accepted) counts as none.
    pub error: Option<u16>,
    control_id: Bytes,
    /// BHS-12 or FHS-12 of an answer to a batch.
    batch_id: Option<Bytes>,
}

/// What a peer sent and is no acknowledgement. Says nothing of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// There is no MSA segment.
    #[error("the peer's answer has no MSA segment")]
    NoMsa,
    /// MSA-1 is none of AA AE AR CA CE CR.
    #[error("MSA-1 of the peer's answer is none of AA, AE, AR, CA, CE, CR")]
    UnknownCode,
}

impl Acknowledgement {
    /// Reads an answer. Tolerated: any delimiters, LF or CR LF, a byte order mark, blanks around values, lower case, a missing or broken MSH.
    /// # Errors
    /// `NoAnswer`.
    pub fn read(block: &Bytes) -> Result<Self, NoAnswer> {
        let header = Header::of(block);
        let mut found: Option<Self> = None;
        let mut batch_id = None;
        let mut condition = None;
        for segment in block.split(|byte| matches!(byte, b'\r' | b'\n')).map(<[u8]>::trim_ascii_start) {
            match segment.get(..3) {
                Some(b"MSA") => {
                    let separator = segment.get(3).copied();
                    let mut fields = segment.split(|byte| Some(*byte) == separator).skip(1).map(<[u8]>::trim_ascii);
                    let code = fields.next().and_then(AckCode::read).ok_or(NoAnswer::UnknownCode)?;
                    let control_id = block.slice_ref(fields.next().unwrap_or_default());
                    condition = condition.or_else(|| fields.nth(3).and_then(|field| header.number(field)));
                    match &mut found {
                        Some(earlier) if code.rank() <= earlier.code.rank() => {}
                        Some(earlier) => earlier.code = code,
                        None => found = Some(Self { code, error: None, control_id, batch_id: None }),
                    }
                }
                Some(b"BHS" | b"FHS") => {
                    batch_id =
                        batch_id.or_else(|| segment.split(|byte| Some(*byte) == header.separator).nth(11).map(|id| block.slice_ref(id.trim_ascii())));
                }
                _ => {}
            }
        }
        let mut found = found.ok_or(NoAnswer::NoMsa)?;
        found.error = header.error(block).or(condition).filter(|code| *code != 0);
        found.batch_id = batch_id;
        Ok(found)
    }

    /// MSA-2.
    #[must_use]
    pub fn control_id(&self) -> &[u8] {
        &self.control_id
    }

    /// Whether it answers the message with this control id (`Key::ControlId`, perhaps cut to `limits::KEY_BYTES_MAX`). Empty matches empty.
    #[must_use]
    pub fn answers(&self, sent: &[u8]) -> bool {
        let sent_trimmed = sent.trim_ascii();
        let same = |id: &Bytes| **id == *sent_trimmed || sent.len() == crate::limits::KEY_BYTES_MAX && id.starts_with(sent_trimmed);
        same(&self.control_id) || self.batch_id.as_ref().is_some_and(|id| !id.is_empty() && same(id))
    }
}

/// Delimiters of an answer, as far as its header shows them.
struct Header {
    separator: Option<u8>,
    component: u8,
    subcomponent: u8,
}

impl Header {
    fn of(block: &[u8]) -> Self {
        let start = block.iter().position(|byte| byte.is_ascii_uppercase()).unwrap_or(0);
        match &block[start..] {
            [b'M' | b'B' | b'F', b'S' | b'H', b'H' | b'S', separator, component, rest @ ..] => {
                let subcomponent = rest.get(2).copied().filter(|byte| byte != separator).unwrap_or(b'&');
                Self { separator: Some(*separator), component: *component, subcomponent }
            }
            _ => Self { separator: None, component: b'^', subcomponent: b'&' },
        }
    }

    /// The number at the front of a coded field.
    fn number(&self, field: &[u8]) -> Option<u16> {
        let code = field.split(|byte| *byte == self.component || *byte == self.subcomponent).next()?;
        std::str::from_utf8(code.trim_ascii()).ok()?.parse().ok()
    }

    /// The first error of the ERR segments; those of severity I or W only if there is no other.
    fn error(&self, block: &[u8]) -> Option<u16> {
        let separator = self.separator.unwrap_or(b'|');
        let mut mild = None;
        for segment in block.split(|byte| matches!(byte, b'\r' | b'\n')).map(<[u8]>::trim_ascii_start).filter(|s| s.starts_with(b"ERR")) {
            let fields: Vec<&[u8]> = segment.split(|byte| *byte == separator).take(6).collect();
            let new = fields.get(3).and_then(|field| self.number(field));
            let old = || fields.get(1)?.split(|byte| *byte == self.component).nth(3).and_then(|field| self.number(field));
            match (new.or_else(old), fields.get(4).map(|field| field.trim_ascii())) {
                (code @ Some(_), Some(b"I" | b"W")) => mild = mild.or(code),
                (code @ Some(_), _) => return code,
                (None, _) => {}
            }
        }
        mild
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::message::Message;
    use super::*;
    use proptest::prelude::*;

    const STAMP: Stamp = Stamp { at: 1_767_225_599_000, serial: 7 };

    fn heads(text: &str) -> Heads {
        Message::read(&Bytes::copy_from_slice(text.as_bytes())).unwrap().into_heads()
    }

    fn asking(accept: &str, application: &str) -> Heads {
        heads(&format!("MSH|^~\\&|A|B|C|D|||ADT^A01|77|P|2.5|||{accept}|{application}\r"))
    }

    fn codes(answer: &Answer) -> String {
        let read = |text: &[u8]| Acknowledgement::read(&Bytes::copy_from_slice(text)).unwrap().code.name();
        let mut codes: Vec<&str> = answer.messages().map(read).collect();
        if answer.closes() {
            codes.push("close");
        }
        codes.join(" ")
    }

    fn only(answer: &Answer) -> String {
        String::from_utf8(answer.messages().next().unwrap().to_vec()).unwrap()
    }

    #[test]
    fn the_answer_speaks_the_language_of_the_message() {
        let heads = heads("MSH$*%!@#$APP*1$FAC$RAPP$RFAC$20260101$$ADT*A01*ADT_A01$id 1$T*A$2.7*DE$$$$$$8859/1\r");
        let answer = only(&positive(&heads, ApplicationAck::Immediate, STAMP));
        assert_eq!(answer, "MSH$*%!@#$RAPP$RFAC$APP*1$FAC$20251231235959+0000$$ACK*A01*ACK$19B76DAA4180007$T*A$2.7*DE$$$$$$8859/1\rMSA$AA$id 1\r");
    }

    #[test]
    fn message_type_and_error_format_follow_the_version() {
        for (version, kind, error) in [
            ("2.1", "|ACK|", "\rERR|MSH^1^9^200&Unsupported message type&HL70357\r"),
            ("2.3", "|ACK^A01|", "\rERR|MSH^1^9^200&Unsupported message type&HL70357\r"),
            ("2.4", "|ACK^A01^ACK|", "\rERR|MSH^1^9^200&Unsupported message type&HL70357\r"),
            ("2.5", "|ACK^A01^ACK|", "\rERR||MSH^1^9|200^Unsupported message type^HL70357|E|||no route takes this message type\r"),
        ] {
            let answer = only(&refuse(&heads(&format!("MSH|^~\\&|A|B|C|D|||ADT^A01|77|P|{version}\r")), Reason::NoRoute, STAMP));
            assert!(answer.contains(kind) && answer.ends_with(error), "{version}: {answer}");
            assert!(answer.contains("\rMSA|AR|77|no route takes this message type\r"), "{answer}");
        }
    }

    #[test]
    fn one_encoding_character_leaves_no_delimiter_undefined() {
        let answer = only(&refuse(&heads("MSH|^|A|B|C|D|||ADT^A01|77|P|2.3\r"), Reason::NoRoute, STAMP));
        assert!(answer.ends_with("\rERR|MSH^1^9^200\r"), "{answer}");
    }

    #[test]
    fn our_texts_and_times_hold_no_delimiter_of_the_message() {
        let answer = only(&refuse(&heads("MSH|^~\\,|A|B|C|D|||ADT^A01|77|P|2.5\r"), Reason::NotNow("the spool's reserve is reached"), STAMP));
        assert!(answer.contains("|the spool's reserve is reached  nothing was taken  send it again later\r"), "{answer}");
        let answer = only(&positive(&heads("MSH|+~\\&|A|B|C|D|||ADT+A01|77|P|2.5\r"), ApplicationAck::Immediate, STAMP));
        assert!(answer.contains("|20251231235959||ACK+A01+ACK|"), "{answer}");
    }

    #[test]
    fn conditions_decide_which_answers_are_given() {
        // MSH-15, MSH-16, durable (application ack immediate), durable (never), no route, not now
        for (accept, application, good, never, reject, later) in [
            ("", "", "AA", "AA", "AR", "AR"),
            ("AL", "", "CA", "CA", "CR", "CE"),
            ("AL", "NE", "CA", "CA", "CR", "CE"),
            ("AL", "AL", "CA AA", "CA", "CR", "CE"),
            ("AL", "ER", "CA", "CA", "CR", "CE"),
            ("NE", "NE", "", "", "close", "close"),
            ("NE", "", "", "", "close", "close"),
            ("NE", "AL", "AA", "", "AR", "AR"),
            ("", "AL", "AA", "", "AR", "AR"),
            ("ER", "NE", "", "", "CR", "CE"),
            ("SU", "NE", "CA", "CA", "close", "close"),
            ("SU", "SU", "CA AA", "CA", "close", "close"),
            ("al", "xx", "CA AA", "CA", "CR", "CE"),
        ] {
            let heads = asking(accept, application);
            let found = [
                codes(&positive(&heads, ApplicationAck::Immediate, STAMP)),
                codes(&positive(&heads, ApplicationAck::Never, STAMP)),
                codes(&refuse(&heads, Reason::NoRoute, STAMP)),
                codes(&refuse(&heads, Reason::NotNow("x"), STAMP)),
            ];
            assert_eq!(found, [good, never, reject, later], "MSH-15 {accept:?} MSH-16 {application:?}");
        }
    }

    #[test]
    fn silence_is_asked_only_where_no_answer_would_come() {
        for (conditions, silent) in [
            ("NE|", true),
            ("NE|NE", true),
            ("ER|", true),
            ("ER|ER", true),
            ("NE|AL", false),
            ("AL|NE", false),
            ("SU|NE", false),
            ("|NE", true),
            ("", false),
        ] {
            assert_eq!(asks_silence(conditions.as_bytes()), silent, "{conditions}");
        }
    }

    #[test]
    fn what_is_no_message_gets_an_answer_all_the_same() {
        let unreadable = Message::read(&Bytes::from_static(b"garbage")).unwrap_err();
        let answer = only(&refuse_unreadable(&unreadable, STAMP));
        assert!(answer.starts_with("MSH|^~\\&|||||"), "{answer}");
        assert!(
            answer.contains("\rMSA|AR||the block does not begin with MSH, BHS or FHS\rERR||MSH^1|100^Segment sequence error^HL70357|E|"),
            "{answer}"
        );
        let unreadable = Message::read(&Bytes::from_static(b"MSH|^~\\&|A|B|C|D||||5|P|2.3|||AL\r")).unwrap_err();
        let answer = only(&refuse_unreadable(&unreadable, STAMP));
        assert!(answer.contains("\rMSA|CR|5|MSH-9 is missing: the message type is needed\rERR|MSH^1^9^101&"), "{answer}");
    }

    #[test]
    fn a_batch_is_answered_as_one() {
        let heads = heads("BHS|^~\\&|A|B|C|D|||||B1\rMSH|^~\\&|E|F|G|H|||ORU^R01|M1|T|2.4|||||DE|8859/1\rBTS|1\r");
        let answer = only(&positive(&heads, ApplicationAck::Immediate, STAMP));
        assert!(
            answer.starts_with("MSH|^~\\&|C|D|A|B|") && answer.contains("|ACK^R01^ACK|") && answer.contains("|T|2.4||||||8859/1\rMSA|AA|B1\r"),
            "{answer}"
        );
    }

    #[test]
    fn a_batch_without_a_message_is_answered_as_what_has_no_header() {
        // FHS-11 and BHS-11 are ids where MSH-11 is the processing id; FHS-12 names another batch where MSH-12 is the version.
        for header in ["FHS|^~\\&|A|B|C|D||x|N^E^T|c|B1|2.3|||AL|AL\r", "BHS|^~\\&|A|B|C|D||x|N^E^T|c|B1|REF|||AL|AL\rBTS|0\r"] {
            let unreadable = Message::read(&Bytes::copy_from_slice(header.as_bytes())).unwrap_err();
            let answer = refuse_unreadable(&unreadable, STAMP);
            assert_eq!(codes(&answer), "AR", "{header}");
            let answer = only(&answer);
            assert!(answer.contains("||ACK|19B76DAA4180007|P|2.5\rMSA|AR|B1|") && answer.contains("\rERR||"), "{answer}");
        }
    }

    #[test]
    fn times_are_right() {
        for (at, text) in
            [(0, "19700101000000"), (951_782_400_000, "20000229000000"), (1_709_164_800_000, "20240229000000"), (4_107_542_399_999, "21000228235959")]
        {
            assert_eq!(&timestamp(at)[..14], text.as_bytes());
        }
    }

    fn read(text: &str) -> Result<Acknowledgement, NoAnswer> {
        Acknowledgement::read(&Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn peers_are_read_tolerantly() {
        for (text, code, id, error) in [
            ("MSH|^~\\&|A|B|C|D|||ACK|9|P|2.3\rMSA|AA|77\r", AckCode::AA, "77", None),
            ("MSH|^~\\&|A\r\nMSA|ca|77 |\r\n", AckCode::CA, "77", None),
            ("\u{feff}\nMSH|^~\\&|A\n MSA|AE|77\n", AckCode::AE, "77", None),
            ("MSH$*%!@$A\rMSA$AE$77$$$$207*x*HL70357\r", AckCode::AE, "77", Some(207)),
            ("MSH|^~\\&|A\rMSA|AE|77\rERR|PID^1^3^204&Unknown key&HL70357\r", AckCode::AE, "77", Some(204)),
            ("MSH|^~\\&|A\rMSA|AR|77||||207\rERR||MSH^1^9|200^Unsupported^HL70357|E\r", AckCode::AR, "77", Some(200)),
            ("MSH|^~\\&|A\rMSA|AE|77\rERR|||100|W\rERR|||205|E\r", AckCode::AE, "77", Some(205)),
            ("MSH|^~\\&|A\rMSA|AA|77\rERR|||0^Message accepted^HL70357|I\r", AckCode::AA, "77", None),
            ("MSA|AR|77", AckCode::AR, "77", None),
            ("MSH|^~\\&|A\rMSA|AA\r", AckCode::AA, "", None),
            ("BHS|^~\\&|A|B|C|D|||||x|B7\rMSH|^~\\&|\rMSA|AA|1\rMSH|^~\\&|\rMSA|AE|2\rBTS|2\r", AckCode::AE, "1", None),
        ] {
            let found = read(text).unwrap();
            assert_eq!((found.code, found.control_id(), found.error), (code, id.as_bytes(), error), "{text:?}");
        }
        assert_eq!(read("MSH|^~\\&|A|B|C|D|||ADT^A01|9|P|2.3\r"), Err(NoAnswer::NoMsa));
        assert_eq!(read("MSH|^~\\&|A\rMSA|OK|77\r"), Err(NoAnswer::UnknownCode));
        assert_eq!(read(""), Err(NoAnswer::NoMsa));
    }

    #[test]
    fn an_answer_matches_its_message_and_no_other() {
        let plain = read("MSH|^~\\&|\rMSA|AA|77\r").unwrap();
        assert!(plain.answers(b"77") && plain.answers(b"77 ") && !plain.answers(b"7") && !plain.answers(b"") && !plain.answers(b"777"));
        let empty = read("MSH|^~\\&|\rMSA|AA|\r").unwrap();
        assert!(empty.answers(b"") && !empty.answers(b"77"));
        let batch = read("BHS|^~\\&|A|B|C|D|||||x|B7\rMSH|^~\\&|\rMSA|AA|1\r").unwrap();
        assert!(batch.answers(b"B7") && batch.answers(b"1") && !batch.answers(b""));
    }

    proptest! {
        /// What we answer, we read back; whatever the delimiters and the id.
        #[test]
        fn answers_are_readable(id in "[ -~&&[^|^~\\\\&$*%!@ ]]{0,30}", swapped in any::<bool>(), version in "2\\.[1-9]") {
            let text = format!("MSH|^~\\&|A|B|C|D|||ADT^A01|{id}|P|{version}\r");
            let text = if swapped { text.replace('|', "$").replace('^', "*").replace('~', "%").replace('\\', "!").replace('&', "@") } else { text };
            let found = Acknowledgement::read(&Bytes::from(only(&refuse(&heads(&text), Reason::TooLarge, STAMP)))).unwrap();
            prop_assert!(found.answers(id.as_bytes()));
            prop_assert_eq!((found.code, found.error), (AckCode::AR, Some(207)));
        }

        /// No bytes of a peer make it panic.
        #[test]
        fn any_bytes_are_survived(text in "(MSH|MSA|ERR|BHS|[|^~\\\\&\r\n]|[ -~]|\\PC){0,60}") {
            let _ = read(&text);
        }
    }
}
