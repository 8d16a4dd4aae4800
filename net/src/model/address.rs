//! Where a node can be dialled.

use std::fmt;

use super::tcp_address::TcpAddress;
use super::ticket::ReachAddress;

/// Where a node can be dialled.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// At a TCP port.
    Tcp(TcpAddress),
    /// At an endpoint behind NATs.
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
