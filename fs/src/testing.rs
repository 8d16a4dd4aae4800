//! A network in memory, for the tests of everything that stands on [`Network`]: its members are
//! [`MemoryPeer`]s, so each can be slow, frozen, cut off, lying or gone.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tinyp2p_net::client::{Matches, Peer, list, stat};
use tinyp2p_net::fanout::{Answer, Asked, Fanout};
use tinyp2p_net::status::{MemberStatus, Status};
use tinyp2p_net::testing::MemoryPeer;
use tinyp2p_net::types::{Attributes, PeerId, RelPath};
use tinyp2p_net::wire::Listing;

use crate::network::{Network, question};
use crate::view::merge::Member;

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

    fn only(&self, member: PeerId) -> Vec<Asked> {
        let mut asked = self.asked();
        asked.retain(|asked| asked.peer.id() == member);
        asked
    }
}

impl Network for MemoryNetwork {
    fn list(&self, directory: &RelPath, deadline: Instant) -> Vec<Answer<Listing>> {
        let directory = directory.clone();
        let question = move |peer: &dyn Peer, deadline| list(peer, &directory, deadline);
        self.fanout.ask(&self.asked(), deadline, question)
    }

    fn stat(&self, path: &RelPath, deadline: Instant) -> Vec<Answer<Option<Attributes>>> {
        let path = path.clone();
        let question = move |peer: &dyn Peer, deadline| stat(peer, &path, deadline);
        self.fanout.ask(&self.asked(), deadline, question)
    }

    fn list_at(
        &self,
        member: PeerId,
        directory: &RelPath,
        deadline: Instant,
    ) -> Vec<Answer<Listing>> {
        let directory = directory.clone();
        let question = move |peer: &dyn Peer, deadline| list(peer, &directory, deadline);
        self.fanout.ask(&self.only(member), deadline, question)
    }

    fn stat_at(
        &self,
        member: PeerId,
        path: &RelPath,
        deadline: Instant,
    ) -> Vec<Answer<Option<Attributes>>> {
        let path = path.clone();
        let question = move |peer: &dyn Peer, deadline| stat(peer, &path, deadline);
        self.fanout.ask(&self.only(member), deadline, question)
    }

    fn search(&self, pattern: &str, deadline: Instant) -> Vec<Answer<Matches>> {
        self.fanout.ask(&self.asked(), deadline, question(pattern))
    }

    fn members(&self) -> Vec<Member> {
        let members = self.members.lock();
        let members = members.iter().map(|(name, peer)| Member {
            id: peer.id(),
            name: Arc::clone(name),
        });
        let mut members: Vec<Member> = members.collect();
        members.sort_by(|a, b| a.name.cmp(&b.name));
        members
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
