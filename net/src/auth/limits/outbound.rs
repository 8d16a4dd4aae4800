//! Limits on the guesses that this node gives away by dialling.
//!
//! Each run gives whoever answers a dialled connection one guess at the password. On a local
//! network anybody can announce addresses, so addresses that the user did not type share a daily
//! budget, and each gets only a few tries. All nodes of a state directory share this budget,
//! whether they run one after the other or side by side. After a wrong password, this node leaves
//! the address alone for an hour, then twice as long each time, up to a day. An address that the
//! user typed is exempt from the budget the first time; after a failure it is like any other.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::concurrency::backoff::Backoff;
use crate::fairness::SourceNetwork;

/// How long an address is left alone after a wrong password.
const PAUSES: Backoff = Backoff {
    first: Duration::from_secs(3600),
    cap: Duration::from_secs(24 * 3600),
};
/// The most failed runs with addresses that nobody typed, in total, within [`BUDGET_WINDOW`].
pub(super) const BUDGET: usize = 20;
pub(super) const BUDGET_WINDOW: Duration = Duration::from_secs(24 * 3600);
/// The budget divided by this is the share of addresses known from multicast only. Anyone on a
/// link can announce as many of those as they like, and must not use up the guesses that members
/// at home need.
const LINK_DIVISOR: usize = 2;
/// The most failed runs per network: an IPv4 address, an IPv6 /64, a host name. A host has as many
/// ports as it likes. A network of other people on the link must not use up what newcomers need,
/// whenever a command is started. The limit is above one because the same user may be in that
/// network too, with another password.
const NETWORK_LIMIT: usize = 3;
/// The budget where it cannot be recorded: each process then has its own.
const UNRECORDED_BUDGET: usize = 2;
/// A run that has not ended after this time died with its process: a run takes at most 10 s plus
/// the timeouts of its connection.
const LEASE: Duration = Duration::from_secs(60);

/// Recent costs of runs with addresses that nobody typed, over all nodes of a state directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpentGuesses {
    /// When runs failed, and with whom; see [`Charge`].
    pub(super) failures: Vec<(Instant, Charge)>,
    /// When the runs under way began, each with its own number; the lowest bit is as in [`Charge`].
    pub(super) under_way: Vec<(Instant, u64)>,
    pub(super) is_recorded: bool,
}

/// Identifies a network in few bytes; 0 is one that is forgiven. The lowest bit is set when the
/// address is known from multicast only.
pub(super) type Charge = u64;

const IS_LINK: Charge = 1;

/// Returns the charge for a run with `who` (`host:port`).
fn charge(who: &str, source: AddressSource) -> Charge {
    let host = who.rsplit_once(':').map_or(who, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let host = host.split('%').next().unwrap_or_default();
    let digest: [u8; 32] = match host.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        // All hosts of a link are in one such network.
        Ok(IpAddr::V6(ip)) if ip.is_unicast_link_local() => Sha256::digest(ip.to_string()),
        Ok(ip) => Sha256::digest(SourceNetwork::of(ip).address().to_string()),
        Err(_) => Sha256::digest(host),
    }
    .into();
    let [a, b, c, d, e, f, g, h, ..] = digest;
    let network = u64::from_le_bytes([a, b, c, d, e, f, g, h]).max(2) & !IS_LINK;
    network | Charge::from(source == AddressSource::Link)
}

fn is_same_network(a: Charge, b: Charge) -> bool {
    a & !IS_LINK == b & !IS_LINK
}

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
    /// Creates the budget of a process that cannot record anything.
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

    /// Drops entries that have expired.
    pub(super) fn expire(&mut self, now: Instant) {
        let since = |at: Instant| now.saturating_duration_since(at);
        self.failures.retain(|(at, _)| since(*at) < BUDGET_WINDOW);
        self.under_way.retain(|(at, _)| since(*at) < LEASE);
    }

    fn begin(&mut self, charge: Charge, now: Instant) -> Result<u64, Hold> {
        self.expire(now);
        let is_its = |with: Charge| is_same_network(with, charge);
        self.fits(NETWORK_LIMIT, is_its, |_| false, now)
            .map_err(Hold::Refused)?;
        let is_link = |with: Charge| with & IS_LINK != 0;
        if is_link(charge) {
            self.fits(self.budget() / LINK_DIVISOR, is_link, is_link, now)
                .map_err(Hold::Budget)?;
        }
        self.fits(self.budget(), |_| true, |_| true, now)
            .map_err(Hold::Budget)?;
        let mut number = [0; 8];
        // If this fails, the run cannot be told from others, and its lease expires.
        let _ = aws_lc_rs::rand::fill(&mut number);
        let number = u64::from_ne_bytes(number) & !IS_LINK | charge & IS_LINK;
        self.under_way.push((now, number));
        Ok(number)
    }

    /// Fails when `limit` of the runs that `counts` selects have failed or are under way. The error
    /// is the time to wait.
    fn fits(
        &self,
        limit: usize,
        counts: impl Fn(Charge) -> bool,
        is_under_way: impl Fn(u64) -> bool,
        now: Instant,
    ) -> Result<(), Duration> {
        let failed = self.failures.iter().filter(|(_, with)| counts(*with));
        let mut failed: Vec<Instant> = failed.map(|(at, _)| *at).collect();
        failed.sort();
        if let Some(blocking) = failed.len().checked_sub(limit) {
            let until = failed.get(blocking).map_or(now, |at| *at + BUDGET_WINDOW);
            return Err(until.saturating_duration_since(now));
        }
        let under_way = self.under_way.iter().filter(|(_, n)| is_under_way(*n));
        if failed.len() + under_way.count() >= limit {
            return Err(Duration::from_secs(1));
        }
        Ok(())
    }

    fn end(&mut self, number: u64, charge: Charge, outcome: GuessOutcome, now: Instant) {
        self.under_way.retain(|(_, held)| *held != number);
        match outcome {
            GuessOutcome::WrongPassword => self.failures.push((now, charge)),
            GuessOutcome::Paired => {
                let with_it = self
                    .failures
                    .iter_mut()
                    .filter(|(_, with)| is_same_network(*with, charge));
                with_it.for_each(|(_, with)| *with &= IS_LINK);
            }
            GuessOutcome::Nothing => {}
        }
        self.expire(now);
        // There can be more than the budget only if some could not be recorded when they began.
        let surplus = self.failures.len().saturating_sub(BUDGET);
        self.failures.drain(..surplus);
    }
}

/// How this node came by an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressSource {
    /// The user typed it.
    Named,
    /// Another member reported it, or it is remembered from an earlier start.
    Heard,
    /// Only multicast announced it: anyone on the link can.
    Link,
}

/// Why a run may not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// The password was wrong at this address, or in its network, not long ago. The address is
    /// tried again after this time.
    Refused(Duration),
    /// The day's budget for addresses nobody typed is used up, or is all in use. More is available
    /// after this time.
    Budget(Duration),
}

/// A run under way. Hand it back to [`Outbound::end`].
#[derive(Debug)]
#[must_use = "a run that is not ended stays charged for ever"]
pub struct OutboundRun {
    address: String,
    /// The charge and its number in the budget, if the run counts against it.
    charged: Option<(Charge, u64)>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuessOutcome {
    /// Both sides proved the password.
    Paired,
    /// The password was wrong: whoever answered has had its guess.
    WrongPassword,
    /// The run broke off before the other side could learn anything.
    Nothing,
}

/// How the last run with one address ended.
#[derive(Debug)]
struct Pause {
    until: Instant,
    failures: u32,
}

/// Where this node has guessed before, and where it may guess now.
#[derive(Debug, Default)]
pub struct Outbound {
    pauses: HashMap<String, Pause>,
}

impl Outbound {
    /// Charges a run with `address`; where the budget applies, to what all nodes of the state
    /// directory have `spent`.
    pub fn begin(
        &mut self,
        spent: &mut SpentGuesses,
        address: &str,
        source: AddressSource,
        now: Instant,
    ) -> Result<OutboundRun, Hold> {
        let pause = self.pauses.get(address);
        if let Some(pause) = pause.filter(|pause| now < pause.until) {
            return Err(Hold::Refused(pause.until.saturating_duration_since(now)));
        }
        let budgeted = source != AddressSource::Named || pause.is_some();
        let charge = charge(address, source);
        let charged = budgeted.then(|| Ok((charge, spent.begin(charge, now)?)));
        Ok(OutboundRun {
            address: address.to_owned(),
            charged: charged.transpose()?,
        })
    }

    /// Settles a run that has ended.
    pub fn end(
        &mut self,
        spent: &mut SpentGuesses,
        run: OutboundRun,
        outcome: GuessOutcome,
        now: Instant,
    ) {
        if let Some((charge, number)) = run.charged {
            spent.end(number, charge, outcome, now);
        }
        match outcome {
            GuessOutcome::Paired => {
                self.pauses.remove(&run.address);
            }
            GuessOutcome::WrongPassword => self.pause(run.address, now),
            GuessOutcome::Nothing => {}
        }
    }

    fn pause(&mut self, address: String, now: Instant) {
        // The budget bounds how many addresses can fail in a day. So this table stays small if it
        // forgets entries a day after their pause.
        self.pauses
            .retain(|_, pause| now < pause.until + PAUSES.cap);
        let failures = self.pauses.get(&address).map_or(0, |last| last.failures);
        let failures = failures.saturating_add(1);
        let until = now + PAUSES.full(failures);
        self.pauses.insert(address, Pause { until, failures });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::AddressSource::{Heard, Link, Named};
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// A process, and the record of its state directory.
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

        fn end(&mut self, run: OutboundRun, outcome: GuessOutcome, now: Instant) {
            self.table.end(&mut self.spent, run, outcome, now);
        }

        /// Starts another process after this one.
        fn restart(&mut self) {
            self.table = Outbound::default();
        }
    }

    fn fail(table: &mut Dialling, address: &str, source: AddressSource, now: Instant) {
        let run = table.begin(address, source, now).unwrap();
        table.end(run, GuessOutcome::WrongPassword, now);
    }

    #[test]
    fn backoff_grows_after_a_password_mismatch() {
        let mut now = Instant::now();
        let mut table = Dialling::default();
        for hours in [1, 2, 4, 8, 16, 24, 24] {
            table.spent = SpentGuesses::default();
            fail(&mut table, "a:1", Named, now);
            let until = now + hours * HOUR;
            let early = until - Duration::from_secs(1);
            for source in [Named, Heard] {
                let hold = table.begin("a:1", source, early).unwrap_err();
                assert_eq!(hold, Hold::Refused(Duration::from_secs(1)));
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
        table.end(run, GuessOutcome::Paired, now + HOUR);
        fail(&mut table, "a:1", Heard, now + HOUR);
        assert!(table.begin("a:1", Heard, now + 2 * HOUR).is_ok());
    }

    #[test]
    fn untyped_addresses_share_daily_guesses() {
        let now = Instant::now();
        let mut table = Dialling::default();
        for number in 0..20 {
            fail(&mut table, &format!("fake.{number}:1"), Heard, now);
        }
        let hold = table.begin("fake.20:1", Heard, now + HOUR).unwrap_err();
        assert_eq!(hold, Hold::Budget(23 * HOUR));
        // An address that the user typed is still tried once.
        fail(&mut table, "typed:1", Named, now);
        let hold = table.begin("typed:1", Named, now + HOUR).unwrap_err();
        assert_eq!(hold, Hold::Budget(23 * HOUR));
        assert!(table.begin("fake.20:1", Heard, now + 24 * HOUR).is_ok());
    }

    #[test]
    fn runs_under_way_count_against_the_budget() {
        let now = Instant::now();
        let mut table = Dialling::default();
        let runs: Vec<_> = (0..100)
            .filter_map(|number| table.begin(&format!("fake.{number}:1"), Heard, now).ok())
            .collect();
        assert_eq!(runs.len(), BUDGET);
        for run in runs {
            table.end(run, GuessOutcome::Paired, now);
        }
        assert!(table.begin("fake.1:1", Heard, now).is_ok());
    }

    #[test]
    fn a_run_that_broke_off_costs_nothing() {
        let now = Instant::now();
        let mut table = Dialling::default();
        for _ in 0..100 {
            let run = table.begin("a:1", Heard, now).unwrap();
            table.end(run, GuessOutcome::Nothing, now);
        }
        assert!(table.begin("a:1", Heard, now).is_ok());
    }

    #[test]
    fn old_pauses_are_forgotten() {
        let mut now = Instant::now();
        let mut table = Dialling::default();
        for number in 0..100 {
            fail(&mut table, &format!("a{number}:1"), Heard, now);
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
                let address = format!("fake{start}.{number}:1");
                if let Ok(run) = table.begin(&address, Heard, now) {
                    table.end(run, GuessOutcome::WrongPassword, now);
                    guesses += 1;
                }
            }
            now += Duration::from_secs(60);
        }
        assert_eq!(guesses, BUDGET);
        table.restart();
        assert!(table.begin("fake.1:1", Heard, now + BUDGET_WINDOW).is_ok());
    }

    #[test]
    fn one_address_cannot_use_up_the_budget() {
        let now = Instant::now();
        let mut table = Dialling::default();
        for _ in 0..NETWORK_LIMIT {
            table.restart();
            fail(&mut table, "theirs:1", Heard, now);
        }
        table.restart();
        assert_eq!(
            table.begin("theirs:1", Heard, now).unwrap_err(),
            Hold::Refused(BUDGET_WINDOW)
        );
        assert!(table.begin("new:1", Heard, now).is_ok());
        // An address that the user typed is tried once per start, as always.
        fail(&mut table, "theirs:1", Named, now);
        table.restart();
        fail(&mut table, "theirs:1", Named, now);
    }

    #[test]
    fn all_ports_of_a_host_spend_what_one_does() {
        let now = Instant::now();
        for (first, other) in [
            ("10.0.0.1:1", "10.0.0.1:2"),
            ("[2001:db8::1]:1", "[2001:db8::2]:1"),
            ("[fe80::1%eth0]:1", "[fe80::1%eth0]:2"),
            ("a.example:1", "a.example:2"),
        ] {
            let mut table = Dialling::default();
            for _ in 0..NETWORK_LIMIT {
                table.restart();
                fail(&mut table, first, Link, now);
            }
            let hold = table.begin(other, Heard, now).unwrap_err();
            assert_eq!(hold, Hold::Refused(BUDGET_WINDOW), "{other}");
            for new in [
                "10.0.0.2:1",
                "[2001:db8:0:1::1]:1",
                "[fe80::2%eth0]:1",
                "b:1",
            ] {
                let run = table.begin(new, Heard, now).unwrap();
                table.end(run, GuessOutcome::Nothing, now);
            }
        }
    }

    #[test]
    fn strangers_on_a_link_spend_half_the_day() {
        let now = Instant::now();
        let mut table = Dialling::default();
        let mut runs = Vec::new();
        for number in 0..100 {
            table.restart();
            runs.extend(table.begin(&format!("10.0.0.{number}:1"), Link, now));
        }
        assert_eq!(runs.len(), BUDGET / LINK_DIVISOR, "under way");
        for run in runs {
            table.end(run, GuessOutcome::WrongPassword, now);
        }
        let hold = table.begin("10.0.0.200:1", Link, now).unwrap_err();
        assert_eq!(hold, Hold::Budget(BUDGET_WINDOW));
        // At home, members are where they were, and other members report them.
        for number in 0..BUDGET / LINK_DIVISOR {
            fail(&mut table, &format!("home{number}:1"), Heard, now);
        }
        assert!(table.begin("home:1", Heard, now).is_err(), "twenty in all");
    }

    #[test]
    fn pairing_resets_the_address_not_the_day() {
        let now = Instant::now();
        let mut table = Dialling::default();
        for _ in 0..2 {
            fail(&mut table, "a:1", Heard, now);
            table.restart();
        }
        let run = table.begin("a:1", Heard, now).unwrap();
        table.end(run, GuessOutcome::Paired, now);
        for _ in 0..NETWORK_LIMIT {
            table.restart();
            fail(&mut table, "a:1", Heard, now);
        }
        assert_eq!(table.spent.failures.len(), 2 + NETWORK_LIMIT);
    }

    #[test]
    fn killed_process_frees_its_run() {
        let now = Instant::now();
        let mut table = Dialling::default();
        for number in 0..BUDGET {
            let _ = table
                .begin(&format!("fake.{number}:1"), Heard, now)
                .unwrap();
        }
        table.restart();
        let early = now + LEASE - Duration::from_secs(1);
        assert!(table.begin("fake.1:1", Heard, early).is_err());
        assert!(table.begin("fake.1:1", Heard, now + LEASE).is_ok());
    }

    #[test]
    fn what_cannot_be_recorded_costs_little() {
        let now = Instant::now();
        let mut table = Dialling {
            spent: SpentGuesses::unrecorded(),
            ..Dialling::default()
        };
        fail(&mut table, "fake.1:1", Heard, now);
        fail(&mut table, "fake.2:1", Heard, now);
        assert!(table.begin("fake.3:1", Heard, now).is_err());
        fail(&mut table, "typed:1", Named, now);
    }
}
