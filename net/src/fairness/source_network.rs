//! Who counts as one party: a machine's network, the site around it, and a key within it.

use std::net::{IpAddr, Ipv6Addr};

use crate::model::PeerId;

/// The smallest piece of the network that one machine can be: an IPv4 address, or the /64 in which
/// an IPv6 host chooses its addresses freely.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SourceNetwork(IpAddr);

impl SourceNetwork {
    /// Returns the network of `address`. An IPv4 address within IPv6 counts as that IPv4 address.
    pub(crate) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(ip) => prefix(ip, 64),
            v4 => v4,
        })
    }

    /// Returns the network that one subscriber can easily get: a /48, which yields 65,536 /64s at
    /// no cost. For IPv4 it is the address itself.
    pub(crate) fn site(self) -> Self {
        Self(match self.0 {
            IpAddr::V6(ip) => prefix(ip, 48),
            v4 => v4,
        })
    }

    /// Returns the network's first address.
    pub(crate) fn address(self) -> IpAddr {
        self.0
    }
}

fn prefix(ip: Ipv6Addr, bits: u32) -> IpAddr {
    let kept = ip.to_bits() >> (128 - bits) << (128 - bits);
    Ipv6Addr::from_bits(kept).into()
}

/// Distinguishes the holders of one network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum HolderKey {
    /// Those who have shown nothing. All of them count as one.
    Unknown,
    /// An address from which a member came lately. Its neighbours are not that member.
    Address(IpAddr),
    /// A party that has proven to hold this key.
    Member(PeerId),
}

/// The party that a share belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Claimant {
    pub(crate) network: SourceNetwork,
    pub(crate) key: HolderKey,
}

impl Claimant {
    /// Returns the claimant for a party at `network` that has shown no key.
    pub(crate) fn stranger(network: SourceNetwork) -> Self {
        Self {
            network,
            key: HolderKey::Unknown,
        }
    }

    /// Returns the claimant for a party at `address`, from which a member came lately.
    pub(crate) fn known_address(address: IpAddr) -> Self {
        Self {
            network: SourceNetwork::of(address),
            key: HolderKey::Address(address.to_canonical()),
        }
    }

    /// Returns the claimant for this node's own work.
    #[cfg(test)]
    pub(crate) fn itself() -> Self {
        Self::stranger(SourceNetwork(Ipv6Addr::UNSPECIFIED.into()))
    }

    /// Returns the claimant for `member`, who connects from `address`.
    pub(crate) fn member(member: PeerId, address: IpAddr) -> Self {
        Self {
            network: SourceNetwork::of(address),
            key: HolderKey::Member(member),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> SourceNetwork {
        SourceNetwork::of(text.parse().unwrap())
    }

    #[test]
    fn a_64_is_one_network_and_a_48_one_site() {
        assert_eq!(network("2001:db8:1:2::1"), network("2001:db8:1:2:f::9"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
        assert_eq!(
            network("2001:db8:1:2::1").site(),
            network("2001:db8:1:3::1").site()
        );
        assert_ne!(
            network("2001:db8:1::1").site(),
            network("2001:db8:2::1").site()
        );
    }

    #[test]
    fn an_ipv4_address_is_network_and_site() {
        assert_eq!(network("::ffff:10.0.0.1"), network("10.0.0.1"));
        assert_ne!(network("10.0.0.1").site(), network("10.0.0.2").site());
    }
}
