//! Which small files are staged or on their way, and which to request next. Pure.
//!
//! Every staged file belongs to one run and is *coming* (requested), *here*, or *spoiled* (its
//! bytes were wrong). It leaves when it is read, or after a while. The sizes of all staged files
//! add up to less than [`ROOM`].

mod readahead;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::{ReadingOrder, SmallFile};
use crate::error::Error;
use crate::model::{PeerId, RelPath};
use readahead::{BatchPace, DirectoryAccess, Readahead};

/// Maximum bytes of all staged files, including those on their way.
const ROOM: u64 = 16 << 20;

/// Memory that a file takes besides its bytes.
const OVERHEAD: u64 = 512;

/// A file that nobody reads within this time is dropped.
const KEPT: Duration = Duration::from_secs(10);

/// A batch must arrive within this time; after that, its readers fall back to the ordinary
/// download. Even so, the total stays within the time limit of a read.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// Files in one batch. A batched file costs a tenth of a request of its own; larger batches gain
/// little, as measured.
pub(super) const MAX_BATCH_FILES: usize = 100;

/// Identifies a file: its member, path and version, and its description at the time.
pub(super) type SmallFileKey = (PeerId, SmallFile);

/// Staged small files of all members. `R` is a waiting reader, `C` is a content.
pub(super) struct Staging<R, C> {
    files: HashMap<SmallFileKey, File<R, C>>,
    runs: HashMap<u64, Readahead>,
    walks: HashMap<RelPath, DirectoryAccess>,
    paces: HashMap<PeerId, BatchPace>,
    bytes: u64,
    next_run: u64,
}

struct File<R, C> {
    state: State<R, C>,
    run: u64,
    bytes: u64,
    until: Instant,
}

enum State<R, C> {
    Coming(Vec<R>),
    Here(C),
    Spoiled(Error),
}

/// What is staged of a file that is being read.
pub(super) enum StagedFile<C> {
    /// All of it; its run continues.
    Here(C, u64),
    /// It is on its way, and the reader will be notified.
    Coming(u64),
    /// This source sent wrong bytes.
    Spoiled(SmallFileKey, Error),
    /// Nothing of it is staged.
    Nothing,
}

/// Files to ask one member for.
pub(super) struct Batch {
    pub(super) member: PeerId,
    pub(super) files: Vec<SmallFile>,
    pub(super) asked: Instant,
    run: u64,
}

/// Where a run should continue.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NextFiles {
    pub(super) member: PeerId,
    pub(super) order: ReadingOrder,
    /// The last file that it has requested.
    pub(super) after: RelPath,
    pub(super) max: usize,
}

/// The outcome for one file of a batch.
#[derive(Clone)]
pub(super) enum FetchOutcome<C> {
    Here(C),
    Spoiled(Error),
    /// Available by the ordinary download, if at all.
    Not,
}

impl<R, C> Default for Staging<R, C> {
    fn default() -> Self {
        Self {
            files: HashMap::new(),
            runs: HashMap::new(),
            walks: HashMap::new(),
            paces: HashMap::new(),
            bytes: 0,
            next_run: 0,
        }
    }
}

impl<R, C> Staging<R, C> {
    /// Looks for a file under any of its keys, and takes it out if it has arrived.
    pub(super) fn find(&mut self, keys: &[SmallFileKey], reader: R, now: Instant) -> StagedFile<C> {
        let Some(key) = keys.iter().find(|key| self.files.contains_key(key)) else {
            return StagedFile::Nothing;
        };
        if let Some(file) = self.files.get_mut(key)
            && let State::Coming(readers) = &mut file.state
        {
            let (run, is_first, bytes) = (file.run, readers.is_empty(), file.bytes);
            readers.push(reader);
            if is_first {
                self.was_read(run, bytes, now);
            }
            if let Some(run) = self.runs.get_mut(&run) {
                run.starved = true;
            }
            return StagedFile::Coming(run);
        }
        match self.remove(key) {
            Some(File {
                state: State::Here(content),
                run,
                bytes,
                ..
            }) => {
                self.was_read(run, bytes, now);
                StagedFile::Here(content, run)
            }
            Some(File {
                state: State::Spoiled(error),
                ..
            }) => StagedFile::Spoiled(key.clone(), error),
            _ => StagedFile::Nothing,
        }
    }

    /// Stores the answers of a batch, which are in the order of its files. Returns the waiting
    /// readers, each with its file's index in the batch.
    pub(super) fn land(
        &mut self,
        batch: &Batch,
        landed: Vec<FetchOutcome<C>>,
        now: Instant,
    ) -> Vec<(R, FetchOutcome<C>)>
    where
        C: Clone,
    {
        let pace = self.pace(batch.member);
        pace.took(now.saturating_duration_since(batch.asked));
        if landed
            .iter()
            .any(|landed| matches!(landed, FetchOutcome::Spoiled(_)))
        {
            pace.pause(now);
        }
        self.settle(batch, landed, now)
    }

    /// Records that a batch failed. Returns the readers that waited for it. `blame` means to leave
    /// the member alone for a while.
    pub(super) fn fail(&mut self, batch: &Batch, blame: bool, now: Instant) -> Vec<R>
    where
        C: Clone,
    {
        if blame {
            self.pace(batch.member).pause(now);
        }
        let none = batch.files.iter().map(|_| FetchOutcome::Not).collect();
        let replies = self.settle(batch, none, now).into_iter();
        replies.map(|(reader, _)| reader).collect()
    }

    fn settle(
        &mut self,
        batch: &Batch,
        landed: Vec<FetchOutcome<C>>,
        now: Instant,
    ) -> Vec<(R, FetchOutcome<C>)>
    where
        C: Clone,
    {
        self.end_asking(batch);
        let mut replies = Vec::new();
        for (file, landed) in batch.files.iter().zip(landed) {
            let key = file.key(batch.member);
            // It may have been given up, and even have been requested again.
            let is_ours =
                |file: &File<R, C>| file.run == batch.run && matches!(file.state, State::Coming(_));
            if !self.files.get(&key).is_some_and(is_ours) {
                continue;
            }
            let Some(file) = self.remove(&key) else {
                continue;
            };
            let State::Coming(readers) = file.state else {
                continue;
            };
            let is_ahead = readers.is_empty();
            for reader in readers {
                replies.push((reader, landed.clone()));
            }
            if is_ahead && !matches!(landed, FetchOutcome::Here(_)) {
                self.was_lost(file.run, file.bytes);
            }
            let state = match landed {
                FetchOutcome::Here(content) if is_ahead => State::Here(content),
                FetchOutcome::Spoiled(error) => State::Spoiled(error),
                _ => continue,
            };
            self.bytes += file.bytes;
            let until = now + KEPT;
            self.files.insert(
                key,
                File {
                    state,
                    until,
                    ..file
                },
            );
        }
        replies
    }

    /// Returns true if nothing has to be removed later.
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty() && self.runs.is_empty() && self.walks.is_empty()
    }

    /// Removes what is too old. Returns the readers that waited for it, and the contents, to be
    /// dropped without the lock.
    pub(super) fn tidy(&mut self, now: Instant) -> (Vec<R>, Vec<C>) {
        let (mut waiting, mut dropped) = (Vec::new(), Vec::new());
        let old = self.files.iter().filter(|(_, file)| file.until <= now);
        let old: Vec<SmallFileKey> = old.map(|(key, _)| key.clone()).collect();
        for key in old {
            let Some(file) = self.remove(&key) else {
                continue;
            };
            match file.state {
                State::Coming(readers) if !readers.is_empty() => {
                    waiting.extend(readers);
                    continue;
                }
                State::Here(content) => dropped.push(content),
                State::Coming(_) => {}
                State::Spoiled(_) => continue,
            }
            self.was_lost(file.run, file.bytes);
        }
        let is_recent = |touched: Instant| now.saturating_duration_since(touched) < KEPT;
        self.runs
            .retain(|_, run| run.ahead > 0 || is_recent(run.touched));
        self.walks.retain(|_, walk| is_recent(walk.touched));
        (waiting, dropped)
    }

    fn remove(&mut self, key: &SmallFileKey) -> Option<File<R, C>> {
        let file = self.files.remove(key)?;
        self.bytes -= file.bytes;
        Some(file)
    }

    fn end_asking(&mut self, batch: &Batch) {
        if let Some(run) = self.runs.get_mut(&batch.run) {
            run.asking = run.asking.saturating_sub(1);
        }
    }

    /// Records that a file of a run was read.
    fn was_read(&mut self, number: u64, bytes: u64, now: Instant) {
        self.was_lost(number, bytes);
        let Some(run) = self.runs.get_mut(&number) else {
            return;
        };
        run.touched = now;
        if let Some(walk) = self.walks.get_mut(&run.directory) {
            walk.touched = now;
        }
    }

    /// Records that a file of a run is no longer ahead of its reader.
    fn was_lost(&mut self, number: u64, bytes: u64) {
        if let Some(run) = self.runs.get_mut(&number) {
            run.ahead -= 1;
            run.ahead_bytes -= bytes;
        }
    }
}

#[cfg(test)]
mod tests;
