//! Fetching one file whole, on a thread of its own, for as long as somebody waits for it, or may
//! come back for it.
//!
//! The server takes one call at a time, so there is one fetch at a time; while it goes on, the
//! names are those of before. Those who only want to know a size may not make the server send all
//! that it has: they have a little time in every ten seconds, and do not wait for what is fetched
//! for others.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::super::client::ContentsLimits;
use super::super::store::ContentWriter;
use super::super::wire::longest_document;
use super::names::Fetched;
use super::{LegacyPeerState, State};
use crate::concurrency::single_flight::Flight;
use crate::content::merkle::TreeHasher;
use crate::error::Error;
use crate::model::{Attributes, Name};
use crate::peer::Purpose;

/// Whoever opens a file and is told to come back finds the fetching going on for this long, as long
/// as something comes.
const COME_BACK: Duration = Duration::from_secs(60);

/// The same while nobody wants another file of that server.
const COME_BACK_LATER: Duration = Duration::from_secs(1800);

/// A fetch for somebody who needs the bytes has to begin to bring some within this time
/// of its turn: before its first byte, the server reads all of the file, and perhaps
/// serves another caller.
const FIRST_BYTE: Duration = Duration::from_secs(30);

/// Those who only want to know sizes may use [`LOOKING`] of each such time.
const WINDOW: Duration = Duration::from_secs(10);

/// See [`WINDOW`].
const LOOKING: Duration = Duration::from_secs(3);

/// With less time than this, nobody begins to look.
const MIN_LOOK: Duration = Duration::from_millis(200);

/// A file whose document is longer is not fetched just to know its size.
const MAX_LOOK: u64 = 64 << 20;

/// A download that is under way.
pub(super) struct Fetch {
    name: Name,
    need: Purpose,
    wanted_until: Mutex<Instant>,
    /// Somebody waits for the bytes of another file.
    has_rival: AtomicBool,
    outcome: Flight<Result<(), Error>>,
}

/// The time that was spent on those who only want to know sizes.
pub(super) struct Looks {
    since: Instant,
    spent: Duration,
}

/// What there is to do for somebody who needs a file.
enum FetchStep {
    /// Nothing: this is what is known, and all that will be.
    Known(Attributes),
    /// To wait for this one, which may be of another file; meanwhile that is what is known.
    Await(Arc<Fetch>, Attributes),
}

impl LegacyPeerState {
    /// What [`Whole::measure`](crate::peer::Whole::measure) does, of a file at the top.
    pub(super) fn measure(
        self: &Arc<Self>,
        name: &Name,
        need: Purpose,
        deadline: Instant,
    ) -> Result<Attributes, Error> {
        loop {
            let (fetch, known) = match self.step(name, need, deadline)? {
                FetchStep::Known(attributes) => return Ok(attributes),
                FetchStep::Await(fetch, known) => (fetch, known),
            };
            let is_ours = fetch.serves(name, need);
            if is_ours {
                fetch.want_until(need, deadline);
            }
            let outcome = fetch.outcome.wait(deadline);
            match (outcome, need) {
                (Some(Err(error)), Purpose::Bytes) if is_ours => return Err(error),
                (Some(Err(error)), Purpose::Size) if is_ours => {
                    return match error {
                        Error::NotFound { .. } | Error::Refused { .. } => Err(error),
                        // Not known yet is all that there is to say.
                        _ => Ok(known),
                    };
                }
                (Some(_), _) if Instant::now() < deadline => {}
                (_, Purpose::Size) => return Ok(known),
                (_, Purpose::Bytes) => return Err(self.unfinished()),
            }
        }
    }

    fn step(
        self: &Arc<Self>,
        name: &Name,
        need: Purpose,
        deadline: Instant,
    ) -> Result<FetchStep, Error> {
        let mut state = self.state.lock();
        if !state.names.files.contains_key(name) {
            drop(state);
            state = self.list(deadline)?;
        }
        let now = Instant::now();
        let seen = state.names.files.get(name);
        let seen = seen.filter(|seen| seen.is_readable(now));
        let seen = seen.ok_or_else(|| self.not_found())?;
        let known = seen.attributes();
        let may_look =
            || !seen.is_long(now) && state.looks.may_go_on(now) && deadline > now + MIN_LOOK;
        if seen.suffices(need, now) || (need == Purpose::Size && !may_look()) {
            return Ok(FetchStep::Known(known));
        }
        let fetch = match &state.fetch {
            // Whoever only looks does not wait for somebody else's file.
            Some(other) if need == Purpose::Size && other.name != *name => {
                return Ok(FetchStep::Known(known));
            }
            Some(fetch) => {
                if fetch.name != *name {
                    fetch.has_rival.store(true, Ordering::Relaxed);
                }
                Arc::clone(fetch)
            }
            None => self.begin(&mut state, name, need, deadline)?,
        };
        Ok(FetchStep::Await(fetch, known))
    }

    /// Starts to fetch `name`.
    fn begin(
        self: &Arc<Self>,
        state: &mut State,
        name: &Name,
        need: Purpose,
        deadline: Instant,
    ) -> Result<Arc<Fetch>, Error> {
        let fetch = Arc::new(Fetch {
            name: name.clone(),
            need,
            wanted_until: Mutex::new(deadline),
            has_rival: AtomicBool::new(false),
            outcome: Flight::default(),
        });
        let (inner, fetched) = (Arc::clone(self), Arc::clone(&fetch));
        // The state is locked here, so what ends a fetch must not be made before there is a thread.
        std::thread::Builder::new()
            .name("fetch-2004".into())
            .spawn(move || FetchGuard::of(inner, fetched).run())
            .map_err(|error| Error::local("starting a thread", error))?;
        state.fetch = Some(Arc::clone(&fetch));
        Ok(fetch)
    }

    /// Fetches all of a file.
    fn bring(&self, fetch: &Fetch) -> Result<Fetched, Error> {
        // This node's own queue says nothing about the server.
        let turn = self.turn(fetch.wanted_until());
        let _turn = turn.ok_or_else(|| self.unfinished())?;
        let begun = Instant::now();
        let name = &fetch.name;
        let max = self.store.max();
        let (document, begin) = match fetch.need {
            Purpose::Size => (MAX_LOOK, fetch.wanted_until()),
            Purpose::Bytes => (longest_document(max), begun + FIRST_BYTE),
        };
        let allowance = ContentsLimits {
            max,
            document,
            begin,
            is_wanted: &|| fetch.is_wanted(),
        };
        let writer = self.store.begin();
        let writer = writer.map_err(|error| Error::local(format!("keeping {name}"), error))?;
        let mut keeper = FetchSink {
            writer,
            hasher: TreeHasher::default(),
        };
        let caller = &self.caller;
        let size = caller.contents(name.as_bytes(), &allowance, &mut keeper)?;
        let took = begun.elapsed();
        tracing::debug!(
            server = caller.place(),
            %name,
            size,
            milliseconds = took.as_millis(),
            "fetched"
        );
        let tree = keeper.hasher.finish().map(Arc::new);
        Ok(Fetched {
            size,
            root: tree.as_ref().map(|tree| tree.root()),
            kept: keeper.writer.finish(tree),
            when: Instant::now(),
            took,
        })
    }

    fn unfinished(&self) -> Error {
        Error::Unfinished { who: self.who() }
    }
}

/// Where a file goes as it comes.
struct FetchSink {
    writer: ContentWriter,
    hasher: TreeHasher,
}

impl Write for FetchSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.append(bytes)?;
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Fetch {
    /// True if its end is what somebody waits for who has this `need` of `name`. What is fetched
    /// for its size alone may be given up; then the bytes are fetched anew.
    fn serves(&self, name: &Name, need: Purpose) -> bool {
        self.name == *name && (need == Purpose::Size || self.need == Purpose::Bytes)
    }

    fn want_until(&self, need: Purpose, deadline: Instant) {
        let until = match need {
            Purpose::Size => deadline,
            Purpose::Bytes => deadline + COME_BACK,
        };
        let mut wanted_until = self.wanted_until.lock();
        *wanted_until = until.max(*wanted_until);
    }

    fn wanted_until(&self) -> Instant {
        *self.wanted_until.lock()
    }

    fn is_wanted(&self) -> bool {
        let later = match self.need {
            Purpose::Bytes if !self.has_rival.load(Ordering::Relaxed) => COME_BACK_LATER,
            _ => Duration::ZERO,
        };
        Instant::now() < self.wanted_until() + later
    }
}

/// Ends a fetch when it is dropped, so that nobody waits for one that panicked.
struct FetchGuard {
    inner: Arc<LegacyPeerState>,
    fetch: Arc<Fetch>,
    outcome: Result<Fetched, Error>,
}

impl FetchGuard {
    fn of(inner: Arc<LegacyPeerState>, fetch: Arc<Fetch>) -> Self {
        let outcome = Err(inner.timeout());
        Self {
            inner,
            fetch,
            outcome,
        }
    }

    fn run(mut self) {
        let begun = Instant::now();
        self.outcome = self.inner.bring(&self.fetch);
        let mut state = self.inner.state.lock();
        if self.fetch.need == Purpose::Size {
            state.looks.spend(begun.elapsed(), Instant::now());
        }
    }
}

impl Drop for FetchGuard {
    fn drop(&mut self) {
        let gone = Err(self.inner.timeout());
        let outcome = std::mem::replace(&mut self.outcome, gone);
        // That one file does not come does not tell whether the server is there; the next listing
        // does.
        if let Err(error) = &outcome
            && !matches!(error, Error::Timeout { .. })
        {
            self.inner.note(error);
        }
        let (mut before, now) = (None, Instant::now());
        let mut state = self.inner.state.lock();
        let seen = state.names.files.get_mut(&self.fetch.name);
        let outcome = match (outcome, seen) {
            (Ok(fetched), Some(seen)) => {
                before = seen.take(fetched, self.inner.caller.url(), &self.fetch.name);
                Ok(())
            }
            (Ok(_), None) => Err(self.inner.not_found()),
            (Err(error), seen) => {
                match (&error, seen) {
                    (Error::NotFound { .. }, Some(seen)) => seen.is_unreadable(now),
                    // Too large, given up, or too slow.
                    (Error::Local { .. } | Error::Timeout { .. }, Some(seen))
                        if self.fetch.need == Purpose::Size =>
                    {
                        seen.took_long(now);
                    }
                    _ => {}
                }
                Err(error)
            }
        };
        state.fetch = None;
        drop(state);
        drop(before);
        self.fetch.outcome.land(outcome);
    }
}

impl Looks {
    /// Nothing was spent yet.
    pub(super) fn from(now: Instant) -> Self {
        Self {
            since: now,
            spent: Duration::ZERO,
        }
    }

    fn may_go_on(&self, now: Instant) -> bool {
        self.spent < LOOKING || now.saturating_duration_since(self.since) >= WINDOW
    }

    fn spend(&mut self, time: Duration, now: Instant) {
        if now.saturating_duration_since(self.since) >= WINDOW {
            (self.since, self.spent) = (now, Duration::ZERO);
        }
        self.spent += time;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_lookups_have_bounded_server_time() {
        let now = Instant::now();
        let mut looks = Looks::from(now);
        looks.spend(LOOKING / 2, now);
        assert!(looks.may_go_on(now));
        looks.spend(LOOKING, now);
        assert!(!looks.may_go_on(now) && looks.may_go_on(now + WINDOW));
        looks.spend(LOOKING / 2, now + WINDOW);
        assert!(looks.may_go_on(now + WINDOW));
    }
}
