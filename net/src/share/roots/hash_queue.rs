//! The queue between those who want content roots and the thread that computes them.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::wishes::{Asker, FileId, Interest, Wish, Wishes};
use crate::model::RelPath;
use crate::share::SharedFile;

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
    /// There is something to look at besides the wishes.
    woken: bool,
}

impl std::fmt::Debug for HashQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashQueue")
    }
}

impl HashQueue {
    /// Requests the root of `file`, which lies at `path` and which `asker` has opened, unless a
    /// recent attempt failed.
    pub(super) fn add_opened(&self, asker: Asker, path: &RelPath, file: &SharedFile) {
        let mut state = self.state.lock();
        if !state.wishes.is_fruitless(file.id(), Instant::now()) {
            let path = path.clone();
            state.wishes.add(Wish { asker, path }, Interest::Opened);
            self.more.notify_one();
        }
    }

    /// Requests the roots of files in which `asker` takes this much interest, as many as there
    /// is room for.
    pub(super) fn add_all(
        &self,
        asker: Asker,
        paths: impl Iterator<Item = RelPath>,
        interest: Interest,
    ) {
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
        let woken = std::mem::take(&mut state.woken);
        if wish.is_some() || wait.is_zero() || state.stopped || woken {
            return wish;
        }
        let due = state.wishes.next_due();
        let wait = due.map_or(wait, |due| wait.min(due.saturating_duration_since(now)));
        self.more.wait_for(&mut state, wait);
        state.woken = false;
        state.wishes.next(Instant::now())
    }

    /// Ends a wait for files, now or the next one: the share is another directory.
    pub(crate) fn wake(&self) {
        self.state.lock().woken = true;
        self.more.notify_one();
    }

    /// Records the outcome of a wish.
    pub(super) fn settle(&self, wish: Wish, outcome: WishOutcome, took: Duration) {
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

    pub(super) fn is_stopped(&self) -> bool {
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
pub(super) enum WishOutcome {
    /// The file has a root, for which this many bytes were read now; or the file is gone.
    Rooted(u64),
    /// It is still being written.
    TooNew,
    /// The file has no root, and this many bytes were read in vain.
    Fruitless(FileId, u64),
}
