//! Opening things below the shared directory, and nothing else.
//!
//! The directory is opened for one request. Every other open of that request starts there and is
//! one `openat2(2)`. The kernel resolves it without following a symbolic link, without a magic link
//! of `/proc`, and without leaving the directory, so no race with a rename can lead outside. Links
//! are followed by [`crate::share::tree`], one step at a time, each step through this module.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::model::RelPath;

/// How many times an open is tried if the kernel reports it as interrupted or
/// untimely: a concurrent rename, a signal, or a lease that its holder has to give
/// back first (fcntl(2), F_SETLEASE).
const TRIES: u32 = 10;

/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(5);

/// How the shared directory itself is opened.
const TOP: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// How a file is opened that may turn out to be something else.
const READ: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

/// How every path below it is looked up.
const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_SYMLINKS);

/// Whether a path may lead into a file system that is mounted below the shared directory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mounts {
    /// It may not: `EXDEV`.
    Stay,
    /// It may. The caller has checked every mount on the way.
    Cross,
}

/// The shared directory, the only place from which anything is opened.
#[derive(Debug)]
pub(crate) struct Beneath {
    root: OwnedFd,
}

/// Pins the directory at `directory`, following symbolic links.
pub(crate) fn open_top(directory: &Path) -> Result<OwnedFd, Errno> {
    patiently(|| rustix::fs::openat(CWD, directory, TOP, Mode::empty()))
}

/// Like [`open_top`], but fails unless this needs no waiting for a disk or another machine, that
/// is, unless the kernel has all names in memory.
pub(crate) fn open_top_now(directory: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::openat2(CWD, directory, TOP, Mode::empty(), ResolveFlags::CACHED)
}

impl Beneath {
    /// Wraps `top`, a pinned directory, to open what lies below it.
    pub(crate) fn new(top: OwnedFd) -> Self {
        Self { root: top }
    }

    /// Fails with a human-readable message if the kernel, or the sandbox around this process,
    /// has no `openat2`.
    pub(crate) fn check(&self) -> io::Result<()> {
        match self.pin(&RelPath::root(), Mounts::Stay) {
            Ok(_) => Ok(()),
            Err(Errno::NOSYS | Errno::PERM | Errno::INVAL) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the system call openat2 is missing: it takes Linux 5.6 or newer, and a container \
                 or sandbox must allow it",
            )),
            Err(other) => Err(other.into()),
        }
    }

    /// Pins whatever is at `path`, even a symbolic link, without opening it: a device does not
    /// notice, and a FIFO does not block. A link on the way there is `ELOOP`.
    pub(crate) fn pin(&self, path: &RelPath, mounts: Mounts) -> Result<OwnedFd, Errno> {
        self.open(path, OFlags::PATH | OFlags::NOFOLLOW, mounts)
    }

    /// Opens `path` for reading. The caller must check what it got. If it is a FIFO or a terminal
    /// by now, this neither blocks on it nor makes it the controlling terminal.
    pub(crate) fn read(&self, path: &RelPath) -> Result<OwnedFd, Errno> {
        self.open(path, READ, Mounts::Cross)
    }

    /// Opens the file at `path` for reading, on the shared directory's own mount, if that needs no
    /// waiting. The caller knows that it was a regular file a moment ago, and checks what it got.
    pub(crate) fn read_now(&self, path: &RelPath) -> Result<OwnedFd, Errno> {
        let resolve = RESOLVE | ResolveFlags::NO_XDEV | ResolveFlags::CACHED;
        let flags = READ | OFlags::CLOEXEC;
        rustix::fs::openat2(&self.root, path.as_bytes(), flags, Mode::empty(), resolve)
    }

    fn open(&self, path: &RelPath, flags: OFlags, mounts: Mounts) -> Result<OwnedFd, Errno> {
        let path = match path.as_bytes() {
            b"" => &b"."[..],
            below => below,
        };
        openat2(&self.root, path, flags, mounts)
    }
}

/// Opens a pinned directory to read its names. Nothing is looked up, so this opens exactly
/// what was pinned.
pub(crate) fn open_directory(pinned: impl AsFd) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    openat2(pinned, b".", flags, Mounts::Stay)
}

/// Opens the file `name`, one component, in a pinned directory and on its mount, like
/// [`Beneath::read`]. Reading does not change the file's access time, if this user may decide that.
pub(crate) fn read_in(pinned: impl AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    match openat2(&pinned, name, READ | OFlags::NOATIME, Mounts::Stay) {
        // It belongs to another user.
        Err(Errno::PERM) => openat2(&pinned, name, READ, Mounts::Stay),
        done => done,
    }
}

fn openat2(from: impl AsFd, path: &[u8], flags: OFlags, mounts: Mounts) -> Result<OwnedFd, Errno> {
    let mut resolve = RESOLVE;
    if mounts == Mounts::Stay {
        resolve |= ResolveFlags::NO_XDEV;
    }
    let flags = flags | OFlags::CLOEXEC;
    patiently(|| rustix::fs::openat2(&from, path, flags, Mode::empty(), resolve))
}

/// Retries `open`, a bounded number of times, if it fails for a transient reason.
fn patiently(mut open: impl FnMut() -> Result<OwnedFd, Errno>) -> Result<OwnedFd, Errno> {
    for _ in 1..TRIES {
        match open() {
            Err(Errno::AGAIN | Errno::INTR) => thread::sleep(PAUSE),
            done => return done,
        }
    }
    open()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn links_are_pinned_but_never_followed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("real")).unwrap();
        fs::write(dir.path().join("real/file"), "x").unwrap();
        symlink("real", dir.path().join("link")).unwrap();
        let beneath = Beneath::new(open_top(dir.path()).unwrap());
        beneath.check().unwrap();
        assert!(beneath.pin(&path("real/file"), Mounts::Stay).is_ok());
        assert!(beneath.read(&path("real/file")).is_ok());
        assert!(beneath.pin(&path("link"), Mounts::Stay).is_ok());
        assert_eq!(beneath.read(&path("link")).unwrap_err(), Errno::LOOP);
        assert_eq!(
            beneath.pin(&path("link/file"), Mounts::Cross).unwrap_err(),
            Errno::LOOP
        );
    }

    #[test]
    fn only_a_directory_can_be_shared() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "x").unwrap();
        let error = |name: &str| open_top(&dir.path().join(name)).unwrap_err();
        assert_eq!(error("file"), Errno::NOTDIR);
        assert_eq!(error("nothing"), Errno::NOENT);
    }

    #[test]
    fn transient_failure_retries_are_bounded() {
        let mut calls = 0;
        let outcome = patiently(|| {
            calls += 1;
            Err(Errno::AGAIN)
        });
        assert_eq!((outcome.unwrap_err(), calls), (Errno::AGAIN, TRIES));
    }
}
