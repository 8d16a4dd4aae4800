//! The links of this host, and one socket for each link and IP version.
//!
//! A socket is bound to the multicast group and has joined it on one interface only. So the kernel
//! says on which link a datagram arrived, unicast to this host never reaches the socket, and
//! everything that does came from that link: routers forward neither group (RFC 6762, section 11).
//! Other responders of this host keep their port, and their unicast.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};

use if_addrs::{IfAddr, Interface};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

use super::neighbours::LinkIndex;

/// The port of multicast DNS.
pub(super) const PORT: u16 = 5353;

pub(super) const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
pub(super) const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);

/// The maximum number of links, of two sockets each. A host with hundreds of interfaces has them
/// for its containers.
pub(super) const MAX_LINKS: usize = 32;

/// The maximum number of announced addresses of one link: with these, an answer fits into a frame.
const MAX_ADDRESSES: usize = 16;

/// The hop limit of all datagrams sent (RFC 6762, section 11).
const HOPS: u32 = 255;

/// A link and an IP version.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct ChannelId {
    pub(super) link: LinkIndex,
    pub(super) is_v4: bool,
}

/// An address of this host, and its prefix length.
pub(super) type OwnAddress = (IpAddr, u8);

/// An interface that is up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct LocalLink {
    pub(super) index: LinkIndex,
    pub(super) name: String,
    /// The addresses, sorted; at least one.
    pub(super) addresses: Vec<OwnAddress>,
}

impl LocalLink {
    /// Returns the current links of this host.
    pub(super) fn all() -> io::Result<Vec<Self>> {
        Ok(Self::sort(if_addrs::get_if_addrs()?))
    }

    fn sort(interfaces: Vec<Interface>) -> Vec<Self> {
        let mut links: HashMap<LinkIndex, Self> = HashMap::new();
        for interface in interfaces {
            let Some(index) = interface.index.filter(|_| interface.is_oper_up()) else {
                continue;
            };
            // Nobody can be found at the other end of a tunnel who is not known already.
            if interface.is_p2p() {
                continue;
            }
            let own = match &interface.addr {
                IfAddr::V4(v4) => (v4.ip.into(), v4.prefixlen),
                IfAddr::V6(v6) => (v6.ip.into(), v6.prefixlen),
            };
            let fresh = || Self {
                index,
                name: interface.name.clone(),
                addresses: Vec::new(),
            };
            links.entry(index).or_insert_with(fresh).addresses.push(own);
        }
        let mut links: Vec<Self> = links.into_values().collect();
        for link in &mut links {
            link.addresses.sort();
        }
        // Those of containers and their bridges come last: they have no IPv4 address, or
        // were created later.
        links.sort_by_key(|link| (!link.has_v4(), link.index));
        links.truncate(MAX_LINKS);
        links
    }

    fn has_v4(&self) -> bool {
        self.addresses.iter().any(|(ip, _)| ip.is_ipv4())
    }

    /// Returns the addresses to announce.
    pub(super) fn announced(&self) -> Vec<IpAddr> {
        let addresses = self.addresses.iter().map(|(ip, _)| *ip);
        addresses.take(MAX_ADDRESSES).collect()
    }

    /// Returns true when `ip` is an address on this link.
    pub(super) fn reaches(&self, ip: IpAddr) -> bool {
        let same = |own: &OwnAddress| match (own.0, ip) {
            (IpAddr::V4(own_ip), IpAddr::V4(ip)) => {
                let differ = (own_ip.to_bits() ^ ip.to_bits()).leading_zeros();
                differ >= own.1.into()
            }
            (IpAddr::V6(own_ip), IpAddr::V6(ip)) => {
                let differ = (own_ip.to_bits() ^ ip.to_bits()).leading_zeros();
                differ >= own.1.into()
            }
            _ => false,
        };
        self.addresses.iter().any(same)
    }
}

/// A socket, and the source address of its packets where it has to be set.
#[derive(Debug)]
struct MulticastSocket {
    socket: UdpSocket,
    source: Option<Ipv4Addr>,
}

/// The sockets of all links, and what they have received.
#[derive(Debug, Default)]
pub(super) struct MulticastSockets {
    opened: HashMap<ChannelId, MulticastSocket>,
}

impl MulticastSockets {
    /// Opens the sockets that `links` lack and closes those no longer needed. Retries failed ones
    /// on the next call.
    pub(super) fn follow(&mut self, links: &[LocalLink]) {
        let mut wanted = HashSet::new();
        for link in links {
            for (ip, _) in &link.addresses {
                let is_v4 = ip.is_ipv4();
                let id = ChannelId {
                    link: link.index,
                    is_v4,
                };
                wanted.insert(id);
                let gone = |opened: &MulticastSocket| {
                    opened.source.is_some_and(|source| {
                        !link
                            .addresses
                            .iter()
                            .any(|(ip, _)| *ip == IpAddr::V4(source))
                    })
                };
                if self.opened.get(&id).is_some_and(|opened| !gone(opened)) {
                    continue;
                }
                let opened = match ip {
                    IpAddr::V4(source) => open_v4(link.index, *source),
                    IpAddr::V6(_) => open_v6(link.index),
                };
                match opened {
                    Ok(opened) => {
                        self.opened.insert(id, opened);
                    }
                    Err(why) => {
                        self.opened.remove(&id);
                        tracing::debug!("no multicast on {} ({ip}): {why}", link.name);
                    }
                }
            }
        }
        self.opened.retain(|id, _| wanted.contains(id));
    }

    /// Returns all usable channels.
    pub(super) fn channels(&self) -> Vec<ChannelId> {
        self.opened.keys().copied().collect()
    }

    /// Returns the sockets, for polling.
    pub(super) fn iter(&self) -> impl Iterator<Item = (ChannelId, &UdpSocket)> {
        self.opened.iter().map(|(id, opened)| (*id, &opened.socket))
    }

    /// Sends `bytes` to the host `to`, or to the group if that is `None`. Drops what cannot be
    /// sent: it could be lost on the way, too.
    pub(super) fn send(&self, id: ChannelId, to: Option<SocketAddr>, bytes: &[u8]) {
        let Some(opened) = self.opened.get(&id) else {
            return;
        };
        let to = to.unwrap_or_else(|| group(id));
        if let Err(why) = opened.socket.send_to(bytes, to) {
            tracing::debug!("multicast to {to} on link {}: {why}", id.link);
        }
    }
}

fn group(id: ChannelId) -> SocketAddr {
    if id.is_v4 {
        SocketAddrV4::new(GROUP_V4, PORT).into()
    } else {
        SocketAddrV6::new(GROUP_V6, PORT, 0, id.link).into()
    }
}

fn open(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    // Shares the port with other responders of this host, some of which set one and some the other.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn open_v4(link: LinkIndex, source: Ipv4Addr) -> io::Result<MulticastSocket> {
    let socket = open(Domain::IPV4)?;
    // Receives only from interfaces where this very socket has joined.
    socket.set_multicast_all_v4(false)?;
    socket.bind(&SocketAddr::from((GROUP_V4, PORT)).into())?;
    socket.join_multicast_v4_n(&GROUP_V4, &InterfaceIndexOrAddress::Index(link))?;
    socket.set_multicast_if_v4(&source)?;
    socket.set_multicast_ttl_v4(HOPS)?;
    socket.set_ttl_v4(HOPS)?;
    // Other nodes on this host are neighbours, too.
    socket.set_multicast_loop_v4(true)?;
    Ok(MulticastSocket {
        socket: socket.into(),
        source: Some(source),
    })
}

fn open_v6(link: LinkIndex) -> io::Result<MulticastSocket> {
    let socket = open(Domain::IPV6)?;
    socket.set_only_v6(true)?;
    socket.set_multicast_all_v6(false)?;
    // Binding to a link-scoped group binds to the interface of that link.
    socket.bind(&SocketAddr::from(SocketAddrV6::new(GROUP_V6, PORT, 0, link)).into())?;
    socket.join_multicast_v6(&GROUP_V6, link)?;
    socket.set_multicast_if_v6(link)?;
    socket.set_multicast_hops_v6(HOPS)?;
    socket.set_unicast_hops_v6(HOPS)?;
    socket.set_multicast_loop_v6(true)?;
    Ok(MulticastSocket {
        socket: socket.into(),
        source: None,
    })
}
