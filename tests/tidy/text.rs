//! Sizes, names, heads, links, and what belongs to one machine and not into a repository.

use crate::{files, none, root};

/// Longest file, in lines. A ratchet: it may fall, never rise.
const LINES_MAX: usize = 800;

#[test]
fn files_stay_readable() {
    let mut findings = Vec::new();
    for (name, text) in files(&[".rs", ".py", ".cjs", ".c", ".h", "tests/run"]) {
        let count = text.lines().count();
        if count > LINES_MAX {
            findings.push(format!("{name}: {count} lines, at most {LINES_MAX}: more than one noun in it?"));
        }
    }
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap().lines().count();
    if readme > 120 {
        findings.push(format!("README.md: {readme} lines, at most 120"));
    }
    none(findings);
}

#[test]
fn files_open_with_what_they_are() {
    let mut findings = Vec::new();
    for (name, text) in files(&[".rs"]) {
        if !text.starts_with("//!") && !name.starts_with("tests/bench/") {
            findings.push(format!("{name}: no head comment"));
        }
        let stem = name.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
        if ["util", "utils", "common", "helper", "helpers", "manager", "misc"].contains(&stem) {
            findings.push(format!("{name}: a name that says nothing"));
        }
    }
    none(findings);
}

#[test]
fn nothing_is_left_behind() {
    let mut findings = Vec::new();
    // Put together here, so that this file does not find itself.
    let words = ["todo", "unimplemented", "dbg"].map(|w| format!("{w}!("));
    for (name, text) in files(&[".rs"]) {
        for (n, line) in text.lines().enumerate() {
            if words.iter().any(|w| line.contains(w.as_str())) || line.trim_start().starts_with(concat!("#[", "ignore")) {
                findings.push(format!("{name}:{}: {}", n + 1, line.trim()));
            }
        }
    }
    none(findings);
}

#[test]
fn nothing_of_one_machine_is_in_the_repository() {
    let mut findings = Vec::new();
    let paths = ["/wor\u{6b}/", "/roo\u{74}/", "/far\u{6d}/", "/tmp/w\u{74}", "/hom\u{65}/"];
    let hosts = ["crates.i\u{6f}", "pypi.or\u{67}", "npmjs.or\u{67}", "npmjs.co\u{6d}", "deb.debian.or\u{67}", "files.pythonhosted.or\u{67}"];
    for (name, text) in files(&[]) {
        if name.ends_with(".lock") {
            continue;
        }
        for (n, line) in text.lines().enumerate() {
            for word in paths.iter().chain(&hosts).filter(|word| line.contains(**word)) {
                findings.push(format!("{name}:{}: {word}", n + 1));
            }
        }
    }
    none(findings);
}

#[test]
fn links_lead_somewhere() {
    let mut findings = Vec::new();
    for (name, text) in files(&[".md"]) {
        let folder = root().join(&name).parent().unwrap().to_path_buf();
        for (n, line) in text.lines().enumerate() {
            for part in line.split("](").skip(1) {
                let Some(target) = part.split(')').next() else { continue };
                if target.contains("://") || target.starts_with("mailto:") {
                    continue;
                }
                let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
                let file = if path.is_empty() { root().join(&name) } else { folder.join(path) };
                if !file.exists() {
                    findings.push(format!("{name}:{}: {target} does not exist", n + 1));
                } else if !anchor.is_empty() && !anchors(&file).iter().any(|a| a == anchor) {
                    findings.push(format!("{name}:{}: {target}: no such heading", n + 1));
                }
            }
        }
    }
    none(findings);
}

/// The anchors of a page's headings, as the usual viewers make them.
fn anchors(file: &std::path::Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| {
        let kept = line.trim_start_matches('#').trim().to_lowercase();
        kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}
