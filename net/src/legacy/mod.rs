//! The protocol of 2004.

pub mod client;
pub mod members;
pub mod peer;
mod reply;
pub mod store;
#[cfg(test)]
mod twin;
