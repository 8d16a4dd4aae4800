//! What the view remembers, and for how long: merged directories and names that nobody has.
//!
//! Pure: time comes in as `now`. [`Freshness`] decides how long answers hold. A change ends
//! answers early, but only those of the member that reports it; it is applied when somebody
//! wants the answer ([`ChangeLog`]). Both memories are bounded in bytes, and the oldest answer
//! is evicted first.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tinyp2p_net::budget::Weigh;
use tinyp2p_net::concurrency::expiring_map::ExpiringMap;
use tinyp2p_net::model::{Kind, Name, PeerId, RelPath};

use super::directory::MergedDirectory;
use super::freshness::{Freshness, Present};
use super::kept_replies::{Doubts, KeptReplies};
use super::pending_changes::ChangeLog;

/// A listing that is no longer fresh still shows how large its directory is, which
/// [`ViewCache::is_worth_listing`] needs. After this time no program is still walking there.
const REMEMBERED: Duration = Duration::from_secs(90);

/// The maximum number of bytes of listings in memory: 450,000 names of 30 bytes that one member
/// has. One directory is kept whatever its size, which the budget of answers bounds.
pub const MAX_BYTES: usize = 96 << 20;

/// What a listing costs beyond its content: its places in two tables.
const OVERHEAD: usize = 512;

/// The maximum number of absent names in memory.
const MAX_ABSENT: usize = 16_384;

/// The maximum number of bytes of absent names.
const MAX_ABSENT_BYTES: usize = 8 << 20;

/// What an absent name costs beyond its path, which is in two tables.
const ABSENCE: usize = 256;

/// A listing of n names costs about as much as this many questions, plus one for
/// every [`ITEMS_PER_QUESTION`] names.
const QUESTIONS_PER_LISTING: usize = 8;

/// Names per additional question: see [`QUESTIONS_PER_LISTING`].
const ITEMS_PER_QUESTION: usize = 64;

/// Everything that the view remembers.
pub struct ViewCache {
    max_bytes: usize,
    /// The changes that end answers, including answers under way.
    pub(super) changes: ChangeLog,
    /// The members that watched the last answer. Most answers have the same ones and share this.
    pub(super) watched: Arc<[PeerId]>,
    directories: ExpiringMap<RelPath, Cached>,
    absent: BTreeMap<RelPath, NegativeEntry>,
    absences: VecDeque<(Instant, RelPath)>,
    absent_bytes: usize,
    known: DirectoryTotals,
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
    freshness: Freshness,
    known: DirectoryTotals,
    /// Questions about single names of it since it stopped being fresh.
    questions: usize,
    doubts: Doubts,
}

struct NegativeEntry {
    freshness: Freshness,
    /// True if a member may have it by now.
    is_doubtful: bool,
}

impl Default for ViewCache {
    fn default() -> Self {
        Self::new(MAX_BYTES)
    }
}

impl ViewCache {
    /// Remembers listings of at most `max_bytes`.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            changes: ChangeLog::default(),
            watched: Arc::new([]),
            directories: ExpiringMap::new(REMEMBERED, max_bytes),
            absent: BTreeMap::new(),
            absences: VecDeque::new(),
            absent_bytes: 0,
            known: DirectoryTotals::default(),
        }
    }

    /// The listing of `path`, if it still holds.
    pub fn directory(&mut self, path: &RelPath, present: Present) -> Option<Arc<MergedDirectory>> {
        let cached = self.settled(path)?;
        let holds = cached.freshness.holds(present) && cached.doubts.are_none();
        holds.then(|| Arc::clone(&cached.directory))
    }

    /// Returns the listing of `path`, if it still holds for `name`, even if other names have
    /// changed. A file that keeps growing thus does not make everybody ask for all names beside it.
    pub fn directory_for(
        &mut self,
        path: &RelPath,
        name: &Name,
        present: Present,
    ) -> Option<Arc<MergedDirectory>> {
        let cached = self.settled(path)?;
        let holds = cached.freshness.holds(present) && cached.doubts.spare(name);
        holds.then(|| Arc::clone(&cached.directory))
    }

    /// Returns which members' parts of the listing of `path` still hold.
    pub fn kept(&mut self, path: &RelPath, present: Present) -> KeptReplies {
        let Some(cached) = self.settled(path) else {
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
        let kept = KeptReplies::of(&cached.freshness, present, holds);
        // If nothing of a listing is kept, it is not held while it is fetched again.
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
        let cached = self.directories.peek(path)?;
        Some(Arc::clone(&cached.directory))
    }

    /// Returns true if everybody said that they do not have `path`.
    pub fn is_absent(&mut self, path: &RelPath, present: Present) -> bool {
        let absence = self.settled_absence(path);
        absence.is_some_and(|absence| !absence.is_doubtful && absence.freshness.holds(present))
    }

    /// Returns the members that said that they do not have `path` and still do not.
    pub fn kept_absence(&mut self, path: &RelPath, present: Present) -> KeptReplies {
        let absence = self.settled_absence(path);
        absence.map_or_else(KeptReplies::default, |absence| {
            KeptReplies::of(&absence.freshness, present, |_| true)
        })
    }

    /// Counts one question about a single name of `path`. Returns true once a listing is cheaper
    /// than further questions, as when a program walks through a directory that it listed before.
    pub fn is_worth_listing(&mut self, path: &RelPath) -> bool {
        let Some(cached) = self.directories.peek_mut(path) else {
            return false;
        };
        cached.questions += 1;
        let items = cached.directory.items.len();
        let is_worth_it = cached.questions > QUESTIONS_PER_LISTING + items / ITEMS_PER_QUESTION;
        if is_worth_it {
            // If the listing fails, single questions get another turn.
            cached.questions = 0;
        }
        is_worth_it
    }

    /// Remembers a listing. Returns the listings that it displaces, to be dropped without the lock.
    pub fn insert(
        &mut self,
        path: RelPath,
        directory: Arc<MergedDirectory>,
        freshness: Freshness,
    ) -> Vec<Arc<MergedDirectory>> {
        let now = freshness.came;
        let known = DirectoryTotals::of(&directory);
        let weight = directory.bytes() + 2 * path.weight() + OVERHEAD;
        self.known += known;
        let cached = Cached {
            directory,
            freshness,
            known,
            questions: 0,
            doubts: Doubts::default(),
        };
        // One directory is kept whatever its size.
        let weight = weight.min(self.max_bytes);
        let gone = self.directories.insert(path, cached, weight, now);
        gone.into_iter().map(|gone| self.uncount(gone)).collect()
    }

    /// Remembers that nobody has `path`.
    pub fn insert_absent(&mut self, path: RelPath, freshness: Freshness) {
        let now = freshness.came;
        let weight = absence_weight(&path);
        self.absences.push_back((now, path.clone()));
        let is_doubtful = false;
        let before = self.absent.insert(
            path,
            NegativeEntry {
                freshness,
                is_doubtful,
            },
        );
        if before.is_none() {
            self.absent_bytes += weight;
        }
        while let Some((came, path)) = self.absences.front() {
            let last = self
                .absent
                .get(path)
                .filter(|last| last.freshness.came == *came);
            // Who the members are does not matter here: this only limits memory.
            let may_hold = last.is_some_and(|last| {
                let revision = last.freshness.revision;
                last.freshness.holds(Present { now, revision })
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

    /// Forgets what is known of `path` and of its parent directory.
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

    /// Forgets the directories of which `member` has the largest part. Returns them, to be dropped
    /// without the lock.
    pub fn forget_those_of(&mut self, member: PeerId) -> Vec<Arc<MergedDirectory>> {
        let mostly = |_: &RelPath, cached: &Cached| {
            let largest = cached.directory.largest_part();
            largest == Some(member)
        };
        let gone = self.directories.remove_all(mostly);
        gone.into_iter().map(|gone| self.uncount(gone)).collect()
    }

    /// Sums over what is in memory.
    pub fn known(&self) -> DirectoryTotals {
        self.known
    }

    /// Returns what is remembered of `path`, compared with all changes since.
    fn settled(&mut self, path: &RelPath) -> Option<&mut Cached> {
        let cached = self.directories.peek_mut(path)?;
        let since = cached.freshness.changes;
        if since == self.changes.count() {
            return Some(cached);
        }
        cached.doubts.is_over |= self.changes.ended_listing(path, since);
        for member in self.changes.members(since) {
            cached
                .doubts
                .apply(member, self.changes.about_listing(member, path, since));
        }
        cached.freshness.changes = self.changes.count();
        Some(cached)
    }

    fn settled_absence(&mut self, path: &RelPath) -> Option<&mut NegativeEntry> {
        let since = self.absent.get(path)?.freshness.changes;
        if since != self.changes.count() {
            let Some(concerned) = self.changes.about_entry(path, since) else {
                self.remove_absent(path);
                return None;
            };
            let absence = self.absent.get_mut(path)?;
            absence.freshness.changes = self.changes.count();
            if !concerned.is_empty() {
                absence.is_doubtful = true;
                let watched = absence.freshness.watched.iter().copied();
                let watched = watched.filter(|member| !concerned.contains(member));
                absence.freshness.watched = watched.collect();
            }
        }
        self.absent.get_mut(path)
    }

    fn remove(&mut self, path: &RelPath) -> Option<Arc<MergedDirectory>> {
        let cached = self.directories.remove(path)?;
        Some(self.uncount(cached))
    }

    fn uncount(&mut self, cached: Cached) -> Arc<MergedDirectory> {
        self.known -= cached.known;
        cached.directory
    }

    fn remove_absent(&mut self, path: &RelPath) {
        if self.absent.remove(path).is_some() {
            self.absent_bytes -= absence_weight(path);
        }
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
            .filter(|item| item.kind == Kind::File);
        Self {
            items: directory.items.len(),
            bytes: files.fold(0, |sum, file| sum.saturating_add(file.size.or_zero())),
        }
    }
}

// Wrapping, so that each sum is undone exactly, whatever sizes members claim.
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
