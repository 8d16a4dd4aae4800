//! An entry of a share as a listing shows it, and a range of a file's bytes.

use std::fmt;

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

/// How much content a file has, in bytes. Some members list only names.
///
/// Takes eight bytes: an inode has two of them, and a mount may have millions of inodes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileSize(u64);

impl FileSize {
    /// The size of an empty file.
    pub const ZERO: Self = Self(0);

    /// Nobody has said. Never travels in this program's own protocol.
    pub const UNKNOWN: Self = Self(u64::MAX);

    /// Wraps a number of bytes. The one number that stands for no size becomes the largest that
    /// does: no file is so large, and a member that claims such a size is refused.
    pub const fn of(bytes: u64) -> Self {
        if bytes == u64::MAX {
            Self(bytes - 1)
        } else {
            Self(bytes)
        }
    }

    /// Returns the bytes, if their number is known.
    pub fn known(self) -> Option<u64> {
        self.is_known().then_some(self.0)
    }

    /// Returns true unless nobody has said.
    pub fn is_known(self) -> bool {
        self != Self::UNKNOWN
    }

    /// Returns the bytes; 0 where nobody has said, for a program that has to be given a size.
    pub fn or_zero(self) -> u64 {
        self.known().unwrap_or(0)
    }
}

impl fmt::Debug for FileSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.known() {
            Some(bytes) => write!(f, "{bytes}"),
            None => f.write_str("unknown"),
        }
    }
}

impl From<u64> for FileSize {
    fn from(bytes: u64) -> Self {
        Self::of(bytes)
    }
}

impl PartialEq<u64> for FileSize {
    fn eq(&self, bytes: &u64) -> bool {
        self.known() == Some(*bytes)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn largest_number_is_a_size() {
        let size = FileSize::from(u64::MAX);
        assert!(size.is_known() && size.or_zero() > i64::MAX as u64);
        assert_eq!(
            (FileSize::of(7).known(), FileSize::UNKNOWN.known()),
            (Some(7), None)
        );
    }
}
