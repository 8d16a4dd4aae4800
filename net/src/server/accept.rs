//! Takes an accepted connection to the point where its caller may show who it is.
//!
//! In order: a place; a whole TLS record (or else, if allowed, an unencrypted call); a token for
//! the handshake; the handshake, in time. The rest is `identify`'s. A stream through NATs begins
//! with the token: what comes before it is bounded where streams come from. A connection that
//! fails on the way, or loses its place to another, ends without a word.
//!
//! All this runs on a thread of low priority, the door, which never handles members' bytes. Only
//! callers from an address that members came from recently shake hands where members are served,
//! and only a few of them each second.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, sleep, timeout_at};

use super::connection_limits::ConnectionPlace;
use super::context::ServerContext;
use super::first_record::{Beginning, beginning};
use super::identify::{UnidentifiedCaller, crowded, log_end};
use super::plain;
use super::stall::StallGuard;
use crate::model::CallSource;
use crate::transport::reach::{IncomingCall, StreamAdmission};

/// The pause after a failed accept (too many open files).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A peer that acknowledges nothing for this long is gone; also how often an idle one is probed.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// Accepts TCP connections forever.
pub(super) async fn run(listener: TcpListener, context: Arc<ServerContext>) {
    tokio::spawn(context.turnstile.clone().run());
    let mut failing = false;
    // The semaphore is never closed, so there is always a permit in the end.
    while let Ok(permit) = context.room.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((socket, remote)) => {
                failing = false;
                let remote = remote.ip().to_canonical();
                // Done here, so that places are taken in the order of arrival.
                let Some(place) = context.connections.unread(remote) else {
                    continue;
                };
                let caller = caller(CallSource::Tcp(remote), None, permit, &context);
                tokio::spawn(receive(caller, socket, place));
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

/// Accepts streams through NATs for as long as there are any.
pub(super) async fn run_streams(
    mut calls: mpsc::Receiver<IncomingCall>,
    context: Arc<ServerContext>,
) {
    while let Some(call) = calls.recv().await {
        let Ok(permit) = context.room.clone().acquire_owned().await else {
            return;
        };
        let IncomingCall {
            stream,
            source,
            admission,
        } = call;
        let caller = caller(source, Some(admission), permit, &context);
        tokio::spawn(async move {
            let limit = caller.context.limits.stall;
            let entered = caller.enter(|_| Ok(StallGuard::new(stream, limit)), None);
            if let Err(error) = entered.await {
                log_end(source, &error);
            }
        });
    }
}

fn caller(
    source: CallSource,
    admission: Option<StreamAdmission>,
    permit: OwnedSemaphorePermit,
    context: &Arc<ServerContext>,
) -> UnidentifiedCaller {
    UnidentifiedCaller {
        source,
        admission,
        deadline: Instant::now() + context.limits.handshake,
        context: Arc::clone(context),
        permit,
    }
}

async fn receive(caller: UnidentifiedCaller, socket: TcpStream, place: ConnectionPlace) {
    let source = caller.source;
    let first = place.keep(timeout_at(caller.deadline, beginning(&socket)));
    let first = match first.await {
        Some(Ok(first)) => first,
        Some(Err(error)) => return log_end(source, &error.into()),
        None => return log_end(source, &crowded("silent sockets")),
    };
    let served = match first {
        Err(error) => Err(error),
        Ok(Beginning::Nothing) => Ok(()),
        Ok(Beginning::Plain) => {
            drop(place);
            serve_plain(caller, socket)
        }
        Ok(Beginning::Record) => match socket.into_std() {
            Ok(socket) => {
                caller
                    .enter(|caller| adopt(caller, socket), Some(place))
                    .await
            }
            Err(error) => Err(error),
        },
    };
    if let Err(error) = served {
        log_end(source, &error);
    }
}

fn serve_plain(caller: UnidentifiedCaller, socket: TcpStream) -> io::Result<()> {
    let context = Arc::clone(&caller.context);
    let Some(protocol) = context.service.plaintext.clone() else {
        return Ok(());
    };
    let Some(place) = context.connections.plain(caller.source.ip()) else {
        return Err(crowded("connections without encryption"));
    };
    let local = socket.local_addr()?;
    let socket = adopt(&caller, socket.into_std()?)?;
    let members = context.members.clone();
    members.spawn(async move {
        let served = plain::serve(socket, local, place, protocol, context).await;
        if let Err(error) = served {
            log_end(caller.source, &error);
        }
        drop(caller.permit);
    });
    Ok(())
}

/// Moves a socket to the event loop and clock of the threads that serve members, so that a
/// member's connection no longer depends on the door.
fn adopt(
    caller: &UnidentifiedCaller,
    socket: std::net::TcpStream,
) -> io::Result<StallGuard<TcpStream>> {
    let options = SockRef::from(&socket);
    options.set_tcp_nodelay(true)?;
    options.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    options.set_tcp_keepalive(&TcpKeepalive::new().with_time(UNACKNOWLEDGED))?;
    let _entered = caller.context.members.enter();
    let socket = TcpStream::from_std(socket)?;
    Ok(StallGuard::new(socket, caller.context.limits.stall))
}
