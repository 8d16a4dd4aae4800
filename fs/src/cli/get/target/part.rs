//! A file on its way in, under the name of a part.

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

/// A file on its way in. Locked against other processes; dropping it leaves it for the next run.
pub(in crate::cli::get) struct Part {
    directory: OwnedFd,
    file: File,
    part_name: PartName,
    name: Name,
    offset: u64,
    /// What the content must turn out to be, if that is known.
    root: Option<Root>,
    /// Nobody has proven some of these bytes: an earlier run left them, or they came before the
    /// root was known.
    has_unproven: bool,
    /// The hash of what is here, if only that shows whether it is the content of `root`.
    hasher: TreeHasher,
    /// It has its name.
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
        // Between the opening and the locking, another process may have completed it.
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

    /// The bytes that are here already.
    pub(in crate::cli::get) fn offset(&self) -> u64 {
        self.offset
    }

    /// The content has to turn out to be that of `root`, what is here included. Bytes that are
    /// added from now on have been proven to be of it.
    pub(in crate::cli::get) fn expect(&mut self, root: Root) -> io::Result<()> {
        if self.root == Some(root) {
            return Ok(());
        }
        self.root = Some(root);
        self.hasher = TreeHasher::default();
        // It may be of a state before.
        self.has_unproven = self.offset > 0;
        self.hash_what_is_here()
    }

    /// Adds bytes at the end, which are proven if the content root is known.
    pub(in crate::cli::get) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        if self.is_in_doubt() {
            self.hasher.update(bytes);
        }
        Ok(())
    }

    /// True if it takes the hash of all bytes to know whether they are what they have to be.
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

    /// False if the complete content is not what it has to be, as what was here before is to blame
    /// for. Then all of it is thrown away.
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

    /// None of the holders has it any more in the version that was begun. What would be of use
    /// to nobody goes.
    pub(in crate::cli::get) fn give_up(mut self) -> io::Result<()> {
        match self.root {
            // The same content may come back, or be somewhere else.
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

    /// Gives the complete file its name. False if something of that name has appeared meanwhile.
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
    /// What has no bytes saves the next run nothing.
    fn drop(&mut self) {
        if self.offset == 0 && !self.is_finished {
            remove(&self.directory, &self.part_name);
        }
    }
}

/// Renames without replacing; where the filesystem cannot do that, by a second link.
fn rename(directory: &OwnedFd, from: &OsStr, to: &OsStr) -> Result<(), Errno> {
    match rustix::fs::renameat_with(directory, from, directory, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => {
            rustix::fs::linkat(directory, from, directory, to, AtFlags::empty())?;
            rustix::fs::unlinkat(directory, from, AtFlags::empty())
        }
        other => other,
    }
}

/// Removes the part of a version that nobody has any more, unless another process writes it.
pub(super) fn remove_unless_locked(directory: &OwnedFd, part: &PartName) {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::openat(directory, part.as_path(), flags, Mode::empty()) else {
        return;
    };
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
        remove(directory, part);
    }
}

/// Removes a part; what stays is only litter, which the next run tries again.
fn remove(directory: &OwnedFd, part: &PartName) {
    let part = part.as_path();
    if let Err(error) = rustix::fs::unlinkat(directory, part, AtFlags::empty()) {
        tracing::debug!(?part, %error, "a part stays");
    }
}
