//! The bytes of an open file, in time for its readers.
//!
//! A [`Download`] is one reader's way through one file. [`Download::read`] answers at once from
//! memory, or parks the caller's callback until the bytes have come; it blocks only a caller that
//! has [`ReaderPatience`]. Two pure parts decide what to fetch: `window.rs` (what will be wanted)
//! and `pieces.rs` (what is missing). The streams that fetch it run on the member's own pool of
//! threads, so a frozen member holds up its own files only. Small files of one directory come
//! together, in batches, before they are read (`small_files`).
//!
//! With a content root, bytes come from all holders at once, and each piece is proven before anyone
//! gets it; a holder that fails, lies or stalls is replaced. Without a root they come from one
//! member under one [`Version`]: when the file changes there, the reader gets an error and never a
//! mixture. Every parked read ends: with bytes, with the reason why no holder has them, or when
//! nothing has come for `STALL`, 14 s.

mod blame;
mod content;
mod disproofs;
mod fetch;
mod file_reader;
mod holder;
mod leaves;
mod pieces;
mod read_table;
mod schedule;
mod small_files;
mod window;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak, mpsc};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::concurrency::buffer_pool::BufferPool;
use crate::concurrency::peer_pools::PeerPools;
use crate::config::READ_DEADLINE;
use crate::content::cache::DiskCache;
use crate::content::merkle::SUBTREE_BYTES;
use crate::error::Error;
use crate::model::{ByteRange, ContentId, PeerId, Root, Version};
use crate::protocol::wire::MAX_SMALL_FILE;
use crate::query::claims::FileClaims;
use crate::stats::ledger::Ledger;

use content::ExpectedContent;
use disproofs::Disproofs;
use file_reader::FileReader;
use pieces::{PIECE, Piece};
use small_files::{SmallFileReader, SmallFiles};
use window::MAX_FAR_WINDOW;

pub use holder::{Availability, FileSource};
pub use small_files::{ReadingOrder, SmallFile, UpcomingFiles};

/// A reader's callback: receives all bytes of its range, or why they are unavailable.
pub type ReadCallback = Box<dyn FnOnce(Result<&[u8], Error>) + Send>;

/// Whether the reading thread may wait for the network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReaderPatience {
    /// It must not wait: other threads fetch what is missing.
    None,
    /// It may wait for up to `READ_DEADLINE`. It then fetches a short range itself, which spares a
    /// small read the way to another thread and back.
    Short,
}

/// A parked read fails when nothing has come for this long: a second less than the user is
/// promised, because the promise includes the way through the kernel.
const STALL: Duration = READ_DEADLINE.saturating_sub(Duration::from_secs(1));

/// How often deadlines and due retries are checked. Only waiting downloads are checked.
const TICK: Duration = Duration::from_millis(200);

/// Maximum number of spare buffers: 4 MiB in all, enough for two streams.
const MAX_SPARE_BUFFERS: usize = 32;

/// Streams to one member, over all files: more would only compete for bandwidth.
const STREAMS_PER_MEMBER: usize = 8;

/// Requests for leaves to one member at once: enough for the largest window in one round trip.
/// With two, a holder 50 ms away supplied the leaves of only 16 MiB per round trip, which
/// limited the read.
const LEAVES_PER_MEMBER: usize = (MAX_FAR_WINDOW / SUBTREE_BYTES) as usize;

/// Files that may wait for a stream to one member.
const WAITING_PER_MEMBER: usize = 1024;

/// Receives failures that say something about a member rather than about one file.
pub type OnFailure = Box<dyn Fn(PeerId, &Error) + Send + Sync>;

/// What all downloads of a node share: threads, memory, the clock.
pub struct Engine {
    core: Arc<Core>,
}

pub(crate) struct Core {
    pools: PeerPools,
    /// Threads that request leaves ahead of streams, which may take all threads of a pool.
    leaves: PeerPools,
    buffers: Arc<BufferPool>,
    /// The bytes that all windows together may hold before they stop growing.
    memory: u64,
    cache: Option<Arc<DiskCache>>,
    /// The bytes that windows and small files hold.
    held_bytes: Arc<AtomicU64>,
    smalls: SmallFiles,
    waiting: Mutex<WatchedReads>,
    tick: Condvar,
    /// True while the clock may be asleep until it is notified.
    clock_rests: AtomicBool,
    on_failure: OnFailure,
    ledger: Ledger,
    disproofs: Mutex<Disproofs>,
}

/// The downloads that the clock has to check.
#[derive(Default)]
struct WatchedReads {
    downloads: Vec<Weak<FileReader>>,
    stopped: bool,
}

impl Engine {
    /// Creates an engine whose windows together aim to stay below `memory` bytes.
    pub fn new(
        memory: u64,
        cache: Option<Arc<DiskCache>>,
        on_failure: OnFailure,
    ) -> Result<Self, Error> {
        let core = Arc::new(Core {
            pools: PeerPools::new("read", STREAMS_PER_MEMBER, WAITING_PER_MEMBER),
            leaves: PeerPools::new("leaves", LEAVES_PER_MEMBER, WAITING_PER_MEMBER),
            buffers: BufferPool::new(PIECE as usize, MAX_SPARE_BUFFERS),
            memory,
            cache,
            held_bytes: Arc::default(),
            smalls: SmallFiles::default(),
            waiting: Mutex::default(),
            tick: Condvar::new(),
            clock_rests: AtomicBool::new(false),
            on_failure,
            ledger: Ledger::default(),
            disproofs: Mutex::default(),
        });
        let clock = Arc::clone(&core);
        std::thread::Builder::new()
            .name("read-clock".into())
            .spawn(move || clock.run_clock())
            .map_err(|error| Error::local("starting a thread", error))?;
        Ok(Self { core })
    }

    /// Returns the ledger of what came from each member.
    pub fn ledger(&self) -> &Ledger {
        &self.core.ledger
    }

    /// Returns the bytes that all windows and small files hold now, and the limit they aim for.
    pub fn memory(&self) -> (u64, u64) {
        let held = self.core.held_bytes.load(Ordering::Relaxed);
        (held, self.core.memory)
    }

    /// Opens a reader of a file of `size` bytes. With a `root` its bytes come from all of `sources`
    /// and are proven; without one they come from the first source alone, in the version that it
    /// names. Nothing is fetched before the first read.
    pub fn open(&self, sources: Vec<FileSource>, size: u64, root: Option<Root>) -> Download {
        Download {
            shared: FileReader::new(Arc::clone(&self.core), sources, size, root),
            small: None,
        }
    }

    /// Opens a reader likewise, for a file that may be read in sequence with others of its
    /// directory, which `siblings` knows. If it is small, they are fetched together.
    pub fn open_among(
        &self,
        sources: Vec<FileSource>,
        size: u64,
        root: Option<Root>,
        siblings: Arc<dyn UpcomingFiles>,
    ) -> Download {
        let mut download = self.open(sources, size, root);
        if size <= MAX_SMALL_FILE {
            download.small = Some(SmallFileReader::new(Arc::clone(&download.shared), siblings));
        }
        download
    }
}

impl Engine {
    /// Runs `job`, which asks `member` something for a reader, on a thread of that member's.
    /// Returns false if too many jobs already wait for it.
    pub fn ask(&self, member: PeerId, job: impl FnOnce() + Send + 'static) -> bool {
        self.core.leaves.of(member).run(job).is_ok()
    }

    /// Returns how many bytes of a content the disk cache has, as far as it knows.
    pub fn cached_bytes(&self, content: ContentId) -> u64 {
        let cache = self.core.cache.as_ref();
        cache.map_or(0, |cache| cache.bytes_of(content))
    }

    /// Removes from `member`'s claims about its files the roots of contents that it was found not
    /// to have: such a file is a content of its own.
    pub fn disbelieve(&self, member: PeerId, claims: &mut impl FileClaims) {
        let disproofs = self.core.disproofs.lock();
        if disproofs.concern(member) {
            claims.each_file(&mut |file| {
                file.root = file
                    .root
                    .filter(|root| !disproofs.has(member, file.version, *root));
            });
        }
    }

    /// Returns true if `member` named a root for its file of this `version` and sent other bytes.
    pub fn is_disproved(&self, member: PeerId, version: Version) -> bool {
        self.core.disproofs.lock().concern_file(member, version)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.core.waiting.lock().stopped = true;
        self.core.tick.notify_all();
    }
}

impl Core {
    /// Registers a download with the clock.
    fn watch(&self, download: Weak<FileReader>) {
        self.waiting.lock().downloads.push(download);
        self.start_clock();
    }

    /// Lets the clock run while somebody waits. Call this after that can be seen.
    fn start_clock(&self) {
        if self.clock_rests.load(Ordering::SeqCst) {
            let _waiting = self.waiting.lock();
            self.tick.notify_one();
        }
    }

    /// Records that `bytes` of a file came from `source`; bytes on this disk came from no member.
    fn received(&self, source: &FileSource, bytes: u64) {
        if !source.is_local {
            self.ledger.received(source.peer.id(), bytes);
        }
    }

    /// Returns true while windows may grow.
    fn has_memory(&self) -> bool {
        self.held_bytes.load(Ordering::Relaxed) < self.memory
    }

    fn run_clock(&self) {
        let mut waiting = self.waiting.lock();
        let mut is_needed = true;
        while !waiting.stopped {
            // Whoever begins to wait after this notifies the clock; the next look sees all others.
            let was_resting = self.clock_rests.swap(!is_needed, Ordering::SeqCst);
            if is_needed || !was_resting {
                self.tick.wait_for(&mut waiting, TICK);
            } else {
                self.tick.wait(&mut waiting);
            }
            let downloads: Vec<_> = waiting.downloads.iter().filter_map(Weak::upgrade).collect();
            waiting
                .downloads
                .retain(|download| download.strong_count() > 0);
            drop(waiting);
            let now = Instant::now();
            let short_of_memory = self.held_bytes.load(Ordering::Relaxed) > self.memory;
            is_needed = false;
            for download in &downloads {
                is_needed |= download.tick(now, short_of_memory);
            }
            drop(downloads);
            is_needed |= self.smalls.tick(now);
            waiting = self.waiting.lock();
        }
    }
}

/// One reader of one file. Dropping it ends its streams; reads that are still parked fail.
pub struct Download {
    shared: Arc<FileReader>,
    /// Checked first, for a file that may come with others.
    small: Option<Arc<SmallFileReader>>,
}

impl Download {
    /// Requests the bytes of `range`, which must lie within the file. Calls `done` exactly once:
    /// before this returns if the bytes are in memory or the caller has the patience to fetch them,
    /// otherwise from another thread.
    pub fn read(&self, range: ByteRange, patience: ReaderPatience, done: ReadCallback) {
        if range.is_empty() {
            return done(Ok(&[]));
        }
        let now = Instant::now();
        match &self.small {
            Some(small) => small.read(range, done, now),
            None => self.shared.read(range, done, now, patience),
        }
    }

    /// Returns what `take` makes of the bytes of `range`, or why they are unavailable. Returns
    /// `None` if they have not come by `deadline`; bytes on their way then still arrive.
    pub fn read_by<T: Send + 'static>(
        &self,
        range: ByteRange,
        deadline: Instant,
        take: impl FnOnce(&[u8]) -> T + Send + 'static,
    ) -> Option<Result<T, Error>> {
        let (sender, receiver) = mpsc::channel();
        let done = move |bytes: Result<&[u8], Error>| {
            // The caller may have given up.
            let _ = sender.send(bytes.map(take));
        };
        self.read(range, ReaderPatience::None, Box::new(done));
        let left = deadline.saturating_duration_since(Instant::now());
        receiver.recv_timeout(left).ok()
    }

    /// Returns the members that have answered that they cannot deliver this file, for good or for
    /// now, and why.
    pub fn refusals(&self) -> Vec<(PeerId, Error)> {
        self.shared.refusals()
    }

    /// Returns how many bytes of this file are in memory.
    pub fn held_bytes(&self) -> u64 {
        let small = self.small.as_ref().map_or(0, |small| small.held_bytes());
        self.shared.held_bytes() + small
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.shared.close();
        if let Some(small) = &self.small {
            small.close();
        }
    }
}

/// Delivers the bytes of `range`, without a copy when one piece has them all.
fn deliver(pieces: &[Piece], range: ByteRange, expected: &ExpectedContent, done: ReadCallback) {
    if let [piece] = pieces {
        return done(piece.slice(range, expected).ok_or_else(mixed_up));
    }
    let parts = pieces.iter().map(|piece| piece.slice(range, expected));
    match parts.collect::<Option<Vec<&[u8]>>>() {
        Some(parts) => done(Ok(&parts.concat())),
        None => done(Err(mixed_up())),
    }
}

/// Returns the error for a reader for whom bytes of another file were kept.
fn mixed_up() -> Error {
    Error::local(
        "reading",
        "bytes of another file were kept for it; this is a fault of the program",
    )
}

#[cfg(test)]
mod tests;
