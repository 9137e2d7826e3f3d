//! Direction of use: gateway -> client-lib <- ffi; in client-lib only `io` touches the world, and wire, spool and endpoint choice do not know each other.

use crate::{code, files, lines, none};

/// Folders and files of client-lib that stand side by side: none names another.
const SIBLINGS: [&str; 5] = ["endpoint", "spool", "hl7", "dicom", "mllp"];

#[test]
fn only_io_touches_the_world() {
    let mut findings = Vec::new();
    for (name, text) in files(&[".rs"]) {
        if !name.starts_with("client-lib/src/") || name.starts_with("client-lib/src/io/") || name.ends_with("tests.rs") {
            continue;
        }
        for (n, line) in lines(code(&text)) {
            for word in
                ["tokio", "std::net::Tcp", "std::fs", "std::thread", "Instant::now", "SystemTime::now", "crate::io", "socket2", "rustls", "libc::"]
            {
                if line.contains(word) {
                    findings.push(format!("{name}:{n}: {word} outside io: {}", line.trim()));
                }
            }
        }
    }
    none(findings);
}

#[test]
fn siblings_do_not_name_each_other() {
    let mut findings = Vec::new();
    for (name, text) in files(&[".rs"]) {
        let Some(rest) = name.strip_prefix("client-lib/src/") else { continue };
        let own = rest.split(['/', '.']).next().unwrap_or_default();
        if !SIBLINGS.contains(&own) || name.ends_with("tests.rs") {
            continue;
        }
        for (n, line) in lines(code(&text)) {
            for other in SIBLINGS.iter().filter(|other| **other != own) {
                // No positive answer without a receipt: that one name of the spool is what makes an acknowledgement.
                let receipt = line.trim() == "use crate::spool::Receipt;";
                if line.contains(&format!("crate::{other}::")) && !receipt {
                    findings.push(format!("{name}:{n}: {own} names {other}: {}", line.trim()));
                }
            }
        }
    }
    none(findings);
}

#[test]
fn crates_point_one_way() {
    let mut findings = Vec::new();
    for (manifest, never) in [
        ("client-lib/Cargo.toml", vec!["everpost-gateway", "everpost-ffi"]),
        ("gateway/Cargo.toml", vec!["everpost-ffi"]),
        ("ffi/Cargo.toml", vec!["everpost-gateway"]),
    ] {
        let text = std::fs::read_to_string(crate::root().join(manifest)).unwrap();
        let own = text.split("[dependencies]").nth(1).unwrap_or_default();
        findings.extend(never.iter().filter(|name| own.contains(**name)).map(|name| format!("{manifest} names {name}")));
    }
    none(findings);
}
