//! How many changes a member may report.
//!
//! Pure: time comes in as `now`. A share in which somebody works has a few changes a second; one
//! into which an archive is unpacked has thousands for a moment. A member that always has more is
//! better asked than followed.

use std::time::{Duration, Instant};

use crate::concurrency::backoff::Backoff;
use crate::concurrency::expiring_map::ExpiringMap;
use crate::fairness::{Refill, TokenBucket};
use crate::model::PeerId;
use crate::protocol::wire::Changes;

/// Cost of an early answer beside its changes, in changes. [`super::pace`] decides how often
/// there is one.
const ANSWER: u32 = 16;

/// Changes per second, and the burst: four full answers.
const CHANGES: Refill = Refill {
    burst: 4 * (Changes::MAX_CHANGES as u32 + ANSWER),
    per_second: 1024,
};

/// How long a member is not followed after a flood. In the end this is as long as a promise lasts,
/// so that it costs no more than a member that never watched.
const PAUSES: Backoff = Backoff {
    first: Duration::from_secs(2),
    cap: Duration::from_secs(64),
};

/// A member that has not flooded for this long starts afresh.
const FORGIVEN: Duration = Duration::from_secs(300);

/// Members remembered, more than there ever are in one network.
const MAX_MEMBERS: usize = 1024;

/// What one poll may bring.
pub(super) struct PollAllowance(TokenBucket);

impl PollAllowance {
    /// Creates a full allowance.
    pub(super) fn new(now: Instant) -> Self {
        Self(TokenBucket::new(CHANGES, now))
    }

    /// Takes an answer with this many changes. Returns false if it exceeds the allowance.
    pub(super) fn takes(&mut self, changes: usize, now: Instant) -> bool {
        let changes = u32::try_from(changes).unwrap_or(u32::MAX);
        let cost = changes.saturating_add(ANSWER);
        self.0.take_many(cost, now).is_ok()
    }
}

/// The members that reported too many changes, and how often.
pub(super) struct Floods(ExpiringMap<PeerId, u32>);

impl Default for Floods {
    fn default() -> Self {
        Self(ExpiringMap::new(FORGIVEN, MAX_MEMBERS))
    }
}

impl Floods {
    /// Records a flood by `member`. Returns how long not to follow it.
    pub(super) fn note(&mut self, member: PeerId, now: Instant) -> Duration {
        let before = self.0.get(&member, now).copied().unwrap_or_default();
        let times = before.saturating_add(1);
        self.0.insert(member, times, 1, now);
        PAUSES.full(times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u16) -> PeerId {
        let mut key = [0; 32];
        key[..2].copy_from_slice(&n.to_le_bytes());
        PeerId::from_bytes(key)
    }

    #[test]
    fn only_a_flood_exceeds_the_allowance() {
        let now = Instant::now();
        let mut work = PollAllowance::new(now);
        let at = |number: u32| now + Duration::from_millis(17) * number;
        assert!((0..10_000).all(|number| work.takes(1, at(number))));
        let mut flood = PollAllowance::new(now);
        let full = (0..1000).filter(|number| flood.takes(Changes::MAX_CHANGES, at(*number)));
        assert!(full.count() < 4 + 17);
        let mut many = PollAllowance::new(now);
        let begun = (0..10_000)
            .take_while(|number| many.takes(1, now + Duration::from_millis(1) * *number));
        assert!(begun.count() < 500);
    }

    #[test]
    fn each_flood_doubles_the_backoff() {
        let (mut floods, now) = (Floods::default(), Instant::now());
        let pauses: Vec<u64> = (0..8).map(|_| floods.note(id(1), now).as_secs()).collect();
        assert_eq!(pauses, [2, 4, 8, 16, 32, 64, 64, 64]);
        assert_eq!(floods.note(id(2), now), PAUSES.first);
        assert_eq!(floods.note(id(1), now + FORGIVEN), PAUSES.first);
    }

    #[test]
    fn no_number_of_members_grows_it_beyond_its_bound() {
        let (mut floods, now) = (Floods::default(), Instant::now());
        (0..3000).for_each(|n| {
            floods.note(id(n), now);
        });
        assert!(floods.0.len() <= MAX_MEMBERS);
    }
}
