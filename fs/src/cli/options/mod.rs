//! What can be typed, and what it means.

pub(crate) mod args;
pub(crate) mod cache;
pub(crate) mod mount_options;
pub(crate) mod password;
pub(crate) mod share;
