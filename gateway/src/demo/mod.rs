//! `everpost demo`: the whole story on one machine, without any set-up. A gateway as a child process, a RIS pair and a PACS pair that note what they
//! take, a RIS and a CT that send. On the way the primaries are killed, then the gateway itself (`kill -9`), then the primaries come back.
//!
//! Rules: peers and gateway know nothing of each other but addresses; what is reckoned at the end is what the peers noted. Exit status 0 only if
//! nothing was lost or reordered and the failover, the restart and the failback were seen. By default it ends within 30 s.
//! Errors: `Failure` where the demo could not run; an ending that is not good is exit status 1, with the reckoning.

mod hl7;
mod images;
mod receiver;
mod reckoning;
mod screen;
mod stage;

use crate::cli::{Demo, EXIT_DONE, EXIT_REFUSED, Failure, answer_json};
use everpost_client::io::stop::Stop;
use everpost_client::keys::Protocol;
use receiver::Receiver;
use reckoning::{Ledger, Reckoning};
use screen::Screen;
use serde_json::{Value, json};
use stage::Stage;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{interval, sleep};

/// Seconds of traffic unless told otherwise; fewer leave no time for the story.
const SECONDS_DEFAULT: u64 = 20;
const SECONDS_RANGE: std::ops::RangeInclusive<u64> = 12..=3600;
/// Time between two messages, and between two slices.
const HL7_PACE: Duration = Duration::from_millis(15);
const IMAGE_PACE: Duration = Duration::from_millis(90);
/// How long what was answered may take to arrive once the senders have ended.
const DRAIN: Duration = Duration::from_secs(20);
/// Time between two looks at the counts.
const LOOK: Duration = Duration::from_millis(100);

/// Runs the demo.
/// # Errors
/// It could not run.
pub async fn run(demo: &Demo, json: bool) -> Result<u8, Failure> {
    let seconds = demo.seconds.unwrap_or(SECONDS_DEFAULT);
    if !SECONDS_RANGE.contains(&seconds) {
        return Err(Failure::new(crate::cli::EXIT_USAGE, "--seconds: from 12 to 3600; less leaves no time for a failover and the way back"));
    }
    let mut file = demo.report.as_deref().map(report_file).transpose()?;
    let mut play = Play::set(json).await?;
    let result = tokio::select! {
        played = play.run(Duration::from_secs(seconds), demo.stay) => played,
        () = interrupted() => {
            play.screen.line("interrupted");
            Ok(())
        }
    };
    // Whatever came of it, the child must not outlive the demo.
    let stopped = play.stage.stop().await;
    result?;
    stopped?;
    let Some(report) = play.report.take() else { return Ok(EXIT_REFUSED) };
    let good = report["ok"] == true;
    if let Some(file) = &mut file {
        let text = format!("{report:#}\n");
        // A pipe has no length to be set.
        let whole = file.metadata().is_ok_and(|kind| kind.is_file());
        let cleared = if whole { file.set_len(0) } else { Ok(()) };
        let written = cleared.and_then(|()| file.write_all(text.as_bytes()));
        written.map_err(|error| Failure::new(EXIT_REFUSED, format!("--report: {error}")))?;
    }
    if json {
        answer_json(&report)?;
    }
    Ok(if good { EXIT_DONE } else { EXIT_REFUSED })
}

/// Opened before the run: a path that cannot be written must not cost the half minute. What it held stays until there is a new report.
fn report_file(path: &Path) -> Result<File, Failure> {
    let opened = File::options().write(true).create(true).truncate(false).open(path);
    opened.map_err(|error| Failure::new(crate::cli::EXIT_USAGE, format!("--report {}: {error}; name a file that can be written", path.display())))
}

/// Ctrl-C or SIGTERM.
async fn interrupted() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

/// Both protocols, the gateway, and what is shown.
struct Play {
    screen: Screen,
    stage: Stage,
    hl7: Arc<Ledger>,
    dicom: Arc<Ledger>,
    ris: [Receiver; 2],
    pacs: [Receiver; 2],
    /// Times of the story, in milliseconds.
    failover: Option<u64>,
    restart: Option<u64>,
    failback: Option<u64>,
    /// The result, once there is one.
    report: Option<Value>,
}

fn failed(what: &str) -> impl Fn(std::io::Error) -> Failure {
    let what = what.to_owned();
    move |error| Failure::new(EXIT_REFUSED, format!("{what}: {error}"))
}

fn seconds(milliseconds: Option<u64>) -> String {
    milliseconds.map_or_else(|| "was not seen".into(), |ms| format!("{}.{:03} s", ms / 1000, ms % 1000))
}

impl Play {
    async fn set(json: bool) -> Result<Self, Failure> {
        let (hl7, dicom) = (Arc::<Ledger>::default(), Arc::<Ledger>::default());
        let open = failed("a port for a peer of the demo");
        let ris = [
            Receiver::open("ris-a", Protocol::Mllp, &hl7).await.map_err(&open)?,
            Receiver::open("ris-b", Protocol::Mllp, &hl7).await.map_err(&open)?,
        ];
        let pacs = [
            Receiver::open("pacs-a", Protocol::Dicom, &dicom).await.map_err(&open)?,
            Receiver::open("pacs-b", Protocol::Dicom, &dicom).await.map_err(&open)?,
        ];
        let stage = Stage::set(&ris, &pacs)?;
        Ok(Self { screen: Screen::new(json), stage, hl7, dicom, ris, pacs, failover: None, restart: None, failback: None, report: None })
    }

    /// The story.
    async fn run(&mut self, traffic: Duration, stay: bool) -> Result<(), Failure> {
        self.screen.line("Everpost demo: HL7 and images through one gateway, while its");
        self.screen.line("receivers and the gateway itself are killed. All on this machine.");
        let ready = self.stage.start().await?;
        self.screen.event(&format!("gateway up in {} ms", ready.as_millis()));
        self.introduce();
        let (stopper, stop) = Stop::new();
        let run = fastrand::u32(1..);
        let senders = [
            tokio::spawn(hl7::send(self.stage.mllp, run, HL7_PACE, self.hl7.clone(), stop.clone())),
            tokio::spawn(images::send(self.stage.dicom, run, IMAGE_PACE, self.dicom.clone(), stop)),
        ];
        self.story(traffic).await?;
        stopper.stop();
        self.screen.event("senders stop; the rest is delivered");
        for sender in senders {
            sender.await.map_err(|broken| Failure::new(EXIT_REFUSED, format!("a sender of the demo broke: {broken}")))?;
        }
        let drained = Instant::now();
        while !(self.hl7.settled() && self.dicom.settled()) && drained.elapsed() < DRAIN {
            self.watch(LOOK).await;
        }
        // Duplicates that are still under way shall count.
        self.watch(Duration::from_millis(500)).await;
        self.report = Some(self.reckon());
        if stay {
            self.screen.line("staying up for your own traffic; Ctrl-C ends");
            loop {
                self.watch(Duration::from_secs(1)).await;
            }
        }
        Ok(())
    }

    fn introduce(&mut self) {
        let (mllp, dicom) = (self.stage.mllp, self.stage.dicom);
        let config = self.stage.config();
        self.screen.line(&format!("        HL7   mllp://{mllp}"));
        self.screen.line(&format!("        DICOM dicom://EVERPOST@{dicom}"));
        self.screen.line("        join in from another terminal:");
        self.screen.line(&format!("        storescu -aec EVERPOST {} {} F.dcm", dicom.ip(), dicom.port()));
        self.screen.line(&format!("        everpost send hl7 F.hl7 --to mllp://{mllp}"));
        self.screen.line(&format!("        everpost status --config {}", config.display()));
    }

    /// Kills and revivals, spread over the time of traffic.
    async fn story(&mut self, traffic: Duration) -> Result<(), Failure> {
        let begun = Instant::now();
        let until = |part: u32| (traffic * part / 20).saturating_sub(begun.elapsed());
        self.watch(until(4)).await;

        self.ris[0].kill().await;
        self.pacs[0].kill().await;
        let killed = Instant::now();
        self.screen.event("killed the primaries, ris-a and pacs-a");
        self.failover = self.both(killed, 1, until(9)).await;
        self.screen.event(&format!("secondaries deliver; failover {}", seconds(self.failover)));
        self.watch(until(9)).await;

        self.stage.kill().await?;
        let killed = Instant::now();
        self.screen.event("killed the gateway itself (kill -9)");
        self.stage.start().await?;
        self.restart = self.answers(killed, until(12).max(Duration::from_secs(2))).await;
        self.screen.event(&format!("gateway back and answering after {}", seconds(self.restart)));
        self.watch(until(11)).await;

        let revive = failed("opening a receiver's port again");
        self.ris[0].revive().await.map_err(&revive)?;
        self.pacs[0].revive().await.map_err(&revive)?;
        let revived = Instant::now();
        self.screen.event("primaries are back; the gateway holds 3 s");
        self.failback = self.both(revived, 0, until(20)).await;
        self.screen.event(&format!("primaries deliver again; failback {}", seconds(self.failback)));
        self.watch(until(20)).await;
        Ok(())
    }

    /// Shows counts for a while.
    async fn watch(&mut self, time: Duration) {
        let end = Instant::now() + time;
        let mut look = interval(LOOK);
        while Instant::now() < end {
            look.tick().await;
            self.show();
        }
    }

    /// Waits until the receivers at a place in both pairs have had something since a moment. Milliseconds until the later one did.
    async fn both(&mut self, since: Instant, place: usize, patience: Duration) -> Option<u64> {
        let end = Instant::now() + patience;
        loop {
            let (hl7, dicom) = (self.hl7.first_after(self.ris[place].name, since), self.dicom.first_after(self.pacs[place].name, since));
            if let (Some(hl7), Some(dicom)) = (hl7, dicom) {
                return Some(millis(hl7.max(dicom) - since));
            }
            if Instant::now() >= end {
                return None;
            }
            sleep(LOOK / 10).await;
            self.show();
        }
    }

    /// Waits until both senders have had a positive answer to something sent since a moment. Milliseconds until they had.
    async fn answers(&mut self, since: Instant, patience: Duration) -> Option<u64> {
        let end = Instant::now() + patience;
        while Instant::now() < end {
            if self.hl7.answered_after(since).is_some() && self.dicom.answered_after(since).is_some() {
                return Some(millis(since.elapsed()));
            }
            sleep(LOOK / 20).await;
            self.show();
        }
        None
    }

    fn show(&mut self) {
        let side = |ledger: &Ledger, pair: &[Receiver; 2]| {
            let (sent, _) = ledger.progress();
            format!("{sent} -> a {} b {}", ledger.count(pair[0].name), ledger.count(pair[1].name))
        };
        let text = format!("HL7 {} | images {}", side(&self.hl7, &self.ris), side(&self.dicom, &self.pacs));
        self.screen.counts(&text);
    }

    fn reckon(&mut self) -> Value {
        let (hl7, dicom) = (self.hl7.reckon(), self.dicom.reckon());
        let seen = self.failover.is_some() && self.restart.is_some() && self.failback.is_some();
        let ok = hl7.good() && dicom.good() && seen;
        self.screen.line("");
        self.screen.line(&format!("{:12}{:>10}{:>10}", "", "HL7", "images"));
        let mut row = |name: &str, count: fn(&Reckoning) -> usize| {
            self.screen.line(&format!("{name:12}{:>10}{:>10}", count(&hl7), count(&dicom)));
        };
        row("sent", |r| r.sent);
        row("answered", |r| r.answered);
        row("lost", |r| r.lost);
        row("reordered", |r| r.reordered);
        row("duplicated", |r| r.duplicated);
        if hl7.visitors + dicom.visitors > 0 {
            row("from you", |r| r.visitors);
        }
        for (name, count) in hl7.received.iter().chain(&dicom.received) {
            self.screen.line(&format!("{name:12}{count:>10} received"));
        }
        self.screen.line(&format!("failover {}, restart {}, failback {}", seconds(self.failover), seconds(self.restart), seconds(self.failback)));
        if ok {
            self.screen.line("Nothing was lost, nothing came out of order.");
        } else {
            let folder = self.stage.keep().display().to_string();
            self.screen.line(&format!("NOT GOOD: see above; spool and log stay in {folder}"));
        }
        json!({
            "ok": ok, "hl7": hl7.json(), "dicom": dicom.json(),
            "failover_ms": self.failover, "restart_ms": self.restart, "failback_ms": self.failback,
        })
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_report_that_cannot_be_written_is_told_before_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let demo = Demo { seconds: None, report: Some(dir.path().join("missing/report.json")), stay: false };
        let begun = Instant::now();
        let failure = run(&demo, true).await.unwrap_err();
        assert_eq!(failure.code, crate::cli::EXIT_USAGE, "{}", failure.what);
        assert!(failure.what.contains("report.json") && begun.elapsed() < Duration::from_secs(5), "{}", failure.what);
        let old = dir.path().join("old.json");
        std::fs::write(&old, "old").unwrap();
        drop(report_file(&old).unwrap());
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "old");
    }
}
