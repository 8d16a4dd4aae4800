//! Unencrypted connections: one call each.
//!
//! They exist only where some [`PlaintextProtocol`] answers them. The callers are anonymous, so all
//! such connections together have few places, fewer from one source, and a few threads; the head,
//! the body and the answer each have a deadline. The protocol decides what a call means: here it is
//! bytes in and a document out.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::HeaderValue;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::body::{Body, PieceBody, PieceSource};
use super::connection_limits::PlainConnection;
use super::context::ServerContext;
use super::http::{http1, internal, read_body, status, typed};
use super::stall::StallGuard;
use crate::service::plaintext::{DocumentStream, PlaintextAnswer, PlaintextProtocol};
use tokio::net::TcpStream;

/// The media type of every answer.
const XML: &str = "text/xml";

/// One such connection.
struct PlainCaller {
    place: PlainConnection,
    protocol: Arc<dyn PlaintextProtocol>,
    /// The address at which it was accepted.
    local: SocketAddr,
    context: Arc<ServerContext>,
}

/// Answers one call, which arrived at `local`, and closes.
pub(super) async fn serve(
    socket: StallGuard<TcpStream>,
    local: SocketAddr,
    place: PlainConnection,
    protocol: Arc<dyn PlaintextProtocol>,
    context: Arc<ServerContext>,
) -> io::Result<()> {
    let head = context.limits.plain_head;
    let caller = Arc::new(PlainCaller {
        place,
        protocol,
        local,
        context,
    });
    let callers = caller.clone();
    let service = service_fn(move |request| {
        let caller = callers.clone();
        async move { Ok::<_, Infallible>(route(request, caller).await) }
    });
    let serving = http1(head)
        .keep_alive(false)
        .serve_connection(TokioIo::new(socket), service);
    match caller.place.place.keep(serving).await {
        Some(served) => served.map_err(io::Error::other),
        None => Err(io::Error::other("others needed its place")),
    }
}

/// Routes one request. Never fails: every error has a status code.
async fn route(request: Request<Incoming>, caller: Arc<PlainCaller>) -> Response<Body> {
    let is_call = matches!(request.uri().path(), "/RPC2" | "/");
    let response = match (is_call, request.method() == Method::POST) {
        (false, _) => Err(StatusCode::NOT_FOUND),
        (true, false) => Err(StatusCode::METHOD_NOT_ALLOWED),
        (true, true) => call(request, &caller).await,
    };
    let response = response.unwrap_or_else(status);
    tracing::debug!(
        remote = %caller.place.remote,
        status = response.status().as_u16(),
        "answered in plaintext"
    );
    response
}

async fn call(
    request: Request<Incoming>,
    caller: &PlainCaller,
) -> Result<Response<Body>, StatusCode> {
    let time = caller.context.limits.plain_body;
    let document = read_body(request, caller.protocol.max_call_bytes(), time).await?;
    let answered = answer_to(document, caller).await;
    answered.map_err(|error| internal(&error))
}

async fn answer_to(document: Bytes, caller: &PlainCaller) -> io::Result<Response<Body>> {
    // A caller that sent a whole call is answered, even if others come.
    let answered = caller.place.place.request();
    let (protocol, local) = (caller.protocol.clone(), caller.local);
    let accepting = move || protocol.accept(&document, local);
    let call = match caller.place.work.run(accepting).await? {
        Ok(call) => call,
        Err(refusal) => return Ok(typed(Body::full(refusal.into()), XML)),
    };
    // Patterns may take seconds: they wait for each other, and nothing else waits for them.
    let work = if call.is_search() {
        &caller.place.searches
    } else {
        &caller.place.work
    };
    let (service, remote) = (caller.context.service.clone(), caller.place.remote);
    let answering = move || call.answer(service.share.as_deref(), remote, Instant::now());
    let body = match work.run(answering).await? {
        PlaintextAnswer::Document(document) => Body::full(document.into()),
        PlaintextAnswer::Stream(document) => {
            let (length, work) = (document.total_bytes(), caller.place.work.clone());
            Body::pieces(PieceBody::new(
                Arc::new(DocumentPieces(document)),
                length,
                work,
            ))
        }
    };
    let mut response = typed(body, XML).map(|body| body.until_sent(answered));
    let (name, value) = caller.protocol.response_field();
    if let Ok(value) = HeaderValue::try_from(value) {
        response.headers_mut().insert(name, value);
    }
    Ok(response)
}

/// An answer that is written as it is sent.
struct DocumentPieces(Arc<dyn DocumentStream>);

impl PieceSource for DocumentPieces {
    fn read(&self, position: u64, _: u64) -> io::Result<(Bytes, u64)> {
        let changed = || io::Error::other("the file is not what it was when it was looked at");
        let (piece, behind) = self.0.piece(position)?.ok_or_else(changed)?;
        Ok((piece.into(), behind))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
