//! Every number that several parts agree on, with its reason, and the settings of single parts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::model::Address;

/// A lookup or listing ends within this time, with the answers so far.
pub const CALL_DEADLINE: Duration = Duration::from_secs(3);

/// A read fails when no source has sent a byte for this long.
pub const READ_DEADLINE: Duration = Duration::from_secs(15);

/// TCP and TLS together must be established within this time.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(3);

/// The same through NATs: the relay may be on the other side of the world, and it takes part in
/// several round trips.
pub const REACH_DEADLINE: Duration = Duration::from_secs(10);

/// Returns the time for connecting to `address`.
pub fn connect_deadline(address: &Address) -> Duration {
    match address {
        Address::Tcp(_) => CONNECT_DEADLINE,
        Address::Reach(_) => REACH_DEADLINE,
    }
}

/// The memory that windows share unless the user sets another limit.
pub const DEFAULT_MEMORY: u64 = 128 << 20;

/// An answer that a member watches stays valid for this long, unless the member reports a change
/// first (PROTOCOL.md, section 5.5).
pub const PROMISE: Duration = Duration::from_secs(60);

/// A client closes its last idle connection to a member after this time; less than [`SERVER_IDLE`],
/// so that it seldom meets a connection that the server is just closing. Two hellos in one
/// direction are never further apart.
pub const CLIENT_IDLE: Duration = Duration::from_secs(300);

/// A client closes idle connections beside the last one after this time.
pub const CLIENT_SURPLUS_IDLE: Duration = Duration::from_secs(20);

/// A server closes an idle connection after this time.
pub const SERVER_IDLE: Duration = Duration::from_secs(360);

/// Where and how much a node keeps of the bytes it has read.
#[derive(Debug, Clone)]
pub struct CacheConfig {
    /// The directory; created if need be. Only a subdirectory of our own is touched in it.
    pub directory: PathBuf,
    /// Maximum number of bytes on disk.
    pub size: u64,
    /// Supply what is cached to members that ask for it by its content root.
    pub reshare: bool,
}

/// What a node serves.
#[derive(Debug, Clone)]
pub struct ShareConfig {
    /// The directory as given by the user: what is served is whatever this path leads to at the
    /// time of a request.
    pub directory: PathBuf,
    /// Serve names that begin with a dot.
    pub hidden: bool,
    /// Files and directories that are never served, with everything below them: the mountpoint, the
    /// node's key. Absolute, without symbolic links.
    pub excluded: Vec<PathBuf>,
}

/// Where a node listens.
#[derive(Debug, Clone)]
pub enum Listen {
    /// `[::]:15204`, or any free port if that one is taken.
    Default,
    /// Exactly this address; an address in use is an error. Port 0 takes a free one.
    At(SocketAddr),
    /// Not at all: a node that only asks (`get`, `search`).
    Nowhere,
}
