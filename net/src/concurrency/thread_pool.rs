//! A pool of threads for blocking work. The work mostly waits for the network, so the
//! threads mostly sleep.
//!
//! Threads are created when all others are busy, up to a limit, and end when they have been idle
//! for a while. A job that can neither run nor wait is refused at once: an error now is better than
//! an answer that nobody can be sure to get. A job that panics is lost with everything it holds;
//! its thread continues.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// How long an idle thread waits for more work: long enough to serve a walk over a tree, short
/// enough that fifty members do not keep hundreds of threads.
const IDLE: Duration = Duration::from_secs(10);

/// The fate of a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JobTurn {
    /// Its turn has come.
    Now,
    /// There is no room for it; called on the submitting thread.
    Refused,
}

/// A job to run; called exactly once.
pub type PoolJob = Box<dyn FnOnce(JobTurn) + Send>;

/// The error of a pool that already has its maximum of running and waiting jobs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PoolFull;

/// A pool of threads. Once dropped, they finish their jobs and end.
pub struct ThreadPool {
    shared: Arc<PoolShared>,
}

struct PoolShared {
    name: String,
    max_threads: usize,
    max_waiting: usize,
    idle: Duration,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<PoolJob>,
    threads: usize,
    sleeping: usize,
    is_closed: bool,
}

impl ThreadPool {
    /// Creates a pool of at most `max_threads` threads of this `name`, with room for `max_waiting`
    /// jobs behind them.
    pub fn new(name: impl Into<String>, max_threads: usize, max_waiting: usize) -> Self {
        Self::with_idle(name.into(), max_threads, max_waiting, IDLE)
    }

    fn with_idle(name: String, max_threads: usize, max_waiting: usize, idle: Duration) -> Self {
        Self {
            shared: Arc::new(PoolShared {
                name,
                max_threads,
                max_waiting,
                idle,
                state: Mutex::default(),
                wake: Condvar::new(),
            }),
        }
    }

    /// Runs `job` on one of the threads, or refuses it at once. Never blocks.
    pub fn submit(&self, job: PoolJob) {
        if let Err(job) = self.enqueue(job) {
            job(JobTurn::Refused);
        }
    }

    /// Runs `job` as [`ThreadPool::submit`] does, but does not call it if there is no room for it.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) -> Result<(), PoolFull> {
        let job = Box::new(|_: JobTurn| job());
        self.enqueue(job).map_err(|_| PoolFull)
    }

    /// Queues the job, or returns it if there is no room for it.
    fn enqueue(&self, job: PoolJob) -> Result<(), PoolJob> {
        let shared = &self.shared;
        let mut state = shared.state.lock();
        if state.queue.len() >= state.sleeping + shared.max_waiting {
            return Err(job);
        }
        let needs_thread = state.queue.len() >= state.sleeping;
        if needs_thread && state.threads < shared.max_threads && shared.start_thread() {
            state.threads += 1;
        }
        // Running threads will get to it; without any, nobody would.
        if state.threads == 0 {
            return Err(job);
        }
        state.queue.push_back(job);
        drop(state);
        shared.wake.notify_one();
        Ok(())
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.state.lock().is_closed = true;
        self.shared.wake.notify_all();
    }
}

impl PoolShared {
    fn start_thread(self: &Arc<Self>) -> bool {
        let shared = Arc::clone(self);
        let thread = std::thread::Builder::new().name(self.name.clone());
        let started = thread.spawn(move || shared.work());
        if let Err(error) = &started {
            tracing::warn!(%error, "cannot start a thread");
        }
        started.is_ok()
    }

    fn work(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                drop(state);
                // The panic hook has reported it already.
                let _ = catch_unwind(AssertUnwindSafe(|| job(JobTurn::Now)));
                state = self.state.lock();
                continue;
            }
            if state.is_closed {
                break;
            }
            state.sleeping += 1;
            let timed_out = self.wake.wait_for(&mut state, self.idle).timed_out();
            state.sleeping -= 1;
            if timed_out && state.queue.is_empty() {
                break;
            }
        }
        state.threads -= 1;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc::{channel, sync_channel};

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn new_pool(max_threads: usize, max_waiting: usize, idle: Duration) -> ThreadPool {
        ThreadPool::with_idle("test".into(), max_threads, max_waiting, idle)
    }

    #[test]
    fn jobs_that_wait_do_not_hold_up_others() {
        let pool = new_pool(3, 8, IDLE);
        let (release, released) = channel::<()>();
        let released = Arc::new(Mutex::new(released));
        for _ in 0..2 {
            let released = Arc::clone(&released);
            pool.submit(Box::new(move |_| {
                let _ = released.lock().recv();
            }));
        }
        let (done, wait) = channel();
        pool.submit(Box::new(move |turn| done.send(turn).unwrap()));
        assert_eq!(wait.recv_timeout(SOON), Ok(JobTurn::Now));
        drop(release);
    }

    #[test]
    fn a_full_queue_refuses_at_once() {
        let pool = new_pool(1, 1, IDLE);
        let (begun, wait_begun) = channel();
        let (release, released) = sync_channel::<()>(0);
        pool.submit(Box::new(move |_| {
            begun.send(()).unwrap();
            let _ = released.recv();
        }));
        wait_begun.recv_timeout(SOON).unwrap();
        let (done, wait) = channel();
        for _ in 0..2 {
            let done = done.clone();
            pool.submit(Box::new(move |turn| done.send(turn).unwrap()));
        }
        assert_eq!(wait.recv_timeout(SOON), Ok(JobTurn::Refused));
        drop(release);
        assert_eq!(wait.recv_timeout(SOON), Ok(JobTurn::Now));
    }

    #[test]
    fn a_job_that_panics_costs_nothing_but_itself() {
        let pool = new_pool(1, 8, IDLE);
        pool.submit(Box::new(|_| panic!("a test's panic")));
        let (done, wait) = channel();
        pool.submit(Box::new(move |turn| done.send(turn).unwrap()));
        assert_eq!(wait.recv_timeout(SOON), Ok(JobTurn::Now));
    }

    #[test]
    fn idle_threads_end_and_come_back() {
        let pool = new_pool(4, 8, Duration::from_millis(1));
        for _ in 0..2 {
            let (done, wait) = channel();
            pool.submit(Box::new(move |turn| done.send(turn).unwrap()));
            assert_eq!(wait.recv_timeout(SOON), Ok(JobTurn::Now));
            let deadline = std::time::Instant::now() + SOON;
            while pool.shared.state.lock().threads > 0 {
                assert!(std::time::Instant::now() < deadline);
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn threads_end_with_the_pool() {
        let pool = new_pool(4, 8, SOON);
        let (done, wait) = channel();
        pool.submit(Box::new(move |turn| done.send(turn).unwrap()));
        wait.recv_timeout(SOON).unwrap();
        let shared = Arc::clone(&pool.shared);
        drop(pool);
        let deadline = std::time::Instant::now() + SOON;
        while shared.state.lock().threads > 0 {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_full_pool_says_so_and_never_blocks() {
        let pool = new_pool(2, 1, IDLE);
        let (release, held) = channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let (started, starts) = channel();
        let job = || {
            let (held, started) = (Arc::clone(&held), started.clone());
            move || {
                started.send(()).unwrap();
                let _ = held.lock().recv();
            }
        };
        pool.run(job()).unwrap();
        starts.recv_timeout(SOON).unwrap();
        pool.run(job()).unwrap();
        starts.recv_timeout(SOON).unwrap();
        pool.run(job()).unwrap();
        assert_eq!(pool.run(job()), Err(PoolFull));
        drop(release);
        starts.recv_timeout(SOON).unwrap();
    }
}
