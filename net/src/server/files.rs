//! `GET` and `HEAD /files/PATH`: the bytes of one shared file.
//!
//! PATH is the path's bytes, percent-escaped where need be; escapes mean bytes, not characters.
//! Only shared files exist here: directories, hidden names and paths that no file can have are all
//! 404, without a reason.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, HeaderValue,
};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;

use super::body::{Body, FileBody};
use super::context::Caller;
use super::http::status;
use super::range::{Decision, decide};
use super::work::Work;
use crate::concurrency::buffer_pool::BufferPool;
use crate::model::{ByteRange, Kind, RelPath};
use crate::protocol::wire::{Fault, FaultCode};
use crate::share::{Asker, Share, is_changed, retry_while_changing};

/// Answers a GET or HEAD for the file at `escaped`.
pub(super) async fn serve<B>(
    request: &Request<B>,
    escaped: &str,
    caller: &Caller,
) -> Response<Body> {
    let Some(path) = unescape(escaped).filter(|_| request.uri().query().is_none()) else {
        return status(StatusCode::NOT_FOUND);
    };
    let Some(share) = caller.context.service.share.clone() else {
        return status(StatusCode::NOT_FOUND);
    };
    if let Some(response) = serve_now(request, &share, &path, caller) {
        return response;
    }
    let (method, fields) = (request.method().clone(), request.headers().clone());
    let (work, buffers) = (
        caller.connection.work.clone(),
        caller.context.buffers.clone(),
    );
    let requested = FileRequest {
        asker: Asker::Member(caller.connection.member),
        path: path.clone(),
        method,
        fields,
    };
    let now = Instant::now();
    let prepared = caller
        .connection
        .work
        .run(move || requested.open(&share, work, &buffers));
    match prepared.await {
        Ok((response, is_at_hand)) => {
            if is_at_hand {
                caller.context.recent.put(path, now);
            }
            response
        }
        Err(error) => {
            tracing::error!(%error, "a file could not be served");
            status(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}

/// Answers at once, without a blocking thread, if the file was served a moment ago, the whole path
/// to it is in memory, and its bytes are in the page cache. Any other request takes the long way.
fn serve_now<B>(
    request: &Request<B>,
    share: &Share,
    path: &RelPath,
    caller: &Caller,
) -> Option<Response<Body>> {
    let recent = &caller.context.recent;
    let (method, fields) = (request.method(), request.headers());
    if method != Method::GET || !recent.holds(path, Instant::now()) {
        return None;
    }
    let file = Arc::new(share.open_file_now(path)?);
    let attributes = file.attributes();
    let (tag, size) = (attributes.version.entity_tag(), file.size());
    let (code, range) = sent(&decide(method, fields, &tag, size), size)?;
    let work = caller.connection.work.clone();
    match FileBody::begin_now(&file, range, work, &caller.context.buffers) {
        Ok(body) => Some(with_bytes(code, Body::file(body?), &tag, range, size)),
        // It cannot be read: the long way says why.
        Err(_) => None,
    }
}

/// Returns the path that `escaped` stands for, if a file can have it.
fn unescape(escaped: &str) -> Option<RelPath> {
    let bytes: Vec<u8> = percent_decode_str(escaped).collect();
    RelPath::new(&bytes).ok().filter(|path| !path.is_root())
}

struct FileRequest {
    asker: Asker,
    path: RelPath,
    method: Method,
    fields: HeaderMap,
}

impl FileRequest {
    /// Opens the file, decides what to send of it, and reads the first bytes, all in one visit to a
    /// blocking thread. Also returns whether further bytes of it may be sent without one.
    fn open(self, share: &Share, work: Work, buffers: &Arc<BufferPool>) -> (Response<Body>, bool) {
        match retry_while_changing(|| self.begin(share, &work, buffers)) {
            Ok(begun) => begun,
            Err(error) if is_changed(&error) => {
                tracing::debug!(path = %self.path, "a shared file changes all the time");
                (status(StatusCode::SERVICE_UNAVAILABLE), false)
            }
            Err(error) => {
                tracing::warn!(path = %self.path, %error, "a shared file cannot be read");
                (status(StatusCode::INTERNAL_SERVER_ERROR), false)
            }
        }
    }

    /// Makes one attempt; the error is a read error.
    fn begin(
        &self,
        share: &Share,
        work: &Work,
        buffers: &Arc<BufferPool>,
    ) -> io::Result<(Response<Body>, bool)> {
        let file = match share.open_file(&self.path, self.asker) {
            Ok(file) if file.attributes().kind == Kind::File => Arc::new(file),
            Ok(_) => return Ok((status(StatusCode::NOT_FOUND), false)),
            Err(fault) => return Ok((status(self.refusal(&fault)), false)),
        };
        let attributes = file.attributes();
        let (tag, size) = (attributes.version.entity_tag(), file.size());
        let decision = decide(&self.method, &self.fields, &tag, size);
        let Some((code, range)) = sent(&decision, size) else {
            return Ok((refuse(decision, &tag, size), false));
        };
        let body = if self.method == Method::HEAD {
            Body::empty()
        } else {
            Body::file(FileBody::begin(&file, range, work.clone(), buffers)?)
        };
        let response = with_bytes(code, body, &tag, range, size);
        Ok((response, file.is_at_hand()))
    }

    /// Returns the status for a file that cannot be opened.
    fn refusal(&self, fault: &Fault) -> StatusCode {
        match fault.code {
            FaultCode::Internal => {
                tracing::warn!(path = %self.path, %fault, "a shared file cannot be opened");
                StatusCode::INTERNAL_SERVER_ERROR
            }
            // Listings say so, too: this is no failure.
            FaultCode::Forbidden => {
                tracing::debug!(path = %self.path, %fault, "a shared file is not served");
                StatusCode::FORBIDDEN
            }
            _ => StatusCode::NOT_FOUND,
        }
    }
}

/// Returns the status and the range of a decision that sends bytes.
fn sent(decision: &Decision, size: u64) -> Option<(StatusCode, ByteRange)> {
    match *decision {
        Decision::Whole => Some((StatusCode::OK, ByteRange::new(0, size))),
        Decision::Part(range) => Some((StatusCode::PARTIAL_CONTENT, range)),
        _ => None,
    }
}

/// Returns the response to a decision that sends no bytes.
pub(super) fn refuse(decision: Decision, tag: &str, size: u64) -> Response<Body> {
    match decision {
        Decision::NotModified => without_body(StatusCode::NOT_MODIFIED, tag),
        Decision::PreconditionFailed => without_body(StatusCode::PRECONDITION_FAILED, tag),
        _ => {
            let mut response = without_body(StatusCode::RANGE_NOT_SATISFIABLE, tag);
            set(&mut response, CONTENT_RANGE, &format!("bytes */{size}"));
            response
        }
    }
}

/// Returns a response with `range` of a content of `size` bytes.
pub(super) fn with_bytes(
    code: StatusCode,
    body: Body,
    tag: &str,
    range: ByteRange,
    size: u64,
) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    set(&mut response, CONTENT_TYPE, "application/octet-stream");
    set(&mut response, ACCEPT_RANGES, "bytes");
    set(&mut response, ETAG, tag);
    set(&mut response, CONTENT_LENGTH, &range.len().to_string());
    if code == StatusCode::PARTIAL_CONTENT {
        let last = range.end - 1;
        let part = format!("bytes {}-{last}/{size}", range.start);
        set(&mut response, CONTENT_RANGE, &part);
    }
    response
}

/// Returns a response that names the entity tag and sends nothing.
fn without_body(code: StatusCode, tag: &str) -> Response<Body> {
    let mut response = status(code);
    set(&mut response, ETAG, tag);
    response
}

/// Sets a field to text of our own, which is always a valid value.
fn set(response: &mut Response<Body>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_bytes() {
        let path = |escaped| unescape(escaped).map(|path| path.as_bytes().to_vec());
        assert_eq!(path("a/b%20c").unwrap(), b"a/b c");
        assert_eq!(path("%ff%01%26").unwrap(), b"\xff\x01&");
        assert_eq!(path("100%25").unwrap(), b"100%");
    }

    #[test]
    fn no_escape_leads_out_of_the_share() {
        for bad in [
            "",
            "/",
            "/etc/passwd",
            "..",
            "a/../b",
            "%2e%2e",
            "%2e%2e/etc",
            "a%2f%2e%2e%2fb",
            "%2fetc",
            "a//b",
            "a/",
            "./a",
            "a%00b",
        ] {
            assert_eq!(unescape(bad), None, "{bad}");
        }
    }
}
