//! One download at work: parked reads, the streams that serve them, and what happens when one fails.
//!
//! The lock is held for table look-ups only. Streams and callbacks run outside of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::pieces::{Claim, PIECE, Piece, Pieces};
use super::window::{LEAF, Window};
use super::{Core, Done, STALL, deliver};
use crate::client::Peer;
use crate::error::Error;
use crate::types::{Attributes, ByteRange, RelPath, Version};

/// Streams of one file at a time: while one hashes or copies, the other receives. More are no
/// faster (perf notes, 1.1).
const STREAMS: usize = 2;

/// After a read has failed for want of an answer, further ones fail at once for this long: the kernel
/// asks again for each page of a failed readahead, and each would take a whole [`STALL`].
const FAIL_FAST: Duration = Duration::from_secs(3);

/// A stream must bring this much within [`STALL`] to count as progress: a member that trickles
/// single bytes cannot keep a reader for ever.
const PROGRESS: u64 = LEAF;

/// The pause before a failed stream is tried again, doubled each time up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// A member that breaks the protocol this often in one file is not asked for it again.
const MAX_STRIKES: u32 = 3;

pub(crate) struct Shared {
    core: Arc<Core>,
    peer: Arc<dyn Peer>,
    path: RelPath,
    version: Version,
    size: u64,
    /// Bytes that came in so far; counted by streams between two pieces, so outside of the lock.
    received: AtomicU64,
    state: Mutex<State>,
}

struct State {
    window: Window,
    pieces: Pieces,
    parked: Vec<Parked>,
    /// Streams that run or are about to.
    streams: usize,
    /// When something last came in, or the oldest wait began.
    progress: Instant,
    /// `received` at that time.
    received: u64,
    failures: u32,
    strikes: u32,
    retry_at: Option<Instant>,
    watched: bool,
    /// What the core has been told that `pieces` holds.
    accounted: u64,
    end: Option<End>,
}

/// Why nothing more is fetched.
#[derive(Clone)]
enum End {
    /// For good: the file is gone or another one.
    Dead(Error),
    /// For the moment.
    Until(Instant, Error),
    /// The reader has gone.
    Closed,
}

struct Parked {
    range: ByteRange,
    done: Done,
}

/// Callbacks to make once the lock is released.
#[derive(Default)]
struct Replies {
    ready: Vec<(Vec<Piece>, Parked)>,
    failed: Vec<(Parked, Error)>,
}

impl Replies {
    fn send(self) {
        for (pieces, parked) in self.ready {
            deliver(&pieces, parked.range, parked.done);
        }
        for (parked, error) in self.failed {
            (parked.done)(Err(error));
        }
    }
}

impl Shared {
    pub(super) fn new(
        core: Arc<Core>,
        peer: Arc<dyn Peer>,
        path: RelPath,
        attributes: &Attributes,
    ) -> Arc<Self> {
        Arc::new(Self {
            core,
            peer,
            path,
            version: attributes.version,
            size: attributes.size,
            received: AtomicU64::new(0),
            state: Mutex::new(State {
                window: Window::new(),
                pieces: Pieces::default(),
                parked: Vec::new(),
                streams: 0,
                progress: Instant::now(),
                received: 0,
                failures: 0,
                strikes: 0,
                retry_at: None,
                watched: false,
                accounted: 0,
                end: None,
            }),
        })
    }

    pub(super) fn held_bytes(&self) -> u64 {
        self.state.lock().pieces.held_bytes()
    }

    pub(super) fn read(self: &Arc<Self>, range: ByteRange, done: Done, now: Instant) {
        let may_grow = self.core.has_memory();
        let mut state = self.state.lock();
        let covering = state.pieces.covering(range);
        if state.window.read(range, covering.is_none(), may_grow) {
            state.drop_unwanted();
            self.account(&mut state);
        }
        if let Some(pieces) = covering {
            self.keep_going(&mut state);
            drop(state);
            return deliver(&pieces, range, done);
        }
        if let Some(error) = state.refusal(now) {
            drop(state);
            return done(Err(error));
        }
        if state.parked.is_empty() {
            state.progress = now;
        }
        state.parked.push(Parked { range, done });
        if !std::mem::replace(&mut state.watched, true) {
            self.core.watch(Arc::downgrade(self));
        }
        self.keep_going(&mut state);
    }

    /// Starts streams while there is something to fetch and nothing speaks against it.
    fn keep_going(self: &Arc<Self>, state: &mut State) {
        while state.streams < STREAMS && state.retry_at.is_none() {
            let Some(claim) = state.claim(self.size) else {
                return;
            };
            state.streams += 1;
            let shared = Arc::clone(self);
            let job = move || shared.run_stream(claim);
            if self.core.lanes.of(self.peer.id()).run(job).is_err() {
                state.streams -= 1;
                state.pieces.release(claim);
                state.retry_at = Some(Instant::now() + FIRST_PAUSE);
            }
        }
    }

    /// Fetches one claim after the other until nothing is missing.
    fn run_stream(self: &Arc<Self>, mut claim: Claim) {
        loop {
            let result = self.fetch(claim);
            let mut state = self.state.lock();
            state.pieces.release(claim);
            let mut replies = Replies::default();
            if let Err(error) = &result {
                state.fail(error, Instant::now(), &mut replies);
            }
            let next = if state.retry_at.is_none() {
                state.claim(self.size)
            } else {
                None
            };
            if next.is_none() {
                state.streams -= 1;
            }
            drop(state);
            replies.send();
            if let Err(error) = result {
                tracing::debug!(member = %self.peer.id().short(), path = %self.path, %error, "a stream ended");
                (self.core.on_failure)(self.peer.id(), &error);
            }
            match next {
                Some(next) => claim = next,
                None => return,
            }
        }
    }

    /// Brings the bytes of one claim in, piece by piece. Ends early, without an error, when the
    /// claim is given up.
    fn fetch(self: &Arc<Self>, claim: Claim) -> Result<(), Error> {
        let range = claim.range;
        let mut stream = self
            .peer
            .open(&self.path, self.version, range, Instant::now() + STALL)?;
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min((at / PIECE + 1) * PIECE);
            let mut buffer = self.core.pool.take((end - at) as usize);
            let mut filled = 0;
            while filled < buffer.len() {
                let count = stream.read(&mut buffer[filled..], Instant::now() + STALL)?;
                if count == 0 {
                    return Err(Error::misbehaved(
                        self.peer.id().short(),
                        "a body shorter than promised",
                    ));
                }
                filled += count;
                self.received.fetch_add(count as u64, Ordering::Relaxed);
            }
            at = end;
            if !self.arrive(claim, buffer) {
                return Ok(());
            }
        }
        // The connection is free for the next request only when the end of the body was seen.
        match stream.read(&mut [0], Instant::now() + STALL)? {
            0 => Ok(()),
            _ => Err(Error::misbehaved(
                self.peer.id().short(),
                "a body longer than promised",
            )),
        }
    }

    fn arrive(self: &Arc<Self>, claim: Claim, bytes: super::buffers::Buffer) -> bool {
        let mut replies = Replies::default();
        let mut state = self.state.lock();
        let wanted = state.pieces.arrive(claim, bytes);
        if wanted {
            (state.failures, state.progress) = (0, Instant::now());
            state.received = self.received.load(Ordering::Relaxed);
            state.answer(&mut replies);
            state.drop_unwanted();
            self.account(&mut state);
        }
        drop(state);
        replies.send();
        wanted
    }

    /// Looks after waits: fails those that have stood still, and tries again what is due.
    pub(super) fn tick(self: &Arc<Self>, now: Instant, short_of_memory: bool) {
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
        if !state.parked.is_empty() && now.saturating_duration_since(state.progress) >= STALL {
            let error = Error::Timeout {
                who: self.peer.id().short(),
            };
            state.end = Some(End::Until(now + FAIL_FAST, error.clone()));
            state.fail_parked(&error, &mut replies);
            state.pieces.abandon();
        }
        if state.retry_at.is_some_and(|at| at <= now) {
            state.retry_at = None;
            if !state.parked.is_empty() {
                self.keep_going(&mut state);
            }
        }
        drop(state);
        replies.send();
    }

    pub(super) fn close(&self) {
        let mut replies = Replies::default();
        let mut state = self.state.lock();
        state.end = Some(End::Closed);
        state.fail_parked(&self.closed(), &mut replies);
        state.pieces.abandon();
        drop(state);
        replies.send();
    }

    /// Tells the core how much memory this download takes now.
    fn account(&self, state: &mut State) {
        let held = state.pieces.held_bytes();
        let change = held.wrapping_sub(state.accounted);
        self.core.held_bytes.fetch_add(change, Ordering::Relaxed);
        state.accounted = held;
    }

    fn closed(&self) -> Error {
        Error::Local {
            what: "reading".into(),
            why: "the file was closed".into(),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let accounted = self.state.get_mut().accounted;
        self.core.held_bytes.fetch_sub(accounted, Ordering::Relaxed);
    }
}

impl State {
    /// Claims what should be fetched next, unless nothing should.
    fn claim(&mut self, size: u64) -> Option<Claim> {
        if matches!(self.end, Some(End::Dead(_) | End::Closed)) {
            return None;
        }
        let urgent = self.parked.iter().map(|parked| parked.range);
        self.pieces.claim(
            urgent,
            self.window.ahead(size),
            self.window.request_bytes(),
            size,
        )
    }

    /// Why a read that needs the network fails without being parked.
    fn refusal(&self, now: Instant) -> Option<Error> {
        match &self.end {
            Some(End::Dead(error)) => Some(error.clone()),
            Some(End::Until(until, error)) if now < *until => Some(error.clone()),
            _ => None,
        }
    }

    /// Moves every parked read whose bytes are all there to the replies.
    fn answer(&mut self, replies: &mut Replies) {
        for parked in std::mem::take(&mut self.parked) {
            match self.pieces.covering(parked.range) {
                Some(pieces) => replies.ready.push((pieces, parked)),
                None => self.parked.push(parked),
            }
        }
    }

    fn fail_parked(&mut self, error: &Error, replies: &mut Replies) {
        let parked = self.parked.drain(..);
        replies
            .failed
            .extend(parked.map(|parked| (parked, error.clone())));
    }

    /// Records that a stream failed: for good, or to be tried again after a pause.
    fn fail(&mut self, error: &Error, now: Instant, replies: &mut Replies) {
        if matches!(error, Error::Misbehaved { .. }) {
            self.strikes += 1;
        }
        let lost = matches!(error, Error::Changed { .. } | Error::NotFound { .. });
        if lost || self.strikes >= MAX_STRIKES {
            self.end = Some(End::Dead(error.clone()));
            self.fail_parked(error, replies);
            return;
        }
        let pause = FIRST_PAUSE * 2_u32.pow(self.failures.min(8));
        self.failures += 1;
        self.retry_at = Some(now + pause.min(MAX_PAUSE));
    }

    /// Drops pieces and claims that lie neither near the reader nor in a parked read.
    fn drop_unwanted(&mut self) {
        let keep = self.window.keep();
        let parked = &self.parked;
        let overlap = |a: ByteRange, b: ByteRange| a.start < b.end && b.start < a.end;
        self.pieces.retain(|range| {
            overlap(range, keep) || parked.iter().any(|parked| overlap(range, parked.range))
        });
    }
}
