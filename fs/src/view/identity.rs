//! What a number stands for, and how it is derived.
//!
//! Pure: a number follows from a path and an identity, the same on every machine.

use std::hash::{BuildHasher, BuildHasherDefault};

use siphasher::sip::SipHasher13;
use tinyp2p_net::model::{FileSize, Kind, PeerId, RelPath, Root, Version};

use crate::view::merge::{EntrySource, Item};

/// The number of the mount's root.
pub const ROOT: u64 = 1;

/// The largest number of a file or directory. Those above belong to
/// this program ([`control_fs`](crate::vfs::control_fs)).
const MAX_NUMBER: u64 = (1 << 62) - 1;

/// The tree through which the kernel sees a file or directory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Vantage {
    /// What all members share: the mount itself.
    Merged,
    /// What one member shares.
    Member(PeerId),
    /// What a search has found: files only.
    Found,
}

/// What one number stands for at its path: a directory, or one content as far as it is known.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum InodeIdentity {
    /// A directory. The kernel allows a directory only one name, so the same path in another tree
    /// is another directory.
    Directory(Vantage),
    /// The content with this root and this size, at any member. The size is part of the
    /// identity: a member that claims another size for the same root must not stand in for those
    /// that have the content.
    Root {
        /// The content root.
        root: Root,
        /// Size in bytes.
        size: u64,
    },
    /// No content at all, at any member.
    Empty,
    /// Whatever one member has in one version. The size is part of the identity here, too: a member
    /// that names another size for the same version means another file.
    Source {
        /// The member whose file it is.
        member: PeerId,
        /// The version of the file there.
        version: Version,
        /// Unknown while only its name is known.
        size: FileSize,
    },
}

impl InodeIdentity {
    /// Returns the identity of a file with this root, if it has one, and this size.
    pub(crate) fn of_file(root: Option<Root>, size: FileSize, source: &EntrySource) -> Self {
        match root.zip(size.known()) {
            _ if size == FileSize::ZERO => Self::Empty,
            Some((root, size)) => Self::Root { root, size },
            None => Self::Source {
                member: source.member.id,
                version: source.version,
                size,
            },
        }
    }
}

pub(crate) type InodeKey = (RelPath, InodeIdentity);

/// Returns the hash that leads to a number: the same on every machine.
pub(crate) fn hash_of(path: &RelPath, identity: &InodeIdentity) -> u64 {
    BuildHasherDefault::<SipHasher13>::default().hash_one((path, identity))
}

/// Returns the number for this hash, if nothing else has it.
pub(crate) fn number_of(hash: u64) -> u64 {
    let number = hash & MAX_NUMBER;
    // Neither zero nor the root.
    if number > ROOT { number } else { number + 2 }
}

/// Returns the number of `item`, which members have at `path` in a directory of the merged tree, as
/// long as nothing else has that number. A program that sorts what it reads by number finds the
/// file by it.
pub(crate) fn number_by_itself(path: &RelPath, item: &Item) -> u64 {
    let identity = match (item.kind, item.sources.first()) {
        (Kind::File, Some(source)) => InodeIdentity::of_file(item.root, item.size, source),
        _ => InodeIdentity::Directory(Vantage::Merged),
    };
    number_of(hash_of(path, &identity))
}
