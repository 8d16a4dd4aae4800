//! The members that a table knows, with what is asked of them so often that nobody may walk them
//! for it: whose hello is due next, who has come lately, how many are from one network.
//!
//! Every change of a member goes through [`KnownMembers::change`], which keeps the orders true.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::time::{Duration, Instant};

use super::bounds::AddressBlock;
use crate::error::Error;
use crate::membership::book::Cover;
use crate::membership::candidate::CLASSES;
use crate::model::{Address, PeerId};
use crate::protocol::wire::ContactDigest;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Unreached,
    Present,
    Suspect,
}

#[derive(Debug)]
pub(super) struct KnownMember {
    pub(super) name: String,
    pub(super) state: State,
    /// Where it was last reached, or where it last called from.
    pub(super) network: AddressBlock,
    /// Where the connection leads; `None` when there is none to probe.
    pub(super) address: Option<Address>,
    /// The last sign of life.
    pub(super) seen: Instant,
    /// When it last started or stopped answering.
    pub(super) since: Instant,
    /// The last error and its time.
    pub(super) trouble: Option<(Error, Instant)>,
    /// When it gets its next hello, unless something makes that urgent.
    pub(super) refresh_due: Instant,
    /// When it gets a hello that has a reason.
    pub(super) urgent_due: Option<Instant>,
    pub(super) last_hello: Option<Instant>,
    /// The last hello before the one under way: what is older was told.
    pub(super) told: Option<Instant>,
    /// The digest of its contacts in its last hello.
    pub(super) contacts: Option<ContactDigest>,
    /// The next hello asks it for members that this node does not know.
    pub(super) is_asked: bool,
    /// A hello is under way, in this class.
    pub(super) busy: Option<usize>,
    /// It was reported at another address, or this node has a new one: the next hello decides.
    pub(super) doubted: bool,
    /// The number of failed hellos in a row.
    pub(super) failures: u32,
    /// `Away` was reported.
    pub(super) away: bool,
    /// Counts the changes of `address`, so that the outcome on an old connection is not attributed
    /// to a new one.
    pub(super) turn: u64,
}

impl KnownMember {
    /// Creates a member that has just called.
    pub(super) fn new(name: &str, network: AddressBlock, now: Instant) -> Self {
        Self {
            name: name.to_owned(),
            state: State::Unreached,
            network,
            address: None,
            seen: now,
            since: now,
            trouble: None,
            refresh_due: now,
            urgent_due: None,
            last_hello: None,
            told: None,
            contacts: None,
            is_asked: false,
            busy: None,
            doubted: false,
            failures: 0,
            away: false,
            turn: 0,
        }
    }

    /// Returns true if evicting it loses nothing: it was never reached, or no longer answers, and
    /// can be learned again.
    pub(super) fn may_go(&self) -> bool {
        let is_away = self.state == State::Suspect && self.away;
        self.busy.is_none() && (self.state == State::Unreached || is_away)
    }

    pub(super) fn ask_by(&mut self, at: Instant, gap: Duration) {
        let earliest = self.last_hello.map_or(at, |last| at.max(last + gap));
        self.hurry(earliest);
    }

    /// Schedules a hello `at` this time, or earlier.
    pub(super) fn hurry(&mut self, at: Instant) {
        self.urgent_due = Some(self.urgent_due.map_or(at, |due| due.min(at)));
    }

    fn hello_due(&self) -> Instant {
        self.urgent_due
            .map_or(self.refresh_due, |due| due.min(self.refresh_due))
    }

    fn is_through_nats(&self) -> bool {
        let address = self.address.as_ref();
        address.is_some_and(|address| address.as_reach().is_some())
    }

    /// Returns true if a connection to `address` would be better than the one that there is: TCP is
    /// several times as fast as anything that gets through NATs.
    pub(super) fn is_improved_by(&self, address: &Address) -> bool {
        self.is_through_nats() && address.as_tcp().is_some()
    }

    /// Returns which of its addresses need no dial.
    pub(super) fn cover(&self) -> Option<Cover> {
        match self.state {
            State::Present if self.is_through_nats() => Some(Cover::ThroughNats),
            State::Present => Some(Cover::Everywhere),
            State::Unreached | State::Suspect => self.address.clone().map(Cover::At),
        }
    }
}

/// What of a member the orders depend on.
#[derive(Clone, Copy)]
struct MemberMarks {
    /// The class and time of its next hello; `None` while one is under way or without a connection.
    hello: Option<(usize, Instant)>,
    since: Instant,
    network: AddressBlock,
    state: State,
    seen: Instant,
    turn: u64,
}

impl MemberMarks {
    fn of(entry: &KnownMember) -> Self {
        let is_idle = entry.busy.is_none() && entry.address.is_some();
        Self {
            hello: is_idle.then(|| (entry.class(), entry.hello_due())),
            since: entry.since,
            network: entry.network,
            state: entry.state,
            seen: entry.seen,
            turn: entry.turn,
        }
    }
}

/// Members by their ids, and their orders.
#[derive(Debug, Default)]
pub(super) struct KnownMembers {
    entries: HashMap<PeerId, KnownMember>,
    /// Those that wait for their next hello, by class.
    hellos: [BTreeSet<(Instant, PeerId)>; CLASSES],
    by_since: BTreeSet<(Instant, PeerId)>,
    networks: HashMap<AddressBlock, usize>,
    /// Grows whenever somebody may have become a contact or ceased to be one, other than by time.
    revision: u64,
}

impl KnownMembers {
    /// Returns the number of members.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get(&self, id: &PeerId) -> Option<&KnownMember> {
        self.entries.get(id)
    }

    pub(super) fn contains_key(&self, id: &PeerId) -> bool {
        self.entries.contains_key(id)
    }

    /// Returns all members, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&PeerId, &KnownMember)> {
        self.entries.iter()
    }

    /// Returns those that started or stopped answering at `at` or later, the last in front.
    pub(super) fn since(&self, at: Instant) -> impl Iterator<Item = (&PeerId, &KnownMember)> {
        let least = PeerId::from_bytes([0; 32]);
        let from = (Bound::Included((at, least)), Bound::Unbounded);
        let lately = self.by_since.range(from);
        let ids = lately.rev().map(|(_, id)| id);
        ids.filter_map(|id| self.entries.get_key_value(id))
    }

    /// Returns the hello of `class` that is due first.
    pub(super) fn first_hello(&self, class: usize) -> Option<(Instant, PeerId)> {
        self.hellos.get(class)?.first().copied()
    }

    /// Returns the number of members from `network`.
    pub(super) fn count_from(&self, network: AddressBlock) -> usize {
        self.networks.get(&network).copied().unwrap_or(0)
    }

    /// Returns a number that grows whenever somebody may have become a contact or ceased to be one,
    /// other than by time.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Adds `id`, which is not among them.
    pub(super) fn insert(&mut self, id: PeerId, entry: KnownMember) {
        self.mark(id, MemberMarks::of(&entry));
        self.revision += 1;
        self.entries.insert(id, entry);
    }

    pub(super) fn remove(&mut self, id: &PeerId) -> Option<KnownMember> {
        let entry = self.entries.remove(id)?;
        self.unmark(*id, MemberMarks::of(&entry));
        self.revision += 1;
        Some(entry)
    }

    /// Changes what is known of `id`, if it is there. Also returns whether [`KnownMember::cover`]
    /// may be another now: the book has to be told.
    pub(super) fn change<T>(
        &mut self,
        id: PeerId,
        with: impl FnOnce(&mut KnownMember) -> T,
    ) -> Option<(T, bool)> {
        let lapse = self.lapse();
        let entry = self.entries.get_mut(&id)?;
        let before = MemberMarks::of(entry);
        let result = with(entry);
        let after = MemberMarks::of(entry);
        self.remark(id, before, after);
        let unheard = after.seen.saturating_duration_since(before.seen);
        let is_back = after.state == State::Unreached && unheard >= lapse;
        if before.state != after.state || is_back {
            self.revision += 1;
        }
        let is_covered_otherwise = (before.state, before.turn) != (after.state, after.turn);
        Some((result, is_covered_otherwise))
    }

    fn mark(&mut self, id: PeerId, marks: MemberMarks) {
        if let Some((class, due)) = marks.hello {
            self.hellos[class].insert((due, id));
        }
        self.by_since.insert((marks.since, id));
        *self.networks.entry(marks.network).or_default() += 1;
    }

    fn unmark(&mut self, id: PeerId, marks: MemberMarks) {
        if let Some((class, due)) = marks.hello {
            self.hellos[class].remove(&(due, id));
        }
        self.by_since.remove(&(marks.since, id));
        if let Some(count) = self.networks.get_mut(&marks.network) {
            *count -= 1;
            if *count == 0 {
                self.networks.remove(&marks.network);
            }
        }
    }

    /// Unmarks and marks, without the work for what stays the same: mostly, only the next hello
    /// does not.
    fn remark(&mut self, id: PeerId, before: MemberMarks, after: MemberMarks) {
        if (before.since, before.network) != (after.since, after.network) {
            self.unmark(id, before);
            self.mark(id, after);
            return;
        }
        if before.hello == after.hello {
            return;
        }
        if let Some((class, due)) = before.hello {
            self.hellos[class].remove(&(due, id));
        }
        if let Some((class, due)) = after.hello {
            self.hellos[class].insert((due, id));
        }
    }

    /// Panics unless every order agrees with a walk over all members.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let mut of_all = Self::default();
        for (id, entry) in &self.entries {
            of_all.mark(*id, MemberMarks::of(entry));
        }
        assert_eq!(self.hellos, of_all.hellos);
        assert_eq!(self.by_since, of_all.by_since);
        assert_eq!(self.networks, of_all.networks);
    }
}
