//! Tickets, and the addresses in them: where a member is that nobody can dial.
//!
//! Both are written as bytes in base32. A ticket also names the member and holds what its relays
//! ask for, so that whoever gets it needs nothing else but the password.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use sha2::{Digest, Sha256};

use super::Invalid;
use super::id::PeerId;
use super::relay::{OwnRelay, Relay, RelayAccess, place_of};

/// What a ticket begins with.
const SCHEME: &str = "tinyp2p:";

/// The first byte of both forms.
const VERSION: u8 = 1;

/// The most relays in one address.
pub const MAX_RELAYS: usize = 4;

/// The most addresses of its own in one.
pub const MAX_DIRECT: usize = 4;

/// The most bytes of an address or a ticket, before base32.
const MAX_BYTES: usize = 2048;

/// How many bytes of the SHA-256 of a ticket follow it, against typing errors.
const CHECK_BYTES: usize = 4;

/// The characters of an endpoint's id that people see.
const SHOWN: usize = 16;

/// The public key by which relays know a node. It is not the key by which members do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointKey([u8; 32]);

impl EndpointKey {
    /// Creates a key from its bytes, which need not be those of a key.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for EndpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = base32(&self.0);
        f.write_str(&text[..SHOWN])
    }
}

impl fmt::Debug for EndpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Where a node can be found through NATs: its endpoint, and the relays that know where that is, or
/// else its own addresses, which age.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReachAddress {
    /// The endpoint's key: nobody else can answer for it.
    pub endpoint: EndpointKey,
    /// The relays; at most [`MAX_RELAYS`].
    pub relays: Vec<Relay>,
    /// UDP addresses of its own, if it has no relay; at most [`MAX_DIRECT`].
    pub direct: Vec<SocketAddr>,
}

impl ReachAddress {
    /// The most characters of its encoded form.
    pub const MAX_TEXT_BYTES: usize = MAX_BYTES.div_ceil(5) * 8;

    /// Returns the form in which members tell each other of it.
    pub fn encode(&self) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend(self.endpoint.0);
        for relay in self.relays.iter().take(MAX_RELAYS) {
            write_relay(&mut bytes, relay, None);
        }
        write_direct(&mut bytes, &self.direct);
        base32(&bytes)
    }

    /// Reads what [`ReachAddress::encode`] wrote.
    ///
    /// # Errors
    /// [`Invalid::Reach`].
    pub fn decode(text: &str) -> Result<Self, Invalid> {
        let read = || {
            let bytes = from_base32(text)?;
            let mut rest = TicketReader(&bytes);
            (rest.byte()? == VERSION).then_some(())?;
            let endpoint = EndpointKey(*rest.array()?);
            let (relays, direct) = rest.places()?;
            let relays = relays.into_iter().map(|access| access.relay).collect();
            Some(Self {
                endpoint,
                relays,
                direct,
            })
        };
        read().ok_or(Invalid::Reach)
    }
}

impl fmt::Display for ReachAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.endpoint)?;
        for (number, relay) in self.relays.iter().enumerate() {
            let joint = if number == 0 { " by " } else { ", " };
            write!(f, "{joint}{}", relay.host())?;
        }
        match self.direct.first() {
            Some(first) => write!(f, " at {first}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for ReachAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// What `tinyp2p invite` prints: everything but the password that a friend's node needs to find
/// this one. It admits nobody.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ticket {
    /// The endpoint of the node.
    pub endpoint: EndpointKey,
    /// The member that answers there.
    pub peer: PeerId,
    /// The relays that know where it is, at most [`MAX_RELAYS`], with their tokens.
    pub relays: Vec<RelayAccess>,
    /// UDP addresses of its own, if it has no relay; at most [`MAX_DIRECT`].
    pub direct: Vec<SocketAddr>,
}

impl Ticket {
    /// Returns true if `text` can only be meant as a ticket.
    pub fn is_meant_by(text: &str) -> bool {
        let scheme = text.as_bytes().get(..SCHEME.len());
        scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME.as_bytes()))
    }

    /// Returns where the node can be found.
    pub fn address(&self) -> ReachAddress {
        ReachAddress {
            endpoint: self.endpoint,
            relays: self.relays.iter().map(|one| one.relay.clone()).collect(),
            direct: self.direct.clone(),
        }
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![VERSION];
        bytes.extend(self.endpoint.0);
        bytes.extend(self.peer.as_bytes());
        for access in self.relays.iter().take(MAX_RELAYS) {
            write_relay(&mut bytes, &access.relay, access.token.as_deref());
        }
        write_direct(&mut bytes, &self.direct);
        bytes.extend(check(&bytes));
        write!(f, "{SCHEME}{}", base32(&bytes))
    }
}

impl FromStr for Ticket {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let read = || {
            let bytes = from_base32(text.get(SCHEME.len()..)?)?;
            let (bytes, sum) = bytes.split_at_checked(bytes.len().checked_sub(CHECK_BYTES)?)?;
            (check(bytes) == sum).then_some(())?;
            let mut rest = TicketReader(bytes);
            (rest.byte()? == VERSION).then_some(())?;
            let endpoint = EndpointKey(*rest.array()?);
            let peer = PeerId::from_bytes(*rest.array()?);
            let (relays, direct) = rest.places()?;
            Some(Self {
                endpoint,
                peer,
                relays,
                direct,
            })
        };
        let ticket = Self::is_meant_by(text).then(read).flatten();
        ticket.ok_or(Invalid::Ticket)
    }
}

fn check(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    *digest.first_chunk().unwrap_or(&[0; CHECK_BYTES])
}

fn base32(bytes: &[u8]) -> String {
    BASE32_NOPAD.encode(bytes).to_ascii_lowercase()
}

/// Decodes `text`, in capitals or not, unless it is too long.
fn from_base32(text: &str) -> Option<Vec<u8>> {
    let is_short = text.len() <= ReachAddress::MAX_TEXT_BYTES;
    is_short.then_some(())?;
    let bytes = BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes());
    bytes.ok().filter(|bytes| bytes.len() <= MAX_BYTES)
}

/// The first byte of a place: the relays of n0, an address, or what there is of
/// a relay that somebody runs.
const IS_V4: u8 = 8;
const IS_V6: u8 = 16;
const IS_N0: u8 = 1;
const HAS_TOKEN: u8 = 2;
const HAS_CERTIFICATE: u8 = 4;

fn write_relay(bytes: &mut Vec<u8>, relay: &Relay, token: Option<&str>) {
    let Relay::Own(own) = relay else {
        bytes.push(IS_N0);
        return;
    };
    let has = |flag, is_there| if is_there { flag } else { 0 };
    bytes.push(has(HAS_TOKEN, token.is_some()) | has(HAS_CERTIFICATE, own.certificate.is_some()));
    write_text(bytes, &own.address.host);
    bytes.extend(own.address.port.to_be_bytes());
    bytes.extend(own.discovery.to_be_bytes());
    bytes.extend(own.certificate.iter().flatten());
    if let Some(token) = token {
        write_text(bytes, token);
    }
}

fn write_direct(bytes: &mut Vec<u8>, direct: &[SocketAddr]) {
    for address in direct.iter().take(MAX_DIRECT) {
        match address {
            SocketAddr::V4(v4) => {
                bytes.push(IS_V4);
                bytes.extend(v4.ip().octets());
            }
            SocketAddr::V6(v6) => {
                bytes.push(IS_V6);
                bytes.extend(v6.ip().octets());
            }
        }
        bytes.extend(address.port().to_be_bytes());
    }
}

/// Writes a host or a token: neither is longer than a byte can say.
fn write_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.push(u8::try_from(text.len()).unwrap_or(0));
    bytes.extend(text.bytes().take(u8::MAX.into()));
}

/// What is left to read.
struct TicketReader<'a>(&'a [u8]);

impl<'a> TicketReader<'a> {
    fn array<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(array)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| *byte)
    }

    fn number(&mut self) -> Option<u16> {
        let number = self.array().map(|bytes| u16::from_be_bytes(*bytes))?;
        (number != 0).then_some(number)
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = self.byte()?;
        let (text, rest) = self.0.split_at_checked(length.into())?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }

    /// Reads all that is left.
    fn places(&mut self) -> Option<(Vec<RelayAccess>, Vec<SocketAddr>)> {
        let (mut relays, mut direct) = (Vec::new(), Vec::new());
        while !self.0.is_empty() {
            let ip: IpAddr = match self.byte()? {
                IS_V4 => (*self.array::<4>()?).into(),
                IS_V6 => (*self.array::<16>()?).into(),
                flags => {
                    relays.push(self.relay(flags)?);
                    continue;
                }
            };
            direct.push(SocketAddr::new(ip, self.number()?));
        }
        (relays.len() <= MAX_RELAYS && direct.len() <= MAX_DIRECT).then_some((relays, direct))
    }

    fn relay(&mut self, flags: u8) -> Option<RelayAccess> {
        if flags == IS_N0 {
            return Some(RelayAccess {
                relay: Relay::N0,
                token: None,
            });
        }
        (flags & !(HAS_TOKEN | HAS_CERTIFICATE) == 0).then_some(())?;
        let host = self.text()?;
        let mut address = place_of(&bracketed(host)).filter(|place| place.host == host)?;
        address.port = self.number()?;
        let discovery = self.number()?;
        let certificate = match flags & HAS_CERTIFICATE {
            0 => None,
            _ => Some(*self.array()?),
        };
        let token = match flags & HAS_TOKEN {
            0 => None,
            _ => Some(self.text().filter(|token| RelayAccess::is_token(token))?),
        };
        Some(RelayAccess {
            relay: Relay::Own(OwnRelay {
                address,
                discovery,
                certificate,
            }),
            token: token.map(str::to_owned),
        })
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn access() -> impl Strategy<Value = RelayAccess> {
        let host = prop_oneof![
            "[a-z0-9]{1,9}[.][a-z]{2,5}",
            "([a-z]{50}[.]){4}[a-z]{49}",
            Just("2001:db8::1".to_owned())
        ];
        let facts = (
            host,
            1..=u16::MAX,
            1..=u16::MAX,
            any::<Option<[u8; 32]>>(),
            proptest::option::of("[a-zA-Z0-9._~-]{1,128}"),
        );
        let own = facts.prop_map(|(host, port, discovery, certificate, token)| RelayAccess {
            relay: Relay::Own(OwnRelay {
                address: crate::model::TcpAddress::new(host, port),
                discovery,
                certificate,
            }),
            token,
        });
        let n0 = Just(RelayAccess {
            relay: Relay::N0,
            token: None,
        });
        prop_oneof![own, n0]
    }

    fn tickets() -> impl Strategy<Value = Ticket> {
        let parts = (
            any::<[u8; 32]>(),
            any::<[u8; 32]>(),
            proptest::collection::vec(access(), 0..=MAX_RELAYS),
            proptest::collection::vec(any::<(IpAddr, u16)>(), 0..=MAX_DIRECT),
        );
        parts.prop_map(|(endpoint, peer, relays, direct)| Ticket {
            endpoint: EndpointKey(endpoint),
            peer: PeerId::from_bytes(peer),
            relays,
            direct: direct
                .into_iter()
                .map(|(ip, port)| SocketAddr::new(ip, port.max(1)))
                .collect(),
        })
    }

    proptest! {
        #[test]
        fn ticket_survives_its_text(ticket in tickets()) {
            let text = ticket.to_string();
            prop_assert_eq!(&text.parse::<Ticket>().unwrap(), &ticket);
            prop_assert_eq!(&text.to_uppercase().parse::<Ticket>().unwrap(), &ticket);
            let address = ticket.address();
            prop_assert_eq!(ReachAddress::decode(&address.encode()).unwrap(), address);
        }

        #[test]
        fn one_wrong_character_is_noticed(ticket in tickets(), at in any::<proptest::sample::Index>()) {
            let mut text = ticket.to_string().into_bytes();
            let at = SCHEME.len() + at.index(text.len() - SCHEME.len());
            text[at] = if text[at] == b'a' { b'b' } else { b'a' };
            let text = String::from_utf8(text).unwrap();
            prop_assert_eq!(text.parse::<Ticket>(), Err(Invalid::Ticket));
        }

        #[test]
        fn nonsense_is_refused_in_peace(text in "(tinyp2p:)?[a-z2-7]{0,200}", bytes: Vec<u8>) {
            let _ = text.parse::<Ticket>();
            let _ = ReachAddress::decode(&base32(&bytes));
            let _ = ReachAddress::decode(&text);
        }
    }

    #[test]
    fn address_in_gossip_has_no_token() {
        let relay: RelayAccess = "https://relay.example/#token=s3cret".parse().unwrap();
        let ticket = Ticket {
            endpoint: EndpointKey([1; 32]),
            peer: PeerId::from_bytes([2; 32]),
            relays: vec![relay],
            direct: Vec::new(),
        };
        let bytes = from_base32(&ticket.address().encode()).unwrap();
        assert!(!bytes.windows(6).any(|six| six == b"s3cret"));
        assert_eq!(
            ticket.address().to_string(),
            "aeaqcaibaeaqcaib by relay.example"
        );
    }

    #[test]
    fn too_much_is_refused_before_it_is_decoded() {
        let long = "a".repeat(ReachAddress::MAX_TEXT_BYTES + 1);
        assert_eq!(ReachAddress::decode(&long), Err(Invalid::Reach));
        let relay = "https://relay.example/"
            .parse::<RelayAccess>()
            .unwrap()
            .relay;
        let mut bytes = vec![VERSION; 33];
        (0..=MAX_RELAYS).for_each(|_| write_relay(&mut bytes, &relay, None));
        assert_eq!(ReachAddress::decode(&base32(&bytes)), Err(Invalid::Reach));
    }
}
