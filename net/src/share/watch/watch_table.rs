//! Which directories are watched, under which paths, and for how long.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::fs::inotify;

use crate::config::PROMISE;
use crate::model::RelPath;

/// How long a directory stays watched after the last request for it; longer than [`PROMISE`].
const KEPT: Duration = Duration::from_secs(75);

const _: () = assert!(KEPT.as_secs() > PROMISE.as_secs());

/// The watched directories.
#[derive(Default)]
pub(super) struct WatchTable {
    by_path: BTreeMap<RelPath, WatchedDirectory>,
    /// A directory may have been looked up under a new path before its move was noticed.
    by_descriptor: BTreeMap<i32, Vec<RelPath>>,
}

struct WatchedDirectory {
    descriptor: i32,
    until: Instant,
}

impl WatchTable {
    /// Returns true if nothing is watched.
    pub(super) fn is_empty(&self) -> bool {
        self.by_path.is_empty()
    }

    /// Extends the watch of `path`, if it is watched.
    pub(super) fn extend(&mut self, path: &RelPath, now: Instant) -> bool {
        let watched = self.by_path.get_mut(path);
        let is_watched = watched.is_some();
        if let Some(watched) = watched {
            watched.until = now + KEPT;
        }
        is_watched
    }

    /// Records that `descriptor` watches `path` from `now` on.
    pub(super) fn insert(&mut self, path: RelPath, descriptor: i32, now: Instant) {
        let until = now + KEPT;
        self.forget(&path);
        let paths = self.by_descriptor.entry(descriptor).or_default();
        paths.push(path.clone());
        self.by_path
            .insert(path, WatchedDirectory { descriptor, until });
    }

    /// Removes `path`. Returns its watch if no other path has the same one.
    pub(super) fn forget(&mut self, path: &RelPath) -> Option<i32> {
        let WatchedDirectory { descriptor, .. } = self.by_path.remove(path)?;
        let paths = self.by_descriptor.get_mut(&descriptor)?;
        paths.retain(|other| other != path);
        if !paths.is_empty() {
            return None;
        }
        self.by_descriptor.remove(&descriptor);
        Some(descriptor)
    }

    pub(super) fn remove(&mut self, path: &RelPath, inotify: &OwnedFd) {
        if let Some(descriptor) = self.forget(path) {
            // The watch may have disappeared on its own, with its directory.
            let _ = inotify::remove_watch(inotify, descriptor);
        }
    }

    pub(super) fn clear(&mut self, inotify: &OwnedFd) {
        for descriptor in self.by_descriptor.keys() {
            // The watch may have disappeared on its own, with its directory.
            let _ = inotify::remove_watch(inotify, *descriptor);
        }
        *self = Self::default();
    }

    /// Returns true if `path` is watched.
    pub(super) fn contains(&self, path: &RelPath) -> bool {
        self.by_path.contains_key(path)
    }

    /// Returns how many paths are watched.
    pub(super) fn len(&self) -> usize {
        self.by_path.len()
    }

    /// Returns the paths of the directory that `descriptor` watches.
    pub(super) fn of_descriptor(&self, descriptor: i32) -> Vec<RelPath> {
        let paths = self.by_descriptor.get(&descriptor);
        paths.cloned().unwrap_or_default()
    }

    /// Removes the watches that nobody needs any longer.
    pub(super) fn expire(&mut self, inotify: &OwnedFd, now: Instant) {
        let old = self.by_path.iter();
        let old = old.filter(|(_, watched)| watched.until <= now);
        let old: Vec<RelPath> = old.map(|(path, _)| path.clone()).collect();
        for path in old {
            self.remove(&path, inotify);
        }
    }

    /// Removes `directory` and everything below it.
    pub(super) fn remove_below(&mut self, directory: &RelPath, inotify: &OwnedFd) {
        self.remove(directory, inotify);
        let Ok(first) = RelPath::new(&[directory.as_bytes(), b"/\x01"].concat()) else {
            return;
        };
        let prefix = [directory.as_bytes(), b"/"].concat();
        let below = self.by_path.range(first..);
        let below = below.take_while(|(path, _)| path.as_bytes().starts_with(&prefix));
        let below: Vec<RelPath> = below.map(|(path, _)| path.clone()).collect();
        for path in below {
            self.remove(&path, inotify);
        }
    }
}
