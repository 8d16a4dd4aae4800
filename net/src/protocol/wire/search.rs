//! `tinyp2p.search`: a regular expression over the file names of a whole share, in pages.

use super::columns::{Columns, join, split};
use super::fields::{Fields, Refusal, members};
use crate::model::{Attributes, Kind, RelPath};
use crate::protocol::xmlrpc::Value;

pub(super) const NAME: &str = "tinyp2p.search";

pub(super) const HELP: &str = "\
struct tinyp2p.search(struct)
The files of the whole share whose name a regular expression matches anywhere, in pages. Parameter:
pattern (string, at max 1024 bytes, syntax of the Rust crate regex), after (string or base64, the last
path of the page before; left out for the first page), limit (int, at least 1; a page never holds more
than 1024 matches). Result: more (boolean), and the columns paths, kinds, sizes, mtimes, versions, roots,
and where need be modes and long_mtimes, sorted by the paths' bytes.";

/// Asks for the files whose name (the last component) `pattern` matches anywhere, as Python's
/// `re.search` would, in the syntax of the `regex` crate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SearchRequest {
    /// The expression; at most [`SearchRequest::MAX_PATTERN_BYTES`].
    pub pattern: String,
    /// The last path of the previous page; `None` for the first page.
    pub after: Option<RelPath>,
    /// The most matches wanted.
    pub limit: u32,
}

impl SearchRequest {
    /// The longest expression; longer ones are refused before they are compiled.
    pub const MAX_PATTERN_BYTES: usize = 1024;

    pub(super) fn to_value(&self) -> Value {
        let pattern = ("pattern", Value::from(&*self.pattern));
        let limit = ("limit", Value::Int(self.limit.into()));
        let after = |path: &RelPath| ("after", Value::from_bytes_text(path.as_bytes()));
        let after = self.after.as_ref().map(after);
        members([pattern, limit].into_iter().chain(after))
    }

    pub(super) fn from_fields(mut fields: Fields) -> Result<Self, Refusal> {
        let pattern = fields.text("pattern")?;
        if pattern.len() > Self::MAX_PATTERN_BYTES {
            return Err(Refusal::too_much(
                Self::MAX_PATTERN_BYTES,
                "bytes of pattern",
            ));
        }
        let after = fields.optional_bytes("after")?;
        let after = after.map(|after| matched(&after)).transpose()?;
        Ok(Self {
            pattern,
            after,
            limit: fields.limit()?,
        })
    }

    fn max(&self) -> usize {
        (self.limit as usize).min(SearchPage::MAX_MATCHES)
    }
}

/// One page of matches, sorted by the bytes of their paths.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SearchPage {
    /// Path and attributes of each match, regular files only.
    pub matches: Vec<(RelPath, Attributes)>,
    /// True when there may be matches after the last one. A page without matches can say so too:
    /// the time for one page ran out, and the same request continues where it ended.
    pub more: bool,
}

impl SearchPage {
    /// The most matches in one page.
    pub const MAX_MATCHES: usize = 1024;

    pub(super) fn to_value(&self) -> Value {
        let columns = Columns::of(self.matches.iter().map(|(_, attributes)| Some(attributes)));
        let page = [
            ("more", Value::Boolean(self.more)),
            (
                "paths",
                join(self.matches.iter().map(|(path, _)| path.as_bytes())),
            ),
        ];
        members(page.into_iter().chain(columns.into_members()))
    }

    /// Reads a page that answers `request`.
    pub(super) fn from_fields(
        mut fields: Fields,
        request: &SearchRequest,
    ) -> Result<Self, Refusal> {
        let columns = Columns::take(&mut fields, request.max())?;
        let paths = fields.bytes("paths")?;
        let more = fields.boolean("more")?;
        let mut matches: Vec<(RelPath, Attributes)> = Vec::with_capacity(columns.len());
        for (path, attributes) in split(&paths, columns.len())?.zip(columns.rows()) {
            let path = matched(path)?;
            let before = matches
                .last()
                .map(|(last, _)| last)
                .or(request.after.as_ref());
            if before.is_some_and(|before| *before >= path) {
                return Err(Refusal::invalid("paths that are not strictly ascending"));
            }
            let attributes = attributes?
                .filter(|attributes| attributes.kind == Kind::File)
                .ok_or_else(|| Refusal::invalid("a match that is not a file"))?;
            matches.push((path, attributes));
        }
        Ok(Self { matches, more })
    }
}

/// Reads the path of a file, which is never the root.
fn matched(path: &[u8]) -> Result<RelPath, Refusal> {
    let path = RelPath::new(path)?;
    if path.is_root() {
        return Err(Refusal::invalid("an empty path"));
    }
    Ok(path)
}
