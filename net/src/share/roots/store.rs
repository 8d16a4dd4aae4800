//! The content roots of shared files, and their leaves, remembered across restarts.
//!
//! A root belongs to a [`Version`], which is made of device, inode, size, mtime and ctime. A file
//! that changes in any of these is another version and has no root until it is read again.
//! Everything here can be recomputed, so a damaged database is removed and recreated
//! ([`database`]), and a damaged row counts as missing ([`rows`]): no damage yields a root that
//! does not belong to that file.
//!
//! Tables: version -> root; (root, number of subtree) -> its leaves and uncles; root -> the place
//! of one file that had this content when it was last checked. The last one is a hint: whoever uses
//! it checks what lies there now.

mod database;
mod pending;
mod rows;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use data_encoding::HEXLOWER;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::concurrency::two_generation_cache::TwoGenerationCache;
use crate::content::merkle::{BLOCK, HashTree, SUBTREE_BLOCKS, Subtree};
use crate::error::Error;
use crate::model::{RelPath, Root, Version};
use database::Rebuildable;
use pending::PendingRoots;

/// Limit on the roots cached in front of the database, at about 50 bytes each. A database lookup
/// takes up to two microseconds, which would delay the listing of a directory of 100,000 files.
const MAX_RECENT: usize = 1 << 18;

/// Without a database file, the leaves and places of this much content are kept: 16 MiB of memory.
const MAX_IN_MEMORY: u64 = 8 << 30;

/// The content that one byte of leaves stands for. A byte of a path counts as this much content.
const CONTENT_PER_BYTE: u64 = BLOCK / 32;

/// Where a file lies that had some content when it was last checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileLocation {
    /// Its path at that time.
    pub path: RelPath,
    /// Its inode number, by which it can be found if it has been renamed; 0 if unknown.
    pub inode: u64,
    /// Bytes of the content.
    pub size: u64,
}

/// What is not known of a version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MissingOf {
    /// Nothing: its root is known, and where that content lies.
    Nothing,
    /// Where its content lies, which has this root.
    Place(Root),
    /// Its root.
    Root,
}

/// What is known about contents.
pub struct Roots {
    database: Rebuildable,
    recent: Mutex<RecentRoots>,
    pending: Mutex<PendingRoots>,
    /// How much more content fits, if all of it is kept in memory.
    room: Option<AtomicU64>,
}

/// Roots that were looked up lately. They cannot become wrong, because a version is one state
/// of one file. But they are dropped with the database: a node that has a root must be able
/// to prove it.
struct RecentRoots {
    roots: TwoGenerationCache<Version, Root>,
    /// The incarnation of the database in which they were found.
    incarnation: u64,
}

impl RecentRoots {
    /// Returns those found in the database numbered `incarnation`.
    fn of(&mut self, incarnation: u64) -> &mut TwoGenerationCache<Version, Root> {
        if self.incarnation != incarnation {
            *self = Self::new(incarnation);
        }
        &mut self.roots
    }

    fn new(incarnation: u64) -> Self {
        Self {
            roots: TwoGenerationCache::new(MAX_RECENT),
            incarnation,
        }
    }
}

impl std::fmt::Debug for Roots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Roots")
    }
}

impl Roots {
    /// Returns where the roots of the share at `place`, a canonical path, are stored: each share
    /// has its own file, so that two nodes of one user need not share one.
    pub fn file(place: &Path, state_dir: &Path) -> PathBuf {
        let digest = Sha256::digest(place.as_os_str().as_encoded_bytes());
        state_dir.join("roots").join(HEXLOWER.encode(&digest[..16]))
    }

    /// Opens or creates the database at `path`. If another process has it open, or it cannot be
    /// written, results are kept in memory and lost at exit.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let (database, room) = match Rebuildable::open(path) {
            Ok(database) => (Ok(database), None),
            Err(error) => {
                tracing::info!(%error, "content roots are not remembered across restarts");
                let room = Some(AtomicU64::new(MAX_IN_MEMORY));
                (Rebuildable::in_memory(), room)
            }
        };
        Ok(Self {
            database: database.map_err(|error| broken(&error))?,
            recent: Mutex::new(RecentRoots::new(0)),
            pending: Mutex::default(),
            room,
        })
    }

    /// Returns the known roots of `versions`, one entry for each, in their order.
    pub fn of(&self, versions: impl ExactSizeIterator<Item = Version>) -> Vec<Option<Root>> {
        let versions = versions.collect::<Vec<_>>();
        let incarnation = self.database.incarnation();
        let mut roots = self.pending_roots(&versions);
        {
            let mut recent = self.recent.lock();
            let recent = recent.of(incarnation);
            for (root, version) in roots.iter_mut().zip(&versions) {
                *root = root.or_else(|| recent.keep(*version));
            }
        }
        let is_missing = |index: &usize| roots[*index].is_none();
        let missing: Vec<usize> = (0..versions.len()).filter(is_missing).collect();
        if missing.is_empty() {
            return roots;
        }
        let asked = missing.iter().map(|index| versions[*index]);
        match self.database.read(|read| rows::roots(read, asked)) {
            Ok(found) => {
                let mut recent = self.recent.lock();
                let recent = recent.of(incarnation);
                for (index, root) in missing.into_iter().zip(found) {
                    if let Some(root) = root {
                        recent.insert(versions[index], root);
                        roots[index] = Some(root);
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "content roots cannot be looked up"),
        }
        roots
    }

    fn pending_roots(&self, versions: &[Version]) -> Vec<Option<Root>> {
        let pending = self.pending.lock();
        let known = versions.iter().map(|version| pending.root(*version));
        known.collect()
    }

    /// Returns what is missing of each of `versions`, in their order. Meant for many at once: they
    /// are looked up in the order of the database, so that each of its pages is read once, and
    /// displace nothing that others have looked up lately.
    pub(crate) fn missing(&self, versions: &[Version]) -> Result<Vec<MissingOf>, Error> {
        let mut roots = self.pending_roots(versions);
        let mut order: Vec<usize> = (0..versions.len()).collect();
        order.sort_unstable_by_key(|index| versions[*index]);
        order.retain(|index| roots[*index].is_none());
        let sorted = order.iter().map(|index| versions[*index]);
        let look_up = self.database.read(|read| {
            for (index, root) in order.iter().zip(rows::roots(read, sorted)?) {
                roots[*index] = root;
            }
            let mut wanted: Vec<Root> = roots.iter().flatten().copied().collect();
            wanted.sort_unstable();
            wanted.dedup();
            rows::without_place(read, &wanted)
        });
        let mut without = look_up.map_err(|error| broken(&error))?;
        let pending = self.pending.lock();
        without.retain(|root| pending.place(*root).is_none());
        let missing = roots.into_iter().map(|root| match root {
            None => MissingOf::Root,
            Some(root) if without.binary_search(&root).is_ok() => MissingOf::Place(root),
            Some(_) => MissingOf::Nothing,
        });
        Ok(missing.collect())
    }

    /// Returns true if the root of `version` is known, and a place for that root. Also returns true
    /// if neither can be looked up, because nothing can be remembered then.
    pub fn is_complete(&self, version: Version) -> bool {
        let missing = self.missing(&[version]);
        missing.map_or_else(
            |error| {
                tracing::warn!(%error, "content roots cannot be looked up");
                true
            },
            |missing| missing == [MissingOf::Nothing],
        )
    }

    /// Returns where a file lay that had the content of `root`; it may have another one by now.
    pub fn place(&self, root: Root) -> Result<Option<FileLocation>, Error> {
        if let Some(place) = self.pending.lock().place(root) {
            return Ok(Some(place.clone()));
        }
        let place = self.database.read(|read| rows::place(read, root));
        place.map_err(|error| broken(&error))
    }

    /// Stores a place for a content if it has none yet, like [`Roots::insert`]. Returns false if
    /// it has one, or if there is no room.
    pub fn add_place(&self, root: Root, place: FileLocation) -> Result<bool, Error> {
        if self.place(root)?.is_some() || !self.take_room(path_room(&place.path)) {
            return Ok(false);
        }
        let mut pending = self.pending.lock();
        let has_room = pending.has_room();
        if has_room {
            pending.put_place(root, place);
        }
        Ok(has_room)
    }

    /// Forgets that the content of `root` lay at `path`, so that another copy can take its place.
    pub fn forget_place(&self, root: Root, path: &RelPath) -> Result<(), Error> {
        self.pending.lock().forget_place(root, path);
        let forget = |write: &_| rows::remove_place(write, root, path);
        self.database.write(forget).map_err(|error| broken(&error))
    }

    /// Returns the part of the tree of `root` with `span` blocks from block `first` on, verified
    /// against that root, which costs up to 512 hashes; `None` if it is not known.
    pub fn subtree(&self, root: Root, first: u64, span: u64) -> Result<Option<Subtree>, Error> {
        let pending = self.pending.lock().tree(root);
        if let Some(tree) = pending {
            let subtree = tree.subtree(first / SUBTREE_BLOCKS);
            return Ok(subtree.and_then(|subtree| subtree.narrow(first, span)));
        }
        let look_up = |read: &_| rows::subtree(read, root, first, span);
        self.database.read(look_up).map_err(|error| broken(&error))
    }

    /// Stores that `version`, which lies at `place`, has the content of `tree`. It is known at
    /// once, and in the database with the next [`Roots::flush`]. Returns false if there is no room
    /// for it.
    pub fn insert(&self, version: Version, place: FileLocation, tree: &HashTree) -> bool {
        let content = tree.leaves().len() as u64 * BLOCK;
        let mut pending = self.pending.lock();
        if !pending.has_room() || !self.take_room(content + path_room(&place.path)) {
            return false;
        }
        pending.insert(version, place, tree);
        true
    }

    /// Returns true once so much waits for a [`Roots::flush`] that more would take too much memory.
    pub fn is_flush_due(&self) -> bool {
        self.pending.lock().is_full()
    }

    /// Takes room for this much more content. Returns false if there is none.
    fn take_room(&self, content: u64) -> bool {
        let less = |room: u64| room.checked_sub(content);
        self.room.as_ref().is_none_or(|room| {
            room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
                .is_ok()
        })
    }

    /// Writes everything that was inserted, and waits until it would survive a crash.
    ///
    /// # Errors
    /// The database cannot be written. What was inserted is kept for the next time.
    pub fn flush(&self) -> Result<(), Error> {
        let next = || self.pending.lock().begin();
        while let Some(batch) = next() {
            let put = self.database.write(|write| rows::put_batch(write, &batch));
            put.map_err(|error| broken(&error))?;
            self.pending.lock().end(&batch);
        }
        Ok(())
    }
}

/// Returns how much content takes as much memory as `path`.
fn path_room(path: &RelPath) -> u64 {
    path.as_bytes().len() as u64 * CONTENT_PER_BYTE
}

fn broken(error: &dyn std::error::Error) -> Error {
    Error::Local {
        what: "the database of content roots".into(),
        why: error.to_string(),
    }
}
