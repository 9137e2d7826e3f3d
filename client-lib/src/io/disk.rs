//! Real files behind the spool's storage trait.
//! Rules: a directory has one owner at a time (an advisory lock that the system drops with the process); `sync` is `fdatasync`; `sync_dir` syncs the
//! directory itself; at most so many files are open at a time (`open_files`); blocks are reserved before they are written where the file system can; whole pages pass by the system's memory (`O_DIRECT`) where
//! the file system takes that, because a copy there costs more processor time than everything else done to an image.
//! Errors: the system's, unchanged; a lock that another process has is `WouldBlock` with that process's id as text.

use crate::io::open_files::{Descriptors, Named, OpenFiles};
use crate::limits::SPOOL_FILES_OPEN_MAX;
use crate::spool::storage::{File, Storage};
use std::ffi::CString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

const LOCK: &str = "lock";

/// A directory of real files.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    handle: fs::File,
    files: Arc<OpenFiles>,
    lock: Mutex<Option<fs::File>>,
}

impl Directory {
    /// Opens a directory, making it if need be. Its entry, and those of all directories made for it, are durable then.
    /// # Errors
    /// The system's.
    pub fn open(path: &Path) -> io::Result<Arc<dyn Storage>> {
        make(path, &|parent| fs::File::open(parent)?.sync_all())?;
        let handle = fs::File::open(path)?;
        let files = OpenFiles::new(path, SPOOL_FILES_OPEN_MAX);
        Ok(Arc::new(Self { path: path.to_owned(), handle, files, lock: Mutex::new(None) }))
    }
}

/// Makes a directory with all that lead to it, and syncs the parent of each: an entry that is not durable would take the spool with it. What stands
/// already may come from a start that was cut short before it synced, so its parents are synced too, as far as we may open them and on this disk.
fn make(path: &Path, sync: &dyn Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    let whole = std::path::absolute(path)?;
    let missing: Vec<&Path> = whole.ancestors().take_while(|directory| !directory.exists()).collect();
    for directory in missing.iter().rev() {
        match fs::create_dir(directory) {
            Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => return Err(cause),
            _ => {}
        }
        sync(directory.parent().unwrap_or(directory))?;
    }
    let there = missing.last().and_then(|first| first.parent()).unwrap_or(&whole);
    let disk = fs::metadata(there)?.dev();
    for parent in there.ancestors().skip(1).take_while(|parent| fs::metadata(parent).is_ok_and(|found| found.dev() == disk)) {
        match sync(parent) {
            // Whoever made it for us answers for it.
            Err(cause) if cause.kind() == io::ErrorKind::PermissionDenied => {}
            done => done?,
        }
    }
    Ok(())
}

fn done(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl Storage for Directory {
    fn lock(&self) -> io::Result<()> {
        let mut file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(self.path.join(LOCK))?;
        // SAFETY: the descriptor is open for the length of the call, which touches no memory of ours.
        if let Err(cause) = done(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }) {
            if cause.raw_os_error() != Some(libc::EWOULDBLOCK) {
                return Err(cause);
            }
            let mut owner = String::new();
            file.read_to_string(&mut owner)?;
            return Err(io::Error::new(io::ErrorKind::WouldBlock, owner.trim().to_owned()));
        }
        file.set_len(0)?;
        file.write_all(std::process::id().to_string().as_bytes())?;
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
        Ok(())
    }

    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(DiskFile { named: self.files.open(name, create)?, refused: AtomicBool::new(false), _files: Arc::clone(&self.files) }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(&self.path)?.map(|entry| entry.map(|e| e.file_name().into_string().ok()));
        names.filter_map(Result::transpose).collect()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.files.rename(from, to)
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        self.files.delete(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    fn space(&self) -> io::Result<(u64, u64)> {
        let path = CString::new(self.path.as_os_str().as_bytes())?;
        // SAFETY: all-zero is a valid value of this plain structure.
        let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers are valid for the length of the call.
        done(unsafe { libc::statvfs(path.as_ptr(), &raw mut found) })?;
        let unit = found.f_frsize;
        Ok((found.f_bavail * unit, found.f_blocks * unit))
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }
}

/// One real file.
#[derive(Debug)]
struct DiskFile {
    named: Arc<Named>,
    /// The file system opened it past the system's memory, but would not write or read so.
    refused: AtomicBool,
    /// It may be opened again as long as anybody holds it.
    _files: Arc<OpenFiles>,
}

impl DiskFile {
    /// The file past the system's memory, opened when it is first needed.
    fn direct<'d>(&self, there: &'d Descriptors) -> Option<&'d fs::File> {
        if self.refused.load(Ordering::Relaxed) {
            return None;
        }
        there.direct.get_or_init(|| open_direct(&there.file)).as_ref()
    }

    /// Starts writing back a range without waiting. Only a hint: the sync that follows tells of errors.
    fn push(file: &fs::File, at: u64, len: usize) {
        let (Ok(at), Ok(len)) = (offset(at), offset(len as u64)) else { return };
        #[cfg(target_os = "linux")]
        // SAFETY: the descriptor is open for the length of the call, which touches no memory of ours.
        let _ = unsafe { libc::sync_file_range(file.as_raw_fd(), at, len, libc::SYNC_FILE_RANGE_WRITE) };
    }
}

#[cfg(target_os = "linux")]
fn open_direct(file: &fs::File) -> Option<fs::File> {
    // Through the open one: its name may have changed since.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path).ok()
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_: &fs::File) -> Option<fs::File> {
    None
}

/// Reads until the buffer is full or the file ends.
fn read_all(file: &fs::File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match file.read_at(&mut buffer[got..], at + got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(got)
}

fn offset(at: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(at).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))
}

impl File for DiskFile {
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.named.write(|there| there.file.write_all_at(bytes, at))
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        read_all(&self.named.descriptors()?.file, buffer, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.named.sync()
    }

    fn write_through(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.named.write(|there| {
            if let Some(direct) = self.direct(there) {
                match direct.write_all_at(bytes, at) {
                    // Alignment is not to its liking (or a short write left an odd place): the other way does it.
                    Err(cause) if cause.raw_os_error() == Some(libc::EINVAL) => self.refused.store(true, Ordering::Relaxed),
                    written => return written,
                }
            }
            there.file.write_all_at(bytes, at)?;
            Self::push(&there.file, at, bytes.len());
            Ok(())
        })
    }

    fn read_through(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let there = self.named.descriptors()?;
        if let Some(direct) = self.direct(&there) {
            match direct.read_at(buffer, at) {
                Ok(n) if n == buffer.len() => return Ok(n),
                Err(cause) if cause.raw_os_error() == Some(libc::EINVAL) => self.refused.store(true, Ordering::Relaxed),
                Err(cause) if cause.kind() != io::ErrorKind::Interrupted => return Err(cause),
                // The end of the file, or cut short: from there on only the other way takes any place.
                Ok(_) | Err(_) => {}
            }
        }
        read_all(&there.file, buffer, at)
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        let length = offset(size)?;
        // SAFETY: the descriptor is open for the length of the call, which touches no memory of ours.
        self.named.write(|there| match unsafe { libc::posix_fallocate(there.file.as_raw_fd(), 0, length) } {
            0 => Ok(()),
            // Some file systems cannot reserve: then the disk may turn out full at a write.
            libc::EOPNOTSUPP | libc::EINVAL => there.file.set_len(size),
            code => Err(io::Error::from_raw_os_error(code)),
        })
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        self.named.write(|there| there.file.set_len(size))
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.named.descriptors()?.file.metadata()?.len())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_told_the_first_ones_pid() {
        let dir = tempfile::tempdir().unwrap();
        let first = Directory::open(dir.path()).unwrap();
        first.lock().unwrap();
        let refused = Directory::open(dir.path()).unwrap().lock().unwrap_err();
        assert_eq!((refused.kind(), refused.to_string()), (io::ErrorKind::WouldBlock, std::process::id().to_string()));
        drop(first);
        Directory::open(dir.path()).unwrap().lock().unwrap();
    }

    /// Bytes whose address is a multiple of a page.
    fn aligned(memory: &mut [u8], length: usize) -> &mut [u8] {
        let start = memory.as_ptr().align_offset(4096);
        &mut memory[start..start + length]
    }

    #[test]
    fn whole_pages_are_written_and_read_whether_the_file_system_takes_them_directly_or_not() {
        let places = [tempfile::tempdir_in("."), tempfile::tempdir_in("/dev/shm"), tempfile::tempdir()];
        for dir in places.into_iter().flatten() {
            let storage = Directory::open(dir.path()).unwrap();
            let file = storage.open("x", true).unwrap();
            file.allocate(65_536).unwrap();
            let mut memory = vec![0; 40_000];
            aligned(&mut memory, 8_192).fill(7);
            file.write_through(aligned(&mut memory, 8_192), 4_096).unwrap();
            file.sync().unwrap();
            let mut plain = [0; 3];
            assert_eq!((file.read_at(&mut plain, 12_286).unwrap(), plain), (3, [7, 7, 0]));
            // What was written either way is read either way, up to an end at an odd place.
            file.write_at(b"end", 65_536).unwrap();
            assert_eq!(file.read_through(aligned(&mut memory, 16_384), 57_344).unwrap(), 8_195);
            assert_eq!(&aligned(&mut memory, 16_384)[8_190..8_195], b"\0\0end");
            file.write_through(aligned(&mut memory, 4_096), 0).unwrap();
            assert_eq!(file.read_through(aligned(&mut memory, 4_096), 4_096).unwrap(), 4_096);
            assert!(aligned(&mut memory, 4_096).iter().all(|b| *b == 7));
        }
    }

    #[test]
    fn every_entry_that_leads_to_the_directory_is_synced() {
        let dir = tempfile::tempdir().unwrap();
        let top = fs::canonicalize(dir.path()).unwrap();
        let deep = top.join("a/b/c/d/e");
        let synced = Mutex::new(Vec::new());
        let sync = |parent: &Path| {
            synced.lock().unwrap().push(parent.to_owned());
            Ok(())
        };
        make(&deep, &sync).unwrap();
        assert!(deep.is_dir());
        let made = synced.lock().unwrap().clone();
        let parents = [top.clone(), top.join("a"), top.join("a/b"), top.join("a/b/c"), top.join("a/b/c/d")];
        assert_eq!(made[..5], parents, "each parent after its entry was made");
        // A start that finds them there does not know whether the one that made them came so far.
        synced.lock().unwrap().clear();
        make(&deep, &sync).unwrap();
        let again = synced.lock().unwrap().clone();
        assert!(parents.iter().all(|parent| again.contains(parent)), "{again:?}");
        // Directories of others may be closed to us; one of ours that cannot be synced is an error.
        let refuse = |_: &Path| Err(io::Error::from(io::ErrorKind::PermissionDenied));
        make(&deep, &refuse).unwrap();
        assert!(make(&deep.join("new"), &refuse).is_err());
    }

    #[test]
    fn files_are_written_read_cut_and_measured() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Directory::open(&dir.path().join("a/b")).unwrap();
        let file = storage.open("x", true).unwrap();
        assert_eq!(storage.open("x", true).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        file.allocate(10_000).unwrap();
        file.write_at(b"abc", 5000).unwrap();
        file.sync().unwrap();
        let mut bytes = [9; 8];
        assert_eq!(file.read_at(&mut bytes, 4998).unwrap(), 8);
        assert_eq!(&bytes, b"\0\0abc\0\0\0");
        assert_eq!(file.read_at(&mut bytes, 9_996).unwrap(), 4);
        file.truncate(4_999).unwrap();
        assert_eq!(file.size().unwrap(), 4_999);
        storage.rename("x", "y").unwrap();
        storage.sync_dir().unwrap();
        assert_eq!(storage.list().unwrap(), ["y"]);
        storage.delete("y").unwrap();
        assert!(storage.space().unwrap().1 > 0);
    }
}
