//! How long to wait before trying again.
//!
//! Waits double from a first value to a cap and are shortened by up to a fifth. The amount depends
//! only on what is retried and how often, so that members that lost one another together do not
//! return in step, and tests see the same figures every time.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// A doubling wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    /// The wait after the first failure.
    pub(crate) first: Duration,
    /// The maximum wait.
    pub(crate) cap: Duration,
}

impl Backoff {
    /// Returns the wait after `failures` failures in a row (at least 1) of `subject`: at least four
    /// fifths of the doubled value, never more than the cap.
    pub(crate) fn after(self, failures: u32, subject: &impl Hash) -> Duration {
        let full = self.full(failures);
        full - full.mul_f64(0.2 * fraction((subject, failures)))
    }

    /// Returns the doubled value itself, for waits that nobody else begins at the same time.
    pub(crate) fn full(self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        self.first.saturating_mul(1 << doublings).min(self.cap)
    }
}

/// Returns `period` shortened by up to a tenth, always the same for one subject.
pub(crate) fn spread(period: Duration, subject: &impl Hash) -> Duration {
    period - period.mul_f64(0.1 * fraction(subject))
}

/// Returns a number in 0..1 that depends on `subject` alone.
fn fraction(subject: impl Hash) -> f64 {
    let mut hasher = DefaultHasher::new();
    subject.hash(&mut hasher);
    f64::from(hasher.finish() as u32) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn waits_double_within_their_bounds(failures in 1u32..1000, subject: u64) {
            let backoff = Backoff { first: Duration::from_millis(300), cap: Duration::from_secs(30) };
            let full = Duration::from_millis(300 << (failures - 1).min(10)).min(backoff.cap);
            let wait = backoff.after(failures, &subject);
            prop_assert!(wait <= full && wait >= full.mul_f64(0.79), "{wait:?} of {full:?}");
            prop_assert_eq!(wait, backoff.after(failures, &subject));
        }
    }

    #[test]
    fn different_subjects_wait_differently() {
        let period = Duration::from_secs(15);
        let waits: std::collections::HashSet<_> = (0..50).map(|n| spread(period, &n)).collect();
        assert!(waits.len() > 40);
    }
}
