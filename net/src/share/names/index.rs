//! The names of the directories that were read lately.
//!
//! A page of a listing needs the names of its directory, sorted, and a search needs those of every
//! directory. Reading a million of them again for each would cost more than everything else. So
//! they are cached in memory, and used only while their directory is unchanged: for a cached
//! directory, the disk is queried only for its version.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::name_list::NameList;
use crate::concurrency::expiring_map::ExpiringMap;
use crate::model::{RelPath, Version};

/// Limit on the memory for all of them, in bytes: the names of about four million files.
const MAX_WEIGHT: usize = 128 << 20;

/// Names that are not requested within this time are dropped. Long enough for occasional searches,
/// short enough that a node without requests stays small.
const LIFETIME: Duration = Duration::from_secs(10 * 60);

/// Bytes that a directory takes besides its path and its names: its places in the two tables, their
/// spare capacity, and three allocations.
const OVERHEAD: usize = 256;

/// The cached directories, by their real paths.
#[derive(Debug)]
pub(crate) struct NameIndex(ExpiringMap<RelPath, (Version, Arc<NameList>)>);

impl Default for NameIndex {
    fn default() -> Self {
        Self(ExpiringMap::new(LIFETIME, MAX_WEIGHT))
    }
}

impl NameIndex {
    /// Returns the names of the directory at `real`, if they are cached for its present `version`.
    pub(crate) fn get(
        &mut self,
        real: &RelPath,
        version: Version,
        now: Instant,
    ) -> Option<Arc<NameList>> {
        self.expire(now);
        let (known, names) = self.0.get(real, now)?;
        if *known != version {
            self.0.remove(real);
            return None;
        }
        let names = Arc::clone(names);
        self.0.touch(real, now);
        Some(names)
    }

    /// Caches `names`, unless they alone exceed the limit.
    pub(crate) fn put(
        &mut self,
        real: &RelPath,
        version: Version,
        names: &Arc<NameList>,
        now: Instant,
    ) {
        let weight = names.weight() + real.as_bytes().len() + OVERHEAD;
        let value = (version, Arc::clone(names));
        self.0.insert(real.clone(), value, weight, now);
    }

    /// Drops the names that nobody has requested lately.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.0.expire(now);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
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
    fn names_are_used_for_their_version_only() {
        let (mut index, now) = (NameIndex::default(), Instant::now());
        index.put(&path(0), V1, &many(1), now);
        assert!(index.get(&path(0), V1, now).is_some());
        assert!(index.get(&path(1), V1, now).is_none());
        assert!(index.get(&path(0), Version(2), now).is_none());
        assert!(index.get(&path(0), V1, now).is_none(), "the old is gone");
    }

    #[test]
    fn unrequested_names_are_forgotten() {
        let (mut index, now) = (NameIndex::default(), Instant::now());
        index.put(&path(0), V1, &many(1), now);
        index.put(&path(1), V1, &many(1), now);
        let later = now + LIFETIME / 2;
        assert!(index.get(&path(0), V1, later).is_some());
        index.expire(now + LIFETIME);
        assert_eq!(index.0.len(), 1);
        assert!(index.get(&path(0), V1, later + LIFETIME / 2).is_some());
        index.expire(later + LIFETIME * 2);
        assert_eq!((index.0.len(), index.0.weight()), (0, 0));
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
    fn oversized_names_evict_nobody() {
        let (mut index, now) = (NameIndex::default(), Instant::now());
        index.put(&path(0), V1, &many(1), now);
        index.put(&path(1), V1, &many(MAX_WEIGHT / 8), now);
        assert!(index.get(&path(0), V1, now).is_some());
        assert!(index.get(&path(1), V1, now).is_none());
    }
}
