//! A disk in memory that can lose power, lie, tear, fill up, fail and rot: the spool's storage trait for tests.
//! Rules: nothing is durable before `sync` or `sync_dir`; a crash keeps any part of what was not, sector by sector, in any order; a failed sync loses what
//! it was to write while readers still see it, as Linux does. All chance comes from one seed.
//! Errors: those of the system that it plays.

use everpost_client::spool::storage::{File, Storage};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

const SECTOR: usize = 512;

/// A fault to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The next sync of a file fails.
    Sync,
    /// The next write ends short and fails.
    ShortWrite,
    /// The next sync of the directory fails.
    SyncDir,
    /// The next opening of a file fails.
    Open,
    /// The next read fails.
    Read,
}

/// The disk.
#[derive(Debug, Clone)]
pub struct FaultyDisk(Arc<Mutex<Disk>>);

#[derive(Debug)]
struct Disk {
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    name_changes: Vec<NameChange>,
    files: Vec<Content>,
    capacity: u64,
    lying: bool,
    faults: Vec<Fault>,
    /// Handles of an earlier life fail.
    life: u64,
    locked: bool,
    operations: u64,
    dies_at: Option<u64>,
    random: fastrand::Rng,
}

#[derive(Debug, Clone)]
enum NameChange {
    Set(String, usize),
    Gone(String),
    Moved(String, String),
}

#[derive(Debug, Default, Clone)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
    reserved: u64,
}

#[derive(Debug, Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Size(usize),
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(at, data) => {
            if bytes.len() < at + data.len() {
                bytes.resize(at + data.len(), 0);
            }
            bytes[*at..at + data.len()].copy_from_slice(data);
        }
        Change::Size(size) => bytes.resize(*size, 0),
    }
}

impl Content {
    /// Makes a random part of what is not synced durable.
    fn tear(&mut self, random: &mut fastrand::Rng) {
        let mut changes = std::mem::take(&mut self.unsynced);
        // All, nothing, or anything between.
        let chance = [0.0, 0.5, 0.9, 1.0][random.usize(..4)];
        if random.bool() {
            random.shuffle(&mut changes);
        }
        for change in changes {
            match change {
                Change::Size(_) if random.f64() < chance => apply(&mut self.durable, &change),
                Change::Size(_) => {}
                Change::Write(at, data) => {
                    let mut from = 0;
                    while from < data.len() {
                        let to = (((at + from) / SECTOR + 1) * SECTOR - at).min(data.len());
                        if random.f64() < chance {
                            apply(&mut self.durable, &Change::Write(at + from, data[from..to].to_vec()));
                        }
                        from = to;
                    }
                }
            }
        }
    }

    fn taken(&self) -> u64 {
        self.reserved.max(self.now.len() as u64)
    }
}

fn error(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

impl Disk {
    fn used(&self) -> u64 {
        self.names.values().map(|i| self.files[*i].taken()).sum()
    }

    /// Counts an operation; fails if the power is gone.
    fn step(&mut self) -> io::Result<()> {
        self.operations += 1;
        if self.dies_at.is_some_and(|at| self.operations > at) { Err(error(libc::EIO)) } else { Ok(()) }
    }

    fn strikes(&mut self, fault: Fault) -> bool {
        let at = self.faults.iter().position(|f| *f == fault);
        if let Some(at) = at {
            self.faults.remove(at);
        }
        at.is_some()
    }
}

fn change_names(names: &mut BTreeMap<String, usize>, change: &NameChange) {
    match change {
        NameChange::Set(name, file) => {
            names.insert(name.clone(), *file);
        }
        NameChange::Gone(name) => {
            names.remove(name);
        }
        NameChange::Moved(from, to) => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
    }
}

impl FaultyDisk {
    /// An empty disk.
    #[must_use]
    pub fn new(seed: u64, capacity: u64) -> Self {
        Self(Arc::new(Mutex::new(Disk {
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_changes: Vec::new(),
            files: Vec::new(),
            capacity,
            lying: false,
            faults: Vec::new(),
            life: 0,
            locked: false,
            operations: 0,
            dies_at: None,
            random: fastrand::Rng::with_seed(seed),
        })))
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap()
    }

    /// A process's view of the disk, until the next `power_loss` or `kill`.
    #[must_use]
    pub fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(Handle { disk: self.clone(), life: self.disk().life })
    }

    /// The process is gone; what it wrote is still in the system's memory.
    pub fn kill(&self) {
        let mut disk = self.disk();
        disk.life += 1;
        disk.locked = false;
        disk.dies_at = None;
        disk.faults.clear();
    }

    /// The power is gone and comes back: any part of what was not synced is lost.
    pub fn power_loss(&self) {
        self.kill();
        let mut guard = self.disk();
        let disk = &mut *guard;
        let kept = disk.random.usize(..=disk.name_changes.len());
        for change in disk.name_changes.drain(..).take(kept) {
            change_names(&mut disk.durable_names, &change);
        }
        disk.names = disk.durable_names.clone();
        for file in &mut disk.files {
            file.tear(&mut disk.random);
            file.now = file.durable.clone();
            file.reserved = 0;
        }
        disk.lying = false;
    }

    /// From now on syncs say yes and do nothing.
    pub fn lie(&self) {
        self.disk().lying = true;
    }

    /// A fault to come.
    pub fn fail(&self, fault: Fault) {
        self.disk().faults.push(fault);
    }

    /// No fault to come.
    pub fn behave(&self) {
        self.disk().faults.clear();
    }

    /// Changes the size of the disk.
    pub fn resize(&self, capacity: u64) {
        self.disk().capacity = capacity;
    }

    /// Bytes taken.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.disk().used()
    }

    /// Operations so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.disk().operations
    }

    /// Everything fails after this many operations, as if the power went then.
    pub fn die_at(&self, operation: u64) {
        self.disk().dies_at = Some(operation);
    }

    /// Names on the disk.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.disk().names.keys().cloned().collect()
    }

    /// A file's bytes.
    #[must_use]
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let disk = self.disk();
        disk.files[disk.names[name]].now.clone()
    }

    /// Changes one byte of a file, for good.
    pub fn rot(&self, name: &str, at: usize) {
        let mut disk = self.disk();
        let file = disk.names[name];
        let file = &mut disk.files[file];
        file.now[at] ^= 0x10;
        if let Some(byte) = file.durable.get_mut(at) {
            *byte ^= 0x10;
        }
    }
}

#[derive(Debug)]
struct Handle {
    disk: FaultyDisk,
    life: u64,
}

impl Handle {
    fn disk(&self) -> io::Result<MutexGuard<'_, Disk>> {
        let mut disk = self.disk.disk();
        if disk.life != self.life {
            return Err(error(libc::EIO));
        }
        disk.step()?;
        Ok(disk)
    }
}

impl Storage for Handle {
    fn lock(&self) -> io::Result<()> {
        let mut disk = self.disk()?;
        if std::mem::replace(&mut disk.locked, true) {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "4711"));
        }
        Ok(())
    }

    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn File>> {
        let mut disk = self.disk()?;
        if disk.strikes(Fault::Open) {
            return Err(error(libc::EIO));
        }
        let file = match disk.names.get(name) {
            Some(_) if create => return Err(error(libc::EEXIST)),
            Some(file) => *file,
            None if create => {
                disk.files.push(Content::default());
                let file = disk.files.len() - 1;
                let change = NameChange::Set(name.to_owned(), file);
                change_names(&mut disk.names, &change);
                disk.name_changes.push(change);
                file
            }
            None => return Err(error(libc::ENOENT)),
        };
        Ok(Arc::new(OpenFile { handle: Handle { disk: self.disk.clone(), life: self.life }, file }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.disk()?.names.keys().cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk()?;
        if !disk.names.contains_key(from) {
            return Err(error(libc::ENOENT));
        }
        let change = NameChange::Moved(from.to_owned(), to.to_owned());
        change_names(&mut disk.names, &change);
        disk.name_changes.push(change);
        Ok(())
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk()?;
        if !disk.names.contains_key(name) {
            return Err(error(libc::ENOENT));
        }
        let change = NameChange::Gone(name.to_owned());
        change_names(&mut disk.names, &change);
        disk.name_changes.push(change);
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut guard = self.disk()?;
        let disk = &mut *guard;
        if disk.strikes(Fault::SyncDir) {
            return Err(error(libc::EIO));
        }
        if !disk.lying {
            for change in disk.name_changes.drain(..) {
                change_names(&mut disk.durable_names, &change);
            }
        }
        Ok(())
    }

    fn space(&self) -> io::Result<(u64, u64)> {
        let disk = self.disk()?;
        Ok((disk.capacity.saturating_sub(disk.used()), disk.capacity))
    }

    fn place(&self) -> String {
        "a faulty disk".to_owned()
    }
}

#[derive(Debug)]
struct OpenFile {
    handle: Handle,
    file: usize,
}

/// A real disk may refuse anything else.
fn assert_aligned(bytes: &[u8], at: u64) {
    assert_eq!((bytes.as_ptr().align_offset(4096), bytes.len() % 4096, at % 4096), (0, 0, 0), "only whole pages pass by the system's memory");
}

impl File for OpenFile {
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut disk = self.handle.disk()?;
        let end = at + bytes.len() as u64;
        let grows = end.saturating_sub(disk.files[self.file].taken());
        if disk.used() + grows > disk.capacity {
            return Err(error(libc::ENOSPC));
        }
        let short = disk.strikes(Fault::ShortWrite);
        let bytes = if short { &bytes[..disk.random.usize(..bytes.len())] } else { bytes };
        let change = Change::Write(at as usize, bytes.to_vec());
        let file = &mut disk.files[self.file];
        apply(&mut file.now, &change);
        file.unsynced.push(change);
        if short { Err(error(libc::EIO)) } else { Ok(()) }
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let mut disk = self.handle.disk()?;
        if disk.strikes(Fault::Read) {
            return Err(error(libc::EIO));
        }
        let bytes = disk.files[self.file].now.get(at as usize..).unwrap_or_default();
        let n = bytes.len().min(buffer.len());
        buffer[..n].copy_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn sync(&self) -> io::Result<()> {
        let mut guard = self.handle.disk()?;
        let disk = &mut *guard;
        let fails = disk.strikes(Fault::Sync);
        let file = &mut disk.files[self.file];
        if fails {
            // The pages count as clean, whatever became of them.
            file.tear(&mut disk.random);
            return Err(error(libc::EIO));
        }
        if !disk.lying {
            for change in std::mem::take(&mut file.unsynced) {
                apply(&mut file.durable, &change);
            }
        }
        Ok(())
    }

    fn write_through(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        assert_aligned(bytes, at);
        self.write_at(bytes, at)
    }

    fn read_through(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        assert_aligned(buffer, at);
        self.read_at(buffer, at)
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        let mut disk = self.handle.disk()?;
        let grows = size.saturating_sub(disk.files[self.file].taken());
        if disk.used() + grows > disk.capacity {
            return Err(error(libc::ENOSPC));
        }
        let file = &mut disk.files[self.file];
        file.reserved = file.reserved.max(size);
        if file.now.len() < size as usize {
            let change = Change::Size(size as usize);
            apply(&mut file.now, &change);
            file.unsynced.push(change);
        }
        Ok(())
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        let mut disk = self.handle.disk()?;
        let file = &mut disk.files[self.file];
        let change = Change::Size(size as usize);
        apply(&mut file.now, &change);
        file.unsynced.push(change);
        file.reserved = size;
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        let disk = self.handle.disk()?;
        Ok(disk.files[self.file].now.len() as u64)
    }
}
