//! Where a call comes from, as far as that bounds what it may take.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use super::ticket::EndpointKey;

/// The other end of an incoming connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallSource {
    /// A TCP connection from this address.
    Tcp(IpAddr),
    /// A connection through NATs. The address is that of the other router if the path is direct, as
    /// seen after the handshake.
    Reach(Option<IpAddr>),
    /// A connection through NATs, from an endpoint over which somebody has lately shown to be a
    /// member of the network.
    Member(EndpointKey),
}

impl CallSource {
    /// Returns the address to charge. Relayed callers have none, and their keys cost nothing: all
    /// of them together are one source, the unspecified address.
    pub fn ip(self) -> IpAddr {
        match self {
            Self::Member(endpoint) => site_of(endpoint),
            Self::Tcp(ip) | Self::Reach(Some(ip)) => ip,
            Self::Reach(None) => Ipv6Addr::UNSPECIFIED.into(),
        }
    }
}

/// Returns an address that stands for a member's endpoint, so that it has a network to itself. Half
/// of the unique local addresses are not in use (RFC 4193, section 3.2): nobody else comes from
/// there. What of the key is left out costs more to imitate than there is to gain, as only members
/// have such an address.
fn site_of(endpoint: EndpointKey) -> IpAddr {
    let mut octets = [0; 16];
    octets[0] = 0xfc;
    octets[1..6].copy_from_slice(&endpoint.as_bytes()[..5]);
    Ipv6Addr::from(octets).into()
}

impl fmt::Display for CallSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(ip) | Self::Reach(Some(ip)) => ip.fmt(f),
            Self::Reach(None) => f.write_str("a relay"),
            Self::Member(endpoint) => endpoint.fmt(f),
        }
    }
}
