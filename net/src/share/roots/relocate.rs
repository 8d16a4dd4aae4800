//! Finding a file again that was renamed, or that lies in a directory that was.
//!
//! The number of its inode stays. Directories tell it beside each name, so the share is looked
//! through without asking for the state of any file. What has the number may be another file by
//! now: whoever reads it proves what comes.

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

/// One search takes no longer than this: millions of names in memory, less where they have to come
/// from a disk.
const MAX_TIME: Duration = Duration::from_secs(5);

/// So much of the time, one part in so many, may go into these searches.
const TIMES_AS_LONG: u32 = 4;

/// The file that had a content and was not found is not looked for again for this long.
const MISSED: Duration = Duration::from_secs(20);

/// Contents whose file was not found, directories that were, each as far as they are remembered.
const MAX_REMEMBERED: usize = 256;

/// A file counts as gone when it was not found so many times, with a pause in between.
const LOOKS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(20);

/// Bytes of names that one `getdents64(2)` call may return.
const BUFFER: usize = 64 * 1024;

/// Where a file is by now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Whereabouts {
    /// At this path.
    At(RelPath),
    /// Not in the share, or where it cannot be looked for.
    Nowhere,
    /// There was no time to find out.
    Unknown,
}

/// What was learned by looking for files.
#[derive(Default, Debug)]
pub(crate) struct Relocations {
    state: Mutex<State>,
    /// Held by the one that looks through the share.
    turn: Mutex<()>,
}

#[derive(Debug)]
struct State {
    /// By their roots: another file may have the inode by the next moment.
    missed: ExpiringMap<Root, ()>,
    /// Directories, from where a file was to where it is: others of it may have come along.
    moved: VecDeque<(RelPath, RelPath)>,
    rests_until: Option<Instant>,
}

impl Relocations {
    /// Where the file is by now that was at `place` when it had the content of `root`.
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
        // Another one may have found its neighbour meanwhile.
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
            // What is renamed just now may be where somebody has looked already.
            std::thread::sleep(PAUSE);
            found = look_through(tree, place, until);
        }
        self.state.lock().note((root, place), &found, begun);
        found
    }

    /// Its place if it has moved together with another one.
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
    /// What is said of a file that is not looked for now; `None` if it may be.
    fn without_looking(&self, root: Root, now: Instant) -> Option<Whereabouts> {
        if self.missed.get(&root, now).is_some() {
            return Some(Whereabouts::Nowhere);
        }
        let rests = self.rests_until.is_some_and(|until| until > now);
        rests.then_some(Whereabouts::Unknown)
    }

    fn note(&mut self, (root, place): (Root, &FileLocation), found: &Whereabouts, begun: Instant) {
        let now = Instant::now();
        // A quick search needs no rest.
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

/// The directories, before and after, whose renaming would have brought a file from `from` to `to`.
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

/// Looks through the directory in which the file was, then through all others, the
/// upper ones first.
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

/// The path of the file with this inode in `directory`; what lies below it is added to `pending`.
/// Links and other file systems are passed over: their numbers are their own.
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
        // Some file systems do not tell; what is no directory is passed over when its turn comes.
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
