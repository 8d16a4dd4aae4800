//! The response to a GET or HEAD of a file: preconditions and ranges of RFC 9110, without IO.
//!
//! Decisions where the RFC leaves a choice:
//! - Several ranges, malformed ranges, and units other than bytes are ignored: the whole file is
//!   sent (section 14.2 lets a server do that). 416 is only for a single well-formed range that
//!   begins behind the end.
//! - Files have no Last-Modified, so conditions on dates do not apply (section 13.1), and a date
//!   in If-Range matches nothing (section 13.1.5).

use http::header::{HeaderName, IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE};
use http::{HeaderMap, Method};

use crate::model::ByteRange;

/// The response to send for a file that exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Decision {
    /// 200: the whole file.
    Whole,
    /// 206: this part of it, which is not empty.
    Part(ByteRange),
    /// 304: the client's copy is current.
    NotModified,
    /// 412: the file is not in the state that the client requires.
    PreconditionFailed,
    /// 416: the range begins behind the end of the file.
    Unsatisfiable,
}

/// Decides, in the order of RFC 9110, section 13.2.2. `tag` is the file's strong entity tag,
/// `size` its length in bytes.
pub(super) fn decide(method: &Method, fields: &HeaderMap, tag: &str, size: u64) -> Decision {
    if fields.contains_key(IF_MATCH) && !names(fields, IF_MATCH, |theirs| theirs == tag) {
        return Decision::PreconditionFailed;
    }
    if names(fields, IF_NONE_MATCH, |theirs| {
        theirs.strip_prefix("W/").unwrap_or(theirs) == tag
    }) {
        return Decision::NotModified;
    }
    // Range is defined for GET only (section 14.2).
    if method != Method::GET || !if_range_holds(fields, tag) {
        return Decision::Whole;
    }
    let mut ranges = fields.get_all(RANGE).iter();
    let (Some(range), None) = (ranges.next(), ranges.next()) else {
        return Decision::Whole;
    };
    match range.to_str().ok().and_then(parse) {
        Some(range) => range.within(size),
        None => Decision::Whole,
    }
}

/// Returns true if the field lists `*` or a tag that `matches`. Our tags hold no comma, so a
/// foreign tag that holds one is cut into pieces that match nothing.
fn names(fields: &HeaderMap, name: HeaderName, matches: impl Fn(&str) -> bool) -> bool {
    fields
        .get_all(name)
        .iter()
        .filter_map(|field| field.to_str().ok())
        .flat_map(|field| field.split(','))
        .map(|member| member.trim_matches([' ', '\t']))
        .any(|member| member == "*" || matches(member))
}

fn if_range_holds(fields: &HeaderMap, tag: &str) -> bool {
    fields
        .get(IF_RANGE)
        .is_none_or(|field| field.as_bytes() == tag.as_bytes())
}

/// One range-spec of RFC 9110, section 14.1.1.
#[derive(Clone, Copy)]
enum Spec {
    /// `FIRST-` and `FIRST-LAST`: from the first to the last byte.
    From(u64, u64),
    /// `-LENGTH`: this many bytes at the end.
    Suffix(u64),
}

impl Spec {
    fn within(self, size: u64) -> Decision {
        let range = match self {
            Self::From(first, _) if first >= size => return Decision::Unsatisfiable,
            Self::From(first, last) => ByteRange::new(first, last.saturating_add(1).min(size)),
            Self::Suffix(0) => return Decision::Unsatisfiable,
            // Satisfiable by definition, and yet no Content-Range can name it.
            Self::Suffix(_) if size == 0 => return Decision::Whole,
            Self::Suffix(length) => ByteRange::new(size.saturating_sub(length), size),
        };
        Decision::Part(range)
    }
}

/// Parses `bytes=` and exactly one range.
fn parse(field: &str) -> Option<Spec> {
    let (unit, ranges) = field.split_once('=')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = ranges.trim_matches([' ', '\t']).split_once('-')?;
    match (first, last) {
        ("", length) => Some(Spec::Suffix(number(length)?)),
        (first, "") => Some(Spec::From(number(first)?, u64::MAX)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Spec::From(first, last))
        }
    }
}

/// Parses digits; a number that does not fit into 64 bits lies behind the end of every file anyway.
fn number(digits: &str) -> Option<u64> {
    let well_formed = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    well_formed.then(|| digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::Decision::*;
    use super::*;

    const TAG: &str = "\"0123456789abcdef\"";

    fn get(fields: &[(HeaderName, &str)], size: u64) -> Decision {
        decide(&Method::GET, &map(fields), TAG, size)
    }

    fn map(fields: &[(HeaderName, &str)]) -> HeaderMap {
        let fields = fields.iter();
        fields
            .map(|(name, value)| (name.clone(), value.parse().unwrap()))
            .collect()
    }

    fn part(start: u64, end: u64) -> Decision {
        Part(ByteRange::new(start, end))
    }

    #[test]
    fn ranges_follow_rfc_9110_section_14() {
        for (range, size, expected) in [
            ("bytes=0-0", 10, part(0, 1)),
            ("bytes=0-9", 10, part(0, 10)),
            ("bytes=0-", 10, part(0, 10)),
            ("bytes=3-5", 10, part(3, 6)),
            ("bytes=3-500", 10, part(3, 10)),
            ("bytes=9-", 10, part(9, 10)),
            ("bytes=-3", 10, part(7, 10)),
            ("bytes=-30", 10, part(0, 10)),
            ("BYTES=3-5", 10, part(3, 6)),
            ("bytes= 3-5 ", 10, part(3, 6)),
            ("bytes=3-99999999999999999999", 10, part(3, 10)),
            ("bytes=10-", 10, Unsatisfiable),
            ("bytes=10-20", 10, Unsatisfiable),
            ("bytes=99999999999999999999-", 10, Unsatisfiable),
            ("bytes=-0", 10, Unsatisfiable),
            ("bytes=0-", 0, Unsatisfiable),
            ("bytes=-5", 0, Whole),
            ("bytes=5-3", 10, Whole),
            ("bytes=0-1,3-4", 10, Whole),
            ("bytes=-", 10, Whole),
            ("bytes=", 10, Whole),
            ("bytes=+1-3", 10, Whole),
            ("bytes=1- 3", 10, Whole),
            ("bytes=a-b", 10, Whole),
            ("items=0-3", 10, Whole),
            ("bytes 0-3", 10, Whole),
        ] {
            assert_eq!(get(&[(RANGE, range)], size), expected, "{range} of {size}");
        }
    }

    #[test]
    fn two_range_fields_are_ignored() {
        let mut fields = map(&[(RANGE, "bytes=0-1")]);
        fields.append(RANGE, "bytes=3-4".parse().unwrap());
        assert_eq!(decide(&Method::GET, &fields, TAG, 10), Whole);
    }

    #[test]
    fn if_match_compares_strongly() {
        let weak = format!("W/{TAG}");
        let list = format!("\"a\", {TAG}");
        for (field, expected) in [
            (TAG, Whole),
            ("*", Whole),
            (&*list, Whole),
            (&*weak, PreconditionFailed),
            ("\"a\"", PreconditionFailed),
            ("", PreconditionFailed),
        ] {
            assert_eq!(get(&[(IF_MATCH, field)], 10), expected, "{field}");
        }
    }

    #[test]
    fn if_none_match_compares_weakly() {
        let weak = format!("W/{TAG}");
        for (field, expected) in [
            (TAG, NotModified),
            ("*", NotModified),
            (&*weak, NotModified),
            ("\"a\"", Whole),
        ] {
            assert_eq!(get(&[(IF_NONE_MATCH, field)], 10), expected, "{field}");
        }
    }

    #[test]
    fn failed_precondition_precedes_the_range() {
        let fields = [(IF_MATCH, "\"a\""), (RANGE, "bytes=99-")];
        assert_eq!(get(&fields, 10), PreconditionFailed);
    }

    #[test]
    fn if_range_drops_ranges_of_other_versions() {
        let weak = format!("W/{TAG}");
        for (field, expected) in [
            (TAG, part(3, 6)),
            ("\"a\"", Whole),
            (&*weak, Whole),
            ("Sat, 29 Oct 1994 19:43:31 GMT", Whole),
        ] {
            let fields = [(IF_RANGE, field), (RANGE, "bytes=3-5")];
            assert_eq!(get(&fields, 10), expected, "{field}");
        }
    }

    #[test]
    fn head_has_no_ranges() {
        let fields = map(&[(RANGE, "bytes=3-5")]);
        assert_eq!(decide(&Method::HEAD, &fields, TAG, 10), Whole);
    }

    proptest! {
        #[test]
        fn range_is_never_empty_nor_past_the_end(range in "\\PC{0,24}", size: u64) {
            let Ok(value) = format!("bytes={range}").parse() else {
                return Ok(());
            };
            let fields = HeaderMap::from_iter([(RANGE, value)]);
            if let Part(range) = decide(&Method::GET, &fields, TAG, size) {
                prop_assert!(!range.is_empty() && range.end <= size);
            }
        }

        #[test]
        fn every_plain_range_is_met_exactly(start: u32, length in 1..u32::MAX, size: u32) {
            let (start, size) = (u64::from(start), u64::from(size));
            let last = start + u64::from(length) - 1;
            let expected = if start < size {
                part(start, size.min(last + 1))
            } else {
                Unsatisfiable
            };
            let range = format!("bytes={start}-{last}");
            prop_assert_eq!(get(&[(RANGE, &range)], size), expected);
        }
    }
}
