//! The tree of a whole file, computed from its bytes by a node that has them.

use sha2::{Digest, Sha256};

use super::nodes::{Shape, hashes, levels, padding, parents};
use super::{BLOCK, Hash, SUBTREE_BLOCKS, Subtree};
use crate::model::Root;

/// Computes all leaves of a file from its bytes, front to back.
#[derive(Default)]
pub struct TreeHasher {
    block: Sha256,
    block_bytes: u64,
    leaves: Vec<Hash>,
}

impl TreeHasher {
    /// Adds the next bytes, in parts of any size.
    pub fn update(&mut self, mut bytes: &[u8]) {
        if self.block_bytes == 0 {
            let whole = bytes.len() / BLOCK as usize * BLOCK as usize;
            hashes(&bytes[..whole], BLOCK as usize, |hash| {
                self.leaves.push(hash)
            });
            bytes = &bytes[whole..];
        }
        while !bytes.is_empty() {
            let room = (BLOCK - self.block_bytes) as usize;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.block.update(now);
            self.block_bytes += now.len() as u64;
            if self.block_bytes == BLOCK {
                self.end_block();
            }
            bytes = later;
        }
    }

    fn end_block(&mut self) {
        self.leaves.push(self.block.finalize_reset().into());
        self.block_bytes = 0;
    }

    /// Returns the tree; `None` for an empty file.
    pub fn finish(mut self) -> Option<HashTree> {
        if self.block_bytes > 0 {
            self.end_block();
        }
        HashTree::new(self.leaves)
    }
}

/// The whole tree of one file: 32 bytes for each block of 16 KiB.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HashTree {
    shape: Shape,
    leaves: Vec<Hash>,
    /// The levels from the roots of the subtrees up to the root of the file.
    upper: Vec<Vec<Hash>>,
}

impl HashTree {
    /// Creates the tree over these leaves; `None` when there are none.
    pub fn new(leaves: Vec<Hash>) -> Option<Self> {
        let shape = Shape {
            blocks: leaves.len() as u64,
        };
        let low = shape.subtree_height(SUBTREE_BLOCKS);
        let roots = leaves
            .chunks(SUBTREE_BLOCKS as usize)
            .map(|leaves| root_of(leaves, low));
        let mut upper = vec![roots.collect::<Vec<_>>()];
        for level in low..shape.height() {
            let below = upper.last_mut()?;
            if below.len() % 2 == 1 {
                below.push(padding(level));
            }
            let above = parents(below);
            upper.push(above);
        }
        (!leaves.is_empty()).then_some(Self {
            shape,
            leaves,
            upper,
        })
    }

    /// Returns the root, which is the content's name.
    pub fn root(&self) -> Root {
        Root::from_bytes(self.upper[self.upper.len() - 1][0])
    }

    /// Returns the hashes of all blocks, in order.
    pub fn leaves(&self) -> &[Hash] {
        &self.leaves
    }

    /// Returns subtree `index` with the hashes that prove it; `None` after the last one.
    pub fn subtree(&self, index: u64) -> Option<Subtree> {
        let at = usize::try_from(index).ok()?;
        let leaves = self.leaves.chunks(SUBTREE_BLOCKS as usize).nth(at)?;
        let proving = &self.upper[..self.upper.len() - 1];
        let uncles = proving
            .iter()
            .enumerate()
            .map(|(level, nodes)| nodes[(at >> level) ^ 1]);
        Some(Subtree {
            first: index * SUBTREE_BLOCKS,
            span: SUBTREE_BLOCKS,
            leaves: leaves.to_vec(),
            uncles: uncles.collect(),
        })
    }
}

/// Returns the root of `leaves`, padded to `height` levels.
fn root_of(leaves: &[Hash], height: u32) -> Hash {
    levels(leaves, height)
        .pop()
        .and_then(|top| top.first().copied())
        .unwrap_or_default()
}
