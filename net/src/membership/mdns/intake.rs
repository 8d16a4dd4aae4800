//! Limits how much of the incoming traffic is read: port 5353 is open to everybody on the link.
//!
//! Each sender has an allowance of datagrams, and so have all of them together. Sender addresses
//! can be forged, so the second bounds the work; the first lets honest neighbours through while one
//! host floods the link.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

use crate::fairness::{Refill, TokenBucket};

/// The allowance of one sender: a host with fifty nodes, all started at once, stays below it.
const OF_SENDER: Refill = Refill {
    burst: 400,
    per_second: 200,
};

/// The allowance of all senders. The worst datagram takes about 20 microseconds, so this amounts to
/// about 2 % of one core.
const OF_ALL: Refill = Refill {
    burst: 1000,
    per_second: 1000,
};

/// The number of senders that are distinguished. Beyond it, the one quiet the longest is forgotten.
const MAX_SENDERS: usize = 256;

/// Decides which datagrams are read.
#[derive(Debug)]
pub(super) struct DatagramIntake {
    all: TokenBucket,
    senders: HashMap<IpAddr, TokenBucket>,
}

impl DatagramIntake {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            all: TokenBucket::new(OF_ALL, now),
            senders: HashMap::new(),
        }
    }

    /// Returns true when a datagram from `sender` should be read.
    pub(super) fn admits(&mut self, sender: IpAddr, now: Instant) -> bool {
        if !self.all.wait(now).is_zero() {
            return false;
        }
        if !self.senders.contains_key(&sender) && self.senders.len() >= MAX_SENDERS {
            let quietest = self
                .senders
                .iter()
                .min_by_key(|(_, bucket)| bucket.full_at());
            if let Some(quietest) = quietest.map(|(sender, _)| *sender) {
                self.senders.remove(&quietest);
            }
        }
        let fresh = || TokenBucket::new(OF_SENDER, now);
        self.senders
            .entry(sender)
            .or_insert_with(fresh)
            .take(now)
            .is_ok()
            && self.all.take(now).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ip(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(0x0a00_0000 + number).into()
    }

    /// Returns how many of `count` datagrams, spread evenly over one second from `start`, are read.
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
        assert!(
            read(&mut intake, 50_000, start, |_| ip(1)) <= OF_SENDER.burst + OF_SENDER.per_second
        );
        for second in 1..10 {
            let now = start + SECOND * second;
            let flood = read(&mut intake, 10_000, now, |_| ip(1));
            assert!((150..=OF_SENDER.per_second + 1).contains(&flood), "{flood}");
            assert!(intake.admits(ip(2), now + SECOND), "an honest sender");
        }
    }

    #[test]
    fn made_up_senders_share_one_allowance() {
        let start = Instant::now();
        let mut intake = DatagramIntake::new(start);
        let flood = read(&mut intake, 50_000, start, ip);
        assert!(flood <= OF_ALL.burst + OF_ALL.per_second, "{flood}");
        let flood = read(&mut intake, 50_000, start + SECOND, |n| ip(100_000 + n));
        assert!((900..=OF_ALL.per_second + 1).contains(&flood), "{flood}");
        assert!(intake.senders.len() <= MAX_SENDERS);
    }
}
