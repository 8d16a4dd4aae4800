//! A body of proven blocks, from the disk cache or from a file that had them, one
//! piece after another.
//!
//! Every piece is proven against its content root when it is read; unproven bytes are never
//! sent. A piece that turns out to be damaged or overwritten ends the body early, which
//! cuts the connection.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Frame;

use super::work::Work;
use crate::content::cache::{DiskCache, PIECE_BLOCKS};
use crate::content::merkle::BLOCK;
use crate::model::{ByteRange, ContentId};
use crate::share::FormerFile;

/// The source of proven blocks of a content.
#[derive(Clone)]
pub(super) enum Blocks {
    /// The disk cache.
    Cached(Arc<DiskCache>, ContentId),
    /// A shared file that formerly had the content.
    Former(Arc<FormerFile>),
}

impl Blocks {
    /// Reads the beginning of `range`, which is not empty: as much as is read at once. Returns
    /// `None` if it is not here.
    fn read(&self, range: ByteRange) -> Option<Bytes> {
        match self {
            Self::Cached(cache, content) => cached(cache, *content, range),
            Self::Former(file) => match file.read(range) {
                Ok(bytes) => bytes.map(Bytes::from),
                Err(error) => {
                    tracing::warn!(%error, "a shared file cannot be read");
                    None
                }
            },
        }
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

/// A body that sends a range of a content.
pub(super) struct BlocksBody {
    blocks: Blocks,
    /// The part not yet handed out.
    remaining: ByteRange,
    next: NextBlocks,
    work: Work,
}

enum NextBlocks {
    Ready(Bytes),
    Unread,
    Reading(Pin<Box<dyn Future<Output = io::Result<Option<Bytes>>> + Send + Sync>>),
}

impl BlocksBody {
    /// Reads the first piece of `range`, which is not empty, waiting for the disk. Returns `None`
    /// if it is not here.
    pub(super) fn begin(blocks: Blocks, range: ByteRange, work: Work) -> Option<Self> {
        let first = blocks.read(range)?;
        Some(Self {
            blocks,
            remaining: range,
            next: NextBlocks::Ready(first),
            work,
        })
    }

    /// Returns how many bytes are still to come.
    pub(super) fn remaining(&self) -> u64 {
        self.remaining.len()
    }

    pub(super) fn poll_piece(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.remaining.is_empty() {
            return Poll::Ready(None);
        }
        let piece = match ready!(self.poll_read(context)) {
            Ok(piece) => piece,
            Err(error) => return Poll::Ready(Some(Err(error))),
        };
        self.remaining.start += piece.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        if matches!(self.next, NextBlocks::Unread) {
            let (blocks, range, work) = (self.blocks.clone(), self.remaining, self.work.clone());
            self.next = NextBlocks::Reading(Box::pin(async move {
                work.run(move || blocks.read(range)).await
            }));
        }
        let piece = match &mut self.next {
            NextBlocks::Reading(reading) => ready!(reading.as_mut().poll(context)),
            NextBlocks::Ready(piece) => Ok(Some(std::mem::take(piece))),
            NextBlocks::Unread => return Poll::Pending,
        };
        self.next = NextBlocks::Unread;
        let gone = || io::Error::other("a block that was here has gone or is damaged");
        Poll::Ready(piece.and_then(|piece| piece.ok_or_else(gone)))
    }
}
