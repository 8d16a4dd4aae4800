//! From an accepted socket to what it may do.
//!
//! In order: room for it? a TLS record (or else, if allowed, the protocol of 2004)? a handshake in time? Then by ALPN: pairing for whoever
//! wants to become a member; for HTTP, members to hyper, everyone else a constant refusal that no
//! HTTP parser had a part in. Whatever fails on the way ends without a word.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::ahead::Ahead;
use super::body::Buffers;
use super::doors::{Doors, Seat};
use super::recent::Recent;
use super::routes::{Caller, route};
use super::stall::StallGuard;
use super::{Limits, Service, pairing, plain};
use crate::auth::Gate;
use crate::auth::tls::{ALPN_HTTP, ALPN_PAIR, peer_id};
use crate::wire::MAX_CALL_BYTES;

/// What a key that is not admitted gets, whatever it sent.
pub(super) const REFUSAL: &[u8] = b"HTTP/1.1 401 Unauthorized\r\n\
    WWW-Authenticate: TinyP2P-Pair\r\n\
    Content-Length: 0\r\n\
    Connection: close\r\n\r\n";

/// The first byte of a TLS record that holds a ClientHello (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// Plaintext that rustls takes from hyper at once: one chunk of a file.
const TLS_BUFFER: usize = 256 * 1024;

/// The longest request head: a path of 4095 escaped bytes, and the few fields of a request.
pub(super) const MAX_HEAD: usize = 16 * 1024;

/// hyper's buffer for reading; a head must fit.
pub(super) const HTTP_BUFFER: usize = 64 * 1024;

/// The most header fields of a request.
pub(super) const MAX_FIELDS: usize = 64;

/// What is read and dropped of a refused connection, so that it reads its refusal in turn: as much
/// as the largest call.
const MAX_DRAINED: u64 = MAX_CALL_BYTES as u64 + MAX_HEAD as u64;

/// After a failed accept (too many open files), the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A peer that acknowledges nothing for so long is gone; and how often an idle one is probed.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// What all connections share.
pub(super) struct House {
    pub(super) service: Arc<Service>,
    pub(super) gate: Arc<Gate>,
    pub(super) limits: Limits,
    pub(super) buffers: Arc<Buffers>,
    pub(super) recent: Arc<Recent>,
    pub(super) ahead: Arc<Ahead>,
    doors: Arc<Doors>,
}

/// Accepts connections for ever.
pub(super) async fn run(
    listener: TcpListener,
    service: Arc<Service>,
    gate: Arc<Gate>,
    limits: Limits,
) {
    let room = Arc::new(Semaphore::new(limits.connections));
    let house = Arc::new(House {
        doors: Doors::new(&limits),
        buffers: Arc::default(),
        recent: Arc::default(),
        ahead: Arc::default(),
        service,
        gate,
        limits,
    });
    let mut failing = false;
    // The semaphore is never closed, so there is always a permit in the end.
    while let Ok(permit) = room.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((socket, remote)) => {
                failing = false;
                let house = house.clone();
                tokio::spawn(async move {
                    let remote = remote.ip().to_canonical();
                    if let Err(error) = receive(socket, remote, &house).await {
                        tracing::debug!(%remote, %error, "connection ended");
                    }
                    drop(permit);
                });
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

async fn receive(socket: TcpStream, remote: IpAddr, house: &Arc<House>) -> io::Result<()> {
    let Some(newcomer) = house.doors.newcomer(remote) else {
        return Err(io::Error::other("too many newcomers"));
    };
    let options = SockRef::from(&socket);
    options.set_tcp_nodelay(true)?;
    options.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    options.set_tcp_keepalive(&TcpKeepalive::new().with_time(UNACKNOWLEDGED))?;
    let deadline = Instant::now() + house.limits.handshake;
    let first = timeout_at(deadline, first_byte(&socket)).await??;
    if first != Some(TLS_HANDSHAKE) {
        let Some(legacy) = house.service.legacy.clone().filter(|_| first.is_some()) else {
            return Ok(());
        };
        let Some(place) = house.doors.plain(remote) else {
            return Err(io::Error::other(
                "too many connections of the protocol of 2004",
            ));
        };
        drop(newcomer);
        return plain::serve(socket, place, legacy, house.clone()).await;
    }
    let mut tls = timeout_at(deadline, shake_hands(socket, house)).await??;
    let (_, session) = tls.get_ref();
    let Some(member) = peer_id(session.peer_certificates()) else {
        return Ok(());
    };
    match session.alpn_protocol() {
        Some(ALPN_PAIR) => {
            pairing::serve(&mut tls, remote, &house.gate).await;
            Ok(())
        }
        Some(ALPN_HTTP) if house.gate.is_admitted(member) => {
            let Some(seat) = house.doors.member(member) else {
                return Err(io::Error::other("too many connections of one member"));
            };
            drop(newcomer);
            serve_http(tls, seat, remote, house.clone()).await
        }
        Some(ALPN_HTTP) => timeout(house.limits.drain, turn_away(tls)).await?,
        _ => Ok(()),
    }
}

/// What the connection begins with, left in its place; `None` if that is its end.
async fn first_byte(socket: &TcpStream) -> io::Result<Option<u8>> {
    let mut first = [0];
    let count = socket.peek(&mut first).await?;
    Ok((count > 0).then_some(first[0]))
}

async fn shake_hands(socket: TcpStream, house: &House) -> io::Result<TlsStream<StallGuard>> {
    let socket = StallGuard::new(socket, house.limits.stall);
    let acceptor = TlsAcceptor::from(house.gate.tls_server());
    let tls = acceptor
        .accept_with(socket, |session| session.set_buffer_limit(Some(TLS_BUFFER)))
        .await?;
    Ok(tls)
}

async fn turn_away(mut tls: TlsStream<StallGuard>) -> io::Result<()> {
    tls.write_all(REFUSAL).await?;
    tls.shutdown().await?;
    // Closing with unread bytes would reset the connection and could overtake the refusal.
    tokio::io::copy(&mut tls.take(MAX_DRAINED), &mut tokio::io::sink()).await?;
    Ok(())
}

async fn serve_http(
    tls: TlsStream<StallGuard>,
    seat: Seat,
    remote: IpAddr,
    house: Arc<House>,
) -> io::Result<()> {
    let head = house.limits.head;
    let caller = Arc::new(Caller {
        seat,
        remote,
        house,
    });
    let service = service_fn(move |request| {
        let caller = caller.clone();
        async move { Ok::<_, Infallible>(route(request, caller).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .max_headers(MAX_FIELDS)
        .max_header_size(MAX_HEAD)
        .max_buf_size(HTTP_BUFFER)
        .serve_connection(TokioIo::new(tls), service)
        .await
        .map_err(io::Error::other)
}
