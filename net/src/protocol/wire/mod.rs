//! The methods of the protocol as types: what members ask each other, and what they answer.
//!
//! One file per method holds its request, its response and both directions of their translation
//! to XML-RPC values, so that a method is one screen and both sides use the same type. PROTOCOL.md
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
pub use hello::{Hello, MemberRecord};
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
    /// `tinyp2p.hello`
    Hello(Hello),
    /// `tinyp2p.list`
    List(ListRequest),
    /// `tinyp2p.stat`
    Stat(StatRequest),
    /// `tinyp2p.search`
    Search(SearchRequest),
    /// `tinyp2p.changes`
    Changes(ChangesRequest),
    /// `tinyp2p.hashes`
    Hashes(HashesRequest),
    /// `tinyp2p.snapshot`
    Snapshot(SnapshotRequest),
    /// `system.listMethods`
    ListMethods,
    /// `system.methodHelp`, of the method named
    MethodHelp(String),
}

/// What a call returned; the variant is that of its request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Response {
    /// `tinyp2p.hello`
    Hello(Hello),
    /// `tinyp2p.list`
    List(Listing),
    /// `tinyp2p.list`, when watching was asked for: there is no directory
    NoDirectory {
        /// As [`Listing::counter`].
        counter: Option<u64>,
    },
    /// `tinyp2p.stat`
    Stat(StatResponse),
    /// `tinyp2p.search`
    Search(SearchPage),
    /// `tinyp2p.changes`
    Changes(Changes),
    /// `tinyp2p.hashes`; proves nothing before it is itself proven
    Hashes(Subtree),
    /// `tinyp2p.snapshot`; proves nothing
    Snapshot(Snapshot),
    /// `system.listMethods`
    ListMethods(Vec<String>),
    /// `system.methodHelp`
    MethodHelp(String),
}

impl Request {
    /// The method that it calls.
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
