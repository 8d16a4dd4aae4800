//! Opens the files of the cache, and refuses those of other users.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::process::Uid;

/// Opens the regular file at `path` for reading and writing, creating it if need be. It must belong
/// to `owner`; links are not followed.
///
/// # Errors
/// Those of the system; also if it is another kind of file, or belongs to another user.
pub(super) fn open(path: &Path, owner: Uid) -> io::Result<File> {
    // A FIFO of that name is an error instead of a hang.
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let file = options
        .mode(0o600)
        .custom_flags(flags.bits() as i32)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("is not a regular file"));
    }
    if metadata.uid() != owner.as_raw() {
        return Err(io::Error::other("belongs to somebody else"));
    }
    Ok(file)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rustix::process::geteuid;

    use super::*;

    #[test]
    fn a_file_of_somebody_else_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("large");
        assert!(open(&path, geteuid()).is_ok());
        assert!(open(&path, geteuid()).is_ok());
        // The owner of the file is fixed, so the test varies who asks.
        let somebody_else = Uid::from_raw(geteuid().as_raw() ^ 1);
        assert!(open(&path, somebody_else).is_err());
    }

    #[test]
    fn what_is_no_regular_file_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("large");
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert!(open(&path, geteuid()).is_err());
        std::fs::remove_file(&path).unwrap();
        let fifo = rustix::fs::FileType::Fifo;
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, fifo, mode, 0).unwrap();
        assert!(open(&path, geteuid()).is_err());
    }
}
