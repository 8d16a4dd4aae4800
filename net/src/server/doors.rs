//! Who may take up how much: connections of newcomers, connections, work and searches of each member.
//!
//! Until its key is known, a connection counts against a small number for all newcomers and a
//! smaller one for its source, so that a flood of half-open handshakes from one machine leaves room
//! for members. From then on it counts against its member alone.
//!
//! Connections of the protocol of 2004 are never a member's, so they are counted apart and share what work is
//! done for them.
//!
//! Searches are work apart: one may keep a processor or a disk busy for seconds, so a member has one
//! at a time and all members together a few. However many wait, what a listing needs stays free.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task;

use super::Limits;
use crate::types::PeerId;

pub(super) struct Doors {
    newcomers: Mutex<Counts<IpAddr>>,
    plain: Mutex<Counts<IpAddr>>,
    plain_work: Arc<Semaphore>,
    plain_searches: Arc<Semaphore>,
    members: Mutex<HashMap<PeerId, Occupancy>>,
    searches: Arc<Semaphore>,
    limits: Limits,
}

struct Occupancy {
    connections: usize,
    work: Arc<Semaphore>,
    searches: Arc<Semaphore>,
}

impl Doors {
    pub(super) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            newcomers: Mutex::new(Counts::default()),
            plain: Mutex::new(Counts::default()),
            plain_work: Arc::new(Semaphore::new(limits.plain_work)),
            plain_searches: Arc::new(Semaphore::new(limits.searches_per_member)),
            members: Mutex::new(HashMap::new()),
            searches: Arc::new(Semaphore::new(limits.searches)),
            limits: limits.clone(),
        })
    }

    /// Lets a connection from `remote` in, as a newcomer.
    pub(super) fn newcomer(self: &Arc<Self>, remote: IpAddr) -> Option<Newcomer> {
        let source = source_of(remote);
        let mut newcomers = self.newcomers.lock();
        if newcomers.total >= self.limits.newcomers {
            return None;
        }
        newcomers
            .add(source, self.limits.newcomers_per_source)
            .then(|| Newcomer {
                doors: self.clone(),
                source,
            })
    }

    /// Lets a connection of the protocol of 2004 in, from `remote`.
    pub(super) fn plain(self: &Arc<Self>, remote: IpAddr) -> Option<Plain> {
        let mut plain = self.plain.lock();
        if plain.total >= self.limits.plain {
            return None;
        }
        plain
            .add(source_of(remote), self.limits.plain_per_source)
            .then(|| Plain {
                remote,
                work: Work(vec![self.plain_work.clone()]),
                searches: Work(vec![self.plain_searches.clone(), self.searches.clone()]),
                doors: self.clone(),
            })
    }

    /// Lets a connection of `member` in.
    pub(super) fn member(self: &Arc<Self>, member: PeerId) -> Option<Seat> {
        let mut members = self.members.lock();
        let occupancy = members.entry(member).or_insert_with(|| Occupancy {
            connections: 0,
            work: Arc::new(Semaphore::new(self.limits.work_per_member)),
            searches: Arc::new(Semaphore::new(self.limits.searches_per_member)),
        });
        if occupancy.connections >= self.limits.connections_per_member {
            return None;
        }
        occupancy.connections += 1;
        Some(Seat {
            member,
            work: Work(vec![occupancy.work.clone()]),
            searches: Work(vec![occupancy.searches.clone(), self.searches.clone()]),
            doors: self.clone(),
        })
    }
}

/// One connection whose other side is not known yet.
pub(super) struct Newcomer {
    doors: Arc<Doors>,
    source: IpAddr,
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        self.doors.newcomers.lock().remove(self.source);
    }
}

/// One connection of the protocol of 2004.
pub(super) struct Plain {
    /// Where it comes from.
    pub(super) remote: IpAddr,
    /// What may be done for all of them.
    pub(super) work: Work,
    /// What may be searched for all of them.
    pub(super) searches: Work,
    doors: Arc<Doors>,
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.doors.plain.lock().remove(source_of(self.remote));
    }
}

/// One connection of a member.
pub(super) struct Seat {
    /// Who sits there.
    pub(super) member: PeerId,
    /// What may be done for that member.
    pub(super) work: Work,
    /// What may be searched for that member.
    pub(super) searches: Work,
    doors: Arc<Doors>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut members = self.doors.members.lock();
        if let Entry::Occupied(mut entry) = members.entry(self.member) {
            entry.get_mut().connections -= 1;
            if entry.get().connections == 0 {
                entry.remove();
            }
        }
    }
}

/// A member's share of the blocking threads: a permit is needed of each of these, the member's own
/// first, so that who waits for that holds none of the others'. Each gives its permits out in order.
#[derive(Clone)]
pub(super) struct Work(Vec<Arc<Semaphore>>);

impl Work {
    /// Runs `job` on a blocking thread once this member may have one more. Fails if `job` panics.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let mut permits = Vec::with_capacity(self.0.len());
        for semaphore in &self.0 {
            let permit = semaphore.clone().acquire_owned().await;
            permits.push(permit.map_err(io::Error::other)?);
        }
        let job = task::spawn_blocking(move || {
            let result = job();
            drop(permits);
            result
        });
        job.await.map_err(io::Error::other)
    }
}

struct Counts<K> {
    each: HashMap<K, usize>,
    total: usize,
}

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self {
            each: HashMap::new(),
            total: 0,
        }
    }
}

impl<K: Eq + Hash> Counts<K> {
    /// Counts one more of `key`, unless there are `most` already.
    fn add(&mut self, key: K, most: usize) -> bool {
        let count = self.each.entry(key).or_default();
        let fits = *count < most;
        if fits {
            *count += 1;
            self.total += 1;
        }
        fits
    }

    fn remove(&mut self, key: K) {
        if let Entry::Occupied(mut entry) = self.each.entry(key) {
            self.total -= 1;
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

/// What counts as one machine: an IPv4 address, or the /64 that an IPv6 host can choose from.
fn source_of(remote: IpAddr) -> IpAddr {
    match remote {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::super::harness::PATIENCE;
    use super::*;

    fn doors(newcomers: usize, per_source: usize, per_member: usize) -> Arc<Doors> {
        Doors::new(&Limits {
            newcomers,
            newcomers_per_source: per_source,
            connections_per_member: per_member,
            ..Limits::default()
        })
    }

    #[test]
    fn one_source_cannot_take_every_newcomers_place() {
        let doors = doors(3, 2, 1);
        let flood: IpAddr = "10.0.0.1".parse().unwrap();
        let held = [
            doors.newcomer(flood).unwrap(),
            doors.newcomer(flood).unwrap(),
        ];
        assert!(doors.newcomer(flood).is_none());
        let other = doors.newcomer("10.0.0.2".parse().unwrap());
        assert!(other.is_some());
        assert!(doors.newcomer("10.0.0.3".parse().unwrap()).is_none());
        drop(held);
        assert!(doors.newcomer(flood).is_some());
    }

    #[test]
    fn connections_of_2004_take_nobody_elses_place() {
        let doors = Doors::new(&Limits {
            plain: 3,
            plain_per_source: 2,
            ..Limits::default()
        });
        let flood: IpAddr = "10.0.0.1".parse().unwrap();
        let held = [doors.plain(flood).unwrap(), doors.plain(flood).unwrap()];
        assert!(doors.plain(flood).is_none());
        let _other = doors.plain("10.0.0.2".parse().unwrap()).unwrap();
        assert!(doors.plain("10.0.0.3".parse().unwrap()).is_none());
        assert!(doors.newcomer(flood).is_some());
        drop(held);
        assert!(doors.plain(flood).is_some());
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_are_one_source() {
        let doors = doors(9, 1, 1);
        let _held = doors.newcomer("2001:db8::1".parse().unwrap()).unwrap();
        assert!(doors.newcomer("2001:db8::2".parse().unwrap()).is_none());
        assert!(doors.newcomer("2001:db8:0:1::2".parse().unwrap()).is_some());
    }

    #[test]
    fn a_member_at_its_limit_does_not_keep_another_out() {
        let doors = doors(1, 1, 1);
        let (one, two) = (PeerId::from_bytes([1; 32]), PeerId::from_bytes([2; 32]));
        let held = doors.member(one).unwrap();
        assert!(doors.member(one).is_none());
        assert!(doors.member(two).is_some());
        drop(held);
        assert!(doors.member(one).is_some());
        assert!(doors.members.lock().is_empty());
    }

    /// What must not have ended is given this long to do so.
    const MOMENT: Duration = Duration::from_millis(50);

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_time().build().unwrap();
        runtime.block_on(test);
    }

    /// Work that lasts until the sender is dropped.
    fn held(work: &Work) -> (mpsc::Sender<()>, task::JoinHandle<io::Result<()>>) {
        let (release, held) = mpsc::channel::<()>();
        let work = work.clone();
        let job = move || {
            let _released = held.recv();
        };
        (release, tokio::spawn(async move { work.run(job).await }))
    }

    #[test]
    fn searches_take_turns_and_other_work_does_not_wait_for_them() {
        run(async {
            let doors = Doors::new(&Limits {
                work_per_member: 1,
                searches: 2,
                ..Limits::default()
            });
            let seats = [1, 2, 3].map(|n| doors.member(PeerId::from_bytes([n; 32])).unwrap());
            let (first, first_job) = held(&seats[0].searches);
            let (second, second_job) = held(&seats[0].searches);
            let (third, _third_job) = held(&seats[1].searches);
            task::yield_now().await;
            // The first member has its one, the second the other of the two that there are.
            let next = seats[2].searches.run(|| ());
            assert!(timeout(MOMENT, next).await.is_err());
            assert!(!second_job.is_finished());
            for seat in &seats {
                timeout(PATIENCE, seat.work.run(|| ()))
                    .await
                    .unwrap()
                    .unwrap();
            }
            // Whoever waits for its own turn keeps nobody else's place.
            drop(third);
            let next = seats[2].searches.run(|| ());
            timeout(PATIENCE, next).await.unwrap().unwrap();
            drop(first);
            timeout(PATIENCE, first_job)
                .await
                .unwrap()
                .unwrap()
                .unwrap();
            drop(second);
            timeout(PATIENCE, second_job)
                .await
                .unwrap()
                .unwrap()
                .unwrap();
        });
    }
}
