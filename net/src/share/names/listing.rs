//! One page of one directory.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;

use super::name_list::NameList;
use crate::concurrency::parallel::in_halves;
use crate::model::{Entry, MAX_NAME_BYTES, Name};
use crate::protocol::wire::Listing;
use crate::share::errnos::is_exhaustion;
use crate::share::tree::{PinnedNode, ShareTree};

// A page has to fit into a message, with base64 and everything else around the names.
const _: () = assert!(Listing::MAX_ENTRIES * MAX_NAME_BYTES <= 2 << 20);

/// If each entry takes a query to another machine, this many are examined between two checks of the
/// time. That takes no longer than one directory may.
const AT_ONCE: usize = 256;

/// Returns the entries of `directory` after `after`, at most `limit`. Only these are examined. A
/// name that leads nowhere, or is gone by now, is left out, and the page is filled up with the next
/// ones until `until`. A page that is short for lack of time has more entries after it.
///
/// # Errors
/// [`Errno::TIMEDOUT`] if there was only time for names that lead nowhere; or this machine has run
/// out of a resource.
pub(crate) fn page(
    tree: &Arc<ShareTree>,
    directory: &PinnedNode,
    names: &Arc<NameList>,
    after: Option<&Name>,
    limit: usize,
    until: Instant,
) -> Result<Listing, Errno> {
    let mut next = after.map_or(0, |after| names.behind(after.as_bytes()));
    let mut entries = Vec::with_capacity(limit.min(names.len() - next));
    while entries.len() < limit && next < names.len() {
        let max = (limit - entries.len()).min(if directory.may_stop() {
            AT_ONCE
        } else {
            usize::MAX
        });
        let range = next..names.len().min(next + max);
        next = range.end;
        for seen in in_halves(range, |range| look(tree, directory, names, range)) {
            entries.append(&mut seen?);
        }
        if next < names.len() && Instant::now() >= until {
            if entries.is_empty() {
                return Err(Errno::TIMEDOUT);
            }
            break;
        }
    }
    let more = next < names.len();
    Ok(Listing {
        version: directory.state.version(),
        mtime: directory.state.mtime(),
        entries,
        more,
        counter: None,
    })
}

/// Returns what lies under the names with these numbers.
fn look(
    tree: &Arc<ShareTree>,
    directory: &PinnedNode,
    names: &Arc<NameList>,
    numbers: Range<usize>,
) -> Result<Vec<Entry>, Errno> {
    let mut entries = Vec::with_capacity(numbers.len());
    let looked = tree.entries(directory, names, numbers.clone())?;
    for (number, entry) in numbers.zip(looked) {
        let (name, _) = names.get(number);
        match entry {
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
    Ok(entries)
}
