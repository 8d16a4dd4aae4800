//! Limits on what strangers may try here.
//!
//! Callers with an unknown key share one count of failures `F`, which decays by one an hour. Below
//! 3 they are let in at once, 8 at a time. From 3 on they are let in one at a time, with a gap of
//! `min(600, 2^(F-3))` seconds after the last failure. So a guesser gets ten or so tries, and then
//! one every ten minutes, from however many addresses. Each source address also has its own limit,
//! so that one of them cannot use up the whole allowance at once.
//!
//! Each key that proved the password in the last 48 hours has its own bucket. So a flood of
//! strangers does not keep members out, even when they renew an expired admission, and a stolen key
//! gives no free guesses. Keys remembered from before this process began share one such bucket:
//! somebody who knew another password of this state directory may have had any number of keys
//! remembered. All of them together get no more guesses than one known key.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::RecentFailures;
use crate::fairness::SourceNetwork;
use crate::model::PeerId;

/// From this many failures on, runs with unknown keys are let in one at a time,
/// at growing intervals.
const ESCALATE_AT: u32 = 3;
/// The most runs with unknown keys in flight below that.
const MAX_IN_FLIGHT: u32 = 8;
/// The longest gap between two runs with unknown keys.
const MAX_GAP: Duration = Duration::from_secs(600);
/// More failures than this are not counted: the gap has long reached its maximum, and once a
/// guesser gives up, newcomers are let in as before within a day.
const MAX_FAILURES: u32 = 24;
/// The time after which one failure is forgotten.
const DECAY: Duration = Duration::from_secs(3600);
/// The most failures of one source address within [`SOURCE_WINDOW`].
const SOURCE_LIMIT: usize = 5;
const SOURCE_WINDOW: Duration = Duration::from_secs(600);
/// The most failures and runs in flight of one known key within [`KNOWN_WINDOW`].
const KNOWN_LIMIT: usize = 10;
const KNOWN_WINDOW: Duration = Duration::from_secs(3600);
/// The log reports at most this often that guesses are being slowed down.
const REPORT_INTERVAL: Duration = Duration::from_secs(3600);

/// Why a run may not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuessRefusal {
    /// The limit of runs under way is reached; there is room as soon as one ends.
    Full,
    /// There were too many failures; come back after this time.
    Later(Duration),
}

/// How a caller's key is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallerStanding {
    /// It recently proved the password to this process.
    Known,
    /// It recently proved a password, perhaps another one, to a process with this state directory.
    Remembered,
    /// It recently proved no password here.
    Unknown,
}

/// A run under way. Hand it back to [`Inbound::end`].
#[derive(Debug)]
#[must_use = "a run that is not ended stays in flight for ever"]
pub struct InboundRun {
    bucket: Bucket,
    began: Instant,
}

#[derive(Debug)]
enum Bucket {
    Known(PeerId),
    Remembered,
    Unknown(SourceNetwork),
}

/// The failures and runs under way of one known key, or of all remembered keys together.
#[derive(Debug, Default)]
struct KeyRecord {
    in_flight: usize,
    failures: RecentFailures,
}

impl KeyRecord {
    /// Returns how long it has to wait because of its failures alone.
    fn wait(&mut self, now: Instant) -> Duration {
        self.failures.wait(KNOWN_LIMIT, KNOWN_WINDOW, now)
    }

    fn begin(&mut self, now: Instant) -> Result<(), GuessRefusal> {
        let wait = self.wait(now);
        if !wait.is_zero() {
            return Err(GuessRefusal::Later(wait));
        }
        if self.failures.count(KNOWN_WINDOW, now) + self.in_flight >= KNOWN_LIMIT {
            return Err(GuessRefusal::Full);
        }
        self.in_flight += 1;
        Ok(())
    }

    fn end(&mut self, proved: bool, now: Instant) {
        self.in_flight -= 1;
        if !proved {
            self.failures.push(now);
        }
    }
}

/// The failures of all keys that have not proved the password, in all nodes of a state directory.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct StrangerFailures {
    pub(super) count: u32,
    /// Since when the next failure has been decaying; `None` when there is none.
    pub(super) decayed_at: Option<Instant>,
    pub(super) last_began: Option<Instant>,
}

impl StrangerFailures {
    /// Creates a count of `count` failures, all of them now.
    pub(super) fn of_now(count: u32, now: Instant) -> Self {
        Self {
            count,
            decayed_at: (count > 0).then_some(now),
            last_began: (count > 0).then_some(now),
        }
    }

    /// Creates the count for when the true one is unknown: just enough to slow strangers down.
    pub(super) fn unknown(now: Instant) -> Self {
        Self::of_now(ESCALATE_AT, now)
    }

    /// Counts one more failure, of a run that `began` at the given time.
    pub fn add(&mut self, began: Instant, now: Instant) {
        self.decay(now);
        self.count = self.count.saturating_add(1).min(MAX_FAILURES);
        self.decayed_at.get_or_insert(now);
        self.last_began = self.last_began.max(Some(began));
    }

    pub(super) fn decay(&mut self, now: Instant) {
        self.count = self.count.min(MAX_FAILURES);
        while let Some(since) = self.decayed_at
            && now.saturating_duration_since(since) >= DECAY
        {
            self.count = self.count.saturating_sub(1);
            self.decayed_at = (self.count > 0).then_some(since + DECAY);
        }
    }
}

/// Tracks how often callers have guessed, and decides who may guess now.
#[derive(Debug, Default)]
pub struct Inbound {
    strangers: StrangerFailures,
    in_flight: u32,
    sources: HashMap<SourceNetwork, RecentFailures>,
    known: HashMap<PeerId, KeyRecord>,
    remembered: KeyRecord,
    reported_at: Option<Instant>,
}

impl Inbound {
    /// Adopts what all nodes of the state directory know, where that is more than this one knows.
    pub fn learn(&mut self, all: StrangerFailures, now: Instant) {
        let mut all = all;
        all.decay(now);
        self.strangers.decay(now);
        if all.count > self.strangers.count {
            (self.strangers.count, self.strangers.decayed_at) = (all.count, all.decayed_at);
        }
        self.strangers.last_began = self.strangers.last_began.max(all.last_began);
    }

    /// Charges a run to `caller`, who dials from `source`.
    pub fn begin(
        &mut self,
        caller: PeerId,
        standing: CallerStanding,
        source: IpAddr,
        now: Instant,
    ) -> Result<InboundRun, GuessRefusal> {
        let bucket = match standing {
            CallerStanding::Known => {
                self.known.entry(caller).or_default().begin(now)?;
                Bucket::Known(caller)
            }
            CallerStanding::Remembered if self.remembered.wait(now).is_zero() => {
                self.remembered.begin(now)?;
                Bucket::Remembered
            }
            CallerStanding::Remembered | CallerStanding::Unknown => {
                self.begin_unknown(SourceNetwork::of(source), now)?
            }
        };
        Ok(InboundRun { bucket, began: now })
    }

    fn begin_unknown(
        &mut self,
        source: SourceNetwork,
        now: Instant,
    ) -> Result<Bucket, GuessRefusal> {
        self.strangers.decay(now);
        let by_source = self
            .sources
            .get_mut(&source)
            .map_or(Duration::ZERO, |s| s.wait(SOURCE_LIMIT, SOURCE_WINDOW, now));
        let by_gap = self.strangers.last_began.map_or(Duration::ZERO, |began| {
            (began + gap(self.strangers.count)).saturating_duration_since(now)
        });
        let wait = by_source.max(by_gap);
        if !wait.is_zero() {
            return Err(GuessRefusal::Later(wait));
        }
        let room = if self.strangers.count < ESCALATE_AT {
            MAX_IN_FLIGHT
        } else {
            1
        };
        if self.in_flight >= room {
            return Err(GuessRefusal::Full);
        }
        self.in_flight += 1;
        Ok(Bucket::Unknown(source))
    }

    /// Settles a run: as a success when the caller `proved` the password, else as a failure. For a
    /// failed run of a stranger, returns when it began, for [`StrangerFailures::add`].
    pub fn end(&mut self, run: InboundRun, proved: bool, now: Instant) -> Option<Instant> {
        match run.bucket {
            Bucket::Known(caller) => {
                self.known.entry(caller).or_default().end(proved, now);
                self.known
                    .retain(|_, k| k.in_flight > 0 || k.failures.count(KNOWN_WINDOW, now) > 0);
            }
            Bucket::Remembered => self.remembered.end(proved, now),
            Bucket::Unknown(source) => {
                self.in_flight -= 1;
                if !proved {
                    self.fail_unknown(source, run.began, now);
                    return Some(run.began);
                }
            }
        }
        None
    }

    fn fail_unknown(&mut self, source: SourceNetwork, began: Instant, now: Instant) {
        self.strangers.add(began, now);
        // The gap bounds how many sources can have failed recently, so this table stays small.
        self.sources
            .retain(|_, failures| failures.count(SOURCE_WINDOW, now) > 0);
        self.sources.entry(source).or_default().push(now);
    }

    /// Returns how many failures of unknown keys have not decayed yet.
    pub fn failures(&mut self, now: Instant) -> u32 {
        self.strangers.decay(now);
        self.strangers.count
    }

    /// Returns the present gap for the log, when it is growing and was not reported within
    /// the last hour.
    pub fn report(&mut self, now: Instant) -> Option<Duration> {
        let due = self
            .reported_at
            .is_none_or(|at| now.saturating_duration_since(at) >= REPORT_INTERVAL);
        if !due || self.failures(now) < ESCALATE_AT {
            return None;
        }
        self.reported_at = Some(now);
        Some(gap(self.strangers.count))
    }
}

/// Returns the minimum time from one failed run with an unknown key to the next.
fn gap(failures: u32) -> Duration {
    match failures.checked_sub(ESCALATE_AT) {
        None => Duration::ZERO,
        Some(over) => Duration::from_secs(1 << over.min(10)).min(MAX_GAP),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn key(number: u8) -> PeerId {
        PeerId::from_bytes([number; 32])
    }

    /// Returns an address in a different /32 for each number.
    fn source(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(0x0a00_0000 + number).into()
    }

    fn stranger(table: &mut Inbound, from: u32, now: Instant) -> Result<InboundRun, GuessRefusal> {
        table.begin(key(1), CallerStanding::Unknown, source(from), now)
    }

    /// Creates a table in which `failures` strangers, each from its own address, have just failed.
    fn after(failures: u32, now: Instant) -> Inbound {
        let mut table = Inbound::default();
        let runs: Vec<_> = (0..failures)
            .map(|_| InboundRun {
                bucket: Bucket::Unknown(SourceNetwork::of(source(1000))),
                began: now,
            })
            .collect();
        table.in_flight = failures;
        for (number, mut run) in (0..).zip(runs) {
            run.bucket = Bucket::Unknown(SourceNetwork::of(source(1000 + number)));
            table.end(run, false, now);
        }
        table
    }

    #[test]
    fn gap_grows_from_a_second_to_ten_minutes() {
        let seconds: Vec<u64> = (0..15).map(|f| gap(f).as_secs()).collect();
        let table = [0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600];
        assert_eq!(seconds, table);
        assert_eq!(gap(u32::MAX), MAX_GAP);
    }

    #[test]
    fn next_stranger_waits_for_the_gap_only() {
        let now = Instant::now();
        for failures in 0..16 {
            let mut table = after(failures, now);
            let gap = gap(failures);
            if !gap.is_zero() {
                let early = now + gap - SECOND;
                assert_eq!(
                    stranger(&mut table, 1, early).unwrap_err(),
                    GuessRefusal::Later(SECOND)
                );
            }
            assert!(stranger(&mut table, 1, now + gap).is_ok(), "F = {failures}");
        }
    }

    #[test]
    fn one_failure_is_forgotten_an_hour() {
        let now = Instant::now();
        let mut table = after(5, now);
        assert_eq!(table.failures(now + DECAY - SECOND), 5);
        assert_eq!(table.failures(now + DECAY), 4);
        assert_eq!(table.failures(now + 3 * DECAY), 2);
        assert!(stranger(&mut table, 1, now + 3 * DECAY).is_ok());
        assert_eq!(table.failures(now + 100 * DECAY), 0);
    }

    #[test]
    fn parallel_runs_cannot_outrun_the_count() {
        let now = Instant::now();
        let mut table = Inbound::default();
        let runs: Vec<_> = (0..100)
            .filter_map(|from| stranger(&mut table, from, now).ok())
            .collect();
        assert_eq!(runs.len(), 8);
        assert_eq!(
            stranger(&mut table, 200, now).unwrap_err(),
            GuessRefusal::Full
        );
        for run in runs {
            table.end(run, false, now);
        }
        assert_eq!(table.failures(now), 8);
        assert!(matches!(
            stranger(&mut table, 200, now),
            Err(GuessRefusal::Later(_))
        ));
    }

    #[test]
    fn escalated_strangers_come_one_at_a_time() {
        let now = Instant::now();
        let mut table = after(3, now);
        let later = now + Duration::from_secs(10);
        let run = stranger(&mut table, 1, later).unwrap();
        assert_eq!(
            stranger(&mut table, 2, later).unwrap_err(),
            GuessRefusal::Full
        );
        table.end(run, true, later);
        assert!(stranger(&mut table, 2, later).is_ok());
    }

    #[test]
    fn success_leaves_no_trace() {
        let now = Instant::now();
        let mut table = Inbound::default();
        for _ in 0..100 {
            let runs: Vec<_> = (0..8)
                .map(|_| stranger(&mut table, 1, now).unwrap())
                .collect();
            for run in runs {
                table.end(run, true, now);
            }
        }
        assert_eq!(table.failures(now), 0);
        assert!(table.sources.is_empty());
    }

    #[test]
    fn source_has_five_failures_in_ten_minutes() {
        let mut now = Instant::now();
        let start = now;
        let mut table = Inbound::default();
        for _ in 0..5 {
            let run = stranger(&mut table, 1, now).unwrap();
            table.end(run, false, now);
            now += Duration::from_secs(10);
        }
        let Err(GuessRefusal::Later(wait)) = stranger(&mut table, 1, now) else {
            panic!("a sixth guess from one source");
        };
        assert_eq!(now + wait, start + SOURCE_WINDOW);
        assert!(stranger(&mut table, 2, now).is_ok());
    }

    #[test]
    fn flood_of_strangers_keeps_no_member_out() {
        let now = Instant::now();
        let mut table = after(100, now);
        assert!(stranger(&mut table, 1, now).is_err());
        let member = table
            .begin(key(7), CallerStanding::Known, source(1000), now)
            .unwrap();
        table.end(member, true, now);
    }

    #[test]
    fn known_key_has_ten_guesses_an_hour() {
        let now = Instant::now();
        let mut table = Inbound::default();
        let member =
            |table: &mut Inbound, now| table.begin(key(7), CallerStanding::Known, source(1), now);
        let runs: Vec<_> = (0..100)
            .filter_map(|_| member(&mut table, now).ok())
            .collect();
        assert_eq!(runs.len(), 10);
        assert_eq!(member(&mut table, now).unwrap_err(), GuessRefusal::Full);
        for run in runs {
            table.end(run, false, now);
        }
        assert_eq!(
            member(&mut table, now).unwrap_err(),
            GuessRefusal::Later(KNOWN_WINDOW)
        );
        // Neither other members nor strangers pay for it.
        assert!(
            table
                .begin(key(8), CallerStanding::Known, source(1), now)
                .is_ok()
        );
        assert_eq!(table.failures(now), 0);
        let run = member(&mut table, now + KNOWN_WINDOW).unwrap();
        table.end(run, true, now + KNOWN_WINDOW);
        assert!(!table.known.contains_key(&key(7)));
    }

    #[test]
    fn guesser_gets_the_published_tries() {
        let start = Instant::now();
        let mut table = Inbound::default();
        let mut guesses = [0; 3];
        let mut now = start;
        let mut from = 0;
        while now < start + 72 * DECAY {
            from += 1;
            match stranger(&mut table, from, now) {
                Ok(run) => {
                    let day = now.duration_since(start).as_secs() / 86400;
                    guesses[day as usize] += 1;
                    table.end(run, false, now);
                }
                Err(GuessRefusal::Later(wait)) => now += wait,
                Err(GuessRefusal::Full) => unreachable!("runs end at once"),
            }
        }
        assert!(guesses[0] <= 156, "{guesses:?}");
        assert!(guesses[1..].iter().all(|day| *day <= 144), "{guesses:?}");
        // The table of sources does not grow with the attack.
        assert!(table.sources.len() < 20);
    }

    #[test]
    fn escalation_is_reported_once_an_hour() {
        let now = Instant::now();
        assert_eq!(after(2, now).report(now), None);
        let mut table = after(12, now);
        assert_eq!(table.report(now), Some(Duration::from_secs(512)));
        assert_eq!(table.report(now + DECAY - SECOND), None);
        assert!(table.report(now + DECAY).is_some());
    }

    #[test]
    fn a_restart_forgets_no_failures() {
        let now = Instant::now();
        let mut all = StrangerFailures::default();
        for _ in 0..13 {
            all.add(now, now);
        }
        let mut table = Inbound::default();
        table.learn(all, now);
        assert_eq!(table.failures(now), 13);
        let wait = stranger(&mut table, 1, now).unwrap_err();
        assert_eq!(wait, GuessRefusal::Later(MAX_GAP));
        // What this node itself knows is not deducted from its count.
        table.learn(StrangerFailures::default(), now);
        assert_eq!(table.failures(now), 13);
    }

    #[test]
    fn remembered_keys_share_ten_guesses() {
        let now = Instant::now();
        let mut table = after(13, now);
        let begin = |table: &mut Inbound, n, now| {
            table.begin(key(n), CallerStanding::Remembered, source(1), now)
        };
        for round in 0..3 {
            let runs: Vec<_> = (0..100)
                .filter_map(|n| begin(&mut table, n, now).ok())
                .collect();
            assert_eq!(runs.len(), KNOWN_LIMIT, "round {round}");
            assert_eq!(begin(&mut table, 1, now).unwrap_err(), GuessRefusal::Full);
            for run in runs {
                assert_eq!(table.end(run, round < 2, now), None);
            }
        }
        // Now they are like strangers.
        assert!(matches!(
            begin(&mut table, 1, now),
            Err(GuessRefusal::Later(_))
        ));
        let later = begin(&mut table, 1, now + KNOWN_WINDOW).unwrap();
        assert!(matches!(later.bucket, Bucket::Remembered));
        table.end(later, true, now + KNOWN_WINDOW);
    }

    #[test]
    fn a_long_attack_is_forgotten_within_a_day() {
        let now = Instant::now();
        let mut table = after(1000, now);
        assert_eq!(gap(table.failures(now)), MAX_GAP);
        assert_eq!(table.failures(now + 24 * DECAY), 0);
    }
}
