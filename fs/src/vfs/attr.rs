//! What operations on the mount answer with: attributes, lookups, entries, figures, bytes.

use tinyp2p_net::model::{FileSize, Kind, Mode, UnixTime};

use super::inodes::Inode;
use crate::errno::Error;

/// The block size that `df` counts in.
pub const STATFS_BLOCK: u64 = 4096;

/// What a `stat` of one thing shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attr {
    /// Its inode number.
    pub inode: u64,
    /// File or directory.
    pub kind: Kind,
    /// What can be done with it.
    pub mode: Mode,
    /// How much content there is; none for a directory.
    pub size: FileSize,
    /// When the content was last modified.
    pub mtime: UnixTime,
    /// True for a file that somebody has open: it may grow at any moment.
    pub may_grow: bool,
}

/// What a lookup found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LookupResult {
    /// It exists, and counts as assigned to the kernel.
    Found(Attr),
    /// Nobody who answered has it.
    Absent {
        /// True if everybody answered, so that the kernel may remember the absence.
        certain: bool,
    },
}

/// One entry of an open directory.
#[derive(Clone, Copy, Debug)]
pub struct DirectoryEntry<'a> {
    /// The entry's name, one component.
    pub name: &'a [u8],
    /// The offset of the next entry.
    pub next: u64,
    /// What a `stat` of it shows.
    pub attr: Attr,
}

/// Figures for `df`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Statistics {
    /// Blocks of [`STATFS_BLOCK`] bytes; never 0.
    pub blocks: u64,
    /// Names; never 0.
    pub files: u64,
}

/// A reader's callback: it gets the requested bytes, fewer only at the end of the file.
pub type ReadDone = Box<dyn FnOnce(Result<&[u8], Error>) + Send>;

impl Attr {
    pub(super) fn assigned((number, inode): (u64, &Inode)) -> Self {
        Self::of(number, inode)
    }

    pub(super) fn of(number: u64, inode: &Inode) -> Self {
        Self {
            inode: number,
            kind: inode.kind(),
            mode: inode.mode(),
            size: inode.size,
            mtime: inode.mtime,
            may_grow: false,
        }
    }
}
