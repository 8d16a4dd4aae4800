//! The waiting reads of one file, what is fetched for them, and what happens to them when a
//! holder fails. Pure.

use std::time::{Duration, Instant};

use super::content::ExpectedContent;
use super::holder::Delivery;
use super::pieces::{Claim, PIECE, Piece, Pieces};
use super::schedule::Schedule;
use super::window::Window;
use super::{ReadCallback, deliver};
use crate::error::Error;
use crate::model::ByteRange;

/// No read waits longer than this, however much arrives for other reads.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// A holder that brings nothing for this long while a reader waits loses the claim to another one.
const OVERTAKE: Duration = Duration::from_secs(1);

/// The state of one download.
pub(super) struct ReadTable {
    pub(super) window: Window,
    pub(super) pieces: Pieces,
    pub(super) sources: Schedule,
    pub(super) parked: Vec<ParkedRead>,
    /// When bytes last arrived, or the oldest wait began.
    pub(super) progress: Instant,
    /// `received` at that time.
    pub(super) received: u64,
    pub(super) watched: bool,
    /// What `pieces` holds according to the last report to the core.
    pub(super) accounted: u64,
    pub(super) end: Option<ReadEnd>,
}

/// Why fetching has stopped.
#[derive(Clone)]
pub(super) enum ReadEnd {
    /// For good: no holder has the file any more.
    Lost(Error),
    /// For the moment.
    Until(Instant, Error),
    /// The reader has gone.
    Closed,
}

pub(super) struct ParkedRead {
    pub(super) since: Instant,
    pub(super) range: ByteRange,
    pub(super) done: ReadCallback,
}

/// Callbacks to make once the lock is released.
#[derive(Default)]
pub(super) struct Replies {
    pub(super) ready: Vec<(Vec<Piece>, ParkedRead)>,
    pub(super) failed: Vec<(ParkedRead, Error)>,
}

impl Replies {
    pub(super) fn send(self, expected: &ExpectedContent) {
        for (pieces, parked) in self.ready {
            deliver(&pieces, parked.range, expected, parked.done);
        }
        for (parked, error) in self.failed {
            (parked.done)(Err(error));
        }
    }
}

impl ReadTable {
    /// Claims what to fetch next, from the holder that should bring it, if any.
    pub(super) fn claim(&mut self, size: u64, now: Instant) -> Option<Claim> {
        let candidates = self.sources.candidates(now).into_iter();
        let mut claims = candidates.map(|source| self.claim_for(source, size, now));
        claims.find_map(|claim| claim)
    }

    /// Claims what `source` should fetch next, while it may.
    pub(super) fn claim_from(&mut self, source: usize, size: u64, now: Instant) -> Option<Claim> {
        let source = Some(source).filter(|source| self.sources.has_room(*source, now))?;
        self.claim_for(source, size, now)
    }

    pub(super) fn claim_for(&mut self, source: usize, size: u64, now: Instant) -> Option<Claim> {
        if matches!(self.end, Some(ReadEnd::Lost(_) | ReadEnd::Closed)) {
            return None;
        }
        let longest = self
            .sources
            .request_bytes(source, self.window.request_bytes());
        let longest = longest.next_multiple_of(PIECE);
        // Nobody waits for a source that may have nothing while others are known to have it.
        let urgent = self.parked.iter().map(|parked| parked.range);
        let urgent = urgent.filter(|_| !self.sources.is_trial(source, now));
        self.pieces.claim(
            (source, now),
            urgent,
            self.window.ahead(size),
            longest,
            size,
        )
    }

    pub(super) fn deliver(&mut self, source: usize, delivery: Delivery, now: Instant) {
        self.sources.delivered(source, delivery);
        let (streams, is_far) = self.sources.shape(now);
        self.window.tune(streams, is_far);
    }

    /// Returns why a read that needs the network fails without being parked.
    pub(super) fn refusal(&self, now: Instant) -> Option<Error> {
        match &self.end {
            Some(ReadEnd::Lost(error)) => Some(error.clone()),
            Some(ReadEnd::Until(until, error)) if now < *until => Some(error.clone()),
            Some(ReadEnd::Closed) => Some(closed()),
            _ => None,
        }
    }

    /// Moves every parked read whose bytes have all arrived to the replies.
    pub(super) fn answer(&mut self, replies: &mut Replies) {
        for parked in std::mem::take(&mut self.parked) {
            match self.pieces.covering(parked.range) {
                Some(pieces) => replies.ready.push((pieces, parked)),
                None => self.parked.push(parked),
            }
        }
    }

    pub(super) fn fail_parked(&mut self, error: &Error, replies: &mut Replies) {
        let parked = self.parked.drain(..);
        replies
            .failed
            .extend(parked.map(|parked| (parked, error.clone())));
    }

    /// Fails the reads that have waited too long.
    pub(super) fn fail_late(&mut self, now: Instant, error: &Error, replies: &mut Replies) {
        let late = |parked: &ParkedRead| now.saturating_duration_since(parked.since) >= MAX_WAIT;
        let late = self.parked.extract_if(.., |parked| late(parked));
        let failed = late.map(|parked| (parked, error.clone()));
        replies.failed.extend(failed);
    }

    /// Records that a holder failed. Readers fail with it only when no holder is left.
    pub(super) fn fail(
        &mut self,
        source: usize,
        error: &Error,
        now: Instant,
        replies: &mut Replies,
    ) {
        self.sources.failed(source, error, now);
        if let Some(error) = self.sources.all_lost() {
            self.fail_parked(&error, replies);
            self.end = Some(ReadEnd::Lost(error));
        }
    }

    /// Takes claims away from holders that stall while a reader waits and another could help.
    pub(super) fn overtake(&mut self, now: Instant) {
        let Some(since) = now.checked_sub(OVERTAKE) else {
            return;
        };
        let parked = &self.parked;
        let awaited = |range| parked.iter().any(|parked| overlap(range, parked.range));
        for claim in self.pieces.standing(since, awaited) {
            if self.sources.alternative(claim.source, now) {
                self.pieces.release(claim);
                self.sources.stalled(claim.source, now);
            }
        }
    }

    /// Drops pieces and claims that lie neither near the reader nor in a parked read.
    pub(super) fn drop_unwanted(&mut self) {
        let (keep, parked) = (self.window.keep(), &self.parked);
        let awaited = |range| parked.iter().any(|parked| overlap(range, parked.range));
        self.pieces
            .retain(|range| overlap(range, keep) || awaited(range));
    }
}

/// Returns the error for reads of a file that no reachable member has.
pub(super) fn nobody() -> Error {
    Error::unreachable("a holder of the file", "none is there")
}

/// Returns the error for reads whose reader has gone.
pub(super) fn closed() -> Error {
    Error::local("reading", "the file was closed")
}

fn overlap(a: ByteRange, b: ByteRange) -> bool {
    a.start < b.end && b.start < a.end
}
