//! The methods of the protocol as types: the requests of members and their responses.
//!
//! One file per method holds its request, its response and both directions of their translation to
//! XML-RPC values. So a method fits on one screen and both sides use the same type. PROTOCOL.md
//! describes the same shapes for people; its examples are run as tests.

mod batch;
mod changes;
mod codec;
mod columns;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod examples;
mod fields;
mod hashes;
mod hello;
mod limits;
mod list;
mod search;
mod snapshot;
mod stat;
mod system;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub(crate) use crate::model::fault::one_line;
pub use crate::model::fault::{Fault, FaultCode};
pub use batch::{
    BatchAnswer, BatchBody, BatchItem, MAX_BATCH_FILES, MAX_BATCH_REQUEST, MAX_BATCH_RESPONSE,
    MAX_SMALL_FILE, decode_answers, decode_batch, encode_batch,
};
pub use changes::{Change, Changes, ChangesRequest, Depth};
pub use codec::{ResponseError, decode_call, decode_response, encode_call, encode_response};
pub use hashes::HashesRequest;
pub use hello::{ContactDigest, Hello, IdPrefix, MemberRecord};
pub use limits::{MAX_CALL_BYTES, MAX_RESPONSE_BYTES};
pub use list::{ListRequest, Listing};
pub use search::{SearchPage, SearchRequest};
pub use snapshot::{Snapshot, SnapshotRequest};
pub use stat::{StatRequest, StatResponse};
pub use system::{help, methods};

use crate::content::merkle::Subtree;

/// A call to another member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// A call of `tinyp2p.hello`
    Hello(Hello),
    /// A call of `tinyp2p.list`
    List(ListRequest),
    /// A call of `tinyp2p.stat`
    Stat(StatRequest),
    /// A call of `tinyp2p.search`
    Search(SearchRequest),
    /// A call of `tinyp2p.changes`
    Changes(ChangesRequest),
    /// A call of `tinyp2p.hashes`
    Hashes(HashesRequest),
    /// A call of `tinyp2p.snapshot`
    Snapshot(SnapshotRequest),
    /// A call of `system.listMethods`
    ListMethods,
    /// A call of `system.methodHelp`, with a method's name
    MethodHelp(String),
}

/// The result of a call; the variant matches that of its request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Response {
    /// The result of `tinyp2p.hello`
    Hello(Hello),
    /// The result of `tinyp2p.list`
    List(Listing),
    /// The result of `tinyp2p.list` with `watch` when there is no directory
    NoDirectory {
        /// The change counter, as in [`Listing::counter`].
        counter: Option<u64>,
    },
    /// The result of `tinyp2p.stat`
    Stat(StatResponse),
    /// The result of `tinyp2p.search`
    Search(SearchPage),
    /// The result of `tinyp2p.changes`
    Changes(Changes),
    /// The result of `tinyp2p.hashes`; proves nothing before it is itself proven
    Hashes(Subtree),
    /// The result of `tinyp2p.snapshot`; proves nothing
    Snapshot(Snapshot),
    /// The result of `system.listMethods`
    ListMethods(Vec<String>),
    /// The result of `system.methodHelp`
    MethodHelp(String),
}

impl Request {
    /// Returns the name of the method that it calls.
    pub fn method(&self) -> &'static str {
        match self {
            Self::Hello(_) => hello::NAME,
            Self::List(_) => list::NAME,
            Self::Stat(_) => stat::NAME,
            Self::Search(_) => search::NAME,
            Self::Changes(_) => changes::NAME,
            Self::Hashes(_) => hashes::NAME,
            Self::Snapshot(_) => snapshot::NAME,
            Self::ListMethods => system::LIST_METHODS,
            Self::MethodHelp(_) => system::METHOD_HELP,
        }
    }
}
