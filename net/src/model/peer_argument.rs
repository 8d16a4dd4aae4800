//! A member to begin with, as people name it on the command line.

use std::str::FromStr;

use super::Invalid;
use super::address::Address;
use super::id::PeerId;
use super::relay::RelayAccess;
use super::tcp_address::TcpAddress;
use super::ticket::Ticket;

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
