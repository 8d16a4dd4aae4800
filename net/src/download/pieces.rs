//! The bytes of one file that are in memory, on their way, or missing. Pure.
//!
//! Every byte of the file is in exactly one of three states: *held* (in a [`Piece`]), *coming*
//! (requested by a stream), or neither. What to fetch next is derived from that and never stored,
//! so a stream that fails loses nothing: its bytes are simply in neither state again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::content::FileBytes;
use super::window::LEAF;
use crate::model::ByteRange;

/// Pieces end at multiples of this, which is the kernel's largest buffered read: most reads are
/// answered from one piece without a copy.
pub(crate) const PIECE: u64 = 128 * 1024;

/// Consecutive bytes of the file, shared with the replies that are sent from them.
pub(crate) type Piece = Arc<FileBytes>;

/// A stream's claim to bytes that nobody else should request in the meantime.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Claim {
    id: u64,
    /// The index of the holder that was asked.
    pub(crate) source: usize,
    /// When its last piece came, or when it was made.
    pub(crate) moved: Instant,
    /// What is still to come.
    pub(crate) range: ByteRange,
}

/// The state of every byte.
#[derive(Default)]
pub(crate) struct Pieces {
    held: BTreeMap<u64, Piece>,
    held_bytes: u64,
    coming: Vec<Claim>,
    claims: u64,
}

impl Pieces {
    /// Returns the pieces that together hold all of `range`; `None` while one byte is missing.
    pub(crate) fn covering(&self, range: ByteRange) -> Option<Vec<Piece>> {
        let mut found = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let (_, piece) = self.held.range(..=at).next_back()?;
            let end = piece.range().end;
            if end <= at {
                return None;
            }
            at = end;
            found.push(Piece::clone(piece));
        }
        Some(found)
    }

    /// Returns the first stretch of `wanted` neither held nor coming, at most `longest` bytes.
    fn missing(&self, wanted: ByteRange, longest: u64) -> Option<ByteRange> {
        let mut at = wanted.start;
        while at < wanted.end {
            let held = self
                .held
                .range(..=at)
                .next_back()
                .map(|(_, piece)| piece.range().end);
            let coming = self.coming.iter().filter(|claim| claim.range.start <= at);
            let busy_until = coming.map(|claim| claim.range.end).chain(held).max();
            match busy_until.filter(|end| *end > at) {
                Some(end) => at = end,
                None => {
                    let next_held = self.held.range(at..).next().map(|(start, _)| *start);
                    let starts = self.coming.iter().map(|claim| claim.range.start);
                    let next = starts.filter(|start| *start > at).chain(next_held).min();
                    let end = wanted.end.min(at + longest).min(next.unwrap_or(u64::MAX));
                    return Some(ByteRange::new(at, end));
                }
            }
        }
        None
    }

    /// Claims the first missing stretch of the `urgent` ranges, or else of `ahead` if it is worth a
    /// request: `longest` bytes, or all up to the end of the file or to the next held or coming
    /// byte. Starts and ends on leaves of the hash tree (or at the end of the file) unless
    /// neighbours are in the way.
    pub(crate) fn claim(
        &mut self,
        (source, now): (usize, Instant),
        urgent: impl Iterator<Item = ByteRange>,
        ahead: ByteRange,
        longest: u64,
        size: u64,
    ) -> Option<Claim> {
        let urgent = urgent.map(|range| {
            let end = range.end.next_multiple_of(LEAF).min(size);
            // Bytes wanted ahead of an urgent read come with it in one request.
            let joined = ahead.start <= end && range.end <= ahead.end;
            ByteRange::new(
                range.start / LEAF * LEAF,
                if joined { ahead.end.max(end) } else { end },
            )
        });
        let urgent = urgent
            .filter_map(|wanted| self.missing(wanted, longest))
            .next();
        let range = urgent.or_else(|| {
            // A sliding window leaves a short gap at its end each time; the gap is worth a request
            // once it is as long as a whole one.
            let slid = |gap: &ByteRange| gap.end == ahead.end && gap.end < size;
            let gap = self.missing(ahead, longest)?;
            (gap.len() >= longest || !slid(&gap)).then_some(gap)
        })?;
        self.claims += 1;
        let claim = Claim {
            id: self.claims,
            source,
            moved: now,
            range,
        };
        self.coming.push(claim);
        Some(claim)
    }

    /// Takes the next bytes of a claim, in order. Returns false if the claim was given up, or if
    /// these are not its next bytes.
    pub(crate) fn arrive(&mut self, claim: Claim, bytes: FileBytes, now: Instant) -> bool {
        let ByteRange { start, end } = bytes.range();
        let mut coming = self.coming.iter_mut();
        let Some(open) = coming.find(|open| open.id == claim.id && open.range.start == start)
        else {
            return false;
        };
        open.moved = now;
        open.range.start = end;
        self.held_bytes += end - start;
        self.held.insert(start, Arc::new(bytes));
        true
    }

    /// Returns true until the claim ends or is given up.
    pub(crate) fn is_open(&self, claim: Claim) -> bool {
        self.coming.iter().any(|open| open.id == claim.id)
    }

    /// Ends a claim; what has not arrived is missing again.
    pub(crate) fn release(&mut self, claim: Claim) {
        self.coming.retain(|open| open.id != claim.id);
    }

    /// Drops the held bytes of stretches that `keep` declines, and gives their claims up. A claim
    /// that is nearly done may finish: closing its connection would cost more than its bytes.
    pub(crate) fn retain(&mut self, keep: impl Fn(ByteRange) -> bool) {
        self.coming
            .retain(|open| open.range.len() <= 2 * PIECE || keep(open.range));
        let held_bytes = &mut self.held_bytes;
        self.held.retain(|_, piece| {
            let kept = keep(piece.range());
            if !kept {
                *held_bytes -= piece.range().len();
            }
            kept
        });
    }

    /// Returns the claims that have brought nothing since `since` although `awaited` says that
    /// somebody waits for them.
    pub(crate) fn standing(
        &self,
        since: Instant,
        awaited: impl Fn(ByteRange) -> bool,
    ) -> Vec<Claim> {
        let standing = |claim: &&Claim| claim.moved < since && awaited(claim.range);
        self.coming.iter().filter(standing).copied().collect()
    }

    /// Gives every claim up.
    pub(crate) fn abandon(&mut self) {
        self.coming.clear();
    }

    /// Returns the number of bytes in memory.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.held_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::concurrency::buffer_pool::PooledBuffer;
    use crate::download::content::{ExpectedContent, Origin};
    use crate::model::{PeerId, RelPath, Version};
    use proptest::prelude::*;

    const KIB: u64 = 1024;

    fn expected() -> Arc<Origin> {
        Arc::new(Origin {
            member: PeerId::from_bytes([1; 32]),
            path: RelPath::root(),
            version: Version(1),
            size: 1 << 30,
        })
    }

    fn buffer(at: u64, len: u64) -> FileBytes {
        FileBytes::FromOne {
            origin: expected(),
            offset: at,
            bytes: PooledBuffer::from(vec![7; len as usize]),
        }
    }

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::new(start, end)
    }

    #[test]
    fn undelivered_pieces_are_claimed_again() {
        let mut pieces = Pieces::default();
        let all = range(0, 512 * KIB);
        let mut claim = || pieces.claim((0, Instant::now()), [].into_iter(), all, 1 << 20, all.end);
        let first = claim().unwrap();
        assert_eq!(first.range, all);
        assert_eq!(claim(), None);
        assert!(pieces.arrive(first, buffer(0, PIECE), Instant::now()));
        pieces.release(first);
        let again = pieces.claim((0, Instant::now()), [].into_iter(), all, 1 << 20, all.end);
        assert_eq!(again.unwrap().range, range(PIECE, 512 * KIB));
    }

    #[test]
    fn sliding_window_makes_whole_requests() {
        let mut pieces = Pieces::default();
        let ahead = |at| range(at * KIB, (at + 256) * KIB);
        let mut claim = |at| {
            pieces.claim(
                (0, Instant::now()),
                [].into_iter(),
                ahead(at),
                256 * KIB,
                1 << 30,
            )
        };
        assert_eq!(claim(0).unwrap().range, ahead(0));
        assert_eq!(claim(128), None);
        assert_eq!(claim(256).unwrap().range, ahead(256));
    }

    #[test]
    fn urgent_read_and_its_successors_go_first() {
        let mut pieces = Pieces::default();
        let urgent = [range(20 * KIB, 24 * KIB)];
        let claim = pieces
            .claim(
                (0, Instant::now()),
                urgent.into_iter(),
                range(24 * KIB, 64 * KIB),
                1 << 20,
                1 << 30,
            )
            .unwrap();
        assert_eq!(claim.range, range(16 * KIB, 64 * KIB));
        let far = [range(900 * KIB, 901 * KIB)];
        let claim = pieces
            .claim(
                (0, Instant::now()),
                far.into_iter(),
                range(24 * KIB, 64 * KIB),
                1 << 20,
                1 << 30,
            )
            .unwrap();
        assert_eq!(claim.range, range(896 * KIB, 912 * KIB));
    }

    #[test]
    fn a_claim_takes_no_bytes_of_another_place() {
        let mut pieces = Pieces::default();
        let all = range(0, 4 * PIECE);
        let claim = pieces.claim((0, Instant::now()), [].into_iter(), all, 1 << 20, all.end);
        let claim = claim.unwrap();
        assert!(!pieces.arrive(claim, buffer(PIECE, PIECE), Instant::now()));
        assert!(pieces.arrive(claim, buffer(0, PIECE), Instant::now()));
        assert!(!pieces.arrive(claim, buffer(0, PIECE), Instant::now()));
        assert_eq!(pieces.held_bytes(), PIECE);
    }

    #[test]
    fn an_abandoned_claim_takes_no_bytes() {
        let mut pieces = Pieces::default();
        let claim = pieces
            .claim(
                (0, Instant::now()),
                [].into_iter(),
                range(0, 8 * PIECE),
                1 << 20,
                1 << 30,
            )
            .unwrap();
        pieces.retain(|_| false);
        assert!(!pieces.arrive(claim, buffer(0, PIECE), Instant::now()));
        assert_eq!(pieces.held_bytes(), 0);
    }

    proptest! {
        /// Whatever is claimed, arrives, fails and is dropped: no byte is claimed while it
        /// is held or coming, covering pieces hold exactly what was requested, and every
        /// wanted byte arrives.
        #[test]
        fn no_byte_is_lost_or_fetched_twice(
            size in 1_u64..3_000_000,
            steps in prop::collection::vec((0_u8..4, 0_u64..3_000_000, 1_u64..300_000), 1..60),
        ) {
            let mut pieces = Pieces::default();
            let mut open: Vec<Claim> = Vec::new();
            let mut coming: Vec<Claim> = Vec::new();
            for (action, start, len) in steps {
                let wanted = range(start.min(size), (start + len).min(size));
                match action {
                    0 => if let Some(claim) = pieces.claim((0, Instant::now()), [wanted].into_iter().filter(|w| !w.is_empty()), range(0, 0), len, size) {
                        for other in &coming {
                            prop_assert!(claim.range.end <= other.range.start || other.range.end <= claim.range.start);
                        }
                        prop_assert!(pieces.covering(range(claim.range.start, claim.range.start + 1)).is_none());
                        prop_assert!(!claim.range.is_empty() && claim.range.end <= size);
                        open.push(claim);
                        coming.push(claim);
                    },
                    1 => if let Some(claim) = open.pop() {
                        pieces.release(claim);
                        coming.retain(|c| c.id != claim.id);
                    },
                    2 => if let Some(claim) = open.last().copied() {
                        let at = coming.iter_mut().find(|c| c.id == claim.id).unwrap();
                        let end = at.range.end.min((at.range.start / PIECE + 1) * PIECE);
                        prop_assert!(pieces.arrive(claim, buffer(at.range.start, end - at.range.start), Instant::now()));
                        at.range.start = end;
                        if at.range.is_empty() {
                            pieces.release(claim);
                            coming.retain(|c| c.id != claim.id);
                            open.pop();
                        }
                    },
                    _ => if let Some(found) = pieces.covering(wanted) {
                        let total: u64 = found.iter().map(|piece| piece.slice(wanted, &ExpectedContent::FromOne(expected())).unwrap().len() as u64).sum();
                        prop_assert_eq!(total, wanted.len());
                    },
                }
            }
            for claim in open { pieces.release(claim); }
            while let Some(claim) = pieces.claim((0, Instant::now()), [].into_iter(), range(0, size), 200_000, size) {
                prop_assert!(pieces.arrive(claim, buffer(claim.range.start, claim.range.len()), Instant::now()));
                pieces.release(claim);
            }
            prop_assert!(pieces.covering(range(0, size)).is_some());
            prop_assert_eq!(pieces.held_bytes(), size);
        }
    }
}
