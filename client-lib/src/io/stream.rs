//! One connection, plain or TLS, to or from a peer.
//! Rules: Nagle is off and keep-alive is on from the start, on every socket; `write_all` on TLS needs a `flush` after each message.
//! A machine that is gone is told from a receiver that is slow (`Signs`): the one acknowledges nothing, the other's system acknowledges for it.
//! Errors: those of the system, as `io::Error`.

use crate::limits;
use bytes::BytesMut;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// The bytes on the wire, with or without TLS.
#[derive(Debug)]
enum Wire {
    Plain(TcpStream),
    Client(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    Server(Box<tokio_rustls::server::TlsStream<TcpStream>>),
}

/// One connection.
#[derive(Debug)]
pub struct Stream {
    wire: Wire,
    peer: SocketAddr,
}

/// Delegates to whichever wire it is.
macro_rules! wire {
    ($self:ident, $method:ident($($argument:expr),*)) => {
        match &mut $self.get_mut().wire {
            Wire::Plain(wire) => Pin::new(wire).$method($($argument),*),
            Wire::Client(wire) => Pin::new(&mut **wire).$method($($argument),*),
            Wire::Server(wire) => Pin::new(&mut **wire).$method($($argument),*),
        }
    };
}

/// Reads what comes within a moment, blocking this thread: past the runtime, which would hear of it on another thread and wake this one. `None`: nothing came.
pub(crate) fn receive_within(tcp: &TcpStream, buffer: &mut BytesMut, within: Duration) -> Option<io::Result<usize>> {
    let mut wanted = libc::pollfd { fd: tcp.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let millis = libc::c_int::try_from(within.as_millis()).unwrap_or(libc::c_int::MAX);
    // SAFETY: one valid entry.
    if unsafe { libc::poll(&raw mut wanted, 1, millis) } != 1 {
        return None;
    }
    match SockRef::from(tcp).recv(buffer.spare_capacity_mut()) {
        Ok(count) => {
            // SAFETY: the system has just filled so many bytes behind the present end.
            unsafe { buffer.set_len(buffer.len() + count) };
            Some(Ok(count))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        Err(error) => Some(Err(error)),
    }
}

impl Stream {
    /// Takes a connected socket and sets its options.
    /// # Errors
    /// The system's, usually because the peer has gone already.
    pub fn plain(tcp: TcpStream) -> io::Result<Stream> {
        prepare(&tcp)?;
        let peer = tcp.peer_addr()?;
        Ok(Stream { wire: Wire::Plain(tcp), peer })
    }

    /// Takes a connection after its TLS handshake; `prepare` was called on the socket before.
    pub(crate) fn client(tls: tokio_rustls::client::TlsStream<TcpStream>) -> io::Result<Stream> {
        let peer = tls.get_ref().0.peer_addr()?;
        Ok(Stream { wire: Wire::Client(Box::new(tls)), peer })
    }

    /// As `client`, for an accepted connection.
    pub(crate) fn server(tls: tokio_rustls::server::TlsStream<TcpStream>) -> io::Result<Stream> {
        let peer = tls.get_ref().0.peer_addr()?;
        Ok(Stream { wire: Wire::Server(Box::new(tls)), peer })
    }

    /// The same, under another address for people.
    #[must_use]
    pub(crate) fn standing_for(self, peer: Option<SocketAddr>) -> Stream {
        Stream { peer: peer.unwrap_or(self.peer), ..self }
    }

    /// The peer's address and port.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Whether bytes are protected on the wire.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        !matches!(self.wire, Wire::Plain(_))
    }

    /// The socket under it.
    #[must_use]
    pub fn tcp(&self) -> &TcpStream {
        match &self.wire {
            Wire::Plain(tcp) => tcp,
            Wire::Client(tls) => tls.get_ref().0,
            Wire::Server(tls) => tls.get_ref().0,
        }
    }

    /// Asks the system to acknowledge what came at once. The system forgets it after a while, so it is asked again after each read: senders that
    /// leave Nagle on (many modalities) otherwise stall 40 ms per image. A hint: where the system has none, nothing happens.
    pub fn rearm_quickack(&self) {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        {
            // A failure means that the connection is gone; the next read says so.
            let _ = SockRef::from(self.tcp()).set_tcp_quickack(true);
        }
    }

    /// When the machine at the other end was heard of last: now, unless bytes of ours wait for its acknowledgement; then when it sent a packet last,
    /// but not before `begun`.
    fn heard_at(&self, begun: Instant) -> Instant {
        let now = Instant::now();
        unacknowledged(self.tcp()).and_then(|silent| now.checked_sub(silent)).map_or(now, |at| at.max(begun).min(now))
    }

    /// Whether a kept, idle connection may be used again: still open, and nothing unread on it. A byte that waits there (a late answer, garbage)
    /// makes it unfit: it would be taken for the next message's answer.
    pub async fn reusable(&mut self) -> bool {
        let mut byte = [MaybeUninit::<u8>::uninit(); 1];
        match SockRef::from(self.tcp()).peek(&mut byte) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => true,
            Err(_) | Ok(0) => false,
            // On TLS the bytes may be session tickets, which carry no data: let rustls take them in.
            Ok(_) if self.is_tls() => tokio::time::timeout(limits::STALE_READ, self.read(&mut [0])).await.is_err(),
            Ok(_) => false,
        }
    }
}

/// Looks, during one wait, whether the machine at the other end still gives signs of life. A receiver that is frozen, busy or reads nothing does: its
/// system acknowledges. One that was switched off, or whose packets are dropped, does not, and no answer needs to be awaited from it any longer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Signs {
    begun: Instant,
    within: Duration,
    /// When to look.
    pub(crate) look_at: Instant,
}

impl Signs {
    /// A wait begins; `within`: silence of the machine that says it is gone.
    pub(crate) fn from_now(within: Duration) -> Self {
        let begun = Instant::now();
        Self { begun, within, look_at: begun + within }
    }

    /// Looks now. True: there was none for `within`.
    pub(crate) fn missing(&mut self, stream: &Stream) -> bool {
        self.look_at = stream.heard_at(self.begun) + self.within;
        self.look_at <= Instant::now()
    }
}

/// What to tell people when signs are missing.
pub(crate) fn no_sign(within: Duration) -> String {
    format!("its machine has acknowledged nothing for {} s; is it switched on, and does a firewall drop the packets?", within.as_secs_f32())
}

/// How long nothing came from the peer's machine although bytes of ours wait for its acknowledgement. None: nothing waits (a receiver that reads
/// nothing has its system say so, which counts), or the system cannot tell.
#[cfg(target_os = "linux")]
fn unacknowledged(tcp: &TcpStream) -> Option<Duration> {
    use std::os::fd::AsRawFd;
    // SAFETY: a plain structure of integers, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).ok()?;
    // SAFETY: the descriptor is open, and `length` says how many bytes may be written to `info`.
    let got = unsafe { libc::getsockopt(tcp.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut length) };
    (got == 0 && info.tcpi_unacked > 0).then(|| Duration::from_millis(info.tcpi_last_ack_recv.into()))
}

#[cfg(not(target_os = "linux"))]
fn unacknowledged(_: &TcpStream) -> Option<Duration> {
    None
}

/// Options of every socket that carries messages.
pub(crate) fn prepare(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(limits::KEEPALIVE_IDLE).with_interval(limits::KEEPALIVE_INTERVAL);
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "macos", target_os = "freebsd"))]
    let keepalive = keepalive.with_retries(limits::KEEPALIVE_RETRIES);
    SockRef::from(tcp).set_tcp_keepalive(&keepalive)
}

/// Whether this machine still has an address that a connection goes out from. Where it has not (another network, another lease), nothing gets through on
/// that connection any more, and for minutes nobody says so.
pub(crate) fn is_home(mut local: SocketAddr) -> bool {
    local.set_port(0);
    // The system's own answer, for every kind of address; a failure of another kind says nothing about it.
    local.ip().is_loopback() || !UdpSocket::bind(local).is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
}

/// Whether the first bytes from a peer are a TLS record, so that they make no sense on a plain connection.
#[must_use]
pub fn looks_like_tls(first: &[u8]) -> bool {
    matches!(first, [0x14..=0x17, 0x03, ..])
}

/// What to tell people when `looks_like_tls` says yes on a plain listener.
pub const TLS_ON_PLAIN: &str = "the peer speaks TLS, this listener does not; give the listener `tls`, or switch TLS off at the peer";

/// What to tell people when `looks_like_tls` says yes to the answer on a plain connection.
pub const TLS_EXPECTED: &str = "the peer answered with TLS, this endpoint is plain; give the endpoint `tls`, or switch TLS off at the peer";

/// Waits until the peer has sent something, without taking it.
/// # Errors
/// `UnexpectedEof` if it closed before.
pub async fn first_bytes(tcp: &TcpStream) -> io::Result<[u8; 2]> {
    let mut first = [0; 2];
    match tcp.peek(&mut first).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(first),
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        wire!(self, poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        wire!(self, poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        wire!(self, poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        wire!(self, poll_shutdown(cx))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        wire!(self, poll_write_vectored(cx, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.wire {
            Wire::Plain(wire) => wire.is_write_vectored(),
            Wire::Client(wire) => wire.is_write_vectored(),
            Wire::Server(wire) => wire.is_write_vectored(),
        }
    }
}

/// Closes in both directions without waiting longer than a moment: a peer that reads nothing must not keep us.
pub async fn close(mut stream: Stream) {
    let closing = tokio::io::AsyncWriteExt::shutdown(&mut stream);
    // Whatever came of it, the connection is gone when the stream is dropped.
    let _ = tokio::time::timeout(Duration::from_millis(500), closing).await;
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    async fn pair() -> (Stream, TcpStream) {
        let listening = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (kept, peer) = tokio::join!(TcpStream::connect(listening.local_addr().unwrap()), listening.accept());
        (Stream::plain(kept.unwrap()).unwrap(), peer.unwrap().0)
    }

    #[tokio::test]
    async fn a_kept_connection_is_looked_at_before_reuse() {
        let (mut kept, mut peer) = pair().await;
        assert!(kept.reusable().await);
        peer.write_all(b"x").await.unwrap();
        kept.tcp().readable().await.unwrap();
        assert!(!kept.reusable().await, "a late answer would be taken for the next one's");

        let (mut kept, peer) = pair().await;
        drop(peer);
        kept.tcp().readable().await.unwrap();
        assert!(!kept.reusable().await, "the peer has closed");

        let (mut kept, peer) = pair().await;
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
        kept.tcp().readable().await.unwrap();
        assert!(!kept.reusable().await, "the peer has reset");
    }

    #[tokio::test]
    async fn options_are_set_on_every_socket() {
        let (kept, _peer) = pair().await;
        assert!(kept.tcp().nodelay().unwrap());
        assert!(SockRef::from(kept.tcp()).keepalive().unwrap());
        kept.rearm_quickack();
        assert!(!kept.is_tls());
    }

    #[tokio::test]
    async fn a_receiver_that_reads_nothing_still_gives_signs() {
        let (mut ours, peer) = pair().await;
        // More than both systems keep for it: the window is closed then, and bytes wait.
        while tokio::time::timeout(Duration::from_millis(200), ours.write_all(&[7; 65_536])).await.is_ok() {}
        let mut signs = Signs::from_now(Duration::from_millis(300));
        for _ in 0..3 {
            tokio::time::sleep_until(signs.look_at).await;
            assert!(!signs.missing(&ours));
        }
        drop(peer);
    }

    #[test]
    fn an_address_that_is_gone_is_known() {
        for here in ["127.0.0.1:80", "127.9.9.9:1", "[::1]:1"] {
            assert!(is_home(here.parse().unwrap()), "{here}");
        }
        // Of the documents' networks: nobody has one (RFC 5737, RFC 3849).
        for gone in ["192.0.2.7:40000", "[2001:db8::7]:40000"] {
            assert!(!is_home(gone.parse().unwrap()), "{gone}");
        }
    }

    #[tokio::test]
    async fn what_comes_soon_is_read_past_the_runtime() {
        let (kept, mut peer) = pair().await;
        let mut buffer = BytesMut::with_capacity(16);
        assert!(receive_within(kept.tcp(), &mut buffer, Duration::from_millis(1)).is_none());
        peer.write_all(b"abc").await.unwrap();
        let read = receive_within(kept.tcp(), &mut buffer, Duration::from_secs(20));
        assert_eq!((read.unwrap().unwrap(), &buffer[..]), (3, &b"abc"[..]));
        drop(peer);
        assert_eq!(receive_within(kept.tcp(), &mut buffer, Duration::from_secs(20)).unwrap().unwrap(), 0, "the end");
    }

    #[test]
    fn tls_is_known_by_its_first_bytes() {
        assert!(looks_like_tls(&[0x16, 3, 1, 2, 0]));
        assert!(looks_like_tls(&[0x15, 3, 3]));
        for plain in [&[0x0b, b'M'][..], &[1, 0], &[7, 0], &[0x16], &[0x16, 4], &[]] {
            assert!(!looks_like_tls(plain), "{plain:?}");
        }
    }
}
