//! The links of this host, and a socket for each of them and version of IP.
//!
//! A socket is bound to the multicast group and has joined it on one interface alone. So the kernel
//! says on which link something was heard, nothing that was addressed to this host reaches
//! the socket, and what does reach it came from that link: routers pass neither group on (RFC 6762,
//! section 11). Other responders of this host keep their port, and their unicast.

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

/// The most links, of two sockets each: a host with hundreds of interfaces has them
/// for its containers.
pub(super) const MAX_LINKS: usize = 32;

/// The most addresses of one link that are told: with them, an answer fits into a frame.
const MAX_ADDRESSES: usize = 16;

/// The hop limit of everything that is sent (RFC 6762, section 11).
const HOPS: u32 = 255;

/// A link and a version of IP.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct ChannelId {
    pub(super) link: LinkIndex,
    pub(super) is_v4: bool,
}

/// An address of this host, and the length of its prefix.
pub(super) type OwnAddress = (IpAddr, u8);

/// An interface that is up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct LocalLink {
    pub(super) index: LinkIndex,
    pub(super) name: String,
    /// In order, at least one.
    pub(super) addresses: Vec<OwnAddress>,
}

impl LocalLink {
    /// The links of this host now.
    pub(super) fn all() -> io::Result<Vec<Self>> {
        Ok(Self::sort(if_addrs::get_if_addrs()?))
    }

    fn sort(interfaces: Vec<Interface>) -> Vec<Self> {
        let mut links: HashMap<LinkIndex, Self> = HashMap::new();
        for interface in interfaces {
            let Some(index) = interface.index.filter(|_| interface.is_oper_up()) else {
                continue;
            };
            // There is nobody to be found at the other end of a tunnel but who is known anyhow.
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
        // Those of containers and their bridges come last: they have no IPv4 address, or were
        // made later.
        links.sort_by_key(|link| (!link.has_v4(), link.index));
        links.truncate(MAX_LINKS);
        links
    }

    fn has_v4(&self) -> bool {
        self.addresses.iter().any(|(ip, _)| ip.is_ipv4())
    }

    /// The addresses that others are told.
    pub(super) fn announced(&self) -> Vec<IpAddr> {
        let addresses = self.addresses.iter().map(|(ip, _)| *ip);
        addresses.take(MAX_ADDRESSES).collect()
    }

    /// True when `ip` is an address on this link.
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

/// A socket, and the address that its packets carry where one has to be named.
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
    /// Opens what `links` lack and closes what they do not need any more. What cannot be opened is
    /// tried again the next time.
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

    /// All channels that can be used.
    pub(super) fn channels(&self) -> Vec<ChannelId> {
        self.opened.keys().copied().collect()
    }

    /// The sockets, to be waited for.
    pub(super) fn iter(&self) -> impl Iterator<Item = (ChannelId, &UdpSocket)> {
        self.opened.iter().map(|(id, opened)| (*id, &opened.socket))
    }

    /// Sends `bytes`, to the group if nobody is named. What cannot be sent is lost, as it may be
    /// on the way.
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
    // With the other responders of this host, of which some set one and some the other.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn open_v4(link: LinkIndex, source: Ipv4Addr) -> io::Result<MulticastSocket> {
    let socket = open(Domain::IPV4)?;
    // Only what is heard on interfaces where this very socket has joined.
    socket.set_multicast_all_v4(false)?;
    socket.bind(&SocketAddr::from((GROUP_V4, PORT)).into())?;
    socket.join_multicast_v4_n(&GROUP_V4, &InterfaceIndexOrAddress::Index(link))?;
    socket.set_multicast_if_v4(&source)?;
    socket.set_multicast_ttl_v4(HOPS)?;
    socket.set_ttl_v4(HOPS)?;
    // Other nodes of this host are neighbours, too.
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
    // Binding to a group of one link binds to its interface.
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
