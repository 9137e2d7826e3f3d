//! The fences that no compiler checks: layers, sizes, links, words, what is documented, what must never be in the repository.
//! Rules: only files that git knows (or would take) are looked at; each finding names file and line.
//! Errors: a failed test lists all its findings.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types, missing_docs)]

mod layers;
mod promises;
mod text;

use std::path::{Path, PathBuf};
use std::process::Command;

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Files of the repository with one of these endings (all of them for `&[]`), as paths from the root, with their text. Binary files are left out.
fn files(endings: &[&str]) -> Vec<(String, String)> {
    let listed = Command::new("git").args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(root()).output();
    let names = match listed {
        Ok(out) if out.status.success() => String::from_utf8(out.stdout).unwrap().lines().map(str::to_owned).collect(),
        _ => walk(&root()),
    };
    let wanted = |name: &String| endings.is_empty() || endings.iter().any(|e| name.ends_with(e));
    let mut list: Vec<(String, String)> =
        names.into_iter().filter(wanted).filter_map(|name| std::fs::read_to_string(root().join(&name)).ok().map(|text| (name, text))).collect();
    list.sort();
    assert!(!list.is_empty(), "no files with {endings:?}");
    list
}

/// A source archive has no git: everything but build products.
fn walk(top: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![top.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            let name = entry.file_name();
            if name == "target" || name == ".git" {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                found.push(entry.path().strip_prefix(top).unwrap().display().to_string());
            }
        }
    }
    found
}

/// Text without its unit tests: everything before `#[cfg(test)]` at the end of a file.
fn code(text: &str) -> &str {
    text.rfind("#[cfg(test)]").map_or(text, |at| &text[..at])
}

/// Lines with numbers, comments left out.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(n, line)| (n + 1, line)).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

#[track_caller]
fn none(findings: Vec<String>) {
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}
