//! The nodes of a tree: blocks become leaves, leaves become parents, and padding fills the space
//! after the end.

use std::sync::LazyLock;

use sha2::{Digest, Sha256};

use super::{BLOCK, Hash};
use crate::content::sha256_pair;

/// Returns the hash of one block; only the last block of a file may be shorter than [`BLOCK`].
pub fn leaf(block: &[u8]) -> Hash {
    Sha256::digest(block).into()
}

/// Hashes `bytes` in parts of `length`, two at a time; the last part may be shorter.
pub(super) fn hashes(bytes: &[u8], length: usize, mut take: impl FnMut(Hash)) {
    for both in bytes.chunks(2 * length) {
        let (first, second) = both.split_at(length.min(both.len()));
        match sha256_pair::pair([first, second]) {
            Some(pair) => pair.into_iter().for_each(&mut take),
            None => [first, second]
                .into_iter()
                .filter(|part| !part.is_empty())
                .for_each(|part| take(leaf(part))),
        }
    }
}

pub(super) fn parent(left: &Hash, right: &Hash) -> Hash {
    leaf([*left, *right].as_flattened())
}

/// Returns the level above `nodes`, whose number is even.
pub(super) fn parents(nodes: &[Hash]) -> Vec<Hash> {
    let mut above = Vec::with_capacity(nodes.len() / 2);
    hashes(nodes.as_flattened(), 2 * size_of::<Hash>(), |hash| {
        above.push(hash)
    });
    above
}

/// The leaf for a block after the end of the content. No block has this hash.
pub(super) const PAD: Hash = [0; 32];

/// The roots of subtrees of padding alone, by height. No file has a tree of more levels.
static PADDING: LazyLock<[Hash; 64]> = LazyLock::new(|| {
    let mut levels = [PAD; 64];
    for level in 1..levels.len() {
        levels[level] = parent(&levels[level - 1], &levels[level - 1]);
    }
    levels
});

/// Returns the root of a subtree of padding, `level` levels above the leaves.
pub(super) fn padding(level: u32) -> Hash {
    PADDING[level as usize]
}

/// The division of a file of some size into subtrees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    pub(super) blocks: u64,
}

impl Shape {
    /// Returns the shape of a file of `size` bytes; empty files have no tree.
    pub fn of(size: u64) -> Option<Self> {
        (size > 0).then(|| Self {
            blocks: size.div_ceil(BLOCK),
        })
    }

    /// Returns the height of the whole tree: log2 of its leaves, including padding.
    pub(super) fn height(self) -> u32 {
        self.blocks.next_power_of_two().trailing_zeros()
    }

    /// Returns the height of a subtree of `span` blocks; in a small file it is no higher than
    /// the content needs.
    pub(super) fn subtree_height(self, span: u64) -> u32 {
        span.trailing_zeros().min(self.height())
    }
}

/// Returns the levels from `leaves`, padded with zero leaves, up to their root
/// `height` levels above.
pub(super) fn levels(leaves: &[Hash], height: u32) -> Vec<Vec<Hash>> {
    let mut levels = vec![leaves.to_vec()];
    for level in 0..height {
        let nodes = &mut levels[level as usize];
        if nodes.len() % 2 == 1 {
            nodes.push(padding(level));
        }
        let above = parents(nodes);
        levels.push(above);
    }
    levels
}
