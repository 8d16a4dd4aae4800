//! The names of the directories that were read lately.
//!
//! A page of a listing needs the names of its directory, sorted, and a search needs those of every
//! directory there is. Reading a million of them again for each would cost more than all else, so
//! they are kept in memory, and used only while their directory is unchanged: what is asked of the
//! disk for one that is known is whether it still has the same version.
//!
//! Every use gets the next number; the lowest belongs to what was used longest ago, which is the
//! first to go when room is needed or its time is up. So nothing here looks at all directories.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::name_list::NameList;
use crate::model::{RelPath, Version};

/// The most bytes of memory for all of them: the names of about four million files.
const MAX_WEIGHT: usize = 128 << 20;

/// Forgotten when not asked for again within this time. Long enough for someone who searches now
/// and then, short enough that a node which nobody asks is small.
const LIFETIME: Duration = Duration::from_secs(10 * 60);

/// Bytes that a directory takes besides its path and its names: its places in the two tables, what
/// these keep free, and three allocations.
const OVERHEAD: usize = 256;

/// The remembered directories.
#[derive(Debug, Default)]
pub(crate) struct NameIndex {
    /// The last use of each, by its real path.
    uses: HashMap<RelPath, u64>,
    directories: BTreeMap<u64, IndexedDirectory>,
    next_use: u64,
    weight: usize,
}

#[derive(Debug)]
struct IndexedDirectory {
    real: RelPath,
    version: Version,
    names: Arc<NameList>,
    used: Instant,
}

impl NameIndex {
    /// The names of the directory at `real`, if they are known for its present `version`.
    pub(crate) fn get(
        &mut self,
        real: &RelPath,
        version: Version,
        now: Instant,
    ) -> Option<Arc<NameList>> {
        self.expire(now);
        let directory = self.remove(real)?;
        if directory.version != version {
            return None;
        }
        let names = Arc::clone(&directory.names);
        self.insert(IndexedDirectory {
            used: now,
            ..directory
        });
        Some(names)
    }

    /// Remembers `names`, unless they alone take more than there is room for.
    pub(crate) fn put(
        &mut self,
        real: &RelPath,
        version: Version,
        names: &Arc<NameList>,
        now: Instant,
    ) {
        self.expire(now);
        self.remove(real);
        let directory = IndexedDirectory {
            real: real.clone(),
            version,
            names: Arc::clone(names),
            used: now,
        };
        if directory.weight() > MAX_WEIGHT {
            return;
        }
        self.insert(directory);
        while self.weight > MAX_WEIGHT {
            self.remove_oldest();
        }
    }

    /// Forgets what nobody has asked for lately.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some((_, oldest)) = self.directories.first_key_value()
            && now.saturating_duration_since(oldest.used) >= LIFETIME
        {
            self.remove_oldest();
        }
    }

    fn insert(&mut self, directory: IndexedDirectory) {
        self.weight += directory.weight();
        self.uses.insert(directory.real.clone(), self.next_use);
        self.directories.insert(self.next_use, directory);
        self.next_use += 1;
    }

    fn remove(&mut self, real: &RelPath) -> Option<IndexedDirectory> {
        let directory = self.directories.remove(&self.uses.remove(real)?)?;
        self.weight -= directory.weight();
        Some(directory)
    }

    fn remove_oldest(&mut self) {
        if let Some((_, oldest)) = self.directories.pop_first() {
            self.uses.remove(&oldest.real);
            self.weight -= oldest.weight();
        }
        if self.directories.is_empty() {
            self.uses.shrink_to_fit();
        }
    }
}

impl IndexedDirectory {
    fn weight(&self) -> usize {
        self.names.weight() + self.real.as_bytes().len() + OVERHEAD
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::share::names::name_list::EntryHint;
    use crate::share::names::name_list::tests::names;

    const V1: Version = Version(1);

    fn path(index: usize) -> RelPath {
        RelPath::new(format!("d{index}").as_bytes()).unwrap()
    }

    fn many(count: usize) -> Arc<NameList> {
        let text: Vec<String> = (0..count).map(|i| format!("{i:06}")).collect();
        let entries: Vec<_> = text.iter().map(|t| (t.as_str(), EntryHint::File)).collect();
        Arc::new(names(&entries))
    }

    #[test]
    fn names_are_used_only_for_the_version_that_they_were_read_in() {
        let (mut index, now) = (NameIndex::default(), Instant::now());
        index.put(&path(0), V1, &many(1), now);
        assert!(index.get(&path(0), V1, now).is_some());
        assert!(index.get(&path(1), V1, now).is_none());
        assert!(index.get(&path(0), Version(2), now).is_none());
        assert!(index.get(&path(0), V1, now).is_none(), "the old is gone");
    }

    #[test]
    fn names_are_forgotten_when_nobody_asks_for_them() {
        let (mut index, now) = (NameIndex::default(), Instant::now());
        index.put(&path(0), V1, &many(1), now);
        index.put(&path(1), V1, &many(1), now);
        let later = now + LIFETIME / 2;
        assert!(index.get(&path(0), V1, later).is_some());
        index.expire(now + LIFETIME);
        assert_eq!(index.directories.len(), 1);
        assert!(index.get(&path(0), V1, later + LIFETIME / 2).is_some());
        index.expire(later + LIFETIME * 2);
        assert_eq!((index.uses.len(), index.weight), (0, 0));
    }

    #[test]
    fn what_was_used_longest_ago_makes_room() {
        let (mut index, now) = (NameIndex::default(), Instant::now());
        let names = many(100_000);
        let fitting = MAX_WEIGHT / (names.weight() + OVERHEAD + 10);
        for number in 0..fitting {
            index.put(&path(number), V1, &names, now);
        }
        assert!(index.get(&path(0), V1, now).is_some());
        index.put(&path(fitting), V1, &names, now);
        assert!(index.get(&path(0), V1, now).is_some());
        assert!(index.get(&path(1), V1, now).is_none());
        assert!(index.get(&path(2), V1, now).is_some());
        assert!(index.get(&path(fitting), V1, now).is_some());
    }

    #[test]
    fn more_names_than_there_is_room_for_put_out_nobody() {
        let (mut index, now) = (NameIndex::default(), Instant::now());
        index.put(&path(0), V1, &many(1), now);
        index.put(&path(1), V1, &many(MAX_WEIGHT / 8), now);
        assert!(index.get(&path(0), V1, now).is_some());
        assert!(index.get(&path(1), V1, now).is_none());
    }

    proptest! {
        #[test]
        fn the_tables_and_the_weight_agree_whatever_happens(
            steps in prop::collection::vec((0..4_usize, 0..3_u64, any::<bool>(), 0..400_u64), 1..60)
        ) {
            let (mut index, mut now) = (NameIndex::default(), Instant::now());
            let names = many(10);
            for (number, version, is_put, seconds) in steps {
                now += Duration::from_secs(seconds);
                let (path, version) = (path(number), Version(version));
                if is_put {
                    index.put(&path, version, &names, now);
                    prop_assert!(index.get(&path, version, now).is_some());
                } else {
                    index.get(&path, version, now);
                }
                let weights = index.directories.values().map(IndexedDirectory::weight);
                prop_assert_eq!(weights.sum::<usize>(), index.weight);
                prop_assert_eq!(index.uses.len(), index.directories.len());
                for (last_use, directory) in &index.directories {
                    prop_assert_eq!(index.uses.get(&directory.real), Some(last_use));
                    prop_assert!(now - directory.used < LIFETIME);
                }
                let ages = index.directories.values().map(|directory| directory.used);
                prop_assert!(ages.is_sorted());
            }
        }
    }
}
