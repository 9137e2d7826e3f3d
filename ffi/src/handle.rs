//! `everpost_client`: one spool, opened from a configuration, with its threads.
//! Errors: `Fault`.

use crate::boundary::Fault;
use crate::code::Code;
use everpost_client::config::SpoolSettings;
use everpost_client::config::destination::read_client;
use everpost_client::config::read::{Reading, position};
use everpost_client::event::Events;
use everpost_client::io::committer::Committer;
use everpost_client::io::disk::Directory;
use everpost_client::spool::{Spool, SpoolError};
use std::path::Path;
use std::sync::Arc;

/// What the opaque handle points to.
#[derive(Debug)]
pub struct Client {
    committer: Committer,
}

impl Client {
    /// Opens the spool in a directory, with settings as TOML.
    pub(crate) fn open(data_dir: &str, settings: &str) -> Result<Self, Fault> {
        let settings = read(settings)?;
        let dir = Path::new(data_dir).join("spool");
        let storage = |what: String| Fault::new(Code::Storage, what);
        std::fs::create_dir_all(&dir).map_err(|e| storage(format!("{}: {e}; make it writable for this user", dir.display())))?;
        let directory = Directory::open(&dir).map_err(|e| storage(format!("{}: {e}", dir.display())))?;
        let (spool, _) = Spool::open(directory, settings, Events::none()).map_err(fault)?;
        let committer = Committer::start(Arc::new(spool)).map_err(|e| storage(format!("no threads for the spool: {e}")))?;
        Ok(Self { committer })
    }

    /// Writes what waits and gives the directory back.
    pub(crate) fn close(self) -> Result<(), Fault> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.map_err(|e| Fault::new(Code::Storage, format!("no runtime: {e}")))?;
        runtime.block_on(self.committer.stop()).map_err(fault)
    }
}

/// Settings, checked as a whole: a destination that could not be delivered to is refused before anything is stored for it.
fn read(settings: &str) -> Result<SpoolSettings, Fault> {
    let environment = |name: &str| std::env::var(name).ok();
    let reading = Reading::new(settings, Path::new(""), &environment);
    let read = read_client(reading).map_err(|problems| {
        let lines = problems.iter().map(|p| {
            let (line, column) = position(settings, p.span.start);
            format!("{line}:{column}: {p}")
        });
        Fault::new(Code::Configuration, lines.collect::<Vec<_>>().join("\n"))
    })?;
    Ok(read.spool)
}

fn fault(e: SpoolError) -> Fault {
    let code = if matches!(e, SpoolError::InUse { .. }) { Code::InUse } else { Code::Storage };
    let cause = std::error::Error::source(&e).map(|cause| format!(": {cause}")).unwrap_or_default();
    Fault::new(code, format!("{e}{cause}"))
}
