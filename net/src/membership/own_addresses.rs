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
use std::time::{Duration, Instant};

use super::Members;
use crate::error::Error;

/// How often the addresses are checked, which costs some tens of microseconds.
const LOOK: Duration = Duration::from_secs(1);

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
        let mut known = now();
        loop {
            let mut state = self.state.lock();
            let until = Instant::now() + LOOK;
            while !state.stopping && Instant::now() < until {
                self.changed.wait_until(&mut state, until);
            }
            if state.stopping {
                break;
            }
            drop(state);
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

    fn relocated(&self) {
        let connections: Vec<_> = self.state.lock().connections.values().cloned().collect();
        connections.iter().for_each(|connection| connection.renew());
        self.state.lock().table.relocated(Instant::now());
        self.changed.notify_all();
    }
}
