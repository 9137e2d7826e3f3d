//! A DICOM object on its way into the spool, written piece by piece.
//! Rules: one chunk is in memory, whatever the size; nothing of it is visible before `finish`; dropped, or overtaken by `Client::close`, it never was.
//! Errors: `ClientError`.

use super::error::ClientError;
use super::send::keys_of;
use super::{Running, Way, lock};
use crate::dicom::part10::FileHead;
use crate::dicom::uid;
use crate::dicom::walker::{DEFLATED, KeyReader};
use crate::ids::EnvelopeId;
use crate::keys::{Key, Keys};
use crate::limits::CHUNK_BYTES;
use crate::spool::{Content, ContentWriter};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex, Weak};

/// An object being written. Its methods may be called from any thread.
#[derive(Debug)]
pub struct Upload {
    slot: Arc<Slot>,
    running: Weak<Running>,
}

/// Where it stands, so that `close` can take it away.
#[derive(Debug)]
pub(super) struct Slot(Mutex<Option<Writing>>);

impl Slot {
    pub(super) fn take(&self) -> Option<Writing> {
        lock(&self.0).take()
    }
}

pub(super) struct Writing {
    way: Arc<Way>,
    keys: Keys,
    reader: KeyReader,
    reading: bool,
    instance: String,
    writer: ContentWriter,
    deflated: bool,
}

impl std::fmt::Debug for Writing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Writing({} bytes)", self.writer.len())
    }
}

/// The head of an object that is written without one.
pub(super) fn head(sop_class: &str, sop_instance: &str, transfer_syntax: &str) -> Result<FileHead, ClientError> {
    for (what, uid) in [("SOP class", sop_class), ("SOP instance", sop_instance), ("transfer syntax", transfer_syntax)] {
        if !uid::is_well_formed(uid) {
            return Err(ClientError::Content(format!("the {what} is no UID: digits and dots, at most 64 (PS3.5 section 9)")));
        }
    }
    let (sop_class, sop_instance, transfer_syntax) = (sop_class.to_owned(), sop_instance.to_owned(), transfer_syntax.to_owned());
    Ok(FileHead { sop_class, sop_instance, transfer_syntax, dataset_at: 0 })
}

impl Upload {
    pub(super) fn begin(running: &Arc<Running>, way: Arc<Way>, head: &FileHead) -> Result<Upload, ClientError> {
        let writer = running.committer.spool().content_writer()?;
        let writing = Writing {
            way,
            keys: keys_of(head),
            reader: KeyReader::new(&head.transfer_syntax),
            reading: true,
            instance: head.sop_instance.clone(),
            writer,
            deflated: head.transfer_syntax == DEFLATED,
        };
        let slot = Arc::new(Slot(Mutex::new(Some(writing))));
        let mut uploads = lock(&running.uploads);
        uploads.retain(|slot| slot.strong_count() > 0);
        uploads.push(Arc::downgrade(&slot));
        Ok(Upload { slot, running: Arc::downgrade(running) })
    }

    /// Appends bytes of the data set.
    /// # Errors
    /// `Full`, `Storage`: the object is given up. `Closed`.
    pub fn write(&self, bytes: &[u8]) -> Result<(), ClientError> {
        let mut slot = lock(&self.slot.0);
        let writing = slot.as_mut().ok_or(ClientError::Closed)?;
        if writing.reading {
            writing.reading = writing.reader.push(bytes, &mut writing.keys);
        }
        let written = writing.writer.write(bytes);
        if written.is_err() {
            *slot = None;
        }
        Ok(written?)
    }

    /// Copies the rest of a file. `Err(Ok(_))`: the file's error.
    pub(super) fn copy(&self, file: &mut File, from: u64) -> Result<(), Result<ClientError, io::Error>> {
        file.seek(SeekFrom::Start(from)).map_err(Err)?;
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        loop {
            chunk.clear();
            if file.take(CHUNK_BYTES as u64).read_to_end(&mut chunk).map_err(Err)? == 0 {
                return Ok(());
            }
            self.write(&chunk).map_err(Ok)?;
        }
    }

    /// The object is whole. Durable when it returns; the id is that of its reports.
    /// # Errors
    /// `Content` if nothing was written; `Full`, `Storage`, `Closed`: nothing was taken.
    pub fn finish(&self) -> Result<EnvelopeId, ClientError> {
        let running = self.running.upgrade().ok_or(ClientError::Closed)?;
        let mut writing = self.slot.take().ok_or(ClientError::Closed)?;
        if writing.writer.is_empty() {
            return Err(ClientError::Content("the object has no data set".to_owned()));
        }
        if writing.deflated && writing.writer.len() % 2 == 1 {
            // A deflated data set of odd length gets a NUL behind it (PS3.5 A.5); many writers leave it out.
            writing.writer.write(&[0])?;
        }
        // Delivered under the instance that the caller named, whatever the data set says.
        writing.keys.set(Key::SopInstance, writing.instance.as_bytes());
        let Writing { way, keys, writer, .. } = writing;
        running.commit(&way, keys, Content::Streamed(writer.finish()))
    }

    /// Gives it up. Dropping does the same.
    pub fn abort(&self) {
        self.slot.take();
    }
}
