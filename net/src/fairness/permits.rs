//! A limited number of concurrent operations, shared out to those who hold the fewest.
//!
//! A first-come, first-served queue gives most to those who ask most. Here, a freed permit goes
//! to the waiter who holds the least: by site first, by network next, by key last, and among
//! equals to the one who has waited longest. A network never holds more than its own bound,
//! however idle the rest is. So another network finds a free permit at once and need not wait for
//! operations in progress.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use super::source_network::{Claimant, HolderKey, SourceNetwork};

/// When one holder has this many waiters, abandoned ones are dropped: twice the number of
/// connections that one key may have.
const LONG_LINE: usize = 128;

/// Limits on concurrent operations.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PermitBounds {
    pub(crate) all: usize,
    /// For all networks of one site together.
    pub(crate) per_site: usize,
    pub(crate) per_key: usize,
}

/// Who holds how many permits, and who waits for one.
#[derive(Debug)]
pub(crate) struct FairPermits<W> {
    bounds: PermitBounds,
    all: usize,
    sites: HashMap<SourceNetwork, usize>,
    networks: HashMap<SourceNetwork, usize>,
    keys: HashMap<HolderKey, usize>,
    /// Keyed by holder, because either all waiters of a holder fit or none do. Each has
    /// its arrival number.
    waiting: HashMap<Claimant, VecDeque<(u64, W)>>,
    arrivals: u64,
}

/// One permit. Hand it back to [`FairPermits::end`].
#[derive(Debug)]
#[must_use = "a permit that is not handed back is lost"]
pub(crate) struct FairPermit(Claimant);

impl<W> FairPermits<W> {
    pub(crate) fn new(bounds: PermitBounds) -> Self {
        Self {
            bounds,
            all: 0,
            sites: HashMap::new(),
            networks: HashMap::new(),
            keys: HashMap::new(),
            waiting: HashMap::new(),
            arrivals: 0,
        }
    }

    /// Returns a permit for `holder`, if one is free and no waiter would get it first.
    pub(crate) fn begin(&mut self, holder: Claimant) -> Option<FairPermit> {
        let is_next = self.fits(holder) && !self.waiting.keys().any(|other| self.fits(*other));
        is_next.then(|| self.grant(holder))
    }

    /// Queues `waiter` for a permit. `is_gone` tells which waiters have been abandoned.
    pub(crate) fn wait(&mut self, holder: Claimant, waiter: W, is_gone: impl Fn(&W) -> bool) {
        let waiting = self.waiting.entry(holder).or_default();
        if waiting.len() >= LONG_LINE {
            waiting.retain(|(_, waiter)| !is_gone(waiter));
        }
        waiting.push_back((self.arrivals, waiter));
        self.arrivals += 1;
    }

    /// Ends the permitted operation.
    pub(crate) fn end(&mut self, FairPermit(holder): FairPermit) {
        self.all -= 1;
        decrease(&mut self.sites, holder.network.site());
        decrease(&mut self.networks, holder.network);
        decrease(&mut self.keys, holder.key);
    }

    /// Returns the next waiter that may begin. Must be called after [`FairPermits::end`] until it
    /// returns `None`. Abandoned waiters are skipped and forgotten.
    pub(crate) fn next(&mut self, is_gone: impl Fn(&W) -> bool) -> Option<(W, FairPermit)> {
        self.waiting.retain(|_, waiting| {
            while waiting.front().is_some_and(|(_, first)| is_gone(first)) {
                waiting.pop_front();
            }
            !waiting.is_empty()
        });
        let first = |waiting: &VecDeque<(u64, W)>| waiting.front().map(|(arrival, _)| *arrival);
        let fitting = self
            .waiting
            .iter()
            .filter(|(holder, _)| self.fits(**holder));
        let next = fitting.min_by_key(|(holder, waiting)| (self.held(**holder), first(waiting)));
        let holder = *next?.0;
        let waiting = self.waiting.get_mut(&holder)?;
        let (_, waiter) = waiting.pop_front()?;
        if waiting.is_empty() {
            self.waiting.remove(&holder);
        }
        Some((waiter, self.grant(holder)))
    }

    fn held(&self, holder: Claimant) -> [usize; 3] {
        let site = self.sites.get(&holder.network.site());
        let network = self.networks.get(&holder.network);
        let key = self.keys.get(&holder.key);
        [site, network, key].map(|count| count.copied().unwrap_or(0))
    }

    fn fits(&self, holder: Claimant) -> bool {
        let [site, _, key] = self.held(holder);
        self.all < self.bounds.all && site < self.bounds.per_site && key < self.bounds.per_key
    }

    fn grant(&mut self, holder: Claimant) -> FairPermit {
        self.all += 1;
        *self.sites.entry(holder.network.site()).or_default() += 1;
        *self.networks.entry(holder.network).or_default() += 1;
        *self.keys.entry(holder.key).or_default() += 1;
        FairPermit(holder)
    }
}

fn decrease<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: K) {
    if let Entry::Occupied(mut entry) = counts.entry(key) {
        *entry.get_mut() -= 1;
        if *entry.get() == 0 {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PeerId;

    const BOUNDS: PermitBounds = PermitBounds {
        all: 4,
        per_site: 2,
        per_key: 1,
    };

    fn holder(network: &str, key: u8) -> Claimant {
        Claimant::member(PeerId::from_bytes([key; 32]), network.parse().unwrap())
    }

    #[test]
    fn one_network_with_many_keys_leaves_half() {
        let mut permits = FairPermits::<()>::new(BOUNDS);
        let begun = (0..8).filter_map(|key| permits.begin(holder("10.0.0.1", key)));
        assert_eq!(begun.collect::<Vec<_>>().len(), 2);
        assert!(permits.begin(holder("10.0.0.2", 9)).is_some());
    }

    #[test]
    fn the_64s_of_one_site_count_together() {
        let mut permits = FairPermits::<()>::new(BOUNDS);
        let begun = (0..8).filter_map(|n| permits.begin(holder(&format!("2001:db8:0:{n}::1"), n)));
        assert_eq!(begun.collect::<Vec<_>>().len(), 2);
    }

    #[test]
    fn what_is_freed_goes_to_who_has_least() {
        let mut permits = FairPermits::new(PermitBounds {
            all: 3,
            per_site: 3,
            per_key: 3,
        });
        let (flood, friend) = (holder("10.0.0.1", 1), holder("10.0.0.2", 2));
        let mut held: Vec<_> = (0..3).map(|_| permits.begin(flood).unwrap()).collect();
        assert!(permits.begin(flood).is_none());
        for _ in 0..9 {
            permits.wait(flood, "flood", |_| false);
        }
        permits.wait(friend, "friend", |_| false);
        permits.wait(friend, "friend", |_| false);
        assert!(permits.next(|_| false).is_none());
        let mut order = Vec::new();
        for _ in 0..4 {
            permits.end(held.remove(0));
            let (who, holding) = permits.next(|_| false).unwrap();
            order.push(who);
            held.push(holding);
        }
        // Among equals, the longest waiter is next, which is the flood.
        assert_eq!(order, ["friend", "flood", "flood", "friend"]);
    }

    #[test]
    fn departed_waiters_are_skipped() {
        let mut permits = FairPermits::new(BOUNDS);
        let held = permits.begin(holder("10.0.0.1", 1)).unwrap();
        let is_gone = |waiter: &u32| *waiter > 0;
        for key in 1..=3 {
            for gone in 1..=1000 {
                permits.wait(holder("10.0.0.1", key), gone, is_gone);
            }
        }
        assert!(permits.waiting.values().all(|line| line.len() <= LONG_LINE));
        permits.wait(holder("10.0.0.1", 3), 0, is_gone);
        permits.end(held);
        let (waiter, holding) = permits.next(is_gone).unwrap();
        assert_eq!(waiter, 0);
        assert!(permits.next(is_gone).is_none() && permits.waiting.is_empty());
        permits.end(holding);
    }

    #[test]
    fn all_that_ended_leaves_no_trace() {
        let mut permits = FairPermits::<()>::new(BOUNDS);
        for key in 0..100 {
            let holding = permits.begin(holder("10.0.0.1", key)).unwrap();
            permits.end(holding);
        }
        assert_eq!(permits.all, 0);
        assert!(permits.sites.is_empty() && permits.networks.is_empty());
        assert!(permits.keys.is_empty());
    }
}
