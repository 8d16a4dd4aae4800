//! Follows what changes at members, for as long as their answers are in use.
//!
//! Each member whose answers are in use is polled by a thread of its own (`tinyp2p.changes`,
//! PROTOCOL.md section 5.5). The poll begins with the first watched answer and ends when the last
//! one is too old to use. When it fails, the member's answers stay valid only as long as unwatched
//! ones; the next watched answer begins another poll.
//!
//! An answer may be relied on only if its counter is no older than the poll's first: nobody would
//! report earlier changes.
//!
//! Handling changes costs time, so no member may report any number of them (`allowance.rs`), and no
//! member is polled continuously because it always answers at once (`pace.rs`). A member that
//! exceeds its allowance is not followed for a while, each time for longer: its answers then stay
//! valid only as long as unwatched ones.

mod allowance;
mod pace;

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use crate::config::PROMISE;
use crate::error::Error;
use crate::model::PeerId;
use crate::peer::Peer;
use crate::protocol::wire::{Change, ChangesRequest, Request, Response};
use allowance::{Floods, PollAllowance};
use pace::Paces;

/// How long a poll asks the member to wait. Together with [`GRACE`], this is how soon a member that
/// has fallen silent is no longer trusted.
const WAIT: Duration = Duration::from_secs(5);

/// A poll without an answer this long after its time was up has failed.
const GRACE: Duration = Duration::from_secs(3);

/// Minimum time between the starts of two polls, however quick the answers are.
const PACE: Duration = Duration::from_millis(15);

/// An answer that comes sooner was not held back by the member, and counts as early.
const EARLY: Duration = Duration::from_millis(2500);

/// A member is not polled again for this long after its poll failed.
const PAUSE: Duration = Duration::from_secs(2);

/// Members followed at once: each takes a thread.
const MAX_FOLLOWED: usize = 1024;

/// A change event of a member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum News {
    /// These entries may differ from its earlier answers.
    Changed(Vec<Change>),
    /// Nobody reports changes there any more.
    Lost,
}

/// A user of members' answers. Called from the thread that follows the member, with no lock held.
pub trait ChangeListener: Send + Sync {
    /// Handles a change event of `member`.
    fn news(&self, member: PeerId, news: &News);
}

/// Reports that a poll failed.
type ReportFailure = Box<dyn Fn(PeerId, &Error) + Send + Sync>;

/// The members that are followed.
pub struct Subscriptions {
    followed: Mutex<HashMap<PeerId, Followed>>,
    /// Until when members are not followed, after a failed poll or too many changes.
    paused: Mutex<HashMap<PeerId, Instant>>,
    floods: Mutex<Floods>,
    paces: Mutex<Paces>,
    listeners: RwLock<Vec<Weak<dyn ChangeListener>>>,
    report: ReportFailure,
}

struct Followed {
    /// The counter at which the poll began.
    first: u64,
    /// When the last answer in use is too old.
    until: Instant,
    /// The member that the thread polls; a new object once it has come back.
    peer: Weak<dyn Peer>,
}

impl Subscriptions {
    /// Creates subscriptions that follow nobody yet. `report` is called for failed polls.
    pub fn new(report: ReportFailure) -> Arc<Self> {
        Arc::new(Self {
            followed: Mutex::default(),
            paused: Mutex::default(),
            floods: Mutex::default(),
            paces: Mutex::default(),
            listeners: RwLock::default(),
            report,
        })
    }

    /// Reports all changes to `listener` from now on, for as long as it lives.
    pub fn listen(&self, listener: Weak<dyn ChangeListener>) {
        let mut listeners = self.listeners.write();
        listeners.retain(|known| known.strong_count() > 0);
        listeners.push(listener);
    }

    /// Returns true if the answer of `peer` with `counter` at `now` stays valid for [`PROMISE`],
    /// unless a change is reported first.
    pub fn follow(self: &Arc<Self>, peer: &Arc<dyn Peer>, counter: u64, now: Instant) -> bool {
        let until = now + PROMISE;
        let mut followed = self.followed.lock();
        if let Some(known) = followed.get_mut(&peer.id()) {
            let is_good = known.is_of(&**peer) && known.first <= counter;
            if is_good {
                known.until = until;
            }
            return is_good;
        }
        if followed.len() >= MAX_FOLLOWED || self.is_paused(peer.id(), now) {
            return false;
        }
        let new = Followed {
            first: counter,
            until,
            peer: Arc::downgrade(peer),
        };
        let (subscriptions, peer) = (Arc::downgrade(self), Arc::clone(peer));
        let id = peer.id();
        let thread = std::thread::Builder::new().name(format!("follow-{}", id.short()));
        let spawned = thread.spawn(move || run(&subscriptions, &*peer, counter));
        let is_followed = spawned.is_ok();
        if is_followed {
            followed.insert(id, new);
        }
        is_followed
    }

    /// Ends all polls, each at the latest after the current call.
    pub fn stop(&self) {
        self.followed.lock().clear();
    }

    /// Announces that no answer of `member` holds any longer.
    pub fn distrust(&self, member: PeerId) {
        self.notify(member, &News::Lost);
    }

    fn notify(&self, member: PeerId, news: &News) {
        let listeners = self.listeners.read().clone();
        for listener in listeners.iter().filter_map(Weak::upgrade) {
            listener.news(member, news);
        }
    }

    /// Returns true while `peer` is to be polled; forgets it once nobody needs it.
    fn is_needed(&self, peer: &dyn Peer, now: Instant) -> bool {
        let mut followed = self.followed.lock();
        let known = followed.get(&peer.id()).filter(|known| known.is_of(peer));
        let Some(known) = known else { return false };
        let is_needed = now < known.until;
        if !is_needed {
            followed.remove(&peer.id());
        }
        is_needed
    }

    fn is_paused(&self, member: PeerId, now: Instant) -> bool {
        let mut paused = self.paused.lock();
        paused.retain(|_, until| now < *until);
        paused.contains_key(&member)
    }

    /// Ends the poll of `peer` and prevents another one before `until`.
    fn end(&self, peer: &dyn Peer, until: Instant) {
        self.paused.lock().insert(peer.id(), until);
        self.forget(peer);
        self.notify(peer.id(), &News::Lost);
    }

    fn forget(&self, peer: &dyn Peer) {
        let mut followed = self.followed.lock();
        if followed
            .get(&peer.id())
            .is_some_and(|known| known.is_of(peer))
        {
            followed.remove(&peer.id());
        }
    }
}

impl Followed {
    fn is_of(&self, peer: &dyn Peer) -> bool {
        std::ptr::addr_eq(self.peer.as_ptr(), peer)
    }
}

/// Polls one member until nobody needs it or it fails.
fn run(subscriptions: &Weak<Subscriptions>, peer: &dyn Peer, counter: u64) {
    let mut since = counter;
    let mut allowance = PollAllowance::new(Instant::now());
    loop {
        {
            let Some(subscriptions) = subscriptions.upgrade() else {
                return;
            };
            if !subscriptions.is_needed(peer, Instant::now()) {
                return;
            }
        }
        let begun = Instant::now();
        let request = Request::Changes(ChangesRequest { since, wait: WAIT });
        let answer = peer.call(&request, Instant::now() + WAIT + GRACE);
        let Some(subscriptions) = subscriptions.upgrade() else {
            return;
        };
        match answer {
            Ok(Response::Changes(changes)) => {
                since = changes.counter;
                let (now, count) = (Instant::now(), changes.changes.len());
                let is_early = now - begun < EARLY;
                if (is_early || count > 0) && !allowance.takes(count, now) {
                    let pause = subscriptions.floods.lock().note(peer.id(), now);
                    let seconds = pause.as_secs();
                    tracing::info!(member = ?peer.id(), seconds, "changes too much to be followed");
                    return subscriptions.end(peer, now + pause);
                }
                if count > 0 {
                    subscriptions.notify(peer.id(), &News::Changed(changes.changes));
                }
                let mut next = begun + PACE;
                if is_early {
                    let mut paces = subscriptions.paces.lock();
                    next = next.max(paces.next(peer.id(), peer.remote(), count > 0, now));
                }
                drop(subscriptions);
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            other => {
                let error = match other {
                    Err(error) => error,
                    Ok(_) => Error::misbehaved(peer.id().short(), "an answer to another question"),
                };
                tracing::debug!(member = ?peer.id(), %error, "changes are no longer heard of");
                subscriptions.end(peer, Instant::now() + PAUSE);
                (subscriptions.report)(peer.id(), &error);
                return;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::RelPath;
    use crate::protocol::wire::Depth;
    use crate::testing::{Behaviour, MemoryPeer};

    /// Keeps the change events it receives.
    #[derive(Default)]
    struct Ear(Mutex<Vec<News>>);

    impl ChangeListener for Ear {
        fn news(&self, _: PeerId, news: &News) {
            self.0.lock().push(news.clone());
        }
    }

    impl Ear {
        fn hears(&self, expected: &News) {
            let deadline = Instant::now() + Duration::from_secs(10);
            while !self.0.lock().contains(expected) {
                assert!(Instant::now() < deadline, "{:?}", self.0.lock());
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }

    fn setting() -> (Arc<Subscriptions>, Arc<Ear>, Arc<MemoryPeer>) {
        let subscriptions = Subscriptions::new(Box::new(|_, _| {}));
        let ear = Arc::new(Ear::default());
        subscriptions.listen(Arc::downgrade(&ear) as Weak<dyn ChangeListener>);
        (subscriptions, ear, Arc::new(MemoryPeer::new(1)))
    }

    fn dynamic(peer: &Arc<MemoryPeer>) -> Arc<dyn Peer> {
        Arc::clone(peer) as Arc<dyn Peer>
    }

    fn changed(text: &str) -> News {
        let path = RelPath::new(text.as_bytes()).unwrap();
        News::Changed(vec![Change {
            path,
            depth: Depth::Tree,
        }])
    }

    #[test]
    fn change_after_a_watched_answer_is_heard() {
        let (subscriptions, ear, peer) = setting();
        peer.watch();
        let counter = peer.counter();
        assert!(subscriptions.follow(&dynamic(&peer), counter, Instant::now()));
        peer.put("a", "x", 1);
        ear.hears(&changed("a"));
        peer.put("b", "x", 1);
        ear.hears(&changed("b"));
    }

    #[test]
    fn answer_older_than_the_poll_is_ignored() {
        let (subscriptions, _, peer) = setting();
        peer.watch();
        let before = peer.counter();
        peer.put("a", "x", 1);
        let now = Instant::now();
        assert!(subscriptions.follow(&dynamic(&peer), peer.counter(), now));
        assert!(!subscriptions.follow(&dynamic(&peer), before, now));
        assert!(subscriptions.follow(&dynamic(&peer), peer.counter(), now));
    }

    #[test]
    fn failed_poll_ends_the_promise() {
        let (subscriptions, ear, peer) = setting();
        peer.watch();
        let now = Instant::now();
        assert!(subscriptions.follow(&dynamic(&peer), peer.counter(), now));
        peer.behave(Behaviour::Gone);
        ear.hears(&News::Lost);
        peer.behave(Behaviour::Honest);
        let now = Instant::now();
        assert!(!subscriptions.follow(&dynamic(&peer), peer.counter(), now));
        let later = now + PAUSE;
        assert!(subscriptions.follow(&dynamic(&peer), peer.counter(), later));
        peer.put("a", "x", 1);
        ear.hears(&changed("a"));
    }

    #[test]
    fn unwatching_member_is_lost_at_once() {
        let (subscriptions, ear, peer) = setting();
        assert!(subscriptions.follow(&dynamic(&peer), 7, Instant::now()));
        ear.hears(&News::Lost);
    }

    #[test]
    fn returned_member_is_not_the_polled_one() {
        let (subscriptions, _, peer) = setting();
        peer.watch();
        let now = Instant::now();
        assert!(subscriptions.follow(&dynamic(&peer), peer.counter(), now));
        let again = Arc::new(MemoryPeer::new(1));
        assert!(!subscriptions.follow(&dynamic(&again), u64::MAX, now));
    }

    #[test]
    fn change_floods_end_promises_ever_longer() {
        let (subscriptions, ear, peer) = setting();
        peer.behave(Behaviour::Flooding(1024, false));
        let begun = Instant::now();
        let mut times = 0;
        let mut lost = 0;
        while begun.elapsed() < 3 * PAUSE {
            times += usize::from(subscriptions.follow(&dynamic(&peer), 1, Instant::now()));
            std::thread::sleep(Duration::from_millis(10));
        }
        for news in &*ear.0.lock() {
            lost += usize::from(*news == News::Lost);
        }
        assert!(times > 1 && lost > 0, "followed {times} times, lost {lost}");
        // At the regular pace there would be 66 a second.
        assert!(peer.polls() < 25, "{} polls", peer.polls());
    }

    #[test]
    fn empty_instant_answers_slow_the_polls() {
        let (subscriptions, _, peer) = setting();
        peer.behave(Behaviour::Flooding(0, false));
        assert!(subscriptions.follow(&dynamic(&peer), 1, Instant::now()));
        std::thread::sleep(Duration::from_secs(3));
        assert!((2..=45).contains(&peer.polls()), "{} polls", peer.polls());
    }

    #[test]
    fn changes_are_heard_within_a_second() {
        let (subscriptions, ear, peer) = setting();
        peer.watch();
        assert!(subscriptions.follow(&dynamic(&peer), peer.counter(), Instant::now()));
        let mut longest = Duration::ZERO;
        for number in 0..70 {
            let (name, begun) = (format!("{number}"), Instant::now());
            peer.put(&name, "x", 1);
            ear.hears(&changed(&name));
            longest = longest.max(begun.elapsed());
        }
        assert!(longest < Duration::from_secs(1), "{longest:?}");
    }

    #[test]
    fn polling_stops_once_answers_are_old() {
        let (subscriptions, _, peer) = setting();
        peer.watch();
        let then = Instant::now().checked_sub(PROMISE).unwrap();
        subscriptions.follow(&dynamic(&peer), peer.counter(), then);
        let deadline = Instant::now() + Duration::from_secs(10);
        while subscriptions.followed.lock().contains_key(&peer.id()) {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
