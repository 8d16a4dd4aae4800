//! The kernel's requests: the adapter unpacks each one and hands it to the [`Filesystem`], and
//! [`super::reply`] packs the answer.
//!
//! The event loop answers what is in memory. Requests that need the network go to a
//! [`ThreadPool`], with a deadline counted from the arrival of the request. A read is answered by
//! the download that holds its bytes.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, FopenFlags, INodeNo,
    InitFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};
use tinyp2p_net::concurrency::thread_pool::{JobTurn, ThreadPool};
use tinyp2p_net::config::CALL_DEADLINE;
use tinyp2p_net::download::ReaderPatience;

use super::WaitingLoops;
use super::reply::{ATTRIBUTE_TTL, GENERATION, MountOwner, Refuse, TTL, finish, ttl};
use crate::errno::{self, Error};
use crate::kernel_cache::{Busy, Expirer};
use crate::vfs::inodes::Pages;
use crate::vfs::{Attr, Filesystem, LookupResult, STATFS_BLOCK};
use crate::view::Wait;

/// Background read requests that the kernel may have in flight. There is one queue for the whole
/// mount: with fuser's 16, a few readers of a dead member would hold up readahead for all others.
const MAX_BACKGROUND: u16 = 64;

/// Answers the given operations with an error, whatever their arguments.
macro_rules! refuse_all {
    ($errno:ident: $($operation:ident($($argument:ty),*) -> $reply:ty;)*) => {
        $(fn $operation(&self, _: &Request, $(_: $argument,)* reply: $reply) {
            reply.error(Errno::$errno);
        })*
    };
}

/// Answers the kernel's requests.
pub(super) struct Adapter {
    pub(super) filesystem: Arc<Filesystem>,
    pub(super) expirer: Option<Expirer>,
    pub(super) busy: Arc<Busy>,
    pub(super) workers: ThreadPool,
    /// Workers for opens that have to fetch a whole file.
    pub(super) patient: ThreadPool,
    pub(super) waiting: WaitingLoops,
    pub(super) owner: MountOwner,
}

impl fuser::Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // One flag per call: a call with one unknown flag sets none.
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
        let (name, owner) = (name.as_bytes().to_vec(), self.owner);
        self.answer_by(
            &self.workers,
            Some(parent.0),
            "lookup",
            reply,
            move |fs, wait, _| fs.lookup(parent.0, &name, wait),
            move |reply, looked| match looked {
                LookupResult::Found(attr) => {
                    let (of_name, of_attributes) = (ttl(attr), ttl(attr).min(ATTRIBUTE_TTL));
                    let attr = owner.attr(attr);
                    reply.entry_with_ttls(&of_attributes, &of_name, &attr, GENERATION);
                }
                LookupResult::Absent { certain: false } => reply.error(Errno::ENOENT),
                // Inode 0 is an absence, which the kernel caches for the TTL.
                LookupResult::Absent { certain: true } => {
                    reply.entry(&TTL, &owner.attr(Attr::NOTHING), GENERATION);
                }
            },
        );
    }

    fn forget(&self, _: &Request, inode: INodeNo, count: u64) {
        shielded(|| self.filesystem.forget(inode.0, count));
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let owner = self.owner;
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
        let owner = self.owner;
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
                    // `true` means that the entry did not fit.
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
            // The filesystem has already logged it, with the file's name.
            Err(error) => reply.error(Errno::from_i32(errno::errno(&error))),
        });
        let waiting = self.waiting.enter();
        let patience = match waiting {
            Some(_) => ReaderPatience::Short,
            None => ReaderPatience::None,
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

    // The attributes can be read by name but are never listed, so that copies do not carry them
    // along. There is nothing to flush, poll or seek. After one ENOSYS the kernel handles these
    // operations itself; newer versions of `ls -l` would otherwise request the list of every file.
    refuse_all! { ENOSYS:
        listxattr(INodeNo, u32) -> ReplyXattr;
        flush(INodeNo, FileHandle, LockOwner) -> ReplyEmpty;
        fsync(INodeNo, FileHandle, bool) -> ReplyEmpty;
        fsyncdir(INodeNo, FileHandle, bool) -> ReplyEmpty;
        lseek(INodeNo, FileHandle, i64, i32) -> ReplyLseek;
        poll(INodeNo, FileHandle, PollNotifier, PollEvents, PollFlags) -> ReplyPoll;
    }

    // Nothing can be written.
    refuse_all! { EROFS:
        setattr(
            INodeNo, Option<u32>, Option<u32>, Option<u32>, Option<u64>, Option<TimeOrNow>,
            Option<TimeOrNow>, Option<SystemTime>, Option<FileHandle>, Option<SystemTime>,
            Option<SystemTime>, Option<SystemTime>, Option<BsdFileFlags>
        ) -> ReplyAttr;
        mknod(INodeNo, &OsStr, u32, u32, u32) -> ReplyEntry;
        mkdir(INodeNo, &OsStr, u32, u32) -> ReplyEntry;
        unlink(INodeNo, &OsStr) -> ReplyEmpty;
        rmdir(INodeNo, &OsStr) -> ReplyEmpty;
        symlink(INodeNo, &OsStr, &Path) -> ReplyEntry;
        rename(INodeNo, &OsStr, INodeNo, &OsStr, RenameFlags) -> ReplyEmpty;
        link(INodeNo, INodeNo, &OsStr) -> ReplyEntry;
        create(INodeNo, &OsStr, u32, u32, i32) -> ReplyCreate;
        write(
            INodeNo, FileHandle, u64, &[u8], WriteFlags, OpenFlags, Option<LockOwner>
        ) -> ReplyWrite;
        fallocate(INodeNo, FileHandle, u64, u64, i32) -> ReplyEmpty;
        copy_file_range(
            INodeNo, FileHandle, u64, INodeNo, FileHandle, u64, u64, CopyFileRangeFlags
        ) -> ReplyWrite;
        setxattr(INodeNo, &OsStr, &[u8], i32, u32) -> ReplyEmpty;
        removexattr(INodeNo, &OsStr) -> ReplyEmpty;
    }
}

impl Adapter {
    /// Answers an operation from memory, or else hands it to a worker and frees the event loop.
    fn answer<R, T>(
        &self,
        operation: &'static str,
        reply: R,
        ask: impl Fn(&Filesystem, Wait, &mut R) -> Result<T, Error> + Send + 'static,
        pack: impl FnOnce(R, T) + Send + 'static,
    ) where
        R: Refuse + Send + 'static,
    {
        self.answer_by(&self.workers, None, operation, reply, ask, pack);
    }

    /// Does the same, but an operation that has to wait runs on one of these `workers`. The kernel
    /// holds its lock on `directory` during the wait.
    fn answer_by<R, T>(
        &self,
        workers: &ThreadPool,
        directory: Option<u64>,
        operation: &'static str,
        mut reply: R,
        ask: impl Fn(&Filesystem, Wait, &mut R) -> Result<T, Error> + Send + 'static,
        pack: impl FnOnce(R, T) + Send + 'static,
    ) where
        R: Refuse + Send + 'static,
    {
        let deadline = Instant::now() + CALL_DEADLINE;
        shielded(|| {
            let result = ask(&self.filesystem, Wait::No, &mut reply);
            if !matches!(result, Err(Error::NeedsNetwork)) {
                return finish(operation, reply, result, pack);
            }
            let filesystem = Arc::clone(&self.filesystem);
            let waiting = directory.map(|directory| self.busy.enter(directory));
            workers.submit(Box::new(move |turn| {
                let result = match turn {
                    JobTurn::Now => ask(&filesystem, Wait::Until(deadline), &mut reply),
                    JobTurn::Refused => Err(Error::Overloaded),
                };
                finish(operation, reply, result, pack);
                drop(waiting);
            }));
        });
    }
}

/// Keeps a panic from ending an event loop, which nothing would replace.
fn shielded(handler: impl FnOnce()) {
    // The panic hook has reported it, and the dropped reply has answered EIO.
    let _ = catch_unwind(AssertUnwindSafe(handler));
}
