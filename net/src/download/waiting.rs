//! Reading for those who have a thread of their own to wait on.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Instant;

use super::pieces::PIECE;
use super::{Download, Patience};
use crate::error::Error;
use crate::types::ByteRange;

/// What comes of one read.
type Answer<T> = Receiver<Result<T, Error>>;

impl Download {
    /// What `take` makes of the bytes of `range`, or why they cannot be had. `None` if they have not
    /// come by `deadline`; then nobody waits for them any more.
    pub fn read_by<T: Send + 'static>(
        &self,
        range: ByteRange,
        deadline: Instant,
        take: impl FnOnce(&[u8]) -> T + Send + 'static,
    ) -> Option<Result<T, Error>> {
        wait(&self.begin(range, take), deadline)
    }

    /// All bytes from `offset` on, one after the other.
    pub fn read_on(&self, offset: u64) -> SequentialReader<'_> {
        SequentialReader {
            download: self,
            offset,
            awaited: None,
            bytes: Vec::new(),
        }
    }

    fn begin<T: Send + 'static>(
        &self,
        range: ByteRange,
        take: impl FnOnce(&[u8]) -> T + Send + 'static,
    ) -> Answer<T> {
        let (sender, receiver) = mpsc::channel();
        let done = move |bytes: Result<&[u8], Error>| {
            // Whoever asked may have given up.
            let _ = sender.send(bytes.map(take));
        };
        self.read(range, Patience::None, Box::new(done));
        receiver
    }
}

/// What has come by `deadline`; at least what is there already.
fn wait<T>(answer: &Answer<T>, deadline: Instant) -> Option<Result<T, Error>> {
    let left = deadline.saturating_duration_since(Instant::now());
    match answer.recv_timeout(left) {
        Ok(outcome) => Some(outcome),
        Err(RecvTimeoutError::Timeout) => None,
        // Every read is answered.
        Err(RecvTimeoutError::Disconnected) => Some(Err(super::streams::closed())),
    }
}

/// Reads a file in order, piece by piece. What comes next is on its way meanwhile, from as many
/// holders as there are, as far as the window of the download goes.
pub struct SequentialReader<'a> {
    download: &'a Download,
    /// Where the next piece begins.
    offset: u64,
    awaited: Option<Answer<Vec<u8>>>,
    /// The last piece; its memory is used again.
    bytes: Vec<u8>,
}

impl SequentialReader<'_> {
    /// The next piece, which is empty at the end of the file, or why it cannot be had. `None` if it
    /// has not come by `deadline`; the next call goes on waiting for it.
    pub fn next_by(&mut self, deadline: Instant) -> Option<Result<&[u8], Error>> {
        let size = self.download.shared.expected.size();
        if self.offset >= size {
            return Some(Ok(&[]));
        }
        let (download, offset, bytes) = (self.download, self.offset, &mut self.bytes);
        let awaited = self.awaited.get_or_insert_with(|| {
            let end = size.min((offset / PIECE + 1) * PIECE);
            let mut bytes = std::mem::take(bytes);
            download.begin(ByteRange::new(offset, end), move |piece: &[u8]| {
                bytes.clear();
                bytes.extend_from_slice(piece);
                bytes
            })
        });
        let outcome = wait(awaited, deadline)?;
        self.awaited = None;
        let piece = outcome.map(|piece| {
            self.offset += piece.len() as u64;
            self.bytes = piece;
            &*self.bytes
        });
        Some(piece)
    }
}
