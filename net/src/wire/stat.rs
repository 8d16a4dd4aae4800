//! `tinyp2p.stat`: the attributes of a batch of paths.

use crate::types::{Attributes, RelPath};

/// Asks for the attributes of each of `paths`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StatRequest {
    /// 1 to [`StatRequest::MAX_PATHS`] paths.
    pub paths: Vec<RelPath>,
}

impl StatRequest {
    /// The most paths in one request.
    pub const MAX_PATHS: usize = 256;
}

/// One answer per path, in the order of the request; `None` where nothing is served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StatResponse {
    /// The attributes.
    pub attributes: Vec<Option<Attributes>>,
}
