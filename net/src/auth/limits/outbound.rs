//! What this node gives away by dialling.
//!
//! Whoever answers a dialled connection gets one guess at the password out of the run. On a local
//! network anybody can announce addresses, so those that were only heard of have a daily budget in
//! all; and an address where the password did not fit is left alone for an hour, then for twice as
//! long each time, up to a day. An address that the user typed is free of the budget the first
//! time, and after a failure it is like any other.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::Recent;

/// The first pause after a wrong password; doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(3600);
/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(24 * 3600);
/// Failed runs with addresses nobody typed, within [`BUDGET_WINDOW`], in all.
const BUDGET: usize = 20;
const BUDGET_WINDOW: Duration = Duration::from_secs(24 * 3600);

/// How this node came by an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressSource {
    /// The user typed it.
    Named,
    /// From mDNS, from another member, or remembered from last time.
    Heard,
}

/// Why a run may not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// The password did not fit at this address, not long ago.
    Refused,
    /// The day's budget for addresses nobody typed is used up, or is all in use; there is more
    /// after this time.
    Budget(Duration),
}

/// A run under way. Hand it back to [`Outbound::end`].
#[derive(Debug)]
#[must_use = "a run that is not ended stays charged for ever"]
pub struct OutboundRun {
    address: String,
    budgeted: bool,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Both sides proved the password.
    Paired,
    /// The password did not fit: whoever answered has had its guess.
    WrongPassword,
    /// The run broke off before the other side could learn anything.
    Nothing,
}

/// How a run with one address ended the last time.
#[derive(Debug)]
struct Pause {
    until: Instant,
    length: Duration,
}

/// The table.
#[derive(Debug, Default)]
pub struct Outbound {
    pauses: HashMap<String, Pause>,
    failures: Recent,
    in_flight: usize,
}

impl Outbound {
    /// Charges a run with `address`.
    pub fn begin(
        &mut self,
        address: &str,
        source: AddressSource,
        now: Instant,
    ) -> Result<OutboundRun, Hold> {
        let pause = self.pauses.get(address);
        if pause.is_some_and(|pause| now < pause.until) {
            return Err(Hold::Refused);
        }
        let budgeted = source == AddressSource::Heard || pause.is_some();
        if budgeted {
            let wait = self.failures.wait(BUDGET, BUDGET_WINDOW, now);
            if !wait.is_zero() {
                return Err(Hold::Budget(wait));
            }
            if self.failures.count(BUDGET_WINDOW, now) + self.in_flight >= BUDGET {
                return Err(Hold::Budget(Duration::from_secs(1)));
            }
            self.in_flight += 1;
        }
        Ok(OutboundRun {
            address: address.to_owned(),
            budgeted,
        })
    }

    /// Settles a run.
    pub fn end(&mut self, run: OutboundRun, outcome: Outcome, now: Instant) {
        if run.budgeted {
            self.in_flight -= 1;
        }
        match outcome {
            Outcome::Paired => {
                self.pauses.remove(&run.address);
            }
            Outcome::WrongPassword => {
                if run.budgeted {
                    self.failures.push(now);
                }
                self.pause(run.address, now);
            }
            Outcome::Nothing => {}
        }
    }

    fn pause(&mut self, address: String, now: Instant) {
        // The budget bounds how many addresses can fail in a day, so this table stays small once
        // it forgets those that were left alone for a day beyond their pause.
        self.pauses.retain(|_, pause| now < pause.until + MAX_PAUSE);
        let length = self
            .pauses
            .get(&address)
            .map_or(FIRST_PAUSE, |last| (2 * last.length).min(MAX_PAUSE));
        let until = now + length;
        self.pauses.insert(address, Pause { until, length });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::AddressSource::{Heard, Named};
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn fail(table: &mut Outbound, address: &str, source: AddressSource, now: Instant) {
        let run = table.begin(address, source, now).unwrap();
        table.end(run, Outcome::WrongPassword, now);
    }

    #[test]
    fn an_address_with_another_password_is_left_alone_for_longer_and_longer() {
        let mut now = Instant::now();
        let mut table = Outbound::default();
        for hours in [1, 2, 4, 8, 16, 24, 24] {
            fail(&mut table, "a:1", Named, now);
            let until = now + hours * HOUR;
            let early = until - Duration::from_secs(1);
            for source in [Named, Heard] {
                let hold = table.begin("a:1", source, early).unwrap_err();
                assert_eq!(hold, Hold::Refused);
            }
            now = until;
        }
        assert!(table.begin("b:1", Heard, now).is_ok());
    }

    #[test]
    fn pairing_ends_the_pause_for_good() {
        let now = Instant::now();
        let mut table = Outbound::default();
        fail(&mut table, "a:1", Heard, now);
        let run = table.begin("a:1", Heard, now + HOUR).unwrap();
        table.end(run, Outcome::Paired, now + HOUR);
        fail(&mut table, "a:1", Heard, now + HOUR);
        assert!(table.begin("a:1", Heard, now + 2 * HOUR).is_ok());
    }

    #[test]
    fn addresses_nobody_typed_get_twenty_guesses_a_day_in_all() {
        let now = Instant::now();
        let mut table = Outbound::default();
        for number in 0..20 {
            fail(&mut table, &format!("fake:{number}"), Heard, now);
        }
        let hold = table.begin("fake:20", Heard, now + HOUR).unwrap_err();
        assert_eq!(hold, Hold::Budget(23 * HOUR));
        // What the user typed is tried all the same, once.
        fail(&mut table, "typed:1", Named, now);
        let hold = table.begin("typed:1", Named, now + HOUR).unwrap_err();
        assert_eq!(hold, Hold::Budget(23 * HOUR));
        assert!(table.begin("fake:20", Heard, now + 24 * HOUR).is_ok());
    }

    #[test]
    fn runs_under_way_count_against_the_budget() {
        let now = Instant::now();
        let mut table = Outbound::default();
        let runs: Vec<_> = (0..100)
            .filter_map(|number| table.begin(&format!("fake:{number}"), Heard, now).ok())
            .collect();
        assert_eq!(runs.len(), BUDGET);
        for run in runs {
            table.end(run, Outcome::Paired, now);
        }
        assert!(table.begin("fake:1", Heard, now).is_ok());
    }

    #[test]
    fn a_run_that_broke_off_costs_nothing() {
        let now = Instant::now();
        let mut table = Outbound::default();
        for _ in 0..100 {
            let run = table.begin("a:1", Heard, now).unwrap();
            table.end(run, Outcome::Nothing, now);
        }
        assert!(table.begin("a:1", Heard, now).is_ok());
    }

    #[test]
    fn old_pauses_are_forgotten() {
        let mut now = Instant::now();
        let mut table = Outbound::default();
        for number in 0..100 {
            fail(&mut table, &format!("a:{number}"), Heard, now);
            now += 2 * HOUR;
        }
        assert!(table.pauses.len() < 20, "{}", table.pauses.len());
    }
}
