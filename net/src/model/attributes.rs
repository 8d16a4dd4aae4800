//! An entry of a share as a listing shows it, and a range of a file's bytes.

use super::id::{Root, Version};
use super::path::Name;
use super::time::UnixTime;

/// The type of an entry of a share. Nothing else is ever served.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory, which may be listed.
    Directory,
}

/// What the permissions of an entry allow the member that shares it. They do not restrict its
/// readers: all members may read everything that can be read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Mode {
    /// It can be read, or listed.
    #[default]
    Plain,
    /// A readable file that is a program to its owner: some execute bit is set.
    Executable,
    /// The member itself cannot read the file, or cannot list and search the directory.
    Unreadable,
}

/// What a listing says of one entry, apart from its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// File or directory.
    pub kind: Kind,
    /// What its permissions allow the member.
    pub mode: Mode,
    /// The file's size; zero for a directory.
    pub size: FileSize,
    /// When the content was last modified.
    pub mtime: UnixTime,
    /// The state that these attributes describe.
    pub version: Version,
    /// The content root, once the sharing member has computed it; never for a directory.
    pub root: Option<Root>,
}

/// The size of a file in bytes. Some members send only names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FileSize {
    /// This many bytes.
    Known(u64),
    /// No member has said. Never sent in this program's own protocol.
    Unknown,
}

impl FileSize {
    /// The size of an empty file.
    pub const ZERO: Self = Self::Known(0);

    /// Returns the number of bytes, if it is known.
    pub fn known(self) -> Option<u64> {
        match self {
            Self::Known(bytes) => Some(bytes),
            Self::Unknown => None,
        }
    }

    /// Returns true if the size is known.
    pub fn is_known(self) -> bool {
        self.known().is_some()
    }

    /// Returns the number of bytes; 0 if unknown, as programs that ask for a size must get one.
    pub fn or_zero(self) -> u64 {
        self.known().unwrap_or(0)
    }
}

impl From<u64> for FileSize {
    fn from(bytes: u64) -> Self {
        Self::Known(bytes)
    }
}

impl PartialEq<u64> for FileSize {
    fn eq(&self, bytes: &u64) -> bool {
        *self == Self::Known(*bytes)
    }
}

/// One name of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The entry's name in its directory.
    pub name: Name,
    /// What it is.
    pub attributes: Attributes,
}

/// Bytes `start..end` of a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ByteRange {
    /// Offset of the first byte.
    pub start: u64,
    /// Offset behind the last byte; never less than `start`.
    pub end: u64,
}

impl ByteRange {
    /// Creates the range `start..end`, empty if `end` is not above `start`.
    pub fn new(start: u64, end: u64) -> Self {
        Self {
            start,
            end: end.max(start),
        }
    }

    /// Returns how many bytes it spans.
    pub fn len(self) -> u64 {
        self.end - self.start
    }

    /// Returns true if it spans nothing.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }
}
