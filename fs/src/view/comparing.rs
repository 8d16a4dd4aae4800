//! Which files should get their content roots before others, because two files of one path look
//! alike and nobody knows yet whether they are the same.
//!
//! Each member is notified of its own files, once in a while, and only of a bounded number. The
//! candidates are found without the lock, which is held only for that many look-ups.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tinyp2p_net::concurrency::two_generation_cache::TwoGenerationCache;
use tinyp2p_net::model::{PeerId, RelPath};

use super::conflicts::Evidence;
use super::merge::Item;

/// A member is notified of the same file no sooner than this, as the file may never get a root.
const PAUSE: Duration = Duration::from_secs(60);

/// How many notified files are remembered. No more than that are looked up at once.
const MAX_REMEMBERED: usize = 16_384;

/// The maximum number of files of one directory that one member is notified of at once: as many as
/// fit into one call.
const MAX_EACH: usize = 256;

/// The files that members have been notified of.
pub struct Comparing {
    hasher: RandomState,
    notified: Mutex<TwoGenerationCache<u64, Instant>>,
}

/// The files that one member could be notified of, each as a hash and the index of the item that
/// keeps its name.
type Candidates = BTreeMap<PeerId, Vec<(u64, usize)>>;

impl Default for Comparing {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            notified: Mutex::new(TwoGenerationCache::new(MAX_REMEMBERED)),
        }
    }
}

impl Comparing {
    /// Returns the files without a root among `items`, the entries of `directory`, that look
    /// like another content of their path, by the members that have them. Counts them as
    /// notified at `now`.
    pub fn wishes(
        &self,
        directory: &RelPath,
        items: &[Item],
        now: Instant,
    ) -> BTreeMap<PeerId, Vec<RelPath>> {
        let candidates = self.candidates(directory, items);
        if candidates.is_empty() {
            return BTreeMap::new();
        }
        let max = (MAX_REMEMBERED / candidates.len()).max(1);
        let mut notified = self.notified.lock();
        let mut is_due = |key: u64| {
            let last = notified.get(&key);
            let is_due = last.is_none_or(|last| now.saturating_duration_since(last) >= PAUSE);
            if is_due {
                notified.insert(key, now);
            }
            is_due
        };
        let due = candidates.into_iter().map(|(member, candidates)| {
            let due = candidates.into_iter().take(max);
            let due = due.filter(|(key, _)| is_due(*key)).take(MAX_EACH);
            (member, due.map(|(_, index)| index).collect())
        });
        let due: Vec<(PeerId, Vec<usize>)> = due.collect();
        drop(notified);
        let paths = due.into_iter().map(|(member, due)| {
            let names = due.into_iter().map(|index| &items[index].name);
            let paths = names.filter_map(|name| directory.join(name).ok());
            (member, paths.collect::<Vec<_>>())
        });
        paths.filter(|(_, paths)| !paths.is_empty()).collect()
    }

    fn candidates(&self, directory: &RelPath, items: &[Item]) -> Candidates {
        let mut candidates = Candidates::new();
        let mut seen = HashSet::new();
        for item in items {
            let Some(plain) = &item.original else {
                continue;
            };
            let Ok(index) = items.binary_search_by(|item| item.name.cmp(plain)) else {
                continue;
            };
            let kept = &items[index];
            if Evidence::between(item, kept) != Evidence::Open {
                continue;
            }
            let both = [item, kept].into_iter().filter(|item| item.root.is_none());
            for source in both.flat_map(|item| item.sources.iter()) {
                let member = source.member.id;
                let list = candidates.entry(member).or_default();
                let key = self.hasher.hash_one((member, directory, plain));
                if list.len() < MAX_REMEMBERED && seen.insert(key) {
                    list.push((key, index));
                }
            }
        }
        candidates
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tinyp2p_net::model::{Attributes, Entry, Kind, Mode, Name, Root, Version};

    use super::*;
    use crate::network::MemberRef;
    use crate::view::merge;

    fn id(number: u8) -> PeerId {
        PeerId::from_bytes([number; 32])
    }

    /// Name, size and root.
    type File<'a> = (&'a str, u64, Option<u8>);

    /// A directory in which each member has these files.
    fn items(said: &[(u8, &[File<'_>])]) -> Vec<Item> {
        let listing = |(number, files): &(u8, &[File<'_>])| {
            let member = MemberRef {
                id: id(*number),
                name: format!("m{number}").into(),
            };
            let entry = |(name, size, root): &File<'_>| Entry {
                name: Name::new(name.as_bytes()).unwrap(),
                attributes: Attributes {
                    kind: Kind::File,
                    mode: Mode::Plain,
                    size: (*size).into(),
                    mtime: 1.into(),
                    version: Version(1),
                    root: root.map(|byte| Root::from_bytes([byte; 32])),
                },
            };
            (Arc::new(member), files.iter().map(entry).collect())
        };
        merge::directory(said.iter().map(listing).collect(), None)
    }

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn possibly_equal_contents_are_announced() {
        let items = items(&[
            (
                1,
                &[
                    ("a", 5, Some(1)),
                    ("b", 5, None),
                    ("c", 5, None),
                    ("d", 5, None),
                ],
            ),
            (2, &[("a", 5, None), ("b", 5, None), ("c", 6, None)]),
            (3, &[("a", 5, None), ("e", 5, None)]),
        ]);
        let (comparing, now) = (Comparing::default(), Instant::now());
        let wishes = comparing.wishes(&path("x"), &items, now);
        let expected = BTreeMap::from([
            (id(1), vec![path("x/b")]),
            (id(2), vec![path("x/a"), path("x/b")]),
            (id(3), vec![path("x/a")]),
        ]);
        assert_eq!(wishes, expected);
        let soon = now + PAUSE / 2;
        assert!(
            comparing.wishes(&path("x"), &items, soon).is_empty(),
            "notified already"
        );
        assert_eq!(comparing.wishes(&path("x"), &items, now + PAUSE), expected);
    }

    #[test]
    fn so_many_files_are_looked_up_at_once() {
        let names: Vec<String> = (0..2 * MAX_REMEMBERED).map(|n| format!("{n:05}")).collect();
        let files: Vec<_> = names.iter().map(|name| (&**name, 5, None)).collect();
        let items = items(&[(1, &files), (2, &files)]);
        let (comparing, now) = (Comparing::default(), Instant::now());
        let mut count = 0;
        loop {
            let wishes = comparing.wishes(&path("x"), &items, now);
            if wishes.is_empty() {
                break;
            }
            count += wishes.values().map(Vec::len).sum::<usize>();
            assert!(count <= MAX_REMEMBERED, "{count}");
        }
        assert_eq!(count, MAX_REMEMBERED);
    }

    #[test]
    fn one_member_is_told_of_so_many_files() {
        let names: Vec<String> = (0..2 * MAX_EACH).map(|n| format!("{n:04}")).collect();
        let files: Vec<_> = names.iter().map(|name| (&**name, 5, None)).collect();
        let items = items(&[(1, &files), (2, &files)]);
        let (comparing, now) = (Comparing::default(), Instant::now());
        for _ in 0..2 {
            let wishes = comparing.wishes(&path("x"), &items, now);
            assert!(wishes.values().all(|paths| paths.len() == MAX_EACH));
        }
    }
}
