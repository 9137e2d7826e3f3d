//! The gateway of the demo: a folder of its own, a configuration, and a child process that can be killed and started again.
//! Rules: everything is on loopback and in one temporary folder, which goes with the demo; the usual ports are taken if they are free.
//! Errors: `Failure`, with the end of the gateway's log where it did not start.

use super::receiver::Receiver;
use crate::cli::{EXIT_REFUSED, Failure};
use everpost_client::io::disk::Directory;
use std::fmt::Write;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// How long the gateway may take to get ready, or to stop.
const START: Duration = Duration::from_secs(20);

/// The gateway and its folder.
#[derive(Debug)]
pub(crate) struct Stage {
    folder: PathBuf,
    pub(crate) mllp: SocketAddr,
    pub(crate) dicom: SocketAddr,
    admin: SocketAddr,
    child: Option<Child>,
    /// The folder stays, for people to look into.
    keep: bool,
}

/// Bytes that images, HL7 and the reserve of the demo need at most.
const ROOM: u64 = 512 << 20;

fn failed(what: &str, error: &io::Error) -> Failure {
    Failure::new(EXIT_REFUSED, format!("{what}: {error}"))
}

impl Stage {
    /// Makes the folder and writes the configuration.
    pub(crate) fn set(ris: &[Receiver; 2], pacs: &[Receiver; 2]) -> Result<Self, Failure> {
        let folder = std::env::temp_dir().join(format!("everpost-demo-{}", std::process::id()));
        let make = || {
            fs::create_dir_all(folder.join("data"))?;
            let (free, _) = Directory::open(&folder)?.space()?;
            if free < ROOM {
                let what = format!("{} MiB free, {} MiB are needed; set TMPDIR to a folder with more room", free >> 20, ROOM >> 20);
                return Err(io::Error::new(io::ErrorKind::StorageFull, what));
            }
            let (mllp, dicom, admin) = (port(2575)?, port(11112)?, port(8080)?);
            fs::write(folder.join("everpost.toml"), configuration(&folder, [mllp, dicom, admin], ris, pacs))?;
            Ok(Self { folder: folder.clone(), mllp, dicom, admin, child: None, keep: false })
        };
        make().map_err(|error| failed(&format!("the demo's folder {}", folder.display()), &error))
    }

    /// The configuration file.
    pub(crate) fn config(&self) -> PathBuf {
        self.folder.join("everpost.toml")
    }

    /// Starts the gateway and waits until it takes messages.
    pub(crate) async fn start(&mut self) -> Result<Duration, Failure> {
        let begun = Instant::now();
        let start = || {
            let log = fs::OpenOptions::new().create(true).append(true).open(self.folder.join("gateway.log"))?;
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("run").arg("--config").arg(self.config()).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            // In a group of its own, so that Ctrl-C reaches the demo alone and the gateway is stopped in order.
            command.process_group(0).kill_on_drop(true);
            end_with_us(&mut command);
            command.spawn()
        };
        self.child = Some(start().map_err(|error| failed("the gateway's process", &error))?);
        while !self.ready().await {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if ended.is_some() || begun.elapsed() > START {
                let what = ended.map_or_else(|| "did not get ready".to_owned(), |status| format!("ended at its start ({status})"));
                return Err(Failure::new(EXIT_REFUSED, format!("the gateway {what}; the end of its log:\n{}", self.log_end())));
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok(begun.elapsed())
    }

    /// `/readyz` says yes.
    async fn ready(&self) -> bool {
        let ask = async {
            let mut tcp = TcpStream::connect(self.admin).await?;
            tcp.write_all(format!("GET /readyz HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.admin).as_bytes()).await?;
            let mut answer = [0; 12];
            tcp.read_exact(&mut answer).await?;
            Ok::<bool, io::Error>(answer.ends_with(b" 200"))
        };
        matches!(timeout(Duration::from_secs(1), ask).await, Ok(Ok(true)))
    }

    /// `kill -9`. Returns when the process is gone.
    pub(crate) async fn kill(&mut self) -> Result<(), Failure> {
        if let Some(mut child) = self.child.take() {
            child.kill().await.map_err(|error| failed("killing the gateway", &error))?;
        }
        Ok(())
    }

    /// SIGTERM, and `kill -9` if that takes too long.
    pub(crate) async fn stop(&mut self) -> Result<(), Failure> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        if let Some(pid) = child.id().and_then(|pid| libc::pid_t::try_from(pid).ok()) {
            // SAFETY: kill only sends a signal; the pid is our own child's, which has not been waited for.
            unsafe { libc::kill(pid, libc::SIGTERM) };
        }
        match timeout(START, child.wait()).await {
            Ok(waited) => waited.map(drop).map_err(|error| failed("stopping the gateway", &error)),
            Err(_) => child.kill().await.map_err(|error| failed("killing the gateway", &error)),
        }
    }

    /// Leaves the folder with spool and log behind, and says where.
    pub(crate) fn keep(&mut self) -> &Path {
        self.keep = true;
        &self.folder
    }

    fn log_end(&self) -> String {
        let log = fs::read_to_string(self.folder.join("gateway.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        // A folder that cannot be deleted lies in the system's temporary folder, which is emptied without us.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A demo that is killed takes its gateway with it, where the system can do that.
fn end_with_us(command: &mut Command) {
    #[cfg(target_os = "linux")]
    // SAFETY: between fork and exec only this one system call is made, which takes numbers and allocates nothing.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    #[cfg(not(target_os = "linux"))]
    let _ = command;
}

/// The usual port if it is free, else any.
fn port(usual: u16) -> io::Result<SocketAddr> {
    let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|listener| listener.local_addr());
    free(usual).or_else(|_| free(0))
}

fn configuration(folder: &Path, [mllp, dicom, admin]: [SocketAddr; 3], ris: &[Receiver; 2], pacs: &[Receiver; 2]) -> String {
    let mut text = format!(
        r#"# Written by `everpost demo`: waits are short, so that everything happens within seconds.
name         = "demo"
data_dir     = '{}'
stop_timeout = "5s"

[admin]
bind = "{admin}"

[spool]
reserve      = "64 MiB"
segment_size = "16 MiB"

[[listener]]
name       = "ris-in"
protocol   = "mllp"
bind       = "{mllp}"
duplicates = "same-content"

[[listener]]
name       = "modalities"
protocol   = "dicom"
bind       = "{dicom}"
ae_title   = ["EVERPOST", "ANY-SCP"]
duplicates = "same-content"
"#,
        folder.join("data").display()
    );
    for (name, protocol, probe, ordering, pair) in [("ris", "mllp", "tcp", "strict", ris), ("pacs", "dicom", "dicom-echo", "study", pacs)] {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            r#"
[[destination]]
name            = "{name}"
protocol        = "{protocol}"
ordering        = "{ordering}"
connect_timeout = "2s"
ack_timeout     = "5s"
hold_down       = "3s"
retry           = {{ first = "200ms", max = "1s" }}
health          = {{ probe = "{probe}", interval = "500ms", timeout = "1s", fall = 2, rise = 2 }}
"#
        );
        for (endpoint, receiver) in ["primary", "secondary"].into_iter().zip(pair) {
            let title = if protocol == "dicom" { "ae_title = \"PACS\"\n" } else { "" };
            let _ = write!(text, "\n  [[destination.endpoint]]\n  name = \"{endpoint}\"\n  address = \"{}\"\n  {title}", receiver.address);
        }
    }
    text.push_str("\n[[route]]\nfrom = [\"ris-in\"]\nto = [\"ris\"]\n\n[[route]]\nfrom = [\"modalities\"]\nto = [\"pacs\"]\n");
    text
}
