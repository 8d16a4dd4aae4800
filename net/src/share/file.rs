//! One open file of the share, and the promise that its bytes are of one state.

use std::io::{self, IoSliceMut};
use std::os::fd::OwnedFd;

use rustix::fs::{fdatasync, fstatfs};
use rustix::io::{Errno, ReadWriteFlags, pread, preadv2};

use super::roots::Place;
use super::state::State;
use super::wishes::FileId;
use crate::types::{Attributes, RelPath};

/// tmpfs and ramfs keep no pages to write back, so they never notice a store through `mmap`.
const UNMARKED: [u32; 2] = [0x0102_1994, 0x8584_58f6];

/// A file in the version that it had when it was opened. Reading it fails from the moment on at
/// which it is written to, cut, grown, replaced by another or deleted (each of them changes the
/// inode's ctime), so that no answer mixes two versions.
///
/// What the file system's clock does not tell apart is not noticed: see the limits of `State`. Nor is
/// a program that stores through `mmap` into a page that it has changed before and that has not been
/// written back since: the kernel does not mark the file again. Whoever computes roots ends that
/// with `settle`.
#[derive(Debug)]
pub struct SharedFile {
    file: OwnedFd,
    state: State,
    attributes: Attributes,
}

impl SharedFile {
    /// Wraps an open regular file; `None` when `state` is not that of one.
    pub(super) fn new(file: OwnedFd, state: State) -> Option<Self> {
        Some(Self {
            attributes: state.attributes()?,
            file,
            state,
        })
    }

    /// The file's attributes when it was opened. The size does not change while reads succeed.
    pub fn attributes(&self) -> Attributes {
        self.attributes
    }

    /// Reads bytes at `offset` into `buffer`, as pread(2) does: possibly fewer than asked for, and
    /// none only at the end. Once the file is no longer in the version seen at open, the error is
    /// one that [`is_changed`] knows, and `buffer` holds nothing of use.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let buffer = self.within(offset, buffer);
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = read_at(&self.file, offset, buffer)?;
        self.check()?;
        if count == 0 {
            // Some files of sysfs claim a size that they do not have.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(count)
    }

    /// [`SharedFile::read_at`] if it can be done without waiting for a disk, that is, out of the
    /// page cache; else `None`, also where the file system cannot tell.
    pub fn read_at_now(&self, offset: u64, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let buffer = self.within(offset, buffer);
        if buffer.is_empty() {
            return Ok(Some(0));
        }
        let mut slices = [IoSliceMut::new(buffer)];
        match preadv2(&self.file, &mut slices, offset, ReadWriteFlags::NOWAIT) {
            Ok(0) | Err(Errno::AGAIN | Errno::INTR | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(None),
            Ok(count) => {
                self.check()?;
                Ok(Some(count))
            }
            Err(other) => Err(other.into()),
        }
    }

    /// Writes back what programs have stored through `mmap`, so that their next store marks the file
    /// as changed. Whoever needs to rely on that opens the file anew afterwards. False where the file
    /// system does not mark such stores at all.
    pub(super) fn settle(&self) -> io::Result<bool> {
        let kind = fstatfs(&self.file)?.f_type;
        if UNMARKED.contains(&(kind as u32)) {
            return Ok(false);
        }
        fdatasync(&self.file)?;
        Ok(true)
    }

    /// Which file it is, in whatever version.
    pub(super) fn id(&self) -> FileId {
        self.state.id()
    }

    /// Where it lies, having been opened at `path`.
    pub(super) fn place(&self, path: &RelPath) -> Place {
        Place {
            path: path.clone(),
            inode: self.state.inode(),
            size: self.attributes.size,
        }
    }

    /// Its state when it was opened, and by now.
    pub(super) fn states(&self) -> io::Result<(State, State)> {
        Ok((self.state, State::of(&self.file)?))
    }

    /// The same file, to be read in whatever state it is.
    pub(super) fn into_descriptor(self) -> OwnedFd {
        self.file
    }

    /// Reads bytes at `offset` in whatever state the file is by now, as pread(2) does.
    pub(super) fn read_any(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        read_at(&self.file, offset, buffer)
    }

    /// When the file last changed in any way, nanoseconds since 1970. Unlike the mtime, programs cannot
    /// set it.
    pub(super) fn last_change(&self) -> i64 {
        self.state.ctime()
    }

    /// The part of `buffer` that the file can fill from `offset` on.
    fn within<'b>(&self, offset: u64, buffer: &'b mut [u8]) -> &'b mut [u8] {
        let left = self.attributes.size.saturating_sub(offset);
        let length = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        &mut buffer[..length]
    }

    /// True if a byte can be had out of the page cache. No file of a network can, nor one of another program:
    /// their systems cannot tell, and what does not wait for a disk there may wait for something else.
    pub(crate) fn is_at_hand(&self) -> bool {
        matches!(self.read_at_now(0, &mut [0]), Ok(Some(1)))
    }

    fn check(&self) -> io::Result<()> {
        if State::of(&self.file)? == self.state {
            Ok(())
        } else {
            Err(io::Error::new(
                io::ErrorKind::StaleNetworkFileHandle,
                "the file changed since it was opened",
            ))
        }
    }
}

/// pread(2), whatever interrupts it.
pub(super) fn read_at(file: &OwnedFd, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match pread(file, &mut *buffer, offset) {
            Err(Errno::INTR) => {}
            done => return Ok(done?),
        }
    }
}

/// True for the error of a read of a file that is no longer in the version seen at open.
pub fn is_changed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::StaleNetworkFileHandle
}
