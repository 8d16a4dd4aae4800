//! The answering side: HTTP/1.1 over TLS for members, pairing for strangers, silence for the rest.
//!
//! There is one TCP port. `listen` binds it. `accept` takes connections, and streams through NATs,
//! as far as a whole first record (`first_record`), and `identify` finds out whose they are.
//! `turnstile` says when they may shake hands (by `hello_queue`, made of many `hello_line`s),
//! `connection_limits` how many there may be, `http` how long their heads may be, `work` how much
//! is done for them, and `limits` has all bounds. A member's requests go to `routes`: `POST /RPC2`
//! to `rpc` and on to [`answer`](crate::service::answer); `GET /files/PATH` to `files`, where
//! `range` decides what to send and `body` sends it; `GET /content/ROOT` to `content`, which may
//! send what `blocks` reads from the disk cache; `POST /batch` to `batch`. With `--legacy`, `plain`
//! answers unencrypted connections. Other strangers see `pairing` or a constant refusal, and no
//! HTTP or XML parser runs for them.
//!
//! hyper is used here only. tokio's runtime, which a few other parts wait on (`auth::gate`,
//! `share::watch`, `service::answer`), belongs to the [`Server`]; everything that may wait for a
//! disk runs on its blocking threads, of which one member can take a few only.

mod accept;
mod batch;
mod blocks;
mod body;
mod connection_limits;
mod content;
mod context;
mod files;
mod first_record;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod harness;
mod hello_line;
mod hello_queue;
mod http;
mod identify;
mod limits;
mod listen;
pub(crate) mod page_prefetch;
pub(crate) mod pairing;
mod plain;
mod range;
mod recent_files;
mod routes;
mod rpc;
mod stall;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod turnstile;
mod work;

use std::sync::Arc;
use std::time::Duration;

use rustix::process::setpriority_process;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;

use crate::auth::Gate;
use crate::config::Listen;
use crate::error::Error;
use crate::service::Service;
use crate::transport::reach::IncomingCall;
use context::ServerContext;
use limits::ServerLimits;

/// Threads that move bytes. Two saturate the two directions of one fast link.
const WORKERS: usize = 2;

/// Threads for what may wait for a disk, for all members together.
const BLOCKING_THREADS: usize = 64;

/// The niceness of the thread that strangers meet: when both are busy, it gets a seventh of the
/// processor time of a thread that serves members. It must not starve either, as new connections of
/// members pass it, too.
const DOOR_NICENESS: i32 = 8;

/// A listening node. Stops when dropped.
pub struct Server {
    /// The door first: what runs there needs the runtime that serves members.
    runtimes: Vec<Runtime>,
    port: u16,
}

impl Server {
    /// Binds as `listen` says and starts to answer, there and to `calls` through NATs.
    ///
    /// # Errors
    /// [`Error::Local`] when the address cannot be bound or the runtime cannot start.
    pub fn start(
        listen: &Listen,
        service: Arc<Service>,
        gate: Arc<Gate>,
        calls: Option<mpsc::Receiver<IncomingCall>>,
    ) -> Result<Self, Error> {
        let limits = ServerLimits::of_this_process();
        Self::start_limited(listen, service, gate, calls, limits)
    }

    fn start_limited(
        listen: &Listen,
        service: Arc<Service>,
        gate: Arc<Gate>,
        calls: Option<mpsc::Receiver<IncomingCall>>,
        limits: ServerLimits,
    ) -> Result<Self, Error> {
        let Some(listener) = listen::bind(listen)? else {
            return Ok(Self {
                runtimes: Vec::new(),
                port: 0,
            });
        };
        let failed = |why| Error::local("starting the server", why);
        let port = listener.local_addr().map_err(failed)?.port();
        let members = Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_name("tinyp2p-server")
            .enable_all()
            .build()
            .map_err(failed)?;
        let door = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(1)
            .thread_name("tinyp2p-door")
            .on_thread_start(step_back)
            .enable_all()
            .build()
            .map_err(failed)?;
        let listener = {
            let _entered = door.enter();
            tokio::net::TcpListener::from_std(listener).map_err(failed)?
        };
        let context = ServerContext::new(service, gate, limits, members.handle().clone());
        if let Some(calls) = calls {
            door.spawn(accept::run_streams(calls, Arc::clone(&context)));
        }
        door.spawn(accept::run(listener, context));
        tracing::info!(port, "listening");
        Ok(Self {
            runtimes: vec![door, members],
            port,
        })
    }

    /// Returns the TCP port that it listens on; 0 for [`Listen::Nowhere`].
    pub fn local_port(&self) -> u16 {
        self.port
    }

    /// Closes the port and every connection at once. Does not wait for a disk that hangs.
    pub fn stop(self) {
        drop(self);
    }
}

/// Lowers the priority of the calling thread: on Linux, niceness is a thread's.
fn step_back() {
    if let Err(error) = setpriority_process(None, DOOR_NICENESS) {
        tracing::debug!(%error, "strangers are met at full priority");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for runtime in self.runtimes.drain(..) {
            runtime.shutdown_timeout(Duration::from_millis(250));
        }
    }
}
