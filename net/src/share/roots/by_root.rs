//! A shared file, found by its content.

use std::time::Instant;

use super::former::{FormerFile, KnownTrees};
use super::relocate::Whereabouts;
use super::store::FileLocation;
use crate::model::{ByteRange, ContentId, RelPath, Root, Version};
use crate::protocol::wire::FaultCode;
use crate::share::errnos::is_absence;
use crate::share::{Asker, Share, SharedFile, file_in};

/// Where a content can be read.
#[derive(Debug)]
pub enum SharedContent {
    /// In a file that has it.
    File(SharedFile),
    /// In a file that had it, and still has the requested bytes.
    Former(FormerFile),
}

/// Why a content cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoContent {
    /// No file is known to have it.
    Gone,
    /// There was no time to find the file that had it.
    Unknown,
    /// This could not be determined: something failed here, or has run out.
    Failed,
}

impl Share {
    /// Opens a file that has the content of `root`, or at least the part of it that begins at
    /// `start`. Prefers a file known to have it, then one that had it when last checked, even under
    /// another name. Of several copies, only the one checked last is known. If that one has
    /// disappeared or changed, the next one is found once somebody opens it.
    ///
    /// # Errors
    /// What is known if no file is found by `until`.
    pub fn open_content(
        &self,
        root: Root,
        start: u64,
        until: Instant,
    ) -> Result<SharedContent, NoContent> {
        let place = self.place_of(root).ok_or(NoContent::Gone)?;
        let tree = match self.tree() {
            Ok(tree) => tree,
            // What was known of it stays known.
            Err(error) if is_absence(error) => return Err(NoContent::Gone),
            Err(_) => return Err(NoContent::Failed),
        };
        let here = match file_in(&tree, &place.path) {
            Ok(file) => Some(file),
            Err(fault) if fault.code == FaultCode::Internal => {
                tracing::warn!(path = %place.path, %fault, "a shared file cannot be opened");
                return Err(NoContent::Failed);
            }
            Err(_) => None,
        };
        let (size, path) = (place.size, place.path.clone());
        if let Some(file) = &here
            && self.root_of(file.attributes().version) == Some(root)
        {
            return here.map(SharedContent::File).ok_or(NoContent::Gone);
        }
        let content = ContentId { root, size };
        if let Some(former) = here.and_then(|file| self.former(file, content, start)) {
            // Most likely only its times have changed: its root is recomputed.
            self.wanted_soon(Asker::Nobody, [path].into_iter());
            return Ok(SharedContent::Former(former));
        }
        let whereabouts = self.relocations.find(&tree, (root, &place), until);
        if let Whereabouts::Unknown = whereabouts {
            return Err(NoContent::Unknown);
        }
        if let Whereabouts::At(path) = whereabouts
            && let Ok(file) = file_in(&tree, &path)
            && let Some(former) = self.former(file, content, start)
        {
            self.note_place(root, path);
            return Ok(SharedContent::Former(former));
        }
        tracing::debug!(%root, start, path = %place.path, "a content has gone");
        if start == 0 {
            self.forget_place(root, &place.path);
        }
        self.wanted_soon(Asker::Nobody, [place.path].into_iter());
        Err(NoContent::Gone)
    }

    /// Returns the root of this version, if it is known.
    pub(crate) fn root_of(&self, version: Version) -> Option<Root> {
        let roots = self.roots.as_ref()?;
        roots.of([version].into_iter()).pop().flatten()
    }

    /// Returns the hash trees of contents that files here have or had.
    pub(crate) fn trees(&self) -> KnownTrees {
        KnownTrees {
            roots: self.roots.clone(),
            captures: self.captures.clone(),
        }
    }

    /// Returns where a file lay that had this content.
    pub(crate) fn place_of(&self, root: Root) -> Option<FileLocation> {
        if let Some(captured) = self.captures.of_root(root) {
            return Some(captured.place());
        }
        match self.roots.as_ref()?.place(root) {
            Ok(place) => place,
            Err(error) => {
                tracing::warn!(%error, "a content cannot be looked up");
                None
            }
        }
    }

    /// Wraps `file` as a former one, if it has the byte at `start` of `content`.
    fn former(&self, file: SharedFile, content: ContentId, start: u64) -> Option<FormerFile> {
        let former = FormerFile::new(file, content, self.trees());
        let first = ByteRange::new(start, start.saturating_add(1).min(content.size));
        if first.is_empty() {
            return Some(former);
        }
        match former.read(first) {
            Ok(Some(_)) => Some(former),
            Ok(None) => None,
            Err(error) => {
                tracing::debug!(%error, "a file that had a content cannot be read");
                None
            }
        }
    }

    /// Stores where a content was found again.
    fn note_place(&self, root: Root, path: RelPath) {
        if let Some(captured) = self.captures.of_root(root) {
            captured.note_moved(path.clone());
        }
        let Ok(file) = self.tree_file(&path) else {
            return;
        };
        let Some(roots) = &self.roots else { return };
        let known = roots.place(root).ok().flatten();
        let Some(known) = known else { return };
        let place = FileLocation {
            size: known.size,
            ..file.place(&path)
        };
        let noted = roots
            .forget_place(root, &known.path)
            .and_then(|()| roots.add_place(root, place));
        if let Err(error) = noted {
            tracing::warn!(%error, "where a content lies now cannot be kept");
        }
        self.wanted_soon(Asker::Nobody, [path].into_iter());
    }

    fn forget_place(&self, root: Root, path: &RelPath) {
        if let Some(roots) = &self.roots
            && let Err(error) = roots.forget_place(root, path)
        {
            tracing::warn!(%error, "a content that has gone cannot be forgotten");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
impl Share {
    /// Computes and stores the root of a file now, for tests that cannot wait until it looks
    /// settled, or that run on a file system whose files get none.
    pub(crate) fn learn(&self, path: &RelPath) -> Root {
        let file = self.tree_file(path).unwrap();
        let mut bytes = vec![0; file.size() as usize];
        let mut filled = 0;
        while filled < bytes.len() {
            filled += file.read_at(filled as u64, &mut bytes[filled..]).unwrap();
        }
        let mut hasher = crate::content::merkle::TreeHasher::default();
        hasher.update(&bytes);
        let (tree, version) = (hasher.finish().unwrap(), file.attributes().version);
        let roots = self.roots.as_ref().unwrap();
        assert!(roots.insert(version, file.place(path), &tree));
        tree.root()
    }
}
