//! The admin socket: `<data_dir>/admin.sock`, mode 0600. Who may open it may do everything.
//! Rules: the caller owns the data directory (the spool's lock), so a socket found there is a dead one and is replaced; a path too long for the
//! system's 107 bytes is reached through the directory's descriptor.
//! Errors: the system's.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::net::{UnixListener, UnixStream};

/// Longest path a socket address takes, in bytes, the final zero not counted (`sun_path` of Linux).
const PATH_BYTES_MAX: usize = 107;

/// Where the socket is.
#[must_use]
pub fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("admin.sock")
}

/// Makes the socket. The process's umask must keep others out until the mode is set.
/// # Errors
/// The system's; `AlreadyExists` if something else than a socket has the name.
pub fn bind(data_dir: &Path) -> io::Result<UnixListener> {
    let path = path(data_dir);
    match fs::symlink_metadata(&path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(&path)?,
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} exists and is no socket; move it away", path.display()))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let (short, dir) = within_reach(data_dir)?;
    let listener = UnixListener::bind(&short)?;
    drop(dir);
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Connects to it.
/// # Errors
/// The system's.
pub async fn connect(data_dir: &Path) -> io::Result<UnixStream> {
    let (short, dir) = within_reach(data_dir)?;
    let stream = UnixStream::connect(&short).await;
    drop(dir);
    stream
}

/// The path, or a short one that leads to the same place while the directory is held open.
fn within_reach(data_dir: &Path) -> io::Result<(PathBuf, Option<File>)> {
    let path = path(data_dir);
    if path.as_os_str().as_bytes().len() <= PATH_BYTES_MAX {
        return Ok((path, None));
    }
    let dir = File::open(data_dir)?;
    Ok((format!("/proc/self/fd/{}/admin.sock", dir.as_raw_fd()).into(), Some(dir)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_nobody_else_may_open_it() {
        let dir = tempfile::tempdir().unwrap();
        drop(bind(dir.path()).unwrap());
        assert!(path(dir.path()).exists(), "a dropped listener leaves its socket behind");
        let _listener = bind(dir.path()).unwrap();
        assert_eq!(fs::metadata(path(dir.path())).unwrap().permissions().mode() & 0o777, 0o600);
        connect(dir.path()).await.unwrap();
    }

    #[tokio::test]
    async fn a_long_path_works() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("x".repeat(120));
        fs::create_dir(&deep).unwrap();
        let _listener = bind(&deep).unwrap();
        assert!(path(&deep).exists());
        connect(&deep).await.unwrap();
    }

    #[tokio::test]
    async fn a_file_of_that_name_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(path(dir.path()), "mine").unwrap();
        assert_eq!(bind(dir.path()).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(path(dir.path())).unwrap(), b"mine");
    }
}
