//! Where files of 2004 servers are kept once they were fetched: on disk, without names, within a budget.
//!
//! A file is written to a place that has no name any more, so nothing is left when the process ends, however it
//! ends. When there is no room, what was not read for the longest time goes; those who are reading it may finish.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::Error;

/// What nobody has read for this long goes when something else comes.
const UNUSED: Duration = Duration::from_secs(600);

/// Files that are kept at most; each holds a descriptor.
const MAX_KEPT: usize = 256;

/// A budget of bytes on disk, and what lies there.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    limit: u64,
    kept: Mutex<Vec<Arc<Kept>>>,
    /// Bytes of what is kept, and of what is being written.
    held: AtomicU64,
}

/// One content.
#[derive(Debug)]
pub(super) struct Kept {
    size: u64,
    file: Mutex<Option<Arc<File>>>,
    used: Mutex<Instant>,
}

impl Kept {
    /// To read it, if it is still there.
    pub(super) fn open(&self) -> Option<Arc<File>> {
        *self.used.lock() = Instant::now();
        self.file.lock().clone()
    }
}

impl Store {
    /// At most `limit` bytes in `directory`, which is made if need be. Without a directory, where the system has its
    /// temporary files; without a limit, half of what is free there.
    ///
    /// # Errors
    /// [`Error::Local`] if nothing can be written there.
    pub fn open(directory: Option<&Path>, limit: Option<u64>) -> Result<Arc<Self>, Error> {
        let directory = directory.map_or_else(std::env::temp_dir, Path::to_owned);
        let local = |error| {
            let place = directory.display();
            Error::local(format!("keeping files of 2004 in {place}"), error)
        };
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&directory).map_err(local)?;
        let found = rustix::fs::statvfs(&directory).map_err(|error| local(error.into()))?;
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        let store = Self {
            limit: limit.unwrap_or(free / 2),
            kept: Mutex::default(),
            held: AtomicU64::new(0),
            directory: directory.clone(),
        };
        store.nameless().map_err(local)?;
        Ok(Arc::new(store))
    }

    /// The most bytes that it takes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The bytes that lie there.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// A new file, to be written from its beginning.
    pub(super) fn begin(self: &Arc<Self>) -> io::Result<Writer> {
        Ok(Writer {
            store: Arc::clone(self),
            file: self.nameless()?,
            size: 0,
        })
    }

    fn nameless(&self) -> io::Result<File> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = self
            .directory
            .join(format!(".fetching-{}-{number}", std::process::id()));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        fs::remove_file(&path)?;
        Ok(file)
    }

    /// Makes room for `more` bytes, if need be by letting go what was not used for long.
    fn take(&self, more: u64) -> io::Result<()> {
        let mut gone = Vec::new();
        let mut kept = self.kept.lock();
        while self.held.load(Ordering::Relaxed).saturating_add(more) > self.limit {
            let oldest = (0..kept.len()).min_by_key(|index| *kept[*index].used.lock());
            let Some(oldest) = oldest else {
                return Err(io::ErrorKind::FileTooLarge.into());
            };
            gone.push(self.let_go(kept.swap_remove(oldest)));
        }
        self.held.fetch_add(more, Ordering::Relaxed);
        drop(kept);
        drop(gone);
        Ok(())
    }

    /// Forgets a content; its file goes with what is returned.
    fn let_go(&self, kept: Arc<Kept>) -> Option<Arc<File>> {
        self.held.fetch_sub(kept.size, Ordering::Relaxed);
        kept.file.lock().take()
    }

    fn keep(&self, kept: Arc<Kept>, now: Instant) {
        let mut gone = Vec::new();
        let mut all = self.kept.lock();
        let is_old = |kept: &mut Arc<Kept>| {
            // Whoever could ask for it has forgotten it, or does not ask.
            let unused = now.saturating_duration_since(*kept.used.lock()) >= UNUSED;
            unused || Arc::strong_count(kept) == 1
        };
        let old: Vec<_> = all.extract_if(.., is_old).collect();
        gone.extend(old.into_iter().map(|kept| self.let_go(kept)));
        while all.len() >= MAX_KEPT
            && let Some(oldest) = (0..all.len()).min_by_key(|index| *all[*index].used.lock())
        {
            gone.push(self.let_go(all.swap_remove(oldest)));
        }
        all.push(kept);
        drop(all);
        drop(gone);
    }
}

/// A content that is being written. What is dropped before its end is gone.
pub(super) struct Writer {
    store: Arc<Store>,
    file: File,
    size: u64,
}

impl Writer {
    /// Appends `bytes`.
    ///
    /// # Errors
    /// [`io::ErrorKind::FileTooLarge`] when there is no room and nothing that could go.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.store.take(bytes.len() as u64)?;
        self.size += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    /// That was all.
    pub(super) fn finish(mut self) -> io::Result<Arc<Kept>> {
        let (file, now) = (self.file.try_clone()?, Instant::now());
        let kept = Arc::new(Kept {
            size: self.size,
            file: Mutex::new(Some(Arc::new(file))),
            used: Mutex::new(now),
        });
        // Accounted for by what is kept from now on.
        self.size = 0;
        self.store.keep(Arc::clone(&kept), now);
        Ok(kept)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.store.held.fetch_sub(self.size, Ordering::Relaxed);
    }
}

/// Reads up to all of `buffer` at `offset`.
pub(super) fn read_at(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(store: &Arc<Store>, bytes: &[u8]) -> io::Result<Arc<Kept>> {
        let mut writer = store.begin()?;
        writer.append(bytes)?;
        writer.finish()
    }

    #[test]
    fn what_is_kept_can_be_read_and_has_no_name() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(Some(&directory.path().join("new")), Some(100)).unwrap();
        let kept = put(&store, b"0123456789").unwrap();
        let mut buffer = [0; 4];
        assert_eq!(read_at(&kept.open().unwrap(), 3, &mut buffer).unwrap(), 4);
        assert_eq!(&buffer, b"3456");
        let names = fs::read_dir(directory.path().join("new")).unwrap().count();
        assert_eq!((names, store.held()), (0, 10));
    }

    #[test]
    fn what_was_not_used_for_longest_makes_room_and_whoever_reads_it_may_finish() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(Some(directory.path()), Some(100)).unwrap();
        let (first, second) = (
            put(&store, &[1; 40]).unwrap(),
            put(&store, &[2; 40]).unwrap(),
        );
        let reading = second.open().unwrap();
        first.open();
        let third = put(&store, &[3; 40]).unwrap();
        assert!(first.open().is_some() && second.open().is_none() && third.open().is_some());
        assert_eq!(read_at(&reading, 0, &mut [0; 100]).unwrap(), 40);
        assert_eq!(store.held(), 80);
    }

    #[test]
    fn what_is_larger_than_the_budget_is_an_error_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(Some(directory.path()), Some(100)).unwrap();
        let mut writer = store.begin().unwrap();
        writer.append(&[0; 100]).unwrap();
        let error = writer.append(&[0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        drop(writer);
        assert_eq!(store.held(), 0);
    }
}
