//! How many files of a spool are open: a backlog has thousands of segments, and a process, perhaps somebody else's program, has few descriptors.
//!
//! Rules: a file is opened by its name again when it is needed; of those that are open beyond the limit the ones that were not used for longest are closed.
//! Never closed: a file that is being used, one that was written and not synced since (an error of writing it back is told to its descriptor), one that
//! was deleted. So the limit may be exceeded by what is being written. A name that leads to another file by now is an error, never that file.
//! Errors: the system's; `NotFound` for a name that leads elsewhere.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};

/// The files of one directory.
#[derive(Debug)]
pub(crate) struct OpenFiles {
    path: PathBuf,
    max: usize,
    /// By name; those that somebody holds.
    known: Mutex<HashMap<String, Weak<Named>>>,
    /// Those that are open, the longest unused first, as far as that is known.
    open: Mutex<VecDeque<Weak<Named>>>,
}

/// One file, open or not.
#[derive(Debug)]
pub(crate) struct Named {
    name: Mutex<String>,
    /// Device and inode: what the name must lead to.
    identity: (u64, u64),
    open: RwLock<Option<Arc<Descriptors>>>,
    /// Used since it was looked at last.
    used: AtomicBool,
    /// Counts writes, at their begin and at their end; and how far that count was when the last sync began that succeeded.
    written: AtomicU64,
    synced: AtomicU64,
    /// It has no name any more.
    deleted: AtomicBool,
    files: Weak<OpenFiles>,
}

/// An open file.
#[derive(Debug)]
pub(crate) struct Descriptors {
    pub(crate) file: fs::File,
    /// The same file past the system's memory; `None` where the file system has no such thing.
    pub(crate) direct: OnceLock<Option<fs::File>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OpenFiles {
    /// Of a directory; at most about `max` are open at a time.
    pub(crate) fn new(path: &Path, max: usize) -> Arc<OpenFiles> {
        Arc::new(OpenFiles { path: path.to_owned(), max, known: Mutex::default(), open: Mutex::default() })
    }

    fn file(&self, name: &str, create: bool) -> io::Result<fs::File> {
        fs::OpenOptions::new().read(true).write(true).create_new(create).mode(0o600).open(self.path.join(name))
    }

    /// Opens one, or makes it.
    pub(crate) fn open(self: &Arc<Self>, name: &str, create: bool) -> io::Result<Arc<Named>> {
        let mut known = locked(&self.known);
        if !create && let Some(there) = known.get(name).and_then(Weak::upgrade) {
            drop(known);
            there.descriptors()?;
            return Ok(there);
        }
        let file = self.file(name, create)?;
        let data = file.metadata()?;
        let named = Arc::new(Named {
            name: Mutex::new(name.to_owned()),
            identity: (data.dev(), data.ino()),
            open: RwLock::new(Some(Arc::new(Descriptors { file, direct: OnceLock::new() }))),
            used: AtomicBool::new(true),
            // A new one's length is not on the disk yet.
            written: AtomicU64::new(u64::from(create)),
            synced: AtomicU64::new(0),
            deleted: AtomicBool::new(false),
            files: Arc::downgrade(self),
        });
        known.insert(name.to_owned(), Arc::downgrade(&named));
        drop(known);
        self.opened(&named);
        Ok(named)
    }

    /// Renames, replacing.
    pub(crate) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut known = locked(&self.known);
        self.pin(&known, to)?;
        let there = known.get(from).and_then(Weak::upgrade);
        // Held while the name changes, so that nobody opens it by the old one.
        let mut name = there.as_ref().map(|named| locked(&named.name));
        fs::rename(self.path.join(from), self.path.join(to))?;
        if let Some(name) = &mut name {
            to.clone_into(name);
        }
        drop(name);
        match known.remove(from) {
            Some(named) => drop(known.insert(to.to_owned(), named)),
            None => drop(known.remove(to)),
        }
        Ok(())
    }

    /// Deletes. Who holds the file can go on reading it.
    pub(crate) fn delete(&self, name: &str) -> io::Result<()> {
        let mut known = locked(&self.known);
        self.pin(&known, name)?;
        fs::remove_file(self.path.join(name))?;
        known.remove(name);
        Ok(())
    }

    /// Keeps the file of this name open for good, if anybody holds it: its name is about to go.
    fn pin(&self, known: &HashMap<String, Weak<Named>>, name: &str) -> io::Result<()> {
        let Some(named) = known.get(name).and_then(Weak::upgrade) else { return Ok(()) };
        named.deleted.store(true, Ordering::SeqCst);
        match named.descriptors() {
            // Somebody else took it away: there is nothing left to be kept.
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
            opened => opened.map(drop),
        }
    }

    /// Notes that one was opened, and closes others, if there are too many.
    fn opened(&self, named: &Arc<Named>) {
        let mut open = locked(&self.open);
        open.push_back(Arc::downgrade(named));
        open.retain(|named| named.strong_count() > 0);
        // Each is looked at twice at most: once to forget that it was used, once more to close it.
        let mut looks = open.len() * 2;
        while open.len() > self.max && looks > 0 {
            looks -= 1;
            let Some(oldest) = open.pop_front() else { return };
            let keep = oldest.upgrade().is_some_and(|oldest| Arc::ptr_eq(&oldest, named) || !oldest.close());
            if keep {
                open.push_back(oldest);
            }
        }
    }
}

impl Named {
    /// The open file, opened again if need be.
    pub(crate) fn descriptors(self: &Arc<Self>) -> io::Result<Arc<Descriptors>> {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        if let Some(there) = &*self.open.read().unwrap_or_else(PoisonError::into_inner) {
            return Ok(Arc::clone(there));
        }
        let files = self.files.upgrade().ok_or_else(|| io::Error::other("the directory was closed"))?;
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = &*open {
            return Ok(Arc::clone(there));
        }
        let name = locked(&self.name);
        let file = files.file(&name, false)?;
        let data = file.metadata()?;
        if (data.dev(), data.ino()) != self.identity {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("{name} is another file by now")));
        }
        drop(name);
        let there = Arc::new(Descriptors { file, direct: OnceLock::new() });
        *open = Some(Arc::clone(&there));
        drop(open);
        files.opened(self);
        Ok(there)
    }

    /// Closes it, if nobody uses it and nothing of it is missing on the disk.
    fn close(&self) -> bool {
        if self.used.swap(false, Ordering::Relaxed) {
            return false;
        }
        let Ok(mut open) = self.open.try_write() else { return false };
        let busy = open.as_ref().is_some_and(|there| Arc::strong_count(there) > 1);
        if busy || self.deleted.load(Ordering::SeqCst) || self.written.load(Ordering::SeqCst) != self.synced.load(Ordering::SeqCst) {
            return false;
        }
        *open = None;
        true
    }

    /// Does something that changes the file.
    pub(crate) fn write<T>(self: &Arc<Self>, work: impl FnOnce(&Descriptors) -> io::Result<T>) -> io::Result<T> {
        self.written.fetch_add(1, Ordering::SeqCst);
        let done = self.descriptors().and_then(|there| work(&there));
        self.written.fetch_add(1, Ordering::SeqCst);
        done
    }

    /// Syncs it.
    pub(crate) fn sync(self: &Arc<Self>) -> io::Result<()> {
        let so_far = self.written.load(Ordering::SeqCst);
        self.descriptors()?.file.sync_data()?;
        self.synced.fetch_max(so_far, Ordering::SeqCst);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn is_open(named: &Named) -> bool {
        named.open.read().unwrap().is_some()
    }

    fn written(files: &Arc<OpenFiles>, name: &str) -> Arc<Named> {
        let named = files.open(name, true).unwrap();
        named.write(|there| there.file.write_all_at(name.as_bytes(), 0)).unwrap();
        named
    }

    fn content(named: &Arc<Named>) -> String {
        let mut bytes = [0; 16];
        let read = named.descriptors().unwrap().file.read_at(&mut bytes, 0).unwrap();
        String::from_utf8_lossy(&bytes[..read]).into_owned()
    }

    #[test]
    fn what_is_on_the_disk_is_closed_and_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let files = OpenFiles::new(dir.path(), 3);
        let all: Vec<_> = (0..10).map(|n| written(&files, &format!("f{n}"))).collect();
        assert_eq!(all.iter().filter(|named| is_open(named)).count(), 10, "nothing was synced");
        all.iter().for_each(|named| named.sync().unwrap());
        let last = written(&files, "last");
        let open = all.iter().filter(|named| is_open(named)).count();
        assert!(open <= 3, "{open} are open");
        for (n, named) in all.iter().enumerate() {
            assert_eq!(content(named), format!("f{n}"));
        }
        assert!(is_open(&last), "it was not synced");
        assert!(all.iter().filter(|named| is_open(named)).count() <= 4);
    }

    #[test]
    fn names_may_change_and_go_while_the_file_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let files = OpenFiles::new(dir.path(), 1);
        let (a, b) = (written(&files, "a"), written(&files, "b"));
        let push_out = |number: u32| {
            for named in [&a, &b] {
                named.sync().unwrap();
            }
            for n in 0..4 {
                written(&files, &format!("other-{number}-{n}")).sync().unwrap();
            }
        };
        push_out(0);
        assert!(!is_open(&a) && !is_open(&b));
        files.rename("a", "c").unwrap();
        assert_eq!(content(&a), "a");
        push_out(1);
        files.rename("c", "b").unwrap();
        assert_eq!((content(&a), content(&b)), ("a".to_owned(), "b".to_owned()), "what lost its name stays readable");
        push_out(2);
        files.delete("b").unwrap();
        push_out(3);
        assert_eq!((content(&a), content(&b)), ("a".to_owned(), "b".to_owned()));
        assert!(files.open("b", false).is_err());
        assert!(files.delete("b").is_err());
    }

    #[test]
    fn another_file_of_the_same_name_is_never_taken_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let files = OpenFiles::new(dir.path(), 1);
        let a = written(&files, "a");
        a.sync().unwrap();
        let others: Vec<_> = (0..4).map(|n| written(&files, &format!("o{n}"))).collect();
        assert!(!is_open(&a) && others.iter().all(|other| is_open(other)));
        fs::write(dir.path().join("x"), "foreign").unwrap();
        fs::rename(dir.path().join("x"), dir.path().join("a")).unwrap();
        assert_eq!(a.descriptors().unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn threads_that_read_and_write_at_once_meet_their_own_file() {
        let dir = tempfile::tempdir().unwrap();
        let files = OpenFiles::new(dir.path(), 2);
        let all: Vec<_> = (0..8).map(|n| written(&files, &format!("f{n}"))).collect();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let all = &all;
                scope.spawn(move || {
                    for round in 0..300 {
                        let number = (thread + round) % 8;
                        all[number].sync().unwrap();
                        assert_eq!(content(&all[number]), format!("f{number}"));
                        all[thread].write(|there| there.file.write_all_at(format!("f{thread}").as_bytes(), 0)).unwrap();
                    }
                });
            }
        });
    }
}
