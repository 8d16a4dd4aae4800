//! Names for what cannot be shown under its own name: `name (mark).ext`, each used once.
//!
//! Members choose names, and so how many of them collide. Therefore no free name is searched for:
//! the first try is the plain name, and every other contains a digest of what it stands for. Two
//! things then never try the same name, and each name in use can block only one try. That bounds
//! the tries by the number of names, no matter who chose them. Pure.

use std::collections::HashSet;

use data_encoding::BASE32_NOPAD;
use sha2::{Digest, Sha256};
use tinyp2p_net::model::{MAX_NAME_BYTES, Name};

/// The longest extension that stays after the mark; anything longer is no extension.
const MAX_EXTENSION_BYTES: usize = 32;

/// The longest mark that is shown whole. A digest, a number and the longest extension still leave
/// room for some of the name.
pub const MAX_MARK_BYTES: usize = 120;

/// Characters of base32 in a digest: 80 bits. Whoever makes two digests collide gains one try.
const DIGEST_CHARACTERS: usize = 16;

/// The names that are taken.
pub struct DistinctNames<F> {
    is_in_use: F,
    given: HashSet<Name>,
}

impl<F: Fn(&Name) -> bool> DistinctNames<F> {
    /// Starts with no name given. Names in use are never given.
    pub fn new(is_in_use: F) -> Self {
        Self {
            is_in_use,
            given: HashSet::new(),
        }
    }

    /// Returns `name (mark).ext` if it is free and the name need not be cut for it. Otherwise
    /// returns `name (mark-DIGEST).ext`, with a number in it if that very name is in use. The
    /// digest covers `name` and `owner`, which no two things named here have in common. `mark` is
    /// cut to [`MAX_MARK_BYTES`]; whatever no name can contain becomes `_` in it.
    pub fn give(&mut self, name: &Name, mark: &[u8], owner: &[u8]) -> Name {
        let mark: Vec<u8> = truncated(mark, MAX_MARK_BYTES)
            .iter()
            .map(|byte| match byte {
                b'/' | 0 => b'_',
                byte => *byte,
            })
            .collect();
        let mut given = Some(marked(name, &mark))
            .filter(|(_, is_whole)| *is_whole)
            .map(|(name, _)| name)
            .filter(|name| self.is_free(name));
        let mut attempt = 1_u64;
        let given = loop {
            if let Some(given) = given {
                break given;
            }
            let digest = digest(name, owner);
            let more = match attempt {
                1 => format!("-{digest}"),
                number => format!("-{digest} {number}"),
            };
            let (next, _) = marked(name, &[&mark, more.as_bytes()].concat());
            given = Some(next).filter(|name| self.is_free(name));
            attempt += 1;
        };
        self.given.insert(given.clone());
        given
    }

    fn is_free(&self, name: &Name) -> bool {
        !self.given.contains(name) && !(self.is_in_use)(name)
    }
}

fn digest(name: &Name, owner: &[u8]) -> String {
    let mut hasher = Sha256::new();
    // A name has no NUL in it.
    hasher.update(name.as_bytes());
    hasher.update([0]);
    hasher.update(owner);
    let mut text = BASE32_NOPAD.encode(&hasher.finalize());
    text.truncate(DIGEST_CHARACTERS);
    text.make_ascii_lowercase();
    text
}

/// Returns `name (mark).ext`, and whether it contains the whole name. Otherwise the name was cut
/// between characters to make room.
fn marked(name: &Name, mark: &[u8]) -> (Name, bool) {
    let suffix = [b" (", mark, b")"].concat();
    let (stem, extension) = split_extension(name.as_bytes());
    let room = MAX_NAME_BYTES.saturating_sub(suffix.len() + extension.len());
    let shown = truncated(stem, room);
    let bytes = [shown, &suffix, extension].concat();
    // It has at most 255 bytes, none of them a slash or a NUL, and it includes parentheses.
    let marked = Name::new(bytes).unwrap_or_else(|_| name.clone());
    (marked, shown.len() == stem.len())
}

/// `a.tar.gz` -> `a.tar`, `.gz`. A leading dot makes a hidden name, not an extension.
fn split_extension(name: &[u8]) -> (&[u8], &[u8]) {
    let dot = name.iter().rposition(|byte| *byte == b'.');
    let is_extension = |dot: &usize| {
        name[..*dot].iter().any(|b| *b != b'.') && name.len() - dot <= MAX_EXTENSION_BYTES
    };
    name.split_at(dot.filter(is_extension).unwrap_or(name.len()))
}

/// Returns at most `limit` bytes of `bytes`, cut between characters if it is UTF-8.
fn truncated(bytes: &[u8], limit: usize) -> &[u8] {
    if bytes.len() <= limit {
        return bytes;
    }
    let cut = &bytes[..limit];
    match std::str::from_utf8(cut) {
        Err(error) if error.error_len().is_none() => &cut[..error.valid_up_to()],
        _ => cut,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;
    use crate::view::merge::may_be_conflict;

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn extensions_are_what_people_take_for_one() {
        let split = |name: &'static str| {
            let (stem, extension) = split_extension(name.as_bytes());
            (stem.len(), String::from_utf8_lossy(extension).into_owned())
        };
        assert_eq!(split("a.tar.gz"), (5, ".gz".into()));
        assert_eq!(split(".profile"), (8, String::new()));
        assert_eq!(split("..x"), (3, String::new()));
        assert_eq!(split("README"), (6, String::new()));
        let sentence = "e.g. a very long sentence that somebody used as a name";
        assert_eq!(split(sentence), (sentence.len(), String::new()));
    }

    #[test]
    fn free_name_is_plain_taken_gets_a_digest() {
        let used = [name("a (ann).txt")];
        let mut names = DistinctNames::new(|name: &Name| used.contains(name));
        assert_eq!(
            names.give(&name("b.txt"), b"ann", b"1"),
            name("b (ann).txt")
        );
        let second = names.give(&name("b.txt"), b"ann", b"2").to_string();
        let third = names.give(&name("a.txt"), b"ann", b"1").to_string();
        for (given, start) in [(second, "b (ann-"), (third, "a (ann-")] {
            let digest = given.strip_prefix(start).unwrap();
            assert_eq!(
                digest.strip_suffix(").txt").unwrap().len(),
                DIGEST_CHARACTERS
            );
        }
    }

    #[test]
    fn name_in_use_costs_a_single_retry() {
        let mut first = DistinctNames::new(|_: &Name| false);
        let long = name(&"x".repeat(255));
        let taken = first.give(&long, b"ann", b"1");
        let tries = Cell::new(0);
        let mut names = DistinctNames::new(|name: &Name| {
            tries.set(tries.get() + 1);
            *name == taken
        });
        let given = names.give(&long, b"ann", b"1").to_string();
        assert!(given.ends_with(" 2)"), "{given}");
        assert_eq!(tries.get(), 2);
    }

    #[test]
    fn common_prefix_names_take_two_tries() {
        let tries = Cell::new(0);
        let mut names = DistinctNames::new(|_: &Name| {
            tries.set(tries.get() + 1);
            false
        });
        let given: HashSet<Name> = (0..20_000)
            .map(|number| {
                names.give(
                    &name(&format!("{}{number:05}", "x".repeat(250))),
                    b"m",
                    b"1",
                )
            })
            .collect();
        assert_eq!(given.len(), 20_000);
        assert!(tries.get() <= 40_000, "{}", tries.get());
    }

    proptest! {
        #[test]
        fn no_name_breaks_the_bounds_of_a_name(
            stem in prop::collection::vec(any::<u8>(), 1..=255),
            mark in prop::collection::vec(any::<u8>(), 0..300),
            taken in 0..4_usize,
        ) {
            let Ok(original) = Name::new(stem) else { return Ok(()) };
            let mut names = DistinctNames::new(|_: &Name| false);
            let given: HashSet<Name> =
                (0..=taken).map(|_| names.give(&original, &mark, b"1")).collect();
            prop_assert_eq!(given.len(), taken + 1);
            prop_assert!(given.iter().all(may_be_conflict));
            prop_assert!(!given.contains(&original));
        }
    }
}
