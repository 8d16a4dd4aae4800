//! Which small files are requested before they are read, and how many at once.
//!
//! A *run* is a reader that goes through a directory in the order of its names or of its inode
//! numbers. It begins with the second small file read in a directory within [`SECOND_WITHIN`]: a
//! lone one says nothing about the others. From then on the files behind it are requested in
//! batches, a few at first, and more each time half of them have been read. A reader that jumps
//! about gets ever shorter runs and finally none, so that random reads cost about what they read.

use std::time::{Duration, Instant};

use super::{Batch, File, MAX_BATCH_FILES, NextFiles, OVERHEAD, PATIENCE, ROOM, Staging, State};
use crate::download::small_files::{ReadingOrder, SmallFile};
use crate::model::{PeerId, RelPath};

/// Bytes that one run may have ahead of its reader, so that several runs fit.
const ROOM_PER_RUN: u64 = ROOM / 4;

/// Two small files of one directory, read one after the other within this time, begin a run.
pub(super) const SECOND_WITHIN: Duration = Duration::from_secs(2);

/// Files that a new run requests.
const FIRST: usize = 16;

/// Fewer are not worth a batch.
const MIN_FILES: usize = 4;

/// Files ahead of a reader that is never starved: one batch being read and one on its way.
const WINDOW: usize = 2 * MAX_BATCH_FILES;

/// Files ahead of a reader that is starved despite a whole window.
const STARVED_WINDOW: usize = 8 * MAX_BATCH_FILES;

/// Batches of one run on their way at once.
const ASKING: usize = 4;

/// After this many single reads, a directory that was read at random gets another try.
const SINGLES: usize = 16;

/// Directories that are watched for runs.
const MAX_DIRECTORIES: usize = 1024;

/// Bytes of a member's first batch, followed by the limits between which batches shrink for a slow
/// member and grow for a fast one.
const FIRST_BATCH_BYTES: u64 = 512 << 10;
pub(super) const MIN_BATCH_BYTES: u64 = 32 << 10;
const MAX_BATCH_BYTES: u64 = 2 << 20;

/// A batch that took longer is too long; one that took less than a quarter of it may grow.
pub(super) const SLOW: Duration = Duration::from_secs(1);

/// A member that failed a batch gets no further batch for this long.
pub(super) const PAUSE: Duration = Duration::from_secs(10);

/// One reader's way through a directory.
pub(super) struct Readahead {
    pub(super) directory: RelPath,
    pub(super) order: ReadingOrder,
    pub(super) member: PeerId,
    /// The last file that was requested.
    pub(super) last: RelPath,
    pub(super) window: usize,
    /// Files requested but not read yet, and their bytes.
    pub(super) ahead: usize,
    pub(super) ahead_bytes: u64,
    pub(super) asking: usize,
    pub(super) starved: bool,
    /// The directory has no more files for this run.
    pub(super) ended: bool,
    pub(super) touched: Instant,
}

/// What is known of the reads in one directory.
pub(super) struct DirectoryAccess {
    pub(super) touched: Instant,
    /// The file read last, not counting staged files.
    pub(super) last: RelPath,
    /// How many files the next run begins with.
    pub(super) first: usize,
    pub(super) singles: usize,
}

/// How fast one member delivers batches.
pub(super) struct BatchPace {
    pub(super) bytes: u64,
    pub(super) paused_until: Option<Instant>,
}

impl<R, C> Staging<R, C> {
    /// Records a read of a small file of `directory` that is not staged. Returns how many files a
    /// run that begins with it should request from `member`, if one should begin, and which file
    /// was read there before it.
    pub(in crate::download::small_files) fn miss(
        &mut self,
        (directory, path): (&RelPath, &RelPath),
        member: PeerId,
        now: Instant,
    ) -> Option<(usize, RelPath)> {
        if !self.walks.contains_key(directory) && self.walks.len() >= MAX_DIRECTORIES {
            return None;
        }
        let jumps = self
            .runs
            .values()
            .any(|run| run.directory == *directory && run.ahead > 0);
        let is_paused = self.pace(member).is_paused(now);
        let mut is_second = true;
        let walk = self.walks.entry(directory.clone()).or_insert_with(|| {
            is_second = false;
            DirectoryAccess::new(path.clone(), now)
        });
        let before = std::mem::replace(&mut walk.last, path.clone());
        is_second &= now.saturating_duration_since(walk.touched) < SECOND_WITHIN;
        walk.touched = now;
        if !is_second || is_paused {
            return None;
        }
        if jumps {
            walk.first /= 2;
        }
        if walk.first < MIN_FILES {
            walk.singles += 1;
            if walk.singles < SINGLES {
                return None;
            }
            (walk.singles, walk.first) = (0, MIN_FILES);
        }
        Some((walk.first, before))
    }

    /// Begins a run with `files`, of which `reader` waits for the first. Returns `None` if only a
    /// single file is left of them: that is not worth a batch.
    pub(in crate::download::small_files) fn begin(
        &mut self,
        (directory, order): (RelPath, ReadingOrder),
        member: PeerId,
        files: Vec<SmallFile>,
        reader: R,
        now: Instant,
    ) -> Option<Batch> {
        let first = files.first()?.clone();
        let key = first.key(member);
        let number = self.next_run;
        self.next_run += 1;
        let run = Readahead {
            directory,
            order,
            member,
            last: first.path.clone(),
            window: files.len().max(MIN_FILES),
            ahead: 0,
            ahead_bytes: 0,
            asking: 0,
            starved: false,
            ended: false,
            touched: now,
        };
        self.runs.insert(number, run);
        let fitting = self.fitting(number, &files, now);
        if fitting.len() < 2 || fitting[0].path != first.path {
            self.runs.remove(&number);
            return None;
        }
        let batch = self.ask(number, fitting, now);
        let file = self.files.get_mut(&key)?;
        let bytes = file.bytes;
        if let State::Coming(readers) = &mut file.state {
            readers.push(reader);
        }
        self.was_read(number, bytes, now);
        batch
    }

    /// Returns whether and what `run` should request next. If so, [`Staging::go_on`] must follow.
    pub(in crate::download::small_files) fn next(
        &mut self,
        number: u64,
        now: Instant,
    ) -> Option<NextFiles> {
        let run = self.runs.get(&number)?;
        let (member, ahead) = (run.member, run.ahead);
        let has_room = self.room(run) >= ROOM_PER_RUN / 2;
        if !has_room || self.pace(member).is_paused(now) {
            return None;
        }
        let run = self.runs.get_mut(&number)?;
        if run.ended || run.asking >= ASKING || ahead > run.window / 2 {
            return None;
        }
        let largest = if std::mem::take(&mut run.starved) {
            STARVED_WINDOW
        } else {
            WINDOW.max(run.window)
        };
        run.window = (2 * run.window).min(largest);
        run.asking += 1;
        let next = NextFiles {
            member,
            order: run.order,
            after: run.last.clone(),
            max: (run.window - ahead).min(MAX_BATCH_FILES),
        };
        if let Some(walk) = self.walks.get_mut(&run.directory) {
            walk.first = FIRST;
        }
        Some(next)
    }

    /// Requests `files`, which come next in `run`.
    pub(in crate::download::small_files) fn go_on(
        &mut self,
        number: u64,
        files: &[SmallFile],
        now: Instant,
    ) -> Option<Batch> {
        let fitting = self.fitting(number, files, now);
        let run = self.runs.get_mut(&number)?;
        run.asking -= 1;
        let Some(last) = files.last() else {
            run.ended = true;
            return None;
        };
        if !fitting.is_empty() {
            return self.ask(number, fitting, now);
        }
        // Files that another run has requested are skipped; those without room are requested later.
        let member = run.member;
        if files
            .iter()
            .all(|file| self.files.contains_key(&file.key(member)))
        {
            run.last = last.path.clone();
        }
        None
    }

    /// Returns the leading files that are not staged and for which there is room.
    pub(super) fn fitting(
        &mut self,
        number: u64,
        files: &[SmallFile],
        now: Instant,
    ) -> Vec<SmallFile> {
        let Some(run) = self.runs.get(&number) else {
            return Vec::new();
        };
        let (member, mut room) = (run.member, self.room(run));
        let pace = self.pace(member);
        if pace.is_paused(now) {
            return Vec::new();
        }
        room = room.min(pace.bytes);
        let mut fitting = Vec::new();
        for file in files {
            if self.files.contains_key(&file.key(member)) {
                continue;
            }
            let Some(left) = room.checked_sub(file.size + OVERHEAD) else {
                break;
            };
            room = left;
            fitting.push(file.clone());
        }
        fitting
    }

    /// Returns how many bytes `run` may request.
    pub(super) fn room(&self, run: &Readahead) -> u64 {
        let per_run = ROOM_PER_RUN.saturating_sub(run.ahead_bytes);
        per_run.min(ROOM.saturating_sub(self.bytes))
    }

    /// Stages `files` as coming.
    pub(super) fn ask(
        &mut self,
        number: u64,
        files: Vec<SmallFile>,
        now: Instant,
    ) -> Option<Batch> {
        let run = self.runs.get_mut(&number)?;
        run.asking += 1;
        run.touched = now;
        run.last = files.last()?.path.clone();
        run.ahead += files.len();
        let member = run.member;
        for file in &files {
            let bytes = file.size + OVERHEAD;
            run.ahead_bytes += bytes;
            self.bytes += bytes;
            let coming = File {
                state: State::Coming(Vec::new()),
                run: number,
                bytes,
                until: now + PATIENCE,
            };
            self.files.insert(file.key(member), coming);
        }
        Some(Batch {
            member,
            files,
            asked: now,
            run: number,
        })
    }

    pub(super) fn pace(&mut self, member: PeerId) -> &mut BatchPace {
        self.paces.entry(member).or_insert(BatchPace {
            bytes: FIRST_BATCH_BYTES,
            paused_until: None,
        })
    }
}

impl DirectoryAccess {
    pub(super) fn new(path: RelPath, now: Instant) -> Self {
        Self {
            touched: now,
            last: path,
            first: FIRST,
            singles: 0,
        }
    }
}

impl BatchPace {
    pub(super) fn is_paused(&self, now: Instant) -> bool {
        self.paused_until.is_some_and(|until| now < until)
    }

    pub(super) fn pause(&mut self, now: Instant) {
        self.bytes = (self.bytes / 4).max(MIN_BATCH_BYTES);
        self.paused_until = Some(now + PAUSE);
    }

    pub(super) fn took(&mut self, time: Duration) {
        if time > SLOW {
            self.bytes = (self.bytes / 2).max(MIN_BATCH_BYTES);
        } else if time < SLOW / 4 {
            self.bytes = (self.bytes * 2).min(MAX_BATCH_BYTES);
        }
    }
}
