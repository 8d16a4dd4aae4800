//! Threads for operations that have to wait for the network, so that those which can be answered
//! from memory never wait behind them.
//!
//! Threads are made when all others are busy, up to a bound, and end when they have had nothing to
//! do for a while. What cannot be done or queued is refused at once: an error now is better than an
//! answer that nobody can be sure to get. A job that panics is lost with what it holds (a reply
//! that is dropped answers EIO); its thread goes on.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Operations that may wait for the network at once. They mostly sleep, and for three seconds at
/// most; those that wait longer have [`Workers::few`] of their own.
const MAX_THREADS: usize = 64;

/// The same for operations that may take as long as a read.
const FEW_THREADS: usize = 16;

/// Operations that may wait for a thread. More than this many processes rarely look at one mount.
const MAX_QUEUED: usize = 1024;

/// How long a thread stays for the next job.
const IDLE: Duration = Duration::from_secs(10);

/// What becomes of a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JobTurn {
    /// Its turn has come.
    Now,
    /// There is no room for it; called on the thread that brought it.
    Refused,
}

/// Something to do; called exactly once.
pub type BlockingJob = Box<dyn FnOnce(JobTurn) + Send>;

/// A pool of threads. Dropping it lets them finish what they have and end.
pub struct Workers {
    shared: Arc<WorkerQueue>,
}

struct WorkerQueue {
    state: Mutex<State>,
    wake: Condvar,
    max_threads: usize,
    max_queued: usize,
    idle: Duration,
}

#[derive(Default)]
struct State {
    queue: VecDeque<BlockingJob>,
    threads: usize,
    sleeping: usize,
    is_closed: bool,
}

impl Default for Workers {
    fn default() -> Self {
        Self::new(MAX_THREADS, MAX_QUEUED, IDLE)
    }
}

impl Workers {
    /// For operations that may wait for long, so that they do not take the threads from all others.
    pub fn few() -> Self {
        Self::new(FEW_THREADS, MAX_QUEUED, IDLE)
    }

    fn new(max_threads: usize, max_queued: usize, idle: Duration) -> Self {
        Self {
            shared: Arc::new(WorkerQueue {
                state: Mutex::default(),
                wake: Condvar::new(),
                max_threads,
                max_queued,
                idle,
            }),
        }
    }

    /// Does `job` on one of the threads, or refuses it at once.
    pub fn submit(&self, job: BlockingJob) {
        let mut state = self.shared.state.lock();
        if state.queue.len() >= self.shared.max_queued {
            drop(state);
            return job(JobTurn::Refused);
        }
        let needs_thread =
            state.sleeping <= state.queue.len() && state.threads < self.shared.max_threads;
        if needs_thread && self.shared.start_thread() {
            state.threads += 1;
        }
        if state.threads == 0 {
            drop(state);
            return job(JobTurn::Refused);
        }
        state.queue.push_back(job);
        drop(state);
        self.shared.wake.notify_one();
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.state.lock().is_closed = true;
        self.shared.wake.notify_all();
    }
}

impl WorkerQueue {
    fn start_thread(self: &Arc<Self>) -> bool {
        let shared = Arc::clone(self);
        let started = std::thread::Builder::new()
            .name("fs-worker".into())
            .spawn(move || shared.work());
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
mod tests {
    use std::sync::mpsc::{channel, sync_channel};

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn jobs_that_wait_do_not_hold_up_others() {
        let workers = Workers::new(3, 8, IDLE);
        let (release, released) = channel::<()>();
        let released = Arc::new(Mutex::new(released));
        for _ in 0..2 {
            let released = Arc::clone(&released);
            workers.submit(Box::new(move |_| {
                let _ = released.lock().recv();
            }));
        }
        let (done, wait) = channel();
        workers.submit(Box::new(move |turn| done.send(turn).unwrap()));
        assert_eq!(wait.recv_timeout(SOON), Ok(JobTurn::Now));
        drop(release);
    }

    #[test]
    fn a_full_queue_refuses_at_once() {
        let workers = Workers::new(1, 1, IDLE);
        let (begun, wait_begun) = channel();
        let (release, released) = sync_channel::<()>(0);
        workers.submit(Box::new(move |_| {
            begun.send(()).unwrap();
            let _ = released.recv();
        }));
        wait_begun.recv_timeout(SOON).unwrap();
        let (done, wait) = channel();
        for _ in 0..2 {
            let done = done.clone();
            workers.submit(Box::new(move |turn| done.send(turn).unwrap()));
        }
        assert_eq!(wait.recv_timeout(SOON), Ok(JobTurn::Refused));
        drop(release);
        assert_eq!(wait.recv_timeout(SOON), Ok(JobTurn::Now));
    }

    #[test]
    fn a_job_that_panics_costs_nothing_but_itself() {
        let workers = Workers::new(1, 8, IDLE);
        workers.submit(Box::new(|_| panic!("a test's panic")));
        let (done, wait) = channel();
        workers.submit(Box::new(move |turn| done.send(turn).unwrap()));
        assert_eq!(wait.recv_timeout(SOON), Ok(JobTurn::Now));
    }

    #[test]
    fn idle_threads_end_and_come_back() {
        let workers = Workers::new(4, 8, Duration::from_millis(1));
        for _ in 0..2 {
            let (done, wait) = channel();
            workers.submit(Box::new(move |turn| done.send(turn).unwrap()));
            assert_eq!(wait.recv_timeout(SOON), Ok(JobTurn::Now));
            let deadline = std::time::Instant::now() + SOON;
            while workers.shared.state.lock().threads > 0 {
                assert!(std::time::Instant::now() < deadline);
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn threads_end_with_the_pool() {
        let workers = Workers::new(4, 8, SOON);
        let (done, wait) = channel();
        workers.submit(Box::new(move |turn| done.send(turn).unwrap()));
        wait.recv_timeout(SOON).unwrap();
        let shared = Arc::clone(&workers.shared);
        drop(workers);
        let deadline = std::time::Instant::now() + SOON;
        while shared.state.lock().threads > 0 {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
    }
}
