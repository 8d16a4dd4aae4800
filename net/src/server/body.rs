//! The bodies of responses: nothing, a buffer, or pieces that are read as they are sent.
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

use super::connection_limits::RequestGuard;
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
    Pieces(PieceBody),
}

impl Body {
    fn new(kind: BodyKind) -> Self {
        Self {
            kind,
            _answered: None,
        }
    }

    /// Returns a body without bytes.
    pub(super) fn empty() -> Self {
        Self::full(Bytes::new())
    }

    /// Returns a body of these bytes.
    pub(super) fn full(bytes: Bytes) -> Self {
        Self::new(BodyKind::Full(bytes))
    }

    /// Returns a body that is read as it is sent.
    pub(super) fn pieces(pieces: PieceBody) -> Self {
        Self::new(BodyKind::Pieces(pieces))
    }

    /// Counts the answered request as under way until this body was sent.
    pub(super) fn until_sent(self, request: RequestGuard) -> Self {
        Self {
            _answered: Some(request),
            ..self
        }
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
            BodyKind::Pieces(pieces) if pieces.left == 0 => Poll::Ready(None),
            BodyKind::Pieces(pieces) => {
                let piece = ready!(pieces.poll_piece(context));
                Poll::Ready(Some(piece.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.size_hint().exact() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match &self.kind {
            BodyKind::Full(bytes) => bytes.len() as u64,
            BodyKind::Pieces(pieces) => pieces.left,
        })
    }
}

/// What a body is read from.
pub(super) trait PieceSource: Send + Sync {
    /// Reads the piece at `position`, which has at least one of the `left` bytes still to come.
    /// Also returns the position behind it. May wait for a disk. An error ends the body early,
    /// which cuts the connection.
    fn read(&self, position: u64, left: u64) -> io::Result<(Bytes, u64)>;

    /// Does the same if that needs no wait for a disk; otherwise returns `None`.
    fn read_now(&self, _position: u64, _left: u64) -> io::Result<Option<(Bytes, u64)>> {
        Ok(None)
    }
}

/// A body of pieces. Ends in an error as soon as one is unavailable or too long.
pub(super) struct PieceBody {
    source: Arc<dyn PieceSource>,
    position: u64,
    /// The bytes not yet handed out.
    left: u64,
    next: NextPiece,
    work: Work,
}

type ReadTask = Pin<Box<dyn Future<Output = io::Result<(Bytes, u64)>> + Send + Sync>>;

enum NextPiece {
    Ready(Bytes, u64),
    Unread,
    Reading(ReadTask),
}

impl PieceBody {
    /// Creates a body of `left` bytes from position 0 on.
    pub(super) fn new(source: Arc<dyn PieceSource>, left: u64, work: Work) -> Self {
        Self {
            source,
            position: 0,
            left,
            next: NextPiece::Unread,
            work,
        }
    }

    /// Creates a body of `range`, whose first piece it reads, waiting for the disk if need be.
    pub(super) fn begin(
        source: Arc<dyn PieceSource>,
        range: ByteRange,
        work: Work,
    ) -> io::Result<Self> {
        let first = match range.len() {
            0 => None,
            left => Some(source.read(range.start, left)?),
        };
        Ok(Self::behind(first, source, range, work))
    }

    /// Creates a body of `range` if its first piece needs no wait for the disk.
    pub(super) fn begin_now(
        source: Arc<dyn PieceSource>,
        range: ByteRange,
        work: Work,
    ) -> io::Result<Option<Self>> {
        let first = source.read_now(range.start, range.len())?;
        Ok(first.map(|first| Self::behind(Some(first), source, range, work)))
    }

    fn behind(
        first: Option<(Bytes, u64)>,
        source: Arc<dyn PieceSource>,
        range: ByteRange,
        work: Work,
    ) -> Self {
        Self {
            position: range.start,
            next: first.map_or(NextPiece::Unread, |(piece, end)| {
                NextPiece::Ready(piece, end)
            }),
            ..Self::new(source, range.len(), work)
        }
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let (piece, end) = ready!(self.poll_read(context))?;
        (self.position, self.next) = (end, NextPiece::Unread);
        let left = self.left.checked_sub(piece.len() as u64);
        self.left = left.ok_or_else(|| io::Error::other("more than was announced"))?;
        Poll::Ready(Ok(piece))
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<(Bytes, u64)>> {
        let (position, left) = (self.position, self.left);
        if matches!(self.next, NextPiece::Unread) {
            if let Some(piece) = self.source.read_now(position, left)? {
                return Poll::Ready(Ok(piece));
            }
            let (source, work) = (Arc::clone(&self.source), self.work.clone());
            self.next = NextPiece::Reading(Box::pin(async move {
                work.run(move || source.read(position, left)).await?
            }));
        }
        match &mut self.next {
            NextPiece::Reading(reading) => reading.as_mut().poll(context),
            NextPiece::Ready(piece, end) => Poll::Ready(Ok((std::mem::take(piece), *end))),
            NextPiece::Unread => Poll::Pending,
        }
    }
}

/// The bytes of a file that still has the version in which it was opened.
pub(super) struct FilePieces {
    pub(super) file: SharedFile,
    pub(super) buffers: Arc<BufferPool>,
}

impl FilePieces {
    fn buffer(&self, left: u64) -> PooledBuffer {
        let length = usize::try_from(left).map_or(PIECE, |length| length.min(PIECE));
        self.buffers.take(length)
    }
}

impl PieceSource for FilePieces {
    fn read(&self, position: u64, left: u64) -> io::Result<(Bytes, u64)> {
        let mut buffer = self.buffer(left);
        match self.file.read_at(position, &mut buffer)? {
            // The range lies within the file.
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => Ok(filled(buffer, position, count)),
        }
    }

    fn read_now(&self, position: u64, left: u64) -> io::Result<Option<(Bytes, u64)>> {
        let mut buffer = self.buffer(left);
        let count = self.file.read_at_now(position, &mut buffer)?;
        let count = count.filter(|count| *count > 0);
        Ok(count.map(|count| filled(buffer, position, count)))
    }
}

/// Returns the first `count` bytes, and the position behind them.
fn filled(mut buffer: PooledBuffer, position: u64, count: usize) -> (Bytes, u64) {
    buffer.truncate(count);
    (Bytes::from_owner(buffer), position + count as u64)
}

/// Creates a pool of buffers for pieces.
pub(super) fn piece_buffers() -> Arc<BufferPool> {
    BufferPool::new(PIECE, MAX_SPARE)
}
