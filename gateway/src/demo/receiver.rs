//! A receiver of the demo: a small RIS or PACS of its own, which notes what it takes and can be killed.
//!
//! Rules: it notes first and answers then, as a real receiver stores first. Killing closes its port and every connection at once, whatever was in
//! flight; reviving opens the same port again.
//! Errors: `io::Error` of binding; a peer's faults end its connection.

use super::hl7;
use super::images;
use super::reckoning::Ledger;
use everpost_client::keys::Protocol;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};

/// How long a revived receiver waits for its port.
const PORT_WAIT: Duration = Duration::from_secs(3);
/// Connections at a time.
const CONNECTIONS_MAX: usize = 64;

/// A receiver.
#[derive(Debug)]
pub(crate) struct Receiver {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    protocol: Protocol,
    ledger: Arc<Ledger>,
    task: Option<JoinHandle<()>>,
}

impl Receiver {
    /// Opens a free port on loopback.
    pub(crate) async fn open(name: &'static str, protocol: Protocol, ledger: &Arc<Ledger>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let mut receiver = Self { name, address: listener.local_addr()?, protocol, ledger: ledger.clone(), task: None };
        receiver.serve(listener);
        Ok(receiver)
    }

    fn serve(&mut self, listener: TcpListener) {
        let (name, protocol, ledger) = (self.name, self.protocol, self.ledger.clone());
        self.task = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                while connections.try_join_next().is_some() {}
                match listener.accept().await {
                    Ok((tcp, _)) if connections.len() < CONNECTIONS_MAX => {
                        connections.spawn(converse(tcp, name, protocol, ledger.clone()));
                    }
                    Ok(_) => {}
                    // Out of descriptors, or a connection that went away: a moment later it may be better.
                    Err(_) => sleep(Duration::from_millis(50)).await,
                }
            }
        }));
    }

    /// Ends it as a crash would. Returns when port and connections are closed.
    pub(crate) async fn kill(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            // It was told to end, so the error is the expected answer.
            let _ = task.await;
        }
    }

    /// Opens the port again.
    pub(crate) async fn revive(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + PORT_WAIT;
        loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => {
                    self.serve(listener);
                    return Ok(());
                }
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn converse(tcp: TcpStream, name: &'static str, protocol: Protocol, ledger: Arc<Ledger>) {
    let ended = match protocol {
        Protocol::Mllp => hl7::receive(tcp, name, &ledger).await,
        Protocol::Dicom => images::receive(tcp, name, &ledger).await,
    };
    // Whatever ended it, the connection is gone; what was answered is in the ledger.
    drop(ended);
}
