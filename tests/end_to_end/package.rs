//! The Debian package: what is in it, that it installs, upgrades, goes and is purged in a root of its own, and leaves what is owed to somebody.

use harness::World;
use harness::gateway::program;
use harness::process::{run, run_any};
use harness::world::not_run;
use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

/// Builds the package from the program under test.
fn built(world: &World, revision: &str) -> PathBuf {
    let mut command = Command::new(format!("{ROOT}/deploy/deb"));
    command.arg(world.folder("packages")).env("BINARY", program()).env("REVISION", revision).env("COMPRESS", "none");
    PathBuf::from(run(&mut command, 300).trim().lines().last().unwrap())
}

fn dpkg_deb(arguments: &[&str], package: &Path) -> String {
    run(Command::new("dpkg-deb").args(arguments).arg(package), 120)
}

#[test]
fn the_package_holds_what_it_should() {
    let world = World::new("package-content");
    if !has("dpkg-deb") || !has("objdump") {
        not_run("the_package_holds_what_it_should", "dpkg-deb or binutils is missing");
        return;
    }
    let package = built(&world, "1");
    let listed = dpkg_deb(&["--contents"], &package);
    let mut paths = BTreeSet::new();
    for line in listed.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        assert!(fields[1] == "root/root" && !fields[0][1..].contains("s"), "{line}");
        assert!(&fields[0][8..9] != "w" && &fields[0][5..6] != "w", "others may write: {line}");
        paths.insert(fields[5].trim_start_matches('.').to_owned());
    }
    for path in [
        "/usr/bin/everpost",
        "/usr/lib/systemd/system/everpost.service",
        "/usr/lib/sysusers.d/everpost.conf",
        "/usr/lib/tmpfiles.d/everpost.conf",
        "/etc/everpost/everpost.example.toml",
        "/usr/share/bash-completion/completions/everpost",
        "/usr/share/zsh/vendor-completions/_everpost",
        "/usr/share/fish/vendor_completions.d/everpost.fish",
        "/usr/share/man/man1/everpost.1.gz",
        "/usr/share/man/man1/everpost-queue-discard.1.gz",
        "/usr/share/doc/everpost/copyright",
        "/usr/share/doc/everpost/docs/operating.md",
        "/usr/share/doc/everpost/examples/prometheus-rules.yml",
    ] {
        assert!(paths.contains(path), "{path} is not in\n{listed}");
    }
    assert!(!paths.contains("/etc/everpost/everpost.toml"), "the operator's own file is never a package's");
    let control = dpkg_deb(&["--field"], &package);
    assert!(control.contains("Package: everpost\n") && control.contains("Depends: libc6 (>= 2."), "{control}");
    assert_eq!(dpkg_deb(&["--info"], &package).matches("conffiles").count(), 1);

    // The scripts are what a shell reads, and the pages and completions those of this program.
    let out = world.folder("out");
    run(Command::new("dpkg-deb").arg("--raw-extract").arg(&package).arg(&out), 120);
    for script in ["postinst", "prerm", "postrm"] {
        run(Command::new("sh").arg("-n").arg(out.join("DEBIAN").join(script)), 60);
    }
    let page = run(Command::new("gzip").arg("-dc").arg(out.join("usr/share/man/man1/everpost.1.gz")), 60);
    assert_eq!(page.trim_end(), run(Command::new(program()).arg("man"), 60).trim_end());
    let bash = std::fs::read_to_string(out.join("usr/share/bash-completion/completions/everpost")).unwrap();
    assert!(bash.contains("doctor") && bash.contains("complete -F _everpost"), "{bash}");
    run(Command::new("bash").arg("-n").arg(out.join("usr/share/bash-completion/completions/everpost")), 60);
    run(Command::new("md5sum").args(["--quiet", "-c", "DEBIAN/md5sums"]).current_dir(&out), 60);
}

#[test]
fn it_installs_upgrades_goes_and_leaves_what_is_owed() {
    let world = World::new("package-life");
    // SAFETY: geteuid only reads a number of the process.
    let root_user = unsafe { libc::geteuid() } == 0;
    if !has("dpkg") || !has("systemd-sysusers") || !has("objdump") || !root_user {
        not_run("it_installs_upgrades_goes_and_leaves_what_is_owed", "needs root, dpkg, binutils and systemd-sysusers");
        return;
    }
    let root = world.folder("root");
    for folder in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers", "etc"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    for file in ["var/lib/dpkg/status", "var/lib/dpkg/available", "etc/passwd", "etc/group"] {
        std::fs::write(root.join(file), "").unwrap();
    }
    std::fs::set_permissions(&root, PermissionsExt::from_mode(0o755)).unwrap();
    // In a root of its own, and without changing into it: the scripts are given DPKG_ROOT.
    let dpkg = |arguments: &[&str]| {
        let mut command = Command::new("dpkg");
        command.arg(format!("--root={}", root.display())).args(["--force-script-chrootless", "--force-depends", "--log=/dev/null"]);
        command.args(arguments).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let (status, out, err) = run_any(&mut command, 120);
        assert!(status.success(), "dpkg {arguments:?}: {status}\n{out}\n{err}");
        format!("{out}{err}")
    };
    let state = || {
        let text = std::fs::read_to_string(root.join("var/lib/dpkg/status")).unwrap();
        text.lines().find(|line| line.starts_with("Status: ")).unwrap_or_default().to_owned()
    };
    dpkg(&["--install", built(&world, "1").to_str().unwrap()]);
    assert_eq!(state(), "Status: install ok installed");
    let version = run(Command::new(root.join("usr/bin/everpost")).arg("--version"), 60);
    assert!(version.starts_with("everpost "), "{version}");

    // User, folders, and who may look into them.
    let users = std::fs::read_to_string(root.join("etc/passwd")).unwrap();
    let user = users.lines().find(|line| line.starts_with("everpost:")).unwrap_or_else(|| panic!("no user: {users}"));
    let uid: u32 = user.split(':').nth(2).unwrap().parse().unwrap();
    let spool = root.join("var/lib/everpost").metadata().unwrap();
    assert_eq!((spool.uid(), spool.mode() & 0o7777), (uid, 0o700));
    let etc = root.join("etc/everpost").metadata().unwrap();
    assert_eq!((etc.uid(), etc.mode() & 0o7777), (0, 0o750));

    // What the operator writes and what the gateway holds.
    let own = root.join("etc/everpost/everpost.toml");
    let spool = root.join("var/lib/everpost/spool-of-the-gateway");
    std::fs::write(&spool, "owed").unwrap();
    let mut init = Command::new(root.join("usr/bin/everpost"));
    init.args(["init", "--pacs", "PACS@pacs-a.example.org:104", "--pacs", "PACS@pacs-b.example.org:104", "--config"]).arg(&own);
    run(&mut init, 60);
    let written = std::fs::read_to_string(&own).unwrap();
    assert_eq!((own.metadata().unwrap().gid(), own.metadata().unwrap().mode() & 0o7777), (etc.gid(), 0o640), "the service may read it, others not");

    // An upgrade, with an example that the operator has changed: dpkg keeps it.
    let example = root.join("etc/everpost/everpost.example.toml");
    std::fs::write(&example, "# mine\n").unwrap();
    dpkg(&["--force-confold", "--install", built(&world, "2").to_str().unwrap()]);
    assert_eq!(state(), "Status: install ok installed");
    let kept = |what: &str| {
        assert_eq!(std::fs::read_to_string(&own).ok().as_deref(), Some(written.as_str()), "{what}: the configuration");
        assert_eq!(std::fs::read_to_string(&spool).ok().as_deref(), Some("owed"), "{what}: the spool");
    };
    kept("upgrade");
    assert_eq!(std::fs::read_to_string(&example).unwrap(), "# mine\n");
    assert_eq!(own.metadata().unwrap().mode() & 0o7777, 0o640, "the upgrade sees to who may read it");

    dpkg(&["--remove", "everpost"]);
    assert!(!root.join("usr/bin/everpost").exists() && !root.join("usr/lib/systemd/system/everpost.service").exists());
    kept("removal");
    let told = dpkg(&["--purge", "everpost"]);
    assert!(told.contains("var/lib/everpost stays"), "{told}");
    kept("purge");
    assert!(!example.exists());
}

#[test]
fn the_unit_is_hardened() {
    if !has("systemd-analyze") {
        not_run("the_unit_is_hardened", "systemd-analyze is missing");
        return;
    }
    let unit = format!("{ROOT}/deploy/everpost.service");
    // Ends with another status than 0 above 2.0.
    let out = run(Command::new("systemd-analyze").args(["security", "--offline=true", "--threshold=20", "--no-pager", &unit]), 60);
    assert!(out.contains("Overall exposure level"), "{out}");
    let text = std::fs::read_to_string(unit).unwrap();
    for line in ["Type=notify", "WatchdogSec=30", "AmbientCapabilities=CAP_NET_BIND_SERVICE", "RestartPreventExitStatus=2"] {
        assert!(text.lines().any(|l| l == line), "{line}");
    }
}
