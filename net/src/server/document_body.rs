//! The body of an answer in plaintext that is written as it is sent.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Frame;

use super::work::Work;
use crate::service::plaintext::DocumentStream;

type ReadTask = Pin<Box<dyn Future<Output = io::Result<Option<(Vec<u8>, u64)>>> + Send + Sync>>;

/// A document in pieces. Ends in an error, which cuts the connection, as soon as a piece is
/// unavailable or the document turns out not to have the announced length.
pub(super) struct DocumentBody {
    document: Arc<dyn DocumentStream>,
    work: Work,
    /// The next piece, on its way; `None` behind the last one.
    next: Option<ReadTask>,
    /// Bytes of the document that are still to come.
    remaining: u64,
}

impl DocumentBody {
    pub(super) fn new(document: Arc<dyn DocumentStream>, work: Work) -> Self {
        Self {
            remaining: document.total_bytes(),
            next: Some(read(Arc::clone(&document), work.clone(), 0)),
            document,
            work,
        }
    }

    /// Returns how many bytes are still to come.
    pub(super) fn remaining(&self) -> u64 {
        self.remaining
    }

    pub(super) fn poll_piece(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Some(reading) = &mut self.next else {
            return Poll::Ready(None);
        };
        let read_piece = ready!(reading.as_mut().poll(context));
        self.next = None;
        let changed = || io::Error::other("the file is not what it was when it was looked at");
        match read_piece {
            Ok(None) if self.remaining == 0 => Poll::Ready(None),
            Ok(None) => Poll::Ready(Some(Err(changed()))),
            Ok(Some((piece, behind))) => {
                let Some(left) = self.remaining.checked_sub(piece.len() as u64) else {
                    return Poll::Ready(Some(Err(changed())));
                };
                self.remaining = left;
                let next = read(Arc::clone(&self.document), self.work.clone(), behind);
                self.next = Some(next);
                Poll::Ready(Some(Ok(Frame::data(piece.into()))))
            }
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }
}

/// Begins to read the piece at `position` once it is polled.
fn read(document: Arc<dyn DocumentStream>, work: Work, position: u64) -> ReadTask {
    Box::pin(async move { work.run(move || document.piece(position)).await? })
}
