//! Estimates from the text of an expression how long it takes to compile.
//!
//! The compiler bounds the size of its output, but not the work before that. A character class
//! becomes a list of ranges, and when case does not matter every character of a wide range is
//! looked up. A thousand bytes of such classes take half a second.

use regex_syntax::ast::{self, Ast, ClassPerl, ClassSetItem, Visitor};

/// Limit on character classes in one expression; each takes up to a millisecond. People
/// write a few.
const MAX_CLASSES: usize = 48;

/// Limit on the characters in all ranges that are spelled out, twice as many as exist; a million
/// take 7 ms.
const MAX_CHARACTERS: u32 = 2 * 0x11_0000;

/// Returns true if `ast` compiles in a few hundredths of a second at most.
pub(super) fn is_moderate(ast: &Ast) -> bool {
    ast::visit(ast, Classes::default()).is_ok()
}

#[derive(Default)]
struct Classes {
    count: usize,
    characters: u32,
}

impl Classes {
    fn add(&mut self, characters: u32) -> Result<(), ()> {
        self.count += 1;
        self.characters = self.characters.saturating_add(characters);
        if self.count <= MAX_CLASSES && self.characters <= MAX_CHARACTERS {
            Ok(())
        } else {
            Err(())
        }
    }

    fn add_perl(&mut self, _: &ClassPerl) -> Result<(), ()> {
        self.add(0)
    }
}

impl Visitor for Classes {
    type Output = ();
    type Err = ();

    fn finish(self) -> Result<(), ()> {
        Ok(())
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), ()> {
        match ast {
            Ast::ClassPerl(class) => self.add_perl(class),
            Ast::ClassUnicode(_) | Ast::ClassBracketed(_) => self.add(0),
            _ => Ok(()),
        }
    }

    fn visit_class_set_item_pre(&mut self, item: &ClassSetItem) -> Result<(), ()> {
        match item {
            ClassSetItem::Perl(class) => self.add_perl(class),
            ClassSetItem::Unicode(_) | ClassSetItem::Bracketed(_) => self.add(0),
            ClassSetItem::Range(range) => {
                let (first, last) = (u32::from(range.start.c), u32::from(range.end.c));
                self.characters = self.characters.saturating_add(last.saturating_sub(first));
                if self.characters > MAX_CHARACTERS {
                    return Err(());
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn is_moderate(pattern: &str) -> bool {
        crate::share::names::pattern::complexity::is_moderate(
            &ast::parse::Parser::new().parse(pattern).unwrap(),
        )
    }

    #[test]
    fn what_people_write_is_moderate() {
        for pattern in [
            "",
            r"\.mp3$",
            r"(?i)^\w+ \w+ \w+ - \d{4} \[\w+\]\.\w{3,4}$",
            r"[\x{4e00}-\x{9fff}\x{3040}-\x{30ff}]+",
            &"[0-9a-f]".repeat(40),
            r"[^\x00-\x{10ffff}]",
        ] {
            assert!(is_moderate(pattern), "{pattern}");
        }
    }

    #[test]
    fn many_classes_and_wide_ranges_are_not() {
        for pattern in [
            r"\w".repeat(49),
            r"\pL".repeat(49),
            "[a]".repeat(49),
            r"[\w\d]".repeat(20),
            r"[[a][b]]".repeat(20),
            r"(?i:[a-\U0010ffff])".repeat(3),
        ] {
            assert!(!is_moderate(&pattern), "{pattern}");
        }
    }
}
