//! A network in memory, for the tests of everything that stands on [`Network`]: its members are
//! [`MemoryPeer`]s, so each can be slow, frozen, cut off, lying or gone.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tinyp2p_net::client::Peer;
use tinyp2p_net::fanout::{Answer, Asked, Fanout};
use tinyp2p_net::status::{MemberStatus, Status};
use tinyp2p_net::testing::MemoryPeer;
use tinyp2p_net::types::{Attributes, PeerId, RelPath};
use tinyp2p_net::wire::Listing;

use crate::network::Network;

/// Members that are asked by the same fan-out as real ones.
#[derive(Default)]
pub struct MemoryNetwork {
    members: Mutex<Vec<(Arc<str>, Arc<MemoryPeer>)>>,
    fanout: Fanout,
}

impl MemoryNetwork {
    /// Lets an honest member without files join; `seed` makes its identity.
    pub fn join(&self, name: &str, seed: u8) -> Arc<MemoryPeer> {
        let peer = Arc::new(MemoryPeer::new(seed));
        self.members.lock().push((name.into(), Arc::clone(&peer)));
        peer
    }

    /// Lets a member leave, so that nobody waits for it or counts it any more.
    pub fn leave(&self, id: PeerId) {
        self.members.lock().retain(|(_, peer)| peer.id() != id);
    }

    /// Calls that all members together have been asked so far.
    pub fn calls(&self) -> usize {
        self.members
            .lock()
            .iter()
            .map(|(_, peer)| peer.calls())
            .sum()
    }

    fn asked(&self) -> Vec<Asked> {
        let members = self.members.lock();
        let asked = members.iter().map(|(name, peer)| Asked {
            name: Arc::clone(name),
            peer: Arc::clone(peer) as Arc<dyn Peer>,
        });
        asked.collect()
    }
}

impl Network for MemoryNetwork {
    fn list(&self, directory: &RelPath, deadline: Instant) -> Vec<Answer<Listing>> {
        self.fanout.list(&self.asked(), directory, deadline)
    }

    fn stat(&self, path: &RelPath, deadline: Instant) -> Vec<Answer<Option<Attributes>>> {
        self.fanout.stat(&self.asked(), path, deadline)
    }

    fn peer(&self, member: PeerId) -> Option<Arc<dyn Peer>> {
        let members = self.members.lock();
        let peer = members.iter().find(|(_, peer)| peer.id() == member);
        peer.map(|(_, peer)| Arc::clone(peer) as Arc<dyn Peer>)
    }

    fn peers(&self) -> Vec<Arc<dyn Peer>> {
        let members = self.members.lock();
        let peers = members
            .iter()
            .map(|(_, peer)| Arc::clone(peer) as Arc<dyn Peer>);
        peers.collect()
    }

    fn status(&self) -> Status {
        let members = self.members.lock();
        let members = members.iter().map(|(name, peer)| MemberStatus {
            name: name.to_string(),
            peer_id: peer.id().to_string(),
            ..MemberStatus::default()
        });
        Status {
            members: members.collect(),
            ..Status::default()
        }
    }
}
