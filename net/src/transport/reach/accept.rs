//! Takes in connections through NATs, and hands their streams to the server.
//!
//! Endpoints cost nothing. So what an unknown one gets is bounded before anything of it is looked
//! at: few connections, four streams each until one of them shows the key of a member, and half a
//! minute for that. For the limits of the server, all unknown endpoints that come by a relay are
//! one source.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iroh::endpoint::{Incoming, IncomingAddr};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::engine::MAX_STREAMS;
use super::known_endpoints::KnownEndpoints;
use super::open_connections::{ConnectionUse, SharedConnection};
use super::paths::direct_address;
use super::{Inner, key_of};
use crate::model::{CallSource, EndpointKey};
use crate::transport::route::ByteChannel;

/// How long a handshake of the engine may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long a connection may last without showing the key of a member.
const STRANGER: Duration = Duration::from_secs(30);

/// The maximum number of connections of unknown endpoints, and of handshakes of those that a relay
/// calls known.
const MAX_STRANGERS: usize = 128;

/// The maximum number of connections from one endpoint.
const MAX_PER_ENDPOINT: usize = 8;

/// The maximum number of streams that an unknown endpoint has open on one connection.
const STRANGER_STREAMS: usize = 4;

/// Streams that wait for the server.
pub(super) const QUEUE: usize = 64;

/// A stream that somebody has opened to this node.
pub struct IncomingCall {
    /// Its bytes, both ways.
    pub stream: Box<dyn ByteChannel>,
    /// Who is charged for it.
    pub source: CallSource,
    /// To be told if it is a member.
    pub admission: StreamAdmission,
}

impl fmt::Debug for IncomingCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingCall")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

/// What is to be done once a caller has shown that it is a member. Holds the stream's place among
/// those of its connection.
pub struct StreamAdmission {
    endpoint: EndpointKey,
    known: Arc<KnownEndpoints>,
    _place: OwnedSemaphorePermit,
    _use: ConnectionUse,
}

impl StreamAdmission {
    /// Notes that a member uses the endpoint, and returns how its calls are charged from now on.
    pub fn note_member(&self) -> CallSource {
        self.known.note(self.endpoint, Instant::now());
        CallSource::Member(self.endpoint)
    }
}

impl fmt::Debug for StreamAdmission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.endpoint.fmt(f)
    }
}

/// The numbers of connections that are open to this node.
#[derive(Default)]
struct OpenCounts(Mutex<HashMap<EndpointKey, usize>>);

impl OpenCounts {
    /// Counts one more of `endpoint` until the result is dropped; `None` if it has enough.
    fn enter(self: &Arc<Self>, endpoint: EndpointKey) -> Option<CountedConnection> {
        let mut counts = self.0.lock();
        let count = counts.entry(endpoint).or_default();
        (*count < MAX_PER_ENDPOINT).then(|| *count += 1)?;
        let counts = Arc::clone(self);
        Some(CountedConnection { counts, endpoint })
    }
}

struct CountedConnection {
    counts: Arc<OpenCounts>,
    endpoint: EndpointKey,
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        let mut counts = self.counts.0.lock();
        if let Some(count) = counts.get_mut(&self.endpoint) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.endpoint);
            }
        }
    }
}

/// Accepts connections until the endpoint is closed.
pub(super) async fn run(inner: Arc<Inner>) {
    let [strangers, members] = [(); 2].map(|()| Arc::new(Semaphore::new(MAX_STRANGERS)));
    let counts = Arc::new(OpenCounts::default());
    while let Some(incoming) = inner.endpoint.accept().await {
        // However many strangers there are, they take no places from members.
        let places = if is_from_known(&incoming.remote_addr(), &inner.known) {
            &members
        } else {
            &strangers
        };
        let Ok(place) = Arc::clone(places).try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let (inner, counts) = (Arc::clone(&inner), Arc::clone(&counts));
        tokio::spawn(async move { welcome(inner, incoming, &counts, place).await });
    }
}

/// Returns true if a relay says that the caller is an endpoint of a member. A relay that lies gains
/// places for handshakes, and nothing else: the handshake proves who it is.
fn is_from_known(caller: &IncomingAddr, known: &KnownEndpoints) -> bool {
    match caller {
        IncomingAddr::Relay { endpoint_id, .. } => known.has(key_of(*endpoint_id), Instant::now()),
        _ => false,
    }
}

async fn welcome(
    inner: Arc<Inner>,
    incoming: Incoming,
    counts: &Arc<OpenCounts>,
    place: OwnedSemaphorePermit,
) {
    let connection = match timeout(HANDSHAKE, incoming).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return tracing::debug!(%error, "a connection through NATs failed"),
        Err(_) => return,
    };
    let endpoint = key_of(connection.remote_id());
    let Some(_entered) = counts.enter(endpoint) else {
        return connection.close(0_u32.into(), b"too many connections");
    };
    let shared = SharedConnection::new(connection);
    inner.open.offer(endpoint, shared.clone());
    tend(&inner, &shared, Some(place)).await;
}

/// Serves `shared` until it is closed, and closes it when nothing has used it for a while.
pub(super) async fn tend(
    inner: &Inner,
    shared: &SharedConnection,
    place: Option<OwnedSemaphorePermit>,
) {
    tokio::select! {
        () = serve(inner, shared, place) => {}
        () = shared.unused() => shared.connection.close(0_u32.into(), b"not in use"),
    }
}

/// Hands every stream that the other side opens to the server. `place` is given up once the other
/// side is known.
async fn serve(inner: &Inner, shared: &SharedConnection, mut place: Option<OwnedSemaphorePermit>) {
    let connection = &shared.connection;
    let Some(calls) = &inner.calls else {
        connection.closed().await;
        return;
    };
    let endpoint = key_of(connection.remote_id());
    let (begun, known) = (Instant::now(), &inner.known);
    let stranger_streams = Arc::new(Semaphore::new(STRANGER_STREAMS));
    let streams = Arc::new(Semaphore::new(MAX_STREAMS as usize));
    loop {
        let opened = if place.is_some() && !known.has(endpoint, Instant::now()) {
            let left = STRANGER.saturating_sub(begun.elapsed());
            match timeout(left, connection.accept_bi()).await {
                Ok(opened) => opened,
                // One of its streams may have shown a key meanwhile.
                Err(_) if known.has(endpoint, Instant::now()) => continue,
                Err(_) => return connection.close(0_u32.into(), b"no key of a member"),
            }
        } else {
            place = None;
            connection.accept_bi().await
        };
        let Ok(stream) = opened else { return };
        let (source, places) = if known.has(endpoint, Instant::now()) {
            (CallSource::Member(endpoint), &streams)
        } else {
            let address = direct_address(connection);
            (CallSource::Reach(address), &stranger_streams)
        };
        // Dropping the stream ends it.
        let Ok(held) = Arc::clone(places).try_acquire_owned() else {
            continue;
        };
        let admission = StreamAdmission {
            endpoint,
            known: Arc::clone(known),
            _place: held,
            _use: shared.begin_use(),
        };
        let (send, recv) = stream;
        let call = IncomingCall {
            stream: Box::new(tokio::io::join(recv, send)),
            source,
            admission,
        };
        if calls.send(call).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_endpoint_has_few_connections() {
        let counts = Arc::new(OpenCounts::default());
        let endpoint = EndpointKey::from_bytes([1; 32]);
        let mut entered: Vec<_> = (0..MAX_PER_ENDPOINT)
            .map(|_| counts.enter(endpoint))
            .collect();
        assert!(entered.iter().all(Option::is_some));
        assert!(counts.enter(endpoint).is_none());
        assert!(counts.enter(EndpointKey::from_bytes([2; 32])).is_some());
        entered.pop();
        assert!(counts.enter(endpoint).is_some());
        drop(entered);
        assert!(counts.0.lock().is_empty());
    }
}
