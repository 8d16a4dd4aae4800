//! A network in memory, for the tests of everything built on [`Network`]. Its members are
//! [`MemoryPeer`]s, so each can be slow, frozen, cut off, lying or gone.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use parking_lot::Mutex;
use tinyp2p_net::budget::{ByteBudget, Held};
use tinyp2p_net::model::{Attributes, PeerId, RelPath};
use tinyp2p_net::peer::{Matches, Peer, Watched};
use tinyp2p_net::protocol::wire::Listing;
use tinyp2p_net::query::fanout::{Fanout, PeerReply, QueryResult, QueryTarget, Whom};
use tinyp2p_net::query::subscriptions::{ChangeListener, News, Subscriptions};
use tinyp2p_net::stats::status::{MemberStatus, Status};
use tinyp2p_net::testing::MemoryPeer;

use crate::network::MemberRef;
use crate::network::{Network, question};

/// Members queried by the same fan-out as real ones.
#[derive(Default)]
pub struct MemoryNetwork {
    members: Mutex<Vec<(Arc<str>, Arc<MemoryPeer>)>>,
    fanout: Fanout,
    revision: AtomicU64,
    listeners: Mutex<Vec<Weak<dyn ChangeListener>>>,
    /// Whether change events from members are announced.
    watched: AtomicBool,
    /// Polls the members that report their changes, if the test enables it.
    followers: OnceLock<Arc<Subscriptions>>,
}

impl MemoryNetwork {
    /// Creates a network without members, whose answers reserve memory from a
    /// budget of `bytes` bytes.
    pub fn with_budget(bytes: usize) -> Self {
        Self {
            fanout: Fanout::new("ask", ByteBudget::new(bytes)),
            ..Self::default()
        }
    }

    /// Adds an honest member without files; `seed` determines its identity.
    pub fn join(&self, name: &str, seed: u8) -> Arc<MemoryPeer> {
        let peer = Arc::new(MemoryPeer::new(seed));
        self.members.lock().push((name.into(), Arc::clone(&peer)));
        self.revision.fetch_add(1, Ordering::SeqCst);
        peer
    }

    /// Returns a member that is present.
    ///
    /// # Panics
    /// If the member is absent, which is a mistake in a test.
    pub fn member(&self, id: PeerId) -> Arc<MemoryPeer> {
        let members = self.members.lock();
        let member = members.iter().find(|(_, peer)| peer.id() == id);
        Arc::clone(&member.expect("a member that is there").1)
    }

    /// Removes a member, so that nobody waits for it or counts it any more.
    pub fn leave(&self, id: PeerId) {
        self.members.lock().retain(|(_, peer)| peer.id() != id);
        self.revision.fetch_add(1, Ordering::SeqCst);
    }

    /// Makes answers from now on stay valid until the test reports
    /// changes through [`MemoryNetwork::tell`].
    pub fn watch(&self) {
        self.watched.store(true, Ordering::SeqCst);
    }

    /// Follows the answers of members with a counter from now on, as a node does. Must be called
    /// before anybody listens.
    pub fn follow(&self) {
        self.followers
            .get_or_init(|| Subscriptions::new(Box::new(|_, _| {})));
    }

    /// Reports to all listeners what has changed at `member`.
    pub fn tell(&self, member: PeerId, news: &News) {
        let listeners = self.listeners.lock().clone();
        for listener in listeners.iter().filter_map(Weak::upgrade) {
            listener.news(member, news);
        }
    }

    fn round<T>(
        &self,
        asked: &[QueryTarget],
        answers: Vec<PeerReply<Watched<T>>>,
    ) -> QueryResult<T> {
        let now = Instant::now();
        let is_watched = |answer: &PeerReply<Watched<T>>| {
            let Ok(told) = &answer.result else {
                return false;
            };
            let peer = asked.iter().find(|asked| asked.peer.id() == answer.member);
            match (self.followers.get(), told.counter, peer) {
                (Some(followers), Some(counter), Some(asked)) => {
                    followers.follow(&asked.peer, counter, now)
                }
                _ => self.watched.load(Ordering::SeqCst),
            }
        };
        let watched = answers.iter().filter(|answer| is_watched(answer));
        let mut watched: Vec<PeerId> = watched.map(|answer| answer.member).collect();
        watched.sort_unstable();
        let answers = answers.into_iter().map(|answer| PeerReply {
            member: answer.member,
            name: answer.name,
            result: answer.result.map(|told| told.answer),
        });
        QueryResult {
            answers: answers.collect(),
            is_all_watched: watched.len() == asked.len(),
            watched,
            revision: self.revision(),
        }
    }

    /// Returns the number of calls that all members together have received so far.
    pub fn calls(&self) -> usize {
        self.members
            .lock()
            .iter()
            .map(|(_, peer)| peer.calls())
            .sum()
    }

    fn asked(&self) -> Vec<QueryTarget> {
        let members = self.members.lock();
        let asked = members.iter().map(|(name, peer)| QueryTarget {
            name: Arc::clone(name),
            peer: Arc::clone(peer) as Arc<dyn Peer>,
        });
        asked.collect()
    }

    fn among(&self, whom: &Whom) -> Vec<QueryTarget> {
        let mut asked = self.asked();
        asked.retain(|asked| whom.includes(asked.peer.id()));
        asked
    }
}

impl Network for MemoryNetwork {
    fn list(
        &self,
        whom: &Whom,
        directory: &RelPath,
        deadline: Instant,
    ) -> QueryResult<Option<Held<Listing>>> {
        let asked = self.among(whom);
        self.round(&asked, self.fanout.list(&asked, whom, directory, deadline))
    }

    fn stat(
        &self,
        whom: &Whom,
        path: &RelPath,
        deadline: Instant,
    ) -> QueryResult<Option<Attributes>> {
        let asked = self.among(whom);
        self.round(&asked, self.fanout.stat(&asked, whom, path, deadline))
    }

    fn budget(&self) -> &Arc<ByteBudget> {
        self.fanout.budget()
    }

    fn revision(&self) -> u64 {
        self.revision.load(Ordering::SeqCst)
    }

    fn listen(&self, listener: Weak<dyn ChangeListener>) {
        if let Some(followers) = self.followers.get() {
            followers.listen(Weak::clone(&listener));
        }
        self.listeners.lock().push(listener);
    }

    fn search(&self, pattern: &str, deadline: Instant) -> Vec<PeerReply<Held<Matches>>> {
        let question = question(pattern, 1, self.budget());
        self.fanout.ask(&self.asked(), deadline, question)
    }

    fn members(&self) -> Vec<MemberRef> {
        let members = self.members.lock();
        let members = members.iter().map(|(name, peer)| MemberRef {
            id: peer.id(),
            name: Arc::clone(name),
        });
        let mut members: Vec<MemberRef> = members.collect();
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
