//! Who answers for the mounted file systems: the kernel, somebody else, or this program.
//!
//! A mount of this program may lie in a share, and must not be served: it shows other members'
//! files, one of a stopped process would hang us, and our own could wait for ourselves. What
//! somebody else answers for is touched with care ([`super::aside`]). The kernel's table names
//! their devices, and a poll tells whether it has changed since it was read (proc(5),
//! `/proc/pid/mountinfo`), so that asking costs one system call and is never stale.

use std::fs::File;
use std::io::{self, Read, Seek};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// How the type of our mounts begins in the kernel's table.
const OUR_TYPE: &[u8] = b"fuse.tinyp2p";

/// The types of file systems that this kernel answers for by itself, out of memory or from a disk.
/// All others, across a network or in the hands of another program, may stop to answer.
const LOCAL_TYPES: [&[u8]; 23] = [
    b"ext2",
    b"ext3",
    b"ext4",
    b"xfs",
    b"btrfs",
    b"tmpfs",
    b"ramfs",
    b"f2fs",
    b"overlay",
    b"zfs",
    b"bcachefs",
    b"vfat",
    b"msdos",
    b"exfat",
    b"ntfs3",
    b"jfs",
    b"nilfs2",
    b"squashfs",
    b"erofs",
    b"iso9660",
    b"udf",
    b"hfsplus",
    b"devtmpfs",
];

/// Who answers for a file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answerer {
    /// The kernel of this machine.
    Kernel,
    /// Another machine or program, which may stop to.
    Other,
    /// This program: the file system is a mount of its own.
    Ourselves,
}

/// A device number: major, minor.
pub(crate) type Device = (u32, u32);

/// The kernel's mount table, as far as it concerns us.
#[derive(Debug)]
pub(crate) struct MountTable {
    /// `None` without a `/proc`: then nothing is known of any mount.
    state: Option<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    table: File,
    /// Those for which not the kernel answers. Volumes of btrfs and the like have numbers that are
    /// not in the table.
    others: Vec<(Device, Answerer)>,
}

impl MountTable {
    /// Opens the table.
    pub(crate) fn open() -> Self {
        let state = File::open("/proc/self/mountinfo").and_then(State::read);
        if let Err(error) = &state {
            tracing::warn!(
                "/proc/self/mountinfo cannot be read ({error}): nothing that is mounted below the \
                 shared directory will be served"
            );
        }
        Self {
            state: state.ok().map(Mutex::new),
        }
    }

    /// Who answers for `device`; `None` when that cannot be known. The lock
    /// spans a poll that does not wait and, after a mount or unmount, a read of `/proc`.
    ///
    /// # Errors
    /// This machine has run out of something.
    pub(crate) fn answerer(&self, device: Device) -> Result<Option<Answerer>, Errno> {
        let Some(state) = &self.state else {
            return Ok(None);
        };
        let mut state = state.lock();
        let refreshed = state.refresh();
        refreshed.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        let known = state.others.iter().find(|(other, _)| *other == device);
        Ok(Some(known.map_or(Answerer::Kernel, |(_, who)| *who)))
    }
}

impl State {
    fn read(table: File) -> io::Result<Self> {
        let mut state = Self {
            table,
            others: Vec::new(),
        };
        state.reread()?;
        Ok(state)
    }

    fn refresh(&mut self) -> io::Result<()> {
        let changed = PollFlags::PRI | PollFlags::ERR;
        let mut fds = [PollFd::new(&self.table, changed)];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut fds, Some(&at_once))?;
        if fds[0].revents().intersects(changed) {
            self.reread()?;
        }
        Ok(())
    }

    fn reread(&mut self) -> io::Result<()> {
        let mut text = Vec::new();
        self.table.rewind()?;
        self.table.read_to_end(&mut text)?;
        self.others = others(&text);
        Ok(())
    }
}

/// The devices in a mount table for which not the kernel answers. A line reads
/// `36 35 98:0 / /mnt/point rw,noatime shared:1 - fuse.tinyp2p source options`.
fn others(table: &[u8]) -> Vec<(Device, Answerer)> {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let mut fields = line.split(|byte| *byte == b' ');
            let device = fields.nth(2)?;
            let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
            let (major, minor) = std::str::from_utf8(device).ok()?.split_once(':')?;
            let device = (major.parse().ok()?, minor.parse().ok()?);
            if kind.starts_with(OUR_TYPE) {
                Some((device, Answerer::Ourselves))
            } else {
                let is_local = LOCAL_TYPES.contains(&kind);
                (!is_local).then_some((device, Answerer::Other))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answers_is_told_by_the_type() {
        let table = b"\
            21 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
            36 21 0:41 / /mnt/p2p ro,nosuid shared:1 master:2 - fuse.tinyp2p tinyp2p ro\n\
            37 21 0:42 / /mnt/fuse.tinyp2p rw - fuse.sshfs host:/ rw\n\
            38 21 0:43 / /mnt/\xff\\040- rw - fuse.tinyp2p-mount tinyp2p ro\n\
            broken line\n\n";
        let expected = [
            ((0, 41), Answerer::Ourselves),
            ((0, 42), Answerer::Other),
            ((0, 43), Answerer::Ourselves),
        ];
        assert_eq!(others(table), expected);
    }

    #[test]
    fn the_real_table_can_be_read_and_holds_no_device_that_does_not_exist() {
        let table = MountTable::open();
        assert!(table.state.is_some());
        assert_eq!(table.answerer((4000, 4000)), Ok(Some(Answerer::Kernel)));
    }
}
