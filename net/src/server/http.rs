//! What every HTTP connection is bounded by, whoever is at its other end.

use std::time::Duration;

use hyper::server::conn::http1::Builder;
use hyper_util::rt::TokioTimer;

/// The longest request head: a path of 4095 escaped bytes, and the few fields of a request.
pub(super) const MAX_HEAD: usize = 16 * 1024;

/// hyper's buffer for reading; a head must fit.
const HTTP_BUFFER: usize = 64 * 1024;

/// The most header fields of a request.
const MAX_FIELDS: usize = 64;

/// For a connection whose request heads may each take as long as `head`.
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
