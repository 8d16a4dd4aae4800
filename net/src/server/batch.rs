//! `POST /batch`: many small files in one response.
//!
//! The response is assembled on one blocking thread of the caller's own before it is sent.

use std::time::Instant;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;

use super::body::Body;
use super::context::Caller;
use super::http::{read_body, status};
use crate::protocol::wire::{MAX_BATCH_REQUEST, decode_batch};
use crate::service::batch::answer;
use crate::share::{Asker, BUDGET};

/// Answers one batch.
pub(super) async fn serve(request: Request<Incoming>, caller: &Caller) -> Response<Body> {
    let time = caller.context.limits.call_body;
    let body = match read_body(request, MAX_BATCH_REQUEST, time).await {
        Ok(body) => body,
        Err(code) => return status(code),
    };
    let Ok(items) = decode_batch(&body) else {
        return status(StatusCode::BAD_REQUEST);
    };
    let share = caller.context.service.share.clone();
    let asker = Asker::Member(caller.connection.member);
    let work = caller
        .connection
        .work
        .run(move || answer(share.as_deref(), &items, asker, Instant::now() + BUDGET));
    match work.await {
        Ok(encoded) => {
            let mut response = Response::new(Body::full(Bytes::from(encoded)));
            let octets = HeaderValue::from_static("application/octet-stream");
            response.headers_mut().insert(CONTENT_TYPE, octets);
            response
        }
        Err(error) => {
            tracing::error!(%error, "a batch could not be answered");
            status(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}
