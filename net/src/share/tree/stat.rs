//! One state of one file or directory, as reported by `statx(2)`.

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, StatxTimestamp, statx};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::mountinfo::Device;
use crate::model::{Attributes, Kind, Mode, UnixTime, Version};
use crate::share::roots::wishes::FileId;

/// Everything that distinguishes one state of a file from another without reading it. Two equal
/// values mean an unchanged file, within the resolution of the file system's clock. Since Linux
/// 6.13 the common file systems give every change that follows a query its own time. Before that,
/// two changes of equal size within one tick (4 to 10 ms) are indistinguishable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FileState {
    file_type: FileType,
    device: Device,
    inode: u64,
    size: u64,
    /// When the file was created; zero if the file system does not report it. It distinguishes a
    /// file from an earlier one with the same inode.
    born: Moment,
    modified: Moment,
    changed: Moment,
    permissions: Permissions,
}

/// Seconds and nanoseconds since 1970.
type Moment = (i64, u32);

impl FileState {
    /// Returns the present state of an open or pinned file.
    pub(crate) fn of(file: impl AsFd) -> Result<Self, Errno> {
        Self::read(file, b"", AtFlags::EMPTY_PATH)
    }

    /// Returns the state of what a handle pins, as far as this machine knows it. A file system
    /// across a network, or a dead FUSE mount, is not queried.
    pub(crate) fn of_pinned(handle: impl AsFd) -> Result<Self, Errno> {
        Self::read(handle, b"", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC)
    }

    /// Returns the state of what a handle pins, as its file system reports it. For a file system
    /// across a network, nothing cached on this machine counts.
    pub(crate) fn of_present(handle: impl AsFd) -> Result<Self, Errno> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
        Self::read(handle, b"", flags)
    }

    /// Like [`FileState::of_pinned`], for a name in a pinned directory. For a link, this is the
    /// link's own state and not its target's.
    pub(crate) fn of_entry(directory: impl AsFd, name: &[u8]) -> Result<Self, Errno> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
        Self::read(directory, name, flags)
    }

    fn read(at: impl AsFd, path: &[u8], flags: AtFlags) -> Result<Self, Errno> {
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        statx(at, path, flags, wanted).map(Self::from)
    }

    /// Returns its kind; `None` for what is never served, symbolic links included.
    pub(crate) fn kind(&self) -> Option<Kind> {
        match self.file_type {
            FileType::RegularFile => Some(Kind::File),
            FileType::Directory => Some(Kind::Directory),
            _ => None,
        }
    }

    /// Returns true for a symbolic link.
    pub(crate) fn is_link(&self) -> bool {
        self.file_type == FileType::Symlink
    }

    /// Returns the device of its file system.
    pub(crate) fn device(&self) -> Device {
        self.device
    }

    /// Returns when its content was last modified.
    pub(crate) fn mtime(&self) -> UnixTime {
        let (seconds, nanoseconds) = self.modified;
        UnixTime::new(seconds, nanoseconds).unwrap_or_default()
    }

    /// Returns the time of the last change to it in any respect, in nanoseconds since 1970.
    pub(crate) fn ctime(&self) -> i64 {
        nanoseconds(self.changed)
    }

    /// Returns true if it last changed more than `time` before `now`.
    pub(crate) fn has_rested(&self, time: Duration, now: UnixTime) -> bool {
        let since = now.in_nanoseconds() - i128::from(self.ctime());
        since > time.as_nanos().cast_signed()
    }

    /// Returns what members see of it; `None` for what is never served.
    pub(crate) fn attributes(&self) -> Option<Attributes> {
        let kind = self.kind()?;
        Some(Attributes {
            kind,
            mode: self.permissions.of_opened(kind),
            size: self.content_size().into(),
            mtime: self.mtime(),
            version: self.version(),
            root: None,
        })
    }

    /// Returns the beginnings of two digests: SHA-256 over device, inode and birth time, and
    /// over size and both times; each number big-endian. They distinguish the states of one
    /// path, and usually show whether two states are of one file. They are no secret and no
    /// proof of anything.
    pub(crate) fn version(&self) -> Version {
        let mut file = Sha256::new();
        file.update(self.device.0.to_be_bytes());
        file.update(self.device.1.to_be_bytes());
        file.update(self.inode.to_be_bytes());
        update(&mut file, self.born);
        let mut state = Sha256::new();
        state.update(self.content_size().to_be_bytes());
        update(&mut state, self.modified);
        update(&mut state, self.changed);
        Version::of(first_eight(file), first_eight(state))
    }

    /// Returns the inode number in its file system.
    pub(crate) fn inode(&self) -> u64 {
        self.inode
    }

    /// Returns its size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Returns who may do what with it.
    pub(crate) fn permissions(&self) -> Permissions {
        self.permissions
    }

    /// Returns which file it is a state of.
    pub(crate) fn id(&self) -> FileId {
        FileId::new(self.device, self.inode)
    }

    /// Returns the size. That of a directory is internal to the file system and counts as zero.
    fn content_size(&self) -> u64 {
        match self.file_type {
            FileType::Directory => 0,
            _ => self.size,
        }
    }
}

impl From<Statx> for FileState {
    fn from(stat: Statx) -> Self {
        let moment = |stamp: StatxTimestamp| (stamp.tv_sec, stamp.tv_nsec);
        Self {
            file_type: FileType::from_raw_mode(stat.stx_mode.into()),
            device: (stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            size: stat.stx_size,
            born: match stat.stx_mask & StatxFlags::BTIME.bits() {
                0 => (0, 0),
                _ => moment(stat.stx_btime),
            },
            modified: moment(stat.stx_mtime),
            changed: moment(stat.stx_ctime),
            permissions: Permissions {
                bits: stat.stx_mode,
                user: stat.stx_uid,
                group: stat.stx_gid,
            },
        }
    }
}

fn update(digest: &mut Sha256, (seconds, nanoseconds): Moment) {
    digest.update(seconds.to_be_bytes());
    digest.update(nanoseconds.to_be_bytes());
}

fn first_eight(digest: Sha256) -> u64 {
    let digest: [u8; 32] = digest.finalize().into();
    let [a, b, c, d, e, f, g, h, ..] = digest;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

fn nanoseconds((seconds, nanoseconds): Moment) -> i64 {
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(nanoseconds.into())
}

/// Who may do what with a file, as reported by `statx(2)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Permissions {
    /// The bits of `stx_mode`.
    pub(crate) bits: u16,
    /// The user id of the owner.
    pub(crate) user: u32,
    /// The owning group.
    pub(crate) group: u32,
}

impl Permissions {
    /// Returns the mode that members see, if this process can open it.
    pub(crate) fn of_opened(self, kind: Kind) -> Mode {
        match kind {
            Kind::File if self.bits & 0o111 != 0 => Mode::Executable,
            _ => Mode::Plain,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs::File;

    const STATE: FileState = FileState {
        file_type: FileType::RegularFile,
        device: (254, 1),
        inode: 7,
        size: 11,
        born: (1, 1),
        modified: (-1, 500),
        changed: (2, 3),
        permissions: Permissions {
            bits: 0o644,
            user: 0,
            group: 0,
        },
    };

    #[test]
    fn version_covers_every_part_of_the_state() {
        let mut others = [STATE; 7];
        others[0].device.1 = 2;
        others[1].inode = 8;
        others[2].size = 12;
        others[3].modified.1 = 501;
        others[4].changed.0 = 3;
        others[5].changed.1 = 4;
        others[6].born.1 = 2;
        for other in others {
            assert_ne!(other.version(), STATE.version(), "{other:?}");
        }
        assert_eq!(STATE.version(), { STATE }.version());
    }

    #[test]
    fn versions_of_one_file_share_a_prefix() {
        let mut grown = STATE;
        (grown.size, grown.modified, grown.changed) = (12, (5, 5), (5, 5));
        assert_eq!(grown.version().file(), STATE.version().file());
        let (mut reborn, mut other) = (STATE, STATE);
        reborn.born = (9, 9);
        other.inode = 8;
        assert_ne!(reborn.version().file(), STATE.version().file());
        assert_ne!(other.version().file(), STATE.version().file());
    }

    #[test]
    fn extreme_times_stay_in_order() {
        assert_eq!(STATE.mtime(), (-999_999_500).into());
        let far = FileState {
            modified: (i64::MAX, 999_999_999),
            ..STATE
        };
        assert_eq!(far.mtime().seconds(), i64::MAX);
        assert_eq!(nanoseconds((i64::MAX, 1)), i64::MAX);
        assert_eq!(nanoseconds((i64::MIN, 0)), i64::MIN);
    }

    #[test]
    fn special_entries_have_no_attributes() {
        let state = FileState::of(File::open("/dev/null").unwrap()).unwrap();
        assert_eq!((state.kind(), state.attributes()), (None, None));
        let state = FileState::of(File::open("/").unwrap()).unwrap();
        let attributes = state.attributes().unwrap();
        assert_eq!(
            (attributes.kind, attributes.size.known()),
            (Kind::Directory, Some(0))
        );
    }
}
