//! The vocabulary of the network: identities, names, paths, versions, ranges.
//!
//! Every value is parsed once, where it enters (a wire message, a command line, a directory entry),
//! and is valid from then on: code that holds a [`RelPath`] never checks again whether it contains
//! `..`. None of these types does IO or knows the time.

mod address;
mod attributes;
mod call_source;
pub mod fault;
mod id;
mod path;
mod peer_argument;
mod relay;
mod tcp_address;
pub mod text;
mod ticket;
mod time;

pub use address::Address;
pub use attributes::{Attributes, ByteRange, Entry, FileSize, Kind, Mode};
pub use call_source::CallSource;
pub use id::{ContentId, PeerId, Root, Version};
pub use path::{MAX_NAME_BYTES, MAX_PATH_BYTES, Name, RelPath};
pub use peer_argument::PeerArgument;
pub use relay::{ADDRESS_DISCOVERY_PORT, OwnRelay, Relay, RelayAccess};
pub use tcp_address::{DEFAULT_PORT, TcpAddress};
pub use text::escaped;
pub use ticket::{EndpointKey, MAX_DIRECT, MAX_RELAYS, ReachAddress, Ticket};
pub use time::UnixTime;

/// Why an input is not a value of one of these types.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A path component that no file can have: empty, `.`, `..`, with `/` or NUL, or too long.
    #[error(
        "a file name must have 1 to {MAX_NAME_BYTES} bytes, no '/' and no NUL, and not be '.' or '..'"
    )]
    Name,
    /// A path of more than [`MAX_PATH_BYTES`].
    #[error("a path must not exceed {MAX_PATH_BYTES} bytes")]
    PathTooLong,
    /// Not 52 characters of base32.
    #[error("a peer id has 52 characters of base32")]
    PeerId,
    /// Not 64 hexadecimal digits, or not 32 bytes.
    #[error("a content root has 64 hexadecimal digits")]
    Root,
    /// Not `host`, `host:port` or `https://host:port[#PEER-ID]`.
    #[error("'{0}' is not a peer address: use host, host:port or https://host:port[#PEER-ID]")]
    Address(String),
    /// Not `n0` or `https://HOST[:PORT]/` with what the relay asks for after `#`.
    #[error(
        "'{0}' is not a relay: use n0, or the URL that scripts/relay prints (https://HOST[:PORT]/#...)"
    )]
    Relay(String),
    /// Not what `tinyp2p invite` prints, or not all of it.
    #[error("not a whole ticket: copy all that 'tinyp2p invite' prints, from 'tinyp2p:' on")]
    Ticket,
    /// Not an endpoint and its relays, as members tell each other.
    #[error("not an address of a member behind NATs")]
    Reach,
}
