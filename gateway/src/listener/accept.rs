//! Takes connections: who may connect, how many, with which protection.
//! Rules: one address cannot use up the connections of others; a peer beyond a limit, or with a descriptor that is kept for the rest of the gateway,
//! is closed at once; a TLS handshake has a deadline and holds up nobody; running out of descriptors is waited out; a stop closes the door first and
//! waits for the conversations.
//! Errors: `OpenError` where a door cannot open; each refused connection is a `ListenerNotice`, one per kind and `limits::NOTICE_INTERVAL`.

use super::allowance::within;
use crate::config::Listener;
use crate::descriptors::Descriptors;
use arc_swap::{ArcSwap, ArcSwapOption};
use everpost_client::event::{Event, Events, Refusal};
use everpost_client::io::stop::Stop;
use everpost_client::io::stream::{self, Stream};
use everpost_client::io::tls::{ServerTls, TlsError};
use everpost_client::limits;
use socket2::{Domain, Socket, Type};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;

/// One connection, through all checks.
#[derive(Debug)]
pub struct Connection {
    /// Its bytes.
    pub stream: Stream,
    /// The sender.
    pub peer: SocketAddr,
    /// Its place among the listener's connections; kept until the conversation ends.
    pub slot: Slot,
}

/// A place among the connections of a listener. Dropping it frees the place.
#[derive(Debug)]
pub struct Slot {
    guests: Arc<Guests>,
    address: IpAddr,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.guests.leave(self.address);
    }
}

/// Who is connected to one listener.
#[derive(Debug)]
struct Guests {
    listener: Arc<str>,
    events: Events,
    by_address: Mutex<(usize, HashMap<IpAddr, usize>)>,
}

/// Why a connection is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Turned {
    /// Not among `peers`.
    Stranger,
    /// `max_connections_per_peer`.
    PeerFull,
    /// `max_connections`.
    Full,
    /// No TLS on a TLS listener.
    Plain,
    /// TLS handshake failed or took too long.
    Handshake,
    /// The rest of the descriptors is not for listeners.
    Kept,
    /// The system has no descriptor or memory left.
    Exhausted,
    /// A fault of this program ended a conversation.
    Broken,
}

impl Guests {
    /// `has_room`: whether the process has room for one more, with so many of this address here already.
    fn enter(self: &Arc<Self>, address: IpAddr, max: usize, max_per_peer: usize, has_room: impl Fn(usize) -> bool) -> Result<Slot, Turned> {
        let mut guard = self.lock();
        let (open, by_address) = &mut *guard;
        if *open >= max {
            return Err(Turned::Full);
        }
        let own = by_address.get(&address).copied().unwrap_or_default();
        if own >= max_per_peer {
            return Err(Turned::PeerFull);
        }
        if !has_room(own) {
            return Err(Turned::Kept);
        }
        by_address.insert(address, own + 1);
        *open += 1;
        let open = *open;
        drop(guard);
        self.events.emit(Event::Connections { listener: self.listener.clone(), open });
        Ok(Slot { guests: self.clone(), address })
    }

    fn leave(&self, address: IpAddr) {
        let mut guard = self.lock();
        let (open, by_address) = &mut *guard;
        *open = open.saturating_sub(1);
        if let Some(own) = by_address.get_mut(&address) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                by_address.remove(&address);
            }
        }
        let open = *open;
        drop(guard);
        self.events.emit(Event::Connections { listener: self.listener.clone(), open });
    }

    fn lock(&self) -> MutexGuard<'_, (usize, HashMap<IpAddr, usize>)> {
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a door cannot open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its address.
    #[error("listener \"{listener}\" cannot listen on {bind}: {cause}; {remedy}")]
    Bind {
        /// The listener.
        listener: Arc<str>,
        /// Where.
        bind: SocketAddr,
        /// The system's word.
        #[source]
        cause: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// Its certificate.
    #[error("listener \"{listener}\": {cause}")]
    Tls {
        /// The listener.
        listener: Arc<str>,
        /// What is wrong, and what to do.
        #[source]
        cause: TlsError,
    },
}

/// One open listener. Its limits, peers and certificates can change while it is open.
#[derive(Debug)]
pub struct Door {
    settings: ArcSwap<Listener>,
    tls: ArcSwapOption<ServerTls>,
    /// Taken by `serve`.
    socket: Mutex<Option<Socket>>,
    local: SocketAddr,
    guests: Arc<Guests>,
    descriptors: Arc<Descriptors>,
    events: Events,
    notices: Mutex<HashMap<Turned, (Instant, u64)>>,
}

impl Door {
    /// Binds and reads the certificate. From now on peers can connect; they wait until `serve`.
    /// # Errors
    /// `OpenError`.
    pub fn open(listener: &Arc<Listener>, events: &Events, descriptors: &Arc<Descriptors>) -> Result<Arc<Door>, OpenError> {
        let tls = load_tls(listener)?;
        let failed = |cause: io::Error| {
            let remedy = match cause.kind() {
                io::ErrorKind::AddrInUse => "stop whoever has the port, or choose another",
                io::ErrorKind::PermissionDenied => "choose a port from 1024 up, or give the process CAP_NET_BIND_SERVICE",
                io::ErrorKind::AddrNotAvailable => "use an address that this machine has, or 0.0.0.0",
                _ => "choose another address",
            };
            OpenError::Bind { listener: listener.name.clone(), bind: listener.bind, cause, remedy }
        };
        let socket = bind(listener.bind).map_err(failed)?;
        let local = socket.local_addr().map_err(failed)?.as_socket().unwrap_or(listener.bind);
        Ok(Arc::new(Door {
            settings: ArcSwap::new(listener.clone()),
            tls: ArcSwapOption::new(tls.map(Arc::new)),
            socket: Mutex::new(Some(socket)),
            local,
            guests: Arc::new(Guests { listener: listener.name.clone(), events: events.clone(), by_address: Mutex::default() }),
            descriptors: descriptors.clone(),
            events: events.clone(),
            notices: Mutex::default(),
        }))
    }

    /// Its settings now.
    #[must_use]
    pub fn listener(&self) -> Arc<Listener> {
        self.settings.load_full()
    }

    /// Where it listens; the port is the real one if `bind` left it to the system.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Connections now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.guests.lock().0
    }

    /// When its certificate ends.
    #[must_use]
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.tls.load().as_ref().and_then(|tls| tls.expires_at())
    }

    /// Takes new settings and certificates for new connections; open ones go on as they are. Where it listens and what it speaks stay.
    pub fn change(&self, listener: Arc<Listener>, tls: Option<ServerTls>) {
        self.tls.store(tls.map(Arc::new));
        self.settings.store(listener);
    }

    /// Takes connections until the stop, then waits until the conversations have ended. Each conversation gets the settings of its beginning.
    pub async fn serve<F>(self: Arc<Self>, stop: Stop, converse: impl Fn(Connection, Arc<Listener>, Stop) -> F + Clone + Send + Sync + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner).take();
        let listening = match socket.map(|socket| TcpListener::from_std(socket.into())) {
            Some(Ok(listening)) => listening,
            Some(Err(error)) => return self.tell(Turned::Exhausted, None, &format!("the listener cannot be served: {error}")),
            None => return,
        };
        let mut conversations = JoinSet::new();
        let stopped = stop.wait();
        tokio::pin!(stopped);
        loop {
            tokio::select! {
                () = &mut stopped => break,
                Some(ended) = conversations.join_next() => self.ended(ended),
                accepted = listening.accept() => match accepted {
                    Ok((tcp, peer)) => {
                        if let Some(slot) = self.check(&tcp, peer) {
                            conversations.spawn(self.clone().receive(tcp, peer, slot, stop.clone(), converse.clone()));
                        }
                    }
                    Err(error) => self.wait_out(&error, &stop).await,
                },
            }
        }
        drop(listening);
        while let Some(ended) = conversations.join_next().await {
            self.ended(ended);
        }
    }

    /// The checks before a byte is read. A connection that fails them is closed by dropping it.
    fn check(&self, tcp: &TcpStream, peer: SocketAddr) -> Option<Slot> {
        let listener = self.settings.load();
        let address = peer.ip().to_canonical();
        let entered = if listener.peers.is_empty() || listener.peers.iter().any(|network| network.contains(address)) {
            let descriptor = usize::try_from(tcp.as_raw_fd()).unwrap_or(usize::MAX);
            let has_room = |own| self.descriptors.has_room(descriptor, own);
            self.guests.enter(address, listener.max_connections, listener.max_connections_per_peer, has_room)
        } else {
            Err(Turned::Stranger)
        };
        let turned = match entered {
            Ok(slot) => return Some(slot),
            Err(turned) => turned,
        };
        let what = match turned {
            Turned::Stranger => "a connection from an address that is not among `peers` was closed".to_owned(),
            Turned::Kept => {
                "a connection was closed to keep descriptors for the rest of the gateway; raise LimitNOFILE, or lower max_connections".to_owned()
            }
            Turned::PeerFull => format!("a connection beyond max_connections_per_peer = {} was closed", listener.max_connections_per_peer),
            _ => format!("a connection beyond max_connections = {} was closed", listener.max_connections),
        };
        if turned != Turned::Stranger {
            self.events.emit(Event::Refused { listener: listener.name.clone(), reason: Refusal::Limit });
        }
        self.tell(turned, Some(peer), &what);
        None
    }

    /// Handshake, then conversation.
    async fn receive<F>(
        self: Arc<Self>,
        tcp: TcpStream,
        peer: SocketAddr,
        slot: Slot,
        stop: Stop,
        converse: impl Fn(Connection, Arc<Listener>, Stop) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let stream = tokio::select! {
            () = stop.wait() => return,
            stream = self.protect(tcp, peer) => stream,
        };
        let Some(stream) = stream else { return };
        let conversation = converse(Connection { stream, peer, slot }, self.listener(), stop);
        // In a box of its own: a connection in its handshake costs little.
        Box::pin(conversation).await;
    }

    /// Makes the TLS handshake if the listener has TLS. `None`: the connection is over, which is told.
    async fn protect(&self, tcp: TcpStream, peer: SocketAddr) -> Option<Stream> {
        let Some(tls) = self.tls.load_full() else {
            // A failure means that the peer has gone already: nothing came, nothing is owed.
            return Stream::plain(tcp).ok();
        };
        let handshake = async {
            // Looked at before TLS begins: a peer that sends nothing costs no TLS state, and one that speaks plainly gets a clear line.
            let first = stream::first_bytes(&tcp).await.map_err(|_| None)?;
            if !stream::looks_like_tls(&first) {
                return Err(Some((Turned::Plain, "the peer speaks plainly, this listener only TLS; switch TLS on at the peer".to_owned())));
            }
            tls.accept(tcp).await.map_err(|fault| Some((Turned::Handshake, fault.to_string())))
        };
        let failure = match within(limits::TLS_ACCEPT, handshake).await {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(failure)) => failure,
            Err(_) => {
                let what = format!("the TLS handshake took longer than {} s and was given up", limits::TLS_ACCEPT.as_secs());
                Some((Turned::Handshake, what))
            }
        };
        // A peer that connects and closes without a byte is a port check of some monitor: not worth a line.
        if let Some((turned, what)) = failure {
            self.tell(turned, Some(peer), &what);
        }
        None
    }

    /// After a failed accept: most concern one connection that has gone; running out of something is waited out.
    async fn wait_out(&self, error: &io::Error, stop: &Stop) {
        if is_exhaustion(error) {
            self.tell(Turned::Exhausted, None, &format!("no connection can be taken: {error}; raise LimitNOFILE or lower max_connections"));
            let _ = timeout(limits::ACCEPT_AGAIN, stop.wait()).await;
        }
    }

    fn ended(&self, ended: Result<(), JoinError>) {
        if ended.is_err_and(|error| error.is_panic()) {
            self.tell(Turned::Broken, None, "a conversation ended by a fault of this program; what was answered is durable; please report it");
        }
    }

    /// One line per kind and interval, with the number of those left out.
    fn tell(&self, turned: Turned, peer: Option<SocketAddr>, what: &str) {
        let now = Instant::now();
        let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        let left_out = match notices.get_mut(&turned) {
            Some((told, left_out)) if now.duration_since(*told) < limits::NOTICE_INTERVAL => {
                *left_out += 1;
                return;
            }
            Some((_, left_out)) => *left_out,
            None => 0,
        };
        notices.insert(turned, (now, 0));
        drop(notices);
        let what = if left_out == 0 { what.to_owned() } else { format!("{what} ({left_out} more like it before)") };
        let peer = peer.map(|peer| peer.ip().to_canonical().to_string()).unwrap_or_default();
        self.events.emit(Event::ListenerNotice { listener: self.guests.listener.clone(), peer, what });
    }
}

/// Reads the certificate of a listener that has TLS.
/// # Errors
/// `OpenError::Tls`.
pub fn load_tls(listener: &Listener) -> Result<Option<ServerTls>, OpenError> {
    let load = listener.tls.as_ref().map(ServerTls::load).transpose();
    load.map_err(|cause| OpenError::Tls { listener: listener.name.clone(), cause })
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Connections of a former run that linger in the system must not keep the port.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(limits::BACKLOG)?;
    Ok(socket)
}

/// Whether an accept failed for want of descriptors or memory, so that the next one fails too.
fn is_exhaustion(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
