//! The network as the filesystem sees it: a question to everyone, a peer to read from.
//!
//! The seam between `fs` and `net`. The real one is [`tinyp2p_net::Node`]; tests use
//! `testing::MemoryNetwork`, whose members can be slow, cut off, lying or gone.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tinyp2p_net::Node;
use tinyp2p_net::budget::{ByteBudget, Held};
use tinyp2p_net::error::Error as NetError;
use tinyp2p_net::model::{Attributes, PeerId, RelPath, Version};
use tinyp2p_net::peer::{self, Matches, Peer, Room, Whole};
use tinyp2p_net::protocol::wire::{Listing, SearchPage};
use tinyp2p_net::query::fanout::{PeerReply, QueryResult, Whom};
use tinyp2p_net::query::subscriptions::ChangeListener;
use tinyp2p_net::stats::status::Status;

/// The maximum number of matches that a search accepts from all members together, if there is
/// room for them.
pub const MAX_FOUND: usize = 4 * 65_536;

/// How many copies of its path a match is split into: directory and name, each also as a key.
const FOUND_PATHS: usize = 2;

/// The bytes of what else is made of a match at the same time: an entry, a row, an item, and the
/// places of its names in tables.
const FOUND_BYTES: usize = 640;

/// Questions to members on a caller's behalf end this long before the caller's deadline, so that
/// the answers received by then arrive in time.
pub(crate) const HANDING_OVER: Duration = Duration::from_millis(300);

/// A member, by identity and name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberRef {
    /// The member's identity.
    pub id: PeerId,
    /// How it is shown to people; unique in the network.
    pub name: Arc<str>,
}

/// All members of the network, this node's own share included.
pub trait Network: Send + Sync {
    /// Returns the whole of `directory` (all pages in one [`Listing`]) at every member among
    /// `whom`; `Ok(None)` where it does not exist. Members known to be absent answer their error
    /// immediately; nobody is waited for beyond `deadline`. A slow member that is not waited for
    /// may appear twice: with that error, and with what it last said.
    fn list(
        &self,
        whom: &Whom,
        directory: &RelPath,
        deadline: Instant,
    ) -> QueryResult<Option<Held<Listing>>>;

    /// Returns the attributes of one path at every member among `whom`; `Ok(None)` where it
    /// is not shared.
    fn stat(
        &self,
        whom: &Whom,
        path: &RelPath,
        deadline: Instant,
    ) -> QueryResult<Option<Attributes>>;

    /// Returns the budget that answers take their memory from.
    fn budget(&self) -> &Arc<ByteBudget>;

    /// Returns a number that changes whenever members come or go.
    fn revision(&self) -> u64;

    /// Notifies `listener`, for as long as it lives, when what members said no longer holds.
    fn listen(&self, listener: Weak<dyn ChangeListener>);

    /// Returns the files whose names match `pattern` at every member, as far as they arrive by
    /// `deadline`: about as many from each member, and [`MAX_FOUND`] together.
    fn search(&self, pattern: &str, deadline: Instant) -> Vec<PeerReply<Held<Matches>>>;

    /// Returns all members that are present, or were and do not answer now, by name. This node is
    /// among them if it shares something. Never waits.
    fn members(&self) -> Vec<MemberRef>;

    /// A member to read from; `None` once it has left.
    fn peer(&self, member: PeerId) -> Option<Arc<dyn Peer>>;

    /// Returns `member` if it is present and lists names without sizes.
    fn whole(&self, _member: PeerId) -> Option<Arc<dyn Whole>> {
        None
    }

    /// Returns all members that are present, possibly including this node.
    fn peers(&self) -> Vec<Arc<dyn Peer>>;

    /// Has members compute the content roots of these files before those of their other
    /// files. Never waits.
    fn compare(&self, _files: BTreeMap<PeerId, Vec<RelPath>>) {}

    /// Returns true if `member` has named a content root for its file of this `version`, and
    /// sent other bytes.
    fn is_disproved(&self, _member: PeerId, _version: Version) -> bool {
        false
    }

    /// Returns what this node is doing. Never waits.
    fn status(&self) -> Status;
}

impl Network for Node {
    fn list(
        &self,
        whom: &Whom,
        directory: &RelPath,
        deadline: Instant,
    ) -> QueryResult<Option<Held<Listing>>> {
        Self::list(self, whom, directory, deadline)
    }

    fn stat(
        &self,
        whom: &Whom,
        path: &RelPath,
        deadline: Instant,
    ) -> QueryResult<Option<Attributes>> {
        Self::stat(self, whom, path, deadline)
    }

    fn budget(&self) -> &Arc<ByteBudget> {
        Self::budget(self)
    }

    fn revision(&self) -> u64 {
        Self::revision(self)
    }

    fn listen(&self, listener: Weak<dyn ChangeListener>) {
        Self::listen(self, listener);
    }

    fn search(&self, pattern: &str, deadline: Instant) -> Vec<PeerReply<Held<Matches>>> {
        let members = self.present().len();
        self.ask_for_search(deadline, question(pattern, members, Self::budget(self)))
    }

    fn members(&self) -> Vec<MemberRef> {
        let present = self.present().into_iter();
        let present = present.map(|member| (member.name, member.id));
        let absent = self.members().absent().into_iter();
        let all = present.chain(absent.map(|(id, name)| (name, id)));
        // A member that has just come or gone may be in both.
        let by_name: BTreeMap<Arc<str>, PeerId> = all.collect();
        let by_name = by_name.into_iter();
        by_name.map(|(name, id)| MemberRef { id, name }).collect()
    }

    fn peer(&self, member: PeerId) -> Option<Arc<dyn Peer>> {
        let present = self
            .present()
            .into_iter()
            .find(|present| present.id == member);
        present.map(|member| member.peer)
    }

    fn whole(&self, member: PeerId) -> Option<Arc<dyn Whole>> {
        self.members().whole(member)
    }

    fn peers(&self) -> Vec<Arc<dyn Peer>> {
        let present = self.present().into_iter();
        present.map(|member| member.peer).collect()
    }

    fn compare(&self, files: BTreeMap<PeerId, Vec<RelPath>>) {
        Self::compare(self, files);
    }

    fn is_disproved(&self, member: PeerId, version: Version) -> bool {
        self.engine().is_disproved(member, version)
    }

    fn status(&self) -> Status {
        Self::status(self)
    }
}

/// Returns the question that a search asks each of so many `members`, within `budget`.
pub fn question(
    pattern: &str,
    members: usize,
    budget: &Arc<ByteBudget>,
) -> impl Fn(&dyn Peer, Instant) -> Result<Held<Matches>, NetError> + Send + Sync + 'static {
    at_most(MAX_FOUND / members.max(1), pattern, budget)
}

/// Returns the same question, answered once a member has found about `max` matches, or the first
/// page of them.
fn at_most(
    max: usize,
    pattern: &str,
    budget: &Arc<ByteBudget>,
) -> impl Fn(&dyn Peer, Instant) -> Result<Held<Matches>, NetError> + Send + Sync + 'static {
    let pattern = pattern.to_owned();
    let room = Room {
        budget: Arc::clone(budget),
        paths: FOUND_PATHS,
        each: FOUND_BYTES,
    };
    move |peer, deadline| {
        let deadline = deadline.checked_sub(HANDING_OVER).unwrap_or(deadline);
        let matches = peer::search_while(peer, &pattern, &room, deadline, |count| {
            count + SearchPage::MAX_MATCHES <= max && Instant::now() < deadline
        });
        if let Ok(matches) = &matches
            && let Some(error) = &matches.trouble
        {
            tracing::debug!(%error, "found only a part");
        }
        matches
    }
}

#[cfg(test)]
mod tests {
    use tinyp2p_net::testing::MemoryPeer;

    use super::*;

    #[test]
    fn search_ends_when_each_found_its_share() {
        let peers = [1, 2].map(MemoryPeer::new);
        for peer in &peers {
            (0..4 * SearchPage::MAX_MATCHES).for_each(|number| {
                peer.put(&number.to_string(), "x", 1);
            });
        }
        let page = SearchPage::MAX_MATCHES;
        let deadline = Instant::now() + Duration::from_secs(10);
        for (max, found) in [(3 * page, 3 * page), (1, page)] {
            let question = at_most(max, ".", &Arc::default());
            let count = |peer: &MemoryPeer| question(peer, deadline).unwrap().files.len();
            assert_eq!([count(&peers[0]), count(&peers[1])], [found; 2]);
        }
    }
}
