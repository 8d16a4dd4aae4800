//! Tables whose keys are numbers.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A table whose keys are numbers that nobody outside has chosen, so that they need no hashing.
pub(super) type NumberMap<T> = HashMap<u64, T, NoHashing>;

/// The hash builder of a [`NumberMap`].
pub(super) type NoHashing = BuildHasherDefault<Number>;

/// Spreads numbers over a table: those of inodes follow one another (Fibonacci hashing, Knuth,
/// volume 3, 6.4).
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
