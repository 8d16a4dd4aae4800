//! `tinyp2p.stat`: the attributes of a batch of paths.

use super::columns::Columns;
use super::fields::{Fields, Refusal, bytes, structure};
use crate::types::{Attributes, RelPath};
use crate::xmlrpc::Value;

pub(super) const NAME: &str = "tinyp2p.stat";

pub(super) const HELP: &str = "\
struct tinyp2p.stat(struct)
The attributes of a batch of paths. Parameter: paths (array of strings or base64, 1 to 256). Result:
the columns kinds, sizes, mtimes, versions, roots, one element per path in the order of the request;
the kind of a path that leads to nothing is '-'.";

/// Asks for the attributes of each of `paths`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StatRequest {
    /// 1 to [`StatRequest::MAX_PATHS`] paths.
    pub paths: Vec<RelPath>,
}

impl StatRequest {
    /// The most paths in one request.
    pub const MAX_PATHS: usize = 256;

    pub(super) fn to_value(&self) -> Value {
        let paths = self.paths.iter();
        let paths = paths.map(|path| Value::from_bytes_text(path.as_bytes()));
        structure([("paths", Value::Array(paths.collect()))])
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
        Ok(Self { paths })
    }
}

/// One answer per path, in the order of the request; `None` where nothing is served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StatResponse {
    /// The attributes.
    pub attributes: Vec<Option<Attributes>>,
}

impl StatResponse {
    pub(super) fn to_value(&self) -> Value {
        structure(Columns::of(self.attributes.iter().map(Option::as_ref)).into_members())
    }

    /// An answer to `request`: one element per path.
    pub(super) fn from_fields(mut fields: Fields, request: &StatRequest) -> Result<Self, Refusal> {
        let columns = Columns::take(&mut fields, request.paths.len())?;
        if columns.len() != request.paths.len() {
            return Err(Refusal::invalid("not one answer per path"));
        }
        let attributes = columns.rows().collect::<Result<_, Refusal>>()?;
        Ok(Self { attributes })
    }
}
