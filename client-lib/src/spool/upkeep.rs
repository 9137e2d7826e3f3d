//! Housekeeping: intake and the reserve, the next segments, sealing, new tries after failures, the end.
//! Rules: called from outside with the time; nothing here runs by itself. What takes long happens without a lock that a commit needs. A change of
//! intake is one event.
//! Errors: none to the caller; a failing disk shows in `intake` and in events.

use crate::event::Event;
use crate::spool::error::SpoolError;
use crate::spool::journal::{self, Content, Failure, Prepared, lock};
use crate::spool::{Inner, Intake, UnixMillis};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// State of the housekeeping itself; its lock makes it one at a time.
#[derive(Debug, Default)]
pub(crate) struct Upkeep {
    /// Freed files that could not be deleted yet.
    pub(crate) undeleted: Vec<String>,
    /// Up to this generation everything ended, and the log says so.
    pub(crate) quiet_to: u64,
    /// A failure to seal was told.
    pub(crate) seal_told: bool,
}

impl Inner {
    /// Changes intake, telling once.
    pub(crate) fn set_intake(&self, to: Intake, reason: &str) {
        let mut intake = lock(&self.intake);
        if *intake != to {
            let open = to == Intake::Open;
            *intake = to;
            drop(intake);
            self.events.emit(Event::Intake { open, reason: reason.to_owned() });
        }
    }

    /// Makes the file of the next journal segment.
    pub(crate) fn prepare_journal(&self, zero_to: u64) -> Result<Prepared, Failure> {
        let number = self.generation.fetch_add(1, Ordering::Relaxed);
        journal::prepare(&*self.storage, number, self.settings.segment_size, zero_to)
    }

    /// After a failed group: a fresh segment whose begin record says where the durable part ended; or intake off until `maintain` finds one.
    pub(crate) fn disk_failed(&self, failure: &Failure) {
        if *lock(&self.intake) == Intake::Broken {
            return;
        }
        if let Err(next) = self.reopen() {
            let reason =
                format!("{} failed ({}), and no fresh segment could be opened: {} failed ({})", failure.phase, failure.cause, next.phase, next.cause);
            self.set_intake(Intake::Broken, &reason);
        }
    }

    /// Opens a fresh segment if none is open.
    fn reopen(&self) -> Result<(), Failure> {
        let mut journal = lock(&self.journal);
        if journal.active.is_some() {
            return Ok(());
        }
        self.roll(&mut journal)?;
        let confirmed = journal.confirm();
        if confirmed.is_err() {
            journal.abandon();
        }
        confirmed
    }

    /// Prepares the next segments and seals those written.
    pub(crate) fn prepare_and_seal(&self) {
        let mut upkeep = lock(&self.upkeep);
        if self.closed.load(Ordering::Relaxed) {
            return;
        }
        let wanted = lock(&self.spare).is_none();
        if wanted && let Ok(next) = self.prepare_journal(u64::MAX) {
            *lock(&self.spare) = Some(next);
        }
        self.prepare_content();
        for segment in self.segments.all() {
            if matches!(segment.content(), Content::Unsealed(_, _, false))
                && let Err(cause) = journal::seal(&segment, |id| self.name(id))
            {
                // Never synced again; its list stays in memory, and the next open reads it record by record.
                segment.never_seal();
                if !std::mem::replace(&mut upkeep.seal_told, true) {
                    let what = format!("journal segment {} could not be sealed ({cause}); it stays readable", segment.generation);
                    self.events.emit(Event::Incident { subject: "spool".to_owned(), what });
                }
            }
        }
    }

    /// Called about each second.
    pub(crate) fn maintain(self: &Arc<Self>, now: UnixMillis) {
        if self.closed.load(Ordering::Relaxed) {
            return;
        }
        let healed = match self.reopen() {
            Ok(()) => true,
            Err(failure) => {
                self.set_intake(Intake::Broken, &format!("{} failed ({})", failure.phase, failure.cause));
                false
            }
        };
        self.read_again();
        self.delete_leftovers();
        self.recycle(Some(now));
        self.measure(healed);
        self.prepare_and_seal();
        if healed && self.owes_settlements() {
            self.lead();
        }
    }

    /// Measures the file system, and opens or closes intake by what it finds.
    fn measure(&self, healed: bool) {
        if let Ok((free, _)) = self.storage.space() {
            self.free.store(free, Ordering::Relaxed);
            if !healed {
                return;
            }
            if free < self.settings.reserve {
                self.set_intake(Intake::Reserve, &format!("{free} bytes are free, {} are the reserve", self.settings.reserve));
            } else {
                self.set_intake(Intake::Open, "the spool can be written and has space");
            }
        }
        let journals: u64 = self.segments.all().iter().map(|s| s.size.load(Ordering::Relaxed)).sum();
        let spare = lock(&self.spare).as_ref().map_or(0, |s| s.size);
        self.bytes.store(journals + spare + self.content.bytes(), Ordering::Relaxed);
        self.history.store(self.history_bytes(), Ordering::Relaxed);
    }

    fn delete_leftovers(&self) {
        let mut upkeep = lock(&self.upkeep);
        upkeep.undeleted.retain(|name| self.storage.delete(name).is_err());
    }

    /// Writes what waits and seals.
    pub(crate) fn close(&self) -> Result<(), SpoolError> {
        self.lead();
        if self.owes_settlements() {
            // The group failed, or failed before: once more, on a fresh segment.
            let _ = self.reopen();
            self.lead();
        }
        if self.owes_settlements() {
            let cause = std::io::Error::other("no segment can be written at the moment");
            return Err(SpoolError::NotDurable { phase: "open", cause });
        }
        self.closed.store(true, Ordering::Relaxed);
        // A group that began before is waited for; none can begin any more but for settlements, which a later open takes for lost.
        let _upkeep = lock(&self.upkeep);
        let mut journal = lock(&self.journal);
        journal.retire();
        drop(journal);
        for segment in self.segments.all() {
            journal::seal(&segment, |id| self.name(id)).map_err(|cause| SpoolError::NotDurable { phase: "sync", cause })?;
        }
        // Whoever came too late is told so.
        self.lead();
        Ok(())
    }
}

impl journal::Segment {
    fn never_seal(&self) {
        let mut content = lock(&self.content);
        if let Content::Unsealed(_, _, failed) = &mut *content {
            *failed = true;
        }
    }
}
