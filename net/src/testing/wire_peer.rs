//! A member in memory on the real wire, for tests of whole programs. Behind the TLS, pairing and
//! messages of a real node it gives the answers of any [`Peer`], which need not be true.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{
    CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderValue, IF_MATCH, RANGE,
};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::TlsAcceptor;

use crate::auth::tls::{ALPN_HTTP, ALPN_PAIR, peer_id};
use crate::auth::{Gate, GuessRecord, Identity, Password};
use crate::error::Error;
use crate::model::{ByteRange, PeerId, RelPath, Root, Version};
use crate::peer::{ByteStream, Peer};
use crate::protocol::wire::{
    BatchBody, Fault, FaultCode, Hello, MemberRecord, Request as Call, Response as Answer,
    decode_batch, decode_call, encode_response,
};
use crate::server::pairing;

/// Its calls have to be answered within this time.
const DEADLINE: Duration = Duration::from_secs(20);

/// A member of the network of one password. Leaves when dropped.
pub struct WirePeer {
    id: PeerId,
    address: SocketAddr,
    runtime: Option<Runtime>,
}

/// State shared by all its connections.
struct Shared {
    gate: Gate,
    name: String,
    address: SocketAddr,
    answers: Arc<dyn Peer>,
}

type Body = Full<Bytes>;

impl WirePeer {
    /// Starts a member called `name` that listens on `address` (port 0: any) and gives the answers
    /// of `answers`. It dials nobody.
    ///
    /// # Panics
    /// If it cannot listen, or `password` is not valid: mistakes in a test.
    pub fn start(name: &str, password: &str, address: SocketAddr, answers: Arc<dyn Peer>) -> Self {
        let password = Password::new(password.to_owned()).expect("a password");
        let identity = Identity::ephemeral().expect("an identity");
        let gate = Gate::new(identity, password.stretch(), GuessRecord::in_memory());
        let gate = gate.expect("a gate");
        let listener = std::net::TcpListener::bind(address).expect("an address to listen on");
        let address = listener.local_addr().expect("an address");
        let id = gate.id();
        let shared = Arc::new(Shared {
            gate,
            name: name.to_owned(),
            address,
            answers,
        });
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        listener.set_nonblocking(true).expect("a listener");
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a listener");
            while let Ok((socket, remote)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                // Any failure here shows up at the caller.
                tokio::spawn(async move {
                    let _ = serve(socket, remote.ip(), shared).await;
                });
            }
        });
        Self {
            id,
            address,
            runtime: Some(runtime),
        }
    }

    /// Returns its identity.
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// Returns its listening address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for WirePeer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn serve(socket: TcpStream, remote: IpAddr, shared: Arc<Shared>) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let acceptor = TlsAcceptor::from(shared.gate.tls_server());
    let mut tls = acceptor.accept(socket).await?;
    let (_, session) = tls.get_ref();
    let (caller, protocol) = (
        peer_id(session.peer_certificates()),
        session.alpn_protocol().map(<[u8]>::to_vec),
    );
    match protocol.as_deref() {
        Some(ALPN_PAIR) => {
            pairing::serve(&mut tls, remote, &shared.gate).await;
        }
        Some(ALPN_HTTP) if caller.is_some_and(|caller| shared.gate.is_admitted(caller)) => {
            let service = service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(answer(request, shared).await) }
            });
            let serving = http1::Builder::new().serve_connection(TokioIo::new(tls), service);
            serving.await.map_err(std::io::Error::other)?;
        }
        _ => {}
    }
    Ok(())
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        return status(StatusCode::BAD_REQUEST);
    };
    let body = body.to_bytes();
    let answered = tokio::task::spawn_blocking(move || shared.respond(&head, &body)).await;
    answered.unwrap_or_else(|_| status(StatusCode::INTERNAL_SERVER_ERROR))
}

impl Shared {
    fn respond(&self, head: &http::request::Parts, body: &[u8]) -> Response<Body> {
        let deadline = Instant::now() + DEADLINE;
        let path = head.uri.path();
        if path == "/RPC2" {
            let answer = decode_call(body).and_then(|call| self.call(&call, deadline));
            return with_body(encode_response(&answer), "text/xml");
        }
        if path == "/batch" {
            let Ok(items) = decode_batch(body) else {
                return status(StatusCode::BAD_REQUEST);
            };
            return match self.answers.fetch(&items, deadline) {
                Ok(answers) => {
                    let mut body = BatchBody::default();
                    for (item, answer) in items.iter().zip(&answers) {
                        body.push(Some(item.version), answer);
                    }
                    with_body(body.finish(), "application/octet-stream")
                }
                Err(error) => status(code(&error)),
            };
        }
        let field = |name| head.headers.get(name).and_then(|field| field.to_str().ok());
        let Some(range) = field(RANGE).and_then(parse_range) else {
            return status(StatusCode::RANGE_NOT_SATISFIABLE);
        };
        let opened = if let Some(escaped) = path.strip_prefix("/files/") {
            let bytes: Vec<u8> = percent_decode_str(escaped).collect();
            let version = field(IF_MATCH).and_then(Version::from_entity_tag);
            let (Ok(path), Some(version)) = (RelPath::new(&bytes), version) else {
                return status(StatusCode::PRECONDITION_FAILED);
            };
            let opened = self.answers.open(&path, version, range, deadline);
            opened.map(|stream| (range.len(), stream, version.entity_tag()))
        } else if let Some(root) = path
            .strip_prefix("/content/")
            .and_then(|root| root.parse::<Root>().ok())
        {
            let opened = self.answers.open_content(root, range, deadline);
            opened.map(|(length, stream)| (length, stream, format!("\"{root}\"")))
        } else {
            return status(StatusCode::NOT_FOUND);
        };
        match opened {
            Ok((length, stream, tag)) => part(range.start, length, stream, &tag, deadline),
            Err(error) => status(code(&error)),
        }
    }

    fn call(&self, call: &Call, deadline: Instant) -> Result<Answer, Fault> {
        if let Call::Hello(_) = call {
            return Ok(Answer::Hello(Hello {
                protocol: Hello::PROTOCOL,
                sender: MemberRecord {
                    id: self.gate.id(),
                    name: self.name.clone(),
                    addresses: Vec::new(),
                },
                port: self.address.port(),
                members: Vec::new(),
                digest: None,
                known: None,
            }));
        }
        self.answers
            .call(call, deadline)
            .map_err(|error| match error {
                Error::Fault { fault, .. } => fault,
                error => Fault::new(FaultCode::Internal, error.to_string()),
            })
    }
}

/// Returns the bytes that `stream` brings, as a part of a file whose size is unknown.
fn part(
    start: u64,
    length: u64,
    mut stream: Box<dyn ByteStream>,
    tag: &str,
    deadline: Instant,
) -> Response<Body> {
    let mut bytes = vec![0; length as usize];
    let mut filled = 0;
    while filled < bytes.len() {
        match stream.read(&mut bytes[filled..], deadline) {
            Ok(count) if count > 0 => filled += count,
            _ => return status(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }
    let mut response = with_body(bytes, "application/octet-stream");
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    let last = (start + length).saturating_sub(1);
    // Larger than any file in a test.
    let content_range = format!("bytes {start}-{last}/{}", 1_u64 << 50);
    for (name, value) in [(CONTENT_RANGE, content_range.as_str()), (ETAG, tag)] {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// Parses `bytes=FIRST-LAST`, the form that nodes send.
fn parse_range(field: &str) -> Option<ByteRange> {
    let (first, last) = field.strip_prefix("bytes=")?.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    Some(ByteRange::new(first, last.checked_add(1)?))
}

fn code(error: &Error) -> StatusCode {
    match error {
        Error::NotFound { .. } => StatusCode::NOT_FOUND,
        Error::Changed { .. } => StatusCode::PRECONDITION_FAILED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn status(code: StatusCode) -> Response<Body> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = code;
    response
}

fn with_body(bytes: Vec<u8>, media_type: &'static str) -> Response<Body> {
    let length = bytes.len();
    let mut response = Response::new(Full::new(Bytes::from(bytes)));
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    fields.insert(CONTENT_LENGTH, HeaderValue::from(length));
    response
}

impl Version {
    /// Parses an entity tag that [`Version::entity_tag`] wrote.
    pub(crate) fn from_entity_tag(tag: &str) -> Option<Self> {
        let digits = tag.strip_prefix('"')?.strip_suffix('"')?;
        let is_tag = digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        u64::from_str_radix(digits, 16)
            .ok()
            .map(Self)
            .filter(|_| is_tag)
    }
}
