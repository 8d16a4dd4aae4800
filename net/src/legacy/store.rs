//! Keeps files fetched from servers of 2004: on disk, without names, within a budget.
//!
//! A file is written to a nameless inode, so nothing is left when the process ends, however it
//! ends. When there is no room, the content unread for the longest time is evicted, but never one
//! that somebody is reading. One file may take three quarters of the budget, so that a server with
//! endless files leaves room for those of others.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::content::merkle::HashTree;
use crate::error::Error;

/// Contents that nobody has opened or read for this long are evicted when something new arrives.
const UNUSED: Duration = Duration::from_secs(600);

/// The maximum number of files kept; each holds a descriptor.
const MAX_KEPT: usize = 256;

/// A budget of bytes on disk, and the files stored there.
#[derive(Debug)]
pub struct LegacyStore {
    directory: PathBuf,
    limit: u64,
    kept: Mutex<Vec<Arc<KeptFile>>>,
    held: Arc<StoreUsage>,
}

/// Bytes on disk: of kept files, of files being written, and of evicted files that are still read.
#[derive(Debug, Default)]
struct StoreUsage(AtomicU64);

/// A file without a name; its bytes count for as long as somebody holds it.
#[derive(Debug)]
pub(super) struct OnDisk {
    file: File,
    size: AtomicU64,
    held: Arc<StoreUsage>,
}

impl OnDisk {
    /// Reads up to all of `buffer` at `offset`; 0 at the end of the written bytes.
    pub(super) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.file.read_at(buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        let size = self.size.load(Ordering::Relaxed);
        self.held.0.fetch_sub(size, Ordering::Relaxed);
    }
}

/// A content, or its empty place once it was evicted.
#[derive(Debug)]
pub(super) struct KeptFile {
    content: Mutex<Option<LegacyContent>>,
    used: Mutex<Instant>,
}

/// The bytes of a content, and the tree that proves them; an empty content needs no proof.
#[derive(Clone, Debug)]
pub(super) struct LegacyContent {
    pub(super) file: Arc<OnDisk>,
    pub(super) tree: Option<Arc<HashTree>>,
}

impl KeptFile {
    /// Returns the content for reading, if it is still there.
    pub(super) fn open(&self) -> Option<LegacyContent> {
        self.touch();
        self.content.lock().clone()
    }

    /// Notes that it is being read.
    pub(super) fn touch(&self) {
        *self.used.lock() = Instant::now();
    }

    fn is_read(&self) -> bool {
        let content = self.content.lock();
        content
            .as_ref()
            .is_some_and(|content| Arc::strong_count(&content.file) > 1)
    }

    fn used(&self) -> Instant {
        *self.used.lock()
    }
}

fn make_directory(directory: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(directory)
}

impl LegacyStore {
    /// Opens a store of at most `limit` bytes in `directory`, which is created if missing.
    /// Without a directory, the system's one for temporary files; without a limit, half of the
    /// space free there.
    ///
    /// # Errors
    /// [`Error::Local`] if nothing can be written there.
    pub fn open(directory: Option<&Path>, limit: Option<u64>) -> Result<Arc<Self>, Error> {
        let directory = directory.map_or_else(std::env::temp_dir, Path::to_owned);
        let local = |error| {
            let place = directory.display();
            Error::local(format!("keeping files of 2004 in {place}"), error)
        };
        make_directory(&directory).map_err(local)?;
        let found = rustix::fs::statvfs(&directory).map_err(|error| local(error.into()))?;
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        let store = Self {
            limit: limit.unwrap_or(free / 2),
            kept: Mutex::default(),
            held: Arc::default(),
            directory: directory.clone(),
        };
        store.nameless().map_err(local)?;
        Ok(Arc::new(store))
    }

    /// Returns the maximum size of one file in bytes.
    pub fn max(&self) -> u64 {
        self.limit / 4 * 3
    }

    /// Returns the number of bytes it holds.
    pub fn held(&self) -> u64 {
        self.held.0.load(Ordering::Relaxed)
    }

    /// Creates a new file, to be written from its beginning.
    pub(super) fn begin(self: &Arc<Self>) -> io::Result<ContentWriter> {
        let file = OnDisk {
            file: self.nameless()?,
            size: AtomicU64::new(0),
            held: Arc::clone(&self.held),
        };
        Ok(ContentWriter {
            store: Arc::clone(self),
            file: Arc::new(file),
        })
    }

    fn nameless(&self) -> io::Result<File> {
        match tempfile::tempfile_in(&self.directory) {
            // People empty caches by `rm -rf`.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_directory(&self.directory)?;
                tempfile::tempfile_in(&self.directory)
            }
            made => made,
        }
    }

    /// Makes room for `more` bytes, if necessary by evicting the contents unused for
    /// the longest time.
    fn take(&self, more: u64) -> io::Result<()> {
        let mut kept = self.kept.lock();
        while self.held().saturating_add(more) > self.limit {
            let unread = (0..kept.len()).filter(|index| !kept[*index].is_read());
            let Some(oldest) = unread.min_by_key(|index| kept[*index].used()) else {
                return Err(io::ErrorKind::StorageFull.into());
            };
            // Its bytes count until it is gone, so it is dropped here, which only
            // closes a descriptor.
            drop(let_go(&kept.swap_remove(oldest)));
        }
        self.held.0.fetch_add(more, Ordering::Relaxed);
        Ok(())
    }

    fn keep(&self, kept: Arc<KeptFile>, now: Instant) {
        let mut gone = Vec::new();
        let mut all = self.kept.lock();
        let is_old = |kept: &mut Arc<KeptFile>| {
            // Nobody can ask for it any more, or nobody does.
            let unused = now.saturating_duration_since(kept.used()) >= UNUSED && !kept.is_read();
            unused || Arc::strong_count(kept) == 1
        };
        gone.extend(all.extract_if(.., is_old));
        while all.len() >= MAX_KEPT
            && let Some(oldest) = (0..all.len()).min_by_key(|index| all[*index].used())
        {
            gone.push(all.swap_remove(oldest));
        }
        all.push(kept);
        drop(all);
        for kept in gone {
            drop(let_go(&kept));
        }
    }
}

/// Evicts a content. It is gone when the returned value and its last reader are.
fn let_go(kept: &KeptFile) -> Option<LegacyContent> {
    kept.content.lock().take()
}

/// A content being written. It is discarded if dropped before its end.
pub(super) struct ContentWriter {
    store: Arc<LegacyStore>,
    file: Arc<OnDisk>,
}

impl ContentWriter {
    /// Appends `bytes` to the content.
    ///
    /// # Errors
    /// [`io::ErrorKind::FileTooLarge`] for more than one file may have,
    /// [`io::ErrorKind::StorageFull`] when there is no room and nothing that could go.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (count, size) = (bytes.len() as u64, &self.file.size);
        if size.load(Ordering::Relaxed).saturating_add(count) > self.store.max() {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.store.take(count)?;
        size.fetch_add(count, Ordering::Relaxed);
        (&self.file.file).write_all(bytes)
    }

    /// Completes the content, which `tree` proves.
    pub(super) fn finish(self, tree: Option<Arc<HashTree>>) -> Arc<KeptFile> {
        let now = Instant::now();
        let kept = Arc::new(KeptFile {
            content: Mutex::new(Some(LegacyContent {
                file: self.file,
                tree,
            })),
            used: Mutex::new(now),
        });
        self.store.keep(Arc::clone(&kept), now);
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_directory_is_recreated() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("cache");
        let store = LegacyStore::open(Some(&directory), Some(1 << 20)).unwrap();
        fs::remove_dir_all(&directory).unwrap();
        assert!(store.nameless().is_ok());
        assert!(directory.is_dir());
    }

    fn put(store: &Arc<LegacyStore>, bytes: &[u8]) -> io::Result<Arc<KeptFile>> {
        let mut writer = store.begin()?;
        writer.append(bytes)?;
        Ok(writer.finish(None))
    }

    fn store(limit: u64) -> (tempfile::TempDir, Arc<LegacyStore>) {
        let directory = tempfile::tempdir().unwrap();
        let store = LegacyStore::open(Some(&directory.path().join("new")), Some(limit)).unwrap();
        (directory, store)
    }

    #[test]
    fn stored_file_is_readable_and_nameless() {
        let (directory, store) = store(100);
        let kept = put(&store, b"0123456789").unwrap();
        let mut buffer = [0; 4];
        let content = kept.open().unwrap();
        assert_eq!(content.file.read_at(3, &mut buffer).unwrap(), 4);
        assert_eq!(&buffer, b"3456");
        let names = fs::read_dir(directory.path().join("new")).unwrap().count();
        assert_eq!((names, store.held()), (0, 10));
    }

    #[test]
    fn file_being_read_is_not_evicted() {
        let (_directory, store) = store(100);
        let first = put(&store, &[1; 40]).unwrap();
        let second = put(&store, &[2; 40]).unwrap();
        let reading = first.open().unwrap();
        second.touch();
        let third = put(&store, &[3; 40]).unwrap();
        assert!(first.open().is_some() && second.open().is_none() && third.open().is_some());
        let reading_too = third.open().unwrap();
        let full = put(&store, &[4; 40]).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        assert_eq!(reading.file.read_at(0, &mut [0; 100]).unwrap(), 40);
        assert_eq!(store.held(), 80);
        drop((reading, reading_too));
        assert!(put(&store, &[4; 40]).is_ok());
    }

    #[test]
    fn bytes_count_while_somebody_reads_them() {
        let (_directory, store) = store(100);
        let kept = put(&store, &[1; 40]).unwrap();
        let reading = kept.open().unwrap();
        drop(let_go(&kept));
        assert_eq!(store.held(), 40);
        drop(reading);
        assert_eq!(store.held(), 0);
    }

    #[test]
    fn endless_file_leaves_room_for_others() {
        let (_directory, store) = store(100);
        let kept = put(&store, &[1; 25]).unwrap();
        let mut writer = store.begin().unwrap();
        let error = loop {
            match writer.append(&[0; 10]) {
                Ok(()) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert!(kept.open().is_some());
        drop(writer);
        assert_eq!(store.held(), 25);
    }
}
