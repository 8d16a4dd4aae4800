//! What programs and people see of a TinyP2P network: the mount and the commands around it.
//!
//! Top to bottom: [`cli`] (arguments, start, stop) -> [`fuse`] (the kernel's requests, unpacked) ->
//! [`filesystem`] (what each operation does) -> [`view`] (the merged tree, kept fresh), [`trees`] (one member's)
//! and [`search`], with [`inodes`], [`handles`], [`hidden`] ([`status`] and more in the mount) and [`info`] ->
//! [`network`] (the seam to `tinyp2p-net`). [`sources`] and [`open_content`] are for whoever reads a file.

// Tests may unwrap: a panic is how they fail.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod cli;
pub mod errno;
pub mod expire;
pub mod filesystem;
pub mod fuse;
pub mod handles;
pub mod hidden;
pub mod info;
pub mod inodes;
pub mod mount;
pub mod network;
pub mod open_content;
pub mod search;
pub mod sources;
pub mod status;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod trees;
pub mod view;
pub mod workers;
