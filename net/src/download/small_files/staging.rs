//! Which small files are at hand or on their way, and which to ask for next. Pure.
//!
//! A *run* is a reader that goes through a directory in the order of its names, or of its inode
//! numbers. It begins with the second small file that is read in a directory within
//! [`SECOND_WITHIN`]: a lone one says nothing about the others. From then on the files behind it
//! are asked for in batches, at first a few, and more each time half of them have been read. A
//! reader that jumps about gets ever shorter runs and in the end none, so that random reads cost
//! about what was asked.
//!
//! Every file on the shelf belongs to one run and is *coming* (asked for), *here*, or *spoiled*
//! (its bytes were wrong). It leaves when it is read, or after a while. Their sizes together
//! stay below [`ROOM`].

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::{ReadingOrder, SmallFile};
use crate::error::Error;
use crate::model::{PeerId, RelPath};

/// Bytes that all files on the shelf may have, those on their way included.
const ROOM: u64 = 16 << 20;

/// Bytes that one run may have ahead of its reader, so that several runs fit.
const ROOM_PER_RUN: u64 = ROOM / 4;

/// What a file takes besides its bytes.
const OVERHEAD: u64 = 512;

/// A file that nobody has read by then goes again.
const KEPT: Duration = Duration::from_secs(10);

/// A batch must be here by then; who waits for it tries the ordinary way after that. With the time
/// that this takes it stays within what a read may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// Two small files of one directory, read one after the other within this time, begin a run.
const SECOND_WITHIN: Duration = Duration::from_secs(2);

/// Files that a new run asks for.
const FIRST: usize = 16;

/// Fewer are not worth a batch.
const FEWEST: usize = 4;

/// Files in one batch. A file in it costs a tenth of a request of its own; more gain little (perf
/// notes, 2.3).
pub(super) const LONGEST: usize = 100;

/// Files ahead of a reader that is never starved: one batch being read and one on its way.
const WINDOW: usize = 2 * LONGEST;

/// Files ahead of a reader that is starved although it has a whole window.
const STARVED_WINDOW: usize = 8 * LONGEST;

/// Batches of one run on their way at once.
const ASKING: usize = 4;

/// After this many single reads, a directory that was read at random gets another try.
const SINGLES: usize = 16;

/// Directories that are watched for runs.
const DIRECTORIES: usize = 1024;

/// Bytes of a member's first batch, and the bounds between which batches become shorter for a slow
/// member and longer for a fast one.
const FIRST_BYTES: u64 = 512 << 10;
const FEWEST_BYTES: u64 = 32 << 10;
const MOST_BYTES: u64 = 2 << 20;

/// A batch that took longer is too long; one that took less than a quarter of it may grow.
const SLOW: Duration = Duration::from_secs(1);

/// A member that failed a batch gets no other one for this long.
const PAUSE: Duration = Duration::from_secs(10);

/// What a file is known by: who has it, where, in which version, and what it was said to be then.
pub(super) type SmallFileKey = (PeerId, SmallFile);

/// Small files of all members. `R` is who waits for one, `C` is its content.
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

/// One reader's way through a directory.
struct Readahead {
    directory: RelPath,
    order: ReadingOrder,
    member: PeerId,
    /// The last file that was asked for.
    last: RelPath,
    window: usize,
    /// Files asked for that nobody has read yet, and their bytes.
    ahead: usize,
    ahead_bytes: u64,
    asking: usize,
    starved: bool,
    /// The directory has no more files for it.
    ended: bool,
    touched: Instant,
}

/// What is known of the reading in one directory.
struct DirectoryAccess {
    touched: Instant,
    /// The file that was read last, but for those that were on the shelf.
    last: RelPath,
    /// How many files the next run begins with.
    first: usize,
    singles: usize,
}

/// How one member takes batches.
struct BatchPace {
    bytes: u64,
    paused_until: Option<Instant>,
}

/// What the shelf has of a file that is being read.
pub(super) enum StagedFile<C> {
    /// All of it; the run that it belongs to goes on.
    Here(C, u64),
    /// It is on its way, and the reader will be told.
    Coming(u64),
    /// This source sent wrong bytes.
    Spoiled(SmallFileKey, Error),
    /// Nothing of it is here.
    Nothing,
}

/// Files to ask one member for.
pub(super) struct Batch {
    pub(super) member: PeerId,
    pub(super) files: Vec<SmallFile>,
    pub(super) asked: Instant,
    run: u64,
}

/// Where a run should go on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NextFiles {
    pub(super) member: PeerId,
    pub(super) order: ReadingOrder,
    /// The last file that it has asked for.
    pub(super) after: RelPath,
    pub(super) most: usize,
}

/// What came of one file of a batch.
pub(super) enum FetchOutcome<C> {
    Here(C),
    Spoiled(Error),
    /// To be had in the ordinary way, if at all.
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
    /// Looks for a file under any of its keys, and takes it off the shelf when it is here.
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

    /// A small file of `directory` is read that is not here: how many files a run that begins with
    /// it should ask `member` for, if one should, and which file was read there before it.
    pub(super) fn miss(
        &mut self,
        (directory, path): (&RelPath, &RelPath),
        member: PeerId,
        now: Instant,
    ) -> Option<(usize, RelPath)> {
        if !self.walks.contains_key(directory) && self.walks.len() >= DIRECTORIES {
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
        if walk.first < FEWEST {
            walk.singles += 1;
            if walk.singles < SINGLES {
                return None;
            }
            (walk.singles, walk.first) = (0, FEWEST);
        }
        Some((walk.first, before))
    }

    /// Begins a run with `files`, of which `reader` waits for the first. `None` when a single file
    /// is left of them: that is not worth a batch.
    pub(super) fn begin(
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
            window: files.len().max(FEWEST),
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

    /// Whether `run` should ask for more, and what. If so, [`Staging::go_on`] must follow.
    pub(super) fn next(&mut self, number: u64, now: Instant) -> Option<NextFiles> {
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
            most: (run.window - ahead).min(LONGEST),
        };
        if let Some(walk) = self.walks.get_mut(&run.directory) {
            walk.first = FIRST;
        }
        Some(next)
    }

    /// Asks for `files`, which come next in `run`.
    pub(super) fn go_on(
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
        // What another run has asked for is passed over; what has no room is asked for later.
        let member = run.member;
        if files
            .iter()
            .all(|file| self.files.contains_key(&file.key(member)))
        {
            run.last = last.path.clone();
        }
        None
    }

    /// A batch has come; the answers are in the order of its files. Returns who waited, and for
    /// which file of the batch.
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

    /// A batch has failed. Returns who waited for it. `blame` says that the member is to be left
    /// alone for a while.
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
            // It may have been given up meanwhile, and even have been asked for again.
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
                replies.push((reader, landed.again()));
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

    /// Clears away what is too old. Returns who waited for it, and the contents, to be dropped
    /// without the lock.
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

    /// The files, from the first one on, that are not on the shelf and for which there is room.
    fn fitting(&mut self, number: u64, files: &[SmallFile], now: Instant) -> Vec<SmallFile> {
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

    /// Bytes that `run` may ask for.
    fn room(&self, run: &Readahead) -> u64 {
        let per_run = ROOM_PER_RUN.saturating_sub(run.ahead_bytes);
        per_run.min(ROOM.saturating_sub(self.bytes))
    }

    /// Puts `files` on the shelf as coming.
    fn ask(&mut self, number: u64, files: Vec<SmallFile>, now: Instant) -> Option<Batch> {
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

    /// A file of a run has found its reader.
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

    /// A file of a run is no longer ahead of its reader.
    fn was_lost(&mut self, number: u64, bytes: u64) {
        if let Some(run) = self.runs.get_mut(&number) {
            run.ahead -= 1;
            run.ahead_bytes -= bytes;
        }
    }

    fn pace(&mut self, member: PeerId) -> &mut BatchPace {
        self.paces.entry(member).or_insert(BatchPace {
            bytes: FIRST_BYTES,
            paused_until: None,
        })
    }
}

impl<C: Clone> FetchOutcome<C> {
    fn again(&self) -> Self {
        match self {
            Self::Here(content) => Self::Here(content.clone()),
            Self::Spoiled(error) => Self::Spoiled(error.clone()),
            Self::Not => Self::Not,
        }
    }
}

impl DirectoryAccess {
    fn new(path: RelPath, now: Instant) -> Self {
        Self {
            touched: now,
            last: path,
            first: FIRST,
            singles: 0,
        }
    }
}

impl BatchPace {
    fn is_paused(&self, now: Instant) -> bool {
        self.paused_until.is_some_and(|until| now < until)
    }

    fn pause(&mut self, now: Instant) {
        self.bytes = (self.bytes / 4).max(FEWEST_BYTES);
        self.paused_until = Some(now + PAUSE);
    }

    fn took(&mut self, time: Duration) {
        if time > SLOW {
            self.bytes = (self.bytes / 2).max(FEWEST_BYTES);
        } else if time < SLOW / 4 {
            self.bytes = (self.bytes * 2).min(MOST_BYTES);
        }
    }
}

#[cfg(test)]
mod tests;
