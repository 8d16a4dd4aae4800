//! How far this node's records are announced on one channel, and which of them are still to
//! be sent there.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::records::{KINDS, Kinds};

/// The minimum time between two multicasts of one record, and of one being defended against a
/// probe (section 6).
pub(super) const GAP: Duration = Duration::from_secs(1);
pub(super) const DEFENCE_GAP: Duration = Duration::from_millis(250);

/// Small random numbers, good only for spreading packets in time (xorshift).
#[derive(Debug)]
pub(super) struct Jitter(u64);

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// Returns a duration from `low` up to `high` milliseconds.
    pub(super) fn between(&mut self, (low, high): (u64, u64)) -> Duration {
        Duration::from_millis(low + self.number() % (high - low))
    }

    pub(super) fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum AnnounceStage {
    /// With the number of probes sent.
    Probing(u8),
    /// With the number of announcements sent.
    Announcing(u8),
    Established,
}

/// An answer still to be sent.
#[derive(Debug)]
pub(super) struct PendingAnswer {
    pub(super) kinds: Kinds,
    pub(super) due: Instant,
    /// The asker whose further known answers are still to come.
    pub(super) truncated_by: Option<IpAddr>,
    pub(super) is_defence: bool,
}

/// The state of the records on one channel: a link and a version of IP.
#[derive(Debug)]
pub(super) struct RecordState {
    pub(super) stage: AnnounceStage,
    /// When the next probe or announcement is due; meaningless once established.
    pub(super) next: Instant,
    pub(super) ties: u8,
    pub(super) pending: Option<PendingAnswer>,
    pub(super) sent: [Option<Instant>; KINDS.len()],
}

impl RecordState {
    pub(super) fn restart(&mut self, at: Instant) {
        (self.stage, self.next, self.pending) = (AnnounceStage::Probing(0), at, None);
    }

    /// Returns when all of `kinds` may be multicast.
    pub(super) fn allowed(&self, kinds: Kinds, gap: Duration) -> Option<Instant> {
        let kinds = KINDS
            .iter()
            .zip(self.sent)
            .filter(|(kind, _)| kinds & **kind != 0);
        kinds.filter_map(|(_, sent)| Some(sent? + gap)).max()
    }

    /// Schedules `kinds` for `due`, or as soon as that is allowed.
    pub(super) fn want(&mut self, kinds: Kinds, due: Instant) -> &mut PendingAnswer {
        let pending = self.pending.get_or_insert(PendingAnswer {
            kinds: 0,
            due,
            truncated_by: None,
            is_defence: false,
        });
        pending.kinds |= kinds;
        pending
    }

    /// Returns when there is something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        let stage = (self.stage != AnnounceStage::Established).then_some(self.next);
        let pending = self.pending.as_ref().map(|pending| {
            let gap = if pending.is_defence { DEFENCE_GAP } else { GAP };
            let allowed = self.allowed(pending.kinds, gap);
            allowed.map_or(pending.due, |allowed| allowed.max(pending.due))
        });
        stage.into_iter().chain(pending).min()
    }
}
