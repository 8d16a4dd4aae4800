//! Fetching one batch: each file is checked as a whole before any reader gets it.

use std::sync::{Arc, Weak};
use std::time::Instant;

use super::staging::{Batch, FetchOutcome, PATIENCE};
use super::{KeptSmallFile, SmallFile, SmallFileReader};
use crate::concurrency::buffer_pool::PooledBuffer;
use crate::content::merkle::Verified;
use crate::download::Core;
use crate::download::content::FileBytes;
use crate::download::holder::{Availability, FileSource};
use crate::error::Error;
use crate::protocol::wire::{BatchAnswer, BatchItem};

impl Core {
    /// Fetches `batch` from `source`, which is one of its member's files, and hands the files to
    /// the readers that wait for them.
    pub(super) fn fetch_batch(&self, batch: &Batch, source: &FileSource) {
        let deadline = batch.asked + PATIENCE;
        if Instant::now() >= deadline {
            // It waited too long for a thread, which says nothing about this request.
            return self.smalls.fail(batch, false);
        }
        match fetch(batch, source, deadline) {
            Ok(answers) => {
                let files = batch.files.iter().zip(answers);
                let landed = files.map(|(file, answer)| self.check(file, answer, source));
                self.hand_out(batch, landed.collect());
            }
            Err(error) => {
                tracing::debug!(peer = %source.who(), %error, "a batch of small files failed");
                (self.on_failure)(batch.member, &error);
                self.smalls.fail(batch, true);
            }
        }
    }

    /// Returns whole files, or why not; those with a known root are proven and also cached on disk.
    fn check(
        &self,
        file: &SmallFile,
        answer: BatchAnswer,
        source: &FileSource,
    ) -> FetchOutcome<Arc<KeptSmallFile>> {
        let bytes = match answer {
            BatchAnswer::Whole(bytes) => bytes,
            BatchAnswer::Forbidden => {
                return FetchOutcome::Spoiled(Error::Forbidden { who: source.who() });
            }
            _ => return FetchOutcome::Not,
        };
        let bytes = PooledBuffer::from(bytes);
        let Some(content) = file.content() else {
            let origin = Arc::new(file.origin(source.peer.id()));
            let offset = 0;
            let content = FileBytes::FromOne {
                origin,
                offset,
                bytes,
            };
            self.received(source, file.size);
            return FetchOutcome::Here(Arc::new(KeptSmallFile::new(content, &self.held_bytes)));
        };
        let Ok((proven, leaves)) = Verified::whole(bytes, content) else {
            let error = Error::WrongBytes { who: source.who() };
            // Of the batch's files, `source` is only the one that triggered the request.
            let source = FileSource {
                path: file.path.clone(),
                has: Availability::File(file.version),
                ..source.clone()
            };
            self.blame(&source, Some(content));
            (self.on_failure)(source.peer.id(), &error);
            return FetchOutcome::Spoiled(error);
        };
        self.received(source, file.size);
        let proven = Arc::new(proven);
        // What this node shares itself is on this disk already.
        if let Some(cache) = self.cache.as_ref().filter(|_| !source.is_local) {
            cache.put(&leaves, Arc::clone(&proven));
        }
        let content = FileBytes::Proven(proven);
        FetchOutcome::Here(Arc::new(KeptSmallFile::new(content, &self.held_bytes)))
    }

    fn hand_out(&self, batch: &Batch, landed: Vec<FetchOutcome<Arc<KeptSmallFile>>>) {
        let mut staging = self.smalls.staging.lock();
        let replies = staging.land(batch, landed, Instant::now());
        drop(staging);
        for (reader, landed) in replies {
            let Some(reader) = Weak::<SmallFileReader>::upgrade(&reader) else {
                continue;
            };
            match landed {
                FetchOutcome::Here(kept) => reader.land(Some(kept)),
                FetchOutcome::Spoiled(error) => {
                    reader.shared.note_failure(batch.member, &error);
                    reader.land(None);
                }
                FetchOutcome::Not => reader.land(None),
            }
        }
    }
}

/// Returns one answer for each file of `batch`; whole files have the expected size.
fn fetch(batch: &Batch, source: &FileSource, deadline: Instant) -> Result<Vec<BatchAnswer>, Error> {
    let items = batch.files.iter().map(|file| BatchItem {
        path: file.path.clone(),
        version: file.version,
    });
    let items: Vec<BatchItem> = items.collect();
    let answers = source.peer.fetch(&items, deadline)?;
    let fits = |(file, answer): (&SmallFile, &BatchAnswer)| match answer {
        BatchAnswer::Whole(bytes) => bytes.len() as u64 == file.size,
        _ => true,
    };
    if answers.len() == items.len() && batch.files.iter().zip(&answers).all(fits) {
        Ok(answers)
    } else {
        let what = "small files of another number or size than was asked for";
        Err(Error::misbehaved(source.who(), what))
    }
}
