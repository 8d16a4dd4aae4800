//! A bounded cache in two generations: the older one is dropped as a whole when the newer
//! one is full.
//!
//! It costs two tables and no bookkeeping per entry. A cache in order of use takes links or stamps
//! as large as the entries that are kept here.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};

/// A cache of the most recently noted entries.
pub struct TwoGenerationCache<K, V, S = RandomState> {
    newer: HashMap<K, V, S>,
    older: HashMap<K, V, S>,
    max: usize,
}

impl<K: Hash + Eq, V: Copy, S: BuildHasher + Default> TwoGenerationCache<K, V, S> {
    /// Creates a cache of at most `max` entries that keeps at least the last half as many.
    pub fn new(max: usize) -> Self {
        Self {
            newer: HashMap::default(),
            older: HashMap::default(),
            max,
        }
    }

    /// Notes that `key` has `value`.
    pub fn insert(&mut self, key: K, value: V) {
        if self.newer.len() >= self.max / 2 {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(key, value);
    }

    /// Returns the value of `key`, if it is remembered.
    pub fn get(&self, key: &K) -> Option<V> {
        let value = self.newer.get(key).or_else(|| self.older.get(key));
        value.copied()
    }

    /// Returns the value of `key` and notes it again.
    pub fn keep(&mut self, key: K) -> Option<V> {
        if let Some(value) = self.newer.get(&key) {
            return Some(*value);
        }
        let value = self.older.remove(&key)?;
        self.insert(key, value);
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn used_entry_stays_and_oldest_is_evicted() {
        let mut memory: TwoGenerationCache<u32, u32> = TwoGenerationCache::new(100);
        memory.insert(0, 7);
        memory.insert(1, 8);
        for number in 2..1000 {
            memory.insert(number, number);
            assert_eq!(memory.keep(0), Some(7));
            assert_eq!(memory.get(&number), Some(number));
            assert!(memory.newer.len() + memory.older.len() <= 100);
        }
        assert_eq!(memory.get(&1), None);
        assert_eq!(memory.get(&960), Some(960), "the last half is there");
    }
}
