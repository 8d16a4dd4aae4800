//! Where members were seen lately.
//!
//! A member is known by its key, but a connection has a network before it has a key. So that
//! strangers can be told from those who are probably members before anything is spent on either,
//! the networks from which keys were admitted are remembered for a while, in memory only.

use std::time::{Duration, Instant};

use super::source_network::{Holder, SourceNetwork};
use super::table::FairTable;

/// How long a network is remembered: as long as an admission lasts.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

/// The most networks. A member who roams through many gives up its own site's first.
const MAX_NETWORKS: usize = 1024;

/// The networks, and when a member was last admitted from each.
#[derive(Debug)]
pub(crate) struct KnownNetworks(FairTable<Instant>);

impl Default for KnownNetworks {
    fn default() -> Self {
        Self(FairTable::new(MAX_NETWORKS))
    }
}

impl KnownNetworks {
    /// A member was admitted from `network`.
    pub(crate) fn note(&mut self, network: SourceNetwork, now: Instant) {
        let holder = Holder::stranger(network);
        let id = self.0.of(holder).next().map(|(id, _)| id);
        if let Some(id) = id {
            self.0.leave(holder, id);
        } else if self.0.len() >= MAX_NETWORKS {
            self.0.retain(|seen| is_fresh(*seen, now));
        }
        self.0.enter(holder, now, |_| true);
    }

    /// True if a member was admitted from `network` within the last day.
    pub(crate) fn contains(&self, network: SourceNetwork, now: Instant) -> bool {
        let mut seen = self.0.of(Holder::stranger(network));
        seen.any(|(_, seen)| is_fresh(*seen, now))
    }
}

fn is_fresh(seen: Instant, now: Instant) -> bool {
    now.saturating_duration_since(seen) < REMEMBERED
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> SourceNetwork {
        SourceNetwork::of(text.parse().unwrap())
    }

    #[test]
    fn a_network_is_known_for_a_day() {
        let (mut known, now) = (KnownNetworks::default(), Instant::now());
        let home = network("192.0.2.1");
        assert!(!known.contains(home, now));
        known.note(home, now);
        assert!(known.contains(home, now));
        assert!(!known.contains(network("192.0.2.2"), now));
        assert!(!known.contains(home, now + REMEMBERED));
        known.note(home, now + REMEMBERED / 2);
        assert!(known.contains(home, now + REMEMBERED));
        assert_eq!(known.0.len(), 1);
    }

    #[test]
    fn a_roaming_member_displaces_only_itself() {
        let (mut known, now) = (KnownNetworks::default(), Instant::now());
        let home = network("192.0.2.1");
        known.note(home, now);
        for number in 0..2000 {
            known.note(network(&format!("2001:db8:0:{number:x}::1")), now);
        }
        assert_eq!(known.0.len(), MAX_NETWORKS);
        assert!(known.contains(home, now));
    }
}
