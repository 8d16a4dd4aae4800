//! The content of files, whichever member has it: proof ([`merkle`]) and proven bytes
//! on disk ([`cache`]).

pub mod cache;
pub mod merkle;
pub(crate) mod read_full;
pub(crate) mod sha256_pair;
