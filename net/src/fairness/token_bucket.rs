//! A burst, and a rate per second after it.

use std::time::{Duration, Instant};

/// How a bucket fills.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Refill {
    /// Tokens that a full bucket holds.
    pub(crate) burst: u32,
    /// Tokens that are refilled each second.
    pub(crate) per_second: u32,
}

/// The tokens of one network, or of many together.
#[derive(Debug, Clone)]
pub(crate) struct TokenBucket {
    refill: Refill,
    /// When the bucket will be full, or was. The level depends on nothing else.
    full_at: Instant,
}

impl TokenBucket {
    /// Creates a full bucket.
    pub(crate) fn new(refill: Refill, now: Instant) -> Self {
        Self {
            refill,
            full_at: now,
        }
    }

    /// Takes one token. If there is none, takes nothing and returns when there will be one.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        self.take_many(1, now)
    }

    /// Takes `count` tokens. If there are fewer, takes nothing and returns when there will be
    /// enough. There are never enough for more than the bucket holds.
    pub(crate) fn take_many(&mut self, count: u32, now: Instant) -> Result<(), Instant> {
        let wait = self.wait_for(count, now);
        if !wait.is_zero() {
            return Err(now + wait);
        }
        self.full_at = self.full_at.max(now) + self.token() * count;
        Ok(())
    }

    /// Returns how long it takes until there is a token; zero if there is one now.
    pub(crate) fn wait(&self, now: Instant) -> Duration {
        self.wait_for(1, now)
    }

    fn wait_for(&self, count: u32, now: Instant) -> Duration {
        let missing = self.full_at.saturating_duration_since(now) + self.token() * count;
        missing.saturating_sub(self.token() * self.refill.burst.max(1))
    }

    /// Returns when the bucket will be full again.
    pub(crate) fn full_at(&self) -> Instant {
        self.full_at
    }

    /// Returns true if the bucket is as good as a new one.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now
    }

    /// Returns the time in which one token is refilled.
    fn token(&self) -> Duration {
        Duration::from_secs(1) / self.refill.per_second.max(1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REFILL: Refill = Refill {
        burst: 3,
        per_second: 10,
    };
    const TOKEN: Duration = Duration::from_millis(100);

    #[test]
    fn a_burst_passes_and_then_one_per_tick() {
        let now = Instant::now();
        let mut bucket = TokenBucket::new(REFILL, now);
        for _ in 0..3 {
            bucket.take(now).unwrap();
        }
        assert_eq!(bucket.take(now), Err(now + TOKEN));
        assert_eq!(bucket.take(now), Err(now + TOKEN), "a refusal is free");
        bucket.take(now + TOKEN).unwrap();
        assert!(bucket.take(now + TOKEN).is_err());
    }

    #[test]
    fn bucket_never_exceeds_its_burst() {
        let now = Instant::now();
        let mut bucket = TokenBucket::new(REFILL, now);
        bucket.take(now).unwrap();
        assert!(!bucket.is_full(now));
        let later = now + Duration::from_secs(3600);
        assert!(bucket.is_full(later));
        let taken = (0..9).filter(|_| bucket.take(later).is_ok()).count();
        assert_eq!(taken, 3);
    }

    proptest! {
        #[test]
        fn no_pattern_of_calls_gets_more(gaps in prop::collection::vec(0..400_u64, 1..200)) {
            let start = Instant::now();
            let (mut now, mut taken) = (start, 0);
            let mut bucket = TokenBucket::new(REFILL, start);
            for gap in gaps {
                now += Duration::from_millis(gap);
                taken += u64::from(bucket.take(now).is_ok());
                let allowed = 3 + (now - start).as_millis() as u64 / 100;
                prop_assert!(taken <= allowed);
            }
        }
    }
}
