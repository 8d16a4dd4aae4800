//! Runs work that may never end where it can be abandoned.
//!
//! A file system across a network, or one that another program answers for (FUSE), may stop
//! responding. Any thread that accesses it then waits in the kernel, possibly for ever, and nothing
//! wakes it up. So everything that touches such a file system runs on separate threads, and callers
//! wait for the result for a bounded time. A file system that has exceeded such a wait is stuck:
//! nothing accesses it until one of the threads waiting for it returns. That bounds the number of
//! threads, and later callers do not wait at all.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;

use super::mountinfo::Device;
use crate::model::RelPath;

/// How long to wait for anything but the bytes of a file.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// The error returned for a file system that does not respond.
pub(crate) const STUCK: Errno = Errno::HOSTDOWN;

/// Limit on threads that work on one file system at a time. When it is reached, callers wait for
/// a free place.
const MAX_AT_ONCE: usize = 4;

/// Limit on file systems that are accessed at the same time. Any more count as stuck.
const MAX_SPOTS: usize = 64;

/// Something that may stop responding while everything else continues.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Spot {
    /// The way to the share.
    Top,
    /// A file system.
    Device(Device),
}

/// The step into something that may stop responding.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Crossing {
    pub(crate) spot: Spot,
    /// Where in the share it was found.
    pub(crate) at: RelPath,
}

/// The threads, keyed by what they work on.
#[derive(Default)]
pub(crate) struct Aside {
    spots: Mutex<HashMap<Spot, SpotThreads>>,
    freed: Condvar,
}

struct SpotThreads {
    at: RelPath,
    running: usize,
    /// When a wait timed out; `None` once a thread has returned.
    stuck: Option<Instant>,
    /// Remaining work that nobody waits for.
    leftovers: Vec<Box<dyn FnOnce() + Send>>,
    is_clearing: bool,
}

impl std::fmt::Debug for Aside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Aside")
    }
}

impl Aside {
    /// Runs `job`, which touches what is behind `crossing`, and returns its result; [`STUCK`] if
    /// that takes longer than `patience`. In that case the job continues, and its result is dropped
    /// on its own thread.
    pub(crate) fn run<T: Send + 'static>(
        self: &Arc<Self>,
        crossing: &Crossing,
        patience: Duration,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Errno> {
        let deadline = Instant::now() + patience;
        let place = self.begin(crossing, deadline)?;
        let (sender, result) = mpsc::sync_channel(1);
        let work = move || {
            let result = job();
            drop(place);
            // The caller may have given up waiting.
            let _ = sender.send(result);
        };
        let spawned = thread::Builder::new().name("aside".into()).spawn(work);
        spawned.map_err(|_| Errno::NOMEM)?;
        let left = deadline.saturating_duration_since(Instant::now());
        match result.recv_timeout(left) {
            Ok(result) => Ok(result),
            Err(RecvTimeoutError::Timeout) => {
                self.give_up(crossing.spot);
                Err(STUCK)
            }
            // The job has panicked.
            Err(RecvTimeoutError::Disconnected) => Err(Errno::IO),
        }
    }

    /// Runs `job`, which touches what is behind `crossing`, as soon as that is possible, without
    /// waiting for it.
    pub(crate) fn leave(
        self: &Arc<Self>,
        crossing: &Crossing,
        job: impl FnOnce() + Send + 'static,
    ) {
        let mut spots = self.spots.lock();
        let threads = spots.entry(crossing.spot);
        let threads = threads.or_insert_with(|| SpotThreads::new(crossing.at.clone()));
        threads.leftovers.push(Box::new(job));
        if std::mem::replace(&mut threads.is_clearing, true) {
            return;
        }
        drop(spots);
        let (aside, spot) = (Arc::clone(self), crossing.spot);
        let clear = move || while aside.clear_one(spot) {};
        let thread = thread::Builder::new().name("aside".into());
        if thread.spawn(clear).is_err()
            && let Some(threads) = self.spots.lock().get_mut(&crossing.spot)
        {
            // The next call tries again.
            threads.is_clearing = false;
        }
    }

    /// Returns where something does not respond, and since when.
    pub(crate) fn stuck(&self) -> Vec<(RelPath, Instant)> {
        let spots = self.spots.lock();
        let stuck = spots.values().filter_map(|threads| {
            let since = threads.stuck?;
            Some((threads.at.clone(), since))
        });
        stuck.collect()
    }

    fn begin(
        self: &Arc<Self>,
        crossing: &Crossing,
        deadline: Instant,
    ) -> Result<ThreadPlace, Errno> {
        let mut spots = self.spots.lock();
        loop {
            let count = spots.len();
            if count >= MAX_SPOTS && !spots.contains_key(&crossing.spot) {
                return Err(STUCK);
            }
            let threads = spots.entry(crossing.spot);
            let threads = threads.or_insert_with(|| SpotThreads::new(crossing.at.clone()));
            if threads.stuck.is_some() {
                return Err(STUCK);
            }
            if threads.running < MAX_AT_ONCE {
                threads.running += 1;
                return Ok(ThreadPlace {
                    aside: Arc::clone(self),
                    spot: crossing.spot,
                });
            }
            if self.freed.wait_until(&mut spots, deadline).timed_out() {
                return Err(STUCK);
            }
        }
    }

    /// Records that a wait has timed out.
    fn give_up(&self, spot: Spot) {
        let mut spots = self.spots.lock();
        // Without a thread that may return, nothing would ever end this.
        let threads = spots.get_mut(&spot).filter(|threads| threads.running > 0);
        if let Some(threads) = threads
            && threads.stuck.is_none()
        {
            threads.stuck = Some(Instant::now());
            tracing::warn!(
                "{} is left out: its file system does not answer",
                described(&threads.at)
            );
            // Waiting for a place is futile now.
            self.freed.notify_all();
        }
    }

    fn end(&self, spot: Spot) {
        let mut spots = self.spots.lock();
        let Some(threads) = spots.get_mut(&spot) else {
            return;
        };
        threads.running -= 1;
        if threads.stuck.take().is_some() {
            tracing::info!("{}: its file system answers again", described(&threads.at));
        }
        remove_idle(&mut spots, spot);
        self.freed.notify_all();
    }

    /// Runs the next leftover job. Returns false if there is none.
    fn clear_one(&self, spot: Spot) -> bool {
        let job = {
            let mut spots = self.spots.lock();
            let Some(threads) = spots.get_mut(&spot) else {
                return false;
            };
            let job = threads.leftovers.pop();
            threads.is_clearing = job.is_some();
            remove_idle(&mut spots, spot);
            job
        };
        let has_job = job.is_some();
        job.into_iter().for_each(|job| job());
        has_job
    }
}

impl SpotThreads {
    fn new(at: RelPath) -> Self {
        Self {
            at,
            running: 0,
            stuck: None,
            leftovers: Vec::new(),
            is_clearing: false,
        }
    }
}

fn remove_idle(spots: &mut HashMap<Spot, SpotThreads>, spot: Spot) {
    let is_idle = |threads: &SpotThreads| {
        threads.running == 0 && !threads.is_clearing && threads.leftovers.is_empty()
    };
    if spots.get(&spot).is_some_and(is_idle) {
        spots.remove(&spot);
    }
}

/// Describes a path of the share for people.
fn described(at: &RelPath) -> String {
    if at.is_root() {
        "the share".to_owned()
    } else {
        format!("{at} in the share")
    }
}

/// A thread's place at its spot, until it is dropped.
struct ThreadPlace {
    aside: Arc<Aside>,
    spot: Spot,
}

impl Drop for ThreadPlace {
    fn drop(&mut self) {
        self.aside.end(self.spot);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(20);

    fn crossing(device: u32) -> Crossing {
        Crossing {
            spot: Spot::Device((0, device)),
            at: RelPath::new(b"nfs").unwrap(),
        }
    }

    fn soon(mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !condition() {
            assert!(Instant::now() < deadline, "it did not come true");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn only_what_is_stuck_is_skipped() {
        let aside = Arc::<Aside>::default();
        let (answer, silence) = mpsc::channel::<()>();
        let stuck = aside.run(&crossing(1), MOMENT, move || silence.recv());
        assert_eq!(stuck.unwrap_err(), STUCK);
        let begun = Instant::now();
        let long = Duration::from_secs(60);
        assert_eq!(aside.run(&crossing(1), long, || 1), Err(STUCK));
        assert!(begun.elapsed() < long, "nobody waits for it");
        assert_eq!(aside.run(&crossing(2), long, || 2), Ok(2));
        let paths = aside.stuck().into_iter().map(|(at, _)| at);
        assert_eq!(paths.collect::<Vec<_>>(), [crossing(1).at]);
        drop(answer);
        soon(|| aside.run(&crossing(1), long, || 3) == Ok(3));
        assert!(aside.stuck().is_empty() && aside.spots.lock().is_empty());
    }

    #[test]
    fn few_threads_wait_for_one_file_system() {
        let aside = Arc::<Aside>::default();
        let started = Arc::new(Mutex::new(0));
        let (answer, silence) = mpsc::channel::<()>();
        let silence = Arc::new(Mutex::new(silence));
        thread::scope(|scope| {
            for _ in 0..4 * MAX_AT_ONCE {
                let (started, silence) = (Arc::clone(&started), Arc::clone(&silence));
                let aside = &aside;
                scope.spawn(move || {
                    let job = move || {
                        *started.lock() += 1;
                        let _ = silence.lock().recv();
                    };
                    assert_eq!(aside.run(&crossing(1), 5 * MOMENT, job), Err(STUCK));
                });
            }
        });
        assert_eq!(*started.lock(), MAX_AT_ONCE);
        drop(answer);
        soon(|| aside.spots.lock().is_empty());
    }

    #[test]
    fn deferred_jobs_run_in_turn_unawaited() {
        let aside = Arc::<Aside>::default();
        let (answer, silence) = mpsc::channel::<()>();
        let done = Arc::new(Mutex::new(0));
        let first = Arc::clone(&done);
        aside.leave(&crossing(1), move || {
            let _ = silence.recv();
            *first.lock() += 1;
        });
        for _ in 0..9 {
            let next = Arc::clone(&done);
            aside.leave(&crossing(1), move || *next.lock() += 1);
        }
        drop(answer);
        soon(|| *done.lock() == 10);
        soon(|| aside.spots.lock().is_empty());
    }

    #[test]
    fn panicking_job_frees_its_slot() {
        let aside = Arc::<Aside>::default();
        let panics = || -> u8 { panic!("on purpose") };
        assert_eq!(aside.run(&crossing(1), PATIENCE, panics), Err(Errno::IO));
        assert!(aside.spots.lock().is_empty());
    }
}
