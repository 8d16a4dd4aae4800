//! Finds a file again after it was renamed, or after a directory above it was.
//!
//! Its inode number stays. Directories report it beside each name, so the share is searched without
//! querying the state of any file. The number may belong to another file by now, so the reader
//! verifies what it gets.

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::{FileType, RawDir};

use super::store::FileLocation;
use crate::concurrency::expiring_map::ExpiringMap;
use crate::model::{RelPath, Root};
use crate::share::tree::beneath::open_directory;
use crate::share::tree::{ShareTree, join};

/// Limit on the time for one search: enough for millions of names in memory, fewer if they have to
/// come from a disk.
const MAX_TIME: Duration = Duration::from_secs(5);

/// The part of the time that may go into these searches: one in this many.
const TIMES_AS_LONG: u32 = 4;

/// If the file that had a content was not found, it is not searched for again for this long.
const MISSED: Duration = Duration::from_secs(20);

/// Limit on remembered contents whose file was not found, and on remembered directories
/// that were found.
const MAX_REMEMBERED: usize = 256;

/// A file counts as gone if it was not found this many times, with a pause in between.
const LOOKS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(20);

/// Bytes of names that one `getdents64(2)` call may return.
const BUFFER: usize = 64 * 1024;

/// The present location of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Whereabouts {
    /// At this path.
    At(RelPath),
    /// Not in the share, or where it cannot be searched for.
    Nowhere,
    /// There was no time to find out.
    Unknown,
}

/// What searches for files have revealed.
#[derive(Default, Debug)]
pub(crate) struct Relocations {
    state: Mutex<State>,
    /// Held by the caller that searches the share.
    turn: Mutex<()>,
}

#[derive(Debug)]
struct State {
    /// Keyed by root, because another file may have the inode by the next moment.
    missed: ExpiringMap<Root, ()>,
    /// Old and new locations of directories in which a file was found: others may have moved along.
    moved: VecDeque<(RelPath, RelPath)>,
    rests_until: Option<Instant>,
}

impl Relocations {
    /// Finds where the file is now that was at `place` when it had the content of `root`.
    pub(crate) fn find(
        &self,
        tree: &Arc<ShareTree>,
        (root, place): (Root, &FileLocation),
        until: Instant,
    ) -> Whereabouts {
        if place.inode == 0 {
            return Whereabouts::Nowhere;
        }
        if let Some(path) = self.beside_others(tree, place) {
            return Whereabouts::At(path);
        }
        let Some(_turn) = self.turn.try_lock_until(until) else {
            return Whereabouts::Unknown;
        };
        // Another search may have found a neighbour in the meantime.
        if let Some(path) = self.beside_others(tree, place) {
            return Whereabouts::At(path);
        }
        let begun = Instant::now();
        if let Some(known) = self.state.lock().without_looking(root, begun) {
            return known;
        }
        let until = until.min(begun + MAX_TIME);
        let mut found = look_through(tree, place, until);
        for _ in 1..LOOKS {
            if found != Whereabouts::Nowhere {
                break;
            }
            // A rename in progress may move the file to a place that was already searched.
            std::thread::sleep(PAUSE);
            found = look_through(tree, place, until);
        }
        self.state.lock().note((root, place), &found, begun);
        found
    }

    /// Returns its path if it has moved together with another file.
    fn beside_others(&self, tree: &Arc<ShareTree>, place: &FileLocation) -> Option<RelPath> {
        let moved: Vec<(RelPath, RelPath)> = self.state.lock().moved.iter().cloned().collect();
        moved.iter().rev().find_map(|(from, to)| {
            let path = place.path.moved(from, to)?;
            let found = tree.find(&path).ok()?;
            (found.state.inode() == place.inode).then_some(path)
        })
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            missed: ExpiringMap::new(MISSED, MAX_REMEMBERED),
            moved: VecDeque::new(),
            rests_until: None,
        }
    }
}

impl State {
    /// Returns the answer for a file that must not be searched for now; `None` if it may be.
    fn without_looking(&self, root: Root, now: Instant) -> Option<Whereabouts> {
        if self.missed.get(&root, now).is_some() {
            return Some(Whereabouts::Nowhere);
        }
        let rests = self.rests_until.is_some_and(|until| until > now);
        rests.then_some(Whereabouts::Unknown)
    }

    fn note(&mut self, (root, place): (Root, &FileLocation), found: &Whereabouts, begun: Instant) {
        let now = Instant::now();
        // A quick search needs no pause.
        let took = now.saturating_duration_since(begun);
        self.rests_until = (took > MAX_TIME / 50).then(|| now + took * TIMES_AS_LONG);
        let found = match found {
            Whereabouts::At(path) => path,
            Whereabouts::Unknown => return,
            Whereabouts::Nowhere => {
                self.missed.insert(root, (), 1, now);
                return;
            }
        };
        if let Some(moved) = moved_directory(&place.path, found) {
            self.moved.retain(|other| *other != moved);
            self.moved.push_back(moved);
            if self.moved.len() > MAX_REMEMBERED {
                self.moved.pop_front();
            }
        }
    }
}

/// Returns the old and the new path of the directory whose renaming would have moved a file from
/// `from` to `to`.
fn moved_directory(from: &RelPath, to: &RelPath) -> Option<(RelPath, RelPath)> {
    let (mut before, name) = from.split()?;
    let (mut after, new_name) = to.split()?;
    if name != new_name {
        return None;
    }
    while let (Some((above, name)), Some((new_above, new_name))) = (before.split(), after.split())
        && name == new_name
    {
        (before, after) = (above, new_above);
    }
    Some((before, after))
}

/// Searches the directory in which the file was, then all others, the upper ones first.
fn look_through(tree: &Arc<ShareTree>, place: &FileLocation, until: Instant) -> Whereabouts {
    let mut pending: VecDeque<RelPath> = [RelPath::root()].into();
    if let Some((directory, _)) = place.path.split() {
        pending.push_front(directory);
    }
    while let Some(directory) = pending.pop_front() {
        if Instant::now() >= until {
            return Whereabouts::Unknown;
        }
        if let Some(found) = look_in(tree, &directory, place.inode, &mut pending) {
            return Whereabouts::At(found);
        }
    }
    Whereabouts::Nowhere
}

/// Returns the path of the file with this inode in `directory`. Directories below it are added to
/// `pending`. Links and other file systems are skipped: their numbers are their own.
fn look_in(
    tree: &Arc<ShareTree>,
    directory: &RelPath,
    inode: u64,
    pending: &mut VecDeque<RelPath>,
) -> Option<RelPath> {
    let pinned = tree.pin_directory(directory).ok()??;
    let opened = open_directory(&pinned).ok()?;
    let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
    let mut entries = RawDir::new(&opened, &mut buffer);
    while let Some(Ok(entry)) = entries.next() {
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        // Some file systems do not report the type. Anything that is no directory is skipped
        // at its turn.
        let may_be_directory = matches!(entry.file_type(), FileType::Directory | FileType::Unknown);
        let is_it = entry.ino() == inode && entry.file_type() != FileType::Directory;
        if !may_be_directory && !is_it {
            continue;
        }
        let Ok(path) = join(directory, name) else {
            continue;
        };
        if !tree.serves(&path) {
            continue;
        }
        if is_it {
            return Some(path);
        }
        pending.push_back(path);
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn moved_directory_differs_from_a_rename() {
        let moved = |from, to| moved_directory(&path(from), &path(to));
        assert_eq!(moved("a/b/f", "c/b/f"), Some((path("a"), path("c"))));
        assert_eq!(moved("a/b/f", "a/x/f"), Some((path("a/b"), path("a/x"))));
        assert_eq!(moved("a/f", "a/g"), None);
        assert_eq!(moved("f", "d/f"), Some((path(""), path("d"))));
    }

    #[test]
    fn missed_roots_and_long_searches_back_off() {
        let root = |number| Root::from_bytes([number; 32]);
        let (mut state, now) = (State::default(), Instant::now());
        let place = FileLocation {
            path: path("f"),
            inode: 7,
            size: 1,
        };
        state.note((root(7), &place), &Whereabouts::Nowhere, now);
        let known = |state: &State, number, after| {
            let now = Instant::now() + Duration::from_secs(after);
            state.without_looking(root(number), now)
        };
        assert_eq!(known(&state, 7, 0), Some(Whereabouts::Nowhere));
        assert_eq!(known(&state, 8, 0), None);
        assert_eq!(known(&state, 7, MISSED.as_secs()), None);
        state.note(
            (root(8), &place),
            &Whereabouts::Unknown,
            now - Duration::from_secs(2),
        );
        assert_eq!(known(&state, 8, 7), Some(Whereabouts::Unknown));
        assert_eq!(known(&state, 8, 9), None);
    }
}
