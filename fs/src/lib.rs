//! What programs and people see of a TinyP2P network: the mount and the commands around it.
//!
//! Top to bottom: [`cli`] (arguments, start, stop) -> [`fuse`] (the kernel's requests, unpacked) ->
//! [`vfs`] (what each operation does) -> [`view`] (the merged tree, kept fresh) and [`search`] ->
//! [`network`] (the seam to `tinyp2p-net`). Beside them: [`report`] (what is shown of a node and of
//! a file), [`kernel_cache`] (what the kernel has to forget), [`mount`], and [`errno`].

// Tests may unwrap: a panic is how they fail.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod cli;
pub mod errno;
pub mod fuse;
pub mod kernel_cache;
pub mod mount;
pub mod network;
pub mod report;
pub mod search;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod vfs;
pub mod view;
