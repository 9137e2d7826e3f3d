//! `everpost drill`: a failover drill, watched to its end; and the reports of those that were.
//! Rules: begins, says what moves, tells each step, prints the result; interrupted, the drill goes on without its watcher (`drill stop` ends it).
//! Errors: `Failure`: 1 refused, or it did not pass; 2 usage; 5 not reachable.

use super::connect::Place;
use super::wishes::person;
use super::{EXIT_DONE, EXIT_REFUSED, EXIT_USAGE, Failure, Reach, answer, answer_json};
use crate::drills::record::Record;
use crate::drills::report;
use crate::status::cut;
use clap::{Args, Subcommand, ValueEnum};
use hyper::Method;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::Duration;

/// How often the drill is looked at.
const LOOK: Duration = Duration::from_millis(300);

/// `drill`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Drill {
    #[command(subcommand)]
    reports: Option<Reports>,
    #[command(flatten)]
    begin: Begin,
}

#[derive(Debug, Subcommand)]
enum Reports {
    /// The drills that were made, the latest first
    List {
        /// Destination; without it, all
        destination: Option<String>,
        #[command(flatten)]
        reach: Reach,
    },
    /// The report of a drill
    Show {
        /// Drill
        id: String,
        /// Form of the report
        #[arg(long, value_enum, default_value = "md")]
        format: Format,
        #[command(flatten)]
        reach: Reach,
    },
    /// End the drill of a destination: it returns at once
    Stop {
        /// Destination
        destination: String,
        #[command(flatten)]
        reach: Reach,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Md,
    Json,
    Html,
}

#[derive(Debug, Args)]
struct Begin {
    /// Destination
    #[arg(required = true)]
    destination: Option<String>,
    /// Let our own dialling fail at the active endpoint, so that detection is exercised too: real traffic moves
    #[arg(long, value_name = "KIND", value_parser = ["refuse", "freeze", "drop", "dns"])]
    fault: Option<String>,
    /// To this endpoint; without it, `drill.to` of the configuration, or the second one
    #[arg(long, value_name = "E")]
    to: Option<String>,
    /// Shift real traffic too, not only test messages
    #[arg(long)]
    real: bool,
    /// How long it stays after the first answer there
    #[arg(long, value_name = "DURATION")]
    stay: Option<String>,
    /// How long the other endpoint has to take over
    #[arg(long, value_name = "DURATION")]
    within: Option<String>,
    /// Stop when more than this percentage of attempts there fails
    #[arg(long, value_name = "PERCENT")]
    max_errors: Option<u16>,
    /// Stop when the oldest waiting envelope is as old
    #[arg(long, value_name = "DURATION")]
    max_age: Option<String>,
    /// Who takes part; as often as needed
    #[arg(long = "participant", value_name = "NAME")]
    participants: Vec<String>,
    /// For the report
    #[arg(long = "note", value_name = "T")]
    notes: Vec<String>,
    /// For the report: what is to be done about known issues
    #[arg(long = "corrective-action", value_name = "T")]
    corrective: Vec<String>,
    /// For the report: when the next test is
    #[arg(long, value_name = "T")]
    next: Option<String>,
    /// Say what would happen, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Return when it has begun
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    reach: Reach,
}

impl Drill {
    /// Runs it.
    /// # Errors
    /// As the module says.
    pub async fn execute(self, as_json: bool) -> Result<u8, Failure> {
        match self.reports {
            None => self.begin.execute(as_json).await,
            Some(Reports::List { destination, reach }) => {
                let query = destination.map(|d| format!("?destination={d}")).unwrap_or_default();
                let value = reach.place()?.json(Method::GET, &format!("/api/v1/drills{query}"), None).await?;
                if as_json {
                    answer_json(&value)?
                } else {
                    answer(&table(&value))?
                }
                Ok(EXIT_DONE)
            }
            Some(Reports::Show { id, format, reach }) => {
                let value = reach.place()?.json(Method::GET, &format!("/api/v1/drills/{id}"), None).await?;
                if as_json || format == Format::Json {
                    answer_json(&value)?;
                    return Ok(EXIT_DONE);
                }
                let record = read(value)?;
                answer(&if format == Format::Html { report::html(&record) } else { report::markdown(&record) })?;
                Ok(EXIT_DONE)
            }
            Some(Reports::Stop { destination, reach }) => {
                let value = reach.place()?.json(Method::POST, &format!("/api/v1/destinations/{destination}/drill-stop"), None).await?;
                if as_json {
                    answer_json(&value)?
                } else {
                    answer(&format!("{destination}: the drill returns; `everpost drill list` shows its end"))?
                }
                Ok(EXIT_DONE)
            }
        }
    }
}

fn read(value: Value) -> Result<Record, Failure> {
    serde_json::from_value(value).map_err(|e| Failure::new(EXIT_REFUSED, format!("drill: {e}")))
}

fn table(value: &Value) -> String {
    let rows: Vec<&Value> = value["drills"].as_array().into_iter().flatten().collect();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut out = String::new();
    if rows.is_empty() {
        out.push_str("no drill was made yet");
    }
    for row in rows {
        let scheduled = if row["scheduled"].is_null() { "" } else { " (scheduled)" };
        let _ = writeln!(out, "{}  {}{scheduled}", text(&row["begun"]), cut(&text(&row["summary"]), 160));
    }
    out
}

impl Begin {
    async fn execute(self, as_json: bool) -> Result<u8, Failure> {
        let destination = self.destination.ok_or_else(|| Failure::new(EXIT_USAGE, "which destination?"))?;
        let place = self.reach.place()?;
        let body = json!({
            "fault": self.fault,
            "to": self.to,
            "real": self.real,
            "stay": self.stay,
            "within": self.within,
            "max_errors": self.max_errors,
            "max_age": self.max_age,
            "participants": self.participants,
            "notes": self.notes,
            "corrective": self.corrective,
            "next": self.next,
            "by": person(),
            "dry_run": self.dry_run,
        });
        let begun = place.json(Method::POST, &format!("/api/v1/destinations/{destination}/drill"), Some(&body)).await?;
        let record = read(begun["drill"].clone())?;
        let moves = if record.moves_traffic() { "REAL TRAFFIC MOVES" } else { "real traffic stays where it is" };
        let would = if self.dry_run { "would be: " } else { "" };
        if !as_json {
            let exposed = record
                .findings
                .exposed
                .filter(|count| *count > 0)
                .map(|count| format!("\n{count} messages in the window were answered by {} and not by {}", record.from, record.to));
            answer(&format!("{would}{}\n{}; {moves}{}", record.id, report::scenario(&record), exposed.unwrap_or_default()))?;
        }
        if self.dry_run || self.detach {
            if as_json {
                answer_json(&begun)?;
            }
            return Ok(EXIT_DONE);
        }
        watch(&place, &destination, record, as_json).await
    }
}

/// Tells each step until it is over.
async fn watch(place: &Place, destination: &str, begun: Record, as_json: bool) -> Result<u8, Failure> {
    let (mut record, mut told) = (begun, String::new());
    while record.running {
        tokio::time::sleep(LOOK).await;
        if !as_json {
            let status = place.json(Method::GET, "/api/v1/status", None).await?;
            let rows = status["destinations"].as_array();
            let row = rows.into_iter().flatten().find(|d| d["name"] == *destination).map(|d| &d["drill"]).filter(|d| d["running"] == *record.id);
            if let Some(doing) = row.and_then(|d| d["doing"].as_str()).filter(|doing| *doing != told) {
                told = doing.to_owned();
                answer(&told)?;
            }
        }
        record = read(place.json(Method::GET, &format!("/api/v1/drills/{}", record.id), None).await?)?;
    }
    if as_json {
        answer_json(&record)?
    } else {
        answer(&format!("\n{}", report::markdown(&record)))?
    }
    Ok(if record.passed() { EXIT_DONE } else { EXIT_REFUSED })
}
