//! The body of one ranged GET as a [`ByteStream`], and the checks on its head.
//!
//! Bytes are taken only under a head that says exactly what was asked for: same version, same
//! range, same length. The connection goes back to its pool with the last byte; a stream that is
//! dropped before closes it.

use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;
use http::header::{CONTENT_RANGE, ETAG, HeaderName};

use crate::client::ByteStream;
use crate::client::connector::{Lane, Reply};
use crate::client::http::content_length;
use crate::client::lanes::Lanes;
use crate::error::Error;
use crate::types::{ByteRange, Version};

/// Says what is wrong with the head of a successful response to a request for `range` of a file
/// in `version`.
pub(super) fn check_head(
    reply: &Reply,
    version: Version,
    range: ByteRange,
) -> Result<(), &'static str> {
    if field(reply, ETAG) != Some(&version.entity_tag()) {
        return Err("bytes of another version than was asked for");
    }
    if content_length(reply) != Some(range.len()) {
        return Err("another number of bytes than was asked for");
    }
    let right_part = match reply.status {
        StatusCode::PARTIAL_CONTENT => field(reply, CONTENT_RANGE)
            .and_then(parse_content_range)
            .is_some_and(|(part, total)| part == range && range.end <= total),
        // The whole file, which the length above has to fit.
        _ => range.start == 0,
    };
    if right_part {
        Ok(())
    } else {
        Err("another range than was asked for")
    }
}

fn field(reply: &Reply, name: HeaderName) -> Option<&str> {
    reply.headers.get(name)?.to_str().ok()
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
fn number(digits: &str) -> Option<u64> {
    digits
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| digits.parse().ok())?
}

/// The bytes of one response.
pub(super) struct FileStream {
    /// Gone once all bytes were read, or the connection broke.
    source: Option<(Lane, Reply)>,
    remaining: u64,
    lanes: Arc<Lanes>,
    who: String,
}

impl FileStream {
    pub(super) fn new(lane: Lane, reply: Reply, length: u64, lanes: Arc<Lanes>) -> Self {
        Self {
            who: lane.who().into(),
            source: Some((lane, reply)),
            remaining: length,
            lanes,
        }
    }

    fn cut(&self) -> Error {
        Error::Unreachable {
            who: self.who.clone(),
            why: "the connection was cut in the middle of a file".into(),
        }
    }

    /// Sees the end of the response, which frees the connection.
    fn finish(&mut self, deadline: Instant) {
        if let Some((lane, mut reply)) = self.source.take()
            && matches!(lane.read(&mut reply, &mut [0], deadline), Ok(0))
        {
            self.lanes.put(lane, Instant::now());
        }
    }
}

impl ByteStream for FileStream {
    fn read(&mut self, buffer: &mut [u8], deadline: Instant) -> Result<usize, Error> {
        if self.remaining == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let Some((lane, reply)) = &mut self.source else {
            return Err(self.cut());
        };
        let most = usize::try_from(self.remaining).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        match lane.read(reply, &mut buffer[..most], deadline) {
            Ok(0) => {
                self.source = None;
                Err(self.cut())
            }
            Ok(read) => {
                self.remaining -= read as u64;
                if self.remaining == 0 {
                    self.finish(deadline);
                }
                Ok(read)
            }
            // A caller may look at something else and come back.
            Err(error @ Error::Timeout { .. }) => Err(error),
            Err(error) => {
                self.source = None;
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
