//! `tinyp2p.hello`: two members exchange who they are and which members they know.

use sha2::{Digest, Sha256};

use super::fields::{Fields, Refusal, array, bytes, members, text};
use super::limits::MAX_CALL_BYTES;
use crate::model::text::drives_terminal;
use crate::model::{Address, PeerId, ReachAddress, TcpAddress};
use crate::protocol::xmlrpc::Value;

pub(super) const NAME: &str = "tinyp2p.hello";

pub(super) const HELP: &str = "\
struct tinyp2p.hello(struct)
Two members tell each other who they are and whom they know. Parameter and result have the same
members: protocol (int), id (string, 52 characters of base32), name (string, 1 to 64 bytes),
addresses (array of strings, at max 16), perhaps reach (array of strings, at max 4), port (int, 0 if
the sender cannot be dialled), members (array of structs of id, name, addresses and perhaps reach,
at max 1024), perhaps digest (base64 of 16 bytes, over the ids of the sender and its contacts) and,
in a call, known (base64 of the first 8 bytes of each of these ids): the result then has the members
that are not among them.";

/// How one member is described to another. Addresses spread this way, trust never does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberRecord {
    /// The member's identity.
    pub id: PeerId,
    /// The name that the member chose; see [`MemberRecord::is_name`].
    pub name: String,
    /// Where it can be dialled, best first: by TCP at [`MemberRecord::MAX_ADDRESSES`] places at
    /// most, and through NATs at [`MemberRecord::MAX_REACH`].
    pub addresses: Vec<Address>,
}

impl MemberRecord {
    /// The most addresses; more would say nothing about a host.
    pub const MAX_ADDRESSES: usize = 16;
    /// The most bytes in a name; longer ones are refused.
    pub const MAX_NAME_BYTES: usize = 64;

    /// Returns true if a member may use this name. Names are printed on terminals and are
    /// directories in the mount, so they are 1 to 64 bytes of UTF-8 without `/`, without characters
    /// that control a screen or are invisible on it, and not `.` or `..`.
    pub fn is_name(name: &str) -> bool {
        (1..=Self::MAX_NAME_BYTES).contains(&name.len())
            && !name.contains(|c| c == '/' || drives_terminal(c))
            && name != "."
            && name != ".."
    }

    /// The most addresses behind NATs.
    pub const MAX_REACH: usize = 4;

    fn members(&self) -> impl Iterator<Item = (&'static str, Value)> {
        let tcp = self.addresses.iter().filter_map(Address::as_tcp);
        let tcp = tcp.map(|a| Value::String(a.to_string()));
        let reach = self.addresses.iter().filter_map(Address::as_reach);
        let reach = reach.map(|a| Value::String(a.encode()));
        let reach: Vec<_> = reach.take(Self::MAX_REACH).collect();
        let reach = (!reach.is_empty()).then_some(("reach", Value::Array(reach)));
        let always = [
            ("id", Value::String(self.id.to_string())),
            ("name", Value::String(self.name.clone())),
            (
                "addresses",
                Value::Array(tcp.take(Self::MAX_ADDRESSES).collect()),
            ),
        ];
        always.into_iter().chain(reach)
    }

    fn take(fields: &mut Fields) -> Result<Self, Refusal> {
        let id = fields.text("id")?.parse()?;
        let name = fields.text("name")?;
        if !Self::is_name(&name) {
            return Err(Refusal::invalid(
                "a member's name must have 1 to 64 bytes, no '/' and no control or invisible characters",
            ));
        }
        let tcp = fields.array("addresses", Self::MAX_ADDRESSES)?;
        let tcp = tcp.into_iter().map(|address| {
            let address: TcpAddress = text(address, "addresses")?.parse()?;
            Ok(address.into())
        });
        let reach = fields.optional("reach");
        let reach = reach.map(|reach| array(reach, "reach", Self::MAX_REACH));
        let reach = reach.transpose()?.into_iter().flatten().map(|address| {
            let address = ReachAddress::decode(&text(address, "reach")?)?;
            Ok(address.into())
        });
        let addresses = tcp.chain(reach).collect::<Result<_, Refusal>>()?;
        Ok(Self {
            id,
            name,
            addresses,
        })
    }

    /// Returns an upper bound for the bytes of this record in a message: six for each byte that may
    /// need escaping, and the tags.
    fn weight(&self) -> usize {
        let addresses = self.addresses.iter().map(|address| match address {
            Address::Tcp(address) => 64 + address.host.len(),
            Address::Reach(address) => 64 + address.encode().len(),
        });
        512 + 6 * self.name.len() + addresses.sum::<usize>()
    }
}

/// A digest of a set of ids: the first half of the SHA-256 of all of them, ascending. Two members
/// with the same digest have nobody to tell each other of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ContactDigest([u8; 16]);

impl ContactDigest {
    /// Returns the digest of `ids`, which must ascend.
    pub fn of<'a>(ids: impl IntoIterator<Item = &'a PeerId>) -> Self {
        let mut hasher = Sha256::new();
        ids.into_iter().for_each(|id| hasher.update(id.as_bytes()));
        let whole: [u8; 32] = hasher.finalize().into();
        Self(*whole.first_chunk().unwrap_or(&[0; 16]))
    }
}

/// The first bytes of an id. They tell apart those that chance produced: whoever makes an id that
/// begins like another's keeps that member's address from those who know the first, nothing else.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IdPrefix([u8; 8]);

impl IdPrefix {
    /// Returns the prefix of `id`.
    pub fn of(id: PeerId) -> Self {
        Self(*id.as_bytes().first_chunk().unwrap_or(&[0; 8]))
    }
}

/// Both the request and the response of `tinyp2p.hello`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The highest protocol version that the sender speaks; never below [`Hello::PROTOCOL`].
    pub protocol: u32,
    /// The sender. In a request, an empty address list means "dial the address you see me at,
    /// with this port"; see `port`.
    pub sender: MemberRecord,
    /// The TCP port that the sender listens on; 0 when it cannot be dialled (`get`, `search`).
    pub port: u16,
    /// Members that the sender has been in contact with; at most [`Hello::MAX_MEMBERS`]. In a
    /// response, those that the request asks for; in a request, those that came lately.
    pub members: Vec<MemberRecord>,
    /// The digest of the sender and all that it is in contact with. A request without one asks for
    /// all members.
    pub digest: Option<ContactDigest>,
    /// Only in a request: the ids in the digest, ascending, at most [`Hello::MAX_KNOWN`]. It asks
    /// for all other members.
    pub known: Option<Vec<IdPrefix>>,
}

impl Hello {
    /// The protocol version of this program.
    pub const PROTOCOL: u32 = 2;
    /// The most members that one message describes.
    pub const MAX_MEMBERS: usize = 1024;
    /// The most ids that one message names as known: all members and the sender.
    pub const MAX_KNOWN: usize = Self::MAX_MEMBERS + 1;

    /// Creates the struct that is both parameter and result. Members that would make a call larger
    /// than [`MAX_CALL_BYTES`] are left out: each hello goes to one member of many, and others
    /// report the members that were cut.
    pub(super) fn to_value(&self) -> Value {
        let known = self.known.iter().flatten().take(Self::MAX_KNOWN);
        let known: Option<Vec<u8>> = self
            .known
            .is_some()
            .then(|| known.flat_map(|prefix| prefix.0).collect());
        let taken = 2 * (self.sender.weight() + known.as_ref().map_or(0, Vec::len));
        let mut room = MAX_CALL_BYTES.saturating_sub(taken);
        let fits = |member: &&MemberRecord| match room.checked_sub(member.weight()) {
            Some(rest) => {
                room = rest;
                true
            }
            None => false,
        };
        let records = self.members.iter().take(Self::MAX_MEMBERS);
        let records = records.take_while(fits).map(|m| members(m.members()));
        let digest = self.digest.map(|digest| digest.0.to_vec());
        let optional = [("digest", digest), ("known", known)].into_iter();
        let optional = optional.filter_map(|(name, bytes)| Some((name, Value::Bytes(bytes?))));
        let required = [
            ("protocol", Value::Int(self.protocol.into())),
            ("port", Value::Int(self.port.into())),
            ("members", Value::Array(records.collect())),
        ];
        members(self.sender.members().chain(required).chain(optional))
    }

    /// Reads the struct. The version is checked first: the rest of an older one may differ.
    pub(super) fn from_fields(mut fields: Fields) -> Result<Self, Refusal> {
        let protocol = fields.integer("protocol")?;
        if protocol < Self::PROTOCOL {
            return Err(Refusal::UnsupportedVersion);
        }
        let members = fields.required("members")?;
        let digest = fields.optional("digest").map(|digest| {
            let digest = bytes(digest, "digest")?.try_into();
            let digest = digest.map_err(|_| Refusal::invalid("'digest' must have 16 bytes"));
            digest.map(ContactDigest)
        });
        let known = fields.optional("known").map(prefixes);
        Ok(Self {
            protocol,
            digest: digest.transpose()?,
            known: known.transpose()?,
            sender: MemberRecord::take(&mut fields)?,
            port: fields.integer("port")?,
            members: array(members, "members", Self::MAX_MEMBERS)?
                .into_iter()
                .map(|member| MemberRecord::take(&mut Fields::of(member)?))
                .collect::<Result<_, Refusal>>()?,
        })
    }
}

/// Takes the `known` ids apart.
fn prefixes(value: Value) -> Result<Vec<IdPrefix>, Refusal> {
    let bytes = bytes(value, "known")?;
    let (prefixes, rest) = bytes.as_chunks();
    if !rest.is_empty() {
        return Err(Refusal::invalid("'known' must have 8 bytes for each id"));
    }
    if prefixes.len() > Hello::MAX_KNOWN {
        return Err(Refusal::too_much(Hello::MAX_KNOWN, "known ids"));
    }
    Ok(prefixes.iter().copied().map(IdPrefix).collect())
}

#[cfg(test)]
mod name_tests {
    use super::*;
    use crate::model::text::HOSTILE;

    #[test]
    fn names_hold_no_terminal_controls() {
        assert!(MemberRecord::is_name("Anna's bo\u{e4}t \u{1f600}"));
        for c in HOSTILE.into_iter().chain(['/']) {
            let name = format!("a{c}b");
            assert!(!MemberRecord::is_name(&name), "{:?}", c.escape_unicode());
        }
    }
}
