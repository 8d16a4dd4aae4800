//! Decides when a search has to end, without reading the clock for every name.

use std::time::Instant;

/// Steps between two reads of the clock. The most expensive step, a byte of a name that
/// [`super::Pattern`] gives to the `regex` crate, takes 25 microseconds. So the clock is read at
/// least every 25 milliseconds.
const STEPS_BETWEEN_LOOKS: u32 = 1 << 17;

/// The cost of a byte matched by the `regex` crate, in steps of about 10 nanoseconds. With the most
/// expensive expression that it is given, a name of 255 bytes takes 6 ms.
pub(super) const STEPS_PER_BYTE: u32 = 128;

/// The error that the time is up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TimeIsUp;

/// The time that a search has left, counted in steps of work.
#[derive(Debug)]
pub(crate) struct SearchTime {
    until: Instant,
    steps: u32,
}

impl SearchTime {
    /// Allows work until the given time.
    pub(crate) fn new(until: Instant) -> Self {
        Self { until, steps: 0 }
    }

    /// Returns when the time is up.
    pub(crate) fn until(&self) -> Instant {
        self.until
    }

    /// Counts `steps` of work that are about to be done.
    ///
    /// # Errors
    /// The time is up. It stays up, so a caller that continues with the next name gets
    /// the error again.
    pub(crate) fn spend(&mut self, steps: u32) -> Result<(), TimeIsUp> {
        self.steps = self.steps.saturating_add(steps);
        if self.steps < STEPS_BETWEEN_LOOKS {
            return Ok(());
        }
        if Instant::now() >= self.until {
            return Err(TimeIsUp);
        }
        self.steps = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn elapsed_time_is_noticed_every_few_steps() {
        let now = Instant::now();
        let mut over = SearchTime::new(now);
        assert_eq!(over.spend(STEPS_BETWEEN_LOOKS - 1), Ok(()));
        assert_eq!(over.spend(1), Err(TimeIsUp));
        assert_eq!(over.spend(0), Err(TimeIsUp));
        let mut left = SearchTime::new(now + Duration::from_secs(600));
        assert_eq!(left.spend(u32::MAX), Ok(()));
        assert_eq!(left.spend(STEPS_BETWEEN_LOOKS - 1), Ok(()));
    }
}
