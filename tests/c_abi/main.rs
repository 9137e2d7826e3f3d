//! The C interface from outside: header and symbols (`abi`), what is installed and what the documents say of it (`install`), hosts whose surroundings fail
//! (`faults`); here the examples against real peers, hosts under valgrind and the sanitizers, with another allocator and locale, random calls, and Python
//! without our headers.
//! Rules: the library is the one that Cargo built beside this test; every program started here ends with it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stdout, reason = "tests")]

mod abi;
mod driver;
mod faults;
mod install;

use harness::peers::{Hl7Library, Receiver};
use harness::world::setting;
use harness::{World, dicom_scp, mllp, not_run, until};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A folder with the shared library under its names.
fn library() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let built = std::env::current_exe().unwrap().parent().unwrap().join("libeverpost.so");
        let folder = built.parent().unwrap().join("c_abi_lib");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::copy(&built, folder.join("libeverpost.so.1")).unwrap_or_else(|e| panic!("{}: {e}", built.display()));
        let link = folder.join("libeverpost.so");
        if std::fs::symlink_metadata(&link).is_err() {
            std::os::unix::fs::symlink("libeverpost.so.1", &link).unwrap();
        }
        folder
    })
}

fn have(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Compiles one source into the world's folder.
fn compile(world: &World, compiler: &str, source: &str, more: &[&str]) -> PathBuf {
    let source = root().join(source);
    let program = world.path(&format!("{}-{compiler}{}", source.file_stem().unwrap().to_str().unwrap(), more.concat().replace('=', "-")));
    let standard = if source.extension().is_some_and(|e| e == "cpp") { "-std=c++17" } else { "-std=c11" };
    let lib = library().display().to_string();
    let built = Command::new(compiler)
        .args([standard, "-g", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-pedantic", "-Werror"])
        .args(more)
        .arg(source)
        .arg("-o")
        .arg(&program)
        .arg(format!("-I{}", root().join("ffi/include").display()))
        .args([format!("-L{lib}"), "-leverpost".into(), format!("-Wl,-rpath,{lib}"), "-pthread".into()])
        .output()
        .unwrap();
    assert!(built.status.success(), "{compiler}: {}", String::from_utf8_lossy(&built.stderr));
    program
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

#[track_caller]
fn passes(command: &mut Command) -> String {
    let output = run(command);
    let (out, err) = (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    out
}

#[test]
fn hl7_examples_run_with_every_compiler() {
    let (world, server) = (World::new("c-hl7"), mllp::Server::start());
    let to = server.address().to_string();
    let pairs = [("gcc", "g++"), ("clang", "clang++")];
    for (c, cpp) in pairs {
        if !have(c) {
            not_run("c_abi", &format!("nothing was built with {c}: it is not installed"));
            continue;
        }
        let send = compile(&world, c, "ffi/examples/send_hl7.c", &[]);
        assert!(passes(Command::new(send).arg(world.path(&format!("spool-1-{c}"))).arg(&to)).contains("MSA|AA|CONSOLE-1"));
        let lines =
            passes(Command::new(compile(&world, c, "ffi/examples/event_loop.c", &[])).arg(world.path(&format!("spool-2-{c}"))).args([&to, "5"]));
        assert!(lines.contains("5 of 5 delivered"), "{lines}");
        let lines =
            passes(Command::new(compile(&world, cpp, "ffi/examples/gui_loop.cpp", &[])).arg(world.path(&format!("spool-3-{c}"))).args([&to, "5"]));
        assert!(lines.contains("5 of 5 delivered, 0 left"), "{lines}");
    }
}

#[test]
fn dicom_examples_deliver_to_storescp() {
    let world = World::new("c-dicom");
    let peer = Receiver::storescp(&world, "scp", &[]);
    let to = peer.address().to_string();
    let console = compile(&world, "gcc", "ffi/examples/console.c", &[]);
    let lines = passes(Command::new(&console).arg(world.path("spool")).args([&to, "SCP", "30", "4"]));
    assert!(lines.contains("4 submitted, 4 delivered, 0 wait"), "{lines}");
    let modality = compile(&world, "g++", "ffi/examples/modality.cpp", &[]);
    passes(Command::new(modality).arg(world.path("spool")).args([&to, "SCP", "12"]));
    peer.keeps(5, 30);
}

#[test]
fn hl7_examples_are_answered_by_real_libraries() {
    let world = World::new("c-hl7-real");
    let (send, event_loop) = (compile(&world, "gcc", "ffi/examples/send_hl7.c", &[]), compile(&world, "gcc", "ffi/examples/event_loop.c", &[]));
    for library in Hl7Library::ALL {
        let server = library.serve(&world);
        let (to, folder) = (server.address().to_string(), world.folder(&format!("spools-{library:?}")));
        assert!(passes(Command::new(&send).arg(folder.join("1")).arg(&to)).contains("MSA|AA|CONSOLE-1"), "{library:?}");
        let lines = passes(Command::new(&event_loop).arg(folder.join("2")).args([&to, "5"]));
        assert!(lines.contains("5 of 5 delivered"), "{library:?}: {lines}");
        // node-hl7-server answers the second message on a connection with the id of the first, so each is sent again on a fresh one.
        let heard: std::collections::BTreeSet<String> = server.received().into_iter().map(|(id, _)| id).collect();
        assert_eq!(heard.len(), 6, "{library:?}: {heard:?}");
    }
}

fn valgrind(program: &Path) -> Command {
    let mut command = Command::new("valgrind");
    command.args(["-q", "--leak-check=full", "--error-exitcode=9"]).arg(program);
    command
}

#[test]
fn nothing_leaks_and_nothing_is_read_that_is_not_there() {
    if !have("valgrind") {
        not_run("c_abi", "no host was run under valgrind: it is not installed");
        return;
    }
    let (world, server, scp) = (World::new("c-valgrind"), mllp::Server::start(), dicom_scp::Scp::start());
    for (name, to, more) in [
        ("send_hl7.c", server.address(), vec![]),
        ("event_loop.c", server.address(), vec!["3"]),
        ("gui_loop.cpp", server.address(), vec!["3"]),
        ("console.c", scp.address(), vec!["SCP", "120", "2"]),
        ("modality.cpp", scp.address(), vec!["SCP", "2"]),
    ] {
        let program = compile(&world, if name.ends_with("cpp") { "g++" } else { "gcc" }, &format!("ffi/examples/{name}"), &[]);
        passes(valgrind(&program).arg(world.path(&format!("spool-{name}"))).arg(to.to_string()).args(more));
    }
}

/// Runs `threads.c`, which checks for itself, and what the receivers have then.
#[track_caller]
fn threads(world: &World, name: &str, mut command: Command, rounds: usize) {
    let (server, scp) = (mllp::Server::start(), dicom_scp::Scp::start());
    command.arg(world.path(name)).args([server.address().to_string(), scp.address().to_string(), rounds.to_string()]);
    let lines = passes(&mut command);
    assert!(lines.contains("done"), "{name}: {lines}");
    // What was submitted while the client was closed may wait for the next start.
    let heard: std::collections::BTreeSet<String> = server.accepted_ids().into_iter().collect();
    let all = (0..32).flat_map(|thread| (0..rounds).map(move |round| format!("T{thread}-{round}")));
    let lost: Vec<String> = all.filter(|id| !heard.contains(id)).collect();
    assert!(lost.is_empty(), "{name}: {lost:?}");
}

#[test]
fn thirty_two_small_threads_call_everything_under_both_sanitizers() {
    let world = World::new("c-threads");
    for sanitizer in ["address", "thread"] {
        let mut command = Command::new(compile(&world, "gcc", "tests/c_abi/threads.c", &[&format!("-fsanitize={sanitizer}")]));
        // The library itself is not instrumented: what its own locks order is not seen.
        command.env("TSAN_OPTIONS", "ignore_noninstrumented_modules=1 exitcode=66");
        threads(&world, sanitizer, command, 12);
    }
}

#[test]
fn thirty_two_small_threads_call_everything_under_valgrind() {
    if !have("valgrind") {
        not_run("c_abi", "no 32 threads were run under valgrind: it is not installed");
        return;
    }
    let world = World::new("c-threads-valgrind");
    let program = compile(&world, "gcc", "tests/c_abi/threads.c", &[]);
    threads(&world, "valgrind", valgrind(&program), 2);
}

#[test]
fn another_allocator_and_another_locale_change_nothing() {
    let world = World::new("c-host-habits");
    let preloaded = world.path("allocator.so");
    let mut command = Command::new("gcc");
    command.args(["-shared", "-fPIC", "-O1", "-fno-builtin", "-Wall", "-Wextra", "-Werror"]).arg(root().join("tests/c_abi/allocator.c"));
    passes(command.arg("-o").arg(&preloaded));
    let mut command = Command::new(compile(&world, "gcc", "tests/c_abi/threads.c", &[]));
    command.env("LD_PRELOAD", &preloaded);
    threads(&world, "allocator", command, 6);

    // A locale in which numbers have commas, and the system's messages are not UTF-8.
    let locales = world.folder("locales");
    let made = run(Command::new("localedef").args(["-i", "de_DE", "-f", "ISO-8859-1"]).arg(locales.join("odd")));
    if !locales.join("odd").exists() {
        not_run("c_abi", &format!("another locale: it cannot be made here: {}", String::from_utf8_lossy(&made.stderr).trim()));
        return;
    }
    let server = mllp::Server::start();
    let text = format!(
        "data_dir = '{}'\n[spool]\nreserve = '2 MiB'\n[[destination]]\nname = 'ris'\nprotocol = 'mllp'\n[[destination.endpoint]]\nname = 'a'\naddress = '{}'\n",
        world.path("spool").display(),
        server.address()
    );
    let mut command = Command::new(driver::program(&world));
    command.env("LOCPATH", &locales).env("LC_ALL", "odd").env_remove("LANGUAGE");
    let mut host = driver::Host::run(&world, &text, command);
    host.ask("send ris L1 30000").ok();
    host.ask("submit ris L2").ok();
    host.flushed(30);
    let said = host.ask("submit_file ris /nowhere/at/all");
    assert_eq!(said.code, 7, "{said:?}");
    host.end();
    assert_eq!(server.ids(), ["L1", "L2"]);
}

#[test]
fn random_calls_never_end_the_host() {
    let world = World::new("c-fuzz");
    let (runs, calls) = (setting("RUNS", 4), setting("CALLS", 2_500).to_string());
    let first = setting("SEED", u64::from(std::process::id()));
    println!("SEED={first}");
    for (number, seed) in (first..first + runs).enumerate() {
        let more: &[&str] = if number % 2 == 0 { &["-fsanitize=address"] } else { &[] };
        let program = compile(&world, "gcc", "tests/c_abi/fuzz.c", more);
        let mut command = Command::new(program);
        command.current_dir(world.dir()).arg(world.path("spool")).args(["127.0.0.1:1", &seed.to_string(), &calls]);
        let output = run(&mut command);
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("alive"), "SEED={seed}: {}\n{said}", output.status);
    }
}

#[test]
fn python_needs_no_header_of_ours() {
    let (world, server) = (World::new("c-python"), mllp::Server::start());
    let mut command = Command::new("python3");
    command.arg(root().join("tests/c_abi/host.py")).arg(library().join("libeverpost.so.1")).arg(world.path("spool"));
    let lines = passes(command.arg(server.address().to_string()));
    assert!(lines.contains("all good"), "{lines}");
    until("both messages", 20, || server.count() >= 2);
}
