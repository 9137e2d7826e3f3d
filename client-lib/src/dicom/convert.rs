//! Converts a data set from one uncompressed transfer syntax to another as it streams by: implicit VR little endian, explicit VR little endian,
//! deflated explicit VR little endian, and explicit VR big endian as source.
//! Rules: constant memory (the output of one call stops growing beyond a chunk; what is left of the input is pushed again); encapsulated pixel data is
//! never decoded, so encapsulated and private syntaxes are not convertible. Between deflated and plain explicit little endian, bytes do not change.
//! Errors: `ConvertError`: the content is at fault, and no retry will mend it.

use crate::dicom::recode::{RecodeError, Recoder};
use crate::dicom::walker::{DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, Syntax};
use crate::limits::CHUNK_BYTES;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Bytes that pass from one stage to the next at once: small against a chunk, large against a call.
const PIECE_BYTES: usize = 32 << 10;

/// Why a conversion failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// Not between these two.
    #[error("transfer syntax {from} cannot be converted to {to}: only uncompressed ones can, and big endian is not written")]
    NotConvertible {
        /// Of the content.
        from: String,
        /// Wanted.
        to: String,
    },
    /// The data set could not be re-encoded.
    #[error(transparent)]
    Recode(#[from] RecodeError),
    /// The deflated stream is broken.
    #[error("the deflated data set is damaged at byte {at}")]
    Inflate {
        /// Offset in the deflated bytes.
        at: u64,
    },
    /// The deflated stream ended early.
    #[error("the deflated data set ends too early")]
    Cut,
    /// The compressor failed.
    #[error("the data set could not be deflated")]
    Deflate,
}

/// The transfer syntaxes that content in `from` can be sent in instead, best first; none for encapsulated and private ones.
#[must_use]
pub fn alternatives(from: &str) -> &'static [&'static str] {
    match from {
        IMPLICIT_LITTLE => &[EXPLICIT_LITTLE, DEFLATED],
        EXPLICIT_LITTLE => &[IMPLICIT_LITTLE, DEFLATED],
        DEFLATED => &[EXPLICIT_LITTLE, IMPLICIT_LITTLE],
        EXPLICIT_BIG => &[EXPLICIT_LITTLE, IMPLICIT_LITTLE, DEFLATED],
        _ => &[],
    }
}

/// A conversion on its way: `push` all input, then `finish` until it says it is done.
pub struct Converter {
    inflate: Option<Inflate>,
    recode: Option<Recoder>,
    deflate: Option<Compress>,
    piece: Vec<u8>,
    ended: bool,
}

struct Inflate {
    stream: Decompress,
    ended: bool,
}

impl Converter {
    /// A conversion between two transfer syntaxes.
    /// # Errors
    /// `NotConvertible`.
    pub fn new(from: &str, to: &str) -> Result<Self, ConvertError> {
        if !alternatives(from).contains(&to) {
            return Err(ConvertError::NotConvertible { from: from.to_owned(), to: to.to_owned() });
        }
        let (source, target) = (Syntax::of(from), Syntax::of(to));
        let recode = match (source, target) {
            (Some(source), Some(target)) if source != target => Some(Recoder::new(source, target)),
            _ => None,
        };
        Ok(Self {
            inflate: (from == DEFLATED).then(|| Inflate { stream: Decompress::new(false), ended: false }),
            recode,
            deflate: (to == DEFLATED).then(|| Compress::new(Compression::default(), false)),
            piece: Vec::new(),
            ended: false,
        })
    }

    /// Takes input, appends output. Returns how much it took: less than all when `out` holds a chunk; the rest is to be pushed when `out` is empty.
    /// # Errors
    /// `ConvertError`; the conversion is of no use afterwards.
    pub fn push(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, ConvertError> {
        let mut taken = 0;
        while taken < input.len() && out.len() < CHUNK_BYTES {
            taken += if self.inflate.is_some() {
                self.inflate_piece(&input[taken..], out)?
            } else {
                let piece = &input[taken..][..PIECE_BYTES.min(input.len() - taken)];
                recode_piece(self.recode.as_mut(), self.deflate.as_mut(), piece, out)?;
                piece.len()
            };
        }
        Ok(taken)
    }

    /// Ends it; false: `out` is full, call again when it is empty.
    /// # Errors
    /// `ConvertError`, also if the input must not end here.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<bool, ConvertError> {
        while let Some(inflate) = &self.inflate
            && !inflate.ended
        {
            if out.len() >= CHUNK_BYTES {
                return Ok(false);
            }
            let before = inflate.stream.total_out();
            self.inflate_piece(&[], out)?;
            if self.inflate.as_ref().is_some_and(|i| !i.ended && i.stream.total_out() == before) {
                return Err(ConvertError::Cut);
            }
        }
        if !self.ended {
            self.ended = true;
            let mut last = Vec::new();
            if let Some(recode) = &mut self.recode {
                recode.finish(&mut last)?;
            }
            match &mut self.deflate {
                None => out.append(&mut last),
                Some(deflate) => {
                    compress(deflate, &last, FlushCompress::None, out)?;
                    compress(deflate, &[], FlushCompress::Finish, out)?;
                    if deflate.total_out() % 2 == 1 {
                        out.push(0); // the data set has an even length (PS3.5 A.5)
                    }
                }
            }
        }
        Ok(true)
    }

    fn inflate_piece(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, ConvertError> {
        let Some(inflate) = &mut self.inflate else { return Ok(input.len()) };
        if inflate.ended {
            // Behind the end stands at most padding.
            return if input.iter().all(|b| *b == 0) { Ok(input.len()) } else { Err(ConvertError::Inflate { at: inflate.stream.total_in() }) };
        }
        let (taken, made) = (inflate.stream.total_in(), inflate.stream.total_out());
        self.piece.resize(PIECE_BYTES, 0);
        match inflate.stream.decompress(input, &mut self.piece, FlushDecompress::None) {
            Ok(status) => inflate.ended = status == Status::StreamEnd,
            Err(_) => return Err(ConvertError::Inflate { at: inflate.stream.total_in() }),
        }
        let taken = (inflate.stream.total_in() - taken) as usize;
        let made = (inflate.stream.total_out() - made) as usize;
        if taken == 0 && made == 0 && !inflate.ended && !input.is_empty() {
            return Err(ConvertError::Inflate { at: inflate.stream.total_in() });
        }
        recode_piece(self.recode.as_mut(), self.deflate.as_mut(), &self.piece[..made], out)?;
        Ok(taken)
    }
}

fn recode_piece(recode: Option<&mut Recoder>, deflate: Option<&mut Compress>, piece: &[u8], out: &mut Vec<u8>) -> Result<(), ConvertError> {
    match (recode, deflate) {
        (None, None) => out.extend_from_slice(piece),
        (Some(recode), None) => recode.push(piece, out)?,
        (None, Some(deflate)) => compress(deflate, piece, FlushCompress::None, out)?,
        (Some(recode), Some(deflate)) => {
            let mut recoded = Vec::with_capacity(2 * piece.len());
            recode.push(piece, &mut recoded)?;
            compress(deflate, &recoded, FlushCompress::None, out)?;
        }
    }
    Ok(())
}

fn compress(deflate: &mut Compress, mut input: &[u8], flush: FlushCompress, out: &mut Vec<u8>) -> Result<(), ConvertError> {
    let mut buffer = [0; 4096];
    loop {
        let (taken, made) = (deflate.total_in(), deflate.total_out());
        let status = deflate.compress(input, &mut buffer, flush).map_err(|_| ConvertError::Deflate)?;
        let (taken, made) = ((deflate.total_in() - taken) as usize, (deflate.total_out() - made) as usize);
        input = &input[taken..];
        out.extend_from_slice(&buffer[..made]);
        let done = if matches!(flush, FlushCompress::Finish) { status == Status::StreamEnd } else { input.is_empty() && made < buffer.len() };
        if done {
            return Ok(());
        }
        if taken == 0 && made == 0 {
            return Err(ConvertError::Deflate);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::dicom::dictionary::{Tag, Vr};
    use crate::dicom::walker::Malformed;
    use std::io::{Read, Write};

    /// A data set as a tree, encoded by other code than that under test.
    enum Node {
        Element(u32, &'static [u8; 2], Vec<u8>),
        Sequence(u32, Vec<Vec<Node>>),
    }
    use Node::{Element, Sequence};

    #[derive(Clone, Copy)]
    struct Form {
        syntax: Syntax,
        undefined: bool,
        /// As conversion writes it: no group lengths; VRs lost in implicit are those of the dictionary.
        converted: bool,
    }

    const fn form(syntax: Syntax, undefined: bool, converted: bool) -> Form {
        Form { syntax, undefined, converted }
    }

    fn header(syntax: Syntax, tag: u32, vr: &[u8; 2], length: u32) -> Vec<u8> {
        let big = syntax == Syntax::ExplicitBig;
        let two = |n: u16| if big { n.to_be_bytes() } else { n.to_le_bytes() };
        let four = |n: u32| if big { n.to_be_bytes() } else { n.to_le_bytes() };
        let mut out = [two((tag >> 16) as u16), two(tag as u16)].concat();
        match (syntax == Syntax::ImplicitLittle || tag >> 16 == 0xFFFE, Vr(*vr).has_long_length()) {
            (true, _) => out.extend(four(length)),
            (_, true) => [&vr[..], &[0, 0], &four(length)].iter().for_each(|part| out.extend(*part)),
            _ => [&vr[..], &two(length as u16)].iter().for_each(|part| out.extend(*part)),
        }
        out
    }

    fn container(form: Form, tag: u32, vr: &[u8; 2], inside: Vec<u8>, end: u32) -> Vec<u8> {
        if form.undefined {
            [header(form.syntax, tag, vr, u32::MAX), inside, header(form.syntax, end, b"  ", 0)].concat()
        } else {
            [header(form.syntax, tag, vr, inside.len() as u32), inside].concat()
        }
    }

    fn encode(nodes: &[Node], form: Form) -> Vec<u8> {
        let mut out = Vec::new();
        for node in nodes {
            match node {
                Element(tag, ..) if form.converted && Tag(*tag).is_group_length() => {}
                Element(tag, vr, value) => {
                    let mut value = value.clone();
                    if form.syntax == Syntax::ExplicitBig {
                        value.chunks_exact_mut(Vr(**vr).swap_unit()).for_each(<[u8]>::reverse);
                    }
                    out.extend(header(form.syntax, *tag, vr, value.len() as u32));
                    out.extend(value);
                }
                Sequence(tag, items) => {
                    let inside = items.iter().flat_map(|item| container(form, 0xFFFE_E000, b"  ", encode(item, form), 0xFFFE_E00D)).collect();
                    out.extend(container(form, *tag, b"SQ", inside, 0xFFFE_E0DD));
                }
            }
        }
        out
    }

    fn us(n: u16) -> Vec<u8> {
        n.to_le_bytes().to_vec()
    }

    /// Every width of number, nesting, an empty sequence, group lengths; without private elements, whose VR implicit encoding loses.
    fn sample() -> Vec<Node> {
        let deep = vec![Element(0x0008_1150, b"UI", b"1.2\0".to_vec()), Element(0x0008_1160, b"IS", b"1 ".to_vec())];
        vec![
            Element(0x0008_0000, b"UL", vec![9, 0, 0, 0]),
            Element(0x0008_0018, b"UI", b"1.2.3.4\0".to_vec()),
            Sequence(0x0008_1140, vec![vec![Sequence(0x0008_1199, vec![deep, Vec::new()])], vec![Element(0x0008_0060, b"CS", b"CT".to_vec())]]),
            Sequence(0x0008_2112, Vec::new()),
            Element(0x0018_9810, b"SS", us(0xFFFE)), // US or SS, before Pixel Representation
            Element(0x0018_9089, b"FD", (1..=24).collect()),
            Element(0x0020_9165, b"AT", vec![0x28, 0, 3, 1]),
            Element(0x0028_0100, b"US", us(16)),
            Element(0x0028_0103, b"US", us(1)),
            Element(0x0028_0106, b"SS", us(0x8001)),
            Element(0x0040_A132, b"UL", vec![1, 2, 3, 4]),
            Sequence(
                0x0088_0200,
                vec![vec![
                    Element(0x0028_0100, b"US", us(8)),
                    Element(0x0028_0103, b"US", us(0)),
                    Element(0x0028_0107, b"US", us(7)),
                    Element(0x7FE0_0010, b"OB", vec![5; 6]),
                ]],
            ),
            Element(0x0088_0906, b"ST", b"abcd".to_vec()),
            Element(0x7FE0_0010, b"OW", (0..=255).cycle().take(100_000).collect()),
        ]
    }

    fn convert(input: &[u8], from: &str, to: &str, size: usize) -> Result<Vec<u8>, ConvertError> {
        let (mut converter, mut whole, mut out) = (Converter::new(from, to)?, Vec::new(), Vec::new());
        for mut piece in input.chunks(size) {
            while !piece.is_empty() {
                piece = &piece[converter.push(piece, &mut out)?..];
                assert!(out.len() <= CHUNK_BYTES + 4 * PIECE_BYTES + 3 * crate::limits::DATASET_HEAD_BYTES_MAX);
                whole.append(&mut out);
            }
        }
        while !converter.finish(&mut out)? {
            whole.append(&mut out);
        }
        whole.append(&mut out);
        Ok(whole)
    }

    fn deflated(plain: &[u8]) -> Vec<u8> {
        let mut deflate = flate2::write::DeflateEncoder::new(Vec::new(), Compression::fast());
        deflate.write_all(plain).unwrap();
        let mut out = deflate.finish().unwrap();
        out.resize(out.len().next_multiple_of(2), 0);
        out
    }

    fn inflated(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        flate2::read::DeflateDecoder::new(bytes).read_to_end(&mut out).unwrap();
        out
    }

    #[test]
    fn every_direction_gives_the_same_data_set() {
        use Syntax::{ExplicitBig, ExplicitLittle, ImplicitLittle};
        let sample = sample();
        for (syntax, from) in [(ImplicitLittle, IMPLICIT_LITTLE), (ExplicitLittle, EXPLICIT_LITTLE), (ExplicitBig, EXPLICIT_BIG)] {
            for undefined in [true, false] {
                let input = encode(&sample, form(syntax, undefined, false));
                for size in [1, 7, 4096, 1 << 20] {
                    for (target, to) in [(ImplicitLittle, IMPLICIT_LITTLE), (ExplicitLittle, EXPLICIT_LITTLE)] {
                        if syntax != target {
                            let output = convert(&input, from, to, size).unwrap();
                            assert!(output == encode(&sample, form(target, true, true)), "{from} to {to}, undefined {undefined}, pieces of {size}");
                        }
                    }
                    if syntax != ExplicitLittle {
                        let output = convert(&input, from, DEFLATED, size).unwrap();
                        assert!(output.len().is_multiple_of(2));
                        assert!(inflated(&output) == encode(&sample, form(ExplicitLittle, true, true)), "{from} deflated");
                    }
                }
            }
        }
    }

    #[test]
    fn between_deflated_and_plain_bytes_stay() {
        let plain = encode(&sample(), form(Syntax::ExplicitLittle, false, false));
        for size in [1, 100, 1 << 20] {
            assert_eq!(convert(&deflated(&plain), DEFLATED, EXPLICIT_LITTLE, size).unwrap(), plain);
            assert_eq!(inflated(&convert(&plain, EXPLICIT_LITTLE, DEFLATED, size).unwrap()), plain);
        }
        let implicit = convert(&deflated(&plain), DEFLATED, IMPLICIT_LITTLE, 999).unwrap();
        assert!(implicit == encode(&sample(), form(Syntax::ImplicitLittle, true, true)));
    }

    #[test]
    fn a_highly_compressed_set_passes_in_constant_memory() {
        let mut plain = encode(&[Element(0x0008_0060, b"CS", b"CT".to_vec())], form(Syntax::ExplicitLittle, true, false));
        plain.extend(header(Syntax::ExplicitLittle, 0x7FE0_0010, b"OW", 50 << 20));
        plain.resize(plain.len() + (50 << 20), 0);
        assert_eq!(convert(&deflated(&plain), DEFLATED, EXPLICIT_LITTLE, 1 << 20).unwrap().len(), plain.len());
    }

    #[test]
    fn what_implicit_does_not_say_becomes_unknown() {
        let long = vec![b'1'; 65_536];
        let implicit = |tag, value: &[u8]| [header(Syntax::ImplicitLittle, tag, b"  ", value.len() as u32), value.to_vec()].concat();
        let explicit = |tag, vr, value: &[u8]| [header(Syntax::ExplicitLittle, tag, vr, value.len() as u32), value.to_vec()].concat();
        let input = [
            implicit(0x0009_0010, b"ME"),
            implicit(0x0009_1001, b"ab"),
            implicit(0x0018_1400, b"x "),
            implicit(0x0018_3106, &long),
            implicit(0x0028_FFF0, b"zz"),
        ];
        let expected = [
            explicit(0x0009_0010, b"LO", b"ME"),
            explicit(0x0009_1001, b"UN", b"ab"),
            explicit(0x0018_1400, b"LO", b"x "),
            explicit(0x0018_3106, b"UN", &long),
            explicit(0x0028_FFF0, b"UN", b"zz"),
        ];
        assert_eq!(convert(&input.concat(), IMPLICIT_LITTLE, EXPLICIT_LITTLE, 1000).unwrap(), expected.concat());
    }

    #[test]
    fn values_of_odd_length_are_padded_as_their_kind_wants_it() {
        let implicit = |tag, value: &[u8]| [header(Syntax::ImplicitLittle, tag, b"  ", value.len() as u32), value.to_vec()].concat();
        let input = [implicit(0x0008_0018, b"1.2"), implicit(0x0009_1001, b"x"), implicit(0x0010_0020, b"abc")].concat();
        let explicit = |tag, vr, value: &[u8]| [header(Syntax::ExplicitLittle, tag, vr, value.len() as u32), value.to_vec()].concat();
        let expected = [explicit(0x0008_0018, b"UI", b"1.2\0"), explicit(0x0009_1001, b"UN", b"x\0"), explicit(0x0010_0020, b"LO", b"abc ")].concat();
        for size in [1, 100] {
            assert_eq!(convert(&input, IMPLICIT_LITTLE, EXPLICIT_LITTLE, size).unwrap(), expected);
        }
    }

    #[test]
    fn an_unknown_sequence_keeps_its_items() {
        let implicit = form(Syntax::ImplicitLittle, true, false);
        let inside = container(implicit, 0xFFFE_E000, b"  ", encode(&[Element(0x0008_0060, b"CS", b"CT".to_vec())], implicit), 0xFFFE_E00D);
        let end = header(Syntax::ImplicitLittle, 0xFFFE_E0DD, b"  ", 0);
        let input = [header(Syntax::ExplicitBig, 0x0009_1001, b"UN", u32::MAX), inside, end].concat();
        let sequence = [Sequence(0x0009_1001, vec![vec![Element(0x0008_0060, b"CS", b"CT".to_vec())]])];
        assert_eq!(convert(&input, EXPLICIT_BIG, EXPLICIT_LITTLE, 5).unwrap(), encode(&sequence, form(Syntax::ExplicitLittle, true, true)));
    }

    #[test]
    fn what_cannot_be_converted_is_refused() {
        assert!(matches!(Converter::new("1.2.840.10008.1.2.4.50", EXPLICIT_LITTLE), Err(ConvertError::NotConvertible { .. })));
        assert!(matches!(Converter::new(IMPLICIT_LITTLE, EXPLICIT_BIG), Err(ConvertError::NotConvertible { .. })));
        let fragments =
            [header(Syntax::ExplicitLittle, 0x7FE0_0010, b"OB", u32::MAX), header(Syntax::ExplicitLittle, 0xFFFE_E000, b"  ", 0)].concat();
        assert_eq!(
            convert(&fragments, EXPLICIT_LITTLE, IMPLICIT_LITTLE, 99),
            Err(ConvertError::Recode(RecodeError::Encapsulated { tag: Tag::new(0x7FE0, 0x0010) }))
        );
    }

    #[test]
    fn a_cut_source_is_never_converted_whole() {
        let implicit = encode(&[Element(0x0008_0060, b"CS", b"CT".to_vec())], form(Syntax::ImplicitLittle, true, false));
        for cut in 1..implicit.len() {
            let result = convert(&implicit[..cut], IMPLICIT_LITTLE, EXPLICIT_LITTLE, 3);
            assert!(matches!(result, Err(ConvertError::Recode(RecodeError::Malformed(Malformed { .. })))), "cut at {cut}");
        }
        let packed = deflated(&encode(&sample(), form(Syntax::ExplicitLittle, true, false)));
        assert!(convert(&packed[..packed.len() / 2], DEFLATED, EXPLICIT_LITTLE, 4096).is_err());
        assert!(convert(&[packed, vec![1, 2]].concat(), DEFLATED, EXPLICIT_LITTLE, 4096).is_err());
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
        #[test]
        fn damaged_sets_do_no_harm(places in proptest::collection::vec((0usize..2000, proptest::num::u8::ANY), 1..8), big in proptest::bool::ANY) {
            let (syntax, from) = if big { (Syntax::ExplicitBig, EXPLICIT_BIG) } else { (Syntax::ImplicitLittle, IMPLICIT_LITTLE) };
            let mut input = encode(&sample(), form(syntax, false, false));
            for (place, byte) in places {
                let place = place % input.len();
                input[place] = byte;
            }
            for to in alternatives(from) {
                // Whole or refused; what came out whole can be walked.
                if let Ok(output) = convert(&input, from, to, 777) && *to == EXPLICIT_LITTLE {
                    proptest::prop_assert!(convert(&output, EXPLICIT_LITTLE, IMPLICIT_LITTLE, 333).is_ok());
                }
            }
            let _ = convert(&input, DEFLATED, IMPLICIT_LITTLE, 99);
        }
    }
}
