//! What the table shows to others: the engines, the members, the disk.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use super::{KnownMember, MemberTable, MembershipEvent, Selection, State};
use crate::error::Error;
use crate::membership::MemberHealth;
use crate::membership::address::{Scope, is_of_use_to};
use crate::membership::candidate::Belief;
use crate::model::{Address, PeerId};
use crate::protocol::wire::{Hello, MemberRecord};

/// The maximum number of addresses of one member passed on to others: of TCP ports, and through
/// NATs. With a thousand members, these still fit into one call.
const MAX_GOSSIPED: usize = 4;
const MAX_GOSSIPED_REACH: usize = 1;

/// Drops all but the first of `addresses` of each kind.
fn keep_best(addresses: &mut Vec<Address>) {
    let (mut tcp, mut reach) = (MAX_GOSSIPED, MAX_GOSSIPED_REACH);
    addresses.retain(|address| {
        let room = match address {
            Address::Tcp(_) => &mut tcp,
            Address::Reach(_) => &mut reach,
        };
        room.checked_sub(1).map(|left| *room = left).is_some()
    });
}

impl MemberTable {
    /// Returns the present members: identity, own name, and where they were reached.
    pub(crate) fn present(&self) -> impl Iterator<Item = (PeerId, &str, Option<&Address>)> {
        self.members
            .iter()
            .filter(|(_, entry)| entry.state == State::Present)
            .map(|(id, entry)| (*id, entry.name.as_str(), entry.address.as_ref()))
    }

    /// Returns the members that were present and no longer answer.
    pub(crate) fn absent(&self) -> impl Iterator<Item = (PeerId, &str)> {
        self.members
            .iter()
            .filter(|(_, entry)| entry.state == State::Suspect)
            .map(|(id, entry)| (*id, entry.name.as_str()))
    }

    /// Returns the health of each present or absent member, under its own name for itself.
    pub(crate) fn standings(&self) -> impl Iterator<Item = MemberHealth> {
        let known = self.members.iter();
        let known = known.filter(|(_, entry)| entry.state != State::Unreached);
        known.map(|(id, entry)| MemberHealth {
            id: *id,
            name: entry.name.as_str().into(),
            address: entry.address.clone(),
            is_present: entry.state == State::Present,
            since: entry.since,
            trouble: entry.trouble.clone(),
            route: None,
        })
    }

    /// Returns the id of the node that owns this table.
    pub(crate) fn me(&self) -> PeerId {
        self.me
    }

    /// Returns where the connection to `id` leads.
    pub(crate) fn address(&self, id: PeerId) -> Option<&Address> {
        self.members.get(&id)?.address.as_ref()
    }

    /// Returns a number that changes whenever [`MemberTable::present`] does.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Takes the events since the last call.
    pub(crate) fn take_events(&mut self) -> Vec<MembershipEvent> {
        std::mem::take(&mut self.events)
    }

    /// Returns the outcome of each address that the user named; `None` while its first try is under
    /// way. This node's own addresses are left out.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&Address, Option<&Result<(), Error>>)> {
        self.book
            .iter()
            .filter(|(_, c)| c.named.is_some() && c.belief.owner() != Some(self.me))
            .map(|(address, c)| (address, c.outcome.as_ref()))
    }

    /// Returns the `selected` contacts for `viewer`, with the addresses that are valid within
    /// `scope`: where each was reached or says it is, best first.
    pub(crate) fn records(
        &self,
        selected: Selection<'_>,
        viewer: PeerId,
        scope: Scope,
        now: Instant,
    ) -> Vec<MemberRecord> {
        let mut known = selected.of(&self.members, |(id, entry)| {
            **id != viewer && self.members.is_contact(entry, now)
        });
        known.sort_by_key(|(id, entry)| (Reverse(entry.seen), **id));
        known.truncate(Hello::MAX_MEMBERS);
        let records = known.into_iter().map(|(id, entry)| MemberRecord {
            id: *id,
            name: entry.name.clone(),
            addresses: self.addresses(*id, entry, scope),
        });
        records
            .filter(|record| !record.addresses.is_empty())
            .collect()
    }

    /// Returns the addresses of the member `id` itself that can be passed on within `scope`, best
    /// first.
    fn addresses(&self, id: PeerId, entry: &KnownMember, scope: Scope) -> Vec<Address> {
        let theirs = self.book.owned(id).filter(|(address, candidate)| {
            candidate.belief.is_first_hand() && is_of_use_to(address, scope)
        });
        let mut ranked: Vec<_> = theirs
            .map(|(address, candidate)| {
                let is_current = entry.address.as_ref() == Some(address);
                (!is_current, Reverse(candidate.reached), address)
            })
            .collect();
        ranked.sort();
        let mut addresses = ranked.into_iter().map(|(.., a)| a.clone()).collect();
        keep_best(&mut addresses);
        addresses
    }

    /// Returns true if `id` is a member, or an address is known that may be its.
    #[cfg(test)]
    pub(crate) fn knows_of(&self, id: PeerId) -> bool {
        let owner = |(_, candidate): (_, &crate::membership::candidate::Candidate)| {
            candidate.belief.owner()
        };
        self.members.contains_key(&id) || self.book.iter().any(|entry| owner(entry) == Some(id))
    }

    /// Returns the number of addresses and members.
    #[cfg(test)]
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.book.len(), self.members.len())
    }

    /// Returns where members answered, and how long ago: the addresses worth remembering.
    pub(crate) fn reached(&self, now: Instant) -> Vec<(Address, PeerId, Duration)> {
        self.book
            .iter()
            .filter_map(|(address, c)| match (c.belief, c.reached) {
                (Belief::Reached(id), Some(at)) if id != self.me => {
                    Some((address.clone(), id, now.saturating_duration_since(at)))
                }
                _ => None,
            })
            .collect()
    }
}
