//! The demo's DICOM peers: a CT that sends slices, and receivers that keep their digests.
//! Rules: the CT keeps one association open, waits for each response, and sends the same slice again on a new association until it is stored. The
//! slices are synthetic: a disc in noise, patients invented.
//! Errors: `io::Error` ends an association; the CT opens the next one.

use super::reckoning::Ledger;
use everpost_client::dicom::association::{Association, Indication};
use everpost_client::dicom::dimse::{self, Command, Response, StoreRq};
use everpost_client::dicom::negotiate::{self, Acceptance, Agreed, Proposal};
use everpost_client::dicom::pdu;
use everpost_client::dicom::{status, uid};
use everpost_client::io::stop::Stop;
use everpost_client::limits::{COMMAND_BYTES_MAX, PDU_BYTES_DEFAULT};
use sha2::{Digest, Sha256};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// CT Image Storage.
const CT: &str = "1.2.840.10008.5.1.4.1.1.2";
/// Rows and columns of a slice.
const SIDE: u16 = 512;
/// Slices of a study.
const SLICES: u64 = 40;
/// How long the CT waits for an association or a response before it tries again.
const PATIENCE: Duration = Duration::from_secs(5);
/// Its pause after a failed try.
const PAUSE: Duration = Duration::from_millis(100);

/// Sends slices at a pace until the word comes; the one begun is sent to its end, for which there is `PATIENCE`.
pub(crate) async fn send(to: SocketAddr, run: u32, pace: Duration, ledger: Arc<Ledger>, stop: Stop) {
    let mut scanner: Option<Wire> = None;
    let mut number = 0;
    while !stop.stopped() {
        let slice = Slice::new(run, number);
        number += 1;
        ledger.sends(&slice.instance, Sha256::digest(&slice.bytes).into(), slice.study, slice.number);
        let mut give_up: Option<Instant> = None;
        loop {
            let begun = Instant::now();
            if timeout(PATIENCE, store(&mut scanner, to, &slice)).await.is_ok_and(|tried| tried.is_ok()) {
                ledger.answered(&slice.instance, begun);
                break;
            }
            scanner = None;
            if stop.stopped() && give_up.get_or_insert(begun).elapsed() > PATIENCE {
                return;
            }
            sleep(PAUSE).await;
        }
        tokio::select! {
            () = sleep(pace) => {}
            () = stop.wait() => {}
        }
    }
    if let Some(mut scanner) = scanner
        && scanner.association.release().is_ok()
    {
        // A courtesy: the association ends either way.
        let _ = timeout(PAUSE, async {
            scanner.flush().await?;
            scanner.next().await
        })
        .await;
    }
}

async fn store(scanner: &mut Option<Wire>, to: SocketAddr, slice: &Slice) -> io::Result<()> {
    let wire = match scanner {
        Some(wire) => wire,
        None => scanner.insert(associate(to).await?),
    };
    let context = wire.agreed.as_ref().and_then(|agreed| agreed.find(CT, uid::EXPLICIT_LE)).map(|context| context.id).ok_or_else(broken)?;
    wire.message_id = wire.message_id.wrapping_add(1);
    let request = StoreRq { message_id: wire.message_id, sop_class: CT.into(), sop_instance: slice.instance.clone(), ..StoreRq::default() };
    wire.association.send_command(context, &dimse::encode_store_rq(&request)).map_err(|_| broken())?;
    let most = wire.association.peer_max_pdu();
    pdu::encode_data(wire.association.output(), context, false, &slice.bytes, most);
    wire.flush().await?;
    match wire.command().await? {
        Some((_, Command::Response { response, .. })) if response.status == status::SUCCESS && response.message_id == wire.message_id => Ok(()),
        _ => Err(broken()),
    }
}

async fn associate(to: SocketAddr) -> io::Result<Wire> {
    let proposal = Proposal {
        calling_ae: "DEMO_CT".into(),
        called_ae: "EVERPOST".into(),
        contexts: vec![(CT.into(), vec![uid::EXPLICIT_LE.into()])],
        max_pdu: PDU_BYTES_DEFAULT,
        window: 1,
    };
    let request = negotiate::propose(&proposal).map_err(|_| broken())?;
    let association = Association::requesting(request.clone(), PDU_BYTES_DEFAULT);
    let mut wire = Wire::new(TcpStream::connect(to).await?, association)?;
    wire.flush().await?;
    match wire.next().await? {
        Indication::Accepted(accepted) => {
            wire.agreed = Some(negotiate::agree(&request, &accepted));
            Ok(wire)
        }
        _ => Err(broken()),
    }
}

/// Takes objects and answers 0000H until the connection ends.
pub(crate) async fn receive(tcp: TcpStream, name: &'static str, ledger: &Ledger) -> io::Result<()> {
    let mut wire = Wire::new(tcp, Association::accepting(PDU_BYTES_DEFAULT))?;
    let Indication::Requested(request) = wire.next().await? else { return Ok(()) };
    match negotiate::accept(&Acceptance::default(), &request) {
        Ok((accepted, _)) => wire.association.accept(accepted),
        Err(reject) => wire.association.reject(reject),
    }
    .map_err(|_| broken())?;
    wire.flush().await?;
    while let Some((context, command)) = wire.command().await? {
        let response = match command {
            Command::StoreRq { request, .. } => {
                let digest = wire.data_set().await?;
                ledger.arrived(name, request.sop_instance.clone(), digest);
                let (sop_class, sop_instance) = (Some(request.sop_class), Some(request.sop_instance));
                Response { command_field: dimse::C_STORE_RSP, message_id: request.message_id, sop_class, sop_instance, ..Response::default() }
            }
            Command::EchoRq { message_id, .. } => {
                Response { command_field: dimse::C_ECHO_RSP, message_id, sop_class: Some(uid::VERIFICATION.into()), ..Response::default() }
            }
            Command::Response { .. } | Command::OtherRq { .. } => return Err(broken()),
        };
        wire.association.send_command(context, &dimse::encode_response(&response)).map_err(|_| broken())?;
        wire.flush().await?;
    }
    Ok(())
}

fn broken() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

/// An association on its connection.
#[derive(Debug)]
struct Wire {
    tcp: TcpStream,
    association: Association,
    agreed: Option<Agreed>,
    message_id: u16,
}

impl Wire {
    fn new(tcp: TcpStream, association: Association) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        Ok(Self { tcp, association, agreed: None, message_id: 0 })
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.tcp.write_all(self.association.output()).await?;
        self.association.output().clear();
        Ok(())
    }

    async fn next(&mut self) -> io::Result<Indication> {
        loop {
            if let Some(indication) = self.association.poll() {
                return Ok(indication);
            }
            if self.association.over() || self.tcp.read_buf(self.association.space()).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// The next command; `None` when the peer has released.
    async fn command(&mut self) -> io::Result<Option<(u8, Command)>> {
        let mut set = Vec::new();
        loop {
            match self.next().await? {
                Indication::Data(piece) if piece.command && set.len() + piece.data.len() <= COMMAND_BYTES_MAX => {
                    set.extend_from_slice(&piece.data);
                    if piece.last {
                        return dimse::decode(&set).map(|command| Some((piece.context, command))).map_err(|_| broken());
                    }
                }
                Indication::ReleaseRequested => {
                    self.association.respond_release().map_err(|_| broken())?;
                    self.flush().await?;
                    return Ok(None);
                }
                _ => return Err(broken()),
            }
        }
    }

    /// Reads a data set and gives its digest; the bytes are not kept.
    async fn data_set(&mut self) -> io::Result<[u8; 32]> {
        let mut digest = Sha256::new();
        loop {
            match self.next().await? {
                Indication::Data(piece) if !piece.command => {
                    digest.update(&piece.data);
                    if piece.last {
                        return Ok(digest.finalize().into());
                    }
                }
                _ => return Err(broken()),
            }
        }
    }
}

/// One slice: a data set in explicit VR little endian.
struct Slice {
    instance: String,
    study: u64,
    number: u64,
    bytes: Vec<u8>,
}

impl Slice {
    fn new(run: u32, count: u64) -> Self {
        let (study, number) = (count / SLICES + 1, count % SLICES + 1);
        // UIDs derived from a number of 128 bits (PS3.5 B.2); the upper part marks the demo.
        let root = format!("2.25.{}", 0xDE30_0000_0000_4000_8000_0000_0000_0000_u128 | u128::from(run));
        let instance = format!("{root}.{study}.1.{number}");
        let mut bytes = Vec::with_capacity(usize::from(SIDE) * usize::from(SIDE) * 2 + 1024);
        let mut text = |group: u16, element: u16, vr: &[u8; 2], value: &str| {
            let pad = if vr == b"UI" { 0 } else { b' ' };
            element_head(&mut bytes, group, element, vr, value.len().next_multiple_of(2));
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend(std::iter::repeat_n(pad, value.len() % 2));
        };
        text(0x0008, 0x0005, b"CS", "ISO_IR 192");
        text(0x0008, 0x0008, b"CS", "ORIGINAL\\PRIMARY\\AXIAL");
        text(0x0008, 0x0016, b"UI", CT);
        text(0x0008, 0x0018, b"UI", &instance);
        text(0x0008, 0x0020, b"DA", "20260101");
        text(0x0008, 0x0050, b"SH", &format!("A{study}"));
        text(0x0008, 0x0060, b"CS", "CT");
        text(0x0008, 0x0070, b"LO", "Everpost demo");
        text(0x0010, 0x0010, b"PN", &format!("Demo^Patient {study}"));
        text(0x0010, 0x0020, b"LO", &format!("D{study}"));
        text(0x0020, 0x000D, b"UI", &format!("{root}.{study}"));
        text(0x0020, 0x000E, b"UI", &format!("{root}.{study}.1"));
        text(0x0020, 0x0013, b"IS", &number.to_string());
        number16(&mut bytes, 0x0028, 0x0002, 1);
        element_head(&mut bytes, 0x0028, 0x0004, b"CS", 12);
        bytes.extend_from_slice(b"MONOCHROME2 ");
        for (element, value) in [(0x0010, SIDE), (0x0011, SIDE), (0x0100, 16), (0x0101, 12), (0x0102, 11), (0x0103, 0)] {
            number16(&mut bytes, 0x0028, element, value);
        }
        pixels(&mut bytes, u64::from(run) << 32 | count);
        Self { instance, study, number, bytes }
    }
}

fn element_head(out: &mut Vec<u8>, group: u16, element: u16, vr: &[u8; 2], length: usize) {
    out.extend_from_slice(&group.to_le_bytes());
    out.extend_from_slice(&element.to_le_bytes());
    out.extend_from_slice(vr);
    out.extend_from_slice(&(length as u16).to_le_bytes());
}

fn number16(out: &mut Vec<u8>, group: u16, element: u16, value: u16) {
    element_head(out, group, element, b"US", 2);
    out.extend_from_slice(&value.to_le_bytes());
}

/// A disc in noise, never the same twice.
fn pixels(out: &mut Vec<u8>, seed: u64) {
    let length = u32::from(SIDE) * u32::from(SIDE) * 2;
    out.extend_from_slice(&[0xE0, 0x7F, 0x10, 0x00, b'O', b'W', 0, 0]);
    out.extend_from_slice(&length.to_le_bytes());
    let mut noise = fastrand::Rng::with_seed(seed);
    let middle = i32::from(SIDE) / 2;
    for y in 0..i32::from(SIDE) {
        for x in 0..i32::from(SIDE) {
            let inside = (x - middle).pow(2) + (y - middle).pow(2) < (middle * 3 / 4).pow(2);
            let value = if inside { 1000 } else { 0 } + noise.u16(..64);
            out.extend_from_slice(&value.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use everpost_client::dicom::walker;
    use everpost_client::keys::{Key, Keys};

    #[test]
    fn a_slice_is_a_data_set_that_names_itself() {
        let slice = Slice::new(7, 41);
        let mut keys = Keys::new();
        walker::read_keys(&slice.bytes, uid::EXPLICIT_LE, &mut keys);
        assert_eq!((slice.study, slice.number), (2, 2));
        assert_eq!(keys.text(Key::Modality), "CT");
        assert_eq!(keys.text(Key::Patient), "D2");
        assert!(slice.instance.starts_with(&keys.text(Key::Study)) && slice.instance.len() <= 64);
        assert!(slice.bytes.len() > 512 * 1024);
        assert_ne!(Slice::new(7, 40).bytes, slice.bytes);
    }
}
