//! The network as the filesystem sees it: a question to everyone, a peer to read from.
//!
//! The seam between `fs` and `net`. The real one is [`NodeNetwork`]; tests use
//! `testing::MemoryNetwork`, whose members can be slow, cut off, lying or gone.

use std::sync::Arc;
use std::time::Instant;

use tinyp2p_net::Node;
use tinyp2p_net::client::{self, Peer};
use tinyp2p_net::error::Error;
use tinyp2p_net::fanout::{Answer, Asked, Fanout};
use tinyp2p_net::types::{Attributes, PeerId, RelPath};
use tinyp2p_net::wire::Listing;

/// All members of the network, this node's own share included.
pub trait Network: Send + Sync {
    /// The whole of `directory` (all pages in one [`Listing`]) at every member. Members that are
    /// known to be absent answer their error at once; nobody is waited for beyond `deadline`.
    fn list(&self, directory: &RelPath, deadline: Instant) -> Vec<Answer<Listing>>;

    /// The attributes of one path at every member; `Ok(None)` where it is not shared.
    fn stat(&self, path: &RelPath, deadline: Instant) -> Vec<Answer<Option<Attributes>>>;

    /// A member to read from; `None` once it has left.
    fn peer(&self, member: PeerId) -> Option<Arc<dyn Peer>>;
}

/// The network of a running node.
pub struct NodeNetwork {
    node: Arc<Node>,
    fanout: Fanout,
}

impl NodeNetwork {
    /// What `node` sees of its network.
    pub fn new(node: Arc<Node>) -> Self {
        let fanout = Fanout::default();
        Self { node, fanout }
    }

    /// Asks everyone who is there. Members that were there and are not now answer for themselves
    /// that they are away: what they share is unknown, not gone.
    fn ask<T, Q>(&self, deadline: Instant, question: Q) -> Vec<Answer<T>>
    where
        T: Send + 'static,
        Q: Fn(&dyn Peer, Instant) -> Result<T, Error> + Send + Sync + 'static,
    {
        let present = self.node.present();
        let asked: Vec<Asked> = present
            .iter()
            .map(|member| Asked {
                name: Arc::clone(&member.name),
                peer: Arc::clone(&member.peer),
            })
            .collect();
        let mut answers = self.fanout.ask(&asked, deadline, question);
        for answer in &answers {
            if let Err(error) = &answer.result {
                self.node.members().report(answer.member, error);
            }
        }
        for (member, name) in self.node.members().absent() {
            let result = Err(Error::Unreachable {
                who: name.to_string(),
                why: "it did not answer lately".to_owned(),
            });
            answers.push(Answer {
                member,
                name,
                result,
            });
        }
        answers
    }
}

impl Network for NodeNetwork {
    fn list(&self, directory: &RelPath, deadline: Instant) -> Vec<Answer<Listing>> {
        let directory = directory.clone();
        self.ask(deadline, move |peer, deadline| {
            client::list(peer, &directory, deadline)
        })
    }

    fn stat(&self, path: &RelPath, deadline: Instant) -> Vec<Answer<Option<Attributes>>> {
        let path = path.clone();
        self.ask(deadline, move |peer, deadline| {
            client::stat(peer, &path, deadline)
        })
    }

    fn peer(&self, member: PeerId) -> Option<Arc<dyn Peer>> {
        let present = self.node.present().into_iter();
        let mut peers = present.filter(|known| known.id == member);
        peers.next().map(|member| member.peer)
    }
}
