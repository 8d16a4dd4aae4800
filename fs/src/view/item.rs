//! One name of a merged directory, and who has it.

use std::sync::Arc;

use tinyp2p_net::model::{FileSize, Kind, Mode, Name, Root, UnixTime, Version};

use crate::network::MemberRef;

/// One member that has an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntrySource {
    /// The member that has it.
    pub member: Arc<MemberRef>,
    /// The state of the entry at that member.
    pub version: Version,
    /// What the entry's permissions allow that member.
    pub mode: Mode,
}

/// One name of a merged directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    /// The name in the mount.
    pub name: Name,
    /// The name at the members, if the mount shows another one.
    pub original: Option<Name>,
    /// File or directory.
    pub kind: Kind,
    /// How much content there is; none for a directory.
    pub size: FileSize,
    /// The newest modification time among the sources, nanoseconds since 1970.
    pub mtime: UnixTime,
    /// The content root, if it is known. Each source has named it.
    pub root: Option<Root>,
    /// The members that have it, the best one to read from first; never empty.
    pub sources: Arc<[EntrySource]>,
}

impl Item {
    /// The name at the members that have it.
    pub fn name_at_members(&self) -> &Name {
        self.original.as_ref().unwrap_or(&self.name)
    }
}

/// Returns what can be done with what all of `sources` have.
pub fn mode_of(sources: &[EntrySource]) -> Mode {
    let readable = sources
        .iter()
        .filter(|source| source.mode != Mode::Unreadable);
    let mut modes = readable.map(|source| source.mode);
    match modes.next() {
        // A program at one member is a program at all of them: its content is the same.
        Some(first) if modes.all(|mode| mode == first) => first,
        Some(_) => Mode::Executable,
        // Nobody is known to have the root of an empty network.
        None if sources.is_empty() => Mode::Plain,
        None => Mode::Unreadable,
    }
}
