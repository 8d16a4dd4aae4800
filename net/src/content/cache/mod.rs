//! Blocks on disk, so that nothing that was read once is fetched again.
//!
//! Only proven blocks get in. Each is stored with its proof (see `slot.rs`) and is proven again
//! when it is read back. That makes everything else simple: whatever a crash, a full disk or a
//! stranger's file does to the cache, the result is a miss, never wrong bytes. There is no
//! journal and no database, and start-up waits for nothing: a thread scans the existing slots
//! while reads go on.
//!
//! The cache has two files, in a directory that this module made: slots of 8 blocks for sequential
//! reads, and of one block for small files and random reads. Their total length never exceeds the
//! size that the user gave. One process owns the directory (`flock`); another process of the same
//! user runs without the cache, as two indexes over one file would overwrite each other's slots. If
//! the user removes the files, the space is free within seconds and caching starts over.

mod disk;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod harness;
mod index;
mod own_file;
mod slab;
mod slot;
mod supply;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::Thread;

use parking_lot::RwLock;

use super::merkle::{BLOCK, Leaves, Verified};
use crate::error::Error;
use crate::model::{ContentId, Root};

use disk::Disk;
use slab::{Slab, SlotWrite};
use slot::Header;

/// Blocks in a large slot: the size of piece that the download engine uses.
pub const PIECE_BLOCKS: u64 = 8;

/// The most bytes waiting to be written, and the most writes: a batch of small files is many. When
/// the disk is slower than the network, blocks are dropped rather than readers delayed.
const BACKLOG_BYTES: u64 = 8 << 20;
const BACKLOG: usize = 2048;

/// The cache of one process.
pub struct DiskCache {
    store: Arc<SlabStore>,
    writes: SyncSender<SlotWrite>,
    writer: Thread,
}

struct SlabStore {
    directory: PathBuf,
    /// The most bytes that the files may occupy.
    size: u64,
    /// `None` while there is nowhere to keep blocks, because somebody removed it. Never
    /// locked over IO.
    disk: RwLock<Option<Arc<Disk>>>,
    stopped: AtomicBool,
    /// The bytes waiting to be written.
    backlog: AtomicU64,
}

impl DiskCache {
    /// Opens the cache in `directory`, which is created if need be, with at most `size` bytes.
    /// `Ok(None)` when another process has it.
    pub fn open(directory: &Path, size: u64) -> Result<Option<Self>, Error> {
        let what = || format!("the cache directory {}", directory.display());
        let disk = Disk::open(directory, size);
        let disk = disk.map_err(|e| Error::local_place(what(), e, "--cache-dir"))?;
        let Some(disk) = disk.map(Arc::new) else {
            return Ok(None);
        };
        let store = Arc::new(SlabStore {
            directory: directory.to_owned(),
            size,
            disk: RwLock::new(Some(Arc::clone(&disk))),
            stopped: AtomicBool::new(false),
            backlog: AtomicU64::new(0),
        });
        let (writes, queue) = sync_channel(BACKLOG);
        let (writer, scanner) = (Arc::clone(&store), Arc::clone(&store));
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(name.into()).spawn(work);
            thread.map_err(|error| Error::local("starting a thread", error))
        };
        spawn("cache-scan", Box::new(move || scanner.scan(&disk)))?;
        let thread = spawn("cache-write", Box::new(move || writer.write_all(&queue)))?;
        Ok(Some(Self {
            store,
            writes,
            writer: thread.thread().clone(),
        }))
    }

    /// Returns blocks of `content` from block `first` on: at least one, at most `max`, and none
    /// beyond the piece that contains the first. `None` when that one is not cached.
    pub fn get(&self, content: ContentId, first: u64, max: u64) -> Option<Verified<Vec<u8>>> {
        let disk = self.store.disk()?;
        let large = disk.large.get(content, first, max);
        large.or_else(|| disk.small.get(content, first, 1))
    }

    /// Returns how many bytes of `content` seem to be cached. The time taken depends on the number
    /// of slots, not on the content's size.
    pub fn bytes_of(&self, content: ContentId) -> u64 {
        let Some(disk) = self.store.disk() else {
            return 0;
        };
        let held = [&disk.small, &disk.large].map(|slab| slab.bytes_of(content));
        held[0].saturating_add(held[1]).min(content.size)
    }

    /// Returns true if the piece of `root` that begins at block `first` seems to be fully cached.
    pub fn holds_piece(&self, root: Root, first: u64) -> bool {
        self.store
            .disk()
            .is_some_and(|disk| disk.large.holds(&root, first))
    }

    /// Returns true if a content of at most one piece seems to be fully cached.
    pub fn holds_file(&self, content: ContentId) -> bool {
        let ContentId { root, size } = content;
        self.store.disk().is_some_and(|disk| {
            let fits_small = size <= BLOCK && disk.small.holds(&root, 0);
            fits_small || (size <= BLOCK * PIECE_BLOCKS && disk.large.holds(&root, 0))
        })
    }

    /// Stores `bytes`, which `leaves` have proven: whole pieces in large slots, single blocks in
    /// small ones, anything else not at all. Never waits: blocks that the disk cannot take in
    /// time are dropped.
    pub fn put<B>(&self, leaves: &Leaves, bytes: Arc<Verified<B>>)
    where
        B: std::ops::Deref<Target = [u8]> + Send + Sync + 'static,
    {
        let (content, range) = (bytes.content(), bytes.range());
        let (first, blocks) = (range.start / BLOCK, range.len().div_ceil(BLOCK));
        let to_end = range.end == content.size;
        let piece = first.is_multiple_of(PIECE_BLOCKS)
            && (blocks == PIECE_BLOCKS || (to_end && blocks > 1));
        let span = match (piece, blocks) {
            (true, _) => PIECE_BLOCKS,
            (false, 1) => 1,
            _ => return,
        };
        let Some(disk) = self.store.disk() else {
            return;
        };
        let slab = disk.slab(span);
        if leaves.content() != content || slab.holds(&content.root, first) {
            return;
        }
        let Some(header) = Header::new(leaves, first, span) else {
            return;
        };
        let write = SlotWrite {
            header,
            content: Arc::new(ProvenBytes(bytes)),
        };
        // A full queue means that the disk is slower than the network; then less is cached.
        let (backlog, length) = (&self.store.backlog, range.len());
        if backlog.load(Ordering::Relaxed) + length > BACKLOG_BYTES {
            return;
        }
        let before = backlog.fetch_add(length, Ordering::Relaxed);
        if self.writes.try_send(write).is_err() {
            backlog.fetch_sub(length, Ordering::Relaxed);
        }
        let enough = BACKLOG_BYTES / 4;
        if before < enough && before + length >= enough {
            self.writer.unpark();
        }
    }

    /// Returns the bytes of content that are cached, rounded up to whole slots.
    pub fn held_bytes(&self) -> u64 {
        let filled = |slab: &Slab| slab.filled() as u64 * slab.span * BLOCK;
        let disk = self.store.disk();
        disk.map_or(0, |disk| filled(&disk.small) + filled(&disk.large))
    }

    /// Returns false while there is nowhere to keep blocks, because the files were removed and
    /// could not be recreated.
    pub fn is_kept(&self) -> bool {
        self.store.disk().is_some()
    }
}

impl Drop for DiskCache {
    fn drop(&mut self) {
        self.store.stopped.store(true, Ordering::Relaxed);
    }
}

/// Lets the writer hold proven bytes without knowing their container.
struct ProvenBytes<B>(Arc<Verified<B>>);

impl<B: std::ops::Deref<Target = [u8]>> AsRef<[u8]> for ProvenBytes<B> {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl SlabStore {
    fn disk(&self) -> Option<Arc<Disk>> {
        self.disk.read().clone()
    }

    fn scan(&self, disk: &Disk) {
        disk.scan(|| self.stopped.load(Ordering::Relaxed));
    }

    /// Closes and recreates the files if they were removed; after a failure, tries again.
    fn look_after_files(&self) {
        let is_there = self.disk().is_some_and(|disk| disk.is_in_place());
        if is_there {
            return;
        }
        let directory = self.directory.display();
        if self.disk.write().take().is_some() {
            tracing::warn!("the cache in {directory} was removed; making it anew");
        }
        match Disk::open(&self.directory, self.size) {
            Ok(Some(disk)) => {
                let disk = Arc::new(disk);
                *self.disk.write() = Some(Arc::clone(&disk));
                self.scan(&disk);
            }
            Ok(None) => tracing::debug!("another mount uses the cache in {directory} now"),
            Err(error) => tracing::debug!(%error, "there is no cache in {directory}"),
        }
    }
}

#[cfg(test)]
mod tests;
