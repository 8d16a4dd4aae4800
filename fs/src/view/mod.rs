//! The merged tree, kept fresh.
//!
//! Answers come from memory while they are fresh ([`cache`]). Otherwise all members are asked
//! at once under the operation's deadline, and the answers that arrive by then count
//! ([`merge`]). Members that did not answer are remembered with the answer, so that silence
//! never counts as absence:
//! - a name that nobody has is remembered as absent only if everybody said so;
//! - a directory that only a silent member may have is an error, not an empty directory;
//! - if nobody has answered, every question is an error;
//! - if a member answers that it does not know, because something failed or ran out there, a name
//!   that nobody else has is an error.
//!
//! A member's changes invalidate only what that member said: then it alone is asked again.
//!
//! A directory is fetched only once at a time: everybody who wants it then waits for the same
//! answer. Locks are held for a look into memory, never while the network is asked, and never for
//! work whose size a member chooses.

pub mod cache;
pub mod comparing;
pub mod conflicts;
pub mod directory;
pub mod distinct_names;
pub mod fair_share;
mod fetch;
pub mod freshness;
pub(crate) mod identity;
pub mod item;
mod kept_replies;
mod memory;
pub mod merge;
pub mod pending_changes;
mod replies;
mod sizes;
pub mod tree_order;
pub(crate) mod upcoming_files;

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;
use tinyp2p_net::budget::Relieve;
use tinyp2p_net::concurrency::single_flight::SingleFlight;
use tinyp2p_net::model::{Attributes, Kind, Name, PeerId, RelPath, UnixTime};
use tinyp2p_net::protocol::wire::{Change, Depth};
use tinyp2p_net::query::fanout::Whom;
use tinyp2p_net::query::subscriptions::News;

use crate::errno::Error;
use crate::network::Network;
use cache::DirectoryTotals;
use comparing::Comparing;
use conflicts::Conflicts;
pub use directory::MergedDirectory;
use fetch::QueryOutcome;
use freshness::Present;
use memory::ViewMemory;
use merge::Item;
use pending_changes::outermost;
use replies::CollectedReplies;
pub(crate) use sizes::turn;

/// The name in the root that belongs to this program; a member's own file of that name
/// is not shown.
pub const RESERVED: &[u8] = b".tinyp2p";

/// How long an operation may wait for the network.
#[derive(Clone, Copy, Debug)]
pub enum Wait {
    /// Not at all: what memory does not have fails with [`Error::NeedsNetwork`].
    No,
    /// Until this instant at the latest.
    Until(Instant),
}

impl Wait {
    /// Returns until when to wait for the network.
    pub(crate) fn deadline(self) -> Result<Instant, Error> {
        match self {
            Self::No => Err(Error::NeedsNetwork),
            Self::Until(deadline) => Ok(deadline),
        }
    }
}

/// The maximum number of bytes of listings that the tree of a single member remembers: there may be
/// many such trees.
const MAX_MEMBER_BYTES: usize = 16 << 20;

/// What is known of one name.
#[derive(Debug, PartialEq, Eq)]
pub enum NameLookup {
    /// The name exists.
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
    /// The member to read from when several have the same content: this node itself.
    preferred: Option<PeerId>,
    /// True for the mount's own tree: its root always exists, and [`RESERVED`] belongs
    /// to this program.
    is_merged: bool,
    memory: Arc<ViewMemory>,
    flights: SingleFlight<RelPath, Result<Arc<MergedDirectory>, Error>>,
    conflicts: Mutex<Conflicts>,
    comparing: Comparing,
}

impl View {
    /// Creates the tree of `network`, which reads from `preferred` first when several members have
    /// the same content.
    pub fn new(network: Arc<dyn Network>, preferred: Option<PeerId>) -> Self {
        Self::remembering(network, preferred, cache::MAX_BYTES)
    }

    /// Creates the tree of a member who is all of `network`, as that member has it.
    pub fn of_member(network: Arc<dyn Network>) -> Self {
        Self {
            is_merged: false,
            ..Self::remembering(network, None, MAX_MEMBER_BYTES)
        }
    }

    fn remembering(network: Arc<dyn Network>, preferred: Option<PeerId>, max_bytes: usize) -> Self {
        let memory = Arc::new(ViewMemory::new(max_bytes));
        let keeper = Arc::downgrade(&memory) as Weak<dyn Relieve>;
        network.budget().ask_for_room(keeper);
        Self {
            network,
            preferred,
            is_merged: true,
            memory,
            flights: SingleFlight::new(usize::MAX),
            conflicts: Mutex::default(),
            comparing: Comparing::default(),
        }
    }

    /// Returns the directory at `path`. The root of the mount always exists, even if it is empty.
    pub fn list(&self, path: &RelPath, wait: Wait) -> Result<Arc<MergedDirectory>, Error> {
        let present = self.present();
        let known = self.memory.lock().directory(path, present);
        if let Some(directory) = known {
            return Ok(directory);
        }
        let deadline = wait.deadline()?;
        let ask = || self.list_anew(path, deadline);
        let outcome = self.flights.run(path, deadline, ask);
        outcome.unwrap_or(Err(Error::Late))
    }

    /// Fetches the directory at `path`, unless another thread just has.
    fn list_anew(&self, path: &RelPath, deadline: Instant) -> Result<Arc<MergedDirectory>, Error> {
        let present = self.present();
        let mut cache = self.memory.lock();
        if let Some(directory) = cache.directory(path, present) {
            return Ok(directory);
        }
        let begun = cache.begin();
        let kept = cache.kept(path, present);
        drop(cache);
        let QueryOutcome { value, freshness } = self.fetch(path, kept, present, begun, deadline)?;
        let mut cache = self.memory.lock();
        // Changes that arrived during the fetch are applied when somebody wants the directory.
        let freshness = cache.arriving(freshness);
        let gone = cache.insert(path.clone(), Arc::clone(&value), freshness);
        drop(cache);
        drop(gone);
        Ok(value)
    }

    /// Returns what `name` is in `directory`: from a fresh listing if there is one, otherwise by
    /// asking for it.
    pub fn find(&self, directory: &RelPath, name: &Name, wait: Wait) -> Result<NameLookup, Error> {
        if self.is_reserved(directory, name) {
            return Ok(NameLookup::Nothing { certain: true });
        }
        let path = directory.join(name).map_err(|_| Error::NameTooLong)?;
        let present = self.present();
        let mut cache = self.memory.lock();
        if let Some(listing) = cache.directory_for(directory, name, present) {
            drop(cache);
            return self.measured(directory, listing.look_up(name)?, wait);
        }
        if cache.is_absent(&path, present) {
            return Ok(NameLookup::Nothing { certain: true });
        }
        let deadline = wait.deadline()?;
        let list_instead = cache.is_worth_listing(directory);
        let kept = match cache.kept(directory, present) {
            kept if kept.members.is_empty() => cache.kept_absence(&path, present),
            kept => kept,
        };
        let begun = cache.begin();
        drop(cache);
        if list_instead && let Ok(listing) = self.list(directory, wait) {
            return self.measured(directory, listing.look_up(name)?, wait);
        }
        let kept = self.still_there(kept, present);
        let QueryOutcome { value, freshness } = self.ask(&path, name, &kept, begun, deadline);
        let found = self.sort_out(directory, name, value, wait)?;
        // The meaning of such a name depends on other names.
        let may_be_kept = !merge::may_be_conflict(name);
        if may_be_kept && found == (NameLookup::Nothing { certain: true }) {
            let mut cache = self.memory.lock();
            let freshness = cache.arriving(freshness);
            cache.insert_absent(path, freshness);
        }
        Ok(found)
    }

    /// Returns what `name` is in `directory`, according to these answers.
    fn sort_out(
        &self,
        directory: &RelPath,
        name: &Name,
        answers: CollectedReplies<Attributes>,
        wait: Wait,
    ) -> Result<NameLookup, Error> {
        let certain = answers.silent.is_empty();
        if let Some(item) = merge::name(name, answers.said, self.preferred) {
            return self.measured(directory, NameLookup::Item(item), wait);
        }
        if !answers.failing.is_empty() {
            return Err(Error::Failing(answers.failing.join(", ")));
        }
        if answers.denials == 0 && !certain {
            return Err(Error::Silent(answers.silent.join(", ")));
        }
        if !merge::may_be_conflict(name) {
            return Ok(NameLookup::Nothing { certain });
        }
        match self.list(directory, wait) {
            Ok(listing) => self.measured(directory, listing.look_up(name)?, wait),
            Err(Error::NotFound | Error::Silent(_)) => Ok(NameLookup::Nothing { certain }),
            Err(error) => Err(error),
        }
    }

    /// The modification time of the directory at `path`.
    pub fn mtime(&self, path: &RelPath, wait: Wait) -> Result<UnixTime, Error> {
        let present = self.present();
        let mut cache = self.memory.lock();
        if let Some(directory) = cache.directory(path, present) {
            return directory.mtime.ok_or(Error::NotFound);
        }
        let deadline = wait.deadline()?;
        let kept = cache.kept(path, present);
        drop(cache);
        let kept = self.still_there(kept, present);
        let holders = kept.from.iter().flat_map(|listing| listing.holders());
        let known = holders.filter_map(|(member, mtime)| kept.has(member).then_some(mtime));
        let known: Vec<UnixTime> = known.collect();
        let whom = Whom::besides(kept.members.clone(), !known.is_empty());
        let answers = CollectedReplies::sort(self.network.stat(&whom, path, deadline).answers);
        let directories = answers.said.iter().map(|(_, attributes)| attributes);
        let directories = directories.filter(|attributes| attributes.kind == Kind::Directory);
        let mtimes = directories.map(|attributes| attributes.mtime);
        match mtimes.chain(known).max() {
            Some(mtime) => Ok(mtime),
            None if answers.silent.is_empty() => Err(Error::NotFound),
            None => Err(Error::Silent(answers.silent.join(", "))),
        }
    }

    /// Invalidates what is known of `path` and of its parent directory: the next question
    /// asks the network.
    pub fn invalidate(&self, path: &RelPath) {
        let mut cache = self.memory.lock();
        let change = Change {
            path: path.clone(),
            depth: Depth::Tree,
        };
        cache.changes.note(None, &change);
        let gone = cache.forget(path);
        drop(cache);
        drop(gone);
    }

    /// Invalidates what `member` said and may no longer hold after these changes.
    pub fn apply(&self, member: PeerId, change: &News) {
        match change {
            News::Changed(changes) => {
                let changes = outermost(changes);
                let mut cache = self.memory.lock();
                for change in changes {
                    cache.changes.note(Some(member), change);
                }
            }
            // Questions under way rely on the member, too.
            News::Lost => self.memory.lock().changes.note_everything(member),
        }
    }

    /// Returns the names under which the last listing of `directory` shows other
    /// contents of `names`.
    pub fn conflicts_of(&self, directory: &RelPath, names: &BTreeSet<Name>) -> Vec<Name> {
        let listing = self.memory.lock().last_directory(directory);
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

    /// Returns sums over what was listed recently.
    pub fn known(&self) -> DirectoryTotals {
        self.memory.lock().known()
    }

    /// Returns the conflicts in all listed directories, as last seen, as text for people.
    pub fn conflicts(&self) -> String {
        self.conflicts.lock().text()
    }

    fn is_reserved(&self, directory: &RelPath, name: &Name) -> bool {
        self.is_merged && directory.is_root() && name.as_bytes() == RESERVED
    }
}

#[cfg(test)]
mod tests;
