//! The body of an answer of 2004 that has the contents of a file in it, written as they are read.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Frame;

use super::work::Work;
use crate::legacy::server::piece;
use crate::legacy::wire::Form;
use crate::share::SharedFile;

type ReadTask = Pin<Box<dyn Future<Output = io::Result<(Vec<u8>, u64)>> + Send + Sync>>;

/// A document of contents. Ends in an error, which cuts the connection, as soon as the file is
/// no longer in the version in which it was opened, or the document turns out not to be as long
/// as was said.
pub(super) struct ContentsBody {
    form: Form,
    file: Arc<SharedFile>,
    work: Work,
    next: NextChunk,
    /// Bytes of the document that are still to come.
    remaining: u64,
}

enum NextChunk {
    Head,
    /// The contents from this offset on.
    Contents(u64),
    Reading(ReadTask),
    End,
}

impl ContentsBody {
    pub(super) fn new(form: Form, file: Arc<SharedFile>, work: Work) -> Self {
        Self {
            form,
            remaining: form.document_bytes(file.attributes().size),
            file,
            work,
            next: NextChunk::Head,
        }
    }

    /// How many bytes are still to come.
    pub(super) fn remaining(&self) -> u64 {
        self.remaining
    }

    pub(super) fn poll_piece(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let piece = match ready!(self.poll_next(context)) {
            Ok(Some(piece)) => piece,
            Ok(None) => return Poll::Ready(None),
            Err(error) => return Poll::Ready(Some(Err(error))),
        };
        let left = self.remaining.checked_sub(piece.len() as u64);
        let is_whole = !matches!(self.next, NextChunk::End) || left == Some(0);
        let Some(left) = left.filter(|_| is_whole) else {
            let why = io::Error::other("the file is not what it was when it was looked at");
            return Poll::Ready(Some(Err(why)));
        };
        self.remaining = left;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        loop {
            match &mut self.next {
                NextChunk::Head => {
                    self.next = NextChunk::Contents(0);
                    return Poll::Ready(Ok(Some(Bytes::from_static(self.form.head()))));
                }
                NextChunk::Contents(offset) if *offset >= self.file.attributes().size => {
                    self.next = NextChunk::End;
                    return Poll::Ready(Ok(Some(Bytes::from_static(self.form.tail()))));
                }
                NextChunk::Contents(offset) => {
                    let (file, form, offset) = (self.file.clone(), self.form, *offset);
                    let work = self.work.clone();
                    self.next = NextChunk::Reading(Box::pin(async move {
                        work.run(move || piece(&file, form, offset)).await?
                    }));
                }
                NextChunk::Reading(reading) => {
                    let (piece, behind) = ready!(reading.as_mut().poll(context))?;
                    self.next = NextChunk::Contents(behind);
                    return Poll::Ready(Ok(Some(piece.into())));
                }
                NextChunk::End => return Poll::Ready(Ok(None)),
            }
        }
    }
}
