//! What a view remembers, separate from the view so that it can make room for other answers.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use tinyp2p_net::budget::Relieve;
use tinyp2p_net::model::PeerId;

use super::cache::ViewCache;
use super::freshness::Freshness;

/// Locked for a look, never while the network is asked.
pub(super) struct ViewMemory(Mutex<ViewCache>);

/// When a question was asked, and how many changes were known by then.
#[derive(Clone, Copy)]
pub(super) struct QueryStart {
    pub(super) asked: Instant,
    pub(super) changes: u64,
}

impl ViewMemory {
    /// Remembers listings of at most `max_bytes`.
    pub(super) fn new(max_bytes: usize) -> Self {
        Self(Mutex::new(ViewCache::new(max_bytes)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, ViewCache> {
        self.0.lock()
    }
}

impl Relieve for ViewMemory {
    fn relieve(&self, member: PeerId) {
        let gone = self.lock().forget_those_of(member);
        drop(gone);
    }
}

impl ViewCache {
    /// Records that a question is asked now.
    pub(super) fn begin(&self) -> QueryStart {
        QueryStart {
            asked: Instant::now(),
            changes: self.changes.count(),
        }
    }

    /// Returns how long answers hold that arrive now.
    pub(super) fn arriving(&mut self, freshness: Freshness) -> Freshness {
        if self.watched != freshness.watched {
            self.watched = Arc::clone(&freshness.watched);
        }
        Freshness {
            came: Instant::now(),
            watched: Arc::clone(&self.watched),
            ..freshness
        }
    }
}
