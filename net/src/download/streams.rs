//! One download at work: parked reads, the streams that serve them, and what happens when one fails.
//!
//! The lock is held for table look-ups only. Streams and callbacks run outside of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::content::{Content, ExpectedContent, Origin};
use super::fetch::Delivery;
use super::leaves::LeafCache;
use super::pieces::{Claim, PIECE, Piece, Pieces};
use super::sources::Sources;
use super::window::{LEAF, Window};
use super::{Core, Done, Patience, STALL, deliver};
use crate::error::Error;
use crate::model::{ByteRange, ContentId, PeerId, RelPath, Root, Version};
use crate::peer::Peer;

/// After a read has failed for want of an answer, further ones fail at once for this long: the kernel
/// asks again for each page of a failed readahead, and each would take a whole [`STALL`].
const FAIL_FAST: Duration = Duration::from_secs(3);

/// Streams must bring this much within [`STALL`] to count as progress: a member that trickles
/// single bytes cannot keep a reader for ever.
pub(super) const PROGRESS: u64 = LEAF;

/// No read waits longer than this, however much comes in for others meanwhile.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A holder that brings nothing for this long while a reader waits loses the claim to another one.
const OVERTAKE: Duration = Duration::from_secs(1);

/// The most that the thread of a reader fetches by itself: one read of the kernel's.
const SHORT: u64 = PIECE;

/// A member that may have a content, and how to ask it for that.
#[derive(Clone)]
pub struct Source {
    /// The member.
    pub peer: Arc<dyn Peer>,
    /// Where the file lies in its share, or in that of others if it only keeps blocks.
    pub path: RelPath,
    /// What it has.
    pub has: Has,
    /// True for this node's own share.
    pub is_local: bool,
}

/// What a member has of a content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Has {
    /// A file in this state, of which it says that it has this content.
    File(Version),
    /// Blocks, perhaps, that it has read from others and kept.
    Blocks,
}

impl Source {
    pub(super) fn who(&self) -> String {
        self.peer.id().short()
    }

    /// Where unproven bytes of it come from, if it says that its file has `size` bytes.
    fn origin(&self, size: u64) -> Option<Origin> {
        let Has::File(version) = self.has else {
            return None;
        };
        Some(Origin::new(self.peer.id(), &self.path, version, size))
    }

    /// True unless it says that it has the whole.
    fn may_have_nothing(&self) -> bool {
        match self.has {
            Has::File(_) => false,
            Has::Blocks => true,
        }
    }
}

pub(crate) struct Shared {
    pub(super) core: Arc<Core>,
    pub(super) sources: Vec<Source>,
    /// What the reader was promised: no other bytes reach it.
    pub(super) expected: ExpectedContent,
    pub(super) leaves: Option<Arc<LeafCache>>,
    /// Bytes that came in so far; counted by streams between two pieces, so outside of the lock.
    pub(super) received: AtomicU64,
    state: Mutex<State>,
}

struct State {
    window: Window,
    pieces: Pieces,
    sources: Sources,
    parked: Vec<Parked>,
    /// When something last came in, or the oldest wait began.
    progress: Instant,
    /// `received` at that time.
    received: u64,
    watched: bool,
    /// What the core has been told that `pieces` holds.
    accounted: u64,
    end: Option<End>,
}

/// Why nothing more is fetched.
#[derive(Clone)]
enum End {
    /// For good: no holder has the file any more.
    Lost(Error),
    /// For the moment.
    Until(Instant, Error),
    /// The reader has gone.
    Closed,
}

struct Parked {
    since: Instant,
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
    fn send(self, expected: &ExpectedContent) {
        for (pieces, parked) in self.ready {
            deliver(&pieces, parked.range, expected, parked.done);
        }
        for (parked, error) in self.failed {
            (parked.done)(Err(error));
        }
    }
}

impl Core {
    /// Leaves out those who have shown that they do not have the content of `root`. Says why if nobody is
    /// left.
    fn drop_disproved(&self, sources: &mut Vec<Source>, root: Root) -> Option<Error> {
        let disproofs = self.disproofs.lock();
        let is_liar = |source: &Source| match source.has {
            Has::File(version) => disproofs.has(source.peer.id(), version, root),
            Has::Blocks => false,
        };
        let who = sources.iter().find(|source| is_liar(source))?.who();
        sources.retain(|source| !is_liar(source));
        sources.is_empty().then_some(Error::WrongBytes { who })
    }

    /// `source` has sent bytes for a file that are not those of the content that it says it has.
    pub(super) fn blame(&self, source: &Source, content: Option<ContentId>) {
        self.ledger.blame(source.peer.id(), &source.path);
        tracing::warn!(
            peer = %source.peer.id(), path = %source.path,
            "wrong bytes: this member does not have the content that it names; not asked for this file again"
        );
        if let (Has::File(version), Some(content)) = (source.has, content) {
            let member = source.peer.id();
            self.disproofs.lock().note(member, version, content.root);
        }
    }
}

impl Shared {
    pub(super) fn new(
        core: Arc<Core>,
        mut sources: Vec<Source>,
        size: u64,
        root: Option<Root>,
    ) -> Arc<Self> {
        let mut end = None;
        let expected = match root {
            Some(root) => {
                end = core.drop_disproved(&mut sources, root).map(End::Lost);
                ExpectedContent::Rooted(ContentId { root, size })
            }
            None => {
                // Nothing says that two members have the same bytes.
                sources.truncate(1);
                let origin = sources.first().and_then(|source| source.origin(size));
                let origin = origin.unwrap_or_else(|| {
                    sources.clear();
                    end = Some(End::Lost(nobody()));
                    Origin::nowhere(size)
                });
                ExpectedContent::FromOne(Arc::new(origin))
            }
        };
        // What lies on this disk is not fetched from elsewhere as long as it lies there.
        sources.sort_by_key(|source| (!source.is_local, source.may_have_nothing()));
        let first_is_local = sources.first().is_some_and(|source| source.is_local);
        let (mut window, mut known) = (Window::new(), Sources::new(sources.len(), first_is_local));
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
            state: Mutex::new(State {
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

    pub(super) fn lost(&self) -> Vec<(PeerId, Error)> {
        let state = self.state.lock();
        let sources = self.sources.iter().enumerate();
        let lost = |(index, source): (usize, &Source)| {
            Some((source.peer.id(), state.sources.lost(index)?.clone()))
        };
        sources.filter_map(lost).collect()
    }

    /// Answers a read that was asked for at `since`, or parks it.
    pub(super) fn read(
        self: &Arc<Self>,
        range: ByteRange,
        done: Done,
        since: Instant,
        patience: Patience,
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
        state.parked.push(Parked {
            since: now,
            range,
            done,
        });
        if !std::mem::replace(&mut state.watched, true) {
            self.core.watch(Arc::downgrade(self));
        }
        let mut here = None;
        if patience == Patience::Short
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

    /// Starts streams while there is something to fetch and a holder to ask.
    fn keep_going(self: &Arc<Self>, state: &mut State, now: Instant) {
        while let Some(claim) = state.claim(self.expected.size(), now) {
            state.sources.begin(claim.source);
            self.start(claim, state, now);
        }
    }

    /// Fetches `claim`, whose stream has begun, on a thread of its holder, and then one claim after the
    /// other until nothing is missing.
    fn start(self: &Arc<Self>, claim: Claim, state: &mut State, now: Instant) {
        let shared = Arc::clone(self);
        let stream = move || {
            let mut next = Some(claim);
            while let Some(claim) = next {
                next = shared.run(claim, None);
            }
        };
        let lane = self.core.lanes.of(self.sources[claim.source].peer.id());
        if lane.run(stream).is_err() {
            state.sources.end(claim.source);
            state.pieces.release(claim);
            let busy = Error::Busy {
                who: self.sources[claim.source].who(),
            };
            state.sources.failed(claim.source, &busy, now);
        }
    }

    /// Fetches one claim, by `limit` if there is one. Gives the next one for the same holder, its stream begun,
    /// if anything is left.
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
        // First, so that whoever is answered and asks again meets what was learned.
        if let Err(error) = result {
            self.report(claim.source, &error);
        }
        replies.send(&self.expected);
        next
    }

    /// Says who failed: to the log, and to whoever keeps watch over the members.
    fn report(&self, source: usize, error: &Error) {
        let source = &self.sources[source];
        let is_claim = matches!(source.has, Has::File(_));
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
        // Whoever has kept blocks has claimed nothing: they come and go, and if they do not fit, the size
        // may be wrong that another member told.
        if is_claim {
            (self.core.on_failure)(source.peer.id(), error);
        }
    }

    /// A holder that says it has the content, and so has its leaves, and can be asked now.
    pub(super) fn sure_one(&self) -> Option<usize> {
        let now = Instant::now();
        let state = self.state.lock();
        let sure = (0..self.sources.len())
            .filter(|index| matches!(self.sources[*index].has, Has::File(_)))
            .filter_map(|index| Some((state.sources.tells(index, now)?, index)));
        sure.min().map(|(_, index)| index)
    }

    /// What a source is to be asked for, by now.
    pub(super) fn has(&self, source: usize) -> Has {
        if self.state.lock().sources.has_moved(source) {
            Has::Blocks
        } else {
            self.sources[source].has
        }
    }

    /// The file that a source named is not what it was.
    pub(super) fn note_moved(&self, source: usize, why: &Error) {
        self.state.lock().sources.moved(source, why);
    }

    /// True until the claim is given up.
    pub(super) fn is_wanted(&self, claim: Claim) -> bool {
        self.state.lock().pieces.is_open(claim)
    }

    /// Takes a piece that `claim` has brought. False when the claim was given up meanwhile.
    pub(super) fn arrive(self: &Arc<Self>, claim: Claim, content: Content) -> bool {
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

    /// Looks after waits: moves claims away from holders that stand still, tries again what is due,
    /// and fails readers for whom nothing has come for too long.
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
        if !state.parked.is_empty() {
            state.overtake(now);
            let late = Error::Timeout {
                who: self.sources.first().map(Source::who).unwrap_or_default(),
            };
            state.fail_late(now, &late, &mut replies);
            if now.saturating_duration_since(state.progress) >= STALL {
                let who = self.sources.first().map(Source::who).unwrap_or_default();
                let error = Error::Timeout { who };
                state.end = Some(End::Until(now + FAIL_FAST, error.clone()));
                state.fail_parked(&error, &mut replies);
                state.pieces.abandon();
            } else {
                self.keep_going(&mut state, now);
            }
        }
        drop(state);
        replies.send(&self.expected);
    }

    /// `source` has failed in telling of what another one brings.
    pub(super) fn note_teller(&self, source: usize, error: &Error) {
        self.report(source, error);
        self.note_failure(self.sources[source].peer.id(), error);
    }

    /// `member` has failed with this file in a way that no stream has seen.
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
        state.end = Some(End::Closed);
        state.fail_parked(&closed(), &mut replies);
        state.pieces.abandon();
        state.pieces.retain(|_| false);
        self.account(&mut state);
        drop(state);
        replies.send(&self.expected);
    }

    /// True once the reader has gone.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.state.lock().end, Some(End::Closed))
    }

    /// Tells the core how much memory this download takes now.
    fn account(&self, state: &mut State) {
        let held = state.pieces.held_bytes();
        let change = held.wrapping_sub(state.accounted);
        self.core.held_bytes.fetch_add(change, Ordering::Relaxed);
        state.accounted = held;
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let accounted = self.state.get_mut().accounted;
        self.core.held_bytes.fetch_sub(accounted, Ordering::Relaxed);
    }
}

impl State {
    /// Claims what should be fetched next from the holder that should bring it, if any.
    fn claim(&mut self, size: u64, now: Instant) -> Option<Claim> {
        let candidates = self.sources.candidates(now).into_iter();
        let mut claims = candidates.map(|source| self.claim_for(source, size, now));
        claims.find_map(|claim| claim)
    }

    /// Claims what `source` should fetch next, while it may.
    fn claim_from(&mut self, source: usize, size: u64, now: Instant) -> Option<Claim> {
        let source = Some(source).filter(|source| self.sources.has_room(*source, now))?;
        self.claim_for(source, size, now)
    }

    fn claim_for(&mut self, source: usize, size: u64, now: Instant) -> Option<Claim> {
        if matches!(self.end, Some(End::Lost(_) | End::Closed)) {
            return None;
        }
        let longest = self
            .sources
            .request_bytes(source, self.window.request_bytes());
        let longest = longest.next_multiple_of(PIECE);
        // Nobody waits for one that may have nothing while others are known to have it.
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

    fn deliver(&mut self, source: usize, delivery: Delivery, now: Instant) {
        self.sources.delivered(source, delivery);
        let (streams, is_far) = self.sources.shape(now);
        self.window.tune(streams, is_far);
    }

    /// Why a read that needs the network fails without being parked.
    fn refusal(&self, now: Instant) -> Option<Error> {
        match &self.end {
            Some(End::Lost(error)) => Some(error.clone()),
            Some(End::Until(until, error)) if now < *until => Some(error.clone()),
            Some(End::Closed) => Some(closed()),
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

    /// Fails the reads that have waited too long.
    fn fail_late(&mut self, now: Instant, error: &Error, replies: &mut Replies) {
        let late = |parked: &Parked| now.saturating_duration_since(parked.since) >= LONGEST_WAIT;
        let (late, rest) = std::mem::take(&mut self.parked).into_iter().partition(late);
        self.parked = rest;
        let late: Vec<Parked> = late;
        replies
            .failed
            .extend(late.into_iter().map(|parked| (parked, error.clone())));
    }

    /// Records that a holder failed. Readers fail with it only when no holder is left.
    fn fail(&mut self, source: usize, error: &Error, now: Instant, replies: &mut Replies) {
        self.sources.failed(source, error, now);
        if let Some(error) = self.sources.all_lost() {
            self.fail_parked(&error, replies);
            self.end = Some(End::Lost(error));
        }
    }

    /// Takes claims away from holders that stand still while a reader waits and another could help.
    fn overtake(&mut self, now: Instant) {
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
    fn drop_unwanted(&mut self) {
        let (keep, parked) = (self.window.keep(), &self.parked);
        let awaited = |range| parked.iter().any(|parked| overlap(range, parked.range));
        self.pieces
            .retain(|range| overlap(range, keep) || awaited(range));
    }
}

/// Why reads of a file fail that no member has who could be asked.
fn nobody() -> Error {
    Error::Unreachable {
        who: "a holder of the file".into(),
        why: "none is there".into(),
    }
}

/// Why reads of a file fail whose reader has gone.
pub(super) fn closed() -> Error {
    Error::Local {
        what: "reading".into(),
        why: "the file was closed".into(),
    }
}

fn overlap(a: ByteRange, b: ByteRange) -> bool {
    a.start < b.end && b.start < a.end
}
