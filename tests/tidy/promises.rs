//! What is promised to people is there, and what is there is told: metrics, the C header, the files of the tests, the documents of the map.

use crate::{files, none, root};
use std::collections::BTreeSet;

/// Words of a text that begin with `prefix`.
fn words<'a>(text: &'a str, prefix: &str) -> BTreeSet<&'a str> {
    let split = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    split.filter(|word| word.starts_with(prefix) && word.len() > prefix.len() && !word.ends_with('_')).collect()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn every_metric_is_documented_and_every_documented_metric_exists() {
    let (source, docs) = (read("gateway/src/metrics.rs"), read("docs/operating.md"));
    let table = source.split("const DESCRIBED").nth(1).and_then(|t| t.split("];").next()).expect("the table of metrics");
    let known: BTreeSet<&str> = table.split('"').filter(|word| word.starts_with("everpost_") && !word.contains(' ')).collect();
    assert!(known.len() > 10, "{known:?}");
    let told = words(&docs, "everpost_");
    let base =
        |name: &str| known.contains(name) || ["_bucket", "_sum", "_count"].iter().any(|s| name.strip_suffix(s).is_some_and(|n| known.contains(n)));
    let mut findings: Vec<String> = known.difference(&told).map(|name| format!("{name}: not in docs/operating.md")).collect();
    findings.extend(told.iter().filter(|name| !base(name)).map(|name| format!("{name}: in docs/operating.md, not in the program")));
    none(findings);
}

#[test]
fn the_c_header_has_every_function_and_no_other() {
    let header = read("ffi/include/everpost.h");
    let source: String = files(&[".rs"]).into_iter().filter(|(name, _)| name.starts_with("ffi/src/")).map(|(_, text)| text).collect();
    let exported: BTreeSet<&str> = source
        .split("extern \"C\" fn ")
        .skip(1)
        .filter_map(|rest| rest.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).next())
        .filter(|name| name.starts_with("everpost_"))
        .collect();
    assert!(!exported.is_empty());
    let declared: BTreeSet<&str> = words(&header, "everpost_").into_iter().filter(|word| header.contains(&format!("{word}("))).collect();
    let mut findings: Vec<String> = exported.difference(&declared).map(|name| format!("{name}: exported, not in everpost.h")).collect();
    findings.extend(declared.difference(&exported).map(|name| format!("{name}: in everpost.h, not exported")));
    none(findings);
}

#[test]
fn every_test_file_is_part_of_its_binary() {
    let mut findings = Vec::new();
    for kind in ["conformance", "simulation", "end_to_end", "tidy", "c_abi"] {
        let main = read(&format!("tests/{kind}/main.rs"));
        for (name, _) in files(&[".rs"]) {
            let Some(stem) = name.strip_prefix(&format!("tests/{kind}/")).and_then(|n| n.strip_suffix(".rs")) else { continue };
            if stem != "main" && !stem.contains('/') && !main.contains(&format!("mod {stem};")) {
                findings.push(format!("{name}: not in main.rs"));
            }
        }
    }
    none(findings);
}

#[test]
fn the_documents_of_the_map_are_there() {
    let missing = [
        "README.md",
        "docs/architecture.md",
        "docs/operating.md",
        "docs/spool-format.md",
        "docs/configuration.md",
        "docs/c-api.md",
        "docs/conformance/dicom.md",
        "docs/conformance/hl7.md",
        "deploy/everpost.example.toml",
        "tests/run",
        ".ci/run",
    ];
    none(missing.iter().filter(|path| !root().join(path).exists()).map(|path| format!("{path} is missing")).collect());
}

/// Names of the configuration's keys: what `docs/configuration.md` lists is generated from the parser; here the example must use no other.
#[test]
fn the_example_configuration_uses_documented_keys() {
    let (example, docs) = (read("deploy/everpost.example.toml"), read("docs/configuration.md"));
    let mut findings = Vec::new();
    for (n, line) in example.lines().enumerate() {
        let line = line.trim_start().trim_start_matches('#').trim_start();
        let Some((key, _)) = line.split_once(" = ").or_else(|| line.split_once('=')) else { continue };
        let key = key.trim();
        let plain = !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        if plain && !docs.contains(&format!("`{key}`")) {
            findings.push(format!("deploy/everpost.example.toml:{}: {key} is not in docs/configuration.md", n + 1));
        }
    }
    none(findings);
}
