//! Stands before a peer and does to its connections what processes and machines do that fail: freezes, resets in the middle of a message, forgets all
//! its connections without a word as a machine does that was switched off and on.
//! Rules: bytes pass both ways as they are; what is frozen reads and accepts nothing while the system goes on taking connections and bytes for it.
//! Errors: end the connection.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

#[derive(Debug, Default)]
struct Shared {
    frozen: Mutex<bool>,
    thawed: Condvar,
    /// A connection is reset when it has brought so many bytes; 0: never.
    reset_after: AtomicUsize,
    over: AtomicBool,
    connections: AtomicUsize,
    open: Mutex<Vec<TcpStream>>,
}

impl Shared {
    fn wait_while_frozen(&self) {
        let guard = self.frozen.lock().unwrap();
        drop(self.thawed.wait_while(guard, |frozen| *frozen && !self.over.load(Ordering::SeqCst)).unwrap());
    }
}

/// The front of a peer.
pub struct Front {
    at: SocketAddr,
    shared: Arc<Shared>,
}

impl Front {
    /// Before the peer at `behind`, on a free port.
    #[must_use]
    #[track_caller]
    pub fn before(behind: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, crate::world::port())).expect("a free port");
        let at = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared::default());
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                accepting.wait_while_frozen();
                if accepting.over.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(behind)) else { continue };
                accepting.connections.fetch_add(1, Ordering::SeqCst);
                let _ = pass(&accepting, client, server);
            }
        });
        Self { at, shared }
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.at
    }

    /// Connections so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Stands still, or goes on with what came meanwhile.
    pub fn freeze(&self, frozen: bool) {
        *self.shared.frozen.lock().unwrap() = frozen;
        self.shared.thawed.notify_all();
    }

    /// From now on resets each connection when it brings more bytes than these at once, 0: no longer.
    pub fn reset_after(&self, bytes: usize) {
        self.shared.reset_after.store(bytes, Ordering::SeqCst);
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.shared.thawed.notify_all();
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let _ = TcpStream::connect(self.at); // wakes the accept
    }
}

/// Ends a connection at once with a reset, as far as its packets go anywhere; nothing of it is left in the system.
pub fn abort(stream: &TcpStream) {
    let nowhere = libc::sockaddr { sa_family: 0, sa_data: [0; 14] }; // AF_UNSPEC dissolves the association
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr>()).expect("a small size");
    // SAFETY: the descriptor is open; the address is as long as it is said to be and outlives the call.
    unsafe { libc::connect(stream.as_raw_fd(), &raw const nowhere, length) };
}

fn pass(shared: &Arc<Shared>, client: TcpStream, server: TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    shared.open.lock().unwrap().extend([client.try_clone()?, server.try_clone()?]);
    let (there, back) = ((client.try_clone()?, server.try_clone()?), (server, client));
    let (one, other) = (shared.clone(), shared.clone());
    std::thread::spawn(move || pump(&one, there.0, there.1, true));
    std::thread::spawn(move || pump(&other, back.0, back.1, false));
    Ok(())
}

fn pump(shared: &Shared, mut from: TcpStream, mut to: TcpStream, counts: bool) {
    let (mut chunk, mut brought) = (vec![0; 65_536], 0);
    loop {
        let read = from.read(&mut chunk).unwrap_or(0);
        shared.wait_while_frozen();
        let limit = shared.reset_after.load(Ordering::SeqCst);
        brought = if limit == 0 { 0 } else { brought + read };
        if counts && limit > 0 && brought > limit {
            abort(&from);
            break;
        }
        if read == 0 || to.write_all(&chunk[..read]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
