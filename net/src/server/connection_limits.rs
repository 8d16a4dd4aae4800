//! Which connections are allowed, by what is known of them.
//!
//! A connection passes through classes: unread, until a whole first record has come; unidentified,
//! until its key is known; then a member's. Each class has its own places, so that none takes
//! another's. A full class makes room rather than refusing: a holder of more than its fair share
//! loses its oldest connection (see [`FairTable`]). In the first two classes, half of the places
//! are for networks from which members came recently, and strangers cannot take those.
//!
//! Unencrypted connections never belong to a member, so they are counted separately.
//!
//! This code only looks at memory. A connection whose place was taken is notified
//! and closes itself.

use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::limits::ServerLimits;
use super::work::{Work, WorkPool};
use crate::fairness::{
    Claimant, FairTable, Familiarity, HolderKey, KnownNetworks, PlaceId, SourceNetwork,
};
use crate::model::PeerId;

/// A connection without a request for less than this may be about to bring one, or the end of a
/// response may still be on its way.
const SETTLED: Duration = Duration::from_secs(1);

/// The current connections, and how many more are allowed.
pub(super) struct ConnectionLimits {
    tables: Mutex<Tables>,
    connections_per_member: usize,
    plain_per_network: usize,
    work: WorkPool,
    searches: WorkPool,
    plain_work: WorkPool,
}

struct Tables {
    known: KnownNetworks,
    // One half for networks from which members came recently, one for all others.
    unread: [Table; 2],
    unidentified: [Table; 2],
    plain: Table,
    members: Table,
}

type Table = FairTable<Arc<Occupant>>;

/// The class that a place belongs to.
#[derive(Debug, Clone, Copy)]
enum Class {
    Unread { is_known: bool },
    Unidentified { is_known: bool },
    Plain,
    Member,
}

impl Tables {
    fn of(&mut self, class: Class) -> &mut Table {
        match class {
            Class::Unread { is_known } => &mut self.unread[usize::from(is_known)],
            Class::Unidentified { is_known } => &mut self.unidentified[usize::from(is_known)],
            Class::Plain => &mut self.plain,
            Class::Member => &mut self.members,
        }
    }
}

/// Divides places in two: the second half is for known networks.
fn halves(places: usize) -> [Table; 2] {
    [places / 2, places.div_ceil(2)].map(FairTable::new)
}

impl ConnectionLimits {
    pub(super) fn new(limits: &ServerLimits) -> Arc<Self> {
        Arc::new(Self {
            tables: Mutex::new(Tables {
                known: KnownNetworks::default(),
                unread: halves(limits.unread),
                unidentified: halves(limits.unidentified),
                plain: FairTable::new(limits.plain),
                members: FairTable::new(limits.member_connections),
            }),
            connections_per_member: limits.connections_per_member,
            plain_per_network: limits.plain_per_network,
            work: WorkPool::new(limits.work, limits.work_per_member),
            searches: WorkPool::new(limits.searches, limits.searches_per_member),
            plain_work: WorkPool::new(limits.plain_work, limits.plain_work),
        })
    }

    /// Returns who `remote` may be, by who came from there recently.
    pub(super) fn familiarity(&self, remote: IpAddr) -> Familiarity {
        self.tables.lock().known.familiarity(remote, Instant::now())
    }

    /// Records that `member` was admitted from `remote`.
    pub(super) fn note_member(&self, member: PeerId, remote: IpAddr) {
        self.tables
            .lock()
            .known
            .note(member, remote, Instant::now());
    }

    /// Admits a connection from `remote` of which nothing is known.
    pub(super) fn unread(self: &Arc<Self>, remote: IpAddr) -> Option<ConnectionPlace> {
        let familiarity = self.familiarity(remote);
        let is_known = familiarity.is_known();
        self.enter(Class::Unread { is_known }, keyless(remote, familiarity))
    }

    /// Admits a connection from `remote` to the handshake.
    pub(super) fn unidentified(
        self: &Arc<Self>,
        remote: IpAddr,
        familiarity: Familiarity,
    ) -> Option<ConnectionPlace> {
        let is_known = familiarity.is_known();
        self.enter(
            Class::Unidentified { is_known },
            keyless(remote, familiarity),
        )
    }

    /// Admits an unencrypted connection from `remote`.
    pub(super) fn plain(self: &Arc<Self>, remote: IpAddr) -> Option<PlainConnection> {
        let holder = Claimant::stranger(SourceNetwork::of(remote));
        Some(PlainConnection {
            remote,
            work: self.plain_work.of(holder),
            searches: self.searches.of(holder),
            place: self.enter(Class::Plain, holder)?,
        })
    }

    /// Admits a connection of `member`.
    pub(super) fn member(
        self: &Arc<Self>,
        member: PeerId,
        remote: IpAddr,
    ) -> Option<MemberConnection> {
        let holder = Claimant::member(member, remote);
        Some(MemberConnection {
            member,
            work: self.work.of(holder),
            searches: self.searches.of(holder),
            place: self.enter(Class::Member, holder)?,
        })
    }

    fn enter(self: &Arc<Self>, class: Class, holder: Claimant) -> Option<ConnectionPlace> {
        let now = Instant::now();
        let occupant = Arc::new(Occupant::new(now));
        let id = {
            let mut tables = self.tables.lock();
            let table = tables.of(class);
            if let HolderKey::Member(key) = holder.key
                && table.held_by_key(key) >= self.connections_per_member
            {
                return None;
            }
            if matches!(class, Class::Plain) && table.of(holder).count() >= self.plain_per_network {
                return None;
            }
            let is_idle = |occupant: &Arc<Occupant>| match class {
                Class::Unread { .. } | Class::Unidentified { .. } => true,
                Class::Plain => occupant.requests.load(Ordering::Relaxed) == 0,
                Class::Member => occupant.is_idle(now),
            };
            let entered = table.enter(holder, occupant.clone(), is_idle)?;
            if let Some(evicted) = entered.evicted {
                evicted.evicted.notify_one();
            }
            entered.id
        };
        Some(ConnectionPlace {
            class,
            holder,
            id,
            occupant,
            limits: self.clone(),
        })
    }
}

/// Returns the holder of a place before a key is shown. An address from which a member came has
/// shares of its own, separate from those of its neighbours together.
fn keyless(remote: IpAddr, familiarity: Familiarity) -> Claimant {
    match familiarity {
        Familiarity::Address => Claimant::known_address(remote),
        Familiarity::Network | Familiarity::Stranger => {
            Claimant::stranger(SourceNetwork::of(remote))
        }
    }
}

/// State of a connection, shared between it and the table.
struct Occupant {
    /// Notified when its place is taken away.
    evicted: Notify,
    /// The number of requests being answered.
    requests: AtomicUsize,
    since: Instant,
    /// When the last request ended, in milliseconds after `since`.
    idle_since: AtomicU64,
}

impl Occupant {
    fn new(now: Instant) -> Self {
        Self {
            evicted: Notify::new(),
            requests: AtomicUsize::new(0),
            since: now,
            idle_since: AtomicU64::new(0),
        }
    }

    fn is_idle(&self, now: Instant) -> bool {
        // In this order: a thread that sees that the last request has ended also sees when it did.
        if self.requests.load(Ordering::Acquire) > 0 {
            return false;
        }
        let idle_since = Duration::from_millis(self.idle_since.load(Ordering::Relaxed));
        now.saturating_duration_since(self.since + idle_since) >= SETTLED
    }
}

/// A place, given back when dropped.
pub(super) struct ConnectionPlace {
    class: Class,
    holder: Claimant,
    id: PlaceId,
    occupant: Arc<Occupant>,
    limits: Arc<ConnectionLimits>,
}

impl ConnectionPlace {
    /// Returns the result of `work`, or `None` if the place is taken away first.
    pub(super) async fn keep<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut evicted = pin!(self.occupant.evicted.notified());
        let mut work = pin!(work);
        poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Some(done));
            }
            evicted.as_mut().poll(context).map(|()| None)
        })
        .await
    }

    /// Marks a request as being answered until the guard is dropped. Until then the connection
    /// keeps its place unless there are far too many like it.
    pub(super) fn request(&self) -> RequestGuard {
        self.occupant.requests.fetch_add(1, Ordering::Relaxed);
        RequestGuard(self.occupant.clone())
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        let mut tables = self.limits.tables.lock();
        tables.of(self.class).leave(self.holder, self.id);
    }
}

/// A request being answered.
pub(super) struct RequestGuard(Arc<Occupant>);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        let idle_since = self.0.since.elapsed().as_millis();
        let idle_since = u64::try_from(idle_since).unwrap_or(u64::MAX);
        self.0.idle_since.store(idle_since, Ordering::Relaxed);
        self.0.requests.fetch_sub(1, Ordering::Release);
    }
}

/// One unencrypted connection.
pub(super) struct PlainConnection {
    /// The address it comes from.
    pub(super) remote: IpAddr,
    /// The share of work for all such connections.
    pub(super) work: Work,
    /// The share of searches for all such connections.
    pub(super) searches: Work,
    pub(super) place: ConnectionPlace,
}

/// One connection of a member.
pub(super) struct MemberConnection {
    /// The member that it belongs to.
    pub(super) member: PeerId,
    /// The work that may be done for that member.
    pub(super) work: Work,
    /// The searches that may run for that member.
    pub(super) searches: Work,
    pub(super) place: ConnectionPlace,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Arc<ConnectionLimits> {
        ConnectionLimits::new(&ServerLimits {
            unread: 8,
            unidentified: 8,
            member_connections: 16,
            connections_per_member: 8,
            plain: 4,
            plain_per_network: 3,
            ..ServerLimits::default()
        })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn key(number: u8) -> PeerId {
        PeerId::from_bytes([number; 32])
    }

    fn is_evicted(place: &ConnectionPlace) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let kept = place.keep(async {
            tokio::task::yield_now().await;
        });
        { runtime }.build().unwrap().block_on(kept).is_none()
    }

    #[test]
    fn the_oldest_makes_room_for_the_newest() {
        let limits = limits();
        let flood: Vec<_> = (0..4)
            .map(|_| limits.unread(ip("10.0.0.1")).unwrap())
            .collect();
        assert!(!is_evicted(&flood[0]));
        let _newest = limits.unread(ip("10.0.0.1")).unwrap();
        assert!(is_evicted(&flood[0]));
        assert!(!is_evicted(&flood[1]));
    }

    #[test]
    fn flood_evicts_no_other_network() {
        let limits = limits();
        let friend = limits
            .unidentified(ip("10.0.0.2"), Familiarity::Stranger)
            .unwrap();
        let _flood: Vec<_> = (0..99)
            .map(|_| {
                limits
                    .unidentified(ip("10.0.0.1"), Familiarity::Stranger)
                    .unwrap()
            })
            .collect();
        assert!(!is_evicted(&friend));
    }

    #[test]
    fn strangers_leave_known_networks_half() {
        let limits = limits();
        limits.note_member(key(1), ip("10.0.0.2"));
        let known: Vec<_> = (0..4)
            .map(|_| limits.unread(ip("10.0.0.2")).unwrap())
            .collect();
        let _flood: Vec<_> = (0..99)
            .map(|n| limits.unread([10, 1, 0, n].into()).unwrap())
            .collect();
        assert!(known.iter().all(|place| !is_evicted(place)));
    }

    #[test]
    fn members_neighbours_do_not_evict_it() {
        let limits = limits();
        let (member, neighbour) = (ip("fe80::1"), ip("fe80::2"));
        limits.note_member(key(1), member);
        let enter = |remote| {
            let familiarity = limits.familiarity(remote);
            let unidentified = limits.unidentified(remote, familiarity).unwrap();
            [limits.unread(remote).unwrap(), unidentified]
        };
        // A share of four places, of which the neighbours together have the other.
        let held = [enter(member), enter(member)];
        let flood: Vec<_> = (0..99).map(|_| enter(neighbour)).collect();
        assert!(!held.iter().flatten().any(is_evicted));
        assert!(flood[0].iter().all(is_evicted));
    }

    #[test]
    fn eight_keys_cannot_take_every_connection() {
        let limits = limits();
        let flood: Vec<_> = (0..99)
            .filter_map(|n| limits.member(key(n % 8), ip("10.0.0.1")))
            .collect();
        assert_eq!(limits.tables.lock().members.len(), 16);
        let friends: Vec<_> = (0..8)
            .map(|_| limits.member(key(99), ip("10.0.0.2")).unwrap())
            .collect();
        assert!(friends.iter().all(|friend| !is_evicted(&friend.place)));
        assert_eq!(limits.tables.lock().members.len(), 16);
        drop((flood, friends));
        assert_eq!(limits.tables.lock().members.len(), 0);
    }

    #[test]
    fn key_limit_holds_wherever_it_calls_from() {
        let limits = limits();
        let _held: Vec<_> = (0..8)
            .map(|n| limits.member(key(1), [10, 0, 0, n].into()).unwrap())
            .collect();
        assert!(limits.member(key(1), ip("10.0.1.1")).is_none());
        assert!(limits.member(key(2), ip("10.0.0.1")).is_some());
    }

    #[test]
    fn connection_is_idle_once_settled() {
        let now = Instant::now();
        let limits = limits();
        let member = limits.member(key(1), ip("10.0.0.1")).unwrap();
        let occupant = member.place.occupant.clone();
        assert!(!occupant.is_idle(now), "its first request is on its way");
        assert!(occupant.is_idle(now + SETTLED * 2));
        let request = member.place.request();
        assert!(!occupant.is_idle(now + SETTLED * 9));
        drop(request);
        assert!(occupant.is_idle(now + SETTLED * 9));
    }

    #[test]
    fn legacy_connections_evict_nobody_else() {
        let limits = limits();
        let friend = limits.plain(ip("10.0.0.2")).unwrap();
        let flood: Vec<_> = (0..9)
            .filter_map(|_| limits.plain(ip("10.0.0.1")))
            .collect();
        assert_eq!(flood.len(), 3);
        let other = limits.plain(ip("10.0.0.3")).unwrap();
        assert!(!is_evicted(&friend.place) && !is_evicted(&other.place));
        assert!(is_evicted(&flood[0].place));
        assert!(limits.unread(ip("10.0.0.1")).is_some());
        assert!(limits.member(key(1), ip("10.0.0.1")).is_some());
    }
}
