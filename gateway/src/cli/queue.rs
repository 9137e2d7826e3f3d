//! `everpost queue`: envelopes, listed, looked at, decided on, exported.
//! Rules: decisions are durable when the command returns; `--all` goes page by page, so it is bounded in memory and may be interrupted and repeated.
//! Errors: `Failure`; a decision refused for some envelopes names each and exits with 1.

use super::connect::Place;
use super::moving::{self, Digesting, Import};
use super::{EXIT_DONE, EXIT_REFUSED, Failure, Reach, answer, answer_json, story};
use crate::status::{age, cut, cut_middle};
use clap::{Args, Subcommand, ValueEnum};
use hyper::Method;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// `everpost queue`.
#[derive(Debug, Subcommand)]
pub enum Queue {
    /// List envelopes; without --state, those that wait
    List(List),
    /// Everything known of one envelope, attempt by attempt
    Show {
        /// Envelope
        id: u64,
        /// Which gateway
        #[command(flatten)]
        reach: Reach,
    },
    /// Try now; a dead letter goes again, out of order unless its lane stopped for it
    Retry(Chosen),
    /// Keep until released
    Hold(Chosen),
    /// Let held envelopes go on
    Release(Chosen),
    /// End custody: these will not be delivered
    Discard {
        /// Which envelopes
        #[command(flatten)]
        chosen: Chosen,
        /// Why; recorded
        #[arg(long, value_name = "T")]
        reason: String,
    },
    /// Write the content: HL7 as it came, DICOM as Part 10 files
    Export {
        /// Which envelopes
        #[command(flatten)]
        chosen: Chosen,
        /// Directory for the files; without it, one envelope goes to standard output
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
    },
    /// Take what `queue export --to` wrote on another box, in its order
    Import(Import),
}

/// `queue list`.
#[derive(Debug, Args)]
pub struct List {
    /// Only this destination
    #[arg(long, value_name = "D")]
    destination: Option<String>,
    /// Only this state
    #[arg(long, value_name = "S")]
    state: Option<StateName>,
    /// Only with this key: control id, SOP instance UID, patient, accession number, ...
    #[arg(long, value_name = "K")]
    key: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Go on after a former answer's `next`
    #[arg(long, value_name = "C")]
    cursor: Option<String>,
    #[command(flatten)]
    reach: Reach,
}

/// Which envelopes a verb is for.
#[derive(Debug, Args)]
pub struct Chosen {
    /// Envelopes
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<u64>,
    /// Every envelope of --destination in --state; of a destination that is no longer configured, every one that waits
    #[arg(long, requires = "destination")]
    all: bool,
    /// Destination (with --all)
    #[arg(long, value_name = "D", requires = "all")]
    destination: Option<String>,
    /// State (with --all)
    #[arg(long, value_name = "S", requires = "all")]
    state: Option<StateName>,
    #[command(flatten)]
    reach: Reach,
}

/// A state's name.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum StateName {
    /// Waiting its turn
    Ready,
    /// Being attempted
    InFlight,
    /// Waiting for its next attempt
    Deferred,
    /// Kept until released
    Held,
    /// Done
    Delivered,
    /// Set aside
    DeadLetter,
}

impl StateName {
    pub(super) fn text(self) -> String {
        self.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
    }
}

impl Queue {
    /// Runs it.
    /// # Errors
    /// As the module says.
    pub async fn execute(self, json: bool) -> Result<u8, Failure> {
        match self {
            Queue::List(list) => list.execute(json).await,
            Queue::Show { id, reach } => show(&reach.place()?, id, json).await,
            Queue::Retry(chosen) => chosen.decide("retry", None, json).await,
            Queue::Hold(chosen) => chosen.decide("hold", None, json).await,
            Queue::Release(chosen) => chosen.decide("release", None, json).await,
            Queue::Discard { chosen, reason } => chosen.decide("discard", Some(reason), json).await,
            Queue::Import(import) => import.execute(json).await,
            Queue::Export { chosen, to } => chosen.export(to.as_deref(), json).await,
        }
    }
}

impl List {
    async fn execute(self, json: bool) -> Result<u8, Failure> {
        let place = self.reach.place()?;
        let (mut found, mut cursor, wanted) = (Vec::new(), self.cursor, self.limit as usize);
        // One question reads only so much of a long backlog: its page may be short, even empty, and still not be the last.
        loop {
            let mut query = vec![("limit", (wanted - found.len()).to_string())];
            query.extend(self.destination.clone().map(|d| ("destination", d)));
            query.extend(self.state.map(|s| ("state", s.text())));
            query.extend(self.key.clone().map(|k| ("key", k)));
            query.extend(cursor.map(|c| ("cursor", c)));
            let mut page = place.json(Method::GET, &with_query("/api/v1/envelopes", &query), None).await?;
            found.append(page["envelopes"].as_array_mut().unwrap_or(&mut Vec::new()));
            cursor = page["next"].as_str().map(str::to_owned);
            if cursor.is_none() || found.len() >= wanted {
                break;
            }
        }
        let page = json!({"envelopes": found, "next": cursor});
        if json {
            answer_json(&page)?
        } else {
            answer(&table(&page))?
        }
        Ok(EXIT_DONE)
    }
}

impl Chosen {
    async fn decide(self, verb: &str, reason: Option<String>, json: bool) -> Result<u8, Failure> {
        let place = self.reach.place()?;
        let (mut done, mut failed) = (0_u64, Vec::new());
        if self.all {
            let mut cursor: Option<String> = None;
            loop {
                let body = json!({"destination": self.destination, "state": self.state.map(StateName::text), "reason": reason, "cursor": cursor});
                let page = place.json(Method::POST, &format!("/api/v1/envelopes/{verb}"), Some(&body)).await?;
                done += page["done"].as_u64().unwrap_or(0);
                failed.extend(page["failed"].as_array().cloned().unwrap_or_default());
                cursor = page["next"].as_str().map(str::to_owned);
                if cursor.is_none() {
                    break;
                }
            }
        } else {
            let body = json!({ "reason": reason });
            for id in self.ids {
                match place.json(Method::POST, &format!("/api/v1/envelopes/{id}/{verb}"), Some(&body)).await {
                    Ok(_) => done += 1,
                    Err(e) if e.code == EXIT_REFUSED => failed.push(json!({"id": id.to_string(), "detail": e.what})),
                    Err(e) => return Err(e),
                }
            }
        }
        if json {
            answer_json(&json!({"done": done, "failed": failed}))?;
        } else {
            let mut text = format!("{verb}: {done} done");
            for f in &failed {
                let _ = write!(text, "\n{}", f["detail"].as_str().unwrap_or_default());
            }
            answer(&text)?;
        }
        Ok(if failed.is_empty() { EXIT_DONE } else { EXIT_REFUSED })
    }

    async fn export(self, to: Option<&Path>, json: bool) -> Result<u8, Failure> {
        let place = self.reach.place()?;
        let Some(dir) = to else {
            let [id] = self.ids[..] else {
                return Err(Failure::new(super::EXIT_USAGE, "several envelopes need a directory: --to DIR"));
            };
            place.bytes(&format!("/api/v1/envelopes/{id}/content"), &mut std::io::stdout()).await?;
            return Ok(EXIT_DONE);
        };
        std::fs::create_dir_all(dir).map_err(|e| Failure::new(EXIT_REFUSED, format!("{}: {e}", dir.display())))?;
        let mut written = Vec::new();
        if self.all {
            let mut cursor: Option<String> = None;
            loop {
                let mut query = vec![("limit", "1000".to_owned())];
                query.extend(self.destination.clone().map(|d| ("destination", d)));
                query.extend(self.state.map(|s| ("state", s.text())));
                query.extend(cursor.map(|c| ("cursor", c)));
                let page = place.json(Method::GET, &with_query("/api/v1/envelopes", &query), None).await?;
                for envelope in page["envelopes"].as_array().into_iter().flatten() {
                    if let Some(id) = envelope["id"].as_str() {
                        written.push(export_one(&place, id, dir).await?);
                    }
                }
                cursor = page["next"].as_str().map(str::to_owned);
                if cursor.is_none() {
                    break;
                }
            }
        } else {
            for id in self.ids {
                written.push(export_one(&place, &id.to_string(), dir).await?);
            }
        }
        if json {
            answer_json(&json!({ "files": written }))?;
        } else {
            answer(&format!("{} files in {}", written.len(), dir.display()))?;
        }
        Ok(EXIT_DONE)
    }
}

/// Writes one envelope's content; a file appears under its name only when it is whole.
async fn export_one(place: &Place, id: &str, dir: &Path) -> Result<String, Failure> {
    let envelope = place.json(Method::GET, &format!("/api/v1/envelopes/{id}"), None).await?;
    let end = if envelope["protocol"].as_str() == Some("dicom") { "dcm" } else { "hl7" };
    let (file, part) = (dir.join(format!("{id}.{end}")), dir.join(format!(".{id}.part")));
    let failed = |e: std::io::Error| Failure::new(EXIT_REFUSED, format!("{}: {e}", part.display()));
    let mut out = Digesting::new(std::io::BufWriter::new(std::fs::File::create(&part).map_err(failed)?));
    let fetched = place.bytes(&format!("/api/v1/envelopes/{id}/content"), &mut out).await;
    let (out, sha256) = out.finish();
    let ended = fetched.and_then(|()| out.into_inner().map_err(|e| failed(e.into_error()))?.sync_all().map_err(failed));
    if let Err(e) = ended.and_then(|()| std::fs::rename(&part, &file).map_err(failed)) {
        drop(std::fs::remove_file(&part)); // what is left of it is of no use
        return Err(e);
    }
    moving::note(dir, &moving::Line::of(&envelope, &file, sha256))?; // `queue import` goes by it
    Ok(file.display().to_string())
}

async fn show(place: &Place, id: u64, json: bool) -> Result<u8, Failure> {
    let found = place.json(Method::GET, &format!("/api/v1/envelopes/{id}"), None).await?;
    if json {
        answer_json(&found)?
    } else {
        answer(&story::text(&found))?
    }
    Ok(EXIT_DONE)
}

/// A list for people, 80 columns wide.
fn table(page: &Value) -> String {
    let envelopes = page["envelopes"].as_array().map(Vec::as_slice).unwrap_or_default();
    if envelopes.is_empty() {
        return "no envelopes".to_owned();
    }
    let mut out = format!("{:>10} {:<14} {:<11} {:>3} {:>8} {:<28}\n", "ID", "DESTINATION", "STATE", "TRY", "AGE", "KEY");
    for e in envelopes {
        let text = |field: &str| e[field].as_str().unwrap_or_default().to_owned();
        let state = format!("{}{}", text("state"), if e["ambiguous"].as_bool() == Some(true) { "?" } else { "" });
        let _ = writeln!(
            out,
            "{:>10} {:<14} {:<11} {:>3} {:>8} {}",
            text("id"),
            cut(&text("destination"), 14),
            cut(&state, 12),
            e["attempts"].as_u64().unwrap_or(0),
            e["age_seconds"].as_u64().map(age).unwrap_or_default(),
            cut_middle(&text("key"), 28)
        );
        if let Some(last) = e["last"].as_object() {
            let field = |name: &str| last.get(name).and_then(Value::as_str).unwrap_or_default();
            let _ = writeln!(out, "{:>10} {}", "", cut(&format!("{} at {}: {}", field("phase"), field("endpoint"), field("outcome")), 68));
        }
    }
    if let Some(next) = page["next"].as_str() {
        let _ = writeln!(out, "more: --cursor {next}");
    }
    out
}

/// A path with its query, percent-encoded.
pub(super) fn with_query(path: &str, query: &[(&str, String)]) -> String {
    let mut out = path.to_owned();
    for (i, (name, value)) in query.iter().enumerate() {
        let _ = write!(out, "{}{name}=", if i == 0 { '?' } else { '&' });
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                out.push(char::from(byte));
            } else {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_survives_what_keys_may_hold() {
        assert_eq!(with_query("/p", &[("a", "1".into()), ("key", "4711^^^H&1 ü".into())]), "/p?a=1&key=4711%5E%5E%5EH%261%20%C3%BC");
    }

    #[test]
    fn the_list_fits_80_columns() {
        let page = json!({"envelopes": [{"id": "1234567890", "destination": "a-very-long-destination-name", "state": "dead-letter", "ambiguous": true,
            "attempts": 999, "age_seconds": 99_999_999_u64, "key": "1.2.840.113619.2.55.3.604688119.868.1249343483.504",
            "last": {"phase": "associate", "endpoint": "secondary", "outcome": "x".repeat(100)}}], "next": "1234567890"});
        for line in table(&page).lines() {
            assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
        }
        assert!(table(&page).contains("1.2.840.1~868.1249343483.504"), "the end of a UID tells it apart: {}", table(&page));
    }
}
