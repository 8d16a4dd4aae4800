//! Which block is in which slot, and which slot to evict next. Pure.
//!
//! Eviction is CLOCK (second chance): a hand goes round the slots and takes the first one that was
//! not used since it last passed. It needs one bit per slot where LRU needs a list.

use std::collections::HashMap;

/// The slots of one slab file.
pub(super) struct SlabIndex {
    by_key: HashMap<u64, u32>,
    slots: Vec<SlabSlot>,
    free: Vec<u32>,
    hand: usize,
    capacity: u32,
}

#[derive(Clone, Copy)]
struct SlabSlot {
    key: Option<u64>,
    used: bool,
}

impl SlabIndex {
    /// Creates an index of at most `capacity` slots, none of which exists yet.
    pub(super) fn new(capacity: u32) -> Self {
        Self {
            by_key: HashMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            hand: 0,
            capacity,
        }
    }

    /// Returns the slot of `key`, and marks it as used.
    pub(super) fn find(&mut self, key: u64) -> Option<u32> {
        let slot = *self.by_key.get(&key)?;
        self.slots[slot as usize].used = true;
        Some(slot)
    }

    /// Returns true if `key` has a slot.
    pub(super) fn holds(&self, key: u64) -> bool {
        self.by_key.contains_key(&key)
    }

    /// Takes a slot to write to: a free one, a new one at the end, or the one to evict. Nothing
    /// points to it until [`SlabIndex::fill`]. `None` only when there is no room for a single slot.
    pub(super) fn take(&mut self) -> Option<u32> {
        if let Some(slot) = self.free.pop() {
            return Some(slot);
        }
        if (self.slots.len() as u64) < u64::from(self.capacity) {
            self.slots.push(SlabSlot {
                key: None,
                used: false,
            });
            return Some(self.slots.len() as u32 - 1);
        }
        // Two rounds: the first may only clear every bit.
        for _ in 0..2 * self.slots.len() {
            let at = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            let slot = &mut self.slots[at];
            match slot.key {
                // Taken by a writer that has not filled it yet.
                None => {}
                Some(_) if slot.used => slot.used = false,
                Some(key) => {
                    slot.key = None;
                    self.by_key.remove(&key);
                    return Some(at as u32);
                }
            }
        }
        None
    }

    /// Records that `slot`, taken before, now holds `key`.
    pub(super) fn fill(&mut self, slot: u32, key: u64) {
        self.slots[slot as usize] = SlabSlot {
            key: Some(key),
            used: false,
        };
        if let Some(old) = self.by_key.insert(key, slot).filter(|old| *old != slot) {
            self.slots[old as usize].key = None;
            self.free.push(old);
        }
    }

    /// Frees a slot that was taken but not filled, or drops what it holds.
    pub(super) fn release(&mut self, slot: u32) {
        if let Some(key) = self.slots[slot as usize].key.take() {
            self.by_key.remove(&key);
        }
        if !self.free.contains(&slot) {
            self.free.push(slot);
        }
    }

    /// Adds the next slot of an existing file, with the key that it seems to hold, if any.
    pub(super) fn found(&mut self, slot: u32, key: Option<u64>) {
        match key.filter(|key| !self.by_key.contains_key(key)) {
            Some(key) => self.fill(slot, key),
            None => self.free.push(slot),
        }
    }

    /// Claims the slots of an existing file, so that nothing is written to them until
    /// [`SlabIndex::found`] reports what they hold.
    pub(super) fn reserve(&mut self, slots: u32) {
        self.slots.resize(
            slots.min(self.capacity) as usize,
            SlabSlot {
                key: None,
                used: false,
            },
        );
    }

    /// Returns the keys that the slots hold.
    pub(super) fn keys(&self) -> impl Iterator<Item = u64> {
        self.by_key.keys().copied()
    }

    /// Returns the number of slots that hold something.
    pub(super) fn filled(&self) -> usize {
        self.by_key.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn recently_used_outlives_unused() {
        let mut index = SlabIndex::new(3);
        for key in [1, 2, 3] {
            let slot = index.take().unwrap();
            index.fill(slot, key);
        }
        index.find(1);
        index.find(3);
        let slot = index.take().unwrap();
        index.fill(slot, 4);
        assert_eq!(
            [1, 2, 3, 4].map(|key| index.holds(key)),
            [true, false, true, true]
        );
    }

    #[test]
    fn old_slots_are_unwritten_until_scanned() {
        let mut index = SlabIndex::new(3);
        index.reserve(2);
        assert_eq!(index.take(), Some(2));
        assert_eq!(index.take(), None);
        index.found(0, Some(7));
        index.found(1, None);
        assert_eq!(index.take(), Some(1));
        assert_eq!(index.find(7), Some(0));
    }

    proptest! {
        /// No slot ever has two keys or lies beyond the capacity, whatever the input.
        #[test]
        fn every_key_has_a_slot_of_its_own(
            capacity in 1_u32..20, steps in prop::collection::vec((0_u8..3, 0_u64..40), 1..200),
        ) {
            let mut index = SlabIndex::new(capacity);
            for (action, key) in steps {
                match action {
                    0 => if let Some(slot) = index.take() {
                        prop_assert!(slot < capacity);
                        index.fill(slot, key);
                        prop_assert_eq!(index.find(key), Some(slot));
                    },
                    1 => if let Some(slot) = index.find(key) { index.release(slot) },
                    _ => { index.find(key); }
                }
                let mut slots: Vec<u32> = index.by_key.values().copied().collect();
                slots.sort_unstable();
                slots.dedup();
                prop_assert_eq!(slots.len(), index.filled());
                prop_assert!(index.slots.len() <= capacity as usize);
            }
        }
    }
}
