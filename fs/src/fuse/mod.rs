//! The mount as the kernel sees it. Only this folder implements fuser's interface.
//!
//! `adapter.rs` unpacks each request and hands it to the [`Filesystem`]; `reply.rs` packs the
//! answers. Neither decides anything, except who waits.
//!
//! fuser calls from a few event-loop threads. Once the kernel has handed over a request, nothing
//! can interrupt it, not even SIGKILL. So requests that need only memory are answered at once,
//! and those that need the network go to a [`ThreadPool`] with a deadline counted from the
//! arrival of the request. Reads are answered by the download that holds their bytes. Only a
//! small read may fetch missing bytes in an event loop, and only while enough other loops are
//! free that nothing has to wait for it. A handler that panics answers EIO, because fuser does so
//! when a reply is dropped.

mod adapter;
mod reply;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tinyp2p_net::concurrency::thread_pool::ThreadPool;

use crate::kernel_cache::{Busy, Expirer};
use crate::vfs::Filesystem;
use adapter::Adapter;
use reply::MountOwner;

/// Operations that may wait for the network at once. They mostly sleep, for at most three seconds.
const MAX_WORKERS: usize = 64;

/// The same limit for operations that may take as long as a read. They have their own threads, so
/// that they do not take them from all others.
const MAX_PATIENT_WORKERS: usize = 16;

/// Operations that may wait for a thread. More processes than this rarely use one mount.
const MAX_WAITING_OPERATIONS: usize = 1024;

/// Event loops that never wait. Two answer concurrent requests without a wake-up in between
/// (measured: 30 to 40 us per request, against 60 to 75 with one).
const FREE_LOOPS: usize = 2;

/// Event loops that may wait for a small read. Further reads go to another thread.
const WAITING_LOOPS: usize = 2;

/// Wraps `filesystem` in the interface that fuser expects. Everything in the mount belongs to the
/// user of this process. Members' changes go to `expirer` if the kernel supports expiry; `busy`
/// records the directories in which a caller waits. With `exec`, files that are executable at their
/// owner are shown as executable.
pub fn adapter(
    filesystem: Arc<Filesystem>,
    expirer: Option<Expirer>,
    busy: Arc<Busy>,
    exec: bool,
) -> impl fuser::Filesystem {
    Adapter {
        filesystem,
        expirer,
        busy,
        workers: ThreadPool::new("fs-worker", MAX_WORKERS, MAX_WAITING_OPERATIONS),
        patient: ThreadPool::new("fs-reader", MAX_PATIENT_WORKERS, MAX_WAITING_OPERATIONS),
        waiting: WaitingLoops::default(),
        owner: MountOwner {
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            exec,
        },
    }
}

/// Returns the session settings that belong to [`adapter()`]; the caller sets mount
/// options and access.
pub fn session_config() -> fuser::Config {
    let mut config = fuser::Config::default();
    config.n_threads = Some(FREE_LOOPS + WAITING_LOOPS);
    config.clone_fd = true;
    config
}

/// Number of event loops that wait or may wait.
#[derive(Default)]
struct WaitingLoops(AtomicUsize);

impl WaitingLoops {
    /// Reserves a place for one event loop until it is dropped; `None` when the
    /// others must stay free.
    fn enter(&self) -> Option<WaitingPlace<'_>> {
        let one_more = |waiting| (waiting < WAITING_LOOPS).then_some(waiting + 1);
        let entered = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        entered.ok().map(|_| WaitingPlace(&self.0))
    }
}

struct WaitingPlace<'a>(&'a AtomicUsize);

impl Drop for WaitingPlace<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
