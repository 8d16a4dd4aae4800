//! Tables whose keys are numbers, and the numbers that the kernel has forgotten.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Numbers that are kept for what the kernel has forgotten.
const MAX_REMEMBERED: usize = 1 << 20;

/// A table whose keys are numbers that nobody outside has chosen, so that they need no hashing.
pub(super) type NumberMap<T> = HashMap<u64, T, BuildHasherDefault<Number>>;

/// Spreads numbers over a table: those of inodes follow one another (Fibonacci hashing, Knuth, volume 3, 6.4).
#[derive(Default)]
pub(super) struct Number(u64);

impl Hasher for Number {
    fn finish(&self) -> u64 {
        self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
}

/// The numbers of what the kernel has forgotten, each at 16 bytes and some room: by a hash of what they stand for. Of more than a
/// million, those that were forgotten first are.
#[derive(Default)]
pub(super) struct Remembered {
    newer: NumberMap<u64>,
    older: NumberMap<u64>,
}

impl Remembered {
    pub(super) fn remember(&mut self, hash: u64, number: u64) {
        if self.newer.len() >= MAX_REMEMBERED / 2 {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(hash, number);
    }

    pub(super) fn recall(&self, hash: u64) -> Option<u64> {
        let number = self.newer.get(&hash).or_else(|| self.older.get(&hash));
        number.copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_forgotten_is_remembered_in_bounds() {
        let mut remembered = Remembered::default();
        for number in 0..2 * MAX_REMEMBERED {
            remembered.remember(number as u64, number as u64);
        }
        assert!(remembered.newer.len() + remembered.older.len() <= MAX_REMEMBERED);
        assert_eq!(remembered.recall(0), None);
        let last = 2 * MAX_REMEMBERED as u64 - 1;
        assert_eq!(remembered.recall(last), Some(last));
    }
}
