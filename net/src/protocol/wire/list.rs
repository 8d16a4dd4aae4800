//! `tinyp2p.list`: one directory, in pages, in columns.

use super::Response;
use super::changes::{counter_member, optional_counter};
use super::columns::{Columns, from_long, join, long_mtime, split};
use super::fields::{Fields, Refusal, members};
use crate::model::{Entry, Name, RelPath, UnixTime, Version};
use crate::protocol::xmlrpc::Value;

pub(super) const NAME: &str = "tinyp2p.list";

pub(super) const HELP: &str = "\
struct tinyp2p.list(struct)
One directory, in pages. Parameter: path (string or base64, empty for the root), after (string or
base64, the last name of the page before; left out for the first page), limit (int, at least 1; a page
never holds more than 8192 entries), watch (boolean, may be left out). Result: version (i8), mtime (i8,
nanoseconds since 1970), more (boolean), the columns names, kinds, sizes, mtimes, versions, roots, and
where need be modes and long_mtimes, sorted by the names' bytes, and counter (i8) if the directory is watched; with watch, where there is no
directory: none (boolean, true), and counter.";

/// Asks for the entries of `directory` whose names sort (as bytes) after `after`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListRequest {
    /// The directory to list.
    pub directory: RelPath,
    /// The last name of the previous page; `None` for the first page.
    pub after: Option<Name>,
    /// The most entries wanted; the answer may hold fewer and still not be the last page.
    pub limit: u32,
    /// Whether the caller wants to follow changes to the answer.
    pub watch: bool,
}

impl ListRequest {
    pub(super) fn to_value(&self) -> Value {
        let path = ("path", Value::from_bytes_text(self.directory.as_bytes()));
        let limit = ("limit", Value::Int(self.limit.into()));
        let after = |name: &Name| ("after", Value::from_bytes_text(name.as_bytes()));
        let watch = self.watch.then_some(("watch", Value::Boolean(true)));
        let optional = self.after.as_ref().map(after).into_iter().chain(watch);
        members([path, limit].into_iter().chain(optional))
    }

    pub(super) fn from_fields(mut fields: Fields) -> Result<Self, Refusal> {
        let after = fields.optional_bytes("after")?;
        Ok(Self {
            directory: fields.path("path")?,
            after: after.map(Name::new).transpose()?,
            limit: fields.limit()?,
            watch: fields.optional_flag("watch")?,
        })
    }

    fn max(&self) -> usize {
        (self.limit as usize).min(Listing::MAX_ENTRIES)
    }
}

/// One page of a directory, sorted by the bytes of the names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listing {
    /// The directory's own version: equal versions mean that no name was added or removed.
    pub version: Version,
    /// The directory's modification time.
    pub mtime: UnixTime,
    /// The page's entries, names strictly ascending.
    pub entries: Vec<Entry>,
    /// True when there are names after the last entry.
    pub more: bool,
    /// The callee's change counter from before the page was made, if it watches the directory: the
    /// page holds until the callee reports a change since then.
    pub counter: Option<u64>,
}

impl Listing {
    /// The most entries in one page; keeps a page near 4 MiB at the longest names.
    pub const MAX_ENTRIES: usize = 8192;

    pub(super) fn to_value(&self) -> Value {
        let columns = Columns::of(self.entries.iter().map(|entry| Some(&entry.attributes)));
        let listing = [
            ("version", Value::Int(self.version.0.cast_signed())),
            ("mtime", Value::Int(self.mtime.in_64_bits())),
            ("more", Value::Boolean(self.more)),
            (
                "names",
                join(self.entries.iter().map(|entry| entry.name.as_bytes())),
            ),
        ];
        let listing = listing.into_iter().chain(columns.into_members());
        let counter = counter_member(self.counter);
        let long_mtime = long_mtime(self.mtime);
        let long_mtime = long_mtime.map(|mtime| ("long_mtime", Value::Bytes(mtime.to_vec())));
        members(listing.chain(counter).chain(long_mtime))
    }

    /// Reads a page that answers `request`. An empty page that promises more is refused: a caller
    /// that believed it would ask forever.
    pub(super) fn from_fields(mut fields: Fields, request: &ListRequest) -> Result<Self, Refusal> {
        let columns = Columns::take(&mut fields, request.max())?;
        let names = fields.bytes("names")?;
        let more = fields.boolean("more")?;
        if more && columns.len() == 0 {
            return Err(Refusal::invalid("an empty page with more behind it"));
        }
        let mut entries: Vec<Entry> = Vec::with_capacity(columns.len());
        for (name, attributes) in split(&names, columns.len())?.zip(columns.rows()) {
            let name = Name::new(name)?;
            let before = entries
                .last()
                .map(|last| &last.name)
                .or(request.after.as_ref());
            if before.is_some_and(|before| *before >= name) {
                return Err(Refusal::invalid("names that are not strictly ascending"));
            }
            let attributes =
                attributes?.ok_or_else(|| Refusal::invalid("an entry that is absent"))?;
            entries.push(Entry { name, attributes });
        }
        Ok(Self {
            version: Version(fields.integer::<i64>("version")?.cast_unsigned()),
            mtime: directory_mtime(&mut fields)?,
            entries,
            more,
            counter: optional_counter(&mut fields)?,
        })
    }
}

fn directory_mtime(fields: &mut Fields) -> Result<UnixTime, Refusal> {
    let short: i64 = fields.integer("mtime")?;
    let Some(long) = fields.optional_bytes("long_mtime")? else {
        return Ok(short.into());
    };
    let long = long.try_into();
    from_long(long.map_err(|_| Refusal::invalid("'long_mtime' must have 12 bytes"))?)
}

/// Encodes the answer that there is no directory.
pub(super) fn no_directory(counter: Option<u64>) -> Value {
    let none = ("none", Value::Boolean(true));
    members([none].into_iter().chain(counter_member(counter)))
}

/// Reads the answer to `request`: a page, or that there is no directory.
pub(super) fn from_fields(mut fields: Fields, request: &ListRequest) -> Result<Response, Refusal> {
    if fields.optional_flag("none")? {
        let counter = optional_counter(&mut fields)?;
        return Ok(Response::NoDirectory { counter });
    }
    Ok(Response::List(Listing::from_fields(fields, request)?))
}
