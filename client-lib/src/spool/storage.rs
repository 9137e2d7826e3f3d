//! The small trait all disk access of the spool goes through: real files in `io::disk`, faulty ones in the tests.
//! Rules: names are plain file names in one directory; positions are byte offsets; nothing is durable before `sync` (a file's bytes and size) or
//! `sync_dir` (names). After a failed `sync` the state of the unsynced bytes is unknown and the same file must not be synced again.
//! Errors: those of the system, as `io::Error`.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

/// A directory of segment files.
pub trait Storage: Debug + Send + Sync + 'static {
    /// Takes the directory for this process. The lock ends with the value.
    /// # Errors
    /// `WouldBlock` with the owner's pid as decimal text if another process has it.
    fn lock(&self) -> io::Result<()>;
    /// Opens for reading and writing; `create` makes a new one and fails if it exists.
    /// # Errors
    /// The system's.
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn File>>;
    /// All names.
    /// # Errors
    /// The system's.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Renames, replacing.
    /// # Errors
    /// The system's.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Deletes.
    /// # Errors
    /// The system's.
    fn delete(&self, name: &str) -> io::Result<()>;
    /// Makes names durable.
    /// # Errors
    /// The system's.
    fn sync_dir(&self) -> io::Result<()>;
    /// Bytes free to us, and bytes in all, of the file system.
    /// # Errors
    /// The system's.
    fn space(&self) -> io::Result<(u64, u64)>;
    /// The directory, for messages to people.
    fn place(&self) -> String;
}

/// One open file.
pub trait File: Debug + Send + Sync + 'static {
    /// Writes all of it at a position.
    /// # Errors
    /// The system's; a short write is an error.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Reads until the buffer is full or the file ends; returns the bytes read.
    /// # Errors
    /// The system's.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize>;
    /// Makes bytes and size durable (fdatasync).
    /// # Errors
    /// The system's.
    fn sync(&self) -> io::Result<()>;
    /// Writes whole pages: past the system's memory where the file system can, else as `write_at` and at once on their way to the disk. Place and length
    /// are multiples of 4096, and so is the address of the bytes. Durable after `sync`, as ever.
    /// # Errors
    /// The system's; a short write is an error.
    fn write_through(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Reads whole pages, past the system's memory where the file system can; else as `read_at`. Alignment as for `write_through`.
    /// # Errors
    /// The system's.
    fn read_through(&self, buffer: &mut [u8], at: u64) -> io::Result<usize>;
    /// Reserves blocks up to a size (not zeroed).
    /// # Errors
    /// The system's.
    fn allocate(&self, size: u64) -> io::Result<()>;
    /// Cuts the file to a size.
    /// # Errors
    /// The system's.
    fn truncate(&self, size: u64) -> io::Result<()>;
    /// Size in bytes.
    /// # Errors
    /// The system's.
    fn size(&self) -> io::Result<u64>;
}
