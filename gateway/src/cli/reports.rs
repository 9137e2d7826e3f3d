//! `check`, `status` and `destination`: commands that ask and tell.
//! Rules: `status` exits with 3 whenever the state is not `ok`, so that scripts need not read it.
//! Errors: `Failure`.

use super::connect::Place;
use super::nagios::{self, Ages};
use super::{EXIT_DEGRADED, EXIT_DONE, EXIT_REFUSED, EXIT_USAGE, Failure, Reach, answer, answer_json};
use crate::config::Config;
use crate::descriptors;
use crate::process;
use crate::status::{Report, Standing};
use clap::Args;
use hyper::Method;
use serde_json::{Value, json};
use std::path::Path;

/// `everpost check`.
/// # Errors
/// What is wrong with the configuration, one line each.
pub fn check(path: &Path, json: bool) -> Result<u8, Failure> {
    match Config::load(path) {
        Ok(config) => {
            let mut warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
            // `run` raises the limit as far as it may.
            warnings.extend(descriptors::warning(process::descriptors().1, &config).map(|w| format!("{}: {w}", path.display())));
            if json {
                answer_json(&json!({"ok": true, "errors": [], "warnings": warnings}))?;
            } else {
                let mut text: String = warnings.iter().map(|w| format!("{w}\n")).collect();
                let (listeners, destinations) = (config.listeners.len(), config.destinations.len());
                text.push_str(&format!("{}: {}, {}, ok", path.display(), counted(listeners, "listener"), counted(destinations, "destination")));
                answer(&text)?;
            }
            Ok(EXIT_DONE)
        }
        Err(problems) => {
            let errors: Vec<String> = problems.iter().map(ToString::to_string).collect();
            if json {
                answer_json(&json!({"ok": false, "errors": errors, "warnings": []}))?;
                return Ok(EXIT_USAGE);
            }
            Err(Failure::configuration(&problems))
        }
    }
}

/// A number and what it counts.
fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// `everpost status`.
#[derive(Debug, Args)]
pub struct Status {
    /// One line and an exit status (0, 1, 2, 3) as Nagios, Icinga and Checkmk want them
    #[arg(long, conflicts_with = "json")]
    nagios: bool,
    /// With --nagios: seconds that the oldest envelope may wait before it is a warning
    #[arg(long, value_name = "N", default_value_t = 300, requires = "nagios")]
    warning_age: u64,
    /// With --nagios: seconds that the oldest envelope may wait before it is critical
    #[arg(long, value_name = "N", default_value_t = 900, requires = "nagios")]
    critical_age: u64,
    /// Nothing but an exit status: 0 it takes messages, 1 it does not; for the health check of a container
    #[arg(long, conflicts_with_all = ["json", "nagios"])]
    ready: bool,
    #[command(flatten)]
    reach: Reach,
}

impl Status {
    /// Runs it.
    /// # Errors
    /// The gateway cannot be reached; with `--nagios` that is an answer too.
    pub async fn execute(self, json: bool) -> Result<u8, Failure> {
        if self.ready {
            return match seen(self.reach.place()).await {
                Ok((_, report)) if report.state != Standing::Refusing => Ok(EXIT_DONE),
                Ok((_, report)) => Err(Failure::new(EXIT_REFUSED, report.reasons.join("; "))),
                Err(failure) => Err(Failure::new(EXIT_REFUSED, failure.what)),
            };
        }
        if !self.nagios {
            return status(&self.reach.place()?, json).await;
        }
        let ages = Ages { warning: self.warning_age, critical: self.critical_age };
        let (line, code) = match seen(self.reach.place()).await {
            Ok((_, report)) => nagios::told(&report, ages),
            Err(failure) => nagios::failed(&failure),
        };
        answer(&line)?;
        Ok(code)
    }
}

/// The status as it came, and read.
async fn seen(place: Result<Place, Failure>) -> Result<(Value, Report), Failure> {
    let value = place?.json(Method::GET, "/api/v1/status", None).await?;
    let report = serde_json::from_value(value.clone()).map_err(|e| Failure::new(EXIT_REFUSED, format!("status: {e}")))?;
    Ok((value, report))
}

async fn status(place: &Place, json: bool) -> Result<u8, Failure> {
    let (value, report) = seen(Ok(place.clone())).await?;
    if json {
        answer_json(&value)?
    } else {
        answer(&report.table())?
    }
    Ok(if report.state == Standing::Ok { EXIT_DONE } else { EXIT_DEGRADED })
}

/// `everpost destination pause|resume|failback`.
/// # Errors
/// The gateway refused or cannot be reached.
pub async fn destination(place: &Place, name: &str, verb: &str, json: bool) -> Result<u8, Failure> {
    let value = place.json(Method::POST, &format!("/api/v1/destinations/{name}/{verb}"), None).await?;
    let told = match verb {
        "pause" => "paused",
        "resume" => "resumed",
        _ => "returns to its first good endpoint; `everpost status` shows when it has",
    };
    if json {
        answer_json(&value)?
    } else {
        answer(&format!("{name}: {told}"))?
    }
    Ok(EXIT_DONE)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/everpost.example.toml");

    #[test]
    fn the_example_configuration_loads_without_a_remark() {
        let config = Config::load(Path::new(EXAMPLE)).unwrap();
        assert_eq!((config.listeners.len(), config.destinations.len(), config.warnings.len()), (2, 2, 0), "{:?}", config.warnings);
    }

    #[test]
    fn one_is_not_a_plural() {
        assert_eq!((counted(1, "listener"), counted(2, "listener")), ("1 listener".to_owned(), "2 listeners".to_owned()));
    }

    #[test]
    fn what_the_example_says_in_comments_is_valid_too() {
        let mut all = String::new();
        for line in std::fs::read_to_string(EXAMPLE).unwrap().lines() {
            let bare = line.trim_start().strip_prefix("# ").filter(|l| l.contains(" = ") && !l.starts_with("tls") && !l.contains("`"));
            all.push_str(
                bare.filter(|l| l.split(' ').next().is_some_and(|w| w.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))).unwrap_or(line),
            );
            all.push('\n');
        }
        assert!(all.contains("\nhold_down_max"), "nothing was uncommented");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("all.toml");
        std::fs::write(&file, all).unwrap();
        assert!(Config::load(&file).is_ok(), "{:?}", Config::load(&file).err());
    }
}
