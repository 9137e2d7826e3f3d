//! Hostile input: random bytes, slow senders, thousands of half-open connections, lies in every length field, endless blocks, deep sequences, PDUs in the
//! wrong order. No crash, no unbounded memory; others, and connections already open, go on unaffected.

use harness::config::{dicom_destination, dicom_listener, mllp_destination, mllp_listener, route};
use harness::dicom::{self, EXPLICIT, frame, item, pdu, read_pdu};
use harness::mllp::{Client, Server};
use harness::synthetic::{self, DataSet, ct, instance};
use harness::{Gateway, World, dicom_scp, sha256, until, world};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

struct Victim {
    gateway: Gateway,
    hl7: SocketAddr,
    images: SocketAddr,
    sink: Server,
    scp: dicom_scp::Scp,
    witness: Client,
    number: u64,
    _world: World,
}

impl Victim {
    fn new(name: &str, mllp_more: &str, dicom_more: &str) -> Self {
        let world = World::new(name);
        let (hl7, images) = (world::port(), world::port());
        let (sink, scp) = (Server::start(), dicom_scp::Scp::start());
        let text = mllp_listener("ris-in", hl7, mllp_more)
            + &dicom_listener("modalities", images, dicom_more)
            + &mllp_destination("ris", "", &[("sink", sink.address())])
            + &dicom_destination("pacs", "", &[("scp", scp.address())])
            + &route("ris-in", &["ris"], "")
            + &route("modalities", &["pacs"], "");
        let gateway = Gateway::start(&world, "gateway", &text);
        let (hl7, images) = (loopback(hl7), loopback(images));
        let witness = Client::connect(hl7).expect("the witness connects before the attack");
        Self { gateway, hl7, images, sink, scp, witness, number: 0, _world: world }
    }

    /// A connection that was open before, a new one, and an association: all are served.
    #[track_caller]
    fn serves(&mut self, what: &str) {
        self.number += 1;
        let id = format!("WITNESS-{:04}", self.number);
        let ack = self.witness.send(&synthetic::small(&id)).unwrap_or_else(|e| panic!("{what}: the open connection: {e}"));
        assert!(ack.positive(), "{what}: {ack:?}");
        let mut fresh = Client::connect(self.hl7).unwrap_or_else(|e| panic!("{what}: a new connection: {e}"));
        assert!(
            fresh
                .send(&synthetic::small(&format!("FRESH-{:04}", self.number)))
                .unwrap_or_else(|e| panic!("{what}: a new connection: {e}"))
                .positive()
        );
        let mut association = dicom::Association::open(self.images, "EVERPOST", "TEST", &dicom::propose(dicom::CT, EXPLICIT))
            .unwrap_or_else(|e| panic!("{what}: a new association: {e}"));
        let uid = instance(140, self.number);
        assert_eq!(association.store(dicom::CT, &uid, &ct(&uid, 1, 10_000)).unwrap_or_else(|e| panic!("{what}: a store: {e}")), 0);
        association.release().unwrap_or_else(|e| panic!("{what}: a release: {e}"));
        self.fine(what);
    }

    #[track_caller]
    fn fine(&mut self, what: &str) {
        assert!(self.gateway.process().runs(), "{what}: the gateway is gone");
        let peak = self.gateway.process().memory("VmHWM");
        assert!(peak < 300 * MIB, "{what}: {} MiB", peak / MIB);
        assert!(!self.gateway.log().contains("panicked"), "{what}: a panic in the log");
    }

    /// Sends bytes to a listener and reads until it closes or `millis` pass; gives what came back and whether it closed.
    fn throw(&self, at: SocketAddr, bytes: &[u8], millis: u64) -> (Vec<u8>, bool) {
        let Ok(mut stream) = TcpStream::connect(at) else { return (Vec::new(), true) };
        let _ = stream.set_read_timeout(Some(Duration::from_millis(millis)));
        let _ = stream.set_write_timeout(Some(Duration::from_secs(5)));
        let _ = stream.write_all(bytes);
        let mut got = Vec::new();
        let mut part = [0; 4096];
        loop {
            match stream.read(&mut part) {
                Ok(0) => return (got, true),
                Ok(n) => got.extend_from_slice(&part[..n]),
                Err(e) => return (got, e.kind() == std::io::ErrorKind::ConnectionReset),
            }
        }
    }
}

#[test]
fn random_bytes() {
    let mut v = Victim::new("hostile-random", "", "");
    for seed in 0..60 {
        let bytes = synthetic::noise(seed, 1 + (seed as usize * 977) % 100_000);
        v.throw(v.hl7, &bytes, 20);
        v.throw(v.images, &bytes, 20);
        // Random bytes behind a good beginning go deeper.
        v.throw(v.hl7, &[&b"\x0bMSH|^~\\&|"[..], &bytes, b"\x1c\r"].concat(), 20);
        let mut request = frame(pdu::ASSOCIATE_RQ, &dicom::associate_rq("EVERPOST", "EVIL", &dicom::propose(dicom::CT, EXPLICIT), 16_384, None));
        request.extend_from_slice(&frame(pdu::DATA, &bytes[..bytes.len().min(20_000)]));
        v.throw(v.images, &request, 20);
    }
    v.serves("random bytes");
    until("the witness's messages arrive", 20, || v.sink.ids().contains(&"WITNESS-0001".to_owned()) && v.scp.count() >= 1);
}

#[test]
fn mutated_association_requests_and_stores() {
    let mut v = Victim::new("hostile-mutated", "", "");
    let contexts = vec![
        (dicom::CT.to_owned(), vec![EXPLICIT.to_owned(), dicom::IMPLICIT.to_owned()]),
        (dicom::VERIFICATION.to_owned(), vec![dicom::IMPLICIT.to_owned()]),
    ];
    let good = frame(pdu::ASSOCIATE_RQ, &dicom::associate_rq("EVERPOST", "EVIL", &contexts, 16_384, Some((4, 4))));
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..300 {
        let mut bytes = good.clone();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(6..bytes.len());
            bytes[at] = random.u8(..);
        }
        if random.bool() {
            bytes.truncate(random.usize(1..bytes.len()));
        }
        v.throw(v.images, &bytes, 3);
    }
    let command = dicom::store_rq(dicom::CT, "1.2.3.4", 1);
    for _ in 0..200 {
        let mut bytes = command.clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(0..bytes.len());
            bytes[at] = random.u8(..);
        }
        let Ok(mut association) = dicom::Association::open(v.images, "EVERPOST", "EVIL", &contexts) else { continue };
        let _ = dicom::write_data(association.stream(), 1, true, &bytes, 16_384);
        let _ = dicom::write_data(association.stream(), 1, false, &synthetic::noise(3, 3_000), 16_384);
    }
    v.serves("mutated requests");
}

#[test]
fn giant_lengths_in_every_length_field() {
    let mut v = Victim::new("hostile-lengths", "", "");
    for kind in 0..=255 {
        let (got, closed) = v.throw(v.images, &[kind, 0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3], 100);
        assert!(closed || got.first() == Some(&pdu::ABORT), "a first PDU of type {kind} and 4 GiB is not refused at once");
    }
    let associate = |contexts| frame(pdu::ASSOCIATE_RQ, &dicom::associate_rq("EVERPOST", "EVIL", contexts, 16_384, None));
    let request = associate(&dicom::propose(dicom::CT, EXPLICIT));
    // Item lengths that point beyond the PDU.
    for at in 74..request.len() - 1 {
        let mut bytes = request.clone();
        bytes[at] = 0xff;
        bytes[at + 1] = 0xff;
        v.throw(v.images, &bytes, 2);
    }
    let after = |body: &[u8]| [&request[..], body].concat();
    // A P-DATA of 4 GiB; a PDV beyond its PDU; a PDV of length 0 and 1; a command set that claims 3 GiB.
    for body in [
        vec![pdu::DATA, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0],
        frame(pdu::DATA, &[0xff, 0xff, 0xff, 0xff, 1, 3]),
        frame(pdu::DATA, &[0, 0, 0, 0, 1, 3]),
        frame(pdu::DATA, &[0, 0, 0, 1, 1]),
        frame(pdu::DATA, &[&[0, 0, 0, 14, 1, 3][..], &[0, 0, 0, 0], &0xc000_0000_u32.to_le_bytes(), &[0; 4]].concat()),
    ] {
        let (got, closed) = v.throw(v.images, &after(&body), 3_000);
        assert!(closed || got.contains(&pdu::ABORT), "not refused: {body:?}");
    }
    // Data sets whose elements claim gigabytes are content: they are taken as they are, and nothing is allocated for them.
    let mut association = dicom::Association::open(v.images, "EVERPOST", "EVIL", &dicom::propose(dicom::CT, EXPLICIT)).unwrap();
    for (n, length) in [0xffff_fffe_u32, 0x7fff_ffff, u32::MAX].into_iter().enumerate() {
        let set = DataSet::explicit().with(0x0009, 0x1001, "OB", b"short", Some(length)).with(0x0010, 0x0020, "LO", b"P1", None).bytes();
        let id = instance(141, n as u64);
        assert_eq!(association.store(dicom::CT, &id, &set).unwrap(), 0);
        until("it arrives as it is", 20, || v.scp.stored().iter().any(|s| s.instance == id && s.sha256 == sha256(&set)));
    }
    association.release().unwrap();
    v.serves("giant lengths");
    let peak = v.gateway.process().memory("VmHWM");
    assert!(peak < 150 * MIB, "{} MiB", peak / MIB);
}

#[test]
fn deep_sequences() {
    let mut v = Victim::new("hostile-deep", "", "");
    for (n, depth) in [64, 1_000, 50_000].into_iter().enumerate() {
        let mut set = DataSet::explicit().text(0x0008, 0x0060, "CS", "CT");
        for _ in 0..depth {
            set = set.with(0x0008, 0x1140, "SQ", &[], Some(u32::MAX)).with(0xfffe, 0xe000, "", &[], Some(u32::MAX));
        }
        let set = set.bytes();
        let id = instance(142, n as u64);
        let mut association = dicom::Association::open(v.images, "EVERPOST", "EVIL", &dicom::propose(dicom::CT, EXPLICIT)).unwrap();
        assert_eq!(association.store(dicom::CT, &id, &set).unwrap(), 0, "depth {depth}");
        association.release().unwrap();
        until("it arrives as it is", 20, || v.scp.stored().iter().any(|s| s.instance == id && s.sha256 == sha256(&set)));
    }
    v.serves("deep sequences");
}

#[test]
fn illegal_pdu_sequences() {
    let mut v = Victim::new("hostile-sequences", "", "");
    let request = frame(pdu::ASSOCIATE_RQ, &dicom::associate_rq("EVERPOST", "EVIL", &dicom::propose(dicom::CT, EXPLICIT), 16_384, None));
    let release = frame(pdu::RELEASE_RQ, &[0; 4]);
    let data = |context: u8, flags: u8, bytes: &[u8]| {
        let mut body = u32::try_from(bytes.len() + 2).unwrap().to_be_bytes().to_vec();
        body.extend_from_slice(&[context, flags]);
        body.extend_from_slice(bytes);
        frame(pdu::DATA, &body)
    };
    let command = dicom::store_rq(dicom::CT, "1.2.3", 1);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("data before an association", data(1, 3, &command)),
        ("release before an association", release.clone()),
        ("a second request", [&request[..], &request].concat()),
        ("an acceptance from the requestor", [&request[..], &frame(pdu::ASSOCIATE_AC, &request[6..])].concat()),
        ("a rejection from the requestor", [&request[..], &frame(pdu::ASSOCIATE_RJ, &[0, 1, 1, 1])].concat()),
        ("an answer to a release not asked for", [&request[..], &frame(pdu::RELEASE_RP, &[0; 4])].concat()),
        ("an unknown PDU", [&request[..], &frame(0x77, &[0; 20])].concat()),
        ("a context not agreed", [&request[..], &data(99, 3, &command)].concat()),
        ("data set before command", [&request[..], &data(1, 2, &[0; 100])].concat()),
        ("command in the middle of a data set", [&request[..], &data(1, 3, &command), &data(1, 0, &[0; 100]), &data(1, 3, &command)].concat()),
        ("endless command set", [&request[..], &(0..200).flat_map(|_| data(1, 1, &[0; 1_000])).collect::<Vec<_>>()].concat()),
        (
            "a response nobody asked for",
            [
                &request[..],
                &data(1, 3, &dicom::command(&[(0x0100, vec![1, 0x80]), (0x0120, vec![1, 0]), (0x0800, vec![1, 1]), (0x0900, vec![0, 0])])),
            ]
            .concat(),
        ),
        ("an empty request", frame(pdu::ASSOCIATE_RQ, &[])),
        ("a request of items only", frame(pdu::ASSOCIATE_RQ, &item(0x20, &[0; 60]))),
    ];
    for (what, bytes) in &cases {
        let (got, closed) = v.throw(v.images, bytes, 3_000);
        assert!(closed || got.windows(6).any(|w| w == [pdu::ABORT, 0, 0, 0, 0, 4]), "{what}: neither abort nor close: {got:?}");
        v.fine(what);
    }
    // Abort, then more; release, then more; a half object: nothing of these becomes a message.
    v.throw(v.images, &[&request[..], &frame(pdu::ABORT, &[0; 4]), &request].concat(), 500);
    v.throw(v.images, &[&request[..], &release, &data(1, 3, &command)].concat(), 500);
    v.throw(v.images, &[&request[..], &data(1, 3, &command), &data(1, 0, &[7; 5_000])].concat(), 300);
    v.serves("illegal sequences");
    until("the witness's image arrives", 20, || v.scp.count() >= 1);
    assert!(v.scp.stored().iter().all(|s| s.instance.starts_with("1.2.826.0.1.3680043.10.511.140.")), "a half object was delivered");
}

#[test]
fn endless_blocks_and_headers() {
    let mut v = Victim::new("hostile-endless", "max_message = \"1 MiB\"", "");
    let mut stream = TcpStream::connect(v.hl7).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(b"\x0bMSH|^~\\&|A|B|C|D|20260101||ORU^R01|ENDLESS|P|2.5\r").unwrap();
    let began = Instant::now();
    let mut sent = 0_u64;
    while began.elapsed() < Duration::from_secs(20) && sent < 400 * MIB {
        if stream.write_all(&[b'x'; 65_536]).is_err() {
            break;
        }
        sent += 65_536;
    }
    v.serves("an endless block");
    v.throw(v.hl7, &[&b"\x0bMSH|^~\\&|"[..], &vec![b'y'; 3 << 20]].concat(), 100);
    v.throw(v.hl7, &vec![b'z'; 3 << 20], 100);
    v.throw(v.hl7, &b"\x0b".repeat(1 << 20), 100);
    v.throw(v.hl7, &b"\x0b\x1c\r".repeat(50_000), 100);
    v.throw(v.hl7, b"\x0b\x0bMSH\x1c\r\x0bMSH|\x1c\r\x0bMSH|^\x1c\r\x0b\r\x1c\r", 100);
    v.serves("blocks without end");
    // A message that is too large for the listener: refused with 207, or closed; never taken.
    let mut client = Client::connect(v.hl7).unwrap().patience(Duration::from_secs(5));
    if let Ok(ack) = client.send(&synthetic::oru("TOOLARGE", 1, 2 << 20, synthetic::CHARSETS[0])) {
        assert_eq!((ack.code.as_str(), harness::mllp::field(&ack.bytes, "ERR", 3).split('^').next().unwrap_or_default()), ("AR", "207"));
    }
    assert!(v.gateway.metric("everpost_messages_refused_total", &[("reason", "too-large")]).unwrap_or(0.0) >= 1.0);
    let peak = v.gateway.process().memory("VmHWM");
    assert!(peak < 150 * MIB, "{} MiB", peak / MIB);
}

#[test]
fn slow_senders_do_not_disturb_others() {
    let mut v = Victim::new("hostile-slow", "", "");
    let message = harness::mllp::block(&synthetic::small("SLOW"));
    let request = frame(pdu::ASSOCIATE_RQ, &dicom::associate_rq("EVERPOST", "SLOW", &dicom::propose(dicom::CT, EXPLICIT), 16_384, None));
    let mut slow: Vec<(TcpStream, &[u8])> = (0..60)
        .map(|n| {
            let (at, bytes) = if n % 2 == 0 { (v.hl7, &message[..]) } else { (v.images, &request[..]) };
            (TcpStream::connect(at).unwrap(), bytes)
        })
        .collect();
    for second in 0..5 {
        let end = Instant::now() + Duration::from_secs(1);
        for (stream, bytes) in &mut slow {
            let _ = stream.write_all(&bytes[second..=second]);
        }
        v.serves("slow senders"); // how long it takes does not matter here, that it works does
        until("a second has passed", 3, || Instant::now() >= end);
    }
    let (mut stream, rest) = slow.swap_remove(0);
    let _ = stream.write_all(&rest[5..]);
    until("a slow message that was finished arrives", 20, || v.sink.ids().contains(&"SLOW".to_owned()));
}

#[test]
fn ten_thousand_half_open_connections_from_one_address() {
    let want = 10_000;
    // SAFETY: getrlimit and setrlimit read and write the struct given, which lives on the stack.
    let files = unsafe {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        limit.rlim_max
    };
    if files < want + 1_000 {
        harness::not_run("ten_thousand_half_open_connections", &format!("this process may open {files} files only; run with `ulimit -n 12000`"));
        return;
    }
    let mut v = Victim::new("hostile-half-open", "", "");
    v.serves("before");
    let mut open = Vec::new();
    let from: SocketAddr = ([127, 9, 9, 9], 0).into();
    let connect = |to: SocketAddr| {
        use std::os::fd::FromRawFd;
        // SAFETY: plain socket calls with sockaddr_in structures that live on the stack; the descriptor is owned by the returned stream alone.
        unsafe {
            let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0);
            if fd < 0 {
                return None;
            }
            let stream = TcpStream::from_raw_fd(fd);
            let address = |at: SocketAddr| {
                let SocketAddr::V4(at) = at else { unreachable!("loopback is IPv4 here") };
                let mut raw: libc::sockaddr_in = std::mem::zeroed();
                raw.sin_family = libc::AF_INET as u16;
                raw.sin_port = at.port().to_be();
                raw.sin_addr.s_addr = u32::from_ne_bytes(at.ip().octets());
                raw
            };
            let size = std::mem::size_of::<libc::sockaddr_in>() as u32;
            let (near, far) = (address(from), address(to));
            if libc::bind(fd, std::ptr::from_ref(&near).cast(), size) != 0 {
                return None;
            }
            let _ = stream.set_nonblocking(true);
            libc::connect(fd, std::ptr::from_ref(&far).cast(), size);
            Some(stream)
        }
    };
    for n in 0..want {
        let to = if n % 2 == 0 { v.hl7 } else { v.images };
        open.extend(connect(to));
        if n % 2_000 == 1_999 {
            v.serves(&format!("with {} half-open connections from another address", open.len()));
        }
    }
    assert!(open.len() as u64 > want * 9 / 10, "{} connections made", open.len());
    v.serves("with all of them");
    assert!(v.gateway.metric("everpost_messages_refused_total", &[]).is_some());
    drop(open);
    v.serves("after");
    until("everything arrives", 30, || v.sink.count() as u64 >= 2 * v.number);
}

/// With few descriptors, idle connections must not take those that spool, delivery and the operator need.
#[test]
fn few_descriptors_are_shared() {
    let world = World::new("hostile-descriptors");
    let (hl7, sink) = (world::port(), Server::start());
    let text = mllp_listener("ris-in", hl7, "") + &mllp_destination("ris", "", &[("sink", sink.address())]) + &route("ris-in", &["ris"], "");
    let mut gateway = Gateway::new(&world, "gateway", &text).with_descriptors(64);
    gateway.up();
    gateway.says("the limit of 64 open files leaves about", 20);
    let idle: Vec<TcpStream> = (0..100).filter_map(|_| TcpStream::connect(loopback(hl7)).ok()).collect();
    gateway.says("to keep descriptors for the rest of the gateway", 20);
    let refused = || gateway.metric("everpost_messages_refused_total", &[("listener", "ris-in"), ("reason", "limit")]);
    until("most are refused, and HTTP answers", 20, || refused().is_some_and(|n| n > 50.0));
    assert!(gateway.status().is_some(), "the operator is served");
    // Another address gets in, and what it sends is kept and delivered. Large: content segments are opened for it.
    let mut other = Client::connect_from([127, 0, 0, 2].into(), loopback(hl7)).expect("another address gets in");
    for n in 0..5 {
        let message = synthetic::oru(&format!("OTHER-{n}"), 1, 2 << 20, synthetic::CHARSETS[0]);
        assert!(other.send(&message).expect("an answer").positive());
    }
    until("everything arrives", 30, || sink.count() == 5);
    drop(idle);
    until("the first address is served again", 30, || {
        Client::connect(loopback(hl7)).is_ok_and(|mut c| c.send(&synthetic::small("AGAIN")).is_ok_and(|a| a.positive()))
    });
    assert!(gateway.terminate().success());
}

#[test]
fn a_sender_beyond_its_limit_is_refused_and_may_come_back() {
    let mut v = Victim::new("hostile-limits", "max_connections_per_peer = 4", "max_associations = 2");
    let mut first = dicom::Association::open(v.images, "EVERPOST", "A", &dicom::propose(dicom::VERIFICATION, dicom::IMPLICIT)).unwrap();
    let second = dicom::Association::open(v.images, "EVERPOST", "B", &dicom::propose(dicom::VERIFICATION, dicom::IMPLICIT)).unwrap();
    let third =
        dicom::Association::open(v.images, "EVERPOST", "C", &dicom::propose(dicom::VERIFICATION, dicom::IMPLICIT)).err().map(|e| e.to_string());
    assert_eq!(third.as_deref(), Some("rejected 2/3/2"));
    assert_eq!(first.echo().unwrap(), 0);
    second.release().unwrap();
    until("a place is free again", 10, || {
        dicom::Association::open(v.images, "EVERPOST", "D", &dicom::propose(dicom::VERIFICATION, dicom::IMPLICIT)).is_ok()
    });
    first.release().unwrap();
    v.fine("limits");
}

/// A process that stood still finds all its deadlines passed; what its peers sent in time is read all the same.
#[test]
fn frozen_beyond_the_deadlines() {
    let mut v = Victim::new("hostile-frozen", "idle_timeout = \"2s\"", "idle_timeout = \"2s\"");
    for round in 0..3 {
        let mut clients: Vec<Client> = (0..10).map(|_| Client::connect(v.hl7).unwrap()).collect();
        let mut association = dicom::Association::open(v.images, "EVERPOST", "TEST", &dicom::propose(dicom::VERIFICATION, dicom::IMPLICIT)).unwrap();
        v.gateway.process().freeze();
        std::thread::sleep(Duration::from_millis(500)); // less than the deadline: the peers are in time
        for (n, client) in clients.iter_mut().enumerate() {
            client.push(&synthetic::small(&format!("FROZEN-{round}-{n}"))).unwrap();
        }
        let echo = std::thread::spawn(move || association.echo());
        std::thread::sleep(Duration::from_secs(3));
        v.gateway.process().thaw();
        for client in &mut clients {
            assert!(client.answer().expect("an answer, and no closed connection").positive());
        }
        assert_eq!(echo.join().unwrap().expect("a response, and no abort"), 0);
    }
    v.fine("frozen");
}

#[test]
fn an_abort_answers_garbage_after_the_request() {
    let v = Victim::new("hostile-abort", "", "");
    let mut association = dicom::Association::open(v.images, "EVERPOST", "EVIL", &dicom::propose(dicom::CT, EXPLICIT)).unwrap();
    association.stream().write_all(&frame(0x55, &[1, 2, 3])).unwrap();
    let (kind, body) = read_pdu(association.stream()).unwrap();
    assert_eq!((kind, body[2]), (pdu::ABORT, 2), "A-ABORT from the service provider (PS3.8 9.3.8)");
}
