//! `POST /batch`: many small files in one response.
//!
//! The response is assembled on one blocking thread of the caller's own before it is sent.

use std::time::Instant;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;

use super::body::Body;
use super::context::Caller;
use super::http::{internal, read_body, typed};
use crate::protocol::wire::{MAX_BATCH_REQUEST, decode_batch};
use crate::service::batch::answer;
use crate::share::{Asker, BUDGET};

/// Answers one batch.
pub(super) async fn serve(
    request: Request<Incoming>,
    caller: &Caller,
) -> Result<Response<Body>, StatusCode> {
    let time = caller.context.limits.call_body;
    let body = read_body(request, MAX_BATCH_REQUEST, time).await?;
    let items = decode_batch(&body).map_err(|_| StatusCode::BAD_REQUEST)?;
    let share = caller.context.service.share.clone();
    let asker = Asker::Member(caller.connection.member);
    let answering = move || answer(share.as_deref(), &items, asker, Instant::now() + BUDGET);
    let answered = caller.connection.work.run(answering).await;
    let encoded = answered.map_err(|error| internal(&error))?;
    Ok(typed(
        Body::full(encoded.into()),
        "application/octet-stream",
    ))
}
