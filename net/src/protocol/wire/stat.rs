//! `tinyp2p.stat`: the attributes of a batch of paths.

use super::changes::{counter_member, optional_counter};
use super::columns::Columns;
use super::fields::{Fields, Refusal, bytes, members};
use crate::model::{Attributes, RelPath};
use crate::protocol::xmlrpc::Value;

pub(super) const NAME: &str = "tinyp2p.stat";

pub(super) const HELP: &str = "\
struct tinyp2p.stat(struct)
The attributes of a batch of paths. Parameter: paths (array of strings or base64, 1 to 256),
watch and compare (booleans, may be left out). Result: the columns kinds, sizes, mtimes, versions, roots, and where
need be modes and long_mtimes, one element per path in the order of the request; the kind of a path that leads to nothing is '-'; and counter (i8) if
watch was asked for and all of it is watched.";

/// Asks for the attributes of each of `paths`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StatRequest {
    /// 1 to [`StatRequest::MAX_PATHS`] paths.
    pub paths: Vec<RelPath>,
    /// Whether the caller wants to follow changes to the answer.
    pub watch: bool,
    /// Whether the caller has other files to compare these with, so that their content roots should
    /// be computed before those of other files.
    pub compare: bool,
}

impl StatRequest {
    /// The most paths in one request.
    pub const MAX_PATHS: usize = 256;

    pub(super) fn to_value(&self) -> Value {
        let paths = self.paths.iter();
        let paths = paths.map(|path| Value::from_bytes_text(path.as_bytes()));
        let flags = [("watch", self.watch), ("compare", self.compare)].into_iter();
        let flags = flags.filter(|(_, is_set)| *is_set);
        let flags = flags.map(|(name, _)| (name, Value::Boolean(true)));
        let paths = [("paths", Value::Array(paths.collect()))];
        members(paths.into_iter().chain(flags))
    }

    pub(super) fn from_fields(mut fields: Fields) -> Result<Self, Refusal> {
        let paths = fields.array("paths", Self::MAX_PATHS)?;
        if paths.is_empty() {
            return Err(Refusal::invalid("at least one path is expected"));
        }
        let paths = paths
            .into_iter()
            .map(|path| Ok(RelPath::new(&bytes(path, "paths")?)?))
            .collect::<Result<_, Refusal>>()?;
        Ok(Self {
            paths,
            watch: fields.optional_flag("watch")?,
            compare: fields.optional_flag("compare")?,
        })
    }
}

/// One answer per path, in the order of the request; `None` where nothing is served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StatResponse {
    /// The attributes of each path, in the order of the request; `None` where nothing is shared.
    pub attributes: Vec<Option<Attributes>>,
    /// As [`Listing::counter`](super::Listing::counter), for all paths together.
    pub counter: Option<u64>,
}

impl StatResponse {
    pub(super) fn to_value(&self) -> Value {
        let columns = Columns::of(self.attributes.iter().map(Option::as_ref)).into_members();
        members(columns.chain(counter_member(self.counter)))
    }

    /// Reads an answer to `request`: one element per path.
    pub(super) fn from_fields(mut fields: Fields, request: &StatRequest) -> Result<Self, Refusal> {
        let columns = Columns::take(&mut fields, request.paths.len())?;
        if columns.len() != request.paths.len() {
            return Err(Refusal::invalid("not one answer per path"));
        }
        let attributes = columns.rows().collect::<Result<_, Refusal>>()?;
        let counter = optional_counter(&mut fields)?;
        Ok(Self {
            attributes,
            counter,
        })
    }
}
