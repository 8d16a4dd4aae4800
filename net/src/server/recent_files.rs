//! Files that were served a moment ago, so that the next request for them need not wait.
//!
//! A caller that reads at random, or streams by many ranges, requests the same file again and
//! again. Finding it takes a visit to a blocking thread each time: a walk down its path, and a
//! look-up in the database of content roots. For a file that was just served, all of that is in
//! memory, and the kernel opens it without waiting right where the request arrived, or reports
//! that it cannot.
//!
//! No file stays open in between: a withdrawn file is gone at once, and a file system can be
//! unmounted. Only paths of regular files whose bytes are in the page cache are kept, as nothing
//! here may wait, and no device may be opened.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::concurrency::expiring_map::ExpiringMap;
use crate::model::RelPath;

/// How long a file counts as just served.
const KEPT: Duration = Duration::from_secs(1);

/// Files remembered at once, over all callers.
const MAX_FILES: usize = 64;

/// The paths, and when each file was last opened the long way.
pub(super) struct RecentFiles(Mutex<ExpiringMap<RelPath, ()>>);

impl Default for RecentFiles {
    fn default() -> Self {
        Self(Mutex::new(ExpiringMap::new(KEPT, MAX_FILES)))
    }
}

impl RecentFiles {
    /// Returns true if the file at `path` was served just before `now`.
    pub(super) fn holds(&self, path: &RelPath, now: Instant) -> bool {
        self.0.lock().get(path, now).is_some()
    }

    /// Remembers that the file at `path` was opened at `now`, if there is room.
    pub(super) fn put(&self, path: RelPath, now: Instant) {
        let mut paths = self.0.lock();
        paths.expire(now);
        if paths.len() < MAX_FILES || paths.get(&path, now).is_some() {
            paths.insert(path, (), 1, now);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn recent_paths_are_few_and_short_lived() {
        let (recent, now) = (RecentFiles::default(), Instant::now());
        let path = |number: usize| RelPath::new(number.to_string().as_bytes()).unwrap();
        for number in 0..=MAX_FILES {
            recent.put(path(number), now);
        }
        assert!(recent.holds(&path(0), now + KEPT / 2));
        assert!(!recent.holds(&path(MAX_FILES), now), "there was no room");
        assert!(!recent.holds(&path(0), now + KEPT));
        recent.put(path(MAX_FILES), now + KEPT);
        assert!(recent.holds(&path(MAX_FILES), now + KEPT));
        assert_eq!(recent.0.lock().len(), 1);
    }
}
