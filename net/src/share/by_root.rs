//! A shared file, found by its content.

use super::{Asker, Share, SharedFile, file_in};
use crate::types::Root;
use crate::wire::FaultCode;

impl Share {
    /// Opens a file that has the content of `root` now. `None` when no file is known to: of several
    /// copies only the one that was hashed last is looked at, and when that one has gone or changed, the
    /// next one is found once somebody opens it.
    pub fn open_content(&self, root: Root) -> Option<SharedFile> {
        let roots = self.roots.as_ref()?;
        // While nothing is there, what was known of it stays known.
        let tree = self.tree().ok()?;
        let path = match roots.path(root) {
            Ok(path) => path?,
            Err(error) => {
                tracing::warn!(%error, "a content cannot be looked up");
                return None;
            }
        };
        match file_in(&tree, &path) {
            Ok(file) => {
                let version = file.attributes().version;
                if roots.of([version].into_iter()) == [Some(root)] {
                    return Some(file);
                }
                // Another content, or the same one touched: its root is computed anew.
                self.wanted_soon(Asker::Nobody, [path.clone()].into_iter());
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
