//! Who answers for each mounted file system: the kernel, another party, or this program.
//!
//! A mount of this program may lie in a share, and must not be served: it shows other members'
//! files, the mount of a stopped process would hang us, and our own could make us wait for
//! ourselves. File systems that another party answers for are accessed with care
//! ([`super::aside`]). The kernel's table lists their devices, and a poll tells whether the table
//! has changed since it was read (proc(5), `/proc/pid/mountinfo`). So a query costs one system call
//! and is never stale.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// The type of this program's mounts in the kernel's table.
pub const OUR_MOUNT_TYPE: &str = "fuse.tinyp2p";

/// The types of file systems that this kernel serves on its own, from memory or from a disk. All
/// others depend on a network or on another program, and may stop responding.
const LOCAL_TYPES: [&str; 23] = [
    "ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "ramfs", "f2fs", "overlay", "zfs", "bcachefs",
    "vfat", "msdos", "exfat", "ntfs3", "jfs", "nilfs2", "squashfs", "erofs", "iso9660", "udf",
    "hfsplus", "devtmpfs",
];

/// Who answers for a file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answerer {
    /// The kernel of this machine.
    Kernel,
    /// Another machine or program, which may stop responding.
    Other,
    /// This program: the file system is a mount of its own.
    Ourselves,
}

/// A device number: major, minor.
pub type Device = (u32, u32);

/// The kernel's mount table, as far as it matters to us.
#[derive(Debug)]
pub(crate) struct MountTable {
    /// `None` without a `/proc`: then nothing is known of any mount.
    state: Option<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    table: File,
    /// Devices that the kernel does not answer for. Volumes of btrfs and the like have numbers that
    /// are not in the table.
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

    /// Returns who answers for `device`; `None` if that cannot be known. The lock spans a poll that
    /// does not wait and, after a mount or unmount, a read of `/proc`.
    ///
    /// # Errors
    /// This machine has run out of a resource.
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

/// Returns the devices in a mount table that the kernel does not answer for.
fn others(table: &[u8]) -> Vec<(Device, Answerer)> {
    let answerer = |kind: &str| {
        if kind.starts_with(OUR_MOUNT_TYPE) {
            Answerer::Ourselves
        } else if LOCAL_TYPES.contains(&kind) {
            Answerer::Kernel
        } else {
            Answerer::Other
        }
    };
    MountEntry::all(table)
        .map(|entry| (entry.device, answerer(&entry.kind)))
        .filter(|(_, answerer)| *answerer != Answerer::Kernel)
        .collect()
}

/// One line of the table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountEntry {
    /// The mount's number, unique while it is mounted.
    pub id: u32,
    /// The number of the mount that it is mounted on.
    pub parent: u32,
    /// The device number.
    pub device: Device,
    /// The directory that it is mounted on.
    pub mountpoint: PathBuf,
    /// The type with its subtype: `ext4`, `fuse.sshfs`.
    pub kind: String,
    /// The file system's own options, where FUSE names the owner.
    pub options: String,
}

impl MountEntry {
    /// Iterates over all valid lines of a table.
    pub fn all(table: &[u8]) -> impl Iterator<Item = Self> {
        table.split(|byte| *byte == b'\n').filter_map(parse_line)
    }

    /// Returns true for mounts made by this program, of any user.
    pub fn is_ours(&self) -> bool {
        self.kind == OUR_MOUNT_TYPE
    }

    /// Returns the user who mounted it, for a FUSE mount.
    pub fn owner(&self) -> Option<u32> {
        self.options
            .split(',')
            .find_map(|option| option.strip_prefix("user_id="))
            .and_then(|uid| uid.parse().ok())
    }
}

/// Parses `ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS [TAG...] - TYPE SOURCE SUPER_OPTIONS`.
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|b| *b == b' ');
    let mut text = || {
        fields
            .next()
            .map(|f| String::from_utf8_lossy(f).into_owned())
    };
    let id = text()?.parse().ok()?;
    let parent = text()?.parse().ok()?;
    let device = text()?;
    let (major, minor) = device.split_once(':')?;
    let device = (major.parse().ok()?, minor.parse().ok()?);
    let mountpoint = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let kind = String::from_utf8_lossy(rest.next()?).into_owned();
    let options = String::from_utf8_lossy(rest.nth(1)?).into_owned();
    Some(MountEntry {
        id,
        parent,
        device,
        mountpoint,
        kind,
        options,
    })
}

/// Undoes the kernel's escapes: space, tab, newline and backslash as `\ooo`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|_| first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(octal.unwrap_or(first));
        rest = if octal.is_some() { &tail[3..] } else { tail };
    }
    bytes
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
    fn real_table_is_readable_and_sound() {
        let table = MountTable::open();
        assert!(table.state.is_some());
        assert_eq!(table.answerer((4000, 4000)), Ok(Some(Answerer::Kernel)));
    }
}
