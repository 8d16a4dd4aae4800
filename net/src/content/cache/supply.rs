//! What the cache can give to others, who know only the root of a content.
//!
//! A caller may ask for anything. So everything here begins with a slot whose header names that
//! very root and is proven against it, and a wrong request never drops anything from the cache.

use super::slot::Header;
use super::{DiskCache, PIECE_BLOCKS};
use crate::content::merkle::{BLOCK, Subtree};
use crate::model::{ByteRange, Root};

impl DiskCache {
    /// Returns the size in bytes of the content of `root`, if `block` of it is cached. It is exact
    /// if the last block is cached too. Otherwise only the number of blocks was proven, and the
    /// size is the one listed by the member that sent `block`: wrong by less than a block at most.
    pub fn size(&self, root: Root, block: u64) -> Option<u64> {
        let listed = self.slot(root, block)?.content.size;
        let last = self.slot(root, listed.div_ceil(BLOCK).saturating_sub(1));
        Some(last.map_or(listed, |last| last.content.size))
    }

    /// Returns the beginning of `range`, as far as it seems to be cached. Reading may still find it
    /// damaged or overwritten.
    pub fn held(&self, root: Root, range: ByteRange) -> ByteRange {
        let Some(disk) = self.store.disk() else {
            return ByteRange::new(range.start, range.start);
        };
        let end = range.end.div_ceil(BLOCK);
        let mut block = range.start / BLOCK;
        while block < end {
            let piece = block / PIECE_BLOCKS * PIECE_BLOCKS;
            if disk.large.holds(&root, piece) {
                block = piece + PIECE_BLOCKS;
            } else if disk.small.holds(&root, block) {
                block += 1;
            } else {
                break;
            }
        }
        let reached = block.saturating_mul(BLOCK).min(range.end);
        ByteRange::new(range.start, reached.max(range.start))
    }

    /// Returns the leaves of `span` blocks of `root` from block `first` on (as in
    /// [`Tree::subtree`](crate::content::merkle::HashTree::subtree), and narrower), proven, if
    /// every block that the content has there is cached.
    pub fn hashes(&self, root: Root, first: u64, span: u64) -> Option<Subtree> {
        let start = self.slot(root, first)?;
        let content = start.content;
        if span <= start.proof.span {
            return start.proof.prove(content)?.narrow(first, span);
        }
        let blocks = content.size.div_ceil(BLOCK);
        let end = first.saturating_add(span).min(blocks);
        let count = usize::try_from(end.checked_sub(first)?).ok()?;
        // The siblings within the subtree follow from its leaves.
        let inner = (span.ilog2() - start.proof.span.ilog2()) as usize;
        let uncles = start.proof.uncles.get(inner..).unwrap_or_default().to_vec();
        let mut leaves = start.proof.leaves;
        while leaves.len() < count {
            let at = first + leaves.len() as u64;
            let next = self.slot(root, at)?;
            if next.content.size.div_ceil(BLOCK) != blocks {
                return None;
            }
            let before = usize::try_from(at.checked_sub(next.proof.first)?).ok()?;
            let more = next.proof.leaves.get(before..)?;
            if more.is_empty() {
                return None;
            }
            leaves.extend_from_slice(more);
        }
        leaves.truncate(count);
        let whole = Subtree {
            first,
            span,
            leaves,
            uncles,
        };
        whole.prove(content)?.narrow(first, span)
    }

    /// Returns the header of a slot that contains `block` of `root`.
    fn slot(&self, root: Root, block: u64) -> Option<Header> {
        let disk = self.store.disk()?;
        let large = disk.large.proven_header(root, block);
        large.or_else(|| disk.small.proven_header(root, block))
    }
}
