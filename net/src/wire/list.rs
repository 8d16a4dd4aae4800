//! `tinyp2p.list`: one directory, in pages, in columns.

use crate::types::{Entry, Name, RelPath, Version};

/// Asks for the entries of `directory` whose names sort (as bytes) behind `after`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListRequest {
    /// The directory.
    pub directory: RelPath,
    /// The last name of the page before; `None` for the first page.
    pub after: Option<Name>,
    /// The most entries wanted; the answer may hold fewer and still not be the last page.
    pub limit: u32,
}

/// One page of a directory, sorted by the bytes of the names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listing {
    /// The directory's own state: equal versions mean that no name came or went.
    pub version: Version,
    /// The directory's modification time, nanoseconds since 1970.
    pub mtime: i64,
    /// The page's entries, names strictly ascending.
    pub entries: Vec<Entry>,
    /// True when names behind the last entry remain.
    pub more: bool,
}

impl Listing {
    /// The most entries in one page; keeps a page near 4 MiB at the longest names.
    pub const MAX_ENTRIES: usize = 8192;
}
