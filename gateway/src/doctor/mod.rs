//! `everpost doctor`: examines a box end to end, says what is wrong and what to do: configuration, disk, permissions, clock, descriptors, certificates,
//! ports, names, the way between endpoints, and each endpoint's echo.
//!
//! Rules: it changes nothing (one unnamed file in `data_dir`, for the measurement of the disk, is gone when it ends); it works beside a running gateway and
//! without one; what is seen (`look`, `peers`) and what follows from it (`judge`) are apart; every wait has a deadline.
//! Errors: `Failure`, for a configuration that does not load; everything else is a finding.

mod judge;
mod look;
mod peers;

use crate::cli::connect::Place;
use crate::cli::{EXIT_DEGRADED, EXIT_DONE, EXIT_REFUSED};
use crate::config::{Config, Problem};
use crate::status::wrapped;
use judge::Resolved;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// How a finding stands. In order: the worst is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// Could not be looked at.
    Skipped,
    /// Works, and should be looked at.
    Warning,
    /// Does not work, or will not keep what it promises.
    Fault,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which check: `configuration`, `gateway`, `disk`, `sync`, `space`, `permissions`, `clock`, `descriptors`, `certificate`, `port`, `names`, `way`, `echo`, `format`.
    pub check: &'static str,
    /// Of what: a listener, an endpoint, a file.
    pub subject: String,
    /// How it stands.
    pub state: State,
    /// What was seen.
    pub what: String,
    /// What to do; empty where nothing is to be done.
    pub remedy: String,
}

impl Finding {
    fn new(check: &'static str, subject: impl Into<String>, state: State, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, subject: subject.into(), state, what: what.into(), remedy: remedy.into() }
    }

    fn ok(check: &'static str, subject: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(check, subject, State::Ok, what, "")
    }

    fn skipped(check: &'static str, subject: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(check, subject, State::Skipped, what, "")
    }

    fn warning(check: &'static str, subject: impl Into<String>, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(check, subject, State::Warning, what, remedy)
    }

    fn fault(check: &'static str, subject: impl Into<String>, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(check, subject, State::Fault, what, remedy)
    }
}

/// Everything that was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// No fault and no warning.
    pub ok: bool,
    /// How many faults.
    pub faults: usize,
    /// How many warnings.
    pub warnings: usize,
    /// In the order they were made.
    pub checks: Vec<Finding>,
}

impl Diagnosis {
    fn of(checks: Vec<Finding>) -> Self {
        let count = |state| checks.iter().filter(|f| f.state == state).count();
        let (faults, warnings) = (count(State::Fault), count(State::Warning));
        Self { ok: faults + warnings == 0, faults, warnings, checks }
    }

    /// 0 nothing found, 3 warnings, 1 faults.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match (self.faults, self.warnings) {
            (0, 0) => EXIT_DONE,
            (0, _) => EXIT_DEGRADED,
            _ => EXIT_REFUSED,
        }
    }

    /// For people, 80 columns wide: what is well first, so that what is not stands above the prompt.
    #[must_use]
    pub fn text(&self) -> String {
        let mut sorted: Vec<&Finding> = self.checks.iter().collect();
        sorted.sort_by_key(|f| f.state);
        let mut out = String::new();
        for f in sorted {
            let mark = match f.state {
                State::Ok => "ok",
                State::Skipped => "skipped",
                State::Warning => "WARNING",
                State::Fault => "FAULT",
            };
            for (i, line) in wrapped(&format!("{} {}: {}", f.check, f.subject, f.what), 71).into_iter().enumerate() {
                let _ = writeln!(out, "{:<8} {line}", if i == 0 { mark } else { "" });
            }
            for (i, line) in wrapped(&f.remedy, 68).into_iter().enumerate().filter(|(_, line)| !line.is_empty()) {
                let _ = writeln!(out, "{:<8} {} {line}", "", if i == 0 { "->" } else { "  " });
            }
        }
        let well = self.checks.iter().filter(|f| f.state == State::Ok).count();
        let skipped = self.checks.len() - well - self.faults - self.warnings;
        let _ = write!(out, "\n{well} ok, {skipped} skipped, {} warnings, {} faults", self.warnings, self.faults);
        out
    }
}

/// Examines the box that a configuration describes. `within`: deadline of each peer's answer.
/// # Errors
/// The problems of a configuration that does not load.
pub async fn examine(file: &Path, within: Duration, with_peers: bool) -> Result<Diagnosis, Vec<Problem>> {
    let config = Config::load(file)?;
    let now = SystemTime::now();
    let mut checks = vec![judge::configuration(&config)];
    checks.extend(config.warnings.iter().filter(|w| !judge::tells_of_a_certificate(w)).map(judge::warning));

    let gateway = look::gateway(&config, &place(&config)).await;
    checks.push(judge::gateway(&gateway));
    checks.extend(judge::format(&look::formats(&config.data_dir)));
    let disk = look::disk(&config.data_dir, config.spool.reserve).await;
    checks.extend(judge::disk(&disk, config.spool.reserve));
    checks.extend(judge::permissions(&look::files(&config)));
    checks.extend(judge::clock(&look::clock(&config), now));
    checks.push(judge::descriptors(look::descriptor_limit(&gateway), &config));
    checks.extend(judge::certificates(&look::certificates(&config), now));
    let ports = look::ports(&config, &gateway);
    checks.extend(ports.iter().map(judge::port));
    if with_peers {
        let met = peers::meet(&config, within).await;
        let resolved: Vec<Resolved> = met.iter().map(peers::Met::resolved).collect();
        checks.extend(met.iter().flat_map(peers::Met::findings));
        checks.extend(judge::ways(&config, &resolved, &look::is_ours));
    } else {
        checks.push(Finding::skipped("echo", "endpoints", "not asked (--no-peers)"));
    }
    Ok(Diagnosis::of(checks))
}

fn place(config: &Config) -> Place {
    Place { data_dir: config.data_dir.clone(), bind: config.admin_bind.map(|b| b.to_string()), name: Some(config.name.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_stands_last_and_decides() {
        let one = |state| Finding::new("port", "listener a", state, "seen ".repeat(40), "do this");
        let diagnosis = Diagnosis::of(vec![one(State::Fault), one(State::Ok), one(State::Warning), one(State::Skipped)]);
        assert_eq!((diagnosis.ok, diagnosis.faults, diagnosis.warnings, diagnosis.exit_status()), (false, 1, 1, EXIT_REFUSED));
        let text = diagnosis.text();
        let at = |mark: &str| text.find(mark).unwrap_or(usize::MAX);
        assert!(at("\nskipped") < at("\nWARNING") && at("\nWARNING") < at("\nFAULT"), "{text}");
        assert!(text.ends_with("1 ok, 1 skipped, 1 warnings, 1 faults"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert_eq!(Diagnosis::of(vec![one(State::Warning), one(State::Ok)]).exit_status(), EXIT_DEGRADED);
        assert_eq!(Diagnosis::of(vec![one(State::Skipped), one(State::Ok)]).exit_status(), EXIT_DONE);
    }
}
