//! Finds out who a caller is, by whatever way it came, and takes it to the service that it may use.
//!
//! By ALPN: pairing for a caller that wants to become a member; for HTTP, members go to hyper, and
//! everyone else gets a constant refusal that involves no HTTP parser.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::connection_limits::{ConnectionPlace, MemberConnection};
use super::context::{Caller, ServerContext};
use super::hello_queue::HandshakeThread;
use super::http::{MAX_HEAD, http1};
use super::pairing;
use super::routes::route;
use super::stall::StallGuard;
use crate::auth::tls::{ALPN_HTTP, ALPN_PAIR, peer_id};
use crate::model::CallSource;
use crate::model::PeerId;
use crate::protocol::wire::MAX_CALL_BYTES;
use crate::transport::reach::StreamAdmission;
use crate::transport::route::ByteChannel;

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

/// A caller that has not shown its key yet.
pub(super) struct UnidentifiedCaller {
    /// Who is charged for it.
    pub(super) source: CallSource,
    /// To be told if it is a member; `None` for a TCP connection.
    pub(super) admission: Option<StreamAdmission>,
    /// Time limit for showing a key.
    pub(super) deadline: Instant,
    pub(super) context: Arc<ServerContext>,
    /// One of the permits for all connections.
    pub(super) permit: OwnedSemaphorePermit,
}

/// The outcome of an unidentified connection.
enum Identified<S> {
    Member(Box<TlsStream<StallGuard<S>>>, PeerId),
    /// It was served as a stranger, and has ended.
    Stranger,
}

impl UnidentifiedCaller {
    /// Waits until the caller may shake hands, then identifies it on the thread where it may.
    /// `guard` makes a guarded connection of its `socket`, for the threads that serve members, so
    /// that it no longer depends on the door. `unread` is given up once it may.
    pub(super) async fn enter<S: ByteChannel>(
        self,
        guard: impl FnOnce(&Self) -> io::Result<StallGuard<S>>,
        unread: Option<ConnectionPlace>,
    ) -> io::Result<()> {
        let (connections, ip) = (&self.context.connections, self.source.ip());
        let familiarity = connections.familiarity(ip);
        let turn = self.context.turnstile.pass(ip, familiarity);
        let turn = timeout_at(self.deadline, turn);
        let turn = match &unread {
            Some(place) => place.keep(turn).await.ok_or_else(|| crowded("hellos"))?,
            None => turn.await,
        };
        let thread = turn?;
        let unidentified = connections.unidentified(ip, familiarity);
        let unidentified = unidentified.ok_or_else(|| crowded("handshakes"))?;
        drop(unread);
        let members = self.context.members.clone();
        let socket = {
            let _entered = members.enter();
            guard(&self)?
        };
        match thread {
            HandshakeThread::Members => {
                members.spawn(self.identify(socket, unidentified));
            }
            HandshakeThread::Door => self.identify(socket, unidentified).await,
        }
        Ok(())
    }

    /// Identifies the caller and serves it accordingly.
    async fn identify<S: ByteChannel>(
        mut self,
        socket: StallGuard<S>,
        unidentified: ConnectionPlace,
    ) {
        let identified = unidentified.keep(self.shake_hands(socket)).await;
        match identified.ok_or_else(|| crowded("handshakes")).flatten() {
            Ok(Identified::Stranger) => {}
            Ok(Identified::Member(tls, member)) => {
                self.note_member(member);
                let connections = &self.context.connections;
                let Some(place) = connections.member(member, self.source.ip()) else {
                    return log_end(self.source, &crowded("connections of one member"));
                };
                drop(unidentified);
                let members = self.context.members.clone();
                members.spawn(self.serve_http(*tls, place));
            }
            Err(error) => log_end(self.source, &error),
        }
    }

    async fn shake_hands<S: ByteChannel>(
        &mut self,
        socket: StallGuard<S>,
    ) -> io::Result<Identified<S>> {
        let gate = Arc::clone(&self.context.gate);
        let acceptor = TlsAcceptor::from(gate.tls_server());
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
                let is_member = pairing::serve(&mut tls, self.source.ip(), &gate).await;
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

    /// Records that callers from this source are probably members, for a while. What comes by a
    /// relay is not from an address, so only the endpoint counts.
    fn note_member(&mut self, member: PeerId) {
        if let Some(admission) = &self.admission {
            self.source = admission.note_member();
        }
        let ip = self.source.ip();
        self.context.connections.note_member(member, ip);
        self.context.turnstile.promote(ip);
    }

    async fn serve_http<S: ByteChannel>(
        self,
        tls: TlsStream<StallGuard<S>>,
        connection: MemberConnection,
    ) {
        let head = self.context.limits.head;
        let caller = Arc::new(Caller {
            connection,
            source: self.source,
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
            Some(Err(error)) => log_end(self.source, &io::Error::other(error)),
            None => log_end(self.source, &crowded("connections of members")),
        }
        drop((self.permit, self.admission));
    }
}

pub(super) fn crowded(what: &str) -> io::Error {
    io::Error::other(format!("too many {what}"))
}

pub(super) fn log_end(source: CallSource, error: &io::Error) {
    tracing::debug!(%source, %error, "connection ended");
}

async fn turn_away<S: ByteChannel>(mut tls: TlsStream<StallGuard<S>>) -> io::Result<()> {
    tls.write_all(REFUSAL).await?;
    tls.shutdown().await?;
    // Closing with unread bytes would reset the connection and could overtake the refusal.
    tokio::io::copy(&mut tls.take(MAX_DRAINED), &mut tokio::io::sink()).await?;
    Ok(())
}
