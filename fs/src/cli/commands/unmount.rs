//! `tinyp2p unmount`: removes a mount of this program from the tree, and nothing else.

use std::path::Path;

use crate::cli::CommandFailure;
use crate::cli::output::say;
use crate::mount::table::MountList;
use crate::mount::{self, Unmounted};

/// Unmounts; a busy mount disappears at once and ends with its last open file.
pub(crate) fn run(mountpoint: &Path) -> Result<(), CommandFailure> {
    let failed = |why: String| CommandFailure::failed(format!("{}: {why}", mountpoint.display()));
    let path = crate::cli::mountpoint::resolve(mountpoint).map_err(failed)?;
    let table =
        MountList::read().map_err(|e| failed(format!("cannot read the mount table: {e}")))?;
    match table.at(&path) {
        None => return Err(failed("nothing is mounted there".to_owned())),
        Some(entry) if !entry.is_ours() => {
            return Err(failed(format!(
                "is not a mount of this program, but of type {}",
                entry.kind
            )));
        }
        Some(_) => {}
    }
    if mount::unmount(&path).map_err(|e| failed(e.to_string()))? == Unmounted::Detached {
        let gone = "was busy; it is gone from the tree and ends with its last open file";
        say("tinyp2p", &format!("{} {gone}", path.display()));
    }
    Ok(())
}
