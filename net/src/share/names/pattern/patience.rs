//! When a search has to end, without asking the clock for every name.

use std::time::Instant;

/// Between two looks at the clock. The dearest step, a byte of a name that [`super::Pattern`]
/// gives to the `regex` crate, takes 25 microseconds; so the clock is looked at every 25
/// milliseconds at least.
const STEPS_BETWEEN_LOOKS: u32 = 1 << 17;

/// What a byte costs that is matched by the `regex` crate, in steps of 10 nanoseconds or so: with
/// the most expensive of the expressions that it is given, a name of 255 bytes takes it 6 ms.
pub(super) const STEPS_PER_BYTE: u32 = 128;

/// It is later than that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TimeIsUp;

/// The time that a search has left, counted in steps of work.
#[derive(Debug)]
pub(crate) struct SearchTime {
    until: Instant,
    steps: u32,
}

impl SearchTime {
    /// Work may go on until then.
    pub(crate) fn new(until: Instant) -> Self {
        Self { until, steps: 0 }
    }

    /// When the time is over.
    pub(crate) fn until(&self) -> Instant {
        self.until
    }

    /// Takes note of `steps` of work that are about to be done.
    ///
    /// # Errors
    /// The time is up. It stays up, so that whoever goes on to the next name is told again.
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
