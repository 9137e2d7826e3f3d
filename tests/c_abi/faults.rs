//! A C program whose surroundings fail: it is killed, its receivers die, freeze or are cut off, its disk is full, its machine moves to another network.
//! Rules: the program is `host.c` or `submitter.c`; what it was told is compared with what the receivers have.

use crate::compile;
use crate::driver::{FULL, Host, NOT_SENT, STORAGE, program};
use harness::load::repeated_only_around;
use harness::loopfs::{LoopFs, sbin};
use harness::netns::{self, Netns, Workstation};
use harness::peers::{Receiver, sink};
use harness::process::{Process, run_any};
use harness::synthetic::ct_files;
use harness::world::{port, setting};
use harness::{World, dicom_scp, dns, mllp, until};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a `send` of these tests may take: long, as the machine may be busy; every failover must fit in it.
const WITHIN: u64 = 12_000;

/// Settlements are durable within 10 ms of an attempt's end; the rest is for a machine that runs other tests beside this one.
const REPEAT_WINDOW: Duration = Duration::from_millis(10 + 290);

/// A configuration with a spool at `folder`.
fn config(folder: &Path, more: &str, destinations: &[(&str, &str, &[SocketAddr])]) -> String {
    let mut text = format!("data_dir = '{}'\n{more}\n[spool]\nreserve = '1 MiB'\nsegment_size = '1 MiB'\n", folder.display());
    for (name, protocol, endpoints) in destinations {
        let _ = write!(
            text,
            "[[destination]]\nname = '{name}'\nprotocol = '{protocol}'\nconnect_timeout = '3s'\nretry = {{ first = '50ms', max = '400ms' }}\n\
             health = {{ probe = 'tcp', interval = '200ms', timeout = '500ms' }}\nhold_down = '1s'\n"
        );
        for (number, at) in endpoints.iter().enumerate() {
            let title = if *protocol == "dicom" { "ae_title = 'SCP'\n" } else { "" };
            let _ = write!(text, "[[destination.endpoint]]\nname = 'e{number}'\naddress = '{at}'\n{title}");
        }
    }
    text
}

#[test]
fn what_a_killed_host_was_told_is_safe_arrives_in_order() {
    let kills = setting("KILLS", 5);
    let (world, server) = (World::new("c-kill"), mllp::Server::start());
    let program = compile(&world, "gcc", "tests/c_abi/submitter.c", &[]);
    let (folder, to) = (world.path("spool"), server.address().to_string());
    let (mut first, mut told, mut times) = (0u64, Vec::new(), Vec::new());
    for kill in 0..kills {
        let mut host = Command::new(&program).arg(&folder).args([&to, &first.to_string(), "1000000"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(host.stdout.take().unwrap()).lines();
        // Killed after another number of messages each time, in the midst of the next ones.
        let before = usize::try_from(20 + kill * 7 % 50).unwrap();
        told.extend(lines.by_ref().take(before).map(|line| line.unwrap().parse::<u64>().unwrap()));
        times.push(Instant::now());
        host.kill().unwrap();
        host.wait().unwrap();
        told.extend(lines.map_while(|line| line.ok()?.parse::<u64>().ok()));
        first = told.last().map_or(0, |last| last + 1_000);
    }
    crate::passes(Command::new(&program).arg(&folder).args([&to, "0", "0"]));
    let received: Vec<(String, Instant)> = server.received().into_iter().map(|r| (r.id, r.at)).collect();
    let mut once: Vec<u64> = Vec::new();
    let mut seen = BTreeSet::new();
    for number in received.iter().map(|(id, _)| id.parse::<u64>().unwrap()) {
        if seen.insert(number) {
            once.push(number);
        }
    }
    assert!(once.is_sorted(), "out of order");
    let lost: Vec<&u64> = told.iter().filter(|number| !seen.contains(number)).collect();
    assert!(lost.is_empty(), "told that they are safe, and lost: {lost:?}");
    println!("{} told, {} arrivals, {kills} kills", told.len(), received.len());
    repeated_only_around(&received, &times, REPEAT_WINDOW);
}

/// What `send` answers, with the primary in order and then broken. `hl7`: the verb's arguments; the deadline is added.
fn fails_over(host: &mut Host, verb: &str, what: &dyn Fn(u32) -> String, break_it: &mut dyn FnMut()) {
    let first = host.ask(&format!("{verb} {} {WITHIN}", what(1))).ok();
    assert_eq!(first.first, "e0", "{first:?}");
    break_it();
    for number in 2..4 {
        let said = host.ask(&format!("{verb} {} {WITHIN}", what(number))).ok();
        assert_eq!(said.first, "e1", "{said:?}");
        assert!(said.millis < WITHIN, "{said:?}");
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    Killed,
    Frozen,
    CutOff,
}

#[test]
fn send_returns_the_secondarys_hl7_answer() {
    for fault in [Fault::Killed, Fault::Frozen, Fault::CutOff] {
        let world = World::new(&format!("c-send-hl7-{fault:?}"));
        let (net, name) = match fault {
            Fault::CutOff => match Netns::new(&world) {
                Some(net) => (Some((net.address(), net.name().to_owned())), Some(net)),
                None => continue,
            },
            _ => (None, None),
        };
        let at = SocketAddr::from((net.as_ref().map_or([127, 0, 0, 1].into(), |(address, _)| *address), port()));
        let mut primary = sink(&world, "primary", at, net.as_ref().map(|(_, name)| &**name));
        let second = mllp::Server::start();
        let mut host = Host::start(&world, &config(&world.path("spool"), "", &[("ris", "mllp", &[at, second.address()])]));
        fails_over(&mut host, "send", &|number| format!("ris M{number}"), &mut || match fault {
            Fault::Killed => primary.process.kill(),
            Fault::Frozen => primary.process.freeze(),
            Fault::CutOff => name.as_ref().unwrap().cut(),
        });
        assert_eq!(second.ids(), ["M2", "M3"], "{fault:?}");
        host.end();
    }
}

#[test]
fn send_returns_the_secondarys_dicom_status() {
    for fault in [Fault::Killed, Fault::Frozen, Fault::CutOff] {
        let world = World::new(&format!("c-send-dicom-{fault:?}"));
        let files = ct_files(&world, "files", 4711, 4, 300_000);
        let net = if fault == Fault::CutOff {
            let Some(net) = Netns::new(&world) else { continue };
            Some(net)
        } else {
            None
        };
        let at = SocketAddr::from((net.as_ref().map_or([127, 0, 0, 1].into(), Netns::address), port()));
        let (place, number) = (world.folder("primary"), at.port().to_string());
        let mut command = net.as_ref().map_or_else(|| Command::new("storescp"), |net| netns::command(net.name(), "storescp"));
        let mut primary = Process::start("primary", command.args(["-aet", "SCP", "+xa", "-od"]).arg(&place).arg(number), &world.path("primary.log"));
        until("the primary listens", 20, || std::net::TcpStream::connect_timeout(&at, Duration::from_secs(1)).is_ok());
        let second = dicom_scp::Scp::start();
        let mut host = Host::start(&world, &config(&world.path("spool"), "", &[("pacs", "dicom", &[at, second.address()])]));
        fails_over(&mut host, "send_file", &|number| format!("pacs {}", files[number as usize].display()), &mut || match fault {
            Fault::Killed => primary.kill(),
            Fault::Frozen => primary.freeze(),
            Fault::CutOff => net.as_ref().unwrap().cut(),
        });
        let said = host.ask(&format!("send_memory pacs {} {WITHIN}", files[0].display())).ok();
        assert_eq!((&*said.first, said.text.split(' ').nth(1)), ("e1", Some("0")), "{said:?}");
        assert_eq!(second.count(), 3, "{fault:?}");
        host.end();
    }
}

#[test]
fn a_receiver_that_freezes_in_the_midst_of_an_object_costs_its_share_of_the_time() {
    let world = World::new("c-send-midst");
    let large = ct_files(&world, "files", 4712, 1, 60_000_000).remove(0);
    let mut primary = Receiver::storescp(&world, "primary", &[]);
    let second = dicom_scp::Scp::start();
    let mut host = Host::start(&world, &config(&world.path("spool"), "", &[("pacs", "dicom", &[primary.address(), second.address()])]));
    host.ask("echo pacs 20000").ok();
    host.tell(&format!("send_file pacs {} 60000", large.display()));
    until("the primary has begun to write the object", 30, || {
        std::fs::read_dir(primary.folder()).unwrap().flatten().any(|file| file.metadata().is_ok_and(|data| data.len() > 0))
    });
    primary.process.freeze();
    let said = host.hear().ok();
    // A quick machine may have sent the whole before the primary stood still; then it answered.
    println!("answered by {} after {} ms", said.first, said.millis);
    assert!(said.first == "e1" || said.first == "e0", "{said:?}");
    assert!(said.millis < 60_000, "{said:?}");
    assert_eq!(second.count(), usize::from(said.first == "e1"));
    host.end();
}

#[test]
fn submit_waits_for_no_network() {
    let world = World::new("c-submit-away");
    let (dead, at) = (SocketAddr::from(([127, 0, 0, 1], port())), SocketAddr::from(([127, 0, 0, 1], port())));
    let mut frozen = sink(&world, "frozen", at, None);
    frozen.process.freeze();
    let file = ct_files(&world, "files", 4713, 1, 100_000).remove(0);
    let both: &[SocketAddr] = &[at, dead];
    let mut host = Host::start(&world, &config(&world.path("spool"), "", &[("ris", "mllp", both), ("pacs", "dicom", &[dead])]));
    for number in 0..50 {
        // Connecting takes 3 s until it is given up, an answer 30 s: a call that waited for either would show.
        let said = host.ask(&format!("submit ris S{number}")).ok();
        assert!(said.millis < 2_500, "{said:?}");
    }
    let said = host.ask(&format!("submit_file pacs {}", file.display())).ok();
    assert!(said.millis < 2_500, "{said:?}");
    let said = host.ask("send ris X1 1500");
    assert!(said.code != 0 && said.millis < 10_000, "{said:?}");
    let said = host.ask(&format!("send_file pacs {} 1500", file.display()));
    assert_eq!(said.code, NOT_SENT, "{said:?}");
    frozen.process.thaw();
    until("every message has arrived", 60, || {
        let ids: Vec<String> = frozen.received().into_iter().map(|(id, _)| id).filter(|id| id.starts_with('S')).collect();
        ids.iter().collect::<BTreeSet<_>>().len() == 50
    });
    let left = host.ask("close 0").ok();
    assert_eq!(left.first, "1", "the image waits: {left:?}");
}

#[test]
fn a_full_disk_is_told_and_over_when_there_is_space() {
    let world = World::new("c-full");
    let Some(disk) = LoopFs::mount(&world, "ext4", 48) else { return };
    let mut server = mllp::Server::start();
    server.shut();
    let mut host =
        Host::start(&world, &config(&disk.path().join("spool"), "", &[("ris", "mllp", &[server.address()]), ("pacs", "dicom", &[server.address()])]));
    let mut taken = Vec::new();
    for number in 0..10 {
        host.ask(&format!("submit ris F{number}")).ok();
        taken.push(format!("F{number}"));
    }
    disk.fill(0);
    let mut number = 10;
    until("a submit is refused", 60, || {
        let said = host.ask(&format!("submit ris F{number}"));
        if said.code == 0 {
            taken.push(format!("F{number}"));
            number += 1;
            return false;
        }
        assert_eq!(said.code, FULL, "{said:?}");
        assert!(said.text.contains("space") || said.text.contains("reserve"), "{said:?}");
        true
    });
    let said = host.ask("stream pacs 1.2.3.4 4");
    assert_eq!(said.code, FULL, "{said:?}");
    // Delivery goes on all the same.
    server.open();
    host.flushed(60);
    disk.free_again();
    until("it takes messages again", 60, || host.ask("submit ris LAST").code == 0);
    taken.push("LAST".to_owned());
    host.flushed(60);
    host.end();
    let mut seen = BTreeSet::new();
    let once: Vec<String> = server.accepted_ids().into_iter().filter(|id| seen.insert(id.clone())).collect();
    assert_eq!(once, taken);
}

#[test]
fn a_disk_that_becomes_read_only_is_told_and_loses_nothing() {
    let world = World::new("c-read-only");
    let Some(disk) = LoopFs::mount(&world, "ext4", 48) else { return };
    let mut server = mllp::Server::start();
    server.shut();
    let config = config(&disk.path().join("spool"), "", &[("ris", "mllp", &[server.address()])]);
    let mut host = Host::start(&world, &config);
    let mut taken = Vec::new();
    for number in 0..5 {
        host.ask(&format!("submit ris R{number}")).ok();
        taken.push(format!("R{number}"));
    }
    disk.fail();
    let mut number = 5;
    until("a submit is refused", 60, || {
        let said = host.ask(&format!("submit ris R{number}"));
        if said.code == 0 {
            taken.push(format!("R{number}"));
            number += 1;
            return false;
        }
        assert_eq!(said.code, STORAGE, "{said:?}");
        true
    });
    let _ = host.ask("status").ok();
    let _ = host.ask("close 1000");
    host.kill();
    disk.mount_again();
    server.open();
    let mut host = Host::start(&world, &config);
    host.flushed(60);
    host.ask("submit ris LAST").ok();
    host.flushed(60);
    host.end();
    let mut seen = BTreeSet::new();
    let once: Vec<String> = server.accepted_ids().into_iter().filter(|id| seen.insert(id.clone())).collect();
    taken.push("LAST".to_owned());
    let lost: Vec<&String> = taken.iter().filter(|id| !seen.contains(*id)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    assert!(once.len() <= taken.len() + 1, "what was refused may have reached the disk, and nothing else: {once:?}");
}

#[test]
fn a_folder_that_is_read_only_or_none_is_an_error_and_no_crash() {
    let world = World::new("c-disk");
    for folder in ["/proc/everpost", "/dev/null/x"] {
        let file = world.write("bad.toml", config(Path::new(folder), "", &[("ris", "mllp", &[([127, 0, 0, 1], 1).into()])]));
        let said = Host::spawn(Command::new(program(&world)).arg(&file)).hear();
        assert!(said.code == STORAGE && said.text.contains(folder) && said.text.contains("writable"), "{said:?}");
    }
    if let Some(disk) = LoopFs::mount(&world, "ext4", 16) {
        let (status, _, err) = run_any(Command::new(sbin("mount")).args(["-o", "remount,ro"]).arg(disk.path()), 30);
        assert!(status.success(), "{err}");
        let file = world.write("ro.toml", config(&disk.path().join("spool"), "", &[("ris", "mllp", &[([127, 0, 0, 1], 1).into()])]));
        let said = Host::spawn(Command::new(program(&world)).arg(&file)).hear();
        assert!(said.code == STORAGE && said.text.contains("writable"), "{said:?}");
    }
    // Files may not grow beyond what one segment needs.
    let file = world.write("small.toml", config(&world.path("limited"), "", &[("ris", "mllp", &[([127, 0, 0, 1], 1).into()])]));
    let limited = format!("ulimit -f 64; exec {} {}", program(&world).display(), file.display());
    let mut host = Host::spawn(Command::new("sh").args(["-c", &limited]));
    let said = host.hear();
    assert!(said.code != 0, "{said:?}");
    host.end();
}

#[test]
fn a_second_program_on_the_same_folder_is_told_so() {
    let (world, server) = (World::new("c-in-use"), mllp::Server::start());
    let config = config(&world.path("spool"), "", &[("ris", "mllp", &[server.address()])]);
    let mut first = Host::start(&world, &config);
    let said = Host::spawn(Command::new(program(&world)).arg(world.path("host.toml"))).hear();
    assert!(said.code == 3 && said.text.contains("spool"), "{said:?}");
    first.ask("close 0").ok();
    let said = Host::spawn(Command::new(program(&world)).arg(world.path("host.toml"))).hear();
    assert_eq!(said.code, 0, "{said:?}");
}

#[test]
fn threads_descriptors_and_memory_stay_within_bounds() {
    let (world, server) = (World::new("c-bounds"), mllp::Server::start());
    let mut away = mllp::Server::start();
    away.shut();
    let scp = dicom_scp::Scp::start();
    let text = config(
        &world.path("spool"),
        "",
        &[("ris", "mllp", &[away.address(), server.address()]), ("pacs", "dicom", &[scp.address()]), ("gone", "mllp", &[away.address()])],
    );
    let mut host = Host::start(&world, &text);
    let mut most = 0;
    for number in 0..300 {
        host.ask(&format!("submit ris B{number}")).ok();
        host.ask(&format!("submit gone B{number}")).ok();
        if number % 10 == 0 {
            host.ask(&format!("send ris C{number} {WITHIN}")).ok();
            most = most.max(host.descriptors());
            let threads = host.threads();
            assert!(threads.len() <= 1 + 3, "{threads:?}");
        }
    }
    // 300 MB, one after the other, cost one chunk on their way in and a few on their way out.
    for number in 1..4 {
        host.ask(&format!("stream pacs 1.2.3.{number} 100")).ok();
    }
    until("the objects have arrived", 120, || scp.count() >= 3);
    most = most.max(host.descriptors());
    // 300 segments wait or are kept: 64 of them are open, with two descriptors each, beside those being written and the connections.
    assert!(most < 200, "{most} descriptors");
    assert_eq!(host.signals(), (0, 0), "the host has set nothing, and nobody else may");
    assert!(host.peak() < 50 << 20, "{} bytes", host.peak());
    host.end();
}

#[test]
fn a_workstation_moves_from_one_network_to_another() {
    let world = World::new("c-move");
    let Some(mut desk) = Workstation::new(&world) else { return };
    let server = mllp::Server::on((desk.network(), port()).into());
    let mut dns = dns::Dns::start(&world, &[&format!("ris 1 A {}", desk.network())]);
    let relay = dns::Relay::start((desk.network(), port()).into(), dns.address());
    desk.join(0);
    let names = format!("[names]\nservers = ['{}']\n", relay.address());
    let name = format!("ris.{}:{}", dns::ZONE, server.address().port());
    // Only what moving needs: the rest is as it comes.
    let text = format!(
        "data_dir = '{}'\n{names}[spool]\nreserve = '1 MiB'\n[[destination]]\nname = 'ris'\nprotocol = 'mllp'\nack_timeout = '5s'\n\
         [[destination.endpoint]]\nname = 'a'\naddress = '{name}'\n",
        world.path("spool").display()
    );
    let mut host = Host::start_in(&world, &text, desk.name());
    host.ask("send ris W0 30000").ok();
    host.ask("submit ris W1").ok();
    host.flushed(30);
    // Out of the room: the address goes, with every way out of the machine, and the name servers with it.
    desk.leave();
    dns.shut();
    let away = Instant::now();
    let mut number = 2;
    while away.elapsed() < Duration::from_secs(setting("AWAY", 20)) {
        let said = host.ask(&format!("submit ris W{number}")).ok();
        assert!(said.millis < 2_500, "{said:?}");
        number += 1;
        std::thread::sleep(Duration::from_millis(200)); // the pace of a person at work, not a guess at a duration
    }
    // A person waits while the cable goes in.
    host.tell("send ris PATIENT 90000");
    desk.join(1);
    let said = host.hear().ok();
    println!("answered after {} ms", said.millis);
    dns.open();
    host.flushed(90);
    host.ask("send ris AFTER 30000").ok();
    host.end();
    let mut seen = BTreeSet::new();
    let once: Vec<String> = server.accepted_ids().into_iter().filter(|id| id.starts_with('W') && seen.insert(id.clone())).collect();
    assert_eq!(once, (0..number).map(|n| format!("W{n}")).collect::<Vec<_>>());
}
