//! The content roots of shared files, and their leaves, remembered across restarts.
//!
//! A root belongs to a [`Version`], which is made of device, inode, size, mtime and ctime: a file that
//! changes in any of these is another version and has no root until it is read again. Everything
//! here can be computed anew, so a damaged database is put aside and begun afresh.
//!
//! Tables: version -> root; (root, number of subtree) -> its leaves and uncles; root -> the path of one
//! file that had this content when it was last looked at. The last one is a hint: whoever follows it
//! checks what lies there now.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use data_encoding::HEXLOWER;
use parking_lot::Mutex;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::generations::Generations;
use crate::merkle::{BLOCK, Hash, SUBTREE_BLOCKS, Subtree, Tree};
use crate::types::{RelPath, Root, Version};

const ROOTS: TableDefinition<u64, [u8; 32]> = TableDefinition::new("roots");
const SUBTREES: TableDefinition<([u8; 32], u64), &[u8]> = TableDefinition::new("subtrees");
const PATHS: TableDefinition<[u8; 32], &[u8]> = TableDefinition::new("paths");

/// Memory for the pages of the database.
const PAGE_CACHE: usize = 8 << 20;

/// Roots that are remembered beside the database, at about 50 bytes each: a look into it takes up to two
/// microseconds, which whoever lists a directory of 100,000 files would wait for.
const MAX_RECENT: usize = 1 << 18;

/// A database that has grown beyond this is begun afresh: it is mostly about files that have gone.
/// A terabyte of content takes 2 GiB of leaves.
const MAX_FILE: u64 = 8 << 30;

/// Without a file, the leaves and paths of this much content are kept: 16 MiB of memory.
const MAX_IN_MEMORY: u64 = 8 << 30;

/// So much content has a leaf of one byte, as it were: what a byte of a path counts for.
const CONTENT_PER_BYTE: u64 = BLOCK / 32;

/// What is known about contents.
pub struct Roots {
    database: Database,
    /// Roots that were looked up lately. They cannot become wrong, as a version is one state of one file.
    recent: Mutex<Generations<Version, Root>>,
    /// How much more content fits, where all of it is kept in memory.
    room: Option<AtomicU64>,
}

impl std::fmt::Debug for Roots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Roots")
    }
}

impl Roots {
    /// Where the roots of the share at `place`, a canonical path, are remembered: a file for each, so
    /// that two nodes of one user need not share one.
    pub fn file(place: &Path, state_dir: &Path) -> PathBuf {
        let digest = Sha256::digest(place.as_os_str().as_encoded_bytes());
        state_dir.join("roots").join(HEXLOWER.encode(&digest[..16]))
    }

    /// Opens or creates the database at `path`. When another process has it, or it cannot be
    /// written, what is learned is kept in memory and lost at the end.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let (database, room) = match Self::open_file(path) {
            Ok(database) => (Ok(database), None),
            Err(error) => {
                tracing::info!(%error, "content roots are not remembered across restarts");
                let memory = redb::backends::InMemoryBackend::new();
                let room = Some(AtomicU64::new(MAX_IN_MEMORY));
                (Self::builder().create_with_backend(memory), room)
            }
        };
        let database = database.map_err(|error| broken(&error))?;
        let roots = Self {
            database,
            recent: Mutex::new(Generations::new(MAX_RECENT)),
            room,
        };
        roots.create_tables().map_err(|error| broken(&error))?;
        Ok(roots)
    }

    fn builder() -> redb::Builder {
        let mut builder = Database::builder();
        builder.set_cache_size(PAGE_CACHE);
        builder
    }

    fn open_file(path: &Path) -> Result<Database, redb::DatabaseError> {
        if let Some(directory) = path.parent() {
            let mut builder = fs::DirBuilder::new();
            builder
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(redb::StorageError::from)?;
        }
        if fs::metadata(path).is_ok_and(|found| found.len() > MAX_FILE) {
            fs::remove_file(path).map_err(redb::StorageError::from)?;
        }
        let database = match Self::builder().create(path) {
            Err(error) if is_damage(&error) => {
                tracing::warn!(%error, "the database of content roots is damaged; it is begun afresh");
                fs::remove_file(path).map_err(redb::StorageError::from)?;
                Self::builder().create(path)?
            }
            // Somebody else may be using it, or the disk have a bad day: it may be in the best of health.
            other => other?,
        };
        let private = fs::Permissions::from_mode(0o600);
        fs::set_permissions(path, private).map_err(redb::StorageError::from)?;
        Ok(database)
    }

    fn create_tables(&self) -> Result<(), redb::Error> {
        let write = self.database.begin_write()?;
        write.open_table(ROOTS)?;
        write.open_table(SUBTREES)?;
        write.open_table(PATHS)?;
        write.commit()?;
        Ok(())
    }

    /// The roots of `versions`, as far as they are known: one for each, in their order.
    pub fn of(&self, versions: impl ExactSizeIterator<Item = Version>) -> Vec<Option<Root>> {
        let versions = versions.collect::<Vec<_>>();
        let mut roots: Vec<Option<Root>> = {
            let mut recent = self.recent.lock();
            let known = versions.iter().map(|version| recent.keep(*version));
            known.collect()
        };
        let is_missing = |index: &usize| roots[*index].is_none();
        let missing: Vec<usize> = (0..versions.len()).filter(is_missing).collect();
        if missing.is_empty() {
            return roots;
        }
        let look_up = || -> Result<Vec<(usize, Root)>, redb::Error> {
            let table = self.database.begin_read()?.open_table(ROOTS)?;
            let mut found = Vec::new();
            for index in missing {
                if let Some(root) = table.get(versions[index].0)? {
                    found.push((index, Root::from_bytes(root.value())));
                }
            }
            Ok(found)
        };
        match look_up() {
            Ok(found) => {
                let mut recent = self.recent.lock();
                for (index, root) in found {
                    recent.insert(versions[index], root);
                    roots[index] = Some(root);
                }
            }
            Err(error) => tracing::warn!(%error, "content roots cannot be looked up"),
        }
        roots
    }

    /// True when the root of `version` is known, and a path for that root; also when neither can be
    /// looked up, as then nothing can be remembered.
    pub fn is_complete(&self, version: Version) -> bool {
        let look_up = || -> Result<_, redb::Error> {
            let read = self.database.begin_read()?;
            let Some(root) = read.open_table(ROOTS)?.get(version.0)? else {
                return Ok(false);
            };
            Ok(read.open_table(PATHS)?.get(root.value())?.is_some())
        };
        look_up().unwrap_or_else(|error| {
            tracing::warn!(%error, "content roots cannot be looked up");
            true
        })
    }

    /// Where a file lay that had the content of `root`; it may have another one by now.
    pub fn path(&self, root: Root) -> Result<Option<RelPath>, Error> {
        let look_up = || -> Result<_, redb::Error> {
            let table = self.database.begin_read()?.open_table(PATHS)?;
            let row = table.get(*root.as_bytes())?;
            Ok(row.and_then(|path| RelPath::new(path.value()).ok()))
        };
        look_up().map_err(|error| broken(&error))
    }

    /// Remembers paths for those contents that have none yet; as [`Roots::insert`] does. Returns how
    /// many there were.
    pub fn add_paths<'a>(
        &self,
        found: impl Iterator<Item = (Root, &'a RelPath)>,
    ) -> Result<usize, Error> {
        let add = || -> Result<_, redb::Error> {
            let known = self.database.begin_read()?.open_table(PATHS)?;
            let mut lacking = Vec::new();
            for (root, path) in found {
                if known.get(*root.as_bytes())?.is_none() && self.take_room(path_room(path)) {
                    lacking.push((*root.as_bytes(), path.as_bytes()));
                }
            }
            if lacking.is_empty() {
                return Ok(0);
            }
            let mut write = self.database.begin_write()?;
            write.set_durability(Durability::None)?;
            {
                let mut paths = write.open_table(PATHS)?;
                for (root, path) in &lacking {
                    paths.insert(root, path)?;
                }
            }
            write.commit()?;
            Ok(lacking.len())
        };
        add().map_err(|error| broken(&error))
    }

    /// Forgets that the content of `root` lay at `path`, so that another copy can take its place.
    pub fn forget_path(&self, root: Root, path: &RelPath) -> Result<(), Error> {
        let forget = || -> Result<(), redb::Error> {
            let mut write = self.database.begin_write()?;
            write.set_durability(Durability::None)?;
            {
                let mut paths = write.open_table(PATHS)?;
                let row = paths.get(*root.as_bytes())?;
                let is_same = row.is_some_and(|row| row.value() == path.as_bytes());
                if is_same {
                    paths.remove(*root.as_bytes())?;
                }
            }
            write.commit()?;
            Ok(())
        };
        forget().map_err(|error| broken(&error))
    }

    /// The subtree of `root` that begins at block `first`; `None` if it is not known.
    pub fn subtree(&self, root: Root, first: u64) -> Result<Option<Subtree>, Error> {
        let look_up = || -> Result<Option<Subtree>, redb::Error> {
            let table = self.database.begin_read()?.open_table(SUBTREES)?;
            let row = table.get((*root.as_bytes(), first / SUBTREE_BLOCKS))?;
            Ok(row.and_then(|row| decode(row.value(), first / SUBTREE_BLOCKS)))
        };
        look_up().map_err(|error| broken(&error))
    }

    /// Remembers that `version`, which lies at `path`, has the content of `tree`; for good only with the
    /// next [`Roots::flush`], as a wait for the disk after each small file would take longer than its
    /// hash.
    pub fn insert(&self, version: Version, path: &RelPath, tree: &Tree) -> Result<(), Error> {
        let content = tree.leaves().len() as u64 * BLOCK;
        if !self.take_room(content + path_room(path)) {
            return Ok(());
        }
        let insert = || -> Result<(), redb::Error> {
            let root = *tree.root().as_bytes();
            let mut write = self.database.begin_write()?;
            write.set_durability(Durability::None)?;
            {
                let mut subtrees = write.open_table(SUBTREES)?;
                let all = (0..).map_while(|index| Some((index, tree.subtree(index)?)));
                for (index, subtree) in all {
                    subtrees.insert((root, index), &*encode(&subtree))?;
                }
                write.open_table(ROOTS)?.insert(version.0, root)?;
                write.open_table(PATHS)?.insert(root, path.as_bytes())?;
            }
            write.commit()?;
            Ok(())
        };
        insert().map_err(|error| broken(&error))
    }

    /// True if so much more content may be remembered.
    fn take_room(&self, content: u64) -> bool {
        let less = |room: u64| room.checked_sub(content);
        self.room.as_ref().is_none_or(|room| {
            room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
                .is_ok()
        })
    }

    /// Waits until everything that was inserted would survive a crash.
    pub fn flush(&self) -> Result<(), Error> {
        let flush = || -> Result<(), redb::Error> {
            let mut write = self.database.begin_write()?;
            write.set_durability(Durability::Immediate)?;
            write.commit()?;
            Ok(())
        };
        flush().map_err(|error| broken(&error))
    }
}

/// How much content takes as much memory as `path`.
fn path_room(path: &RelPath) -> u64 {
    path.as_bytes().len() as u64 * CONTENT_PER_BYTE
}

/// True when the file is not a database of ours that can be read.
fn is_damage(error: &redb::DatabaseError) -> bool {
    use redb::{DatabaseError, StorageError};
    match error {
        DatabaseError::Storage(StorageError::Corrupted(_)) => true,
        DatabaseError::Storage(StorageError::Io(error)) => {
            error.kind() == io::ErrorKind::InvalidData
        }
        DatabaseError::UpgradeRequired(_) | DatabaseError::RepairAborted => true,
        _ => false,
    }
}

fn broken(error: &dyn std::error::Error) -> Error {
    Error::Local {
        what: "the database of content roots".into(),
        why: error.to_string(),
    }
}

/// The number of leaves, then leaves and uncles.
fn encode(subtree: &Subtree) -> Vec<u8> {
    let count = subtree.leaves.len() as u32;
    let mut row = count.to_le_bytes().to_vec();
    for hash in subtree.leaves.iter().chain(&subtree.uncles) {
        row.extend_from_slice(hash);
    }
    row
}

fn decode(row: &[u8], index: u64) -> Option<Subtree> {
    let (count, hashes) = row.split_first_chunk::<4>()?;
    let (hashes, rest) = hashes.as_chunks::<32>();
    let count = u32::from_le_bytes(*count) as usize;
    if !rest.is_empty() || count > hashes.len() {
        return None;
    }
    let (leaves, uncles): (&[Hash], &[Hash]) = hashes.split_at(count);
    Some(Subtree {
        first: index * SUBTREE_BLOCKS,
        span: SUBTREE_BLOCKS,
        leaves: leaves.to_vec(),
        uncles: uncles.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::leaf;

    fn tree(blocks: u64) -> Tree {
        Tree::new(
            (0..blocks)
                .map(|block| leaf(&block.to_le_bytes()))
                .collect(),
        )
        .unwrap()
    }

    fn path_of(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn roots_and_leaves_survive_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/roots.redb");
        let tree = tree(1300);
        let roots = Roots::open(&path).unwrap();
        roots.insert(Version(7), &path_of("a/b"), &tree).unwrap();
        roots.flush().unwrap();
        drop(roots);
        let roots = Roots::open(&path).unwrap();
        let known = roots.of([Version(8), Version(7)].into_iter());
        assert_eq!(known, [None, Some(tree.root())]);
        assert_eq!(roots.path(tree.root()).unwrap(), Some(path_of("a/b")));
        for index in 0..3 {
            let kept = roots.subtree(tree.root(), index * SUBTREE_BLOCKS).unwrap();
            assert_eq!(kept, tree.subtree(index));
        }
        assert_eq!(
            roots.subtree(tree.root(), 3 * SUBTREE_BLOCKS).unwrap(),
            None
        );
    }

    #[test]
    fn a_damaged_database_is_begun_afresh() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("roots.redb");
        fs::write(&path, vec![0x5a; 100_000]).unwrap();
        let roots = Roots::open(&path).unwrap();
        roots.insert(Version(1), &path_of("a"), &tree(2)).unwrap();
        roots.flush().unwrap();
        drop(roots);
        assert_eq!(
            Roots::open(&path).unwrap().of([Version(1)].into_iter()),
            [Some(tree(2).root())]
        );
    }

    #[test]
    fn a_database_in_use_is_left_alone_and_done_without() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("roots.redb");
        let first = Roots::open(&path).unwrap();
        first.insert(Version(1), &path_of("a"), &tree(1)).unwrap();
        let second = Roots::open(&path).unwrap();
        second.insert(Version(2), &path_of("b"), &tree(2)).unwrap();
        assert_eq!(
            first.of([Version(1), Version(2)].into_iter()),
            [Some(tree(1).root()), None]
        );
    }

    #[test]
    fn the_path_that_was_hashed_last_counts_until_it_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let roots = Roots::open(&directory.path().join("roots.redb")).unwrap();
        let (tree, root) = (tree(1), tree(1).root());
        let (a, b, c) = (path_of("a"), path_of("b"), path_of("c"));
        roots.insert(Version(1), &a, &tree).unwrap();
        roots.insert(Version(2), &b, &tree).unwrap();
        assert_eq!(roots.path(root).unwrap().as_ref(), Some(&b));
        assert_eq!(roots.add_paths([(root, &a)].into_iter()).unwrap(), 0);
        roots.forget_path(root, &a).unwrap();
        assert_eq!(roots.path(root).unwrap().as_ref(), Some(&b));
        assert!(roots.is_complete(Version(1)) && !roots.is_complete(Version(3)));
        roots.forget_path(root, &b).unwrap();
        assert!(!roots.is_complete(Version(1)));
        assert_eq!(roots.path(root).unwrap(), None);
        assert_eq!(roots.add_paths([(root, &c)].into_iter()).unwrap(), 1);
        assert_eq!(roots.path(root).unwrap(), Some(c));
    }

    /// As every version before it kept one.
    #[test]
    fn a_database_without_paths_keeps_its_roots_and_gets_them_later() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("roots.redb");
        let (tree, file) = (tree(3), path_of("a"));
        let roots = Roots::open(&path).unwrap();
        roots.insert(Version(1), &file, &tree).unwrap();
        let write = roots.database.begin_write().unwrap();
        assert!(write.delete_table(PATHS).unwrap());
        write.commit().unwrap();
        drop(roots);
        let roots = Roots::open(&path).unwrap();
        assert_eq!(roots.of([Version(1)].into_iter()), [Some(tree.root())]);
        assert!(!roots.is_complete(Version(1)));
        assert_eq!(roots.path(tree.root()).unwrap(), None);
        let found = [(tree.root(), &file)];
        assert_eq!(roots.add_paths(found.into_iter()).unwrap(), 1);
        assert!(roots.is_complete(Version(1)));
    }
}
