//! Character sets: names of MSH-18 (table 0211 and what is found in the field), and how to find delimiters in their bytes.
//!
//! Rules: content is never converted. In Shift-JIS, GB18030, GBK, Big5 and JIS the second byte of a character may look like a delimiter (`ポ` is
//! 83 7C), so splitting steps over whole characters. CR and LF are never part of one, so segments can be cut bytewise; UTF-16 and UTF-32 are the
//! exception, and are refused. An unknown name splits bytewise, as ASCII does.
//! Errors: none.

use encoding_rs::Encoding;

/// How the bytes of a character set are stepped through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stepping {
    /// No byte of a longer character looks like a delimiter: ASCII, ISO 8859, Windows code pages, UTF-8, EUC.
    Bytewise,
    /// Shift-JIS: lead 81-9F or E0-FC, then 40-7E or 80-FC.
    ShiftJis,
    /// GB18030, GBK, Big5: lead 81-FE, then 30-39 (and two more), 40-7E or 80-FE.
    LeadAndTrail,
    /// ISO 2022 with escape sequences: `ESC $ ...` begins two-byte characters in 7 bits, `ESC ( .` ends them.
    Escapes,
}

/// A character set by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charset {
    /// How to split.
    pub stepping: Stepping,
    /// Its decoder, for people's eyes; `None`: unknown.
    pub encoding: Option<&'static Encoding>,
}

/// What an empty MSH-18 means.
pub const ASCII: Charset = Charset { stepping: Stepping::Bytewise, encoding: Some(encoding_rs::WINDOWS_1252) };

impl Charset {
    /// Reads MSH-18: repetitions separated by `repeat`, the first is the message's own set, later ones are reached by escape sequences.
    #[must_use]
    pub fn of_field(field: &[u8], repeat: Option<u8>) -> Self {
        let mut names = field.split(|byte| Some(*byte) == repeat);
        let first = Self::named(names.next().unwrap_or_default());
        let escapes = first.stepping == Stepping::Bytewise && names.any(|name| Self::named(name).stepping == Stepping::Escapes);
        if escapes { Self { stepping: Stepping::Escapes, encoding: Some(encoding_rs::ISO_2022_JP) } } else { first }
    }

    /// Reads one name.
    #[must_use]
    pub fn named(name: &[u8]) -> Self {
        let name: String = name.iter().filter(|b| b.is_ascii_alphanumeric()).map(|b| char::from(b.to_ascii_uppercase())).collect();
        let (stepping, encoding) = match name.as_str() {
            "" | "ASCII" | "USASCII" | "ISOIR6" => return ASCII,
            "UNICODEUTF8" | "UTF8" | "UNICODE" => (Stepping::Bytewise, encoding_rs::UTF_8),
            "SHIFTJIS" | "SJIS" | "XSJIS" | "MSKANJI" | "WINDOWS31J" | "CP932" | "MS932" | "ISOIR13" | "ISOIR14" => {
                (Stepping::ShiftJis, encoding_rs::SHIFT_JIS)
            }
            "GB180302000" | "GB18030" | "GBK" | "GB2312" | "CP936" => (Stepping::LeadAndTrail, encoding_rs::GB18030),
            "BIG5" | "CNS116431992" | "CP950" => (Stepping::LeadAndTrail, encoding_rs::BIG5),
            "CP949" | "UHC" => (Stepping::LeadAndTrail, encoding_rs::EUC_KR),
            "KSX1001" | "KSC56011987" | "ISOIR149" | "EUCKR" => (Stepping::Bytewise, encoding_rs::EUC_KR),
            "EUCJP" => (Stepping::Bytewise, encoding_rs::EUC_JP),
            "ISOIR87" | "ISOIR159" | "ISO2022JP" | "ISO2022IR87" | "ISO2022IR159" | "JIS" => (Stepping::Escapes, encoding_rs::ISO_2022_JP),
            other => return Self { stepping: Stepping::Bytewise, encoding: latin(other) },
        };
        Self { stepping, encoding: Some(encoding) }
    }
}

/// `8859/1` to `8859/15`, Windows code pages, ISO-IR numbers and whatever else the web's labels know.
fn latin(name: &str) -> Option<&'static Encoding> {
    let label = match name.trim_start_matches("ISO").strip_prefix("8859") {
        Some(part) => format!("iso-8859-{part}"),
        None => match name.trim_start_matches("WINDOWS").trim_start_matches("CP") {
            page if page.starts_with("125") => format!("windows-{page}"),
            _ => match name {
                "ISOIR100" => "iso-8859-1".into(),
                "ISOIR101" => "iso-8859-2".into(),
                "ISOIR144" => "iso-8859-5".into(),
                "ISOIR148" => "iso-8859-9".into(),
                other => other.to_ascii_lowercase(),
            },
        },
    };
    Encoding::for_label(label.as_bytes())
}

impl Stepping {
    /// Places of the bytes for which `wanted` holds and that are characters of their own.
    pub fn places<'a>(self, bytes: &'a [u8], wanted: impl Fn(u8) -> bool + 'a) -> impl Iterator<Item = usize> + 'a {
        let mut at = 0;
        let mut doubled = false;
        std::iter::from_fn(move || {
            while let Some(&byte) = bytes.get(at) {
                let here = at;
                at += self.width(&bytes[here..], &mut doubled);
                if at == here + 1 && !doubled && wanted(byte) {
                    return Some(here);
                }
            }
            None
        })
    }

    /// Splits at a delimiter; without one, the whole is the only piece.
    pub fn split(self, bytes: &[u8], delimiter: Option<u8>) -> impl Iterator<Item = &[u8]> {
        let mut places = self.places(bytes, move |byte| Some(byte) == delimiter);
        let mut from = Some(0);
        std::iter::from_fn(move || {
            let start = from?;
            let end = places.next();
            from = end.map(|at| at + 1);
            Some(&bytes[start..end.unwrap_or(bytes.len())])
        })
    }

    /// Bytes of the character or escape sequence at the front.
    fn width(self, rest: &[u8], doubled: &mut bool) -> usize {
        let second = rest.get(1).copied();
        match (self, rest[0]) {
            (Stepping::Bytewise, _) => 1,
            (Stepping::ShiftJis, 0x81..=0x9f | 0xe0..=0xfc) => 1 + usize::from(matches!(second, Some(0x40..=0x7e | 0x80..=0xfc))),
            (Stepping::LeadAndTrail, 0x81..=0xfe) => match (second, rest.get(2), rest.get(3)) {
                (Some(0x30..=0x39), Some(0x81..=0xfe), Some(0x30..=0x39)) => 4,
                (Some(0x40..=0x7e | 0x80..=0xfe), _, _) => 2,
                _ => 1,
            },
            (Stepping::Escapes, 0x1b) => match rest {
                [_, b'$', b'(', _, ..] => self.shift(doubled, true, 4),
                [_, b'$', _, ..] => self.shift(doubled, true, 3),
                [_, b'(', _, ..] => self.shift(doubled, false, 3),
                _ => 1,
            },
            (Stepping::Escapes, 0x21..=0x7e) if *doubled => 1 + usize::from(matches!(second, Some(0x21..=0x7e))),
            (Stepping::ShiftJis | Stepping::LeadAndTrail | Stepping::Escapes, _) => 1,
        }
    }

    fn shift(self, doubled: &mut bool, to: bool, width: usize) -> usize {
        *doubled = to;
        width
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_of_table_0211_and_of_the_field() {
        for (name, encoding) in [
            ("8859/1", encoding_rs::WINDOWS_1252),
            ("8859/15", encoding_rs::ISO_8859_15),
            ("ISO-8859-2", encoding_rs::ISO_8859_2),
            ("windows-1252", encoding_rs::WINDOWS_1252),
            ("CP1251", encoding_rs::WINDOWS_1251),
            ("UNICODE UTF-8", encoding_rs::UTF_8),
            ("utf-8", encoding_rs::UTF_8),
            ("GB 18030-2000", encoding_rs::GB18030),
            ("Shift_JIS", encoding_rs::SHIFT_JIS),
            ("BIG-5", encoding_rs::BIG5),
            ("KS X 1001", encoding_rs::EUC_KR),
            ("EUC-JP", encoding_rs::EUC_JP),
            ("ISO IR87", encoding_rs::ISO_2022_JP),
        ] {
            assert_eq!(Charset::named(name.as_bytes()).encoding.map(Encoding::name), Some(encoding.name()), "{name}");
        }
        assert_eq!(Charset::named(b"no such set").encoding, None);
    }

    #[test]
    fn a_repetition_brings_escape_sequences() {
        assert_eq!(Charset::of_field(b"~ISO IR87", Some(b'~')).stepping, Stepping::Escapes);
        assert_eq!(Charset::of_field(b"ASCII~8859/1", Some(b'~')).stepping, Stepping::Bytewise);
        assert_eq!(Charset::of_field(b"", Some(b'~')), ASCII);
    }

    #[test]
    fn a_trail_byte_is_no_delimiter() {
        let po = [0x83, 0x7c, b'|', b'x'];
        assert_eq!(Stepping::ShiftJis.split(&po, Some(b'|')).collect::<Vec<_>>(), [&po[..2], b"x"]);
        let jis = b"\x1b$B!|!|\x1b(B|x";
        assert_eq!(Stepping::Escapes.split(jis, Some(b'|')).collect::<Vec<_>>(), [&b"\x1b$B!|!|\x1b(B"[..], b"x"]);
        // A lead byte before a real delimiter (a mislabelled message) does not swallow `&`.
        assert_eq!(Stepping::ShiftJis.split(b"\x83&x", Some(b'&')).count(), 2);
    }

    proptest! {
        /// Splitting the bytes gives what splitting the decoded text gives.
        #[test]
        fn agrees_with_the_decoder(text in prop::collection::vec(prop::sample::select("ポソ表能十构俞丂｢ｱab|^~\\é€中文字".chars().collect::<Vec<_>>()), 0..40), which in 0_usize..5) {
            let (encoding, stepping) = [
                (encoding_rs::SHIFT_JIS, Stepping::ShiftJis), (encoding_rs::GB18030, Stepping::LeadAndTrail), (encoding_rs::BIG5, Stepping::LeadAndTrail),
                (encoding_rs::ISO_2022_JP, Stepping::Escapes), (encoding_rs::UTF_8, Stepping::Bytewise),
            ][which];
            // Only characters the set has: others become numeric references, which hold no delimiter we look for but change the text.
            let text: String = text.into_iter().filter(|c| !encoding.encode(&c.to_string()).2).collect();
            let (bytes, _, _) = encoding.encode(&text);
            if encoding == encoding_rs::ISO_2022_JP {
                // Pieces of a stateful set do not decode alone: compare the count.
                prop_assert_eq!(stepping.split(&bytes, Some(b'|')).count(), text.split('|').count());
            } else {
                let pieces: Vec<String> = stepping.split(&bytes, Some(b'|')).map(|p| encoding.decode_without_bom_handling(p).0.into_owned()).collect();
                prop_assert_eq!(pieces, text.split('|').map(str::to_owned).collect::<Vec<_>>());
            }
        }
    }
}
