//! Takes an accepted socket to the service that it may use.
//!
//! In order: a place; a whole TLS record (or else, if allowed, an unencrypted call); a token for
//! the handshake; the handshake, in time. Then by ALPN: pairing for a caller that wants to become
//! a member; for HTTP, members go to hyper, and everyone else gets a constant refusal that
//! involves no HTTP parser. A connection that fails on the way, or loses its place to another,
//! ends without a word.
//!
//! All this runs on a thread of low priority, the door, which never handles members' bytes. Only
//! callers from an address that members came from recently shake hands where members are served,
//! and only a few of them each second.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::connection_limits::{ConnectionPlace, MemberConnection};
use super::context::{Caller, ServerContext};
use super::first_record::{Beginning, beginning};
use super::hello_queue::HandshakeThread;
use super::http::{MAX_HEAD, http1};
use super::routes::route;
use super::stall::StallGuard;
use super::{pairing, plain};
use crate::auth::tls::{ALPN_HTTP, ALPN_PAIR, peer_id};
use crate::model::PeerId;
use crate::protocol::wire::MAX_CALL_BYTES;

/// The response to a key that is not admitted, whatever it sent.
pub(super) const REFUSAL: &[u8] = b"HTTP/1.1 401 Unauthorized\r\n\
    WWW-Authenticate: TinyP2P-Pair\r\n\
    Content-Length: 0\r\n\
    Connection: close\r\n\r\n";

/// Plaintext that rustls takes from hyper at once: one chunk of a file.
const TLS_BUFFER: usize = 256 * 1024;

/// How much of a refused connection is read and dropped, so that the caller reads its refusal: as
/// much as the largest call.
const MAX_DRAINED: u64 = MAX_CALL_BYTES as u64 + MAX_HEAD as u64;

/// The pause after a failed accept (too many open files).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A peer that acknowledges nothing for this long is gone; also how often an idle one is probed.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// Accepts connections forever.
pub(super) async fn run(listener: TcpListener, context: Arc<ServerContext>) {
    let room = Arc::new(Semaphore::new(context.limits.connections));
    tokio::spawn(context.turnstile.clone().run());
    let mut failing = false;
    // The semaphore is never closed, so there is always a permit in the end.
    while let Ok(permit) = room.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((socket, remote)) => {
                failing = false;
                let remote = remote.ip().to_canonical();
                // Done here, so that places are taken in the order of arrival.
                let Some(place) = context.connections.unread(remote) else {
                    continue;
                };
                let connection = IncomingConnection {
                    remote,
                    deadline: Instant::now() + context.limits.handshake,
                    context: context.clone(),
                    permit,
                };
                tokio::spawn(connection.run(socket, place));
            }
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "cannot accept connections for now");
                }
                failing = true;
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One connection from an unknown caller.
struct IncomingConnection {
    remote: IpAddr,
    /// Time limit for showing a key.
    deadline: Instant,
    context: Arc<ServerContext>,
    /// One of the permits for all connections.
    permit: OwnedSemaphorePermit,
}

/// The outcome of an unidentified connection.
enum Identified {
    Member(Box<TlsStream<StallGuard>>, PeerId),
    /// It was served as a stranger, and has ended.
    Stranger,
}

impl IncomingConnection {
    async fn run(self, socket: TcpStream, place: ConnectionPlace) {
        let remote = self.remote;
        if let Err(error) = self.receive(socket, place).await {
            log_end(remote, &error);
        }
    }

    async fn receive(self, socket: TcpStream, place: ConnectionPlace) -> io::Result<()> {
        let connections = &self.context.connections;
        let first = place.keep(timeout_at(self.deadline, beginning(&socket)));
        match first.await.ok_or_else(|| crowded("silent sockets"))??? {
            Beginning::Nothing => Ok(()),
            Beginning::Plain => {
                drop(place);
                self.serve_plain(socket)
            }
            Beginning::Record => {
                let familiarity = connections.familiarity(self.remote);
                let turn = self.context.turnstile.pass(self.remote, familiarity);
                let turn = place.keep(timeout_at(self.deadline, turn)).await;
                let thread = turn.ok_or_else(|| crowded("hellos"))??;
                let unidentified = connections
                    .unidentified(self.remote, familiarity)
                    .ok_or_else(|| crowded("handshakes"))?;
                drop(place);
                let socket = socket.into_std()?;
                match thread {
                    HandshakeThread::Members => {
                        let members = self.context.members.clone();
                        members.spawn(self.identify(socket, unidentified));
                    }
                    HandshakeThread::Door => self.identify(socket, unidentified).await,
                }
                Ok(())
            }
        }
    }

    fn serve_plain(self, socket: TcpStream) -> io::Result<()> {
        let Some(protocol) = self.context.service.plaintext.clone() else {
            return Ok(());
        };
        let Some(place) = self.context.connections.plain(self.remote) else {
            return Err(crowded("connections without encryption"));
        };
        let local = socket.local_addr()?;
        let socket = self.adopt(socket.into_std()?)?;
        let members = self.context.members.clone();
        members.spawn(async move {
            let served = plain::serve(socket, local, place, protocol, self.context.clone()).await;
            if let Err(error) = served {
                log_end(self.remote, &error);
            }
            drop(self.permit);
        });
        Ok(())
    }

    /// Identifies the caller and serves it accordingly.
    async fn identify(self, socket: std::net::TcpStream, unidentified: ConnectionPlace) {
        let identified = unidentified.keep(self.shake_hands(socket)).await;
        match identified.ok_or_else(|| crowded("handshakes")).flatten() {
            Ok(Identified::Stranger) => {}
            Ok(Identified::Member(tls, member)) => {
                let connections = &self.context.connections;
                let Some(place) = connections.member(member, self.remote) else {
                    return log_end(self.remote, &crowded("connections of one member"));
                };
                drop(unidentified);
                self.note_member(member);
                let members = self.context.members.clone();
                members.spawn(self.serve_http(*tls, place));
            }
            Err(error) => log_end(self.remote, &error),
        }
    }

    async fn shake_hands(&self, socket: std::net::TcpStream) -> io::Result<Identified> {
        let gate = &self.context.gate;
        let acceptor = TlsAcceptor::from(gate.tls_server());
        let socket = self.adopt(socket)?;
        let accepting = acceptor.accept_with(socket, |session| {
            session.set_buffer_limit(Some(TLS_BUFFER));
        });
        let mut tls = timeout_at(self.deadline, accepting).await??;
        let (_, session) = tls.get_ref();
        let Some(member) = peer_id(session.peer_certificates()) else {
            return Ok(Identified::Stranger);
        };
        match session.alpn_protocol() {
            Some(ALPN_PAIR) => {
                let is_member = pairing::serve(&mut tls, self.remote, gate).await;
                if is_member {
                    self.note_member(member);
                }
            }
            Some(ALPN_HTTP) if gate.is_admitted(member) => {
                return Ok(Identified::Member(Box::new(tls), member));
            }
            Some(ALPN_HTTP) => {
                timeout(self.context.limits.drain, turn_away(tls)).await??;
            }
            _ => {}
        }
        Ok(Identified::Stranger)
    }

    /// Records that callers from this address are probably members, for a while.
    fn note_member(&self, member: PeerId) {
        self.context.connections.note_member(member, self.remote);
        self.context.turnstile.promote(self.remote);
    }

    /// Moves a socket to the event loop and clock of the threads that serve members, so that a
    /// member's connection no longer depends on the door.
    fn adopt(&self, socket: std::net::TcpStream) -> io::Result<StallGuard> {
        let options = SockRef::from(&socket);
        options.set_tcp_nodelay(true)?;
        options.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
        options.set_tcp_keepalive(&TcpKeepalive::new().with_time(UNACKNOWLEDGED))?;
        let _entered = self.context.members.enter();
        let socket = TcpStream::from_std(socket)?;
        Ok(StallGuard::new(socket, self.context.limits.stall))
    }

    async fn serve_http(self, tls: TlsStream<StallGuard>, connection: MemberConnection) {
        let head = self.context.limits.head;
        let caller = Arc::new(Caller {
            connection,
            remote: self.remote,
            context: self.context,
        });
        let callers = caller.clone();
        let service = service_fn(move |request| {
            let caller = callers.clone();
            async move { Ok::<_, Infallible>(route(request, caller).await) }
        });
        let serving = http1(head).serve_connection(TokioIo::new(tls), service);
        match caller.connection.place.keep(serving).await {
            Some(Ok(())) => {}
            Some(Err(error)) => log_end(self.remote, &io::Error::other(error)),
            None => log_end(self.remote, &crowded("connections of members")),
        }
        drop(self.permit);
    }
}

fn crowded(what: &str) -> io::Error {
    io::Error::other(format!("too many {what}"))
}

fn log_end(remote: IpAddr, error: &io::Error) {
    tracing::debug!(%remote, %error, "connection ended");
}

async fn turn_away(mut tls: TlsStream<StallGuard>) -> io::Result<()> {
    tls.write_all(REFUSAL).await?;
    tls.shutdown().await?;
    // Closing with unread bytes would reset the connection and could overtake the refusal.
    tokio::io::copy(&mut tls.take(MAX_DRAINED), &mut tokio::io::sink()).await?;
    Ok(())
}
