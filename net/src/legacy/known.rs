//! The servers of 2004 that this node knows: those the user named, and those it learned of.
//!
//! In that protocol, members announce servers to each other and never their end, so the list is
//! bounded here. When it is full, a server that has never answered makes room, or else the one not
//! mentioned for the longest time, and only after [`UNMENTIONED`]. So a member that announces many
//! displaces none that is still there, and keeps none out.

use std::time::{Duration, Instant};

use super::Url;

/// The maximum number of servers that were not named by the user.
pub const MAX_LEARNED: usize = 64;

/// The maximum number of servers considered in one message.
pub const MAX_MENTIONED: usize = 256;

/// The maximum number of URLs of this node itself. A machine has few addresses.
pub const MAX_OWN: usize = 16;

/// A server that nobody has mentioned for this long can be replaced by another. Running servers
/// announce themselves only when they start, so this is long.
pub const UNMENTIONED: Duration = Duration::from_secs(24 * 3600);

/// Servers of 2004, in the order in which they became known. Pure: users that share it put it
/// behind a lock.
#[derive(Debug, Default)]
pub struct KnownServers {
    own: Vec<Url>,
    named: Vec<Url>,
    learned: Vec<Learned>,
    revision: u64,
}

#[derive(Debug)]
struct Learned {
    url: Url,
    mentioned: Instant,
    has_answered: bool,
}

impl KnownServers {
    /// Creates the list of a node whose user named these servers.
    pub fn new(named: Vec<Url>) -> Self {
        Self {
            named,
            ..Self::default()
        }
    }

    /// Sets `own` as the URLs of this node, and no longer lists any of them as another server.
    pub fn announce(&mut self, own: Vec<Url>) {
        self.named.retain(|url| !own.contains(url));
        self.learned.retain(|known| !own.contains(&known.url));
        self.own = own;
        self.revision += 1;
    }

    /// Adds `url`, by which this node was called, to its own. Returns false if it was known, or
    /// there are already [`MAX_OWN`].
    pub fn called(&mut self, url: &Url) -> bool {
        if self.own.contains(url) || self.own.len() >= MAX_OWN {
            return false;
        }
        let mut own = std::mem::take(&mut self.own);
        own.push(url.clone());
        self.announce(own);
        true
    }

    /// Notes the server at `url`. Returns false if it was known, is this node itself, or
    /// finds no room.
    pub fn learn(&mut self, url: Url, now: Instant) -> bool {
        if self.own.contains(&url) || self.named.contains(&url) {
            return false;
        }
        if let Some(known) = self.learned.iter_mut().find(|known| known.url == url) {
            known.mentioned = now;
            return false;
        }
        if self.learned.len() >= MAX_LEARNED && !self.make_room(now) {
            return false;
        }
        self.learned.push(Learned {
            url,
            mentioned: now,
            has_answered: false,
        });
        self.revision += 1;
        true
    }

    /// Notes that the server at `url` has answered.
    pub fn answered(&mut self, url: &Url) {
        if let Some(known) = self.learned.iter_mut().find(|known| known.url == *url) {
            known.has_answered = true;
        }
    }

    /// Removes the server at `url`, unless the user named it: it turned out to be this node itself,
    /// or no server at all.
    pub fn forget(&mut self, url: &Url) {
        let before = self.learned.len();
        self.learned.retain(|known| known.url != *url);
        self.revision += u64::from(self.learned.len() < before);
    }

    /// Returns all servers except this node itself.
    pub fn all(&self) -> Vec<Url> {
        let learned = self.learned.iter().map(|known| &known.url);
        self.named.iter().chain(learned).cloned().collect()
    }

    /// Returns the servers that the user named.
    pub fn named(&self) -> &[Url] {
        &self.named
    }

    /// Returns this node's own URLs; the first is the one announced to others.
    pub fn own(&self) -> &[Url] {
        &self.own
    }

    /// Returns a number that changes whenever [`KnownServers::all`] does.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    fn make_room(&mut self, now: Instant) -> bool {
        let can_go = |known: &Learned| {
            !known.has_answered || now.saturating_duration_since(known.mentioned) > UNMENTIONED
        };
        let known = self.learned.iter().enumerate();
        let known = known.filter(|(_, known)| can_go(known));
        let oldest = known.min_by_key(|(_, known)| (known.has_answered, known.mentioned));
        let oldest = oldest.map(|(index, _)| index);
        oldest.map(|index| self.learned.remove(index)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(number: usize) -> Url {
        format!("http://box{number}:80").parse().unwrap()
    }

    #[test]
    fn server_is_known_once_and_never_itself() {
        let now = Instant::now();
        let mut known = KnownServers::new(vec![url(0), url(1)]);
        known.announce(vec![url(0)]);
        let begin = known.revision();
        assert!(known.learn(url(2), now));
        for again in [0, 1, 2] {
            assert!(!known.learn(url(again), now));
        }
        assert_eq!(known.all(), [url(1), url(2)]);
        assert_eq!(known.revision(), begin + 1);
        known.forget(&url(2));
        known.forget(&url(1));
        assert_eq!(known.all(), [url(1)], "who was named stays");
        assert_eq!(known.revision(), begin + 2);
    }

    #[test]
    fn own_urls_are_no_other_server() {
        let mut known = KnownServers::new(vec![url(0)]);
        known.announce(vec![url(1)]);
        known.learn(url(2), Instant::now());
        assert!(known.called(&url(0)) && known.called(&url(2)) && !known.called(&url(2)));
        assert!(known.all().is_empty());
        assert_eq!(known.own(), [url(1), url(0), url(2)], "the first stays");
        for number in 0..100 {
            known.called(&url(number));
        }
        assert_eq!(known.own().len(), MAX_OWN);
    }

    #[test]
    fn recently_named_responders_are_kept() {
        let start = Instant::now();
        let mut known = KnownServers::new(vec![url(0)]);
        for number in 1..=MAX_LEARNED {
            assert!(known.learn(url(number), start));
            known.answered(&url(number));
        }
        let late = start + UNMENTIONED + Duration::from_secs(1);
        assert!(!known.learn(url(100), start + UNMENTIONED));
        known.learn(url(1), late);
        assert!(known.learn(url(100), late));
        let all = known.all();
        assert_eq!(all.len(), 1 + MAX_LEARNED);
        assert!(all.contains(&url(0)) && all.contains(&url(1)) && !all.contains(&url(2)));
    }

    #[test]
    fn those_who_never_answer_keep_nobody_out() {
        let now = Instant::now();
        let mut known = KnownServers::default();
        known.learn(url(0), now);
        known.answered(&url(0));
        for number in 1..10 * MAX_LEARNED {
            assert!(known.learn(url(number), now));
        }
        let all = known.all();
        assert_eq!(all.len(), MAX_LEARNED);
        assert!(all.contains(&url(0)) && all.contains(&url(10 * MAX_LEARNED - 1)));
    }
}
