//! What is kept of a drill: one file each in `data_dir/drills`, written whole or not at all.
//! Rules: a file is written beside its place, synced and renamed; what is there when the gateway starts and says that it runs was broken off. At most
//! `DRILLS_KEPT`: the oldest go. No patient data.
//! Errors: those of the disk; a file that cannot be read is told and left alone.

use crate::status::time;
use everpost_client::delivery::drill::{Findings, Outcome, Synthetic};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Reports kept: those of ten destinations, drilled each week for six years, which is how long such tests are to be documented (45 CFR 164.316(b)(2)).
pub const DRILLS_KEPT: usize = 4_096;

/// Bytes of a report that is read back.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// One drill.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// `DESTINATION-TIME`.
    pub id: String,
    /// Of which destination.
    pub destination: String,
    /// `mllp` or `dicom`.
    pub protocol: String,
    /// It goes on.
    pub running: bool,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// When it was due by its schedule, RFC 3339; none: a person began it.
    pub scheduled: Option<String>,
    /// Who began it.
    pub by: String,
    /// Who took part.
    pub participants: Vec<String>,
    /// RFC 3339.
    pub begun: String,
    /// RFC 3339.
    pub ended: Option<String>,
    /// The endpoint that was active.
    pub from: String,
    /// The endpoint it went to.
    pub to: String,
    /// What was simulated.
    pub fault: Option<String>,
    /// Real traffic was shifted.
    pub real: bool,
    /// What was sent to see an answer.
    pub synthetic: Option<Synthetic>,
    /// How long it was to stay.
    pub stay_seconds: f64,
    /// Stop condition: percent of failed attempts.
    pub max_errors: u16,
    /// Stop condition: age of the oldest waiting envelope.
    pub max_age_seconds: f64,
    /// `rto`.
    pub rto_seconds: Option<f64>,
    /// `rpo`.
    pub rpo_seconds: Option<f64>,
    /// How far back was looked for what the lost side may have lost.
    pub window_seconds: Option<f64>,
    /// What was measured; times in milliseconds since the begin.
    pub findings: Findings,
    /// What somebody wrote when it began.
    pub notes: Vec<String>,
    /// What is to be done about it.
    pub corrective: Vec<String>,
    /// When the next one is.
    pub next: Option<String>,
}

impl Record {
    /// `moves`: real traffic moves with it.
    #[must_use]
    pub fn moves_traffic(&self) -> bool {
        self.real || self.fault.is_some()
    }

    /// It ended well.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.outcome == Some(Outcome::Passed)
    }

    /// It is over.
    pub fn end(&mut self, outcome: Outcome, at: u64) {
        self.running = false;
        self.outcome = Some(outcome);
        self.ended = Some(time(at));
    }
}

/// The folder.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    /// The oldest first.
    kept: Mutex<Vec<Record>>,
}

impl Store {
    /// Reads what is there. Gives those that were broken off, told so on the disk. Blocks.
    /// # Errors
    /// The folder cannot be made or read.
    pub fn open(dir: &Path, now: u64) -> std::io::Result<(Store, Vec<Record>)> {
        std::fs::create_dir_all(dir)?;
        let mut kept = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            match path.extension().and_then(|e| e.to_str()) {
                Some("json") => match read(&path) {
                    Ok(record) => kept.push(record),
                    Err(e) => tracing::error!("the report of a drill cannot be read and is left alone: {}: {e}", path.display()),
                },
                // What a crash left half-written.
                Some("new") => drop(std::fs::remove_file(&path)),
                _ => {}
            }
        }
        kept.sort_by(|a: &Record, b| (&a.begun, &a.id).cmp(&(&b.begun, &b.id)));
        let broken: Vec<Record> = kept.iter().filter(|r| r.running).cloned().collect();
        let store = Store { dir: dir.to_owned(), kept: Mutex::new(kept) };
        let mut told = Vec::new();
        for mut record in broken {
            record.end(Outcome::BrokenOff, now);
            record.findings.issues.push("the gateway ended before the drill did; what it had simulated or shifted ended with the process".to_owned());
            store.write(&record)?;
            told.push(record);
        }
        Ok((store, told))
    }

    /// Writes a report, durably, and forgets the oldest beyond the limit. Blocks.
    /// # Errors
    /// The disk's.
    pub fn write(&self, record: &Record) -> std::io::Result<()> {
        let (place, beside) = (self.path(&record.id), self.dir.join(format!("{}.new", record.id)));
        let mut file = std::fs::File::create(&beside)?;
        file.write_all(&serde_json::to_vec_pretty(record).map_err(std::io::Error::other)?)?;
        file.sync_all()?;
        std::fs::rename(&beside, &place)?;
        std::fs::File::open(&self.dir)?.sync_all()?;
        let mut kept = self.locked();
        match kept.iter_mut().find(|known| known.id == record.id) {
            Some(known) => *known = record.clone(),
            None => kept.push(record.clone()),
        }
        while kept.len() > DRILLS_KEPT {
            let oldest = kept.remove(0);
            tracing::warn!(about = oldest.destination, "more than {DRILLS_KEPT} reports of drills: {} is removed", oldest.id);
            drop(std::fs::remove_file(self.path(&oldest.id))); // else the next start finds and removes it
        }
        Ok(())
    }

    fn path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }

    /// Those of a destination, or all; the latest first.
    #[must_use]
    pub fn list(&self, destination: Option<&str>) -> Vec<Record> {
        self.locked().iter().rev().filter(|r| destination.is_none_or(|d| r.destination == d)).cloned().collect()
    }

    /// One.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Record> {
        self.locked().iter().find(|r| r.id == id).cloned()
    }

    /// A name for a drill that begins now.
    #[must_use]
    pub fn new_id(&self, destination: &str, now: u64) -> String {
        let stamp: String = time(now).chars().take(19).filter(|c| c.is_ascii_alphanumeric()).collect();
        let first = format!("{destination}-{stamp}Z");
        let taken = |id: &str| self.get(id).is_some();
        if !taken(&first) {
            return first;
        }
        (2..).map(|n| format!("{first}-{n}")).find(|id| !taken(id)).unwrap_or(first)
    }

    fn locked(&self) -> MutexGuard<'_, Vec<Record>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path) -> std::io::Result<Record> {
    if std::fs::metadata(path)?.len() > FILE_BYTES_MAX {
        return Err(std::io::Error::other("it is too large"));
    }
    serde_json::from_slice(&std::fs::read(path)?).map_err(std::io::Error::other)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn record(id: &str, begun: u64) -> Record {
        Record { id: id.into(), destination: "ris".into(), running: true, begun: time(begun), ..Record::default() }
    }

    #[test]
    fn reports_outlive_the_process_and_a_running_one_was_broken_off() {
        let dir = tempfile::tempdir().unwrap();
        let (store, broken) = Store::open(dir.path(), 0).unwrap();
        assert!(broken.is_empty() && store.list(None).is_empty());
        let mut first = record("ris-1", 1_000);
        store.write(&first).unwrap();
        first.end(Outcome::Passed, 2_000);
        store.write(&first).unwrap();
        store.write(&record("ris-2", 3_000)).unwrap();
        std::fs::write(dir.path().join("ris-3.new"), "half").unwrap();
        std::fs::write(dir.path().join("ris-4.json"), "{ no").unwrap();
        let (store, broken) = Store::open(dir.path(), 9_000).unwrap();
        assert_eq!(broken.iter().map(|r| r.id.as_str()).collect::<Vec<_>>(), ["ris-2"]);
        let list = store.list(Some("ris"));
        assert_eq!(
            list.iter().map(|r| (r.id.as_str(), r.outcome)).collect::<Vec<_>>(),
            [("ris-2", Some(Outcome::BrokenOff)), ("ris-1", Some(Outcome::Passed))]
        );
        assert!(list[0].findings.issues[0].contains("ended before the drill did") && list[0].ended == Some(time(9_000)));
        assert!(Store::open(dir.path(), 0).unwrap().1.is_empty(), "told once");
        assert!(store.list(Some("pacs")).is_empty() && store.get("ris-9").is_none() && !dir.path().join("ris-3.new").exists());
    }

    #[test]
    fn two_in_a_second_have_two_names() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(dir.path(), 0).unwrap();
        let id = store.new_id("ris", 1_000);
        assert_eq!(id, "ris-19700101T000001Z");
        store.write(&record(&id, 1_000)).unwrap();
        assert_eq!(store.new_id("ris", 1_000), "ris-19700101T000001Z-2");
    }
}
