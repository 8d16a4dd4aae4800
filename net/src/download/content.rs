//! The bytes of a piece, by what is known of them.

use std::ops::Deref;
use std::sync::Arc;

use super::buffers::Buffer;
use crate::merkle::Verified;

/// Bytes that a reader may get. Which kinds a download accepts depends on its file: one with a root
/// takes proven bytes only, one without takes those of one member under one version.
pub(crate) enum Content {
    /// Proven against the file's root; the cache may be writing them to disk.
    Proven(Arc<Verified<Buffer>>),
    /// Read back from the disk cache, and proven again.
    Cached(Verified<Vec<u8>>),
    /// From the only member that is asked for this file.
    FromOne(Buffer),
}

impl Deref for Content {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Proven(bytes) => bytes,
            Self::Cached(bytes) => bytes,
            Self::FromOne(bytes) => bytes,
        }
    }
}
