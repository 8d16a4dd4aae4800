//! The address of a TCP port, as people write it and as it is shown.

use std::fmt;
use std::str::FromStr;

use super::Invalid;

/// The default port of a node (the digits recall 15 lines, 2004).
pub const DEFAULT_PORT: u16 = 15204;

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
