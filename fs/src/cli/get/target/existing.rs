//! Files that already exist at the place of a fetched file.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use tinyp2p_net::content::merkle::TreeHasher;
use tinyp2p_net::model::{Name, UnixTime};

use crate::cli::get::plan::Job;

/// Bytes read at once when an existing file is hashed.
const READ_BACK: usize = 256 * 1024;

/// Creates the error for something in the way: existing files are never overwritten.
pub(super) fn in_the_way(what: &str) -> io::Error {
    io::Error::other(format!(
        "{what}, is in the way here: move it, or name another directory by -d"
    ))
}

/// Returns what exists under `name` in `directory`; `None` if nothing does.
///
/// # Errors
/// Fails, apart from system errors, if it is no file. A symbolic link counts as a file,
/// wherever it leads.
pub(super) fn existing(directory: &OwnedFd, name: &Name) -> io::Result<Option<Existing>> {
    let path = OsStr::from_bytes(name.as_bytes());
    let stat = match rustix::fs::statat(directory, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => return Ok(Some(Existing(None))),
        FileType::RegularFile => {}
        FileType::Directory => return Err(in_the_way(&format!("'{name}', a directory"))),
        _ => return Err(in_the_way(&format!("'{name}', which is no file"))),
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    // A file that cannot be read is not compared.
    let file = rustix::fs::openat(directory, path, flags, Mode::empty());
    Ok(Some(Existing(file.ok().map(File::from))))
}

/// A file that already exists; one that cannot be opened just stays.
pub(super) struct Existing(Option<File>);

impl Existing {
    /// Returns true if it may be the file of `job`, apart from its modification time.
    pub(super) fn is_outdated(&self, job: &Job) -> bool {
        let metadata = self.0.as_ref().and_then(|file| file.metadata().ok());
        metadata.is_some_and(|metadata| {
            let mtime = (metadata.mtime(), metadata.mtime_nsec());
            let wanted = (job.mtime.seconds(), i64::from(job.mtime.nanoseconds()));
            let is_alike = metadata.is_file() && metadata.len() == job.size.or_zero();
            is_alike && mtime != wanted
        })
    }

    /// Returns true if its content root is that of `job`: reads all of it.
    pub(super) fn has_content_of(&self, job: &Job) -> io::Result<bool> {
        let (Some(file), Some(root)) = (&self.0, job.root) else {
            return Ok(false);
        };
        let mut hasher = TreeHasher::default();
        let whole = read_back(file, job.size.or_zero(), &mut hasher)?;
        Ok(whole && hasher.finish().is_some_and(|tree| tree.root() == root))
    }

    /// Sets the modification time. Only the owner may do so; others' files stay as they are.
    pub(super) fn set_mtime(&self, mtime: UnixTime) {
        if let Some(file) = &self.0
            && let Err(error) = rustix::fs::futimens(file, &times(mtime))
        {
            tracing::debug!(%error, "a modification time stays");
        }
    }
}

/// Hashes the first `length` bytes of `file`; returns false if there are fewer.
pub(super) fn read_back(file: &File, length: u64, hasher: &mut TreeHasher) -> io::Result<bool> {
    let mut buffer = vec![0; READ_BACK];
    let mut offset = 0;
    while offset < length {
        let most = (length - offset).min(READ_BACK as u64) as usize;
        match file.read_at(&mut buffer[..most], offset)? {
            0 => return Ok(false),
            count => {
                hasher.update(&buffer[..count]);
                offset += count as u64;
            }
        }
    }
    Ok(true)
}

/// Returns both timestamps for a file that was modified at `mtime`.
pub(super) fn times(mtime: UnixTime) -> Timestamps {
    let time = Timespec {
        // The kernel adjusts what its file system cannot represent.
        tv_sec: mtime.seconds(),
        tv_nsec: mtime.nanoseconds().into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
