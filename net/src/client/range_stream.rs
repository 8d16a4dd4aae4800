//! The body of one ranged GET as a [`ByteStream`], and the checks on its head.
//!
//! Bytes are taken only under a head that says exactly what was asked for: same version, same
//! range, same length. The connection goes back to its pool with the last byte; a stream that is
//! dropped before closes it.

use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;
use http::header::{CONTENT_RANGE, ETAG, HeaderName, TRANSFER_ENCODING};

use super::connection_pool::Lanes;
use super::http_peer::{content_length, stays_open};
use super::range_get::Head;
use crate::client::connector::Lane;
use crate::error::Error;
use crate::model::ByteRange;
use crate::peer::ByteStream;

/// The part that a successful response to a request for what `tag` names brings; or what is wrong with its
/// head, as when that part is not `welcome`.
pub(super) fn check_head(
    head: &Head,
    tag: &str,
    welcome: &dyn Fn(ByteRange) -> bool,
) -> Result<ByteRange, &'static str> {
    if field(head, ETAG) != Some(tag) {
        return Err("bytes of another version than was asked for");
    }
    let length = content_length(head).filter(|_| !head.headers.contains_key(TRANSFER_ENCODING));
    let Some(length) = length else {
        return Err("bytes without a length");
    };
    let part = match head.status {
        StatusCode::PARTIAL_CONTENT => field(head, CONTENT_RANGE)
            .and_then(parse_content_range)
            .filter(|(part, total)| part.end <= *total)
            .map(|(part, _)| part),
        _ => Some(ByteRange::new(0, length)),
    };
    match part.filter(|part| !part.is_empty() && welcome(*part)) {
        Some(part) if part.len() == length => Ok(part),
        Some(_) => Err("another number of bytes than was promised"),
        None => Err("another range than was asked for"),
    }
}

fn field(head: &Head, name: HeaderName) -> Option<&str> {
    head.headers.get(name)?.to_str().ok()
}

/// Reads `bytes FIRST-LAST/TOTAL` (RFC 9110, section 14.4). An unknown total is not accepted.
fn parse_content_range(text: &str) -> Option<(ByteRange, u64)> {
    let (part, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = part.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let end = last.checked_add(1).filter(|_| last >= first)?;
    Some((ByteRange::new(first, end), number(total)?))
}

/// Digits only: `parse` alone would take a sign too.
pub(super) fn number(digits: &str) -> Option<u64> {
    digits
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| digits.parse().ok())?
}

/// The bytes of one response.
pub(super) struct FileStream {
    /// Gone once all bytes were read, or the connection broke.
    lane: Option<Lane>,
    remaining: u64,
    /// True if the connection can carry another request afterwards.
    stays_open: bool,
    lanes: Arc<Lanes>,
    who: String,
}

impl FileStream {
    pub(super) fn new(lane: Lane, head: &Head, length: u64, lanes: Arc<Lanes>) -> Self {
        Self {
            who: lane.who().into(),
            lane: Some(lane),
            remaining: length,
            stays_open: stays_open(head),
            lanes,
        }
    }

    fn cut(&self) -> Error {
        Error::Unreachable {
            who: self.who.clone(),
            why: "the connection was cut in the middle of a file".into(),
        }
    }
}

impl ByteStream for FileStream {
    fn read(&mut self, buffer: &mut [u8], deadline: Instant) -> Result<usize, Error> {
        if self.remaining == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let Some(lane) = &self.lane else {
            return Err(self.cut());
        };
        let most = usize::try_from(self.remaining).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        let read = lane.wire().read(&mut buffer[..most], deadline);
        match read {
            Ok(read) => {
                self.remaining -= read as u64;
                if self.remaining == 0
                    && let Some(lane) = self.lane.take()
                    && self.stays_open
                    && lane.wire().is_drained()
                {
                    self.lanes.put(lane, Instant::now());
                }
                Ok(read)
            }
            // A caller may look at something else and come back.
            Err(error @ Error::Timeout { .. }) => Err(error),
            Err(Error::Unreachable { .. }) => {
                self.lane = None;
                Err(self.cut())
            }
            Err(error) => {
                self.lane = None;
                Err(error)
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_a_complete_content_range_is_understood() {
        let range = ByteRange::new(3, 10);
        assert_eq!(parse_content_range("bytes 3-9/10"), Some((range, 10)));
        for bad in [
            "bytes 3-9/*",
            "bytes */10",
            "bytes 9-3/10",
            "bytes +3-9/10",
            "bytes 3-18446744073709551615/9",
            "items 3-9/10",
            "bytes 3-9",
            "bytes -9/10",
            "",
        ] {
            assert_eq!(parse_content_range(bad), None, "{bad}");
        }
    }
}
