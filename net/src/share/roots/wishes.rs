//! Decides which file is read next for its content root.
//!
//! Pure. What members have opened, listed or looked up comes before the rest of the share, because
//! other members who have the same content wait for its root. Members share the time by bytes,
//! whatever each of them wishes for, and the room by wishes: when there is no room for another
//! member's wish, the longest list loses its newest. Among one member's own wishes, files that it
//! opened come first.
//!
//! A file that was read and got no root is left alone for a while, so that a request for it costs
//! no more than a check.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use crate::concurrency::two_generation_cache::TwoGenerationCache;
use crate::fairness::{Claimant, HolderKey};
use crate::model::{PeerId, RelPath};
use crate::share::tree::mountinfo::Device;

/// Limit on waiting files. Any beyond it are found again when they are listed again, or
/// by the walk.
const MAX_WAITING: usize = 65_536;

/// Limit on one member's open files that may wait ahead of its others.
const MAX_OPENED: usize = 256;

/// Limit on members whose wishes are kept separate: as many as a node knows.
const MAX_ASKERS: usize = 1024;

/// The cost of a file besides its bytes: opening it and storing its root take as long as reading
/// this many bytes.
const FILE_COST: u64 = 64 << 10;

/// The delay before a file that is being written is checked again.
const DELAY: Duration = Duration::from_secs(2);

/// Limit on files that wait for that.
const MAX_DELAYED: usize = 4096;

/// A file that got no root is not read again for this long, nor for [`TIMES_AS_LONG`] times the
/// duration of reading it.
const PAUSE: Duration = Duration::from_secs(10);

/// The part of the time that goes into files that get no root: one in this many.
const TIMES_AS_LONG: u32 = 4;

/// Limit on remembered files that got no root: half a megabyte.
const MAX_FRUITLESS: usize = 16_384;

/// The party on whose behalf a file is examined.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Asker {
    /// A member that waits for it. This node's own user counts as one.
    Member(PeerId),
    /// Nobody in particular.
    Nobody,
}

impl Asker {
    /// Returns the asker for `holder`, as far as it is known.
    pub(crate) fn of(holder: Claimant) -> Self {
        match holder.key {
            HolderKey::Member(key) => Self::Member(key),
            HolderKey::Unknown | HolderKey::Address(_) => Self::Nobody,
        }
    }
}

/// How a member came across a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Interest {
    /// The member reads it, or compares it with another.
    Opened,
    /// A listing or lookup showed it to the member.
    Listed,
}

/// One file to be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Wish {
    pub(crate) asker: Asker,
    pub(crate) path: RelPath,
}

/// One file, whatever its name and content: device and inode.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct FileId {
    device: Device,
    inode: u64,
}

impl FileId {
    /// Returns the file with this number in this file system.
    pub(crate) fn new(device: Device, inode: u64) -> Self {
        Self { device, inode }
    }
}

/// The wishes of all members.
pub(crate) struct Wishes {
    askers: HashMap<PeerId, List>,
    rest: List,
    /// The total over all lists.
    waiting: usize,
    /// The highest `served` that a member had when it was served. Newcomers and returning
    /// members start there.
    clock: u64,
    /// In the order in which they are due.
    delayed: VecDeque<(Instant, Wish)>,
    fruitless: TwoGenerationCache<FileId, Instant>,
}

/// The wishes of one member.
#[derive(Default)]
struct List {
    opened: VecDeque<RelPath>,
    /// May contain some of the opened files, too: a file that already has its root costs
    /// only a check.
    listed: VecDeque<RelPath>,
    /// The paths in `listed`.
    known: HashSet<RelPath>,
    /// Bytes that were read for this member.
    served: u64,
}

impl Default for Wishes {
    fn default() -> Self {
        Self {
            askers: HashMap::new(),
            rest: List::default(),
            waiting: 0,
            clock: 0,
            delayed: VecDeque::new(),
            fruitless: TwoGenerationCache::new(MAX_FRUITLESS),
        }
    }
}

impl Wishes {
    /// Adds a wish, if there is room for it; returns false if there is none.
    pub(crate) fn add(&mut self, wish: Wish, interest: Interest) -> bool {
        if !self.make_room(wish.asker) {
            return false;
        }
        let list = match wish.asker {
            Asker::Nobody => &mut self.rest,
            Asker::Member(member) => {
                let list = self.askers.entry(member).or_default();
                if list.len() == 0 {
                    // Time without wishes earns no credit.
                    list.served = list.served.max(self.clock);
                }
                list
            }
        };
        self.waiting += usize::from(list.add(wish.path, interest));
        true
    }

    /// Returns true if `asker` may have another wish. If necessary, the longest list loses its
    /// newest wish to make room.
    fn make_room(&mut self, asker: Asker) -> bool {
        if let Asker::Member(member) = asker
            && !self.askers.contains_key(&member)
            && self.askers.len() >= MAX_ASKERS
        {
            self.askers.retain(|_, list| list.len() > 0);
            if self.askers.len() >= MAX_ASKERS {
                return false;
            }
        }
        if self.waiting < MAX_WAITING {
            return true;
        }
        let own = match asker {
            Asker::Nobody => return false,
            Asker::Member(member) => self.askers.get(&member).map_or(0, List::len),
        };
        // No other list can be longer, so there is no need to search.
        if own > MAX_WAITING / 2 {
            return false;
        }
        let lists = self.askers.values_mut().chain([&mut self.rest]);
        let longest = lists.max_by_key(|list| list.len());
        let Some(longest) = longest.filter(|longest| longest.len() > own + 1) else {
            return false;
        };
        self.waiting -= usize::from(longest.drop_newest());
        true
    }

    /// Returns the next file to be read, if there is any wish.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Wish> {
        while self.delayed.front().is_some_and(|(due, _)| *due <= now) {
            let (_, wish) = self.delayed.pop_front()?;
            self.add(wish, Interest::Listed);
        }
        let waiting = self.askers.iter_mut().filter(|(_, list)| list.len() > 0);
        // The least served comes first; among equals, always the same one.
        let next = waiting.min_by_key(|(member, list)| (list.served, **member));
        let (asker, list) = match next {
            Some((member, list)) => {
                self.clock = self.clock.max(list.served);
                (Asker::Member(*member), list)
            }
            None => (Asker::Nobody, &mut self.rest),
        };
        let path = list.pop()?;
        self.waiting -= 1;
        if self.waiting == 0 && self.delayed.is_empty() {
            // Nobody waits, so nobody was served at another's expense.
            self.askers
                .retain(|member, _| asker == Asker::Member(*member));
        }
        Some(Wish { asker, path })
    }

    /// Returns when a file that was too new has to be checked again.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.delayed.front().map(|(due, _)| *due)
    }

    /// Records that this many bytes were read for `asker`.
    pub(crate) fn served(&mut self, asker: Asker, bytes: u64) {
        if let Asker::Member(member) = asker
            && let Some(list) = self.askers.get_mut(&member)
        {
            list.served = list.served.saturating_add(bytes).saturating_add(FILE_COST);
        }
    }

    /// Records that the file is still being written.
    pub(crate) fn delay(&mut self, wish: Wish, now: Instant) {
        let is_known = self.delayed.iter().any(|(_, known)| *known == wish);
        if self.delayed.len() < MAX_DELAYED && !is_known {
            self.delayed.push_back((now + DELAY, wish));
        }
    }

    /// Records that the file was read, or examined, for as long as it `took`, and has no root.
    pub(crate) fn came_to_nothing(&mut self, file: FileId, took: Duration, now: Instant) {
        let pause = PAUSE.max(took.saturating_mul(TIMES_AS_LONG));
        self.fruitless.insert(file, now + pause);
    }

    #[cfg(test)]
    pub(crate) fn is_opened(&self) -> bool {
        self.askers.values().any(|list| !list.opened.is_empty())
    }

    /// Returns true if reading the file has failed to yield a root lately.
    pub(crate) fn is_fruitless(&self, file: FileId, now: Instant) -> bool {
        self.fruitless.get(&file).is_some_and(|until| now < until)
    }
}

impl List {
    fn len(&self) -> usize {
        self.opened.len() + self.listed.len()
    }

    /// Adds a path. Returns false if it was there already.
    fn add(&mut self, path: RelPath, interest: Interest) -> bool {
        if interest == Interest::Opened && self.opened.contains(&path) {
            return false;
        }
        if interest == Interest::Opened && self.opened.len() < MAX_OPENED {
            self.opened.push_back(path);
            return true;
        }
        let is_new = self.known.insert(path.clone());
        if is_new {
            self.listed.push_back(path);
        }
        is_new
    }

    fn pop(&mut self) -> Option<RelPath> {
        self.opened.pop_front().or_else(|| {
            let path = self.listed.pop_front()?;
            self.known.remove(&path);
            Some(path)
        })
    }

    /// Drops the latest wish, if need be an open file. Returns false if there is none.
    fn drop_newest(&mut self) -> bool {
        match self.listed.pop_back() {
            Some(path) => self.known.remove(&path),
            None => self.opened.pop_back().is_some(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn member(number: u8) -> Asker {
        Asker::Member(PeerId::from_bytes([number; 32]))
    }

    fn wish(asker: Asker, path: &str) -> Wish {
        let path = RelPath::new(path.as_bytes()).unwrap();
        Wish { asker, path }
    }

    /// Returns the paths in the order in which they are read, each with this many bytes.
    fn served(wishes: &mut Wishes, bytes: u64) -> Vec<String> {
        let now = Instant::now();
        let mut paths = Vec::new();
        while let Some(Wish { asker, path }) = wishes.next(now) {
            wishes.served(asker, bytes);
            paths.push(path.to_string());
        }
        paths
    }

    #[test]
    fn members_wishes_come_before_the_rest() {
        let mut wishes = Wishes::default();
        for (asker, path) in [(Asker::Nobody, "rest"), (member(1), "a"), (member(1), "b")] {
            assert!(wishes.add(wish(asker, path), Interest::Listed));
        }
        assert!(wishes.add(wish(member(1), "b"), Interest::Opened));
        assert!(wishes.add(wish(member(1), "c"), Interest::Opened));
        assert_eq!(served(&mut wishes, 1), ["b", "c", "a", "b", "rest"]);
        assert_eq!((wishes.waiting, wishes.next(Instant::now())), (0, None));
    }

    #[test]
    fn nobody_starves_anothers_wishes() {
        let mut wishes = Wishes::default();
        for number in 0..1000 {
            let path = format!("flood {number}");
            wishes.add(wish(member(1), &path), Interest::Opened);
        }
        let now = Instant::now();
        for _ in 0..3 {
            let Wish { asker, .. } = wishes.next(now).unwrap();
            wishes.served(asker, 1 << 30);
        }
        for path in ["a", "b", "c"] {
            wishes.add(wish(member(2), path), Interest::Listed);
        }
        // A latecomer starts where the others are, and small files cost little.
        let mut order = Vec::new();
        for _ in 0..5 {
            let Wish { asker, path } = wishes.next(now).unwrap();
            wishes.served(asker, if asker == member(1) { 1 << 30 } else { 1 });
            order.push(path.to_string());
        }
        assert!(
            order[..4].contains(&"a".into()) && order.contains(&"c".into()),
            "{order:?}"
        );
    }

    /// A member that always has a single wish does not count as a newcomer each time.
    #[test]
    fn a_list_that_runs_empty_keeps_its_place() {
        let mut wishes = Wishes::default();
        let now = Instant::now();
        for path in ["a", "b", "c"] {
            wishes.add(wish(member(9), path), Interest::Listed);
        }
        let mut others = 0;
        for number in 0..4 {
            wishes.add(wish(member(1), &format!("big {number}")), Interest::Opened);
            let Wish { asker, .. } = wishes.next(now).unwrap();
            others += u32::from(asker == member(9));
            wishes.served(asker, if asker == member(9) { 1 } else { 1 << 30 });
        }
        assert_eq!(others, 3);
    }

    /// A member that requested little while another was served has nothing to catch up on.
    #[test]
    fn emptied_list_saves_up_no_credit() {
        let mut wishes = Wishes::default();
        let now = Instant::now();
        wishes.add(wish(member(1), "small"), Interest::Listed);
        for number in 0..100 {
            wishes.add(wish(member(9), &format!("{number}")), Interest::Listed);
        }
        for _ in 0..50 {
            let Wish { asker, .. } = wishes.next(now).unwrap();
            wishes.served(asker, 1 << 30);
        }
        for number in 0..10 {
            wishes.add(wish(member(1), &format!("big {number}")), Interest::Listed);
        }
        let mut own = 0;
        for _ in 0..10 {
            let Wish { asker, .. } = wishes.next(now).unwrap();
            own += u32::from(asker == member(1));
            wishes.served(asker, 1 << 30);
        }
        assert!((4..=6).contains(&own), "{own} of 10");
    }

    #[test]
    fn the_longest_list_makes_room_for_others() {
        let mut wishes = Wishes::default();
        for number in 0..MAX_WAITING + 5 {
            let is_taken = wishes.add(wish(member(1), &number.to_string()), Interest::Listed);
            assert_eq!(is_taken, number < MAX_WAITING);
        }
        assert_eq!(wishes.waiting, MAX_WAITING);
        assert!(wishes.add(wish(member(2), "mine"), Interest::Listed));
        assert!(!wishes.add(wish(Asker::Nobody, "rest"), Interest::Listed));
        assert_eq!(wishes.waiting, MAX_WAITING);
        let lists = wishes.askers.values().map(List::len);
        assert_eq!(lists.sum::<usize>(), MAX_WAITING);
    }

    #[test]
    fn open_files_and_members_are_bounded() {
        let mut wishes = Wishes::default();
        for number in 0..MAX_OPENED + 5 {
            wishes.add(wish(member(1), &number.to_string()), Interest::Opened);
        }
        let list = wishes.askers.values().next().unwrap();
        assert_eq!((list.opened.len(), list.listed.len()), (MAX_OPENED, 5));
        for number in 0..2 * MAX_ASKERS {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_le_bytes());
            let asker = Asker::Member(PeerId::from_bytes(id));
            wishes.add(wish(asker, "x"), Interest::Listed);
        }
        assert_eq!(wishes.askers.len(), MAX_ASKERS);
    }

    #[test]
    fn a_file_that_is_too_new_comes_back_once() {
        let (mut wishes, now) = (Wishes::default(), Instant::now());
        for _ in 0..3 {
            wishes.delay(wish(member(1), "new"), now);
        }
        assert_eq!(wishes.next(now), None);
        assert_eq!(wishes.next_due(), Some(now + DELAY));
        assert_eq!(wishes.next(now + DELAY), Some(wish(member(1), "new")));
        assert_eq!(wishes.next(now + DELAY), None);
        for number in 0..MAX_DELAYED + 5 {
            wishes.delay(wish(Asker::Nobody, &number.to_string()), now);
        }
        assert_eq!(wishes.delayed.len(), MAX_DELAYED);
    }

    #[test]
    fn rootless_file_rests_for_a_while() {
        let (mut wishes, now) = (Wishes::default(), Instant::now());
        let file = |inode| FileId::new((0, 1), inode);
        let (cheap, dear) = (file(1), file(2));
        wishes.came_to_nothing(cheap, Duration::ZERO, now);
        wishes.came_to_nothing(dear, Duration::from_secs(60), now);
        assert!(wishes.is_fruitless(cheap, now + PAUSE / 2));
        assert!(!wishes.is_fruitless(cheap, now + PAUSE));
        assert!(wishes.is_fruitless(dear, now + Duration::from_secs(239)));
        assert!(!wishes.is_fruitless(file(3), now));
    }
}
