//! The regular expression of a search, matched against names that need not be text.
//!
//! The searcher chooses the expression, so neither compiling it nor matching one name may take
//! long. An expression has few classes ([`complexity`]) and a bounded size. Only small ones are
//! given to the `regex` crate, whose engines run to the end of a name. The others are matched by an
//! engine that stops when the time is up ([`stepwise`]).

mod complexity;
pub(crate) mod patience;
mod stepwise;

use parking_lot::Mutex;
use regex::bytes::{Regex, RegexBuilder};
use regex_automata::nfa::thompson::{Compiler, Config, NFA, WhichCaptures};
use regex_syntax::ast::parse::Parser;
use regex_syntax::hir::translate::TranslatorBuilder;

use crate::protocol::wire::{Fault, FaultCode, SearchRequest};
use patience::{STEPS_PER_BYTE, SearchTime, TimeIsUp};
use stepwise::Stepwise;

/// Limit on the bytes of a compiled expression: `\w{20}` fits, and so does most of what people
/// write. With the largest, a byte of a name takes half a millisecond.
const MAX_COMPILED: usize = 1 << 20;

/// Limit on the bytes of a compiled expression that the `regex` crate may match without
/// supervision: the worst of those takes 6 ms for a name. One `\w` fits.
const MAX_UNATTENDED: usize = 32 << 10;

/// Limit on the bytes that the `regex` crate may use for the state that it builds while matching.
const MAX_ENGINE: usize = 2 << 20;

/// Checks whether a search for `pattern` would be understood. If not, explains why in one line.
///
/// # Errors
/// The reason: it is too long, too large once compiled, or not in the syntax of the `regex` crate.
pub fn check_pattern(pattern: &str) -> Result<(), String> {
    let compiled = Pattern::new(pattern);
    compiled.map(drop).map_err(|fault| fault.message)
}

/// A compiled expression.
#[derive(Debug)]
pub(crate) struct Pattern(PatternEngine);

#[derive(Debug)]
enum PatternEngine {
    /// A small expression.
    Unattended(Regex),
    /// Any other expression. Only one search at a time can use its memory.
    Stepwise(Box<Mutex<Stepwise>>),
}

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
        let bad = |why: String| Fault::new(FaultCode::BadPattern, why);
        let too_big = || bad("the pattern is too big once compiled".into());
        let ast = Parser::new()
            .parse(text)
            .map_err(|error| bad(explain(text, &error)))?;
        if !complexity::is_moderate(&ast) {
            return Err(bad("the pattern has too many classes of characters".into()));
        }
        let nfa = compile(text, &ast).map_err(|why| why.map_or_else(too_big, bad))?;
        if nfa.memory_usage() > MAX_UNATTENDED {
            return Ok(Self(PatternEngine::Stepwise(Box::new(Mutex::new(
                Stepwise::new(nfa),
            )))));
        }
        let regex = RegexBuilder::new(text)
            .size_limit(MAX_COMPILED)
            .dfa_size_limit(MAX_ENGINE)
            .build();
        regex
            .map(|regex| Self(PatternEngine::Unattended(regex)))
            .map_err(|_| too_big())
    }

    /// Returns true if the expression matches anywhere in `name`, as Python's `re.search` would on
    /// what `os.listdir` returns: a byte that is not part of UTF-8 is one character, U+FFFD here.
    /// `(?-u:\xff)` matches such a byte itself.
    ///
    /// # Errors
    /// The time is up. This is reported at most 50 ms late, whatever the expression.
    pub(crate) fn matches(&self, name: &[u8], patience: &mut SearchTime) -> Result<bool, TimeIsUp> {
        if self.matches_bytes(name, patience)? {
            return Ok(true);
        }
        if std::str::from_utf8(name).is_ok() {
            return Ok(false);
        }
        self.matches_bytes(&readable(name), patience)
    }

    fn matches_bytes(&self, name: &[u8], patience: &mut SearchTime) -> Result<bool, TimeIsUp> {
        match &self.0 {
            PatternEngine::Unattended(regex) => {
                // Even an empty name costs something.
                patience.spend((name.len() as u32 + 1).saturating_mul(STEPS_PER_BYTE))?;
                Ok(regex.is_match(name))
            }
            PatternEngine::Stepwise(stepwise) => stepwise.lock().matches(name, patience),
        }
    }
}

/// Returns the states of an expression; on failure the reason, or `None` if there would
/// be too many.
fn compile(text: &str, ast: &regex_syntax::ast::Ast) -> Result<NFA, Option<String>> {
    let hir = TranslatorBuilder::new()
        .utf8(false)
        .build()
        .translate(text, ast)
        .map_err(|error| Some(explain(text, &error)))?;
    let config = Config::new()
        .utf8(false)
        .nfa_size_limit(Some(MAX_COMPILED))
        .which_captures(WhichCaptures::None);
    Compiler::new()
        .configure(config)
        .build_from_hir(&hir)
        .map_err(|error| error.size_limit().is_none().then(|| error.to_string()))
}

/// Replaces every byte of the name that is not part of UTF-8 by U+FFFD.
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

/// Condenses the several lines of a regex error into one, with the position that it marks by a `^`.
fn explain(pattern: &str, error: &dyn std::error::Error) -> String {
    let text = error.to_string();
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
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, name: &[u8]) -> bool {
        let mut patience = SearchTime::new(Instant::now() + Duration::from_secs(60));
        let pattern = Pattern::new(pattern).unwrap();
        pattern.matches(name, &mut patience).unwrap()
    }

    #[test]
    fn pattern_matches_anywhere_like_re_search() {
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
    fn bad_pattern_is_refused_with_position() {
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
    fn expensive_patterns_are_refused() {
        let long = "a".repeat(SearchRequest::MAX_PATTERN_BYTES + 1);
        assert_eq!(
            Pattern::new(&long).unwrap_err().code,
            FaultCode::LimitExceeded
        );
        let bomb = Pattern::new(r"((\w{100}){100}){100}").unwrap_err();
        assert_eq!(bomb.code, FaultCode::BadPattern);
        assert!(bomb.message.contains("too big"), "{bomb}");
    }

    #[test]
    fn what_takes_long_to_compile_is_refused() {
        for text in [r"(?i:[a-\U0010ffff])".repeat(50), r"\w".repeat(500)] {
            let begun = Instant::now();
            let fault = Pattern::new(&text).unwrap_err();
            assert!(fault.message.contains("too many classes"), "{fault}");
            assert!(begun.elapsed() < Duration::from_millis(50));
        }
    }

    #[test]
    fn both_engines_are_used() {
        let is_unattended =
            |text| matches!(Pattern::new(text).unwrap().0, PatternEngine::Unattended(_));
        assert!(is_unattended(r"(?i)^[a-z]{1,20} - \d{4}\.(mp3|ogg)$"));
        assert!(!is_unattended(r"\w+ - \w+"));
        assert!(!is_unattended(r"(?s-u)(?:[ab]?[^b]?){3000}"));
    }

    fn expression() -> impl Strategy<Value = String> {
        let atoms = [
            "a",
            "b",
            ".",
            r"\w",
            r"\W",
            r"\b",
            r"\B",
            "^",
            "$",
            "[^a]",
            r"(?-u:\xff)",
            r"\d",
            "\u{e9}",
            r"(?-u:\b)",
            r"\b{start}",
            "(?i:K)",
            r"(?s-u:.)",
            "x*?",
            "",
        ];
        let atom = prop::sample::select(atoms.to_vec()).prop_map(String::from);
        atom.prop_recursive(4, 24, 4, |inner| {
            let repeated = (
                inner.clone(),
                prop::sample::select(vec!["*", "+", "?", "{0,3}", "{2}"]),
            );
            prop_oneof![
                prop::collection::vec(inner.clone(), 1..4).prop_map(|parts| parts.concat()),
                prop::collection::vec(inner, 1..3)
                    .prop_map(|parts| format!("(?:{})", parts.join("|"))),
                repeated.prop_map(|(inner, times)| format!("(?:{inner}){times}")),
            ]
        })
    }

    proptest! {
        #[test]
        fn stepwise_matches_like_the_regex_crate(
            text in expression(),
            names in prop::collection::vec(prop::collection::vec(
                prop::sample::select(vec![b'a', b'b', b'k', b'0', b'-', b'\n', 0xc3, 0xa9, 0xff]), 0..9), 1..6),
        ) {
            let ast = Parser::new().parse(&text).unwrap();
            let mut stepwise = Stepwise::new(compile(&text, &ast).unwrap());
            let regex = RegexBuilder::new(&text).build().unwrap();
            let mut patience = SearchTime::new(Instant::now() + Duration::from_secs(60));
            for name in &names {
                let found = stepwise.matches(name, &mut patience);
                prop_assert_eq!(found, Ok(regex.is_match(name)), "{:?} in {:?}", text, name);
            }
        }
    }
}
