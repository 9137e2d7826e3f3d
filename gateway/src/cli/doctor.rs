//! `everpost doctor`: asks for an examination and tells what came of it.
//! Rules: 0 nothing found; 3 warnings; 1 faults; 2 a configuration that does not load.
//! Errors: `Failure`.

use super::{EXIT_USAGE, Failure, answer, answer_json, config_path};
use crate::doctor::examine;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

/// `doctor`.
#[derive(Debug, Args)]
#[command(after_help = "Exit status: 0 nothing found; 3 warnings; 1 faults; 2 the configuration does not load.
Run it as the gateway's user or as root: what that user may not see is skipped.")]
pub struct Doctor {
    /// Configuration file
    #[arg(long, value_name = "F")]
    config: Option<PathBuf>,
    /// Seconds to wait for each peer
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=300))]
    timeout: u64,
    /// Do not ask the peers
    #[arg(long)]
    no_peers: bool,
}

impl Doctor {
    /// Runs it.
    /// # Errors
    /// The configuration does not load.
    pub async fn execute(self, as_json: bool) -> Result<u8, Failure> {
        let examined = examine(&config_path(self.config.as_deref()), Duration::from_secs(self.timeout), !self.no_peers).await;
        match examined {
            Ok(diagnosis) => {
                if as_json {
                    answer_json(&diagnosis)?;
                } else {
                    answer(&diagnosis.text())?;
                }
                Ok(diagnosis.exit_status())
            }
            Err(problems) if as_json => {
                let fault = |p: &crate::config::Problem| {
                    let subject = format!("{}:{}:{}", p.file.display(), p.line, p.column);
                    json!({"check": "configuration", "subject": subject, "state": "fault", "what": p.what, "remedy": p.remedy})
                };
                let checks: Vec<_> = problems.iter().map(fault).collect();
                answer_json(&json!({"ok": false, "faults": checks.len(), "warnings": 0, "checks": checks}))?;
                Ok(EXIT_USAGE)
            }
            Err(problems) => Err(Failure::configuration(&problems)),
        }
    }
}
