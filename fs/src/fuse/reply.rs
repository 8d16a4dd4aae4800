//! Replies to the kernel: attributes, how long they stay valid, and errors.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileType, Generation, INodeNo, ReplyAttr, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyXattr,
};
use tinyp2p_net::model::{FileSize, Kind, Mode, UnixTime};

use crate::errno::{self, Error};
use crate::vfs::Attr;

/// How long the kernel may answer from its cache. One second, as in the view's cache: together they
/// bound the age of an answer (SEMANTICS.md), and much less makes `cp -r` four times slower.
pub(super) const TTL: Duration = Duration::from_secs(1);

/// The same limit for attributes looked up by name: a program that checks every second whether a
/// file has grown (`tail -f`) must not get an old size from the kernel's cache.
pub(super) const ATTRIBUTE_TTL: Duration = Duration::from_millis(750);

/// Read size recommended to programs.
const PREFERRED_READ: u32 = 128 * 1024;

/// An inode number is never reused, so one generation is enough.
pub(super) const GENERATION: Generation = Generation(0);

/// Replies of every kind can carry an error.
pub(super) trait Refuse {
    fn refuse(self, errno: Errno);
}

macro_rules! refuse {
    ($($reply:ty),*) => {
        $(impl Refuse for $reply {
            fn refuse(self, errno: Errno) {
                self.error(errno);
            }
        })*
    };
}

refuse!(
    ReplyEntry,
    ReplyAttr,
    ReplyEmpty,
    ReplyOpen,
    ReplyDirectoryPlus,
    ReplyXattr
);

/// Sends `result`, packed by `pack`, or its error.
pub(super) fn finish<R: Refuse, T>(
    operation: &'static str,
    reply: R,
    result: Result<T, Error>,
    pack: impl FnOnce(R, T),
) {
    match result {
        Ok(value) => pack(reply, value),
        Err(error) => reply.refuse(report(operation, &error)),
    }
}

/// Logs a failure and converts it into an errno for the kernel.
fn report(operation: &'static str, error: &Error) -> Errno {
    match errno::level(error) {
        tracing::Level::WARN => tracing::warn!(operation, %error),
        tracing::Level::INFO => tracing::info!(operation, %error),
        _ => tracing::debug!(operation, %error),
    }
    Errno::from_i32(errno::errno(error))
}

impl Attr {
    /// The entry that represents an absence.
    pub(super) const NOTHING: Self = Self {
        inode: 0,
        kind: Kind::File,
        mode: Mode::Plain,
        size: FileSize::ZERO,
        mtime: UnixTime::EPOCH,
        may_grow: false,
    };
}

/// The owner of everything in the mount.
#[derive(Clone, Copy)]
pub(super) struct MountOwner {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Whether programs can be executed, so that showing executable files is useful.
    pub(super) exec: bool,
}

impl MountOwner {
    pub(super) fn attr(self, attr: Attr) -> FileAttr {
        let kind = match attr.kind {
            Kind::Directory => FileType::Directory,
            Kind::File => FileType::RegularFile,
        };
        // What is copied out of the mount gets these bits, so they let its new owner write. Here,
        // the kernel refuses every write before it looks at them.
        let perm = match (attr.kind, attr.mode) {
            (_, Mode::Unreadable) => 0,
            (Kind::Directory, _) => 0o755,
            (Kind::File, Mode::Executable) if self.exec => 0o755,
            (Kind::File, _) => 0o644,
        };
        let mtime = time(attr.mtime);
        let size = attr.size.or_zero();
        FileAttr {
            ino: INodeNo(attr.inode),
            size,
            blocks: size.div_ceil(512),
            atime: mtime,
            mtime,
            ctime: mtime,
            crtime: mtime,
            kind,
            perm,
            // Directories too: 2 would claim that there are no subdirectories, and
            // programs would believe it.
            nlink: 1,
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: PREFERRED_READ,
            flags: 0,
        }
    }
}

/// Returns how long the kernel may cache `attr`. A file of unknown size is not cached: an open
/// may have determined its size. Nor is an open file: a program that asks again wants to know
/// whether it has grown.
pub(super) fn ttl(attr: Attr) -> Duration {
    if attr.size.is_known() && !attr.may_grow {
        TTL
    } else {
        Duration::ZERO
    }
}

/// Converts to the same point in time; its seconds have 64 bits, too.
fn time(at: UnixTime) -> SystemTime {
    let distance = Duration::from_secs(at.seconds().unsigned_abs());
    let whole = if at.seconds() < 0 {
        UNIX_EPOCH.checked_sub(distance)
    } else {
        UNIX_EPOCH.checked_add(distance)
    };
    let rest = Duration::from_nanos(at.nanoseconds().into());
    let time = whole.and_then(|whole| whole.checked_add(rest));
    time.unwrap_or(UNIX_EPOCH)
}
