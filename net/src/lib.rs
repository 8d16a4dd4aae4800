//! Everything between two members of a TinyP2P network: identity and pairing, the wire, the
//! share, membership, and the download engine. This crate knows no FUSE and no command line.
//!
//! A tour, from the wire up:
//! - [`types`], [`error`], [`config`]: the words, the faults and the tunables that all parts share. [`text`]: what
//!   of others reaches a screen.
//! - [`xmlrpc`]: bytes to values and back; has never heard of TinyP2P. [`wire`]: values to typed
//!   methods and back.
//! - [`auth`]: who may speak at all. `fairness`: how much of what is scarce each may take.
//!   [`share`]: what this node offers. [`server`]: answers peers.
//! - [`client`]: asks peers; [`client::Peer`] is the seam that everything above stands on.
//! - [`peers`]: who is there. [`fanout`]: one question to everyone, under a deadline.
//!   [`download`]: the bytes of one file, in time for its readers.
//! - [`merkle`]: proof that bytes are what their content root says. [`cache`]: proven bytes on disk.
//! - [`budget`]: how much of what members say may be in memory.
//! - [`ledger`]: what came from whom. [`status`]: what the node is doing, as plain data. [`reachable`]: what to tell
//!   others of its addresses.
//! - [`node`]: builds all of it; the only file that knows every part.

// Tests may unwrap: a panic is how they fail.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod auth;
pub mod budget;
pub mod cache;
pub mod claims;
pub mod client;
pub mod config;
pub mod download;
pub mod error;
mod fairness;
pub mod fanout;
pub mod follow;
pub mod generations;
mod heap;
mod lanes;
pub mod ledger;
pub mod legacy;
pub mod local;
pub mod merkle;
pub mod node;
pub mod peers;
pub mod reachable;
pub mod server;
pub mod share;
pub mod status;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod text;
pub mod types;
pub mod wire;
pub mod xmlrpc;

pub use config::Config;
pub use error::Error;
pub use node::Node;
pub use status::Status;
