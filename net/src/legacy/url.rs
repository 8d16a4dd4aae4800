//! The URL of a server of 2004: its name in the network, its address, and the basis of its tokens.
//!
//! Two spellings of one address are two servers, as the token of one is not that of the other. So
//! the text is kept as it was received.

use std::fmt;
use std::str::FromStr;

use crate::model::Address;

/// Longer URLs are not accepted, so that a list of them is bounded.
pub const MAX_URL_BYTES: usize = 255;

const SCHEME: &str = "http://";

/// `http://HOST:PORT`, with nothing after it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Url {
    text: Box<str>,
    port: u16,
}

/// Why a text is not the URL of a server of 2004.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not http://HOST:PORT, as servers of 2004 are named")]
pub struct InvalidUrl;

impl Url {
    /// Creates the URL of a server at `host`, which is a name or an address; IPv6 without brackets.
    ///
    /// # Errors
    /// The host contains characters that no host has, or is too long; or the port is 0.
    pub fn new(host: &str, port: u16) -> Result<Self, InvalidUrl> {
        if host.contains(':') {
            format!("{SCHEME}[{host}]:{port}").parse()
        } else {
            format!("{SCHEME}{host}:{port}").parse()
        }
    }

    /// Returns the text as it was received.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the host, IPv6 without brackets.
    pub fn host(&self) -> &str {
        let host = &self.text[SCHEME.len()..];
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Returns the port.
    #[cfg(test)]
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Returns the address to dial.
    pub fn address(&self) -> Address {
        Address::new(self.host(), self.port)
    }
}

impl FromStr for Url {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        let place = text.strip_prefix(SCHEME).ok_or(InvalidUrl)?;
        let (host, port) = place.rsplit_once(':').ok_or(InvalidUrl)?;
        let is_host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
                !host.is_empty() && host.bytes().all(fits)
            }
        };
        let is_plain = port.bytes().all(|b| b.is_ascii_digit()) && !port.starts_with('0');
        match port.parse() {
            Ok(port) if is_host && is_plain && text.len() <= MAX_URL_BYTES => Ok(Self {
                text: text.into(),
                port,
            }),
            _ => Err(InvalidUrl),
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_is_kept_verbatim_and_dialable() {
        for (text, host, port) in [
            ("http://box:8080", "box", 8080),
            ("http://Box.Example.org:1", "Box.Example.org", 1),
            ("http://10.0.0.1:65535", "10.0.0.1", 65535),
            ("http://[2001:db8::1]:80", "2001:db8::1", 80),
        ] {
            let url: Url = text.parse().unwrap();
            assert_eq!((url.as_str(), url.host(), url.port()), (text, host, port));
            assert_eq!(Url::new(host, port), Ok(url));
        }
    }

    #[test]
    fn ambiguous_urls_are_refused() {
        for bad in [
            "",
            "http://",
            "http://box",
            "http://box:",
            "http://box:0",
            "http://box:080",
            "http://box:+80",
            "http://box:65536",
            "http://:80",
            "http://box:80/",
            "http://box:80/x",
            "http://u@box:80",
            "http://box:80#x",
            "http://b ox:80",
            "http://box\n:80",
            "http://b\u{fc}x:80",
            "http://::1:80",
            "http://[box]:80",
            "HTTP://box:80",
            "https://box:80",
            "box:80",
        ] {
            assert!(bad.parse::<Url>().is_err(), "{bad:?}");
        }
        let long = |n| format!("http://{}:80", "x".repeat(n));
        assert!(long(MAX_URL_BYTES - 10).parse::<Url>().is_ok());
        assert!(long(MAX_URL_BYTES - 9).parse::<Url>().is_err());
    }
}
