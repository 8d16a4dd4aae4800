//! The log of members' changes, separate for each member. What a change does to an answer is
//! determined when somebody wants the answer.
//!
//! Pure. Recording a change costs a few comparisons, whatever is remembered. Every change has a
//! number, and an answer knows up to which number it was compared. What a member says affects only
//! its own answers. The memory for each member is bounded: one that says more counts as having said
//! that everything of its own may have changed.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use tinyp2p_net::budget::Weigh;
use tinyp2p_net::model::{Name, PeerId, RelPath};
use tinyp2p_net::protocol::wire::{Change, Depth};

use super::tree_order::{TreeOrder, compare};

/// The maximum number of remembered changes of one member: four full polls.
const MAX_CHANGES: usize = 4096;

/// The maximum number of bytes of one member's changes.
const MAX_BYTES: usize = 1 << 20;

/// The maximum number of bytes of all changes. Beyond it, the member with the most makes room.
const MAX_ALL_BYTES: usize = 8 << 20;

/// The maximum number of members with remembered changes: more than one network ever has.
const MAX_MEMBERS: usize = 1024;

/// What a change costs beyond its own bytes: its place in a tree.
const OVERHEAD: usize = 32;

/// The last changes, separate for each member.
#[derive(Debug, Default)]
pub struct ChangeLog {
    count: u64,
    of: HashMap<PeerId, MemberChanges>,
    /// The bytes of all members' logs together.
    bytes: usize,
    /// Changes that concern the answers of all members.
    of_all: MemberChanges,
    /// Up to the change of this number, changes of members without a log are no longer known.
    forgotten: u64,
}

#[derive(Debug, Default)]
struct MemberChanges {
    /// The number of the last change.
    last: u64,
    /// The number of the last change that concerned everything.
    everything: u64,
    changes: BTreeMap<TreeOrder, (Depth, u64)>,
    bytes: usize,
}

/// What changes do to a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// No change concerns the answer.
    None,
    /// The listing no longer holds for these names; without names, for the
    /// directory's own attributes.
    Partial(Vec<Name>),
    /// The listing no longer holds.
    Total,
}

impl ChangeLog {
    /// Returns how many changes there were so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Records what `member` said or, without a member, a change to the answers of all.
    pub fn note(&mut self, member: Option<PeerId>, change: &Change) {
        self.count += 1;
        let count = self.count;
        let log = self.log(member);
        let before = log.bytes;
        log.note(change, count);
        let after = log.bytes;
        if member.is_some() {
            self.bytes = self.bytes + after - before;
            self.limit();
        }
    }

    /// Records that everything `member` said may have changed.
    pub fn note_everything(&mut self, member: PeerId) {
        self.note(Some(member), &Change::everything());
    }

    /// Returns the members that reported changes since number `since`.
    pub fn members(&self, since: u64) -> impl Iterator<Item = PeerId> {
        let talking = self.of.iter().filter(move |(_, log)| log.last > since);
        talking.map(|(member, _)| *member)
    }

    /// What the changes of `member` since number `since` do to its listing of `directory`.
    pub fn about_listing(&self, member: PeerId, directory: &RelPath, since: u64) -> Effect {
        let log = self.of.get(&member);
        log.map_or(Effect::None, |log| log.about_listing(directory, since))
    }

    /// Returns true if the listing of `directory` ended for all members since number `since`, or if
    /// that is no longer known.
    pub fn ended_listing(&self, directory: &RelPath, since: u64) -> bool {
        since < self.forgotten || self.of_all.about_listing(directory, since) != Effect::None
    }

    /// Returns the members that may have something else at `path` than they said at number `since`,
    /// or `None` if that may be anybody.
    pub fn about_entry(&self, path: &RelPath, since: u64) -> Option<Vec<PeerId>> {
        if since < self.forgotten || self.of_all.concerns_entry(path, since) {
            return None;
        }
        let members = self.members(since);
        let concerned = members.filter(|member| self.of[member].concerns_entry(path, since));
        Some(concerned.collect())
    }

    fn log(&mut self, member: Option<PeerId>) -> &mut MemberChanges {
        let Some(member) = member else {
            return &mut self.of_all;
        };
        if self.of.len() >= MAX_MEMBERS
            && !self.of.contains_key(&member)
            && let Some((oldest, last)) = self
                .of
                .iter()
                .map(|(member, log)| (*member, log.last))
                .min_by_key(|(_, last)| *last)
        {
            let gone = self.of.remove(&oldest);
            self.bytes -= gone.map_or(0, |log| log.bytes);
            self.forgotten = last;
        }
        self.of.entry(member).or_default()
    }

    /// If the logs take too much memory, replaces the largest with a change of everything.
    fn limit(&mut self) {
        if self.bytes > MAX_ALL_BYTES
            && let Some(largest) = self.of.values_mut().max_by_key(|log| log.bytes)
        {
            self.bytes -= largest.bytes;
            largest.say_everything(self.count);
        }
    }
}

impl MemberChanges {
    fn note(&mut self, change: &Change, count: u64) {
        self.last = count;
        if change.path.is_root() && change.depth == Depth::Tree {
            return self.say_everything(count);
        }
        match self.changes.entry(TreeOrder(change.path.clone())) {
            Entry::Occupied(mut known) => {
                let (depth, _) = *known.get();
                known.insert((depth.max(change.depth), count));
            }
            Entry::Vacant(new) => {
                new.insert((change.depth, count));
                self.bytes += change.weight() + OVERHEAD;
            }
        }
        if self.changes.len() > MAX_CHANGES || self.bytes > MAX_BYTES {
            self.say_everything(count);
        }
    }

    fn say_everything(&mut self, count: u64) {
        *self = Self {
            last: count,
            everything: count,
            ..Self::default()
        };
    }

    fn about_listing(&self, directory: &RelPath, since: u64) -> Effect {
        if self.is_uprooted(directory, since) {
            return Effect::Total;
        }
        let own = self.changes.get(&TreeOrder(directory.clone()));
        let is_touched = own.is_some_and(|(_, number)| *number > since);
        let below = self.changes.range((
            Bound::Excluded(TreeOrder(directory.clone())),
            Bound::Unbounded,
        ));
        let below = below.take_while(|(path, _)| path.0.is_within(directory));
        let names = below.filter_map(|(path, (_, number))| {
            let rest = &path.0.as_bytes()[directory.as_bytes().len()..];
            let rest = rest.strip_prefix(b"/").unwrap_or(rest);
            let is_new = *number > since && !rest.contains(&b'/');
            is_new.then(|| Name::new(rest).ok()).flatten()
        });
        let names: Vec<Name> = names.collect();
        if names.is_empty() && !is_touched {
            return Effect::None;
        }
        Effect::Partial(names)
    }

    fn concerns_entry(&self, path: &RelPath, since: u64) -> bool {
        let own = self.changes.get(&TreeOrder(path.clone()));
        own.is_some_and(|(_, number)| *number > since) || self.is_uprooted(path, since)
    }

    /// Returns true if everything at or below `path` may have changed.
    fn is_uprooted(&self, path: &RelPath, since: u64) -> bool {
        if self.everything > since {
            return true;
        }
        if self.last <= since || self.changes.is_empty() {
            return false;
        }
        let bytes = path.as_bytes();
        let slashes = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let ends = slashes.map(|(at, _)| at).chain([bytes.len()]);
        // Each path above this one is a prefix of its bytes, so all of these are valid.
        let mut above = ends.filter_map(|end| RelPath::new(&bytes[..end]).ok());
        above.any(|path| {
            let change = self.changes.get(&TreeOrder(path));
            matches!(change, Some((Depth::Tree, number)) if *number > since)
        })
    }
}

/// Returns those of `changes` that no other one includes. Takes the time of sorting them.
pub fn outermost(changes: &[Change]) -> Vec<&Change> {
    let mut sorted: Vec<&Change> = changes.iter().collect();
    sorted.sort_by(|a, b| compare(&a.path, &b.path));
    let mut outermost: Vec<&Change> = Vec::with_capacity(sorted.len());
    let mut tree: Option<&Change> = None;
    for change in sorted {
        // Everything within a path follows directly after it.
        if tree.is_some_and(|tree| change.path.is_within(&tree.path)) {
            continue;
        }
        if change.depth == Depth::Tree {
            tree = Some(change);
        }
        outermost.push(change);
    }
    outermost
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use tinyp2p_net::testing::peer_id;

    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    fn change(text: &str, depth: Depth) -> Change {
        Change {
            path: path(text),
            depth,
        }
    }

    fn id(n: u8) -> PeerId {
        PeerId::from_bytes([n; 32])
    }

    fn names(texts: &[&str]) -> Effect {
        let name = |text: &&str| Name::new(text.as_bytes()).unwrap();
        Effect::Partial(texts.iter().map(name).collect())
    }

    #[test]
    fn change_concerns_listing_parent_and_below() {
        for (depth, own, below) in [
            (Depth::Entry, Effect::Partial(vec![]), Effect::None),
            (Depth::Tree, Effect::Total, Effect::Total),
        ] {
            let mut log = ChangeLog::default();
            log.note(Some(id(1)), &change("a/b", depth));
            let about = |directory: &str| log.about_listing(id(1), &path(directory), 0);
            assert_eq!(about("a"), names(&["b"]));
            assert_eq!((about("a/b"), about("a/b/c/d")), (own, below));
            for other in ["", "a/b-", "a/bc", "b"] {
                assert_eq!(about(other), Effect::None, "{other} {depth:?}");
            }
            assert_eq!(log.about_listing(id(2), &path("a"), 0), Effect::None);
        }
    }

    #[test]
    fn changes_end_what_was_asked_before() {
        let mut log = ChangeLog::default();
        log.note(Some(id(1)), &change("d/old", Depth::Tree));
        let begun = log.count();
        log.note(Some(id(1)), &change("d/new", Depth::Entry));
        log.note(Some(id(2)), &change("e", Depth::Tree));
        let about = |since| log.about_listing(id(1), &path("d"), since);
        assert_eq!(about(0), names(&["new", "old"]));
        assert_eq!(about(begun), names(&["new"]));
        assert_eq!(about(log.count()), Effect::None);
        let entry = |text: &str| log.about_entry(&path(text), begun).unwrap();
        assert_eq!(entry("d/new"), [id(1)]);
        assert_eq!(entry("e/f"), [id(2)]);
        assert!(entry("d/old").is_empty());
    }

    #[test]
    fn too_many_changes_mean_everything() {
        let mut log = ChangeLog::default();
        let long = ["x".repeat(250).as_str(); 16].join("/");
        for number in 0..2 * MAX_BYTES / long.len() {
            log.note(
                Some(id(1)),
                &change(&format!("{long}/{number}"), Depth::Tree),
            );
        }
        assert!(log.of[&id(1)].bytes <= MAX_BYTES);
        for number in 0..=MAX_CHANGES {
            log.note(Some(id(2)), &change(&number.to_string(), Depth::Entry));
        }
        assert!(log.of[&id(2)].changes.is_empty());
        let about = |n| log.about_listing(id(n), &path("other"), 0);
        assert_eq!(
            [about(1), about(2), about(3)],
            [Effect::Total, Effect::Total, Effect::None]
        );
    }

    #[test]
    fn change_log_is_bounded_for_any_network() {
        let mut log = ChangeLog::default();
        let long = ["x".repeat(250).as_str(); 15].join("/");
        for number in 0..2 * MAX_MEMBERS {
            for part in 0..9 {
                let text = format!("{long}/{part}");
                log.note(Some(peer_id(number)), &change(&text, Depth::Entry));
            }
        }
        assert!(log.of.len() <= MAX_MEMBERS);
        let bytes: usize = log.of.values().map(|log| log.bytes).sum();
        assert!(bytes <= MAX_ALL_BYTES, "{bytes}");
        assert_eq!(bytes, log.bytes);
        assert!(log.ended_listing(&path("d"), 0), "nobody knows any more");
        assert!(!log.ended_listing(&path("d"), log.count()));
    }

    #[test]
    fn changes_within_others_are_taken_in_once() {
        let changes = [
            change("a/b", Depth::Tree),
            change("a/b/c", Depth::Tree),
            change("a/b-", Depth::Entry),
            change("a/b/c/d", Depth::Entry),
            change("a", Depth::Entry),
            change("z", Depth::Entry),
            change("a/b.d/e", Depth::Tree),
        ];
        let left: Vec<String> = outermost(&changes)
            .iter()
            .map(|c| c.path.to_string())
            .collect();
        assert_eq!(left, ["a", "a/b", "a/b-", "a/b.d/e", "z"]);
        let everything = [Change::everything(), change("a", Depth::Tree)];
        assert_eq!(outermost(&everything), [&Change::everything()]);
    }

    /// Each path begins with the bytes of the one before, and none lies within another.
    #[test]
    fn alike_paths_are_sorted_quickly() {
        let stem = ["x".repeat(250).as_str(); 12].join("/");
        let tail = ["y".repeat(250).as_str(); 4].join("z/z");
        let paths = (1..tail.len()).filter(|end| tail.as_bytes()[end - 1] != b'/');
        let path = |end: usize| format!("{stem}/{}", &tail[..end]);
        let changes: Vec<Change> = paths.map(|end| change(&path(end), Depth::Tree)).collect();
        assert!(changes.len() > 1000);
        let begun = Instant::now();
        let mut log = ChangeLog::default();
        for change in outermost(&changes) {
            log.note(Some(id(1)), change);
        }
        let took = begun.elapsed();
        assert!(took < Duration::from_millis(500), "{took:?}");
    }
}
