//! The regular expression of a search, matched against names that need not be text.

use regex::bytes::{Regex, RegexBuilder};

use crate::wire::{Fault, FaultCode, SearchRequest};

/// Bytes that a compiled expression may take; far above any that people write.
const MAX_COMPILED: usize = 2 << 20;

/// Whether a search for `pattern` would be understood; if not, why, in one line.
///
/// # Errors
/// The reason: it is too long, too large once compiled, or not in the syntax of the `regex` crate.
pub fn check_pattern(pattern: &str) -> Result<(), String> {
    let compiled = Pattern::new(pattern);
    compiled.map(drop).map_err(|fault| fault.message)
}

/// A compiled expression.
#[derive(Debug)]
pub(crate) struct Pattern(Regex);

impl Pattern {
    /// Compiles `text`, which is in the syntax of the `regex` crate.
    pub(crate) fn new(text: &str) -> Result<Self, Fault> {
        if text.len() > SearchRequest::MAX_PATTERN_BYTES {
            let message = format!(
                "a pattern has at most {} bytes",
                SearchRequest::MAX_PATTERN_BYTES
            );
            return Err(Fault::new(FaultCode::LimitExceeded, message));
        }
        RegexBuilder::new(text)
            .size_limit(MAX_COMPILED)
            .dfa_size_limit(MAX_COMPILED)
            .build()
            .map(Self)
            .map_err(|error| Fault::new(FaultCode::BadPattern, explain(text, &error)))
    }

    /// True when the expression matches anywhere in `name`, as Python's `re.search` would on what
    /// `os.listdir` returns: a byte that is not part of UTF-8 is one character, U+FFFD here.
    /// `(?-u:\xff)` matches such a byte itself.
    pub(crate) fn matches(&self, name: &[u8]) -> bool {
        if self.0.is_match(name) {
            return true;
        }
        std::str::from_utf8(name).is_err() && self.0.is_match(&readable(name))
    }
}

/// The name with every byte that is not part of UTF-8 made U+FFFD.
fn readable(name: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(name.len() * 3);
    for chunk in name.utf8_chunks() {
        text.extend_from_slice(chunk.valid().as_bytes());
        for _ in chunk.invalid() {
            text.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
    text
}

/// One line of what the regex crate says in several, with the place that it draws a `^` under.
fn explain(pattern: &str, error: &regex::Error) -> String {
    let text = match error {
        regex::Error::CompiledTooBig(_) => return "the pattern is too big once compiled".into(),
        other => other.to_string(),
    };
    let reason = text.lines().rev().find_map(|l| l.strip_prefix("error: "));
    let reason = reason.unwrap_or("not a regular expression");
    let caret = text
        .lines()
        .find(|line| line.trim_start().starts_with('^'))
        .and_then(|line| line.find('^'))
        .and_then(|column| column.checked_sub("    ".len()));
    match caret {
        Some(column) if !pattern.contains('\n') => {
            format!("{reason} (at character {} of the pattern)", column + 1)
        }
        _ => reason.to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &[u8]) -> bool {
        Pattern::new(pattern).unwrap().matches(name)
    }

    #[test]
    fn a_pattern_matches_anywhere_as_re_search_did() {
        assert!(matches("mp3", b"a.mp3.part"));
        assert!(matches(r"^a.*\.mp3$", b"abc.mp3"));
        assert!(!matches("^mp3", b"a.mp3"));
        assert!(matches("(?i)GR\u{fc}N", "gr\u{dc}n".as_bytes()));
        assert!(matches("", b"anything"));
    }

    #[test]
    fn names_that_are_not_utf8_can_be_matched() {
        assert!(matches(r"\.mp3$", b"caf\xe9.mp3"));
        assert!(matches(r"^caf.\.mp3$", b"caf\xe9.mp3"));
        assert!(matches(r"^..$", b"\xff\xfe"));
        assert!(matches(r"(?-u:\xe9)", b"caf\xe9.mp3"));
        assert!(!matches(r"^caf\.mp3$", b"caf\xe9.mp3"));
    }

    #[test]
    fn a_bad_pattern_is_refused_in_one_line_that_says_where() {
        let fault = Pattern::new("ab(c").unwrap_err();
        assert_eq!(fault.code, FaultCode::BadPattern);
        assert_eq!(
            fault.message,
            "unclosed group (at character 3 of the pattern)"
        );
        let fault = Pattern::new("(?=a)").unwrap_err();
        assert!(fault.message.contains("look-around"), "{fault}");
        for bad in ["a\n(", "*", "[z-a]", r"\p{Nope}", "(?P<n>a)(?P<n>b)"] {
            let fault = Pattern::new(bad).unwrap_err();
            assert_eq!(fault.code, FaultCode::BadPattern, "{bad}");
            assert!(!fault.message.contains('\n'), "{fault}");
        }
    }

    #[test]
    fn patterns_that_would_take_too_much_are_refused() {
        let long = "a".repeat(SearchRequest::MAX_PATTERN_BYTES + 1);
        assert_eq!(
            Pattern::new(&long).unwrap_err().code,
            FaultCode::LimitExceeded
        );
        let bomb = Pattern::new(r"((\w{100}){100}){100}").unwrap_err();
        assert_eq!(bomb.code, FaultCode::BadPattern);
        assert!(bomb.message.contains("too big"), "{bomb}");
    }
}
