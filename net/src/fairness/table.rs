//! A fixed number of places, of which everyone may have a fair share.
//!
//! Anyone may take places while some are free. When none are left, a holder of more than a fair
//! share makes room: first among sites, then among the networks of one site, then among the keys
//! of one network. A share is the number of places divided by the number of those who hold some
//! or ask for one. So a newcomer is refused only if it already holds more than its own share and
//! none of its own places can be evicted. A holder of no more than a share never loses a place
//! to anyone else.
//!
//! The oldest idle place is evicted if there is one; else the oldest of all.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use super::source_network::{Claimant, HolderKey, SourceNetwork};
use crate::model::PeerId;

/// The number of a taken place. Later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PlaceId(u64);

/// A place that was granted, and what was evicted for it.
#[derive(Debug)]
pub(crate) struct Entered<T> {
    pub(crate) id: PlaceId,
    pub(crate) evicted: Option<T>,
}

/// The places, each with a value.
#[derive(Debug)]
pub(crate) struct FairTable<T> {
    limit: usize,
    taken: usize,
    next: u64,
    sites: HashMap<SourceNetwork, Site<T>>,
}

type Places<T> = BTreeMap<PlaceId, T>;
type Network<T> = HashMap<HolderKey, Places<T>>;
type Site<T> = HashMap<SourceNetwork, Network<T>>;

impl<T> FairTable<T> {
    /// Creates a table for `limit` values, at least one.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            taken: 0,
            next: 0,
            sites: HashMap::new(),
        }
    }

    /// Returns how many places are taken.
    pub(crate) fn len(&self) -> usize {
        self.taken
    }

    /// Returns how many places `key` has, from any network.
    pub(crate) fn held_by_key(&self, key: PeerId) -> usize {
        let networks = self.sites.values().flat_map(HashMap::values);
        let places = networks.filter_map(|network| network.get(&HolderKey::Member(key)));
        places.map(BTreeMap::len).sum()
    }

    /// Takes a place for `holder`. `is_idle` tells which values may be evicted before any other.
    /// `None` if `holder` has its share and none of it is idle.
    pub(crate) fn enter(
        &mut self,
        holder: Claimant,
        value: T,
        is_idle: impl Fn(&T) -> bool,
    ) -> Option<Entered<T>> {
        let mut evicted = None;
        if self.taken >= self.limit {
            let (victim, id) = self.victim(holder, &is_idle)?;
            evicted = self.leave(victim, id);
        }
        let id = PlaceId(self.next);
        self.next += 1;
        self.taken += 1;
        let site = self.sites.entry(holder.network.site()).or_default();
        let network = site.entry(holder.network).or_default();
        network.entry(holder.key).or_default().insert(id, value);
        Some(Entered { id, evicted })
    }

    /// Gives a place back, unless it was evicted before.
    pub(crate) fn leave(&mut self, holder: Claimant, id: PlaceId) -> Option<T> {
        let key = holder.network.site();
        let site = self.sites.get_mut(&key)?;
        let network = site.get_mut(&holder.network)?;
        let places = network.get_mut(&holder.key)?;
        let value = places.remove(&id)?;
        self.taken -= 1;
        if places.is_empty() {
            network.remove(&holder.key);
        }
        if network.is_empty() {
            site.remove(&holder.network);
        }
        if site.is_empty() {
            self.sites.remove(&key);
        }
        Some(value)
    }

    /// Iterates over the values of `holder`, the oldest first.
    pub(crate) fn of(&self, holder: Claimant) -> impl Iterator<Item = (PlaceId, &T)> {
        let site = self.sites.get(&holder.network.site());
        let network = site.and_then(|site| site.get(&holder.network));
        let places = network.and_then(|network| network.get(&holder.key));
        places.into_iter().flatten().map(|(id, value)| (*id, value))
    }

    /// Removes all values except those `kept`.
    pub(crate) fn retain(&mut self, mut kept: impl FnMut(&T) -> bool) {
        let mut taken = 0;
        self.sites.retain(|_, site| {
            site.retain(|_, network| {
                network.retain(|_, places| {
                    places.retain(|_, value| kept(value));
                    taken += places.len();
                    !places.is_empty()
                });
                !network.is_empty()
            });
            !site.is_empty()
        });
        self.taken = taken;
    }

    /// Returns the place to evict so that `holder` may come in.
    fn victim(
        &self,
        holder: Claimant,
        is_idle: &dyn Fn(&T) -> bool,
    ) -> Option<(Claimant, PlaceId)> {
        let mut victim = Victim::new(is_idle);
        let own = holder.network.site();
        let sites = FairShares::new(&self.sites, own, self.limit, site_len);
        let Some(site) = sites.own_above() else {
            for (_, site) in sites.above() {
                let held = site_len(site);
                for (network, keys) in site {
                    victim.consider_network(held, *network, keys);
                }
            }
            return victim.choose(sites.even_busy());
        };
        let networks = FairShares::new(site, holder.network, site_len(site), network_len);
        let Some(network) = networks.own_above() else {
            for (network, keys) in networks.above() {
                victim.consider_network(0, *network, keys);
            }
            return victim.choose(networks.even_busy());
        };
        let keys = FairShares::new(network, holder.key, network_len(network), BTreeMap::len);
        let Some(places) = keys.own_above() else {
            for (key, places) in keys.above() {
                let other = Claimant {
                    key: *key,
                    ..holder
                };
                victim.consider([0, 0, places.len()], other, places);
            }
            return victim.choose(keys.even_busy());
        };
        victim.consider([0, 0, places.len()], holder, places);
        victim.choose(false)
    }
}

fn site_len<T>(site: &Site<T>) -> usize {
    site.values().map(network_len).sum()
}

fn network_len<T>(network: &Network<T>) -> usize {
    network.values().map(BTreeMap::len).sum()
}

/// The current holders, and one who asks for another place.
struct FairShares<'a, K, V> {
    groups: &'a HashMap<K, V>,
    own: Option<&'a V>,
    limit: usize,
    holders: usize,
    len: fn(&V) -> usize,
}

impl<'a, K: Eq + std::hash::Hash, V> FairShares<'a, K, V> {
    fn new(groups: &'a HashMap<K, V>, own: K, limit: usize, len: fn(&V) -> usize) -> Self {
        let own = groups.get(&own);
        Self {
            groups,
            own,
            limit,
            holders: groups.len() + usize::from(own.is_none()),
            len,
        }
    }

    fn is_above(&self, held: usize) -> bool {
        held * self.holders > self.limit
    }

    /// Returns the asker's own group, if one more place would make it more than a fair share.
    fn own_above(&self) -> Option<&'a V> {
        self.own.filter(|own| self.is_above((self.len)(own) + 1))
    }

    /// Iterates over those who hold more than a fair share.
    fn above(&self) -> impl Iterator<Item = (&'a K, &'a V)> {
        let groups = self.groups.iter();
        groups.filter(|(_, group)| self.is_above((self.len)(group)))
    }

    /// Returns true if others give up even places in use. With more holders than places, even one
    /// place is more than a share.
    fn even_busy(&self) -> bool {
        self.own.is_some() || !self.is_above(1)
    }
}

/// How much the site, the network and the key hold; among equals the oldest place.
type Rank = ([usize; 3], Reverse<PlaceId>);

/// Finds the oldest idle place of the holder who has the most, else the oldest of all its places.
/// One pass suffices, which matters because those who take places wait for it.
struct Victim<'a, T> {
    is_idle: &'a dyn Fn(&T) -> bool,
    idle: Option<(Rank, Claimant)>,
    busy: Option<(Rank, Claimant)>,
}

impl<'a, T> Victim<'a, T> {
    fn new(is_idle: &'a dyn Fn(&T) -> bool) -> Self {
        Self {
            is_idle,
            idle: None,
            busy: None,
        }
    }

    fn consider_network(&mut self, site: usize, network: SourceNetwork, keys: &Network<T>) {
        let held = network_len(keys);
        for (key, places) in keys {
            let holder = Claimant { network, key: *key };
            self.consider([site, held, places.len()], holder, places);
        }
    }

    fn consider(&mut self, held: [usize; 3], holder: Claimant, places: &Places<T>) {
        let is_beaten = |best: &Option<(Rank, Claimant)>, rank: Rank| {
            best.as_ref().is_some_and(|(other, _)| *other >= rank)
        };
        let Some(oldest) = places.keys().next() else {
            return;
        };
        // No place of these ranks higher than the oldest.
        let rank = (held, Reverse(*oldest));
        if !is_beaten(&self.busy, rank) {
            self.busy = Some((rank, holder));
        }
        if is_beaten(&self.idle, rank) {
            return;
        }
        if let Some((id, _)) = places.iter().find(|(_, value)| (self.is_idle)(value)) {
            let rank = (held, Reverse(*id));
            if !is_beaten(&self.idle, rank) {
                self.idle = Some((rank, holder));
            }
        }
    }

    fn choose(self, even_busy: bool) -> Option<(Claimant, PlaceId)> {
        let best = self.idle.or(self.busy.filter(|_| even_busy));
        best.map(|((_, Reverse(id)), holder)| (holder, id))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holder(network: &str, key: u8) -> Claimant {
        Claimant::member(PeerId::from_bytes([key; 32]), network.parse().unwrap())
    }

    /// Fills a table. Values are true while they are idle.
    fn full(limit: usize, holders: &[(Claimant, usize, bool)]) -> FairTable<(Claimant, bool)> {
        let mut table = FairTable::new(limit);
        for (holder, count, idle) in holders {
            for _ in 0..*count {
                let entered = enter(&mut table, *holder, *idle).unwrap();
                assert!(entered.evicted.is_none());
            }
        }
        assert_eq!(table.len(), limit);
        table
    }

    fn enter(
        table: &mut FairTable<(Claimant, bool)>,
        holder: Claimant,
        idle: bool,
    ) -> Option<Entered<(Claimant, bool)>> {
        table.enter(holder, (holder, idle), |(_, idle)| *idle)
    }

    fn evicted_for(
        table: &mut FairTable<(Claimant, bool)>,
        newcomer: Claimant,
    ) -> Option<Claimant> {
        let entered = enter(table, newcomer, false)?;
        entered.evicted.map(|(holder, _)| holder)
    }

    #[test]
    fn the_network_that_holds_most_makes_room() {
        let (flood, friend) = (holder("10.0.0.1", 1), holder("10.0.0.2", 2));
        let mut table = full(8, &[(flood, 7, true), (friend, 1, true)]);
        assert_eq!(evicted_for(&mut table, holder("10.0.0.3", 3)), Some(flood));
        assert_eq!(evicted_for(&mut table, friend), Some(flood));
        assert_eq!(table.len(), 8);
    }

    #[test]
    fn a_flood_only_replaces_itself() {
        let (flood, friend) = (holder("10.0.0.1", 1), holder("10.0.0.2", 2));
        let mut table = full(8, &[(flood, 6, true), (friend, 2, true)]);
        for _ in 0..20 {
            let entered = enter(&mut table, flood, true).unwrap();
            assert_eq!(entered.evicted.map(|(holder, _)| holder), Some(flood));
        }
        assert_eq!(table.of(friend).count(), 2);
    }

    #[test]
    fn busy_over_share_holder_is_evicted_last() {
        let (flood, friend) = (holder("10.0.0.1", 1), holder("10.0.0.2", 2));
        let mut table = full(8, &[(flood, 6, false), (friend, 2, true)]);
        // The friends are idle, but have no more than a share.
        assert_eq!(evicted_for(&mut table, holder("10.0.0.3", 3)), Some(flood));
        // The flood has nothing idle to give up for one more of its own.
        assert!(enter(&mut table, flood, false).is_none());
    }

    #[test]
    fn what_is_idle_goes_before_what_is_busy() {
        let (busy, idle) = (holder("10.0.0.1", 1), holder("10.0.0.2", 2));
        let mut table = full(9, &[(busy, 5, false), (idle, 4, true)]);
        assert_eq!(evicted_for(&mut table, holder("10.0.0.3", 3)), Some(idle));
    }

    #[test]
    fn behind_one_address_keys_have_shares() {
        let flood: Vec<_> = (1..=4)
            .map(|key| (holder("10.0.0.1", key), 16, true))
            .collect();
        let mut table = full(64, &flood);
        let friend = holder("10.0.0.1", 9);
        for _ in 0..8 {
            let evicted = evicted_for(&mut table, friend).unwrap();
            assert_ne!(evicted, friend);
        }
        // Nor does a key get a place by giving up none of its own.
        assert_eq!(table.of(friend).count(), 8);
    }

    #[test]
    fn networks_of_one_site_share_its_share() {
        let spread: Vec<_> = (0..16)
            .map(|n| (holder(&format!("2001:db8:0:{n:x}::1"), n), 1, true))
            .collect();
        let mut table = full(16, &spread);
        let friend = holder("2001:db8:1::1", 99);
        for _ in 0..8 {
            assert_ne!(evicted_for(&mut table, friend), Some(friend));
        }
        assert_eq!(table.of(friend).count(), 8);
        assert_eq!(evicted_for(&mut table, friend), None);
    }

    #[test]
    fn more_holders_than_places_take_turns() {
        let many: Vec<_> = (0..8)
            .map(|n| (holder(&format!("10.0.0.{n}"), n), 1, true))
            .collect();
        let mut table = full(8, &many);
        // The oldest goes each time, because nobody holds more than another.
        for n in 0..8 {
            let newcomer = holder(&format!("10.0.1.{n}"), n);
            assert_eq!(
                evicted_for(&mut table, newcomer),
                Some(many[usize::from(n)].0)
            );
        }
        assert_eq!(table.len(), 8);
    }

    proptest! {
        /// Whatever a flood does, a holder of no more than a share keeps it.
        #[test]
        fn nobody_loses_a_share(steps in prop::collection::vec((0..6_u8, 0..3_u8, any::<bool>()), 1..200)) {
            let friend = holder("192.0.2.1", 200);
            let mut table = FairTable::new(24);
            for _ in 0..3 {
                enter(&mut table, friend, true).unwrap();
            }
            for (network, key, idle) in steps {
                let flood = holder(&format!("10.0.0.{network}"), key);
                enter(&mut table, flood, idle);
                prop_assert!(table.len() <= 24);
                prop_assert_eq!(table.of(friend).count(), 3);
            }
        }

        #[test]
        fn what_leaves_makes_room(steps in prop::collection::vec((0..4_u8, any::<bool>()), 1..100)) {
            let (mut table, mut held) = (FairTable::new(8), Vec::new());
            for (network, comes) in steps {
                let holder = holder(&format!("10.0.0.{network}"), 0);
                if comes {
                    let entered = enter(&mut table, holder, true).unwrap();
                    held.push((holder, entered.id));
                } else if let Some((holder, id)) = held.pop() {
                    table.leave(holder, id);
                    prop_assert!(table.leave(holder, id).is_none());
                }
                let left = held.iter().filter(|(holder, id)| table.of(*holder).any(|(other, _)| other == *id));
                prop_assert_eq!(left.count(), table.len());
            }
        }
    }
}
