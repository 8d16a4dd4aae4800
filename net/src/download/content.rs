//! What a reader was promised when it opened a file, and bytes that keep that promise.
//!
//! Bytes wait in many places between their arrival and their reader: as pieces, among the staged
//! small files, in a disk cache. While they wait, the member may change its claim about their
//! file. So the bytes themselves carry what they are, and the only way to read them is to state
//! what is expected.

use std::sync::Arc;

use crate::concurrency::buffer_pool::PooledBuffer;
use crate::content::merkle::Verified;
use crate::model::{ByteRange, ContentId, PeerId, RelPath, Version};

/// The content that every byte a reader gets must be part of.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum ExpectedContent {
    /// This content, proven, whichever member sends it.
    Rooted(ContentId),
    /// What one member has at one place. Nothing proves it, so no other member can supply it.
    FromOne(Arc<Origin>),
}

/// One state of one file at one member.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Origin {
    pub(crate) member: PeerId,
    pub(crate) path: RelPath,
    pub(crate) version: Version,
    /// Size in bytes.
    pub(crate) size: u64,
}

impl Origin {
    /// Returns the origin of the file at `path` as `member` has it.
    pub(crate) fn new(member: PeerId, path: &RelPath, version: Version, size: u64) -> Self {
        Self {
            member,
            path: path.clone(),
            version,
            size,
        }
    }

    /// Returns the origin of a file of `size` bytes that nobody has: no bytes ever come from it.
    pub(crate) fn nowhere(size: u64) -> Self {
        Self {
            member: PeerId::from_bytes([0; 32]),
            path: RelPath::root(),
            version: Version(0),
            size,
        }
    }
}

impl ExpectedContent {
    /// Returns the content, if its root is known.
    pub(crate) fn rooted(&self) -> Option<ContentId> {
        match self {
            Self::Rooted(content) => Some(*content),
            Self::FromOne(_) => None,
        }
    }

    /// Returns the size of the whole file in bytes.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Rooted(content) => content.size,
            Self::FromOne(origin) => origin.size,
        }
    }
}

/// Bytes of one file, on their way to its readers.
pub(crate) enum FileBytes {
    /// Sent by a member and proven. The cache may be writing them to disk.
    Proven(Arc<Verified<PooledBuffer>>),
    /// Read back from the disk cache and proven again.
    Cached(Verified<Vec<u8>>),
    /// Unproven bytes at `offset` of the file that was requested at `origin`.
    FromOne {
        origin: Arc<Origin>,
        offset: u64,
        bytes: PooledBuffer,
    },
}

impl FileBytes {
    /// Returns their position in the file.
    pub(crate) fn range(&self) -> ByteRange {
        match self {
            Self::Proven(bytes) => bytes.range(),
            Self::Cached(bytes) => bytes.range(),
            Self::FromOne { offset, bytes, .. } => {
                ByteRange::new(*offset, *offset + bytes.len() as u64)
            }
        }
    }

    /// Returns the bytes if they are of the `expected` content, and otherwise `None`.
    pub(crate) fn bytes_for(&self, expected: &ExpectedContent) -> Option<&[u8]> {
        match (self, expected) {
            (Self::Proven(bytes), ExpectedContent::Rooted(content)) => {
                (bytes.content() == *content).then_some(bytes)
            }
            (Self::Cached(bytes), ExpectedContent::Rooted(content)) => {
                (bytes.content() == *content).then_some(bytes)
            }
            (Self::FromOne { origin, bytes, .. }, ExpectedContent::FromOne(wanted)) => {
                let is_same = Arc::ptr_eq(origin, wanted) || origin == wanted;
                is_same.then_some(bytes)
            }
            _ => None,
        }
    }

    /// Returns their part of `range`, if they are of the `expected` content.
    pub(crate) fn slice(&self, range: ByteRange, expected: &ExpectedContent) -> Option<&[u8]> {
        let own = self.range();
        let offset = |at: u64| (at.clamp(own.start, own.end) - own.start) as usize;
        let part = offset(range.start)..offset(range.end);
        self.bytes_for(expected)?.get(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::merkle::TreeHasher;
    use crate::model::Root;

    fn origin(member: u8, path: &str, version: u64, size: u64) -> Arc<Origin> {
        Arc::new(Origin {
            member: PeerId::from_bytes([member; 32]),
            path: RelPath::new(path.as_bytes()).unwrap(),
            version: Version(version),
            size,
        })
    }

    fn root_of(bytes: &[u8]) -> Root {
        let mut hasher = TreeHasher::default();
        hasher.update(bytes);
        hasher.finish().unwrap().root()
    }

    #[test]
    fn proven_bytes_serve_their_content_only() {
        let content = ContentId {
            root: root_of(b"abc"),
            size: 3,
        };
        let bytes = PooledBuffer::from(b"abc".to_vec());
        let (bytes, _) = Verified::whole(bytes, content).ok().unwrap();
        let proven = FileBytes::Proven(Arc::new(bytes));
        let rooted = ExpectedContent::Rooted;
        assert_eq!(proven.bytes_for(&rooted(content)), Some(&b"abc"[..]));
        let longer = ContentId { size: 4, ..content };
        let other = ContentId {
            root: root_of(b"abd"),
            ..content
        };
        for wrong in [rooted(longer), rooted(other)] {
            assert_eq!(proven.bytes_for(&wrong), None);
        }
        let unrooted = ExpectedContent::FromOne(origin(1, "f", 1, 3));
        assert_eq!(proven.bytes_for(&unrooted), None);
    }

    #[test]
    fn unproven_bytes_serve_their_origin_only() {
        let unproven = FileBytes::FromOne {
            origin: origin(1, "f", 1, 3),
            offset: 0,
            bytes: PooledBuffer::from(b"abc".to_vec()),
        };
        let from = |origin| ExpectedContent::FromOne(origin);
        assert!(unproven.bytes_for(&from(origin(1, "f", 1, 3))).is_some());
        for wrong in [
            origin(2, "f", 1, 3),
            origin(1, "g", 1, 3),
            origin(1, "f", 2, 3),
            origin(1, "f", 1, 4),
        ] {
            assert_eq!(unproven.bytes_for(&from(wrong)), None);
        }
        let root = root_of(b"abc");
        let rooted = ExpectedContent::Rooted(ContentId { root, size: 3 });
        assert_eq!(
            unproven.bytes_for(&rooted),
            None,
            "true or not, nobody proved it"
        );
    }
}
