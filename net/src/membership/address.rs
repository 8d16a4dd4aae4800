//! Decides which addresses may be dialled, each in its canonical form, and who may learn of them.
//!
//! Addresses come from users, members and multicast. Before one enters the table it is brought into
//! canonical form, so that `[::ffff:10.0.0.1]:1` and `10.0.0.1:1` are one address, and those that
//! cannot lead to a member are dropped.

use std::net::{IpAddr, Ipv6Addr};

use crate::model::{Address, CallSource, TcpAddress};

/// How far an address denotes the same host, from narrow to wide.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Scope {
    /// On this host only.
    Loopback,
    /// On one link only.
    Link,
    /// Everywhere, or at least everywhere that matters here (private networks, host names).
    Wide,
}

/// Returns the canonical form of `address`; `None` when nothing can be dialled there:
/// port 0, unspecified, multicast and broadcast addresses, link-local IPv6 without a zone
/// (RFC 4007, section 11), and host names that end in a number, which resolvers read as
/// other spellings of IPv4.
pub(crate) fn canonical(address: &Address) -> Option<Address> {
    match address {
        Address::Tcp(address) => canonical_tcp(address).map(Address::Tcp),
        // Its parts have one spelling each.
        Address::Reach(_) => Some(address.clone()),
    }
}

/// Returns the canonical form of the address of a TCP port; see [`canonical`].
pub(crate) fn canonical_tcp(address: &TcpAddress) -> Option<TcpAddress> {
    if address.port == 0 {
        return None;
    }
    let host = match address.host.split_once('%') {
        Some((ip, zone)) => zoned(ip.parse().ok()?, zone)?,
        None => match address.host.parse::<IpAddr>() {
            Ok(ip) => plain(ip.to_canonical())?,
            Err(_) => name(&address.host)?,
        },
    };
    Some(TcpAddress::new(host, address.port))
}

fn zoned(ip: Ipv6Addr, zone: &str) -> Option<String> {
    // Linux limits interface names to 15 bytes.
    let sound = (1..16).contains(&zone.len()) && zone.bytes().all(|b| b.is_ascii_graphic());
    (sound && ip.is_unicast_link_local()).then(|| format!("{ip}%{zone}"))
}

fn plain(ip: IpAddr) -> Option<String> {
    let leads_nowhere = match ip {
        IpAddr::V4(v4) => v4.octets()[0] == 0 || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unspecified() || v6.is_unicast_link_local(),
    };
    (!leads_nowhere && !ip.is_multicast()).then(|| ip.to_string())
}

fn name(host: &str) -> Option<String> {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let sound = (1..=253).contains(&host.len())
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    let last = host.rsplit('.').next().unwrap_or_default();
    let numeric = last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x");
    (sound && !numeric).then_some(host)
}

/// Returns how far an address, in canonical form, can be passed on.
pub(crate) fn scope(address: &Address) -> Scope {
    let Some(TcpAddress { host, .. }) = address.as_tcp() else {
        return Scope::Wide;
    };
    if has_zone(address) {
        return Scope::Link;
    }
    match host.parse() {
        Ok(ip) => scope_of_ip(ip),
        Err(_) if host == "localhost" || host.ends_with(".localhost") => Scope::Loopback,
        Err(_) => Scope::Wide,
    }
}

/// Returns true for an address with a zone: the name of an interface of this host (RFC 4007).
pub(crate) fn has_zone(address: &Address) -> bool {
    let tcp = address.as_tcp();
    tcp.is_some_and(|address| address.host.contains('%'))
}

/// Returns the scope of the source of an incoming call.
pub(crate) fn scope_of_ip(ip: IpAddr) -> Scope {
    let (loopback, link) = match ip.to_canonical() {
        IpAddr::V4(v4) => (v4.is_loopback(), v4.is_link_local()),
        IpAddr::V6(v6) => (v6.is_loopback(), v6.is_unicast_link_local()),
    };
    match (loopback, link) {
        (true, _) => Scope::Loopback,
        (_, true) => Scope::Link,
        _ => Scope::Wide,
    }
}

/// Returns the scope of the source of an incoming call through whatever way.
pub(crate) fn scope_of_source(source: CallSource) -> Scope {
    match source {
        CallSource::Tcp(ip) => scope_of_ip(ip),
        CallSource::Reach(_) | CallSource::Member(_) => Scope::Wide,
    }
}

/// Returns true when `address` denotes the same host to a member that is seen within `viewer`. A
/// zone is the name of an interface of this host and means nothing on another.
pub(crate) fn is_of_use_to(address: &Address, viewer: Scope) -> bool {
    !has_zone(address) && scope(address) >= viewer
}

/// Returns the address at which a caller that listens on `port` can be dialled, from the source
/// of its call.
pub(crate) fn observed(remote: IpAddr, port: u16) -> Option<Address> {
    canonical(&Address::new(remote.to_canonical().to_string(), port))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn spelled(host: &str) -> Option<String> {
        canonical_tcp(&TcpAddress::new(host, 7)).map(|address| address.host)
    }

    #[test]
    fn one_host_has_one_spelling() {
        for (given, kept) in [
            ("10.0.0.1", "10.0.0.1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("2001:DB8:0:0::1", "2001:db8::1"),
            ("Box.Example.", "box.example"),
            ("fe80::1%eth0", "fe80::1%eth0"),
        ] {
            assert_eq!(spelled(given).as_deref(), Some(kept));
        }
    }

    #[test]
    fn what_leads_nowhere_is_not_dialled() {
        for bad in [
            "0.0.0.0",
            "0",
            "127.1",
            "0x7f000001",
            "a.0x1",
            "1.2.3.4.5",
            "::",
            "::ffff:0.0.0.0",
            "224.0.0.251",
            "ff02::fb",
            "255.255.255.255",
            "fe80::1",
            "2001:db8::1%eth0",
            "fe80::1%",
            "fe80::1%a b",
            "",
            ".",
            "a b",
            "a/b",
        ] {
            assert_eq!(spelled(bad), None, "{bad}");
        }
        assert_eq!(canonical(&Address::new("10.0.0.1", 0)), None);
    }

    #[test]
    fn addresses_are_sent_where_meaningful() {
        let told = |host: &str, viewer: &str| {
            is_of_use_to(
                &canonical(&Address::new(host, 7)).unwrap(),
                scope_of_ip(viewer.parse().unwrap()),
            )
        };
        assert!(told("127.0.0.1", "::1"));
        assert!(!told("127.0.0.1", "10.0.0.1"));
        assert!(!told("localhost", "10.0.0.1"));
        assert!(told("169.254.0.1", "169.254.0.2"));
        assert!(!told("169.254.0.1", "10.0.0.1"));
        assert!(told("10.0.0.1", "fe80::2"));
        assert!(!told("fe80::1%eth0", "fe80::2"));
        assert!(!told("fe80::1%eth0", "127.0.0.1"));
    }
}
