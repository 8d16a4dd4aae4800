//! Content roots and the proof that bytes belong to one (BEP 52: SHA-256 over blocks of 16 KiB).
//!
//! A file is cut into blocks; their hashes are the leaves of a binary tree, padded with zero leaves
//! to a power of two, whose root names the content. Leaves travel in *subtrees* of 512 (8 MiB of
//! content) together with the hashes that lead from the subtree to the root, so each subtree can be
//! proven alone. [`Leaves`] exist only proven, and only they make [`Verified`] bytes. A `Verified`
//! states which content its bytes belong to and their position in it, so no one needs to check
//! again where they came from.
//!
//! A root fixes the number of blocks, which the last block's position proves: it is the hash of a
//! block, and everything after it is padding. A claim of more or fewer blocks proves nothing there.
//! The length of the last block is proven with its bytes.
//!
//! Pure: no IO, no clock.

mod nodes;
mod tree;

use std::ops::Deref;

pub use super::sha256_pair::Hash;
use crate::model::{ByteRange, ContentId};
use nodes::{PAD, hashes, levels, padding, parent};
pub use nodes::{Shape, leaf};
pub use tree::{HashTree, TreeHasher};

/// Bytes in a block, the unit that can be proven.
pub const BLOCK: u64 = 16 * 1024;

/// Blocks in a subtree, the unit in which leaves travel.
pub const SUBTREE_BLOCKS: u64 = 512;

/// Bytes of content under one subtree: 8 MiB.
pub const SUBTREE_BYTES: u64 = BLOCK * SUBTREE_BLOCKS;

/// Leaves as they travel or lie on a disk: claimed, but not proven yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subtree {
    /// The number of the first block, a multiple of `span`.
    pub first: u64,
    /// How many blocks the subtree has room for: a power of two up to [`SUBTREE_BLOCKS`].
    pub span: u64,
    /// The hashes of its blocks, in order, padding left out.
    pub leaves: Vec<Hash>,
    /// The sibling on each level from the subtree up to the root.
    pub uncles: Vec<Hash>,
}

impl Subtree {
    /// Proves that these are the leaves of a subtree of `content`. Leaves of blocks must not be
    /// padding, and everything after the end must be.
    pub fn prove(self, content: ContentId) -> Option<Leaves> {
        let shape = Shape::of(content.size)?;
        let sound_span = self.span.is_power_of_two() && self.span <= SUBTREE_BLOCKS;
        if !sound_span || !self.first.is_multiple_of(self.span) {
            return None;
        }
        let height = shape.subtree_height(self.span);
        let count = shape.blocks.saturating_sub(self.first).min(self.span);
        let complete = self.leaves.len() as u64 == count && count > 0;
        if !complete || self.uncles.len() as u64 != u64::from(shape.height() - height) {
            return None;
        }
        if self.leaves.contains(&PAD) {
            return None;
        }
        let levels = levels(&self.leaves, height);
        let mut hash = *levels.last()?.first()?;
        let mut at = self.first >> height;
        for (level, uncle) in (height..).zip(&self.uncles) {
            let is_behind_end = (at ^ 1) << level >= shape.blocks;
            if is_behind_end != (*uncle == padding(level)) {
                return None;
            }
            hash = if at.is_multiple_of(2) {
                parent(&hash, uncle)
            } else {
                parent(uncle, &hash)
            };
            at /= 2;
        }
        (hash == *content.root.as_bytes()).then_some(Leaves {
            subtree: self,
            levels,
            content,
        })
    }

    /// Narrows a subtree that is not proven yet, as [`Leaves::narrow`] does; a later proof of the
    /// part shows whether this was right.
    pub fn narrow(&self, first: u64, span: u64) -> Option<Self> {
        // Only the subtree of a small file is lower than its span; it has no uncles.
        let blocks = if self.uncles.is_empty() {
            self.leaves.len() as u64
        } else {
            self.span << self.uncles.len().min(40)
        };
        let shape = Shape { blocks };
        let inner = levels(&self.leaves, shape.subtree_height(self.span));
        self.narrow_in(shape, &inner, first, span)
    }

    /// Returns the part of `span` blocks from block `first` on, with its own uncles; `inner` are
    /// the levels of this subtree.
    fn narrow_in(&self, shape: Shape, inner: &[Vec<Hash>], first: u64, span: u64) -> Option<Self> {
        let inside = span.is_power_of_two()
            && span <= self.span
            && first.is_multiple_of(span)
            && first >= self.first
            && first - self.first < self.leaves.len() as u64;
        if !inside {
            return None;
        }
        let (low, high) = (shape.subtree_height(span), shape.subtree_height(self.span));
        let before = (first - self.first) as usize;
        let mut uncles = Vec::new();
        for level in low..high {
            let at = before >> level;
            let pad = || padding(level);
            uncles.push(
                inner[level as usize]
                    .get(at ^ 1)
                    .copied()
                    .unwrap_or_else(pad),
            );
        }
        uncles.extend_from_slice(&self.uncles);
        let leaves = self.leaves[before..]
            .iter()
            .take(span as usize)
            .copied()
            .collect();
        Some(Self {
            first,
            span,
            leaves,
            uncles,
        })
    }
}

/// Leaves that are proven to belong to a content root.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leaves {
    subtree: Subtree,
    /// The levels from the leaves up to the subtree's root, used to prove its parts.
    levels: Vec<Vec<Hash>>,
    content: ContentId,
}

impl Leaves {
    /// Returns the content that the leaves belong to.
    pub fn content(&self) -> ContentId {
        self.content
    }

    /// Checks that `bytes` are the content at `offset`, which must be whole blocks of this subtree
    /// (the last one of the file ends with it). `Err` returns the bytes, unproven.
    pub fn check<B: Deref<Target = [u8]>>(&self, offset: u64, bytes: B) -> Result<Verified<B>, B> {
        if self.proves(offset, &bytes) {
            Ok(Verified {
                bytes,
                content: self.content,
                offset,
            })
        } else {
            Err(bytes)
        }
    }

    fn proves(&self, offset: u64, bytes: &[u8]) -> bool {
        let end = offset.saturating_add(bytes.len() as u64);
        let whole_blocks = offset.is_multiple_of(BLOCK)
            && (end == self.content.size || (end < self.content.size && end.is_multiple_of(BLOCK)));
        let before = (offset / BLOCK)
            .checked_sub(self.subtree.first)
            .filter(|_| whole_blocks);
        let Some(before) = before else { return false };
        let mut known = self.subtree.leaves.iter().skip(before as usize);
        if bytes.is_empty() || (known.len() as u64) < (bytes.len() as u64).div_ceil(BLOCK) {
            return false;
        }
        let mut all = true;
        hashes(bytes, BLOCK as usize, |hash| {
            all &= known.next() == Some(&hash)
        });
        all
    }

    /// Returns the part of `span` blocks from block `first` on, with its own proof, so that it can
    /// be stored and proven alone. `None` if it is not inside this subtree.
    pub fn narrow(&self, first: u64, span: u64) -> Option<Subtree> {
        let shape = Shape::of(self.content.size)?;
        self.subtree.narrow_in(shape, &self.levels, first, span)
    }
}

/// Proven bytes of one content at one position in it. Only [`Leaves::check`] and
/// [`Verified::whole`] create such a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verified<B> {
    bytes: B,
    content: ContentId,
    offset: u64,
}

impl<B: Deref<Target = [u8]>> Verified<B> {
    /// Checks that `bytes` are the whole of `content`. Also returns its first leaves, with which
    /// the bytes can be stored. `Err` returns the bytes, unproven.
    pub fn whole(bytes: B, content: ContentId) -> Result<(Self, Leaves), B> {
        if bytes.len() as u64 != content.size {
            return Err(bytes);
        }
        let mut hasher = TreeHasher::default();
        hasher.update(&bytes);
        let subtree = hasher.finish().and_then(|tree| tree.subtree(0));
        let Some(leaves) = subtree.and_then(|subtree| subtree.prove(content)) else {
            return Err(bytes);
        };
        let verified = Self {
            bytes,
            content,
            offset: 0,
        };
        Ok((verified, leaves))
    }

    /// Returns the position of the bytes in their content.
    pub fn range(&self) -> ByteRange {
        ByteRange::new(self.offset, self.offset + self.bytes.len() as u64)
    }
}

impl<B> Verified<B> {
    /// Returns the content that the bytes belong to.
    pub fn content(&self) -> ContentId {
        self.content
    }

    /// Returns the bytes and gives up the proof.
    pub fn into_inner(self) -> B {
        self.bytes
    }
}

impl<B: Deref<Target = [u8]>> Deref for Verified<B> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Root;
    use proptest::prelude::*;

    impl Shape {
        /// Returns the number of subtrees.
        fn subtrees(self) -> u64 {
            self.blocks.div_ceil(SUBTREE_BLOCKS)
        }

        /// Returns the number of leaves in subtree `index`, without padding; 0 after the last one.
        fn leaves(self, index: u64) -> u64 {
            let before = index.saturating_mul(SUBTREE_BLOCKS);
            self.blocks.saturating_sub(before).min(SUBTREE_BLOCKS)
        }
    }

    /// Creates content whose byte number `i` is bits 13 to 20 of `i` times 2654435761.
    fn content(size: u64) -> Vec<u8> {
        (0..size)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect()
    }

    fn tree(bytes: &[u8]) -> HashTree {
        let mut hasher = TreeHasher::default();
        hasher.update(bytes);
        hasher.finish().unwrap()
    }

    fn id(tree: &HashTree, size: u64) -> ContentId {
        let root = tree.root();
        ContentId { root, size }
    }

    /// Returns the claim of a member that pretends the content of `tree` has `blocks` blocks: its
    /// true nodes where they fit, and padding elsewhere.
    fn claimed(tree: &HashTree, index: u64, blocks: u64) -> Option<Subtree> {
        let shape = Shape { blocks };
        let mut leaves = tree.leaves().to_vec();
        let width = shape.blocks.next_power_of_two() as usize;
        (leaves.len().next_power_of_two() == width).then_some(())?;
        leaves.resize(width, PAD);
        let nodes = levels(&leaves, shape.height());
        let first = index * SUBTREE_BLOCKS;
        let count = shape.leaves(index) as usize;
        let low = shape.subtree_height(SUBTREE_BLOCKS);
        let uncles = (low..shape.height()).map(|level| {
            let at = (first >> level) as usize ^ 1;
            nodes[level as usize][at]
        });
        Some(Subtree {
            first,
            span: SUBTREE_BLOCKS,
            leaves: leaves
                .get(first as usize..)?
                .iter()
                .take(count)
                .copied()
                .collect(),
            uncles: uncles.collect(),
        })
    }

    #[test]
    fn another_number_of_blocks_is_not_proven() {
        for blocks in [1_u64, 2, 3, 5, 300, 512, 513, 700, 1025, 1537, 2000] {
            let leaves: Vec<Hash> = (0..blocks).map(|i| leaf(&i.to_be_bytes())).collect();
            let tree = HashTree::new(leaves).unwrap();
            for claim in [
                1, 2, 3, 4, 6, 400, 511, 514, 600, 1023, 1026, 1536, 1538, 1999, 2047, 2048,
            ] {
                let content = id(&tree, claim * BLOCK);
                let last = Shape { blocks: claim }.subtrees() - 1;
                let Some(tail) = claimed(&tree, last, claim).filter(|_| claim != blocks) else {
                    continue;
                };
                assert_eq!(tail.prove(content), None, "{claim} blocks for {blocks}");
            }
            let shape = Shape { blocks };
            let honest = claimed(&tree, shape.subtrees() - 1, blocks).unwrap();
            assert!(honest.prove(id(&tree, blocks * BLOCK)).is_some());
        }
    }

    #[test]
    fn padding_is_never_a_block() {
        let tree = HashTree::new(vec![leaf(b"a"), PAD]).unwrap();
        let subtree = tree.subtree(0).unwrap();
        assert_eq!(subtree.prove(id(&tree, 2 * BLOCK)), None);
    }

    /// The `pieces root` of v2 torrents that libtorrent 2.0.8 made of the same content.
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
    fn file_verifies_against_its_root_only() {
        for size in [1, BLOCK - 1, BLOCK, BLOCK + 1, 4 * BLOCK, SUBTREE_BYTES + 1] {
            let bytes = content(size);
            let root = tree(&bytes).root();
            let id = ContentId { root, size };
            let (verified, leaves) = Verified::whole(bytes.clone(), id).unwrap();
            assert!(*verified == bytes[..]);
            assert_eq!(verified.content(), id);
            let first = bytes[..size.min(BLOCK) as usize].to_vec();
            assert!(leaves.check(0, first).is_ok());
            let mut wrong = bytes.clone();
            wrong[size as usize / 2] ^= 1;
            assert!(Verified::whole(wrong, id).is_err());
            assert!(Verified::whole(bytes[1..].to_vec(), id).is_err());
        }
        let root = Root::from_bytes([0; 32]);
        assert!(Verified::whole(Vec::new(), ContentId { root, size: 0 }).is_err());
    }

    #[test]
    fn an_empty_file_has_no_root() {
        assert!(TreeHasher::default().finish().is_none() && Shape::of(0).is_none());
    }

    #[test]
    fn subtree_proves_only_its_own_blocks() {
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
                let leaves = tree.subtree(index).unwrap().prove(id(&tree, size)).unwrap();
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

    #[test]
    fn a_part_of_a_subtree_can_be_proven_alone() {
        for size in [
            BLOCK - 1,
            3 * BLOCK,
            100 * BLOCK + 1,
            SUBTREE_BYTES + 9 * BLOCK,
            5 * SUBTREE_BYTES + 7,
        ] {
            let bytes = content(size);
            let tree = tree(&bytes);
            for span in [1, 8, 512] {
                for block in (0..size.div_ceil(BLOCK)).step_by(span as usize) {
                    let subtree = tree.subtree(block / SUBTREE_BLOCKS).unwrap();
                    let leaves = subtree.prove(id(&tree, size)).unwrap();
                    let part = leaves.narrow(block, span).unwrap();
                    assert!(leaves.narrow(block + SUBTREE_BLOCKS, span).is_none());
                    let alone = part.prove(id(&tree, size)).expect("proven");
                    let end = size.min((block + span) * BLOCK) as usize;
                    assert!(
                        alone
                            .check(block * BLOCK, &bytes[(block * BLOCK) as usize..end])
                            .is_ok()
                    );
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// A peer that changes anything in a subtree, or shows the subtree of another position,
        /// file or size, proves nothing.
        #[test]
        fn a_changed_subtree_proves_nothing(
            blocks in 1_u64..2000, pick in any::<prop::sample::Index>(), flip in 0_usize..256, what in 0_u8..5,
        ) {
            let leaves: Vec<Hash> = (0..blocks).map(|i| leaf(&i.to_be_bytes())).collect();
            let tree = HashTree::new(leaves).unwrap();
            let size = blocks * BLOCK;
            let index = pick.index(Shape::of(size).unwrap().subtrees() as usize) as u64;
            let mut subtree = tree.subtree(index).unwrap();
            prop_assert!(subtree.clone().prove(id(&tree, size)).is_some());
            let (mut root, mut size) = (tree.root(), size);
            match what {
                0 => { let at = pick.index(subtree.leaves.len()); subtree.leaves[at][flip / 8] ^= 1 << (flip % 8); }
                1 if !subtree.uncles.is_empty() => { let at = pick.index(subtree.uncles.len()); subtree.uncles[at][flip / 8] ^= 1 << (flip % 8); }
                2 => { subtree.first += SUBTREE_BLOCKS; }
                3 => { let mut bytes = *root.as_bytes(); bytes[flip / 8] ^= 1 << (flip % 8); root = Root::from_bytes(bytes); }
                _ => { size += SUBTREE_BYTES * 4; }
            }
            let content = ContentId { root, size };
            prop_assert!(subtree.prove(content).is_none());
        }

        /// The split of the bytes on their way into the hasher makes no difference.
        #[test]
        fn root_is_independent_of_chunking(size in 1_u64..200_000, cut in 1_usize..50_000) {
            let bytes = content(size);
            let mut hasher = TreeHasher::default();
            for part in bytes.chunks(cut) { hasher.update(part); }
            prop_assert_eq!(hasher.finish().unwrap(), tree(&bytes));
        }
    }
}
