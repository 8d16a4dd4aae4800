//! Connections through NATs: the transport beside TCP.
//!
//! Below is the engine, iroh: QUIC that finds a direct way through two NATs, and goes by a relay
//! where there is none. Each of its streams is to the rest of this program what a TCP connection
//! is, and TLS between members runs inside. So the engine and every relay are no more than the
//! network, which may be an attacker. No type of the engine leaves this directory.
//!
//! `engine` has its settings, `open_connections` keeps one connection to each endpoint, `link`
//! makes a [`Link`] of a stream, `accept` takes in what others open, `paths` says which way the
//! bytes go, `certificates` which relays are believed, and `lookout` sees that a relay answers.

mod accept;
mod certificates;
mod engine;
mod known_endpoints;
mod link;
mod lookout;
mod open_connections;
mod paths;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use iroh::{Endpoint, EndpointAddr, EndpointId, Watcher};
use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::mpsc;
use tokio::time::timeout_at;

use super::dial::{Dial, Link, broken};
use super::route::RouteState;
use crate::error::Error;
use crate::model::{
    Address, EndpointKey, MAX_DIRECT, PeerId, ReachAddress, Relay, RelayAccess, Ticket,
};
use accept::QUEUE;
pub use accept::{IncomingCall, StreamAdmission};
use certificates::PinnedCertificates;
use known_endpoints::KnownEndpoints;
use link::StreamLink;
use open_connections::{OpenConnections, SharedConnection};

/// Threads that move packets.
const WORKERS: usize = 2;

/// How long it may take to open a stream on a connection that is open.
const OPEN_STREAM: Duration = Duration::from_secs(3);

/// How long the endpoint may take to say goodbye.
const CLOSE: Duration = Duration::from_millis(500);

/// What a node needs to take part through NATs.
#[derive(Clone, Debug)]
pub struct ReachConfig {
    /// The relays to be found by; none: only at this host's own addresses.
    pub relays: Vec<RelayAccess>,
}

/// Where and how an endpoint is bound.
#[derive(Clone, Debug)]
pub struct EndpointPlace {
    /// The UDP port that it gets if that is free, and the only address if one is named.
    pub at: SocketAddr,
    /// This host's addresses that others may reach, best first. Without a relay, they are told.
    pub own: Vec<IpAddr>,
    /// Others can call it.
    pub accepts: bool,
}

/// What this node knows of its own place in the network.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReachState {
    /// The host of the relay to which it is connected.
    pub relay: Option<String>,
    /// Why it is connected to none, if it is known.
    pub problem: Option<String>,
    /// Whether UDP reaches the internet; `None` until that is known.
    pub udp: Option<bool>,
    /// Whether its router gives each destination another port, which makes direct ways unlikely.
    pub is_symmetric: Option<bool>,
    /// Its public addresses.
    pub public: Vec<String>,
}

/// The endpoint of this node.
pub struct Reach {
    inner: Arc<Inner>,
    relays: Vec<RelayAccess>,
    /// Its own addresses, if it has no relay.
    direct: Vec<SocketAddr>,
    calls: Mutex<Option<mpsc::Receiver<IncomingCall>>>,
    runtime: Arc<ReachRuntime>,
}

/// What the tasks of the endpoint share.
struct Inner {
    endpoint: Endpoint,
    open: OpenConnections,
    known: Arc<KnownEndpoints>,
    certificates: Arc<PinnedCertificates>,
    /// Takes what others open; `None` if nothing is accepted.
    calls: Option<mpsc::Sender<IncomingCall>>,
}

/// The threads of the endpoint. They end when nothing uses them any more, without waiting.
struct ReachRuntime(Option<Runtime>);

impl ReachRuntime {
    fn start() -> io::Result<Self> {
        let built = Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .thread_name("tinyp2p-reach")
            .enable_all()
            .build()?;
        Ok(Self(Some(built)))
    }

    fn handle(&self) -> Option<&Handle> {
        self.0.as_ref().map(Runtime::handle)
    }
}

impl Drop for ReachRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Reach {
    /// Binds the endpoint whose key `seed` makes, at `place`. Waits for nobody: whether a relay
    /// answers shows in [`Reach::state`].
    ///
    /// # Errors
    /// [`Error::Local`]: no UDP port can be bound, or no thread started.
    pub fn start(
        config: &ReachConfig,
        seed: &[u8; 32],
        place: &EndpointPlace,
    ) -> Result<Arc<Self>, Error> {
        let failed = |why| Error::local("starting to reach others through NATs", why);
        let runtime = Arc::new(ReachRuntime::start().map_err(failed)?);
        let handle = runtime.handle().ok_or_else(stopped).map_err(failed)?;
        let certificates = Arc::new(PinnedCertificates::default());
        certificates.learn(config.relays.iter().map(|access| &access.relay));
        let (relays, accepts) = (&config.relays, place.accepts);
        let bound = engine::bind(seed, relays, place.at, accepts, Arc::clone(&certificates));
        let endpoint = handle.block_on(bound)?;
        let direct = match relays[..] {
            [] => own_addresses(&endpoint, &place.own),
            _ => Vec::new(),
        };
        let (sender, receiver) = mpsc::channel(QUEUE);
        let inner = Arc::new(Inner {
            endpoint,
            open: OpenConnections::default(),
            known: Arc::default(),
            certificates,
            calls: accepts.then_some(sender),
        });
        if accepts {
            handle.spawn(accept::run(Arc::clone(&inner)));
        }
        handle.spawn(lookout::run(Arc::clone(&inner), !relays.is_empty()));
        Ok(Arc::new(Self {
            inner,
            relays: config.relays.clone(),
            direct,
            calls: Mutex::new(accepts.then_some(receiver)),
            runtime,
        }))
    }

    /// Returns where others find this node.
    pub fn address(&self) -> ReachAddress {
        ReachAddress {
            endpoint: key_of(self.inner.endpoint.id()),
            relays: self.relays.iter().map(|one| one.relay.clone()).collect(),
            direct: self.direct.clone(),
        }
    }

    /// Returns what a friend needs to find this node, which is `peer` to its members.
    pub fn ticket(&self, peer: PeerId) -> Ticket {
        Ticket {
            endpoint: key_of(self.inner.endpoint.id()),
            peer,
            relays: self.relays.clone(),
            direct: self.direct.clone(),
        }
    }

    /// Returns what others open. Only once, and only if the endpoint accepts.
    pub fn take_calls(&self) -> Option<mpsc::Receiver<IncomingCall>> {
        self.calls.lock().take()
    }

    /// Returns what is known of this node's own place.
    pub fn state(&self) -> ReachState {
        state_of(&self.inner.endpoint)
    }

    /// Closes every connection, in half a second at most.
    pub fn stop(&self) {
        if let Some(handle) = self.runtime.handle() {
            let by = Instant::now() + CLOSE;
            let close = async { timeout_at(by.into(), self.inner.endpoint.close()).await };
            let _ = handle.block_on(close);
        }
    }

    /// Returns a connection to `to`, and whether it was made just now.
    async fn connection(&self, to: &ReachAddress) -> io::Result<(SharedConnection, bool)> {
        let id = EndpointId::from_bytes(to.endpoint.as_bytes()).map_err(io::Error::other)?;
        let urls = to.relays.iter().flat_map(engine::urls);
        let address = urls.fold(EndpointAddr::new(id), EndpointAddr::with_relay_url);
        let direct = to.direct.iter().copied();
        let address = direct.fold(address, EndpointAddr::with_ip_addr);
        let endpoint = &self.inner.endpoint;
        let connect = endpoint.connect(address, engine::ALPN);
        let open = &self.inner.open;
        let (shared, is_new) = open.get_or(to.endpoint, connect).await.map_err(unreached)?;
        if is_new {
            let (inner, shared) = (Arc::clone(&self.inner), shared.clone());
            tokio::spawn(async move { accept::tend(&inner, &shared, None).await });
        }
        Ok((shared, is_new))
    }

    /// Opens a stream, on a new connection if the one that there is turns out to be closed.
    async fn open(&self, to: &ReachAddress, handle: &Handle) -> io::Result<StreamLink> {
        loop {
            let (shared, is_new) = self.connection(to).await?;
            let by = Instant::now() + OPEN_STREAM;
            match timeout_at(by.into(), shared.connection.open_bi()).await {
                Ok(Ok(stream)) => {
                    let threads = (Arc::clone(&self.runtime), handle.clone());
                    let (inner, way) = (Arc::clone(&self.inner), (to.endpoint, shared));
                    return Ok(StreamLink::new(threads, inner, way, stream));
                }
                _ if is_new => return Err(io::ErrorKind::ConnectionAborted.into()),
                _ => self.inner.open.give_up(to.endpoint, &shared),
            }
        }
    }
}

impl Dial for Reach {
    fn dial(&self, address: &Address, deadline: Instant) -> Result<Arc<dyn Link>, Error> {
        let who = || address.to_string();
        let Some(to) = address.as_reach() else {
            return Err(Error::unreachable(who(), "it is not behind a NAT"));
        };
        self.inner.certificates.learn(&to.relays);
        let Some(handle) = self.runtime.handle() else {
            return Err(broken(&who(), &stopped()));
        };
        let open = async { timeout_at(deadline.into(), self.open(to, handle)).await };
        let opened = handle.block_on(open);
        match opened {
            Ok(Ok(link)) => Ok(Arc::new(link)),
            Ok(Err(error)) => Err(broken(&who(), &error)),
            Err(_) => Err(broken(&who(), &nobody(to))),
        }
    }

    fn route(&self, address: &Address) -> Option<RouteState> {
        let shared = self.inner.open.get(address.as_reach()?.endpoint)?;
        paths::state(&shared.connection)
    }
}

impl fmt::Debug for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reach({})", self.address())
    }
}

/// Returns what `endpoint` has found out about its place.
fn state_of(endpoint: &Endpoint) -> ReachState {
    let relays = endpoint.home_relay_status().get();
    let connected = relays.iter().find(|relay| relay.is_connected());
    let problem = relays.iter().find_map(|relay| {
        let why = match (relay.auth_denied_reason(), relay.last_error()) {
            (Some(_), _) => "it refuses the token".to_owned(),
            (None, error) => error?.to_string(),
        };
        Some(format!("{}: {why}", paths::host_of(relay.url())))
    });
    let report = endpoint.net_report().get();
    let public = report.iter().flat_map(|report| {
        let v4 = report.global_v4.map(|address| address.to_string());
        v4.into_iter()
            .chain(report.global_v6.map(|address| address.to_string()))
    });
    ReachState {
        relay: connected.map(|relay| paths::host_of(relay.url())),
        problem: problem.filter(|_| connected.is_none()),
        udp: report.as_ref().map(|report| report.has_udp()),
        is_symmetric: report
            .as_ref()
            .and_then(|report| report.mapping_varies_by_dest()),
        public: public.collect(),
    }
}

/// Returns where the endpoint can be called at `ips`.
fn own_addresses(endpoint: &Endpoint, ips: &[IpAddr]) -> Vec<SocketAddr> {
    let bound = endpoint.bound_sockets();
    let addresses = ips.iter().filter_map(|ip| {
        let mut bound = bound.iter();
        let socket = bound.find(|socket| socket.is_ipv4() == ip.is_ipv4())?;
        Some(SocketAddr::new(*ip, socket.port()))
    });
    addresses.take(MAX_DIRECT).collect()
}

fn stopped() -> io::Error {
    io::Error::other("this node is stopping")
}

fn nobody(to: &ReachAddress) -> io::Error {
    let relays: Vec<_> = to.relays.iter().map(Relay::host).collect();
    let by = match relays[..] {
        [] => "nobody answers".to_owned(),
        _ => format!("nobody answers there by {}", relays.join(" or ")),
    };
    io::Error::new(io::ErrorKind::NotConnected, by)
}

fn unreached(error: iroh::endpoint::ConnectError) -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, error.to_string())
}

fn key_of(id: EndpointId) -> EndpointKey {
    EndpointKey::from_bytes(*id.as_bytes())
}
