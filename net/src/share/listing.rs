//! One page of one directory.

use std::sync::Arc;

use rustix::io::Errno;

use super::names::Names;
use super::tree::{Found, Tree, is_exhaustion};
use crate::types::{Entry, MAX_NAME_BYTES, Name};
use crate::wire::Listing;

// A page has to fit a message, with base64 and all else that is around the names.
const _: () = assert!(Listing::MAX_ENTRIES * MAX_NAME_BYTES <= 2 << 20);

/// The entries of `directory` behind `after`, at most `limit`. Only these are looked at: a name
/// that leads nowhere, or is gone by now, is left out and the page filled up with the next.
pub(super) fn page(
    tree: &Tree,
    directory: &Found,
    names: &Arc<Names>,
    after: Option<&Name>,
    limit: usize,
) -> Result<Listing, Errno> {
    let start = after.map_or(0, |after| names.behind(after.as_bytes()));
    let mut entries = Vec::with_capacity(limit.min(names.len() - start));
    let mut more = false;
    for index in start..names.len() {
        if entries.len() == limit {
            more = true;
            break;
        }
        let (name, seen) = names.get(index);
        match tree.entry(directory, name, seen) {
            Ok(Some(attributes)) => {
                entries.extend(Name::new(name).ok().map(|name| Entry { name, attributes }))
            }
            Ok(None) => {}
            Err(error) if is_exhaustion(error) => return Err(error),
            Err(error) => tracing::trace!(
                "{} leaves out \"{}\": {error}",
                directory.real(),
                name.escape_ascii()
            ),
        }
    }
    Ok(Listing {
        version: directory.state.version(),
        mtime: directory.state.mtime(),
        entries,
        more,
        counter: None,
    })
}
