//! How bytes reach another machine: the seam below TLS.
//!
//! [`Dial`] turns an address into a [`Link`], an ordered byte stream on which every wait has a
//! deadline and which any thread can shut down. [`TcpDialer`] is the only one so far; a transport
//! that traverses NATs can be added without a change to anything above.
//!
//! A TCP link is a non-blocking socket plus `poll(2)`: one system call when bytes are ready, and an
//! exact deadline when they are not, without a `setsockopt` each time the remaining time changes.
//! The first read after a write polls at once: the answer cannot be there yet.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use super::resolver::Resolver;
use super::route::RouteState;
use crate::error::Error;
use crate::model::{Address, TcpAddress};

/// Unacknowledged data and unanswered probes end a connection after this time.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// An idle connection is probed after this time, so that a dead one is detected before it is used.
const PROBE_AFTER: Duration = Duration::from_secs(15);

/// How long a retired connection may receive nothing before it is given up.
pub(super) const RETIRED_PATIENCE: Duration = Duration::from_secs(1);

/// Makes connections to other machines.
pub trait Dial: Send + Sync + fmt::Debug {
    /// Connects to `address` by `deadline`: [`Error::Unreachable`] or [`Error::Timeout`].
    fn dial(&self, address: &Address, deadline: Instant) -> Result<Arc<dyn Link>, Error>;

    /// Returns the state of the way to `address`; `None` if there is none now.
    fn route(&self, address: &Address) -> Option<RouteState> {
        address.as_tcp().map(|_| RouteState::tcp(None))
    }
}

/// A connection: bytes in order, both ways.
pub trait Link: Send + Sync + fmt::Debug {
    /// Reads some bytes; returns 0 at the end; [`io::ErrorKind::TimedOut`] at the deadline.
    fn read(&self, buffer: &mut [u8], deadline: Instant) -> io::Result<usize>;

    /// Writes all bytes, or fails; [`io::ErrorKind::TimedOut`] at the deadline.
    fn write_all(&self, bytes: &[u8], deadline: Instant) -> io::Result<()>;

    /// Returns true while the connection is open and nothing unread has arrived. An idle connection
    /// must be quiet before it is used again.
    fn is_quiet(&self) -> bool;

    /// Ends the connection; reads and writes blocked in other threads return at once.
    fn shutdown(&self);

    /// Declares that the other side, or this one, has moved to another address. No new request
    /// should use this link; what is under way may finish, but fails with [`Error::Moved`] after a
    /// second without a sign of life.
    fn retire(&self);

    /// Returns true once [`retire`](Self::retire) was called.
    fn is_retired(&self) -> bool;

    /// Returns the address of the other end, if it is still known.
    fn remote(&self) -> Option<IpAddr>;
}

/// Connects by TCP, trying all addresses of a name within the deadline.
#[derive(Debug, Default)]
pub struct TcpDialer {
    names: Resolver,
}

impl TcpDialer {
    /// Creates a dialer for a user who typed `hosts`, in canonical spelling. They are resolved
    /// apart from all others, so that announced names cannot get in their way.
    pub fn for_typed(hosts: impl IntoIterator<Item = String>) -> Self {
        Self {
            names: Resolver::new(hosts),
        }
    }
}

impl Dial for TcpDialer {
    fn dial(&self, address: &Address, deadline: Instant) -> Result<Arc<dyn Link>, Error> {
        let Some(address) = address.as_tcp() else {
            return Err(Error::unreachable(address.to_string(), "it needs --reach"));
        };
        let sockets = match zoned(address) {
            Some(socket) => vec![socket],
            None => {
                let ips = self.names.resolve(&address.host, deadline)?;
                let socket = |ip| SocketAddr::new(ip, address.port);
                ips.into_iter().map(socket).collect()
            }
        };
        match connect_any(&sockets, deadline) {
            Ok(stream) => Ok(Arc::new(TcpLink {
                stream,
                is_retired: AtomicBool::new(false),
                awaits_answer: AtomicBool::new(false),
            })),
            Err(error) => {
                // The name may resolve to another address by now.
                self.names.forget(&address.host);
                Err(broken(&address.to_string(), &error))
            }
        }
    }
}

/// Returns the socket address of a link-local IPv6 address with its zone (RFC 4007, section 11).
/// The system parses it, without a lookup.
fn zoned(address: &TcpAddress) -> Option<SocketAddr> {
    address.host.contains('%').then_some(())?;
    let mut sockets = (&*address.host, address.port).to_socket_addrs().ok()?;
    sockets.next()
}

/// Translates a failed read, write or connect into the caller's error.
pub(crate) fn broken(who: &str, error: &io::Error) -> Error {
    let who = who.to_owned();
    if error.get_ref().is_some_and(|inner| inner.is::<Retired>()) {
        return Error::Moved { who };
    }
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Error::Timeout { who },
        _ => Error::Unreachable {
            who,
            why: error.to_string(),
        },
    }
}

/// Tries one address after the other. Each but the last gets half of the remaining time, so that a
/// dead first address cannot use it all up.
fn connect_any(sockets: &[SocketAddr], deadline: Instant) -> io::Result<TcpStream> {
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for (index, socket) in sockets.iter().enumerate() {
        let left = time_left(deadline)?;
        let budget = if index + 1 == sockets.len() {
            left
        } else {
            left / 2
        };
        match connect(*socket, budget) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn connect(to: SocketAddr, budget: Duration) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    connect_with(socket, to, budget)
}

fn connect_with(socket: Socket, to: SocketAddr, budget: Duration) -> io::Result<TcpStream> {
    socket.connect_timeout(&to.into(), budget)?;
    // Connecting to an unused port of the ephemeral range can connect the socket to itself.
    if socket.local_addr()?.as_socket() == Some(to) {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    tune(&socket)?;
    Ok(socket.into())
}

/// Sets the socket options. SO_RCVBUF stays as it is: a fixed one gained nothing on loopback, and
/// it would switch off the kernel's tuning, which is what fills a long link.
fn tune(socket: &Socket) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(PROBE_AFTER)
            .with_interval(PROBE_AFTER),
    )
}

/// Returns the time until `deadline`, or an error when it has passed.
fn time_left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left)
}

/// Returns why a wait on a retired connection ended.
pub(super) fn retired() -> io::Error {
    io::Error::other(Retired)
}

/// Why a wait on a retired connection ended.
#[derive(Debug, thiserror::Error)]
#[error("the other side has another address by now")]
struct Retired;

#[derive(Debug)]
struct TcpLink {
    stream: TcpStream,
    is_retired: AtomicBool,
    /// True between a write and the next read, which has to wait for the other side. A read that
    /// did not wait first would be a system call that finds nothing.
    awaits_answer: AtomicBool,
}

impl TcpLink {
    fn wait(&self, events: PollFlags, deadline: Instant) -> io::Result<()> {
        loop {
            let left = time_left(deadline)?.min(RETIRED_PATIENCE);
            let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(
                &mut [PollFd::from_borrowed_fd(self.stream.as_fd(), events)],
                Some(&timeout),
            ) {
                Ok(0) if left == RETIRED_PATIENCE && self.is_retired() => {
                    return Err(retired());
                }
                Ok(0) => {}
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Repeats `io` while it would block or is interrupted.
    fn ready<T>(
        &self,
        events: PollFlags,
        deadline: Instant,
        mut io: impl FnMut(&TcpStream) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            match io(&self.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(events, deadline)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }
}

impl Link for TcpLink {
    fn read(&self, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
        if self.awaits_answer.swap(false, Ordering::Relaxed) {
            self.wait(PollFlags::IN, deadline)?;
        }
        self.ready(PollFlags::IN, deadline, |mut stream| stream.read(buffer))
    }

    fn write_all(&self, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self.ready(PollFlags::OUT, deadline, |mut stream| stream.write(bytes))?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = &bytes[written..];
        }
        self.awaits_answer.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn is_quiet(&self) -> bool {
        matches!(self.stream.peek(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    fn shutdown(&self) {
        // An error means that the connection is down already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn retire(&self) {
        self.is_retired.store(true, Ordering::Relaxed);
    }

    fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::Relaxed)
    }

    fn remote(&self) -> Option<IpAddr> {
        let remote = self.stream.peer_addr().ok()?;
        Some(remote.ip().to_canonical())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;
    use crate::transport::conformance::{FarEnd, Pair, link_conforms};

    fn soon(milliseconds: u64) -> Instant {
        Instant::now() + Duration::from_millis(milliseconds)
    }

    struct FarSocket(TcpStream);

    impl FarEnd for FarSocket {
        fn send(&mut self, bytes: &[u8]) {
            self.0.write_all(bytes).unwrap();
        }

        fn receive(&mut self, count: usize) -> Vec<u8> {
            let mut bytes = vec![0; count];
            self.0.read_exact(&mut bytes).unwrap();
            bytes
        }

        fn finish(&mut self) {
            self.0.shutdown(Shutdown::Write).unwrap();
        }
    }

    fn conforming() -> Pair {
        let (link, socket) = pair();
        (link, Box::new(FarSocket(socket)))
    }

    link_conforms!(conforming);

    fn pair() -> (Arc<dyn Link>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let link = TcpDialer::default()
            .dial(&Address::new("127.0.0.1", port), soon(3000))
            .unwrap();
        (link, listener.accept().unwrap().0)
    }

    #[test]
    fn a_read_ends_at_its_deadline() {
        let (link, _other) = pair();
        let start = Instant::now();
        let error = link.read(&mut [0; 8], soon(50)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() < Duration::from_secs(1));
    }

    #[test]
    fn an_answer_is_awaited_until_the_deadline_and_read_whole() {
        let (link, mut other) = pair();
        link.write_all(b"?", soon(3000)).unwrap();
        let error = link.read(&mut [0; 8], soon(50)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        link.write_all(b"?", soon(3000)).unwrap();
        other.write_all(b"answer").unwrap();
        let (mut answer, mut filled) = ([0; 6], 0);
        while filled < answer.len() {
            filled += link.read(&mut answer[filled..], soon(3000)).unwrap();
        }
        assert_eq!(&answer, b"answer");
    }

    #[test]
    fn write_into_a_full_socket_times_out() {
        let (link, _other) = pair();
        let error = link.write_all(&vec![0; 64 << 20], soon(100)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn blocked_read_returns_on_shutdown() {
        let (link, _other) = pair();
        let reader = thread::spawn({
            let link = link.clone();
            move || link.read(&mut [0; 8], soon(10_000))
        });
        let start = Instant::now();
        link.shutdown();
        assert_eq!(reader.join().unwrap().unwrap(), 0);
        assert!(start.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn retired_link_waits_a_second_for_life() {
        let (link, mut other) = pair();
        link.retire();
        let (start, mut buffer) = (Instant::now(), [0; 8]);
        other.write_all(b"x").unwrap();
        assert_eq!(link.read(&mut buffer, soon(10_000)).unwrap(), 1);
        let error = link.read(&mut buffer, soon(10_000)).unwrap_err();
        assert!(matches!(broken("x", &error), Error::Moved { .. }));
        assert!((1..5).contains(&start.elapsed().as_secs()));
    }

    #[test]
    fn link_retired_while_waiting_gives_up() {
        let (link, _other) = pair();
        let reader = thread::spawn({
            let link = link.clone();
            move || link.read(&mut [0; 8], soon(20_000))
        });
        let start = Instant::now();
        link.retire();
        assert!(reader.join().unwrap().is_err());
        assert!(start.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn link_is_quiet_until_the_peer_acts() {
        let (link, mut other) = pair();
        assert!(link.is_quiet());
        other.write_all(b"x").unwrap();
        link.read(&mut [0; 1], soon(3000)).unwrap();
        assert!(link.is_quiet());
        drop(other);
        while link.is_quiet() {
            thread::yield_now();
        }
    }

    #[test]
    fn second_address_is_tried_after_a_refusal() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let sockets = [[127, 9, 9, 9], [127, 0, 0, 1]].map(|ip| SocketAddr::from((ip, port)));
        assert!(connect_any(&sockets, soon(3000)).is_ok());
    }

    #[test]
    fn link_local_zone_names_the_link() {
        // The loopback interface is the first one everywhere.
        let Some(SocketAddr::V6(socket)) = zoned(&TcpAddress::new("fe80::1%lo", 7)) else {
            panic!("not understood");
        };
        assert_eq!((socket.scope_id(), socket.port()), (1, 7));
        assert_eq!(zoned(&TcpAddress::new("fe80::1", 7)), None);
    }

    #[test]
    fn a_connection_to_itself_is_none() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        // Nobody listens there, and yet TCP would connect the socket to itself.
        let itself = socket.local_addr().unwrap().as_socket().unwrap();
        let error = connect_with(socket, itself, Duration::from_secs(3)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_closed_port_is_unreachable() {
        let port = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().port()
        };
        let error = TcpDialer::default()
            .dial(&Address::new("127.0.0.1", port), soon(3000))
            .unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    }
}
