//! What a number stands for, and which one that makes it.
//!
//! Pure: a number follows from a path and an identity, the same on every machine.

use std::hash::{BuildHasher, BuildHasherDefault};

use siphasher::sip::SipHasher13;
use tinyp2p_net::model::{FileSize, Kind, PeerId, RelPath, Root, Version};

use crate::view::merge::{EntrySource, Item};

/// The number of the mount's root.
pub const ROOT: u64 = 1;

/// Numbers of things are not above this: those above belong to this program
/// ([`control_fs`](crate::vfs::control_fs)).
const MAX_NUMBER: u64 = (1 << 62) - 1;

/// Through what the kernel looks at a thing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Vantage {
    /// What all members share: the mount itself.
    Merged,
    /// What one member shares.
    Member(PeerId),
    /// What a search has found: files only.
    Found,
}

/// What one number stands for at its path: a directory, or one content, as far as it is known.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum InodeIdentity {
    /// A directory. The kernel takes one name for one directory, so that of another tree
    /// is another one.
    Directory(Vantage),
    /// The content with this root and this size, whoever has it. The size belongs to it: a member
    /// that claims another one for the same root must not stand in for those who have the content.
    Root {
        /// The content root.
        root: Root,
        /// Size in bytes.
        size: u64,
    },
    /// Nothing, whoever has it.
    Empty,
    /// Whatever one member has in one version. The size belongs to it, too: a member that names
    /// another one for the same version means another file.
    Source {
        /// Whose file it is.
        member: PeerId,
        /// The version of the file there.
        version: Version,
        /// Unknown while only its name is known.
        size: FileSize,
    },
}

impl InodeIdentity {
    /// What a file is that has this root, if it has one, and this size.
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

/// What leads to the number of a thing: the same on every machine.
pub(crate) fn hash_of(path: &RelPath, identity: &InodeIdentity) -> u64 {
    BuildHasherDefault::<SipHasher13>::default().hash_one((path, identity))
}

/// The number that a thing with this hash has, if nothing else has it.
pub(crate) fn number_of(hash: u64) -> u64 {
    let number = hash & MAX_NUMBER;
    // Neither none nor the root.
    if number > ROOT { number } else { number + 2 }
}

/// The number of `item`, which members have at `path`, as long as nothing else has that; in a
/// directory of the tree of all. It is that by which a program finds the file that sorts what it
/// reads by number.
pub(crate) fn number_by_itself(path: &RelPath, item: &Item) -> u64 {
    let identity = match (item.kind, item.sources.first()) {
        (Kind::File, Some(source)) => InodeIdentity::of_file(item.root, item.size, source),
        _ => InodeIdentity::Directory(Vantage::Merged),
    };
    number_of(hash_of(path, &identity))
}
