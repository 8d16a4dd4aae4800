//! Computes content roots in the background.
//!
//! One thread of low priority reads files that have no root yet, in the order of [`super::wishes`]:
//! first what members opened, listed or looked up, then the rest of the share once. A file that is
//! still being written is left for later. One that changes while it is read is read again when it
//! is next requested, though not at once.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::store::{FileLocation, Roots};
use super::wishes::{Asker, FileId, Interest, Wish, Wishes};
use crate::concurrency::parallel::in_halves;
use crate::content::merkle::TreeHasher;
use crate::error::Error;
use crate::fairness::Claimant;
use crate::model::{Attributes, FileSize, Kind, Mode, RelPath, Root, Version};
use crate::protocol::wire::SearchRequest;
use crate::share::{Share, SharedFile};

/// A file that changed less than this long ago is probably still being written.
const SETTLED: Duration = Duration::from_secs(2);

/// A larger file gets no root. Its leaves (half a gigabyte at this size) would not fit into memory
/// beside everything else, and no other file would get its root for hours.
pub(crate) const MAX_HASHED: u64 = 256 << 30;

/// How often computed roots are flushed to the disk.
const FLUSH: Duration = Duration::from_secs(5);

/// How often those who were shown files without a root are notified of new roots.
const TELL: Duration = Duration::from_secs(1);

/// How often the thread checks whether the share still exists.
const IDLE: Duration = Duration::from_secs(1);

/// Bytes that are read at once.
const CHUNK: usize = 256 * 1024;

/// The queue of files that wait for their root.
#[derive(Default)]
pub(crate) struct HashQueue {
    state: Mutex<WaitingFile>,
    more: Condvar,
}

#[derive(Default)]
struct WaitingFile {
    wishes: Wishes,
    stopped: bool,
}

impl std::fmt::Debug for HashQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashQueue")
    }
}

impl HashQueue {
    /// Requests the root of `file`, which lies at `path` and which `asker` has opened, unless a
    /// recent attempt failed.
    fn add_opened(&self, asker: Asker, path: &RelPath, file: &SharedFile) {
        let mut state = self.state.lock();
        if !state.wishes.is_fruitless(file.id(), Instant::now()) {
            let path = path.clone();
            state.wishes.add(Wish { asker, path }, Interest::Opened);
            self.more.notify_one();
        }
    }

    /// Requests the roots of files in which `asker` takes this much interest, as many as there
    /// is room for.
    fn add_all(&self, asker: Asker, paths: impl Iterator<Item = RelPath>, interest: Interest) {
        let mut state = self.state.lock();
        for path in paths {
            if !state.wishes.add(Wish { asker, path }, interest) {
                break;
            }
        }
        self.more.notify_one();
    }

    /// Returns the next file; `None` if there is none for now.
    pub(crate) fn next(&self, wait: Duration) -> Option<Wish> {
        let mut state = self.state.lock();
        let now = Instant::now();
        let wish = state.wishes.next(now);
        if wish.is_some() || wait.is_zero() || state.stopped {
            return wish;
        }
        let due = state.wishes.next_due();
        let wait = due.map_or(wait, |due| wait.min(due.saturating_duration_since(now)));
        self.more.wait_for(&mut state, wait);
        state.wishes.next(Instant::now())
    }

    /// Records the outcome of a wish.
    fn settle(&self, wish: Wish, outcome: WishOutcome, took: Duration) {
        let (mut state, now) = (self.state.lock(), Instant::now());
        match outcome {
            WishOutcome::Rooted(bytes) => state.wishes.served(wish.asker, bytes),
            WishOutcome::TooNew => state.wishes.delay(wish, now),
            WishOutcome::Fruitless(file, bytes) => {
                state.wishes.served(wish.asker, bytes);
                state.wishes.came_to_nothing(file, took, now);
            }
        }
    }

    /// Returns true if a file waits that somebody has opened.
    #[cfg(test)]
    pub(crate) fn is_opened(&self) -> bool {
        self.state.lock().wishes.is_opened()
    }

    /// Returns true if reading the file has failed to yield a root lately.
    pub(crate) fn is_fruitless(&self, file: FileId) -> bool {
        self.state.lock().wishes.is_fruitless(file, Instant::now())
    }

    fn is_stopped(&self) -> bool {
        self.state.lock().stopped
    }

    /// Ends the thread, at the latest after the chunk that it is reading.
    pub(crate) fn stop(&self) {
        self.state.lock().stopped = true;
        self.more.notify_all();
    }
}

/// The outcome of a wish.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum WishOutcome {
    /// The file has a root, for which this many bytes were read now; or the file is gone.
    Rooted(u64),
    /// It is still being written.
    TooNew,
    /// The file has no root, and this many bytes were read in vain.
    Fruitless(FileId, u64),
}

/// Starts the thread. It ends with the share.
pub(crate) fn start(share: &Arc<Share>, roots: &Arc<Roots>) -> Result<(), Error> {
    let hasher = Hasher {
        share: Arc::downgrade(share),
        wanted: Arc::clone(&share.wanted),
        roots: Arc::clone(roots),
        walked_to: Some(None),
        generation: None,
        unflushed: 0,
        flushed: Instant::now(),
        untold: Vec::new(),
        told: Instant::now(),
    };
    let thread = std::thread::Builder::new().name("hash".into());
    let spawned = thread.spawn(move || hasher.run());
    spawned
        .map(drop)
        .map_err(|error| Error::local("starting a thread", error))
}

struct Hasher {
    share: Weak<Share>,
    wanted: Arc<HashQueue>,
    roots: Arc<Roots>,
    /// How far the walk over the whole share has come; `None` when it is done.
    walked_to: Option<Option<RelPath>>,
    /// The generation of the directory that the walk covers, or covered.
    generation: Option<u64>,
    /// How many roots a crash would lose, and when there were last none.
    unflushed: usize,
    flushed: Instant,
    /// Files that have a root now, and when others were last notified.
    untold: Vec<RelPath>,
    told: Instant,
}

impl Hasher {
    fn run(mut self) {
        // Best effort: without the right to do so, the thread competes like any other.
        let _ = rustix::process::setpriority_process(None, 19);
        while !self.wanted.is_stopped() {
            self.flush(FLUSH);
            self.tell(TELL);
            self.follow();
            let wait = match (self.walked_to.is_some(), self.untold.is_empty()) {
                (true, _) => Duration::ZERO,
                (false, true) => IDLE,
                (false, false) => TELL.saturating_sub(self.told.elapsed()),
            };
            match self.wanted.next(wait) {
                Some(wish) => {
                    let Some(share) = self.share.upgrade() else {
                        return;
                    };
                    let begun = Instant::now();
                    let outcome = self.hash(&share, &wish.path);
                    self.wanted.settle(wish, outcome, begun.elapsed());
                }
                None if self.walked_to.is_some() => {
                    let Some(share) = self.share.upgrade() else {
                        return;
                    };
                    self.walk_on(&share);
                }
                None if !self.untold.is_empty() => self.tell(Duration::ZERO),
                None => {
                    let Some(share) = self.share.upgrade() else {
                        return;
                    };
                    share.forget_unused();
                    self.flush(Duration::ZERO);
                }
            }
        }
        self.flush(Duration::ZERO);
    }

    /// Restarts the walk if the share is a different directory by now.
    fn follow(&mut self) {
        let generation = self.share.upgrade().map(|share| share.anchor.generation());
        if self.generation != generation {
            (self.generation, self.walked_to) = (generation, Some(None));
        }
    }

    /// Flushes computed roots to the disk, if the last flush was `pause` ago.
    fn flush(&mut self, pause: Duration) {
        if self.unflushed == 0 || self.flushed.elapsed() < pause {
            return;
        }
        if let Err(error) = self.roots.flush() {
            tracing::warn!(%error, "content roots cannot be kept");
        }
        (self.unflushed, self.flushed) = (0, Instant::now());
    }

    /// Announces files that have got roots, if the last announcement was `pause` ago.
    fn tell(&mut self, pause: Duration) {
        if self.untold.is_empty() || self.told.elapsed() < pause {
            return;
        }
        if let Some(watch) = self.share.upgrade().and_then(|share| share.watch.clone()) {
            watch.note(&self.untold);
        }
        self.untold.clear();
        self.told = Instant::now();
    }

    /// Examines one more page of the share. That puts the files that need a root into the queue.
    fn walk_on(&mut self, share: &Share) {
        let after = self.walked_to.take().flatten();
        let request = SearchRequest {
            pattern: String::new(),
            after,
            limit: 256,
        };
        match share.search(&request, Claimant::itself()) {
            Ok(page) => {
                self.note_places(page.matches.iter().filter_map(|(path, found)| {
                    let place = FileLocation {
                        path: path.clone(),
                        inode: 0,
                        size: found.size.or_zero(),
                    };
                    Some((found.root?, place))
                }));
                if page.more {
                    let reached = page.matches.last().map(|(path, _)| path.clone());
                    self.walked_to = Some(reached.or(request.after));
                }
            }
            Err(fault) => {
                tracing::warn!(%fault, "the share cannot be walked; roots come as files are listed")
            }
        }
    }

    /// Stores where contents lie whose roots were computed without storing that, or
    /// at another place.
    fn note_places(&mut self, found: impl Iterator<Item = (Root, FileLocation)>) {
        match self.roots.add_places(found) {
            Ok(count) => self.unflushed += count,
            Err(error) => tracing::warn!(%error, "places of content roots cannot be kept"),
        }
    }

    /// Computes and stores the root of one file.
    fn hash(&mut self, share: &Share, path: &RelPath) -> WishOutcome {
        let Ok(file) = share.tree_file(path) else {
            return WishOutcome::Rooted(0);
        };
        let id = file.id();
        if let Some(root) = self.known(file.attributes().version) {
            self.note_places([(root, file.place(path))].into_iter());
            return WishOutcome::Rooted(0);
        }
        // Before anything that costs more than querying the file.
        if self.wanted.is_fruitless(id) {
            return WishOutcome::Rooted(0);
        }
        if file.changed_within(SETTLED) {
            return WishOutcome::TooNew;
        }
        if file.size() > MAX_HASHED {
            tracing::info!(%path, "larger than {} GiB: no content root", MAX_HASHED >> 30);
            return WishOutcome::Fruitless(id, 0);
        }
        // Stores through `mmap` mark the file only once earlier stores have been written back.
        let settled = file.settle();
        let Ok(file) = share.tree_file(path) else {
            return WishOutcome::Fruitless(id, 0);
        };
        if !matches!(settled, Ok(true)) {
            return WishOutcome::Fruitless(id, 0);
        }
        if self.known(file.attributes().version).is_some() {
            return WishOutcome::Rooted(0);
        }
        match self.read_and_keep(path, &file) {
            (read, true) => WishOutcome::Rooted(read),
            (read, false) => WishOutcome::Fruitless(id, read),
        }
    }

    fn known(&self, version: Version) -> Option<Root> {
        self.roots.of([version].into_iter()).pop().flatten()
    }

    /// Returns how many bytes were read, and whether the file has a root now.
    fn read_and_keep(&mut self, path: &RelPath, file: &SharedFile) -> (u64, bool) {
        let attributes = file.attributes();
        let (mut hasher, mut chunk, mut at) = (TreeHasher::default(), vec![0; CHUNK], 0);
        while at < file.size() && !self.wanted.is_stopped() {
            // A file that changes or fails is left alone. It is queued again when it
            // is next requested.
            let Ok(count @ 1..) = file.read_at(at, &mut chunk) else {
                return (at, false);
            };
            hasher.update(&chunk[..count]);
            at += count as u64;
        }
        let Some(tree) = hasher.finish().filter(|_| at == file.size()) else {
            return (at, false);
        };
        let is_kept = match self
            .roots
            .insert(attributes.version, &file.place(path), &tree)
        {
            Ok(is_kept) => is_kept,
            Err(error) => {
                tracing::warn!(%error, "a content root cannot be kept");
                false
            }
        };
        if is_kept {
            self.unflushed += 1;
            self.untold.push(path.clone());
        }
        (at, is_kept)
    }
}

impl Share {
    /// Fills the known roots into `found`, and requests those of the other files on behalf of
    /// `asker`, who takes this much `interest` in them. `path` returns the path of the file with
    /// a given number.
    pub(crate) fn add_roots(
        &self,
        mut found: Vec<&mut Attributes>,
        (asker, interest): (Asker, Interest),
        path: impl Fn(usize) -> Option<RelPath>,
    ) {
        let Some(roots) = &self.roots else { return };
        let known = in_halves(0..found.len(), |range| {
            roots.of(found[range].iter().map(|attributes| attributes.version))
        });
        let known = known.concat();
        let mut lacking = Vec::new();
        for (index, (attributes, root)) in found.iter_mut().zip(known).enumerate() {
            if attributes.kind == Kind::File && attributes.size != FileSize::ZERO {
                attributes.root = root;
                // A file that cannot be read gets none.
                if root.is_none() && attributes.mode != Mode::Unreadable {
                    lacking.push(index);
                }
            }
        }
        if !lacking.is_empty() {
            let paths = lacking.into_iter().filter_map(path);
            self.wanted.add_all(asker, paths, interest);
        }
    }

    /// Requests that the files at `paths`, whose roots `asker` wants to know, are read before
    /// others. Costs nothing but room in a bounded list.
    pub fn wanted_soon(&self, asker: Asker, paths: impl Iterator<Item = RelPath>) {
        if self.roots.is_some() {
            self.wanted.add_all(asker, paths, Interest::Listed);
        }
    }

    /// Like [`Share::wanted_soon`], for a file that `asker` has opened, at the very front.
    pub(crate) fn wanted_now(&self, asker: Asker, path: &RelPath, file: &SharedFile) {
        let attributes = file.attributes();
        if let Some(roots) = self.roots.as_ref().filter(|_| file.size() > 0)
            && !roots.is_complete(attributes.version)
        {
            self.wanted.add_opened(asker, path, file);
        }
    }
}
