//! The names of big directories that were listed lately.
//!
//! A page of a listing needs its directory's names sorted. Reading 100,000 of them again for each
//! of thirteen pages would cost more than the pages do, so they are kept for as long as someone is
//! likely to ask for the next page, and used only while the directory is unchanged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::names::Names;
use crate::types::{RelPath, Version};

/// Directories with fewer names are read again: that takes about a millisecond.
const BIG: usize = 4096;

/// The most directories remembered.
const MAX_DIRECTORIES: usize = 8;

/// The most bytes of memory for all of them; enough for the names of a million files.
const MAX_WEIGHT: usize = 64 << 20;

/// Forgotten when not asked for again within this time.
const LIFETIME: Duration = Duration::from_secs(10);

/// The remembered directories, the last used last.
#[derive(Debug, Default)]
pub(super) struct Listed {
    directories: Vec<Directory>,
}

#[derive(Debug)]
struct Directory {
    real: RelPath,
    version: Version,
    names: Arc<Names>,
    used: Instant,
}

impl Listed {
    /// The names of the directory at `real`, if they are known for its present `version`.
    pub(super) fn get(
        &mut self,
        real: &RelPath,
        version: Version,
        now: Instant,
    ) -> Option<Arc<Names>> {
        self.expire(now);
        let index = self.directories.iter().position(|d| d.real == *real)?;
        let mut directory = self.directories.remove(index);
        if directory.version != version {
            return None;
        }
        directory.used = now;
        let names = Arc::clone(&directory.names);
        self.directories.push(directory);
        Some(names)
    }

    /// Remembers `names` if there are many, and room.
    pub(super) fn put(
        &mut self,
        real: &RelPath,
        version: Version,
        names: &Arc<Names>,
        now: Instant,
    ) {
        self.expire(now);
        self.directories.retain(|d| d.real != *real);
        if names.len() < BIG || names.weight() > MAX_WEIGHT {
            return;
        }
        self.directories.push(Directory {
            real: real.clone(),
            version,
            names: Arc::clone(names),
            used: now,
        });
        while self.directories.len() > MAX_DIRECTORIES || self.weight() > MAX_WEIGHT {
            self.directories.remove(0);
        }
    }

    /// Forgets what nobody has asked for lately.
    pub(super) fn expire(&mut self, now: Instant) {
        self.directories
            .retain(|d| now.saturating_duration_since(d.used) < LIFETIME);
    }

    fn weight(&self) -> usize {
        self.directories.iter().map(|d| d.names.weight()).sum()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::names::{Seen, tests::names};
    use super::*;

    const V1: Version = Version(1);

    fn path(index: usize) -> RelPath {
        RelPath::new(format!("d{index}").as_bytes()).unwrap()
    }

    fn many(count: usize) -> Arc<Names> {
        let text: Vec<String> = (0..count).map(|i| format!("{i:06}")).collect();
        let entries: Vec<_> = text.iter().map(|t| (t.as_str(), Seen::File)).collect();
        Arc::new(names(&entries))
    }

    #[test]
    fn names_are_used_only_for_the_version_that_they_were_read_in() {
        let (mut listed, now) = (Listed::default(), Instant::now());
        listed.put(&path(0), V1, &many(BIG), now);
        assert!(listed.get(&path(0), V1, now).is_some());
        assert!(listed.get(&path(1), V1, now).is_none());
        assert!(listed.get(&path(0), Version(2), now).is_none());
        assert!(listed.get(&path(0), V1, now).is_none(), "the old is gone");
    }

    #[test]
    fn names_are_forgotten_when_nobody_asks_for_them() {
        let (mut listed, now) = (Listed::default(), Instant::now());
        listed.put(&path(0), V1, &many(BIG), now);
        let later = now + LIFETIME / 2;
        assert!(listed.get(&path(0), V1, later).is_some());
        assert!(listed.get(&path(0), V1, later + LIFETIME / 2).is_some());
        assert!(listed.get(&path(0), V1, later + LIFETIME * 2).is_none());
    }

    #[test]
    fn only_a_few_big_directories_are_remembered_and_the_last_used_stay() {
        let (mut listed, now) = (Listed::default(), Instant::now());
        listed.put(&path(99), V1, &many(BIG - 1), now);
        assert!(listed.get(&path(99), V1, now).is_none(), "too small");
        let names = many(BIG);
        for index in 0..MAX_DIRECTORIES {
            listed.put(&path(index), V1, &names, now);
        }
        assert!(listed.get(&path(0), V1, now).is_some());
        listed.put(&path(MAX_DIRECTORIES), V1, &names, now);
        assert!(listed.get(&path(0), V1, now).is_some());
        assert!(listed.get(&path(1), V1, now).is_none());
        assert_eq!(listed.directories.len(), MAX_DIRECTORIES);
    }
}
