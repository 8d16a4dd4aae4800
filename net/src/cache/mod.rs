//! Blocks on disk, so that what was read once is not fetched again.
//!
//! Only proven blocks get in, and each lies there with its proof (see `slot.rs`) and is proven again when it
//! is read back. That makes everything else simple: whatever a crash, a full disk or a stranger's
//! file does to the cache is a miss, never wrong bytes. There is no journal and no database, and
//! start-up waits for nothing: a thread looks at what is there while reads go on.
//!
//! Two files, in a directory that this module made: slots of 8 blocks for what is read in a row, and
//! of one block for small files and random reads. Their lengths together never exceed the size that
//! the user gave. One process owns the directory (`flock`); another one of the same user does
//! without, as two indexes over one file would overwrite each other's slots.

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod harness;
mod index;
mod own_file;
mod slab;
mod slot;
mod supply;

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::Thread;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use crate::error::Error;
use crate::merkle::{BLOCK, Leaves, Verified};
use crate::types::{ContentId, Root};

use slab::Slab;
use slot::Header;

/// Blocks in a large slot: the piece in which the download engine works.
pub const PIECE_BLOCKS: u64 = 8;

/// Bytes that may wait to be written, and writes: a batch of small files is many. When the disk is
/// slower than the network, blocks are left out rather than readers held up.
const BACKLOG_BYTES: u64 = 8 << 20;
const BACKLOG: usize = 2048;

/// The writer comes this often while there is something to write, or when a quarter of the backlog is full:
/// waking it for each block would take time from those who wait for blocks.
const GATHER: Duration = Duration::from_millis(20);

/// After a failed write (a full disk, most likely), nothing is written for this long.
const PAUSE: Duration = Duration::from_secs(30);

/// The cache of one process.
pub struct Cache {
    store: Arc<Store>,
    writes: SyncSender<Write>,
    writer: Thread,
}

struct Store {
    small: Slab,
    large: Slab,
    stopped: AtomicBool,
    /// Bytes that wait to be written.
    backlog: AtomicU64,
    /// Holds the `flock` for as long as the cache lives.
    _lock: File,
}

struct Write {
    header: Header,
    content: Arc<dyn AsRef<[u8]> + Send + Sync>,
}

impl Cache {
    /// Opens the cache in `directory`, which is created if need be, with at most `size` bytes.
    /// `Ok(None)` when another process has it.
    pub fn open(directory: &Path, size: u64) -> Result<Option<Self>, Error> {
        let what = || format!("the cache directory {}", directory.display());
        let own = directory.join("blocks-1");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&own)
            .map_err(|e| Error::local(what(), e))?;
        let Some(lock) = lock(&own.join("lock")).map_err(|e| Error::local(what(), e))? else {
            return Ok(None);
        };
        let open = |name: &str, span, bytes| {
            Slab::open(&own.join(name), span, bytes).map_err(|e| Error::local(what(), e))
        };
        let store = Arc::new(Store {
            small: open("small", 1, size / 8)?,
            large: open("large", PIECE_BLOCKS, size - size / 8)?,
            stopped: AtomicBool::new(false),
            backlog: AtomicU64::new(0),
            _lock: lock,
        });
        let (writes, queue) = sync_channel(BACKLOG);
        let (writer, scanner) = (Arc::clone(&store), Arc::clone(&store));
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(name.into()).spawn(work);
            thread.map_err(|error| Error::local("starting a thread", error))
        };
        spawn("cache-scan", Box::new(move || scanner.scan()))?;
        let thread = spawn("cache-write", Box::new(move || writer.write_all(&queue)))?;
        Ok(Some(Self {
            store,
            writes,
            writer: thread.thread().clone(),
        }))
    }

    /// Blocks of `content` from block `first` on: at most `most`, at least one, and not beyond the piece
    /// in which the first one lies. `None` when that one is not here.
    pub fn get(&self, content: ContentId, first: u64, most: u64) -> Option<Verified<Vec<u8>>> {
        let large = || self.store.large.get(content, first, most);
        large().or_else(|| self.store.small.get(content, first, 1))
    }

    /// How many bytes of `content` seem to be here. Takes as long as there are slots, whatever the size.
    pub fn bytes_of(&self, content: ContentId) -> u64 {
        let slabs = [&self.store.small, &self.store.large];
        let held = slabs.map(|slab| slab.bytes_of(content));
        held[0].saturating_add(held[1]).min(content.size)
    }

    /// True if the piece of `root` that begins at block `first` seems to be here whole.
    pub fn holds_piece(&self, root: Root, first: u64) -> bool {
        self.store.large.holds(&root, first)
    }

    /// True if a content of at most one piece seems to be here whole.
    pub fn holds_file(&self, content: ContentId) -> bool {
        let ContentId { root, size } = content;
        let fits_small = size <= BLOCK && self.store.small.holds(&root, 0);
        fits_small || (size <= BLOCK * PIECE_BLOCKS && self.store.large.holds(&root, 0))
    }

    /// Keeps `bytes`, which `leaves` have proven: whole pieces in large slots, single blocks in small
    /// ones, anything else not at all. Never waits: what the disk cannot take in time is left out.
    pub fn put<B>(&self, leaves: &Leaves, bytes: Arc<Verified<B>>)
    where
        B: std::ops::Deref<Target = [u8]> + Send + Sync + 'static,
    {
        let (content, range) = (bytes.content(), bytes.range());
        let (first, blocks) = (range.start / BLOCK, range.len().div_ceil(BLOCK));
        let to_end = range.end == content.size;
        let piece = first.is_multiple_of(PIECE_BLOCKS)
            && (blocks == PIECE_BLOCKS || (to_end && blocks > 1));
        let (slab, span) = match (piece, blocks) {
            (true, _) => (&self.store.large, PIECE_BLOCKS),
            (false, 1) => (&self.store.small, 1),
            _ => return,
        };
        if leaves.content() != content || slab.holds(&content.root, first) {
            return;
        }
        let Some(header) = Header::new(leaves, first, span) else {
            return;
        };
        let write = Write {
            header,
            content: Arc::new(Content(bytes)),
        };
        // A full queue means that the disk is slower than the network: then less is kept.
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

    /// Bytes of content that are here, rounded up to whole slots.
    pub fn held_bytes(&self) -> u64 {
        let filled = |slab: &Slab| slab.filled() as u64 * slab.span * BLOCK;
        filled(&self.store.small) + filled(&self.store.large)
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.store.stopped.store(true, Ordering::Relaxed);
    }
}

/// Lets the writer hold proven bytes without knowing what they lie in.
struct Content<B>(Arc<Verified<B>>);

impl<B: std::ops::Deref<Target = [u8]>> AsRef<[u8]> for Content<B> {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = own_file::open(path, rustix::process::geteuid())?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Store {
    fn scan(&self) {
        let stopped = || self.stopped.load(Ordering::Relaxed);
        self.small.scan(stopped);
        self.large.scan(stopped);
    }

    fn write_all(&self, queue: &Receiver<Write>) {
        // Best effort: without the right to do so, the thread just competes like others.
        let _ = rustix::process::setpriority_process(None, 19);
        let mut paused_until: Option<Instant> = None;
        loop {
            let first = match queue.recv_timeout(Duration::from_secs(1)) {
                Ok(write) => write,
                Err(RecvTimeoutError::Timeout) if !self.stopped.load(Ordering::Relaxed) => continue,
                Err(_) => return,
            };
            for write in std::iter::once(first).chain(queue.try_iter()) {
                self.write(&write, &mut paused_until);
            }
            if !self.stopped.load(Ordering::Relaxed) {
                std::thread::park_timeout(GATHER);
            }
        }
    }

    fn write(&self, write: &Write, paused_until: &mut Option<Instant>) {
        let content = (*write.content).as_ref();
        self.backlog
            .fetch_sub(content.len() as u64, Ordering::Relaxed);
        if paused_until.is_some_and(|until| Instant::now() < until) {
            return;
        }
        let slab = match write.header.proof.span {
            1 => &self.small,
            _ => &self.large,
        };
        *paused_until = slab.put(&write.header, content).err().map(|error| {
            let pause = PAUSE.as_secs();
            tracing::warn!(%error, "the cache cannot be written to; trying again in {pause} s");
            Instant::now() + PAUSE
        });
    }
}

#[cfg(test)]
mod tests;
