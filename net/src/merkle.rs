//! Content roots and the proof that bytes belong to one (BEP 52: SHA-256 over blocks of 16 KiB).
//!
//! A file is cut into blocks; their hashes are the leaves of a binary tree, padded with zero leaves to
//! a power of two, whose root names the content. Leaves travel in *subtrees* of 512 (8 MiB of
//! content) together with the hashes that lead from the subtree to the root, so each subtree is
//! proven by itself: [`Leaves`] exist only proven, and only they make [`Verified`] bytes. Whoever
//! holds a `Verified` need not ask again where its bytes have been.
//!
//! Pure: no IO, no clock.

use std::ops::Deref;

use sha2::{Digest, Sha256};

use crate::types::Root;

/// Bytes in a block, the unit that can be proven.
pub const BLOCK: u64 = 16 * 1024;

/// Blocks in a subtree, the unit in which leaves travel.
pub const SUBTREE_BLOCKS: u64 = 512;

/// Bytes of content under one subtree: 8 MiB.
pub const SUBTREE_BYTES: u64 = BLOCK * SUBTREE_BLOCKS;

/// log2 of [`SUBTREE_BLOCKS`].
const SUBTREE_LEVEL: u32 = SUBTREE_BLOCKS.trailing_zeros();

/// One node of a tree.
pub type Hash = [u8; 32];

/// The hash of one block; only the last block of a file may be shorter than [`BLOCK`].
pub fn leaf(block: &[u8]) -> Hash {
    Sha256::digest(block).into()
}

fn parent(left: &Hash, right: &Hash) -> Hash {
    Sha256::new()
        .chain_update(left)
        .chain_update(right)
        .finalize()
        .into()
}

/// The root of a subtree of zero leaves, `level` levels above them.
fn padding(level: u32) -> Hash {
    (0..level).fold([0; 32], |hash, _| parent(&hash, &hash))
}

/// Folds `nodes` to their root; the missing ones up to a power of two are `pad`.
fn fold(mut nodes: Vec<Hash>, mut pad: Hash) -> Hash {
    nodes.resize(nodes.len().next_power_of_two(), pad);
    while nodes.len() > 1 {
        nodes = nodes
            .chunks(2)
            .map(|pair| parent(&pair[0], &pair[1]))
            .collect();
        pad = parent(&pad, &pad);
    }
    nodes.pop().unwrap_or(pad)
}

/// How a file of some size is cut into subtrees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    blocks: u64,
}

impl Shape {
    /// The shape of a file of `size` bytes; empty files have no tree.
    pub fn of(size: u64) -> Option<Self> {
        (size > 0).then(|| Self {
            blocks: size.div_ceil(BLOCK),
        })
    }

    /// How many subtrees there are.
    pub fn subtrees(self) -> u64 {
        self.blocks.div_ceil(SUBTREE_BLOCKS)
    }

    /// How many leaves subtree `index` has, padding not counted; 0 behind the last one.
    pub fn leaves(self, index: u64) -> u64 {
        let before = index.saturating_mul(SUBTREE_BLOCKS);
        self.blocks.saturating_sub(before).min(SUBTREE_BLOCKS)
    }

    /// The root of subtree `index` from its leaves. The only subtree of a small file is as high as
    /// its content needs; all others have their full height.
    fn subtree_root(self, leaves: &[Hash]) -> Hash {
        let mut leaves = leaves.to_vec();
        if self.subtrees() > 1 {
            leaves.resize(SUBTREE_BLOCKS as usize, [0; 32]);
        }
        fold(leaves, [0; 32])
    }

    /// How many hashes lead from a subtree to the root.
    pub fn uncles(self) -> usize {
        self.subtrees().next_power_of_two().trailing_zeros() as usize
    }
}

/// All leaves of a file as they are computed from its bytes, front to back.
#[derive(Default)]
pub struct TreeHasher {
    block: Sha256,
    block_bytes: u64,
    leaves: Vec<Hash>,
}

impl TreeHasher {
    /// Takes the next bytes, however they are cut.
    pub fn update(&mut self, mut bytes: &[u8]) {
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

    /// The tree; `None` for an empty file.
    pub fn finish(mut self) -> Option<Tree> {
        if self.block_bytes > 0 {
            self.end_block();
        }
        Tree::new(self.leaves)
    }
}

/// The whole tree of one file: 32 bytes for each block of 16 KiB.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tree {
    shape: Shape,
    leaves: Vec<Hash>,
    subtree_roots: Vec<Hash>,
}

impl Tree {
    /// The tree over these leaves; `None` when there are none.
    pub fn new(leaves: Vec<Hash>) -> Option<Self> {
        let shape = Shape {
            blocks: leaves.len() as u64,
        };
        let subtrees = leaves.chunks(SUBTREE_BLOCKS as usize);
        let subtree_roots = subtrees.map(|leaves| shape.subtree_root(leaves)).collect();
        (!leaves.is_empty()).then_some(Self {
            shape,
            leaves,
            subtree_roots,
        })
    }

    /// The content's name.
    pub fn root(&self) -> Root {
        Root::from_bytes(fold(self.subtree_roots.clone(), padding(SUBTREE_LEVEL)))
    }

    /// All leaves.
    pub fn leaves(&self) -> &[Hash] {
        &self.leaves
    }

    /// Subtree `index` with the hashes that prove it, lowest first; `None` behind the last one.
    pub fn subtree(&self, index: u64) -> Option<Subtree> {
        let leaves = self
            .leaves
            .chunks(SUBTREE_BLOCKS as usize)
            .nth(usize::try_from(index).ok()?)?;
        let mut uncles = Vec::with_capacity(self.shape.uncles());
        let (mut level, mut at) = (self.subtree_roots.clone(), index as usize);
        let mut pad = padding(SUBTREE_LEVEL);
        for _ in 0..self.shape.uncles() {
            uncles.push(*level.get(at ^ 1).unwrap_or(&pad));
            if level.len() % 2 == 1 {
                level.push(pad);
            }
            level = level
                .chunks(2)
                .map(|pair| parent(&pair[0], &pair[1]))
                .collect();
            pad = parent(&pad, &pad);
            at /= 2;
        }
        Some(Subtree {
            index,
            leaves: leaves.to_vec(),
            uncles,
        })
    }
}

/// Leaves as they travel: claimed by a peer, proven by nobody yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subtree {
    /// Which subtree of the file.
    pub index: u64,
    /// The hashes of its blocks, in order, padding left out.
    pub leaves: Vec<Hash>,
    /// The sibling on each level from the subtree up to the root.
    pub uncles: Vec<Hash>,
}

impl Subtree {
    /// Checks that these are the leaves of `root`'s subtree, for a file of `size` bytes.
    pub fn prove(self, root: Root, size: u64) -> Option<Leaves> {
        let shape = Shape::of(size)?;
        let fits = !self.leaves.is_empty()
            && self.leaves.len() as u64 == shape.leaves(self.index)
            && self.uncles.len() == shape.uncles();
        if !fits {
            return None;
        }
        let (mut hash, mut at) = (shape.subtree_root(&self.leaves), self.index);
        for uncle in &self.uncles {
            hash = if at % 2 == 0 {
                parent(&hash, uncle)
            } else {
                parent(uncle, &hash)
            };
            at /= 2;
        }
        let start = self.index * SUBTREE_BYTES;
        (hash == *root.as_bytes()).then_some(Leaves {
            start,
            size,
            hashes: self.leaves,
        })
    }
}

/// The leaves of one subtree, proven to belong to a content root.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leaves {
    start: u64,
    size: u64,
    hashes: Vec<Hash>,
}

impl Leaves {
    /// Checks that `bytes` are the content at `offset`, which must be whole blocks of this subtree
    /// (the last one of the file ends with it). `Err` gives the bytes back, unproven.
    pub fn check<B: Deref<Target = [u8]>>(&self, offset: u64, bytes: B) -> Result<Verified<B>, B> {
        if self.proves(offset, &bytes) {
            Ok(Verified(bytes))
        } else {
            Err(bytes)
        }
    }

    fn proves(&self, offset: u64, bytes: &[u8]) -> bool {
        let end = offset.saturating_add(bytes.len() as u64);
        let whole_blocks = offset.is_multiple_of(BLOCK)
            && (end == self.size || (end < self.size && end.is_multiple_of(BLOCK)));
        let Some(first) = offset.checked_sub(self.start).filter(|_| whole_blocks) else {
            return false;
        };
        let known = self.hashes.iter().skip((first / BLOCK) as usize);
        let blocks = bytes.chunks(BLOCK as usize);
        let enough = known.len() >= blocks.len() && !bytes.is_empty();
        enough && blocks.zip(known).all(|(block, hash)| leaf(block) == *hash)
    }
}

/// Bytes that are what their content root says. Only [`Leaves::check`] makes them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verified<B>(B);

impl<B> Verified<B> {
    /// The bytes, with the proof given up.
    pub fn into_inner(self) -> B {
        self.0
    }
}

impl<B: Deref<Target = [u8]>> Deref for Verified<B> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Content whose byte number `i` is bits 13 to 20 of `i` times 2654435761.
    fn content(size: u64) -> Vec<u8> {
        (0..size)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect()
    }

    fn tree(bytes: &[u8]) -> Tree {
        let mut hasher = TreeHasher::default();
        hasher.update(bytes);
        hasher.finish().unwrap()
    }

    /// `pieces root` of v2 torrents that libtorrent 2.0.8 made of the same content.
    #[test]
    fn roots_are_those_of_bittorrent_v2() {
        let vectors = [
            (
                1,
                "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            ),
            (
                16383,
                "1afa40da55ddfb8bebbe82b37a7f81b35fc9a3b83d37012349c8e4882aaabeb2",
            ),
            (
                16384,
                "eae5d477cd0d7df29ce9e1b1ac37f1d8650d3f9f7a6152bbdf2c0655b4b764e8",
            ),
            (
                16385,
                "e9c4ae9a40cb0259f3cadaea509735ad93cefffa2dc1b7b2081516949fe313da",
            ),
            (
                32768,
                "aa5d801c5e3091f538a7b41ff7a52021bafd53da214effd66ce1fdd557d4da63",
            ),
            (
                32769,
                "00c260615e55e700e431fbc782c20f419d6aedf2fb079efe452d490e8215a380",
            ),
            (
                49153,
                "a3ffa32aab87771c75637a3eae4e243d71986953675afea3516900c08a40a622",
            ),
            (
                100_000,
                "32f76a3baa0b28ef9abc83eb2f40452addcd832731c9b6b2e976cdf61658f86d",
            ),
            (
                1_048_576,
                "70b029c7967cfc631273a75ddba7496ccd5c0b3edc5523e78e32c127ed39a1e9",
            ),
            (
                1_048_577,
                "9e91a2f2135af924037ef48e1b4596da02196335f920fe4dfdae105ba3ec2ffb",
            ),
            (
                8_388_607,
                "7326badce256f391607c158df1e69115d337a172e25075b851c367c4bfda7ff1",
            ),
            (
                8_388_608,
                "e34ff16a4bb32471917fb67bd2a7ff56fff465153142db1cb10131f231452d46",
            ),
            (
                8_388_609,
                "13c800b07f2ef0408a191ceab5f717a3ff09b40b1267b5a6d7b9f926518bcd3e",
            ),
            (
                25_178_169,
                "e364da762434b242a898a72c2f6e3cf8d03640f3348b4b09372c9889f515402b",
            ),
        ];
        let bytes = content(25_178_169);
        for (size, root) in vectors {
            assert_eq!(
                tree(&bytes[..size]).root().to_string(),
                root,
                "{size} bytes"
            );
        }
    }

    #[test]
    fn an_empty_file_has_no_root() {
        assert!(TreeHasher::default().finish().is_none() && Shape::of(0).is_none());
    }

    #[test]
    fn every_subtree_is_proven_by_itself_and_proves_its_blocks_only() {
        for size in [
            1,
            BLOCK + 1,
            SUBTREE_BYTES,
            SUBTREE_BYTES + 1,
            5 * SUBTREE_BYTES + 7,
        ] {
            let bytes = content(size);
            let tree = tree(&bytes);
            let shape = Shape::of(size).unwrap();
            for index in 0..shape.subtrees() {
                let leaves = tree
                    .subtree(index)
                    .unwrap()
                    .prove(tree.root(), size)
                    .unwrap();
                let start = index * SUBTREE_BYTES;
                let end = (start + 3 * BLOCK).min(size).min(start + SUBTREE_BYTES);
                let part = &bytes[start as usize..end as usize];
                assert_eq!(&*leaves.check(start, part).unwrap(), part);
                assert!(leaves.check(start + BLOCK, part).is_err());
                assert!(leaves.check(start + 1, &part[1..]).is_err());
                let mut wrong = part.to_vec();
                wrong[part.len() / 2] ^= 0x10;
                assert!(leaves.check(start, wrong).is_err());
            }
            assert!(tree.subtree(shape.subtrees()).is_none());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// A peer that changes anything in a subtree, or shows the subtree of another place, file
        /// or size, proves nothing.
        #[test]
        fn a_changed_subtree_proves_nothing(
            blocks in 1_u64..2000, pick in any::<prop::sample::Index>(), flip in 0_usize..256, what in 0_u8..5,
        ) {
            let leaves: Vec<Hash> = (0..blocks).map(|i| leaf(&i.to_be_bytes())).collect();
            let tree = Tree::new(leaves).unwrap();
            let size = blocks * BLOCK;
            let index = pick.index(Shape::of(size).unwrap().subtrees() as usize) as u64;
            let mut subtree = tree.subtree(index).unwrap();
            prop_assert!(subtree.clone().prove(tree.root(), size).is_some());
            let (mut root, mut size) = (tree.root(), size);
            match what {
                0 => { let at = pick.index(subtree.leaves.len()); subtree.leaves[at][flip / 8] ^= 1 << (flip % 8); }
                1 if !subtree.uncles.is_empty() => { let at = pick.index(subtree.uncles.len()); subtree.uncles[at][flip / 8] ^= 1 << (flip % 8); }
                2 => { subtree.index += 1; }
                3 => { let mut bytes = *root.as_bytes(); bytes[flip / 8] ^= 1 << (flip % 8); root = Root::from_bytes(bytes); }
                _ => { size += SUBTREE_BYTES * 4; }
            }
            prop_assert!(subtree.prove(root, size).is_none());
        }

        /// How the bytes are cut on their way into the hasher makes no difference.
        #[test]
        fn the_root_does_not_depend_on_how_bytes_arrive(size in 1_u64..200_000, cut in 1_usize..50_000) {
            let bytes = content(size);
            let mut hasher = TreeHasher::default();
            for part in bytes.chunks(cut) { hasher.update(part); }
            prop_assert_eq!(hasher.finish().unwrap(), tree(&bytes));
        }
    }
}
