//! The rows of the database, each of which proves on its own that it is what it is read as.
//!
//! A file on a disk may be damaged: bits flip, pages are torn, lost or written to the wrong
//! place. A wrong root would cause an honest member to be blamed for wrong bytes, so finding a
//! row under some key is never enough. The root of a version carries a digest over both. If that
//! does not match, the root is unknown and is recomputed. A subtree is verified against the
//! requested root, as one from a stranger would be. A mismatch is an error that discards the
//! whole database, because nothing else would cause its leaves to be recomputed. A place is a
//! hint, which its user checks.

use redb::{Error, ReadTransaction, ReadableTable, TableDefinition, TableHandle, WriteTransaction};
use sha2::{Digest, Sha256};

use super::FileLocation;
use super::pending::RootBatch;
use crate::content::merkle::{BLOCK, Hash, SUBTREE_BLOCKS, Subtree};
use crate::model::{ContentId, RelPath, Root, Version};

const ROOTS: TableDefinition<u64, [u8; 48]> = TableDefinition::new("roots of states");
const SUBTREES: TableDefinition<([u8; 32], u64), &[u8]> = TableDefinition::new("sized subtrees");
const PLACES: TableDefinition<[u8; 32], &[u8]> = TableDefinition::new("places");

/// Prefix of the digest of a root's row, so that it cannot be a digest of anything else.
const DOMAIN: &[u8] = b"tinyp2p root of a version\0";

/// Returns true for the name of a table that this version has. A database with any other table is
/// of another version, whose rows prove nothing.
pub(super) fn is_table(name: &str) -> bool {
    [ROOTS.name(), SUBTREES.name(), PLACES.name()].contains(&name)
}

/// Ensures that the tables exist with the right types.
pub(super) fn create_tables(write: &WriteTransaction) -> Result<(), Error> {
    write.open_table(ROOTS)?;
    write.open_table(SUBTREES)?;
    write.open_table(PLACES)?;
    Ok(())
}

/// Returns the root of each of `versions`, as far as it is known.
pub(super) fn roots(
    read: &ReadTransaction,
    versions: impl Iterator<Item = Version>,
) -> Result<Vec<Option<Root>>, Error> {
    let table = read.open_table(ROOTS)?;
    let look_up = |version: Version| {
        let row = table.get(version.0)?;
        Ok(row.and_then(|row| open_root(version, &row.value())))
    };
    versions.map(look_up).collect()
}

/// Returns where a file lay that had the content of `root`.
pub(super) fn place(read: &ReadTransaction, root: Root) -> Result<Option<FileLocation>, Error> {
    let row = read.open_table(PLACES)?.get(*root.as_bytes())?;
    Ok(row.and_then(|row| decode_place(row.value())))
}

/// Returns those of `roots` that have no place, in their order.
pub(super) fn without_place(read: &ReadTransaction, roots: &[Root]) -> Result<Vec<Root>, Error> {
    let table = read.open_table(PLACES)?;
    let mut lacking = Vec::new();
    for root in roots {
        if table.get(*root.as_bytes())?.is_none() {
            lacking.push(*root);
        }
    }
    Ok(lacking)
}

/// Forgets the place of `root` if it is at `path`.
pub(super) fn remove_place(
    write: &WriteTransaction,
    root: Root,
    path: &RelPath,
) -> Result<(), Error> {
    let mut table = write.open_table(PLACES)?;
    let row = table.get(*root.as_bytes())?;
    let place = row.and_then(|row| decode_place(row.value()));
    if place.is_some_and(|place| place.path == *path) {
        table.remove(*root.as_bytes())?;
    }
    Ok(())
}

/// Encodes the size, the inode, then the path.
fn encode_place(place: &FileLocation) -> Vec<u8> {
    let mut row = place.size.to_le_bytes().to_vec();
    row.extend_from_slice(&place.inode.to_le_bytes());
    row.extend_from_slice(place.path.as_bytes());
    row
}

fn decode_place(row: &[u8]) -> Option<FileLocation> {
    let (size, row) = row.split_first_chunk::<8>()?;
    let (inode, path) = row.split_first_chunk::<8>()?;
    Some(FileLocation {
        path: RelPath::new(path).ok()?,
        inode: u64::from_le_bytes(*inode),
        size: u64::from_le_bytes(*size),
    })
}

/// Returns the part of `root`'s tree with `span` blocks from block `first` on, if it is known.
pub(super) fn subtree(
    read: &ReadTransaction,
    root: Root,
    first: u64,
    span: u64,
) -> Result<Option<Subtree>, Error> {
    let index = first / SUBTREE_BLOCKS;
    let row = read.open_table(SUBTREES)?.get((*root.as_bytes(), index))?;
    let Some(row) = row else { return Ok(None) };
    let proven = decode_subtree(row.value(), index).and_then(|(blocks, claimed)| {
        let size = blocks.checked_mul(BLOCK)?;
        claimed.prove(ContentId { root, size })
    });
    match proven {
        Some(proven) => Ok(proven.narrow(first, span)),
        None => Err(Error::Corrupted("leaves that prove nothing".into())),
    }
}

/// Stores a batch: table by table, each in the order of its keys, so that neighbours share a page
/// while it is in memory.
pub(super) fn put_batch(write: &WriteTransaction, batch: &RootBatch) -> Result<(), Error> {
    let mut trees: Vec<_> = batch.trees.iter().collect();
    trees.sort_unstable_by_key(|(root, _)| **root);
    let mut subtrees = write.open_table(SUBTREES)?;
    for (root, tree) in trees {
        let blocks = tree.leaves().len() as u64;
        let all = (0..).map_while(|index| Some((index, tree.subtree(index)?)));
        for (index, subtree) in all {
            let row = encode_subtree(blocks, &subtree);
            subtrees.insert((*root.as_bytes(), index), &*row)?;
        }
    }
    let mut places: Vec<_> = batch.places.iter().collect();
    places.sort_unstable_by_key(|(root, _)| **root);
    let mut table = write.open_table(PLACES)?;
    for (root, place) in places {
        table.insert(*root.as_bytes(), &*encode_place(place))?;
    }
    let mut roots: Vec<_> = batch.roots.iter().collect();
    roots.sort_unstable();
    let mut table = write.open_table(ROOTS)?;
    for (version, root) in roots {
        table.insert(version.0, seal_root(*version, *root))?;
    }
    Ok(())
}

/// Returns the root, followed by the first half of a digest over its version and itself.
fn seal_root(version: Version, root: Root) -> [u8; 48] {
    let mut digest = Sha256::new();
    digest.update(DOMAIN);
    digest.update(version.0.to_le_bytes());
    digest.update(root.as_bytes());
    let digest: [u8; 32] = digest.finalize().into();
    let mut row = [0; 48];
    row[..32].copy_from_slice(root.as_bytes());
    row[32..].copy_from_slice(&digest[..16]);
    row
}

/// Returns the root in `row` if it was stored for this exact version.
fn open_root(version: Version, row: &[u8; 48]) -> Option<Root> {
    let root = Root::from_bytes(*row.first_chunk()?);
    (seal_root(version, root) == *row).then_some(root)
}

/// Encodes how many blocks the whole content has, the number of leaves here, then
/// leaves and uncles.
fn encode_subtree(blocks: u64, subtree: &Subtree) -> Vec<u8> {
    let count = subtree.leaves.len() as u32;
    let mut row = blocks.to_le_bytes().to_vec();
    row.extend_from_slice(&count.to_le_bytes());
    for hash in subtree.leaves.iter().chain(&subtree.uncles) {
        row.extend_from_slice(hash);
    }
    row
}

/// Decodes the number of blocks of the whole content, and the subtree; neither is verified.
fn decode_subtree(row: &[u8], index: u64) -> Option<(u64, Subtree)> {
    let (blocks, row) = row.split_first_chunk::<8>()?;
    let (count, hashes) = row.split_first_chunk::<4>()?;
    let (hashes, rest) = hashes.as_chunks::<32>();
    let count = u32::from_le_bytes(*count) as usize;
    if !rest.is_empty() || count > hashes.len() {
        return None;
    }
    let (leaves, uncles): (&[Hash], &[Hash]) = hashes.split_at(count);
    let subtree = Subtree {
        first: index.checked_mul(SUBTREE_BLOCKS)?,
        span: SUBTREE_BLOCKS,
        leaves: leaves.to_vec(),
        uncles: uncles.to_vec(),
    };
    Some((u64::from_le_bytes(*blocks), subtree))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_good_for_its_own_version_only() {
        let root = Root::from_bytes([7; 32]);
        let row = seal_root(Version(1), root);
        assert_eq!(open_root(Version(1), &row), Some(root));
        assert_eq!(open_root(Version(2), &row), None);
        for bit in 0..row.len() * 8 {
            let mut damaged = row;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open_root(Version(1), &damaged), None, "bit {bit}");
        }
    }
}
