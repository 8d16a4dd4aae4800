//! The addresses of a book, with what is asked of them so often that nobody may walk them for it:
//! which is due next, whose each is, and how many a teller has brought.
//!
//! A network of a thousand members gives each of them as many addresses, and something happens in
//! it several times a second. Every change of an address goes through [`AddressIndex::change`],
//! which keeps the orders true.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeSet, HashMap};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Instant;

use super::super::candidate::{AddressOrigin, Belief, CLASSES, Candidate};
use crate::model::{Address, PeerId};

/// The maximum number of identities whose refusal is kept. A refusal costs one of the day's
/// guesses, so only someone who knows the password can ever reach this limit.
const MAX_REFUSED: usize = 256;

/// Which addresses of a member need no dial.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Cover {
    /// All: it is connected, or is this node.
    Everywhere,
    /// Those through NATs: it is connected by one of them, and TCP would be better.
    ThroughNats,
    /// This one, at which it is being probed.
    At(Address),
}

/// An address among those that wait in one class. Those due at the same time are in an order that
/// differs from node to node, so that not everybody dials the same member first.
type Place = (Instant, u64, Arc<Address>);

#[derive(Debug)]
struct IndexedAddress {
    address: Arc<Address>,
    candidate: Candidate,
    /// The class in which it waits, and when it is due there; `None` when it does not.
    turn: Option<(usize, Instant)>,
}

/// What of a candidate the orders other than that of dials depend on.
#[derive(PartialEq, Eq)]
struct AddressMarks {
    owner: Option<PeerId>,
    /// Whose part of the book it takes, unless it has led to a member.
    charged: Option<AddressOrigin>,
    is_under_way: bool,
}

impl AddressMarks {
    fn of(candidate: &Candidate) -> Self {
        let is_proven = matches!(candidate.belief, Belief::Reached(_));
        let teller = candidate.origins().first().copied();
        Self {
            owner: candidate.belief.owner(),
            charged: teller.filter(|_| !is_proven),
            is_under_way: candidate.dialling.is_some(),
        }
    }
}

/// Addresses, their orders, and what else decides whether and when one may be dialled.
#[derive(Debug, Default)]
pub(super) struct AddressIndex {
    slots: HashMap<Arc<Address>, IndexedAddress>,
    owned: HashMap<PeerId, Vec<Arc<Address>>>,
    charged: HashMap<AddressOrigin, usize>,
    waiting: [BTreeSet<Place>; CLASSES],
    under_way: Vec<Arc<Address>>,
    covers: HashMap<PeerId, Cover>,
    /// Identities that showed their key but did not know the password, and until when they are not
    /// tried at addresses that hearsay gives them. The bar applies to the identity and not to its
    /// addresses: it must not bar other claims for one of those.
    refused: HashMap<PeerId, Instant>,
    order: RandomState,
}

impl AddressIndex {
    /// Returns the number of addresses.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn get(&self, address: &Address) -> Option<&Candidate> {
        self.slots.get(address).map(|slot| &slot.candidate)
    }

    /// Returns all addresses, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Address, &Candidate)> {
        self.slots
            .values()
            .map(|slot| (&*slot.address, &slot.candidate))
    }

    /// Returns the addresses at which `id` is supposed to be.
    pub(super) fn owned(&self, id: PeerId) -> impl Iterator<Item = (&Address, &Candidate)> {
        let addresses = self.owned.get(&id).into_iter().flatten();
        addresses.filter_map(|address| Some((&**address, self.get(address)?)))
    }

    /// Returns how many addresses that have led to nobody `origin` was the first to mention.
    pub(super) fn charged(&self, origin: AddressOrigin) -> usize {
        self.charged.get(&origin).copied().unwrap_or(0)
    }

    /// Returns the addresses that wait in `class`, the one due first in front.
    pub(super) fn waiting(
        &self,
        class: usize,
    ) -> impl Iterator<Item = (Instant, &Address, &Candidate)> {
        let waiting = self.waiting.get(class).into_iter().flatten();
        waiting.filter_map(|(due, _, address)| Some((*due, &**address, self.get(address)?)))
    }

    /// Returns the addresses that are being dialled.
    pub(super) fn under_way(&self) -> impl Iterator<Item = &Candidate> {
        let addresses = self.under_way.iter();
        addresses.filter_map(|address| self.get(address))
    }

    /// Adds `address`, in place of what was known of it.
    pub(super) fn insert(&mut self, address: Address, candidate: Candidate) {
        self.remove(&address);
        let address = Arc::new(address);
        self.mark(&address, &AddressMarks::of(&candidate));
        let slot = IndexedAddress {
            address: address.clone(),
            candidate,
            turn: None,
        };
        self.slots.insert(address.clone(), slot);
        self.requeue(&address);
    }

    /// Removes `address`. Returns true if it was there.
    pub(super) fn remove(&mut self, address: &Address) -> bool {
        let Some(slot) = self.slots.remove(address) else {
            return false;
        };
        self.unmark(&slot.address, &AddressMarks::of(&slot.candidate));
        if let Some(turn) = slot.turn {
            self.leave(turn, &slot.address);
        }
        true
    }

    /// Changes what is known of `address`, if it is there.
    pub(super) fn change<T>(
        &mut self,
        address: &Address,
        with: impl FnOnce(&mut Candidate) -> T,
    ) -> Option<T> {
        let slot = self.slots.get_mut(address)?;
        let before = AddressMarks::of(&slot.candidate);
        let result = with(&mut slot.candidate);
        let after = AddressMarks::of(&slot.candidate);
        let address = slot.address.clone();
        if before != after {
            self.unmark(&address, &before);
            self.mark(&address, &after);
        }
        self.requeue(&address);
        Some(result)
    }

    /// Changes what is known of each address of `id`.
    pub(super) fn change_owned(
        &mut self,
        id: PeerId,
        mut with: impl FnMut(&Address, &mut Candidate),
    ) {
        for address in self.owned.get(&id).cloned().unwrap_or_default() {
            self.change(&address, |candidate| with(&address, candidate));
        }
    }

    /// Sets which addresses of `id` need no dial from now on; `None` for none.
    pub(super) fn cover(&mut self, id: PeerId, cover: Option<Cover>) {
        match cover {
            Some(cover) => self.covers.insert(id, cover),
            None => self.covers.remove(&id),
        };
        self.requeue_owned(id);
    }

    /// Returns true when dialling `address` would add nothing.
    pub(super) fn is_covered(&self, address: &Address, candidate: &Candidate) -> bool {
        let owner = candidate.belief.owner();
        match owner.and_then(|owner| self.covers.get(&owner)) {
            Some(Cover::Everywhere) => true,
            Some(Cover::ThroughNats) => address.as_reach().is_some(),
            Some(Cover::At(covered)) => covered == address,
            None => false,
        }
    }

    /// Notes that `id` showed its key and did not know the password.
    pub(super) fn refuse(&mut self, id: PeerId, until: Instant, now: Instant) {
        // What those bars delayed is due by now, whether they are there or not.
        self.refused.retain(|_, until| now < *until);
        if self.refused.len() < MAX_REFUSED {
            self.refused.insert(id, until);
            self.requeue_owned(id);
        }
    }

    /// Forgets that `id` did not know the password.
    pub(super) fn unbar(&mut self, id: PeerId) {
        if self.refused.remove(&id).is_some() {
            self.requeue_owned(id);
        }
    }

    /// Returns until when the identity that `candidate` demands is not tried.
    pub(super) fn bar(&self, candidate: &Candidate) -> Option<Instant> {
        match candidate.belief {
            Belief::Said(id) if candidate.named.is_none() => self.refused.get(&id).copied(),
            _ => None,
        }
    }

    /// Returns when `candidate` may be dialled; `None` while a try is under way.
    pub(super) fn due(&self, candidate: &Candidate) -> Option<Instant> {
        let due = candidate.due()?;
        Some(self.bar(candidate).map_or(due, |until| until.max(due)))
    }

    fn requeue_owned(&mut self, id: PeerId) {
        for address in self.owned.get(&id).cloned().unwrap_or_default() {
            self.requeue(&address);
        }
    }

    /// Puts `address` where it belongs among those that wait.
    fn requeue(&mut self, address: &Arc<Address>) {
        let Some(slot) = self.slots.get(address) else {
            return;
        };
        let candidate = &slot.candidate;
        let is_open = !self.is_covered(address, candidate);
        let due = self.due(candidate).filter(|_| is_open);
        let turn = due.map(|due| (candidate.class(address), due));
        let Some(slot) = self.slots.get_mut(address).filter(|s| s.turn != turn) else {
            return;
        };
        if let Some(old) = std::mem::replace(&mut slot.turn, turn) {
            self.leave(old, address);
        }
        if let Some((class, due)) = turn {
            let place = (due, self.order.hash_one(address), address.clone());
            self.waiting[class].insert(place);
        }
    }

    fn leave(&mut self, (class, due): (usize, Instant), address: &Arc<Address>) {
        let place = (due, self.order.hash_one(address), address.clone());
        self.waiting[class].remove(&place);
    }

    fn mark(&mut self, address: &Arc<Address>, marks: &AddressMarks) {
        if let Some(owner) = marks.owner {
            self.owned.entry(owner).or_default().push(address.clone());
        }
        if let Some(origin) = marks.charged {
            *self.charged.entry(origin).or_default() += 1;
        }
        if marks.is_under_way {
            self.under_way.push(address.clone());
        }
    }

    fn unmark(&mut self, address: &Arc<Address>, marks: &AddressMarks) {
        if let Some(owner) = marks.owner
            && let Some(owned) = self.owned.get_mut(&owner)
        {
            owned.retain(|other| other != address);
            if owned.is_empty() {
                self.owned.remove(&owner);
            }
        }
        if let Some(origin) = marks.charged
            && let Some(count) = self.charged.get_mut(&origin)
        {
            *count -= 1;
            if *count == 0 {
                self.charged.remove(&origin);
            }
        }
        if marks.is_under_way {
            self.under_way.retain(|other| other != address);
        }
    }

    /// Panics unless every order agrees with a walk over all addresses.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let mut charged: HashMap<AddressOrigin, usize> = HashMap::new();
        let (mut owned, mut waiting, mut under_way) = (0, 0, 0);
        for (address, slot) in &self.slots {
            let marks = AddressMarks::of(&slot.candidate);
            if let Some(owner) = marks.owner {
                assert!(self.owned[&owner].contains(address), "{address}");
                owned += 1;
            }
            if let Some(origin) = marks.charged {
                *charged.entry(origin).or_default() += 1;
            }
            under_way += usize::from(marks.is_under_way);
            let is_open = !self.is_covered(address, &slot.candidate);
            let due = self.due(&slot.candidate).filter(|_| is_open);
            let turn = due.map(|due| (slot.candidate.class(address), due));
            assert_eq!(slot.turn, turn, "{address}");
            if let Some((class, due)) = turn {
                let place = (due, self.order.hash_one(address), address.clone());
                assert!(self.waiting[class].contains(&place), "{address}");
                waiting += 1;
            }
        }
        assert_eq!(self.charged, charged);
        assert_eq!(self.owned.values().map(Vec::len).sum::<usize>(), owned);
        assert_eq!(self.under_way.len(), under_way);
        let places = self.waiting.iter().map(BTreeSet::len);
        assert_eq!(places.sum::<usize>(), waiting);
    }
}
