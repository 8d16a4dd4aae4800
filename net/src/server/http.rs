//! The limits of every HTTP connection, whoever the caller is, and the parts that many responses
//! are made of.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper_util::rt::TokioTimer;
use tokio::time::timeout;

use super::body::Body;

/// The longest request head: a path of 4095 escaped bytes, and the few fields of a request.
pub(super) const MAX_HEAD: usize = 16 * 1024;

/// hyper's buffer for reading; a head must fit.
const HTTP_BUFFER: usize = 64 * 1024;

/// Maximum number of header fields in a request.
const MAX_FIELDS: usize = 64;

/// Returns a builder for a connection whose request heads may each take as long as `head`.
pub(super) fn http1(head: Duration) -> Builder {
    let mut builder = Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .max_headers(MAX_FIELDS)
        .max_header_size(MAX_HEAD)
        .max_buf_size(HTTP_BUFFER);
    builder
}

/// Returns a response without a body.
pub(super) fn status(code: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = code;
    response
}

/// Returns a response with a body of this media type.
pub(super) fn typed(body: Body, media_type: &'static str) -> Response<Body> {
    let mut response = Response::new(body);
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// Returns the status for a request that this node itself failed to answer, and logs why.
pub(super) fn internal(error: &io::Error) -> StatusCode {
    tracing::error!(%error, "a request could not be answered");
    StatusCode::INTERNAL_SERVER_ERROR
}

/// Returns the whole body of a request, which may have `max` bytes and take `time`; otherwise the
/// status that says why not.
pub(super) async fn read_body(
    request: Request<Incoming>,
    max: usize,
    time: Duration,
) -> Result<Bytes, StatusCode> {
    if request.body().size_hint().lower() > max as u64 {
        return Err(StatusCode::PAYLOAD_TOO_LARGE);
    }
    let body = Limited::new(request.into_body(), max).collect();
    match timeout(time, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(StatusCode::PAYLOAD_TOO_LARGE),
        Ok(Err(_)) => Err(StatusCode::BAD_REQUEST),
        Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
    }
}
