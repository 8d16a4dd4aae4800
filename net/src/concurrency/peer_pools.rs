//! Separate threads for each member, so that a frozen member ties up only its own.
//!
//! The wire is blocking (ureq), so every request in flight needs a thread.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::thread_pool::ThreadPool;
use crate::model::PeerId;

/// One pool for each member that was ever asked.
pub(crate) struct PeerPools {
    name: &'static str,
    max_threads: usize,
    max_waiting: usize,
    by_member: Mutex<HashMap<PeerId, Arc<ThreadPool>>>,
}

impl PeerPools {
    /// Creates pools of `max_threads` threads with room for `max_waiting` jobs each.
    pub(crate) fn new(name: &'static str, max_threads: usize, max_waiting: usize) -> Self {
        Self {
            name,
            max_threads,
            max_waiting,
            by_member: Mutex::default(),
        }
    }

    /// Returns the pool of `member`.
    pub(crate) fn of(&self, member: PeerId) -> Arc<ThreadPool> {
        let new = || {
            let name = format!("{}-{}", self.name, member.short());
            Arc::new(ThreadPool::new(name, self.max_threads, self.max_waiting))
        };
        Arc::clone(self.by_member.lock().entry(member).or_insert_with(new))
    }
}
