//! The content roots of shared files, and their leaves, remembered across restarts.
//!
//! A root belongs to a [`Version`], which is made of device, inode, size, mtime and ctime: a file that
//! changes in any of these is another version and has no root until it is read again. Everything
//! here can be computed anew, so a damaged database is put aside and begun afresh.
//!
//! Tables: version -> root; (root, number of subtree) -> its leaves and uncles.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use redb::{Database, ReadableDatabase, TableDefinition};
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::merkle::{Hash, SUBTREE_BLOCKS, Subtree, Tree};
use crate::types::{Root, Version};

const ROOTS: TableDefinition<u64, [u8; 32]> = TableDefinition::new("roots");
const SUBTREES: TableDefinition<([u8; 32], u64), &[u8]> = TableDefinition::new("subtrees");

/// Memory for the pages of the database.
const PAGE_CACHE: usize = 8 << 20;

/// A database that has grown beyond this is begun afresh: it is mostly about files that have gone.
/// A terabyte of content takes 2 GiB of leaves.
const MAX_FILE: u64 = 8 << 30;

/// What is known about contents.
pub struct Roots {
    database: Database,
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
        let database = Self::open_file(path).or_else(|error| {
            tracing::info!(%error, "content roots are not remembered across restarts");
            Self::builder().create_with_backend(redb::backends::InMemoryBackend::new())
        });
        let database = database.map_err(|error| broken(&error))?;
        let roots = Self { database };
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
            // Somebody else is using it, and it may be in the best of health.
            Err(redb::DatabaseError::DatabaseAlreadyOpen) => {
                return Err(redb::DatabaseError::DatabaseAlreadyOpen);
            }
            Err(error) => {
                tracing::warn!(%error, "the database of content roots is damaged; it is begun afresh");
                fs::remove_file(path).map_err(redb::StorageError::from)?;
                Self::builder().create(path)?
            }
            Ok(database) => database,
        };
        let private = fs::Permissions::from_mode(0o600);
        fs::set_permissions(path, private).map_err(redb::StorageError::from)?;
        Ok(database)
    }

    fn create_tables(&self) -> Result<(), redb::Error> {
        let write = self.database.begin_write()?;
        write.open_table(ROOTS)?;
        write.open_table(SUBTREES)?;
        write.commit()?;
        Ok(())
    }

    /// The roots of `versions`, as far as they are known, in their order.
    pub fn of(&self, versions: impl Iterator<Item = Version>) -> Vec<Option<Root>> {
        let look_up = |versions: &mut dyn Iterator<Item = Version>| -> Result<_, redb::Error> {
            let table = self.database.begin_read()?.open_table(ROOTS)?;
            let root = |version: Version| -> Result<_, redb::Error> {
                Ok(table
                    .get(version.0)?
                    .map(|root| Root::from_bytes(root.value())))
            };
            versions.map(root).collect()
        };
        let mut versions = versions;
        look_up(&mut versions).unwrap_or_else(|error| {
            tracing::warn!(%error, "content roots cannot be looked up");
            Vec::new()
        })
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

    /// Remembers that `version` has the content of `tree`.
    pub fn insert(&self, version: Version, tree: &Tree) -> Result<(), Error> {
        let insert = || -> Result<(), redb::Error> {
            let root = *tree.root().as_bytes();
            let write = self.database.begin_write()?;
            {
                let mut subtrees = write.open_table(SUBTREES)?;
                let all = (0..).map_while(|index| Some((index, tree.subtree(index)?)));
                for (index, subtree) in all {
                    subtrees.insert((root, index), &*encode(&subtree))?;
                }
                write.open_table(ROOTS)?.insert(version.0, root)?;
            }
            write.commit()?;
            Ok(())
        };
        insert().map_err(|error| broken(&error))
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

    #[test]
    fn roots_and_leaves_survive_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/roots.redb");
        let tree = tree(1300);
        Roots::open(&path)
            .unwrap()
            .insert(Version(7), &tree)
            .unwrap();
        let roots = Roots::open(&path).unwrap();
        let known = roots.of([Version(8), Version(7)].into_iter());
        assert_eq!(known, [None, Some(tree.root())]);
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
        roots.insert(Version(1), &tree(2)).unwrap();
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
        first.insert(Version(1), &tree(1)).unwrap();
        let second = Roots::open(&path).unwrap();
        second.insert(Version(2), &tree(2)).unwrap();
        assert_eq!(
            first.of([Version(1), Version(2)].into_iter()),
            [Some(tree(1).root()), None]
        );
    }
}
