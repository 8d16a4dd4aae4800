//! Notices changes of this host's network interfaces and their addresses, without polling for them:
//! the kernel reports each over a netlink socket (rtnetlink(7)).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

/// `RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR` and `RTMGRP_IPV6_IFADDR` of linux/rtnetlink.h.
const GROUPS: u32 = 0x1 | 0x10 | 0x100;

/// How often to look where the kernel reports changes: rarely, in case that a report was lost.
const SELDOM: Duration = Duration::from_secs(60);

/// How often to look where it does not, as in some sandboxes.
const OFTEN: Duration = Duration::from_secs(3);

/// Changes come in groups: one look, this long after the first report, sees all of them.
pub(super) const GATHERED: Duration = Duration::from_millis(200);

/// Reports of the kernel that something about the interfaces has changed.
#[derive(Debug)]
pub(super) struct InterfaceChanges {
    socket: Option<OwnedFd>,
}

impl InterfaceChanges {
    /// Starts to listen. Where that does not work, whoever asks has to look more often.
    pub(super) fn listen() -> Self {
        let socket = open().inspect_err(|why| {
            tracing::debug!("changes of the interfaces are not reported: {why}");
        });
        Self {
            socket: socket.ok(),
        }
    }

    /// Returns the descriptor that becomes readable with the next report.
    pub(super) fn readable(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// Returns after what time to look although nothing was reported.
    pub(super) fn patience(&self) -> Duration {
        if self.socket.is_some() { SELDOM } else { OFTEN }
    }

    /// Takes all reports that have come. Returns true if there were any.
    pub(super) fn take(&self) -> bool {
        let mut buffer = [0; 4096];
        let mut has_changed = false;
        while let Some(socket) = &self.socket {
            match recv(socket, &mut buffer, RecvFlags::DONTWAIT) {
                Ok(_) | Err(Errno::INTR) => has_changed = true,
                // Reports were lost, which is a report, too.
                Err(Errno::NOBUFS) => has_changed = true,
                Err(_) => break,
            }
        }
        has_changed
    }
}

fn open() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // No protocol is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
    Ok(socket)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_reported_where_nothing_changes() {
        let changes = InterfaceChanges::listen();
        assert!(changes.readable().is_some() && !changes.take());
        assert_eq!(changes.patience(), SELDOM);
    }
}
