//! Routes one request to its response by resource and method.

use std::sync::Arc;

use http::header::{ALLOW, CONNECTION, HeaderValue, WWW_AUTHENTICATE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use tokio::time::timeout;

use super::body::Body;
use super::context::Caller;
use super::http::status;
use super::{batch, content, files, rpc};
use crate::protocol::wire::MAX_CALL_BYTES;

/// Answers one request. Never fails: every error has a status code.
pub(super) async fn route(request: Request<Incoming>, caller: Arc<Caller>) -> Response<Body> {
    let gate = &caller.context.gate;
    let answered = caller.connection.place.request();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = if !gate.is_admitted(caller.connection.member) {
        Ok(expired(request, &caller).await)
    } else if path == "/RPC2" {
        match method {
            Method::POST => rpc::serve(request, &caller).await,
            _ => Ok(not_allowed("POST")),
        }
    } else if path == "/batch" {
        match method {
            Method::POST => batch::serve(request, &caller).await,
            _ => Ok(not_allowed("POST")),
        }
    } else if let Some(escaped) = path.strip_prefix("/files/") {
        match method {
            Method::GET | Method::HEAD => files::serve(&request, escaped, &caller).await,
            _ => Ok(not_allowed("GET, HEAD")),
        }
    } else if let Some(root) = path.strip_prefix("/content/") {
        match method {
            Method::GET | Method::HEAD => content::serve(&request, root, &caller).await,
            _ => Ok(not_allowed("GET, HEAD")),
        }
    } else {
        Err(StatusCode::NOT_FOUND)
    };
    let response = response.unwrap_or_else(status);
    let called = response.extensions().get::<rpc::Called>();
    tracing::debug!(
        member = ?caller.connection.member,
        %method,
        path,
        call = called.map(|called| called.0),
        status = response.status().as_u16(),
        "answered"
    );
    response.map(|body| body.until_sent(answered))
}

/// Lists the allowed methods, as RFC 9110, section 15.5.6 requires.
fn not_allowed(methods: &'static str) -> Response<Body> {
    let mut response = status(StatusCode::METHOD_NOT_ALLOWED);
    let fields = response.headers_mut();
    fields.insert(ALLOW, HeaderValue::from_static(methods));
    response
}

/// Returns the refusal that strangers get, for a key whose admission has expired since it
/// connected. Reads the body first: closing with unread bytes could cost the caller the refusal.
async fn expired(request: Request<Incoming>, caller: &Caller) -> Response<Body> {
    let body = Limited::new(request.into_body(), MAX_CALL_BYTES).collect();
    let _ = timeout(caller.context.limits.drain, body).await;
    let mut response = status(StatusCode::UNAUTHORIZED);
    let fields = response.headers_mut();
    fields.insert(WWW_AUTHENTICATE, HeaderValue::from_static("TinyP2P-Pair"));
    fields.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
