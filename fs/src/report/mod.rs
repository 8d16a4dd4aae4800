//! What is shown of a running node and of one file: to people as text, to programs as JSON.

pub(crate) mod format;
pub mod info;
pub mod status;
