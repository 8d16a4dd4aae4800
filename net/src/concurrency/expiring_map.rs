//! A map limited by age and weight: the least recently used entry goes first, when there is too
//! much or when its time is up.
//!
//! Every use gets the next number and the numbers are in order, so nothing here scans all entries.
//! Where dropping removed values is expensive, they are returned, to be dropped without the lock
//! that guards the map. Pure: time comes in as `now`.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::{Duration, Instant};

/// A map that remembers the most recently used entries.
#[derive(Debug)]
pub struct ExpiringMap<K, V> {
    lifetime: Duration,
    max_weight: usize,
    /// The last use of each entry.
    uses: HashMap<K, u64>,
    entries: BTreeMap<u64, ExpiringEntry<K, V>>,
    next_use: u64,
    weight: usize,
}

#[derive(Debug)]
struct ExpiringEntry<K, V> {
    key: K,
    value: V,
    weight: usize,
    used: Instant,
}

impl<K: Clone + Eq + Hash, V> ExpiringMap<K, V> {
    /// Creates a map whose entries live for `lifetime` after their last use, and weigh at most
    /// `max_weight` in all.
    pub fn new(lifetime: Duration, max_weight: usize) -> Self {
        Self {
            lifetime,
            max_weight,
            uses: HashMap::new(),
            entries: BTreeMap::new(),
            next_use: 0,
            weight: 0,
        }
    }

    /// Returns the value of `key`, if its time is not up.
    pub fn get(&self, key: &K, now: Instant) -> Option<&V> {
        let entry = self.entries.get(self.uses.get(key)?)?;
        self.is_alive(entry, now).then_some(&entry.value)
    }

    /// Returns the value of `key`, even if its time is up.
    pub fn peek(&self, key: &K) -> Option<&V> {
        Some(&self.entries.get(self.uses.get(key)?)?.value)
    }

    /// Does the same for a value that is to change.
    pub fn peek_mut(&mut self, key: &K) -> Option<&mut V> {
        Some(&mut self.entries.get_mut(self.uses.get(key)?)?.value)
    }

    /// Counts as a use of `key`, which restarts its lifetime.
    pub fn touch(&mut self, key: &K, now: Instant) {
        if let Some(entry) = self.take(key) {
            self.append(ExpiringEntry { used: now, ..entry });
        }
    }

    /// Stores `value` for `key`, unless that alone weighs too much. Returns the removed values.
    pub fn insert(&mut self, key: K, value: V, weight: usize, now: Instant) -> Vec<V> {
        let mut gone = self.expire(now);
        gone.extend(self.remove(&key));
        if weight > self.max_weight {
            gone.push(value);
            return gone;
        }
        let used = now;
        self.append(ExpiringEntry {
            key,
            value,
            weight,
            used,
        });
        while self.weight > self.max_weight {
            gone.extend(self.remove_oldest());
        }
        gone
    }

    /// Forgets `key`.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.take(key).map(|entry| entry.value)
    }

    /// Removes all entries that are `such`.
    pub fn remove_all(&mut self, such: impl Fn(&K, &V) -> bool) -> Vec<V> {
        let entries = self.entries.values();
        let entries = entries.filter(|entry| such(&entry.key, &entry.value));
        let keys: Vec<K> = entries.map(|entry| entry.key.clone()).collect();
        keys.iter().filter_map(|key| self.remove(key)).collect()
    }

    /// Removes entries that were not used for too long.
    pub fn expire(&mut self, now: Instant) -> Vec<V> {
        let mut gone = Vec::new();
        while let Some((_, oldest)) = self.entries.first_key_value()
            && !self.is_alive(oldest, now)
        {
            gone.extend(self.remove_oldest());
        }
        gone
    }

    /// Returns true if there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the total weight of the entries.
    pub fn weight(&self) -> usize {
        self.weight
    }

    fn is_alive(&self, entry: &ExpiringEntry<K, V>, now: Instant) -> bool {
        now.saturating_duration_since(entry.used) < self.lifetime
    }

    fn append(&mut self, entry: ExpiringEntry<K, V>) {
        self.weight += entry.weight;
        self.uses.insert(entry.key.clone(), self.next_use);
        self.entries.insert(self.next_use, entry);
        self.next_use += 1;
    }

    fn take(&mut self, key: &K) -> Option<ExpiringEntry<K, V>> {
        let entry = self.entries.remove(&self.uses.remove(key)?)?;
        self.weight -= entry.weight;
        Some(entry)
    }

    fn remove_oldest(&mut self) -> Option<V> {
        let (_, oldest) = self.entries.pop_first()?;
        self.uses.remove(&oldest.key);
        self.weight -= oldest.weight;
        if self.entries.is_empty() {
            self.uses.shrink_to_fit();
        }
        Some(oldest.value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIFETIME: Duration = Duration::from_secs(10);

    #[test]
    fn what_was_used_longest_ago_makes_room_and_is_handed_back() {
        let (mut map, now) = (ExpiringMap::new(LIFETIME, 3), Instant::now());
        for number in 0..3 {
            assert_eq!(map.insert(number, number, 1, now), []);
        }
        map.touch(&0, now);
        assert_eq!(map.insert(3, 3, 2, now), [1, 2]);
        assert_eq!((map.get(&0, now), map.len()), (Some(&0), 2));
    }

    #[test]
    fn what_weighs_too_much_puts_out_nobody_but_its_like() {
        let (mut map, now) = (ExpiringMap::new(LIFETIME, 3), Instant::now());
        map.insert(0, 'a', 1, now);
        map.insert(1, 'b', 1, now);
        assert_eq!(map.insert(1, 'c', 4, now), ['b', 'c']);
        assert_eq!((map.get(&0, now), map.weight()), (Some(&'a'), 1));
    }

    #[test]
    fn keys_are_forgotten_together() {
        let (mut map, now) = (ExpiringMap::new(LIFETIME, 9), Instant::now());
        (0..6).for_each(|number| drop(map.insert(number, (), 1, now)));
        assert_eq!(map.remove_all(|number, ()| number % 2 == 0).len(), 3);
        assert_eq!((map.len(), map.weight()), (3, 3));
    }

    proptest! {
        #[test]
        fn tables_and_weight_always_agree(
            steps in prop::collection::vec((0..6_u8, 0..3_u8, 1..5_usize, 0..6_u64), 1..80)
        ) {
            let (mut map, mut now) = (ExpiringMap::new(LIFETIME, 12), Instant::now());
            for (key, what, weight, seconds) in steps {
                now += Duration::from_secs(seconds);
                match what {
                    0 => map.touch(&key, now),
                    1 => drop(map.remove(&key)),
                    _ => {
                        map.insert(key, weight, weight, now);
                        prop_assert_eq!(map.get(&key, now), Some(&weight));
                    }
                }
                let weights = map.entries.values().map(|entry| entry.weight);
                prop_assert_eq!(weights.sum::<usize>(), map.weight);
                prop_assert!(map.weight <= 12);
                prop_assert_eq!(map.uses.len(), map.entries.len());
                for (last_use, entry) in &map.entries {
                    prop_assert_eq!(map.uses.get(&entry.key), Some(last_use));
                }
                prop_assert!(map.entries.values().map(|entry| entry.used).is_sorted());
                map.expire(now);
                prop_assert!(map.entries.values().all(|entry| now - entry.used < LIFETIME));
            }
        }
    }
}
