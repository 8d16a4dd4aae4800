//! One open file of the share, and the promise that its bytes are of one state.

use std::io::{self, IoSliceMut};
use std::os::fd::OwnedFd;

use rustix::io::{Errno, ReadWriteFlags, pread, preadv2};

use super::state::State;
use crate::types::Attributes;

/// A file in the version that it had when it was opened. Reading it fails from the moment on at
/// which it is written to, cut, grown, replaced by another or deleted (each of them changes the
/// inode's ctime), so that no answer mixes two versions.
///
/// What the file system's clock does not tell apart is not noticed: see the limits of `State`. A
/// program that writes through `mmap` is noticed when the kernel next marks the file, which may be
/// after the new bytes can be read.
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
        let count = loop {
            match pread(&self.file, &mut *buffer, offset) {
                Err(Errno::INTR) => {}
                done => break done?,
            }
        };
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

    /// The part of `buffer` that the file can fill from `offset` on.
    fn within<'b>(&self, offset: u64, buffer: &'b mut [u8]) -> &'b mut [u8] {
        let left = self.attributes.size.saturating_sub(offset);
        let length = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        &mut buffer[..length]
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

/// True for the error of a read of a file that is no longer in the version seen at open.
pub fn is_changed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::StaleNetworkFileHandle
}
