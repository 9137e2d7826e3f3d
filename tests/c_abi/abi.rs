//! The interface itself: the header as it is made, the names that are exported, and what `abidiff` sees of both.
//! Rules: what stands in the baselines (`ffi/abi`) was published and stays; `UPDATE=1` writes what is new, and is never the answer to something that is gone.

use crate::{have, library, passes, root, run};
use harness::{World, not_run};
use std::path::{Path, PathBuf};
use std::process::Command;

/// That the library is built, and linked into this test, is what makes Cargo bring the shared one too.
const ABI: u32 = everpost::EVERPOST_ABI;

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
fn abidiff_sees_no_changed_interface_and_catches_a_changed_one() {
    if !have("abidiff") {
        not_run("c_abi", "the interface was not compared by abidiff: it is not installed");
        return;
    }
    let baseline = root().join("ffi/abi/libeverpost.abi");
    let world = World::new("c-abidiff");
    let header = std::fs::read_to_string(root().join("ffi/include/everpost.h")).unwrap();
    let now = described(&world, "now", &header);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::copy(&now, &baseline).unwrap();
    }
    let compare = |other: &Path| run(Command::new("abidiff").arg(&baseline).arg(other));
    let same = compare(&now);
    assert!(same.status.success(), "{}", String::from_utf8_lossy(&same.stdout));
    for (name, was, is) in [
        (
            "argument",
            "uint32_t timeout_ms,\n                                  uint64_t *left",
            "uint64_t timeout_ms,\n                                  uint64_t *left",
        ),
        ("result", "bool everpost_error_is_retriable", "uint64_t everpost_error_is_retriable"),
        ("number", "EVERPOST_NOT_SENT = 9", "EVERPOST_NOT_SENT = 20"),
        ("gone", "const char *everpost_version(void);", ""),
    ] {
        let changed = header.replace(was, is);
        assert_ne!(changed, header, "{name}: the header has no such text");
        let seen = compare(&described(&world, name, &changed));
        assert!(!seen.status.success(), "{name}: a changed interface was not seen");
    }
}

/// What abidiff compares. Of the library itself only the interface: its C types, as the header has them.
fn described(world: &World, name: &str, header: &str) -> PathBuf {
    let description = world.path(&format!("{name}.abi"));
    let types = compile_types(world, name, header);
    passes(Command::new("abidw").args(["--no-show-locs", "--no-comp-dir-path", "--no-corpus-path", "--out-file"]).arg(&description).arg(types));
    description
}

/// A library that has the functions of the header, with the header's types: Rust's own debug information does not know C's.
fn compile_types(world: &World, name: &str, header: &str) -> PathBuf {
    let dir = world.folder(name);
    std::fs::write(dir.join("everpost.h"), header).unwrap();
    let code: String = header.split("*/").map(|part| part.split("/*").next().unwrap_or_default()).collect();
    let mut source = String::from("#include <everpost.h>\n");
    for declaration in code.split(';').map(str::trim).filter(|d| d.contains("everpost_") && d.ends_with(')') && !d.contains("(*")) {
        let declaration = declaration.rsplit_once("extern \"C\" {").map_or(declaration, |(_, d)| d);
        let declaration = declaration.lines().filter(|line| !line.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n");
        let returns = if declaration.trim_start().starts_with("void everpost_") { "" } else { "return 0;" };
        source += &format!("{declaration} {{ {returns} }}\n");
    }
    std::fs::write(dir.join("types.c"), source).unwrap();
    let library = dir.join("libeverpost.so.1");
    passes(
        Command::new("gcc")
            .current_dir(&dir)
            .args(["-g", "-shared", "-fPIC", "-w", "-I.", "-Wl,-soname,libeverpost.so.1", "types.c", "-o"])
            .arg(&library),
    );
    library
}

/// The names of the agreement, with the signatures that programs outside of the repository were promised: a C file that assigns each to a pointer of its
/// type does not compile if one is missing or another.
#[test]
fn every_promised_function_has_its_promised_signature() {
    let world = World::new("c-promised");
    let source = world.write("promised.c", PROMISED);
    for (compiler, language) in [("gcc", "c"), ("clang", "c"), ("g++", "c++"), ("clang++", "c++")] {
        if !have(compiler) {
            not_run("c_abi", &format!("the signatures were not looked at by {compiler}: it is not installed"));
            continue;
        }
        let standard = if language == "c" { "-std=c11" } else { "-std=c++17" };
        let mut command = Command::new(compiler);
        command.args(["-x", language, standard, "-Wall", "-Wextra", "-pedantic", "-Werror", "-fsyntax-only"]);
        passes(command.arg(format!("-I{}", root().join("ffi/include").display())).arg(&source));
    }
}

const PROMISED: &str = "#include <everpost.h>
typedef everpost_code code;
extern code (*const a[])(everpost_config **);
code (*const a[])(everpost_config **) = {everpost_config_new};
extern code (*const b[])(everpost_config *, const char *, everpost_error **);
code (*const b[])(everpost_config *, const char *, everpost_error **) = {everpost_config_load_file, everpost_config_load_string};
extern void (*const c[])(everpost_config *);
void (*const c[])(everpost_config *) = {everpost_config_free};
extern code (*const d)(const everpost_config *, everpost_client **, everpost_error **);
code (*const d)(const everpost_config *, everpost_client **, everpost_error **) = everpost_open;
extern code (*const e)(everpost_client *, uint32_t, uint64_t *);
code (*const e)(everpost_client *, uint32_t, uint64_t *) = everpost_close;
extern code (*const f[])(everpost_client *, const char *, const void *, size_t, uint64_t *, everpost_error **);
code (*const f[])(everpost_client *, const char *, const void *, size_t, uint64_t *, everpost_error **) = {everpost_submit_hl7, everpost_submit_dicom};
extern code (*const g)(everpost_client *, const char *, const char *, uint64_t *, everpost_error **);
code (*const g)(everpost_client *, const char *, const char *, uint64_t *, everpost_error **) = everpost_submit_dicom_file;
extern code (*const h)(everpost_client *, const char *, const char *, const char *, const char *, everpost_object **, everpost_error **);
code (*const h)(everpost_client *, const char *, const char *, const char *, const char *, everpost_object **, everpost_error **) = everpost_object_begin;
extern code (*const i)(everpost_object *, const void *, size_t, everpost_error **);
code (*const i)(everpost_object *, const void *, size_t, everpost_error **) = everpost_object_write;
extern code (*const j)(everpost_object *, uint64_t *, everpost_error **);
code (*const j)(everpost_object *, uint64_t *, everpost_error **) = everpost_object_finish;
extern code (*const k)(everpost_object *);
code (*const k)(everpost_object *) = everpost_object_abort;
extern code (*const l)(everpost_client *, const char *, const void *, size_t, uint32_t, everpost_answer **, everpost_error **);
code (*const l)(everpost_client *, const char *, const void *, size_t, uint32_t, everpost_answer **, everpost_error **) = everpost_send_hl7;
extern code (*const m)(everpost_client *, const char *, const char *, uint32_t, everpost_answer **, everpost_error **);
code (*const m)(everpost_client *, const char *, const char *, uint32_t, everpost_answer **, everpost_error **) = everpost_send_dicom_file;
extern code (*const n)(everpost_client *, const char *, uint32_t, everpost_error **);
code (*const n)(everpost_client *, const char *, uint32_t, everpost_error **) = everpost_echo;
extern code (*const o)(everpost_client *, uint32_t, everpost_event **);
code (*const o)(everpost_client *, uint32_t, everpost_event **) = everpost_poll;
extern code (*const p)(everpost_client *, uint32_t, uint64_t *, everpost_error **);
code (*const p)(everpost_client *, uint32_t, uint64_t *, everpost_error **) = everpost_flush;
extern code (*const q)(everpost_client *, char **);
code (*const q)(everpost_client *, char **) = everpost_status_json;
extern int (*const r)(everpost_client *);
int (*const r)(everpost_client *) = everpost_event_fd;
extern void (*const s)(char *);
void (*const s)(char *) = everpost_string_free;
extern const char *(*const t)(void);
const char *(*const t)(void) = everpost_version;
extern const char *(*const u[])(const everpost_error *);
const char *(*const u[])(const everpost_error *) = {everpost_error_name, everpost_error_text, everpost_error_endpoint};
extern const char *(*const v[])(const everpost_event *);
const char *(*const v[])(const everpost_event *) = {everpost_event_destination, everpost_event_endpoint, everpost_event_text};
extern const char *(*const w)(const everpost_answer *);
const char *(*const w)(const everpost_answer *) = everpost_answer_endpoint;
extern uint64_t (*const x)(const everpost_event *);
uint64_t (*const x)(const everpost_event *) = everpost_event_id;
static void ends(everpost_answer *answer, everpost_error *error, everpost_event *event) {
    everpost_answer_free(answer);
    everpost_error_free(error);
    everpost_event_free(event);
    (void)(everpost_error_code(error) == EVERPOST_OK && everpost_error_is_retriable(error) && everpost_error_phase(error) == EVERPOST_PHASE_NONE);
    (void)(everpost_event_kind(event) == EVERPOST_EVENT_DELIVERED && everpost_answer_status(answer) == 0 && everpost_answer_bytes(answer, 0));
}
extern void (*const y)(everpost_answer *, everpost_error *, everpost_event *);
void (*const y)(everpost_answer *, everpost_error *, everpost_event *) = ends;
";
