//! What the view remembers, and for how long: merged directories and names that nobody has.
//!
//! Pure: time comes in as `now`. [`Term`] decides whether an answer still holds; [`Cache::forget`],
//! [`Cache::take_in`] and [`Cache::distrust`] end it early. Both memories are bounded, the oldest answer goes first.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tinyp2p_net::types::{Kind, Name, RelPath};
use tinyp2p_net::wire::{Change, Depth};

use super::Directory;
use super::merge::may_be_conflict;
use super::term::{Present, Term};

/// A listing that is no longer fresh still tells how large its directory is, which
/// [`Cache::is_worth_listing`] needs. After this time nobody is walking there any more.
const REMEMBERED: Duration = Duration::from_secs(90);

/// The most names in memory, at about 200 bytes each. One directory is kept whatever its size.
const MAX_ITEMS: usize = 250_000;

/// The most absent names in memory.
const MAX_ABSENT: usize = 16_384;

/// A listing that no longer speaks for more names than this is no longer a listing.
const MAX_CHANGED: usize = 1024;

/// A listing of n names costs about as much as this many questions and one more for every
/// [`ITEMS_PER_QUESTION`] of them.
const QUESTIONS_PER_LISTING: usize = 8;

/// See [`QUESTIONS_PER_LISTING`].
const ITEMS_PER_QUESTION: usize = 64;

/// Everything that the view remembers.
#[derive(Default)]
pub struct Cache {
    directories: BTreeMap<RelPath, Cached>,
    /// When each directory came, in that order; may name directories that came again since.
    arrivals: VecDeque<(Instant, RelPath)>,
    absent: BTreeMap<RelPath, Term>,
    absences: VecDeque<(Instant, RelPath)>,
    known: Known,
}

/// Sums over all directories in memory.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Known {
    /// Names.
    pub items: usize,
    /// Bytes of all files.
    pub bytes: u64,
}

struct Cached {
    directory: Arc<Directory>,
    term: Term,
    known: Known,
    /// Single names of it that had to be asked for since it is no longer fresh.
    questions: usize,
    /// Names of which there were news since: the listing does not speak for these any more.
    changed: BTreeSet<Name>,
    /// True if the directory's own modification time may be another one by now.
    is_touched: bool,
}

impl Cache {
    /// The listing of `path`, if it still holds.
    pub fn directory(&self, path: &RelPath, present: Present) -> Option<Arc<Directory>> {
        let cached = self.directories.get(path)?;
        let holds = cached.term.holds(present) && cached.changed.is_empty() && !cached.is_touched;
        holds.then(|| Arc::clone(&cached.directory))
    }

    /// The listing of `path`, if it still holds for `name`, whatever has become of the others: so a file that grows
    /// all the time does not make everybody ask for all that lies beside it.
    pub fn directory_for(
        &self,
        path: &RelPath,
        name: &Name,
        present: Present,
    ) -> Option<Arc<Directory>> {
        let cached = self.directories.get(path)?;
        // The name of a conflict depends on other names.
        let speaks_for_it =
            cached.changed.is_empty() || !(cached.changed.contains(name) || may_be_conflict(name));
        let holds = cached.term.holds(present) && speaks_for_it;
        holds.then(|| Arc::clone(&cached.directory))
    }

    /// The last listing of `path`, which may no longer hold.
    pub fn last_directory(&self, path: &RelPath) -> Option<Arc<Directory>> {
        let cached = self.directories.get(path)?;
        Some(Arc::clone(&cached.directory))
    }

    /// True if nobody has `path`, as everybody said.
    pub fn is_absent(&self, path: &RelPath, present: Present) -> bool {
        let term = self.absent.get(path);
        term.is_some_and(|term| term.holds(present))
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

    /// Remembers a listing, and what was heard since it was asked for. Returns what had to go for it, to be dropped without the lock.
    pub fn insert(
        &mut self,
        path: RelPath,
        directory: Arc<Directory>,
        term: Term,
        missed: &[Change],
    ) -> Vec<Arc<Directory>> {
        let now = term.came;
        let mut gone: Vec<_> = self.remove(&path).into_iter().collect();
        let known = Known::of(&directory);
        self.known += known;
        self.arrivals.push_back((now, path.clone()));
        let mut cached = Cached {
            directory,
            term,
            known,
            questions: 0,
            changed: BTreeSet::new(),
            is_touched: false,
        };
        for change in missed {
            cached.take_in(&path, change);
        }
        self.directories.insert(path, cached);
        while let Some((came, path)) = self.arrivals.front() {
            let is_last_answer = self
                .directories
                .get(path)
                .is_some_and(|c| c.term.came == *came);
            let is_old = now.saturating_duration_since(*came) >= REMEMBERED;
            let is_too_much = self.known.items > MAX_ITEMS && self.directories.len() > 1;
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
        self.absences.push_back((term.came, path.clone()));
        self.absent.insert(path, term);
        while let Some((came, path)) = self.absences.front() {
            let last = self.absent.get(path).filter(|last| last.came == *came);
            // Who the members are does not matter here: it is a question of memory.
            let may_hold = last.is_some_and(|last| {
                let revision = last.watched_by.unwrap_or_default();
                let now = term.came;
                last.holds(Present { now, revision })
            });
            if may_hold && self.absences.len() <= MAX_ABSENT {
                break;
            }
            if last.is_some() {
                self.absent.remove(path);
            }
            self.absences.pop_front();
        }
    }

    /// Ends what may no longer hold after `change`. The listings stay in memory, as guesses.
    pub fn take_in(&mut self, change: &Change) {
        let Change { path, depth } = change;
        let parent = path.split().map(|(parent, _)| parent);
        for listing in [parent.as_ref(), Some(path)].into_iter().flatten() {
            if let Some(cached) = self.directories.get_mut(listing) {
                cached.take_in(listing, change);
            }
        }
        self.absent.remove(path);
        if *depth == Depth::Tree {
            let below = (Bound::Excluded(path.clone()), Bound::Unbounded);
            let starts = |(below, _): &(&RelPath, _)| below.as_bytes().starts_with(path.as_bytes());
            for (below, cached) in self.directories.range_mut(below.clone()) {
                if !below.as_bytes().starts_with(path.as_bytes()) {
                    break;
                }
                cached.take_in(below, change);
            }
            let absent = self.absent.range(below).take_while(starts);
            let absent = absent.filter(|(below, _)| below.is_within(path));
            let absent: Vec<RelPath> = absent.map(|(below, _)| below.clone()).collect();
            for path in absent {
                self.absent.remove(&path);
            }
        }
    }

    /// Nobody will be heard of when what is known changes: it holds for no longer than if they had never said so.
    pub fn distrust(&mut self) {
        for cached in self.directories.values_mut() {
            cached.term.watched_by = None;
        }
        for term in self.absent.values_mut() {
            term.watched_by = None;
        }
    }

    /// Ends what is known of `path` and of the directory that it lies in.
    pub fn forget(&mut self, path: &RelPath) -> Vec<Arc<Directory>> {
        self.absent.remove(path);
        let parent = path.split().map(|(parent, _)| parent);
        let paths = [Some(path), parent.as_ref()];
        paths
            .into_iter()
            .flatten()
            .filter_map(|path| self.remove(path))
            .collect()
    }

    /// Sums over what is in memory.
    pub fn known(&self) -> Known {
        self.known
    }

    fn remove(&mut self, path: &RelPath) -> Option<Arc<Directory>> {
        let cached = self.directories.remove(path)?;
        self.known -= cached.known;
        Some(cached.directory)
    }
}

impl Cached {
    /// Ends what of this listing, that of `own`, may no longer hold after `change`.
    fn take_in(&mut self, own: &RelPath, change: &Change) {
        let Change { path, depth } = change;
        match path.split() {
            _ if path == own && *depth == Depth::Entry => self.is_touched = true,
            Some((parent, name)) if parent == *own => {
                self.changed.insert(name);
                self.term.is_over |= self.changed.len() > MAX_CHANGED;
            }
            _ => self.term.is_over |= *depth == Depth::Tree && own.is_within(path),
        }
    }
}

impl Known {
    fn of(directory: &Directory) -> Self {
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
impl std::ops::AddAssign for Known {
    fn add_assign(&mut self, other: Self) {
        self.items += other.items;
        self.bytes = self.bytes.wrapping_add(other.bytes);
    }
}

impl std::ops::SubAssign for Known {
    fn sub_assign(&mut self, other: Self) {
        self.items -= other.items;
        self.bytes = self.bytes.wrapping_sub(other.bytes);
    }
}

#[cfg(test)]
mod tests {
    use tinyp2p_net::types::{PeerId, Version};

    use super::*;
    use crate::view::merge::{Item, Member, Source};
    use crate::view::term::FRESH;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    fn directory(names: usize) -> Arc<Directory> {
        let member = Arc::new(Member {
            id: PeerId::from_bytes([1; 32]),
            name: "ann".into(),
        });
        let sources: Arc<[Source]> = Arc::new([Source {
            member,
            version: Version(1),
        }]);
        let item = |number: usize| Item {
            name: Name::new(number.to_string().into_bytes()).unwrap(),
            original: None,
            kind: Kind::File,
            size: 10,
            mtime: 0,
            root: None,
            sources: Arc::clone(&sources),
        };
        Arc::new(Directory {
            mtime: None,
            items: (0..names).map(item).collect(),
            silent: Vec::new(),
        })
    }

    fn at(now: Instant) -> Present {
        Present { now, revision: 1 }
    }

    fn watched(came: Instant) -> Term {
        Term {
            watched_by: Some(1),
            ..Term::unwatched(came)
        }
    }

    #[test]
    fn a_listing_holds_for_a_second() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.insert(path("d"), directory(1), Term::unwatched(now), &[]);
        assert!(cache.directory(&path("d"), at(now + FRESH / 2)).is_some());
        assert!(cache.directory(&path("d"), at(now + FRESH)).is_none());
    }

    #[test]
    fn absence_holds_for_a_second() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.insert_absent(path("d/x"), Term::unwatched(now));
        assert!(cache.is_absent(&path("d/x"), at(now + FRESH / 2)));
        assert!(!cache.is_absent(&path("d/x"), at(now + FRESH)));
        assert!(!cache.is_absent(&path("d/y"), at(now)));
    }

    #[test]
    fn a_change_ends_what_it_concerns_and_nothing_else() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let listings = ["", "a", "a/b", "a/b/c", "a/b-", "a/b.d", "z"];
        let holding = |cache: &Cache| {
            let holds = |d: &&str| cache.directory(&path(d), at(now + FRESH)).is_some();
            listings.into_iter().filter(holds).collect::<Vec<_>>()
        };
        for (depth, left) in [
            (Depth::Entry, &["", "a/b/c", "a/b-", "a/b.d", "z"][..]),
            (Depth::Tree, &["", "a/b-", "a/b.d", "z"]),
        ] {
            for listing in listings {
                cache.insert(path(listing), directory(1), watched(now), &[]);
            }
            cache.insert_absent(path("a/b/x"), watched(now));
            cache.insert_absent(path("a/b-/x"), watched(now));
            cache.take_in(&Change {
                path: path("a/b"),
                depth,
            });
            assert_eq!(holding(&cache), left);
            let is_absent = |p: &str| cache.is_absent(&path(p), at(now + FRESH));
            assert_eq!(is_absent("a/b/x"), depth == Depth::Entry);
            assert!(is_absent("a/b-/x"));
        }
        assert!(
            cache.last_directory(&path("a/b")).is_some(),
            "a guess is left"
        );
        cache.take_in(&Change::everything());
        assert!(holding(&cache).is_empty());
    }

    #[test]
    fn news_of_one_name_leave_the_listing_good_for_all_others() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let grows = Change {
            path: path("d/grows"),
            depth: Depth::Entry,
        };
        cache.insert(path("d"), directory(1), watched(now), &[]);
        cache.take_in(&grows);
        let speaks_for = |cache: &Cache, name: &str| {
            let name = Name::new(name.as_bytes()).unwrap();
            cache.directory_for(&path("d"), &name, at(now)).is_some()
        };
        let expected = [("0", true), ("grows", false), ("grows (ann)", false)];
        for (name, speaks) in expected {
            assert_eq!(speaks_for(&cache, name), speaks, "{name}");
        }
        assert!(cache.directory(&path("d"), at(now)).is_none());
        // The same if they came while it was asked for.
        cache.insert(path("d"), directory(1), watched(now), &[grows]);
        assert!(speaks_for(&cache, "0") && !speaks_for(&cache, "grows"));
        for number in 0..=MAX_CHANGED {
            cache.take_in(&Change {
                path: path(&format!("d/{number}")),
                depth: Depth::Entry,
            });
        }
        assert!(!speaks_for(&cache, "another"));
    }

    #[test]
    fn what_nobody_watches_any_more_holds_for_a_second() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.insert(path("d"), directory(1), watched(now), &[]);
        cache.insert_absent(path("d/x"), watched(now));
        assert!(cache.directory(&path("d"), at(now + FRESH)).is_some());
        assert!(cache.is_absent(&path("d/x"), at(now + FRESH)));
        cache.distrust();
        assert!(cache.directory(&path("d"), at(now + FRESH)).is_none());
        assert!(!cache.is_absent(&path("d/x"), at(now + FRESH)));
        assert!(cache.directory(&path("d"), at(now)).is_some());
    }

    #[test]
    fn forgetting_a_file_ends_its_directory_too() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.insert(path("d"), directory(1), Term::unwatched(now), &[]);
        cache.insert_absent(path("d/x"), Term::unwatched(now));
        cache.forget(&path("d/x"));
        assert!(cache.directory(&path("d"), at(now)).is_none());
        assert!(!cache.is_absent(&path("d/x"), at(now)));
        assert_eq!(cache.known(), Known::default());
    }

    #[test]
    fn the_oldest_directories_go_when_there_are_too_many_names() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let third = MAX_ITEMS / 3;
        for (number, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
            let later = now + Duration::from_millis(number as u64);
            cache.insert(path(name), directory(third), Term::unwatched(later), &[]);
        }
        let kept = ["a", "b", "c", "d"].map(|name| cache.directory(&path(name), at(now)).is_some());
        assert_eq!(kept, [false, true, true, true]);
        assert_eq!(cache.known().items, 3 * third);
        assert_eq!(cache.known().bytes, 30 * third as u64);
    }

    #[test]
    fn one_directory_is_kept_whatever_its_size() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.insert(path("small"), directory(1), Term::unwatched(now), &[]);
        let huge = directory(MAX_ITEMS + 1);
        cache.insert(path("huge"), huge, Term::unwatched(now), &[]);
        assert!(cache.directory(&path("huge"), at(now)).is_some());
        assert!(cache.directory(&path("small"), at(now)).is_none());
    }

    #[test]
    fn a_directory_listed_again_counts_once() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for second in 0..100 {
            let later = now + Duration::from_secs(second);
            cache.insert(path("d"), directory(10), Term::unwatched(later), &[]);
        }
        assert_eq!(cache.known().items, 10);
        assert!(cache.arrivals.len() <= 1 + REMEMBERED.as_secs() as usize);
    }

    #[test]
    fn absences_are_bounded() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for number in 0..2 * MAX_ABSENT {
            cache.insert_absent(path(&number.to_string()), Term::unwatched(now));
        }
        assert_eq!(cache.absent.len(), MAX_ABSENT);
        cache.insert_absent(path("last"), Term::unwatched(now + FRESH));
        assert_eq!((cache.absent.len(), cache.absences.len()), (1, 1));
    }

    #[test]
    fn many_questions_about_a_listed_directory_make_a_listing_worth_it() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        assert!(!cache.is_worth_listing(&path("unknown")));
        cache.insert(path("d"), directory(6_400), Term::unwatched(now), &[]);
        let questions = (1..).find(|_| cache.is_worth_listing(&path("d"))).unwrap();
        assert_eq!(questions, QUESTIONS_PER_LISTING + 100 + 1);
    }
}
