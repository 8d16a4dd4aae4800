//! How long answers hold.
//!
//! Pure: time comes in as `now`. An answer holds for a second. If its member reports changes, it
//! holds for as long as that member promises, unless a change concerns it
//! ([`super::pending_changes`]). If only some members' answers to a question still hold, only the
//! others are asked again, as are members that were not there before.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tinyp2p_net::config::PROMISE;
use tinyp2p_net::model::PeerId;

/// Unless a member reports a change, an answer holds for this long: `ls` shows what others did a
/// second ago, and a program that visits every file of a directory still asks the network once.
pub const FRESH: Duration = Duration::from_secs(1);

/// The present, as far as answers depend on it.
#[derive(Clone, Copy, Debug)]
pub struct Present {
    /// The time of the question.
    pub now: Instant,
    /// Which members there are.
    pub revision: u64,
}

/// When all members' answers to one question were given, and what they rely on.
#[derive(Clone, Debug)]
pub struct Freshness {
    /// When the first member whose answer is used was asked.
    pub asked: Instant,
    /// When the last answer arrived.
    pub came: Instant,
    /// The members whose answers are watched, sorted.
    pub watched: Arc<[PeerId]>,
    /// True if these are all members that were present.
    pub is_all_watched: bool,
    /// Which members there were.
    pub revision: u64,
    /// The number of the last change that the answers were compared with.
    pub changes: u64,
}

impl Freshness {
    /// Returns true while all the answers hold, unless a change ends them.
    pub fn holds(&self, present: Present) -> bool {
        let since = |then: Instant| present.now.saturating_duration_since(then);
        let is_watched = self.is_all_watched && self.revision == present.revision;
        since(self.came) < FRESH || (is_watched && self.is_promised(present.now))
    }

    /// Returns true while the answers of watching members hold, unless a change ends them.
    pub fn is_promised(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.asked) < PROMISE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Freshness {
        /// Returns the freshness of answers that nobody watches.
        pub(crate) fn unwatched(came: Instant) -> Self {
            Self {
                asked: came,
                came,
                watched: Arc::new([]),
                is_all_watched: false,
                revision: 0,
                changes: 0,
            }
        }
    }

    #[test]
    fn unwatched_answer_holds_for_a_second() {
        let now = Instant::now();
        let freshness = Freshness::unwatched(now);
        let at = |after| Present {
            now: now + after,
            revision: 0,
        };
        assert!(freshness.holds(at(FRESH / 2)));
        assert!(!freshness.holds(at(FRESH)));
    }

    #[test]
    fn watched_answer_holds_as_promised() {
        let now = Instant::now();
        let freshness = Freshness {
            is_all_watched: true,
            revision: 7,
            ..Freshness::unwatched(now)
        };
        let holds = |after, revision| {
            freshness.holds(Present {
                now: now + after,
                revision,
            })
        };
        assert!(holds(PROMISE / 2, 7) && !holds(PROMISE, 7));
        assert!(!holds(PROMISE / 2, 8) && holds(FRESH / 2, 8));
        assert!(freshness.is_promised(now + PROMISE / 2) && !freshness.is_promised(now + PROMISE));
    }
}
