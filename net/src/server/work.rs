//! How much may be done at once, and for whom, on the blocking threads.
//!
//! The threads are few, and a search keeps a processor or a disk busy for seconds. So each member
//! has a limit, each network has half of all, and a freed permit goes to the member with the least.
//! Searches are counted separately: however many wait, the threads that a listing needs stay free.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::task;

use crate::fairness::{Claimant, FairPermit, FairPermits, PermitBounds};

/// The permits for one kind of work.
#[derive(Clone)]
pub(super) struct WorkPool(Arc<Mutex<FairPermits<oneshot::Sender<Permit>>>>);

impl WorkPool {
    /// Creates a pool of `all` permits, `per_key` for one member, and half of them for one network.
    pub(super) fn new(all: usize, per_key: usize) -> Self {
        Self(Arc::new(Mutex::new(FairPermits::new(PermitBounds {
            all,
            per_site: all.div_ceil(2),
            per_key,
        }))))
    }

    /// Returns the part of `holder`.
    pub(super) fn of(&self, holder: Claimant) -> Work {
        Work {
            pool: self.clone(),
            holder,
        }
    }

    fn permit(&self, holding: FairPermit) -> Permit {
        Permit {
            pool: self.clone(),
            holding: Some(holding),
        }
    }

    /// Ends `holding`, and starts the jobs that may run now.
    ///
    /// A waiter that has left hands its permit back to this loop. If the permit did so as it is
    /// dropped, it would come here again, recursing as deep as there are waiters that have left.
    fn hand_on(&self, holding: FairPermit) {
        let mut ended = vec![holding];
        while !ended.is_empty() {
            let mut granted = Vec::new();
            {
                let mut permits = self.0.lock();
                ended.drain(..).for_each(|holding| permits.end(holding));
                while let Some(next) = permits.next(oneshot::Sender::is_closed) {
                    granted.push(next);
                }
            }
            for (waiter, holding) in granted {
                if let Err(mut refused) = waiter.send(self.permit(holding)) {
                    ended.extend(refused.holding.take());
                }
            }
        }
    }
}

/// One holder's part of the work.
#[derive(Clone)]
pub(super) struct Work {
    pool: WorkPool,
    holder: Claimant,
}

impl Work {
    /// Runs `job` on a blocking thread once this holder may have one more. Fails if `job` panics.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let permit = self.permit().await?;
        let job = task::spawn_blocking(move || {
            let result = job();
            drop(permit);
            result
        });
        job.await.map_err(io::Error::other)
    }

    async fn permit(&self) -> io::Result<Permit> {
        let granted = {
            let mut permits = self.pool.0.lock();
            match permits.begin(self.holder) {
                Some(holding) => return Ok(self.pool.permit(holding)),
                None => {
                    let (waiter, granted) = oneshot::channel();
                    permits.wait(self.holder, waiter, oneshot::Sender::is_closed);
                    granted
                }
            }
        };
        granted.await.map_err(io::Error::other)
    }
}

/// Permission for one job. When dropped, it goes to the next waiter.
struct Permit {
    pool: WorkPool,
    holding: Option<FairPermit>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(holding) = self.holding.take() {
            self.pool.hand_on(holding);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::super::harness::PATIENCE;
    use super::*;
    use crate::model::PeerId;

    /// How long to watch that a job does not end.
    const MOMENT: Duration = Duration::from_millis(50);

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_time().build().unwrap();
        runtime.block_on(test);
    }

    fn holder(network: u8, key: u8) -> Claimant {
        Claimant::member(PeerId::from_bytes([key; 32]), [10, 0, 0, network].into())
    }

    type Job = task::JoinHandle<io::Result<()>>;

    /// Starts work that lasts until the sender is dropped.
    async fn held(work: Work) -> (mpsc::Sender<()>, Job) {
        let (release, held) = mpsc::channel::<()>();
        let job = move || {
            let _released = held.recv();
        };
        let job = tokio::spawn(async move { work.run(job).await });
        task::yield_now().await;
        (release, job)
    }

    async fn ended(job: Job) {
        timeout(PATIENCE, job).await.unwrap().unwrap().unwrap();
    }

    #[test]
    fn searches_take_turns() {
        run(async {
            let searches = WorkPool::new(2, 1);
            let (first, first_job) = held(searches.of(holder(1, 1))).await;
            let (second, second_job) = held(searches.of(holder(1, 1))).await;
            let (third, third_job) = held(searches.of(holder(2, 2))).await;
            let next = searches.of(holder(3, 3));
            assert!(timeout(MOMENT, next.run(|| ())).await.is_err());
            assert!(!second_job.is_finished());
            // A holder that waits for its own turn takes nobody else's place.
            drop(third);
            ended(third_job).await;
            timeout(PATIENCE, next.run(|| ())).await.unwrap().unwrap();
            drop(first);
            ended(first_job).await;
            drop(second);
            ended(second_job).await;
        });
    }

    #[test]
    fn one_networks_keys_leave_half_the_slots() {
        run(async {
            let searches = WorkPool::new(4, 1);
            let mut flood = Vec::new();
            for key in 0..8 {
                flood.push(held(searches.of(holder(1, key))).await);
            }
            let friend = searches.of(holder(2, 99));
            timeout(PATIENCE, friend.run(|| ())).await.unwrap().unwrap();
        });
    }

    #[test]
    fn who_gives_up_waiting_loses_no_permit() {
        run(async {
            let pool = WorkPool::new(1, 1);
            let (release, job) = held(pool.of(holder(1, 1))).await;
            let (_, waiting) = held(pool.of(holder(2, 2))).await;
            waiting.abort();
            drop(release);
            ended(job).await;
            let next = pool.of(holder(3, 3));
            timeout(PATIENCE, next.run(|| ())).await.unwrap().unwrap();
        });
    }

    #[test]
    fn those_who_are_gone_cost_no_stack() {
        let pool = WorkPool::new(1, 1);
        let held = pool.0.lock().begin(holder(1, 1)).unwrap();
        let held = pool.permit(held);
        for number in 0..100_000_u32 {
            let (waiter, _gone) = oneshot::channel();
            let [_, _, network, key] = (number % 1000).to_be_bytes();
            let waits = |permits: &mut FairPermits<_>| {
                permits.wait(holder(network, key), waiter, oneshot::Sender::is_closed);
            };
            waits(&mut pool.0.lock());
        }
        drop(held);
        assert!(pool.0.lock().begin(holder(9, 9)).is_some());
    }
}
