//! Who may begin a handshake, and when.
//!
//! A handshake costs this side some 0.2 ms and the other side nothing but a recorded message. So
//! each needs a token. A network from which members came lately has a bucket of its own; each site
//! of strangers has a smaller one, and besides all strangers share one. Whoever finds no token
//! waits, and lines take turns, so that the longest line delays itself.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use crate::fairness::{Refill, SourceNetwork, TokenBucket};

/// Lines that are remembered while nobody stands in them. A bucket is full again after a few
/// seconds, and a line with a full one is as good as none.
const MAX_LINES: usize = 1024;

/// Tickets in a line before those are looked for that nobody holds any more.
const LONG_LINE: usize = 256;

/// How many handshakes may begin.
#[derive(Debug, Clone, Copy)]
pub(super) struct HelloRates {
    /// All strangers together.
    pub(super) strangers: Refill,
    /// The strangers of one site.
    pub(super) stranger: Refill,
    /// One network from which members came lately.
    pub(super) known: Refill,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum LineId {
    Known(SourceNetwork),
    Strangers(SourceNetwork),
}

/// Those who wait with tickets of type `T`.
pub(super) struct HelloQueue<T> {
    rates: HelloRates,
    strangers: TokenBucket,
    lines: HashMap<LineId, Line<T>>,
    /// The lines in which somebody waits, the next one first.
    turns: VecDeque<LineId>,
}

struct Line<T> {
    bucket: TokenBucket,
    waiting: VecDeque<(SourceNetwork, T)>,
}

impl<T> HelloQueue<T> {
    pub(super) fn new(rates: HelloRates, now: Instant) -> Self {
        Self {
            rates,
            strangers: TokenBucket::new(rates.strangers, now),
            lines: HashMap::new(),
            turns: VecDeque::new(),
        }
    }

    /// Puts a ticket at the end of its line. `is_gone` tells which tickets nobody waits with any
    /// more.
    pub(super) fn push(
        &mut self,
        network: SourceNetwork,
        is_known: bool,
        ticket: T,
        now: Instant,
        is_gone: impl Fn(&T) -> bool,
    ) {
        let id = if is_known {
            LineId::Known(network)
        } else {
            LineId::Strangers(network.site())
        };
        if self.lines.len() >= MAX_LINES {
            self.forget(now);
        }
        let line = self.line(id, now);
        if line.waiting.len() >= LONG_LINE {
            line.waiting.retain(|(_, ticket)| !is_gone(ticket));
        }
        line.waiting.push_back((network, ticket));
        if line.waiting.len() == 1 {
            self.turns.push_back(id);
        }
    }

    /// A member was admitted from `network`: who waits there is no stranger any more.
    pub(super) fn promote(&mut self, network: SourceNetwork, now: Instant) {
        let Some(line) = self.lines.get_mut(&LineId::Strangers(network.site())) else {
            return;
        };
        let (promoted, others) = std::mem::take(&mut line.waiting)
            .into_iter()
            .partition(|(from, _)| *from == network);
        line.waiting = others;
        let promoted: VecDeque<_> = promoted;
        if promoted.is_empty() {
            return;
        }
        let id = LineId::Known(network);
        let line = self.line(id, now);
        let is_new = line.waiting.is_empty();
        line.waiting.extend(promoted);
        if is_new {
            self.turns.push_back(id);
        }
    }

    /// The tickets for which there is a token now, and when there will be one for the next.
    pub(super) fn due(
        &mut self,
        now: Instant,
        is_gone: impl Fn(&T) -> bool,
    ) -> (Vec<T>, Option<Instant>) {
        let mut due = Vec::new();
        loop {
            let before = due.len();
            for _ in 0..self.turns.len() {
                let Some(id) = self.turns.pop_front() else {
                    break;
                };
                due.extend(self.first_of(id, now, &is_gone));
                if self.lines.get(&id).is_some_and(|l| !l.waiting.is_empty()) {
                    self.turns.push_back(id);
                }
            }
            if due.len() == before {
                break;
            }
        }
        let waits = self.turns.iter().filter_map(|id| {
            let own = self.lines.get(id)?.bucket.wait(now);
            Some(match id {
                LineId::Known(_) => own,
                LineId::Strangers(_) => own.max(self.strangers.wait(now)),
            })
        });
        let next = waits.min().map(|wait| now + wait);
        (due, next)
    }

    /// The first ticket of a line that somebody still holds, if there is a token for it.
    fn first_of(&mut self, id: LineId, now: Instant, is_gone: &dyn Fn(&T) -> bool) -> Option<T> {
        let line = self.lines.get_mut(&id)?;
        while let Some((_, ticket)) = line.waiting.front()
            && is_gone(ticket)
        {
            line.waiting.pop_front();
        }
        let is_stranger = matches!(id, LineId::Strangers(_));
        if line.waiting.is_empty() || (is_stranger && !self.strangers.wait(now).is_zero()) {
            return None;
        }
        line.bucket.take(now).ok()?;
        if is_stranger {
            // There was one a moment ago.
            let _ = self.strangers.take(now);
        }
        line.waiting.pop_front().map(|(_, ticket)| ticket)
    }

    fn line(&mut self, id: LineId, now: Instant) -> &mut Line<T> {
        let refill = match id {
            LineId::Known(_) => self.rates.known,
            LineId::Strangers(_) => self.rates.stranger,
        };
        match self.lines.entry(id) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Line {
                bucket: TokenBucket::new(refill, now),
                waiting: VecDeque::new(),
            }),
        }
    }

    /// Forgets the lines in which nobody stands: those with full buckets or, if that is not enough,
    /// all.
    fn forget(&mut self, now: Instant) {
        self.lines
            .retain(|_, line| !line.waiting.is_empty() || !line.bucket.is_full(now));
        if self.lines.len() >= MAX_LINES {
            self.lines.retain(|_, line| !line.waiting.is_empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const RATES: HelloRates = HelloRates {
        strangers: Refill {
            burst: 6,
            per_second: 10,
        },
        stranger: Refill {
            burst: 2,
            per_second: 1,
        },
        known: Refill {
            burst: 4,
            per_second: 100,
        },
    };

    fn network(text: &str) -> SourceNetwork {
        SourceNetwork::of(text.parse().unwrap())
    }

    fn push(queue: &mut HelloQueue<u32>, from: &str, is_known: bool, tickets: u32, now: Instant) {
        for ticket in 0..tickets {
            queue.push(network(from), is_known, ticket, now, |_| false);
        }
    }

    fn due(queue: &mut HelloQueue<u32>, now: Instant) -> usize {
        queue.due(now, |_| false).0.len()
    }

    #[test]
    fn a_stranger_gets_its_burst_and_then_its_rate() {
        let now = Instant::now();
        let mut queue = HelloQueue::new(RATES, now);
        push(&mut queue, "10.0.0.1", false, 9, now);
        let (tickets, next) = queue.due(now, |_| false);
        assert_eq!(tickets, [0, 1]);
        assert_eq!(next, Some(now + Duration::from_secs(1)));
        assert_eq!(due(&mut queue, now + Duration::from_secs(1)), 1);
        assert_eq!(due(&mut queue, now + Duration::from_secs(3)), 2);
    }

    #[test]
    fn all_strangers_share_one_bucket_and_take_turns() {
        let now = Instant::now();
        let mut queue = HelloQueue::new(RATES, now);
        for host in 0..6 {
            push(&mut queue, &format!("10.0.0.{host}"), false, 5, now);
        }
        // One each, though each might have two.
        assert_eq!(queue.due(now, |_| false).0, [0; 6]);
        let later = now + Duration::from_millis(100);
        assert_eq!(due(&mut queue, later), 1);
    }

    #[test]
    fn strangers_do_not_slow_known_networks() {
        let now = Instant::now();
        let mut queue = HelloQueue::new(RATES, now);
        for host in 0..200 {
            push(&mut queue, &format!("10.0.0.{host}"), false, 5, now);
        }
        assert_eq!(due(&mut queue, now), 6);
        push(&mut queue, "192.0.2.1", true, 4, now);
        assert_eq!(due(&mut queue, now), 4);
    }

    #[test]
    fn the_64s_of_one_site_are_one_stranger() {
        let now = Instant::now();
        let mut queue = HelloQueue::new(RATES, now);
        for net in 0..9 {
            push(&mut queue, &format!("2001:db8:0:{net}::1"), false, 1, now);
        }
        assert_eq!(due(&mut queue, now), 2);
    }

    #[test]
    fn a_network_that_becomes_known_waits_no_longer() {
        let now = Instant::now();
        let mut queue = HelloQueue::new(RATES, now);
        push(&mut queue, "2001:db8::1", false, 4, now);
        push(&mut queue, "2001:db8:0:1::1", false, 1, now);
        assert_eq!(due(&mut queue, now), 2);
        queue.promote(network("2001:db8::1"), now);
        assert_eq!(due(&mut queue, now), 2);
        assert!(queue.due(now, |_| false).1.is_some(), "the other waits");
    }

    #[test]
    fn who_left_costs_no_token() {
        let now = Instant::now();
        let mut queue = HelloQueue::new(RATES, now);
        push(&mut queue, "10.0.0.1", false, 9, now);
        let (tickets, next) = queue.due(now, |ticket| *ticket < 8);
        assert_eq!((tickets, next), (vec![8], None));
    }

    #[test]
    fn lines_and_tickets_are_bounded() {
        let mut now = Instant::now();
        let mut queue = HelloQueue::new(RATES, now);
        for number in 0..5000_u32 {
            let [_, b, c, d] = number.to_be_bytes();
            now += Duration::from_micros(1);
            queue.push(network(&format!("10.{b}.{c}.{d}")), false, 0, now, |_| true);
            queue.due(now, |_| true);
        }
        assert!(queue.lines.len() <= MAX_LINES, "{}", queue.lines.len());
        assert!(queue.turns.is_empty());
        for _ in 0..5000 {
            queue.push(network("10.0.0.1"), false, 0, now, |_| true);
        }
        let longest = queue.lines.values().map(|line| line.waiting.len()).max();
        assert!(longest <= Some(LONG_LINE));
    }
}
