//! Small files without a round trip each: while a reader goes through a directory, the next files
//! come in batches.
//!
//! [`UpcomingFiles`] knows which files follow in a directory; `staging.rs` decides what to request
//! and keeps it until it is read; `batch.rs` fetches and checks it. A [`SmallFileReader`] stands
//! before a small file's ordinary download: its first read takes the file from the staging area,
//! waits for it there, or falls back to the ordinary download. So does every read for which a batch
//! did not bring the file, for any reason, and the time spent waiting counts.
//!
//! No lock here is held while another one is taken, or during a callback or network call.

mod batch;
pub(crate) mod staging;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;

use super::content::{ExpectedContent, FileBytes, Origin};
use super::file_reader::FileReader;
use super::holder::{Availability, FileSource};
use super::read_table::{ParkedRead, closed};
use super::{Core, ReadCallback, ReaderPatience, mixed_up};
use crate::error::Error;
use crate::model::{ByteRange, ContentId, PeerId, RelPath, Root, Version};
use staging::{Batch, SmallFileKey, StagedFile, Staging};

/// A small file, as a listing describes it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SmallFile {
    /// The file's path at the member to fetch it from.
    pub path: RelPath,
    /// The state of the file there.
    pub version: Version,
    /// Bytes; at least 1, at most [`MAX_SMALL_FILE`](crate::protocol::wire::MAX_SMALL_FILE).
    pub size: u64,
    /// The content root, if it is known.
    pub root: Option<Root>,
}

impl SmallFile {
    /// Returns its key in the staging area. The key holds the whole description at the time of the
    /// request, so a file is never taken for one that the member describes otherwise later.
    fn key(&self, member: PeerId) -> SmallFileKey {
        (member, self.clone())
    }

    /// Returns the content, if its root is known.
    fn content(&self) -> Option<ContentId> {
        let size = self.size;
        self.root.map(|root| ContentId { root, size })
    }

    /// Returns the origin of its bytes, if they cannot be proven.
    fn origin(&self, member: PeerId) -> Origin {
        Origin::new(member, &self.path, self.version, self.size)
    }
}

/// The order in which a program reads the files of a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadingOrder {
    /// By name, as listings order them.
    ByName,
    /// By inode number, as `cp -r` and others do it.
    ByNumber,
}

/// Knows the contents of the directories that are being read.
pub trait UpcomingFiles: Send + Sync {
    /// Returns the small files behind `path` in its directory that can be read from `member`, in
    /// `order`, at most `max`. Files not known at once are left out: this never waits.
    fn behind(
        &self,
        path: &RelPath,
        order: ReadingOrder,
        member: PeerId,
        max: usize,
    ) -> Vec<SmallFile>;

    /// Returns the order in which `path` directly follows `before`, a file in the same directory;
    /// by name if that is unknown.
    fn order(&self, before: &RelPath, path: &RelPath) -> ReadingOrder;
}

/// The small files staged or on their way, over all directories.
#[derive(Default)]
pub(crate) struct SmallFiles {
    staging: Mutex<Staging<Weak<SmallFileReader>, Arc<KeptSmallFile>>>,
}

impl SmallFiles {
    /// Drops unread files, and sends readers that waited too long to the ordinary download. Returns
    /// true while there are any.
    pub(super) fn tick(&self, now: Instant) -> bool {
        let (waiting, dropped, is_empty) = {
            let mut staging = self.staging.lock();
            let (waiting, dropped) = staging.tidy(now);
            (waiting, dropped, staging.is_empty())
        };
        drop(dropped);
        release(waiting);
        !is_empty
    }

    /// Ends a batch of which nothing came, and blames its member if that is why.
    fn fail(&self, batch: &Batch, blame: bool) {
        let waiting = self.staging.lock().fail(batch, blame, Instant::now());
        release(waiting);
    }
}

/// Sends readers to the ordinary download.
fn release(waiting: Vec<Weak<SmallFileReader>>) {
    for reader in waiting.iter().filter_map(Weak::upgrade) {
        reader.land(None);
    }
}

/// The whole content of a small file, counted while it is in memory.
pub(super) struct KeptSmallFile {
    content: FileBytes,
    counter: Arc<AtomicU64>,
}

impl KeptSmallFile {
    fn new(content: FileBytes, counter: &Arc<AtomicU64>) -> Self {
        counter.fetch_add(content.range().len(), Ordering::Relaxed);
        Self {
            content,
            counter: Arc::clone(counter),
        }
    }

    /// Returns the bytes of `range`, if they are of the `expected` content.
    fn slice(&self, range: ByteRange, expected: &ExpectedContent) -> Result<&[u8], Error> {
        let bytes = self.content.bytes_for(expected);
        let range = range.start as usize..range.end as usize;
        bytes
            .and_then(|bytes| bytes.get(range))
            .ok_or_else(mixed_up)
    }
}

impl Drop for KeptSmallFile {
    fn drop(&mut self) {
        let count = self.content.range().len();
        self.counter.fetch_sub(count, Ordering::Relaxed);
    }
}

/// One reader of one small file.
pub(crate) struct SmallFileReader {
    shared: Arc<FileReader>,
    siblings: Arc<dyn UpcomingFiles>,
    state: Mutex<State>,
}

enum State {
    /// No read has come yet.
    New,
    /// The staging area is being searched, or a batch is on its way.
    Waiting(Vec<ParkedRead>),
    /// Every read is answered from this.
    Here(Arc<KeptSmallFile>),
    /// Every read goes to the ordinary download.
    Ordinary,
}

impl SmallFileReader {
    pub(super) fn new(shared: Arc<FileReader>, siblings: Arc<dyn UpcomingFiles>) -> Arc<Self> {
        Arc::new(Self {
            shared,
            siblings,
            state: Mutex::new(State::New),
        })
    }

    /// Reads `range`; see [`Download::read`](super::Download::read).
    pub(super) fn read(self: &Arc<Self>, range: ByteRange, done: ReadCallback, now: Instant) {
        let parked = ParkedRead {
            range,
            done,
            since: now,
        };
        let mut state = self.state.lock();
        match &mut *state {
            State::New => {
                *state = State::Waiting(vec![parked]);
                drop(state);
                self.look(now);
                self.core().start_clock();
            }
            State::Waiting(others) => others.push(parked),
            State::Here(kept) => {
                let kept = Arc::clone(kept);
                drop(state);
                (parked.done)(kept.slice(range, &self.shared.expected));
            }
            State::Ordinary => {
                drop(state);
                self.shared
                    .read(range, parked.done, now, ReaderPatience::None);
            }
        }
    }

    pub(super) fn held_bytes(&self) -> u64 {
        match &*self.state.lock() {
            State::Here(kept) => kept.content.range().len(),
            _ => 0,
        }
    }

    /// Closes the reader; parked reads fail.
    pub(super) fn close(&self) {
        let state = std::mem::replace(&mut *self.state.lock(), State::Ordinary);
        if let State::Waiting(parked) = state {
            for parked in parked {
                (parked.done)(Err(closed()));
            }
        }
    }

    /// Ends the wait: the file has come, or no batch will bring it.
    fn land(&self, kept: Option<Arc<KeptSmallFile>>) {
        let mut state = self.state.lock();
        let State::Waiting(parked) = &mut *state else {
            return;
        };
        let parked = std::mem::take(parked);
        *state = match &kept {
            Some(kept) => State::Here(Arc::clone(kept)),
            None => State::Ordinary,
        };
        drop(state);
        for parked in parked {
            match &kept {
                Some(kept) => (parked.done)(kept.slice(parked.range, &self.shared.expected)),
                None => self.shared.read(
                    parked.range,
                    parked.done,
                    parked.since,
                    ReaderPatience::None,
                ),
            }
        }
    }

    /// Looks for the file in the staging area, and ensures that the next files are on their way.
    fn look(self: &Arc<Self>, now: Instant) {
        let sources = self.shared.sources.iter();
        let keys = sources.filter_map(|source| Some(self.small(source)?.key(source.peer.id())));
        let keys: Vec<SmallFileKey> = keys.collect();
        let found = self.staging().lock().find(&keys, Arc::downgrade(self), now);
        match found {
            StagedFile::Here(kept, run) => {
                self.land(Some(kept));
                self.go_on(run, now);
            }
            StagedFile::Coming(run) => self.go_on(run, now),
            StagedFile::Spoiled((member, _), error) => {
                self.shared.note_failure(member, &error);
                self.land(None);
            }
            StagedFile::Nothing => match self.begin(now) {
                Some(batch) => self.send(batch),
                None => self.land(None),
            },
        }
    }

    /// Describes this file as `source` has it, if it has a file and not just blocks.
    fn small(&self, source: &FileSource) -> Option<SmallFile> {
        let Availability::File(version) = source.has else {
            return None;
        };
        let expected = &self.shared.expected;
        Some(SmallFile {
            path: source.path.clone(),
            version,
            size: expected.size(),
            root: expected.rooted().map(|content| content.root),
        })
    }

    /// Returns the first batch of a run that begins with this file, if one should begin.
    fn begin(self: &Arc<Self>, now: Instant) -> Option<Batch> {
        let source = self.shared.sources.first()?;
        let file = self.small(source)?;
        if self.core().has_on_disk(&file) || !self.core().has_memory() {
            return None;
        }
        let member = source.peer.id();
        let (directory, _) = source.path.split()?;
        let walk = (&directory, &source.path);
        let (max, before) = self.staging().lock().miss(walk, member, now)?;
        let order = self.siblings.order(&before, &source.path);
        let mut files = vec![file];
        files.extend(self.behind(&source.path, order, member, max - 1));
        let reader = Arc::downgrade(self);
        let mut staging = self.staging().lock();
        staging.begin((directory, order), member, files, reader, now)
    }

    /// Requests the next files of a run, if it is time to.
    fn go_on(&self, run: u64, now: Instant) {
        if !self.core().has_memory() {
            return;
        }
        let Some(next) = self.staging().lock().next(run, now) else {
            return;
        };
        let files = self.behind(&next.after, next.order, next.member, next.max);
        let batch = self.staging().lock().go_on(run, &files, now);
        if let Some(batch) = batch {
            self.send(batch);
        }
    }

    fn behind(
        &self,
        path: &RelPath,
        order: ReadingOrder,
        member: PeerId,
        max: usize,
    ) -> Vec<SmallFile> {
        let mut files = self.siblings.behind(path, order, member, max);
        files.retain(|file| !self.core().has_on_disk(file));
        files
    }

    /// Fetches a batch on a thread of its member.
    fn send(&self, batch: Batch) {
        let mut sources = self.shared.sources.iter();
        let source = sources.find(|source| source.peer.id() == batch.member);
        let (core, batch) = (Arc::clone(self.core()), Arc::new(batch));
        let is_taken = source.is_some_and(|source| {
            let (batch, source, core) = (Arc::clone(&batch), source.clone(), Arc::clone(&core));
            let pool = core.pools.of(batch.member);
            let job = move || core.fetch_batch(&batch, &source);
            pool.run(job).is_ok()
        });
        if !is_taken {
            core.smalls.fail(&batch, false);
        }
    }

    fn core(&self) -> &Arc<Core> {
        &self.shared.core
    }

    fn staging(&self) -> &Mutex<Staging<Weak<Self>, Arc<KeptSmallFile>>> {
        &self.core().smalls.staging
    }
}

impl Core {
    /// Returns true if the disk cache seems to have `file`.
    fn has_on_disk(&self, file: &SmallFile) -> bool {
        let known = file.content().zip(self.cache.as_ref());
        known.is_some_and(|(content, cache)| cache.holds_file(content))
    }
}

#[cfg(test)]
mod tests;
