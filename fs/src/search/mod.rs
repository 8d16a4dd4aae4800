//! Searches of the whole network, as directories: what `.tinyp2p/search/REGEX/` shows.
//!
//! Reading such a directory asks all members once, under the operation's deadline, and the answers
//! that arrive by then count. The result is kept for a few seconds, for programs that walk it and
//! look up its names one by one. A search runs only once at a time for all who want it, and few run
//! at once, so that searches leave the members time for everybody else. Invalid patterns, and
//! searches that found too much, are remembered for the status.

mod names;

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tinyp2p_net::budget::{Relieve, Reservation, Weigh};
use tinyp2p_net::concurrency::expiring_map::ExpiringMap;
use tinyp2p_net::concurrency::single_flight::SingleFlight;
use tinyp2p_net::model::{Name, PeerId, RelPath, escaped};
use tinyp2p_net::share::check_pattern;

use crate::errno::Error;
use crate::network::MemberRef;
use crate::network::Network;
use crate::report::status::SearchTrouble;
use crate::view::{Wait, directory};
pub use names::Match;

/// How long a result holds: long enough to walk a directory, short enough for a second look to show
/// what is new.
const KEPT: Duration = Duration::from_secs(5);

/// The maximum number of files that one search shows.
const MAX_MATCHES: usize = 65_536;

/// The maximum number of bytes that all results in memory hold together: one of the largest, with
/// paths of usual length. One is kept whatever its size, which the budget of answers bounds.
const MAX_BYTES: usize = 32 << 20;

/// Searches that run at once; further ones wait for their turn.
const MAX_RUNNING: usize = 2;

/// The maximum number of recent problems that the status shows.
const MAX_TROUBLES: usize = 16;

/// What one search found. Immutable.
#[derive(Debug, Default)]
pub struct SearchResult {
    /// The files, sorted by the names under which they are shown.
    pub files: Vec<Match>,
    /// True if every member has named everything.
    pub is_all: bool,
    /// The bytes that it takes.
    held: Vec<Reservation>,
}

impl SearchResult {
    fn bytes(&self) -> usize {
        // A result without files takes room, too.
        EMPTY + self.held.iter().map(Reservation::bytes).sum::<usize>()
    }

    /// The file that is shown as `name`.
    pub fn look_up(&self, name: &Name) -> Option<&Match> {
        let index = self.files.binary_search_by(|file| file.item.name.cmp(name));
        index.ok().map(|index| &self.files[index])
    }
}

/// What a result takes beyond its files.
const EMPTY: usize = 1024;

/// The searches of one mount.
pub struct Searches {
    network: Arc<dyn Network>,
    preferred: Option<PeerId>,
    state: Arc<SearchMemory>,
    running: SingleFlight<(Arc<str>, u64), Result<Arc<SearchResult>, Error>>,
}

/// The results that are remembered, kept apart so that they can make room.
#[derive(Default)]
struct SearchMemory(Mutex<State>);

impl SearchMemory {
    /// Forgets the outcomes for which `is_over` holds.
    fn forget(&self, is_over: impl Fn(&SearchResult) -> bool) {
        let mut state = self.0.lock();
        let gone = state.outcomes.remove_all(|_, matches| is_over(matches));
        drop(state);
        drop(gone);
    }
}

impl Relieve for SearchMemory {
    fn relieve(&self, member: PeerId) {
        self.forget(|matches| {
            let largest = matches.held.iter().max_by_key(|held| held.bytes());
            largest.is_some_and(|held| held.member() == member)
        });
    }
}

struct State {
    outcomes: ExpiringMap<Arc<str>, Arc<SearchResult>>,
    /// Counts [`Searches::invalidate`], so that an answer under way at that time is not kept.
    invalidations: u64,
    troubles: VecDeque<NotedTrouble>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            outcomes: ExpiringMap::new(KEPT, MAX_BYTES),
            invalidations: 0,
            troubles: VecDeque::new(),
        }
    }
}

struct NotedTrouble {
    pattern: Arc<str>,
    problem: String,
    since: Instant,
}

impl Searches {
    /// Creates the searches in `network`. Files are read from `preferred` first when several
    /// members have them.
    pub fn new(network: Arc<dyn Network>, preferred: Option<PeerId>) -> Self {
        let state = Arc::new(SearchMemory::default());
        let keeper = Arc::downgrade(&state);
        network.budget().ask_for_room(keeper as Weak<dyn Relieve>);
        Self {
            network,
            preferred,
            state,
            running: SingleFlight::new(MAX_RUNNING),
        }
    }

    /// Returns `name` as a pattern, if it is one; if not, the status says why. Takes some 30 ms at
    /// worst: patterns that grow too large are rejected.
    pub fn pattern(&self, name: &[u8]) -> Option<Arc<str>> {
        let problem = match std::str::from_utf8(name) {
            Err(_) => "it is not UTF-8".to_owned(),
            Ok(pattern) => match check_pattern(pattern) {
                Ok(()) => return Some(pattern.into()),
                Err(problem) => problem,
            },
        };
        let shown = escaped(name);
        tracing::info!(pattern = %shown, %problem, "no pattern");
        self.note(shown.into(), problem);
        None
    }

    /// Returns what `pattern` finds.
    pub fn find(&self, pattern: &Arc<str>, wait: Wait) -> Result<Arc<SearchResult>, Error> {
        if let Some(matches) = self.remembered(pattern) {
            return Ok(matches);
        }
        let deadline = wait.deadline()?;
        loop {
            // A search that began before an invalidation answers nobody who comes after it.
            let begun = self.state.0.lock().invalidations;
            let mut is_own = false;
            let ask = || {
                is_own = true;
                // Another thread may have just made it.
                if let Some(matches) = self.remembered(pattern) {
                    return Ok(matches);
                }
                let matches = self.ask(pattern, deadline)?;
                self.keep(pattern, &matches, begun);
                Ok(matches)
            };
            let key = (Arc::clone(pattern), begun);
            match self.running.run(&key, deadline, ask) {
                // The other caller may have had less time.
                Some(Err(_)) if !is_own && Instant::now() < deadline => {}
                outcome => return outcome.unwrap_or(Err(Error::Late)),
            }
        }
    }

    fn remembered(&self, pattern: &Arc<str>) -> Option<Arc<SearchResult>> {
        let state = self.state.0.lock();
        state.outcomes.get(pattern, Instant::now()).cloned()
    }

    /// Invalidates the results that contain `path`: the next look asks the network.
    pub fn invalidate(&self, path: &RelPath) {
        self.state.0.lock().invalidations += 1;
        let has_it = |matches: &SearchResult| matches.files.iter().any(|file| file.path == *path);
        self.state.forget(has_it);
    }

    /// Returns what went wrong recently, the last one first.
    pub fn troubles(&self) -> Vec<SearchTrouble> {
        let state = self.state.0.lock();
        let troubles = state.troubles.iter().rev();
        let troubles = troubles.map(|trouble| SearchTrouble {
            pattern: trouble.pattern.to_string(),
            problem: trouble.problem.clone(),
            seconds: trouble.since.elapsed().as_secs(),
        });
        troubles.collect()
    }

    fn ask(&self, pattern: &Arc<str>, deadline: Instant) -> Result<Arc<SearchResult>, Error> {
        let answers = self.network.search(pattern, deadline);
        let (mut found, mut silent, mut is_all) = (Vec::new(), Vec::new(), true);
        let mut held = Vec::new();
        for answer in answers {
            match answer.result {
                Ok(matches) => {
                    let (id, name) = (answer.member, answer.name);
                    let (matches, reservation) = matches.into_parts();
                    is_all &= matches.is_all;
                    found.push((Arc::new(MemberRef { id, name }), matches.files));
                    held.push(reservation);
                }
                Err(error) => {
                    tracing::debug!(member = %answer.name, %error, "no answer");
                    silent.push(answer.name);
                }
            }
        }
        if found.is_empty() && !silent.is_empty() {
            return Err(Error::Silent(silent.join(", ")));
        }
        let (files, fits) = names::flat(found, self.preferred, MAX_MATCHES);
        if !(fits && is_all) {
            let problem = if fits {
                "not all that matches came in time"
            } else {
                "it matches more files than are shown"
            };
            let problem = format!("{problem}; {} are there", files.len());
            tracing::info!(%pattern, %problem, "a search shows only a part");
            self.note(escaped(pattern.as_bytes()).into(), problem);
        }
        let bytes: usize = files.iter().map(weight).sum();
        let all: usize = held.iter().map(Reservation::bytes).sum();
        for held in &mut held {
            // Each keeps the same share of the rest as it had of the whole.
            let its = held.bytes() as u128 * bytes as u128 / all.max(1) as u128;
            held.shrink_to(usize::try_from(its).unwrap_or(usize::MAX));
        }
        Ok(Arc::new(SearchResult {
            is_all: fits && is_all && silent.is_empty(),
            files,
            held,
        }))
    }

    /// Remembers a result, and of the others only as many as fit beside it.
    fn keep(&self, pattern: &Arc<str>, matches: &Arc<SearchResult>, begun: u64) {
        let now = Instant::now();
        let mut state = self.state.0.lock();
        if state.invalidations != begun {
            return;
        }
        // One outcome is kept whatever its size.
        let weight = matches.bytes().min(MAX_BYTES);
        let outcome = Arc::clone(matches);
        let gone = state
            .outcomes
            .insert(Arc::clone(pattern), outcome, weight, now);
        drop(state);
        drop(gone);
    }

    fn note(&self, pattern: Arc<str>, problem: String) {
        let mut state = self.state.0.lock();
        state.troubles.retain(|trouble| trouble.pattern != pattern);
        if state.troubles.len() == MAX_TROUBLES {
            state.troubles.pop_front();
        }
        state.troubles.push_back(NotedTrouble {
            pattern,
            problem,
            since: Instant::now(),
        });
    }
}

fn weight(file: &Match) -> usize {
    directory::weight(&file.item) + file.path.weight()
}

#[cfg(test)]
mod tests;
