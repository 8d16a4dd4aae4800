//! Fetches one whole file, on a thread of its own, for as long as somebody waits for it, or may
//! come back for it.
//!
//! The server takes one call at a time, so there is one fetch at a time, and the names do not
//! change during it. Callers that only want to know a size must not make the server send everything
//! it has: they get a little time in every ten seconds, and do not wait for fetches for others.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::super::client::ContentsLimits;
use super::super::store::ContentWriter;
use super::super::wire::longest_document;
use super::names::Fetched;
use super::{LegacyPeer, State};
use crate::concurrency::single_flight::Flight;
use crate::content::merkle::TreeHasher;
use crate::error::Error;
use crate::model::{Attributes, Name};
use crate::peer::Purpose;

/// A caller that opens a file and is told to come back finds the fetch still running for this long,
/// as long as data arrives.
const COME_BACK: Duration = Duration::from_secs(60);

/// The same while nobody wants another file from that server.
const COME_BACK_LATER: Duration = Duration::from_secs(1800);

/// The first byte of a fetch for somebody who needs the bytes must arrive within this time of its
/// turn: before sending it, the server reads the whole file, and perhaps serves another caller.
const FIRST_BYTE: Duration = Duration::from_secs(30);

/// Fetches for the size alone may use [`LOOKING`] of each such period.
const WINDOW: Duration = Duration::from_secs(10);

/// The time for such fetches in each [`WINDOW`].
const LOOKING: Duration = Duration::from_secs(3);

/// A fetch for the size alone does not begin with less time than this.
const MIN_LOOK: Duration = Duration::from_millis(200);

/// A file whose document is longer is not fetched for its size alone.
const MAX_LOOK: u64 = 64 << 20;

/// A download under way.
pub(super) struct Fetch {
    name: Name,
    need: Purpose,
    wanted_until: Mutex<Instant>,
    /// True if somebody waits for the bytes of another file.
    has_rival: AtomicBool,
    outcome: Flight<Result<(), Error>>,
}

/// The time spent on fetches for the size alone.
pub(super) struct Looks {
    since: Instant,
    spent: Duration,
}

/// The next step for somebody who needs a file.
enum FetchStep {
    /// Nothing to do: these attributes are all that will be known.
    Known(Attributes),
    /// Wait for this fetch, which may be of another file; these attributes are known so far.
    Await(Arc<Fetch>, Attributes),
}

impl LegacyPeer {
    /// Implements [`Whole::measure`](crate::peer::Whole::measure) for a file at the top.
    pub(super) fn measure_name(
        &self,
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
                        // The answer is that the size is not known yet.
                        _ => Ok(known),
                    };
                }
                (Some(_), _) if Instant::now() < deadline => {}
                (_, Purpose::Size) => return Ok(known),
                (_, Purpose::Bytes) => return Err(self.unfinished()),
            }
        }
    }

    fn step(&self, name: &Name, need: Purpose, deadline: Instant) -> Result<FetchStep, Error> {
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
            // A fetch for the size alone does not wait for another file.
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
        &self,
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
        let this = self.this.upgrade().ok_or_else(|| self.timeout())?;
        let fetched = Arc::clone(&fetch);
        // The state is locked here, so the guard that ends a fetch must not exist before
        // the thread does.
        std::thread::Builder::new()
            .name("fetch-2004".into())
            .spawn(move || FetchGuard::of(this, fetched).run())
            .map_err(|error| Error::local("starting a thread", error))?;
        state.fetch = Some(Arc::clone(&fetch));
        Ok(fetch)
    }

    /// Fetches a whole file.
    fn bring(&self, fetch: &Fetch) -> Result<Fetched, Error> {
        // A wait in this node's own queue says nothing about the server.
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

/// The destination of a file as it arrives.
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
    /// Returns true if its end satisfies somebody with this `need` of `name`. A fetch for the size
    /// alone may be given up; then the bytes are fetched again.
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

/// Ends a fetch when dropped, so that nobody waits for one that panicked.
struct FetchGuard {
    peer: Arc<LegacyPeer>,
    fetch: Arc<Fetch>,
    outcome: Result<Fetched, Error>,
}

impl FetchGuard {
    fn of(peer: Arc<LegacyPeer>, fetch: Arc<Fetch>) -> Self {
        let outcome = Err(peer.timeout());
        Self {
            peer,
            fetch,
            outcome,
        }
    }

    fn run(mut self) {
        let begun = Instant::now();
        self.outcome = self.peer.bring(&self.fetch);
        let mut state = self.peer.state.lock();
        if self.fetch.need == Purpose::Size {
            state.looks.spend(begun.elapsed(), Instant::now());
        }
    }
}

impl Drop for FetchGuard {
    fn drop(&mut self) {
        let gone = Err(self.peer.timeout());
        let outcome = std::mem::replace(&mut self.outcome, gone);
        // If one file does not arrive, that does not show whether the server is there; the
        // next listing does.
        if let Err(error) = &outcome
            && !matches!(error, Error::Timeout { .. })
        {
            self.peer.note(error);
        }
        let (mut before, now) = (None, Instant::now());
        let mut state = self.peer.state.lock();
        let seen = state.names.files.get_mut(&self.fetch.name);
        let outcome = match (outcome, seen) {
            (Ok(fetched), Some(seen)) => {
                before = seen.take(fetched, self.peer.caller.url(), &self.fetch.name);
                Ok(())
            }
            (Ok(_), None) => Err(self.peer.not_found()),
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
    /// Starts with no time spent.
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
