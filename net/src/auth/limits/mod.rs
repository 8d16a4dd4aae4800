//! Limits on guessing a network's password: as strict as members can bear.
//!
//! Each pairing run gives the other side one guess, in either role, so runs are counted in both
//! directions. [`Inbound`] bounds what strangers may try here, [`Outbound`] what this node gives
//! away by dialling impostors. Both are tables that take the time as `now` and know no sockets.
//!
//! A run is charged when it begins and settled when it ends; any run that does not end well was a
//! guess. Only runs that have ended count as failures, or else honest members who arrive together
//! would lock each other out; the number of runs under way is bounded instead. Success leaves no
//! trace, so a member may come and go as often as it likes.
//!
//! There is no permanent lock: it would let any stranger shut a network for good.
//!
//! A restart must not give a guesser a fresh budget, so counts and times outlive the process:
//! [`GuessRecord`] keeps them in the state directory, for all nodes that use it.

mod inbound;
mod known_keys;
mod outbound;
mod record;
mod stamps;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

pub use inbound::{CallerStanding, GuessRefusal, Inbound, InboundRun, StrangerFailures};
pub use known_keys::RememberedKeys;
pub use outbound::{AddressSource, GuessOutcome, Hold, Outbound, OutboundRun, SpentGuesses};
pub use record::GuessRecord;

/// The shared record of all nodes of a state directory.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Guesses {
    /// Failures of strangers who dialled a node.
    pub inbound: StrangerFailures,
    /// Guesses given away by dialling.
    pub outbound: SpentGuesses,
}

impl Guesses {
    /// Creates the record of a process that cannot store one.
    fn unrecorded(now: Instant) -> Self {
        Self {
            inbound: StrangerFailures::unknown(now),
            outbound: SpentGuesses::unrecorded(),
        }
    }

    /// Creates the record that replaces a lost one: strangers are slowed down, and half of the
    /// day's budget is spent. That shuts nobody out, and makes losing a record hardly worthwhile
    /// as a refill.
    fn lost(now: Instant) -> Self {
        Self {
            inbound: StrangerFailures::unknown(now),
            outbound: SpentGuesses {
                failures: vec![(now, 0); outbound::BUDGET / 2],
                ..SpentGuesses::default()
            },
        }
    }
}

/// The times of the latest failures within a sliding window.
#[derive(Debug, Default)]
struct RecentFailures(VecDeque<Instant>);

impl RecentFailures {
    /// Drops what is older than `window`, and returns how many are left.
    fn count(&mut self, window: Duration, now: Instant) -> usize {
        while let Some(first) = self.0.front()
            && now.saturating_duration_since(*first) >= window
        {
            self.0.pop_front();
        }
        self.0.len()
    }

    fn push(&mut self, now: Instant) {
        self.0.push_back(now);
    }

    /// Returns the time until fewer than `limit` are left; zero if that is so now.
    fn wait(&mut self, limit: usize, window: Duration, now: Instant) -> Duration {
        let count = self.count(window, now);
        match count.checked_sub(limit).and_then(|index| self.0.get(index)) {
            Some(blocking) => (*blocking + window).saturating_duration_since(now),
            None => Duration::ZERO,
        }
    }
}
