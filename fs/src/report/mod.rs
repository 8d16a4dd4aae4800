//! Reports on a running node and on one file: text for people, JSON for programs.

pub(crate) mod format;
pub mod info;
pub mod status;
