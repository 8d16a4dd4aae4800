//! One open file of the share, and the promise that its bytes are of one state.

use std::io::{self, IoSliceMut};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{fdatasync, fstatfs};
use rustix::io::{Errno, ReadWriteFlags, pread, preadv2};

use super::aside::{Aside, Crossing};
use super::stat::FileState;
use crate::model::{Attributes, RelPath, UnixTime};
use crate::share::roots::store::FileLocation;
use crate::share::roots::wishes::FileId;

/// tmpfs and ramfs keep no pages to write back, so they never notice a store through `mmap`.
const UNMARKED: [u32; 2] = [0x0102_1994, 0x8584_58f6];

/// A file in the version that it had when it was opened. Reading it fails from the moment on at
/// which it is written to, cut, grown, replaced by another or deleted (each of them changes the
/// inode's ctime), so that no answer mixes two versions.
///
/// What the file system's clock does not tell apart is not noticed: see the limits of `FileState`.
/// Nor is a program that stores through `mmap` into a page that it has changed before and that has
/// not been written back since: the kernel does not mark the file again. Whoever computes roots
/// ends that with `settle`.
#[derive(Debug)]
pub struct SharedFile {
    file: Arc<OwnedFd>,
    state: FileState,
    attributes: Attributes,
    way: Option<Way>,
}

/// The way to the bytes of a file whose file system may stop to answer.
#[derive(Debug)]
pub(crate) struct Way {
    pub(crate) aside: Arc<Aside>,
    pub(crate) crossing: Crossing,
}

impl Drop for SharedFile {
    fn drop(&mut self) {
        // To close a file may take an answer, too.
        if let Some(way) = &self.way {
            let file = Arc::clone(&self.file);
            way.aside.leave(&way.crossing, move || drop(file));
        }
    }
}

/// How long [`AT_ONCE`] bytes of such a file are waited for: some seconds, as it may be far away.
const BYTES: Duration = Duration::from_secs(3);

/// Bytes that are asked for at once there.
const AT_ONCE: usize = 64 * 1024;

/// How long it may take to write back what programs have stored there.
const WRITING_BACK: Duration = Duration::from_secs(10);

impl SharedFile {
    /// Wraps an open regular file; `None` when `state` is not that of one. `way` is set if its file
    /// system may stop to answer.
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

    /// The file's attributes when it was opened. The size does not change while reads succeed.
    pub fn attributes(&self) -> Attributes {
        self.attributes
    }

    /// Bytes of content when it was opened.
    pub fn size(&self) -> u64 {
        self.attributes.size.or_zero()
    }

    /// Reads bytes at `offset` into `buffer`, as pread(2) does: possibly fewer than asked for, and
    /// none only at the end. Once the file is no longer in the version seen at open, the error is
    /// one that [`is_changed`] knows, and `buffer` holds nothing of use.
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

    /// [`SharedFile::read_at`] if it can be done without waiting for a disk, that is, out of the
    /// page cache; else `None`, also where the file system cannot tell.
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

    /// Writes back what programs have stored through `mmap`, so that their next store marks the
    /// file as changed. Whoever needs to rely on that opens the file anew afterwards. False where
    /// the file system does not mark such stores at all.
    pub(crate) fn settle(&self) -> io::Result<bool> {
        match &self.way {
            None => settle(&self.file),
            Some(way) => {
                let file = Arc::clone(&self.file);
                let job = move || settle(&file);
                way.aside.run(&way.crossing, WRITING_BACK, job)?
            }
        }
    }

    /// Which file it is, in whatever version.
    pub(crate) fn id(&self) -> FileId {
        self.state.id()
    }

    /// Where it lies, having been opened at `path`.
    pub(crate) fn place(&self, path: &RelPath) -> FileLocation {
        FileLocation {
            path: path.clone(),
            inode: self.state.inode(),
            size: self.size(),
        }
    }

    /// Its state when it was opened, and by now.
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

    /// True if it had changed within `time` of now when it was opened.
    pub(crate) fn changed_within(&self, time: Duration) -> bool {
        !self.state.has_rested(time, UnixTime::now())
    }

    /// The part of `buffer` that the file can fill from `offset` on.
    fn within<'b>(&self, offset: u64, buffer: &'b mut [u8]) -> &'b mut [u8] {
        let left = self.size().saturating_sub(offset);
        let length = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        &mut buffer[..length]
    }

    /// True if a byte can be had out of the page cache. No file of a network can, nor one of
    /// another program: their systems cannot tell, and what does not wait for a disk there may wait
    /// for something else.
    pub(crate) fn is_at_hand(&self) -> bool {
        matches!(self.read_at_now(0, &mut [0]), Ok(Some(1)))
    }
}

/// Reads some bytes of a file, which has to be in `state` afterwards if there is one.
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
            // Some files of sysfs claim a size that they do not have.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(count)
}

fn settle(file: &OwnedFd) -> io::Result<bool> {
    let kind = fstatfs(file)?.f_type;
    if UNMARKED.contains(&(kind as u32)) {
        return Ok(false);
    }
    fdatasync(file)?;
    Ok(true)
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

/// A file that changes more often than this while it is opened and read is given up.
const MAX_ATTEMPTS: u32 = 4;

/// Calls `attempt`, which opens a file and reads from it, again when the file changed in between: a
/// program that writes to it is no reason to fail. The last error is one that [`is_changed`] where
/// the file changed every time.
pub(crate) fn retry_while_changing<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 1..MAX_ATTEMPTS {
        match attempt() {
            Err(error) if is_changed(&error) => {}
            done => return done,
        }
    }
    attempt()
}

/// True for the error of a read of a file that is no longer in the version seen at open.
pub fn is_changed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::StaleNetworkFileHandle
}
