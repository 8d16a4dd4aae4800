//! A file during its download, under the name of a part.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use tinyp2p_net::content::merkle::TreeHasher;
use tinyp2p_net::model::{Name, Root, UnixTime};

use super::Begin;
use super::existing::{read_back, times};
use super::part_name::PartName;
use crate::cli::get::plan::Job;

/// A file during its download. Locked against other processes; dropping it keeps
/// it for the next run.
pub(in crate::cli::get) struct Part {
    directory: OwnedFd,
    file: File,
    part_name: PartName,
    name: Name,
    offset: u64,
    /// The root that the content must have, if it is known.
    root: Option<Root>,
    /// Some of these bytes are unproven: an earlier run left them, or they arrived before
    /// the root was known.
    has_unproven: bool,
    /// Hash of the bytes so far, if only that shows whether they are the content of `root`.
    hasher: TreeHasher,
    /// Whether it has its final name.
    is_finished: bool,
}

impl Part {
    pub(super) fn open(directory: OwnedFd, job: &Job, part_name: PartName) -> io::Result<Begin> {
        let path = part_name.as_path();
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(
            &directory,
            path,
            flags,
            Mode::from(0o666),
        )?);
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(Begin::Busy),
            Err(errno) => return Err(errno.into()),
        }
        let metadata = file.metadata()?;
        let there = rustix::fs::statat(&directory, path, AtFlags::SYMLINK_NOFOLLOW);
        // Another process may have completed it between the open and the lock.
        if !there
            .is_ok_and(|there| (there.st_dev, there.st_ino) == (metadata.dev(), metadata.ino()))
        {
            return Ok(Begin::Busy);
        }
        let own = metadata.is_file()
            && metadata.nlink() == 1
            && metadata.uid() == rustix::process::geteuid().as_raw();
        if !own {
            return Err(io::Error::other(
                "somebody else's file stands in the place of its part",
            ));
        }
        let mut part = Self {
            directory,
            file,
            part_name,
            name: job.name.clone(),
            offset: metadata.len(),
            root: job.root,
            has_unproven: metadata.len() > 0,
            hasher: TreeHasher::default(),
            is_finished: false,
        };
        if part.offset > job.size.or_zero() {
            part.clear()?;
        }
        part.hash_what_is_here()?;
        Ok(Begin::Part(Box::new(part)))
    }

    /// Returns the number of bytes already present.
    pub(in crate::cli::get) fn offset(&self) -> u64 {
        self.offset
    }

    /// Requires the content, including the bytes already present, to have `root`. Bytes added from
    /// now on are proven to belong to it.
    pub(in crate::cli::get) fn expect(&mut self, root: Root) -> io::Result<()> {
        if self.root == Some(root) {
            return Ok(());
        }
        self.root = Some(root);
        self.hasher = TreeHasher::default();
        // They may belong to an earlier state of the file.
        self.has_unproven = self.offset > 0;
        self.hash_what_is_here()
    }

    /// Appends bytes, which are proven if the content root is known.
    pub(in crate::cli::get) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        if self.is_in_doubt() {
            self.hasher.update(bytes);
        }
        Ok(())
    }

    /// Returns true if only the hash of all bytes shows whether they are right.
    fn is_in_doubt(&self) -> bool {
        self.root.is_some() && self.has_unproven
    }

    fn hash_what_is_here(&mut self) -> io::Result<()> {
        if !self.is_in_doubt() {
            return Ok(());
        }
        if read_back(&self.file, self.offset, &mut self.hasher)? {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    /// Returns false if the complete content is wrong, for which the bytes left from before are to
    /// blame. In that case all of it is discarded.
    pub(in crate::cli::get) fn check(&mut self) -> io::Result<bool> {
        let Some(root) = self.root.filter(|_| self.is_in_doubt()) else {
            return Ok(true);
        };
        let tree = std::mem::take(&mut self.hasher).finish();
        let is_genuine = tree.is_some_and(|tree| tree.root() == root);
        if !is_genuine {
            self.clear()?;
        }
        Ok(is_genuine)
    }

    /// Gives up: no holder has the version that was begun any more. Removes what
    /// would be of no use.
    pub(in crate::cli::get) fn give_up(mut self) -> io::Result<()> {
        match self.root {
            // The same content may come back, or exist elsewhere.
            Some(_) => Ok(()),
            None => self.clear(),
        }
    }

    fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.offset = 0;
        self.has_unproven = false;
        self.hasher = TreeHasher::default();
        Ok(())
    }

    /// Gives the complete file its final name. Returns false if something of that
    /// name has appeared.
    pub(in crate::cli::get) fn finish(mut self, mtime: UnixTime) -> io::Result<bool> {
        rustix::fs::futimens(&self.file, &times(mtime))?;
        self.file.sync_all()?;
        let name = OsStr::from_bytes(self.name.as_bytes());
        match rename(&self.directory, self.part_name.as_path(), name) {
            Ok(()) => {
                self.is_finished = true;
                Ok(true)
            }
            Err(Errno::EXIST) => {
                self.clear()?;
                Ok(false)
            }
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Drop for Part {
    /// Removes an empty part, which would save the next run nothing.
    fn drop(&mut self) {
        if self.offset == 0 && !self.is_finished {
            remove(&self.directory, &self.part_name);
        }
    }
}

/// Renames without replacing; uses a second link where the filesystem cannot do that.
fn rename(directory: &OwnedFd, from: &OsStr, to: &OsStr) -> Result<(), Errno> {
    match rustix::fs::renameat_with(directory, from, directory, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => {
            rustix::fs::linkat(directory, from, directory, to, AtFlags::empty())?;
            rustix::fs::unlinkat(directory, from, AtFlags::empty())
        }
        other => other,
    }
}

/// Removes the part of a version that nobody has any more, unless another process is writing it.
pub(super) fn remove_unless_locked(directory: &OwnedFd, part: &PartName) {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::openat(directory, part.as_path(), flags, Mode::empty()) else {
        return;
    };
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
        remove(directory, part);
    }
}

/// Removes a part; if that fails, the litter remains until the next run tries again.
fn remove(directory: &OwnedFd, part: &PartName) {
    let part = part.as_path();
    if let Err(error) = rustix::fs::unlinkat(directory, part, AtFlags::empty()) {
        tracing::debug!(?part, %error, "a part stays");
    }
}
