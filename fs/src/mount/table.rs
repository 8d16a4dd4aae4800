//! The mount table from `/proc/self/mountinfo` (proc_pid_mountinfo(5)). It shows what is mounted
//! where, so that only our own mounts are ever cleared or unmounted.

use std::io;
use std::path::Path;

pub use tinyp2p_net::share::{MountEntry, OUR_MOUNT_TYPE};

/// The mount table of this process.
#[derive(Debug)]
pub struct MountList(Vec<MountEntry>);

impl MountList {
    /// Reads the table. Accesses none of the filesystems in it, so a dead one
    /// cannot block the call.
    pub fn read() -> io::Result<Self> {
        std::fs::read("/proc/self/mountinfo").map(|text| Self::parse(&text))
    }

    fn parse(text: &[u8]) -> Self {
        Self(MountEntry::all(text).collect())
    }

    /// Returns the mount visible at `path`, which must be absolute and free of symbolic links. If
    /// several mounts are stacked there, that is the uppermost.
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

    /// Returns every mount of this program below `directory`.
    pub fn ours_below<'a>(&'a self, directory: &'a Path) -> impl Iterator<Item = &'a MountEntry> {
        self.0
            .iter()
            .filter(move |entry| entry.is_ours() && entry.mountpoint.starts_with(directory))
    }
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
        assert_eq!((entry.id, entry.device), (40, (0, 35)));
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
    fn uppermost_stacked_mount_counts() {
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
