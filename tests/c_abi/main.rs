//! The C interface from outside: the header as it is made, the examples as their documents say they are built, against real peers; hosts under valgrind and
//! the sanitizers; random calls; a host that is killed; Python without our headers.
//! Rules: the library is the one that Cargo built beside this test; every program started here ends with it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, clippy::disallowed_types, reason = "tests")]

use harness::peers::Receiver;
use harness::{World, mllp, not_run, until};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// That the library is built, and linked into this test, is what makes Cargo bring the shared one too.
const ABI: u32 = everpost::EVERPOST_ABI;

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
fn the_header_is_what_cbindgen_makes() {
    assert_eq!(ABI, 1);
    let tool = std::env::var("EVERPOST_PEERS").map(|peers| PathBuf::from(peers).join("cargo/bin/cbindgen")).unwrap_or_else(|_| "cbindgen".into());
    if !have(tool.to_str().unwrap()) {
        not_run("c_abi", "the header was not compared: no cbindgen");
        return;
    }
    let world = World::new("c-header");
    let (made, committed) = (world.path("everpost.h"), root().join("ffi/include/everpost.h"));
    passes(Command::new(tool).args(["--quiet", "--config"]).arg(root().join("ffi/cbindgen.toml")).arg("--output").arg(&made).arg(root().join("ffi")));
    if std::env::var_os("UPDATE").is_some() {
        std::fs::copy(&made, &committed).unwrap();
    }
    let same = std::fs::read(&made).unwrap() == std::fs::read(&committed).unwrap();
    assert!(same, "ffi/include/everpost.h is not up to date: UPDATE=1 cargo test -p tests --test c_abi the_header");
}

#[test]
fn only_our_names_are_exported_and_the_library_has_its_name() {
    let library = library().join("libeverpost.so.1");
    let names = passes(Command::new("nm").args(["-D", "--defined-only"]).arg(&library));
    let exported: Vec<&str> = names.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    let strange: Vec<&&str> = exported.iter().filter(|name| !name.starts_with("everpost_")).collect();
    assert!(strange.is_empty(), "{strange:?}");
    // The baseline: what was exported once stays.
    let baseline = std::fs::read_to_string(root().join("ffi/abi/symbols.txt")).unwrap();
    let mut sorted = exported.clone();
    sorted.sort_unstable();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(root().join("ffi/abi/symbols.txt"), sorted.join("\n") + "\n").unwrap();
    }
    let gone: Vec<&str> = baseline.lines().filter(|name| !exported.contains(name)).collect();
    assert!(gone.is_empty(), "gone from the interface: {gone:?}");
    let new: Vec<&&str> = exported.iter().filter(|name| !baseline.lines().any(|line| line == **name)).collect();
    assert!(new.is_empty(), "new, and not in ffi/abi/symbols.txt (UPDATE=1): {new:?}");
    let head = passes(Command::new("readelf").arg("-d").arg(&library));
    assert!(head.contains("[libeverpost.so.1]"), "{head}");
    for needed in head.lines().filter(|line| line.contains("(NEEDED)")) {
        assert!(["libc.so", "libm.so", "libgcc_s.so", "ld-linux"].iter().any(|name| needed.contains(name)), "{needed}");
    }
}

#[test]
fn abidiff_sees_no_changed_interface() {
    if !have("abidiff") {
        not_run("c_abi", "the interface was not compared by abidiff: it is not installed");
        return;
    }
    let baseline = root().join("ffi/abi/libeverpost.abi");
    let world = World::new("c-abidiff");
    let now = world.path("now.abi");
    // Of the library itself only the interface: its C types, as the header has them.
    let probe = compile_types(&world);
    passes(Command::new("abidw").args(["--no-show-locs", "--no-comp-dir-path", "--no-corpus-path", "--out-file"]).arg(&now).arg(&probe));
    if std::env::var_os("UPDATE").is_some() {
        std::fs::copy(&now, &baseline).unwrap();
    }
    passes(Command::new("abidiff").arg(&baseline).arg(&now));
}

/// A library that has the functions of the header, with the header's types: Rust's own debug information does not know C's.
fn compile_types(world: &World) -> PathBuf {
    let header = std::fs::read_to_string(root().join("ffi/include/everpost.h")).unwrap();
    let code: String = header.split("*/").map(|part| part.split("/*").next().unwrap_or_default()).collect();
    let mut source = String::from("#include <everpost.h>\n");
    for declaration in code.split(';').map(str::trim).filter(|d| d.contains("everpost_") && d.ends_with(')') && !d.contains("(*")) {
        let declaration = declaration.rsplit_once("extern \"C\" {").map_or(declaration, |(_, d)| d);
        let declaration = declaration.lines().filter(|line| !line.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n");
        let returns = if declaration.trim_start().starts_with("void everpost_") { "" } else { "return 0;" };
        source += &format!("{declaration} {{ {returns} }}\n");
    }
    world.write("types.c", source);
    let library = world.path("libeverpost.so.1");
    passes(
        Command::new("gcc")
            .current_dir(world.dir())
            .args(["-g", "-shared", "-fPIC", "-w", "-Wl,-soname,libeverpost.so.1"])
            .arg(format!("-I{}", root().join("ffi/include").display()))
            .args(["types.c", "-o"])
            .arg(&library),
    );
    library
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
fn nothing_leaks_and_nothing_is_read_that_is_not_there() {
    if !have("valgrind") {
        not_run("c_abi", "no host was run under valgrind: it is not installed");
        return;
    }
    let (world, server) = (World::new("c-valgrind"), mllp::Server::start());
    for (name, more) in [("send_hl7", None), ("event_loop", Some("3"))] {
        let program = compile(&world, "gcc", &format!("ffi/examples/{name}.c"), &[]);
        let mut command = Command::new("valgrind");
        command.args(["-q", "--leak-check=full", "--error-exitcode=9"]).arg(program);
        passes(command.arg(world.path(name)).arg(server.address().to_string()).args(more));
    }
}

#[test]
fn thirty_two_small_threads_under_both_sanitizers() {
    let (world, server) = (World::new("c-threads"), mllp::Server::start());
    for sanitizer in ["address", "thread"] {
        let program = compile(&world, "gcc", "tests/c_abi/threads.c", &[&format!("-fsanitize={sanitizer}")]);
        let mut command = Command::new(program);
        // The library itself is not instrumented: what its own locks order is not seen.
        command.env("TSAN_OPTIONS", "ignore_noninstrumented_modules=1 exitcode=66");
        let lines = passes(command.arg(world.path(sanitizer)).arg(server.address().to_string()).arg("2"));
        assert!(lines.contains("done"), "{lines}");
    }
    assert!(server.count() >= 2 * 2 * 40);
}

#[test]
fn random_calls_never_end_the_host() {
    let world = World::new("c-fuzz");
    let program = compile(&world, "gcc", "tests/c_abi/fuzz.c", &["-fsanitize=address"]);
    for seed in 1..=3 {
        let lines = passes(Command::new(&program).current_dir(world.dir()).arg(world.path("spool")).args(["127.0.0.1:1", &seed.to_string(), "2000"]));
        assert!(lines.contains("alive"), "SEED={seed}: {lines}");
    }
}

#[test]
fn what_a_killed_host_was_told_is_safe_arrives_in_order() {
    let kills: usize = std::env::var("KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(5);
    let (world, server) = (World::new("c-kill"), mllp::Server::start());
    let program = compile(&world, "gcc", "tests/c_abi/submitter.c", &[]);
    let (folder, to) = (world.path("spool"), server.address().to_string());
    let (mut first, mut told) = (0u64, Vec::new());
    for kill in 0..kills {
        let mut host = Command::new(&program).arg(&folder).args([&to, &first.to_string(), "1000000"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(host.stdout.take().unwrap()).lines();
        // Killed after another number of messages each time, in the midst of the next ones.
        told.extend(lines.by_ref().take(20 + kill * 7 % 50).map(|line| line.unwrap().parse::<u64>().unwrap()));
        host.kill().unwrap();
        host.wait().unwrap();
        told.extend(lines.map_while(|line| line.ok()?.parse::<u64>().ok()));
        first = told.last().map_or(0, |last| last + 1_000);
    }
    passes(Command::new(&program).arg(&folder).args([&to, "0", "0"]));
    let heard: Vec<u64> = server.accepted_ids().iter().map(|id| id.parse().unwrap()).collect();
    let mut once: Vec<u64> = Vec::new();
    for number in heard {
        if !once.contains(&number) {
            once.push(number);
        }
    }
    assert!(once.is_sorted(), "out of order");
    let lost: Vec<&u64> = told.iter().filter(|number| once.binary_search(number).is_err()).collect();
    assert!(lost.is_empty(), "told that they are safe, and lost: {lost:?}");
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

#[test]
fn an_installed_library_is_found_by_pkg_config_and_cmake() {
    let (world, server) = (World::new("c-install"), mllp::Server::start());
    let built = world.folder("built");
    std::fs::copy(library().join("libeverpost.so.1"), built.join("libeverpost.so")).unwrap();
    // The static library of a build for tests has 180 MB: an empty one stands for it.
    passes(Command::new("ar").arg("rc").arg(built.join("libeverpost.a")));
    let prefix = world.path("prefix");
    passes(Command::new(root().join("ffi/install")).env("PREFIX", &prefix).env("LIBRARY", &built));
    let flags = run(Command::new("pkg-config").env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig")).args(["--cflags", "--libs", "everpost"]));
    if flags.status.success() {
        let flags = String::from_utf8(flags.stdout).unwrap();
        let program = world.path("by-pkg-config");
        passes(Command::new("gcc").arg(root().join("ffi/examples/send_hl7.c")).arg("-o").arg(&program).args(flags.split_whitespace()));
        let mut command = Command::new(program);
        passes(command.env("LD_LIBRARY_PATH", prefix.join("lib")).arg(world.path("spool")).arg(server.address().to_string()));
    } else {
        not_run("c_abi", "pkg-config is not installed");
    }
    if !have("cmake") {
        not_run("c_abi", "the examples were not built with CMake: it is not installed");
        return;
    }
    let build = world.path("cmake");
    let prefix_path = format!("-DCMAKE_PREFIX_PATH={}", prefix.display());
    passes(Command::new("cmake").arg("-S").arg(root().join("ffi/examples")).arg("-B").arg(&build).arg(prefix_path));
    passes(Command::new("cmake").arg("--build").arg(&build));
    passes(Command::new(build.join("send_hl7")).arg(world.path("spool-cmake")).arg(server.address().to_string()));
}

#[test]
fn a_disk_that_refuses_is_an_error_and_no_crash() {
    let world = World::new("c-disk");
    let program = compile(&world, "gcc", "ffi/examples/send_hl7.c", &[]);
    for folder in ["/proc/everpost", "/dev/null/x"] {
        let output = run(Command::new(&program).args([folder, "127.0.0.1:1"]));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains("EVERPOST_STORAGE"), "{folder}: {said}");
    }
    // Files may not grow beyond what one segment needs.
    let limited = format!("ulimit -f 64; exec {} {} 127.0.0.1:1", program.display(), world.path("limited").display());
    let output = run(Command::new("sh").args(["-c", &limited]));
    assert!(output.status.code().is_some(), "ended by a signal: {}", output.status);
}
