//! What the view remembers, and for how long: merged directories and names that nobody has.
//!
//! Pure: time comes in as `now`. `Cache::is_fresh` is the one place that decides whether an answer
//! still holds, and [`Cache::forget`] the one that ends it early; news from members will go through
//! the same two. Both memories are bounded, the oldest answer goes first.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tinyp2p_net::types::{Kind, RelPath};

use super::Directory;

/// Without news, an answer counts for this long: `ls` shows what others did a second ago, and a
/// program that looks at every file of a directory still asks the network once.
pub const FRESH: Duration = Duration::from_secs(1);

/// A listing that is no longer fresh still tells how large its directory is, which
/// [`Cache::is_worth_listing`] needs. After this time nobody is walking there any more.
const REMEMBERED: Duration = Duration::from_secs(30);

/// The most names in memory, at about 200 bytes each. One directory is kept whatever its size.
const MAX_ITEMS: usize = 250_000;

/// The most absent names in memory.
const MAX_ABSENT: usize = 16_384;

/// A listing of n names costs about as much as this many questions and one more for every
/// [`ITEMS_PER_QUESTION`] of them.
const QUESTIONS_PER_LISTING: usize = 8;

/// See [`QUESTIONS_PER_LISTING`].
const ITEMS_PER_QUESTION: usize = 64;

/// Everything that the view remembers.
#[derive(Default)]
pub struct Cache {
    directories: HashMap<RelPath, Cached>,
    /// When each directory came, in that order; may name directories that came again since.
    arrivals: VecDeque<(Instant, RelPath)>,
    absent: HashMap<RelPath, Instant>,
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
    came: Instant,
    known: Known,
    /// Single names of it that had to be asked for since it is no longer fresh.
    questions: usize,
}

impl Cache {
    fn is_fresh(came: Instant, now: Instant) -> bool {
        now.saturating_duration_since(came) < FRESH
    }

    /// The listing of `path`, if it still holds.
    pub fn directory(&self, path: &RelPath, now: Instant) -> Option<Arc<Directory>> {
        let cached = self.directories.get(path)?;
        Self::is_fresh(cached.came, now).then(|| Arc::clone(&cached.directory))
    }

    /// The last listing of `path`, which may no longer hold.
    pub fn last_directory(&self, path: &RelPath) -> Option<Arc<Directory>> {
        let cached = self.directories.get(path)?;
        Some(Arc::clone(&cached.directory))
    }

    /// True if nobody had `path` a moment ago, and everybody said so.
    pub fn is_absent(&self, path: &RelPath, now: Instant) -> bool {
        let came = self.absent.get(path);
        came.is_some_and(|came| Self::is_fresh(*came, now))
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
        directory: Arc<Directory>,
        now: Instant,
    ) -> Vec<Arc<Directory>> {
        let mut gone: Vec<_> = self.remove(&path).into_iter().collect();
        let known = Known::of(&directory);
        self.known += known;
        self.arrivals.push_back((now, path.clone()));
        let cached = Cached {
            directory,
            came: now,
            known,
            questions: 0,
        };
        self.directories.insert(path, cached);
        while let Some((came, path)) = self.arrivals.front() {
            let is_last_answer = self.directories.get(path).is_some_and(|c| c.came == *came);
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
    pub fn insert_absent(&mut self, path: RelPath, now: Instant) {
        self.absences.push_back((now, path.clone()));
        self.absent.insert(path, now);
        while let Some((came, path)) = self.absences.front() {
            if Self::is_fresh(*came, now) && self.absences.len() <= MAX_ABSENT {
                break;
            }
            if self.absent.get(path) == Some(came) {
                self.absent.remove(path);
            }
            self.absences.pop_front();
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

impl Known {
    fn of(directory: &Directory) -> Self {
        let files = directory
            .items
            .iter()
            .filter(|item| item.kind == Kind::File);
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
    use tinyp2p_net::types::{Name, PeerId, Version};

    use super::*;
    use crate::view::merge::{Item, Member, Source};

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
            names_root: false,
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

    #[test]
    fn a_listing_holds_for_a_second() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.insert(path("d"), directory(1), now);
        assert!(cache.directory(&path("d"), now + FRESH / 2).is_some());
        assert!(cache.directory(&path("d"), now + FRESH).is_none());
    }

    #[test]
    fn absence_holds_for_a_second() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.insert_absent(path("d/x"), now);
        assert!(cache.is_absent(&path("d/x"), now + FRESH / 2));
        assert!(!cache.is_absent(&path("d/x"), now + FRESH));
        assert!(!cache.is_absent(&path("d/y"), now));
    }

    #[test]
    fn forgetting_a_file_ends_its_directory_too() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.insert(path("d"), directory(1), now);
        cache.insert_absent(path("d/x"), now);
        cache.forget(&path("d/x"));
        assert!(cache.directory(&path("d"), now).is_none());
        assert!(!cache.is_absent(&path("d/x"), now));
        assert_eq!(cache.known(), Known::default());
    }

    #[test]
    fn the_oldest_directories_go_when_there_are_too_many_names() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let third = MAX_ITEMS / 3;
        for (number, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
            let later = now + Duration::from_millis(number as u64);
            cache.insert(path(name), directory(third), later);
        }
        let kept = ["a", "b", "c", "d"].map(|name| cache.directory(&path(name), now).is_some());
        assert_eq!(kept, [false, true, true, true]);
        assert_eq!(cache.known().items, 3 * third);
        assert_eq!(cache.known().bytes, 30 * third as u64);
    }

    #[test]
    fn one_directory_is_kept_whatever_its_size() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.insert(path("small"), directory(1), now);
        cache.insert(path("huge"), directory(MAX_ITEMS + 1), now);
        assert!(cache.directory(&path("huge"), now).is_some());
        assert!(cache.directory(&path("small"), now).is_none());
    }

    #[test]
    fn a_directory_listed_again_counts_once() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for second in 0..100 {
            cache.insert(path("d"), directory(10), now + Duration::from_secs(second));
        }
        assert_eq!(cache.known().items, 10);
        assert!(cache.arrivals.len() <= 1 + REMEMBERED.as_secs() as usize);
    }

    #[test]
    fn absences_are_bounded() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for number in 0..2 * MAX_ABSENT {
            cache.insert_absent(path(&number.to_string()), now);
        }
        assert_eq!(cache.absent.len(), MAX_ABSENT);
        cache.insert_absent(path("last"), now + FRESH);
        assert_eq!((cache.absent.len(), cache.absences.len()), (1, 1));
    }

    #[test]
    fn many_questions_about_a_listed_directory_make_a_listing_worth_it() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        assert!(!cache.is_worth_listing(&path("unknown")));
        cache.insert(path("d"), directory(6_400), now);
        let questions = (1..).find(|_| cache.is_worth_listing(&path("d"))).unwrap();
        assert_eq!(questions, QUESTIONS_PER_LISTING + 100 + 1);
    }
}
