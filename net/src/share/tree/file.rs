//! One open file of the share, and the promise that its bytes belong to one state.

use std::io::{self, IoSliceMut};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::{Errno, ReadWriteFlags, pread, preadv2};

use super::aside::{Aside, Crossing};
use super::settle::settle;
use super::stat::FileState;
use crate::model::{Attributes, RelPath, UnixTime};
use crate::share::roots::store::FileLocation;
use crate::share::roots::wishes::FileId;

/// A file in the version that it had when it was opened. Once it is written to, truncated,
/// extended, replaced or deleted, reading fails: each of these changes the inode's ctime. So no
/// answer mixes two versions.
///
/// Changes that the file system's clock does not distinguish go unnoticed: see the limits of
/// `FileState`. So do stores through `mmap` into a page that the program has changed before and
/// that has not been written back since: the kernel does not mark the file again. Code that
/// computes roots avoids this with `settle`.
#[derive(Debug)]
pub struct SharedFile {
    file: Arc<OwnedFd>,
    state: FileState,
    attributes: Attributes,
    way: Option<Way>,
}

/// Whether the state of an open file stands for its content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Settled {
    /// The file is as it was when it was opened, and every later store changes its state.
    Yes,
    /// It has changed since it was opened.
    Changed,
    /// Its file system does not mark every store.
    Never,
}

/// The way to the bytes of a file whose file system may stop responding.
#[derive(Debug)]
pub(crate) struct Way {
    pub(crate) aside: Arc<Aside>,
    pub(crate) crossing: Crossing,
}

impl Drop for SharedFile {
    fn drop(&mut self) {
        // Closing a file may require an answer, too.
        if let Some(way) = &self.way {
            let file = Arc::clone(&self.file);
            way.aside.leave(&way.crossing, move || drop(file));
        }
    }
}

/// How long to wait for [`AT_ONCE`] bytes of such a file: several seconds, because it may
/// be far away.
const BYTES: Duration = Duration::from_secs(3);

/// Bytes requested at once from such a file.
const AT_ONCE: usize = 64 * 1024;

/// How long it may take to write back what programs have stored there.
const WRITING_BACK: Duration = Duration::from_secs(10);

impl SharedFile {
    /// Wraps an open regular file; `None` if `state` is not that of a regular file. `way` is set if
    /// its file system may stop responding.
    pub(crate) fn new(file: OwnedFd, state: FileState, way: Option<Way>) -> Option<Self> {
        let (file, attributes) = (Arc::new(file), state.attributes());
        let Some(attributes) = attributes else {
            if let Some(Way { aside, crossing }) = way {
                aside.leave(&crossing, move || drop(file));
            }
            return None;
        };
        Some(Self {
            attributes,
            file,
            state,
            way,
        })
    }

    /// Returns the attributes that the file had when it was opened. The size does not change
    /// while reads succeed.
    pub fn attributes(&self) -> Attributes {
        self.attributes
    }

    /// Returns the size in bytes that it had when it was opened.
    pub fn size(&self) -> u64 {
        self.attributes.size.or_zero()
    }

    /// Reads bytes at `offset` into `buffer`, as pread(2) does: possibly fewer than requested, and
    /// none only at the end. Once the file no longer has the version seen at open, the error is one
    /// that [`is_changed`] recognizes, and the content of `buffer` is of no use.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let buffer = self.within(offset, buffer);
        if buffer.is_empty() {
            return Ok(0);
        }
        self.read_by_its_way(offset, buffer, Some(self.state))
    }

    /// Reads bytes at `offset` in whatever state the file is by now, as pread(2) does.
    pub(crate) fn read_any(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_by_its_way(offset, buffer, None)
    }

    fn read_by_its_way(
        &self,
        offset: u64,
        buffer: &mut [u8],
        state: Option<FileState>,
    ) -> io::Result<usize> {
        let Some(way) = &self.way else {
            return read(&self.file, state, offset, buffer);
        };
        let (file, wanted) = (Arc::clone(&self.file), buffer.len());
        let job = move || {
            let mut bytes = vec![0; wanted.min(AT_ONCE)];
            let count = read(&file, state, offset, &mut bytes)?;
            bytes.truncate(count);
            io::Result::Ok(bytes)
        };
        let bytes = way.aside.run(&way.crossing, BYTES, job)??;
        buffer[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    /// Does the same as [`SharedFile::read_at`] if that needs no waiting for a disk, that is, from
    /// the page cache. `None` if it does, or if the file system cannot tell.
    pub fn read_at_now(&self, offset: u64, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let buffer = self.within(offset, buffer);
        if buffer.is_empty() {
            return Ok(Some(0));
        }
        if self.way.is_some() {
            return Ok(None);
        }
        let mut slices = [IoSliceMut::new(buffer)];
        match preadv2(&self.file, &mut slices, offset, ReadWriteFlags::NOWAIT) {
            Ok(0) | Err(Errno::AGAIN | Errno::INTR | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(None),
            Ok(count) => {
                check(&self.file, &self.state)?;
                Ok(Some(count))
            }
            Err(other) => Err(other.into()),
        }
    }

    /// Writes back what programs have stored through `mmap`, so that their next store changes the
    /// file's state ([`super::settle`]).
    pub(crate) fn settle(&self) -> io::Result<Settled> {
        let is_marked = match &self.way {
            None => settle(&self.file),
            Some(way) => {
                let file = Arc::clone(&self.file);
                let job = move || settle(&file);
                way.aside.run(&way.crossing, WRITING_BACK, job)?
            }
        };
        if !is_marked? {
            return Ok(Settled::Never);
        }
        let (opened, now) = self.states()?;
        Ok(if opened == now {
            Settled::Yes
        } else {
            Settled::Changed
        })
    }

    /// Returns which file it is, in whatever version.
    pub(crate) fn id(&self) -> FileId {
        self.state.id()
    }

    /// Returns its location, given that it was opened at `path`.
    pub(crate) fn place(&self, path: &RelPath) -> FileLocation {
        FileLocation {
            path: path.clone(),
            inode: self.state.inode(),
            size: self.size(),
        }
    }

    /// Returns the state that it had when it was opened, and its present state.
    pub(crate) fn states(&self) -> io::Result<(FileState, FileState)> {
        let now = match &self.way {
            None => FileState::of(&*self.file)?,
            Some(way) => {
                let file = Arc::clone(&self.file);
                let job = move || FileState::of(&*file);
                way.aside.run(&way.crossing, BYTES, job)??
            }
        };
        Ok((self.state, now))
    }

    /// Returns true if, when it was opened, it had changed less than `time` ago.
    pub(crate) fn changed_within(&self, time: Duration) -> bool {
        !self.state.has_rested(time, UnixTime::now())
    }

    /// Returns the part of `buffer` that the file can fill from `offset` on.
    fn within<'b>(&self, offset: u64, buffer: &'b mut [u8]) -> &'b mut [u8] {
        let left = self.size().saturating_sub(offset);
        let length = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        &mut buffer[..length]
    }

    /// Returns true if a byte can be read from the page cache. This never holds for files across a
    /// network or of another program: their file systems cannot tell, and what does not wait for a
    /// disk there may wait for something else.
    pub(crate) fn is_at_hand(&self) -> bool {
        matches!(self.read_at_now(0, &mut [0]), Ok(Some(1)))
    }
}

/// Reads some bytes of a file. If there is a `state`, the file must be in it afterwards.
fn read(
    file: &OwnedFd,
    state: Option<FileState>,
    offset: u64,
    buffer: &mut [u8],
) -> io::Result<usize> {
    let count = loop {
        match pread(file, &mut *buffer, offset) {
            Err(Errno::INTR) => {}
            done => break done?,
        }
    };
    if let Some(state) = state {
        check(file, &state)?;
        if count == 0 {
            // Some files of sysfs report a size that they do not have.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(count)
}

fn check(file: &OwnedFd, state: &FileState) -> io::Result<()> {
    if FileState::of(file)? == *state {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::StaleNetworkFileHandle,
            "the file changed since it was opened",
        ))
    }
}

/// Limit on attempts to open and read a file that keeps changing.
const MAX_ATTEMPTS: u32 = 4;

/// Calls `attempt`, which opens a file and reads from it, and retries if the file changed in
/// between: a program that writes to it is no reason to fail. If the file changed every time, the
/// last error is one that [`is_changed`] recognizes.
pub(crate) fn retry_while_changing<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 1..MAX_ATTEMPTS {
        match attempt() {
            Err(error) if is_changed(&error) => {}
            done => return done,
        }
    }
    attempt()
}

/// Returns true for the error of reading a file that no longer has the version seen at open.
pub fn is_changed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::StaleNetworkFileHandle
}
