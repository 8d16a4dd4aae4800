//! The trees of single members, each as a [`View`] of a network that has nobody else in it. What
//! keeps the merged tree fresh, bounded and honest about silence does the same for one member's.
//!
//! A view is created when somebody looks into the member's tree and dropped when nobody has for a
//! while. It holds only what can be fetched again, so it may be dropped at any time.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tinyp2p_net::budget::{ByteBudget, Held};
use tinyp2p_net::download::{ReadingOrder, SmallFile, UpcomingFiles};
use tinyp2p_net::model::{Attributes, PeerId, RelPath};
use tinyp2p_net::peer::{Matches, Peer, Whole};
use tinyp2p_net::protocol::wire::Listing;
use tinyp2p_net::query::fanout::{PeerReply, QueryResult, Whom};
use tinyp2p_net::query::subscriptions::{ChangeListener, News};
use tinyp2p_net::stats::status::Status;

use crate::network::MemberRef;
use crate::network::Network;
use crate::view::View;

/// A view unused for this long is dropped when another is created. By then its answers are older
/// than they may be.
const UNUSED: Duration = Duration::from_secs(30);

/// The maximum number of views at once: the least recently used one is dropped first. A program
/// that walks the trees of more members than this at the same time only asks more often.
const MAX_VIEWS: usize = 16;

/// The views that are in use.
pub struct Trees {
    network: Arc<dyn Network>,
    merged: Arc<View>,
    views: Mutex<Vec<UsedTree>>,
}

struct UsedTree {
    member: PeerId,
    view: Arc<View>,
    last: Instant,
}

impl Trees {
    /// Creates the trees of the members of `network`, all of which `merged` shows.
    pub fn new(network: Arc<dyn Network>, merged: Arc<View>) -> Self {
        Self {
            network,
            merged,
            views: Mutex::default(),
        }
    }

    /// Returns the tree of `member`, whether or not there is such a member.
    pub fn of(&self, member: PeerId, now: Instant) -> Arc<View> {
        let mut views = self.views.lock();
        if let Some(used) = views.iter_mut().find(|used| used.member == member) {
            used.last = now;
            return Arc::clone(&used.view);
        }
        let mut gone = Vec::new();
        let is_unused = |used: &mut UsedTree| now.saturating_duration_since(used.last) >= UNUSED;
        gone.extend(views.extract_if(.., is_unused));
        while views.len() >= MAX_VIEWS
            && let Some(oldest) = (0..views.len()).min_by_key(|index| views[*index].last)
        {
            gone.push(views.swap_remove(oldest));
        }
        let network = Arc::new(Alone {
            network: Arc::clone(&self.network),
            member,
        });
        let view = Arc::new(View::of_member(network));
        views.push(UsedTree {
            member,
            view: Arc::clone(&view),
            last: now,
        });
        drop(views);
        // What they remember is freed without the lock.
        drop(gone);
        view
    }

    /// Invalidates what may no longer hold in the tree of `member` after its changes.
    pub fn apply(&self, member: PeerId, news: &News) {
        let view = self.in_use(member);
        if let Some(view) = view {
            view.apply(member, news);
        }
    }

    fn in_use(&self, member: PeerId) -> Option<Arc<View>> {
        let views = self.views.lock();
        let used = views.iter().find(|used| used.member == member);
        used.map(|used| Arc::clone(&used.view))
    }

    /// Invalidates what is known of `path` and of its parent directory, in all trees.
    pub fn invalidate(&self, path: &RelPath) {
        let views: Vec<Arc<View>> = {
            let views = self.views.lock();
            views.iter().map(|used| Arc::clone(&used.view)).collect()
        };
        for view in views {
            view.invalidate(path);
        }
    }
}

impl UpcomingFiles for Trees {
    /// A program walks the tree in which its directory was listed.
    fn behind(
        &self,
        path: &RelPath,
        order: ReadingOrder,
        member: PeerId,
        max: usize,
    ) -> Vec<SmallFile> {
        let behind = self.merged.behind(path, order, member, max);
        if !behind.is_empty() {
            return behind;
        }
        self.in_use(member)
            .map_or(Vec::new(), |view| view.behind(path, order, member, max))
    }

    fn order(&self, before: &RelPath, path: &RelPath) -> ReadingOrder {
        self.merged.order(before, path)
    }
}

/// The network as if one member were all of it.
struct Alone {
    network: Arc<dyn Network>,
    member: PeerId,
}

impl Alone {
    fn of(&self, whom: &Whom) -> Whom {
        Whom {
            only: Some(self.member),
            ..whom.clone()
        }
    }
}

impl Network for Alone {
    fn list(
        &self,
        whom: &Whom,
        directory: &RelPath,
        deadline: Instant,
    ) -> QueryResult<Option<Held<Listing>>> {
        self.network.list(&self.of(whom), directory, deadline)
    }

    fn stat(
        &self,
        whom: &Whom,
        path: &RelPath,
        deadline: Instant,
    ) -> QueryResult<Option<Attributes>> {
        self.network.stat(&self.of(whom), path, deadline)
    }

    fn budget(&self) -> &Arc<ByteBudget> {
        self.network.budget()
    }

    fn revision(&self) -> u64 {
        self.network.revision()
    }

    fn listen(&self, listener: Weak<dyn ChangeListener>) {
        self.network.listen(listener);
    }

    fn search(&self, pattern: &str, deadline: Instant) -> Vec<PeerReply<Held<Matches>>> {
        let mut answers = self.network.search(pattern, deadline);
        answers.retain(|answer| answer.member == self.member);
        answers
    }

    fn members(&self) -> Vec<MemberRef> {
        let mut members = self.network.members();
        members.retain(|member| member.id == self.member);
        members
    }

    fn peer(&self, member: PeerId) -> Option<Arc<dyn Peer>> {
        self.network.peer(member)
    }

    fn whole(&self, member: PeerId) -> Option<Arc<dyn Whole>> {
        self.network.whole(member)
    }

    fn peers(&self) -> Vec<Arc<dyn Peer>> {
        self.network.peer(self.member).into_iter().collect()
    }

    fn status(&self) -> Status {
        self.network.status()
    }
}

#[cfg(test)]
mod tests {
    use tinyp2p_net::testing::Behaviour;

    use super::*;
    use crate::errno::Error;
    use crate::testing::MemoryNetwork;
    use crate::view::Wait;

    fn trees(network: &Arc<MemoryNetwork>) -> Trees {
        let network = Arc::clone(network) as Arc<dyn Network>;
        let merged = Arc::new(View::new(Arc::clone(&network), None));
        Trees::new(network, merged)
    }

    fn soon() -> Wait {
        Wait::Until(Instant::now() + Duration::from_secs(10))
    }

    fn names(view: &View, path: &str) -> Result<Vec<String>, Error> {
        let listing = view.list(&RelPath::new(path.as_bytes()).unwrap(), soon())?;
        Ok(listing.items.iter().map(|i| i.name.to_string()).collect())
    }

    #[test]
    fn member_view_asks_that_member_alone() {
        let network = Arc::new(MemoryNetwork::default());
        let (ann, bob) = (network.join("ann", 1), network.join("bob", 2));
        ann.put("d/x", "old", 1);
        ann.put(".tinyp2p", "its own", 1);
        bob.put("d/x", "newer", 2);
        bob.behave(Behaviour::Frozen);
        let trees = trees(&network);
        let view = trees.of(ann.id(), Instant::now());
        assert_eq!(names(&view, "").unwrap(), [".tinyp2p", "d"]);
        assert_eq!(names(&view, "d").unwrap(), ["x"]);
        assert_eq!(bob.calls(), 0);
    }

    #[test]
    fn silent_members_root_is_an_error() {
        let network = Arc::new(MemoryNetwork::default());
        let ann = network.join("ann", 1);
        ann.behave(Behaviour::Gone);
        let trees = trees(&network);
        let of_ann = names(&trees.of(ann.id(), Instant::now()), "");
        assert!(matches!(of_ann, Err(Error::Silent(_))), "{of_ann:?}");
        let stranger = PeerId::from_bytes([9; 32]);
        let of_stranger = names(&trees.of(stranger, Instant::now()), "");
        assert!(matches!(of_stranger, Err(Error::NotFound)));
    }

    #[test]
    fn used_views_are_kept_and_bounded() {
        let trees = trees(&Arc::default());
        let (id, now) = (|n| PeerId::from_bytes([n; 32]), Instant::now());
        let first = trees.of(id(0), now);
        let is_first = |now| Arc::ptr_eq(&first, &trees.of(id(0), now));
        assert!(is_first(now + UNUSED));
        for n in 1..MAX_VIEWS as u8 {
            trees.of(id(n), now + UNUSED + Duration::from_secs(1));
        }
        assert!(is_first(now + UNUSED + Duration::from_secs(2)));
        trees.of(id(99), now + UNUSED + Duration::from_secs(3));
        assert_eq!(trees.views.lock().len(), MAX_VIEWS);
        assert!(is_first(now + UNUSED + Duration::from_secs(4)));
        trees.of(id(100), now + 3 * UNUSED);
        assert_eq!(
            trees.views.lock().len(),
            1,
            "the others are not used any more"
        );
    }
}
