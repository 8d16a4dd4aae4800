//! `tinyp2p.hello`: two members exchange who they are and which members they know.

use super::fields::{Fields, Refusal, array, structure, text};
use super::limits::MAX_CALL_BYTES;
use crate::model::text::drives_terminal;
use crate::model::{Address, PeerId};
use crate::protocol::xmlrpc::Value;

pub(super) const NAME: &str = "tinyp2p.hello";

pub(super) const HELP: &str = "\
struct tinyp2p.hello(struct)
Two members tell each other who they are and whom they know. Parameter and result have the same
members: protocol (int), id (string, 52 characters of base32), name (string, 1 to 64 bytes),
addresses (array of strings, at max 16), port (int, 0 if the sender cannot be dialled), members
(array of structs of id, name and addresses, at max 1024).";

/// How one member is described to another. Addresses spread this way, trust never does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberRecord {
    /// The member's identity.
    pub id: PeerId,
    /// The name that the member chose; see [`MemberRecord::is_name`].
    pub name: String,
    /// Where it can be dialled, best first; at most [`MemberRecord::MAX_ADDRESSES`].
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

    fn members(&self) -> [(&'static str, Value); 3] {
        let addresses = self.addresses.iter().take(Self::MAX_ADDRESSES);
        [
            ("id", Value::String(self.id.to_string())),
            ("name", Value::String(self.name.clone())),
            (
                "addresses",
                Value::Array(addresses.map(|a| Value::String(a.to_string())).collect()),
            ),
        ]
    }

    fn take(fields: &mut Fields) -> Result<Self, Refusal> {
        let id = fields.text("id")?.parse()?;
        let name = fields.text("name")?;
        if !Self::is_name(&name) {
            return Err(Refusal::invalid(
                "a member's name must have 1 to 64 bytes, no '/' and no control or invisible characters",
            ));
        }
        let addresses = fields
            .array("addresses", Self::MAX_ADDRESSES)?
            .into_iter()
            .map(|address| Ok(text(address, "addresses")?.parse()?))
            .collect::<Result<_, Refusal>>()?;
        Ok(Self {
            id,
            name,
            addresses,
        })
    }

    /// Returns an upper bound for the bytes of this record in a message: six for each byte that may
    /// need escaping, and the tags.
    fn weight(&self) -> usize {
        let addresses = self.addresses.iter().take(Self::MAX_ADDRESSES);
        let addresses: usize = addresses.map(|a| 64 + a.host.len()).sum();
        512 + 6 * self.name.len() + addresses
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
    /// The members that the sender has been in contact with; at most [`Hello::MAX_MEMBERS`].
    pub members: Vec<MemberRecord>,
}

impl Hello {
    /// The protocol version of this program.
    pub const PROTOCOL: u32 = 2;
    /// The most members that one message describes.
    pub const MAX_MEMBERS: usize = 1024;

    /// Creates the struct that is both parameter and result. Members that would make a call larger
    /// than [`MAX_CALL_BYTES`] are left out: each hello goes to one member of many, and others
    /// report the members that were cut.
    pub(super) fn to_value(&self) -> Value {
        let mut room = MAX_CALL_BYTES.saturating_sub(2 * self.sender.weight());
        let fits = |member: &&MemberRecord| match room.checked_sub(member.weight()) {
            Some(rest) => {
                room = rest;
                true
            }
            None => false,
        };
        let members = self.members.iter().take(Self::MAX_MEMBERS);
        let members = members.take_while(fits).map(|m| structure(m.members()));
        let [id, name, addresses] = self.sender.members();
        structure([
            ("protocol", Value::Int(self.protocol.into())),
            id,
            name,
            addresses,
            ("port", Value::Int(self.port.into())),
            ("members", Value::Array(members.collect())),
        ])
    }

    /// Reads the struct. The version is checked first: the rest of an older one may differ.
    pub(super) fn from_fields(mut fields: Fields) -> Result<Self, Refusal> {
        let protocol = fields.integer("protocol")?;
        if protocol < Self::PROTOCOL {
            return Err(Refusal::UnsupportedVersion);
        }
        let members = fields.required("members")?;
        Ok(Self {
            protocol,
            sender: MemberRecord::take(&mut fields)?,
            port: fields.integer("port")?,
            members: array(members, "members", Self::MAX_MEMBERS)?
                .into_iter()
                .map(|member| MemberRecord::take(&mut Fields::of(member)?))
                .collect::<Result<_, Refusal>>()?,
        })
    }
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
