//! The network as the filesystem sees it: a question to everyone, a peer to read from.
//!
//! The seam between `fs` and `net`. The real one is [`tinyp2p_net::Node`]; tests use
//! `testing::MemoryNetwork`, whose members can be slow, cut off, lying or gone.

use std::sync::{Arc, Weak};
use std::time::Instant;

use tinyp2p_net::Node;
use tinyp2p_net::client::Peer;
use tinyp2p_net::fanout::Round;
use tinyp2p_net::follow::Listener;
use tinyp2p_net::status::Status;
use tinyp2p_net::types::{Attributes, PeerId, RelPath};
use tinyp2p_net::wire::Listing;

/// All members of the network, this node's own share included.
pub trait Network: Send + Sync {
    /// The whole of `directory` (all pages in one [`Listing`]) at every member; `Ok(None)` where there is none.
    /// Members that are known to be absent answer their error at once; nobody is waited for beyond `deadline`.
    /// One that is not waited for because it is slow may appear twice: with that error, and with what it last said.
    fn list(&self, directory: &RelPath, deadline: Instant) -> Round<Option<Listing>>;

    /// The attributes of one path at every member; `Ok(None)` where it is not shared.
    fn stat(&self, path: &RelPath, deadline: Instant) -> Round<Option<Attributes>>;

    /// Another number whenever members have come or gone.
    fn revision(&self) -> u64;

    /// Tells `listener` from now on when what members said no longer holds, for as long as it lives.
    fn listen(&self, listener: Weak<dyn Listener>);

    /// A member to read from; `None` once it has left.
    fn peer(&self, member: PeerId) -> Option<Arc<dyn Peer>>;

    /// All members who are there, this node perhaps among them.
    fn peers(&self) -> Vec<Arc<dyn Peer>>;

    /// What this node is doing. Never waits.
    fn status(&self) -> Status;
}

impl Network for Node {
    fn list(&self, directory: &RelPath, deadline: Instant) -> Round<Option<Listing>> {
        Self::list(self, directory, deadline)
    }

    fn stat(&self, path: &RelPath, deadline: Instant) -> Round<Option<Attributes>> {
        Self::stat(self, path, deadline)
    }

    fn revision(&self) -> u64 {
        Self::revision(self)
    }

    fn listen(&self, listener: Weak<dyn Listener>) {
        Self::listen(self, listener);
    }

    fn peer(&self, member: PeerId) -> Option<Arc<dyn Peer>> {
        let present = self
            .present()
            .into_iter()
            .find(|present| present.id == member);
        present.map(|member| member.peer)
    }

    fn peers(&self) -> Vec<Arc<dyn Peer>> {
        let present = self.present().into_iter();
        present.map(|member| member.peer).collect()
    }

    fn status(&self) -> Status {
        Self::status(self)
    }
}
