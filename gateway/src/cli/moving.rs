//! `everpost queue import`: takes what `queue export --to DIR` wrote on another box, and the list that stands beside it.
//! Rules: in the order of the old box, one after the other, each durable before the next; what was taken is noted in the folder at once, so an import that was
//! interrupted goes on where it ended (at most one message is taken twice); a file that is not what was exported stops it.
//! Errors: `Failure`: 2 for a folder that is no export, else what stopped it, with what to do.

use super::connect::Place;
use super::queue::{StateName, with_query};
use super::{EXIT_DONE, EXIT_REFUSED, EXIT_USAGE, Failure, Reach, answer, answer_json};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

/// The list of an export: a line of JSON per envelope.
const LIST: &str = "envelopes.jsonl";

/// What was imported: a line per envelope.
const DONE: &str = "imported.txt";

/// Envelopes of one export that are read; each costs some hundred bytes of memory.
const ENVELOPES_MAX: usize = 10_000_000;

/// One line of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Line {
    id: u64,
    destination: String,
    state: String,
    file: String,
    sha256: String,
    accepted_at: String,
    #[serde(default)]
    listener: String,
    #[serde(default)]
    peer: String,
    #[serde(default)]
    calling_ae: String,
    #[serde(default)]
    called_ae: String,
}

impl Line {
    /// Of an envelope whose content stands in `file`.
    pub(super) fn of(envelope: &Value, file: &Path, sha256: String) -> Line {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let key = |name: &str| text(&envelope["keys"][name]);
        Line {
            id: envelope["id"].as_str().and_then(|id| id.parse().ok()).unwrap_or(0),
            destination: text(&envelope["destination"]),
            state: text(&envelope["state"]),
            file: file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            sha256,
            accepted_at: text(&envelope["accepted_at"]),
            listener: key("listener"),
            peer: key("peer"),
            calling_ae: key("calling_ae"),
            called_ae: key("called_ae"),
        }
    }

    /// The question that brings it into another gateway.
    fn path(&self, destination: &str) -> String {
        let mut query = vec![("accepted_at", self.accepted_at.clone())];
        for (name, value) in [("listener", &self.listener), ("peer", &self.peer), ("calling_ae", &self.calling_ae), ("called_ae", &self.called_ae)] {
            if !value.is_empty() {
                query.push((name, value.clone()));
            }
        }
        with_query(&format!("/api/v1/destinations/{destination}/import"), &query)
    }
}

/// Appends a line to the list of an export.
pub(super) fn note(dir: &Path, line: &Line) -> Result<(), Failure> {
    append(&dir.join(LIST), &serde_json::to_string(line).unwrap_or_default())
}

fn append(path: &Path, line: &str) -> Result<(), Failure> {
    let written = File::options().create(true).append(true).open(path).and_then(|mut file| {
        file.write_all(format!("{line}\n").as_bytes())?;
        file.sync_data()
    });
    written.map_err(|e| Failure::new(EXIT_REFUSED, format!("{}: {e}", path.display())))
}

/// Passes bytes on and knows their SHA-256.
pub(super) struct Digesting<W>(W, Sha256);

impl<W: Write> Digesting<W> {
    pub(super) fn new(inner: W) -> Self {
        Self(inner, Sha256::new())
    }

    pub(super) fn finish(self) -> (W, String) {
        (self.0, hexadecimal(&self.1.finalize()))
    }
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.0.write(bytes)?;
        self.1.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `queue import`.
#[derive(Debug, Args)]
pub struct Import {
    /// Directory that `queue export --to` wrote
    dir: PathBuf,
    /// Only what was for this destination
    #[arg(long, value_name = "D")]
    destination: Option<String>,
    /// For this destination here, if its name is another one (needs --destination)
    #[arg(long, value_name = "D", requires = "destination")]
    into: Option<String>,
    /// Only what was in this state; without it, what waited to be delivered (ready, deferred, in-flight)
    #[arg(long, value_name = "S")]
    state: Option<StateName>,
    #[command(flatten)]
    reach: Reach,
}

impl Import {
    /// Runs it.
    /// # Errors
    /// As the module says.
    pub async fn execute(self, as_json: bool) -> Result<u8, Failure> {
        let place = self.reach.place()?;
        let (lines, done) = (list(&self.dir)?, done(&self.dir)?);
        let (all, before) = (lines.len(), done.len());
        let wanted = chosen(lines, &done, self.destination.as_deref(), self.state.map(StateName::text).as_deref());
        let mut imported = 0_usize;
        for line in &wanted {
            let into = self.into.as_deref().unwrap_or(&line.destination);
            let taken = one(&place, &self.dir, line, into).await;
            taken.map_err(|e| {
                let again = "run the same command again: it goes on there";
                Failure::new(e.code, format!("envelope {}: {}; {imported} were imported before it; when that is mended, {again}", line.id, e.what))
            })?;
            imported += 1;
        }
        let left = all.saturating_sub(before + imported);
        if as_json {
            answer_json(&json!({"imported": imported, "imported_before": before, "left_out": left}))?;
        } else {
            answer(&format!("{imported} imported, {before} were imported before, {left} left out (other destinations and states)"))?;
        }
        Ok(EXIT_DONE)
    }
}

async fn one(place: &Place, dir: &Path, line: &Line, into: &str) -> Result<(), Failure> {
    let path = dir.join(&line.file);
    let failed = |e: io::Error| Failure::new(EXIT_REFUSED, format!("{}: {e}", path.display()));
    if line.file.contains('/') {
        return Err(Failure::new(EXIT_USAGE, format!("{:?} is no file of an export", line.file)));
    }
    let mut digest = Digesting::new(io::sink());
    io::copy(&mut File::open(&path).map_err(failed)?, &mut digest).map_err(failed)?;
    if digest.finish().1 != line.sha256 {
        return Err(Failure::new(EXIT_REFUSED, format!("{}: this is not what was exported (another SHA-256); copy it again", path.display())));
    }
    place.upload(&line.path(into), File::open(&path).map_err(failed)?).await?;
    append(&dir.join(DONE), &line.id.to_string())
}

/// The list of an export.
fn list(dir: &Path) -> Result<Vec<Line>, Failure> {
    let path = dir.join(LIST);
    let usage = |what: String| Failure::new(EXIT_USAGE, format!("{}: {what}", path.display()));
    let file = File::open(&path).map_err(|e| usage(format!("{e}; name a directory that `everpost queue export --to DIR` wrote")))?;
    let mut lines = Vec::new();
    for (n, line) in BufReader::new(file).lines().take(ENVELOPES_MAX).enumerate() {
        let line = line.map_err(|e| usage(e.to_string()))?;
        lines.push(serde_json::from_str(&line).map_err(|e| usage(format!("line {}: {e}", n + 1)))?);
    }
    Ok(lines)
}

fn done(dir: &Path) -> Result<HashSet<u64>, Failure> {
    let path = dir.join(DONE);
    let mut text = String::new();
    match File::open(&path).and_then(|mut file| file.read_to_string(&mut text)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Failure::new(EXIT_REFUSED, format!("{}: {e}", path.display()))),
        _ => Ok(text.lines().filter_map(|line| line.parse().ok()).collect()),
    }
}

/// What is to be imported, in the order of the old box; an envelope that was exported twice counts once, as it was last.
fn chosen(lines: Vec<Line>, done: &HashSet<u64>, destination: Option<&str>, state: Option<&str>) -> Vec<Line> {
    let fits = |line: &Line| match state {
        Some(state) => line.state == state,
        None => ["ready", "deferred", "in-flight"].contains(&line.state.as_str()),
    };
    let last: std::collections::BTreeMap<u64, Line> = lines.into_iter().map(|line| (line.id, line)).collect();
    let wanted = last.into_values().filter(|line| !done.contains(&line.id) && fits(line));
    wanted.filter(|line| destination.is_none_or(|d| line.destination == d)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn line(id: u64, destination: &str, state: &str) -> Line {
        let envelope = json!({"id": id.to_string(), "destination": destination, "state": state, "accepted_at": "2026-01-02T03:04:05.000Z",
                              "keys": {"listener": "ris-in", "calling_ae": "CT 1"}});
        Line::of(&envelope, Path::new("/x/7.hl7"), "ab".into())
    }

    #[test]
    fn what_waited_comes_in_its_order_and_once() {
        let lines = vec![line(30, "a", "ready"), line(4, "a", "deferred"), line(5, "b", "ready"), line(6, "a", "held"), line(30, "a", "ready")];
        let ids = |found: Vec<Line>| found.iter().map(|l| l.id).collect::<Vec<_>>();
        assert_eq!(ids(chosen(lines.clone(), &HashSet::new(), None, None)), [4, 5, 30]);
        assert_eq!(ids(chosen(lines.clone(), &HashSet::from([4]), Some("a"), None)), [30]);
        assert_eq!(ids(chosen(lines, &HashSet::new(), None, Some("held"))), [6]);
    }

    #[test]
    fn the_list_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(list(dir.path()).unwrap_err().code, EXIT_USAGE);
        let written = [line(1, "a", "ready"), line(2, "a", "ready")];
        written.iter().for_each(|l| note(dir.path(), l).unwrap());
        assert_eq!(list(dir.path()).unwrap(), written);
        assert_eq!(written[0].file, "7.hl7");
        append(&dir.path().join(DONE), "2").unwrap();
        assert_eq!(done(dir.path()).unwrap(), HashSet::from([2]));
        let path = written[0].path("b");
        assert_eq!(path, "/api/v1/destinations/b/import?accepted_at=2026-01-02T03%3A04%3A05.000Z&listener=ris-in&calling_ae=CT%201");
    }
}
