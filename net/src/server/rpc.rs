//! `POST /RPC2`: a bounded body in, one XML-RPC response out.
//!
//! Answering and encoding run on a blocking thread, and so does decoding unless it is quick: a
//! listing reads the disk, and the XML of a large one keeps a processor busy for milliseconds. A
//! search, which may take seconds, takes a place among the searches. A poll for changes takes none,
//! as it only waits.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Response, StatusCode};
use hyper::body::Incoming;

use super::body::Body;
use super::context::Caller;
use super::http::{read_body, status, xml};
use super::page_prefetch;
use super::page_prefetch::Page;
use super::work::Work;
use crate::model::PeerId;
use crate::protocol::wire::{ListRequest, MAX_CALL_BYTES, Request, decode_call, encode_response};
use crate::service::Service;
use crate::service::answer;
use crate::service::answer::answer;

/// A call of this many bytes is decoded where it arrives, in some ten microseconds.
const SHORT: usize = 1024;

/// The method that a response answers, for the log.
#[derive(Clone, Copy)]
pub(super) struct Called(pub(super) &'static str);

/// Answers one call; XML-RPC faults are responses like any other (status 200).
pub(super) async fn serve(request: http::Request<Incoming>, caller: &Caller) -> Response<Body> {
    if !is_xml(request.headers()) {
        return status(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    let time = caller.context.limits.call_body;
    let body = match read_body(request, MAX_CALL_BYTES, time).await {
        Ok(body) => body,
        Err(code) => return status(code),
    };
    match answer_to(body, caller).await {
        Ok((called, encoded)) => {
            let mut response = xml(Body::full(encoded.into()));
            called.and_then(|called| response.extensions_mut().insert(called));
            response
        }
        Err(error) => {
            tracing::error!(%error, "a call could not be answered");
            status(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}

/// Returns the encoded response, and the method that it answers.
async fn answer_to(body: Bytes, caller: &Caller) -> io::Result<(Option<Called>, Vec<u8>)> {
    let decoded = match body.len() {
        0..=SHORT => decode_call(&body),
        _ => {
            caller
                .connection
                .work
                .run(move || decode_call(&body))
                .await?
        }
    };
    let call = match decoded {
        Ok(call) => call,
        Err(fault) => return Ok((None, encode_response(&Err(fault)))),
    };
    let called = Called(call.method());
    let (service, member, remote) = (
        caller.context.service.clone(),
        caller.connection.member,
        caller.remote,
    );
    let answered = move |call| encode_response(&answer(&service, member, remote, call));
    let encoded = match call {
        Request::Changes(request) => {
            encode_response(&answer::changes(&caller.context.service, request).await)
        }
        Request::List(request) => page(request, caller).await?,
        search @ Request::Search(_) => {
            caller
                .connection
                .searches
                .run(move || answered(search))
                .await?
        }
        call => caller.connection.work.run(move || answered(call)).await?,
    };
    Ok((Some(called), encoded))
}

/// Answers with a page of a directory, and begins the next one.
async fn page(request: ListRequest, caller: &Caller) -> io::Result<Vec<u8>> {
    let (ahead, member) = (&caller.context.ahead, caller.connection.member);
    let from = (member, caller.remote);
    let (encoded, next) = match ahead.take(member, &request).await {
        Some(page) => page,
        None => {
            let service = caller.context.service.clone();
            make_page(service, caller.connection.work.clone(), request, from).await?
        }
    };
    if let Some(next) = next {
        let (service, work) = (
            caller.context.service.clone(),
            caller.connection.work.clone(),
        );
        let making = make_page(service, work, next.clone(), from);
        ahead.put(member, next, tokio::spawn(async { making.await.ok() }));
    }
    Ok(encoded)
}

async fn make_page(
    service: Arc<Service>,
    work: Work,
    request: ListRequest,
    (member, remote): (PeerId, IpAddr),
) -> io::Result<Page> {
    work.run(move || {
        let call = Request::List(request.clone());
        let response = answer(&service, member, remote, call);
        let next = response.as_ref().ok();
        let next = next.and_then(|response| page_prefetch::next(&request, response));
        (encode_response(&response), next)
    })
    .await
}

fn is_xml(fields: &HeaderMap) -> bool {
    let field = fields.get(CONTENT_TYPE).and_then(|t| t.to_str().ok());
    let media_type = field.and_then(|field| field.split(';').next());
    media_type.is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case("text/xml"))
}
