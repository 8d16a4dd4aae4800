//! The changes, in the order in which they were noticed.
//!
//! Pure. Every change has a number, its counter. A client that gives the last counter it knows gets
//! the changes after it. Of several changes at one path, the last one stands for all. The memory is
//! bounded: a client that has fallen too far behind is told that everything may have changed.

use std::collections::{BTreeMap, HashMap};

use crate::model::RelPath;
use crate::protocol::wire::{Change, Changes, Depth};

/// Limit on remembered changes. At 10,000 a second, this outlasts a poll and its repetition.
pub(crate) const MAX_KEPT: usize = 65_536;

/// The changes of one share since this node started.
#[derive(Debug)]
pub(crate) struct Journal {
    counter: u64,
    /// Changes up to this one have been forgotten.
    forgotten: u64,
    changes: BTreeMap<u64, Change>,
    /// The counter in `changes` of each path.
    latest: HashMap<RelPath, u64>,
}

impl Journal {
    /// Creates an empty journal that counts from `start` on. `start` should be the time in
    /// nanoseconds, so that no counter of an earlier run of this node is mistaken for one
    /// of this run.
    pub(crate) fn new(start: u64) -> Self {
        Self {
            counter: start,
            forgotten: start,
            changes: BTreeMap::new(),
            latest: HashMap::new(),
        }
    }

    /// Returns the counter of the last change.
    pub(crate) fn counter(&self) -> u64 {
        self.counter
    }

    /// Records a change.
    pub(crate) fn record(&mut self, path: RelPath, depth: Depth) {
        if path.is_root() && depth == Depth::Tree {
            return self.record_everything();
        }
        self.counter += 1;
        let before = self.latest.insert(path.clone(), self.counter);
        let before = before.and_then(|counter| self.changes.remove(&counter));
        let depth = before.map_or(depth, |before| before.depth.max(depth));
        self.changes.insert(self.counter, Change { path, depth });
        if self.changes.len() > MAX_KEPT
            && let Some((counter, change)) = self.changes.pop_first()
        {
            self.latest.remove(&change.path);
            self.forgotten = counter;
        }
    }

    /// Records that anything may have changed.
    pub(crate) fn record_everything(&mut self) {
        self.counter += 1;
        self.forgotten = self.counter;
        self.changes.clear();
        self.latest.clear();
    }

    /// Returns the changes since `since`, as many as fit into one answer; `None` if there are none.
    pub(crate) fn since(&self, since: u64) -> Option<Changes> {
        if since == self.counter {
            return None;
        }
        if since < self.forgotten || since > self.counter {
            return Some(Changes {
                counter: self.counter,
                changes: vec![Change::everything()],
            });
        }
        let behind = self.changes.range(since + 1..);
        let page = behind.take(Changes::MAX_CHANGES);
        let mut counter = since;
        let changes = page.map(|(number, change)| {
            counter = *number;
            change.clone()
        });
        let changes = changes.collect();
        Some(Changes { counter, changes })
    }

    /// Returns true if what lies at `path` may have been replaced since `since`.
    pub(crate) fn is_uprooted(&self, path: &RelPath, since: u64) -> bool {
        if since < self.forgotten {
            return true;
        }
        let uproots = |change: &Change| change.depth == Depth::Tree && path.is_within(&change.path);
        self.changes
            .range(since + 1..)
            .any(|(_, change)| uproots(change))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    fn told(changes: Option<Changes>) -> Vec<(String, Depth)> {
        let changes = changes.unwrap().changes.into_iter();
        let told = changes.map(|change| (change.path.to_string(), change.depth));
        told.collect()
    }

    fn everything() -> Vec<(String, Depth)> {
        vec![(RelPath::root().to_string(), Depth::Tree)]
    }

    #[test]
    fn journal_gives_exactly_what_is_unheard() {
        let mut journal = Journal::new(100);
        assert_eq!(journal.since(100), None);
        journal.record(path("a"), Depth::Tree);
        let heard = journal.counter();
        journal.record(path("b"), Depth::Entry);
        assert_eq!(told(journal.since(heard)), [("b".into(), Depth::Entry)]);
        assert_eq!(told(journal.since(100)).len(), 2);
        assert_eq!(journal.since(journal.counter()), None);
        assert_eq!(journal.since(100).unwrap().counter, journal.counter());
    }

    #[test]
    fn path_is_reported_once_at_its_deepest() {
        let mut journal = Journal::new(0);
        journal.record(path("a"), Depth::Tree);
        journal.record(path("b"), Depth::Entry);
        journal.record(path("a"), Depth::Entry);
        let expected = [("b".into(), Depth::Entry), ("a".into(), Depth::Tree)];
        assert_eq!(told(journal.since(0)), expected);
        assert_eq!(told(journal.since(2)), [("a".into(), Depth::Tree)]);
    }

    #[test]
    fn unknown_counters_get_everything() {
        let mut journal = Journal::new(1000);
        assert_eq!(told(journal.since(1)), everything());
        assert_eq!(told(journal.since(1001)), everything());
        for number in 0..=MAX_KEPT {
            journal.record(path(&number.to_string()), Depth::Entry);
        }
        assert_eq!(told(journal.since(1000)), everything());
        assert_eq!(told(journal.since(1001)).len(), Changes::MAX_CHANGES);
        assert_eq!(
            (journal.changes.len(), journal.latest.len()),
            (MAX_KEPT, MAX_KEPT)
        );
        let now = journal.counter();
        journal.record_everything();
        assert_eq!(told(journal.since(now)), everything());
        assert_eq!(journal.since(now + 1), None);
    }

    #[test]
    fn excess_changes_take_several_responses() {
        let mut journal = Journal::new(0);
        let count = Changes::MAX_CHANGES + 5;
        for number in 0..count {
            journal.record(path(&number.to_string()), Depth::Entry);
        }
        let first = journal.since(0).unwrap();
        let second = journal.since(first.counter).unwrap();
        assert_eq!((first.changes.len(), second.changes.len()), (count - 5, 5));
        assert_eq!(journal.since(second.counter), None);
    }

    #[test]
    fn path_is_uprooted_by_later_changes_above() {
        let mut journal = Journal::new(0);
        journal.record(path("a/b"), Depth::Tree);
        let then = journal.counter();
        journal.record(path("a/bb"), Depth::Tree);
        journal.record(path("a"), Depth::Entry);
        assert!(journal.is_uprooted(&path("a/b"), 0));
        assert!(journal.is_uprooted(&path("a/b/c"), 0));
        assert!(!journal.is_uprooted(&path("a/b/c"), then));
        assert!(!journal.is_uprooted(&path("a"), 0));
        journal.record_everything();
        assert!(journal.is_uprooted(&path("x"), then));
    }
}
