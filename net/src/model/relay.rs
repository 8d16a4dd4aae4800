//! Relays: servers on the internet by which members behind NATs find each other.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;

use super::Invalid;
use super::tcp_address::TcpAddress;

/// The port of a relay that names none: that of HTTPS.
const HTTPS: u16 = 443;

/// The UDP port at which a relay tells a node its public address, if it names none.
pub const ADDRESS_DISCOVERY_PORT: u16 = 7842;

/// A relay, as far as everybody may know it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Relay {
    /// The public relays of the iroh project, all of them.
    N0,
    /// One that somebody runs.
    Own(OwnRelay),
}

/// A relay that somebody runs.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct OwnRelay {
    /// Where it serves TLS.
    pub address: TcpAddress,
    /// The UDP port at which it tells a node its public address.
    pub discovery: u16,
    /// The SHA-256 of its certificate, if that is one that nobody vouches for.
    pub certificate: Option<[u8; 32]>,
}

impl Relay {
    /// Returns the name of its operator for people: a host, or `n0`.
    pub fn host(&self) -> &str {
        match self {
            Self::N0 => "n0",
            Self::Own(relay) => &relay.address.host,
        }
    }
}

/// A relay, and the token with which it admits its users.
#[derive(Clone, PartialEq, Eq)]
pub struct RelayAccess {
    /// The relay that is meant.
    pub relay: Relay,
    /// Its token, if it asks for one: 1 to [`RelayAccess::MAX_TOKEN_BYTES`] letters, digits and
    /// any of `-._~`.
    pub token: Option<String>,
}

impl RelayAccess {
    /// The most bytes of a token.
    pub const MAX_TOKEN_BYTES: usize = 128;

    /// Returns true for the token of a relay.
    pub(super) fn is_token(text: &str) -> bool {
        let is_part = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
        (1..=Self::MAX_TOKEN_BYTES).contains(&text.len()) && text.bytes().all(is_part)
    }
}

impl fmt::Debug for RelayAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the token, which opens the relay.
        self.relay.fmt(f)
    }
}

impl FromStr for RelayAccess {
    type Err = Invalid;

    /// Parses `n0`, or `https://HOST[:PORT]/` with `#` and any of `token=TOKEN`, `sha256=DIGITS`
    /// and `quic=PORT` after it, joined by `&`.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text == "n0" {
            return Ok(Self {
                relay: Relay::N0,
                token: None,
            });
        }
        let invalid = || Invalid::Relay(text.escape_default().to_string());
        let rest = text.strip_prefix("https://").ok_or_else(invalid)?;
        let (place, facts) = rest.split_once('#').unwrap_or((rest, ""));
        let mut relay = OwnRelay {
            address: place_of(place.strip_suffix('/').unwrap_or(place)).ok_or_else(invalid)?,
            discovery: ADDRESS_DISCOVERY_PORT,
            certificate: None,
        };
        let mut token = None;
        for fact in facts.split('&').filter(|fact| !fact.is_empty()) {
            match fact.split_once('=') {
                Some(("token", value)) if Self::is_token(value) => token = Some(value.to_owned()),
                Some(("sha256", digits)) => {
                    let digits = digits.to_ascii_lowercase();
                    let digest = HEXLOWER.decode(digits.as_bytes()).ok();
                    let digest = digest.and_then(|digest| digest.try_into().ok());
                    relay.certificate = Some(digest.ok_or_else(invalid)?);
                }
                Some(("quic", port)) => {
                    let port = port.parse().ok().filter(|port| *port != 0);
                    relay.discovery = port.ok_or_else(invalid)?;
                }
                _ => return Err(invalid()),
            }
        }
        Ok(Self {
            relay: Relay::Own(relay),
            token,
        })
    }
}

/// Parses the host and port of a URL.
pub(super) fn place_of(text: &str) -> Option<TcpAddress> {
    let is_bare = !text.starts_with('[') && !text.contains(':');
    let is_bare = is_bare || text.ends_with(']');
    let mut address: TcpAddress = if is_bare {
        format!("{text}:{HTTPS}").parse().ok()?
    } else {
        text.parse().ok()?
    };
    address.host = address.host.to_ascii_lowercase();
    Some(address)
}

impl fmt::Display for OwnRelay {
    /// Writes its URL, without what it asks for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TcpAddress { host, port } = &self.address;
        match (host.contains(':'), *port) {
            (true, HTTPS) => write!(f, "https://[{host}]/"),
            (false, HTTPS) => write!(f, "https://{host}/"),
            _ => write!(f, "https://{}/", self.address),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<RelayAccess, Invalid> {
        text.parse()
    }

    #[test]
    fn relay_is_a_url_with_what_it_asks_for() {
        let digits = "0f".repeat(32);
        let text = format!("https://203.0.113.5:8443/#token=abc~1&sha256={digits}&quic=7000");
        let access = parse(&text).unwrap();
        let Relay::Own(relay) = &access.relay else {
            panic!("not n0");
        };
        assert_eq!(relay.to_string(), "https://203.0.113.5:8443/");
        assert_eq!((relay.discovery, relay.certificate), (7000, Some([15; 32])));
        assert_eq!(access.token.as_deref(), Some("abc~1"));
        assert!(!format!("{access:?}").contains("abc~1"));
    }

    #[test]
    fn port_of_a_relay_is_that_of_https() {
        for (text, url) in [
            ("https://Relay.Example", "https://relay.example/"),
            ("https://relay.example:443/", "https://relay.example/"),
            ("https://[2001:db8::1]/", "https://[2001:db8::1]/"),
            ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443/"),
        ] {
            let Relay::Own(relay) = parse(text).unwrap().relay else {
                panic!("not n0");
            };
            assert_eq!(relay.to_string(), url);
        }
        assert_eq!(parse("n0").unwrap().relay, Relay::N0);
    }

    #[test]
    fn what_is_no_relay_is_refused() {
        for bad in [
            "",
            "n1",
            "http://relay.example/",
            "https://",
            "https:///",
            "https://a b/",
            "https://relay.example/path",
            "https://relay.example:0/",
            "https://relay.example/#token=",
            "https://relay.example/#token=a b",
            "https://relay.example/#sha256=00",
            "https://relay.example/#quic=0",
            "https://relay.example/#color=red",
            "https://user@relay.example/",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
