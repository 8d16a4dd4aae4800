//! What the head of a response says about its body, and the checks on it.
//!
//! Bytes are accepted only under a head that says exactly what was requested: same version, same
//! range, same length.

use http::StatusCode;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderName, TRANSFER_ENCODING,
};

use super::range_get::Head;
use crate::model::ByteRange;

/// Returns the part that a successful response to a request for what `tag` names contains. The
/// error says what is wrong with its head, for example that this part is not `welcome`.
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

/// Parses `bytes FIRST-LAST/TOTAL` (RFC 9110, section 14.4). An unknown total is not accepted.
fn parse_content_range(text: &str) -> Option<(ByteRange, u64)> {
    let (part, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = part.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let end = last.checked_add(1).filter(|_| last >= first)?;
    Some((ByteRange::new(first, end), number(total)?))
}

/// Parses digits only: `parse` alone would accept a sign too.
pub(super) fn number(digits: &str) -> Option<u64> {
    digits
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| digits.parse().ok())?
}

/// Returns false if the other side closes after this response (RFC 9112, section 9.6).
pub(super) fn stays_open(head: &Head) -> bool {
    let closes = |value: &http::HeaderValue| {
        let tokens = value.as_bytes().split(|byte| *byte == b',');
        tokens
            .map(<[u8]>::trim_ascii)
            .any(|token| token.eq_ignore_ascii_case(b"close"))
    };
    !head.headers.get_all(CONNECTION).iter().any(closes)
}

/// Returns the length that the response announces, once and in digits.
pub(super) fn content_length(head: &Head) -> Option<u64> {
    let mut fields = head.headers.get_all(CONTENT_LENGTH).iter();
    let (field, None) = (fields.next()?.to_str().ok()?, fields.next()) else {
        return None;
    };
    number(field)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_complete_content_range_is_parsed() {
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
