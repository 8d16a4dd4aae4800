//! Notices when this node's addresses change: another network, another lease, a cable in
//! place of Wi-Fi.
//!
//! Connections from an address that is gone are dead, and nothing reports it: sent data is lost,
//! and calls wait for their deadlines. Nor does anybody else know where this node is now. So every
//! member gets a hello at once, over a new connection.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Members;
use super::interfaces::{GATHERED, InterfaceChanges};
use crate::error::Error;

/// Returns the addresses at which others may reach this node, or see it.
fn now() -> Option<BTreeSet<IpAddr>> {
    let interfaces = if_addrs::get_if_addrs();
    let interfaces = interfaces.inspect_err(|why| {
        tracing::debug!("the addresses of this machine cannot be listed: {why}");
    });
    // Link-local addresses come and go with containers, and nobody beyond the link sees them.
    let is_seen = |interface: &if_addrs::Interface| {
        !interface.is_loopback() && !interface.is_link_local() && interface.is_oper_up()
    };
    let seen = interfaces.ok()?.into_iter().filter(is_seen);
    Some(seen.map(|interface| interface.ip()).collect())
}

/// Starts a thread that watches the addresses for `members`, which ends it.
pub(super) fn start(members: &Arc<Members>) -> Result<(), Error> {
    let watcher = members.clone();
    members.state.lock().workers += 1;
    let started = thread::Builder::new()
        .name("own-addresses".into())
        .spawn(move || watcher.watch_own_addresses());
    if let Err(why) = started {
        members.state.lock().workers -= 1;
        return Err(Error::local("starting a thread", why));
    }
    Ok(())
}

impl Members {
    fn watch_own_addresses(&self) {
        let changes = InterfaceChanges::listen();
        let mut known = now();
        while self.wait_for_change(&changes) {
            let present = now();
            if present.is_none() || present == known {
                continue;
            }
            // While it has no address, nobody can be found.
            if present.as_ref().is_some_and(|all| !all.is_empty()) {
                tracing::info!("this node has another address: looking for everybody again");
                self.relocated();
            }
            known = present;
        }
        self.state.lock().workers -= 1;
        self.changed.notify_all();
    }

    /// Waits until the addresses may have changed. Returns false at the end.
    fn wait_for_change(&self, changes: &InterfaceChanges) -> bool {
        let stop = [self.stop_signal.poll_fd()];
        let reports = changes.readable();
        let reports = reports.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        let mut fds: Vec<PollFd<'_>> = stop.into_iter().chain(reports).collect();
        if let Err(why) = poll(
            &mut fds,
            Timespec::try_from(changes.patience()).ok().as_ref(),
        ) {
            tracing::debug!("waiting for other addresses: {why}");
            thread::sleep(GATHERED);
        }
        if changes.take() {
            thread::sleep(GATHERED);
            changes.take();
        }
        !self.state.lock().stopping
    }

    fn relocated(&self) {
        let connections: Vec<_> = self.state.lock().connections.values().cloned().collect();
        connections.iter().for_each(|connection| connection.renew());
        let mut state = self.state.lock();
        state.table.relocated(Instant::now());
        self.notify(&state);
    }
}
