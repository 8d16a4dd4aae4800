//! The files of one cache, and the lock that reserves them for one process.

use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::slab::Slab;
use super::{PIECE_BLOCKS, own_file};

/// Both slabs, and the lock on them.
pub(super) struct Disk {
    directory: PathBuf,
    pub(super) small: Slab,
    pub(super) large: Slab,
    /// Holds the `flock` as long as the files are used.
    lock: File,
}

impl Disk {
    /// Opens the files in `directory`, creating both if need be, with at most `size` bytes
    /// together. `Ok(None)` when another process has them.
    pub(super) fn open(directory: &Path, size: u64) -> io::Result<Option<Self>> {
        let own = directory.join("blocks-1");
        DirBuilder::new().recursive(true).mode(0o700).create(&own)?;
        let Some(lock) = lock(&own.join(LOCK))? else {
            return Ok(None);
        };
        Ok(Some(Self {
            small: Slab::open(&own.join(SMALL), 1, size / 8)?,
            large: Slab::open(&own.join(LARGE), PIECE_BLOCKS, size - size / 8)?,
            directory: own,
            lock,
        }))
    }

    /// Returns the slab whose slots have `span` blocks.
    pub(super) fn slab(&self, span: u64) -> &Slab {
        match span {
            1 => &self.small,
            _ => &self.large,
        }
    }

    /// Scans what an earlier process left, until `stop` returns true.
    pub(super) fn scan(&self, stop: impl Fn() -> bool) {
        self.small.scan(&stop);
        self.large.scan(&stop);
    }

    /// Returns true if the open files are still the ones in the directory.
    pub(super) fn is_in_place(&self) -> bool {
        let files = [
            (LOCK, &self.lock),
            (SMALL, self.small.file()),
            (LARGE, self.large.file()),
        ];
        files.into_iter().all(|(name, file)| {
            let there = self.directory.join(name).symlink_metadata();
            let here = file.metadata();
            let pair = there.and_then(|there| Ok((there, here?)));
            pair.is_ok_and(|(there, here)| (there.dev(), there.ino()) == (here.dev(), here.ino()))
        })
    }
}

const LOCK: &str = "lock";
const SMALL: &str = "small";
const LARGE: &str = "large";

/// Locks the file, creating it if there is none; `None` when another process has it.
pub(super) fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = own_file::open(path, rustix::process::geteuid())?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}
