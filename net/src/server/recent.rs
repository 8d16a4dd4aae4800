//! Files that were opened a moment ago, kept open for the next request.
//!
//! Whoever reads at random, or streams by many ranges, asks for the same file again and again. Finding it
//! takes a visit to a blocking thread each time: a walk down its path, and a look into the database of content
//! roots. A file that is still open answers right where the request arrived.
//!
//! That shows nothing that a fresh open would not: a [`SharedFile`] gives bytes of the version that it was
//! opened in or none, and replacing, deleting or renaming a file makes another version of it. Only a directory
//! above it that is renamed, or a link that leads elsewhere, goes unnoticed, for [`KEPT`].
//!
//! Nothing here may wait, so only files whose bytes are in the page cache are kept, and none is closed
//! under the lock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::share::SharedFile;
use crate::types::RelPath;

/// How long a file stays open after it was opened.
const KEPT: Duration = Duration::from_secs(1);

/// Files kept open at once, whoever asked for them.
const MOST: usize = 64;

#[derive(Default)]
pub(super) struct Recent {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    files: HashMap<RelPath, Opened>,
    /// True while a task closes what has been open for long enough.
    is_swept: bool,
}

struct Opened {
    at: Instant,
    file: Arc<SharedFile>,
}

impl Recent {
    /// The file at `path`, if it was opened just before `now`.
    pub(super) fn get(&self, path: &RelPath, now: Instant) -> Option<Arc<SharedFile>> {
        let state = self.state.lock();
        let opened = state.files.get(path)?;
        is_fresh(opened, now).then(|| Arc::clone(&opened.file))
    }

    /// Keeps a file that was opened at `now`; one that lies there already is replaced. Must be called within
    /// the runtime.
    pub(super) fn put(self: &Arc<Self>, path: RelPath, file: Arc<SharedFile>, now: Instant) {
        let mut state = self.state.lock();
        let mut closed = Vec::new();
        if state.files.len() >= MOST {
            closed = state.take_old(now);
        }
        if state.files.len() < MOST {
            closed.extend(state.files.insert(path, Opened { at: now, file }));
        }
        if !std::mem::replace(&mut state.is_swept, true) {
            let recent = Arc::clone(self);
            tokio::spawn(async move {
                while recent.sweep(Instant::now()) {
                    tokio::time::sleep(KEPT).await;
                }
            });
        }
        drop(state);
        drop(closed);
    }

    /// Forgets a file that turned out to be another one by now.
    pub(super) fn forget(&self, path: &RelPath) {
        let forgotten = self.state.lock().files.remove(path);
        drop(forgotten);
    }

    /// Closes what was opened [`KEPT`] before `now`. False when nothing is left.
    fn sweep(&self, now: Instant) -> bool {
        let mut state = self.state.lock();
        let closed = state.take_old(now);
        state.is_swept = !state.files.is_empty();
        let goes_on = state.is_swept;
        drop(state);
        drop(closed);
        goes_on
    }
}

impl State {
    fn take_old(&mut self, now: Instant) -> Vec<Opened> {
        let old = self.files.extract_if(|_, opened| !is_fresh(opened, now));
        old.map(|(_, opened)| opened).collect()
    }
}

fn is_fresh(opened: &Opened, now: Instant) -> bool {
    now.saturating_duration_since(opened.at) < KEPT
}
