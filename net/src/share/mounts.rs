//! Which of the mounted file systems are mounts of this program.
//!
//! Such a mount may lie in a share, and must not be served: it shows other members' files, one
//! of a stopped process would hang us, and our own could wait for ourselves. The kernel's table
//! names their devices, and a poll tells whether it has changed since it was read (proc(5),
//! `/proc/pid/mountinfo`), so that asking costs one system call and is never stale.

use std::fs::File;
use std::io::{self, Read, Seek};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How the type of our mounts begins in the kernel's table.
const OUR_TYPE: &[u8] = b"fuse.tinyp2p";

/// A device number: major, minor.
pub(super) type Device = (u32, u32);

/// The kernel's mount table, as far as it concerns us.
#[derive(Debug)]
pub(super) struct MountTable {
    /// `None` without a `/proc`: then nothing is known of any mount.
    state: Option<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    table: File,
    ours: Vec<Device>,
}

impl MountTable {
    /// Opens the table.
    pub(super) fn open() -> Self {
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

    /// Whether `device` is a mount of this program; `None` when that cannot be known. The lock
    /// spans a poll that does not wait and, after a mount or unmount, a read of `/proc`.
    pub(super) fn is_ours(&self, device: Device) -> Option<bool> {
        let mut state = self.state.as_ref()?.lock();
        state.refresh().ok()?;
        Some(state.ours.contains(&device))
    }
}

impl State {
    fn read(table: File) -> io::Result<Self> {
        let mut state = Self {
            table,
            ours: Vec::new(),
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
        self.ours = our_devices(&text);
        Ok(())
    }
}

/// The devices in a mount table whose type is ours. A line reads
/// `36 35 98:0 / /mnt/point rw,noatime shared:1 - fuse.tinyp2p source options`.
fn our_devices(table: &[u8]) -> Vec<Device> {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let mut fields = line.split(|byte| *byte == b' ');
            let device = fields.nth(2)?;
            let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
            let (major, minor) = std::str::from_utf8(device).ok()?.split_once(':')?;
            let device = (major.parse().ok()?, minor.parse().ok()?);
            kind.starts_with(OUR_TYPE).then_some(device)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_mounts_are_told_from_others_by_their_type() {
        let table = b"\
            21 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
            36 21 0:41 / /mnt/p2p ro,nosuid shared:1 master:2 - fuse.tinyp2p tinyp2p ro\n\
            37 21 0:42 / /mnt/fuse.tinyp2p rw - fuse.sshfs host:/ rw\n\
            38 21 0:43 / /mnt/\xff\\040- rw - fuse.tinyp2p-mount tinyp2p ro\n\
            broken line\n\n";
        assert_eq!(our_devices(table), [(0, 41), (0, 43)]);
    }

    #[test]
    fn the_real_table_can_be_read_and_holds_no_device_that_does_not_exist() {
        let table = MountTable::open();
        assert!(table.state.is_some());
        assert_eq!(table.is_ours((4000, 4000)), Some(false));
    }
}
