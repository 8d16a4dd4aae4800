//! Roots that are on their way into the database.
//!
//! A transaction rewrites each page that it touches, and the keys are digests: a thousand roots in
//! one transaction each touch most of a small database, a thousand roots in one transaction do so
//! once. So roots are gathered and written together, in the order of their keys. Until they are
//! written, they are found here, with everything that proves them: what other members were told
//! stays true. A crash loses what is here, and it is computed again.

use std::collections::HashMap;
use std::sync::Arc;

use super::FileLocation;
use crate::content::merkle::HashTree;
use crate::model::{RelPath, Root, Version};

/// A batch of this many bytes of memory is to be written.
const FULL: usize = 8 << 20;

/// If it cannot be written, nothing more is taken beyond this many bytes.
const MAX: usize = 2 * FULL;

/// The bytes of memory of an entry in one of the tables, besides what it points to.
const ENTRY: usize = 96;

/// Roots that are written in one transaction.
#[derive(Default, Debug)]
pub(super) struct RootBatch {
    pub(super) roots: HashMap<Version, Root>,
    pub(super) trees: HashMap<Root, Arc<HashTree>>,
    pub(super) places: HashMap<Root, FileLocation>,
    bytes: usize,
}

impl RootBatch {
    pub(super) fn is_empty(&self) -> bool {
        self.roots.is_empty() && self.places.is_empty()
    }

    fn put_place(&mut self, root: Root, place: FileLocation) {
        self.bytes += ENTRY + place.path.as_bytes().len();
        if let Some(before) = self.places.insert(root, place) {
            self.bytes -= ENTRY + before.path.as_bytes().len();
        }
    }
}

/// All roots that are not in the database yet.
#[derive(Default, Debug)]
pub(super) struct PendingRoots {
    filling: RootBatch,
    /// What is being written, or could not be.
    writing: Option<Arc<RootBatch>>,
}

impl PendingRoots {
    fn batches(&self) -> impl Iterator<Item = &RootBatch> {
        [&self.filling].into_iter().chain(self.writing.as_deref())
    }

    pub(super) fn root(&self, version: Version) -> Option<Root> {
        self.batches()
            .find_map(|batch| batch.roots.get(&version).copied())
    }

    pub(super) fn tree(&self, root: Root) -> Option<Arc<HashTree>> {
        self.batches()
            .find_map(|batch| batch.trees.get(&root).cloned())
    }

    pub(super) fn place(&self, root: Root) -> Option<&FileLocation> {
        self.batches().find_map(|batch| batch.places.get(&root))
    }

    /// Returns true while there is room for more.
    pub(super) fn has_room(&self) -> bool {
        self.filling.bytes < MAX
    }

    /// Returns true if it is time to write.
    pub(super) fn is_full(&self) -> bool {
        self.filling.bytes >= FULL
    }

    /// Adds that `version`, which lies at `place`, has the content of `tree`.
    pub(super) fn insert(&mut self, version: Version, place: FileLocation, tree: &HashTree) {
        let (root, batch) = (tree.root(), &mut self.filling);
        if batch.roots.insert(version, root).is_none() {
            batch.bytes += ENTRY;
        }
        if !batch.trees.contains_key(&root) {
            batch.bytes += ENTRY + 3 * size_of_val(tree.leaves());
            batch.trees.insert(root, Arc::new(tree.clone()));
        }
        batch.put_place(root, place);
    }

    /// Adds where a content lies.
    pub(super) fn put_place(&mut self, root: Root, place: FileLocation) {
        self.filling.put_place(root, place);
    }

    /// Forgets that a content lies at `path`, unless that is being written.
    pub(super) fn forget_place(&mut self, root: Root, path: &RelPath) {
        let places = &mut self.filling.places;
        if places.get(&root).is_some_and(|place| place.path == *path) {
            places.remove(&root);
            self.filling.bytes -= ENTRY + path.as_bytes().len();
        }
    }

    /// Returns what is to be written next: first what could not be written before.
    pub(super) fn begin(&mut self) -> Option<Arc<RootBatch>> {
        if self.writing.is_none() && !self.filling.is_empty() {
            self.writing = Some(Arc::new(std::mem::take(&mut self.filling)));
        }
        self.writing.clone()
    }

    /// Records that `batch` is in the database.
    pub(super) fn end(&mut self, batch: &Arc<RootBatch>) {
        self.writing.take_if(|writing| Arc::ptr_eq(writing, batch));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::content::merkle::leaf;

    fn add(pending: &mut PendingRoots, number: u64) -> Root {
        let tree = HashTree::new(vec![leaf(&number.to_le_bytes())]).unwrap();
        let place = FileLocation {
            path: RelPath::new(number.to_string().as_bytes()).unwrap(),
            inode: number,
            size: 8,
        };
        pending.insert(Version(number), place, &tree);
        tree.root()
    }

    #[test]
    fn batch_is_found_until_it_is_written() {
        let mut pending = PendingRoots::default();
        let first = add(&mut pending, 1);
        let batch = pending.begin().unwrap();
        let second = add(&mut pending, 2);
        for (number, root) in [(1, first), (2, second)] {
            assert_eq!(pending.root(Version(number)), Some(root));
            assert!(pending.tree(root).is_some() && pending.place(root).is_some());
        }
        // It is tried again until it succeeds.
        assert!(Arc::ptr_eq(&pending.begin().unwrap(), &batch));
        pending.end(&batch);
        assert_eq!(pending.root(Version(1)), None);
        let next = pending.begin().unwrap();
        assert!(next.roots.contains_key(&Version(2)));
        pending.end(&next);
        assert!(pending.begin().is_none());
    }

    #[test]
    fn unwritable_roots_take_bounded_memory() {
        let mut pending = PendingRoots::default();
        add(&mut pending, 0);
        pending.begin().unwrap();
        let taken = (1..1_000_000).take_while(|number| {
            let has_room = pending.has_room();
            add(&mut pending, *number);
            has_room
        });
        assert!(taken.count() < MAX / ENTRY);
        assert!(pending.is_full());
    }
}
