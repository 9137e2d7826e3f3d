//! `everpost init`: from nothing to a gateway that delivers, by flags; what it must not do.

use harness::dicom_scp::Scp;
use harness::gateway::program;
use harness::mllp::{AA, Client, Server};
use harness::process::{Process, run_any};
use harness::world;
use harness::{World, synthetic, until};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

fn init(config: &Path, more: &[&str]) -> (Option<i32>, String, String) {
    let (status, out, err) = run_any(Command::new(program()).args(["init", "--config"]).arg(config).args(more), 60);
    (status.code(), out, err)
}

#[test]
fn what_init_writes_passes_check_and_delivers() {
    let world = World::new("init");
    let (hl7, images, admin) = (world::port(), world::port(), world::port());
    let (ris, standby, pacs) = (Server::start(), Server::start(), Scp::start());
    ris.script(|_, _| AA);
    let config = world.path("everpost.toml");
    let at = |address: SocketAddr| address.to_string();
    let (data, mllp, dicom) = (world.path("data").display().to_string(), format!("127.0.0.1:{hl7}"), format!("GW@127.0.0.1:{images}"));
    let (first, second, images_to, admin) =
        (at(ris.address()), at(standby.address()), format!("PACS@{}", pacs.address()), format!("127.0.0.1:{admin}"));
    let flags = [
        "--name",
        "first",
        "--data-dir",
        &data,
        "--listen-mllp",
        &mllp,
        "--ris",
        &first,
        "--ris",
        &second,
        "--listen-dicom",
        &dicom,
        "--pacs",
        &images_to,
        "--admin",
        &admin,
    ];
    let (code, out, err) = init(&config, &flags);
    assert!(code == Some(0) && out.contains("everpost doctor --config"), "{code:?} {out} {err}");
    let (status, out, err) = run_any(Command::new(program()).args(["check", "--config"]).arg(&config), 60);
    assert!(status.success() && out.contains("2 listeners, 2 destinations, ok") && out.lines().count() == 1, "{out} {err}");

    // Never over what is there.
    let before = std::fs::read_to_string(&config).unwrap();
    let (code, _, err) = init(&config, &flags);
    assert!(code == Some(1) && err.contains("is there already"), "{code:?} {err}");
    assert_eq!(std::fs::read_to_string(&config).unwrap(), before);

    let mut command = Command::new(program());
    command.args(["run", "--config"]).arg(&config);
    let mut process = Process::start("first", &mut command, &world.path("first.log"));
    let mut client = world::get("the listener takes connections", 60, || {
        assert!(process.runs(), "{}", process.log());
        Client::connect(([127, 0, 0, 1], hl7).into()).ok()
    });
    assert!(client.send(&synthetic::small("I-1")).unwrap().positive());
    until("it is delivered to the primary", 30, || ris.ids() == ["I-1"]);
    assert_eq!(process.stop(60).code(), Some(0));
}

#[test]
fn init_says_what_it_needs() {
    let world = World::new("init-usage");
    let config = world.path("everpost.toml");
    for (flags, what) in [
        ("", "--ris host:port and --pacs AE@host:port"),
        ("--listen-mllp 2575", "a listener needs a receiver"),
        ("--listen-mllp 2575 --pacs PACS@h:104", "--listen-mllp needs --ris"),
        ("--pacs h:104", "is no AE@host:port"),
        ("--ris h:2575 --admin 0.0.0.0:8080", "nothing was written"),
        ("--ris h:2575 --name a~b", "nothing was written"),
    ] {
        let (code, _, err) = init(&config, &flags.split_whitespace().collect::<Vec<_>>());
        assert!(code == Some(2) && err.contains(what), "{flags}: {code:?} {err}");
    }
    assert_eq!(std::fs::read_dir(world.dir()).unwrap().count(), 0);
    let (status, out, _) = run_any(Command::new(program()).args(["init", "--ris", "h:2575", "--config", "-"]), 60);
    assert!(status.success() && out.contains("[[destination]]"), "{out}");
}
