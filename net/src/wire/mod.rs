//! The methods of the protocol as types: what members ask each other, and what they answer.
//!
//! One file per method holds its request, its response and both directions of their translation
//! to XML-RPC values, so that a method is one screen and both sides use the same type. PROTOCOL.md
//! describes the same shapes for people; its examples are run as tests.

mod hello;
mod list;
mod search;
mod stat;

pub use hello::{Hello, MemberRecord};
pub use list::{ListRequest, Listing};
pub use search::{SearchPage, SearchRequest};
pub use stat::{StatRequest, StatResponse};

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
    /// `tinyp2p.stat`
    Stat(StatResponse),
    /// `tinyp2p.search`
    Search(SearchPage),
    /// `system.listMethods`
    ListMethods(Vec<String>),
    /// `system.methodHelp`
    MethodHelp(String),
}

/// Why a call was declined: an XML-RPC fault. Numbers are part of the protocol and never reused;
/// -32700 and below are those of the XML-RPC fault code interoperability list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultCode {
    /// -32700: the body is not well-formed XML.
    NotWellFormed,
    /// -32600: well-formed, but not an XML-RPC call.
    InvalidRequest,
    /// -32601: no such method.
    MethodNotFound,
    /// -32602: wrong number, type or value of parameters.
    InvalidParameters,
    /// -32603: the callee's own disk or system failed.
    Internal,
    /// 1: the path does not lead to anything that is shared.
    NotFound,
    /// 2: a directory was expected.
    NotADirectory,
    /// 3: a documented bound was exceeded; the message names it.
    LimitExceeded,
    /// 4: the regular expression does not compile; the message says where.
    BadPattern,
    /// 5: the protocol versions do not overlap.
    UnsupportedVersion,
    /// Any other number.
    Other(i32),
}

/// An XML-RPC fault: a number for programs, a sentence for people.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// What kind of refusal.
    pub code: FaultCode,
    /// One line; at most 1 KiB survives the wire.
    pub message: String,
}

impl Fault {
    /// A fault with its sentence.
    pub fn new(code: FaultCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}
