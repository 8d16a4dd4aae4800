//! One download at work: parked reads, the streams that serve them, and the handling of a
//! stream that fails.
//!
//! The lock is held for table look-ups only. Streams and callbacks run outside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::content::{ExpectedContent, FileBytes, Origin};
use super::holder::{Availability, FileSource};
use super::leaves::LeafCache;
use super::pieces::{Claim, PIECE, Pieces};
use super::read_table::{ParkedRead, ReadEnd, ReadTable, Replies, closed, nobody};
use super::schedule::Schedule;
use super::window::{LEAF, Window};
use super::{Core, ReadCallback, ReaderPatience, STALL, deliver};
use crate::error::Error;
use crate::model::{ByteRange, ContentId, PeerId, Root};

/// After a read has failed for want of an answer, further reads fail at once for this long. The
/// kernel retries each page of a failed readahead, and each retry would take a whole [`STALL`].
const FAIL_FAST: Duration = Duration::from_secs(3);

/// Streams must bring this much within [`STALL`] to count as progress, so that a member that
/// trickles single bytes cannot hold a reader forever.
pub(super) const PROGRESS: u64 = LEAF;

/// The most that a reader's own thread fetches: one read of the kernel.
const SHORT: u64 = PIECE;

pub(crate) struct FileReader {
    pub(super) core: Arc<Core>,
    pub(super) sources: Vec<FileSource>,
    /// What the reader was promised: no other bytes reach it.
    pub(super) expected: ExpectedContent,
    pub(super) leaves: Option<Arc<LeafCache>>,
    /// Bytes received so far; streams add to it between two pieces, hence outside the lock.
    pub(super) received: AtomicU64,
    state: Mutex<ReadTable>,
}

impl FileReader {
    pub(super) fn new(
        core: Arc<Core>,
        mut sources: Vec<FileSource>,
        size: u64,
        root: Option<Root>,
    ) -> Arc<Self> {
        let mut end = None;
        let expected = match root {
            Some(root) => {
                end = core.drop_disproved(&mut sources, root).map(ReadEnd::Lost);
                ExpectedContent::Rooted(ContentId { root, size })
            }
            None => {
                // Nothing shows that two members have the same bytes.
                sources.truncate(1);
                let origin = sources.first().and_then(|source| source.origin(size));
                let origin = origin.unwrap_or_else(|| {
                    sources.clear();
                    end = Some(ReadEnd::Lost(nobody()));
                    Origin::nowhere(size)
                });
                ExpectedContent::FromOne(Arc::new(origin))
            }
        };
        // As long as the bytes are on this disk, they are not fetched from elsewhere.
        sources.sort_by_key(|source| (!source.is_local, source.may_have_nothing()));
        let first_is_local = sources.first().is_some_and(|source| source.is_local);
        let (mut window, mut known) = (Window::new(), Schedule::new(sources.len(), first_is_local));
        for (index, source) in sources.iter().enumerate() {
            known.locate(index, source.peer.distance());
            if !source.is_local && source.may_have_nothing() {
                known.doubt(index);
            }
        }
        let (streams, is_far) = known.shape(Instant::now());
        window.tune(streams, is_far);
        Arc::new(Self {
            core,
            leaves: expected
                .rooted()
                .map(|content| Arc::new(LeafCache::new(content))),
            expected,
            received: AtomicU64::new(0),
            state: Mutex::new(ReadTable {
                window,
                pieces: Pieces::default(),
                sources: known,
                parked: Vec::new(),
                progress: Instant::now(),
                received: 0,
                watched: false,
                accounted: 0,
                end,
            }),
            sources,
        })
    }

    pub(super) fn held_bytes(&self) -> u64 {
        self.state.lock().pieces.held_bytes()
    }

    pub(super) fn refusals(&self) -> Vec<(PeerId, Error)> {
        let state = self.state.lock();
        let sources = self.sources.iter().enumerate();
        let refusal = |(index, source): (usize, &FileSource)| {
            Some((source.peer.id(), state.sources.refusal(index)?.clone()))
        };
        sources.filter_map(refusal).collect()
    }

    /// Answers a read that was requested at `since`, or parks it.
    pub(super) fn read(
        self: &Arc<Self>,
        range: ByteRange,
        done: ReadCallback,
        since: Instant,
        patience: ReaderPatience,
    ) {
        let now = Instant::now();
        let may_grow = self.core.has_memory();
        let mut state = self.state.lock();
        let covering = state.pieces.covering(range);
        if state.window.read(range, covering.is_none(), may_grow) {
            state.drop_unwanted();
            self.account(&mut state);
        }
        let runs = state.window.is_running();
        state.sources.try_all(runs);
        if let Some(pieces) = covering {
            self.keep_going(&mut state, now);
            drop(state);
            return deliver(&pieces, range, &self.expected, done);
        }
        if let Some(error) = state.refusal(now) {
            drop(state);
            return done(Err(error));
        }
        if state.parked.is_empty() {
            state.progress = since;
        }
        state.parked.push(ParkedRead {
            since: now,
            range,
            done,
        });
        if std::mem::replace(&mut state.watched, true) {
            self.core.start_clock();
        } else {
            self.core.watch(Arc::downgrade(self));
        }
        let mut here = None;
        if patience == ReaderPatience::Short
            && let Some(claim) = state.claim(self.expected.size(), now)
        {
            state.sources.begin(claim.source);
            if claim.range.len() <= SHORT && !state.sources.is_trial(claim.source, now) {
                here = Some(claim);
            } else {
                self.start(claim, &mut state, now);
            }
        }
        self.keep_going(&mut state, now);
        drop(state);
        if let Some(next) = here.and_then(|claim| self.run(claim, Some(now + STALL))) {
            self.start(next, &mut self.state.lock(), Instant::now());
        }
    }

    /// Starts streams while bytes are missing and a holder can be asked.
    fn keep_going(self: &Arc<Self>, state: &mut ReadTable, now: Instant) {
        while let Some(claim) = state.claim(self.expected.size(), now) {
            state.sources.begin(claim.source);
            self.start(claim, state, now);
        }
    }

    /// Fetches `claim`, whose stream has begun, on a thread of its holder, and then one claim after
    /// another until nothing is missing.
    fn start(self: &Arc<Self>, claim: Claim, state: &mut ReadTable, now: Instant) {
        let shared = Arc::clone(self);
        let stream = move || {
            let mut next = Some(claim);
            while let Some(claim) = next {
                next = shared.run(claim, None);
            }
        };
        let pool = self.core.pools.of(self.sources[claim.source].peer.id());
        if pool.run(stream).is_err() {
            state.sources.end(claim.source);
            state.pieces.release(claim);
            let busy = Error::Busy {
                who: self.sources[claim.source].who(),
            };
            state.sources.failed(claim.source, &busy, now);
        }
    }

    /// Fetches one claim, by `limit` if there is one. Returns the next claim for the same holder,
    /// its stream begun, if anything is left.
    fn run(self: &Arc<Self>, claim: Claim, limit: Option<Instant>) -> Option<Claim> {
        let result = self.fetch(claim, limit);
        let now = Instant::now();
        let mut replies = Replies::default();
        let mut state = self.state.lock();
        state.pieces.release(claim);
        state.sources.end(claim.source);
        match &result {
            Ok(delivery) => state.deliver(claim.source, *delivery, now),
            Err(error) => state.fail(claim.source, error, now, &mut replies),
        }
        let next = state.claim_from(claim.source, self.expected.size(), now);
        match next {
            Some(next) => state.sources.begin(next.source),
            // Another holder may take over what this one failed to bring.
            None => self.keep_going(&mut state, now),
        }
        drop(state);
        // Done first, so that a reader that is answered and asks again already sees the new state.
        if let Err(error) = result {
            self.report(claim.source, &error);
        }
        replies.send(&self.expected);
        next
    }

    /// Reports a failure to the log and to the observer of the members.
    fn report(&self, source: usize, error: &Error) {
        let source = &self.sources[source];
        let is_claim = matches!(source.has, Availability::File(_));
        if is_claim && matches!(error, Error::WrongBytes { .. }) {
            self.core.blame(source, self.expected.rooted());
        } else if matches!(error, Error::Forbidden { .. }) {
            tracing::info!(
                peer = %source.who(), path = %source.path,
                "this member may not read the file that it shares; not asked for it again"
            );
        } else {
            tracing::debug!(peer = %source.who(), path = %source.path, %error, "a stream ended");
        }
        // A holder of cached blocks has claimed nothing: blocks come and go, and if they do not
        // fit, the size that another member claimed may be wrong.
        if is_claim {
            (self.core.on_failure)(source.peer.id(), error);
        }
    }

    /// Returns a holder that claims to have the content, and so its leaves, and can be asked now.
    pub(super) fn sure_one(&self) -> Option<usize> {
        let now = Instant::now();
        let state = self.state.lock();
        let sure = (0..self.sources.len())
            .filter(|index| matches!(self.sources[*index].has, Availability::File(_)))
            .filter_map(|index| Some((state.sources.tells(index, now)?, index)));
        sure.min().map(|(_, index)| index)
    }

    /// Returns what to request from a source, as currently known.
    pub(super) fn has(&self, source: usize) -> Availability {
        if self.state.lock().sources.has_moved(source) {
            Availability::Blocks
        } else {
            self.sources[source].has
        }
    }

    /// Records that the file named by a source has changed.
    pub(super) fn note_moved(&self, source: usize, why: &Error) {
        self.state.lock().sources.moved(source, why);
    }

    /// Returns true until the claim is given up.
    pub(super) fn is_wanted(&self, claim: Claim) -> bool {
        self.state.lock().pieces.is_open(claim)
    }

    /// Takes a piece that `claim` has brought. Returns false if the claim has been given up.
    pub(super) fn arrive(self: &Arc<Self>, claim: Claim, content: FileBytes) -> bool {
        let now = Instant::now();
        let mut replies = Replies::default();
        let mut state = self.state.lock();
        let wanted = state.pieces.arrive(claim, content, now);
        if wanted {
            state.progress = now;
            state.received = self.received.load(Ordering::Relaxed);
            state.answer(&mut replies);
            state.drop_unwanted();
            self.account(&mut state);
        }
        drop(state);
        replies.send(&self.expected);
        wanted
    }

    /// Checks on waiting reads: moves claims away from holders that stall, retries what is due, and
    /// fails readers that have received nothing for too long. Returns true while reads wait.
    pub(super) fn tick(self: &Arc<Self>, now: Instant, short_of_memory: bool) -> bool {
        let mut replies = Replies::default();
        let mut state = self.state.lock();
        let received = self.received.load(Ordering::Relaxed);
        if received >= state.received + PROGRESS {
            (state.received, state.progress) = (received, now);
        }
        if short_of_memory {
            state.window.shrink();
            state.drop_unwanted();
            self.account(&mut state);
        }
        if !state.parked.is_empty() {
            state.overtake(now);
            let first = self.sources.first();
            let late = Error::Timeout {
                who: first.map(FileSource::who).unwrap_or_default(),
            };
            state.fail_late(now, &late, &mut replies);
            if now.saturating_duration_since(state.progress) >= STALL {
                state.end = Some(ReadEnd::Until(now + FAIL_FAST, late.clone()));
                state.fail_parked(&late, &mut replies);
                state.pieces.abandon();
            } else {
                self.keep_going(&mut state, now);
            }
        }
        let is_waited_for = !state.parked.is_empty();
        drop(state);
        replies.send(&self.expected);
        is_waited_for
    }

    /// Records that `source` failed to supply leaves for bytes that another source sends.
    pub(super) fn note_teller(&self, source: usize, error: &Error) {
        self.report(source, error);
        self.note_failure(self.sources[source].peer.id(), error);
    }

    /// Records that `member` failed with this file in a way that no stream has seen.
    pub(super) fn note_failure(&self, member: PeerId, error: &Error) {
        let mut sources = self.sources.iter();
        let Some(source) = sources.position(|source| source.peer.id() == member) else {
            return;
        };
        let mut replies = Replies::default();
        let mut state = self.state.lock();
        state.fail(source, error, Instant::now(), &mut replies);
        drop(state);
        replies.send(&self.expected);
    }

    pub(super) fn close(&self) {
        let mut replies = Replies::default();
        let mut state = self.state.lock();
        state.end = Some(ReadEnd::Closed);
        state.fail_parked(&closed(), &mut replies);
        state.pieces.abandon();
        state.pieces.retain(|_| false);
        self.account(&mut state);
        drop(state);
        replies.send(&self.expected);
    }

    /// Returns true once the reader has gone.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.state.lock().end, Some(ReadEnd::Closed))
    }

    /// Reports to the core how much memory this download takes now.
    fn account(&self, state: &mut ReadTable) {
        let held = state.pieces.held_bytes();
        let change = held.wrapping_sub(state.accounted);
        self.core.held_bytes.fetch_add(change, Ordering::Relaxed);
        state.accounted = held;
    }
}

impl Drop for FileReader {
    fn drop(&mut self) {
        let accounted = self.state.get_mut().accounted;
        self.core.held_bytes.fetch_sub(accounted, Ordering::Relaxed);
    }
}
