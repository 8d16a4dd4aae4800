//! Where members were seen lately.
//!
//! A member is known by its key, but a connection has a network before it has a key. So the
//! networks from which keys were admitted are remembered for a while, in memory only. That tells
//! strangers from probable members before anything is spent on either.
//!
//! A network is more than a member: in an IPv6 /64, a member's neighbours, who are strangers, are
//! as near as its own next address. So the exact addresses are remembered too. Hosts behind one
//! IPv4 address, as with a NAT, cannot be told apart before they show a key.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::source_network::{Claimant, SourceNetwork};
use super::table::{FairTable, PlaceId};
use crate::model::PeerId;

/// How long a network is remembered: as long as an admission lasts.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

/// Limit on networks. A member who roams through many first loses those of its own site.
const MAX_NETWORKS: usize = 1024;

/// Limit on addresses. A member who uses many first loses its own.
const MAX_ADDRESSES: usize = 1024;

/// How familiar a connection is, judged by where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Familiarity {
    /// No member was admitted from its network within the last day.
    Stranger,
    /// A member was admitted from its network, but from another address.
    Network,
    /// A member was admitted from this very address within the last day.
    Address,
}

impl Familiarity {
    /// Returns true unless nobody came from there.
    pub(crate) fn is_known(self) -> bool {
        self != Self::Stranger
    }
}

/// The networks and addresses, and when a member was last admitted from each.
#[derive(Debug)]
pub(crate) struct KnownNetworks {
    networks: FairTable<Instant>,
    /// The addresses, each held by the last member who came from it.
    addresses: FairTable<IpAddr>,
    by_address: HashMap<IpAddr, SeenNetwork>,
}

#[derive(Debug)]
struct SeenNetwork {
    holder: Claimant,
    place: PlaceId,
    at: Instant,
}

impl Default for KnownNetworks {
    fn default() -> Self {
        Self {
            networks: FairTable::new(MAX_NETWORKS),
            addresses: FairTable::new(MAX_ADDRESSES),
            by_address: HashMap::new(),
        }
    }
}

impl KnownNetworks {
    /// Records that `member` was admitted from `address`.
    pub(crate) fn note(&mut self, member: PeerId, address: IpAddr, now: Instant) {
        self.note_network(SourceNetwork::of(address), now);
        self.note_address(member, address.to_canonical(), now);
    }

    fn note_network(&mut self, network: SourceNetwork, now: Instant) {
        let holder = Claimant::stranger(network);
        let id = self.networks.of(holder).next().map(|(id, _)| id);
        if let Some(id) = id {
            self.networks.leave(holder, id);
        } else if self.networks.len() >= MAX_NETWORKS {
            self.networks.retain(|seen| is_fresh(*seen, now));
        }
        self.networks.enter(holder, now, |_| true);
    }

    fn note_address(&mut self, member: PeerId, address: IpAddr, now: Instant) {
        if let Some(seen) = self.by_address.remove(&address) {
            self.addresses.leave(seen.holder, seen.place);
        } else if self.addresses.len() >= MAX_ADDRESSES {
            self.by_address.retain(|_, seen| is_fresh(seen.at, now));
            let by_address = &self.by_address;
            self.addresses
                .retain(|address| by_address.contains_key(address));
        }
        let holder = Claimant::member(member, address);
        let Some(entered) = self.addresses.enter(holder, address, |_| true) else {
            return;
        };
        if let Some(evicted) = entered.evicted {
            self.by_address.remove(&evicted);
        }
        let seen = SeenNetwork {
            holder,
            place: entered.id,
            at: now,
        };
        self.by_address.insert(address, seen);
    }

    /// Returns how familiar `address` is.
    pub(crate) fn familiarity(&self, address: IpAddr, now: Instant) -> Familiarity {
        let seen = self.by_address.get(&address.to_canonical());
        let mut networks = self
            .networks
            .of(Claimant::stranger(SourceNetwork::of(address)));
        if seen.is_some_and(|seen| is_fresh(seen.at, now)) {
            Familiarity::Address
        } else if networks.any(|(_, seen)| is_fresh(*seen, now)) {
            Familiarity::Network
        } else {
            Familiarity::Stranger
        }
    }
}

fn is_fresh(seen: Instant, now: Instant) -> bool {
    now.saturating_duration_since(seen) < REMEMBERED
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn key(number: u8) -> PeerId {
        PeerId::from_bytes([number; 32])
    }

    #[test]
    fn a_place_is_known_for_a_day() {
        let (mut known, now) = (KnownNetworks::default(), Instant::now());
        let home = ip("192.0.2.1");
        assert_eq!(known.familiarity(home, now), Familiarity::Stranger);
        known.note(key(1), home, now);
        assert_eq!(known.familiarity(home, now), Familiarity::Address);
        let other = known.familiarity(ip("192.0.2.2"), now);
        assert_eq!(other, Familiarity::Stranger);
        let later = known.familiarity(home, now + REMEMBERED);
        assert_eq!(later, Familiarity::Stranger);
        known.note(key(2), home, now + REMEMBERED / 2);
        let again = known.familiarity(home, now + REMEMBERED);
        assert_eq!(again, Familiarity::Address);
        assert_eq!((known.networks.len(), known.addresses.len()), (1, 1));
    }

    #[test]
    fn a_neighbour_is_not_the_member() {
        let (mut known, now) = (KnownNetworks::default(), Instant::now());
        known.note(key(1), ip("fe80::1"), now);
        assert_eq!(known.familiarity(ip("fe80::1"), now), Familiarity::Address);
        assert_eq!(known.familiarity(ip("fe80::2"), now), Familiarity::Network);
    }

    #[test]
    fn a_roaming_member_displaces_only_itself() {
        let (mut known, now) = (KnownNetworks::default(), Instant::now());
        let (home, neighbour) = (ip("192.0.2.1"), ip("2001:db8:0:1::ffff"));
        known.note(key(1), home, now);
        known.note(key(2), neighbour, now);
        for number in 0..2000 {
            known.note(key(3), ip(&format!("2001:db8:1:{number:x}::1")), now);
            known.note(key(3), ip(&format!("2001:db8:0:1::{number:x}")), now);
        }
        assert_eq!(known.networks.len(), MAX_NETWORKS);
        assert_eq!(known.addresses.len(), MAX_ADDRESSES);
        assert_eq!(known.by_address.len(), MAX_ADDRESSES);
        for address in [home, neighbour] {
            assert_eq!(known.familiarity(address, now), Familiarity::Address);
        }
    }
}
