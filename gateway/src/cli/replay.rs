//! `everpost replay`: deliver again what endpoints had answered.
//! Rules: the gateway decides; `--dry-run` only says how much it would be.
//! Errors: `Failure`.

use super::{EXIT_DONE, Failure, Reach, answer, answer_json};
use clap::Args;
use hyper::Method;
use serde_json::json;

/// `replay`.
#[derive(Debug, Args)]
pub struct Replay {
    /// Destination
    destination: String,
    /// Only what this endpoint had answered
    #[arg(long, value_name = "E")]
    from_endpoint: Option<String>,
    /// Answered since then: RFC 3339, or a duration ago (2h)
    #[arg(long, value_name = "T")]
    since: String,
    /// Answered until then
    #[arg(long, value_name = "T")]
    until: Option<String>,
    /// Only say how much it would be
    #[arg(long)]
    dry_run: bool,
    /// Where an order is kept: let old messages come after newer ones
    #[arg(long)]
    out_of_order: bool,
    /// With `reconcile = "query"`: send also what the receiver says it has
    #[arg(long)]
    no_query: bool,
    #[command(flatten)]
    reach: Reach,
}

impl Replay {
    /// Runs it.
    /// # Errors
    /// The gateway refused or cannot be reached.
    pub async fn execute(self, as_json: bool) -> Result<u8, Failure> {
        let place = self.reach.place()?;
        let body = json!({
            "from_endpoint": self.from_endpoint,
            "since": self.since,
            "until": self.until,
            "dry_run": self.dry_run,
            "out_of_order": self.out_of_order,
            "no_query": self.no_query,
        });
        let value = place.json(Method::POST, &format!("/api/v1/destinations/{}/replay", self.destination), Some(&body)).await?;
        if as_json {
            answer_json(&value)?;
            return Ok(EXIT_DONE);
        }
        let number = |key: &str| value[key].as_u64().unwrap_or(0);
        let begins = if self.dry_run { "would be delivered again" } else { "are delivered again" };
        let mut text = format!("{}: {} envelopes, {} bytes, {begins}", self.destination, number("envelopes"), number("bytes"));
        if let (Some(first), Some(last)) = (value["accepted"]["first"].as_str(), value["accepted"]["last"].as_str()) {
            text.push_str(&format!("; accepted from {first} to {last}"));
        }
        if number("gone") > 0 {
            text.push_str(&format!("\n{} more cannot be: history no longer has their content", number("gone")));
        }
        answer(&text)?;
        Ok(EXIT_DONE)
    }
}
