//! The network as the filesystem sees it: a question to everyone, a peer to read from.
//!
//! The seam between `fs` and `net`. The real one is [`tinyp2p_net::Node`]; tests use
//! `testing::MemoryNetwork`, whose members can be slow, cut off, lying or gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tinyp2p_net::Node;
use tinyp2p_net::client::{self, Matches, Peer};
use tinyp2p_net::error::Error as NetError;
use tinyp2p_net::fanout::Answer;
use tinyp2p_net::status::Status;
use tinyp2p_net::types::{Attributes, PeerId, RelPath};
use tinyp2p_net::wire::{Listing, SearchPage};

use crate::view::merge::Member;

/// The most matches that a search takes in, of all members together; at about 200 bytes each.
pub const MAX_FOUND: usize = 4 * 65_536;

/// A member ends its search this long before the asker's deadline, so that what it has found by then is
/// there in time.
const HANDING_OVER: Duration = Duration::from_millis(300);

/// All members of the network, this node's own share included.
pub trait Network: Send + Sync {
    /// The whole of `directory` (all pages in one [`Listing`]) at every member. Members that are
    /// known to be absent answer their error at once; nobody is waited for beyond `deadline`.
    fn list(&self, directory: &RelPath, deadline: Instant) -> Vec<Answer<Listing>>;

    /// The attributes of one path at every member; `Ok(None)` where it is not shared.
    fn stat(&self, path: &RelPath, deadline: Instant) -> Vec<Answer<Option<Attributes>>>;

    /// As [`Network::list`], of one member alone. No answer at all when nobody knows that member.
    fn list_at(
        &self,
        member: PeerId,
        directory: &RelPath,
        deadline: Instant,
    ) -> Vec<Answer<Listing>>;

    /// As [`Network::stat`], of one member alone.
    fn stat_at(
        &self,
        member: PeerId,
        path: &RelPath,
        deadline: Instant,
    ) -> Vec<Answer<Option<Attributes>>>;

    /// The files whose names match `pattern` at every member, as far as they come by `deadline`, and at
    /// most about [`MAX_FOUND`] of them.
    fn search(&self, pattern: &str, deadline: Instant) -> Vec<Answer<Matches>>;

    /// All who are there, or were and do not answer now, by their names; this node is among them if it
    /// shares something. Never waits.
    fn members(&self) -> Vec<Member>;

    /// A member to read from; `None` once it has left.
    fn peer(&self, member: PeerId) -> Option<Arc<dyn Peer>>;

    /// All members who are there, this node perhaps among them.
    fn peers(&self) -> Vec<Arc<dyn Peer>>;

    /// What this node is doing. Never waits.
    fn status(&self) -> Status;
}

impl Network for Node {
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

    fn list_at(
        &self,
        member: PeerId,
        directory: &RelPath,
        deadline: Instant,
    ) -> Vec<Answer<Listing>> {
        let directory = directory.clone();
        let wanted = |id| id == member;
        self.ask_those(wanted, deadline, move |peer, deadline| {
            client::list(peer, &directory, deadline)
        })
    }

    fn stat_at(
        &self,
        member: PeerId,
        path: &RelPath,
        deadline: Instant,
    ) -> Vec<Answer<Option<Attributes>>> {
        let path = path.clone();
        let wanted = |id| id == member;
        self.ask_those(wanted, deadline, move |peer, deadline| {
            client::stat(peer, &path, deadline)
        })
    }

    fn search(&self, pattern: &str, deadline: Instant) -> Vec<Answer<Matches>> {
        self.ask(deadline, question(pattern))
    }

    fn members(&self) -> Vec<Member> {
        let present = self.present().into_iter();
        let present = present.map(|member| (member.name, member.id));
        let absent = self.members().absent().into_iter();
        let all = present.chain(absent.map(|(id, name)| (name, id)));
        // Who has just gone or come may be among both.
        let by_name: BTreeMap<Arc<str>, PeerId> = all.collect();
        let by_name = by_name.into_iter();
        by_name.map(|(name, id)| Member { id, name }).collect()
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

/// What each member is asked in a search.
pub fn question(
    pattern: &str,
) -> impl Fn(&dyn Peer, Instant) -> Result<Matches, NetError> + Send + Sync + 'static {
    let (pattern, found) = (pattern.to_owned(), AtomicUsize::new(0));
    move |peer, deadline| {
        let deadline = deadline.checked_sub(HANDING_OVER).unwrap_or(deadline);
        let mut counted = 0;
        let matches = client::search_while(peer, &pattern, deadline, |count| {
            let all = found.fetch_add(count - counted, Ordering::Relaxed) + count - counted;
            counted = count;
            all + SearchPage::MAX_MATCHES <= MAX_FOUND && Instant::now() < deadline
        });
        if let Ok(Matches {
            trouble: Some(error),
            ..
        }) = &matches
        {
            tracing::debug!(%error, "found only a part");
        }
        matches
    }
}
