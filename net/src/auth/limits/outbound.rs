//! What this node gives away by dialling.
//!
//! Whoever answers a dialled connection gets one guess at the password out of the run. On a local
//! network anybody can announce addresses, so those that were only heard of have a daily budget in
//! all, and a few tries each; it is shared by all nodes of a state directory, one after the other
//! and side by side. An address where the password did not fit is left alone by this node for an hour,
//! then for twice as long each time, up to a day. An address that the user typed is free of the
//! budget the first time, and after a failure it is like any other.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

/// The first pause after a wrong password; doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(3600);
/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(24 * 3600);
/// Failed runs with addresses nobody typed, within [`BUDGET_WINDOW`], in all.
pub(super) const BUDGET: usize = 20;
pub(super) const BUDGET_WINDOW: Duration = Duration::from_secs(24 * 3600);
/// How many of them one address may cost. A network of other people on the link must not use up
/// what newcomers need, whenever a command is started; and more than one, as the same user may
/// be in that network, too, with another password.
const ADDRESS_LIMIT: usize = 3;
/// The same budget where it cannot be recorded: each process has its own then.
const UNRECORDED_BUDGET: usize = 2;
/// A run that has not ended by then has ended with its process: it takes 10 s, and the timeouts of
/// its connection.
const LEASE: Duration = Duration::from_secs(60);

/// What runs with addresses nobody typed have cost lately, in all nodes of a state directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpentGuesses {
    /// When runs failed, and with which address; 0 stands for one that is forgiven.
    pub(super) failures: Vec<(Instant, AddressDigest)>,
    /// When runs that are under way began, each with a number of its own.
    pub(super) under_way: Vec<(Instant, u64)>,
    pub(super) is_recorded: bool,
}

/// Stands for an address, in few bytes.
pub(super) type AddressDigest = u64;

impl Default for SpentGuesses {
    fn default() -> Self {
        Self {
            failures: Vec::new(),
            under_way: Vec::new(),
            is_recorded: true,
        }
    }
}

impl SpentGuesses {
    /// For one process that cannot record anything.
    pub(super) fn unrecorded() -> Self {
        Self {
            is_recorded: false,
            ..Self::default()
        }
    }

    fn budget(&self) -> usize {
        if self.is_recorded {
            BUDGET
        } else {
            UNRECORDED_BUDGET
        }
    }

    /// Forgets what is old.
    pub(super) fn expire(&mut self, now: Instant) {
        let since = |at: Instant| now.saturating_duration_since(at);
        self.failures.retain(|(at, _)| since(*at) < BUDGET_WINDOW);
        self.under_way.retain(|(at, _)| since(*at) < LEASE);
    }

    fn begin(&mut self, address: AddressDigest, now: Instant) -> Result<u64, Hold> {
        self.expire(now);
        let with_it = self.failures.iter().filter(|(_, with)| *with == address);
        if with_it.count() >= ADDRESS_LIMIT {
            return Err(Hold::Refused);
        }
        let budget = self.budget();
        if self.failures.len() >= budget {
            let oldest = self.failures.iter().map(|(at, _)| *at).min();
            let until = oldest.map_or(now, |at| at + BUDGET_WINDOW);
            return Err(Hold::Budget(until.saturating_duration_since(now)));
        }
        if self.failures.len() + self.under_way.len() >= budget {
            return Err(Hold::Budget(Duration::from_secs(1)));
        }
        let mut number = [0; 8];
        // Without one, it cannot be told from others, and its lease expires.
        let _ = aws_lc_rs::rand::fill(&mut number);
        let number = u64::from_ne_bytes(number);
        self.under_way.push((now, number));
        Ok(number)
    }

    fn end(&mut self, number: u64, address: AddressDigest, outcome: Outcome, now: Instant) {
        self.under_way.retain(|(_, held)| *held != number);
        match outcome {
            Outcome::WrongPassword => self.failures.push((now, address)),
            Outcome::Paired => {
                let with_it = self
                    .failures
                    .iter_mut()
                    .filter(|(_, with)| *with == address);
                with_it.for_each(|(_, with)| *with = 0);
            }
            Outcome::Nothing => {}
        }
        self.expire(now);
        // More than the budget can only come from what could not be recorded when it began.
        let surplus = self.failures.len().saturating_sub(BUDGET);
        self.failures.drain(..surplus);
    }
}

fn digest(address: &str) -> AddressDigest {
    let digest: [u8; 32] = Sha256::digest(address).into();
    let [a, b, c, d, e, f, g, h, ..] = digest;
    u64::from_le_bytes([a, b, c, d, e, f, g, h]).max(1)
}

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
    /// Its number in the budget, if it is charged to it.
    charged: Option<u64>,
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
}

impl Outbound {
    /// Charges a run with `address`, to what all nodes of the state directory have `spent` if need be.
    pub fn begin(
        &mut self,
        spent: &mut SpentGuesses,
        address: &str,
        source: AddressSource,
        now: Instant,
    ) -> Result<OutboundRun, Hold> {
        let pause = self.pauses.get(address);
        if pause.is_some_and(|pause| now < pause.until) {
            return Err(Hold::Refused);
        }
        let budgeted = source == AddressSource::Heard || pause.is_some();
        let charged = budgeted.then(|| spent.begin(digest(address), now));
        Ok(OutboundRun {
            address: address.to_owned(),
            charged: charged.transpose()?,
        })
    }

    /// Settles a run.
    pub fn end(
        &mut self,
        spent: &mut SpentGuesses,
        run: OutboundRun,
        outcome: Outcome,
        now: Instant,
    ) {
        if let Some(number) = run.charged {
            spent.end(number, digest(&run.address), outcome, now);
        }
        match outcome {
            Outcome::Paired => {
                self.pauses.remove(&run.address);
            }
            Outcome::WrongPassword => self.pause(run.address, now),
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

    /// A process, and what its state directory knows.
    #[derive(Default)]
    struct Dialling {
        table: Outbound,
        spent: SpentGuesses,
    }

    impl Dialling {
        fn begin(
            &mut self,
            address: &str,
            source: AddressSource,
            now: Instant,
        ) -> Result<OutboundRun, Hold> {
            self.table.begin(&mut self.spent, address, source, now)
        }

        fn end(&mut self, run: OutboundRun, outcome: Outcome, now: Instant) {
            self.table.end(&mut self.spent, run, outcome, now);
        }

        /// Another process, after this one.
        fn restart(&mut self) {
            self.table = Outbound::default();
        }
    }

    fn fail(table: &mut Dialling, address: &str, source: AddressSource, now: Instant) {
        let run = table.begin(address, source, now).unwrap();
        table.end(run, Outcome::WrongPassword, now);
    }

    #[test]
    fn an_address_with_another_password_is_left_alone_for_longer_and_longer() {
        let mut now = Instant::now();
        let mut table = Dialling::default();
        for hours in [1, 2, 4, 8, 16, 24, 24] {
            table.spent = SpentGuesses::default();
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
        let mut table = Dialling::default();
        fail(&mut table, "a:1", Heard, now);
        let run = table.begin("a:1", Heard, now + HOUR).unwrap();
        table.end(run, Outcome::Paired, now + HOUR);
        fail(&mut table, "a:1", Heard, now + HOUR);
        assert!(table.begin("a:1", Heard, now + 2 * HOUR).is_ok());
    }

    #[test]
    fn addresses_nobody_typed_get_twenty_guesses_a_day_in_all() {
        let now = Instant::now();
        let mut table = Dialling::default();
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
        let mut table = Dialling::default();
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
        let mut table = Dialling::default();
        for _ in 0..100 {
            let run = table.begin("a:1", Heard, now).unwrap();
            table.end(run, Outcome::Nothing, now);
        }
        assert!(table.begin("a:1", Heard, now).is_ok());
    }

    #[test]
    fn old_pauses_are_forgotten() {
        let mut now = Instant::now();
        let mut table = Dialling::default();
        for number in 0..100 {
            fail(&mut table, &format!("a:{number}"), Heard, now);
            now += 2 * HOUR;
        }
        assert!(
            table.table.pauses.len() < 20,
            "{}",
            table.table.pauses.len()
        );
    }

    #[test]
    fn restarts_give_no_more_guesses() {
        let mut now = Instant::now();
        let mut table = Dialling::default();
        let mut guesses = 0;
        for start in 0..100 {
            table.restart();
            for number in 0..30 {
                let address = format!("fake{start}:{number}");
                if let Ok(run) = table.begin(&address, Heard, now) {
                    table.end(run, Outcome::WrongPassword, now);
                    guesses += 1;
                }
            }
            now += Duration::from_secs(60);
        }
        assert_eq!(guesses, BUDGET);
        table.restart();
        assert!(table.begin("fake:1", Heard, now + BUDGET_WINDOW).is_ok());
    }

    #[test]
    fn one_address_cannot_use_up_the_budget() {
        let now = Instant::now();
        let mut table = Dialling::default();
        for _ in 0..ADDRESS_LIMIT {
            table.restart();
            fail(&mut table, "theirs:1", Heard, now);
        }
        table.restart();
        assert_eq!(
            table.begin("theirs:1", Heard, now).unwrap_err(),
            Hold::Refused
        );
        assert!(table.begin("new:1", Heard, now).is_ok());
        // What the user typed is tried once a start, as ever.
        fail(&mut table, "theirs:1", Named, now);
        table.restart();
        fail(&mut table, "theirs:1", Named, now);
    }

    #[test]
    fn pairing_forgives_an_address_and_not_the_day() {
        let now = Instant::now();
        let mut table = Dialling::default();
        for _ in 0..2 {
            fail(&mut table, "a:1", Heard, now);
            table.restart();
        }
        let run = table.begin("a:1", Heard, now).unwrap();
        table.end(run, Outcome::Paired, now);
        for _ in 0..ADDRESS_LIMIT {
            table.restart();
            fail(&mut table, "a:1", Heard, now);
        }
        assert_eq!(table.spent.failures.len(), 2 + ADDRESS_LIMIT);
    }

    #[test]
    fn a_run_of_a_killed_process_frees_its_place() {
        let now = Instant::now();
        let mut table = Dialling::default();
        for number in 0..BUDGET {
            let _ = table.begin(&format!("fake:{number}"), Heard, now).unwrap();
        }
        table.restart();
        let early = now + LEASE - Duration::from_secs(1);
        assert!(table.begin("fake:1", Heard, early).is_err());
        assert!(table.begin("fake:1", Heard, now + LEASE).is_ok());
    }

    #[test]
    fn what_cannot_be_recorded_costs_little() {
        let now = Instant::now();
        let mut table = Dialling {
            spent: SpentGuesses::unrecorded(),
            ..Dialling::default()
        };
        fail(&mut table, "fake:1", Heard, now);
        fail(&mut table, "fake:2", Heard, now);
        assert!(table.begin("fake:3", Heard, now).is_err());
        fail(&mut table, "typed:1", Named, now);
    }
}
