//! One slot of the disk cache: a few blocks of content, with the proof that they belong to their
//! root. So a slot can be checked alone, whoever wrote it and however it was torn.
//!
//! Layout: a header of 4 KiB (magic, checksum, root, size, position, leaves, uncles; the rest
//! zero), then the bytes. Numbers are little-endian. The checksum distinguishes a damaged
//! header, whose slot is dropped, from a sound one of a content other than the requested one,
//! whose slot is kept.

use crate::content::merkle::{BLOCK, Hash, Leaves, Shape, Subtree, leaf};
use crate::model::{ContentId, Root};

/// Bytes before the content; a page, so that content stays aligned.
pub(super) const HEADER: usize = 4096;

/// The last digit is the generation: slots of an older one count as empty. In the first generation,
/// the size may never have been proven.
const MAGIC: &[u8; 8] = b"tp2pblk2";

/// Bytes of the checksum, taken from the SHA-256 of what follows it.
const CHECKSUM: usize = 8;

/// Bytes of the header before its hashes.
const FIXED: usize = 8 + CHECKSUM + 32 + 8 + 8 + 4 + 4 + 4;

/// What a slot claims to hold; nothing of it is proven before [`Header::leaves_for`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Header {
    /// The content, with the size that its reader knew: proven to the block, and to the byte if the
    /// slot has the last block.
    pub(super) content: ContentId,
    pub(super) proof: Subtree,
}

impl Header {
    /// Creates the header for the blocks that `leaves` prove from block `first` on.
    pub(super) fn new(leaves: &Leaves, first: u64, span: u64) -> Option<Self> {
        let proof = leaves.narrow(first, span)?;
        let fits = FIXED + 32 * (proof.leaves.len() + proof.uncles.len()) <= HEADER;
        fits.then_some(Self {
            content: leaves.content(),
            proof,
        })
    }

    /// Returns the slot's key in the index.
    pub(super) fn key(&self) -> u64 {
        key(&self.content.root, self.proof.first)
    }

    /// Returns how many bytes of content follow.
    pub(super) fn content_bytes(&self) -> u64 {
        let start = self.proof.first.saturating_mul(BLOCK);
        self.content
            .size
            .saturating_sub(start)
            .min(self.proof.span.saturating_mul(BLOCK))
    }

    /// Returns true if these are blocks of `content`, judging by what was proven when they were
    /// stored: a root has one number of blocks, and the last block one length.
    pub(super) fn is_of(&self, content: ContentId) -> bool {
        let ends_here =
            self.proof.first.saturating_add(self.proof.span) >= self.content.size.div_ceil(BLOCK);
        self.content.root == content.root
            && Shape::of(self.content.size) == Shape::of(content.size)
            && (self.content.size == content.size || !ends_here)
    }

    /// Returns the leaves, proven for `content`.
    pub(super) fn leaves_for(self, content: ContentId) -> Option<Leaves> {
        self.proof.prove(content)
    }

    pub(super) fn encode(&self) -> [u8; HEADER] {
        let (leaves, uncles) = (&self.proof.leaves, &self.proof.uncles);
        let mut fields = Vec::with_capacity(HEADER);
        fields.extend_from_slice(MAGIC);
        fields.extend_from_slice(&[0; CHECKSUM]);
        fields.extend_from_slice(self.content.root.as_bytes());
        fields.extend_from_slice(&self.content.size.to_le_bytes());
        fields.extend_from_slice(&self.proof.first.to_le_bytes());
        for count in [self.proof.span, leaves.len() as u64, uncles.len() as u64] {
            fields.extend_from_slice(&(count as u32).to_le_bytes());
        }
        for hash in leaves.iter().chain(uncles) {
            fields.extend_from_slice(hash);
        }
        let (start, rest) = fields.split_at_mut(MAGIC.len() + CHECKSUM);
        start[MAGIC.len()..].copy_from_slice(&checksum(rest));
        fields.resize(HEADER, 0);
        let mut header = [0; HEADER];
        header.copy_from_slice(&fields);
        header
    }

    /// Reads a header; `None` for anything that [`Header::encode`] did not write.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = SlotFields(bytes.get(..HEADER)?);
        if fields.take::<8>()? != *MAGIC {
            return None;
        }
        let sum = fields.take::<CHECKSUM>()?;
        let summed = fields.0;
        let root = Root::from_bytes(fields.take::<32>()?);
        let size = u64::from_le_bytes(fields.take()?);
        let first = u64::from_le_bytes(fields.take()?);
        let span = u64::from(u32::from_le_bytes(fields.take()?));
        let leaves = u32::from_le_bytes(fields.take()?) as usize;
        let uncles = u32::from_le_bytes(fields.take()?) as usize;
        if leaves.saturating_add(uncles) > (HEADER - FIXED) / 32 {
            return None;
        }
        let (leaves, uncles) = (fields.hashes(leaves)?, fields.hashes(uncles)?);
        let summed = summed.get(..summed.len() - fields.0.len())?;
        if checksum(summed) != sum {
            return None;
        }
        Some(Self {
            content: ContentId { root, size },
            proof: Subtree {
                first,
                span,
                leaves,
                uncles,
            },
        })
    }
}

fn checksum(fields: &[u8]) -> [u8; CHECKSUM] {
    let digest = leaf(fields);
    digest.first_chunk().copied().unwrap_or_default()
}

struct SlotFields<'a>(&'a [u8]);

impl SlotFields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    fn hashes(&mut self, count: usize) -> Option<Vec<Hash>> {
        (0..count).map(|_| self.take()).collect()
    }
}

/// An odd number, so that multiplying by it is reversible, and its inverse modulo 2^64.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
const GATHER: u64 = 0xf1de_83e1_9937_733d;

/// Returns the key of a slot in the index. A collision only costs a failed check, so 64 bits of the
/// root (which is a hash) are enough.
pub(super) fn key(root: &Root, first: u64) -> u64 {
    head(root) ^ first.wrapping_mul(SPREAD)
}

/// Returns the block of `root` that has this key. For keys of other contents the result is a
/// meaningless number, most likely beyond the end of any file.
pub(super) fn first_block(root: &Root, key: u64) -> u64 {
    (head(root) ^ key).wrapping_mul(GATHER)
}

fn head(root: &Root) -> u64 {
    let head = root.as_bytes().first_chunk::<8>();
    u64::from_le_bytes(head.copied().unwrap_or_default())
}
