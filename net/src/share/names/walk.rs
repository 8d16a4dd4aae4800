//! Walks all files of the share whose names match, in the order of their paths.
//!
//! The order is that of the bytes of the whole path: `a.b` comes before `a/b`, and `a0` after it. A
//! directory is therefore sorted among its siblings as if its name ended in `/`. Then a depth-first
//! walk yields that order, and a walk that continues after some path can skip every directory that
//! lies wholly before it.
//!
//! Links to directories are not entered: what they lead to is found once, where it really lies. So
//! every real directory is visited at most once, and the walk ends. Nothing stays open between two
//! steps, and nothing is examined before its turn, so a walk that is abandoned after a page has
//! cost only what was on that page. Directories on the way have their names in memory while they
//! are unchanged ([`super::index`]).

use std::sync::Arc;

use rustix::io::Errno;

use super::name_list::{EntryHint, NameList};
use super::pattern::Pattern;
use super::pattern::patience::{SearchTime, TimeIsUp};
use crate::model::RelPath;
use crate::share::Share;
use crate::share::errnos::is_exhaustion;
use crate::share::tree::{ShareTree, join};

/// Limit on names that one step skips, if there is time for that many.
const MAX_PASSED: usize = 256;

/// A walk positioned somewhere in the tree.
pub(crate) struct ShareWalk<'a> {
    share: &'a Share,
    tree: &'a Arc<ShareTree>,
    pattern: &'a Pattern,
    after: Option<RelPath>,
    levels: Vec<Level>,
}

/// One step of a walk. The paths of the steps ascend.
pub(crate) enum WalkStep {
    /// A file, or a link that may lead to one, whose name matches.
    Match(RelPath),
    /// A directory, whose files come next.
    Directory(RelPath),
    /// The last of several names that do not match.
    Passed(RelPath),
}

/// Why there is no next step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WalkStop {
    /// This machine has run out of a resource.
    Exhaustion(Errno),
    /// The time was up before another name was passed. The walk can continue.
    TimeIsUp,
}

/// A directory that is being walked.
struct Level {
    directory: RelPath,
    cursor: Cursor,
}

/// A position among the names of one directory. It merges two sequences: files and links in byte
/// order, and directories in the order of the paths below them.
struct Cursor {
    names: Arc<NameList>,
    /// The next name, unless it is a directory's.
    name: usize,
    /// The end of the names that come before the next directory.
    end: usize,
    /// The position of the next directory.
    directory: usize,
}

/// The next item in a directory; see [`WalkStep`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum NextEntry {
    Match,
    Directory,
    Passed,
}

impl<'a> ShareWalk<'a> {
    /// Starts a walk of what sorts after `after`.
    pub(crate) fn new(
        share: &'a Share,
        tree: &'a Arc<ShareTree>,
        pattern: &'a Pattern,
        after: Option<RelPath>,
    ) -> Result<Self, Errno> {
        let mut walk = Self {
            share,
            tree,
            pattern,
            after,
            levels: Vec::new(),
        };
        let root = RelPath::root();
        let names = share.real_names(tree, &root)?;
        walk.enter(root, names);
        Ok(walk)
    }

    /// Returns the next step; `None` at the end. Anything that vanishes or cannot be read is
    /// skipped, unless this machine has run out of a resource.
    pub(crate) fn next(&mut self, patience: &mut SearchTime) -> Result<Option<WalkStep>, WalkStop> {
        while let Some(level) = self.levels.last_mut() {
            let next = level.cursor.next(self.pattern, patience);
            let Some((next, index)) = next.map_err(|TimeIsUp| WalkStop::TimeIsUp)? else {
                self.levels.pop();
                continue;
            };
            let (name, _) = level.cursor.names.get(index);
            // The path is too long for any request, so it is not served.
            let Ok(path) = join(&level.directory, name) else {
                continue;
            };
            match next {
                NextEntry::Match => return Ok(Some(WalkStep::Match(path))),
                NextEntry::Passed => return Ok(Some(WalkStep::Passed(path))),
                NextEntry::Directory => {}
            }
            match self.share.real_names(self.tree, &path) {
                Ok(names) => self.enter(path.clone(), names),
                Err(error) if is_exhaustion(error) => {
                    return Err(WalkStop::Exhaustion(error));
                }
                Err(_) => continue,
            }
            return Ok(Some(WalkStep::Directory(path)));
        }
        Ok(None)
    }

    fn enter(&mut self, directory: RelPath, names: Arc<NameList>) {
        let after = self.after.as_ref().map_or(&b""[..], RelPath::as_bytes);
        let cursor = Cursor::behind(rest(after, &directory), names);
        self.levels.push(Level { directory, cursor });
    }
}

/// Returns the part of `after` that concerns the inside of `directory`: empty if everything in
/// it comes later.
fn rest<'a>(after: &'a [u8], directory: &RelPath) -> &'a [u8] {
    if directory.is_root() {
        return after;
    }
    after
        .strip_prefix(directory.as_bytes())
        .and_then(|rest| rest.strip_prefix(b"/"))
        .unwrap_or_default()
}

impl Cursor {
    /// Creates a cursor before the first of `names` that is, or may contain,
    /// something after `after`.
    fn behind(after: &[u8], names: Arc<NameList>) -> Self {
        let mut cursor = Self {
            name: names.behind(after),
            end: 0,
            directory: names.directory_behind(after),
            names,
        };
        cursor.find_end();
        cursor
    }

    fn find_end(&mut self) {
        self.end = match self.names.directory(self.directory) {
            Some(index) => self.names.behind_directory(self.names.get(index).0),
            None => self.names.len(),
        };
    }

    /// Advances to the next match or directory, past as many names as one step may skip and time
    /// allows. Also returns the index of the name.
    fn next(
        &mut self,
        pattern: &Pattern,
        patience: &mut SearchTime,
    ) -> Result<Option<(NextEntry, usize)>, TimeIsUp> {
        let (first, max) = (self.name, self.end.min(self.name + MAX_PASSED));
        for index in first..max {
            let (name, seen) = self.names.get(index);
            let is_match = seen != EntryHint::Directory
                && match pattern.matches(name, patience) {
                    Ok(is_match) => is_match,
                    // The next call gets the error again.
                    Err(TimeIsUp) if index > first => {
                        return Ok(Some((NextEntry::Passed, index - 1)));
                    }
                    Err(TimeIsUp) => return Err(TimeIsUp),
                };
            self.name = index + 1;
            if is_match {
                return Ok(Some((NextEntry::Match, index)));
            }
        }
        self.name = self.name.max(max);
        if self.name < self.end {
            return Ok(Some((NextEntry::Passed, self.name - 1)));
        }
        let Some(index) = self.names.directory(self.directory) else {
            return Ok(None);
        };
        self.directory += 1;
        self.find_end();
        Ok(Some((NextEntry::Directory, index)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;
    use crate::share::names::name_list::tests::names;

    fn ample() -> SearchTime {
        SearchTime::new(Instant::now() + Duration::from_secs(60))
    }

    /// Lists everything that a cursor visits, with a `/` after directories, without the names
    /// that it skips.
    fn visited(entries: &[(&str, EntryHint)], after: &str, pattern: &str) -> Vec<String> {
        let names = Arc::new(names(entries));
        let pattern = Pattern::new(pattern).unwrap();
        let mut cursor = Cursor::behind(after.as_bytes(), Arc::clone(&names));
        let (mut visited, mut patience) = (Vec::new(), ample());
        while let Some((next, index)) = cursor.next(&pattern, &mut patience).unwrap() {
            let name = String::from_utf8(names.get(index).0.into()).unwrap();
            match next {
                NextEntry::Match => visited.push(name),
                NextEntry::Directory => visited.push(name + "/"),
                NextEntry::Passed => {}
            }
        }
        visited
    }

    fn visited_behind(after: &str) -> Vec<String> {
        let entries = [
            ("a", EntryHint::Directory),
            ("a!", EntryHint::File),
            ("a.b", EntryHint::File),
            ("a.c", EntryHint::Directory),
            ("a0", EntryHint::File),
            ("aa", EntryHint::Link),
            ("b", EntryHint::File),
        ];
        visited(&entries, after, "")
    }

    #[test]
    fn directories_sort_as_if_slash_terminated() {
        let all = ["a!", "a.b", "a.c/", "a/", "a0", "aa", "b"];
        assert_eq!(visited_behind(""), all);
        assert_eq!(visited_behind("a"), all);
    }

    #[test]
    fn entries_before_the_cursor_are_skipped() {
        assert_eq!(visited_behind("a.b"), ["a.c/", "a/", "a0", "aa", "b"]);
        assert_eq!(visited_behind("a.c/x"), ["a.c/", "a/", "a0", "aa", "b"]);
        assert_eq!(visited_behind("a/zz/y"), ["a/", "a0", "aa", "b"]);
        assert_eq!(visited_behind("a0"), ["aa", "b"]);
        assert_eq!(visited_behind("c"), [""; 0]);
    }

    #[test]
    fn directory_off_the_spot_is_walked_whole() {
        let directory = RelPath::new(b"x/y").unwrap();
        assert_eq!(rest(b"x/y/z", &directory), b"z");
        assert_eq!(rest(b"x/y", &directory), b"");
        assert_eq!(rest(b"x/yy", &directory), b"");
        assert_eq!(rest(b"w", &RelPath::root()), b"w");
    }

    #[test]
    fn one_step_passes_bounded_names() {
        let text: Vec<String> = (0..MAX_PASSED + 9).map(|i| format!("{i:06}")).collect();
        let entries: Vec<_> = text.iter().map(|t| (t.as_str(), EntryHint::File)).collect();
        let pattern = Pattern::new("x").unwrap();
        let mut cursor = Cursor::behind(b"", Arc::new(names(&entries)));
        let last = MAX_PASSED - 1;
        let passed = Some((NextEntry::Passed, last));
        assert_eq!(cursor.next(&pattern, &mut ample()), Ok(passed));
        assert_eq!(cursor.next(&pattern, &mut ample()), Ok(None));
    }

    #[test]
    fn timed_out_step_loses_no_name() {
        let text: Vec<String> = (0..200).map(|i| format!("{i:0200}")).collect();
        let entries: Vec<_> = text.iter().map(|t| (t.as_str(), EntryHint::File)).collect();
        let pattern = Pattern::new("199$").unwrap();
        let mut cursor = Cursor::behind(b"", Arc::new(names(&entries)));
        let mut over = SearchTime::new(Instant::now());
        let passed = cursor.next(&pattern, &mut over).unwrap();
        assert!(
            matches!(passed, Some((NextEntry::Passed, 1..100))),
            "{passed:?}"
        );
        assert_eq!(cursor.next(&pattern, &mut over), Err(TimeIsUp));
        let found = Some((NextEntry::Match, 199));
        assert_eq!(cursor.next(&pattern, &mut ample()), Ok(found));
    }

    fn entry() -> impl Strategy<Value = (String, EntryHint)> {
        let seen =
            prop::sample::select(vec![EntryHint::File, EntryHint::Directory, EntryHint::Link]);
        (
            "[ab!./0]{1,3}".prop_map(|name| name.replace('/', "-")),
            seen,
        )
    }

    proptest! {
        #[test]
        fn cursor_visits_the_rest_in_path_order(
            entries in prop::collection::vec(entry(), 0..40),
            after in "[ab!./0]{0,4}",
        ) {
            let entries: Vec<_> = entries.iter().map(|(n, seen)| (n.as_str(), *seen)).collect();
            let mut kinds = std::collections::BTreeMap::new();
            for (name, seen) in &entries {
                kinds.entry(*name).or_insert(*seen);
            }
            // If a name occurs twice with different kinds, which of them counts is undefined.
            prop_assume!(entries.iter().all(|(name, seen)| kinds[name] == *seen));
            let mut expected: Vec<String> = kinds
                .iter()
                .map(|(name, seen)| match seen {
                    EntryHint::Directory => format!("{name}/"),
                    _ => (*name).to_owned(),
                })
                .filter(|path| *path > after || path.ends_with('/') && after.starts_with(path))
                .filter(|path| path.ends_with('/') || path.contains('a'))
                .collect();
            expected.sort();
            prop_assert_eq!(visited(&entries, &after, "a"), expected);
        }
    }
}
