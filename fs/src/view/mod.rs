//! The merged tree, kept fresh.
//!
//! Answers come from memory while they are fresh ([`cache`]); otherwise all members are asked at once
//! under the operation's deadline, and what has answered by then counts ([`merge`]). Who did not
//! answer is remembered with the answer, so that silence is never taken for absence:
//! - a name that nobody has is remembered as absent only if everybody said so;
//! - a directory that only a silent member may have is an error, not an empty directory;
//! - when nobody at all has answered, every question is an error.
//!
//! One directory is fetched once at a time: whoever wants it meanwhile waits for the same answer.
//! Locks are held for a look into memory, never while the network is asked.

pub mod cache;
pub mod conflicts;
pub mod distinct_names;
pub mod merge;
mod siblings;
pub mod term;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tinyp2p_net::client::Need;
use tinyp2p_net::error::Error as NetError;
use tinyp2p_net::fanout::{Answer, Round};
use tinyp2p_net::follow::News;
use tinyp2p_net::types::{Attributes, Kind, Name, PeerId, RelPath};
use tinyp2p_net::wire::{Change, Depth, FaultCode};

use crate::errno::Error;
use crate::network::{HANDING_OVER, Network};
use cache::{Cache, Known};
use conflicts::Conflicts;
use merge::{Item, Member, Merged, Source};
use term::{Heard, Present, Term};

/// The name in the root that belongs to this program; a member's own file of that name is not shown.
pub const RESERVED: &[u8] = b".tinyp2p";

/// How long an operation may wait for the network.
#[derive(Clone, Copy, Debug)]
pub enum Wait {
    /// Not at all: what memory does not know is [`Error::NeedsNetwork`].
    No,
    /// At the latest until then.
    Until(Instant),
}

/// A directory as the mount shows it. Never changes; a newer state is another value.
#[derive(Debug, PartialEq, Eq)]
pub struct Directory {
    /// The newest modification time among the members that have it, nanoseconds since 1970; `None` for
    /// the root while nobody shares anything.
    pub mtime: Option<i64>,
    /// Its entries by name.
    pub items: Vec<Item>,
    /// The members that did not answer.
    pub silent: Vec<Arc<str>>,
}

/// What is known of one name.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// It is there.
    Item(Item),
    /// Nobody who answered has it.
    Nothing {
        /// True if everybody answered, so that the absence may be remembered.
        certain: bool,
    },
}

/// The tree of all members.
pub struct View {
    network: Arc<dyn Network>,
    /// The member to read from when several have the same: this node itself.
    preferred: Option<PeerId>,
    /// True for the mount's own tree: its root is there whoever is, and [`RESERVED`] belongs to this program.
    is_merged: bool,
    state: Mutex<State>,
    conflicts: Mutex<Conflicts>,
}

#[derive(Default)]
struct State {
    cache: Cache,
    flights: HashMap<RelPath, Arc<Flight>>,
    /// What ended answers, so that those that were under way meanwhile are not kept.
    heard: Heard,
}

/// One listing that is being fetched.
#[derive(Default)]
struct Flight {
    outcome: Mutex<Option<Result<Arc<Directory>, Error>>>,
    landed: Condvar,
}

/// When a question was put, and how much had been heard by then.
#[derive(Clone, Copy)]
struct Begun {
    asked: Instant,
    heard: u64,
}

/// What was made of a round, and for how long it may be gone by.
struct Made<T> {
    what: T,
    /// Which members there were, if all of them watch what they said.
    watched_by: Option<u64>,
}

/// All answers to one question.
struct Answers<T> {
    /// Those who have it.
    said: Vec<(Arc<Member>, T)>,
    /// How many said that they do not.
    denials: usize,
    /// The names of those who did not answer.
    silent: Vec<Arc<str>>,
}

impl View {
    /// The tree of `network`, which reads from `preferred` first when several members have the same.
    pub fn new(network: Arc<dyn Network>, preferred: Option<PeerId>) -> Self {
        Self {
            network,
            preferred,
            is_merged: true,
            state: Mutex::default(),
            conflicts: Mutex::default(),
        }
    }

    /// The tree of a member who is all of `network`, as that member has it.
    pub fn of_member(network: Arc<dyn Network>) -> Self {
        Self {
            is_merged: false,
            ..Self::new(network, None)
        }
    }

    /// The directory at `path`. The root of the mount is always there, if need be empty.
    pub fn list(&self, path: &RelPath, wait: Wait) -> Result<Arc<Directory>, Error> {
        let present = self.present();
        let mut state = self.state.lock();
        if let Some(directory) = state.cache.directory(path, present) {
            return Ok(directory);
        }
        let Wait::Until(deadline) = wait else {
            return Err(Error::NeedsNetwork);
        };
        if let Some(flight) = state.flights.get(path) {
            let flight = Arc::clone(flight);
            drop(state);
            return flight.wait(deadline);
        }
        let flight = Arc::new(Flight::default());
        state.flights.insert(path.clone(), Arc::clone(&flight));
        let begun = state.begin();
        drop(state);
        let mut landing = Landing {
            view: self,
            path,
            flight: &flight,
            outcome: Err(Error::Late),
            watched_by: None,
            begun,
        };
        landing.outcome = self.fetch(path, deadline).map(|made| {
            landing.watched_by = made.watched_by;
            made.what
        });
        landing.outcome.clone()
    }

    /// What `name` is in `directory`: from a fresh listing if there is one, else by asking for it.
    pub fn find(&self, directory: &RelPath, name: &Name, wait: Wait) -> Result<Found, Error> {
        if self.is_reserved(directory, name) {
            return Ok(Found::Nothing { certain: true });
        }
        let path = directory.join(name).map_err(|_| Error::NameTooLong)?;
        let present = self.present();
        let mut state = self.state.lock();
        if let Some(listing) = state.cache.directory_for(directory, name, present) {
            drop(state);
            return self.measured(directory, listing.look_up(name), wait);
        }
        if state.cache.is_absent(&path, present) {
            return Ok(Found::Nothing { certain: true });
        }
        let Wait::Until(deadline) = wait else {
            return Err(Error::NeedsNetwork);
        };
        let list_instead = state.cache.is_worth_listing(directory);
        let begun = state.begin();
        drop(state);
        if list_instead && let Ok(listing) = self.list(directory, wait) {
            return self.measured(directory, listing.look_up(name), wait);
        }

        let Made {
            what: answers,
            watched_by,
        } = self.ask(&path, deadline);
        let certain = answers.silent.is_empty();
        if let Some(item) = merge::name(name, answers.said, self.preferred) {
            return self.measured(directory, Found::Item(item), wait);
        }
        if answers.denials == 0 && !certain {
            return Err(Error::Silent(answers.silent.join(", ")));
        }
        if merge::may_be_conflict(name) {
            return match self.list(directory, wait) {
                Ok(listing) => self.measured(directory, listing.look_up(name), wait),
                Err(Error::NotFound | Error::Silent(_)) => Ok(Found::Nothing { certain }),
                Err(error) => Err(error),
            };
        }
        let mut state = self.state.lock();
        if certain && !state.heard.concern_entry(&path, begun.heard) {
            state.cache.insert_absent(path, begun.term(watched_by));
        }
        Ok(Found::Nothing { certain })
    }

    /// What was `found` in `directory`, with its size if only its name is known so far: the members that do not
    /// tell are asked for it. If that would take too long, it stays unknown.
    pub fn measured(&self, directory: &RelPath, found: Found, wait: Wait) -> Result<Found, Error> {
        let item = match found {
            Found::Item(item) if !item.is_measured() => item,
            other => return Ok(other),
        };
        let Wait::Until(deadline) = wait else {
            return Err(Error::NeedsNetwork);
        };
        let deadline = deadline.checked_sub(HANDING_OVER).unwrap_or(deadline);
        let name = item.name_at_members();
        let path = directory.join(name).map_err(|_| Error::NameTooLong)?;
        let sources = item.sources.iter().enumerate();
        let measured = sources.filter_map(|(index, source)| {
            let unknown = Attributes {
                kind: Kind::File,
                size: Attributes::UNKNOWN_SIZE,
                mtime: item.mtime,
                version: source.version,
                root: None,
            };
            let whole = self.network.whole(source.member.id);
            // One that is slow leaves some of the time for the others.
            let until = turn(deadline, item.sources.len() - index);
            let measured = whole.map(|whole| whole.measure(&path, Need::Size, until));
            let attributes = match measured {
                Some(Err(NetError::NotFound { .. })) => return None,
                Some(Ok(attributes)) => attributes,
                Some(Err(_)) | None => unknown,
            };
            Some((Arc::clone(&source.member), attributes))
        });
        Ok(
            match merge::name(name, measured.collect(), self.preferred) {
                Some(known) => Found::Item(Item {
                    name: item.name.clone(),
                    original: item.original.clone(),
                    ..known
                }),
                // It was a name and nothing to read: most likely, of a directory.
                None => Found::Nothing { certain: false },
            },
        )
    }

    /// The modification time of the directory at `path`, nanoseconds since 1970.
    pub fn mtime(&self, path: &RelPath, wait: Wait) -> Result<i64, Error> {
        let present = self.present();
        if let Some(directory) = self.state.lock().cache.directory(path, present) {
            return directory.mtime.ok_or(Error::NotFound);
        }
        let Wait::Until(deadline) = wait else {
            return Err(Error::NeedsNetwork);
        };
        let answers = self.ask(path, deadline).what;
        let directories = answers.said.iter().map(|(_, attributes)| attributes);
        let directories = directories.filter(|attributes| attributes.kind == Kind::Directory);
        match directories.map(|attributes| attributes.mtime).max() {
            Some(mtime) => Ok(mtime),
            None if answers.silent.is_empty() => Err(Error::NotFound),
            None => Err(Error::Silent(answers.silent.join(", "))),
        }
    }

    /// Ends what is known of `path` and of the directory that it lies in: the next question asks the
    /// network.
    pub fn invalidate(&self, path: &RelPath) {
        let mut state = self.state.lock();
        state.heard.note(Change {
            path: path.clone(),
            depth: Depth::Tree,
        });
        let gone = state.cache.forget(path);
        drop(state);
        drop(gone);
    }

    /// Ends what may no longer hold, after news of some member.
    pub fn take_in(&self, news: &News) {
        let mut state = self.state.lock();
        match news {
            News::Changed(changes) => {
                for change in outermost(changes) {
                    state.cache.take_in(change);
                    state.heard.note(change.clone());
                }
            }
            News::Lost => {
                state.cache.distrust();
                // What is under way relies on the member, too.
                state.heard.note(Change::everything());
            }
        }
    }

    /// The names in the last listing of `directory` that stand for other contents of names in it: how each is shown, and the name
    /// at the members.
    pub fn renamed_in(&self, directory: &RelPath) -> Vec<(Name, Name)> {
        let listing = self.state.lock().cache.last_directory(directory);
        let items = listing.iter().flat_map(|listing| &listing.items);
        let renamed = items.filter_map(|item| Some((item.name.clone(), item.original.clone()?)));
        renamed.collect()
    }

    fn present(&self) -> Present {
        Present {
            now: Instant::now(),
            revision: self.network.revision(),
        }
    }

    /// Sums over what was listed lately.
    pub fn known(&self) -> Known {
        self.state.lock().cache.known()
    }

    /// The conflicts in all directories that were listed, as they were seen last: a text for people.
    pub fn conflicts(&self) -> String {
        self.conflicts.lock().text()
    }

    fn is_reserved(&self, directory: &RelPath, name: &Name) -> bool {
        self.is_merged && directory.is_root() && name.as_bytes() == RESERVED
    }

    /// Asks everybody for the whole of one directory.
    fn fetch(&self, path: &RelPath, deadline: Instant) -> Result<Made<Arc<Directory>>, Error> {
        let Made {
            what: answers,
            watched_by,
        } = Made::of(self.network.list(path, deadline));
        if answers.said.is_empty() && !(self.is_merged && path.is_root()) {
            return Err(if answers.silent.is_empty() {
                self.conflicts.lock().update(path, &[], |_| false);
                Error::NotFound
            } else {
                Error::Silent(answers.silent.join(", "))
            });
        }
        if !answers.silent.is_empty() {
            let silent = answers.silent.join(", ");
            tracing::debug!(directory = %path, %silent, "listed without everybody's answer");
        }
        let mtime = answers.said.iter().map(|(_, listing)| listing.mtime).max();
        let said = answers.said.into_iter();
        let listings = said.map(|(member, listing)| (member, listing.entries));
        let Merged {
            mut items,
            left_out,
        } = merge::merge(listings.collect(), self.preferred);
        let mut silent = answers.silent;
        for member in left_out {
            tracing::warn!(directory = %path, member = %member.name, "names too much to be shown");
            silent.push(Arc::clone(&member.name));
        }
        items.retain(|item| !self.is_reserved(path, &item.name));
        if self.is_merged {
            let is_disproved =
                |source: &Source| self.network.is_disproved(source.member.id, source.version);
            self.conflicts.lock().update(path, &items, is_disproved);
        }
        let what = Arc::new(Directory {
            mtime,
            items,
            silent,
        });
        Ok(Made { what, watched_by })
    }

    /// Asks everybody for one path.
    fn ask(&self, path: &RelPath, deadline: Instant) -> Made<Answers<Attributes>> {
        Made::of(self.network.stat(path, deadline))
    }
}

/// Those of `changes` that no other one of them includes, so that together they cost one walk through what is remembered.
fn outermost(changes: &[Change]) -> Vec<&Change> {
    let mut sorted: Vec<&Change> = changes.iter().collect();
    sorted.sort_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
    let mut outermost: Vec<&Change> = Vec::with_capacity(sorted.len());
    // What is within a path sorts behind it, though other paths may stand in between.
    let mut trees: Vec<&Change> = Vec::new();
    for change in sorted {
        while let Some(tree) = trees.last()
            && !change.path.as_bytes().starts_with(tree.path.as_bytes())
        {
            trees.pop();
        }
        if trees.iter().any(|tree| change.path.is_within(&tree.path)) {
            continue;
        }
        if change.depth == Depth::Tree {
            trees.push(change);
        }
        outermost.push(change);
    }
    outermost
}

impl State {
    fn begin(&self) -> Begun {
        Begun {
            asked: Instant::now(),
            heard: self.heard.count(),
        }
    }
}

impl Begun {
    /// The term of an answer that has just come.
    fn term(self, watched_by: Option<u64>) -> Term {
        Term {
            asked: self.asked,
            came: Instant::now(),
            watched_by,
            is_over: false,
        }
    }
}

impl<T> Made<Answers<T>> {
    fn of(round: Round<Option<T>>) -> Self {
        Self {
            watched_by: round.watched.then_some(round.revision),
            what: Answers::sort(round.answers),
        }
    }
}

impl Directory {
    fn look_up(&self, name: &Name) -> Found {
        match self.items.binary_search_by(|item| item.name.cmp(name)) {
            Ok(index) => Found::Item(self.items[index].clone()),
            Err(_) => Found::Nothing {
                certain: self.silent.is_empty(),
            },
        }
    }
}

impl<T> Answers<T> {
    /// Tells those who have it from those who do not and from those who did not say.
    fn sort(answers: Vec<Answer<Option<T>>>) -> Self {
        let mut sorted = Self {
            said: Vec::with_capacity(answers.len()),
            denials: 0,
            silent: Vec::new(),
        };
        for Answer {
            member: id,
            name,
            result,
        } in answers
        {
            match result {
                Ok(Some(answer)) => sorted.said.push((Arc::new(Member { id, name }), answer)),
                Ok(None) => sorted.denials += 1,
                Err(error) if is_denial(&error) => sorted.denials += 1,
                Err(error) => {
                    tracing::debug!(member = %name, %error, "no answer");
                    sorted.silent.push(name);
                }
            }
        }
        sorted
    }
}

/// When the next of `left` who are asked one after the other has to be done, so that all have had their time by
/// `deadline`.
pub(crate) fn turn(deadline: Instant, left: usize) -> Instant {
    let now = Instant::now();
    let left = u32::try_from(left.max(1)).unwrap_or(u32::MAX);
    now + deadline.saturating_duration_since(now) / left
}

/// True if the member said that it has nothing there; any other error says nothing about that.
fn is_denial(error: &NetError) -> bool {
    match error {
        NetError::NotFound { .. } => true,
        NetError::Fault { fault, .. } => {
            matches!(fault.code, FaultCode::NotFound | FaultCode::NotADirectory)
        }
        _ => false,
    }
}

impl Flight {
    fn wait(&self, deadline: Instant) -> Result<Arc<Directory>, Error> {
        let mut outcome = self.outcome.lock();
        while outcome.is_none() {
            if self.landed.wait_until(&mut outcome, deadline).timed_out() {
                break;
            }
        }
        outcome.clone().unwrap_or(Err(Error::Late))
    }
}

/// Ends a flight when it is dropped, so that nobody waits for a fetch that panicked.
struct Landing<'a> {
    view: &'a View,
    path: &'a RelPath,
    flight: &'a Flight,
    outcome: Result<Arc<Directory>, Error>,
    watched_by: Option<u64>,
    begun: Begun,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        let mut gone = Vec::new();
        let mut state = self.view.state.lock();
        state.flights.remove(self.path);
        if let Ok(directory) = &self.outcome
            && let Some(missed) = state.heard.about_listing(self.path, self.begun.heard)
        {
            let (path, directory) = (self.path.clone(), Arc::clone(directory));
            let term = self.begun.term(self.watched_by);
            gone = state.cache.insert(path, directory, term, &missed);
        }
        drop(state);
        drop(gone);
        *self.flight.outcome.lock() = Some(self.outcome.clone());
        self.flight.landed.notify_all();
    }
}

#[cfg(test)]
mod tests;
