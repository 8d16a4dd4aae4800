//! Contents that were read for somebody who opened a file that is being written.
//!
//! Such a file is in another state by the next moment, so its content root is of no use to anybody
//! else and is kept in memory only. For a file that grows, a captured content is what it had at one
//! moment. As long as nobody overwrites those bytes, they can still be read, and are verified when
//! they are ([`super::former`]).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::store::FileLocation;
use crate::content::merkle::{BLOCK, HashTree, SUBTREE_BLOCKS, Subtree};
use crate::model::{ContentId, RelPath, Root, Version};

/// Limit on the leaves of all captured contents: 40 MiB of memory, for 20 GiB of content.
const MAX_LEAVES: u64 = 20 * (1 << 30) / BLOCK;

/// Limit on captured contents.
const MAX_CAPTURES: usize = 1024;

/// A file is captured again at the earliest after this many times the duration of its last capture.
const TIMES_AS_LONG: u32 = 3;

/// The shortest pause between two captures of one file.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);

/// The content of a file at one moment.
#[derive(Debug)]
pub(crate) struct Captured {
    pub(crate) tree: HashTree,
    pub(crate) place: FileLocation,
    /// The version of the file when reading it began.
    pub(crate) version: Version,
    /// Where the file has been found since, if it has moved.
    moved: Mutex<Option<RelPath>>,
    /// When reading it ended, and how long that took.
    at: Instant,
    took: Duration,
}

impl Captured {
    /// Wraps what was read of the file at `place` from `begun` to `now`.
    pub(crate) fn new(
        tree: HashTree,
        place: FileLocation,
        version: Version,
        begun: Instant,
        now: Instant,
    ) -> Self {
        Self {
            tree,
            place,
            version,
            moved: Mutex::default(),
            at: now,
            took: now.saturating_duration_since(begun),
        }
    }

    pub(crate) fn content(&self) -> ContentId {
        ContentId {
            root: self.tree.root(),
            size: self.place.size,
        }
    }

    /// Returns where the file is, as far as that is known.
    pub(crate) fn place(&self) -> FileLocation {
        let moved = self.moved.lock().clone();
        FileLocation {
            path: moved.unwrap_or_else(|| self.place.path.clone()),
            ..self.place.clone()
        }
    }

    /// Records that the file was found at `path`.
    pub(crate) fn note_moved(&self, path: RelPath) {
        *self.moved.lock() = Some(path);
    }

    /// Returns when the file may be read again.
    pub(crate) fn again_at(&self) -> Instant {
        self.at + SHORTEST_PAUSE.max(self.took * TIMES_AS_LONG)
    }
}

/// The captured contents. The oldest ones make room for new ones.
#[derive(Default, Debug)]
pub(crate) struct Captures {
    state: Mutex<State>,
}

#[derive(Default, Debug)]
struct State {
    by_root: HashMap<Root, Arc<Captured>>,
    by_version: HashMap<Version, Root>,
    /// The last capture of each path.
    last: HashMap<RelPath, Root>,
    /// Ordered from oldest to newest.
    order: VecDeque<Root>,
    leaves: u64,
}

impl Captures {
    /// Returns the content with this root.
    pub(crate) fn of_root(&self, root: Root) -> Option<Arc<Captured>> {
        self.state.lock().by_root.get(&root).cloned()
    }

    /// Returns the content that was read of a file starting in this version.
    pub(crate) fn of_version(&self, version: Version) -> Option<Arc<Captured>> {
        let state = self.state.lock();
        state.by_root.get(state.by_version.get(&version)?).cloned()
    }

    /// Returns what was last read of the file at `path`.
    pub(crate) fn last_at(&self, path: &RelPath) -> Option<Arc<Captured>> {
        let state = self.state.lock();
        state.by_root.get(state.last.get(path)?).cloned()
    }

    /// Returns the part of the tree of `root` with `span` blocks from block `first` on.
    pub(crate) fn subtree(&self, root: Root, first: u64, span: u64) -> Option<Subtree> {
        let captured = self.of_root(root)?;
        let subtree = captured.tree.subtree(first / SUBTREE_BLOCKS);
        subtree?.narrow(first, span)
    }

    /// Stores a content, unless it alone is too large.
    pub(crate) fn put(&self, captured: Arc<Captured>) {
        let (root, leaves) = (captured.tree.root(), captured.tree.leaves().len() as u64);
        if leaves > MAX_LEAVES {
            return;
        }
        let mut state = self.state.lock();
        state.remove(root);
        state.by_version.insert(captured.version, root);
        state.last.insert(captured.place.path.clone(), root);
        state.by_root.insert(root, captured);
        state.order.push_back(root);
        state.leaves += leaves;
        while (state.leaves > MAX_LEAVES || state.order.len() > MAX_CAPTURES)
            && let Some(oldest) = state.order.front().copied()
        {
            state.remove(oldest);
        }
    }
}

impl State {
    fn remove(&mut self, root: Root) {
        let Some(captured) = self.by_root.remove(&root) else {
            return;
        };
        self.leaves -= captured.tree.leaves().len() as u64;
        self.order.retain(|other| *other != root);
        self.by_version.retain(|_, other| *other != root);
        self.last.retain(|_, other| *other != root);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::content::merkle::leaf;

    fn captured(number: u64, blocks: u64, now: Instant) -> Arc<Captured> {
        let leaves = (0..blocks).map(|block| leaf(&[number, block].map(u64::to_le_bytes).concat()));
        let place = FileLocation {
            path: RelPath::new(b"log").unwrap(),
            inode: 7,
            size: blocks * BLOCK,
        };
        let tree = HashTree::new(leaves.collect()).unwrap();
        Arc::new(Captured::new(tree, place, Version(number), now, now))
    }

    #[test]
    fn capture_is_found_by_root_or_version() {
        let (captures, now) = (Captures::default(), Instant::now());
        let (first, second) = (captured(1, 600, now), captured(2, 601, now));
        captures.put(Arc::clone(&first));
        captures.put(Arc::clone(&second));
        let root = first.tree.root();
        assert_eq!(captures.of_root(root).unwrap().content(), first.content());
        assert_eq!(captures.of_version(Version(2)).unwrap().version, Version(2));
        let last = captures.last_at(&first.place.path).unwrap();
        assert_eq!(last.content(), second.content());
        let subtree = captures.subtree(root, 512, 8).unwrap();
        assert!(subtree.prove(first.content()).is_some());
        assert!(captures.subtree(root, 1024, 8).is_none());
    }

    #[test]
    fn evicted_captures_leave_nothing_behind() {
        let (captures, now) = (Captures::default(), Instant::now());
        for number in 0..MAX_CAPTURES as u64 + 10 {
            captures.put(captured(number, 1 + number % 3, now));
        }
        let state = captures.state.lock();
        assert_eq!(state.by_root.len(), MAX_CAPTURES);
        assert_eq!(state.by_version.len(), MAX_CAPTURES);
        let leaves = state.by_root.values().map(|one| one.tree.leaves().len());
        assert_eq!(state.leaves, leaves.sum::<usize>() as u64);
        assert!(!state.by_version.contains_key(&Version(9)));
        assert!(state.by_version.contains_key(&Version(10)));
    }

    #[test]
    fn reread_pause_is_a_multiple_of_read_time() {
        let now = Instant::now();
        let quick = captured(1, 1, now);
        assert_eq!(quick.again_at(), now + SHORTEST_PAUSE);
        let slow = Captured {
            took: Duration::from_secs(1),
            ..Arc::into_inner(captured(2, 1, now)).unwrap()
        };
        assert_eq!(slow.again_at(), now + Duration::from_secs(3));
    }
}
