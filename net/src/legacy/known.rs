//! The servers of 2004 that this node knows: those the user named, and those it was told of.
//!
//! In that protocol members tell each other of servers and never of their end, so the list is
//! bounded here: when it is full, whoever has never answered makes room, and else whoever nobody
//! has told of for the longest, and only after [`UNMENTIONED`]: so that a member that tells of many
//! drives out nobody that is still there, and keeps nobody out.

use std::time::{Duration, Instant};

use super::Url;

/// The most servers that were not named by the user.
pub const MAX_LEARNED: usize = 64;

/// What is looked at of the servers that somebody tells of at once.
pub const MAX_MENTIONED: usize = 256;

/// The most URLs of this node itself. A machine has few addresses.
pub const MAX_OWN: usize = 16;

/// A server of which nobody has told for so long can be replaced by another. Those that run tell of
/// themselves only when they start, so this is long.
pub const UNMENTIONED: Duration = Duration::from_secs(24 * 3600);

/// Servers of 2004, in the order in which they became known. Pure: whoever shares it puts it
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
    /// Of a node whose user named these servers.
    pub fn new(named: Vec<Url>) -> Self {
        Self {
            named,
            ..Self::default()
        }
    }

    /// Takes `own` for the URLs of this node, and none of them for another server any more.
    pub fn announce(&mut self, own: Vec<Url>) {
        self.named.retain(|url| !own.contains(url));
        self.learned.retain(|known| !own.contains(&known.url));
        self.own = own;
        self.revision += 1;
    }

    /// Takes `url` for one more of this node: it was called by it. False if that was known, or
    /// there are [`MAX_OWN`] already.
    pub fn called(&mut self, url: &Url) -> bool {
        if self.own.contains(url) || self.own.len() >= MAX_OWN {
            return false;
        }
        let mut own = std::mem::take(&mut self.own);
        own.push(url.clone());
        self.announce(own);
        true
    }

    /// Takes note of the server at `url`. False if it was known, is this node itself, or
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

    /// The server at `url` has answered.
    pub fn answered(&mut self, url: &Url) {
        if let Some(known) = self.learned.iter_mut().find(|known| known.url == *url) {
            known.has_answered = true;
        }
    }

    /// No longer takes `url` for a server, unless the user named it: it turned out to be this node
    /// itself, or none at all.
    pub fn forget(&mut self, url: &Url) {
        let before = self.learned.len();
        self.learned.retain(|known| known.url != *url);
        self.revision += u64::from(self.learned.len() < before);
    }

    /// All servers but this node itself.
    pub fn all(&self) -> Vec<Url> {
        let learned = self.learned.iter().map(|known| &known.url);
        self.named.iter().chain(learned).cloned().collect()
    }

    /// Those that the user named.
    pub fn named(&self) -> &[Url] {
        &self.named
    }

    /// This node's own URLs; the first is the one to tell others.
    pub fn own(&self) -> &[Url] {
        &self.own
    }

    /// Another number whenever [`KnownServers::all`] has changed.
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
        match oldest.map(|(index, _)| index) {
            Some(index) => {
                self.learned.remove(index);
                true
            }
            None => false,
        }
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
