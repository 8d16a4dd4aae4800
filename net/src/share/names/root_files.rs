//! The files at the top of the share, for clients that know no directories.

use std::sync::Arc;
use std::time::Instant;

use super::name_list::{EntryHint, NameList};
use super::pattern::Pattern;
use super::pattern::patience::{SearchTime, TimeIsUp};
use crate::model::{Kind, RelPath};
use crate::protocol::wire::{Fault, FaultCode};
use crate::share::errnos::{is_absence, is_exhaustion};
use crate::share::faults::unreadable;
use crate::share::tree::{PinnedNode, ShareTree};
use crate::share::{Share, fault, internal};

impl Share {
    /// Returns the names of the files, and of links to files, at the top of the share that match
    /// `pattern` and do not begin with a dot: sorted, at most `max` of them, found by `until`.
    ///
    /// # Errors
    /// The fault of a bad pattern, of too many names or too little time, or of a directory that
    /// cannot be read.
    pub fn top_files(
        &self,
        pattern: &str,
        max: usize,
        until: Instant,
    ) -> Result<Vec<Vec<u8>>, Fault> {
        let pattern = Pattern::new(pattern)?;
        let tree = match self.tree() {
            Ok(tree) => tree,
            Err(error) if is_absence(error) => return Ok(Vec::new()),
            Err(error) => return Err(fault(error)),
        };
        let directory = tree.find(&RelPath::root()).map_err(fault)?;
        let names = self.names(&tree, &directory).map_err(unreadable)?;
        let (mut found, mut patience) = (Vec::new(), SearchTime::new(until));
        for index in 0..names.len() {
            let (name, seen) = names.get(index);
            if name.starts_with(b".") || seen == EntryHint::Directory {
                continue;
            }
            let is_match = pattern.matches(name, &mut patience);
            if !is_match.map_err(|TimeIsUp| exceeded("the pattern takes too long"))? {
                continue;
            }
            // Links are the only entries whose names do not show what they are, so each needs
            // a disk access.
            if seen == EntryHint::Link && Instant::now() >= until {
                return Err(exceeded("there are too many links"));
            }
            let is_file = seen == EntryHint::File || is_file(&tree, &directory, &names, index)?;
            if is_file && found.len() == max {
                return Err(exceeded(format!("more than {max} names match")));
            }
            if is_file {
                found.push(name.to_vec());
            }
        }
        Ok(found)
    }
}

/// Returns true if the name with this number leads to a regular file.
fn is_file(
    tree: &Arc<ShareTree>,
    directory: &PinnedNode,
    names: &Arc<NameList>,
    number: usize,
) -> Result<bool, Fault> {
    let entries = tree.entries(directory, names, number..number + 1);
    match entries.map_err(internal)?.pop() {
        Some(Ok(Some(attributes))) => Ok(attributes.kind == Kind::File),
        Some(Err(error)) if is_exhaustion(error) => Err(internal(error)),
        _ => Ok(false),
    }
}

fn exceeded(why: impl Into<String>) -> Fault {
    Fault::new(FaultCode::LimitExceeded, why.into())
}
