//! Where a node can be dialled, as people write it and as it is shown.

use std::fmt;
use std::str::FromStr;

use super::Invalid;
use super::id::PeerId;
use super::relay::RelayAccess;
use super::ticket::{ReachAddress, Ticket};

/// The default port of a node (the digits recall 15 lines, 2004).
pub const DEFAULT_PORT: u16 = 15204;

/// Where a node can be dialled.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// By TCP.
    Tcp(TcpAddress),
    /// Through NATs.
    Reach(ReachAddress),
}

impl Address {
    /// Creates the address of a TCP port.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self::Tcp(TcpAddress::new(host, port))
    }

    /// Returns the host and port, if it has any.
    pub fn as_tcp(&self) -> Option<&TcpAddress> {
        match self {
            Self::Tcp(address) => Some(address),
            Self::Reach(_) => None,
        }
    }

    /// Returns the endpoint and its relays, if it has any.
    pub fn as_reach(&self) -> Option<&ReachAddress> {
        match self {
            Self::Tcp(_) => None,
            Self::Reach(address) => Some(address),
        }
    }
}

impl From<TcpAddress> for Address {
    fn from(address: TcpAddress) -> Self {
        Self::Tcp(address)
    }
}

impl From<ReachAddress> for Address {
    fn from(address: ReachAddress) -> Self {
        Self::Reach(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Reach(address) => address.fmt(f),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A host name or IP literal, and a TCP port.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TcpAddress {
    /// Host name or IP address; an IPv6 address without its brackets.
    pub host: String,
    /// The TCP port; never 0.
    pub port: u16,
}

impl TcpAddress {
    /// Creates an address from its parts.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
        }
    }
}

impl fmt::Display for TcpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for TcpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for TcpAddress {
    type Err = Invalid;

    /// Parses `host`, `host:port`, `v4`, `v4:port`, `v6`, `[v6]` or `[v6]:port`.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = || Invalid::Address(text.escape_default().to_string());
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or_else(invalid)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| invalid())?;
            (
                host,
                if rest.is_empty() {
                    None
                } else {
                    Some(rest.strip_prefix(':').ok_or_else(invalid)?)
                },
            )
        } else if text.parse::<std::net::Ipv6Addr>().is_ok() {
            (text, None)
        } else {
            match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        let port = match port {
            Some(digits) => digits
                .parse()
                .ok()
                .filter(|port| *port != 0)
                .ok_or_else(invalid)?,
            None => DEFAULT_PORT,
        };
        let sound = !host.is_empty()
            && host.len() <= 253
            && host
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':'));
        if !sound {
            return Err(invalid());
        }
        Ok(Self::new(host, port))
    }
}

/// A PEER argument: an address, and the only identity accepted there if one was named.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerArgument {
    /// Where to dial.
    pub address: Address,
    /// `#PEER-ID`, or the one in a ticket: a node that answers with another key is refused.
    pub expected: Option<PeerId>,
    /// The relays of a ticket, and what they ask for.
    pub relays: Vec<RelayAccess>,
}

impl FromStr for PeerArgument {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if Ticket::is_meant_by(text) {
            let ticket: Ticket = text.parse()?;
            return Ok(Self {
                address: ticket.address().into(),
                expected: Some(ticket.peer),
                relays: ticket.relays,
            });
        }
        let invalid = || Invalid::Address(text.escape_default().to_string());
        let rest = text.strip_prefix("https://").unwrap_or(text);
        let (rest, expected) = match rest.split_once('#') {
            Some((rest, id)) => (rest, Some(id.parse()?)),
            None => (rest, None),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let address: TcpAddress = rest.parse().map_err(|_| invalid())?;
        Ok(Self {
            address: address.into(),
            expected,
            relays: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_argument_takes_any_documented_form() {
        let parse = |text: &str| text.parse::<PeerArgument>().map(|p| p.address.to_string());
        assert_eq!(parse("box").unwrap(), "box:15204");
        assert_eq!(parse("box:7").unwrap(), "box:7");
        assert_eq!(parse("https://10.0.0.1:7").unwrap(), "10.0.0.1:7");
        assert_eq!(parse("[::1]:7").unwrap(), "[::1]:7");
        assert_eq!(parse("fe80::1").unwrap(), "[fe80::1]:15204");
        let id = PeerId::from_bytes([7; 32]);
        let pinned: PeerArgument = format!("https://box:7#{id}").parse().unwrap();
        assert_eq!(pinned.expected, Some(id));
        for bad in [
            "",
            "a b",
            "box:0",
            "box:99999",
            "http://box:7",
            "box:7#zz",
            "[::1",
            "ftp://x",
            "a/b",
            "user@box",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
