//! Who takes so long that the others' answers should not wait for it.
//!
//! With fifty members somebody is always behind a bad link or on a machine that does too much.
//! Waiting for that one makes every directory as slow as the deadline allows, a thousand
//! directories half an hour. So whoever was slow twice running is asked, but not waited for any
//! longer than for the others, until it answers promptly again. In a small network everybody is
//! worth the wait, and where many are slow it is this node's own link that is.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::model::PeerId;

/// An answer that takes longer is a slow one. Twice what a geostationary satellite takes: no link
/// that people use for this needs more, so it is the member's trouble.
pub(crate) const PROMPT: Duration = Duration::from_secs(1);

/// Slow answers in a row until nobody waits. One may be chance: a disk that wakes up,
/// a new connection.
const STRIKES: u8 = 2;

/// At most one in so many is not waited for.
const SLOW_DIVISOR: usize = 4;

/// Members that are remembered for being slow, more than there ever are in one network.
const MAX_MEMBERS: usize = 1024;

/// How many answers in a row were slow, of those whose last one was.
#[derive(Default)]
pub(crate) struct SlowPeers {
    strikes: HashMap<PeerId, u8>,
}

impl SlowPeers {
    /// An answer of `member` took so long. It should be a small one, or tell something
    /// about its size.
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

    /// Those of `asked` who are not to be waited for; so many others have answered before.
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
