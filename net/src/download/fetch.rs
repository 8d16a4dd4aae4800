//! Bringing the bytes of one claim in: from the disk cache where it has them, else from one holder, each
//! piece proven before it is handed on when the file has a root.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::STALL;
use super::buffers::Buffer;
use super::content::Content;
use super::pieces::{Claim, PIECE};
use super::streams::{PROGRESS, Shared, Source};
use crate::client::ByteStream;
use crate::error::Error;
use crate::merkle::{BLOCK, SUBTREE_BYTES};
use crate::types::{ByteRange, Root};

/// What a stream has brought in, for the measure of its holder.
#[derive(Default, Clone, Copy, Debug)]
pub(crate) struct Delivery {
    pub(crate) bytes: u64,
    /// Until the first byte could be used.
    pub(crate) waited: Duration,
    pub(crate) elapsed: Duration,
}

impl Shared {
    /// Brings in what `claim` stands for. Ends early, without an error, when the claim is given up.
    pub(super) fn fetch(self: &Arc<Self>, claim: Claim) -> Result<Delivery, Error> {
        let mut delivery = Delivery::default();
        let mut at = claim.range.start;
        // The reader may have gone while this waited for a thread.
        while at < claim.range.end && self.is_wanted(claim) {
            if let Some(content) = self.cached(ByteRange::new(at, claim.range.end)) {
                at += content.len() as u64;
                if !self.arrive(claim, content) {
                    break;
                }
                continue;
            }
            let end = self.cached_from(at, claim.range.end);
            if !self.stream(claim, ByteRange::new(at, end), &mut delivery)? {
                break;
            }
            at = end;
        }
        Ok(delivery)
    }

    /// The next bytes of `range` from the disk cache: up to the end of their piece.
    fn cached(&self, range: ByteRange) -> Option<Content> {
        let (root, cache) = (self.root?, self.core.cache.as_ref()?);
        let blocks = range.len().div_ceil(BLOCK);
        cache
            .get(root, self.size, range.start / BLOCK, blocks)
            .map(Content::Cached)
    }

    /// Where the disk cache seems to have something again.
    fn cached_from(&self, start: u64, end: u64) -> u64 {
        let Some((root, cache)) = self.root.zip(self.core.cache.as_ref()) else {
            return end;
        };
        let mut pieces = ((start / PIECE + 1) * PIECE..end).step_by(PIECE as usize);
        pieces
            .find(|at| cache.holds_piece(root, at / BLOCK))
            .unwrap_or(end)
    }

    /// Reads `range` from the claim's holder. False when the claim was given up.
    fn stream(
        self: &Arc<Self>,
        claim: Claim,
        range: ByteRange,
        delivery: &mut Delivery,
    ) -> Result<bool, Error> {
        let begun = Instant::now();
        let source = &self.sources[claim.source];
        if range.len() > PIECE {
            self.ask_ahead(range, source);
        }
        let mut stream = source
            .peer
            .open(&source.path, source.version, range, begun + STALL)?;
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min((at / PIECE + 1) * PIECE);
            let leaves = self
                .leaves
                .as_ref()
                .map(|leaves| leaves.get(at, &*source.peer))
                .transpose()?;
            if at == range.start {
                delivery.waited += begun.elapsed();
            }
            let mut buffer = self.core.pool.take((end - at) as usize);
            self.fill(&mut buffer, &mut *stream, source)?;
            let content = match (self.root, leaves) {
                (Some(root), Some(leaves)) => self.prove(root, &leaves, at, buffer, source)?,
                _ => Content::FromOne(buffer),
            };
            delivery.bytes += end - at;
            self.core.received(source, end - at);
            delivery.elapsed = begun.elapsed();
            at = end;
            if !self.arrive(claim, content) {
                return Ok(false);
            }
        }
        // The connection is free for the next request only when the end of the body was seen.
        match stream.read(&mut [0], Instant::now() + STALL)? {
            0 => Ok(true),
            _ => Err(Error::misbehaved(
                source.who(),
                "a body longer than promised",
            )),
        }
    }

    /// Has the leaves for `range`, and for what comes behind it, asked for while its first bytes are on their way.
    fn ask_ahead(self: &Arc<Self>, range: ByteRange, source: &Source) {
        let Some(leaves) = &self.leaves else { return };
        let first = range.start / SUBTREE_BYTES;
        for offset in (first..=range.end / SUBTREE_BYTES).map(|index| index * SUBTREE_BYTES) {
            if !leaves.is_wanted(offset) {
                continue;
            }
            let (shared, peer) = (Arc::clone(self), Arc::clone(&source.peer));
            let ask = move || {
                if let Some(leaves) = &shared.leaves {
                    leaves.get_ahead(offset, &*peer);
                }
            };
            if self.core.leaves.of(source.peer.id()).run(ask).is_err() {
                leaves.give_up(offset);
            }
        }
    }

    /// Reads as many bytes as `buffer` holds. A holder that brings less than [`PROGRESS`] in [`STALL`] has
    /// stopped, even if it still trickles.
    fn fill(
        &self,
        buffer: &mut Buffer,
        stream: &mut dyn ByteStream,
        source: &Source,
    ) -> Result<(), Error> {
        let (mut filled, mut enough, mut deadline) = (0, PROGRESS as usize, Instant::now() + STALL);
        while filled < buffer.len() {
            let count = stream.read(&mut buffer[filled..], deadline)?;
            if count == 0 {
                return Err(Error::misbehaved(
                    source.who(),
                    "a body shorter than promised",
                ));
            }
            filled += count;
            self.received.fetch_add(count as u64, Ordering::Relaxed);
            if filled >= enough {
                (enough, deadline) = (filled + PROGRESS as usize, Instant::now() + STALL);
            }
        }
        Ok(())
    }

    /// Checks a piece and gives it to the disk cache too.
    fn prove(
        &self,
        root: Root,
        leaves: &crate::merkle::Leaves,
        at: u64,
        buffer: Buffer,
        source: &Source,
    ) -> Result<Content, Error> {
        let proven = leaves
            .check(at, buffer)
            .map_err(|_| Error::WrongBytes { who: source.who() })?;
        let proven = Arc::new(proven);
        // What this node shares itself lies on this disk already.
        if let Some(cache) = self.core.cache.as_ref().filter(|_| !source.is_local) {
            cache.put(root, self.size, at / BLOCK, leaves, Arc::clone(&proven));
        }
        Ok(Content::Proven(proven))
    }
}
