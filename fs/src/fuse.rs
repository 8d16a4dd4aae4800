//! The kernel's requests, unpacked, answered by [`Filesystem`], packed again. No decisions, except
//! who waits: this is the only file that knows fuser.
//!
//! fuser calls from a few event-loop threads, and a request that the kernel has handed over cannot
//! be interrupted, not even by SIGKILL. So what memory knows is answered at once, what needs the
//! network goes to [`Workers`] with a deadline that began when the request came, and reads are
//! answered by the download that has their bytes. Only a small read may fetch what it lacks in an
//! event loop, and only while enough other loops are free that nothing has to wait for it. A
//! handler that panics answers EIO, because fuser does so when a reply is dropped.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType,
    FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, PollEvents,
    PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};
use tinyp2p_net::config::CALL_DEADLINE;
use tinyp2p_net::download::Patience;
use tinyp2p_net::model::{Attributes, Kind, Mode, UnixTime};

use crate::errno::{self, Error};
use crate::kernel_cache::{Busy, Expirer};
use crate::vfs::inodes::Pages;
use crate::vfs::{Attr, Filesystem, Looked, STATFS_BLOCK};
use crate::view::Wait;
use workers::{JobTurn, Workers};

/// How long the kernel may answer from its own memory. A second, as the view's own: together they
/// bound how old an answer can be (SEMANTICS.md), and much less makes `cp -r` four times slower.
const TTL: Duration = Duration::from_secs(1);

/// The same for attributes of what was looked up by name: whoever looks each second whether a file
/// has grown (`tail -f`) is not to be told by the kernel's memory that it has not.
const ATTRIBUTE_TTL: Duration = Duration::from_millis(750);

/// Read requests that the kernel may have under way on its own account. There is one queue for
/// the whole mount: with fuser's 16, a few readers of a dead member would hold up readahead
/// for all others.
const MAX_BACKGROUND: u16 = 64;

/// Event loops that never wait. Two answer concurrent requests without a wake-up in between
/// (measured: 30 to 40 us a request against 60 to 75 with one).
const FREE_LOOPS: usize = 2;

/// Event loops that may wait for a small read. What comes beyond takes the way by another thread.
const WAITING_LOOPS: usize = 2;

/// What programs are told to read at once.
const PREFERRED_READ: u32 = 128 * 1024;

/// A number always stands for the same thing, so one generation does.
const GENERATION: Generation = Generation(0);

/// `filesystem` as fuser wants it. Everything in the mount belongs to the user of this
/// process. What members have news of goes to `expirer`, if the kernel knows what that is for;
/// where somebody waits is told to `busy`. With `exec`, files are shown as executable that are
/// at their owner.
pub fn adapter(
    filesystem: Arc<Filesystem>,
    expirer: Option<Expirer>,
    busy: Arc<Busy>,
    exec: bool,
) -> impl fuser::Filesystem {
    Adapter {
        filesystem,
        expirer,
        busy,
        workers: Workers::default(),
        patient: Workers::few(),
        waiting: WaitingLoops::default(),
        owner: MountOwner {
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            exec,
        },
    }
}

/// The session settings that belong to [`adapter`]; mount options and access are the caller's.
pub fn session_config() -> fuser::Config {
    let mut config = fuser::Config::default();
    config.n_threads = Some(FREE_LOOPS + WAITING_LOOPS);
    config.clone_fd = true;
    config
}

struct Adapter {
    filesystem: Arc<Filesystem>,
    expirer: Option<Expirer>,
    busy: Arc<Busy>,
    workers: Workers,
    /// For opens that have to fetch a whole file.
    patient: Workers,
    waiting: WaitingLoops,
    owner: MountOwner,
}

impl fuser::Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // One flag a call: a call with one unknown flag sets none.
        if config
            .add_capabilities(InitFlags::FUSE_DO_READDIRPLUS)
            .is_err()
        {
            let why = "this kernel's FUSE does not know READDIRPLUS";
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        if config
            .add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS)
            .is_err()
        {
            tracing::debug!("lookups in one directory come one at a time");
        }
        if let Some(expirer) = self.expirer.take()
            && config
                .capabilities()
                .contains(InitFlags::FUSE_HAS_EXPIRE_ONLY)
        {
            self.filesystem.expire_by(expirer);
        }
        if config.set_max_background(MAX_BACKGROUND).is_err() {
            tracing::debug!("the kernel keeps its own limit on background requests");
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (name, owner) = (name.as_bytes().to_vec(), self.owner());
        self.answer_by(
            &self.workers,
            Some(parent.0),
            "lookup",
            reply,
            move |fs, wait, _| fs.lookup(parent.0, &name, wait),
            move |reply, looked| match looked {
                Looked::Found(attr) => {
                    let (of_name, of_attributes) = (ttl(attr), ttl(attr).min(ATTRIBUTE_TTL));
                    let attr = owner.attr(attr);
                    reply.entry_with_ttls(&of_attributes, &of_name, &attr, GENERATION);
                }
                Looked::Absent { certain: false } => reply.error(Errno::ENOENT),
                // Inode 0 is an absence that the kernel remembers for as long as the TTL says.
                Looked::Absent { certain: true } => {
                    reply.entry(&TTL, &owner.attr(Attr::NOTHING), GENERATION);
                }
            },
        );
    }

    fn forget(&self, _: &Request, inode: INodeNo, count: u64) {
        shielded(|| self.filesystem.forget(inode.0, count));
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let owner = self.owner();
        self.answer(
            "getattr",
            reply,
            move |fs, wait, _| fs.getattr(inode.0, wait),
            move |reply, attr| reply.attr(&ttl(attr), &owner.attr(attr)),
        );
    }

    fn access(&self, _: &Request, inode: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let mask = mask.bits();
        self.answer(
            "access",
            reply,
            move |fs, _, _| fs.access(inode.0, mask),
            |reply, ()| reply.ok(),
        );
    }

    fn opendir(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.answer(
            "opendir",
            reply,
            move |fs, _, _| fs.opendir(inode.0),
            |reply, handle| reply.opened(FileHandle(handle), FopenFlags::empty()),
        );
    }

    fn readdirplus(
        &self,
        _: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let owner = self.owner();
        let filesystem = Arc::clone(&self.filesystem);
        self.answer_by(
            &self.workers,
            Some(inode.0),
            "readdirplus",
            reply,
            move |fs, wait, reply: &mut ReplyDirectoryPlus| {
                fs.readdirplus(handle.0, offset, wait, &mut |entry| {
                    let (ttl, attr) = (ttl(entry.attr), owner.attr(entry.attr));
                    let name = OsStr::from_bytes(entry.name);
                    // `true` means that it did not fit.
                    !reply.add(attr.ino, entry.next, name, &ttl, &attr, GENERATION)
                })
            },
            move |reply, ()| {
                reply.ok();
                filesystem.readdirplus_ahead(handle.0);
            },
        );
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        shielded(|| self.filesystem.releasedir(handle.0));
        reply.ok();
    }

    fn open(&self, _: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.answer_by(
            &self.patient,
            None,
            "open",
            reply,
            move |fs, wait, _| {
                fs.prepare(inode.0, wait)?;
                fs.open(inode.0, flags.0, wait)
            },
            |reply, opened| {
                let pages = match opened.pages {
                    Pages::Keep => FopenFlags::FOPEN_KEEP_CACHE,
                    Pages::Drop => FopenFlags::empty(),
                    Pages::Bypass => FopenFlags::FOPEN_DIRECT_IO,
                };
                // There is nothing to flush.
                let flags = pages | FopenFlags::FOPEN_NOFLUSH;
                reply.opened(FileHandle(opened.handle), flags);
            },
        );
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let done = Box::new(move |result: Result<&[u8], Error>| match result {
            Ok(bytes) => reply.data(bytes),
            // The filesystem has logged it, with the file's name.
            Err(error) => reply.error(Errno::from_i32(errno::errno(&error))),
        });
        let place = self.waiting.enter();
        let patience = match place {
            Some(_) => Patience::Short,
            None => Patience::None,
        };
        shielded(|| {
            self.filesystem.read(handle.0, offset, size, patience, done);
        });
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        shielded(|| self.filesystem.release(handle.0));
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let known = self.filesystem.statfs();
        let (block, longest_name) = (STATFS_BLOCK as u32, 255);
        reply.statfs(
            known.blocks,
            0,
            0,
            known.files,
            0,
            block,
            longest_name,
            block,
        );
    }

    fn getxattr(&self, _: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.as_bytes().to_vec();
        self.answer(
            "getxattr",
            reply,
            move |fs, wait, _| fs.xattr(inode.0, &name, wait),
            move |reply, value| match value.len() {
                length if size == 0 => reply.size(length as u32),
                length if length > size as usize => reply.error(Errno::ERANGE),
                _ => reply.data(&value),
            },
        );
    }

    /// The attributes are there when asked for by name and never listed, so that copies do not
    /// carry them along. ENOSYS makes the kernel answer the rest itself; new `ls -l` would ask
    /// for every file.
    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    // Nothing to flush, to poll for, or to seek to: after one ENOSYS the kernel does these itself.

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _: i64, _: i32, reply: ReplyLseek) {
        reply.error(Errno::ENOSYS);
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    // Every write is EROFS.

    fn setattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: INodeNo,
        _: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn create(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        reply.error(Errno::EROFS);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    fn setxattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: &[u8],
        _: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }
}

impl Adapter {
    fn owner(&self) -> MountOwner {
        self.owner
    }

    /// Answers an operation from memory, or else hands it to a worker and lets the event
    /// loop go on.
    fn answer<R, T>(
        &self,
        operation: &'static str,
        reply: R,
        ask: impl Fn(&Filesystem, Wait, &mut R) -> Result<T, Error> + Send + 'static,
        tell: impl FnOnce(R, T) + Send + 'static,
    ) where
        R: Refuse + Send + 'static,
    {
        self.answer_by(&self.workers, None, operation, reply, ask, tell);
    }

    /// The same, by one of these `workers` if it has to wait; the kernel holds its lock on
    /// `directory` meanwhile.
    fn answer_by<R, T>(
        &self,
        workers: &Workers,
        directory: Option<u64>,
        operation: &'static str,
        mut reply: R,
        ask: impl Fn(&Filesystem, Wait, &mut R) -> Result<T, Error> + Send + 'static,
        tell: impl FnOnce(R, T) + Send + 'static,
    ) where
        R: Refuse + Send + 'static,
    {
        let deadline = Instant::now() + CALL_DEADLINE;
        shielded(|| {
            let result = ask(&self.filesystem, Wait::No, &mut reply);
            if !matches!(result, Err(Error::NeedsNetwork)) {
                return finish(operation, reply, result, tell);
            }
            let filesystem = Arc::clone(&self.filesystem);
            let waiting = directory.map(|directory| self.busy.enter(directory));
            workers.submit(Box::new(move |turn| {
                let result = match turn {
                    JobTurn::Now => ask(&filesystem, Wait::Until(deadline), &mut reply),
                    JobTurn::Refused => Err(Error::Overloaded),
                };
                finish(operation, reply, result, tell);
                drop(waiting);
            }));
        });
    }
}

fn finish<R: Refuse, T>(
    operation: &'static str,
    reply: R,
    result: Result<T, Error>,
    tell: impl FnOnce(R, T),
) {
    match result {
        Ok(value) => tell(reply, value),
        Err(error) => reply.refuse(report(operation, &error)),
    }
}

/// Logs a failure and turns it into what the kernel understands.
fn report(operation: &'static str, error: &Error) -> Errno {
    match errno::level(error) {
        tracing::Level::WARN => tracing::warn!(operation, %error),
        tracing::Level::INFO => tracing::info!(operation, %error),
        _ => tracing::debug!(operation, %error),
    }
    Errno::from_i32(errno::errno(error))
}

/// How many event loops wait, or may come to.
#[derive(Default)]
struct WaitingLoops(AtomicUsize);

impl WaitingLoops {
    /// A place for one event loop, until it is dropped; `None` when the others must stay free.
    fn enter(&self) -> Option<InodePlace<'_>> {
        let one_more = |waiting| (waiting < WAITING_LOOPS).then_some(waiting + 1);
        let entered = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        entered.ok().map(|_| InodePlace(&self.0))
    }
}

struct InodePlace<'a>(&'a AtomicUsize);

impl Drop for InodePlace<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Keeps a panic from ending an event loop, which nothing would replace.
fn shielded(handler: impl FnOnce()) {
    // The panic hook has reported it, and the dropped reply has answered EIO.
    let _ = catch_unwind(AssertUnwindSafe(handler));
}

/// Every kind of reply can be an error.
trait Refuse {
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

impl Attr {
    /// The entry that stands for an absence.
    const NOTHING: Self = Self {
        inode: 0,
        kind: Kind::File,
        mode: Mode::Plain,
        size: 0,
        mtime: UnixTime::EPOCH,
        may_grow: false,
    };
}

/// Whom everything in the mount belongs to.
#[derive(Clone, Copy)]
struct MountOwner {
    uid: u32,
    gid: u32,
    /// Whether programs can be executed, so that it is worth while to tell which files are some.
    exec: bool,
}

impl MountOwner {
    fn attr(self, attr: Attr) -> FileAttr {
        let kind = match attr.kind {
            Kind::Directory => FileType::Directory,
            Kind::File => FileType::RegularFile,
        };
        let perm = match (attr.kind, attr.mode) {
            (_, Mode::Unreadable) => 0,
            (Kind::Directory, _) => 0o555,
            (Kind::File, Mode::Executable) if self.exec => 0o555,
            (Kind::File, _) => 0o444,
        };
        let mtime = time(attr.mtime);
        let size = if is_measured(attr) { attr.size } else { 0 };
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
            // Of a directory, too: 2 would say that it has no subdirectories, and programs would
            // believe it.
            nlink: 1,
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: PREFERRED_READ,
            flags: 0,
        }
    }
}

fn is_measured(attr: Attr) -> bool {
    attr.size != Attributes::UNKNOWN_SIZE
}

/// How long the kernel may go by `attr`. What has no size yet is looked at again by everybody: an
/// open may have given it one. So is a file that is open: whoever asks again does so to see whether
/// it has grown.
fn ttl(attr: Attr) -> Duration {
    if is_measured(attr) && !attr.may_grow {
        TTL
    } else {
        Duration::ZERO
    }
}

/// The same point in time: its seconds have 64 bits, too.
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

#[cfg(test)]
mod tests;
pub mod workers;
