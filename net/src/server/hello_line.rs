//! One line of callers that wait for a handshake.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::fairness::{Refill, TokenBucket};

/// Length of a line from which abandoned tickets are removed.
pub(super) const LONG_LINE: usize = 256;

/// Callers that wait with tickets of type `T` and share a bucket.
pub(super) struct HelloLine<T> {
    bucket: TokenBucket,
    waiting: Vec<(IpAddr, T)>,
    /// When a caller of this line was last served, in handshakes begun so far; `None` if never.
    pub(super) last_served: Option<u64>,
}

impl<T> HelloLine<T> {
    pub(super) fn new(refill: Refill, now: Instant) -> Self {
        Self {
            bucket: TokenBucket::new(refill, now),
            waiting: Vec::new(),
            last_served: None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Returns how long until the line has a token.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        self.bucket.wait(now)
    }

    pub(super) fn push(&mut self, remote: IpAddr, ticket: T, is_gone: &dyn Fn(&T) -> bool) {
        if self.len() >= LONG_LINE {
            self.sweep(is_gone);
        }
        self.waiting.push((remote, ticket));
    }

    /// Removes abandoned tickets.
    pub(super) fn sweep(&mut self, is_gone: &dyn Fn(&T) -> bool) {
        self.waiting.retain(|(_, ticket)| !is_gone(ticket));
    }

    /// Takes a held ticket, if there is a token for it. It is chosen at random, as the places of
    /// those who have waited longest are also the first to be taken away: if served in order, a
    /// fast enough flood would leave the others no moment to be served in.
    pub(super) fn take(
        &mut self,
        now: Instant,
        dice: &mut Dice,
        is_gone: &dyn Fn(&T) -> bool,
    ) -> Option<(IpAddr, T)> {
        while !self.waiting.is_empty() && self.wait(now).is_zero() {
            let (remote, ticket) = self.waiting.swap_remove(dice.below(self.waiting.len()));
            if !is_gone(&ticket) {
                let _ = self.bucket.take(now);
                return Some((remote, ticket));
            }
        }
        None
    }

    /// Removes the tickets of callers from where `is_of` says.
    pub(super) fn split(&mut self, is_of: impl Fn(IpAddr) -> bool) -> Vec<(IpAddr, T)> {
        let waiting = std::mem::take(&mut self.waiting);
        let (split, left) = waiting.into_iter().partition(|(remote, _)| is_of(*remote));
        self.waiting = left;
        split
    }
}

/// Choices that nobody outside can predict. Not for secrets.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn new() -> Self {
        Self::seeded(RandomState::new().hash_one(0))
    }

    /// Returns a number below `bound`; 0 if that is 0.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        // The SplitMix64 generator.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        // The high half of the product: as even as a bound far below 2^64 allows.
        ((u128::from(mixed) * bound as u128) >> 64) as usize
    }
}
