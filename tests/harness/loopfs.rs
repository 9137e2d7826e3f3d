//! A small file system on a loop device: one that can be full, or lose power.
//! Rules: needs root and free loop devices; where mounting is not allowed the test says so (`world::not_run`). Power loss is XFS_IOC_GOINGDOWN without
//! flushing the log, which ext4 knows too: nothing that was not synced comes back.
//! Errors: `None` where mounting is not allowed; panics for the rest.

use crate::process::{run, run_any};
use crate::world::World;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted file system.
pub struct LoopFs {
    image: PathBuf,
    at: PathBuf,
}

impl LoopFs {
    /// Makes and mounts one of `megabytes`; `kind` is `ext4` or `xfs` (which needs at least 300). `None`: not allowed here, and the test has been noted.
    #[must_use]
    #[track_caller]
    pub fn mount(world: &World, kind: &str, megabytes: u64) -> Option<Self> {
        let image = world.path(&format!("{kind}.img"));
        std::fs::File::create(&image).and_then(|file| file.set_len(megabytes << 20)).expect("an image file");
        let force = if kind == "xfs" { "-f" } else { "-F" };
        run(Command::new(sbin(&format!("mkfs.{kind}"))).args(["-q", force]).arg(&image), 60);
        let fs = Self { image, at: world.folder(&format!("{kind}-mount")) };
        match fs.try_mount() {
            Ok(()) => Some(fs),
            Err(why) => {
                let test = format!("{} on {kind}", world.name());
                crate::not_run(&test, &format!("mounting is not allowed here ({}); run tests/run as root on a machine that may mount", why.trim()));
                None
            }
        }
    }

    fn try_mount(&self) -> Result<(), String> {
        let (status, out, err) = run_any(Command::new(sbin("mount")).args(["-o", "loop"]).arg(&self.image).arg(&self.at), 60);
        if status.success() { Ok(()) } else { Err(out + &err) }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Power loss: from now on nothing reaches the device, and what was not synced is gone.
    #[track_caller]
    pub fn lose_power(&self) {
        run(Command::new(sbin("xfs_io")).args(["-x", "-c", "shutdown"]).arg(&self.at), 30);
    }

    /// The device fails under it: from now on nothing can be written, and what was written stays.
    #[track_caller]
    pub fn fail(&self) {
        use std::os::fd::AsRawFd;
        let folder = std::fs::File::open(&self.at).expect("the mounted folder");
        // EXT4_IOC_SHUTDOWN, which XFS has too; the flag flushes data and log before.
        let (request, flags) = (0x8004_587d_u64, 0u32);
        // SAFETY: the descriptor is open; the call reads four bytes that are there.
        let result = unsafe { libc::ioctl(folder.as_raw_fd(), request, &raw const flags) };
        assert_eq!(result, 0, "failing the file system: {}", std::io::Error::last_os_error());
    }

    /// Mounts it again (after the power came back). Nothing may have it open.
    #[track_caller]
    pub fn mount_again(&self) {
        self.unmount();
        self.try_mount().expect("mounting what was mounted before");
    }

    #[track_caller]
    fn unmount(&self) {
        crate::until("the file system can be unmounted", 30, || run_any(Command::new(sbin("umount")).arg(&self.at), 60).0.success());
    }

    /// Fills it up to `leave` free bytes, with a file named `filler`.
    #[track_caller]
    pub fn fill(&self, leave: u64) {
        let free = self.free();
        let file = std::fs::File::options().create(true).append(true).open(self.at.join("filler")).expect("a filler");
        let size = file.metadata().expect("a filler").len();
        if free > leave {
            use std::os::fd::AsRawFd;
            let (offset, length) = (i64::try_from(size).unwrap_or(0), i64::try_from(free - leave).unwrap_or(0));
            // SAFETY: the descriptor is open for writing; the call takes integers only.
            let result = unsafe { libc::posix_fallocate(file.as_raw_fd(), offset, length) };
            assert!(result == 0 || result == libc::ENOSPC, "filling the file system: error {result}");
        }
    }

    /// Removes the filler.
    pub fn free_again(&self) {
        std::fs::remove_file(self.at.join("filler")).expect("a filler to remove");
    }

    /// Free bytes.
    #[must_use]
    pub fn free(&self) -> u64 {
        let out = run(Command::new("df").args(["--output=avail", "-B1"]).arg(&self.at), 30);
        out.lines().nth(1).and_then(|line| line.trim().parse().ok()).expect("df says a number")
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        for _ in 0..100 {
            if run_any(Command::new(sbin("umount")).arg(&self.at), 60).0.success() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        let _ = run_any(Command::new(sbin("umount")).arg("-l").arg(&self.at), 60);
    }
}

/// A program that may stand in a folder for administrators.
#[must_use]
pub fn sbin(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|p| p.exists()).unwrap_or_else(|| PathBuf::from(name))
}
