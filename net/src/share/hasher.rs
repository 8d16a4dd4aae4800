//! Content roots, computed in the background.
//!
//! One thread of low priority reads files that have no root yet: first those that somebody opened,
//! then those that somebody listed, then all the rest of the share once. A file that is still
//! being written is left for later; one that changes while it is read is simply read again when
//! it is next asked for.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex};

use super::Share;
use super::halves::in_halves;
use super::roots::Roots;
use crate::error::Error;
use crate::fairness::Holder;
use crate::merkle::TreeHasher;
use crate::types::{Attributes, Kind, RelPath, Root};
use crate::wire::SearchRequest;

/// Files that may wait. More are found again when they are listed again.
const MAX_WAITING: usize = 65_536;

/// A file that changed less than this long ago is probably still being written.
const SETTLED: Duration = Duration::from_secs(2);

/// A larger file gets no root: its leaves (half a gigabyte for this) would not fit into memory
/// beside everything else, and nothing else would get its root for hours.
const MAX_HASHED: u64 = 256 << 30;

/// Somebody's open files that may wait in front of all others.
const MAX_URGENT: usize = 256;

/// What was computed reaches the disk this often.
const FLUSH: Duration = Duration::from_secs(5);

/// Those who were told of files without a root hear of it this often.
const TELL: Duration = Duration::from_secs(1);

/// The thread looks this often whether the share is still there.
const IDLE: Duration = Duration::from_secs(1);

/// Read at once.
const CHUNK: usize = 256 * 1024;

/// The files that wait for their root.
#[derive(Default)]
pub(super) struct Wanted {
    state: Mutex<Waiting>,
    more: Condvar,
}

#[derive(Default)]
struct Waiting {
    urgent: VecDeque<RelPath>,
    queue: VecDeque<RelPath>,
    queued: HashSet<RelPath>,
    stopped: bool,
}

impl std::fmt::Debug for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Wanted({})", self.state.lock().queue.len())
    }
}

impl Wanted {
    /// Puts a file into the queue, in front of all others when somebody is reading it.
    pub(super) fn add(&self, path: RelPath, is_urgent: bool) {
        let mut state = self.state.lock();
        if is_urgent {
            if state.urgent.len() < MAX_URGENT && !state.urgent.contains(&path) {
                state.urgent.push_back(path);
            }
        } else if state.queue.len() < MAX_WAITING && state.queued.insert(path.clone()) {
            state.queue.push_back(path);
        }
        drop(state);
        self.more.notify_one();
    }

    /// The next file; `None` when there is none for now.
    fn next(&self, wait: Duration) -> Option<RelPath> {
        let mut state = self.state.lock();
        let is_idle = state.urgent.is_empty() && state.queue.is_empty();
        if is_idle && !state.stopped && !wait.is_zero() {
            self.more.wait_for(&mut state, wait);
        }
        if let Some(path) = state.urgent.pop_front() {
            return Some(path);
        }
        let path = state.queue.pop_front()?;
        state.queued.remove(&path);
        Some(path)
    }

    fn is_stopped(&self) -> bool {
        self.state.lock().stopped
    }

    /// Ends the thread, at the latest after the chunk that it reads.
    pub(super) fn stop(&self) {
        self.state.lock().stopped = true;
        self.more.notify_all();
    }
}

/// Starts the thread. It ends with the share.
pub(super) fn start(share: &Arc<Share>, roots: &Arc<Roots>) -> Result<(), Error> {
    let hasher = Hasher {
        share: Arc::downgrade(share),
        wanted: Arc::clone(&share.wanted),
        roots: Arc::clone(roots),
        walked_to: Some(None),
        too_new: Vec::new(),
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
    wanted: Arc<Wanted>,
    roots: Arc<Roots>,
    /// How far the walk over the whole share has come; `None` when it is done.
    walked_to: Option<Option<RelPath>>,
    /// Files that were still being written.
    too_new: Vec<RelPath>,
    /// Roots that a crash would lose, and when there were last none.
    unflushed: usize,
    flushed: Instant,
    /// Files that have a root now, and when others were last told.
    untold: Vec<RelPath>,
    told: Instant,
}

impl Hasher {
    fn run(mut self) {
        // Best effort: without the right to do so, the thread just competes like others.
        let _ = rustix::process::setpriority_process(None, 19);
        while !self.wanted.is_stopped() {
            self.flush(FLUSH);
            self.tell(TELL);
            let wait = match (self.walked_to.is_some(), self.untold.is_empty()) {
                (true, _) => Duration::ZERO,
                (false, true) => IDLE,
                (false, false) => TELL.saturating_sub(self.told.elapsed()),
            };
            match self.wanted.next(wait) {
                Some(path) => {
                    let Some(share) = self.share.upgrade() else {
                        return;
                    };
                    if !self.hash(&share, &path) {
                        self.too_new.push(path);
                    }
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
                    for path in std::mem::take(&mut self.too_new) {
                        self.wanted.add(path, false);
                    }
                }
            }
        }
        self.flush(Duration::ZERO);
    }

    /// Brings what was computed to the disk, if that last happened `pause` ago.
    fn flush(&mut self, pause: Duration) {
        if self.unflushed == 0 || self.flushed.elapsed() < pause {
            return;
        }
        if let Err(error) = self.roots.flush() {
            tracing::warn!(%error, "content roots cannot be kept");
        }
        (self.unflushed, self.flushed) = (0, Instant::now());
    }

    /// Says that files have got roots, if that last happened `pause` ago.
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

    /// Looks at one more page of the share. What needs a root comes into the queue by being looked at.
    fn walk_on(&mut self, share: &Share) {
        let after = self.walked_to.take().flatten();
        let request = SearchRequest {
            pattern: String::new(),
            after,
            limit: 256,
        };
        match share.search(Holder::itself(), &request) {
            Ok(page) => {
                self.note_paths(page.matches.iter().filter_map(|(path, found)| {
                    let root = found.root?;
                    Some((root, path))
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

    /// Keeps where contents lie whose roots were computed without noting that, or somewhere else.
    fn note_paths<'a>(&mut self, found: impl Iterator<Item = (Root, &'a RelPath)>) {
        match self.roots.add_paths(found) {
            Ok(count) => self.unflushed += count,
            Err(error) => tracing::warn!(%error, "paths of content roots cannot be kept"),
        }
    }

    /// Computes and keeps the root of one file. False when it is too new to bother.
    fn hash(&mut self, share: &Share, path: &RelPath) -> bool {
        let Ok(file) = share.tree_file(path) else {
            return true;
        };
        let known = self.roots.of([file.attributes().version].into_iter());
        if let [Some(root)] = known[..] {
            self.note_paths([(root, path)].into_iter());
            return true;
        }
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let changed = Duration::from_nanos(file.last_change().max(0) as u64);
        if now.saturating_sub(changed) < SETTLED {
            return false;
        }
        if file.attributes().size > MAX_HASHED {
            tracing::info!(%path, "larger than {} GiB: no content root", MAX_HASHED >> 30);
            return true;
        }
        // Stores through `mmap` mark the file only once what was stored before has been written back.
        let settled = file.settle();
        let Ok(file) = share.tree_file(path) else {
            return true;
        };
        let attributes = file.attributes();
        if !matches!(settled, Ok(true)) {
            return true;
        }
        if self.roots.of([attributes.version].into_iter()).first() != Some(&None) {
            return true;
        }
        let (mut hasher, mut chunk, mut at) = (TreeHasher::default(), vec![0; CHUNK], 0);
        while at < attributes.size && !self.wanted.is_stopped() {
            // A file that changes or fails is left alone: it comes again when it is asked for.
            let Ok(count @ 1..) = file.read_at(at, &mut chunk) else {
                return true;
            };
            hasher.update(&chunk[..count]);
            at += count as u64;
        }
        let tree = hasher.finish().filter(|_| at == attributes.size);
        self.unflushed += 1;
        self.untold.push(path.clone());
        let kept = tree.map(|tree| self.roots.insert(attributes.version, path, &tree));
        if let Some(Err(error)) = kept {
            tracing::warn!(%error, "a content root cannot be kept");
        }
        true
    }
}

impl Share {
    /// Puts the roots that are known into `found`, and the files without one into the queue; `path`
    /// tells where number so-and-so of them lies.
    pub(super) fn add_roots(
        &self,
        mut found: Vec<&mut Attributes>,
        path: impl Fn(usize) -> Option<RelPath>,
    ) {
        let Some(roots) = &self.roots else { return };
        let known = in_halves(0..found.len(), |range| {
            roots.of(found[range].iter().map(|attributes| attributes.version))
        });
        let known = known.concat();
        for (index, (attributes, root)) in found.iter_mut().zip(known).enumerate() {
            if attributes.kind == Kind::File && attributes.size > 0 {
                attributes.root = root;
                if let (None, Some(path)) = (root, path(index)) {
                    self.wanted.add(path, false);
                }
            }
        }
    }
}
