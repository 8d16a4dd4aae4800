//! The command-line options and what they mean.

pub(crate) mod args;
pub(crate) mod cache;
pub(crate) mod mount_options;
pub(crate) mod password;
pub(crate) mod reach;
pub(crate) mod share;
