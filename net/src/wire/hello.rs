//! `tinyp2p.hello`: two members tell each other who they are and whom they know.

use crate::types::{Address, PeerId};

/// How one member is described to another. Addresses spread this way, trust never does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberRecord {
    /// The member's identity.
    pub id: PeerId,
    /// The name that it gave itself; 1 to 64 bytes of UTF-8 without control characters or `/`.
    pub name: String,
    /// Where it can be dialled, best first; at most [`MemberRecord::MAX_ADDRESSES`].
    pub addresses: Vec<Address>,
}

impl MemberRecord {
    /// More addresses than this say nothing about a host.
    pub const MAX_ADDRESSES: usize = 16;
}

/// Both the request and the response of `tinyp2p.hello`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The protocol version that the sender speaks: [`Hello::PROTOCOL`].
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
    /// The version spoken by this program.
    pub const PROTOCOL: u32 = 2;
    /// The largest network that one message describes.
    pub const MAX_MEMBERS: usize = 1024;
}
