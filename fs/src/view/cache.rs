//! What the view remembers, and for how long: merged directories and names that nobody has.
//!
//! Pure: time comes in as `now`. [`Term`] decides how long answers hold; news end them early, those
//! of the member that has news and no others. They are looked at when somebody wants the answer
//! ([`Heard`]). Both memories are bounded in bytes, the oldest answer goes first.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tinyp2p_net::budget::Weigh;
use tinyp2p_net::model::{Kind, Name, PeerId, RelPath};

use super::directory::MergedDirectory;
use super::freshness::{Present, Term};
use super::merge::may_be_conflict;
use super::pending_changes::{Effect, Heard};

/// A listing that is no longer fresh still tells how large its directory is, which
/// [`ViewCache::is_worth_listing`] needs. After this time nobody is walking there any more.
const REMEMBERED: Duration = Duration::from_secs(90);

/// The most bytes of listings in memory: 450,000 names of 30 bytes that one member has. One
/// directory is kept whatever its size, which the budget of answers bounds.
pub const MAX_BYTES: usize = 96 << 20;

/// What a listing costs beside what is in it: its places in two tables.
const OVERHEAD: usize = 512;

/// The most absent names in memory.
const MAX_ABSENT: usize = 16_384;

/// The most bytes of them.
const MAX_ABSENT_BYTES: usize = 8 << 20;

/// What an absent name costs beside its path, which is in two tables.
const ABSENCE: usize = 256;

/// A listing that no longer speaks for more names than this is no longer a listing.
const MAX_CHANGED: usize = 1024;

/// A listing of n names costs about as much as this many questions and one more for every
/// [`ITEMS_PER_QUESTION`] of them.
const QUESTIONS_PER_LISTING: usize = 8;

/// See [`QUESTIONS_PER_LISTING`].
const ITEMS_PER_QUESTION: usize = 64;

/// Everything that the view remembers.
pub struct ViewCache {
    most: usize,
    directories: BTreeMap<RelPath, Cached>,
    /// When each directory came, in that order; may name directories that came again since.
    arrivals: VecDeque<(Instant, RelPath)>,
    bytes: usize,
    absent: BTreeMap<RelPath, NegativeEntry>,
    absences: VecDeque<(Instant, RelPath)>,
    absent_bytes: usize,
    known: DirectoryTotals,
}

/// What still holds of the answers to one question.
#[derive(Clone, Default)]
pub struct KeptReplies {
    /// Whose do, sorted.
    pub members: Vec<PeerId>,
    /// The listing in which they said it; without one, that they have nothing there.
    pub from: Option<Arc<MergedDirectory>>,
    /// When the first of them was asked.
    pub asked: Option<Instant>,
    /// Which members there were.
    pub revision: u64,
}

/// Sums over all directories in memory.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct DirectoryTotals {
    /// How many names there are.
    pub items: usize,
    /// Bytes of all files.
    pub bytes: u64,
}

struct Cached {
    directory: Arc<MergedDirectory>,
    term: Term,
    known: DirectoryTotals,
    weight: usize,
    /// Single names of it that had to be asked for since it is no longer fresh.
    questions: usize,
    doubts: Doubts,
}

/// What news have done to a listing.
#[derive(Default)]
struct Doubts {
    /// It is over for everybody.
    is_over: bool,
    /// Those whose part of it is over.
    over: BTreeSet<PeerId>,
    /// Those who have news of some names, or of the directory's own attributes.
    partial: BTreeSet<PeerId>,
    /// These names: the listing does not speak for them any more.
    names: BTreeSet<Name>,
}

struct NegativeEntry {
    term: Term,
    /// True if someone may have it by now.
    is_doubtful: bool,
}

impl Default for ViewCache {
    fn default() -> Self {
        Self::new(MAX_BYTES)
    }
}

impl ViewCache {
    /// Remembers listings of at most `most` bytes.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            directories: BTreeMap::new(),
            arrivals: VecDeque::new(),
            bytes: 0,
            absent: BTreeMap::new(),
            absences: VecDeque::new(),
            absent_bytes: 0,
            known: DirectoryTotals::default(),
        }
    }

    /// The listing of `path`, if it still holds.
    pub fn directory(
        &mut self,
        path: &RelPath,
        present: Present,
        heard: &Heard,
    ) -> Option<Arc<MergedDirectory>> {
        let cached = self.settled(path, heard)?;
        let holds = cached.term.holds(present) && cached.doubts.are_none();
        holds.then(|| Arc::clone(&cached.directory))
    }

    /// The listing of `path`, if it still holds for `name`, whatever has become of the others: so a
    /// file that grows all the time does not make everybody ask for all that lies beside it.
    pub fn directory_for(
        &mut self,
        path: &RelPath,
        name: &Name,
        present: Present,
        heard: &Heard,
    ) -> Option<Arc<MergedDirectory>> {
        let cached = self.settled(path, heard)?;
        let holds = cached.term.holds(present) && cached.doubts.spare(name);
        holds.then(|| Arc::clone(&cached.directory))
    }

    /// Whose part of the listing of `path` still holds.
    pub fn kept(&mut self, path: &RelPath, present: Present, heard: &Heard) -> KeptReplies {
        let Some(cached) = self.settled(path, heard) else {
            return KeptReplies::default();
        };
        let Doubts {
            is_over,
            over,
            partial,
            ..
        } = &cached.doubts;
        if *is_over {
            return KeptReplies::default();
        }
        let holds = |member: &PeerId| !over.contains(member) && !partial.contains(member);
        let kept = KeptReplies::of(&cached.term, present, holds);
        // What nothing is kept of is not to be held while it comes again.
        let is_needed = cached
            .directory
            .holders()
            .any(|(member, _)| kept.has(member));
        KeptReplies {
            from: is_needed.then(|| Arc::clone(&cached.directory)),
            ..kept
        }
    }

    /// The last listing of `path`, which may no longer hold.
    pub fn last_directory(&self, path: &RelPath) -> Option<Arc<MergedDirectory>> {
        let cached = self.directories.get(path)?;
        Some(Arc::clone(&cached.directory))
    }

    /// True if nobody has `path`, as everybody said.
    pub fn is_absent(&mut self, path: &RelPath, present: Present, heard: &Heard) -> bool {
        let absence = self.settled_absence(path, heard);
        absence.is_some_and(|absence| !absence.is_doubtful && absence.term.holds(present))
    }

    /// Who said that it does not have `path`, and still has not.
    pub fn kept_absence(&mut self, path: &RelPath, present: Present, heard: &Heard) -> KeptReplies {
        let absence = self.settled_absence(path, heard);
        absence.map_or_else(KeptReplies::default, |absence| {
            KeptReplies::of(&absence.term, present, |_| true)
        })
    }

    /// Counts one question about a single name of `path`; true once a listing is cheaper than going
    /// on like this, which is so when a program walks through a directory that it listed before.
    pub fn is_worth_listing(&mut self, path: &RelPath) -> bool {
        let Some(cached) = self.directories.get_mut(path) else {
            return false;
        };
        cached.questions += 1;
        let items = cached.directory.items.len();
        let is_worth_it = cached.questions > QUESTIONS_PER_LISTING + items / ITEMS_PER_QUESTION;
        if is_worth_it {
            // Should the listing fail, single questions have their turn again.
            cached.questions = 0;
        }
        is_worth_it
    }

    /// Remembers a listing. Returns what had to go for it, to be dropped without the lock.
    pub fn insert(
        &mut self,
        path: RelPath,
        directory: Arc<MergedDirectory>,
        term: Term,
    ) -> Vec<Arc<MergedDirectory>> {
        let now = term.came;
        let mut gone: Vec<_> = self.remove(&path).into_iter().collect();
        let known = DirectoryTotals::of(&directory);
        let weight = directory.bytes() + 2 * path.weight() + OVERHEAD;
        self.known += known;
        self.bytes += weight;
        self.arrivals.push_back((now, path.clone()));
        let cached = Cached {
            directory,
            term,
            known,
            weight,
            questions: 0,
            doubts: Doubts::default(),
        };
        self.directories.insert(path, cached);
        while let Some((came, path)) = self.arrivals.front() {
            let is_last_answer = self
                .directories
                .get(path)
                .is_some_and(|c| c.term.came == *came);
            let is_old = now.saturating_duration_since(*came) >= REMEMBERED;
            let is_too_much = self.bytes > self.most && self.directories.len() > 1;
            if is_last_answer && !is_old && !is_too_much {
                break;
            }
            if let (Some((_, path)), true) = (self.arrivals.pop_front(), is_last_answer) {
                gone.extend(self.remove(&path));
            }
        }
        gone
    }

    /// Remembers that nobody has `path`.
    pub fn insert_absent(&mut self, path: RelPath, term: Term) {
        let now = term.came;
        let weight = absence_weight(&path);
        self.absences.push_back((now, path.clone()));
        let is_doubtful = false;
        let before = self
            .absent
            .insert(path, NegativeEntry { term, is_doubtful });
        if before.is_none() {
            self.absent_bytes += weight;
        }
        while let Some((came, path)) = self.absences.front() {
            let last = self.absent.get(path).filter(|last| last.term.came == *came);
            // Who the members are does not matter here: it is a question of memory.
            let may_hold = last.is_some_and(|last| {
                let revision = last.term.revision;
                last.term.holds(Present { now, revision })
            });
            let fits = self.absences.len() <= MAX_ABSENT && self.absent_bytes <= MAX_ABSENT_BYTES;
            if may_hold && fits {
                break;
            }
            if last.is_some() {
                let path = path.clone();
                self.remove_absent(&path);
            }
            self.absences.pop_front();
        }
    }

    /// Ends what is known of `path` and of the directory that it lies in.
    pub fn forget(&mut self, path: &RelPath) -> Vec<Arc<MergedDirectory>> {
        self.remove_absent(path);
        let parent = path.split().map(|(parent, _)| parent);
        let paths = [Some(path), parent.as_ref()];
        paths
            .into_iter()
            .flatten()
            .filter_map(|path| self.remove(path))
            .collect()
    }

    /// Ends what is known of directories of which `member` has the most. Returns them, to be
    /// dropped without the lock.
    pub fn forget_those_of(&mut self, member: PeerId) -> Vec<Arc<MergedDirectory>> {
        let mostly = |(path, cached): (&RelPath, &Cached)| {
            let is_its = cached.directory.largest_part() == Some(member);
            is_its.then(|| path.clone())
        };
        let paths: Vec<RelPath> = self.directories.iter().filter_map(mostly).collect();
        paths.iter().filter_map(|path| self.remove(path)).collect()
    }

    /// Sums over what is in memory.
    pub fn known(&self) -> DirectoryTotals {
        self.known
    }

    /// What is remembered of `path`, compared with all that was heard.
    fn settled(&mut self, path: &RelPath, heard: &Heard) -> Option<&mut Cached> {
        let cached = self.directories.get_mut(path)?;
        let since = cached.term.heard;
        if since == heard.count() {
            return Some(cached);
        }
        cached.doubts.is_over |= heard.ended_listing(path, since);
        for member in heard.members(since) {
            cached
                .doubts
                .take_in(member, heard.about_listing(member, path, since));
        }
        cached.term.heard = heard.count();
        Some(cached)
    }

    fn settled_absence(&mut self, path: &RelPath, heard: &Heard) -> Option<&mut NegativeEntry> {
        let since = self.absent.get(path)?.term.heard;
        if since != heard.count() {
            let Some(concerned) = heard.about_entry(path, since) else {
                self.remove_absent(path);
                return None;
            };
            let absence = self.absent.get_mut(path)?;
            absence.term.heard = heard.count();
            if !concerned.is_empty() {
                absence.is_doubtful = true;
                let watched = absence.term.watched.iter().copied();
                let watched = watched.filter(|member| !concerned.contains(member));
                absence.term.watched = watched.collect();
            }
        }
        self.absent.get_mut(path)
    }

    fn remove(&mut self, path: &RelPath) -> Option<Arc<MergedDirectory>> {
        let cached = self.directories.remove(path)?;
        self.known -= cached.known;
        self.bytes -= cached.weight;
        Some(cached.directory)
    }

    fn remove_absent(&mut self, path: &RelPath) {
        if self.absent.remove(path).is_some() {
            self.absent_bytes -= absence_weight(path);
        }
    }
}

impl KeptReplies {
    /// Those who watch, as far as their answer `holds`.
    fn of(term: &Term, present: Present, holds: impl Fn(&PeerId) -> bool) -> Self {
        if !term.is_promised(present.now) {
            return Self::default();
        }
        Self {
            members: term.watched.iter().copied().filter(holds).collect(),
            from: None,
            asked: Some(term.asked),
            revision: term.revision,
        }
    }

    /// Lets go of those who are not `wanted`, and of the listing if they all go.
    pub fn retain(&mut self, wanted: impl Fn(&PeerId) -> bool) {
        self.members.retain(wanted);
        if self.members.is_empty() {
            self.from = None;
        }
    }

    /// True if `member` is one of them.
    pub fn has(&self, member: PeerId) -> bool {
        self.members.binary_search(&member).is_ok()
    }
}

impl Doubts {
    fn take_in(&mut self, member: PeerId, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Partial(names) => {
                self.partial.insert(member);
                self.names.extend(names);
                if self.names.len() > MAX_CHANGED {
                    self.names.clear();
                    self.over.append(&mut self.partial);
                }
            }
            Effect::Total => {
                self.over.insert(member);
            }
        }
    }

    fn are_none(&self) -> bool {
        !self.is_over && self.over.is_empty() && self.partial.is_empty()
    }

    /// True if there are none about `name`.
    fn spare(&self, name: &Name) -> bool {
        // The name of a conflict depends on other names.
        let has_names = self.names.contains(name) || may_be_conflict(name);
        !self.is_over && self.over.is_empty() && (self.names.is_empty() || !has_names)
    }
}

fn absence_weight(path: &RelPath) -> usize {
    path.weight() + ABSENCE
}

impl DirectoryTotals {
    fn of(directory: &MergedDirectory) -> Self {
        let files = directory
            .items
            .iter()
            .filter(|item| item.kind == Kind::File && item.is_measured());
        Self {
            items: directory.items.len(),
            bytes: files.fold(0, |sum, file| sum.saturating_add(file.size)),
        }
    }
}

// Wrapping, so that what was added comes off again exactly, whatever sizes members claim.
impl std::ops::AddAssign for DirectoryTotals {
    fn add_assign(&mut self, other: Self) {
        self.items += other.items;
        self.bytes = self.bytes.wrapping_add(other.bytes);
    }
}

impl std::ops::SubAssign for DirectoryTotals {
    fn sub_assign(&mut self, other: Self) {
        self.items -= other.items;
        self.bytes = self.bytes.wrapping_sub(other.bytes);
    }
}

#[cfg(test)]
mod tests;
