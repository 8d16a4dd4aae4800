//! `POST /RPC2`: a bounded body in, one XML-RPC response out.
//!
//! Answering and encoding run on a blocking thread, and so does decoding unless it is quick: a
//! listing reads the disk, and the XML of a large one keeps a processor busy for milliseconds. A
//! search, which may take seconds, takes a place among the searches. A poll for changes takes none,
//! as it only waits.

use std::io;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Response, StatusCode};
use hyper::body::Incoming;

use super::body::Body;
use super::context::Caller;
use super::http::{internal, read_body, typed};
use super::page_prefetch::{self, Page};
use crate::protocol::wire::{ListRequest, MAX_CALL_BYTES, Request, decode_call, encode_response};
use crate::service::answer::{answer, changes};

/// A call of this many bytes is decoded where it arrives, in some ten microseconds.
const SHORT: usize = 1024;

/// The method that a response answers, for the log.
#[derive(Clone, Copy)]
pub(super) struct Called(pub(super) &'static str);

/// Answers one call; XML-RPC faults are responses like any other (status 200).
pub(super) async fn serve(
    request: http::Request<Incoming>,
    caller: &Caller,
) -> Result<Response<Body>, StatusCode> {
    if !is_xml(request.headers()) {
        return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    let time = caller.context.limits.call_body;
    let body = read_body(request, MAX_CALL_BYTES, time).await?;
    let answered = answer_to(body, caller).await;
    let (called, encoded) = answered.map_err(|error| internal(&error))?;
    let mut response = typed(Body::full(encoded.into()), "text/xml");
    called.and_then(|called| response.extensions_mut().insert(called));
    Ok(response)
}

/// Returns the encoded response, and the method that it answers.
async fn answer_to(body: Bytes, caller: &Caller) -> io::Result<(Option<Called>, Vec<u8>)> {
    let (work, service) = (&caller.connection.work, &caller.context.service);
    let decoded = match body.len() {
        0..=SHORT => decode_call(&body),
        _ => work.run(move || decode_call(&body)).await?,
    };
    let call = match decoded {
        Ok(call) => call,
        Err(fault) => return Ok((None, encode_response(&Err(fault)))),
    };
    let called = Called(call.method());
    let (member, source, answering) = (caller.connection.member, caller.source, service.clone());
    let answered = move |call| encode_response(&answer(&answering, member, source, call));
    let encoded = match call {
        Request::Changes(request) => encode_response(&changes(service, request).await),
        Request::List(request) => page(request, caller).await?,
        search @ Request::Search(_) => {
            let searches = &caller.connection.searches;
            searches.run(move || answered(search)).await?
        }
        call => work.run(move || answered(call)).await?,
    };
    Ok((Some(called), encoded))
}

/// Answers with a page of a directory, and begins the next one.
async fn page(request: ListRequest, caller: &Caller) -> io::Result<Vec<u8>> {
    let (ahead, member) = (&caller.context.ahead, caller.connection.member);
    let (encoded, next) = match ahead.take(member, &request).await {
        Some(page) => page,
        None => make_page(caller, request).await?,
    };
    if let Some(next) = next {
        let making = make_page(caller, next.clone());
        ahead.put(member, next, tokio::spawn(async { making.await.ok() }));
    }
    Ok(encoded)
}

fn make_page(
    caller: &Caller,
    request: ListRequest,
) -> impl Future<Output = io::Result<Page>> + Send + use<> {
    let (service, work) = (
        caller.context.service.clone(),
        caller.connection.work.clone(),
    );
    let (member, source) = (caller.connection.member, caller.source);
    let make = move || {
        let response = answer(&service, member, source, Request::List(request.clone()));
        let next = response.as_ref().ok();
        let next = next.and_then(|response| page_prefetch::next(&request, response));
        (encode_response(&response), next)
    };
    async move { work.run(make).await }
}

fn is_xml(fields: &HeaderMap) -> bool {
    let field = fields.get(CONTENT_TYPE).and_then(|t| t.to_str().ok());
    let media_type = field.and_then(|field| field.split(';').next());
    media_type.is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case("text/xml"))
}
