//! When new content roots are reported to those who were shown the files without them.
//!
//! Pure. Each report makes the listing of its directory be asked for again, which costs as much as
//! the directory is large. So the roots of one directory are reported together: the first after
//! [`FIRST`], and the longer apart the more have been reported of it. A small directory is complete
//! by its first report. All reports together stay far below what a follower accepts
//! (PROTOCOL.md section 5.5).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::model::{Name, RelPath};
use crate::protocol::wire::{Change, Depth};

/// How long the first new root of a directory waits for others.
pub(super) const FIRST: Duration = Duration::from_secs(1);

/// The longest time between two reports about one directory.
const MAX_PAUSE: Duration = Duration::from_secs(15);

/// For each of this many roots that were reported of a directory, the pause grows by [`FIRST`].
const ROOTS_PER_PAUSE: usize = 2000;

/// If more files of one directory have new roots, all of the directory counts as changed.
const MAX_NAMES: usize = 64;

/// Limit on the changes in one round.
const MAX_CHANGES: usize = 512;

/// What is known of a directory is forgotten after this long without new roots.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// The new roots that have not been reported yet.
#[derive(Default, Debug)]
pub(super) struct RootNews {
    directories: HashMap<RelPath, DirectoryNews>,
    /// How many of them have anything to report.
    waiting: usize,
}

#[derive(Debug)]
struct DirectoryNews {
    /// The first names with new roots, at most [`MAX_NAMES`] and one more.
    names: Vec<Name>,
    /// How many new roots wait, and how many were reported.
    count: usize,
    reported: usize,
    due: Instant,
}

impl RootNews {
    /// Records that `name` in `directory` has a root since `now`.
    pub(super) fn add(&mut self, directory: &RelPath, name: Name, now: Instant) {
        if !self.directories.contains_key(directory) {
            let new = DirectoryNews {
                names: Vec::new(),
                count: 0,
                reported: 0,
                due: now,
            };
            self.directories.insert(directory.clone(), new);
        }
        let Some(known) = self.directories.get_mut(directory) else {
            return;
        };
        if known.count == 0 {
            self.waiting += 1;
            known.due = known.due.max(now + FIRST);
        }
        known.count += 1;
        if known.names.len() <= MAX_NAMES && !known.names.contains(&name) {
            known.names.push(name);
        }
    }

    /// Returns true if nothing waits to be reported.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Returns what is to be reported now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Change> {
        let mut due: Vec<(Instant, RelPath)> = Vec::new();
        self.directories.retain(|directory, news| {
            if news.count > 0 && news.due <= now {
                due.push((news.due, directory.clone()));
            }
            news.count > 0 || now < news.due + FORGOTTEN
        });
        // Who waits longest comes first; the others keep their turn.
        due.sort_unstable();
        let mut changes = Vec::new();
        for (_, directory) in due {
            if changes.len() + MAX_NAMES > MAX_CHANGES {
                break;
            }
            if let Some(news) = self.directories.get_mut(&directory) {
                news.report(&directory, &mut changes, now);
                self.waiting -= 1;
            }
        }
        changes
    }
}

impl DirectoryNews {
    fn report(&mut self, directory: &RelPath, changes: &mut Vec<Change>, now: Instant) {
        if self.names.len() > MAX_NAMES {
            changes.push(Change {
                path: directory.clone(),
                depth: Depth::Tree,
            });
        } else {
            let paths = self
                .names
                .iter()
                .filter_map(|name| directory.join(name).ok());
            changes.extend(paths.map(|path| Change {
                path,
                depth: Depth::Entry,
            }));
        }
        self.names.clear();
        self.reported += self.count;
        self.count = 0;
        let times = u32::try_from(self.reported / ROOTS_PER_PAUSE).unwrap_or(u32::MAX);
        self.due = now + FIRST.saturating_mul(times).min(MAX_PAUSE);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    fn add(news: &mut RootNews, directory: &str, count: usize, now: Instant) {
        for number in 0..count {
            let name = Name::new(number.to_string().as_bytes()).unwrap();
            news.add(&path(directory), name, now);
        }
    }

    #[test]
    fn roots_of_a_small_directory_are_reported_together_after_a_second() {
        let (mut news, now) = (RootNews::default(), Instant::now());
        add(&mut news, "d", 2, now);
        assert_eq!(news.due(now + FIRST / 2), []);
        let paths: Vec<_> = news.due(now + FIRST).into_iter().map(|c| c.path).collect();
        assert_eq!(paths, [path("d/0"), path("d/1")]);
        assert!(news.is_empty());
        // And so is the next one.
        add(&mut news, "d", 1, now + FIRST * 2);
        assert_eq!(news.due(now + FIRST * 3).len(), 1);
    }

    #[test]
    fn large_directory_is_reported_as_a_whole_and_ever_more_rarely() {
        let (mut news, now) = (RootNews::default(), Instant::now());
        let whole = [Change {
            path: path("d"),
            depth: Depth::Tree,
        }];
        let mut times = 0;
        for second in 0..60 {
            add(&mut news, "d", 5000, now + FIRST * second);
            let due = news.due(now + FIRST * second);
            assert!(due.is_empty() || due == whole);
            times += due.len();
        }
        assert!((5..12).contains(&times), "{times}");
        assert_eq!(news.due(now + FIRST * 60 + MAX_PAUSE), whole);
    }

    #[test]
    fn one_round_is_bounded_and_nothing_is_lost() {
        let (mut news, now) = (RootNews::default(), Instant::now());
        for directory in 0..100 {
            add(&mut news, &directory.to_string(), MAX_NAMES, now);
        }
        let (mut reported, mut rounds) = (0, 0);
        while !news.is_empty() {
            let due = news.due(now + FIRST);
            assert!(due.len() <= MAX_CHANGES);
            reported += due.len();
            rounds += 1;
        }
        assert_eq!((reported, rounds), (100 * MAX_NAMES, 13));
        news.due(now + FIRST + FORGOTTEN);
        assert!(news.directories.is_empty());
    }
}
