//! Text from others, made safe for a screen.
//!
//! Members choose the names of their files, their own name and the sentences of their errors. All
//! of these reach terminals and logs, where some characters act instead of appearing: they move the
//! cursor, reverse the direction of writing, end the line, or are invisible, so that two names look
//! like one. They are defined once, here, by their Unicode properties.

#[cfg(any(test, feature = "testing"))]
mod testing;

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::sync::LazyLock;

use regex_syntax::hir::{Class, HirKind};

#[cfg(any(test, feature = "testing"))]
pub use testing::HOSTILE;

/// Control and format characters (the marks and overrides of direction, tags), the separators of
/// lines and paragraphs, and everything a screen may leave out: variation selectors, fillers,
/// characters without width. The two that XML cannot carry are of no use in text either.
const ACTING: &str = r"[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\x{fffe}\x{ffff}]";

/// The ranges of those characters, in order.
static RANGES: LazyLock<Vec<(char, char)>> = LazyLock::new(|| {
    let parsed = regex_syntax::parse(ACTING).map(|class| match class.kind() {
        HirKind::Class(Class::Unicode(class)) => {
            let ranges = class.ranges().iter();
            ranges.map(|range| (range.start(), range.end())).collect()
        }
        _ => Vec::new(),
    });
    match parsed {
        Ok(ranges) if !ranges.is_empty() => ranges,
        // Unreachable while the class above is one; otherwise nothing but ASCII is shown unescaped.
        _ => vec![('\0', '\x1f'), ('\x7f', char::MAX)],
    }
});

/// Returns true for characters that do something to a screen instead of appearing on it, or that do
/// not appear at all.
pub(crate) fn drives_terminal(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    let behind = RANGES.partition_point(|(first, _)| *first <= c);
    behind > 0 && c <= RANGES[behind - 1].1
}

/// Returns `text` on one line that cannot drive a terminal, with escapes such as `\u{202e}`.
pub fn harmless(text: &str) -> Cow<'_, str> {
    if !text.contains(drives_terminal) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(escaped(text.as_bytes()))
}

/// Formats bytes for people: valid UTF-8 as it is, except for everything that drives a terminal.
pub fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_escaped(&mut text, bytes);
    text
}

/// Writes bytes for people, as [`escaped`] formats them.
pub(crate) fn write_escaped(f: &mut impl Write, bytes: &[u8]) -> fmt::Result {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if drives_terminal(c) {
                write!(f, "{}", c.escape_default())?;
            } else {
                f.write_char(c)?;
            }
        }
        for byte in chunk.invalid() {
            write!(f, "\\x{byte:02x}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_of_control_chars_is_escaped() {
        for c in HOSTILE {
            let shown = harmless(&format!("a{c}b")).into_owned();
            assert!(
                drives_terminal(c) && !shown.contains(c),
                "{:?}",
                c.escape_unicode()
            );
            assert!(shown.starts_with("a\\") && shown.ends_with('b'), "{shown}");
        }
    }

    #[test]
    fn what_people_write_stays_as_it_is() {
        for text in [
            "plain.txt",
            "gr\u{fc}n, gru\u{308}n",
            "\u{4f60}\u{597d}",
            "\u{645}\u{631}\u{62d}\u{628}\u{627}",
            "\u{5e9}\u{5dc}\u{5d5}\u{5dd}",
            "\u{939}\u{93f}\u{928}\u{94d}\u{926}\u{940}",
            "\u{1f600} \u{a0}\u{e000}",
        ] {
            assert!(matches!(harmless(text), Cow::Borrowed(_)), "{text}");
        }
    }

    #[test]
    fn non_text_bytes_are_escaped_singly() {
        assert_eq!(
            escaped(b"a\x1b[31m\xffb\xc3\xa4"),
            "a\\u{1b}[31m\\xffb\u{e4}"
        );
    }
}
