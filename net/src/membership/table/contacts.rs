//! Whom this node is in contact with, as it tells others: the ids in their order, and their digest.
//!
//! Both sides of every hello need the digest, and a thousand ids take a while to sort and to hash.
//! So it is made once for each change.

use std::time::{Duration, Instant};

use super::MemberTable;
use super::known::{KnownMember, KnownMembers, State};
use crate::model::PeerId;
use crate::protocol::wire::ContactDigest;

/// Hellos between two members are at least this far apart, unless there is something to tell, plus
/// [`REFRESH_PER_MEMBER`] for each member beyond the first few, so that a large network costs each
/// of its members no more than a small one.
const REFRESH: Duration = Duration::from_secs(15);
const REFRESH_PER_MEMBER: Duration = Duration::from_millis(750);

/// The maximum of that. Twice this is less than [`crate::config::CLIENT_IDLE`], so that the
/// connection stays open and the first `ls` after a pause finds it so.
const MAX_REFRESH: Duration = Duration::from_secs(120);

/// The number of members that have no influence on the time between hellos, and that are all told
/// news at once.
pub(super) const FEW: usize = 10;

/// All that a node is in contact with, and itself if others can reach it.
#[derive(Debug)]
pub(super) struct Contacts {
    /// The ids, ascending.
    pub(super) ids: Vec<PeerId>,
    pub(super) digest: ContactDigest,
    /// The [`KnownMembers::revision`] that they were made from.
    revision: u64,
    /// When the first of those that were not reached ceases to be one, unless it calls.
    until: Option<Instant>,
}

impl KnownMembers {
    /// Returns the time between hellos to one member.
    pub(super) fn refresh(&self) -> Duration {
        let more = u32::try_from(self.len().saturating_sub(FEW)).unwrap_or(u32::MAX);
        let longer = REFRESH_PER_MEMBER.saturating_mul(more);
        REFRESH.saturating_add(longer).min(MAX_REFRESH)
    }

    /// Returns how long after its last call a member that was not reached is a contact. A call may
    /// be missed now and then.
    pub(super) fn lapse(&self) -> Duration {
        self.refresh().saturating_mul(4)
    }

    /// Returns true if this node passes `entry` on to others: it is in contact, or was a moment
    /// ago.
    pub(super) fn is_contact(&self, entry: &KnownMember, now: Instant) -> bool {
        match entry.state {
            State::Present => true,
            State::Suspect => false,
            State::Unreached => now.saturating_duration_since(entry.seen) < self.lapse(),
        }
    }

    fn contacts(&self, itself: Option<PeerId>, now: Instant) -> Contacts {
        let (mut ids, mut until) = (Vec::with_capacity(self.len() + 1), None::<Instant>);
        for (id, entry) in self.iter().filter(|(_, entry)| self.is_contact(entry, now)) {
            ids.push(*id);
            if entry.state == State::Unreached {
                let lapses = entry.seen + self.lapse();
                until = Some(until.map_or(lapses, |until| until.min(lapses)));
            }
        }
        ids.extend(itself);
        ids.sort_unstable();
        Contacts {
            digest: ContactDigest::of(&ids),
            ids,
            revision: self.revision(),
            until,
        }
    }
}

impl MemberTable {
    /// Returns whom this node is in contact with.
    pub(super) fn contacts(&mut self, now: Instant) -> &Contacts {
        let revision = self.members.revision();
        let holds = |held: &Contacts| {
            held.revision == revision && held.until.is_none_or(|until| now < until)
        };
        let held = self.contacts.take().filter(holds);
        let itself = self.is_dialable.then_some(self.me);
        let made = held.unwrap_or_else(|| self.members.contacts(itself, now));
        self.contacts.insert(made)
    }

    /// Returns the digest of this node's contacts.
    pub(crate) fn digest(&mut self, now: Instant) -> ContactDigest {
        self.contacts(now).digest
    }

    /// Returns true if every member that this node is in contact with has the same contacts: nobody
    /// knows of anybody else.
    pub(crate) fn is_agreed(&mut self, now: Instant) -> bool {
        let own = self.digest(now);
        let is_present = |(_, entry): &(_, &KnownMember)| entry.state == State::Present;
        let mut present = self.members.iter().filter(is_present).peekable();
        let has_members = present.peek().is_some();
        has_members && present.all(|(_, entry)| entry.contacts == Some(own))
    }

    /// Panics unless what is found without a walk is what a walk would find.
    #[cfg(test)]
    pub(crate) fn check(&mut self, now: Instant) {
        self.members.check();
        self.book.check();
        let itself = self.is_dialable.then_some(self.me);
        let (held, made) = (self.digest(now), self.members.contacts(itself, now));
        assert_eq!(held, made.digest);
        for (id, entry) in self.members.iter() {
            for (address, candidate) in self.book.owned(*id) {
                let is_covered = match entry.state {
                    State::Present => !entry.is_improved_by(address),
                    _ => entry.address.as_ref() == Some(address),
                };
                assert_eq!(self.book.is_covered(address, candidate), is_covered);
            }
        }
    }
}
