//! The bodies of responses: nothing, a buffer, or a range of a file as it is read.
//!
//! A file is read in pieces of 256 KiB into reusable buffers. Pieces in the page cache are read
//! right in `poll_frame`; only the others go to a blocking thread. Passing each piece to another
//! thread and allocating it afresh cost a fifth of the throughput.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::blocks::BlocksBody;
use super::connection_limits::RequestGuard;
use super::document_body::DocumentBody;
use super::work::Work;
use crate::concurrency::buffer_pool::{BufferPool, PooledBuffer};
use crate::model::ByteRange;
use crate::share::SharedFile;

/// The size read and passed to TLS at once.
const PIECE: usize = 256 * 1024;

/// Spare buffers kept: 8 MiB.
const MAX_SPARE: usize = 32;

/// The body of a response.
pub(super) struct Body {
    kind: BodyKind,
    /// Dropped with the body, once hyper has taken all of it.
    _answered: Option<RequestGuard>,
}

enum BodyKind {
    /// Taken out when it is sent.
    Full(Bytes),
    File(FileBody),
    Blocks(BlocksBody),
    Document(DocumentBody),
}

impl From<BodyKind> for Body {
    fn from(kind: BodyKind) -> Self {
        Self {
            kind,
            _answered: None,
        }
    }
}

impl Body {
    /// Returns a body without bytes.
    pub(super) fn empty() -> Self {
        Self::full(Bytes::new())
    }

    /// Returns a body of these bytes.
    pub(super) fn full(bytes: Bytes) -> Self {
        BodyKind::Full(bytes).into()
    }

    /// Returns a body that sends a range of a file.
    pub(super) fn file(file: FileBody) -> Self {
        BodyKind::File(file).into()
    }

    /// Returns a body that sends a range of a cached content.
    pub(super) fn blocks(blocks: BlocksBody) -> Self {
        BodyKind::Blocks(blocks).into()
    }

    /// Counts the answered request as under way until this body was sent.
    pub(super) fn until_sent(self, request: RequestGuard) -> Self {
        Self {
            _answered: Some(request),
            ..self
        }
    }

    /// Returns a body that writes a document as it is sent.
    pub(super) fn document(document: DocumentBody) -> Self {
        BodyKind::Document(document).into()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut self.kind {
            BodyKind::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            BodyKind::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            BodyKind::File(file) => file.poll_piece(context),
            BodyKind::Blocks(blocks) => blocks.poll_piece(context),
            BodyKind::Document(document) => document.poll_piece(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.size_hint().exact() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match &self.kind {
            BodyKind::Full(bytes) => bytes.len() as u64,
            BodyKind::File(file) => file.remaining.len(),
            BodyKind::Blocks(blocks) => blocks.remaining(),
            BodyKind::Document(document) => document.remaining(),
        })
    }
}

/// A range of a file that still has the version in which it was opened. Once it has not, the body
/// ends in an error, which cuts the connection.
pub(super) struct FileBody {
    file: Arc<SharedFile>,
    /// The part not yet handed out.
    remaining: ByteRange,
    next: NextPiece,
    work: Work,
    buffers: Arc<BufferPool>,
}

enum NextPiece {
    Ready(Bytes),
    Unread,
    Reading(Pin<Box<dyn Future<Output = io::Result<Bytes>> + Send + Sync>>),
}

impl FileBody {
    /// Reads the first piece, waiting for the disk if need be.
    pub(super) fn begin(
        file: &Arc<SharedFile>,
        range: ByteRange,
        work: Work,
        buffers: &Arc<BufferPool>,
    ) -> io::Result<Self> {
        let first = read_piece(file, range, buffers.take(wanted(range)))?;
        Ok(Self::behind(first, file, range, work, buffers))
    }

    /// Reads the first piece if that needs no wait for the disk; otherwise returns `None`.
    pub(super) fn begin_now(
        file: &Arc<SharedFile>,
        range: ByteRange,
        work: Work,
        buffers: &Arc<BufferPool>,
    ) -> io::Result<Option<Self>> {
        let mut buffer = buffers.take(wanted(range));
        let first = match file.read_at_now(range.start, &mut buffer)? {
            Some(0) | None => return Ok(None),
            Some(count) => filled(buffer, count)?,
        };
        Ok(Some(Self::behind(first, file, range, work, buffers)))
    }

    fn behind(
        first: Bytes,
        file: &Arc<SharedFile>,
        remaining: ByteRange,
        work: Work,
        buffers: &Arc<BufferPool>,
    ) -> Self {
        Self {
            file: Arc::clone(file),
            remaining,
            next: NextPiece::Ready(first),
            work,
            buffers: Arc::clone(buffers),
        }
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.remaining.is_empty() {
            return Poll::Ready(None);
        }
        let piece = match ready!(self.poll_read(context)) {
            Ok(piece) => piece,
            Err(error) => return Poll::Ready(Some(Err(error))),
        };
        self.next = NextPiece::Unread;
        self.remaining.start += piece.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        if matches!(self.next, NextPiece::Unread) {
            let mut buffer = self.buffers.take(wanted(self.remaining));
            match self.file.read_at_now(self.remaining.start, &mut buffer)? {
                Some(count) => return Poll::Ready(filled(buffer, count)),
                None => self.next = NextPiece::Reading(self.read_later(buffer)),
            }
        }
        match &mut self.next {
            NextPiece::Reading(reading) => reading.as_mut().poll(context),
            NextPiece::Ready(piece) => Poll::Ready(Ok(std::mem::take(piece))),
            NextPiece::Unread => Poll::Pending,
        }
    }

    fn read_later(
        &self,
        buffer: PooledBuffer,
    ) -> Pin<Box<dyn Future<Output = io::Result<Bytes>> + Send + Sync>> {
        let (file, remaining, work) = (self.file.clone(), self.remaining, self.work.clone());
        Box::pin(async move {
            work.run(move || read_piece(&file, remaining, buffer))
                .await?
        })
    }
}

/// Returns how much of `remaining` goes into one piece.
fn wanted(remaining: ByteRange) -> usize {
    usize::try_from(remaining.len()).map_or(PIECE, |length| length.min(PIECE))
}

fn read_piece(
    file: &SharedFile,
    remaining: ByteRange,
    mut buffer: PooledBuffer,
) -> io::Result<Bytes> {
    if buffer.is_empty() {
        return Ok(Bytes::new());
    }
    let count = file.read_at(remaining.start, &mut buffer)?;
    filled(buffer, count)
}

/// Returns the first `count` bytes. There must be some: the range lies within the file.
fn filled(mut buffer: PooledBuffer, count: usize) -> io::Result<Bytes> {
    if count == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    buffer.truncate(count);
    Ok(Bytes::from_owner(buffer))
}

/// Creates a pool of buffers for pieces.
pub(super) fn piece_buffers() -> Arc<BufferPool> {
    BufferPool::new(PIECE, MAX_SPARE)
}
