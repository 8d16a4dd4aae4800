//! How often to poll members that have an answer each time.
//!
//! Pure: time comes in as `now`. No member is polled more than a few times a second for long. The
//! first polls after a quiet time follow one another at once, so that occasional changes are known
//! at once. All keys that answer from one network also share a rate, as keys cost nothing.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::fairness::SourceNetwork;
use crate::model::PeerId;

/// The number of polls in a burst, and the time after which one more is allowed.
#[derive(Clone, Copy)]
struct Rate {
    burst: u32,
    each: Duration,
}

/// The rate of one member: enough for some minutes of steady work, after which a change is known a
/// fifth of a second later.
const OF_MEMBER: Rate = Rate {
    burst: 600,
    each: Duration::from_millis(200),
};

/// The rate of all members in one network. If more than thirty friends behind one address always
/// have changes, these are known a little later than a second.
const OF_NETWORK: Rate = Rate {
    burst: 1200,
    each: Duration::from_millis(32),
};

/// Cost of an early answer without changes, in polls: an honest member gives one now and then.
const EMPTY: u32 = 20;

/// The longest wait for one member's own rate, whatever it has answered: its next answer
/// may contain changes.
const MAX_PAUSE: Duration = Duration::from_millis(400);

/// When members may be polled again.
#[derive(Default)]
pub(super) struct Paces {
    members: Buckets<PeerId>,
    networks: Buckets<SourceNetwork>,
}

/// For each key with fewer polls left than the full burst: when its burst is full again.
struct Buckets<K>(HashMap<K, Instant>);

impl Paces {
    /// Records that `member` answered early from `remote`, with or without changes. Returns when
    /// the next poll may begin.
    pub(super) fn next(
        &mut self,
        member: PeerId,
        remote: Option<IpAddr>,
        has_news: bool,
        now: Instant,
    ) -> Instant {
        let cost = if has_news { 1 } else { EMPTY };
        let its = self.members.take(member, OF_MEMBER, cost, now);
        self.members.forgive(member, OF_MEMBER, MAX_PAUSE, now);
        let its = its.min(now + MAX_PAUSE);
        let network = remote.map(|remote| SourceNetwork::of(remote).site());
        let all = network.map(|network| self.networks.take(network, OF_NETWORK, 1, now));
        all.map_or(its, |all| all.max(its))
    }
}

impl<K: Hash + Eq> Buckets<K> {
    fn take(&mut self, key: K, rate: Rate, cost: u32, now: Instant) -> Instant {
        if !self.0.contains_key(&key) {
            // Keeps the map no larger than the number of members polled within a moment.
            self.0.retain(|_, full| *full > now);
        }
        let full = self.0.entry(key).or_insert(now);
        *full = (*full).max(now) + rate.each * cost;
        let next = full.checked_sub(rate.each * rate.burst);
        next.map_or(now, |next| next.max(now))
    }

    /// Limits the wait to `longest`, however much was taken.
    fn forgive(&mut self, key: K, rate: Rate, longest: Duration, now: Instant) {
        if let Some(full) = self.0.get_mut(&key) {
            *full = (*full).min(now + rate.each * rate.burst + longest);
        }
    }
}

impl<K> Default for Buckets<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> PeerId {
        PeerId::from_bytes([n; 32])
    }

    /// Counts the polls, within this many seconds, of a member that answers each at once.
    fn polls(paces: &mut Paces, has_news: bool, begun: Instant, seconds: u64) -> usize {
        let (mut now, mut count) = (begun, 0);
        while now < begun + Duration::from_secs(seconds) {
            now = paces
                .next(id(1), None, has_news, now)
                .max(now + Duration::from_millis(15));
            count += 1;
        }
        count
    }

    #[test]
    fn burst_is_heard_then_polls_slow_down() {
        let (mut paces, begun) = (Paces::default(), Instant::now());
        assert!(polls(&mut paces, true, begun, 8) >= 500);
        let later = begun + Duration::from_secs(20);
        polls(&mut paces, true, later, 20);
        let later = later + Duration::from_secs(20);
        let steady = polls(&mut paces, true, later, 60);
        assert!((290..=310).contains(&steady), "{steady}");
        let quiet = later + Duration::from_secs(240);
        assert!(polls(&mut paces, true, quiet, 1) >= 60);
    }

    #[test]
    fn empty_answers_cost_more_than_changes() {
        let (mut paces, begun) = (Paces::default(), Instant::now());
        let empty = polls(&mut paces, false, begun, 60);
        assert!(empty <= 30 + 60 * 5 / 2 + 2, "{empty}");
        let now = begun + Duration::from_secs(61);
        assert!(
            paces.next(id(1), None, true, now) <= now + MAX_PAUSE,
            "news"
        );
    }

    #[test]
    fn keys_of_one_network_share_a_rate() {
        let (mut paces, begun) = (Paces::default(), Instant::now());
        let (hostile, friend) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let mut next = vec![begun; 200];
        let mut count = 0;
        for millisecond in (0..30_000).step_by(15) {
            let now = begun + Duration::from_millis(millisecond);
            for (key, next) in (0..).zip(&mut next).filter(|(_, next)| **next <= now) {
                *next = paces.next(id(key), Some(hostile), true, now);
                count += 1;
            }
        }
        assert!(count <= 1200 + 30_000 / 32 + 200, "{count}");
        let now = begun + Duration::from_secs(30);
        assert_eq!(paces.next(id(250), Some(friend), true, now), now);
    }

    #[test]
    fn only_recent_responders_are_remembered() {
        let (mut paces, mut now) = (Paces::default(), Instant::now());
        for n in 0..200 {
            now += OF_MEMBER.each;
            paces.next(id(n), None, true, now);
        }
        assert!(paces.members.0.len() <= 2, "{}", paces.members.0.len());
    }
}
