//! Connections that are not encrypted: one call of the protocol of 2004 each.
//!
//! Only with `--legacy`. Whoever calls is nobody in particular, so all such connections together
//! have few places, fewer from one source, and a few threads; the head, the body and the answer
//! each have a deadline. What a call means is [`legacy`](crate::legacy)'s to say: here it is bytes
//! in and a document out.

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

use super::body::Body;
use super::connection_limits::PlainConnection;
use super::context::ServerContext;
use super::http::{http1, read_body, status, xml};
use super::plain_body::ContentsBody;
use super::stall::StallGuard;
use crate::legacy::server::{Accepted, LegacyResponse};
use crate::legacy::wire::{MAX_CALL_BYTES, Operation};
use crate::legacy::{Legacy, NODE_FIELD};

/// One such connection.
struct PlainCaller {
    place: PlainConnection,
    legacy: Arc<Legacy>,
    /// Where it was accepted.
    local: SocketAddr,
    context: Arc<ServerContext>,
}

/// Answers one call, which arrived at `local`, and closes.
pub(super) async fn serve(
    socket: StallGuard,
    local: SocketAddr,
    place: PlainConnection,
    legacy: Arc<Legacy>,
    context: Arc<ServerContext>,
) -> io::Result<()> {
    let head = context.limits.plain_head;
    let caller = Arc::new(PlainCaller {
        place,
        legacy,
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

/// Never fails: what goes wrong has a status code.
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
        "answered in the protocol of 2004"
    );
    response
}

async fn call(
    request: Request<Incoming>,
    caller: &PlainCaller,
) -> Result<Response<Body>, StatusCode> {
    let time = caller.context.limits.plain_body;
    let document = read_body(request, MAX_CALL_BYTES, time).await?;
    answer_to(document, caller).await.map_err(|error| {
        tracing::error!(%error, "a call could not be answered");
        StatusCode::INTERNAL_SERVER_ERROR
    })
}

async fn answer_to(document: Bytes, caller: &PlainCaller) -> io::Result<Response<Body>> {
    // Whoever brings a whole call is answered, even if others come.
    let answered = caller.place.place.request();
    let (legacy, local) = (caller.legacy.clone(), caller.local);
    let accepting = move || legacy.accept(&document, local.ip(), local.port());
    let call = match caller.place.work.run(accepting).await? {
        Ok(call) => call,
        Err(refusal) => return Ok(xml(Body::full(refusal.into()))),
    };
    // Patterns may take seconds: they wait for each other, and nothing else for them.
    let work = match call.operation {
        Operation::Names(_) => &caller.place.searches,
        _ => &caller.place.work,
    };
    let (legacy, service) = (caller.legacy.clone(), caller.context.service.clone());
    let remote = caller.place.remote;
    let answering = move |call: Accepted| {
        let share = service.share.as_deref();
        legacy.answer(share, &call, remote, Instant::now())
    };
    let response = xml(match work.run(move || answering(call)).await? {
        LegacyResponse::Document(document) => Body::full(document.into()),
        LegacyResponse::Contents(form, file) => {
            Body::contents(ContentsBody::new(form, file, caller.place.work.clone()))
        }
    });
    let mut response = response.map(|body| body.until_sent(answered));
    let me = caller.context.service.members.me().to_string();
    if let Ok(me) = HeaderValue::try_from(me) {
        response.headers_mut().insert(NODE_FIELD, me);
    }
    Ok(response)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
