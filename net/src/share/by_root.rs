//! A shared file, found by its content.

use super::tree::is_absence;
use super::{Asker, Share, SharedFile, file_in, internal};
use crate::error::Error;
use crate::types::Root;
use crate::wire::{Fault, FaultCode};

impl Share {
    /// Opens a file that has the content of `root` now. `None` when no file is known to: of several
    /// copies only the one that was hashed last is looked at, and when that one has gone or changed, the
    /// next one is found once somebody opens it.
    ///
    /// # Errors
    /// Whether there is one cannot be told: something failed here, or has run out.
    pub fn open_content(&self, root: Root) -> Result<Option<SharedFile>, Fault> {
        let Some(roots) = &self.roots else {
            return Ok(None);
        };
        let tree = match self.tree() {
            Ok(tree) => tree,
            // What was known of it stays known.
            Err(error) if is_absence(error) => return Ok(None),
            Err(error) => return Err(internal(error)),
        };
        let failed = |error: Error| Fault::new(FaultCode::Internal, error.to_string());
        let Some(path) = roots.path(root).map_err(failed)? else {
            return Ok(None);
        };
        match file_in(&tree, &path) {
            Ok(file) => {
                let version = file.attributes().version;
                if roots.of([version].into_iter()) == [Some(root)] {
                    return Ok(Some(file));
                }
                // Another content, or the same one touched: its root is computed anew.
                self.wanted_soon(Asker::Nobody, [path.clone()].into_iter());
            }
            Err(fault) if fault.code == FaultCode::Internal => return Err(fault),
            Err(_) => {}
        }
        if let Err(error) = roots.forget_path(root, &path) {
            tracing::warn!(%error, "a content that has gone cannot be forgotten");
        }
        Ok(None)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
impl Share {
    /// Computes and keeps the root of a file now, for tests that cannot wait until it looks settled, or
    /// that run on a file system whose files get none.
    pub(crate) fn learn(&self, path: &crate::types::RelPath) -> Root {
        let file = self.tree_file(path).unwrap();
        let mut bytes = vec![0; file.attributes().size as usize];
        let mut filled = 0;
        while filled < bytes.len() {
            filled += file.read_at(filled as u64, &mut bytes[filled..]).unwrap();
        }
        let mut hasher = crate::merkle::TreeHasher::default();
        hasher.update(&bytes);
        let (tree, version) = (hasher.finish().unwrap(), file.attributes().version);
        let roots = self.roots.as_ref().unwrap();
        assert!(roots.insert(version, path, &tree).unwrap());
        tree.root()
    }
}
