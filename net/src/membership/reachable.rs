//! The addresses where others may reach this node, as far as it can tell: the ones that people
//! give their friends.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;

use crate::config::Listen;
use crate::model::TcpAddress;

/// The maximum number of addresses shown: one of a machine with many does as well as the others.
const MAX_ADDRESSES: usize = 3;

/// An address for documentation (RFC 5737): no packet is ever sent there.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// An address of this host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct HostAddress {
    ip: IpAddr,
    /// True for a bridge, such as those of containers and virtual machines.
    is_bridge: bool,
}

/// Returns the addresses to give others for a node that listens at `listen` and got `port` there,
/// best first: the advertised one, else the one it listens on, else those of this host. Empty where
/// only this host or a link can reach it.
pub(crate) fn addresses(
    advertise: Option<&TcpAddress>,
    listen: &Listen,
    port: u16,
) -> Vec<TcpAddress> {
    if port == 0 {
        return Vec::new();
    }
    if let Some(address) = advertise {
        return vec![address.clone()];
    }
    let address = |ip: IpAddr| TcpAddress::new(ip.to_string(), port);
    ips(listen).into_iter().map(address).collect()
}

/// Returns the addresses of this host that others may reach, best first, for a node that listens at
/// `listen`.
pub(crate) fn ips(listen: &Listen) -> Vec<IpAddr> {
    match listen {
        Listen::At(at) if !at.ip().is_unspecified() => {
            let ip = at.ip();
            let is_bridge = false;
            choose(None, vec![HostAddress { ip, is_bridge }])
        }
        Listen::At(at) if at.is_ipv4() => {
            let mut own = own();
            own.retain(|address| address.ip.is_ipv4());
            choose(route_source(), own)
        }
        _ => choose(route_source(), own()),
    }
}

/// Returns true if nobody beyond the local networks of this host can dial `host`.
pub fn is_local(host: &str) -> bool {
    match host.parse() {
        // The last range is shared by the customers of one provider (RFC 6598).
        Ok(IpAddr::V4(ip)) => {
            let [first, second, ..] = ip.octets();
            ip.is_private() || (first == 100 && second & 0xc0 == 64)
        }
        Ok(IpAddr::V6(ip)) => ip.is_unique_local(),
        Err(_) => false,
    }
}

/// Chooses IPv4 addresses, if there are any: people can type those.
fn choose(route_source: Option<IpAddr>, mut own: Vec<HostAddress>) -> Vec<IpAddr> {
    own.retain(|address| {
        let is_known = Some(address.ip) == route_source;
        is_announceable(address.ip) && (is_known || !address.is_bridge)
    });
    if own.iter().any(|address| address.ip.is_ipv4()) {
        own.retain(|address| address.ip.is_ipv4());
    } else {
        // Most IPv6 addresses of a host are in one network.
        own.truncate(1);
    }
    own.sort_by_key(|address| Some(address.ip) != route_source);
    own.truncate(MAX_ADDRESSES);
    own.into_iter().map(|address| address.ip).collect()
}

fn is_announceable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local() && !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local() && !ip.is_unspecified(),
    }
}

/// Returns the addresses of the interfaces that are up; none if they cannot be read.
fn own() -> Vec<HostAddress> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default().into_iter();
    let up = interfaces.filter(|interface| interface.is_oper_up());
    let own = up.map(|interface| HostAddress {
        ip: interface.ip(),
        is_bridge: Path::new("/sys/class/net")
            .join(&interface.name)
            .join("bridge")
            .exists(),
    });
    own.collect()
}

/// Returns the address from which this host calls others. Connecting a UDP socket looks up the
/// route and sends nothing.
fn route_source() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(SocketAddr::from((ELSEWHERE, 9))).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn own(texts: &[&str]) -> Vec<HostAddress> {
        let own = texts.iter().map(|text| HostAddress {
            ip: ip(text.trim_end_matches(" bridge")),
            is_bridge: text.ends_with(" bridge"),
        });
        own.collect()
    }

    #[test]
    fn undialable_addresses_are_not_announced() {
        let all = own(&[
            "127.0.0.1",
            "169.254.3.4",
            "::1",
            "fe80::1",
            "172.17.0.1 bridge",
            "2001:db8::5",
            "192.168.1.7",
        ]);
        assert_eq!(choose(None, all), [ip("192.168.1.7")]);
        assert_eq!(
            choose(None, own(&["127.0.0.1", "fe80::1"])),
            [] as [IpAddr; 0]
        );
    }

    #[test]
    fn default_route_address_comes_first() {
        let all = own(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4 bridge"]);
        let told = choose(Some(ip("10.0.0.4")), all);
        assert_eq!(told, ["10.0.0.4", "10.0.0.1", "10.0.0.2"].map(ip));
    }

    #[test]
    fn one_ipv6_address_is_given_without_ipv4() {
        let all = own(&["2001:db8::5", "2001:db8::6"]);
        assert_eq!(choose(None, all), [ip("2001:db8::5")]);
    }

    #[test]
    fn advertised_wins_if_the_node_listens() {
        let advertised = TcpAddress::new("box.example.org", 7);
        let told = addresses(Some(&advertised), &Listen::Default, 15204);
        assert_eq!(told, std::slice::from_ref(&advertised));
        assert!(addresses(Some(&advertised), &Listen::Nowhere, 0).is_empty());
        let at = |text: &str| Listen::At(text.parse().unwrap());
        let told = addresses(None, &at("192.0.2.7:0"), 9);
        assert_eq!(told, [TcpAddress::new("192.0.2.7", 9)]);
        assert!(addresses(None, &at("127.0.0.1:9"), 9).is_empty());
    }

    #[test]
    fn addresses_of_local_networks_are_known() {
        for local in ["10.1.2.3", "192.168.0.1", "100.64.0.1", "fd00::1"] {
            assert!(is_local(local), "{local}");
        }
        for other in ["192.0.2.7", "100.128.0.1", "2001:db8::1", "box.example.org"] {
            assert!(!is_local(other), "{other}");
        }
    }
}
