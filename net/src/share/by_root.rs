//! A shared file, found by its content.

use super::{Share, SharedFile};
use crate::types::Root;
use crate::wire::FaultCode;

impl Share {
    /// Opens a file that has the content of `root` now. `None` when no file is known to: of several
    /// copies only the one that was hashed last is looked at, and when that one has gone or changed, the
    /// next one is found once somebody opens it.
    pub fn open_content(&self, root: Root) -> Option<SharedFile> {
        let roots = self.roots.as_ref()?;
        let path = match roots.path(root) {
            Ok(path) => path?,
            Err(error) => {
                tracing::warn!(%error, "a content cannot be looked up");
                return None;
            }
        };
        match self.tree_file(&path) {
            Ok(file) => {
                let version = file.attributes().version;
                if roots.of([version].into_iter()) == [Some(root)] {
                    return Some(file);
                }
                // Another content, or the same one touched: its root is computed anew.
                self.wanted.add(path.clone(), false);
            }
            Err(fault) if fault.code == FaultCode::Internal => {
                tracing::warn!(%path, %fault, "a shared file cannot be opened");
                return None;
            }
            Err(_) => {}
        }
        if let Err(error) = roots.forget_path(root, &path) {
            tracing::warn!(%error, "a content that has gone cannot be forgotten");
        }
        None
    }
}
