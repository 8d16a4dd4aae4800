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

use super::body::{Body, FilePieces, PieceBody, PieceSource};
use super::context::Caller;
use super::http::{internal, status};
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
) -> Result<Response<Body>, StatusCode> {
    let path = unescape(escaped).filter(|_| request.uri().query().is_none());
    let path = path.ok_or(StatusCode::NOT_FOUND)?;
    let share = caller.context.service.share.clone();
    let share = share.ok_or(StatusCode::NOT_FOUND)?;
    if let Some(response) = serve_now(request, &share, &path, caller) {
        return Ok(response);
    }
    let requested = FileRequest {
        asker: Asker::Member(caller.connection.member),
        path: path.clone(),
        range: RangeRequest::of(request),
        work: caller.connection.work.clone(),
        buffers: caller.context.buffers.clone(),
    };
    let now = Instant::now();
    let opening = move || requested.open(&share);
    let opened = caller.connection.work.run(opening).await;
    let (response, is_at_hand) = opened.map_err(|error| internal(&error))??;
    if is_at_hand {
        caller.context.recent.put(path, now);
    }
    Ok(response)
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
    let file = share.open_file_now(path)?;
    let (tag, size) = (file.attributes().version.entity_tag(), file.size());
    let decision = decide(method, fields, &tag, size);
    let (code, range) = part_of(decision, &tag, size).ok()?;
    let (work, buffers) = (
        caller.connection.work.clone(),
        caller.context.buffers.clone(),
    );
    // If it cannot be read, the long way says why.
    let body = PieceBody::begin_now(Arc::new(FilePieces { file, buffers }), range, work);
    let body = Body::pieces(body.ok()??);
    Some(with_bytes(code, body, &tag, range, size))
}

/// Returns the path that `escaped` stands for, if a file can have it.
fn unescape(escaped: &str) -> Option<RelPath> {
    let bytes: Vec<u8> = percent_decode_str(escaped).collect();
    RelPath::new(&bytes).ok().filter(|path| !path.is_root())
}

struct FileRequest {
    asker: Asker,
    path: RelPath,
    range: RangeRequest,
    work: Work,
    buffers: Arc<BufferPool>,
}

type Opened = Result<(Response<Body>, bool), StatusCode>;

impl FileRequest {
    /// Opens the file, decides what to send of it, and reads the first bytes, all in one visit to a
    /// blocking thread. Also returns whether further bytes of it may be sent without one.
    fn open(self, share: &Share) -> Opened {
        retry_while_changing(|| self.begin(share)).unwrap_or_else(|error| {
            if is_changed(&error) {
                tracing::debug!(path = %self.path, "a shared file changes all the time");
                return Err(StatusCode::SERVICE_UNAVAILABLE);
            }
            tracing::warn!(path = %self.path, %error, "a shared file cannot be read");
            Err(StatusCode::INTERNAL_SERVER_ERROR)
        })
    }

    /// Makes one attempt; the error is a read error.
    fn begin(&self, share: &Share) -> io::Result<Opened> {
        let file = match share.open_file(&self.path, self.asker) {
            Ok(file) if file.attributes().kind == Kind::File => file,
            Ok(_) => return Ok(Err(StatusCode::NOT_FOUND)),
            Err(fault) => return Ok(Err(self.refusal(&fault))),
        };
        let (tag, size) = (file.attributes().version.entity_tag(), file.size());
        let part = match self.range.part_of(&tag, size) {
            Ok(part) => part,
            Err(refusal) => return Ok(Ok((*refusal, false))),
        };
        let pieces = Arc::new(FilePieces {
            file,
            buffers: self.buffers.clone(),
        });
        let (source, work) = (Arc::clone(&pieces) as _, self.work.clone());
        let response = self.range.respond(part, &tag, size, source, work)?;
        Ok(Ok((response, pieces.file.is_at_hand())))
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

/// What a GET or HEAD says of the bytes that it wants.
pub(super) struct RangeRequest {
    method: Method,
    fields: HeaderMap,
}

impl RangeRequest {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        Self {
            method: request.method().clone(),
            fields: request.headers().clone(),
        }
    }

    /// Decides what it gets of `size` bytes with this entity tag.
    pub(super) fn decide(&self, tag: &str, size: u64) -> Decision {
        decide(&self.method, &self.fields, tag, size)
    }

    /// Returns what to send of `size` bytes, and with which status; otherwise the response that
    /// says why nothing is sent.
    pub(super) fn part_of(&self, tag: &str, size: u64) -> SentPart {
        part_of(self.decide(tag, size), tag, size)
    }

    /// Returns the response that sends a range of `source`, whose first bytes it reads unless only
    /// the head was requested.
    pub(super) fn respond(
        &self,
        (code, range): (StatusCode, ByteRange),
        tag: &str,
        size: u64,
        source: Arc<dyn PieceSource>,
        work: Work,
    ) -> io::Result<Response<Body>> {
        let body = if self.method == Method::HEAD {
            Body::empty()
        } else {
            Body::pieces(PieceBody::begin(source, range, work)?)
        };
        Ok(with_bytes(code, body, tag, range, size))
    }
}

type SentPart = Result<(StatusCode, ByteRange), Box<Response<Body>>>;

fn part_of(decision: Decision, tag: &str, size: u64) -> SentPart {
    match decision {
        Decision::Whole => Ok((StatusCode::OK, ByteRange::new(0, size))),
        Decision::Part(range) => Ok((StatusCode::PARTIAL_CONTENT, range)),
        refused => Err(Box::new(refuse(refused, tag, size))),
    }
}

/// Returns the response to a decision that sends no bytes.
fn refuse(decision: Decision, tag: &str, size: u64) -> Response<Body> {
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
fn with_bytes(
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
