//! The answering side: HTTP/1.1 over TLS for members, pairing for strangers, silence for the rest.
//!
//! One TCP port. `listen` binds it, `accept` takes connections and decides what each may do,
//! `doors` counts them. A member's requests go to `routes`: `POST /RPC2` to `rpc` and on to
//! [`answer`], `GET /files/PATH` to `files`, which `range` tells what to send and `body`
//! sends, `GET /content/ROOT` to `content`, which may send what `blocks` reads from the disk cache,
//! `POST /batch` to `batch`. With `--legacy`, `plain` answers connections that are not encrypted, and `plain_body`
//! sends them files. Strangers see `pairing` or a constant refusal; no HTTP or XML parser runs for them.
//!
//! hyper is used here only, and so is tokio but for one notification in `auth::gate`. The runtime belongs to the [`Server`]; everything that may
//! wait for a disk runs on its blocking threads, of which one member can take a few only.

mod accept;
mod ahead;
pub mod answer;
pub(crate) mod batch;
mod blocks;
mod body;
mod content;
mod doors;
mod files;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod harness;
mod listen;
pub(crate) mod pairing;
mod plain;
mod plain_body;
mod range;
mod recent;
mod routes;
mod rpc;
mod stall;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use crate::auth::Gate;
use crate::cache::Cache;
use crate::config::{Listen, SERVER_IDLE};
use crate::error::Error;
use crate::legacy::Legacy;
use crate::peers::Members;
use crate::share::Share;

/// What a node answers from.
pub struct Service {
    /// What it shares; `None` shares nothing.
    pub share: Option<Arc<Share>>,
    /// What it has read from others and gives to others; `None` gives nothing.
    pub cache: Option<Arc<Cache>>,
    /// Whom it knows.
    pub members: Arc<Members>,
    /// Its part in a network of 2004; `None` closes connections that are not encrypted.
    pub legacy: Option<Arc<Legacy>>,
}

/// Every bound on what others may take up.
#[derive(Debug, Clone)]
struct Limits {
    /// Connections in all.
    connections: usize,
    /// Connections that have not yet proven to be a member's.
    newcomers: usize,
    /// The same, from one IPv4 address or IPv6 /64.
    newcomers_per_source: usize,
    /// Connections of one member.
    connections_per_member: usize,
    /// Blocking threads that work for one member at once.
    work_per_member: usize,
    /// Searches that run at once, for all members together; each keeps a processor busy.
    searches: usize,
    /// The same, for one member.
    searches_per_member: usize,
    /// From accept to the end of the TLS handshake.
    handshake: Duration,
    /// From one request to the whole head of the next; longer than clients keep idle connections.
    head: Duration,
    /// For the whole body of a call.
    call_body: Duration,
    /// A peer that takes none of the bytes meant for it for so long is cut off.
    stall: Duration,
    /// Connections of the protocol of 2004.
    plain: usize,
    /// The same, from one IPv4 address or IPv6 /64.
    plain_per_source: usize,
    /// Blocking threads that work for all of them.
    plain_work: usize,
    /// For the head of such a request.
    plain_head: Duration,
    /// For its body.
    plain_body: Duration,
    /// How long a refused connection may go on talking before it is closed.
    drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            newcomers: 64,
            newcomers_per_source: 32,
            connections_per_member: 64,
            work_per_member: 8,
            searches: 4,
            searches_per_member: 1,
            handshake: Duration::from_secs(10),
            head: SERVER_IDLE,
            call_body: Duration::from_secs(30),
            stall: Duration::from_secs(30),
            plain: 16,
            plain_per_source: 4,
            plain_work: 4,
            plain_head: Duration::from_secs(10),
            plain_body: Duration::from_secs(10),
            drain: Duration::from_secs(2),
        }
    }
}

/// Threads that move bytes. Two saturate the two directions of one fast link.
const WORKERS: usize = 2;

/// Threads for what may wait for a disk, for all members together.
const BLOCKING_THREADS: usize = 64;

/// A listening node. Stops when dropped.
pub struct Server {
    runtime: Option<Runtime>,
    port: u16,
}

impl Server {
    /// Binds as `listen` says and starts to answer.
    ///
    /// # Errors
    /// [`Error::Local`] when the address cannot be bound or the runtime cannot start.
    pub fn start(listen: &Listen, service: Arc<Service>, gate: Arc<Gate>) -> Result<Self, Error> {
        Self::start_limited(listen, service, gate, Limits::default())
    }

    fn start_limited(
        listen: &Listen,
        service: Arc<Service>,
        gate: Arc<Gate>,
        limits: Limits,
    ) -> Result<Self, Error> {
        let Some(listener) = listen::bind(listen)? else {
            return Ok(Self {
                runtime: None,
                port: 0,
            });
        };
        let failed = |why| Error::local("starting the server", why);
        let port = listener.local_addr().map_err(failed)?.port();
        let runtime = Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_name("tinyp2p-server")
            .enable_all()
            .build()
            .map_err(failed)?;
        let listener = {
            let _entered = runtime.enter();
            tokio::net::TcpListener::from_std(listener).map_err(failed)?
        };
        runtime.spawn(accept::run(listener, service, gate, limits));
        tracing::info!(port, "listening");
        Ok(Self {
            runtime: Some(runtime),
            port,
        })
    }

    /// The TCP port that it listens on; 0 for [`Listen::Nowhere`].
    pub fn local_port(&self) -> u16 {
        self.port
    }

    /// Closes the port and every connection at once. Returns without waiting for a disk that hangs.
    pub fn stop(mut self) {
        self.shut_down();
    }

    fn shut_down(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_millis(500));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shut_down();
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server(port {})", self.port)
    }
}
