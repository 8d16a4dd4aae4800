//! Everything between two members of a TinyP2P network: identity and pairing, the wire, the
//! share, membership, and the download engine. This crate knows no FUSE and no command line.
//!
//! A tour, from the ground up:
//! - [`model`], [`error`], [`config`]: the words, the faults and the tunables that all parts share.
//! - [`protocol`]: what goes over the wire. [`content`]: proof that bytes are what their content
//!   root says, and proven bytes on disk. [`concurrency`]: threads, waits and bounded memories.
//! - [`auth`]: who may speak at all. `fairness`: how much of what is scarce each may take.
//!   [`budget`]: how much of what members say may be in memory.
//! - [`transport`]: an encrypted connection to one key. [`peer`]: the seam that everything above
//!   stands on. [`client`]: a member over the network.
//! - [`share`]: what this node offers. [`service`]: what it answers. [`server`]: to whom, over
//!   HTTP.
//! - [`membership`]: who is there. [`query`]: one question to everyone, under a deadline.
//!   [`download`]: the bytes of one file, in time for its readers.
//! - [`stats`]: what the node is doing. [`legacy`]: the protocol of 2004.
//! - [`node`]: builds all of it; the only room that knows every part.
//!
#![doc = include_str!("../ARCHITECTURE.md")]
// Tests may unwrap: a panic is how they fail.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod auth;
pub mod budget;
pub mod client;
pub mod concurrency;
pub mod config;
pub mod content;
pub mod download;
pub mod error;
mod fairness;
pub mod legacy;
pub mod membership;
pub mod model;
pub mod node;
pub mod peer;
pub mod protocol;
pub mod query;
pub mod server;
pub mod service;
pub mod share;
pub mod stats;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod transport;

pub use error::Error;
pub use node::Node;
pub use node::config::Config;
pub use stats::status::Status;
