//! The files of one directory, queried and opened by their names in it.
//!
//! Going through the whole share by paths costs several opens a file. A directory that is pinned
//! once takes one call a file to see whether it has changed, and one to open it. This serves only
//! what needs no further decision: regular files on the directory's own device, which answers at
//! once. Everything else has to be found by its path.

use rustix::io::Errno;

use super::PinnedNode;
use super::beneath::read_in;
use super::file::SharedFile;
use super::stat::FileState;
use crate::model::Kind;

/// A pinned directory that is served and whose file system does not stop responding.
pub(crate) struct NearbyDirectory<'a>(&'a PinnedNode);

impl<'a> NearbyDirectory<'a> {
    /// Wraps `directory`; `None` if it is no directory, or may stop responding.
    pub(crate) fn new(directory: &'a PinnedNode) -> Option<Self> {
        let is_near = directory.state.kind() == Some(Kind::Directory) && !directory.may_stop();
        is_near.then_some(Self(directory))
    }

    /// Returns the state of the regular file `name`, which must be one that the tree serves; `None`
    /// if there is none on this device.
    pub(crate) fn state(&self, name: &[u8]) -> Option<FileState> {
        let state = FileState::of_entry(&self.0.handle, name).ok()?;
        self.is_plain(&state).then_some(state)
    }

    /// Opens the regular file `name` for reading, without changing its access time if this user may
    /// do that.
    ///
    /// # Errors
    /// [`Errno::NOENT`] if it is something else by now, or what the open failed with.
    pub(crate) fn open(&self, name: &[u8]) -> Result<SharedFile, Errno> {
        let file = read_in(&self.0.handle, name)?;
        let state = FileState::of(&file)?;
        if !self.is_plain(&state) {
            return Err(Errno::NOENT);
        }
        SharedFile::new(file, state, None).ok_or(Errno::NOENT)
    }

    fn is_plain(&self, state: &FileState) -> bool {
        state.kind() == Some(Kind::File) && state.device() == self.0.state.device()
    }
}
