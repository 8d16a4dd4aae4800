//! Makes the next store through `mmap` show in the times of a file.
//!
//! A program that maps a file writably marks the file (its mtime and ctime) with the first store
//! into a page: the page is write-protected until then, so the store faults, and the fault updates
//! the times before the page becomes writable. Further stores into that page mark nothing, until
//! the page has been written back, which protects it again (`folio_mkclean`). However old the times
//! of a file are, it may therefore be changing.
//!
//! So whoever relies on the times does three things, in this order:
//! 1. takes the file's state *before*, whose times have rested for longer than a fault takes;
//! 2. calls [`settle`], which writes back all pages that are dirty by then;
//! 3. takes the state *after*, and accepts the file only if both are equal.
//!
//! A page is writable only while it is dirty (both change under the page's lock). A page that was
//! dirty at step 2 is protected afterwards. A page that became dirty since then did so by a fault,
//! which updated the times to a moment after *before* had rested, so *after* differs. Hence, at
//! step 3, no page is writable, and every later store changes the times first. Bytes that are read
//! while the state is still the same as *after* are those of that state.
//!
//! Writing back is what counts; that the disk has the bytes for good does not. fdatasync(2) does
//! the former by `__filemap_fdatawrite_range` with `WB_SYNC_ALL` and a wait, and then commits a
//! journal and flushes the disk's own cache, for each file. sync_file_range(2) with all three
//! flags is that very call (since Linux 5.2; `openat2` takes 5.6) and wait, and nothing else.
//! For a file without dirty pages, it returns at once. It acts on the open file's own mapping. On a
//! file system that stacks on others (overlayfs), the pages belong to another file's mapping, and
//! the call would do nothing. So it is used on the file systems below only, each of which keeps the
//! pages of a file in the file's own mapping and begins its fsync with this call. All others get
//! the fdatasync(2).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{fdatasync, fstatfs};
use rustix::io::Errno;

/// tmpfs and ramfs keep no pages to write back, so they never notice a store through `mmap`.
const UNMARKED: [u32; 2] = [0x0102_1994, 0x8584_58f6];

/// ext2, ext3 and ext4; XFS; Btrfs; F2FS: see above.
const OWN_PAGES: [u32; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010];

/// Writes back what programs have stored through `mmap`. To rely on that, compare the file's states
/// before and after: see above. Returns false if the file system does not mark such stores at all.
///
/// # Errors
/// The file cannot be written back.
pub(super) fn settle(file: &OwnedFd) -> io::Result<bool> {
    // Its type differs in width between machines; all magic numbers have 32 bits.
    let kind = fstatfs(file)?.f_type as u32;
    if UNMARKED.contains(&kind) {
        return Ok(false);
    }
    if OWN_PAGES.contains(&kind) {
        match write_back(file) {
            // An emulated kernel may lack it.
            Err(Errno::NOSYS | Errno::INVAL | Errno::PERM) => {}
            outcome => return Ok(outcome.map(|()| true)?),
        }
    }
    fdatasync(file)?;
    Ok(true)
}

/// Writes all dirty pages of the file back, and waits for those that are being written.
#[allow(unsafe_code)]
fn write_back(file: &OwnedFd) -> Result<(), Errno> {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    loop {
        // SAFETY: the call takes no pointers, and the descriptor is open.
        if unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error().raw_os_error();
        match error.map_or(Errno::IO, Errno::from_raw_os_error) {
            Errno::INTR => {}
            other => return Err(other),
        }
    }
}
