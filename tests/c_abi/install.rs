//! The library as it is installed: by `ffi/install` into a prefix, and as Debian packages; then what the documents say is done, word for word.
//! Rules: nothing of the repository is used behind the installation but the sources of the examples, copied elsewhere.

use crate::{have, passes, root, run};
use harness::peers::{Hl7Library, Receiver};
use harness::{World, mllp, not_run, until};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What Cargo built beside this test, as `ffi/install` takes it.
fn built(world: &World) -> PathBuf {
    let deps = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let folder = world.folder("built");
    for name in ["libeverpost.so", "libeverpost.a"] {
        std::os::unix::fs::symlink(deps.join(name), folder.join(name)).unwrap();
    }
    folder
}

/// `ffi/install` with what was built.
#[track_caller]
fn install(world: &World, prefix: &Path, built: &Path) {
    let mut command = Command::new(root().join("ffi/install"));
    passes(command.current_dir(world.dir()).env("PREFIX", prefix).env("PROFILE", "dev").env("LIBRARY", built));
}

/// The examples, copied to where only the installation is.
fn examples(world: &World) -> PathBuf {
    let folder = world.folder("examples");
    for file in std::fs::read_dir(root().join("ffi/examples")).unwrap().flatten() {
        std::fs::copy(file.path(), folder.join(file.file_name())).unwrap();
    }
    folder
}

/// The compiler's line in a document: what follows after the mark, if it calls a compiler.
fn compiler_lines(text: &str) -> Vec<String> {
    let lines = text.lines().map(|line| line.trim_start_matches([' ', '*', '#']));
    lines.filter(|line| line.starts_with("cc ") || line.starts_with("c++ ")).map(str::to_owned).collect()
}

#[test]
fn what_the_documents_say_works_against_an_installation() {
    let world = World::new("c-install");
    let (prefix, server) = (world.path("prefix"), mllp::Server::start());
    install(&world, &prefix, &built(&world));
    for name in
        ["lib/libeverpost.so", "lib/libeverpost.so.1", "lib/libeverpost.a", "lib/pkgconfig/everpost.pc", "include/everpost.h", "include/everpost.hpp"]
    {
        assert!(prefix.join(name).exists(), "{name}");
    }
    let folder = examples(&world);
    let shell = |line: &str| {
        let mut command = Command::new("sh");
        command
            .args(["-c", line])
            .current_dir(&folder)
            .env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"))
            .env("LD_LIBRARY_PATH", prefix.join("lib"));
        passes(&mut command)
    };
    if !have("pkg-config") {
        not_run("c_abi", "nothing was built by pkg-config: it is not installed");
        return;
    }
    assert_eq!(shell("pkg-config --modversion everpost").trim(), env!("CARGO_PKG_VERSION"));
    let docs = std::fs::read_to_string(root().join("docs/c-api.md")).unwrap();
    let mut lines = compiler_lines(&docs);
    assert!(!lines.is_empty(), "docs/c-api.md has a compiler's line");
    for name in ["send_hl7.c", "console.c", "event_loop.c", "modality.cpp", "gui_loop.cpp"] {
        let line = compiler_lines(&std::fs::read_to_string(folder.join(name)).unwrap());
        assert_eq!(line.len(), 1, "{name} says in its head how it is built");
        lines.extend(line);
    }
    lines.iter().for_each(|line| drop(shell(line)));
    let to = server.address();
    assert!(shell(&format!("./send_hl7 spool-1 {to}")).contains("MSA|AA|CONSOLE-1"));
    assert!(shell(&format!("./event_loop spool-2 {to} 3")).contains("3 of 3 delivered"));
    assert!(shell(&format!("./gui_loop spool-3 {to} 3")).contains("3 of 3 delivered, 0 left"));
    let scp = Receiver::storescp(&world, "scp", &[]);
    assert!(shell(&format!("./console spool-4 {} SCP 60 2", scp.address())).contains("2 submitted, 2 delivered"));
    shell(&format!("./modality spool-5 {} SCP 4", scp.address()));
    scp.keeps(3, 30);

    // The program of the ten-minute start, and its configuration.
    let block = |kind: &str| docs.split(&format!("```{kind}\n")).nth(1).unwrap().split("```").next().unwrap().to_owned();
    let (includes, body): (Vec<&str>, Vec<&str>) =
        block("c").lines().map(|line| line.to_owned().leak() as &str).partition(|line| line.starts_with('#'));
    let toml = block("toml")
        .replace("/var/lib/ct-console/everpost", &world.path("ten").display().to_string())
        .replace("ris-a.example.org:2575", &to.to_string());
    std::fs::write(folder.join("everpost.toml"), toml).unwrap();
    let program = format!(
        "#include <stdio.h>\n#include <string.h>\n{}\nint main(void) {{\nconst char *message = \"MSH|^~\\\\&|A|B|C|D|20260101||ADT^A08|TEN|P|2.5\\r\";\n\
         const size_t length = strlen(message);\n{}\nreturn id == 0;\n}}\n",
        includes.join("\n"),
        body.join("\n")
    );
    std::fs::write(folder.join("ten.c"), program).unwrap();
    shell("cc -Wall -Wextra -Werror ten.c -o ten $(pkg-config --cflags --libs everpost) && ./ten");
    until("the message of the ten-minute start", 20, || server.ids().iter().any(|id| id == "TEN"));

    // Nothing but the static library.
    let flags = shell("pkg-config --static --libs-only-other --libs-only-l everpost").replace("-leverpost", "");
    shell(&format!("cc send_hl7.c -o static $(pkg-config --cflags everpost) {} {flags}", prefix.join("lib/libeverpost.a").display()));
    assert!(!shell("ldd ./static").contains("libeverpost"));
    assert!(shell(&format!("./static spool-6 {to}")).contains("MSA|AA|CONSOLE-1"));

    if !have("cmake") {
        not_run("c_abi", "the examples were not built with CMake: it is not installed");
        return;
    }
    shell(&format!("cmake -S . -B build -DCMAKE_PREFIX_PATH={} && cmake --build build", prefix.display()));
    assert!(shell(&format!("env -u LD_LIBRARY_PATH build/send_hl7 spool-7 {to}")).contains("MSA|AA|CONSOLE-1"));
    assert!(shell(&format!("build/gui_loop spool-8 {to} 2")).contains("2 of 2 delivered"));
    for (wanted, found) in [("0.1", true), ("99", false)] {
        let text = format!("cmake_minimum_required(VERSION 3.16)\nproject(p C)\nfind_package(everpost {wanted} REQUIRED)\n");
        let dir = world.folder(&format!("wants-{wanted}"));
        std::fs::write(dir.join("CMakeLists.txt"), text).unwrap();
        let mut command = Command::new("cmake");
        command.arg("-S").arg(&dir).arg("-B").arg(dir.join("build")).arg(format!("-DCMAKE_PREFIX_PATH={}", prefix.display()));
        assert_eq!(run(&mut command).status.success(), found, "find_package(everpost {wanted})");
    }
}

#[test]
fn debian_packages_install_and_serve() {
    if !have("dpkg-deb") {
        not_run("c_abi", "no Debian packages were built: there is no dpkg-deb");
        return;
    }
    let world = World::new("c-deb");
    let (packages, scratch) = (world.folder("packages"), world.folder("root"));
    let mut command = Command::new(root().join("ffi/install"));
    passes(command.arg("deb").arg(&packages).env("LIBRARY", built(&world)).env("PROFILE", "dev"));
    let mut names: Vec<String> = std::fs::read_dir(&packages).unwrap().flatten().map(|e| e.file_name().into_string().unwrap()).collect();
    names.sort();
    let [dev, library] = &names[..] else { panic!("{names:?}") };
    assert!(dev.starts_with("libeverpost-dev_") && library.starts_with("libeverpost1_"), "{names:?}");
    for (name, has, has_not) in [
        (library, vec!["/libeverpost.so.1", "/copyright"], vec![".h\n", ".a\n"]),
        (
            dev,
            vec!["/everpost.h", "/everpost.hpp", "/libeverpost.a", "/libeverpost.so ->", "/everpost.pc", "/everpost-config.cmake"],
            vec!["libeverpost.so.1 ->"],
        ),
    ] {
        let listed = passes(Command::new("dpkg-deb").arg("--contents").arg(packages.join(name)));
        has.iter().for_each(|part| assert!(listed.contains(part), "{name} lacks {part}\n{listed}"));
        has_not.iter().for_each(|part| assert!(!listed.contains(part), "{name} has {part}\n{listed}"));
        assert!(listed.lines().all(|line| line.contains("root/root")), "{listed}");
    }
    let fields = passes(Command::new("dpkg-deb").arg("--field").arg(packages.join(dev)));
    assert!(fields.contains(&format!("Depends: libeverpost1 (= {})", env!("CARGO_PKG_VERSION"))), "{fields}");
    // Into a root of its own: what dpkg would do, without its database.
    for name in &names {
        passes(Command::new("dpkg-deb").arg("--extract").arg(packages.join(name)).arg(&scratch));
    }
    let triplet = passes(Command::new("gcc").arg("-dumpmachine")).trim().to_owned();
    let lib = scratch.join("usr/lib").join(triplet);
    let server = Hl7Library::PythonHl7.serve(&world);
    let program = world.path("send");
    let mut command = Command::new("gcc");
    command.arg(root().join("ffi/examples/send_hl7.c")).arg("-o").arg(&program).arg(format!("-I{}", scratch.join("usr/include").display()));
    passes(command.arg(format!("-L{}", lib.display())).arg("-leverpost"));
    let said = passes(Command::new(&program).env("LD_LIBRARY_PATH", &lib).arg(world.path("spool")).arg(server.address().to_string()));
    assert!(said.contains("MSA|AA|CONSOLE-1"), "{said}");
    if have("pkg-config") {
        let mut command = Command::new("pkg-config");
        command.env("PKG_CONFIG_SYSROOT_DIR", &scratch).env("PKG_CONFIG_LIBDIR", lib.join("pkgconfig")).args(["--cflags", "--libs", "everpost"]);
        let flags = passes(&mut command);
        assert!(flags.contains("-leverpost"), "{flags}");
    }
}
