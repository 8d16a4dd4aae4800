//! The mount table as `/proc/self/mountinfo` shows it (proc_pid_mountinfo(5)): what is mounted
//! where, so that nothing is ever cleared or unmounted that is not ours.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The type that our mounts have in the table.
pub const OUR_TYPE: &str = "fuse.tinyp2p";

/// One line of the table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountEntry {
    /// The mount's number, unique while it is mounted.
    pub id: u32,
    /// The number of the mount that it is mounted on.
    pub parent: u32,
    /// The device number, `major:minor`.
    pub device: String,
    /// The directory that it is mounted on.
    pub mountpoint: PathBuf,
    /// What, with the subtype: `ext4`, `fuse.sshfs`.
    pub kind: String,
    /// The filesystem's own options, where FUSE names the owner.
    pub options: String,
}

impl MountEntry {
    /// True for mounts made by this program, of any user.
    pub fn is_ours(&self) -> bool {
        self.kind == OUR_TYPE
    }

    /// The user who mounted it, for a FUSE mount.
    pub fn owner(&self) -> Option<u32> {
        self.options
            .split(',')
            .find_map(|option| option.strip_prefix("user_id="))
            .and_then(|uid| uid.parse().ok())
    }
}

/// The mount table of this process.
#[derive(Debug)]
pub struct MountList(Vec<MountEntry>);

impl MountList {
    /// Reads the table. Touches none of the filesystems in it, so a dead one cannot block it.
    pub fn read() -> io::Result<Self> {
        std::fs::read("/proc/self/mountinfo").map(|text| Self::parse(&text))
    }

    fn parse(text: &[u8]) -> Self {
        Self(text.split(|b| *b == b'\n').filter_map(parse_line).collect())
    }

    /// What is visible at `path`, which must be absolute and free of symbolic links: of several
    /// mounts stacked there, the uppermost.
    pub fn at(&self, path: &Path) -> Option<&MountEntry> {
        let mut stack = self.0.iter().filter(|entry| entry.mountpoint == path);
        stack
            .clone()
            .find(|entry| {
                !stack
                    .clone()
                    .any(|other| other.parent == entry.id && other.id != entry.id)
            })
            .or_else(|| stack.next_back())
    }

    /// Every mount of this program below `directory`.
    pub fn ours_below<'a>(&'a self, directory: &'a Path) -> impl Iterator<Item = &'a MountEntry> {
        self.0
            .iter()
            .filter(move |entry| entry.is_ours() && entry.mountpoint.starts_with(directory))
    }
}

/// `ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS [TAG...] - TYPE SOURCE SUPER_OPTIONS`
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
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
40 21 0:35 / /mnt/p2p ro,nosuid,nodev,noexec,relatime shared:9 master:2 - fuse.tinyp2p tinyp2p ro,user_id=1000,group_id=1000\n\
41 21 0:36 / /mnt/a\\040b\\134c rw - tmpfs tmpfs rw\n\
43 42 0:38 / /stack ro - fuse.tinyp2p tinyp2p ro,user_id=0,group_id=0\n\
42 21 0:37 / /stack rw - tmpfs tmpfs rw\n\
not a line\n";

    #[test]
    fn a_mount_is_found_with_its_owner() {
        let table = MountList::parse(TABLE);
        let entry = table.at(Path::new("/mnt/p2p")).unwrap();
        assert!(entry.is_ours());
        assert_eq!((entry.id, entry.device.as_str()), (40, "0:35"));
        assert_eq!(entry.owner(), Some(1000));
        assert_eq!(table.at(Path::new("/mnt")), None);
        assert_eq!(table.at(Path::new("/")).unwrap().owner(), None);
    }

    #[test]
    fn escaped_mountpoints_are_read_back() {
        let table = MountList::parse(TABLE);
        assert_eq!(table.at(Path::new("/mnt/a b\\c")).unwrap().kind, "tmpfs");
    }

    #[test]
    fn of_stacked_mounts_the_uppermost_counts_whatever_the_order_of_lines() {
        let table = MountList::parse(TABLE);
        assert_eq!(table.at(Path::new("/stack")).unwrap().id, 43);
    }

    #[test]
    fn our_mounts_below_a_directory_are_listed() {
        let table = MountList::parse(TABLE);
        let below = |dir| table.ours_below(Path::new(dir)).count();
        assert_eq!(
            (below("/"), below("/mnt"), below("/mn"), below("/home")),
            (2, 1, 0, 0)
        );
    }

    #[test]
    fn the_table_of_this_process_has_a_root() {
        assert!(MountList::read().unwrap().at(Path::new("/")).is_some());
    }
}
