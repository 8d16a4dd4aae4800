//! All files of the share whose name matches, in the order of their paths.
//!
//! The order is that of the bytes of the whole path, in which `a.b` comes before `a/b` and `a0`
//! behind it. A directory is therefore sorted among its siblings as if its name ended in `/`:
//! then walking depth first yields that order, and a walk that goes on behind some path can skip
//! every directory that lies wholly before it.
//!
//! Links to directories are not entered: what they lead to is found where it really lies, once.
//! So every real directory is visited at most once, and the walk ends. One directory's names are
//! in memory for each level of the tree, and nothing is open between two steps.

use std::cmp::Ordering;
use std::sync::Arc;

use rustix::io::Errno;

use super::Share;
use super::names::{Names, Seen};
use super::pattern::Pattern;
use super::tree::join;
use crate::types::RelPath;

/// A walk that stands somewhere in the tree.
pub(super) struct Walk<'a> {
    share: &'a Share,
    pattern: &'a Pattern,
    after: Option<RelPath>,
    levels: Vec<Level>,
}

/// One step of a walk. Their paths ascend.
pub(super) enum Step {
    /// A file, or a link that may lead to one, whose name matches.
    Match(RelPath),
    /// A directory, whose files come next.
    Directory(RelPath),
}

/// A directory that is being walked.
struct Level {
    directory: RelPath,
    names: Arc<Names>,
    /// What is still to be visited, the next one last.
    order: Vec<u32>,
}

impl<'a> Walk<'a> {
    /// A walk of what sorts behind `after`.
    pub(super) fn new(
        share: &'a Share,
        pattern: &'a Pattern,
        after: Option<RelPath>,
    ) -> Result<Self, Errno> {
        let mut walk = Self {
            share,
            pattern,
            after,
            levels: Vec::new(),
        };
        let root = RelPath::root();
        let names = share.real_names(&root)?;
        walk.enter(root, names);
        Ok(walk)
    }

    /// The next step; `None` at the end. What vanishes or cannot be read is passed over, unless
    /// this machine has run out of something.
    pub(super) fn next(&mut self) -> Result<Option<Step>, Errno> {
        while let Some(level) = self.levels.last_mut() {
            let Some(index) = level.order.pop() else {
                self.levels.pop();
                continue;
            };
            let (name, seen) = level.names.get(index as usize);
            // Too long for any request: not served.
            let Ok(path) = join(&level.directory, name) else {
                continue;
            };
            if seen != Seen::Directory {
                return Ok(Some(Step::Match(path)));
            }
            match self.share.real_names(&path) {
                Ok(names) => self.enter(path.clone(), names),
                Err(error) if super::tree::is_exhaustion(error) => return Err(error),
                Err(_) => continue,
            }
            return Ok(Some(Step::Directory(path)));
        }
        Ok(None)
    }

    fn enter(&mut self, directory: RelPath, names: Arc<Names>) {
        let after = self.after.as_ref().map_or(&b""[..], RelPath::as_bytes);
        let order = order(&names, rest(after, &directory), self.pattern);
        self.levels.push(Level {
            directory,
            names,
            order,
        });
    }
}

/// What of `after` concerns the inside of `directory`: empty when all of it lies behind.
fn rest<'a>(after: &'a [u8], directory: &RelPath) -> &'a [u8] {
    if directory.is_root() {
        return after;
    }
    after
        .strip_prefix(directory.as_bytes())
        .and_then(|rest| rest.strip_prefix(b"/"))
        .unwrap_or_default()
}

/// The names of one directory that a walk has to visit, the first one last.
fn order(names: &Names, after: &[u8], pattern: &Pattern) -> Vec<u32> {
    let mut order: Vec<u32> = (0_u32..)
        .zip(0..names.len())
        .filter(|(_, index)| {
            let (name, seen) = names.get(*index);
            match seen {
                Seen::Directory => !lies_before(name, after),
                Seen::File | Seen::Link => name > after && pattern.matches(name),
            }
        })
        .map(|(number, _)| number)
        .collect();
    order.sort_by(|a, b| path_order(names.get(*b as usize), names.get(*a as usize)));
    order
}

/// True when every path below the directory `name` sorts before `after`.
fn lies_before(name: &[u8], after: &[u8]) -> bool {
    match after.strip_prefix(name) {
        Some(rest) => rest.first().is_some_and(|byte| *byte > b'/'),
        None => name < after,
    }
}

/// The order of the paths that begin with these two names: that of the bytes, with a `/` behind
/// the name of a directory.
fn path_order((a, a_seen): (&[u8], Seen), (b, b_seen): (&[u8], Seen)) -> Ordering {
    let common = a.len().min(b.len());
    let next = |name: &[u8], seen| {
        let end = (seen == Seen::Directory).then_some(b'/');
        name.get(common).copied().or(end)
    };
    a[..common]
        .cmp(&b[..common])
        .then_with(|| next(a, a_seen).cmp(&next(b, b_seen)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::names::tests::names;
    use super::*;

    fn visited(after: &str) -> Vec<String> {
        let names = names(&[
            ("a", Seen::Directory),
            ("a!", Seen::File),
            ("a.b", Seen::File),
            ("a.c", Seen::Directory),
            ("a0", Seen::File),
            ("aa", Seen::Link),
            ("b", Seen::File),
        ]);
        let order = order(&names, after.as_bytes(), &Pattern::new("").unwrap());
        let text = |index: &u32| String::from_utf8(names.get(*index as usize).0.into()).unwrap();
        order.iter().rev().map(text).collect()
    }

    #[test]
    fn directories_sort_as_if_they_ended_in_a_slash() {
        let all = ["a!", "a.b", "a.c", "a", "a0", "aa", "b"];
        assert_eq!(visited(""), all);
        assert_eq!(visited("a"), all);
    }

    #[test]
    fn what_lies_wholly_before_is_skipped_and_what_holds_the_spot_is_not() {
        assert_eq!(visited("a.b"), ["a.c", "a", "a0", "aa", "b"]);
        assert_eq!(visited("a.c/x"), ["a.c", "a", "a0", "aa", "b"]);
        assert_eq!(visited("a/zz/y"), ["a", "a0", "aa", "b"]);
        assert_eq!(visited("a0"), ["aa", "b"]);
        assert_eq!(visited("c"), [""; 0]);
    }

    #[test]
    fn a_directory_that_holds_none_of_the_spot_is_walked_whole() {
        let directory = RelPath::new(b"x/y").unwrap();
        assert_eq!(rest(b"x/y/z", &directory), b"z");
        assert_eq!(rest(b"x/y", &directory), b"");
        assert_eq!(rest(b"x/yy", &directory), b"");
        assert_eq!(rest(b"w", &RelPath::root()), b"w");
    }
}
