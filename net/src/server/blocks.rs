//! The proven blocks of a content, from the disk cache or from a file that had them.
//!
//! Every piece is proven against its content root when it is read; unproven bytes are never
//! sent. A piece that turns out to be damaged or overwritten ends the body early, which
//! cuts the connection.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::body::PieceSource;
use crate::content::cache::{DiskCache, PIECE_BLOCKS};
use crate::content::merkle::BLOCK;
use crate::model::{ByteRange, ContentId};
use crate::share::FormerFile;

/// The source of proven blocks of a content.
pub(super) enum Blocks {
    /// The disk cache.
    Cached(Arc<DiskCache>, ContentId),
    /// A shared file that formerly had the content.
    Former(Box<FormerFile>),
}

impl PieceSource for Blocks {
    fn read(&self, position: u64, left: u64) -> io::Result<(Bytes, u64)> {
        let range = ByteRange::new(position, position + left);
        let bytes = match self {
            Self::Cached(cache, content) => cached(cache, *content, range),
            Self::Former(file) => match file.read(range) {
                Ok(bytes) => bytes.map(Bytes::from),
                Err(error) => {
                    tracing::warn!(%error, "a shared file cannot be read");
                    None
                }
            },
        };
        let gone = || io::Error::other("a block that was here has gone or is damaged");
        let bytes = bytes.ok_or_else(gone)?;
        let end = position + bytes.len() as u64;
        Ok((bytes, end))
    }
}

/// Returns what one slot of the cache has of `range`, from its beginning on.
fn cached(cache: &DiskCache, content: ContentId, range: ByteRange) -> Option<Bytes> {
    let first = range.start / BLOCK;
    let max = range.end.div_ceil(BLOCK) - first;
    let proven = cache.get(content, first, max.min(PIECE_BLOCKS))?;
    let bytes = Bytes::from(proven.into_inner());
    let before = range.start - first * BLOCK;
    let length = (bytes.len() as u64).checked_sub(before)?.min(range.len());
    let (start, length) = (before as usize, length as usize);
    (length > 0).then(|| bytes.slice(start..start + length))
}
