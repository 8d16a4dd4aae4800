//! The threads that call servers of 2004: one watches for new servers, and each server has one
//! that calls it.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::LegacyRoster;
use crate::config::CALL_DEADLINE;
use crate::error::Error;
use crate::legacy::peer::LegacyPeer;
use crate::model::RelPath;
use crate::peer::{Peer, list};

/// How often the list of known servers is checked; servers that call this node are added to it.
const TICK: Duration = Duration::from_millis(500);

/// A call waits this long for another call from this node to the server to end.
const BUSY: Duration = Duration::from_secs(10);

/// Starts to call each server as soon as it is known.
pub(super) fn watch(shared: &Weak<LegacyRoster>) {
    let mut seen = None;
    while let Some(shared) = shared.upgrade() {
        let revision = shared.legacy.known().revision();
        if seen.replace(revision) != Some(revision) {
            let all = shared.legacy.all();
            shared.retain(&all);
            all.into_iter().for_each(|url| shared.add(url));
        }
        let mut state = shared.state.lock();
        if state.stopping {
            return;
        }
        shared.changed.wait_for(&mut state, TICK);
    }
}

/// Calls one server for as long as it is worth it.
pub(super) fn run(shared: &Weak<LegacyRoster>, peer: &Arc<LegacyPeer>) {
    loop {
        let due = shared.upgrade().and_then(|shared| shared.due(peer.id()));
        let Some(is_away) = due else { return };
        let ours = shared
            .upgrade()
            .and_then(|shared| shared.legacy.own_for(peer.url()));
        let reply = peer.servers(ours.as_ref(), BUSY);
        // A server that failed to list names has to list them before anybody waits for it again.
        let proven = match &reply {
            Some(Ok(_) | Err(Error::Fault { .. })) if is_away => {
                // Its list is bounded in itself, and this one is dropped at once.
                let (root, budget) = (RelPath::root(), Arc::default());
                list(&**peer, &root, &budget, Instant::now() + CALL_DEADLINE).map(drop)
            }
            _ => Ok(()),
        };
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let goes_on = match (reply, proven) {
            (Some(Ok(reply)), Ok(())) => {
                let goes_on = shared.answered(peer.id(), Some(reply.node));
                shared.learn(peer.url(), reply.urls);
                goes_on
            }
            // Busy with another call from this node; or a fault, which only callers that know
            // the password receive.
            (None | Some(Err(Error::Fault { .. })), Ok(())) => shared.answered(peer.id(), None),
            (Some(Err(error)), _) | (_, Err(error)) => {
                shared.failed(peer.id(), &error);
                true
            }
        };
        if !goes_on {
            return;
        }
    }
}
