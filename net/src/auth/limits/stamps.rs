//! The encoding of the record of guesses, and of its times across restarts of process and machine.
//!
//! Within one run of the machine, times come from its clock since boot, which nobody can set and
//! which keeps running during sleep. Across a reboot there is only the calendar: the time since the
//! record was written is the difference of the calendar times, or zero if that is negative. A time
//! in the future counts as now. So setting the clock back can at most make the recorded times last
//! for their usual duration once more, and no clock makes them last longer.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use sha2::{Digest, Sha256};

use super::outbound::{BUDGET, SpentGuesses};
use super::{Guesses, StrangerFailures};

/// The length of a record. It never changes, so a record can be overwritten in place and needs no
/// more space when a disk is full.
pub(super) const LENGTH: usize = 1024;

const MAGIC: &[u8; 16] = b"tinyp2p guess 1\n";
const CHECKSUM: usize = 32;

/// The most runs under way in a record; there are never more than the budget allows.
const MAX_UNDER_WAY: usize = BUDGET;

/// Readings of all clocks, taken at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clocks {
    /// The clock of this process.
    pub(super) now: Instant,
    /// The time since the machine started, including sleep, in milliseconds.
    pub(super) since_boot: i64,
    /// The time since 1970, in milliseconds.
    pub(super) calendar: i64,
    /// Differs from one run of the machine to the next.
    pub(super) boot: [u8; 16],
}

impl Clocks {
    /// Returns the stamp to write for `at`.
    pub(super) fn stamp(&self, at: Instant) -> i64 {
        let age = self.now.saturating_duration_since(at).as_millis();
        self.since_boot - i64::try_from(age).unwrap_or(i64::MAX / 2)
    }

    pub(super) fn read() -> Self {
        let milliseconds = |clock| {
            let time = clock_gettime(clock);
            time.tv_sec.saturating_mul(1000) + time.tv_nsec / 1_000_000
        };
        Self {
            now: Instant::now(),
            since_boot: milliseconds(ClockId::Boottime),
            calendar: milliseconds(ClockId::Realtime),
            boot: boot_id(),
        }
    }
}

/// Returns a digest of the kernel's boot ID. Where that cannot be read, all runs of the machine
/// look alike, and a reboot sets the clock back.
fn boot_id() -> [u8; 16] {
    let text = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digest: [u8; 32] = Sha256::digest(text).into();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    id
}

/// When a record was written, by the clocks then and now.
pub(super) struct Stamps {
    written: i64,
    since_written: i64,
}

impl Stamps {
    pub(super) fn write(writer: &mut StampWriter, clocks: &Clocks) {
        writer.0.extend(clocks.boot);
        writer.number(clocks.since_boot);
        writer.number(clocks.calendar);
    }

    pub(super) fn read(reader: &mut StampReader<'_>, clocks: &Clocks) -> Option<Self> {
        let (boot, rest) = reader.0.split_first_chunk::<16>()?;
        reader.0 = rest;
        let (written, calendar) = (reader.number()?, reader.number()?);
        let since_written = if *boot == clocks.boot {
            clocks.since_boot.saturating_sub(written)
        } else {
            clocks.calendar.saturating_sub(calendar)
        };
        Some(Self {
            written,
            since_written,
        })
    }

    /// Returns the time of `stamp`; `None` if it is earlier than this machine can represent.
    pub(super) fn time(&self, stamp: i64, clocks: &Clocks) -> Option<Instant> {
        let age = self.written.saturating_sub(stamp).max(0);
        let age = age.saturating_add(self.since_written.max(0));
        let age = Duration::from_millis(age.unsigned_abs());
        clocks.now.checked_sub(age)
    }
}

/// Encodes a record into bytes.
pub(super) fn encode(guesses: &Guesses, clocks: &Clocks) -> [u8; LENGTH] {
    let stamp = |at: Instant| clocks.stamp(at);
    let optional = |at: Option<Instant>| at.map_or(i64::MIN, stamp);
    let mut writer = StampWriter(Vec::with_capacity(LENGTH));
    writer.0.extend(MAGIC);
    Stamps::write(&mut writer, clocks);
    let inbound = &guesses.inbound;
    writer.number(inbound.count.into());
    writer.number(optional(inbound.decayed_at));
    writer.number(optional(inbound.last_began));
    let SpentGuesses {
        failures,
        under_way,
        ..
    } = &guesses.outbound;
    for (list, max) in [(failures, BUDGET), (under_way, MAX_UNDER_WAY)] {
        let kept = &list[list.len().saturating_sub(max)..];
        writer.number(kept.len() as i64);
        for (at, number) in kept {
            writer.number(stamp(*at));
            writer.number(*number as i64);
        }
    }
    let mut record = [0; LENGTH];
    record[..writer.0.len()].copy_from_slice(&writer.0);
    let (body, checksum) = record.split_at_mut(LENGTH - CHECKSUM);
    checksum.copy_from_slice(&Sha256::digest(body));
    record
}

/// Decodes a record; `None` when it is damaged.
pub(super) fn decode(record: &[u8], clocks: &Clocks) -> Option<Guesses> {
    let record: &[u8; LENGTH] = record.try_into().ok()?;
    let (body, checksum) = record.split_at(LENGTH - CHECKSUM);
    if *checksum != *Sha256::digest(body) {
        return None;
    }
    let mut reader = StampReader(body.strip_prefix(MAGIC)?);
    let stamps = Stamps::read(&mut reader, clocks)?;
    let time = |stamp: i64| stamps.time(stamp, clocks);
    let optional = |stamp: i64| (stamp != i64::MIN).then(|| time(stamp))?;
    let inbound = StrangerFailures {
        count: u32::try_from(reader.number()?).ok()?,
        decayed_at: optional(reader.number()?),
        last_began: optional(reader.number()?),
    };
    let mut list = |max: usize| {
        let count = usize::try_from(reader.number()?).ok()?;
        let mut list = Vec::new();
        for _ in 0..Some(count).filter(|count| *count <= max)? {
            let (stamp, number) = (reader.number()?, reader.number()?);
            list.extend(time(stamp).map(|at| (at, number as u64)));
        }
        Some(list)
    };
    let mut outbound = SpentGuesses {
        failures: list(BUDGET)?,
        under_way: list(MAX_UNDER_WAY)?,
        ..SpentGuesses::default()
    };
    outbound.expire(clocks.now);
    // Without a decay time, the failures are older than this machine can represent.
    let mut inbound = if inbound.decayed_at.is_some() {
        inbound
    } else {
        StrangerFailures::default()
    };
    inbound.decay(clocks.now);
    Some(Guesses { inbound, outbound })
}

pub(super) struct StampWriter(pub(super) Vec<u8>);

impl StampWriter {
    pub(super) fn number(&mut self, number: i64) {
        self.0.extend(number.to_le_bytes());
    }
}

pub(super) struct StampReader<'a>(pub(super) &'a [u8]);

impl StampReader<'_> {
    pub(super) fn number(&mut self) -> Option<i64> {
        let (number, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(i64::from_le_bytes(*number))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: i64 = 3_600_000;

    fn clocks() -> Clocks {
        Clocks {
            // Far enough after the start of the machine for all tests here.
            now: Instant::now() + Duration::from_secs(1_000_000),
            since_boot: 1000 * HOUR,
            calendar: 500_000 * HOUR,
            boot: [1; 16],
        }
    }

    /// Returns the clocks after `real` milliseconds, with the calendar moved by `jump`.
    fn later(clocks: &Clocks, real: i64, jump: i64) -> Clocks {
        Clocks {
            now: clocks.now + Duration::from_millis(real.unsigned_abs()),
            since_boot: clocks.since_boot + real,
            calendar: clocks.calendar + real + jump,
            ..*clocks
        }
    }

    /// Returns the clocks of the same machine after a reboot.
    fn rebooted(clocks: Clocks) -> Clocks {
        Clocks {
            since_boot: HOUR / 60,
            boot: [2; 16],
            ..clocks
        }
    }

    fn spent(clocks: &Clocks) -> Guesses {
        let mut guesses = Guesses::default();
        guesses.outbound.failures = vec![(clocks.now, 7); BUDGET];
        guesses.outbound.under_way = vec![(clocks.now, 9)];
        guesses.inbound = StrangerFailures::of_now(10, clocks.now);
        guesses
    }

    fn left(guesses: &Guesses) -> (usize, u32) {
        (guesses.outbound.failures.len(), guesses.inbound.count)
    }

    #[test]
    fn a_record_is_read_back() {
        let clocks = clocks();
        for guesses in [
            Guesses::default(),
            spent(&clocks),
            Guesses::lost(clocks.now),
        ] {
            let record = encode(&guesses, &clocks);
            assert_eq!(decode(&record, &clocks), Some(guesses));
        }
    }

    #[test]
    fn time_passes_between_two_processes() {
        let start = clocks();
        let record = encode(&spent(&start), &start);
        let read = |hours: i64| left(&decode(&record, &later(&start, hours * HOUR, 0)).unwrap());
        assert_eq!(read(3), (BUDGET, 7));
        assert_eq!(read(23), (BUDGET, 0));
        assert_eq!(read(24), (0, 0));
    }

    #[test]
    fn calendar_counts_only_after_a_reboot() {
        let start = clocks();
        let record = encode(&spent(&start), &start);
        let read = |clocks: Clocks| left(&decode(&record, &clocks).unwrap());
        for jump in [-400_000 * HOUR, 400_000 * HOUR] {
            assert_eq!(read(later(&start, HOUR, jump)), (BUDGET, 9), "no refill");
            assert_eq!(read(later(&start, 24 * HOUR, jump)), (0, 0), "no lock");
        }
        assert_eq!(read(rebooted(later(&start, 3 * HOUR, 0))), (BUDGET, 7));
        assert_eq!(read(rebooted(later(&start, 24 * HOUR, 0))), (0, 0));
    }

    #[test]
    fn clock_set_back_locks_nobody_out() {
        let start = clocks();
        let record = encode(&spent(&start), &start);
        let back = rebooted(later(&start, HOUR, -400_000 * HOUR));
        let guesses = decode(&record, &back).unwrap();
        assert_eq!(left(&guesses), (BUDGET, 10), "as if it were now");
        let record = encode(&guesses, &back);
        let read = decode(&record, &later(&back, 24 * HOUR, 0)).unwrap();
        assert_eq!(left(&read), (0, 0));
    }

    #[test]
    fn stamps_of_the_future_are_of_now() {
        let start = clocks();
        let mut guesses = spent(&start);
        guesses.outbound.failures[0].0 += Duration::from_secs(1 << 40);
        let record = encode(&guesses, &start);
        let read = decode(&record, &later(&start, 24 * HOUR, 0)).unwrap();
        assert_eq!(left(&read), (0, 0));
    }

    proptest! {
        #[test]
        fn no_damage_is_read(at in 0..LENGTH, bit in 0..8) {
            let clocks = clocks();
            let mut record = encode(&spent(&clocks), &clocks);
            record[at] ^= 1u8 << bit;
            prop_assert_eq!(decode(&record, &clocks), None);
            prop_assert_eq!(decode(&record[..at], &clocks), None);
        }

        #[test]
        fn numbers_without_sense_do_no_harm(numbers in proptest::collection::vec(any::<i64>(), 90)) {
            let clocks = clocks();
            let mut record = [0; LENGTH];
            record[..16].copy_from_slice(MAGIC);
            record[16..32].copy_from_slice(&clocks.boot);
            for (place, number) in record[32..].chunks_exact_mut(8).zip(numbers) {
                place.copy_from_slice(&number.to_le_bytes());
            }
            let (body, checksum) = record.split_at_mut(LENGTH - CHECKSUM);
            checksum.copy_from_slice(&Sha256::digest(body));
            let _ = decode(&record, &clocks);
        }
    }
}
