//! Members so slow that the other members' answers should not wait for them.
//!
//! Among fifty members somebody is always behind a bad link or on an overloaded machine. Waiting
//! for that member makes every directory as slow as the deadline allows, and a thousand directories
//! take half an hour. So a member that was slow twice running is asked, but waited for no longer
//! than the others, until it answers promptly again. In a small network every member is worth the
//! wait, and where many are slow the fault is with this node's own link.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::model::PeerId;

/// An answer that takes longer is slow. Twice what a geostationary satellite takes: no link in
/// common use needs more, so the member is at fault.
pub(crate) const PROMPT: Duration = Duration::from_secs(1);

/// Slow answers in a row until nobody waits. One may be chance: a disk that wakes up,
/// a new connection.
const STRIKES: u8 = 2;

/// At most one in this many members is not waited for.
const SLOW_DIVISOR: usize = 4;

/// Slow members remembered, more than there ever are in one network.
const MAX_MEMBERS: usize = 1024;

/// The number of consecutive slow answers, for each member whose last answer was slow.
#[derive(Default)]
pub(crate) struct SlowPeers {
    strikes: HashMap<PeerId, u8>,
}

impl SlowPeers {
    /// Records how long an answer of `member` took. It should be a small answer, or one whose time
    /// says something about its size.
    pub(crate) fn note(&mut self, member: PeerId, took: Duration) {
        if took < PROMPT {
            self.strikes.remove(&member);
            return;
        }
        if self.strikes.len() >= MAX_MEMBERS && !self.strikes.contains_key(&member) {
            self.strikes.clear();
        }
        let strikes = self.strikes.entry(member).or_default();
        *strikes = strikes.saturating_add(1);
    }

    /// Returns the members of `asked` not to wait for. `others` more have answered before.
    pub(crate) fn slow(
        &self,
        asked: impl ExactSizeIterator<Item = PeerId>,
        others: usize,
    ) -> HashSet<PeerId> {
        let count = asked.len() + others;
        let is_slow = |member: &PeerId| self.strikes.get(member).is_some_and(|s| *s >= STRIKES);
        let slow: HashSet<PeerId> = if self.strikes.is_empty() {
            HashSet::new()
        } else {
            asked.filter(is_slow).collect()
        };
        if slow.len() * SLOW_DIVISOR > count {
            HashSet::new()
        } else {
            slow
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::peer_id;

    const SLOW: Duration = Duration::from_millis(1400);

    fn ids(count: u8) -> impl ExactSizeIterator<Item = PeerId> {
        (0..count).map(|n| PeerId::from_bytes([n; 32]))
    }

    fn id(n: u8) -> PeerId {
        PeerId::from_bytes([n; 32])
    }

    #[test]
    fn twice_slow_peer_is_skipped_until_prompt() {
        let mut pace = SlowPeers::default();
        pace.note(id(1), SLOW);
        assert!(pace.slow(ids(50), 0).is_empty());
        pace.note(id(1), SLOW);
        assert_eq!(pace.slow(ids(50), 0), HashSet::from([id(1)]));
        pace.note(id(1), Duration::from_millis(20));
        assert!(pace.slow(ids(50), 0).is_empty());
        pace.note(id(1), SLOW);
        assert!(pace.slow(ids(50), 0).is_empty());
    }

    #[test]
    fn small_network_waits_for_every_peer() {
        let mut pace = SlowPeers::default();
        for _ in 0..STRIKES {
            pace.note(id(1), SLOW);
        }
        assert!(pace.slow(ids(3), 0).is_empty());
        assert_eq!(pace.slow(ids(4), 0).len(), 1);
    }

    #[test]
    fn where_many_are_slow_nobody_is() {
        let mut pace = SlowPeers::default();
        for member in ids(13) {
            pace.note(member, SLOW);
            pace.note(member, SLOW);
        }
        assert!(pace.slow(ids(50), 0).is_empty());
        assert_eq!(pace.slow(ids(52), 0).len(), 13);
    }

    #[test]
    fn no_number_of_members_grows_it_beyond_its_bound() {
        let mut pace = SlowPeers::default();
        for n in 0..3 * MAX_MEMBERS {
            pace.note(peer_id(n), SLOW);
        }
        assert!(pace.strikes.len() <= MAX_MEMBERS);
    }
}
