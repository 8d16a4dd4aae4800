//! What this process may do with what it shares, as shown in listings.
//!
//! Permission bits that allow access are believed: they come with the `statx(2)` that a listing
//! needs anyway. If an access control list denies access nevertheless, that shows when the file is
//! opened. Bits that deny access are not the last word: the process may be privileged, or named in
//! an access control list. Then the system is queried, which takes another call for each such
//! entry, and for no other.

use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid, getgroups};

use super::stat::{FileState, Permissions};
use crate::model::{Kind, Mode};

/// The identity whose permissions this process has.
#[derive(Debug)]
pub(crate) struct Rights {
    user: u32,
    groups: Vec<u32>,
}

impl Rights {
    /// Returns the rights of this process, which keeps them.
    pub(crate) fn of_process() -> Self {
        // If its further groups are unknown, the system is queried more often.
        let further = getgroups().unwrap_or_default();
        let groups = further.into_iter().chain([getegid()]);
        Self {
            user: geteuid().as_raw(),
            groups: groups.map(|group| group.as_raw()).collect(),
        }
    }

    /// Returns the mode of `name` in `directory`, which has this `state` and is no link.
    pub(crate) fn of_entry(&self, state: &FileState, directory: impl AsFd, name: &[u8]) -> Mode {
        let flags = AtFlags::EACCESS | AtFlags::SYMLINK_NOFOLLOW;
        self.mode(state, |wanted| accessat(directory, name, wanted, flags))
    }

    /// Returns the mode of what `handle` pins, which has this `state`.
    pub(crate) fn of_pinned(&self, state: &FileState, handle: impl AsFd) -> Mode {
        // Before Linux 5.8, there is no call that queries the handle itself.
        let path = || format!("/proc/self/fd/{}", handle.as_fd().as_raw_fd());
        self.mode(state, |wanted| {
            accessat(CWD, path(), wanted, AtFlags::EACCESS)
        })
    }

    fn mode(&self, state: &FileState, ask: impl FnOnce(Access) -> rustix::io::Result<()>) -> Mode {
        let Some(kind) = state.kind() else {
            return Mode::Plain;
        };
        let (bits, wanted) = match kind {
            Kind::File => (0o4, Access::READ_OK),
            Kind::Directory => (0o5, Access::READ_OK | Access::EXEC_OK),
        };
        // Only a clear denial counts: where the system cannot tell, an open will.
        if !self.allow(state.permissions(), bits) && ask(wanted) == Err(Errno::ACCESS) {
            return Mode::Unreadable;
        }
        state.permissions().of_opened(kind)
    }

    /// Returns true if the permission bits alone allow all of `wanted`, one octal digit of them.
    fn allow(&self, permissions: Permissions, wanted: u16) -> bool {
        let shift = if permissions.user == self.user {
            6
        } else if self.groups.contains(&permissions.group) {
            3
        } else {
            0
        };
        permissions.bits >> shift & wanted == wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Rights = Rights {
        user: 1000,
        groups: Vec::new(),
    };

    #[test]
    fn first_matching_class_decides_access() {
        let me = Rights {
            groups: vec![7, 8],
            ..ME
        };
        let allow = |bits, user, group| me.allow(Permissions { bits, user, group }, 0o4);
        assert!(allow(0o400, 1000, 0) && !allow(0o044, 1000, 8));
        assert!(allow(0o040, 1, 8) && !allow(0o404, 1, 8));
        assert!(allow(0o004, 1, 1) && !allow(0o440, 1, 1));
    }

    #[test]
    fn directory_needs_both_bits_to_be_read() {
        let allow = |bits| {
            let permissions = Permissions {
                bits,
                user: 1000,
                group: 0,
            };
            ME.allow(permissions, 0o5)
        };
        assert!(allow(0o500) && !allow(0o400) && !allow(0o100));
    }
}
