//! How much of what arrives is read: port 5353 is open to everybody on the link.
//!
//! Each sender has an allowance of datagrams, and all of them together have one. Senders can be
//! made up, so the second is what bounds the work; the first lets honest neighbours through while one
//! host floods the link.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// A number of things that may happen a second, and at once after a pause.
#[derive(Clone, Copy, Debug)]
pub(super) struct RateAllowance {
    per_second: u32,
    /// When it will be whole again. That is all there is to keep: what is left follows from it.
    whole: Instant,
    burst: Duration,
}

impl RateAllowance {
    /// A whole one.
    pub(super) fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        Self {
            per_second,
            whole: now,
            burst: Duration::from_secs(1) * burst / per_second,
        }
    }

    /// Takes one; false when none is left.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        if !self.has(now) {
            return false;
        }
        self.whole = self.whole.max(now) + Duration::from_secs(1) / self.per_second;
        true
    }

    /// True when there is one left.
    pub(super) fn has(&self, now: Instant) -> bool {
        let used = self.whole.saturating_duration_since(now);
        used + Duration::from_secs(1) / self.per_second <= self.burst
    }
}

/// Datagrams of one sender: a host with fifty nodes, all started at once, stays below.
const SENDER_RATE: u32 = 200;
const SENDER_BURST: u32 = 400;

/// Datagrams of all senders. The worst of them takes about 20 microseconds, so this is about 2 % of
/// one core.
const RATE: u32 = 1000;
const BURST: u32 = 1000;

/// Senders that are told apart. Beyond them, the one that was quiet for the longest is forgotten.
const MAX_SENDERS: usize = 256;

/// Decides which datagrams are read.
#[derive(Debug)]
pub(super) struct DatagramIntake {
    all: RateAllowance,
    senders: HashMap<IpAddr, RateAllowance>,
}

impl DatagramIntake {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            all: RateAllowance::new(RATE, BURST, now),
            senders: HashMap::new(),
        }
    }

    /// True when a datagram of `sender` is to be read.
    pub(super) fn admits(&mut self, sender: IpAddr, now: Instant) -> bool {
        if !self.all.has(now) {
            return false;
        }
        if !self.senders.contains_key(&sender) && self.senders.len() >= MAX_SENDERS {
            let quietest = self
                .senders
                .iter()
                .min_by_key(|(_, allowance)| allowance.whole);
            if let Some(quietest) = quietest.map(|(sender, _)| *sender) {
                self.senders.remove(&quietest);
            }
        }
        let fresh = || RateAllowance::new(SENDER_RATE, SENDER_BURST, now);
        self.senders.entry(sender).or_insert_with(fresh).take(now) && self.all.take(now)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ip(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(0x0a00_0000 + number).into()
    }

    /// How many of `count` datagrams, spread evenly over one second from `start`, are read.
    fn read(
        intake: &mut DatagramIntake,
        count: u32,
        start: Instant,
        sender: impl Fn(u32) -> IpAddr,
    ) -> u32 {
        let read = (0..count).filter(|n| intake.admits(sender(*n), start + SECOND * *n / count));
        read.count() as u32
    }

    #[test]
    fn one_sender_cannot_use_up_what_all_have() {
        let start = Instant::now();
        let mut intake = DatagramIntake::new(start);
        assert!(read(&mut intake, 50_000, start, |_| ip(1)) <= SENDER_BURST + SENDER_RATE);
        for second in 1..10 {
            let now = start + SECOND * second;
            let flood = read(&mut intake, 10_000, now, |_| ip(1));
            assert!((150..=SENDER_RATE + 1).contains(&flood), "{flood}");
            assert!(intake.admits(ip(2), now + SECOND), "an honest sender");
        }
    }

    #[test]
    fn made_up_senders_share_one_allowance() {
        let start = Instant::now();
        let mut intake = DatagramIntake::new(start);
        let flood = read(&mut intake, 50_000, start, ip);
        assert!(flood <= BURST + RATE, "{flood}");
        let flood = read(&mut intake, 50_000, start + SECOND, |n| ip(100_000 + n));
        assert!((900..=RATE + 1).contains(&flood), "{flood}");
        assert!(intake.senders.len() <= MAX_SENDERS);
    }
}
