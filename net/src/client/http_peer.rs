//! A member over the network: [`Peer`] as HTTP over TLS to one pinned key.
//!
//! [`Client::connect`] learns who answers at an address and pairs with it if need be. The resulting
//! [`HttpPeer`] talks to that key only, over as many connections as its callers need at once, and
//! keeps idle ones for the next call.
//!
//! It repairs two failures without the caller's notice, once per request each. If a connection was
//! closed while it idled, the request goes out again on a fresh one; every request here is
//! idempotent. If an admission is gone because it expired or the other side was restarted, it pairs
//! and then sends the request again. Nothing is ever retried in a loop.

mod exchange;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::header::{CONTENT_TYPE, TRANSFER_ENCODING};
use http::{Method, Request as HttpRequest, StatusCode};
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use super::connection_pool::ConnectionPool;
use super::head::{check_head, content_length, stays_open};
use super::range_stream::FileStream;
use crate::auth::{AddressSource, Alpn, Gate};
use crate::budget::{ByteBudget, Reservation, Seat};
use crate::client::connector::{HttpConnection, Reply};
use crate::error::Error;
use crate::model::{Address, ByteRange, PeerId, RelPath, Root, Version};
use crate::peer::{ByteStream, Peer};
use crate::protocol::wire::{
    self, BatchAnswer, BatchItem, Fault, FaultCode, Request, Response, ResponseError,
};
use crate::transport::dial::Dial;
use crate::transport::route::RouteState;
use crate::transport::tls_link::TlsLink;
use exchange::dial;

/// The first allocation for a response. The buffer doubles only when it is full: a peer that
/// announces much and sends nothing takes no memory from others.
const FIRST_BYTES: usize = 64 << 10;

/// The memory that a response takes, in multiples of its document: itself and its decoded form.
const DECODED: usize = 2;

/// All characters but the slash and the unreserved ones of RFC 3986 (section 2.3).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// Connects to addresses and makes peers of what it finds there.
#[derive(Clone, Debug)]
pub struct Client {
    gate: Arc<Gate>,
    dialer: Arc<dyn Dial>,
    budget: Arc<ByteBudget>,
}

impl Client {
    /// Creates a client that shows `gate`'s identity and connects through `dialer`. Answers take
    /// their memory from `budget`.
    pub fn new(gate: Arc<Gate>, dialer: Arc<dyn Dial>, budget: Arc<ByteBudget>) -> Self {
        Self {
            gate,
            dialer,
            budget,
        }
    }

    /// Finds out who answers at `address`, and pairs with it unless both sides know each other.
    ///
    /// # Errors
    /// [`Error::Myself`], [`Error::OtherIdentity`] when `expected` is someone else,
    /// [`Error::NotANode`], and what dialling and pairing report.
    pub fn connect(
        &self,
        address: &Address,
        expected: Option<PeerId>,
        source: AddressSource,
        deadline: Instant,
    ) -> Result<Arc<HttpPeer>, Error> {
        let who = address.to_string();
        let (link, connect_by) = dial(&*self.dialer, address, deadline)?;
        let tls = self.gate.tls_client(Alpn::Http);
        let connection = TlsLink::handshake(link, tls, who.clone(), connect_by)?;
        let id = connection.peer();
        if id == self.gate.id() {
            return Err(Error::Myself { who });
        }
        if expected.is_some_and(|expected| expected != id) {
            return Err(Error::OtherIdentity { who });
        }
        let peer = HttpPeer {
            id,
            seat: Mutex::default(),
            client: self.clone(),
            place: Mutex::new((address.clone(), source)),
            pool: Arc::new(ConnectionPool::default()),
            distance: AtomicU64::new(u64::MAX),
            pairings: AtomicU64::new(0),
            paired: Mutex::new(Ok(())),
        };
        peer.sit(connection.link().remote());
        peer.introduce(connection, deadline)?;
        Ok(Arc::new(peer))
    }
}

/// One member: the holder of one key, at whatever address.
pub struct HttpPeer {
    id: PeerId,
    client: Client,
    /// Its place in the budget, where the members of one network share one part.
    seat: Mutex<Option<Seat>>,
    /// Where it was last found, and the source of that address.
    place: Mutex<(Address, AddressSource)>,
    pool: Arc<ConnectionPool>,
    /// The fastest answer over an existing connection, in microseconds.
    distance: AtomicU64,
    /// How many pairing runs have ended, well or not.
    pairings: AtomicU64,
    /// The result of the last run, locked during a run. So threads that find the admission gone at
    /// the same time make one run, not one each: a run spends a guess.
    paired: Mutex<Result<(), Error>>,
}

impl HttpPeer {
    /// Returns the address at which it is dialled.
    pub fn address(&self) -> Address {
        self.place.lock().0.clone()
    }

    /// Dials the member at `address`, which `source` reported, from now on. Requests under way
    /// elsewhere may finish, but fail with [`Error::Moved`] once nothing has arrived for a second.
    pub fn follow(&self, address: Address, source: AddressSource) {
        *self.place.lock() = (address, source);
        self.renew();
    }

    /// Sends all further requests over new connections, because the way to the member may have
    /// changed. Requests under way end as with [`HttpPeer::follow`].
    pub fn renew(&self) {
        self.distance.store(u64::MAX, Ordering::Relaxed);
        self.pool.renew();
    }

    /// Ends every connection, including those that other threads wait on.
    pub fn cut(&self) {
        self.pool.cut();
    }

    /// Ends every connection, including those that other threads wait on, and makes no more.
    pub fn close(&self) {
        self.pool.close();
    }

    fn who(&self) -> String {
        self.place.lock().0.to_string()
    }

    /// Creates a request for `target` without a body. The authority is the member's key, as the
    /// address does not say whom the request is for.
    fn request(&self, method: Method, target: &str) -> Result<HttpRequest<()>, Error> {
        HttpRequest::builder()
            .method(method)
            .uri(format!("https://{}{target}", self.id))
            .body(())
            .map_err(|error| Error::misbehaved(self.who(), error.to_string()))
    }

    /// Requests `range` of what `tag` names, and accepts a part of it that is `welcome`. Returns
    /// the length of that part too.
    fn get(
        &self,
        target: &str,
        tag: &str,
        range: ByteRange,
        deadline: Instant,
        welcome: &dyn Fn(ByteRange) -> bool,
    ) -> Result<(u64, Box<dyn ByteStream>), Error> {
        let request = ranged_get(target, self.id, range, tag);
        let send =
            |connection: &HttpConnection| connection.wire().request(request.as_bytes(), deadline);
        let (connection, head) = self.exchange(deadline, &send)?;
        let who = || connection.who().to_owned();
        match head.status {
            StatusCode::PARTIAL_CONTENT | StatusCode::OK => {
                let part = check_head(&head, tag, welcome)
                    .map_err(|what| Error::misbehaved(connection.who(), what))?;
                let stream = FileStream::new(connection, &head, part.len(), self.pool.clone());
                Ok((part.len(), Box::new(stream)))
            }
            status => {
                let error = match status {
                    StatusCode::PRECONDITION_FAILED => Error::Changed { who: who() },
                    StatusCode::NOT_FOUND => Error::NotFound { who: who() },
                    StatusCode::FORBIDDEN => Error::Forbidden { who: who() },
                    status => unexpected(&connection, status),
                };
                let is_whole = content_length(&head) == Some(0)
                    && !head.headers.contains_key(TRANSFER_ENCODING);
                if is_whole && stays_open(&head) && connection.wire().is_drained() {
                    self.pool.put(connection, Instant::now());
                }
                Err(error)
            }
        }
    }

    /// Posts `body` and reads the whole body of the response, at most `max` bytes. Returns the
    /// sender too. `reservation` covers the body and its decoded form.
    fn post(
        &self,
        (target, media_type): (&str, &'static str),
        body: &[u8],
        (max, reservation): (usize, &mut Reservation),
        deadline: Instant,
    ) -> Result<(String, Vec<u8>), Error> {
        let mut head = self.request(Method::POST, target)?;
        let media_type = http::HeaderValue::from_static(media_type);
        head.headers_mut().insert(CONTENT_TYPE, media_type);
        let (connection, reply) = self.exchange(deadline, &|connection| {
            connection.send(head.clone().map(|()| body), deadline)
        })?;
        if reply.head.status != StatusCode::OK {
            return Err(unexpected(&connection, reply.head.status));
        }
        let body = self.read_response(&connection, reply, (max, reservation), deadline);
        let body = body.map_err(|error| self.after(error))?;
        let who = connection.who().to_owned();
        self.pool.put(connection, Instant::now());
        Ok((who, body))
    }

    /// Reads the whole body of the response to a call.
    fn read_response(
        &self,
        connection: &HttpConnection,
        mut reply: Reply,
        (max, reservation): (usize, &mut Reservation),
        deadline: Instant,
    ) -> Result<Vec<u8>, Error> {
        let length = content_length(&reply.head).ok_or_else(|| {
            Error::misbehaved(connection.who(), "a response without Content-Length")
        })?;
        let length = usize::try_from(length)
            .ok()
            .filter(|length| *length <= max)
            .ok_or_else(|| {
                Error::misbehaved(connection.who(), "a response longer than the limit")
            })?;
        let mut body = Vec::new();
        let mut filled = 0;
        while filled < length {
            if filled == body.len() {
                let more = filled.max(FIRST_BYTES).min(length - filled);
                reservation.grow(DECODED * more)?;
                body.reserve_exact(more);
                body.resize(filled + more, 0);
            }
            match connection.read(&mut reply, &mut body[filled..], deadline)? {
                0 => return Err(Error::misbehaved(connection.who(), "a response cut short")),
                more => filled += more,
            }
        }
        // The connection is free again only once the end was read.
        match connection.read(&mut reply, &mut [0], deadline)? {
            0 => Ok(body),
            _ => Err(Error::misbehaved(
                connection.who(),
                "a response beyond its end",
            )),
        }
    }
}

impl fmt::Debug for HttpPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpPeer({:?} at {})", self.id, self.who())
    }
}

impl Peer for HttpPeer {
    fn id(&self) -> PeerId {
        self.id
    }

    fn remote(&self) -> Option<IpAddr> {
        self.seat.lock().as_ref().map(Seat::address)
    }

    fn call(&self, request: &Request, deadline: Instant) -> Result<Response, Error> {
        let body = wire::encode_call(request);
        let mut reservation = self.client.budget.reserve(self.id);
        let (who, body) = self.post(
            ("/RPC2", "text/xml"),
            &body,
            (wire::MAX_RESPONSE_BYTES, &mut reservation),
            deadline,
        )?;
        wire::decode_response(request, &body).map_err(|error| match error {
            ResponseError::Fault(fault) => Error::Fault { who, fault },
            ResponseError::Malformed(what) => Error::misbehaved(who, what),
        })
    }

    fn open(
        &self,
        path: &RelPath,
        version: Version,
        range: ByteRange,
        deadline: Instant,
    ) -> Result<Box<dyn ByteStream>, Error> {
        let target = format!("/files/{}", percent_encode(path.as_bytes(), ESCAPED));
        let tag = version.entity_tag();
        let whole = |part: ByteRange| part == range;
        let (_, stream) = self.get(&target, &tag, range, deadline, &whole)?;
        Ok(stream)
    }

    fn open_content(
        &self,
        root: Root,
        range: ByteRange,
        deadline: Instant,
    ) -> Result<(u64, Box<dyn ByteStream>), Error> {
        let (target, tag) = (format!("/content/{root}"), format!("\"{root}\""));
        let beginning = |part: ByteRange| part.start == range.start && part.end <= range.end;
        self.get(&target, &tag, range, deadline, &beginning)
    }

    fn route(&self) -> Option<RouteState> {
        let state = self.client.dialer.route(&self.address())?;
        let round_trip = state.round_trip.or_else(|| self.distance());
        Some(RouteState {
            round_trip,
            ..state
        })
    }

    fn distance(&self) -> Option<Duration> {
        let fastest = self.distance.load(Ordering::Relaxed);
        (fastest < u64::MAX).then(|| Duration::from_micros(fastest))
    }

    fn fetch(&self, files: &[BatchItem], deadline: Instant) -> Result<Vec<BatchAnswer>, Error> {
        let mut reservation = self.client.budget.reserve(self.id);
        let (who, body) = self.post(
            ("/batch", "application/octet-stream"),
            &wire::encode_batch(files),
            (wire::MAX_BATCH_RESPONSE, &mut reservation),
            deadline,
        )?;
        wire::decode_answers(files, &body).map_err(|what| Error::misbehaved(who, what))
    }
}

/// Formats a request for `range` of what `tag` names. The authority is the member's key, as the
/// address does not say whom the request is for.
fn ranged_get(target: &str, member: PeerId, range: ByteRange, tag: &str) -> String {
    let last = range.end.saturating_sub(1);
    format!(
        "GET {target} HTTP/1.1\r\nHost: {member}\r\nRange: bytes={}-{last}\r\nIf-Match: {tag}\r\n\r\n",
        range.start
    )
}

/// Translates a status code that the request does not provide for.
fn unexpected(connection: &HttpConnection, status: StatusCode) -> Error {
    let what = format!("HTTP status {}", status.as_u16());
    if status.is_server_error() {
        return Error::Fault {
            who: connection.who().into(),
            fault: Fault::new(FaultCode::Internal, what),
        };
    }
    Error::misbehaved(connection.who(), format!("unexpected {what}"))
}
