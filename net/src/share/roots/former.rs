//! A content that some file had, as far as the file still has it.
//!
//! A file is in another state when its mode, its times, its links or its name have changed, or when
//! something was appended. None of that changes its earlier bytes, but nothing about the new state
//! proves that. The hash tree of the former state does: each block is read from whatever the file
//! is now, and returned only if it matches the tree.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::captures::Captures;
use super::store::Roots;
use crate::content::merkle::{BLOCK, Leaves, SUBTREE_BLOCKS, Subtree};
use crate::content::read_full::read_full;
use crate::error::Error;
use crate::model::{ByteRange, ContentId, Root};
use crate::share::tree::file::SharedFile;

/// Blocks that are read at once.
const AT_ONCE: u64 = 16;

/// The hash trees of contents that files here have or had.
#[derive(Clone, Debug)]
pub(crate) struct KnownTrees {
    pub(crate) roots: Option<Arc<Roots>>,
    pub(crate) captures: Arc<Captures>,
}

impl KnownTrees {
    /// Returns the part of the tree of `root` with `span` blocks from block `first` on, if
    /// it is known.
    ///
    /// # Errors
    /// That of a database that cannot be read.
    pub(crate) fn subtree(
        &self,
        root: Root,
        first: u64,
        span: u64,
    ) -> Result<Option<Subtree>, Error> {
        match (self.captures.subtree(root, first, span), &self.roots) {
            (None, Some(roots)) => roots.subtree(root, first, span),
            (captured, _) => Ok(captured),
        }
    }
}

/// A file that may still have a content that it once had.
#[derive(Debug)]
pub struct FormerFile {
    file: SharedFile,
    content: ContentId,
    trees: KnownTrees,
    /// The leaves of the subtree that was read last.
    leaves: Mutex<Option<(u64, Arc<Leaves>)>>,
}

impl FormerFile {
    pub(crate) fn new(file: SharedFile, content: ContentId, trees: KnownTrees) -> Self {
        Self {
            file,
            content,
            trees,
            leaves: Mutex::default(),
        }
    }

    /// Returns the content that the file had.
    pub fn content(&self) -> ContentId {
        self.content
    }

    /// Returns the next bytes of `range`, which is not empty and lies within the content: some of
    /// them, up to 256 KiB, all verified. `None` if the file no longer has the first of them.
    ///
    /// # Errors
    /// Those of pread(2).
    pub fn read(&self, range: ByteRange) -> io::Result<Option<Vec<u8>>> {
        let first = range.start / BLOCK;
        let in_subtree = SUBTREE_BLOCKS - first % SUBTREE_BLOCKS;
        let wanted = range.end.div_ceil(BLOCK) - first;
        let count = wanted.min(AT_ONCE).min(in_subtree);
        let Some(leaves) = self.leaves(first / SUBTREE_BLOCKS) else {
            return Ok(None);
        };
        let start = first * BLOCK;
        let end = self.content.size.min(start + count * BLOCK);
        let mut bytes = vec![0; (end - start) as usize];
        let filled = read_full(start, &mut bytes, |at, part| self.file.read_any(at, part))?;
        // What was truncated or overwritten is used up to the block in which the change begins.
        bytes.truncate(if filled == bytes.len() {
            filled
        } else {
            filled / BLOCK as usize * BLOCK as usize
        });
        let proven = longest_proven(&leaves, start, &bytes);
        bytes.truncate(proven);
        let before = (range.start - start) as usize;
        if proven <= before {
            return Ok(None);
        }
        bytes.truncate(bytes.len().min((range.end - start) as usize));
        bytes.drain(..before);
        Ok(Some(bytes))
    }

    fn leaves(&self, index: u64) -> Option<Arc<Leaves>> {
        if let Some((known, leaves)) = &*self.leaves.lock()
            && *known == index
        {
            return Some(Arc::clone(leaves));
        }
        let first = index * SUBTREE_BLOCKS;
        let subtree = self
            .trees
            .subtree(self.content.root, first, SUBTREE_BLOCKS)
            .unwrap_or_else(|error| {
                tracing::warn!(%error, "the hash tree of a content cannot be read");
                None
            });
        let leaves = Arc::new(subtree?.prove(self.content)?);
        *self.leaves.lock() = Some((index, Arc::clone(&leaves)));
        Some(leaves)
    }
}

/// Returns how many of `bytes`, which start at `start`, match `leaves`: all of them, or all blocks
/// before the first mismatch.
fn longest_proven(leaves: &Leaves, start: u64, bytes: &[u8]) -> usize {
    if leaves.check(start, bytes).is_ok() {
        return bytes.len();
    }
    let mut proven = 0;
    for block in bytes.chunks(BLOCK as usize) {
        if leaves.check(start + proven as u64, block).is_err() {
            break;
        }
        proven += block.len();
    }
    proven
}
