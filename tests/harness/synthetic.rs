//! Synthetic messages and images: invented patients only, every byte determined by the arguments.
//! Rules: HL7 texts hold characters of their character set, those included whose second byte is an HL7 delimiter (`|`, `\`, `^` in Shift-JIS and
//! GB18030); images are noise, so that nothing compresses them away.
//! Errors: panics where a tool that makes a sample is missing.

use crate::dicom::{CT, EXPLICIT, IMPLICIT};
use crate::process::run;
use crate::world::World;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A character set: MSH-18 and some text in it.
#[derive(Debug, Clone, Copy)]
pub struct Charset {
    /// MSH-18.
    pub name: &'static str,
    /// Bytes that mean something in it.
    pub text: &'static [u8],
}

/// Five character sets; the names in the last two hold bytes that look like delimiters.
pub const CHARSETS: [Charset; 5] = [
    Charset { name: "UNICODE UTF-8", text: "Müller^Jürgen 山田^太郎 Łukasz".as_bytes() },
    Charset { name: "8859/1", text: b"M\xfcller^J\xfcrgen \xe9\xe8\xdf" },
    Charset { name: "WINDOWS-1252", text: b"O\x92Brien \x80 \x84quoted\x93 \x9cuvre" },
    Charset { name: "SHIFT-JIS", text: b"\x83\x5c\x83\x7c\x95\x5c\x8e\x52\x93\x63 \x91\xbe\x98\x59 \x89\x7c" },
    Charset { name: "GB 18030-2000", text: b"\xd5\xc5\x81\x7c\x81\x5c\x81\x5e \x81\x30\x89\x38 \xcd\xf5" },
];

/// An ORU^R01 of about `size` bytes (never less than its 300 bytes of frame), for patient `patient`.
#[must_use]
pub fn oru(id: &str, patient: usize, size: usize, charset: Charset) -> Vec<u8> {
    message("ORU^R01^ORU_R01", id, patient, size, charset)
}

/// A message of any type.
#[must_use]
pub fn message(kind: &str, id: &str, patient: usize, size: usize, charset: Charset) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size + 512);
    let head = format!("MSH|^~\\&|LAB|WARD|RIS|HOSPITAL|20261120083000||{kind}|{id}|P|2.5|||||DEU|{}\r", charset.name);
    bytes.extend_from_slice(head.as_bytes());
    bytes.extend_from_slice(format!("PID|1||P{patient:06}^^^HOSPITAL^PI||").as_bytes());
    bytes.extend_from_slice(charset.text);
    bytes.extend_from_slice(b"||19700101|F\rOBR|1|A1|B2|CHEM^Chemistry\r");
    let mut line = 0;
    while bytes.len() < size {
        line += 1;
        bytes.extend_from_slice(format!("OBX|{line}|ST|{line}^Text||").as_bytes());
        let room = size.saturating_sub(bytes.len()).clamp(1, 4096);
        let mut text: Vec<u8> = charset.text.iter().copied().cycle().take(room / charset.text.len() * charset.text.len()).collect();
        while text.len() < room.saturating_sub(20) {
            text.push(b'0' + u8::try_from(text.len() % 10).unwrap_or(0));
        }
        bytes.extend_from_slice(&text);
        bytes.extend_from_slice(b"||||||F\r");
    }
    bytes
}

/// A small message.
#[must_use]
pub fn small(id: &str) -> Vec<u8> {
    oru(id, 1, 400, CHARSETS[0])
}

/// A UID below a root for tests; unique per (series, number).
#[must_use]
pub fn instance(series: u64, number: u64) -> String {
    format!("1.2.826.0.1.3680043.10.511.{series}.{number}")
}

/// A private SOP class.
pub const PRIVATE_CLASS: &str = "1.3.12.2.1107.5.9.1";
/// A private transfer syntax.
pub const PRIVATE_SYNTAX: &str = "1.2.826.0.1.3680043.10.511.99.1";

/// Builds data sets element by element.
#[derive(Debug, Clone)]
pub struct DataSet {
    bytes: Vec<u8>,
    implicit: bool,
}

impl DataSet {
    /// Explicit VR little endian.
    #[must_use]
    pub fn explicit() -> Self {
        Self { bytes: Vec::new(), implicit: false }
    }

    /// Implicit VR little endian.
    #[must_use]
    pub fn implicit() -> Self {
        Self { bytes: Vec::new(), implicit: true }
    }

    /// An element. `length`: `None` for the value's own, or what the length field shall say.
    #[must_use]
    pub fn with(mut self, group: u16, element: u16, vr: &str, value: &[u8], length: Option<u32>) -> Self {
        self.bytes.extend_from_slice(&group.to_le_bytes());
        self.bytes.extend_from_slice(&element.to_le_bytes());
        let length = length.unwrap_or_else(|| u32::try_from(value.len()).expect("a value below 4 GiB"));
        if self.implicit || group == 0xfffe {
            self.bytes.extend_from_slice(&length.to_le_bytes());
        } else if ["OB", "OW", "OF", "SQ", "UN", "UT", "OD", "OL", "UC", "UR"].contains(&vr) {
            self.bytes.extend_from_slice(vr.as_bytes());
            self.bytes.extend_from_slice(&[0, 0]);
            self.bytes.extend_from_slice(&length.to_le_bytes());
        } else {
            self.bytes.extend_from_slice(vr.as_bytes());
            self.bytes.extend_from_slice(&u16::try_from(length).expect("a short value").to_le_bytes());
        }
        self.bytes.extend_from_slice(value);
        self
    }

    /// A text element, padded to even length.
    #[must_use]
    pub fn text(self, group: u16, element: u16, vr: &str, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        if bytes.len() % 2 == 1 {
            bytes.push(if vr == "UI" { 0 } else { b' ' });
        }
        self.with(group, element, vr, &bytes, None)
    }

    /// A 16-bit number.
    #[must_use]
    pub fn number(self, group: u16, element: u16, value: u16) -> Self {
        self.with(group, element, "US", &value.to_le_bytes(), None)
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Noise that depends on the seed alone.
#[must_use]
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; length];
    random.fill(&mut bytes);
    bytes
}

/// The head of an image: everything before the pixel data.
#[must_use]
pub fn image_head(empty: DataSet, class: &str, instance: &str, patient: &str, study: &str, rows: u16, columns: u16) -> DataSet {
    empty
        .text(0x0008, 0x0005, "CS", "ISO_IR 100")
        .text(0x0008, 0x0008, "CS", "ORIGINAL\\PRIMARY")
        .text(0x0008, 0x0016, "UI", class)
        .text(0x0008, 0x0018, "UI", instance)
        .text(0x0008, 0x0020, "DA", "20261120")
        .text(0x0008, 0x0050, "SH", "ACC1")
        .text(0x0008, 0x0060, "CS", "CT")
        .text(0x0010, 0x0010, "PN", "TEST^SYNTHETIC")
        .text(0x0010, 0x0020, "LO", patient)
        .text(0x0020, 0x000d, "UI", study)
        .text(0x0020, 0x000e, "UI", &format!("{study}.1"))
        .text(0x0020, 0x0010, "SH", "1")
        .text(0x0020, 0x0013, "IS", "1")
        .number(0x0028, 0x0002, 1)
        .text(0x0028, 0x0004, "CS", "MONOCHROME2")
        .number(0x0028, 0x0010, rows)
        .number(0x0028, 0x0011, columns)
        .number(0x0028, 0x0100, 16)
        .number(0x0028, 0x0101, 16)
        .number(0x0028, 0x0102, 15)
        .number(0x0028, 0x0103, 0)
}

/// A CT data set in explicit VR little endian with about `pixels` bytes of pixel data.
#[must_use]
pub fn ct(instance: &str, seed: u64, pixels: usize) -> Vec<u8> {
    let pixels = pixels.max(2) & !1;
    let study = format!("1.2.826.0.1.3680043.10.511.7.{}", seed % 17);
    let columns = u16::try_from((pixels / 2).min(512)).unwrap_or(512);
    let rows = u16::try_from(pixels / 2 / usize::from(columns)).unwrap_or(u16::MAX);
    image_head(DataSet::explicit(), CT, instance, "P000001", &study, rows, columns).with(0x7fe0, 0x0010, "OW", &noise(seed, pixels), None).bytes()
}

/// A Part-10 file around a data set.
#[must_use]
pub fn part10_file(class: &str, instance: &str, syntax: &str, data_set: &[u8]) -> Vec<u8> {
    let meta = DataSet::explicit()
        .with(2, 1, "OB", &[0, 1], None)
        .text(2, 2, "UI", class)
        .text(2, 3, "UI", instance)
        .text(2, 0x10, "UI", syntax)
        .text(2, 0x12, "UI", "1.2.826.0.1.3680043.10.511")
        .bytes();
    let length = u32::try_from(meta.len()).expect("a small group");
    let mut file = vec![0; 128];
    file.extend_from_slice(b"DICM");
    file.extend(DataSet::explicit().with(2, 0, "UL", &length.to_le_bytes(), None).bytes());
    file.extend(meta);
    file.extend_from_slice(data_set);
    file
}

/// A sample file.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Its path.
    pub path: PathBuf,
    /// Transfer syntax.
    pub syntax: String,
    /// SOP class.
    pub class: String,
    /// SOP instance.
    pub instance: String,
}

/// One file per kind of encoding: implicit, explicit, big endian, deflated, JPEG baseline and lossless, JPEG-LS, RLE, JPEG 2000, an explicit one with
/// undefined-length sequences and odd-length values, a private SOP class. Made by DCMTK and GDCM where a codec is needed.
#[must_use]
pub fn samples(world: &World, series: u64) -> Vec<Sample> {
    let folder = world.folder(&format!("samples-{series}"));
    let mut list = Vec::new();
    let mut number = 0;
    let mut next = |kind: &str| {
        number += 1;
        (instance(series, number), folder.join(format!("{number:02}-{kind}.dcm")))
    };
    let image = |id: &str, set: DataSet, bits8: bool| picture(id, set, bits8);
    let mut plain = |kind: &str, syntax: &str, set: DataSet| {
        let (id, path) = next(kind);
        std::fs::write(&path, part10_file(CT, &id, syntax, &image(&id, set, false))).expect("a sample");
        path
    };
    let implicit = plain("implicit", IMPLICIT, DataSet::implicit());
    let explicit = plain("explicit", EXPLICIT, DataSet::explicit());
    list.extend([implicit, explicit]);
    for (kind, eight, tool, options) in [
        ("big-endian", false, "dcmconv", &["+tb"][..]),
        ("deflated", false, "dcmconv", &["+td"]),
        ("jpeg-baseline", true, "dcmcjpeg", &["+eb", "+un"]),
        ("jpeg-lossless", false, "dcmcjpeg", &["+e1", "+un"]),
        ("jpeg-ls", false, "dcmcjpls", &["+un"]),
        ("rle", false, "dcmcrle", &["+un"]),
        ("jpeg-2000", false, "gdcmconv", &["--j2k"]),
    ] {
        let (id, path) = next(kind);
        let source = folder.join(format!("{kind}.tmp"));
        std::fs::write(&source, part10_file(CT, &id, EXPLICIT, &image(&id, DataSet::explicit(), eight))).expect("a sample's source");
        let options: Vec<&str> = options.iter().copied().filter(|o| *o != "+un").collect(); // +un keeps the UID, which DCMTK does by default
        run(Command::new(tool).args(options).arg(&source).arg(&path), 60);
        std::fs::remove_file(&source).expect("a sample's source");
        list.push(path);
    }
    let (id, path) = next("sequences");
    std::fs::write(&path, part10_file(CT, &id, EXPLICIT, &nested(&id))).expect("a sample");
    list.push(path);
    list.iter().map(|path| sample(path)).collect()
}

/// Reads what a sample is.
#[must_use]
pub fn sample(path: &Path) -> Sample {
    let file = crate::dicom::part10(path);
    Sample { path: path.to_owned(), syntax: file.transfer_syntax, class: file.class, instance: file.instance }
}

/// A smooth picture with some noise, 64 x 64, so that every codec takes it.
fn picture(id: &str, set: DataSet, eight_bits: bool) -> Vec<u8> {
    let head = image_head(set, CT, id, "P000002", "1.2.826.0.1.3680043.10.511.8", 64, 64);
    let salt = id.bytes().map(u64::from).sum::<u64>();
    let values = (0..64_u32 * 64).zip(noise(salt, 4096)).map(|(i, n)| i / 64 + i % 64 + u32::from(n % 8));
    if eight_bits {
        let text = head.bytes();
        // Bits allocated, stored, high bit: 8, 8, 7 instead of 16, 16, 15.
        let set = patch(text, &[(0x0100, 8), (0x0101, 8), (0x0102, 7)]);
        let pixels: Vec<u8> = values.map(|v| u8::try_from(v.min(255)).unwrap_or(255)).collect();
        return DataSet { bytes: set, implicit: false }.with(0x7fe0, 0x0010, "OB", &pixels, None).bytes();
    }
    let pixels: Vec<u8> = values.flat_map(|v| u16::try_from(v).unwrap_or(u16::MAX).to_le_bytes()).collect();
    head.with(0x7fe0, 0x0010, "OW", &pixels, None).bytes()
}

/// Sets 16-bit values of group 0028 in explicit little endian.
fn patch(mut bytes: Vec<u8>, values: &[(u16, u16)]) -> Vec<u8> {
    for (element, value) in values {
        let mut head = vec![0x28, 0];
        head.extend_from_slice(&element.to_le_bytes());
        head.extend_from_slice(b"US\x02\x00");
        let at = bytes.windows(8).position(|w| w == head).expect("an element of the head");
        bytes[at + 8..at + 10].copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

/// Undefined-length sequences three deep, odd-length values, a private group, an element of undefined length in UN.
fn nested(id: &str) -> Vec<u8> {
    const UNDEFINED: Option<u32> = Some(u32::MAX);
    let item = |set: DataSet| set.with(0xfffe, 0xe000, "", &[], UNDEFINED);
    let end_item = |set: DataSet| set.with(0xfffe, 0xe00d, "", &[], None);
    let end = |set: DataSet| set.with(0xfffe, 0xe0dd, "", &[], None);
    let mut set = image_head(DataSet::explicit(), CT, id, "P000003", "1.2.826.0.1.3680043.10.511.9", 16, 16);
    set = set.with(0x0029, 0x0010, "LO", b"EVERPOST TEST ", None).with(0x0029, 0x1001, "UN", b"odd", None);
    set = set.with(0x0040, 0x0275, "SQ", &[], UNDEFINED);
    set = item(set).with(0x0040, 0x0007, "LO", b"odd", None).with(0x0040, 0x0008, "SQ", &[], UNDEFINED);
    set = item(set).text(0x0008, 0x0100, "SH", "CODE").with(0x0040, 0xa043, "SQ", &[], UNDEFINED);
    set = end(end_item(item(set).text(0x0008, 0x0104, "LO", "deep")));
    set = end(end_item(set));
    set = end(end_item(set));
    set.with(0x7fe0, 0x0010, "OW", &noise(9, 512), None).bytes()
}

/// A file of a private SOP class in explicit VR little endian.
#[must_use]
pub fn private_class(world: &World, series: u64, syntax: &str) -> Sample {
    let id = instance(series, if syntax == EXPLICIT { 901 } else { 902 });
    let set = image_head(DataSet::explicit(), PRIVATE_CLASS, &id, "P000004", "1.2.826.0.1.3680043.10.511.10", 8, 8);
    // DCMTK refuses fragments of odd length, so only the syntax that it does not know anyway gets one.
    let size = if syntax == EXPLICIT { 1_002 } else { 1_001 };
    let bytes = set.with(0x7fe1, 0x1010, "OB", &noise(5, size), None).bytes();
    let path = world.write(&format!("private-{series}-{}.dcm", syntax.len()), part10_file(PRIVATE_CLASS, &id, syntax, &bytes));
    sample(&path)
}

/// Writes `number` CT files of about `size` bytes; gives their paths.
#[must_use]
pub fn ct_files(world: &World, folder: &str, series: u64, number: u64, size: usize) -> Vec<PathBuf> {
    let dir = world.folder(folder);
    let one = |n| {
        let id = instance(series, n);
        let path = dir.join(format!("{n:05}.dcm"));
        std::fs::write(&path, part10_file(CT, &id, EXPLICIT, &ct(&id, n, size))).expect("a CT file");
        path
    };
    (0..number).map(one).collect()
}
