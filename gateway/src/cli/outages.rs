//! `everpost outages`: when a destination could not deliver where it wanted, and what `rto` and `rpo` came to.
//! Rules: the latest first; those of drills are marked. Errors: `Failure`.

use super::{EXIT_DONE, EXIT_REFUSED, Failure, Reach, answer, answer_json};
use crate::outages::{ObjectivesLine, OutageLine, span};
use crate::status::{cut, wrapped};
use clap::Args;
use hyper::Method;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// `outages`.
#[derive(Debug, Args)]
pub struct Outages {
    /// Destination; without it, all
    destination: Option<String>,
    #[command(flatten)]
    reach: Reach,
}

impl Outages {
    /// Runs it.
    /// # Errors
    /// The gateway refused or cannot be reached.
    pub async fn execute(self, as_json: bool) -> Result<u8, Failure> {
        let place = self.reach.place()?;
        let names = match self.destination {
            Some(name) => vec![name],
            None => {
                let status = place.json(Method::GET, "/api/v1/status", None).await?;
                let configured = |d: &&Value| d["endpoints"].as_array().is_some_and(|e| !e.is_empty());
                let rows = status["destinations"].as_array().into_iter().flatten().filter(configured);
                rows.filter_map(|d| d["name"].as_str().map(str::to_owned)).collect()
            }
        };
        let mut lists = Vec::new();
        for name in names {
            lists.push(place.json(Method::GET, &format!("/api/v1/destinations/{name}/outages"), None).await?);
        }
        if as_json {
            answer_json(&json!({ "destinations": lists }))?;
            return Ok(EXIT_DONE);
        }
        let mut out = String::new();
        for list in lists {
            table(&mut out, &list).map_err(|e| Failure::new(EXIT_REFUSED, format!("outages: {e}")))?;
        }
        answer(if out.is_empty() { "no destination is configured" } else { out.trim_end() })?;
        Ok(EXIT_DONE)
    }
}

fn table(out: &mut String, list: &Value) -> Result<(), serde_json::Error> {
    let objectives: ObjectivesLine = serde_json::from_value(list["objectives"].clone())?;
    let outages: Vec<OutageLine> = serde_json::from_value(list["outages"].clone())?;
    let limit = |limit: Option<f64>| limit.map_or_else(|| "not set".to_owned(), span);
    let name = list["destination"].as_str().unwrap_or_default();
    let _ = writeln!(out, "{}  rto {}, rpo {}", cut(name, 40), limit(objectives.rto_seconds), limit(objectives.rpo_seconds));
    let _ = writeln!(out, "  {}", objectives.told().unwrap_or_else(|| "30 days: no outage".to_owned()));
    for o in &outages {
        let drill = if o.drill { " (drill)" } else { "" };
        let _ = writeln!(out, "\n  {} {}{drill}", o.started, cut(&o.endpoint, 40));
        let told = if o.ended.is_some() { format!("{}; it was left for: {}", o.summary(), o.reason) } else { o.told() };
        for line in wrapped(&told, 74) {
            let _ = writeln!(out, "     {line}");
        }
    }
    out.push('\n');
    Ok(())
}
