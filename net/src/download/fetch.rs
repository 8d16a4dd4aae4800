//! Fetches the bytes of one claim: from the disk cache where it has them, otherwise from one
//! holder. If the file has a root, each piece is proven before it is passed on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::STALL;
use super::content::{ExpectedContent, FileBytes};
use super::file_reader::{FileReader, PROGRESS};
use super::holder::{Availability, Delivery, FileSource};
use super::leaves::TreePart;
use super::pieces::{Claim, PIECE};
use crate::concurrency::buffer_pool::PooledBuffer;
use crate::config::READ_DEADLINE;
use crate::content::merkle::{BLOCK, Leaves, SUBTREE_BYTES};
use crate::error::Error;
use crate::model::ByteRange;
use crate::peer::ByteStream;

impl FileReader {
    /// Fetches the bytes of `claim`. Ends early, without an error, when the claim is given up. With
    /// a `limit` it ends by then.
    pub(super) fn fetch(
        self: &Arc<Self>,
        claim: Claim,
        limit: Option<Instant>,
    ) -> Result<Delivery, Error> {
        let mut delivery = Delivery::default();
        let mut at = claim.range.start;
        // The reader may have gone while this job waited for a thread.
        while at < claim.range.end && self.is_wanted(claim) {
            if let Some(content) = self.cached(ByteRange::new(at, claim.range.end)) {
                at = content.range().end;
                if !self.arrive(claim, content) {
                    break;
                }
                continue;
            }
            let end = self.cached_from(at, claim.range.end);
            let wanted = ByteRange::new(at, end);
            // A holder of only a part is asked for the rest again, like any other holder.
            if self.stream(claim, wanted, limit, &mut delivery)? < wanted.len() {
                break;
            }
            at = end;
        }
        Ok(delivery)
    }

    /// Returns the next bytes of `range` from the disk cache, up to the end of their piece.
    fn cached(&self, range: ByteRange) -> Option<FileBytes> {
        let (content, cache) = (self.expected.rooted()?, self.core.cache.as_ref()?);
        let blocks = range.len().div_ceil(BLOCK);
        let bytes = cache.get(content, range.start / BLOCK, blocks);
        bytes.map(FileBytes::Cached)
    }

    /// Returns the next position at which the disk cache seems to have bytes again.
    fn cached_from(&self, start: u64, end: u64) -> u64 {
        let Some((content, cache)) = self.expected.rooted().zip(self.core.cache.as_ref()) else {
            return end;
        };
        let mut pieces = ((start / PIECE + 1) * PIECE..end).step_by(PIECE as usize);
        pieces
            .find(|at| cache.holds_piece(content.root, at / BLOCK))
            .unwrap_or(end)
    }

    /// Reads `range` from the claim's holder. Returns how many bytes of it came before the claim
    /// was given up or the holder had no more.
    fn stream(
        self: &Arc<Self>,
        claim: Claim,
        range: ByteRange,
        limit: Option<Instant>,
        delivery: &mut Delivery,
    ) -> Result<u64, Error> {
        let begun = Instant::now();
        let within = |time: Duration| {
            let deadline = Instant::now() + time;
            limit.map_or(deadline, |limit| limit.min(deadline))
        };
        let source = &self.sources[claim.source];
        // For a few bytes, one request for leaves over the connection that brings them is cheaper;
        // two requests are not.
        let leaves = self.leaves.as_ref();
        if range.len() > PIECE || leaves.is_some_and(|leaves| !leaves.is_size_proven()) {
            self.ask_ahead(range, claim.source);
        }
        let opened = self.open(claim.source, range, within(STALL))?;
        let (range, is_cut, mut stream) = opened;
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min((at / PIECE + 1) * PIECE);
            let leaves = self.leaves_at(at, claim, within(READ_DEADLINE))?;
            if at == range.start {
                delivery.waited += begun.elapsed();
            }
            let mut buffer = self.core.buffers.take((end - at) as usize);
            self.fill(&mut buffer, &mut *stream, source, &within)?;
            let content = match (&self.expected, leaves) {
                (ExpectedContent::Rooted(_), Some(leaves)) => {
                    self.prove(&leaves, at, buffer, source)?
                }
                (ExpectedContent::FromOne(origin), _) => FileBytes::FromOne {
                    origin: Arc::clone(origin),
                    offset: at,
                    bytes: buffer,
                },
                // A reader with a root always requests its leaves.
                (ExpectedContent::Rooted(_), None) => {
                    return Err(super::mixed_up());
                }
            };
            delivery.bytes += end - at;
            self.core.received(source, end - at);
            delivery.elapsed = begun.elapsed();
            at = end;
            if !self.arrive(claim, content) {
                return Ok(at - range.start);
            }
        }
        // The rest of a block that cannot be proven is not worth waiting for.
        if is_cut {
            return Ok(range.len());
        }
        // The connection is free for the next request only once the end of the body was seen.
        match stream.read(&mut [0], within(STALL))? {
            0 => Ok(range.len()),
            _ => Err(Error::misbehaved(
                source.who(),
                "a body longer than promised",
            )),
        }
    }

    /// Opens what `source` has of `range`, from its beginning on. Also returns whether it
    /// sends more than that. When the file has changed, its former content may still be
    /// available by its root.
    fn open(
        &self,
        source: usize,
        range: ByteRange,
        deadline: Instant,
    ) -> Result<(ByteRange, bool, Box<dyn ByteStream>), Error> {
        let (has, content) = (self.has(source), self.expected.rooted());
        let from = &self.sources[source];
        if let Availability::File(version) = has {
            let opened = from.peer.open(&from.path, version, range, deadline);
            match opened {
                Ok(stream) => return Ok((range, false, stream)),
                Err(why @ (Error::Changed { .. } | Error::NotFound { .. }))
                    if content.is_some() =>
                {
                    self.note_moved(source, &why);
                }
                Err(error) => return Err(error),
            }
        }
        let not_found = || Error::NotFound { who: from.who() };
        let content = content.ok_or_else(not_found)?;
        let opened = from.peer.open_content(content.root, range, deadline);
        let (length, stream) = opened?;
        // A part that ends within a block can be proven only up to its last whole block.
        let announced = range.start + length;
        let end = if announced == range.end {
            announced
        } else {
            announced / BLOCK * BLOCK
        };
        let part = ByteRange::new(range.start, end.max(range.start));
        if part.is_empty() {
            Err(not_found())
        } else {
            Ok((part, end < announced, stream))
        }
    }

    /// Returns the leaves for the byte at `offset`, from the claim's holder or, if it may not have
    /// them, from a member that does.
    fn leaves_at(
        &self,
        offset: u64,
        claim: Claim,
        deadline: Instant,
    ) -> Result<Option<Arc<Leaves>>, Error> {
        let Some(leaves) = &self.leaves else {
            return Ok(None);
        };
        let teller = self.teller(claim.source);
        let peer = |source: usize| &*self.sources[source].peer;
        leaves
            .get(offset, peer(teller), deadline)
            .map(Some)
            .or_else(|error| {
                if teller == claim.source {
                    return Err(error);
                }
                // The member that sends the bytes is not to blame.
                self.note_teller(teller, &error);
                leaves.get(offset, peer(claim.source), deadline).map(Some)
            })
    }

    /// Returns the source to ask for leaves when `source` sends the bytes.
    fn teller(&self, source: usize) -> usize {
        match self.sources[source].has {
            Availability::File(_) => source,
            _ => self.sure_one().unwrap_or(source),
        }
    }

    /// Requests the leaves for `range`, and for what follows it, while its first bytes are
    /// on their way.
    fn ask_ahead(self: &Arc<Self>, range: ByteRange, source: usize) {
        let Some(leaves) = &self.leaves else { return };
        let teller = &self.sources[self.teller(source)];
        let member = teller.peer.id();
        let subtrees = range.start / SUBTREE_BYTES..=range.end / SUBTREE_BYTES;
        let parts = [TreePart::Size].into_iter();
        for part in parts.chain(subtrees.map(TreePart::Subtree)) {
            if !leaves.is_wanted(part) {
                continue;
            }
            let (reader, peer) = (Arc::downgrade(self), Arc::clone(&teller.peer));
            let asked = Arc::clone(leaves);
            let job = move || {
                if reader.upgrade().is_some_and(|reader| !reader.is_closed()) {
                    asked.get_ahead(part, &*peer);
                } else {
                    asked.give_up(part);
                }
            };
            if self.core.leaves.of(member).run(job).is_err() {
                leaves.give_up(part);
            }
        }
    }

    /// Fills `buffer`. A holder that sends less than [`PROGRESS`] in [`STALL`] has stopped, even if
    /// it still trickles.
    pub(super) fn fill(
        &self,
        buffer: &mut PooledBuffer,
        stream: &mut dyn ByteStream,
        source: &FileSource,
        within: &dyn Fn(Duration) -> Instant,
    ) -> Result<(), Error> {
        let (mut filled, mut enough, mut deadline) = (0, PROGRESS as usize, within(STALL));
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
                (enough, deadline) = (filled + PROGRESS as usize, within(STALL));
            }
        }
        Ok(())
    }

    /// Checks a piece and also stores it in the disk cache.
    fn prove(
        &self,
        leaves: &Leaves,
        at: u64,
        buffer: PooledBuffer,
        source: &FileSource,
    ) -> Result<FileBytes, Error> {
        let proven = leaves
            .check(at, buffer)
            .map_err(|_| Error::WrongBytes { who: source.who() })?;
        let proven = Arc::new(proven);
        // What this node shares itself is on this disk already.
        if let Some(cache) = self.core.cache.as_ref().filter(|_| !source.is_local) {
            cache.put(leaves, Arc::clone(&proven));
        }
        Ok(FileBytes::Proven(proven))
    }
}
