//! `tinyp2p.search`: a regular expression over the file names of a whole share, in pages.

use crate::types::{Attributes, RelPath};

/// Asks for the files whose name (the last component) `pattern` matches anywhere, as Python's
/// `re.search` would, in the syntax of the `regex` crate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SearchRequest {
    /// The expression; at most [`SearchRequest::MAX_PATTERN_BYTES`].
    pub pattern: String,
    /// The last path of the page before; `None` for the first page.
    pub after: Option<RelPath>,
    /// The most matches wanted.
    pub limit: u32,
}

impl SearchRequest {
    /// Longer expressions are refused before they are compiled.
    pub const MAX_PATTERN_BYTES: usize = 1024;
}

/// One page of matches, sorted by the bytes of their paths.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SearchPage {
    /// Path and attributes of each match, regular files only.
    pub matches: Vec<(RelPath, Attributes)>,
    /// True when matches behind the last one may remain.
    pub more: bool,
}

impl SearchPage {
    /// The most matches in one page.
    pub const MAX_MATCHES: usize = 1024;
}
