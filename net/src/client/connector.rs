//! HTTP over one connection: the only file that knows ureq. Ranges of files
//! bypass it (`range_get`).
//!
//! An [`HttpConnection`] is one TLS connection with a ureq agent that can use nothing else: its
//! connector hands that connection out once and never makes another. So dialling, pairing, pooling
//! and retrying stay in plain code above, and ureq only contributes HTTP/1.1 itself.
//!
//! Deadlines: a connection carries one request at a time, so each blocking call first writes its
//! deadline where the transport reads it. ureq's own timeouts stay off: they are fixed when a
//! request starts, start threads to resolve names, and surface in several disguises.
//!
//! `ureq::unversioned` is outside semver: the version is pinned exactly in Cargo.toml.

use std::fmt;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::LazyLock;
use std::time::Instant;

use http::{Request, Uri};
use parking_lot::{Mutex, MutexGuard};
use ureq::config::Config;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};
use ureq::{Agent, AsSendBody, BodyReader};

use super::range_get::{Head, MAX_RESPONSE_HEAD, Wire};
use crate::error::Error;
use crate::transport::dial::broken;
use crate::transport::tls_link::{MAX_PLAINTEXT, TlsLink};

/// The plaintext buffered for its reader, per connection.
const INPUT_BUFFER: usize = 128 * 1024;

/// The longest request head, a path of 4095 escaped bytes included.
const OUTPUT_BUFFER: usize = 16 * 1024;

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    Agent::config_builder()
        .https_only(true)
        // Without this, HTTPS_PROXY in the environment would be obeyed.
        .proxy(None)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .user_agent("")
        .accept("")
        .accept_encoding("")
        .max_response_header_size(MAX_RESPONSE_HEAD)
        .max_idle_connections(1)
        .max_idle_connections_per_host(1)
        // The connection pool decides how long a connection may idle.
        .max_idle_age(std::time::Duration::MAX)
        .build()
});

/// One connection that carries one request at a time.
pub(super) struct HttpConnection {
    agent: Agent,
    /// Locking never blocks: only the user of the connection uses the wire.
    wire: Arc<Mutex<Wire>>,
    deadline: Arc<Mutex<Instant>>,
    who: String,
}

/// The head of a response, with its body still to be read.
pub(super) struct Reply {
    pub(super) head: Head,
    body: BodyReader<'static>,
}

impl AsRef<Head> for Reply {
    fn as_ref(&self) -> &Head {
        &self.head
    }
}

impl HttpConnection {
    /// Creates a connection over a TLS link that has carried nothing yet.
    pub(super) fn new(connection: TlsLink) -> Self {
        let deadline = Arc::new(Mutex::new(Instant::now()));
        let who = connection.who().to_owned();
        let wire = Arc::new(Mutex::new(Wire::new(connection)));
        let connector = OneConnection {
            wire: Mutex::new(Some(wire.clone())),
            deadline: deadline.clone(),
            who: who.clone(),
        };
        Self {
            agent: Agent::with_parts(CONFIG.clone(), connector, NoResolver),
            wire,
            deadline,
            who,
        }
    }

    /// Returns the name of the other side in errors.
    pub(super) fn who(&self) -> &str {
        &self.who
    }

    /// Sends `request` and waits for the head of the response.
    pub(super) fn send<B: AsSendBody>(
        &self,
        request: Request<B>,
        deadline: Instant,
    ) -> Result<Reply, Error> {
        *self.deadline.lock() = deadline;
        let response = self
            .agent
            .run(request)
            .map_err(|error| translate(&self.who, error))?;
        let (parts, body) = response.into_parts();
        Ok(Reply {
            head: Head {
                status: parts.status,
                headers: parts.headers,
            },
            body: body.into_reader(),
        })
    }

    /// Returns true if no new request should use this connection: the other side has moved
    /// to another address.
    pub(super) fn is_retired(&self) -> bool {
        self.wire.lock().tls.link().is_retired()
    }

    /// Returns the connection itself, for a request that does not go through ureq. It must be
    /// drained before the connection is used in any other way.
    pub(super) fn wire(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock()
    }

    /// Reads from the body of a `reply` on this connection; returns 0 at its end. The connection
    /// can be used again only after that 0.
    pub(super) fn read(
        &self,
        reply: &mut Reply,
        buffer: &mut [u8],
        deadline: Instant,
    ) -> Result<usize, Error> {
        *self.deadline.lock() = deadline;
        reply
            .body
            .read(buffer)
            .map_err(|error| translate_io(&self.who, error))
    }
}

/// Extracts our own error from ureq's, or else blames the other side or the connection.
fn translate(who: &str, error: ureq::Error) -> Error {
    match error {
        ureq::Error::Other(inner) => match inner.downcast::<Error>() {
            Ok(own) => *own,
            Err(other) => Error::misbehaved(who, other.to_string()),
        },
        ureq::Error::Io(error) => translate_io(who, error),
        other => Error::misbehaved(who, other.to_string()),
    }
}

/// ureq's body reader wraps its errors in `io::ErrorKind::Other`.
fn translate_io(who: &str, error: io::Error) -> Error {
    match error.downcast::<ureq::Error>() {
        Ok(inner) => translate(who, inner),
        Err(plain) => broken(who, &plain),
    }
}

/// Never actually used: the connection already exists.
#[derive(Debug)]
struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(
        &self,
        _: &Uri,
        _: &Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut none = self.empty();
        none.push(SocketAddr::new(IpAddr::from([0, 0, 0, 0]), 0));
        Ok(none)
    }
}

#[derive(Debug)]
struct OneConnection {
    wire: Mutex<Option<Arc<Mutex<Wire>>>>,
    deadline: Arc<Mutex<Instant>>,
    who: String,
}

impl Connector for OneConnection {
    type Out = Encrypted;

    fn connect(
        &self,
        _: &ConnectionDetails<'_>,
        _: Option<()>,
    ) -> Result<Option<Encrypted>, ureq::Error> {
        let wire = self.wire.lock().take().ok_or_else(|| {
            ureq::Error::Other(Box::new(Error::unreachable(
                &self.who,
                "the idle connection was closed",
            )))
        })?;
        Ok(Some(Encrypted {
            wire,
            buffers: LazyBuffers::new(INPUT_BUFFER, OUTPUT_BUFFER),
            deadline: self.deadline.clone(),
        }))
    }
}

struct Encrypted {
    wire: Arc<Mutex<Wire>>,
    buffers: LazyBuffers,
    deadline: Arc<Mutex<Instant>>,
}

impl Transport for Encrypted {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), ureq::Error> {
        let deadline = *self.deadline.lock();
        let mut wire = self.wire.lock();
        wire.tls
            .write_all(&self.buffers.output()[..amount], deadline)
            .map_err(|error| ureq::Error::Other(Box::new(error)))
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, ureq::Error> {
        let deadline = *self.deadline.lock();
        let space = self.buffers.input_append_buf();
        if space.len() < MAX_PLAINTEXT {
            return Ok(false);
        }
        let mut wire = self.wire.lock();
        let read = wire
            .tls
            .read(space, deadline)
            .map_err(|error| ureq::Error::Other(Box::new(error)))?;
        self.buffers.input_appended(read);
        Ok(read > 0)
    }

    fn is_open(&mut self) -> bool {
        self.wire.lock().is_quiet()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

impl fmt::Debug for Encrypted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.wire.lock().tls.fmt(f)
    }
}
