//! Worker threads, apart for each member, so that a frozen member ties up its own and no others.
//!
//! The wire is blocking (ureq), so every request in flight needs a thread. A [`PeerPool`] starts
//! one when work comes and none is idle, up to its width; more work waits in a short queue, and
//! beyond that the caller is told at once. Idle threads end by themselves.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::model::PeerId;

/// An idle thread waits this long for more work. Long enough to serve a walk over a tree, short
/// enough that fifty members do not keep hundreds of threads.
const IDLE: Duration = Duration::from_secs(10);

type PoolJob = Box<dyn FnOnce() + Send>;

/// The threads that may wait for one member.
pub(crate) struct PeerPool {
    name: String,
    width: usize,
    backlog: usize,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<PoolJob>,
    threads: usize,
    idle: usize,
}

/// The lane is full: as many jobs as it may hold are running or waiting.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl PeerPool {
    /// A lane of at most `width` threads, with room for `backlog` jobs behind them.
    pub(crate) fn new(name: String, width: usize, backlog: usize) -> Arc<Self> {
        let (state, work) = (Mutex::default(), Condvar::new());
        Arc::new(Self {
            name,
            width,
            backlog,
            state,
            work,
        })
    }

    /// Hands `job` to an idle thread, a new one, or the queue. Never blocks.
    pub(crate) fn run(self: &Arc<Self>, job: impl FnOnce() + Send + 'static) -> Result<(), Full> {
        let mut state = self.state.lock();
        if state.queue.len() >= state.idle + self.backlog {
            return Err(Full);
        }
        let short_of_threads = state.queue.len() >= state.idle;
        if short_of_threads && state.threads < self.width {
            let lane = Arc::clone(self);
            let thread = std::thread::Builder::new().name(self.name.clone());
            match thread.spawn(move || lane.serve()) {
                Ok(_) => state.threads += 1,
                // Threads that run already will come to it; without any, nobody would.
                Err(_) if state.threads == 0 => return Err(Full),
                Err(_) => {}
            }
        }
        state.queue.push_back(Box::new(job));
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    fn serve(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                drop(state);
                // A job that panics has been reported by the panic hook; the lane lives on.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
                state = self.state.lock();
                continue;
            }
            state.idle += 1;
            let timed_out = self.work.wait_for(&mut state, IDLE).timed_out();
            state.idle -= 1;
            if timed_out && state.queue.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

/// One lane for each member that was ever asked.
pub(crate) struct PeerPools {
    name: &'static str,
    width: usize,
    backlog: usize,
    by_member: Mutex<HashMap<PeerId, Arc<PeerPool>>>,
}

impl PeerPools {
    /// Lanes of `width` threads and `backlog` waiting jobs each.
    pub(crate) fn new(name: &'static str, width: usize, backlog: usize) -> Self {
        Self {
            name,
            width,
            backlog,
            by_member: Mutex::default(),
        }
    }

    /// The lane of `member`.
    pub(crate) fn of(&self, member: PeerId) -> Arc<PeerPool> {
        let new = || {
            PeerPool::new(
                format!("{}-{}", self.name, member.short()),
                self.width,
                self.backlog,
            )
        };
        Arc::clone(self.by_member.lock().entry(member).or_insert_with(new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_full_lane_says_so_and_never_blocks() {
        let lane = PeerPool::new("test".into(), 2, 1);
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let (started, starts) = mpsc::channel();
        let job = || {
            let (held, started) = (Arc::clone(&held), started.clone());
            move || {
                started.send(()).unwrap();
                let _ = held.lock().recv();
            }
        };
        lane.run(job()).unwrap();
        starts.recv_timeout(Duration::from_secs(5)).unwrap();
        lane.run(job()).unwrap();
        starts.recv_timeout(Duration::from_secs(5)).unwrap();
        lane.run(job()).unwrap();
        assert_eq!(lane.run(job()), Err(Full));
        drop(release);
        starts.recv_timeout(Duration::from_secs(5)).unwrap();
    }

    #[test]
    fn a_job_that_panics_does_not_cost_the_lane_a_thread() {
        let lane = PeerPool::new("test".into(), 1, 8);
        lane.run(|| panic!("on purpose")).unwrap();
        let (done, finished) = mpsc::channel();
        lane.run(move || done.send(()).unwrap()).unwrap();
        finished.recv_timeout(Duration::from_secs(5)).unwrap();
    }
}
