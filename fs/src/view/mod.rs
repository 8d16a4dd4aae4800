//! The merged tree, kept fresh.
//!
//! Answers come from memory while they are fresh ([`cache`]); otherwise all members are asked at once
//! under the operation's deadline, and what has answered by then counts ([`merge`]). Who did not
//! answer is remembered with the answer, so that silence is never taken for absence:
//! - a name that nobody has is remembered as absent only if everybody said so;
//! - a directory that only a silent member may have is an error, not an empty directory;
//! - when nobody at all has answered, every question is an error;
//! - who answers that it cannot tell, as something failed there or has run out, makes a name that nobody else has an error.
//!
//! News of a member end what that member said, and no other's: then it alone is asked again.
//!
//! One directory is fetched once at a time: whoever wants it meanwhile waits for the same answer.
//! Locks are held for a look into memory, never while the network is asked, and never for work whose size a member chooses.

pub mod cache;
pub mod comparing;
pub mod conflicts;
pub mod directory;
pub mod distinct_names;
pub mod heard;
pub mod merge;
pub(crate) mod siblings;
pub mod term;
pub mod tree_order;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tinyp2p_net::budget::Relieve;
use tinyp2p_net::client::Need;
use tinyp2p_net::error::Error as NetError;
use tinyp2p_net::fanout::{Answer, Round, Whom};
use tinyp2p_net::follow::News;
use tinyp2p_net::types::{Attributes, Kind, Mode, Name, PeerId, RelPath, UnixTime};
use tinyp2p_net::wire::{Change, Depth, FaultCode};

use crate::errno::Error;
use crate::network::{HANDING_OVER, Network};
use cache::{Cache, Kept, Known};
use comparing::Comparing;
use conflicts::{Conflicts, Seen};
pub use directory::Directory;
use directory::Said;
use heard::{Heard, outermost};
use merge::{Item, Member, Source};
use term::{Present, Term};

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

/// The most bytes of listings that the tree of a single member remembers: there may be many such trees.
const MAX_MEMBER_BYTES: usize = 16 << 20;

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
    state: Arc<Memory>,
    conflicts: Mutex<Conflicts>,
    comparing: Comparing,
}

/// What is remembered, apart, so that it can make room.
#[derive(Default)]
struct Memory(Mutex<State>);

#[derive(Default)]
struct State {
    cache: Cache,
    flights: HashMap<RelPath, Arc<Flight>>,
    /// What ends answers, those that are under way meanwhile, too.
    heard: Heard,
    /// Those who watched the last answer: most answers have the same, and share this.
    watched: Arc<[PeerId]>,
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

/// What was made of a round, and who will be heard of when it changes.
struct Made<T> {
    what: T,
    watch: Watch,
}

/// Who watches what was said.
#[derive(Clone)]
struct Watch {
    /// When the first of them was asked, if that was before this round.
    asked: Option<Instant>,
    members: Vec<PeerId>,
    is_all: bool,
    revision: u64,
}

/// All answers to one question.
struct Answers<T> {
    /// Those who have it.
    said: Vec<(Arc<Member>, T)>,
    /// How many said that they do not.
    denials: usize,
    /// Those who have it and may not read it themselves.
    barred: Vec<Arc<str>>,
    /// The names of those who did not answer.
    silent: Vec<Arc<str>>,
    /// Those of them that answered, and could not tell.
    failing: Vec<Arc<str>>,
}

impl View {
    /// The tree of `network`, which reads from `preferred` first when several members have the same.
    pub fn new(network: Arc<dyn Network>, preferred: Option<PeerId>) -> Self {
        Self::remembering(network, preferred, cache::MAX_BYTES)
    }

    /// The tree of a member who is all of `network`, as that member has it.
    pub fn of_member(network: Arc<dyn Network>) -> Self {
        Self {
            is_merged: false,
            ..Self::remembering(network, None, MAX_MEMBER_BYTES)
        }
    }

    fn remembering(network: Arc<dyn Network>, preferred: Option<PeerId>, most: usize) -> Self {
        let state = Arc::new(Memory(Mutex::new(State {
            cache: Cache::new(most),
            ..State::default()
        })));
        network
            .budget()
            .ask_for_room(Arc::downgrade(&state) as Weak<dyn Relieve>);
        Self {
            network,
            preferred,
            is_merged: true,
            state,
            conflicts: Mutex::default(),
            comparing: Comparing::default(),
        }
    }

    /// The directory at `path`. The root of the mount is always there, if need be empty.
    pub fn list(&self, path: &RelPath, wait: Wait) -> Result<Arc<Directory>, Error> {
        let present = self.present();
        let mut guard = self.state.0.lock();
        let state = &mut *guard;
        if let Some(directory) = state.cache.directory(path, present, &state.heard) {
            return Ok(directory);
        }
        let Wait::Until(deadline) = wait else {
            return Err(Error::NeedsNetwork);
        };
        if let Some(flight) = state.flights.get(path) {
            let flight = Arc::clone(flight);
            drop(guard);
            return flight.wait(deadline);
        }
        let flight = Arc::new(Flight::default());
        state.flights.insert(path.clone(), Arc::clone(&flight));
        let begun = state.begin();
        let kept = state.cache.kept(path, present, &state.heard);
        drop(guard);
        let mut landing = Landing {
            view: self,
            path,
            flight: &flight,
            outcome: Err(Error::Late),
            watch: None,
            begun,
        };
        landing.outcome = self.fetch(path, kept, present, deadline).map(|made| {
            landing.watch = Some(made.watch);
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
        let mut guard = self.state.0.lock();
        let state = &mut *guard;
        let (cache, heard) = (&mut state.cache, &state.heard);
        if let Some(listing) = cache.directory_for(directory, name, present, heard) {
            drop(guard);
            return self.measured(directory, listing.look_up(name)?, wait);
        }
        if cache.is_absent(&path, present, heard) {
            return Ok(Found::Nothing { certain: true });
        }
        let Wait::Until(deadline) = wait else {
            return Err(Error::NeedsNetwork);
        };
        let list_instead = cache.is_worth_listing(directory);
        let kept = match cache.kept(directory, present, heard) {
            kept if kept.members.is_empty() => cache.kept_absence(&path, present, heard),
            kept => kept,
        };
        let begun = state.begin();
        drop(guard);
        if list_instead && let Ok(listing) = self.list(directory, wait) {
            return self.measured(directory, listing.look_up(name)?, wait);
        }

        let kept = self.still_there(kept, present);
        let known = |listing: &Directory| {
            let members = kept.members.iter();
            let said = members.filter_map(|member| listing.said_of(*member, name));
            said.collect()
        };
        let known: Vec<_> = kept.from.as_deref().map_or_else(Vec::new, known);
        let Made {
            what: answers,
            watch,
        } = self.ask(&path, &kept, known, deadline);
        let certain = answers.silent.is_empty();
        if let Some(item) = merge::name(name, answers.said, self.preferred) {
            return self.measured(directory, Found::Item(item), wait);
        }
        if !answers.failing.is_empty() {
            return Err(Error::Failing(answers.failing.join(", ")));
        }
        if answers.denials == 0 && !certain {
            return Err(Error::Silent(answers.silent.join(", ")));
        }
        if merge::may_be_conflict(name) {
            return match self.list(directory, wait) {
                Ok(listing) => self.measured(directory, listing.look_up(name)?, wait),
                Err(Error::NotFound | Error::Silent(_)) => Ok(Found::Nothing { certain }),
                Err(error) => Err(error),
            };
        }
        if certain {
            let mut state = self.state.0.lock();
            let term = state.term(begun, watch);
            state.cache.insert_absent(path, term);
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
                mode: Mode::Plain,
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

    /// The modification time of the directory at `path`.
    pub fn mtime(&self, path: &RelPath, wait: Wait) -> Result<UnixTime, Error> {
        let present = self.present();
        let mut guard = self.state.0.lock();
        let state = &mut *guard;
        if let Some(directory) = state.cache.directory(path, present, &state.heard) {
            return directory.mtime.ok_or(Error::NotFound);
        }
        let Wait::Until(deadline) = wait else {
            return Err(Error::NeedsNetwork);
        };
        let kept = state.cache.kept(path, present, &state.heard);
        drop(guard);
        let kept = self.still_there(kept, present);
        let holders = kept.from.iter().flat_map(|listing| listing.holders());
        let known = holders.filter_map(|(member, mtime)| kept.has(member).then_some(mtime));
        let known: Vec<UnixTime> = known.collect();
        let whom = Whom {
            only: None,
            is_found: !known.is_empty(),
            known: kept.members.clone(),
        };
        let answers = Answers::sort(self.network.stat(&whom, path, deadline).answers);
        let directories = answers.said.iter().map(|(_, attributes)| attributes);
        let directories = directories.filter(|attributes| attributes.kind == Kind::Directory);
        let mtimes = directories.map(|attributes| attributes.mtime);
        match mtimes.chain(known).max() {
            Some(mtime) => Ok(mtime),
            None if answers.silent.is_empty() => Err(Error::NotFound),
            None => Err(Error::Silent(answers.silent.join(", "))),
        }
    }

    /// Ends what is known of `path` and of the directory that it lies in: the next question asks the
    /// network.
    pub fn invalidate(&self, path: &RelPath) {
        let mut state = self.state.0.lock();
        let change = Change {
            path: path.clone(),
            depth: Depth::Tree,
        };
        state.heard.note(None, &change);
        let gone = state.cache.forget(path);
        drop(state);
        drop(gone);
    }

    /// Ends what `member` said and may no longer hold, after its news.
    pub fn take_in(&self, member: PeerId, news: &News) {
        match news {
            News::Changed(changes) => {
                let changes = outermost(changes);
                let mut state = self.state.0.lock();
                for change in changes {
                    state.heard.note(Some(member), change);
                }
            }
            // What is under way relies on the member, too.
            News::Lost => self.state.0.lock().heard.note_everything(member),
        }
    }

    /// How other contents of `names` are shown in the last listing of `directory`.
    pub fn conflicts_of(&self, directory: &RelPath, names: &BTreeSet<Name>) -> Vec<Name> {
        let listing = self.state.0.lock().cache.last_directory(directory);
        let shown = listing
            .iter()
            .flat_map(|listing| listing.conflicts_of(names));
        shown.cloned().collect()
    }

    fn present(&self) -> Present {
        Present {
            now: Instant::now(),
            revision: self.network.revision(),
        }
    }

    /// Sums over what was listed lately.
    pub fn known(&self) -> Known {
        self.state.0.lock().cache.known()
    }

    /// The conflicts in all directories that were listed, as they were seen last: a text for people.
    pub fn conflicts(&self) -> String {
        self.conflicts.lock().text()
    }

    fn is_reserved(&self, directory: &RelPath, name: &Name) -> bool {
        self.is_merged && directory.is_root() && name.as_bytes() == RESERVED
    }

    /// The directory at `path`: what is `kept` of it, and what all others say.
    fn fetch(
        &self,
        path: &RelPath,
        kept: Kept,
        present: Present,
        deadline: Instant,
    ) -> Result<Made<Arc<Directory>>, Error> {
        let mut kept = self.still_there(kept, present);
        let from = kept.from.take();
        // Who cannot be merged once more beside what is held already may be heard again once that is let go of.
        let room = from
            .as_deref()
            .map(|from| from.room(|member| kept.has(member)));
        let (from, again) = match room {
            Some(None) => {
                kept = Kept::default();
                (None, Vec::new())
            }
            room => (from, room.flatten().unwrap_or_default()),
        };
        let holders = again.len();
        // What others said of it comes anew, and is not to be held meanwhile.
        let (from, again, mut said) = match from {
            Some(from) if holders < from.holders().count() => {
                let said = again.into_iter().map(|again| from.say(again));
                (None, Vec::new(), said.collect())
            }
            from => (from, again, Vec::new()),
        };
        let whom = Whom {
            only: None,
            known: kept.members.clone(),
            is_found: holders > 0,
        };
        let round = self.network.list(&whom, path, deadline);
        let watch = Watch::of(&kept, &round.watched, round.is_all_watched, &round);
        let answers = Answers::sort(round.answers);
        if let Some(from) = &from
            && answers.said.is_empty()
            && (&answers.silent, &answers.failing) == (&from.silent, &from.failing)
        {
            // All is as it was.
            let what = Arc::clone(from);
            return Ok(Made { what, watch });
        }
        if let Some(from) = from {
            said.extend(again.into_iter().map(|again| from.say(again)));
        }
        let fresh = answers.said.into_iter();
        said.extend(fresh.map(|(member, listing)| Said::fresh(member, listing)));
        let has_root = self.is_merged && path.is_root() && answers.failing.is_empty();
        if said.is_empty() && !has_root {
            if !answers.barred.is_empty() {
                let who = answers.barred.join(", ");
                return Err(NetError::Forbidden { who }.into());
            }
            return Err(if !answers.failing.is_empty() {
                Error::Failing(answers.failing.join(", "))
            } else if answers.silent.is_empty() {
                self.conflicts.lock().update(path, &[], Seen::default());
                Error::NotFound
            } else {
                Error::Silent(answers.silent.join(", "))
            });
        }
        if !answers.silent.is_empty() {
            let silent = answers.silent.join(", ");
            tracing::debug!(directory = %path, %silent, "listed without everybody's answer");
        }
        let is_shown = |name: &Name| !self.is_reserved(path, name);
        let what = Directory::merged(said, answers.silent, self.preferred, is_shown);
        let what = what.without(answers.failing);
        if self.is_merged {
            let is_disproved =
                |source: &Source| self.network.is_disproved(source.member.id, source.version);
            let seen = Seen::among(&what.items, is_disproved);
            self.conflicts.lock().update(path, &what.items, seen);
            let wishes = self.comparing.wishes(path, &what.items, Instant::now());
            if !wishes.is_empty() {
                self.network.compare(wishes);
            }
        }
        let what = Arc::new(what);
        Ok(Made { what, watch })
    }

    /// Asks all but those of whom it is `known` what they have at one path.
    fn ask(
        &self,
        path: &RelPath,
        kept: &Kept,
        known: Vec<(Arc<Member>, Attributes)>,
        deadline: Instant,
    ) -> Made<Answers<Attributes>> {
        let whom = Whom {
            only: None,
            known: kept.members.clone(),
            is_found: !known.is_empty(),
        };
        let round = self.network.stat(&whom, path, deadline);
        let watch = Watch::of(kept, &round.watched, round.is_all_watched, &round);
        let mut what = Answers::sort(round.answers);
        what.denials += kept.members.len() - known.len();
        what.said.extend(known);
        Made { what, watch }
    }

    /// What of `kept` is of members who are still there, under the same names.
    fn still_there(&self, mut kept: Kept, present: Present) -> Kept {
        if kept.members.is_empty() || kept.revision == present.revision {
            return kept;
        }
        kept.revision = present.revision;
        let peers = self.network.peers().into_iter();
        let there: BTreeSet<PeerId> = peers.map(|peer| peer.id()).collect();
        let names = self.network.members().into_iter();
        let names: HashMap<PeerId, Arc<str>> = names.map(|it| (it.id, it.name)).collect();
        let renamed: Vec<PeerId> = kept.from.as_deref().map_or_else(Vec::new, |listing| {
            let is_new = |member: &&Member| names.get(&member.id) != Some(&member.name);
            let renamed = listing.members().filter(is_new);
            renamed.map(|member| member.id).collect()
        });
        let is_same = |member: &PeerId| there.contains(member) && !renamed.contains(member);
        kept.retain(is_same);
        kept
    }
}

impl Watch {
    /// Those whose answers were `kept`, and those who watch what they said in `round`.
    fn of<T>(kept: &Kept, watched: &[PeerId], is_all: bool, round: &Round<T>) -> Self {
        let mut members: Vec<PeerId> = kept.members.iter().chain(watched).copied().collect();
        members.sort_unstable();
        members.dedup();
        // Somebody who has come or gone meanwhile is in nobody's answer.
        let is_same = kept.members.is_empty() || kept.revision == round.revision;
        Self {
            asked: kept.asked.filter(|_| !kept.members.is_empty()),
            members,
            is_all: is_all && is_same,
            revision: round.revision,
        }
    }
}

impl Relieve for Memory {
    fn relieve(&self, member: PeerId) {
        let gone = self.0.lock().cache.forget_those_of(member);
        drop(gone);
    }
}

impl State {
    fn begin(&self) -> Begun {
        Begun {
            asked: Instant::now(),
            heard: self.heard.count(),
        }
    }

    /// The term of answers that have just come.
    fn term(&mut self, begun: Begun, watch: Watch) -> Term {
        if *self.watched != *watch.members {
            self.watched = watch.members.into();
        }
        Term {
            asked: watch
                .asked
                .map_or(begun.asked, |asked| asked.min(begun.asked)),
            came: Instant::now(),
            watched: Arc::clone(&self.watched),
            is_all_watched: watch.is_all,
            revision: watch.revision,
            heard: begun.heard,
        }
    }
}

impl Directory {
    fn look_up(&self, name: &Name) -> Result<Found, Error> {
        match self.items.binary_search_by(|item| item.name.cmp(name)) {
            Ok(index) => Ok(Found::Item(self.items[index].clone())),
            Err(_) if !self.failing.is_empty() => Err(Error::Failing(self.failing.join(", "))),
            Err(_) => Ok(Found::Nothing {
                certain: self.silent.is_empty(),
            }),
        }
    }
}

impl<T> Answers<T> {
    /// Tells those who have it from those who do not and from those who did not say.
    fn sort(answers: Vec<Answer<Option<T>>>) -> Self {
        let mut sorted = Self {
            said: Vec::with_capacity(answers.len()),
            denials: 0,
            barred: Vec::new(),
            silent: Vec::new(),
            failing: Vec::new(),
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
                Err(error) if is_barred(&error) => sorted.barred.push(name),
                Err(error) => {
                    tracing::debug!(member = %name, %error, "no answer");
                    if matches!(error, NetError::Fault { .. }) {
                        sorted.failing.push(Arc::clone(&name));
                    }
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

/// True if the member said that it has something there which it may not read itself.
fn is_barred(error: &NetError) -> bool {
    match error {
        NetError::Forbidden { .. } => true,
        NetError::Fault { fault, .. } => fault.code == FaultCode::Forbidden,
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
    watch: Option<Watch>,
    begun: Begun,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        let mut gone = Vec::new();
        let mut state = self.view.state.0.lock();
        state.flights.remove(self.path);
        if let (Ok(directory), Some(watch)) = (&self.outcome, self.watch.take()) {
            let (path, directory) = (self.path.clone(), Arc::clone(directory));
            // What was heard meanwhile is compared with it when somebody wants it.
            let term = state.term(self.begun, watch);
            gone = state.cache.insert(path, directory, term);
        }
        drop(state);
        drop(gone);
        *self.flight.outcome.lock() = Some(self.outcome.clone());
        self.flight.landed.notify_all();
    }
}

#[cfg(test)]
mod tests;
