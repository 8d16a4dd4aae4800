//! How long an answer holds, and what ends it before.
//!
//! Pure: time comes in as `now`. An answer holds for a second. If the members who gave it will be heard of when it
//! changes, it holds for as long as they promise. It ends early with news that concern it; another set of members ends
//! the promise.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tinyp2p_net::config::PROMISE;
use tinyp2p_net::types::RelPath;
use tinyp2p_net::wire::{Change, Depth};

/// Without news, an answer counts for this long: `ls` shows what others did a second ago, and a
/// program that looks at every file of a directory still asks the network once.
pub const FRESH: Duration = Duration::from_secs(1);

/// News remembered for questions that are under way. Should more come meanwhile, the answers count as overtaken.
const MOST_NEWS: usize = 4096;

/// The present, as far as answers depend on it.
#[derive(Clone, Copy, Debug)]
pub struct Present {
    /// The time.
    pub now: Instant,
    /// Which members there are.
    pub revision: u64,
}

/// When an answer was given, and what it relies on.
#[derive(Clone, Copy, Debug)]
pub struct Term {
    /// When the question was put.
    pub asked: Instant,
    /// When the answer was there.
    pub came: Instant,
    /// Which members there were, if all of them watch what they said.
    pub watched_by: Option<u64>,
    /// True once news have come that concern it.
    pub is_over: bool,
}

impl Term {
    /// That of an answer that nobody watches.
    pub fn unwatched(came: Instant) -> Self {
        Self {
            asked: came,
            came,
            watched_by: None,
            is_over: false,
        }
    }

    /// True while the answer holds.
    pub fn holds(&self, present: Present) -> bool {
        if self.is_over {
            return false;
        }
        let since = |then: Instant| present.now.saturating_duration_since(then);
        let is_watched = self.watched_by == Some(present.revision);
        since(self.came) < FRESH || (is_watched && since(self.asked) < PROMISE)
    }
}

/// The last news, for answers to questions that were put before they came.
#[derive(Debug, Default)]
pub struct Heard {
    count: u64,
    last: VecDeque<Change>,
}

impl Heard {
    /// How many there were so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Takes one in.
    pub fn note(&mut self, change: Change) {
        self.count += 1;
        self.last.push_back(change);
        if self.last.len() > MOST_NEWS {
            self.last.pop_front();
        }
    }

    /// Those since number `since` that concern the listing of `directory`, the first one first; `None` if that can no
    /// longer be told.
    pub fn about_listing(&self, directory: &RelPath, since: u64) -> Option<Vec<Change>> {
        let news = self.since(since)?;
        let news = news.filter(|change| concerns_listing(change, directory));
        Some(news.cloned().collect())
    }

    /// True if one of those since number `since` concerns what lies at `path`, or if that can no longer be told.
    pub fn concern_entry(&self, path: &RelPath, since: u64) -> bool {
        let news = self.since(since);
        news.is_none_or(|mut news| news.any(|change| concerns_entry(change, path)))
    }

    fn since(&self, since: u64) -> Option<impl Iterator<Item = &Change>> {
        let missed = usize::try_from(self.count - since).ok()?;
        let first = self.last.len().checked_sub(missed)?;
        Some(self.last.range(first..))
    }
}

/// True if a listing of `directory` may no longer hold.
pub fn concerns_listing(change: &Change, directory: &RelPath) -> bool {
    let parent = change.path.split().map(|(parent, _)| parent);
    parent.as_ref() == Some(directory) || concerns_entry(change, directory)
}

/// True if what was said of `path` itself may no longer hold.
pub fn concerns_entry(change: &Change, path: &RelPath) -> bool {
    match change.depth {
        Depth::Entry => change.path == *path,
        Depth::Tree => path.is_within(&change.path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    fn change(text: &str, depth: Depth) -> Change {
        Change {
            path: path(text),
            depth,
        }
    }

    #[test]
    fn an_answer_that_nobody_watches_holds_for_a_second() {
        let now = Instant::now();
        let term = Term::unwatched(now);
        let at = |after| Present {
            now: now + after,
            revision: 1,
        };
        assert!(term.holds(at(FRESH / 2)));
        assert!(!term.holds(at(FRESH)));
    }

    #[test]
    fn a_watched_answer_holds_as_promised_while_the_members_are_the_same() {
        let now = Instant::now();
        let term = Term {
            watched_by: Some(7),
            ..Term::unwatched(now)
        };
        let holds = |after, revision| {
            term.holds(Present {
                now: now + after,
                revision,
            })
        };
        assert!(holds(PROMISE / 2, 7) && !holds(PROMISE, 7));
        assert!(!holds(PROMISE / 2, 8) && holds(FRESH / 2, 8));
        let over = Term {
            is_over: true,
            ..term
        };
        assert!(!over.holds(Present { now, revision: 7 }));
    }

    #[test]
    fn a_change_concerns_its_own_listing_that_of_its_parent_and_if_deep_all_below() {
        for (depth, concerned) in [
            (Depth::Entry, &["a", "a/b"][..]),
            (Depth::Tree, &["a", "a/b", "a/b/c", "a/b/c/d"]),
        ] {
            let change = change("a/b", depth);
            for directory in ["", "a", "a/b", "a/b/c", "a/b/c/d", "a/bc", "b"] {
                let expected = concerned.contains(&directory);
                let found = concerns_listing(&change, &path(directory));
                assert_eq!(found, expected, "{directory} {depth:?}");
            }
        }
        let everything = Change::everything();
        assert!(
            concerns_listing(&everything, &path("")) && concerns_listing(&everything, &path("x"))
        );
    }

    #[test]
    fn news_that_came_while_a_question_was_under_way_overtake_its_answer() {
        let mut heard = Heard::default();
        heard.note(change("d/old", Depth::Tree));
        let begun = heard.count();
        let about = |heard: &Heard, since| heard.about_listing(&path("d"), since).unwrap();
        assert!(about(&heard, begun).is_empty());
        heard.note(change("e/x", Depth::Entry));
        assert!(about(&heard, begun).is_empty());
        heard.note(change("d/new", Depth::Tree));
        assert_eq!(about(&heard, begun), [change("d/new", Depth::Tree)]);
        assert!(heard.concern_entry(&path("d/new"), begun));
        assert!(!heard.concern_entry(&path("d/other"), begun));
        assert!(about(&heard, heard.count()).is_empty());
    }

    #[test]
    fn what_has_missed_too_much_counts_as_overtaken() {
        let mut heard = Heard::default();
        for _ in 0..=MOST_NEWS {
            heard.note(change("x", Depth::Entry));
        }
        assert!(heard.concern_entry(&path("y"), 0));
        assert_eq!(heard.about_listing(&path("y"), 0), None);
        assert!(!heard.concern_entry(&path("y"), 1));
    }
}
